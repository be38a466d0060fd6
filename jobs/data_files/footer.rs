//! How much memory a Parquet footer takes once it is decoded, found before it is decoded.
//!
//! A footer is thrift, in which a few bytes can stand for a large structure, or for a number of
//! children that the decoder makes room for. So it is passed over first, and its parts are counted.

use super::shape::{FOOTER, check};
use super::thrift::{Fault, Input, List, STRUCT};

/// Fields of `FileMetaData`, `SchemaElement`, `RowGroup`.
const SCHEMA: i64 = 2;
const ROW_GROUPS: i64 = 4;
const CHILDREN: i64 = 5;
const COLUMNS: i64 = 1;
/// Most elements of a schema; a bill has 120 to 600 columns.
const ELEMENTS: u64 = 20_000;
/// Levels of a schema; a bill has four.
const LEVELS: usize = 16;
/// Bytes of memory for each of these.
const ELEMENT_BYTES: u64 = 800;
const GROUP_BYTES: u64 = 400;
const CHUNK_BYTES: u64 = 600;
const OTHER_BYTES: u64 = 64;

/// Bytes that the decoded footer takes at most.
///
/// # Errors
/// When it is damaged, or more than any bill's.
pub(crate) fn decoded_bytes(footer: &[u8]) -> Result<u64, Fault> {
    check(&mut Input::new(footer), FOOTER)?;
    let mut input = Input::new(footer);
    let (mut last, mut bytes) = (0, u64::try_from(footer.len()).unwrap_or(u64::MAX / 2));
    while let Some((kind, id)) = input.field(&mut last)? {
        match id {
            SCHEMA => bytes += ELEMENT_BYTES * schema(&mut input)?,
            ROW_GROUPS => bytes += row_groups(&mut input)?,
            _ => input.skip(kind)?,
        }
    }
    Ok(bytes + OTHER_BYTES * input.passed)
}

/// The number of elements. They are a tree: each says how many of the next ones are its children.
fn schema(input: &mut Input<'_>) -> Result<u64, Fault> {
    let List { length: elements, .. } = input.list()?;
    if elements > ELEMENTS {
        return Err("its schema has more than 20,000 elements");
    }
    // children that are still to come, by level
    let mut open: Vec<u64> = vec![];
    for _ in 0..elements {
        while open.last() == Some(&0) {
            open.pop();
        }
        if let Some(left) = open.last_mut() {
            *left -= 1;
        }
        let (mut last, mut children) = (0, 0);
        while let Some((kind, id)) = input.field(&mut last)? {
            match id {
                CHILDREN => children = input.number()?,
                _ => input.skip(kind)?,
            }
        }
        let children = u64::try_from(children).ok().filter(|n| *n < elements);
        match children.ok_or("a column has more children than the schema has elements")? {
            0 => (),
            _ if open.len() == LEVELS => return Err("its schema is nested more than 16 levels deep"),
            more => open.push(more),
        }
    }
    Ok(elements)
}

fn row_groups(input: &mut Input<'_>) -> Result<u64, Fault> {
    let List { length: groups, .. } = input.list()?;
    let mut bytes = GROUP_BYTES * groups;
    for _ in 0..groups {
        let mut last = 0;
        while let Some((kind, id)) = input.field(&mut last)? {
            if id != COLUMNS {
                input.skip(kind)?;
                continue;
            }
            let List { length: chunks, .. } = input.list()?;
            bytes += CHUNK_BYTES * chunks;
            // of the rest of a chunk (statistics, its path) nothing is kept
            let passed = input.passed;
            (0..chunks).try_for_each(|_| input.skip(STRUCT))?;
            input.passed = passed;
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
    use parquet::arrow::ArrowWriter;
    use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaDataReader, RowGroupMetaData};
    use parquet::file::properties::WriterProperties;

    use super::*;

    /// A footer of 40 columns and 25 row groups, with its statistics.
    fn footer() -> Vec<u8> {
        let column = |i: usize| -> (String, ArrayRef) {
            match i % 2 {
                0 => (format!("column_{i}"), Arc::new(StringArray::from(vec!["some text"; 100]))),
                _ => (format!("column_{i}"), Arc::new(Int64Array::from(vec![7; 100]))),
            }
        };
        let batch = RecordBatch::try_from_iter((0..40).map(column)).unwrap();
        let small = WriterProperties::builder().set_max_row_group_row_count(Some(4)).build();
        let mut bytes = vec![];
        let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(small)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let end = bytes.len() - 8;
        let length = u32::from_le_bytes(bytes[end..end + 4].try_into().unwrap());
        bytes[end - usize::try_from(length).unwrap()..end].to_vec()
    }

    #[test]
    fn a_decoded_footer_takes_no_more_than_was_expected() {
        let footer = footer();
        let expected = usize::try_from(decoded_bytes(&footer).unwrap()).unwrap();
        let decoded = ParquetMetaDataReader::decode_metadata(&footer).unwrap();
        assert_eq!((decoded.num_row_groups(), decoded.row_group(0).num_columns()), (25, 40));
        assert!(expected > decoded.memory_size(), "{expected} < {}", decoded.memory_size());
        assert!(expected < 4 * decoded.memory_size(), "{expected} of {}", decoded.memory_size());
        assert!(u64::try_from(size_of::<ColumnChunkMetaData>()).unwrap() < CHUNK_BYTES);
        assert!(u64::try_from(size_of::<RowGroupMetaData>()).unwrap() < GROUP_BYTES);
    }

    /// Every beginning of a footer, and every changed byte, is passed over or refused, and never
    /// taken for something huge.
    #[test]
    fn a_damaged_footer_is_refused_or_small() {
        let footer = footer();
        for at in (0..footer.len()).step_by(101) {
            assert!(decoded_bytes(&footer[..at]).is_err());
            let mut changed = footer.clone();
            changed[at] ^= 0xff;
            if let Ok(bytes) = decoded_bytes(&changed) {
                assert!(bytes < 64 * u64::try_from(footer.len()).unwrap(), "{bytes}");
            }
        }
    }
}
