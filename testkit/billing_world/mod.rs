//! Books and a fake Stripe for a few customers. The test knows their usage independently of the
//! books.

pub mod run;

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use books::Database;
use books::customers::subscription::SubscriptionUpdate;
use books::limits::overage_billing::OverageBilling;
use books::store::database::Durability;
use fake_stripe::{FakeStripe, Options, Subscription};
use jiff::Timestamp;
use jobs::context::{Context, EnforcementSettings, ReadSettings};
use jobs::stripe::transport::Transport;
use jobs::stripe::{BillingSettings, Mapping, StripeAccount, StripeMode};
use libsql::params;
use tempfile::TempDir;

pub const HOUR: i64 = 3600;
pub const DAY: i64 = 86_400;
/// Customers of a world. The n-th has the Stripe customer `cus_n` and the subscription `sub_n`.
pub const CUSTOMERS: [&str; 3] = ["ann", "bob", "cyd"];
pub const METERS: [&str; 2] = ["chime_minutes", "storage_gb"];
/// Included in each period, in 10⁻¹⁰ units. The first meter reports all usage, the second the
/// usage beyond this.
const INCLUDED: i64 = 1_500_000_000_000;
/// Stripe's units for each of ours.
const PER_UNIT: [i64; 2] = [1000, 7];
const UNIT: i64 = 10_000_000_000;

pub fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

pub fn day_text(day: i64) -> String {
    at(day * DAY).to_string()[..10].to_owned()
}

/// Migrated books with one customer, to be copied.
pub struct Template {
    folder: TempDir,
}

/// A folder in memory if the machine has one: other tests cover the disk.
fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { TempDir::new_in(memory).unwrap() } else { TempDir::new().unwrap() }
}

impl Template {
    pub async fn new() -> Self {
        let folder = folder();
        let books = Database::open_local(&folder.path().join("meter.db")).await.unwrap();
        books.migrate(at(0)).await.unwrap();
        let statements = [
            "INSERT INTO bill_versions (payer, month, export, format, version, manifest_key, manifest_digest, rules_digest, account, delivered_at, \
             state, rows, counted_rows, rounded_amounts, decided_at) VALUES ('p', '2026-01', 'e', 'cur2', 'v', 'k', 'd', 'r', '', '', 'applied', 0, 0, 0, '')",
            "INSERT INTO plans (name, effective_from, currency, applied_at) VALUES ('pro', 0, 'USD', 0)",
            "INSERT INTO plan_meters (plan, effective_from, meter, included, price, report) VALUES \
             ('pro', 0, 'chime_minutes', 0, '0.01', 'total'), ('pro', 0, 'storage_gb', 1500000000000, '0.02', 'overage')",
            "INSERT INTO customers (id, plan, stripe_customer_id) VALUES ('ann', 'pro', 'cus_0'), ('bob', 'pro', 'cus_1'), ('cyd', 'pro', 'cus_2')",
            // the customer signed up in the simulated past
            "DELETE FROM turn_periods",
            "DELETE FROM billing_periods",
        ];
        books
            .transaction(async move |c| {
                for sql in statements {
                    c.execute(sql, ()).await?;
                }
                Ok(())
            })
            .await
            .unwrap();
        books.checkpoint().await.unwrap();
        Self { folder }
    }
}

/// A billing period in the books.
#[derive(Clone, Debug)]
pub struct Period {
    pub start: i64,
    pub end: i64,
    pub billed: bool,
    pub first_day: String,
    pub last_day: String,
}

/// Books, a fake Stripe, and the usage of three customers, which is recorded apart from the books.
pub struct BillingWorld {
    pub context: Context,
    pub stripe: FakeStripe,
    folder: TempDir,
    file: PathBuf,
    usage: Mutex<BTreeMap<(usize, &'static str, i64), i64>>,
    /// The start of each customer's subscription.
    pub begins: Vec<i64>,
}

/// Long enough that a busy machine does not look like a server without an answer.
const TIMEOUT: Duration = Duration::from_millis(150);

pub fn account(url: &str, key: &str, max_concurrent: usize) -> StripeAccount {
    /// One client for all worlds: reading the machine's certificates takes longer than a history.
    static CLIENT: LazyLock<reqwest::Client> = LazyLock::new(|| {
        // it fails if another part of the process has installed a provider
        drop(rustls::crypto::ring::default_provider().install_default());
        reqwest::Client::builder().timeout(TIMEOUT).no_proxy().build().unwrap()
    });
    let transport = Transport::new(CLIENT.clone(), reqwest::Url::parse(url).unwrap(), key.into());
    StripeAccount::new(transport, NonZeroU32::new(1_000_000).unwrap(), max_concurrent, TIMEOUT)
}

pub fn billing(mode: StripeMode) -> BillingSettings {
    let mapping = |i: usize| {
        let mapping = Mapping {
            event_name: format!("{}_events", METERS[i]),
            per_unit: PER_UNIT[i].into(),
            display_name: METERS[i].into(),
        };
        (METERS[i].to_owned(), mapping)
    };
    BillingSettings {
        meters: [mapping(0), mapping(1)].into(),
        grace: HOUR,
        overage: OverageBilling::UpToBudget,
        reads_per_day: 100_000,
        settle_delay: 24 * HOUR,
        mode,
    }
}

pub fn context(books: Database, billing: BillingSettings) -> Context {
    Context {
        books,
        exports: Arc::new(BTreeMap::new()),
        read_settings: ReadSettings::new(books::usage::meter::Rules {
            tag_key: "customer".into(),
            meters: vec![],
            ignore: vec![],
            watched: vec![],
        }),
        enforcement: Arc::new(EnforcementSettings::default()),
        webhook: None,
        billing: Arc::new(billing),
    }
}

impl BillingWorld {
    pub async fn new(template: &Template, rng: &mut fastrand::Rng, begin: i64) -> Self {
        let folder = folder();
        let file: PathBuf = folder.path().join("meter.db");
        std::fs::copy(template.folder.path().join("meter.db"), &file).unwrap();
        let books = Database::open_local_with(&file, Durability::Normal).await.unwrap();
        // an instant in the month before
        let begins: Vec<i64> = CUSTOMERS.iter().map(|_| begin - rng.i64(0..28 * DAY)).collect();
        let lag = [0, 0, 120, 2 * HOUR][rng.usize(0..4)];
        let options = Options { now: Some(begin), summary_lag_seconds: lag, ..Options::default() };
        let stripe = FakeStripe::start(options).await.unwrap();
        {
            let mut world = stripe.world();
            for meter in METERS {
                world.add_meter(&format!("{meter}_events"));
                world.add_price(&format!("price_{meter}"), &format!("{meter}_events"), "usd", "1", None);
            }
            let prices = METERS.map(|m| format!("price_{m}"));
            let prices: Vec<&str> = prices.iter().map(String::as_str).collect();
            for (n, begin) in begins.iter().enumerate() {
                world.add_customer(&format!("cus_{n}"));
                world.add_subscription(Subscription::monthly(
                    &format!("sub_{n}"),
                    &format!("cus_{n}"),
                    *begin,
                    &prices,
                ));
            }
        }
        let account = account(&stripe.url(), "sk_test_fake", 4);
        let context = context(books, billing(StripeMode::Stripe(account)));
        // the web backend's webhooks have announced the subscriptions
        let updates = begins.iter().enumerate().map(|(n, begin)| SubscriptionUpdate {
            id: format!("sub_{n}"),
            customer: CUSTOMERS[n].into(),
            status: "active".into(),
            anchor: *begin,
            started: *begin,
            ended: None,
            stripe_customer: format!("cus_{n}"),
            currency: "USD".into(),
            unsupported: String::new(),
            items: vec![],
        });
        context.books.upsert_subscriptions(updates.collect(), at(begin)).await.unwrap();
        Self { context, stripe, folder, file, usage: Mutex::default(), begins }
    }

    pub fn usage(&self, who: usize, meter: &'static str, day: i64) -> i64 {
        self.usage.lock().unwrap().get(&(who, meter, day)).copied().unwrap_or(0)
    }

    /// Books usage on a day, in 10⁻¹⁰ units.
    pub async fn book(&self, who: usize, meter: &'static str, day: i64, amount: i64) {
        *self.usage.lock().unwrap().entry((who, meter, day)).or_default() += amount;
        self.enter(who, meter, day, amount).await;
    }

    async fn enter(&self, who: usize, meter: &'static str, day: i64, amount: i64) {
        let day = day_text(day);
        let sql = "INSERT INTO ledger_entries (version_id, payer, month, customer, meter, day, quantity, kind, booked_at) \
                   VALUES (1, 'p', substr(?2, 1, 7), ?4, ?1, ?2, ?3, 'usage', '')";
        self.context
            .books
            .transaction(async move |c| Ok(c.execute(sql, params![meter, day, amount, CUSTOMERS[who]]).await?))
            .await
            .unwrap();
    }

    /// A copy of the books: with the mark of `meter backup`, or a plain one without it.
    pub async fn backup(&self, name: &str, plain: bool, now: i64) -> PathBuf {
        let file = self.folder.path().join(name);
        if plain {
            self.context.books.checkpoint().await.unwrap();
            std::fs::copy(&self.file, &file).unwrap();
        } else {
            self.context.books.copy_to(&file, at(now)).await.unwrap();
        }
        file
    }

    /// Replaces the books by a backup. The web backend and the bills then deliver again what they
    /// know.
    pub async fn restore(&mut self, backup: PathBuf) {
        self.restore_without_bills(backup).await;
        self.book_again().await;
    }

    /// Sends an event to the same account, like another program.
    pub async fn send_as_a_stranger(&self, customer: &str, event_name: &str, value: i64, timestamp: i64) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let url = self.stripe.url();
        let host = url.trim_start_matches("http://").trim_end_matches('/');
        let body = format!(
            "event_name={event_name}&identifier=stranger-{timestamp}&payload[value]={value}&payload[stripe_customer_id]={customer}&timestamp={timestamp}"
        );
        let head = format!(
            "POST /v1/billing/meter_events HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer sk_test_fake\r\nstripe-version: 2026-09-30.endive\r\n\
             content-type: application/x-www-form-urlencoded\r\nidempotency-key: stranger-{timestamp}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        let mut stream = tokio::net::TcpStream::connect(host).await.unwrap();
        stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    /// Removes a subscription from the books, as if no webhook had announced it yet.
    pub async fn forget_subscription(&self, id: &'static str) {
        let sql = "DELETE FROM subscriptions WHERE id = ?1";
        self.context.books.transaction(async move |c| Ok(c.execute(sql, params![id]).await?)).await.unwrap();
    }

    /// Replaces the books by a backup.
    pub async fn restore_without_bills(&mut self, backup: PathBuf) {
        let books = Database::open_local_with(&backup, Durability::Normal).await.unwrap();
        self.context.books = books;
        self.file = backup;
    }

    /// Books all recorded usage again, like the bills.
    pub async fn book_again(&self) {
        let sql = "SELECT customer, meter, day, sum(quantity) FROM ledger_entries GROUP BY 1, 2, 3";
        let booked: BTreeMap<String, i64> = self
            .rows(sql)
            .await
            .iter()
            .map(|row| row.rsplit_once('|').map(|(key, sum)| (key.to_owned(), sum.parse().unwrap())).unwrap())
            .collect();
        let known = self.usage.lock().unwrap().clone();
        for ((who, meter, day), amount) in known {
            let there = booked.get(&format!("{}|{meter}|{}", CUSTOMERS[who], day_text(day))).copied().unwrap_or(0);
            if there != amount {
                self.enter(who, meter, day, amount - there).await;
            }
        }
    }

    pub fn event_name(&self, meter: &str) -> String {
        format!("{meter}_events")
    }

    /// The expected amounts on invoices for the usage of each of a customer's periods, in Stripe's
    /// units. Computed without code of the worker: only the bounds of the periods are the books'.
    pub fn targets(&self, who: usize, meter: &str, periods: &[Period]) -> Vec<i64> {
        let index = METERS.iter().position(|m| *m == meter).unwrap();
        let (mut advance, mut found) = (0, vec![]);
        for period in periods {
            let used = self.used(who, meter, period);
            let reported = if index == 1 { self.overage(who, period, used, &mut advance) } else { used.max(0) };
            let product = i128::from(reported) * i128::from(PER_UNIT[index]);
            let (whole, rest) = (product / i128::from(UNIT), product % i128::from(UNIT));
            let up = rest * 2 > i128::from(UNIT) || (rest * 2 == i128::from(UNIT) && whole % 2 == 1);
            found.push(i64::try_from(whole + i128::from(up)).unwrap());
        }
        found
    }

    /// All usage of a customer, in 10⁻¹⁰ units.
    pub fn booked(&self, who: usize, meter: &str) -> i64 {
        let usage = self.usage.lock().unwrap();
        usage.iter().filter(|((w, m, _), _)| *w == who && *m == meter).map(|(_, amount)| amount).sum()
    }

    /// What the books say became of it.
    pub async fn parts(&self, who: usize, meter: &str) -> i64 {
        let sql = "SELECT coalesce(sum(within + billable + house + not_priced), 0) FROM billing_targets \
                   WHERE customer = ?4 AND meter = ?1 AND period_start BETWEEN ?2 AND ?3";
        self.number(sql, who, meter.into(), i64::MIN, i64::MAX).await
    }

    fn used(&self, who: usize, meter: &str, period: &Period) -> i64 {
        let usage = self.usage.lock().unwrap();
        let within = |day: i64| period.first_day <= day_text(day) && day_text(day) <= period.last_day;
        let of = usage.iter().filter(|((w, m, day), _)| *w == who && *m == meter && within(*day));
        of.map(|(_, amount)| amount).sum()
    }

    /// What of `used` is beyond what the plan includes: a month's amount, or its share by days,
    /// less what earlier periods used in advance of their days.
    fn overage(&self, who: usize, period: &Period, used: i64, advance: &mut i64) -> i64 {
        let date = |t: i64| at(t).to_zoned(jiff::tz::TimeZone::UTC).date();
        let day = |text: &str| text.parse::<jiff::civil::Date>().unwrap();
        let days = |from: jiff::civil::Date, to: jiff::civil::Date| i64::from(from.until(to).unwrap().get_days());
        // the month that the period was to be part of when it began
        let (start, end) = if period.billed {
            let anchor = at(self.begins[who]).to_zoned(jiff::tz::TimeZone::UTC).datetime();
            let boundary = |n: i64| {
                let months = jiff::Span::new().months(n);
                (anchor + months).to_zoned(jiff::tz::TimeZone::UTC).unwrap().timestamp().as_second()
            };
            let n = (0..1000).take_while(|n| boundary(*n) <= period.start).last().unwrap();
            (boundary(n), boundary(n + 1))
        } else {
            let first = date(period.start).first_of_month();
            let second =
                |day: jiff::civil::Date| day.to_zoned(jiff::tz::TimeZone::UTC).unwrap().timestamp().as_second();
            (second(first), second(first.last_of_month().tomorrow().unwrap()))
        };
        let first = day(&period.first_day);
        let own = days(first, day(&period.last_day)) + 1;
        let planned = if period.end == end { own } else { own.max(days(first, date(end))) };
        let month = if period.start == start { planned } else { days(date(start), date(end)) };
        let share = |days: i64| {
            i64::try_from(i128::from(INCLUDED) * i128::from(days.clamp(0, month)) / i128::from(month)).unwrap()
        };
        let granted = (share(planned) - *advance).max(0);
        let within = used.min(granted);
        *advance = (*advance + within - share(own)).max(0);
        used - within
    }

    pub async fn periods(&self, who: usize) -> Vec<Period> {
        let sql = "SELECT starts_at, ends_at, subscription IS NOT NULL, first_day, last_day FROM billing_periods WHERE customer = ?1 ORDER BY starts_at";
        self.context
            .books
            .with_connection(async move |c| {
                let mut rows = c.query(sql, params![CUSTOMERS[who]]).await?;
                let mut found = vec![];
                while let Some(row) = rows.next().await? {
                    let (start, end, billed) = (row.get(0)?, row.get(1)?, row.get::<i64>(2)? == 1);
                    found.push(Period { start, end, billed, first_day: row.get(3)?, last_day: row.get(4)? });
                }
                Ok(found)
            })
            .await
            .unwrap()
    }

    async fn number(&self, sql: &'static str, who: usize, meter: String, from: i64, to: i64) -> i64 {
        self.context
            .books
            .with_connection(async move |c| {
                let mut rows = c.query(sql, params![meter, from, to, CUSTOMERS[who]]).await?;
                Ok(rows.next().await?.unwrap().get::<i64>(0)?)
            })
            .await
            .unwrap()
    }

    /// Accepted events on the invoice that begins at `start`.
    pub async fn accepted_on(&self, who: usize, meter: &str, start: i64) -> i64 {
        let period = self.periods(who).await.into_iter().find(|p| p.start == start);
        let end = period.map_or(start, |p| p.end);
        let sql = "SELECT coalesce(sum(value), 0) FROM meter_events i WHERE customer = ?4 AND meter = ?1 AND state = 'accepted' AND timestamp >= ?2 AND timestamp < ?3 \
                   AND EXISTS (SELECT 1 FROM invoiced_periods p WHERE p.customer = i.customer AND p.starts_at <= i.timestamp AND p.ends_at > i.timestamp AND i.taken_at < p.ends_at + 3600)";
        self.number(sql, who, meter.into(), start, end).await
    }

    /// Number of events that Stripe took and that were missing later.
    pub async fn rejected(&self, who: usize, meter: &str) -> i64 {
        let sql = "SELECT count(*) FROM meter_events WHERE customer = ?4 AND meter = ?1 AND state = 'not_received' AND attempts > 0 AND ?2 = ?3";
        self.number(sql, who, meter.into(), 0, 0).await
    }

    /// The accepted and the deferred amount of a period's usage.
    pub async fn sent_for(&self, who: usize, meter: &str, period: &Period) -> (i64, i64) {
        let sent = "SELECT coalesce(sum(value), 0) FROM meter_events i WHERE customer = ?4 AND meter = ?1 AND state = 'accepted' AND period_start >= ?2 AND period_start < ?3 \
                    AND EXISTS (SELECT 1 FROM invoiced_periods p WHERE p.customer = i.customer AND p.starts_at <= i.timestamp AND p.ends_at > i.timestamp AND i.taken_at < p.ends_at + 3600)";
        let deferred = "SELECT coalesce(sum(deferred), 0) FROM billing_targets WHERE customer = ?4 AND meter = ?1 AND period_start >= ?2 AND period_start < ?3";
        let (from, to) = (period.start, period.end);
        (self.number(sent, who, meter.into(), from, to).await, self.number(deferred, who, meter.into(), from, to).await)
    }

    /// Rows as text, the columns joined by `|`.
    pub async fn rows(&self, sql: &'static str) -> Vec<String> {
        self.context
            .books
            .with_connection(async move |c| {
                let mut rows = c.query(sql, ()).await?;
                let mut found = vec![];
                while let Some(row) = rows.next().await? {
                    let columns = (0..row.column_count()).map(|i| match row.get_value(i).unwrap() {
                        libsql::Value::Null => String::new(),
                        libsql::Value::Integer(n) => n.to_string(),
                        libsql::Value::Text(text) => text,
                        other => format!("{other:?}"),
                    });
                    found.push(columns.collect::<Vec<_>>().join("|"));
                }
                Ok(found)
            })
            .await
            .unwrap()
    }
}
