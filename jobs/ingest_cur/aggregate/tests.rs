//! The aggregator by tables: what becomes of each line, whatever is wrong with it.

use arrow::array::{ArrayRef, DictionaryArray};
use arrow::datatypes::Int32Type;
use proptest::prelude::*;

use super::*;
use crate::ingest_cur::parquet_file::{BillColumns, Wanted};
use books::usage::bill::{ClaimKind, MeterTotals};
use books::usage::meter::{IgnoreRule, Meter, Pattern, USAGE_LINE_TYPES};

const COLUMNS: [&str; 8] = [
    "line_item_product_code",
    "line_item_usage_type",
    "line_item_line_item_type",
    "line_item_usage_amount",
    "line_item_usage_start_date",
    "bill_billing_period_start_date",
    "resourceTags/user:who",
    "resource_tags_user_who",
];

/// Usage type, line type, amount, day, period, and the customer in two columns.
type Row = [&'static str; 7];

/// A good line.
const GOOD: Row = ["Minutes", "Usage", "1.5", "2026-10-02", "2026-10-01", "alice", ""];

fn rules() -> Rules {
    let usage = |text: &str| vec![Pattern::usage_type(text).unwrap()];
    let product = || vec![Pattern::product("P").unwrap()];
    let meter = Meter {
        name: "m".into(),
        unit: "minutes".into(),
        products: product(),
        usage_types: usage("Minutes"),
        line_types: USAGE_LINE_TYPES.map(str::to_owned).into(),
        factor: "1".parse().unwrap(),
    };
    let ignore = vec![IgnoreRule { products: product(), usage_types: usage("Requests") }];
    Rules {
        tag_keys: vec!["who".into()],
        meters: vec![meter],
        ignore,
        watched: product(),
        shared_buckets: vec![],
        costs: vec![],
    }
}

fn aggregator() -> UsageAggregator {
    UsageAggregator::new(Arc::new(rules()), "2026-10".parse().unwrap())
}

fn add(aggregator: &mut UsageAggregator, rows: &[Row], first_row: u64) {
    let column = |place: usize| -> ArrayRef {
        let text = |row: &Row| if place == 0 { "P" } else { row[place - 1] };
        let texts: DictionaryArray<Int32Type> = rows.iter().map(text).collect();
        Arc::new(texts)
    };
    let arrays: Vec<ArrayRef> = (0..COLUMNS.len()).map(column).collect();
    let columns = BillColumns::of(&rules());
    let wanted = Wanted::find(COLUMNS.into_iter(), &columns).unwrap();
    let batch = wanted.batch(rows.len(), |place| (COLUMNS[place], &arrays[place]), &columns.keys).unwrap();
    let place = |row| first_row + u64::try_from(row).unwrap();
    let origin = Origin { file: "f", row_group: Some(0), place: &place, resource: &|row| Some(format!("r{row}")) };
    aggregator.add(&batch, &origin);
}

fn totals(rows: &[Row]) -> Totals {
    let mut aggregator = aggregator();
    add(&mut aggregator, rows, 0);
    let totals = aggregator.finish().unwrap();
    assert!(totals.meters.iter().all(MeterTotals::is_conserved), "{totals:?}");
    totals
}

/// The first days after a month of less than 31 days are no days of its blocks.
#[test]
fn usage_after_a_short_month_counts_once() {
    for (month, day, after) in [
        ("2026-11", "2026-11-05", "2026-12-01"),
        ("2026-02", "2026-02-05", "2026-03-01"),
        ("2026-10", "2026-10-05", "2026-11-01"),
    ] {
        let row = |day: &'static str| -> Row { ["Minutes", "Usage", "1.5", day, "", "alice", ""] };
        let mut aggregator = UsageAggregator::new(Arc::new(rules()), month.parse().unwrap());
        add(&mut aggregator, &[row(day), row(after), row(after)], 0);
        let totals = aggregator.finish().unwrap();
        assert!(totals.meters.iter().all(MeterTotals::is_conserved), "{totals:?}");
        let days = totals.observed.by_meter_and_day();
        let found: Vec<String> = days.iter().map(|((_, day), sum)| format!("{day} {sum}")).collect();
        assert_eq!(found, [format!("{day} 1.5"), format!("{after} 3")]);
        assert_eq!((totals.meters[0].booked.to_string(), totals.out_of_month_lines), ("4.5".into(), 2));
    }
}

/// `attributed + unattributed + excluded`, and what is wrong.
fn found(row: Row) -> (String, Vec<String>) {
    let found = totals(&[row]);
    let MeterTotals { attributed, unattributed, excluded, .. } = &found.meters[0];
    (format!("{attributed} + {unattributed} + {excluded}"), found.faults.iter().map(ToString::to_string).collect())
}

#[test]
fn each_fault_of_a_counted_line_has_a_rule() {
    let with = |place: usize, text: &'static str| {
        let mut row = GOOD;
        row[place] = text;
        row
    };
    let long: &'static str = Box::leak("é".repeat(257).into_boxed_str());
    for (row, sums, fault) in [
        (GOOD, "1.5 + 0 + 0", ""),
        (with(6, "alice"), "1.5 + 0 + 0", ""),
        (with(5, ""), "0 + 1.5 + 0", ""),
        (
            with(6, "Alice"),
            "0 + 1.5 + 0",
            "a customer tag that cannot be used (amount 1.5): f, row group 0, row 0, column resource_tags_user_who, resource r0: two spellings of the customer tag disagree: `alice` and `Alice`",
        ),
        (
            with(5, "a\tb"),
            "0 + 1.5 + 0",
            "column resourceTags/user:who, resource r0: a tag value has the control character '\\t'",
        ),
        (
            with(5, "alice "),
            "0 + 1.5 + 0",
            "resource r0: the tag value `alice ` is no id of a customer: it has 1 to 256 characters",
        ),
        (with(5, "\u{a0}alice"), "0 + 1.5 + 0", "alice` is no id of a customer"),
        (with(5, "al ice"), "1.5 + 0 + 0", ""),
        (with(5, long), "0 + 1.5 + 0", "a tag value has 257 characters; AWS allows 256"),
        (
            with(2, "NaN"),
            "0 + 0 + 0",
            "an amount that cannot be read: f, row group 0, row 0, column line_item_usage_amount, resource r0: the amount is nan",
        ),
        (with(2, "-inf"), "0 + 0 + 0", "the amount is inf"),
        (with(2, "many"), "0 + 0 + 0", "`many` is not a decimal number"),
        (with(2, "1\u{1b}[2J"), "0 + 0 + 0", "`1\\u{1b}[2J` is not a decimal number"),
        (
            with(2, "1e300"),
            "0 + 0 + 0",
            "too large to be booked: f, row group 0, row 0, column line_item_usage_amount, resource r0: 1e300 is too large to be booked exactly",
        ),
        (with(2, "900000001"), "0 + 0 + 900000001", "900000001 is too large to be booked exactly"),
        (with(2, "900000000"), "900000000 + 0 + 0", ""),
        (with(2, ""), "0 + 0 + 0", "column line_item_usage_amount, resource r0: it has no amount"),
        (with(2, " "), "0 + 0 + 0", "it has no amount"),
        (
            with(2, "-0.5"),
            "-0.5 + 0 + 0",
            "a negative amount (amount -0.5): f, row group 0, row 0, column line_item_usage_amount, resource r0: the amount of a usage line is -0.5",
        ),
        (
            with(3, "soon"),
            "0 + 0 + 1.5",
            "no readable day (amount 1.5): f, row group 0, row 0, column line_item_usage_start_date",
        ),
        (with(3, ""), "0 + 0 + 1.5", "no readable day"),
        (
            with(4, "2026-09-01"),
            "0 + 0 + 1.5",
            "another billing period (amount 1.5): f, row group 0, row 0, column bill_billing_period_start_date, resource r0: the billing period starts 2026-09-01, but the bill is that of 2026-10",
        ),
        (with(4, ""), "1.5 + 0 + 0", ""),
    ] {
        let (is, faults) = found(row);
        assert_eq!(is, sums, "{row:?}");
        assert_eq!(faults.len(), usize::from(!fault.is_empty()), "{row:?}: {faults:?}");
        assert!(faults.iter().all(|f| f.starts_with("1 line of m has ") && f.contains(fault)), "{row:?}: {faults:?}");
    }
}

/// Two faults of one line are two reasons, unless the line is left out.
#[test]
fn a_line_with_two_faults_is_named_twice() {
    let (sums, faults) = found(["Minutes", "Usage", "-2", "2026-10-02", "", "alice", "bob"]);
    assert_eq!((sums.as_str(), faults.len()), ("0 + -2 + 0", 2), "{faults:?}");
    let (sums, faults) = found(["Minutes", "Usage", "-2", "never", "", "alice", "bob"]);
    assert_eq!((sums.as_str(), faults.len()), ("0 + 0 + -2", 1), "{faults:?}");
}

#[test]
fn a_line_type_is_unknown_only_where_a_meter_claims_the_line() {
    let row = |usage_type, line_type| [usage_type, line_type, "2", "2026-10-02", "", "alice", ""];
    let found =
        totals(&[row("Other", "New"), row("Requests", "New"), row("Minutes", "Newer"), row("Minutes", "Usage")]);
    assert_eq!(found.unknown_line_types, [UnknownLineType { line_type: "Newer".into(), lines: 1 }]);
    let claims: Vec<_> = found.lines.iter().map(|l| (l.usage_type.as_str(), l.claim)).collect();
    let want = [("Minutes", ClaimKind::Excluded), ("Minutes", ClaimKind::Counted)];
    assert_eq!(claims, [&want[..], &[("Other", ClaimKind::Unrecognised), ("Requests", ClaimKind::Ignored)]].concat());
}

#[test]
fn no_fault_of_a_line_that_nobody_counts_is_a_fault() {
    for (usage_type, line_type) in
        [("Requests", "Usage"), ("Other", "Usage"), ("Other", "New"), ("Minutes", "Credit"), ("", "Tax")]
    {
        for (amount, read) in [("NaN", "0"), ("many", "0"), ("1e300", "0"), ("-3", "-3"), ("5", "5"), ("", "0")] {
            let good = [usage_type, line_type, "2", "2026-10-02", "2026-10-01", "alice", "alice"];
            let bad = [usage_type, line_type, amount, "never", "2026-01-01", "a\u{7}", "bob"];
            let found = totals(&[good, bad]);
            assert_eq!(found.faults, [], "{usage_type} {line_type} {amount}");
            assert_eq!(found.lines.iter().map(|l| l.lines).sum::<u64>(), 2);
            assert_eq!(found.lines.iter().map(|l| l.tagged_lines).sum::<u64>(), 1, "{amount}");
            let sum: Quantity = found.lines.iter().map(|l| l.amount).sum();
            assert_eq!(sum, "2".parse::<Quantity>().unwrap() + read.parse().unwrap());
            // how many could not be read is in the line groups, and they claim the same
            let unread: u64 = found.lines.iter().filter(|l| Mark::NoAmount.is_on(&l.line_type)).map(|l| l.lines).sum();
            assert_eq!(unread, u64::from(read == "0" && !amount.is_empty()), "{amount}");
            assert!(found.lines.iter().all(|l| l.claim == found.lines[0].claim), "{:?}", found.lines);
            assert_eq!(found.unknown_line_types, []);
        }
    }
}

#[test]
fn lines_that_are_left_out_have_a_line_group_that_says_why() {
    let rows = [GOOD, ["Minutes", "Usage", "2", "?", "", "bob", ""], ["Minutes", "Usage", "?", "?", "", "bob", ""]];
    let found = totals(&rows);
    let lines: Vec<String> =
        found.lines.iter().map(|l| format!("{} {:?} {} {}", l.line_type, l.claim, l.lines, l.amount)).collect();
    assert_eq!(
        lines,
        ["Usage Counted 1 1.5", "Usage (no readable amount) Excluded 1 0", "Usage (no readable day) Excluded 1 2"]
    );
    assert_eq!(found.counted_rows, 1);
}

#[test]
fn the_first_faulty_lines_are_named_and_the_others_counted() {
    let bad: Row = ["Minutes", "Usage", "-1", "2026-10-02", "", "alice", ""];
    let (mut late, mut early) = (aggregator(), aggregator());
    add(&mut late, &[bad; 7], 100);
    add(&mut early, &[GOOD, bad], 0);
    late.merge(&early);
    let faults = late.finish().unwrap().faults;
    assert_eq!((faults[0].lines, faults[0].amount.to_string().as_str()), (8, "-8"));
    assert_eq!(faults[0].first.iter().map(|f| f.row).collect::<Vec<_>>(), [1, 100, 101]);
    assert!(faults[0].to_string().starts_with("8 lines of m have a negative amount (amount -8): f, row"));
    assert!(faults[0].to_string().ends_with("; and 5 more"), "{}", faults[0]);
}

fn any_row() -> impl Strategy<Value = Row> {
    let one_of = |texts: &'static [&'static str]| prop::sample::select(texts);
    (
        one_of(&["Minutes", "Minutes", "Requests", "Other"]),
        one_of(&["Usage", "Usage", "Credit", "?", "Usage (no readable day)"]),
        one_of(&["1.5", "-2", "NaN", "x", "1e27", "", "0.00000000001"]),
        one_of(&["2026-10-01", "2026-10-31", "2026-09-30", "?", ""]),
        one_of(&["2026-10-01", "2026-09-01", ""]),
        one_of(&["alice", "bob", "", "a\tb"]),
        one_of(&["alice", "", "", "carol"]),
    )
        .prop_map(|(a, b, c, d, e, f, g)| [a, b, c, d, e, f, g])
}

proptest! {
    /// Whatever the lines are: nothing is lost, and parts in any order, packed and unpacked, say
    /// what one reading says.
    #[test]
    fn faults_are_conserved_in_parts_and_in_any_order(rows in prop::collection::vec(any_row(), 1..40), cut in 0_usize..40) {
        let whole = totals(&rows);
        let cut = cut.min(rows.len());
        let (mut one, mut other) = (aggregator(), aggregator());
        add(&mut one, &rows[..cut], 0);
        add(&mut other, &rows[cut..], u64::try_from(cut).unwrap());
        // the resource is that of the batch's row, so it is not compared
        let packed = UsageAggregator::unpack(Arc::new(rules()), "2026-10".parse().unwrap(), &one.pack().unwrap()).unwrap();
        other.merge(&packed);
        let mut merged = other.finish().unwrap();
        let mut whole = whole;
        for fault in merged.faults.iter_mut().chain(&mut whole.faults).flat_map(|faults| &mut faults.first) {
            fault.resource = None;
        }
        prop_assert_eq!(merged, whole);
    }
}
