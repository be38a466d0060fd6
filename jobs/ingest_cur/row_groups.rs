//! Whether a row group can have a line, by the statistics of its columns. Without statistics, or
//! with some that old writers got wrong, it can.

use arrow::datatypes::{DataType, TimeUnit};
use parquet::file::statistics::Statistics;

use super::aggregate::WantedLines;
use super::batch::DAY_SECONDS;

/// Whether a column can have a text. Texts are ordered by their bytes; a bound that was cut is
/// still a bound.
pub(super) fn can_have_text(statistics: Option<&Statistics>, text: &str) -> bool {
    let Some(all @ Statistics::ByteArray(of)) = statistics else { return true };
    match (of.min_opt(), of.max_opt()) {
        // writers before 2017 ordered bytes as signed numbers
        (Some(min), Some(max)) if !all.is_min_max_deprecated() => (min.data()..=max.data()).contains(&text.as_bytes()),
        _ => true,
    }
}

/// Whether a column of instants or days can have a wanted day.
pub(super) fn can_have_day(statistics: Option<&Statistics>, data_type: &DataType, wanted: &WantedLines) -> bool {
    let (min, max) = match (statistics, data_type) {
        (Some(Statistics::Int64(of)), DataType::Timestamp(unit, _)) => {
            let a_second = match unit {
                TimeUnit::Second => 1,
                TimeUnit::Millisecond => 1_000,
                TimeUnit::Microsecond => 1_000_000,
                TimeUnit::Nanosecond => 1_000_000_000,
            };
            let day = |at: &i64| at.div_euclid(a_second).div_euclid(DAY_SECONDS);
            (of.min_opt().map(day), of.max_opt().map(day))
        }
        (Some(Statistics::Int32(of)), DataType::Date32) => {
            (of.min_opt().map(|day| i64::from(*day)), of.max_opt().map(|day| i64::from(*day)))
        }
        _ => (None, None),
    };
    let (first, last) = (i64::from(wanted.first.epoch()), i64::from(wanted.last.epoch()));
    min.is_none_or(|min| min <= last) && max.is_none_or(|max| first <= max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use books::store::erased::ErasedIds;
    use parquet::data_type::ByteArray;

    fn texts(min: &str, max: &str, is_deprecated: bool) -> Statistics {
        Statistics::byte_array(Some(ByteArray::from(min)), Some(ByteArray::from(max)), None, None, is_deprecated)
    }

    #[test]
    fn a_text_outside_of_the_bounds_is_not_there() {
        for (text, can) in [("acme", true), ("bob", true), ("zoé", true), ("ab", false), ("zz", false), ("", false)] {
            assert_eq!(can_have_text(Some(&texts("acme", "zoé", false)), text), can, "{text}");
        }
        // nothing is known
        for unknown in
            [None, Some(&texts("acme", "zoé", true)), Some(&Statistics::int64(Some(1), None, None, None, false))]
        {
            assert!(can_have_text(unknown, "zz"));
        }
        let open = Statistics::byte_array(Some(ByteArray::from("m")), None, None, None, false);
        assert!(can_have_text(Some(&open), "a"));
    }

    #[test]
    fn a_day_outside_of_the_bounds_is_not_there() {
        let day = |text: &str| text.parse::<books::units::calendar::Day>().unwrap();
        let wanted = |first: &str, last: &str| WantedLines {
            customer: "acme".into(),
            erased: ErasedIds::default(),
            meters: vec![],
            first: day(first),
            last: day(last),
            most: 1,
        };
        let second = i64::from(day("2026-11-03").epoch()) * DAY_SECONDS;
        let (ms, us) = (TimeUnit::Millisecond, TimeUnit::Microsecond);
        for (unit, factor) in [(ms, 1_000), (us, 1_000_000)] {
            let of = Statistics::int64(
                Some(second * factor),
                Some((second + 2 * DAY_SECONDS) * factor - 1),
                None,
                None,
                false,
            );
            let data_type = DataType::Timestamp(unit, None);
            let can = |first: &str, last: &str| can_have_day(Some(&of), &data_type, &wanted(first, last));
            assert!(can("2026-11-04", "2026-11-04") && can("2026-11-01", "2026-11-03"));
            assert!(!can("2026-11-01", "2026-11-02") && !can("2026-11-05", "2026-11-30"));
        }
        assert!(can_have_day(None, &DataType::Utf8, &wanted("2026-11-01", "2026-11-02")));
    }
}
