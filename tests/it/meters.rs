//! A meter that only a configuration knows, from the lines of a bill to the line of an invoice. The
//! example of CONTRIBUTING.md.

use std::collections::BTreeMap;
use std::sync::Arc;

use books::customers::customer::NewCustomer;
use books::limits::plan::Plan;
use fake_stripe::{FakeStripe, Options, Subscription};
use jiff::Timestamp;
use jobs::ingest_cur::IngestOutcome;
use jobs::job::Mode;
use jobs::push_stripe::push;
use jobs::roll_periods::roll;
use jobs::sync_stripe::{SyncScope, sync};
use meter::config::Config;
use testkit::ingest_fixture::{IngestFixture, Line, chime, deliver_lines, now};

const KEY: &str = "sk_test_transcription";
const METER: &str = "transcription_minutes";
const EVENT: &str = "transcription_seconds";
const VERSION: &str = "2026-10-12T03:00:00.000Z-44444444-4444-4444-8444-444444444444";

/// AWS bills seconds. The factor is 1/60 with the ten decimals that a factor may have. Stripe gets
/// seconds again: whole ones are exact, up to 250 million in a period.
const CONFIGURATION: &str = r#"
[[meters]]
name = "transcription_minutes"
unit = "minutes"
products = ["AmazonTranscribe"]
usage_types = ["*TranscribeAudio"]
factor = "0.0166666667"

[stripe.meters.transcription_minutes]
event_name = "transcription_seconds"
per_unit = "60"
display_name = "Transcription"
"#;

/// 0.024 USD a minute are 0.04 cents for each of Stripe's seconds.
const PLANS: &str = r#"
[[plans]]
name = "demo"
effective_from = "2026-01-01T00:00:00Z"
currency = "USD"

[plans.meters.transcription_minutes]
included = "60"
price = "0.024"
report = "overage"
"#;

/// Seconds of Amazon Transcribe for `customer` on a day of October 2026.
fn transcribed(customer: &str, day: i8, usage_type: &str, seconds: f64) -> Line {
    Line { product: "AmazonTranscribe", usage_type: usage_type.into(), ..chime(customer, day, seconds) }
}

/// The bill has seconds, the books and the plan have minutes, and Stripe has whole seconds again.
#[tokio::test]
async fn seconds_of_transcription_are_booked_as_minutes_and_billed() {
    let options = Options { key: KEY.into(), now: Some(now().as_second()), ..Options::default() };
    let stripe = FakeStripe::start(options).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("meter.toml");
    std::fs::write(&file, CONFIGURATION).unwrap();
    let variables = [("METER_STRIPE__URL", stripe.url()), ("METER_STRIPE__KEY", KEY.to_owned())];
    let variables = variables.into_iter().map(|(name, value)| (name.to_owned(), value));
    let config = Config::load(Some(&file), variables).unwrap();
    let mut world = IngestFixture::with(config.checked_rules().unwrap()).await;
    world.context.billing = Arc::new(meter::wiring::billing(&config.stripe).unwrap());
    let books = &world.context.books;

    let lines = [
        transcribed("ann", 10, "USE1-TranscribeAudio", 5400.0),
        transcribed("ann", 11, "EUC1-StreamingTranscribeAudio", 3630.0),
        transcribed("", 11, "TranscribeAudio", 60.0),
        Line { line_type: "Credit".into(), ..transcribed("ann", 11, "USE1-TranscribeAudio", 30.0) },
        transcribed("ann", 11, "USE1-TranscribeAudio-Medical", 7.0),
        Line { product: "AmazonPolly", ..transcribed("ann", 11, "USE1-TranscribeAudio", 7.0) },
    ];
    deliver_lines(&world.bucket(), VERSION, &lines);
    let report = world.ingest().await.unwrap();
    assert_eq!(report.outcome, IngestOutcome::Applied);
    let totals = &report.meters.iter().find(|m| m.totals.meter == METER).unwrap().totals;
    let parts = [totals.attributed, totals.unattributed, totals.excluded, totals.total].map(|q| q.to_string());
    assert_eq!(parts, ["9030", "60", "30", "9120"], "in seconds, the unit of the bill");
    // minutes by a factor that is 1/60 to ten decimals
    assert_eq!(world.usage("ann", METER).await.to_string(), "150.500000301");
    assert_eq!(world.usage("", METER).await.to_string(), "1.000000002");
    let unrecognised: Vec<&str> = report.unrecognised.iter().map(|line| line.usage_type.as_str()).collect();
    assert_eq!(unrecognised, ["USE1-TranscribeAudio-Medical"], "the product of a meter is watched");
    world.sound().await;

    let plans: BTreeMap<String, Vec<Plan>> = toml::from_str(PLANS).unwrap();
    let meters: Vec<String> = config.meters.iter().map(|m| m.name.clone()).collect();
    books.apply_plans(plans.into_values().flatten().collect(), &meters, now()).await.unwrap();
    let (plan, stripe_customer_id) = (Some("demo".to_owned()), Some("cus_ann".to_owned()));
    let ann = NewCustomer { id: "ann".into(), plan, stripe_customer_id, ..NewCustomer::default() };
    books.add_customers(vec![ann]).await.unwrap();
    // signed up in October, whatever today is
    for sql in ["DELETE FROM turn_periods", "DELETE FROM billing_periods"] {
        books.transaction(async move |c| Ok(c.execute(sql, ()).await?)).await.unwrap();
    }
    let began: Timestamp = "2026-10-05T00:00:00Z".parse().unwrap();
    {
        let mut account = stripe.world();
        for mapping in config.stripe.meters.values() {
            account.add_meter(&mapping.event_name);
        }
        account.add_price("price_transcription", EVENT, "usd", "0.04", None);
        account.add_customer("cus_ann");
        let prices = ["price_transcription"];
        account.add_subscription(Subscription::monthly("sub_ann", "cus_ann", began.as_second(), &prices));
    }
    sync(books, &world.context.billing, now(), SyncScope::All).await.unwrap();
    roll(books, now(), Mode::Write).await.unwrap();
    let pushed = push(books, &world.context.billing, now()).await.unwrap();
    assert_eq!((pushed.planned, pushed.accepted), (1, 1), "{pushed:?}");
    // 150.5 minutes less the 60 that the plan includes
    let lines = stripe.world().invoices("cus_ann");
    let billed: Vec<String> =
        lines.iter().filter(|l| l.event_name == EVENT).map(|l| l.quantity.normalize().to_string()).collect();
    assert_eq!(billed, ["5430"]);
    testkit::judge::judge(stripe.world().requests());
}
