//! The pages in a real browser: `tests/it/browser/check.mjs` looks at them in Chromium, on a desk
//! and on a phone, in light and in dark.

use std::path::Path;
use std::process::Command;

use crate::support::served::{Served, demo};
use crate::support::{Ran, meter, output, query};
use testkit::needs::{named, tool};

#[test]
fn pages_show_the_demo_in_a_browser() {
    let Some(playwright) = named("METER_TEST_PLAYWRIGHT", "folder of playwright-core") else { return };
    if !tool("node") || !tool("chromium") {
        return;
    }
    let (_folder, kept) = demo();
    let signed = ("METER_HTTP__STATEMENT_KEY", "a-key-of-this-test");
    let worker = Served::start(&kept, "", &[("METER_HTTP__TOKEN", "a-token-of-this-test"), signed]);
    worker.until_settled();
    let ask = |sql: &str| query(&kept.join("meter.db"), sql).remove(0);
    let grouped = |n: &str| match n.len() {
        0..=3 => n.to_owned(),
        len => format!("{},{}", &n[..len - 3], &n[len - 3..]),
    };
    let entries = grouped(&ask("SELECT count(*) FROM ledger_entries"));
    let pressed = ask("SELECT customer FROM entitlements WHERE allowed = 0 LIMIT 1");
    let expected = serde_json::to_string(&[
        entries.as_str(),
        pressed.as_str(),
        "chime_minutes",
        "storage_gb",
        "verify_books",
        "recognised by no meter",
    ]);
    let payer = ask("SELECT customer FROM billing_targets WHERE billable > 0 ORDER BY billable DESC LIMIT 1");
    let link = output(meter(&kept).args(["statement", &payer, "--link", "1"]).env(signed.0, signed.1));
    let link = Ran::from(link).ends(0).out.trim().to_owned();
    let more = serde_json::json!({ "customer": format!("/customers?id={payer}"), "statement": link });
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("screenshots");
    let mut node = Command::new("node");
    node.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/browser/check.mjs"))
        .env("PLAYWRIGHT_CORE", playwright)
        .env("BASE_URL", format!("http://127.0.0.1:{}", worker.port))
        .env("OUT", &out)
        .env("EXPECT", expected.unwrap())
        .env("MORE", more.to_string());
    Ran::from(output(&mut node)).ends(0);
    let forms = ["light", "dark", "narrow", "print"];
    let pages = ["status", "customer", "statement"];
    let names = pages.iter().flat_map(|page| forms.map(|form| format!("{page}-{form}.png")));
    for name in names.chain(["jobs.png".to_owned()]) {
        assert!(out.join(&name).metadata().unwrap().len() > 10_000, "{name}");
    }
    assert_eq!(worker.stop(), 0);
}
