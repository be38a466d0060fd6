//! Tables of the faults that `check` finds in an account.

use super::*;

/// An account, its configuration, and the plans.
struct World {
    billing: BillingSettings,
    known: Vec<StripeMeter>,
    remote: Vec<RemoteMeter>,
    prices: Vec<RemotePrice>,
    plans: Vec<Plan>,
}

const METER: &str = "meter chime_minutes = meter_chime";
const PRICE: &str = "price of chime_minutes in plan pro";
const ACCOUNT: &str = "the account";

fn decimal(text: &str) -> Decimal {
    text.parse().unwrap()
}

fn terms(included: &str, price: Option<&str>, report: ReportMode) -> Terms {
    Terms { included: included.parse().unwrap(), price: price.map(|p| p.parse().unwrap()), report }
}

fn known(stripe_id: &str, event_name: &str, per_unit: &str) -> StripeMeter {
    StripeMeter {
        meter: "chime_minutes".into(),
        event_name: event_name.into(),
        per_unit: decimal(per_unit),
        stripe_id: stripe_id.into(),
    }
}

/// An account without faults: 0.0045 dollars for a minute are 0.00045 cents for each thousandth of
/// a minute, which is Stripe's unit.
fn world() -> World {
    let mapping = Mapping { event_name: "meter_chime".into(), per_unit: decimal("1000"), display_name: "Calls".into() };
    let meter = RemoteMeter {
        id: "mtr_1".into(),
        event_name: "meter_chime".into(),
        active: true,
        formula: "sum".into(),
        window: None,
        payload: ["stripe_customer_id".into(), "value".into()],
    };
    let price = RemotePrice {
        id: "price_1".into(),
        meter: "mtr_1".into(),
        currency: "USD".into(),
        unit_amount: Some(decimal("0.00045")),
        unsupported: vec![],
    };
    let plan = Plan {
        name: "pro".into(),
        currency: "USD".parse().unwrap(),
        effective_from: "2026-01-01T00:00:00Z".parse().unwrap(),
        meters: [("chime_minutes".to_owned(), terms("1000", Some("0.0045"), ReportMode::Overage))].into(),
    };
    World {
        billing: BillingSettings {
            meters: [("chime_minutes".to_owned(), mapping)].into(),
            ..BillingSettings::default()
        },
        known: vec![known("mtr_1", "meter_chime", "1000")],
        remote: vec![meter],
        prices: vec![price],
        plans: vec![plan],
    }
}

fn lines(w: &World) -> Vec<CheckLine> {
    let now = "2026-11-22T00:00:00Z".parse().unwrap();
    let objects = AccountObjects { meters: &w.remote, prices: &w.prices, known: &w.known };
    let plans = Plans::new(w.plans.clone());
    let mut lines = check(&w.billing, objects, &plans, now);
    lines.extend(check_unbilled(&plans, now));
    lines
}

/// The terms of the plan's meter.
fn of_plan(w: &mut World) -> &mut Terms {
    w.plans[0].meters.get_mut("chime_minutes").unwrap()
}

fn another_price(w: &mut World, id: &str, currency: &str, unit_amount: Option<&str>) {
    let currency = currency.to_owned();
    let unit_amount = unit_amount.map(decimal);
    w.prices.push(RemotePrice { id: id.into(), meter: "mtr_1".into(), currency, unit_amount, unsupported: vec![] });
}

/// A change of the account, and the faults found: line, state, and a part of the fault.
type Row = (fn(&mut World), &'static [(&'static str, &'static str, &'static str)]);

#[test]
fn every_difference_has_its_line() {
    let rows: &[Row] = &[
        (|_| {}, &[]),
        // the first time, the books have sent nothing to the account
        (|w| w.known.clear(), &[]),
        (
            |w| {
                w.known.clear();
                w.remote.clear();
            },
            &[
                (METER, "missing", "`meter stripe setup` makes it"),
                (PRICE, "no meter", "the meter has to be there first"),
            ],
        ),
        (
            |w| w.remote[0].active = false,
            &[(METER, "inactive", "it takes no events"), (PRICE, "no meter", "the meter has to be there first")],
        ),
        (
            |w| w.remote[0].formula = "last".into(),
            &[
                (ACCOUNT, "differs", "it aggregates by `last`"),
                (METER, "mtr_1", "it aggregates by `last`, not by `sum`"),
            ],
        ),
        (
            |w| w.remote[0].window = Some("day".into()),
            &[
                (ACCOUNT, "differs", "it counts only the last event of each day"),
                (METER, "mtr_1", "it counts only the last event of each day"),
            ],
        ),
        (
            |w| w.remote[0].payload = ["customer".into(), "value".into()],
            &[
                (ACCOUNT, "differs", "its payload keys are customer, value"),
                (METER, "mtr_1", "its payload keys are customer, value"),
            ],
        ),
        (
            |w| w.known[0].stripe_id = "mtr_0".into(),
            &[(ACCOUNT, "differs", "this key belongs to another account: it does not have meter mtr_0 (meter_chime)")],
        ),
        (
            |w| {
                w.remote[0].active = false;
                w.remote.push(RemoteMeter { id: "mtr_2".into(), active: true, ..w.remote[0].clone() });
                w.prices[0].meter = "mtr_2".into();
            },
            &[(ACCOUNT, "differs", "for meter mtr_1, which is not active, and mtr_2 has its event name now")],
        ),
        (
            |w| w.known[0].event_name = "calls".into(),
            &[(
                ACCOUNT,
                "differs",
                "stripe.meters.chime_minutes: these books have its events as `calls` with 1000 units for each",
            )],
        ),
        (
            |w| w.known[0].per_unit = decimal("60"),
            &[(ACCOUNT, "differs", "these books have its events as `meter_chime` with 60 units for each")],
        ),
        (
            |w| w.known[0].meter = "calls".into(),
            &[(ACCOUNT, "differs", "stripe.meters.chime_minutes: these books have events of `calls` as `meter_chime`")],
        ),
        // the same number, written differently
        (|w| w.known[0].per_unit = decimal("1000.0"), &[]),
        (|w| w.prices.clear(), &[(PRICE, "missing", "unit_amount_decimal=0.00045 -d \"recurring[interval]=month\"")]),
        (|w| w.prices.clear(), &[(PRICE, "missing", "stripe prices create --currency usd")]),
        (|w| w.prices[0].meter = "mtr_9".into(), &[(PRICE, "missing", "-d \"recurring[meter]=mtr_1\"")]),
        (
            |w| w.prices[0].currency = "EUR".into(),
            &[(PRICE, "only in EUR", "the plan is in USD; make one: stripe prices create --currency usd")],
        ),
        (
            |w| w.prices[0].unit_amount = Some(decimal("0.45")),
            &[(PRICE, "price_1 at 0.45", "the plan's price makes 0.00045 for each of Stripe's units")],
        ),
        (|w| w.prices[0].unit_amount = Some(decimal("0.000450")), &[]),
        (
            |w| w.prices[0].unsupported = vec![Unsupported::TransformQuantity],
            &[(PRICE, "price_1 (transform_quantity)", "is not billed as the books say; make one")],
        ),
        (
            |w| w.prices[0].unsupported = vec![Unsupported::NotMonthly],
            &[(PRICE, "price_1 (not monthly)", "is not billed as the books say; make one")],
        ),
        // another price fits
        (
            |w| {
                w.prices[0].unsupported = vec![Unsupported::NotMonthly];
                another_price(w, "price_2", "USD", Some("0.00045"));
            },
            &[],
        ),
        (|w| w.prices[0].unsupported = vec![Unsupported::MultiCurrencyPrice], &[]),
        (
            |w| {
                w.prices[0].currency = "EUR".into();
                w.prices[0].unsupported = vec![Unsupported::MultiCurrencyPrice];
            },
            &[(PRICE, "only in EUR", "price_1 is a multi-currency price, of which only its own currency is read")],
        ),
        (|w| another_price(w, "price_2", "EUR", Some("9")), &[]),
        (|w| w.prices[0].unit_amount = None, &[]),
        (
            |w| of_plan(w).report = ReportMode::Total,
            &[(PRICE, "price_1", "which a price for each unit would charge: make it a price in tiers")],
        ),
        (|w| *of_plan(w) = terms("0", Some("0.0045"), ReportMode::Total), &[]),
        (
            |w| {
                of_plan(w).report = ReportMode::Total;
                w.prices[0].unit_amount = None;
            },
            &[],
        ),
        (|w| *of_plan(w) = terms("1000", None, ReportMode::Overage), &[]),
        (
            |w| {
                *of_plan(w) = terms("1000", None, ReportMode::Overage);
                w.prices.clear();
            },
            &[(PRICE, "missing", "unit_amount_decimal=?")],
        ),
        (
            |w| *of_plan(w) = terms("1000", Some("0.005"), ReportMode::Overage),
            &[(PRICE, "price_1 at 0.00045", "the plan's price makes 0.0005 for each")],
        ),
        (
            |w| {
                w.plans[0].meters.insert("storage_gb".into(), terms("5", Some("0.05"), ReportMode::Overage));
            },
            &[(
                "price of storage_gb in plan pro",
                "not mapped",
                "stripe.meters.storage_gb does not say where to: its usage is billed nowhere",
            )],
        ),
        // plans of older builds may have one
        (
            |w| {
                w.plans[0].meters.insert(TURN.into(), terms("500", Some("0.01"), ReportMode::Total));
            },
            &[(
                "price of turn_allocations in plan pro",
                "billed nowhere",
                "TURN credentials are never billed; add a version of the plan without it",
            )],
        ),
        (
            |w| {
                w.plans[0].meters.insert(TURN.into(), terms("500", None, ReportMode::None));
                w.plans[0].meters.insert("storage_gb".into(), terms("5", None, ReportMode::None));
            },
            &[],
        ),
        // a meter that no plan reports needs no price at Stripe, and none in the plan
        (
            |w| {
                *of_plan(w) = terms("1000", None, ReportMode::None);
                w.prices.clear();
            },
            &[],
        ),
        (
            |w| {
                of_plan(w).report = ReportMode::None;
                w.prices.clear();
            },
            &[(PRICE, "billed nowhere", "write report = \"overage\" or \"total\" beside it, or remove it")],
        ),
        // Stripe's minor units: hundredths of a króna, whole ariary
        (
            |w| {
                w.plans[0].currency = "ISK".parse().unwrap();
                w.prices[0].currency = "ISK".into();
            },
            &[],
        ),
        (
            |w| {
                w.plans[0].currency = "MGA".parse().unwrap();
                w.prices[0].currency = "MGA".into();
            },
            &[(PRICE, "price_1 at 0.00045", "the plan's price makes 0.0000045 for each of Stripe's units")],
        ),
    ];
    for (at, (change, expected)) in rows.iter().enumerate() {
        let mut world = world();
        change(&mut world);
        let lines = lines(&world);
        let faults: Vec<&CheckLine> = lines.iter().filter(|line| line.fault.is_some()).collect();
        assert_eq!(faults.len(), expected.len(), "row {at}: {lines:?}");
        for (line, (what, found, piece)) in faults.iter().zip(*expected) {
            assert_eq!((line.what.as_str(), line.found.as_str()), (*what, *found), "row {at}");
            assert!(line.fault.as_ref().unwrap().contains(*piece), "row {at}: {line:?} does not say `{piece}`");
        }
    }
}

#[test]
fn what_is_as_it_should_be_is_named_too() {
    let line = |what: &str, found: &str| CheckLine { what: what.into(), found: found.into(), fault: None };
    let mut world = world();
    assert_eq!(lines(&world), [line(METER, "mtr_1"), line(PRICE, "price_1")]);
    world.prices[0].unit_amount = None;
    assert_eq!(lines(&world), [line(METER, "mtr_1"), line(PRICE, "price_1, in tiers")]);
    world.billing.meters.clear();
    world.plans.clear();
    assert!(lines(&world).is_empty());
}

#[test]
fn a_meter_that_was_archived_does_not_hide_the_one_in_its_place() {
    let mut world = world();
    let archived = RemoteMeter { id: "mtr_0".into(), active: false, formula: "last".into(), ..world.remote[0].clone() };
    world.remote.insert(0, archived);
    let lines = lines(&world);
    assert!(lines.iter().all(|line| line.fault.is_none()), "{lines:?}");
    assert_eq!(lines[0].found, "mtr_1");
}

#[test]
fn every_currency_that_there_is_a_price_in_is_named() {
    let mut world = world();
    world.prices.clear();
    another_price(&mut world, "price_2", "EUR", Some("0.00045"));
    another_price(&mut world, "price_3", "GBP", None);
    assert_eq!(lines(&world)[1].found, "only in EUR, GBP");
}

#[test]
fn one_price_of_the_plans_amount_is_enough() {
    let mut world = world();
    world.prices.clear();
    another_price(&mut world, "price_2", "USD", Some("0.0004"));
    another_price(&mut world, "price_3", "USD", Some("0.0005"));
    assert_eq!(lines(&world)[1].found, "price_2, price_3 at 0.0004, 0.0005");
    assert!(lines(&world)[1].fault.is_some());
    another_price(&mut world, "price_4", "USD", Some("0.00045"));
    let price = CheckLine { what: PRICE.into(), found: "price_2, price_3, price_4".into(), fault: None };
    assert_eq!(lines(&world)[1], price);
}

#[test]
fn plans_are_compared_as_they_hold_now() {
    let mut world = world();
    let version = |from: &str, price: &str| Plan {
        effective_from: from.parse().unwrap(),
        meters: [("chime_minutes".to_owned(), terms("1000", Some(price), ReportMode::Overage))].into(),
        ..world.plans[0].clone()
    };
    let since = version("2026-11-22T00:00:00Z", "0.008");
    world.plans.push(since);
    assert_eq!(lines(&world).len(), 2, "what held before is not compared: {:?}", lines(&world));
    assert!(lines(&world)[1].fault.as_ref().unwrap().contains("makes 0.0008 for"));
    world.plans.push(Plan { name: "team".into(), currency: "EUR".parse().unwrap(), ..world.plans[0].clone() });
    let faults: Vec<String> = lines(&world).into_iter().filter(|l| l.fault.is_some()).map(|l| l.what).collect();
    assert_eq!(faults, [PRICE, "price of chime_minutes in plan team"]);
}

#[test]
fn versions_to_come_are_compared_too_and_say_from_when() {
    let mut world = world();
    let version = |from: &str, price: &str, report| Plan {
        effective_from: from.parse().unwrap(),
        meters: [("chime_minutes".to_owned(), terms("1000", Some(price), report))].into(),
        ..world.plans[0].clone()
    };
    let (dearer, silent) = (
        version("2026-12-01T00:00:00Z", "0.009", ReportMode::Overage),
        version("2027-01-01T00:00:00Z", "0.009", ReportMode::None),
    );
    world.plans.extend([dearer, silent]);
    let faults: Vec<CheckLine> = lines(&world).into_iter().filter(|l| l.fault.is_some()).collect();
    let [dearer, silent] = &faults[..] else { panic!("two faults: {faults:?}") };
    assert_eq!(dearer.what, format!("{PRICE} from 2026-12-01T00:00:00Z"));
    assert!(dearer.fault.as_ref().unwrap().contains("makes 0.0009 for each"), "{dearer:?}");
    assert_eq!(silent.what, format!("{PRICE} from 2027-01-01T00:00:00Z"));
    assert_eq!(silent.found, "billed nowhere");
    another_price(&mut world, "price_2", "USD", Some("0.0009"));
    assert_eq!(lines(&world).iter().filter(|l| l.fault.is_some()).count(), 1, "{:?}", lines(&world));
}

#[test]
fn a_price_is_counted_in_minor_units_of_its_currency() {
    for (price, decimals, per_unit, expected) in [
        ("0.0045", 2, "1000", "0.00045"),
        ("0.0045", 2, "1", "0.45"),
        ("0.50", 0, "1", "0.5"),
        ("1", 3, "1", "1000"),
        ("1", 2, "0.5", "200"),
        // twelve decimals, as Stripe has them
        ("1", 2, "7", "14.285714285714"),
        ("2", 2, "7", "28.571428571429"),
        ("0", 2, "1000", "0"),
    ] {
        let mapping = Mapping { per_unit: decimal(per_unit), ..world().billing.meters["chime_minutes"].clone() };
        let amount = unit_amount(price, decimals, &mapping).unwrap();
        assert_eq!(amount.to_string(), expected, "{price} with {decimals} decimals for {per_unit}");
    }
}
