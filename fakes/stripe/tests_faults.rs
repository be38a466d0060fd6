//! Keys, limits and faults, over HTTP.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::tests::{EVENTS, KEY, event, get, keyed, november, post, send};
use crate::{DAY, FakeStripe, Fault, Options};

/// Makes the next request fail, and no other.
fn once(fake: &FakeStripe, fault: Fault) {
    let mut fault = Some(fault);
    fake.world().set_faults(move |_| fault.take());
}

fn applied(fake: &FakeStripe) -> usize {
    fake.world().events().len()
}

#[tokio::test]
async fn a_key_replays_its_answer_for_a_day() {
    let (fake, now) = november(Options::default()).await;
    let first = keyed(&fake, "k", &event("a", "1", now)).await.unwrap();
    assert_eq!(first.header("idempotent-replayed"), None);
    fake.world().set_now(now + DAY - 1);
    let again = keyed(&fake, "k", &event("a", "1", now)).await.unwrap();
    assert_eq!((again.status, &again.text), (200, &first.text));
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_ne!(again.header("request-id"), first.header("request-id"));
    let other = keyed(&fake, "k", &event("a", "2", now)).await.unwrap();
    assert_eq!((other.status, other.error("type").as_str()), (400, "idempotency_error"));
    fake.world().set_now(now + DAY);
    let anew = keyed(&fake, "k", &event("a", "1", now)).await.unwrap();
    assert_eq!((anew.status, anew.header("idempotent-replayed")), (200, None));
    assert_eq!((applied(&fake), fake.world().counts().replayed), (2, 1));
    assert_eq!(keyed(&fake, &"k".repeat(256), &event("b", "1", now)).await.unwrap().status, 400);
}

#[tokio::test]
async fn the_order_of_the_parameters_does_not_matter_to_a_key() {
    let (fake, now) = november(Options::default()).await;
    let body = event("a", "1", now);
    let turned: Vec<&str> = body.split('&').rev().collect();
    assert_eq!(keyed(&fake, "k", &body).await.unwrap().status, 200);
    let again = keyed(&fake, "k", &turned.join("&").replace('[', "%5B").replace(']', "%5D")).await.unwrap();
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
}

#[tokio::test]
async fn refusals_are_not_kept_under_a_key() {
    let (fake, now) = november(Options::default()).await;
    let body = event("a", "1", now).replace("cus_1", "cus_2");
    assert_eq!(keyed(&fake, "k", &body).await.unwrap().status, 400);
    fake.world().add_customer("cus_2");
    assert_eq!(keyed(&fake, "k", &body).await.unwrap().status, 200);
}

#[tokio::test]
async fn server_errors_are_kept_under_a_key() {
    for (fault, new_key) in [(Fault::ErrorBefore(503), 200), (Fault::ErrorAfter(500), 400)] {
        let (fake, now) = november(Options::default()).await;
        once(&fake, fault);
        let status = if fault == Fault::ErrorAfter(500) { 500 } else { 503 };
        let failed = keyed(&fake, "k", &event("a", "1", now)).await.unwrap();
        assert_eq!((failed.status, failed.error("type").as_str()), (status, "api_error"));
        let again = keyed(&fake, "k", &event("a", "1", now)).await.unwrap();
        assert_eq!((again.status, again.header("idempotent-replayed")), (status, Some("true")));
        assert_eq!(keyed(&fake, "k2", &event("a", "1", now)).await.unwrap().status, new_key);
        assert_eq!(applied(&fake), 1);
    }
}

#[tokio::test]
async fn faults_before_apply_nothing_and_keep_nothing() {
    let faults = [
        (Fault::RateLimited { retry_after: Some(7) }, 429),
        (Fault::LockTimeout, 429),
        (Fault::KeyInUse, 409),
        (Fault::HtmlBefore, 502),
        (Fault::Unauthorized, 401),
        (Fault::Forbidden, 403),
        (Fault::ErrorBefore(404), 404),
    ];
    let (fake, now) = november(Options::default()).await;
    for (nth, (fault, status)) in faults.into_iter().enumerate() {
        let (key, body) = (format!("k{nth}"), event(&format!("e{nth}"), "1", now));
        once(&fake, fault);
        let reply = keyed(&fake, &key, &body).await.unwrap();
        assert_eq!((reply.status, applied(&fake)), (status, nth), "{fault:?}");
        match fault {
            Fault::RateLimited { .. } => {
                assert_eq!(reply.header("retry-after"), Some("7"));
                assert_eq!(reply.header("stripe-rate-limited-reason"), Some("global-rate"));
            }
            Fault::LockTimeout => {
                assert_eq!(reply.error("code"), "lock_timeout");
                assert_eq!(reply.header("stripe-rate-limited-reason"), None);
            }
            Fault::KeyInUse => assert_eq!(reply.error("code"), "idempotency_key_in_use"),
            Fault::HtmlBefore => assert!(reply.text.starts_with("<html>")),
            _ => assert_eq!(reply.error("type"), "invalid_request_error"),
        }
        let again = keyed(&fake, &key, &body).await.unwrap();
        assert_eq!((again.status, again.header("idempotent-replayed")), (200, None), "{fault:?}");
    }
}

#[tokio::test]
async fn faults_after_apply_and_keep_the_answer() {
    let faults = [Fault::HtmlAfter, Fault::HangAfter, Fault::ResetAfter, Fault::ResetInBody, Fault::OddBody];
    let (fake, now) = november(Options::default()).await;
    for (nth, fault) in faults.into_iter().enumerate() {
        let (key, body) = (format!("k{nth}"), event(&format!("e{nth}"), "1", now));
        once(&fake, fault);
        let reply = timeout(Duration::from_millis(300), keyed(&fake, &key, &body)).await;
        assert_eq!(applied(&fake), nth + 1, "{fault:?}");
        match (fault, reply) {
            (Fault::HtmlAfter, Ok(Some(reply))) => assert_eq!(reply.status, 502),
            (Fault::OddBody, Ok(Some(reply))) => {
                assert_eq!(reply.status, 200);
                assert!(serde_json::from_str::<serde_json::Value>(&reply.text).is_err());
            }
            (Fault::ResetInBody, Ok(Some(reply))) => {
                let promised: usize = reply.header("content-length").unwrap().parse().unwrap();
                assert_eq!((reply.status, reply.text.len()), (200, promised / 2));
            }
            (Fault::ResetAfter, Ok(None)) | (Fault::HangAfter, Err(_)) => {}
            other => panic!("{other:?}"),
        }
        let again = keyed(&fake, &key, &body).await.unwrap();
        assert_eq!((again.status, again.header("idempotent-replayed")), (200, Some("true")), "{fault:?}");
        assert_eq!(post(&fake, EVENTS, &body).await.status, 400);
    }
}

#[tokio::test]
async fn hangs_and_resets_before_apply_nothing() {
    let (fake, now) = november(Options::default()).await;
    once(&fake, Fault::HangBefore);
    assert!(timeout(Duration::from_millis(200), post(&fake, EVENTS, &event("a", "1", now))).await.is_err());
    once(&fake, Fault::ResetBefore);
    assert!(send(&fake, "POST", EVENTS, KEY, &event("a", "1", now)).await.is_none());
    assert_eq!(applied(&fake), 0);
    assert_eq!(post(&fake, EVENTS, &event("a", "1", now)).await.status, 200);
}

#[tokio::test]
async fn a_refusal_stays_one_when_a_fault_comes_after() {
    let (fake, now) = november(Options::default()).await;
    let body = event("a", "1", now).replace("cus_1", "cus_2");
    for fault in [Fault::OddBody, Fault::ErrorAfter(500), Fault::LateReject] {
        once(&fake, fault);
        assert_eq!(post(&fake, EVENTS, &body).await.error("code"), "resource_missing", "{fault:?}");
    }
}

#[tokio::test]
async fn a_late_rejection_counts_nowhere_and_is_reported() {
    let (fake, now) = november(Options::default()).await;
    once(&fake, Fault::LateReject);
    assert_eq!(post(&fake, EVENTS, &event("a", "1", now)).await.status, 200);
    assert_eq!(post(&fake, EVENTS, &event("a", "1", now)).await.status, 400);
    fake.world().set_late_customer_errors(true);
    let unknown = event("b", "1", now).replace("cus_1", "cus_2");
    assert_eq!(post(&fake, EVENTS, &unknown).await.status, 200);
    let report = {
        let world = fake.world();
        assert!(world.events().is_empty() && world.lost().is_empty());
        assert_eq!((world.counts().events_applied, world.late_rejected().len()), (0, 2));
        assert_eq!(world.error_report("c"), None);
        world.error_report("b").unwrap()
    };
    assert_eq!(report["type"], "v1.billing.meter.error_report_triggered");
    let kind = &report["data"]["reason"]["error_types"][0];
    assert_eq!(kind["code"], "meter_event_customer_not_found");
    assert_eq!(kind["sample_errors"][0]["request"]["identifier"], "b");
    let id = report["id"].as_str().unwrap();
    assert_eq!(get(&fake, &format!("/v2/core/events/{id}")).await.json(), report);
    assert_eq!(report["data"]["validation_start"], "2026-11-15T12:00:00.000Z");
}

#[tokio::test]
async fn one_call_at_a_time_per_customer_and_meter() {
    let latency = Duration::from_millis(400);
    let (fake, now) = november(Options { latency, ..Options::default() }).await;
    fake.world().add_customer("cus_2");
    let first = tokio::spawn({
        let fake = fake.clone();
        async move { keyed(&fake, "k", &event("a", "1", now)).await.unwrap() }
    });
    sleep(Duration::from_millis(100)).await;
    let refused = post(&fake, EVENTS, &event("b", "1", now)).await;
    assert_eq!((refused.status, refused.error("code").as_str()), (429, "too_many_concurrent_requests"));
    assert_eq!(refused.header("stripe-rate-limited-reason"), Some("resource-specific"));
    let same_key = keyed(&fake, "k", &event("a", "1", now)).await.unwrap();
    assert_eq!((same_key.status, same_key.error("code").as_str()), (409, "idempotency_key_in_use"));
    let other = event("c", "1", now).replace("cus_1", "cus_2");
    assert_eq!(post(&fake, EVENTS, &other).await.status, 200);
    assert_eq!(first.await.unwrap().status, 200);
    assert_eq!(post(&fake, EVENTS, &event("b", "1", now)).await.status, 200);
    let counts = fake.world().counts();
    assert_eq!((counts.concurrent_refused, counts.most_in_flight, counts.events_applied), (1, 2, 3));
}

#[tokio::test]
async fn a_client_that_leaves_has_its_event_applied_and_no_longer_in_flight() {
    let latency = Duration::from_secs(30);
    let (fake, now) = november(Options { latency, ..Options::default() }).await;
    assert!(timeout(Duration::from_millis(200), post(&fake, EVENTS, &event("a", "1", now))).await.is_err());
    assert_eq!(applied(&fake), 1);
    fake.world().set_latency(Duration::ZERO);
    sleep(Duration::from_millis(100)).await;
    assert_eq!(post(&fake, EVENTS, &event("b", "1", now)).await.status, 200);
}

#[tokio::test]
async fn events_beyond_the_rate_are_limited() {
    let (fake, now) = november(Options { events_per_second: Some(5), ..Options::default() }).await;
    let mut statuses = Vec::new();
    for nth in 0..7 {
        let reply = post(&fake, EVENTS, &event(&format!("e{nth}"), "1", now)).await;
        assert_eq!(reply.header("stripe-rate-limited-reason").is_some(), reply.status == 429);
        statuses.push(reply.status);
    }
    assert_eq!(statuses[..5], [200; 5]);
    assert!(statuses.contains(&429));
    assert_eq!(get(&fake, "/v1/prices").await.status, 200);
    sleep(Duration::from_millis(300)).await;
    assert_eq!(post(&fake, EVENTS, &event("later", "1", now)).await.status, 200);
}

#[tokio::test]
async fn a_script_sees_each_request() {
    let (fake, now) = november(Options { remember_requests: false, ..Options::default() }).await;
    fake.world().set_faults(|seen| {
        let chosen = seen.method == "POST" && seen.path == EVENTS && seen.form["identifier"] == "b" && seen.nth == 2;
        chosen.then_some(Fault::LockTimeout)
    });
    for (name, status) in [("a", 200), ("b", 429), ("b", 200)] {
        assert_eq!(post(&fake, EVENTS, &event(name, "1", now)).await.status, status);
    }
    assert!(fake.world().take_requests().is_empty());
}

/// Many events on one connection, like a bench.
#[tokio::test]
async fn a_connection_is_kept_and_quick() {
    let (fake, now) = november(Options::default()).await;
    let url = fake.url();
    let mut stream = TcpStream::connect(url[7..].trim_end_matches('/')).await.unwrap();
    let began = Instant::now();
    let mut buffer = vec![0; 4096];
    for nth in 0..2000 {
        let body = event(&format!("e{nth}"), "1", now);
        let form = "content-type: application/x-www-form-urlencoded";
        let head = format!("POST {EVENTS} HTTP/1.1\r\nhost: a\r\n{KEY}{form}\r\ncontent-length: {}\r\n", body.len());
        stream.write_all(format!("{head}idempotency-key: k{nth}\r\n\r\n{body}").as_bytes()).await.unwrap();
        let read = stream.read(&mut buffer).await.unwrap();
        assert!(buffer[..read].starts_with(b"HTTP/1.1 200"));
    }
    println!("2000 events in {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(20));
    assert_eq!((applied(&fake), fake.world().counts().connections), (2000, 1));
}
