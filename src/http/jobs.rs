//! The jobs: the list, one job, and the actions on them.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::bail;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use super::guard::{TokenForm, check_token};
use super::page::{Page, unavailable};
use super::server::{Running, Server, Shared};
use crate::format::{cost_of, report_lists, report_summary, several, verb};
use crate::queue::{FailedRun, JobFilter, JobRow, JobState};
use crate::ui::{self, JobList, JobPage, JobsFilter, RunRow};
use crate::visible;
use crate::worker::Kinds;

/// A page waits this long for the jobs that it lists.
pub(super) const PAGE_WAIT: Duration = Duration::from_secs(5);
/// Jobs on one page.
pub(super) const LISTED: u32 = 100;
/// Failed runs on the page of a job.
const FAILED_RUNS: u32 = 50;
/// Characters of a report or a reason that a list shows.
const TEXT_CHARS: usize = 240;

/// Reads on the collector's connection, so that no lease waits for a page. Gives up soon when the
/// database hangs.
async fn in_time<T>(asked: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::time::timeout(PAGE_WAIT, asked).await.unwrap_or_else(|_| bail!("nothing within {} s", PAGE_WAIT.as_secs()))
}

pub(super) async fn list(server: &Server, filter: JobFilter, limit: u32) -> anyhow::Result<Vec<JobRow>> {
    in_time(async { Ok(server.collector.queue().await?.list(&filter, limit).await?) }).await
}

/// Which jobs are listed, and what was done last.
#[derive(Debug, Default, Deserialize)]
pub(super) struct JobsQuery {
    kind: Option<String>,
    state: Option<String>,
    q: Option<String>,
    /// Only jobs before this number.
    before: Option<i64>,
    /// The last action, its job, and how many jobs it changed.
    did: Option<String>,
    job: Option<i64>,
    n: Option<u64>,
}

impl JobsQuery {
    /// What was chosen, for the page and for the queue.
    fn chosen(&self) -> Result<(JobsFilter, JobFilter), Page> {
        let some = |text: &Option<String>| text.as_deref().map(str::trim).filter(|t| !t.is_empty()).map(str::to_owned);
        let filter = JobsFilter { kind: some(&self.kind), state: some(&self.state), text: some(&self.q) };
        let states: Vec<JobState> = filter.state.iter().filter_map(|s| s.parse().ok()).collect();
        if filter.state.is_some() && states.is_empty() {
            return Err(Page(StatusCode::BAD_REQUEST, ui::refused("There is no such state of a job.")));
        }
        let kinds = filter.kind.iter().cloned().collect();
        let wanted = JobFilter { kinds, states, text: filter.text.clone(), ..JobFilter::default() };
        Ok((filter, wanted))
    }

    /// What the last action did, in words.
    fn done(&self) -> Option<String> {
        match (self.did.as_deref()?, self.job, self.n) {
            ("retry", Some(seq), _) => Some(format!("Job {seq} is due now.")),
            ("retry", None, Some(n)) => Some(format!("{} {} due now.", several(n, "job"), verb(n, "is", "are"))),
            ("cancel", Some(seq), _) => {
                Some(format!("Job {seq} is cancelled, or will be at the next heartbeat of its worker."))
            }
            _ => None,
        }
    }
}

pub(super) async fn jobs(State(server): Shared, Query(query): Query<JobsQuery>) -> Page {
    let (filter, wanted) = match query.chosen() {
        Ok(chosen) => chosen,
        Err(page) => return page,
    };
    // one more than are shown tells whether there are older ones
    let mut rows = match list(&server, JobFilter { below: query.before, ..wanted }, LISTED + 1).await {
        Ok(rows) => rows,
        Err(error) => return unavailable(&error),
    };
    let shown = usize::try_from(LISTED).unwrap_or(usize::MAX);
    let older = rows.get(shown.saturating_sub(1)).filter(|_| rows.len() > shown).map(|row| row.seq);
    rows.truncate(shown);
    let runs: Vec<RunRow> = rows.iter().map(run).collect();
    let kinds: Vec<String> = Kinds::all().names().into_iter().map(str::to_owned).collect();
    let done = query.done();
    let list = JobList {
        runs: &runs,
        filter: &filter,
        kinds: &kinds,
        counts: &counts(&server, filter.kind.as_ref()),
        older,
        is_first: query.before.is_none(),
        can_act: server.can_act(),
        done: done.as_deref(),
    };
    Page(StatusCode::OK, ui::jobs(&list, Timestamp::now()))
}

/// Numbers of jobs by state, as they were last counted.
fn counts(server: &Server, kind: Option<&String>) -> BTreeMap<JobState, i64> {
    let mut counts: BTreeMap<JobState, i64> = BTreeMap::new();
    let overview = server.collector.last();
    let kinds = overview.iter().flat_map(|overview| &overview.queue.kinds);
    for (_, of) in kinds.filter(|(name, _)| kind.is_none_or(|kind| *name == kind)) {
        for (state, n) in &of.states {
            *counts.entry(*state).or_default() += n;
        }
    }
    counts
}

pub(super) async fn job(State(server): Shared, Path(seq): Path<i64>) -> Page {
    let wanted = JobFilter { ids: vec![seq.to_string()], ..JobFilter::default() };
    let asked = async {
        let queue = server.collector.queue().await?;
        let Some(row) = queue.list(&wanted, 1).await?.pop() else { return Ok(None) };
        let failed = queue.failed_runs(seq, FAILED_RUNS).await?;
        Ok(Some((row, failed)))
    };
    let (row, failed): (JobRow, Vec<FailedRun>) = match in_time(asked).await {
        Ok(Some(found)) => found,
        Ok(None) => return Page(StatusCode::NOT_FOUND, ui::not_found()),
        Err(error) => return unavailable(&error),
    };
    let page = JobPage { run: &run(&row), details: &details(&row), failed: &failed, can_act: server.can_act() };
    Page(StatusCode::OK, ui::job(&page, Timestamp::now()))
}

/// An action on jobs.
#[derive(Clone, Copy, Debug)]
enum JobAction {
    Retry,
    Cancel,
}

impl JobAction {
    fn name(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Cancel => "cancel",
        }
    }
}

pub(super) async fn retry(
    State(server): Shared,
    Path(seq): Path<i64>,
    headers: HeaderMap,
    form: TokenForm,
) -> Response {
    act(&server, &headers, form, (JobAction::Retry, Which::One(seq))).await
}

pub(super) async fn cancel(
    State(server): Shared,
    Path(seq): Path<i64>,
    headers: HeaderMap,
    form: TokenForm,
) -> Response {
    act(&server, &headers, form, (JobAction::Cancel, Which::One(seq))).await
}

/// Retries all dead jobs that a list names, with those that do not fit on its page.
pub(super) async fn retry_dead(
    State(server): Shared,
    Query(query): Query<JobsQuery>,
    headers: HeaderMap,
    form: TokenForm,
) -> Response {
    let query = JobsQuery { state: Some(JobState::Dead.as_str().to_owned()), ..query };
    match query.chosen() {
        Ok((_, filter)) => act(&server, &headers, form, (JobAction::Retry, Which::Dead(filter))).await,
        Err(page) => page.into_response(),
    }
}

/// The jobs that an action is for.
enum Which {
    One(i64),
    Dead(JobFilter),
}

async fn act(server: &Server, headers: &HeaderMap, form: TokenForm, (action, which): (JobAction, Which)) -> Response {
    let what = action.name();
    let refused = |status, why: &str| Page(status, ui::refused(why)).into_response();
    let (whom, filter) = match &which {
        Which::One(seq) => (format!("job {seq}"), JobFilter { ids: vec![seq.to_string()], ..JobFilter::default() }),
        Which::Dead(filter) => ("dead jobs".to_owned(), filter.clone()),
    };
    if let Err(page) = check_token(server, headers, form).await {
        if page.0 == StatusCode::UNAUTHORIZED {
            tracing::warn!("a request to {what} {whom} over HTTP had a wrong token");
        }
        return page.into_response();
    }
    let Some(Running { queue, .. }) = server.running.get() else {
        return refused(StatusCode::SERVICE_UNAVAILABLE, "The worker is starting: it waits for the database.");
    };
    let changed = match action {
        JobAction::Retry => queue.retry(&filter).await,
        JobAction::Cancel => queue.cancel(&filter).await,
    };
    match changed {
        Ok(0) => refused(StatusCode::CONFLICT, "No job is in a state in which that can be done any more."),
        Ok(n) => {
            tracing::info!(jobs = n, "{whom}: {what} over HTTP");
            queue.notify_new_work();
            let of = match which {
                Which::One(seq) => format!("job={seq}"),
                Which::Dead(_) => format!("n={n}"),
            };
            Redirect::to(&format!("/jobs?did={what}&{of}")).into_response()
        }
        Err(error) => unavailable(&error).into_response(),
    }
}

/// A text cut to what a list has room for.
fn short(text: &str) -> String {
    match text.char_indices().nth(TEXT_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// What a report says: its sentence; of one that has none, what is not 0, not false and not empty.
fn changes(report: &serde_json::Value) -> String {
    if let Some(sentence) = report.get("sentence").and_then(serde_json::Value::as_str) {
        return sentence.to_owned();
    }
    let report = &report.to_string();
    let summary = report_summary(report);
    let parts = summary.split(", ").filter(|part| !part.ends_with(" 0") && !part.ends_with(" false"));
    let parts = parts.collect::<Vec<_>>().join(", ") + &report_lists(report);
    if parts.is_empty() && !summary.is_empty() { "nothing to do".into() } else { parts.trim_start_matches(", ").into() }
}

/// A job as the pages show it.
pub(super) fn run(row: &JobRow) -> RunRow {
    let report = row.report.as_ref().map(changes);
    let took = row.finished_at.zip(row.started_at).map(|(end, start)| end.duration_since(start));
    RunRow {
        seq: row.seq,
        kind: row.kind.clone(),
        state: row.state,
        what: report_summary(&row.payload.to_string())
            .split(", ")
            .filter(|part| !part.ends_with(" false"))
            .collect::<Vec<_>>()
            .join(", "),
        attempts: row.attempts,
        at: row.finished_at.or(row.run_at).or(row.started_at).unwrap_or(row.enqueued_at),
        took: took.map(|took| took.max(SignedDuration::ZERO)),
        result: short(&report.or_else(|| row.reason.clone()).unwrap_or_default()),
        attention: row.attention,
        can_retry: matches!(row.state, JobState::Dead | JobState::Cancelled | JobState::Scheduled | JobState::Retrying),
        can_cancel: !row.state.is_final(),
    }
}

/// The fields that a list has no room for.
fn details(row: &JobRow) -> Vec<(String, String)> {
    let pretty = |value: &serde_json::Value| serde_json::to_string_pretty(value).unwrap_or_default();
    let mut found = vec![("Id".to_owned(), row.id.clone()), ("Enqueued by".to_owned(), row.origin.clone())];
    let mut add = |name: &str, value: Option<String>| found.extend(value.map(|value| (name.to_owned(), value)));
    add("Unique key", row.key.clone());
    add("Lane", row.lane.clone());
    add("Waited for by job", row.parent.map(|seq| seq.to_string()));
    add("Worker", row.worker.clone());
    add("Enqueued", Some(row.enqueued_at.to_string()));
    add("Started", row.started_at.map(|at| at.to_string()));
    add("Payload", Some(pretty(&row.payload)));
    // a text of several lines would be laid out as they are
    add("Reason", row.reason.as_deref().map(|why| visible::line(why).into_owned()));
    add("Database", row.report.as_ref().and_then(cost_of));
    add("Report", row.report.as_ref().map(pretty));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_reasons_are_cut_between_characters() {
        assert_eq!(short("ä"), "ä");
        let long = "ä".repeat(TEXT_CHARS + 5);
        assert_eq!(short(&long).chars().count(), TEXT_CHARS + 1);
    }
}
