//! Rules as TOML, to be pasted into the configuration file. What is proposed is checked beside the
//! rules that hold: no proposed meter claims a line that another meter claims.

use std::collections::{BTreeMap, BTreeSet};

use books::usage::meter::{LineClaim, USAGE_LINE_TYPES};
use rust_decimal::Decimal;

use super::unclaimed::UnclaimedLines;
use super::usage_types::pattern;
use crate::config::{Config, MeterConfig, RuleOrigin};
use crate::{print, visible};

/// Kinds of line that get a rule at once.
const MOST: usize = 20;
/// Columns of a terminal.
const COLUMNS: usize = 80;
/// The meter of attendee minutes.
pub(super) const CALLS: &str = "chime_minutes";

/// A line of `items` as TOML, or one line for each when that is too long.
fn list(key: &str, items: &[String]) -> String {
    let quoted: Vec<String> = items.iter().map(|item| toml::Value::String(item.clone()).to_string()).collect();
    let short = format!("{key} = [{}]\n", quoted.join(", "));
    if short.chars().count() <= COLUMNS {
        return short;
    }
    let lines: Vec<String> = quoted.iter().map(|item| format!("    {item},\n")).collect();
    format!("{key} = [\n{}]\n", lines.concat())
}

fn value(key: &str, value: impl Into<toml::Value>) -> String {
    format!("{key} = {}\n", value.into())
}

/// A meter as an entry of the file, without what is so by default.
pub(super) fn meter(meter: &MeterConfig) -> String {
    let MeterConfig { name, unit, display_name, products, usage_types, line_types, factor, accrues } = meter;
    let mut toml = format!("[[meters]]\n{}{}", value("name", name.as_str()), value("unit", unit.as_str()));
    if let Some(display_name) = display_name {
        toml += &value("display_name", display_name.as_str());
    }
    toml += &list("products", products);
    toml += &list("usage_types", usage_types);
    if *line_types != USAGE_LINE_TYPES {
        toml += &list("line_types", line_types);
    }
    if *factor != Decimal::ONE {
        toml += &value("factor", factor.to_string());
    }
    if let Some(accrues) = accrues.and_then(|accrues| toml::Value::try_from(accrues).ok()) {
        toml += &value("accrues", accrues);
    }
    toml
}

/// Comment lines of a text.
pub(super) fn comment(text: &str) -> String {
    let (mut out, mut line) = (String::new(), String::from("#"));
    for word in visible::line(text).split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > COLUMNS && line != "#" {
            out += &(line + "\n");
            line = String::from("#");
        }
        line += " ";
        line += word;
    }
    out + &line + "\n"
}

/// Adds what is not there yet.
fn extend(own: &mut Vec<String>, more: &BTreeSet<String>) {
    let new: Vec<String> = more.iter().filter(|text| !own.contains(text)).cloned().collect();
    own.extend(new);
}

/// The configuration with a meter more, or with another one of its name; none when the rules would
/// be unsound.
fn with(config: &Config, meter: &MeterConfig) -> Option<Config> {
    let mut with = config.clone();
    match with.meters.iter_mut().find(|own| own.name == meter.name) {
        Some(own) => *own = meter.clone(),
        None => with.meters.push(meter.clone()),
    }
    with.checked_rules().is_ok().then_some(with)
}

fn new_meter(name: &str, unit: &str) -> MeterConfig {
    MeterConfig {
        name: name.to_owned(),
        unit: unit.to_owned(),
        display_name: None,
        products: vec![],
        usage_types: vec![],
        line_types: USAGE_LINE_TYPES.map(str::to_owned).into(),
        factor: Decimal::ONE,
        accrues: None,
    }
}

/// The meter of attendee minutes as it is, with these products and usage types as well; none when
/// it would claim lines of another meter.
pub(super) fn calls(config: &Config, products: &BTreeSet<String>, patterns: &BTreeSet<String>) -> Option<MeterConfig> {
    let own = config.meters.iter().find(|meter| meter.name == CALLS);
    let mut calls = own.cloned().unwrap_or_else(|| new_meter(CALLS, "minutes"));
    extend(&mut calls.products, products);
    extend(&mut calls.usage_types, patterns);
    // a built-in name has it by itself
    calls.accrues = calls.accrues.filter(|_| !is_built_in(config));
    with(config, &calls).map(|_| calls)
}

fn calls_origin(config: &Config) -> Option<RuleOrigin> {
    let place = config.meters.iter().position(|meter| meter.name == CALLS)?;
    Some(config.meter_origin(place))
}

fn is_built_in(config: &Config) -> bool {
    calls_origin(config) == Some(RuleOrigin::BuiltIn)
}

/// Where the meter of attendee minutes belongs in the file.
pub(super) fn calls_place(config: &Config) -> &'static str {
    match calls_origin(config) {
        None => "It is a new meter.",
        Some(RuleOrigin::BuiltIn) => "It takes the place of the built-in chime_minutes.",
        Some(_) => "Put it in place of the [[meters]] named chime_minutes that your file has.",
    }
}

/// A name for a meter of these lines that no other meter has.
fn name_of(config: &Config, group: &UnclaimedLines) -> String {
    let product = group.product.trim_start_matches("Amazon").trim_start_matches("AWS");
    let mut name = String::new();
    let mut before = '_';
    for c in format!("{product}_{}", group.pattern).chars() {
        let begins_word = c.is_ascii_uppercase() && (before.is_ascii_lowercase() || before.is_ascii_digit());
        if (begins_word || !c.is_ascii_alphanumeric()) && !name.is_empty() && !name.ends_with('_') {
            name.push('_');
        }
        if c.is_ascii_alphanumeric() {
            name.push(c.to_ascii_lowercase());
        }
        before = c;
    }
    let name = name.trim_end_matches('_').to_owned();
    let name = if name.is_empty() { "lines".to_owned() } else { name };
    let is_free = |name: &String| {
        config.meters.iter().all(|meter| meter.name != *name) && !config.cost_names().contains_key(name)
    };
    let numbered = (2..).map(|n| format!("{name}_{n}"));
    std::iter::once(name.clone()).chain(numbered).find(is_free).unwrap_or(name)
}

/// A meter of these lines alone; none when they have several units, or when every pattern of them
/// is another meter's, too.
fn meter_of(config: &Config, group: &UnclaimedLines) -> Option<MeterConfig> {
    let unit = match group.units.len() {
        0 => "units",
        1 => group.units.first()?,
        _ => return None,
    };
    let exact: BTreeSet<String> = group.usage_types.iter().map(|usage_type| pattern(usage_type)).collect();
    let patterns = [vec![group.pattern.clone()], exact.into_iter().collect()];
    patterns.into_iter().find_map(|usage_types| {
        let products = vec![group.product.clone()];
        let meter = MeterConfig { products, usage_types, ..new_meter(&name_of(config, group), unit) };
        with(config, &meter).map(|_| meter)
    })
}

/// What a group is, for whoever decides about it.
fn about(group: &UnclaimedLines) -> String {
    let some = |texts: &BTreeSet<String>| {
        let first: Vec<&str> = texts.iter().take(3).map(String::as_str).collect();
        let more = if texts.len() > 3 { ", …" } else { "" };
        format!("{}{more}", first.join(", "))
    };
    let units: Vec<&str> = group.units.iter().map(String::as_str).collect();
    let (usage_types, lines) = (some(&group.usage_types), print::several(group.lines, "line"));
    let mut text =
        format!("{} {usage_types}: {lines}, {} {}", group.product, print::quantity(group.amount), units.join(" and "));
    for (what, texts) in
        [("rate", &group.says.rates), ("operation", &group.says.operations), ("description", &group.says.descriptions)]
    {
        if !texts.is_empty() {
            text = format!("{}; {what} {}", text.trim_end(), some(texts));
        }
    }
    text
}

/// The rules for unclaimed lines, both to count and to ignore them; none when there are no such
/// lines.
pub(super) fn rules(config: &Config, found: &[UnclaimedLines]) -> Option<String> {
    if found.is_empty() {
        return None;
    }
    let shown = &found[..found.len().min(MOST)];
    let mut toml = comment(
        "To count them, as meters. A customer may use a meter that their plan names. An operation is no part of a rule.",
    );
    let mut config = config.clone();
    let (likely, others): (Vec<&UnclaimedLines>, Vec<&UnclaimedLines>) =
        shown.iter().partition(|group| group.like_attendee_minutes);
    if !likely.is_empty() {
        toml += "\n";
        likely.iter().for_each(|group| toml += &comment(&about(group)));
        let products = likely.iter().map(|group| group.product.clone()).collect();
        let patterns = likely.iter().map(|group| group.pattern.clone()).collect();
        toml += &match calls(&config, &products, &patterns) {
            Some(calls) => {
                let text = format!(
                    "They cost what attendee minutes cost (0.0017 a minute), and may be those of calls. {}",
                    calls_place(&config)
                );
                let toml = comment(&text) + &meter(&calls);
                config = with(&config, &calls).unwrap_or(config);
                toml
            }
            None => comment("No meter is proposed, because it would claim lines of another meter."),
        };
    }
    for group in others {
        toml += "\n";
        toml += &comment(&about(group));
        let claimed = config.checked_rules().ok().is_some_and(|rules| {
            let is_counted = |usage_type: &String| {
                matches!(rules.claim(&group.product, usage_type, USAGE_LINE_TYPES[0]), LineClaim::Counted(_))
            };
            group.usage_types.iter().all(is_counted)
        });
        toml += &match meter_of(&config, group) {
            _ if claimed => comment("A meter above has these, too."),
            Some(own) => {
                let toml = meter(&own);
                config = with(&config, &own).unwrap_or(config);
                toml
            }
            None if group.units.len() > 1 => comment("No meter is proposed, because a meter counts in one unit."),
            None => comment("No meter is proposed, because it would claim lines of another meter."),
        };
    }
    toml += "\n";
    toml += &comment("Or to ignore them: nobody is billed for them. A meter wins over an ignore rule.");
    let mut ignored: BTreeMap<&String, Vec<String>> = BTreeMap::new();
    for group in shown {
        ignored.entry(&group.product).or_default().push(group.pattern.clone());
    }
    for (product, patterns) in ignored {
        toml += &format!(
            "\n[[ignore]]\n{}{}",
            list("products", std::slice::from_ref(product)),
            list("usage_types", &patterns)
        );
    }
    if found.len() > MOST {
        toml += "\n";
        toml += &comment(&format!("{} more kinds are left out; run it again with these rules.", found.len() - MOST));
    }
    Some(toml)
}
