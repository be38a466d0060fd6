//! `meter ingest --plan`: writes what would be booked, to be looked at and applied.

use std::path::Path;

use jiff::Timestamp;
use jobs::changes::{Made, WantedChange, make};
use jobs::context::Context;

use super::{actor, failure, progress, whole_file};
use crate::config::Config;
use crate::exit::Exit;
use crate::print::{self, OutputFormat};

/// Makes the plan of some bills, and writes it unless nothing would change or a version would be put
/// on hold.
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
    let is_held = made.is_held();
    let Made { plan, reports, .. } = made;
    if is_held {
        reports.iter().filter(|report| !report.hold_reasons.is_empty()).for_each(|r| print::ingest::show(r, config));
        print::err(format_args!(
            "no plan was written: a bill would be put on hold, and what would be booked of it is not decided; put it \
             on hold with `meter ingest`, and run the command that it prints with --plan {}",
            file.display()
        ));
        return Ok(Exit::NeedsAttention);
    }
    match format {
        OutputFormat::Json => print::json(&plan)?,
        OutputFormat::Text => {
            reports.iter().filter(|r| !r.outcome.would_change()).for_each(|r| print::ingest::show(r, config));
            if !plan.is_empty() {
                print::changes::plan(&plan, &config.units());
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
    whole_file::write(file, &plan.to_text()?)?;
    if format == OutputFormat::Text {
        let name = file.display();
        print::out(&format!("{name} has every difference; to book exactly that:"));
        print::out(&format!("  meter apply {name} --reason \"why\""));
    }
    Ok(Exit::Ok)
}
