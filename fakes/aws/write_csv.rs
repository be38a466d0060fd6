//! CSV as AWS writes it: quotes only where needed, times with milliseconds, numbers as Java spells
//! them, maps as JSON.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::Result;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;

use crate::amount::push_java;
use crate::columns::{Cells, Column, Pairs};
use crate::places::Month;
use crate::plan::Line;
use crate::{Batches, FileKind, Spec};

/// Writes one data file.
pub(crate) fn write(
    path: &Path,
    spec: &Spec,
    month: &Month,
    columns: &[Column],
    batches: &mut Batches<'_, '_>,
) -> Result<()> {
    let out = BufWriter::new(File::create(path)?);
    if spec.kind == FileKind::CsvGz {
        let mut gzip = GzEncoder::new(out, Compression::fast());
        write_to(&mut gzip, month, columns, batches)?;
        gzip.finish()?.flush()?;
    } else {
        let mut out = out;
        write_to(&mut out, month, columns, batches)?;
        out.flush()?;
    }
    Ok(())
}

fn write_to(out: &mut impl Write, month: &Month, columns: &[Column], batches: &mut Batches<'_, '_>) -> Result<()> {
    let headers = columns.iter().map(|column| quoted(&column.header)).collect::<Vec<_>>();
    writeln!(out, "{}", headers.join(","))?;
    let times = (0..=month.hours).map(|hour| month.hour_text(hour) + ":00:00.000Z").collect::<Vec<_>>();
    let sources = columns.iter().map(source).collect::<Vec<_>>();
    let (mut lines, mut text, mut entries) = (vec![], String::new(), vec![]);
    while batches.next(&mut lines) {
        for line in &lines {
            text.clear();
            for source in &sources {
                match source {
                    Source::Words(table, code) => text.push_str(&table[code(line)]),
                    Source::Id => write!(text, "{:032x}", line.id)?,
                    Source::Hour(hour) => text.push_str(&times[usize::from(hour(line, month.hours))]),
                    Source::Number(number) => push_java(number(line), &mut text),
                    Source::Map(json, pairs) => {
                        entries.clear();
                        (pairs.of)(line, &mut entries);
                        json.push(&entries, &mut text);
                    }
                }
                text.push(',');
            }
            text.pop();
            text.push('\n');
            out.write_all(text.as_bytes())?;
        }
    }
    Ok(())
}

/// What a column's cells are made of, quoted beforehand.
enum Source<'a> {
    Words(Vec<String>, fn(&Line) -> usize),
    Id,
    Hour(fn(&Line, u16) -> u16),
    Number(fn(&Line) -> i64),
    Map(Json, &'a Pairs),
}

fn source(column: &Column) -> Source<'_> {
    let same = |text: &str| Source::Words(vec![text.into()], |_| 0);
    match &column.cells {
        Cells::Words(words) => Source::Words(words.table.iter().map(|text| quoted(text)).collect(), words.code),
        Cells::Id => Source::Id,
        Cells::Hour(hour) => Source::Hour(*hour),
        Cells::Number(number) => Source::Number(*number),
        Cells::Zero => same("0.0"),
        Cells::NoNumber => same(""),
        Cells::NoPairs { .. } => same("{}"),
        Cells::Map(pairs) => Source::Map(Json { keys: json(&pairs.keys), values: json(&pairs.values) }, pairs),
    }
}

fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.into() }
}

/// Keys and values of a map as JSON texts, quotes doubled.
struct Json {
    keys: Vec<String>,
    values: Vec<String>,
}

fn json(texts: &[String]) -> Vec<String> {
    texts.iter().map(|text| Value::from(text.as_str()).to_string().replace('"', "\"\"")).collect()
}

impl Json {
    fn push(&self, entries: &[(usize, usize)], text: &mut String) {
        if entries.is_empty() {
            return text.push_str("{}");
        }
        text.push_str("\"{");
        for (key, value) in entries {
            text.extend([&self.keys[*key], ":", &self.values[*value], ","]);
        }
        text.pop();
        text.push_str("}\"");
    }
}
