//! What is written is read again by simpler means: whole columns by name, amounts as text.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use arrow::array::{Array, Float64Array, MapArray, RecordBatch, StringArray, StructArray};
use flate2::read::GzDecoder;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::Repetition;
use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::Value;

use crate::amount::ONE;
use crate::bucket::{BillState, BucketBill, BucketShares, BucketSpec, BucketWorld};
use crate::{Export, FileKind, Layout, MeterTotal, Spec, columns, legacy, write};

const LAYOUTS: [Layout; 2] = [Layout::Legacy, Layout::Cur2];

fn spec(layout: Layout) -> Spec {
    Spec { layout, rows: 3000, days: 12, row_group_rows: 700, ..Spec::default() }
}

fn made(spec: &Spec) -> Result<(tempfile::TempDir, Export)> {
    let folder = tempfile::tempdir()?;
    let export = write(folder.path(), spec)?;
    Ok((folder, export))
}

/// Sums rows of product, usage type, line type, customer and amount the plain way.
fn sum(rows: &[[String; 5]]) -> Result<Vec<MeterTotal>> {
    let mut totals = BTreeMap::new();
    for [product, usage_type, line_type, customer, amount] in rows {
        let meter = match (product.as_str(), usage_type.as_str()) {
            ("AmazonChime", "USE1-Meetings-AttendeeMinutes" | "EUC1-Meetings-AttendeeMinutes") => "chime_minutes",
            ("AmazonS3", "TimedStorage-ByteHrs" | "EUC1-TimedStorage-ByteHrs" | "TimedStorage-SIA-ByteHrs") => {
                "storage_gb"
            }
            ("AmazonS3", "DataTransfer-Out-Bytes") => "transfer_gb",
            _ => continue,
        };
        let amount = format!("{:.10}", amount.parse::<f64>()?).replace('.', "").parse::<i128>()?;
        let nothing = MeterTotal { meter, attributed: 0, unattributed: 0, excluded: 0, lines: 0 };
        let total = totals.entry(meter).or_insert(nothing);
        total.lines += 1;
        match (line_type.as_str(), customer.as_str()) {
            ("Usage", "") => total.unattributed += amount,
            ("Usage", _) => total.attributed += amount,
            ("Credit", _) => total.excluded += amount,
            _ => anyhow::bail!("a {line_type} line of {product}"),
        }
    }
    Ok(totals.into_values().collect())
}

fn texts(batch: &RecordBatch, name: &str) -> Result<Vec<String>> {
    let column = batch.column_by_name(name).with_context(|| format!("no column {name}"))?;
    let column = column.as_any().downcast_ref::<StringArray>().context("no texts")?;
    Ok(column.iter().map(|text| text.unwrap_or_default().to_owned()).collect())
}

fn customers(batch: &RecordBatch) -> Result<Vec<String>> {
    let Some(map) = batch.column_by_name("resource_tags") else {
        return texts(batch, "resource_tags_user_chitchatter_customer_id");
    };
    let map = map.as_any().downcast_ref::<MapArray>().context("no map")?;
    let customer = |entries: StructArray| -> Result<String> {
        let texts = |at: usize| entries.column(at).as_any().downcast_ref::<StringArray>().context("no texts");
        let (keys, values) = (texts(0)?, texts(1)?);
        let found = keys.iter().position(|key| key == Some("user_chitchatter_customer_id"));
        Ok(found.map_or(String::new(), |at| values.value(at).to_owned()))
    };
    (0..map.len()).map(|row| customer(map.value(row))).collect()
}

fn parquet_rows(path: &Path) -> Result<Vec<[String; 5]>> {
    let mut rows = vec![];
    for batch in ParquetRecordBatchReaderBuilder::try_new(File::open(path)?)?.build()? {
        let batch = batch?;
        let [products, usage_types, line_types] =
            ["product_code", "usage_type", "line_item_type"].map(|name| texts(&batch, &format!("line_item_{name}")));
        let (products, usage_types, line_types) = (products?, usage_types?, line_types?);
        let amounts = batch.column_by_name("line_item_usage_amount").context("no amounts")?;
        let amounts = amounts.as_any().downcast_ref::<Float64Array>().context("no doubles")?;
        let cells = products.into_iter().zip(usage_types).zip(line_types).zip(customers(&batch)?).zip(amounts.values());
        rows.extend(cells.map(|((((product, usage), line), customer), amount)| {
            [product, usage, line, customer, amount.to_string()]
        }));
    }
    Ok(rows)
}

/// The cells of a line of CSV.
fn cells(line: &str) -> Vec<String> {
    let (mut cells, mut quoted) = (vec![String::new()], false);
    for (at, letter) in line.char_indices() {
        match letter {
            '"' => {
                quoted = !quoted;
                if quoted && line[..at].ends_with('"') {
                    cells.last_mut().unwrap().push('"');
                }
            }
            ',' if !quoted => cells.push(String::new()),
            letter => cells.last_mut().unwrap().push(letter),
        }
    }
    cells
}

fn csv_rows(path: &Path) -> Result<Vec<[String; 5]>> {
    let mut text = String::new();
    if path.extension().is_some_and(|end| end == "gz") {
        GzDecoder::new(File::open(path)?).read_to_string(&mut text)?;
    } else {
        File::open(path)?.read_to_string(&mut text)?;
    }
    let header = cells(text.lines().next().context("no header")?);
    let legacy = header.iter().any(|name| name == "lineItem/UsageAmount");
    let names = match legacy {
        true => ["lineItem/ProductCode", "lineItem/UsageType", "lineItem/LineItemType"],
        false => ["line_item_product_code", "line_item_usage_type", "line_item_line_item_type"],
    };
    let [tag, amount] = match legacy {
        true => ["resourceTags/user:chitchatter-customer-id", "lineItem/UsageAmount"],
        false => ["resource_tags", "line_item_usage_amount"],
    };
    let place = |name: &str| header.iter().position(|other| other == name).with_context(|| format!("no {name}"));
    let mut rows = vec![];
    for line in text.lines().skip(1) {
        let cells = cells(line);
        ensure!(cells.len() == header.len(), "{} cells, {} columns", cells.len(), header.len());
        let [product, usage, kind] = names.map(|name| place(name).map(|at| cells[at].clone()));
        let mut customer = cells[place(tag)?].clone();
        if !legacy {
            let tags: Value = serde_json::from_str(&customer)?;
            customer = tags["user_chitchatter_customer_id"].as_str().unwrap_or_default().into();
        }
        rows.push([product?, usage?, kind?, customer, cells[place(amount)?].clone()]);
    }
    Ok(rows)
}

fn all(export: &Export, rows: fn(&Path) -> Result<Vec<[String; 5]>>) -> Result<Vec<[String; 5]>> {
    Ok(export.files.iter().map(|file| rows(file)).collect::<Result<Vec<_>>>()?.concat())
}

#[test]
fn totals_are_those_of_the_files_in_every_layout_and_format() -> Result<()> {
    let mut seen = BTreeSet::new();
    for layout in LAYOUTS {
        for kind in [FileKind::Parquet, FileKind::Csv, FileKind::CsvGz] {
            let (_folder, export) = made(&Spec { kind, files: 3, ..spec(layout) })?;
            let rows = all(&export, if kind == FileKind::Parquet { parquet_rows } else { csv_rows })?;
            assert_eq!(rows.len(), 3000);
            assert_eq!(sum(&rows)?, export.totals, "{layout:?} {kind:?}");
            assert!(export.totals.iter().all(|total| total.attributed > 0 && total.unattributed > 0));
            seen.insert(format!("{:?}", export.totals));
        }
    }
    assert_eq!(seen.len(), 1, "one seed, one bill");
    Ok(())
}

/// Reads the columns of a file that say what a line of a bucket is: resource, usage type, customer
/// and amount.
fn of_bucket(path: &Path, bucket: &str) -> Result<Vec<[String; 4]>> {
    let mut found = vec![];
    for batch in ParquetRecordBatchReaderBuilder::try_new(File::open(path)?)?.build()? {
        let batch = batch?;
        let (resources, usage) = (texts(&batch, "line_item_resource_id")?, texts(&batch, "line_item_usage_type")?);
        let amounts = batch.column_by_name("line_item_usage_amount").context("no amounts")?;
        let amounts = amounts.as_any().downcast_ref::<Float64Array>().context("no doubles")?;
        let customers = customers(&batch)?;
        for (row, resource) in resources.iter().enumerate().filter(|(_, resource)| *resource == bucket) {
            let amount = format!("{:.10}", amounts.value(row));
            found.push([resource.clone(), usage[row].clone(), customers[row].clone(), amount]);
        }
    }
    Ok(found)
}

#[test]
fn the_lines_of_a_shared_bucket_are_in_the_bill_beside_the_usual_ones() -> Result<()> {
    for layout in LAYOUTS {
        let plain = spec(layout);
        let shares = BucketShares { unfinished: 50, ..BucketShares::FAITHFUL };
        let world = BucketWorld::new(BucketSpec { shares, days: 31, ..BucketSpec::beside(&plain, "all-uploads") })?;
        let bill = world.bill(BillState::Restated)?;
        let ours = bill.lines.iter().filter(|line| line.day < 12);
        let ours: Vec<[String; 4]> = ours
            .map(|line| {
                let amount = format!("{}.{:010}", line.amount / ONE, line.amount % ONE);
                ["all-uploads".into(), line.usage_type().into(), String::new(), amount]
            })
            .collect();
        assert!(ours.len() > 12 * 26, "{}", ours.len());
        let with = |shared_bucket: Option<BucketBill>| Spec { shared_bucket, files: 3, ..plain.clone() };
        let ((_one, usual), (_other, export)) = (made(&with(None))?, made(&with(Some(bill.clone())))?);
        assert_eq!(export.rows, usual.rows + u64::try_from(ours.len())?);
        let found = export.files.iter().map(|file| of_bucket(file, "all-uploads")).collect::<Result<Vec<_>>>()?;
        assert_eq!(found.concat(), ours, "{layout:?}");
        let rows = all(&export, parquet_rows)?;
        assert_eq!(sum(&rows)?, export.totals);
        assert_eq!(rows[..3000], all(&usual, parquet_rows)?, "the usual lines are as they were");
        for kind in [FileKind::Csv, FileKind::CsvGz] {
            let (_folder, csv) = made(&Spec { kind, ..with(Some(bill.clone())) })?;
            assert_eq!(csv.totals, export.totals);
            assert_eq!(all(&csv, csv_rows)?.len(), rows.len());
        }
    }
    Ok(())
}

#[test]
fn the_same_seed_gives_the_same_bytes() -> Result<()> {
    for layout in LAYOUTS {
        for kind in [FileKind::Parquet, FileKind::CsvGz] {
            let spec = Spec { kind, ..spec(layout) };
            let ((_one, one), (_other, other)) = (made(&spec)?, made(&spec)?);
            let bytes = |export: &Export| {
                let paths = export.files.iter().chain([&export.manifest]);
                paths.map(fs::read).collect::<Result<Vec<_>, _>>()
            };
            assert_eq!(bytes(&one)?, bytes(&other)?);
            let (_third, third) = made(&Spec { seed: 8, ..spec })?;
            assert_ne!(bytes(&one)?, bytes(&third)?);
        }
    }
    Ok(())
}

/// All files below a folder, as keys.
fn keys(folder: &Path, below: &Path) -> Result<BTreeSet<String>> {
    let mut keys = BTreeSet::new();
    for entry in fs::read_dir(below)? {
        let path = entry?.path();
        match path.is_dir() {
            true => keys.append(&mut self::keys(folder, &path)?),
            false => _ = keys.insert(path.strip_prefix(folder)?.display().to_string()),
        }
    }
    Ok(keys)
}

fn manifest(export: &Export) -> Result<Value> {
    Ok(serde_json::from_slice(&fs::read(&export.manifest)?)?)
}

#[test]
fn keys_and_manifests_are_those_of_aws() -> Result<()> {
    let (folder, export) = made(&Spec { files: 1, ..spec(Layout::Cur2) })?;
    let own = format!("BILLING_PERIOD=2026-10/2026-10-13T00:00:42.000Z-{}", export.version);
    let data = format!("cur/bill/data/{own}/bill-00001.snappy.parquet");
    let newest = "cur/bill/metadata/BILLING_PERIOD=2026-10/bill-Manifest.json".to_owned();
    let copy = format!("cur/bill/metadata/{own}/bill-Manifest.json");
    assert_eq!(keys(folder.path(), folder.path())?, BTreeSet::from([data.clone(), newest, copy]));
    assert_eq!(manifest(&export)?["dataFiles"], Value::from(vec![format!("s3://billing/{data}")]));
    assert_eq!(manifest(&export)?["executionId"], export.version);

    let (folder, export) = made(&Spec { files: 1, ..spec(Layout::Legacy) })?;
    let own = format!("cur/bill/20261001-20261101/{}", export.version);
    let data = format!("{own}/bill-00001.snappy.parquet");
    let newest = "cur/bill/20261001-20261101/bill-Manifest.json".to_owned();
    let copy = format!("{own}/bill-Manifest.json");
    assert_eq!(keys(folder.path(), folder.path())?, BTreeSet::from([data.clone(), newest, copy]));
    assert_eq!(manifest(&export)?["reportKeys"], Value::from(vec![data]));
    assert_eq!(manifest(&export)?["assemblyId"], export.version);
    assert_eq!(manifest(&export)?["billingPeriod"]["end"], "20261101T000000.000Z");
    assert_eq!(manifest(&export)?["columns"][0], serde_json::json!({ "category": "identity", "name": "LineItemId" }));
    Ok(())
}

#[test]
fn an_overwriting_delivery_leaves_surplus_files() -> Result<()> {
    for (layout, kind, files) in [
        (Layout::Cur2, FileKind::Parquet, "bill/data/BILLING_PERIOD=2026-12/bill-0000#.snappy.parquet"),
        (Layout::Cur2, FileKind::CsvGz, "bill/data/BILLING_PERIOD=2026-12/bill-0000#.csv.gz"),
        (Layout::Legacy, FileKind::Parquet, "bill/bill/year=2026/month=12/bill-0000#.snappy.parquet"),
        (Layout::Legacy, FileKind::CsvGz, "bill/20261201-20270101/bill-#.csv.gz"),
    ] {
        let first = Spec { kind, create_new: false, prefix: String::new(), month: 12, ..spec(layout) };
        let folder = tempfile::tempdir()?;
        write(folder.path(), &first)?;
        let second = write(folder.path(), &Spec { files: 1, restated: 1, ..first })?;
        let (one, two) = (files.replace('#', "1"), files.replace('#', "2"));
        let there = keys(folder.path(), folder.path())?;
        assert_eq!(there.len(), 3, "{there:?}");
        assert!(there.contains(&one) && there.contains(&two), "{there:?}");
        assert_eq!(second.files, [folder.path().join(&one)]);
        assert_eq!(second.root, folder.path().join("bill"));
        let text = fs::read_to_string(&second.manifest)?;
        assert!(text.contains(&one) && !text.contains(&two), "{text}");
    }
    Ok(())
}

#[test]
fn a_restatement_changes_a_little() -> Result<()> {
    let spec = spec(Layout::Cur2);
    let (folder, first) = made(&spec)?;
    let second = write(folder.path(), &Spec { restated: 1, ..spec.clone() })?;
    let third = write(folder.path(), &Spec { restated: 2, ..spec })?;
    assert_eq!(first.customers, second.customers);
    assert_eq!(BTreeSet::from([&first.version, &second.version, &third.version]).len(), 3);
    let (before, after) = (all(&first, parquet_rows)?, all(&second, parquet_rows)?);
    let before = before.into_iter().collect::<BTreeSet<_>>();
    let same = after.iter().filter(|row| before.contains(*row)).count();
    assert!((2700..3000).contains(&same), "{same} lines are as they were");
    assert_ne!(first.totals, second.totals);
    assert_ne!(second.totals, third.totals);
    assert!(keys(folder.path(), folder.path())?.len() == 10, "older deliveries stay");
    Ok(())
}

#[test]
fn a_later_delivery_keeps_the_earlier_days() -> Result<()> {
    let taxes = 6;
    let (_one, early) = made(&Spec { days: 4, rows: 400 + taxes, ..spec(Layout::Cur2) })?;
    let (_other, late) = made(&Spec { days: 5, rows: 500 + taxes, ..spec(Layout::Cur2) })?;
    let late = all(&late, parquet_rows)?.into_iter().collect::<BTreeSet<_>>();
    assert!(all(&early, parquet_rows)?.iter().all(|row| late.contains(row)));
    Ok(())
}

#[test]
fn columns_are_stored_as_aws_stores_them() -> Result<()> {
    for (layout, wide, tagless, count) in [
        (Layout::Legacy, true, false, 129),
        (Layout::Legacy, false, true, 26),
        (Layout::Cur2, true, false, 126),
        (Layout::Cur2, false, false, 24),
        (Layout::Cur2, true, true, 125),
    ] {
        let (_folder, export) = made(&Spec { wide, tag_column_missing: tagless, ..spec(layout) })?;
        let reader = SerializedFileReader::new(File::open(&export.files[0])?)?;
        let metadata = reader.metadata();
        assert_eq!(metadata.num_row_groups(), 3);
        assert!(metadata.file_metadata().key_value_metadata().is_none());
        let fields = metadata.file_metadata().schema_descr().root_schema().get_fields();
        let repetition = if layout == Layout::Legacy { Repetition::REQUIRED } else { Repetition::OPTIONAL };
        assert!(fields.iter().all(|field| field.get_basic_info().repetition() == repetition));
        assert_eq!(fields.len(), count, "{layout:?} {wide} {tagless}");
        assert_eq!(manifest(&export)?["columns"].as_array().map(Vec::len), Some(count));
        let tags = fields.iter().any(|field| field.name().ends_with("customer_id") || field.name() == "resource_tags");
        assert_eq!(tags, !tagless);
        assert_eq!(export.totals.iter().all(|total| total.attributed == 0), tagless);
    }
    Ok(())
}

#[test]
fn names_follow_aws_rules() {
    assert_eq!(columns::normalised("chitchatter-customer-id"), "chitchatter_customer_id");
    assert_eq!(columns::normalised("CostCenter"), "cost_center");
    assert_eq!(columns::normalised(" kubernetes.io//Service-Name "), "kubernetes_io_service_name");
    for (name, header) in [
        ("identity_line_item_id", "identity/LineItemId"),
        ("line_item_usage_amount", "lineItem/UsageAmount"),
        ("product_product_name", "product/ProductName"),
        ("product_from_location_type", "product/fromLocationType"),
        ("pricing_public_on_demand_rate", "pricing/publicOnDemandRate"),
        ("pricing_rate_id", "pricing/RateId"),
        ("reservation_reservation_a_r_n", "reservation/ReservationARN"),
    ] {
        assert_eq!(legacy::header(name), header);
    }
}

#[test]
fn impossible_bills_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for spec in [
        Spec { month: 13, ..Spec::default() },
        Spec { files: 0, ..Spec::default() },
        Spec { customers: 0, ..Spec::default() },
        Spec { share_percent: 101, ..Spec::default() },
        Spec { tag_key: "CostCenter".into(), ..Spec::default() },
        Spec { tag_key: "--".into(), ..Spec::default() },
    ] {
        assert!(write(folder.path(), &spec).is_err(), "{spec:?}");
    }
}
