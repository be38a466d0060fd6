//! The jobs: a list, one job, and buttons to retry and cancel.
//!
//! Without a script, one form holds the whole list: the `formaction` of a button names its job, and
//! the token is typed once.

use jiff::Timestamp;
use maud::{Markup, html};

use super::format::{ago, count, instant, prose, took};
use super::layout::{Here, document, scroll, state};
use super::{JobList, RunRow};
use crate::queue::JobState;

/// The page at `/jobs`.
pub fn jobs(list: &JobList<'_>, now: Timestamp) -> String {
    let can_act = list.can_act && list.runs.iter().any(|run| run.can_retry || run.can_cancel);
    let table = scroll("Jobs", table(list.runs, can_act, now));
    let body = html! {
        h1.above { "Jobs" }
        @if let Some(done) = list.done { p.did role="status" { (done) } }
        (filter_form(list))
        @if list.runs.is_empty() {
            p.card.empty { "There are no such jobs." @if is_filtered(list) { " " a href="/jobs" { "Show all" } } }
        } @else if can_act {
            form method="post" action="/jobs" { (no_default()) (token()) (table) }
        } @else {
            (table)
        }
        @if !list.can_act { (how_to_act()) }
        p.soft.block { "Finished jobs are removed after a while. In a terminal, " code { "meter jobs" } " lists, retries and cancels them." }
    };
    document("Jobs", Here::Jobs, 0, body, html! {})
}

/// The page at `/jobs/{seq}`: the job, and `details` as labels and texts. JSON keeps its lines.
pub fn job(run: &RunRow, details: &[(String, String)], can_act: bool, now: Timestamp) -> String {
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

/// Whether a text keeps its lines.
fn is_laid_out(text: &str) -> bool {
    text.contains('\n') || text.starts_with(['{', '['])
}

fn is_filtered(list: &JobList<'_>) -> bool {
    list.filter.kind.is_some() || list.filter.state.is_some()
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
