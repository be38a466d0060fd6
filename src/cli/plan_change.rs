//! `meter ingest --plan`: writes what would be booked, to be looked at and applied.

use std::path::Path;

use jiff::Timestamp;
use jobs::changes::{Made, WantedChange, make};
use jobs::context::Context;

use super::whole_file::{self, Readers};
use super::{actor, failure, progress};
use crate::config::Config;
use crate::exit::Exit;
use crate::print::{self, OutputFormat};

/// Makes the plan of some bills, and writes it unless nothing would change.
pub(super) async fn write(
    (file, format): (&Path, OutputFormat),
    wanted: &[WantedChange],
    (context, config): (&Context, &Config),
    now: Timestamp,
) -> anyhow::Result<Exit> {
    let made_by = actor::current();
    let making = make(context, wanted, &made_by, now);
    let made = progress::reading("the plan", &context.read_settings.progress, making).await;
    let made = made.map_err(|why| failure::error(&why).context("no plan was written"))?;
    let Made { plan, reports, .. } = made;
    match format {
        OutputFormat::Json => print::json(&plan)?,
        OutputFormat::Text => {
            reports.iter().filter(|r| !r.outcome.would_change()).for_each(|r| print::ingest::show(r, config));
            if !plan.is_empty() {
                print::changes::plan(&plan, config);
            }
            print::cost(&context.books);
        }
    }
    if plan.is_empty() {
        if format == OutputFormat::Text {
            print::out("nothing would change; no plan was written");
        }
        return Ok(Exit::Ok);
    }
    whole_file::write(file, &plan.to_text()?, Readers::Owner)?;
    if format == OutputFormat::Text {
        let name = file.display();
        print::out(&format!("{name} has every difference; to book exactly that:"));
        print::out(&format!("  meter apply {name} --reason \"why\""));
    }
    // reasons to hold a bill are accepted by whoever applies the plan
    Ok(if plan.held().next().is_some() { Exit::NeedsAttention } else { Exit::Ok })
}
