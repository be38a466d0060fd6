//! A simulated week in which AWS's bill comes a day late: what customers use beyond their budgets
//! when the web backend measures, and when only the bill tells.
//!
//! The world knows who is in which meeting at each second, and judges; of the books it sees the
//! answers of `may_use` alone. A web backend writes and asks with the statements of the contract
//! page. A worker decides [`Case::delay`] seconds after somebody becomes due, and reads a bill
//! three times a day. Its runs every five minutes are left out: they find nobody due, and decide
//! nothing.

use std::collections::{BTreeMap, BTreeSet};

use books::limits::overage_billing::OverageBilling;
use books::store::connection::{Value, params};
use jiff::Timestamp;
use jobs::enforce_budgets::EnforceBudgets;
use jobs::job::{Job, Mode};
use jobs::push_stripe;
use jobs::roll_periods::roll;
use jobs::stripe::{BillingSettings, Mapping};
use testkit::ingest_fixture::{chime, deliver_lines};

use crate::enforce::{BudgetFixture, plan};
use crate::settled::measuring;
use crate::year::statement;

const HOUR: i64 = 3600;
const DAY: i64 = 86_400;
const WEEK: i64 = 7 * DAY;
/// How old the usage is that a bill has when it is delivered.
const LATE: i64 = 24 * HOUR;
/// From the delivery of a bill until the worker reads it: it looks hourly.
const UNREAD: i64 = 20 * 60;
/// The column `until` of the answer of `may_use`.
const UNTIL: i32 = 12;

/// 2026-10-01: the customers' billing period begins.
const OCTOBER: i64 = 1_790_812_800;
/// Monday of a week that lies before the database's clock.
const BEGIN: i64 = OCTOBER + 4 * DAY;

fn instant(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// An attendee's time in meetings.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Attendance {
    from: i64,
    to: i64,
}

/// A customer, and what its users would do if nobody stopped them.
struct Customer {
    id: &'static str,
    plan: &'static str,
    included: i64,
    /// Cents for a minute; 0: the plan has no price.
    price: i64,
    /// Budgets in cents, each from its instant on.
    budgets: Vec<(i64, i64)>,
    wants: Vec<Attendance>,
}

impl Customer {
    /// Attendee-seconds that included amount and budget allow at an instant.
    fn limit(&self, second: i64) -> i64 {
        let budget = self.budgets.iter().rfind(|(from, _)| *from <= second).map_or(0, |(_, cents)| *cents);
        (self.included + if self.price == 0 { 0 } else { budget / self.price }) * 60
    }

    /// Meetings each day from 8:00 to 20:00, each with some attendees who come and go.
    fn meets(mut self, rng: &mut fastrand::Rng, (meetings, attendees): (i64, i64)) -> Self {
        for day in 0..7 {
            for _ in 0..meetings {
                let start = BEGIN + day * DAY + rng.i64(8 * HOUR..18 * HOUR);
                for _ in 0..attendees {
                    let from = start + rng.i64(0..900);
                    self.wants.push(Attendance { from, to: from + rng.i64(900..2 * HOUR) });
                }
            }
        }
        self
    }

    /// So many attendees around the clock, in shifts.
    fn meets_always(mut self, rng: &mut fastrand::Rng, level: i64) -> Self {
        for _ in 0..level {
            let mut from = BEGIN + rng.i64(0..60);
            while from < BEGIN + WEEK {
                let to = (from + rng.i64(6 * HOUR..12 * HOUR)).min(BEGIN + WEEK);
                self.wants.push(Attendance { from, to });
                from = to;
            }
        }
        self
    }

    /// Two attendees on the Friday before, when nobody measured yet.
    fn met_before(mut self, minutes: i64) -> Self {
        let from = BEGIN - 3 * DAY + 10 * HOUR;
        self.wants.extend(vec![Attendance { from, to: from + minutes * 30 }; 2]);
        self
    }
}

fn customers() -> Vec<Customer> {
    let mut rng = fastrand::Rng::with_seed(17);
    let rng = &mut rng;
    let of = |id, plan, budgets: &[(i64, i64)]| {
        let (included, price) = match plan {
            "pro" => (100, 1),
            "max" => (500, 2),
            _ => (40, 0),
        };
        let budgets = budgets.iter().map(|(from, cents)| (BEGIN + from, *cents)).collect();
        Customer { id, plan, included, price, budgets, wants: vec![] }
    };
    vec![
        of("always", "pro", &[(0, 5000)]).meets_always(rng, 10),
        of("nights", "max", &[(0, 9000)]).meets_always(rng, 3),
        of("team", "pro", &[(0, 400)]).meets(rng, (2, 4)),
        of("known", "pro", &[(0, 300)]).met_before(180).meets(rng, (1, 5)),
        of("raises", "max", &[(0, 100), (4 * DAY + 9 * HOUR, 900)]).meets(rng, (1, 4)),
        of("free", "free", &[]).meets(rng, (1, 2)),
        of("saves", "max", &[(0, 100_000)]).meets(rng, (1, 2)),
    ]
}

/// What the web backend and the worker do.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Backend {
    /// Measures, asks each second, and ends a meeting when it is not allowed any more.
    Asks,
    /// The same, and ends a meeting at `until`.
    EndsAtUntil,
    /// Measures nothing, and asks each second.
    OnlyAsks,
    /// Measures nothing, and lets everybody in.
    AsksNever,
}

#[derive(Debug)]
struct Case {
    backend: Backend,
    /// Seconds from a change until a decision about it can be seen.
    delay: i64,
}

impl Case {
    fn measures(&self) -> bool {
        matches!(self.backend, Backend::Asks | Backend::EndsAtUntil)
    }
}

/// What happened, as the world saw it.
#[derive(Default)]
struct Seen {
    /// By customer.
    log: Vec<Vec<Attendance>>,
    /// Customer and second of each answer that refused.
    refused: Vec<(usize, i64)>,
    runs: u32,
}

/// Books of a case, and where the world is.
struct Week<'a> {
    case: &'a Case,
    customers: &'a [Customer],
    world: BudgetFixture,
    now: i64,
    /// When the worker decides next.
    run_at: i64,
    /// Who is in a meeting: customer and place in `wants`, and since when.
    present: BTreeMap<(usize, usize), i64>,
    until: Vec<Option<i64>>,
    seen: Seen,
}

/// A thing that the world or AWS does, in the order in which those of a second happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Leave(usize, usize),
    Budget(usize, i64),
    Bill,
    Join(usize, usize),
}

/// Everything that is going to happen, in order.
fn events(customers: &[Customer]) -> Vec<(i64, Event)> {
    let mut events = vec![];
    for (who, customer) in customers.iter().enumerate() {
        events.extend(customer.budgets.iter().map(|(from, cents)| (*from, Event::Budget(who, *cents))));
        for (n, want) in customer.wants.iter().enumerate() {
            events.extend([(want.from, Event::Join(who, n)), (want.to, Event::Leave(who, n))]);
        }
    }
    let hours = [3, 11, 19];
    // from the day before on, and until all of the week is settled
    let days = -1..9;
    events.extend(days.flat_map(|day| hours.map(|hour| (BEGIN + day * DAY + hour * HOUR, Event::Bill))));
    events.sort_unstable();
    events
}

impl<'a> Week<'a> {
    async fn new(case: &'a Case, customers: &'a [Customer]) -> Self {
        let mut world = BudgetFixture::new().await;
        if case.measures() {
            world.context.measuring = measuring();
            world.context.books.keep_measured_meters(&world.context.measuring.meters).await.unwrap();
        }
        let plans = [("pro", ("100", Some("0.01"))), ("max", ("500", Some("0.02"))), ("free", ("40", None))];
        world.apply(plans.map(|(name, terms)| plan(name, "2020-01-01T00:00:00Z", terms)).to_vec()).await;
        for Customer { id, plan, .. } in customers {
            world
                .execute(format!(
                    "INSERT INTO subscriptions (id, customer, status, anchor_at, started_at) \
                     VALUES ('sub_{id}', '{id}', 'active', {OCTOBER}, {OCTOBER})"
                ))
                .await;
            world.sign_up(id, plan).await;
            world.execute(format!("UPDATE customers SET stripe_customer_id = 'cus_{id}' WHERE id = '{id}'")).await;
        }
        let seen = Seen { log: customers.iter().map(|_| vec![]).collect(), ..Seen::default() };
        let until = vec![None; customers.len()];
        Self { case, customers, world, now: 0, run_at: i64::MAX, present: BTreeMap::new(), until, seen }
    }

    /// Lives through it.
    async fn live(mut self) -> (Seen, BudgetFixture) {
        for (second, event) in events(self.customers) {
            self.pass_until(second).await;
            self.now = second;
            self.happen(event).await;
            self.run_at = self.run_at.min(self.next_run().await);
        }
        assert!(self.present.is_empty());
        (self.seen, self.world)
    }

    /// Runs and ends of meetings before `second`; those of a second come before what happens in it.
    async fn pass_until(&mut self, second: i64) {
        loop {
            let end = match self.case.backend {
                Backend::EndsAtUntil => self.present.keys().filter_map(|(who, _)| self.until[*who]).min(),
                _ => None,
            };
            let next = self.run_at.min(end.unwrap_or(i64::MAX)).max(self.now);
            if next > second {
                return;
            }
            self.now = next;
            if end.is_some_and(|end| end <= next) {
                let over: BTreeSet<usize> = self.over().collect();
                self.seen.refused.extend(over.iter().map(|who| (*who, next)));
                self.end_of(&over).await;
                self.run_at = self.run_at.min(self.next_run().await);
            } else {
                self.run().await;
            }
        }
    }

    /// The worker decides for those who are due. Answers change only by that, so a backend that
    /// asks each second learns of it now.
    async fn run(&mut self) {
        let ran = EnforceBudgets::default().run(&self.world.context, instant(self.now)).await.unwrap();
        assert_eq!(ran.missed, 0, "{}: {ran:?}", instant(self.now));
        self.seen.runs += 1;
        self.run_at = self.next_run().await;
        let present: BTreeSet<usize> = self.present.keys().map(|(who, _)| *who).collect();
        let mut refused = BTreeSet::new();
        for who in present {
            if !self.may_use(who).await {
                refused.insert(who);
            }
        }
        self.end_of(&refused).await;
        self.run_at = self.run_at.min(self.next_run().await);
    }

    /// When the worker sees that somebody is due.
    async fn next_run(&self) -> i64 {
        let due = self.world.dump("SELECT CAST(min(due_at) AS TEXT) FROM enforcement_due").await;
        due[0].parse::<i64>().unwrap().max(self.now) + self.case.delay
    }

    async fn happen(&mut self, event: Event) {
        match event {
            Event::Join(who, n) => {
                if self.now < BEGIN || self.may_use(who).await {
                    self.present.insert((who, n), self.now);
                    self.measure("start_use", (who, n), vec![1.into(), self.now.into()]).await;
                }
            }
            Event::Leave(who, n) => self.leave((who, n)).await,
            Event::Budget(who, cents) => {
                let who = self.customers[who].id;
                self.world
                    .execute(format!(
                        "INSERT INTO overage_budgets (customer, amount_minor, currency, set_by) VALUES ('{who}', {cents}, 'USD', 'test') \
                         ON CONFLICT DO UPDATE SET amount_minor = excluded.amount_minor"
                    ))
                    .await;
            }
            Event::Bill => self.bill().await,
        }
    }

    /// What the backend may do for a customer now.
    async fn may_use(&mut self, who: usize) -> bool {
        if self.case.backend == Backend::AsksNever {
            return true;
        }
        let (sql, id, now) = (statement("may_use"), self.customers[who].id, self.now);
        let asked = self.world.context.books.with_connection(async move |c| {
            let mut rows = c.query(&sql, params![id, "chime_minutes", now]).await?;
            let row = rows.next().await?.unwrap();
            Ok((row.get::<i64>(0)?, row.get::<Option<i64>>(UNTIL)?))
        });
        let (allowed, until) = asked.await.unwrap();
        self.until[who] = until;
        if allowed == 0 {
            self.seen.refused.push((who, now));
        }
        allowed == 1
    }

    /// Customers in meetings that hold no longer by their last answer.
    fn over(&self) -> impl Iterator<Item = usize> {
        let is_over = |who: &usize| self.until[*who].is_some_and(|until| until <= self.now);
        self.present.keys().map(|(who, _)| *who).filter(is_over)
    }

    /// Ends the meetings of customers.
    async fn end_of(&mut self, customers: &BTreeSet<usize>) {
        let of = self.present.keys().filter(|(who, _)| customers.contains(who));
        for attendee in of.copied().collect::<Vec<_>>() {
            self.leave(attendee).await;
        }
    }

    async fn leave(&mut self, attendee: (usize, usize)) {
        if let Some(from) = self.present.remove(&attendee) {
            let attended = Attendance { from, to: self.now };
            self.seen.log[attendee.0].extend(Some(attended).filter(|of| of.from < of.to));
            self.measure("stop_use", attendee, vec![self.now.into()]).await;
        }
    }

    /// A statement about an attendee, if the backend measures. What was answered before holds no
    /// more: it was for another level.
    async fn measure(&mut self, name: &str, (who, n): (usize, usize), rest: Vec<Value>) {
        self.until[who] = None;
        if !self.case.measures() || self.now < BEGIN {
            return;
        }
        let (sql, customer) = (statement(name), self.customers[who].id);
        let mut values: Vec<Value> = vec![customer.into(), "chime_minutes".into(), format!("{customer}-{n}").into()];
        values.extend(rest);
        let rows = self.world.context.books.transaction(async move |c| {
            let (mut rows, mut count) = (c.query(&sql, values.clone()).await?, 0);
            while rows.next().await?.is_some() {
                count += 1;
            }
            Ok(count)
        });
        assert_eq!(rows.await.unwrap(), 1, "{name} of {customer}");
    }

    /// Reads a bill that AWS delivered some minutes ago, with usage that was a day old then.
    async fn bill(&mut self) {
        let delivered = self.now - UNREAD;
        let mut lines = vec![];
        for (who, customer) in self.customers.iter().enumerate() {
            let present = self.present.iter().filter(|((of, _), _)| *of == who);
            let present = present.map(|(_, from)| Attendance { from: *from, to: self.now });
            let log: Vec<Attendance> = self.seen.log[who].iter().cloned().chain(present).collect();
            for (day, seconds) in by_day(&log, delivered - LATE) {
                lines.push(chime(customer.id, i8::try_from(day).unwrap(), minutes(seconds).parse().unwrap()));
            }
        }
        let version = format!("{}.000Z-00000001-0000-4000-8000-000000000000", &instant(delivered).to_string()[..19]);
        deliver_lines(&self.world.bucket(), &version, &lines);
        self.world.now = instant(self.now);
        roll(&self.world.context.books, self.world.now, Mode::Write).await.unwrap();
        self.world.ingest().await.unwrap();
    }
}

/// Attendee-seconds up to an instant, by day of October.
fn by_day(log: &[Attendance], until: i64) -> BTreeMap<i64, i64> {
    let mut found = BTreeMap::new();
    for Attendance { from, to } in log {
        let (mut from, to) = (*from, (*to).min(until));
        while from < to {
            let midnight = (from / DAY + 1) * DAY;
            let day = (from - OCTOBER) / DAY + 1;
            *found.entry(day).or_default() += to.min(midnight) - from;
            from = midnight;
        }
    }
    found
}

/// Attendee-minutes to ten decimals.
fn minutes(seconds: i64) -> String {
    let scaled = (i128::from(seconds) * 10_000_000_000 + 30) / 60;
    format!("{}.{:010}", scaled / 10_000_000_000, scaled % 10_000_000_000)
}

/// A customer, second by second.
struct Judge {
    /// Attendee-seconds before each second of October, and the level in it.
    used: Vec<i64>,
    level: Vec<i64>,
}

fn place(second: i64) -> usize {
    usize::try_from(second - OCTOBER).unwrap()
}

/// What a customer used beyond the limit.
#[derive(Clone, Copy, Debug)]
struct Overshoot {
    /// Attendee-seconds.
    seconds: i64,
    /// Attendees in the second that reached the limit.
    level: i64,
}

impl std::fmt::Display for Overshoot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { seconds, level } = self;
        write!(f, "{seconds} attendee-seconds at level {level}, so {} s", seconds / level.max(&1))
    }
}

impl Judge {
    fn of(log: &[Attendance]) -> Self {
        let mut level = vec![0; place(BEGIN + WEEK + DAY)];
        for Attendance { from, to } in log {
            for second in &mut level[place(*from)..place(*to)] {
                *second += 1;
            }
        }
        let mut used = vec![0];
        used.extend(level.iter().scan(0, |total, now| {
            *total += now;
            Some(*total)
        }));
        Self { used, level }
    }

    /// The most that was used beyond the limit of a second; none when no limit was reached.
    fn overshoot(&self, customer: &Customer) -> Option<Overshoot> {
        let (mut most, mut level) = (None, 0);
        for second in BEGIN..BEGIN + WEEK {
            let (before, after) = (self.used[place(second)], self.used[place(second) + 1]);
            let limit = customer.limit(second);
            if before < limit && after >= limit {
                level = self.level[place(second)];
            }
            let seconds = after - limit;
            if seconds >= most.map_or(0, |of: Overshoot| of.seconds) {
                most = Some(Overshoot { seconds, level });
            }
        }
        most
    }
}

/// The overshoot of each customer who reached the limit; checks that nobody was refused before.
fn judge(case: &Case, customers: &[Customer], seen: &Seen) -> BTreeMap<&'static str, Overshoot> {
    let judges: Vec<Judge> = seen.log.iter().map(|log| Judge::of(log)).collect();
    for (who, second) in &seen.refused {
        let (used, limit) = (judges[*who].used[place(*second)], customers[*who].limit(*second));
        assert!(used >= limit, "{case:?}: {} at {}: {used} of {limit}", customers[*who].id, instant(*second));
    }
    let of = customers.iter().zip(&judges);
    of.filter_map(|(customer, judge)| Some((customer.id, judge.overshoot(customer)?))).collect()
}

/// What the books would bill by their bills alone, in attendee-seconds.
async fn targets(world: &BudgetFixture) -> BTreeMap<String, i64> {
    let mapping = Mapping { event_name: "e".into(), per_unit: 60.into(), display_name: "e".into() };
    // whoever pays for what is beyond the budget: here it is to be seen
    let billing = BillingSettings {
        meters: [("chime_minutes".to_owned(), mapping)].into(),
        overage: OverageBilling::All,
        ..BillingSettings::default()
    };
    let planned = push_stripe::preview(&world.context.books, &billing, world.now).await.unwrap();
    assert!(planned.deferred.is_empty(), "{planned:?}");
    planned.events.into_iter().map(|event| (event.customer, event.value)).collect()
}

/// Ledger and billing targets are what was used, whatever was measured.
async fn bills_decide_money(case: &Case, customers: &[Customer], seen: &Seen, world: &BudgetFixture) {
    world.sound().await;
    let (mut used, mut billed) = (BTreeMap::new(), BTreeMap::new());
    for (customer, log) in customers.iter().zip(&seen.log) {
        let days = by_day(log, i64::MAX);
        let seconds: i64 = days.values().sum();
        used.extend(days.into_iter().map(|(day, seconds)| (format!("{} {day}", customer.id), minutes(seconds))));
        if customer.price > 0 && seconds > customer.included * 60 {
            billed.insert(customer.id.to_owned(), seconds - customer.included * 60);
        }
    }
    let sql = "SELECT customer || ' ' || CAST(substr(day, 9) AS INTEGER) || ' ' || CAST(sum(quantity) AS TEXT) \
               FROM booked_usage GROUP BY customer, day HAVING sum(quantity) <> 0";
    let booked: BTreeSet<String> = world.dump(sql).await.into_iter().collect();
    let used: BTreeSet<String> = used
        .into_iter()
        .map(|(day, minutes)| format!("{day} {}", minutes.replace('.', "").trim_start_matches('0')))
        .collect();
    assert_eq!(booked, used, "{case:?}");
    assert_eq!(targets(world).await, billed, "{case:?}");
}

async fn live(case: &Case, customers: &[Customer]) -> (Seen, BudgetFixture) {
    let (seen, world) = Week::new(case, customers).await.live().await;
    bills_decide_money(case, customers, &seen, &world).await;
    (seen, world)
}

#[tokio::test]
async fn a_budget_is_overrun_by_seconds_of_use_and_by_a_day_where_nobody_measures() {
    let customers = customers();
    let case = |backend, delay| Case { backend, delay };
    let blind = case(Backend::OnlyAsks, 1);
    let cases = [case(Backend::Asks, 1), case(Backend::Asks, 5), case(Backend::EndsAtUntil, 5)];
    let [first, second, third] = &cases;
    let ((seen, _), first, second, third) = tokio::join!(
        live(&blind, &customers),
        live(first, &customers),
        live(second, &customers),
        live(third, &customers)
    );
    let without = judge(&blind, &customers, &seen);
    assert_eq!(without.keys().copied().collect::<Vec<_>>(), ["always", "free", "known", "nights", "raises", "team"]);
    for (who, minutes, hours) in [("always", 15_895, 26), ("nights", 5_617, 31)] {
        let Overshoot { seconds, level } = without[who];
        assert_eq!((seconds / 60, seconds / level / HOUR), (minutes, hours), "{who}, as docs/enforcement.md has it");
    }
    let mut asked = BTreeMap::new();
    for (case, (seen, world)) in cases.into_iter().zip([first, second, third]) {
        let with = judge(&case, &customers, &seen);
        // tenths of a second, as docs/enforcement.md has them
        let tenths = match case {
            Case { backend: Backend::Asks, delay: 1 } => 15,
            Case { backend: Backend::Asks, .. } => 53,
            _ => 5,
        };
        assert!(with.keys().eq(without.keys()), "{case:?}: {with:?}");
        for (who, of) in &with {
            let late = without[who];
            println!("{case:?}, {} runs, {who}: {of}; without measurements {late}", seen.runs);
            assert!(of.seconds < 60 * of.level, "{case:?}, {who}: {of}");
            assert!(10 * of.seconds <= tenths * of.level, "docs/enforcement.md says less: {case:?}, {who}: {of}");
            assert!(late.seconds > 10 * of.seconds && late.seconds > 600 * late.level, "{case:?}, {who}: {late}");
        }
        if case.backend == Backend::Asks {
            asked = with;
            continue;
        }
        assert!(with.iter().all(|(who, of)| of.seconds <= asked[who].seconds), "{with:?} {asked:?}");
        // the same usage, of which only bills tell
        let attended = |(of, log): (&Customer, &Vec<Attendance>)| Customer {
            wants: log.clone(),
            budgets: of.budgets.clone(),
            ..*of
        };
        let again: Vec<Customer> = customers.iter().zip(&seen.log).map(attended).collect();
        let (seen_again, unmeasured) = live(&Case { backend: Backend::AsksNever, delay: 1 }, &again).await;
        let sorted = |mut log: Vec<Vec<Attendance>>| {
            log.iter_mut().for_each(|of| of.sort_unstable());
            log
        };
        assert_eq!(sorted(seen.log), sorted(seen_again.log));
        assert_eq!(world.ledger().await, unmeasured.ledger().await);
    }
}
