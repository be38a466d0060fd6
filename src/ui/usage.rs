//! Usage: a card for each meter, with the month so far, its forecast, and a chart of its days.

use std::collections::{BTreeMap, BTreeSet};

use books::audit::stats::{DAYS, DayUsage, MonthUsage};
use books::forecast::stored::MeterForecast;
use books::units::quantity::Quantity;
use jiff::ToSpan;
use jiff::civil::Date;
use maud::{Markup, html};

use super::StatusView;
use super::chart::{self, Bar};
use super::format;
use super::layout::scroll;
use crate::format::percent_of as percent;
use crate::health::NO_BILL;

/// One card for each meter with booked usage.
pub(super) fn cards(view: &StatusView<'_>) -> Markup {
    let books = &view.overview.books;
    let today = format::date(view.overview.at);
    let meters: BTreeSet<&str> =
        books.month.iter().map(|m| m.meter.as_str()).chain(books.days.iter().map(|d| d.meter.as_str())).collect();
    if meters.is_empty() {
        return match view.overview.bills().next() {
            None => html! { p.card.empty { (format::prose(NO_BILL)) } },
            Some(_) => html! { p.card.empty { "No usage is booked in the last " (DAYS) " days." } },
        };
    }
    html! {
        div.cards {
            @for (i, meter) in meters.into_iter().enumerate() {
                (card(&format!("usage-{i}"), meter, unit(view.units, meter), view, today))
            }
        }
    }
}

/// The unit of a meter.
pub(super) fn unit<'a>(units: &'a BTreeMap<String, String>, meter: &str) -> &'a str {
    units.get(meter).map_or("units", String::as_str)
}

/// The name of a meter that people read.
pub(super) fn name<'a>(names: &'a BTreeMap<String, String>, meter: &'a str) -> &'a str {
    names.get(meter).map_or(meter, String::as_str)
}

fn card(id: &str, meter: &str, unit: &str, view: &StatusView<'_>, today: Date) -> Markup {
    let books = &view.overview.books;
    let month = books.month.iter().find(|m| m.meter == meter);
    let booked: Vec<&DayUsage> = books.days.iter().filter(|d| d.meter == meter).collect();
    let bars = bars(&booked, today);
    let shown = bars.first().map_or(String::new(), |bar| bar.day.strftime("%B").to_string());
    let some_unattributed = bars.iter().any(|b| !b.unattributed.is_zero());
    html! {
        section.card.meter aria-labelledby=(id) {
            h3.id #(id) title=(meter) { (name(view.names, meter)) }
            @match month {
                Some(month) => (so_far(month, unit, view, today)),
                None => { p.empty { "Nothing is booked in " (today.strftime("%B").to_string()) " yet." } }
            }
            @if booked.is_empty() {
                p.empty { "Nothing is booked in the last " (DAYS) " days." }
            } @else {
                (chart::days(&format!("{id}-chart"), &format!("{meter} by day in {shown}"), unit, &bars))
                ul.legend {
                    li { (unit) " a day (UTC) in " (shown) ":" }
                    li { i {} "of customers" }
                    @if some_unattributed { li { i.second {} "without a customer" } }
                }
                details {
                    summary { "Exact figures" }
                    (scroll(&format!("{meter} by day, in {unit}"), table(&booked)))
                }
            }
        }
    }
}

/// The month so far, and its forecast.
fn so_far(month: &MonthUsage, unit: &str, view: &StatusView<'_>, today: Date) -> Markup {
    let forecast = view.overview.books.forecasts.iter().find(|of| of.forecast.meter == month.meter);
    let total = month.attributed + month.unattributed;
    let name = today.strftime("%B").to_string();
    let share = format::share(month.unattributed, total);
    html! {
        p.figure {
            b title=(total) { (format::rounded(total)) }
            span { (unit) " in " (format::counted(month.days, "day", "days")) " of " (name) }
        }
        p.soft {
            @if let Some(of) = forecast { (expected(of, &name)) }
            @if month.unattributed.is_zero() {
                "All of it belongs to customers."
            } @else {
                (format::rounded(month.unattributed)) @if let Some(share) = share { " (" (share) ")" } " without a customer."
            }
        }
    }
}

/// What is expected by the end of the month, and how good that was in past months.
fn expected(of: &MeterForecast, name: &str) -> Markup {
    let MeterForecast { forecast, accuracy, .. } = of;
    let tried = &accuracy.as_a_whole;
    html! {
        "By the end of " (name) ": about " (format::about(forecast.p50)) " (P50)"
        @if let Some(p90) = forecast.p90 { ", and in nine of ten months no more than " (format::about(p90)) " (P90)" }
        ". Rule: " (tried.used.words())
        @match tried.error() {
            Some(error) => { "; its error in past months was " (percent(Some(error))) ". " }
            None => "; no past month could be tried yet. ",
        }
    }
}

/// A bar for each day of the month so far, whether something is booked of it or not. Until a day of
/// the month is booked, those of the month before.
fn bars(booked: &[&DayUsage], today: Date) -> Vec<Bar> {
    let by_day: BTreeMap<Date, &DayUsage> = booked.iter().filter_map(|d| Some((d.day.parse().ok()?, *d))).collect();
    let first = today.first_of_month();
    let first = if by_day.keys().any(|day| *day >= first) { first } else { first.saturating_sub(1.month()) };
    let last = first.last_of_month();
    let bar = |day: Date| {
        let usage = by_day.get(&day);
        let of = |f: fn(&DayUsage) -> Quantity| usage.map_or(Quantity::ZERO, |u| f(u));
        Bar { day, attributed: of(|u| u.attributed), unattributed: of(|u| u.unattributed) }
    };
    first.series(1.day()).take_while(|day| *day <= last).map(bar).collect()
}

/// Newest first.
fn table(booked: &[&DayUsage]) -> Markup {
    html! {
        table {
            thead {
                tr {
                    th scope="col" { "Day" }
                    th.n scope="col" { "Of customers" }
                    th.n scope="col" { "Without" }
                    th.n scope="col" { "All" }
                }
            }
            tbody {
                @for d in booked.iter().rev() {
                    tr {
                        th scope="row" { time datetime=(d.day) { (d.day) } }
                        td.n { (format::quantity(d.attributed)) }
                        td.n { (format::quantity(d.unattributed)) }
                        td.n { (format::quantity(d.attributed + d.unattributed)) }
                    }
                }
            }
        }
    }
}
