//! What statements share: parameters as JSON, many rows at once, the first row, exact sums.

use jiff::Timestamp;

use crate::store::connection::params::IntoParams;
use crate::store::connection::{Connection, Row, Value};

use super::error::BooksError;
use crate::units::quantity::Quantity;

/// The database's own clock, in seconds since 1970.
pub async fn clock(c: &Connection) -> Result<i64, BooksError> {
    first_row(c, "SELECT unixepoch()", ()).await?.map_or(Ok(i64::MAX), |row| row.get(0))
}

/// A stored time of delivery. Earlier builds stored years before 0 in a form that is no instant.
pub fn delivered(text: &str) -> Result<Timestamp, BooksError> {
    if text.starts_with('-') {
        return Ok(Timestamp::MIN);
    }
    text.parse().map_err(|_| BooksError::Integrity(format!("`{text}` in the database is no time of delivery")))
}

/// Many values as one parameter, for `json_each`.
pub fn json<T: serde::Serialize + ?Sized>(value: &T) -> Result<String, BooksError> {
    serde_json::to_string(value).map_err(|e| BooksError::Integrity(e.to_string()))
}

/// A parameter of [`json_parts`] has about so many bytes; a server takes no more than 5 MB.
const PART_BYTES: usize = 1 << 20;

/// Many rows as parameters for `json_each`; none for no rows.
pub fn json_parts<T: serde::Serialize>(rows: impl IntoIterator<Item = T>) -> Result<Vec<String>, BooksError> {
    let (mut parts, mut part) = (vec![], String::new());
    for row in rows {
        part.push(if part.is_empty() { '[' } else { ',' });
        part += &json(&row)?;
        if part.len() > PART_BYTES {
            part.push(']');
            parts.push(std::mem::take(&mut part));
        }
    }
    if !part.is_empty() {
        part.push(']');
        parts.push(part);
    }
    Ok(parts)
}

/// Rows in one statement of [`insert_rows`] and [`inserts`].
const ROWS: usize = 100;

/// Inserts rows, many in one statement that is parsed once. `head` is the SQL before VALUES, `tail`
/// the SQL after it, and each value is a parameter.
pub async fn insert_rows<T, const N: usize>(
    c: &Connection,
    head: &str,
    tail: &str,
    rows: &[T],
    mut values: impl FnMut(&T) -> [Value; N],
) -> Result<(), BooksError> {
    let places = format!("({})", ["?"; N].join(","));
    let sql = |rows: usize| format!("{head} VALUES {} {tail}", vec![places.as_str(); rows].join(","));
    let whole = rows.chunks_exact(ROWS);
    let rest = whole.remainder();
    if rows.len() >= ROWS {
        let values = whole.map(|some| some.iter().flat_map(&mut values).collect::<Vec<Value>>());
        c.execute_each(&sql(ROWS), values).await?;
    }
    if !rest.is_empty() {
        c.execute(&sql(rest.len()), rest.iter().flat_map(&mut values).collect::<Vec<Value>>()).await?;
    }
    Ok(())
}

/// Statements that insert `rows`, many with each. `head` is the SQL before VALUES, `tail` the SQL
/// after it. A row of parameters costs a fraction of one that is taken out of a JSON array.
pub fn inserts<const N: usize>(head: &str, tail: &str, rows: Vec<[Value; N]>) -> Vec<(String, Vec<Value>)> {
    let places = format!("({})", ["?"; N].join(","));
    let mut statements = vec![];
    let mut rows = rows.into_iter().peekable();
    while rows.peek().is_some() {
        let values: Vec<Value> = rows.by_ref().take(ROWS).flatten().collect();
        let sql = format!("{head} VALUES {} {tail}", vec![places.as_str(); values.len() / N].join(","));
        statements.push((sql, values));
    }
    statements
}

/// The first row of a query, if there is one.
pub async fn first_row(c: &Connection, sql: &str, params: impl IntoParams) -> Result<Option<Row>, BooksError> {
    c.query(sql, params).await?.next().await
}

/// [`UNIT`](crate::units::quantity::UNIT) as SQL. It also stands in triggers, and in the `.sql`
/// file of `limits`.
macro_rules! unit {
    () => {
        "10000000000"
    };
}
pub(crate) use unit;

/// The sum of a column of quantities, without what is left of each below a whole unit. Units and
/// rest are summed apart, so that the sum of many cells cannot overflow.
macro_rules! sum_of_units {
    ($column:literal) => {
        concat!("sum(", $column, " / ", $crate::store::rows::unit!(), ")")
    };
}
pub(crate) use sum_of_units;

/// The sum of what [`sum_of_units`] leaves.
macro_rules! sum_of_rests {
    ($column:literal) => {
        concat!("sum(", $column, " % ", $crate::store::rows::unit!(), ")")
    };
}
pub(crate) use sum_of_rests;

/// The exact sum of a column of quantities, as one integer; SQLite fails when it overflows.
macro_rules! scaled_sum {
    ($column:literal) => {
        concat!(
            $crate::store::rows::sum_of_units!($column),
            " * ",
            $crate::store::rows::unit!(),
            " + ",
            $crate::store::rows::sum_of_rests!($column)
        )
    };
}
pub(crate) use scaled_sum;

/// The exact sum of a column of quantities, as an SQL expression that [`sum_of`] reads; null for no
/// rows.
macro_rules! exact_sum {
    ($column:literal) => {
        concat!($crate::store::rows::sum_of_units!($column), " || ' ' || ", $crate::store::rows::sum_of_rests!($column))
    };
}
pub(crate) use exact_sum;

/// Reads what `exact_sum` computes: `units rest`.
pub fn sum_of(text: &str) -> Result<Quantity, BooksError> {
    let parts = text.split_once(' ').and_then(|(units, rest)| Some((units.parse().ok()?, rest.parse().ok()?)));
    let (units, rest) = parts.ok_or_else(|| BooksError::Integrity(format!("`{text}` is no sum of usage")))?;
    Ok(Quantity::from_parts(units, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_have_every_row_once_and_are_smaller_than_a_server_takes() {
        assert_eq!(json_parts(Vec::<i64>::new()).unwrap(), Vec::<String>::new());
        let rows: Vec<String> = (0..4000).map(|i| format!("{i}{}", "\"".repeat(500))).collect();
        let parts = json_parts(&rows).unwrap();
        assert!(parts.len() > 2 && parts.iter().all(|part| part.len() < 2_000_000));
        let read: Vec<String> =
            parts.iter().flat_map(|part| serde_json::from_str::<Vec<String>>(part).unwrap()).collect();
        assert_eq!(read, rows);
    }
}
