//! Measured against billed usage.

use std::collections::BTreeMap;

use books::measured::accuracy::{ComparedCustomer, ComparedDay, DAY_PERCENT, DIFFERING_DAYS, Excess, MeterAccuracy};
use books::measured::accuracy::{JUDGED_DAYS, METER_PERCENT, TwoWitnesses};
use books::units::calendar::Day;
use books::units::quantity::Quantity;
use rust_decimal::Decimal;

use super::{customer, out, rounded, several, table};

/// Columns of a terminal.
const WIDTH: usize = 80;
/// Decimals of a quantity that is shown here; `--json` has all.
const DECIMALS: u32 = 3;

type Units = BTreeMap<String, String>;

/// Measured as a share of billed: `99.6 %`.
fn share(usage: TwoWitnesses) -> String {
    usage.ratio().map_or("-".into(), |ratio| format!("{} %", (ratio * Decimal::ONE_HUNDRED).round_dp(1).normalize()))
}

fn amounts(usage: TwoWitnesses) -> [String; 3] {
    [rounded(usage.measured, DECIMALS), rounded(usage.billed, DECIMALS), share(usage)]
}

fn unit<'a>(units: &'a Units, meter: &str) -> &'a str {
    units.get(meter).map_or("", String::as_str)
}

/// The sums of all customers, on these settled days.
pub(crate) fn meters(meters: &[MeterAccuracy], days: &[Day], units: &Units) {
    if let [first, .., last] | [first @ last] = days {
        out(&format!("Settled days from {first} to {last}"));
    }
    let row = |of: &MeterAccuracy| {
        let mut row = vec![of.meter.clone()];
        row.extend(amounts(of.usage));
        row.extend([unit(units, &of.meter).to_owned(), of.days.len().to_string()]);
        row
    };
    table(&["meter", ">measured", ">billed", ">share", "unit", ">days"], meters.iter().map(row).collect());
}

/// The customers that differ most, of each meter.
pub(crate) fn customers(meters: &[MeterAccuracy], units: &Units) {
    for of in meters.iter().filter(|of| !of.customers.is_empty() || !of.untagged.is_zero()) {
        out("");
        out(&format!("{}, {}: where they differ most", of.meter, unit(units, &of.meter)));
        let judged = of.days.len().min(JUDGED_DAYS);
        let row = |own: &ComparedCustomer| {
            let mut row = vec![own.customer.clone()];
            row.extend(amounts(own.usage));
            row.push(match own.differing_days {
                0 => String::new(),
                n => format!("{n} of {judged} days"),
            });
            row
        };
        let mut rows: Vec<Vec<String>> = of.customers.iter().map(row).collect();
        if !of.untagged.is_zero() {
            let mut row = vec![customer("").to_owned()];
            row.extend(amounts(TwoWitnesses { measured: Quantity::ZERO, billed: of.untagged }));
            row.push(String::new());
            rows.push(row);
        }
        table(&["customer", ">measured", ">billed", ">share", "differs"], rows);
    }
}

/// One customer's days.
pub(crate) fn days(customer: &str, own: &[MeterAccuracy], units: &Units) {
    out("");
    if own.is_empty() {
        return out(&format!("{customer}: nothing was measured or billed on these days"));
    }
    out(&format!("{customer}, by day"));
    let rows = own.iter().flat_map(|of| of.days.iter().map(|day| (&of.meter, day)));
    let rows = rows.filter(|(_, of)| of.usage != TwoWitnesses::default());
    let row = |(meter, of): (&String, &ComparedDay)| {
        let mut row = vec![of.day.to_string(), meter.clone()];
        row.extend(amounts(of.usage));
        row.push(unit(units, meter).to_owned());
        row
    };
    table(&["day", "meter", ">measured", ">billed", ">share", "unit"], rows.map(row).collect());
}

/// What the findings can mean, and where to go on.
pub(crate) fn meaning(meters: &[MeterAccuracy]) {
    out("");
    let findings: Vec<String> = meters.iter().flat_map(findings).collect();
    if findings.is_empty() {
        return paragraph(&format!(
            "No finding: no meter differs by more than {METER_PERCENT} %, and no customer by more than {DAY_PERCENT} % on \
             {DIFFERING_DAYS} of the newest {JUDGED_DAYS} days."
        ));
    }
    findings.iter().for_each(|finding| paragraph(finding));
    paragraph("docs/operations.md, MeterMeasuredDiffers, says what to check.");
}

/// The findings of a meter in words.
fn findings(of: &MeterAccuracy) -> Vec<String> {
    let meter = &of.meter;
    let mut found = vec![];
    match of.finding {
        Some(Excess::BilledMore) => found.push(format!(
            "{meter}: AWS billed more of all customers together than was measured. The web backend forgets to report, \
             or AWS bills another unit (meters[].factor)."
        )),
        Some(Excess::MeasuredMore) => found.push(format!(
            "{meter}: more was measured of all customers together than AWS billed. Uses do not end (`meter measured`), \
             a bill is not complete (`meter versions`), or AWS bills another unit (meters[].factor)."
        )),
        None => {}
    }
    for (excess, means) in [
        (Excess::BilledMore, "the web backend forgets to report of them, or somebody else uses their tag."),
        (
            Excess::MeasuredMore,
            match of.untagged.is_zero() {
                true => "somebody else's tag is on their usage, or uses do not end (`meter measured ID`).",
                false => "their usage lacks the tag: some is billed without a customer. Or uses do not end.",
            },
        ),
    ] {
        let named: Vec<&str> =
            of.customers.iter().filter(|own| own.finding == Some(excess)).map(|own| own.customer.as_str()).collect();
        if !named.is_empty() {
            let (some, more) = (named.iter().take(3), named.len().saturating_sub(3));
            let names = some.map(|id| format!("`{id}`")).collect::<Vec<_>>().join(", ");
            let more = if more > 0 { format!(" and {}", several(more, "other")) } else { String::new() };
            let says = if excess == Excess::BilledMore { "AWS billed more" } else { "AWS billed less" };
            found.push(format!("{meter}: {says} of {names}{more} than was measured: {means}"));
        }
    }
    found
}

/// Prints a text in lines that fit a terminal.
fn paragraph(text: &str) {
    let mut line = String::new();
    for word in text.split(' ') {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > WIDTH {
            out(&line);
            line = "  ".into();
        } else if !line.is_empty() {
            line.push(' ');
        }
        line += word;
    }
    out(&line);
}
