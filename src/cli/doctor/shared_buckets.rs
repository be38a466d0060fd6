//! Whether S3's reports about shared buckets can be listed, and whether there are any.

use books::shared_bucket::ReportSource;
use jobs::context::ReportPlace;
use jobs::source::{Listing, SourceError};

use super::{Checks, source_remedy};
use crate::config::Config;
use crate::wiring;

pub(super) async fn check(config: &Config, checks: &mut Checks) {
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
                reports(&format!("{} of {}", source.name(), bucket.name), source, place, checks).await;
            }
        }
    }
}

async fn reports(what: &str, source: ReportSource, place: &ReportPlace, checks: &mut Checks) {
    let listing = match place.source.list(&place.prefix).await {
        Ok(listing) => listing,
        Err(error) => return checks.wrong(what, error.to_string(), remedy(&error)),
    };
    let at = place.source.name(&place.prefix);
    match source {
        ReportSource::Inventory => match newest_inventory(&listing, &place.prefix) {
            Some(newest) => checks.ok(what, format!("the newest is of {newest}")),
            None => checks.warn(
                what,
                format!("none below {at}"),
                "wait two days after the inventory was configured; then check that the location ends with the name of \
                 the bucket and the id of the configuration",
            ),
        },
        ReportSource::AccessLogs if listing.objects.is_empty() && listing.folders.is_empty() => checks.warn(
            what,
            format!("none below {at}"),
            "wait some hours after logging was switched on; then check its target bucket and prefix",
        ),
        ReportSource::AccessLogs => checks.ok(what, format!("there are some below {at}")),
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
