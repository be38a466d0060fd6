//! Stories of usage that nobody is billed for, and of bills that look wrong: `ingest`, `status` and
//! `doctor` say so, and name what may be meant.

use crate::support::{Ran, Workspace};

const OCTOBER: &str = "--month 2026-10";

/// A workspace with a bill of October whose tag is `chitchatter-customer-id`.
fn with_bill(lines: &str) -> Workspace {
    let place = Workspace::new();
    place.run(&format!("demo generate bucket {OCTOBER} --rows 2000")).ends(0);
    configure(&place, lines);
    place
}

fn configure(place: &Workspace, lines: &str) {
    let exports = "[[exports]]\nname = \"main\"\nlocation = \"bucket\"\n";
    std::fs::write(place.path("meter.toml"), format!("{lines}\n{exports}")).unwrap();
}

/// Says none of these words.
#[track_caller]
fn says_not(ran: &Ran, words: &[&str]) {
    for word in words {
        assert!(!ran.out.contains(word), "`{word}` is in:\n{}", ran.out);
    }
}

#[test]
fn a_mistyped_tag_key_is_said_until_it_is_right() {
    let place = with_bill("tag_key = \"chitchatter-customerid\"");
    let similar = "of the tag `chitchatter-customerid`; the bill has the similar `chitchatter_customer_id`";
    place.run(&format!("ingest {OCTOBER}")).ends(0).says(&[
        "note: no usage (",
        " counted lines) has a value ",
        similar,
    ]);
    let status = place.run("status");
    assert_ne!(status.code, 0, "{}", status.out);
    status.says(&["MeterUsageUntagged", similar, "write the right key into tag_key"]);
    place.run("doctor").says(&["bill of payer default, 2026-10", similar]);

    configure(&place, "tag_key = \"Chitchatter-Customer-ID\"");
    place.run(&format!("ingest {OCTOBER}")).ends(0).says(&["the bill has the similar `chitchatter_customer_id`"]);

    // renamed: the new key is in no bill yet
    configure(&place, "tag_keys = [\"customer\", \"Chitchatter.Customer-Id\"]");
    let booked = place.run(&format!("ingest {OCTOBER}")).ends(0).says(&["booked"]);
    says_not(&booked, &["no usage ("]);
    says_not(&place.run("status"), &["MeterUsageUntagged", "similar"]);
    let doctor = place.run("doctor").says(&["lines carry `customer` or `Chitchatter.Customer-Id`"]);
    says_not(&doctor, &["similar"]);
    let without = place.query("SELECT count(*) FROM booked_usage WHERE customer <> ''");
    assert_ne!(without, ["0"]);
    place.run("verify").ends(0);
}

#[test]
fn a_meter_whose_product_is_there_and_counts_nothing_is_said() {
    let meter = |name: &str, product: &str, usage_type: &str| {
        format!(
            "[[meters]]\nname = \"{name}\"\nunit = \"u\"\nproducts = [\"{product}\"]\nusage_types = [\"{usage_type}\"]\n"
        )
    };
    let place = with_bill("");
    let meters = [
        meter("chime_minutes", "AmazonChime*", "Meetings-Minutes"),
        meter("storage_gb", "AmazonS3", "TimedStorage-*ByteHrs"),
        meter("transfer_gb", "AmazonS3", "DataTransfer-Out"),
    ];
    configure(&place, "");
    let file = std::fs::read_to_string(place.path("meter.toml")).unwrap();
    std::fs::write(place.path("meter.toml"), file + &meters.concat()).unwrap();
    let words = [
        "meter chime_minutes counts nothing of Amazon",
        "; no other meter does",
        "meter transfer_gb counts nothing of AmazonS3",
    ];
    place.run(&format!("ingest {OCTOBER}")).ends(0).says(&words);
    place.run("status").says(&words).says(&["MeterCountsNothing: bill of payer default, 2026-10: meter chime_minutes"]);
    place.run("doctor").says(&words);
    says_not(&place.run("status"), &["MeterCountsNothing: bill of payer default, 2026-10: meter transfer_gb"]);
}

#[test]
fn faults_of_tag_keys_have_a_line() {
    for (lines, words) in [
        ("tag_key = \"a\"\ntag_keys = [\"b\"]", &["meter.toml:2: tag_keys: `tag_key` is set, too"][..]),
        (
            "tag_keys = [\"CostCenter\",\n\"x\", \"cost-center\"]",
            &["meter.toml:2: tag_keys[2]", "are one in AWS's names"],
        ),
        ("tag_keys = [\"--\"]", &["meter.toml:1: tag_keys[0]", "no letter and no digit"]),
        ("tag_key = \"\"", &["meter.toml:1: tag_key: `` is no tag key"]),
        ("tag_keys = \"x\"", &["meter.toml:1: tag_keys"]),
        ("[guard]\npast_growth_percent = 1001", &["meter.toml:2: guard.past_growth_percent: a share is 0 to 1000"]),
    ] {
        let place = Workspace::new();
        configure(&place, lines);
        place.run("config check").ends(2).says(words);
    }
    let place = Workspace::new();
    configure(&place, "tag_keys = [\"código-cliente\", \"client\"]");
    place.run("config check").ends(0);
    let shown = place.run("config show").ends(0).says(&["tag_keys = ["]);
    says_not(&shown, &["tag_key ="]);
    configure(&place, "");
    place.run("config show").ends(0).says(&["tag_key = \"chitchatter-customer-id\""]);
}
