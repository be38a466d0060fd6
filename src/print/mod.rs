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

use std::fmt::Display;
use std::io::{IsTerminal, Write};

use books::Database;
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table};
use jobs::stripe::check::CheckLine;
use serde::Serialize;

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

/// Prints a table; columns whose title starts with `>` are right-aligned.
pub(crate) fn table(titles: &[&str], rows: Vec<Vec<String>>) {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    // what goes to a file or a pipe is not wrapped, so that names stay whole
    if std::io::stdout().is_terminal() {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    let right: Vec<bool> = titles.iter().map(|t| t.starts_with('>')).collect();
    table.set_header(titles.iter().map(|t| t.trim_start_matches('>')));
    for row in rows {
        let cells = row.into_iter().zip(&right).map(|(text, right)| {
            let cell = Cell::new(visible::line(&text));
            if *right { cell.set_alignment(CellAlignment::Right) } else { cell }
        });
        table.add_row(cells);
    }
    for (i, right) in right.iter().enumerate() {
        if let Some(column) = table.column_mut(i).filter(|_| *right) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    raw(&table.trim_fmt());
}

/// Prints one line, in which nothing acts that others wrote.
pub(crate) fn out(line: &str) {
    raw(&visible::line(line));
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

/// Prints a text in which what acts is written out already. A reader that has gone (`| head`) is no
/// error.
fn raw(text: &str) {
    drop(writeln!(std::io::stdout().lock(), "{text}"));
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
