//! The types of a connection to the database, of its rows and of its values.

pub use libsql::{Connection, Row, Rows, Statement, Value, params, params_from_iter};
