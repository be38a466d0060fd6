//! The page of one customer: what may be used, what is used, in units and money, and what happened.

use books::customers::customer::Customer;
use books::customers::search::FoundCustomers;
use books::forecast::stored::UsageForecast;
use books::limits::entitlement::Entitlement;
use books::limits::notification::Notification;
use books::stripe::meter_event::MeterEvent;
use books::units::quantity::Quantity;
use jiff::Timestamp;
use maud::{Markup, html};

use super::format::{self, ago, instant, quantity};
use super::layout::{Here, Tone, document, icon, scroll};
use super::{statement, usage};
use crate::format::used_up;
use crate::margin::{CustomerMargin, MarginLine};
use crate::statement::{Statement, StatementSettings};

/// What the page of a customer shows.
#[derive(Clone, Copy, Debug)]
pub struct CustomerView<'a> {
    pub customer: &'a Customer,
    pub entitlements: &'a [Entitlement],
    /// Of the month, as it was forecast last.
    pub forecasts: &'a [UsageForecast],
    /// The newest billing period; none when no bill can be made.
    pub statement: Option<&'a Statement>,
    /// Of the same period; none when nothing is known of costs.
    pub margin: Option<&'a CustomerMargin>,
    /// The newest ones first.
    pub events: &'a [MeterEvent],
    pub notifications: &'a [Notification],
    pub settings: &'a StatementSettings,
}

/// The page at `/customers?id=…`.
pub fn customer(view: &CustomerView<'_>, now: Timestamp) -> String {
    let of = view.customer;
    let body = html! {
        h1.id { (of.id) }
        dl.view.card.block {
            @if let Some(name) = &of.display_name {
                dt { "Name" }
                dd { (name) }
            }
            dt { "Plan" }
            dd { (of.plan) }
            dt { "Status" }
            dd { (of.status) }
            dt { "Stripe customer" }
            dd { (of.stripe_customer_id.as_deref().unwrap_or("none")) }
            @for subscription in &of.subscriptions {
                dt { "Subscription" }
                dd {
                    (subscription.id) ": " (subscription.status) ", from " (instant(subscription.started_at))
                    @if let Some(at) = subscription.ended_at { ", ended " (instant(at)) }
                }
            }
            dt { "Customer since" }
            dd { (of.created_at.get(..10).unwrap_or(&of.created_at)) }
        }
        h2 { "What may be used" }
        (entitlements(view, now))
        @if !view.forecasts.is_empty() {
            h2 { "What is expected" }
            (expected(view, now))
        }
        h2 { "What will be billed" }
        (money(view))
        @if let Some(margin) = view.margin {
            h2 { "What AWS charges, and what is left" }
            (costs(margin, view))
        }
        @if let Some(statement) = view.statement { div.report { (statement::usage_by_day(statement)) } }
        h2 { "Meter events" }
        (events(view, now))
        h2 { "Notifications" }
        (notifications(view, now))
        p.soft.block {
            "More of it: " code { "meter explain " (of.id) } ", " code { "meter customer show " (of.id) } ", "
            code { "meter reconcile " (of.id) } "."
        }
    };
    document(&of.id, Here::Customers, 0, body, html! { p { "Days are UTC." } })
}

fn name<'a>(view: &'a CustomerView<'_>, meter: &'a str) -> &'a str {
    usage::name(&view.settings.names, meter)
}

fn entitlements(view: &CustomerView<'_>, now: Timestamp) -> Markup {
    if view.entitlements.is_empty() {
        return html! { p.empty { "Nothing is decided of this customer yet." } };
    }
    let row = |of: &Entitlement| {
        let unit = usage::unit(&view.settings.units, &of.meter);
        html! {
            tr {
                th.whole scope="row" { (name(view, &of.meter)) }
                td data-label="Now" {
                    @if of.allowed { span.state.well { (icon(Tone::Good)) span { "allowed" } } }
                    @else { span.state.wrong { (icon(Tone::Bad)) span { "blocked" } } }
                }
                td.n data-label="Used" title=(of.used) {
                    (format::rounded(of.used)) " " (unit)
                    @if let Some(part) = format::of_it_measured(of.used_measured) { br; span.soft { (part) } }
                }
                td.n data-label="Limit" {
                    @if let Some(limit) = of.effective_limit { (quantity(limit)) } @else { "none" }
                    @if let Some(at) = of.blocked_at { br; span.soft { (format::limit_reached(at, now)) } }
                }
                td.text data-label="Why" { (of.reason.words()) }
            }
        }
    };
    let table = html! {
        table.stack {
            thead {
                tr {
                    th scope="col" { "What" }
                    th scope="col" { "Now" }
                    th.n scope="col" { "Used" }
                    th.n scope="col" { "Limit" }
                    th scope="col" { "Why" }
                }
            }
            tbody { @for of in view.entitlements { (row(of)) } }
        }
    };
    let decided = view.entitlements.iter().map(|of| of.decided_at).max();
    html! {
        (scroll("What may be used", table))
        p.soft.block { @if let Some(at) = decided { "Decided " (ago(at, now)) "." } }
    }
}

/// The end of the month and of the billing period, if usage goes on as before.
fn expected(view: &CustomerView<'_>, now: Timestamp) -> Markup {
    let bill = |of: &UsageForecast| {
        let bill = of.bill.as_ref();
        html! {
            @match bill {
                Some(bill) => {
                    (bill.p50.to_string())
                    @if let Some(p90) = bill.p90 { br; span.soft { "P90 " (p90.to_string()) } }
                }
                None => "–",
            }
        }
    };
    let row = |of: &UsageForecast| {
        let unit = usage::unit(&view.settings.units, &of.meter);
        html! {
            tr {
                th.whole scope="row" { (name(view, &of.meter)) }
                td.n data-label="Booked" title=(of.booked) { (format::rounded(of.booked)) }
                td.n data-label="Month end" title=(of.p50) {
                    (format::rounded(of.p50)) " " (unit)
                    @if let Some(p90) = of.p90 { br; span.soft { "P90 " (format::rounded(p90)) } }
                }
                td.n data-label="Included until" {
                    @if let Some(day) = of.included_on { (used_up(day, "used up", now)) } @else { "–" }
                }
                td.n data-label="Limit on" {
                    @if let Some(day) = of.limit_on { (used_up(day, "reached", now)) } @else { "–" }
                }
                td.n data-label="Bill" { (bill(of)) }
            }
        }
    };
    let table = html! {
        table.stack {
            thead {
                tr {
                    th scope="col" { "What" }
                    th.n scope="col" { "Booked" }
                    th.n scope="col" { "Month end" }
                    th.n scope="col" { "Included until" }
                    th.n scope="col" { "Limit on" }
                    th.n scope="col" { "Bill" }
                }
            }
            tbody { @for of in view.forecasts { (row(of)) } }
        }
    };
    html! {
        (scroll("What is expected", table))
        p.soft.block {
            "Half of all months end with more than the first amount, and one of ten with more than P90. Days and bills are those of the billing period. "
            code { "meter forecast " (view.customer.id) } " forecasts anew."
        }
    }
}

fn money(view: &CustomerView<'_>) -> Markup {
    let Some(of) = view.statement else {
        return html! {
            p.empty { "No bill can be made: there is no billing period yet, its plan is unknown, or nothing is billed." }
        };
    };
    let (first, last) = (format::date(of.period_start), statement::last_day(of.period_end));
    let waiting = of.meters.iter().any(|meter| !meter.usage.waiting.is_zero());
    html! {
        p.lead { (format::long_day(first)) " to " (format::long_day(last)) ", plan " (of.plan) "." }
        div.block { (statement::overview(of)) }
        @for budget in &of.budgets {
            p.block {
                "Overage budget for " (statement::capped(&budget.meter, of)) ": " (budget.amount.to_string()) "."
            }
        }
        @if waiting { p.soft.block { code { "meter bill " (of.customer) } " says what some of it waits for." } }
    }
}

/// Revenue less cost of the period, meter by meter.
fn costs(of: &CustomerMargin, view: &CustomerView<'_>) -> Markup {
    let amount = |amount: Option<Quantity>, currency: &str| match amount {
        Some(amount) => html! { span title=(amount) { (format::two_decimals(amount)) "\u{a0}" (currency) } },
        None => html! { "–" },
    };
    let row = |line: &MarginLine| {
        html! {
            tr {
                th.whole scope="row" { (name(view, &line.meter)) }
                td.n data-label="Billed" { (amount(line.revenue, &line.currency)) }
                td.n data-label="AWS's cost" { (amount(Some(line.cost), &line.currency)) }
                td.n data-label="Margin" { (amount(line.margin, &line.currency)) }
            }
        }
    };
    let own = of.currency.to_string();
    let table = html! {
        table.stack {
            thead {
                tr {
                    th scope="col" { "What" }
                    th.n scope="col" { "Billed" }
                    th.n scope="col" { "AWS's cost" }
                    th.n scope="col" { "Margin" }
                }
            }
            tbody { @for line in &of.lines { (row(line)) } }
            tfoot {
                tr {
                    th scope="row" { "Together" }
                    td.n { (amount(of.revenue, &own)) }
                    td.n { (amount(Some(of.costs.get(&own).copied().unwrap_or_default()), &own)) }
                    td.n { (amount(of.margin, &own)) }
                }
            }
        }
    };
    let is_foreign = of.costs.keys().any(|currency| *currency != own);
    html! {
        (scroll("Revenue and costs", table))
        p.soft.block {
            "Costs are those of " (of.first_day) " through " (of.last_day) ", as far as AWS has billed them. Base prices, taxes and Stripe's fees are not in it."
            @if is_foreign { " Costs in another currency are not converted, so there is no margin." }
        }
    }
}

fn events(view: &CustomerView<'_>, now: Timestamp) -> Markup {
    if view.events.is_empty() {
        return html! { p.empty { "Nothing was sent to Stripe." } };
    }
    let row = |of: &MeterEvent| {
        html! {
            tr {
                td.n { (of.seq) }
                th.whole scope="row" { (name(view, &of.meter)) }
                td.n { (format::count(of.value)) }
                td { (of.state.name().replace('_', " ")) }
                td { (ago(of.settled_at.unwrap_or(of.created_at), now)) }
                td { (format::date(of.period_start)) }
                td.text { @if let Some(error) = &of.error { (format::prose(error)) } }
            }
        }
    };
    let table = html! {
        table {
            thead {
                tr {
                    th.n scope="col" { "Event" }
                    th scope="col" { "What" }
                    th.n scope="col" { "Value" }
                    th scope="col" { "State" }
                    th scope="col" { "When" }
                    th scope="col" { "Period from" }
                    th scope="col" { "Error" }
                }
            }
            tbody { @for of in view.events { (row(of)) } }
        }
    };
    scroll("Meter events", table)
}

fn notifications(view: &CustomerView<'_>, now: Timestamp) -> Markup {
    if view.notifications.is_empty() {
        return html! { p.empty { "None." } };
    }
    let row = |of: &Notification| {
        html! {
            tr {
                td { (ago(of.created_at, now)) }
                th.whole scope="row" { (of.kind.replace('_', " ")) @if of.percent > 0 { " " (of.percent) "\u{a0}%" } }
                td { @if of.meter.is_empty() { "all meters" } @else { (name(view, &of.meter)) } }
                td { (of.state) }
                td.text { @if let Some(error) = &of.error { (format::prose(error)) } }
            }
        }
    };
    let table = html! {
        table {
            thead {
                tr {
                    th scope="col" { "When" }
                    th scope="col" { "What" }
                    th scope="col" { "Meter" }
                    th scope="col" { "State" }
                    th scope="col" { "Error" }
                }
            }
            tbody { @for of in view.notifications { (row(of)) } }
        }
    };
    scroll("Notifications", table)
}

/// The page at `/customers`: a search, and what it found.
pub fn customers(asked: &str, found: &FoundCustomers) -> String {
    let row = |of: &Customer| {
        html! {
            tr {
                th.id scope="row" { (format::customer_link(&of.id)) }
                td { (of.display_name.as_deref().unwrap_or_default()) }
                td { (of.plan) }
                td { (of.status) }
                td { (of.stripe_customer_id.as_deref().unwrap_or("none")) }
            }
        }
    };
    let table = html! {
        table {
            thead {
                tr {
                    th scope="col" { "Customer" }
                    th scope="col" { "Name" }
                    th scope="col" { "Plan" }
                    th scope="col" { "Status" }
                    th scope="col" { "Stripe customer" }
                }
            }
            tbody { @for of in &found.customers { (row(of)) } }
        }
    };
    let body = html! {
        h1 { "Customers" }
        form method="get" action="/customers" {
            div.row {
                div {
                    label for="q" { "Part of an id, a name or a Stripe id" }
                    input #q name="q" value=(asked) maxlength="256";
                }
                div { button type="submit" { "Search" } }
            }
        }
        @if found.customers.is_empty() {
            p.empty { @if asked.is_empty() { "There are no customers." } @else { "No customer is like this." } }
        } @else {
            (scroll("Customers", table))
            @if found.more > 0 { p.soft.block { (format::count(i64::try_from(found.more).unwrap_or(i64::MAX))) " more; search for fewer." } }
        }
    };
    document("Customers", Here::Customers, 0, body, html! {})
}
