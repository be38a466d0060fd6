//! Meters and ignore rules: the built-in ones, and those of the file, which extend them.
//!
//! An entry of `[[meters]]` with the name of a built-in meter stands in its place, whole. Every
//! other entry is one more. With `rules.replace_builtin` the lists of the file are all there is.

use std::collections::BTreeMap;

use books::limits::plan::TURN;
use books::measured::accrual::Accrues;
use books::usage::meter::{IgnoreRule, Meter, Pattern, Rules, RulesError, USAGE_LINE_TYPES};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use super::Config;
use super::raw::{Raw, Step};

/// The lists that have built-in entries.
const LISTS: [&str; 2] = ["meters", "ignore"];

/// The section `rules`: how the lists of the file go together with the built-in ones.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RulesConfig {
    /// A list of the file replaces the built-in one instead of extending it.
    pub replace_builtin: bool,
    /// By place in [`Config::meters`].
    #[serde(skip)]
    meter_origins: Vec<RuleOrigin>,
    /// By place in [`Config::ignore`].
    #[serde(skip)]
    ignore_origins: Vec<RuleOrigin>,
}

/// Where a meter or an ignore rule comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleOrigin {
    BuiltIn,
    /// This entry of the list in the file.
    Added(usize),
    /// This entry of the list in the file, in place of the built-in meter of its name.
    InPlace(usize),
}

impl RuleOrigin {
    /// The place in the list of the file.
    fn place(self) -> Option<usize> {
        match self {
            Self::BuiltIn => None,
            Self::Added(place) | Self::InPlace(place) => Some(place),
        }
    }
}

/// An entry of `[[meters]]`: a rule by which lines of the bill are counted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeterConfig {
    /// Its name in the books.
    pub name: String,
    /// Unit of the booked quantity.
    pub unit: String,
    /// The name that people read; none = one that is made of its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    pub products: Vec<String>,
    /// Usage types without region prefix.
    pub usage_types: Vec<String>,
    #[serde(default = "default_line_types")]
    pub line_types: Vec<String>,
    /// Booked quantity = billed amount × factor; text, so that it is exact.
    #[serde(default = "default_factor")]
    pub factor: Decimal,
    /// What is counted when the web backend measures it; none = it is not measured, unless its
    /// name is that of a built-in meter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accrues: Option<Accrues>,
}

/// Known lines that no meter needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IgnoreConfig {
    pub products: Vec<String>,
    /// Usage types without region prefix.
    pub usage_types: Vec<String>,
}

fn default_line_types() -> Vec<String> {
    USAGE_LINE_TYPES.map(str::to_owned).into()
}

fn default_factor() -> Decimal {
    Decimal::ONE
}

fn texts<const N: usize>(items: [&str; N]) -> Vec<String> {
    items.map(str::to_owned).into()
}

/// The meters that every configuration has, unless it replaces them.
pub(super) fn built_in_meters() -> Vec<MeterConfig> {
    let meter = |name: &str, unit: &str, products: Vec<String>, usage_types: Vec<String>| MeterConfig {
        name: name.into(),
        unit: unit.into(),
        display_name: None,
        products,
        usage_types,
        line_types: default_line_types(),
        factor: default_factor(),
        accrues: Accrues::built_in(name),
    };
    let s3 = || texts(["AmazonS3"]);
    vec![
        // AWS does not publish the usage types; other lines of Chime are shown as unrecognised
        meter(
            "chime_minutes",
            "minutes",
            texts(["AmazonChime", "AmazonChimeServices"]),
            texts(["Meetings-AttendeeMinutes", "AttendeeMinutes"]),
        ),
        meter("storage_gb", "GB-months", s3(), texts(["TimedStorage-*ByteHrs"])),
        meter("transfer_gb", "GB", s3(), texts(["DataTransfer-Out-Bytes"])),
    ]
}

/// The ignore rules that every configuration has, unless it replaces them.
pub(super) fn built_in_ignore() -> Vec<IgnoreConfig> {
    vec![IgnoreConfig {
        products: texts(["AmazonS3"]),
        usage_types: texts([
            "Requests-*",
            "DataTransfer-In-Bytes",
            "AWS-In-Bytes",
            "AWS-Out-Bytes",
            "Global-Bucket-Hrs-FreeTier",
            "StorageObjectCount",
        ]),
    }]
}

/// The meters that hold, each with its origin. A built-in meter keeps its place in the list, so
/// that a file that repeats it makes the same rules as none.
fn merged_meters(own: Vec<MeterConfig>) -> Vec<(RuleOrigin, MeterConfig)> {
    let mut own: Vec<_> = own.into_iter().enumerate().map(|(i, meter)| (RuleOrigin::Added(i), meter)).collect();
    let mut merged = vec![];
    for built_in in built_in_meters() {
        merged.push(match own.iter().position(|(_, meter)| meter.name == built_in.name) {
            Some(at) => {
                let (origin, meter) = own.remove(at);
                (RuleOrigin::InPlace(origin.place().unwrap_or(at)), meter)
            }
            None => (RuleOrigin::BuiltIn, built_in),
        });
    }
    merged.extend(own);
    merged
}

/// The ignore rules that hold, each with its origin; a repeated built-in one counts once.
fn merged_ignore(own: Vec<IgnoreConfig>) -> Vec<(RuleOrigin, IgnoreConfig)> {
    let built_in = built_in_ignore();
    let added = own.into_iter().enumerate().filter(|(_, rule)| !built_in.contains(rule));
    let added: Vec<_> = added.map(|(i, rule)| (RuleOrigin::Added(i), rule)).collect();
    built_in.into_iter().map(|rule| (RuleOrigin::BuiltIn, rule)).chain(added).collect()
}

fn listed<T>(own: Vec<T>) -> Vec<(RuleOrigin, T)> {
    own.into_iter().enumerate().map(|(i, rule)| (RuleOrigin::Added(i), rule)).collect()
}

impl Config {
    /// Puts the lists of the file beside the built-in ones, or in their place.
    pub(super) fn extend_built_in(&mut self, raw: &Raw, faults: &mut Vec<String>) {
        let replaces = self.rules.replace_builtin;
        let [meters, ignore] = LISTS.map(|list| raw.entries(list));
        if replaces && meters.is_none() && ignore.is_none() {
            let path = [Step::Key("rules".into()), Step::Key("replace_builtin".into())];
            let why = "nothing replaces them: there is no [[meters]] and no [[ignore]]; write what shall hold, or \
                       remove this key";
            faults.push(raw.place(&path, why));
        }
        if replaces && meters == Some(0) {
            let why = "no meter is left, because rules.replace_builtin leaves out the built-in ones; write at least \
                       one [[meters]], or remove this list";
            faults.push(raw.place(&[Step::Key("meters".into())], why));
        }
        let own = std::mem::take(&mut self.meters);
        let merged = match (meters, replaces) {
            (None, _) => own.into_iter().map(|meter| (RuleOrigin::BuiltIn, meter)).collect(),
            (Some(_), true) => listed(own),
            (Some(_), false) => merged_meters(own),
        };
        (self.rules.meter_origins, self.meters) = merged.into_iter().unzip();
        let own = std::mem::take(&mut self.ignore);
        let merged = match (ignore, replaces) {
            (None, _) => own.into_iter().map(|rule| (RuleOrigin::BuiltIn, rule)).collect(),
            (Some(_), true) => listed(own),
            (Some(_), false) => merged_ignore(own),
        };
        (self.rules.ignore_origins, self.ignore) = merged.into_iter().unzip();
    }

    /// Where the meter at this place of [`Config::meters`] comes from.
    pub fn meter_origin(&self, place: usize) -> RuleOrigin {
        self.rules.meter_origins.get(place).copied().unwrap_or(RuleOrigin::BuiltIn)
    }

    /// Where the rule at this place of [`Config::ignore`] comes from.
    pub fn ignore_origin(&self, place: usize) -> RuleOrigin {
        self.rules.ignore_origins.get(place).copied().unwrap_or(RuleOrigin::BuiltIn)
    }

    /// The path in the file to a field of a meter.
    pub(super) fn meter_path(&self, place: usize, field: &str) -> Vec<Step> {
        let at = self.meter_origin(place).place().unwrap_or(place);
        vec![Step::Key("meters".into()), Step::Place(at), Step::Key(field.into())]
    }

    /// The rules by which lines are read.
    ///
    /// # Errors
    /// Faults and where they are.
    pub(super) fn rule_set(&self) -> Result<Rules, Vec<(Vec<Step>, String)>> {
        let mut faults = vec![];
        let mut patterns = |texts: &[String], make: fn(&str) -> Result<Pattern, _>, path: &[Step]| {
            let mut found = vec![];
            for (i, text) in texts.iter().enumerate() {
                match make(text) {
                    Ok(pattern) => found.push(pattern),
                    Err(why) => faults.push(([path, &[Step::Place(i)]].concat(), format!("{why}"))),
                }
            }
            found
        };
        let meters = self.meters.iter().enumerate().map(|(i, m)| Meter {
            name: m.name.clone(),
            unit: m.unit.clone(),
            products: patterns(&m.products, Pattern::product, &self.meter_path(i, "products")),
            usage_types: patterns(&m.usage_types, Pattern::usage_type, &self.meter_path(i, "usage_types")),
            line_types: m.line_types.iter().cloned().collect(),
            factor: m.factor.normalize(),
        });
        let meters = meters.collect();
        let path = |i: usize, field: &str| {
            let at = self.ignore_origin(i).place().unwrap_or(i);
            [Step::Key("ignore".into()), Step::Place(at), Step::Key(field.into())]
        };
        let ignore = self.ignore.iter().enumerate().map(|(i, r)| IgnoreRule {
            products: patterns(&r.products, Pattern::product, &path(i, "products")),
            usage_types: patterns(&r.usage_types, Pattern::usage_type, &path(i, "usage_types")),
        });
        let ignore = ignore.collect();
        let watched = patterns(&self.watched_products, Pattern::product, &[Step::Key("watched_products".into())]);
        let shared_buckets = self.shared_buckets.iter().map(|bucket| bucket.rule(self.measure.settle_hours)).collect();
        let costs = self.cost_rules(&mut faults);
        let rules = Rules { tag_keys: self.tag_keys(), meters, ignore, watched, shared_buckets, costs };
        if let Err(found) = rules.check() {
            faults.extend(found.into_iter().map(|why| self.fault_of(&why)));
        }
        if faults.is_empty() { Ok(rules) } else { Err(faults) }
    }

    /// A fault of the rules in the words of the file, and where it is.
    fn fault_of(&self, why: &RulesError) -> (Vec<Step>, String) {
        let place = match why {
            RulesError::TagKey(..) if self.tag_keys.is_empty() => vec![Step::Key("tag_key".into())],
            RulesError::TagKey(place, _) => vec![Step::Key("tag_keys".into()), Step::Place(*place)],
            RulesError::Cost(place, _) => vec![Step::Key("cost_meters".into()), Step::Place(*place)],
            RulesError::TagKeys(_) => vec![Step::Key("tag_keys".into())],
            RulesError::Overlap { first, second, product, usage_type } => {
                return self.overlap(first, second, &format!("usage type `{usage_type}` of product `{product}`"));
            }
            // of two with one name, the second is one too many
            RulesError::Name(name)
            | RulesError::Empty(name, _)
            | RulesError::Factor(name, _)
            | RulesError::Twice(name) => {
                let at = self.meters.iter().rposition(|meter| meter.name == *name);
                let origin = at.and_then(|at| self.meter_origin(at).place());
                [Step::Key("meters".into())].into_iter().chain(origin.map(Step::Place)).collect()
            }
            RulesError::TooMany(_) => vec![Step::Key("meters".into())],
        };
        (place, why.to_string())
    }

    /// What to do about two meters that claim one line. A built-in one cannot be narrowed.
    fn overlap(&self, first: &str, second: &str, lines: &str) -> (Vec<Step>, String) {
        let origin = |name: &str| {
            let place = self.meters.iter().position(|meter| meter.name == name);
            place.map_or(RuleOrigin::BuiltIn, |place| self.meter_origin(place)).place()
        };
        let path = |at: usize| vec![Step::Key("meters".into()), Step::Place(at)];
        let (own, built_in, at) = match (origin(first), origin(second)) {
            (Some(at), None) => (first, second, at),
            (None, Some(at)) => (second, first, at),
            (_, at) => {
                let place = at.map_or(vec![Step::Key("meters".into())], path);
                return (place, format!("meters `{first}` and `{second}` both claim {lines}; narrow one of them"));
            }
        };
        let why = format!(
            "meters `{own}` and `{built_in}` both claim {lines}, and `{built_in}` is built in: to change it, name this \
             meter `{built_in}`; to have both, write a `{built_in}` of your own without these lines; to leave out all \
             built-in meters, set rules.replace_builtin = true"
        );
        (path(at), why)
    }

    /// The rules of a configuration that was checked.
    pub fn checked_rules(&self) -> anyhow::Result<Rules> {
        self.rule_set().map_err(|faults| anyhow::anyhow!("{faults:?}"))
    }

    /// What is not wrong with the rules, and may not be meant.
    pub fn rule_notes(&self) -> Vec<String> {
        let mut notes = vec![];
        if self.rules.replace_builtin {
            let names = built_in_meters().into_iter().map(|meter| meter.name);
            let gone: Vec<String> = names.filter(|name| self.meters.iter().all(|meter| meter.name != *name)).collect();
            if !gone.is_empty() {
                notes.push(format!("rules.replace_builtin leaves out the built-in meters {}", gone.join(", ")));
            }
            if built_in_ignore().iter().any(|rule| !self.ignore.contains(rule)) {
                notes.push("rules.replace_builtin leaves out the built-in ignore rules".to_owned());
            }
        }
        for (i, rule) in self.ignore.iter().enumerate() {
            let Some(place) = self.ignore_origin(i).place() else { continue };
            notes.extend(self.ineffective(rule).map(|(usage_type, meter)| {
                format!(
                    "ignore[{place}] has no effect on `{usage_type}`: meter `{meter}` counts it, and a meter wins over \
                     an ignore rule"
                )
            }));
        }
        notes
    }

    /// The usage types of an ignore rule, written without `*`, that a meter claims all the same.
    fn ineffective<'a>(&'a self, rule: &'a IgnoreConfig) -> impl Iterator<Item = (&'a str, &'a str)> {
        let fits = |texts: &[String], make: fn(&str) -> Result<Pattern, _>, text: &str| {
            texts.iter().any(|own| make(own).is_ok_and(|pattern| pattern.matches(text)))
        };
        let claims = move |meter: &&MeterConfig, usage_type: &str| {
            rule.products.iter().any(|product| fits(&meter.products, Pattern::product, product))
                && fits(&meter.usage_types, Pattern::usage_type, usage_type)
        };
        let plain = rule.usage_types.iter().filter(|usage_type| !usage_type.contains('*'));
        plain.filter_map(move |usage_type| {
            let meter = self.meters.iter().find(|meter| claims(meter, usage_type))?;
            Some((usage_type.as_str(), meter.name.as_str()))
        })
    }

    /// The unit of each meter, and of TURN credentials.
    pub fn units(&self) -> BTreeMap<String, String> {
        let units = self.meters.iter().map(|m| (m.name.clone(), m.unit.clone()));
        units.chain([(TURN.to_owned(), "credentials".to_owned())]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const METER: &str = "unit = \"u\"\nproducts = [\"AmazonX\"]\nusage_types = [\"Y\"]\n";

    fn load(text: &str) -> Result<Config, Vec<String>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Config::load(Some(file.path()), std::iter::empty()).map_err(|e| e.0)
    }

    fn names(config: &Config) -> Vec<(&str, RuleOrigin)> {
        let meters = config.meters.iter().enumerate();
        meters.map(|(i, meter)| (meter.name.as_str(), config.meter_origin(i))).collect()
    }

    #[test]
    fn a_meter_of_the_file_extends_the_built_in_ones_and_one_of_their_names_replaces_that_one() {
        use RuleOrigin::{Added, BuiltIn, InPlace};
        let storage = METER.replace("AmazonX", "AmazonZ");
        let text = format!("[[meters]]\nname = \"x\"\n{METER}[[meters]]\nname = \"storage_gb\"\n{storage}");
        let one = load(&text).unwrap();
        let all = [("chime_minutes", BuiltIn), ("storage_gb", InPlace(1)), ("transfer_gb", BuiltIn), ("x", Added(0))];
        assert_eq!(names(&one), all);
        let replaced = &one.meters[1];
        assert_eq!((replaced.products.as_slice(), replaced.unit.as_str()), (&["AmazonZ".to_owned()][..], "u"), "whole");
        assert_eq!(one.ignore, built_in_ignore());
        let only = format!("[rules]\nreplace_builtin = true\n[[meters]]\nname = \"x\"\n{METER}");
        let only = load(&only).unwrap();
        assert_eq!(names(&only), [("x", Added(0))]);
        assert_eq!(only.ignore, built_in_ignore(), "a list that the file does not have stays as it is built in");
    }

    /// Guards against: an upgrade reads every bill again though nothing has changed.
    #[test]
    fn a_file_that_repeats_what_is_built_in_makes_the_same_rules() {
        let digest = |config: &Config| config.checked_rules().unwrap().digest();
        let none = Config::load(None, std::iter::empty()).unwrap();
        let shown = toml::to_string_pretty(&none).unwrap();
        let again = load(&shown).unwrap();
        assert_eq!(digest(&again), digest(&none));
        // what `replace_builtin = true` makes of the same lists is what they made before it existed
        let replaced = load(&shown.replace("replace_builtin = false", "replace_builtin = true")).unwrap();
        assert_eq!(digest(&replaced), digest(&none));
        let more = load(&format!("[[meters]]\nname = \"x\"\n{METER}")).unwrap();
        assert_ne!(digest(&more), digest(&none));
        assert_eq!(digest(&load(&toml::to_string_pretty(&more).unwrap()).unwrap()), digest(&more));
    }

    #[test]
    fn a_set_of_rules_that_leaves_nothing_is_refused() {
        let rules = "[rules]\nreplace_builtin = true\n";
        for (text, why) in [
            (rules.to_owned(), "rules.replace_builtin: nothing replaces them"),
            (format!("meters = []\n{rules}"), "meters: no meter is left"),
            ("[rules]\nreplace_built_in = true\n".to_owned(), "did you mean `replace_builtin`?"),
            (
                "[rules]\nreplace_builtin = \"meters\"\n".to_owned(),
                "rules.replace_builtin: `true` or `false` is expected",
            ),
        ] {
            let found = load(&text).err().unwrap_or_default();
            assert!(found.len() == 1 && found[0].contains(why), "{text}: {found:?}");
        }
        let none = load(&format!("ignore = []\n{rules}")).unwrap();
        assert!(none.ignore.is_empty() && none.meters == built_in_meters(), "to ignore nothing is a choice");
    }

    #[test]
    fn a_meter_wins_over_an_ignore_rule_whoever_wrote_either() {
        let text = "[[meters]]\nname = \"s3_requests\"\nunit = \"Requests\"\nproducts = [\"AmazonS3\"]\n\
                    usage_types = [\"Requests-Tier1\"]\n\
                    [[ignore]]\nproducts = [\"AmazonS3\"]\nusage_types = [\"DataTransfer-Out-Bytes\", \"EarlyDelete-*\"]\n";
        let config = load(text).unwrap();
        let rules = config.checked_rules().unwrap();
        let claimed = |usage_type: &str| {
            let claim = rules.claim("AmazonS3", usage_type, "Usage");
            match claim {
                books::usage::meter::LineClaim::Counted(meter) => rules.meters[usize::from(meter)].name.clone(),
                other => format!("{other:?}"),
            }
        };
        // the meter is the file's, the ignore rule is built in
        assert_eq!(claimed("EU-Requests-Tier1"), "s3_requests");
        assert_eq!(claimed("EU-Requests-Tier2"), "Ignored");
        // the ignore rule is the file's, the meter is built in
        assert_eq!(claimed("DataTransfer-Out-Bytes"), "transfer_gb");
        assert_eq!(claimed("EarlyDelete-ByteHrs"), "Ignored");
        let [note] = &config.rule_notes()[..] else { panic!("{:?}", config.rule_notes()) };
        assert!(note.contains("ignore[0] has no effect on `DataTransfer-Out-Bytes`: meter `transfer_gb`"), "{note}");
    }

    #[test]
    fn faults_are_at_the_entry_of_the_file() {
        let text = "[[meters]]\nname = \"transfer_gb\"\nunit = \"GB\"\nproducts = [\"Amazon S3\"]\nusage_types = [\"X\"]\n\
                    [[meters]]\nname = \"all\"\nunit = \"GB\"\nproducts = [\"AmazonS3\"]\nusage_types = [\"Timed*\"]\n\
                    [[ignore]]\nproducts = [\"\"]\nusage_types = [\"x\"]\n";
        let found = load(text).err().unwrap_or_default();
        for (line, why) in [
            (4, "meters[0].products[0]: the pattern has ' '"),
            (6, "meters[1]: meters `all` and `storage_gb` both claim usage type `TimedStorage-ByteHrs`"),
            (12, "ignore[0].products[0]: the pattern is empty"),
        ] {
            let is_there = |fault: &&String| fault.contains(&format!(":{line}: ")) && fault.contains(why);
            assert!(found.iter().any(|fault| is_there(&fault)), "{line} {why}: {found:?}");
        }
    }
}
