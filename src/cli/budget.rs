//! `meter budget`: the most that a customer pays for overage.

use books::Database;
use books::limits::budget::{BudgetChange, BudgetError};
use books::limits::plan::TURN;
use books::units::money::Currency;
use clap::Subcommand;
use jiff::Timestamp;

use super::{known_customer, known_meter};
use crate::config::Config;
use crate::exit::{BadUsage, Exit};
use crate::print::{self, BudgetRow, decided::Runs};
use crate::wiring::{self, Open};

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Limit the cost of a customer's overage in each billing period, of all meters or of one, from
    /// the next enforcement on
    Set {
        /// The customer's id
        customer: String,
        /// The amount, as 12.50; 0 = nothing beyond the plan
        amount: String,
        /// Only for this meter
        #[arg(long, value_name = "METER")]
        meter: Option<String>,
        /// Its currency; it must be the plan's [default: the plan's]
        #[arg(long, value_name = "CODE")]
        currency: Option<Currency>,
        /// Who sets it; kept in the history
        #[arg(long, value_name = "WHO", env = "USER", hide_env_values = true, default_value = "operator")]
        by: String,
        /// Print the customer's budgets as JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove a budget
    Remove {
        /// The customer's id
        customer: String,
        /// The budget of this meter instead of the one for all
        #[arg(long, value_name = "METER")]
        meter: Option<String>,
        /// Who removes it; kept in the history
        #[arg(long, value_name = "WHO", env = "USER", hide_env_values = true, default_value = "operator")]
        by: String,
        /// Print the customer's budgets as JSON
        #[arg(long)]
        json: bool,
    },
    /// Show a customer's budgets
    Show {
        /// The customer's id
        customer: String,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Show every change of a customer's budgets, with its time and author
    History {
        /// The customer's id
        customer: String,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
}

pub(crate) async fn run(action: Action, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    let books = wiring::open_books(config, Open::EXISTING).await?;
    match &action {
        Action::Set { customer, .. } | Action::Remove { customer, .. } | Action::Show { customer, .. } => {
            known_customer::require(&books, customer).await?;
        }
        // the history outlives the customer
        Action::History { .. } => {}
    }
    match action {
        Action::Set { customer, amount, meter, currency, by, json } => {
            let meter = known(config, meter)?;
            let own = own_currency(&books, &customer).await?;
            let minor = own.read(&amount).map_err(|e| BadUsage(e.to_string()))?;
            let currency = currency.unwrap_or(own);
            let what = if meter.is_empty() { "all overage".to_owned() } else { format!("overage of {meter}") };
            let amount_minor = Some(minor);
            let change = BudgetChange { customer: customer.clone(), meter, amount_minor, currency, set_by: by };
            books.set_budget(change, now).await.map_err(refused)?;
            if json {
                print::json(&BudgetRow::all(books.budgets(&customer).await?))?;
                return Ok(Exit::Ok);
            }
            print::out(&format!(
                "{customer}: {what} may cost {} {own} in each billing period. That counts from {}.",
                own.written(minor),
                Runs::read(&books, config, now).await?.next()
            ));
        }
        Action::Remove { customer, meter, by, json } => {
            let meter = known(config, meter)?;
            let own = own_currency(&books, &customer).await?;
            if !books.budgets(&customer).await?.iter().any(|b| b.meter == meter) {
                anyhow::bail!("{customer} has no such budget; `meter budget show {customer}` shows all");
            }
            let change =
                BudgetChange { customer: customer.clone(), meter, amount_minor: None, currency: own, set_by: by };
            books.set_budget(change, now).await.map_err(refused)?;
            if json {
                print::json(&BudgetRow::all(books.budgets(&customer).await?))?;
                return Ok(Exit::Ok);
            }
            let next = Runs::read(&books, config, now).await?.next();
            print::out(&format!("{customer}: the budget is taken away. That counts from {next}."));
        }
        Action::Show { customer, json } => {
            let budgets = books.budgets(&customer).await?;
            if json {
                print::json(&BudgetRow::all(budgets))?;
            } else {
                print::budgets::current(&budgets);
                print::budgets::not_counted(&budgets, &Runs::read(&books, config, now).await?);
            }
        }
        Action::History { customer, json } => {
            let budgets = books.budget_history(&customer).await?;
            if budgets.is_empty() {
                known_customer::require(&books, &customer).await?;
            }
            if json { print::json(&BudgetRow::all(budgets))? } else { print::budgets::history(&budgets) }
        }
    }
    Ok(Exit::Ok)
}

/// The named meter, or `""` for all.
fn known(config: &Config, meter: Option<String>) -> Result<String, BadUsage> {
    let Some(meter) = meter else { return Ok(String::new()) };
    known_meter::require_of(config.meters.iter().map(|m| m.name.as_str()).chain([TURN]), &meter)?;
    Ok(meter)
}

async fn own_currency(books: &Database, customer: &str) -> anyhow::Result<Currency> {
    Ok(books.currency_of(customer).await.map_err(refused)?.currency)
}

/// A customer that does not exist is bad usage, and so is a currency or an amount that the plan
/// does not allow.
fn refused(error: BudgetError) -> anyhow::Error {
    match error {
        BudgetError::NoCustomer(_) | BudgetError::Currency { .. } | BudgetError::Amount | BudgetError::Fraction(..) => {
            BadUsage(error.to_string()).into()
        }
        other => other.into(),
    }
}
