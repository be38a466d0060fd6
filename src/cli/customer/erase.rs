//! `meter customer erase`: a customer's personal data goes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use books::customers::erase::{EraseError, Erasure};
use books::store::audit_log::AuditEntry;
use books::store::database::Fence;
use books::store::error::BooksError;
use clap::Args as ClapArgs;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use crate::cli::{actor, known_customer};
use crate::config::Config;
use crate::exit::{BadUsage, Exit};
use crate::print::{self, OutputFormat};
use crate::queue::running_jobs;
use crate::wiring::{self, Open};

/// Jobs run for a moment, as a rule, and the erasure waits so often for a moment without one.
const LOOKS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(500);

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// The customer's id
    customer: String,
    /// The reason; kept in audit_log. Name no person in it
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Erase; without it the command only says what would be erased. Nobody can undo it
    #[arg(long)]
    yes: bool,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// What became of a customer's data.
#[derive(JsonSchema, Serialize)]
pub(in crate::cli) struct ErasedCustomer {
    customer: String,
    /// The customer is erased since an earlier run.
    already: bool,
    /// What this run did; none when the customer was erased already.
    erasure: Option<Erasure>,
}

pub(super) async fn run(args: Args, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    let Args { customer, reason, yes, json } = args;
    let format = OutputFormat::of(json);
    if reason.trim().is_empty() {
        return Err(BadUsage("--reason: say why; it is kept".into()).into());
    }
    let books = wiring::open_books(config, Open::EXISTING).await?;
    let grace = Duration::from_secs(u64::from(config.stripe.grace_hours) * 3600);
    if !yes {
        let rows = match books.erasable(&customer, grace, now).await {
            Err(error) => return refused(&books, &customer, error, format).await,
            Ok(rows) => rows,
        };
        for changed in rows.iter().filter(|_| !json) {
            print::out(&format!("{}: {} row(s)", changed.table, print::count(changed.rows)));
        }
        let listed = rows.iter().map(|of| format!("{}: {} row(s)", of.table, print::count(of.rows)));
        let listed = if json { format!(" ({})", listed.collect::<Vec<_>>().join(", ")) } else { String::new() };
        let why = format!("{customer} can be erased{listed}, and was not; --yes erases it, and nobody can undo that");
        return Err(BadUsage(why).into());
    }
    let reason = reason.trim().to_owned();
    let entry = AuditEntry { actor: actor::current(), action: "customer erase".into(), target: String::new(), reason };
    let mut looks = 0;
    loop {
        let (fence, running) = no_running_job();
        let erased = books.fenced(fence).erase_customer(&customer, grace, entry.clone(), now).await;
        match erased {
            Ok(erasure) if json => {
                print::json(&ErasedCustomer { customer, already: false, erasure: Some(erasure) })?;
                return Ok(Exit::Ok);
            }
            Ok(erasure) => {
                said(&erasure);
                return Ok(Exit::Ok);
            }
            Err(EraseError::Books(BooksError::Fenced)) if looks < LOOKS => {
                looks += 1;
                tokio::time::sleep(PAUSE).await;
            }
            Err(EraseError::Books(BooksError::Fenced)) => {
                let jobs = running.lock().unwrap_or_else(PoisonError::into_inner).join(", ");
                anyhow::bail!(
                    "{customer} was not erased: jobs run, and may have read its id: {jobs}. Run the command again when \
                     `meter jobs list --state running` shows none, or stop the workers first"
                );
            }
            Err(error) => return refused(&books, &customer, error, format).await,
        }
    }
}

/// A fence that holds while no job runs, and the jobs that it saw.
fn no_running_job() -> (Fence, Arc<Mutex<Vec<String>>>) {
    let seen = Arc::new(Mutex::new(vec![]));
    let noted = Arc::clone(&seen);
    let fence: Fence = Arc::new(move |c| {
        let noted = Arc::clone(&noted);
        Box::pin(async move {
            let running = running_jobs(&c).await?;
            if running.is_empty() {
                return Ok(());
            }
            *noted.lock().unwrap_or_else(PoisonError::into_inner) = running;
            Err(BooksError::Fenced)
        })
    });
    (fence, seen)
}

async fn refused(
    books: &books::Database,
    customer: &str,
    error: EraseError,
    format: OutputFormat,
) -> anyhow::Result<Exit> {
    match error {
        EraseError::Unknown => {
            known_customer::require(books, customer).await?;
            anyhow::bail!("the customer `{customer}` was removed just now")
        }
        EraseError::Already(_) if format == OutputFormat::Json => {
            print::json(&ErasedCustomer { customer: customer.to_owned(), already: true, erasure: None })?;
            Ok(Exit::Ok)
        }
        done @ EraseError::Already(_) => {
            print::out(&format!("{customer}: {done}; nothing is left to do"));
            Ok(Exit::Ok)
        }
        EraseError::Lives(first) => {
            let first = first.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            anyhow::bail!("{customer} was not erased, because something of it goes on: {first}")
        }
        EraseError::Books(error) => Err(error.into()),
    }
}

/// Says what became of the customer's data, and what the books cannot erase.
fn said(Erasure { pseudonym, rows, stripe_customers, was_billed }: &Erasure) {
    let count = rows.iter().map(|changed| changed.rows).sum::<u64>();
    print::out(&format!(
        "erased: the history is under {pseudonym} now, in {} row(s) of {} tables",
        print::count(count),
        rows.len()
    ));
    print::out("no sum changed; `meter verify` checks it");
    print::out("what stays, and what only you can erase (docs/customers.md):");
    let bills = "AWS's bills and S3's reports name the id in the tag and in keys of files. What they say of it is booked to the pseudonym";
    print::out(&format!("- {bills}"));
    if !stripe_customers.is_empty() {
        let ids = stripe_customers.join(", ");
        let kept = if *was_billed {
            "; the ids stay with the billed usage, because books must lead to their invoices"
        } else {
            ""
        };
        print::out(&format!(
            "- Stripe has the customer and the invoices of {ids}: erase there what law does not make you keep{kept}"
        ));
    }
    print::out("- backups that were made before, the web backend's own tables, and webhooks that it received");
    print::out("- the web backend must not write under the old id again");
}
