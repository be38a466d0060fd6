//! Tag values from which no customer can be read.

use super::names::Interner;
use crate::ingest_cur::batch::{Batch, NO_CUSTOMER};
use books::units::form::{CUSTOMER_ID, is_name, name_rule};

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
    if is_name(value, CUSTOMER_ID) {
        return Ok(value);
    }
    let length = value.chars().count();
    Err(match value.chars().find(|c| c.is_control()) {
        _ if length > CUSTOMER_ID => format!("a tag value has {length} characters; AWS allows {CUSTOMER_ID}"),
        Some(c) => format!("a tag value has the control character {c:?}"),
        None => format!("the tag value `{value}` is no id of a customer: {}", name_rule(CUSTOMER_ID)),
    })
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
