//! Which files can have lines of a day.
//!
//! S3 names log files in three forms
//! (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/enable-server-access-logging.html>):
//!
//! ```text
//! PREFIX YYYY-MM-DD-hh-mm-ss-UNIQUE                                       simple
//! PREFIX ACCOUNT/REGION/BUCKET/YYYY/MM/DD/ YYYY-MM-DD-00-00-00-UNIQUE     by event time
//! PREFIX ACCOUNT/REGION/BUCKET/YYYY/MM/DD/ YYYY-MM-DD-hh-mm-ss-UNIQUE     by delivery time
//! ```
//!
//! By event time, the files of a day have the lines of that day. In the two others the time is that
//! of the delivery, so the lines of a day are in the files of that day and of the
//! [`DELIVERY_DAYS`] after it, among others. Which form it is, the names tell, also when it was
//! changed. A delivery can happen at midnight: where a file of the same bucket has another time,
//! those with 00-00-00 count as deliveries, too. They are then read for more days than they need,
//! and lines count by their own time, so that changes no sum.
//!
//! A day is read when it is over, and its newest file is older than the quiet hours. By event time
//! that is the file's own time of change. Without event time a busy bucket is never quiet: then a
//! day is read with the files up to the quiet hours after a midnight, again after the next
//! midnight, and so with all of its files in the end.

use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;

use crate::context::ReportPlace;
use crate::source::{Object, Source, SourceError};
use books::units::calendar::Day;

/// Lines are delivered within some hours, mostly; those that come later than so many days after
/// theirs are only found by event time.
const DELIVERY_DAYS: i32 = 3;
/// Lists that are fetched at once.
const LISTED_AT_ONCE: usize = 8;
const DAY_SECONDS: i64 = 86_400;
/// Names of files that are no logs, for a message.
const NAMED: usize = 3;

/// When the lines of a file happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileTime {
    Event(Day),
    /// Before the second at which it was delivered.
    Delivered(i64),
}

#[derive(Clone, Debug)]
struct LogFile {
    object: Object,
    time: FileTime,
}

/// How many files there are of each form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Forms {
    pub(super) simple: usize,
    pub(super) by_event_time: usize,
    pub(super) by_delivery_time: usize,
}

/// The log files of some days, as they were listed.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    files: Vec<LogFile>,
    pub(super) forms: Forms,
    /// Files and folders that are no logs, and the first of their names.
    pub(super) foreign: usize,
    pub(super) foreign_names: Vec<String>,
}

/// Whether a day can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum DayFiles {
    /// There is none.
    Nothing,
    /// More of them may come.
    Waiting,
    /// In order of their keys.
    Ready(Vec<Object>),
}

/// A time and the hours without a new file after which a day is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quiet {
    pub(super) now: Timestamp,
    pub(super) hours: u16,
}

impl Places {
    /// Lists what can have lines of `bucket` and the days from `from` to `to`.
    pub(super) async fn list(place: &ReportPlace, bucket: &str, from: Day, to: Day) -> Result<Self, SourceError> {
        let source = place.source.as_ref();
        let prefix = place.prefix.as_str();
        let folder = prefix.rfind('/').map_or("", |end| &prefix[..=end]);
        let listing = source.list(folder).await?;
        let mut places = Self::default();
        let days = from.epoch()..=to.epoch() + DELIVERY_DAYS;
        for object in listing.objects.into_iter().filter(|object| object.key.starts_with(prefix)) {
            match named_second(&object.key[prefix.len()..]) {
                Some(second) if days.contains(&day_of(second)) => {
                    places.forms.simple += 1;
                    places.files.push(LogFile { object, time: FileTime::Delivered(second) });
                }
                Some(_) => {}
                None => places.see_foreign(object.key),
            }
        }
        let mut roots = vec![];
        for folder in listing.folders.into_iter().filter(|folder| folder.starts_with(prefix)) {
            let name = folder[prefix.len()..].trim_end_matches('/');
            let digits = name.bytes().all(|byte| byte.is_ascii_digit());
            match (digits, name.len()) {
                (true, 12) => roots.extend(roots_of_account(source, &folder, bucket).await?),
                (true, 4) if prefix.is_empty() || prefix.ends_with('/') => roots.push(prefix.to_owned()),
                _ if name == bucket => roots.push(folder),
                _ => places.see_foreign(folder),
            }
        }
        roots.dedup();
        for root in roots {
            places.list_root(source, &root, days.clone()).await?;
        }
        places.files.sort_by(|one, other| one.object.key.cmp(&other.object.key));
        Ok(places)
    }

    /// Lists the folders of days below `root`.
    async fn list_root(
        &mut self,
        source: &dyn Source,
        root: &str,
        days: impl Iterator<Item = i32>,
    ) -> Result<(), SourceError> {
        let days: Vec<Day> = days.filter_map(Day::from_epoch).collect();
        let folders: Vec<String> =
            days.iter().map(|day| format!("{root}{}/", day.to_string().replace('-', "/"))).collect();
        let lists: Vec<_> = folders.iter().map(|folder| source.list(folder)).collect();
        let lists: Vec<_> = stream::iter(lists).buffered(LISTED_AT_ONCE).try_collect().await?;
        let mut found = vec![];
        for ((day, folder), listing) in days.into_iter().zip(&folders).zip(lists) {
            for object in listing.objects {
                match named_second(&object.key[folder.len()..]) {
                    Some(second) if day_of(second) == day.epoch() => found.push((object, day, second)),
                    _ => self.see_foreign(object.key),
                }
            }
        }
        let is_midnight = |second: i64| second.rem_euclid(DAY_SECONDS) == 0;
        let by_event_time = found.iter().all(|(_, _, second)| is_midnight(*second));
        for (object, day, second) in found {
            let time = if by_event_time { FileTime::Event(day) } else { FileTime::Delivered(second) };
            if is_midnight(second) {
                self.forms.by_event_time += 1;
            } else {
                self.forms.by_delivery_time += 1;
            }
            self.files.push(LogFile { object, time });
        }
        Ok(())
    }

    fn see_foreign(&mut self, name: String) {
        self.foreign += 1;
        if self.foreign_names.len() < NAMED {
            self.foreign_names.push(name);
        }
    }

    /// True when files of more than one form were found.
    pub(super) fn are_mixed(&self) -> bool {
        let Forms { simple, by_event_time, by_delivery_time } = self.forms;
        [simple, by_event_time, by_delivery_time].iter().filter(|files| **files > 0).count() > 1
    }

    /// True when every file should have the lines of its own day alone.
    pub(super) fn are_by_event_time(&self) -> bool {
        self.forms.by_event_time > 0 && !self.are_mixed()
    }

    /// The files that can have lines of a day, if it can be read now.
    pub(super) fn of_day(&self, day: Day, quiet: Quiet) -> DayFiles {
        let now = quiet.now.as_second();
        let end = day.end().as_second();
        let quiet_seconds = 3_600 * i64::from(quiet.hours);
        let settled = now - quiet_seconds;
        let mut files = vec![];
        let (mut newest_event, mut newest_delivery) = (i64::MIN, i64::MIN);
        for file in &self.files {
            match file.time {
                FileTime::Event(event) if event == day => {
                    newest_event = newest_event.max(file.object.modified.as_second());
                }
                FileTime::Delivered(second)
                    if (day.epoch()..=day.epoch() + DELIVERY_DAYS).contains(&day_of(second)) =>
                {
                    newest_delivery = newest_delivery.max(second);
                }
                _ => continue,
            }
            files.push(file);
        }
        if files.is_empty() {
            return DayFiles::Nothing;
        }
        // after that many days more files may be left for the next time
        let over = end + i64::from(DELIVERY_DAYS) * DAY_SECONDS;
        if now < end || (newest_event > settled && now < over) {
            return DayFiles::Waiting;
        }
        if newest_delivery > settled {
            let midnight = settled.div_euclid(DAY_SECONDS) * DAY_SECONDS;
            if midnight < end {
                return DayFiles::Waiting;
            }
            let before = midnight + quiet_seconds;
            files.retain(|file| !matches!(file.time, FileTime::Delivered(second) if second >= before));
        }
        match files.is_empty() {
            true => DayFiles::Nothing,
            false => DayFiles::Ready(files.into_iter().map(|file| file.object.clone()).collect()),
        }
    }
}

/// The folders of a bucket below the folder of an account: one in each region that has it.
async fn roots_of_account(source: &dyn Source, account: &str, bucket: &str) -> Result<Vec<String>, SourceError> {
    let mut roots = vec![];
    for region in source.list(account).await?.folders {
        let folders = source.list(&region).await?.folders;
        let wanted = format!("{region}{bucket}/");
        roots.extend(folders.into_iter().filter(|folder| *folder == wanted));
    }
    Ok(roots)
}

fn day_of(second: i64) -> i32 {
    i32::try_from(second.div_euclid(DAY_SECONDS)).unwrap_or(i32::MAX)
}

/// The second that the name `YYYY-MM-DD-hh-mm-ss-UNIQUE` tells.
fn named_second(name: &str) -> Option<i64> {
    const TIME: usize = "YYYY-MM-DD-hh-mm-ss".len();
    let (time, unique) = (name.get(..TIME)?, name.get(TIME..)?.strip_prefix('-')?);
    if unique.is_empty() || !unique.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return None;
    }
    let (day, clock) = (time.get(..10)?, time.get(10..)?);
    let day: Day = day.parse().ok()?;
    let mut clock = clock.strip_prefix('-')?.split('-');
    let mut part = |most: i64| {
        let part = clock.next().filter(|part| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit()))?;
        part.parse::<i64>().ok().filter(|part| *part <= most)
    };
    let (hour, minute, second) = (part(23)?, part(59)?, part(60)?);
    Some(i64::from(day.epoch()) * DAY_SECONDS + 3_600 * hour + 60 * minute + second.min(59))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Folder;
    use std::sync::Arc;

    fn day(text: &str) -> Day {
        text.parse().unwrap()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// A folder with empty files that were all changed at `modified`.
    fn folder(keys: &[&str], modified: &str) -> (tempfile::TempDir, ReportPlace) {
        let root = tempfile::tempdir().unwrap();
        for key in keys {
            let path = root.path().join(key);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let file = std::fs::File::create(path).unwrap();
            file.set_modified(at(modified).into()).unwrap();
        }
        let source = Arc::new(Folder::new(root.path()));
        (root, ReportPlace { source, prefix: String::new() })
    }

    async fn list(place: &ReportPlace) -> Places {
        Places::list(place, "files", day("2026-11-10"), day("2026-11-19")).await.unwrap()
    }

    /// The unique ends of the day's files; none while it waits.
    fn of(places: &Places, of: &str, now: &str) -> Option<Vec<String>> {
        let quiet = Quiet { now: at(now), hours: 6 };
        match places.of_day(day(of), quiet) {
            DayFiles::Nothing => Some(vec![]),
            DayFiles::Waiting => None,
            DayFiles::Ready(files) => {
                Some(files.iter().map(|file| file.key.rsplit('-').next().unwrap().to_owned()).collect())
            }
        }
    }

    #[tokio::test]
    async fn by_event_time_a_day_has_the_files_of_its_folder() {
        let (_root, place) = folder(
            &[
                "111122223333/eu-west-1/files/2026/11/18/2026-11-18-00-00-00-A1",
                "111122223333/eu-west-1/files/2026/11/18/2026-11-18-00-00-00-A2",
                "111122223333/eu-west-1/files/2026/11/19/2026-11-19-00-00-00-B1",
                "111122223333/eu-west-1/other/2026/11/19/2026-11-19-00-00-00-X1",
            ],
            "2026-11-19T22:00:00Z",
        );
        let places = list(&place).await;
        assert_eq!((places.forms.by_event_time, places.are_mixed(), places.foreign), (3, false, 0));
        let both = vec!["A1".to_owned(), "A2".to_owned()];
        assert_eq!(of(&places, "2026-11-18", "2026-11-20T04:00:00Z"), Some(both));
        assert_eq!(of(&places, "2026-11-18", "2026-11-20T03:59:59Z"), None, "not yet quiet");
        assert_eq!(of(&places, "2026-11-19", "2026-11-20T04:00:00Z").unwrap(), ["B1"]);
        assert_eq!(of(&places, "2026-11-17", "2026-11-20T04:00:00Z").unwrap(), [""; 0]);
        let (_root, place) =
            folder(&["111122223333/eu-west-1/files/2026/11/18/2026-11-18-00-00-00-A1"], "2026-11-18T03:00:00Z");
        let places = list(&place).await;
        assert_eq!(of(&places, "2026-11-18", "2026-11-18T23:00:00Z"), None, "the day is not over");
        assert_eq!(of(&places, "2026-11-18", "2026-11-19T00:00:00Z").unwrap(), ["A1"]);
        let (_root, place) =
            folder(&["111122223333/eu-west-1/files/2026/11/11/2026-11-11-00-00-00-A1"], "2026-11-19T22:00:00Z");
        let places = list(&place).await;
        assert_eq!(of(&places, "2026-11-11", "2026-11-19T23:00:00Z").unwrap(), ["A1"], "it never gets quiet");
    }

    #[tokio::test]
    async fn by_delivery_time_a_day_has_the_files_of_four_days() {
        for root in ["", "111122223333/eu-west-1/files/2026/11/"] {
            let name = |day: &str, rest: &str| match root {
                "" => format!("2026-11-{day}-{rest}"),
                root => format!("{root}{day}/2026-11-{day}-{rest}"),
            };
            let keys = [
                name("17", "23-59-59-A"),
                name("18", "00-00-00-B"),
                name("19", "05-59-59-C"),
                name("19", "06-00-00-D"),
                name("20", "12-00-00-E"),
                name("21", "23-59-59-F"),
                name("22", "00-00-00-G"),
            ];
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            let (_root, place) = folder(&keys, "2026-11-22T00:00:00Z");
            let places = list(&place).await;
            let of = |now: &str| of(&places, "2026-11-18", now).map(|found| found.concat());
            assert_eq!(of("2026-11-19T05:59:59Z"), None, "{root}");
            assert_eq!(of("2026-11-19T06:00:00Z").unwrap(), "BC");
            assert_eq!(of("2026-11-20T05:59:59Z").unwrap(), "BC");
            assert_eq!(of("2026-11-20T06:00:00Z").unwrap(), "BCD");
            assert_eq!(of("2026-11-21T06:00:00Z").unwrap(), "BCDE");
            assert_eq!(of("2026-11-22T05:59:59Z").unwrap(), "BCDEF", "the newest is quiet");
            assert_eq!(of("2026-12-01T00:00:00Z").unwrap(), "BCDEF");
        }
    }

    #[tokio::test]
    async fn a_change_of_the_form_is_seen_and_loses_no_file() {
        let (_root, place) = folder(
            &[
                "2026-11-17-10-00-00-S",
                "111122223333/eu-west-1/files/2026/11/17/2026-11-17-00-00-00-E",
                "111122223333/eu-west-1/files/2026/11/18/2026-11-18-10-00-00-D",
                "111122223333/eu-west-1/files/2026/11/18/2026-11-18-00-00-00-M",
                "notes/readme",
                "README",
                "2026-11-17-10-00-00",
                "2026-11-17-10-00-61-X",
                "111122223333/eu-west-1/files/2026/11/18/2026-11-17-10-00-00-X",
            ],
            "2026-11-18T12:00:00Z",
        );
        let places = list(&place).await;
        assert_eq!(places.forms, Forms { simple: 1, by_event_time: 2, by_delivery_time: 1 });
        assert!(places.are_mixed());
        assert_eq!((places.foreign, places.foreign_names.len()), (5, 3));
        assert_eq!(of(&places, "2026-11-17", "2026-11-30T00:00:00Z").unwrap().concat(), "EMDS");
        assert_eq!(of(&places, "2026-11-18", "2026-11-30T00:00:00Z").unwrap().concat(), "MD");
    }

    #[tokio::test]
    async fn a_prefix_is_followed_by_the_time_or_the_account() {
        let (_root, mut place) = folder(
            &[
                "logs/app-2026-11-18-10-00-00-A",
                "logs/web-2026-11-18-10-00-00-B",
                "logs/app-111122223333/eu-west-1/files/2026/11/18/2026-11-18-00-00-00-C",
            ],
            "2026-11-18T12:00:00Z",
        );
        place.prefix = "logs/app-".into();
        assert_eq!(of(&list(&place).await, "2026-11-18", "2026-11-30T00:00:00Z").unwrap().concat(), "CA");
        // deeper places are found, too
        for prefix in ["logs/app-111122223333/eu-west-1/", "logs/app-111122223333/eu-west-1/files/"] {
            place.prefix = prefix.into();
            assert_eq!(of(&list(&place).await, "2026-11-18", "2026-11-30T00:00:00Z").unwrap(), ["C"]);
        }
    }
}
