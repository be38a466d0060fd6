//! Messages to the operator through the binary: to receivers that are well, busy or gone, from
//! workers that run side by side and are killed.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::notifications::{DELIVER, Does, Receiver, Request};
use crate::support::served::Served;
use crate::support::{Ran, Workspace, yearly};

/// Addresses with a secret in path and query.
struct Operator {
    slack: Receiver,
    webhook: Receiver,
}

const SECRET: &str = "T0B0hidden";

impl Operator {
    fn start() -> Self {
        Self { slack: Receiver::start(), webhook: Receiver::start() }
    }

    fn variables(&self) -> [(&'static str, String); 2] {
        let (slack, webhook) = (self.slack.port, self.webhook.port);
        [
            ("METER_OPERATOR__SLACK_URL", format!("http://127.0.0.1:{slack}/services/{SECRET}")),
            ("METER_OPERATOR__WEBHOOK_URL", format!("http://127.0.0.1:{webhook}/in?key={SECRET}")),
        ]
    }

    fn run(&self, place: &Workspace, line: &str) -> Ran {
        let own = self.variables();
        let mut variables: Vec<(&str, &str)> = own.iter().map(|(name, url)| (*name, url.as_str())).collect();
        variables.push(("METER_LOG", "trace"));
        let ran = place.run_with(line, &variables);
        assert!(!format!("{}{}", ran.out, ran.err).contains(SECRET), "a secret was printed: {}{}", ran.out, ran.err);
        ran
    }

    fn work(&self, place: &Workspace) -> Served {
        let own = self.variables();
        let variables: Vec<(&str, &str)> = own.iter().map(|(name, url)| (*name, url.as_str())).collect();
        Served::start(place.folder.path(), "", &variables)
    }
}

fn text(request: &Request) -> String {
    let body: Value = serde_json::from_str(&request.1).unwrap();
    body.as_object().filter(|of| of.len() == 1).and_then(|of| of["text"].as_str()).unwrap().to_owned()
}

#[test]
fn a_test_message_shows_whether_the_receivers_work() {
    let place = Workspace::with("[operator]\nstatus_page = \"https://meter.example/\"\n");
    place.run("notifications test").ends(2).says(&["METER_OPERATOR__SLACK_URL", "docs/operator-messages.md"]);
    place.run("config check").ends(0).says(&["messages to the operator: off"]);
    let operator = Operator::start();
    operator.run(&place, "config check").ends(0).says(&["by Slack and by webhook"]);
    operator.run(&place, "config show").ends(0).says(&["operator.slack_url = \"********\"", "https://meter.example/"]);
    let said = ["Slack took a test message", "the webhook took a test message"];
    operator.run(&place, "notifications test").ends(0).says(&said);
    let (slack, webhook) = (operator.slack.took(), operator.webhook.took());
    assert_eq!((slack.len(), webhook.len()), (1, 1));
    assert_eq!(slack[0].0["request"], format!("POST /services/{SECRET} HTTP/1.1"));
    assert!(text(&slack[0]).contains("https://meter.example/"), "{slack:?}");
    let body: Value = serde_json::from_str(&webhook[0].1).unwrap();
    assert_eq!((&body["type"], &body["data"]["status_page"]), (&"meter.test".into(), &"https://meter.example".into()));
    assert!(webhook[0].0["webhook-id"].starts_with("test_"));
    operator.slack.does(Does::Answer("404 Not Found"));
    let said = ["Slack did not take a test message: the receiver answered 404; check METER_OPERATOR__SLACK_URL"];
    operator.run(&place, "notifications test").ends(1).says(&said).says(&["the webhook took"]);
    let gone = [("METER_OPERATOR__SLACK_URL", "http://127.0.0.1:9/services/T0B0hidden")];
    let ran = place.run_with("notifications test", &gone).ends(1).says(&["no connection to http://127.0.0.1:9"]);
    assert!(!ran.err.contains(SECRET), "{}", ran.err);
    let wrong = [("METER_OPERATOR__SLACK_URL", "hooks.slack.com/services/T0B0hidden")];
    let ran = place.run_with("config check", &wrong).ends(2).says(&["METER_OPERATOR__SLACK_URL is no address"]);
    assert!(!ran.err.contains(SECRET), "{}", ran.err);
    std::fs::write(place.path("meter.toml"), "[operator]\nslack_url = \"https://x/\"\n").unwrap();
    let ran = place.run("config check").ends(2);
    ran.says(&["secrets come from the environment only: set METER_OPERATOR__SLACK_URL"]);
}

const STATES: &str = "SELECT receiver, state, attempts, coalesce(error, '') FROM operator_messages ORDER BY receiver";

#[test]
fn a_receiver_that_is_away_delays_no_other_and_gets_the_message_later() {
    let (place, operator) = (Workspace::with(""), Operator::start());
    let made = operator.run(&place, "run operator-digest --as-of 2026-03-11T00:00:00Z --json").ends(0).json();
    assert_eq!((&made["week"], &made["messages"]), (&"2026-03-09".into(), &2.into()));
    for (n, (does, why)) in [
        (Does::Answer("500 Internal Server Error"), "the receiver answered 500"),
        (Does::Answer("403 Forbidden"), "the receiver answered 403"),
        (Does::Answer("429 Too Many Requests\r\nRetry-After: 3000"), "the receiver answered 429"),
        (Does::Close, "the request to http://127.0.0.1:"),
    ]
    .into_iter()
    .enumerate()
    {
        operator.slack.does(does);
        place.execute(
            "UPDATE operator_messages SET next_at = 0, give_up_at = unixepoch() + 90000 WHERE state = 'pending'",
        );
        let report = operator.run(&place, DELIVER).ends(0).json();
        assert_eq!(report["operator_retried"], 1, "{why}");
        assert_eq!(report["operator_delivered"].as_u64().unwrap_or(0), u64::from(n == 0), "{why}");
        let states = place.query(STATES);
        assert!(states[0].starts_with(&format!("slack|pending|{}|{why}", n + 1)), "{states:?}");
        assert!(!states[0].contains(SECRET) && states[1] == "webhook|delivered|1|", "{states:?}");
        if n == 2 {
            let asked =
                "SELECT next_at - unixepoch() BETWEEN 2900 AND 3000 FROM operator_messages WHERE state = 'pending'";
            assert_eq!(place.query(asked), ["1"], "Retry-After is heeded");
        }
    }
    operator.slack.does(Does::Answer("200 OK"));
    operator.slack.took();
    place.execute("UPDATE operator_messages SET give_up_at = 1, next_at = 1 WHERE state = 'pending'");
    operator.slack.does(Does::Answer("410 Gone"));
    operator.run(&place, DELIVER).ends(3).says(&["\"operator_dead\": 1"]);
    let listed = operator.run(&place, "notifications list").ends(3);
    listed.says(&["(the operator)", "by Slack", "digest", "dead", "the receiver answered 410 Gone"]);
    operator.slack.does(Does::Answer("200 OK"));
    operator.slack.took();
    operator.run(&place, "notifications retry --dead").ends(0).says(&["msg_", "will be sent again"]);
    operator.run(&place, DELIVER).ends(0).says(&["\"operator_delivered\": 1"]);
    let digest = text(&operator.slack.took()[0]);
    assert!(digest.contains("week of 2026-03-09") && digest.contains("No open finding was reported"), "{digest}");
    operator.run(&place, DELIVER).ends(0);
    assert!(operator.slack.took().is_empty() && operator.webhook.took().len() == 1, "each came once");
    // the addresses are taken away: nobody wants what waits
    operator.run(&place, "run operator-digest").ends(0);
    place.run(DELIVER).ends(0).says(&["\"delivered\": 0"]);
    let waits = "SELECT count(*) FROM operator_messages WHERE state = 'pending' AND next_at > unixepoch() + 500";
    assert_eq!(place.query(waits), ["2"], "another worker may have the address");
    place.execute("UPDATE operator_messages SET next_at = 1, give_up_at = 1 WHERE state = 'pending'");
    place.run(DELIVER).ends(0).says(&["\"set_aside\": 2"]);
    let why = "no address was configured (METER_OPERATOR__SLACK_URL)";
    place.run("notifications list --state known").ends(0).says(&["known, not sent", why]);
}

#[test]
fn a_finding_is_a_message_when_it_begins_and_when_it_ends_and_workers_send_it_once() {
    let (place, operator) = (Workspace::with(&yearly()), Operator::start());
    let first = operator.work(&place);
    first.until("/readyz", |answer| answer.status == 200);
    let second = operator.work(&place);
    second.until("/readyz", |answer| answer.status == 200);
    // the first digest is due at once, of both workers one
    let mut took = Took::default();
    took.until(&operator, 1);
    assert!(took.slack[0].contains("week of") && took.types == ["meter.digest"], "{took:?}");
    dead(&place, "probe");
    begin(&place, "probe");
    took.until(&operator, 2);
    assert!(took.slack[1].contains("began (warning): 1 job of probe is dead"), "{took:?}");
    // one worker is killed, and another one starts
    first.signal(Signal::SIGKILL);
    drop(first);
    let third = operator.work(&place);
    third.until("/readyz", |answer| answer.status == 200);
    place.execute("DELETE FROM jobs WHERE state = 'dead'");
    // a look of before the deletion may take the first of them back
    let old = "UPDATE findings SET gone_at = gone_at - 3600 WHERE gone_at > unixepoch() - 600";
    let ended = "SELECT count(ended_at) FROM findings WHERE alert = 'MeterDeadJobs'";
    let start = Instant::now();
    while place.query(ended) != ["1"] {
        assert!(start.elapsed() < Duration::from_secs(60), "{:?}", place.query("SELECT * FROM findings"));
        place.execute(old);
        std::thread::sleep(Duration::from_millis(100));
    }
    took.until(&operator, 3);
    assert!(took.slack[2].contains("ended: 1 job of probe is dead"), "{took:?}");
    // whatever was sent twice would have come before this one
    dead(&place, "sync_stripe");
    begin(&place, "sync_stripe");
    took.until(&operator, 4);
    assert_eq!(took.types, ["meter.digest", "meter.finding_began", "meter.finding_ended", "meter.finding_began"]);
    let mut ids = took.ids.clone();
    ids.sort();
    ids.dedup();
    assert_eq!((took.slack.len(), took.ids.len(), ids.len()), (4, 4, 4), "{took:?}");
    let metrics = second.until("/metrics", |a| a.body.contains("meter_operator_messages{state=\"pending\"} 0"));
    assert!(metrics.body.contains("meter_operator_messages{state=\"dead\"} 0"));
    for worker in [second, third] {
        assert!(!worker.said().contains(SECRET), "{}", worker.said());
        assert_eq!(worker.stop(), 0);
    }
}

/// A dead job of a kind.
fn dead(place: &Workspace, kind: &str) {
    place.execute(&format!(
        "INSERT INTO jobs (id, kind, payload, state, origin, attempts, max_attempts, lease, reason, enqueued_at, finished_at) \
         VALUES ('{kind:A>26}', '{kind}', '{{}}', 'dead', 'test', 1, 1, 1, 'why', unixepoch() * 1000, unixepoch() * 1000)"
    ));
}

/// Waits until the finding about it is noted, and makes it old.
fn begin(place: &Workspace, kind: &str) {
    let noted = format!("SELECT count(*) FROM findings WHERE alert = 'MeterDeadJobs' AND subject = '{kind}'");
    until(place, &noted, "1");
    place.execute("UPDATE findings SET seen_at = seen_at - 3600");
}

fn until(place: &Workspace, sql: &str, expected: &str) {
    let start = Instant::now();
    while place.query(sql) != [expected] {
        assert!(start.elapsed() < Duration::from_secs(60), "{sql}: {:?}", place.query(sql));
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// What the receivers took so far.
#[derive(Debug, Default)]
struct Took {
    slack: Vec<String>,
    types: Vec<String>,
    ids: Vec<String>,
}

impl Took {
    /// Waits until each receiver has so many.
    #[track_caller]
    fn until(&mut self, operator: &Operator, n: usize) {
        let start = Instant::now();
        while self.slack.len() < n || self.types.len() < n {
            assert!(start.elapsed() < Duration::from_secs(60), "{n}: {self:?}");
            std::thread::sleep(Duration::from_millis(50));
            self.slack.extend(operator.slack.took().iter().map(text));
            for (headers, body) in operator.webhook.took() {
                let body: Value = serde_json::from_str(&body).unwrap();
                self.types.push(body["type"].as_str().unwrap().to_owned());
                self.ids.push(headers["webhook-id"].clone());
            }
        }
        assert!(self.slack.len() == n && self.types.len() == n, "{n}: {self:?}");
    }
}
