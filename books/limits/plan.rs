//! Plans: how much is included in a billing period, and what more costs. A plan has versions, each
//! effective from an instant.

use std::collections::BTreeMap;

use crate::store::connection::{Connection, params};
use crate::units::similar::offer;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::units::calendar::Month;
use crate::units::form;
use crate::units::money::{Currency, Price};
use crate::units::quantity::Quantity;

/// The meter of TURN credentials, which the web backend counts.
pub const TURN: &str = "turn_allocations";
/// The plan of customers that name none.
pub const DEFAULT_PLAN: &str = "core";

/// Which part of a meter's usage is reported to Stripe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReportMode {
    Total,
    /// Usage beyond the included amount.
    Overage,
    #[default]
    None,
}

impl ReportMode {
    const ALL: [(Self, &'static str); 3] = [(Self::Total, "total"), (Self::Overage, "overage"), (Self::None, "none")];

    /// As it is stored.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(report, _)| *report == self).map_or("none", |(_, name)| name)
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == name).map(|(report, _)| *report)
    }
}

/// The terms of a meter in a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terms {
    /// Units that the plan includes in each billing period.
    pub included: Quantity,
    /// Price of each further unit; none = no further unit can be used. See
    /// [`Terms::billed_price`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<Price>,
    #[serde(default)]
    pub report: ReportMode,
}

impl Terms {
    /// The price of each further unit of `meter`, as far as it is billed. A price that is reported
    /// to nobody counts as none, and so does one of [`TURN`], which older builds stored: nothing
    /// beyond the included amount can be used then, so that no budget is spent on it.
    pub fn billed_price(&self, meter: &str) -> Option<Price> {
        self.price.filter(|_| meter != TURN && self.report != ReportMode::None)
    }
}

/// A version of a plan.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The same for all versions.
    pub name: String,
    /// Currency of its prices, and of its customers' budgets.
    pub currency: Currency,
    pub effective_from: Timestamp,
    /// A meter that is not here is not part of the plan.
    pub meters: BTreeMap<String, Terms>,
}

/// What applying a version did, or would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Applied {
    New,
    /// The same version is stored already.
    Unchanged,
    /// It replaces a stored version that is not effective yet.
    Replaced,
}

/// Why plans cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Wrong(Vec<PlanFault>),
    #[error(transparent)]
    Books(#[from] BooksError),
}

/// What is wrong with one of the versions that were given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("plan `{plan}`: {}{why}", .meter.as_ref().map(|m| format!("meter `{m}`: ")).unwrap_or_default())]
pub struct PlanFault {
    /// Which of the versions, from 0 on.
    pub place: usize,
    pub plan: String,
    /// The meter with the wrong terms; none when the version itself is wrong.
    pub meter: Option<String>,
    pub why: String,
}

/// Every version of every plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plans(BTreeMap<String, Vec<Plan>>);

impl Plans {
    pub fn new(versions: impl IntoIterator<Item = Plan>) -> Self {
        let mut plans: BTreeMap<String, Vec<Plan>> = BTreeMap::new();
        for version in versions {
            plans.entry(version.name.clone()).or_default().push(version);
        }
        plans.values_mut().for_each(|versions| versions.sort_by_key(|v| v.effective_from));
        Self(plans)
    }

    /// The version for a billing period that began at `start`: the one that was effective then,
    /// else the plan's first.
    pub fn at(&self, name: &str, start: i64) -> Option<&Plan> {
        let versions = self.0.get(name)?;
        versions.iter().rfind(|v| v.effective_from.as_second() <= start).or_else(|| versions.first())
    }

    /// The versions that count from `now` on: of each plan the one that holds, and those to come.
    pub fn from(&self, now: Timestamp) -> Vec<&Plan> {
        let holds = |plan: &&Plan| self.at(&plan.name, now.as_second()) == Some(plan);
        self.iter().filter(|plan| plan.effective_from > now || holds(plan)).collect()
    }

    /// These plans with `versions`, which take the place of stored ones of the same instant.
    #[must_use]
    pub fn with(&self, versions: &[Plan]) -> Self {
        let replaced = |p: &&Plan| versions.iter().any(|v| v.name == p.name && v.effective_from == p.effective_from);
        Self::new(self.iter().filter(|p| !replaced(p)).chain(versions).cloned())
    }

    /// All versions, by name and time.
    pub fn iter(&self) -> impl Iterator<Item = &Plan> {
        self.0.values().flatten()
    }

    pub fn names(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    pub async fn load(c: &Connection) -> Result<Self, BooksError> {
        let mut rows = c
            .query(
                "SELECT p.name, p.effective_from, p.currency, m.meter, m.included, m.price, m.report \
                 FROM plans p LEFT JOIN plan_meters m ON m.plan = p.name AND m.effective_from = p.effective_from \
                 ORDER BY p.name, p.effective_from, m.meter",
                (),
            )
            .await?;
        let wrong = |what: String| BooksError::Integrity(format!("plans: {what}"));
        let mut plans: Vec<Plan> = vec![];
        while let Some(row) = rows.next().await? {
            let (name, since): (String, i64) = (row.get(0)?, row.get(1)?);
            let effective_from = Timestamp::from_second(since).map_err(|e| wrong(e.to_string()))?;
            if plans.last().is_none_or(|last| last.name != name || last.effective_from != effective_from) {
                let currency = row.get::<String>(2)?.parse().map_err(|e| wrong(format!("{name}: {e}")))?;
                plans.push(Plan { name: name.clone(), currency, effective_from, meters: BTreeMap::new() });
            }
            let (Some(meter), Some(plan)) = (row.get::<Option<String>>(3)?, plans.last_mut()) else { continue };
            let price = row.get::<Option<String>>(5)?.map(|price| price.parse()).transpose();
            let report = row.get::<String>(6)?;
            let terms = Terms {
                included: Quantity::from_scaled(i128::from(row.get::<i64>(4)?)),
                price: price.map_err(|e| wrong(format!("{name} {meter}: {e}")))?,
                report: ReportMode::named(&report)
                    .ok_or_else(|| wrong(format!("{name} {meter}: report `{report}`")))?,
            };
            plan.meters.insert(meter, terms);
        }
        Ok(Self::new(plans))
    }
}

impl Plan {
    /// What is wrong with this version, whatever else is stored; each with its meter.
    fn faults(&self, meters: &[String]) -> Vec<(Option<String>, String)> {
        let mut faults = vec![];
        if !form::is_name(&self.name, form::PLAN_NAME) {
            faults.push((None, format!("that is no name: {}", form::name_rule(form::PLAN_NAME))));
        }
        if self.effective_from.as_second() < 0 || self.effective_from.subsec_nanosecond() != 0 {
            faults.push((None, format!("effective_from {}: whole seconds from 1970 on", self.effective_from)));
        }
        for (meter, terms) in &self.meters {
            let known = std::iter::once(TURN).chain(meters.iter().map(String::as_str));
            let fault = if !known.clone().any(|name| name == meter) {
                format!("there is no such meter; {}", offer(meter, known.clone()))
            } else if terms.included < Quantity::ZERO {
                "the included amount is negative".into()
            } else if terms.included.to_cell().is_err() {
                "more than 900,000,000 units cannot be included".into()
            } else if meter == TURN && terms.price.is_some() {
                "it cannot have a price, because the web backend counts TURN credentials and Stripe never gets them; \
                 remove `price`, and let `included` be the number of credentials"
                    .into()
            } else if meter == TURN && terms.report != ReportMode::None {
                "it cannot be reported, because the web backend counts TURN credentials; remove `report`".into()
            } else {
                continue;
            };
            faults.push((Some(meter.clone()), fault));
        }
        faults
    }

    /// Meters with a price that is billed nowhere, each with what to do.
    pub fn unbilled_prices(&self) -> Vec<UnbilledPrice> {
        let unbilled = |(meter, terms): (&String, &Terms)| {
            let price = terms.price.filter(|_| terms.billed_price(meter).is_none())?;
            let act = match meter.as_str() {
                TURN => "TURN credentials are never billed; add a version of the plan without it",
                _ => "write report = \"overage\" or \"total\" beside it, or remove it",
            };
            let why = format!(
                "the price of {price} {} is reported to nobody, so it counts as none: nothing beyond the included amount can be used; {act}",
                self.currency
            );
            Some(UnbilledPrice { meter: meter.clone(), why })
        };
        self.meters.iter().filter_map(unbilled).collect()
    }
}

/// A price that is billed nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnbilledPrice {
    pub meter: String,
    /// The price, what follows, and what to do.
    pub why: String,
}

impl Database {
    /// Every version of every plan.
    pub async fn plans(&self) -> Result<Plans, BooksError> {
        self.with_connection(Plans::load).await
    }

    /// Adds versions of plans, all or none. `meters` are the names that may be used beside
    /// [`TURN`].
    ///
    /// # Errors
    /// [`PlanError::Wrong`] for a version that is wrong, that is given twice, or that holds already
    /// with other terms.
    pub async fn apply_plans(
        &self,
        versions: Vec<Plan>,
        meters: &[String],
        now: Timestamp,
    ) -> Result<Vec<Applied>, PlanError> {
        none(faults(&versions, meters))?;
        self.transaction_with(async move |c| apply(c, &versions, now).await).await
    }

    /// Refuses versions that are wrong whenever they hold: by themselves, or in another currency
    /// than the stored plan.
    ///
    /// # Errors
    /// [`PlanError::Wrong`] for such a version.
    pub async fn check_plans(&self, versions: &[Plan], meters: &[String]) -> Result<(), PlanError> {
        none(faults(versions, meters))?;
        let known = self.plans().await?;
        let wrong = |(place, plan): (usize, &Plan)| {
            let why = other_currency(&known, plan)?;
            Some(PlanFault { place, plan: plan.name.clone(), meter: None, why })
        };
        none(versions.iter().enumerate().filter_map(wrong).collect())
    }

    /// What [`Database::apply_plans`] would do.
    pub async fn preview_plans(
        &self,
        versions: &[Plan],
        meters: &[String],
        now: Timestamp,
    ) -> Result<Vec<Applied>, PlanError> {
        none(faults(versions, meters))?;
        judge(&self.plans().await?, versions, now)
    }
}

/// What is wrong with versions, whatever is stored; `meters` are the names that may be used beside
/// [`TURN`].
pub fn faults(versions: &[Plan], meters: &[String]) -> Vec<PlanFault> {
    let mut all = vec![];
    for (place, plan) in versions.iter().enumerate() {
        let fault = |(meter, why)| PlanFault { place, plan: plan.name.clone(), meter, why };
        all.extend(plan.faults(meters).into_iter().map(fault));
        let same = |other: &&Plan| other.name == plan.name && other.effective_from == plan.effective_from;
        if versions[..place].iter().any(|other| same(&other)) {
            all.push(fault((None, format!("two versions hold from {} on", plan.effective_from))));
        }
        if versions[..place].iter().any(|other| other.name == plan.name && other.currency != plan.currency) {
            let why = "its versions have two currencies; make a new plan for another currency";
            all.push(fault((None, why.into())));
        }
    }
    all
}

fn none(faults: Vec<PlanFault>) -> Result<(), PlanError> {
    if faults.is_empty() { Ok(()) } else { Err(PlanError::Wrong(faults)) }
}

/// Why a version cannot be beside those that are stored, by its currency.
fn other_currency(known: &Plans, plan: &Plan) -> Option<String> {
    let other = known.iter().find(|k| k.name == plan.name && k.currency != plan.currency)?;
    Some(format!(
        "it is in {} already; budgets and invoices are, too. Make a new plan for {}",
        other.currency, plan.currency
    ))
}

/// What applying `versions` does, given those that are stored. Pure.
fn judge(known: &Plans, versions: &[Plan], now: Timestamp) -> Result<Vec<Applied>, PlanError> {
    let judge_one = |plan: &Plan| {
        let there = known.iter().find(|k| k.name == plan.name && k.effective_from == plan.effective_from);
        if let Some(why) = other_currency(known, plan) {
            return Err(why);
        }
        let is_known = known.names().contains(&plan.name.as_str());
        let given = || versions.iter().filter(|v| v.name == plan.name).map(|v| v.effective_from).min();
        match there {
            None if !is_known && given().is_some_and(|first| first > now) => {
                Err("it is new, so one of its versions must hold now: a customer may be on it today".into())
            }
            // it would change the terms of periods that have begun
            None if is_known && plan.effective_from <= now => Err(format!(
                "a version from {} on would change billing periods that have begun; let it hold from an instant to come",
                plan.effective_from
            )),
            None => Ok(Applied::New),
            Some(there) if there == plan => Ok(Applied::Unchanged),
            Some(_) if plan.effective_from <= now => Err(format!(
                "the version of {} holds already and cannot be edited. Either give it effective_from = \"{}T00:00:00Z\": then it \
                 holds for billing periods that begin from there on. Or name it otherwise, such as `{}-2`, and give it to \
                 customers today: meter customer set ID --plan {}-2",
                plan.effective_from,
                Month::of(now).next().first_day(),
                plan.name,
                plan.name
            )),
            Some(_) => Ok(Applied::Replaced),
        }
    };
    let (mut applied, mut wrong) = (vec![], vec![]);
    for (place, plan) in versions.iter().enumerate() {
        match judge_one(plan) {
            Ok(one) => applied.push(one),
            Err(why) => wrong.push(PlanFault { place, plan: plan.name.clone(), meter: None, why }),
        }
    }
    none(wrong)?;
    Ok(applied)
}

/// Judges everything before it writes anything, so a refusal leaves nothing behind.
async fn apply(c: &Connection, versions: &[Plan], now: Timestamp) -> Result<Vec<Applied>, PlanError> {
    let applied = judge(&Plans::load(c).await?, versions, now)?;
    for (plan, applied) in versions.iter().zip(&applied) {
        if *applied != Applied::Unchanged {
            write(c, plan, now).await?;
        }
    }
    Ok(applied)
}

async fn write(c: &Connection, plan: &Plan, now: Timestamp) -> Result<(), BooksError> {
    let since = plan.effective_from.as_second();
    let key = || params![plan.name.clone(), since];
    c.execute("DELETE FROM plan_meters WHERE plan = ?1 AND effective_from = ?2", key()).await?;
    c.execute("DELETE FROM plans WHERE name = ?1 AND effective_from = ?2", key()).await?;
    let values = params![plan.name.clone(), since, plan.currency.to_string(), now.as_second()];
    c.execute("INSERT INTO plans (name, effective_from, currency, applied_at) VALUES (?1, ?2, ?3, ?4)", values).await?;
    for (meter, terms) in &plan.meters {
        let price = terms.price.map(|p| p.to_string());
        let included = terms.included.to_cell()?;
        let values = params![plan.name.clone(), since, meter.clone(), included, price, terms.report.name()];
        let sql = "INSERT INTO plan_meters (plan, effective_from, meter, included, price, report) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        c.execute(sql, values).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(price: Option<&str>, report: ReportMode) -> Terms {
        Terms { included: "5".parse().unwrap(), price: price.map(|p| p.parse().unwrap()), report }
    }

    fn version(from: &str, meter: &str, terms: Terms) -> Plan {
        Plan {
            name: "pro".into(),
            currency: "USD".parse().unwrap(),
            effective_from: from.parse().unwrap(),
            meters: [(meter.to_owned(), terms)].into(),
        }
    }

    #[test]
    fn a_price_that_is_reported_to_nobody_counts_as_none() {
        use ReportMode::{None as Nothing, Overage, Total};
        for (meter, price, report, billed) in [
            ("chime_minutes", Some("0.5"), Overage, true),
            ("chime_minutes", Some("0.5"), Total, true),
            ("chime_minutes", Some("0.5"), Nothing, false),
            ("chime_minutes", None, Overage, false),
            ("chime_minutes", None, Nothing, false),
            (TURN, Some("0.5"), Overage, false),
            (TURN, Some("0.5"), Total, false),
            (TURN, Some("0.5"), Nothing, false),
            (TURN, None, Nothing, false),
        ] {
            let terms = terms(price, report);
            assert_eq!(terms.billed_price(meter).is_some(), billed, "{meter} {price:?} {report:?}");
            let unbilled = version("2026-01-01T00:00:00Z", meter, terms).unbilled_prices();
            assert_eq!(unbilled.len(), usize::from(price.is_some() && !billed), "{meter} {price:?} {report:?}");
            let act = if meter == TURN { "a version of the plan without it" } else { "report = \"overage\"" };
            assert!(unbilled.iter().all(|u| u.why.contains("0.5 USD") && u.why.contains(act)), "{unbilled:?}");
        }
    }

    #[test]
    fn a_plan_that_prices_or_reports_turn_is_refused() {
        let meters = ["chime_minutes".to_owned()];
        let fault = |terms: Terms| {
            faults(&[version("2026-01-01T00:00:00Z", TURN, terms)], &meters).pop().map(|fault| fault.why)
        };
        for report in [ReportMode::None, ReportMode::Overage, ReportMode::Total] {
            let why = fault(terms(Some("0.5"), report)).unwrap();
            assert!(why.contains("it cannot have a price") && why.contains("remove `price`"), "{why}");
        }
        for report in [ReportMode::Overage, ReportMode::Total] {
            assert!(fault(terms(None, report)).unwrap().contains("remove `report`"));
        }
        assert_eq!(fault(terms(None, ReportMode::None)), None);
    }

    #[test]
    fn versions_that_are_over_are_left_out() {
        let of = |from: &str, price: &str| version(from, "chime_minutes", terms(Some(price), ReportMode::Overage));
        let plans = Plans::new([of("2026-01-01T00:00:00Z", "1"), of("2026-02-01T00:00:00Z", "2")]);
        let with = plans.with(&[of("2026-04-01T00:00:00Z", "4"), of("2026-02-01T00:00:00Z", "3")]);
        let prices = |plans: &Plans, now: &str| -> Vec<String> {
            let versions = plans.from(now.parse().unwrap());
            versions.iter().map(|p| p.meters["chime_minutes"].price.unwrap().to_string()).collect()
        };
        assert_eq!(prices(&plans, "2026-03-01T00:00:00Z"), ["2"]);
        assert_eq!(prices(&with, "2026-03-01T00:00:00Z"), ["3", "4"], "replaced, and to come");
        assert_eq!(prices(&with, "2025-01-01T00:00:00Z"), ["1", "3", "4"], "the first one holds before it begins");
    }
}
