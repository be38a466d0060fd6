//! The schedule: the cron table, and the loop that turns ticks into jobs.
//!
//! Every worker process runs the loop. The process that first raises the schedule's row enqueues
//! the tick's jobs in the same transaction, so each tick is enqueued once. Only the latest due tick
//! counts: ticks that were missed while no worker ran become one run. A schedule without a stored
//! tick is due at once. `ingest` also goes back to the older months that are not complete, so that
//! no month is missed, however long no worker ran. It does so once a day: they rarely change, and
//! one that cannot be read would be fetched at each tick.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use books::units::calendar::{CLOCK_SKEW, Month};
use books::usage::wanted::Wanted;
use croner::Cron;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use jobs::deliver_notifications::DeliverNotifications;
use jobs::enforce_budgets::EnforceBudgets;
use jobs::fold_measurements::FoldMeasurements;
use jobs::forecast_usage::ForecastUsage;
use jobs::ingest_access_logs::IngestAccessLogs;
use jobs::ingest_cur::{CheckMonths, IngestCur};
use jobs::ingest_inventory::IngestInventory;
use jobs::job::Job;
use jobs::operator_digest::OperatorDigest;
use jobs::push_stripe::PushStripe;
use jobs::reconcile_stripe::ReconcileStripe;
use jobs::roll_counters::RollCounters;
use jobs::roll_periods::RollPeriods;
use jobs::sync_stripe::SyncStripe;
use jobs::verify_books::VerifyBooks;

use crate::config::{Config, ScheduleConfig, cron};
use crate::metrics::Metrics;
use crate::queue::{NewJob, Queue};

/// The clock is read this often, so that a jump is noticed.
const CHECK: Duration = Duration::from_secs(20);

/// The name of the schedule whose jobs depend on what is booked.
const INGEST: &str = "ingest";

/// What the jobs of a tick depend on.
struct Tick<'a> {
    config: &'a Config,
    at: Timestamp,
    /// Whether it is the first one of its UTC day.
    is_first_of_day: bool,
    /// What decides which months are read, for [`INGEST`].
    wanted: &'a Wanted,
    origin: &'a str,
}

/// The jobs of a tick.
type Jobs = fn(&Tick<'_>) -> Result<Vec<NewJob>, serde_json::Error>;

/// One schedule.
#[derive(Clone)]
pub struct Schedule {
    /// Must never change: the last tick is stored under it.
    pub name: &'static str,
    /// What it enqueues.
    pub about: &'static str,
    /// The cron lines, as configured.
    pub lines: Vec<String>,
    crons: Vec<Cron>,
    jobs: Jobs,
}

impl std::fmt::Debug for Schedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Schedule").field("name", &self.name).field("lines", &self.lines).finish_non_exhaustive()
    }
}

/// All schedules of a checked configuration. The pattern has no `..`, so that a forgotten schedule
/// does not compile.
pub fn table(config: &Config) -> Vec<Schedule> {
    let ScheduleConfig {
        ingest,
        check_months,
        ingest_inventory,
        ingest_access_logs,
        roll_periods,
        enforce_budgets,
        deliver_notifications,
        sync_stripe,
        push_stripe,
        reconcile_stripe,
        roll_counters,
        fold_measurements,
        forecast_usage,
        verify_books,
        operator_digest,
    } = &config.schedule;
    vec![
        schedule(INGEST, "ingest_cur for each export and month that may still change", ingest, ingests),
        schedule("check_months", "check_months", check_months, month_checks),
        schedule("ingest_inventory", "ingest_inventory for each shared bucket with one", ingest_inventory, inventories),
        schedule(
            "ingest_access_logs",
            "ingest_access_logs for each shared bucket with them",
            ingest_access_logs,
            access_logs,
        ),
        schedule("roll_periods", "roll_periods", roll_periods, |tick| one(&RollPeriods::default(), tick)),
        schedule("enforce_budgets", "enforce_budgets", enforce_budgets, |tick| one(&EnforceBudgets::default(), tick)),
        schedule("deliver_notifications", "deliver_notifications", deliver_notifications, |tick| {
            one(&DeliverNotifications {}, tick)
        }),
        schedule("sync_stripe", "sync_stripe", sync_stripe, |tick| one(&SyncStripe::default(), tick)),
        schedule("push_stripe", "push_stripe", push_stripe, |tick| one(&PushStripe::default(), tick)),
        schedule("reconcile_stripe", "reconcile_stripe", reconcile_stripe, |tick| one(&ReconcileStripe {}, tick)),
        schedule("roll_counters", "roll_counters", roll_counters, |tick| one(&RollCounters {}, tick)),
        schedule("fold_measurements", "fold_measurements", fold_measurements, |tick| one(&FoldMeasurements {}, tick)),
        schedule("forecast_usage", "forecast_usage", forecast_usage, |tick| one(&ForecastUsage {}, tick)),
        schedule("verify_books", "verify_books", verify_books, |tick| one(&VerifyBooks {}, tick)),
        schedule("operator_digest", "operator_digest, if somebody receives it", operator_digest, digests),
    ]
}

/// Kinds that some schedule enqueues, as it is configured.
pub fn kinds(config: &Config) -> BTreeSet<String> {
    let table = table(config);
    let on = table.iter().filter(|s| !s.crons.is_empty());
    let wanted = Wanted::default();
    let tick = Tick { config, at: Timestamp::UNIX_EPOCH, is_first_of_day: true, wanted: &wanted, origin: "" };
    let kinds = on.filter_map(|s| (s.jobs)(&tick).ok());
    kinds.flatten().map(|job| job.kind).collect()
}

fn schedule(name: &'static str, about: &'static str, lines: &[String], jobs: Jobs) -> Schedule {
    let crons = lines.iter().filter_map(|line| cron(line).ok()).collect();
    Schedule { name, about, lines: lines.to_vec(), crons, jobs }
}

fn one<J: Job>(job: &J, tick: &Tick<'_>) -> Result<Vec<NewJob>, serde_json::Error> {
    Ok(vec![NewJob::of(job, tick.origin)?])
}

/// A look at the months that are over, if there is an export to look at.
fn month_checks(tick: &Tick<'_>) -> Result<Vec<NewJob>, serde_json::Error> {
    if tick.config.exports.is_empty() {
        return Ok(vec![]);
    }
    one(&CheckMonths { lookback: tick.config.lookback_months }, tick)
}

/// The digest, if somebody receives it.
fn digests(tick: &Tick<'_>) -> Result<Vec<NewJob>, serde_json::Error> {
    if tick.config.operator.is_on() { one(&OperatorDigest {}, tick) } else { Ok(vec![]) }
}

fn inventories(tick: &Tick<'_>) -> Result<Vec<NewJob>, serde_json::Error> {
    let buckets = tick.config.shared_buckets.iter().filter(|bucket| bucket.inventory.is_some());
    buckets.map(|bucket| NewJob::of(&IngestInventory { bucket: bucket.name.clone() }, tick.origin)).collect()
}

fn access_logs(tick: &Tick<'_>) -> Result<Vec<NewJob>, serde_json::Error> {
    let buckets = tick.config.shared_buckets.iter().filter(|bucket| bucket.access_logs.is_some());
    buckets.map(|bucket| NewJob::of(&IngestAccessLogs { bucket: bucket.name.clone() }, tick.origin)).collect()
}

/// The newest months of each export, and once a day the older ones that are not complete. While
/// there is no bill at all, every tick tries all: the first version would hide those before it.
fn ingests(tick: &Tick<'_>) -> Result<Vec<NewJob>, serde_json::Error> {
    let Tick { config, at, is_first_of_day, wanted, origin } = *tick;
    let mut jobs = vec![];
    for export in &config.exports {
        let mut read = wanted.to_read(&export.payer, config.lookback_months, at);
        let mut older = read.len().saturating_sub(usize::from(config.lookback_months) + 1);
        if !is_first_of_day && wanted.has_version(&export.payer) {
            read.drain(..older);
            older = 0;
        }
        if older > 0 {
            let (name, months) = (&export.name, words(&read[..older]));
            tracing::info!(export = %name, %months, "export {name}: months that are not complete are read, too: {months}");
        }
        for month in read {
            jobs.push(NewJob::of(&IngestCur::new(&export.name, month), origin)?);
        }
    }
    Ok(jobs)
}

fn words(months: &[Month]) -> String {
    months.iter().map(Month::to_string).collect::<Vec<_>>().join(", ")
}

impl Schedule {
    /// The latest tick that is due.
    pub fn latest(&self, now: Timestamp) -> Option<Timestamp> {
        self.search(now, |cron, now| cron.find_previous_occurrence(now, true)).max()
    }

    /// The first tick after `now`.
    pub fn next(&self, now: Timestamp) -> Option<Timestamp> {
        self.search(now, |cron, now| cron.find_next_occurrence(now, false)).min()
    }

    fn search<E>(
        &self,
        now: Timestamp,
        find: impl Fn(&Cron, &jiff::civil::DateTime) -> Result<jiff::civil::DateTime, E>,
    ) -> impl Iterator<Item = Timestamp> {
        let now = now.to_zoned(TimeZone::UTC).datetime();
        let found = self.crons.iter().filter_map(move |cron| find(cron, &now).ok());
        found.filter_map(|at| Some(at.to_zoned(TimeZone::UTC).ok()?.timestamp()))
    }
}

/// The stored ticks as this process last read them.
#[derive(Debug, Default)]
pub struct SeenTicks {
    last: BTreeMap<String, Timestamp>,
    /// Those in the future, and since when each was seen.
    future: BTreeMap<&'static str, (Timestamp, Instant)>,
}

impl SeenTicks {
    /// Whether the stored tick of a schedule must be read: a newer one is due, or the stored one
    /// lies in the future.
    fn is_old(&self, schedule: &Schedule, now: Timestamp) -> bool {
        let last = self.last.get(schedule.name);
        schedule.latest(now).is_some_and(|tick| last.is_none_or(|last| *last < tick || *last > now))
    }

    /// Whether a stored tick is stuck in the future: further ahead than clocks of several hosts
    /// differ, and unchanged for as long. Otherwise a host with a clock that runs ahead made it,
    /// and will move it on.
    fn is_stuck(&mut self, name: &'static str, last: Timestamp, now: Timestamp) -> bool {
        if last <= now + CLOCK_SKEW {
            self.future.remove(name);
            return false;
        }
        let seen = self.future.entry(name).or_insert((last, Instant::now()));
        if seen.0 != last {
            *seen = (last, Instant::now());
        }
        seen.1.elapsed() > CLOCK_SKEW.unsigned_abs()
    }
}

/// Enqueues the latest ticks that are not enqueued yet. Returns the names of their schedules.
pub async fn tick(
    queue: &Queue,
    table: &[Schedule],
    config: &Config,
    seen: &mut SeenTicks,
) -> anyhow::Result<Vec<&'static str>> {
    let now = queue.now();
    let mut ticked = vec![];
    if !table.iter().any(|schedule| seen.is_old(schedule, now)) {
        return Ok(ticked);
    }
    // checked without the write lock first
    seen.last = queue.last_ticks().await?.into_iter().map(|(name, last)| (name, last.tick)).collect();
    for schedule in table {
        let Some(tick) = schedule.latest(now) else { continue };
        let last = seen.last.get(schedule.name).copied();
        let stuck = last.filter(|last| seen.is_stuck(schedule.name, *last, now));
        if stuck.is_none() && last.is_some_and(|last| last >= tick) {
            continue;
        }
        let wanted = match schedule.name {
            INGEST if !config.exports.is_empty() => {
                let payers: Vec<String> = config.exports.iter().map(|export| export.payer.clone()).collect();
                let since = last.map_or(now, |last| last.min(now));
                queue.database().want(&payers, Month::of(since), now).await?
            }
            _ => Wanted::default(),
        };
        let origin = format!("schedule {}", schedule.name);
        let day = |at: Timestamp| at.to_zoned(TimeZone::UTC).date();
        let is_first_of_day = last.is_none_or(|last| day(last) != day(tick));
        let tick_of = Tick { config, at: now, is_first_of_day, wanted: &wanted, origin: &origin };
        let jobs = (schedule.jobs)(&tick_of)?;
        if queue.enqueue_tick(schedule.name, tick, stuck, &jobs).await? {
            tracing::debug!(schedule = schedule.name, %tick, jobs = jobs.len(), "schedule {} ticks", schedule.name);
            seen.last.insert(schedule.name.to_owned(), tick);
            ticked.push(schedule.name);
        }
    }
    Ok(ticked)
}

/// Turns ticks into jobs for as long as the process works.
pub async fn run(queue: Queue, config: Config, metrics: Metrics) {
    let table = table(&config);
    let (mut failing, mut seen) = (false, SeenTicks::default());
    loop {
        if metrics.is_database_blocked() {
            tokio::time::sleep(CHECK).await;
            continue;
        }
        match tick(&queue, &table, &config, &mut seen).await {
            Ok(_) => {
                failing = false;
                metrics.schedule_checked(queue.now());
            }
            Err(error) if failing => tracing::debug!("the schedule still cannot be kept: {error:#}"),
            Err(error) => {
                failing = true;
                tracing::warn!("the schedule cannot be kept, trying until it works: {error:#}");
            }
        }
        let now = queue.now();
        let next = table.iter().filter_map(|s| s.next(now)).min();
        let wait = next.and_then(|next| Duration::try_from(next.duration_since(now)).ok()).unwrap_or(CHECK);
        tokio::time::sleep(wait.clamp(Duration::from_millis(100), CHECK)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn named(name: &str) -> Schedule {
        table(&Config::default()).into_iter().find(|s| s.name == name).unwrap()
    }

    #[test]
    fn ticks_are_found_on_both_sides_of_now() {
        for (name, now, latest, next) in [
            ("ingest", "2026-03-31T23:04:59Z", "2026-03-31T22:05:00Z", "2026-03-31T23:05:00Z"),
            ("ingest", "2026-03-31T23:05:00Z", "2026-03-31T23:05:00Z", "2026-04-01T00:05:00Z"),
            ("roll_counters", "2026-03-31T23:58:00Z", "2026-03-31T23:55:00Z", "2026-04-01T00:00:00Z"),
            ("roll_counters", "2026-03-31T12:00:00Z", "2026-03-31T11:20:00Z", "2026-03-31T12:20:00Z"),
            ("verify_books", "2024-02-29T01:00:00Z", "2024-02-28T03:40:00Z", "2024-02-29T03:40:00Z"),
        ] {
            let schedule = named(name);
            assert_eq!(schedule.latest(at(now)), Some(at(latest)), "{name} {now}");
            assert_eq!(schedule.next(at(now)), Some(at(next)), "{name} {now}");
        }
    }

    #[test]
    fn of_a_shared_bucket_those_reports_are_read_that_are_configured() {
        let bucket = |report: &str| {
            let text = format!(
                "[[shared_buckets]]\nname = \"b\"\ncustomer_key = \"c/{{customer}}/\"\n[shared_buckets.{report}]\nlocation = \"r\"\n"
            );
            toml::from_str::<Config>(&text).unwrap()
        };
        let found = |config: &Config| {
            kinds(config).into_iter().filter(|kind| jobs_of_buckets().contains(&kind.as_str())).collect::<Vec<_>>()
        };
        assert_eq!(found(&Config::default()), Vec::<String>::new());
        assert_eq!(found(&bucket("inventory")), ["ingest_inventory"]);
        assert_eq!(found(&bucket("access_logs")), ["ingest_access_logs"]);
        let none = Config {
            schedule: ScheduleConfig { ingest_inventory: vec![], ..ScheduleConfig::default() },
            ..bucket("inventory")
        };
        assert_eq!(found(&none), Vec::<String>::new());
    }

    fn jobs_of_buckets() -> [&'static str; 2] {
        [IngestInventory::KIND, IngestAccessLogs::KIND]
    }

    #[test]
    fn counters_are_rolled_within_five_minutes_of_midnight_and_hourly_otherwise() {
        let schedule = named("roll_counters");
        let mut tick = at("2026-02-28T12:00:00Z");
        while tick < at("2026-03-02T12:00:00Z") {
            let next = schedule.next(tick).unwrap();
            let hour = tick.to_zoned(TimeZone::UTC).hour();
            let most = if hour == 23 || hour == 0 && tick.to_zoned(TimeZone::UTC).minute() < 55 { 5 } else { 60 };
            assert!(next.duration_since(tick).as_secs() <= most * 60, "{tick} to {next}");
            tick = next;
        }
    }
}
