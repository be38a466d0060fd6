//! The customer that a command names. An id that the books do not know is bad usage for every
//! command, and the message names similar ids.

use books::Database;
use books::customers::known::KnownAs;

use crate::exit::BadUsage;

/// Similar ids that are named.
const NAMED: usize = 3;

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
    let similar = similar(id, books.customers_beside(id).await?);
    let hint = if similar.is_empty() { String::new() } else { format!("; similar: {}", similar.join(", ")) };
    Err(BadUsage(format!("there is no customer `{id}`{hint}; `meter customer list` shows all")).into())
}

/// The ids that differ least, in any case of letters: by a third of their letters at most.
fn similar(id: &str, all: Vec<String>) -> Vec<String> {
    let wanted = id.to_lowercase();
    let most = (wanted.chars().count() / 3).max(1);
    let near = |other: &String| {
        let distance = strsim::osa_distance(&wanted, &other.to_lowercase());
        let longer = other.to_lowercase().starts_with(&wanted);
        (distance <= most || longer).then_some(distance)
    };
    let mut found: Vec<(usize, String)> = all.into_iter().filter_map(|other| Some((near(&other)?, other))).collect();
    found.sort();
    found.into_iter().take(NAMED).map(|(_, id)| id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn similar_ids_are_few_and_near() {
        for (id, all, expected) in [
            ("bob", "bobby bab rob alice", "bab rob bobby"),
            ("Bob", "bob BOB", "BOB bob"),
            (
                "customer-0012",
                "customer-0021 customer-0011 customer-0013 customer-0014 c",
                "customer-0011 customer-0013 customer-0014",
            ),
            ("acme", "zenith", ""),
            ("ac", "acme", "acme"),
        ] {
            let all = all.split(' ').map(str::to_owned).collect();
            assert_eq!(similar(id, all).join(" "), expected, "{id}");
        }
    }
}
