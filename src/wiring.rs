//! The composition root: configuration → database, buckets, and the context that jobs are given.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use books::Database;
use books::store::database::REMOTE_WAIT;
use jiff::Timestamp;
use jobs::context::{Context, Export, Progress, ReadSettings, WebhookTarget};
use jobs::deliver_notifications;
use jobs::ingest_cur::source::{Bucket, Folder, Source};

use crate::config::{Config, ExportConfig, Location};
use crate::queue::{Clock, Queue};
use crate::tls::{Connector, client_config};

/// A request to S3 that makes no progress for so long is given up and tried again.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Path of the books when they are a local file.
pub(crate) fn local_path(config: &Config) -> Option<&Path> {
    let url = &config.database.url;
    let path = url.strip_prefix("file://").unwrap_or(url);
    (!path.contains("://")).then(|| Path::new(path))
}

/// False only when nothing is there: a folder that may not be looked into is no reason to make
/// other books.
pub(crate) fn may_exist(path: &Path) -> bool {
    path.try_exists().unwrap_or(true)
}

/// Opens the books; a local file is made if it is not there.
pub async fn open_books(config: &Config) -> anyhow::Result<Database> {
    open(config, REMOTE_WAIT).await
}

/// As [`open_books`]; work on a remote database is given up after `wait`.
pub async fn open_books_within(config: &Config, wait: Duration) -> anyhow::Result<Database> {
    open(config, wait).await
}

/// The queue, on a connection of its own: its short steps never wait behind a booking of this
/// process.
pub async fn open_queue(config: &Config) -> anyhow::Result<Queue> {
    // a step that takes longer than this is tried again, well before leases end
    let wait = Duration::from_secs(u64::from(config.queue.lease_seconds)) / 3;
    let wait = wait.clamp(Duration::from_secs(1), Duration::from_secs(10));
    Ok(Queue::new(open(config, wait).await?, Clock::system()))
}

/// The queue of books that must be there and up to date.
pub async fn existing_queue(config: &Config) -> anyhow::Result<Queue> {
    drop(existing_books(config).await?);
    open_queue(config).await
}

async fn open(config: &Config, wait: Duration) -> anyhow::Result<Database> {
    if let Some(path) = local_path(config) {
        return Ok(Database::open_local(path).await?);
    }
    let url = &config.database.url;
    let token = config.database.token.expose().to_owned();
    let remote = libsql::Builder::new_remote(url.clone(), token).connector(Connector::new()?).build().await;
    let remote = remote.with_context(|| format!("database {url}"))?;
    Ok(Database::open_remote(url.clone(), remote, wait).await?)
}

/// Opens books that must be there and up to date, for a command that only reads.
pub async fn existing_books(config: &Config) -> anyhow::Result<Database> {
    existing_books_within(config, REMOTE_WAIT).await
}

/// As [`existing_books`], for who would rather hear that there is no answer: work on a remote
/// database is given up after `wait`.
pub async fn existing_books_within(config: &Config, wait: Duration) -> anyhow::Result<Database> {
    require_there(config)?;
    let books = open_books_within(config, wait).await?;
    books.require_migrated().await?;
    Ok(books)
}

fn require_there(config: &Config) -> anyhow::Result<()> {
    if let Some(path) = local_path(config).filter(|p| !may_exist(p)) {
        bail!("there are no books at {} yet; `meter ingest` makes them", path.display());
    }
    Ok(())
}

/// Opens books that must be there, of this schema version or an earlier one.
///
/// # Errors
/// When there are none yet, when they are a newer build's, and as [`open_books`].
pub async fn books_as_they_are(config: &Config) -> anyhow::Result<Database> {
    books_as_they_are_within(config, REMOTE_WAIT).await
}

/// As [`books_as_they_are`]; work on a remote database is given up after `wait`.
pub async fn books_as_they_are_within(config: &Config, wait: Duration) -> anyhow::Result<Database> {
    require_there(config)?;
    let books = open_books_within(config, wait).await?;
    books.schema_version().await?;
    Ok(books)
}

/// Opens books for a dry run: those that are there, or empty ones in memory.
pub async fn books_for_dry_run(config: &Config, now: Timestamp) -> anyhow::Result<Database> {
    if local_path(config).is_none_or(may_exist) {
        return existing_books(config).await;
    }
    let books = Database::open_local(Path::new(":memory:")).await?;
    books.migrate(now).await?;
    Ok(books)
}

/// Connects what is configured; nothing is asked over the network yet, but of the credential chain.
pub async fn exports(config: &Config) -> anyhow::Result<BTreeMap<String, Export>> {
    let mut found = BTreeMap::new();
    for export in &config.exports {
        let location = Location::parse(&export.location).map_err(anyhow::Error::msg)?;
        let (source, prefix): (Arc<dyn Source>, String) = match location {
            Location::Folder(path) => (Arc::new(Folder::new(path)), String::new()),
            Location::Bucket(bucket, prefix) => (Arc::new(Bucket::new(s3_client(export).await, bucket)), prefix),
        };
        let format = export.format.format();
        found.insert(export.name.clone(), Export { payer: export.payer.clone(), source, prefix, format });
    }
    Ok(found)
}

async fn s3_client(export: &ExportConfig) -> aws_sdk_s3::Client {
    let http = Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
    let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).read_timeout(READ_TIMEOUT).build();
    let mut loader = aws_config::defaults(BehaviorVersion::latest()).http_client(http).timeout_config(timeouts);
    if let Some(region) = &export.region {
        loader = loader.region(Region::new(region.clone()));
    }
    let shared = loader.load().await;
    let mut s3 = aws_sdk_s3::config::Builder::from(&shared);
    if shared.region().is_none() {
        s3 = s3.region(Region::new("us-east-1"));
    }
    if let Some(endpoint) = &export.endpoint {
        // other servers than AWS rarely answer under bucket names as host names
        s3 = s3.endpoint_url(endpoint).force_path_style(true);
    }
    aws_sdk_s3::Client::from_conf(s3.build())
}

/// How bills are read.
pub fn read_settings(config: &Config) -> anyhow::Result<ReadSettings> {
    Ok(ReadSettings {
        rules: Arc::new(config.checked_rules()?),
        hold: config.hold_policy(),
        limits: config.read_limits(),
        progress: Arc::new(Progress::default()),
    })
}

/// Everything that jobs are given.
pub async fn context(config: &Config, books: Database) -> anyhow::Result<Context> {
    Ok(Context {
        books,
        exports: Arc::new(exports(config).await?),
        read_settings: read_settings(config)?,
        enforcement: Arc::new(config.enforce.policy()),
        webhook: webhook_target(config)?,
        billing: Arc::new(config.stripe.billing()?),
    })
}

/// Where notifications go. The client follows no redirect (the secret's signature is for one
/// address), and gives up in time.
fn webhook_target(config: &Config) -> anyhow::Result<Option<WebhookTarget>> {
    let Some(url) = &config.notifications.url else { return Ok(None) };
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(client_config()?)
        .redirect(reqwest::redirect::Policy::none())
        .timeout(deliver_notifications::REQUEST_TIMEOUT)
        .connect_timeout(deliver_notifications::CONNECT_TIMEOUT)
        .user_agent(concat!("meter/", env!("CARGO_PKG_VERSION")))
        .build()?;
    let signer = standardwebhooks::Webhook::new(config.notifications.secret.expose())?;
    Ok(Some(WebhookTarget { client, url: reqwest::Url::parse(url)?, signer: Arc::new(signer) }))
}

/// Everything that the jobs of a worker are given: as [`context`], but large bills are read in
/// parts.
pub async fn worker_context(config: &Config, books: Database) -> anyhow::Result<Context> {
    let context = context(config, books).await?;
    Ok(Context {
        read_settings: ReadSettings { limits: config.worker_read_limits(), ..context.read_settings },
        ..context
    })
}
