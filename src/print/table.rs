//! Tables that fit the terminal: columns wrap, are shortened or are left out before a number, an id
//! or a header breaks.

use std::collections::BTreeSet;

use unicode_width::UnicodeWidthStr;

use crate::visible;

/// Between two columns.
const GAP: usize = 2;
/// The narrowest column of prose that is still read.
const PROSE: usize = 24;
/// The shortest start of an id that is shown, as `git` shows it.
const ID: usize = 8;
/// A label before a text is no longer.
const LABEL: usize = 24;
/// What stands for the rest of a shortened id.
const CUT: char = '…';

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Text,
    /// Aligned on the point.
    Number,
    /// May wrap between words.
    Prose,
    /// May be shortened to a start that no other row has.
    Id,
}

/// A column, from its title: `>` before it is a number, `~` prose, `#` an id; a digit before all
/// that lets it be left out, 1 first.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Column {
    title: String,
    shape: Shape,
    goes: Option<u8>,
    cells: Vec<String>,
}

impl Column {
    fn new(written: &str) -> Self {
        // one digit is a rank, and several are a title: a day
        let (goes, rest) = match written.chars().take_while(char::is_ascii_digit).count() {
            1 => (written[..1].parse().ok(), &written[1..]),
            _ => (None, written),
        };
        let shapes = [('>', Shape::Number), ('~', Shape::Prose), ('#', Shape::Id)];
        let shaped = shapes.iter().find_map(|(mark, shape)| Some((rest.strip_prefix(*mark)?, *shape)));
        let (title, shape) = shaped.unwrap_or((rest, Shape::Text));
        Self { title: title.to_owned(), shape, goes, cells: vec![] }
    }

    fn width(&self) -> usize {
        let widest = self.cells.iter().flat_map(|cell| cell.lines()).map(UnicodeWidthStr::width).max();
        widest.unwrap_or_default().max(self.title.width())
    }

    /// Numbers of one column have their points below each other.
    fn align(&mut self) {
        let parts = || self.cells.iter().map(|cell| cell.split_at(point(cell)));
        let before = parts().map(|(left, _)| left.width()).max().unwrap_or_default();
        let after = parts().map(|(_, right)| right.width()).max().unwrap_or_default();
        for cell in &mut self.cells {
            let (left, right) = cell.split_at(point(cell));
            let (pad, fill) = (before - left.width(), after - right.width());
            *cell = format!("{}{left}{right}{}", " ".repeat(pad), " ".repeat(fill));
        }
    }

    /// Shortens ids to the shortest start that is unique among all, and no shorter than [`ID`].
    fn shorten(&mut self) {
        let all: BTreeSet<&String> = self.cells.iter().collect();
        let starts =
            |length: usize| -> BTreeSet<String> { all.iter().map(|id| id.chars().take(length).collect()).collect() };
        let longest = all.iter().map(|id| id.chars().count()).max().unwrap_or_default();
        let Some(length) = (ID..longest).find(|length| starts(*length).len() == all.len()) else { return };
        for cell in self.cells.iter_mut().filter(|cell| cell.chars().count() > length + 1) {
            *cell = cell.chars().take(length).chain([CUT]).collect();
        }
    }

    fn wrap(&mut self, width: usize) {
        for cell in &mut self.cells {
            *cell = wrapped(cell, width).join("\n");
        }
    }
}

/// Where the whole part of a number ends, in bytes.
fn point(cell: &str) -> usize {
    let digits = |c: char| c.is_ascii_digit();
    let Some(first) = cell.find(digits) else { return cell.len() };
    let end = cell[first..].find(|c: char| !digits(c) && c != ',');
    end.map_or(cell.len(), |end| first + end)
}

/// The lines of a text; a word that is longer than a line stays whole.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![];
    let mut line = String::new();
    for word in text.split(' ') {
        if !line.is_empty() && line.width() + 1 + word.width() > width {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines
}

/// A line that is wider than the terminal, on several: they begin where the text after its label
/// begins, or its own text.
pub(super) fn hung(line: &str, width: usize, unseen: usize) -> String {
    if line.width() <= width + unseen {
        return line.to_owned();
    }
    let own = line.len() - line.trim_start().len();
    let label =
        line[own..].find("  ").map(|end| line[own + end..].len() - line[own + end..].trim_start().len() + own + end);
    let hang = label.filter(|at| *at <= LABEL + unseen).map_or(own, |at| at - unseen);
    let (first, rest) = line.split_at(label.filter(|at| *at <= LABEL + unseen).unwrap_or(own));
    let lines = wrapped(rest, width.saturating_sub(hang).max(PROSE));
    format!("{first}{}", lines.join(&format!("\n{}", " ".repeat(hang))))
}

/// A table as it is printed, and the titles of the columns that it has no place for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fitted {
    pub(super) text: String,
    pub(super) left_out: Vec<String>,
}

/// Lays a table out; without a width, whole.
pub(super) fn fit(titles: &[&str], rows: Vec<Vec<String>>, width: Option<usize>) -> Fitted {
    let indent = titles.first().map_or(0, |title| title.len() - title.trim_start().len());
    let mut columns: Vec<Column> = titles.iter().map(|title| Column::new(title.trim_start())).collect();
    let count = rows.len();
    for row in rows {
        for (column, cell) in columns.iter_mut().zip(row) {
            column.cells.push(visible::line(cell.trim_start()).into_owned());
        }
    }
    for column in columns.iter_mut().filter(|column| column.shape == Shape::Number) {
        column.align();
    }
    let mut left_out = vec![];
    if let Some(width) = width {
        let room = width.saturating_sub(indent);
        if !narrow(&mut columns, room, &mut left_out) {
            return Fitted { text: records(&columns, count, indent, width), left_out };
        }
    }
    Fitted { text: lines(&columns, count, indent), left_out }
}

fn total(columns: &[Column]) -> usize {
    columns.iter().map(Column::width).sum::<usize>() + GAP * columns.len().saturating_sub(1)
}

/// The width with prose as narrow as it may be.
fn least(columns: &[Column]) -> usize {
    let spared = |column: &Column| match column.shape {
        Shape::Prose => column.width() - narrowest(column).min(column.width()),
        _ => 0,
    };
    total(columns) - columns.iter().map(spared).sum::<usize>()
}

fn narrowest(column: &Column) -> usize {
    let longest = column.cells.iter().flat_map(|cell| cell.split(' ')).map(UnicodeWidthStr::width).max();
    PROSE.max(longest.unwrap_or_default()).max(column.title.width())
}

/// Makes columns fit: ids are shortened, prose wraps, then columns are left out. False when all
/// that does not do.
fn narrow(columns: &mut Vec<Column>, room: usize, left_out: &mut Vec<String>) -> bool {
    if total(columns) <= room {
        return true;
    }
    for column in columns.iter_mut().filter(|column| column.shape == Shape::Id) {
        column.shorten();
    }
    while least(columns) > room {
        let ranked = columns.iter().enumerate().filter_map(|(i, column)| Some((column.goes?, i)));
        let Some((_, i)) = ranked.min_by_key(|(rank, i)| (*rank, std::cmp::Reverse(*i))) else { return false };
        left_out.push(columns.remove(i).title);
    }
    // the widest prose gives first
    while total(columns) > room {
        let over = total(columns) - room;
        let prose = columns.iter_mut().filter(|c| c.shape == Shape::Prose && c.width() > narrowest(c));
        let Some(widest) = prose.max_by_key(|column| column.width()) else { return false };
        let width = (widest.width() - over.min(widest.width())).max(narrowest(widest));
        widest.wrap(width);
    }
    true
}

fn lines(columns: &[Column], rows: usize, indent: usize) -> String {
    let widths: Vec<usize> = columns.iter().map(Column::width).collect();
    let mut out = String::new();
    let mut line = |cells: &[&str]| {
        let mut text = " ".repeat(indent);
        for ((cell, column), width) in cells.iter().zip(columns).zip(&widths) {
            let fill = " ".repeat(width - cell.width().min(*width));
            match column.shape {
                Shape::Number => text.push_str(&format!("{fill}{cell}")),
                _ => text.push_str(&format!("{cell}{fill}")),
            }
            text.push_str(&" ".repeat(GAP));
        }
        out.push_str(text.trim_end());
        out.push('\n');
    };
    line(&columns.iter().map(|column| column.title.as_str()).collect::<Vec<_>>());
    for row in 0..rows {
        let cells: Vec<Vec<&str>> = columns.iter().map(|column| column.cells[row].split('\n').collect()).collect();
        let height = cells.iter().map(Vec::len).max().unwrap_or(1);
        for n in 0..height {
            line(&cells.iter().map(|cell| cell.get(n).copied().unwrap_or_default()).collect::<Vec<_>>());
        }
    }
    out.trim_end_matches('\n').to_owned()
}

/// Each row as lines of title and value, where no table fits.
fn records(columns: &[Column], rows: usize, indent: usize, room: usize) -> String {
    let width = columns.iter().map(|column| column.title.width()).max().unwrap_or_default();
    let mut out = vec![];
    for row in 0..rows {
        if row > 0 {
            out.push(String::new());
        }
        let shown = columns.iter().filter(|column| !column.cells[row].trim().is_empty());
        out.extend(shown.map(|column| {
            let fill = " ".repeat(width - column.title.width());
            let line = format!("{}{}{fill}  {}", " ".repeat(indent), column.title, column.cells[row].trim());
            hung(&line, room, 0)
        }));
    }
    out.join("\n")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rows(rows: &[&[&str]]) -> Vec<Vec<String>> {
        rows.iter().map(|row| row.iter().map(|cell| (*cell).to_owned()).collect()).collect()
    }

    fn shown(titles: &[&str], cells: &[&[&str]], width: usize) -> (Vec<String>, Vec<String>) {
        let fitted = fit(titles, rows(cells), Some(width));
        (fitted.text.lines().map(str::to_owned).collect(), fitted.left_out)
    }

    const TITLES: [&str; 5] = ["customer", "1#version", ">used", "2unit", "~why"];
    const CELLS: [&[&str]; 2] = [
        &["ann", "0123456789abcdef", "1,234.5", "minutes", "the month is over and its bill is final"],
        &["bob", "0123456x89abcdef", "7", "minutes", "on hold"],
    ];

    #[test]
    fn a_day_is_a_title() {
        assert_eq!(shown(&["2026-11-23", "3>GB"], &[&["ann", "5"]], 80).0, ["2026-11-23  GB", "ann          5"]);
    }

    #[test]
    fn a_table_gives_up_what_matters_least() {
        let (lines, left_out) = shown(&TITLES, &CELLS, 100);
        assert_eq!(lines[0], "customer  version              used  unit     why");
        assert_eq!(lines[1], "ann       0123456789abcdef  1,234.5  minutes  the month is over and its bill is final");
        assert_eq!(lines[2], "bob       0123456x89abcdef      7    minutes  on hold");
        assert_eq!(left_out, Vec::<String>::new());
        let (lines, _) = shown(&TITLES, &CELLS, 80);
        assert_eq!(lines[0], "customer  version       used  unit     why");
        assert_eq!(lines[1], "ann       01234567…  1,234.5  minutes  the month is over and its bill is final");
        let (lines, left_out) = shown(&TITLES, &CELLS, 60);
        assert_eq!(lines[1], "ann       1,234.5  minutes  the month is over and its bill");
        assert_eq!(lines[2], "                            is final");
        assert_eq!(left_out, ["version"]);
        let (lines, left_out) = shown(&TITLES, &CELLS, 50);
        assert_eq!(lines[1], "ann       1,234.5  the month is over and its bill");
        assert_eq!(left_out, ["version", "unit"]);
        let (lines, left_out) = shown(&TITLES, &CELLS, 30);
        assert_eq!(lines[..2], ["customer  ann", "used      1,234.5"]);
        assert_eq!(lines[5], "customer  bob");
        assert_eq!(left_out, ["version", "unit"]);
    }

    #[test]
    fn long_lines_break_between_words_and_hang_below_their_text() {
        for (line, unseen, expected) in [
            ("short", 0, "short"),
            (
                "a line that is longer than forty characters, and ends",
                0,
                "a line that is longer than forty\ncharacters, and ends",
            ),
            (
                "  - a line that is longer than forty characters",
                0,
                "  - a line that is longer than forty\n  characters",
            ),
            (
                "books     7,000 ledger entries; audited an hour ago: sound",
                0,
                "books     7,000 ledger entries; audited\n          an hour ago: sound",
            ),
            (
                "\u{1b}[1;32mok\u{1b}[0m   the disk has more than enough room, 7,000 MiB",
                11,
                "\u{1b}[1;32mok\u{1b}[0m   the disk has more than enough room,\n     7,000 MiB",
            ),
        ] {
            assert_eq!(hung(line, 40, unseen), expected);
        }
    }

    #[test]
    fn points_stand_below_each_other() {
        for (cells, expected) in [
            (["1.25 EUR", "100 EUR", "-"], ["  1.25 EUR", "100 EUR   ", "  -       "]),
            (["12", "1,234.5", "none"], ["   12  ", "1,234.5", " none  "]),
            (["-3 %", "10.5 %", ""], ["-3 %  ", "10.5 %", "      "]),
        ] {
            let mut column = Column::new(">x");
            column.cells = cells.map(str::to_owned).to_vec();
            column.align();
            assert_eq!(column.cells, expected);
        }
    }

    proptest! {
        /// Whatever the width: no line is wider but where one cell alone is, no number breaks, and
        /// no two ids look the same.
        #[test]
        fn nothing_breaks(width in 20_usize..200, values in prop::collection::vec((0_u64..1_000_000, "[a-z]{3,40}", "[a-z ]{0,80}"), 1..6)) {
            let cells: Vec<Vec<String>> =
                values.iter().map(|(n, id, text)| vec![n.to_string(), id.clone(), text.clone()]).collect();
            let fitted = fit(&[">number", "#id", "1~text"], cells, Some(width));
            let widest = values.iter().map(|(_, id, _)| id.len()).max().unwrap() + 8;
            for line in fitted.text.lines() {
                prop_assert!(line.width() <= width.max(widest), "{line}");
            }
            for (n, id, _) in &values {
                prop_assert!(fitted.text.split_whitespace().any(|word| word == n.to_string()));
                let starts = |word: &str| word.strip_suffix(CUT).map_or(word == id, |start| id.starts_with(start));
                prop_assert!(fitted.text.split_whitespace().any(starts), "{id}: {}", fitted.text);
            }
        }
    }
}
