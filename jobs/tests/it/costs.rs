//! Costs of customers, booked with the usage of the same bill: whole or not at all, in one
//! currency, with the guards and proofs of usage. Each job runs twice.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, StringArray};
use books::usage::cost::CostColumn;
use books::usage::meter::{CostMeter, Pattern, Rules};
use jobs::context::{Context, ReadLimits, ReadSettings};
use jobs::ingest_cur::hold::HoldKind;
use jobs::ingest_cur::{IngestOutcome, IngestPart, IngestReport};
use jobs::job::{Failure, Job};
use testkit::ingest_fixture::{
    IngestFixture, Line, TAG, chime, columns, deliver, job, month, now, parquet_bytes, rules,
};

const V1: &str = "2026-10-10T03:00:00.000Z-11111111-1111-4111-8111-111111111111";
const V2: &str = "2026-10-11T03:00:00.000Z-22222222-2222-4222-8222-222222222222";
const NAMES: [&str; 3] = ["1.parquet", "2.parquet", "3.parquet"];
const COSTS: &str = "SELECT customer || '|' || meter || '|' || day || '|' || sum(amount) FROM booked_costs \
                     GROUP BY customer, meter, day HAVING sum(amount) <> 0 ORDER BY customer, meter, day";

/// A line and what it costs.
#[derive(Clone)]
struct Charged(Line, f64);

/// Calls at 0.0017 a minute.
fn call(customer: &str, day: i8, minutes: f64, cost: f64) -> Charged {
    Charged(chime(customer, day, minutes), cost)
}

fn bytes(lines: &[Charged], currency: &str) -> Vec<u8> {
    let plain: Vec<Line> = lines.iter().map(|charged| charged.0.clone()).collect();
    let costs: ArrayRef = Arc::new(Float64Array::from(lines.iter().map(|charged| charged.1).collect::<Vec<_>>()));
    let codes: ArrayRef = Arc::new(StringArray::from(vec![currency; lines.len()]));
    let mut all = columns(&plain);
    all.extend([("line_item_unblended_cost", costs), ("line_item_currency_code", codes)]);
    parquet_bytes(all)
}

fn with_costs() -> Rules {
    let pattern = |text: &str| vec![Pattern::product(text).unwrap()];
    let line_types = CostColumn::Unblended.line_types().into_iter().map(str::to_owned).collect();
    let chime = CostMeter {
        name: "chime_cost".into(),
        column: CostColumn::Unblended,
        products: pattern("AmazonChime"),
        usage_types: vec![Pattern::usage_type("Meetings-AttendeeMinutes").unwrap()],
        line_types,
    };
    let usage_types = vec![Pattern::usage_type("*").unwrap()];
    let polly = CostMeter { name: "polly".into(), products: pattern("AmazonPolly"), usage_types, ..chime.clone() };
    Rules { costs: vec![chime, polly], ..rules(TAG) }
}

async fn world() -> IngestFixture {
    IngestFixture::with(with_costs()).await
}

fn by_rules(world: &IngestFixture, rules: Rules) -> Context {
    let read_settings = ReadSettings { rules: Arc::new(rules), ..world.context.read_settings.clone() };
    Context { read_settings, ..world.context.clone() }
}

fn bill() -> Vec<Charged> {
    let discount = Line { line_type: "EdpDiscount".into(), amount: 0.0, ..chime("", 2, 0.0) };
    let credit = Line { line_type: "Credit".into(), amount: 0.0, ..chime("alice", 2, 0.0) };
    let speech = Line { product: "AmazonPolly", usage_type: "EUC1-SynthesizeSpeech".into(), ..chime("bob", 3, 7.0) };
    vec![
        call("alice", 1, 100.0, 0.17),
        call("alice", 2, 50.0, 0.085),
        call("bob", 2, 10.0, 0.017),
        call("", 2, 20.0, 0.034),
        Charged(discount, -0.0306),
        Charged(credit, -0.05),
        Charged(speech, 0.0000288),
    ]
}

/// Runs twice; the second run changes nothing.
async fn booked(world: &IngestFixture) -> IngestReport {
    let report = world.ingest().await.unwrap();
    assert_eq!(report.outcome, IngestOutcome::Applied, "{report:?}");
    let before = world.dump(COSTS).await;
    assert_eq!(world.ingest().await.unwrap().outcome, IngestOutcome::Unchanged);
    assert_eq!(world.dump(COSTS).await, before);
    world.sound().await;
    report
}

#[tokio::test]
async fn costs_are_booked_with_the_usage_and_apart_from_it() {
    let world = world().await;
    deliver(&world.bucket(), V1, &[(NAMES[0], bytes(&bill(), "USD"))]);
    let report = booked(&world).await;
    assert_eq!(
        world.dump(COSTS).await,
        [
            "|chime_cost(USD)|2026-10-02|34000000", // 0.034 of nobody less a discount of 0.0306
            "alice|chime_cost(USD)|2026-10-01|1700000000",
            "alice|chime_cost(USD)|2026-10-02|850000000",
            "bob|chime_cost(USD)|2026-10-02|170000000",
            "bob|polly(USD)|2026-10-03|288000",
        ]
    );
    let of = report.meters.iter().find(|of| of.totals.meter == "chime_cost(USD)").unwrap();
    let parts =
        [of.totals.attributed, of.totals.unattributed, of.totals.excluded, of.totals.total].map(|q| q.to_string());
    assert_eq!((parts, of.totals.unit.as_str()), (["0.272", "0.0034", "-0.05", "0.2254"].map(str::to_owned), "USD"));
    // usage is what it is without cost meters, for every reader of usage
    let plain = IngestFixture::new().await;
    deliver(&plain.bucket(), V1, &[(NAMES[0], bytes(&bill(), "USD"))]);
    plain.ingest().await.unwrap();
    assert_eq!(world.ledger().await, plain.ledger().await);
    for sql in [
        "SELECT meter || day || attributed || units || ' ' || rest FROM usage_totals ORDER BY 1",
        "SELECT product || usage_type || line_type || claim || meter || lines || amount FROM bill_lines ORDER BY 1",
    ] {
        assert_eq!(world.dump(sql).await, plain.dump(sql).await, "{sql}");
    }
    let in_month = world.context.books.costs_in(month(), None).await.unwrap();
    let sum: books::units::quantity::Quantity = in_month.iter().map(|of| of.all.cost).sum();
    assert_eq!(sum.to_string(), "0.2754288");
    let billed = world.context.books.billed_costs(month()).await.unwrap();
    assert_eq!(billed.iter().map(|of| of.excluded.to_string()).collect::<Vec<_>>(), ["-0.05", "0"]);
}

#[tokio::test]
async fn a_restated_cost_becomes_an_adjustment() {
    let world = world().await;
    deliver(&world.bucket(), V1, &[(NAMES[0], bytes(&bill(), "USD"))]);
    booked(&world).await;
    let mut restated = bill();
    restated.reverse();
    restated[6] = call("alice", 1, 100.0, 0.15);
    restated.push(Charged(Line { line_type: "SavingsPlanNegation".into(), ..chime("bob", 2, 0.0) }, -0.027));
    deliver(&world.bucket(), V2, &[(NAMES[0], bytes(&restated, "USD"))]);
    let report = booked(&world).await;
    assert_eq!((report.entries, report.largest_changes.len()), (2, 2), "usage has not changed: {report:?}");
    let costs = world.dump(COSTS).await;
    assert_eq!(costs[1], "alice|chime_cost(USD)|2026-10-01|1500000000");
    assert_eq!(costs[3], "bob|chime_cost(USD)|2026-10-02|-100000000", "a cost may be negative");
    // a line that is left out later takes its cost back
    deliver(&world.bucket(), V1, &[(NAMES[0], bytes(&bill()[..6], "USD"))]);
    assert_eq!(world.ingest().await.unwrap().outcome, IngestOutcome::Older, "an older delivery changes nothing");
    assert_eq!(world.dump(COSTS).await, costs);
}

#[tokio::test]
async fn a_cost_meter_that_comes_or_goes_changes_no_usage() {
    let world = world().await;
    deliver(&world.bucket(), V1, &[(NAMES[0], bytes(&bill(), "USD"))]);
    let without = by_rules(&world, rules(TAG));
    assert_eq!(job().run(&without, now()).await.unwrap().outcome, IngestOutcome::Applied);
    let usage =
        "SELECT customer || meter || day || sum(quantity) FROM booked_usage GROUP BY customer, meter, day ORDER BY 1";
    let before = world.dump(usage).await;
    assert!(world.dump(COSTS).await.is_empty());
    assert_eq!(booked(&world).await.entries, 5, "the same version, read again");
    assert_eq!((world.dump(usage).await, world.dump(COSTS).await.len()), (before.clone(), 5));
    for _ in 0..2 {
        let report = job().run(&without, now()).await.unwrap();
        assert_ne!(report.outcome, IngestOutcome::OnHold, "{report:?}");
    }
    assert_eq!(world.dump(usage).await, before);
    assert!(world.dump(COSTS).await.is_empty(), "what no cost meter sums is taken back");
    world.sound().await;
}

#[tokio::test]
async fn costs_in_two_currencies_book_nothing() {
    let world = world().await;
    let euro = bytes(&[call("carol", 4, 10.0, 0.016)], "EUR");
    deliver(&world.bucket(), V1, &[(NAMES[0], bytes(&bill(), "USD")), (NAMES[1], euro.clone())]);
    for _ in 0..2 {
        let failure = world.ingest().await.unwrap_err();
        let why = format!("{:#}", failure.error());
        assert!(why.contains("do not have one currency in line_item_currency_code, but EUR and USD"), "{why}");
    }
    assert!(world.ledger().await.is_empty() && world.dump(COSTS).await.is_empty());
    let columns = columns(&[chime("alice", 1, 1.0)]);
    deliver(&world.bucket(), V1, &[(NAMES[0], parquet_bytes(columns))]);
    let why = format!("{:#}", world.ingest().await.unwrap_err().error());
    assert!(why.contains("there is no column line_item_unblended_cost, line_item_currency_code; add it"), "{why}");
    // a bill in another currency is one of its own
    deliver(&world.bucket(), V2, &[(NAMES[0], euro)]);
    booked(&world).await;
    assert_eq!(world.dump(COSTS).await, ["carol|chime_cost(EUR)|2026-10-04|160000000"]);
}

/// Guards against: a lost column of costs, or one that counts twice, passes because usage is right.
#[tokio::test]
async fn the_guards_look_at_costs() {
    let world = world().await;
    let priced = |cost: f64| bytes(&[call("alice", 1, 100.0, cost), call("bob", 2, 100.0, 50.0)], "USD");
    deliver(&world.bucket(), V1, &[(NAMES[0], priced(50.0))]);
    booked(&world).await;
    for (cost, kind, text) in [
        (-10.0, HoldKind::Restatement, "chime_cost(USD) of the month goes from 100 to 40 (-60 %)"),
        (5000.0, HoldKind::Growth, "chime_cost(USD) of the settled days through 2026-10-06 grows from 100 to 5050"),
    ] {
        deliver(&world.bucket(), V2, &[(NAMES[0], priced(cost))]);
        for _ in 0..2 {
            let report = world.ingest().await.unwrap();
            assert_eq!(report.outcome, IngestOutcome::OnHold);
            let reasons = &report.hold_reasons;
            assert_eq!((reasons.len(), reasons[0].kind), (1, kind), "{reasons:?}");
            assert!(reasons[0].text.starts_with(text), "{reasons:?}");
        }
    }
    let accepted = world.accept(V2).await.run(&world.context, now()).await.unwrap();
    assert_eq!(accepted.outcome, IngestOutcome::Applied);
    world.sound().await;
}

#[tokio::test]
async fn parts_make_the_same_costs() {
    let files = |whole: &[Charged]| whole.chunks(3).map(|some| bytes(some, "USD")).collect::<Vec<_>>();
    let (whole, parted) = (world().await, world().await);
    for world in [&whole, &parted] {
        let named: Vec<_> = NAMES.into_iter().zip(files(&bill())).collect();
        deliver(&world.bucket(), V1, &named);
    }
    booked(&whole).await;
    let limits = ReadLimits { fan_out_bytes: Some(1), ..ReadLimits::default() };
    let read_settings = ReadSettings { limits, ..parted.context.read_settings.clone() };
    let context = Context { read_settings, ..parted.context.clone() };
    let Err(Failure::WaitFor(requests, ..)) = job().run(&context, now()).await else { panic!("it needs no parts") };
    assert_eq!(requests.len(), 3);
    for request in requests.iter().rev() {
        let part: IngestPart = serde_json::from_str(&request.payload).unwrap();
        part.clone().run(&context, now()).await.unwrap();
        part.run(&context, now()).await.unwrap();
    }
    assert_eq!(job().run(&context, now()).await.unwrap().outcome, IngestOutcome::Applied);
    assert_eq!(job().run(&context, now()).await.unwrap().outcome, IngestOutcome::Unchanged);
    let totals = "SELECT meter || unit || lines || ' ' || total || ' ' || attributed || ' ' || unattributed || ' ' || excluded FROM bill_totals ORDER BY 1";
    let lines = "SELECT product || usage_type || line_type || claim || meter || lines || tagged_lines || ' ' || amount FROM cost_lines ORDER BY 1";
    for sql in [COSTS, totals, lines] {
        assert_eq!(whole.dump(sql).await, parted.dump(sql).await, "{sql}");
    }
    assert_eq!(whole.ledger().await, parted.ledger().await);
    parted.sound().await;
}
