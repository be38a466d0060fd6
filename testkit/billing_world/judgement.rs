//! Compares the books with the model, for each customer, meter and billing period.

use std::collections::BTreeMap;

use books::stripe::billing_target::Conservation;
use books::stripe::comparison::{ComparisonFilter, Verdict, WithoutPeriod};
use books::units::calendar::Day;

use super::model::{CENT, Owed, Parts, Span, TOLERANCE};
use super::scene::{CUSTOMERS, METERS, PER_UNIT, UNIT};
use super::world::BillingWorld;

/// A billing target in the books. Quantities are in 10⁻¹⁰ units.
struct Booked {
    end: i64,
    /// Used, within the plan, billable, house and not priced.
    parts: [i128; 5],
    target: i128,
    deferred: i128,
    why: String,
    /// What is billable, in cents.
    cost: i64,
}

impl BillingWorld {
    /// Why the books are not as the model says for a customer; none if they are. Returns what they
    /// should bill in each period, by place in [`METERS`].
    pub async fn differs(&self, who: usize) -> Result<Vec<(Span, [i64; 2])>, String> {
        let name = CUSTOMERS[who];
        let owed = self.owed(who);
        if !self.facts(who).has_row {
            let rows = self.rows("SELECT customer FROM billing_targets UNION SELECT customer FROM meter_events").await;
            return if rows.contains(&name.to_owned()) {
                Err(format!("{name} has no row, and is billed"))
            } else {
                Ok(vec![])
            };
        }
        self.same_periods(who, &owed).await?;
        let mut targets: Vec<(Span, [i64; 2])> = owed.iter().map(|o| (o.span.clone(), [0; 2])).collect();
        let mut costs = vec![[0; 2]; owed.len()];
        for (at, meter) in METERS.into_iter().enumerate() {
            let mut booked = self.booked_targets(who, meter).await;
            for (place, period) in owed.iter().enumerate() {
                let row = booked.remove(&period.span.start).unwrap_or_else(|| Booked::none(period.span.end));
                row.differs(period, at).map_err(|what| format!("{name} {meter}: {what}\n{period:?}"))?;
                self.may_wait(who, &row).map_err(|what| format!("{name} {meter}: {what}\n{period:?}"))?;
                targets[place].1[at] = i64::try_from(row.target).unwrap();
                costs[place][at] = row.cost;
            }
            if let Some((start, row)) = booked.iter().find(|(_, row)| row.parts != [0; 5] || row.deferred != 0) {
                return Err(format!("{name} {meter}: there is no period from {start}, and it has {:?}", row.parts));
            }
        }
        for (period, costs) in owed.iter().zip(costs) {
            period.keeps_promises(costs).map_err(|what| format!("{name}: {what}\n{period:?}"))?;
        }
        Ok(targets)
    }

    /// Whether the billing periods are those of the subscriptions at Stripe, from the books' first
    /// one on.
    async fn same_periods(&self, who: usize, owed: &[Owed]) -> Result<(), String> {
        let stored = self.periods(who).await;
        let first = stored.first().map_or(i64::MAX, |p| p.0);
        let expected = owed.iter().filter(|o| o.span.start >= first);
        let expected = expected.map(|o| (o.span.start, o.span.end, o.span.subscription.clone().unwrap_or_default()));
        let expected: Vec<_> = expected.collect();
        // usage that came and went has made earlier ones, in which nothing may be left
        let from = expected.first().map_or(i64::MAX, |p| p.0);
        let same = stored.iter().skip_while(|p| p.0 < from).take(expected.len());
        if same.ne(expected.iter()) {
            return Err(format!("{}: periods are {stored:?}, and should be {expected:?}", CUSTOMERS[who]));
        }
        Ok(())
    }

    async fn booked_targets(&self, who: usize, meter: &str) -> BTreeMap<i64, Booked> {
        let sql = "SELECT customer, meter, period_start, period_end, used, within, billable, house, not_priced, target, deferred, billable_minor, \
                     coalesce(deferred_reason, '') FROM billing_targets";
        let mut found = BTreeMap::new();
        for row in self.rows(sql).await {
            let columns: Vec<&str> = row.split('|').collect();
            if (columns[0], columns[1]) == (CUSTOMERS[who], meter) {
                let number = |at: usize| columns[at].parse::<i128>().unwrap();
                let small = |at: usize| columns[at].parse::<i64>().unwrap();
                let booked = Booked {
                    end: small(3),
                    parts: [4, 5, 6, 7, 8].map(number),
                    target: number(9),
                    deferred: number(10),
                    why: columns[12].to_owned(),
                    cost: small(11),
                };
                found.insert(small(2), booked);
            }
        }
        found
    }

    /// Whether a deferred amount has a reason that is true at the end of a world.
    fn may_wait(&self, who: usize, row: &Booked) -> Result<(), String> {
        let facts = self.facts(who);
        let (living, any) = {
            let stripe = self.stripe.world();
            let periods: Vec<_> = facts.stripe_ids.iter().flat_map(|id| stripe.subscription_periods(id)).collect();
            (periods.iter().any(|p| p.end > stripe.now()), !periods.is_empty())
        };
        let is_true = match row.why.as_str() {
            "" => row.deferred == 0,
            "below_zero" => row.deferred < 0,
            "no_stripe_customer" => facts.stripe_ids.is_empty(),
            "no_subscription" => !living,
            "inactive" => !living && any,
            _ => false,
        };
        if is_true { Ok(()) } else { Err(format!("{} is deferred because of `{}`", row.deferred, row.why)) }
    }

    /// Whether `meter verify` finds fault, or `meter reconcile` has another sum than what was
    /// booked, or says of a period that everything agrees although something waits.
    pub async fn figures_differ(&self) -> Result<(), String> {
        let audit = self.context.books.verify().await.unwrap();
        let broken: Vec<String> = audit.checks.into_iter().flat_map(|check| check.violations).collect();
        if !broken.is_empty() {
            return Err(format!("verify: {broken:?}"));
        }
        let (customer, meters) = (None, METERS.map(str::to_owned).to_vec());
        let filter = ComparisonFilter { customer, meters, starts: 0..i64::MAX, limit: 10_000 };
        let compared = self.context.books.compare(filter).await.unwrap();
        let mut all = METERS.map(|_| Conservation::default());
        for (who, name) in CUSTOMERS.into_iter().enumerate().filter(|(who, _)| self.facts(*who).has_row) {
            for (at, meter) in METERS.into_iter().enumerate() {
                let mut sum = Conservation::default();
                let cut_off = self.has_cut_off(who, meter);
                for row in compared.iter().filter(|row| (row.customer.as_str(), row.meter.as_str()) == (name, meter)) {
                    sum.add(&row.conservation(PER_UNIT[at].into()));
                    let expected = if row.deferred == 0 { Verdict::Agrees } else { Verdict::Waiting };
                    if row.verdict() != expected && !cut_off {
                        return Err(format!("{name} {meter}: reconcile says {:?} of {row:?}", row.verdict()));
                    }
                }
                let parts = [sum.within, sum.billed, sum.waiting, sum.house, sum.not_priced];
                let booked = i128::from(self.booked(who, meter));
                if sum.booked.scaled() != booked || parts.iter().map(|part| part.scaled()).sum::<i128>() != booked {
                    return Err(format!("{name} {meter}: {booked} was booked, and reconcile says {sum:?}"));
                }
                all[at].add(&sum);
            }
        }
        for (at, meter) in METERS.into_iter().enumerate() {
            let booked: i64 = (0..CUSTOMERS.len()).map(|who| self.booked(who, meter)).sum();
            let Some(of) = audit.billing.iter().find(|of| of.meter == meter) else { continue };
            let parts: i128 = of.named().into_iter().map(|(_, part)| part.scaled()).sum();
            let same = (of.within, of.billed, of.waiting, of.house, of.not_priced)
                == (all[at].within, all[at].billed, all[at].waiting, all[at].house, all[at].not_priced);
            if (of.booked.scaled(), parts) != (i128::from(booked), i128::from(booked)) || !same {
                return Err(format!(
                    "{meter}: {booked} was booked, reconcile says {:?}, and the audit {of:?}",
                    all[at]
                ));
            }
        }
        Ok(())
    }

    /// Whether Stripe cut an invoice off at zero, because it had lost events that were taken off.
    /// What the corrections on it had no effect on is sent again, and `meter reconcile` calls as
    /// much waiting for ever.
    fn has_cut_off(&self, who: usize, meter: &str) -> bool {
        let at_stripe = self.facts(who).at_stripe.clone();
        let stripe = self.stripe.world();
        let lines = at_stripe.iter().flat_map(|id| stripe.invoices(id));
        lines.filter(|line| line.event_name == self.event_name(meter)).any(|line| line.sum < 0.into())
    }

    /// Whether usage that lies in no period is that of the ids without a row.
    pub async fn without_period_differs(&self) -> Result<(), String> {
        let day = |text: &str| text.parse::<Day>().unwrap();
        let meters = METERS.map(str::to_owned).to_vec();
        let found =
            self.context.books.usage_without_period(day("2020-01-01"), day("2030-01-01"), meters).await.unwrap();
        for meter in METERS {
            let unknown: i64 =
                (0..CUSTOMERS.len()).filter(|who| !self.facts(*who).has_row).map(|who| self.booked(who, meter)).sum();
            let shown: i128 = found.iter().filter(|u| u.meter == meter).map(|u| u.quantity.scaled()).sum();
            let other = found.iter().any(|u| u.why != WithoutPeriod::UnknownCustomer);
            if shown != i128::from(unknown) || other {
                return Err(format!("{meter}: {unknown} was used without a row, and the books say {found:?}"));
            }
        }
        Ok(())
    }
}

impl Booked {
    fn none(end: i64) -> Self {
        Self { end, parts: [0; 5], target: 0, deferred: 0, why: String::new(), cost: 0 }
    }

    /// How it differs from what is owed of a meter.
    fn differs(&self, owed: &Owed, meter: usize) -> Result<(), String> {
        let [used, within, billable, house, not_priced] = self.parts;
        let model: &Parts = &owed.meters[meter];
        if self.end != owed.span.end {
            return Err(format!("the target ends at {}", self.end));
        }
        if used != model.used || used != within + billable + house + not_priced {
            return Err(format!("{used} is not {within} + {billable} + {house} + {not_priced}"));
        }
        let same = |what: &str, booked: i128, expected: i128| {
            let near = (booked - expected).abs() <= TOLERANCE;
            if near { Ok(()) } else { Err(format!("{what}: {booked}, and should be {expected}")) }
        };
        same("within the plan", within, model.within)?;
        same("not priced", not_priced, model.not_priced)?;
        same("beyond the plan", billable + house, model.priced)?;
        if !owed.shares_a_budget() {
            same("house", house, model.house)?;
        }
        // what the budget cuts is rounded down, anything else to the nearest
        let reported = (billable + model.free_at_stripe) * i128::from(PER_UNIT[meter]);
        let (rest, slack) = (reported - self.target * i128::from(UNIT), TOLERANCE * i128::from(PER_UNIT[meter]));
        let (least, most) =
            if house > 0 { (0, i128::from(UNIT)) } else { (-i128::from(UNIT / 2), i128::from(UNIT / 2)) };
        if rest < least - slack || rest > most + slack {
            return Err(format!("the target is {}, and {reported} / {UNIT} is reported", self.target));
        }
        Ok(())
    }
}

impl Owed {
    /// Whether both meters use a budget for all, so that the order decides which one is billed.
    fn shares_a_budget(&self) -> bool {
        self.limited[0] && self.meters.iter().all(|parts| parts.priced > 0)
    }

    /// Whether the billed cents are what a shared budget allows, and no budget is exceeded.
    fn keeps_promises(&self, costs: [i64; 2]) -> Result<(), String> {
        let all: i64 = costs.iter().sum();
        let allowed: i128 = self.meters.iter().map(|parts| parts.cost).sum();
        let (unit, both) = (CENT * i128::from(UNIT), self.limited[0] && (self.limited[1] || self.limited[2]));
        // each of the two is rounded to whole cents
        if !both && (i128::from(all) * unit - allowed).abs() > unit + TOLERANCE * CENT {
            return Err(format!("{all} cents are billed, and should be {allowed} / {unit}"));
        }
        let over = |cost: i64, limit: Option<i64>| limit.is_some_and(|limit| cost > limit);
        if over(all, self.limits.0.map(|limit| limit + 1))
            || over(costs[0], self.limits.1[0])
            || over(costs[1], self.limits.1[1])
        {
            return Err(format!("{costs:?} cents are billed, and the budgets are {:?}", self.limits));
        }
        Ok(())
    }
}
