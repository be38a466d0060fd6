//! The columns of a bill that matter, as batches of rows, for every kind of file.
//!
//! Text stays dictionary codes, so that a product code or a tag value is interpreted once for each
//! distinct value instead of once a row. Amounts and days are read only for rows that matter.
//! Floats enter the program only here ([`from_double`]).

use std::borrow::Cow;

use arrow::array::{
    Array, ArrayRef, AsArray, Decimal128Array, Decimal256Array, DictionaryArray, Float64Array, MapArray, StringArray,
};
use arrow::compute::{CastOptions, cast, cast_with_options};
use arrow::datatypes::{DataType, Decimal128Type, Decimal256Type, Float64Type, Int32Type, Int64Type, TimeUnit};

use books::units::calendar::Day;
use books::units::quantity::{DECIMALS, Quantity, QuantityError, Rounding, UNIT};

/// Largest amount of a line, 10¹⁶ units: the sums of 10¹² such lines fit into 128 bits.
const LARGEST: Quantity = Quantity::from_scaled(UNIT * 10_i128.pow(16));

/// Code of a row without a value.
pub const BLANK: i32 = -1;

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
    Flat(TextColumn<'a>),
    /// A map of all tags.
    Map {
        /// Where the entries of each row start; the last one is the end.
        offsets: &'a [i32],
        /// The keys of all entries.
        keys: TextColumn<'a>,
        /// By key code: true for a spelling of the customer tag's key.
        is_customer: Vec<bool>,
        /// The values of all entries.
        values: TextColumn<'a>,
    },
}

/// A [`Tag`] with its name in the file.
#[derive(Clone, Debug)]
pub struct TagColumn<'a> {
    pub column: &'a str,
    pub tag: Tag<'a>,
}

impl<'a> Tag<'a> {
    /// From a map of texts; `is_customer` is true for spellings of the customer tag's key.
    pub fn from_map(array: &'a MapArray, is_customer: impl Fn(&str) -> bool) -> Option<Self> {
        let (keys, values) = (TextColumn::from_array(array.keys())?, TextColumn::from_array(array.values())?);
        let known = keys.values().iter().map(|k| k.is_some_and(&is_customer)).collect();
        Some(Self::Map { offsets: array.offsets().as_ref(), keys, is_customer: known, values })
    }

    /// The column that [`Tag::codes`] are codes of.
    pub fn text(&self) -> &TextColumn<'a> {
        match self {
            Self::Flat(text) => text,
            Self::Map { values, .. } => values,
        }
    }

    /// Codes of a row's customer tag: none or one as a rule, more when a map has several spellings
    /// of the key.
    #[inline]
    pub fn codes(&self, row: usize, mut found: impl FnMut(i32)) {
        match self {
            Self::Flat(text) => found(text.code(row)),
            Self::Map { offsets, keys, is_customer, values } => {
                let at = |n: i32| usize::try_from(n).unwrap_or(0);
                for entry in at(offsets[row])..at(offsets[row + 1]) {
                    if usize::try_from(keys.code(entry)).is_ok_and(|k| is_customer[k]) {
                        found(values.code(entry));
                    }
                }
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

    /// The amount of a row. A missing amount is 0, as in bills that cannot leave a column empty.
    ///
    /// # Errors
    /// When it is no number, or so large that sums could overflow.
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
        let none = Ok((Quantity::ZERO, Rounding::Exact));
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
        match self {
            Self::Instants(array, unit) => {
                let array = array.as_primitive::<Int64Type>();
                if array.is_null(row) {
                    return None;
                }
                let value = array.value(row);
                // spelled out so that each division is by a constant
                let day = match unit {
                    TimeUnit::Second => value.div_euclid(86_400),
                    TimeUnit::Millisecond => value.div_euclid(86_400_000),
                    TimeUnit::Microsecond => value.div_euclid(86_400_000_000),
                    TimeUnit::Nanosecond => value.div_euclid(86_400_000_000_000),
                };
                i32::try_from(day).ok()
            }
            Self::TextColumn(text) => {
                let text = text.value(text.code(row));
                let start = text.split('/').next().unwrap_or_default();
                // text without an offset is UTC, as everywhere in a bill
                if let Ok(instant) = start.parse::<jiff::Timestamp>() {
                    return i32::try_from(instant.as_second().div_euclid(86_400)).ok();
                }
                let date = start.parse::<jiff::civil::DateTime>().ok()?.date();
                (start.len() >= 10).then(|| date.to_string().parse::<Day>().ok()).flatten().map(Day::epoch)
            }
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
    /// `line_item_usage_amount`.
    pub amount: Amounts<'a>,
    /// `line_item_usage_start_date`, or the start of `identity_time_interval`.
    pub day: Days<'a>,
    /// `bill_billing_period_start_date`, where the export has it.
    pub period: Option<Days<'a>>,
}

#[cfg(test)]
mod tests {
    use super::*;
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
