//! Plans of changes: applying one is the same command without a plan, a revert makes every sum what
//! it was, and whatever moved in between stops it. `meter verify` is green at each point.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, StringArray};
use books::shared_bucket::{Measure, Remainder};
use books::store::connection::Connection;
use books::usage::cost::CostColumn;
use books::usage::meter::{CostMeter, Pattern, Rules};
use books::usage::months::Found;
use jobs::changes::{
    ApplyError, Approval, ChangePlan, Made, Opposite, OppositeError, RestsOn, WantedChange, apply, make, opposite,
};
use jobs::context::{Context, HoldPolicy, ReadSettings};
use jobs::ingest_cur::{Acceptance, IngestCur, IngestOutcome, look};
use jobs::job::Job;
use testkit::ingest_fixture::{
    IngestFixture, Line, TAG, chime, columns, deliver, export, job, month, parquet_bytes, read_settings, rules,
};

use crate::apportion::{DAY, Form, GIGABYTE, World, storage};
use crate::enforce::{BudgetFixture, at, plan as prices};

pub(crate) const V1: &str = "2026-10-10T03:00:00.000Z-11111111-1111-4111-8111-111111111111";
pub(crate) const V2: &str = "2026-10-11T03:00:00.000Z-22222222-2222-4222-8222-222222222222";
const V3: &str = "2026-10-12T03:00:00.000Z-33333333-3333-4333-8333-333333333333";

/// The other tag of the bills here.
pub(crate) const TEAM: &str = "team";

/// A line with two tags: the customer's, and that of its team.
#[derive(Clone, Debug)]
pub(crate) struct Tagged(Line, String);

pub(crate) fn call(customer: &str, team: &str, day: i8, minutes: f64) -> Tagged {
    Tagged(chime(customer, day, minutes), team.to_owned())
}

fn bytes(lines: &[Tagged]) -> Vec<u8> {
    let plain: Vec<Line> = lines.iter().map(|of| of.0.clone()).collect();
    let teams: ArrayRef = Arc::new(StringArray::from(lines.iter().map(|of| of.1.clone()).collect::<Vec<_>>()));
    let costs = lines.iter().map(|of| of.0.amount).collect::<Vec<_>>();
    let costs: ArrayRef = Arc::new(Float64Array::from(costs));
    let codes: ArrayRef = Arc::new(StringArray::from(vec!["USD"; lines.len()]));
    let mut all = columns(&plain);
    all.push(("resource_tags_user_team", teams));
    all.extend([("line_item_unblended_cost", costs), ("line_item_currency_code", codes)]);
    parquet_bytes(all)
}

pub(crate) fn bill(bucket: &Path, version: &str, lines: &[Tagged]) {
    deliver(bucket, version, &[("e-00001.snappy.parquet", bytes(lines))]);
}

/// Rules by a tag key, with a cost meter.
pub(crate) fn by(tag_key: &str) -> Rules {
    let cost = CostMeter {
        name: "chime_cost".into(),
        column: CostColumn::Unblended,
        products: vec![Pattern::product("AmazonChime").unwrap()],
        usage_types: vec![Pattern::usage_type("Meetings-AttendeeMinutes").unwrap()],
        line_types: CostColumn::Unblended.line_types().into_iter().map(str::to_owned).collect(),
    };
    Rules { costs: vec![cost], ..rules(tag_key) }
}

/// The context of a process with these rules. Nothing is held: which reasons hold is not the
/// subject here.
pub(crate) fn with(world: &IngestFixture, rules: Rules) -> Context {
    let hold = HoldPolicy { accept_restatements: true, ..HoldPolicy::default() };
    let read_settings = ReadSettings { hold, ..read_settings(rules) };
    Context { read_settings, ..world.context.clone() }
}

fn wanted() -> Vec<WantedChange> {
    vec![WantedChange { export: "main".into(), month: month(), accept: None }]
}

pub(crate) fn ann() -> Approval {
    Approval { actor: "ann@test".into(), reason: "the tag was wrong".into() }
}

pub(crate) async fn made(context: &Context, world: &IngestFixture) -> ChangePlan {
    let Made { plan, .. } = make(context, &wanted(), "ann@test", world.now).await.unwrap();
    // what a person applies was read from a file
    ChangePlan::from_text(&plan.to_text().unwrap()).unwrap()
}

pub(crate) async fn ingest(context: &Context, world: &IngestFixture) -> IngestOutcome {
    job().run(context, world.now).await.unwrap().outcome
}

/// Everything that a booking writes, but for instants.
pub(crate) async fn books(world: &IngestFixture) -> Vec<String> {
    let mut all = entries(world).await;
    for sql in [
        "SELECT concat_ws('|', id, payer, month, export, version, manifest_digest, rules_digest, state, accepted, \
           supersedes, rows, counted_rows, newest_day, notes, reports_digest) FROM bill_versions ORDER BY id",
        "SELECT concat_ws('|', version_id, meter, total, attributed, apportioned, unattributed, excluded, booked) FROM bill_totals ORDER BY 1",
        "SELECT concat_ws('|', version_id, product, usage_type, claim, meter, lines, tagged_lines, amount) FROM bill_lines ORDER BY 1",
        "SELECT concat_ws('|', version_id, product, usage_type, meter, lines, amount) FROM cost_lines ORDER BY 1",
        "SELECT concat_ws('|', version_id, bucket, meter, day, state, billed, apportioned) FROM bucket_shares ORDER BY 1",
        "SELECT concat_ws('|', version_id, key, size, rows) FROM bill_files ORDER BY 1",
        "SELECT concat_ws('|', id, entries, version_id, counted) FROM bookings ORDER BY id",
        "SELECT concat_ws('|', meter, day, attributed, units, rest) FROM usage_totals ORDER BY 1",
    ] {
        all.extend(world.dump(sql).await);
    }
    all
}

/// Every entry, of usage and of costs, in the order of the bookings.
async fn entries(world: &IngestFixture) -> Vec<String> {
    let sql = "SELECT concat_ws('|', booking_id, customer, meter, day, quantity, kind) FROM ledger_entries \
               ORDER BY booking_id, customer, meter, day";
    world.dump(sql).await
}

/// Every sum of the ledger, by payer, customer, meter and day, and the sums of all customers.
pub(crate) async fn sums(world: &IngestFixture) -> Vec<String> {
    let by_cell = "SELECT concat_ws('|', payer, customer, meter, day, sum(quantity)) FROM booked_usage \
                   GROUP BY payer, customer, meter, day HAVING sum(quantity) <> 0 ORDER BY 1";
    let by_day = "SELECT concat_ws('|', meter, day, attributed, units, rest) FROM usage_totals \
                  WHERE (units, rest) <> (0, 0) ORDER BY 1";
    let costs = "SELECT concat_ws('|', customer, meter, day, sum(amount)) FROM booked_costs \
                 GROUP BY customer, meter, day HAVING sum(amount) <> 0 ORDER BY 1";
    [world.dump(by_cell).await, world.dump(by_day).await, world.dump(costs).await].concat()
}

pub(crate) async fn revert(context: &Context, world: &IngestFixture, number: i64) -> Result<(), OppositeError> {
    let found = opposite(context, number).await?;
    found.book(context, ann(), world.now).await
}

fn lines() -> Vec<Tagged> {
    vec![
        call("alice", "red", 1, 10.5),
        call("alice", "blue", 2, 3.0),
        call("bob", "red", 1, 7.0),
        call("", "red", 3, 2.25),
        call("carol", "", 4, 1.0),
    ]
}

/// Books the first version by the old tag key.
async fn booked() -> IngestFixture {
    let world = IngestFixture::with(by(TAG)).await;
    bill(&world.bucket(), V1, &lines());
    assert_eq!(ingest(&with(&world, by(TAG)), &world).await, IngestOutcome::Applied);
    world
}

/// Guards against: an apply that books something else than the command would, a second way of
/// booking, and a revert that leaves a sum.
#[tokio::test]
async fn a_plan_books_what_the_command_does_and_its_revert_takes_it_back() {
    let (planned, plain) = (booked().await, booked().await);
    let before = (sums(&planned).await, entries(&planned).await);
    let context = with(&planned, by(TEAM));
    let plan = made(&context, &planned).await;
    assert_eq!(books(&planned).await, books(&plain).await, "a plan writes nothing");
    let of = |customer: &str| {
        let own = plan.bills[0].differences.iter().filter(|of| of.customer == customer && of.meter == "chime_minutes");
        own.map(|of| format!("{} {} {}", of.day, of.before, of.after)).collect::<Vec<_>>()
    };
    assert_eq!(of("alice"), ["2026-10-01 10.5 0", "2026-10-02 3 0"]);
    assert_eq!(of("red"), ["2026-10-01 0 17.5", "2026-10-03 0 2.25"]);
    assert_eq!(of(""), ["2026-10-03 2.25 0", "2026-10-04 0 1"]);
    assert_eq!(plan.effects.no_customer.len(), 5, "nobody has a row in `customers`");

    assert_eq!(apply(&context, &plan, ann(), planned.now).await.unwrap(), 1);
    assert_eq!(ingest(&with(&plain, by(TEAM)), &plain).await, IngestOutcome::Applied);
    assert_eq!(books(&planned).await, books(&plain).await, "the same command without a plan");
    planned.sound().await;
    assert_eq!(ingest(&context, &planned).await, IngestOutcome::Unchanged);

    let Opposite { entries: made, pushed, .. } = opposite(&context, 1).await.unwrap();
    assert_eq!((made, pushed.len()), (plan.bills[0].differences.len(), 0));
    revert(&context, &planned, 1).await.unwrap();
    planned.sound().await;
    assert_eq!(sums(&planned).await, before.0);
    let ledger = entries(&planned).await;
    assert_eq!(ledger[..before.1.len()], before.1, "history stays");
    assert_eq!(ledger.len(), before.1.len() + 2 * made);

    let applied = planned.context.books.applied_plans(None).await.unwrap();
    let (one, kept) = (&applied[0], ("ann@test", "the tag was wrong"));
    assert_eq!((one.number, one.actor.as_str(), one.reason.as_str()), (1, kept.0, kept.1));
    assert_eq!(one.reverted.as_ref().map(|of| (of.actor.as_str(), of.reason.as_str())), Some(kept));
    assert_eq!(one.versions.iter().map(|of| (of.id, of.reverts)).collect::<Vec<_>>(), [(2, None), (3, Some(2))]);
    let audit = planned.context.books.audit("change 1".into()).await.unwrap();
    assert_eq!(audit.iter().map(|of| of.action.as_str()).collect::<Vec<_>>(), ["apply", "revert"]);
}

/// Guards against: an unchanged bill that is booked again behind the back of who reverted it, and
/// a revert after which nothing is ever booked again.
#[tokio::test]
async fn what_was_reverted_is_booked_again_by_a_new_delivery_or_a_new_plan_alone() {
    let world = booked().await;
    let (old, new) = (with(&world, by(TAG)), with(&world, by(TEAM)));
    let before = sums(&world).await;
    let plan = made(&new, &world).await;
    apply(&new, &plan, ann(), world.now).await.unwrap();
    let found = opposite(&new, 1).await.unwrap();
    let rests_on = |context: &Context| found.rests_on(&context.read_settings.rules.digest())[0].1;
    assert_eq!((rests_on(&new), rests_on(&old)), (RestsOn::OtherConfiguration, RestsOn::ThisConfiguration));
    revert(&new, &world, 1).await.unwrap();
    // with the configuration that led to it, and with the one of before
    for _ in 0..2 {
        let report = job().run(&new, world.now).await.unwrap();
        assert_eq!(report.outcome, IngestOutcome::Reverted);
        assert!(report.warnings.iter().any(|text| text.contains("change 1")), "{:?}", report.warnings);
        let dry = IngestCur { dry_run: true, ..job() }.run(&new, world.now).await.unwrap();
        assert_eq!(dry.outcome, IngestOutcome::Reverted);
        assert_eq!(ingest(&old, &world).await, IngestOutcome::Unchanged);
    }
    assert_eq!(sums(&world).await, before);
    assert!(matches!(apply(&new, &plan, ann(), world.now).await, Err(ApplyError::Already(_))));
    // a person plans it anew
    let again = made(&new, &world).await;
    assert_ne!(again.digest, plan.digest);
    assert_eq!(again.bills[0].differences, plan.bills[0].differences);
    assert_eq!(apply(&new, &again, ann(), world.now).await.unwrap(), 2);
    world.sound().await;
    revert(&new, &world, 2).await.unwrap();
    assert_eq!(sums(&world).await, before);
    // AWS delivers again
    bill(&world.bucket(), V2, &lines());
    assert_eq!(ingest(&new, &world).await, IngestOutcome::Applied);
    assert_ne!(sums(&world).await, before);
    world.sound().await;
}

/// A newer delivery was the change, by one configuration.
#[tokio::test]
async fn a_delivery_that_was_reverted_waits_for_the_next_one() {
    let world = booked().await;
    let context = with(&world, by(TAG));
    let before = sums(&world).await;
    let mut more = lines();
    more.push(call("dave", "", 9, 4.0));
    bill(&world.bucket(), V2, &more);
    let plan = made(&context, &world).await;
    apply(&context, &plan, ann(), world.now).await.unwrap();
    revert(&context, &world, 1).await.unwrap();
    assert_eq!(ingest(&context, &world).await, IngestOutcome::Reverted);
    assert_eq!(sums(&world).await, before);
    world.sound().await;
    // nobody is called for a version that a person took back
    let months = world.context.books.months(world.now).await.unwrap();
    let found = look("main", &world.context.exports["main"], &months["default"], vec![month()], world.now).await;
    assert_eq!(found.unwrap()[0].found, Found::AsBooked);
    bill(&world.bucket(), V3, &more);
    assert_eq!(ingest(&context, &world).await, IngestOutcome::Applied);
    assert_eq!(world.usage("dave", "chime_minutes").await.to_string(), "4");
    world.sound().await;
}

/// Another configuration and a newer delivery in one change: once the configuration is put back,
/// the delivery is read by it, as it was never before.
#[tokio::test]
async fn a_delivery_that_was_reverted_is_read_by_the_configuration_of_before() {
    let world = booked().await;
    let (old, new) = (with(&world, by(TAG)), with(&world, by(TEAM)));
    let mut more = lines();
    more.push(call("dave", "green", 9, 4.0));
    bill(&world.bucket(), V2, &more);
    apply(&new, &made(&new, &world).await, ann(), world.now).await.unwrap();
    assert_eq!(world.usage("green", "chime_minutes").await.to_string(), "4");
    revert(&new, &world, 1).await.unwrap();
    assert_eq!(ingest(&new, &world).await, IngestOutcome::Reverted);
    assert_eq!(ingest(&old, &world).await, IngestOutcome::Applied);
    assert_eq!(world.usage("dave", "chime_minutes").await.to_string(), "4");
    assert_eq!(ingest(&old, &world).await, IngestOutcome::Unchanged);
    world.sound().await;
}

/// The first booking of a month leaves nothing when it is reverted.
#[tokio::test]
async fn a_first_booking_is_planned_and_reverted_to_nothing() {
    let world = IngestFixture::with(by(TAG)).await;
    let context = with(&world, by(TAG));
    bill(&world.bucket(), V1, &lines());
    let plan = made(&context, &world).await;
    assert_eq!(plan.bills[0].booked, None);
    apply(&context, &plan, ann(), world.now).await.unwrap();
    assert_eq!(world.usage("alice", "chime_minutes").await.to_string(), "13.5");
    assert!(made(&context, &world).await.is_empty(), "it is booked");
    let found = opposite(&context, 1).await.unwrap();
    assert_eq!(found.rests_on("")[0].1, RestsOn::Nothing);
    revert(&context, &world, 1).await.unwrap();
    assert_eq!(sums(&world).await, Vec::<String>::new());
    world.sound().await;
    assert_eq!(ingest(&context, &world).await, IngestOutcome::Reverted);
    bill(&world.bucket(), V2, &lines());
    assert_eq!(ingest(&context, &world).await, IngestOutcome::Applied);
    world.sound().await;
}

/// Guards against: booking what nobody looked at. Whatever moves, nothing is written, and the
/// message says what it was.
#[tokio::test]
async fn what_moved_since_is_refused_and_named() {
    let world = BudgetFixture::over(booked().await);
    world.apply(vec![prices("gold", "2020-01-01T00:00:00Z", ("100", Some("0.01")))]).await;
    world.sign_up("red", "gold").await;
    let context = with(&world, by(TEAM));
    let plan = made(&context, &world).await;
    let moved = async |context: &Context, words: &str| {
        let before = books(&world).await;
        match apply(context, &plan, ann(), world.now).await {
            Err(ApplyError::Moved(what)) => assert!(what.iter().any(|text| text.contains(words)), "{words}: {what:?}"),
            other => panic!("{words}: {other:?}"),
        }
        assert_eq!(books(&world).await, before, "{words}");
        assert!(world.context.books.applied_plans(None).await.unwrap().is_empty());
        world.sound().await;
    };
    // configuration
    moved(&with(&world, by(TAG)), "the configuration of meters, tag keys").await;
    let mut factor = by(TEAM);
    factor.meters[0].factor = "2".parse().unwrap();
    moved(&with(&world, factor), "the configuration of meters, tag keys").await;
    let other = Context { read_settings: read_settings(by(TEAM)), ..context.clone() };
    moved(&other, "what puts a bill on hold").await;
    // a file of the bill
    let file = world.bucket().join(format!("e/data/BILLING_PERIOD=2026-10/{V1}/e-00001.snappy.parquet"));
    let was = (std::fs::read(&file).unwrap(), std::fs::metadata(&file).unwrap().modified().unwrap());
    let mut more = lines();
    more.push(call("dave", "green", 9, 4.0));
    std::fs::write(&file, bytes(&more)).unwrap();
    moved(&context, "the files of the bill main 2026-10").await;
    std::fs::write(&file, was.0).unwrap();
    std::fs::File::options().write(true).open(&file).unwrap().set_modified(was.1).unwrap();
    // a plan of prices
    world.apply(vec![prices("silver", "2020-01-01T00:00:00Z", ("100", Some("0.02")))]).await;
    moved(&context, "the plans, or how usage is billed").await;
    let plan = made(&context, &world).await;
    // a delivery of AWS
    bill(&world.bucket(), V2, &lines());
    let before = books(&world).await;
    let refused = apply(&context, &plan, ann(), world.now).await;
    assert!(
        matches!(&refused, Err(ApplyError::Moved(what)) if what[0].contains("newest version is 2026-10-11")),
        "{refused:?}"
    );
    assert_eq!(books(&world).await, before);
    // another booking of the bill
    let plan = made(&context, &world).await;
    assert_eq!(ingest(&with(&world, by(TAG)), &world).await, IngestOutcome::Applied);
    let before = books(&world).await;
    let refused = apply(&context, &plan, ann(), world.now).await;
    assert!(matches!(&refused, Err(ApplyError::Moved(what)) if what[0].contains("number 2")), "{refused:?}");
    assert_eq!(books(&world).await, before);
    // an edited file
    let text = plan.to_text().unwrap().replace("17.5", "17.6");
    assert!(ChangePlan::from_text(&text).is_err());
    // nothing moved: the last one is applied
    let plan = made(&context, &world).await;
    apply(&context, &plan, ann(), world.now).await.unwrap();
    world.sound().await;
}

/// Another worker books between the comparison and the commit.
#[tokio::test]
async fn a_booking_in_the_last_moment_is_refused_too() {
    let world = booked().await;
    let context = with(&world, by(TEAM));
    let plan = made(&context, &world).await;
    let beside: books::store::database::Fence = Arc::new(|c: Connection| {
        Box::pin(async move {
            let sql = "INSERT INTO erased_customers (digest, pseudonym, erased_at) \
                       VALUES (printf('%064d', 0), 'erased-0123456789abcdef', 0) ON CONFLICT DO NOTHING";
            c.execute(sql, ()).await.map(drop)
        })
    });
    let raced = Context { books: world.context.books.fenced(beside), ..context.clone() };
    let before = world.ledger().await;
    let refused = apply(&raced, &plan, ann(), world.now).await;
    assert!(matches!(&refused, Err(ApplyError::Moved(what)) if what[0].contains("a moment ago")), "{refused:?}");
    assert_eq!(world.ledger().await, before);
    assert!(world.context.books.applied_plans(None).await.unwrap().is_empty());
    assert_eq!(world.dump("SELECT CAST(count(*) AS TEXT) FROM bookings").await, ["1"], "nothing stays staged");
    world.sound().await;
}

#[tokio::test]
async fn what_was_done_once_is_not_done_again() {
    let world = booked().await;
    let context = with(&world, by(TEAM));
    let plan = made(&context, &world).await;
    apply(&context, &plan, ann(), world.now).await.unwrap();
    let after = books(&world).await;
    let twice = apply(&context, &plan, ann(), world.now).await;
    assert!(matches!(&twice, Err(ApplyError::Already(of)) if of.number == 1), "{twice:?}");
    assert!(matches!(opposite(&context, 2).await, Err(OppositeError::Unknown(Some(1)))));
    assert_eq!(books(&world).await, after);
    // a newer version rests on it
    bill(&world.bucket(), V2, &lines());
    assert_eq!(ingest(&context, &world).await, IngestOutcome::Applied);
    let late = revert(&context, &world, 1).await;
    let Err(OppositeError::BookedSince(why)) = &late else { panic!("{late:?}") };
    assert!(why.contains(V2) && why.contains("default 2026-10"), "{why}");
    // a plan on top of it is reverted once
    let back = with(&world, by(TAG));
    let plan = made(&back, &world).await;
    apply(&back, &plan, ann(), world.now).await.unwrap();
    revert(&back, &world, 2).await.unwrap();
    let after = books(&world).await;
    let twice = revert(&back, &world, 2).await;
    assert!(matches!(&twice, Err(OppositeError::Already(of)) if of.number == 2), "{twice:?}");
    assert_eq!(books(&world).await, after);
    world.sound().await;
}

/// Two bills count from one commit on, and are reverted in one.
#[tokio::test]
async fn a_plan_of_several_bills_is_whole() {
    let mut world = booked().await;
    let other = world.folder.path().join("other");
    std::fs::create_dir(&other).unwrap();
    bill(&other, V1, &[call("alice", "red", 1, 1.0)]);
    let manifest = other.join("e/metadata/BILLING_PERIOD=2026-10/e-Manifest.json");
    let text = std::fs::read_to_string(&manifest).unwrap().replace("111122223333", "444455556666");
    std::fs::write(&manifest, text).unwrap();
    let mut exports: BTreeMap<_, _> = (*world.context.exports).clone();
    let mut second = export(Arc::new(jobs::source::Folder::new(other)));
    second.payer = "second".into();
    exports.insert("second".into(), second.clone());
    // the same bill once more, under another name
    let source = Arc::clone(&exports["main"].source);
    exports.insert("again".into(), export(source));
    world.context.exports = Arc::new(exports);
    let context = with(&world, by(TEAM));
    let of = |export: &str| WantedChange { export: export.into(), month: month(), accept: None };
    let twice = make(&context, &[of("main"), of("again")], "ann@test", world.now).await.unwrap_err();
    assert!(format!("{:#}", twice.error()).contains("the second would change what the first booked"), "{twice:?}");
    let both = [of("main"), of("second")];
    let before = sums(&world).await;
    let plan = make(&context, &both, "ann@test", world.now).await.unwrap().plan;
    assert_eq!(plan.changed().count(), 2);
    apply(&context, &plan, ann(), world.now).await.unwrap();
    assert_eq!(world.usage("red", "chime_minutes").await.to_string(), "20.75");
    world.sound().await;
    revert(&context, &world, 1).await.unwrap();
    assert_eq!(sums(&world).await, before);
    world.sound().await;
}

/// Who applies a plan accepts what it says, as by the command; what nobody looked at is not.
#[tokio::test]
async fn a_version_on_hold_is_accepted_by_whoever_applies_its_plan() {
    let (planned, plain, named) = (booked().await, booked().await, booked().await);
    for world in [&planned, &plain, &named] {
        bill(&world.bucket(), V2, &[call("alice", "red", 1, 1.0)]);
        assert_eq!(job().run(&world.context, world.now).await.unwrap().outcome, IngestOutcome::OnHold);
    }
    let by_ann = async |world: &IngestFixture| {
        let accept = world.accept("2026-10-11").await.accept.unwrap();
        Some(Acceptance { actor: ann().actor, reason: ann().reason, ..accept })
    };
    let context = &planned.context;
    let plan = made(context, &planned).await;
    assert_eq!((plan.held().count(), plan.bills[0].outcome), (1, IngestOutcome::WouldHold));
    apply(context, &plan, ann(), planned.now).await.unwrap();
    IngestCur { accept: by_ann(&plain).await, ..job() }.run(&plain.context, plain.now).await.unwrap();
    // a plan of the command that accepts has no reason left
    let accepted = [WantedChange { export: "main".into(), month: month(), accept: by_ann(&named).await }];
    let of_named = make(&named.context, &accepted, "ann@test", named.now).await.unwrap().plan;
    assert_eq!(of_named.held().count(), 0);
    apply(&named.context, &of_named, ann(), named.now).await.unwrap();
    let audit = "SELECT concat_ws('|', actor, action, target, reason) FROM audit_log WHERE action LIKE 'ingest%'";
    for world in [&planned, &named] {
        assert_eq!(books(world).await, books(&plain).await);
        assert_eq!(world.dump(audit).await, plain.dump(audit).await);
        world.sound().await;
    }
    // what was accepted once is looked at again when it is planned anew
    revert(context, &planned, 1).await.unwrap();
    assert_eq!(ingest(context, &planned).await, IngestOutcome::Reverted);
    let again = made(context, &planned).await;
    assert_eq!(again.bills[0].hold, plan.bills[0].hold);
    apply(context, &again, ann(), planned.now).await.unwrap();
    planned.sound().await;
}

/// Another rule of apportionment, and other reports, are changes of the same kind.
#[tokio::test]
async fn shares_of_a_bucket_are_planned_and_reverted() {
    let world = World::new(Remainder::House).await;
    world.deliver(1, Form::Parquet, &[storage(1, 1.0)]);
    world.book().await;
    let fixture = &world.bill;
    let before = sums(fixture).await;
    let tenth = GIGABYTE * DAY * 31 / 10;
    world.report(Measure::ByteSeconds, 1, &[("", tenth), ("alice", 3 * tenth), ("bob", 5 * tenth)]).await;
    let context = &fixture.context;
    let plan = made(context, fixture).await;
    assert!(plan.bills[0].differences.iter().any(|of| of.customer == "alice" && of.after.to_string() == "0.3"));
    // S3 reports again meanwhile
    world.report(Measure::ByteSeconds, 1, &[("alice", tenth)]).await;
    let refused = apply(context, &plan, ann(), fixture.now).await;
    assert!(matches!(&refused, Err(ApplyError::Moved(what)) if what[0].contains("S3's reports")), "{refused:?}");
    world.report(Measure::ByteSeconds, 1, &[("", tenth), ("alice", 3 * tenth), ("bob", 5 * tenth)]).await;
    apply(context, &plan, ann(), fixture.now).await.unwrap();
    fixture.sound().await;
    assert_eq!(ingest(context, fixture).await, IngestOutcome::Unchanged);
    revert(context, fixture, 1).await.unwrap();
    fixture.sound().await;
    assert_eq!(sums(fixture).await, before);
    assert_eq!(ingest(context, fixture).await, IngestOutcome::Reverted);
    // other reports are another reading
    world.report(Measure::ByteSeconds, 1, &[("alice", 2 * tenth), ("bob", 5 * tenth)]).await;
    assert_eq!(ingest(context, fixture).await, IngestOutcome::Applied);
    fixture.sound().await;
    // and so is another rule
    let mut rules = (*context.read_settings.rules).clone();
    rules.shared_buckets[0].remainder = Remainder::Spread;
    let other = Context { read_settings: read_settings(rules), ..context.clone() };
    let before = sums(fixture).await;
    let plan = made(&other, fixture).await;
    let number = apply(&other, &plan, ann(), fixture.now).await.unwrap();
    fixture.sound().await;
    revert(&other, fixture, number).await.unwrap();
    fixture.sound().await;
    assert_eq!(sums(fixture).await, before);
}

/// A customer who is erased between the two is not brought back.
#[tokio::test]
async fn an_erased_customer_stays_erased() {
    let world = BudgetFixture::over(booked().await);
    world.apply(vec![prices("gold", "2020-01-01T00:00:00Z", ("1", Some("0.01")))]).await;
    world.sign_up("alice", "gold").await;
    let context = with(&world, by(TEAM));
    let plan = made(&context, &world).await;
    assert_eq!(plan.effects.unblocked[0].customer, "alice");
    apply(&context, &plan, ann(), world.now).await.unwrap();
    let books_of = &world.context.books;
    world.execute("UPDATE customers SET status = 'canceled'".to_owned()).await;
    for sql in ["DELETE FROM turn_periods", "DELETE FROM billing_periods"] {
        books_of.transaction(async move |c| Ok(c.execute(sql, ()).await?)).await.unwrap();
    }
    let entry = books::store::audit_log::AuditEntry {
        actor: "a@b".into(),
        action: "customer erase".into(),
        target: "x".into(),
        reason: "asked".into(),
    };
    let hour = std::time::Duration::from_secs(3600);
    books_of.erase_customer("alice", hour, entry, at("2026-12-02T00:00:00Z")).await.unwrap();
    revert(&context, &world, 1).await.unwrap();
    world.sound().await;
    assert!(sums(&world).await.iter().all(|text| !text.contains("alice")));
    assert!(entries(&world).await.iter().all(|text| !text.contains("alice")));
    let kept = world.context.books.plan_effects(1).await.unwrap();
    assert!(kept.len() == 1 && kept[0].customer.starts_with("erased-"), "{kept:?}");
}
