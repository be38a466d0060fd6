//! Parquet bills: the columns that matter, row group by row group.
//!
//! A bill has 120 columns and more; those that matter are an eighth of the bytes. So the footer is
//! read first, then the needed column chunks of one row group at a time. No file is in memory as a
//! whole.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef};

use super::aggregate::{DESCRIPTION_COLUMNS, Origin, UsageAggregator, WantedLines};
use super::batch::{Amounts, Batch, Days, Tag, TagColumn, TextColumn};
use super::export::{FOCUS, FOCUS_COLUMN};
use super::row_groups;
use crate::data_files::column_file::{ColumnFile, GroupChunks, OpenedFile};
use crate::data_files::memory::Plan;
use crate::data_files::object_reader::Footer;
use crate::data_files::read_error::ReadError;
use crate::source::{Object, Source};
use books::usage::cost::{CURRENCY_COLUMN, CostColumn};
use books::usage::meter::Rules;
use books::usage::tag_key::{TagKeys, TagName, canonical_name};

/// The column that names the resource of a line.
const RESOURCE: &str = "line_item_resource_id";

/// The columns that are looked for beside those that every bill has.
#[derive(Clone, Debug)]
pub struct BillColumns {
    /// Of the customer tag.
    pub keys: TagKeys,
    /// What cost meters sum.
    pub costs: Vec<CostColumn>,
    /// What describes a line; empty where lines are only summed.
    pub descriptions: &'static [&'static str],
}

impl BillColumns {
    /// Those that the rules need.
    pub fn of(rules: &Rules) -> Self {
        Self { keys: TagKeys::new(&rules.tag_keys), costs: rules.cost_columns(), descriptions: &[] }
    }

    /// Those that the rules need, and those that describe a line.
    pub fn with_descriptions(rules: &Rules) -> Self {
        Self { descriptions: &DESCRIPTION_COLUMNS, ..Self::of(rules) }
    }
}

/// The places of the columns that are read.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    product: usize,
    usage_type: usize,
    line_type: usize,
    amount: usize,
    /// Read only where a cost meter sums them.
    costs: Vec<usize>,
    currency: Option<usize>,
    day: usize,
    /// Read only where there is no interval.
    end: Option<usize>,
    interval: Option<usize>,
    unit: Option<usize>,
    split_parent: Option<usize>,
    period: Option<usize>,
    tags: Vec<usize>,
    /// Columns of tags whose key is similar to a configured one.
    similar: Vec<usize>,
    /// The tags that have a column of their own in the file.
    pub(super) tag_columns: Vec<String>,
    /// In Parquet, read for the lines only that need it.
    resource: Option<usize>,
    /// Read only where lines are described.
    descriptions: Vec<Option<usize>>,
}

/// True for the canonical name of a column with all tags of a line.
pub(super) fn is_tag_map(canonical: &str) -> bool {
    matches!(canonical, "resource_tags" | "tags")
}

impl Wanted {
    /// Finds the columns by their canonical names.
    ///
    /// # Errors
    /// The names of required columns that are missing.
    pub fn find<'a>(names: impl Iterator<Item = &'a str>, columns: &BillColumns) -> Result<Self, Vec<&'static str>> {
        let BillColumns { keys, costs, descriptions } = columns;
        let names: Vec<(String, &str)> = names.map(|n| (canonical_name(n), n)).collect();
        let find = |name: &str| names.iter().position(|(n, _)| n == name);
        let mut missing = vec![];
        let mut need = |name: &'static str, place: Option<usize>| {
            place.unwrap_or_else(|| {
                missing.push(name);
                0
            })
        };
        let day = find("line_item_usage_start_date").or_else(|| find("identity_time_interval"));
        let is_tag = |(canonical, name): &(String, &str)| keys.place_of_column(name).is_some() || is_tag_map(canonical);
        let tag_columns = names.iter().filter_map(|(_, name)| Some(TagName::of_column(name)?.written())).collect();
        let interval = find("identity_time_interval");
        let wanted = Self {
            product: need("line_item_product_code", find("line_item_product_code")),
            usage_type: need("line_item_usage_type", find("line_item_usage_type")),
            line_type: need("line_item_line_item_type", find("line_item_line_item_type")),
            amount: need("line_item_usage_amount", find("line_item_usage_amount")),
            costs: costs.iter().map(|column| need(column.name(), find(column.name()))).collect(),
            currency: (!costs.is_empty()).then(|| need(CURRENCY_COLUMN, find(CURRENCY_COLUMN))),
            day: need("line_item_usage_start_date", day),
            end: find("line_item_usage_end_date").filter(|_| interval.is_none()),
            interval,
            unit: find("pricing_unit"),
            split_parent: find("split_line_item_parent_resource_id"),
            period: find("bill_billing_period_start_date"),
            tags: (0..names.len()).filter(|i| is_tag(&names[*i])).collect(),
            similar: (0..names.len()).filter(|i| keys.is_similar_column(names[*i].1)).collect(),
            tag_columns,
            resource: find(RESOURCE),
            descriptions: descriptions.iter().map(|name| find(name)).collect(),
        };
        if missing.is_empty() { Ok(wanted) } else { Err(missing) }
    }

    /// The place of the column that names the resource of a line.
    pub fn resource(&self) -> Option<usize> {
        self.resource
    }

    /// Places of all columns that each row is read for, ascending.
    pub fn places(&self) -> Vec<usize> {
        let mut places = vec![self.product, self.usage_type, self.line_type, self.amount, self.day];
        let more = [self.end, self.interval, self.unit, self.split_parent, self.period, self.currency];
        places.extend(more.into_iter().flatten());
        places.extend(&self.costs);
        places.extend(&self.tags);
        places.extend(&self.similar);
        places.extend(self.descriptions.iter().flatten());
        places.sort_unstable();
        places.dedup();
        places
    }

    /// True when no column can have the customer tag.
    pub fn lacks_tag(&self) -> bool {
        self.tags.is_empty()
    }

    /// The columns of a batch; `array` gives the array at a place of [`Wanted::find`].
    ///
    /// # Errors
    /// Name and type of a column of a wrong type.
    pub fn batch<'a>(
        &self,
        rows: usize,
        array: impl Fn(usize) -> (&'a str, &'a ArrayRef),
        keys: &TagKeys,
    ) -> Result<Batch<'a>, (String, DataType)> {
        let wrong = |place: usize| {
            let (name, array) = array(place);
            (name.to_owned(), array.data_type().clone())
        };
        let text = |place: usize| TextColumn::from_array(array(place).1).ok_or_else(|| wrong(place));
        let amounts = |place: usize| Amounts::from_array(array(place).1).ok_or_else(|| wrong(place));
        let days = |place: usize| Days::from_array(array(place).1).ok_or_else(|| wrong(place));
        let tags = self.tags.iter().map(|place| {
            let (column, values) = array(*place);
            let found = Tag::from_array(column, values, keys);
            found.map(|tag| TagColumn { column, tag }).ok_or_else(|| wrong(*place))
        });
        Ok(Batch {
            rows,
            product: text(self.product)?,
            usage_type: text(self.usage_type)?,
            line_type: text(self.line_type)?,
            unit: self.unit.map(text).transpose()?,
            split_parent: self.split_parent.map(text).transpose()?,
            tags: tags.collect::<Result<_, _>>()?,
            // they are only looked at for a note, so one of another type is no fault
            similar: self.similar.iter().filter_map(|place| TextColumn::from_array(array(*place).1)).collect(),
            amount: amounts(self.amount)?,
            costs: self.costs.iter().map(|place| amounts(*place)).collect::<Result<_, _>>()?,
            currency: self.currency.map(text).transpose()?,
            day: days(self.day)?,
            end: self.end.and_then(|place| Days::from_array(array(place).1)),
            interval: self.interval.and_then(|place| TextColumn::from_array(array(place).1)),
            period: self.period.map(days).transpose()?,
            // they decide nothing, so one of another type is no fault
            descriptions: self
                .descriptions
                .iter()
                .map(|place| place.and_then(|place| TextColumn::from_array(array(place).1)))
                .collect(),
        })
    }
}

/// A Parquet file with its footer read and its columns found.
#[derive(Clone, Debug)]
pub struct ParquetFile {
    file: Arc<ColumnFile>,
    wanted: Wanted,
    columns: BillColumns,
}

/// As [`Field`], but with text as dictionary codes.
fn with_codes(field: &FieldRef) -> FieldRef {
    let codes = || DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    let data_type = match field.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Binary | DataType::LargeBinary => codes(),
        DataType::Map(entries, sorted) => match entries.data_type() {
            DataType::Struct(parts) => {
                let parts: Vec<FieldRef> = parts.iter().map(with_codes).collect();
                let entries = Field::new(entries.name(), DataType::Struct(parts.into()), entries.is_nullable());
                DataType::Map(Arc::new(entries), *sorted)
            }
            other => other.clone(),
        },
        other => other.clone(),
    };
    Arc::new(Field::new(field.name(), data_type, field.is_nullable()))
}

impl ParquetFile {
    /// Decodes the footer and finds the columns. None for a file without rows: AWS leaves such
    /// files behind when a delivery needs fewer files than the one before.
    pub(super) fn open(
        source: Arc<dyn Source>,
        object: Object,
        footer: &Footer,
        columns: BillColumns,
        limit: u64,
    ) -> Result<Option<Self>, ReadError> {
        let Some(opened) = OpenedFile::open(source, object, footer)? else { return Ok(None) };
        let fields = opened.fields().clone();
        let names = || fields.iter().map(|f| f.name().as_str());
        let missing = |missing: Vec<&str>| opened.broken("", missing_columns(&missing, names()));
        let wanted = Wanted::find(names(), &columns).map_err(missing)?;
        let places = wanted.places();
        let coded =
            fields.iter().enumerate().map(|(i, f)| if places.contains(&i) { with_codes(f) } else { Arc::clone(f) });
        let file = opened.decoded_as(coded.collect(), limit)?;
        let empty = RecordBatch::new_empty(Arc::clone(file.schema()));
        let array = |place: usize| (file.schema().field(place).name().as_str(), empty.column(place));
        // a column without a value may have any type: whether it has one is seen when it is decoded
        if let Err((column, data_type)) = wanted.batch(0, array, &columns.keys) {
            return Err(file.broken(&format!(", column {column}"), wrong_type(&data_type)));
        }
        Ok(Some(Self { file: Arc::new(file), wanted, columns }))
    }

    pub fn row_groups(&self) -> usize {
        self.file.row_groups()
    }

    pub fn rows(&self, group: usize) -> u64 {
        self.file.rows(group)
    }

    pub fn object(&self) -> &Object {
        &self.file.object
    }

    pub fn lacks_tag(&self) -> bool {
        self.wanted.lacks_tag()
    }

    /// Bytes that `ParquetFile::fetch` reads into memory for a row group.
    pub fn needed_bytes(&self, group: usize) -> u64 {
        self.file.needed_bytes(group, &self.wanted.places())
    }

    /// The row groups that can have one of these lines, by the file's statistics.
    pub(super) fn groups_with(&self, footer: &Footer, wanted: &WantedLines) -> Result<Vec<usize>, ReadError> {
        let places = [self.wanted.tags.clone(), vec![self.wanted.day]].concat();
        let statistics = self.file.statistics(footer, &places)?;
        let day = self.file.schema().field(self.wanted.day).data_type();
        let is_erased = wanted.erased.is_pseudonym(&wanted.customer);
        let can = |group: &usize| {
            let of = |place: &usize| statistics.of(*group, *place);
            // the file has the id that was erased
            (is_erased || self.wanted.tags.iter().any(|tag| row_groups::can_have_text(of(tag), &wanted.customer)))
                && row_groups::can_have_day(of(&self.wanted.day), day, wanted)
        };
        Ok((0..self.row_groups()).filter(can).collect())
    }

    /// Fetches the needed column chunks of a row group.
    pub(super) async fn fetch(&self, group: usize) -> Result<GroupChunks, ReadError> {
        Arc::clone(&self.file).fetch(group, self.wanted.places()).await
    }

    /// Decodes a row group into the aggregator and returns how many rows a meter counted. CPU work;
    /// it waits for nothing.
    ///
    /// # Errors
    /// The first column that cannot be decoded.
    pub(super) fn aggregate(
        &self,
        chunks: &GroupChunks,
        plan: &Plan,
        aggregator: &mut UsageAggregator,
    ) -> Result<u64, ReadError> {
        let Self { file, wanted, columns: BillColumns { keys, .. } } = self;
        let before = aggregator.counted_rows();
        aggregator.seen.tags.see(&wanted.tag_columns);
        let places = wanted.places();
        chunks.decode(plan, |first_row, batch| {
            let array = |place: usize| {
                let at = places.binary_search(&place).unwrap_or(0);
                (file.schema().field(place).name().as_str(), batch.column(at))
            };
            let columns = wanted.batch(batch.num_rows(), array, keys);
            let columns = columns.map_err(|(column, t)| chunks.broken(Some(&column), &wrong_type(&t)))?;
            let origin = Origin {
                file: &file.object.key,
                row_group: Some(chunks.group()),
                place: &|row| u64::try_from(first_row + row).unwrap_or(0),
                resource: &|_| None,
            };
            aggregator.add(&columns, &origin);
            aggregator.too_much().map_or(Ok(()), |why| Err(chunks.broken(None, &why)))
        })?;
        Ok(aggregator.counted_rows() - before)
    }

    /// Bytes that [`ParquetFile::fetch_resources`] reads into memory for a row group.
    pub(super) fn resource_bytes(&self, group: usize) -> u64 {
        self.wanted.resource.map_or(0, |place| self.file.needed_bytes(group, &[place]))
    }

    /// Fetches the column that names the resource of each line; none for a file without it.
    pub(super) async fn fetch_resources(&self, group: usize) -> Result<Option<GroupChunks>, ReadError> {
        let Some(place) = self.wanted.resource.filter(|_| group < self.row_groups()) else { return Ok(None) };
        Arc::clone(&self.file).fetch(group, vec![place]).await.map(Some)
    }

    /// The resources of some rows of a row group, by row: a second look at rows that are faulty. A
    /// column that is missing, damaged or too large gives none.
    ///
    /// # Errors
    /// When the source fails.
    pub async fn resources(&self, group: usize, rows: BTreeSet<u64>) -> Result<BTreeMap<u64, String>, ReadError> {
        let fetched = match self.fetch_resources(group).await {
            Ok(Some(fetched)) => fetched,
            Ok(None) | Err(ReadError::Broken { .. }) => return Ok(BTreeMap::new()),
            Err(error) => return Err(error),
        };
        // a panic of the decoder means a damaged file
        let found = tokio::task::spawn_blocking(move || {
            let mut found = BTreeMap::new();
            let each = |row: u64, text: &str| {
                if rows.contains(&row) {
                    found.insert(row, text.to_owned());
                }
            };
            texts(&fetched, &fetched.plan().ok()?, each).ok().map(|()| found)
        });
        Ok(found.await.ok().flatten().unwrap_or_default())
    }
}

/// The texts of the one column that was fetched, row by row; empty for a row without one.
///
/// # Errors
/// When it cannot be decoded.
pub(super) fn texts(chunks: &GroupChunks, plan: &Plan, mut each: impl FnMut(u64, &str)) -> Result<(), ReadError> {
    chunks.decode(plan, |first_row, batch| {
        let column = batch.column(0);
        let texts = cast(column, &DataType::Utf8);
        let texts = texts.map_err(|_| chunks.broken(Some(RESOURCE), &wrong_type(column.data_type())))?;
        let texts = texts.as_string::<i32>();
        for at in 0..batch.num_rows() {
            let row = u64::try_from(first_row + at).unwrap_or(u64::MAX);
            each(row, if texts.is_valid(at) { texts.value(at) } else { "" });
        }
        Ok(())
    })
}

fn wrong_type(data_type: &DataType) -> String {
    format!("its type {data_type} is not one that this column can have; export the bill anew as AWS writes it")
}

/// What is missing, for a file without required columns.
pub(super) fn missing_columns<'a>(missing: &[&str], mut names: impl Iterator<Item = &'a str>) -> String {
    if names.any(|name| name == FOCUS_COLUMN) {
        return FOCUS.to_owned();
    }
    format!("there is no column {}; add it to the export", missing.join(", "))
}
