//! Who is decided, and when: deciding only those who are due is the same as deciding everybody, and
//! the instant at which running usage blocks is known to the second.

use std::path::PathBuf;
use std::sync::Arc;

use books::limits::entitlement::{Entitlement, Reason};
use books::store::connection::Connection;
use books::store::database::Fence;
use books::units::calendar::Day;
use jiff::Timestamp;
use jobs::context::{Context, Export};
use jobs::enforce_budgets::{EnforceBudgets, EnforceReport, EntitlementChange, enforce};
use jobs::job::{Job, Mode};
use jobs::roll_periods::roll;
use jobs::source::Folder;
use testkit::ingest_fixture::export;
use testkit::usage::booking;

use crate::enforce::{BudgetFixture, at, plan};
use crate::settled::measuring;

const DAY: i64 = 86_400;
const WHO: [&str; 5] = ["ann", "bob", "cyd", "dan", "eve"];

fn instant(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// How many seeds a test tries on a file, and over a server.
fn of_seeds(file: u64, server: u64) -> u64 {
    if std::env::var_os("METER_TEST_DATABASE").is_some() { server } else { file }
}

async fn world() -> BudgetFixture {
    let mut world = BudgetFixture::new().await;
    world.context.measuring = measuring();
    let own = export(Arc::new(Folder::new(PathBuf::new())));
    world.context.exports = Arc::new([("p".to_owned(), Export { payer: "p".into(), ..own })].into());
    let plans = [("pro", ("100", Some("0.01"))), ("max", ("500", Some("0.02"))), ("free", ("40", None))];
    world.apply(plans.map(|(name, terms)| plan(name, "2020-01-01T00:00:00Z", terms)).to_vec()).await;
    world
}

async fn run(world: &BudgetFixture, now: i64) -> EnforceReport {
    EnforceBudgets::default().run(&world.context, instant(now)).await.unwrap()
}

async fn due_at(world: &BudgetFixture, sql: &str) -> i64 {
    let sql: &'static str = format!("SELECT CAST({sql} AS TEXT) FROM enforcement_due").leak();
    world.dump(sql).await[0].parse().unwrap()
}

/// What happens to books, at random.
struct History {
    rng: fastrand::Rng,
    now: i64,
    uses: Vec<(usize, String)>,
    log: Vec<String>,
}

impl History {
    async fn happen(&mut self, world: &BudgetFixture) {
        let (rng, now) = (&mut self.rng, self.now);
        let at = rng.usize(0..WHO.len());
        let who = WHO[at];
        let sql = match rng.u32(0..15) {
            0..3 => {
                let (id, level, from) = (self.log.len(), rng.i64(0..4), now + rng.i64(-3600..200));
                self.uses.push((at, format!("u{id}")));
                format!(
                    "INSERT INTO measurements (customer, meter, id, level, started_at, expires_at) \
                     VALUES ('{who}', 'chime_minutes', 'u{id}', {level}, {from}, {})",
                    from + rng.i64(1..2 * DAY)
                )
            }
            3 if !self.uses.is_empty() => {
                let (of, id) = self.uses.swap_remove(rng.usize(0..self.uses.len()));
                let end = now + rng.i64(-4000..100);
                format!("UPDATE measurements SET ended_at = {end} WHERE customer = '{}' AND id = '{id}'", WHO[of])
            }
            4 => format!(
                "INSERT INTO measurements (customer, meter, id, quantity, started_at) \
                 VALUES ('{who}', 'chime_minutes', 'r{}', {}, {})",
                self.log.len(),
                rng.i64(0..3000),
                now + rng.i64(-7200..200)
            ),
            5 => format!(
                "INSERT INTO measurements (customer, meter, id, level, started_at, ended_at) \
                 VALUES ('{who}', 'storage_gb', 'o{}', {}, {now}, {})",
                self.log.len(),
                rng.i64(0..100) << 32,
                (now / DAY + 2) * DAY
            ),
            6 | 7 => {
                let day = Day::from_epoch(i32::try_from(now / DAY - rng.i64(0..4)).unwrap()).unwrap();
                let minutes = [-20, 5, 30, 90][rng.usize(0..4)];
                for sql in booking(who, "chime_minutes", &format!("'{day}'"), &format!("{minutes}0000000000")) {
                    world.execute(sql).await;
                }
                let delivered = instant(now - rng.i64(0..40 * 3600));
                let newest = "(SELECT max(id) FROM bill_versions)";
                format!("UPDATE bill_versions SET delivered_at = '{delivered}' WHERE id = {newest}")
            }
            8 => format!(
                "INSERT INTO overage_budgets (customer, meter, amount_minor, currency, set_by) \
                 VALUES ('{who}', '{}', {}, 'USD', 'test') \
                 ON CONFLICT DO UPDATE SET amount_minor = excluded.amount_minor",
                ["", "chime_minutes"][rng.usize(0..2)],
                [0, 7, 100, 5000][rng.usize(0..4)]
            ),
            9 if rng.bool() => format!("DELETE FROM overage_budgets WHERE customer = '{who}'"),
            9 => format!(
                "INSERT INTO customer_plans (customer, plan, from_at, set_by) VALUES ('{who}', '{}', {now}, 'test')",
                ["pro", "max", "free"][rng.usize(0..3)]
            ),
            10 => format!(
                "UPDATE customers SET status = '{}' WHERE id = '{who}'",
                ["active", "active", "past_due", "canceled"][rng.usize(0..4)]
            ),
            11 | 12 => format!(
                "UPDATE turn_periods SET used = max(used + {}, 0) \
                 WHERE customer = '{who}' AND starts_at <= {now} AND ends_at > {now} AND closed_at IS NULL",
                [1, 3, 60, 200, -1, -100][rng.usize(0..6)]
            ),
            13 => {
                let (from, ends) = (now - rng.i64(0..5 * DAY), now + rng.i64(-DAY..3 * DAY));
                format!(
                    "INSERT INTO subscriptions (id, customer, status, anchor_at, started_at, ended_at) \
                     VALUES ('sub_{who}', '{who}', 'active', {from}, {from}, {}) ON CONFLICT (id) DO UPDATE SET \
                     status = '{}', ended_at = excluded.ended_at",
                    if rng.bool() { "NULL".to_owned() } else { ends.max(from).to_string() },
                    ["active", "past_due", "unpaid", "paused"][rng.usize(0..4)]
                )
            }
            14 if rng.u32(0..4) == 0 => {
                let price = ["0.01", "0.03"][rng.usize(0..2)];
                let version =
                    plan("pro", &instant(now + 70 * DAY).to_string(), (["100", "150"][rng.usize(0..2)], Some(price)));
                world
                    .context
                    .books
                    .apply_plans(vec![version], &["chime_minutes".into(), "storage_gb".into()], instant(now))
                    .await
                    .unwrap();
                "SELECT 1".to_owned()
            }
            _ => {
                let before = Day::from_epoch(i32::try_from(now / DAY - 3).unwrap()).unwrap();
                world.context.books.fold_measurements(before).await.unwrap();
                "SELECT 1".to_owned()
            }
        };
        self.log.push(format!("{} {sql}", instant(now)));
        if sql != "SELECT 1" {
            world.execute(sql).await;
        }
    }

    /// A moment, the next instant at which somebody is due, the second before it, or days.
    async fn pass(&mut self, world: &BudgetFixture) {
        let next = due_at(world, "min(due_at)").await.clamp(self.now, self.now + 20 * DAY);
        self.now = match self.rng.u32(0..8) {
            0..3 => self.now + self.rng.i64(0..300),
            3 | 4 => next,
            5 => (next - 1).max(self.now),
            6 => self.now + self.rng.i64(0..DAY / 2),
            _ => self.now + self.rng.i64(0..3 * DAY),
        };
    }
}

/// Nobody is decided otherwise by a run that looks at everybody, whatever happened and however much
/// time has passed.
#[tokio::test]
async fn deciding_those_who_are_due_is_deciding_everybody() {
    let seeds = std::env::var("METER_TEST_DUE").map_or(of_seeds(6, 1), |text| text.parse().unwrap());
    let first = std::env::var("METER_TEST_SEED").map_or(0, |text| text.parse().unwrap());
    let (mut partial, mut whole) = (0, 0);
    for seed in first..first + seeds {
        let world = world().await;
        for who in WHO {
            world.sign_up(who, ["pro", "max", "free"][who.len() % 3]).await;
        }
        let now = at("2026-10-05T10:00:00Z").as_second();
        let mut history = History { rng: fastrand::Rng::with_seed(seed), now, uses: vec![], log: vec![] };
        for step in 0..70 {
            for _ in 0..history.rng.u32(0..3) {
                history.happen(&world).await;
            }
            history.pass(&world).await;
            // the clock of the database is today's
            if history.now > at("2026-11-27T00:00:00Z").as_second() {
                break;
            }
            roll(&world.context.books, instant(history.now), Mode::Write).await.unwrap();
            let ran = run(&world, history.now).await;
            assert_eq!(ran.missed, 0, "seed {seed}, step {step}: {ran:?}\n{}", history.log.join("\n"));
            let count = if ran.everybody { &mut whole } else { &mut partial };
            *count += 1;
            let found = enforce(&world.context, instant(history.now), Mode::DryRun).await.unwrap();
            let case = format!("seed {seed}, step {step}, {}", instant(history.now));
            // on the day of another plan, what is included can follow usage
            let is_other = |change: &&EntitlementChange| {
                let answer =
                    |e: &Entitlement| (e.period_start, e.allowed, e.reason, e.budget_minor, e.meter_budget_minor);
                change.was.as_ref().map(answer) != Some(answer(&change.is))
            };
            let other: Vec<_> = found.changes.iter().filter(is_other).collect();
            assert!(other.is_empty(), "{case}: {other:?}\n{}", history.log.join("\n"));
            if step % 9 == 8 {
                let all = enforce(&world.context, instant(history.now), Mode::Write).await.unwrap();
                assert_eq!(
                    (all.missed, all.notifications, all.not_sent),
                    (0, 0, 0),
                    "{case}: {all:?}\n{}",
                    history.log.join("\n")
                );
            }
        }
    }
    assert!(partial > 2 * whole, "{partial} runs for those who are due, {whole} for everybody");
}

/// A change that no trigger saw is found by the run that looks at everybody, and said.
#[tokio::test]
async fn whom_the_list_missed_is_found_and_named() {
    let world = world().await;
    world.sign_up("ann", "pro").await;
    world.sign_up("bob", "pro").await;
    let now = at("2026-10-20T10:00:00Z").as_second();
    run(&world, now).await;
    world.execute("DROP TRIGGER budgets_are_decided".into()).await;
    world
        .execute(
            "INSERT INTO overage_budgets (customer, amount_minor, currency, set_by) VALUES ('ann', 700, 'USD', 'test')"
                .into(),
        )
        .await;
    let hour = run(&world, now + 3600).await;
    assert_eq!((hour.everybody, hour.customers, hour.missed), (false, 0, 0));
    let day = run(&world, now + DAY).await;
    assert_eq!((day.everybody, day.customers, day.missed), (true, 2, 1));
    assert_eq!(day.missed_customers, ["ann"]);
    assert!(EnforceBudgets::needs_attention(&day));
    let kept = || async { world.context.books.last_enforcement().await.unwrap().unwrap().missed };
    assert_eq!(kept().await, 1);
    // it is decided now; the finding stays until the next such run
    let hour = run(&world, now + DAY + 3600).await;
    assert_eq!((hour.missed, kept().await), (0, 1));
    assert_eq!((run(&world, now + 2 * DAY).await.missed, kept().await), (0, 0));
}

/// A report counts from the second after its own on, also when it comes in the second of a run.
#[tokio::test]
async fn a_report_in_the_second_of_a_run_counts_in_the_next_second() {
    let world = world().await;
    world.sign_up("ann", "pro").await;
    let now = at("2026-10-20T10:00:00Z").as_second();
    let sql = format!(
        "INSERT INTO measurements (customer, meter, id, quantity, started_at) VALUES ('ann', 'chime_minutes', 'r', 600, {now})"
    );
    world.execute(sql).await;
    run(&world, now).await;
    assert_eq!((world.chime_of("ann").await.used.to_string(), due_at(&world, "due_at").await), ("0".into(), now + 1));
    assert_eq!(run(&world, now + 1).await.changed, 1);
    assert_eq!(world.chime_of("ann").await.used.to_string(), "10");
    assert_eq!(enforce(&world.context, instant(now + 60), Mode::Write).await.unwrap().missed, 0);
}

/// Rows of the list that are gone are made anew, and whoever had none was missed.
#[tokio::test]
async fn a_customer_without_an_instant_is_found() {
    let world = world().await;
    for who in WHO {
        world.sign_up(who, "pro").await;
    }
    let now = at("2026-10-20T10:00:00Z").as_second();
    run(&world, now).await;
    world.execute("DELETE FROM enforcement_due".into()).await;
    world.execute("UPDATE customers SET status = 'canceled' WHERE id IN ('ann', 'eve')".into()).await;
    let day = run(&world, now + DAY).await;
    assert_eq!((day.customers, day.missed, day.missed_customers), (5, 2, vec!["ann".to_owned(), "eve".to_owned()]));
    // another id, as an operator may give one
    world.execute("UPDATE customers SET id = 'zoe' WHERE id = 'bob'".into()).await;
    assert_eq!(run(&world, now + DAY + 60).await.customers, 1);
    // another run has cyd: who is taken is not missed
    world.execute("UPDATE customers SET status = 'canceled' WHERE id = 'cyd'".into()).await;
    let taken = now + 2 * DAY + 15;
    world.execute(format!("UPDATE enforcement_due SET due_at = {taken} WHERE customer = 'cyd'")).await;
    let again = run(&world, now + 2 * DAY).await;
    assert_eq!((again.everybody, again.changed, again.missed), (true, 1, 0));
}

/// A run that fails or dies leaves those that it took due, and so does what happens while it
/// decides.
#[tokio::test]
async fn who_was_taken_and_not_decided_stays_due() {
    let world = world().await;
    world.sign_up("ann", "pro").await;
    let now = at("2026-10-20T10:00:00Z").as_second();
    let dies: Fence = Arc::new(|_: Connection| Box::pin(async { Err(books::BooksError::Fenced) }));
    let context = Context { books: world.context.books.fenced(dies), ..world.context.clone() };
    assert!(EnforceBudgets::default().run(&context, instant(now)).await.is_err());
    assert!(run(&world, now).await.everybody, "no run was finished before");
    world.execute("UPDATE customers SET status = 'canceled' WHERE id = 'ann'".into()).await;
    assert!(EnforceBudgets::default().run(&context, instant(now + 200)).await.is_err());
    assert_eq!(run(&world, now + 200).await.customers, 1, "it gave ann back");
    // one that was killed gives nobody back
    world.execute(format!("UPDATE enforcement_due SET due_at = {}", now + 240)).await;
    assert_eq!(run(&world, now + 239).await.customers, 0);
    assert_eq!(run(&world, now + 240).await.customers, 1);
    // what is measured while a run decides makes ann due again
    let sql = format!(
        "INSERT INTO measurements (customer, meter, id, quantity, started_at) VALUES ('ann', 'chime_minutes', 'r', 60, {now})"
    );
    let statement = std::sync::Mutex::new(Some(sql));
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
    world.execute("UPDATE customers SET status = 'active' WHERE id = 'ann'".into()).await;
    assert_eq!(EnforceBudgets::default().run(&context, instant(now + 400)).await.unwrap().customers, 1);
    assert_eq!(due_at(&world, "due_at").await, 0);
    assert_eq!(run(&world, now + 400).await.customers, 1);
}

/// A use by its seconds, with nobody's code but this.
struct Use {
    level: i64,
    from: i64,
    to: i64,
}

/// Attendee-seconds of a day that are over before `now`.
fn seconds(uses: &[Use], day: i64, now: i64) -> i64 {
    let of = |u: &Use| (u.to.min(now).min((day + 1) * DAY) - u.from.max(day * DAY)).max(0) * u.level;
    uses.iter().map(of).sum()
}

/// Minutes in 10⁻¹⁰, rounded half-even as a bill's are.
fn minutes(seconds: i64) -> i128 {
    let (whole, rest) = (i128::from(seconds) * 10_000_000_000 / 60, i128::from(seconds) * 10_000_000_000 % 60);
    whole + i128::from(rest > 30 || rest == 30 && whole % 2 == 1)
}

/// The instant that a decision names is the first second at which a naive model, second by second,
/// has the customer at the limit.
#[tokio::test]
async fn the_instant_of_a_block_is_the_first_second_of_a_naive_model() {
    let (mut blocked, mut at_midnight) = (0, 0);
    for seed in 0..of_seeds(24, 4) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let world = world().await;
        world.sign_up("ann", "pro").await;
        let now = at("2026-10-20T00:00:00Z").as_second() + rng.i64(60_000..86_000);
        let budget = rng.i64(0..400);
        world
            .execute(format!("INSERT INTO overage_budgets (customer, amount_minor, currency, set_by) VALUES ('ann', {budget}, 'USD', 'test')"))
            .await;
        let billed = [0, 7, 60][rng.usize(0..3)];
        if billed > 0 {
            for sql in booking("ann", "chime_minutes", "'2026-10-20'", &format!("{billed}0000000000")) {
                world.execute(sql).await;
            }
            world.execute("UPDATE bill_versions SET delivered_at = '2026-10-20T12:00:00Z'".into()).await;
        }
        let mut uses = vec![];
        for n in 0..rng.i64(1..5) {
            let from = now + rng.i64(-2000..250);
            let of = Use { level: rng.i64(1..4), from, to: from + rng.i64(1000..30_000) };
            let (ended, expires) = if rng.bool() { (of.to.to_string(), of.to + 500) } else { ("NULL".into(), of.to) };
            world
                .execute(format!(
                    "INSERT INTO measurements (customer, meter, id, level, started_at, ended_at, expires_at) \
                     VALUES ('ann', 'chime_minutes', 'u{n}', {}, {from}, {ended}, {expires})",
                    of.level
                ))
                .await;
            uses.push(of);
        }
        // 100 minutes are included, and each minute more costs a cent
        let limit = i128::from(100 + budget) * 10_000_000_000;
        let used = |second: i64| {
            let first = now / DAY;
            let day = |day: i64| {
                let bill = if day == first { i128::from(billed) * 10_000_000_000 } else { 0 };
                minutes(seconds(&uses, day, second)).max(bill)
            };
            day(first) + day(first + 1)
        };
        let naive = (now + 1..now + 40_000).find(|second| used(*second) >= limit);
        run(&world, now).await;
        let e = world.chime_of("ann").await;
        if used(now) >= limit {
            assert!(!e.allowed && e.blocked_at.is_none(), "seed {seed}");
            continue;
        }
        assert_eq!(e.blocked_at.map(Timestamp::as_second), naive, "seed {seed}: {e:?}");
        let Some(block) = naive else { continue };
        blocked += 1;
        at_midnight += i32::from(block / DAY > now / DAY);
        // shares of what is included come before it; each is decided when it is reached
        let mut decided: Vec<(Timestamp, Entitlement)> = vec![];
        loop {
            let due = due_at(&world, "due_at").await;
            if due > block {
                break;
            }
            let before = run(&world, due - 1).await;
            assert_eq!(before.customers, 0, "seed {seed}, {}: {before:?}", instant(due));
            assert_eq!(run(&world, due).await.customers, 1, "seed {seed}");
            decided.push((instant(due), world.chime_of("ann").await));
        }
        let (when, last) = decided.pop().unwrap();
        assert_eq!((when.as_second(), last.allowed), (block, false), "seed {seed}");
        assert!(matches!(last.reason, Reason::BudgetSpent | Reason::NoBudget), "seed {seed}: {last:?}");
        assert!(decided.iter().all(|(_, e)| e.allowed && e.blocked_at == Some(instant(block))), "seed {seed}");
    }
    let enough = if of_seeds(24, 4) == 24 { blocked > 8 && at_midnight > 0 } else { blocked > 0 };
    assert!(enough, "{blocked} blocked, {at_midnight} of them after midnight");
}
