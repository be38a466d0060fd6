//! Exact numbers: quantities, money, months and days; the form of ids and names;
//! counts in sentences; and the names that somebody meant.
//!
//! **Owns** how an amount, a price and a date are read, computed and written, and what an id may
//! consist of. **Does not own** any table: nothing here knows SQL.
//!
//! **Invariants**: no float, no rounding but where a type says so ([`quantity::Rounding`]), and no
//! overflow that goes unseen.

pub mod calendar;
pub mod form;
pub mod money;
pub mod quantity;
mod schema;
pub mod similar;
pub mod words;
