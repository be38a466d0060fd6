//! A customer's statement as a document to be read and printed: names for people, rounded figures,
//! and no word that only operators know.

use books::units::money::Money;
use books::units::quantity::Quantity;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use jobs::push_stripe::bill::InvoiceState;
use maud::{Markup, html};

use super::chart::{self, Bar};
use super::format::{self, long_day, quantity, rounded};
use super::layout::{Here, document, scroll};
use crate::statement::{Statement, StatementCorrection, StatementMeter};

/// A whole document, which refers to nothing outside itself.
pub fn statement(of: &Statement) -> String {
    let (first, last) = (format::date(of.period_start), last_day(of.period_end));
    let title = format!("Statement, {} to {}", long_day(first), long_day(last));
    let body = html! {
        article.report.statement {
            h1 { "Statement" }
            dl.view {
                dt { "Customer" }
                dd.id { (of.name.as_deref().unwrap_or(&of.customer)) }
                dt { "Plan" }
                dd { (of.plan) }
                dt { "Period" }
                dd { (long_day(first)) " to " (long_day(last)) }
                dt { "Beyond the plan" }
                dd {
                    strong { (amount(of.amount)) }
                    " " (state(of))
                }
                @for budget in &of.budgets {
                    dt { "Your limit" }
                    dd { (money(budget.amount)) " for " (capped(&budget.meter, of)) }
                }
            }
            (overview(of))
            (usage_by_day(of))
            (turn(of))
        }
    };
    let foot = html! {
        p {
            "Made on " (long_day(format::date(of.made_at))) ". Days are UTC. Quantities are rounded here; the CSV has \
             them exactly. The plan's own price and taxes are on the invoice."
        }
    };
    document(&title, Here::Alone, 0, body, foot)
}

/// The last day of a period that ends before an instant.
pub(super) fn last_day(end: Timestamp) -> Date {
    let before = Timestamp::from_second(end.as_second() - 1).unwrap_or(end);
    before.to_zoned(TimeZone::UTC).date()
}

fn state(of: &Statement) -> &'static str {
    match of.invoice {
        InvoiceState::Open => "so far; usage becomes known up to two days late",
        InvoiceState::Closed => "on the invoice of this period",
        InvoiceState::None => "no invoice covers this period",
    }
}

/// What a limit caps.
pub(super) fn capped(meter: &str, of: &Statement) -> String {
    let name = of.meters.iter().find(|own| own.meter == meter).map_or(meter, |own| own.name.as_str());
    if meter.is_empty() { "everything together".into() } else { name.to_owned() }
}

pub(super) fn overview(of: &Statement) -> Markup {
    let row = |meter: &StatementMeter| {
        html! {
            tr {
                th.whole scope="row" { (meter.name) }
                td.n data-label="Used" { (rounded(meter.usage.booked)) " " (meter.unit) }
                td.n data-label="Included" { (rounded(meter.included)) }
                td.n data-label="Charged" { (rounded(meter.charged)) }
                td.n data-label="Price" { @if let Some(price) = meter.price { (price) } @else { "–" } }
                td.n data-label="Amount" { (amount(meter.amount)) }
            }
        }
    };
    let table = html! {
        table.stack {
            thead {
                tr {
                    th scope="col" { "What" }
                    th.n scope="col" { "Used" }
                    th.n scope="col" { "Included" }
                    th.n scope="col" { "Charged" }
                    th.n scope="col" { "Price each" }
                    th.n scope="col" { "Amount" }
                }
            }
            tbody { @for meter in &of.meters { (row(meter)) } }
            tfoot {
                tr {
                    th scope="row" colspan="5" { "Together" }
                    td.n { (amount(of.amount)) }
                }
            }
        }
    };
    html! {
        @if of.meters.is_empty() { p.empty.block { "Nothing was used." } } @else { (scroll("Usage and amounts", table)) }
    }
}

/// Each meter with usage, by day.
pub(super) fn usage_by_day(of: &Statement) -> Markup {
    html! {
        @for (i, meter) in of.meters.iter().enumerate().filter(|(_, meter)| !meter.days.is_empty()) {
            (section(i, meter, of))
        }
    }
}

fn section(i: usize, meter: &StatementMeter, of: &Statement) -> Markup {
    let id = format!("meter-{i}");
    html! {
        section aria-labelledby=(id) {
            h2 id=(id) { (meter.name) }
            (chart::days(&format!("chart-{i}"), &format!("{} by day", meter.name), &meter.unit, &bars(meter, of)))
            ul.notes { @for note in notes(meter) { li { (note) } } }
            details open {
                summary { "By day" }
                div.days {
                    @for some in meter.days.chunks(meter.days.len().div_ceil(3).max(5)) {
                        table {
                            thead { tr { th scope="col" { "Day" } th.n scope="col" { (meter.unit) } } }
                            tbody {
                                @for day in some {
                                    tr {
                                        th scope="row" { (day.day) }
                                        td.n title=(day.quantity) { (rounded(day.quantity)) }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// What became of the usage, in sentences.
pub(super) fn notes(meter: &StatementMeter) -> Vec<String> {
    let unit = &meter.unit;
    let of = &meter.usage;
    let mut notes = vec![format!("{} {unit} were used.", rounded(of.booked))];
    let mut add = |amount: Quantity, text: &str| {
        if !amount.is_zero() {
            notes.push(format!("{} {unit} {text}.", rounded(amount)));
        }
    };
    add(of.within, "are included in the plan");
    add(of.billed, "are charged");
    add(of.waiting, "will be charged on a later invoice");
    add(of.house, "are beyond your limit and are not charged");
    add(of.not_priced, "are beyond the plan and are not charged");
    let sum = |all: &[StatementCorrection]| all.iter().map(|one| (one.period_start, one.quantity)).collect::<Vec<_>>();
    for (start, amount) in sum(&meter.corrections) {
        let day = long_day(format::date(start));
        let text = if amount < Quantity::ZERO {
            format!(
                "{} {unit} are credited: the usage of the period from {day} was lower than reported before.",
                rounded(amount.abs())
            )
        } else {
            format!(
                "{} {unit} of the period from {day} became known after its invoice, and are charged now.",
                rounded(amount)
            )
        };
        notes.push(text);
    }
    for (start, amount) in sum(&meter.later) {
        let day = long_day(format::date(start));
        notes.push(format!("{} {unit} of these are on the invoice of the period from {day}.", rounded(amount)));
    }
    notes
}

/// Every day of the period, so that a chart shows which ones are missing.
fn bars(meter: &StatementMeter, of: &Statement) -> Vec<Bar> {
    let of_day = |day: Date| {
        let own = meter.days.iter().filter(|own| own.day.to_string() == day.to_string());
        own.map(|own| own.quantity).sum()
    };
    let bar = |day: Date| Bar { day, attributed: of_day(day), unattributed: Quantity::ZERO };
    let (first, last) = (format::date(of.period_start), last_day(of.period_end));
    let booked = meter.days.iter().filter_map(|own| own.day.to_string().parse::<Date>().ok());
    let first = booked.clone().min().map_or(first, |day| day.min(first));
    let last = booked.max().map_or(last, |day| day.max(last));
    first.series(1.day()).take_while(|day| *day <= last).map(bar).collect()
}

fn turn(of: &Statement) -> Markup {
    html! {
        @for turn in &of.turn {
            section {
                h2 { "Relay connections" }
                p {
                    (format::count(turn.used)) " were used from " (long_day(format::date(turn.period_start)))
                    @if let Some(included) = turn.included { "; the plan includes " (quantity(included)) }
                    ". They cost nothing beyond the plan."
                }
            }
        }
    }
}

fn amount(of: Option<Money>) -> String {
    of.map_or("see the invoice".to_owned(), money)
}

fn money(of: Money) -> String {
    format!("{}\u{a0}{}", of.written(), of.currency)
}
