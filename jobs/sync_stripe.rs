//! `sync_stripe`: Stripe's subscriptions → the books, so that billing periods and what can be
//! billed do not hang on webhooks that were missed.
//!
//! A full pass reads every subscription, page by page, and is made once a day; the runs between ask
//! for those that were made since the one before. A page is written as it comes, and writes only
//! what differs, so a run that breaks off loses nothing and the next one starts anew. Periods are
//! made of it by `roll_periods`.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::context::Context;
use crate::job::{Failure, Job};
use crate::stripe::preconditions::{check_clock, failure};
use crate::stripe::{BillingSettings, LISTED, RemoteSubscription, StripeMode};
use books::customers::billing_period;
use books::customers::subscription::{SubscriptionItemUpdate, SubscriptionUpdate};
use books::{BooksError, Database};

/// A full pass is made when the last one is older than this, in seconds.
const FULL: i64 = 86_400;
/// Subscriptions that were made so long before the last run are asked for again, in seconds.
const OVERLAP: i64 = 86_400;
/// Where the last full pass, and the last run, are remembered.
const REMEMBERED: [&str; 2] = ["synced_full", "synced"];

/// Read subscriptions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyncStripe {
    /// Read all of them, however new the last full pass is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub full: bool,
}

/// What was read.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SyncReport {
    /// True when there is no key, so nobody was asked.
    pub without_key: bool,
    /// True when every subscription was read.
    pub full: bool,
    pub read: u64,
    /// Of them, those that were new or said something new.
    pub changed: u64,
    /// Metered items that were new, changed or gone.
    pub items: u64,
    /// Subscriptions of Stripe customers that nobody here has.
    pub unknown_customers: u64,
    /// Subscriptions that live in the books and that Stripe does not know: another account?
    pub unknown_to_stripe: u64,
    /// Metered items that are not billed by the month: their periods are not ours.
    pub not_monthly: u64,
    /// Metered items whose current period is not the month that the anchor makes.
    pub other_periods: u64,
    /// Subscriptions that cannot be kept: what is wrong with them is in the log.
    pub unusable: u64,
    /// Some names of the last four.
    pub names: Vec<String>,
}

impl Job for SyncStripe {
    const KIND: &'static str = "sync_stripe";
    const DESCRIPTION: &'static str = "read customers' subscriptions from Stripe";
    const TIMEOUT: Duration = Duration::from_secs(3600);
    type Report = SyncReport;

    fn key(&self) -> Option<String> {
        Some(Self::KIND.to_owned())
    }

    fn needs_attention(report: &SyncReport) -> bool {
        report.unknown_to_stripe + report.not_monthly + report.other_periods + report.unusable > 0
    }

    async fn run(self, context: &Context, now: Timestamp) -> Result<SyncReport, Failure> {
        let scope = if self.full { SyncScope::All } else { SyncScope::Changed };
        let report = sync(&context.books, &context.billing, now, scope).await?;
        if Self::needs_attention(&report) {
            tracing::warn!("subscriptions at Stripe need a look: {}", report.names.join(", "));
        }
        Ok(report)
    }
}

/// Which subscriptions are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncScope {
    /// Those that were made since the last run; all of them when the last full pass is a day old.
    Changed,
    All,
}

/// Reads subscriptions as of `now`; pages before an error are kept.
pub async fn sync(
    books: &Database,
    billing: &BillingSettings,
    now: Timestamp,
    scope: SyncScope,
) -> Result<SyncReport, Failure> {
    books.require_migrated().await?;
    let StripeMode::Stripe(account) = &billing.mode else {
        return Ok(SyncReport { without_key: true, ..SyncReport::default() });
    };
    let last = async |name| -> Result<Option<i64>, BooksError> {
        Ok(books.setting(name).await?.and_then(|at| at.parse().ok()))
    };
    let (whole, some) = (last(REMEMBERED[0]).await?, last(REMEMBERED[1]).await?);
    // a pass that began before a restoration was found says nothing of what was lost
    let full = scope == SyncScope::All
        || books.awaits_subscriptions(now).await?
        || whole.is_none_or(|at| at > now.as_second() || now.as_second() - at >= FULL);
    let since = some.filter(|_| !full).map(|at| at - OVERLAP);
    let mut report = SyncReport { full, ..SyncReport::default() };
    let mut seen: BTreeSet<String> = BTreeSet::new();
    let (mut after, started) = (None, Instant::now());
    loop {
        let page = account.subscriptions(since, after).await.map_err(failure)?;
        check_clock(page.date, now + started.elapsed())?;
        seen.extend(page.items.iter().map(|s| s.id.clone()));
        keep(books, page.items, now, &mut report).await?;
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let name = |report: &mut SyncReport, id: &str| {
        if report.names.len() < LISTED {
            report.names.push(id.to_owned());
        }
    };
    if full {
        for id in books.living_subscriptions().await?.iter().filter(|id| !seen.contains(*id)) {
            report.unknown_to_stripe += 1;
            name(&mut report, id);
        }
        books.remember(REMEMBERED[0], now.as_second().to_string()).await?;
    }
    books.remember(REMEMBERED[1], now.as_second().to_string()).await?;
    Ok(report)
}

async fn keep(
    books: &Database,
    page: Vec<RemoteSubscription>,
    now: Timestamp,
    report: &mut SyncReport,
) -> Result<(), BooksError> {
    let ids: BTreeSet<String> = page.iter().map(|s| s.customer.clone()).collect();
    let ours = books.customers_by_stripe_id(ids.into_iter().collect()).await?;
    let mut told = vec![];
    for s in page {
        report.read += 1;
        let Some(customer) = ours.get(&s.customer) else {
            report.unknown_customers += 1;
            continue;
        };
        if let Some(why) = fault(&s) {
            report.unusable += 1;
            tracing::warn!(subscription = s.id, "subscription {} cannot be kept: {why}", s.id);
            note(report, &s.id);
            continue;
        }
        let ends = s.ended.is_some() || matches!(s.status.as_str(), "canceled" | "incomplete_expired");
        let month = billing_period::month_of(s.anchor, now.as_second());
        for item in s.items.iter().filter(|_| !ends) {
            let is_now = item.period_start <= now.as_second() && now.as_second() < item.period_end;
            let differs = is_now && (item.period_start, item.period_end) != (month.0.max(s.started), month.1);
            report.not_monthly += u64::from(!item.monthly);
            report.other_periods += u64::from(item.monthly && differs);
            if !item.monthly || differs {
                note(report, &s.id);
            }
        }
        let items = s.items.into_iter().map(|i| SubscriptionItemUpdate {
            id: i.id,
            meter: i.meter,
            price: i.price,
            currency: i.currency,
            starts_at: i.period_start,
            ends_at: i.period_end,
        });
        told.push(SubscriptionUpdate {
            id: s.id,
            customer: customer.clone(),
            status: s.status,
            anchor: s.anchor,
            started: s.started,
            ended: s.ended,
            items: items.collect(),
        });
    }
    let written = books.upsert_subscriptions(told, now).await?;
    report.changed += written.subscriptions;
    report.items += written.items;
    Ok(())
}

fn note(report: &mut SyncReport, id: &str) {
    if report.names.len() < LISTED && !report.names.iter().any(|n| n == id) {
        report.names.push(id.to_owned());
    }
}

/// Why a subscription is none that the books can hold.
fn fault(s: &RemoteSubscription) -> Option<String> {
    const STATUSES: [&str; 8] =
        ["trialing", "active", "past_due", "unpaid", "canceled", "incomplete", "incomplete_expired", "paused"];
    let sane = |t: i64| (0..=32_503_680_000).contains(&t);
    if !STATUSES.contains(&s.status.as_str()) {
        return Some(format!("its status `{}` is not known", s.status));
    }
    if !sane(s.anchor) || !sane(s.started) || s.ended.is_some_and(|e| !sane(e) || e < s.started) {
        return Some("its instants cannot be".into());
    }
    None
}
