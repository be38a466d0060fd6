//! A change of the books as a founder makes it: a month is read with another tag key, looked at,
//! applied, and taken back, through the binary.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use jiff::ToSpan;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::support::Workspace;
use crate::support::billing_fixture::{BillingFixture, KEY, config};

/// Lines of a bill: team and minutes. The customer's tag is on none of them.
type Lines<'a> = &'a [(&'a str, &'a str)];

/// A day of the open billing period, in a month that is the bill's.
fn day() -> Date {
    jiff::Timestamp::now().to_zoned(TimeZone::UTC).date().checked_sub(2.days()).unwrap()
}

fn month() -> String {
    day().strftime("%Y-%m").to_string()
}

/// Delivers a month as AWS does, with the tag `team` alone.
fn deliver(bucket: &Path, version: &str, lines: Lines<'_>) {
    let mut text = "line_item_product_code,line_item_usage_type,line_item_line_item_type,line_item_usage_amount,\
                    line_item_usage_start_date,pricing_unit,resourceTags/user:chitchatter-customer-id,resourceTags/user:team\n"
        .to_owned();
    for (team, minutes) in lines {
        let day = day();
        text += &format!("AmazonChime,USE1-Meetings-AttendeeMinutes,Usage,{minutes},{day}T00:00:00Z,minutes,,{team}\n");
    }
    let (data, folder) =
        (format!("e/data/BILLING_PERIOD={}", month()), format!("e/metadata/BILLING_PERIOD={}", month()));
    std::fs::create_dir_all(bucket.join(&data).join(version)).unwrap();
    std::fs::create_dir_all(bucket.join(&folder)).unwrap();
    std::fs::write(bucket.join(&data).join(version).join("1.csv"), text).unwrap();
    let manifest = serde_json::json!({
        "executionId": version,
        "exportArn": "arn:aws:bcm-data-exports:us-east-1:111122223333:export/e-1",
        "columns": [],
        "dataFiles": [format!("s3://b/{data}/{version}/1.csv")],
    });
    std::fs::write(bucket.join(folder).join("e-Manifest.json"), manifest.to_string()).unwrap();
}

const V1: &str = "11111111-1111-4111-8111-111111111111";
const V2: &str = "22222222-2222-4222-8222-222222222222";

/// Books where ann and bob used a lot, and nobody knows it: the tag key of the configuration is on
/// no line.
fn untagged() -> BillingFixture {
    let fixture = BillingFixture::open(&["ann", "bob"]);
    deliver(&fixture.place.path("bucket"), V1, &[("ann", "250"), ("ann", "50"), ("bob", "20"), ("", "7")]);
    fixture.run(&format!("ingest --month {}", month())).ends(0);
    fixture
}

/// The configuration with a tag key.
fn tag_key(fixture: &BillingFixture, key: &str) {
    let text = format!("tag_key = \"{key}\"\n{}", config(&fixture.stripe.url()));
    std::fs::write(fixture.place.path("meter.toml"), text).unwrap();
}

/// Each line has 80 columns at most, but for the cost on a remote database.
#[track_caller]
fn fits(out: &str) {
    let long = |line: &&str| line.chars().count() > 80 && !line.contains("requests to the database");
    assert_eq!(out.lines().find(long), None, "{out}");
}

const SUMS: &str = "SELECT customer || ' ' || meter || ' ' || day || ' ' || sum(quantity) FROM booked_usage \
                    GROUP BY customer, meter, day HAVING sum(quantity) <> 0 ORDER BY 1";

#[test]
fn a_founder_backfills_a_month_with_another_tag_looks_applies_and_reverts() {
    let fixture = untagged();
    let sums = || fixture.place.query(SUMS);
    let before = sums();
    assert_eq!(before.len(), 1, "{before:?}");
    fixture.run("run enforce-budgets").ends(0);
    tag_key(&fixture, "team");

    // look
    let looked = fixture.run(&format!("ingest --month {} --plan change.json", month())).ends(0);
    let looked = looked.says(&["ann", "+300 minutes", "0.90 USD", "+0.90 USD", "would be blocked, 1 meter:"]);
    let looked = looked.says(&["ann chime_minutes (", "nobody would be unblocked", "meter apply change.json --reason"]);
    fits(&looked.out);
    assert_eq!(sums(), before);
    let file = fixture.place.path("change.json");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(!text.contains(KEY) && !text.contains("sk_test") && !text.contains("bucket"), "{text}");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o077, 0, "it names customers");
    let plan: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(plan["effects"]["money"].as_array().unwrap().len(), 1);
    assert_eq!(
        fixture.run(&format!("ingest --month {} --plan again.json --json", month())).ends(0).json()["digest"],
        plan["digest"]
    );

    // apply
    let asked = fixture.run("apply change.json --reason wrong-tag").ends(2);
    assert!(asked.err.contains("nobody can be asked"), "{}", asked.err);
    fixture.run("apply change.json --reason wrong-tag --yes").ends(0).says(&["booked as change 1", "meter revert 1"]);
    fixture.run("verify").ends(0);
    fixture.run("apply change.json --reason wrong-tag --yes").ends(2).says(&["was applied as number 1 by"]);
    fixture.run("apply again.json --reason wrong-tag --yes").ends(2).says(&["was applied as number 1 by"]);
    fixture.run("run enforce-budgets").ends(0);
    let allowed = "SELECT customer || ' ' || allowed FROM entitlements WHERE meter = 'chime_minutes' ORDER BY 1";
    assert_eq!(fixture.place.query(allowed), ["ann 0", "bob 1"]);
    let bill = fixture.run("bill ann --json").ends(0).json();
    assert_eq!(bill["bills"][0]["amount"]["minor"], plan["effects"]["money"][0]["after_minor"]);
    fixture.run("push").ends(0);
    assert_eq!(fixture.invoiced("ann", "chime_milliminutes"), "200000");

    // take it back
    let reverted = fixture.run("revert 1 --reason it-was-right-before --yes").ends(0);
    let reverted =
        reverted.says(&["made for Stripe", "+200", "open", "AWS's next delivery books", "change 1 is reverted"]);
    let (_, after) = reverted.out.split_once("change 1 was applied").unwrap();
    fits(after.split("limits follow").next().unwrap());
    assert_eq!(sums(), before);
    fixture.run("verify").ends(0);
    fixture.run("run enforce-budgets").ends(0);
    assert_eq!(fixture.place.query(allowed), ["ann 1", "bob 1"]);
    fixture.run("push").ends(0);
    assert_eq!(fixture.invoiced("ann", "chime_milliminutes"), "0");
    fixture.run("verify").ends(0);

    // what is next
    let ingest = format!("ingest --month {}", month());
    fixture.run(&ingest).ends(0).says(&["was reverted, and is not booked again", "change 1"]);
    fixture.run("revert 1 --reason again --yes").ends(2).says(&["was reverted already by"]);
    fixture.run("revert 7 --reason again --yes").ends(2).says(&["there is no change 7; the newest is 1"]);
    let listed = fixture.run("changes").ends(0).says(&[&month(), "reverted", "wrong-tag"]);
    assert_eq!(listed.out.lines().count(), 2, "{}", listed.out);
    fixture.run("changes 1").ends(0).says(&[
        "wrong-tag",
        "it-was-right-before",
        "customers whose bills were to change: ann",
    ]);
    let shown = fixture.run("changes 1 --json").ends(0).json();
    assert_eq!(shown["booked"].as_array().unwrap().len(), 3, "{shown}");
    fixture.run("changes 2").ends(2).says(&["there is no change 2"]);
    tag_key(&fixture, "chitchatter-customer-id");
    fixture.run(&ingest).ends(0).says(&["is booked already"]);
    assert_eq!(sums(), before);
    fixture.judge();
}

#[test]
fn a_plan_that_moved_or_is_none_books_nothing() {
    let fixture = untagged();
    fixture.run(&format!("ingest --month {} --plan none.json", month())).ends(0).says(&["nothing would change"]);
    assert!(!fixture.place.path("none.json").exists());
    fixture.run("changes").ends(0).says(&["no plan was applied yet"]);
    fixture.run("apply none.json --reason x --yes").ends(2).says(&["it cannot be read", "nothing was booked"]);
    fixture.run("apply plans.toml --reason x --yes").ends(2).says(&["it is no plan of a change"]);
    fixture.run("revert 1 --reason x --yes").ends(2).says(&["none was applied"]);
    tag_key(&fixture, "team");
    let plan = format!("ingest --month {} --plan change.json", month());
    fixture.run(&plan).ends(0);
    fixture.run("apply change.json --yes --reason ").ends(2);
    let sums = fixture.place.query(SUMS);
    tag_key(&fixture, "chitchatter-customer-id");
    let moved = fixture.run("apply change.json --reason x --yes").ends(1);
    let moved = moved.says(&["nothing was booked", "the configuration of meters, tag keys", "Plan anew"]);
    assert!(!moved.out.contains("booked as"), "{}", moved.out);
    tag_key(&fixture, "team");
    deliver(&fixture.place.path("bucket"), V2, &[("ann", "301"), ("bob", "20"), ("", "7")]);
    fixture.run("apply change.json --reason x --yes").ends(1).says(&["AWS's newest version is 22222222"]);
    fixture.run("plan apply plans.toml").ends(0);
    assert_eq!(fixture.place.query(SUMS), sums);
    fixture.run(&plan).ends(0);
    // another budget is another state, as far as it changes who is blocked
    fixture.run("budget set ann 5").ends(0);
    fixture.run("apply change.json --reason x --yes").ends(1).says(&["who would be blocked or unblocked"]);
    assert_eq!(fixture.place.query(SUMS), sums);
    assert_eq!(fixture.place.query("SELECT count(*) FROM applied_plans"), ["0"]);
    let edited = std::fs::read_to_string(fixture.place.path("change.json")).unwrap().replace("301", "302");
    std::fs::write(fixture.place.path("change.json"), edited).unwrap();
    fixture.run("apply change.json --reason x --yes").ends(2).says(&["it was edited"]);
    fixture.run("verify").ends(0);
    fixture.judge();
}

/// Whoever applies a plan has looked at what would put the bill on hold.
#[test]
fn a_bill_that_would_be_held_is_accepted_by_its_plan() {
    let place = Workspace::with("tag_key = \"team\"\n[[exports]]\nname = \"main\"\nlocation = \"bucket\"\n");
    deliver(&place.path("bucket"), V1, &[("ann", "250"), ("bob", "200")]);
    let ingest = format!("ingest --month {}", month());
    place.run(&ingest).ends(0);
    deliver(&place.path("bucket"), V2, &[("ann", "10")]);
    let held = place.run(&format!("{ingest} --plan change.json")).ends(3);
    let held =
        held.says(&["would be put on hold: chime_minutes of the month", "likely causes: ", "who applies the plan"]);
    fits(&held.out);
    held.says(&["nothing is billed", "tags that are no customer's id"]);
    place.run("apply change.json --reason looked-at --yes").ends(0).says(&["booked as change 1"]);
    place.run("verify").ends(0);
    place.run("revert 1 --reason no --yes").ends(0).says(&["rests on the version before again"]);
    place.run("verify").ends(0);
    // the command that accepts a version on hold has a plan, too
    deliver(&place.path("bucket"), "33333333-3333-4333-8333-333333333333", &[("ann", "11")]);
    let held = place.run(&ingest).ends(3);
    let command = held.out.lines().find_map(|line| line.trim().strip_prefix("to accept it: meter ")).unwrap();
    let command = command.replace("\"why\"", "asked-AWS");
    place.run(&format!("{command} --plan change.json")).ends(0).says(&["accepted:", "-439 minutes"]);
    place.run("apply change.json --reason looked-at --yes").ends(0).says(&["booked as change 2"]);
    place.run("verify").ends(0);
}
