//! Numbered schema changes, applied in order, each in a transaction of its own.
//!
//! Many processes may start at once: each change is decided under the write lock, so one applies it and the others find it
//! applied. A database that was migrated by a newer `meter` is refused, and so is one whose applied change is not the text
//! that this build knows under that number.

use jiff::Timestamp;
use libsql::params;
use sha2::{Digest, Sha256};

use super::database::{BooksError, Database, first_row};

/// One change of the schema.
#[derive(Debug)]
struct Migration {
    version: i64,
    name: &'static str,
    sql: &'static str,
}

macro_rules! migrations {
    ($($version:literal $name:literal),* $(,)?) => {
        &[$(Migration { version: $version, name: $name, sql: include_str!(concat!("../../migrations/", $name, ".sql")) }),*]
    };
}

const MIGRATIONS: &[Migration] = migrations![
    1 "0001_customers",
    2 "0002_bills",
    3 "0003_ledger",
    4 "0004_usage_days",
    5 "0005_jobs",
    6 "0006_probes",
    7 "0007_bill_parts",
];

/// The schema version that this build works with.
pub fn newest() -> i64 {
    MIGRATIONS.last().map_or(0, |m| m.version)
}

fn checksum(sql: &str) -> String {
    Sha256::digest(sql.as_bytes()).iter().map(|b| format!("{b:02x}")).collect()
}

impl Database {
    /// Applies what is missing; returns the names of the changes applied now.
    ///
    /// # Errors
    /// [`BooksError::Newer`] for a database of a newer `meter`, [`BooksError::Integrity`] for one whose history differs.
    pub async fn migrate(&self, now: Timestamp) -> Result<Vec<&'static str>, BooksError> {
        if self.schema_version().await? == newest() {
            return Ok(vec![]);
        }
        self.write(async |c| {
            c.execute_batch(
                "CREATE TABLE IF NOT EXISTS schema_versions (version INTEGER PRIMARY KEY, name TEXT NOT NULL, \
                 checksum TEXT NOT NULL, applied_at TEXT NOT NULL) STRICT",
            )
            .await?;
            Ok(())
        })
        .await?;
        let mut applied = vec![];
        for migration in MIGRATIONS {
            let done = self
                .write(async move |c| {
                    let sql = "SELECT 1 FROM schema_versions WHERE version = ?1";
                    if first_row(c, sql, params![migration.version]).await?.is_some() {
                        return Ok(false);
                    }
                    c.execute_batch(migration.sql).await?;
                    c.execute(
                        "INSERT INTO schema_versions (version, name, checksum, applied_at) VALUES (?1, ?2, ?3, ?4)",
                        params![migration.version, migration.name, checksum(migration.sql), now.to_string()],
                    )
                    .await?;
                    Ok(true)
                })
                .await?;
            if done {
                applied.push(migration.name);
            }
        }
        Ok(applied)
    }

    /// The newest change that this database has; 0 for an empty one. Checks that its history is ours.
    ///
    /// # Errors
    /// As [`Database::migrate`].
    pub async fn schema_version(&self) -> Result<i64, BooksError> {
        let rows = self
            .read(async |c| {
                let table = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'schema_versions'";
                if first_row(c, table, ()).await?.is_none() {
                    return Ok(vec![]);
                }
                let mut rows =
                    c.query("SELECT version, name, checksum FROM schema_versions ORDER BY version", ()).await?;
                let mut found = vec![];
                while let Some(row) = rows.next().await? {
                    found.push((row.get::<i64>(0)?, row.get::<String>(1)?, row.get::<String>(2)?));
                }
                Ok(found)
            })
            .await?;
        for (i, (version, name, sum)) in rows.iter().enumerate() {
            if *version > newest() {
                return Err(BooksError::Newer { found: *version, known: newest() });
            }
            let ours = MIGRATIONS.get(i).filter(|m| m.version == *version && checksum(m.sql) == *sum);
            if ours.is_none() {
                return Err(BooksError::Integrity(format!(
                    "schema change {version} `{name}` in the database is not the one that this meter knows; \
                     the database belongs to another build"
                )));
            }
        }
        Ok(rows.last().map_or(0, |r| r.0))
    }

    /// Refuses a database that is not at the newest schema version.
    ///
    /// # Errors
    /// [`BooksError::NotMigrated`], and as [`Database::migrate`].
    pub async fn require_migrated(&self) -> Result<(), BooksError> {
        let found = self.schema_version().await?;
        if found < newest() { Err(BooksError::NotMigrated { found, known: newest() }) } else { Ok(()) }
    }
}
