//! A day of one meter.

use serde::{Deserialize, Serialize};

use crate::units::calendar::Day;

/// A day of one meter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MeteredDay {
    pub meter: String,
    pub day: Day,
}
