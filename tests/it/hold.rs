//! A version on hold, through the binary: what stops a bill, what it says, and who lets it through.

use crate::support::Workspace;
use testkit::ingest_fixture::{chime, deliver, deliver_lines};

const V1: &str = "11111111-1111-4111-8111-111111111111";
const V2: &str = "11111112-2222-4222-8222-222222222222";
const MONTH: &str = "--month 2026-10";
const USAGE: &str =
    "SELECT customer, sum(quantity) / 1e10 FROM booked_usage GROUP BY 1 HAVING sum(quantity) <> 0 ORDER BY 1";

fn workspace() -> Workspace {
    Workspace::with("[[exports]]\nname = \"main\"\nlocation = \"bucket\"\n")
}

/// The digest of what a version is on hold with, as scripts read it; empty when none is.
fn seen(place: &Workspace) -> String {
    if !place.path("meter.db").exists() {
        return String::new();
    }
    let versions = place.run("versions --json").json();
    let held = versions.as_array().unwrap().iter().find(|v| v["state"] == "on_hold");
    held.map_or(String::new(), |v| v["hold_digest"].as_str().unwrap().to_owned())
}

/// A bill with two good lines and `third`: product, usage type, amount, and both maps of tags.
fn bill(third: [&str; 5]) -> Vec<u8> {
    let own = |id: &str| format!("{{\"user_chitchatter_customer_id\":\"{id}\"}}");
    let (alice, bob) = (own("alice"), own("bob"));
    let mut text = "line_item_product_code,line_item_usage_type,line_item_line_item_type,line_item_usage_amount,\
        line_item_usage_start_date,line_item_resource_id,resource_tags,tags\n"
        .to_owned();
    let minutes = "Meetings-AttendeeMinutes";
    for [product, usage_type, amount, flat, tags] in
        [["AmazonChime", minutes, "10", &alice, "{}"], ["AmazonChime", minutes, "20", &bob, "{}"], third]
    {
        let quoted = |json: &str| format!("\"{}\"", json.replace('"', "\"\""));
        let (flat, tags) = (quoted(flat), quoted(tags));
        text += &format!("{product},{usage_type},Usage,{amount},2026-10-05T00:00:00Z,arn:aws:x:1,{flat},{tags}\n");
    }
    text.into_bytes()
}

/// The five bills of a public bug report: each has two good lines of two customers and a bad one.
#[test]
fn one_line_never_stops_the_month_of_everybody() {
    let chime = ["AmazonChime", "Meetings-AttendeeMinutes"];
    let requests = ["AmazonS3", "Requests-Tier1"];
    let bob = "{\"user_chitchatter_customer_id\":\"bob\"}";
    let two = "{\"user:chitchatter-customer-id\":\"bob\",\"user_chitchatter_customer_id\":\"Bob\"}";
    for (name, third, code, nobody) in [
        ("two columns", [chime[0], chime[1], "5", "{\"user_chitchatter_customer_id\":\"Bob\"}", bob], 3, "|5"),
        ("two spellings, counted", [chime[0], chime[1], "5", two, "{}"], 3, "|5"),
        ("two spellings", [requests[0], requests[1], "5", two, "{}"], 0, ""),
        ("negative", [chime[0], chime[1], "-5", bob, "{}"], 3, "bob|15"),
        (
            "control character",
            [requests[0], requests[1], "5", "{\"user_chitchatter_customer_id\":\"b\\tb\"}", "{}"],
            0,
            "",
        ),
    ] {
        let place = workspace();
        deliver(&place.path("bucket"), V1, &[("e-00001.csv", bill(third))]);
        let ran = place.run(&format!("ingest {MONTH}")).ends(code);
        place.run(&format!("discover {MONTH}")).ends(0).says(if code == 3 { &["faulty: 1 line of"] } else { &[] });
        if code == 3 {
            ran.says(&[
                "ON HOLD",
                "e-00001.csv, line 4, column ",
                "resource arn:aws:x:1",
                "to accept it: meter ingest",
            ]);
            assert!(place.query(USAGE).is_empty(), "{name}");
            let seen = seen(&place);
            place
                .run(&format!("ingest --accept {V1} --seen {seen} --reason seen"))
                .ends(0)
                .says(&["booked", "accepted: 1 line of"]);
        }
        let usage = place.query(USAGE);
        let mut want = vec!["alice|10", "bob|20"];
        match nobody {
            "" => {}
            "|5" => want.insert(0, nobody),
            changed => want[1] = changed,
        }
        assert_eq!(usage, want, "{name}");
        place.run("verify").ends(0);
    }
}

/// Hold, look, accept; the wrong version, changed files and a second acceptance change nothing.
#[test]
fn a_person_accepts_what_was_looked_at() {
    let place = workspace();
    let bucket = place.path("bucket");
    let lines = |third: f64| [chime("alice", 1, 10.0), chime("bob", 2, 20.0), chime("bob", 3, third)];
    let accept = |version: &str| match seen(&place) {
        seen if seen.is_empty() => format!("ingest --accept {version} --reason AWS-says-so"),
        seen => format!("ingest --accept {version} --seen {seen} --reason AWS-says-so"),
    };
    let unbooked = || assert!(place.query("SELECT customer FROM booked_usage").is_empty());
    deliver_lines(&bucket, V1, &lines(-1.0));
    place.run(&accept(V1)).ends(2).says(&["no version is on hold"]);
    place
        .run(&format!("ingest {MONTH} --dry-run"))
        .ends(3)
        .says(&["would be ON HOLD", "`meter ingest` puts it on hold first"]);
    place
        .run(&format!("ingest {MONTH}"))
        .ends(3)
        .says(&["a negative amount", "if it is accepted: negative amounts reduce"]);
    // discover shows the line, too
    let found = place.run(&format!("discover {MONTH} --json")).ends(0).json();
    assert_eq!((&found[0]["faults"][0]["kind"], &found[0]["faults"][0]["amount"]), (&"negative".into(), &"-1".into()));
    // the wrong version, and one that is not named well
    place.run(&accept("22222222")).ends(2).says(&["no version that begins with `22222222` is on hold; on hold: 1111"]);
    place.run(&accept("1111111")).ends(2).says(&["too short: give at least 8 characters"]);
    place.run(&format!("ingest --accept {V1}")).ends(2).says(&["--reason"]);
    unbooked();
    // files that were replaced under the same version
    deliver_lines(&bucket, V1, &lines(-7.0));
    place.run(&accept(V1)).ends(3).says(&["ON HOLD", "note: version 11111111-1111", "something else was found now"]);
    unbooked();
    // a newer delivery
    deliver_lines(&bucket, V2, &lines(-2.0));
    place.run(&accept(V1)).ends(3).says(&["ON HOLD", "but AWS has delivered version 11111112-2222"]);
    unbooked();
    let dry = place.run(&format!("{} --dry-run --json", accept("11111112"))).ends(0).json();
    assert_eq!(dry[0]["outcome"], "would_apply");
    unbooked();
    let report = place.run(&format!("{} --json", accept("11111112"))).ends(0).json();
    assert_eq!((&report[0]["outcome"], report[0]["hold_reasons"].as_array().unwrap().len()), (&"applied".into(), 0));
    assert_eq!(place.query(USAGE), ["alice|10", "bob|18"]);
    let acts = place.query("SELECT action, target, reason FROM audit_log");
    assert_eq!(acts, [format!("ingest --accept|version {V2} of default 2026-10|AWS-says-so")]);
    let accepted = place.query("SELECT accepted FROM bill_versions WHERE state = 'applied'");
    assert!(accepted[0].contains("(amount -2)"), "{accepted:?}");
    for version in [V2, "11111112"] {
        place.run(&accept(version)).ends(0).says(&["is booked already"]);
    }
    assert_eq!(place.query("SELECT count(*) FROM audit_log"), ["1"]);
    place.run("verify").ends(0);
}

/// A version belongs to its payer, whatever its export is called by now.
#[test]
fn a_version_is_accepted_under_the_new_name_of_its_export() {
    let place = workspace();
    deliver_lines(&place.path("bucket"), V1, &[chime("alice", 1, 10.0), chime("bob", 2, -2.0)]);
    let held = place.run(&format!("ingest {MONTH}")).ends(3);
    let accept = held.out.lines().find_map(|line| line.split_once("to accept it: meter ")).unwrap().1;
    let exports = |names: [(&str, &str); 2]| {
        let export =
            |(name, payer)| format!("[[exports]]\nname = \"{name}\"\npayer = \"{payer}\"\nlocation = \"bucket\"\n");
        std::fs::write(place.path("meter.toml"), names.map(export).concat()).unwrap();
    };
    // the old name is another payer's by now
    exports([("main", "other"), ("billing", "third")]);
    place.run(accept).ends(2).says(&["no version is on hold"]);
    exports([("main", "other"), ("billing", "default")]);
    place.run(&format!("{accept} --export main")).ends(2).says(&["no version is on hold"]);
    place.run(accept).ends(0).says(&["booked"]);
    assert_eq!(place.query(USAGE), ["alice|10", "bob|-2"]);
    assert_eq!(place.query("SELECT export, payer FROM bill_versions WHERE state = 'applied'"), ["billing|default"]);
    place.run(accept).ends(0).says(&["is booked already"]);
}

/// The reasons are the same, and the usage beside them is another one.
#[test]
fn a_person_accepts_no_usage_that_was_not_there() {
    let place = workspace();
    let deliver = |lines: [_; 3]| deliver_lines(&place.path("bucket"), V1, &lines);
    let command =
        |text: &str| text.lines().find_map(|line| line.split_once("to accept it: meter ")).unwrap().1.to_owned();
    let (bob, dan) = (chime("bob", 2, -5.0), chime("dan", 3, 1.0));
    deliver([chime("alice", 1, 10.0), bob.clone(), dan.clone()]);
    let looked_at = command(&place.run(&format!("ingest {MONTH}")).ends(3).out);
    for other in [chime("mallory", 1, 10.0), chime("alice", 1, 10.5), chime("alice", 4, 10.0)] {
        deliver([other, bob.clone(), dan.clone()]);
        place.run(&looked_at).ends(3).says(&["something else was found now than when it was put on hold"]);
        assert!(place.query(USAGE).is_empty());
        // put back, and looked at again: the same usage has the same name
        deliver([chime("alice", 1, 10.0), bob.clone(), dan.clone()]);
        assert_eq!(command(&place.run(&format!("ingest {MONTH}")).ends(3).out), looked_at);
    }
    place.run(&looked_at).ends(0).says(&["booked"]);
    assert_eq!(place.query(USAGE), ["alice|10", "bob|-5", "dan|1"]);
}

/// A tick reads the bill again between the look of a person and the acceptance.
#[test]
fn a_person_accepts_only_what_was_seen() {
    let place = workspace();
    let lines = |third: f64| [chime("alice", 1, 10.0), chime("bob", 2, third)];
    let command_of = |text: &str, before: &str| {
        text.lines().find_map(|line| line.split_once(before)).unwrap_or_else(|| panic!("{text}")).1.to_owned()
    };
    deliver_lines(&place.path("bucket"), V1, &lines(-1.0));
    let held = place.run(&format!("ingest {MONTH}")).ends(3);
    let looked_at = command_of(&held.out, "to accept it: meter ");
    deliver_lines(&place.path("bucket"), V1, &lines(-1000.0));
    place.run("run ingest-cur export=main month=2026-10").ends(3);
    let refused = place.run(&looked_at).ends(1);
    let said = ["ingest of main 2026-10 failed, nothing was booked", "than those that were seen (", "(amount -1000)"];
    said.iter().for_each(|words| assert!(refused.err.contains(words), "{words}: {}", refused.err));
    let now_there = command_of(&refused.err, "To accept that: meter ");
    assert_ne!(looked_at, now_there);
    place.run("versions").ends(3).says(&["(amount -1000)", &format!("to accept it: meter {now_there}")]);
    let short = place.run(&format!("ingest --accept {V1} --reason why")).ends(1);
    assert_eq!(command_of(&short.err, "To accept that: meter "), now_there);
    place.run("ingest --seen 12345678").ends(2).says(&["--accept"]);
    assert!(place.query(USAGE).is_empty());
    place.run(&now_there).ends(0).says(&["booked"]);
    assert_eq!(place.query(USAGE), ["alice|10", "bob|-1000"]);
    place.run("verify").ends(0);
}

/// Through the queue, and what becomes of a job that an older build has enqueued.
#[test]
fn an_acceptance_goes_through_the_queue() {
    let place = workspace();
    deliver_lines(&place.path("bucket"), V1, &[chime("alice", 1, 10.0), chime("bob", 2, -2.0)]);
    place.run(&format!("ingest {MONTH}")).ends(3);
    place
        .run("enqueue ingest-cur export=main month=2026-10 accept={\"version\":\"11111111\",\"actor\":\"ann\"}")
        .ends(2)
        .says(&["reason"]);
    // as an older build has enqueued it: it says what to do, and books nothing
    let payload = |seen: &str| {
        format!(
            "enqueue ingest-cur export=main month=2026-10 accept={{\"version\":\"11111111\",{seen}\"actor\":\"ann\",\"reason\":\"seen\"}}"
        )
    };
    place.run(&payload("")).ends(0);
    place.run("work --once --no-schedule").ends(1);
    assert!(place.query(USAGE).is_empty());
    let (seen, dead) = (seen(&place), place.query("SELECT seq FROM jobs WHERE state = 'dead'")[0].clone());
    place.run(&format!("jobs show {dead}")).ends(0).says(&["is not said (`seen`)", &format!("--seen {seen} --reason")]);
    place.run(&payload(&format!("\"seen\":\"{seen}\","))).ends(0);
    let old = "{\"export\":\"main\",\"month\":\"2026-10\",\"dry_run\":false,\"accept_restatement\":true}";
    place.run(&format!("enqueue ingest-cur --payload {old}")).ends(2).says(&["there is no `accept_restatement` here"]);
    place.run("work --once --no-schedule").ends(0);
    assert_eq!(place.query(USAGE), ["alice|10", "bob|-2"]);
    assert_eq!(place.query("SELECT actor, reason FROM audit_log"), ["ann|seen"]);
    // an older build wrote such a row: it is given up with the reason, and the next tick reads the
    // month
    place.run("enqueue ingest-cur export=main month=2026-09").ends(0);
    place.execute(&format!("UPDATE jobs SET payload = '{old}' WHERE state = 'pending'"));
    place.run("work --once --no-schedule").ends(1);
    let dead = &place.query("SELECT seq FROM jobs WHERE state = 'dead' ORDER BY seq DESC")[0];
    let words = ["the payload does not fit", "there is no `accept_restatement` here"];
    place.run(&format!("jobs show {dead}")).ends(0).says(&words);
}
