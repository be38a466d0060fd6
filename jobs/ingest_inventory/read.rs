//! Reading a day: its Inventories one after another, the files of each in parallel, in bounded
//! memory.

use std::sync::{Arc, Mutex};

use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::OwnedSemaphorePermit;

use super::csv_rows;
use super::intervals::BilledDay;
use super::manifest::{Inventory, InventoryFile, InventoryFormat};
use super::parquet_rows::ParquetRows;
use super::seen::SeenObjects;
use super::tally::{DayObjects, Scan, Tally};
use crate::context::{ReadLimits, SharedBucket};
use crate::data_files::budget::Budget;
use crate::data_files::column_file;
use crate::data_files::object_reader::Footer;
use crate::data_files::read_error::ReadError;
use crate::shared_bucket::items::ItemList;
use crate::source::{Object, Source, SourceError};
use books::shared_bucket::{DayCounts, Weight};

/// Files that are looked up and opened ahead.
const OPEN_AHEAD: usize = 4;
/// Bytes that a row group may take, fetched and decoded. Writers of S3 make groups of 128 MiB.
const LARGEST_GROUP: u64 = 256 << 20;

/// A day that is to be read.
pub(super) struct DayToRead<'a> {
    pub(super) source: &'a Arc<dyn Source>,
    pub(super) bucket: &'a SharedBucket,
    /// Its first second since 1970.
    pub(super) start: i64,
    /// The newest first.
    pub(super) inventories: &'a [&'a Inventory],
    /// Of all that the weights follow from.
    pub(super) digest: [u8; 32],
    /// Whose objects are listed one by one.
    pub(super) items: Option<Arc<ItemList>>,
}

/// Why a day cannot be read.
#[derive(Debug)]
pub(super) struct Unreadable {
    pub(super) error: ReadError,
    /// The digest of the Inventory that is damaged, if it is one.
    pub(super) inventory: Option<String>,
}

/// A file that is about to be read.
enum OpenedFile {
    Parquet { object: Object, footer: Footer },
    Csv { object: Object, listed: InventoryFile, columns: Vec<String> },
}

/// A piece of an Inventory that is read by itself.
enum Piece {
    Group { rows: Arc<ParquetRows>, group: usize, footer: Arc<OwnedSemaphorePermit> },
    Csv { object: Object, listed: InventoryFile, columns: Vec<String> },
}

/// What the pieces of a day share.
struct Readers {
    source: Arc<dyn Source>,
    objects: Arc<DayObjects>,
    budget: Budget,
    largest_group: u64,
    /// Threads that add the rows of a row group.
    adders: usize,
    pool: Mutex<Vec<Tally>>,
}

/// Reads a day.
///
/// # Errors
/// When an Inventory is not whole or is damaged, or the source fails.
pub(super) async fn read_day(day: DayToRead<'_>, limits: &ReadLimits) -> Result<(DayCounts, Vec<Weight>), Unreadable> {
    let DayToRead { source, bucket, start, inventories, digest, items } = day;
    let all = |has: fn(&Inventory) -> bool| inventories.iter().all(|inventory| has(inventory));
    let mut key = [0; 16];
    key.copy_from_slice(&digest[..16]);
    let objects = Arc::new(DayObjects {
        day: BilledDay { start, expire_days: bucket.expire_days },
        customers: bucket.customers.clone(),
        has_versions: all(|inventory| inventory.has_versions),
        has_etags: all(|inventory| inventory.has_etags),
        // who names objects cannot know the MD5 of the list that they will be in
        seen: SeenObjects::new(&key),
        items,
    });
    let readers = Arc::new(Readers {
        source: Arc::clone(source),
        objects: Arc::clone(&objects),
        budget: Budget::new(limits),
        largest_group: limits.largest_group().max(LARGEST_GROUP),
        adders: limits.parallel.max(1),
        pool: Mutex::default(),
    });
    let mut files = 0;
    for (number, inventory) in inventories.iter().enumerate() {
        let Ok(number) = u8::try_from(number) else {
            let why = "there are more than 256 Inventories of three days; remove copies".to_owned();
            let error = ReadError::Broken { file: inventory.name.clone(), place: String::new(), why };
            return Err(Unreadable { error, inventory: None });
        };
        let scan = Scan { number, began_at: inventory.scanned_at.as_second() };
        let read = Arc::clone(&readers).read(inventory, scan, limits.parallel.max(1)).await;
        read.map_err(|error| Unreadable { error, inventory: Some(inventory.digest.clone()) })?;
        files += inventory.files.len();
    }
    let mut whole = Tally::new(objects);
    let tallies = readers.pool.lock().map(|mut pool| std::mem::take(&mut *pool)).unwrap_or_default();
    for tally in tallies {
        let broken = |why| ReadError::Broken { file: bucket.name.clone(), place: String::new(), why };
        whole.merge(tally).map_err(|why| Unreadable { error: broken(why), inventory: None })?;
    }
    let (found, weights) = whole.finish();
    Ok((DayCounts { files: u64::try_from(files).unwrap_or(u64::MAX), ..found }, weights))
}

impl Readers {
    fn take(&self) -> Tally {
        let pooled = self.pool.lock().ok().and_then(|mut pool| pool.pop());
        pooled.unwrap_or_else(|| Tally::new(Arc::clone(&self.objects)))
    }

    fn give_back(&self, tally: Tally) {
        if let Ok(mut pool) = self.pool.lock() {
            pool.push(tally);
        }
    }

    /// Reads all files of an Inventory.
    async fn read(self: Arc<Self>, inventory: &Inventory, scan: Scan, parallel: usize) -> Result<(), ReadError> {
        let opened: Vec<_> =
            inventory.files.iter().map(|file| Arc::clone(&self).open(inventory, file.clone())).collect();
        let opened = stream::iter(opened).buffered(OPEN_AHEAD);
        let pieces = opened.and_then(|opened| Arc::clone(&self).pieces(opened));
        let pieces = pieces.map_ok(|pieces| stream::iter(pieces.into_iter().map(Ok))).try_flatten();
        let added = pieces.map_ok(|piece| Arc::clone(&self).add(piece, scan)).try_buffer_unordered(parallel * 2);
        added.try_collect::<()>().await
    }

    /// The file as it is now, if it is the one that the manifest names.
    async fn look(&self, inventory: &Inventory, file: &InventoryFile) -> Result<Object, ReadError> {
        let broken = |why: String| {
            let file = self.source.name(&file.key);
            ReadError::Broken { file, place: String::new(), why }
        };
        let object = match self.source.head(&file.key).await {
            Err(SourceError::Missing(_)) => {
                return Err(broken(format!(
                    "it does not exist, and {} names it; copy it anew from S3. If a rule removes old Inventories, it \
                     must keep them for two weeks",
                    inventory.name
                )));
            }
            object => object?,
        };
        if object.size != file.size {
            return Err(broken(format!(
                "it has {} bytes, and {} says {}; it is not whole, or another file: copy it anew from S3",
                object.size, inventory.name, file.size
            )));
        }
        Ok(object)
    }

    async fn open(self: Arc<Self>, inventory: &Inventory, file: InventoryFile) -> Result<OpenedFile, ReadError> {
        let object = self.look(inventory, &file).await?;
        if let InventoryFormat::Csv(columns) = &inventory.format {
            return Ok(OpenedFile::Csv { object, listed: file, columns: columns.clone() });
        }
        let footer = column_file::footer(&self.source, &object).await?;
        Ok(OpenedFile::Parquet { object, footer })
    }

    /// The pieces of a file. Footers wait for memory in the order of the files, so that the one
    /// that is needed next never waits for one that is needed later.
    async fn pieces(self: Arc<Self>, opened: OpenedFile) -> Result<Vec<Piece>, ReadError> {
        let (object, footer) = match opened {
            OpenedFile::Csv { object, listed, columns } => return Ok(vec![Piece::Csv { object, listed, columns }]),
            OpenedFile::Parquet { object, footer } => (object, footer),
        };
        let permit = Arc::new(self.budget.footer(&self.source.name(&object.key), &footer).await?);
        let rows = ParquetRows::open(Arc::clone(&self.source), object, &footer, self.largest_group)?;
        let Some(rows) = rows.map(Arc::new) else { return Ok(vec![]) };
        let piece = |group| Piece::Group { rows: Arc::clone(&rows), group, footer: Arc::clone(&permit) };
        Ok((0..rows.row_groups()).map(piece).collect())
    }

    async fn add(self: Arc<Self>, piece: Piece, scan: Scan) -> Result<(), ReadError> {
        match piece {
            Piece::Csv { object, listed, columns } => {
                let _memory = self.budget.memory(csv_rows::BYTES).await?;
                let _processor = self.budget.processor().await?;
                let tally = csv_rows::add(&self.source, (object, listed), columns, scan, self.take()).await?;
                self.give_back(tally);
            }
            Piece::Group { rows, group, footer } => {
                let _memory = self.budget.group_memory(rows.needed_bytes(group)).await?;
                let chunks = rows.fetch(group).await?;
                let readers = Arc::clone(&self);
                let adding = self.budget.decode(chunks, move |chunks, plan| {
                    let mut tallies: Vec<Tally> = (0..readers.adders).map(|_| readers.take()).collect();
                    rows.add(chunks, plan, scan, &mut tallies)?;
                    tallies.into_iter().for_each(|tally| readers.give_back(tally));
                    Ok(())
                });
                adding.await?;
                drop(footer);
            }
        }
        Ok(())
    }
}
