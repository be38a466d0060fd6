//! `sync_stripe`: reads Stripe's subscriptions into the books, so that billing periods and
//! subscription items do not depend on webhooks, which may be missed.
//!
//! A full pass reads every subscription, page by page, once a day. The runs between read the
//! subscriptions created since the run before, and those of customers who got their Stripe id
//! since, because their subscriptions may be older. Each page is written at once, and only where it
//! differs, so a run that breaks off loses nothing and the next one starts from the beginning.
//! `roll_periods` makes billing periods from the subscriptions.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::context::Context;
use crate::job::{Failure, Job};
use crate::stripe::account::ListedSubscriptions;
use crate::stripe::objects::names;
use crate::stripe::preconditions::{check_clock, failure};
use crate::stripe::{BillingSettings, LISTED, RemoteItem, RemoteSubscription, StripeMode, Unsupported};
use books::customers::billing_period;
use books::customers::subscription::{SubscriptionItemUpdate, SubscriptionUpdate};
use books::units::form;
use books::{BooksError, Database};

/// Age in seconds at which the last full pass is too old, and another one is made.
const FULL: i64 = 86_400;
/// Seconds before the last run from which subscriptions are read again.
const OVERLAP: i64 = 86_400;
/// The settings with the instants of the last full pass and of the last run.
const LAST_FULL_PASS: &str = "synced_full";
const LAST_RUN: &str = "synced";
/// The setting with the newest Stripe id that a run asked for.
const LAST_STRIPE_ID: &str = "synced_stripe_id";
/// Subscriptions on a page of Stripe's list. A run reads all pages when it would ask for more new
/// Stripe ids than there are pages, and for more than this.
const PAGE: usize = 100;

/// Read subscriptions from Stripe.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyncStripe {
    /// Read all subscriptions, even if the last full pass is recent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub full: bool,
}

/// What a run read and wrote.
#[derive(Clone, Debug, Default, JsonSchema, Serialize)]
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
    /// Living subscriptions with something that is not billed rightly, by its name: of their own,
    /// or of a metered item. The books' periods are months, so an item that is not monthly is one.
    pub unsupported: BTreeMap<String, u64>,
    /// Living subscriptions with one of these because of which the invoice has another amount than
    /// the books say. A trial or a schedule alone is none.
    pub billed_wrongly: u64,
    /// Living subscriptions with `billing_mode` `flexible`.
    pub flexible: u64,
    /// Metered items with a current period other than the month that starts at the anchor.
    pub other_periods: u64,
    /// Subscriptions that the books cannot store; the log has the reasons.
    pub unusable: u64,
    /// Some ids of the subscriptions that need attention.
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
        report.unknown_to_stripe + report.billed_wrongly + report.other_periods + report.unusable > 0
    }

    async fn run(self, context: &Context, now: Timestamp) -> Result<SyncReport, Failure> {
        let scope = if self.full { SyncScope::All } else { SyncScope::Changed };
        let report = sync(&context.books, &context.billing, now, scope).await?;
        if Self::needs_attention(&report) {
            let found: Vec<String> = report.unsupported.iter().map(|(name, n)| format!("{n} with {name}")).collect();
            let (names, found) = (report.names.join(", "), found.join(", "));
            tracing::warn!("subscriptions in Stripe need attention: {names}; not billed rightly: {found}");
        }
        Ok(report)
    }
}

/// Which subscriptions are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncScope {
    /// Subscriptions created since the last run, or of Stripe ids that the books have since; all of
    /// them if the last full pass is a day old.
    Changed,
    All,
}

/// When Stripe's subscriptions were last read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LastRead {
    /// All of them; none if never, or not since an upgrade that reads more of them.
    pub all: Option<Timestamp>,
    /// The new ones.
    pub new: Option<Timestamp>,
}

/// When Stripe's subscriptions were last read.
pub async fn last_read(books: &Database) -> Result<LastRead, BooksError> {
    let at = async |name| -> Result<Option<Timestamp>, BooksError> {
        let at = books.setting(name).await?.and_then(|at| at.parse().ok()).filter(|at| *at > 0);
        Ok(at.and_then(|at| Timestamp::from_second(at).ok()))
    };
    Ok(LastRead { all: at(LAST_FULL_PASS).await?, new: at(LAST_RUN).await? })
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
    let (whole, some) = (last(LAST_FULL_PASS).await?, last(LAST_RUN).await?);
    let new = books.new_stripe_ids(last(LAST_STRIPE_ID).await?).await?;
    let are_many = new.ids.len() > PAGE && new.ids.len() > books.living_subscriptions().await?.len() / PAGE;
    let is_due = whole.is_none_or(|at| at > now.as_second() || now.as_second() - at >= FULL);
    let full = scope == SyncScope::All || is_due || are_many;
    let mut report = SyncReport { full, ..SyncReport::default() };
    let mut seen: BTreeSet<String> = BTreeSet::new();
    let lists = match some.filter(|_| !full) {
        None => vec![ListedSubscriptions::All],
        Some(at) => {
            let of_new = new.ids.into_iter().map(ListedSubscriptions::OfCustomer);
            [ListedSubscriptions::CreatedSince(at - OVERLAP)].into_iter().chain(of_new).collect()
        }
    };
    let started = Instant::now();
    for list in lists {
        let mut after = None;
        loop {
            let page = match account.subscriptions(&list, after).await {
                Err(error) if list.is_unknown_to_stripe(&error) => break,
                page => page.map_err(failure)?,
            };
            check_clock(page.date, now + started.elapsed())?;
            let is_new = |s: &RemoteSubscription| seen.insert(s.id.clone());
            let items = page.items.into_iter().filter(is_new).collect();
            keep(books, items, now, &mut report).await?;
            after = page.next;
            if after.is_none() {
                break;
            }
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
        books.put_setting(LAST_FULL_PASS, now.as_second().to_string()).await?;
    }
    books.put_setting(LAST_RUN, now.as_second().to_string()).await?;
    books.put_setting(LAST_STRIPE_ID, new.newest.to_string()).await?;
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
        let ended = s.ended.is_some() || matches!(s.status.as_str(), "canceled" | "incomplete_expired");
        if !ended {
            examine(&s, now, report);
        }
        updates.push(update(s, customer.clone()));
    }
    let written = books.upsert_subscriptions(updates, now).await?;
    report.changed += written.subscriptions;
    report.items += written.items;
    Ok(())
}

/// Counts what a living subscription has that is not billed rightly.
fn examine(s: &RemoteSubscription, now: Timestamp, report: &mut SyncReport) {
    let month = billing_period::month_of(s.anchor, now.as_second());
    let differs = |item: &RemoteItem| {
        let is_now = item.period_start <= now.as_second() && now.as_second() < item.period_end;
        is_now
            && !item.unsupported.contains(&Unsupported::NotMonthly)
            && (item.period_start, item.period_end) != (month.0.max(s.started), month.1)
    };
    let others = s.items.iter().filter(|item| differs(item)).count();
    report.other_periods += u64::try_from(others).unwrap_or(u64::MAX);
    let has: BTreeSet<Unsupported> =
        s.unsupported.iter().chain(s.items.iter().flat_map(|item| &item.unsupported)).copied().collect();
    for one in &has {
        *report.unsupported.entry(one.name().to_owned()).or_default() += 1;
    }
    let wrongly = has.iter().any(|one| one.bills_wrongly());
    report.billed_wrongly += u64::from(wrongly);
    report.flexible += u64::from(s.flexible);
    if wrongly || others > 0 {
        note(report, &s.id);
    }
}

fn update(s: RemoteSubscription, customer: String) -> SubscriptionUpdate {
    // the books know a meter by its id, so an item without one is named, and not stored
    let items = s.items.into_iter().filter(|item| !item.meter.is_empty());
    let items = items.map(|i| SubscriptionItemUpdate {
        id: i.id,
        meter: i.meter,
        price: i.price,
        unit_amount: i.unit_amount.map(|amount| amount.normalize().to_string()),
        currency: i.currency,
        quantity: i.quantity,
        tiered: i.tiered,
        unsupported: names(&i.unsupported),
        created_at: i.created,
        starts_at: i.period_start,
        ends_at: i.period_end,
    });
    SubscriptionUpdate {
        id: s.id,
        customer,
        status: s.status,
        anchor: s.anchor,
        started: s.started,
        ended: s.ended,
        stripe_customer: s.customer,
        currency: s.currency,
        unsupported: names(&s.unsupported),
        items: items.collect(),
    }
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
    if s.currency.len() != 3 || !s.currency.bytes().all(|b| b.is_ascii_uppercase()) {
        return Some(format!("its currency `{}` is not three letters", s.currency));
    }
    if s.customer.is_empty() || s.customer.len() > 255 {
        return Some("its customer has no usable id".into());
    }
    None
}
