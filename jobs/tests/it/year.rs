//! A simulated year of billing periods: closed TURN counts equal those of a naive model, whatever
//! outages and double runs there were.
//!
//! Thirteen months with a leap February, an anchor on every day of the month, subscriptions that
//! end, come back and change their anchor, the contract page's own statement to take allocations,
//! and `roll_periods` at random times: late after outages of up to fifty days, twice, and with a
//! clock that was set back.

use std::collections::BTreeMap;
use std::path::Path;

use books::Database;
use books::store::connection::params;
use books::store::database::Durability;
use jiff::Timestamp;
use jobs::job::Mode;
use jobs::roll_periods::roll;

const DAY: i64 = 86_400;

/// A small generator of its own, so that a seed says everything.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: i64) -> i64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        i64::try_from(self.0 >> 33).unwrap() % n
    }
}

// The naive model: months by a table, boundaries by looking through every instant that could be
// one.

fn leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn month_length(year: i64, month: i64) -> i64 {
    [31, if leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][usize::try_from(month - 1).unwrap()]
}

/// Seconds at the start of a month.
fn month_start(year: i64, month: i64) -> i64 {
    let days: i64 = (1970..year).map(|y| if leap(y) { 366 } else { 365 }).sum();
    (days + (1..month).map(|m| month_length(year, m)).sum::<i64>()) * DAY
}

#[derive(Clone, Debug)]
struct Sub {
    id: String,
    /// Every anchor, each from itself on.
    anchors: Vec<i64>,
    started: i64,
    ended: Option<i64>,
}

impl Sub {
    fn lives(&self, t: i64) -> bool {
        self.started <= t && self.ended.is_none_or(|e| t < e)
    }

    /// Every boundary in 2023 to 2025 that the anchor of an instant makes, and the next anchors.
    fn boundaries(&self, t: i64) -> Vec<i64> {
        let months: Vec<(i64, i64)> = (2023..2026).flat_map(|y| (1..=12).map(move |m| (y, m))).collect();
        let anchor = *self.anchors.iter().rfind(|a| **a <= t).unwrap();
        let own = months.iter().rfind(|(y, m)| month_start(*y, *m) <= anchor).unwrap();
        let into = anchor - month_start(own.0, own.1);
        let (day, second) = (into / DAY, into % DAY);
        let at = |(y, m): &(i64, i64)| month_start(*y, *m) + day.min(month_length(*y, *m) - 1) * DAY + second;
        months.iter().map(at).chain(self.anchors.iter().copied()).collect()
    }
}

fn governing(subs: &[Sub], t: i64) -> Option<&Sub> {
    subs.iter().filter(|s| s.lives(t)).max_by_key(|s| (s.started, s.id.clone()))
}

/// The end of the period that begins at `start`.
fn naive_end(subs: &[Sub], start: i64) -> i64 {
    let mut found = vec![];
    match governing(subs, start) {
        Some(s) => found.extend(s.boundaries(start).into_iter().chain(s.ended)),
        None => found.extend((2023..2026).flat_map(|y| (1..=12).map(move |m| month_start(y, m)))),
    }
    found.extend(subs.iter().map(|s| s.started));
    found.into_iter().filter(|t| *t > start).min().unwrap()
}

/// One customer: what is known of the subscriptions, the ends of what is closed, and counts by
/// start of the period.
#[derive(Default)]
struct Model {
    subs: Vec<Sub>,
    periods: Vec<(i64, i64)>,
    counts: BTreeMap<i64, i64>,
    closed: Vec<(i64, i64, i64)>,
}

impl Model {
    fn reset(&mut self, now: i64) {
        let Some(mut start) = self.closed.last().map(|c| c.1).or(self.periods.first().map(|p| p.0)) else {
            return;
        };
        self.periods.clear();
        while self.periods.iter().filter(|p| p.1 > now).count() < 3 {
            let end = naive_end(&self.subs, start);
            self.periods.push((start, end));
            start = end;
        }
        let counts = std::mem::take(&mut self.counts);
        for (start, count) in counts {
            let holds = |p: &&(i64, i64)| p.0 <= start && start < p.1;
            *self.counts.entry(self.periods.iter().find(holds).unwrap().0).or_default() += count;
        }
        for (start, end) in self.periods.iter().copied().filter(|p| p.1 <= now) {
            self.closed.push((start, end, self.counts.remove(&start).unwrap_or(0)));
        }
        self.periods.retain(|p| p.1 > now);
    }

    fn take(&mut self, t: i64) {
        let holds = |p: &&(i64, i64)| t < p.1;
        *self.counts.entry(self.periods.iter().find(holds).unwrap().0).or_default() += 1;
    }
}

/// A statement of the contract page.
pub(crate) fn statement(name: &str) -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/backend-contract.md");
    let text = std::fs::read_to_string(page).unwrap();
    let block = text.split(&format!("<!-- statement: {name} -->\n```sql\n")).nth(1).unwrap();
    block.split("```").next().unwrap().to_owned()
}

fn at(t: i64) -> Timestamp {
    Timestamp::from_second(t).unwrap()
}

#[derive(Debug)]
enum Event {
    Take(usize),
    Subscribe(usize, Sub),
    Reset,
    /// With a clock that is a day behind.
    ResetBefore,
}

/// The year's events in order of time.
fn events(dice: &mut Dice, begin: i64, end: i64) -> Vec<(i64, Event)> {
    let mut events = vec![];
    for customer in 0..34 {
        let mut t = begin + 1;
        while t < end {
            t += 1 + dice.below(6 * DAY);
            events.push((t, Event::Take(customer)));
        }
        let sub =
            |n: usize, t: i64| Sub { id: format!("sub_{customer}_{n}"), anchors: vec![t], started: t, ended: None };
        // three customers never subscribe; the others are anchored on every day of December 2023
        if customer >= 31 {
            continue;
        }
        let started = month_start(2023, 12) + i64::try_from(customer).unwrap() * DAY + dice.below(DAY);
        let first = sub(1, started);
        events.push((started, Event::Subscribe(customer, first.clone())));
        match customer % 4 {
            // ends, and comes back weeks later
            1 => {
                let ended = started + (60 + dice.below(90)) * DAY + dice.below(DAY);
                events.push((ended, Event::Subscribe(customer, Sub { ended: Some(ended), ..first })));
                let back = ended + dice.below(50) * DAY + dice.below(DAY) + 1;
                events.push((back, Event::Subscribe(customer, sub(2, back))));
            }
            // another anchor from then on
            2 => {
                let anchor = started + (40 + dice.below(200)) * DAY + dice.below(DAY);
                events.push((anchor, Event::Subscribe(customer, Sub { anchors: vec![started, anchor], ..first })));
            }
            // another subscription beside the first one
            3 => {
                let t = started + (30 + dice.below(300)) * DAY + dice.below(DAY);
                events.push((t, Event::Subscribe(customer, sub(2, t))));
            }
            _ => {}
        }
    }
    let mut t = begin;
    while t < end {
        events.push((t, Event::Reset));
        if dice.below(4) == 0 {
            events.push((t, Event::Reset));
        }
        if dice.below(20) == 0 {
            events.push((t + 1, Event::ResetBefore));
        }
        // mostly within hours, now and then an outage of weeks
        t += if dice.below(25) == 0 { dice.below(50) * DAY } else { 1 + dice.below(DAY) };
    }
    events.push((end, Event::Reset));
    events.sort_by_key(|(t, _)| *t);
    events
}

async fn simulate(seed: u64) {
    let (begin, end) = (month_start(2023, 12), month_start(2025, 1) + 20 * DAY);
    let folder = tempfile::tempdir().unwrap();
    let books = Database::open_local_with(&folder.path().join("meter.db"), Durability::Normal).await.unwrap();
    books.migrate(at(begin)).await.unwrap();
    let run = async |sql: &'static str| books.transaction(async move |c| Ok(c.execute(sql, ()).await?)).await.unwrap();
    let names: Vec<String> = (0..34).map(|i| format!("customer {i:02}")).collect();
    for name in &names {
        books.add_customer(name).await.unwrap();
    }
    // they signed up in December 2023, not today
    run("DELETE FROM turn_periods").await;
    run("DELETE FROM billing_periods").await;
    let mut models: Vec<Model> =
        names.iter().map(|_| Model { periods: vec![(begin, 0)], ..Model::default() }).collect();
    let (mut dice, take) = (Dice(seed), statement("take_turn"));
    let (mut takes, mut wrong_clock) = (0_i64, 0);
    for (t, event) in events(&mut dice, begin, end) {
        match event {
            Event::Take(who) => {
                let (sql, name) = (take.clone(), names[who].clone());
                let granted = books.with_connection(async move |c| {
                    let mut rows = c.query(&sql, params![name, t]).await?;
                    let granted: i64 = rows.next().await?.unwrap().get(0)?;
                    while rows.next().await?.is_some() {}
                    Ok(granted)
                });
                assert_eq!(granted.await.unwrap(), 1);
                models[who].take(t);
                takes += 1;
            }
            Event::Subscribe(who, sub) => {
                let (name, s) = (names[who].clone(), sub.clone());
                let write = books.transaction(async move |c| {
                    let status = if s.ended.is_some() { "canceled" } else { "active" };
                    let sql = "INSERT INTO subscriptions (id, customer, status, anchor_at, started_at, ended_at) \
                               VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (id) DO UPDATE SET anchor_at = ?4, ended_at = ?6, status = ?3";
                    c.execute(sql, params![s.id, name, status, *s.anchors.last().unwrap(), s.started, s.ended]).await
                });
                write.await.unwrap();
                models[who].subs.retain(|known| known.id != sub.id);
                models[who].subs.push(sub);
            }
            Event::Reset => {
                roll(&books, at(t), Mode::Write).await.unwrap();
                // limits are another test's: here everybody may take, the cancelled ones too
                run("UPDATE turn_periods SET allowed_until = NULL WHERE closed_at IS NULL AND allowed_until IS NOT NULL")
                    .await;
                models.iter_mut().for_each(|m| m.reset(t));
            }
            Event::ResetBefore => {
                let before: i64 = count(&books).await;
                roll(&books, at(t - DAY), Mode::Write).await.unwrap();
                assert_eq!(count(&books).await, before, "a clock that was set back closes and opens nothing");
                wrong_clock += 1;
            }
        }
    }
    assert!(wrong_clock > 2 && takes > 3000, "the year was eventful: {wrong_clock} {takes}");
    for (name, model) in names.iter().zip(&models) {
        let periods = books.turn_periods(Some(name.clone()), at(end)).await.unwrap();
        let mut closed: Vec<(i64, i64, i64)> = periods
            .iter()
            .filter(|p| p.closed_at.is_some())
            .map(|p| (p.starts_at.as_second(), p.ends_at.as_second(), p.used))
            .collect();
        closed.reverse();
        assert!(closed.len() >= 12, "seed {seed}, {name}: a year has its months");
        assert!(closed.windows(2).all(|w| w[0].1 == w[1].0), "seed {seed}, {name}: no hole");
        assert_eq!(closed, model.closed, "seed {seed}, {name}");
    }
    let all = books.with_connection(async |c| {
        c.query("SELECT sum(used) FROM turn_periods", ()).await?.next().await?.unwrap().get::<i64>(0)
    });
    assert_eq!(all.await.unwrap(), takes, "nothing lost, nothing doubled");
    for check in books.verify().await.unwrap().checks {
        assert!(check.violations.is_empty(), "{}: {:?}", check.rule, check.violations);
    }
}

async fn count(books: &Database) -> i64 {
    let sql = "SELECT count(*) * 1000000 + count(closed_at) FROM turn_periods";
    books
        .with_connection(async move |c| Ok(c.query(sql, ()).await?.next().await?.unwrap().get::<i64>(0)?))
        .await
        .unwrap()
}

#[tokio::test]
async fn a_year_of_outages_and_double_runs_gives_the_counts_of_a_naive_model() {
    for seed in [1, 2, 3] {
        simulate(seed).await;
    }
}
