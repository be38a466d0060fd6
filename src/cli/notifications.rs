//! `meter notifications`: notifications to the web backend, and messages to the operator.

use books::limits::notification::MessageReceiver;
use clap::{Subcommand, ValueEnum};
use jiff::Timestamp;
use jobs::deliver_notifications::send_tests;
use schemars::JsonSchema;
use serde::Serialize;

use super::known_customer;
use crate::config::Config;
use crate::exit::{BadUsage, Exit};
use crate::print::{self, OutputFormat};
use crate::wiring::{self, Open};

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// List notifications, the newest first; the exit code is 3 while any is dead
    List {
        /// Only those in this state
        #[arg(long, value_enum)]
        state: Option<State>,
        /// Only those about this customer
        #[arg(long, value_name = "ID")]
        customer: Option<String>,
        /// The most notifications listed
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: u32,
        /// Print as JSON, with the body that is sent
        #[arg(long)]
        json: bool,
    },
    /// Send notifications that are dead, delivered or known: a running worker tries for another
    /// day, from the next minute on
    Retry {
        /// Their ids
        #[arg(required_unless_present = "dead")]
        ids: Vec<String>,
        /// All dead ones
        #[arg(long, conflicts_with = "ids")]
        dead: bool,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Send a test message to the operator's receivers now (METER_OPERATOR__SLACK_URL,
    /// METER_OPERATOR__WEBHOOK_URL), without the books
    Test {
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
}

/// Which notifications are sent again.
#[derive(JsonSchema, Serialize)]
pub(super) struct NotificationsAgain {
    again: Vec<String>,
    /// These are being sent anyway.
    pending: Vec<String>,
}

/// What a receiver of messages to the operator answered to a test.
#[derive(JsonSchema, Serialize)]
pub(super) struct TestedReceiver {
    receiver: MessageReceiver,
    took_it: bool,
    /// Its answer, when it did not.
    why: Option<String>,
}

/// States of a notification.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum State {
    Pending,
    Delivered,
    Dead,
    Known,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
            Self::Known => "known",
        }
    }
}

/// The ids of messages to the operator.
const TO_OPERATOR: &str = "msg_";
const NO_URL: &str = "notifications.url is not set: what happens is recorded as known, and not sent";

pub(crate) async fn run(action: Action, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    match action {
        Action::List { state, customer, limit, json } => {
            let books = wiring::open_books(config, Open::EXISTING).await?;
            let state = state.map(|s| s.name().to_owned());
            let notifications = books.notifications(state, customer.clone(), limit).await?;
            if let Some(customer) = customer.filter(|_| notifications.is_empty()) {
                known_customer::require_or_usage(&books, &customer).await?;
            }
            // whatever is shown
            let dead = books.notifications(Some("dead".to_owned()), None, 1).await?;
            let done = if dead.is_empty() { Exit::Ok } else { Exit::NeedsAttention };
            if json {
                print::json(&notifications)?;
            } else {
                print::notifications::table(&notifications, now);
                if config.notifications.url.is_none() {
                    print::out(NO_URL);
                }
            }
            Ok(done)
        }
        Action::Retry { ids, dead: _, json } => {
            let books = wiring::open_books(config, Open::EXISTING).await?;
            let mut again = books.retry_notifications(ids.clone(), now).await?;
            while ids.is_empty() {
                let more = books.retry_notifications(vec![], now).await?;
                if more.is_empty() {
                    break;
                }
                again.extend(more);
            }
            for id in again.iter().filter(|_| !json) {
                print::out(&format!("{id} will be sent again"));
            }
            let left: Vec<String> = ids.iter().filter(|id| !again.contains(id)).cloned().collect();
            let known = if left.is_empty() { vec![] } else { books.known_notifications(left.clone()).await? };
            for id in &known {
                print::err(format_args!("{id} cannot be sent again: it is pending"));
            }
            let unknown: Vec<String> = left.iter().filter(|id| !known.contains(id)).cloned().collect();
            if !unknown.is_empty() {
                let (one, names) = (unknown.len() == 1, unknown.join(", "));
                let of = if one { "there is no notification" } else { "there are no notifications" };
                return Err(BadUsage(format!("{of} {names}; `meter notifications list` shows them")).into());
            }
            if json {
                let done = if left.is_empty() { Exit::Ok } else { Exit::Failed };
                print::json(&NotificationsAgain { again, pending: known })?;
                return Ok(done);
            }
            if again.is_empty() && left.is_empty() {
                print::out("no notification is dead");
            }
            let to_backend = again.iter().any(|id| !id.starts_with(TO_OPERATOR));
            if to_backend && config.notifications.url.is_none() {
                print::out(NO_URL);
            }
            Ok(if left.is_empty() { Exit::Ok } else { Exit::Failed })
        }
        Action::Test { json } => test(config, OutputFormat::of(json), now).await,
    }
}

/// Sends a test message to each of the operator's receivers, and says what they answer.
async fn test(config: &Config, format: OutputFormat, now: Timestamp) -> anyhow::Result<Exit> {
    let answers = send_tests(&wiring::operator(config)?, now).await;
    if answers.is_empty() {
        let why = "nobody receives messages to the operator: set METER_OPERATOR__SLACK_URL or \
                   METER_OPERATOR__WEBHOOK_URL (docs/operator-messages.md)";
        return Err(BadUsage(why.into()).into());
    }
    let done = if answers.iter().all(|(_, answer)| answer.is_ok()) { Exit::Ok } else { Exit::Failed };
    if format == OutputFormat::Json {
        let tested = |(receiver, answer): (MessageReceiver, Result<(), String>)| TestedReceiver {
            receiver,
            took_it: answer.is_ok(),
            why: answer.err(),
        };
        print::json(&answers.into_iter().map(tested).collect::<Vec<_>>())?;
        return Ok(done);
    }
    for (receiver, answer) in answers {
        let (name, variable) = match receiver {
            MessageReceiver::Slack => ("Slack", "METER_OPERATOR__SLACK_URL"),
            MessageReceiver::Webhook | MessageReceiver::Backend => ("the webhook", "METER_OPERATOR__WEBHOOK_URL"),
        };
        match answer {
            Ok(()) => print::out(&format!("{name} took a test message")),
            Err(why) => {
                print::err(format_args!("{name} did not take a test message: {why}; check {variable}"));
            }
        }
    }
    Ok(done)
}
