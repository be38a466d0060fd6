//! Compares each customer's own items with the plan, as `sync_stripe` last read them: that some
//! price of the account fits says nothing about a customer. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use rust_decimal::Decimal;

use super::check::{AccountObjects, PRICE_DECIMALS, unit_amount};
use super::settings::BillingSettings;
use books::customers::living_item::{LivingCustomer, LivingItem};
use books::limits::plan::{Plan, Plans, ReportMode};

/// A customer whose items do not bill what the plan says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomerFaults {
    pub customer: String,
    pub faults: Vec<ItemFault>,
}

/// What is wrong with a customer's items. Printed, it names the ids; [`ItemFault::remedy`] says
/// what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ItemFault {
    /// No living subscription has an item for a meter that the plan reports.
    NoItem {
        meter: String,
        subscriptions: Vec<String>,
    },
    /// More than one item of one Stripe customer carries a meter: Stripe bills its usage for each.
    BilledTwice {
        meter: String,
        stripe_customer: String,
        items: Vec<ItemName>,
    },
    /// Items of several Stripe customers carry a meter: usage is sent to one of them.
    SeveralCustomers {
        meter: String,
        items: Vec<ItemName>,
    },
    /// The item's price is not the plan's; both in minor units for each of Stripe's units.
    OtherPrice {
        meter: String,
        item: ItemName,
        amount: Option<Decimal>,
        wanted: Decimal,
    },
    OtherCurrency {
        meter: String,
        item: ItemName,
        currency: String,
        wanted: String,
    },
    /// A subscription or an item has something that is not billed rightly, by its names.
    Unsupported {
        of: String,
        names: String,
    },
}

/// An item, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemName {
    pub item: String,
    pub subscription: String,
    pub price: String,
    /// Empty if nobody knows it.
    pub stripe_customer: String,
}

impl ItemName {
    fn of(item: &LivingItem) -> Self {
        Self {
            item: item.item.clone(),
            subscription: item.subscription.clone(),
            price: item.price.clone(),
            stripe_customer: item.stripe_customer.clone().unwrap_or_default(),
        }
    }
}

impl fmt::Display for ItemName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.item, self.subscription)
    }
}

fn listed(items: &[ItemName]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for ItemFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoItem { meter, subscriptions } => {
                write!(f, "{meter}: no item in {}, so nothing bills it", subscriptions.join(", "))
            }
            Self::BilledTwice { meter, stripe_customer, items } => write!(
                f,
                "{meter}: {} items carry it under {stripe_customer}, and Stripe bills its usage for each of them: {}",
                items.len(),
                listed(items)
            ),
            Self::SeveralCustomers { meter, items } => {
                let of: BTreeSet<&str> = items.iter().map(|item| item.stripe_customer.as_str()).collect();
                let of: Vec<&str> = of.into_iter().collect();
                write!(f, "{meter}: items of several Stripe customers carry it ({}): {}", of.join(", "), listed(items))
            }
            Self::OtherPrice { meter, item, amount, wanted } => {
                let amount = amount.map_or("an amount that is not known yet".to_owned(), |a| a.normalize().to_string());
                write!(f, "{meter}: {item} has {} at {amount}, the plan's price makes {wanted}", item.price)
            }
            Self::OtherCurrency { meter, item, currency, wanted } => {
                write!(f, "{meter}: {item} is charged in {currency}, the plan is in {wanted}")
            }
            Self::Unsupported { of, names } => write!(f, "{of}: {names}"),
        }
    }
}

impl ItemFault {
    /// What to do about faults of this kind.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NoItem { .. } => {
                "no item: add the plan's price: `stripe subscription_items create -d subscription=sub_… -d price=price_…`"
            }
            Self::BilledTwice { .. } => {
                "items that carry one meter: remove all but one in Stripe, or end the subscription that is one too many. \
                 Usage that the removed item was to bill in its running period is billed by the other alone"
            }
            Self::SeveralCustomers { .. } => {
                "several Stripe customers: end the subscription of the one that is not in use"
            }
            Self::OtherPrice { .. } => {
                "another price: give the item the plan's price, or apply a plan with the item's. Stripe bills with a new \
                 price only usage from then on, so change it when a period begins"
            }
            Self::OtherCurrency { .. } => "another currency: put the customer on a plan in the subscription's currency",
            Self::Unsupported { .. } => {
                "what is named above after a subscription or an item is not billed rightly: docs/stripe-setup.md says \
                 how each is seen"
            }
        }
    }
}

/// Customers whose items do not bill what their plan says. The terms are those of the plan version
/// that held when the item's running period began.
pub fn check_items(
    billing: &BillingSettings,
    account: AccountObjects<'_>,
    plans: &Plans,
    customers: &BTreeMap<String, LivingCustomer>,
    now: i64,
) -> Vec<CustomerFaults> {
    let found = customers.iter().map(|(id, customer)| {
        let plan = |at: i64| customer.plan.as_deref().and_then(|name| plans.at(name, at));
        let mut faults = vec![];
        for (meter, terms) in plan(now).into_iter().flat_map(|plan| &plan.meters) {
            let stripe_meter = billing.meters.get(meter).and_then(|mapping| account.active(mapping));
            let Some(stripe_meter) = stripe_meter.filter(|_| terms.report != ReportMode::None) else { continue };
            let items = customer.items.get(&stripe_meter.id).map_or(&[][..], Vec::as_slice);
            if items.is_empty() {
                let subscriptions = customer.subscriptions.keys().cloned().collect();
                faults.push(ItemFault::NoItem { meter: meter.clone(), subscriptions });
            }
            faults.extend(carried_twice(meter, items));
            for item in items {
                faults.extend(plan(item.starts_at).and_then(|plan| priced(billing, plan, meter, item)));
            }
        }
        let named = |of: &str, names: &str| ItemFault::Unsupported { of: of.to_owned(), names: names.to_owned() };
        let subscriptions = customer.subscriptions.iter().filter(|(_, names)| !names.is_empty());
        faults.extend(subscriptions.map(|(subscription, names)| named(subscription, names)));
        let items = customer.items.values().flatten().filter(|item| !item.unsupported.is_empty());
        faults.extend(items.map(|item| named(&ItemName::of(item).to_string(), &item.unsupported)));
        CustomerFaults { customer: id.clone(), faults }
    });
    found.filter(|customer| !customer.faults.is_empty()).collect()
}

/// Items of one meter that are too many.
fn carried_twice(meter: &str, items: &[LivingItem]) -> Vec<ItemFault> {
    let mut by_customer: BTreeMap<String, Vec<ItemName>> = BTreeMap::new();
    for name in items.iter().map(ItemName::of) {
        by_customer.entry(name.stripe_customer.clone()).or_default().push(name);
    }
    let several = (by_customer.len() > 1).then(|| ItemFault::SeveralCustomers {
        meter: meter.to_owned(),
        items: items.iter().map(ItemName::of).collect(),
    });
    let twice = by_customer.into_iter().filter(|(_, items)| items.len() > 1);
    let twice = twice.map(|(stripe_customer, items)| {
        let meter = meter.to_owned();
        ItemFault::BilledTwice { meter, stripe_customer, items }
    });
    twice.chain(several).collect()
}

/// Compares an item's currency and price with the plan's. A price in tiers has no single amount,
/// and that of a multi-currency price is not known: it is named as such.
fn priced(billing: &BillingSettings, plan: &Plan, meter: &str, item: &LivingItem) -> Option<ItemFault> {
    let (meter, wanted) = (meter.to_owned(), plan.currency.to_string());
    if item.currency != wanted {
        let (item, currency) = (ItemName::of(item), item.currency.clone());
        return Some(ItemFault::OtherCurrency { meter, item, currency, wanted });
    }
    let (terms, mapping) = (plan.meters.get(&meter)?, billing.meters.get(&meter)?);
    let wanted = unit_amount(&terms.price?.to_string(), plan.currency.decimals(), mapping)?;
    let other = item.unit_amount.is_none_or(|amount| amount.round_dp(PRICE_DECIMALS) != wanted);
    let compared = !item.tiered && item.unsupported.is_empty();
    (compared && other).then(|| ItemFault::OtherPrice {
        meter,
        item: ItemName::of(item),
        amount: item.unit_amount,
        wanted,
    })
}

#[cfg(test)]
mod tests;
