//! The instants at which a decision becomes another one by time alone. Pure.
//!
//! Between two bounds (the ends of periods and of subscriptions) only usage that runs changes, and
//! it never falls. So what follows from it changes once and stays changed, and the first second of
//! that can be searched for by halves, with the rules of the decision themselves.

/// The first second after `from` and before `bound` in which something has changed, which then
/// stays so; none when it has not until then.
pub(super) fn first_second(from: i64, bound: i64, mut has_changed: impl FnMut(i64) -> bool) -> Option<i64> {
    let (mut before, mut after) = (from, bound - 1);
    if after <= before || !has_changed(after) {
        return None;
    }
    while after - before > 1 {
        let middle = before + (after - before) / 2;
        if has_changed(middle) { after = middle } else { before = middle }
    }
    Some(after)
}

/// The count of TURN credentials at which a customer is decided anew: the next share of `included`
/// that somebody is notified of, the limit, or the next hundredth of what is included, so that the
/// stored count is never further behind.
pub(super) fn next_count(used: i64, included: i64, limit: Option<i64>, thresholds: &[u32]) -> i64 {
    let step = (included / 100).max(1);
    let hundredth = (used / step + 1).saturating_mul(step);
    let share = |percent: &u32| {
        let count = (i128::from(included) * i128::from(*percent) + 99) / 100;
        i64::try_from(count).unwrap_or(i64::MAX)
    };
    let marks = thresholds.iter().map(share).chain(limit).filter(|count| *count > used);
    marks.fold(hundredth, i64::min)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_next_count_is_the_next_share_the_limit_or_a_hundredth() {
        for (used, included, limit, thresholds, next) in [
            (0, 500, Some(500), &[50, 80, 100][..], 5),
            (4, 500, Some(500), &[50, 80, 100], 5),
            (5, 500, Some(500), &[50, 80, 100], 10),
            (499, 500, Some(500), &[50, 80, 100], 500),
            (500, 500, Some(500), &[50, 80, 100], 505),
            (0, 0, Some(0), &[50], 1),
            (0, 10, Some(10), &[], 1),
            // a share that is no whole hundredth
            (990, 10_000, None, &[10], 1000),
            (1020, 3_000, Some(1033), &[], 1033),
            (0, 1_000, Some(1_000), &[1], 10),
            (20, 999, Some(999), &[3], 27),
            (27, 999, Some(999), &[3], 30),
            (i64::MAX - 1, i64::MAX, None, &[100], i64::MAX),
        ] {
            assert_eq!(next_count(used, included, limit, thresholds), next, "{used} of {included}");
        }
    }

    proptest! {
        #[test]
        fn the_first_second_is_found(from in -1000_i64..1000, length in 0_i64..3000, change in -2000_i64..5000) {
            let bound = from + length;
            let naive = (from + 1..bound).find(|second| *second >= change);
            prop_assert_eq!(first_second(from, bound, |second| second >= change), naive);
        }
    }
}
