//! The document of `meter report`: a month, of one customer or of all, to be kept, sent and
//! printed.

use books::units::quantity::Quantity;
use jiff::civil::Date;
use maud::{Markup, html};

use super::chart::{self, Bar};
use super::format::{self, instant, quantity};
use super::layout::{Here, document, scroll};
use super::{MeterReport, UsageReport};

/// A whole document, which refers to nothing outside itself.
pub fn report(report: &UsageReport) -> String {
    let month = format::month(&report.month);
    let title = match &report.customer {
        Some(customer) => format!("Usage of {} in {month}", format::customer(customer)),
        None => format!("Usage in {month}"),
    };
    let body = html! {
        article.report {
            h1.id { (title) }
            p.lead {
                @match &report.customer {
                    Some(_) => "One customer. ",
                    None => "All customers. ",
                }
                "Days are UTC. "
                @match report.as_of {
                    Some(at) => { "The newest bill in it was made by AWS on " (instant(at)) "; AWS may still correct it." }
                    None => "No bill of this month is booked.",
                }
            }
            @if report.meters.is_empty() {
                p.block { "Nothing is booked in " (month) "." }
            }
            @for (i, meter) in report.meters.iter().enumerate() { (section(i, meter, &report.month)) }
        }
    };
    let foot = html! { p { "Made by meter " (report.version) " on " (instant(report.made_at)) "." } };
    document(&title, Here::Alone, 0, body, foot)
}

fn section(i: usize, meter: &MeterReport, month: &str) -> Markup {
    let bars = bars(&meter.days, month);
    html! {
        section aria-labelledby={ "meter-" (i) } {
            h2.id id={ "meter-" (i) } { (meter.meter) }
            p.figure { b { (quantity(meter.total)) } span { (meter.unit) } }
            @if let Some(without) = meter.unattributed.filter(|q| !q.is_zero()) {
                p.soft {
                    (quantity(without)) @if let Some(share) = format::share(without, meter.total) { " (" (share) ")" }
                    " without a customer."
                }
            }
            @if !meter.notes.is_empty() { ul.notes { @for note in &meter.notes { li { (format::prose(note)) } } } }
            @if meter.days.is_empty() {
                p.empty.block { "No day of it is booked." }
            } @else {
                h3 { "By day" }
                (chart::days(&format!("chart-{i}"), &format!("{} by day", meter.meter), &meter.unit, &bars))
                div.days {
                    // beside each other, to fit a page
                    @for some in meter.days.chunks(meter.days.len().div_ceil(3).max(5)) {
                        (amounts("Day", &meter.unit, some.iter().map(|(day, q)| (day.as_str(), *q, None))))
                    }
                }
            }
            @if !meter.customers.is_empty() {
                h3 { "Customers with most of it" }
                @let rows = meter.customers.iter().map(|(id, q)| (format::customer(id), *q, format::share(*q, meter.total)));
                (scroll(&format!("{}: customers", meter.meter), amounts("Customer", &meter.unit, rows)))
            }
        }
    }
}

/// Rows of a name, a quantity, and possibly a share.
fn amounts<'a>(what: &str, unit: &str, rows: impl Iterator<Item = (&'a str, Quantity, Option<String>)>) -> Markup {
    let rows: Vec<_> = rows.collect();
    let shares = rows.iter().any(|(.., share)| share.is_some());
    html! {
        table {
            thead {
                tr {
                    th scope="col" { (what) }
                    th.n scope="col" { (unit) }
                    @if shares { th.n scope="col" { "Share" } }
                }
            }
            tbody {
                @for (name, amount, share) in rows {
                    tr {
                        th.id scope="row" { (name) }
                        td.n { (quantity(amount)) }
                        @if shares { td.n { (share.unwrap_or_default()) } }
                    }
                }
            }
        }
    }
}

/// Every day of the month, so that a chart shows which ones are missing; without a month, the days
/// there are.
fn bars(days: &[(String, Quantity)], month: &str) -> Vec<Bar> {
    let bar = |day: Date, attributed| Bar { day, attributed, unattributed: Quantity::ZERO };
    let booked: Vec<(Date, Quantity)> = days.iter().filter_map(|(day, q)| Some((day.parse().ok()?, *q))).collect();
    let Ok(first) = format!("{month}-01").parse::<Date>() else {
        return booked.into_iter().map(|(day, q)| bar(day, q)).collect();
    };
    let of = |day: Date| booked.iter().filter(|(d, _)| *d == day).map(|(_, q)| *q).sum();
    first
        .series(jiff::ToSpan::day(1))
        .take_while(|day| *day <= first.last_of_month())
        .map(|day| bar(day, of(day)))
        .collect()
}
