//! Makes forecasts: learns from the history of a sample of customers, then forecasts page by page.
//!
//! `meter forecast` makes them by the same code, and stores nothing.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use crate::context::Context;
use crate::push_stripe::forecast_bill::{ExpectedOfCustomers, ExpectedUsage, forecast_bills};
use crate::stripe::BillingSettings;
use books::forecast::backtest::Histories;
use books::forecast::limit_day::UsagePath;
use books::forecast::model::{MeterModel, MonthEnd};
use books::forecast::read::PeriodOfCustomer;
use books::forecast::rule::Horizon;
use books::forecast::stored::{BillForecast, ForecastAccuracy, MeterForecast, UsageForecast};
use books::forecast::unusual::{FoundDay, HistoryOf, LikelyCause, UnusualDay, UsualDays};
use books::limits::entitlement::Entitlement;
use books::measured::metered_day::MeteredDay;
use books::stripe::planning::DailyUsage;
use books::units::calendar::{Day, Month};
use books::units::quantity::Quantity;
use books::{BooksError, Database};

/// Days from which errors are learnt, and on which the rules are tried: half a year.
const HISTORY_DAYS: i32 = 182;
/// Customers from whose history it is learnt. More of them change little, and each is read.
const SAMPLE: usize = 400;
/// Customers of a sample that are read at once: an answer has at most 10 MB.
const SAMPLE_AT_ONCE: usize = 40;
/// Customers that are forecast at once.
const PAGE: usize = 100;
/// With a newest settled day that is older than this, there is no forecast.
const OLDEST_DAYS: usize = 45;

/// What forecasts depend on.
#[derive(Clone, Debug)]
pub struct ForecastSettings {
    pub billing: BillingSettings,
    /// Labels of the payer accounts whose bills settle a day.
    pub payers: BTreeSet<String>,
    pub settle_after: SignedDuration,
}

impl ForecastSettings {
    pub fn of(context: &Context) -> Self {
        Self {
            billing: (*context.billing).clone(),
            payers: context.exports.values().map(|export| export.payer.clone()).collect(),
            settle_after: context.measuring.settle_after,
        }
    }
}

/// The days of a run.
#[derive(Clone, Copy, Debug)]
struct Days {
    today: Day,
    /// The newest settled day.
    settled: Day,
    month: Month,
}

impl Days {
    /// Days from the newest settled one to `last`, without the first.
    fn to(&self, last: Day) -> usize {
        usize::try_from(last.epoch() - self.settled.epoch()).unwrap_or(0)
    }

    /// What of the forecast days lies before `first`.
    fn before(&self, first: Day) -> usize {
        usize::try_from(first.epoch() - self.settled.epoch() - 1).unwrap_or(0)
    }
}

/// A meter, and what was learnt of it.
struct LearntMeter {
    meter: String,
    /// Of all histories.
    first: Day,
    /// All usage of settled days.
    all: Vec<i128>,
    by_customer: MeterModel,
    as_a_whole: MeterModel,
    usual: UsualDays,
    usual_as_a_whole: UsualDays,
    sampled: usize,
    /// What is without a customer, on the days of [`LearntMeter::window`].
    untagged: Vec<i128>,
}

/// What was found of some customers.
#[derive(Debug, Default)]
pub struct FoundForecasts {
    /// By customer and meter.
    pub forecasts: Vec<UsageForecast>,
    /// With the causes that usage itself shows.
    pub unusual: Vec<UnusualDay>,
}

/// One run of forecasts.
pub struct ForecastRun {
    settings: ForecastSettings,
    now: Timestamp,
    days: Days,
    customers: Vec<String>,
    meters: Vec<LearntMeter>,
    /// All usage by meter and day, through today.
    totals: DailyUsage,
    /// Days of shared buckets that the bill does not divide: it says nothing of customers.
    undivided: BTreeSet<MeteredDay>,
}

impl ForecastRun {
    /// Learns from the history. None when no day of the last weeks is settled, or nothing is
    /// booked.
    ///
    /// # Errors
    /// When the books cannot be read.
    pub async fn prepare(
        books: &Database,
        settings: ForecastSettings,
        now: Timestamp,
    ) -> Result<Option<Self>, BooksError> {
        let settled = books.settled_days(settings.payers.clone(), settings.settle_after).await?;
        let undivided = settled.undivided();
        let Some(settled) = settled.newest(now, 1).pop() else { return Ok(None) };
        let days = Days { today: day_of(now), settled, month: Month::of(now) };
        if days.to(days.month.last_day()) > OLDEST_DAYS {
            return Ok(None);
        }
        let first = Day::from_epoch(settled.epoch() - HISTORY_DAYS + 1).unwrap_or(Day::EPOCH);
        let totals = books.usage_of_meters((first, days.today)).await?;
        let names: BTreeSet<String> = totals.keys().map(|(meter, _)| meter.clone()).collect();
        let names: Vec<String> = names.into_iter().collect();
        let customers = books.customers_with_usage().await?;
        let step = customers.len().div_ceil(SAMPLE).max(1);
        let sample: Vec<String> = customers.iter().step_by(step).cloned().collect();
        let mut histories: BTreeMap<String, DailyUsage> = BTreeMap::new();
        for some in sample.chunks(SAMPLE_AT_ONCE) {
            histories.extend(books.usage_by_customer(some, &names, (first, settled)).await?);
        }
        let learn = |meter: &String| LearntMeter::learn(meter, days, &totals, &histories);
        let mut meters: Vec<LearntMeter> = names.iter().filter_map(learn).collect();
        let from = meters.iter().map(|of| of.window(settled).0).min().unwrap_or(settled);
        let untagged = books.usage_by_customer(&[String::new()], &names, (from, settled)).await?;
        let none = DailyUsage::new();
        for of in &mut meters {
            of.untagged = dense(untagged.get("").unwrap_or(&none), &of.meter, of.window(settled));
        }
        let run = Self { settings, now, days, customers, meters, totals, undivided };
        Ok(Some(run).filter(|run| !run.meters.is_empty()))
    }

    pub fn settled_through(&self) -> Day {
        self.days.settled
    }

    /// All customers with usage, in parts that are forecast at once.
    pub fn pages(&self) -> impl Iterator<Item = &[String]> {
        self.customers.chunks(PAGE)
    }

    /// Each meter as a whole, and how good its forecasts are.
    pub fn meters(&self) -> Vec<MeterForecast> {
        self.meters.iter().map(|of| self.meter(of)).collect()
    }

    fn meter(&self, of: &LearntMeter) -> MeterForecast {
        let used = |first, last| sum(&self.totals, &of.meter, (first, last));
        let end = self.month_end(&of.as_a_whole, &of.all, &used);
        MeterForecast {
            forecast: UsageForecast::new("", &of.meter, self.days.month, end),
            accuracy: ForecastAccuracy {
                meter: of.meter.clone(),
                settled_through: self.days.settled,
                sampled: of.sampled,
                customers: self.customers.len(),
                by_customer: of.by_customer.backtest.clone(),
                as_a_whole: of.as_a_whole.backtest.clone(),
            },
            at: self.now,
        }
    }

    /// What is booked of the month, and its end.
    fn month_end(
        &self,
        model: &MeterModel,
        history: &[i128],
        used: &dyn Fn(Day, Day) -> Quantity,
    ) -> (Quantity, MonthEnd) {
        let Days { today, settled, month } = self.days;
        let (first, days) = (month.first_day(), self.days.to(month.last_day()));
        let rest = model.forecast(history, days).part(self.days.before(first)..days);
        let booked = used(first, today);
        (booked, MonthEnd::new(used(first, settled), booked, rest))
    }

    /// Days of meters as a whole, and of what is without a customer, that are far outside of what
    /// was expected.
    pub fn unusual(&self) -> Vec<UnusualDay> {
        let mut found = vec![];
        for of in &self.meters {
            let whole = of.usual_as_a_whole.find(&of.all, HistoryOf::Meter);
            found.extend(whole.map(|day| of.unusual(None, of.first, day, LikelyCause::Unknown)));
            let untagged = of.usual.find(&of.untagged, HistoryOf::Customer);
            let (from, _) = of.window(self.days.settled);
            let untagged = untagged.map(|day| of.unusual(Some(""), from, day, LikelyCause::TagChange));
            found.extend(untagged.filter(|of| self.is_divided(of)));
        }
        found
    }

    fn is_divided(&self, of: &UnusualDay) -> bool {
        !self.undivided.contains(&MeteredDay { meter: of.meter.clone(), day: of.day })
    }

    /// The forecasts of some customers. Who used nothing of a meter for six weeks has none.
    ///
    /// # Errors
    /// When the books cannot be read.
    pub async fn forecasts(&self, books: &Database, customers: &[String]) -> Result<FoundForecasts, BooksError> {
        let names: Vec<String> = self.meters.iter().map(|of| of.meter.clone()).collect();
        let first = self.meters.iter().map(|of| of.window(self.days.settled).0).min();
        let Some(first) = first else { return Ok(FoundForecasts::default()) };
        let usage = books.usage_by_customer(customers, &names, (first, self.days.today)).await?;
        let periods = books.current_periods(customers, self.now.as_second()).await?;
        let decided = books.entitlements_of(customers).await?;
        let decided: BTreeMap<(&str, &str), &Entitlement> =
            decided.iter().map(|of| ((of.customer.as_str(), of.meter.as_str()), of)).collect();
        let (mut found, mut unusual, mut expected) = (vec![], vec![], ExpectedOfCustomers::new());
        for (customer, usage) in &usage {
            for of in &self.meters {
                let customer_meter = CustomerMeter { customer, usage, of, run: self };
                let Some(history) = customer_meter.history() else { continue };
                unusual.extend(customer_meter.unusual(&history));
                let mut forecast = customer_meter.month_end(&history);
                if let Some(period) = periods.get(customer) {
                    let decided = decided.get(&(customer.as_str(), of.meter.as_str()));
                    let decided = decided.filter(|of| of.period_end > self.now);
                    let adds = customer_meter.period(&history, *period, decided.copied(), &mut forecast);
                    expected.entry(customer.clone()).or_default().insert(of.meter.clone(), adds);
                }
                found.push(forecast);
            }
        }
        if !self.settings.billing.meters.is_empty() {
            let lines = forecast_bills(books, &self.settings.billing, expected, self.now).await?;
            for of in &mut found {
                let line = lines.get(&(of.customer.clone(), of.meter.clone()));
                of.bill = line.map(|line| BillForecast { last_day: line.last_day, p50: line.p50, p90: line.p90 });
            }
        }
        Ok(FoundForecasts { forecasts: found, unusual })
    }
}

/// The sums of customers' bills, for each meter as a whole: those of P50, because the bound of a
/// sum is not the sum of the bounds. A meter that is billed in several currencies has none.
pub fn add_bills(sums: &mut BTreeMap<String, Vec<BillForecast>>, found: &[UsageForecast]) {
    for (meter, bill) in found.iter().filter_map(|of| Some((&of.meter, of.bill.as_ref()?))) {
        let of_meter = sums.entry(meter.clone()).or_default();
        match of_meter.iter_mut().find(|sum| sum.p50.currency == bill.p50.currency) {
            Some(sum) => {
                sum.p50.minor = sum.p50.minor.saturating_add(bill.p50.minor);
                sum.last_day = sum.last_day.max(bill.last_day);
            }
            None => of_meter.push(BillForecast { p90: None, ..bill.clone() }),
        }
    }
}

/// Fills in what [`add_bills`] has summed.
pub fn with_bills(meters: Vec<MeterForecast>, sums: &BTreeMap<String, Vec<BillForecast>>) -> Vec<MeterForecast> {
    let with_bill = |mut of: MeterForecast| {
        if let Some([one]) = sums.get(&of.forecast.meter).map(Vec::as_slice) {
            of.forecast.bill = Some(one.clone());
        }
        of
    };
    meters.into_iter().map(with_bill).collect()
}

impl LearntMeter {
    /// None for a meter of which nothing was used on settled days.
    fn learn(meter: &str, days: Days, totals: &DailyUsage, histories: &BTreeMap<String, DailyUsage>) -> Option<Self> {
        let used = |((of, day), _): &(&(String, Day), &Quantity)| of == meter && *day <= days.settled;
        let ((_, first), _) = totals.iter().find(used)?;
        let all = dense(totals, meter, (*first, days.settled));
        let of_customers = histories.values().map(|usage| dense(usage, meter, (*first, days.settled)));
        let series: Vec<Vec<i128>> = of_customers.filter(|days| days.iter().any(|used| *used > 0)).collect();
        let so_far = usize::try_from(days.settled.epoch() - days.month.first_day().epoch() + 1).unwrap_or(0);
        let histories: Vec<&[i128]> = series.iter().map(Vec::as_slice).collect();
        let horizon = Horizon { so_far, days: days.to(days.month.last_day()) };
        let one = [all.clone()];
        Some(Self {
            meter: meter.to_owned(),
            first: *first,
            by_customer: MeterModel::learn(Histories { first: *first, series: &series, all: &all }, horizon),
            as_a_whole: MeterModel::learn(Histories { first: *first, series: &one, all: &all }, horizon),
            usual: UsualDays::learn(&histories, &all),
            usual_as_a_whole: UsualDays::learn(&[&all], &all),
            sampled: series.len(),
            untagged: vec![],
            all,
        })
    }

    /// The days that a customer's forecast needs.
    fn window(&self, settled: Day) -> (Day, Day) {
        let days = i32::try_from(MeterModel::enough_from(self.all.len())).unwrap_or(0);
        (Day::from_epoch(self.first.epoch() + days).unwrap_or(self.first), settled)
    }

    /// A finding of a history that begins on a day.
    fn unusual(&self, customer: Option<&str>, first: Day, of: FoundDay, cause: LikelyCause) -> UnusualDay {
        let at = i32::try_from(of.at).unwrap_or(0);
        UnusualDay {
            meter: self.meter.clone(),
            customer: customer.map(str::to_owned),
            day: Day::from_epoch(first.epoch() + at).unwrap_or(first),
            used: Quantity::from_scaled(of.used),
            expected: Quantity::from_scaled(of.expected),
            cause,
        }
    }
}

/// A customer's meter in a run.
struct CustomerMeter<'a> {
    customer: &'a str,
    usage: &'a DailyUsage,
    of: &'a LearntMeter,
    run: &'a ForecastRun,
}

impl CustomerMeter<'_> {
    /// The newest settled days; none when nothing was used on them and since.
    fn history(&self) -> Option<Vec<i128>> {
        let Days { today, settled, .. } = self.run.days;
        let (first, _) = self.of.window(settled);
        let any = dense(self.usage, &self.of.meter, (first, today)).iter().any(|used| *used > 0);
        any.then(|| dense(self.usage, &self.of.meter, (first, settled)))
    }

    fn unusual(&self, history: &[i128]) -> Option<UnusualDay> {
        let day = self.of.usual.find(history, HistoryOf::Customer)?;
        let cause = match (self.of.usual.is_opposite(&self.of.untagged, &day), day.is_new) {
            (true, _) => LikelyCause::TagChange,
            (false, true) => LikelyCause::NewCustomer,
            (false, false) => LikelyCause::Unknown,
        };
        let (first, _) = self.of.window(self.run.days.settled);
        Some(self.of.unusual(Some(self.customer), first, day, cause)).filter(|of| self.run.is_divided(of))
    }

    fn used(&self, first: Day, last: Day) -> Quantity {
        sum(self.usage, &self.of.meter, (first, last))
    }

    fn month_end(&self, history: &[i128]) -> UsageForecast {
        let end = self.run.month_end(&self.of.by_customer, history, &|first, last| self.used(first, last));
        UsageForecast::new(self.customer, &self.of.meter, self.run.days.month, end)
    }

    /// What will be added to the billing period. Fills in the days on which amounts are used up.
    fn period(
        &self,
        history: &[i128],
        period: PeriodOfCustomer,
        decided: Option<&Entitlement>,
        forecast: &mut UsageForecast,
    ) -> ExpectedUsage {
        let Days { today, settled, .. } = self.run.days;
        let days = self.run.days.to(period.last);
        let ahead = self.of.by_customer.forecast(history, days);
        let skipped = self.run.days.before(period.first);
        let path = ahead.p50().enumerate().skip(skipped).filter_map(|(n, expected)| {
            let day = Day::from_epoch(settled.epoch() + i32::try_from(n).ok()? + 1)?;
            Some((day, Quantity::from_scaled(expected).max(self.used(day, day))))
        });
        let path = UsagePath {
            settled: self.used(period.first, settled),
            used: self.used(period.first, today),
            today,
            days: path.collect(),
        };
        if let Some(decided) = decided {
            let path = UsagePath { used: path.used.max(decided.used), ..path };
            forecast.included_on = path.uses_up(decided.included);
            forecast.limit_on = decided.effective_limit.and_then(|limit| path.uses_up(limit));
        }
        let rest = ahead.part(skipped..days);
        let next = Day::from_epoch(settled.epoch() + 1).unwrap_or(settled);
        let booked = self.used(period.first.max(next), today.min(period.last));
        let adds = |rest: i128| (Quantity::from_scaled(rest) - booked).max(Quantity::ZERO);
        ExpectedUsage { p50: adds(rest.p50), p90: rest.p90.map(adds) }
    }
}

fn day_of(now: Timestamp) -> Day {
    i32::try_from(now.as_second().div_euclid(86_400)).ok().and_then(Day::from_epoch).unwrap_or(Day::EPOCH)
}

/// The days of a meter from the first to the last, with those that have no usage.
fn dense(usage: &DailyUsage, meter: &str, (first, last): (Day, Day)) -> Vec<i128> {
    let mut days = vec![0; usize::try_from(last.epoch() - first.epoch() + 1).unwrap_or(0)];
    if first <= last {
        for ((_, day), quantity) in usage.range((meter.to_owned(), first)..=(meter.to_owned(), last)) {
            let at = usize::try_from(day.epoch() - first.epoch()).ok();
            if let Some(of_day) = at.and_then(|at| days.get_mut(at)) {
                *of_day = quantity.scaled();
            }
        }
    }
    days
}

fn sum(usage: &DailyUsage, meter: &str, (first, last): (Day, Day)) -> Quantity {
    if first > last {
        return Quantity::ZERO;
    }
    usage.range((meter.to_owned(), first)..=(meter.to_owned(), last)).map(|(_, quantity)| *quantity).sum()
}
