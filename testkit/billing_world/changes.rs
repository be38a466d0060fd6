//! What customers of a world do beside using: they change plans and budgets, cancel and return,
//! get another Stripe id, and become known late. Drawn at the start, then done at their instants.

use std::collections::{BTreeMap, VecDeque};

use books::store::connection::params;
use fake_stripe::Subscription;

use super::model::{Budget, PLANS};
use super::scene::{CUSTOMERS, DAY, HOUR, METERS, Start};
use super::world::BillingWorld;

#[derive(Clone, Debug)]
enum Act {
    /// The web backend makes the customer's row.
    Row,
    /// The web backend writes the customer's newest Stripe id.
    StripeId,
    Subscribe,
    Cancel,
    /// Another Stripe customer takes over the subscription, or is just another one.
    Move,
    OtherStripeCustomer,
    ResetAnchor,
    Plan(&'static str),
    Budget(&'static str, Option<i64>, &'static str),
}

/// What will happen in a world, and what has.
#[derive(Debug)]
pub struct Changes {
    pub starts: [Start; 3],
    /// The first instant at which the worker can read subscriptions.
    pub synced_from: i64,
    acts: VecDeque<(i64, usize, Act)>,
    /// By customer, how often what was done.
    pub done: [BTreeMap<&'static str, u64>; 3],
}

/// Draws for one customer.
struct Draw<'a> {
    rng: &'a mut fastrand::Rng,
    begin: i64,
    who: usize,
    acts: Vec<(i64, usize, Act)>,
}

impl Draw<'_> {
    fn one_in(&mut self, n: u8) -> bool {
        self.rng.u8(0..n) == 0
    }

    /// An instant within some days of the start.
    fn within(&mut self, days: std::ops::Range<i64>) -> i64 {
        self.begin + self.rng.i64(days.start * DAY..days.end * DAY)
    }

    fn add(&mut self, at: i64, act: Act) {
        self.acts.push((at, self.who, act));
    }

    fn start(&mut self) -> Start {
        let mut start = Start { announced: !self.one_in(4), ..Start::known() };
        if self.one_in(3) {
            start.plan = PLANS[self.rng.usize(0..PLANS.len())].0;
        }
        match self.rng.u8(0..30) {
            0 | 1 => {
                start = Start { row: false, announced: false, ..start };
                let at = self.within(2..30);
                self.add(at, Act::Row);
            }
            2 | 3 => {
                start = Start { stripe_id: false, announced: false, ..start };
                let at = self.within(2..30);
                self.add(at, Act::StripeId);
            }
            4 | 5 => {
                start = Start { subscribed: false, ..start };
                let at = self.within(2..20);
                self.add(at, Act::Subscribe);
            }
            _ => {}
        }
        start
    }

    fn plans(&mut self) {
        if self.one_in(3) {
            for _ in 0..self.rng.u8(1..4) {
                let (at, plan) = (self.within(0..36), PLANS[self.rng.usize(0..PLANS.len())].0);
                self.add(at, Act::Plan(plan));
            }
        }
    }

    /// Budgets of some customers: for all meters, for single ones, or seldom for both.
    fn budgets(&mut self) {
        let of: &[&'static str] = match self.rng.u8(0..9) {
            0 | 1 => &[""],
            2 | 3 => &METERS,
            4 if self.one_in(3) => &["", METERS[0], METERS[1]],
            _ => return,
        };
        for _ in 0..self.rng.u8(1..5) {
            let (at, meter) = (self.within(0..36), of[self.rng.usize(0..of.len())]);
            let amount = (!self.one_in(6)).then(|| if self.one_in(4) { 0 } else { self.rng.i64(100..4000) });
            let currency = if self.one_in(12) { "EUR" } else { "USD" };
            self.add(at, Act::Budget(meter, amount, currency));
        }
    }

    fn subscriptions(&mut self) {
        match self.rng.u8(0..42) {
            0..=5 => {
                let at = self.within(2..30);
                self.add(at, Act::Cancel);
                if self.rng.bool() {
                    let back = at + self.rng.i64(1..8 * DAY);
                    self.add(back, Act::Subscribe);
                }
            }
            6..=8 => {
                let at = self.within(2..30);
                self.add(at, Act::ResetAnchor);
            }
            9..=11 => {
                let at = self.within(2..30);
                let known = at + if self.rng.bool() { 1 } else { self.rng.i64(HOUR..9 * DAY) };
                self.add(at, Act::Move);
                self.add(known, Act::StripeId);
            }
            12 | 13 => {
                let at = self.within(2..30);
                self.add(at, Act::OtherStripeCustomer);
                self.add(at + 1, Act::StripeId);
            }
            _ => {}
        }
    }
}

impl Changes {
    pub fn draw(rng: &mut fastrand::Rng, begin: i64) -> Self {
        let outage = if rng.u8(0..12) == 0 { rng.i64(3..18) * DAY } else { 0 };
        let mut acts = vec![];
        let starts = [0, 1, 2].map(|who| {
            let mut draw = Draw { rng: &mut *rng, begin, who, acts: vec![] };
            let start = draw.start();
            draw.plans();
            draw.budgets();
            draw.subscriptions();
            acts.extend(draw.acts);
            start
        });
        acts.sort_by_key(|(at, ..)| *at);
        Self { starts, synced_from: begin + outage, acts: acts.into(), done: Default::default() }
    }

    /// Does what is due by `now`, each thing at its own instant.
    pub async fn until(&mut self, world: &BillingWorld, now: i64) {
        while let Some((at, who, act)) = self.acts.pop_front_if(|(at, ..)| *at <= now) {
            world.stripe.world().set_now(at);
            if let Some(what) = act.run(world, who, at).await {
                *self.done[who].entry(what).or_default() += 1;
            }
        }
        world.stripe.world().set_now(now);
    }
}

impl Act {
    /// Does it at an instant. Returns what was done; none if it cannot be done.
    async fn run(self, world: &BillingWorld, who: usize, at: i64) -> Option<&'static str> {
        let has_row = world.facts(who).has_row;
        match self {
            Self::Row => {
                world.add_row(who).await;
                Some("row late")
            }
            Self::StripeId if has_row => {
                world.write_stripe_id(who).await;
                Some("Stripe id late")
            }
            Self::Subscribe => world.subscribe(who, at).then_some("subscribed"),
            Self::Cancel => world.cancel(who).then_some("cancelled"),
            Self::Move => world.move_subscription(who).then_some("moved"),
            Self::OtherStripeCustomer => {
                world.add_stripe_customer(who);
                Some("other Stripe customer")
            }
            Self::ResetAnchor => world.reset_anchor(who).await.then_some("new anchor"),
            Self::Plan(plan) if has_row => {
                world.set_plan(who, plan, at).await;
                Some("plan")
            }
            Self::Budget(meter, amount, currency) if has_row => {
                world.set_budget(who, Budget { from: at, meter, amount, currency }).await.then_some("budget")
            }
            Self::StripeId | Self::Plan(_) | Self::Budget(..) => None,
        }
    }
}

impl BillingWorld {
    /// Makes a customer's row, with the plan and the Stripe id that the customer has now.
    pub async fn add_row(&self, who: usize) {
        let (plan, stripe_id) = {
            let mut facts = self.facts(who);
            facts.has_row = true;
            let stripe_id = facts.at_stripe.last().cloned();
            facts.stripe_ids.extend(stripe_id.clone());
            (facts.plans[0].1, stripe_id)
        };
        self.insert_row(who, plan, stripe_id).await;
    }

    pub(super) async fn insert_row(&self, who: usize, plan: &'static str, stripe_id: Option<String>) {
        let row = "INSERT INTO customers (id, plan, stripe_customer_id) VALUES (?1, ?2, ?3)";
        let write = async move |c: &books::store::connection::Connection| {
            c.execute(row, params![CUSTOMERS[who], plan, stripe_id]).await?;
            // the trigger opens periods by the machine's clock, and the world has its own
            for sql in
                ["DELETE FROM turn_periods WHERE customer = ?1", "DELETE FROM billing_periods WHERE customer = ?1"]
            {
                c.execute(sql, params![CUSTOMERS[who]]).await?;
            }
            Ok(())
        };
        self.context.books.transaction(write).await.unwrap();
    }

    /// Gives the books a customer's newest Stripe id.
    pub async fn write_stripe_id(&self, who: usize) {
        let id = {
            let mut facts = self.facts(who);
            let id = facts.at_stripe.last().unwrap().clone();
            facts.stripe_ids.push(id.clone());
            id
        };
        let sql = "UPDATE customers SET stripe_customer_id = ?2 WHERE id = ?1";
        self.write(sql, params![CUSTOMERS[who], id]).await;
    }

    async fn set_plan(&self, who: usize, plan: &'static str, at: i64) {
        self.facts(who).plans.push((at, plan));
        self.write("UPDATE customers SET plan = ?2 WHERE id = ?1", params![CUSTOMERS[who], plan]).await;
        // the trigger would do it by the machine's clock
        let sql = "INSERT INTO customer_plans (customer, plan, from_at, set_by) VALUES (?1, ?2, ?3, 'backend')";
        self.write(sql, params![CUSTOMERS[who], plan, at]).await;
    }

    /// Sets a budget, or removes it if there is one.
    async fn set_budget(&self, who: usize, budget: Budget) -> bool {
        let Budget { from, meter, amount, currency } = budget;
        let is_set = self.facts(who).budgets.iter().rfind(|b| b.meter == meter).is_some_and(|b| b.amount.is_some());
        if amount.is_none() && !is_set {
            return false;
        }
        self.facts(who).budgets.push(budget);
        if amount.is_some() {
            let sql = "INSERT INTO overage_budgets (customer, meter, amount_minor, currency, set_by, set_at) VALUES (?1, ?2, ?3, ?4, 'u', ?5) \
                       ON CONFLICT (customer, meter) DO UPDATE SET amount_minor = excluded.amount_minor, currency = excluded.currency, set_at = excluded.set_at";
            self.write(sql, params![CUSTOMERS[who], meter, amount, currency, from]).await;
        } else {
            self.write(
                "DELETE FROM overage_budgets WHERE customer = ?1 AND meter = ?2",
                params![CUSTOMERS[who], meter],
            )
            .await;
            // the trigger would do it by the machine's clock
            let sql = "INSERT INTO overage_budget_changes (customer, meter, amount_minor, currency, set_by, set_at) \
                       VALUES (?1, ?2, NULL, ?3, 'u', ?4)";
            self.write(sql, params![CUSTOMERS[who], meter, currency, from]).await;
        }
        true
    }

    async fn write(
        &self,
        sql: &'static str,
        values: impl books::store::connection::params::IntoParams + Send + 'static,
    ) {
        self.context.books.transaction(async move |c| Ok(c.execute(sql, values).await?)).await.unwrap();
    }

    fn next_id(&self, kind: &str, who: usize) -> String {
        let mut facts = self.facts(who);
        facts.made += 1;
        format!("{kind}_{who}_{}", facts.made)
    }

    /// The subscription that lives, if there is one.
    fn living(&self, who: usize) -> Option<String> {
        let at_stripe = self.facts(who).at_stripe.clone();
        let stripe = self.stripe.world();
        let periods = at_stripe.iter().flat_map(|id| stripe.subscription_periods(id));
        periods.filter(|p| p.end > stripe.now()).map(|p| p.subscription).next_back()
    }

    fn subscribe(&self, who: usize, at: i64) -> bool {
        if self.living(who).is_some() {
            return false;
        }
        let (id, customer) = (self.next_id("sub", who), self.facts(who).at_stripe.last().unwrap().clone());
        let prices = METERS.map(|m| format!("price_{m}"));
        let prices: Vec<&str> = prices.iter().map(String::as_str).collect();
        self.stripe.world().add_subscription(Subscription::monthly(&id, &customer, at, &prices));
        self.facts(who).unannounced.push(at);
        true
    }

    fn cancel(&self, who: usize) -> bool {
        let living = self.living(who);
        living.iter().for_each(|id| self.stripe.world().cancel_subscription(id));
        living.is_some()
    }

    /// Only if the books know the subscription: nobody can know which anchors it had before.
    pub async fn reset_anchor(&self, who: usize) -> bool {
        let known = self.rows("SELECT id FROM subscriptions").await;
        let living = self.living(who).filter(|id| known.contains(id));
        let Some(living) = living else { return false };
        let mut stripe = self.stripe.world();
        stripe.reset_anchor(&living);
        self.facts(who).unannounced.push(stripe.now());
        true
    }

    /// Adds a Stripe customer, whose id the books do not know yet.
    pub fn add_stripe_customer(&self, who: usize) -> String {
        let id = self.next_id("cus", who);
        self.stripe.world().add_customer(&id);
        self.facts(who).at_stripe.push(id.clone());
        id
    }

    /// Another Stripe customer takes over the subscription; the books do not know it yet.
    pub fn move_subscription(&self, who: usize) -> bool {
        let Some(living) = self.living(who) else { return false };
        let (id, customer) = (self.next_id("sub", who), self.add_stripe_customer(who));
        let mut stripe = self.stripe.world();
        stripe.move_subscription(&living, &id, &customer);
        self.facts(who).unannounced.push(stripe.now());
        true
    }
}
