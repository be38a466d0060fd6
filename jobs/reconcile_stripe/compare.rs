//! Compares Stripe's total of an invoice with the events that Stripe accepted. Pure.
//!
//! *Sent* is the sum of the accepted events, less the shortfall that a person has acknowledged. A
//! total lags, so an event counts as *settled* a day after Stripe took it, and a shortfall is
//! believed when the same amount has been missing for a day. Of the total of the whole period
//! ([`compare_whole`]) only an agreement is believed:
//!
//! | total of the whole period | unconfirmed event | difference |
//! |---|---|---|
//! | sent, or sent and the discarded events | none | `Agrees` |
//! | sent and the unconfirmed event, all others settled | one | `UnconfirmedArrived` |
//! | anything else | | the settled events decide |
//!
//! Of the total of the settled events ([`compare_settled`]), *sent* is the sum of these events:
//!
//! | total of the settled events | for a day | difference |
//! |---|---|---|
//! | cannot be asked for: no event is settled | | `TooEarly` |
//! | sent, without an unconfirmed event | | `TooEarly`: the others do not show yet |
//! | sent and the unconfirmed event | | `UnconfirmedArrived` |
//! | anything else | no | `TooEarly` |
//! | sent less some accepted events | yes | `EventsMissing`: the fewest, the newest |
//! | sent, without the unconfirmed event | yes | `EventsMissing`: the unconfirmed event |
//! | sent less an amount that no events sum up to | yes | `StripeHasLess` |
//! | more than sent | yes | `StripeHasMore` |
//!
//! `NoTotal` is Stripe's answer 400 or 404, or an answer that cannot be read.

use books::stripe::difference::{Difference, Shortfall, Unexplained};
use books::stripe::reconciliation::{AcceptedEvent, Comparison, InvoiceEvents, TotalToCheck, UnconfirmedEvent};
use books::units::calendar::minute;

/// Seconds after which a total includes every event, and for which a shortfall must stay the same.
/// No reported lag comes near it.
const SETTLE_TIME: i64 = 86_400;
/// How many of the newest events are searched for a few that explain a shortfall.
const SEARCHED: usize = 100;
/// The most events that explain a shortfall without being consecutive.
const FEW: usize = 4;

/// An event that may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Candidate {
    seq: i64,
    value: i64,
}

/// What Stripe's total should be.
pub(super) fn expected(events: &InvoiceEvents) -> i64 {
    events.accepted.iter().map(|e| e.value).sum()
}

/// Whether a total may lack the event only because it lags. An imported event comes from a total,
/// so it is not recent.
fn is_recent(event: &AcceptedEvent, now: i64) -> bool {
    !event.imported && now - event.at < SETTLE_TIME
}

/// Whether the event is not sent again, and totals have had a day to include it.
pub(super) fn is_settled(unconfirmed: &UnconfirmedEvent, now: i64) -> bool {
    now >= unconfirmed.resend_until && now - unconfirmed.last_attempt >= SETTLE_TIME
}

/// A comparison without a decision yet.
pub(super) fn too_early(of: &TotalToCheck, seen: i64) -> Comparison {
    comparison(of, seen, of.shortfall, Difference::TooEarly)
}

pub(super) fn comparison(
    of: &TotalToCheck,
    seen: i64,
    shortfall: Option<Shortfall>,
    difference: Difference,
) -> Comparison {
    Comparison { seen, expected: expected(&of.events), shortfall, difference, is_final: false }
}

/// Compares the total of the whole period; none if it decides nothing.
pub(super) fn compare_whole(of: &TotalToCheck, seen: i64, now: i64, grace: i64) -> Option<Comparison> {
    let events = &of.events;
    let recent = events.accepted.iter().any(|e| is_recent(e, now));
    // a total that includes the acknowledged amount again is a new difference
    let sent = expected(events) - of.acknowledged;
    let with_discarded = events.discarded != 0 && seen == sent + events.discarded;
    let difference = match events.unconfirmed {
        None if seen == sent || with_discarded => Difference::Agrees,
        // a recent event that the total does not include yet could be taken for the unconfirmed
        // one
        Some(event) if seen == sent + event.value && !recent => Difference::UnconfirmedArrived { seq: event.seq },
        _ => return None,
    };
    let is_final = now >= of.end + grace && events.unconfirmed.is_none() && !events.pending && !recent;
    Some(Comparison { is_final, ..comparison(of, seen, None, difference) })
}

/// The minute before which all events are settled; none if there is no settled event.
pub(super) fn settled_until(of: &TotalToCheck, now: i64) -> Option<i64> {
    let events = &of.events;
    let recent = events.accepted.iter().filter(|e| is_recent(e, now)).map(|e| e.timestamp);
    let open = events.unconfirmed.filter(|event| !is_settled(event, now)).map(|event| event.timestamp);
    let until = recent.chain(open).min().map_or(minute(of.end), minute);
    // an imported event replaces events with earlier timestamps: a total up to an earlier minute
    // may include a part of them
    if events.accepted.iter().any(|e| e.imported && e.timestamp >= until) {
        return None;
    }
    let accepted = events.accepted.iter().map(|e| e.timestamp);
    let any = accepted.chain(events.unconfirmed.map(|event| event.timestamp)).any(|timestamp| timestamp < until);
    (any && until > minute(of.start)).then_some(until)
}

/// Compares `settled`, the total of the events before `until`, all of which are settled. `seen` is
/// the total of the whole period.
pub(super) fn compare_settled(of: &TotalToCheck, seen: i64, until: i64, settled: i64, now: i64) -> Comparison {
    let mut accepted: Vec<AcceptedEvent> = of.events.accepted.iter().filter(|e| e.timestamp < until).copied().collect();
    let unconfirmed = of.events.unconfirmed.filter(|event| event.timestamp < until);
    let lacking = accepted.iter().map(|e| e.value).sum::<i64>() - settled;
    if of.acknowledged != 0 && until < minute(of.end) {
        return compare_part(of, seen, lacking, unconfirmed, now);
    }
    let lacking = lacking - of.acknowledged;
    let done = |shortfall, difference| comparison(of, seen, shortfall, difference);
    // the amount that is missing if the unconfirmed event counts as sent
    let missing = lacking + unconfirmed.map_or(0, |event| event.value);
    if missing == 0 || of.events.discarded != 0 && missing == -of.events.discarded {
        let arrived = unconfirmed.map(|event| Difference::UnconfirmedArrived { seq: event.seq });
        return done(None, arrived.unwrap_or(Difference::TooEarly));
    }
    let shortfall = match of.shortfall {
        // a growing surplus does not restart the timer: another program is sending
        Some(before) if unconfirmed.is_none() && before.amount < 0 && missing < before.amount => {
            Shortfall { amount: missing, ..before }
        }
        before => stands(before, missing, now),
    };
    if now - shortfall.since < SETTLE_TIME {
        return done(Some(shortfall), Difference::TooEarly);
    }
    // an event that was sent after the shortfall began does not explain the shortfall
    accepted.retain(|e| e.at <= shortfall.since);
    let found = match unconfirmed {
        Some(event) if event.last_attempt > shortfall.since => {
            (missing > 0).then(|| subset_summing_to(&candidates(&accepted, None), missing)).flatten()
        }
        // Stripe's total includes the acknowledged amount again: a person has to undo the
        // correction made for it
        None if of.acknowledged != 0 && missing == -of.acknowledged => None,
        _ => find_missing_events(&accepted, unconfirmed, lacking),
    };
    match found {
        Some(missing) => {
            let arrived = unconfirmed.map(|event| event.seq).filter(|seq| !missing.contains(seq));
            done(None, Difference::EventsMissing { missing, arrived })
        }
        None => {
            let beside_acknowledged = of.acknowledged != 0;
            let found = Unexplained { total: settled, until, shortfall: missing, beside_acknowledged };
            done(Some(shortfall), Difference::unexplained(found))
        }
    }
}

/// The shortfall, with the instant at which the same amount was first seen.
fn stands(before: Option<Shortfall>, amount: i64, now: i64) -> Shortfall {
    before.filter(|before| before.amount == amount).unwrap_or(Shortfall { amount, since: now })
}

/// Compares the total of a part of a period that has an acknowledged difference. The difference
/// may be in this part or in the rest. So only an unconfirmed event is decided, and only if both
/// assumptions give the same result. Everything else waits for the total of the whole period.
fn compare_part(
    of: &TotalToCheck,
    seen: i64,
    lacking: i64,
    unconfirmed: Option<UnconfirmedEvent>,
    now: i64,
) -> Comparison {
    let done = |shortfall, difference| comparison(of, seen, shortfall, difference);
    let (without, with) = (lacking, lacking - of.acknowledged);
    let Some(event) = unconfirmed else {
        let nearest = if without == 0 { 0 } else { with };
        return done((nearest != 0).then(|| stands(of.shortfall, nearest, now)), Difference::TooEarly);
    };
    let may_be_there = without + event.value == 0 || with + event.value == 0;
    let may_be_missing = without == 0 || with == 0;
    match (may_be_there, may_be_missing) {
        (true, false) => done(None, Difference::UnconfirmedArrived { seq: event.seq }),
        (false, true) => {
            let shortfall = stands(of.shortfall, event.value, now);
            if now - shortfall.since < SETTLE_TIME {
                return done(Some(shortfall), Difference::TooEarly);
            }
            done(None, Difference::EventsMissing { missing: vec![event.seq], arrived: None })
        }
        _ => done(of.shortfall, Difference::TooEarly),
    }
}

/// Finds the events that Stripe does not have if its total is `lacking` below the accepted ones.
fn find_missing_events(
    accepted: &[AcceptedEvent],
    unconfirmed: Option<UnconfirmedEvent>,
    lacking: i64,
) -> Option<Vec<i64>> {
    let missing = lacking + unconfirmed.map_or(0, |event| event.value);
    if missing >= 0 {
        return subset_summing_to(&candidates(accepted, unconfirmed), missing);
    }
    // a surplus needs a person, unless the unconfirmed event is a negative one that did not arrive
    let event = unconfirmed.filter(|_| lacking >= 0)?;
    let others = if lacking == 0 { vec![] } else { subset_summing_to(&candidates(accepted, None), lacking)? };
    Some([vec![event.seq], others].concat())
}

/// The events that may be missing, the newest first.
fn candidates(accepted: &[AcceptedEvent], unconfirmed: Option<UnconfirmedEvent>) -> Vec<Candidate> {
    let accepted = accepted.iter().map(|e| Candidate { seq: e.seq, value: e.value });
    let mut all: Vec<_> = accepted.chain(unconfirmed.map(|e| Candidate { seq: e.seq, value: e.value })).collect();
    all.sort_by_key(|candidate| std::cmp::Reverse(candidate.seq));
    all
}

/// Finds events that sum up to `sum`: as few as possible and at most [`FEW`], or else any number
/// of consecutive ones. Earlier events of the list come first.
fn subset_summing_to(events: &[Candidate], sum: i64) -> Option<Vec<i64>> {
    let searched = &events[..events.len().min(SEARCHED)];
    (1..=FEW).find_map(|count| subset_of(searched, sum, count)).or_else(|| run_of(events, sum))
}

/// Finds `count` events that sum up to `sum`.
fn subset_of(events: &[Candidate], sum: i64, count: usize) -> Option<Vec<i64>> {
    events.iter().enumerate().find_map(|(at, event)| {
        let rest = sum.saturating_sub(event.value);
        if count == 1 {
            return (rest == 0).then(|| vec![event.seq]);
        }
        let others = subset_of(&events[at + 1..], rest, count - 1)?;
        Some([vec![event.seq], others].concat())
    })
}

/// Finds consecutive events that sum up to `sum`.
fn run_of(events: &[Candidate], sum: i64) -> Option<Vec<i64>> {
    (0..events.len()).find_map(|from| {
        let mut total = 0_i64;
        let last = events[from..].iter().position(|event| {
            total = total.saturating_add(event.value);
            total == sum
        })?;
        Some(events[from..=from + last].iter().map(|event| event.seq).collect())
    })
}

#[cfg(test)]
mod tests;
