//! The sections `queue` and `schedule`.

use books::units::similar::offer;
use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use croner::Cron;
use jiff::civil::DateTime;
use serde::{Deserialize, Serialize};

use super::raw::Step;

/// How workers work.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QueueConfig {
    /// Jobs that one process runs at once.
    pub concurrency: u16,
    /// A worker that has been silent for so long loses its jobs.
    pub lease_seconds: u16,
    /// How often a worker looks for jobs that other processes enqueued.
    pub poll_millis: u16,
    /// How long runs may go on after a worker is asked to stop.
    pub grace_seconds: u16,
    /// How long done and cancelled jobs are kept.
    pub keep_done_days: u16,
    /// How long dead jobs are kept.
    pub keep_dead_days: u16,
    /// The most jobs of a kind that one process runs at once; left out: the default of the kind.
    pub max_concurrent: BTreeMap<String, u16>,
}

impl QueueConfig {
    /// A worker without a heartbeat for longer does not run: a busy one has one each quarter of a
    /// lease, an idle one each half a minute.
    pub fn silent_after(&self) -> Duration {
        Duration::from_secs(u64::from(self.lease_seconds).max(60))
    }
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self {
            concurrency: 4,
            lease_seconds: 30,
            poll_millis: 250,
            grace_seconds: 30,
            keep_done_days: 7,
            keep_dead_days: 90,
            max_concurrent: BTreeMap::new(),
        }
    }
}

/// Cron lines of each schedule, in UTC. An empty list switches a schedule off.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScheduleConfig {
    pub ingest: Vec<String>,
    /// Looking whether AWS changed months that are over.
    pub check_months: Vec<String>,
    /// Reading inventories of shared buckets.
    pub ingest_inventory: Vec<String>,
    /// Reading access logs of shared buckets.
    pub ingest_access_logs: Vec<String>,
    /// Closing TURN counts of periods that are over, and opening the next.
    pub roll_periods: Vec<String>,
    /// Deciding who may go on using what.
    pub enforce_budgets: Vec<String>,
    pub deliver_notifications: Vec<String>,
    pub sync_stripe: Vec<String>,
    pub push_stripe: Vec<String>,
    /// Comparing Stripe's totals with the books.
    pub reconcile_stripe: Vec<String>,
    /// Bringing counters into a new month.
    pub roll_counters: Vec<String>,
    /// Folding old measurements.
    pub fold_measurements: Vec<String>,
    /// Forecasting the ends of months.
    pub forecast_usage: Vec<String>,
    /// The audit of the books.
    pub verify_books: Vec<String>,
    /// The week's figures for the operator.
    pub operator_digest: Vec<String>,
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        let lines = |lines: &[&str]| lines.iter().map(|l| (*l).to_owned()).collect();
        Self {
            ingest: lines(&["5 * * * *"]),
            check_months: lines(&["35 4 * * *"]),
            ingest_inventory: lines(&["25 * * * *"]),
            ingest_access_logs: lines(&["55 * * * *"]),
            roll_periods: lines(&["*/5 * * * *"]),
            enforce_budgets: lines(&["*/5 * * * *"]),
            deliver_notifications: lines(&["* * * * *"]),
            sync_stripe: lines(&["17 * * * *"]),
            push_stripe: lines(&["*/5 * * * *"]),
            reconcile_stripe: lines(&["47 * * * *"]),
            // every five minutes around midnight, when months begin, and hourly otherwise
            roll_counters: lines(&["*/5 23,0 * * *", "20 1-22 * * *"]),
            fold_measurements: lines(&["10 3 * * *"]),
            forecast_usage: lines(&["20 5 * * *"]),
            verify_books: lines(&["40 3 * * *"]),
            operator_digest: lines(&["0 7 * * 1"]),
        }
    }
}

/// Reads a cron line of five fields (minute, hour, day, month, weekday; UTC) and refuses one that
/// never fires.
pub fn cron(line: &str) -> Result<Cron, String> {
    let cron = Cron::from_str(line).map_err(|e| format!("`{line}` is no cron line: {e}"))?;
    if line.split_whitespace().count() != 5 && !line.starts_with('@') {
        return Err(format!("`{line}` is no cron line: it has five fields (minute hour day month weekday)"));
    }
    let start = DateTime::constant(2024, 1, 1, 0, 0, 0, 0);
    match cron.find_next_occurrence(&start, true) {
        Ok(_) => Ok(cron),
        Err(e) => Err(format!("`{line}` never fires ({e})")),
    }
}

impl QueueConfig {
    /// What is wrong, and where.
    pub(super) fn faults(&self) -> Vec<(Vec<Step>, String)> {
        let mut faults = vec![];
        let mut fault = |path: &[&str], why: String| {
            let path = ["queue"].iter().chain(path).map(|key| Step::Key((*key).to_owned())).collect();
            faults.push((path, why));
        };
        if self.concurrency == 0 {
            fault(&["concurrency"], "a worker that runs nothing is of no use".into());
        }
        if self.lease_seconds == 0 {
            fault(&["lease_seconds"], "at least 1 second is needed".into());
        }
        if !(10..=60_000).contains(&self.poll_millis) {
            fault(&["poll_millis"], "it is 10 to 60000 milliseconds".into());
        }
        if self.keep_done_days == 0 {
            fault(&["keep_done_days"], "at least 1: what was last done tells whether work is late".into());
        }
        for (kind, max_concurrent) in &self.max_concurrent {
            if !jobs::KINDS.contains(&kind.as_str()) {
                let why = format!("there is no kind of job `{kind}`; {}", offer(kind, jobs::KINDS));
                fault(&["max_concurrent", kind], why);
            } else if *max_concurrent == 0 {
                fault(
                    &["max_concurrent", kind],
                    "at least 1; to keep a worker from a kind, use `meter work --kinds`".into(),
                );
            }
        }
        faults
    }
}

impl ScheduleConfig {
    /// What is wrong, and where.
    pub(super) fn faults(&self) -> Vec<(Vec<Step>, String)> {
        let Self {
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
        } = self;
        let lists = [
            ("ingest", ingest),
            ("check_months", check_months),
            ("ingest_inventory", ingest_inventory),
            ("ingest_access_logs", ingest_access_logs),
            ("roll_periods", roll_periods),
            ("enforce_budgets", enforce_budgets),
            ("deliver_notifications", deliver_notifications),
            ("sync_stripe", sync_stripe),
            ("push_stripe", push_stripe),
            ("reconcile_stripe", reconcile_stripe),
            ("roll_counters", roll_counters),
            ("fold_measurements", fold_measurements),
            ("forecast_usage", forecast_usage),
            ("verify_books", verify_books),
            ("operator_digest", operator_digest),
        ];
        let mut faults = vec![];
        for (name, lines) in lists {
            for (i, line) in lines.iter().enumerate() {
                if let Err(why) = cron(line) {
                    let path = vec![Step::Key("schedule".into()), Step::Key(name.into()), Step::Place(i)];
                    faults.push((path, why));
                }
            }
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cron_lines_are_checked() {
        for good in ["* * * * *", "5 * * * *", "*/5 23,0 * * *", "0 0 29 2 *", "@hourly", "0 0 L * *"] {
            assert!(cron(good).is_ok(), "{good}");
        }
        for (bad, word) in [
            ("0 0 30 2 *", "never fires"),
            ("0 0 31 4,6 *", "never fires"),
            ("", "no cron line"),
            ("61 * * * *", "no cron line"),
            ("* * * *", "no cron line"),
            ("0 0 0 1 1 * 2020", "no cron line"),
            ("every hour", "no cron line"),
        ] {
            let why = cron(bad).unwrap_err();
            assert!(why.contains(word), "{bad}: {why}");
        }
    }

    #[test]
    fn the_defaults_have_no_fault() {
        assert!(QueueConfig::default().faults().is_empty());
        assert!(ScheduleConfig::default().faults().is_empty());
    }
}
