//! What is down, wrong or silent on the other side of a connection: each in one line, which says
//! what, at which address, by which setting, and what to do.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::support::billing_fixture::{BillingFixture, KEY, config};
use crate::support::served::free_port;
use crate::support::{Ran, Workspace};
use fake_stripe::Fault;

/// Characters of a line that a person reads to its end.
const LONGEST: usize = 250;

/// One line on standard error, with all of `words`, and nothing that only a programmer reads.
#[track_caller]
fn one_line(ran: Ran, code: i32, words: &[&str]) {
    plain(&the_line(ran, code, words));
}

/// One line on standard error, with all of `words`.
#[track_caller]
fn the_line(ran: Ran, code: i32, words: &[&str]) -> String {
    let ran = ran.ends(code);
    let lines: Vec<&str> = ran.err.lines().collect();
    assert_eq!(lines.len(), 1, "{}", ran.err);
    for word in words {
        assert!(lines[0].contains(word), "`{word}` is not in: {}", lines[0]);
    }
    lines[0].to_owned()
}

#[track_caller]
fn plain(line: &str) {
    assert!(line.chars().count() <= LONGEST, "{} characters: {line}", line.chars().count());
    for odd in ["os error", "Error(", "Err(", " { ", "source:", "kind:", "Some(", "dispatch", "error sending"] {
        assert!(!line.contains(odd), "`{odd}` in: {line}");
    }
}

/// A server that gives every request the same answer, or none ever.
fn server(answer: Option<String>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let mut silent = vec![];
        for mut stream in listener.incoming().flatten() {
            let Some(answer) = answer.clone() else {
                silent.push(stream);
                continue;
            };
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let (mut line, mut body) = (String::new(), 0);
                while reader.read_line(&mut line).is_ok_and(|n| n > 2) {
                    let length = line.to_ascii_lowercase();
                    body = length.strip_prefix("content-length: ").map_or(body, |n| n.trim().parse().unwrap());
                    line.clear();
                }
                drop(reader.take(body).read_to_end(&mut vec![]));
                drop(stream.write_all(answer.as_bytes()));
            });
        }
    });
    url
}

fn answer(head: &str, body: &str) -> Option<String> {
    Some(format!("HTTP/1.1 {head}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
}

/// An address at which nobody listens.
fn nobody() -> String {
    format!("http://127.0.0.1:{}", free_port())
}

const KEYS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE"), ("AWS_SECRET_ACCESS_KEY", "secret")];

fn bucket(endpoint: &str) -> Workspace {
    Workspace::with(&format!(
        "[[exports]]\nname = \"main\"\nlocation = \"s3://billing/cur\"\nendpoint = \"{endpoint}\"\nregion = \"us-east-1\"\n"
    ))
}

#[test]
fn a_bucket_that_cannot_be_reached_is_said_once() {
    let down = nobody();
    let place = bucket(&down);
    let words =
        ["s3://billing/cur/", &down, "Connection refused", "check the network", "`endpoint` of the export `main`"];
    let start = Instant::now();
    one_line(place.run_with("ingest --month 2026-10", &KEYS), 1, &words);
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    one_line(place.run_with("discover --month 2026-10", &KEYS), 1, &words);
    let doctor =
        place.run_with("doctor", &KEYS).ends(1).says(&words).says(&["WRONG  export main", "a run tries again"]);
    doctor.out.lines().for_each(plain);
    // no such host: what is said depends on the machine's resolver
    let place = bucket("http://s3.invalid");
    one_line(place.run_with("ingest --month 2026-10", &KEYS), 1, &["http://s3.invalid does not answer ("]);
}

#[test]
fn an_answer_of_s3_says_what_to_change() {
    let region = |named: &str| format!("301 Moved Permanently\r\nx-amz-bucket-region: {named}");
    let xml = |code: &str, message: &str| format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>");
    let moved = xml("PermanentRedirect", "The bucket must be addressed using the specified endpoint.");
    let wrong = xml("AuthorizationHeaderMalformed", "the region 'us-east-1' is wrong; expecting 'eu-central-1'");
    let elsewhere = ["s3://billing", "is in the region eu-central-1", "set `region` of the export `main`"].as_slice();
    let denied = xml("AccessDenied", "User: arn:aws:iam::1:user/meter is not authorized to perform: s3:ListBucket");
    let cases = [
        (answer(&region("eu-central-1"), &moved), elsewhere),
        (answer("400 Bad Request", &wrong), elsewhere),
        (answer("400 Bad Request\r\nx-amz-bucket-region: eu-central-1", ""), elsewhere),
        (
            answer("403 Forbidden\r\nx-amz-bucket-region: us-east-1", &denied),
            &["s3://billing/cur/: access denied", "check the credentials", "s3:ListBucket"],
        ),
        (
            answer("400 Bad Request\r\nx-amz-bucket-region: us-east-1", &xml("ExpiredToken", "It has expired.")),
            &["access denied (ExpiredToken", "check the credentials"],
        ),
        (answer("404 Not Found", &xml("NoSuchBucket", "No")), &["s3://billing: there is no such bucket", "location"]),
    ];
    for (answer, words) in cases {
        let place = bucket(&server(answer));
        one_line(place.run_with("ingest --month 2026-10", &KEYS), 1, words);
    }
    let place = bucket(&server(answer("200 OK", "")));
    one_line(
        place.run("ingest --month 2026-10"),
        1,
        &["s3://billing/cur/: no AWS credentials", "AWS_ACCESS_KEY_ID", "AWS_PROFILE", "role"],
    );
}

#[test]
fn stripe_that_is_down_or_silent_or_another_is_named_with_its_address() {
    let fixture = BillingFixture::open(&["ann"]);
    let url = fixture.stripe.url();
    let origin = url.trim_end_matches('/').to_owned();
    fixture.book("ann", "storage_gb", "2");
    let commands = ["stripe check", "push", "push --dry-run", "run sync-stripe full=true"];
    let all = |fault: Fault, words: &[&str]| {
        fixture.stripe.world().set_faults(move |_| Some(fault));
        commands.iter().for_each(|line| one_line(fixture.run(line), 1, words));
    };
    all(Fault::HangBefore, &["Stripe: no answer in time from", &origin, "check the network and stripe.url"]);
    all(Fault::Redirect, &["something that is not Stripe answered 302", &origin, "check stripe.url"]);
    all(Fault::HtmlBefore, &["something that is not Stripe answered 502", &origin, "check stripe.url"]);
    all(Fault::Unauthorized, &["Stripe answered 401", "set METER_STRIPE__KEY to a key that is valid"]);
    // Stripe's own words for it are long
    fixture.stripe.world().set_faults(|_| Some(Fault::Forbidden));
    let words = ["Stripe answered 403", "give the key of METER_STRIPE__KEY the permission"];
    commands.iter().for_each(|line| drop(the_line(fixture.run(line), 1, &words)));
    fixture.stripe.world().clear_faults();
    fixture.runtime.block_on(fixture.stripe.stop());
    let down = ["Stripe: no connection to", &origin, "Connection refused", "check the network and stripe.url"];
    commands.iter().for_each(|line| one_line(fixture.run(line), 1, &down));
    let doctor = fixture.run("doctor").says(&down).says(&["WRONG  Stripe"]);
    doctor.out.lines().filter(|line| line.contains("Stripe")).for_each(plain);
    fixture.runtime.block_on(fixture.stripe.resume()).unwrap();
    fixture.run("push --dry-run").ends(0).says(&["1 event would be sent, for 1 customer"]);
    fixture.run("push").ends(0).says(&["1 accepted"]);
}

/// A first address that never was Stripe's: nothing is known of the account.
#[test]
fn a_wrong_address_of_stripe_is_named() {
    let down = nobody();
    let place = Workspace::with(&config(&down));
    place.run("migrate").ends(0);
    let key = [("METER_STRIPE__KEY", KEY)];
    one_line(place.run_with("stripe setup --dry-run", &key), 1, &["Stripe: no connection to", &down, "stripe.url"]);
}

#[test]
fn a_database_that_cannot_be_reached_is_named_with_its_address() {
    let place = Workspace::new();
    let down = nobody();
    let words = ["no connection to", &down, "Connection refused", "nothing was changed", "database.url"];
    for line in ["usage", "status", "migrate", "ingest --month 2026-10", "push"] {
        one_line(place.run_with(line, &[("METER_DATABASE__URL", &down)]), 1, &words);
    }
    let doctor = place.run_with("doctor", &[("METER_DATABASE__URL", &down)]).ends(1).says(&words);
    doctor.out.lines().for_each(plain);
    let moved = server(answer("302 Found\r\nLocation: https://elsewhere/", ""));
    one_line(place.run_with("usage", &[("METER_DATABASE__URL", &moved)]), 1, &[&moved, "redirect", "database.url"]);
    let silent = server(None);
    let doctor = place.run_with("doctor", &[("METER_DATABASE__URL", &silent)]).ends(1);
    let line = doctor.out.lines().find(|line| line.starts_with("WRONG  database")).unwrap();
    assert!(line.contains(&format!("nothing from {silent} within 10 s")), "{line}");
    plain(line);
}

#[test]
fn a_receiver_that_cannot_be_reached_is_named_without_its_path() {
    let down = nobody();
    let place = Workspace::with(&format!("[notifications]\nurl = \"{down}/hook?key=hidden\"\n"));
    let run =
        |line: &str| place.run_with(line, &[("METER_NOTIFICATIONS__SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]);
    run("migrate").ends(0);
    run("customer add ann").ends(0);
    run("run enforce-budgets").ends(0);
    place.execute("UPDATE turn_periods SET used = 500");
    run("run enforce-budgets").ends(0);
    let why = format!("no connection to {down} (Connection refused)");
    one_line(run("run deliver-notifications"), 0, &[&why, "4 notifications", "are sent again", "notifications.url"]);
    let listed = run("notifications list").ends(0).says(&[&why]);
    assert!(!listed.out.contains("hidden"), "{}", listed.out);
}
