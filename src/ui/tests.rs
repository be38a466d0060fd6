//! Promises about the pages, for all values.

use std::collections::BTreeMap;

use books::audit::stats::{
    BillStats, BooksStats, CustomerStats, DayUsage, Decisions, MonthNote, MonthUsage, NearLimit,
};
use books::forecast::backtest::{Backtest, RuleScore};
use books::forecast::model::MonthEnd;
use books::forecast::rule::ForecastRule;
use books::forecast::stored::{ForecastAccuracy, MeterForecast, UsageForecast};
use books::stripe::alarm::TargetAlarm;
use books::stripe::difference::Difference;
use books::units::quantity::Quantity;
use books::usage::bill::{BillNote, NoteKind};
use jiff::{SignedDuration, Timestamp};
use rust_decimal::Decimal;

use super::*;
use crate::health::{BillingMode, Finding, Overview, Severity};
use crate::queue::QueueStats;
use books::audit::checks::LastAudit;

const EVIL: &str = "<script>alert('1')</script>\"'&";

fn now() -> Timestamp {
    "2026-03-11T10:00:00Z".parse().unwrap()
}

fn q(text: &str) -> Quantity {
    text.parse().unwrap()
}

fn empty() -> Overview {
    Overview {
        billing: BillingMode::Live,
        notifications_go_out: true,
        operator_messages_go_out: true,
        at: now(),
        took: SignedDuration::ZERO,
        database: "books.db".into(),
        free_bytes: None,
        rows: None,
        rows_quota: Default::default(),
        books: BooksStats::default(),
        customers: CustomerStats::default(),
        customers_at: now(),
        queue: QueueStats::default(),
        share_bands: BTreeMap::from([("b".into(), 5)]),
        exports: vec![],
        audit: LastAudit::default(),
        findings: vec![],
    }
}

/// An overview in which every text that comes from outside is hostile.
fn hostile() -> Overview {
    let mut s = empty();
    let text = || EVIL.to_owned();
    s.database = text();
    s.books.bills.push(BillStats {
        payer: text(),
        month: text(),
        delivered_at: Some(now()),
        usage_through: Some(now()),
        rows: 10,
        counted_rows: 9,
        lines: [(text(), 1)].into(),
        notes: vec![MonthNote {
            month: text(),
            also: vec![text()],
            note: BillNote { kind: NoteKind::Untagged, text: text() },
        }],
        on_hold: 1,
        hold_reason: Some(text()),
    });
    s.books.month.push(MonthUsage { meter: text(), attributed: q("10"), unattributed: q("1"), days: 2 });
    s.books.days.push(DayUsage { day: "2026-03-09".into(), meter: text(), attributed: q("10"), unattributed: q("1") });
    s.books.stripe.some_alarms.push(TargetAlarm {
        customer: text(),
        meter: text(),
        difference: Difference::NoTotal { stripe_customer: text(), answer: text() },
    });
    s.customers.decisions.insert(text(), Decisions::default());
    s.customers.drift.insert(text(), q("1"));
    s.customers.deferred.insert(text(), 1);
    s.customers.near_limit.push(NearLimit {
        customer: text(),
        meter: text(),
        allowed: false,
        reason: text(),
        used: q("1"),
        used_measured: q("0.5"),
        limit: None,
        blocked_at: Some(now()),
    });
    s.queue.kinds.insert(text(), Default::default());
    s.queue.ticked_at.insert(text(), now());
    s.audit = LastAudit { at: Some(now()), violations: [(text(), 2)].into(), billing: vec![] };
    s.findings = vec![
        Finding { severity: Severity::Critical, alert: "MeterBooksBroken", subject: text(), what: text(), act: text() },
        Finding {
            severity: Severity::Warning,
            alert: "MeterBillStale",
            subject: String::new(),
            what: "no bill since 3 d".into(),
            act: "ask AWS".into(),
        },
    ];
    s
}

fn run() -> RunRow {
    RunRow {
        seq: 12,
        kind: EVIL.into(),
        state: JobState::Dead,
        what: EVIL.into(),
        attempts: 3,
        at: now(),
        took: Some(SignedDuration::from_millis(1500)),
        result: EVIL.into(),
        attention: true,
        can_retry: true,
        can_cancel: true,
    }
}

fn status_of(overview: &Overview, runs: &[RunRow], refresh_seconds: u32) -> String {
    let units = BTreeMap::from([("chime_minutes".to_owned(), "minutes".to_owned())]);
    status(
        &StatusView {
            overview,
            units: &units,
            names: &BTreeMap::new(),
            runs,
            no_runs: None,
            version: "0.1.0",
            billing: "dry run",
            refresh_seconds,
        },
        now(),
    )
}

fn list_of(runs: &[RunRow], can_act: bool) -> String {
    let filter = JobsFilter { kind: Some(EVIL.into()), state: Some("dead".into()), text: Some(EVIL.into()) };
    let list = JobList {
        runs,
        filter: &filter,
        kinds: &[EVIL.into()],
        counts: &BTreeMap::from([(JobState::Dead, 7)]),
        older: Some(12),
        is_first: false,
        can_act,
        done: Some(EVIL),
    };
    jobs(&list, now())
}

fn a_report(customer: Option<&str>) -> UsageReport {
    UsageReport {
        customer: customer.map(str::to_owned),
        month: "2026-03".into(),
        made_at: now(),
        version: "0.1.0".into(),
        as_of: Some(now()),
        meters: vec![MeterReport {
            meter: EVIL.into(),
            unit: "minutes".into(),
            total: q("1234.5"),
            unattributed: Some(q("0.5")),
            days: vec![("2026-03-01".into(), q("1200")), ("2026-03-02".into(), q("34.5"))],
            customers: vec![(EVIL.into(), q("1234")), (String::new(), q("0.5"))],
            notes: vec![EVIL.into()],
        }],
    }
}

fn all_pages() -> Vec<(&'static str, String)> {
    let details =
        vec![("payload".to_owned(), format!("{{\n  \"a\": \"{EVIL}\"\n}}")), (EVIL.to_owned(), EVIL.to_owned())];
    let failed =
        [FailedRun { attempt: 2, worker: EVIL.into(), started_at: Some(now()), failed_at: now(), reason: EVIL.into() }];
    let run_of_page = run();
    let page = |can_act| JobPage { run: &run_of_page, details: &details, failed: &failed, can_act };
    vec![
        ("status", status_of(&hostile(), &[run()], 60)),
        ("empty status", status_of(&empty(), &[], 0)),
        ("jobs", list_of(&[run()], true)),
        ("no jobs", list_of(&[], false)),
        ("job", job(&page(true), now())),
        ("read-only job", job(&page(false), now())),
        ("report", report(&a_report(Some(EVIL)))),
        ("report of all", report(&a_report(None))),
        ("runbook", runbook(&format!("# Runbook\n\n{EVIL}\n\n<img src=x>\n\n## {EVIL}\n"))),
        ("not found", not_found()),
        ("refused", refused(EVIL)),
    ]
}

#[test]
fn nothing_from_outside_becomes_markup_and_nothing_is_fetched() {
    for (name, page) in all_pages() {
        for banned in
            ["<script", "http://", "https://", "javascript:", " onclick", " onload", "src=", "@import", "url("]
        {
            let text = page.replace("&lt;img src=x&gt;", "");
            assert!(!text.contains(banned), "{name} contains {banned}");
        }
        assert!(page.starts_with("<!DOCTYPE html>"), "{name}");
        assert_eq!(page.matches("<h1").count(), 1, "{name} has one heading of the first level");
        assert_eq!(page.matches("<main").count(), 1, "{name}");
        assert!(page.contains("<title>"), "{name}");
    }
}

#[test]
fn no_id_is_given_twice() {
    for (name, page) in all_pages() {
        let mut ids: Vec<&str> = page.split(" id=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        let all = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), all, "{name}: {ids:?}");
    }
}

#[test]
fn every_finding_is_shown_and_leads_to_its_place_in_the_runbook() {
    let page = status_of(&hostile(), &[], 0);
    assert!(page.contains("Something is wrong, and 1 more needs attention"));
    assert!(page.contains("no bill since 3 d") && page.contains("ask AWS"));
    assert!(page.contains("href=\"/runbook#meterbillstale\"") && page.contains("href=\"/runbook#meterbooksbroken\""));
}

#[test]
fn a_status_without_findings_says_that_all_is_well_unless_it_is_old() {
    let mut overview = empty();
    assert!(status_of(&overview, &[], 0).contains("<h1>All is well</h1>"));
    overview.at = now() - SignedDuration::from_hours(1);
    let old = status_of(&overview, &[], 0);
    assert!(!old.contains("All is well") && old.contains("These figures are old"));
}

#[test]
fn figures_are_shown_though_the_runs_cannot_be_read() {
    let (overview, units) = (hostile(), BTreeMap::new());
    let view = StatusView {
        overview: &overview,
        units: &units,
        names: &BTreeMap::new(),
        runs: &[],
        no_runs: Some("the database does not answer <"),
        version: "0.1.0",
        billing: "dry run",
        refresh_seconds: 0,
    };
    let page = status(&view, now());
    assert!(
        page.contains("Something is wrong") && page.contains("They cannot be read: the database does not answer &lt;")
    );
    assert!(!page.contains("No job has run yet"));
}

#[test]
fn an_empty_status_says_what_to_do() {
    let page = status_of(&empty(), &[], 0);
    for text in ["No bill is booked yet", "meter ingest", "No job has run yet", "Nothing is decided yet", "never"] {
        assert!(page.contains(text), "{text}");
    }
    assert!(!page.contains("http-equiv"));
    assert!(status_of(&empty(), &[], 60).contains("<meta http-equiv=\"refresh\" content=\"60\">"));
}

#[test]
fn figures_are_exact_and_the_forecast_names_its_rule_and_error() {
    let mut overview = empty();
    let (meter, day) = ("chime_minutes".to_owned(), "2026-03-09".to_owned());
    let (attributed, unattributed) = (q("1234.0000000001"), q("5.5"));
    overview.books.month.push(MonthUsage { meter: meter.clone(), attributed, unattributed, days: 10 });
    overview.books.days.push(DayUsage { day, meter, attributed, unattributed });
    let page = status_of(&overview, &[], 0);
    for text in ["1,239.5000000001", "1,234.0000000001", "minutes in 10 days of March", "0.4\u{a0}%"] {
        assert!(page.contains(text), "{text}");
    }
    assert!(!page.contains("By the end of"), "nothing was forecast");
    overview.books.forecasts.push(meter_forecast("chime_minutes"));
    let page = status_of(&overview, &[], 0);
    let says = "By the end of March: about 3,842 (P50), and in nine of ten months no more than 4,100 (P90). \
                Rule: same pace; its error in past months was 4.5 %.";
    assert!(page.contains(says), "{page}");
    overview.books.forecasts[0].forecast.p90 = None;
    overview.books.forecasts[0].accuracy.as_a_whole.scores.clear();
    let page = status_of(&overview, &[], 0);
    let says = "By the end of March: about 3,842 (P50). Rule: same pace; no past month could be tried yet.";
    assert!(page.contains(says), "{page}");
}

/// A forecast of March by a naive rule.
fn meter_forecast(meter: &str) -> MeterForecast {
    let score = RuleScore {
        rule: ForecastRule::SamePace,
        forecasts: 9,
        error: Some(Decimal::new(454, 4)),
        bounded: 9,
        coverage: Some(Decimal::new(9, 1)),
    };
    let tried = Backtest { scores: vec![score], used: ForecastRule::SamePace, months: vec![] };
    let end = MonthEnd { p50: q("3842.4"), p90: Some(q("4100")) };
    MeterForecast {
        forecast: UsageForecast::new("", meter, "2026-03".parse().unwrap(), (q("1239.5"), end)),
        accuracy: ForecastAccuracy {
            meter: meter.into(),
            settled_through: "2026-03-09".parse().unwrap(),
            sampled: 1,
            customers: 1,
            by_customer: tried.clone(),
            as_a_whole: tried,
        },
        at: "2026-03-10T05:20:00Z".parse().unwrap(),
    }
}

#[test]
fn a_customer_near_a_limit_is_shown_with_the_instant_at_which_it_is_reached() {
    let mut overview = empty();
    let near = NearLimit {
        customer: "ann".into(),
        meter: "chime_minutes".into(),
        allowed: true,
        reason: "within_budget".into(),
        used: q("990"),
        used_measured: q("990"),
        limit: Some(q("1000")),
        blocked_at: Some("2026-03-11T10:03:20Z".parse().unwrap()),
    };
    overview.customers.near_limit.push(NearLimit { blocked_at: None, ..near.clone() });
    let said = "at the present level the limit is reached at 10:03:20 UTC";
    assert!(!status_of(&overview, &[], 0).contains("at the present level"));
    overview.customers.near_limit.push(near);
    assert_eq!(status_of(&overview, &[], 0).matches(said).count(), 1);
}

#[test]
fn buttons_are_there_only_when_one_may_act() {
    let can_act = list_of(&[run()], true);
    assert!(can_act.contains("formaction=\"/jobs/12/retry\"") && can_act.contains("formaction=\"/jobs/12/cancel\""));
    assert_eq!(can_act.matches("type=\"password\"").count(), 1);
    let first_button = can_act.split("method=\"post\"").nth(1).and_then(|form| form.split("<button").nth(1)).unwrap();
    assert!(first_button.split('>').next().unwrap().contains("disabled"), "the Enter key would act on a job");
    let looking = list_of(&[run()], false);
    assert!(!looking.contains("formaction") && looking.contains("METER_HTTP__TOKEN"));
    let done = RunRow { can_retry: false, can_cancel: false, ..run() };
    let page = JobPage { run: &done, details: &[], failed: &[], can_act: true };
    assert!(!job(&page, now()).contains("password"));
}

#[test]
fn headings_of_the_runbook_can_be_linked_to() {
    let page = runbook(
        "# Runbook\n\n### MeterBillStale\n\n## When `it` happens, again\n\n### MeterBillStale\n\n# Second\n\n\
         [doc](docs/stripe.md) [up](../README.md#x) [here](#meterbillstale) [site](https://example.org/a.md) [x](javascript:alert(1))\n\n\
         | a | b |\n|---|---|\n| 1 | 2 |\n",
    );
    for text in [
        "<h3 id=\"meterbillstale\">MeterBillStale</h3>",
        "<h2 id=\"when-it-happens-again\">",
        "<h3 id=\"meterbillstale-1\">",
        "<h2 id=\"second\">Second</h2>",
        "<p>doc up <a href=\"#meterbillstale\">here</a> <a href=\"https://example.org/a.md\">site</a> x</p>",
        "tabindex=\"0\"><table>",
    ] {
        assert!(page.contains(text), "{text} in {page}");
    }
    assert!(runbook("no title").contains("<h1>Runbook</h1>"));
}

#[test]
fn a_report_shows_its_figures_and_stands_alone() {
    let all = report(&a_report(None));
    for text in
        ["Usage in March 2026", "1,234.5", "34.5", "99.9\u{a0}%", "(no customer tag)", "2026-03-11 10:00:00 UTC"]
    {
        assert!(all.contains(text), "{text}");
    }
    assert!(!all.contains("href=\"/"), "a saved report links to no server");
    assert!(
        report(&UsageReport { meters: vec![], ..a_report(Some("acme")) }).contains("Nothing is booked in March 2026")
    );
}

#[test]
fn words_are_those_of_the_command_line() {
    assert_eq!(format::count(1_234_567), "1,234,567");
    assert_eq!(format::quantity(q("-1234.5")), "-1,234.5");
    assert_eq!(format::bytes(1_450_000_000), "1.4 GB");
    assert_eq!(format::share(q("999.9"), q("1000")), Some("99.9\u{a0}%".into()));
    assert_eq!(format::share(q("0.0001"), q("1000")), Some("below 0.1\u{a0}%".into()));
    assert_eq!(format::share(q("1"), q("0")), None);
    assert_eq!(format::about(q("1234.56")), "1,235");
    assert_eq!(format::about(q("12.34")), "12.3");
    assert_eq!(format::about(q("0.123456")), "0.1235");
    assert_eq!(format::span(SignedDuration::from_hours(5)), "5 h");
    assert_eq!(format::took(SignedDuration::from_millis(4340)), "4.3 s");
    assert_eq!(format::prose("run `a < b`, then `c").into_string(), "run <code>a &lt; b</code>, then `c");
}
