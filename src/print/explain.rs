//! A charge explained: from the billing target to the lines of the bill.

use books::limits::plan::{ReportMode, Terms};
use books::stripe::billing_target::UsageParts;
use books::stripe::charge::{BegunPeriod, ChargedEvent};
use books::stripe::comparison::ComparedPeriod;
use books::units::calendar::{Day, Month};
use books::units::quantity::{Quantity, UNIT, divide_half_even};
use books::usage::entries::{BookedEntry, BookedVersion};
use jiff::Timestamp;
use jobs::ingest_cur::lines::{BillLine, FoundLines};
use rust_decimal::Decimal;
use schemars::JsonSchema;
use serde::Serialize;

use super::explain_share::{ExplainedShare, of_bucket};
use super::reconcile::ReconciledPeriod;
use super::{count, out, reconcile, several, table};
use crate::format::{change, quantity};

/// A billing period of a customer, or one day, explained.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Explained {
    pub(crate) customer: String,
    /// Null for one day.
    pub(crate) period: Option<BegunPeriod>,
    /// The start of the period before it, if there is one.
    pub(crate) before: Option<Timestamp>,
    pub(crate) first: Day,
    pub(crate) last: Day,
    pub(crate) meters: Vec<ExplainedMeter>,
    pub(crate) bills: Vec<ExplainedBill>,
}

#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct ExplainedMeter {
    pub(crate) meter: String,
    pub(crate) unit: String,
    pub(crate) booked: Quantity,
    /// Null for one day, and for a meter that is not billed.
    pub(crate) charge: Option<ExplainedCharge>,
    /// Of all days, one booking after another.
    pub(crate) entries: Vec<BookedEntry>,
    /// What was read again of each booked day; empty without `--lines`.
    pub(crate) days: Vec<ReadDay>,
    /// The shared buckets that were billed for this meter on this day; empty for a period.
    pub(crate) shares: Vec<ExplainedShare>,
}

/// How a billing target came about, and what was sent.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct ExplainedCharge {
    /// The plan of the target; empty before it is planned.
    pub(crate) plan: String,
    pub(crate) terms: Option<Terms>,
    pub(crate) currency: String,
    /// Stripe's name of the meter, and its units for each of ours.
    pub(crate) event_name: String,
    pub(crate) per_unit: Decimal,
    /// As `meter reconcile --json` has it.
    pub(crate) compared: ReconciledPeriod,
    pub(crate) deferred_because: String,
    pub(crate) events: Vec<ChargedEvent>,
}

/// A booked day of a meter and bill, beside the lines of that bill.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct ReadDay {
    pub(crate) day: Day,
    pub(crate) payer: String,
    /// The month of the bill.
    pub(crate) month: Month,
    pub(crate) booked: Quantity,
    pub(crate) lines: u64,
    /// Sum of the lines, in the unit of the bill.
    pub(crate) amount: Quantity,
    /// Sum of the lines, in the unit of the meter.
    pub(crate) quantity: Quantity,
    /// What the customer has of shared buckets. Null when it cannot be computed any more.
    pub(crate) apportioned: Option<Quantity>,
    /// `booked` less the other two; null when they cannot be compared.
    pub(crate) difference: Option<Quantity>,
}

/// A version of a bill, and what was read of it again.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct ExplainedBill {
    #[serde(flatten)]
    pub(crate) version: BookedVersion,
    /// Null without `--lines`, for a version that is not the newest one, and when it cannot be
    /// read.
    pub(crate) found: Option<FoundLines>,
    /// Why it cannot be read again; empty otherwise.
    pub(crate) not_read: String,
}

impl Explained {
    /// True when a sum of lines is not what is booked.
    pub(crate) fn has_finding(&self) -> bool {
        let mut days = self.meters.iter().flat_map(|meter| &meter.days);
        days.any(|day| day.difference.is_some_and(|difference| !difference.is_zero()))
    }

    /// The listed lines of all bills, with the payer and month of each.
    fn lines(&self) -> impl Iterator<Item = (&BookedVersion, &BillLine)> {
        let found = self.bills.iter().filter_map(|bill| Some((&bill.version, bill.found.as_ref()?)));
        found.flat_map(|(version, found)| found.lines.iter().map(move |line| (version, line)))
    }
}

/// Prints it as text.
pub(crate) fn show(explained: &Explained, now: Timestamp) {
    let Explained { customer, period, before, first, last, meters, bills } = explained;
    out(&match period {
        Some(BegunPeriod { starts_at, ends_at, subscription, .. }) => {
            let of = subscription.as_ref().map_or("no subscription".to_owned(), |id| format!("subscription {id}"));
            let days = if first > last { "no days of usage".into() } else { format!("days {first} to {last}") };
            format!("{customer}: billing period {starts_at} to before {ends_at}, {of}, {days}")
        }
        None => format!("{customer} on {first}"),
    });
    if meters.is_empty() {
        out("nothing was used in it, so there is nothing to explain");
        if let Some(before) = before {
            let command = format!("meter explain {customer} --period {}", before.strftime("%F"));
            out(&format!("its invoice may carry usage of earlier periods: `meter bill {customer}`, and `{command}`"));
        }
    }
    for meter in meters {
        out("");
        out(&format!("{}: {} {} booked", meter.meter, quantity(meter.booked), meter.unit));
        if let Some(charge) = &meter.charge {
            of_charge(meter, charge, now);
        } else if period.is_some() {
            out("  billed    no: stripe.meters does not name this meter");
        }
        if !meter.entries.is_empty() {
            out("");
            entries(meter);
        }
        for share in &meter.shares {
            out("");
            of_bucket(customer, share);
        }
        of_lines(explained, meter);
    }
    if !bills.is_empty() {
        out("");
        of_bills(bills);
    }
}

/// The plan, the target and the events of a meter.
fn of_charge(meter: &ExplainedMeter, charge: &ExplainedCharge, now: Timestamp) {
    let ExplainedCharge { plan, terms, currency, event_name, per_unit, compared, events, .. } = charge;
    let unit = &meter.unit;
    let price = terms.and_then(|terms| terms.billed_price(&meter.meter));
    out(&match (terms, price) {
        _ if plan.is_empty() => "  plan      not planned yet: the next `meter push` computes what is billed".to_owned(),
        (None, _) => format!("  plan      `{plan}` does not have this meter, so nothing of it is billed"),
        (Some(terms), Some(price)) => format!(
            "  plan      `{plan}` includes {} {unit} a month; each further one costs {price} {currency}",
            quantity(terms.included)
        ),
        (Some(terms), None) => {
            format!(
                "  plan      `{plan}` includes {} {unit} a month, and has no price for more",
                quantity(terms.included)
            )
        }
    });
    out(&format!("  usage     {}", reconcile::usage(&compared.conservation(*per_unit))));
    if !plan.is_empty() {
        let sum = arithmetic(&compared.parts, *per_unit, compared.target, terms.map(|terms| terms.report));
        out(&format!("  target    {sum} = {} {event_name} at Stripe", group(compared.target)));
    }
    let advance = compared.parts.in_advance();
    if !advance.is_zero() {
        out(&format!(
            "  advance   {} were used in advance; the next included amount is less by that",
            quantity(advance)
        ));
    }
    if let Some(money) = charge.money() {
        out(&format!("  worth     {money}"));
    }
    for note in reconcile::notes(compared, now) {
        out(&format!("  note      {note}"));
    }
    if !charge.deferred_because.is_empty() {
        out(&format!("            which means: {}", charge.deferred_because));
    }
    if !events.is_empty() {
        out("");
        table(
            &["  event", "state", ">value", "~", "3on invoice", "1made (UTC)", "2sent (UTC)"],
            events.iter().map(event).collect(),
        );
    }
}

impl ExplainedCharge {
    /// False for a meter of which nothing is used and nothing is billed.
    pub(crate) fn has_something(&self) -> bool {
        let ComparedPeriod { target, deferred, parts, ledger, .. } = &*self.compared;
        *target != 0 || *deferred != 0 || parts.used != 0 || !ledger.is_zero() || !self.events.is_empty()
    }

    fn money(&self) -> Option<String> {
        let (currency, money) = self.compared.money(self.per_unit)?;
        (money != books::stripe::billing_target::MoneyParts::default()).then(|| reconcile::worth(currency, money))
    }
}

fn group(n: i64) -> String {
    let sign = if n < 0 { "-" } else { "" };
    format!("{sign}{}", crate::format::group(&n.unsigned_abs().to_string()))
}

/// `(1,300 used - 1,000 in the plan) × 60`, if that makes the target.
fn arithmetic(parts: &UsageParts, per_unit: Decimal, target: i64, report: Option<ReportMode>) -> String {
    let scaled = |n: i64| Quantity::from_scaled(i128::from(n));
    let (used, within) = (scaled(parts.used), scaled(parts.within));
    let less = [(scaled(parts.house), "house"), (scaled(parts.not_priced), "not priced")];
    let written = |in_plan: Quantity| {
        let mut sum = format!("{} used", quantity(used));
        for (amount, what) in std::iter::once((in_plan, "in the plan")).chain(less) {
            if !amount.is_zero() {
                sum += &format!(" - {} {what}", quantity(amount));
            }
        }
        let reported = used - in_plan - less.iter().map(|(amount, _)| *amount).sum::<Quantity>();
        (format!("({sum}) × {per_unit}"), reported)
    };
    let overage = written(within);
    let total = written(Quantity::ZERO);
    let order = if report == Some(ReportMode::Total) { [total, overage] } else { [overage, total] };
    for (text, reported) in order {
        let exact = reported.max(Quantity::ZERO).times_exactly(per_unit);
        let (low, near) = whole(reported, per_unit);
        if exact == target.to_string() {
            return text;
        }
        if i128::from(target) == near || i128::from(target) == low {
            return format!("{text} = {exact}, rounded");
        }
    }
    // days with `report = "total"` beside other ones, or a target that is too large
    format!("{} used, of which {} in the plan, with the terms of each day", quantity(used), quantity(within))
}

/// A quantity in Stripe's units: rounded down, and to the nearest.
fn whole(reported: Quantity, per_unit: Decimal) -> (i128, i128) {
    let scale = 10_i128.checked_pow(per_unit.scale()).and_then(|scale| scale.checked_mul(UNIT)).unwrap_or(i128::MAX);
    let product = reported.max(Quantity::ZERO).scaled().checked_mul(per_unit.mantissa()).unwrap_or(i128::MAX);
    (product / scale, divide_half_even(product, scale).0)
}

fn event(charged: &ChargedEvent) -> Vec<String> {
    let ChargedEvent { event, invoice } = charged;
    let at = |at: Timestamp| at.strftime("%Y-%m-%d %H:%M").to_string();
    let what = match (event.value < 0, event.imported, event.billed_start > event.period_start) {
        (_, true, _) => "imported from Stripe's total",
        (true, ..) => "correction",
        (_, _, true) => "carried forward",
        _ => "",
    };
    let invoice = invoice.as_ref().map(|on| format!("{}, from {}", on.subscription, on.starts_at));
    let state = event.error.as_ref().map_or(event.state.name().to_owned(), |e| format!("{}: {e}", event.state.name()));
    vec![
        format!("  {}", event.seq),
        state,
        event.value.to_string(),
        what.to_owned(),
        invoice.unwrap_or_else(|| "none".into()),
        at(event.created_at),
        event.last_attempt_at.map_or("-".into(), at),
    ]
}

fn short(version: &str) -> String {
    version.chars().take(8).collect()
}

fn entries(meter: &ExplainedMeter) {
    let rows = meter.entries.iter().map(|entry| {
        let at = entry.booked_at.strftime("%Y-%m-%d %H:%M").to_string();
        let bill = format!("{} of {} {}", short(&entry.version), entry.payer, entry.month);
        vec![format!("  {}", entry.day), entry.kind.clone(), change(entry.quantity), at, bill]
    });
    table(&["  day", "kind", ">quantity", "booked (UTC)", "#version of the bill"], rows.collect());
}

fn of_lines(explained: &Explained, meter: &ExplainedMeter) {
    if meter.days.is_empty() {
        return;
    }
    out("");
    let has_shares = meter.days.iter().any(|day| day.apportioned.is_none_or(|shares| !shares.is_zero()));
    let row = |day: &ReadDay| {
        let compared = match day.difference {
            Some(difference) if difference.is_zero() => "equal".to_owned(),
            Some(difference) => format!("DIFFERENT by {}", change(difference)),
            None => "not compared: the reports or the rule of a shared bucket are others by now".to_owned(),
        };
        let bill = format!("{} {}", day.payer, day.month);
        let mut cells = vec![format!("  {}", day.day), bill, count(day.lines), quantity(day.quantity)];
        if has_shares {
            cells.push(day.apportioned.map_or("?".to_owned(), quantity));
        }
        cells.extend([quantity(day.booked), compared]);
        cells
    };
    let mut titles = vec!["  day", "bill", ">lines", ">their sum", ">booked", ""];
    if has_shares {
        titles.insert(4, ">of shared buckets");
    }
    table(&titles, meter.days.iter().map(row).collect());
    let own = explained.lines().filter(|(_, line)| line.meter == meter.meter);
    let row = |(_, line): (&BookedVersion, &BillLine)| {
        let start = line.start.strftime("%Y-%m-%d %H:%M").to_string();
        let amount = format!("{} {}", quantity(line.amount), line.unit);
        let resource = if line.resource.is_empty() { "-".to_owned() } else { line.resource.clone() };
        vec![format!("  {start}"), resource, line.usage_type.clone(), amount, line.quantity.clone(), place(line)]
    };
    let rows: Vec<_> = own.map(row).collect();
    if !rows.is_empty() {
        out("");
        let quantity = format!(">{}", meter.unit);
        table(&["  usage from (UTC)", "#resource", "usage type", "2>amount", &quantity, "1file"], rows);
    }
}

/// File, row group and row of a line.
fn place(line: &BillLine) -> String {
    let file = line.file.rsplit('/').next().unwrap_or_default();
    match line.row_group {
        Some(group) => format!("{file}, row group {group}, row {}", line.row),
        None => format!("{file}, line {}", line.row),
    }
}

fn of_bills(bills: &[ExplainedBill]) {
    let at = |at: Timestamp| at.strftime("%Y-%m-%d %H:%M").to_string();
    let row = |bill: &ExplainedBill| {
        let BookedVersion { bill: id, version, delivered_at, booked_at, is_current, files, .. } = &bill.version;
        let newest = if *is_current { "newest" } else { "" };
        let (of, files) = (format!("{} {}", id.payer, id.month), several(files.len(), "file"));
        vec![short(version), of, at(*delivered_at), at(*booked_at), files, newest.to_owned()]
    };
    let titles = ["#version of the bill", "payer, month", "1delivered (UTC)", "booked (UTC)", "2~files", "~"];
    table(&titles, bills.iter().map(row).collect());
    for bill in bills {
        let name =
            format!("{} of {} {}", short(&bill.version.version), bill.version.bill.payer, bill.version.bill.month);
        if !bill.not_read.is_empty() {
            out(&format!("{name}: its lines cannot be read any more: {}", bill.not_read));
        }
        let Some(found) = &bill.found else { continue };
        let groups = match found.row_groups {
            0 => String::new(),
            all => format!(", {} of {}", count(found.row_groups_read), several(all, "row group")),
        };
        out(&format!("{name}: read again from {}{groups}", several(found.files, "file")));
        if found.not_listed > 0 {
            out(&format!("{name}: {} more lines are in the sums, and not listed", count(found.not_listed)));
        }
        for note in &found.notes {
            out(&format!("{name}: {note}"));
        }
    }
}

/// The columns of `--csv`.
const COLUMNS: [&str; 18] = [
    "what",
    "customer",
    "meter",
    "day",
    "kind",
    "quantity",
    "meter_unit",
    "payer",
    "bill_month",
    "version",
    "file",
    "row_group",
    "row",
    "usage_from",
    "resource",
    "usage_type",
    "amount",
    "amount_unit",
];

/// Prints entries, and lines if they were read, as one CSV table.
pub(crate) fn csv(all: &[Explained]) -> anyhow::Result<()> {
    let mut rows: Vec<Vec<String>> = vec![];
    for explained in all {
        let customer = &explained.customer;
        let unit = |name: &str| {
            let of = explained.meters.iter().find(|meter| meter.meter == name);
            of.map(|meter| meter.unit.clone()).unwrap_or_default()
        };
        for entry in explained.meters.iter().flat_map(|meter| &meter.entries) {
            let BookedEntry { meter, day, quantity, kind, payer, month, version, .. } = entry;
            let known = [day.to_string(), kind.clone(), quantity.to_string(), unit(meter)];
            let bill = [payer.clone(), month.to_string(), version.clone()];
            let first = ["entry".to_owned(), customer.clone(), meter.clone()];
            let empty = vec![String::new(); 8];
            rows.push(first.into_iter().chain(known).chain(bill).chain(empty).collect());
        }
        for (version, line) in explained.lines() {
            let first = ["line".to_owned(), customer.clone(), line.meter.clone()];
            let known = [line.day.to_string(), String::new(), line.quantity.clone(), unit(&line.meter)];
            let bill = [version.bill.payer.clone(), version.bill.month.to_string(), version.version.clone()];
            let group = line.row_group.map(|group| group.to_string()).unwrap_or_default();
            let place = [line.file.clone(), group, line.row.to_string(), line.start.to_string()];
            let own = [line.resource.clone(), line.usage_type.clone(), line.amount.to_string(), line.unit.clone()];
            rows.push(first.into_iter().chain(known).chain(bill).chain(place).chain(own).collect());
        }
    }
    super::csv(&COLUMNS, rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arithmetic_of_a_target_is_said_only_if_it_makes_the_target() {
        let unit = |n: i64| n * 10_000_000_000;
        let parts = UsageParts {
            used: unit(1_300),
            within: unit(1_000),
            billable: unit(250),
            house: unit(50),
            ..UsageParts::default()
        };
        let said =
            |per_unit: &str, target: i64, report| arithmetic(&parts, per_unit.parse().unwrap(), target, Some(report));
        let overage = "(1,300 used - 1,000 in the plan - 50 house) × ";
        assert_eq!(said("60", 15_000, ReportMode::Overage), format!("{overage}60"));
        assert_eq!(said("60", 75_000, ReportMode::Total), "(1,300 used - 50 house) × 60");
        // the plan of another day may have had the other form
        assert_eq!(said("60", 75_000, ReportMode::Overage), "(1,300 used - 50 house) × 60");
        assert_eq!(said("0.33", 82, ReportMode::Overage), format!("{overage}0.33 = 82.5, rounded"));
        assert_eq!(
            said("0.33", 83, ReportMode::Overage),
            "1,300 used, of which 1,000 in the plan, with the terms of each day"
        );
        let below = UsageParts { used: unit(-5), billable: unit(-5), ..UsageParts::default() };
        assert_eq!(arithmetic(&below, Decimal::ONE, 0, None), "(-5 used) × 1");
    }
}
