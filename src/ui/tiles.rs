//! The figures at a glance: one tile each.

use std::collections::{BTreeMap, BTreeSet};

use books::audit::stats::Decisions;
use books::units::money::Currency;
use books::units::quantity::Quantity;
use jiff::{SignedDuration, Timestamp};
use maud::{Markup, html};

use super::StatusView;
use super::format::{ago, bytes, count, counted, date, long_day, span, two_decimals};
use super::layout::{Tone, icon};
use crate::health::NO_WEBHOOK;
use crate::queue::{JobState, WorkerState};

/// A tile: its label, the figure, and lines below it, each with a tone.
struct Tile {
    label: &'static str,
    figure: Markup,
    lines: Vec<(Tone, Markup)>,
}

impl Tile {
    fn new(label: &'static str, figure: Markup) -> Self {
        Self { label, figure, lines: vec![] }
    }

    fn line(mut self, line: Markup) -> Self {
        self.lines.push((Tone::Quiet, line));
        self
    }

    /// A line that appears only when `n` is not 0.
    fn bad(mut self, tone: Tone, n: i64, what: &str) -> Self {
        if n > 0 {
            self.lines.push((tone, html! { (count(n)) " " (what) }));
        }
        self
    }
}

pub(super) fn tiles(view: &StatusView<'_>, now: Timestamp) -> Markup {
    let tiles = [
        blocked(view),
        bill(view, now),
        day(view, now),
        ledger(view),
        audit(view, now),
        workers(view),
        queue(view, now),
        stripe(view, now),
        turn(view),
        notifications(view, now),
        database(view),
    ];
    let tiles = [money(view, now)].into_iter().chain(costs(view)).chain(tiles);
    html! {
        dl.tiles {
            @for tile in tiles {
                div {
                    dt { (tile.label) }
                    dd { (tile.figure) }
                    @for (tone, line) in tile.lines {
                        @match tone {
                            Tone::Quiet => dd { (line) },
                            _ => dd class=(tone.class()) { (icon(tone)) " " (line) },
                        }
                    }
                }
            }
        }
    }
}

/// Who cannot go on, and who soon cannot.
fn blocked(view: &StatusView<'_>) -> Tile {
    let of = |count: fn(&Decisions) -> i64| view.overview.customers.decisions.values().map(count).sum::<i64>();
    let tile = Tile::new("Limits reached", html! { a href="#limits" { (count(of(|d| d.blocked))) } });
    tile.line(html! { "by a customer and meter; " (count(of(|d| d.near))) " near" })
}

fn none() -> Markup {
    html! { "none yet" }
}

/// What the billing periods that go on will bring, as the last audit summed it.
fn money(view: &StatusView<'_>, now: Timestamp) -> Tile {
    let mut sums: BTreeMap<Currency, (i64, i64)> = BTreeMap::new();
    for (code, open) in view.overview.audit.billing.iter().flat_map(|of| &of.open) {
        let Ok(currency) = code.parse::<Currency>() else { continue };
        let sum = sums.entry(currency).or_default();
        *sum = (sum.0.saturating_add(open.billable), sum.1.saturating_add(open.house));
    }
    let written = |currency: &Currency, minor: i64| format!("{}\u{a0}{currency}", currency.written(minor));
    let amounts: Vec<String> = sums.iter().map(|(currency, (billable, _))| written(currency, *billable)).collect();
    let label = "To be billed for current periods";
    if amounts.is_empty() {
        return Tile::new(label, html! { "nothing" }).line(html! { "no plan has a price, or nothing is planned" });
    }
    let mut tile = Tile::new(label, html! { (amounts.join(" and ")) });
    for (currency, (_, house)) in sums.iter().filter(|(_, (_, house))| *house > 0) {
        tile = tile.line(html! { (written(currency, *house)) " beyond budgets, which the company pays" });
    }
    tile.line(html! {
        @if let Some(at) = view.overview.audit.at { "as audited " (ago(at, now)) "; " }
        code { "meter bill" } " has each customer's"
    })
}

/// What AWS charges in the newest bills, by currency; none without cost meters.
fn costs(view: &StatusView<'_>) -> Option<Tile> {
    let costs = &view.overview.books.costs;
    let mut sums: BTreeMap<&str, (Quantity, Quantity)> = BTreeMap::new();
    for of in costs {
        let sum = sums.entry(&of.currency).or_default();
        *sum = (sum.0 + of.attributed + of.unattributed, sum.1 + of.unattributed);
    }
    let written = |currency: &str, amount: Quantity| format!("{}\u{a0}{currency}", two_decimals(amount));
    let amounts: Vec<String> = sums.iter().map(|(currency, (all, _))| written(currency, *all)).collect();
    let months: BTreeSet<&str> = costs.iter().map(|of| of.month.as_str()).collect();
    let months = months.into_iter().collect::<Vec<_>>().join(", ");
    let tile = Tile::new("AWS's cost in the newest bill", html! { (amounts.join(" and ")) });
    let tile = sums.iter().filter(|(_, (_, nobody))| !nobody.is_zero()).fold(tile, |tile, (currency, (_, nobody))| {
        tile.line(html! { (written(currency, *nobody)) " of it without a customer" })
    });
    (!costs.is_empty()).then(|| tile.line(html! { "of " (months) "; " code { "meter margin" } " has each customer's" }))
}

/// With several payers, the oldest of their newest bills.
fn bill(view: &StatusView<'_>, now: Timestamp) -> Tile {
    let (overview, payers) = (view.overview, view.overview.books.bills.len());
    let tile = match overview.bills().min_by_key(|b| b.delivered_at) {
        None => Tile::new("Newest bill", none()).line(html! { code { "meter ingest" } " reads one" }),
        Some(bill) => {
            let figure = html! { @if let Some(at) = bill.delivered_at { (ago(at, now)) } @else { "unknown" } };
            let tile = Tile::new("Newest bill", figure).line(html! { "made by AWS, for " (bill.month) });
            if payers > 1 {
                tile.line(html! { "of " span.id { (bill.payer) } ", the last of " (payers) })
            } else {
                tile
            }
        }
    };
    tile.bad(Tone::Warning, overview.versions_on_hold(), "on hold")
}

fn day(view: &StatusView<'_>, now: Timestamp) -> Tile {
    let label = "Newest booked day";
    match view.overview.books.bills.iter().map(|b| b.usage_through).min().flatten() {
        None => Tile::new(label, none()),
        Some(end) => {
            // the instant that ends a day belongs to the next day
            let day = date(end.saturating_sub(SignedDuration::from_secs(1)).unwrap_or(end));
            Tile::new(label, html! { time datetime=(day) { (day) } })
                .line(html! { "bills include usage through " (ago(end, now)) })
        }
    }
}

fn ledger(view: &StatusView<'_>) -> Tile {
    let overview = view.overview;
    let tile = Tile::new("Ledger entries", html! { (count(overview.books.entries)) });
    let customers = &overview.customers.by_status;
    if customers.is_empty() {
        return tile.line(html! { "no customers" });
    }
    let each: Vec<String> =
        customers.iter().map(|(status, n)| format!("{} {}", count(*n), status.replace('_', " "))).collect();
    tile.line(html! { "customers: " (each.join(", ")) })
}

fn audit(view: &StatusView<'_>, now: Timestamp) -> Tile {
    let audit = &view.overview.audit;
    let Some(at) = audit.at else {
        return Tile::new("Books audited", html! { "never" })
            .line(html! { code { "meter run verify-books" } " does it" });
    };
    let mut tile = Tile::new("Books audited", ago(at, now));
    if audit.broken().next().is_none() {
        return tile.line(html! { "every rule holds" });
    }
    for (rule, n) in audit.broken() {
        tile = tile.bad(Tone::Bad, n, &format!("× {rule} broken"));
    }
    tile
}

fn workers(view: &StatusView<'_>) -> Tile {
    let of = |state| view.overview.workers(state);
    let figure = match of(WorkerState::Working) {
        0 => html! { "none works" },
        n => html! { (count(n)) " working" },
    };
    let tile = Tile::new("Workers", figure);
    let tile = if of(WorkerState::Stopping) > 0 {
        tile.line(html! { (count(of(WorkerState::Stopping))) " stopping" })
    } else {
        tile
    };
    tile.bad(Tone::Warning, of(WorkerState::Silent), "silent")
}

fn queue(view: &StatusView<'_>, now: Timestamp) -> Tile {
    let kinds = &view.overview.queue.kinds;
    let of = |state| view.overview.jobs(state);
    let tile = Tile::new("Queue", html! { (count(of(JobState::Pending))) " waiting" })
        .line(html! { (count(of(JobState::Running))) " running, " (count(of(JobState::Scheduled))) " for later" });
    let tile = match kinds.values().filter_map(|k| k.waiting_since).min() {
        Some(since) => tile.line(html! { "longest wait " (span(now.duration_since(since))) }),
        None => tile,
    };
    tile.bad(Tone::Warning, of(JobState::Retrying), "retrying").bad(Tone::Bad, of(JobState::Dead), "dead")
}

fn stripe(view: &StatusView<'_>, now: Timestamp) -> Tile {
    let stripe = &view.overview.books.stripe;
    let events = &stripe.events;
    let tile = Tile::new("Stripe", html! { (count(events.pending + events.sending)) " to send" });
    let tile = match stripe.oldest_pending_at {
        Some(at) => tile.line(html! { "oldest for " (span(now.duration_since(at))) }),
        None => tile.line(html! { (counted(events.settled, "amount", "amounts")) " settled" }),
    };
    let tile = match view.overview.deferred() {
        0 => tile,
        n => tile.line(html! { (count(n)) " deferred" }),
    };
    let drifts = view.overview.drifts().count();
    tile.bad(Tone::Warning, events.unconfirmed, "unconfirmed")
        .bad(Tone::Bad, events.refused, "refused")
        .bad(Tone::Bad, stripe.alarms, if stripe.alarms == 1 { "alarm" } else { "alarms" })
        .bad(
            Tone::Warning,
            i64::try_from(drifts).unwrap_or(i64::MAX),
            if drifts == 1 { "meter differs" } else { "meters differ" },
        )
}

fn turn(view: &StatusView<'_>) -> Tile {
    let overview = view.overview;
    let late = overview.findings.iter().any(|f| f.alert == "MeterTurnPeriodsOverdue");
    Tile::new("TURN credentials", html! { (count(overview.customers.turn_used)) })
        .line(html! { "in current periods, " (count(overview.customers.turn_refused)) " refused" })
        .bad(Tone::Warning, i64::from(late), "period not closed in time")
}

fn notifications(view: &StatusView<'_>, now: Timestamp) -> Tile {
    let overview = view.overview;
    let (notifications, messages) = (&overview.books.notifications, &overview.books.operator_messages);
    let tile = if overview.notifications_go_out {
        let tile = Tile::new("Notifications", html! { (count(notifications.pending)) " waiting" });
        let tile = match notifications.oldest_pending_at {
            Some(at) => tile.line(html! { "oldest for " (span(now.duration_since(at))) }),
            None => tile.line(html! { "to the web backend" }),
        };
        tile.bad(Tone::Bad, notifications.dead, "given up")
    } else {
        Tile::new("Notifications", html! { "off" }).line(html! { (NO_WEBHOOK) })
    };
    if !overview.operator_messages_go_out {
        return tile;
    }
    let tile = tile.line(html! { (counted(messages.pending, "message", "messages")) " to the operator waiting" });
    tile.bad(Tone::Bad, messages.dead, "to the operator given up")
}

fn database(view: &StatusView<'_>) -> Tile {
    let size = view.overview.books.size_bytes.and_then(|n| u64::try_from(n).ok());
    let mut tile = Tile::new("Database", html! { @if let Some(n) = size { (bytes(n)) } @else { "remote" } });
    for rows in view.overview.month_rows() {
        let n = |n: u64| crate::format::count(n);
        tile = tile.line(html! { "rows " (rows.what) ": " (n(rows.today)) " today, " (n(rows.so_far)) " this month" });
        let estimate = html! {
            "about " (n(rows.by_end)) " by its end"
            @if let Some(quota) = rows.quota { ", of " (n(quota)) }
        };
        tile.lines.push((if rows.is_over() { Tone::Warning } else { Tone::Quiet }, estimate));
    }
    if view.overview.rows.is_some() {
        tile = tile.line(html! { "without the web backend's rows" });
    }
    match view.overview.free_bytes {
        Some(free) => tile.line(html! { (bytes(free)) " free" }),
        None => tile,
    }
}

/// The newest day with booked usage, for a sentence.
pub(super) fn usage_through(view: &StatusView<'_>) -> Option<String> {
    let end = view.overview.books.bills.iter().map(|b| b.usage_through).min().flatten()?;
    Some(long_day(date(end.saturating_sub(SignedDuration::from_secs(1)).unwrap_or(end))))
}
