//! The status page, the jobs, and the actions on them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
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
use crate::format::{cost_of, report_lists, report_summary};
use crate::health::{self, Overview};
use crate::queue::{JobFilter, JobRow, JobState};
use crate::ui::{self, JobList, JobsFilter, RUNS, RunRow, StatusView};
use crate::visible;
use crate::worker::Kinds;

/// A page waits this long for the jobs that it lists.
pub(super) const PAGE_WAIT: Duration = Duration::from_secs(5);
/// Jobs on one page.
const LISTED: u32 = 100;
/// Jobs among which the newest of each kind are searched first.
const SEARCHED: u32 = 300;
/// Characters of a report or a reason that a list shows.
const TEXT_CHARS: usize = 240;

/// Reads jobs on the collector's connection, so that no lease waits for a page. Gives up soon when
/// the database hangs.
async fn list(server: &Server, filter: JobFilter, limit: u32) -> anyhow::Result<Vec<JobRow>> {
    let asked = async { anyhow::Ok(server.collector.queue().await?.list(&filter, limit).await?) };
    tokio::time::timeout(PAGE_WAIT, asked).await.unwrap_or_else(|_| bail!("nothing within {} s", PAGE_WAIT.as_secs()))
}

/// The newest job of each kind and second ones, so that a kind that runs every minute does not hide
/// one that runs once a day.
async fn newest(server: &Server, overview: &Overview) -> anyhow::Result<Vec<JobRow>> {
    let mut rows = list(server, JobFilter::default(), SEARCHED).await?;
    let known: BTreeSet<String> = rows.iter().map(|row| row.kind.clone()).collect();
    let rare = overview.queue.kinds.iter().filter(|(kind, _)| !known.contains(*kind));
    let ids: Vec<String> = rare.filter_map(|(_, of)| of.last_done_job).map(|seq| seq.to_string()).collect();
    if !ids.is_empty() {
        rows.extend(list(server, JobFilter { ids, ..JobFilter::default() }, LISTED).await?);
    }
    let mut of_kind: BTreeMap<String, usize> = BTreeMap::new();
    let mut placed: Vec<(usize, JobRow)> = vec![];
    for row in rows {
        let seen = of_kind.entry(row.kind.clone()).or_default();
        *seen += 1;
        placed.push((*seen, row));
    }
    // the first of each kind before the second ones
    placed.sort_by_key(|(place, _)| *place);
    let mut few: Vec<JobRow> =
        placed.into_iter().filter(|(place, _)| *place <= 2).map(|(_, row)| row).take(RUNS).collect();
    few.sort_by_key(|row| std::cmp::Reverse(row.seq));
    Ok(few)
}

#[derive(Debug, Deserialize)]
pub(super) struct StatusQuery {
    refresh: Option<u32>,
}

pub(super) async fn status(State(server): Shared, Query(query): Query<StatusQuery>) -> Page {
    let blocked = server.metrics.is_database_blocked().then(health::blocked);
    let Some(mut overview) = server.collector.last() else {
        if let Some(finding) = blocked {
            let why = format!("There are no figures: {}. {}.", finding.what, finding.act);
            return Page(StatusCode::SERVICE_UNAVAILABLE, ui::refused(&why));
        }
        let why = "The figures are being read for the first time. Reload in a moment.";
        return Page(StatusCode::SERVICE_UNAVAILABLE, ui::refused(why));
    };
    if let Some(finding) = blocked {
        Arc::make_mut(&mut overview).findings.insert(0, finding);
    }
    // without the database the page still shows the last figures
    let rows = newest(&server, &overview).await;
    let no_runs = rows.as_ref().err().map(|error| format!("{error:#}"));
    let runs: Vec<RunRow> = rows.unwrap_or_default().iter().map(run).collect();
    let view = StatusView {
        overview: &overview,
        units: &server.units,
        names: &server.statements.names,
        runs: &runs,
        no_runs: no_runs.as_deref(),
        version: env!("CARGO_PKG_VERSION"),
        billing: overview.billing.words(),
        refresh_seconds: query.refresh.unwrap_or(60).min(3600),
    };
    Page(StatusCode::OK, ui::status(&view, Timestamp::now()))
}

#[derive(Debug, Deserialize)]
pub(super) struct JobsQuery {
    kind: Option<String>,
    state: Option<String>,
    /// The last action, and its job.
    did: Option<String>,
    job: Option<i64>,
}

pub(super) async fn jobs(State(server): Shared, Query(query): Query<JobsQuery>) -> Page {
    let some = |text: Option<String>| text.filter(|t| !t.is_empty());
    let filter = JobsFilter { kind: some(query.kind), state: some(query.state) };
    let states: Vec<JobState> = filter.state.iter().filter_map(|s| s.parse().ok()).collect();
    if filter.state.is_some() && states.is_empty() {
        return Page(StatusCode::BAD_REQUEST, ui::refused("There is no such state of a job."));
    }
    let wanted = JobFilter { kinds: filter.kind.iter().cloned().collect(), states, ..JobFilter::default() };
    let rows = match list(&server, wanted, LISTED).await {
        Ok(rows) => rows,
        Err(error) => return unavailable(&error),
    };
    let done = match (query.did.as_deref(), query.job) {
        (Some("retry"), Some(seq)) => Some(format!("Job {seq} is due now.")),
        (Some("cancel"), Some(seq)) => {
            Some(format!("Job {seq} is cancelled, or will be at the next heartbeat of its worker."))
        }
        _ => None,
    };
    let runs: Vec<RunRow> = rows.iter().map(run).collect();
    let kinds: Vec<String> = Kinds::all().names().into_iter().map(str::to_owned).collect();
    let list =
        JobList { runs: &runs, filter: &filter, kinds: &kinds, can_act: server.can_act(), done: done.as_deref() };
    Page(StatusCode::OK, ui::jobs(&list, Timestamp::now()))
}

pub(super) async fn job(State(server): Shared, Path(seq): Path<i64>) -> Page {
    let wanted = JobFilter { ids: vec![seq.to_string()], ..JobFilter::default() };
    match list(&server, wanted, 1).await.map(|mut rows| rows.pop()) {
        Ok(Some(row)) => Page(StatusCode::OK, ui::job(&run(&row), &details(&row), server.can_act(), Timestamp::now())),
        Ok(None) => Page(StatusCode::NOT_FOUND, ui::not_found()),
        Err(error) => unavailable(&error),
    }
}

/// An action on a job.
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

pub(super) async fn retry(state: Shared, path: Path<i64>, headers: HeaderMap, form: TokenForm) -> Response {
    act(state, path, &headers, form, JobAction::Retry).await
}

pub(super) async fn cancel(state: Shared, path: Path<i64>, headers: HeaderMap, form: TokenForm) -> Response {
    act(state, path, &headers, form, JobAction::Cancel).await
}

async fn act(
    State(server): Shared,
    Path(seq): Path<i64>,
    headers: &HeaderMap,
    form: TokenForm,
    action: JobAction,
) -> Response {
    let what = action.name();
    let refused = |status, why: &str| Page(status, ui::refused(why)).into_response();
    if let Err(page) = check_token(&server, headers, form).await {
        if page.0 == StatusCode::UNAUTHORIZED {
            tracing::warn!(job = seq, "a request to {what} job {seq} over HTTP had a wrong token");
        }
        return page.into_response();
    }
    let filter = JobFilter { ids: vec![seq.to_string()], ..JobFilter::default() };
    let Some(Running { queue, .. }) = server.running.get() else {
        return refused(StatusCode::SERVICE_UNAVAILABLE, "The worker is starting: it waits for the database.");
    };
    let changed = match action {
        JobAction::Retry => queue.retry(&filter).await,
        JobAction::Cancel => queue.cancel(&filter).await,
    };
    match changed {
        Ok(0) => refused(StatusCode::CONFLICT, "The job is no longer in a state in which that can be done."),
        Ok(_) => {
            tracing::info!(job = seq, "job {seq}: {what} over HTTP");
            queue.notify_new_work();
            Redirect::to(&format!("/jobs?did={what}&job={seq}")).into_response()
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

/// What a report says, without what is 0 or false, and without empty lists.
fn changes(report: &str) -> String {
    let summary = report_summary(report);
    let parts = summary.split(", ").filter(|part| !part.ends_with(" 0") && !part.ends_with(" false"));
    let parts = parts.collect::<Vec<_>>().join(", ") + &report_lists(report);
    if parts.is_empty() && !summary.is_empty() { "nothing to do".into() } else { parts.trim_start_matches(", ").into() }
}

/// A job as the pages show it.
fn run(row: &JobRow) -> RunRow {
    let report = row.report.as_ref().map(|report| changes(&report.to_string()));
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
