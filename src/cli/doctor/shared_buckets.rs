//! Whether S3's reports about shared buckets can be listed, and whether there are new ones.

use books::shared_bucket::ReportSource;
use jiff::{SignedDuration, Timestamp};
use jobs::context::ReportPlace;
use jobs::source::{Listing, SourceError};

use crate::cli::checks::{Checks, source_remedy};
use crate::config::Config;
use crate::format::ago;
use crate::wiring;

/// S3 begins an Inventory each day, and delivers it within two.
const INVENTORY_STALE: SignedDuration = SignedDuration::from_hours(4 * 24);

pub(super) async fn check(config: &Config, now: Timestamp, checks: &mut Checks) {
    if config.shared_buckets.is_empty() {
        return;
    }
    let buckets = match wiring::shared_buckets(config).await {
        Ok(buckets) => buckets,
        Err(error) => return checks.wrong("shared buckets", format!("{error:#}"), "mend [[shared_buckets]]"),
    };
    for bucket in buckets.values() {
        let places = [(ReportSource::Inventory, &bucket.inventory), (ReportSource::AccessLogs, &bucket.access_logs)];
        for (source, place) in places {
            if let Some(place) = place {
                let listing = place.source.list(&place.prefix).await;
                let place = FoundReports { source, place, listing, now };
                place.judge(&format!("{} of {}", source.name(), bucket.name), checks);
            }
        }
    }
}

/// What lies at the place of a bucket's reports.
struct FoundReports<'a> {
    source: ReportSource,
    place: &'a ReportPlace,
    listing: Result<Listing, SourceError>,
    now: Timestamp,
}

impl FoundReports<'_> {
    fn judge(&self, what: &str, checks: &mut Checks) {
        let listing = match &self.listing {
            Ok(listing) => listing,
            Err(error) => return checks.wrong(what, error.to_string(), remedy(error)),
        };
        let at = self.place.source.name(&self.place.prefix);
        match self.source {
            ReportSource::Inventory => self.inventories(listing, what, &at, checks),
            ReportSource::AccessLogs if listing.objects.is_empty() && listing.folders.is_empty() => checks.warn(
                what,
                format!("none below {at}"),
                "wait some hours after logging was switched on; then check its target bucket and prefix",
            ),
            ReportSource::AccessLogs => checks.ok(what, format!("there are some below {at}")),
        }
    }

    fn inventories(&self, listing: &Listing, what: &str, at: &str, checks: &mut Checks) {
        let Some(newest) = newest_inventory(listing, &self.place.prefix) else {
            return checks.warn(
                what,
                format!("none below {at}"),
                "wait two days after the inventory was configured; then check that the location ends with the name of \
                 the bucket and the id of the configuration",
            );
        };
        let scanned_at = scan_time(newest).filter(|at| self.now.duration_since(*at) > INVENTORY_STALE);
        match scanned_at {
            None => checks.ok(what, format!("the newest is of {newest}")),
            Some(scanned_at) => checks.warn(
                what,
                format!("the newest is of {newest}, {}", ago(scanned_at, self.now)),
                "look whether the inventory is still configured at S3, daily and to this place",
            ),
        }
    }
}

fn remedy(error: &SourceError) -> &'static str {
    source_remedy(error).unwrap_or("mend `location` in [[shared_buckets]]: docs/shared-bucket.md")
}

/// The folder of the newest inventory, which is named by the time of its scan: `2026-11-28T01-00Z`.
fn newest_inventory<'a>(listing: &'a Listing, prefix: &str) -> Option<&'a str> {
    let names = listing.folders.iter().filter_map(|folder| folder.strip_prefix(prefix)?.strip_suffix('/'));
    let is_time = |name: &&str| {
        let form = "0000-00-00T00-00Z";
        name.len() == form.len()
            && name.bytes().zip(form.bytes()).all(|(b, f)| if f == b'0' { b.is_ascii_digit() } else { b == f })
    };
    names.filter(is_time).max()
}

/// The time of a scan, from the name of its folder.
fn scan_time(folder: &str) -> Option<Timestamp> {
    let (day, time) = folder.strip_suffix('Z')?.split_once('T')?;
    format!("{day}T{}:00Z", time.replace('-', ":")).parse().ok()
}
