//! Every rule once, over HTTP, with a client that reads only bytes.

use std::collections::BTreeMap;
use std::time::Duration;

use rust_decimal::Decimal;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::{DAY, FakeStripe, Fault, Options, Subscription};

/// An answer as received.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) text: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }

    pub(crate) fn error(&self, field: &str) -> String {
        self.json()["error"][field].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    fn ids(&self) -> Vec<String> {
        let list = self.json();
        list["data"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect()
    }
}

/// Sends a request on a new connection; none if the connection is closed without an answer.
pub(crate) async fn send(fake: &FakeStripe, method: &str, target: &str, more: &str, body: &str) -> Option<Reply> {
    let url = fake.url();
    let address = url.strip_prefix("http://").unwrap().trim_end_matches('/');
    let mut stream = TcpStream::connect(address).await.ok()?;
    let form = if body.is_empty() { "" } else { "content-type: application/x-www-form-urlencoded\r\n" };
    let head = format!("{method} {target} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{form}{more}");
    let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    let _cut = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    let (head, text) = answer.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().unwrap();
    let header = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned()));
    Some(Reply { status, headers: lines.filter_map(header).collect(), text: text.to_owned() })
}

pub(crate) const KEY: &str = "authorization: Bearer sk_test_fake\r\n";

pub(crate) async fn get(fake: &FakeStripe, target: &str) -> Reply {
    send(fake, "GET", target, KEY, "").await.unwrap()
}

pub(crate) async fn post(fake: &FakeStripe, target: &str, body: &str) -> Reply {
    send(fake, "POST", target, KEY, body).await.unwrap()
}

/// A meter event of cus_1 on the meter "minutes".
pub(crate) fn event(identifier: &str, value: &str, timestamp: i64) -> String {
    format!(
        "event_name=minutes&identifier={identifier}&payload[value]={value}&payload[stripe_customer_id]=cus_1\
         &timestamp={timestamp}"
    )
}

pub(crate) const EVENTS: &str = "/v1/billing/meter_events";

pub(crate) async fn keyed(fake: &FakeStripe, key: &str, body: &str) -> Option<Reply> {
    send(fake, "POST", EVENTS, &format!("{KEY}idempotency-key: {key}\r\n"), body).await
}

pub(crate) fn at(text: &str) -> i64 {
    text.parse::<jiff::Timestamp>().unwrap().as_second()
}

/// The middle of November, with a meter, a price and a subscription since October.
pub(crate) async fn november(options: Options) -> (FakeStripe, i64) {
    let now = at("2026-11-15T12:00:00Z");
    let fake = FakeStripe::start(Options { now: Some(now), ..options }).await.unwrap();
    let mut world = fake.world();
    world.add_customer("cus_1");
    world.add_meter("minutes");
    world.add_price("price_minutes", "minutes", "usd", "0.17", Some("minutes_usd"));
    let start = at("2026-10-01T00:00:00Z");
    world.add_subscription(Subscription::monthly("sub_1", "cus_1", start, &["price_minutes"]));
    drop(world);
    (fake, now)
}

fn summaries(fake: &FakeStripe, query: &str) -> String {
    let meter = fake.world().add_meter("minutes");
    format!("/v1/billing/meters/{meter}/event_summaries?customer=cus_1&{query}")
}

#[tokio::test]
async fn an_event_is_taken_and_told_with_stripes_headers() {
    let (fake, now) = november(Options::default()).await;
    let reply = post(&fake, EVENTS, &event("a", "-12.5", now - 60)).await;
    assert_eq!(reply.status, 200);
    let body = reply.json();
    assert_eq!(body["object"], "billing.meter_event");
    assert_eq!(body["payload"]["value"], "-12.5");
    assert_eq!((&body["created"], &body["timestamp"]), (&Value::from(now), &Value::from(now - 60)));
    assert_eq!(reply.header("date"), Some("Sun, 15 Nov 2026 12:00:00 GMT"));
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert!(reply.header("request-id").unwrap().starts_with("req_"));
    let world = fake.world();
    assert_eq!(world.events()[0].value, Decimal::new(-125, 1));
    assert_eq!(world.requests()[0].headers["authorization"], "Bearer ********");
    assert_eq!(world.requests()[0].to_json()["target"], EVENTS);
    assert_eq!(world.counts().events_applied, 1);
}

#[tokio::test]
async fn what_is_left_out_is_made() {
    let (fake, now) = november(Options::default()).await;
    let reply = post(&fake, EVENTS, "event_name=minutes&payload[value]=1&payload[stripe_customer_id]=cus_1").await;
    assert_eq!(reply.json()["timestamp"], now);
    assert!(!reply.json()["identifier"].as_str().unwrap().is_empty());
}

#[tokio::test]
async fn only_the_key_opens() {
    let (fake, _) = november(Options::default()).await;
    for header in ["", "authorization: Bearer sk_test_other\r\n", "authorization: sk_test_fake\r\n"] {
        let reply = send(&fake, "GET", "/v1/prices", header, "").await.unwrap();
        assert_eq!((reply.status, reply.error("type").as_str()), (401, "invalid_request_error"));
    }
    fake.world().set_key("sk_test_other");
    let reply = send(&fake, "GET", "/v1/prices", "authorization: Bearer sk_test_other\r\n", "").await.unwrap();
    assert_eq!(reply.status, 200);
}

#[tokio::test]
async fn unknown_paths_parameters_and_bodies_are_refused() {
    let (fake, now) = november(Options::default()).await;
    let reply = get(&fake, "/v1/nothing").await;
    assert_eq!(reply.status, 404);
    assert!(reply.error("message").starts_with("Unrecognized request URL (GET: /v1/nothing)."));
    for target in ["/v1/prices?colour=red", "/v1/subscriptions?limit=1&limits=2", "/v1/customers/cus_1?a=b"] {
        assert_eq!(get(&fake, target).await.error("code"), "parameter_unknown", "{target}");
    }
    let reply = post(&fake, EVENTS, &format!("{}&colour=red", event("a", "1", now))).await;
    assert_eq!((reply.error("code").as_str(), reply.error("param").as_str()), ("parameter_unknown", "colour"));
    let json = format!("{KEY}content-type: application/json\r\n");
    let url = fake.url();
    let mut stream = TcpStream::connect(url[7..].trim_end_matches('/')).await.unwrap();
    let request =
        format!("POST {EVENTS} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{json}content-length: 2\r\n\r\n{{}}");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(fake.world().events().is_empty());
}

#[tokio::test]
async fn an_events_parameters_are_checked() {
    let (fake, now) = november(Options::default()).await;
    let payload = "payload[value]=1&payload[stripe_customer_id]=cus_1";
    let meters = ["event_name=hours&", "event_name=minutes&"];
    let long = "x".repeat(101);
    let cases = [
        (payload.to_owned(), "parameter_missing", "event_name"),
        (meters[1].to_owned(), "parameter_missing", "payload"),
        (format!("{}payload[value]=1", meters[1]), "parameter_missing", "payload[stripe_customer_id]"),
        (format!("{}payload[stripe_customer_id]=cus_1", meters[1]), "parameter_missing", "payload[value]"),
        (format!("{}{payload}", meters[0]), "", "event_name"),
        (format!("{}{payload}&identifier={long}", meters[1]), "", "identifier"),
        (format!("{}{payload}&timestamp=soon", meters[1]), "parameter_invalid_integer", "timestamp"),
        (event("a", "1", now).replace("cus_1", "cus_2"), "resource_missing", "payload[stripe_customer_id]"),
        (event("a", "1e3", now), "meter_event_invalid_value", "payload[value]"),
        (event("a", "%2B1", now), "meter_event_invalid_value", "payload[value]"),
        (event("a", "1.", now), "meter_event_invalid_value", "payload[value]"),
        (event("a", "1234567.890123456", now), "meter_event_value_too_many_digits", "payload[value]"),
    ];
    for (body, code, param) in cases {
        let reply = post(&fake, EVENTS, &body).await;
        let found = (reply.status, reply.error("code"), reply.error("param"));
        assert_eq!(found, (400, code.to_owned(), param.to_owned()), "{body}");
    }
    assert_eq!(post(&fake, EVENTS, &event("a", "-0.000123456789012345", now)).await.status, 200);
    fake.world().delete_customer("cus_1");
    let reply = post(&fake, EVENTS, &event("b", "1", now)).await;
    assert_eq!(reply.error("message"), "No such customer: 'cus_1'");
}

#[tokio::test]
async fn timestamps_reach_35_days_back_and_5_minutes_on() {
    let (fake, now) = november(Options::default()).await;
    for (name, time, status) in
        [("a", now - 35 * DAY, 200), ("b", now - 35 * DAY - 1, 400), ("c", now + 300, 200), ("d", now + 301, 400)]
    {
        let reply = post(&fake, EVENTS, &event(name, "1", time)).await;
        assert_eq!(reply.status, status, "{name}");
        assert_eq!(reply.text.contains("The event timestamp cannot be more than"), status == 400);
    }
}

#[tokio::test]
async fn an_identifier_is_refused_for_a_day_and_then_counts_twice() {
    let (fake, now) = november(Options::default()).await;
    assert_eq!(post(&fake, EVENTS, &event("a", "1", now)).await.status, 200);
    fake.world().set_now(now + DAY - 1);
    let reply = post(&fake, EVENTS, &event("a", "1", now)).await;
    assert_eq!((reply.status, reply.error("type").as_str()), (400, "invalid_request_error"));
    assert_eq!(reply.error("message"), "An event already exists with identifier a.");
    assert!(reply.json()["error"].get("code").is_none());
    assert_eq!(reply.header("stripe-should-retry"), Some("false"));
    fake.world().set_now(now + DAY);
    assert_eq!(post(&fake, EVENTS, &event("a", "1", now)).await.status, 200);
    let world = fake.world();
    let (start, end) = (at("2026-11-01T00:00:00Z"), at("2026-12-01T00:00:00Z"));
    assert_eq!(world.effective("cus_1", "minutes", start, end), Decimal::TWO);
    assert_eq!(world.counts().duplicates_refused, 1);
}

#[tokio::test]
async fn a_cancelled_event_counts_no_more_but_only_within_a_day() {
    let (fake, now) = november(Options::default()).await;
    let target = "/v1/billing/meter_event_adjustments";
    let cancel = |name: &str| format!("event_name=minutes&type=cancel&cancel[identifier]={name}");
    for name in ["a", "b"] {
        post(&fake, EVENTS, &event(name, "5", now)).await;
    }
    let reply = post(&fake, target, &cancel("a")).await;
    assert_eq!((reply.status, &reply.json()["cancel"]["identifier"]), (200, &Value::from("a")));
    assert_eq!(post(&fake, target, &cancel("c")).await.status, 400);
    assert_eq!(post(&fake, target, "event_name=minutes&type=cancel").await.error("code"), "parameter_missing");
    assert_eq!(post(&fake, EVENTS, &event("a", "5", now)).await.status, 400);
    let summary = summaries(&fake, &format!("start_time={}&end_time={}", now - DAY, now + DAY));
    assert_eq!(get(&fake, &summary).await.json()["data"][0]["aggregated_value"], 5);
    assert_eq!(fake.world().invoices("cus_1")[1].sum, Decimal::from(5));
    fake.world().set_now(now + DAY + 1);
    assert_eq!(post(&fake, target, &cancel("b")).await.status, 400);
    assert_eq!(fake.world().invoices("cus_1")[1].sum, Decimal::from(5));
}

#[tokio::test]
async fn summaries_sum_by_time_and_show_late() {
    let (fake, now) = november(Options { summary_lag_seconds: 120, ..Options::default() }).await;
    let day = at("2026-11-15T00:00:00Z");
    let day_query = format!("start_time={day}&end_time={}", day + DAY);
    for (name, value, time) in [("a", "1.25", day), ("b", "2", day + 7200), ("c", "4", now), ("d", "8", day - 1)] {
        assert_eq!(post(&fake, EVENTS, &event(name, value, time)).await.status, 200);
    }
    let whole = summaries(&fake, &day_query);
    assert_eq!(get(&fake, &whole).await.json()["data"][0]["aggregated_value"], 0);
    fake.world().set_now(now + 120);
    let list = get(&fake, &whole).await.json();
    assert_eq!(list["data"][0]["aggregated_value"], Value::from(7.25));
    assert_eq!(list["data"].as_array().unwrap().len(), 1);
    let hours = get(&fake, &format!("{whole}&value_grouping_window=hour&limit=2")).await.json();
    let starts: Vec<_> = hours["data"].as_array().unwrap().iter().map(|one| one["start_time"].clone()).collect();
    assert_eq!(starts, [now, day + 7200]);
    assert_eq!(hours["has_more"], true);
    let after = hours["data"][1]["id"].as_str().unwrap();
    let rest = get(&fake, &format!("{whole}&value_grouping_window=hour&starting_after={after}")).await.json();
    assert_eq!((&rest["data"][0]["start_time"], &rest["has_more"]), (&Value::from(day), &Value::from(false)));
}

#[tokio::test]
async fn summaries_want_a_customer_and_whole_minutes() {
    let (fake, _) = november(Options::default()).await;
    for (query, status) in [
        ("start_time=60&end_time=120", 200),
        ("start_time=61&end_time=120", 400),
        ("start_time=60&end_time=119", 400),
        ("start_time=60", 400),
        ("start_time=60&end_time=3600&value_grouping_window=hour", 400),
        ("start_time=0&end_time=3600&value_grouping_window=day", 400),
    ] {
        assert_eq!(get(&fake, &summaries(&fake, query)).await.status, status, "{query}");
    }
    let without = summaries(&fake, "start_time=60&end_time=120").replace("customer=cus_1&", "");
    assert_eq!(get(&fake, &without).await.error("param"), "customer");
}

#[tokio::test]
async fn late_usage_is_in_the_meter_and_on_no_invoice() {
    let (fake, _) = november(Options::default()).await;
    let (start, end) = (at("2026-10-01T00:00:00Z"), at("2026-11-01T00:00:00Z"));
    for (name, now, value) in [("in time", end + 3599, "3"), ("late", end + 3600, "5")] {
        fake.world().set_now(now);
        let name = name.replace(' ', "_");
        assert_eq!(post(&fake, EVENTS, &event(&name, value, end - 1)).await.status, 200);
    }
    post(&fake, EVENTS, &event("negative", "-2", end)).await;
    post(&fake, EVENTS, &event("too_early", "9", start - 1)).await;
    let query = summaries(&fake, &format!("start_time={start}&end_time={end}"));
    assert_eq!(get(&fake, &query).await.json()["data"][0]["aggregated_value"], 8);
    let world = fake.world();
    assert_eq!(world.effective("cus_1", "minutes", start, end), Decimal::from(3));
    let lines = world.invoices("cus_1");
    assert_eq!(lines.len(), 2);
    assert_eq!((lines[0].start, lines[0].end, lines[0].quantity), (start, end, Decimal::from(3)));
    assert!(lines[0].finalised && !lines[1].finalised);
    assert_eq!((lines[1].sum, lines[1].quantity), (Decimal::from(-2), Decimal::ZERO));
    let lost: Vec<_> = world.lost().into_iter().map(|event| event.identifier).collect();
    assert_eq!(lost, ["late", "too_early"]);
}

#[tokio::test]
async fn a_subscription_ends_now_or_with_its_period() {
    let (fake, now) = november(Options::default()).await;
    post(&fake, EVENTS, &event("a", "1", now - 1)).await;
    post(&fake, EVENTS, &event("b", "1", now + 60)).await;
    {
        let mut world = fake.world();
        world.cancel_subscription("sub_1");
        assert_eq!(world.invoices("cus_1")[1].end, now);
        assert_eq!(world.lost().len(), 1);
        let start = at("2026-10-31T00:00:00Z");
        let mut other = Subscription::monthly("sub_2", "cus_1", start, &["price_minutes"]);
        other.cancel_at_period_end = true;
        world.add_subscription(other);
    }
    let running = get(&fake, "/v1/subscriptions/sub_2").await.json();
    assert_eq!(running["cancel_at"], at("2026-11-30T00:00:00Z"));
    fake.world().set_now(at("2026-12-02T00:00:00Z"));
    let ended = get(&fake, "/v1/subscriptions/sub_2").await.json();
    assert_eq!((&ended["status"], &ended["ended_at"]), (&Value::from("canceled"), &running["cancel_at"]));
}

#[tokio::test]
async fn subscriptions_are_listed_newest_first_by_filter_and_page() {
    let (fake, now) = november(Options::default()).await;
    {
        let mut world = fake.world();
        world.add_price("price_other", "gigabytes", "eur", "2", None);
        for (name, started) in [("sub_2", now - 50), ("sub_3", now - 50), ("sub_4", now - 100)] {
            let customer = format!("cus_of_{name}");
            world.add_subscription(Subscription::monthly(name, &customer, started, &["price_other"]));
        }
        world.cancel_subscription("sub_2");
        world.subscription_mut("sub_4").unwrap().paused = true;
    }
    let ids = async |query: &str| get(&fake, &format!("/v1/subscriptions?{query}")).await.ids();
    assert_eq!(ids("").await, ["sub_3", "sub_4", "sub_1"]);
    assert_eq!(ids("status=all").await, ["sub_3", "sub_2", "sub_4", "sub_1"]);
    assert_eq!(ids("status=ended").await, ["sub_2"]);
    assert_eq!(ids("price=price_other&customer=cus_of_sub_4").await, ["sub_4"]);
    assert_eq!(ids(&format!("created[gte]={}&created[lt]={now}", now - 50)).await, ["sub_3"]);
    assert_eq!(ids("limit=1").await, ["sub_3"]);
    assert_eq!(ids("limit=1&starting_after=sub_2").await, ["sub_4"]);
    assert_eq!(ids("limit=1&ending_before=sub_1").await, ["sub_4"]);
    for query in ["limit=0", "limit=101", "starting_after=sub_9", "status=odd", "customer=cus_9", "expand[]=data"] {
        assert_eq!(get(&fake, &format!("/v1/subscriptions?{query}")).await.status, 400, "{query}");
    }
    let list = get(&fake, "/v1/subscriptions?limit=2").await.json();
    assert_eq!((&list["has_more"], &list["url"]), (&Value::from(true), &Value::from("/v1/subscriptions")));
    assert_eq!(list["data"][1]["pause_collection"]["behavior"], "void");
    let first = get(&fake, "/v1/subscriptions/sub_1").await.json();
    let item = &first["items"]["data"][0];
    assert_eq!(item["current_period_start"], at("2026-11-01T00:00:00Z"));
    assert_eq!(item["current_period_end"], at("2026-12-01T00:00:00Z"));
    assert_eq!(item["price"]["unit_amount_decimal"], "0.17");
    let items = get(&fake, "/v1/subscription_items?subscription=sub_1").await.json();
    assert_eq!(&items["data"][0], item);
    assert_eq!(get(&fake, "/v1/subscriptions/sub_9").await.status, 404);
}

#[tokio::test]
async fn prices_are_found_by_meter_key_and_currency() {
    let (fake, _) = november(Options::default()).await;
    let minutes = fake.world().add_meter("minutes");
    fake.world().add_price("price_2", "gigabytes", "eur", "2", Some("storage"));
    let ids = async |query: &str| get(&fake, &format!("/v1/prices?{query}")).await.ids();
    assert_eq!(ids("").await, ["price_2", "price_minutes"]);
    assert_eq!(ids(&format!("recurring[meter]={minutes}&type=recurring")).await, ["price_minutes"]);
    assert_eq!(ids("lookup_keys[]=minutes_usd&lookup_keys[]=none").await, ["price_minutes"]);
    assert_eq!(ids("lookup_keys%5B0%5D=storage&currency=eur").await, ["price_2"]);
    fake.world().set_price_active("price_2", false);
    assert_eq!(ids("active=true").await, ["price_minutes"]);
    let list = get(&fake, "/v1/prices?active=false").await.json();
    assert_eq!((&list["data"][0]["unit_amount"], &list["data"][0]["id"]), (&Value::from(2), &Value::from("price_2")));
}

#[tokio::test]
async fn meters_are_made_and_take_events_only_while_active() {
    let (fake, now) = november(Options::default()).await;
    let make = "display_name=Minutes&event_name=minutes&default_aggregation[formula]=sum";
    assert_eq!(post(&fake, "/v1/billing/meters", make).await.error("param"), "event_name");
    let meter = fake.world().add_meter("minutes");
    let target = format!("/v1/billing/meters/{meter}");
    let gone = post(&fake, &format!("{target}/deactivate"), "").await.json();
    assert_eq!((&gone["status"], &gone["status_transitions"]["deactivated_at"]), (&"inactive".into(), &now.into()));
    assert_eq!(post(&fake, EVENTS, &event("a", "1", now)).await.status, 400);
    let other = post(&fake, "/v1/billing/meters", make).await;
    assert_eq!(other.status, 200);
    assert_eq!(post(&fake, &format!("{target}/reactivate"), "").await.status, 400);
    let other = other.json()["id"].as_str().unwrap().to_owned();
    fake.world().deactivate_meter(&other);
    assert_eq!(post(&fake, &format!("{target}/reactivate"), "").await.json()["status"], "active");
    assert_eq!(get(&fake, "/v1/billing/meters?status=active").await.ids(), [meter]);
    assert_eq!(get(&fake, "/v1/billing/meters?limit=1").await.ids(), [other]);
    assert_eq!(get(&fake, &target).await.json()["value_settings"]["event_payload_key"], "value");
    let last = "display_name=Last&event_name=last&default_aggregation[formula]=last";
    assert_eq!(post(&fake, "/v1/billing/meters", last).await.status, 400);
    assert_eq!(get(&fake, "/v1/billing/meters/mtr_none").await.status, 404);
}

#[tokio::test]
async fn customers_are_told_even_when_deleted() {
    let (fake, _) = november(Options::default()).await;
    assert_eq!(get(&fake, "/v1/customers/cus_1").await.json()["object"], "customer");
    fake.world().delete_customer("cus_1");
    let deleted: Value = serde_json::json!({ "id": "cus_1", "object": "customer", "deleted": true });
    assert_eq!(get(&fake, "/v1/customers/cus_1").await.json(), deleted);
    assert_eq!(get(&fake, "/v1/subscriptions/sub_1").await.json()["status"], "canceled");
    let reply = get(&fake, "/v1/customers/cus_9").await;
    assert_eq!((reply.status, reply.error("code").as_str()), (404, "resource_missing"));
}

#[tokio::test]
async fn an_outage_refuses_connections_and_keeps_the_world() {
    let (fake, now) = november(Options::default()).await;
    let url = fake.url();
    assert_eq!(post(&fake, EVENTS, &event("a", "1", now)).await.status, 200);
    fake.world().set_faults(|_| Some(Fault::HangBefore));
    let hanging = tokio::spawn({
        let fake = fake.clone();
        async move { send(&fake, "GET", "/v1/prices", KEY, "").await.is_none() }
    });
    sleep(Duration::from_millis(50)).await;
    fake.stop().await;
    assert!(timeout(Duration::from_secs(5), hanging).await.unwrap().unwrap());
    assert!(send(&fake, "GET", "/v1/prices", KEY, "").await.is_none());
    fake.stop().await;
    fake.resume().await.unwrap();
    fake.resume().await.unwrap();
    fake.world().clear_faults();
    assert_eq!(fake.url(), url);
    assert_eq!(get(&fake, "/v1/prices").await.status, 200);
    let world = fake.world();
    assert_eq!((world.events().len(), world.counts().connections), (1, 3));
}
