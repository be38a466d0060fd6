//! Tag values from which no customer can be read.

use super::names::Interner;
use crate::ingest_cur::batch::{Batch, NO_CUSTOMER};

/// Longest tag value that AWS allows, in characters
/// (<https://docs.aws.amazon.com/tag-editor/latest/userguide/best-practices-and-strats.html>).
const TAG_LIMIT: usize = 256;

/// Why no customer can be read from the tags of a row. The number is that of the column.
#[derive(Clone, Copy)]
pub(super) enum TagFault {
    /// The code of the value.
    Unusable(usize, i32),
    /// Two customers.
    Disagree(usize, u32, u32),
}

/// A usable value, or why it is not.
pub(super) fn checked_tag(value: &str) -> Result<&str, String> {
    if let Some(why) = value.strip_prefix(NO_CUSTOMER) {
        return Err(why.to_owned());
    }
    let length = value.chars().count();
    if length > TAG_LIMIT {
        return Err(format!("a tag value has {length} characters; AWS allows {TAG_LIMIT}"));
    }
    match value.chars().find(|c| c.is_control()) {
        Some(c) => Err(format!("a tag value has the control character {c:?}")),
        None => Ok(value),
    }
}

/// The column of an unusable tag, and why it is unusable.
pub(super) fn tag_fault(fault: TagFault, batch: &Batch<'_>, customers: &Interner) -> (String, String) {
    let (column, why) = match fault {
        TagFault::Unusable(column, code) => {
            (column, checked_tag(batch.tags[column].tag.text().value(code)).err().unwrap_or_default())
        }
        TagFault::Disagree(column, one, other) => {
            let (one, other) = (customers.text(one), customers.text(other));
            (column, format!("two spellings of the customer tag disagree: `{one}` and `{other}`"))
        }
    };
    (batch.tags[column].column.to_owned(), why)
}
