//! What the commands and the demo print: tables that fit a terminal, JSON, and one module for each
//! thing that several of them show.

pub(crate) mod accuracy;
pub(crate) mod audit;
pub(crate) mod bill;
pub(crate) mod budgets;
pub(crate) mod changes;
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

use std::fmt::Display;
use std::io::Write;

use books::Database;
use jobs::stripe::check::CheckLine;
use serde::Serialize;

pub(crate) use self::terminal::{ColorWhen, Mark, TableWidth, end_page, page, set, set_pipe_columns};
pub(crate) use crate::format::{count, customer, quantity, rounded, several, span};
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
    drop(writeln!(std::io::stderr().lock(), "meter: {what}"));
}

/// Prints a text in which what acts is written out already.
fn raw(text: &str) {
    terminal::write(text);
}

/// Prints the faults of plans, one on a line.
pub(crate) fn plan_warnings(lines: &[CheckLine]) {
    for (line, fault) in lines.iter().filter_map(|line| Some((line, line.fault.as_ref()?))) {
        out(&format!("warning: {}: {}: {fault}", line.what, line.found));
    }
}

/// Prints what the work of a handle cost on a remote database.
pub(crate) fn cost(books: &Database) {
    if let Some(cost) = crate::format::cost(books.traffic()) {
        out(&cost);
    }
}

/// Prints rows as CSV (RFC 4180); a cell that a spreadsheet would take for a formula is a text.
pub(crate) fn csv(rows: Vec<Vec<String>>) -> anyhow::Result<()> {
    let mut writer = csv::Writer::from_writer(vec![]);
    for row in rows {
        let is_number = |cell: &str| cell.parse::<rust_decimal::Decimal>().is_ok();
        let acts = |cell: &str| cell.starts_with(['=', '+', '-', '@']) && !is_number(cell);
        let cells = row.into_iter().map(|cell| if acts(&cell) { format!("'{cell}") } else { cell });
        writer.write_record(cells.map(|cell| visible::line(&cell).into_owned()))?;
    }
    raw(String::from_utf8(writer.into_inner()?)?.trim_end());
    Ok(())
}

pub(crate) fn json<T: Serialize>(value: &T) -> anyhow::Result<()> {
    raw(&visible::json(&serde_json::to_string_pretty(value)?));
    Ok(())
}
