//! `meter ingest`: one payload for each export and month, run here and now.

use std::io::IsTerminal;
use std::time::Duration;

use books::BooksError;
use books::units::calendar::Month;
use clap::Args as ClapArgs;
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use jobs::context::{Context, Progress};
use jobs::ingest_cur::{IngestCur, IngestOutcome, IngestReport};
use jobs::job::{Failure, Job};
use serde::Serialize;

use super::{BadUsage, Exit, months, print};
use crate::config::Config;
use crate::wiring::{self, Open};

/// Which bills to read, and what to let pass.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Only this month (YYYY-MM) [default: the current one and `lookback_months` before it]
    #[arg(long, value_name = "YYYY-MM", conflicts_with_all = ["from", "to"])]
    month: Option<Month>,
    /// From this month on
    #[arg(long, value_name = "YYYY-MM")]
    from: Option<Month>,
    /// Up to this month [default: the current one]
    #[arg(long, value_name = "YYYY-MM")]
    to: Option<Month>,
    /// Only this export
    #[arg(long, value_name = "NAME")]
    export: Option<String>,
    /// Print what would be booked, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Book a version even if it takes back usage that is booked
    #[arg(long)]
    accept_restatement: bool,
    /// Book a version even if it has line types that nobody knows; their lines are left out
    #[arg(long)]
    allow_unknown_line_types: bool,
    /// Print the reports as JSON
    #[arg(long)]
    json: bool,
}

/// A run, for JSON.
#[derive(Serialize)]
#[serde(untagged)]
enum Run {
    Report(Box<IngestReport>),
    Failed { export: String, month: Month, failed: String, retryable: bool },
}

pub(crate) async fn run(args: Args, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    let months = months(args.month, args.from, args.to, config.lookback_months, now)?;
    let exports = chosen(config, args.export.as_deref())?;
    let books = if args.dry_run {
        wiring::open_books(config, Open::DRY_RUN).await?
    } else {
        let books = wiring::open_books(config, Open::CREATE).await?;
        books.migrate(now).await?;
        books
    };
    let context = wiring::context(config, books).await?;
    let (mut runs, mut done) = (vec![], Exit::Ok);
    for export in &exports {
        for month in &months {
            let job = IngestCur {
                export: export.clone(),
                month: *month,
                dry_run: args.dry_run,
                accept_restatement: args.accept_restatement,
                allow_unknown_line_types: args.allow_unknown_line_types,
            };
            match with_progress(job, &context, now).await {
                Ok(report) => {
                    if report.outcome.needs_attention() && done == Exit::Ok {
                        done = Exit::NeedsAttention;
                    }
                    if !args.json {
                        show(&report, config);
                    }
                    runs.push(Run::Report(Box::new(report)));
                }
                Err(failure) => {
                    done = Exit::Failed;
                    let (failed, retryable) = (format!("{:#}", failure.error()), failure.is_retryable());
                    let advice = if retryable { " (the next run may succeed)" } else { "" };
                    let unsure = matches!(failure.error().downcast_ref(), Some(BooksError::Network(_)));
                    let booked = if unsure { "" } else { ", nothing was booked" };
                    eprintln!("meter: ingest of {export} {month} failed{booked}{advice}: {failed}");
                    runs.push(Run::Failed { export: export.clone(), month: *month, failed, retryable });
                }
            }
        }
    }
    if args.json {
        print::json(&runs)?;
    }
    Ok(done)
}

/// The exports that a command is about.
pub(super) fn chosen(config: &Config, only: Option<&str>) -> anyhow::Result<Vec<String>> {
    let names: Vec<String> = config.exports.iter().map(|e| e.name.clone()).collect();
    match only {
        Some(name) if names.iter().any(|n| n == name) => Ok(vec![name.to_owned()]),
        Some(name) => {
            Err(BadUsage(format!("there is no export named `{name}`; configured: {}", names.join(", "))).into())
        }
        None if names.is_empty() => {
            let why = "no export is configured; add one to meter.toml:\n\n  [[exports]]\n  name = \"main\"\n  location = \"s3://bucket/prefix\"   # or a local folder";
            Err(BadUsage(why.into()).into())
        }
        None => Ok(names),
    }
}

/// Runs a job with a bar on a terminal.
pub(super) async fn with_progress(job: IngestCur, context: &Context, now: Timestamp) -> Result<IngestReport, Failure> {
    let title = format!("{} {}", job.export, job.month);
    shown(&title, &context.read_settings.progress, job.run(context, now)).await
}

/// Awaits `work` while a bar shows how far the reading has come; no bar when standard error is no
/// terminal.
pub(super) async fn shown<T>(title: &str, progress: &Progress, work: impl Future<Output = T>) -> T {
    if !std::io::stderr().is_terminal() {
        return work.await;
    }
    let bar = ProgressBar::new(0).with_message(title.to_owned());
    let style = ProgressStyle::with_template("{msg} {bar:40} {bytes} of {total_bytes} {elapsed}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let mut work = std::pin::pin!(work);
    let result = loop {
        tokio::select! {
            result = &mut work => break result,
            () = tokio::time::sleep(Duration::from_millis(100)) => {
                let bytes = progress.get();
                bar.set_length(bytes.total);
                bar.set_position(bytes.done);
            }
        }
    };
    bar.finish_and_clear();
    result
}

/// Prints a report for people.
pub(super) fn show(report: &IngestReport, config: &Config) {
    let (export, month) = (&report.export, report.bill.month);
    let version: String = report.version.chars().take(8).collect();
    let delivered = report.delivered_at.map(|t| t.strftime("%Y-%m-%d %H:%M UTC").to_string()).unwrap_or_default();
    let head = format!("{export} {month}  version {version} delivered {delivered}");
    let what = match report.outcome {
        IngestOutcome::NoBill => {
            print::out(&format!("{export} {month}  AWS has delivered no bill yet"));
            return report.warnings.iter().for_each(|w| print::out(&format!("  note: {w}")));
        }
        IngestOutcome::Unchanged => return print::out(&format!("{head}  is booked already; no data file was read")),
        IngestOutcome::Older => return print::out(&format!("{head}  is older than what is booked; ignored")),
        IngestOutcome::Applied => "booked",
        IngestOutcome::WouldApply => "would be booked (dry run, nothing was written)",
        IngestOutcome::OnHold => "ON HOLD for a person, nothing was booked",
        IngestOutcome::WouldHold => "would be ON HOLD for a person (dry run, nothing was written)",
    };
    print::out(&format!("{head}  {what}"));
    for reason in &report.hold_reasons {
        print::out(&format!("  on hold: {reason}"));
    }
    print::out(&format!(
        "  {} rows in {} files, {} counted; {} ledger entries; {} KiB fetched in {} reads",
        print::count(report.rows),
        report.files,
        print::count(report.matched_rows),
        print::count(report.entries),
        print::count(report.fetched_bytes / 1024),
        print::count(report.fetch_requests),
    ));
    let rows = report.meters.iter().map(|m| {
        let t = &m.totals;
        let parts = [t.attributed, t.unattributed, t.excluded, t.total].map(print::quantity);
        let [attributed, unattributed, excluded, total] = parts;
        let change = print::change(t.booked - m.booked_before);
        vec![t.meter.clone(), t.unit.clone(), attributed, unattributed, excluded, total, change]
    });
    print::table(
        &["  meter", "unit", ">attributed", ">+ untagged", ">+ excluded", ">= in the bill", ">change of the books"],
        rows.map(|mut r| {
            r[0].insert_str(0, "  ");
            r
        })
        .collect(),
    );
    for line in &report.unrecognised {
        print::out(&format!(
            "  unrecognised: {} {} {} {} in {} lines; no meter claims it and no rule ignores it",
            line.product,
            line.usage_type,
            print::quantity(line.amount),
            line.unit,
            print::count(line.lines)
        ));
    }
    for warning in &report.warnings {
        print::out(&format!("  note: {warning}"));
    }
    if report.outcome != IngestOutcome::Applied && !report.largest_changes.is_empty() {
        let unit = |meter: &str| config.meters.iter().find(|m| m.name == meter).map_or("", |m| m.unit.as_str());
        let rows = report.largest_changes.iter().map(|c| {
            let customer = format!("  {}", print::customer(&c.customer));
            vec![customer, c.meter.clone(), print::change(c.delta), unit(&c.meter).to_owned()]
        });
        print::table(&["  largest changes", "meter", ">change", "unit"], rows.collect());
    }
}
