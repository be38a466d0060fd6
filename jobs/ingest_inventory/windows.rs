//! Which Inventories say something of a day, and whether they suffice to read it.
//!
//! What lived on a day is listed by an Inventory that began on it or after it. So a day has those
//! that began in [`WINDOW_DAYS`] days from its start, and it can be read when one of them began
//! after its end: that one lists all that was made on the day. A later one reads the day again.
//!
//! A day that is stored is not read again from fewer: when Inventories are removed after some days,
//! nothing changes.

use futures::StreamExt;
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::intervals::DAY;
use super::manifest::{Inventory, ManifestError, Wanted, folder_time, hex, read};
use crate::context::SharedBucket;
use crate::source::SourceError;
use books::units::calendar::Day;

/// Inventories of so many days, from a day's start on, say something of it.
pub(super) const WINDOW_DAYS: i64 = 3;
/// Inventories of a day of which every selection is tried; S3 makes three.
const MOST_TRIED: usize = 8;
/// S3 delivers an Inventory within so many days.
const LATE_DAYS: i64 = 2;
/// Manifests that are read at once.
const MANIFESTS_IN_FLIGHT: usize = 4;
/// What the weights of a day follow from beside files and rules: another reading gets a number of
/// its own, so that days are read anew.
const READING: &str = "inventory 1";

/// An Inventory that cannot be used.
#[derive(Clone, Debug)]
pub(super) struct UnusableInventory {
    /// By the name of its folder.
    scanned_at: Timestamp,
    /// Names it, and says what to do.
    pub(super) why: String,
}

/// The Inventories of some days.
#[derive(Debug, Default)]
pub(super) struct Inventories {
    /// The newest first. One that is there twice counts once.
    usable: Vec<Inventory>,
    pub(super) unusable: Vec<UnusableInventory>,
    /// The oldest one that is there, whatever it says.
    oldest: Option<Timestamp>,
}

/// What can be done with a day.
#[derive(Debug)]
pub(super) enum Readiness<'a> {
    /// It is read from these, the newest first.
    Ready(Vec<&'a Inventory>),
    /// S3 has not begun an Inventory after it.
    Waiting,
    /// No Inventory says enough of it, and none will.
    Missed,
    /// One of its Inventories cannot be used.
    Unusable,
    /// There was no Inventory yet.
    TooEarly,
}

/// Finds the Inventories that can say something of days from `from` on.
///
/// # Errors
/// When the source fails.
pub(super) async fn find(wanted: Wanted<'_>, from: Day) -> Result<Inventories, SourceError> {
    let source = wanted.place.source.as_ref();
    let folders = source.list(&wanted.place.prefix).await?.folders;
    let timed: Vec<_> = folders.iter().filter_map(|folder| Some((folder_time(folder)?, folder.as_str()))).collect();
    let mut found = Inventories { oldest: timed.iter().map(|(time, _)| *time).min(), ..Inventories::default() };
    let from = start_of(from);
    // the time of a folder has no seconds
    let near = timed.into_iter().filter(|(time, _)| time.as_second() >= from - DAY);
    let reading: Vec<_> = near.map(|(time, folder)| async move { (time, read(wanted, folder).await) }).collect();
    let mut reading = futures::stream::iter(reading).buffered(MANIFESTS_IN_FLIGHT);
    while let Some((scanned_at, inventory)) = reading.next().await {
        match inventory {
            Ok(inventory) => found.usable.extend(inventory),
            Err(ManifestError::Source(error)) => return Err(error),
            Err(error) => found.unusable.push(UnusableInventory { scanned_at, why: error.to_string() }),
        }
    }
    found.usable.sort_by(|a, b| (b.scanned_at, &b.digest).cmp(&(a.scanned_at, &a.digest)));
    found.usable.dedup_by(|a, b| a.digest == b.digest);
    Ok(found)
}

/// The first second of a day.
pub(super) fn start_of(day: Day) -> i64 {
    i64::from(day.epoch()) * DAY
}

fn is_in_window(scanned_at: Timestamp, day: Day) -> bool {
    let start = start_of(day);
    (start..start + WINDOW_DAYS * DAY).contains(&scanned_at.as_second())
}

impl Inventories {
    /// True when S3 has written none yet, or the place is wrong.
    pub(super) fn is_empty(&self) -> bool {
        self.oldest.is_none()
    }

    /// What can be done with a day at `now`.
    pub(super) fn of_day(&self, day: Day, now: Timestamp) -> Readiness<'_> {
        if self.unusable.iter().any(|inventory| is_in_window(inventory.scanned_at, day)) {
            return Readiness::Unusable;
        }
        let own: Vec<&Inventory> = self.usable.iter().filter(|one| is_in_window(one.scanned_at, day)).collect();
        let end = day.end();
        if own.iter().any(|inventory| inventory.scanned_at >= end) {
            return Readiness::Ready(own);
        }
        match (is_over(day, now), self.oldest.is_some_and(|oldest| oldest < end)) {
            (false, _) => Readiness::Waiting,
            (true, true) => Readiness::Missed,
            (true, false) => Readiness::TooEarly,
        }
    }

    /// True when Inventories that said something of the day may be removed by now, as old ones are.
    pub(super) fn may_lack_some(&self, day: Day, now: Timestamp) -> bool {
        is_over(day, now) && self.oldest.is_none_or(|oldest| oldest.as_second() > start_of(day))
    }
}

/// True when no other Inventory of the day will come.
fn is_over(day: Day, now: Timestamp) -> bool {
    now.as_second() >= start_of(day) + (WINDOW_DAYS + LATE_DAYS) * DAY
}

/// True when the day was read from some of these, by these rules: others came later.
pub(super) fn was_read_from(stored: &str, bucket: &SharedBucket, inventories: &[&Inventory]) -> bool {
    if inventories.len() > MOST_TRIED {
        return false;
    }
    (1_u32..1 << inventories.len()).any(|chosen| {
        let some = inventories.iter().enumerate().filter(|(at, _)| chosen >> at & 1 == 1);
        let some: Vec<&Inventory> = some.map(|(_, inventory)| *inventory).collect();
        hex(&digest(bucket, &some)) == stored
    })
}

/// The SHA-256 of all that the weights of a day follow from.
pub(super) fn digest(bucket: &SharedBucket, inventories: &[&Inventory]) -> [u8; 32] {
    let rules = (READING, bucket.customers.digest_text(), bucket.expire_days);
    let mut text = format!("{rules:?}\n");
    for inventory in inventories {
        text.push_str(&inventory.digest);
        text.push('\n');
    }
    Sha256::digest(text.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest_inventory::manifest::InventoryFormat;
    use crate::shared_bucket::customer::CustomerRule;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn inventory(time: &str) -> Inventory {
        Inventory {
            name: time.into(),
            digest: time.into(),
            scanned_at: at(time),
            format: InventoryFormat::Parquet,
            files: vec![],
            has_versions: false,
            has_etags: true,
        }
    }

    fn words(found: &Inventories, now: &str) -> String {
        match found.of_day("2026-11-20".parse().unwrap(), at(now)) {
            Readiness::Ready(own) => own.iter().map(|one| one.name.as_str()).collect::<Vec<_>>().join(" "),
            other => format!("{other:?}"),
        }
    }

    fn of(times: &[&str]) -> Inventories {
        Inventories {
            usable: times.iter().map(|time| inventory(time)).collect(),
            unusable: vec![],
            oldest: times.iter().map(|time| at(time)).min(),
        }
    }

    /// The newest first.
    const TIMES: [&str; 6] = [
        "2026-11-23T00:00:00Z",
        "2026-11-22T23:59:59Z",
        "2026-11-21T00:00:00Z",
        "2026-11-20T23:59:59Z",
        "2026-11-20T00:00:00Z",
        "2026-11-19T23:59:59Z",
    ];

    #[test]
    fn a_day_is_read_from_the_inventories_of_three_days_and_not_before_one_after_it() {
        let (soon, late) = ("2026-11-24T23:59:59Z", "2026-11-25T00:00:00Z");
        assert_eq!(words(&of(&TIMES), soon), TIMES[1..5].join(" "));
        assert_eq!(words(&of(&TIMES[1..3]), late), TIMES[1..3].join(" "));
        assert_eq!(words(&of(&TIMES[3..]), soon), "Waiting");
        assert_eq!(words(&of(&TIMES[3..]), late), "Missed");
        assert_eq!(words(&of(&TIMES[..1]), late), "TooEarly");
        let mut broken = of(&TIMES);
        broken.unusable.push(UnusableInventory { scanned_at: at(TIMES[1]), why: String::new() });
        assert_eq!(words(&broken, late), "Unusable");
    }

    #[test]
    fn removed_inventories_are_told_from_later_ones() {
        let day = "2026-11-20".parse().unwrap();
        let may_lack = |times: &[&str], now: &str| of(times).may_lack_some(day, at(now));
        assert!(!may_lack(&TIMES[..5], "2026-11-25T00:00:00Z"), "one from the start of the day is there");
        assert!(may_lack(&TIMES[..4], "2026-11-25T00:00:00Z"));
        assert!(!may_lack(&TIMES[..4], "2026-11-24T23:59:59Z"), "they are new");
        let bucket = SharedBucket {
            name: "files".into(),
            customers: CustomerRule::new(None, None),
            uses_uploads: false,
            expire_days: Some(1),
            inventory: None,
            access_logs: None,
            quiet_hours: 6,
        };
        let all: Vec<Inventory> = TIMES.iter().map(|time| inventory(time)).collect();
        let some = |at: &[usize]| at.iter().map(|at| &all[*at]).collect::<Vec<_>>();
        let stored = hex(&digest(&bucket, &some(&[1, 3])));
        assert!(was_read_from(&stored, &bucket, &some(&[1, 3])));
        assert!(was_read_from(&stored, &bucket, &some(&[0, 1, 2, 3])));
        assert!(!was_read_from(&stored, &bucket, &some(&[0, 1, 2])));
        assert!(!was_read_from(&stored, &SharedBucket { expire_days: None, ..bucket }, &some(&[1, 3])));
    }
}
