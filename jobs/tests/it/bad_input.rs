//! What a bill can be besides good: each gets an error that says what and where, and the books stay
//! as they were.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::{Decimal256Type, i256};
use books::{BooksError, Database};
use jobs::ingest_cur::IngestOutcome;
use jobs::job::Failure;
use testkit::handmade_parquet::{Column, Page, bill, codes, file};
use testkit::ingest_fixture::{
    self, IngestFixture, Line, chime, columns, deliver, deliver_lines, manifest, now, parquet_bytes,
};

const V1: &str = "2026-10-10T03:00:00.000Z-11111111-1111-4111-8111-111111111111";

/// Ingests and expects a failure that names all of `words`; nothing is booked.
async fn refused(world: &IngestFixture, words: &[&str]) -> Failure {
    let failure = world.ingest().await.expect_err(&format!("{words:?}"));
    let text = format!("{:#}", failure.error());
    for word in words {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
    assert!(world.ledger().await.is_empty());
    assert!(world.dump("SELECT version FROM bill_versions").await.is_empty());
    failure
}

async fn refused_file(name: &str, bytes: Vec<u8>, words: &[&str]) {
    let world = IngestFixture::new().await;
    deliver(&world.bucket(), V1, &[(name, bytes)]);
    let failure = refused(&world, &[words, &[name]].concat()).await;
    assert!(!failure.is_retryable(), "{failure:?}");
}

fn good() -> Vec<u8> {
    parquet_bytes(columns(&[chime("alice", 1, 1.5), chime("bob", 2, 2.5)]))
}

/// Good columns with one exchanged.
fn with(name: &str, array: ArrayRef) -> Vec<u8> {
    let mut all = columns(&[chime("alice", 1, 1.5), chime("bob", 2, 2.5)]);
    all.iter_mut().find(|(n, _)| *n == name).unwrap().1 = array;
    parquet_bytes(all)
}

#[tokio::test]
async fn files_that_are_no_parquet_are_named() {
    refused_file(
        "1.parquet",
        b"line_item_product_code,line_item_usage_type\n".repeat(40),
        &["does not end as a Parquet file"],
    )
    .await;
    refused_file("1.parquet", b"PAR1".to_vec(), &["4 bytes, too few"]).await;
    let whole = good();
    refused_file("1.parquet", whole[..whole.len() / 2].to_vec(), &["footer", "truncated"]).await;
    refused_file("1.zip", b"PK".to_vec(), &["only .parquet, .csv and .csv.gz are read"]).await;
}

#[tokio::test]
async fn an_absurd_footer_length_is_not_believed() {
    for length in [u32::MAX, 0x7fff_ffff, 100_000_000] {
        let mut bytes = good();
        let at = bytes.len() - 8;
        bytes[at..at + 4].copy_from_slice(&length.to_le_bytes());
        refused_file("1.parquet", bytes, &["footer", "claims", &length.to_string()]).await;
    }
}

/// Any byte that is flipped is found, or does no harm: the books are whole or untouched, and
/// nothing panics.
#[tokio::test]
async fn a_flipped_byte_never_books_half() {
    let whole = good();
    let (mut refusals, mut column_named) = (0, 0);
    for at in (0..whole.len()).step_by(17) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x55;
        let world = IngestFixture::new().await;
        deliver(&world.bucket(), V1, &[("1.parquet", bytes)]);
        match world.ingest().await {
            Err(failure) => {
                refusals += 1;
                let text = format!("{:#}", failure.error());
                assert!(text.contains("1.parquet"), "{text}");
                column_named += usize::from(text.contains("row group 0, column "));
                assert!(world.ledger().await.is_empty());
            }
            // no checksum protects a value: a flipped one is another value, but it is booked whole
            Ok(report) => {
                assert!(matches!(report.outcome, IngestOutcome::Applied | IngestOutcome::OnHold), "{report:?}")
            }
        }
        world.sound().await;
    }
    assert!(refusals > 20 && column_named > 3, "{refusals} refusals, {column_named} with a column");
}

#[tokio::test]
async fn a_corrupt_page_is_named_by_file_row_group_and_column() {
    let whole = good();
    // the value of the first amount stands in the file as it is; what stands before it in its page
    // is the page header
    let amount = 1.5_f64.to_le_bytes();
    let at = whole.windows(8).position(|w| w == amount).unwrap();
    let mut bytes = whole;
    bytes[at - 6..at].fill(0xff);
    refused_file("1.parquet", bytes, &["row group 0, column line_item_usage_amount"]).await;
}

#[tokio::test]
async fn wrong_types_and_missing_columns_are_named() {
    let bools: ArrayRef = Arc::new(BooleanArray::from(vec![true, false]));
    for column in ["line_item_product_code", "line_item_usage_amount", "line_item_usage_start_date", "pricing_unit"] {
        refused_file("1.parquet", with(column, Arc::clone(&bools)), &[&format!("column {column}"), "Boolean"]).await;
    }
    for column in [
        "line_item_product_code",
        "line_item_usage_type",
        "line_item_line_item_type",
        "line_item_usage_amount",
        "line_item_usage_start_date",
    ] {
        let mut all = columns(&[chime("alice", 1, 1.5)]);
        all.retain(|(n, _)| *n != column);
        refused_file("1.parquet", parquet_bytes(all), &["there is no column", column]).await;
    }
    let mut all = columns(&[chime("alice", 1, 1.5)]);
    all.push(("resource_tags", Arc::new(StringArray::from(vec!["{\"user_chitchatter_customer_id\":\"alice\"}"]))));
    refused_file("1.parquet", parquet_bytes(all), &["column resource_tags", "type"]).await;
}

/// Sums that do not fit into the ledger, though each line does.
#[tokio::test]
async fn a_sum_that_is_too_large_is_said_to_be() {
    let world = IngestFixture::new().await;
    deliver_lines(&world.bucket(), V1, &[chime("alice", 1, 6e8), chime("alice", 1, 6e8)]);
    let words = ["customer alice has 1200000000 of chime_minutes on 2026-10-01", "900,000,000", "`factor`"];
    refused(&world, &words).await;
}

#[tokio::test]
async fn lines_that_give_back_may_be_negative() {
    let world = IngestFixture::new().await;
    let refund = Line { line_type: "Refund".into(), ..chime("alice", 1, -3.0) };
    deliver_lines(&world.bucket(), V1, &[chime("alice", 1, 5.0), refund]);
    let report = world.ingest().await.unwrap();
    assert_eq!(report.meters[0].totals.excluded.to_string(), "-3");
    assert_eq!(report.meters[0].totals.total.to_string(), "2");
    assert_eq!(world.usage("alice", "chime_minutes").await.to_string(), "5");
    world.sound().await;
}

#[tokio::test]
async fn more_than_ten_decimals_are_rounded_half_even_and_counted() {
    let world = IngestFixture::new().await;
    deliver_lines(
        &world.bucket(),
        V1,
        &[chime("alice", 1, 1.000_000_000_05), chime("alice", 1, 0.000_000_000_15), chime("bob", 1, 0.1)],
    );
    let report = world.ingest().await.unwrap();
    assert_eq!(report.rounded_amounts, 2);
    assert!(report.warnings[0].contains("2 amounts have more than 10 decimals"));
    assert_eq!(world.usage("alice", "chime_minutes").await.to_string(), "1.0000000002");
}

#[tokio::test]
async fn a_tag_value_is_kept_exactly_as_written() {
    let world = IngestFixture::new().await;
    let odd = format!("{}é 'quoted' \"x\" \\", "é".repeat(200));
    deliver_lines(&world.bucket(), V1, &[chime(&odd, 1, 5.0)]);
    world.ingest().await.unwrap();
    assert_eq!(world.usage(&odd, "chime_minutes").await.to_string(), "5", "exactly as written");
}

#[tokio::test]
async fn manifests_that_cannot_be_are_named() {
    let key = |name: &str| format!("s3://b/e/data/BILLING_PERIOD=2026-10/{V1}/{name}");
    for (keys, word) in [
        (vec![], "lists no data files"),
        (vec![key("../../../../secret.parquet")], "leaves the export's folder"),
        (vec!["/etc/passwd".to_owned()], "is not where a cur2 export keeps its data"),
        (vec!["s3://b/e/data/BILLING_PERIOD=2026-09/1.parquet".to_owned()], "a file of 2026-09"),
        (vec![key("1.parquet"), key("1.parquet")], "lists a data file twice"),
        (vec![key("1.parquet"), key("/1.parquet")], "lists a data file twice"),
        (vec![key("1.parquet"), key("./1.parquet")], "leaves the export's folder"),
    ] {
        let world = IngestFixture::new().await;
        deliver(&world.bucket(), V1, &[("1.parquet", good())]);
        manifest(&world.bucket(), V1, &keys);
        refused(&world, &["e-Manifest.json", word]).await;
    }
    for text in ["", "{", "[]", "not json", "{\"executionId\": 5}", "{\"executionId\": \"\", \"dataFiles\": [\"x\"]}"] {
        let world = IngestFixture::new().await;
        deliver(&world.bucket(), V1, &[("1.parquet", good())]);
        std::fs::write(world.bucket().join("e/metadata/BILLING_PERIOD=2026-10/e-Manifest.json"), text).unwrap();
        refused(&world, &["e-Manifest.json"]).await;
    }
}

#[tokio::test]
async fn a_bill_of_another_month_is_not_booked() {
    let world = IngestFixture::new().await;
    let folder = world.bucket().join("bill/20261001-20261101");
    std::fs::create_dir_all(&folder).unwrap();
    let json = serde_json::json!({ "assemblyId": "a", "reportKeys": ["bill/20261001-20261101/a/bill-1.csv.gz"],
        "billingPeriod": { "start": "20260901T000000.000Z", "end": "20261001T000000.000Z" } });
    std::fs::write(folder.join("bill-Manifest.json"), json.to_string()).unwrap();
    refused(&world, &["billing period starts 20260901", "folder is that of 2026-10"]).await;
}

#[tokio::test]
async fn a_location_without_an_export_or_with_two_is_named() {
    let world = IngestFixture::new().await;
    refused(&world, &["no legacy or CUR 2.0 export below"]).await;
    for root in ["one", "two"] {
        std::fs::create_dir_all(world.bucket().join(root).join("20261001-20261101")).unwrap();
    }
    refused(&world, &["several exports below", "one/ (legacy)", "two/ (legacy)"]).await;
}

/// The same two lines in every type that a column may have, REQUIRED or OPTIONAL, make the same
/// books.
#[tokio::test]
async fn every_type_that_a_column_may_have_makes_the_same_books() {
    let amounts: Vec<(&str, ArrayRef)> = vec![
        ("double", Arc::new(Float64Array::from(vec![Some(1.5), Some(2.5)]))),
        ("float", Arc::new(Float32Array::from(vec![1.5, 2.5]))),
        ("text", Arc::new(StringArray::from(vec!["1.5", "25E-1"]))),
        ("large text", Arc::new(LargeStringArray::from(vec!["1.5", "2.50"]))),
        ("binary", Arc::new(BinaryArray::from(vec![b"1.5".as_ref(), b"2.5"]))),
        ("decimal", Arc::new(Decimal128Array::from(vec![1500, 2500]).with_precision_and_scale(18, 3).unwrap())),
        (
            "fine decimal",
            Arc::new(
                Decimal128Array::from(vec![1_500_000_000_000_000, 2_500_000_000_000_000])
                    .with_precision_and_scale(38, 15)
                    .unwrap(),
            ),
        ),
        (
            "wide decimal",
            Arc::new(
                PrimitiveArray::<Decimal256Type>::from(vec![i256::from(15), i256::from(25)])
                    .with_precision_and_scale(50, 1)
                    .unwrap(),
            ),
        ),
    ];
    let millis = vec![ingest_fixture::instant(1), ingest_fixture::instant(2)];
    let scaled = |n: i64| millis.iter().map(|t| t * n).collect::<Vec<_>>();
    let days: Vec<(&str, ArrayRef)> = vec![
        ("ms", Arc::new(TimestampMillisecondArray::from(millis.clone()))),
        ("us", Arc::new(TimestampMicrosecondArray::from(scaled(1000)).with_timezone("UTC"))),
        ("ns", Arc::new(TimestampNanosecondArray::from(scaled(1_000_000)))),
        ("ISO", Arc::new(StringArray::from(vec!["2026-10-01T00:00:00Z", "2026-10-02T23:00:00.000Z"]))),
        (
            "date",
            Arc::new(Date32Array::from(
                millis.iter().map(|t| i32::try_from(t / 86_400_000).unwrap()).collect::<Vec<_>>(),
            )),
        ),
    ];
    let mut books = vec![];
    let forms = amounts
        .into_iter()
        .map(|f| ("line_item_usage_amount", f))
        .chain(days.into_iter().map(|f| ("line_item_usage_start_date", f)));
    for (column, (name, array)) in forms {
        let world = IngestFixture::new().await;
        deliver(&world.bucket(), V1, &[("1.parquet", with(column, array))]);
        let report = world.ingest().await.unwrap_or_else(|f| panic!("{name}: {:#}", f.error()));
        assert_eq!(report.rounded_amounts, 0, "{name}");
        books.push((name, world.ledger().await));
    }
    assert_eq!(books[0].1.len(), 2);
    for (name, ledger) in &books {
        assert_eq!(ledger, &books[0].1, "{name}");
    }
}

#[tokio::test]
async fn whole_numbers_and_int96_are_read_too() {
    let world = IngestFixture::new().await;
    let whole: ArrayRef = Arc::new(Int64Array::from(vec![3, 4]));
    deliver(&world.bucket(), V1, &[("1.parquet", with("line_item_usage_amount", whole))]);
    world.ingest().await.unwrap();
    assert_eq!(world.usage("alice", "chime_minutes").await.to_string(), "3");

    let world = IngestFixture::new().await;
    deliver(&world.bucket(), V1, &[("1.parquet", int96())]);
    world.ingest().await.unwrap();
    let days = world.dump("SELECT day || '|' || quantity FROM ledger_entries").await;
    assert_eq!(days, ["2026-10-02|15000000000"]);
}

/// One line whose start is an INT96, written with the low-level writer: Arrow cannot write that
/// type.
fn int96() -> Vec<u8> {
    use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int96, Int96Type};
    let message = "message bill {
        REQUIRED BYTE_ARRAY line_item_product_code (UTF8);
        REQUIRED BYTE_ARRAY line_item_usage_type (UTF8);
        REQUIRED BYTE_ARRAY line_item_line_item_type (UTF8);
        REQUIRED DOUBLE line_item_usage_amount;
        REQUIRED INT96 line_item_usage_start_date;
        REQUIRED BYTE_ARRAY resource_tags_user_chitchatter_customer_id;
    }";
    let schema = Arc::new(parquet::schema::parser::parse_message_type(message).unwrap());
    let mut bytes = vec![];
    let mut writer = parquet::file::writer::SerializedFileWriter::new(&mut bytes, schema, Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let texts = ["AmazonChime", "Meetings-AttendeeMinutes", "Usage", "", "", "alice"];
    for (i, text) in texts.iter().enumerate() {
        let mut column = group.next_column().unwrap().unwrap();
        let written = match i {
            3 => column.typed::<DoubleType>().write_batch(&[1.5], None, None).unwrap(),
            4 => {
                // Julian day 2461316 is 2026-10-02; an hour before midnight
                let mut value = Int96::new();
                let nanos = 23_u64 * 3_600_000_000_000;
                value.set_data(
                    u32::try_from(nanos & 0xffff_ffff).unwrap(),
                    u32::try_from(nanos >> 32).unwrap(),
                    2_461_316,
                );
                column.typed::<Int96Type>().write_batch(&[value], None, None).unwrap()
            }
            _ => column.typed::<ByteArrayType>().write_batch(&[ByteArray::from(*text)], None, None).unwrap(),
        };
        assert_eq!(written, 1);
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
    bytes
}

#[tokio::test]
async fn nulls_and_empty_texts_are_one() {
    let world = IngestFixture::new().await;
    let mut all = columns(&[chime("", 1, 1.5), chime("", 1, 2.5), chime("bob", 1, 1.0)]);
    for (name, array) in &mut all {
        match *name {
            "pricing_unit" => *array = Arc::new(StringArray::from(vec![None, Some(""), Some("minutes")])),
            "resource_tags_user_chitchatter_customer_id" => {
                *array = Arc::new(StringArray::from(vec![None, Some(""), Some("bob")]))
            }
            "line_item_usage_amount" => *array = Arc::new(Float64Array::from(vec![0.0, 2.5, 1.0])),
            _ => {}
        }
    }
    deliver(&world.bucket(), V1, &[("1.parquet", parquet_bytes(all))]);
    world.ingest().await.unwrap();
    assert_eq!(world.usage("", "chime_minutes").await.to_string(), "2.5");
    let units = world.dump("SELECT unit || '|' || lines FROM bill_lines ORDER BY unit").await;
    assert_eq!(units, ["|2", "minutes|1"]);
}

#[tokio::test]
async fn csv_that_cannot_be_read_is_named() {
    let header = "line_item_product_code,line_item_usage_type,line_item_line_item_type,line_item_usage_amount,line_item_usage_start_date,tags\n";
    let line = "AmazonChime,Meetings-AttendeeMinutes,Usage,1.5,2026-10-01T00:00:00.000Z,";
    let csv = |rest: &str| format!("{header}{line}{{}}\n{line}{rest}").into_bytes();
    // which field is missing is not known, so no value of the line can be trusted
    refused_file("1.csv", csv("{},too,many\n"), &[", line 3: it has 8 fields, and the header has 6"]).await;
    let short = csv(&format!("{{}}\n\n\r\n{}\n", &line[..line.len() - 1]));
    refused_file("1.csv", short, &[", line 6: it has 5 fields, and the header has 6; the file is damaged"]).await;
    refused_file("1.csv", csv(&format!("\"{}", "no end ".repeat(3_000_000))), &["line 3", "has no end within 4 MiB"])
        .await;
    refused_file("1.csv.gz", b"no gzip".to_vec(), &["no gzip file"]).await;
    let mut packed = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
    packed.write_all(&csv(&format!("{{}}\n{}", format!("{line}{{}}\n").repeat(500)))).unwrap();
    let packed = packed.finish().unwrap();
    refused_file("1.csv.gz", packed[..packed.len() - 20].to_vec(), &["truncated"]).await;
}

/// What a column that nobody reads has in it stops nothing. The line of what does is that of the
/// file, whatever line breaks a record has and however many blank lines are before it.
#[tokio::test]
async fn csv_is_text_where_it_is_read() {
    let head = b"note,line_item_product_code,line_item_usage_type,line_item_line_item_type,line_item_usage_amount,line_item_usage_start_date,line_item_resource_id,resource_tags_user_chitchatter_customer_id,caf\xe9\n";
    let line = |note: &[u8], amount: &str, resource: &[u8], customer: &[u8]| {
        let middle = format!(",AmazonChime,Meetings-AttendeeMinutes,Usage,{amount},2026-10-01T00:00:00Z,");
        [note, middle.as_bytes(), resource, b",", customer, b",\xff\xfe\n"].concat()
    };
    let quoted = line(b"\"two\nlines\"", "2", b"arn:two", b"bob");
    let good = [&head[..], &line(b"na\xefve", "1", b"arn:one", b"alice"), b"\n\n", &quoted].concat();
    for (third, reason) in [
        (line(b"", "4", b"arn:three", b"carol"), None),
        (
            line(b"", "many", b"arn:thr\xe9e", b"carol"),
            Some("1.csv, line 7, column line_item_usage_amount, resource arn:thr\u{fffd}e: `many`"),
        ),
    ] {
        for crlf in [false, true] {
            let mut bytes = [&good[..], &third].concat();
            if crlf {
                bytes = bytes.split(|b| *b == b'\n').collect::<Vec<_>>().join(&b"\r\n"[..]);
            }
            let world = IngestFixture::new().await;
            deliver(&world.bucket(), V1, &[("1.csv", bytes)]);
            let report = world.ingest().await.unwrap();
            if let Some(reason) = reason {
                let [found] = report.hold_reasons.as_slice() else { panic!("{:?}", report.hold_reasons) };
                assert!(found.text.contains(reason), "{crlf}: {}", found.text);
                continue;
            }
            for (customer, minutes) in [("alice", "1"), ("bob", "2"), ("carol", "4")] {
                assert_eq!(world.usage(customer, "chime_minutes").await.to_string(), minutes);
            }
            world.sound().await;
        }
    }
    // a text that is read has to be one, in both forms alike
    let bad = [&good[..], &line(b"", "4", b"arn:three", b"car\xf3l")].concat();
    let column = "column resource_tags_user_chitchatter_customer_id";
    refused_file("1.csv", bad, &[&format!(", {column}, line 7: the value is no UTF-8 text; the file is damaged")])
        .await;
    let parquet = |name: &str| {
        let column = Column::text(name, vec![Page::dictionary(&[b"caf\xe9"]), codes(1, 0)]);
        file(1, &[bill(1), vec![column]].concat())
    };
    refused_file("1.parquet", parquet("pricing_unit"), &["row group 0, column pricing_unit", "the file is damaged"])
        .await;
    let world = IngestFixture::new().await;
    deliver(&world.bucket(), V1, &[("1.parquet", parquet("note"))]);
    world.ingest().await.unwrap();
    assert_eq!(world.usage("ann", "chime_minutes").await.to_string(), "1");
}

#[tokio::test]
async fn a_locked_database_is_said_to_be_locked() {
    let world = IngestFixture::new().await;
    deliver_lines(&world.bucket(), V1, &[chime("alice", 1, 5.0)]);
    let other = libsql::Builder::new_local(world.database()).build().await.unwrap();
    let other = other.connect().unwrap();
    other.execute("BEGIN IMMEDIATE", ()).await.unwrap();
    let failure = world.ingest().await.unwrap_err();
    assert!(failure.is_retryable());
    assert!(failure.error().to_string().contains("locked by another process"), "{}", failure.error());
    other.execute("ROLLBACK", ()).await.unwrap();
    assert!(world.ledger().await.is_empty());
    assert_eq!(world.ingest().await.unwrap().outcome, IngestOutcome::Applied, "and the next run goes through");
}

#[tokio::test]
async fn a_database_of_a_newer_meter_is_refused() {
    let mut world = IngestFixture::new().await;
    let sql = "INSERT INTO schema_versions VALUES (99, '0099_future', 'x', 'now')";
    world.context.books.transaction(async move |c| c.execute(sql, ()).await).await.unwrap();
    // a process that has seen its schema does not read it again
    world.context.books = world.open_again().await;
    deliver_lines(&world.bucket(), V1, &[chime("alice", 1, 5.0)]);
    let failure = world.ingest().await.unwrap_err();
    assert!(failure.error().to_string().contains("schema version 99"), "{}", failure.error());
    assert!(matches!(world.context.books.migrate(now()).await, Err(BooksError::Newer { found: 99, .. })));
}

#[tokio::test]
async fn a_database_that_is_none_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("meter.db");
    std::fs::write(&path, "this is a text file, and not a small one\n".repeat(100)).unwrap();
    let error = Database::open_local(&path).await.unwrap_err();
    assert!(error.to_string().contains("damaged or no database"), "{error}");
    let error = Database::open_local(Path::new("/nowhere/at/all/meter.db")).await.unwrap_err();
    assert!(error.to_string().contains("/nowhere/at/all/meter.db cannot be opened"), "{error}");
}

#[tokio::test]
async fn many_processes_may_migrate_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("meter.db");
    let all = (0..6).map(|_| {
        let path = path.clone();
        tokio::spawn(async move { Database::open_local(&path).await?.migrate(now()).await })
    });
    let mut applied = 0;
    for one in all.collect::<Vec<_>>() {
        applied += one.await.unwrap().unwrap().len();
    }
    assert_eq!(i64::try_from(applied).unwrap(), books::newest_schema_version(), "each once");
}
