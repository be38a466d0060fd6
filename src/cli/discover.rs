//! `meter discover`: the kinds of lines of a bill, and rules for those that nothing claims. AWS's
//! documents do not name Chime's usage types; this command finds them, in the bill or in AWS's
//! price list.

mod attendees;
pub(super) mod offers;
mod paste;
mod unclaimed;
mod usage_types;

use std::path::PathBuf;

use books::units::calendar::Month;
use books::usage::bill::ClaimKind;
use clap::Args as ClapArgs;
use jiff::Timestamp;
use jobs::ingest_cur::DiscoveredBill;
use jobs::ingest_cur::aggregate::FaultyLines;
use schemars::JsonSchema;
use serde::Serialize;

use self::unclaimed::{UnclaimedLines, unclaimed};
use super::{progress, select};
use crate::config::Config;
use crate::exit::Exit;
use crate::price_list::AWS_ADDRESS;
use crate::print::OutputFormat;
use crate::{print, wiring};

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Month [default: the current one]
    #[arg(long, value_name = "YYYY-MM")]
    month: Option<Month>,
    /// Only this export
    #[arg(long, value_name = "NAME")]
    export: Option<String>,
    /// Read AWS's public price list of Amazon Chime instead of a bill: usage types, units and
    /// prices, and the meter of attendee minutes that follows from them. SOURCE is a folder with
    /// CODE/current/index.json or CODE.json for each offer, or the address of a server in place of
    /// AWS's own
    #[arg(long, value_name = "SOURCE", num_args = 0..=1, default_missing_value = AWS_ADDRESS)]
    #[arg(conflicts_with_all = ["month", "export"])]
    price_list: Option<String>,
    /// Write the meter that the price list proposes into this new file instead of printing it
    #[arg(long, value_name = "FILE", requires = "price_list")]
    write: Option<PathBuf>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

#[derive(JsonSchema, Serialize)]
pub(super) struct DiscoveredLines {
    export: String,
    month: Month,
    version: String,
    lines: Vec<books::usage::bill::LineKind>,
    /// Lines that no rule claims, as a rule would claim them.
    unclaimed: Vec<UnclaimedLines>,
    /// Lines that put the version on hold.
    faults: Vec<FaultyLines>,
    /// Why there are no lines, when the bill has rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    nothing_watched: Option<String>,
}

pub(crate) async fn run(args: Args, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    if let Some(source) = &args.price_list {
        return offers::run(source, args.write.as_deref(), OutputFormat::of(args.json), config).await;
    }
    let month = args.month.unwrap_or_else(|| Month::of(now));
    let names = select::exports(config, args.export.as_deref())?;
    let exports = wiring::exports(config).await?;
    let read_settings = wiring::read_settings(config)?;
    let mut found = vec![];
    for name in names {
        let Some(export) = exports.get(&name) else { continue };
        let reading = jobs::ingest_cur::discover(export, &read_settings, month);
        let read = progress::reading(&format!("{name} {month}"), &read_settings.progress, reading).await;
        match read.map_err(|f| anyhow::anyhow!("{name} {month}: {:#}", f.error()))? {
            Some(bill) => {
                let DiscoveredBill { manifest, lines, faults, described, nothing_watched } = bill;
                let (version, unclaimed) = (manifest.version, unclaimed(&lines, &described));
                found.push(DiscoveredLines { export: name, month, version, lines, unclaimed, faults, nothing_watched });
            }
            None if !args.json => print::out(&format!("{name} {month}: AWS has delivered no bill yet")),
            None => {}
        }
    }
    if args.json {
        print::json(&found)?;
        return Ok(Exit::Ok);
    }
    for f in &found {
        print::out(&format!("{} {}  version {}", f.export, f.month, f.version));
        if f.lines.is_empty() {
            print::out(f.nothing_watched.as_deref().unwrap_or("the bill has no rows yet"));
            continue;
        }
        let rows = f.lines.iter().map(|l| {
            let claim = match (l.claim, l.meter.as_str()) {
                (ClaimKind::Counted, meter) => meter.to_owned(),
                (ClaimKind::Excluded, meter) => format!("{meter} (excluded)"),
                (ClaimKind::NotUsage, _) => "- (no usage)".to_owned(),
                (ClaimKind::Ignored, _) => "- (ignored)".to_owned(),
                (ClaimKind::Unrecognised, _) => "- (unrecognised)".to_owned(),
            };
            let share = (l.tagged_lines * 100).checked_div(l.lines).unwrap_or(0);
            vec![
                l.product.clone(),
                l.usage_type.clone(),
                l.line_type.clone(),
                l.unit.clone(),
                print::count(l.lines),
                print::readable(l.amount),
                format!("{share} %"),
                claim,
            ]
        });
        let titles = ["5product", "usage type", "4line type", "1unit", ">lines", "3>amount", "2>tagged", "meter"];
        print::table(&titles, rows.collect());
        f.faults.iter().for_each(|fault| print::out(&format!("faulty: {fault}")));
    }
    let all = unclaimed::together(found.into_iter().map(|f| f.unclaimed));
    if let Some(toml) = paste::rules(config, &all) {
        let kinds = print::several(all.len(), "kind");
        print::out("");
        print::out(&format!("no rule claims {kinds} of line. To paste into your configuration file:"));
        print::out("");
        print::lines(toml.trim_end());
    }
    Ok(Exit::Ok)
}
