//! The columns of a bill that matter, as batches of rows, for every kind of file.
//!
//! Text stays dictionary codes, so that a product code or a tag value is interpreted once for each
//! distinct value instead of once a row. Amounts and days are read only for rows that matter.
//! Floats enter the program only here ([`from_double`]).

use std::borrow::Cow;
use std::ops::Range;

use arrow::array::{
    Array, ArrayRef, AsArray, Decimal128Array, Decimal256Array, DictionaryArray, Float64Array, MapArray, StringArray,
};
use arrow::compute::{CastOptions, cast, cast_with_options};
use arrow::datatypes::{DataType, Decimal128Type, Decimal256Type, Float64Type, Int32Type, Int64Type, TimeUnit};
use serde::{Deserialize, Serialize};

use books::units::quantity::{DECIMALS, Quantity, QuantityError, Rounding, UNIT};
use books::usage::tag_key::TagKeys;

/// Largest amount of a line, 10¹⁶ units: the sums of 10¹² such lines fit into 128 bits.
const LARGEST: Quantity = Quantity::from_scaled(UNIT * 10_i128.pow(16));

pub const DAY_SECONDS: i64 = 86_400;
/// Code of a row without a value.
pub const BLANK: i32 = -1;

/// Begins the text in place of a tag value from which no customer can be read; the reason follows.
/// A tag value that begins so itself is unusable, too, because it has a control character.
pub const NO_CUSTOMER: char = '\0';

/// A text column: a code for each row, and the text of each code.
#[derive(Clone, Debug)]
pub struct TextColumn<'a> {
    codes: Cow<'a, [i32]>,
    values: StringArray,
}

impl<'a> TextColumn<'a> {
    /// From codes, or [`BLANK`], and their texts.
    pub fn new(codes: Vec<i32>, values: StringArray) -> Self {
        Self { codes: Cow::Owned(codes), values }
    }

    fn from_dictionary(array: &'a DictionaryArray<Int32Type>) -> Self {
        let keys = array.keys();
        let codes = if keys.null_count() == 0 {
            Cow::Borrowed(keys.values().as_ref())
        } else {
            Cow::Owned(keys.iter().map(|k| k.unwrap_or(BLANK)).collect())
        };
        Self { codes, values: array.values().as_string::<i32>().clone() }
    }

    /// A column without a value.
    pub fn blank(rows: usize) -> Self {
        Self::new(vec![BLANK; rows], StringArray::new_null(0))
    }

    /// From a dictionary-encoded array of text, or an array without a value, which writers other
    /// than AWS give any type; none for other arrays.
    pub fn from_array(array: &'a ArrayRef) -> Option<Self> {
        let Some(dictionary) = array.as_dictionary_opt::<Int32Type>() else {
            let blank = !array.data_type().is_nested() && array.logical_null_count() == array.len();
            return blank.then(|| Self::blank(array.len()));
        };
        match dictionary.values().data_type() {
            DataType::Utf8 => Some(Self::from_dictionary(dictionary)),
            // old writers do not mark a column of bytes as text
            DataType::Binary => {
                let strict = CastOptions { safe: false, ..CastOptions::default() };
                let texts = cast_with_options(dictionary.values(), &DataType::Utf8, &strict).ok()?;
                let codes = dictionary.keys().iter().map(|k| k.unwrap_or(BLANK)).collect();
                Some(Self::new(codes, texts.as_string::<i32>().clone()))
            }
            _ => None,
        }
    }

    pub fn code(&self, row: usize) -> i32 {
        self.codes[row]
    }

    /// The text of a code; empty for [`BLANK`] and null.
    pub fn value(&self, code: i32) -> &str {
        match usize::try_from(code) {
            Ok(at) if self.values.is_valid(at) => self.values.value(at),
            _ => "",
        }
    }

    pub fn values(&self) -> &StringArray {
        &self.values
    }
}

/// A column that may have the customer tag.
#[derive(Clone, Debug)]
pub enum Tag<'a> {
    /// A column of its own.
    Flat {
        /// The place of its key among the configured ones.
        place: u8,
        text: TextColumn<'a>,
    },
    /// Maps of all tags.
    Maps(Box<TagMaps<'a>>),
}

/// Maps of all tags, each of one row or of several.
#[derive(Clone, Debug)]
pub struct TagMaps<'a> {
    /// The map of each row; none when each row has its own, in order.
    of_rows: Option<&'a [i32]>,
    /// Where the entries of each map start; the last one is the end.
    offsets: &'a [i32],
    /// The keys of all entries.
    keys: TextColumn<'a>,
    /// By key code: the place among the configured keys; none for another tag.
    places: Vec<Option<u8>>,
    /// By key code: whether the key is similar to a configured one; empty when none is.
    similar: Vec<bool>,
    /// The values of all entries.
    values: TextColumn<'a>,
}

/// A [`Tag`] with its name in the file.
#[derive(Clone, Debug)]
pub struct TagColumn<'a> {
    pub column: &'a str,
    pub tag: Tag<'a>,
}

impl<'a> Tag<'a> {
    /// From an array of texts, of maps of texts, or of codes of such maps; none for other arrays,
    /// and for texts in a column that is not of one tag.
    pub fn from_array(column: &str, array: &'a ArrayRef, keys: &TagKeys) -> Option<Self> {
        if let Some(map) = array.as_map_opt() {
            return TagMaps::new(None, map, keys).map(|maps| Self::Maps(Box::new(maps)));
        }
        if let Some(codes) = array.as_dictionary_opt::<Int32Type>()
            && let Some(map) = codes.values().as_map_opt()
        {
            return TagMaps::new(Some(codes.keys().values()), map, keys).map(|maps| Self::Maps(Box::new(maps)));
        }
        let text = TextColumn::from_array(array)?;
        let is_blank = || array.logical_null_count() == array.len();
        let place = keys.place_of_column(column).or_else(|| is_blank().then_some(0))?;
        Some(Self::Flat { place, text })
    }

    /// The column that [`Tag::codes`] are codes of.
    pub fn text(&self) -> &TextColumn<'a> {
        match self {
            Self::Flat { text, .. } => text,
            Self::Maps(maps) => &maps.values,
        }
    }

    /// The keys that the maps may have; none of a column of its own.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        let keys = match self {
            Self::Flat { .. } => None,
            Self::Maps(maps) => Some(maps.keys.values().iter().flatten()),
        };
        keys.into_iter().flatten()
    }

    /// True when a row has a value of a tag in a map whose key is similar to a configured one.
    pub fn has_similar(&self, row: usize) -> bool {
        matches!(self, Self::Maps(maps) if maps.has_similar(row))
    }

    /// The values of a row's customer tag, each as the place of its key and its code: none or one
    /// as a rule, more when a map has several of the keys, or one in several spellings.
    #[inline]
    pub fn codes(&self, row: usize, mut found: impl FnMut(u8, i32)) {
        match self {
            Self::Flat { place, text } => found(*place, text.code(row)),
            Self::Maps(maps) => maps.codes(row, found),
        }
    }
}

impl<'a> TagMaps<'a> {
    fn new(of_rows: Option<&'a [i32]>, map: &'a MapArray, configured: &TagKeys) -> Option<Self> {
        let (keys, values) = (TextColumn::from_array(map.keys())?, TextColumn::from_array(map.values())?);
        let place = |key: &str| match key.starts_with(NO_CUSTOMER) {
            true => Some(0),
            false => configured.place_of_entry(key),
        };
        let places = keys.values().iter().map(|key| place(key?)).collect();
        let is_similar = |key: Option<&str>| key.is_some_and(|key| configured.is_similar_entry(key));
        let similar: Vec<bool> = keys.values().iter().map(is_similar).collect();
        let similar = if similar.contains(&true) { similar } else { vec![] };
        Some(Self { of_rows, offsets: map.offsets().as_ref(), keys, places, similar, values })
    }

    /// The entries of a row.
    #[inline]
    fn entries(&self, row: usize) -> Range<usize> {
        let at = |n: i32| usize::try_from(n).unwrap_or(0);
        let map = self.of_rows.map_or(row, |maps| at(maps[row]));
        at(self.offsets[map])..at(self.offsets[map + 1])
    }

    fn has_similar(&self, row: usize) -> bool {
        let is_similar = |entry: usize| {
            let key = usize::try_from(self.keys.code(entry)).ok();
            key.is_some_and(|key| self.similar[key]) && !self.values.value(self.values.code(entry)).is_empty()
        };
        !self.similar.is_empty() && self.entries(row).any(is_similar)
    }

    #[inline]
    fn codes(&self, row: usize, mut found: impl FnMut(u8, i32)) {
        for entry in self.entries(row) {
            if let Some(place) = usize::try_from(self.keys.code(entry)).ok().and_then(|key| self.places[key]) {
                found(place, self.values.code(entry));
            }
        }
    }
}

/// A column of amounts.
#[derive(Clone, Debug)]
pub enum Amounts<'a> {
    /// DOUBLE, as AWS writes it.
    Double(&'a Float64Array),
    /// Integers, and DECIMAL of at most ten decimals, widened to ten.
    Decimal(Decimal128Array),
    /// DECIMAL of more than 38 digits or with more than ten decimals.
    Wide(Decimal256Array),
    /// Decimal text, and FLOAT as its shortest decimal text.
    TextColumn(TextColumn<'a>),
}

/// The decimal that AWS wrote as a double: the shortest one that reads back as the same double.
///
/// The quick way rounds `x` · 10¹⁰ to an integer n and compares n / 10¹⁰ with `x`. Below 2⁵¹ no two
/// such n have the same double, and the division is rounded correctly, so equality proves that n is
/// right. Every other double takes the long way, through text.
#[expect(
    clippy::float_arithmetic,
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "the one door where a float comes in"
)]
pub fn from_double(x: f64) -> Result<(Quantity, Rounding), QuantityError> {
    const SCALE: f64 = 1e10;
    const PROVEN: f64 = 2_251_799_813_685_248.0; // 2^51
    let scaled = (x * SCALE).round_ties_even();
    if scaled.abs() < PROVEN && scaled / SCALE == x {
        return Ok((Quantity::from_scaled(i128::from(scaled as i64)), Rounding::Exact));
    }
    if !x.is_finite() {
        return Err(QuantityError::NotFinite(x.to_string()));
    }
    Quantity::parse(&x.to_string())
}

impl<'a> Amounts<'a> {
    /// From an array of a type that can hold amounts; none for other types.
    pub fn from_array(array: &'a ArrayRef) -> Option<Self> {
        let decimals = i8::try_from(DECIMALS).ok()?;
        match array.data_type() {
            DataType::Float64 => Some(Self::Double(array.as_primitive::<Float64Type>())),
            // a FLOAT stands for its shortest decimal, which is its text
            DataType::Float32 => {
                let texts = cast(array, &DataType::Utf8).ok()?;
                Some(Self::TextColumn(plain(texts.as_string::<i32>())))
            }
            DataType::Decimal128(_, scale) if *scale <= decimals => {
                let widened = cast(array, &DataType::Decimal128(38, decimals)).ok()?;
                (widened.null_count() == array.null_count()).then(|| Self::Decimal(widened.as_primitive().clone()))
            }
            DataType::Decimal128(..) => {
                let DataType::Decimal128(_, scale) = array.data_type() else { return None };
                let widened = cast(array, &DataType::Decimal256(76, *scale)).ok()?;
                Some(Self::Wide(widened.as_primitive::<Decimal256Type>().clone()))
            }
            DataType::Decimal256(..) => Some(Self::Wide(array.as_primitive::<Decimal256Type>().clone())),
            t if t.is_integer() => {
                let widened = cast(array, &DataType::Decimal128(38, decimals)).ok()?;
                Some(Self::Decimal(widened.as_primitive::<Decimal128Type>().clone()))
            }
            _ => TextColumn::from_array(array).map(Self::TextColumn),
        }
    }

    /// The amount of a row.
    ///
    /// # Errors
    /// When it is missing, no number, or so large that sums could overflow.
    #[inline]
    pub fn get(&self, row: usize) -> Result<(Quantity, Rounding), QuantityError> {
        let (amount, fit) = self.unchecked(row)?;
        if amount > LARGEST || amount < Quantity::ZERO - LARGEST {
            return Err(QuantityError::TooLarge(amount.to_string()));
        }
        Ok((amount, fit))
    }

    #[inline]
    fn unchecked(&self, row: usize) -> Result<(Quantity, Rounding), QuantityError> {
        let none = Err(QuantityError::Missing);
        match self {
            Self::Double(a) if a.is_null(row) => none,
            Self::Double(a) => from_double(a.value(row)),
            Self::Decimal(a) if a.is_null(row) => none,
            Self::Decimal(a) => Ok((Quantity::from_scaled(a.value(row)), Rounding::Exact)),
            Self::Wide(a) if a.is_null(row) => none,
            Self::Wide(a) => Quantity::parse(&a.value_as_string(row)),
            Self::TextColumn(text) => match text.value(text.code(row)).trim() {
                "" => none,
                number => Quantity::parse(number),
            },
        }
    }
}

/// A text column with one code a row.
fn plain(values: &StringArray) -> TextColumn<'static> {
    let rows = i32::try_from(values.len()).unwrap_or(0);
    let codes = (0..rows).zip(values.iter()).map(|(i, v)| if v.is_some() { i } else { BLANK }).collect();
    TextColumn::new(codes, values.clone())
}

/// A column of instants, read as days in UTC.
#[derive(Clone, Debug)]
pub enum Days<'a> {
    /// Since 1970, in this unit.
    Instants(ArrayRef, TimeUnit),
    /// ISO 8601 text, or an interval, of which the start counts.
    TextColumn(TextColumn<'a>),
}

impl<'a> Days<'a> {
    /// From an array of a type that can hold instants; none for other types.
    pub fn from_array(array: &'a ArrayRef) -> Option<Self> {
        match array.data_type() {
            DataType::Timestamp(unit, _) => Some(Self::Instants(cast(array, &DataType::Int64).ok()?, *unit)),
            DataType::Date32 => {
                let seconds = cast(array, &DataType::Timestamp(TimeUnit::Second, None)).ok()?;
                Some(Self::Instants(cast(&seconds, &DataType::Int64).ok()?, TimeUnit::Second))
            }
            _ => TextColumn::from_array(array).map(Self::TextColumn),
        }
    }

    /// The day of a row, since 1970; none when it is missing or unreadable.
    #[inline]
    pub fn get(&self, row: usize) -> Option<i32> {
        i32::try_from(self.seconds(row)?.div_euclid(DAY_SECONDS)).ok()
    }

    /// The instant of a row, in seconds since 1970; none when it is missing or unreadable.
    #[inline]
    pub fn seconds(&self, row: usize) -> Option<i64> {
        match self {
            Self::Instants(array, unit) => {
                let array = array.as_primitive::<Int64Type>();
                if array.is_null(row) {
                    return None;
                }
                let value = array.value(row);
                // spelled out so that each division is by a constant
                Some(match unit {
                    TimeUnit::Second => value,
                    TimeUnit::Millisecond => value.div_euclid(1_000),
                    TimeUnit::Microsecond => value.div_euclid(1_000_000),
                    TimeUnit::Nanosecond => value.div_euclid(1_000_000_000),
                })
            }
            Self::TextColumn(text) => instant(text.value(text.code(row)).split('/').next()?),
        }
    }
}

/// The seconds since 1970 of an instant or a day as text. Text without an offset is UTC, as
/// everywhere in a bill.
fn instant(text: &str) -> Option<i64> {
    if let Ok(instant) = text.parse::<jiff::Timestamp>() {
        return Some(instant.as_second());
    }
    let at = text.parse::<jiff::civil::DateTime>().ok().filter(|_| text.len() >= 10)?;
    Some(at.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second())
}

/// The time granularity of an export, by how long its intervals are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Granularity {
    /// Up to an hour.
    Hourly,
    /// Up to a day.
    Daily,
    /// Longer.
    Monthly,
}

impl Granularity {
    /// By an interval of `identity_time_interval`; none when it is no interval.
    pub fn of_interval(interval: &str) -> Option<Self> {
        let (start, end) = interval.split_once('/')?;
        match instant(end)? - instant(start)? {
            ..=0 => None,
            1..=3600 => Some(Self::Hourly),
            3601..=DAY_SECONDS => Some(Self::Daily),
            _ => Some(Self::Monthly),
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Monthly => "monthly",
        }
    }
}

/// Rows of a bill, column by column.
#[derive(Clone, Debug)]
pub struct Batch<'a> {
    pub rows: usize,
    /// `line_item_product_code`.
    pub product: TextColumn<'a>,
    /// `line_item_usage_type`.
    pub usage_type: TextColumn<'a>,
    /// `line_item_line_item_type`.
    pub line_type: TextColumn<'a>,
    /// `pricing_unit`, where the export has it.
    pub unit: Option<TextColumn<'a>>,
    /// `split_line_item_parent_resource_id`, where the export has it.
    pub split_parent: Option<TextColumn<'a>>,
    /// Every column that may have the customer tag.
    pub tags: Vec<TagColumn<'a>>,
    /// The columns of tags whose key is similar to a configured one.
    pub similar: Vec<TextColumn<'a>>,
    /// `line_item_usage_amount`.
    pub amount: Amounts<'a>,
    /// The columns that cost meters sum, in the order of their [`BillColumns`].
    ///
    /// [`BillColumns`]: super::parquet_file::BillColumns
    pub costs: Vec<Amounts<'a>>,
    /// `line_item_currency_code`, where cost meters sum something.
    pub currency: Option<TextColumn<'a>>,
    /// `line_item_usage_start_date`, or the start of `identity_time_interval`.
    pub day: Days<'a>,
    /// `line_item_usage_end_date`, where the export has it and no interval.
    pub end: Option<Days<'a>>,
    /// `identity_time_interval`, where the export has it.
    pub interval: Option<TextColumn<'a>>,
    /// `bill_billing_period_start_date`, where the export has it.
    pub period: Option<Days<'a>>,
    /// What describes a line: those of [`BillColumns::descriptions`] that the export has.
    ///
    /// [`BillColumns::descriptions`]: super::parquet_file::BillColumns::descriptions
    pub descriptions: Vec<Option<TextColumn<'a>>>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use books::units::calendar::Day;
    use proptest::prelude::*;

    #[test]
    fn doubles_mean_what_aws_wrote() {
        for (x, want, fit) in [
            (0.1, "0.1", Rounding::Exact),
            (5.79375E-5, "0.0000579375", Rounding::Exact),
            (1.0, "1", Rounding::Exact),
            (-0.0, "0", Rounding::Exact),
            (123_456_789.123_456_7, "123456789.1234567", Rounding::Exact),
            (1e-10, "0.0000000001", Rounding::Exact),
            (1.5e-11, "0", Rounding::Rounded),
            (9_007_199_254_740_993.0, "9007199254740992", Rounding::Exact),
            (1e20, "100000000000000000000", Rounding::Exact),
        ] {
            let (q, found) = from_double(x).unwrap();
            assert_eq!((q.to_string().as_str(), found), (want, fit), "{x}");
        }
        for x in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300] {
            assert!(from_double(x).is_err(), "{x}");
        }
    }

    #[test]
    fn days_are_read_from_every_form_of_an_instant() {
        let day = |text: &str| Days::TextColumn(plain(&StringArray::from(vec![text]))).get(0);
        let want = "2026-04-02".parse::<Day>().unwrap().epoch();
        for text in [
            "2026-04-02",
            "2026-04-02T23:59:59.999Z",
            "2026-04-02T00:00:00Z/2026-04-03T00:00:00Z",
            "2026-04-02 05:00:00",
            "2026-04-02 05:00:00.000",
            "2026-04-02 00:00:00+00:00",
            "2026-04-03T01:00:00+02:00",
        ] {
            assert_eq!(day(text), Some(want), "{text}");
        }
        for text in ["", "yesterday", "2026-04-02X", "02.04.2026", "2026-13-01", "2026-04-0é"] {
            assert_eq!(day(text), None, "{text}");
        }
    }

    #[test]
    fn an_interval_of_more_than_a_day_is_monthly() {
        use Granularity::{Daily, Hourly, Monthly};
        for (interval, granularity) in [
            ("2026-11-01T00:00:00Z/2026-12-01T00:00:00Z", Some(Monthly)),
            ("2026-11-01T00:00:00Z/2026-11-02T00:00:01Z", Some(Monthly)),
            ("2026-11-01T00:00:00Z/2026-11-02T00:00:00Z", Some(Daily)),
            ("2026-11-01T00:00:00Z/2026-11-01T01:00:01Z", Some(Daily)),
            ("2026-11-01T00:00:00.000Z/2026-11-01T01:00:00.000Z", Some(Hourly)),
            ("2026-11-01T01:00:00Z/2026-11-01T01:00:00Z", None),
            ("2026-11-01T00:00:00Z", None),
            ("yesterday/tomorrow", None),
            ("", None),
        ] {
            assert_eq!(Granularity::of_interval(interval), granularity, "{interval}");
        }
    }

    proptest! {
        /// Every decimal with at most ten decimals survives being written as a double, up to 15
        /// significant digits.
        #[test]
        fn a_double_gives_its_decimal_back(n in -999_999_999_999_999_i64..=999_999_999_999_999) {
            let q = Quantity::from_scaled(i128::from(n));
            let x: f64 = q.to_string().parse().unwrap();
            prop_assert_eq!(from_double(x).unwrap(), (q, Rounding::Exact));
        }

        /// The quick way and the long way never differ.
        #[test]
        fn the_quick_way_is_the_long_way(x in -1e6_f64..1e6) {
            prop_assert_eq!(from_double(x).unwrap(), Quantity::parse(&x.to_string()).unwrap());
        }
    }
}
