//! `meter customer set`: changes a customer by hand.

use books::customers::changes::{ByHand, ChangedCustomer, ChangedField, CustomerChange, CustomerField};
use clap::{ArgGroup, Args as ClapArgs};
use jiff::Timestamp;

use super::bad_usage;
use crate::cli::{actor, known_customer};
use crate::config::Config;
use crate::exit::{BadUsage, Exit};
use crate::print::{self, OutputFormat, decided::Runs};
use crate::wiring::{self, Open};

#[derive(Debug, ClapArgs)]
#[command(group = ArgGroup::new("change").required(true).multiple(true))]
pub(crate) struct Args {
    /// The customer's id
    customer: String,
    /// The plan, from today on; `meter plan list` shows all
    #[arg(long, value_name = "PLAN", group = "change")]
    plan: Option<String>,
    /// Stripe's customer id
    #[arg(long, value_name = "ID", group = "change")]
    stripe_id: Option<String>,
    /// Take the Stripe id away
    #[arg(long, group = "change", conflicts_with = "stripe_id")]
    no_stripe_id: bool,
    /// Whether it pays
    #[arg(long, value_name = "STATUS", group = "change", value_parser = ["active", "past_due", "canceled"])]
    status: Option<String>,
    /// The display name
    #[arg(long, value_name = "TEXT", group = "change")]
    name: Option<String>,
    /// Take the display name away
    #[arg(long, group = "change", conflicts_with = "name")]
    no_name: bool,
    /// The reason; kept in audit_log with what changed
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    fn change(&self) -> CustomerChange {
        let set = |value: &Option<String>, none: bool| value.clone().map(Some).or(none.then_some(None));
        CustomerChange {
            id: self.customer.clone(),
            plan: self.plan.clone(),
            status: self.status.clone(),
            stripe_customer_id: set(&self.stripe_id, self.no_stripe_id),
            display_name: set(&self.name, self.no_name),
        }
    }
}

pub(super) async fn run(args: Args, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    let reason = args.reason.as_deref().map(|reason| reason.trim().to_owned());
    if reason.as_ref().is_some_and(String::is_empty) {
        return Err(BadUsage("--reason: say why, or leave it out".into()).into());
    }
    let books = wiring::open_books(config, Open::EXISTING).await?;
    known_customer::require(&books, &args.customer).await?;
    let by = ByHand { actor: actor::current(), action: "customer set", reason };
    let changed = books.change_customer(args.change(), by, now).await;
    let changed = changed.map_err(|error| bad_usage(error.into()))?;
    if OutputFormat::of(args.json) == OutputFormat::Json {
        print::json(&changed)?;
        return Ok(Exit::Ok);
    }
    let ChangedCustomer { customer, changes } = changed;
    if changes.is_empty() {
        print::out(&format!("{customer}: nothing changed; it has these values already"));
        return Ok(Exit::Ok);
    }
    let next = Runs::read(&books, config, now).await?.next();
    for change in &changes {
        print::out(&format!("{customer}: {}.{}", said(change), consequence(change, &next)));
    }
    Ok(Exit::Ok)
}

/// What a field was and is: `plan core -> pro`.
pub(super) fn said(ChangedField { field, from, to }: &ChangedField) -> String {
    let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".into());
    format!("{field} {} -> {}", shown(from), shown(to))
}

/// What follows from a change; decisions are made at `next`.
fn consequence(change: &ChangedField, next: &str) -> String {
    match (change.field, change.to.as_deref()) {
        (CustomerField::Plan, _) => {
            format!(" The plan holds from today, and what was used before keeps its terms. Limits follow it from {next}.")
        }
        (CustomerField::Status, Some("canceled")) => {
            format!(" Nothing is allowed from {next}, and no TURN credential from now on. A subscription at Stripe goes on until it is ended there.")
        }
        (CustomerField::Status, Some("past_due")) => {
            format!(" What the plan includes is allowed, and nothing beyond it, from {next}.")
        }
        (CustomerField::Status, _) => format!(" What plan and budgets allow is allowed from {next}."),
        (CustomerField::StripeCustomerId, Some(_)) => {
            " New subscriptions are read from this one. Events of a subscription go to the Stripe customer that it belongs to, also if that is an earlier one.".into()
        }
        (CustomerField::StripeCustomerId, None) => {
            " No new subscription is read. Events of a subscription go on to the Stripe customer that it belongs to.".into()
        }
        (CustomerField::DisplayName, _) => String::new(),
    }
}
