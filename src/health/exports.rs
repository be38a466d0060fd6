//! What is known of each configured export: whether it was ever read, and which of its months lack
//! their figures. Pure.

use books::units::calendar::Month;
use books::usage::months::{Found, MonthLook, MonthState, Months, PayerMonths};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use crate::config::ExportConfig;
use crate::format::{ago, span};
use crate::queue::{IngestRuns, LastEnd};

/// An export.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct ExportHealth {
    pub export: String,
    pub payer: String,
    /// Whether a bill of it was ever found.
    pub was_read: bool,
    /// How the newest reading ended, while none has found a bill.
    pub last_end: Option<LastEnd>,
    /// The first month that was booked or put on hold.
    pub first: Option<Month>,
    /// Months that are over and need a reading.
    pub gaps: Vec<MonthGap>,
    /// Months with a version on hold.
    pub on_hold: Vec<Month>,
    /// Months that are over and were found as they are booked.
    pub as_booked: usize,
    /// When `check_months` looked at the months that are over; none when it never did.
    pub looked_at: Option<Timestamp>,
}

/// A month that is over and needs a reading.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct MonthGap {
    pub month: Month,
    #[serde(flatten)]
    pub gap: Gap,
}

/// Why a month needs a reading.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
#[serde(rename_all = "snake_case", tag = "gap")]
pub enum Gap {
    /// It lies between booked months, or after them, and was never read.
    Unread {
        /// When somebody looked, and its manifest was not in the bucket.
        no_manifest_at: Option<Timestamp>,
    },
    /// The booked version is from before the month's end.
    NotFinal { delivered_at: Timestamp },
    /// AWS delivered another version than the one that is booked, or else on hold.
    Changed { delivered_at: Timestamp, seen_at: Timestamp, on_hold: bool },
    /// Its manifest cannot be used.
    Unreadable { why: String, seen_at: Timestamp },
}

impl Gap {
    /// Every name of a gap, as the metrics and JSON call it.
    pub const NAMES: [&str; 4] = ["unread", "not_final", "changed", "unreadable"];

    pub fn name(&self) -> &'static str {
        match self {
            Self::Unread { .. } => "unread",
            Self::NotFinal { .. } => "not_final",
            Self::Changed { .. } => "changed",
            Self::Unreadable { .. } => "unreadable",
        }
    }
}

/// What is known of an export, from its payer's months, the newest look at those that are over, and
/// its newest runs.
pub(super) fn export_health(
    of: &ExportConfig,
    months: &Months,
    looks: &[MonthLook],
    runs: IngestRuns,
    now: Timestamp,
) -> ExportHealth {
    let mut found = ExportHealth {
        export: of.name.clone(),
        payer: of.payer.clone(),
        was_read: runs.found_a_bill,
        last_end: runs.last,
        first: None,
        gaps: vec![],
        on_hold: vec![],
        as_booked: 0,
        looked_at: None,
    };
    let Some(known) = months.get(&of.payer) else { return found };
    let looks: Vec<&MonthLook> = looks.iter().filter(|look| look.payer == of.payer).collect();
    (found.was_read, found.first) = (true, Some(known.first));
    found.gaps = gaps(known, &looks, now);
    found.on_hold = known.known.iter().filter(|(_, known)| known.on_hold.is_some()).map(|(month, _)| *month).collect();
    found.as_booked = looks.iter().filter(|look| look.found == Found::AsBooked).count();
    found.looked_at = looks.iter().map(|look| look.at).max();
    found
}

/// The months that need a reading, the oldest first.
pub(crate) fn gaps(of: &PayerMonths, looks: &[&MonthLook], now: Timestamp) -> Vec<MonthGap> {
    let look = |month: Month| looks.iter().find(|look| look.month == month);
    let mut found: Vec<MonthGap> = of
        .gaps(now)
        .map(|(month, state)| {
            let nothing = look(month).filter(|look| look.found == Found::Nothing).map(|look| look.at);
            let gap = match of.known.get(&month).filter(|_| state == MonthState::NotFinal) {
                Some(known) => Gap::NotFinal { delivered_at: known.delivered_at },
                None => Gap::Unread { no_manifest_at: nothing },
            };
            MonthGap { month, gap }
        })
        .collect();
    let known_gaps: Vec<Month> = found.iter().map(|gap| gap.month).collect();
    let open = looks.iter().filter(|look| look.is_open(of, now) && !known_gaps.contains(&look.month));
    found.extend(open.filter_map(|look| {
        let (month, seen_at) = (look.month, look.at);
        let gap = match &look.found {
            Found::Other { delivered_at, .. } => {
                let on_hold = of.state(month, now) == MonthState::OnHold;
                Gap::Changed { delivered_at: *delivered_at, seen_at, on_hold }
            }
            Found::Unreadable(why) => Gap::Unreadable { why: why.clone(), seen_at },
            Found::AsBooked | Found::Nothing => return None,
        };
        Some(MonthGap { month, gap })
    }));
    found.sort_by_key(|gap| gap.month);
    found
}

impl MonthGap {
    /// What is the matter, and what to do.
    pub(crate) fn words(&self, export: &str, now: Timestamp) -> (String, String) {
        let Self { month, gap } = self;
        let read = format!("meter ingest --export {export} --month {month}");
        match gap {
            Gap::Unread { no_manifest_at: None } => {
                (format!("{month} of export {export} was never read, though months before it are"), read)
            }
            Gap::Unread { no_manifest_at: Some(at) } => (
                format!(
                    "{month} of export {export} was never read, and its bill was not in the bucket {}",
                    ago(*at, now)
                ),
                format!("ask AWS to deliver it (docs/operations.md, MeterMonthsUnread); {read}"),
            ),
            Gap::NotFinal { delivered_at } => (
                format!(
                    "{month} of export {export} is over, and its final figures were never read: the booked version is of {}, {} old",
                    delivered_at.strftime("%Y-%m-%d %H:%M UTC"),
                    span(now.duration_since(*delivered_at))
                ),
                read,
            ),
            Gap::Changed { delivered_at, seen_at, on_hold } => (
                format!(
                    "AWS changed {month} of export {export} {}: a version of {} is in the bucket, as seen {}",
                    if *on_hold { "after it was put on hold" } else { "after it was booked" },
                    delivered_at.strftime("%Y-%m-%d %H:%M UTC"),
                    ago(*seen_at, now)
                ),
                format!("{read} --dry-run; {read}"),
            ),
            Gap::Unreadable { why, seen_at } => (
                format!(
                    "the manifest of {month} of export {export} cannot be used, as seen {}: {why}",
                    ago(*seen_at, now)
                ),
                format!("{read} --dry-run"),
            ),
        }
    }
}

impl ExportHealth {
    /// Why nothing was ever read, and what to do; none for an export that was read.
    pub(super) fn never_read(&self, working_since: Option<Timestamp>, now: Timestamp) -> Option<(String, String)> {
        if self.was_read {
            return None;
        }
        let name = &self.export;
        let (why, act) = match (&self.last_end, working_since) {
            (Some(LastEnd { reason: Some(reason), .. }), _) => {
                let last = self.last_end.as_ref().and_then(|end| end.at);
                let when = last.map_or(" and will be tried again".to_owned(), |at| format!(" {}", ago(at, now)));
                (
                    format!("the newest reading failed{when}: {reason}"),
                    "meter doctor; meter jobs list --kind ingest_cur",
                )
            }
            (Some(end), _) => {
                let when = end.at.map_or(String::new(), |at| format!(" {}", ago(at, now)));
                (format!("the newest reading found no bill{when}"), "meter doctor")
            }
            (None, Some(since)) => (
                format!("no reading has ended since a worker began {}", ago(since, now)),
                "meter schedule; meter workers",
            ),
            (None, None) => ("no worker has read it yet".to_owned(), "meter doctor; meter work"),
        };
        Some((format!("no bill of export {name} was ever read: {why}"), act.to_owned()))
    }

    /// What the months that are over are like, in a line.
    pub(crate) fn months_line(&self, now: Timestamp) -> Option<String> {
        let first = self.first?;
        let looked = match self.looked_at {
            None => "no closed one was looked at yet".to_owned(),
            Some(at) => format!("{} closed one(s) unchanged, as looked at {}", self.as_booked, ago(at, now)),
        };
        let gaps = if self.gaps.is_empty() { String::new() } else { format!(", {} to be read", self.gaps.len()) };
        Some(format!("{}: since {first}{gaps}; {looked}", self.export))
    }
}

#[cfg(test)]
mod tests;
