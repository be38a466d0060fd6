//! `operator_digest`: the week of the business as a message to the operator, once for each week
//! (Monday to Sunday, UTC), however often and on however many hosts it runs.
//!
//! Nothing is computed here: amounts are those of `meter bill`, usage and decisions those of `meter
//! status`, findings those about which messages were sent. Customers are counted and not named: a
//! chat is no place for them.

use std::collections::BTreeMap;

use anyhow::anyhow;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::context::{Context, OperatorSettings};
use crate::job::{Failure, Job};
use crate::operator_message::{Words, body, finding_data, line, minute, name};
use crate::push_stripe::bill::{BillTotal, Bills, WantedBills, WantedPeriods, bills};
use books::audit::findings::StoredFinding;
use books::audit::stats::MonthUsage;
use books::limits::operator_message::{NewOperatorMessage, OperatorMessageKind};
use books::units::calendar::instant;
use books::units::words::{count, decimal, round, several, verb};

/// The most findings that a digest names for people.
const NAMED: usize = 10;
/// Decimals of quantities for people.
const DECIMALS: u32 = 2;

/// Make the digest of the week of the run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorDigest {}

/// What a run made.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct OperatorDigestReport {
    /// The Monday of the week.
    pub week: String,
    /// Messages that are to be sent; 0 when those of the week were made already.
    pub messages: u64,
}

impl Job for OperatorDigest {
    const KIND: &'static str = "operator_digest";
    const DESCRIPTION: &'static str = "send the operator the figures of the week";
    type Report = OperatorDigestReport;

    fn key(&self) -> Option<String> {
        Some(Self::KIND.to_owned())
    }

    async fn run(self, context: &Context, now: Timestamp) -> Result<OperatorDigestReport, Failure> {
        let Context { books, operator, .. } = context;
        books.require_migrated().await?;
        if operator.receivers.is_empty() {
            let why = "nobody receives messages to the operator: set METER_OPERATOR__SLACK_URL or METER_OPERATOR__WEBHOOK_URL";
            return Err(Failure::GiveUp(anyhow!(why)));
        }
        let week = monday(now);
        let mut messages = vec![];
        for receiver in operator.receivers.keys() {
            let message = NewOperatorMessage {
                receiver: *receiver,
                kind: OperatorMessageKind::Digest,
                about: week.clone(),
                body: String::new(),
            };
            if !books.has_operator_message(message.id()?).await? {
                messages.push(message);
            }
        }
        if messages.is_empty() {
            return Ok(OperatorDigestReport { week, messages: 0 });
        }
        let words = WeekFigures::read(context, &week, now).await?.words(operator);
        for message in &mut messages {
            message.body = body(message.receiver, message.kind.name(), &words, now);
        }
        let messages = books.store_operator_messages(messages, now).await?;
        Ok(OperatorDigestReport { week, messages })
    }
}

/// The Monday (UTC) of the week of an instant.
fn monday(now: Timestamp) -> String {
    let day = now.to_zoned(TimeZone::UTC).date();
    let before = i64::from(day.weekday().to_monday_zero_offset());
    day.saturating_sub(before.days()).to_string()
}

/// The figures of a digest.
struct WeekFigures {
    week: String,
    at: Timestamp,
    /// None when no meter is billed.
    bills: Option<Bills>,
    usage: Vec<MonthUsage>,
    /// Customers that are blocked, by meter.
    blocked: Vec<(String, i64)>,
    findings: Vec<StoredFinding>,
}

impl WeekFigures {
    async fn read(context: &Context, week: &str, at: Timestamp) -> Result<Self, Failure> {
        let Context { books, billing, .. } = context;
        let bills = if billing.meters.is_empty() {
            None
        } else {
            let wanted = WantedBills { customer: None, periods: WantedPeriods::Current };
            Some(bills(books, billing, wanted, at).await?)
        };
        let decisions = books.customer_stats(at).await?.decisions;
        let blocked = decisions.into_iter().filter(|(_, of)| of.blocked > 0).map(|(meter, of)| (meter, of.blocked));
        Ok(Self {
            week: week.to_owned(),
            at,
            bills,
            usage: books.books_stats(at).await?.month,
            blocked: blocked.collect(),
            findings: books.begun_findings().await?,
        })
    }

    /// Pure.
    fn words(&self, settings: &OperatorSettings) -> Words {
        let mut lines = vec![format!("meter, week of {}, as of {} UTC", self.week, minute(self.at))];
        lines.extend(self.money());
        lines.extend(self.used(settings));
        lines.push(self.blocks(settings));
        lines.extend(self.open_findings());
        lines.extend(settings.status_page.as_ref().map(|page| format!("{page}/")));
        Words { text: lines.join("\n"), data: self.data(settings) }
    }

    fn money(&self) -> Vec<String> {
        let Some(bills) = &self.bills else { return vec!["Nothing is billed: stripe.meters names no meter.".into()] };
        let totals = bills.totals();
        let mut lines = vec![];
        for (code, BillTotal { currency, bills, amount_minor, waiting_minor, house_minor, unpriced }) in &totals {
            let (amount, waits) = (currency.written(*amount_minor), currency.written(*waiting_minor));
            let house = currency.written(*house_minor);
            let mut text = format!(
                "To be billed for current periods: {amount} {code} ({}); {waits} waits, {house} is paid by the company",
                several(*bills, "bill")
            );
            if *unpriced > 0 {
                text += &format!("; {} with a price that only Stripe knows", several(*unpriced, "bill"));
            }
            lines.push(text);
        }
        if totals.is_empty() {
            lines.push("To be billed for current periods: nothing".into());
        }
        if !bills.unknown.is_empty() {
            let n = bills.unknown.len();
            lines.push(format!("No bill can be made for {}: meter bill says why", several(n, "customer")));
        }
        lines
    }

    fn used(&self, settings: &OperatorSettings) -> Vec<String> {
        let month = self.at.strftime("%Y-%m");
        if self.usage.is_empty() {
            return vec![format!("Usage of {month}: nothing is booked yet")];
        }
        let mut lines = vec![format!("Usage of {month} so far:")];
        for of in &self.usage {
            let (meter, unit) = named(settings, &of.meter);
            let total = decimal(round(of.attributed + of.unattributed, DECIMALS));
            let nobody = match of.unattributed.is_zero() {
                true => String::new(),
                false => format!(", {} of it without a customer", decimal(round(of.unattributed, DECIMALS))),
            };
            lines.push(format!("• {}: {total} {unit}{nobody}", line(meter)));
        }
        lines
    }

    fn blocks(&self, settings: &OperatorSettings) -> String {
        if self.blocked.is_empty() {
            return "Blocked: nobody".into();
        }
        let of = |(meter, customers): &(String, i64)| {
            format!("{} for {}", line(named(settings, meter).0), several(*customers, "customer"))
        };
        format!("Blocked: {}", self.blocked.iter().map(of).collect::<Vec<_>>().join(", "))
    }

    fn open_findings(&self) -> Vec<String> {
        let n = self.findings.len();
        if n == 0 {
            // what is there for less than two minutes, or since no worker looked, is no message yet
            return vec!["No open finding was reported; meter status shows what is there now".into()];
        }
        let mut lines = vec![format!("{} {} open:", several(n, "reported finding"), verb(n, "is", "are"))];
        for of in self.findings.iter().take(NAMED) {
            let (since, what, act) = (minute(of.since()), line(&of.what), line(&of.act));
            lines.push(format!("• {} since {since}, {}: {what}. What to do: {act}", of.seq, name(of)));
        }
        if n > NAMED {
            lines.push(format!("• and {} more: meter status", count(n - NAMED)));
        }
        lines
    }

    fn data(&self, settings: &OperatorSettings) -> Value {
        let total = |(code, of): (String, BillTotal)| {
            json!({
                "currency": code,
                "decimals": of.currency.decimals(),
                "bills": of.bills,
                "unpriced": of.unpriced,
                "amount_minor": of.amount_minor,
                "waiting_minor": of.waiting_minor,
                "house_minor": of.house_minor,
            })
        };
        let usage = |of: &MonthUsage| {
            let (name, unit) = named(settings, &of.meter);
            let (quantity, unattributed) = (of.attributed + of.unattributed, of.unattributed);
            json!({ "meter": of.meter, "name": name, "unit": unit, "quantity": quantity, "unattributed": unattributed })
        };
        let blocked = |(meter, customers): &(String, i64)| json!({ "meter": meter, "name": named(settings, meter).0, "customers": customers });
        json!({
            "week": self.week,
            "as_of": instant(self.at.as_second()),
            "to_be_billed": self.bills.as_ref().map(|of| of.totals().into_iter().map(total).collect::<Vec<_>>()),
            "without_bill": self.bills.as_ref().map_or(0, |of| of.unknown.len()),
            "month": self.at.strftime("%Y-%m").to_string(),
            "usage": self.usage.iter().map(usage).collect::<Vec<_>>(),
            "blocked": self.blocked.iter().map(blocked).collect::<Vec<_>>(),
            "findings": self.findings.iter().map(finding_data).collect::<Vec<_>>(),
            "status_page": settings.status_page,
        })
    }
}

/// The name of a meter that people read, and its unit.
fn named<'a>(settings: &'a OperatorSettings, meter: &'a str) -> (&'a str, &'a str) {
    let of = |all: &'a BTreeMap<String, String>, other| all.get(meter).map_or(other, String::as_str);
    (of(&settings.names, meter), of(&settings.units, "units"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_week_begins_on_monday() {
        for (now, expected) in [
            ("2026-11-29T23:59:59Z", "2026-11-23"),
            ("2026-11-30T00:00:00Z", "2026-11-30"),
            ("2026-12-06T23:59:59Z", "2026-11-30"),
            ("2027-01-01T12:00:00Z", "2026-12-28"),
        ] {
            assert_eq!(monday(now.parse().unwrap()), expected, "{now}");
        }
    }
}
