//! Messages to the operator in real books: each once, whoever looks and however often it runs, and
//! the digest has the sums of the bills. Each run is done twice.

use std::collections::BTreeMap;
use std::sync::Arc;

use books::audit::findings::{NotedFindings, SeenFinding};
use books::limits::notification::MessageReceiver;
use books::{BooksError, Database};
use jiff::{SignedDuration, Timestamp};
use jobs::context::{OperatorSettings, WebhookTarget};
use jobs::job::{Failure, Job};
use jobs::operator_digest::{OperatorDigest, OperatorDigestReport};
use jobs::operator_message::of_finding;
use jobs::push_stripe::bill::{WantedBills, WantedPeriods, bills};
use jobs::stripe::{BillingSettings, Mapping};
use serde_json::Value;

use crate::enforce::{BudgetFixture, at, plan};
use testkit::billing_world::http_client;
use testkit::usage::booking;

/// Settings with addresses at which nobody listens.
fn settings(receivers: &[MessageReceiver]) -> Arc<OperatorSettings> {
    let client = http_client();
    let url = reqwest::Url::parse("http://127.0.0.1:9/secret").unwrap();
    let target = || WebhookTarget { client: client.clone(), url: url.clone(), signer: None };
    let meters = [("chime_minutes", "Call <minutes>", "minutes")];
    Arc::new(OperatorSettings {
        receivers: receivers.iter().map(|of| (*of, target())).collect(),
        status_page: Some("https://meter.example".into()),
        names: meters.iter().map(|(meter, name, _)| ((*meter).into(), (*name).into())).collect(),
        units: meters.iter().map(|(meter, _, unit)| ((*meter).into(), (*unit).into())).collect(),
    })
}

fn seen(alert: &str, subject: &str) -> SeenFinding {
    let (alert, subject) = (alert.to_owned(), subject.to_owned());
    SeenFinding { alert, subject, severity: "critical", what: "a <b> & 🦀".into(), act: "meter verify".into() }
}

/// What one worker's look does.
async fn look(books: &Database, findings: &[SeenFinding], second: i64) -> Result<NotedFindings, BooksError> {
    let at = at("2026-10-31T00:00:00Z") + SignedDuration::from_secs(second);
    let settings = settings(&MessageReceiver::OPERATOR);
    let words = move |change: &_| of_finding(change, &settings, at);
    books.note_findings(findings.to_vec(), at, words).await
}

const MESSAGES: &str = "SELECT kind || ' ' || receiver || ' ' || count(*) || ' ' || count(DISTINCT id) \
                        FROM operator_messages GROUP BY kind, receiver ORDER BY kind, receiver";

const TO_SLACK: &str = "SELECT count(*) FILTER (WHERE kind = 'finding_began') || ' ' || count(*) FILTER (WHERE kind = 'finding_ended') \
                        FROM operator_messages WHERE receiver = 'slack'";

#[tokio::test]
async fn a_finding_has_one_message_at_its_beginning_and_one_at_its_end_whoever_looks() {
    let world = BudgetFixture::new().await;
    let (one, other) = (world.context.books.clone(), world.open_again().await);
    let (there, gone) = ([seen("MeterBooksViolated", "x"), seen("MeterDown", "")], [seen("MeterDown", "")]);
    let none: [SeenFinding; 0] = [];
    // two workers a second apart, each of which looks twice; how many began and ended after it
    let story: [(i64, &[SeenFinding], &str); 9] = [
        (0, &there, "0 0"),
        (60, &there, "0 0"),
        (118, &there, "0 0"),
        (125, &there, "2 0"),
        (130, &gone, "2 0"),
        (140, &there, "2 0"),
        (400, &gone, "2 0"),
        (998, &gone, "2 0"),
        (1010, &gone, "2 1"),
    ];
    for (second, findings, expected) in story {
        for (books, later) in [(&one, 0), (&other, 1), (&one, 0), (&other, 1)] {
            look(books, findings, second + later).await.unwrap();
        }
        assert_eq!(world.dump(TO_SLACK).await, [expected], "{second}");
    }
    let expected = [
        "finding_began slack 2 2",
        "finding_began webhook 2 2",
        "finding_ended slack 1 1",
        "finding_ended webhook 1 1",
    ];
    assert_eq!(world.dump(MESSAGES).await, expected);
    let slack = world.dump("SELECT body FROM operator_messages WHERE receiver = 'slack' ORDER BY seq LIMIT 1").await;
    let slack: Value = serde_json::from_str(&slack[0]).unwrap();
    let said = slack["text"].as_str().unwrap();
    assert!(said.contains("a &lt;b&gt; &amp; 🦀") && said.contains("/runbook#meterbooksviolated"), "{said}");
    // the same one again is another finding
    for second in [2000, 2200] {
        look(&one, &there, second).await.unwrap();
        look(&other, &there, second).await.unwrap();
    }
    assert_eq!(world.dump(MESSAGES).await[0], "finding_began slack 3 3");
    for second in [3000, 3700] {
        look(&one, &none, second).await.unwrap();
    }
    assert!(one.begun_findings().await.unwrap().is_empty());
    world.sound().await;
}

#[tokio::test]
async fn a_finding_that_flickers_makes_one_message_and_one_that_passes_none() {
    let world = BudgetFixture::new().await;
    let books = &world.context.books;
    let (there, none) = ([seen("MeterAttention", "push_stripe")], []);
    for minute in 0..60 {
        look(books, if minute % 3 == 0 { &none } else { &there }, minute * 60).await.unwrap();
    }
    assert_eq!(world.dump(MESSAGES).await, ["finding_began slack 1 1", "finding_began webhook 1 1"]);
    let passes = [seen("MeterQueueStuck", "probe")];
    look(books, &[there[0].clone(), passes[0].clone()], 3600).await.unwrap();
    for second in [3660, 4300] {
        look(books, &there, second).await.unwrap();
    }
    assert_eq!(world.dump(MESSAGES).await.len(), 2, "it was there for a minute");
    assert_eq!(world.dump("SELECT count(*) || '' FROM findings").await, ["1"]);
}

#[tokio::test]
async fn workers_that_look_at_once_make_each_message_once() {
    let world = BudgetFixture::new().await;
    let mut workers = vec![];
    for _ in 0..4 {
        workers.push(world.open_again().await);
    }
    let (there, none): (Vec<SeenFinding>, Vec<SeenFinding>) =
        ((0..3).map(|n| seen("MeterDeadJobs", &n.to_string())).collect(), vec![]);
    for (second, findings) in [(0, &there), (200, &there), (300, &none), (1000, &none)] {
        let looks = workers.iter().map(|books| look(books, findings, second));
        let noted = futures::future::join_all(looks).await;
        let noted: Vec<NotedFindings> = noted.into_iter().map(Result::unwrap).collect();
        let (began, ended) = (noted.iter().map(|n| n.began).sum::<u64>(), noted.iter().map(|n| n.ended).sum::<u64>());
        assert_eq!((began, ended), (if second == 200 { 3 } else { 0 }, if second == 1000 { 3 } else { 0 }), "{second}");
    }
    let expected = [
        "finding_began slack 3 3",
        "finding_began webhook 3 3",
        "finding_ended slack 3 3",
        "finding_ended webhook 3 3",
    ];
    assert_eq!(world.dump(MESSAGES).await, expected);
}

async fn digest(world: &BudgetFixture, now: &str) -> Result<OperatorDigestReport, Failure> {
    OperatorDigest::default().run(&world.context, at(now)).await
}

#[tokio::test]
async fn a_week_has_one_digest_with_the_sums_of_the_bills() {
    let mut world = BudgetFixture::new().await;
    world.apply(vec![plan("pro", "2020-01-01T00:00:00Z", ("100", Some("0.01")))]).await;
    for (who, minutes) in [("ann", 300), ("bob", 1234)] {
        world.sign_up(who, "pro").await;
        for sql in booking(who, "chime_minutes", "'2026-10-28'", &format!("{minutes}0000000000")) {
            world.execute(sql).await;
        }
    }
    let mapping = Mapping { event_name: "c".into(), per_unit: 1.into(), display_name: "Call minutes".into() };
    let meters: BTreeMap<String, Mapping> = [("chime_minutes".to_owned(), mapping)].into();
    world.context.billing = Arc::new(BillingSettings { meters, ..BillingSettings::default() });
    let now = "2026-10-29T12:00:00Z";
    assert!(matches!(digest(&world, now).await, Err(Failure::GiveUp(_))), "nobody receives it");
    world.context.operator = settings(&[MessageReceiver::Webhook]);
    look(&world.context.books, &[seen("MeterDown", "")], 0).await.unwrap();
    look(&world.context.books, &[seen("MeterDown", "")], 300).await.unwrap();
    world.execute("DELETE FROM operator_messages".into()).await;
    let report = digest(&world, now).await.unwrap();
    assert_eq!(report, OperatorDigestReport { week: "2026-10-26".into(), messages: 1 });
    // a receiver that is new in the same week gets it, and nobody a second one
    world.context.operator = settings(&MessageReceiver::OPERATOR);
    for (now, messages) in
        [(now, 1), (now, 0), ("2026-11-01T23:59:59Z", 0), ("2026-11-02T00:00:00Z", 2), ("2026-11-05T00:00:00Z", 0)]
    {
        assert_eq!(digest(&world, now).await.unwrap().messages, messages, "{now}");
    }
    assert_eq!(world.dump(MESSAGES).await, ["digest slack 2 2", "digest webhook 2 2"]);
    let body = |receiver: &str| {
        let sql = format!("SELECT body FROM operator_messages WHERE receiver = '{receiver}' ORDER BY seq LIMIT 1");
        world.dump(sql.leak())
    };
    let sent: Value = serde_json::from_str(&body("webhook").await[0]).unwrap();
    let wanted = WantedBills { customer: None, periods: WantedPeriods::Current };
    let instant: Timestamp = at(now);
    let bills = bills(&world.context.books, &world.context.billing, wanted, instant).await.unwrap();
    let total = bills.totals()["USD"];
    let data = &sent["data"];
    assert_eq!(data["to_be_billed"][0]["amount_minor"], total.amount_minor);
    assert!(total.bills == 2 && total.amount_minor + total.waiting_minor + total.house_minor > 0, "{total:?}");
    assert_eq!(data["to_be_billed"][0]["waiting_minor"], total.waiting_minor);
    assert_eq!(data["usage"][0]["quantity"], "1534");
    assert_eq!(data["findings"][0]["alert"], "MeterDown");
    let slack: Value = serde_json::from_str(&body("slack").await[0]).unwrap();
    let text = slack["text"].as_str().unwrap();
    for said in
        ["week of 2026-10-26", "Call &lt;minutes&gt;: 1,534 minutes", "2 bills", "1 reported finding is open", "🦀"]
    {
        assert!(text.contains(said), "`{said}` is not in {text}");
    }
    assert!(!text.contains("ann") && !text.contains("secret"), "{text}");
    world.sound().await;
}
