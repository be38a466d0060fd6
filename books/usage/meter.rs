//! Meters are data: which lines of a bill count for which meter, and in which unit.
//!
//! A line belongs to a meter by its product code and its usage type, which are matched by patterns:
//! `*` stands for any run of characters, every other character for itself. A usage type has a
//! region prefix (`EUC1-`, `EU-`), none in us-east-1, and two for traffic between regions
//! (`USE1-EUW2-AWS-Out-Bytes`), so up to two prefixes are optional in front of every usage-type
//! pattern
//! (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/aws-usage-report-understand.html>).

use std::collections::BTreeSet;

use rust_decimal::Decimal;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::shared_bucket::shares::BucketRule;
use crate::usage::cost::CostColumn;
use crate::usage::tag_key;

/// Line types that carry usage by default
/// (<https://docs.aws.amazon.com/cur/latest/userguide/Lineitem-columns.html>).
pub const USAGE_LINE_TYPES: [&str; 3] = ["Usage", "DiscountedUsage", "SavingsPlanCoveredUsage"];

/// Known line types that carry no usage: they move money, or repeat the usage of another line.
pub const OTHER_LINE_TYPES: [&str; 14] = [
    "BundledDiscount",
    "Credit",
    "Discount",
    "EdpDiscount",
    "Fee",
    "PrivateRateDiscount",
    "RIFee",
    "Refund",
    "RiVolumeDiscount",
    "SavingsPlanNegation",
    "SavingsPlanRecurringFee",
    "SavingsPlanUpfrontFee",
    "SppDiscount",
    "Tax",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
enum Atom {
    Is(char),
    /// Any run of characters, also none.
    Run,
    /// An optional region prefix: one or more of `A-Z0-9`, then `-`.
    Region,
}

/// A pattern over product codes or usage types.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    atoms: Vec<Atom>,
}

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    #[error("the pattern is empty")]
    Empty,
    #[error("the pattern has {0:?}, which no product code or usage type has")]
    Character(char),
}

/// A state of a pattern's automaton: the next atom, and whether a character of that
/// [`Atom::Region`] was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    atom: usize,
    in_region: bool,
}

impl State {
    fn before(atom: usize) -> Self {
        Self { atom, in_region: false }
    }
}

impl Pattern {
    /// A pattern for product codes: no region prefix.
    ///
    /// # Errors
    /// When it is empty, or has white space or control characters.
    pub fn product(text: &str) -> Result<Self, PatternError> {
        Self::with_prefix(text, 0)
    }

    /// A pattern for usage types: up to two region prefixes are optional in front of it.
    pub fn usage_type(text: &str) -> Result<Self, PatternError> {
        Self::with_prefix(text, 2)
    }

    fn with_prefix(text: &str, prefixes: usize) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        if let Some(bad) = text.chars().find(|c| c.is_control() || c.is_whitespace()) {
            return Err(PatternError::Character(bad));
        }
        let own = text.chars().map(|c| if c == '*' { Atom::Run } else { Atom::Is(c) });
        Ok(Self { text: text.to_owned(), atoms: std::iter::repeat_n(Atom::Region, prefixes).chain(own).collect() })
    }

    /// Adds `state` and all states that are reachable from it without reading a character.
    fn closure(&self, state: State, into: &mut BTreeSet<State>) {
        if !into.insert(state) {
            return;
        }
        if let (Some(Atom::Run | Atom::Region), false) = (self.atoms.get(state.atom), state.in_region) {
            self.closure(State::before(state.atom + 1), into);
        }
    }

    /// The state after reading `c` in `state`.
    fn step(&self, state: State, c: char) -> Option<State> {
        let State { atom, in_region } = state;
        match self.atoms.get(atom)? {
            Atom::Is(own) if *own == c => Some(State::before(atom + 1)),
            Atom::Run => Some(State::before(atom)),
            Atom::Region if c.is_ascii_uppercase() || c.is_ascii_digit() => Some(State { atom, in_region: true }),
            Atom::Region if in_region && c == '-' => Some(State::before(atom + 1)),
            _ => None,
        }
    }

    fn start(&self) -> BTreeSet<State> {
        let mut states = BTreeSet::new();
        self.closure(State::before(0), &mut states);
        states
    }

    fn after(&self, states: &BTreeSet<State>, c: char) -> BTreeSet<State> {
        let mut next = BTreeSet::new();
        for state in states.iter().filter_map(|s| self.step(*s, c)) {
            self.closure(state, &mut next);
        }
        next
    }

    fn accepts(&self, states: &BTreeSet<State>) -> bool {
        states.contains(&State::before(self.atoms.len()))
    }

    /// True when the pattern matches the whole of `text`.
    pub fn matches(&self, text: &str) -> bool {
        let mut states = self.start();
        for c in text.chars() {
            states = self.after(&states, c);
            if states.is_empty() {
                return false;
            }
        }
        self.accepts(&states)
    }

    /// A text that both patterns match, if there is one. Exact: both automata are walked at once.
    pub fn common(&self, other: &Self) -> Option<String> {
        // one character of each class that the automata tell apart: those written in a pattern, a
        // region character, a dash, and one that is none of these
        let mut alphabet: BTreeSet<char> = ['A', '-', 'x'].into();
        for atom in self.atoms.iter().chain(&other.atoms) {
            if let Atom::Is(c) = atom {
                alphabet.insert(*c);
            }
        }
        let start = (self.start(), other.start());
        let mut seen = BTreeSet::from([start.clone()]);
        let mut queue = std::collections::VecDeque::from([(start, String::new())]);
        while let Some(((mine, theirs), text)) = queue.pop_front() {
            if self.accepts(&mine) && other.accepts(&theirs) {
                return Some(text);
            }
            for c in &alphabet {
                let next = (self.after(&mine, *c), other.after(&theirs, *c));
                if !next.0.is_empty() && !next.1.is_empty() && seen.insert(next.clone()) {
                    queue.push_back((next, format!("{text}{c}")));
                }
            }
        }
        None
    }
}

impl Serialize for Pattern {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.text)
    }
}

/// A meter: lines of these products and usage types, counted in this unit.
#[derive(Clone, Debug, Serialize)]
pub struct Meter {
    /// Name in the books, e.g. `chime_minutes`.
    pub name: String,
    /// Unit of the booked quantity, e.g. `minutes`, `GB-months`.
    pub unit: String,
    /// Product codes (`line_item_product_code`).
    pub products: Vec<Pattern>,
    /// Usage types (`line_item_usage_type`) without region prefixes.
    pub usage_types: Vec<Pattern>,
    /// Line types that carry usage (`line_item_line_item_type`).
    pub line_types: BTreeSet<String>,
    /// Booked quantity = billed amount × factor.
    pub factor: Decimal,
}

/// A cost meter: what AWS charges for lines of these products and usage types.
#[derive(Clone, Debug, Serialize)]
pub struct CostMeter {
    /// Its name, e.g. `chime_cost`; in the books the currency follows.
    pub name: String,
    /// The column that is summed.
    pub column: CostColumn,
    /// Product codes (`line_item_product_code`).
    pub products: Vec<Pattern>,
    /// Usage types (`line_item_usage_type`) without region prefixes.
    pub usage_types: Vec<Pattern>,
    /// Line types whose costs count (`line_item_line_item_type`).
    pub line_types: BTreeSet<String>,
}

/// Lines of a watched product that are known and not metered.
#[derive(Clone, Debug, Serialize)]
pub struct IgnoreRule {
    pub products: Vec<Pattern>,
    /// Usage types without region prefixes.
    pub usage_types: Vec<Pattern>,
}

/// What a line is to the meters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LineClaim {
    /// Usage of the meter at this place in [`Rules::meters`].
    Counted(u8),
    /// A line that the meter's patterns fit and that it does not count: its line type is not in the
    /// meter's `line_types` (credit, tax, refund, …), it is a split-cost child, or it is faulty and
    /// left out.
    Excluded(u8),
    /// An ignore rule names it.
    Ignored,
    /// Usage of a watched product that no rule names.
    Unrecognised,
    /// A line of a watched product without usage that no meter claims.
    NotUsage,
}

/// All rules by which lines are read.
#[derive(Clone, Debug, Serialize)]
pub struct Rules {
    /// Keys of the cost allocation tag with the customer's id, as they are written on resources.
    /// The first one that has a value on a line counts.
    pub tag_keys: Vec<String>,
    pub meters: Vec<Meter>,
    pub ignore: Vec<IgnoreRule>,
    /// Product codes of which every line must be accounted for.
    pub watched: Vec<Pattern>,
    /// Buckets that all customers share.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shared_buckets: Vec<BucketRule>,
    /// What is summed in money. A line may be usage of a meter and have a cost.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub costs: Vec<CostMeter>,
}

/// Why a set of rules cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RulesError {
    /// A line could be counted twice.
    #[error(
        "meters `{first}` and `{second}` both claim usage type `{usage_type}` of product `{product}`; narrow one of them"
    )]
    Overlap { first: String, second: String, product: String, usage_type: String },
    #[error("there are two meters named `{0}`")]
    Twice(String),
    #[error("`{0}` is no meter name; use a-z, 0-9 and _")]
    Name(String),
    #[error("meter `{0}` has no {1}")]
    Empty(String, &'static str),
    #[error("meter `{0}` has the factor {1}; it must be above 0 with at most 10 decimals")]
    Factor(String, Decimal),
    #[error("there are {0} meters; at most 200 are possible")]
    TooMany(usize),
    /// What is wrong with the tag key at this place of [`Rules::tag_keys`].
    #[error("{1}")]
    TagKey(usize, String),
    #[error("there are {0} tag keys; 1 to 16 are possible")]
    TagKeys(usize),
    /// What is wrong with the cost meter at this place of [`Rules::costs`].
    #[error("{1}")]
    Cost(usize, String),
}

fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    !name.is_empty() && name.chars().all(plain)
}

fn any(patterns: &[Pattern], text: &str) -> bool {
    patterns.iter().any(|p| p.matches(text))
}

fn common(a: &[Pattern], b: &[Pattern]) -> Option<String> {
    a.iter().flat_map(|x| b.iter().map(move |y| (x, y))).find_map(|(x, y)| x.common(y))
}

impl Rules {
    /// Checks the rules before any line is read; above all, that no line can match two meters.
    ///
    /// # Errors
    /// Every fault, in order.
    pub fn check(&self) -> Result<(), Vec<RulesError>> {
        let mut faults = Vec::new();
        if !(1..=16).contains(&self.tag_keys.len()) {
            faults.push(RulesError::TagKeys(self.tag_keys.len()));
        }
        let keys = tag_key::faults(&self.tag_keys).into_iter();
        faults.extend(keys.map(|(place, why)| RulesError::TagKey(place, why)));
        if self.meters.len() > 200 {
            faults.push(RulesError::TooMany(self.meters.len()));
        }
        for (i, meter) in self.meters.iter().enumerate() {
            let name = &meter.name;
            if !is_plain(name) {
                faults.push(RulesError::Name(name.clone()));
            }
            let parts = [
                (meter.products.is_empty(), "products"),
                (meter.usage_types.is_empty(), "usage types"),
                (meter.line_types.is_empty(), "line types"),
                (meter.unit.is_empty(), "unit"),
            ];
            faults.extend(parts.iter().filter(|p| p.0).map(|p| RulesError::Empty(name.clone(), p.1)));
            if meter.factor <= Decimal::ZERO || meter.factor.normalize().scale() > 10 {
                faults.push(RulesError::Factor(name.clone(), meter.factor));
            }
            for other in &self.meters[..i] {
                if other.name == *name {
                    faults.push(RulesError::Twice(name.clone()));
                }
                if let (Some(product), Some(usage_type)) =
                    (common(&other.products, &meter.products), common(&other.usage_types, &meter.usage_types))
                {
                    let (first, second) = (other.name.clone(), name.clone());
                    faults.push(RulesError::Overlap { first, second, product, usage_type });
                }
            }
        }
        let costs = self.cost_faults().into_iter();
        faults.extend(costs.map(|(place, why)| RulesError::Cost(place, why)));
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    /// What is wrong with the cost meters, each by its place; above all, that the cost of a line
    /// would count twice.
    fn cost_faults(&self) -> Vec<(usize, String)> {
        let mut faults = vec![];
        if self.costs.len() > 200 {
            faults.push((200, format!("there are {} cost meters; at most 200 are possible", self.costs.len())));
        }
        for (i, cost) in self.costs.iter().enumerate() {
            let name = &cost.name;
            let mut fault = |why: String| faults.push((i, why));
            if !is_plain(name) {
                fault(format!("`{name}` is no name of a cost meter; use a-z, 0-9 and _"));
            }
            if self.meters.iter().any(|meter| meter.name == *name) {
                fault(format!("a meter of usage is named `{name}`, too; name the cost meter otherwise"));
            }
            let parts = [
                (cost.products.is_empty(), "products"),
                (cost.usage_types.is_empty(), "usage types"),
                (cost.line_types.is_empty(), "line types"),
            ];
            for (_, part) in parts.iter().filter(|part| part.0) {
                fault(format!("cost meter `{name}` has no {part}"));
            }
            for other in &self.costs[..i] {
                if other.name == *name {
                    fault(format!("there are two cost meters named `{name}`"));
                }
                if let (Some(product), Some(usage_type)) =
                    (common(&other.products, &cost.products), common(&other.usage_types, &cost.usage_types))
                {
                    let other = &other.name;
                    fault(format!(
                        "cost meters `{other}` and `{name}` both claim usage type `{usage_type}` of product `{product}`, \
                         so its cost would count twice; narrow one of them"
                    ));
                }
            }
        }
        faults
    }

    /// The rules by which lines are read for the cost meters, which then stand in place of meters;
    /// none without cost meters. Every other line is nobody's.
    pub fn of_costs(&self) -> Option<Self> {
        let meter = |cost: &CostMeter| Meter {
            name: cost.name.clone(),
            unit: String::new(),
            products: cost.products.clone(),
            usage_types: cost.usage_types.clone(),
            line_types: cost.line_types.clone(),
            factor: Decimal::ONE,
        };
        (!self.costs.is_empty()).then(|| Self {
            tag_keys: self.tag_keys.clone(),
            meters: self.costs.iter().map(meter).collect(),
            ignore: vec![],
            watched: vec![],
            shared_buckets: vec![],
            costs: vec![],
        })
    }

    /// The columns that the cost meters sum, each once.
    pub fn cost_columns(&self) -> Vec<CostColumn> {
        let columns: BTreeSet<CostColumn> = self.costs.iter().map(|cost| cost.column).collect();
        columns.into_iter().collect()
    }

    /// True when every line of this product must be accounted for: it is watched, or a meter counts
    /// it.
    pub fn watches(&self, product: &str) -> bool {
        any(&self.watched, product) || self.meters.iter().any(|m| any(&m.products, product))
    }

    /// True when it is known whether lines of this type carry usage.
    pub fn knows_line_type(&self, line_type: &str) -> bool {
        self.is_usage(line_type) || OTHER_LINE_TYPES.contains(&line_type)
    }

    fn is_usage(&self, line_type: &str) -> bool {
        USAGE_LINE_TYPES.contains(&line_type) || self.meters.iter().any(|m| m.line_types.contains(line_type))
    }

    /// Classifies a line of a watched product.
    pub fn claim(&self, product: &str, usage_type: &str, line_type: &str) -> LineClaim {
        let meter = self.meters.iter().position(|m| any(&m.products, product) && any(&m.usage_types, usage_type));
        if let Some(index) = meter {
            let number = u8::try_from(index).unwrap_or(u8::MAX);
            let counts = self.meters[index].line_types.contains(line_type);
            return if counts { LineClaim::Counted(number) } else { LineClaim::Excluded(number) };
        }
        if self.ignore.iter().any(|r| any(&r.products, product) && any(&r.usage_types, usage_type)) {
            return LineClaim::Ignored;
        }
        if self.is_usage(line_type) || !self.knows_line_type(line_type) {
            LineClaim::Unrecognised
        } else {
            LineClaim::NotUsage
        }
    }

    /// A digest of all rules. A bill that was read by other rules is read anew.
    pub fn digest(&self) -> String {
        let text = serde_json::to_vec(self).unwrap_or_default();
        Sha256::digest(&text).iter().map(|b| format!("{b:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn usage(text: &str) -> Pattern {
        Pattern::usage_type(text).unwrap()
    }

    #[test]
    fn region_prefixes_are_optional_and_may_be_double() {
        let out = usage("DataTransfer-Out-Bytes");
        for yes in ["DataTransfer-Out-Bytes", "EU-DataTransfer-Out-Bytes", "USE1-EUW2-DataTransfer-Out-Bytes"] {
            assert!(out.matches(yes), "{yes}");
        }
        for no in [
            "DataTransfer-Out-Bytes2",
            "eu-DataTransfer-Out-Bytes",
            "A-B-C-DataTransfer-Out-Bytes",
            "-DataTransfer-Out-Bytes",
            "",
        ] {
            assert!(!out.matches(no), "{no}");
        }
        let storage = usage("TimedStorage-*ByteHrs");
        for yes in ["TimedStorage-ByteHrs", "EUC1-TimedStorage-GIR-ByteHrs", "TimedStorage-INT-FA-ByteHrs"] {
            assert!(storage.matches(yes), "{yes}");
        }
        for no in ["TimedStorage-GIR-SmObjects", "TimedStorage-GlacierStaging", "EarlyDelete-ByteHrs"] {
            assert!(!storage.matches(no), "{no}");
        }
        assert!(usage("AWS-Out-Bytes").matches("USE1-EUW2-AWS-Out-Bytes"));
        assert!(!Pattern::product("AmazonS3").unwrap().matches("EU-AmazonS3"));
    }

    #[test]
    fn patterns_that_share_a_text_are_found() {
        assert_eq!(usage("A*").common(&usage("*B")).as_deref(), Some("AB"));
        assert!(usage("Timed*").common(&usage("Timer*")).is_none());
        assert!(usage("AWS-Out-Bytes").common(&usage("Out-Bytes")).is_some(), "AWS- reads as a region");
        assert!(usage("Bytes").common(&usage("EU-Bytes")).is_some());
        assert!(usage("Bytes").common(&usage("eu-Bytes")).is_none());
    }

    proptest! {
        /// A shared text is matched by both patterns, and it is found whenever a short one exists.
        #[test]
        fn common_agrees_with_trying_everything(a in "[Ab*-]{1,4}", b in "[Ab*-]{1,4}") {
            let (x, y) = (usage(&a), usage(&b));
            let mut texts = vec![String::new()];
            let mut found = false;
            for _ in 0..7 {
                found |= texts.iter().any(|t| x.matches(t) && y.matches(t));
                texts = texts.iter().flat_map(|t| ["A", "b", "-"].map(|c| format!("{t}{c}"))).collect();
            }
            let common = x.common(&y);
            if let Some(text) = &common {
                prop_assert!(x.matches(text) && y.matches(text));
            }
            prop_assert!(!found || common.is_some());
        }
    }
}
