//! The composition root: configuration → database, buckets, and the context that jobs are given.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use jobs::books::Database;
use jobs::ingest_cur::source::{Bucket, Folder, Source};
use jobs::ingest_cur::{Export, Lens, Progress};
use jobs::job::Context;

use crate::config::{Config, ExportConfig, Location};
use crate::tls::Connector;

/// A request to S3 that makes no progress for so long is given up and tried again.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens the books.
///
/// # Errors
/// When they cannot be opened.
pub async fn open_books(config: &Config) -> anyhow::Result<Database> {
    let url = &config.database.url;
    if url.contains("://") && !url.starts_with("file://") {
        let token = config.database.token.expose().to_owned();
        let remote = libsql::Builder::new_remote(url.clone(), token).connector(Connector::new()?).build().await;
        let remote = remote.with_context(|| format!("database {url}"))?;
        return Ok(Database::open_remote(url.clone(), remote).await?);
    }
    let path = url.strip_prefix("file://").unwrap_or(url);
    Ok(Database::open_local(Path::new(path)).await?)
}

/// Connects what is configured; nothing is asked over the network yet, but of the credential chain.
///
/// # Errors
/// When the configuration cannot be put to work.
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
///
/// # Errors
/// None for a checked configuration.
pub fn lens(config: &Config) -> anyhow::Result<Lens> {
    Ok(Lens {
        rules: Arc::new(config.checked_rules()?),
        policy: config.policy(),
        progress: Arc::new(Progress::default()),
    })
}

/// Everything that jobs are given.
///
/// # Errors
/// As [`open_books`] and [`exports`].
pub async fn context(config: &Config) -> anyhow::Result<Context> {
    Ok(Context { books: open_books(config).await?, exports: Arc::new(exports(config).await?), lens: lens(config)? })
}
