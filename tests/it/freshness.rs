//! How old what the web backend is answered is, and what holds when no worker runs: the statement
//! `may_use` of `docs/backend-contract.md`.

use libsql::Value;

use crate::contract::{Backend, CHIME, enforce, text, written};
use crate::support::test_store::TestStore;

suite![a_dead_worker_never_says_fresh_and_the_policy_decides];

/// Freshness is that of the instant at which somebody asks.
async fn a_dead_worker_never_says_fresh_and_the_policy_decides(store: TestStore) {
    let backend = Backend::new(&store).await;
    backend.execute(CHIME).await.unwrap();
    backend.run("sign_up", &[text("ann"), Value::Null, Value::Null]).await.unwrap();
    enforce(&store.context().await).await;
    backend.run("sign_up", &[text("bob"), Value::Null, Value::Null]).await.unwrap();
    let ran =
        backend.number("SELECT enforced_at FROM enforcement WHERE on_stale = 'warn' AND stale_after = 259200").await;
    let (minute, hour, day) = (60, 3600, 86_400);
    let ask = async |customer: &str, meter: &str, at: i64| {
        let row = backend.run("may_use", &[text(customer), text(meter), Value::Integer(at)]).await.unwrap();
        assert_eq!(row["enforced_at"], Value::Integer(ran), "when somebody last decided");
        (row["allowed"] == Value::Integer(1), written(&row["reason"]), written(&row["freshness"]), row)
    };
    // a decision about 1,000 included minutes, of which 5 are used; the bill is a day old
    let decide = async |policy: &str, reason: &str, period_end: i64, as_of: i64| {
        let allowed = i64::from(reason.starts_with("within"));
        let sql = format!(
            "UPDATE entitlements SET allowed = {allowed}, reason = '{reason}', used = 50000000000, budget_minor = 900, \
             effective_limit = 20000000000000, period_end = {period_end} WHERE meter = 'chime_minutes'"
        );
        backend.execute(&sql).await.unwrap();
        backend.execute(&format!("UPDATE entitlements SET period_end = {period_end}")).await.unwrap();
        backend.execute(&format!("UPDATE enforcement SET on_stale = '{policy}', as_of = {as_of}")).await.unwrap();
    };
    let (included, beyond, spent) = ("within_included", "within_budget", "no_budget");
    let (later, yesterday) = (ran + 60 * day, ran - day);
    for (policy, reason, as_of, at, allowed, said, freshness) in [
        ("warn", included, yesterday, ran + minute, true, included, "fresh"),
        ("warn", included, yesterday, ran + 30 * minute, true, included, "fresh"),
        // a worker that has just died blocks nobody
        ("warn", included, yesterday, ran + 31 * minute, true, included, "stale"),
        ("block-overage", beyond, yesterday, ran + 31 * minute, true, beyond, "stale"),
        ("block-overage", beyond, yesterday, ran + 48 * hour, true, beyond, "stale"),
        // the bill grows old while decisions are made
        ("warn", beyond, ran - 72 * hour, ran + minute, true, beyond, "stale"),
        ("block-overage", beyond, ran - 72 * hour, ran + minute, false, "data_too_old", "stale"),
        ("block-overage", included, ran - 72 * hour, ran + minute, true, included, "stale"),
        // dead for 22 days
        ("keep", included, yesterday, ran + 22 * day, true, included, "stale"),
        ("keep", beyond, yesterday, ran + 22 * day, true, beyond, "stale"),
        ("warn", beyond, yesterday, ran + 22 * day, true, beyond, "stale"),
        ("warn", spent, yesterday, ran + 22 * day, false, spent, "stale"),
        ("block-overage", included, yesterday, ran + 22 * day, true, included, "stale"),
        ("block-overage", beyond, yesterday, ran + 22 * day, false, "data_too_old", "stale"),
        ("block-overage", spent, yesterday, ran + 22 * day, false, spent, "stale"),
    ] {
        decide(policy, reason, later, as_of).await;
        let found = ask("ann", "chime_minutes", at).await;
        let case = format!("{policy} {reason} {}", at - ran);
        assert_eq!((found.0, found.1.as_str(), found.2.as_str()), (allowed, said, freshness), "{case}: {:?}", found.3);
        let limit = if policy == "block-overage" && at - as_of > 72 * hour { 1000.0 } else { 2000.0 };
        assert_eq!((&found.3["used"], &found.3["effective_limit"]), (&Value::Real(5.0), &Value::Real(limit)), "{case}");
    }
    // the period ends and nobody decides: the plan includes some of it, or nothing
    for (plan, policy, reason, at, allowed, said, freshness) in [
        (1, "warn", spent, ran + minute, true, "new_period", "none"),
        (1, "warn", spent, ran + 22 * day, true, "new_period", "stale"),
        (1, "block-overage", beyond, ran + 22 * day, true, "new_period", "stale"),
        (0, "warn", beyond, ran + 22 * day, true, "new_period", "stale"),
        (0, "keep", beyond, ran + 22 * day, true, "new_period", "stale"),
        (0, "block-overage", beyond, ran + minute, true, "new_period", "none"),
        (0, "block-overage", beyond, ran + 22 * day, false, "data_too_old", "stale"),
        (0, "warn", spent, ran + 22 * day, false, spent, "stale"),
    ] {
        decide(policy, reason, ran + 1, yesterday).await;
        backend
            .execute(&format!("UPDATE plan_meters SET included = {plan} WHERE meter = 'chime_minutes'"))
            .await
            .unwrap();
        let found = ask("ann", "chime_minutes", at).await;
        let case = format!("{plan} {policy} {reason} {}", at - ran);
        assert_eq!((found.0, found.1.as_str(), found.2.as_str()), (allowed, said, freshness), "{case}: {:?}", found.3);
        for figure in ["used", "included", "effective_limit", "overage_cost_minor"] {
            assert_eq!(found.3[figure], Value::Null, "{case}: {figure} is of the period before");
        }
    }
    // who signed up after the last run, and TURN
    for (customer, meter, at, said, freshness) in [
        ("bob", "turn_allocations", ran + minute, "not_decided", "none"),
        ("bob", "turn_allocations", ran + 22 * day, "not_decided", "stale"),
        ("ann", "turn_allocations", ran, included, "live"),
        ("ann", "turn_allocations", ran + 22 * day, "new_period", "stale"),
    ] {
        let found = ask(customer, meter, at).await;
        assert_eq!(
            (found.0, found.1.as_str(), found.2.as_str()),
            (true, said, freshness),
            "{customer} at {}",
            at - ran
        );
    }
    assert_eq!(backend.take("ann", Some(ran + 22 * day)).await, Some((true, "granted".into())));
    assert_eq!(backend.take("bob", Some(ran + 22 * day)).await, Some((true, "granted".into())));
}
