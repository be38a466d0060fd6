//! `sync_stripe`: reads Stripe's subscriptions into the books, so that billing periods and
//! subscription items do not depend on webhooks, which may be missed.
//!
//! A full pass reads every subscription, page by page, once a day. The runs between read the
//! subscriptions created since the run before. Each page is written at once, and only where it
//! differs, so a run that breaks off loses nothing and the next one starts from the beginning.
//! `roll_periods` makes billing periods from the subscriptions.

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
use books::units::form;
use books::{BooksError, Database};

/// Age in seconds at which the last full pass is too old, and another one is made.
const FULL: i64 = 86_400;
/// Seconds before the last run from which subscriptions are read again.
const OVERLAP: i64 = 86_400;
/// The settings that hold the instants of the last full pass and of the last run.
const REMEMBERED: [&str; 2] = ["synced_full", "synced"];

/// Read subscriptions from Stripe.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyncStripe {
    /// Read all subscriptions, even if the last full pass is recent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub full: bool,
}

/// What a run read and wrote.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SyncReport {
    /// True if there is no key, so no request was made to Stripe.
    pub without_key: bool,
    /// True if every subscription was read.
    pub full: bool,
    pub read: u64,
    /// Of these, the subscriptions that were new or had changed.
    pub changed: u64,
    /// Metered items that were new, had changed, or were removed.
    pub items: u64,
    /// Subscriptions of Stripe customers that belong to no customer in the books.
    pub unknown_customers: u64,
    /// Subscriptions that have not ended in the books and that Stripe does not have. The key may
    /// be of another account.
    pub unknown_to_stripe: u64,
    /// Metered items that are not billed monthly: the books' periods are months.
    pub not_monthly: u64,
    /// Metered items with a current period other than the month that starts at the anchor.
    pub other_periods: u64,
    /// Subscriptions that the books cannot store; the log has the reasons.
    pub unusable: u64,
    /// Some ids of the subscriptions counted in the last four fields.
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
            tracing::warn!("subscriptions in Stripe need attention: {}", report.names.join(", "));
        }
        Ok(report)
    }
}

/// Which subscriptions are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncScope {
    /// Subscriptions created since the last run; all of them if the last full pass is a day old.
    Changed,
    All,
}

/// Reads subscriptions as of `now`. Pages before an error stay written.
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
    // a full pass that began before the restore was found does not cover what was lost
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
    let mut updates = vec![];
    for s in page {
        report.read += 1;
        let Some(customer) = ours.get(&s.customer) else {
            report.unknown_customers += 1;
            continue;
        };
        if let Some(why) = fault(&s) {
            report.unusable += 1;
            tracing::warn!(subscription = s.id, "subscription {} cannot be stored: {why}", s.id);
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
        updates.push(SubscriptionUpdate {
            id: s.id,
            customer: customer.clone(),
            status: s.status,
            anchor: s.anchor,
            started: s.started,
            ended: s.ended,
            items: items.collect(),
        });
    }
    let written = books.upsert_subscriptions(updates, now).await?;
    report.changed += written.subscriptions;
    report.items += written.items;
    Ok(())
}

fn note(report: &mut SyncReport, id: &str) {
    if report.names.len() < LISTED && !report.names.iter().any(|n| n == id) {
        report.names.push(id.to_owned());
    }
}

/// Why the books cannot store a subscription; none if they can.
fn fault(s: &RemoteSubscription) -> Option<String> {
    const STATUSES: [&str; 8] =
        ["trialing", "active", "past_due", "unpaid", "canceled", "incomplete", "incomplete_expired", "paused"];
    let ids = s.items.iter().flat_map(|i| [&i.id, &i.meter, &i.price]).chain([&s.id]);
    if let Some(id) = ids.into_iter().find(|id| !form::is_stripe_id(id)) {
        return Some(format!("`{}` is no id: {}", id.escape_debug(), form::stripe_id_rule()));
    }
    let sane = |t: i64| (0..=32_503_680_000).contains(&t);
    if !STATUSES.contains(&s.status.as_str()) {
        return Some(format!("its status `{}` is not known", s.status));
    }
    if !sane(s.anchor) || !sane(s.started) || s.ended.is_some_and(|e| !sane(e) || e < s.started) {
        return Some("its start, anchor or end is out of range".into());
    }
    None
}
