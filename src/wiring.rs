//! The composition root: makes database, buckets and the context of jobs from the configuration.

mod sources;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::bail;
use books::Database;
use books::limits::notification::MessageReceiver;
use books::store::database::REMOTE_WAIT;
use books::store::remote::http::HttpClient;
use books::units::calendar::CLOCK_SKEW;
use jiff::Timestamp;
use jobs::context::{Context, Export, OperatorSettings, Progress, ReadSettings, WebhookTarget};
use jobs::deliver_notifications;
use jobs::source::{Folder, Source};
use jobs::stripe::transport::Transport;
use jobs::stripe::{BillingSettings, Mapping, StripeAccount, StripeMode};

pub use self::sources::{exports, shared_buckets};
use crate::config::{Config, ExportConfig, OperatorConfig, StripeConfig, StripeMeterConfig};
use crate::queue::{Clock, Queue};
use crate::tls::client_config;

const DATABASE_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A command waits this long for its last statement, which only counts.
const LAST_WAIT: Duration = Duration::from_secs(3);
/// Idle connections are closed before the other side closes them.
const IDLE: Duration = Duration::from_secs(55);

/// The client of [`database_client`], once there is one.
static MADE: OnceLock<HttpClient> = OnceLock::new();

/// The path of the books, when they are a local file.
pub(crate) fn local_path(config: &Config) -> Option<&Path> {
    let url = &config.database.url;
    let path = url.strip_prefix("file://").unwrap_or(url);
    (!path.contains("://")).then(|| Path::new(path))
}

/// For how long a worker that runs may be without a heartbeat, by the clock of this host. Workers
/// of a server write by the clocks of theirs.
pub(crate) fn silent_after(config: &Config) -> Duration {
    let skew = if local_path(config).is_some() { Duration::ZERO } else { CLOCK_SKEW.unsigned_abs() };
    config.queue.silent_after() + skew
}

/// False only when nothing is there: a folder without read permission is no reason to create other
/// books.
pub(crate) fn may_exist(path: &Path) -> bool {
    path.try_exists().unwrap_or(true)
}

/// What to do when there are no books yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum IfMissing {
    Fail,
    Create,
    /// Empty books in memory, so that a dry run leaves nothing behind.
    InMemory,
}

/// Which schema versions are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Schema {
    /// Any: the caller migrates or checks.
    Unchecked,
    /// This build's, after migrating if need be.
    Migrated,
    /// This build's or an earlier one's.
    NotNewer,
    /// This build's.
    Current,
}

/// How [`open_books`] opens the books.
#[derive(Clone, Copy, Debug)]
pub struct Open {
    if_missing: IfMissing,
    schema: Schema,
    /// A remote database has this long for each piece of work.
    wait: Duration,
}

impl Open {
    /// Creates a missing local file; migrates an older schema.
    pub const MIGRATED: Self = Self { schema: Schema::Migrated, ..Self::CREATE };
    /// Creates a missing local file; the caller checks or migrates the schema.
    pub const CREATE: Self = Self { if_missing: IfMissing::Create, schema: Schema::Unchecked, wait: REMOTE_WAIT };
    /// Books that must be there and up to date.
    pub const EXISTING: Self = Self { if_missing: IfMissing::Fail, schema: Schema::Current, wait: REMOTE_WAIT };
    /// Books that must be there; migrates an older schema.
    pub const THERE: Self = Self { if_missing: IfMissing::Fail, ..Self::MIGRATED };
    /// Books that must be there, of this schema version or an earlier one.
    pub const NOT_NEWER: Self = Self { schema: Schema::NotNewer, ..Self::EXISTING };
    /// Books that are up to date, or empty ones in memory.
    pub const DRY_RUN: Self = Self { if_missing: IfMissing::InMemory, ..Self::EXISTING };

    /// The same, but a remote database has `wait` for each piece of work.
    pub const fn within(self, wait: Duration) -> Self {
        Self { wait, ..self }
    }
}

/// Opens the books.
///
/// # Errors
/// When they are missing or of another schema version than `open` accepts, and when opening fails.
pub async fn open_books(config: &Config, open: Open) -> anyhow::Result<Database> {
    if let Some(path) = local_path(config).filter(|path| !may_exist(path)) {
        match open.if_missing {
            IfMissing::Fail => {
                bail!("there are no books at {} yet; `meter ingest` or `meter migrate` makes them", path.display())
            }
            IfMissing::Create => {}
            IfMissing::InMemory => {
                let books = Database::open_local(Path::new(":memory:")).await?;
                books.migrate(Timestamp::now()).await?;
                return Ok(books);
            }
        }
    }
    let books = connect(config, open.wait).await?;
    match open.schema {
        Schema::Unchecked => {}
        Schema::Migrated => drop(books.migrate(Timestamp::now()).await?),
        Schema::NotNewer => drop(books.schema_version().await?),
        Schema::Current => books.require_migrated().await?,
    }
    Ok(books)
}

/// The queue, on a connection of its own, so that its short steps never wait behind a booking of
/// this process.
pub async fn open_queue(config: &Config, open: Open) -> anyhow::Result<Queue> {
    // a longer step is retried well before leases end
    let wait = Duration::from_secs(u64::from(config.queue.lease_seconds)) / 3;
    let wait = wait.clamp(Duration::from_secs(1), Duration::from_secs(10));
    Ok(Queue::new(open_books(config, open.within(wait)).await?, Clock::system()))
}

async fn connect(config: &Config, wait: Duration) -> anyhow::Result<Database> {
    if let Some(path) = local_path(config) {
        return Ok(Database::open_local(path).await?);
    }
    let (url, token) = (&config.database.url, config.database.token.expose());
    Ok(Database::open_remote(database_client()?, url, token, wait).await?)
}

/// The HTTP client of all remote databases of this process, with one set of kept connections.
fn database_client() -> anyhow::Result<HttpClient> {
    if let Some(made) = MADE.get() {
        return Ok(made.clone());
    }
    let settings = reqwest::Client::builder()
        .tls_backend_preconfigured(client_config()?)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .tcp_nodelay(true)
        .connect_timeout(DATABASE_CONNECT_TIMEOUT)
        .pool_idle_timeout(IDLE)
        .user_agent(concat!("meter/", env!("CARGO_PKG_VERSION")));
    let made = HttpClient::new(settings)?;
    Ok(MADE.get_or_init(|| made).clone())
}

/// Adds what this process cost on a remote database to the rows of the day. The command is done, so
/// it does not fail when they cannot be kept.
pub async fn keep_row_counts(config: &Config) {
    if MADE.get().is_none() {
        return;
    }
    let kept = async { Ok(connect(config, LAST_WAIT).await?.keep_row_counts(Timestamp::now()).await?) };
    let kept: anyhow::Result<()> = kept.await;
    if let Err(error) = kept {
        tracing::debug!("the rows of this command are not counted: {error:#}");
    }
}

/// The settings for reading bills.
pub fn read_settings(config: &Config) -> anyhow::Result<ReadSettings> {
    Ok(ReadSettings {
        rules: Arc::new(config.checked_rules()?),
        hold: config.hold_policy(),
        limits: config.read_limits(),
        progress: Arc::new(Progress::default()),
    })
}

pub async fn context(config: &Config, books: Database) -> anyhow::Result<Context> {
    Ok(Context {
        books,
        exports: Arc::new(exports(config).await?),
        shared_buckets: Arc::new(shared_buckets(config).await?),
        read_settings: read_settings(config)?,
        enforcement: Arc::new(config.enforce.policy()),
        measuring: Arc::new(config.measuring()),
        webhook: webhook_target(config)?,
        operator: Arc::new(operator(config)?),
        billing: Arc::new(billing(&config.stripe)?),
    })
}

/// A context for what only looks at the books: exports have their payers, and an empty folder
/// instead of their place. There are no shared buckets.
pub fn context_without_sources(config: &Config, books: Database) -> anyhow::Result<Context> {
    let export = |export: &ExportConfig| {
        let source: Arc<dyn Source> = Arc::new(Folder::new(PathBuf::new()));
        let format = export.format.format();
        (export.name.clone(), Export { payer: export.payer.clone(), source, prefix: String::new(), format })
    };
    Ok(Context {
        books,
        exports: Arc::new(config.exports.iter().map(export).collect()),
        shared_buckets: Arc::default(),
        read_settings: read_settings(config)?,
        enforcement: Arc::new(config.enforce.policy()),
        measuring: Arc::new(config.measuring()),
        webhook: webhook_target(config)?,
        operator: Arc::new(operator(config)?),
        billing: Arc::new(billing(&config.stripe)?),
    })
}

/// The settings of the Stripe jobs. Without a key nothing is sent.
pub fn billing(stripe: &StripeConfig) -> anyhow::Result<BillingSettings> {
    let mapping = |(name, m): (&String, &StripeMeterConfig)| {
        let display_name = m.display_name.clone().unwrap_or_else(|| name.clone());
        (name.clone(), Mapping { event_name: m.event_name.clone(), per_unit: m.per_unit.normalize(), display_name })
    };
    let no_key = stripe.key.expose().is_empty();
    Ok(BillingSettings {
        meters: stripe.meters.iter().map(mapping).collect(),
        grace: i64::from(stripe.grace_hours) * 3600,
        overage: stripe.overage_billing,
        reads_per_day: stripe.reads_per_day,
        settle_delay: i64::from(stripe.settle_delay_hours) * 3600,
        mode: if no_key { StripeMode::DryRun } else { StripeMode::Stripe(stripe_account(stripe)?) },
    })
}

fn stripe_account(stripe: &StripeConfig) -> anyhow::Result<StripeAccount> {
    let timeout = Duration::from_secs(u64::from(stripe.timeout_seconds));
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(client_config()?)
        .redirect(reqwest::redirect::Policy::none())
        .timeout(timeout)
        .connect_timeout(timeout.min(Duration::from_secs(10)))
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(usize::from(stripe.max_concurrent))
        .user_agent(concat!("meter/", env!("CARGO_PKG_VERSION")))
        .build()?;
    let transport = Transport::new(client, reqwest::Url::parse(&stripe.base())?, stripe.key.expose().to_owned());
    Ok(StripeAccount::new(transport, stripe.requests_per_second(), usize::from(stripe.max_concurrent), timeout))
}

/// The receiver of notifications.
fn webhook_target(config: &Config) -> anyhow::Result<Option<WebhookTarget>> {
    let Some(url) = &config.notifications.url else { return Ok(None) };
    let signer = standardwebhooks::Webhook::new(config.notifications.secret.expose())?;
    Ok(Some(WebhookTarget { signer: Some(Arc::new(signer)), ..target(url)? }))
}

/// Where webhooks go. The client follows no redirect, because the signature is for one address, and
/// a secret address is for one host; and it has time-outs.
fn target(url: &str) -> anyhow::Result<WebhookTarget> {
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(client_config()?)
        .redirect(reqwest::redirect::Policy::none())
        .timeout(deliver_notifications::REQUEST_TIMEOUT)
        .connect_timeout(deliver_notifications::CONNECT_TIMEOUT)
        .user_agent(concat!("meter/", env!("CARGO_PKG_VERSION")))
        .build()?;
    Ok(WebhookTarget { client, url: reqwest::Url::parse(url)?, signer: None })
}

/// Who receives messages to the operator, and what they say of meters.
pub fn operator(config: &Config) -> anyhow::Result<OperatorSettings> {
    let OperatorConfig { slack_url, webhook_url, status_page } = &config.operator;
    let mut receivers = BTreeMap::new();
    for (receiver, url) in [(MessageReceiver::Slack, slack_url), (MessageReceiver::Webhook, webhook_url)] {
        if !url.expose().is_empty() {
            receivers.insert(receiver, target(url.expose())?);
        }
    }
    Ok(OperatorSettings {
        receivers,
        status_page: status_page.as_ref().map(|page| page.trim_end_matches('/').to_owned()),
        names: config.display_names(),
        units: config.units(),
    })
}

/// The context of jobs in a worker: like [`context`], but large bills are read in parts.
pub async fn worker_context(config: &Config, books: Database) -> anyhow::Result<Context> {
    let context = context(config, books).await?;
    Ok(Context {
        read_settings: ReadSettings { limits: config.worker_read_limits(), ..context.read_settings },
        ..context
    })
}
