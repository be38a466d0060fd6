//! How long an object is billed, and for how many seconds of a day. Pure.
//!
//! S3 bills an object from its creation to its end. A lifecycle rule of N days ends it at the first
//! midnight UTC at or after creation + N days, also when S3 removes it later
//! (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/intro-lifecycle-rules.html>). An
//! Inventory may state that instant itself, and then it counts.
//!
//! Seconds are those of Unix time, in which each day has 86,400: a leap second is in no interval.

/// Seconds of a day.
pub(super) const DAY: i64 = 86_400;

/// Which version of a key an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Currency {
    Current,
    /// Another version replaced it. The rule for current versions ends it no more.
    Noncurrent,
}

/// What an Inventory tells of an object's life, in seconds since 1970.
#[derive(Clone, Copy, Debug)]
pub(super) struct Life {
    pub(super) created: i64,
    /// The Inventory's own date of expiry.
    pub(super) expires: Option<i64>,
    /// When the web backend deleted the object of the key.
    pub(super) deleted: Option<i64>,
    pub(super) currency: Currency,
    /// When the Inventory began to list the bucket.
    pub(super) scanned_at: i64,
}

/// A UTC day of a bucket.
#[derive(Clone, Copy, Debug)]
pub(super) struct BilledDay {
    /// Its first second since 1970.
    pub(super) start: i64,
    /// Days of the lifecycle rule by which every object ends.
    pub(super) expire_days: Option<u16>,
}

/// The first midnight at or after an instant.
fn midnight_from(t: i64) -> i64 {
    match t.rem_euclid(DAY) {
        0 => t,
        past => t.saturating_add(DAY - past),
    }
}

impl BilledDay {
    fn end(self) -> i64 {
        self.start.saturating_add(DAY)
    }

    /// When the object ends, as far as this day can know.
    ///
    /// An object without a date and without a rule lives on: an Inventory that began after the day
    /// shows that it lived all day. One that began during the day shows it until then, and what
    /// comes after is shown by nothing.
    ///
    /// A deletion before the object was made is that of another object of the key.
    fn end_of(self, life: Life) -> i64 {
        let undisturbed = self.end_without_deletion(life);
        life.deleted.filter(|deleted| *deleted >= life.created).map_or(undisturbed, |deleted| undisturbed.min(deleted))
    }

    fn end_without_deletion(self, life: Life) -> i64 {
        let by_rule = |days: u16| midnight_from(life.created.saturating_add(i64::from(days) * DAY));
        let rule = self.expire_days.filter(|_| life.currency == Currency::Current);
        match life.expires.or_else(|| rule.map(by_rule)) {
            Some(end) => end,
            None if life.scanned_at >= self.end() => i64::MAX,
            None => life.scanned_at,
        }
    }

    /// Seconds of the day for which the object is billed: 0 to 86,400.
    pub(super) fn seconds_of(self, life: Life) -> u64 {
        let from = life.created.max(self.start);
        let until = self.end_of(life).min(self.end());
        u64::try_from(until.saturating_sub(from)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> i64 {
        text.parse::<jiff::Timestamp>().unwrap().as_second()
    }

    fn life(created: &str, expires: Option<&str>) -> Life {
        let scanned_at = at("2026-11-30T01:00:00Z");
        Life { created: at(created), expires: expires.map(at), deleted: None, currency: Currency::Current, scanned_at }
    }

    fn seconds(day: &str, expire_days: Option<u16>, life: Life) -> u64 {
        BilledDay { start: at(&format!("{day}T00:00:00Z")), expire_days }.seconds_of(life)
    }

    #[test]
    fn a_rule_of_a_day_ends_at_the_midnight_after_24_hours() {
        // the example of S3's documentation: created 10:30 on the 15th, 3 days, ends on the 19th
        let documented = life("2026-01-15T10:30:00Z", None);
        assert_eq!(seconds("2026-01-15", Some(3), documented), 13 * 3600 + 1800);
        assert_eq!(seconds("2026-01-18", Some(3), documented), 86_400);
        assert_eq!(seconds("2026-01-19", Some(3), documented), 0);
        for (created, days) in [
            ("2026-11-28T00:00:00Z", [0, 86_400, 0, 0]),
            ("2026-11-28T00:00:01Z", [0, 86_399, 86_400, 0]),
            ("2026-11-27T23:59:59Z", [1, 86_400, 0, 0]),
            ("2026-11-28T23:59:59Z", [0, 1, 86_400, 0]),
        ] {
            let of = |day: &str| seconds(day, Some(1), life(created, None));
            assert_eq!(["2026-11-27", "2026-11-28", "2026-11-29", "2026-11-30"].map(of), days, "{created}");
        }
        // over the end of February of a leap year, and of the year
        let leap = life("2028-02-28T12:00:00Z", None);
        assert_eq!([seconds("2028-02-29", Some(1), leap), seconds("2028-03-01", Some(1), leap)], [86_400, 0]);
        assert_eq!(seconds("2027-01-01", Some(1), life("2026-12-31T12:00:00Z", None)), 86_400);
    }

    #[test]
    fn the_date_of_an_inventory_counts_before_the_rule() {
        let of = |expires| life("2026-11-28T10:00:00Z", Some(expires));
        assert_eq!(seconds("2026-11-28", Some(30), of("2026-11-28T11:00:00Z")), 3600);
        assert_eq!(seconds("2026-11-29", Some(1), of("2026-12-05T00:00:00Z")), 86_400);
        // a date before the creation
        assert_eq!(seconds("2026-11-28", Some(30), of("2026-11-28T09:00:00Z")), 0);
        assert_eq!(seconds("2026-11-27", Some(30), of("2026-11-27T09:00:00Z")), 0);
    }

    #[test]
    fn an_object_without_an_end_lives_on_as_far_as_it_was_seen() {
        let seen = |scanned_at: &str| Life { scanned_at: at(scanned_at), ..life("2026-11-28T10:00:00Z", None) };
        assert_eq!(seconds("2026-11-28", None, seen("2026-11-29T00:00:00Z")), 14 * 3600);
        assert_eq!(seconds("2026-11-28", None, seen("2026-11-28T23:59:59Z")), 14 * 3600 - 1);
        assert_eq!(seconds("2026-11-28", None, seen("2026-11-28T09:00:00Z")), 0, "made while it was listed");
        assert_eq!(seconds("2026-11-27", None, seen("2026-11-29T00:00:00Z")), 0, "made after the day");
        let noncurrent = Life { currency: Currency::Noncurrent, ..seen("2026-12-02T01:00:00Z") };
        assert_eq!(seconds("2026-12-01", Some(1), noncurrent), 86_400, "the rule is of current versions");
    }

    #[test]
    fn clocks_that_are_off_by_ages_do_no_harm() {
        for created in [i64::MIN, i64::MIN / 1000, -1, i64::MAX / 1000, i64::MAX] {
            for expires in [None, Some(i64::MIN), Some(i64::MAX)] {
                for scanned_at in [i64::MIN, 0, i64::MAX] {
                    for start in [i64::MIN, -DAY, 0, i64::MAX - 1] {
                        let day = BilledDay { start, expire_days: Some(u16::MAX) };
                        let life = Life { created, expires, deleted: expires, currency: Currency::Current, scanned_at };
                        let found = day.seconds_of(life);
                        assert!(found <= 86_400, "{found}");
                    }
                }
            }
        }
    }

    /// Second by second: is the object billed in it?
    fn counted(day: BilledDay, life: Life) -> u64 {
        let mut end = life.expires;
        if let (None, Some(days), Currency::Current) = (end, day.expire_days, life.currency) {
            let mut t = life.created + i64::from(days) * DAY;
            while t % DAY != 0 {
                t += 1;
            }
            end = Some(t);
        }
        let is_billed = |t: i64| {
            let ends_later = match end {
                Some(end) => t < end,
                None => t < life.scanned_at || life.scanned_at >= day.start + DAY,
            };
            let is_deleted = life.deleted.is_some_and(|at| at >= life.created && at <= t);
            t >= life.created && ends_later && !is_deleted
        };
        u64::try_from((day.start..day.start + DAY).filter(|t| is_billed(*t)).count()).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn seconds_are_those_that_a_watch_counts(
            (created, expires, deleted) in
                (-3 * DAY..6 * DAY, prop::option::of(-3 * DAY..6 * DAY), prop::option::of(-3 * DAY..6 * DAY)),
            expire_days in prop::option::of(0_u16..4),
            scanned_at in -3 * DAY..6 * DAY,
            noncurrent in any::<bool>(),
            day in -1_i64..4,
        ) {
            let currency = if noncurrent { Currency::Noncurrent } else { Currency::Current };
            let day = BilledDay { start: day * DAY, expire_days };
            let life = Life { created, expires, deleted, currency, scanned_at };
            prop_assert_eq!(day.seconds_of(life), counted(day, life));
        }

        /// What the days have together is the whole interval.
        #[test]
        fn days_together_have_the_whole_life(created in 0_i64..20 * DAY, days in 0_u16..10) {
            let scanned_at = 100 * DAY;
            let life = Life { created, expires: None, deleted: None, currency: Currency::Current, scanned_at };
            let of = |day: i64| BilledDay { start: day * DAY, expire_days: Some(days) }.seconds_of(life);
            let whole: u64 = (0..40).map(of).sum();
            let lived = i64::try_from(whole).unwrap();
            prop_assert!(lived >= i64::from(days) * DAY && lived < i64::from(days + 1) * DAY);
            prop_assert_eq!((created + lived) % DAY, 0);
        }
    }
}
