//! Stories of what a worker serves: health, metrics, pages, and acting on jobs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::support::served::{Served, demo, free_port, request};
use crate::support::{Workspace, meter, query};
use meter::metrics::Metrics;
use meter::worker::Kinds;
use nix::sys::signal::Signal;

const TOKEN: &str = "a-token-of-this-test";

#[test]
fn health_says_what_is_not_well() {
    let place = Workspace::new();
    let worker = Served::start(place.folder.path(), "", &[]);
    let ready = worker.until("/readyz", |a| a.status == 200);
    for line in ["ok  database: there, schema version", "ok  schedule: last checked", "ok  worker: working"] {
        assert!(ready.body.contains(line), "{}", ready.body);
    }
    assert_eq!(worker.get("/healthz").body, "alive\n");
    let listen = format!("127.0.0.1:{}", worker.port);
    place.run(&format!("health --listen {listen}")).ends(0).says(&["ok  worker: working"]);

    // a newer build migrates the database: this worker sees it, and says so until it is gone
    let newer = "INSERT INTO schema_versions (version, name, checksum, applied_at) VALUES (9999, 'x', 'x', 'x')";
    place.execute(newer);
    let start = Instant::now();
    let mut noticed = false;
    while let Some(answer) = request(worker.port, "GET", "/readyz", &[], "") {
        noticed |= answer.status == 503 && answer.body.contains("NOT database");
        assert!(start.elapsed() < Duration::from_secs(60), "it does not stop");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(noticed, "it went without a word");
    place.run(&format!("health --listen {listen}")).ends(1).says(&["no worker answers at", "Connection refused"]);
    place.run_with("health", &[("METER_HTTP__LISTEN", "")]).ends(2).says(&["--listen"]);
}

/// The commonest time at which something is missing is the start.
#[test]
fn a_worker_that_waits_for_its_database_says_so_and_can_be_stopped() {
    let place = Workspace::new();
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let worker = Served::start(place.folder.path(), "", &[("METER_DATABASE__URL", &nobody)]);
    let ready = worker.until("/readyz", |a| a.status == 503);
    for line in ["NOT database: ", "NOT schedule: not checked yet", "NOT worker: starting"] {
        assert!(ready.body.contains(line), "{}", ready.body);
    }
    assert_eq!(worker.get("/healthz").body, "alive\n");
    // Prometheus' `up` is 0, so that MeterDown calls somebody
    assert_eq!(worker.get("/metrics").status, 503);
    assert_eq!(worker.get("/").status, 503);
    assert_eq!(worker.get("/runbook").status, 200);
    let asked = Instant::now();
    assert_eq!(worker.stop(), 0);
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    // the answer says that the due job did not run
    let mut once =
        meter(place.folder.path()).args(["work", "--once"]).env("METER_DATABASE__URL", &nobody).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(700));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(once.id()).unwrap()), Signal::SIGTERM).unwrap();
    assert_eq!(crate::support::ended(&mut once).code(), Some(1));
}

#[test]
fn a_worker_that_is_told_to_stop_says_so_while_it_finishes() {
    let place = Workspace::new();
    let worker = Served::start(place.folder.path(), "--no-schedule", &[]);
    let ready = worker.until("/readyz", |a| a.status == 200);
    assert!(ready.body.contains("schedule: left to other workers"), "{}", ready.body);
    place.run("enqueue probe name=slow millis=3000").ends(0);
    worker.until("/metrics", |a| a.body.contains("meter_jobs{kind=\"probe\",state=\"running\"} 1"));
    worker.signal(Signal::SIGTERM);
    let stopping = worker.until("/readyz", |a| a.status == 503);
    assert!(stopping.body.contains("NOT worker: stopping"), "{}", stopping.body);
    assert_eq!(worker.get("/healthz").status, 200);
    assert_eq!(worker.stop(), 0);
    assert_eq!(place.query("SELECT state FROM jobs WHERE kind = 'probe'"), ["done"]);
}

/// `meter_…` names in a text.
fn names(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (i, _) in text.match_indices("meter_") {
        let before = text[..i].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || "_:/-.".contains(c)) {
            continue;
        }
        let name: String = text[i..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        found.insert(name);
    }
    found
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files of the dashboards and rules.
fn dashboards() -> Vec<PathBuf> {
    let rules = root().join("dashboards/prometheus/rules");
    let files = [root().join("dashboards"), rules].into_iter().flat_map(|folder| std::fs::read_dir(folder).unwrap());
    let files = files.map(|entry| entry.unwrap().path());
    files.filter(|p| p.extension().is_some_and(|e| e == "json" || e == "yml")).collect()
}

/// Every metric of the code is on the page with its type and labels, and in a dashboard or rule;
/// and nothing else is.
#[test]
fn code_page_and_dashboards_know_the_same_metrics() {
    let described = Metrics::new(&Kinds::all().names()).unwrap().described();
    let page = std::fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    let mut documented = vec![];
    for line in page.lines().filter(|l| l.starts_with("| `meter_")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let labels = cells[3].split(',').map(|l| l.trim().trim_matches('`').to_owned());
        let mut labels: Vec<String> = labels.filter(|l| !l.is_empty()).collect();
        labels.sort();
        documented.push((cells[1].trim_matches('`').to_owned(), cells[2].to_owned(), labels));
    }
    documented.sort();
    let coded: Vec<_> = described.iter().map(|d| (d.name.clone(), d.kind.to_owned(), d.labels.clone())).collect();
    assert_eq!(coded, documented, "docs/metrics.md and the code differ");

    let known: BTreeSet<String> = described.iter().map(|d| d.name.clone()).collect();
    let mut used = BTreeSet::new();
    for path in dashboards() {
        for name in names(&std::fs::read_to_string(&path).unwrap()) {
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).map(str::to_owned);
            let base = base.filter(|base| known.contains(base)).unwrap_or(name);
            assert!(known.contains(&base), "{} asks for {base}, which there is not", path.display());
            used.insert(base);
        }
    }
    let unused: Vec<_> = known.difference(&used).collect();
    assert!(unused.is_empty(), "no dashboard and no rule shows {unused:?}");
}

/// What the demo's books say is what a scrape says, by name and figure.
#[test]
fn a_scrape_shows_the_demo() {
    let (_folder, kept) = demo();
    let worker = Served::start(&kept, "", &[]);
    let scrape = worker.until_settled();
    assert!(scrape.head.contains("content-type: text/plain; version=0.0.4"), "{}", scrape.head);
    let value = |series: &str| {
        let line = scrape.body.lines().find_map(|l| l.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {series} in:\n{}", scrape.body)).to_owned()
    };
    let ask = |sql: &str| query(&kept.join("meter.db"), sql).remove(0);
    assert_eq!(value("meter_ledger_entries"), ask("SELECT count(*) FROM ledger_entries"));
    assert_eq!(
        value("meter_customers{status=\"active\"}"),
        ask("SELECT count(*) FROM customers WHERE status = 'active'")
    );
    let used = "SELECT printf('%.1f', coalesce(sum(quantity), 0) / 1e10) FROM booked_usage \
                WHERE meter = 'chime_minutes' AND day >= strftime('%Y-%m-01', 'now') AND customer ";
    for (attribution, condition) in [("attributed", "<> ''"), ("unattributed", "= ''")] {
        let series = format!("meter_usage_month_units{{attribution=\"{attribution}\",meter=\"chime_minutes\"}}");
        let (shown, booked): (f64, f64) =
            (value(&series).parse().unwrap(), ask(&format!("{used}{condition}")).parse().unwrap());
        assert!((shown - booked).abs() < 0.1, "{series}: {shown}, booked {booked}");
    }
    let blocked = "SELECT count(*) FROM entitlements WHERE allowed = 0 AND meter = 'chime_minutes'";
    assert_eq!(value("meter_entitlements{decision=\"blocked\",meter=\"chime_minutes\"}"), ask(blocked));
    assert_eq!(value("meter_stripe_events{state=\"settled\"}"), ask("SELECT count(*) FROM meter_events"));
    assert_eq!(value("meter_books_violations{check=\"conservation\"}"), "0");
    assert_eq!(value("meter_job_runs_total{kind=\"verify_books\",outcome=\"done\"}"), "1");
    assert_eq!(value("meter_workers{state=\"working\"}"), "1");

    // everything that the page promises is there, and no customer is
    for metric in Metrics::new(&Kinds::all().names()).unwrap().described() {
        assert!(scrape.body.contains(&format!("\n# TYPE {} {}\n", metric.name, metric.kind)), "no {}", metric.name);
    }
    for customer in query(&kept.join("meter.db"), "SELECT id FROM customers") {
        assert!(!scrape.body.contains(&customer), "{customer} is in a label");
    }
    assert_eq!(worker.stop(), 0);
}

#[test]
fn pages_are_for_this_machine_unless_they_are_for_anyone() {
    let place = Workspace::new();
    let worker = Served::start(place.folder.path(), "", &[]);
    worker.until("/", |a| a.status == 200);
    for host in ["meter.example.com", "192.0.2.7:9464"] {
        let answer = request(worker.port, "GET", "/", &[("Host", host)], "").unwrap();
        assert_eq!(answer.status, 403, "{host}");
        assert_eq!(request(worker.port, "GET", "/metrics", &[("Host", host)], "").unwrap().status, 200, "{host}");
    }
    assert!(worker.get("/").head.contains("content-security-policy: default-src 'none'"));
    assert_eq!(worker.get("/jobs?state=nonsense").status, 400);
    assert_eq!(worker.get("/jobs/123456").status, 404);
    assert_eq!(worker.get("/nothing").status, 404);
    let runbook = worker.get("/runbook").body;
    assert!(runbook.contains("id=\"meterbillstale\"") && runbook.contains("href=\"/runbook/stripe#"), "{runbook}");
    for page in ["stripe", "enforcement", "metrics", "configuration"] {
        assert_eq!(worker.get(&format!("/runbook/{page}")).status, 200, "{page}");
    }
    assert_eq!(worker.get("/runbook/secrets").status, 404);
    drop(worker);
    let variables = [("METER_HTTP__PAGES", "anyone"), ("METER_HTTP__HOSTS", "['meter.example.com']")];
    let open = Served::start(place.folder.path(), "", &variables);
    open.until("/", |a| a.status == 200);
    for (host, status) in [("meter.example.com", 200), ("meter.example.com:443", 200), ("evil.example.com", 403)] {
        assert_eq!(request(open.port, "GET", "/", &[("Host", host)], "").unwrap().status, status, "{host}");
    }
}

#[test]
fn acting_on_jobs_needs_the_token() {
    let place = Workspace::new();
    place.run("migrate").ends(0);
    place.run("enqueue probe name=later --at 2099-01-01T00:00:00Z").ends(0);
    let state = || place.query("SELECT state FROM jobs WHERE kind = 'probe'").remove(0);
    let form = |token: &str| format!("token={token}");
    let typed = ("Content-Type", "application/x-www-form-urlencoded");

    let without = Served::start(place.folder.path(), "--kinds verify_books --no-schedule", &[]);
    without.until("/jobs", |a| a.status == 200 && a.body.contains("METER_HTTP__TOKEN"));
    let answer = request(without.port, "POST", "/jobs/1/cancel", &[typed], &form("")).unwrap();
    assert_eq!((answer.status, state().as_str()), (403, "scheduled"));
    drop(without);

    let worker =
        Served::start(place.folder.path(), "--kinds verify_books --no-schedule", &[("METER_HTTP__TOKEN", TOKEN)]);
    worker.until("/jobs", |a| a.status == 200 && a.body.contains("formaction=\"/jobs/1/cancel\""));
    for wrong in ["", "a-token-of-this-tesT", "a-token-of-this-test0"] {
        let answer = request(worker.port, "POST", "/jobs/1/cancel", &[typed], &form(wrong)).unwrap();
        assert_eq!((answer.status, state().as_str()), (401, "scheduled"), "{wrong}");
    }
    let act = |what: &str| request(worker.port, "POST", &format!("/jobs/1/{what}"), &[typed], &form(TOKEN)).unwrap();
    let cancelled = act("cancel");
    assert_eq!((cancelled.status, state().as_str()), (303, "cancelled"));
    assert!(cancelled.head.contains("location: /jobs?did=cancel&job=1"), "{}", cancelled.head);
    assert!(worker.get("/jobs?did=cancel&job=1").body.contains("Job 1 is cancelled"));
    assert_eq!(act("cancel").status, 409);
    assert_eq!((act("retry").status, state().as_str()), (303, "pending"));
    let bearer = format!("Bearer {TOKEN}");
    let answer = request(worker.port, "POST", "/jobs/1/cancel", &[("Authorization", &bearer)], "").unwrap();
    assert_eq!((answer.status, state().as_str()), (303, "cancelled"));
    assert_eq!(request(worker.port, "GET", "/jobs/1/cancel", &[], "").unwrap().status, 405);
    assert!(worker.get("/jobs/1").body.contains("later"));
    assert!(!worker.said().contains(TOKEN) && !worker.get("/jobs").body.contains(TOKEN));
    let other =
        request(worker.port, "POST", "/jobs/1/retry", &[typed, ("Host", "evil.example")], &form(TOKEN)).unwrap();
    assert_eq!((other.status, state().as_str()), (403, "cancelled"));
}

/// Two dead jobs of a hundred and three: found by state, by text and page by page, and retried with
/// one token.
#[test]
fn dead_jobs_are_found_explained_and_retried_together() {
    let place = Workspace::new();
    place.run("migrate").ends(0);
    place.execute(
        "INSERT INTO jobs (id, kind, payload, state, worker, lease_until, origin, max_attempts, attempts, lease, enqueued_at, finished_at, started_at, reason) \
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 103) \
         SELECT printf('%026d', i), 'probe', json_object('name', 'probe ' || i), iif(i <= 2, 'running', 'cancelled'), iif(i <= 2, 'w1', NULL), \
                iif(i <= 2, 9, NULL), 'test', 3, 1, 1, 1000, iif(i <= 2, NULL, 2000), 1500, 'an older reason' FROM n",
    );
    // a run that fails twice, and one that is given up at once
    let fail = "UPDATE jobs SET state = 'retrying', run_at = 1, worker = NULL, lease_until = NULL, reason = 'AWS refused' WHERE seq = 1;
                UPDATE jobs SET state = 'running', run_at = NULL, worker = 'w2', lease_until = 9, lease = 2, attempts = 2 WHERE seq = 1;
                UPDATE jobs SET state = 'dead', worker = NULL, lease_until = NULL, finished_at = 3, reason = 'AWS refused again' WHERE seq = 1;
                UPDATE jobs SET state = 'dead', worker = NULL, lease_until = NULL, finished_at = 3, reason = '<odd> & \"rare\"' WHERE seq = 2";
    fail.split(";\n").for_each(|sql| place.execute(sql));

    let worker =
        Served::start(place.folder.path(), "--kinds verify_books --no-schedule", &[("METER_HTTP__TOKEN", TOKEN)]);
    let first = worker.until("/jobs", |a| a.status == 200 && a.body.contains("dead <b>2</b>"));
    assert!(first.body.contains("href=\"/jobs?before=4\"") && !first.body.contains("Newest jobs"));
    assert!(!first.body.contains("Retry all dead jobs"), "only beside a list of dead jobs");
    let second = worker.get("/jobs?before=4").body;
    assert!(second.contains("href=\"/jobs/3\"") && !second.contains("href=\"/jobs/4\""));
    assert!(second.contains("Newest jobs") && !second.contains("Older jobs"));
    let found = worker.get("/jobs?q=%22RARE%22").body;
    assert!(found.contains("href=\"/jobs/2\"") && !found.contains("href=\"/jobs/1\""));
    assert!(worker.get("/jobs?q=nowhere").body.contains("There are no such jobs."));
    let one = worker.get("/jobs/1").body;
    assert!(one.find("AWS refused again").is_some_and(|again| one[again..].contains("AWS refused<")), "newest first");
    let shown = place.run("jobs show 1").ends(0).out;
    assert!(shown.contains("attempt 2 at") && shown.contains("on w1: AWS refused\n"), "{shown}");

    let list = worker.get("/jobs?state=dead&kind=probe").body;
    assert!(list.contains("formaction=\"/jobs/retry?state=dead&amp;kind=probe\""));
    let typed = ("Content-Type", "application/x-www-form-urlencoded");
    let retry = |to: &str, token: &str| request(worker.port, "POST", to, &[typed], &format!("token={token}")).unwrap();
    let states = || {
        place.query("SELECT group_concat(state) FROM (SELECT state FROM jobs WHERE seq <= 3 ORDER BY seq)").remove(0)
    };
    assert_eq!((retry("/jobs/retry?state=dead", "wrong").status, states().as_str()), (401, "dead,dead,cancelled"));
    assert_eq!((retry("/jobs/retry?q=rare", TOKEN).status, states().as_str()), (303, "dead,pending,cancelled"));
    // a state in the address does not make it a retry of other jobs
    let all = retry("/jobs/retry?state=cancelled&kind=probe", TOKEN);
    assert_eq!((all.status, states().as_str()), (303, "pending,pending,cancelled"));
    assert!(all.head.contains("location: /jobs?did=retry&n=1"), "{}", all.head);
    assert!(worker.get("/jobs?did=retry&n=1").body.contains("1 job is due now."));
    assert_eq!(retry("/jobs/retry", TOKEN).status, 409);
    drop(worker);
    place.execute("DELETE FROM jobs WHERE seq = 1");
    assert_eq!(place.query("SELECT DISTINCT job FROM job_failures"), ["2"]);
}

#[test]
fn a_second_worker_takes_the_port_over_when_the_first_one_ends() {
    let place = Workspace::new();
    let first = Served::start(place.folder.path(), "", &[]);
    first.until("/readyz", |a| a.status == 200);
    let second = Served::start_on(first.port, place.folder.path(), "", &[]);
    let start = Instant::now();
    while !second.said().contains("another process listens on") {
        assert!(start.elapsed() < Duration::from_secs(30), "{}", second.said());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(first.stop(), 0);
    second.until("/readyz", |a| a.status == 200);
    assert_eq!(second.stop(), 0);
}

#[test]
fn an_address_that_cannot_be_is_a_fault() {
    let place = Workspace::new();
    place.run("work --listen nonsense").ends(2).says(&["--listen nonsense: write ADDRESS:PORT"]);
    place.run("work --listen 192.0.2.7:1").ends(1).says(&["cannot listen on 192.0.2.7:1"]);
    let faults = [
        ("METER_HTTP__LISTEN", "9464", "http.listen"),
        ("METER_HTTP__PAGES", "everybody", "http.pages"),
        ("METER_HTTP__SNAPSHOT_SECONDS", "0", "1 to 900"),
        ("METER_HTTP__TOKEN", "short", "fewer than 16"),
    ];
    for (name, value, says) in faults {
        let ran = place.run_with("config check", &[(name, value)]).ends(2).says(&[says]);
        assert!(name != "METER_HTTP__TOKEN" || !ran.err.contains(value), "{}", ran.err);
    }
    let shown = place.run_with("config show", &[("METER_HTTP__TOKEN", TOKEN)]).ends(0);
    assert!(!shown.out.contains(TOKEN), "{}", shown.out);
    std::fs::write(place.path("meter.toml"), "[http]\ntoken = \"in-the-file-it-is-no-secret\"\n").unwrap();
    place.run("config check").ends(2).says(&["secrets come from the environment only: set METER_HTTP__TOKEN"]);
    // nothing is served where nothing is asked for
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    let off = Workspace::new();
    let mut worker =
        meter(off.folder.path()).args(["work", "--listen", "off"]).env("METER_HTTP__LISTEN", &listen).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(2));
    assert!(request(port, "GET", "/healthz", &[], "").is_none());
    worker.kill().unwrap();
    crate::support::ended(&mut worker);
}

/// Whoever sends half a request and waits takes no file descriptors from the work.
#[test]
fn half_requests_do_not_use_up_the_process() {
    let place = Workspace::new();
    let worker = Served::start(place.folder.path(), "", &[]);
    worker.until("/readyz", |a| a.status == 200);
    let open = || std::fs::read_dir(format!("/proc/{}/fd", worker.pid())).unwrap().count();
    let before = open();
    let mut held = vec![];
    for _ in 0..150 {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", worker.port)).unwrap();
        std::io::Write::write_all(&mut stream, b"GET / HTTP/1.1\r\nHost: ").unwrap();
        held.push(stream);
    }
    std::thread::sleep(Duration::from_secs(1));
    assert!(open() < before + 100, "{} file descriptors, {before} before", open());
    place.run("enqueue probe name=meanwhile --wait").ends(0);
    drop(held);
    worker.until("/healthz", |a| a.status == 200);
    assert_eq!(worker.stop(), 0);
}
