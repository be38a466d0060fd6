//! Whose a billed amount of a shared bucket is. Pure, and exact: the shares of a day make its
//! billed amount to the last decimal.
//!
//! Products have more than 128 bits (an amount has 63 bits, a weight up to 128), so they are big
//! integers.

use num_bigint::BigUint;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{CustomerWeight, Measure};
use crate::units::calendar::Month;
use crate::units::quantity::{Quantity, UNIT};

/// Bytes of a gigabyte in a bill of S3.
const GIGABYTE: u128 = 1 << 30;

/// Who has the part of an amount that no report accounts for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Remainder {
    /// The house: nobody has more than what the reports say of them.
    #[default]
    House,
    /// Everybody in the reports, by weight.
    Spread,
}

/// How many 10⁻¹⁰ units of a bill so much of a measure is, as a fraction: weight × `UNIT` / this.
pub(super) fn divisor(measure: Measure, month: Month) -> u128 {
    match measure {
        // GB-months: of the hours of that month
        Measure::ByteSeconds => {
            let days = month.last_day().epoch() - month.first_day().epoch() + 1;
            GIGABYTE * 86_400 * u128::try_from(days).unwrap_or(30)
        }
        Measure::BytesSent => GIGABYTE,
        Measure::Requests1 | Measure::Requests2 => 1,
    }
}

fn unit() -> BigUint {
    BigUint::from(UNIT.unsigned_abs())
}

/// What all weights together predict of the bill, rounded down; the largest quantity for more.
pub(super) fn predicted(weights: &[CustomerWeight], divisor: u128) -> Quantity {
    let sum: BigUint = weights.iter().map(|(_, weight)| BigUint::from(*weight)).sum();
    Quantity::from_scaled(i128::try_from(sum * unit() / divisor).unwrap_or(i128::MAX))
}

/// Shares of an amount, by customer, in 10⁻¹⁰ units: they make the amount. The empty customer has
/// what stays with nobody. Shares of 0 are left out.
///
/// `weights` has each customer once, in order. An amount that is not above 0 stays with nobody.
///
/// With [`Remainder::House`], a customer has what the weight predicts; when all weights together
/// predict more than the amount, that part of the amount. It is rounded down, so that nobody has
/// more than what is theirs, not by the last decimal either. With [`Remainder::Spread`] the amount
/// is divided by weight, and rounded by the largest remainder; of equal ones the first customer
/// goes first.
pub(super) fn shares(
    amount: Quantity,
    weights: &[CustomerWeight],
    divisor: u128,
    remainder: Remainder,
) -> Vec<(String, Quantity)> {
    let amount = u128::try_from(amount.scaled()).unwrap_or(0);
    let sum: BigUint = weights.iter().map(|(_, weight)| BigUint::from(*weight)).sum();
    if amount == 0 || sum == BigUint::ZERO {
        return nobodys(amount);
    }
    let (amount_units, unit) = (BigUint::from(amount), unit());
    let covers_no_more = &sum * &unit <= &amount_units * divisor;
    let by_weight = |weight: u128, factor: &BigUint, divisor: &BigUint| {
        let product = BigUint::from(weight) * factor;
        let (floor, rest) = (&product / divisor, &product % divisor);
        // a share is at most the amount, which has 127 bits
        (u128::try_from(floor).unwrap_or(amount), rest)
    };
    if remainder == Remainder::House {
        let (factor, divisor) = if covers_no_more { (unit, BigUint::from(divisor)) } else { (amount_units, sum) };
        let share = |weight: u128| by_weight(weight, &factor, &divisor).0;
        let shares = weights.iter().map(|(customer, weight)| (customer.as_str(), share(*weight)));
        return with_rest(shares.collect(), amount);
    }
    let mut floors: Vec<(&str, u128)> = vec![];
    let mut rests: Vec<(BigUint, usize)> = vec![];
    for (place, (customer, weight)) in weights.iter().enumerate() {
        let (floor, rest) = by_weight(*weight, &amount_units, &sum);
        floors.push((customer, floor));
        rests.push((rest, place));
    }
    let given: u128 = floors.iter().map(|(_, floor)| floor).sum();
    rests.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
    // fewer units than customers are left over
    let left = usize::try_from(amount - given).unwrap_or(0);
    for (_, place) in rests.into_iter().take(left) {
        floors[place].1 += 1;
    }
    with_rest(floors, amount)
}

fn quantity(units: u128) -> Quantity {
    Quantity::from_scaled(i128::try_from(units).unwrap_or(i128::MAX))
}

fn nobodys(amount: u128) -> Vec<(String, Quantity)> {
    with_rest(vec![], amount)
}

/// Adds what is left of the amount to what nobody has.
fn with_rest(shares: Vec<(&str, u128)>, amount: u128) -> Vec<(String, Quantity)> {
    let of_customers: u128 = shares.iter().filter(|(customer, _)| !customer.is_empty()).map(|(_, share)| share).sum();
    let nobody = ("", amount - of_customers);
    let customers = shares.into_iter().filter(|(customer, _)| !customer.is_empty());
    let all = std::iter::once(nobody).chain(customers).filter(|(_, share)| *share > 0);
    all.map(|(customer, share)| (customer.to_owned(), quantity(share))).collect()
}

#[cfg(test)]
mod tests;
