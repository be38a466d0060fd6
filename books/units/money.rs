//! Money: prices, what usage costs, and amounts in a currency's minor unit.
//!
//! A [`Cost`] is exact: a quantity has ten decimals and a price at most twelve, so their product is
//! an integer count of 10⁻²² units of the currency. Only [`Cost::to_minor`] rounds, half-even.
//!
//! The minor unit is Stripe's everywhere, also for budgets; see [`Currency::decimals`].

use std::fmt;
use std::str::FromStr;

use rust_decimal::Decimal;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::units::quantity::{DECIMALS, Quantity, divide_half_even};

/// Decimals that a [`Price`] may have: as many as Stripe's `unit_amount_decimal` takes, which
/// counts cents (<https://docs.stripe.com/api/prices/create#create_price-unit_amount_decimal>).
pub const PRICE_DECIMALS: u32 = 12;
/// Largest price of one unit.
const PRICE_LIMIT: i64 = 1_000_000;
/// Largest amount of a budget, in minor units; see migration 0010.
pub const BUDGET_LIMIT: i64 = 100_000_000_000;
/// Decimals of a [`Cost`].
const COST_DECIMALS: u32 = DECIMALS + PRICE_DECIMALS;

/// Why a text is no currency, price or amount.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// Unknown to ISO 4217, or without a minor unit (gold).
    #[error("`{0}` is no currency of ISO 4217; write three capital letters, e.g. USD")]
    Currency(String),
    #[error("`{0}` is no price: a decimal from 0 to 1,000,000 with at most {PRICE_DECIMALS} decimals")]
    Price(String),
    #[error("`{0}` is no amount in {1}: a decimal of at least 0 with at most {2} decimals")]
    Amount(String, Currency, u16),
    #[error("`{0}` {1} is no whole amount, and nobody can be charged a fraction of {1}; write it without decimals")]
    Fraction(String, Currency),
    #[error("`{0}` {1} is more than a budget may be ({2} {1})")]
    TooMuch(String, Currency, String),
}

/// A currency of ISO 4217 that has minor units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Currency(iso_currency::Currency);

/// Currencies with another minor unit at Stripe than in ISO 4217, with the decimals that Stripe's
/// amounts have (<https://docs.stripe.com/currencies#zero-decimal> and `#special-cases`).
const STRIPE_DECIMALS: [(&str, u16); 3] = [("ISK", 2), ("MGA", 0), ("UGX", 2)];
/// Currencies with amounts in hundredths at Stripe of which only whole units can be charged
/// (<https://docs.stripe.com/currencies#special-cases>).
const CHARGED_WHOLE: [&str; 2] = ["ISK", "UGX"];

impl Currency {
    /// Decimals of its minor unit in Stripe's amounts: 2 for USD, 0 for JPY. They are those of ISO
    /// 4217, but for `STRIPE_DECIMALS`.
    pub fn decimals(self) -> u16 {
        let own = STRIPE_DECIMALS.iter().find(|(code, _)| *code == self.0.code());
        own.map_or_else(|| self.0.exponent().unwrap_or(0), |(_, decimals)| *decimals)
    }

    /// Whether this many minor units can be charged: of ISK and UGX whole units only.
    pub fn can_be_charged(self, minor: i64) -> bool {
        !CHARGED_WHOLE.contains(&self.0.code()) || minor % 10_i64.pow(u32::from(self.decimals())) == 0
    }

    /// An amount of minor units as text: `12.50`.
    pub fn written(self, minor: i64) -> String {
        Decimal::from_i128_with_scale(i128::from(minor), u32::from(self.decimals())).to_string()
    }

    /// An amount of minor units in the major unit.
    pub fn major(self, minor: i64) -> Quantity {
        let decimals = u32::from(self.decimals()).min(DECIMALS);
        Quantity::from_scaled(i128::from(minor) * 10_i128.pow(DECIMALS - decimals))
    }

    /// Reads an amount: `12.5` is 1250 minor units of USD.
    ///
    /// # Errors
    /// When it is negative, has too many decimals, or is more than a budget may be.
    pub fn read(self, text: &str) -> Result<i64, MoneyError> {
        let bad = || MoneyError::Amount(text.to_owned(), self, self.decimals());
        let amount = Decimal::from_str_exact(text.trim()).map_err(|_| bad())?;
        let minor = amount.checked_mul(Decimal::from(10_i64.pow(u32::from(self.decimals())))).ok_or_else(bad)?;
        if minor.is_sign_negative() && !minor.is_zero() || !minor.fract().is_zero() {
            return Err(bad());
        }
        let limit = || MoneyError::TooMuch(text.to_owned(), self, self.written(BUDGET_LIMIT));
        let minor = i64::try_from(minor.trunc().mantissa()).ok();
        let minor = minor.filter(|minor| *minor <= BUDGET_LIMIT).ok_or_else(limit)?;
        if !self.can_be_charged(minor) {
            return Err(MoneyError::Fraction(text.to_owned(), self));
        }
        Ok(minor)
    }
}

impl PartialOrd for Currency {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// By code.
impl Ord for Currency {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.code().cmp(other.0.code())
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0.code())
    }
}

impl FromStr for Currency {
    type Err = MoneyError;
    fn from_str(text: &str) -> Result<Self, MoneyError> {
        let found = iso_currency::Currency::from_code(text).filter(|c| c.exponent().is_some());
        found.map(Self).ok_or_else(|| MoneyError::Currency(text.to_owned()))
    }
}

impl Serialize for Currency {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Currency {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// An amount of money, as it is in JSON. `C` is a text where a currency is shown that somebody else
/// has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct Money<C = Currency> {
    /// In the smallest unit that Stripe charges: cents of USD, yen of JPY.
    pub minor: i64,
    /// The code of ISO 4217.
    pub currency: C,
}

impl Money {
    /// In the major unit, without the currency: `12.50`.
    pub fn written(self) -> String {
        self.currency.written(self.minor)
    }
}

/// With the currency: `12.50 USD`.
impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.written(), self.currency)
    }
}

/// The price of one unit: an exact decimal in the currency's major unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Price(Decimal);

impl Price {
    /// In 10⁻¹² of the major unit.
    fn scaled(self) -> i128 {
        self.0.mantissa() * 10_i128.pow(PRICE_DECIMALS - self.0.scale())
    }

    /// The smallest quantity that costs at least `cost`; none when no quantity does.
    pub fn quantity_for(self, cost: Cost) -> Option<Quantity> {
        if cost.0 <= 0 {
            return Some(Quantity::ZERO);
        }
        let price = self.scaled();
        (price > 0).then(|| Quantity::from_scaled((cost.0 - 1) / price + 1))
    }

    /// The largest quantity that costs at most `cost`; none when every quantity does.
    pub fn affordable(self, cost: Cost) -> Option<Quantity> {
        let price = self.scaled();
        (price > 0).then(|| Quantity::from_scaled(cost.0.max(0) / price))
    }
}

impl fmt::Display for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.normalize().fmt(f)
    }
}

impl FromStr for Price {
    type Err = MoneyError;
    fn from_str(text: &str) -> Result<Self, MoneyError> {
        let bad = || MoneyError::Price(text.to_owned());
        let price = Decimal::from_str_exact(text.trim()).map_err(|_| bad())?.normalize();
        let fits = price >= Decimal::ZERO && price <= Decimal::from(PRICE_LIMIT) && price.scale() <= PRICE_DECIMALS;
        if fits { Ok(Self(price)) } else { Err(bad()) }
    }
}

impl Serialize for Price {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Price {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// An exact amount of money, in 10⁻²² major units. An amount that does not fit into 128 bits (no
/// bill comes near) becomes the largest value, so an absurd quantity never looks cheap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cost(i128);

impl Cost {
    pub const ZERO: Self = Self(0);

    pub fn of(quantity: Quantity, price: Price) -> Self {
        Self(quantity.scaled().saturating_mul(price.scaled()))
    }

    /// An amount of minor units.
    pub fn of_minor(minor: i64, currency: Currency) -> Self {
        Self(i128::from(minor) * minor_unit(currency))
    }

    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// This minus `other`, at least 0.
    #[must_use]
    pub fn less(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0).max(0))
    }

    /// In minor units, rounded half-even; at most `i64::MAX`.
    pub fn to_minor(self, currency: Currency) -> i64 {
        let (minor, _) = divide_half_even(self.0, minor_unit(currency));
        i64::try_from(minor).unwrap_or(i64::MAX)
    }
}

/// What a line of an invoice costs in minor units: a quantity in Stripe's units, of which
/// `per_unit` are one of ours, at the price of one of ours. Stripe rounds the line once, a half
/// away from 0. None for an amount that no line can have.
pub fn charge(quantity: i64, per_unit: Decimal, price: Price, currency: Currency) -> Option<i64> {
    let cost = i128::from(quantity).checked_mul(price.scaled())?.checked_mul(10_i128.checked_pow(per_unit.scale())?)?;
    let unit = 10_i128.pow(PRICE_DECIMALS.saturating_sub(u32::from(currency.decimals())));
    let unit = per_unit.mantissa().checked_mul(unit).filter(|unit| *unit > 0)?;
    let (half, sign) = (unit / 2, cost.signum());
    i64::try_from((cost.abs().checked_add(half)?) / unit * sign).ok()
}

/// One minor unit, as [`Cost`] counts.
fn minor_unit(currency: Currency) -> i128 {
    10_i128.pow(COST_DECIMALS.saturating_sub(u32::from(currency.decimals())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn currency(code: &str) -> Currency {
        code.parse().unwrap()
    }

    #[test]
    fn amounts_are_read_in_the_currencys_own_minor_unit() {
        for (code, text, minor) in
            [("USD", "12.5", 1250), ("USD", "0", 0), ("USD", "-0", 0), ("JPY", "500", 500), ("KWD", "1.234", 1234)]
        {
            assert_eq!(currency(code).read(text), Ok(minor), "{code} {text}");
        }
        for (code, text) in [
            ("USD", "-1"),
            ("USD", "0.001"),
            ("JPY", "1.5"),
            ("USD", "ten"),
            ("USD", ""),
            ("USD", "1e3"),
            ("USD", "1000000000.01"),
            ("USD", "79228162514264337593543950335"),
        ] {
            assert!(currency(code).read(text).is_err(), "{code} {text}");
        }
        for (code, text, minor) in [("ISK", "5", 500), ("UGX", "5.00", 500), ("MGA", "5", 5), ("CLP", "5", 5)] {
            assert_eq!(currency(code).read(text), Ok(minor), "{code} {text}");
        }
        for code in ["ISK", "UGX"] {
            assert_eq!(currency(code).read("5.5"), Err(MoneyError::Fraction("5.5".into(), currency(code))));
            assert!(currency(code).can_be_charged(500) && !currency(code).can_be_charged(550), "{code}");
        }
        assert!(currency("MGA").read("5.2").is_err(), "Stripe has no fifth of an ariary");
        assert_eq!(currency("ISK").written(500), "5.00");
        assert_eq!(Cost::of_minor(500, currency("UGX")), Cost::of("5".parse().unwrap(), "1".parse().unwrap()));
        assert_eq!(currency("USD").written(1250), "12.50");
        assert_eq!(currency("JPY").written(7), "7");
    }

    /// Every currency with other decimals at Stripe than in ISO 4217, and the sentence of
    /// <https://docs.stripe.com/currencies> that says so, as it was read on 2026-11-28.
    #[test]
    fn stripe_and_iso_4217_differ_in_these_currencies_alone() {
        let documented = [
            // "ISK transitioned to a zero-decimal currency, but backwards compatibility requires
            // you to represent it as a two-decimal value" (#special-cases)
            ("ISK", 0, 2),
            // MGA is in the list of zero-decimal currencies (#zero-decimal); ISO has two decimals
            ("MGA", 2, 0),
            // "UGX transitioned to a zero-decimal currency, but backwards compatibility requires
            // you to represent it as a two-decimal value" (#special-cases). The list of
            // zero-decimal currencies has it, too; the special case is the one about amounts
            ("UGX", 0, 2),
        ];
        let letters = || 'A'..='Z';
        let codes = letters().flat_map(|a| letters().flat_map(move |b| letters().map(move |c| format!("{a}{b}{c}"))));
        let known: Vec<Currency> = codes.filter_map(|code| code.parse().ok()).collect();
        assert!(known.len() > 150, "{}", known.len());
        let differs =
            |c: &Currency| Some((c.0.code(), c.0.exponent()?, c.decimals())).filter(|(_, iso, own)| iso != own);
        let found: Vec<_> = known.iter().filter_map(differs).collect();
        assert_eq!(found, documented);
        // (#zero-decimal), without UGX
        let zero =
            ["BIF", "CLP", "DJF", "GNF", "JPY", "KMF", "KRW", "MGA", "PYG", "RWF", "VND", "VUV", "XAF", "XOF", "XPF"];
        // (#three-decimal)
        let three = ["BHD", "JOD", "KWD", "OMR", "TND"];
        // (#special-cases): whole amounts in payouts only, amounts of two decimals otherwise
        let two = ["HUF", "TWD", "USD", "EUR", "GBP", "MRU"];
        for (codes, decimals) in [(&zero[..], 0), (&three[..], 3), (&two[..], 2)] {
            for code in codes {
                assert_eq!(currency(code).decimals(), decimals, "{code}");
            }
        }
    }

    #[test]
    fn what_is_no_currency_or_price_is_refused() {
        for code in ["usd", "US", "XXX", "XAU", "", "USDT"] {
            assert!(code.parse::<Currency>().is_err(), "{code}");
        }
        for price in ["-0.1", "1000001", "0.0000000000001", "", "a", "1e-3"] {
            assert!(price.parse::<Price>().is_err(), "{price}");
        }
        assert_eq!("0.004500".parse::<Price>().unwrap().to_string(), "0.0045");
    }

    #[test]
    fn a_line_is_rounded_once_and_a_half_away_from_zero() {
        for (quantity, per_unit, price, code, minor) in [
            (1, "1", "0.005", "USD", 1),
            (3, "1", "0.005", "USD", 2),
            (2, "1", "0.0049", "USD", 1),
            (1, "1", "0.0049", "USD", 0),
            // 90 seconds at 0.01 for a minute
            (90, "60", "0.01", "USD", 2),
            (5, "0.5", "0.01", "USD", 10),
            (7, "1000", "250", "JPY", 2),
            (-3, "1", "0.005", "USD", -2),
            (999_999_999_999_999, "1", "0.000000000001", "USD", 99_999_999_999_999 / 1_000_000_000 + 1),
        ] {
            let found = charge(quantity, per_unit.parse().unwrap(), price.parse().unwrap(), currency(code));
            assert_eq!(found, Some(minor), "{quantity} {per_unit} {price} {code}");
        }
        assert_eq!(charge(i64::MAX, Decimal::ONE, "1000000".parse().unwrap(), currency("USD")), None);
    }

    #[test]
    fn cost_is_rounded_half_even_once() {
        let cost = |quantity: &str, price: &str| Cost::of(quantity.parse().unwrap(), price.parse().unwrap());
        let usd = currency("USD");
        assert_eq!(cost("1", "0.005").to_minor(usd), 0);
        assert_eq!(cost("3", "0.005").to_minor(usd), 2);
        assert_eq!(cost("1.0000000001", "0.005").to_minor(usd), 1);
        // three halves of a cent: rounded one by one they would vanish
        let all = cost("1", "0.005").plus(cost("1", "0.005")).plus(cost("1", "0.005"));
        assert_eq!(all.to_minor(usd), 2);
        assert_eq!(
            cost("900000000", "1000000").plus(cost("900000000", "1000000")).to_minor(usd),
            180_000_000_000_000_000
        );
        let absurd = Cost::of(Quantity::from_scaled(i128::MAX), "1".parse().unwrap());
        assert!(absurd.plus(absurd).to_minor(usd) > 1_000_000_000_000_000_000, "it never looks cheap");
    }

    proptest! {
        /// The quantity for a cost is the first that reaches it, to the last decimal.
        #[test]
        fn the_quantity_for_a_cost_is_the_first_that_reaches_it(minor in 1..=BUDGET_LIMIT, price in 1..10_000_000_000_i64) {
            let price = Price(Decimal::new(price, 9));
            let cost = Cost::of_minor(minor, currency("USD"));
            let quantity = price.quantity_for(cost).unwrap();
            prop_assert!(Cost::of(quantity, price) >= cost);
            prop_assert!(Cost::of(quantity - Quantity::from_scaled(1), price) < cost);
        }

        /// Rounding moves a cost by half a minor unit at most.
        #[test]
        fn rounding_moves_half_a_minor_unit_at_most(scaled in 0..i64::MAX, price in 0..1_000_000_000_i64) {
            let usd = currency("USD");
            let exact = Cost::of(Quantity::from_scaled(i128::from(scaled)), Price(Decimal::new(price, 9)));
            let rounded = Cost::of_minor(exact.to_minor(usd), usd);
            prop_assert!((rounded.0 - exact.0).abs() * 2 <= minor_unit(usd));
        }
    }
}
