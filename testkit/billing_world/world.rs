//! A world: books, a fake Stripe, and what is known of each customer apart from the books.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::time::Duration;

use books::Database;
use books::customers::subscription::SubscriptionUpdate;
use books::limits::overage_billing::OverageBilling;
use books::store::connection::params;
use books::store::connection::params::IntoParams;
use books::store::database::Durability;
use fake_stripe::{FakeStripe, InvoiceLine, Options, Subscription};
use jobs::context::{Context, EnforcementSettings, ReadSettings};
use jobs::stripe::transport::Transport;
use jobs::stripe::{BillingSettings, Mapping, StripeAccount, StripeMode};
use tempfile::TempDir;

use super::model::{self, Beyond, Facts, Owed, PLANS, Report, Span, Usage};
use super::scene::{CUSTOMERS, DAY, HOUR, METERS, PER_UNIT, Start, UNIT, at, day_text};
use crate::suite_database::SuiteServer;

/// Migrated books with plans and without customers, to be copied.
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
        // measured all the time and absurdly much, which must never become money
        let measured = "INSERT INTO measurements (customer, meter, id, level, started_at, expires_at) \
                        SELECT value, meter, 'a', 1000000, 0, 99999999999 FROM measured_meters, json_each('[\"ann\",\"bob\",\"cyd\"]')";
        let statements = [
            measured,
            // the world writes these rows with instants of its own
            "DROP TRIGGER customers_change_plans",
            "DROP TRIGGER overage_budgets_taken_away",
        ];
        books
            .transaction(async move |c| {
                for sql in statements {
                    c.execute(sql, ()).await?;
                }
                insert_plans(c).await
            })
            .await
            .unwrap();
        books.checkpoint().await.unwrap();
        Self { folder }
    }
}

async fn insert_plans(c: &books::store::connection::Connection) -> Result<(), books::BooksError> {
    for (plan, terms) in PLANS {
        let sql = "INSERT INTO plans (name, effective_from, currency, applied_at) VALUES (?1, 0, 'USD', 0)";
        c.execute(sql, params![plan]).await?;
        for (meter, terms) in METERS.into_iter().zip(terms).filter_map(|(meter, terms)| Some((meter, terms?))) {
            let sql = "INSERT INTO plan_meters (plan, effective_from, meter, included, price, report) VALUES (?1, 0, ?2, ?3, ?4, ?5)";
            let price = terms.price.map(|price| format!("0.{price:05}"));
            let report = match terms.report {
                Report::Total => "total",
                Report::Overage => "overage",
                Report::Nothing => "none",
            };
            c.execute(sql, params![plan, meter, terms.included * UNIT, price, report]).await?;
        }
    }
    Ok(())
}

/// Books, a fake Stripe, and the usage of three customers, which is recorded apart from the books.
pub struct BillingWorld {
    pub context: Context,
    pub stripe: FakeStripe,
    server: Option<SuiteServer>,
    folder: TempDir,
    file: PathBuf,
    usage: Mutex<[Usage; 3]>,
    facts: [Mutex<Facts>; 3],
    /// The first instant with usage of each customer, and the start of most subscriptions.
    pub begins: Vec<i64>,
    /// When the worker read what had changed of the subscriptions, and got all answers.
    pub(super) synced: Mutex<Vec<i64>>,
}

/// Of histories with faults: each request that is not answered costs as much. On a busy machine
/// this one is too short for some that are.
const TIMEOUT: Duration = Duration::from_millis(150);
/// Of histories without faults.
const PATIENT: Duration = Duration::from_secs(60);

/// One client for all: reading the machine's certificates takes longer than a history.
pub fn http_client() -> reqwest::Client {
    static CLIENT: LazyLock<reqwest::Client> = LazyLock::new(|| client(TIMEOUT));
    CLIENT.clone()
}

fn client(timeout: Duration) -> reqwest::Client {
    // it fails if another part of the process has installed a provider
    drop(rustls::crypto::ring::default_provider().install_default());
    reqwest::Client::builder().timeout(timeout).no_proxy().build().unwrap()
}

fn account(url: &str, client: reqwest::Client, timeout: Duration) -> StripeAccount {
    let transport = Transport::new(client, reqwest::Url::parse(url).unwrap(), "sk_test_fake".into());
    StripeAccount::new(transport, NonZeroU32::new(1_000_000).unwrap(), 4, timeout)
}

fn billing(mode: StripeMode) -> BillingSettings {
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

fn context(books: Database, billing: BillingSettings) -> Context {
    Context {
        books,
        exports: Arc::new(BTreeMap::new()),
        shared_buckets: Arc::default(),
        read_settings: ReadSettings::new(books::usage::meter::Rules {
            tag_keys: vec!["customer".into()],
            meters: vec![],
            ignore: vec![],
            watched: vec![],
            shared_buckets: vec![],
            costs: vec![],
        }),
        enforcement: Arc::new(EnforcementSettings::default()),
        measuring: Arc::default(),
        webhook: None,
        operator: Arc::default(),
        billing: Arc::new(billing),
    }
}

async fn open(file: &Path, server: Option<&SuiteServer>) -> Database {
    match server {
        Some(server) => server.open().await,
        None => Database::open_local_with(file, Durability::Normal).await.unwrap(),
    }
}

impl BillingWorld {
    /// A world in which everything is known of every customer.
    pub async fn new(template: &Template, rng: &mut fastrand::Rng, begin: i64) -> Self {
        Self::begin(template, rng, begin, [(); 3].map(|()| Start::known())).await
    }

    /// Waits for every answer, in a history without faults: what is not sent is not sent for a
    /// reason of the books.
    pub fn be_patient(&mut self) {
        static CLIENT: LazyLock<reqwest::Client> = LazyLock::new(|| client(PATIENT));
        let account = account(&self.stripe.url(), CLIENT.clone(), PATIENT);
        Arc::make_mut(&mut self.context.billing).mode = StripeMode::Stripe(account);
    }

    pub async fn begin(template: &Template, rng: &mut fastrand::Rng, begin: i64, starts: [Start; 3]) -> Self {
        let folder = folder();
        let file: PathBuf = folder.path().join("meter.db");
        std::fs::copy(template.folder.path().join("meter.db"), &file).unwrap();
        let server = SuiteServer::of(&file);
        let books = open(&file, server.as_ref()).await;
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
                let (id, customer) = (format!("sub_{n}"), format!("cus_{n}"));
                if starts[n].subscribed {
                    world.add_subscription(Subscription::monthly(&id, &customer, *begin, &prices));
                }
            }
        }
        let account = account(&stripe.url(), http_client(), TIMEOUT);
        let context = context(books, billing(StripeMode::Stripe(account)));
        // the web backend's webhooks have announced the subscriptions
        let announced = begins.iter().enumerate().filter(|(n, _)| starts[*n].subscribed && starts[*n].announced);
        let updates = announced.map(|(n, begin)| SubscriptionUpdate {
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
        let updates = updates.collect();
        let world = Self {
            context,
            stripe,
            server,
            folder,
            file,
            usage: Mutex::default(),
            facts: Default::default(),
            begins,
            synced: Mutex::default(),
        };
        for (who, start) in starts.into_iter().enumerate() {
            let id = format!("cus_{who}");
            let stripe_id = (start.row && start.stripe_id).then(|| id.clone());
            *world.facts(who) = Facts {
                has_row: start.row,
                plans: vec![(i64::MIN, start.plan)],
                stripe_ids: stripe_id.iter().cloned().collect(),
                at_stripe: vec![id],
                ..Facts::default()
            };
            if start.row {
                world.insert_row(who, start.plan, stripe_id).await;
            }
        }
        world.context.books.upsert_subscriptions(updates, at(begin)).await.unwrap();
        world
    }

    /// What is known of a customer apart from the books.
    pub fn facts(&self, who: usize) -> MutexGuard<'_, Facts> {
        self.facts[who].lock().unwrap()
    }

    pub fn usage(&self, who: usize, meter: &'static str, day: i64) -> i64 {
        self.usage.lock().unwrap()[who].get(&(meter, day)).copied().unwrap_or(0)
    }

    /// What became of a customer's usage in each billing period, by the model and by what the books
    /// can know of the subscriptions at Stripe.
    pub fn owed(&self, who: usize) -> Vec<Owed> {
        let facts = self.facts(who).clone();
        let usage = self.usage.lock().unwrap()[who].clone();
        let (spans, now): (Vec<Span>, i64) = {
            let stripe = self.stripe.world();
            let known = facts.stripe_ids.iter().flat_map(|id| stripe.subscription_periods(id));
            let span = |p: fake_stripe::SubscriptionPeriod| Span {
                start: p.start,
                end: p.end,
                subscription: Some(p.subscription),
                month: p.month,
            };
            (known.map(span).collect(), stripe.now())
        };
        let first_used = usage.keys().map(|(_, day)| day * DAY).min();
        let Some(first) = spans.iter().map(|s| s.start).chain(first_used).min() else { return vec![] };
        let beyond = match self.context.billing.overage {
            OverageBilling::UpToBudget => Beyond::House,
            OverageBilling::All => Beyond::Customer,
        };
        model::owed(&facts, &usage, &model::timeline(&spans, first, now), beyond)
    }

    /// Books usage on a day, in 10⁻¹⁰ units.
    pub async fn book(&self, who: usize, meter: &'static str, day: i64, amount: i64) {
        *self.usage.lock().unwrap()[who].entry((meter, day)).or_default() += amount;
        self.enter(who, meter, day, amount).await;
    }

    async fn enter(&self, who: usize, meter: &'static str, day: i64, amount: i64) {
        let day = day_text(day);
        let booking = crate::usage::booking(CUSTOMERS[who], meter, &format!("'{day}'"), &amount.to_string());
        let book = async move |c: &books::store::connection::Connection| {
            for sql in &booking {
                c.execute(sql, ()).await?;
            }
            Ok(())
        };
        self.context.books.transaction(book).await.unwrap();
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
        let server = SuiteServer::of(&backup);
        self.context.books = open(&backup, server.as_ref()).await;
        self.server = server;
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
        for (who, usage) in known.into_iter().enumerate() {
            for ((meter, day), amount) in usage {
                let key = format!("{}|{meter}|{}", CUSTOMERS[who], day_text(day));
                let there = booked.get(&key).copied().unwrap_or(0);
                if there != amount {
                    self.enter(who, meter, day, amount - there).await;
                }
            }
        }
    }

    pub fn event_name(&self, meter: &str) -> String {
        format!("{meter}_events")
    }

    /// All usage of a customer, in 10⁻¹⁰ units.
    pub fn booked(&self, who: usize, meter: &str) -> i64 {
        let usage = &self.usage.lock().unwrap()[who];
        usage.iter().filter(|((m, _), _)| *m == meter).map(|(_, amount)| amount).sum()
    }

    /// What the books say became of it.
    pub async fn parts(&self, who: usize, meter: &str) -> i64 {
        let sql = "SELECT coalesce(sum(within + billable + house + not_priced), 0) FROM billing_targets \
                   WHERE customer = ?2 AND meter = ?1";
        self.number(sql, params![meter, CUSTOMERS[who]]).await
    }

    /// The billing periods in the books: start, end, and the subscription or nothing.
    pub async fn periods(&self, who: usize) -> Vec<(i64, i64, String)> {
        let sql = "SELECT customer, starts_at, ends_at, subscription FROM billing_periods ORDER BY customer, starts_at";
        let rows = self.rows(sql).await;
        let rows = rows.iter().map(|row| row.split('|').collect::<Vec<_>>()).filter(|row| row[0] == CUSTOMERS[who]);
        rows.map(|row| (row[1].parse().unwrap(), row[2].parse().unwrap(), row[3].to_owned())).collect()
    }

    async fn number(&self, sql: &'static str, values: impl IntoParams + Send + 'static) -> i64 {
        self.context
            .books
            .with_connection(async move |c| {
                let mut rows = c.query(sql, values).await?;
                rows.next().await?.unwrap().get::<i64>(0)
            })
            .await
            .unwrap()
    }

    /// The sum of the accepted events on an invoice of a Stripe customer.
    pub async fn accepted_on(&self, meter: &str, invoice: &InvoiceLine, stripe_customer: &str) -> i64 {
        let sql = "SELECT coalesce(sum(value), 0) FROM meter_events i WHERE meter = ?1 AND state = 'accepted' AND stripe_customer = ?4 \
                   AND timestamp >= ?2 AND timestamp < ?3 \
                   AND EXISTS (SELECT 1 FROM event_invoices WHERE seq = i.seq)";
        self.number(sql, params![meter, invoice.start, invoice.end, stripe_customer]).await
    }

    /// Number of events that Stripe took and that were missing later.
    pub async fn rejected(&self, who: usize, meter: &str) -> i64 {
        let sql = "SELECT count(*) FROM meter_events WHERE customer = ?2 AND meter = ?1 AND state = 'not_received' AND attempts > 0";
        self.number(sql, params![meter, CUSTOMERS[who]]).await
    }

    /// The accepted and the deferred amount of a period's usage.
    pub async fn sent_for(&self, who: usize, meter: &str, period: &Span) -> (i64, i64) {
        let sent = "SELECT coalesce(sum(value), 0) FROM meter_events i WHERE customer = ?4 AND meter = ?1 AND state = 'accepted' AND period_start >= ?2 AND period_start < ?3 \
                    AND EXISTS (SELECT 1 FROM event_invoices WHERE seq = i.seq)";
        let deferred = "SELECT coalesce(sum(deferred), 0) FROM billing_targets WHERE customer = ?4 AND meter = ?1 AND period_start >= ?2 AND period_start < ?3";
        let values = || params![meter, period.start, period.end, CUSTOMERS[who]];
        (self.number(sent, values()).await, self.number(deferred, values()).await)
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
                        books::store::connection::Value::Null => String::new(),
                        books::store::connection::Value::Integer(n) => n.to_string(),
                        books::store::connection::Value::Text(text) => text,
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
