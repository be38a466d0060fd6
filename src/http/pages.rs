//! The status page.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use jiff::Timestamp;
use serde::Deserialize;

use super::jobs::{LISTED, list, run};
use super::page::Page;
use super::server::{Server, Shared};
use crate::health::{self, Overview};
use crate::queue::{JobFilter, JobRow};
use crate::ui::{self, RUNS, RunRow, StatusView};

/// Jobs among which the newest of each kind are searched first.
const SEARCHED: u32 = 300;

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
