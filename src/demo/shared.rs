//! The part of `meter demo` about a bucket that all customers share.

use std::path::Path;

use anyhow::anyhow;
use books::shared_bucket::Remainder;
use books::units::quantity::Quantity;
use jiff::Timestamp;
use jobs::context::Context;
use jobs::ingest_access_logs::IngestAccessLogs;
use jobs::ingest_cur::IngestReport;
use jobs::ingest_inventory::IngestInventory;
use jobs::job::Job;

use super::step::{result, usd};
use crate::config::{ReportConfig, SharedBucketConfig};
use crate::print;

pub(super) const BUCKET: &str = "demo-uploads";
/// The folder with the reports, beside the bucket with the bill.
pub(super) const REPORTS: &str = "reports";

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

/// Shows how the bill of the bucket is divided.
pub(super) fn show(report: &IngestReport) {
    let charges =
        report.meters.iter().filter(|m| ["storage_cost(USD)", "transfer_cost(USD)"].contains(&&*m.totals.meter));
    let charges: Quantity = charges.map(|m| m.totals.booked).sum();
    for (meter, unit) in [("storage_gb", "GB-months"), ("transfer_gb", "GB")] {
        let days = || report.shared_days.iter().filter(move |day| day.meter == meter);
        let billed: Quantity = days().map(|day| day.billed).sum();
        let apportioned: Quantity = days().map(|day| day.apportioned).sum();
        let (has, of) = (print::rounded(apportioned, 2), print::rounded(billed, 2));
        print::out(&format!("{BUCKET}, {meter}: customers have {has} of {of} {unit}"));
    }
    result(&format!("the rest is not settled yet, or the house's. Storage and transfer cost {} at AWS.", usd(charges)));
}
