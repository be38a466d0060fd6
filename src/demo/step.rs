//! The steps of the demo: a heading, what is wrong on purpose, and the result.

use books::units::quantity::Quantity;

use crate::format::two_decimals;
use crate::print;

pub(super) const MINUTES: &str = "chime_minutes";
/// Of a minute, in USD.
pub(super) const PRICE: &str = "0.01";

pub(super) fn step(number: u8, title: &str) {
    print::out("");
    print::out(&format!("{number}. {title}"));
    print::out("");
}

/// Announces a fault that the demo makes.
pub(super) fn on_purpose(fault: &str) {
    print::out(&format!("Made on purpose: {fault}"));
    print::out("");
}

pub(super) fn result(text: &str) {
    print::out(&format!("Result: {text}"));
}

/// An amount of a cost meter, or at a price.
pub(super) fn usd(amount: Quantity) -> String {
    format!("{} USD", two_decimals(amount))
}

/// What minutes cost at the price of the demo's plan.
pub(super) fn at_price(minutes: Quantity) -> anyhow::Result<Quantity> {
    Ok(minutes.times(PRICE.parse()?)?.0)
}
