//! `meter customer`: lists, shows, finds, adds, imports, changes and erases customers.

pub(super) mod add;
pub(super) mod erase;
pub(super) mod import;
mod set;

use std::path::PathBuf;

use books::customers::customer::{Customer, CustomerError, NewCustomer, PeriodRow};
use books::limits::plan::DEFAULT_PLAN;
use books::store::audit_log::AuditRecord;
use clap::Subcommand;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::known_customer;
use crate::config::Config;
use crate::exit::{BadUsage, Exit};
use crate::print::{self, BudgetRow, EntitlementRow, OutputFormat, WithUnits, decided::Runs};
use crate::wiring::{self, Open};

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// List customers
    List {
        /// Only those of this plan
        #[arg(long, value_name = "PLAN")]
        plan: Option<String>,
        /// Print as JSON
        #[arg(long, conflicts_with = "csv")]
        json: bool,
        /// Print as CSV, with the columns that `meter customer import` reads
        #[arg(long)]
        csv: bool,
    },
    /// Find customers by a part of their id, display name or Stripe id; capitals and small letters
    /// are the same
    Search {
        /// The part
        text: String,
        /// The most customers listed
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: u32,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Show a customer: plan, status, subscriptions, billing periods, budgets, entitlements, and
    /// what people changed by hand
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
        /// The display name
        #[arg(long, value_name = "TEXT")]
        name: Option<String>,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Change a customer's plan, status, Stripe id or display name; kept in audit_log
    Set(set::Args),
    /// Add customers from a CSV file with the columns id, plan, stripe_customer_id, status and
    /// display_name; only id is required; all or none
    Import {
        /// The file
        file: PathBuf,
        /// Also give known customers the values of the file. What the file has no column for, and
        /// what is empty in it, stays as it is
        #[arg(long)]
        update: bool,
        /// Only check the file; with --update also say what it would change
        #[arg(long)]
        dry_run: bool,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Erase a customer's personal data for good: a random pseudonym takes the place of the id in
    /// every table, and the sums of the books stay. docs/customers.md says what remains, and where
    Erase(erase::Args),
}

/// A customer with what was decided about it.
#[derive(JsonSchema, Serialize)]
pub(super) struct CustomerDetails<'a> {
    customer: &'a Customer,
    budgets: Vec<BudgetRow>,
    entitlements: Vec<EntitlementRow>,
    /// What people did with it.
    audit: Vec<AuditRecord>,
}

pub(crate) async fn run(action: Action, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    match action {
        Action::List { plan, json: _, csv: true } => as_csv(config, plan).await,
        Action::List { plan, json, csv: false } => list(config, plan, OutputFormat::of(json)).await,
        Action::Search { text, limit, json } => search(config, &text, limit, OutputFormat::of(json)).await,
        Action::Show { customer, json } => show(config, &customer, OutputFormat::of(json), now).await,
        Action::Add { customer, plan, stripe_customer_id, name, json } => {
            let is_default = plan.is_none();
            let new = NewCustomer { id: customer, plan, stripe_customer_id, status: None, display_name: name };
            let added = add::add(config, vec![new]).await.map_err(bad_usage)?;
            added.show(OutputFormat::of(json))?;
            if is_default && !json && added.added > 0 {
                print::out(&format!("the plan is `{DEFAULT_PLAN}`; `meter customer set` gives another one"));
            }
            Ok(Exit::Ok)
        }
        Action::Set(args) => set::run(args, config, now).await,
        Action::Import { file, update, dry_run, json } => {
            let import = import::Import { file: &file, dry_run, format: OutputFormat::of(json) };
            if update { import::update(config, import, now).await } else { import::add(config, import).await }
        }
        Action::Erase(args) => erase::run(args, config, now).await,
    }
}

/// What is wrong with a customer that the command line names is bad usage.
fn bad_usage(error: anyhow::Error) -> anyhow::Error {
    match error.downcast::<CustomerError>() {
        Ok(wrong @ CustomerError::Wrong(_)) => BadUsage(wrong.to_string()).into(),
        Ok(other) => other.into(),
        Err(error) => error,
    }
}

fn table(customers: Vec<Customer>) {
    let row = |c: Customer| {
        let (name, stripe) = (c.display_name.unwrap_or_default(), c.stripe_customer_id.unwrap_or_default());
        vec![c.id, name, c.plan, c.status, stripe, c.created_at]
    };
    let rows = customers.into_iter().map(row).collect();
    print::table(&["#customer", "3~name", "plan", "status", "2Stripe customer", "1since"], rows);
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
    table(customers);
    Ok(Exit::Ok)
}

async fn as_csv(config: &Config, plan: Option<String>) -> anyhow::Result<Exit> {
    let books = wiring::open_books(config, Open::EXISTING).await?;
    let titles = ["id", "plan", "stripe_customer_id", "status", "display_name"];
    let row = |of: Customer| {
        let (stripe, name) = (of.stripe_customer_id.unwrap_or_default(), of.display_name.unwrap_or_default());
        vec![of.id, of.plan, stripe, of.status, name]
    };
    print::csv(&titles, books.customers(plan, None).await?.into_iter().map(row))?;
    Ok(Exit::Ok)
}

async fn search(config: &Config, text: &str, limit: u32, format: OutputFormat) -> anyhow::Result<Exit> {
    if text.is_empty() {
        return Err(BadUsage("an empty text is in everything; `meter customer list` shows all customers".into()).into());
    }
    let books = wiring::open_books(config, Open::EXISTING).await?;
    let found = books.search_customers(text, limit).await?;
    if format == OutputFormat::Json {
        print::json(&found)?;
        return Ok(Exit::Ok);
    }
    if found.customers.is_empty() && found.more == 0 {
        print::out(&format!("no customer has `{text}` in the id, the display name or the Stripe id"));
        return Ok(Exit::Ok);
    }
    table(found.customers);
    if found.more > 0 {
        print::out(&format!("and {} more; --limit shows them", print::count(found.more)));
    }
    Ok(Exit::Ok)
}

async fn show(config: &Config, customer: &str, format: OutputFormat, now: Timestamp) -> anyhow::Result<Exit> {
    let books = wiring::open_books(config, Open::EXISTING).await?;
    known_customer::require(&books, customer).await?;
    let found = books.customers(None, Some(customer.to_owned())).await?;
    let [one] = &found[..] else { anyhow::bail!("the customer `{customer}` was removed just now") };
    let budgets = books.budgets(customer).await?;
    let decided = books.entitlements(Some(customer.to_owned())).await?;
    let acts = books.audit(format!("customer {customer}")).await?;
    if format == OutputFormat::Json {
        let (budgets, entitlements) = (BudgetRow::all(budgets), EntitlementRow::all(decided));
        let found = CustomerDetails { customer: one, budgets, entitlements, audit: acts };
        print::json(&WithUnits::new(found, config))?;
        return Ok(Exit::Ok);
    }
    let stripe = |id: Option<&String>| id.map(|id| format!(", Stripe customer {id}")).unwrap_or_default();
    let of = stripe(one.stripe_customer_id.as_ref());
    let name = one.display_name.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
    print::out(&format!("{}{name}: plan {}, {}, since {}{of}", one.id, one.plan, one.status, one.created_at));
    for s in &one.subscriptions {
        let (end, of) =
            (s.ended_at.map(|at| format!(", ended {at}")).unwrap_or_default(), stripe(s.stripe_customer.as_ref()));
        let since = format!("from {}, anchor {}{end}", s.started_at, s.anchor_at);
        print::out(&format!("subscription {}: {}, {since}{of}", s.id, s.status));
    }
    print::out("");
    periods(&one.periods, now);
    print::out("");
    print::budgets::current(&budgets);
    print::out("");
    let runs = Runs::read(&books, config, now).await?;
    print::entitlements::table(&decided, config, &runs);
    print::decided::show_to_come(&print::decided::to_come(&books, config, Some(customer.into()), now).await?, &runs);
    for act in acts {
        print::out(&format!("{} {} did `{}`: {}", act.at, act.actor, act.action, act.reason));
    }
    Ok(Exit::Ok)
}

fn periods(periods: &[PeriodRow], now: Timestamp) {
    let period = |p: &PeriodRow| {
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
    let titles = ["billing period from", "to before", "2of", "1days of usage", "~"];
    print::table(&titles, periods.iter().map(period).collect());
}
