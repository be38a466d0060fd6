//! Tables that fit a terminal, and JSON.

use std::io::{IsTerminal, Write};

use books::units::quantity::Quantity;
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table};
use serde::Serialize;

use crate::format::group;
pub(crate) use crate::format::{customer, quantity, span};

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

/// Prints a line; a reader that has gone away (`| head`) is no error.
pub(crate) fn out(line: &str) {
    drop(writeln!(std::io::stdout().lock(), "{line}"));
}

/// Prints JSON.
pub(crate) fn json<T: Serialize>(value: &T) -> anyhow::Result<()> {
    out(&serde_json::to_string_pretty(value)?);
    Ok(())
}

/// A count with separators: `1,234,567`.
pub(crate) fn count(n: impl TryInto<u64>) -> String {
    let digits = n.try_into().map_or_else(|_| "?".into(), |n: u64| n.to_string());
    group(&digits)
}

/// As [`quantity`], with a sign always.
pub(crate) fn change(q: Quantity) -> String {
    if q > Quantity::ZERO { format!("+{}", quantity(q)) } else { quantity(q) }
}
