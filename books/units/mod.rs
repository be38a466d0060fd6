//! Exact numbers: quantities, money, months and days.
//!
//! **Owns** how an amount, a price and a date are read, computed and written. **Does not own** any
//! table: nothing here knows SQL.
//!
//! **Invariants**: no float, no rounding but where a type says so ([`quantity::Rounding`]), and no
//! overflow that goes unseen.

pub mod calendar;
pub mod money;
pub mod quantity;
