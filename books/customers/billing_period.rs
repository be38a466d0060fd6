//! The bounds of billing periods, and the days of usage that belong to each. Pure.
//!
//! A subscription bills month by month from its anchor, an instant; an anchor on the 31st falls on
//! the last day of shorter months and comes back to the 31st, because every boundary is counted
//! from the anchor itself (<https://docs.stripe.com/billing/subscriptions/billing-cycle>). A
//! customer without a living subscription has calendar months in UTC. Periods follow each other
//! without a gap: a subscription that begins, ends or gets another anchor cuts the period that was
//! running. They follow what is known of the subscriptions now, also for the past.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

use crate::units::calendar::Day;

const DAY: i64 = 86_400;
/// The number of future periods that are kept open.
const AHEAD: usize = 2;

/// What decides the periods of a subscription. Instants are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    pub id: String,
    /// Every anchor that it had, the oldest first; at least one.
    pub anchors: Vec<AnchorFrom>,
    pub started: i64,
    pub ended: Option<i64>,
}

/// An anchor, and from when on periods are counted from it. The first one holds from the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnchorFrom {
    pub from: i64,
    pub anchor: i64,
}

impl Subscription {
    /// The month of `t`, counted from the anchor that holds at `t`.
    fn month_of(&self, t: i64) -> (i64, i64) {
        let held = self.anchors.iter().rfind(|a| a.from <= t).or(self.anchors.first());
        held.map_or_else(|| calendar_month(t), |a| around(a.anchor, t))
    }

    /// When it begins, ends or gets another anchor: what cuts a period.
    fn cuts(&self) -> impl Iterator<Item = i64> {
        let anchors = self.anchors.iter().skip(1).map(|a| a.from).filter(|t| self.lives_at(*t));
        anchors.chain([self.started])
    }

    fn lives_at(&self, t: i64) -> bool {
        self.started <= t && self.ended.is_none_or(|ended| t < ended)
    }
}

/// A billing period: from `start` to before `end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    pub start: i64,
    pub end: i64,
    /// None for a calendar month.
    pub subscription: Option<String>,
    /// The whole month that it is part of.
    pub month: (i64, i64),
}

/// A period and its days of usage, first and last included. It has no days when the first is after
/// the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BillingPeriod {
    pub span: Span,
    pub first_day: Day,
    pub last_day: Day,
    /// Its last day if nothing had cut it.
    pub planned_last_day: Day,
    /// Days of the month that it was to be part of when it began.
    pub month_days: i64,
}

impl BillingPeriod {
    /// Whether a stored period is this one. The bounds of the month are not stored.
    pub fn is_stored_as(&self, other: &Self) -> bool {
        let month = other.span.month;
        Self { span: Span { month, ..self.span.clone() }, ..self.clone() } == *other
    }
}

fn civil(t: i64) -> DateTime {
    Timestamp::from_second(t).unwrap_or(Timestamp::MAX).to_zoned(TimeZone::UTC).datetime()
}

fn instant(at: DateTime) -> i64 {
    at.to_zoned(TimeZone::UTC).map_or(i64::MAX, |zoned| zoned.timestamp().as_second())
}

/// The instant `n` months after `anchor`.
fn boundary(anchor: DateTime, n: i32) -> i64 {
    instant(anchor.saturating_add(n.months()))
}

/// The last boundary at or before `t`, and the first after it.
fn around(anchor: i64, t: i64) -> (i64, i64) {
    let (anchor, now) = (civil(anchor), civil(t));
    let years = i32::from(now.year()) - i32::from(anchor.year());
    let mut n = years * 12 + i32::from(now.month()) - i32::from(anchor.month());
    // the boundary of the same month may be after `t`
    if boundary(anchor, n) > t {
        n -= 1;
    }
    (boundary(anchor, n), boundary(anchor, n + 1))
}

/// Start of the calendar month of `t`, and start of the next.
pub fn calendar_month(t: i64) -> (i64, i64) {
    around(0, t)
}

/// Start of the month of `t`, counted from a subscription's anchor, and start of the next.
pub fn month_of(anchor: i64, t: i64) -> (i64, i64) {
    around(anchor, t)
}

/// The subscription that governs at `t`: of several living ones, the one that began last.
fn governing(subscriptions: &[Subscription], t: i64) -> Option<&Subscription> {
    subscriptions.iter().filter(|s| s.lives_at(t)).max_by_key(|s| (s.started, &s.id))
}

/// True when more than one subscription lives at `t`.
pub fn overlap_at(subscriptions: &[Subscription], t: i64) -> bool {
    subscriptions.iter().filter(|s| s.lives_at(t)).count() > 1
}

/// The start of a customer's first period, when none is closed yet and `t` is the oldest known
/// instant: the start of the period that `t` is in.
pub fn first_start(subscriptions: &[Subscription], t: i64) -> i64 {
    match governing(subscriptions, t) {
        Some(s) => s.month_of(t).0.max(s.started).min(t),
        None => calendar_month(t).0,
    }
}

/// The periods from `from` to the current one, and two more.
pub fn spans(subscriptions: &[Subscription], from: i64, now: i64) -> Vec<Span> {
    let mut found: Vec<Span> = vec![];
    let mut start = from;
    while found.iter().filter(|s| s.end > now).count() <= AHEAD {
        let governs = governing(subscriptions, start);
        let month = governs.map_or_else(|| calendar_month(start), |s| s.month_of(start));
        let mut end = month.1.min(governs.and_then(|s| s.ended).unwrap_or(i64::MAX));
        // what begins or changes in between cuts the period, unless it ends as it begins
        let later = subscriptions.iter().filter(|s| s.ended.is_none_or(|ended| ended > s.started));
        if let Some(cut) = later.flat_map(Subscription::cuts).filter(|t| *t > start && *t < end).min() {
            end = cut;
        }
        if end <= start {
            break; // the end of representable time
        }
        found.push(Span { start, end, subscription: governs.map(|s| s.id.clone()), month });
        start = end;
    }
    found
}

fn day_of(t: i64) -> i64 {
    t.div_euclid(DAY)
}

/// The period that a day belongs to: a subscription's that has its last second, else a
/// subscription's that has its first, else a calendar month's in the same order.
fn owner(spans: &[Span], day: i64) -> Option<usize> {
    let holds = |second: i64| move |s: &Span| s.start <= second && second < s.end;
    let (first, last) = (holds(day * DAY), holds(day * DAY + DAY - 1));
    let billed = |s: &Span| s.subscription.is_some();
    spans
        .iter()
        .position(|s| billed(s) && last(s))
        .or_else(|| spans.iter().position(|s| billed(s) && first(s)))
        .or_else(|| spans.iter().position(&last))
        .or_else(|| spans.iter().position(&first))
}

/// Gives each period its days. A day belongs to one period only.
pub fn with_days(spans: Vec<Span>) -> Vec<BillingPeriod> {
    let mut next = None;
    let mut found = vec![];
    for (i, span) in spans.iter().enumerate() {
        let own = |day: i64| owner(&spans, day) == Some(i);
        let first = next.unwrap_or_else(|| day_of(span.start));
        let end = day_of(span.end - 1);
        let last = if own(end) { end } else { end - 1 };
        let last = last.max(first - 1);
        next = Some(last + 1);
        let (month_start, month_end) = span.month;
        let planned = if span.end == month_end { last } else { last.max(day_of(month_end) - 1) };
        // one that begins with its month is all of it, whichever of its first and last day is its
        let whole = planned - first + 1;
        let month_days = if span.start == month_start { whole } else { day_of(month_end) - day_of(month_start) };
        let day = |day: i64| i32::try_from(day).ok().and_then(Day::from_epoch);
        if let (Some(first_day), Some(last_day), Some(planned_last_day)) = (day(first), day(last), day(planned)) {
            let month_days = month_days.max(1);
            found.push(BillingPeriod { span: span.clone(), first_day, last_day, planned_last_day, month_days });
        }
    }
    found
}

#[cfg(test)]
mod tests;
