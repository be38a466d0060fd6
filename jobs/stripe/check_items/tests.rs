//! A table of the faults of a customer's items.

use super::*;
use crate::stripe::{Mapping, RemoteMeter};
use books::limits::plan::Terms;

const NOW: i64 = 1_795_000_000;

fn item(name: &str, amount: &str) -> LivingItem {
    LivingItem {
        customer: "ann".into(),
        stripe_meter: "mtr_1".into(),
        stripe_customer: Some("cus_1".into()),
        subscription: "sub_1".into(),
        status: "active".into(),
        item: format!("si_{name}"),
        price: format!("price_{name}"),
        unit_amount: Some(amount.parse().unwrap()),
        currency: "USD".into(),
        quantity: None,
        tiered: false,
        unsupported: String::new(),
        created_at: Some(NOW - 1000),
        starts_at: NOW - 1000,
        ends_at: NOW + 1000,
    }
}

fn version(effective_from: i64, price: &str, report: ReportMode) -> Plan {
    let terms = Terms { included: "100".parse().unwrap(), price: Some(price.parse().unwrap()), report };
    Plan {
        name: "pro".into(),
        currency: "USD".parse().unwrap(),
        effective_from: jiff::Timestamp::from_second(effective_from).unwrap(),
        meters: [("calls".to_owned(), terms)].into(),
    }
}

/// The faults of a customer with these items, as they are printed.
fn faults_by(plans: Vec<Plan>, items: Vec<LivingItem>) -> Vec<String> {
    let mapping = Mapping { event_name: "e".into(), per_unit: Decimal::from(1000), display_name: "Calls".into() };
    let billing = BillingSettings { meters: [("calls".to_owned(), mapping)].into(), ..BillingSettings::default() };
    let meter = RemoteMeter { id: "mtr_1".into(), event_name: "e".into(), active: true, ..RemoteMeter::default() };
    let account = AccountObjects { meters: &[meter], prices: &[], known: &[] };
    let mut customer = LivingCustomer { plan: Some("pro".into()), ..LivingCustomer::default() };
    customer.subscriptions.insert("sub_1".into(), String::new());
    for item in items {
        customer.subscriptions.entry(item.subscription.clone()).or_default();
        customer.items.entry(item.stripe_meter.clone()).or_default().push(item);
    }
    let customers = BTreeMap::from([("ann".to_owned(), customer)]);
    let found = check_items(&billing, account, &Plans::new(plans), &customers, NOW);
    found.iter().flat_map(|one| one.faults.iter().map(ToString::to_string)).collect()
}

fn faults(items: Vec<LivingItem>) -> Vec<String> {
    faults_by(vec![version(0, "0.0045", ReportMode::Overage)], items)
}

const RIGHT: &str = "0.00045";
const NONE: [&str; 0] = [];

#[test]
fn one_item_at_the_plans_price_is_right() {
    assert_eq!(faults(vec![item("a", RIGHT)]), NONE);
    assert_eq!(faults(vec![item("a", "0.000450")]), NONE);
    let tiered = LivingItem { tiered: true, unit_amount: None, ..item("a", RIGHT) };
    assert_eq!(faults(vec![tiered]), NONE);
    assert_eq!(faults_by(vec![version(0, "0.0045", ReportMode::None)], vec![]), NONE, "nothing is reported");
}

#[test]
fn each_fault_names_what_it_is_about() {
    let of = |subscription: &str, customer: Option<&str>| LivingItem {
        subscription: subscription.into(),
        stripe_customer: customer.map(str::to_owned),
        ..item("b", RIGHT)
    };
    let cases: [(Vec<LivingItem>, &[&str]); 9] = [
        (vec![], &["calls: no item in sub_1, so nothing bills it"]),
        (
            vec![LivingItem { stripe_meter: "mtr_2".into(), ..item("a", RIGHT) }],
            &["calls: no item in sub_1, so nothing bills it"],
        ),
        (
            vec![item("a", RIGHT), item("b", RIGHT)],
            &[
                "calls: 2 items carry it under cus_1, and Stripe bills its usage for each of them: si_a of sub_1, si_b of sub_1",
            ],
        ),
        (
            vec![item("a", RIGHT), of("sub_2", Some("cus_1"))],
            &[
                "calls: 2 items carry it under cus_1, and Stripe bills its usage for each of them: si_a of sub_1, si_b of sub_2",
            ],
        ),
        (
            vec![item("a", RIGHT), of("sub_2", Some("cus_2"))],
            &["calls: items of several Stripe customers carry it (cus_1, cus_2): si_a of sub_1, si_b of sub_2"],
        ),
        (vec![item("a", "0.45")], &["calls: si_a of sub_1 has price_a at 0.45, the plan's price makes 0.00045"]),
        (
            vec![LivingItem { unit_amount: None, ..item("a", RIGHT) }],
            &["calls: si_a of sub_1 has price_a at an amount that is not known yet, the plan's price makes 0.00045"],
        ),
        (
            vec![LivingItem { currency: "EUR".into(), ..item("a", "9") }],
            &["calls: si_a of sub_1 is charged in EUR, the plan is in USD"],
        ),
        (
            vec![LivingItem { unsupported: "transform_quantity, not monthly".into(), ..item("a", "9") }],
            &["si_a of sub_1: transform_quantity, not monthly"],
        ),
    ];
    for (items, expected) in cases {
        assert_eq!(faults(items), expected);
    }
}

#[test]
fn a_period_keeps_the_price_that_held_when_it_began() {
    let plans =
        |from: i64| vec![version(0, "0.0045", ReportMode::Overage), version(from, "0.009", ReportMode::Overage)];
    assert_eq!(faults_by(plans(NOW - 500), vec![item("a", RIGHT)]), NONE, "changed within the period");
    let other = "calls: si_a of sub_1 has price_a at 0.00045, the plan's price makes 0.0009";
    assert_eq!(faults_by(plans(NOW - 1000), vec![item("a", RIGHT)]), [other]);
}
