//! `enforce_budgets` on real books: what customers feel, whatever happens to bills, budgets, plans,
//! subscriptions and clocks. Each run is done twice.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex};

use books::limits::budget::BudgetChange;
use books::limits::entitlement::{Entitlement, Freshness, Reason};
use books::limits::plan::{Applied, Plan, PlanError, ReportMode, Terms};
use books::store::connection::Connection;
use books::store::database::Fence;
use jiff::{SignedDuration, Timestamp};
use jobs::context::{Context, EnforcementSettings, OnStale};
use jobs::enforce_budgets::{EnforceBudgets, EnforceReport, enforce};
use jobs::job::{Job, Mode};
use jobs::roll_periods::roll;
use testkit::ingest_fixture::{self, IngestFixture, chime, deliver_lines, now};

/// A version that AWS delivered at the end of October.
fn version(number: u32) -> String {
    format!("2026-10-31T03:00:00.000Z-0000000{number}-0000-4000-8000-000000000000")
}

pub(crate) fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn usd() -> books::units::money::Currency {
    "USD".parse().unwrap()
}

pub(crate) fn plan(name: &str, from: &str, chime: (&str, Option<&str>)) -> Plan {
    let terms = |included: &str, price: Option<&str>| Terms {
        included: included.parse().unwrap(),
        price: price.map(|p| p.parse().unwrap()),
        report: if price.is_some() { ReportMode::Overage } else { ReportMode::None },
    };
    Plan {
        name: name.into(),
        currency: usd(),
        effective_from: at(from),
        meters: [
            ("turn_allocations".to_owned(), terms("500", None)),
            ("chime_minutes".to_owned(), terms(chime.0, chime.1)),
            ("storage_gb".to_owned(), terms("5", None)),
        ]
        .into(),
    }
}

const METERS: [&str; 3] = ["chime_minutes", "storage_gb", "transfer_gb"];

/// An [`IngestFixture`] with customers, plans and budgets.
pub(crate) struct BudgetFixture(IngestFixture);

impl Deref for BudgetFixture {
    type Target = IngestFixture;

    fn deref(&self) -> &IngestFixture {
        &self.0
    }
}

impl DerefMut for BudgetFixture {
    fn deref_mut(&mut self) -> &mut IngestFixture {
        &mut self.0
    }
}

impl BudgetFixture {
    pub(crate) async fn new() -> Self {
        Self::over(IngestFixture::new().await)
    }

    pub(crate) fn over(bills: IngestFixture) -> Self {
        Self(bills)
    }

    pub(crate) async fn apply(&self, plans: Vec<Plan>) -> Vec<Applied> {
        let meters = METERS.map(str::to_owned);
        self.context.books.apply_plans(plans, &meters, now()).await.unwrap()
    }

    /// Books where `ann` is a customer of a plan with 100 minutes and a cent for each more, and
    /// used `minutes`.
    async fn with_ann(minutes: f64) -> Self {
        let world = Self::new().await;
        world.apply(vec![plan("pro", "2020-01-01T00:00:00Z", ("100", Some("0.01")))]).await;
        world.sign_up("ann", "pro").await;
        deliver_lines(&world.bucket(), &version(1), &[chime("ann", 28, minutes)]);
        world.ingest().await.unwrap();
        world
    }

    /// Signed up in October, whatever today is.
    pub(crate) async fn sign_up(&self, id: &'static str, plan: &'static str) {
        self.context.books.add_customer(id).await.unwrap();
        self.execute(format!("UPDATE customers SET plan = '{plan}', periods_until = NULL WHERE id = '{id}'")).await;
        // had the plan since October, when the world's clock is
        let had = format!(
            "INSERT INTO customer_plans (customer, plan, from_at, set_by) VALUES ('{id}', '{plan}', 0, 'test')"
        );
        self.execute(had).await;
        for table in ["turn_periods", "billing_periods"] {
            self.execute(format!("DELETE FROM {table} WHERE customer = '{id}'")).await;
        }
        roll(&self.context.books, now(), Mode::Write).await.unwrap();
    }

    pub(crate) async fn execute(&self, sql: String) {
        self.context.books.transaction(async move |c| Ok(c.execute(&sql, ()).await?)).await.unwrap();
    }

    /// Runs it for those who are due, and again, which must change nothing; then a run that looks
    /// at everybody finds nobody whom the first one should have looked at.
    pub(crate) async fn enforce_at(&self, now: Timestamp) -> EnforceReport {
        let report = EnforceBudgets::default().run(&self.context, now).await.unwrap();
        let again = EnforceBudgets::default().run(&self.context, now).await.unwrap();
        assert_eq!((again.changed, again.notifications), (0, 0), "a second run writes nothing");
        assert_eq!((again.customers, again.everybody), (0, false), "and looks at nobody");
        let all = enforce(&self.context, now, Mode::Write).await.unwrap();
        assert_eq!((all.missed, all.notifications, all.blocked, all.unblocked), (0, 0, 0, 0), "{all:?}");
        self.sound().await;
        report
    }

    async fn enforce(&self) -> EnforceReport {
        self.enforce_at(now()).await
    }

    pub(crate) async fn chime_of(&self, id: &str) -> Entitlement {
        let all = self.context.books.entitlements(Some(id.into())).await.unwrap();
        all.into_iter().find(|e| e.meter == "chime_minutes").unwrap()
    }

    async fn budget(&self, minor: i64) {
        let change = BudgetChange {
            customer: "ann".into(),
            meter: String::new(),
            amount_minor: Some(minor),
            currency: usd(),
            set_by: "test".into(),
        };
        self.context.books.set_budget(change, now()).await.unwrap();
    }

    async fn notifications(&self) -> Vec<String> {
        self.dump("SELECT kind || ' ' || meter || ' ' || percent FROM notifications ORDER BY seq").await
    }
}

#[tokio::test]
async fn a_budget_is_overrun_raised_and_a_new_period_opens() {
    let world = BudgetFixture::with_ann(300.0).await;
    let report = world.enforce().await;
    assert_eq!(
        (report.customers, report.changed, report.blocked),
        (1, 1, 1),
        "before it, the plan's meters are allowed"
    );
    assert_eq!((report.not_allowed, report.not_in_plan), (2, 1));
    let last = world.context.books.last_enforcement().await.unwrap().unwrap();
    assert_eq!((last.enforced_at, last.on_stale.as_str(), last.thresholds), (now(), "warn", vec![50, 80, 100]));
    let e = world.chime_of("ann").await;
    assert_eq!((e.allowed, e.reason, e.overage_cost_minor), (false, Reason::NoBudget, 200));
    assert_eq!((e.as_of, e.freshness), (Some(at("2026-10-29T00:00:00Z")), Freshness::Fresh));
    assert_eq!(
        world.notifications().await,
        [
            "included_used chime_minutes 50",
            "included_used chime_minutes 80",
            "included_used chime_minutes 100",
            "blocked chime_minutes 0"
        ]
    );
    world.budget(250).await;
    assert_eq!(world.enforce().await.unblocked, 1);
    let e = world.chime_of("ann").await;
    assert_eq!((e.allowed, e.reason, e.effective_limit), (true, Reason::WithinBudget, Some("350".parse().unwrap())));
    // AWS tells of more
    deliver_lines(&world.bucket(), &version(2), &[chime("ann", 28, 300.0), chime("ann", 29, 60.0)]);
    world.ingest().await.unwrap();
    assert_eq!(world.enforce().await.blocked, 1);
    assert_eq!(world.chime_of("ann").await.reason, Reason::BudgetSpent);
    world.budget(1000).await;
    assert_eq!(world.enforce().await.unblocked, 1);
    world.budget(0).await;
    assert_eq!(world.enforce().await.blocked, 1);
    // November: by itself
    let november = at("2026-11-01T00:00:00Z");
    assert_eq!(world.enforce_at(november).await.unblocked, 1);
    let e = world.chime_of("ann").await;
    assert_eq!((e.allowed, e.used, e.period_start), (true, "0".parse().unwrap(), november));
    let notifications = world.notifications().await;
    let of = |what: &str| notifications.iter().filter(|n| n.starts_with(what)).count();
    assert_eq!((of("included_used"), of("blocked"), of("unblocked")), (3, 3, 3), "{notifications:?}");
    assert_eq!(of("budget_used  50"), 1, "of 250, 80 % of which was reached at once: {notifications:?}");
    let history = world.context.books.entitlement_history("ann", "chime_minutes", 50).await.unwrap();
    assert_eq!(history.len(), 6, "every other decision is kept: {history:?}");
}

#[tokio::test]
async fn usage_that_is_taken_back_unblocks_and_crossings_are_told_once() {
    let world = BudgetFixture::with_ann(100.0).await;
    world.enforce().await;
    assert!(!world.chime_of("ann").await.allowed);
    for (number, minutes, allowed) in [(2, 90.0, true), (3, 100.0, false), (4, 99.9999999999, true)] {
        deliver_lines(&world.bucket(), &version(number), &[chime("ann", 28, minutes)]);
        world.ingest().await.unwrap();
        world.enforce().await;
        assert_eq!(world.chime_of("ann").await.allowed, allowed, "{number}");
    }
    let sent = world.notifications().await;
    assert_eq!(sent.iter().filter(|n| n.starts_with("included_used")).count(), 3, "{sent:?}");
    assert_eq!(sent.iter().filter(|n| n.starts_with("blocked")).count(), 2, "each block is reported: {sent:?}");
}

#[tokio::test]
async fn an_old_bill_is_kept_warned_of_or_blocks_overage() {
    for (policy, allowed, attention) in
        [(OnStale::Keep, true, false), (OnStale::Warn, true, true), (OnStale::BlockOverage, false, true)]
    {
        let mut world = BudgetFixture::with_ann(150.0).await;
        world.budget(1000).await;
        world.context.enforcement =
            Arc::new(EnforcementSettings { on_stale: policy, ..EnforcementSettings::default() });
        let fresh = world.enforce_at(at("2026-10-31T23:00:00Z")).await;
        assert!(!EnforceBudgets::needs_attention(&fresh) && world.chime_of("ann").await.allowed);
        // in the same period the bill grows too old: 72 hours after the end of the 28th
        world.context.enforcement = Arc::new(EnforcementSettings {
            on_stale: policy,
            stale_after: SignedDuration::from_hours(70),
            ..EnforcementSettings::default()
        });
        let stale = world.enforce_at(at("2026-10-31T23:00:00Z")).await;
        let e = world.chime_of("ann").await;
        assert_eq!((e.allowed, e.freshness), (allowed, Freshness::Stale), "{policy:?}");
        assert_eq!(EnforceBudgets::needs_attention(&stale), attention, "{policy:?}");
        if !allowed {
            assert_eq!((e.reason, e.effective_limit), (Reason::DataTooOld, Some("100".parse().unwrap())));
        }
    }
}

#[tokio::test]
async fn usage_counts_in_the_period_that_holds_the_last_second_of_its_day() {
    let world = BudgetFixture::new().await;
    world.apply(vec![plan("pro", "2020-01-01T00:00:00Z", ("100", None))]).await;
    let lines: Vec<_> = (1..=28).map(|day| chime("ann", day, f64::from(i32::from(day)))).collect();
    deliver_lines(&world.bucket(), &version(1), &lines);
    world.ingest().await.unwrap();
    let noon = at("2026-10-10T12:00:00Z").as_second();
    world
        .execute(format!(
            "INSERT INTO subscriptions (id, customer, status, anchor_at, started_at) VALUES ('s', 'ann', 'active', {noon}, {noon})"
        ))
        .await;
    world.sign_up("ann", "pro").await;
    world.enforce_at(at("2026-10-29T12:00:00Z")).await;
    let e = world.chime_of("ann").await;
    assert_eq!((e.period_start.as_second(), e.used), (noon, (10..=28).sum::<i32>().to_string().parse().unwrap()));
    // it ends on the 20th at noon: that day is the subscription's, and what follows is nobody's to
    // allow
    world.execute(format!("UPDATE subscriptions SET ended_at = {}", noon + 10 * 86_400)).await;
    roll(&world.context.books, now(), Mode::Write).await.unwrap();
    world.enforce().await;
    let e = world.chime_of("ann").await;
    assert_eq!((e.allowed, e.reason), (false, Reason::Canceled));
    assert_eq!(e.used, (21..=28).sum::<i32>().to_string().parse().unwrap());
}

#[tokio::test]
async fn a_period_has_the_terms_that_held_when_it_began() {
    let world = BudgetFixture::with_ann(150.0).await;
    let meters = METERS.map(str::to_owned);
    let later = vec![plan("pro", "2026-10-15T00:00:00Z", ("1000", None))];
    let before = at("2026-10-14T00:00:00Z");
    let refused = world.context.books.apply_plans(later.clone(), &meters, now()).await.unwrap_err();
    assert!(refused.to_string().contains("would change billing periods that have begun"), "{refused}");
    let applied = world.context.books.apply_plans(later, &meters, before).await.unwrap();
    assert_eq!(applied, [Applied::New]);
    world.enforce().await;
    assert_eq!(world.chime_of("ann").await.included, "100".parse().unwrap(), "October began before the new version");
    world.enforce_at(at("2026-11-02T00:00:00Z")).await;
    assert_eq!(world.chime_of("ann").await.included, "1000".parse().unwrap());
    let books = &world.context.books;
    for (wrong, why) in [
        (plan("pro", "2026-10-15T00:00:00Z", ("7", None)), "cannot be edited"),
        (plan("pro", "2030-01-01T00:00:00Z", ("-7", None)), "negative"),
        (plan("pro", "2030-01-01T00:00:00Z", ("900000001", None)), "900,000,000"),
        (plan("", "2030-01-01T00:00:00Z", ("7", None)), "1 to 64"),
        (
            Plan { currency: "EUR".parse().unwrap(), ..plan("pro", "2030-01-01T00:00:00Z", ("7", None)) },
            "in USD already",
        ),
    ] {
        let good = plan("other", "2026-01-01T00:00:00Z", ("7", None));
        let refused = books.apply_plans(vec![good, wrong], &meters, now()).await.unwrap_err();
        assert!(matches!(refused, PlanError::Wrong(..)) && refused.to_string().contains(why), "{refused}");
        assert!(!books.plans().await.unwrap().names().contains(&"other"), "all or none");
    }
    // one that does not hold yet may still be changed
    world.apply(vec![plan("pro", "2030-01-01T00:00:00Z", ("7", None))]).await;
    let replaced = world.apply(vec![plan("pro", "2030-01-01T00:00:00Z", ("8", None))]).await;
    assert_eq!(replaced, [Applied::Replaced]);
}

#[tokio::test]
async fn odd_customers_have_stated_outcomes() {
    let world = BudgetFixture::with_ann(150.0).await;
    // an unknown plan: everything is blocked, and a person is called for
    world.execute("UPDATE customers SET plan = 'platinum' WHERE id = 'ann'".into()).await;
    let report = world.enforce().await;
    assert!(report.unknown_plan == 1 && EnforceBudgets::needs_attention(&report));
    assert_eq!(world.chime_of("ann").await.reason, Reason::UnknownPlan);
    assert_eq!(world.dump("SELECT reason || allowed_until FROM turn_periods LIMIT 1").await, ["unknown_plan0"]);
    world.execute("UPDATE customers SET plan = 'pro' WHERE id = 'ann'".into()).await;
    // a budget in another currency, written past the statement of the contract: it counts as none
    world
        .execute(
            "INSERT INTO overage_budgets (customer, amount_minor, currency, set_by) VALUES ('ann', 9999, 'EUR', 'me')"
                .into(),
        )
        .await;
    let report = world.enforce().await;
    assert!(report.budget_in_other_currency == 1 && EnforceBudgets::needs_attention(&report));
    let e = world.chime_of("ann").await;
    assert_eq!((e.allowed, e.reason, e.budget_minor), (false, Reason::BudgetInOtherCurrency, 0));
    // two living subscriptions: the one that began last decides, and a person is called for
    for (id, status, started) in [("s1", "unpaid", "2026-09-05T00:00:00Z"), ("s2", "active", "2026-10-05T00:00:00Z")] {
        let t = at(started).as_second();
        world
            .execute(format!(
                "INSERT INTO subscriptions (id, customer, status, anchor_at, started_at) VALUES ('{id}', 'ann', '{status}', {t}, {t})"
            ))
            .await;
    }
    let report = roll(&world.context.books, now(), Mode::Write).await.unwrap();
    assert_eq!((report.overlapping_subscriptions, report.overlapping_customers), (1, vec!["ann".to_owned()]));
    world.enforce().await;
    assert_eq!(world.chime_of("ann").await.period_start, at("2026-10-05T00:00:00Z"));
    // deleted, with usage: no entitlement stays behind, usage and counts do, and a run goes on
    world.execute("DELETE FROM customers WHERE id = 'ann'".into()).await;
    assert_eq!(world.enforce().await.customers, 0);
    assert!(world.context.books.entitlements(Some("ann".into())).await.unwrap().is_empty());
    assert_eq!(world.usage("ann", "chime_minutes").await, "150".parse().unwrap());
    assert_ne!(world.dump("SELECT count(*) || '' FROM turn_periods WHERE customer = 'ann'").await, ["0"]);
    // a meter that is configured no more takes its decisions along
    world.context.books.add_customer("ann").await.unwrap();
    world.enforce().await;
    let mut fewer = world;
    let mut rules = ingest_fixture::rules(ingest_fixture::TAG);
    rules.meters.retain(|m| m.name != "transfer_gb");
    fewer.context = Context { read_settings: ingest_fixture::read_settings(rules), ..fewer.context.clone() };
    fewer.enforce().await;
    let left = fewer.dump("SELECT meter FROM entitlements ORDER BY meter").await;
    assert_eq!(left, ["chime_minutes", "storage_gb", "turn_allocations"]);
}

#[tokio::test]
async fn a_clock_that_is_set_back_decides_nothing() {
    let world = BudgetFixture::with_ann(300.0).await;
    world.enforce_at(at("2026-10-29T12:00:00Z")).await;
    let back = enforce(&world.context, at("2026-10-28T12:00:00Z"), Mode::Write).await.unwrap();
    assert_eq!((back.from_the_future, back.changed), (1, 0));
    assert!(EnforceBudgets::needs_attention(&back));
    assert_eq!(world.chime_of("ann").await.decided_at, at("2026-10-29T12:00:00Z"));
}

#[tokio::test]
async fn a_dry_run_tells_and_writes_nothing() {
    let world = BudgetFixture::with_ann(300.0).await;
    let dry = enforce(&world.context, now(), Mode::DryRun).await.unwrap();
    assert_eq!((dry.changed, dry.changes.len(), dry.not_allowed), (1, 4, 2));
    assert!(world.context.books.entitlements(None).await.unwrap().is_empty() && world.notifications().await.is_empty());
    let dry = roll(&world.context.books, at("2026-12-03T00:00:00Z"), Mode::DryRun).await.unwrap();
    assert_eq!((dry.closed, dry.counts.len(), dry.opened), (2, 2, 2), "October and November would be closed");
    assert_eq!(world.dump("SELECT count(*) || '' FROM turn_periods WHERE closed_at IS NOT NULL").await, ["0"]);
}

/// Two workers at the same work: whoever comes second finds it done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_beside_each_other_make_each_decision_and_notification_once() {
    let world = BudgetFixture::with_ann(300.0).await;
    for i in 0..300 {
        world.context.books.add_customer(&format!("c{i:03}")).await.unwrap();
    }
    world.execute("UPDATE customers SET plan = 'pro'".into()).await;
    let other = world.open_again().await;
    let beside = Context { books: other, ..world.context.clone() };
    let today = Timestamp::now();
    let (a, b) = tokio::join!(enforce(&world.context, today, Mode::Write), enforce(&beside, today, Mode::Write));
    let (a, b) = (a.unwrap(), b.unwrap());
    assert_eq!(a.customers, b.customers);
    let changes =
        world.dump("SELECT count(*) || ' ' || count(DISTINCT customer || meter) FROM entitlement_changes").await;
    let (all, distinct) = changes[0].split_once(' ').unwrap();
    assert_eq!(all, distinct, "no decision is kept twice");
    world.enforce_at(today).await;
}

/// Facts that change after they were read and before the decision is written.
#[tokio::test]
async fn a_decision_follows_what_is_true_when_it_is_written() {
    let one = |sql: &str| vec![sql.to_owned()];
    let taken_back = testkit::usage::booking("ann", "chime_minutes", "'2026-10-28'", "-2500000000000");
    for (changes, reason, used) in [
        (one("SELECT 1"), Some(Reason::NoBudget), "300"),
        (
            one(
                "INSERT INTO overage_budgets (customer, amount_minor, currency, set_by) VALUES ('ann', 999, 'USD', 'x')",
            ),
            Some(Reason::WithinBudget),
            "300",
        ),
        (one("UPDATE customers SET status = 'canceled'"), Some(Reason::Canceled), "300"),
        (one("UPDATE customers SET plan = 'platinum'"), Some(Reason::UnknownPlan), "300"),
        (one("UPDATE turn_periods SET used = used + 500"), Some(Reason::NoBudget), "300"),
        (taken_back.to_vec(), Some(Reason::WithinIncluded), "50"),
        (one("DELETE FROM customers"), None, ""),
    ] {
        let world = BudgetFixture::with_ann(300.0).await;
        // once: the run's last transaction only keeps that it looked at every customer
        let statements = Mutex::new(changes.clone());
        let beside: Fence = Arc::new(move |c: Connection| {
            let statements = std::mem::take(&mut *statements.lock().unwrap());
            Box::pin(async move {
                for sql in statements {
                    let mut rows = c.query(&sql, ()).await?;
                    while rows.next().await?.is_some() {}
                }
                Ok(())
            })
        });
        let context = Context { books: world.context.books.fenced(beside), ..world.context.clone() };
        let report = enforce(&context, now(), Mode::Write).await.unwrap();
        assert_eq!(report.changed, 1, "{changes:?}");
        let decided = world.context.books.entitlements(Some("ann".into())).await.unwrap();
        let chime = decided.iter().find(|e| e.meter == "chime_minutes");
        assert_eq!(chime.map(|e| e.reason), reason, "{changes:?}");
        assert_eq!(chime.map(|e| e.used.to_string()).unwrap_or_default(), used, "{changes:?}");
        let again = enforce(&world.context, now(), Mode::Write).await.unwrap();
        assert_eq!((again.changed, again.notifications), (0, 0), "{changes:?}");
    }
}
