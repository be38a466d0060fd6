//! Forecasts: what a customer will have used at the end of a month, and how sure that is.
//!
//! **Owns** the tables `forecasts`, `forecast_accuracy` and `unusual_days`, the rules that make a
//! forecast, and the backtest that compares them. **Does not own** any usage: it reads the
//! ledger's. Nothing is billed or blocked by a forecast.
//!
//! A guided tour: [`pattern`] (weekdays, and a mean that an outlier does not move), [`rule`] (the
//! three rules), [`calibration`] and [`interval`] (the bound, from past errors), [`backtest`]
//! (errors of past months, and which rule is used), [`model`] (all of it for one meter),
//! [`unusual`] (days far outside their interval), then [`read`] and [`stored`].
//!
//! **Invariants**: no forecast is below 0 or below what is booked; P50 is not above P90; a rule is
//! judged on days that it did not see; constant usage is forecast exactly. Integers only.

pub mod backtest;
pub mod calibration;
#[cfg(test)]
mod generated;
pub mod interval;
pub mod limit_day;
pub mod model;
pub mod pattern;
pub mod read;
pub mod rule;
pub mod stored;
#[cfg(test)]
mod tests;
pub mod unusual;

/// Ratios, factors and growth are in millionths.
pub const ONE: i128 = 1_000_000;
