//! Real AWS bills give the sums that are known of them, in every form, and a second run changes
//! nothing.

use std::io::Write;
use std::path::Path;

use books::forecast::backtest::Histories;
use books::forecast::model::MeterModel;
use books::forecast::pattern::WeekdayFactors;
use books::forecast::rule::{ForecastRule, Horizon, expected};
use books::units::calendar::Day;
use books::usage::bill::MeterTotals;
use books::usage::meter::{Pattern, Rules};
use jobs::ingest_cur::{IngestCur, IngestOutcome, IngestReport};
use jobs::job::Job;
use testkit::ingest_fixture::{IngestFixture, job, meter, now, rules};
use testkit::needs::real_files;

use crate::lines::every_cell_is_the_sum_of_its_lines;

/// `cost_center` is a tag that both bills have.
async fn ingest(world: &IngestFixture, month: &str) -> IngestReport {
    let job = || IngestCur { month: month.parse().unwrap(), ..job() };
    let report = job().run(&world.context, now()).await.unwrap();
    assert_eq!(report.outcome, IngestOutcome::Applied);
    let again = job().run(&world.context, now()).await.unwrap();
    assert_eq!(again.outcome, IngestOutcome::Unchanged);
    world.sound().await;
    report
}

fn totals<'r>(report: &'r IngestReport, meter: &str) -> &'r MeterTotals {
    &report.meters.iter().find(|m| m.totals.meter == meter).unwrap().totals
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    std::fs::copy(from, to).unwrap();
}

/// The one file of the legacy bill, laid out as AWS lays out a report for Athena.
fn lay_out_legacy(data: &Path, bucket: &Path) {
    let key = "cur/bill/bill/year=2018/month=10/bill-00001.snappy.parquet";
    copy(&data.join("cur-legacy-2018-10/Oct2018-WorkshopCUR-00001.snappy.parquet"), &bucket.join(key));
    let manifest = serde_json::json!({
        "assemblyId": "a1", "account": "1", "reportKeys": [key],
        "billingPeriod": { "start": "20181001T000000.000Z", "end": "20181101T000000.000Z" },
    });
    let folder = bucket.join("cur/bill/20181001-20181101");
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("bill-Manifest.json");
    std::fs::write(&path, manifest.to_string()).unwrap();
    // the time of the file is that of the delivery
    std::fs::File::options().append(true).open(path).unwrap().set_modified(now().into()).unwrap();
}

/// The CUR 2.0 bill as CSV, in the layout that its own manifest names.
fn lay_out_csv(data: &Path, bucket: &Path, gzip: bool) {
    let csv = std::fs::read(data.join("cur2-2026-04/csv/ha-project-CUR-daily-1-00001.csv")).unwrap();
    let ending = if gzip { "csv.gz" } else { "csv" };
    let key = format!(
        "x/data/BILLING_PERIOD=2026-04/2026-04-16T15:24:15.653Z-04e9e487-79a7-42b1-a680-1de7c660dc8f/x-00001.{ending}"
    );
    let path = bucket.join(&key);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    if gzip {
        let file = std::fs::File::create(path).unwrap();
        let mut gz = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
        gz.write_all(&csv).unwrap();
        gz.finish().unwrap();
    } else {
        std::fs::write(path, csv).unwrap();
    }
    let real = std::fs::read(data.join("cur2-2026-04/csv/ha-project-CUR-daily-1-Manifest.json")).unwrap();
    let mut manifest: serde_json::Value = serde_json::from_slice(&real).unwrap();
    manifest["dataFiles"] = serde_json::json!([format!("s3://ha-s3-bucket-1/{key}")]);
    let folder = bucket.join("x/metadata/BILLING_PERIOD=2026-04");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("x-Manifest.json"), manifest.to_string()).unwrap();
}

/// The CUR 2.0 bill in one of its forms.
fn lay_out_april(data: &Path, bucket: &Path, form: &str) {
    if form != "parquet" {
        return lay_out_csv(data, bucket, form == "csv.gz");
    }
    let root = data.join("cur2-2026-04/parquet");
    let status = std::process::Command::new("cp").arg("-r").arg(&root).arg(bucket.join("x")).status();
    assert!(status.unwrap().success());
    // copies of read-only files are read-only; let the temporary folder be removed
    std::process::Command::new("chmod").args(["-R", "u+w"]).arg(bucket).status().unwrap();
}

#[tokio::test]
async fn the_legacy_bill_has_the_storage_that_is_known_of_it() {
    let Some(data) = real_files() else { return };
    let world = IngestFixture::with(rules("cost_center")).await;
    lay_out_legacy(&data, &world.bucket());
    let report = ingest(&world, "2018-10").await;
    let storage = totals(&report, "storage_gb");
    assert_eq!(storage.total.to_string(), "1.8106679759");
    assert_eq!(storage.lines, 218);
    assert_eq!(report.rows, 119_307);
    assert_eq!(report.rounded_amounts, 0);
}

/// INDEX.md counts 22 untagged usage lines, 7 tagged ones and 15 credit lines with amount 0.
fn assert_april(report: &IngestReport) {
    let storage = totals(report, "storage_gb");
    assert_eq!(storage.unattributed.to_string(), "0.0078172177");
    assert_eq!(storage.attributed.to_string(), "0.0000068805");
    assert_eq!(storage.excluded.to_string(), "0");
    assert_eq!(storage.lines, 22 + 7 + 15);
    assert_eq!(report.rows, 1882);
}

/// Meters for much of what the real bills have, beside those of everybody, and a tag with several
/// values.
fn many_meters(tag_key: &str) -> Rules {
    let mut rules = rules(tag_key);
    rules.meters.extend([
        meter("volumes", "AmazonEC2", "EBS:VolumeUsage.gp2", "1"),
        meter("boxes", "AmazonEC2", "BoxUsage:*", "60"),
        meter("regional", "AmazonEC2", "DataTransfer-Regional-Bytes", "0.0166666667"),
        meter("databases", "AmazonRDS", "DataTransfer-*-Bytes", "1"),
    ]);
    rules.watched.extend([Pattern::product("AmazonEC2").unwrap(), Pattern::product("AmazonRDS").unwrap()]);
    rules
}

#[tokio::test]
async fn every_booked_cell_of_the_real_bills_is_the_sum_of_its_lines() {
    let Some(data) = real_files() else { return };
    let world = IngestFixture::with(many_meters("cost_center")).await;
    lay_out_legacy(&data, &world.bucket());
    ingest(&world, "2018-10").await;
    let (cells, lines) = every_cell_is_the_sum_of_its_lines(&world).await;
    assert!(cells > 100 && lines > 20_000, "{cells} cells, {lines} lines");
    let mut of_april = vec![];
    for form in ["parquet", "csv", "csv.gz"] {
        let world = IngestFixture::with(many_meters("workload")).await;
        lay_out_april(&data, &world.bucket(), form);
        ingest(&world, "2026-04").await;
        of_april.push(every_cell_is_the_sum_of_its_lines(&world).await);
    }
    assert!(of_april[0].0 > 10 && of_april[0].1 > 30, "{of_april:?}");
    assert!(of_april.iter().all(|found| *found == of_april[0]), "{of_april:?}");
}

/// One month is too little for a bound, and for a month that could be tried. The rules can be
/// applied to it: docs/forecast.md has the table.
#[tokio::test]
async fn the_rules_forecast_the_end_of_the_real_month() {
    let Some(data) = real_files() else { return };
    let world = IngestFixture::with(many_meters("cost_center")).await;
    lay_out_legacy(&data, &world.bucket());
    ingest(&world, "2018-10").await;
    let books = &world.context.books;
    let (first, last): (Day, Day) = ("2018-10-01".parse().unwrap(), "2018-10-31".parse().unwrap());
    let all = books.usage_of_meters((first, last)).await.unwrap();
    let days = |meter: &str| -> Vec<i128> {
        let day = |n| Day::from_epoch(first.epoch() + n).unwrap();
        (0..31).map(|n| all.get(&(meter.to_owned(), day(n))).map_or(0, |used| used.scaled())).collect()
    };
    let mut rows = vec![];
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/forecast.md")).unwrap();
    for meter in ["storage_gb", "volumes", "boxes", "regional"] {
        let days = days(meter);
        let month: i128 = days.iter().sum();
        let error = |rule: ForecastRule| {
            let off = [7, 14, 21].map(|after| {
                let horizon = Horizon { so_far: after, days: 31 - after };
                let rest = expected(rule, &days[..after], &WeekdayFactors::of(&days[..after]), horizon).sum();
                (rest - days[after..].iter().sum::<i128>()).abs() * 1_000 / month
            });
            off.map(|thousandths| format!("{}.{} %", thousandths / 10, thousandths % 10)).join(" / ")
        };
        rows.push(format!("| `{meter}` | {} |", ForecastRule::ALL.map(error).join(" | ")));
        let series = vec![days];
        let of = Histories { first, series: &series, all: &series[0] };
        let model = MeterModel::learn(of, Horizon { so_far: 21, days: 10 });
        assert_eq!((model.backtest.months.len(), model.forecast(&series[0], 10).rest().p90), (0, None));
    }
    assert!(page.contains(&rows.join("\n")), "docs/forecast.md lacks this table:\n{}", rows.join("\n"));
}

#[tokio::test]
async fn parquet_csv_and_gzip_of_one_bill_make_the_same_books() {
    let Some(data) = real_files() else { return };
    let mut books = vec![];
    for form in ["parquet", "csv", "csv.gz"] {
        let world = IngestFixture::with(rules("cost_center")).await;
        lay_out_april(&data, &world.bucket(), form);
        let report = ingest(&world, "2026-04").await;
        assert_april(&report);
        let lines = world.dump("SELECT product || usage_type || unit || line_type || claim || lines || '|' || tagged_lines || '|' || amount FROM bill_lines ORDER BY 1").await;
        books.push((world.ledger().await, lines));
    }
    assert!(!books[0].0.is_empty());
    assert_eq!(books[0], books[1]);
    assert_eq!(books[0], books[2]);
}
