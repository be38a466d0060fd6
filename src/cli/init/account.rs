//! What `meter init --print` prints: what the AWS account and Turso need before meter can read a
//! bill. It is made of arguments alone, without configuration and network.

mod commands;
mod data_export;
mod policy;
mod terraform;

use clap::{Args as ClapArgs, ValueEnum};

use super::questions;
use crate::config::{Config, Location};
use crate::exit::{BadUsage, Exit};
use crate::print;

/// What is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Printed {
    /// The least rights of the role that reads the bills
    IamPolicy,
    /// The policy of the bucket, which lets AWS write the bills
    BucketPolicy,
    /// Bucket, export, role and cost allocation tag for Terraform
    Terraform,
    /// The same as commands of the AWS command line
    AwsCommands,
    /// Commands that make the database, and the tokens of worker and web backend
    Turso,
}

/// Names in the account.
#[derive(Debug, ClapArgs)]
pub(super) struct Names {
    /// With --print: the number of the payer account
    #[arg(long, value_name = "NUMBER", requires = "print")]
    account: Option<String>,
    /// With --print: name of the export
    #[arg(long, value_name = "NAME", default_value = "chitchatter")]
    export: String,
    /// With --print: name of the role that reads the bills
    #[arg(long, value_name = "NAME", default_value = "meter")]
    role: String,
    /// With --print: who may take the role: a service, such as ec2.amazonaws.com or
    /// ecs-tasks.amazonaws.com, or the ARN of a user or role
    #[arg(long, value_name = "WHO", default_value = "ec2.amazonaws.com")]
    trust: String,
    /// With --print: where S3's reports about a shared bucket lie, which the role reads, too
    /// (docs/shared-bucket.md): s3://BUCKET/PREFIX. May be repeated
    #[arg(long, value_name = "PLACE", requires = "print")]
    reports: Vec<String>,
    /// With --print turso: name of the database
    #[arg(long, value_name = "NAME", default_value = "books")]
    turso_database: String,
}

/// The arguments that `--print` knows.
pub(super) struct Given {
    pub(super) bucket: Option<String>,
    pub(super) prefix: Option<String>,
    pub(super) region: Option<String>,
    pub(super) tag: Option<String>,
    pub(super) names: Names,
}

/// Stands for what was not given, and the argument that gives it.
const PLACEHOLDERS: [(&str, &str); 4] = [
    (BUCKET, "--bucket"),
    (PREFIX, "--prefix (an empty one is the whole bucket)"),
    (REGION, "--region"),
    (ACCOUNT, "--account"),
];
const BUCKET: &str = "YOUR-BUCKET";
const PREFIX: &str = "YOUR-PREFIX";
const REGION: &str = "YOUR-REGION";
const ACCOUNT: &str = "YOUR-ACCOUNT-NUMBER";

/// A bucket and a prefix, which is empty or has no `/` at its ends.
struct Place {
    bucket: String,
    prefix: String,
}

/// Checked values, or placeholders. None has a quote, so that each can stand in JSON, in a shell's
/// quotes and in Terraform.
struct Account {
    bills: Place,
    region: String,
    account: String,
    tag: String,
    export: String,
    role: String,
    trust: String,
    reports: Vec<Place>,
    turso_database: String,
}

/// Prints one of them, and names what is a placeholder in it.
pub(super) fn print(what: Printed, given: &Given) -> anyhow::Result<Exit> {
    let text = text(what, &Account::new(given)?)?;
    print::lines(text.trim_end());
    for (placeholder, flag) in PLACEHOLDERS.iter().filter(|(placeholder, _)| text.contains(placeholder)) {
        print::err(format_args!("{placeholder} stands for what was not given: {flag}"));
    }
    Ok(Exit::Ok)
}

fn text(what: Printed, account: &Account) -> anyhow::Result<String> {
    Ok(match what {
        Printed::IamPolicy => policy::of_role(account).json()?,
        Printed::BucketPolicy => policy::of_bucket(account).json()?,
        Printed::Terraform => terraform::module(account)?,
        Printed::AwsCommands => commands::of_aws(account)?,
        Printed::Turso => commands::of_turso(account),
    })
}

impl Account {
    fn new(given: &Given) -> Result<Self, BadUsage> {
        let Given { bucket, prefix, region, tag, names } = given;
        let usage = |flag: &'static str| move |why: String| BadUsage(format!("{flag}: {why}"));
        let bills = match bucket {
            Some(bucket) => {
                let mut place = place(bucket, prefix.as_deref()).map_err(usage("--bucket, --prefix"))?;
                let is_whole = bucket.trim_start_matches("s3://").contains('/');
                if place.prefix.is_empty() && prefix.is_none() && !is_whole {
                    place.prefix = PREFIX.to_owned();
                }
                place
            }
            None => {
                let prefix = prefix.as_deref().map_or(PREFIX, |prefix| prefix.trim_matches('/'));
                Place { bucket: BUCKET.to_owned(), prefix: key(prefix).map_err(usage("--prefix"))? }
            }
        };
        let reports = names.reports.iter().map(|reports| place(reports, None)).collect::<Result<_, _>>();
        let region = region.as_deref().map_or(Ok(REGION.to_owned()), questions::region).map_err(usage("--region"))?;
        let account = names.account.as_deref().map_or(Ok(ACCOUNT.to_owned()), number).map_err(usage("--account"))?;
        let own_tag = Config::default().tag_keys().swap_remove(0);
        Ok(Self {
            bills,
            region,
            account,
            tag: tag_key(tag.as_deref().unwrap_or(&own_tag)).map_err(usage("--tag"))?,
            export: name(&names.export, 128, "-_").map_err(usage("--export"))?,
            role: name(&names.role, 64, "+=,.@-_").map_err(usage("--role"))?,
            trust: principal(&names.trust).map_err(usage("--trust"))?,
            reports: reports.map_err(usage("--reports"))?,
            turso_database: name(&names.turso_database, 64, "-").map_err(usage("--turso-database"))?,
        })
    }
}

/// A bucket with a prefix of characters that need no escape anywhere.
fn place(text: &str, prefix: Option<&str>) -> Result<Place, String> {
    let location = questions::location(text, prefix)?;
    match Location::parse(&location)? {
        Location::Bucket(bucket, prefix) => Ok(Place { bucket, prefix: key(prefix.trim_end_matches('/'))? }),
        Location::Folder(_) => Err(format!("`{text}` is a folder, and a folder needs no rights; name a bucket")),
    }
}

/// A prefix of keys.
fn key(prefix: &str) -> Result<String, String> {
    allowed(prefix, "/!-_.()=")
        .ok_or_else(|| format!("the prefix `{prefix}` has other characters than letters, digits and /!-_.()="))
}

fn allowed(text: &str, more: &str) -> Option<String> {
    text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c)).then(|| text.to_owned())
}

fn number(text: &str) -> Result<String, String> {
    let is_number = text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit());
    if is_number { Ok(text.to_owned()) } else { Err(format!("`{text}` is no account number: 12 digits")) }
}

fn name(text: &str, most: usize, more: &str) -> Result<String, String> {
    let length = (1..=most).contains(&text.len());
    // one that begins with `-` is an option of the printed command
    let plain = allowed(text, more).filter(|_| length && !text.starts_with('-'));
    plain.ok_or_else(|| format!("`{text}` is no name of 1 to {most} letters, digits and {more}"))
}

/// A tag key of AWS's characters.
fn tag_key(text: &str) -> Result<String, String> {
    let text = questions::tag(text)?;
    let plain = text.chars().all(|c| c.is_alphanumeric() || " +-=._:/@".contains(c));
    if plain {
        Ok(text)
    } else {
        Err(format!("`{text}` has other characters than a tag of AWS: letters, digits, blanks and +-=._:/@"))
    }
}

/// A service, or the ARN of a user or role.
fn principal(text: &str) -> Result<String, String> {
    let is_service = text.ends_with(".amazonaws.com") && allowed(text, ".-").is_some();
    let of_account = text.strip_prefix("arn:aws:iam::").and_then(|rest| rest.split_once(':'));
    let is_arn = of_account.is_some_and(|(account, who)| {
        let named = ["role/", "user/"].iter().find_map(|kind| who.strip_prefix(kind));
        number(account).is_ok()
            && (who == "root" || named.is_some_and(|name| !name.is_empty() && allowed(name, "/+=,.@-_").is_some()))
    });
    if is_service || is_arn {
        Ok(text.to_owned())
    } else {
        Err(format!("`{text}` is neither SERVICE.amazonaws.com nor arn:aws:iam::NUMBER:…"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(bucket: Option<&str>, prefix: Option<&str>) -> Given {
        let names = Names {
            account: Some("111122223333".into()),
            export: "chitchatter".into(),
            role: "meter".into(),
            trust: "ec2.amazonaws.com".into(),
            reports: vec![],
            turso_database: "books".into(),
        };
        let (bucket, prefix) = (bucket.map(str::to_owned), prefix.map(str::to_owned));
        Given { bucket, prefix, region: Some("eu-central-1".into()), tag: None, names }
    }

    #[test]
    fn what_is_not_given_is_a_placeholder() {
        let of = |bucket, prefix| {
            let Place { bucket, prefix } = Account::new(&given(bucket, prefix)).unwrap().bills;
            format!("{bucket} {prefix}")
        };
        assert_eq!(of(None, None), "YOUR-BUCKET YOUR-PREFIX");
        assert_eq!(of(None, Some("/a/")), "YOUR-BUCKET a");
        assert_eq!(of(Some("bills"), None), "bills YOUR-PREFIX");
        assert_eq!(of(Some("bills"), Some("")), "bills ");
        assert_eq!(of(Some("bills"), Some("a/b/")), "bills a/b");
        assert_eq!(of(Some("s3://bills/a"), None), "bills a");
        assert_eq!(of(Some("s3://bills/"), None), "bills ");
    }

    #[test]
    fn what_would_need_an_escape_is_refused() {
        let refused = |change: fn(&mut Given)| {
            let mut given = given(Some("bills"), Some("a"));
            change(&mut given);
            Account::new(&given).map(|_| ()).unwrap_err().to_string()
        };
        for (why, said) in [
            (refused(|g| g.prefix = Some("a'b".into())), "--bucket, --prefix: the prefix `a'b`"),
            (refused(|g| g.prefix = Some("a*".into())), "has other characters"),
            (refused(|g| g.bucket = Some("./bucket".into())), "a folder has no prefix"),
            (refused(|g| (g.bucket, g.prefix) = (Some("./b".into()), None)), "name a bucket"),
            (refused(|g| g.region = Some("Ireland".into())), "--region: `Ireland`"),
            (refused(|g| g.tag = Some("a\"b".into())), "--tag: `a\"b`"),
            (refused(|g| g.tag = Some("${x}".into())), "--tag"),
            (refused(|g| g.names.account = Some("1".into())), "12 digits"),
            (refused(|g| g.names.export = "a b".into()), "--export"),
            (refused(|g| g.names.role = String::new()), "--role"),
            (refused(|g| g.names.trust = "everybody".into()), "--trust"),
            (refused(|g| g.names.trust = "arn:aws:iam::".into()), "--trust"),
            (refused(|g| g.names.trust = "arn:aws:iam::111122223333:role/".into()), "--trust"),
            (refused(|g| g.region = Some("-----".into())), "--region"),
            (refused(|g| g.names.turso_database = "-z".into()), "--turso-database"),
            (refused(|g| g.names.reports = vec!["s3://reports/a b".into()]), "--reports"),
            (refused(|g| g.names.turso_database = "a;b".into()), "--turso-database"),
        ] {
            assert!(why.contains(said), "{why} has no {said}");
        }
    }

    #[test]
    fn every_text_has_the_names_that_were_given() {
        let mut given = given(Some("bills"), Some("exports"));
        given.names.reports = vec!["s3://reports/inventory/uploads/meter".into()];
        let account = Account::new(&given).unwrap();
        for what in Printed::value_variants() {
            let text = text(*what, &account).unwrap();
            assert!(!text.contains("YOUR-") && text.ends_with(['\n', '}']), "{text}");
            for line in text.lines().filter(|line| line.trim_start().starts_with('#')) {
                assert!(line.chars().count() <= 80, "{line}");
            }
        }
        assert_eq!(policy::of_role(&account).json().unwrap().matches("s3:GetObject").count(), 2);
    }

    #[test]
    fn who_takes_the_role_and_where_the_bucket_is_change_the_commands() {
        let printed = |change: fn(&mut Given)| {
            let mut given = given(Some("bills"), Some(""));
            change(&mut given);
            let account = Account::new(&given).unwrap();
            [Printed::AwsCommands, Printed::Terraform].map(|what| text(what, &account).unwrap())
        };
        for text in printed(|_| ()) {
            assert!(
                text.contains("ec2.amazonaws.com")
                    && text.to_lowercase().replace(['_', '-'], "").contains("instanceprofile")
            );
            assert!(text.contains("arn:aws:s3:::bills/*") && !text.contains("s3:prefix"), "the whole bucket: {text}");
        }
        let arn = "arn:aws:iam::111122223333:user/worker";
        for text in printed(|g| g.names.trust = "arn:aws:iam::111122223333:user/worker".into()) {
            let has_profile = text.to_lowercase().replace(['_', '-'], "").contains("instanceprofile");
            assert!(text.contains(arn) && text.contains("\"AWS\"") && !has_profile, "{text}");
        }
        let [elsewhere, _] = printed(|_| ());
        let [here, _] = printed(|g| g.region = Some("us-east-1".into()));
        assert!(
            elsewhere.contains("LocationConstraint") && !here.contains("LocationConstraint"),
            "AWS refuses it there"
        );
    }
}
