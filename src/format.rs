//! Amounts, spans and customers as text, for terminals and browsers.

use books::limits::entitlement::LARGEST;
use books::store::traffic::Traffic;
use books::units::calendar::Day;
use books::units::money::Currency;
use books::units::quantity::{Quantity, UNIT};
pub(crate) use books::units::words::{count, group, several, verb};
use books::units::words::{decimal, round};
use jiff::{SignedDuration, Timestamp};
use rust_decimal::Decimal;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

/// A log line has this many items of each list of a report.
const NAMED: usize = 3;

/// A quantity with separators in its whole part: `-1,234.5`.
pub(crate) fn quantity(q: Quantity) -> String {
    if q == LARGEST {
        return format!("more than {}", group(&(LARGEST.scaled() / UNIT).to_string()));
    }
    decimal(q)
}

/// A quantity, rounded half-even to so many decimals, at most ten, so that several fit beside each
/// other.
pub(crate) fn rounded(q: Quantity, decimals: u32) -> String {
    quantity(round(q, decimals))
}

/// A quantity in a table for people, with at most four decimals. One that rounds to nothing is no
/// nothing: `<0.0001`.
pub(crate) fn readable(q: Quantity) -> String {
    const DECIMALS: u32 = 4;
    match (round(q, DECIMALS).is_zero(), q.is_zero()) {
        (true, false) if q > Quantity::ZERO => "<0.0001".to_owned(),
        (true, false) => ">-0.0001".to_owned(),
        _ => rounded(q, DECIMALS),
    }
}

/// An amount of money in a currency's major unit, with two decimals always.
pub(crate) fn two_decimals(amount: Quantity) -> String {
    let text = rounded(amount, 2);
    match text.split_once('.') {
        None => format!("{text}.00"),
        Some((_, decimals)) if decimals.len() == 1 => format!("{text}0"),
        Some(_) => text,
    }
}

/// What is said beside a used quantity, of which a part is measured; nothing without such a part.
pub(crate) fn of_it_measured(measured: Quantity) -> Option<String> {
    (!measured.is_zero()).then(|| format!("of it {} measured, not billed yet", quantity(measured)))
}

/// The day on which an amount is used up; `gone` when that is over.
pub(crate) fn used_up(day: Day, gone: &str, now: Timestamp) -> String {
    if day.end() <= now { gone.to_owned() } else { day.to_string() }
}

/// When running uses reach the limit, as is said beside it; with the day, unless that is today.
pub(crate) fn limit_reached(at: Timestamp, now: Timestamp) -> String {
    format!("at the present level the limit is reached at {} UTC", moment(at, now))
}

/// The time of day (UTC), after its day unless that is today: `14:03:20`, `2026-03-10 14:03:20`.
pub(crate) fn moment(at: Timestamp, now: Timestamp) -> String {
    let day = |at: Timestamp| at.strftime("%F").to_string();
    at.strftime(if day(at) == day(now) { "%T" } else { "%F %T" }).to_string()
}

/// A customer's id, or words for usage without a tag.
pub(crate) fn customer(id: &str) -> &str {
    if id.is_empty() { "(no customer tag)" } else { id }
}

/// A span of time: `45 s`, `12 min`, `5 h`, `3 d`.
pub(crate) fn span(duration: SignedDuration) -> String {
    let seconds = duration.as_secs().max(0);
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// The lists of a report, a few items of each: for example why a version is on hold.
pub(crate) fn report_lists(report: &str) -> String {
    let Ok(Value::Object(fields)) = serde_json::from_str::<Value>(report) else { return String::new() };
    // an item is a text, or has one
    let word = |item: &Value| item.as_str().or_else(|| item.get("text")?.as_str()).map(str::to_owned);
    let words = |value: &Value| value.as_array().map(|all| all.iter().filter_map(word).collect());
    let lists = fields.iter().filter_map(|(name, value)| {
        let words: Vec<String> = words(value).unwrap_or_default();
        let more = words.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        (!words.is_empty()).then(|| format!(", {name} {}{more}", words[..words.len().min(NAMED)].join("; ")))
    });
    lists.collect()
}

/// A report in one line: its sentence, else its plain values.
pub(crate) fn report_summary(report: &str) -> String {
    let Ok(Value::Object(fields)) = serde_json::from_str(report) else { return report.to_owned() };
    if let Some(sentence) = fields.get("sentence").and_then(Value::as_str) {
        return sentence.to_owned();
    }
    let plain = fields.iter().filter_map(|(name, value)| match value {
        Value::String(text) if !text.is_empty() => Some(format!("{name} {text}")),
        Value::Number(number) => Some(format!("{name} {number}")),
        Value::Bool(flag) => Some(format!("{name} {flag}")),
        _ => None,
    });
    plain.collect::<Vec<_>>().join(", ")
}

/// A report, and what its run cost on a remote database.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct Counted<R> {
    #[serde(flatten)]
    report: R,
    #[serde(skip_serializing_if = "Option::is_none")]
    database: Option<Traffic>,
}

impl<R: Serialize> Counted<R> {
    pub(crate) fn new(report: R, traffic: Traffic) -> Self {
        Self { report, database: (traffic.requests > 0).then_some(traffic) }
    }
}

/// A report's text with what its run cost as the field `database`; a report without fields stays
/// as it is.
pub(crate) fn counted(report: String, traffic: Traffic) -> String {
    if traffic.requests == 0 {
        return report;
    }
    let fields = serde_json::from_str(&report).map(|fields: Value| Counted::new(fields, traffic));
    fields.and_then(|fields| serde_json::to_string(&fields)).unwrap_or(report)
}

/// What the run of a report cost.
pub(crate) fn cost_of(report: &Value) -> Option<String> {
    cost(serde_json::from_value(report.get("database")?.clone()).ok()?)
}

/// What a run cost on a remote database, in a line; none on a local file.
pub(crate) fn cost(traffic: Traffic) -> Option<String> {
    let Traffic { requests, rows_read, rows_written, bytes_sent, bytes_received, .. } = traffic;
    (requests > 0).then(|| {
        format!(
            "{} requests to the database, {} rows read, {} written, {} sent, {} received",
            count(requests),
            count(rows_read),
            count(rows_written),
            bytes(bytes_sent),
            bytes(bytes_received)
        )
    })
}

/// Bytes, rounded down to a tenth: `1.4 GB`.
pub(crate) fn bytes(n: u64) -> String {
    let units = [(1_000_000_000_000, "TB"), (1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    match units.into_iter().find(|(size, _)| n >= *size) {
        Some((size, unit)) => format!("{}.{} {unit}", n / size, n % size * 10 / size),
        None => format!("{n} bytes"),
    }
}

/// The time since an instant: `5 h ago`.
pub(crate) fn ago(then: Timestamp, now: Timestamp) -> String {
    let passed: SignedDuration = now.duration_since(then);
    format!("{} ago", span(passed))
}

/// As [`quantity`], with a sign always.
pub(crate) fn change(q: Quantity) -> String {
    if q > Quantity::ZERO { format!("+{}", quantity(q)) } else { quantity(q) }
}

/// A share in 10⁻⁴, in percent: `99.63 %`.
pub(crate) fn percent(of: i64) -> String {
    format!("{}.{:02} %", of / 100, of % 100)
}

/// A text as a value in the query of an address
/// (<https://www.rfc-editor.org/rfc/rfc3986#section-2.3>).
pub(crate) fn url_encoded(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

/// A share as a percentage: `4.5 %`.
pub(crate) fn percent_of(share: Option<Decimal>) -> String {
    share.map_or("-".into(), |share| format!("{} %", (share * Decimal::ONE_HUNDRED).round_dp(1).normalize()))
}

/// An amount of money; minor units, when the currency is unknown.
pub(crate) fn money(minor: i64, currency: &str) -> String {
    match currency.parse::<Currency>() {
        Ok(currency) => format!("{} {currency}", currency.written(minor)),
        Err(_) => minor.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_is_reached_on_another_day_has_its_day() {
        let now = "2026-03-09T23:59:50Z".parse().unwrap();
        let said = |at: &str| limit_reached(at.parse().unwrap(), now);
        assert_eq!(said("2026-03-09T23:59:59Z"), "at the present level the limit is reached at 23:59:59 UTC");
        assert_eq!(
            said("2026-03-10T00:00:01Z"),
            "at the present level the limit is reached at 2026-03-10 00:00:01 UTC"
        );
    }

    #[test]
    fn money_has_two_decimals() {
        for (exact, written) in [
            ("0", "0.00"),
            ("-0.5", "-0.50"),
            ("1234.5678", "1,234.57"),
            ("-12", "-12.00"),
            ("0.0049", "0.00"),
            ("-1234567.999", "-1,234,568.00"),
        ] {
            assert_eq!(two_decimals(exact.parse().unwrap()), written);
        }
    }

    #[test]
    fn a_quantity_that_a_cell_cannot_hold_is_said_to_be_more() {
        let stored = books::limits::entitlement::storable(Quantity::from_scaled(UNIT * 10_i128.pow(12)));
        assert_eq!(quantity(stored), "more than 922,337,203");
        assert_eq!(quantity("-1234.5".parse().unwrap()), "-1,234.5");
        assert_eq!(quantity("922337203.6854775806".parse().unwrap()), "922,337,203.6854775806");
    }
}
