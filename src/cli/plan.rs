//! `meter plan`: plans, their included amounts and their prices.

mod simulate;

use std::path::{Path, PathBuf};

use books::Database;
use books::limits::plan::{Applied, Plan, PlanError, Plans, ReportMode};
use books::units::similar::offer;
use clap::Subcommand;
use jiff::Timestamp;
use jobs::stripe::StripeMode;
use jobs::stripe::check::{AccountObjects, check_prices, check_unbilled};
use jobs::stripe::transport::CallError;
use schemars::JsonSchema;
use serde::Serialize;

use super::agreement::{self, Agreement};
use crate::config::Config;
use crate::exit::{BadUsage, Exit, FileFaults};
use crate::plan_file::PlanFile;
use crate::print::{self, OutputFormat, WithUnits};
use crate::visible;
use crate::wiring::{self, Open};
use crate::wording;

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// List every version of every plan, or of one
    List {
        /// Only this plan
        plan: Option<String>,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Add the plan versions of a file (see plans.toml in the sources); all or none; applying a
    /// file twice changes nothing. Warns of prices that are billed nowhere, and, with a key, of
    /// those that Stripe does not have
    Apply {
        /// The file
        file: PathBuf,
        /// Only print what would be done
        #[arg(long)]
        dry_run: bool,
        /// Do not ask when bills change
        #[arg(long, conflicts_with = "dry_run")]
        yes: bool,
        /// Print as JSON; nobody is asked
        #[arg(long)]
        json: bool,
    },
    /// Show what the plans of a file would have made of past billing periods: what each customer
    /// would have paid, who would have come to a limit. Nothing is changed
    Simulate(simulate::Args),
}

pub(crate) async fn run(action: Action, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    match action {
        Action::List { plan, json } => list(config, plan.as_deref(), OutputFormat::of(json), now).await,
        Action::Apply { file, dry_run, yes, json } => {
            let consent = match (dry_run, yes) {
                (true, _) => Consent::NothingIsDone,
                (_, true) => Consent::Given,
                _ if json => Consent::NotGiven,
                _ => Consent::Asked,
            };
            apply(config, &file, (consent, OutputFormat::of(json)), now).await
        }
        Action::Simulate(args) => simulate::run(args, config, now).await,
    }
}

/// What a file with faults did.
const NOTHING_DONE: &str = "; nothing was applied";

/// Whether plans may be applied that change bills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Consent {
    /// A dry run.
    NothingIsDone,
    Given,
    /// A person at a terminal is asked.
    Asked,
    /// Nobody is asked.
    NotGiven,
}

/// What became of the plans of a file.
#[derive(JsonSchema, Serialize)]
pub(super) struct AppliedPlans {
    /// Nothing was written.
    dry_run: bool,
    versions: Vec<AppliedVersion>,
    /// Customers with another bill of the last month, had these plans held then.
    changed_bills: usize,
    /// What cannot be right in the plans.
    warnings: Vec<String>,
}

/// What became of a version of a plan.
#[derive(JsonSchema, Serialize)]
pub(super) struct AppliedVersion {
    plan: String,
    effective_from: Timestamp,
    outcome: Applied,
}

async fn apply(
    config: &Config,
    file: &Path,
    (consent, format): (Consent, OutputFormat),
    now: Timestamp,
) -> anyhow::Result<Exit> {
    let name = visible::path(file);
    let read = read(file, config, NOTHING_DONE)?;
    let plans = read.plans.clone();
    let prices_cost = |plan: &Plan| {
        Some((plan.name.clone(), config.cost_names().into_keys().find(|name| plan.meters.contains_key(name))?))
    };
    if let Some((plan, cost)) = plans.iter().find_map(prices_cost) {
        let why = format!("`{cost}` is a cost meter: what AWS charges is no usage, and has no price and no limit");
        return Err(BadUsage(format!("{name}: plan `{plan}`: {why}; nothing was applied")).into());
    }
    let versions: Vec<String> = plans.iter().map(|p| format!("{} from {}", p.name, p.effective_from)).collect();
    let dry_run = consent == Consent::NothingIsDone;
    let open = if dry_run { Open::DRY_RUN } else { Open::MIGRATED };
    let books = wiring::open_books(config, open).await?;
    let meters: Vec<String> = config.meters.iter().map(|m| m.name.clone()).collect();
    let wrong = |error| refused(file, &read, error);
    let preview = books.preview_plans(&plans, &meters, now).await.map_err(wrong)?;
    let new = plans.iter().zip(&preview).filter(|(_, applied)| **applied != Applied::Unchanged);
    let new: Vec<Plan> = new.map(|(plan, _)| plan.clone()).collect();
    let Some(changed_bills) = agreed(config, &books, (file, &new), (consent, format), now).await? else {
        print::out("nothing was applied");
        return Ok(Exit::Failed);
    };
    let applied = match dry_run {
        true => preview,
        false => books.apply_plans(plans.clone(), &meters, now).await.map_err(wrong)?,
    };
    if format == OutputFormat::Json {
        let version = |(plan, outcome): (&Plan, Applied)| AppliedVersion {
            plan: plan.name.clone(),
            effective_from: plan.effective_from,
            outcome,
        };
        let versions = plans.iter().zip(applied).map(version).collect();
        let warnings = warnings(config, &books, &plans, now).await?;
        print::json(&AppliedPlans { dry_run, versions, changed_bills, warnings })?;
        return Ok(Exit::Ok);
    }
    let would = if dry_run { "would be " } else { "" };
    let any = applied.iter().any(|applied| *applied != Applied::Unchanged);
    for (version, applied) in versions.iter().zip(applied) {
        let what = match applied {
            Applied::New => format!("{would}added"),
            Applied::Unchanged => "is there already".to_owned(),
            Applied::Replaced => format!("{would}replaced; it does not hold yet"),
        };
        print::out(&format!("{version}: {what}"));
    }
    if any && !dry_run {
        let next = print::decided::Runs::read(&books, config, now).await?.next();
        print::out(&format!("limits follow: {next}"));
    }
    warnings(config, &books, &plans, now).await?.iter().for_each(|warning| print::out(warning));
    Ok(Exit::Ok)
}

/// Shows what new versions would have made of the last month. Returns how many customers' bills
/// that changes, if the versions may be applied.
async fn agreed(
    config: &Config,
    books: &Database,
    (file, new): (&Path, &[Plan]),
    (consent, format): (Consent, OutputFormat),
    now: Timestamp,
) -> anyhow::Result<Option<usize>> {
    if new.is_empty() || config.stripe.meters.is_empty() {
        return Ok(Some(0));
    }
    let found = simulate::last_month(config, books, (file, new), now).await?;
    let changed = found.by_customer().values().filter(|(now, then)| now != then).count();
    if changed == 0 || (format == OutputFormat::Json && consent != Consent::NotGiven) {
        return Ok(Some(changed));
    }
    let nobody = "bills change, and nobody can be asked: look at it, then apply with --yes";
    if consent == Consent::NotGiven {
        return Err(BadUsage(nobody.to_owned()).into());
    }
    let bills = print::several(changed, "customer");
    print::out(&format!("with these plans the last month's bills of {bills} would have been others:"));
    print::simulation::sums(&found);
    print::out(&format!("`meter plan simulate {}` shows them customer by customer", file.display()));
    let agreement = match consent {
        Consent::NothingIsDone | Consent::Given => Agreement::Given,
        Consent::Asked | Consent::NotGiven => Agreement::Asked,
    };
    Ok(agreement::agreed(agreement, "apply it?", nobody)?.then_some(changed))
}

/// The plan versions of a file.
fn read(file: &Path, config: &Config, outcome: &str) -> anyhow::Result<PlanFile> {
    let name = visible::path(file);
    let text = std::fs::read_to_string(file)
        .map_err(|e| BadUsage(format!("{name}: it cannot be read: {}", wording::of_io(&e))))?;
    let meters: Vec<String> = config.meters.iter().map(|m| m.name.clone()).collect();
    Ok(PlanFile::read(file, text, &meters).map_err(|faults| wrong(file, faults, outcome))?)
}

fn wrong(file: &Path, faults: Vec<String>, outcome: &str) -> FileFaults {
    let count = print::several(faults.len(), "fault");
    FileFaults { head: format!("{} has {count}{outcome}", visible::path(file)), faults }
}

/// The error of plans that cannot be beside those that are stored, with their lines.
fn refused(file: &Path, plans: &PlanFile, error: PlanError) -> anyhow::Error {
    match error {
        PlanError::Wrong(faults) => {
            wrong(file, faults.iter().map(|fault| plans.place(fault)).collect(), NOTHING_DONE).into()
        }
        other => other.into(),
    }
}

/// What cannot be right in the plans that were applied, or would be: prices that are billed
/// nowhere, and, with a key, prices that Stripe does not have.
async fn warnings(config: &Config, books: &Database, given: &[Plan], now: Timestamp) -> anyhow::Result<Vec<String>> {
    let all = books.plans().await?.with(given);
    let plans = Plans::new(all.iter().filter(|p| given.iter().any(|g| g.name == p.name)).cloned());
    let mut found = print::plan_warnings(&check_unbilled(&plans, now));
    if config.stripe.meters.is_empty() && given.iter().any(|plan| plan.meters.values().any(|of| of.price.is_some())) {
        found.push("note: the prices count for budgets, and nothing is billed: stripe.meters names no meter".into());
    }
    let billing = wiring::billing(&config.stripe)?;
    let StripeMode::Stripe(account) = &billing.mode else {
        found.extend(in_tiers(&plans, now));
        return Ok(found);
    };
    if billing.meters.is_empty() {
        return Ok(found);
    }
    let asked = async { Ok::<_, CallError>((account.meters().await?.0, account.prices().await?)) };
    match asked.await {
        Ok((meters, prices)) => {
            let known = books.fixed_stripe_meters().await?;
            let objects = AccountObjects { meters: &meters, prices: &prices, known: &known };
            found.extend(print::plan_warnings(&check_prices(&billing, objects, &plans, now)));
        }
        Err(error) => found
            .push(format!("note: the prices at Stripe were not compared: {error}; `meter stripe check` compares them")),
    }
    Ok(found)
}

/// Names the meters that Stripe must bill in tiers. Without a key nobody can look whether it does.
fn in_tiers(plans: &Plans, now: Timestamp) -> Vec<String> {
    let of_plan = |plan: &&Plan| -> Vec<String> {
        let tiers = plan.meters.iter().filter(|(_, t)| t.report == ReportMode::Total && !t.included.is_zero());
        tiers
            .map(|(meter, t)| format!("{meter} in plan {}: {} of it", plan.name, print::quantity(t.included)))
            .collect()
    };
    let note = |included: String| {
        format!(
            "note: {included} are included and all usage is reported, so Stripe's price must be one in tiers; `meter stripe check` looks"
        )
    };
    plans.from(now).iter().flat_map(of_plan).map(note).collect()
}

async fn list(config: &Config, plan: Option<&str>, format: OutputFormat, now: Timestamp) -> anyhow::Result<Exit> {
    let books = wiring::open_books(config, Open::EXISTING).await?;
    let all = books.plans().await?;
    let chosen: Vec<&Plan> = all.iter().filter(|p| plan.is_none_or(|name| p.name == name)).collect();
    if let (Some(name), true) = (plan, chosen.is_empty()) {
        return Err(BadUsage(format!("there is no plan `{name}`; {}", offer(name, all.names()))).into());
    }
    if format == OutputFormat::Json {
        print::json(&chosen.into_iter().map(|plan| WithUnits::new(plan, config)).collect::<Vec<_>>())?;
        return Ok(Exit::Ok);
    }
    for plan in chosen {
        print::out(&format!(
            "{} from {} ({}), {}",
            plan.name,
            plan.effective_from,
            plan.currency,
            holds(&all, plan, now)
        ));
        let row = |(meter, terms): (&String, &books::limits::plan::Terms)| {
            let price = terms.price.map_or("no more".to_owned(), |p| format!("{p} {}", plan.currency));
            let billed = terms.price.is_none() || terms.billed_price(meter).is_some();
            let price = if billed { price } else { format!("no more ({price} is billed nowhere)") };
            vec![format!("  {meter}"), print::quantity(terms.included), price, terms.report.name().to_owned()]
        };
        print::table(&["  meter", ">included", ">each unit more", "to Stripe"], plan.meters.iter().map(row).collect());
    }
    Ok(Exit::Ok)
}

fn holds(all: &Plans, plan: &Plan, now: Timestamp) -> &'static str {
    if plan.effective_from > now {
        "to come"
    } else if all.at(&plan.name, now.as_second()) == Some(plan) {
        "for billing periods that begin now"
    } else {
        "for periods that began before the next version"
    }
}
