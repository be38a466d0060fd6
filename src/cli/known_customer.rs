//! The customer that a command names. An id that the books do not know is bad usage for every
//! command, and the message names similar ids.

use books::Database;
use books::customers::known::KnownAs;
use books::units::similar::similar;

use crate::exit::BadUsage;

/// Requires a row in `customers`.
pub(super) async fn require(books: &Database, id: &str) -> anyhow::Result<()> {
    match books.known_as(id).await? {
        KnownAs::Customer => Ok(()),
        KnownAs::UsageOnly => {
            let why = format!(
                "there is no customer `{id}`, and usage under that id is kept; `meter customer add {id}` makes it one"
            );
            Err(BadUsage(why).into())
        }
        KnownAs::Nothing => unknown(books, id).await,
    }
}

/// Requires a row in `customers`, or usage that is booked under the id.
pub(super) async fn require_or_usage(books: &Database, id: &str) -> anyhow::Result<()> {
    match books.known_as(id).await? {
        KnownAs::Customer | KnownAs::UsageOnly => Ok(()),
        KnownAs::Nothing => unknown(books, id).await,
    }
}

async fn unknown(books: &Database, id: &str) -> anyhow::Result<()> {
    let beside = books.customers_beside(id).await?;
    let near: Vec<String> =
        similar(id, beside.iter().map(String::as_str)).iter().map(|near| format!("`{near}`")).collect();
    let hint = if near.is_empty() { ";".to_owned() } else { format!("; did you mean {}?", near.join(" or ")) };
    Err(BadUsage(format!("there is no customer `{id}`{hint} `meter customer list` shows all")).into())
}
