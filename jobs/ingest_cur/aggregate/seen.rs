//! What is seen of a bill beside its sums: its tags, and lines that last too long.

use std::collections::BTreeSet;

use super::names::DictionaryMap;
use crate::ingest_cur::batch::{Batch, DAY_SECONDS, TagColumn};
use books::usage::tag_key::TagName;

/// Tags of a bill that are kept by name; AWS allows 500 in a payer account. Of more, the first ones
/// in the alphabet.
const TAGS: usize = 500;
/// Longer names of tags are not kept; a key has 128 characters at most.
const TAG_BYTES: usize = 1024;

/// The tags that lines of a bill can have.
#[derive(Clone, Debug, Default)]
pub(crate) struct TagsSeen(pub(super) BTreeSet<String>);

impl TagsSeen {
    /// Notes tags, as [`TagName::written`] has them.
    pub(crate) fn see<'a>(&mut self, tags: impl IntoIterator<Item = &'a String>) {
        for tag in tags.into_iter().filter(|tag| (1..=TAG_BYTES).contains(&tag.len())) {
            if !self.0.contains(tag) {
                self.0.insert(tag.clone());
            }
            if self.0.len() > TAGS {
                self.0.pop_last();
            }
        }
    }
}

/// The tags of maps.
pub(super) fn tags_of(columns: &[TagColumn<'_>]) -> Vec<String> {
    let keys = columns.iter().flat_map(|column| column.tag.keys());
    keys.filter_map(TagName::of_entry).map(|tag| tag.written()).collect()
}

/// True when a line is of usage during more than a day: its interval is, or its usage where the
/// export has no intervals. `intervals` has 1 for long ones.
pub(super) fn is_long(batch: &Batch<'_>, row: usize, intervals: &DictionaryMap) -> bool {
    let of_interval = batch.interval.as_ref().is_some_and(|i| intervals.get(i.code(row)) == 1);
    let span = || batch.end.as_ref()?.seconds(row)?.checked_sub(batch.day.seconds(row)?);
    of_interval || span().is_some_and(|seconds| seconds > DAY_SECONDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against: the tags that are kept depend on the order in which files were read.
    #[test]
    fn of_too_many_tags_the_same_are_kept_in_any_order() {
        let tags: Vec<String> = (0..TAGS + 50).map(|n| format!("tag{n:04}")).collect();
        let (mut there, mut back) = (TagsSeen::default(), TagsSeen::default());
        there.see(&tags);
        back.see(tags.iter().rev());
        assert_eq!((there.0.len(), &there.0), (TAGS, &back.0));
        there.see(&["x".repeat(TAG_BYTES + 1), String::new(), "a".into()]);
        assert_eq!((there.0.first().map(String::as_str), there.0.len()), (Some("a"), TAGS));
    }
}
