//! What the commands and the demo print: tables that fit a terminal, JSON, and one module for each
//! thing that several of them show.

pub(crate) mod audit;
pub(crate) mod budgets;
pub(crate) mod decided;
pub(crate) mod enforce;
pub(crate) mod entitlements;
pub(crate) mod ingest;
pub(crate) mod items;
pub(crate) mod notifications;
pub(crate) mod push;
pub(crate) mod reconcile;
pub(crate) mod restore;

use std::io::{IsTerminal, Write};

use books::Database;
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table};
use jobs::stripe::check::CheckLine;
use serde::Serialize;

pub(crate) use crate::format::{count, customer, quantity, span};

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
            let cell = Cell::new(text);
            if *right { cell.set_alignment(CellAlignment::Right) } else { cell }
        });
        table.add_row(cells);
    }
    for (i, right) in right.iter().enumerate() {
        if let Some(column) = table.column_mut(i).filter(|_| *right) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    out(&table.trim_fmt());
}

/// Prints a line; a reader that has gone (`| head`) is no error.
pub(crate) fn out(line: &str) {
    drop(writeln!(std::io::stdout().lock(), "{line}"));
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

/// Prints JSON.
pub(crate) fn json<T: Serialize>(value: &T) -> anyhow::Result<()> {
    out(&serde_json::to_string_pretty(value)?);
    Ok(())
}
