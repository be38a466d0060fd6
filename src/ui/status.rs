//! The status page: the headline, what needs attention, and the figures.

use books::audit::stats::{BillStats, NearLimit};
use jiff::{SignedDuration, Timestamp};
use maud::{Markup, html};

use super::format::{self, ago, count, counted, quantity, span};
use super::layout::{Here, Tone, document, icon, scroll, state};
use super::{RunRow, StatusView, tiles, usage};
use crate::health::{Finding, NO_BILL, Overview, Severity};
use crate::queue::JobState;

/// The most runs on the page.
pub const RUNS: usize = 15;
/// An older reading is marked as old.
const OLD: SignedDuration = SignedDuration::from_mins(15);

/// The page at `/`.
pub fn status(view: &StatusView<'_>, now: Timestamp) -> String {
    let (tone, verdict) = verdict(view, now);
    let overview = view.overview;
    let body = html! {
        div class={ "verdict " (tone.class()) } {
            (icon(tone))
            div {
                h1 { (verdict) }
                p {
                    @match tiles::usage_through(view) {
                        Some(day) => { "Usage is booked up to " (day) ". " }
                        None => "No usage is booked yet. ",
                    }
                    "Billing: " (view.billing) ". Read " (ago(overview.at, now)) "."
                    @if view.refresh_seconds > 0 {
                        " Refreshes every " (span(SignedDuration::from_secs(view.refresh_seconds.into())))
                        " (" a href="/?refresh=0" { "stop" } ")."
                    }
                }
            }
        }
        @if is_old(view, now) {
            p.card.block { (icon(Tone::Warning)) " These figures are old: the next reading failed or hangs. The log says why." }
        }
        h2 #needs { "What needs attention" }
        (findings(&overview.findings))
        h2 { "At a glance" }
        (tiles::tiles(view, now))
        h2 { "Usage" }
        (usage::cards(view))
        h2 #limits { "Customers at their limit" }
        (near_limit(view, now))
        h2 { "Entitlements" }
        (entitlements(view, now))
        h2 { "Stripe" }
        (stripe(view, now))
        h2 { "Bills" }
        (bills(overview, now))
        h2 { "Last runs" }
        @match view.no_runs {
            Some(why) => { p.empty { "They cannot be read: " (why) } }
            None => (runs(view.runs, now)),
        }
        (kinds(view, now))
    };
    let foot = html! {
        p { "meter " (view.version) " · books in " (overview.database) " · " a href="/metrics" { "metrics" } }
    };
    document(&verdict, Here::Status, view.refresh_seconds, body, foot)
}

fn is_old(view: &StatusView<'_>, now: Timestamp) -> bool {
    now.duration_since(view.overview.at) > OLD
}

/// The headline.
fn verdict(view: &StatusView<'_>, now: Timestamp) -> (Tone, String) {
    let needs = |n| if n == 1 { "needs attention" } else { "need attention" };
    let of = |level| view.overview.findings.iter().filter(|f| f.severity == level).count();
    match (of(Severity::Critical), of(Severity::Warning)) {
        (0, 0) if is_old(view, now) => (Tone::Warning, "The state is not known".into()),
        (0, 0) => (Tone::Good, "All is well".into()),
        (0, 1) => (Tone::Warning, "1 thing needs attention".into()),
        (0, n) => (Tone::Warning, format!("{n} things need attention")),
        (1, 0) => (Tone::Bad, "Something is wrong".into()),
        (wrong, 0) => (Tone::Bad, format!("{wrong} things are wrong")),
        (1, n) => (Tone::Bad, format!("Something is wrong, and {n} more {}", needs(n))),
        (wrong, n) => (Tone::Bad, format!("{wrong} things are wrong, and {n} more {}", needs(n))),
    }
}

fn findings(findings: &[Finding]) -> Markup {
    if findings.is_empty() {
        return html! { p.empty { "Nothing." } };
    }
    html! {
        ul.findings {
            @for finding in findings {
                @let (tone, word) = match finding.severity {
                    Severity::Critical => (Tone::Bad, "Wrong: "),
                    Severity::Warning => (Tone::Warning, "Attention: "),
                };
                li {
                    span class=(tone.class()) { (icon(tone)) }
                    div {
                        p { strong class=(tone.class()) { (word) } (format::prose(&finding.what)) }
                        p.soft {
                            (advice(&finding.act)) " "
                            a href={ "/runbook#" (finding.alert.to_lowercase()) } { "Runbook: " (finding.alert) }
                        }
                    }
                }
            }
        }
    }
}

/// What to do: commands are set apart, and a page of the documentation is a link.
fn advice(act: &str) -> Markup {
    let part = |part: &str| {
        let (head, rest) = part.find([',', '(']).map_or((part, ""), |end| part.split_at(end));
        let (words, blank) = (head.trim_end(), &head[head.trim_end().len()..]);
        let page = words.strip_prefix("docs/").and_then(|page| page.strip_suffix(".md"));
        html! {
            @if words.starts_with("meter ") { code { (words) } }
            @else if let Some(page) = page { a href={ "/runbook/" (page) } { (words) } }
            @else { (format::prose(words)) }
            (blank) (format::prose(rest))
        }
    };
    html! { @for (i, of) in act.split("; ").enumerate() { @if i > 0 { "; " } (part(of)) } }
}

fn near_limit(view: &StatusView<'_>, now: Timestamp) -> Markup {
    let customers = &view.overview.customers;
    if customers.near_limit.is_empty() {
        return html! { p.empty { "No customer has reached a limit or is near one." } };
    }
    let all: i64 = customers.decisions.values().map(|d| d.near + d.blocked).sum();
    let shown = i64::try_from(customers.near_limit.len()).unwrap_or(i64::MAX);
    let row = |p: &NearLimit| {
        let unit = usage::unit(view.units, &p.meter);
        html! {
            tr {
                th.id scope="row" { (format::customer_link(&p.customer)) }
                td.whole { (usage::name(view.names, &p.meter)) }
                td {
                    @if p.allowed { span.state.warning { (icon(Tone::Warning)) span { "near" } } }
                    @else { span.state.wrong { (icon(Tone::Bad)) span { "blocked" } } }
                }
                td.n title=(p.used) {
                    (format::rounded(p.used))
                    @if let Some(part) = format::of_it_measured(p.used_measured) { br; span.soft { (part) } }
                }
                td.n {
                    @if let Some(limit) = p.limit { span title=(limit) { (format::rounded(limit)) } " " (unit) } @else { "none" }
                    @if let Some(at) = p.blocked_at { br; span.soft { (format::limit_reached(at, now)) } }
                }
                td.n { @if let Some(share) = p.limit.and_then(|limit| format::share(p.used, limit)) { (share) } }
                td.text { (format::reason(&p.reason)) }
            }
        }
    };
    let titles = html! {
        th scope="col" { "Customer" }
        th scope="col" { "Meter" }
        th scope="col" { "Now" }
        th.n scope="col" { "Used" }
        th.n scope="col" { "Limit" }
        th.n scope="col" { "Share" }
        th scope="col" { "Why" }
    };
    html! {
        (scroll("Customers at or near their limit", table(titles, html! { @for p in &customers.near_limit { (row(p)) } })))
        @if all > shown {
            p.soft.block { (count(all - shown)) " more: " code { "meter entitlements" } " lists all." }
        }
    }
}

fn table(titles: Markup, rows: Markup) -> Markup {
    html! { table { thead { tr { (titles) } } tbody { (rows) } } }
}

fn entitlements(view: &StatusView<'_>, now: Timestamp) -> Markup {
    let customers = &view.overview.customers;
    if customers.decisions.is_empty() {
        return html! { p.empty { "Nothing is decided yet: there are no customers, or " code { "meter work" } " has not checked them." } };
    }
    let titles = html! {
        th scope="col" { "Meter" }
        th.n scope="col" { "Allowed" }
        th.n scope="col" { "Near the limit" }
        th.n scope="col" { "Overage" }
        th.n scope="col" { "Blocked" }
        th.n scope="col" { "Denied" }
    };
    let rows = html! {
        @for (meter, d) in &customers.decisions {
            tr {
                th.whole scope="row" { (usage::name(view.names, meter)) }
                @for n in [d.allowed, d.near, d.overage, d.blocked, d.denied] { td.n { (count(n)) } }
            }
        }
    };
    html! {
        (scroll("Customers by meter and decision", table(titles, rows)))
        p.soft.block {
            @if let Some(at) = view.overview.books.enforced_at { "Decided " (ago(at, now)) ". " }
            "Customers, counted " (ago(view.overview.customers_at, now))
            ". Overage is allowed beyond what the plan includes; blocked is at the limit; denied has another reason, such as the plan."
        }
    }
}

fn stripe(view: &StatusView<'_>, now: Timestamp) -> Markup {
    let (stripe, customers) = (&view.overview.books.stripe, &view.overview.customers);
    let events = &stripe.events;
    let meters: std::collections::BTreeSet<&String> =
        customers.drift.keys().chain(customers.deferred_units.keys()).collect();
    let since = |at: Option<Timestamp>| html! { @if let Some(at) = at { ", since " (ago(at, now)) } };
    html! {
        dl.view.card {
            dt { "Settled" }
            dd { (count(events.settled)) }
            dt { "To send" }
            dd { (count(events.pending + events.sending)) (since(stripe.oldest_pending_at)) }
            dt { "Unconfirmed" }
            dd { (count(events.unconfirmed)) (since(stripe.oldest_unconfirmed_at)) }
            dt { "Refused" }
            dd { (count(events.refused)) }
            dt { "Deferred" }
            dd {
                @if customers.deferred.is_empty() { "0" }
                @for (i, (reason, n)) in customers.deferred.iter().enumerate() { @if i > 0 { ", " } (count(*n)) " " (reason.replace('_', " ")) }
                (since(customers.oldest_deferred_at))
            }
            dt { "Alarms" }
            dd { (count(stripe.alarms)) }
        }
        @if meters.is_empty() {
            p.soft.block { "No totals have been compared with Stripe's yet." }
        } @else {
            div.block {
                (scroll("Difference to Stripe by meter", table(
                    html! {
                        th scope="col" { "Meter" }
                        th.n scope="col" { "Stripe differs by" }
                        th.n scope="col" { "Deferred" }
                        th scope="col" { "Unit" }
                    },
                    html! {
                        @for meter in meters {
                            @let drift = customers.drift.get(meter).copied().unwrap_or_default();
                            tr {
                                th.whole scope="row" { (usage::name(view.names, meter)) }
                                td.n.warning[!drift.is_zero()] { (quantity(drift)) @if !drift.is_zero() { " " (icon(Tone::Warning)) } }
                                td.n { (quantity(customers.deferred_units.get(meter).copied().unwrap_or_default())) }
                                td { (usage::unit(view.units, meter)) }
                            }
                        }
                    },
                )))
            }
        }
        @if !stripe.some_alarms.is_empty() {
            div.block {
                (scroll("Alarms", table(
                    html! {
                        th scope="col" { "Customer" }
                        th scope="col" { "Meter" }
                        th scope="col" { "Alarm" }
                    },
                    html! {
                        @for alarm in &stripe.some_alarms {
                            tr {
                                th.id scope="row" { (format::customer_link(&alarm.customer)) }
                                td.whole { (usage::name(view.names, &alarm.meter)) }
                                td.text { (format::prose(&alarm.difference.to_string())) }
                            }
                        }
                    },
                )))
            }
        }
    }
}

fn bills(overview: &Overview, now: Timestamp) -> Markup {
    if overview.bills().next().is_none() {
        return html! { p.empty { (format::prose(NO_BILL)) } };
    }
    let when = |at: Option<Timestamp>| html! { @if let Some(at) = at { (ago(at, now)) } @else { "unknown" } };
    let row = |b: &BillStats| {
        let lines: Vec<String> =
            b.lines.iter().map(|(claim, n)| format!("{} {}", count(*n), claim.replace('_', " "))).collect();
        html! {
            tr {
                th.id scope="row" { (b.payer) }
                td.whole { (b.month) }
                td { (when(b.delivered_at)) }
                td { (when(b.usage_through)) }
                td.n { (count(b.rows)) }
                td.n { (count(b.counted_rows)) }
                td.text { (lines.join(", ")) }
                td.text {
                    @if b.on_hold == 0 { "none" } @else {
                        span.warning { (icon(Tone::Warning)) " " (counted(b.on_hold, "version", "versions")) }
                        @if let Some(why) = &b.hold_reason { ": " (format::prose(why)) }
                    }
                }
            }
        }
    };
    let titles = html! {
        th scope="col" { "Payer" }
        th scope="col" { "Month" }
        th scope="col" { "Made by AWS" }
        th scope="col" { "Usage through" }
        th.n scope="col" { "Rows" }
        th.n scope="col" { "Counted" }
        th scope="col" { "Lines of watched products" }
        th scope="col" { "On hold" }
    };
    scroll("Bills by payer", table(titles, html! { @for b in &overview.books.bills { (row(b)) } }))
}

fn runs(runs: &[RunRow], now: Timestamp) -> Markup {
    if runs.is_empty() {
        return html! { p.empty { "No job has run yet: " code { "meter work" } " starts a worker." } };
    }
    let titles = html! {
        th.n scope="col" { "Job" }
        th scope="col" { "Kind" }
        th scope="col" { "State" }
        th scope="col" { "When" }
        th.n scope="col" { "Took" }
        th scope="col" { "Result" }
    };
    let row = |run: &RunRow| {
        html! {
            tr {
                td.n { a href={ "/jobs/" (run.seq) } { (run.seq) } }
                th.whole scope="row" { (run.kind) }
                td { (state(run.state, run.attention)) }
                td { (ago(run.at, now)) }
                td.n { @if let Some(took) = run.took { (format::took(took)) } }
                td.text { span.clip { (format::prose(&run.result)) } }
            }
        }
    };
    html! {
        (scroll("Last runs", table(titles, html! { @for run in runs.iter().take(RUNS) { (row(run)) } })))
        p.block { a href="/jobs" { "All jobs" } }
    }
}

/// Every kind of job and every schedule; collapsed, because it is seldom needed.
fn kinds(view: &StatusView<'_>, now: Timestamp) -> Markup {
    let queue = &view.overview.queue;
    if queue.kinds.is_empty() && queue.ticks.is_empty() {
        return html! {};
    }
    let states = [JobState::Pending, JobState::Scheduled, JobState::Running, JobState::Retrying, JobState::Dead];
    let titles = html! {
        th scope="col" { "Kind" }
        @for state in states { th.n scope="col" { (state.as_str()) } }
        th scope="col" { "Waits since" }
        th scope="col" { "Last done" }
    };
    let rows = html! {
        @for (kind, of) in &queue.kinds {
            tr {
                th.whole scope="row" { (kind) }
                @for state in states { td.n { (count(of.states.get(&state).copied().unwrap_or(0))) } }
                td { @if let Some(at) = of.waiting_since { (ago(at, now)) } }
                td {
                    @if let Some(at) = of.last_done { (ago(at, now)) } @else { "not lately" }
                    @if of.attention { " " span.warning { (icon(Tone::Warning)) " needs attention" } }
                }
            }
        }
    };
    html! {
        details {
            summary { "By kind and schedule" }
            @if !queue.kinds.is_empty() { (scroll("Jobs by kind", table(titles, rows))) }
            @if !queue.ticked_at.is_empty() {
                dl.view.card.block {
                    @for (schedule, at) in &queue.ticked_at { dt { (schedule) } dd { "enqueued " (ago(*at, now)) } }
                }
            }
        }
    }
}
