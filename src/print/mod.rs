//! What the commands and the demo print: tables that fit a terminal, JSON, and one module for each
//! thing that several of them show.

pub(crate) mod accuracy;
pub(crate) mod audit;
pub(crate) mod bill;
pub(crate) mod budgets;
pub(crate) mod changes;
mod contract_rows;
pub(crate) mod decided;
pub(crate) mod enforce;
pub(crate) mod entitlements;
pub(crate) mod explain;
pub(crate) mod explain_block;
pub(crate) mod explain_share;
pub(crate) mod forecast;
pub(crate) mod ingest;
pub(crate) mod items;
pub(crate) mod margin;
pub(crate) mod months;
pub(crate) mod notifications;
pub(crate) mod push;
pub(crate) mod reconcile;
pub(crate) mod restore;
pub(crate) mod shared;
pub(crate) mod simulation;
pub(crate) mod statement;
mod table;
mod terminal;
mod units;

use std::fmt::Display;
use std::io::Write;

use books::Database;
use jobs::stripe::check::CheckLine;
use serde::Serialize;

pub(crate) use self::contract_rows::{BudgetRow, EntitlementRow};
pub(crate) use self::terminal::{
    ColorWhen, Mark, TableWidth, end_page, end_wait, output_failure, page, set, set_pipe_columns, wait,
};
pub(crate) use self::units::{WithUnit, WithUnits};
pub(crate) use crate::format::{count, customer, quantity, readable, rounded, several, span};
use crate::visible;

/// How a command prints what it found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OutputFormat {
    Text,
    Json,
}

impl OutputFormat {
    /// By the flag `--json`.
    pub(crate) fn of(json: bool) -> Self {
        if json { Self::Json } else { Self::Text }
    }
}

/// Prints a table that fits the terminal. A title says how its column may give way:
/// [`table::fit`].
pub(crate) fn table(titles: &[&str], rows: Vec<Vec<String>>) {
    let fitted = table::fit(titles, rows, terminal::columns());
    raw(&fitted.text);
    if !fitted.left_out.is_empty() {
        out(&format!("(no room for: {}; --wide shows them)", fitted.left_out.join(", ")));
    }
}

/// Prints a line that begins with a word in the colour of what it says.
pub(crate) fn marked((mark, word): (Mark, &str), rest: &str) {
    let indent = word.len() - word.trim_start().len();
    let painted = terminal::painted(mark, &word[indent..]);
    let unseen = painted.len() - (word.len() - indent);
    prose(&format!("{}{painted}{}", &word[..indent], visible::line(rest)), unseen);
}

/// Prints one line, in which nothing acts that others wrote.
pub(crate) fn out(line: &str) {
    prose(&visible::line(line), 0);
}

/// Prints one line that breaks between words where the terminal ends; `unseen` of its characters
/// take no place.
fn prose(line: &str, unseen: usize) {
    match terminal::columns() {
        Some(width) => raw(&table::hung(line, width, unseen)),
        None => raw(line),
    }
}

/// Prints a text of several lines, such as a file of ours.
pub(crate) fn lines(text: &str) {
    raw(&visible::lines(text));
}

/// Prints one line to standard error.
pub(crate) fn err(what: impl Display) {
    complain(&visible::line(&what.to_string()));
}

/// Prints an error of several lines, which are ours: a list of faults.
pub(crate) fn err_lines(what: impl Display) {
    complain(&visible::lines(&what.to_string()));
}

fn complain(what: &str) {
    end_wait();
    drop(writeln!(std::io::stderr().lock(), "meter: {what}"));
}

/// Prints a text in which what acts is written out already.
fn raw(text: &str) {
    terminal::write(text);
}

/// Says that the commands that were named need the `--config` that this one has.
pub(crate) fn with_same_config() {
    let words: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let given = words.iter().zip(words.iter().skip(1)).find_map(|(word, next)| match word.as_str() {
        "--config" => Some(next.as_str()),
        other => other.strip_prefix("--config="),
    });
    if let Some(file) = given.or_else(|| words.last()?.strip_prefix("--config=")) {
        out(&format!("Give these commands `--config {file}`, as this one."));
    }
}

/// The faults of plans, each as a sentence.
pub(crate) fn plan_warnings(lines: &[CheckLine]) -> Vec<String> {
    let faulty = lines.iter().filter_map(|line| Some((line, line.fault.as_ref()?)));
    faulty.map(|(line, fault)| format!("warning: {}: {}: {fault}", line.what, line.found)).collect()
}

/// Prints what the work of a handle cost on a remote database.
pub(crate) fn cost(books: &Database) {
    if let Some(cost) = crate::format::cost(books.traffic()) {
        out(&cost);
    }
}

/// Prints rows under their titles as CSV (RFC 4180), exactly but for control characters; a cell
/// that a spreadsheet would take for a formula is a text.
pub(crate) fn csv(titles: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> anyhow::Result<()> {
    let mut writer = csv::Writer::from_writer(vec![]);
    writer.write_record(titles)?;
    for row in rows {
        let is_number = |cell: &str| cell.parse::<rust_decimal::Decimal>().is_ok();
        let acts = |cell: &str| is_like_formula(cell) && !is_number(cell);
        let cells = row.into_iter().map(|cell| if acts(&cell) { format!("'{cell}") } else { cell });
        writer.write_record(cells.map(|cell| visible::cell(&cell).into_owned()))?;
    }
    raw(String::from_utf8(writer.into_inner()?)?.trim_end_matches('\n'));
    Ok(())
}

/// The cell that [`csv`] made a text.
pub(crate) fn from_csv(cell: &str) -> &str {
    cell.strip_prefix('\'').filter(|rest| is_like_formula(rest)).unwrap_or(cell)
}

fn is_like_formula(cell: &str) -> bool {
    cell.trim_start_matches('\'').starts_with(['=', '+', '-', '@'])
}

pub(crate) fn json<T: Serialize>(value: &T) -> anyhow::Result<()> {
    raw(&visible::json(&serde_json::to_string_pretty(value)?));
    Ok(())
}
