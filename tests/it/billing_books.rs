//! Billing on a local file and over the remote protocol: the same statements, the same end; and
//! what the web backend tells of late rejections.

use std::path::Path;
use std::sync::Arc;

use crate::support::test_store::TestStore;
use books::store::audit_log::AuditEntry;
use books::store::connection::params;
use books::stripe::acknowledgement::AcknowledgedBy;
use books::stripe::comparison::{ComparisonFilter, Verdict};
use books::stripe::meter_event::{EventState, ManualAction};
use fake_stripe::{FakeStripe, Fault, Options, Subscription};
use jiff::Timestamp;
use jobs::context::Context;
use jobs::enforce_budgets::EnforceBudgets;
use jobs::job::{Failure, Job, Mode};
use jobs::push_stripe::PushReport;
use jobs::push_stripe::decide::DeferReason;
use jobs::reconcile_stripe::reconcile;
use jobs::roll_periods::roll;
use jobs::sync_stripe::{SyncScope, sync};
use meter::config::Config;
use testkit::usage::booking;

const DAY: i64 = 86_400;
const KEY: &str = "sk_test_books";

suite![
    usage_goes_to_stripe_and_comes_back_as_totals,
    what_stripe_rejects_later_is_refused_and_planned_anew_by_a_person,
    two_pushes_beside_each_other_send_everything_once,
    what_cannot_be_sent_is_deferred_and_says_why,
    what_the_books_cannot_hold_is_not_sent,
    what_people_acknowledge_is_appended_and_ends_by_itself,
    what_a_person_discarded_is_never_billed_whatever_becomes_known,
    how_the_books_stand_is_told_in_figures,
    what_a_month_left_is_still_told_in_the_next,
    what_a_kind_looks_at_once_stays_for_a_day,
];

/// A fixture with customers whose subscriptions began ten days ago.
pub(crate) struct StripeOnStore {
    pub(crate) context: Context,
    pub(crate) stripe: FakeStripe,
}

impl StripeOnStore {
    pub(crate) async fn open(store: &TestStore, customers: &[&str]) -> Self {
        let stripe = FakeStripe::start(Options { key: KEY.into(), ..Options::default() }).await.unwrap();
        let variables = [
            ("METER_STRIPE__URL", stripe.url()),
            ("METER_STRIPE__KEY", KEY.to_owned()),
            ("METER_STRIPE__PER_SECOND", "1000".to_owned()),
            ("METER_STRIPE__METERS__STORAGE_GB__EVENT_NAME", "storage_gb".to_owned()),
        ];
        let variables = variables.into_iter().map(|(name, value)| (name.to_owned(), value));
        let config = Config::load(None, variables).unwrap();
        let context =
            Context { billing: Arc::new(meter::wiring::billing(&config.stripe).unwrap()), ..store.context().await };
        context.books.migrate(Timestamp::now()).await.unwrap();
        let fixture = Self { context, stripe };
        fixture.run("INSERT INTO plan_meters VALUES ('core', 0, 'storage_gb', 0, '0.05', 'total')").await;
        let began = Timestamp::now().as_second() - 10 * DAY;
        {
            let mut world = fixture.stripe.world();
            world.add_meter("storage_gb");
            world.add_price("price_1", "storage_gb", "usd", "5", None);
            for name in customers {
                world.add_customer(&format!("cus_{name}"));
                let (sub, cus) = (format!("sub_{name}"), format!("cus_{name}"));
                world.add_subscription(Subscription::monthly(&sub, &cus, began, &["price_1"]));
            }
        }
        for name in customers {
            let sql = format!("INSERT INTO customers (id, stripe_customer_id) VALUES ('{name}', 'cus_{name}')");
            fixture.run(&sql).await;
        }
        sync(&fixture.context.books, &fixture.context.billing, Timestamp::now(), SyncScope::All).await.unwrap();
        // what a meter is called at Stripe is known from the first push on; items are there before
        roll(&fixture.context.books, Timestamp::now(), Mode::Write).await.unwrap();
        fixture
    }

    pub(crate) async fn run(&self, sql: &str) {
        let sql = sql.to_owned();
        self.context.books.transaction(async move |c| Ok(c.execute(&sql, ()).await?)).await.unwrap();
    }

    async fn book(&self, customer: &str, units: i64) {
        self.book_on(customer, "storage_gb", "date('now', '-1 day')", units).await;
    }

    async fn book_on(&self, customer: &str, meter: &str, day: &str, units: i64) {
        for sql in booking(customer, meter, day, &format!("{units} * 10000000000")) {
            self.run(&sql).await;
        }
    }

    pub(crate) async fn push(&self) -> PushReport {
        jobs::push_stripe::push(&self.context.books, &self.context.billing, Timestamp::now()).await.unwrap()
    }

    fn invoiced(&self, customer: &str) -> String {
        let lines = self.stripe.world().invoices(&format!("cus_{customer}"));
        lines.iter().map(|l| l.sum).sum::<rust_decimal::Decimal>().normalize().to_string()
    }

    fn judge(&self) {
        testkit::judge::judge(self.stripe.world().requests());
    }
}

async fn usage_goes_to_stripe_and_comes_back_as_totals(store: TestStore) {
    let fixture = StripeOnStore::open(&store, &["ann", "bob"]).await;
    fixture.book("ann", 20).await;
    fixture.book("bob", 3).await;
    let report = fixture.push().await;
    assert_eq!((report.planned, report.accepted), (2, 2), "{report:?}");
    fixture.book("ann", -5).await;
    let again = fixture.push().await;
    assert_eq!((again.customers, again.accepted), (1, 1), "{again:?}");
    assert_eq!((fixture.invoiced("ann"), fixture.invoiced("bob")), ("15".into(), "3".into()));
    let idle = fixture.push().await;
    assert_eq!((idle.customers, idle.planned, idle.attempts), (0, 0, 0));
    let report = reconcile(&fixture.context, Timestamp::now(), None).await.unwrap();
    assert_eq!((report.read, report.agree, report.alarms), (2, 2, 0), "{report:?}");
    let report = reconcile(&fixture.context, Timestamp::now(), Some("ann".into())).await.unwrap();
    assert_eq!((report.read, report.agree), (1, 1), "{report:?}");
    // nobody is asked more often than is allowed
    fixture.run("UPDATE stripe_reads SET reads = 299").await;
    let report = reconcile(&fixture.context, Timestamp::now(), None).await.unwrap();
    assert!(report.read == 1 && report.out_of_reads, "{report:?}");
    let meters = vec!["storage_gb".to_owned()];
    let now = Timestamp::now().as_second();
    let filter = ComparisonFilter { customer: None, meters, starts: now - 40 * DAY..now, limit: 100 };
    let rows = fixture.context.books.compare(filter).await.unwrap();
    let rows: Vec<(i64, i64)> = rows.iter().filter(|r| r.billed).map(|r| (r.target, r.events.accepted)).collect();
    assert_eq!(rows, [(15, 15), (3, 3)]);
    // somebody else sends to the meter: an alarm, and nothing is taken back
    fixture.judge();
}

async fn what_stripe_rejects_later_is_refused_and_planned_anew_by_a_person(store: TestStore) {
    let fixture = StripeOnStore::open(&store, &["ann"]).await;
    fixture.book("ann", 7).await;
    fixture.stripe.world().set_faults(|seen| seen.path.ends_with("meter_events").then_some(Fault::LateReject));
    let sent = fixture.push().await;
    assert_eq!(sent.accepted, 1);
    fixture.stripe.world().clear_faults();
    let event = fixture.context.books.meter_events(None, None, 1).await.unwrap().remove(0);
    let body = fixture.stripe.world().error_report(&event.identifier).unwrap().to_string();
    // the backend's statement, as it is printed
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/backend-contract.md")).unwrap();
    let block = page.split("<!-- statement: report_stripe_error -->\n```sql\n").nth(1).unwrap();
    let sql = block.split("```").next().unwrap().to_owned();
    let report = async |id: &'static str, body: String| {
        let sql = sql.clone();
        let rows = fixture.context.books.with_connection(async move |c| {
            let mut rows = c.query(&sql, params![id, body]).await?;
            let mut count = 0;
            while rows.next().await?.is_some() {
                count += 1;
            }
            Ok(count)
        });
        rows.await
    };
    assert_eq!(report("evt_1", body.clone()).await.unwrap(), 1);
    assert_eq!(report("evt_1", body).await.unwrap(), 0, "a webhook comes twice");
    report("evt_2", "no json".into()).await.unwrap_err();
    report("evt_3", "{\"data\":{}}".into()).await.unwrap();
    let report = fixture.push().await;
    assert_eq!((report.error_reports, report.refused), (2, 1), "{report:?}");
    assert_eq!(report.attempts, 0, "it is not sent again by itself");
    assert_eq!(fixture.push().await.error_reports, 0, "each report is read once");
    let act = |what: &str| AuditEntry {
        actor: "test".into(),
        action: what.into(),
        target: format!("event {}", event.seq),
        reason: "mended".into(),
    };
    let books = &fixture.context.books;
    let id = event.seq.to_string();
    let was = books.decide_event(&id, ManualAction::Retry, act("retry"), Timestamp::now()).await.unwrap().unwrap();
    assert_eq!(was.state, EventState::Refused);
    assert!(books.decide_event(&id, ManualAction::Discard, act("drop"), Timestamp::now()).await.unwrap().is_none());
    assert_eq!(books.audit(format!("event {}", event.seq)).await.unwrap().len(), 1);
    assert_eq!(fixture.push().await.accepted, 1);
    assert_eq!(fixture.invoiced("ann"), "7");
    // what was sent is never changed, and no state leads back
    for sql in [
        "UPDATE meter_events SET value = 8",
        "DELETE FROM meter_events",
        "UPDATE meter_events SET state = 'pending', next_at = 0 WHERE state = 'accepted'",
        "UPDATE audit_log SET reason = 'x'",
    ] {
        books.transaction(async move |c| Ok(c.execute(sql, ()).await?)).await.unwrap_err();
    }
    fixture.judge();
}

async fn two_pushes_beside_each_other_send_everything_once(store: TestStore) {
    let names: Vec<String> = (0..30).map(|n| format!("c{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let fixture = StripeOnStore::open(&store, &names).await;
    for name in &names {
        fixture.book(name, 5).await;
    }
    let other = Context { books: store.books().await, ..fixture.context.clone() };
    let push = |context: Context| async move {
        jobs::push_stripe::push(&context.books, &context.billing, Timestamp::now()).await
    };
    let (one, two) = tokio::join!(push(fixture.context.clone()), push(other));
    let lost_race = |f: &Failure| f.is_retryable();
    let accepted: u64 =
        [one, two].into_iter().filter_map(|r| r.map_err(|f| assert!(lost_race(&f))).ok()).map(|r| r.accepted).sum();
    let rest = fixture.push().await;
    assert_eq!(accepted + rest.accepted, 30);
    assert!(names.iter().all(|name| fixture.invoiced(name) == "5"));
    let counts = fixture.stripe.world().counts();
    assert_eq!((counts.events_applied, counts.duplicates_refused, counts.concurrent_refused), (30, 0, 0));
    fixture.judge();
}

async fn what_cannot_be_sent_is_deferred_and_says_why(store: TestStore) {
    let fixture = StripeOnStore::open(&store, &["ann", "bob", "cyd", "dan", "eve"]).await;
    for name in ["ann", "bob", "cyd", "dan", "eve"] {
        fixture.book(name, 2).await;
    }
    fixture.run("UPDATE customers SET stripe_customer_id = NULL WHERE id = 'ann'").await;
    fixture.run("UPDATE subscriptions SET stripe_customer = NULL WHERE customer = 'ann'").await;
    fixture.run("UPDATE subscription_items SET currency = 'EUR' WHERE customer = 'bob'").await;
    fixture.run("DELETE FROM subscription_items WHERE customer = 'cyd'").await;
    fixture.run("UPDATE subscriptions SET status = 'paused' WHERE customer = 'dan'").await;
    roll(&fixture.context.books, Timestamp::now(), Mode::Write).await.unwrap();
    // 900,000,000 units a day, each of them 10,000,000 of Stripe's: more than 15 digits
    let mut billing = jobs::stripe::BillingSettings::clone(&fixture.context.billing);
    billing.meters.get_mut("storage_gb").unwrap().per_unit = 1_000_000_000.into();
    fixture.book("eve", 899_000_000).await;
    let context = Context { billing: Arc::new(billing), ..fixture.context.clone() };
    let report = jobs::push_stripe::push(&context.books, &context.billing, Timestamp::now()).await.unwrap();
    for why in [
        DeferReason::NoStripeCustomer,
        DeferReason::Currency,
        DeferReason::NoItem,
        DeferReason::Inactive,
        DeferReason::TooLarge,
    ] {
        assert_eq!(report.deferred.get(&why), Some(&1), "{why:?} {report:?}");
    }
    assert_eq!(report.planned, 0);
    // nothing is lost: what is mended goes out
    fixture.run("UPDATE customers SET stripe_customer_id = 'cus_ann' WHERE id = 'ann'").await;
    fixture.run("UPDATE subscription_items SET currency = 'USD' WHERE customer = 'bob'").await;
    fixture.run("UPDATE subscriptions SET status = 'active' WHERE customer = 'dan'").await;
    roll(&fixture.context.books, Timestamp::now(), Mode::Write).await.unwrap();
    sync(&fixture.context.books, &fixture.context.billing, Timestamp::now(), SyncScope::All).await.unwrap();
    let report = jobs::push_stripe::push(&context.books, &context.billing, Timestamp::now()).await.unwrap();
    assert_eq!((report.accepted, report.deferred.len()), (4, 0), "{report:?}");
    assert_eq!(fixture.invoiced("cyd"), "2000000000");
    // while nobody knows the plan, or the periods are not made yet, it stays noted what has changed
    fixture.run("UPDATE customers SET plan = 'nobody' WHERE id = 'ann'").await;
    let push = async || jobs::push_stripe::push(&context.books, &context.billing, Timestamp::now()).await.unwrap();
    assert_eq!(push().await.unknown_plan, 1);
    fixture.run("UPDATE stripe_due SET due_at = 0").await;
    fixture.run("UPDATE customers SET periods_until = NULL WHERE id = 'ann'").await;
    push().await;
    let due = "SELECT from_day || (due_at > unixepoch()) FROM stripe_due WHERE customer = 'ann'";
    let due = fixture
        .context
        .books
        .with_connection(async move |c| Ok(c.query(due, ()).await?.next().await?.unwrap().get::<String>(0)?));
    assert_eq!(due.await.unwrap(), "1");
    fixture.run("UPDATE customers SET plan = 'core' WHERE id = 'ann'").await;
    roll(&fixture.context.books, Timestamp::now(), Mode::Write).await.unwrap();
    // a clock that is an hour off sends nothing
    fixture.book("ann", 1).await;
    for off in [-3600, 3600] {
        let now = Timestamp::from_second(Timestamp::now().as_second() + off).unwrap();
        let failure = jobs::push_stripe::push(&context.books, &context.billing, now).await.unwrap_err();
        assert!(failure.is_retryable() && format!("{:#}", failure.error()).contains("clock"), "{failure:?}");
    }
    assert_eq!(jobs::push_stripe::push(&context.books, &context.billing, Timestamp::now()).await.unwrap().accepted, 1);
    fixture.judge();
}

/// Each day fits, and the period does not: nothing is sent by a number that the books cut off.
async fn what_the_books_cannot_hold_is_not_sent(store: TestStore) {
    let fixture = StripeOnStore::open(&store, &["ann", "bob"]).await;
    let day = |n: u8| format!("date('now', '-{n} day')");
    for (customer, units) in [("ann", 400_000_000), ("bob", 500_000_000)] {
        fixture.book_on(customer, "storage_gb", &day(1), units).await;
        fixture.book_on(customer, "storage_gb", &day(2), units).await;
    }
    let report = fixture.push().await;
    assert_eq!((report.accepted, report.deferred), (1, [(DeferReason::TooLarge, 1)].into()));
    assert_eq!(fixture.invoiced("ann"), "800000000");
    assert_eq!(fixture.invoiced("bob"), "0");
    // a restated bill brings it below
    fixture.book_on("bob", "storage_gb", &day(1), -100_000_000).await;
    let report = fixture.push().await;
    assert_eq!((report.accepted, report.deferred.len()), (1, 0));
    assert_eq!(fixture.invoiced("bob"), "900000000");
    fixture.judge();
}

async fn what_people_acknowledge_is_appended_and_ends_by_itself(store: TestStore) {
    let fixture = StripeOnStore::open(&store, &["ann"]).await;
    fixture.book("ann", 2).await;
    fixture.push().await;
    let (books, start) = (&fixture.context.books, Timestamp::now().as_second());
    let at = |seconds: i64| Timestamp::from_second(start + seconds).unwrap();
    let acknowledge = async |reason: &str, now: Timestamp| {
        let by = AcknowledgedBy { actor: "test".into(), reason: reason.into() };
        let found = books.acknowledge("ann".into(), i64::MIN..i64::MAX, by, now).await.unwrap();
        found.into_iter().map(|entry| entry.matter.to_string()).collect::<Vec<_>>()
    };
    let alarms = async |stripe_customer: &str, seconds: i64| {
        fixture.run(&format!("UPDATE subscriptions SET stripe_customer = '{stripe_customer}'")).await;
        reconcile(&fixture.context, at(seconds), Some("ann".into())).await.unwrap().alarms
    };
    // a total that Stripe does not have
    assert_eq!(alarms("cus_ann", 0).await, 0);
    assert_eq!(alarms("cus_gone", 1).await, 1);
    assert_eq!(acknowledge("deleted", at(2)).await, ["Stripe has no total of cus_gone"]);
    assert!(acknowledge("again", at(2)).await.is_empty());
    assert_eq!(alarms("cus_gone", 3).await, 0, "acknowledged");
    assert_eq!(alarms("cus_gone_too", 4).await, 1, "another Stripe customer");
    assert_eq!(alarms("cus_gone", 5).await, 0, "no total was read since");
    assert_eq!(alarms("cus_ann", 6).await, 0);
    assert_eq!(alarms("cus_gone", 7).await, 1, "a total was read since");
    assert_eq!(alarms("cus_ann", 8).await, 0);
    // a deferred amount
    let charged_in = async |currency: &str, units: i64| {
        fixture.run(&format!("UPDATE subscription_items SET currency = '{currency}'")).await;
        if units != 0 {
            fixture.book("ann", units).await;
        }
        fixture.push().await;
        let sql = "SELECT coalesce(sum(amount) || ' ' || reason || ' ' || acknowledged, '') FROM deferred_amounts";
        let read = books.with_connection(async move |c| Ok(c.query(sql, ()).await?.next().await?.unwrap().get(0)?));
        let found: String = read.await.unwrap();
        found
    };
    assert_eq!(charged_in("EUR", 3).await, "3 currency 0");
    assert_eq!(acknowledge("by hand", Timestamp::now()).await, ["deferred 3: currency"]);
    assert_eq!(charged_in("EUR", 1).await, "4 currency 0", "another amount");
    assert_eq!(charged_in("EUR", -1).await, "3 currency 1", "the amount that was acknowledged");
    assert_eq!(charged_in("USD", 0).await, "", "sent after all");
    let later = "UPDATE billing_targets SET deferred_since = deferred_since + 9 WHERE deferred <> 0";
    charged_in("EUR", 3).await;
    fixture.run(later).await;
    assert_eq!(charged_in("EUR", 0).await, "3 currency 0", "the same amount, deferred anew");
    // entries stay as they are, and have a reason
    for sql in [
        "UPDATE acknowledgements SET amount = 1",
        "DELETE FROM acknowledgements",
        "INSERT INTO acknowledgements (at, actor, reason, customer, meter, period_start, kind, stripe_customer) VALUES (0, 'a', ' ', 'ann', 'm', 0, 'no_total', 'c')",
    ] {
        books.transaction(async move |c| Ok(c.execute(sql, ()).await?)).await.unwrap_err();
    }
    fixture.judge();
}

async fn what_a_person_discarded_is_never_billed_whatever_becomes_known(store: TestStore) {
    let fixture = StripeOnStore::open(&store, &["ann"]).await;
    fixture.book("ann", 2).await;
    assert_eq!(fixture.push().await.accepted, 1);
    fixture.run("UPDATE meter_events SET state = 'refused', error = 'no'").await;
    let act = AuditEntry { actor: "test".into(), action: "x".into(), target: "x".into(), reason: "goodwill".into() };
    let books = &fixture.context.books;
    assert!(books.decide_event("1", ManualAction::Discard, act, Timestamp::now()).await.unwrap().is_some());
    // its subscription had ended before it: it is on no invoice
    fixture
        .run("UPDATE subscriptions SET status = 'canceled', ended_at = unixepoch() - 3600, updated_at = unixepoch()")
        .await;
    roll(books, Timestamp::now(), Mode::Write).await.unwrap();
    assert_eq!(books.event_invoice(1).await.unwrap(), None);
    let report = fixture.push().await;
    assert_eq!((report.customers, report.planned, report.deferred.len()), (1, 0, 0), "{report:?}");
    let starts = 0..Timestamp::now().as_second();
    let filter = ComparisonFilter { customer: None, meters: vec!["storage_gb".into()], starts, limit: 100 };
    let rows = books.compare(filter).await.unwrap();
    let rows: Vec<_> = rows.iter().filter(|r| r.billed).map(|r| (r.target, r.events.discarded, r.verdict())).collect();
    assert_eq!(rows, [(2, 2, Verdict::Agrees)]);
    fixture.judge();
}

async fn how_the_books_stand_is_told_in_figures(store: TestStore) {
    let fixture = StripeOnStore::open(&store, &["ann", "bob", "eve"]).await;
    let (books, now) = (&fixture.context.books, Timestamp::now());
    let empty = books.books_stats(now).await.unwrap();
    assert_eq!((empty.entries, empty.days.len(), empty.stripe.events.pending), (0, 0, 0), "{empty:?}");
    fixture.book("ann", 20).await;
    fixture.book("bob", 3).await;
    fixture.book("", 2).await;
    fixture.book("ann", -5).await;
    fixture.run("UPDATE customers SET stripe_customer_id = NULL WHERE id = 'bob'").await;
    fixture.run("UPDATE subscriptions SET stripe_customer = NULL WHERE customer = 'bob'").await;
    fixture.push().await;
    EnforceBudgets::default().run(&fixture.context, now).await.unwrap();
    for sql in [
        "UPDATE meter_events SET state = 'refused', error = 'no' WHERE customer = 'ann'",
        "UPDATE billing_targets SET shortfall = -7, shortfall_since = 1, \
         alarm_kind = 'stripe_has_more', alarm_shortfall = -7, alarm_total = 22, alarm_until = 0 WHERE customer = 'ann'",
        "UPDATE turn_periods SET used = 4, refused = 1 WHERE customer = 'eve' AND starts_at <= unixepoch() AND ends_at > unixepoch()",
        "INSERT INTO notifications (id, customer, meter, kind, period_start, base, body, state, created_at, give_up_at, error) \
         VALUES ('n', 'ann', '', 'blocked', 0, 0, '{}', 'dead', 1, 2, 'no')",
        "UPDATE entitlements SET allowed = 0, reason = 'no_budget', used = 9, included = 5, effective_limit = 9 WHERE customer = 'ann' AND meter = 'storage_gb'",
    ] {
        fixture.run(sql).await;
    }
    let found = books.books_stats(now).await.unwrap();
    assert_eq!((found.entries, found.days.len()), (4, 1));
    let day = &found.days[0];
    assert_eq!((day.attributed.to_string(), day.unattributed.to_string()), ("18".into(), "2".into()), "{day:?}");
    assert_eq!(found.size_bytes.is_some(), books.is_local());
    assert_eq!((found.stripe.events.refused, found.stripe.alarms, found.notifications.dead), (1, 1, 1), "{found:?}");
    let alarm = &found.stripe.some_alarms[0];
    assert_eq!((alarm.customer.as_str(), alarm.meter.as_str()), ("ann", "storage_gb"));
    assert!(alarm.difference.to_string().contains("7 more than was sent"), "{alarm:?}");
    assert_eq!(found.turn_overdue_since, None);
    let customers = books.customer_stats(now).await.unwrap();
    assert_eq!(customers.by_status["active"], 3);
    assert_eq!((customers.turn_used, customers.turn_refused), (4, 1));
    assert_eq!(
        (customers.drift["storage_gb"].to_string(), customers.deferred["no_stripe_customer"]),
        ("7".into(), 1),
        "{customers:?}"
    );
    assert_eq!(customers.deferred_units["storage_gb"].to_string(), "3");
    assert!(customers.oldest_deferred_at.is_some());
    assert_eq!(customers.decisions["storage_gb"].blocked, 2, "{customers:?}");
    assert_eq!(customers.near_limit.iter().map(|p| p.customer.as_str()).collect::<Vec<_>>(), ["bob", "ann"]);
    let month = books::units::calendar::Month::of(now - jiff::SignedDuration::from_hours(24));
    let by_day = books.usage_by_day(month).await.unwrap();
    assert_eq!(by_day.iter().map(|d| format!("{} {}", d.meter, d.quantity)).collect::<Vec<_>>(), ["storage_gb 20"]);
    assert_eq!(books.tagged_lines().await.unwrap(), []);
    // a period that is over for an hour, and stays open
    let late = now + jiff::SignedDuration::from_hours(24 * 40);
    assert!(books.books_stats(late).await.unwrap().turn_overdue_since.is_some());
    let queue = meter::queue::Queue::new(books.clone(), meter::queue::Clock::system());
    let stats = queue.stats(&["probe"], &Default::default(), std::time::Duration::from_secs(30)).await.unwrap();
    assert_eq!(stats.kinds["probe"].states[&meter::queue::JobState::Pending], 0);
    assert_eq!(books.last_audit().await.unwrap().at, None);
    let report = jobs::verify_books::VerifyBooks {}.run(&fixture.context, now).await.unwrap();
    let audit = books.last_audit().await.unwrap();
    let (at, checks) = (audit.at.map(|t| t.as_second()), audit.violations.len());
    assert_eq!((at, checks), (Some(now.as_second()), report.audit.checks.len()));
    assert_eq!(audit.violations["conservation"], 0, "{audit:?}");
    let parts = audit.billing.iter().flat_map(|of| of.named()).filter(|(_, part)| !part.is_zero());
    let parts: Vec<String> = parts.map(|(name, part)| format!("{name} {part}")).collect();
    assert_eq!(parts, ["waiting 18", "no_tag 2"], "what is refused or deferred is not billed");
    assert_eq!(serde_json::to_value(audit.billing).unwrap(), serde_json::to_value(report.audit.billing).unwrap());
    fixture.judge();
}

/// A month's last days come with the next month's first bills, and what nobody understood in it is
/// billed to nobody.
async fn what_a_month_left_is_still_told_in_the_next(store: TestStore) {
    let fixture = StripeOnStore::open(&store, &["ann"]).await;
    let books = &fixture.context.books;
    let columns = "payer, export, format, manifest_key, rules_digest, account, state, rows, counted_rows, rounded_amounts, decided_at, \
                   id, month, version, manifest_digest, delivered_at, newest_day, supersedes";
    for (id, month, delivered, newest, before) in [
        (11, "2026-02", "2026-02-20T00:00:00Z", "2026-02-19", "NULL"),
        (12, "2026-02", "2026-03-01T06:00:00Z", "2026-02-28", "11"),
        (13, "2026-03", "2026-03-15T05:00:00Z", "2026-03-15", "NULL"),
    ] {
        let sql = format!(
            "INSERT INTO bill_versions ({columns}) VALUES ('q', 'e', 'cur2', 'k', 'r', '', 'applied', 9, 5, 0, '', {id}, '{month}', 'v{id}', 'd{id}', \
             '{delivered}', '{newest}', {before})"
        );
        fixture.run(&sql).await;
        let sql = format!(
            "INSERT INTO bill_lines VALUES ({id}, 'AmazonChime', 'New', 'min', 'Usage', 'unrecognised', '', {id}, 0, '1')"
        );
        fixture.run(&sql).await;
    }
    for (customer, meter, day, units) in [
        ("zed", "storage_gb", "2026-02-28", 4),
        ("ann", "storage_gb", "2026-03-14", 28),
        ("ann", "chime_minutes", "2026-03-03", 100),
    ] {
        fixture.book_on(customer, meter, &format!("'{day}'"), units).await;
    }
    let at = |text: &str| text.parse::<Timestamp>().unwrap();
    let now = at("2026-03-15T12:00:00Z");
    let found = books.books_stats(now).await.unwrap();
    let bill = found.bills.iter().find(|b| b.payer == "q").unwrap();
    assert_eq!(
        bill.lines["unrecognised"],
        12 + 13,
        "of both months, and of no version that another one took the place of"
    );
    assert_eq!((bill.month.as_str(), bill.rows), ("2026-03", 9));
    // budgets are decided by the delivery, because the day was not over
    assert_eq!(bill.usage_through, Some(at("2026-03-15T05:00:00Z")));
    assert_eq!(books.usage_through().await.unwrap()["q"], at("2026-03-15T05:00:00Z"));
    // calls on one day of fourteen lead to twice as much by the end, and not to thirty times
    let days: Vec<(&str, i64)> = found.month.iter().map(|m| (m.meter.as_str(), m.days)).collect();
    assert_eq!(days, [("chime_minutes", 12), ("storage_gb", 14)]);
    for (now, units) in
        [("2026-02-28T12:00:00Z", Some("4")), ("2026-03-31T12:00:00Z", Some("4")), ("2026-04-01T00:00:00Z", None)]
    {
        let unknown = books.customer_stats(at(now)).await.unwrap().unknown;
        assert_eq!(unknown.get("storage_gb").map(ToString::to_string).as_deref(), units, "{now}");
    }
    fixture.judge();
}

async fn what_a_kind_looks_at_once_stays_for_a_day(store: TestStore) {
    let fixture = StripeOnStore::open(&store, &["ann"]).await;
    let queue = meter::queue::Queue::new(fixture.context.books.clone(), meter::queue::Clock::system());
    let now = Timestamp::now().as_millisecond();
    let done = |kind: &str, hours: i64, attention: u8| {
        let at = now - hours * 3_600_000;
        format!(
            "INSERT INTO jobs (id, kind, payload, state, max_attempts, origin, attempts, lease, enqueued_at, started_at, finished_at, attention, report) \
             VALUES ('{:A>26}', '{kind}', '{{}}', 'done', 20, 'test', 1, 1, {at}, {at}, {at}, {attention}, '{{}}')",
            format!("{kind}{hours}")
        )
    };
    for kind in ["sync_stripe", "push_stripe"] {
        fixture.run(&done(kind, 24, 1)).await;
        fixture.run(&done(kind, 1, 0)).await;
    }
    fixture.run(&done("roll_periods", 26, 1)).await;
    fixture.run(&done("roll_periods", 0, 0)).await;
    let kinds = ["sync_stripe", "push_stripe", "roll_periods"];
    let over = kinds.map(|kind| ((kind.to_owned(), meter::queue::JobState::Done), 2)).into();
    let stats = queue.stats(&kinds, &over, std::time::Duration::from_secs(30)).await.unwrap();
    let found: Vec<bool> = kinds.iter().map(|kind| stats.kinds[*kind].attention).collect();
    assert_eq!(found, [true, false, false], "{stats:?}");
    let newest = stats.kinds["push_stripe"].last_done_job.unwrap();
    let filter = meter::queue::JobFilter { ids: vec![newest.to_string()], ..Default::default() };
    let listed = queue.list(&filter, 1).await.unwrap();
    assert_eq!(listed[0].id.trim_start_matches('A'), "push_stripe1");
    assert_eq!(stats.working_since, None);
    fixture.judge();
}
