//! The statements of `docs/backend-contract.md`, run exactly as they are printed there: on a local
//! file and over the remote protocol.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::test_store::TestStore;
use books::Database;
use books::store::error::BooksError;
use jiff::Timestamp;
use jobs::context::Context;
use jobs::enforce_budgets::{EnforceBudgets, EnforceReport};
use jobs::job::Job;
use jobs::roll_periods::{RollPeriods, RollPeriodsReport};
use libsql::Value;
use testkit::usage::booking;

/// The page.
pub(crate) fn page_text() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/backend-contract.md");
    std::fs::read_to_string(path).unwrap()
}

/// The statements of the page, by name.
fn page() -> BTreeMap<String, String> {
    let text = page_text();
    let named = text.split("<!-- statement: ").skip(1).map(|part| {
        let (name, rest) = part.split_once(" -->\n```sql\n").expect("a block of SQL after the name");
        (name.to_owned(), rest.split_once("```").unwrap().0.to_owned())
    });
    named.collect()
}

/// The backend: one connection of its own, and the page.
pub(crate) struct Backend {
    database: Database,
    page: BTreeMap<String, String>,
}

pub(crate) type Row = BTreeMap<String, Value>;

impl Backend {
    pub(crate) async fn new(store: &TestStore) -> Self {
        Self::of(store.books().await)
    }

    pub(crate) fn of(database: Database) -> Self {
        Self { database, page: page() }
    }

    pub(crate) async fn try_run(&self, name: &str, values: &[Value]) -> Result<Option<Row>, BooksError> {
        let (sql, values) = (self.page[name].clone(), values.to_vec());
        self.database
            .with_connection(async move |c| {
                let mut rows = c.query(&sql, values).await?;
                let mut first = None;
                // all rows are read, so that a statement that writes is done
                while let Some(row) = rows.next().await? {
                    let named = |i: i32| Ok((row.column_name(i).unwrap_or_default().to_owned(), row.get_value(i)?));
                    let row = (0..row.column_count()).map(named).collect::<Result<Row, BooksError>>()?;
                    assert!(first.replace(row).is_none(), "one row at most");
                }
                Ok(first)
            })
            .await
    }

    pub(crate) async fn run(&self, name: &str, values: &[Value]) -> Option<Row> {
        self.try_run(name, values).await.unwrap()
    }

    pub(crate) async fn take(&self, customer: &str, now: Option<i64>) -> Option<(bool, String)> {
        let row = self.run("take_turn", &[text(customer), now.map_or(Value::Null, Value::Integer)]).await?;
        Some((row["granted"] == Value::Integer(1), written(&row["answer"])))
    }

    async fn may_use(&self, customer: &str, meter: &str) -> Option<(bool, String)> {
        let row = self.run("may_use", &[text(customer), text(meter), Value::Null]).await?;
        Some((row["allowed"] == Value::Integer(1), written(&row["reason"])))
    }

    pub(crate) async fn number(&self, sql: &'static str) -> i64 {
        self.database
            .with_connection(async move |c| Ok(c.query(sql, ()).await?.next().await?.unwrap().get::<i64>(0)?))
            .await
            .unwrap()
    }

    pub(crate) async fn execute(&self, sql: &str) -> Result<u64, BooksError> {
        let sql = sql.to_owned();
        self.database.transaction(async move |c| Ok(c.execute(&sql, ()).await?)).await
    }
}

pub(crate) fn text(text: &str) -> Value {
    Value::Text(text.into())
}

pub(crate) fn written(value: &Value) -> String {
    match value {
        Value::Text(text) => text.clone(),
        other => format!("{other:?}"),
    }
}

pub(crate) async fn enforce(context: &Context) -> EnforceReport {
    EnforceBudgets::default().run(context, Timestamp::now()).await.unwrap()
}

async fn reset(context: &Context, now: Timestamp) -> RollPeriodsReport {
    RollPeriods::default().run(context, now).await.unwrap()
}

suite![
    who_signs_up_has_what_the_plan_gives,
    turn_is_handed_out_up_to_the_limit_and_given_back,
    a_budget_opens_and_closes_what_is_beyond_the_plan,
    subscriptions_move_periods_and_stop_who_does_not_pay,
    wrong_values_are_refused_and_change_nothing,
    a_decision_lets_go_when_its_period_is_over,
    no_increment_is_lost_and_no_limit_passed_with_eight_writers,
];

pub(crate) const CHIME: &str = "INSERT INTO plan_meters (plan, effective_from, meter, included, price, report) \
     VALUES ('core', 0, 'chime_minutes', 10000000000000, '0.01', 'overage')";

async fn who_signs_up_has_what_the_plan_gives(store: TestStore) {
    let backend = Backend::new(&store).await;
    assert_eq!(backend.take("ann", None).await, None, "nobody of that name");
    assert_eq!(backend.may_use("ann", "chime_minutes").await, None);
    let row = backend.run("sign_up", &[text("ann"), text("cus_1"), Value::Null]).await.unwrap();
    assert_eq!((written(&row["plan_name"]), written(&row["status"])), ("core".into(), "active".into()));
    // before any job of ours has run
    assert_eq!(backend.take("ann", None).await, Some((true, "granted".into())));
    assert_eq!(backend.may_use("ann", "chime_minutes").await, Some((false, "not_decided".into())), "not in the plan");
    backend.execute(CHIME).await.unwrap();
    assert_eq!(backend.may_use("ann", "chime_minutes").await, Some((true, "not_decided".into())));
    assert_eq!(backend.may_use("ann", "chime_minuets").await, Some((false, "not_decided".into())), "no such meter");
    let again = backend.run("sign_up", &[text("ann"), text("cus_2"), Value::Null]).await.unwrap();
    assert_eq!(written(&again["id"]), "ann", "a repeat changes nothing");
    assert_eq!(backend.number("SELECT count(*) FROM customers WHERE stripe_customer_id = 'cus_1'").await, 1);
    assert_eq!(backend.run("sign_up", &[text("bob"), Value::Null, text("gold")]).await, None, "no such plan");
    let context = store.context().await;
    reset(&context, Timestamp::now()).await;
    enforce(&context).await;
    assert_eq!(backend.may_use("ann", "chime_minutes").await, Some((true, "within_included".into())));
    let row = backend.run("take_turn", &[text("ann"), Value::Null]).await.unwrap();
    assert_eq!((&row["used"], &row["allowed_until"]), (&Value::Integer(2), &Value::Integer(500)));
    assert_eq!(backend.number("SELECT turn_allocations_used FROM customers WHERE id = 'ann'").await, 2);
    let open = backend.number("SELECT count(*) FROM turn_periods WHERE closed_at IS NULL").await;
    assert_eq!(open, 3, "the current one and two to come");
}

async fn turn_is_handed_out_up_to_the_limit_and_given_back(store: TestStore) {
    let backend = Backend::new(&store).await;
    backend.run("sign_up", &[text("ann"), Value::Null, Value::Null]).await.unwrap();
    backend.execute("UPDATE turn_periods SET used = 498 WHERE starts_at <= unixepoch()").await.unwrap();
    for _ in 0..2 {
        assert_eq!(backend.take("ann", None).await, Some((true, "granted".into())));
    }
    assert_eq!(backend.take("ann", None).await, Some((false, "included_used".into())), "before the first enforcement");
    let context = store.context().await;
    reset(&context, Timestamp::now()).await;
    enforce(&context).await;
    assert_eq!(backend.take("ann", None).await, Some((false, "included_used".into())));
    let row = backend.run("take_turn", &[text("ann"), Value::Null]).await.unwrap();
    let start = row["starts_at"].clone();
    assert_eq!(row["used"], Value::Integer(500), "a refusal counts nothing");
    assert_eq!(backend.number("SELECT refused FROM turn_periods WHERE used > 0").await, 3);
    let given = backend.run("give_back_turn", &[text("ann"), start.clone()]).await.unwrap();
    assert_eq!(given["used"], Value::Integer(499));
    assert_eq!(backend.take("ann", None).await, Some((true, "granted".into())));
    // the next period begins when its time comes, whether or not a job has run
    let Value::Integer(end) = row["ends_at"] else { panic!("{row:?}") };
    assert_eq!(backend.take("ann", Some(end - 1)).await, Some((false, "included_used".into())));
    assert_eq!(backend.take("ann", Some(end)).await, Some((true, "granted".into())));
    assert_eq!(backend.number("SELECT turn_allocations_used FROM customers").await, 1);
}

async fn a_budget_opens_and_closes_what_is_beyond_the_plan(store: TestStore) {
    let backend = Backend::new(&store).await;
    // a plan of an older build: its price of TURN counts as none
    for sql in [CHIME, "UPDATE plan_meters SET included = 20000000000, price = '0.5'"] {
        backend.execute(sql).await.unwrap();
    }
    backend.run("sign_up", &[text("ann"), Value::Null, Value::Null]).await.unwrap();
    let context = store.context().await;
    reset(&context, Timestamp::now()).await;
    let takes = async || {
        let mut granted = 0;
        while backend.take("ann", None).await.unwrap().0 {
            granted += 1;
        }
        granted
    };
    assert_eq!(takes().await, 2);
    assert_eq!(backend.take("ann", None).await.unwrap().1, "included_used", "before the first enforcement");
    enforce(&context).await;
    assert_eq!(backend.take("ann", None).await.unwrap().1, "included_used");
    let minute = async || {
        for sql in booking("ann", "chime_minutes", "date('now')", "10000000000") {
            backend.execute(&sql).await.unwrap();
        }
    };
    let may = async || backend.may_use("ann", "chime_minutes").await.unwrap();
    assert_eq!(may().await, (true, "within_included".into()));
    minute().await;
    minute().await;
    let report = enforce(&context).await;
    assert_eq!((report.blocked, report.not_sent), (1, 4), "blocked, and 50, 80 and 100 % of the included amount");
    assert_eq!(may().await, (false, "no_budget".into()));
    let set = |minor| [text("ann"), text(""), Value::Integer(minor), text("USD"), text("user 7")];
    backend.run("set_budget", &set(100)).await.unwrap();
    assert_eq!(may().await, (false, "no_budget".into()), "from the next enforcement on");
    let report = enforce(&context).await;
    assert_eq!((report.unblocked, report.not_sent), (1, 1));
    assert_eq!(may().await, (true, "within_budget".into()));
    minute().await;
    assert_eq!(enforce(&context).await.blocked, 0, "a dollar is two at half a dollar");
    minute().await;
    assert_eq!(enforce(&context).await.blocked, 1);
    assert_eq!(may().await, (false, "budget_spent".into()));
    assert_eq!(takes().await, 0, "no budget opens more of TURN");
    assert_eq!(backend.take("ann", None).await.unwrap().1, "included_used");
    backend.run("set_budget", &set(150)).await.unwrap();
    assert_eq!(enforce(&context).await.unblocked, 1);
    backend
        .run("set_budget", &[text("ann"), text("chime_minutes"), Value::Integer(50), text("USD"), text("me")])
        .await
        .unwrap();
    enforce(&context).await;
    assert_eq!(may().await, (false, "meter_budget_spent".into()));
    assert_eq!(backend.number("SELECT count(*) FROM overage_budget_changes WHERE set_by = 'user 7'").await, 2, "kept");
    let nothing = enforce(&context).await;
    assert_eq!((nothing.changed, nothing.notifications, nothing.not_sent), (0, 0, 0));
}

async fn subscriptions_move_periods_and_stop_who_does_not_pay(store: TestStore) {
    let backend = Backend::new(&store).await;
    let context = store.context().await;
    backend.run("sign_up", &[text("ann"), Value::Null, Value::Null]).await.unwrap();
    let now = Timestamp::now().as_second();
    let (start, day) = (now - 3 * 86_400, 86_400);
    let tell = async |status: &str, ended: Value| {
        let values = [text("sub_1"), text("ann"), text(status), Value::Integer(start), Value::Integer(start), ended];
        backend.run("record_subscription", &values).await.unwrap();
        reset(&context, Timestamp::now()).await;
        enforce(&context).await;
    };
    backend.take("ann", None).await;
    tell("active", Value::Null).await;
    let current = backend.number("SELECT period_start FROM entitlements WHERE meter = 'turn_allocations'").await;
    assert_eq!(current, start, "the subscription's own period");
    assert_eq!(backend.number("SELECT sum(used) FROM turn_periods").await, 1, "what was counted is somewhere");
    for (status, granted) in [
        ("past_due", true),
        ("unpaid", false),
        ("active", true),
        ("paused", false),
        ("trialing", true),
        ("canceled", false),
    ] {
        tell(status, if status == "canceled" { Value::Integer(now - day) } else { Value::Null }).await;
        assert_eq!(backend.take("ann", None).await.unwrap().0, granted, "{status}");
    }
    // who comes back has a new subscription
    let values = [text("sub_2"), text("ann"), text("active"), Value::Integer(now), Value::Integer(now), Value::Null];
    backend.run("record_subscription", &values).await.unwrap();
    reset(&context, Timestamp::now()).await;
    enforce(&context).await;
    assert!(backend.take("ann", None).await.unwrap().0);
    backend.run("set_status", &[text("ann"), text("canceled")]).await.unwrap();
    assert_eq!(backend.take("ann", None).await.unwrap(), (false, "canceled".into()), "from that moment on");
    enforce(&context).await;
    assert_eq!(backend.take("ann", None).await.unwrap(), (false, "canceled".into()));
    assert_eq!(backend.may_use("ann", "chime_minutes").await, Some((false, "canceled".into())));
}

async fn wrong_values_are_refused_and_change_nothing(store: TestStore) {
    let backend = Backend::new(&store).await;
    backend.run("sign_up", &[text("ann"), text("cus_1"), Value::Null]).await.unwrap();
    let budget =
        |minor: i64, currency: &str| [text("ann"), text(""), Value::Integer(minor), text(currency), text("me")];
    for (minor, currency) in [(-1, "USD"), (100_000_000_001, "USD"), (i64::MAX, "USD")] {
        let refused = backend.try_run("set_budget", &budget(minor, currency)).await.unwrap_err();
        assert!(refused.to_string().contains("CHECK constraint failed"), "{refused}");
    }
    assert_eq!(backend.run("set_budget", &budget(100, "EUR")).await, None, "another currency than the plan's");
    assert_eq!(backend.number("SELECT count(*) FROM overage_budgets").await, 0);
    let at = Value::Integer(1_700_000_000);
    let subscription = |status: &str, ended: i64| {
        [text("s"), text("ann"), text(status), at.clone(), at.clone(), Value::Integer(ended)]
    };
    for values in [subscription("active", 1_600_000_000), subscription("asleep", 1_800_000_000)] {
        backend.try_run("record_subscription", &values).await.unwrap_err();
    }
    // ids and names that no machine means, each with what, where and what to do
    let signs_up = |id: &str, stripe: Value, plan: Value| ("sign_up", vec![text(id), stripe, plan]);
    let subscribes = |id: &str, customer: &str, status: &str| {
        let values = [text(id), text(customer), text(status), at.clone(), at.clone(), Value::Null];
        ("record_subscription", values.to_vec())
    };
    let (tab, nul) = ("cus\t1", "cus\u{0}1");
    for ((statement, values), why) in [
        (signs_up("bob", text(""), Value::Null), "customers.stripe_customer_id: 1 to 255 visible ASCII"),
        (signs_up("bob", text(" cus_2"), Value::Null), "write NULL as long as there is none"),
        (signs_up("bob", text(tab), Value::Null), "customers.stripe_customer_id"),
        (signs_up("bob", text(nul), Value::Null), "customers.stripe_customer_id"),
        (signs_up("bob", text(&"x".repeat(256)), Value::Null), "customers.stripe_customer_id"),
        (signs_up("", Value::Null, Value::Null), "customers.id: 1 to 256 characters"),
        (signs_up("bob ", Value::Null, Value::Null), "no blank at the ends"),
        (signs_up("bo\u{7f}b", Value::Null, Value::Null), "none of them a control character"),
        (subscribes("", "ann", "active"), "subscriptions.id: 1 to 255 visible ASCII"),
        (subscribes("sub 1", "ann", "active"), "subscriptions.id"),
        (subscribes("sub_1", "\nann", "active"), "subscriptions.customer"),
        (subscribes("sub_1", "ann", "Active"), "subscriptions.status: write the status that Stripe has"),
        (("set_status", vec![text("ann"), text("paused")]), "customers.status: write active, past_due or canceled"),
        (("report_stripe_error", vec![text("evt 1"), text("{}")]), "stripe_error_reports.id"),
        (("report_stripe_error", vec![text(""), text("{}")]), "stripe_error_reports.id"),
        (
            ("set_budget", vec![text("ann"), text(""), Value::Integer(1), text("USD"), text(" ")]),
            "overage_budgets.set_by: 1 to 255 characters",
        ),
    ] {
        let refused = backend.try_run(statement, &values).await.unwrap_err();
        assert!(refused.to_string().contains(why), "{statement} {values:?}: {refused}");
    }
    let changed = backend.execute("UPDATE customers SET stripe_customer_id = '' WHERE id = 'ann'").await.unwrap_err();
    assert!(changed.to_string().contains("customers.stripe_customer_id"), "{changed}");
    // nobody can be charged half a króna
    let kronur =
        "INSERT INTO overage_budgets (customer, amount_minor, currency, set_by) VALUES ('zoe', 550, 'ISK', 'me')";
    let refused = backend.execute(kronur).await.unwrap_err();
    assert!(refused.to_string().contains("write the amount times 100"), "{refused}");
    let shillings =
        "INSERT INTO overage_budgets (customer, amount_minor, currency, set_by) VALUES ('zoe', 500, 'UGX', 'me')";
    backend.execute(shillings).await.unwrap();
    let refused = backend.execute("UPDATE overage_budgets SET amount_minor = 5").await.unwrap_err();
    assert!(refused.to_string().contains("of ISK and UGX only whole amounts can be charged"), "{refused}");
    backend.execute("DELETE FROM overage_budgets").await.unwrap();
    assert_eq!(backend.number("SELECT count(*) FROM customers").await, 1);
    assert_eq!(backend.number("SELECT count(*) FROM subscriptions").await, 0);
    assert_eq!(backend.number("SELECT count(*) FROM stripe_error_reports").await, 0);
    let of_meter = [text("ann"), text("chime_minuts"), Value::Integer(1), text("USD"), text("me")];
    assert_eq!(backend.run("set_budget", &of_meter).await, None, "the plan has no such meter");
    let millis = Value::Integer(1_700_000_000_000);
    let wrong = [text("s"), text("ann"), text("active"), millis.clone(), millis, Value::Null];
    backend.try_run("record_subscription", &wrong).await.unwrap_err();
    let taken = backend.try_run("sign_up", &[text("bob"), text("cus_1"), Value::Null]).await.unwrap_err();
    assert!(taken.to_string().contains("UNIQUE"), "{taken}");
    // history is nobody's to change
    backend.run("set_budget", &budget(100, "USD")).await.unwrap();
    enforce(&store.context().await).await;
    backend.execute("UPDATE turn_periods SET closed_at = ends_at + 1").await.unwrap();
    for table in ["turn_periods", "customer_plans", "overage_budget_changes", "entitlement_changes"] {
        for sql in [format!("UPDATE {table} SET customer = 'x'"), format!("DELETE FROM {table} WHERE customer <> ''")] {
            let sql: &'static str = Box::leak(sql.into_boxed_str());
            let refused = backend.execute(sql).await.unwrap_err();
            assert!(refused.to_string().contains("history"), "{sql}: {refused}");
        }
    }
    assert_eq!(backend.take("ann", None).await, None, "no open period");
    // who is deleted gets nothing, and goes on with the counts of before on signing up again
    backend.run("sign_up", &[text("eve"), Value::Null, Value::Null]).await.unwrap();
    assert!(backend.take("eve", None).await.unwrap().0);
    backend.execute("DELETE FROM customers WHERE id = 'eve'").await.unwrap();
    assert_eq!(backend.take("eve", None).await, Some((false, "canceled".into())));
    assert_eq!(backend.may_use("eve", "turn_allocations").await, None);
    backend.run("sign_up", &[text("eve"), Value::Null, Value::Null]).await.unwrap();
    assert!(backend.take("eve", None).await.unwrap().0);
    assert_eq!(backend.number("SELECT used FROM turn_periods WHERE customer = 'eve' AND closed_at IS NULL").await, 2);
}

/// What rested on a period ends with it, and the plan of now decides; what rests on who pays stays.
/// `included` is of the plan, and of the decision.
async fn a_decision_lets_go_when_its_period_is_over(store: TestStore) {
    let backend = Backend::new(&store).await;
    backend.execute(CHIME).await.unwrap();
    backend.run("sign_up", &[text("ann"), Value::Null, Value::Null]).await.unwrap();
    enforce(&store.context().await).await;
    let ends = "SELECT period_end FROM entitlements WHERE meter = 'turn_allocations'";
    let end = backend.number(ends).await;
    for (reason, included, all, own, after) in [
        ("included_used", 5, 0, None, true),
        ("included_used", 0, 900, None, false),
        ("no_budget", 5, 0, None, true),
        ("no_budget", 0, 0, None, false),
        ("budget_spent", 0, 900, None, true),
        ("budget_spent", 0, 900, Some(0), false),
        ("budget_spent", 0, 0, Some(100), false),
        ("budget_spent", 5, 0, Some(100), true),
        ("meter_budget_spent", 0, 0, Some(100), true),
        ("meter_budget_spent", 0, 900, Some(0), false),
        ("past_due", 5, 900, None, true),
        ("past_due", 0, 900, None, false),
        ("data_too_old", 5, 900, None, true),
        ("budget_in_other_currency", 5, 0, None, true),
        ("unpaid", 5, 900, None, false),
        ("paused", 5, 900, None, false),
        ("canceled", 5, 900, None, false),
        ("not_in_plan", 0, 900, None, false),
        ("not_in_plan", 5, 900, None, true),
        ("unknown_plan", 0, 900, None, false),
    ] {
        let own = own.map_or("NULL".to_owned(), |n: i64| n.to_string());
        let sql = format!(
            "UPDATE entitlements SET allowed = 0, reason = '{reason}', included = {included}, budget_minor = {all}, meter_budget_minor = {own}"
        );
        backend.execute(&sql).await.unwrap();
        backend.execute(&format!("UPDATE plan_meters SET included = {included}, price = '0.01'")).await.unwrap();
        for (at, expected) in [(end - 1, false), (end, after)] {
            let values = [text("ann"), text("turn_allocations"), Value::Integer(at)];
            let row = backend.run("may_use", &values).await.unwrap();
            assert_eq!(
                row["allowed"],
                Value::Integer(i64::from(expected)),
                "{reason} {included} {all} {own} at {at}: {row:?}"
            );
            assert_eq!(written(&row["reason"]), if expected { "new_period" } else { reason });
            let is_of_this_period = at < end || ["unpaid", "paused", "canceled"].contains(&reason);
            assert_eq!(row["used"] != Value::Null, is_of_this_period, "no figure of another period: {row:?}");
        }
    }
    let ask = async |at: i64| {
        let row = backend.run("may_use", &[text("ann"), text("turn_allocations"), Value::Integer(at)]).await.unwrap();
        (row["allowed"] == Value::Integer(1), written(&row["reason"]))
    };
    let of_budget = "UPDATE entitlements SET allowed = 1, reason = 'within_budget', budget_minor = 900";
    backend.execute(of_budget).await.unwrap();
    for (plan, at_end) in [
        ("included = 0, price = '0.01'", (true, "new_period")),
        ("included = 0, price = NULL", (false, "included_used")),
        ("included = 5, price = NULL", (true, "new_period")),
        ("included = 0, price = '0.01', meter = 'other'", (false, "not_in_plan")),
        ("included = 5, price = NULL, meter = 'turn_allocations'", (true, "new_period")),
    ] {
        backend.execute(&format!("UPDATE plan_meters SET {plan} WHERE meter <> 'chime_minutes'")).await.unwrap();
        assert_eq!(ask(end).await, (at_end.0, at_end.1.to_owned()), "{plan}");
        assert_eq!(ask(end - 1).await, (true, "within_budget".to_owned()), "{plan}");
    }
    for (budgets, at_end) in [
        ("budget_minor = 900", (true, "new_period")),
        ("budget_minor = 0", (false, "included_used")),
        ("meter_budget_minor = 5", (true, "new_period")),
    ] {
        backend
            .execute("UPDATE plan_meters SET included = 0, price = '0.01' WHERE meter <> 'chime_minutes'")
            .await
            .unwrap();
        backend.execute(&format!("UPDATE entitlements SET reason = 'within_included', {budgets}")).await.unwrap();
        assert_eq!(ask(end).await, (at_end.0, at_end.1.to_owned()), "{budgets}");
    }
    // a payment is late: only what is included
    backend.execute("UPDATE customers SET status = 'past_due'").await.unwrap();
    assert!(!ask(end).await.0);
    backend.execute("UPDATE customers SET status = 'active'").await.unwrap();
    assert!(ask(end).await.0);
    backend.execute("UPDATE plan_meters SET included = 5, price = NULL WHERE meter <> 'chime_minutes'").await.unwrap();
    backend.execute(of_budget).await.unwrap();
    // what is known of the subscription since decides, and only while nobody has decided
    let subscription =
        "INSERT INTO subscriptions (id, customer, status, anchor_at, started_at) VALUES ('s', 'ann', 'active', 0, 0)";
    backend.execute(subscription).await.unwrap();
    for (status, at_end) in [
        ("status = 'past_due'", (true, "new_period")),
        ("status = 'unpaid'", (false, "unpaid")),
        ("status = 'paused'", (false, "paused")),
        ("status = 'canceled'", (false, "canceled")),
        ("status = 'active', ended_at = 5", (false, "canceled")),
        ("status = 'incomplete', ended_at = NULL", (true, "new_period")),
    ] {
        backend.execute(&format!("UPDATE subscriptions SET {status}")).await.unwrap();
        assert_eq!(ask(end).await, (at_end.0, at_end.1.to_owned()), "{status}");
        assert_eq!(ask(end - 1).await, (true, "within_budget".to_owned()), "{status}");
    }
    // a newer one that lives governs
    let living =
        "INSERT INTO subscriptions (id, customer, status, anchor_at, started_at) VALUES ('t', 'ann', 'active', 0, 0)";
    backend.execute("UPDATE subscriptions SET status = 'canceled'").await.unwrap();
    backend.execute(living).await.unwrap();
    assert_eq!(ask(end).await, (true, "new_period".to_owned()));
}

/// Eight backends take, give back and ask, a ninth changes budgets and subscriptions, and both jobs
/// run all the while. Some customers' periods end in the midst of it. What was granted is what is
/// counted, and no limit that ever held was passed.
async fn no_increment_is_lost_and_no_limit_passed_with_eight_writers(store: TestStore) {
    const CUSTOMERS: [&str; 3] = ["ann", "bob", "cyd"];
    const LIMIT: i64 = 60;
    let backend = Backend::new(&store).await;
    // ann's plan grows in the midst of it, up to 80
    for sql in [
        "UPDATE plan_meters SET included = 600000000000",
        "INSERT INTO plans (name, effective_from, currency, applied_at) VALUES ('more', 0, 'USD', 0)",
        "INSERT INTO plan_meters (plan, effective_from, meter, included, report) VALUES ('more', 0, 'turn_allocations', 600000000000, 'none')",
    ] {
        backend.execute(sql).await.unwrap();
    }
    for customer in CUSTOMERS {
        backend.run("sign_up", &[text(customer), Value::Null, Value::Null]).await.unwrap();
    }
    backend.execute("UPDATE customers SET plan = 'more' WHERE id = 'ann'").await.unwrap();
    // bob's period ends in two seconds, and a new one begins
    let now = Timestamp::now().as_second();
    let start = [
        text("sub_b"),
        text("bob"),
        text("active"),
        Value::Integer(now + 2),
        Value::Integer(now - 86_400 * 10),
        Value::Null,
    ];
    backend.run("record_subscription", &start).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = vec![];
    for _ in 0..8 {
        let (backend, stop) = (Backend::new(&store).await, Arc::clone(&stop));
        writers.push(tokio::spawn(async move {
            let mut net: BTreeMap<&str, i64> = BTreeMap::new();
            let mut round = 0_usize;
            while !stop.load(Ordering::Relaxed) {
                let customer = CUSTOMERS[round % CUSTOMERS.len()];
                round += 1;
                let values = [text(customer), Value::Null];
                let row = match backend.try_run("take_turn", &values).await {
                    Ok(row) => row.expect("a row"),
                    Err(BooksError::Locked(_)) => continue,
                    Err(other) => panic!("{other}"),
                };
                if row["granted"] == Value::Integer(1) {
                    *net.entry(customer).or_default() += 1;
                    if round.is_multiple_of(7)
                        && let Ok(Some(_)) =
                            backend.try_run("give_back_turn", &[text(customer), row["starts_at"].clone()]).await
                    {
                        *net.entry(customer).or_default() -= 1;
                    }
                }
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
            net
        }));
    }
    let context = store.context().await;
    let began = Instant::now();
    let (mut budget, mut closed) = (0, 0);
    while began.elapsed() < Duration::from_secs(6) {
        closed += reset(&context, Timestamp::now()).await.closed;
        enforce(&context).await;
        budget = (budget + 300).min(2000);
        let more = "UPDATE plan_meters SET included = min(included + 30000000000, 800000000000) WHERE plan = 'more'";
        backend.execute(more).await.unwrap();
        let values = [text("ann"), text(""), Value::Integer(budget), text("USD"), text("ann")];
        backend.run("set_budget", &values).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut net: BTreeMap<&str, i64> = BTreeMap::new();
    for writer in writers {
        for (customer, count) in writer.await.unwrap() {
            *net.entry(customer).or_default() += count;
        }
    }
    for customer in CUSTOMERS {
        let sql: &'static str = match customer {
            "ann" => "SELECT sum(used) FROM turn_periods WHERE customer = 'ann'",
            "bob" => "SELECT sum(used) FROM turn_periods WHERE customer = 'bob'",
            _ => "SELECT sum(used) FROM turn_periods WHERE customer = 'cyd'",
        };
        assert_eq!(backend.number(sql).await, net[customer], "{customer}: what was granted is what is counted");
    }
    assert!(closed >= 1, "bob's period ended in the midst of it");
    assert_eq!(net["cyd"], LIMIT, "up to the limit, and not one more");
    assert!(net["ann"] > LIMIT && net["ann"] <= LIMIT + 20, "a plan that grows by 20: {}", net["ann"]);
    assert_eq!(backend.number("SELECT count(*) FROM turn_periods WHERE used > 80").await, 0);
    let wrong = backend.number("SELECT count(*) FROM turn_periods WHERE customer <> 'ann' AND used > 60").await;
    assert_eq!(wrong, 0, "no period has more than the limit");
    let shown = "SELECT count(*) FROM customers c WHERE turn_allocations_used NOT IN (SELECT used FROM turn_periods WHERE customer = c.id)";
    assert_eq!(backend.number(shown).await, 0);
}
