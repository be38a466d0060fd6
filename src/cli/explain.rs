//! `meter explain`: where a charge comes from, from the invoice line down to the lines of AWS's
//! bill, and to the objects and requests of a shared bucket.

use std::collections::{BTreeMap, BTreeSet};

use books::Database;
use books::shared_bucket::ReportSource;
use books::shared_bucket::reports::Reports;
use books::shared_bucket::shares::ShareState;
use books::shared_bucket::stored::{BookedShare, share_of};
use books::store::erased::ErasedIds;
use books::stripe::charge::BegunPeriod;
use books::stripe::comparison::ComparisonFilter;
use books::units::calendar::{Day, Month};
use books::units::quantity::Quantity;
use books::usage::entries::{BookedEntries, BookedVersion, EntriesFilter};
use books::usage::meter::Rules;
use clap::Args as ClapArgs;
use jiff::Timestamp;
use jobs::context::Context;
use jobs::ingest_cur::lines::{FoundLines, WantedLines, lines};
use jobs::job::Failure;
use jobs::push_stripe::DeferReason;
use jobs::shared_bucket::items::{FoundItems, WantedItems};
use jobs::{ingest_access_logs, ingest_inventory};

use super::billing_period::BillingPeriod;
use super::{known_customer, known_meter};
use crate::config::Config;
use crate::exit::{BadUsage, Exit};
use crate::print::explain::{Explained, ExplainedBill, ExplainedCharge, ExplainedMeter, ReadDay};
use crate::print::explain_share::ExplainedShare;
use crate::print::{self, explain as tables, reconcile};
use crate::wiring::{self, Open};

/// Lines of a bill that are listed; of more, only the sums are shown.
const MOST_LINES: usize = 100_000;

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// The customer's id
    customer: String,
    /// Only this meter, as usage names it [default: all meters with usage]
    #[arg(long, value_name = "NAME")]
    meter: Option<String>,
    /// Billing periods that begin in this month or on this day [default: the newest one that has
    /// begun]
    #[arg(long, alias = "month", value_name = "YYYY-MM[-DD]", conflicts_with = "day")]
    period: Option<BillingPeriod>,
    /// Only this day (UTC) of the meter, and for a shared bucket the customer's objects or requests
    #[arg(long, value_name = "YYYY-MM-DD", requires = "meter")]
    day: Option<Day>,
    /// Read the lines of AWS's bills again, and compare their sums with what is booked; the exit
    /// code is 3 when they differ
    #[arg(long)]
    lines: bool,
    /// With --day: so many objects or requests, the largest first, read from S3's reports again; 0
    /// reads none
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(0..=10_000))]
    items: u16,
    /// Print as JSON
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Print the entries of the ledger, and the lines, as one CSV table
    #[arg(long)]
    csv: bool,
}

/// What is explained: the days of a billing period, or one day.
struct Subject {
    period: Option<BegunPeriod>,
    /// The start of the period before it.
    before: Option<Timestamp>,
    first: Day,
    last: Day,
}

pub(crate) async fn run(args: Args, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    let books = wiring::open_books(config, Open::EXISTING).await?;
    known_customer::require_or_usage(&books, &args.customer).await?;
    let names: Vec<String> = config.meters.iter().map(|meter| meter.name.clone()).collect();
    let meters = match &args.meter {
        Some(meter) => {
            known_meter::require(config, meter)?;
            vec![meter.clone()]
        }
        None => names,
    };
    let subjects = subjects(&args, &books, now).await?;
    let context = wiring::context(config, books).await?;
    let erased = context.books.erased_ids().await?;
    let rules = config.checked_rules()?;
    let command = Explaining { args: &args, config, context: &context, rules, meters, erased, now };
    let mut explained = vec![];
    for subject in subjects {
        explained.push(command.explain(subject).await?);
    }
    if args.json {
        print::json(&explained)?;
    } else if args.csv {
        tables::csv(&explained)?;
    } else {
        for (at, one) in explained.iter().enumerate() {
            if at > 0 {
                print::out("");
            }
            tables::show(one, now);
        }
    }
    let differs = explained.iter().any(Explained::has_finding);
    Ok(if differs { Exit::NeedsAttention } else { Exit::Ok })
}

/// The billing periods that are meant, or the day.
async fn subjects(args: &Args, books: &Database, now: Timestamp) -> anyhow::Result<Vec<Subject>> {
    if let Some(day) = args.day {
        if day.end() > now {
            return Err(BadUsage(format!("{day} is not over")).into());
        }
        return Ok(vec![Subject { period: None, before: None, first: day, last: day }]);
    }
    let begun = books.begun_periods(&args.customer, now).await?;
    if begun.is_empty() {
        let why = format!(
            "`{}` has no billing period that has begun; `--meter NAME --day YYYY-MM-DD` explains one day of its usage",
            args.customer
        );
        return Err(BadUsage(why).into());
    }
    let all: Vec<Timestamp> = begun.iter().map(|period| period.starts_at).collect();
    let starts: Vec<String> = begun.iter().take(3).map(|period| period.starts_at.strftime("%F").to_string()).collect();
    let mut found: Vec<BegunPeriod> = match args.period {
        None => begun.into_iter().take(1).collect(),
        Some(wanted) => {
            let starts = wanted.starts();
            begun.into_iter().filter(|period| starts.contains(&period.starts_at.as_second())).collect()
        }
    };
    if found.is_empty() {
        let why =
            format!("no billing period of `{}` begins then; the newest begin on {}", args.customer, starts.join(", "));
        return Err(BadUsage(why).into());
    }
    found.reverse();
    let subject = |period: BegunPeriod| {
        let before = all.iter().copied().filter(|start| *start < period.starts_at).max();
        Subject { first: period.first_day, last: period.last_day, before, period: Some(period) }
    };
    Ok(found.into_iter().map(subject).collect())
}

/// A run of the command.
struct Explaining<'a> {
    args: &'a Args,
    config: &'a Config,
    context: &'a Context,
    rules: Rules,
    erased: ErasedIds,
    meters: Vec<String>,
    now: Timestamp,
}

/// Reports of shared buckets, by month.
type ReportsByMonth = BTreeMap<Month, Reports>;

impl Explaining<'_> {
    async fn explain(&self, subject: Subject) -> anyhow::Result<Explained> {
        let (books, customer) = (&self.context.books, &self.args.customer);
        let Subject { period, before, first, last } = subject;
        let filter = EntriesFilter { customer: customer.clone(), meters: self.meters.clone(), first, last };
        let BookedEntries { entries, versions } = books.booked_entries(filter).await?;
        let booked = books.booked_shares(first, last).await?;
        let booked: Vec<BookedShare> = booked.into_iter().filter(|share| self.meters.contains(&share.meter)).collect();
        let reports = self.reports(&booked).await?;
        let mut bills = vec![];
        for version in versions {
            let (found, not_read) = match self.args.lines && version.is_current {
                true => self.read(&version, first, last).await,
                false => (None, String::new()),
            };
            bills.push(ExplainedBill { version, found, not_read });
        }
        let mut charges = match &period {
            Some(period) => self.charges(period).await?,
            None => BTreeMap::new(),
        };
        let mut meters = vec![];
        for name in &self.meters {
            let entries: Vec<_> = entries.iter().filter(|entry| entry.meter == *name).cloned().collect();
            let of_meter: Vec<&BookedShare> = booked.iter().filter(|share| share.meter == *name).collect();
            let is_asked_for = self.args.meter.is_some();
            let has_something = |of: &ExplainedCharge| is_asked_for || !entries.is_empty() || of.has_something();
            let charge = charges.remove(name).filter(has_something);
            let mut meter = ExplainedMeter {
                meter: name.clone(),
                unit: self.config.units().get(name).cloned().unwrap_or_default(),
                booked: entries.iter().map(|entry| entry.quantity).sum(),
                charge,
                entries,
                days: vec![],
                shares: vec![],
            };
            meter.days = self.compared(&meter, &bills, &of_meter, &reports)?;
            if self.args.day.is_some() {
                meter.shares = self.shares(of_meter, &reports).await;
            }
            if is_asked_for || !meter.entries.is_empty() || meter.charge.is_some() || !meter.days.is_empty() {
                meters.push(meter);
            }
        }
        Ok(Explained { customer: customer.clone(), period, before, first, last, meters, bills })
    }

    /// Reads the lines of a bill again, or says why that is not possible.
    async fn read(&self, version: &BookedVersion, first: Day, last: Day) -> (Option<FoundLines>, String) {
        let (customer, meters) = (self.args.customer.clone(), self.meters.clone());
        let erased = self.erased.clone();
        let wanted = WantedLines { customer, erased, meters, first, last, most: MOST_LINES };
        match lines(self.context, version, wanted).await {
            Ok(found) => (Some(found), String::new()),
            Err(failure) => (None, format!("{:#}", failure.error())),
        }
    }

    /// What was billed of a period, by meter.
    async fn charges(&self, period: &BegunPeriod) -> anyhow::Result<BTreeMap<String, ExplainedCharge>> {
        let (books, billing) = (&self.context.books, &self.context.billing);
        let start = period.starts_at.as_second();
        let customer = Some(self.args.customer.clone());
        let billed = |name: &&String| billing.meters.contains_key(name.as_str());
        let meters: Vec<String> = self.meters.iter().filter(billed).cloned().collect();
        let filter = ComparisonFilter { customer, meters, starts: start..start + 1, limit: reconcile::MOST };
        let (compared, plans) = (books.compare(filter).await?, books.plans().await?);
        let charged = books.charged_period(&self.args.customer, period).await?;
        let mut found = BTreeMap::new();
        for compared in compared {
            let (meter, Some(mapping)) = (compared.meter.clone(), billing.meters.get(&compared.meter)) else {
                continue;
            };
            let plan = charged.plans.get(&meter).cloned().unwrap_or_default();
            let version = plans.at(&plan, start);
            let because =
                compared.deferred_reason.as_deref().and_then(DeferReason::named).map_or("", DeferReason::words);
            let charge = ExplainedCharge {
                terms: version.and_then(|plan| plan.meters.get(&meter)).copied(),
                currency: version.map(|plan| plan.currency.to_string()).unwrap_or_default(),
                plan,
                event_name: mapping.event_name.clone(),
                per_unit: mapping.per_unit,
                compared: reconcile::ReconciledPeriod::new(compared, billing),
                deferred_because: because.to_owned(),
                events: charged.events.iter().filter(|of| of.event.meter == meter).cloned().collect(),
            };
            found.insert(meter, charge);
        }
        Ok(found)
    }

    async fn reports(&self, booked: &[BookedShare]) -> anyhow::Result<ReportsByMonth> {
        let buckets: BTreeSet<String> = booked.iter().map(|share| share.bucket.clone()).collect();
        let buckets: Vec<String> = buckets.into_iter().collect();
        let months: BTreeSet<Month> = booked.iter().map(|share| share.day.month()).collect();
        let mut found = BTreeMap::new();
        for month in months {
            found.insert(month, self.context.books.reports(&buckets, month).await?);
        }
        Ok(found)
    }

    /// The booked days of a meter beside the sums of the lines that were read.
    fn compared(
        &self,
        meter: &ExplainedMeter,
        bills: &[ExplainedBill],
        booked: &[&BookedShare],
        reports: &ReportsByMonth,
    ) -> anyhow::Result<Vec<ReadDay>> {
        let factor = self.rules.meters.iter().find(|of| of.name == meter.meter).map(|of| of.factor).unwrap_or_default();
        let mut found = vec![];
        for bill in bills {
            let (Some(read), id) = (&bill.found, &bill.version.bill) else { continue };
            let of_bill = |payer: &str, month: Month| id.payer == payer && id.month == month;
            let entries = || meter.entries.iter().filter(|entry| of_bill(&entry.payer, entry.month));
            let sums: BTreeMap<Day, _> =
                read.days.iter().filter(|of| of.meter == meter.meter).map(|of| (of.day, of)).collect();
            let days: BTreeSet<Day> = entries().map(|entry| entry.day).chain(sums.keys().copied()).collect();
            for day in days {
                let own = booked.iter().filter(|share| share.day == day && of_bill(&share.payer, share.month));
                let apportioned = match self.apportioned(own.copied(), reports) {
                    Some(shares) => Some(shares.times(factor)?.0),
                    None => None,
                };
                let booked = entries().filter(|entry| entry.day == day).map(|entry| entry.quantity).sum();
                let sum = sums.get(&day);
                let quantity = sum.map(|sum| sum.quantity).unwrap_or_default();
                found.push(ReadDay {
                    day,
                    payer: id.payer.clone(),
                    month: id.month,
                    booked,
                    lines: sum.map(|sum| sum.lines).unwrap_or_default(),
                    amount: sum.map(|sum| sum.amount).unwrap_or_default(),
                    quantity,
                    apportioned,
                    difference: apportioned.map(|shares| booked - quantity - shares),
                });
            }
        }
        found.sort_by(|a, b| (a.day, &a.payer, a.month).cmp(&(b.day, &b.payer, b.month)));
        Ok(found)
    }

    /// What the customer has of a day of shared buckets, in the unit of the bill; none when the
    /// reports or the rule are others by now.
    fn apportioned<'s>(
        &self,
        shares: impl Iterator<Item = &'s BookedShare>,
        reports: &ReportsByMonth,
    ) -> Option<Quantity> {
        let mut sum = Quantity::ZERO;
        for share in shares.filter(|share| share.state == ShareState::Apportioned) {
            let rule = self.rules.shared_buckets.iter().find(|rule| rule.bucket == share.bucket)?;
            sum += share_of(share, rule, reports.get(&share.day.month())?, &self.args.customer)?.share;
        }
        Some(sum)
    }

    /// The shared buckets of a day, with the customer's objects or requests.
    async fn shares(&self, booked: Vec<&BookedShare>, reports: &ReportsByMonth) -> Vec<ExplainedShare> {
        let mut found = vec![];
        for share in booked {
            let rule = self.rules.shared_buckets.iter().find(|rule| rule.bucket == share.bucket);
            let remainder = rule.map(|rule| rule.remainder);
            let reports = reports.get(&share.day.month());
            let own = rule.zip(reports).and_then(|(rule, reports)| share_of(share, rule, reports, &self.args.customer));
            let has_some = own.as_ref().is_some_and(|own| own.weight > 0);
            let read = if self.args.items > 0 && has_some { self.items(share).await } else { Ok(None) };
            let (items, not_read) = match read {
                Ok(items) => (items, String::new()),
                Err(failure) => (None, format!("{:#}", failure.error())),
            };
            found.push(ExplainedShare { booked: share.clone(), remainder, own, items, not_read });
        }
        found
    }

    async fn items(&self, share: &BookedShare) -> Result<Option<FoundItems>, Failure> {
        let wanted = WantedItems {
            customer: self.args.customer.clone(),
            measure: share.measure,
            class: share.class.clone(),
            most: self.args.items.into(),
        };
        let (context, now) = (self.context, self.now);
        match share.measure.source() {
            ReportSource::Inventory => ingest_inventory::items(context, &share.bucket, share.day, wanted, now).await,
            ReportSource::AccessLogs => ingest_access_logs::items(context, &share.bucket, share.day, wanted, now).await,
        }
    }
}
