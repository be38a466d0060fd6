//! Stories of meters and ignore rules: those of the file beside the built-in ones, and the rules
//! that `meter discover` prints for lines that nothing claims.

use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray};
use testkit::ingest_fixture::{self, Line, chime, columns, deliver, parquet_bytes};

use crate::support::{Ran, Workspace};

const MONTH: &str = "--month 2026-10";
const VERSION: &str = "2026-10-12T03:00:00.000Z-55555555-5555-4555-8555-555555555555";
const EXPORT: &str = "[[exports]]\nname = \"main\"\nlocation = \"bucket\"\n";

/// A line, and what a bill says of it: unit, operation, rate, description.
type Said = (Line, [&'static str; 4]);

fn line(product: &'static str, usage_type: &str, says: [&'static str; 4]) -> Said {
    (Line { product, usage_type: usage_type.into(), ..chime("ann", 10, 12.5) }, says)
}

/// Lines that no built-in rule claims, and one that a built-in one does.
fn lines() -> Vec<Said> {
    let call = ["Minutes", "CreateMeeting", "0.0017000000", "$0.0017 per attendee minute"];
    vec![
        line("AmazonChimeServices", "USE1-rooms-webrtc-minutes", call),
        line("AmazonChimeServices", "EUC1-rooms-webrtc-minutes", call),
        line("AmazonChimeServices", "USE1-replica-minutes", ["Minutes", "", "0.0017", "$0.0017 per replicated minute"]),
        line("AmazonChimeVoiceConnector", "USE1-US-inbound-minutes", ["Minutes", "", "0.002216", "call"]),
        line(
            "AmazonS3",
            "EU-EarlyDelete-ByteHrs",
            ["GB-Mo", "PutObject", "0.01", "early delete \u{1b}[2J\nof \"a\\b\""],
        ),
        line("AmazonS3", "EU-EarlyDelete-ByteHrs", ["", "", "", ""]),
        line("AmazonS3", "odd usage\u{202e}type", ["GB", "", "", ""]),
        line("AmazonS3", "Mixed", ["GB", "", "", ""]),
        line("AmazonS3", "Mixed", ["Requests", "", "", ""]),
        line("AmazonS3", "DataTransfer-Out-Bytes", ["GB", "GetObject", "0.09", ""]),
    ]
}

fn deliver_parquet(place: &Workspace, lines: &[Said]) {
    let plain: Vec<Line> = lines.iter().map(|(line, _)| line.clone()).collect();
    let text =
        |at: usize| -> ArrayRef { Arc::new(StringArray::from_iter_values(lines.iter().map(|(_, says)| says[at]))) };
    let mut columns = columns(&plain);
    columns.retain(|(name, _)| *name != "pricing_unit");
    let names = ["pricing_unit", "line_item_operation", "line_item_unblended_rate", "line_item_line_item_description"];
    columns.extend(names.into_iter().enumerate().map(|(at, name)| (name, text(at))));
    deliver(&place.path("bucket"), VERSION, &[("e-00001.snappy.parquet", parquet_bytes(columns))]);
}

/// The same bill as CSV, with the names of legacy bills.
fn deliver_csv(place: &Workspace, lines: &[Said]) {
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    let mut csv = "lineItem/ProductCode,lineItem/UsageType,lineItem/LineItemType,lineItem/UsageAmount,\
                   lineItem/UsageStartDate,pricing/unit,lineItem/Operation,lineItem/UnblendedRate,\
                   lineItem/LineItemDescription,resourceTags/user:chitchatter-customer-id\n"
        .to_owned();
    for (line, says) in lines {
        let [unit, operation, rate, description] = says.map(quoted);
        csv += &format!(
            "{},{},{},{},2026-10-10T00:00:00Z,{unit},{operation},{rate},{description},{}\n",
            line.product,
            quoted(&line.usage_type),
            line.line_type,
            line.amount,
            line.customer
        );
    }
    deliver(&place.path("bucket"), VERSION, &[("e-00001.csv", csv.into_bytes())]);
}

/// The output with each comment in one line.
fn unwrapped(ran: Ran) -> Ran {
    Ran { out: ran.out.replace("\n# ", " "), ..ran }
}

/// What is to be pasted: all of it, the meters, and the ignore rules.
fn pasted(ran: &Ran) -> [String; 3] {
    let (_, toml) = ran.out.split_once("To paste into your configuration file:\n").unwrap();
    let (meters, ignore) = toml.split_once("# Or to ignore them").unwrap();
    [toml.to_owned(), meters.to_owned(), format!("# {ignore}")]
}

fn write(place: &Workspace, text: &str) {
    std::fs::write(place.path("meter.toml"), text).unwrap();
}

#[test]
fn what_discover_prints_for_unclaimed_lines_claims_them_when_it_is_pasted() {
    let place = Workspace::new();
    deliver_parquet(&place, &lines());
    let found = place.run(&format!("discover {MONTH}")).ends(0).says(&[
        "no rule claims 6 kinds of line.",
        "name = \"chime_minutes\"",
        // the built-in ones stay
        "\"AttendeeMinutes\"",
        "\"rooms-webrtc-minutes\"",
        "name = \"chime_voice_connector_us_inbound_minutes\"",
        "name = \"s3_early_delete_byte_hrs\"\nunit = \"GB-Mo\"",
        "usage_types = [\"odd*usage*type\"]",
        "# No meter is proposed, because a meter counts in one unit.",
    ]);
    unwrapped(place.run(&format!("discover {MONTH}"))).says(&[
        "rate 0.0017000000; operation CreateMeeting; description $0.0017 per attendee minute They cost what attendee \
         minutes cost (0.0017 a minute), and may be those of calls. It takes the place of the built-in chime_minutes.",
    ]);
    let (_, calls) = found.out.split_once("name = \"chime_minutes\"").unwrap();
    let (calls, _) = calls.split_once("\n\n").unwrap();
    assert!(!calls.contains("replica"), "a price proposes, but not what its words call another charge: {calls}");
    assert!(!found.out.contains('\u{1b}'), "{}", found.out);
    let wide: Vec<&str> = found.out.lines().filter(|line| line.starts_with('#') && line.chars().count() > 80).collect();
    assert!(wide.is_empty(), "{wide:#?}");

    let [all, meters, ignore] = pasted(&found);
    for (text, counted) in [(&all, 8), (&meters, 6), (&ignore, 1)] {
        write(&place, &format!("{EXPORT}{text}"));
        place.run("config check").ends(0).says(&["the configuration is sound"]);
        let again = place.run(&format!("discover {MONTH} --json")).ends(0).json();
        let lines = again[0]["lines"].as_array().unwrap();
        let count = |claim: &str| lines.iter().filter(|line| line["claim"] == claim).count();
        let mixed = lines.iter().filter(|line| line["claim"] == "unrecognised");
        let mixed: Vec<&str> = mixed.filter_map(|line| line["usage_type"].as_str()).collect();
        match text == &meters {
            true => assert_eq!(mixed, ["Mixed", "Mixed"], "a meter counts in one unit"),
            false => assert!(mixed.is_empty(), "{mixed:?} of {lines:#?}"),
        }
        assert!(count("counted") >= counted, "{lines:#?}");
    }
    // with all of them, only what has no meter is ignored
    write(&place, &format!("{EXPORT}{all}"));
    place.run(&format!("ingest {MONTH}")).ends(0).says(&["booked"]);
    assert_eq!(place.query("SELECT sum(quantity) FROM booked_usage WHERE meter = 'chime_minutes'"), ["250000000000"]);
}

#[test]
fn csv_and_parquet_say_the_same_of_unclaimed_lines() {
    let unclaimed = |deliver: fn(&Workspace, &[Said])| {
        let place = Workspace::new();
        deliver(&place, &lines());
        let mut found = place.run(&format!("discover {MONTH} --json")).ends(0).json();
        found[0]["unclaimed"].take()
    };
    let found = unclaimed(deliver_parquet);
    assert_eq!(found, unclaimed(deliver_csv));
    let like: Vec<&str> = found
        .as_array()
        .unwrap()
        .iter()
        .filter(|group| group["like_attendee_minutes"] == true)
        .filter_map(|group| group["pattern"].as_str())
        .collect();
    assert_eq!(like, ["rooms-webrtc-minutes"]);
}

/// Many exports leave these columns out; then nothing looks like attendee minutes.
#[test]
fn a_bill_without_rates_is_discovered_all_the_same() {
    let place = Workspace::new();
    let lines: Vec<Line> = lines().into_iter().map(|(line, _)| line).collect();
    ingest_fixture::deliver_lines(&place.path("bucket"), VERSION, &lines);
    let found =
        place.run(&format!("discover {MONTH}")).ends(0).says(&["name = \"chime_services_rooms_webrtc_minutes\""]);
    assert!(!found.out.contains("attendee minutes cost"), "{}", found.out);
    // a description that cannot be read stops nothing, because it decides nothing
    let endless: &'static str = "x".repeat(70_000).leak();
    let (line, [unit, operation, rate, _]) = self::lines().remove(0);
    let damaged = Workspace::new();
    deliver_csv(&damaged, &[(line, [unit, operation, rate, endless])]);
    let without = damaged.run(&format!("discover {MONTH}")).ends(0).says(&["rooms-webrtc-minutes"]);
    assert!(!without.out.contains("attendee minutes cost"), "{}", without.out);

    let [all, ..] = pasted(&found);
    write(&place, &format!("{EXPORT}{all}"));
    let again = place.run(&format!("discover {MONTH}")).ends(0);
    assert!(!again.out.contains("unrecognised") && !again.out.contains("To paste"), "{}", again.out);
}

#[test]
fn a_meter_of_calls_that_the_file_has_is_proposed_with_what_it_has() {
    let place = Workspace::with(&format!(
        "{EXPORT}[[meters]]\nname = \"chime_minutes\"\nunit = \"hours\"\nproducts = [\"AmazonChime\"]\n\
         usage_types = [\"old-minutes\"]\nfactor = \"0.0166666667\"\n"
    ));
    deliver_parquet(&place, &lines());
    let found = place.run(&format!("discover {MONTH}")).ends(0).says(&[
        "[[meters]]\nname = \"chime_minutes\"\nunit = \"hours\"\nproducts = [\"AmazonChime\", \"AmazonChimeServices\"]\n\
         usage_types = [\"old-minutes\", \"rooms-webrtc-minutes\"]\nfactor = \"0.0166666667\"\n",
    ]);
    unwrapped(found).says(&["Put it in place of the [[meters]] named chime_minutes that your file has."]);
}

/// Guards against: one `[[meters]]` and one `[[ignore]]` left all of Chime and S3 unrecognised.
#[test]
fn rules_of_the_file_extend_the_built_in_ones_and_show_where_they_come_from() {
    let own = "[[meters]]\nname = \"early_delete\"\nunit = \"GB-Mo\"\nproducts = [\"AmazonS3\"]\n\
               usage_types = [\"EarlyDelete-*\"]\n[[meters]]\nname = \"transfer_gb\"\nunit = \"GB\"\n\
               products = [\"AmazonS3\"]\nusage_types = [\"DataTransfer-Out-*\"]\n\
               [[ignore]]\nproducts = [\"AmazonS3\"]\nusage_types = [\"TimedStorage-ByteHrs\", \"Monitoring-*\"]\n";
    let place = Workspace::with(&format!("{EXPORT}{own}"));
    place.run("config check").ends(0).says(&[
        "1 export(s), 4 meter(s)",
        "note: ignore[0] has no effect on `TimedStorage-ByteHrs`: meter `storage_gb` counts it, and a meter wins over an \
         ignore rule",
    ]);
    let shown = place.run("config show").ends(0).says(&[
        "# built in\n[[meters]]\nname = \"chime_minutes\"",
        "# built in\n[[meters]]\nname = \"storage_gb\"",
        "# from the file, in place of the built-in meter of this name\n[[meters]]\nname = \"transfer_gb\"",
        "# from the file\n[[meters]]\nname = \"early_delete\"",
        "# built in\n[[ignore]]",
        "# from the file\n[[ignore]]",
    ]);
    // what is shown is a configuration of the same rules
    std::fs::write(place.path("shown.toml"), &shown.out).unwrap();
    place.run("--config shown.toml config check").ends(0).says(&["4 meter(s)"]);

    write(&place, &format!("{EXPORT}{own}[rules]\nreplace_builtin = true\n"));
    place.run("config check").ends(0).says(&[
        "2 meter(s)",
        "note: rules.replace_builtin leaves out the built-in meters chime_minutes, storage_gb",
        "note: rules.replace_builtin leaves out the built-in ignore rules",
    ]);
    write(&place, &format!("{EXPORT}[rules]\nreplace_builtin = true\n"));
    place.run("config check").ends(2).says(&["meter.toml:5: rules.replace_builtin: nothing replaces them"]);
}

/// An upgrade gives a file with `[[meters]]` more rules: the bill is read anew, and the difference
/// is booked; with `replace_builtin` nothing changes.
#[test]
fn other_effective_rules_book_the_difference() {
    let own = "[[meters]]\nname = \"calls\"\nunit = \"minutes\"\nproducts = [\"AmazonChime*\"]\nusage_types = [\"*minutes\"]\n";
    let replaced = format!("{EXPORT}{own}[rules]\nreplace_builtin = true\n");
    let place = Workspace::with(&replaced);
    deliver_parquet(&place, &lines());
    place.run(&format!("ingest {MONTH}")).ends(0).says(&["booked"]);
    let meters = "SELECT group_concat(meter, ' ') FROM (SELECT DISTINCT meter FROM booked_usage ORDER BY meter)";
    assert_eq!(place.query(meters), ["calls"]);
    place.run(&format!("ingest {MONTH}")).ends(0).says(&["is booked already"]);

    write(&place, &format!("{EXPORT}{own}"));
    place.run(&format!("ingest {MONTH}")).says(&["booked"]);
    assert_eq!(place.query(meters), ["calls transfer_gb"]);
    place.run("verify").ends(0);
}
