//! bills
