//! Bills that others than AWS wrote anew: other types, other codecs, other exports; and sums beyond
//! a cell.

use std::sync::Arc;

use arrow::array::*;
use jobs::ingest_cur::IngestOutcome;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use testkit::handmade_parquet::{Column, bill, file};
use testkit::ingest_fixture::{IngestFixture, chime, columns, deliver, deliver_lines, manifest, parquet_bytes};

const V1: &str = "2026-10-10T03:00:00.000Z-11111111-1111-4111-8111-111111111111";
const TAG: &str = "resource_tags_user_chitchatter_customer_id";

async fn ingested(files: &[(&str, Vec<u8>)]) -> IngestFixture {
    let world = IngestFixture::new().await;
    deliver(&world.bucket(), V1, files);
    world.ingest().await.unwrap();
    world.sound().await;
    world
}

async fn refused(world: &IngestFixture, words: &[&str]) -> bool {
    let failure = world.ingest().await.unwrap_err();
    let text = format!("{:#}", failure.error());
    words.iter().for_each(|word| assert!(text.contains(word), "`{word}` is not in: {text}"));
    assert!(world.ledger().await.is_empty());
    failure.is_retryable()
}

fn parquet(batch: &RecordBatch, codec: Compression) -> Vec<u8> {
    let mut bytes = vec![];
    let properties = WriterProperties::builder().set_compression(codec).build();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
    bytes
}

/// The second of two files has no value in a column, and gives it a type of its own.
#[tokio::test]
async fn a_column_without_a_value_may_have_any_type() {
    let types: [ArrayRef; 4] = [
        Arc::new(NullArray::new(2)),
        Arc::new(Int32Array::new_null(2)),
        Arc::new(BooleanArray::new_null(2)),
        Arc::new(StringArray::new_null(2)),
    ];
    for empty in types {
        for column in ["pricing_unit", "split_line_item_parent_resource_id", TAG, "resource_tags"] {
            let first = parquet_bytes(columns(&[chime("alice", 1, 1.5)]));
            let mut second = columns(&[chime("alice", 2, 2.0), chime("alice", 3, 4.0)]);
            second.retain(|(name, _)| *name != column);
            second.push((column, Arc::clone(&empty)));
            let second = second.into_iter().map(|(name, array)| (name, array, true));
            let second = parquet(&RecordBatch::try_from_iter_with_nullable(second).unwrap(), Compression::SNAPPY);
            let world = ingested(&[("1.parquet", first), ("2.parquet", second)]).await;
            let (alice, nobody) = if column == TAG { ("1.5", "6") } else { ("7.5", "0") };
            let of = async |customer| world.usage(customer, "chime_minutes").await.to_string();
            assert_eq!((of("alice").await, of("").await), (alice.into(), nobody.into()), "{column} {empty:?}");
        }
    }
}

#[tokio::test]
async fn every_codec_that_parquet_has_is_read() {
    for codec in [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(Default::default()),
        Compression::BROTLI(Default::default()),
        Compression::LZ4,
        Compression::LZ4_RAW,
        Compression::ZSTD(Default::default()),
    ] {
        let lines: Vec<_> = (0..3000).map(|i| chime(&format!("customer {i}"), 1, 1.5)).collect();
        let bytes = parquet(&RecordBatch::try_from_iter(columns(&lines)).unwrap(), codec);
        let world = ingested(&[("1.parquet", bytes)]).await;
        assert_eq!(world.ledger().await.len(), 3000, "{codec}");
        assert_eq!(world.usage("customer 2999", "chime_minutes").await.to_string(), "1.5", "{codec}");
    }
    let world = IngestFixture::new().await;
    let unit = Column { codec: 3, ..Column::same("pricing_unit", "minutes", 4) };
    deliver(&world.bucket(), V1, &[("1.parquet", file(4, &[bill(4), vec![unit]].concat()))]);
    refused(&world, &["1.parquet, row group 0, column pricing_unit", "LZO", "write it anew with Snappy"]).await;
}

#[tokio::test]
async fn a_focus_export_is_named() {
    let world = IngestFixture::new().await;
    deliver_lines(&world.bucket(), V1, &[chime("alice", 1, 1.5)]);
    let path = world.bucket().join("e/metadata/BILLING_PERIOD=2026-10/e-Manifest.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let focus = r#""columns":[{"name":"BilledCost","type":"double"},{"name":"ChargePeriodStart","type":"timestamp"}]"#;
    std::fs::write(&path, text.replace("\"columns\":[]", focus)).unwrap();
    let words = ["e-Manifest.json", "this is a FOCUS export", "CUR 2.0"];
    assert!(!refused(&world, &words).await);
    let starts: ArrayRef = Arc::new(StringArray::from(vec!["2026-10-01"]));
    for (name, bytes) in [
        ("1.parquet", parquet_bytes(vec![("ChargePeriodStart", starts)])),
        ("1.csv", b"BilledCost,ChargePeriodStart\n1,2026-10-01\n".to_vec()),
    ] {
        let world = IngestFixture::new().await;
        deliver(&world.bucket(), V1, &[(name, bytes)]);
        assert!(!refused(&world, &[name, "this is a FOCUS export", "CUR 2.0"]).await);
    }
}

#[tokio::test]
async fn a_manifest_without_files_is_read_again_later() {
    let world = IngestFixture::new().await;
    manifest(&world.bucket(), V1, &[]);
    assert!(refused(&world, &["e-Manifest.json", "lists no data files yet", "the next run"]).await);
    deliver_lines(&world.bucket(), V1, &[chime("alice", 1, 1.5)]);
    world.ingest().await.unwrap();
    assert_eq!(world.usage("alice", "chime_minutes").await.to_string(), "1.5");
}

/// A cell holds 900 million units, and a customer's month is the sum of many.
#[tokio::test]
async fn a_month_beyond_what_a_cell_holds_is_counted_exactly() {
    let world = IngestFixture::new().await;
    world.context.books.add_customer("alice").await.unwrap();
    let lines: Vec<_> = (1..=9).map(|day| chime("alice", day, 899_999_999.5)).collect();
    deliver_lines(&world.bucket(), V1, &lines);
    world.ingest().await.unwrap();
    assert_eq!(world.usage("alice", "chime_minutes").await.to_string(), "8099999995.5");
    let counter = world.dump("SELECT chime_minutes_used || '' FROM customers").await;
    assert_eq!(counter, ["8099999995.5"]);
    world.sound().await;
}

/// Amounts that no meter counts are summed, too; no sum may overflow.
#[tokio::test]
async fn amounts_whose_sums_could_overflow_hold_the_bill() {
    let world = IngestFixture::new().await;
    deliver_lines(&world.bucket(), V1, &[chime("alice", 1, 1.7e28), chime("alice", 1, 1.7e28)]);
    let report = world.ingest().await.unwrap();
    assert_eq!(report.outcome, IngestOutcome::OnHold);
    let why = &report.hold_reasons[0].text;
    for word in ["row group 0", "line_item_usage_amount", "too large"] {
        assert!(why.contains(word), "{why}");
    }
    assert!(world.ledger().await.is_empty());
}
