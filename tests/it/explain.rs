//! A charge explained through the binary: from the invoice down to the lines of the bill, and what
//! is said when they differ or are gone.

use std::collections::BTreeMap;

use books::units::calendar::Day;
use books::units::quantity::Quantity;
use jiff::{SignedDuration, Timestamp};

use crate::support::Workspace;
use crate::support::billing_fixture::BillingFixture;

/// The day so many days ago.
fn ago(days: i64) -> Day {
    let at = Timestamp::now() - SignedDuration::from_hours(24 * days);
    at.strftime("%F").to_string().parse().unwrap()
}

struct Line {
    day: Day,
    hour: u8,
    customer: &'static str,
    minutes: &'static str,
    line_type: &'static str,
}

fn used(days: i64, hour: u8, customer: &'static str, minutes: &'static str) -> Line {
    Line { day: ago(days), hour, customer, minutes, line_type: "Usage" }
}

/// Delivers lines as CSV, each with the bill of its month, and books them.
fn book(place: &Workspace, version: &str, lines: &[Line]) {
    let mut months: BTreeMap<String, String> = BTreeMap::new();
    for (n, Line { day, hour, customer, minutes, line_type }) in lines.iter().enumerate() {
        let text = months.entry(day.month().to_string()).or_insert_with(|| {
            "line_item_product_code,line_item_usage_type,line_item_line_item_type,line_item_usage_amount,\
             line_item_usage_start_date,line_item_resource_id,pricing_unit,resource_tags_user_chitchatter_customer_id\n"
                .to_owned()
        });
        *text += &format!(
            "AmazonChime,USE1-Meetings-AttendeeMinutes,{line_type},{minutes},{day}T{hour:02}:00:00Z,meeting-{n},minutes,{customer}\n"
        );
    }
    for (month, text) in months {
        let period = format!("BILLING_PERIOD={month}");
        let file = format!("e/data/{period}/{version}/e-1.csv");
        std::fs::create_dir_all(place.path("bucket").join(&file).parent().unwrap()).unwrap();
        std::fs::write(place.path("bucket").join(&file), text).unwrap();
        let folder = place.path("bucket").join("e/metadata").join(&period);
        std::fs::create_dir_all(&folder).unwrap();
        let manifest = serde_json::json!({
            "executionId": version, "exportArn": "arn:aws:bcm-data-exports:us-east-1:111122223333:export/e-1",
            "columns": [], "dataFiles": [format!("s3://b/{file}")],
        });
        std::fs::write(folder.join("e-Manifest.json"), manifest.to_string()).unwrap();
        place.run(&format!("ingest --month {month}")).ends(0).says(&["booked"]);
    }
}

fn data_files(place: &Workspace) -> Vec<std::path::PathBuf> {
    let mut found = vec![];
    let mut folders = vec![place.path("bucket/e/data")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found
}

#[test]
fn a_charge_is_explained_from_the_invoice_down_to_the_lines_of_the_bill() {
    let fixture = BillingFixture::open(&["ann"]);
    let place = &fixture.place;
    let lines = || {
        vec![
            used(3, 4, "ann", "300.25"),
            used(1, 0, "ann", "40.125"),
            used(1, 23, "ann", "9.875"),
            Line { line_type: "Credit", ..used(1, 1, "ann", "77") },
            used(1, 2, "bea", "500"),
        ]
    };
    book(place, "v1", &lines());
    fixture.run("push").ends(0).says(&["1 accepted"]);
    let yesterday = ago(1);
    let said = fixture.run("explain ann --lines").ends(0).says(&[
        "ann: billing period ",
        "subscription sub_ann",
        "chime_minutes: 350.25 minutes booked",
        "plan      `pro` includes 100 minutes a month; each further one costs 0.0045 USD",
        "usage     booked 350.25 = 100 in the plan + 250.25 billed",
        "target    (350.25 used - 100 in the plan) × 1000 = 250,250 chime_milliminutes at Stripe",
        "worth     1.13 USD billed",
        "accepted",
        "meeting-0",
        "e-1.csv, line 3",
        "read again from 1 file",
    ]);
    assert_eq!(said.out.matches(" equal").count(), 2, "{}", said.out);
    assert!(!said.out.contains("meeting-3") && !said.out.contains("meeting-4"), "{}", said.out);
    assert!(!said.out.contains("storage_gb"), "a meter without usage is left out: {}", said.out);
    // nothing is read that was not asked for
    let said = fixture.run("explain ann --meter chime_minutes").ends(0);
    assert!(!said.out.contains("meeting-") && said.out.contains("version of the bill"), "{}", said.out);

    // AWS restates: what is booked is corrected, and so is what was sent
    let mut restated = lines();
    restated[0].minutes = "200.25";
    book(place, "v2", &restated);
    fixture.run("push").ends(0).says(&["1 accepted"]);
    fixture.run("explain ann --lines").ends(0).says(&[
        "correction",
        "-100000",
        "-100 ",
        "adjustment",
        "newest",
        "150,250",
    ]);
    let json = fixture.run("explain ann --lines --json").ends(0).json();
    let one = &json[0];
    let meter = &one["meters"][0];
    assert_eq!((one["customer"].as_str(), meter["booked"].as_str()), (Some("ann"), Some("250.25")));
    let charge = &meter["charge"];
    assert_eq!((&charge["compared"]["target"], charge["per_unit"].as_str()), (&150_250.into(), Some("1000")));
    assert_eq!((charge["terms"]["included"].as_str(), charge["events"].as_array().unwrap().len()), (Some("100"), 2));
    let days = meter["days"].as_array().unwrap();
    assert_eq!(days.len(), 2);
    assert!(days.iter().all(|day| day["difference"] == "0" && day["quantity"] == day["booked"]), "{days:?}");
    let bills = one["bills"].as_array().unwrap();
    assert!(bills.iter().any(|bill| bill["is_current"] == false && bill["found"].is_null()), "{bills:?}");
    let newest: Vec<_> = bills.iter().filter(|bill| bill["is_current"] == true).collect();
    assert!(newest.iter().all(|bill| bill["found"]["row_groups"] == 0 && bill["files"].as_array().unwrap().len() == 1));

    // one table, in which the lines of a day make its entries
    let csv = fixture.run("explain ann --lines --csv").ends(0).out;
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    let mut sums: BTreeMap<(String, String), Quantity> = BTreeMap::new();
    for row in reader.deserialize::<BTreeMap<String, String>>() {
        let row = row.unwrap();
        *sums.entry((row["what"].clone(), row["day"].clone())).or_default() += row["quantity"].parse().unwrap();
        assert_eq!((row.len(), row["customer"].as_str()), (18, "ann"));
    }
    let of = |what: &str, day: Day| sums[&(what.to_owned(), day.to_string())].to_string();
    assert_eq!((of("entry", yesterday), of("line", yesterday)), ("50".into(), "50".into()));
    assert_eq!((of("entry", ago(3)), of("line", ago(3))), ("200.25".into(), "200.25".into()));

    // one day, and the period by its day
    let day = format!("explain ann --meter chime_minutes --day {yesterday} --lines");
    let said = fixture.run(&day).ends(0).says(&["chime_minutes: 50 minutes booked", "meeting-2"]);
    assert!(!said.out.contains("meeting-0") && !said.out.contains("target"), "{}", said.out);
    let begins = one["period"]["first_day"].as_str().unwrap();
    fixture.run(&format!("explain ann --period {begins}")).ends(0).says(&["250.25 minutes booked"]);
    fixture.run(&format!("explain ann --period {}", &begins[..7])).ends(0).says(&["250.25 minutes booked"]);

    // a decision names its days and its bill
    fixture.run("run enforce-budgets").ends(0);
    fixture.run("explain-entitlement ann chime_minutes").ends(0).says(&[
        "used so far",
        "250.25",
        "v2 of default",
        &format!("`meter explain ann --meter chime_minutes --period {begins} --lines`"),
    ]);

    // other lines than those that were booked, in a file of the same length
    for file in data_files(place) {
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replace("40.125", "41.125")).unwrap();
    }
    fixture.run("explain ann --lines").ends(3).says(&["DIFFERENT by -1", "have another time", "equal"]);
    data_files(place).into_iter().for_each(|file| std::fs::remove_file(file).unwrap());
    let said = fixture.run("explain ann --lines").ends(0);
    let said = said.says(&["its lines cannot be read any more", "e-1.csv is gone", "+300.25", "-100"]);
    assert!(!said.out.contains(" equal"), "{}", said.out);
    fixture.judge();
}

#[test]
fn what_waits_is_explained_with_its_reason() {
    let fixture = BillingFixture::open(&[]);
    let month = ago(1).month();
    fixture.run("customer add ben --plan pro").ends(0);
    book(&fixture.place, "v1", &[used(1, 5, "ben", "160"), used(1, 5, "zed", "1")]);
    fixture.run("run roll-periods").ends(0);
    fixture.run("push");
    fixture.run(&format!("explain ben --period {month} --lines")).ends(0).says(&[
        "no subscription",
        "booked 160 = 100 in the plan + 60 waiting",
        "(160 used - 100 in the plan) × 1000 = 60,000",
        "deferred 60000: no_stripe_customer",
        "which means: the customer has no Stripe id (customers.stripe_customer_id)",
        " equal",
    ]);
    // usage under an id without a row has no period, and each of its days can be explained
    fixture.run("explain zed").ends(2).says(&["`zed` has no billing period that has begun; `--meter NAME --day"]);
    fixture.run(&format!("explain zed --meter chime_minutes --day {} --lines", ago(1))).ends(0).says(&[" equal"]);
}

#[test]
fn what_cannot_be_explained_is_bad_usage() {
    let place = Workspace::new();
    place.run("migrate").ends(0);
    place.run("customer add ann").ends(0);
    for (line, why) in [
        ("explain ann --period 1999-02", "no billing period of `ann` begins then; the newest begin on 2"),
        ("explain ann --period 1999-02-03", "no billing period of `ann` begins then"),
        ("explain ann --period soon", "no month like 2026-11 and no day like 2026-11-03"),
        ("explain ann --meter minutes", "there is no meter `minutes`; did you mean `chime_minutes`?"),
        ("explain ann --day 2026-01-01", "--meter <NAME>"),
        ("explain ann --meter chime_minutes --day 2999-01-01", "2999-01-01 is not over"),
        ("explain ann --json --csv", "cannot be used with"),
        ("explain ann chime_minutes 2026-01-01", "unexpected argument"),
    ] {
        let ran = place.run(line).ends(2).says(&[why]);
        assert!(ran.out.is_empty() || line.contains("--json"), "{line}: {}", ran.out);
    }
    place
        .run("explain ann")
        .ends(0)
        .says(&["ann: billing period", "nothing was used in it, so there is nothing to explain"]);
    place.run("explain ann --csv").ends(0).says(&["what,customer,meter,day,kind,quantity,"]);
}
