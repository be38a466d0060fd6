//! The part of `meter demo` about a bucket that all customers share.

use std::path::Path;

use anyhow::anyhow;
use books::shared_bucket::Remainder;
use books::shared_bucket::stored::BookedShare;
use books::units::calendar::Day;
use jiff::Timestamp;
use jobs::context::Context;
use jobs::ingest_access_logs::IngestAccessLogs;
use jobs::ingest_inventory::IngestInventory;
use jobs::job::Job;

use crate::config::{ReportConfig, SharedBucketConfig};
use crate::print;

pub(super) const BUCKET: &str = "demo-uploads";
/// The folder with the reports, beside the bucket with the bill.
pub(super) const REPORTS: &str = "reports";
/// Days of the bill that are shown.
const SHOWN: i32 = 5;

/// The bucket, with S3's reports in a folder.
pub(super) fn config(folder: &Path) -> SharedBucketConfig {
    let report = |place: &str| {
        let location = folder.join(REPORTS).join(place).display().to_string();
        Some(ReportConfig { location, region: None, endpoint: None })
    };
    SharedBucketConfig {
        customer_uploads: false,
        name: BUCKET.into(),
        customer_key: Some("c/{customer}/".into()),
        customer_pattern: None,
        customer_parameter: Some("x-cc".into()),
        expire_days: Some(1),
        quiet_hours: 0,
        remainder: Remainder::House,
        floor_percent: 50,
        ceiling_percent: 150,
        band_percent: 5,
        inventory: report(&format!("inventory/{BUCKET}/meter")),
        access_logs: report("access-logs"),
    }
}

/// Reads the reports, as a worker does each hour.
pub(super) async fn read(context: &Context, now: Timestamp) -> anyhow::Result<()> {
    let bucket = || BUCKET.to_owned();
    for (job, report) in [
        (IngestInventory::KIND, IngestInventory { bucket: bucket() }.run(context, now).await),
        (IngestAccessLogs::KIND, IngestAccessLogs { bucket: bucket() }.run(context, now).await),
    ] {
        let report = report.map_err(|failure| anyhow!("{:#}", failure.error()))?;
        let (days, counted) = (report.days_read.len(), print::count(report.counted));
        print::out(&format!("  {job}: {days} days read, {counted} counted, {} of nobody", report.of_nobody));
    }
    Ok(())
}

/// Shows the newest days of the bill.
pub(super) async fn show(context: &Context, now: Timestamp) -> anyhow::Result<()> {
    let today = i32::try_from(now.as_second().div_euclid(86_400))?;
    let day = |epoch: i32| Day::from_epoch(epoch).unwrap_or(Day::EPOCH);
    let shares: Vec<BookedShare> = context.books.booked_shares(day(today - SHOWN), day(today)).await?;
    print::out(&format!("$ meter shared {BUCKET} --days {SHOWN}"));
    print::shared::booked(&shares);
    Ok(())
}
