//! Random histories in which the books are lost and a backup is restored: what the lost books had
//! sent is billed once, and so is what they had not.
//!
//! A world lives as in `histories.rs`, with every fault. At some moment a backup is made, with
//! events open or not; the books go on for hours or weeks, are killed, and the backup takes their
//! place. Then time goes on, hour by hour, with new usage, restated usage and cancelled
//! subscriptions as before, and some worlds are restored a second time. In the end each invoice
//! equals the books. How many worlds there are: `billing_world::run::Worlds`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use books::store::audit_log::AuditEntry;
use books::stripe::acknowledgement::AcknowledgedBy;
use jobs::job::Mode;
use jobs::push_stripe::decide::DeferReason;
use jobs::reconcile_stripe::reconcile;
use jobs::roll_periods::{self, roll};
use jobs::sync_stripe::{SyncScope, sync};
use testkit::billing_world::run::{Worlds, check, each, push, settle, use_some, well};
use testkit::billing_world::{BillingWorld, CUSTOMERS, DAY, HOUR, Template, at};

/// What happened over all worlds.
type Seen = Mutex<BTreeMap<String, u64>>;

struct Life<'a> {
    world: BillingWorld,
    rng: fastrand::Rng,
    now: i64,
    ran: i64,
    cancels: [Option<i64>; 3],
    seen: &'a Seen,
}

impl Life<'_> {
    fn count(&self, what: impl Into<String>, n: usize) {
        *self.seen.lock().unwrap().entry(what.into()).or_default() += u64::try_from(n).unwrap();
    }

    /// The worker's runs until `end`, with faults.
    async fn go_on(&mut self, end: i64) {
        while self.now < end {
            let (world, rng, now) = (&self.world, &mut self.rng, self.now);
            world.stripe.world().set_now(now);
            for (who, cancel) in self.cancels.iter_mut().enumerate() {
                use_some(world, rng, who, now).await;
                if cancel.is_some_and(|t| t <= now) {
                    *cancel = None;
                    world.stripe.world().cancel_subscription(&format!("sub_{who}"));
                }
            }
            if rng.u8(0..3) > 0 {
                let scope = if rng.bool() { SyncScope::All } else { SyncScope::Changed };
                drop(sync(&world.context.books, &world.context.billing, at(now), scope).await);
            }
            drop(roll_periods::roll_unless_restored(&world.context, at(now), Mode::Write).await);
            push(world, rng, now, true).await;
            self.ran = now;
            if rng.u8(0..3) == 0 {
                drop(reconcile(&world.context, at(now), None).await);
            }
            self.now += if rng.u8(0..25) == 0 { rng.i64(5..9) * DAY } else { rng.i64(600..50 * HOUR) };
        }
    }

    async fn backup(&mut self, name: &str, plain: bool) -> (PathBuf, i64) {
        // the worker is between two runs, or in the middle of one that a kill ended
        let made = self.now - self.rng.i64(0..600);
        let open = self
            .world
            .rows("SELECT state FROM meter_events WHERE state IN ('pending', 'sending', 'unconfirmed')")
            .await;
        for state in open {
            self.count(format!("{state} in a backup"), 1);
        }
        (self.world.backup(name, plain, made).await, made)
    }

    /// The backup takes the place of the books, and two days pass without a fault.
    async fn restored(&mut self, (backup, made): (PathBuf, i64), plain: bool) {
        // soon after the lost books were killed
        self.now = self.ran + self.rng.i64(60..HOUR);
        self.world.restore(backup).await;
        if plain {
            let act = AuditEntry {
                actor: "ann".into(),
                action: "restored".into(),
                target: "books".into(),
                reason: "test".into(),
            };
            self.world.context.books.mark_restored(at(made), act, at(self.now)).await.unwrap();
        }
        let until = self.now + self.rng.i64(0..3) * DAY;
        loop {
            let (world, now) = (&self.world, self.now);
            world.stripe.world().set_now(now);
            well(sync(&world.context.books, &world.context.billing, at(now), SyncScope::Changed).await);
            roll_periods::roll_unless_restored(&world.context, at(now), Mode::Write).await.unwrap();
            let report = jobs::push_stripe::push(&world.context.books, &world.context.billing, at(now)).await;
            if let Ok(report) = &report {
                self.count(
                    "deferred as restored",
                    usize::try_from(report.deferred.get(&DeferReason::Restored).copied().unwrap_or(0)).unwrap(),
                );
            }
            well(report);
            well(reconcile(&world.context, at(now), None).await);
            if self.now >= until {
                return;
            }
            for who in 0..CUSTOMERS.len() {
                if self.rng.u8(0..6) == 0 {
                    use_some(&self.world, &mut self.rng, who, now).await;
                }
            }
            self.now += HOUR;
        }
    }
}

async fn history(template: &Template, seed: u64, seen: &Seen) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let begin = 1_767_225_600 + rng.i64(0..40) * DAY + rng.i64(0..DAY);
    let world = BillingWorld::new(template, &mut rng, begin).await;
    // whose periods a backup does not have gets them from the restoration on: these are customers
    // of before
    roll(&world.context.books, at(begin), Mode::Write).await.unwrap();
    let now = begin + HOUR;
    let cancels = CUSTOMERS.map(|_| (rng.u8(0..5) == 0).then(|| now + rng.i64(2..40) * DAY));
    let mut life = Life { world, rng, now, ran: now, cancels, seen };
    let rounds = life.rng.u8(1..3);
    for round in 0..rounds {
        let plain = life.rng.u8(0..4) == 0;
        let end = life.now + life.rng.i64(0..25) * DAY;
        life.go_on(end).await;
        let backup = life.backup(&format!("backup-{round}.db"), plain).await;
        let end = life.now + life.rng.i64(1..400) * HOUR;
        life.go_on(end).await;
        life.restored(backup, plain).await;
        let end = life.now + life.rng.i64(0..12) * DAY;
        life.go_on(end).await;
    }
    settle(&life.world, &mut life.rng, life.now).await;
    let late = check(&life.world, &format!("METER_TEST_SEED={seed} cargo test -p jobs --test it restore")).await;
    life.count("too late for its invoice, unseen", usize::from(late != 0));
    if rounds == 1 {
        covers(&life.world, seed).await;
    }
    let imported = life.world.rows("SELECT sign(value) FROM meter_events WHERE imported = 1").await;
    for sign in imported {
        life.count(if sign == "1" { "taken over" } else { "taken over, less than known" }, 1);
    }
    let deferred =
        life.world.rows("SELECT deferred_reason FROM billing_targets WHERE deferred_reason = 'restored'").await;
    assert!(deferred.is_empty(), "world {seed}: {deferred:?}");
}

/// What was taken over is no earlier than anything that it stands for, and its period has it all.
async fn covers(world: &BillingWorld, seed: u64) {
    let sql = "SELECT stripe_customer, event_name, billed_start, billed_end / 60 * 60, max(timestamp), sum(value) FROM meter_events \
               WHERE imported = 1 GROUP BY 1, 2, 3, 4";
    let imported = world.rows(sql).await;
    let known: BTreeSet<String> =
        world.rows("SELECT identifier FROM meter_events WHERE state = 'accepted'").await.into_iter().collect();
    for row in imported {
        let columns: Vec<&str> = row.split('|').collect();
        let number = |i: usize| columns[i].parse::<i64>().unwrap();
        let stripe = world.stripe.world();
        let latest = stripe.events().iter().filter(|e| {
            !known.contains(&e.identifier)
                && (e.customer.as_str(), e.event_name.as_str()) == (columns[0], columns[1])
                && (number(2)..number(3)).contains(&e.timestamp)
        });
        let latest = latest.map(|e| e.timestamp).max();
        assert!(latest.is_none_or(|t| t <= number(4)), "world {seed}: {row}, and an event of {latest:?}");
    }
}

/// One run of each job, without a fault.
async fn run_all(world: &BillingWorld, now: i64, synced: bool) {
    world.stripe.world().set_now(now);
    if synced {
        well(sync(&world.context.books, &world.context.billing, at(now), SyncScope::All).await);
    }
    roll_periods::roll_unless_restored(&world.context, at(now), Mode::Write).await.unwrap();
    well(jobs::push_stripe::push(&world.context.books, &world.context.billing, at(now)).await);
    if synced {
        well(reconcile(&world.context, at(now), None).await);
    }
}

/// What is sent before it is known that a subscription has ended is on no invoice; the totals know
/// it apart.
#[tokio::test]
async fn ends_that_become_known_late_are_taken_over_as_they_are() {
    for minutes in [0, 17] {
        let template = Template::new().await;
        let begin = 1_770_000_000;
        let mut rng = fastrand::Rng::with_seed(1);
        let mut world = BillingWorld::new(&template, &mut rng, begin).await;
        let days = |n: i64| begin + n * DAY + minutes * 60;
        let use_more = async |world: &BillingWorld, now: i64| {
            for who in 0..CUSTOMERS.len() {
                world.book(who, "chime_minutes", now / DAY - 1, 5_000_000_000_000).await;
            }
        };
        run_all(&world, days(0), true).await;
        use_more(&world, days(1)).await;
        run_all(&world, days(1), false).await;
        // ann's ends on the second day, and no books know before they are restored
        world.stripe.world().set_now(days(2));
        world.stripe.world().cancel_subscription("sub_0");
        use_more(&world, days(3)).await;
        run_all(&world, days(3), false).await;
        let backup = world.backup("backup.db", false, days(3) + 60).await;
        use_more(&world, days(4)).await;
        run_all(&world, days(4), false).await;
        world.restore(backup).await;
        for hour in 0..60 {
            run_all(&world, days(4) + 60 + hour * HOUR, true).await;
        }
        let imported = world.rows("SELECT count(*) FROM meter_events WHERE imported = 1").await;
        assert_eq!(imported, ["3"], "one of each customer: ann's on no invoice");
        // bob's ended before the lost books sent their last, and that is known only now
        world.stripe.world().set_now(days(3) + HOUR);
        world.stripe.world().cancel_subscription("sub_1");
        settle(&world, &mut rng, days(8)).await;
        assert_eq!(check(&world, "cargo test -p jobs --test it restore ends").await, 0);
        let imported =
            world.rows("SELECT customer, count(*) FROM meter_events WHERE imported = 1 GROUP BY 1 ORDER BY 1").await;
        assert_eq!(imported[0], "ann|1");
        assert!(imported[1] != "bob|0" && imported[2] == "cyd|1", "{imported:?}");
    }
}

/// A world in which nothing goes wrong: each customer uses something, and it is sent.
async fn calm(seed: u64) -> (BillingWorld, fastrand::Rng, i64) {
    let template = Template::new().await;
    let begin = 1_770_000_000;
    let mut rng = fastrand::Rng::with_seed(seed);
    let world = BillingWorld::new(&template, &mut rng, begin).await;
    run_all(&world, begin, true).await;
    use_more(&world, begin + DAY).await;
    run_all(&world, begin + DAY, true).await;
    (world, rng, begin)
}

async fn use_more(world: &BillingWorld, now: i64) {
    for who in 0..CUSTOMERS.len() {
        world.book(who, "chime_minutes", now / DAY - 1, 5_000_000_000_000).await;
    }
}

/// Hours of all jobs, until `end`.
async fn hours(world: &BillingWorld, mut now: i64, end: i64) -> i64 {
    while now < end {
        run_all(world, now, true).await;
        now += HOUR;
    }
    now
}

/// Stripe's totals fall behind what the restored books themselves had sent: that is no reason to
/// send it again, before it has stayed so.
#[tokio::test]
async fn less_than_the_books_know_is_believed_only_when_it_stays() {
    for comes_back in [true, false] {
        let (mut world, mut rng, begin) = calm(3).await;
        let backup = world.backup("backup.db", false, begin + DAY + 60).await;
        world.restore(backup).await;
        let restored = begin + DAY + HOUR;
        run_all(&world, restored, true).await;
        // a day later, when totals are believed, one has nothing of what ann's books had sent
        let quiet = hours(&world, restored + HOUR, restored + 23 * HOUR).await;
        let sent = world.stripe.world().events().len();
        world.stripe.world().set_summary_lag(9 * DAY);
        let dip = hours(&world, quiet, restored + 40 * HOUR).await;
        assert_eq!(world.stripe.world().events().len(), sent, "nothing is sent again while it may only lag");
        let imported = world.rows("SELECT count(*) FROM meter_events WHERE imported = 1").await;
        assert_eq!(imported, ["0"]);
        if comes_back {
            world.stripe.world().set_summary_lag(0);
            let end = hours(&world, dip, dip + 3 * DAY).await;
            assert_eq!(world.stripe.world().events().len(), sent);
            settle(&world, &mut rng, end).await;
            assert_eq!(check(&world, "cargo test -p jobs --test it restore less_than").await, 0);
        } else {
            // it stays so: then it is taken for lost, as everywhere else
            hours(&world, dip, dip + 2 * DAY).await;
            let imported = world.rows("SELECT count(*) FROM meter_events WHERE imported = 1 AND value < 0").await;
            assert_eq!(imported, ["3"]);
        }
    }
}

/// What the lost books had sent was for usage that bills tell again: before these are read it would
/// be taken back.
#[tokio::test]
async fn totals_are_taken_over_only_when_bills_were_read_again() {
    let (mut world, mut rng, begin) = calm(4).await;
    let backup = world.backup("backup.db", false, begin + DAY + 60).await;
    use_more(&world, begin + 2 * DAY).await;
    run_all(&world, begin + 2 * DAY, true).await;
    let folder = tempfile::TempDir::new().unwrap();
    let source: Arc<dyn jobs::source::Source> = Arc::new(jobs::source::Folder::new(folder.path()));
    let export = jobs::context::Export { payer: "p".into(), source, prefix: String::new(), format: None };
    world.context.exports = Arc::new(BTreeMap::from([("main".to_owned(), export)]));
    world.restore_without_bills(backup).await;
    let restored = begin + 2 * DAY + HOUR;
    let sent = world.stripe.world().events().len();
    let late = hours(&world, restored, restored + 3 * DAY).await;
    let report = reconcile(&world.context, at(late), None).await.unwrap();
    // February 2026 is the backup's month: AWS restates January for weeks
    assert_eq!(report.bills_missing, ["main 2026-01", "main 2026-02"]);
    assert!(report.not_yet.as_deref().unwrap().contains("meter backfill ingest --from 2026-01"), "{report:?}");
    assert!(<jobs::reconcile_stripe::ReconcileStripe as jobs::job::Job>::needs_attention(&report));
    assert_eq!(world.stripe.world().events().len(), sent, "nothing is taken back");
    // one month waits for a person
    let noted = async |month: &str, waits: bool| {
        let month = month.parse().unwrap();
        world.context.books.note_bill_read("main".into(), month, waits, at(late)).await.unwrap();
    };
    noted("2026-01", false).await;
    noted("2026-02", false).await;
    noted("2026-02", true).await;
    let report = reconcile(&world.context, at(late), None).await.unwrap();
    assert_eq!(report.bills_missing, ["main 2026-02"]);
    world.book_again().await;
    noted("2026-02", false).await;
    settle(&world, &mut rng, late).await;
    assert_eq!(check(&world, "cargo test -p jobs --test it restore totals_are").await, 0);
    assert!(world.rows("SELECT 1 FROM meter_events WHERE imported = 1 AND value < 0").await.is_empty());
}

/// A customer subscribes after the backup, and a month ends before the books are restored: the
/// month is closed when it is known whose period it was.
#[tokio::test]
async fn periods_are_closed_when_subscriptions_are_known_again() {
    let template = Template::new().await;
    // the tenth of a month, far from its end
    let begin = 1_767_225_600 + 9 * DAY;
    let mut rng = fastrand::Rng::with_seed(5);
    let mut world = BillingWorld::new(&template, &mut rng, begin).await;
    // the import of ann's is not done yet
    world.forget_subscription("sub_0").await;
    roll(&world.context.books, at(begin), Mode::Write).await.unwrap();
    let backup = world.backup("backup.db", false, begin + 60).await;
    run_all(&world, begin + DAY, true).await;
    for day in 0..22 {
        let now = begin + day * DAY;
        world.book(0, "chime_minutes", now / DAY, 1_000_000_000_000).await;
    }
    run_all(&world, begin + 23 * DAY, true).await;
    world.restore(backup).await;
    // the next month has begun; what is due first is done first
    let restored = begin + 23 * DAY + HOUR;
    let early = roll_periods::roll_unless_restored(&world.context, at(restored), Mode::Write).await.unwrap();
    assert!(early.awaits_subscriptions, "{early:?}");
    let closed = world.rows("SELECT count(*) FROM billing_periods WHERE closed_at IS NOT NULL").await;
    assert_eq!(closed, ["0"]);
    run_all(&world, restored, true).await;
    settle(&world, &mut rng, restored + HOUR).await;
    assert_eq!(check(&world, "cargo test -p jobs --test it restore periods_are").await, 0);
    let billed =
        world.rows("SELECT count(*) FROM billing_periods WHERE customer = 'ann' AND subscription = 'sub_0'").await;
    assert_ne!(billed, ["0"]);
}

/// A copy cannot be newer than what is in it, whatever is said of it; of two marks the earlier one
/// stays.
#[tokio::test]
async fn a_copy_is_of_the_time_of_the_newest_thing_in_it() {
    let (mut world, _, begin) = calm(6).await;
    let copy = world.backup("copy.db", true, begin).await;
    world.restore(copy).await;
    let act =
        || AuditEntry { actor: "ann".into(), action: "restored".into(), target: "books".into(), reason: "test".into() };
    let books = &world.context.books;
    let late = begin + 5 * DAY;
    let taken = books.mark_restored(at(late), act(), at(late)).await.unwrap();
    assert_eq!(taken, at(begin + DAY), "when subscriptions were last read");
    assert_eq!(books.mark_restored(at(begin), act(), at(late)).await.unwrap(), at(begin));
    books.mark_restored(at(begin + HOUR), act(), at(late)).await.unwrap();
    assert_eq!(books.restoration(at(late)).await.unwrap().unwrap().backup_at, begin);
}

/// Whoever asks for one customer's totals beside the worker takes nothing over a second time.
#[tokio::test]
async fn a_total_is_taken_over_once() {
    let (mut world, _, begin) = calm(7).await;
    let backup = world.backup("backup.db", false, begin + DAY + 60).await;
    use_more(&world, begin + 2 * DAY).await;
    run_all(&world, begin + 2 * DAY, true).await;
    world.restore(backup).await;
    let now = begin + 4 * DAY;
    run_all(&world, now - DAY - HOUR, true).await;
    let books = &world.context.books;
    let restoration = books.restoration(at(now)).await.unwrap().unwrap();
    let of = books.totals_to_import(restoration, HOUR, Some("ann".into()), 10, at(now)).await.unwrap().remove(0);
    assert!(books.import(of.clone(), [100, 0], restoration, HOUR, at(now)).await.unwrap());
    assert!(!books.import(of, [100, 0], restoration, HOUR, at(now)).await.unwrap(), "it is no longer to be taken over");
    let sum = world.rows("SELECT sum(value) FROM meter_events WHERE imported = 1").await;
    assert_eq!(sum, ["100"]);
}

/// What somebody else sent, and a person has made good, is not taken back by a restoration.
#[tokio::test]
async fn what_a_person_has_acknowledged_is_not_taken_over() {
    let (mut world, _, begin) = calm(8).await;
    world.stripe.world().set_now(begin + DAY + HOUR);
    world.send_as_a_stranger("cus_0", "chime_minutes_events", 500, begin + DAY + HOUR).await;
    let now = hours(&world, begin + DAY + HOUR, begin + 5 * DAY).await;
    let alarms = world.context.books.alarms().await.unwrap();
    assert!(alarms.len() == 1 && alarms[0].difference.to_string().contains("500 more than was sent"), "{alarms:?}");
    let act = AcknowledgedBy { actor: "ann".into(), reason: "credit note".into() };
    let books = &world.context.books;
    assert_eq!(books.acknowledge("ann".into(), i64::MIN..i64::MAX, act.clone(), at(now)).await.unwrap().len(), 1);
    assert!(books.alarms().await.unwrap().is_empty());
    let stats = books.customer_stats(at(now)).await.unwrap();
    assert!(stats.drift["chime_minutes"].is_zero(), "{:?}", stats.drift);
    assert_eq!(books.books_stats(at(now)).await.unwrap().stripe.alarms, 0);
    assert_eq!(books.acknowledge("ann".into(), i64::MIN..i64::MAX, act, at(now)).await.unwrap(), [], "once is enough");
    let backup = world.backup("backup.db", false, now).await;
    use_more(&world, now).await;
    let now = hours(&world, now + HOUR, now + 6 * HOUR).await;
    world.restore(backup).await;
    let now = hours(&world, now, now + 5 * DAY).await;
    let imported =
        world.rows("SELECT customer, sum(value) FROM meter_events WHERE imported = 1 GROUP BY 1 ORDER BY 1").await;
    assert_eq!(
        imported,
        ["ann|500000", "bob|500000", "cyd|500000"],
        "what the lost books sent, and not the stranger's 500"
    );
    assert!(world.context.books.alarms().await.unwrap().is_empty(), "it is the same as it was");
    // another one is another matter
    world.stripe.world().set_now(now);
    world.send_as_a_stranger("cus_0", "chime_minutes_events", 70, now).await;
    hours(&world, now, now + 4 * DAY).await;
    let alarms = world.context.books.alarms().await.unwrap();
    assert!(
        alarms.len() == 1 && alarms[0].difference.to_string().contains("70 more than was sent and acknowledged"),
        "{alarms:?}"
    );
}

#[test]
fn restored_books_bill_what_the_lost_ones_did_not_and_nothing_twice() {
    let worlds = Worlds::from_environment(5);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let (template, seen) = (Arc::new(Template::new().await), Arc::new(Seen::default()));
        each(worlds.seeds.clone(), |seed| {
            let (template, seen) = (Arc::clone(&template), Arc::clone(&seen));
            async move { history(&template, seed, &seen).await }
        })
        .await;
        let seen = seen.lock().unwrap();
        println!("{seen:#?}");
        for kind in [
            "unconfirmed in a backup",
            "pending in a backup",
            "sending in a backup",
            "deferred as restored",
            "taken over",
        ] {
            worlds.assert_saw(kind, seen.get(kind).copied().unwrap_or(0), 10);
        }
    });
}
