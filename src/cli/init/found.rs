//! Tries what `meter init` was given: the export and its newest bill, the books, Stripe.

use std::path::Path;
use std::sync::Arc;

use books::usage::bill::{ClaimKind, LineKind, NoteKind};
use jiff::Timestamp;
use jobs::context::Format;
use jobs::ingest_cur::export::{ExportError, Root, find_all};
use jobs::ingest_cur::{BillSummary, summarise};
use jobs::job::Failure;
use jobs::source::{Source, SourceError};
use jobs::stripe::StripeMode;

use super::questions::StripeUse;
use crate::cli::checks::{Checks, remedy};
use crate::config::{Config, ExportConfig, KEY_VARIABLE, Secret, TOKEN_VARIABLE};
use crate::format::ago;
use crate::health::act_on;
use crate::print;
use crate::wiring::{self, Open};

/// A place that could be listed, and the exports there.
pub(super) struct Listed {
    pub(super) source: Arc<dyn Source>,
    pub(super) roots: Vec<Root>,
}

impl Listed {
    /// An export's folder as `exports[].location` has it.
    pub(super) fn location(&self, root: &Root) -> String {
        let name = self.source.name(&root.prefix);
        name.strip_suffix('/').filter(|name| !name.is_empty()).unwrap_or(&name).to_owned()
    }
}

/// Lists the exports of a place. The region becomes the bucket's own, where S3 says which it is.
pub(super) async fn exports(export: &mut ExportConfig) -> anyhow::Result<Result<Listed, ExportError>> {
    let mut seen = list(export).await?;
    if let Err(ExportError::Source(SourceError::OtherRegion(_, region, _))) = &seen
        && !region.contains(' ')
    {
        export.region = Some(region.clone());
        seen = list(export).await?;
    }
    Ok(seen)
}

async fn list(export: &ExportConfig) -> anyhow::Result<Result<Listed, ExportError>> {
    let config = Config { exports: vec![export.clone()], ..Config::default() };
    let mut opened = wiring::exports(&config).await?;
    let Some((_, export)) = opened.pop_first() else { anyhow::bail!("the export has no place") };
    let searched = find_all(export.source.as_ref(), &export.prefix, None).await;
    Ok(searched.map(|searched| Listed { source: export.source, roots: searched.found }))
}

/// What to do about a place that cannot be listed.
pub(super) fn listing_remedy(error: &ExportError) -> String {
    match error {
        ExportError::Source(SourceError::Denied(..)) => rights("s3:ListBucket"),
        ExportError::Source(SourceError::NoPlace(_, "bucket")) => {
            "check its name; `meter init --print aws-commands` prints how to make it".to_owned()
        }
        ExportError::Source(SourceError::NoPlace(..)) => "check the name of the folder".to_owned(),
        error => remedy(error).to_owned(),
    }
}

fn rights(action: &str) -> String {
    format!(
        "allow {action} there: `meter init --print iam-policy` prints the whole policy. `aws sts get-caller-identity` \
         says whose credentials are used"
    )
}

/// Reads the newest bill, and says what it found.
pub(super) async fn bill(
    listed: &Listed,
    root: &Root,
    config: &Config,
    now: Timestamp,
    checks: &mut Checks,
) -> anyhow::Result<Option<BillSummary>> {
    let read_settings = wiring::read_settings(config)?;
    let reading = summarise(&listed.source, root, &read_settings, now);
    let read = crate::cli::progress::reading("newest bill", &read_settings.progress, reading).await;
    let place = listed.location(root);
    match read {
        Ok(Some(bill)) => {
            described(&bill, (root.format, &place), config, now, checks);
            return Ok(Some(bill));
        }
        Ok(None) => {
            let found = format!("{place} is an export ({}) without a bill so far", root.format.as_str());
            checks.warn("bill", found, "wait: AWS fills a new export within a day. Then `meter discover`");
        }
        Err(failure) => checks.wrong("bill", format!("{:#}", failure.error()), &reading_remedy(&failure)),
    }
    Ok(None)
}

fn reading_remedy(failure: &Failure) -> String {
    match failure.error().downcast_ref() {
        Some(ExportError::Source(SourceError::Denied(..))) => {
            let kms = "; and kms:Decrypt on its key, if the bucket is encrypted with one of yours";
            rights("s3:GetObject") + kms
        }
        Some(error) => remedy(error).to_owned(),
        None => "docs/messages.md says what the message means; `meter discover` reads the bill again".to_owned(),
    }
}

/// A kind of export in AWS's words.
pub(super) fn kind(format: Format) -> &'static str {
    match format {
        Format::Legacy => "legacy CUR",
        Format::Cur2 => "CUR 2.0",
    }
}

/// The form of the data files, by the first one's name.
pub(super) fn file_form(bill: &BillSummary) -> &'static str {
    match bill.manifest.files.first().map(|file| file.to_ascii_lowercase()) {
        Some(file) if file.ends_with(".parquet") => "Parquet",
        Some(file) if file.ends_with(".csv.gz") => "CSV with gzip",
        Some(file) if file.ends_with(".csv") => "CSV",
        _ => "another form",
    }
}

fn described(
    bill: &BillSummary,
    (format, place): (Format, &str),
    config: &Config,
    now: Timestamp,
    checks: &mut Checks,
) {
    checks.ok("export", format!("{place}: {}, {}", kind(format), file_form(bill)));
    let lines = print::several(bill.rows, "line");
    let made = ago(bill.manifest.delivered_at, now);
    let newest = format!("the newest is {}, made {made}: {lines}", bill.month);
    match bill.granularity {
        Some(jobs::ingest_cur::batch::Granularity::Monthly) => {
            let act = "set the time granularity of the export to hourly or daily: a monthly one has no days";
            checks.warn("bill", format!("{newest}, monthly"), act);
        }
        Some(granularity) => checks.ok("bill", format!("{newest}, {}", granularity.as_str())),
        None => {
            let act = "let the export have the column identity_time_interval, which shows it";
            checks.warn("bill", format!("{newest}; nothing shows its time granularity"), act);
        }
    }
    let counted = |meter: &str| {
        let of_meter = bill.lines.iter().filter(|l| l.claim == ClaimKind::Counted && l.meter == meter);
        of_meter.fold((0, 0), |(lines, tagged), l| (lines + l.lines, tagged + l.tagged_lines))
    };
    let keys = config.tag_keys().join("` or `");
    for meter in &config.meters {
        let (lines, tagged) = counted(&meter.name);
        if lines == 0 {
            continue;
        }
        let percent = tagged * 100 / lines;
        let (tagged_of, all) = (print::count(tagged), print::count(lines));
        let found = format!("{tagged_of} of {all} lines ({percent} %) carry `{keys}`");
        checks.ok(&format!("tag on {}", meter.name), found);
    }
    for note in &bill.notes {
        match note.kind {
            NoteKind::MeterCountsNothing => checks.ok("bill", note.text.clone()),
            NoteKind::Untagged => {
                let act = "name that tag (--tag), or tag the resources and activate the tag in the payer account \
                           (Cost allocation tags)";
                checks.warn("tag", note.text.clone(), act);
            }
            kind => checks.warn("bill", note.text.clone(), act_on(kind)),
        }
    }
    let is_unknown = |l: &&LineKind| l.claim == ClaimKind::Unrecognised;
    let unknown = bill.lines.iter().filter(is_unknown).count();
    if unknown > 0 {
        let kinds = print::several(u64::try_from(unknown).unwrap_or(u64::MAX), "kind");
        checks.ok(
            "bill",
            format!("{kinds} of line of the watched products without a meter; `meter discover` lists them"),
        );
    }
}

/// Tries the books: a folder that can be written to, or a server that answers.
pub(super) async fn books(config: &Config, checks: &mut Checks) {
    let url = &config.database.url;
    let Some(path) = wiring::local_path(config) else { return remote_books(config, checks).await };
    if wiring::may_exist(path) {
        let opened = async { anyhow::Ok(wiring::open_books(config, Open::NOT_NEWER).await?.schema_version().await?) };
        return match opened.await {
            Ok(version) => checks.ok("books", format!("{url} is there, with schema version {version}")),
            Err(error) => checks.wrong("books", format!("{error:#}"), "name another file (--database)"),
        };
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match tempfile::tempfile_in(folder) {
        Ok(_) => checks.ok("books", format!("{url} will be made by `meter migrate` or `meter ingest`")),
        Err(error) => {
            let found = format!("{} cannot be written to: {error}", folder.display());
            checks.wrong("books", found, "make the folder, and let the user of the worker write to it");
        }
    }
}

async fn remote_books(config: &Config, checks: &mut Checks) {
    let url = &config.database.url;
    let token = std::env::var(TOKEN_VARIABLE).unwrap_or_default();
    if token.is_empty() && !url.starts_with("http://") {
        let found = format!("{url} was not tried, because {TOKEN_VARIABLE} is not set; `meter doctor` tries it");
        return checks.ok("books", found);
    }
    let mut config = config.clone();
    config.database.token = Secret::new(token);
    let opened = async {
        let wait = std::time::Duration::from_secs(10);
        anyhow::Ok(wiring::open_books(&config, Open::CREATE.within(wait)).await?.schema_version().await?)
    };
    match opened.await {
        Ok(0) => checks.ok("books", format!("{url} answers and is empty; `meter migrate` makes its schema")),
        Ok(version) => checks.ok("books", format!("{url} answers; schema version {version}")),
        Err(error) => {
            let act = "check the address, and the token in METER_DATABASE__TOKEN; `meter init --print turso` prints how \
                       to make both";
            checks.wrong("books", format!("{error:#}"), act);
        }
    }
}

/// Tries Stripe's account, where there is a key.
pub(super) async fn stripe(config: &Config, stripe: StripeUse, checks: &mut Checks) {
    let mode = match stripe {
        StripeUse::None => return,
        StripeUse::Test => "test",
        StripeUse::Live => "live",
    };
    let key = std::env::var(KEY_VARIABLE).unwrap_or_default();
    if key.is_empty() {
        let found =
            format!("the {mode} account was not tried, because {KEY_VARIABLE} is not set; `meter doctor` tries it");
        return checks.ok("Stripe", found);
    }
    let kind = format!("_{mode}_");
    if !key.starts_with(&format!("sk{kind}")) && !key.starts_with(&format!("rk{kind}")) {
        let found = format!("{KEY_VARIABLE} is no key of a {mode} account");
        let act = format!("set a key that begins with sk{kind} or rk{kind}, or give another --stripe");
        return checks.wrong("Stripe", found, &act);
    }
    let mut config = config.stripe.clone();
    config.key = Secret::new(key);
    let asked = async {
        let billing = wiring::billing(&config)?;
        let StripeMode::Stripe(account) = &billing.mode else { anyhow::bail!("there is no key") };
        Ok(account.meters().await.map_err(|error| anyhow::anyhow!(error))?.0.len())
    };
    match asked.await {
        Ok(meters) => checks.ok("Stripe", format!("the {mode} account answers; it has {meters} meter(s)")),
        Err(error) => {
            let act = format!("check {KEY_VARIABLE}: is it of this account, and may it read meters?");
            checks.wrong("Stripe", format!("{error:#}"), &act);
        }
    }
}
