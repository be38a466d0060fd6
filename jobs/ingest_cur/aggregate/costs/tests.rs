//! The costs of lines by tables, and against a naive sum.

use std::collections::BTreeMap;

use arrow::array::{ArrayRef, DictionaryArray};
use arrow::datatypes::Int32Type;
use proptest::prelude::*;

use super::*;
use crate::ingest_cur::aggregate::{Origin, Totals};
use crate::ingest_cur::parquet_file::{BillColumns, Wanted};
use books::usage::bill::MeterTotals;
use books::usage::cost::CostColumn;
use books::usage::meter::{CostMeter, Meter, Pattern, USAGE_LINE_TYPES};

/// A legacy and a CUR 2.0 name of each column of money.
const COLUMNS: [&str; 9] = [
    "line_item_product_code",
    "line_item_usage_type",
    "line_item_line_item_type",
    "line_item_usage_amount",
    "line_item_usage_start_date",
    "resource_tags_user_who",
    "lineItem/UnblendedCost",
    "line_item_net_unblended_cost",
    "lineItem/CurrencyCode",
];

/// Product, usage type, line type, amount, day, customer, cost, net cost, currency.
type Row = [&'static str; 9];

const CALL: Row = ["P", "Minutes", "Usage", "10", "2026-10-02", "alice", "0.017", "0.0136", "USD"];

fn rules() -> Rules {
    let usage = |text: &str| vec![Pattern::usage_type(text).unwrap()];
    let product = |text: &str| vec![Pattern::product(text).unwrap()];
    let cost = |name: &str, column: CostColumn, of: &str, usage_types: &str| CostMeter {
        name: name.into(),
        column,
        products: product(of),
        usage_types: usage(usage_types),
        line_types: column.line_types().into_iter().map(str::to_owned).collect(),
    };
    Rules {
        tag_keys: vec!["who".into()],
        meters: vec![Meter {
            name: "m".into(),
            unit: "minutes".into(),
            products: product("P"),
            usage_types: usage("Minutes"),
            line_types: USAGE_LINE_TYPES.map(str::to_owned).into(),
            factor: "1".parse().unwrap(),
        }],
        ignore: vec![],
        watched: vec![],
        shared_buckets: vec![],
        costs: vec![
            cost("calls", CostColumn::Unblended, "P", "Minutes"),
            cost("disks", CostColumn::NetUnblended, "Q", "*"),
        ],
    }
}

fn aggregator() -> UsageAggregator {
    UsageAggregator::new(Arc::new(rules()), "2026-10".parse().unwrap())
}

fn add(aggregator: &mut UsageAggregator, rows: &[Row]) {
    let column = |place: usize| -> ArrayRef {
        let texts: DictionaryArray<Int32Type> = rows.iter().map(|row| row[place]).collect();
        Arc::new(texts)
    };
    let arrays: Vec<ArrayRef> = (0..COLUMNS.len()).map(column).collect();
    let columns = BillColumns::of(&rules());
    let wanted = Wanted::find(COLUMNS.into_iter(), &columns).unwrap();
    let batch = wanted.batch(rows.len(), |place| (COLUMNS[place], &arrays[place]), &columns.keys).unwrap();
    let place = |row| u64::try_from(row).unwrap();
    aggregator.add(&batch, &Origin { file: "f", row_group: Some(0), place: &place, resource: &|_| None });
}

fn totals(rows: &[Row]) -> Totals {
    let mut aggregator = aggregator();
    add(&mut aggregator, rows);
    assert_eq!(aggregator.too_much(), None);
    let totals = aggregator.finish().unwrap();
    assert!(totals.meters.iter().all(MeterTotals::is_conserved), "{totals:?}");
    totals
}

/// `attributed + unattributed + excluded` of a meter.
fn parts(totals: &Totals, meter: &str) -> String {
    let of = totals.meters.iter().find(|of| of.meter == meter);
    of.map_or(String::new(), |of| format!("{} + {} + {}", of.attributed, of.unattributed, of.excluded))
}

fn with(row: Row, place: usize, text: &'static str) -> Row {
    let mut row = row;
    row[place] = text;
    row
}

#[test]
fn a_line_counts_for_its_usage_and_for_its_cost() {
    let found = totals(&[CALL, with(CALL, 5, ""), with(with(CALL, 0, "Q"), 1, "Disk")]);
    assert_eq!(parts(&found, "m"), "10 + 10 + 0");
    assert_eq!(parts(&found, "calls(USD)"), "0.017 + 0.017 + 0");
    assert_eq!(parts(&found, "disks(USD)"), "0.0136 + 0 + 0", "the net column");
    let observed = found.observed.by_customer_and_meter();
    assert_eq!(observed[&("alice", "calls(USD)")].to_string(), "0.017");
    assert_eq!(observed[&("alice", "disks(USD)")].to_string(), "0.0136");
    // the kinds of line of usage are as without cost meters
    assert!(found.lines.iter().all(|line| line.product == "P" && line.meter == "m"), "{:?}", found.lines);
    assert_eq!(found.counted_rows, 2);
}

#[test]
fn a_line_type_is_charged_for_use_or_excluded() {
    for (line_type, calls, disks) in [
        ("Usage", "-0.5 + 0 + 0", "-0.25 + 0 + 0"),
        ("DiscountedUsage", "-0.5 + 0 + 0", "-0.25 + 0 + 0"),
        ("SavingsPlanCoveredUsage", "-0.5 + 0 + 0", "-0.25 + 0 + 0"),
        ("SavingsPlanNegation", "-0.5 + 0 + 0", "-0.25 + 0 + 0"),
        // net costs have discounts in them
        ("EdpDiscount", "-0.5 + 0 + 0", "0 + 0 + -0.25"),
        ("PrivateRateDiscount", "-0.5 + 0 + 0", "0 + 0 + -0.25"),
        ("Credit", "0 + 0 + -0.5", "0 + 0 + -0.25"),
        ("Refund", "0 + 0 + -0.5", "0 + 0 + -0.25"),
        ("Tax", "0 + 0 + -0.5", "0 + 0 + -0.25"),
        ("Fee", "0 + 0 + -0.5", "0 + 0 + -0.25"),
        ("RIFee", "0 + 0 + -0.5", "0 + 0 + -0.25"),
        ("SavingsPlanRecurringFee", "0 + 0 + -0.5", "0 + 0 + -0.25"),
    ] {
        let row: Row = ["P", "Minutes", line_type, "0", "2026-10-02", "alice", "-0.5", "-0.25", "USD"];
        let found = totals(&[row, with(row, 0, "Q")]);
        assert_eq!(parts(&found, "calls(USD)"), calls, "{line_type}");
        assert_eq!(parts(&found, "disks(USD)"), disks, "{line_type}");
        assert_eq!(found.faults, [], "{line_type}");
    }
    let unknown = totals(&[with(CALL, 2, "New")]).unknown_line_types;
    assert_eq!((unknown.len(), unknown[0].lines), (1, 1), "one line, said once");
}

#[test]
fn a_cost_that_cannot_be_read_is_a_fault_of_its_column() {
    let found = totals(&[with(CALL, 6, "free"), with(CALL, 6, "")]);
    let faults: Vec<String> = found.faults.iter().map(ToString::to_string).collect();
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].starts_with("2 lines of calls have an amount that cannot be read: f, row"), "{faults:?}");
    assert!(faults[0].contains("column line_item_unblended_cost: `free` is not a decimal number"), "{faults:?}");
    // more decimals than the books have are rounded, and counted
    let found = totals(&[with(CALL, 6, "0.00000000015")]);
    assert_eq!((parts(&found, "calls(USD)").as_str(), found.rounded_amounts), ("0.0000000002 + 0 + 0", 1));
}

#[test]
fn costs_in_two_currencies_are_no_sum() {
    let says = |rows: &[Row]| {
        let mut aggregator = aggregator();
        add(&mut aggregator, rows);
        aggregator.too_much()
    };
    let euro = with(CALL, 8, "EUR");
    assert_eq!(says(&[CALL, with(with(euro, 6, "0"), 7, "0")]), None, "nothing is charged");
    assert_eq!(says(&[CALL, with(euro, 0, "R")]), None, "no cost meter claims it");
    assert_eq!(says(&[euro, euro]), None);
    assert_eq!(parts(&totals(&[euro]), "calls(EUR)"), "0.017 + 0 + 0");
    let why = says(&[CALL, euro]).unwrap();
    assert!(why.contains("in line_item_currency_code, but EUR and USD: money of two currencies is no sum"), "{why}");
    assert!(says(&[with(euro, 2, "Credit"), CALL]).is_some(), "what is excluded is summed, too");
    assert!(says(&[with(CALL, 8, "")]).unwrap().contains("but none:"));
    assert!(says(&[with(CALL, 8, "$")]).unwrap().contains("but $:"));
    // parts of a bill with a currency each
    let (mut one, mut other) = (aggregator(), aggregator());
    add(&mut one, &[CALL]);
    add(&mut other, &[euro]);
    let packed = UsageAggregator::unpack(Arc::new(rules()), "2026-10".parse().unwrap(), &other.pack().unwrap());
    one.merge(&packed.unwrap());
    assert!(one.too_much().is_some());
    // sums that were stored by other rules
    let plain = Rules { costs: vec![], ..rules() };
    let packed = other.pack().unwrap();
    assert!(UsageAggregator::unpack(Arc::new(plain), "2026-10".parse().unwrap(), &packed).is_err());
}

#[test]
fn a_bill_without_a_cost_has_no_cost_meter() {
    let found = totals(&[with(with(CALL, 6, "0"), 7, "0"), with(CALL, 0, "R")]);
    assert_eq!((found.meters.len(), found.cost_lines.len()), (1, 0));
}

#[test]
fn a_bill_without_the_columns_is_refused() {
    let missing = |without: &[&str]| {
        let names = COLUMNS.into_iter().filter(|name| !without.contains(name));
        Wanted::find(names, &BillColumns::of(&rules())).err().unwrap_or_default()
    };
    assert_eq!(missing(&["line_item_net_unblended_cost"]), ["line_item_net_unblended_cost"]);
    assert_eq!(missing(&["lineItem/CurrencyCode"]), ["line_item_currency_code"]);
    let plain = BillColumns::of(&Rules { costs: vec![], ..rules() });
    let wanted = Wanted::find(COLUMNS.into_iter(), &plain).unwrap();
    assert!(wanted.places().iter().all(|place| *place < 6), "no cost meter, no column of costs: {wanted:?}");
}

fn any_row() -> impl Strategy<Value = Row> {
    let one_of = |texts: &'static [&'static str]| prop::sample::select(texts);
    (
        one_of(&["P", "P", "Q", "R"]),
        one_of(&["Minutes", "Minutes", "Other"]),
        one_of(&["Usage", "Usage", "Usage", "Credit", "Tax", "EdpDiscount", "SavingsPlanNegation"]),
        one_of(&["1.5", "-2", "0", "?"]),
        one_of(&["2026-10-01", "2026-10-31", "2026-09-30", "?"]),
        one_of(&["alice", "bob", "", "", "a\tb"]),
        one_of(&["0.017", "-0.5", "0", "123456789.0123456789", "x", "0.00000000004"]),
        one_of(&["0.016", "-0.25", "0", "-900000000.5"]),
    )
        .prop_map(|(a, b, c, d, e, f, g, h)| [a, b, c, d, e, f, g, h, "USD"])
}

/// What a reader of the column adds up, line by line: everything that a cost meter claims.
fn naive(rows: &[Row]) -> BTreeMap<&'static str, Quantity> {
    let mut sums: BTreeMap<&'static str, Quantity> = BTreeMap::new();
    for row in rows {
        let (meter, text) = match (row[0], row[1]) {
            ("P", "Minutes") => ("calls(USD)", row[6]),
            ("Q", _) => ("disks(USD)", row[7]),
            _ => continue,
        };
        *sums.entry(meter).or_default() += Quantity::parse(text).map_or(Quantity::ZERO, |(cost, _)| cost);
    }
    sums
}

proptest! {
    /// Customers, nobody and what is excluded make the naive sum of the column, with negative
    /// lines, in any order, whole or in parts; and cost meters change nothing of usage.
    #[test]
    fn costs_are_the_naive_sum_of_their_column(rows in prop::collection::vec(any_row(), 1..40), cut in 0_usize..40) {
        let whole = totals(&rows);
        let sums = naive(&rows);
        let by_customer = whole.observed.by_customer_and_meter();
        for of in whole.meters.iter().filter(|of| of.meter != "m") {
            prop_assert_eq!(of.total, sums.get(of.meter.as_str()).copied().unwrap_or_default());
            let booked: Quantity =
                by_customer.iter().filter(|((_, meter), _)| *meter == of.meter).map(|(_, cost)| *cost).sum();
            prop_assert_eq!(booked + of.excluded, of.total);
            let lines: Quantity = whole.cost_lines.iter().filter(|l| l.meter == of.meter).map(|l| l.amount).sum();
            prop_assert_eq!(lines, of.total);
        }
        let is_missing = |meter: &&str| whole.meters.iter().all(|of| of.meter != **meter);
        prop_assert!(sums.iter().filter(|(meter, _)| is_missing(meter)).all(|(_, sum)| sum.is_zero()));

        let cut = cut.min(rows.len());
        let (mut one, mut other) = (aggregator(), aggregator());
        add(&mut one, &rows[cut..]);
        add(&mut other, &rows[..cut]);
        let packed = UsageAggregator::unpack(Arc::new(rules()), "2026-10".parse().unwrap(), &one.pack().unwrap()).unwrap();
        other.merge(&packed);
        let mut merged = other.finish().unwrap();
        let plain = Rules { costs: vec![], ..rules() };
        let mut usage = UsageAggregator::new(Arc::new(plain), "2026-10".parse().unwrap());
        add(&mut usage, &rows);
        let usage = usage.finish().unwrap();
        prop_assert_eq!(&usage.lines, &whole.lines);
        prop_assert_eq!(&usage.meters[..], &whole.meters[..1]);
        // the places of faulty lines are those of their batch
        merged.faults.clear();
        let whole = Totals { faults: vec![], ..whole };
        prop_assert_eq!(merged, whole);
    }
}
