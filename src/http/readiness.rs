//! Whether the database answers, for `/readyz`.

use std::time::Duration;

use books::Database;
use sha2::{Digest, Sha256};
use tokio::sync::OnceCell;

use crate::config::Config;
use crate::wiring::{self, Open};

/// The database has this long to answer.
pub(super) const READY_WAIT: Duration = Duration::from_secs(2);

/// A connection of its own, so that the answer waits for no lease and no page.
#[derive(Debug)]
pub struct ReadinessProbe {
    config: Config,
    books: OnceCell<Database>,
}

impl ReadinessProbe {
    /// A probe that connects on its first use.
    pub fn new(config: &Config) -> Self {
        Self { config: config.clone(), books: OnceCell::new() }
    }

    /// The [`books_id`]; a file has its final one once it exists.
    pub(super) fn books_id(&self) -> String {
        books_id(&self.config)
    }

    pub(super) async fn schema_version(&self) -> anyhow::Result<i64> {
        let open = async || wiring::open_books(&self.config, Open::NOT_NEWER.within(READY_WAIT)).await;
        Ok(self.books.get_or_try_init(open).await?.schema_version().await?)
    }
}

/// A short hash of the place of the books, which does not reveal it.
pub fn books_id(config: &Config) -> String {
    let url = &config.database.url;
    let place = wiring::local_path(config).and_then(|path| path.canonicalize().ok());
    let place = place.map_or_else(|| url.clone(), |path| path.display().to_string());
    Sha256::digest(place).iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}
