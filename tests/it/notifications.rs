//! The wire to the web backend: notifications through the binary, to receivers that are well, slow,
//! hostile or gone.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::{Ran, Workspace};
use standardwebhooks::Webhook;

/// The example of the specification is of this form.
pub(crate) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// What a receiver does with a request.
#[derive(Clone, Debug)]
pub(crate) enum Does {
    Answer(&'static str),
    /// Goes on sending a body for as long as anybody reads it.
    Endless,
    /// Takes the request and says nothing.
    Silence,
    Close,
}

/// A request, as it came: headers in lower case, and the body.
pub(crate) type Request = (BTreeMap<String, String>, String);

/// A server of the test's own, on a free port.
pub(crate) struct Receiver {
    pub(crate) port: u16,
    does: Arc<Mutex<Does>>,
    got: Arc<Mutex<Vec<Request>>>,
}

impl Receiver {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (does, got) = (Arc::new(Mutex::new(Does::Answer("200 OK"))), Arc::new(Mutex::new(vec![])));
        let (doing, gets) = (Arc::clone(&does), Arc::clone(&got));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (doing, gets) = (Arc::clone(&doing), Arc::clone(&gets));
                std::thread::spawn(move || serve(stream.unwrap(), &doing, &gets));
            }
        });
        Self { port, does, got }
    }

    pub(crate) fn does(&self, does: Does) {
        *self.does.lock().unwrap() = does;
    }

    pub(crate) fn took(&self) -> Vec<Request> {
        std::mem::take(&mut self.got.lock().unwrap())
    }
}

fn serve(mut stream: TcpStream, does: &Mutex<Does>, got: &Mutex<Vec<Request>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let mut headers = BTreeMap::new();
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        headers.insert("request".to_owned(), line.trim().to_owned());
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            let Some((name, value)) = line.trim().split_once(": ") else { break };
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        let mut body = vec![0; headers["content-length"].parse().unwrap()];
        reader.read_exact(&mut body).unwrap();
        got.lock().unwrap().push((headers, String::from_utf8(body).unwrap()));
        let does = does.lock().unwrap().clone();
        match does {
            Does::Answer(status) => {
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
                if stream.write_all(answer.as_bytes()).is_err() {
                    return;
                }
            }
            Does::Endless => {
                let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
                drop(stream.write_all(head.as_bytes()));
                while stream.write_all(format!("10000\r\n{}\r\n", "x".repeat(0x10000)).as_bytes()).is_ok() {}
                return;
            }
            Does::Silence => std::thread::sleep(Duration::from_secs(60)),
            Does::Close => return,
        }
    }
}

/// Books in which one customer was just blocked: four notifications are pending.
fn place(receiver: &Receiver) -> Workspace {
    let place =
        Workspace::with(&format!("[notifications]\nurl = \"http://127.0.0.1:{}/hook?key=hidden\"\n", receiver.port));
    run(&place, "migrate").ends(0);
    run(&place, "customer add ann").ends(0);
    run(&place, "run enforce-budgets").ends(0);
    place.execute("UPDATE turn_periods SET used = 500");
    run(&place, "run enforce-budgets").ends(0).says(&["BLOCKED", "included_used", "4 notification(s) will be sent"]);
    assert_eq!(place.query("SELECT count(*) FROM notifications WHERE state = 'pending'"), ["4"]);
    place
}

fn run(place: &Workspace, line: &str) -> Ran {
    let ran = place.run_with(line, &[("METER_NOTIFICATIONS__SECRET", SECRET), ("METER_LOG", "trace")]);
    let said = format!("{}{}", ran.out, ran.err);
    assert!(!said.contains(&SECRET[6..]) && !said.contains("key=hidden"), "a secret was printed: {said}");
    ran
}

pub(crate) const DELIVER: &str = "run deliver-notifications --json";
const STATES: &str = "SELECT state, attempts, count(*) FROM notifications GROUP BY 1, 2 ORDER BY 1, 2";

#[test]
fn notifications_arrive_signed_and_once() {
    let receiver = Receiver::start();
    let place = place(&receiver);
    run(&place, "config show").ends(0).says(&["/hook?********"]);
    let report = run(&place, DELIVER).ends(0).json();
    let sentence = "4 notifications delivered";
    assert_eq!(report, serde_json::json!({ "sentence": sentence, "delivered": 4, "retried": 0, "dead": 0 }));
    let took = receiver.took();
    assert_eq!(took.len(), 4);
    let mut kinds = vec![];
    for (headers, body) in &took {
        assert_eq!(headers["request"], "POST /hook?key=hidden HTTP/1.1");
        assert_eq!(headers["content-type"], "application/json");
        let names = ["webhook-id", "webhook-timestamp", "webhook-signature"];
        let map = names.map(|n| (n.parse().unwrap(), headers[n].parse().unwrap())).into_iter().collect();
        Webhook::new(SECRET).unwrap().verify(body.as_bytes(), &map).unwrap();
        let tampered = body.replace("ann", "bob");
        assert!(Webhook::new(SECRET).unwrap().verify(tampered.as_bytes(), &map).is_err());
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["data"]["customer"], "ann");
        let percent = body["data"]["percent"].as_i64().unwrap_or(0);
        kinds.push(format!("{} {percent}", body["type"].as_str().unwrap()));
    }
    kinds.sort();
    let expected = ["meter.blocked 0", "meter.included_used 100", "meter.included_used 50", "meter.included_used 80"];
    assert_eq!(kinds, expected);
    // nothing is sent twice, unless a person asks for it; then under the same id
    run(&place, DELIVER).ends(0);
    assert!(receiver.took().is_empty());
    let id = &took[0].0["webhook-id"];
    run(&place, &format!("notifications retry {id}")).ends(0).says(&["will be sent again"]);
    run(&place, DELIVER).ends(0);
    let again = receiver.took();
    assert_eq!((again.len(), &again[0].0["webhook-id"], &again[0].1), (1, id, &took[0].1));
    run(&place, "notifications retry ntc_nothing").ends(2).says(&["there is no notification ntc_nothing"]);
    run(&place, "notifications list").ends(0).says(&["delivered", "included_used 80 %", "blocked"]);
}

#[test]
fn a_receiver_that_misbehaves_harms_nothing() {
    let receiver = Receiver::start();
    let elsewhere = Receiver::start();
    let target = format!("307 Temporary Redirect\r\nLocation: http://127.0.0.1:{}/", elsewhere.port);
    for (does, attempts) in [
        (Does::Answer("500 Internal Server Error"), 1),
        (Does::Answer(Box::leak(target.into_boxed_str())), 2),
        (Does::Close, 3),
        (Does::Answer("429 Too Many Requests\r\nRetry-After: 100000"), 4),
        (Does::Answer("nonsense"), 5),
    ] {
        let place = if attempts == 1 { Some(place(&receiver)) } else { None };
        // the same books all along
        static BOOKS: Mutex<Option<Workspace>> = Mutex::new(None);
        let mut books = BOOKS.lock().unwrap();
        let place = books.get_or_insert_with(|| place.unwrap());
        place.execute("UPDATE notifications SET next_at = 0");
        receiver.does(does.clone());
        let report = run(place, DELIVER).ends(0).json();
        assert_eq!(report["retried"], 4, "{does:?}");
        assert_eq!(place.query(STATES), [format!("pending|{attempts}|4")], "{does:?}");
        // decisions are made all the same
        run(place, "run enforce-budgets").ends(0);
        if attempts == 5 {
            // not due yet: nothing is sent
            run(place, DELIVER).ends(0);
            receiver.took();
            assert!(elsewhere.took().is_empty(), "no redirect was followed");
            // it recovers
            place.execute("UPDATE notifications SET next_at = 0");
            receiver.does(Does::Endless);
            let start = Instant::now();
            let report = run(place, DELIVER).ends(0).json();
            assert_eq!(report["delivered"], 4, "a 200 is a 200; its endless body is not read");
            assert!(start.elapsed() < Duration::from_secs(10));
        }
    }
}

#[test]
fn a_silent_receiver_costs_ten_seconds_and_no_more() {
    let receiver = Receiver::start();
    let place = place(&receiver);
    receiver.does(Does::Silence);
    let start = Instant::now();
    let report = run(&place, DELIVER).ends(0).json();
    assert_eq!(report["retried"], 4);
    let took = start.elapsed();
    assert!(took > Duration::from_secs(9) && took < Duration::from_secs(30), "{took:?}");
    let said = format!("no answer in time from http://127.0.0.1:{}", receiver.port);
    assert_eq!(place.query("SELECT DISTINCT error FROM notifications"), [said]);
}

#[test]
fn what_nobody_takes_for_a_day_is_dead_and_can_be_sent_again() {
    let receiver = Receiver::start();
    let place = place(&receiver);
    receiver.does(Does::Answer("503 Service Unavailable"));
    place.execute("UPDATE notifications SET give_up_at = unixepoch() - 1");
    run(&place, DELIVER).ends(3).says(&["\"dead\": 4"]);
    run(&place, "notifications list").ends(3).says(&["dead", "the receiver answered 503"]);
    receiver.does(Does::Answer("204 No Content"));
    run(&place, DELIVER).ends(0);
    assert_eq!(receiver.took().len(), 4, "the dead are left alone");
    run(&place, "notifications retry --dead").ends(0);
    run(&place, DELIVER).ends(0).says(&["\"delivered\": 4"]);
    // 410 means: never again
    place.execute("UPDATE notifications SET state = 'pending', next_at = 0, delivered_at = NULL");
    receiver.does(Does::Answer("410 Gone"));
    run(&place, DELIVER).ends(3).says(&["\"dead\": 4"]);
}

#[test]
fn without_a_target_notifications_are_known_and_settings_are_checked() {
    let place = Workspace::with("");
    place.run("migrate").ends(0);
    place.run("customer add ann").ends(0);
    place.execute("UPDATE turn_periods SET used = 500");
    place.run("run enforce-budgets").ends(0).says(&["4 notification(s) are kept and not sent"]);
    place.run(DELIVER).ends(0).says(&["\"delivered\": 0"]);
    let said = ["known, not sent", "no webhook was configured", "notifications.url is not set"];
    place.run("notifications list --state known").ends(0).says(&said);
    // they were pending when the address was taken away; nobody wants them, so this is no finding
    place.execute("UPDATE notifications SET state = 'pending', next_at = 0, error = 'x', give_up_at = unixepoch() - 1");
    place.run(DELIVER).ends(0).says(&["\"dead\": 0", "\"set_aside\": 4"]);
    place.run("notifications list").ends(0).says(&["no webhook was configured"]);
    let variables = |url: &'static str, secret: &'static str| {
        [("METER_NOTIFICATIONS__URL", url), ("METER_NOTIFICATIONS__SECRET", secret)]
    };
    for (url, secret, why) in [
        ("ftp://host/", SECRET, "neither https:// nor http://"),
        ("nowhere", SECRET, "it is no address"),
        ("https://host/", "", "set METER_NOTIFICATIONS__SECRET"),
        ("https://host/", "whsec_short", "24 to 64 bytes"),
        ("https://host/", "whsec_%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%%", "24 to 64 bytes"),
    ] {
        let ran = place.run_with("config check", &variables(url, secret)).ends(2).says(&[why]);
        assert!(secret.is_empty() || !ran.err.contains(secret), "{}", ran.err);
    }
    std::fs::write(place.path("meter.toml"), "[notifications]\nsecret = \"x\"\n").unwrap();
    place.run("config check").ends(2).says(&["secrets come from the environment only", "METER_NOTIFICATIONS__SECRET"]);
}

/// Notifications by state and reason.
fn states(place: &Workspace) -> Vec<String> {
    place.query("SELECT state, coalesce(error, ''), count(*) FROM notifications GROUP BY 1, 2 ORDER BY 1, 2")
}

const ENFORCE: &str = "run enforce-budgets";

#[test]
fn the_first_run_sends_no_history_and_the_next_crossing_is_sent() {
    let receiver = Receiver::start();
    let url = format!("[notifications]\nurl = \"http://127.0.0.1:{}/hook\"\n", receiver.port);
    let place = Workspace::with(&url);
    run(&place, "migrate").ends(0);
    place.execute(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 39) \
         INSERT INTO customers (id) SELECT printf('c%02d', i) FROM n",
    );
    place.execute("UPDATE turn_periods SET used = 500 WHERE customer <> 'c39'");
    let said = [
        "38 meter(s) newly blocked",
        "blocked now: 38 meter(s); 117 more",
        "152 notification(s) are kept and not sent",
    ];
    run(&place, ENFORCE).ends(0).says(&said);
    run(&place, DELIVER).ends(0);
    assert_eq!(receiver.took().len(), 0, "for 38 customers beyond their limits");
    let why = "it lay behind when the meter was first decided under a plan that has it";
    assert_eq!(states(&place), [format!("known|{why}|152")]);
    run(&place, "notifications list --state known --customer c01").ends(0).says(&["known, not sent", why]);
    place.execute("UPDATE turn_periods SET used = 250 WHERE customer = 'c39'");
    run(&place, ENFORCE).ends(0).says(&["1 notification(s) will be sent"]);
    run(&place, DELIVER).ends(0);
    let took = receiver.took();
    assert!(took.len() == 1 && took[0].1.contains("c39") && took[0].1.contains("meter.included_used"), "{took:?}");
    // a person may send what is known
    let id = place.query("SELECT id FROM notifications WHERE customer = 'c07' AND kind = 'blocked'");
    run(&place, &format!("notifications retry {}", id[0])).ends(0).says(&["will be sent again"]);
    run(&place, DELIVER).ends(0);
    let took = receiver.took();
    assert!(took.len() == 1 && took[0].1.contains("c07") && took[0].1.contains("meter.blocked"), "{took:?}");
    // an unblock and a new period are news
    place.execute("UPDATE turn_periods SET used = 400 WHERE customer = 'c05'");
    run(&place, ENFORCE).ends(0).says(&["0 meter(s) newly blocked, 1 unblocked", "1 notification(s) will be sent"]);
}

#[test]
fn what_lay_behind_when_somebody_began_to_look_is_known() {
    let place = Workspace::with("");
    let set = |place: &Workspace, more: &str| {
        let url = "[notifications]\nurl = \"http://127.0.0.1:9/hook\"\n";
        std::fs::write(place.path("meter.toml"), format!("{url}{more}")).unwrap();
    };
    let used = |n: u32| place.execute(&format!("UPDATE turn_periods SET used = {n}"));
    place.run("migrate").ends(0);
    place.run("customer add ann").ends(0);
    place.run(ENFORCE).ends(0);
    used(300);
    place.run(ENFORCE).ends(0);
    // notifications.url is set for the first time
    set(&place, "");
    used(400);
    run(&place, ENFORCE).ends(0);
    let mut expected = vec![
        "known|it lay behind when notifications.url was set|1".to_owned(),
        "known|no webhook was configured (notifications.url)|1".to_owned(),
    ];
    assert_eq!(states(&place), expected);
    // two shares are new; one of them lies ahead, and several are crossed at once
    set(&place, "[enforce]\nthresholds = [50, 70, 80, 90, 100]\n");
    run(&place, ENFORCE).ends(0).says(&["0 changed", "1 notification(s) are kept and not sent"]);
    expected.insert(0, "known|it lay behind when enforce.thresholds got this share|1".to_owned());
    assert_eq!(states(&place), expected);
    used(500);
    run(&place, ENFORCE).ends(0).says(&["3 notification(s) will be sent"]);
    let pending = "SELECT kind, percent FROM notifications WHERE state = 'pending' ORDER BY kind, percent";
    assert_eq!(place.query(pending), ["blocked|0", "included_used|90", "included_used|100"]);
    // the first plan with another meter, of which much was used
    let plans = "[[plans]]\nname = \"pro\"\ncurrency = \"USD\"\neffective_from = \"2020-01-01T00:00:00Z\"\n[plans.meters]\n\
                 turn_allocations = { included = \"500\" }\n\
                 chime_minutes = { included = \"10\", price = \"0.01\", report = \"overage\" }\nstorage_gb = { included = \"1\" }\n";
    std::fs::write(place.path("plans.toml"), plans).unwrap();
    place.execute(&testkit::usage::booking("ann", "chime_minutes", "date('now')", "1200000000000").join(";"));
    place.execute("UPDATE notifications SET state = 'known', next_at = NULL, error = 'x'");
    run(&place, "plan apply plans.toml").ends(0).says(&["limits follow: the next run of enforce_budgets, due "]);
    place.execute("UPDATE customers SET plan = 'pro'");
    run(&place, "budget set ann 1 --by me").ends(0).says(&["That counts from the next run of enforce_budgets, due "]);
    run(&place, ENFORCE).ends(0);
    let behind = "SELECT meter, kind, state, count(*) FROM notifications WHERE error LIKE '%first decided%' GROUP BY 1, 2, 3 ORDER BY 1, 2";
    let expected = ["|budget_used|known|5", "chime_minutes|included_used|known|5"];
    assert_eq!(place.query(behind), expected);
    assert_eq!(place.query(pending), ["unblocked|0"]);
}

/// A block that was sent is followed by its end, whatever the reason was.
#[test]
fn a_plan_that_is_unknown_for_a_while_blocks_and_unblocks() {
    let place = Workspace::with("[notifications]\nurl = \"http://127.0.0.1:9/hook\"\n");
    run(&place, "migrate").ends(0);
    run(&place, "customer add ann").ends(0);
    run(&place, ENFORCE).ends(0);
    let meters = place.query("SELECT meter FROM entitlements WHERE allowed").len();
    for (plan, kind, expected) in [("nobody", "blocked", 3), ("core", "unblocked", 0)] {
        place.execute(&format!("UPDATE customers SET plan = '{plan}'"));
        run(&place, ENFORCE).ends(expected).says(&[&format!("{meters} notification(s) will be sent")]);
        let sent = format!("SELECT count(*) FROM notifications WHERE kind = '{kind}' AND state = 'pending'");
        assert_eq!(place.query(&sent), [meters.to_string()]);
    }
}

#[test]
fn what_the_lost_books_knew_is_not_sent_by_restored_ones() {
    let place = Workspace::with("[notifications]\nurl = \"http://127.0.0.1:9/hook\"\n");
    let used = |n: u32| place.execute(&format!("UPDATE turn_periods SET used = {n}"));
    run(&place, "migrate").ends(0);
    run(&place, "customer add ann").ends(0);
    run(&place, ENFORCE).ends(0);
    run(&place, "backup copy.db").ends(0);
    for ending in ["", "-wal", "-shm"] {
        drop(std::fs::remove_file(place.path(&format!("meter.db{ending}"))));
    }
    std::fs::rename(place.path("copy.db"), place.path("meter.db")).unwrap();
    used(400);
    run(&place, ENFORCE).ends(0);
    assert_eq!(states(&place), ["known|the books were restored: those that were lost knew of it|2"]);
    used(500);
    run(&place, ENFORCE).ends(0).says(&["2 notification(s) will be sent"]);
}
