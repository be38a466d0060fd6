//! The status page: is all well, what needs a person, and the figures behind it.

use books::audit::stats::{BillStanding, Pressed};
use jiff::{SignedDuration, Timestamp};
use maud::{Markup, html};

use super::layout::{Here, Tone, document, icon, scroll, state};
use super::words::{self, ago, count, counted, quantity, span};
use super::{Facts, Run, glance, usage};
use crate::standing::{Finding, Level};

/// Runs that are shown.
pub const RUNS: usize = 15;
/// A reading that is older than this says little about now.
const OLD: SignedDuration = SignedDuration::from_mins(15);

/// The page at `/`.
pub fn status(facts: &Facts<'_>, now: Timestamp) -> String {
    let (tone, verdict) = verdict(facts, now);
    let standing = facts.standing;
    let body = html! {
        div class={ "verdict " (tone.class()) } {
            (icon(tone))
            div {
                h1 { (verdict) }
                p {
                    @match glance::usage_through(facts) {
                        Some(day) => { "Usage is booked up to " (day) ". " }
                        None => "No usage is booked yet. ",
                    }
                    "Billing: " (facts.billing) ". Read " (ago(standing.at, now)) "."
                    @if facts.refresh_seconds > 0 {
                        " Refreshes every " (span(SignedDuration::from_secs(facts.refresh_seconds.into())))
                        " (" a href="/?refresh=0" { "stop" } ")."
                    }
                }
            }
        }
        @if is_old(facts, now) {
            p.card.block { (icon(Tone::Look)) " These figures are old: the reading that should have replaced them failed or hangs. The log says why." }
        }
        h2 #needs { "What needs a person" }
        (findings(&standing.findings))
        h2 { "At a glance" }
        (glance::tiles(facts, now))
        h2 { "Usage" }
        (usage::cards(facts))
        h2 { "Customers at their limit" }
        (pressed(facts))
        h2 { "Entitlements" }
        (entitlements(facts, now))
        h2 { "Stripe" }
        (stripe(facts, now))
        h2 { "Bills" }
        (bills(&standing.books.bills, now))
        h2 { "Last runs" }
        @match facts.no_runs {
            Some(why) => { p.empty { "They cannot be read: " (why) } }
            None => (runs(facts.runs, now)),
        }
        (kinds(facts, now))
    };
    let foot = html! {
        p { "meter " (facts.version) " · books in " (standing.database) " · " a href="/metrics" { "metrics" } }
    };
    document(&verdict, Here::Status, facts.refresh_seconds, body, foot)
}

fn is_old(facts: &Facts<'_>, now: Timestamp) -> bool {
    now.duration_since(facts.standing.at) > OLD
}

/// How it all stands, in a few words.
fn verdict(facts: &Facts<'_>, now: Timestamp) -> (Tone, String) {
    let of = |level| facts.standing.findings.iter().filter(|f| f.level == level).count();
    match (of(Level::Wrong), of(Level::Look)) {
        (0, 0) if is_old(facts, now) => (Tone::Look, "How things stand is not known".into()),
        (0, 0) => (Tone::Well, "All is well".into()),
        (0, 1) => (Tone::Look, "1 thing needs a person".into()),
        (0, look) => (Tone::Look, format!("{look} things need a person")),
        (1, 0) => (Tone::Wrong, "Something is wrong".into()),
        (wrong, 0) => (Tone::Wrong, format!("{wrong} things are wrong")),
        (1, look) => (Tone::Wrong, format!("Something is wrong, and {look} more to look at")),
        (wrong, look) => (Tone::Wrong, format!("{wrong} things are wrong, and {look} more to look at")),
    }
}

fn findings(findings: &[Finding]) -> Markup {
    if findings.is_empty() {
        return html! { p.empty { "Nothing." } };
    }
    html! {
        ul.findings {
            @for finding in findings {
                @let (tone, word) = match finding.level {
                    Level::Wrong => (Tone::Wrong, "Wrong: "),
                    Level::Look => (Tone::Look, "To look at: "),
                };
                li {
                    span class=(tone.class()) { (icon(tone)) }
                    div {
                        p { strong class=(tone.class()) { (word) } (words::prose(&finding.what)) }
                        p.soft {
                            (words::prose(&finding.act)) " "
                            a href={ "/runbook#" (finding.alert.to_lowercase()) } { "Runbook: " (finding.alert) }
                        }
                    }
                }
            }
        }
    }
}

fn pressed(facts: &Facts<'_>) -> Markup {
    let customers = &facts.standing.customers;
    if customers.pressed.is_empty() {
        return html! { p.empty { "No customer has reached a limit or is near one." } };
    }
    let all: i64 = customers.decisions.values().map(|d| d.near + d.blocked).sum();
    let shown = i64::try_from(customers.pressed.len()).unwrap_or(i64::MAX);
    let row = |p: &Pressed| {
        let unit = usage::unit(facts.units, &p.meter);
        html! {
            tr {
                th.id scope="row" { (words::customer(&p.customer)) }
                td.whole { (p.meter) }
                td {
                    @if p.allowed { span.state.look { (icon(Tone::Look)) span { "near" } } }
                    @else { span.state.wrong { (icon(Tone::Wrong)) span { "blocked" } } }
                }
                td.n { (quantity(p.used)) }
                td.n {
                    @if let Some(limit) = p.limit { (quantity(limit)) " " (unit) } @else { "none" }
                }
                td.n { @if let Some(share) = p.limit.and_then(|limit| words::share(p.used, limit)) { (share) } }
                td.text { (words::reason(&p.reason)) }
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
        (scroll("Customers at or near their limit", table(titles, html! { @for p in &customers.pressed { (row(p)) } })))
        @if all > shown {
            p.soft.block { (count(all - shown)) " more: " code { "meter entitlements" } " lists all." }
        }
    }
}

fn table(titles: Markup, rows: Markup) -> Markup {
    html! { table { thead { tr { (titles) } } tbody { (rows) } } }
}

fn entitlements(facts: &Facts<'_>, now: Timestamp) -> Markup {
    let customers = &facts.standing.customers;
    if customers.decisions.is_empty() {
        return html! { p.empty { "Nothing is decided yet: there are no customers, or " code { "meter work" } " has not looked at them." } };
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
                th.whole scope="row" { (meter) }
                @for n in [d.allowed, d.near, d.overage, d.blocked, d.denied] { td.n { (count(n)) } }
            }
        }
    };
    html! {
        (scroll("Customers by meter and decision", table(titles, rows)))
        p.soft.block {
            "Customers, counted " (ago(facts.standing.customers_at, now))
            ". Overage is allowed beyond what the plan includes; blocked is at the limit; denied has another reason, such as the plan."
        }
    }
}

fn stripe(facts: &Facts<'_>, now: Timestamp) -> Markup {
    let (stripe, customers) = (&facts.standing.books.stripe, &facts.standing.customers);
    let of = |state: &str| stripe.events.get(state).copied().unwrap_or(0);
    let meters: std::collections::BTreeSet<&String> =
        customers.drift.keys().chain(customers.deferred_units.keys()).collect();
    let since = |at: Option<Timestamp>| html! { @if let Some(at) = at { ", since " (ago(at, now)) } };
    html! {
        dl.facts.card {
            dt { "Settled" }
            dd { (count(of("settled"))) }
            dt { "To send" }
            dd { (count(of("pending") + of("sending"))) (since(stripe.oldest_pending_at)) }
            dt { "In doubt" }
            dd { (count(of("unconfirmed"))) (since(stripe.oldest_unconfirmed_at)) }
            dt { "Refused" }
            dd { (count(of("refused"))) }
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
                                th.whole scope="row" { (meter) }
                                td.n.look[!drift.is_zero()] { (quantity(drift)) @if !drift.is_zero() { " " (icon(Tone::Look)) } }
                                td.n { (quantity(customers.deferred_units.get(meter).copied().unwrap_or_default())) }
                                td { (usage::unit(facts.units, meter)) }
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
                                th.id scope="row" { (words::customer(&alarm.customer)) }
                                td.whole { (alarm.meter) }
                                td.text { (words::prose(&alarm.difference.to_string())) }
                            }
                        }
                    },
                )))
            }
        }
    }
}

fn bills(bills: &[BillStanding], now: Timestamp) -> Markup {
    if bills.iter().all(|bill| bill.month.is_empty()) {
        return html! { p.empty { "No bill is booked yet: " code { "meter ingest" } " reads the newest one." } };
    }
    let when = |at: Option<Timestamp>| html! { @if let Some(at) = at { (ago(at, now)) } @else { "unknown" } };
    let row = |b: &BillStanding| {
        let lines: Vec<String> =
            b.lines.iter().map(|(claim, n)| format!("{} {}", count(*n), claim.replace('_', " "))).collect();
        html! {
            tr {
                th.id scope="row" { (b.payer) }
                td.whole { (b.month) }
                td { (when(b.delivered_at)) }
                td { (when(b.usage_through)) }
                td.n { (count(b.rows)) }
                td.n { (count(b.matched_rows)) }
                td.text { (lines.join(", ")) }
                td.text {
                    @if b.on_hold == 0 { "none" } @else {
                        span.look { (icon(Tone::Look)) " " (counted(b.on_hold, "version", "versions")) }
                        @if let Some(why) = &b.hold_reason { ": " (words::prose(why)) }
                    }
                }
            }
        }
    };
    let titles = html! {
        th scope="col" { "Payer" }
        th scope="col" { "Month" }
        th scope="col" { "Made by AWS" }
        th scope="col" { "Tells of usage up to" }
        th.n scope="col" { "Rows" }
        th.n scope="col" { "Counted" }
        th scope="col" { "Lines of watched products" }
        th scope="col" { "On hold" }
    };
    scroll("Bills by payer", table(titles, html! { @for b in bills { (row(b)) } }))
}

fn runs(runs: &[Run], now: Timestamp) -> Markup {
    if runs.is_empty() {
        return html! { p.empty { "No job has run yet: " code { "meter work" } " starts a worker." } };
    }
    let titles = html! {
        th.n scope="col" { "Job" }
        th scope="col" { "Kind" }
        th scope="col" { "State" }
        th scope="col" { "When" }
        th.n scope="col" { "Took" }
        th scope="col" { "Said" }
    };
    let row = |run: &Run| {
        html! {
            tr {
                td.n { a href={ "/jobs/" (run.seq) } { (run.seq) } }
                th.whole scope="row" { (run.kind) }
                td { (state(&run.state, run.attention)) }
                td { (ago(run.at, now)) }
                td.n { @if let Some(took) = run.took { (words::took(took)) } }
                td.text { span.clip { (words::prose(&run.said)) } }
            }
        }
    };
    html! {
        (scroll("Last runs", table(titles, html! { @for run in runs.iter().take(RUNS) { (row(run)) } })))
        p.block { a href="/jobs" { "All jobs" } }
    }
}

/// Every kind of job and every schedule: seldom needed, so collapsed.
fn kinds(facts: &Facts<'_>, now: Timestamp) -> Markup {
    let queue = &facts.standing.queue;
    if queue.kinds.is_empty() && queue.ticks.is_empty() {
        return html! {};
    }
    let states = ["pending", "scheduled", "running", "retrying", "dead"];
    let titles = html! {
        th scope="col" { "Kind" }
        @for state in states { th.n scope="col" { (state) } }
        th scope="col" { "Waits since" }
        th scope="col" { "Last done" }
    };
    let rows = html! {
        @for (kind, of) in &queue.kinds {
            tr {
                th.whole scope="row" { (kind) }
                @for state in states { td.n { (count(of.states.get(state).copied().unwrap_or(0))) } }
                td { @if let Some(at) = of.waiting_since { (ago(at, now)) } }
                td {
                    @if let Some(at) = of.last_done { (ago(at, now)) } @else { "not lately" }
                    @if of.attention { " " span.look { (icon(Tone::Look)) " look at it" } }
                }
            }
        }
    };
    html! {
        details {
            summary { "By kind and schedule" }
            @if !queue.kinds.is_empty() { (scroll("Jobs by kind", table(titles, rows))) }
            @if !queue.ticks.is_empty() {
                dl.facts.card.block {
                    @for (schedule, at) in &queue.ticks { dt { (schedule) } dd { "enqueued " (ago(*at, now)) } }
                }
            }
        }
    }
}
