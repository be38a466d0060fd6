//! `meter discover --price-list`: what AWS's price list says of Amazon Chime, and the meter of
//! attendee minutes that follows from it.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::bail;
use books::usage::meter::{LineClaim, Rules};
use schemars::JsonSchema;
use serde::Serialize;

use super::usage_types::{pattern, without_regions};
use super::{attendees, paste};
use crate::cli::whole_file;
use crate::config::Config;
use crate::exit::{BadUsage, Exit};
use crate::price_list::{CHIME_OFFERS, ListSource, ListedPrice, OfferList};
use crate::print::{self, OutputFormat};
use crate::visible;

/// Columns of a terminal, and those that a description gets at least.
const COLUMNS: usize = 80;
const DESCRIPTION: usize = 16;
/// Between two columns of a table.
const GAP: usize = 2;

/// A price, and the offer that has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema, Serialize)]
struct OfferPrice {
    code: String,
    #[serde(flatten)]
    price: ListedPrice,
}

impl OfferPrice {
    fn words(&self) -> impl Iterator<Item = &str> {
        [&self.price.usage_type, &self.price.operation, &self.price.description].into_iter().map(String::as_str)
    }
}

/// What the prices propose.
#[derive(Debug, Default, JsonSchema, Serialize)]
struct Proposed {
    /// They cost what attendee minutes cost, and no rule claims them.
    attendee_minutes: Vec<OfferPrice>,
    /// They cost it, and a meter claims them already: its name.
    claimed: BTreeSet<String>,
    /// They cost it, and their words name another charge.
    other_charges: Vec<OfferPrice>,
    /// Minutes of attendees at another price, such as those in high definition.
    other_prices: Vec<OfferPrice>,
}

#[derive(JsonSchema, Serialize)]
pub(in crate::cli) struct ListedOffers<'a> {
    offers: &'a [OfferList],
    proposed: &'a Proposed,
    /// For the configuration file; null when nothing is proposed.
    toml: Option<&'a str>,
}

fn propose(offers: &[OfferList], rules: &Rules) -> Proposed {
    let mut proposed = Proposed::default();
    let all = offers.iter().flat_map(|offer| offer.prices.iter().map(|price| (offer.code.clone(), price.clone())));
    for (code, price) in all {
        let costs_it = price.currency == "USD" && price.price == attendees::price() && price.from.is_zero();
        let found = OfferPrice { code, price };
        if !attendees::is_minute(&found.price.unit) {
            continue;
        }
        let is_other_charge = attendees::is_other_charge(found.words());
        match (costs_it, is_other_charge) {
            (true, true) => proposed.other_charges.push(found),
            (true, false) => match rules.claim(&found.code, &found.price.usage_type, "Usage") {
                LineClaim::Counted(meter) | LineClaim::Excluded(meter) => {
                    let meter = rules.meters.get(usize::from(meter)).map(|meter| meter.name.clone());
                    proposed.claimed.extend(meter);
                }
                _ => proposed.attendee_minutes.push(found),
            },
            (false, false) if !found.price.price.is_zero() && attendees::names_attendees(found.words()) => {
                proposed.other_prices.push(found);
            }
            (false, _) => {}
        }
    }
    proposed
}

/// A line for each product and usage type, without regions.
fn named(prices: &[OfferPrice]) -> Vec<String> {
    let text = |OfferPrice { code, price: of }: &OfferPrice| {
        let (usage_type, description) = (without_regions(&of.usage_type), &of.description);
        format!("{code} {usage_type}: {} {} for {}, “{description}”", of.price, of.currency, of.unit)
    };
    let mut seen = BTreeSet::new();
    let first =
        prices.iter().filter(|of| seen.insert((&of.code, without_regions(&of.price.usage_type), of.price.price)));
    first.map(text).collect()
}

/// The meter as TOML, with what was found as comments; none when nothing is proposed.
///
/// # Errors
/// When it would claim lines of another meter.
fn toml(config: &Config, offers: &[OfferList], proposed: &Proposed) -> anyhow::Result<Option<String>> {
    let found = &proposed.attendee_minutes;
    if found.is_empty() {
        return Ok(None);
    }
    let products: BTreeSet<String> = found.iter().map(|of| of.code.clone()).collect();
    let patterns = found.iter().map(|of| pattern(without_regions(&of.price.usage_type))).collect();
    let Some(calls) = paste::calls(config, &products, &patterns) else {
        let all = named(found).join("; ");
        bail!(
            "no meter is proposed, because it would claim lines of another meter; attendee minutes seem to be: {all}"
        );
    };
    let of = offers.iter().filter(|offer| products.contains(&offer.code));
    let versions: Vec<String> = of.map(|offer| format!("{} {}", offer.code, offer.version)).collect();
    let mut text = paste::comment(&format!(
        "Attendee minutes by AWS's price list ({}): what costs 0.0017 USD a minute. {} Compare it with the lines of a \
         test meeting (`meter discover`) before you bill by it.",
        versions.join(", "),
        paste::calls_place(config)
    ));
    named(found).iter().for_each(|line| text += &paste::comment(line));
    for line in named(&proposed.other_charges) {
        text += &paste::comment(&format!("Left out, another charge of the same price: {line}"));
    }
    for line in named(&proposed.other_prices) {
        text += &paste::comment(&format!("Left out, attendees at another price: {line}"));
    }
    Ok(Some(text + &paste::meter(&calls)))
}

/// The text in so many characters.
fn shortened(text: &str, width: usize) -> String {
    match text.chars().count() > width {
        true => text.chars().take(width.saturating_sub(1)).chain(['…']).collect(),
        false => text.to_owned(),
    }
}

/// The columns of a table of prices, the last one shortened to what the terminal leaves.
fn rows(offer: &OfferList) -> Vec<Vec<String>> {
    let row = |of: &ListedPrice| {
        let tier = if of.from.is_zero() { String::new() } else { format!("from {}: ", of.from) };
        let description = format!("{tier}{}", of.description);
        let price = format!("{} {}", of.price, of.currency);
        [of.usage_type.clone(), of.unit.clone(), price, description].map(|text| visible::line(&text).into_owned())
    };
    let mut rows: Vec<Vec<String>> = offer.prices.iter().map(|of| Vec::from(row(of))).collect();
    rows.dedup();
    let titles = ["usage type", "unit", "price"];
    let width = |(place, title): (usize, &&str)| {
        rows.iter().map(|row| row[place].chars().count()).chain([title.len()]).max().unwrap_or(0) + GAP
    };
    let used: usize = titles.iter().enumerate().map(width).sum();
    let left = COLUMNS.saturating_sub(used + GAP).max(DESCRIPTION);
    rows.iter_mut().for_each(|row| row[3] = shortened(&row[3], left));
    rows
}

/// Refuses a file that is there, before anything is fetched.
fn check_new(file: &Path) -> Result<(), BadUsage> {
    match file.symlink_metadata() {
        Err(_) => Ok(()),
        Ok(_) => {
            let file = file.display();
            Err(BadUsage(format!("{file} is there already, and is not changed; name a file that does not exist")))
        }
    }
}

pub(super) async fn run(
    source: &str,
    write: Option<&Path>,
    format: OutputFormat,
    config: &Config,
) -> anyhow::Result<Exit> {
    let source = ListSource::parse(source).map_err(|why| BadUsage(format!("--price-list: {why}")))?;
    write.map_or(Ok(()), check_new)?;
    let mut offers = vec![];
    for code in CHIME_OFFERS {
        offers.push(source.read(code).await?);
    }
    let proposed = propose(&offers, &config.checked_rules()?);
    let toml = toml(config, &offers, &proposed);
    if format == OutputFormat::Json {
        let toml = toml?;
        if let (Some(file), Some(toml)) = (write, &toml) {
            whole_file::write_new(file, toml)?;
        }
        print::json(&ListedOffers { offers: &offers, proposed: &proposed, toml: toml.as_deref() })?;
        return Ok(exit(&proposed));
    }
    for offer in &offers {
        print::out(&format!("{}  version {} of {}", offer.code, offer.version, offer.published));
        match offer.prices.is_empty() {
            true => print::out("it has no prices on demand"),
            false => print::table(&["usage type", "unit", ">price", "~description"], rows(offer)),
        }
        print::out("");
    }
    match (toml?, write) {
        (Some(toml), Some(file)) => {
            whole_file::write_new(file, &toml)?;
            print::out(&format!("{} written; put its meter into your configuration file", file.display()));
        }
        (Some(toml), None) => {
            print::out("to paste into your configuration file:");
            print::out("");
            print::lines(toml.trim_end());
        }
        (None, _) => nothing_proposed(&proposed),
    }
    Ok(exit(&proposed))
}

fn exit(proposed: &Proposed) -> Exit {
    match proposed.attendee_minutes.is_empty() && proposed.claimed.is_empty() {
        true => Exit::NeedsAttention,
        false => Exit::Ok,
    }
}

fn nothing_proposed(proposed: &Proposed) {
    if !proposed.claimed.is_empty() {
        let meters: Vec<&str> = proposed.claimed.iter().map(String::as_str).collect();
        let meters = meters.join(", ");
        print::out(&format!(
            "what costs 0.0017 USD a minute is claimed already, by meter {meters}; nothing is proposed"
        ));
        return;
    }
    print::out(
        "no usage type costs 0.0017 USD a minute, so no meter is proposed; the lines of a test meeting show it \
         (`meter discover`)",
    );
    for line in named(&proposed.other_charges) {
        print::out(&format!("the same price, and by its words another charge: {line}"));
    }
    for line in named(&proposed.other_prices) {
        print::out(&format!("attendees at another price: {line}"));
    }
}
