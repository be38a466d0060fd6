//! `deliver_notifications`: sends notifications to the web backend as webhooks, signed as the
//! Standard Webhooks specification demands
//! (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>),
//! and messages to the operator, which are not signed: their addresses are secret.
//!
//! Notifications are stored in the transaction of a decision and sent only by this job, so a
//! receiver that is slow, down or hostile delays nothing else. Each receiver is served by itself. A
//! request has ten seconds, redirects are not followed, bodies of responses are not read, a few
//! requests are in flight at once, and when a whole group fails, the rest waits for the next run. A
//! notification that was sent but not recorded (a crash in between) is sent again with the same id,
//! which the receiver recognises. One that is not delivered within a day is dead until a person
//! retries it.

use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use standardwebhooks::{HEADER_WEBHOOK_ID, HEADER_WEBHOOK_SIGNATURE, HEADER_WEBHOOK_TIMESTAMP};
use tokio::time::Instant;

use crate::context::{Context, OperatorSettings, WebhookTarget};
use crate::http_error;
use crate::job::{Failure, Job};
use crate::operator_message::test_body;
use books::limits::notification::{DeliveryOutcome, MessageReceiver, Notification};

/// How long a request may take in all.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a request may take until it is connected.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Notifications that one run sends to a receiver at most.
const MOST: u32 = 200;
/// Requests to the web backend at once.
const IN_FLIGHT: usize = 8;
/// Requests to the operator at once: an end comes after its beginning, and Slack takes about one a
/// second.
const TO_OPERATOR: usize = 1;
/// Wait after the first failure, in seconds; doubled each time.
const FIRST_WAIT: i64 = 30;
/// Longest wait.
const LONGEST_WAIT: i64 = 7200;

/// Send what is due.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeliverNotifications {}

/// How many notifications were due, by outcome; those to the operator apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize)]
pub struct DeliverReport {
    pub delivered: u64,
    pub retried: u64,
    pub dead: u64,
    /// Known after a day, because no webhook is configured any more.
    #[serde(skip_serializing_if = "is_none")]
    pub set_aside: u64,
    #[serde(skip_serializing_if = "is_none")]
    pub operator_delivered: u64,
    #[serde(skip_serializing_if = "is_none")]
    pub operator_retried: u64,
    #[serde(skip_serializing_if = "is_none")]
    pub operator_dead: u64,
}

impl DeliverReport {
    /// Counts what became of one.
    fn add(&mut self, receiver: MessageReceiver, outcome: &DeliveryOutcome) {
        let is_backend = receiver == MessageReceiver::Backend;
        let count = match outcome {
            DeliveryOutcome::Delivered if is_backend => &mut self.delivered,
            DeliveryOutcome::Again(..) if is_backend => &mut self.retried,
            DeliveryOutcome::Dead(_) if is_backend => &mut self.dead,
            DeliveryOutcome::Delivered => &mut self.operator_delivered,
            DeliveryOutcome::Again(..) => &mut self.operator_retried,
            DeliveryOutcome::Dead(_) => &mut self.operator_dead,
        };
        *count += 1;
    }
}

fn is_none(count: &u64) -> bool {
    *count == 0
}

impl Job for DeliverNotifications {
    const KIND: &'static str = "deliver_notifications";
    const DESCRIPTION: &'static str = "send notifications to the web backend, and messages to the operator";
    const DUE: Option<&'static str> = Some(
        "SELECT at FROM (SELECT at FROM (SELECT next_at AS at FROM notifications WHERE state = 'pending' ORDER BY next_at LIMIT 1) \
         UNION ALL SELECT at FROM (SELECT next_at AS at FROM operator_messages WHERE state = 'pending' ORDER BY next_at LIMIT 1)) \
         ORDER BY at LIMIT 1",
    );
    type Report = DeliverReport;

    fn key(&self) -> Option<String> {
        Some(Self::KIND.to_owned())
    }

    fn needs_attention(report: &DeliverReport) -> bool {
        report.dead + report.operator_dead > 0
    }

    async fn run(self, context: &Context, now: Timestamp) -> Result<DeliverReport, Failure> {
        context.books.require_migrated().await?;
        let mut report = DeliverReport::default();
        for receiver in MessageReceiver::ALL {
            let target = match receiver {
                MessageReceiver::Backend => context.webhook.as_ref(),
                MessageReceiver::Slack | MessageReceiver::Webhook => context.operator.receivers.get(&receiver),
            };
            match target {
                Some(target) => deliver(context, (receiver, target), &mut report, now).await?,
                None => report.set_aside += context.books.set_notifications_aside(receiver, now).await?,
            }
        }
        context.books.forget_notifications(now).await?;
        Ok(report)
    }
}

/// Sends what is due to one receiver.
async fn deliver(
    context: &Context,
    (receiver, target): (MessageReceiver, &WebhookTarget),
    report: &mut DeliverReport,
    now: Timestamp,
) -> Result<(), Failure> {
    let (started, mut first, mut retried) = (Instant::now(), None, 0_u64);
    let due = context.books.due_notifications(receiver, now, MOST).await?;
    let at_once = if receiver == MessageReceiver::Backend { IN_FLIGHT } else { TO_OPERATOR };
    for group in due.chunks(at_once) {
        // the receiver compares the time of signing with its clock
        let now = now + started.elapsed();
        let sent = join_all(group.iter().map(|notification| send(target, notification, now))).await;
        let fine = sent.contains(&DeliveryOutcome::Delivered);
        for (notification, sent) in group.iter().zip(sent) {
            let id = &notification.id;
            report.add(receiver, &sent);
            match &sent {
                DeliveryOutcome::Delivered => {}
                DeliveryOutcome::Again(_, why) => {
                    retried += 1;
                    first.get_or_insert_with(|| why.clone());
                    tracing::debug!(id, "notification {id} was not taken: {why}");
                }
                DeliveryOutcome::Dead(why) => tracing::warn!(id, "notification {id} is dead: {why}"),
            }
            context.books.settle_notification(notification, sent, now).await?;
        }
        if !fine {
            break;
        }
    }
    let Some(why) = first else { return Ok(()) };
    let (whom, check) = match receiver {
        MessageReceiver::Backend => {
            ("notifications did not get to the backend and are sent again", "notifications.url")
        }
        MessageReceiver::Slack => ("messages did not get to Slack and are sent again", "METER_OPERATOR__SLACK_URL"),
        MessageReceiver::Webhook => {
            ("messages did not get to the operator's webhook and are sent again", "METER_OPERATOR__WEBHOOK_URL")
        }
    };
    tracing::warn!(retried, "{retried} {whom}: {why}; check {check}");
    Ok(())
}

/// Sends a test message to each of the operator's receivers, without the books. Returns what each
/// answered: an error says why it was not taken.
pub async fn send_tests(settings: &OperatorSettings, now: Timestamp) -> Vec<(MessageReceiver, Result<(), String>)> {
    let mut answers = vec![];
    for (receiver, target) in &settings.receivers {
        let (id, body) = (format!("test_{}", now.as_millisecond()), test_body(*receiver, settings, now));
        let answer = match post(target, &id, body, now).await {
            Ok(()) => Ok(()),
            Err(Refusal { why, .. }) => Err(why),
        };
        answers.push((*receiver, answer));
    }
    answers
}

/// Sends one notification.
async fn send(target: &WebhookTarget, notification: &Notification, now: Timestamp) -> DeliveryOutcome {
    match post(target, &notification.id, notification.body.clone(), now).await {
        Ok(()) => DeliveryOutcome::Delivered,
        Err(Refusal { is_final: true, why, .. }) => DeliveryOutcome::Dead(why),
        Err(Refusal { asked, why, .. }) => again(notification, now, asked, why),
    }
}

/// Why a request was not taken.
struct Refusal {
    why: String,
    /// After how many seconds the receiver wants to be asked again.
    asked: Option<i64>,
    /// No further attempt is of any use.
    is_final: bool,
}

/// Makes one request. Nothing that it returns has more of the address than its host.
async fn post(target: &WebhookTarget, id: &str, body: String, now: Timestamp) -> Result<(), Refusal> {
    let refusal = |why: String| Refusal { why, asked: None, is_final: false };
    let mut request = target
        .client
        .post(target.url.clone())
        .header(CONTENT_TYPE, "application/json")
        .header(HEADER_WEBHOOK_ID, id)
        .header(HEADER_WEBHOOK_TIMESTAMP, now.as_second().to_string());
    if let Some(signer) = &target.signer {
        let Ok(signature) = signer.sign(id, now.as_second(), body.as_bytes()) else {
            return Err(Refusal { is_final: true, ..refusal("it could not be signed".into()) });
        };
        request = request.header(HEADER_WEBHOOK_SIGNATURE, signature);
    }
    match request.body(body).send().await {
        Ok(answer) if answer.status().is_success() => Ok(()),
        Ok(answer) if answer.status() == StatusCode::GONE => {
            Err(Refusal { is_final: true, ..refusal("the receiver answered 410 Gone".into()) })
        }
        Ok(answer) => {
            let asked = answer.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()?.trim().parse().ok());
            Err(Refusal { asked, ..refusal(format!("the receiver answered {}", answer.status().as_u16())) })
        }
        Err(error) => Err(refusal(http_error::describe(&error, &target.url))),
    }
}

/// The outcome of a failed attempt: another one later, if there is time left. Pure.
fn again(notification: &Notification, now: Timestamp, asked: Option<i64>, why: String) -> DeliveryOutcome {
    let now = now.as_second();
    if now >= notification.give_up_at {
        return DeliveryOutcome::Dead(why);
    }
    let doublings = u32::try_from(notification.attempts).unwrap_or(u32::MAX).min(20);
    let wait =
        FIRST_WAIT.saturating_mul(1 << doublings).min(LONGEST_WAIT).max(asked.unwrap_or(0).clamp(0, LONGEST_WAIT));
    DeliveryOutcome::Again((now + wait).min(notification.give_up_at), why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_wait_longer_and_longer_until_a_day_is_over() {
        let mut notification = Notification {
            id: "ntc_1".into(),
            receiver: MessageReceiver::Backend,
            customer: "c".into(),
            meter: "m".into(),
            kind: "blocked".into(),
            percent: 0,
            state: "pending".into(),
            attempts: 0,
            created_at: Timestamp::UNIX_EPOCH,
            next_at: Some(Timestamp::UNIX_EPOCH),
            delivered_at: None,
            error: None,
            body: "{}".into(),
            give_up_at: 86_400,
        };
        let (mut now, mut waits) = (0, vec![]);
        while let DeliveryOutcome::Again(at, _) =
            again(&notification, Timestamp::from_second(now).unwrap(), None, "500".into())
        {
            waits.push(at - now);
            now = at;
            notification.attempts += 1;
        }
        assert_eq!(now, 86_400, "the last attempt is made as the day ends");
        assert_eq!(&waits[..4], [30, 60, 120, 240]);
        assert!(waits.iter().all(|w| *w <= LONGEST_WAIT) && waits.len() > 15, "{waits:?}");
        let asked = again(
            &Notification { attempts: 0, ..notification.clone() },
            Timestamp::UNIX_EPOCH,
            Some(100),
            String::new(),
        );
        assert_eq!(asked, DeliveryOutcome::Again(100, String::new()), "Retry-After is heeded");
        let absurd =
            again(&Notification { attempts: 0, ..notification }, Timestamp::UNIX_EPOCH, Some(i64::MAX), String::new());
        assert_eq!(absurd, DeliveryOutcome::Again(LONGEST_WAIT, String::new()), "within reason");
    }
}
