//! What one customer has of a day, item by item: read from S3's reports again, to show where a
//! weight comes from.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Mutex;

use books::shared_bucket::Measure;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

/// An object, or a request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema, Serialize)]
pub struct Item {
    /// In the measure's smallest unit; a text in JSON, because it can have 39 digits.
    #[serde(serialize_with = "text")]
    #[schemars(with = "String")]
    pub amount: u128,
    /// As far as it is text.
    pub key: String,
    /// The version of an object, or the id of a request.
    pub id: String,
    /// The storage class of an object, or the operation of a request.
    pub kind: String,
    /// Bytes of an object, or those that a request sent.
    pub bytes: u64,
    /// When the object was made, or the request.
    pub at: Timestamp,
    /// For how many seconds of the day the object is billed; 0 for requests.
    pub seconds: u64,
}

fn text<S: serde::Serializer>(amount: &u128, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(amount)
}

/// The items that are asked for.
#[derive(Clone, Debug)]
pub struct WantedItems {
    /// Empty for what is nobody's.
    pub customer: String,
    pub measure: Measure,
    /// The storage class; empty for requests.
    pub class: String,
    /// The largest so many are kept.
    pub most: usize,
}

/// The items that were found.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize)]
pub struct FoundItems {
    /// Digest of the reports that they were read from.
    pub digest: String,
    /// The largest first.
    pub items: Vec<Item>,
}

/// Collects items, from many threads and in any order.
#[derive(Debug)]
pub(crate) struct ItemList {
    pub(crate) wanted: WantedItems,
    found: Mutex<BTreeSet<Reverse<Item>>>,
}

impl ItemList {
    pub(crate) fn new(wanted: WantedItems) -> Self {
        Self { wanted, found: Mutex::default() }
    }

    /// Keeps an item if it is among the largest. The same item counts once.
    pub(crate) fn add(&self, item: Item) {
        let Ok(mut found) = self.found.lock() else { return };
        if item.amount > 0 {
            found.insert(Reverse(item));
            if found.len() > self.wanted.most {
                found.pop_last();
            }
        }
    }

    pub(crate) fn largest(&self) -> Vec<Item> {
        self.found.lock().map(|found| found.iter().map(|item| item.0.clone()).collect()).unwrap_or_default()
    }
}
