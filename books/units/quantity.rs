//! Exact amounts of usage.
//!
//! AWS writes usage as IEEE doubles or decimal text. No amount of a real bill so far has more than
//! ten decimals, so a quantity is an integer count of 10⁻¹⁰ units (a declared scale, as in other
//! ledgers). Sums are exact in any order, which sums of floats are not. An amount with more
//! decimals is rounded half-even once, where it is read, and counted ([`Rounding`]).

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Neg, Sub};
use std::str::FromStr;

use rust_decimal::Decimal;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Decimals that a [`Quantity`] keeps.
pub const DECIMALS: u32 = 10;
/// One unit, scaled.
pub const UNIT: i128 = 10_000_000_000;
/// Largest magnitude of a stored cell, in scaled units: 900 million units (migration 0003).
pub const CELL_LIMIT: i64 = 9_000_000_000_000_000_000;

/// A signed amount of usage in some meter's unit, exact to ten decimals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quantity(i128);

/// Whether reading a value rounded it, half-even at the tenth decimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    Exact,
    /// The value had more than ten decimals.
    Rounded,
}

/// Why a text or number is no quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    #[error("it has no amount")]
    Missing,
    #[error("`{0}` is not a decimal number")]
    NotANumber(String),
    #[error("the amount is {0}, not a finite number")]
    NotFinite(String),
    #[error("{0} is too large to be booked exactly (limit: 900,000,000 units for one customer, meter and day)")]
    TooLarge(String),
}

impl Quantity {
    pub const ZERO: Self = Self(0);

    /// A quantity of `scaled` × 10⁻¹⁰ units.
    pub const fn from_scaled(scaled: i128) -> Self {
        Self(scaled)
    }

    /// The number of 10⁻¹⁰ units.
    pub const fn scaled(self) -> i128 {
        self.0
    }

    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    pub const fn abs(self) -> Self {
        Self(self.0.abs())
    }

    /// As the ledger stores it.
    ///
    /// # Errors
    /// When the magnitude is above [`CELL_LIMIT`].
    pub fn to_cell(self) -> Result<i64, QuantityError> {
        match i64::try_from(self.0) {
            Ok(cell) if (-CELL_LIMIT..=CELL_LIMIT).contains(&cell) => Ok(cell),
            _ => Err(QuantityError::TooLarge(self.to_string())),
        }
    }

    /// Puts together whole units and the rest in 10⁻¹⁰ units, which SQL sums apart so that a sum of
    /// many cells cannot overflow.
    pub fn from_parts(units: i64, rest: i64) -> Self {
        Self(i128::from(units) * UNIT + i128::from(rest))
    }

    /// Reads decimal text: `12`, `-0.5`, `5.79375E-5` (the Java notation that AWS writes into CSV).
    ///
    /// # Errors
    /// When the text is no finite decimal number, or does not fit into 128 bits.
    pub fn parse(text: &str) -> Result<(Self, Rounding), QuantityError> {
        let bad = || QuantityError::NotANumber(text.chars().take(60).collect());
        let body = text.trim();
        let (negative, body) = match body.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, body.strip_prefix('+').unwrap_or(body)),
        };
        let lower = body.to_ascii_lowercase();
        if matches!(lower.as_str(), "nan" | "inf" | "infinity") {
            return Err(QuantityError::NotFinite(lower));
        }
        let (mantissa, exponent) = match body.split_once(['e', 'E']) {
            Some((m, e)) => (m, e.parse::<i32>().map_err(|_| bad())?),
            None => (body, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = whole.bytes().chain(fraction.bytes());
        if (whole.is_empty() && fraction.is_empty()) || !digits.clone().all(|b| b.is_ascii_digit()) {
            return Err(bad());
        }
        // value = digits × 10^(exponent − len(fraction)); in scaled units that is digits × 10^shift
        let fraction_digits = i32::try_from(fraction.len()).map_err(|_| bad())?;
        let decimals = i32::try_from(DECIMALS).map_err(|_| bad())?;
        let shift = exponent.saturating_sub(fraction_digits).saturating_add(decimals);
        let significant: Vec<u8> = digits.map(|b| b - b'0').skip_while(|d| *d == 0).collect();
        let keep = if shift >= 0 {
            significant.len()
        } else {
            significant.len().saturating_sub(usize::try_from(shift.unsigned_abs()).map_err(|_| bad())?)
        };
        let too_large = || QuantityError::TooLarge(text.chars().take(60).collect());
        let mut value: i128 = 0;
        for d in &significant[..keep] {
            value = value.checked_mul(10).and_then(|v| v.checked_add(i128::from(*d))).ok_or_else(too_large)?;
        }
        let dropped = &significant[keep..];
        let mut fit = Rounding::Exact;
        if shift > 0 {
            if value != 0 {
                let factor = 10_i128.checked_pow(shift.unsigned_abs()).ok_or_else(too_large)?;
                value = value.checked_mul(factor).ok_or_else(too_large)?;
            }
        } else if dropped.iter().any(|d| *d != 0) {
            fit = Rounding::Rounded;
            // half-even compares the first dropped digit at its true place; skipped leading zeros
            // may lie before it
            let places = usize::try_from(shift.unsigned_abs()).map_err(|_| bad())?;
            let half = if dropped.len() < places {
                std::cmp::Ordering::Less
            } else {
                dropped[0].cmp(&5).then(if dropped[1..].iter().any(|d| *d != 0) {
                    std::cmp::Ordering::Greater
                } else {
                    std::cmp::Ordering::Equal
                })
            };
            if half.is_gt() || (half.is_eq() && value % 2 == 1) {
                value += 1;
            }
        }
        Ok((Self(if negative { -value } else { value }), fit))
    }

    /// Units of the meter for Stripe's units, of which `per_unit` are one of ours, rounded
    /// half-even.
    pub fn of_stripe(units: i64, per_unit: Decimal) -> Self {
        let scale = 10_i128.checked_pow(per_unit.scale()).unwrap_or(1);
        let (scaled, _) = divide_half_even(i128::from(units) * scale * UNIT, per_unit.mantissa().max(1));
        Self(scaled)
    }

    /// This quantity times an exact decimal, rounded half-even at the tenth decimal if it has more.
    ///
    /// # Errors
    /// When the product does not fit into 128 bits.
    pub fn times(self, factor: Decimal) -> Result<(Self, Rounding), QuantityError> {
        let product = self.0.checked_mul(factor.mantissa()).ok_or_else(|| QuantityError::TooLarge(self.to_string()))?;
        let (value, fit) = divide_half_even(product, 10_i128.pow(factor.scale()));
        Ok((Self(value), fit))
    }

    /// This quantity times an exact decimal, as text with all its decimals. A product beyond 128
    /// bits is written as its two factors.
    pub fn times_exactly(self, factor: Decimal) -> String {
        match self.0.checked_mul(factor.mantissa()) {
            Some(product) => decimal_text(product, DECIMALS + factor.scale()),
            None => format!("{self} × {factor}"),
        }
    }
}

/// `n` × 10^-`scale` as plain decimal text without trailing zeros.
fn decimal_text(n: i128, scale: u32) -> String {
    let digits = format!("{:0>width$}", n.unsigned_abs(), width = usize::try_from(scale).unwrap_or(0) + 1);
    let (whole, rest) = digits.split_at(digits.len() - usize::try_from(scale).unwrap_or(0));
    let (sign, rest) = (if n < 0 { "-" } else { "" }, rest.trim_end_matches('0'));
    if rest.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{rest}") }
}

/// `n / d` rounded to the nearest integer, ties to even; `d` is positive.
pub fn divide_half_even(n: i128, d: i128) -> (i128, Rounding) {
    let (quotient, rest) = (n.div_euclid(d), n.rem_euclid(d));
    if rest == 0 {
        return (quotient, Rounding::Exact);
    }
    let up = match (rest * 2).cmp(&d) {
        std::cmp::Ordering::Greater => true,
        std::cmp::Ordering::Equal => quotient.rem_euclid(2) == 1,
        std::cmp::Ordering::Less => false,
    };
    (quotient + i128::from(up), Rounding::Rounded)
}

impl fmt::Display for Quantity {
    /// Plain decimal without trailing zeros: `1.8106679759`, `-12`, `0`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let magnitude = self.0.unsigned_abs();
        let (whole, rest) = (magnitude / UNIT.unsigned_abs(), magnitude % UNIT.unsigned_abs());
        let text =
            if rest == 0 { whole.to_string() } else { format!("{whole}.{rest:010}").trim_end_matches('0').to_owned() };
        f.pad_integral(self.0 >= 0, "", &text)
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    /// Reads decimal text of at most ten decimals.
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        match Self::parse(text)? {
            (quantity, Rounding::Exact) => Ok(quantity),
            (_, Rounding::Rounded) => Err(QuantityError::NotANumber(format!("{text} (more than {DECIMALS} decimals)"))),
        }
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// Reads what [`Serialize`] writes, and whole numbers too.
struct QuantityVisitor;

impl serde::de::Visitor<'_> for QuantityVisitor {
    type Value = Quantity;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a decimal number as text, with at most {DECIMALS} decimals, or a whole number")
    }
    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Quantity, E> {
        text.parse().map_err(E::custom)
    }
    fn visit_i64<E: serde::de::Error>(self, whole: i64) -> Result<Quantity, E> {
        Ok(Quantity(i128::from(whole) * UNIT))
    }
    fn visit_u64<E: serde::de::Error>(self, whole: u64) -> Result<Quantity, E> {
        Ok(Quantity(i128::from(whole) * UNIT))
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(QuantityVisitor)
    }
}

impl Add for Quantity {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}
impl Sub for Quantity {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0 - other.0)
    }
}
impl Neg for Quantity {
    type Output = Self;
    fn neg(self) -> Self {
        Self(-self.0)
    }
}
impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Self) {
        self.0 += other.0;
    }
}
impl Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(items: I) -> Self {
        items.fold(Self::ZERO, Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &str) -> (String, Rounding) {
        let (q, fit) = Quantity::parse(text).expect(text);
        (q.to_string(), fit)
    }

    #[test]
    fn decimal_text_is_read_exactly() {
        for (text, want, fit) in [
            ("0", "0", Rounding::Exact),
            ("", "", Rounding::Exact),
            ("12", "12", Rounding::Exact),
            ("-0.5", "-0.5", Rounding::Exact),
            ("+1.50", "1.5", Rounding::Exact),
            (".25", "0.25", Rounding::Exact),
            ("3.", "3", Rounding::Exact),
            ("5.79375E-5", "0.0000579375", Rounding::Exact),
            ("1e3", "1000", Rounding::Exact),
            ("0e99999999", "0", Rounding::Exact),
            ("1E-10", "0.0000000001", Rounding::Exact),
            ("1E-11", "0", Rounding::Rounded),
            ("5E-11", "0", Rounding::Rounded),
            ("15E-11", "0.0000000002", Rounding::Rounded),
            ("25E-11", "0.0000000002", Rounding::Rounded),
            ("5.0000000001E-11", "0.0000000001", Rounding::Rounded),
            ("9E-12", "0", Rounding::Rounded),
            ("0.99999999995", "1", Rounding::Rounded),
            ("-0.99999999995", "-1", Rounding::Rounded),
            ("1E-2147483648", "0", Rounding::Rounded),
        ] {
            if text.is_empty() {
                assert!(Quantity::parse(text).is_err());
                continue;
            }
            assert_eq!(parsed(text), (want.to_owned(), fit), "{text}");
        }
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in ["abc", "1.2.3", "--1", "1e", "e5", ".", "0x10", "1,5", "nan", "-Infinity", "1e39"] {
            assert!(Quantity::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_factor_rounds_half_even_once() {
        let f = |q: &str, f: &str| {
            let (q, fit) = q.parse::<Quantity>().unwrap().times(f.parse().unwrap()).unwrap();
            (q.to_string(), fit)
        };
        assert_eq!(f("2", "60"), ("120".into(), Rounding::Exact));
        assert_eq!(f("0.0000000001", "0.5"), ("0".into(), Rounding::Rounded));
        assert_eq!(f("0.0000000003", "0.5"), ("0.0000000002".into(), Rounding::Rounded));
        assert_eq!(f("-0.0000000003", "0.5"), ("-0.0000000002".into(), Rounding::Rounded));
    }

    #[test]
    fn a_product_keeps_all_its_decimals() {
        for (quantity, factor, want) in [
            ("2", "60", "120"),
            ("0.0000000001", "0.5", "0.00000000005"),
            ("-1.5", "0.0166666667", "-0.02500000005"),
            ("0", "0.25", "0"),
            ("12", "1", "12"),
            ("0.1", "10", "1"),
        ] {
            let product = quantity.parse::<Quantity>().unwrap().times_exactly(factor.parse().unwrap());
            assert_eq!(product, want, "{quantity} × {factor}");
        }
        let large = Quantity::from_scaled(i128::MAX / 2);
        assert!(large.times_exactly("0.0000000003".parse().unwrap()).ends_with(" × 0.0000000003"));
    }

    proptest! {
        #[test]
        fn text_and_quantity_are_two_forms_of_one(scaled in any::<i64>()) {
            let q = Quantity::from_scaled(i128::from(scaled));
            prop_assert_eq!(q.to_string().parse::<Quantity>().unwrap(), q);
        }

        #[test]
        fn splitting_a_sum_as_sql_does_loses_nothing(cells in prop::collection::vec(-CELL_LIMIT..=CELL_LIMIT, 0..50)) {
            let unit = i64::try_from(UNIT).unwrap();
            let parts = Quantity::from_parts(cells.iter().map(|c| c / unit).sum(), cells.iter().map(|c| c % unit).sum());
            prop_assert_eq!(parts.scaled(), cells.iter().map(|c| i128::from(*c)).sum::<i128>());
        }
    }
}
