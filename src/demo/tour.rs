//! The tour: a month of bills, booked, delivered again and restated; a bucket that all customers
//! share; a budget that is overrun; billing; a meeting that is measured; the audit; and an invoice.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, anyhow};
use books::units::calendar::Month;
use books::units::quantity::Quantity;
use books::usage::cost::{BookedCost, CostColumn, cost_meter};
use books::usage::ledger::Usage;
use fake_aws::Spec;
use jiff::{SignedDuration, Timestamp};
use jobs::context::Context;
use jobs::ingest_cur::{IngestCur, IngestOutcome, IngestReport};
use jobs::job::{Job, Mode};
use jobs::push_stripe::bill::Bills;
use jobs::roll_periods;

use super::generate::{share_bucket, spec_of, write_reports};
use super::step::{MINUTES, PRICE, on_purpose, result, step, usd};
use super::{budget, meeting, shared, stripe};
use crate::config::{Config, CostMeterConfig, DatabaseConfig, ExportConfig, FormatConfig, StripeConfig};
use crate::exit::Exit;
use crate::format::{change, money, two_decimals};
use crate::health::MADE_BY_DEMO;
use crate::plan_file::PlanFile;
use crate::print;
use crate::print::bill::View;
use crate::wiring::{self, Open};

/// Places of the bill's customers that have no row, so that the tour shows what happens to their
/// usage.
const UNKNOWN: [usize; 2] = [3, 4];
const FEWEST_DAYS: SignedDuration = SignedDuration::from_hours(3 * 24);
const BEFORE_MONTH_END: SignedDuration = SignedDuration::from_hours(1);

/// Runs the tour in a folder.
pub(super) async fn run(folder: &Path, clock: Timestamp) -> anyhow::Result<(Config, Exit)> {
    let now = billed_at(clock)?;
    let month = Month::of(now);
    let bucket = folder.join("bucket");
    let config = config(folder);
    let mut spec = spec_of(month, now)?;
    let shared_bucket = share_bucket(&mut spec, shared::BUCKET)?;
    let books = wiring::open_books(&config, Open::MIGRATED).await?;
    // its Stripe account lives in this process only
    books.put_setting(MADE_BY_DEMO, "1".into()).await?;
    let context = wiring::context(&config, books).await?;
    let job = || IngestCur::new("demo", month);
    print::out("A made-up AWS bill becomes limits and invoices, with faults made on purpose.");

    step(1, &format!("AWS delivers the bill of {month}, and meter books it"));
    let export = fake_aws::write(&bucket, &spec)?;
    let is_known = |place: &usize| !UNKNOWN.contains(place);
    for (_, customer) in export.customers.iter().enumerate().filter(|(place, _)| is_known(place)) {
        context.books.add_customer(customer).await?;
    }
    let unknown = UNKNOWN.map(|place| export.customers[place].as_str()).join(" and ");
    on_purpose(&format!(
        "{unknown} are no customers yet, some lines have no customer's tag, and some are of a product that no meter \
         counts."
    ));
    print::out("$ meter ingest");
    let first = ingest(job(), &context, now).await?;
    bill(&first, &config);

    step(2, "AWS delivers the same bill again");
    let again = ingest(job(), &context, now).await?;
    let unchanged = again.outcome == IngestOutcome::Unchanged;
    let what = if unchanged { "it is booked already; no data file was read" } else { "it was booked again" };
    let (minutes, charges) = (print::quantity(total(&first, MINUTES)), usd(charges(&first)));
    result(&format!("{what}. Still {minutes} minutes, {charges}."));

    step(3, "AWS restates the bill");
    on_purpose("AWS corrects amounts of past days, some up and some down.");
    fake_aws::write(&bucket, &Spec { restated: 1, ..spec.clone() })?;
    print::out("$ meter ingest --dry-run");
    let dry = ingest(IngestCur { dry_run: true, ..job() }, &context, now).await?;
    print::out(&format!("{} would be appended (dry run, nothing was written)", entries(dry.entries)));
    let before = ledger_entries(&context).await?;
    print::out("$ meter ingest");
    let restated = ingest(job(), &context, now).await?;
    print::out(&format!("{} are appended; {} stand as they were", entries(restated.entries), print::count(before)));
    result(&format!(
        "{} minutes, {} USD of AWS's charges.",
        change(booked_change(&restated, |meter| meter == MINUTES)),
        signed(booked_change(&restated, |meter| cost_meter(meter).is_some()))
    ));

    step(4, "Who used it");
    let charges = context.books.costs_in(month, None).await?;
    let charges: Vec<BookedCost> = charges.into_iter().map(|cost| cost.all).collect();
    customers(&context.books.usage(month, None).await?, &charges);

    step(5, "All customers share one bucket: S3's reports say who has how much of it");
    on_purpose("S3's reports lose some lines, and those of older days are not read.");
    write_reports(&shared_bucket, &folder.join(shared::REPORTS), (&spec, now))?;
    shared::read(&context, now).await?;
    shared::show(&ingest(job(), &context, now).await?);

    // no decision lies behind an earlier one
    let began = meeting::began(now)?;
    let (who, included) = plan(&context, month, began).await?;
    budget::show(&context, (&who, included), began).await?;

    let restate = async || -> anyhow::Result<()> {
        fake_aws::write(&bucket, &Spec { restated: 2, ..spec })?;
        ingest(job(), &context, now).await.map(|_| ())
    };
    let invoice = stripe::bill(&context, &config, now, restate).await?;

    meeting::block(&context, clock).await?;
    roll_periods::roll(&context.books, clock, Mode::Write).await?;

    step(15, "The proof: the books are audited");
    let audit = context.books.verify().await?;
    if !audit.is_sound() {
        print::audit::show(&audit);
    }
    print::out("$ meter verify");
    for of in &audit.billing {
        print::audit::billing(of).iter().for_each(|line| print::out(line));
    }
    let holds = if audit.is_sound() { "all" } else { "NOT all" };
    let of = audit.billing.iter().find(|of| of.meter == MINUTES).context("minutes are billed")?;
    let cents = of.money.get("USD").map_or(0, |money| money.billed);
    let (rules, minutes, cost) = (audit.checks.len(), print::quantity(of.billed), money(cents, "USD"));
    result(&format!("{holds} {rules} rules hold; {minutes} minutes are billed for {cost}."));

    step(16, &format!("The invoice of {who}"));
    print::out(&format!("$ meter bill {who}"));
    print::bill::show(&invoice, View::Lines, &config.units());
    let costs = context.books.costs_in(month, Some(who.clone())).await?;
    let cost: Quantity = costs.iter().map(|cost| cost.all.cost).sum();
    print::out("");
    result(&format!("{who} pays {}. AWS charges {} for what {who} used.", paid(&invoice), usd(cost)));
    Ok((config, print::audit::exit(&audit)))
}

/// When the bill is read: now, or at the end of the last month while this one has too few past
/// days to restate and to compare with reports.
fn billed_at(clock: Timestamp) -> anyhow::Result<Timestamp> {
    let began = Month::of(clock).first_day().start();
    let is_enough = began.checked_add(FEWEST_DAYS)? <= clock;
    Ok(if is_enough { clock } else { began.checked_sub(BEFORE_MONTH_END)? })
}

fn config(folder: &Path) -> Config {
    Config {
        exports: vec![ExportConfig {
            name: "demo".into(),
            location: folder.join("bucket").display().to_string(),
            format: FormatConfig::Auto,
            payer: "default".into(),
            region: None,
            endpoint: None,
        }],
        cost_meters: cost_meters(),
        shared_buckets: vec![shared::config(folder)],
        stripe: StripeConfig { meters: stripe::meters(), ..StripeConfig::default() },
        database: DatabaseConfig { url: folder.join("meter.db").display().to_string(), ..DatabaseConfig::default() },
        ..Config::default()
    }
}

/// What AWS charges for each meter.
fn cost_meters() -> Vec<CostMeterConfig> {
    let cost = |name: &str, of: &str| CostMeterConfig {
        name: name.into(),
        cost_of: Some(of.into()),
        products: vec![],
        usage_types: vec![],
        line_types: vec![],
        amount_column: CostColumn::Unblended.name().into(),
    };
    vec![cost("chime_cost", MINUTES), cost("storage_cost", "storage_gb"), cost("transfer_cost", "transfer_gb")]
}

async fn ingest(job: IngestCur, context: &Context, now: Timestamp) -> anyhow::Result<IngestReport> {
    job.run(context, now).await.map_err(|f| anyhow!("{:#}", f.error()))
}

fn entries(n: usize) -> String {
    if n == 1 { "1 ledger entry".to_owned() } else { format!("{} ledger entries", print::count(n)) }
}

/// What a customer pays.
fn paid(invoice: &Bills) -> String {
    let amounts = invoice.bills.iter().filter_map(|bill| Some(bill.amount?.written()));
    amounts.map(|amount| format!("{amount} USD")).collect::<Vec<_>>().join(", ")
}

/// What AWS charges for all usage of the bill.
fn charges(report: &IngestReport) -> Quantity {
    let costs = report.meters.iter().filter(|m| cost_meter(&m.totals.meter).is_some());
    costs.map(|m| m.totals.booked).sum()
}

/// Usage of a meter in the bill.
fn total(report: &IngestReport, meter: &str) -> Quantity {
    report.meters.iter().filter(|m| m.totals.meter == meter).map(|m| m.totals.booked).sum()
}

fn booked_change(report: &IngestReport, is_wanted: impl Fn(&str) -> bool) -> Quantity {
    let wanted = report.meters.iter().filter(|m| is_wanted(&m.totals.meter));
    wanted.map(|m| m.totals.booked - m.booked_before).sum()
}

/// A change of money.
fn signed(amount: Quantity) -> String {
    let sign = if amount > Quantity::ZERO { "+" } else { "" };
    format!("{sign}{}", two_decimals(amount))
}

/// Shows a booked bill: usage, and what AWS charges for it.
fn bill(report: &IngestReport, config: &Config) {
    let costs: Vec<(&str, Quantity)> = report
        .meters
        .iter()
        .filter_map(|m| {
            let (name, _) = cost_meter(&m.totals.meter)?;
            let of = config.cost_meters.iter().find(|cost| cost.name == name)?.cost_of.as_deref()?;
            Some((of, m.totals.booked))
        })
        .collect();
    let usage = report.meters.iter().filter(|m| cost_meter(&m.totals.meter).is_none());
    let row = |m: &jobs::ingest_cur::MeterChange| {
        let t = &m.totals;
        let cost = costs.iter().filter(|(of, _)| *of == t.meter).map(|(_, cost)| *cost).sum();
        let [customers, nobody, all] =
            [t.attributed + t.apportioned, t.unattributed, t.booked].map(|part| print::rounded(part, 2));
        vec![t.meter.clone(), customers, nobody, all, t.unit.clone(), two_decimals(cost)]
    };
    let titles = ["meter", ">of customers", ">without a tag", ">booked", "unit", ">AWS's USD"];
    print::table(&titles, usage.map(row).collect());
    for line in &report.unrecognised {
        let amount = print::rounded(line.amount, 2);
        print::out(&format!("counted by no meter: {amount} {} of {}", line.unit, line.product));
    }
    let minutes = print::quantity(total(report, MINUTES));
    result(&format!("{minutes} minutes are booked. For all meters AWS charges {}.", usd(charges(report))));
}

/// Customers that are named.
const SHOWN: usize = 3;

/// Shows the customers who used most, and usage that is no customer's.
fn customers(usage: &[Usage], charges: &[BookedCost]) {
    let storage = |customer: &str| -> Quantity {
        usage.iter().filter(|u| u.customer == customer && u.meter == "storage_gb").map(|u| u.quantity).sum()
    };
    let cost = |customer: &str| -> Quantity {
        charges.iter().filter(|cost| cost.customer == customer).map(|cost| cost.cost).sum()
    };
    let mut minutes: Vec<&Usage> = usage.iter().filter(|u| u.meter == MINUTES).collect();
    minutes.sort_by_key(|u| std::cmp::Reverse(u.quantity));
    let unknown = minutes.iter().filter(|u| !u.known);
    let shown = minutes.iter().filter(|u| u.known).take(SHOWN).chain(unknown);
    let row = |u: &&Usage| {
        let note = if u.known || u.customer.is_empty() { "" } else { "no customer row yet" };
        vec![
            print::customer(&u.customer).to_owned(),
            print::rounded(u.quantity, 2),
            print::rounded(storage(&u.customer), 2),
            two_decimals(cost(&u.customer)),
            note.to_owned(),
        ]
    };
    let mut rows: Vec<Vec<String>> = shown.map(row).collect();
    let others: Vec<&&Usage> = minutes.iter().filter(|u| u.known).skip(SHOWN).collect();
    if !others.is_empty() {
        let of_others = |of: &dyn Fn(&str) -> Quantity| others.iter().map(|u| of(&u.customer)).sum::<Quantity>();
        rows.insert(
            SHOWN,
            vec![
                format!("{} others", print::count(others.len())),
                print::rounded(others.iter().map(|u| u.quantity).sum(), 2),
                print::rounded(of_others(&storage), 2),
                two_decimals(of_others(&cost)),
                String::new(),
            ],
        );
    }
    print::table(&["customer", ">minutes", ">GB-months", ">AWS's USD", ""], rows);
    let sum = |is_wanted: fn(&Usage) -> bool| -> Quantity {
        minutes.iter().filter(|u| is_wanted(u)).map(|u| u.quantity).sum()
    };
    let known: BTreeSet<&str> = usage.iter().filter(|u| u.known).map(|u| u.customer.as_str()).collect();
    let known = charges.iter().filter(|cost| known.contains(&*cost.customer)).map(|cost| cost.cost).sum();
    result(&format!(
        "{} minutes are of customers, who cost {} at AWS. {} of unknown ids are kept for them, and {} have no tag.",
        print::quantity(sum(|u| u.known)),
        usd(known),
        print::quantity(sum(|u| !u.known && !u.customer.is_empty())),
        print::quantity(sum(|u| u.customer.is_empty()))
    ));
}

/// Minutes, credentials and prices of the demo's plan, made to fit its bill: half of what the
/// second customer used is included. Returns the largest customer, and the minutes.
async fn plan(context: &Context, month: Month, now: Timestamp) -> anyhow::Result<(String, Quantity)> {
    let usage = context.books.usage(month, None).await?;
    let mut chime: Vec<&Usage> = usage.iter().filter(|u| u.known && u.meter == MINUTES).collect();
    chime.sort_by_key(|u| std::cmp::Reverse(u.quantity));
    let [first, second, ..] = chime.as_slice() else { anyhow::bail!("the demo's bill has Chime minutes") };
    let hundreds = Quantity::parse("100").context("a number")?.0.scaled();
    let half = Quantity::from_scaled(second.quantity.scaled() / 2 / hundreds * hundreds);
    step(6, &format!("A plan, and a budget with which {} goes beyond it", first.customer));
    print::out("$ meter plan apply plans.toml");
    let toml = format!(
        "[[plans]]\nname = \"demo\"\ncurrency = \"USD\"\neffective_from = \"2020-01-01T00:00:00Z\"\n\
         [plans.meters]\nturn_allocations = {{ included = \"3\" }}\n\
         chime_minutes = {{ included = \"{half}\", price = \"{PRICE}\", report = \"overage\" }}\n\
         storage_gb = {{ included = \"5\" }}\ntransfer_gb = {{ included = \"100\" }}\n"
    );
    let rows = [
        [MINUTES, &print::quantity(half), &format!("{PRICE} USD a minute")],
        ["storage_gb", "5", "not for sale"],
        ["transfer_gb", "100", "not for sale"],
        ["turn_allocations", "3", "not for sale"],
    ];
    let rows = rows.map(|row| row.map(str::to_owned).to_vec()).to_vec();
    print::table(&["meter", ">included", "beyond it"], rows);
    let meters = [MINUTES, "storage_gb", "transfer_gb"].map(str::to_owned);
    let plans = PlanFile::read(Path::new("plans.toml"), toml, &meters).map_err(|faults| anyhow!("{faults:?}"))?.plans;
    context.books.apply_plans(plans, &meters, now).await?;
    context.books.put_all_on_plan("demo").await?;
    roll_periods::roll(&context.books, now, Mode::Write).await?;
    Ok((first.customer.clone(), half))
}

async fn ledger_entries(context: &Context) -> anyhow::Result<i64> {
    Ok(context.books.versions(None).await?.iter().map(|v| v.entries).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bill_of_few_days_is_left_for_that_of_the_last_month() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        for (clock, billed) in [
            ("2026-12-01T00:00:00Z", "2026-11-30T23:00:00Z"),
            ("2026-12-03T23:59:59Z", "2026-11-30T23:00:00Z"),
            ("2026-12-04T00:00:00Z", "2026-12-04T00:00:00Z"),
            ("2027-01-01T05:00:00Z", "2026-12-31T23:00:00Z"),
        ] {
            assert_eq!(billed_at(at(clock)).unwrap(), at(billed), "{clock}");
        }
    }
}
