//! A worker whose database refuses all statements, because the quota of its plan is used up.

use std::time::{Duration, Instant};

use testkit::hrana::HranaServer;

use crate::support::served::Served;
use crate::support::{Workspace, query};

const REFUSED: &str = "refuses all statements: the quota of its plan is used up";

#[test]
fn a_worker_whose_quota_is_used_up_waits_and_says_so() {
    let place = Workspace::new();
    let server = HranaServer::start(&place.path("served.db"));
    let url = server.url();
    let variables = [
        ("METER_DATABASE__URL", url.as_str()),
        ("METER_QUEUE__LEASE_SECONDS", "12"),
        ("METER_QUEUE__GRACE_SECONDS", "2"),
    ];
    let worker = Served::start(place.folder.path(), "", &variables);
    worker.until("/readyz", |a| a.status == 200);
    worker.until("/", |a| a.status == 200);
    let metric = |value: &str| {
        let line = format!("\nmeter_database_blocked {value}\n");
        worker.until("/metrics", |a| a.body.contains(&line));
    };
    metric("0");

    server.block_all(Some("monthly reads"));
    worker.until("/readyz", |a| a.status == 503 && a.body.contains(REFUSED) && a.body.contains("larger plan"));
    metric("1");
    worker.until("/", |a| a.body.contains(REFUSED) && a.body.contains("/runbook#meterdatabaseblocked"));
    place.run_with("status", &variables).ends(1).says(&["monthly reads", "quota of its plan is used up", "overages"]);
    // what was under way when it was blocked is over
    std::thread::sleep(Duration::from_secs(2));
    server.reset_counts();
    for _ in 0..20 {
        std::thread::sleep(Duration::from_secs(1));
        worker.until("/readyz", |a| a.status == 503);
    }
    let requests = server.counts().requests;
    // an outcome that waits to be written is tried four times in a lease
    assert!(requests <= 15, "{requests} requests in 20 s to a database that refuses them");
    let said = worker.said();
    let errors: Vec<&str> = said.lines().filter(|line| line.contains(" ERROR ")).collect();
    assert_eq!(errors.len(), 1, "{errors:#?}");
    assert!(errors[0].contains("until somebody acts") && errors[0].contains("monthly reads"), "{errors:?}");

    server.unblock();
    worker.until("/readyz", |a| a.status == 200);
    metric("0");
    place.run_with("enqueue probe name=x --wait", &variables).ends(0);
    // there is no bill, and nothing else was given up
    let dead = "SELECT kind || ': ' || reason FROM jobs WHERE state = 'dead' AND kind <> 'ingest_cur'";
    assert_eq!(query(&place.path("served.db"), dead), Vec::<String>::new());

    server.block_all(None);
    metric("1");
    let start = Instant::now();
    assert_eq!(worker.stop(), 0);
    let took = start.elapsed();
    assert!(took < Duration::from_secs(15), "it took {took:?} to stop");
}
