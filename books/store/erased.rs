//! Ids of customers whose personal data was erased, and the pseudonyms in their place.
//!
//! An erased id is in no table. A digest of it is kept, because AWS's files and S3's reports still
//! name it: what they say of it goes to the pseudonym. Without that, the next reading of a bill
//! would take the usage from the pseudonym and book it under the old id.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::connection::{Connection, params};
use super::database::Database;
use super::error::BooksError;
use super::settings;

/// The setting with the key of the digests. It is random, so that a digest of another database says
/// nothing. Whoever has this one can try ids.
pub const ERASURE_KEY: &str = "erasure_key";

/// The erased ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErasedIds {
    key: String,
    /// By digest.
    pseudonyms: BTreeMap<String, String>,
}

/// The digest that stands for an erased id.
pub fn digest(key: &str, id: &str) -> String {
    let digest = Sha256::new().chain_update(key).chain_update(id).finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl ErasedIds {
    pub async fn load(c: &Connection) -> Result<Self, BooksError> {
        let mut rows = c.query("SELECT digest, pseudonym FROM erased_customers", ()).await?;
        let mut pseudonyms = BTreeMap::new();
        while let Some(row) = rows.next().await? {
            pseudonyms.insert(row.get(0)?, row.get(1)?);
        }
        if pseudonyms.is_empty() {
            return Ok(Self::default());
        }
        let key = settings::get(c, ERASURE_KEY).await?;
        let lost =
            || BooksError::Integrity(format!("the setting `{ERASURE_KEY}` is missing, so erased ids are unknown"));
        Ok(Self { key: key.ok_or_else(lost)?, pseudonyms })
    }

    /// How many customers were erased. An erased id is never forgotten, so equal numbers are equal
    /// ids.
    pub fn count(&self) -> usize {
        self.pseudonyms.len()
    }

    /// Whether an id stands in the place of an erased one.
    pub fn is_pseudonym(&self, id: &str) -> bool {
        self.pseudonyms.values().any(|pseudonym| pseudonym == id)
    }

    /// What stands in the place of an id; none for an id that was not erased.
    pub fn pseudonym(&self, id: &str) -> Option<&str> {
        if self.pseudonyms.is_empty() {
            return None;
        }
        self.pseudonyms.get(&digest(&self.key, id)).map(String::as_str)
    }
}

/// How many customers were erased.
pub async fn count(c: &Connection) -> Result<usize, BooksError> {
    let row = super::rows::first_row(c, "SELECT count(*) FROM erased_customers", params![]).await?;
    let count: i64 = row.map_or(Ok(0), |row| row.get(0))?;
    Ok(usize::try_from(count).unwrap_or_default())
}

impl Database {
    /// The erased ids.
    pub async fn erased_ids(&self) -> Result<ErasedIds, BooksError> {
        self.with_connection(async |c| ErasedIds::load(c).await).await
    }
}
