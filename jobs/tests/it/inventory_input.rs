//! Inventories that cannot be read: each is named with what is wrong and what to do, and nothing is
//! stored of the days that it belongs to.

use std::path::Path;

use jobs::ingest_inventory::IngestInventory;
use jobs::job::Job;
use testkit::inventories::{BUCKET, FORMS, Form, StoredObject, gzip, object, write_manifest};

use crate::inventory::{InventoryFixture, nightly};

/// What was said of the one Inventory that cannot be read; nothing is stored of the days that it
/// belongs to.
async fn refused(world: &InventoryFixture, words: &[&str]) {
    let report = world.run().await;
    assert!(IngestInventory::needs_attention(&report));
    let said = report.not_read.join("\n");
    words.iter().for_each(|word| assert!(said.contains(word), "`{word}` is not in: {said}"));
    assert_eq!(report.not_read.len(), 1, "{said}");
    assert!(report.days_read.is_empty() && world.days().await.is_empty(), "{words:?}");
}

fn some() -> Vec<StoredObject> {
    (0..12).map(|n| object(&format!("c/ann/{n}"), 100 + n, "2026-11-19T10:00:00Z")).collect()
}

/// An Inventory whose manifest has another text.
async fn with_manifest(form: Form, change: impl Fn(&str) -> String, words: &[&str]) {
    let world = InventoryFixture::new(Some(1)).await;
    let folder = world.write(&nightly(form, 21, &some()));
    let text = std::fs::read_to_string(folder.join("manifest.json")).unwrap();
    let changed = change(&text);
    assert_ne!(text, changed, "{words:?}");
    write_manifest(&folder, &changed).unwrap();
    refused(&world, &[words, &["2026-11-21T01-00Z/manifest.json"]].concat()).await;
    // the next night is another Inventory
    world.now_is_good(&folder).await;
}

impl InventoryFixture {
    /// Without the bad folder, and with a good one in its place, the days are read.
    async fn now_is_good(&self, bad: &Path) {
        std::fs::remove_dir_all(bad).unwrap();
        self.write(&nightly(Form::Parquet, 21, &some()));
        self.run_well().await;
        assert!(!self.weights().await.is_empty());
    }
}

#[tokio::test]
async fn a_manifest_that_is_wrong_is_named_with_what_to_do() {
    let replace = |from: &'static str, to: &'static str| move |text: &str| text.replace(from, to);
    with_manifest(Form::Csv, replace("acme-files\"", "other\""), &["lists the bucket `other`", "…/acme-files/"]).await;
    with_manifest(Form::Csv, replace("2016-11-30", "2031-01-01"), &["version is `2031-01-01`", "newer meter"]).await;
    with_manifest(Form::Parquet, replace("\"Parquet\"", "\"ORC\""), &["ORC", "change", "Parquet"]).await;
    with_manifest(Form::Parquet, replace("\"Parquet\"", "\"JSON\""), &["`json`", "change"]).await;
    with_manifest(Form::Csv, replace(", Size", ""), &["no Size", "add the field Size"]).await;
    with_manifest(Form::Parquet, replace(" last_modified_date", " x"), &["no LastModifiedDate", "add"]).await;
    with_manifest(Form::Csv, replace("\"creationTimestamp\":\"", "\"creationTimestamp\":\"x"), &["creationTimestamp"])
        .await;
    with_manifest(Form::Csv, replace("\"17", "\"18"), &["creationTimestamp is 2030", "folder"]).await;
    with_manifest(Form::Csv, |text| text[..text.len() / 2].to_owned(), &["no manifest of an S3 Inventory"]).await;
    with_manifest(Form::Csv, |_| "\u{0}garbage".into(), &["no manifest of an S3 Inventory"]).await;
    with_manifest(Form::Csv, replace("/data/", "/data/../../"), &["leaves the Inventory's folder"]).await;
    with_manifest(Form::Csv, replace("/data/", "/elsewhere/"), &["in no folder `data`"]).await;
    with_manifest(Form::Csv, replace("MD5checksum\":\"", "MD5checksum\":\"zz"), &["MD5checksum", "no MD5"]).await;
    let twice = |text: &str| {
        let mut manifest: serde_json::Value = serde_json::from_str(text).unwrap();
        let first = manifest["files"][0].clone();
        manifest["files"].as_array_mut().unwrap().push(first);
        manifest.to_string()
    };
    with_manifest(Form::Csv, twice, &["twice"]).await;
}

#[tokio::test]
async fn an_inventory_counts_from_its_checksum_on() {
    let world = InventoryFixture::new(Some(1)).await;
    let folder = world.write(&nightly(Form::Parquet, 21, &some()));
    let (manifest, checksum) = (folder.join("manifest.json"), folder.join("manifest.checksum"));
    let sum = std::fs::read(&checksum).unwrap();
    std::fs::remove_file(&checksum).unwrap();
    refused(&world, &["manifest.json", "manifest.checksum", "is missing", "next run"]).await;
    std::fs::write(&checksum, "0123456789abcdef0123456789abcdef").unwrap();
    refused(&world, &["manifest.json", "its MD5 is", "0123456789abcdef0123456789abcdef", "Copy both anew"]).await;
    std::fs::write(&checksum, "no sum").unwrap();
    refused(&world, &["manifest.checksum", "no MD5", "copy it anew"]).await;
    std::fs::write(&checksum, &sum).unwrap();
    let text = std::fs::read(&manifest).unwrap();
    std::fs::remove_file(&manifest).unwrap();
    // S3 has not written it yet
    let report = world.run_well().await;
    assert!(report.days_read.is_empty());
    std::fs::write(&manifest, text).unwrap();
    std::fs::write(&checksum, [&sum[..], b"\n"].concat()).unwrap();
    world.run_well().await;
    assert!(!world.weights().await.is_empty());
}

/// The file of an Inventory, changed after S3 wrote it.
async fn with_file(form: Form, change: impl Fn(&Path), words: &[&str]) {
    let world = InventoryFixture::new(Some(1)).await;
    let folder = world.write(&nightly(form, 21, &some()));
    let file = std::fs::read_dir(world.place().join("data")).unwrap().next().unwrap().unwrap().path();
    change(&file);
    let name = file.file_name().unwrap().to_str().unwrap();
    refused(&world, &[words, &[name]].concat()).await;
    world.now_is_good(&folder).await;
}

#[tokio::test]
async fn a_data_file_that_is_not_the_one_of_the_manifest_is_named() {
    let flipped = |at: fn(usize) -> usize| {
        move |file: &Path| {
            let mut bytes = std::fs::read(file).unwrap();
            let at = at(bytes.len());
            bytes[at] ^= 0x10;
            std::fs::write(file, bytes).unwrap();
        }
    };
    let cut = |file: &Path| {
        let bytes = std::fs::read(file).unwrap();
        std::fs::write(file, &bytes[..bytes.len() / 2]).unwrap();
    };
    for form in FORMS {
        with_file(form, |file| std::fs::remove_file(file).unwrap(), &["does not exist", "manifest.json names it"])
            .await;
        with_file(form, cut, &["bytes", "manifest.json says", "copy it anew"]).await;
    }
    let places: [fn(usize) -> usize; 3] = [|_| 3, |length| length / 2, |length| length - 5];
    for at in places {
        with_file(Form::Csv, flipped(at), &["its MD5 is", "the manifest says", "copy it anew"]).await;
    }
    with_file(Form::Parquet, flipped(|length| length - 1), &["does not end as a Parquet file"]).await;
    with_file(
        Form::Parquet,
        |file| {
            let length = std::fs::metadata(file).unwrap().len();
            std::fs::write(file, vec![0x41; usize::try_from(length).unwrap()]).unwrap();
        },
        &["does not end as a Parquet file"],
    )
    .await;
}

/// An Inventory of S3 with files that are whole and no good.
async fn with_data(form: Form, files: &[Vec<u8>], words: &[&str]) {
    let world = InventoryFixture::new(Some(1)).await;
    let inventory = nightly(form, 21, &some());
    let ending = if form == Form::Csv { "csv.gz" } else { "parquet" };
    let files: Vec<_> = files.iter().enumerate().map(|(n, bytes)| (format!("{n}.{ending}"), bytes.clone())).collect();
    let folder = inventory.write_files(&world.place(), &files).unwrap();
    refused(&world, words).await;
    world.now_is_good(&folder).await;
}

#[tokio::test]
async fn data_that_is_no_inventory_is_named_by_file_and_place() {
    let inventory = nightly(Form::Csv, 21, &[]);
    let lines = inventory.csv(&some());
    let csv = |text: String| vec![gzip(text.as_bytes()).unwrap()];
    with_data(Form::Csv, &csv(lines.clone() + "\"too\",\"few\"\n"), &["0.csv.gz, line 13", "2 fields", "7 columns"])
        .await;
    let with = |from: &str, to: &str| csv(lines.replacen(from, to, 1));
    with_data(Form::Csv, &with("\"105\"", "\"1x5\""), &["0.csv.gz, line 6", "`1x5`", "Size"]).await;
    with_data(Form::Csv, &with("2026-11-19T10", "2026-13-19T10"), &["0.csv.gz, line 1", "no time"]).await;
    with_data(Form::Csv, &with("STANDARD", "<script>"), &["0.csv.gz, line 1", "no storage class"]).await;
    with_data(
        Form::Csv,
        &csv(format!("{lines}\"{}", "no end\n".repeat(1 << 20))),
        &["0.csv.gz, line 13", "no end within 4 MiB"],
    )
    .await;
    with_data(Form::Csv, &with("c/ann/0", &"a".repeat(100_000)), &["0.csv.gz, line 1", "100000 bytes"]).await;
    with_data(Form::Csv, &[lines.clone().into_bytes()], &["0.csv.gz", "cannot be unpacked"]).await;
    with_data(Form::Csv, &[vec![0xff; 4000]], &["0.csv.gz", "cannot be unpacked"]).await;
    let twice = StoredObject { size: Some(7), ..some().remove(3) };
    let both = inventory.csv(&[some(), vec![twice]].concat());
    with_data(Form::Csv, &csv(both), &["line 13", "`c/ann/3` is listed twice", "two sizes"]).await;
    let parquet = nightly(Form::Parquet, 21, &[]);
    let without = |column| vec![parquet.clone().without(column).data(&some()).unwrap().1];
    with_data(Form::Parquet, &without("Size"), &["0.parquet", "no column size", "add it"]).await;
    with_data(Form::Parquet, &without("Key"), &["0.parquet", "no column key", "add it"]).await;
    with_data(Form::Parquet, &[lines.into_bytes()], &["0.parquet", "does not end as a Parquet file"]).await;
}

/// The files are read side by side, so that either one may be the second.
#[tokio::test]
async fn an_object_with_two_sizes_in_two_files_is_named() {
    let world = InventoryFixture::new(Some(1)).await;
    let inventory = nightly(Form::Parquet, 21, &some());
    let twice = StoredObject { size: Some(7), ..some().remove(3) };
    let [first, second] = [some(), vec![twice]].map(|objects| inventory.data(&objects).unwrap().1);
    let files = [("0.parquet".into(), first), ("1.parquet".into(), second)];
    let folder = inventory.write_files(&world.place(), &files).unwrap();
    for _ in 0..2 {
        let report = world.try_run().await.unwrap();
        let [said] = &report.not_read[..] else { panic!("{:?}", report.not_read) };
        assert!(said.contains(".parquet, row group 0: row "), "{said}");
        assert!(said.contains("`c/ann/3` is listed twice"), "{said}");
        assert!(report.days_read.is_empty() && world.days().await.is_empty());
    }
    world.now_is_good(&folder).await;
}

/// Any byte of a Parquet file that is flipped is found, or is another value: nothing panics, and
/// nothing is stored by half.
#[tokio::test]
async fn a_flipped_byte_stores_a_day_whole_or_not_at_all() {
    let whole = nightly(Form::Parquet, 21, &[]).data(&some()).unwrap().1;
    let mut refusals = 0;
    for at in (0..whole.len()).step_by(61) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x55;
        let world = InventoryFixture::new(Some(1)).await;
        nightly(Form::Parquet, 21, &[]).write_files(&world.place(), &[("0.parquet".into(), bytes)]).unwrap();
        let report = world.run().await;
        let stored = world.days().await.len();
        if report.not_read.is_empty() {
            assert_eq!(stored, report.days_read.len());
        } else {
            assert!(report.not_read[0].contains("0.parquet"), "{:?}", report.not_read);
            refusals += 1;
        }
    }
    assert!(refusals > 10, "{refusals}");
}

#[tokio::test]
async fn a_bucket_that_is_not_configured_is_named() {
    let mut world = InventoryFixture::new(None).await;
    world.change(|bucket| bucket.inventory = None);
    let failure = world.try_run().await.unwrap_err();
    assert!(failure.error().to_string().contains("[shared_buckets.inventory]"), "{failure:?}");
    let other = IngestInventory { bucket: "other".into() };
    let failure = other.run(&world.world.context, world.now).await.unwrap_err();
    let said = failure.error().to_string();
    assert!(said.contains("no shared bucket named `other`") && said.contains(BUCKET), "{said}");
    assert!(!failure.is_retryable());
}
