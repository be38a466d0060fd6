//! Forecasts of month ends, and how good they were in past months.

use std::collections::BTreeMap;

use books::forecast::backtest::{Backtest, RuleScore};
use books::forecast::rule::ForecastRule;
use books::forecast::stored::{BillForecast, MeterForecast, UsageForecast};
use books::units::calendar::{Day, Month};
use jiff::Timestamp;

use super::{out, rounded, table};
use crate::format::{percent_of as percent, several, used_up};

/// Decimals of a quantity that is shown here; `--json` has all.
const DECIMALS: u32 = 2;
/// Where nothing is known.
const NONE: &str = "-";

type Units = BTreeMap<String, String>;

fn amounts(of: &UsageForecast, units: &Units) -> Vec<String> {
    let bound = of.p90.map_or(NONE.into(), |p90| rounded(p90, DECIMALS));
    let unit = units.get(&of.meter).cloned().unwrap_or_default();
    vec![of.meter.clone(), rounded(of.booked, DECIMALS), rounded(of.p50, DECIMALS), bound, unit]
}

/// Each meter as a whole.
pub(crate) fn meters(meters: &[MeterForecast], units: &Units) {
    let row = |of: &MeterForecast| {
        let mut row = amounts(&of.forecast, units);
        let tried = &of.accuracy.as_a_whole;
        row.extend([tried.used.words().to_owned(), percent(tried.error())]);
        row
    };
    let titles = ["all customers", ">booked", ">P50", ">P90", "unit", "1rule", "2>error"];
    table(&titles, meters.iter().map(row).collect());
    out("");
}

/// Each customer's meters, with the days on which amounts are used up, and the bill.
pub(crate) fn customers(found: &[UsageForecast], units: &Units, now: Timestamp) {
    if found.is_empty() {
        return;
    }
    let day = |day: Option<Day>, gone: &str| day.map_or(NONE.to_owned(), |day| used_up(day, gone, now));
    let row = |of: &UsageForecast| {
        let mut row = vec![of.customer.clone()];
        row.extend(amounts(of, units));
        row.extend([day(of.included_on, "used up"), day(of.limit_on, "reached")]);
        row.extend(bill(of.bill.as_ref()));
        row
    };
    let titles = [
        "customer",
        "meter",
        ">booked",
        ">P50",
        "7>P90",
        "4unit",
        "2included until",
        "6limit on",
        "5>bill P50",
        "3>bill P90",
        "1period to",
    ];
    table(&titles, found.iter().map(row).collect());
}

fn bill(of: Option<&BillForecast>) -> [String; 3] {
    let Some(of) = of else { return [NONE.into(), NONE.into(), String::new()] };
    let bound = of.p90.map_or(NONE.into(), |p90| p90.to_string());
    [of.p50.to_string(), bound, of.last_day.to_string()]
}

/// What the columns mean.
pub(crate) fn meaning(month: Month, settled: Day) {
    out(&format!("At the end of {month}, by usage through {settled}. P50: half of all months end with more."));
    out("P90: one of ten ends with more. Days and bills are those of the billing period that goes on.");
    out("");
}

/// By which rule customers are forecast, and how good it was.
pub(crate) fn rules(meters: &[MeterForecast]) {
    for of in meters {
        let tried = &of.accuracy.by_customer;
        let months = several(tried.months.len(), "past month");
        let error = match tried.error() {
            Some(error) => {
                format!("its errors, customer by customer, were {} of all usage in {months}", percent(Some(error)))
            }
            None => "no past month could be tried yet".to_owned(),
        };
        out(&format!("{}: customers by the rule {}; {error}.", of.forecast.meter, tried.used.words()));
    }
}

/// All rules on past months.
pub(crate) fn backtest(meters: &[MeterForecast]) {
    let mut rows = vec![];
    for of in meters {
        let two = [("customers", &of.accuracy.by_customer), ("as a whole", &of.accuracy.as_a_whole)];
        for (what, tried) in two {
            rows.extend(tried.scores.iter().map(|score| scores(&of.forecast.meter, what, score, tried.used)));
        }
    }
    table(&["meter", "of", "rule", ">forecasts", ">error", ">P90 holds", "~"], rows);
    out("");
    for of in meters {
        out(&tried(of));
    }
    out("Error: the differences at the ends of months, as a share of all usage.");
}

fn scores(meter: &str, what: &str, score: &RuleScore, used: ForecastRule) -> Vec<String> {
    let RuleScore { rule, forecasts, error, coverage, .. } = *score;
    let is_used = if rule == used { "used" } else { "" };
    let words = rule.words().to_owned();
    vec![meter.into(), what.into(), words, super::count(forecasts), percent(error), percent(coverage), is_used.into()]
}

/// Which months were tried.
fn tried(of: &MeterForecast) -> String {
    let Backtest { months, .. } = &of.accuracy.by_customer;
    let (meter, sampled) = (&of.forecast.meter, several(of.accuracy.sampled, "customer"));
    match &months[..] {
        [] => format!("{meter}: no past month could be tried: that needs 28 booked days before its 21st at the latest"),
        months => {
            let names: Vec<String> = months.iter().map(Month::to_string).collect();
            format!("{meter}: tried on {}, with {sampled}", names.join(", "))
        }
    }
}
