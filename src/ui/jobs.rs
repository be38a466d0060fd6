//! The jobs: a list, one job, and buttons to retry and cancel.
//!
//! Without a script, one form holds the whole list: the `formaction` of a button names its job, and
//! the token is typed once.

use jiff::Timestamp;
use maud::{Markup, html};

use super::format::{ago, count, instant, prose, took};
use super::layout::{Here, document, scroll, state};
use super::{JobList, JobPage, JobsFilter, RunRow};
use crate::format::url_encoded;
use crate::queue::{FailedRun, JobState, SEARCHED_JOBS};

/// The page at `/jobs`.
pub fn jobs(list: &JobList<'_>, now: Timestamp) -> String {
    let can_act = list.can_act && list.runs.iter().any(|run| run.can_retry || run.can_cancel);
    let table = scroll("Jobs", table(list.runs, can_act, now));
    let body = html! {
        h1.above { "Jobs" }
        @if let Some(done) = list.done { p.did role="status" { (done) } }
        (states(list))
        (filter_form(list))
        @if list.runs.is_empty() {
            p.card.empty { "There are no such jobs." @if is_filtered(list) { " " a href="/jobs" { "Show all" } } }
        } @else if can_act {
            form method="post" action="/jobs" { (no_default()) (token()) (retry_dead(list)) (table) }
        } @else {
            (table)
        }
        (pages(list))
        @if list.filter.text.is_some() {
            p.soft.block { "A text is searched in the newest " (count(SEARCHED_JOBS)) " jobs." }
        }
        @if !list.can_act { (how_to_act()) }
        p.soft.block { "Finished jobs are removed after a while. In a terminal, " code { "meter jobs" } " lists, retries and cancels them." }
    };
    document("Jobs", Here::Jobs, 0, body, html! {})
}

/// An address of the list with these choices.
fn address(path: &str, filter: &JobsFilter, before: Option<i64>) -> String {
    let before = before.map(|before| before.to_string());
    let choices = [("state", &filter.state), ("kind", &filter.kind), ("q", &filter.text), ("before", &before)];
    let query = choices.iter().filter_map(|(name, value)| Some(format!("{name}={}", url_encoded(value.as_deref()?))));
    let query: Vec<String> = query.collect();
    if query.is_empty() { path.to_owned() } else { format!("{path}?{}", query.join("&")) }
}

/// How many jobs are in each state; each leads to them.
fn states(list: &JobList<'_>) -> Markup {
    let entry = |state: JobState, n: i64| {
        let chosen = list.filter.state.as_deref() == Some(state.as_str());
        let of = JobsFilter { state: Some(state.as_str().to_owned()), ..list.filter.clone() };
        let words = html! { (state.as_str()) " " b { (count(n)) } };
        html! { li { a href=(address("/jobs", &of, None)) aria-current=[chosen.then_some("true")] { (words) } } }
    };
    html! {
        ul.legend.above aria-label="Jobs by state" {
            @for state in JobState::ALL { (entry(state, list.counts.get(&state).copied().unwrap_or(0))) }
        }
    }
}

/// The links to newer and older jobs.
fn pages(list: &JobList<'_>) -> Markup {
    html! {
        @if !list.is_first || list.older.is_some() {
            p.block {
                @if !list.is_first { a href=(address("/jobs", list.filter, None)) { "Newest jobs" } " " }
                @if let Some(older) = list.older {
                    a href=(address("/jobs", list.filter, Some(older))) { "Older jobs" }
                }
            }
        }
    }
}

/// One button for all dead jobs that the list is of, also for those on other pages.
fn retry_dead(list: &JobList<'_>) -> Markup {
    let dead = list.filter.state.as_deref() == Some(JobState::Dead.as_str());
    let to = address("/jobs/retry", list.filter, None);
    html! {
        @if dead {
            p.above { button type="submit" formaction=(to) { "Retry all dead jobs of this list" } }
        }
    }
}

/// The page at `/jobs/{seq}`.
pub fn job(page: &JobPage<'_>, now: Timestamp) -> String {
    let JobPage { run, details, failed, can_act } = *page;
    let title = format!("Job {}: {}", run.seq, run.kind);
    let body = html! {
        p.above { a href="/jobs" { "All jobs" } }
        h1.id { (title) }
        @if !run.what.is_empty() { p.lead { (run.what) } }
        div.card.block {
            dl.view {
                dt { "State" } dd { (state(run.state, run.attention)) }
                dt { "When" } dd { (instant(run.at)) " (" (ago(run.at, now)) ")" }
                dt { "Attempts" } dd { (count(run.attempts)) }
                @if let Some(duration) = run.took { dt { "Took" } dd { (took(duration)) } }
                @if !run.result.is_empty() { dt { "Result" } dd { (prose(&run.result)) } }
                @for (label, text) in details.iter().filter(|(_, text)| !text.is_empty()) {
                    dt { (label) }
                    dd { @if is_laid_out(text) { pre tabindex="0" role="region" aria-label=(label) { (text) } } @else { (text) } }
                }
            }
        }
        @if !failed.is_empty() {
            h2 { "Runs that failed" }
            (scroll("Runs that failed", failures(failed, now)))
        }
        @if can_act && (run.can_retry || run.can_cancel) {
            form.block method="post" action={ "/jobs/" (run.seq) } { (no_default()) (token()) (buttons(run)) }
        } @else if can_act {
            p.soft.block { "Nothing can be done with this job: only a dead, cancelled or waiting one can be retried, and a finished one cannot be cancelled." }
        } @else {
            (how_to_act())
        }
    };
    document(&title, Here::Job, 0, body, html! {})
}

fn failures(failed: &[FailedRun], now: Timestamp) -> Markup {
    html! {
        table {
            thead {
                tr {
                    th.n scope="col" { "Attempt" }
                    th scope="col" { "Failed" }
                    th.n scope="col" { "Took" }
                    th scope="col" { "Why" }
                    th scope="col" { "Worker" }
                }
            }
            tbody {
                @for run in failed {
                    tr {
                        th.n scope="row" { (count(run.attempt)) }
                        td { (ago(run.failed_at, now)) }
                        td.n { @if let Some(from) = run.started_at { (took(run.failed_at.duration_since(from))) } }
                        td.text { (prose(&run.reason)) }
                        td.id { (run.worker) }
                    }
                }
            }
        }
    }
}

/// Whether a text keeps its lines.
fn is_laid_out(text: &str) -> bool {
    text.contains('\n') || text.starts_with(['{', '['])
}

fn is_filtered(list: &JobList<'_>) -> bool {
    let JobsFilter { kind, state, text } = list.filter;
    [kind, state, text].into_iter().any(Option::is_some)
}

fn filter_form(list: &JobList<'_>) -> Markup {
    let choice = |value: &str, chosen: &Option<String>| {
        html! { option value=(value) selected[chosen.as_deref() == Some(value)] { (value) } }
    };
    html! {
        form method="get" action="/jobs" aria-label="Which jobs" {
            div.row {
                div {
                    label for="state" { "State" }
                    select #state name="state" {
                        option value="" { "any" }
                        @for state in JobState::ALL { (choice(state.as_str(), &list.filter.state)) }
                    }
                }
                div {
                    label for="kind" { "Kind" }
                    select #kind name="kind" {
                        option value="" { "any" }
                        @for kind in list.kinds { (choice(kind, &list.filter.kind)) }
                    }
                }
                div {
                    label for="q" { "Text in it" }
                    input #q name="q" type="search" maxlength="200" value=[list.filter.text.as_deref()];
                }
                button type="submit" { "Show" }
            }
        }
    }
}

/// The Enter key presses the first button of a form. This one does nothing, so that Enter changes
/// no job.
fn no_default() -> Markup {
    html! { button type="submit" disabled hidden {} }
}

fn token() -> Markup {
    html! {
        div.row {
            div {
                label for="token" { "Token, to retry or cancel a job" }
                input #token name="token" type="password" autocomplete="current-password" required;
            }
        }
    }
}

fn how_to_act() -> Markup {
    html! {
        p.card.block {
            "Jobs are read-only here. To retry or cancel them on this page, start the worker with a token in "
            code { "METER_HTTP__TOKEN" } "."
        }
    }
}

fn buttons(run: &RunRow) -> Markup {
    html! {
        @if run.can_retry {
            button type="submit" formaction={ "/jobs/" (run.seq) "/retry" } aria-label={ "Retry job " (run.seq) } { "Retry" }
        }
        @if run.can_cancel {
            " " button type="submit" formaction={ "/jobs/" (run.seq) "/cancel" } aria-label={ "Cancel job " (run.seq) } { "Cancel" }
        }
    }
}

fn table(runs: &[RunRow], can_act: bool, now: Timestamp) -> Markup {
    let row = |run: &RunRow| {
        html! {
            tr {
                td.n { a href={ "/jobs/" (run.seq) } { (run.seq) } }
                th.id scope="row" { span.whole { (run.kind) } @if !run.what.is_empty() { div.soft.clip { (run.what) } } }
                td { (state(run.state, run.attention)) }
                @if can_act { td.acts { (buttons(run)) } }
                td { (ago(run.at, now)) }
                td.n { @if let Some(duration) = run.took { (took(duration)) } }
                td.n { (count(run.attempts)) }
                td.text { span.clip { (prose(&run.result)) } }
            }
        }
    };
    html! {
        table {
            thead {
                tr {
                    th.n scope="col" { "Job" }
                    th scope="col" { "What" }
                    th scope="col" { "State" }
                    @if can_act { th scope="col" { "Act" } }
                    th scope="col" { "When" }
                    th.n scope="col" { "Took" }
                    th.n scope="col" { "Runs" }
                    th scope="col" { "Result" }
                }
            }
            tbody { @for run in runs { (row(run)) } }
        }
    }
}
