//! `meter init`: asks what meter needs to know, looks for the export, tries every access, and
//! writes `meter.toml` and a template of `.env`; or prints what the AWS account and Turso need.

mod account;
mod files;
mod found;
mod questions;

use std::io::BufRead;
use std::path::PathBuf;

use books::usage::bill::{ClaimKind, NoteKind};
use clap::Args as ClapArgs;
use jiff::Timestamp;
use jobs::context::Format;
use jobs::ingest_cur::BillSummary;
use jobs::ingest_cur::export::Root;
use schemars::JsonSchema;
use serde::Serialize;

use self::files::{Decided, Targets};
use self::found::Listed;
use self::questions::{Questions, StripeUse, location, say};
use super::checks::{Check, Checks, Verdict};
use crate::config::{Config, DatabaseConfig, ExportConfig, FormatConfig};
use crate::exit::{BadUsage, Exit};
use crate::print::{self, OutputFormat};

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// S3 bucket of the export: its name, or s3://BUCKET/PREFIX. Or a folder with a copy of it, such
    /// as ./bucket. On a terminal it is asked for, else it is required
    #[arg(long, value_name = "BUCKET")]
    bucket: Option<String>,
    /// Prefix in the bucket at which the export lies, or up to three folders below [default: none]
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,
    /// AWS region of the bucket; if S3 says another one, that is written [default: AWS_REGION, else
    /// the SDK's chain, else us-east-1]
    #[arg(long, value_name = "REGION")]
    region: Option<String>,
    /// Address of an S3 server that is not AWS
    #[arg(long, value_name = "URL", conflicts_with = "print")]
    endpoint: Option<String>,
    /// Key of the cost allocation tag with the customer's id [default: chitchatter-customer-id]
    #[arg(long, value_name = "KEY")]
    tag: Option<String>,
    /// Books: the path of a file, or libsql://HOST [default: meter.db]
    #[arg(long, value_name = "PATH|URL", conflicts_with = "print")]
    database: Option<String>,
    /// Whether usage is billed, and with which kind of Stripe account: none, test or live [default:
    /// none]
    #[arg(long, value_name = "KIND", conflicts_with = "print")]
    stripe: Option<String>,
    /// Folder for `meter.toml` and `.env`, which are never overwritten; made if it is not there
    #[arg(long, value_name = "FOLDER", default_value = ".", conflicts_with = "print")]
    output: PathBuf,
    /// Write nothing, and print what the account needs: with --bucket, --prefix, --region and
    /// --tag, and the arguments below. It needs no configuration and no network
    #[arg(long, value_enum, value_name = "WHAT")]
    print: Option<account::Printed>,
    #[command(flatten)]
    names: account::Names,
    /// Print as JSON; nobody is asked
    #[arg(long, conflicts_with = "print")]
    json: bool,
}

/// A first configuration that was written.
#[derive(JsonSchema, Serialize)]
pub(super) struct FirstConfig {
    /// The files.
    written: Vec<String>,
    checks: Vec<Check>,
    /// The commands that come next.
    next: Vec<String>,
}

pub(crate) async fn run(args: Args, now: Timestamp) -> anyhow::Result<Exit> {
    if let Some(what) = args.print {
        let Args { bucket, prefix, region, tag, names, .. } = args;
        return account::print(what, &account::Given { bucket, prefix, region, tag, names });
    }
    let targets = Targets::new(&args.output)?;
    let mut questions = Questions::of_this_terminal(OutputFormat::of(args.json));
    if questions.can_ask() {
        say(
            "An empty answer takes the value in brackets. Nothing is written before the end; Ctrl-C stops. No secret is \
             asked for.",
        );
    } else if args.bucket.is_none() {
        let why = "nobody can be asked, and --bucket is missing: --bucket s3://BUCKET/PREFIX, or --bucket ./FOLDER. \
                   --region, --tag, --database and --stripe have defaults (`meter init --help`). Nothing was written";
        return Err(BadUsage(why.into()).into());
    }
    let mut checks = Checks::default();
    let mut export = place(&args, &mut questions)?;
    let listed = listed(&mut export, &mut questions, &mut checks).await?;
    let root = match &listed {
        Some(listed) => chosen(listed, &mut export, &mut questions)?,
        None => None,
    };
    let tag = questions.settle(
        ("--tag", args.tag.as_deref()),
        "Key of the cost allocation tag with the customer's id",
        &Config::default().tag_keys().swap_remove(0),
        questions::tag,
    )?;
    let mut config = Config { tag_key: Some(tag), exports: vec![export.clone()], ..Config::default() };
    let bill = match (&listed, &root) {
        (Some(listed), Some(root)) => bill((listed, root), &mut config, (&mut questions, now), &mut checks).await?,
        _ => None,
    };
    let url = questions.settle(
        ("--database", args.database.as_deref()),
        "Books: the path of a file, or libsql://HOST of a server",
        &DatabaseConfig::default().url,
        questions::database,
    )?;
    config.database.url = url;
    let stripe = questions.settle(
        ("--stripe", args.stripe.as_deref()),
        "Is usage billed through Stripe? none, test (a test account) or live (real money)",
        "none",
        questions::stripe,
    )?;
    config.stripe.live = stripe == StripeUse::Live;
    let before = checks.0.len();
    found::books(&config, &mut checks).await;
    found::stripe(&config, stripe, &mut checks).await;
    questions.show(&checks.0[before..]);
    let decided = decided(config, export, stripe, bill.as_ref());
    targets.write(&decided)?;
    let worst = checks.0.iter().map(|check| check.verdict).max();
    let done = if worst > Some(Verdict::Ok) { Exit::NeedsAttention } else { Exit::Ok };
    let steps = next_steps(&targets, &decided, bill.is_some());
    if args.json {
        let written = [&targets.toml, &targets.env].map(|file| crate::visible::path(file)).into();
        let next = steps.into_iter().map(|(command, _)| command).collect();
        print::json(&FirstConfig { written, checks: checks.0, next })?;
        return Ok(done);
    }
    say("");
    say(&format!("Written: {}, and {} for secrets, which has none yet.", shown(&targets.toml), shown(&targets.env)));
    show_steps(&steps);
    Ok(done)
}

fn shown(path: &std::path::Path) -> String {
    path.strip_prefix(".").unwrap_or(path).display().to_string()
}

/// The region that the SDK's variables name.
fn usual_region() -> Option<String> {
    let named = ["AWS_REGION", "AWS_DEFAULT_REGION"].into_iter().find_map(|name| std::env::var(name).ok());
    named.filter(|region| questions::region(region).is_ok())
}

/// The place of the export, as it was given or answered.
fn place<R: BufRead>(args: &Args, questions: &mut Questions<R>) -> anyhow::Result<ExportConfig> {
    let usage = |flag: &str, why: String| BadUsage(format!("{flag}: {why}; nothing was written"));
    let location = match &args.bucket {
        Some(bucket) => {
            let given = location(bucket, args.prefix.as_deref()).map_err(|why| usage("--bucket", why))?;
            let has_prefix = args.prefix.is_some() || bucket.starts_with("s3://") || !given.starts_with("s3://");
            if has_prefix || !questions.can_ask() { given } else { with_prefix(&given, questions)? }
        }
        None => {
            let question = "S3 bucket of the export: its name, or s3://BUCKET/PREFIX; or a folder, such as ./bucket";
            let prefix = args.prefix.clone();
            let read = |text: &str| location(text, prefix.as_deref()).map(|place| (place, text.starts_with("s3://")));
            let (given, is_whole) = questions.ask(question, None, read)?;
            let has_prefix = is_whole || prefix.is_some() || !given.starts_with("s3://");
            if has_prefix { given } else { with_prefix(&given, questions)? }
        }
    };
    let is_bucket = location.starts_with("s3://");
    let region = match &args.region {
        Some(region) => Some(questions::region(region).map_err(|why| usage("--region", why))?),
        None if is_bucket && questions.can_ask() => {
            let usual = usual_region().unwrap_or_else(|| "us-east-1".to_owned());
            Some(questions.ask("AWS region of the bucket", Some(&usual), questions::region)?)
        }
        None if is_bucket => usual_region(),
        None => None,
    };
    if !is_bucket && (args.region.is_some() || args.endpoint.is_some()) {
        return Err(usage("--region, --endpoint", format!("`{location}` is a folder and has none")).into());
    }
    if let Some(endpoint) = &args.endpoint {
        Config::endpoint_fault(endpoint).map_or(Ok(()), |why| Err(usage("--endpoint", why.to_owned())))?;
    }
    Ok(ExportConfig {
        name: "main".to_owned(),
        location,
        format: FormatConfig::Auto,
        payer: "default".to_owned(),
        region,
        endpoint: args.endpoint.clone(),
    })
}

fn with_prefix<R: BufRead>(bucket: &str, questions: &mut Questions<R>) -> anyhow::Result<String> {
    let read = |text: &str| location(bucket, Some(text).filter(|text| *text != "none"));
    questions.ask("Prefix in the bucket at which the export lies, or up to three folders below", Some("none"), read)
}

/// Lists the place. A person may name another one until it can be listed, or keep it as it is.
async fn listed<R: BufRead>(
    export: &mut ExportConfig,
    questions: &mut Questions<R>,
    checks: &mut Checks,
) -> anyhow::Result<Option<Listed>> {
    loop {
        let is_bucket = export.location.starts_with("s3://");
        let what = if is_bucket { "bucket" } else { "folder" };
        let before = checks.0.len();
        let found = found::exports(export).await?;
        match &found {
            Ok(listed) if listed.roots.is_empty() => {
                let found = format!("{} can be listed, and there is no export in it so far", export.location);
                let act = "AWS fills a new export within a day; is there one, and is its prefix right? `meter init \
                           --print aws-commands` prints how to make one";
                checks.warn(what, found, act);
            }
            Ok(listed) => {
                let exports = print::several(u64::try_from(listed.roots.len())?, "export");
                checks.ok(what, format!("{} can be listed: {exports}", export.location));
            }
            Err(error) => checks.wrong(what, format!("{error:#}"), &found::listing_remedy(error)),
        }
        questions.show(&checks.0[before..]);
        let is_there = found.as_ref().is_ok_and(|listed| !listed.roots.is_empty());
        if is_there || !questions.can_ask() {
            return Ok(found.ok());
        }
        let question = "Another place, s3://BUCKET/PREFIX or a folder; or keep it, and make it right later";
        let other = questions.ask(question, Some(&export.location), |text| location(text, None))?;
        if other == export.location {
            return Ok(found.ok());
        }
        if !other.starts_with("s3://") {
            (export.region, export.endpoint) = (None, None);
        }
        export.location = other;
        checks.0.truncate(before);
    }
}

/// The export that is meant: the only one, or a person's choice.
fn chosen<R: BufRead>(
    listed: &Listed,
    export: &mut ExportConfig,
    questions: &mut Questions<R>,
) -> anyhow::Result<Option<Root>> {
    let names: Vec<String> =
        listed.roots.iter().map(|root| format!("{} ({})", listed.location(root), root.format.as_str())).collect();
    let at = match listed.roots.len() {
        0 => return Ok(None),
        1 => 0,
        many if questions.can_ask() => {
            names.iter().enumerate().for_each(|(at, name)| print::out(&format!("{:>3}  {name}", at + 1)));
            let read = |text: &str| match text.parse::<usize>() {
                Ok(number @ 1..) if number <= many => Ok(number - 1),
                _ => Err(format!("`{text}` is no number from 1 to {many}")),
            };
            let question = "Which export? Two of one account would count everything twice";
            questions.ask(question, None, read)?
        }
        _ => {
            let why = format!(
                "there are several exports below {}: name one of them by --bucket; two of one account would count \
                 everything twice. Nothing was written\n  {}",
                export.location,
                names.join("\n  ")
            );
            return Err(BadUsage(why).into());
        }
    };
    let root = listed.roots[at].clone();
    export.location = listed.location(&root);
    if listed.roots.iter().any(|other| other.prefix == root.prefix && *other != root) {
        export.format = match root.format {
            Format::Legacy => FormatConfig::Legacy,
            Format::Cur2 => FormatConfig::Cur2,
        };
    }
    Ok(Some(root))
}

/// Reads the newest bill; a person may name another tag when no usage has this one.
async fn bill<R: BufRead>(
    (listed, root): (&Listed, &Root),
    config: &mut Config,
    (questions, now): (&mut Questions<R>, Timestamp),
    checks: &mut Checks,
) -> anyhow::Result<Option<BillSummary>> {
    loop {
        let before = checks.0.len();
        let found = found::bill(listed, root, config, now, checks).await?;
        questions.show(&checks.0[before..]);
        let untagged = |bill: &BillSummary| bill.notes.iter().any(|note| note.kind == NoteKind::Untagged);
        if !questions.can_ask() || !found.as_ref().is_some_and(untagged) {
            return Ok(found);
        }
        let tag = config.tag_keys().swap_remove(0);
        let other = questions.ask("Another key of the tag; or keep it", Some(&tag), questions::tag)?;
        if other == tag {
            return Ok(found);
        }
        config.tag_key = Some(other);
        checks.0.truncate(before);
    }
}

fn decided(config: Config, export: ExportConfig, stripe: StripeUse, bill: Option<&BillSummary>) -> Decided {
    let counts = |name: &str, bill: &BillSummary| {
        bill.lines.iter().any(|line| line.claim == ClaimKind::Counted && line.meter == name)
    };
    let names = config.meters.iter().map(|meter| meter.name.clone());
    // without a bill nobody knows which meters have usage
    let billed = names.filter(|name| bill.is_none_or(|bill| counts(name, bill))).collect();
    let found = bill.map(|bill| {
        let granularity = bill.granularity.map_or(String::new(), |granularity| format!(", {}", granularity.as_str()));
        let (kind, form) = (found::kind(bill.manifest.format), found::file_form(bill));
        format!("{kind}, {form}{granularity}; the newest bill was that of {}", bill.month)
    });
    Decided { config, export, stripe, found, billed }
}

/// The commands that come next, and why.
fn next_steps(targets: &Targets, decided: &Decided, has_bill: bool) -> Vec<(String, &'static str)> {
    let mut steps: Vec<(String, &str)> = vec![];
    let mut step = |command: &str, why| steps.push((command.to_owned(), why));
    if targets.folder.as_os_str() != "." {
        step(&format!("export METER_CONFIG={}", in_shell(&shown(&targets.toml))), "or --config with each command");
    }
    if decided.needs_secret() {
        let env = if targets.folder.as_os_str() == "." { "./.env".to_owned() } else { shown(&targets.env) };
        step(&format!("set -a; . {}; set +a", in_shell(&env)), "once the secrets are in it");
    }
    if !has_bill && decided.export.location.starts_with("s3://") {
        step("meter init --print aws-commands", "how to make an export, if there is none");
    }
    step("meter config check", "names each fault of the file");
    step("meter doctor", "tries everything again");
    step("meter discover", "every kind of line of the bill");
    step("meter ingest --dry-run", "what would be booked");
    step("meter ingest", "books it, and makes the books");
    if decided.stripe != StripeUse::None {
        step("meter stripe setup", "after a plan: docs/stripe-setup.md");
    }
    step("meter work", "runs unattended: docs/deployment.md");
    steps
}

fn show_steps(steps: &[(String, &str)]) {
    let short = |command: &&String| command.chars().count() <= LONGEST_COMMAND;
    let width = steps.iter().map(|(command, _)| command).filter(short).map(|c| c.chars().count()).max().unwrap_or(0);
    print::out("Next (docs/getting-started.md explains each):");
    for (command, why) in steps {
        let line = if short(&command) { format!("  {command:width$}  {why}") } else { format!("  {command}") };
        print::out(&line);
    }
}

/// Columns of a command that has a remark beside it.
const LONGEST_COMMAND: usize = 36;

/// A path as a shell reads it.
fn in_shell(path: &str) -> String {
    let is_plain = path.chars().all(|c| c.is_alphanumeric() || "/._-".contains(c));
    if is_plain { path.to_owned() } else { format!("'{}'", path.replace('\'', "'\\''")) }
}
