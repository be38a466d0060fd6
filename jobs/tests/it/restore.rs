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
use books::stripe::restore::{PeriodParts, ReadTotal, TotalState};
use jobs::job::{Failure, Job, Mode};
use jobs::push_stripe::PushStripe;
use jobs::reconcile_stripe::reconcile;
use jobs::restore::{self, Step, checklist};
use jobs::roll_periods::{self, roll};
use jobs::sync_stripe::SyncScope;
use testkit::billing_world::run::{Worlds, check, each, push, run_with_faults, settle, use_some, well};
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
                drop(world.sync(now, scope).await);
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

    /// The backup takes the place of the books. The worker goes on, and a person does what the
    /// checklist says, whatever fails.
    async fn restored(&mut self, (backup, made): (PathBuf, i64), plain: bool) {
        // soon after the lost books were killed
        self.now = self.ran + self.rng.i64(60..HOUR);
        self.world.restore(backup).await;
        if plain {
            let books = &self.world.context.books;
            books.mark_restored(at(made), act("restore mark"), at(self.now)).await.unwrap();
        }
        let (began, sent) = (self.now, self.world.stripe.world().events().len());
        let patience = self.rng.i64(0..2) * DAY;
        let mut again = self.rng.u8(0..8) == 0;
        for hour in 0..200 {
            let now = self.now;
            self.world.stripe.world().set_now(now);
            let world = &self.world;
            well(world.sync(now, SyncScope::Changed).await);
            roll_periods::roll_unless_restored(&world.context, at(now), Mode::Write).await.unwrap();
            let pushed = jobs::push_stripe::push(&world.context.books, &world.context.billing, at(now)).await.unwrap();
            assert!(pushed.on_hold.is_some() && PushStripe::needs_attention(&pushed), "{pushed:?}");
            let compared = reconcile(&world.context, at(now), None).await.unwrap();
            assert!(compared.on_hold.is_some() && compared.read == 0, "{compared:?}");
            assert_eq!(world.stripe.world().events().len(), sent, "nothing is sent on hold");
            let faulty = self.rng.bool();
            if now >= began + patience
                && run_with_faults(world, &mut self.rng, faulty, command(world, now)).await
                && finish(world, now).await
            {
                self.now += self.rng.i64(60..HOUR);
                return;
            }
            if again && hour > 20 {
                // and once more, before the first one is finished
                again = false;
                let half = self.world.backup(&format!("half-restored-{now}.db"), false, now).await;
                self.world.restore(half).await;
                self.count("restored twice", 1);
            }
            for who in 0..CUSTOMERS.len() {
                if self.rng.u8(0..6) == 0 {
                    use_some(&self.world, &mut self.rng, who, now).await;
                }
            }
            self.now += HOUR;
        }
        let found = checklist(&self.world.context).await.unwrap();
        panic!("the restoration does not end: {found:?}");
    }
}

fn act(action: &str) -> AuditEntry {
    AuditEntry { actor: "ann".into(), action: action.into(), target: "books".into(), reason: "test".into() }
}

/// What `meter restore import-totals` does when the bills are booked.
async fn command(world: &BillingWorld, now: i64) -> Result<(), Failure> {
    restore::begin(&world.context, "ann".into(), at(now)).await?;
    world.context.books.note_bills_read(vec![], at(now)).await?;
    import(world, now).await
}

/// The same, but bills.
async fn import(world: &BillingWorld, now: i64) -> Result<(), Failure> {
    restore::begin(&world.context, "ann".into(), at(now)).await?;
    world.sync(now, SyncScope::All).await?;
    roll(&world.context.books, at(now), Mode::Write).await?;
    restore::import_totals(&world.context, at(now)).await?;
    Ok(())
}

async fn open_step(world: &BillingWorld, now: i64) -> Option<Step> {
    checklist(&world.context).await.unwrap().map(|found| found.open_step(at(now)))
}

/// What `meter restore finish` does. Returns whether the hold has ended.
async fn finish(world: &BillingWorld, now: i64) -> bool {
    if open_step(world, now).await.is_some_and(|step| step < Step::Totals) {
        return false;
    }
    let books = &world.context.books;
    books.finish_restoration(BTreeSet::new(), HOUR, act("restore finish"), at(now)).await.unwrap().is_empty()
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

/// One run of each job, without a fault; while billing is on hold, a person does what can be done.
async fn run_all(world: &BillingWorld, now: i64, synced: bool) {
    world.stripe.world().set_now(now);
    if synced {
        well(world.sync(now, SyncScope::All).await);
    }
    roll_periods::roll_unless_restored(&world.context, at(now), Mode::Write).await.unwrap();
    well(jobs::push_stripe::push(&world.context.books, &world.context.billing, at(now)).await);
    if synced {
        well(reconcile(&world.context, at(now), None).await);
    }
    if open_step(world, now).await.is_some() {
        well(command(world, now).await);
        finish(world, now).await;
    }
}

/// What is sent before it is known that a subscription has ended is on no invoice; the totals know
/// it apart. An end that becomes known while billing is on hold is imported anew.
#[tokio::test]
async fn ends_that_become_known_late_are_imported_as_they_are() {
    for minutes in [0, 17] {
        let template = Template::new().await;
        let begin = 1_770_000_000;
        let mut rng = fastrand::Rng::with_seed(1);
        let mut world = BillingWorld::new(&template, &mut rng, begin).await;
        let days = |n: i64| begin + n * DAY + minutes * 60;
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
        let mut now = days(4) + 60;
        while open_step(&world, now).await != Some(Step::Finish) {
            assert!(now < days(7), "{:?}", checklist(&world.context).await);
            world.stripe.world().set_now(now);
            well(command(&world, now).await);
            now += HOUR;
        }
        let imported = world.rows("SELECT count(*) FROM meter_events WHERE imported = 1").await;
        assert_eq!(imported, ["3"], "one of each customer: ann's on no invoice");
        // bob's ended before the lost books sent their last, and that is known only now
        world.stripe.world().set_now(days(3) + HOUR);
        world.stripe.world().cancel_subscription("sub_1");
        world.stripe.world().set_now(now);
        well(world.sync(now, SyncScope::All).await);
        roll(&world.context.books, at(now), Mode::Write).await.unwrap();
        assert_eq!(open_step(&world, now).await, Some(Step::Totals), "an end that is known changes what is imported");
        assert!(!finish(&world, now).await);
        well(command(&world, now).await);
        assert!(finish(&world, now).await);
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
async fn totals_are_imported_only_when_bills_were_read_again() {
    let (mut world, mut rng, begin) = calm(4).await;
    let backup = world.backup("backup.db", false, begin + DAY + 60).await;
    use_more(&world, begin + 2 * DAY).await;
    run_all(&world, begin + 2 * DAY, true).await;
    world.restore_without_bills(backup).await;
    let restored = begin + 2 * DAY + HOUR;
    let sent = world.stripe.world().events().len();
    let mut late = restored;
    while late < restored + 3 * DAY {
        world.stripe.world().set_now(late);
        well(import(&world, late).await);
        late += HOUR;
    }
    assert_eq!(open_step(&world, late).await, Some(Step::Bills));
    assert!(!finish(&world, late).await);
    // February 2026 is the backup's month: AWS restates January for weeks
    let months = world.context.books.billing_hold().await.unwrap().unwrap().restoration.unwrap().months();
    assert_eq!(months.iter().map(ToString::to_string).collect::<Vec<_>>(), ["2026-01", "2026-02"]);
    assert_eq!(world.stripe.world().events().len(), sent, "nothing is taken back");
    assert!(world.rows("SELECT 1 FROM meter_events WHERE imported = 1").await.is_empty());
    world.book_again().await;
    world.stripe.world().set_now(late);
    well(command(&world, late).await);
    assert!(finish(&world, late).await);
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
    assert!(early.on_hold, "{early:?}");
    let closed = world.rows("SELECT count(*) FROM billing_periods WHERE closed_at IS NOT NULL").await;
    assert_eq!(closed, ["0"]);
    let later = hours(&world, restored, restored + 26 * HOUR).await;
    assert_eq!(open_step(&world, later).await, None);
    settle(&world, &mut rng, later).await;
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
    let act = || act("restore mark");
    let books = &world.context.books;
    let late = begin + 5 * DAY;
    let taken = books.mark_restored(at(late), act(), at(late)).await.unwrap();
    assert_eq!(taken, at(begin + DAY), "when subscriptions were last read");
    assert_eq!(books.mark_restored(at(begin), act(), at(late)).await.unwrap(), at(begin));
    books.mark_restored(at(begin + HOUR), act(), at(late)).await.unwrap();
    assert_eq!(books.billing_hold().await.unwrap().unwrap().backup_at, at(begin));
}

/// Two people who run the command at once import nothing twice.
#[tokio::test]
async fn a_total_is_imported_once() {
    let (mut world, _, begin) = calm(7).await;
    let backup = world.backup("backup.db", false, begin + DAY + 60).await;
    use_more(&world, begin + 2 * DAY).await;
    run_all(&world, begin + 2 * DAY, true).await;
    world.restore(backup).await;
    let now = begin + 4 * DAY;
    run_all(&world, now - DAY - HOUR, true).await;
    let books = &world.context.books;
    let totals = checklist(&world.context).await.unwrap().unwrap().totals;
    let of = totals.into_iter().find(|of| of.customer == "ann").unwrap();
    let known = books.known_events(of.clone()).await.unwrap();
    let read = ReadTotal { total: of, known, surplus: PeriodParts { covered: 100, rest: 0 } };
    assert!(books.import_total(read.clone(), HOUR, at(now)).await.unwrap());
    assert!(!books.import_total(read, HOUR, at(now)).await.unwrap(), "the books know more now");
    let sum = world.rows("SELECT sum(value) FROM meter_events WHERE imported = 1").await;
    assert_eq!(sum, ["100"]);
}

/// A customer who was deleted at Stripe has no total for ever: a person finishes without it, and
/// says why.
#[tokio::test]
async fn a_total_that_stripe_does_not_give_is_left_out_by_name() {
    let (mut world, _, begin) = calm(9).await;
    let backup = world.backup("backup.db", false, begin + DAY + 60).await;
    world.restore(backup).await;
    world.stripe.world().set_faults(|seen| {
        let of_ann =
            seen.path.ends_with("event_summaries") && seen.form.get("customer").is_some_and(|id| id == "cus_0");
        of_ann.then_some(fake_stripe::Fault::ErrorBefore(404))
    });
    let restored = begin + DAY + HOUR;
    let now = hours(&world, restored, restored + 26 * HOUR).await;
    let found = checklist(&world.context).await.unwrap().unwrap();
    assert_eq!(found.open_step(at(now)), Step::Totals);
    for of in &found.totals {
        assert_eq!(matches!(of.state, TotalState::NoTotal(_)), of.customer == "ann", "{of:?}");
        assert_eq!(of.state == TotalState::Imported, of.customer != "ann", "{of:?}");
    }
    let books = &world.context.books;
    let without = |customer: &str| BTreeSet::from([customer.to_owned()]);
    let left = books.finish_restoration(without("bob"), HOUR, act("restore finish"), at(now)).await.unwrap();
    assert!(!left.is_empty() && left.iter().all(|of| of.customer == "ann"), "{left:?}");
    assert!(books.billing_hold().await.unwrap().is_some());
    let left = books.finish_restoration(without("ann"), HOUR, act("restore finish"), at(now)).await.unwrap();
    assert_eq!(left, []);
    assert!(books.billing_hold().await.unwrap().is_none());
    assert_eq!(books.audit("customer ann".into()).await.unwrap().len(), 1);
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
        for kind in
            ["unconfirmed in a backup", "pending in a backup", "sending in a backup", "restored twice", "taken over"]
        {
            worlds.assert_saw(kind, seen.get(kind).copied().unwrap_or(0), 10);
        }
    });
}
