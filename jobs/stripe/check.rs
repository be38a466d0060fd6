//! Compares the account with the configuration and the plans: what is missing, and what differs.
//! Pure.

use jiff::Timestamp;
use rust_decimal::Decimal;
use schemars::JsonSchema;
use serde::Serialize;

use super::mapping::Mapping;
use super::objects::{RemoteMeter, RemotePrice, Unsupported, names};
use super::preconditions::match_meters;
use super::settings::BillingSettings;
use books::limits::plan::{Plan, Plans, ReportMode, TURN, Terms, UnbilledPrice};
use books::stripe::stripe_meter::StripeMeter;

/// Decimals of Stripe's `unit_amount_decimal`.
pub(super) const PRICE_DECIMALS: u32 = 12;

/// One comparison and its result.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct CheckLine {
    pub what: String,
    pub found: String,
    /// What is wrong, and what to do; none if nothing is.
    pub fault: Option<String>,
}

/// The objects of an account.
#[derive(Clone, Copy, Debug)]
pub struct AccountObjects<'a> {
    pub meters: &'a [RemoteMeter],
    pub prices: &'a [RemotePrice],
    /// The meters to which these books have sent usage.
    pub known: &'a [StripeMeter],
}

impl AccountObjects<'_> {
    /// The active meter that a meter of the books is mapped to.
    pub(super) fn active(&self, mapping: &Mapping) -> Option<&RemoteMeter> {
        self.meters.iter().find(|m| m.active && m.event_name == mapping.event_name)
    }
}

/// Compares meters and prices, those of plan versions to come included.
pub fn check(billing: &BillingSettings, account: AccountObjects<'_>, plans: &Plans, now: Timestamp) -> Vec<CheckLine> {
    let AccountObjects { meters: remote, known, .. } = account;
    let mut lines = vec![];
    if let Err(why) = match_meters(billing, known, remote) {
        lines.push(CheckLine { what: "the account".into(), found: "differs".into(), fault: Some(why) });
    }
    for (name, mapping) in &billing.meters {
        let found: Vec<&RemoteMeter> = remote.iter().filter(|m| m.event_name == mapping.event_name).collect();
        let active = found.iter().find(|m| m.active);
        let (state, fault) = match (active, found.is_empty()) {
            (Some(meter), _) => (meter.id.clone(), meter.fault()),
            (None, true) => ("missing".into(), Some("`meter stripe setup` makes it".into())),
            (None, false) => ("inactive".into(), Some("it takes no events: reactivate it in the dashboard".into())),
        };
        lines.push(CheckLine { what: format!("meter {name} = {}", mapping.event_name), found: state, fault });
    }
    lines.extend(check_prices(billing, account, plans, now));
    lines
}

/// Compares the prices of the plan versions that hold, and of those to come.
pub fn check_prices(
    billing: &BillingSettings,
    account: AccountObjects<'_>,
    plans: &Plans,
    now: Timestamp,
) -> Vec<CheckLine> {
    let mut lines = vec![];
    for plan in plans.from(now) {
        for (meter, terms) in plan.meters.iter().filter(|(m, t)| *m != TURN && t.report != ReportMode::None) {
            let line = priced(billing, account, plan, meter, *terms);
            lines.push(CheckLine { what: price_of(plan, meter, now), ..line });
        }
    }
    lines
}

/// Prices of plans that are billed nowhere, whatever the account has. Only faults.
pub fn check_unbilled(plans: &Plans, now: Timestamp) -> Vec<CheckLine> {
    let line = |plan: &Plan, unbilled: UnbilledPrice| CheckLine {
        what: price_of(plan, &unbilled.meter, now),
        found: "billed nowhere".into(),
        fault: Some(unbilled.why),
    };
    let of_plan = |plan: &Plan| plan.unbilled_prices().into_iter().map(|u| line(plan, u)).collect::<Vec<_>>();
    plans.from(now).into_iter().flat_map(of_plan).collect()
}

/// The name of a price; of a version to come with the instant from which it holds.
fn price_of(plan: &Plan, meter: &str, now: Timestamp) -> String {
    let from = if plan.effective_from > now { format!(" from {}", plan.effective_from) } else { String::new() };
    format!("price of {meter} in plan {}{from}", plan.name)
}

/// Compares the price of a plan's meter; [`check_prices`] gives the line its name.
fn priced(billing: &BillingSettings, account: AccountObjects<'_>, plan: &Plan, meter: &str, terms: Terms) -> CheckLine {
    let line = |found: String, fault: Option<String>| CheckLine { what: String::new(), found, fault };
    let Some(mapping) = billing.meters.get(meter) else {
        let why = format!(
            "the plan reports it, and stripe.meters.{meter} does not say where to: its usage is billed nowhere"
        );
        return line("not mapped".into(), Some(why));
    };
    let Some(id) = account.active(mapping).map(|m| &m.id) else {
        return line("no meter".into(), Some("the meter has to be there first".into()));
    };
    let of_meter: Vec<&RemotePrice> = account.prices.iter().filter(|p| p.meter == *id).collect();
    let currency = plan.currency.to_string();
    let wanted = terms.price.and_then(|price| unit_amount(&price.to_string(), plan.currency.decimals(), mapping));
    let amount = wanted.map_or("?".to_owned(), |w| w.to_string());
    let make = format!(
        "make one: stripe prices create --currency {} -d unit_amount_decimal={amount} -d \"recurring[interval]=month\" \
         -d \"recurring[usage_type]=metered\" -d \"recurring[meter]={id}\" -d \"product_data[name]={meter}\"",
        currency.to_lowercase()
    );
    let in_currency: Vec<&RemotePrice> = of_meter.iter().copied().filter(|p| p.currency == currency).collect();
    if in_currency.is_empty() {
        let others: Vec<&str> = of_meter.iter().map(|p| p.currency.as_str()).collect();
        return match others.first() {
            None => line("missing".into(), Some(make)),
            Some(_) => {
                let several = of_meter.iter().find(|p| p.unsupported.contains(&Unsupported::MultiCurrencyPrice));
                let several = several.map_or(String::new(), |p| {
                    format!("{} is a multi-currency price, of which only its own currency is read; ", p.id)
                });
                let why = format!("the plan is in {currency}; {several}{make}");
                line(format!("only in {}", others.join(", ")), Some(why))
            }
        };
    }
    let (in_currency, unfit): (Vec<&RemotePrice>, Vec<&RemotePrice>) =
        in_currency.into_iter().partition(|p| unfit(p).is_empty());
    if in_currency.is_empty() {
        let unfit: Vec<String> = unfit.iter().map(|p| format!("{} ({})", p.id, names(&self::unfit(p)))).collect();
        let why = format!("usage at such a price is not billed as the books say; {make}");
        return line(unfit.join(", "), Some(why));
    }
    let ids = in_currency.iter().map(|p| p.id.as_str()).collect::<Vec<_>>().join(", ");
    if in_currency.iter().all(|p| p.unit_amount.is_none()) {
        return line(format!("{ids}, in tiers"), None);
    }
    let Some(wanted) = wanted else {
        return line(ids, None);
    };
    let same = |p: &RemotePrice| p.unit_amount.is_some_and(|a| a.round_dp(PRICE_DECIMALS) == wanted);
    if !in_currency.iter().any(|p| same(p)) {
        let amounts: Vec<String> = in_currency.iter().filter_map(|p| Some(p.unit_amount?.to_string())).collect();
        let why = format!("the plan's price makes {amount} for each of Stripe's units; {make}");
        return line(format!("{ids} at {}", amounts.join(", ")), Some(why));
    }
    if terms.report == ReportMode::Total && !terms.included.is_zero() {
        let why = "the plan reports all usage and has an included amount, which a price for each unit would charge: make it a price in tiers, \
                   or report = \"overage\"";
        return line(ids, Some(why.into()));
    }
    line(ids, None)
}

/// Why no plan's price can be charged by a price. Of a multi-currency price its own currency can.
fn unfit(price: &RemotePrice) -> Vec<Unsupported> {
    let mut found = price.unsupported.clone();
    found.retain(|one| *one != Unsupported::MultiCurrencyPrice);
    found
}

/// The plan's price in minor units of the currency for each of Stripe's units.
pub(super) fn unit_amount(price: &str, decimals: u16, mapping: &Mapping) -> Option<Decimal> {
    let minor = price.parse::<Decimal>().ok()?.checked_mul(Decimal::from(10_u64.checked_pow(u32::from(decimals))?))?;
    Some(minor.checked_div(mapping.per_unit)?.round_dp(PRICE_DECIMALS).normalize())
}

#[cfg(test)]
mod tests;
