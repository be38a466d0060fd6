//! What the web backend measured, beside the bill: on open days the larger one counts, on settled
//! days the bill alone.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use books::limits::entitlement::{Entitlement, Freshness, Reason};
use books::measured::accrual::Accrues;
use books::measured::policy::MeasuredMeter;
use books::store::connection::Connection;
use books::store::database::Fence;
use jiff::{SignedDuration, Timestamp};
use jobs::context::{Context, Export, MeasuringSettings};
use jobs::enforce_budgets::enforce;
use jobs::job::Mode;
use jobs::source::Folder;
use testkit::ingest_fixture::{chime, deliver_lines, export};

use crate::enforce::{BudgetFixture, at, plan};

const DAY: i64 = 86_400;

pub(crate) fn measuring() -> Arc<MeasuringSettings> {
    let meter = |name, accrues| MeasuredMeter::new(name, accrues, DAY, 1);
    let meters = vec![
        meter("chime_minutes", Accrues::AttendeeMinutes),
        meter("storage_gb", Accrues::GbMonths),
        meter("transfer_gb", Accrues::Gb),
    ];
    Arc::new(MeasuringSettings { meters, ..MeasuringSettings::default() })
}

/// Ann has 100 minutes, and used 90 of them on the 28th, as the bill of the 29th says.
async fn with_ann() -> BudgetFixture {
    let mut world = BudgetFixture::new().await;
    world.context.measuring = measuring();
    world.apply(vec![plan("pro", "2020-01-01T00:00:00Z", ("100", Some("0.01")))]).await;
    world.sign_up("ann", "pro").await;
    bill(&world, "2026-10-29T03:00:00", 0.0).await;
    world
}

/// A bill that was delivered at `when`, with minutes on the 29th.
async fn bill(world: &BudgetFixture, when: &str, minutes: f64) {
    let mut lines = vec![chime("ann", 28, 90.0)];
    if minutes != 0.0 {
        lines.push(chime("ann", 29, minutes));
    }
    let version = format!("{when}.000Z-00000001-0000-4000-8000-000000000000");
    deliver_lines(&world.bucket(), &version, &lines);
    world.ingest().await.unwrap();
}

/// The statement of a use from one instant on, until another one or open.
fn use_of(customer: &str, id: &str, level: i64, from: i64, to: Option<i64>) -> String {
    let to = to.map_or("NULL".to_owned(), |to| to.to_string());
    format!(
        "INSERT INTO measurements (customer, meter, id, level, started_at, ended_at, expires_at) \
         VALUES ('{customer}', 'chime_minutes', '{id}', {level}, {from}, {to}, {})",
        from + DAY
    )
}

/// Four attendees from 10:00 on, on the 29th.
fn meeting() -> String {
    use_of("ann", "meeting", 4, at("2026-10-29T10:00:00Z").as_second(), None)
}

fn parts(e: &Entitlement) -> (bool, String, String, String) {
    (e.allowed, e.used.to_string(), e.used_billed.to_string(), e.used_measured.to_string())
}

fn known(allowed: bool, used: &str, billed: &str, measured: &str) -> (bool, String, String, String) {
    (allowed, used.into(), billed.into(), measured.into())
}

#[tokio::test]
async fn a_running_meeting_is_blocked_before_the_bill_and_the_bill_has_the_last_word() {
    let world = with_ann().await;
    world.enforce_at(at("2026-10-29T10:00:00Z")).await;
    assert_eq!(parts(&world.chime_of("ann").await), known(true, "90", "90", "0"));
    world.execute(meeting()).await;
    // it counts up to each run
    assert_eq!(world.enforce_at(at("2026-10-29T10:02:00Z")).await.blocked, 0);
    assert_eq!(parts(&world.chime_of("ann").await), known(true, "98", "90", "8"));
    assert_eq!(world.enforce_at(at("2026-10-29T10:02:30Z")).await.blocked, 1);
    let e = world.chime_of("ann").await;
    assert_eq!(parts(&e), known(false, "100", "90", "10"));
    // how old the data is stays what the bill says
    assert_eq!(
        (e.reason, e.as_of, e.freshness),
        (Reason::NoBudget, Some(at("2026-10-29T00:00:00Z")), Freshness::Fresh)
    );
    let body = "SELECT body FROM notifications WHERE kind = 'blocked' AND meter = 'chime_minutes'";
    let sent: serde_json::Value = serde_json::from_str(&world.dump(body).await[0]).unwrap();
    let data = &sent["data"];
    assert_eq!(
        (&data["used"], &data["used_billed"], &data["used_measured"]),
        (&"100".into(), &"90".into(), &"10".into())
    );
    let kept = "SELECT (used / 10000000000) || ' ' || (used_billed / 10000000000) || ' ' || (used_measured / 10000000000) \
                FROM entitlement_changes WHERE meter = 'chime_minutes' ORDER BY seq DESC LIMIT 1";
    assert_eq!(world.dump(kept).await, ["100 90 10"]);
    let end = at("2026-10-29T10:03:00Z").as_second();
    world.execute(format!("UPDATE measurements SET ended_at = {end}")).await;
    for (delivered, minutes, counts) in [
        // the day is open: the larger one counts
        ("2026-10-29T18:00:00", 6.0, known(false, "102", "96", "6")),
        ("2026-10-29T22:00:00", 13.0, known(false, "103", "103", "0")),
        ("2026-10-30T06:00:00", 11.0, known(false, "102", "101", "1")),
        ("2026-10-30T23:59:59", 9.0, known(false, "102", "99", "3")),
        // 24 hours after its end it is settled
        ("2026-10-31T00:00:00", 9.0, known(true, "99", "99", "0")),
        ("2026-10-31T04:00:00", 11.0, known(false, "101", "101", "0")),
    ] {
        bill(&world, delivered, minutes).await;
        world.enforce_at(at("2026-10-31T12:00:00Z")).await;
        assert_eq!(parts(&world.chime_of("ann").await), counts, "{delivered}");
    }
}

/// AWS takes minutes of the 29th back.
async fn take_back(world: &BudgetFixture, minutes: i64) {
    for sql in testkit::usage::booking("ann", "chime_minutes", "'2026-10-29'", &format!("-{minutes}0000000000")) {
        world.execute(sql).await;
    }
}

/// What is decided of ann. The counters of customers know nothing of [`take_back`].
async fn decide(world: &BudgetFixture) -> (bool, String, String, String) {
    let evening = at("2026-10-29T20:00:00Z");
    enforce(&world.context, evening, Mode::Write).await.unwrap();
    assert_eq!(enforce(&world.context, evening, Mode::Write).await.unwrap().changed, 0, "a second run writes nothing");
    parts(&world.chime_of("ann").await)
}

#[tokio::test]
async fn what_was_taken_back_stays_so_where_nothing_was_measured() {
    let world = with_ann().await;
    let noon = at("2026-10-29T12:00:00Z").as_second();
    take_back(&world, 20).await;
    assert_eq!(decide(&world).await, known(true, "70", "70", "0"));
    // a level of 0 is nothing measured
    world.execute(use_of("ann", "a", 0, noon, None)).await;
    assert_eq!(decide(&world).await, known(true, "70", "70", "0"));
    world.execute(use_of("ann", "b", 1, noon, Some(noon + 600))).await;
    assert_eq!(decide(&world).await, known(false, "100", "70", "30"));
    // more taken back than billed: the part of the bill is at least 0, like all of it
    take_back(&world, 75).await;
    assert_eq!(decide(&world).await, known(false, "100", "0", "100"));
}

/// Rows that make no sense block their customer at most.
#[tokio::test]
async fn an_absurd_level_blocks_and_breaks_no_run() {
    let world = with_ann().await;
    world.sign_up("bob", "pro").await;
    for n in 0..40 {
        let sql = use_of("ann", &n.to_string(), 1_000_000_000_000_000, at("2026-10-29T00:00:00Z").as_second(), None);
        world.execute(sql).await;
        world
            .execute(format!(
                "INSERT INTO measurements (customer, meter, id, quantity, started_at) \
                 VALUES ('ann', 'transfer_gb', '{n}', 1000000000000000000, {})",
                at("2026-10-29T01:00:00Z").as_second()
            ))
            .await;
    }
    world.enforce_at(at("2026-10-29T23:00:00Z")).await;
    let e = world.chime_of("ann").await;
    let most = "922337203.6854775807".parse().unwrap();
    assert_eq!((e.allowed, e.used, e.used_billed + e.used_measured), (false, most, most));
    assert!(world.chime_of("bob").await.allowed);
}

/// A measurement between the reading and the writing of a run is for the next one.
#[tokio::test]
async fn what_is_measured_while_a_run_decides_counts_in_the_next_one() {
    let world = with_ann().await;
    let now = at("2026-10-29T12:00:00Z");
    let statement = Mutex::new(Some(meeting()));
    let beside: Fence = Arc::new(move |c: Connection| {
        let statement = statement.lock().unwrap().take();
        Box::pin(async move {
            match statement {
                Some(sql) => c.execute(&sql, ()).await.map(drop),
                None => Ok(()),
            }
        })
    });
    let context = Context { books: world.context.books.fenced(beside), ..world.context.clone() };
    assert_eq!(enforce(&context, now, Mode::Write).await.unwrap().changed, 1);
    assert_eq!(parts(&world.chime_of("ann").await), known(true, "90", "90", "0"));
    assert_eq!(enforce(&world.context, now, Mode::Write).await.unwrap().blocked, 1);
    assert_eq!(parts(&world.chime_of("ann").await), known(false, "570", "90", "480"));
}

#[tokio::test]
async fn what_is_not_configured_does_not_count() {
    let mut world = with_ann().await;
    world.execute(meeting()).await;
    let now = at("2026-10-29T12:00:00Z");
    let used = async |world: &BudgetFixture| {
        world.enforce_at(now).await;
        parts(&world.chime_of("ann").await)
    };
    assert_eq!(used(&world).await, known(false, "570", "90", "480"));
    // a meter that is not measured
    world.context.measuring = Arc::new(MeasuringSettings { meters: vec![], ..MeasuringSettings::default() });
    assert_eq!(used(&world).await, known(true, "90", "90", "0"));
    // a shorter time to settle: the bill of 03:00 settled the 28th, and no bill settles today
    let mut settings = (*measuring()).clone();
    settings.settle_after = SignedDuration::from_hours(1);
    world.context.measuring = Arc::new(settings);
    world.execute(use_of("ann", "before", 2, now.as_second() - DAY, Some(now.as_second() - DAY + 6000))).await;
    assert_eq!(used(&world).await, known(false, "570", "90", "480"));
    world.context.measuring = measuring();
    assert_eq!(used(&world).await, known(false, "680", "90", "590"));
    // another payer without a bill: no day is settled, and the 1st counts as well
    let first = at("2026-10-01T00:00:00Z").as_second();
    world.execute(use_of("ann", "first", 1, first - 600, Some(first + 600))).await;
    assert_eq!(used(&world).await, known(false, "680", "90", "590"));
    let own = world.context.exports["main"].clone();
    let other = Export { payer: "other".into(), ..own.clone() };
    world.context.exports = Arc::new([("main".to_owned(), own), ("other".to_owned(), other)].into());
    assert_eq!(used(&world).await, known(false, "690", "90", "600"));
    world.context.exports = Arc::default();
    assert_eq!(used(&world).await, known(false, "690", "90", "600"), "no payer at all");
}

/// Minutes by day of October.
pub(crate) type Minutes = BTreeMap<i64, i64>;

/// A customer with bills and measurements, and a naive sum of what was measured.
pub(crate) struct Case {
    pub(crate) billed: Minutes,
    pub(crate) measured: Minutes,
    pub(crate) sql: Vec<String>,
}

pub(crate) fn case(rng: &mut fastrand::Rng, customer: &str, begin: i64, now: i64) -> Case {
    let (mut billed, mut measured, mut sql) = (Minutes::new(), Minutes::new(), vec![]);
    for _ in 0..rng.usize(0..12) {
        billed.insert(rng.i64(0..31), [-30, 0, 5, 40, 200][rng.usize(0..5)]);
    }
    for n in 0..rng.usize(0..8) {
        let (from, minutes, level) = (rng.i64(-1440..31 * 1440), rng.i64(-5..2000), rng.i64(0..3));
        sql.push(use_of(customer, &format!("u{n}"), level, begin + from * 60, Some(begin + (from + minutes) * 60)));
        // a use ends at its bound, and at the instant at which somebody looks
        for minute in from..(from + minutes.min(1440)).min((now - begin) / 60) {
            *measured.entry(minute.div_euclid(1440)).or_default() += level;
        }
    }
    for n in 0..rng.usize(0..4) {
        let (at, minutes) = (rng.i64(0..31 * DAY), rng.i64(0..90));
        sql.push(format!(
            "INSERT INTO measurements (customer, meter, id, quantity, started_at) \
             VALUES ('{customer}', 'chime_minutes', 'r{n}', {}, {})",
            minutes * 60,
            begin + at
        ));
        if begin + at < now {
            *measured.entry(at / DAY).or_default() += minutes;
        }
    }
    for day in 0..rng.i64(0..20) {
        let minutes = rng.i64(0..100);
        sql.push(format!(
            "INSERT INTO measured_days VALUES ('{customer}', 'chime_minutes', '2026-10-{:02}', 0, {})",
            day + 1,
            minutes * 60
        ));
        *measured.entry(day).or_default() += minutes;
    }
    Case { billed, measured, sql }
}

/// Two customers for each case: one with measurements, and one whose bill has what counts by a
/// naive model of each day. Both have the same plans and budgets, and are decided alike.
#[tokio::test]
async fn measured_usage_decides_as_if_it_were_billed() {
    for seed in 0..5 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut world = BudgetFixture::new().await;
        world.context.measuring = measuring();
        let plans = [("pro", ("100", Some("0.01"))), ("max", ("500", Some("0.02"))), ("free", ("40", None))];
        world.apply(plans.map(|(name, terms)| plan(name, "2020-01-01T00:00:00Z", terms)).to_vec()).await;
        let own = export(Arc::new(Folder::new(PathBuf::new())));
        let payers = ["p", "q"].into_iter().take(1 + usize::try_from(seed % 2).unwrap());
        let payers = payers.map(|payer| (payer.to_owned(), Export { payer: payer.into(), ..own.clone() }));
        world.context.exports = Arc::new(payers.collect());
        let (begin, now) = (at("2026-10-01T00:00:00Z").as_second(), at("2026-10-30T12:34:00Z"));
        // deliveries; a day is settled 24 hours after its end
        let delivered = [rng.i64(0..30 * DAY), rng.i64(0..30 * DAY)];
        let oldest = if seed % 2 == 0 { delivered[0] } else { delivered[0].min(delivered[1]) };
        let is_settled = |day: i64| (day + 2) * DAY <= oldest;
        let (mut values, mut billed_parts) = (String::new(), BTreeMap::new());
        for n in 0..24 {
            let Case { billed, measured, sql } = case(&mut rng, &format!("m{n}"), begin, now.as_second());
            let counts = |day: i64| {
                let (billed, measured) = (*billed.get(&day).unwrap_or(&0), *measured.get(&day).unwrap_or(&0));
                if is_settled(day) || measured == 0 { billed } else { billed.max(measured) }
            };
            for (who, minutes) in [("m", billed.clone()), ("b", (0..31).map(|day| (day, counts(day))).collect())] {
                for (day, minutes) in minutes.into_iter().filter(|(_, minutes)| *minutes != 0) {
                    let minutes = minutes * 10_000_000_000;
                    write!(values, "('{who}{n}', 'chime_minutes', '2026-10-{:02}', {minutes}, 'usage'),", day + 1)
                        .unwrap();
                }
            }
            billed_parts.insert(format!("m{n}"), billed.values().sum::<i64>().max(0));
            sign_up_alike(&world, &mut rng, n).await;
            for sql in sql {
                world.execute(sql).await;
            }
        }
        for sql in
            testkit::usage::bookings("'2026-10'", &format!("SELECT * FROM (VALUES {})", values.trim_end_matches(',')))
        {
            world.execute(sql).await;
        }
        let instant = |second: i64| Timestamp::from_second(begin + second).unwrap();
        world.execute(format!("UPDATE bill_versions SET delivered_at = '{}'", instant(delivered[0]))).await;
        let other = format!(
            "INSERT INTO bill_versions (payer, month, export, format, version, manifest_key, manifest_digest, rules_digest, \
             account, delivered_at, state, rows, counted_rows, rounded_amounts, decided_at) \
             VALUES ('q', '2026-10', 'e', 'cur2', 'v', 'k', 'd', 'r', '', '{}', 'applied', 0, 0, 0, '')",
            instant(delivered[1])
        );
        world.execute(other).await;
        enforce(&world.context, now, Mode::Write).await.unwrap();
        let again = enforce(&world.context, now, Mode::Write).await.unwrap();
        assert_eq!((again.changed, again.notifications), (0, 0), "seed {seed}: a second run writes nothing");
        let mut beyond = 0;
        for (customer, billed) in billed_parts {
            let (m, b) = (world.chime_of(&customer).await, world.chime_of(&customer.replace('m', "b")).await);
            let answer = |e: &Entitlement| {
                let terms = (e.included, e.effective_limit, e.overage_cost_minor, e.meter_cost_minor);
                (e.allowed, e.reason, e.used, terms)
            };
            assert_eq!(answer(&m), answer(&b), "seed {seed}, {customer}");
            assert_eq!(m.used_billed, billed.to_string().parse().unwrap(), "seed {seed}, {customer}");
            assert_eq!((m.used_billed + m.used_measured, b.used_measured), (m.used, "0".parse().unwrap()));
            beyond += i32::from(!m.used_measured.is_zero());
        }
        assert!(beyond > 3, "seed {seed}: {beyond} with measured usage beyond the bill");
    }
}

/// Customers `m` and `b` of a number, with the same plans and budget.
async fn sign_up_alike(world: &BudgetFixture, rng: &mut fastrand::Rng, n: i32) {
    let plan = ["pro", "max", "free"][rng.usize(0..3)];
    let change = (rng.bool()).then(|| (["pro", "max"][rng.usize(0..2)], rng.i64(0..29 * DAY)));
    let budget = [None, Some(0), Some(100), Some(5000)][rng.usize(0..4)];
    for who in ["m", "b"] {
        let id: &'static str = format!("{who}{n}").leak();
        world.sign_up(id, plan).await;
        if let Some((to, second)) = change {
            let from = at("2026-10-01T00:00:00Z").as_second() + second;
            world.execute(format!("INSERT INTO customer_plans (customer, plan, from_at, set_by) VALUES ('{id}', '{to}', {from}, 'test')")).await;
        }
        if let Some(minor) = budget {
            world
                .execute(format!(
                    "INSERT INTO overage_budgets (customer, amount_minor, currency, set_by) VALUES ('{id}', {minor}, 'USD', 'test')"
                ))
                .await;
        }
    }
}
