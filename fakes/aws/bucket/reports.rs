//! The Inventories of the bucket, one a night, and all that S3 has written by some time.

use std::path::Path;

use anyhow::{Context, Result};
use jiff::Timestamp;
use rand::RngExt;

use super::draw::{Drawn, chance_of};
use super::objects::{BucketObject, Listing};
use super::{BucketWorld, LogDelivery, LogForm, timestamp};
use crate::inventories::{Form, NewInventory, StoredObject, object};

/// Objects of a data file.
const FILE_OBJECTS: usize = 50;
const GROUP_ROWS: usize = 20;

/// An Inventory is there so many seconds after it began.
const MADE_AFTER: i64 = 2 * 3600;

/// Which reports S3 has written, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrittenReports {
    /// What S3 writes later is not there.
    pub until: Timestamp,
    pub inventories: Form,
    pub logs: LogForm,
    /// The last delivery of logs that came.
    pub deliveries: LogDelivery,
}

/// When the Inventory of a night begins: between 0:30 and 2:30, to the minute.
pub(super) fn scan(world: &BucketWorld, night: i64) -> i64 {
    let mut chance = chance_of(world, Drawn::Scans, night);
    world.calendar.second(night) + 60 * chance.random_range(30..150)
}

fn listed(object_of: &BucketObject) -> StoredObject {
    let text = |second: i64| Some(timestamp(second).strftime("%Y-%m-%dT%H:%M:%S.000Z").to_string());
    let size = i64::try_from(object_of.bytes).unwrap_or(i64::MAX);
    let created = timestamp(object_of.created).to_string();
    StoredObject {
        created: text(object_of.created),
        class: object_of.class.name().into(),
        expires: text(object_of.expires),
        ..object(&object_of.key, size, &created)
    }
}

impl BucketWorld {
    /// The Inventories from the first night of the month to the third one after the last day with
    /// uploads, in order: each lists what lies there when it begins, in several files.
    ///
    /// They tell the end of each object's lifecycle, unless the column `LifecycleExpirationDate` is
    /// put into `without`.
    pub fn inventories(&self, form: Form) -> Vec<NewInventory> {
        let inventory = |scan: &i64| {
            let is_there = |object: &&BucketObject| (object.created..object.removed).contains(scan);
            let there = self.objects.iter().filter(is_there).filter(|object| object.listing == Listing::Listed);
            let objects: Vec<StoredObject> = there.map(listed).collect();
            // an Inventory of an empty bucket has a file without objects
            let mut files: Vec<Vec<StoredObject>> =
                objects.chunks(FILE_OBJECTS).map(<[StoredObject]>::to_vec).collect();
            if files.is_empty() {
                files.push(vec![]);
            }
            let empty = NewInventory::new(&self.spec.bucket, form, &timestamp(*scan).to_string(), &[]);
            NewInventory { files, row_group_rows: GROUP_ROWS, ..empty }
        };
        self.scans.iter().map(inventory).collect()
    }

    /// Writes the reports below a folder, as `inventory/BUCKET/meter/…` and `access-logs/…`, each
    /// in the place of the one that is there. Returns the number of Inventories and of log files.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write_reports(&self, folder: &Path, written: WrittenReports) -> Result<(usize, usize)> {
        let configuration = folder.join("inventory").join(&self.spec.bucket).join("meter");
        let mut inventories = 0;
        for (inventory, scan) in self.inventories(written.inventories).iter().zip(&self.scans) {
            if scan + MADE_AFTER > written.until.as_second() {
                continue;
            }
            inventories += 1;
            inventory.write(&configuration)?;
        }
        let place = folder.join("access-logs");
        std::fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;
        let mut files = 0;
        for file in self.logs(written.logs) {
            if file.delivered > written.until || file.delivery > written.deliveries {
                continue;
            }
            files += 1;
            file.write(&place)?;
        }
        Ok((inventories, files))
    }
}
