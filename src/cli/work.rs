//! `meter work`: a worker process.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use backon::{ExponentialBuilder, Retryable};
use books::BooksError;
use clap::Args as ClapArgs;
use jiff::Timestamp;
use jobs::context::Context;
use jobs::deliver_notifications::DeliverNotifications;
use jobs::ingest_access_logs::IngestAccessLogs;
use jobs::ingest_cur::{IngestCur, IngestPart};
use jobs::ingest_inventory::IngestInventory;
use jobs::job::Job;
use jobs::source::Source;
use jobs::stripe::StripeMode;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::config::Config;
use crate::exit::{BadUsage, Exit};
use crate::health::StatsCollector;
use crate::http::{self, ReadinessProbe, Running, Server};
use crate::metrics::{Metrics, Sources};
use crate::queue::{Identity, Queue};
use crate::statement::StatementSettings;
use crate::wiring::{self, Open};
use crate::worker::{Kinds, NewWorker, RunUntil, Stopper, Tally, Worker, WorkerSettings, findings, schedule};

/// Some supervisors signal the process and then its group: within this time that is one signal.
const SAME_SIGNAL: Duration = Duration::from_millis(200);
/// A remote database has this long for an answer at the start, and for all retries.
const ANSWER: Duration = Duration::from_secs(20);
const START: Duration = Duration::from_secs(120);

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Only jobs of these kinds [default: all]
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    kinds: Vec<String>,
    /// The most jobs at once [default: queue.concurrency]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    concurrency: Option<u16>,
    /// Run the jobs that are due, and exit
    #[arg(long)]
    once: bool,
    /// Leave the schedule to other workers
    #[arg(long)]
    no_schedule: bool,
    /// Address of the status page, metrics and health [default: http.listen]; `off` serves nothing
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
}

pub(crate) async fn run(args: Args, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    let mut kinds = Kinds::all();
    for (kind, max_concurrent) in &config.queue.max_concurrent {
        kinds.set_max_concurrent(kind, usize::from(*max_concurrent));
    }
    if !args.kinds.is_empty() {
        kinds = kinds.only(&args.kinds).map_err(BadUsage)?;
    }
    let names = kinds.names();
    let metrics = Metrics::new(&names)?;
    let keeps_schedule = !args.once && !args.no_schedule;
    // a kind that is not to run by itself, or would leave what is due
    let scheduled = schedule::kinds(config);
    let has_receiver = config.notifications.url.is_some() || config.operator.is_on();
    kinds.ignore_due(|kind| {
        args.once || !scheduled.contains(kind) || kind == DeliverNotifications::KIND && !has_receiver
    });
    let address = if args.once { None } else { listen(args.listen.as_deref(), config)? };
    let listener = match address {
        Some(address) => http::bind(address).await?,
        None => None,
    };
    // from here on signals stop it, and `/readyz` answers that it waits for the database
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let running = Arc::new(OnceLock::new());
    let (stop_serving, stop) = watch::channel(false);
    let statements = StatementSettings::new(config, wiring::billing(&config.stripe)?);
    let collector = StatsCollector::new(config, Kinds::all().names(), schedule::kinds(config));
    let serving = address.map(|address| {
        let server = Server {
            collector: collector.clone(),
            metrics: metrics.clone(),
            running: running.clone(),
            readiness: ReadinessProbe::new(config),
            keeps_schedule,
            units: config.units(),
            statements,
            meters: config.meters.iter().map(|m| m.name.clone()).collect(),
            config: config.http.clone(),
        };
        tokio::spawn(http::serve(listener, address, server, stop))
    });
    let started = tokio::select! {
        started = start(&args, config, now, kinds.clone(), metrics.clone()) => Some(started?),
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
    };
    let Some((worker, queue, sources)) = started else {
        tracing::info!("stopped before the database was there");
        // no due job was run
        return Ok(if args.once { Exit::Failed } else { Exit::Ok });
    };
    let url = &config.database.url;
    tracing::info!(
        "worker {} runs {} from {url}, {} at once; Ctrl-C stops it",
        worker.id(),
        kinds.names().join(", "),
        settings(&args, config).concurrency
    );
    if config.exports.is_empty() {
        tracing::warn!("no export is configured, so no bill will be read (docs/getting-started.md says how)");
    }
    let grace = settings(&args, config).grace;
    let stopping = tokio::spawn(stop_on_signal(worker.stopper(), interrupt, terminate, grace.as_secs()));
    if args.once && !args.no_schedule {
        schedule::tick(&queue, &schedule::table(config), config, &mut schedule::SeenTicks::default()).await?;
    }
    drop(running.set(Running { queue: queue.clone(), sources, phase: worker.phase() }));
    if config.operator.is_on() {
        let operator = Arc::new(wiring::operator(config)?);
        if args.once {
            // what is due is done all the same
            if let Err(error) = findings::look_once(&queue, &collector, &operator, now).await {
                tracing::warn!("findings are not noted: {error:#}");
            }
        } else {
            tokio::spawn(findings::run(queue.clone(), collector.clone(), operator));
        }
    }
    if serving.is_some() || config.operator.is_on() && !args.once {
        tokio::spawn(collector.run({
            let metrics = metrics.clone();
            move || metrics.snapshot_failed()
        }));
    }
    let keeps = keeps_schedule.then(|| tokio::spawn(schedule::run(queue, config.clone(), metrics)));
    let ran = worker.run().await;
    stopping.abort();
    stop_serving.send_replace(true);
    if let Some(serving) = serving {
        drop(serving.await);
    }
    if let Some(schedule) = keeps {
        schedule.abort();
    }
    let Tally { done, retried, dead, handed_back } = ran?;
    tracing::info!(
        "stopped: {done} done, {retried} to be tried again, {dead} dead or cancelled, {handed_back} handed back"
    );
    // a stopped worker ends well; with --once a dead job is a failure
    Ok(if args.once && dead > 0 { Exit::Failed } else { Exit::Ok })
}

fn settings(args: &Args, config: &Config) -> WorkerSettings {
    let until = if args.once { RunUntil::Idle } else { RunUntil::Stopped };
    WorkerSettings { until, ..WorkerSettings::new(&config.queue, args.concurrency) }
}

/// Opens and migrates the books, and registers the worker.
async fn start(
    args: &Args,
    config: &Config,
    now: Timestamp,
    kinds: Kinds,
    metrics: Metrics,
) -> anyhow::Result<(Worker, Queue, Sources)> {
    let books = retry_while_full(|| wiring::open_books(config, Open::CREATE)).await?;
    if !books.is_local() {
        // a server that accepts a connection and never answers would otherwise block for minutes at
        // each try
        let readiness = wiring::open_books(config, Open::CREATE.within(ANSWER)).await?;
        let answers = tokio::time::timeout(START, retry_until_up(|| readiness.schema_version()));
        answers.await.map_err(|_| anyhow!("the database {} gives no answer", config.database.url))??;
    }
    let applied = retry_until_up(|| books.migrate(now)).await?;
    if !applied.is_empty() {
        tracing::info!("the database's schema was brought up to date: {}", applied.join(", "));
    }
    let queue = retry_while_full(|| wiring::open_queue(config, Open::CREATE)).await?;
    let context = wiring::worker_context(config, books).await?;
    retry_until_up(|| context.books.keep_measured_meters(&context.measuring.meters)).await?;
    let identity = Identity {
        host: gethostname::gethostname().to_string_lossy().into_owned(),
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").into(),
    };
    let sources = Sources {
        books: vec![context.books.clone(), queue.database().clone()],
        fetched: fetched(&context),
        sends: match &context.billing.mode {
            StripeMode::Stripe(account) => Some(account.sends.clone()),
            StripeMode::DryRun => None,
        },
    };
    let settings = settings(args, config);
    let worker = Worker::new(NewWorker { queue: queue.clone(), context, kinds, settings, identity, metrics });
    retry_until_up(|| worker.register()).await?;
    Ok((worker, queue, sources))
}

/// The address to serve at, if any.
fn listen(argument: Option<&str>, config: &Config) -> anyhow::Result<Option<SocketAddr>> {
    match argument {
        None => Ok(config.http.address()),
        Some("off") => Ok(None),
        Some(text) => {
            let parsed = text.parse();
            Ok(Some(parsed.map_err(|_| BadUsage(format!("--listen {text}: write ADDRESS:PORT, or `off`")))?))
        }
    }
}

/// The sources of bills, and of reports about shared buckets.
fn fetched(context: &Context) -> Vec<Arc<dyn Source>> {
    let bills = context.exports.values().map(|export| &export.source);
    let buckets = context.shared_buckets.values();
    let reports = buckets.flat_map(|bucket| [&bucket.inventory, &bucket.access_logs]).flatten();
    bills.chain(reports.map(|place| &place.source)).cloned().collect()
}

/// The most bills, parts and reports about shared buckets that one worker reads at once.
pub(super) fn reads_at_once(config: &Config) -> usize {
    let kinds = [
        (IngestCur::KIND, IngestCur::MAX_CONCURRENT),
        (IngestPart::KIND, IngestPart::MAX_CONCURRENT),
        (IngestInventory::KIND, IngestInventory::MAX_CONCURRENT),
        (IngestAccessLogs::KIND, IngestAccessLogs::MAX_CONCURRENT),
    ];
    kinds.iter().map(|(kind, own)| config.queue.max_concurrent.get(*kind).map_or(*own, |n| usize::from(*n))).sum()
}

/// Retries while the database is locked or unreachable, as when the whole machine starts.
async fn retry_until_up<T, F>(step: impl FnMut() -> F) -> Result<T, BooksError>
where
    F: Future<Output = Result<T, BooksError>>,
{
    step.retry(waits()).when(BooksError::is_retryable).notify(warn_once()).await
}

/// Retries while the disk is full or the file is locked; other errors are final.
async fn retry_while_full<T, F>(open: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let passes = |e: &anyhow::Error| matches!(e.downcast_ref(), Some(BooksError::Full | BooksError::Locked(_)));
    open.retry(waits()).when(passes).notify(warn_once()).await
}

fn waits() -> ExponentialBuilder {
    ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(5))
        .with_max_times(30)
        .with_jitter()
}

/// Logs once why the start takes longer.
fn warn_once<E: std::fmt::Display>() -> impl FnMut(&E, Duration) {
    let mut warned = false;
    move |error, _| {
        if !std::mem::replace(&mut warned, true) {
            tracing::warn!("cannot start yet, trying for some minutes: {error}");
        }
    }
}

/// The first signal stops the worker in order, the second one at once.
async fn stop_on_signal(stopper: Stopper, mut interrupt: Signal, mut terminate: Signal, grace: u64) {
    let mut first: Option<Instant> = None;
    loop {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        if let Some(first) = first {
            if first.elapsed() < SAME_SIGNAL {
                continue;
            }
            tracing::warn!("stopped at once; jobs that ran are tried again when their leases end");
            std::process::exit(130);
        }
        first = Some(Instant::now());
        tracing::info!("stopping: running jobs have {grace} s to finish; a second signal stops at once");
        stopper.stop();
    }
}
