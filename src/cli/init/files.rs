//! The files that `meter init` writes: `meter.toml` with what was decided, and a template of `.env`
//! with the names of secrets.

use std::fmt::Write as _;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tempfile::NamedTempFile;

use super::questions::StripeUse;
use crate::config::{Config, ExportConfig, FormatConfig, KEY_VARIABLE, MeterConfig, TOKEN_VARIABLE};
use crate::exit::BadUsage;
use crate::visible;
use crate::wording;

/// What the files say.
pub(super) struct Decided {
    pub(super) config: Config,
    pub(super) export: ExportConfig,
    pub(super) stripe: StripeUse,
    /// What was found of the export, in words; none when there was none yet.
    pub(super) found: Option<String>,
    /// Names of the meters that go to Stripe.
    pub(super) billed: Vec<String>,
}

impl Decided {
    fn tag(&self) -> String {
        self.config.tag_keys().swap_remove(0)
    }

    fn is_remote(&self) -> bool {
        crate::wiring::local_path(&self.config).is_none()
    }

    /// Whether something does not work before a secret is set.
    pub(super) fn needs_secret(&self) -> bool {
        self.is_remote() || self.stripe != StripeUse::None
    }

    /// The text of `meter.toml`. What is optional is there as a comment: `#key`, without a blank.
    pub(super) fn toml(&self) -> String {
        let mut text = String::from(
            "# Configuration of meter, written by `meter init`. All keys, with their defaults:\n\
             # docs/configuration.md. `meter config check` names every fault of this file, and\n\
             # `meter doctor` tries what it names. Secrets are variables: see `.env`.\n\n",
        );
        let mut put = |part: &str| text.push_str(part);
        put("# Key of the cost allocation tag whose value is the customer's id, as it is written on\n");
        put("# the resources. It must be active in the payer account (docs/configuration.md#tag-keys).\n");
        put(&format!("tag_key = {}\n\n", quoted(&self.tag())));
        put("# The books: a local file, whose path begins at the folder in which meter is started, or\n");
        put("# libsql://HOST of a server (docs/turso.md). Two places are two sets of books.\n");
        put(&format!("[database]\nurl = {}\n\n", quoted(&self.config.database.url)));
        put("# The export of AWS's bills: one such section for each payer account, with a name and a\n");
        put("# payer of its own (docs/configuration.md#bills).\n");
        put(match &self.found {
            Some(_) => "",
            None => "# There was no bill at this place when this file was written.\n",
        });
        if let Some(found) = &self.found {
            put(&format!("# Found: {}.\n", found.replace(char::is_control, " ")));
        }
        let ExportConfig { name, location, region, endpoint, format, .. } = &self.export;
        put(&format!("[[exports]]\nname = {}\nlocation = {}\n", quoted(name), quoted(location)));
        match format {
            FormatConfig::Auto => {}
            FormatConfig::Legacy => put("# The other kind of export lies there, too.\nformat = \"legacy\"\n"),
            FormatConfig::Cur2 => put("# The other kind of export lies there, too.\nformat = \"cur2\"\n"),
        }
        if let Some(region) = region {
            put(&format!("# AWS region of the bucket.\nregion = {}\n", quoted(region)));
        }
        if let Some(endpoint) = endpoint {
            put(&format!("# Address of an S3 server that is not AWS.\nendpoint = {}\n", quoted(endpoint)));
        }
        put("# Label of the payer account. Books are kept by it, so it stays when the export changes.\n");
        put("payer = \"default\"\n\n");
        put(&self.stripe_section());
        put(OPTIONAL);
        text
    }

    fn stripe_section(&self) -> String {
        let mut text = String::from(
            "# What goes to Stripe (docs/stripe-setup.md). Without a section [stripe.meters.NAME] nothing\n\
             # is billed. A meter's first event fixes event_name and per_unit.\n",
        );
        let off = if self.stripe == StripeUse::None { "#" } else { "" };
        let live = self.stripe == StripeUse::Live;
        let _ = write!(
            text,
            "{off}[stripe]\n\
             # true: real money, and {KEY_VARIABLE} must be a live key; false: a test key.\n\
             {off}live = {live}\n\
             # Hours for which an invoice takes usage after its period. Set the same in Stripe's\n\
             # dashboard: no request shows that setting.\n\
             {off}grace_hours = 72\n\n"
        );
        for meter in &self.config.meters {
            let off = if self.billed.contains(&meter.name) { off } else { "#" };
            let _ = write!(
                text,
                "{off}[stripe.meters.{}]\n{off}event_name = {}\n{off}per_unit = \"1000\"  # thousandths, so that \
                 rounding loses nothing\n\n",
                meter.name,
                quoted(&event_name(meter))
            );
        }
        text
    }

    /// The text of `.env`: names of secrets, and no value.
    pub(super) fn env(&self) -> String {
        let needs = |needed: bool| if needed { "" } else { "#" };
        let (token, key) = (needs(self.is_remote()), needs(self.stripe != StripeUse::None));
        format!(
            "# Secrets of meter, written by `meter init` without values. Keep this file to yourself (mode\n\
             # 0600), and out of version control. meter reads variables, and not this file:\n\
             # `set -a; . ./.env; set +a` in a shell, or EnvironmentFile= of systemd, makes them variables.\n\
             # All variables: docs/configuration.md.\n\n\
             # Access token of the books, when they are on a server (docs/turso.md).\n\
             {token}{TOKEN_VARIABLE}=\n\n\
             # Access to the bills, unless the machine has a role (`meter init --print iam-policy`).\n\
             #AWS_ACCESS_KEY_ID=\n\
             #AWS_SECRET_ACCESS_KEY=\n\n\
             # Stripe's secret key, or a restricted one (docs/stripe-setup.md). Without it nothing is sent.\n\
             {key}{KEY_VARIABLE}=\n\n\
             # Signs notifications to the web backend, with notifications.url: whsec_ and base64.\n\
             #METER_NOTIFICATIONS__SECRET=\n\n\
             # Addresses that get findings and a weekly digest (docs/operator-messages.md).\n\
             #METER_OPERATOR__SLACK_URL=\n\
             #METER_OPERATOR__WEBHOOK_URL=\n\n\
             # Needed to retry and cancel jobs on the status page; at least 16 characters.\n\
             #METER_HTTP__TOKEN=\n\n\
             # Signs links to statements for customers; at least 16 characters (docs/statements.md).\n\
             #METER_HTTP__STATEMENT_KEY=\n\n\
             # Access token of the database that `meter copy` makes; only while it runs.\n\
             #METER_DATABASE__COPY_TOKEN=\n"
        )
    }
}

/// What nobody decided: each as a comment that holds once its `#` is removed.
const OPTIONAL: &str = "\
# Signed notifications to the web backend, at limits and blocks (docs/enforcement.md).
# METER_NOTIFICATIONS__SECRET signs them.
#[notifications]
#url = \"https://example.com/webhooks/meter\"

# What `meter work` serves: metrics, health and the status page, to this machine alone.
#[http]
#listen = \"127.0.0.1:9464\"

# One line of JSON for each event, for a collector of logs.
#[log]
#format = \"json\"

# Buckets that all customers share ([[shared_buckets]]): docs/shared-bucket.md. Meters of your own
# ([[meters]]): CONTRIBUTING.md#add-a-meter; they come beside the built-in ones.
";

/// A value as TOML writes it.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// Stripe's name of a meter that counts thousandths.
fn event_name(meter: &MeterConfig) -> String {
    match meter.name.as_str() {
        "chime_minutes" => "chime_milliminutes".to_owned(),
        name => format!("{name}_thousandths"),
    }
}

/// Where the files will be.
pub(super) struct Targets {
    pub(super) folder: PathBuf,
    pub(super) toml: PathBuf,
    pub(super) env: PathBuf,
}

impl Targets {
    /// The files of a folder.
    ///
    /// # Errors
    /// When one of them is there already, or it is no folder.
    pub(super) fn new(folder: &Path) -> anyhow::Result<Self> {
        if folder.exists() && !folder.is_dir() {
            return Err(BadUsage(format!("--output: {} is no folder; nothing was written", folder.display())).into());
        }
        let targets = Self { folder: folder.to_owned(), toml: folder.join("meter.toml"), env: folder.join(".env") };
        for file in [&targets.toml, &targets.env] {
            // a link to nothing is there, too
            if file.symlink_metadata().is_ok() {
                return Err(taken(file).into());
            }
        }
        // before anything is asked
        let there = folder.ancestors().find(|there| there.is_dir()).unwrap_or(Path::new("."));
        if let Err(why) = NamedTempFile::new_in(there) {
            let (there, why) = (visible::path(there), wording::of_io(&why));
            return Err(BadUsage(format!("--output: {there} cannot be written: {why}; nothing was written")).into());
        }
        Ok(targets)
    }

    /// Writes both files, or none.
    pub(super) fn write(&self, decided: &Decided) -> anyhow::Result<()> {
        std::fs::create_dir_all(&self.folder).with_context(|| format!("{} cannot be made", self.folder.display()))?;
        let toml = self.written(&self.toml, &decided.toml(), 0o644)?;
        let env = self.written(&self.env, &decided.env(), 0o600)?;
        appear(toml, &self.toml)?;
        appear(env, &self.env).inspect_err(|_| drop(std::fs::remove_file(&self.toml)))
    }

    /// A file beside its place, which it takes later.
    fn written(&self, file: &Path, text: &str, mode: u32) -> anyhow::Result<NamedTempFile> {
        let fault = || format!("{} cannot be written", file.display());
        let mut half = NamedTempFile::new_in(&self.folder).with_context(fault)?;
        std::io::Write::write_all(&mut half, text.as_bytes()).with_context(fault)?;
        half.as_file().set_permissions(Permissions::from_mode(mode)).with_context(fault)?;
        Ok(half)
    }
}

/// Puts a file into its place, where none may be.
fn appear(half: NamedTempFile, file: &Path) -> anyhow::Result<()> {
    match half.persist_noclobber(file) {
        Ok(_) => Ok(()),
        Err(error) if error.error.kind() == std::io::ErrorKind::AlreadyExists => Err(taken(file).into()),
        Err(error) => Err(error.error).with_context(|| format!("{} cannot be written", file.display())),
    }
}

fn taken(file: &Path) -> BadUsage {
    BadUsage(format!(
        "{} is there already, and is not overwritten: name another folder (--output FOLDER), or move the file away. \
         Nothing was written",
        file.display()
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::config::DatabaseConfig;

    fn decided(stripe: StripeUse) -> Decided {
        let export = ExportConfig {
            name: "main".into(),
            location: "s3://bills/a \"b\"\\c".into(),
            format: FormatConfig::Cur2,
            payer: "default".into(),
            region: Some("eu-central-1".into()),
            endpoint: Some("https://s3.example.com".into()),
        };
        let database = DatabaseConfig { url: "libsql://books.example.com".into(), ..DatabaseConfig::default() };
        let config =
            Config { tag_key: Some("kunde-ä".into()), database, exports: vec![export.clone()], ..Config::default() };
        let found = Some("CUR 2.0, Parquet, hourly; the newest bill is that of 2026-11".into());
        Decided { config, export, stripe, found, billed: vec!["chime_minutes".into()] }
    }

    /// A configuration that is read from a text.
    fn loaded(text: &str, variables: &[(&str, &str)]) -> Config {
        let file = NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::load(Some(file.path()), variables).unwrap_or_else(|e| panic!("{e}\n{text}"))
    }

    #[test]
    fn the_configuration_says_what_was_decided() {
        let all = decided(StripeUse::Test);
        let config = loaded(&all.toml(), &[]);
        assert_eq!(config.tag_keys(), ["kunde-ä"]);
        assert_eq!(config.database.url, "libsql://books.example.com");
        let export = &config.exports[0];
        assert_eq!((&export.location, &export.region), (&all.export.location, &all.export.region));
        assert_eq!((&export.endpoint, export.format), (&all.export.endpoint, FormatConfig::Cur2));
        assert_eq!(config.stripe.meters.keys().collect::<Vec<_>>(), ["chime_minutes"]);
        assert_eq!((config.stripe.live, config.stripe.grace_hours), (false, 72));
        assert!(loaded(&decided(StripeUse::Live).toml(), &[]).stripe.live);
        let none = loaded(&decided(StripeUse::None).toml(), &[]);
        assert!(none.stripe.meters.is_empty() && none.stripe.grace_hours == 1, "all of it is a comment");
        assert_eq!(none.meters.len(), Config::default().meters.len(), "the built-in meters stay");
    }

    #[test]
    fn what_is_optional_holds_once_it_is_no_comment() {
        let toml = decided(StripeUse::None).toml();
        let uncommented = |line: &str| match line.strip_prefix('#') {
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => rest.to_owned(),
            _ => line.to_owned(),
        };
        let whole: Vec<String> = toml.lines().map(uncommented).collect();
        let config =
            loaded(&whole.join("\n"), &[("METER_NOTIFICATIONS__SECRET", "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz")]);
        assert_eq!(config.stripe.meters.len(), config.meters.len());
        assert!(config.notifications.url.is_some());
    }

    #[test]
    fn the_template_has_no_secret() {
        for stripe in [StripeUse::None, StripeUse::Live] {
            let env = decided(stripe).env();
            let settings: Vec<&str> = env.lines().filter(|line| !line.starts_with("# ") && !line.is_empty()).collect();
            assert!(settings.iter().all(|line| line.ends_with('=')), "{env}");
            assert_eq!(settings.contains(&"METER_STRIPE__KEY="), stripe == StripeUse::Live);
            let set: Vec<(&str, &str)> =
                settings.iter().filter(|l| !l.starts_with('#')).map(|l| (l.trim_end_matches('='), "")).collect();
            loaded(&decided(StripeUse::Test).toml(), &set);
        }
    }

    #[test]
    fn lines_fit_a_terminal() {
        let all = decided(StripeUse::Test);
        for line in all.toml().lines().chain(all.env().lines()) {
            assert!(line.chars().count() <= 100, "{line}");
        }
    }

    #[test]
    fn files_are_written_together_and_never_over_others() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("new/conf");
        let targets = Targets::new(&below).unwrap();
        let mode = |file: &Path| file.metadata().unwrap().mode() & 0o777;
        targets.write(&decided(StripeUse::None)).unwrap();
        assert_eq!((mode(&targets.toml), mode(&targets.env)), (0o644, 0o600));
        assert_eq!(std::fs::read_dir(&below).unwrap().count(), 2, "nothing half is left");
        // somebody else was faster with one of them
        std::fs::remove_file(&targets.toml).unwrap();
        std::fs::write(&targets.env, "A=1").unwrap();
        let why = targets.write(&decided(StripeUse::None)).unwrap_err();
        assert!(why.is::<BadUsage>() && why.to_string().contains("--output FOLDER"), "{why}");
        assert_eq!(std::fs::read_to_string(&targets.env).unwrap(), "A=1");
        assert_eq!(std::fs::read_dir(&below).unwrap().count(), 1, "neither is written");
        assert!(Targets::new(&below).is_err());
        std::fs::remove_file(&targets.env).unwrap();
        std::os::unix::fs::symlink("nowhere", &targets.toml).unwrap();
        assert!(Targets::new(&below).is_err(), "a link to nothing is there, too");
    }
}
