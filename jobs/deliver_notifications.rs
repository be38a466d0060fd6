//! `deliver_notifications`: sends notifications to the web backend as webhooks, signed as the
//! Standard Webhooks specification demands
//! (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>).
//!
//! Notifications are stored in the transaction of a decision and sent only by this job, so a
//! receiver that is slow, down or hostile delays nothing else. A request has ten seconds, redirects
//! are not followed, bodies of responses are not read, a few requests are in flight at once, and
//! when a whole group fails, the rest waits for the next run. A notification that was sent but not
//! recorded (a crash in between) is sent again with the same id, which the receiver recognises. One
//! that is not delivered within a day is dead until a person retries it.

use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use serde::{Deserialize, Serialize};
use standardwebhooks::{HEADER_WEBHOOK_ID, HEADER_WEBHOOK_SIGNATURE, HEADER_WEBHOOK_TIMESTAMP};
use tokio::time::Instant;

use crate::context::{Context, WebhookTarget};
use crate::http_error;
use crate::job::{Failure, Job};
use books::limits::notification::{DeliveryOutcome, Notification};

/// How long a request may take in all.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a request may take until it is connected.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Notifications that one run sends at most.
const MOST: u32 = 200;
/// Requests at once.
const IN_FLIGHT: usize = 8;
/// Wait after the first failure, in seconds; doubled each time.
const FIRST_WAIT: i64 = 30;
/// Longest wait.
const LONGEST_WAIT: i64 = 7200;

/// Send what is due.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeliverNotifications {}

/// How many notifications were due, by outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DeliverReport {
    pub delivered: u64,
    pub retried: u64,
    pub dead: u64,
    /// Known after a day, because no webhook is configured any more.
    #[serde(skip_serializing_if = "is_none")]
    pub set_aside: u64,
}

fn is_none(count: &u64) -> bool {
    *count == 0
}

impl Job for DeliverNotifications {
    const KIND: &'static str = "deliver_notifications";
    const DESCRIPTION: &'static str = "send notifications to the web backend";
    const DUE: Option<&'static str> = Some("SELECT min(next_at) AS at FROM notifications WHERE state = 'pending'");
    type Report = DeliverReport;

    fn key(&self) -> Option<String> {
        Some(Self::KIND.to_owned())
    }

    fn needs_attention(report: &DeliverReport) -> bool {
        report.dead > 0
    }

    async fn run(self, context: &Context, now: Timestamp) -> Result<DeliverReport, Failure> {
        context.books.require_migrated().await?;
        let (mut report, mut first) = (DeliverReport::default(), None);
        if let Some(receiver) = &context.webhook {
            let started = Instant::now();
            let due = context.books.due_notifications(now, MOST).await?;
            for group in due.chunks(IN_FLIGHT) {
                // the receiver compares the time of signing with its clock
                let now = now + started.elapsed();
                let sent = join_all(group.iter().map(|notification| send(receiver, notification, now))).await;
                let fine = sent.contains(&DeliveryOutcome::Delivered);
                for (notification, sent) in group.iter().zip(sent) {
                    match &sent {
                        DeliveryOutcome::Delivered => report.delivered += 1,
                        DeliveryOutcome::Again(_, why) => {
                            report.retried += 1;
                            first.get_or_insert_with(|| why.clone());
                            tracing::debug!(
                                id = notification.id,
                                "notification {} was not taken: {why}",
                                notification.id
                            );
                        }
                        DeliveryOutcome::Dead(why) => {
                            report.dead += 1;
                            tracing::warn!(id = notification.id, "notification {} is dead: {why}", notification.id);
                        }
                    }
                    context.books.settle_notification(&notification.id, notification.attempts, sent, now).await?;
                }
                if !fine {
                    break;
                }
            }
        } else {
            report.set_aside += context.books.set_notifications_aside(now).await?;
        }
        context.books.forget_notifications(now).await?;
        if let Some(why) = first {
            let retried = report.retried;
            tracing::warn!(
                retried,
                "{retried} notifications did not get to the backend and are sent again: {why}; check notifications.url"
            );
        }
        Ok(report)
    }
}

/// Sends one notification.
async fn send(receiver: &WebhookTarget, notification: &Notification, now: Timestamp) -> DeliveryOutcome {
    let Ok(signature) = receiver.signer.sign(&notification.id, now.as_second(), notification.body.as_bytes()) else {
        return DeliveryOutcome::Dead("it could not be signed".into());
    };
    let request = receiver
        .client
        .post(receiver.url.clone())
        .header(CONTENT_TYPE, "application/json")
        .header(HEADER_WEBHOOK_ID, &notification.id)
        .header(HEADER_WEBHOOK_TIMESTAMP, now.as_second().to_string())
        .header(HEADER_WEBHOOK_SIGNATURE, signature)
        .body(notification.body.clone());
    match request.send().await {
        Ok(answer) if answer.status().is_success() => DeliveryOutcome::Delivered,
        Ok(answer) if answer.status() == StatusCode::GONE => {
            DeliveryOutcome::Dead("the receiver answered 410 Gone".into())
        }
        Ok(answer) => {
            let asked = answer.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()?.trim().parse().ok());
            again(notification, now, asked, format!("the receiver answered {}", answer.status().as_u16()))
        }
        Err(error) => again(notification, now, None, http_error::describe(&error, &receiver.url)),
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
