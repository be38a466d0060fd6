//! `meter events`: usage sent to Stripe, and the state of each event.

use books::store::audit_log::{AuditEntry, AuditRecord};
use books::stripe::meter_event::{EventInvoice, EventState, ManualAction, MeterEvent};
use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::{actor, known_customer};
use crate::config::Config;
use crate::exit::{BadUsage, Exit};
use crate::format::ago;
use crate::print;
use crate::wiring::{self, Open};

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// List events, the newest first; the exit code is 3 while any is refused
    List {
        /// Only those in this state
        #[arg(long, value_enum)]
        state: Option<Which>,
        /// Only those of this customer
        #[arg(long, value_name = "ID")]
        customer: Option<String>,
        /// The most events listed
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: u32,
        /// Print as JSON
        #[arg(long, conflicts_with = "csv")]
        json: bool,
        /// Print as CSV
        #[arg(long)]
        csv: bool,
    },
    /// Show one event in full: its invoice, its attempts, and the actions of people on it
    Show {
        /// Its number (1234) or whole identifier (meter-1a2b3c4d-1234)
        id: String,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Plan refused events again, after the reason of their refusal is repaired
    Retry(Manually),
    /// Never send these events; their amounts are not billed
    Discard(Manually),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Manually {
    /// Their numbers or identifiers
    #[arg(required = true)]
    ids: Vec<String>,
    /// The reason; kept in audit_log
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// An event with its invoice, and what people did with it.
#[derive(JsonSchema, Serialize)]
pub(super) struct EventWithActions {
    event: MeterEvent,
    /// Where its amount is billed; none when nobody is charged it.
    invoice: Option<EventInvoice>,
    audit: Vec<AuditRecord>,
}

/// What became of an event that a person named.
#[derive(JsonSchema, Serialize)]
pub(super) struct DecidedEvent {
    event: i64,
    customer: String,
    meter: String,
    /// In Stripe's units.
    value: i64,
    /// Whether it was done; an event in another state stays as it is.
    done: bool,
    /// Its state before.
    state: EventState,
}

/// States of an event.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Which {
    Pending,
    Sending,
    Accepted,
    Unconfirmed,
    Refused,
    NotReceived,
    Discarded,
}

impl Which {
    fn state(self) -> EventState {
        match self {
            Self::Pending => EventState::Pending,
            Self::Sending => EventState::Sending,
            Self::Accepted => EventState::Accepted,
            Self::Unconfirmed => EventState::Unconfirmed,
            Self::Refused => EventState::Refused,
            Self::NotReceived => EventState::NotReceived,
            Self::Discarded => EventState::Discarded,
        }
    }
}

pub(crate) async fn run(action: Action, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    let books = wiring::open_books(config, Open::EXISTING).await?;
    match action {
        Action::List { state, customer, limit, json, csv } => {
            let events = books.meter_events(state.map(Which::state), customer.clone(), limit).await?;
            if let Some(customer) = customer.filter(|_| events.is_empty()) {
                known_customer::require_or_usage(&books, &customer).await?;
            }
            let refused = books.meter_events(Some(EventState::Refused), None, 1).await?;
            if json {
                print::json(&events)?;
            } else if csv {
                as_csv(&events)?;
            } else if events.is_empty() {
                print::out("there is no such event");
            } else {
                table(&events, now);
            }
            Ok(if refused.is_empty() { Exit::Ok } else { Exit::NeedsAttention })
        }
        Action::Show { id, json } => {
            let Some(event) = books.meter_event(&id).await? else {
                return Err(BadUsage(format!("there is no event `{id}`; `meter events list` shows them")).into());
            };
            let acts = books.audit(subject(&event)).await?;
            let invoice = books.event_invoice(event.seq).await?;
            if json {
                print::json(&EventWithActions { event, invoice, audit: acts })?;
                return Ok(Exit::Ok);
            }
            for (name, value) in fields(&event, invoice.as_ref()) {
                print::out(&format!("{name:<16} {value}"));
            }
            for act in acts {
                print::out(&format!("{} {} did `{}`: {}", act.at, act.actor, act.action, act.reason));
            }
            Ok(Exit::Ok)
        }
        Action::Retry(which) => act(&books, which, ManualAction::Retry, "events retry", now).await,
        Action::Discard(which) => act(&books, which, ManualAction::Discard, "events discard", now).await,
    }
}

fn subject(event: &MeterEvent) -> String {
    format!("event {}", event.seq)
}

async fn act(
    books: &books::Database,
    which: Manually,
    what: ManualAction,
    name: &str,
    now: Timestamp,
) -> anyhow::Result<Exit> {
    let reason = actor::reason(&which.reason)?;
    let (mut done, mut events, mut decided) = (Exit::Ok, vec![], vec![]);
    for id in &which.ids {
        let Some(event) = books.meter_event(id).await? else {
            let why = format!("there is no event `{id}`, and nothing was changed; `meter events list` shows them");
            return Err(BadUsage(why).into());
        };
        events.push((id, event));
    }
    for (id, event) in events {
        let act = AuditEntry {
            actor: actor::current(),
            action: name.to_owned(),
            target: subject(&event),
            reason: reason.clone(),
        };
        let was = books.decide_event(id, what, act, now).await?;
        let MeterEvent { seq, state, customer, meter, value, .. } = event;
        decided.push(DecidedEvent { event: seq, customer, meter, value, done: was.is_some(), state });
        match (was, what) {
            (Some(_), _) if which.json => {}
            (Some(was), ManualAction::Retry) => {
                print::out(&format!("{}: its {} will be planned anew by the next push", was.seq, was.value))
            }
            (Some(was), ManualAction::Discard) => {
                print::out(&format!("{}: its {} will never be sent", was.seq, was.value))
            }
            (None, _) => {
                let can = if what == ManualAction::Retry { "refused" } else { "pending, unconfirmed or refused" };
                print::err(format_args!("event {} is {}; this can be done with one that is {can}", seq, state.name()));
                done = Exit::Failed;
            }
        }
    }
    if which.json {
        print::json(&decided)?;
    }
    Ok(done)
}

/// The note of an event that the lost books had sent before a restoration.
const IMPORTED: &str = "imported from Stripe's total after a restoration";

fn table(events: &[MeterEvent], now: Timestamp) {
    let row = |event: &MeterEvent| {
        let carried = if event.billed_start == event.period_start {
            String::new()
        } else {
            format!("on {:.0}", event.billed_start)
        };
        let next = match event.next_at {
            Some(at) if at > now => format!(", again in {}", print::span(at.duration_since(now))),
            Some(_) => ", due".to_owned(),
            None if event.state == EventState::Unconfirmed => ", Stripe's totals decide".to_owned(),
            None => String::new(),
        };
        vec![
            event.seq.to_string(),
            ago(event.created_at, now),
            event.customer.clone(),
            event.meter.clone(),
            event.period_start.to_string(),
            carried,
            event.value.to_string(),
            format!("{}{next}", event.state.name()),
            event.attempts.to_string(),
            if event.imported { IMPORTED.to_owned() } else { event.error.clone().unwrap_or_default() },
        ]
    };
    let titles = [
        "event",
        "1made",
        "customer",
        "meter",
        "4period from",
        "2invoice from",
        ">value",
        "~state",
        "3>tries",
        "~error",
    ];
    print::table(&titles, events.iter().map(row).collect());
}

fn as_csv(events: &[MeterEvent]) -> anyhow::Result<()> {
    const TITLES: [&str; 16] = [
        "event",
        "identifier",
        "customer",
        "stripe_customer",
        "meter",
        "event_name",
        "period_start",
        "billed_start",
        "billed_end",
        "value",
        "timestamp",
        "state",
        "attempts",
        "created_at",
        "settled_at",
        "error",
    ];
    let row = |of: &MeterEvent| {
        vec![
            of.seq.to_string(),
            of.identifier.clone(),
            of.customer.clone(),
            of.stripe_customer.clone(),
            of.meter.clone(),
            of.event_name.clone(),
            of.period_start.to_string(),
            of.billed_start.to_string(),
            of.billed_end.to_string(),
            of.value.to_string(),
            of.timestamp.to_string(),
            of.state.name().to_owned(),
            of.attempts.to_string(),
            of.created_at.to_string(),
            of.settled_at.map_or(String::new(), |at| at.to_string()),
            of.error.clone().unwrap_or_default(),
        ]
    };
    print::csv(&TITLES, events.iter().map(row))
}

/// The invoice that an event is on, and what follows for its amount.
fn placed(state: EventState, invoice: Option<&EventInvoice>) -> String {
    let on = invoice.map(|on| format!("{}, {} to before {}", on.subscription, on.starts_at, on.ends_at));
    match (state, on) {
        (EventState::NotReceived, _) => "none: Stripe does not have it, and its amount is planned again".to_owned(),
        (EventState::Discarded, on) => {
            let on = on.unwrap_or_else(|| "none".to_owned());
            format!("{on}; discarded, so its amount counts as sent and is not billed")
        }
        (_, Some(on)) => on,
        (_, None) => "none, so its amount counts as not sent".to_owned(),
    }
}

fn fields(event: &MeterEvent, invoice: Option<&EventInvoice>) -> Vec<(&'static str, String)> {
    let at = |t: Option<Timestamp>| t.map_or("-".to_owned(), |t| t.to_string());
    vec![
        ("event", event.seq.to_string()),
        ("identifier", event.identifier.clone()),
        ("customer", format!("{} ({})", event.customer, event.stripe_customer)),
        ("meter", format!("{} ({})", event.meter, event.event_name)),
        ("usage of period", event.period_start.to_string()),
        ("planned for", format!("the invoice of {} to before {}", event.billed_start, event.billed_end)),
        ("on invoice of", placed(event.state, invoice)),
        ("value", event.value.to_string()),
        ("timestamp", event.timestamp.to_string()),
        ("send before", event.send_before.to_string()),
        ("state", event.state.name().to_owned()),
        (
            "was unconfirmed",
            if event.maybe_applied { "yes: an attempt may have been applied" } else { "no" }.to_owned(),
        ),
        ("attempts", event.attempts.to_string()),
        ("first attempt", at(event.first_attempt_at)),
        ("last attempt", at(event.last_attempt_at)),
        ("next attempt", at(event.next_at)),
        ("made", event.created_at.to_string()),
        ("settled", at(event.settled_at)),
        ("request", event.request_id.clone().unwrap_or_else(|| "-".into())),
        ("sent by", if event.imported { IMPORTED } else { "these books" }.to_owned()),
        ("error", event.error.clone().unwrap_or_else(|| "-".into())),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_counts_as_sent_as_placement_says() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let (starts_at, ends_at) = (at("2026-10-01T00:00:00Z"), at("2026-11-01T00:00:00Z"));
        let invoice = EventInvoice { subscription: "sub_ann".into(), starts_at, ends_at };
        let on = "sub_ann, 2026-10-01T00:00:00Z to before 2026-11-01T00:00:00Z";
        let not_billed = "discarded, so its amount counts as sent and is not billed";
        let not_received = "none: Stripe does not have it, and its amount is planned again";
        for state in [EventState::Pending, EventState::Unconfirmed, EventState::Accepted, EventState::Refused] {
            assert_eq!(placed(state, Some(&invoice)), on);
            assert_eq!(placed(state, None), "none, so its amount counts as not sent");
        }
        assert_eq!(placed(EventState::Discarded, Some(&invoice)), format!("{on}; {not_billed}"));
        assert_eq!(placed(EventState::Discarded, None), format!("none; {not_billed}"));
        for invoice in [Some(&invoice), None] {
            assert_eq!(placed(EventState::NotReceived, invoice), not_received);
        }
    }
}
