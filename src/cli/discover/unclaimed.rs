//! The lines of a bill that no rule claims, grouped as a rule would claim them: by product and by
//! usage type without its region.

use std::collections::{BTreeMap, BTreeSet};

use books::units::quantity::Quantity;
use books::usage::bill::{ClaimKind, LineKind};
use jobs::ingest_cur::aggregate::{KindDescription, KindKey};
use rust_decimal::Decimal;
use schemars::JsonSchema;
use serde::Serialize;

use super::attendees;
use super::usage_types::{pattern, without_regions};

/// Lines that one rule would claim.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize)]
pub(super) struct UnclaimedLines {
    pub(super) product: String,
    /// The usage type as a pattern of a rule.
    pub(super) pattern: String,
    pub(super) usage_types: BTreeSet<String>,
    /// Without the empty one, which lines of a free tier have.
    pub(super) units: BTreeSet<String>,
    pub(super) lines: u64,
    /// In the unit of the bill, if that is one.
    pub(super) amount: Quantity,
    #[serde(flatten)]
    pub(super) says: KindDescription,
    /// They cost what attendee minutes cost, which proposes no more than that.
    pub(super) like_attendee_minutes: bool,
}

impl UnclaimedLines {
    fn add(&mut self, line: &LineKind, says: Option<&KindDescription>) {
        self.usage_types.insert(line.usage_type.clone());
        if !line.unit.is_empty() {
            self.units.insert(line.unit.clone());
        }
        self.lines += line.lines;
        self.amount += line.amount;
        let Some(says) = says else { return };
        self.says.operations.extend(says.operations.iter().cloned());
        self.says.rates.extend(says.rates.iter().cloned());
        self.says.descriptions.extend(says.descriptions.iter().cloned());
    }

    fn is_like_attendee_minutes(&self) -> bool {
        let costs_it = |rate: &String| rate.parse::<Decimal>().is_ok_and(|rate| rate == attendees::price());
        let words = self.usage_types.iter().chain(&self.says.operations).chain(&self.says.descriptions);
        self.product.starts_with("AmazonChime")
            && self.units.iter().any(|unit| attendees::is_minute(unit))
            && self.says.rates.iter().any(costs_it)
            && !attendees::is_other_charge(words.map(String::as_str))
    }
}

/// The unclaimed lines of a bill, most lines first.
pub(super) fn unclaimed(lines: &[LineKind], described: &BTreeMap<KindKey, KindDescription>) -> Vec<UnclaimedLines> {
    let mut groups: BTreeMap<(String, String), UnclaimedLines> = BTreeMap::new();
    for line in lines.iter().filter(|line| line.claim == ClaimKind::Unrecognised) {
        let (product, usage_type) = (line.product.clone(), line.usage_type.clone());
        let own = (pattern(&product), pattern(without_regions(&usage_type)));
        let key = KindKey { product, usage_type, unit: line.unit.clone() };
        groups.entry(own).or_default().add(line, described.get(&key));
    }
    let named = groups.into_iter().map(|((product, pattern), group)| {
        let group = UnclaimedLines { product, pattern, ..group };
        UnclaimedLines { like_attendee_minutes: group.is_like_attendee_minutes(), ..group }
    });
    let mut found: Vec<UnclaimedLines> = named.collect();
    found.sort_by_key(|group| std::cmp::Reverse(group.lines));
    found
}

/// The groups of several bills as one.
pub(super) fn together(bills: impl Iterator<Item = Vec<UnclaimedLines>>) -> Vec<UnclaimedLines> {
    let mut groups: BTreeMap<(String, String), UnclaimedLines> = BTreeMap::new();
    for group in bills.flatten() {
        match groups.get_mut(&(group.product.clone(), group.pattern.clone())) {
            Some(own) => {
                own.usage_types.extend(group.usage_types);
                own.units.extend(group.units);
                own.says.operations.extend(group.says.operations);
                own.says.rates.extend(group.says.rates);
                own.says.descriptions.extend(group.says.descriptions);
                own.lines += group.lines;
                own.amount += group.amount;
                own.like_attendee_minutes = own.is_like_attendee_minutes();
            }
            None => {
                groups.insert((group.product.clone(), group.pattern.clone()), group);
            }
        }
    }
    let mut found: Vec<UnclaimedLines> = groups.into_values().collect();
    found.sort_by_key(|group| std::cmp::Reverse(group.lines));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(product: &str, unit: &str, rate: &str, words: &str) -> UnclaimedLines {
        let says = KindDescription {
            rates: BTreeSet::from([rate.to_owned()]),
            descriptions: BTreeSet::from([words.to_owned()]),
            ..KindDescription::default()
        };
        let units = BTreeSet::from([unit.to_owned()]);
        UnclaimedLines { product: product.into(), units, says, ..UnclaimedLines::default() }
    }

    #[test]
    fn only_the_price_of_a_minute_of_chime_looks_like_attendee_minutes() {
        for (product, unit, rate, words, is_like) in [
            ("AmazonChimeServices", "Minutes", "0.0017000000", "$0.0017 per attendee minute", true),
            ("AmazonChime", "minute", "0.0017", "", true),
            ("AmazonConnect", "minute", "0.0017", "", false),
            ("AmazonChime", "Messages", "0.0017", "", false),
            ("AmazonChime", "minute", "0.00170001", "", false),
            ("AmazonChime", "minute", "about 0.0017", "", false),
            ("AmazonChime", "minute", "0.0017", "per minute of Media Replication", false),
            ("AmazonChimeVoiceConnector", "minute", "0.0017", "USE1-US-inbound-minutes", false),
        ] {
            let group = group(product, unit, rate, words);
            assert_eq!(group.is_like_attendee_minutes(), is_like, "{product} {unit} {rate} {words}");
        }
    }
}
