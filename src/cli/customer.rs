//! `meter customer`: lists, shows, adds and imports customers.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use books::customers::customer::{Customer, CustomerError, NewCustomer};
use clap::Subcommand;
use jiff::Timestamp;

use super::known_customer;
use crate::config::Config;
use crate::exit::{BadUsage, Exit};
use crate::print::{self, OutputFormat, decided::Runs};
use crate::wiring::{self, Open};

/// Columns that a CSV file may have.
const COLUMNS: [&str; 4] = ["id", "plan", "stripe_customer_id", "status"];

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// List customers
    List {
        /// Only those of this plan
        #[arg(long, value_name = "PLAN")]
        plan: Option<String>,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Show a customer: plan, status, subscriptions, billing periods, budgets, entitlements
    Show {
        /// The customer's id
        customer: String,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Add a customer, as the web backend does on sign-up; an existing one stays unchanged
    Add {
        /// The customer's id: the value of the cost allocation tag
        customer: String,
        /// The plan [default: core]
        #[arg(long, value_name = "PLAN")]
        plan: Option<String>,
        /// Stripe's customer id
        #[arg(long, value_name = "ID")]
        stripe_customer_id: Option<String>,
    },
    /// Add customers from a CSV file with the columns id, plan, stripe_customer_id and status; only
    /// id is required; all or none
    Import {
        /// The file
        file: PathBuf,
        /// Only check the file
        #[arg(long)]
        dry_run: bool,
    },
}

pub(crate) async fn run(action: Action, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    match action {
        Action::List { plan, json } => list(config, plan, OutputFormat::of(json)).await,
        Action::Show { customer, json } => show(config, &customer, OutputFormat::of(json), now).await,
        Action::Add { customer, plan, stripe_customer_id } => {
            let new = NewCustomer { id: customer, plan, stripe_customer_id, status: None };
            let added = add(config, vec![new]).await;
            added.map_err(|error| match error.downcast::<CustomerError>() {
                Ok(wrong @ CustomerError::Wrong { .. }) => BadUsage(wrong.to_string()).into(),
                Ok(other) => other.into(),
                Err(error) => error,
            })
        }
        Action::Import { file, dry_run: false } => import(config, &file).await,
        Action::Import { file, dry_run: true } => {
            let (customers, _) = read_csv(&file)?;
            print::out(&format!("{} customers could be read; nothing was added", print::count(customers.len())));
            Ok(Exit::Ok)
        }
    }
}

async fn list(config: &Config, plan: Option<String>, format: OutputFormat) -> anyhow::Result<Exit> {
    let books = wiring::open_books(config, Open::EXISTING).await?;
    let customers = books.customers(plan, None).await?;
    if format == OutputFormat::Json {
        print::json(&customers)?;
        return Ok(Exit::Ok);
    }
    if customers.is_empty() {
        print::out("there are no customers; the web backend makes them on sign-up, or `meter customer add|import`");
        return Ok(Exit::Ok);
    }
    let row = |c: Customer| vec![c.id, c.plan, c.status, c.stripe_customer_id.unwrap_or_default(), c.created_at];
    let rows = customers.into_iter().map(row).collect();
    print::table(&["customer", "plan", "status", "Stripe customer", "since"], rows);
    Ok(Exit::Ok)
}

async fn show(config: &Config, customer: &str, format: OutputFormat, now: Timestamp) -> anyhow::Result<Exit> {
    let books = wiring::open_books(config, Open::EXISTING).await?;
    known_customer::require(&books, customer).await?;
    let found = books.customers(None, Some(customer.to_owned())).await?;
    let [one] = &found[..] else { anyhow::bail!("the customer `{customer}` was removed just now") };
    let budgets = books.budgets(customer).await?;
    let decided = books.entitlements(Some(customer.to_owned())).await?;
    if format == OutputFormat::Json {
        print::json(&serde_json::json!({ "customer": one, "budgets": budgets, "entitlements": decided }))?;
        return Ok(Exit::Ok);
    }
    let stripe = |id: Option<&String>| id.map(|id| format!(", Stripe customer {id}")).unwrap_or_default();
    let of = stripe(one.stripe_customer_id.as_ref());
    print::out(&format!("{}: plan {}, {}, since {}{of}", one.id, one.plan, one.status, one.created_at));
    for s in &one.subscriptions {
        let (end, of) =
            (s.ended_at.map(|at| format!(", ended {at}")).unwrap_or_default(), stripe(s.stripe_customer.as_ref()));
        let since = format!("from {}, anchor {}{end}", s.started_at, s.anchor_at);
        print::out(&format!("subscription {}: {}, {since}{of}", s.id, s.status));
    }
    print::out("");
    let period = |p: &books::customers::customer::PeriodRow| {
        let state = match (p.closed, p.starts_at > now, p.ends_at <= now) {
            (true, ..) => "closed",
            (_, true, _) => "to come",
            (_, _, true) => "ended",
            _ => "current",
        };
        let days = if p.first_day > p.last_day { "none".into() } else { format!("{} to {}", p.first_day, p.last_day) };
        let of = p.subscription.clone().unwrap_or_else(|| "calendar month".into());
        vec![p.starts_at.to_string(), p.ends_at.to_string(), of, days, state.into()]
    };
    let titles = ["billing period from", "to before", "of", "days of usage", ""];
    print::table(&titles, one.periods.iter().map(period).collect());
    print::out("");
    print::budgets::current(&budgets);
    print::out("");
    let runs = Runs::read(&books, config, now).await?;
    print::entitlements::table(&decided, config, &runs);
    print::decided::show_to_come(&print::decided::to_come(&books, config, Some(customer.into()), now).await?, &runs);
    Ok(Exit::Ok)
}

async fn add(config: &Config, customers: Vec<NewCustomer>) -> anyhow::Result<Exit> {
    let books = wiring::open_books(config, Open::MIGRATED).await?;
    let count = u64::try_from(customers.len())?;
    let added = books.add_customers(customers).await?;
    let there = count - added;
    let rest =
        if there > 0 { format!("; {} existed and were left as they are", print::count(there)) } else { String::new() };
    print::out(&format!("{} customer(s) added{rest}", print::count(added)));
    Ok(Exit::Ok)
}

/// Adds the customers of a file.
async fn import(config: &Config, file: &Path) -> anyhow::Result<Exit> {
    let (customers, lines) = read_csv(file)?;
    match add(config, customers).await {
        Err(error) => match error.downcast_ref::<CustomerError>() {
            Some(CustomerError::Wrong { at, .. }) => {
                let line = lines.get(*at).copied().unwrap_or_default();
                Err(error.context(format!("{}:{line}: nobody was added", file.display())))
            }
            _ => Err(error),
        },
        done => done,
    }
}

/// The customers of a file, each with its line.
fn read_csv(file: &Path) -> anyhow::Result<(Vec<NewCustomer>, Vec<u64>)> {
    let name = file.display();
    let mut reader = csv::Reader::from_path(file).with_context(|| format!("{name}: it cannot be read"))?;
    let header = reader.headers().with_context(|| format!("{name}: it is no CSV file"))?.clone();
    if let Some(unknown) = header.iter().find(|column| !COLUMNS.contains(column)) {
        anyhow::bail!("{name}:1: there is no column `{unknown}`; the first line names columns: {}", COLUMNS.join(", "));
    }
    anyhow::ensure!(header.iter().any(|column| column == "id"), "{name}:1: the column `id` is missing");
    let (mut customers, mut lines) = (vec![], vec![]);
    for record in reader.records() {
        let record = record.with_context(|| format!("{name}: nobody was added"))?;
        let line = record.position().map_or(0, csv::Position::line);
        let customer = record.deserialize::<NewCustomer>(Some(&header));
        let mut customer = customer.with_context(|| format!("{name}:{line}: nobody was added"))?;
        for field in [&mut customer.plan, &mut customer.stripe_customer_id, &mut customer.status] {
            field.take_if(|text| text.is_empty());
        }
        customers.push(customer);
        lines.push(line);
    }
    Ok((customers, lines))
}
