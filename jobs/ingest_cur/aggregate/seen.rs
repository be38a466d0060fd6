//! What is seen of a bill beside its sums: its tags, products that nobody watches, and lines that
//! last too long.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::names::DictionaryMap;
use crate::ingest_cur::batch::{Batch, DAY_SECONDS, Granularity, TagColumn};
use books::usage::tag_key::TagName;

/// Names that are kept; AWS allows 500 tags in a payer account. Of more, the first ones in the
/// alphabet.
const NAMES: usize = 500;
/// Longer names are not kept; the key of a tag has 128 characters at most.
const NAME_BYTES: usize = 1024;

/// Names in a bill.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct NamesSeen(pub(crate) BTreeSet<String>);

impl NamesSeen {
    pub(crate) fn see<T: AsRef<str>>(&mut self, names: impl IntoIterator<Item = T>) {
        for name in names {
            let name = name.as_ref();
            if (1..=NAME_BYTES).contains(&name.len()) && !self.0.contains(name) {
                self.0.insert(name.to_owned());
                if self.0.len() > NAMES {
                    self.0.pop_last();
                }
            }
        }
    }
}

/// What is seen of a bill beside its sums.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The tags that its lines can have, as [`TagName::written`] writes them.
    pub(crate) tags: NamesSeen,
    /// Product codes that are not watched.
    pub(crate) unwatched: NamesSeen,
    /// Counted lines without a customer that have a tag whose key is similar to a configured one.
    pub(crate) similar_lines: u64,
    /// Counted lines of S3 without a customer and without a resource, where buckets are shared.
    pub(crate) without_resource: u64,
    /// That of the shortest interval; none where the export has no intervals.
    pub(crate) granularity: Option<Granularity>,
}

impl Seen {
    /// Adds what was seen of another part of the bill.
    pub(super) fn merge(&mut self, other: &Self) {
        self.tags.see(&other.tags.0);
        self.unwatched.see(&other.unwatched.0);
        self.similar_lines += other.similar_lines;
        self.without_resource += other.without_resource;
        self.granularity = shorter(self.granularity, other.granularity);
    }
}

/// The shorter one of two that may be missing.
pub(super) fn shorter(one: Option<Granularity>, other: Option<Granularity>) -> Option<Granularity> {
    one.into_iter().chain(other).min()
}

/// The tags of maps.
pub(super) fn tags_of(columns: &[TagColumn<'_>]) -> Vec<String> {
    let keys = columns.iter().flat_map(|column| column.tag.keys());
    keys.filter_map(TagName::of_entry).map(|tag| tag.written()).collect()
}

/// True when a line has a value of a tag whose key is similar to a configured one.
pub(super) fn has_similar_tag(batch: &Batch<'_>, row: usize) -> bool {
    batch.similar.iter().any(|text| !text.value(text.code(row)).is_empty())
        || batch.tags.iter().any(|column| column.tag.has_similar(row))
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
        let tags: Vec<String> = (0..NAMES + 50).map(|n| format!("tag{n:04}")).collect();
        let (mut there, mut back) = (NamesSeen::default(), NamesSeen::default());
        there.see(&tags);
        back.see(tags.iter().rev());
        assert_eq!((there.0.len(), &there.0), (NAMES, &back.0));
        there.see(["x".repeat(NAME_BYTES + 1), String::new(), "a".into()]);
        assert_eq!((there.0.first().map(String::as_str), there.0.len()), (Some("a"), NAMES));
    }
}
