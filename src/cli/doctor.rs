//! `meter doctor`: checks everything that a worker depends on, with a remedy for each problem.

mod shared_buckets;

use std::time::Duration;

use books::audit::stats::{BillStats, TaggedLines};
use books::units::calendar::Month;
use books::usage::bill::NoteKind;
use books::usage::months::{Found, KnownMonth, Months, PayerMonths};
use books::{BooksError, Database, newest_schema_version};
use clap::Args as ClapArgs;
use jiff::{SignedDuration, Timestamp};
use jobs::context::Export;
use jobs::ingest_cur::export::{ExportError, find, newest};
use jobs::ingest_cur::look;
use jobs::stripe::check::{AccountObjects, CheckLine, check, check_unbilled};
use jobs::stripe::preconditions::check_clock;
use jobs::stripe::transport::CallFailure;
use jobs::stripe::{BillingSettings, RemoteMeter, StripeAccount, StripeMode};

use super::check_config;
use super::checks::{Check, Checks, Verdict, remedy};
use crate::config::Config;
use crate::exit::Exit;
use crate::format::{ago, span};
use crate::health::{BILL_STALE, LITTLE_SPACE, MADE_BY_DEMO, act_on, gaps};
use crate::print;
use crate::{http, wiring};

/// The largest tolerated difference to other clocks.
const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_secs(60);
/// A remote database has this long to answer.
const ANSWER: Duration = Duration::from_secs(10);

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    let mut checks = Checks::default();
    // the configuration was checked before this command began
    let (exports, meters) = (config.exports.len(), config.meters.len());
    checks.ok("configuration", format!("sound: {exports} export(s), {meters} meter(s)"));
    let books = database(config, now, &mut checks).await;
    disk(config, &mut checks);
    bills(config, books.as_ref(), now, &mut checks).await;
    shared_buckets::check(config, now, &mut checks).await;
    plans(books.as_ref(), now, &mut checks).await;
    stripe(config, books.as_ref(), now, &mut checks).await;
    match &config.notifications.url {
        Some(_) => {
            checks.ok("notifications", "a receiver is configured; `meter notifications list` shows its answers".into())
        }
        None => checks.ok("notifications", "notifications.url is not set, so no notification is sent".into()),
    }
    let found = check_config::operator(config);
    let test = if config.operator.is_on() { "; `meter notifications test` sends one" } else { "" };
    checks.ok("operator", format!("{found}{test}"));
    worker(config, &mut checks).await;
    let Checks(found) = checks;
    if args.json {
        print::json(&found)?;
    } else {
        show(&found);
    }
    Ok(match found.iter().map(|check| check.verdict).max() {
        Some(Verdict::Wrong) => Exit::Failed,
        Some(Verdict::Warning) => Exit::NeedsAttention,
        Some(Verdict::Ok) | None => Exit::Ok,
    })
}

fn show(found: &[Check]) {
    for check in found {
        print::marked(check.verdict.mark(), &format!("  {}: {}", check.what, check.found));
        if !check.act.is_empty() {
            print::out(&format!("       -> {}", check.act));
        }
    }
}

async fn database(config: &Config, now: Timestamp, checks: &mut Checks) -> Option<Database> {
    let url = &config.database.url;
    if let Some(path) = wiring::local_path(config).filter(|path| !wiring::may_exist(path)) {
        let act = "`meter ingest` or `meter migrate` makes it; or is `database.url` another one, or the folder not the \
                   one that you meant?";
        checks.warn("database", format!("there is none at {} yet", path.display()), act);
        return None;
    }
    let opened = async {
        let books = wiring::open_books(config, wiring::Open::CREATE.within(ANSWER)).await?;
        let version = books.schema_version().await?;
        anyhow::Ok((books, version))
    };
    let (books, version) = match opened.await {
        Ok(opened) => opened,
        Err(error) => {
            let act = match error.downcast_ref::<BooksError>() {
                Some(BooksError::Newer { .. }) => "use the newer build",
                Some(BooksError::NoConnection(_)) => "start the database's server, or correct database.url",
                Some(BooksError::Locked(_)) => "another process has locked it for long: which one?",
                _ => "check database.url, METER_DATABASE__TOKEN, the network and the file's permissions",
            };
            checks.wrong("database", format!("{error:#}"), act);
            return None;
        }
    };
    if version < newest_schema_version() {
        let found = format!("{url} has schema version {version}, this build needs {}", newest_schema_version());
        checks.wrong("database", found, "meter migrate");
        return None;
    }
    checks.ok("database", format!("{url}, schema version {version}"));
    match books.try_to_write().await {
        Ok(()) => checks.ok("writing", "the database takes a transaction".into()),
        Err(error) => {
            checks.wrong(
                "writing",
                error.to_string(),
                "check permissions of file and folder, free space, and whether the token may write",
            );
        }
    }
    if books.is_local() {
        checks.ok(
            "clock",
            "a local database uses this machine's clock; with a Stripe key, Stripe's is compared, too".into(),
        );
    } else if let Ok(clock) = books.clock().await {
        let apart = clock.duration_since(now).abs();
        if apart > CLOCK_TOLERANCE {
            let found = format!("the database's clock says {clock}, this machine's {now:.0}");
            checks.wrong(
                "clock",
                found,
                "set the clock (NTP): counts are closed by the later of the two, decisions carry its time",
            );
        } else {
            checks.ok("clock", format!("as the database's, within {}", span(CLOCK_TOLERANCE)));
        }
    }
    Some(books)
}

fn disk(config: &Config, checks: &mut Checks) {
    let Some(path) = wiring::local_path(config) else { return };
    match crate::health::free_bytes_beside(path) {
        Some(free) if free < LITTLE_SPACE => {
            checks.wrong(
                "disk",
                format!("{} MiB free beside the database", free >> 20),
                "free space: on a full disk nothing is booked",
            );
        }
        Some(free) => checks.ok("disk", format!("{} MiB free beside the database", print::count(free >> 20))),
        None => checks.warn("disk", "the free space is unknown".into(), "check it with df"),
    }
}

/// Checks access to each export, and whether the tag of customers reaches the bill.
async fn bills(config: &Config, books: Option<&Database>, now: Timestamp, checks: &mut Checks) {
    if config.exports.is_empty() {
        checks.wrong(
            "bills",
            "no export is configured".into(),
            "`meter init` finds one and writes it down: docs/getting-started.md, section 4",
        );
        return;
    }
    let exports = match wiring::exports(config).await {
        Ok(exports) => exports,
        Err(error) => return checks.wrong("bills", format!("{error:#}"), "mend the configuration of exports"),
    };
    let month = Month::of(now);
    let months = match books {
        Some(books) => books.months(now).await.unwrap_or_default(),
        None => Months::new(),
    };
    for (name, export) in &exports {
        let what = format!("export {name}");
        let source = export.source.as_ref();
        let read = async {
            let root = find(source, &export.prefix, export.format).await?;
            let current = newest(source, &root, month, Some(now)).await?;
            let before =
                if current.is_none() { newest(source, &root, month.previous(), Some(now)).await? } else { None };
            let found = current.map(|m| (month, m)).or(before.map(|m| (month.previous(), m)));
            Ok::<_, ExportError>((root, found))
        };
        match read.await {
            Ok((root, Some((of, manifest)))) => {
                let age = now.duration_since(manifest.delivered_at);
                let format = root.format.as_str();
                let found = format!(
                    "{format}, {} file(s) of {}, made {}",
                    manifest.files.len(),
                    of,
                    ago(manifest.delivered_at, now)
                );
                if age > BILL_STALE {
                    checks.warn(
                        &what,
                        found,
                        "AWS delivers up to three times a day: check the export's status in the Billing console",
                    );
                } else {
                    checks.ok(&what, found);
                }
            }
            Ok((_, None)) => {
                let act = "wait a day after the export was made; then check its status and path in the Billing console";
                checks.warn(&what, format!("no bill of {month} or the month before"), act);
            }
            Err(error) => {
                checks.wrong(&what, format!("{error:#}"), remedy(&error));
                continue;
            }
        }
        if let Some(of) = months.get(&export.payer) {
            let closed = of.closed(now, config.lookback_months);
            past_months((name, export), of, closed, now, checks).await;
        }
    }
    let Some(books) = books else { return };
    let (tagged, bills) = tokio::join!(books.tagged_lines(), books.bills_of_payers());
    let keys = config.tag_keys().join("` or `");
    match tagged {
        Ok(found) if found.is_empty() && is_booked(&bills) => {
            let found = "no line of the newest bill is counted, so it is unknown whether the tag reaches the bill";
            checks.ok("tag", found.into());
        }
        Ok(found) if found.is_empty() => {
            checks.warn(
                "tag",
                "nothing is booked yet, so it is unknown whether the tag reaches the bill".into(),
                "meter ingest",
            );
        }
        Ok(found) => {
            for TaggedLines { meter, lines, tagged } in found {
                let what = format!("tag on {meter}");
                let share = format!("{} of {} lines carry `{keys}`", print::count(tagged), print::count(lines));
                if tagged == 0 {
                    let act = "tag the resources and activate the tag in the payer account (Cost allocation tags); object tags of S3 never reach a bill";
                    checks.warn(&what, share, act);
                } else {
                    checks.ok(&what, share);
                }
            }
        }
        Err(error) => checks.wrong("tag", error.to_string(), "meter verify"),
    }
    match bills {
        Ok(bills) => bills.iter().for_each(|bill| notes(bill, checks)),
        Err(error) => checks.wrong("bills", error.to_string(), "meter verify"),
    }
}

/// Whether a version is booked.
fn is_booked(bills: &Result<Vec<BillStats>, BooksError>) -> bool {
    bills.as_ref().is_ok_and(|bills| bills.iter().any(|bill| bill.delivered_at.is_some()))
}

/// What the last readings of a payer's bills noted.
fn notes(bill: &BillStats, checks: &mut Checks) {
    for of in &bill.notes {
        let (what, note) = (format!("bill of payer {}, {}", bill.payer, of.months()), &of.note);
        match note.kind {
            NoteKind::MeterCountsNothing => checks.ok(&what, note.text.clone()),
            kind => checks.warn(&what, note.text.clone(), act_on(kind)),
        }
    }
}

/// Compares the manifests of months that are over, and that no reading looks at, with what is
/// booked of them.
async fn past_months(
    (name, export): (&str, &Export),
    of: &PayerMonths,
    closed: Vec<Month>,
    now: Timestamp,
    checks: &mut Checks,
) {
    let what = format!("months of {name}");
    let looks = match look(name, export, of, closed, now).await {
        Ok(looks) => looks,
        Err(failure) => {
            return checks.wrong(&what, format!("{:#}", failure.error()), "mend the access to the export");
        }
    };
    let gaps = gaps(of, &looks.iter().collect::<Vec<_>>(), now);
    let as_booked = looks.iter().filter(|look| look.found == Found::AsBooked).count();
    let held: Vec<(&Month, &KnownMonth)> = of.known.iter().filter(|(_, known)| known.on_hold.is_some()).collect();
    for (month, known) in &held {
        let found = match known.booked {
            true => format!("a newer version of {month} of export {name} is on hold than the one that is booked"),
            false => format!("{month} of export {name} is on hold, and nothing of it is booked"),
        };
        let act = format!("meter versions --month {month} says why, and how to accept it");
        checks.warn(&what, found, &act);
    }
    if gaps.is_empty() && held.is_empty() {
        checks
            .ok(&what, format!("none is missing since {}; {as_booked} closed one(s) unchanged since booked", of.first));
    }
    for gap in gaps {
        let (found, act) = gap.words(name, now);
        checks.warn(&what, found, &act);
    }
}

/// Checks whether each price of a plan can be billed.
async fn plans(books: Option<&Database>, now: Timestamp, checks: &mut Checks) {
    let Some(books) = books else { return };
    let plans = match books.plans().await {
        Ok(plans) => plans,
        Err(error) => return checks.wrong("plans", error.to_string(), "meter verify"),
    };
    let unbilled = check_unbilled(&plans, now);
    if unbilled.is_empty() {
        checks.ok("plans", format!("{} plan(s); each price is of a meter that its plan reports", plans.names().len()));
    }
    for line in unbilled {
        checks.warn(&line.what, line.found, &line.fault.unwrap_or_default());
    }
}

async fn stripe(config: &Config, books: Option<&Database>, now: Timestamp, checks: &mut Checks) {
    if config.stripe.meters.is_empty() {
        return checks.ok(
            "Stripe",
            "stripe.meters names nothing, so nothing is billed, and prices count for budgets alone".into(),
        );
    }
    let billing = match wiring::billing(&config.stripe) {
        Ok(billing) => billing,
        Err(error) => return checks.wrong("Stripe", format!("{error:#}"), "mend the section [stripe]"),
    };
    let StripeMode::Stripe(account) = &billing.mode else {
        if let Some(books) = books
            && let Ok(Some(_)) = books.setting(MADE_BY_DEMO).await
        {
            return checks.ok("Stripe", "the demo's account, which is gone: nothing is sent".into());
        }
        let act = "set METER_STRIPE__KEY, unless a dry run is what you want";
        return checks.warn("Stripe", "there is no key: nothing is sent".into(), act);
    };
    match account.meters().await {
        Err(error) => {
            let act = match error.kind {
                CallFailure::Answered => "check METER_STRIPE__KEY: is it of this account, and may it read meters?",
                _ => "see whether this machine reaches that address",
            };
            checks.wrong("Stripe", error.to_string(), act);
        }
        Ok((remote, date)) => {
            let mode = if config.stripe.live { "live" } else { "test" };
            checks.ok("Stripe", format!("the {mode} account answers; {} meter(s)", remote.len()));
            match check_clock(date, now) {
                Ok(()) => checks.ok("Stripe's clock", "agrees with this machine's".into()),
                Err(failure) => checks.wrong("Stripe's clock", format!("{:#}", failure.error()), "set the clock (NTP)"),
            }
            if let Some(books) = books {
                match compared(account, &billing, books, &remote, now).await {
                    Err(error) => checks.wrong("Stripe's prices", format!("{error:#}"), "check what the key may read"),
                    Ok(lines) => lines.iter().for_each(|line| match &line.fault {
                        None => checks.ok(&line.what, line.found.clone()),
                        Some(fault) => checks.warn(&line.what, line.found.clone(), fault),
                    }),
                }
            }
        }
    }
}

/// The lines of `meter stripe check`.
async fn compared(
    account: &StripeAccount,
    billing: &BillingSettings,
    books: &Database,
    remote: &[RemoteMeter],
    now: Timestamp,
) -> anyhow::Result<Vec<CheckLine>> {
    let prices = account.prices().await.map_err(|e| anyhow::anyhow!(e))?;
    let (known, plans) = (books.fixed_stripe_meters().await?, books.plans().await?);
    let objects = AccountObjects { meters: remote, prices: &prices, known: &known };
    Ok(check(billing, objects, &plans, now))
}

async fn worker(config: &Config, checks: &mut Checks) {
    let Some(address) = config.http.address() else {
        return checks.warn(
            "worker",
            "http.listen is empty: no metrics, no health".into(),
            "name an address, unless that is what you want",
        );
    };
    match http::ask(address).await {
        Ok((true, answer)) if !answer.contains(&format!("books {}", http::books_id(config))) => {
            let act = "give each worker a port of its own (http.listen), or ask with the configuration of that one";
            checks.warn("worker", format!("the one at {address} works on other books"), act);
        }
        Ok((true, _)) => checks.ok("worker", format!("the one at {address} is ready")),
        Ok((false, answer)) => {
            let first = answer.lines().find(|line| line.starts_with("NOT")).unwrap_or(&answer).to_owned();
            checks.wrong("worker", first, "check its log");
        }
        Err(_) => {
            checks.warn("worker", format!("none answers at {address}"), "meter work; or it runs on another machine")
        }
    }
}
