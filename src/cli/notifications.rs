//! `meter notifications`: notifications to the web backend.

use clap::{Subcommand, ValueEnum};
use jiff::Timestamp;

use super::known_customer;
use crate::config::Config;
use crate::exit::Exit;
use crate::print;
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
    /// Send dead or delivered notifications again: a running worker tries for another day, from the
    /// next minute on
    Retry {
        /// Their ids
        #[arg(required_unless_present = "dead")]
        ids: Vec<String>,
        /// All dead ones
        #[arg(long, conflicts_with = "ids")]
        dead: bool,
    },
}

/// States of a notification.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum State {
    Pending,
    Delivered,
    Dead,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
        }
    }
}

pub(crate) async fn run(action: Action, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    let books = wiring::open_books(config, Open::EXISTING).await?;
    match action {
        Action::List { state, customer, limit, json } => {
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
                    print::out("notifications go nowhere: notifications.url is not set");
                }
            }
            Ok(done)
        }
        Action::Retry { ids, dead: _ } => {
            let mut again = books.retry_notifications(ids.clone(), now).await?;
            while ids.is_empty() {
                let more = books.retry_notifications(vec![], now).await?;
                if more.is_empty() {
                    break;
                }
                again.extend(more);
            }
            for id in &again {
                print::out(&format!("{id} will be sent again"));
            }
            let left: Vec<&String> = ids.iter().filter(|id| !again.contains(id)).collect();
            for id in &left {
                eprintln!("meter: {id} cannot be sent again: there is no such notification, or it is pending");
            }
            if again.is_empty() && left.is_empty() {
                print::out("no notification is dead");
            }
            Ok(if left.is_empty() { Exit::Ok } else { Exit::Failed })
        }
    }
}
