//! The bill preview: what the metered lines of invoices will say, once the next push has sent what
//! it would send.
//!
//! Customers are loaded and planned by the code of a push, in memory: a line has the stored events
//! of the invoice and those that would be planned. So a preview is what is sent. Nothing is written
//! and Stripe is not asked: meters and items are those that the books know of it.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use jiff::Timestamp;
use rust_decimal::Decimal;
use schemars::JsonSchema;
use serde::Serialize;

use super::planner::{PlanInputs, Planner};
use super::{plan_inputs, planned_for};
use crate::job::Mode;
use crate::stripe::{BillingSettings, StripeMode};
use books::limits::customer_facts::ids_after;
use books::limits::overage_billing::{self, OverageHistory};
use books::limits::plan::{Plans, ReportMode, Terms};
use books::limits::rating::Rated;
use books::store::connection::Connection;
use books::store::settings;
use books::stripe::billing_target::{Conservation, NewTarget, UsageParts};
use books::stripe::due::{self, DueSince};
use books::stripe::invoice::closes;
use books::stripe::meter_event::EventState;
use books::stripe::placement::place;
use books::stripe::planning::{self, DueCustomer, DuePeriod};
use books::units::calendar::{Day, instant};
use books::units::money::{Currency, Money, Price, charge};
use books::units::quantity::{Quantity, UNIT, divide_half_even};
use books::{BooksError, Database};

/// Customers that are loaded at once.
const PAGE: u32 = 200;
/// A day after all others: nothing has changed since.
pub(super) const NEVER: &str = "9999-12-31";

/// Which bills are wanted.
#[derive(Clone, Debug)]
pub struct WantedBills {
    /// None: of all customers.
    pub customer: Option<String>,
    pub periods: WantedPeriods,
}

/// Which billing periods are wanted.
#[derive(Clone, Debug)]
pub enum WantedPeriods {
    /// Those that go on now.
    Current,
    /// Those that begin in this time, in seconds since 1970.
    Begin(Range<i64>),
}

/// Bills, in the order of customers and periods.
#[derive(Clone, Debug, Default, JsonSchema, Serialize)]
pub struct Bills {
    pub bills: Vec<CustomerBill>,
    /// Customers of whom no bill can be made.
    pub unknown: Vec<CustomerWithoutBill>,
}

/// The sums of bills in one currency, in minor units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BillTotal {
    pub currency: Currency,
    pub bills: u64,
    /// Without bills of which the price of a line is not known.
    pub amount_minor: i64,
    pub waiting_minor: i64,
    pub house_minor: i64,
    /// Bills with a price that only Stripe knows.
    pub unpriced: u64,
}

impl Bills {
    /// The sums of each currency, by its code.
    pub fn totals(&self) -> BTreeMap<String, BillTotal> {
        let mut totals = BTreeMap::new();
        for bill in &self.bills {
            let currency = bill.currency;
            let none = BillTotal { currency, bills: 0, amount_minor: 0, waiting_minor: 0, house_minor: 0, unpriced: 0 };
            let total = totals.entry(currency.to_string()).or_insert(none);
            total.bills += 1;
            total.unpriced += u64::from(bill.amount.is_none());
            total.amount_minor = total.amount_minor.saturating_add(bill.amount.map_or(0, |of| of.minor));
            total.waiting_minor = total.waiting_minor.saturating_add(bill.waiting_worth.minor);
            total.house_minor = total.house_minor.saturating_add(bill.house_worth.minor);
        }
        totals
    }
}

/// A customer of whom no bill can be made, and why.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct CustomerWithoutBill {
    pub customer: String,
    pub why: NoBill,
}

/// Why no bill can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NoBill {
    /// No plan has the name of the customer's plan.
    UnknownPlan,
    /// `roll_periods` has not made the billing periods of a changed subscription yet.
    PeriodsPending,
}

/// The metered lines of an invoice.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct CustomerBill {
    pub customer: String,
    /// The plan at the end of the period.
    pub plan: String,
    pub currency: Currency,
    pub period_start: Timestamp,
    pub period_end: Timestamp,
    /// The first and the last day (UTC) of the usage of the period.
    pub first_day: Day,
    pub last_day: Day,
    pub invoice: InvoiceState,
    /// By meter.
    pub lines: Vec<InvoiceLine>,
    /// The sum of the lines; none if the price of one is not known.
    pub amount: Option<Money>,
    /// What the waiting usage is worth.
    pub waiting_worth: Money,
    /// What the usage is worth that the company pays.
    pub house_worth: Money,
}

/// Whether the invoice of a period still takes usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum InvoiceState {
    Open,
    Closed,
    /// The period has no subscription.
    None,
}

impl InvoiceState {
    /// As in JSON and CSV.
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "closed",
            Self::None => "none",
        }
    }
}

/// A metered line of an invoice, and what became of the period's usage.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct InvoiceLine {
    pub meter: String,
    /// What the plan includes in the period.
    pub included: Quantity,
    /// Of the plan; none when it has no price for the meter.
    pub price: Option<Price>,
    /// All usage of the period by what becomes of it; `billed` is at Stripe, or will be.
    #[serde(flatten)]
    pub usage: Conservation,
    /// The quantity on the invoice, in Stripe's units.
    pub quantity: i64,
    /// What of `quantity` is charged: with `report = "total"` the tiers leave the included amount
    /// free.
    pub charged: i64,
    /// Stripe's units for each of ours.
    pub per_unit: Decimal,
    /// What of `quantity` is at Stripe already.
    pub sent: i64,
    /// What of `quantity` is for the usage of other periods.
    pub corrections: Vec<Correction>,
    /// Usage of this period on invoices of later ones.
    pub carried: Vec<Correction>,
    /// What the line costs; none when the plan has no price for it.
    pub amount: Option<Money>,
    /// What of the period's usage cannot be sent, and why.
    pub waits: Option<WaitingUsage>,
    /// What the waiting usage is worth.
    pub waiting_worth: Money,
    /// What the usage is worth that the company pays.
    pub house_worth: Money,
}

/// Usage of one period on the invoice of another one.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct Correction {
    /// The period of the usage; in [`InvoiceLine::carried`] that of the invoice.
    pub period_start: Timestamp,
    /// In Stripe's units.
    pub value: i64,
}

/// Usage that cannot be sent.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct WaitingUsage {
    /// In Stripe's units.
    pub value: i64,
    /// As `billing_targets.deferred_reason` has it; `refused` also for events that Stripe refused.
    pub reason: String,
}

/// The bills that a push as of `now` leads to.
///
/// # Errors
/// When the books cannot be read.
pub async fn bills(
    books: &Database,
    billing: &BillingSettings,
    wanted: WantedBills,
    now: Timestamp,
) -> Result<Bills, BooksError> {
    let known = books.stripe_meters().await?;
    let mode = match (&billing.mode, known.is_empty()) {
        (StripeMode::Stripe(_), false) => Mode::Write,
        // nothing is known of an account: every meter and item counts as present
        _ => Mode::DryRun,
    };
    let (billing, second) = (billing.clone(), now.as_second());
    books
        .with_connection(async move |c| {
            let read = tokio::try_join!(
                Plans::load(c),
                overage_billing::load(c),
                due::backlog(c, second),
                due::plans_fingerprint(c),
                settings::get(c, super::PLANNED_FOR)
            );
            let (plans, overage, mut backlog, fingerprint, planned) = read?;
            if planned.as_ref() != Some(&planned_for(&fingerprint, &billing)) {
                // the next run makes every customer due
                backlog.planned_version = 0;
            }
            let overage = OverageHistory::with(overage, billing.overage, now);
            let inputs = plan_inputs(&billing, &known, plans, overage, mode);
            let due = due::would_be_due(c, backlog, &inputs.meter_names(), second).await?;
            let run = BillRun { inputs, wanted, now: second, due: by_customer(due) };
            run.read(c).await
        })
        .await
}

fn by_customer(due: Vec<DueSince>) -> HashMap<String, String> {
    due.into_iter().map(|due| (due.customer, due.from_day)).collect()
}

/// One reading of bills.
struct BillRun {
    inputs: PlanInputs,
    wanted: WantedBills,
    now: i64,
    /// Of the customers that a push would plan, the first day on which usage may have changed.
    due: HashMap<String, String>,
}

/// Customers with all that planning reads of them, page by page.
pub(super) struct CustomerPages {
    next: Vec<String>,
    /// Only these, and none after them.
    is_last: bool,
    /// Parts of a page that was too large for an answer.
    parts: Vec<Vec<DueSince>>,
}

impl CustomerPages {
    /// Of one customer, or of all.
    pub(super) async fn of(c: &Connection, customer: Option<&String>) -> Result<Self, BooksError> {
        let next = match customer {
            Some(customer) => vec![customer.clone()],
            None => ids_after(c, "", PAGE).await?,
        };
        Ok(Self { next, is_last: customer.is_some(), parts: vec![] })
    }

    /// Of these customers.
    pub(super) fn listed(asked: &[DueSince]) -> Self {
        let parts = asked.chunks(usize::try_from(PAGE).unwrap_or(usize::MAX)).map(<[DueSince]>::to_vec);
        Self { next: vec![], is_last: true, parts: parts.rev().collect() }
    }

    /// The next page; none after the last one. `since` says from when on the periods of a customer
    /// are loaded.
    pub(super) async fn next(
        &mut self,
        c: &Connection,
        inputs: &PlanInputs,
        now: i64,
        since: impl Fn(String) -> DueSince,
    ) -> Result<Option<BTreeMap<String, DueCustomer>>, BooksError> {
        loop {
            if let Some(mut asked) = self.parts.pop() {
                match planning::load(c, &asked, &inputs.meter_names(), now, inputs.grace).await {
                    // more than a server's answer can hold: the first half is next
                    Err(BooksError::TooLarge(_)) if asked.len() > 1 => {
                        self.parts.push(asked.split_off(asked.len() / 2));
                        self.parts.push(asked);
                        continue;
                    }
                    loaded => return loaded.map(Some),
                }
            }
            let Some(last) = self.next.last().cloned() else { return Ok(None) };
            let ids = std::mem::take(&mut self.next);
            self.parts.push(ids.into_iter().map(&since).collect());
            if !self.is_last {
                self.next = ids_after(c, &last, PAGE).await?;
            }
        }
    }
}

impl BillRun {
    async fn read(&self, c: &Connection) -> Result<Bills, BooksError> {
        let mut found = Bills::default();
        let mut pages = CustomerPages::of(c, self.wanted.customer.as_ref()).await?;
        while let Some(page) = pages.next(c, &self.inputs, self.now, |customer| self.since(customer)).await? {
            page.iter().for_each(|(customer, due)| self.add(customer, due, &mut found));
        }
        Ok(found)
    }

    /// From when on a customer's periods are loaded: those that changed, and those that are wanted.
    fn since(&self, customer: String) -> DueSince {
        let changed = self.due.get(&customer).map_or(NEVER, String::as_str);
        let wanted = match &self.wanted.periods {
            WantedPeriods::Current => NEVER.to_owned(),
            WantedPeriods::Begin(starts) => {
                let day = i32::try_from(starts.start.div_euclid(86_400)).ok().and_then(Day::from_epoch);
                day.map_or(String::new(), |day| day.to_string())
            }
        };
        let from_day = wanted.as_str().min(changed).to_owned();
        DueSince { customer, from_day }
    }

    fn wants(&self, period: &DuePeriod) -> bool {
        match &self.wanted.periods {
            WantedPeriods::Current => period.start <= self.now && self.now < period.end,
            WantedPeriods::Begin(starts) => starts.contains(&period.start),
        }
    }

    fn add(&self, customer: &str, due: &DueCustomer, found: &mut Bills) {
        if !due.known {
            return;
        }
        let mut unknown = |why| found.unknown.push(CustomerWithoutBill { customer: customer.to_owned(), why });
        if !due.periods_are_current {
            return unknown(NoBill::PeriodsPending);
        }
        let mut planner = Planner::new(&self.inputs, self.now);
        let Some(rated) = planner.rate(due) else { return unknown(NoBill::UnknownPlan) };
        planner.plan_customer(customer, due);
        let planned = Planned { due, planner: &planner };
        for (period, rated) in due.periods.iter().zip(&rated).filter(|(period, _)| self.wants(period)) {
            found.bills.extend(self.bill(customer, period, rated, &planned));
        }
    }

    /// None for a period without meters.
    fn bill(
        &self,
        customer: &str,
        period: &DuePeriod,
        rated: &BTreeMap<String, Rated>,
        planned: &Planned<'_>,
    ) -> Option<CustomerBill> {
        let any = rated.values().next()?;
        let lines: Vec<InvoiceLine> =
            rated.iter().filter_map(|(meter, rated)| self.line(meter, period, rated, planned)).collect();
        let amounts: Option<Vec<i64>> = lines.iter().map(|line| line.amount.map(|of| of.minor)).collect();
        let invoice = match &period.subscription {
            None => InvoiceState::None,
            Some(_) if self.now >= closes(period.takes_until(), self.inputs.grace) => InvoiceState::Closed,
            Some(_) => InvoiceState::Open,
        };
        let currency = any.currency;
        let sum = |minors: &mut dyn Iterator<Item = i64>| Money {
            minor: minors.fold(0, |sum: i64, one| sum.saturating_add(one)),
            currency,
        };
        Some(CustomerBill {
            customer: customer.to_owned(),
            plan: any.plan.clone(),
            currency,
            period_start: instant(period.start),
            period_end: instant(period.end),
            first_day: period.days.first,
            last_day: period.days.last,
            invoice,
            amount: amounts.map(|amounts| sum(&mut amounts.into_iter())),
            waiting_worth: sum(&mut lines.iter().map(|line| line.waiting_worth.minor)),
            house_worth: sum(&mut lines.iter().map(|line| line.house_worth.minor)),
            lines,
        })
    }

    /// None for a meter that the plan lacks and that is not used.
    fn line(&self, meter: &str, period: &DuePeriod, rated: &Rated, planned: &Planned<'_>) -> Option<InvoiceLine> {
        let per_unit = self.inputs.meters.get(meter)?.mapping.per_unit;
        let terms = self.inputs.plans.at(&rated.plan, period.start).and_then(|plan| plan.meters.get(meter)).copied();
        let is_own = |start: i64| (period.start..period.end).contains(&start);
        let events = planned.events(meter, &self.inputs, self.now);
        let on_invoice: Vec<BilledEvent> =
            events.iter().filter(|event| event.billed && event.invoice == period.start).copied().collect();
        let of_usage: Vec<BilledEvent> = events.into_iter().filter(|event| is_own(event.usage)).collect();
        if terms.is_none() && rated.used.is_zero() && on_invoice.is_empty() && of_usage.is_empty() {
            return None;
        }
        let quantity = on_invoice.iter().fold(0, |sum: i64, event| sum.saturating_add(event.value));
        let sent = on_invoice.iter().filter(|event| event.accepted).map(|event| event.value).sum();
        let deferred = planned.deferred(meter, period);
        let refused: i64 = of_usage.iter().filter(|event| event.refused).map(|event| event.value).sum();
        let discarded: i64 = of_usage.iter().filter(|event| event.discarded).map(|event| event.value).sum();
        let reason = deferred.as_ref().map(|waiting| waiting.reason.clone());
        let value = deferred.map_or(0, |waiting| waiting.value).saturating_add(refused);
        let waits = (value != 0).then(|| WaitingUsage { value, reason: reason.unwrap_or_else(|| "refused".into()) });
        let split = UsageParts::of(rated).split(value, discarded, per_unit);
        let charged = charged(quantity, per_unit, terms);
        let money = |minor| Money { minor, currency: rated.currency };
        let elsewhere = |event: &&BilledEvent| event.billed && !is_own(event.invoice);
        Some(InvoiceLine {
            meter: meter.to_owned(),
            included: rated.included,
            price: terms.and_then(|terms| terms.billed_price(meter)),
            usage: split.usage,
            quantity,
            charged,
            per_unit,
            sent,
            corrections: summed(on_invoice.iter().filter(|e| !is_own(e.usage)).map(|e| (e.usage, e.value))),
            carried: summed(of_usage.iter().filter(elsewhere).map(|e| (e.invoice, e.value))),
            amount: match (charged, terms.and_then(|terms| terms.billed_price(meter))) {
                (0, _) => Some(money(0)),
                (_, None) => None,
                (charged, Some(price)) => charge(charged, per_unit, price, rated.currency).map(money),
            },
            waits,
            waiting_worth: money(split.money.waiting),
            house_worth: money(split.money.house),
        })
    }
}

/// An event of the customer, stored or planned.
#[derive(Clone, Copy, Debug)]
struct BilledEvent {
    /// The start of the period of the usage.
    usage: i64,
    /// The start of the period of its invoice.
    invoice: i64,
    value: i64,
    /// The invoice has it or will get it.
    billed: bool,
    accepted: bool,
    refused: bool,
    discarded: bool,
}

/// A customer, and what a push would do.
struct Planned<'a> {
    due: &'a DueCustomer,
    planner: &'a Planner<'a>,
}

impl Planned<'_> {
    fn events(&self, meter: &str, inputs: &PlanInputs, now: i64) -> Vec<BilledEvent> {
        let stored = self.due.events.get(meter).map(Vec::as_slice).unwrap_or_default();
        let stored = stored.iter().filter_map(|event| {
            let placed = place(event, now, inputs.grace);
            Some(BilledEvent {
                usage: event.period_start,
                invoice: placed.sent?.start,
                value: event.value,
                billed: placed.billed,
                accepted: event.state == EventState::Accepted,
                refused: event.state == EventState::Refused,
                discarded: event.state == EventState::Discarded,
            })
        });
        let planned = self.planner.changes.events.iter().filter(|event| event.meter == meter);
        let planned = planned.map(|event| BilledEvent {
            usage: event.period_start,
            invoice: event.billed.start,
            value: event.value,
            billed: true,
            accepted: false,
            refused: false,
            discarded: false,
        });
        stored.chain(planned).collect()
    }

    /// The amount of a period that cannot be sent.
    fn deferred(&self, meter: &str, period: &DuePeriod) -> Option<WaitingUsage> {
        let is_it = |target: &&NewTarget| target.meter == meter && target.period_start == period.start;
        let (value, reason) = match self.planner.changes.targets.iter().find(is_it) {
            Some(target) => (target.deferred, target.deferred_reason?.to_owned()),
            None => {
                let stored = self.due.targets.get(&(meter.to_owned(), period.start))?;
                (stored.deferred, stored.deferred_reason.clone()?)
            }
        };
        Some(WaitingUsage { value, reason })
    }
}

/// Amounts by period, in order; those that cancel each other out are left out.
fn summed(amounts: impl Iterator<Item = (i64, i64)>) -> Vec<Correction> {
    let mut sums: BTreeMap<i64, i64> = BTreeMap::new();
    amounts.for_each(|(start, value)| *sums.entry(start).or_default() += value);
    let correction = |(start, value)| Correction { period_start: instant(start), value };
    sums.into_iter().filter(|(_, value)| *value != 0).map(correction).collect()
}

/// What of a quantity is charged. An invoice's total below 0 is nothing.
pub(super) fn charged(quantity: i64, per_unit: Decimal, terms: Option<Terms>) -> i64 {
    let free = match terms {
        Some(Terms { report: ReportMode::Total, included, .. }) => {
            let product = included.scaled().saturating_mul(per_unit.mantissa());
            let unit = UNIT.saturating_mul(10_i128.checked_pow(per_unit.scale()).unwrap_or(i128::MAX));
            i64::try_from(divide_half_even(product, unit).0).unwrap_or(i64::MAX)
        }
        _ => 0,
    };
    quantity.saturating_sub(free).max(0)
}
