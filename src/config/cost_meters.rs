//! The sections `cost_meters`: what AWS charges, summed for each customer.

use std::collections::{BTreeMap, BTreeSet};

use books::units::similar::offer;
use books::usage::cost::CostColumn;
use books::usage::meter::{CostMeter, Pattern};
use books::usage::tag_key::canonical_name;
use serde::{Deserialize, Serialize};

use super::Config;
use super::raw::Step;

/// What AWS charges for the lines of a meter, or of some products.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CostMeterConfig {
    /// Its name; in the books the currency of the bill follows.
    pub name: String,
    /// The meter of which it sums the lines; none when it names products.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_of: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub products: Vec<String>,
    /// Usage types without region prefix; none = all of the products.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub usage_types: Vec<String>,
    /// Line types whose costs count; none = those of the column.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub line_types: Vec<String>,
    /// The column that is summed, by its name in CUR 2.0 or in a legacy bill.
    #[serde(default = "default_column")]
    pub amount_column: String,
}

fn default_column() -> String {
    CostColumn::Unblended.name().to_owned()
}

fn at(place: usize, field: &str) -> Vec<Step> {
    vec![Step::Key("cost_meters".into()), Step::Place(place), Step::Key(field.into())]
}

impl Config {
    /// Each cost meter, and the meter whose lines it sums, if it names one.
    pub fn cost_names(&self) -> BTreeMap<String, Option<String>> {
        self.cost_meters.iter().map(|cost| (cost.name.clone(), cost.cost_of.clone())).collect()
    }

    /// The rules of the cost meters; what is wrong is added to `faults`.
    pub(super) fn cost_rules(&self, faults: &mut Vec<(Vec<Step>, String)>) -> Vec<CostMeter> {
        self.cost_meters.iter().enumerate().map(|(place, cost)| self.cost_rule(place, cost, faults)).collect()
    }

    fn cost_rule(&self, place: usize, cost: &CostMeterConfig, faults: &mut Vec<(Vec<Step>, String)>) -> CostMeter {
        let mut fault = |field: &str, why: String| faults.push((at(place, field), why));
        let column = CostColumn::named(&canonical_name(&cost.amount_column)).unwrap_or_else(|| {
            let known = CostColumn::ALL.iter().map(|column| column.name());
            let why = format!("`{}` is no column of costs; {}", cost.amount_column, offer(&cost.amount_column, known));
            fault("amount_column", why);
            CostColumn::Unblended
        });
        let of = cost.cost_of.as_ref().and_then(|of| self.meters.iter().find(|meter| meter.name == *of));
        match (&cost.cost_of, of) {
            (Some(name), None) => {
                let known = self.meters.iter().map(|meter| meter.name.as_str());
                fault("cost_of", format!("there is no meter `{name}`; {}", offer(name, known)));
            }
            (Some(_), Some(_)) if !(cost.products.is_empty() && cost.usage_types.is_empty()) => {
                let why = "it takes the lines of that meter, so it has no products and usage types of its own; \
                           remove either";
                fault("cost_of", why.to_owned());
            }
            (None, _) if cost.products.is_empty() => {
                fault("name", "it sums nothing; name a meter (`cost_of`) or products".to_owned());
            }
            _ => {}
        }
        let all = ["*".to_owned()];
        let (products, usage_types): (&[String], &[String]) = match of {
            Some(of) => (&of.products, &of.usage_types),
            None if cost.usage_types.is_empty() => (&cost.products, &all),
            None => (&cost.products, &cost.usage_types),
        };
        let line_types: BTreeSet<String> = match cost.line_types.is_empty() {
            true => column.line_types().into_iter().map(str::to_owned).collect(),
            false => cost.line_types.iter().cloned().collect(),
        };
        // those of a meter are checked with it
        let mut patterns = |texts: &[String], make: fn(&str) -> Result<Pattern, _>, field: &str| {
            let mut found = vec![];
            for text in texts {
                match make(text) {
                    Ok(pattern) => found.push(pattern),
                    Err(why) if of.is_none() => faults.push((at(place, field), format!("{why}"))),
                    Err(_) => {}
                }
            }
            found
        };
        CostMeter {
            name: cost.name.clone(),
            column,
            products: patterns(products, Pattern::product, "products"),
            usage_types: patterns(usage_types, Pattern::usage_type, "usage_types"),
            line_types,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(costs: &str) -> Vec<String> {
        let text = format!("[[exports]]\nname = \"e\"\nlocation = \"bucket\"\n{costs}");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Config::load(Some(file.path()), std::iter::empty()).err().map(|e| e.0).unwrap_or_default()
    }

    #[test]
    fn a_cost_meter_that_makes_no_sense_is_refused() {
        for (fields, why) in [
            ("cost_of = \"chime_minutes\"", ""),
            ("cost_of = \"storage_gb\"\namount_column = \"lineItem/NetUnblendedCost\"", ""),
            ("products = [\"AmazonChime*\"]", ""),
            ("", "it sums nothing; name a meter (`cost_of`) or products"),
            ("cost_of = \"calls\"", "there is no meter `calls`; there are: `chime_minutes`"),
            ("cost_of = \"chime_minutes\"\nproducts = [\"AmazonS3\"]", "it has no products and usage types of its own"),
            (
                "products = [\"AmazonS3\"]\namount_column = \"line_item_usage_amount\"",
                "is no column of costs; there are: `line_item_unblended_cost`",
            ),
            ("products = [\"Amazon S3\"]", "which no product code or usage type has"),
            ("products = [\"AmazonS3\"]\nfactor = \"2\"", "there is no `factor` here"),
            ("products = [\"AmazonS3\"]\naccrues = \"presence\"", "there is no `accrues` here"),
        ] {
            let found = faults(&format!("[[cost_meters]]\nname = \"c\"\n{fields}\n"));
            assert_eq!(found.is_empty(), why.is_empty(), "{fields}: {found:?}");
            assert!(why.is_empty() || found.iter().any(|found| found.contains(why)), "{fields}: {found:?}");
        }
        let calls = "[[cost_meters]]\nname = \"a\"\ncost_of = \"chime_minutes\"\n";
        for (costs, why) in [
            ("[[cost_meters]]\nname = \"b\"\nproducts = [\"AmazonChime*\"]\n", "so its cost would count twice"),
            ("[[cost_meters]]\nname = \"a\"\ncost_of = \"storage_gb\"\n", "there are two cost meters named `a`"),
            ("[[cost_meters]]\nname = \"transfer_gb\"\ncost_of = \"transfer_gb\"\n", "a meter of usage is named"),
            ("[[cost_meters]]\nname = \"B (USD)\"\ncost_of = \"storage_gb\"\n", "use a-z, 0-9 and _"),
            ("[stripe.meters.a]\nevent_name = \"cost\"\n", "there is no such meter"),
        ] {
            let found = faults(&format!("{calls}{costs}"));
            assert!(found.iter().any(|found| found.contains(why)), "{costs}: {found:?}");
        }
    }
}
