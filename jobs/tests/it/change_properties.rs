//! Plans of changes, whatever the bills: a plan is the command, it has an opposite, and what it
//! says of customers comes true.

use std::collections::BTreeMap;
use std::sync::Arc;

use books::limits::budget::BudgetChange;
use jiff::Timestamp;
use jobs::changes::apply;
use jobs::context::Context;
use jobs::enforce_budgets::{ChangedAnswer, enforce};
use jobs::ingest_cur::IngestOutcome;
use jobs::job::Mode;
use jobs::push_stripe::simulate::{WantedSimulation, simulate};
use jobs::stripe::{BillingSettings, Mapping};
use proptest::prelude::*;
use testkit::ingest_fixture::{IngestFixture, TAG};
use testkit::suite_database::cases;

use crate::changes::{TEAM, Tagged, V1, V2, ann, bill, books, by, call, ingest, made, revert, sums, with};
use crate::enforce::{BudgetFixture, at, plan as prices};
use crate::settled::measuring;

fn random_lines() -> impl Strategy<Value = Vec<(String, String, i8, u16)>> {
    prop::collection::vec(("[ab]{0,1}", "[xyb]{0,1}", 1..5_i8, 0..40_u16), 1..12)
}

fn tagged(lines: &[(String, String, i8, u16)]) -> Vec<Tagged> {
    lines.iter().map(|(customer, team, day, n)| call(customer, team, *day, f64::from(*n))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(12)))]

    /// Whatever the bills and the configurations: a plan books what the command does, its revert
    /// makes every sum what it was, and the books are sound.
    #[test]
    fn any_change_is_the_command_and_has_an_opposite(
        first in random_lines(), second in random_lines(), other_tag: bool, first_is_booked: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (planned, plain) = (IngestFixture::with(by(TAG)).await, IngestFixture::with(by(TAG)).await);
            for world in [&planned, &plain] {
                if first_is_booked {
                    bill(&world.bucket(), V1, &tagged(&first));
                    ingest(&with(world, by(TAG)), world).await;
                }
                bill(&world.bucket(), V2, &tagged(&second));
            }
            let before = sums(&planned).await;
            let rules = || by(if other_tag { TEAM } else { TAG });
            let context = with(&planned, rules());
            let plan = made(&context, &planned).await;
            apply(&context, &plan, ann(), planned.now).await.unwrap();
            ingest(&with(&plain, rules()), &plain).await;
            assert_eq!(books(&planned).await, books(&plain).await);
            planned.sound().await;
            revert(&context, &planned, 1).await.unwrap();
            assert_eq!(sums(&planned).await, before);
            planned.sound().await;
            assert_eq!(ingest(&context, &planned).await, IngestOutcome::Reverted);
        });
    }

    /// Whatever was used, measured and budgeted: who would be blocked or unblocked is who then is,
    /// and a period costs then what it would cost.
    #[test]
    fn what_a_plan_says_of_customers_comes_true(
        first in random_lines(), second in random_lines(), other_tag: bool, budget in 0..3_i64, measured in 0..200_i64,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = BudgetFixture::over(IngestFixture::with(by(TAG)).await);
            world.context.measuring = measuring();
            let mapping = Mapping { event_name: "m".into(), per_unit: "1000".parse().unwrap(), display_name: "M".into() };
            let meters = BTreeMap::from([("chime_minutes".to_owned(), mapping)]);
            world.context.billing = Arc::new(BillingSettings { meters, ..BillingSettings::default() });
            world.apply(vec![prices("gold", "2020-01-01T00:00:00Z", ("10", Some("0.01")))]).await;
            for id in ["a", "b"] {
                world.sign_up(id, "gold").await;
            }
            if budget > 0 {
                let change = BudgetChange {
                    customer: "a".into(),
                    meter: String::new(),
                    amount_minor: Some(budget * 10),
                    currency: "USD".parse().unwrap(),
                    set_by: "test".into(),
                };
                world.context.books.set_budget(change, at("2026-10-01T00:00:00Z")).await.unwrap();
            }
            if measured > 0 {
                world.execute(format!(
                    "INSERT INTO measurements (customer, meter, id, level, started_at, ended_at, expires_at) VALUES \
                     ('b', 'chime_minutes', 'm', {measured}, unixepoch('2026-10-04'), unixepoch('2026-10-04') + 60, unixepoch('2026-10-05'))"
                )).await;
            }
            let old = with(&world, by(TAG));
            bill(&world.bucket(), V1, &tagged(&first));
            ingest(&old, &world).await;
            enforce(&old, world.now, Mode::Write).await.unwrap();
            // the second delivery settles the fourth
            bill(&world.bucket(), "2026-10-20T03:00:00.000Z-44444444-4444-4444-8444-444444444444", &tagged(&second));
            let new = with(&world, by(if other_tag { TEAM } else { TAG }));
            let before = amounts(&new, &world).await;
            let plan = made(&new, &world).await;
            apply(&new, &plan, ann(), world.now).await.unwrap();
            let after = amounts(&new, &world).await;
            let report = enforce(&new, world.now, Mode::DryRun).await.unwrap();
            let (mut blocked, mut unblocked) = (vec![], vec![]);
            for change in &report.changes {
                let was = change.was.as_ref().unwrap();
                let name = format!("{} {} {}", change.is.customer, change.is.meter, change.is.reason.name());
                match (was.allowed, change.is.allowed) {
                    (true, false) => blocked.push(name),
                    (false, true) => unblocked.push(name),
                    _ => {}
                }
            }
            blocked.sort();
            unblocked.sort();
            let named = |of: &[ChangedAnswer]| {
                of.iter().map(|of| format!("{} {} {}", of.customer, of.meter, of.reason)).collect::<Vec<_>>()
            };
            assert_eq!((named(&plan.effects.blocked), named(&plan.effects.unblocked)), (blocked, unblocked));
            let differ: Vec<_> = after.iter().filter(|(of, is)| before.get(*of) != Some(is)).collect();
            let money: Vec<_> = plan.effects.money.iter().filter(|of| of.before_minor != of.after_minor).collect();
            assert_eq!(differ.len(), money.len(), "{before:?} {after:?} {money:?}");
            for of in money {
                let key = (of.customer.clone(), of.period_start);
                assert_eq!((of.before_minor, of.after_minor), (before.get(&key).copied(), after.get(&key).copied()));
            }
        });
    }
}

/// What each billing period costs, by customer and start.
async fn amounts(context: &Context, world: &IngestFixture) -> BTreeMap<(String, Timestamp), i64> {
    let wanted = WantedSimulation { customer: None, plans: vec![], begin: 0..i64::MAX };
    let found = simulate(&context.books, &context.billing, wanted, world.now).await.unwrap();
    found.periods.into_iter().map(|of| ((of.customer.clone(), of.period_start), of.amounts().0)).collect()
}
