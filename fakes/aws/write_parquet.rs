//! Parquet as AWS writes it: SNAPPY, dictionaries, no Arrow schema in the file.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use arrow::array::{
    ArrayRef, DictionaryArray, Float64Array, Int32Array, MapArray, RecordBatch, StringArray, StringBuilder,
    StructArray, TimestampMillisecondArray, new_empty_array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Fields, Int32Type, Schema, TimeUnit};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::Compression;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};

use crate::amount::double;
use crate::columns::{Cells, Column, Pairs};
use crate::places::Month;
use crate::plan::Line;
use crate::{Batches, Layout, Spec};

/// Writes one data file.
pub(crate) fn write(
    path: &Path,
    spec: &Spec,
    month: &Month,
    columns: &[Column],
    batches: &mut Batches<'_, '_>,
) -> Result<()> {
    let form = Form { month, optional: spec.layout == Layout::Cur2, longest: batches.longest() };
    let fields = columns.iter().map(|column| form.field(column)).collect::<Fields>();
    let schema = Arc::new(Schema::new(fields));
    let properties = WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_compression(Compression::SNAPPY)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_offset_index_disabled(true)
        .set_max_row_group_row_count(Some(spec.row_group_rows))
        .build();
    let options = ArrowWriterOptions::new()
        .with_properties(properties)
        .with_skip_arrow_metadata(true)
        .with_schema_root("schema".into());
    let out = BufWriter::new(File::create(path)?);
    let mut writer = ArrowWriter::try_new_with_options(out, Arc::clone(&schema), options)?;
    let sources = columns.iter().map(|column| form.source(column)).collect::<Result<Vec<_>>>()?;
    let mut lines = vec![];
    while batches.next(&mut lines) {
        let arrays = sources.iter().map(|source| form.array(source, &lines)).collect::<Result<Vec<_>>>()?;
        writer.write(&RecordBatch::try_new(Arc::clone(&schema), arrays)?)?;
    }
    writer.close()?;
    Ok(())
}

/// How the layout stores columns.
struct Form<'a> {
    month: &'a Month,
    /// CUR 2.0 has nulls; in the legacy layout every column is REQUIRED, a missing text '' and a
    /// missing number 0.
    optional: bool,
    /// No batch has more lines.
    longest: usize,
}

/// What a column's arrays are made of.
enum Source<'a> {
    /// The same in every line: one array for all batches.
    Same(ArrayRef),
    Words {
        words: Dictionary,
        code: fn(&Line) -> usize,
    },
    Id,
    Hour(fn(&Line, u16) -> u16),
    Number(fn(&Line) -> i64),
    Map {
        keys: Dictionary,
        values: Dictionary,
        pairs: &'a Pairs,
    },
}

/// Texts, and for each whether it counts as missing.
struct Dictionary {
    texts: ArrayRef,
    missing: Option<Vec<bool>>,
}

impl Dictionary {
    fn new(table: &[String], optional: bool) -> Self {
        let missing = table.iter().map(String::is_empty).collect::<Vec<_>>();
        let texts = Arc::new(StringArray::from_iter_values(table));
        Self { texts, missing: Some(missing).filter(|missing| optional && missing.contains(&true)) }
    }

    fn array(&self, codes: &[usize]) -> Result<ArrayRef> {
        let keys = codes.iter().map(|code| i32::try_from(*code)).collect::<Result<Vec<_>, _>>()?;
        let present = |missing: &Vec<bool>| codes.iter().map(|code| !missing[*code]).collect::<NullBuffer>();
        let keys = Int32Array::new(keys.into(), self.missing.as_ref().map(present));
        self.of_keys(keys)
    }

    /// The first text, so many times.
    fn repeated(&self, times: usize) -> Result<ArrayRef> {
        let missing = self.missing.is_some();
        self.of_keys(if missing { Int32Array::new_null(times) } else { Int32Array::from(vec![0; times]) })
    }

    fn of_keys(&self, keys: Int32Array) -> Result<ArrayRef> {
        Ok(Arc::new(DictionaryArray::<Int32Type>::try_new(keys, Arc::clone(&self.texts))?))
    }
}

impl Form<'_> {
    fn field(&self, column: &Column) -> Field {
        let data_type = match &column.cells {
            Cells::Words(_) => words_type(),
            Cells::Id => DataType::Utf8,
            Cells::Hour(_) => DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())),
            Cells::Number(_) | Cells::Zero | Cells::NoNumber => DataType::Float64,
            Cells::Map(_) | Cells::NoPairs { doubles: false } => map_type(words_type()),
            Cells::NoPairs { doubles: true } => map_type(DataType::Float64),
        };
        Field::new(&column.name, data_type, self.optional)
    }

    fn source<'a>(&self, column: &'a Column) -> Result<Source<'a>> {
        Ok(match &column.cells {
            Cells::Words(words) => {
                let table = Dictionary::new(&words.table, self.optional);
                match words.table.len() {
                    1 => Source::Same(table.repeated(self.longest)?),
                    _ => Source::Words { words: table, code: words.code },
                }
            }
            Cells::Id => Source::Id,
            Cells::Hour(hour) => Source::Hour(*hour),
            Cells::Number(number) => Source::Number(*number),
            Cells::NoNumber if self.optional => Source::Same(Arc::new(Float64Array::new_null(self.longest))),
            Cells::Zero | Cells::NoNumber => Source::Same(Arc::new(Float64Array::from(vec![double(0); self.longest]))),
            Cells::Map(pairs) => Source::Map {
                keys: Dictionary::new(&pairs.keys, false),
                values: Dictionary::new(&pairs.values, false),
                pairs,
            },
            Cells::NoPairs { doubles } => {
                let values = if *doubles { DataType::Float64 } else { words_type() };
                let entries = (new_empty_array(&words_type()), new_empty_array(&values));
                Source::Same(map(OffsetBuffer::from_repeated_length(0, self.longest), entries.0, entries.1)?)
            }
        })
    }

    fn array(&self, source: &Source<'_>, lines: &[Line]) -> Result<ArrayRef> {
        Ok(match source {
            Source::Same(array) => array.slice(0, lines.len()),
            Source::Words { words, code } => words.array(&lines.iter().map(code).collect::<Vec<_>>())?,
            Source::Id => Arc::new(ids(lines)),
            Source::Hour(hour) => {
                let ms = |line| self.month.start_ms + i64::from(hour(line, self.month.hours)) * 3_600_000;
                let times = lines.iter().map(ms).collect::<Vec<_>>();
                Arc::new(TimestampMillisecondArray::from(times).with_timezone("UTC"))
            }
            Source::Number(number) => {
                Arc::new(Float64Array::from_iter_values(lines.iter().map(|line| double(number(line)))))
            }
            Source::Map { keys, values, pairs } => {
                let (mut entries, mut lengths) = (vec![], Vec::with_capacity(lines.len()));
                for line in lines {
                    let before = entries.len();
                    (pairs.of)(line, &mut entries);
                    lengths.push(entries.len() - before);
                }
                let (key_codes, value_codes): (Vec<_>, Vec<_>) = entries.into_iter().unzip();
                map(OffsetBuffer::from_lengths(lengths), keys.array(&key_codes)?, values.array(&value_codes)?)?
            }
        })
    }
}

fn ids(lines: &[Line]) -> StringArray {
    let mut texts = StringBuilder::with_capacity(lines.len(), lines.len() * 32);
    for line in lines {
        texts.append_value(format!("{:032x}", line.id));
    }
    texts.finish()
}

fn words_type() -> DataType {
    DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
}

fn entry_fields(values: DataType) -> Fields {
    Fields::from(vec![Field::new("key", words_type(), false), Field::new("value", values, true)])
}

fn map_type(values: DataType) -> DataType {
    DataType::Map(Arc::new(Field::new("key_value", DataType::Struct(entry_fields(values)), false)), false)
}

fn map(offsets: OffsetBuffer<i32>, keys: ArrayRef, values: ArrayRef) -> Result<ArrayRef> {
    let fields = entry_fields(values.data_type().clone());
    let entries = StructArray::try_new(fields.clone(), vec![keys, values], None)?;
    let field = Arc::new(Field::new("key_value", DataType::Struct(fields), false));
    Ok(Arc::new(MapArray::try_new(field, offsets, entries, None, false)?))
}
