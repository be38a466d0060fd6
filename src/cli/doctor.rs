//! `meter doctor`: everything that a worker depends on, asked one by one, each with what to do when
//! it is not well.

use std::time::Duration;

use books::units::calendar::Month;
use books::{BooksError, Database, newest_schema_version};
use clap::Args as ClapArgs;
use jiff::{SignedDuration, Timestamp};
use jobs::ingest_cur::export::{find, newest};
use jobs::stripe::check::check;
use jobs::stripe::preconditions::check_clock;
use jobs::stripe::{StripeAccount, StripeMode};
use serde::Serialize;

use super::{Exit, ago, print, span};
use crate::config::Config;
use crate::standing::{BILL_STALE, LITTLE_SPACE};
use crate::{http, wiring};

/// Clocks of this machine and of others may differ by this much.
const SKEW: SignedDuration = SignedDuration::from_secs(60);
/// A remote database has so long to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// How to show it.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// How one check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Well,
    /// Nothing breaks by it, but somebody should know.
    Look,
    Wrong,
}

#[derive(Debug, Serialize)]
struct Check {
    what: String,
    verdict: Verdict,
    found: String,
    /// What to do about it; empty when it is well.
    act: String,
}

#[derive(Default)]
struct Checks(Vec<Check>);

impl Checks {
    fn add(&mut self, what: &str, verdict: Verdict, found: String, act: &str) {
        self.0.push(Check { what: what.to_owned(), verdict, found, act: act.to_owned() });
    }

    fn well(&mut self, what: &str, found: String) {
        self.add(what, Verdict::Well, found, "");
    }

    fn look(&mut self, what: &str, found: String, act: &str) {
        self.add(what, Verdict::Look, found, act);
    }

    fn wrong(&mut self, what: &str, found: String, act: &str) {
        self.add(what, Verdict::Wrong, found, act);
    }
}

pub(crate) async fn run(args: Args, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    let mut checks = Checks::default();
    // it was read and checked before this command began
    let (exports, meters) = (config.exports.len(), config.meters.len());
    checks.well("configuration", format!("sound: {exports} export(s), {meters} meter(s)"));
    let books = database(config, now, &mut checks).await;
    disk(config, &mut checks);
    bills(config, books.as_ref(), now, &mut checks).await;
    stripe(config, books.as_ref(), now, &mut checks).await;
    match &config.notifications.url {
        Some(_) => checks
            .well("notifications", "a receiver is configured; `meter notifications list` shows how it answers".into()),
        None => checks
            .well("notifications", "notifications.url is not set, so nobody is told of crossings and blocks".into()),
    }
    worker(config, &mut checks).await;
    let Checks(found) = checks;
    if args.json {
        print::json(&found)?;
    } else {
        show(&found);
    }
    Ok(if found.iter().any(|c| c.verdict == Verdict::Wrong) {
        Exit::Failed
    } else if found.iter().any(|c| c.verdict == Verdict::Look) {
        Exit::NeedsAttention
    } else {
        Exit::Ok
    })
}

fn show(found: &[Check]) {
    for check in found {
        let mark = match check.verdict {
            Verdict::Well => "ok   ",
            Verdict::Look => "look ",
            Verdict::Wrong => "WRONG",
        };
        print::out(&format!("{mark}  {}: {}", check.what, check.found));
        if !check.act.is_empty() {
            print::out(&format!("       -> {}", check.act));
        }
    }
}

async fn database(config: &Config, now: Timestamp, checks: &mut Checks) -> Option<Database> {
    let url = &config.database.url;
    if let Some(path) = wiring::local_path(config).filter(|path| !wiring::may_exist(path)) {
        let act =
            "`meter migrate` makes it; or is `database.url` another one, or the folder not the one that you meant?";
        checks.wrong("database", format!("there is none at {}", path.display()), act);
        return None;
    }
    let opened = async {
        let books = wiring::open_books_within(config, ANSWER).await?;
        let version = books.schema_version().await?;
        anyhow::Ok((books, version))
    };
    let (books, version) = match opened.await {
        Ok(opened) => opened,
        Err(error) => {
            let act = match error.downcast_ref::<BooksError>() {
                Some(BooksError::Newer { .. }) => "use the newer build",
                Some(BooksError::Locked) => "another process has locked it for long: which one?",
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
    checks.well("database", format!("{url}, schema version {version}"));
    // an empty writing transaction: the file, the folder and the token may all forbid it
    match books.transaction(async |c| Ok(c.execute("DELETE FROM probes WHERE false", ()).await?)).await {
        Ok(_) => checks.well("writing", "the database takes a transaction".into()),
        Err(error) => {
            checks.wrong(
                "writing",
                error.to_string(),
                "check permissions of file and folder, free space, and whether the token may write",
            );
        }
    }
    if books.is_local() {
        checks
            .well("clock", "the database has no other clock to compare with; Stripe's is, when there is a key".into());
    } else if let Ok(clock) = books.clock().await {
        let apart = clock.duration_since(now).abs();
        if apart > SKEW {
            let found = format!("the database's clock says {clock}, this machine's {now:.0}");
            checks.wrong(
                "clock",
                found,
                "set the clock (NTP): counts are closed by the later of the two, decisions carry its time",
            );
        } else {
            checks.well("clock", format!("as the database's, within {}", span(SKEW)));
        }
    }
    Some(books)
}

fn disk(config: &Config, checks: &mut Checks) {
    let Some(path) = wiring::local_path(config) else { return };
    match crate::standing::free_beside(path) {
        Some(free) if free < LITTLE_SPACE => {
            checks.wrong(
                "disk",
                format!("{} MiB free beside the database", free >> 20),
                "free space: on a full disk nothing is booked",
            );
        }
        Some(free) => checks.well("disk", format!("{} MiB free beside the database", print::count(free >> 20))),
        None => checks.look("disk", "nobody can tell how much is free".into(), "look at it with df"),
    }
}

/// Access to each export, and whether the tag that makes customers of usage reaches the bill.
async fn bills(config: &Config, books: Option<&Database>, now: Timestamp, checks: &mut Checks) {
    if config.exports.is_empty() {
        checks.wrong("bills", "no export is configured".into(), "name one in [[exports]]: README, \"Your own bills\"");
        return;
    }
    let exports = match wiring::exports(config).await {
        Ok(exports) => exports,
        Err(error) => return checks.wrong("bills", format!("{error:#}"), "mend the configuration of exports"),
    };
    let month = Month::of(now);
    for (name, export) in exports {
        let what = format!("export {name}");
        let source = export.source.as_ref();
        let looked = async {
            let root = find(source, &export.prefix, export.format).await?;
            let current = newest(source, &root, month).await?;
            let before = if current.is_none() { newest(source, &root, month.previous()).await? } else { None };
            let found = current.map(|m| (month, m)).or(before.map(|m| (month.previous(), m)));
            Ok::<_, jobs::ingest_cur::export::ExportError>((root, found))
        };
        match looked.await {
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
                    checks.look(
                        &what,
                        found,
                        "AWS delivers up to three times a day: look at the export's status in the Billing console",
                    );
                } else {
                    checks.well(&what, found);
                }
            }
            Ok((_, None)) => {
                let act =
                    "wait a day after the export was made; then look at its status and path in the Billing console";
                checks.look(&what, format!("no bill of {month} or the month before"), act);
            }
            Err(error) => {
                let act = "check exports[].location, and s3:ListBucket and s3:GetObject of the credentials";
                checks.wrong(&what, format!("{error:#}"), act);
            }
        }
    }
    let Some(books) = books else { return };
    let tagged = books.tagged_lines().await;
    let key = &config.tag_key;
    match tagged {
        Ok(found) if found.is_empty() => {
            checks.look(
                "tag",
                "nothing is booked yet, so nobody can tell whether the tag reaches the bill".into(),
                "meter ingest",
            );
        }
        Ok(found) => {
            for (meter, lines, tagged) in found {
                let what = format!("tag on {meter}");
                let share = format!("{} of {} lines carry `{key}`", print::count(tagged), print::count(lines));
                if tagged == 0 {
                    let act = "tag the resources and activate the tag in the payer account (Cost allocation tags); object tags of S3 never reach a bill";
                    checks.look(&what, share, act);
                } else {
                    checks.well(&what, share);
                }
            }
        }
        Err(error) => checks.wrong("tag", error.to_string(), "meter verify"),
    }
}

async fn stripe(config: &Config, books: Option<&Database>, now: Timestamp, checks: &mut Checks) {
    if config.stripe.meters.is_empty() {
        return checks.well("Stripe", "stripe.meters names nothing, so nothing is billed".into());
    }
    let billing = match config.stripe.billing() {
        Ok(billing) => billing,
        Err(error) => return checks.wrong("Stripe", format!("{error:#}"), "mend the section [stripe]"),
    };
    let StripeMode::Stripe(account) = &billing.mode else {
        let act = "set METER_STRIPE__KEY, unless a dry run is what you want";
        return checks.look("Stripe", "there is no key: nothing is sent".into(), act);
    };
    match account.meters().await {
        Err(error) => {
            let act = "check METER_STRIPE__KEY (may it read meters?), stripe.url and the network";
            checks.wrong("Stripe", error.to_string(), act);
        }
        Ok((remote, date)) => {
            let mode = if config.stripe.live { "live" } else { "test" };
            checks.well("Stripe", format!("the {mode} account answers; {} meter(s)", remote.len()));
            match check_clock(date, now) {
                Ok(()) => checks.well("Stripe's clock", "agrees with this machine's".into()),
                Err(failure) => checks.wrong("Stripe's clock", format!("{:#}", failure.error()), "set the clock (NTP)"),
            }
            if let Some(books) = books {
                account_lines(account, &billing, books, &remote, now, checks).await;
            }
        }
    }
}

/// What `meter stripe check` finds.
async fn account_lines(
    account: &StripeAccount,
    billing: &jobs::stripe::BillingSettings,
    books: &Database,
    remote: &[jobs::stripe::RemoteMeter],
    now: Timestamp,
    checks: &mut Checks,
) {
    let compared = async {
        let prices = account.prices().await.map_err(|e| anyhow::anyhow!(e))?;
        let (known, plans) = (books.stripe_meters().await?, books.plans().await?);
        anyhow::Ok(check(billing, &known, remote, &prices, &plans, now))
    };
    match compared.await {
        Err(error) => checks.wrong("Stripe's prices", format!("{error:#}"), "check what the key may read"),
        Ok(lines) => {
            for line in lines {
                match &line.fault {
                    None => checks.well(&line.what, line.found),
                    Some(fault) => checks.look(&line.what, line.found.clone(), fault),
                }
            }
        }
    }
}

async fn worker(config: &Config, checks: &mut Checks) {
    let Some(address) = config.http.address() else {
        return checks.look(
            "worker",
            "http.listen is empty: no metrics, no health".into(),
            "name an address, unless that is what you want",
        );
    };
    match http::ask(address).await {
        Ok((true, said)) if !said.contains(&format!("books {}", http::books_id(config))) => {
            let act = "give each worker a port of its own (http.listen), or ask with the configuration of that one";
            checks.look("worker", format!("the one at {address} works on other books"), act);
        }
        Ok((true, _)) => checks.well("worker", format!("the one at {address} is ready")),
        Ok((false, said)) => {
            let first = said.lines().find(|line| line.starts_with("NOT")).unwrap_or(&said).to_owned();
            checks.wrong("worker", first, "look at its log");
        }
        Err(_) => {
            checks.look("worker", format!("none answers at {address}"), "meter work; or it runs on another machine")
        }
    }
}
