//! What `meter init` asks a person, and how an answer becomes a value.

use std::io::{self, BufRead, IsTerminal};

use crate::cli::checks::Check;
use crate::config::{Config, Location, TOKEN_VARIABLE, database_fault};
use crate::exit::BadUsage;
use crate::print::{self, OutputFormat};

/// Asks on the terminal, where there is one.
pub(super) struct Questions<R> {
    /// None when nobody can be asked.
    answers: Option<R>,
    format: OutputFormat,
}

impl Questions<io::StdinLock<'static>> {
    /// Whoever wants JSON is not asked.
    pub(super) fn of_this_terminal(format: OutputFormat) -> Self {
        let stdin = io::stdin();
        let can_ask = format == OutputFormat::Text && stdin.is_terminal();
        Self { answers: can_ask.then(|| stdin.lock()), format }
    }
}

impl<R: BufRead> Questions<R> {
    pub(super) fn can_ask(&self) -> bool {
        self.answers.is_some()
    }

    /// Shows what was found so far; JSON has it at the end.
    pub(super) fn show(&self, found: &[Check]) {
        for Check { what, verdict, found, act } in found.iter().filter(|_| self.format == OutputFormat::Text) {
            let (mark, word) = verdict.mark();
            let lines = print::items::wrapped(&format!("{word}  {what}: {found}"), 0);
            let mut lines = lines.iter();
            lines.next().iter().for_each(|line| print::marked((mark, word), &line[word.len()..]));
            lines.for_each(|line| print::out(line));
            if !act.is_empty() {
                print::items::wrapped(&format!("-> {act}"), 7).iter().for_each(|line| print::out(line));
            }
        }
    }

    /// Asks until `read` takes the answer; an empty one stands for the default, if there is one.
    ///
    /// # Errors
    /// When nobody can be asked, or the input ends.
    pub(super) fn ask<T>(
        &mut self,
        question: &str,
        default: Option<&str>,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> anyhow::Result<T> {
        let shown = default.map_or(String::new(), |default| format!(" [{default}]"));
        print::items::wrapped(&format!("{question}{shown}"), 0).iter().for_each(|line| print::out(line));
        loop {
            let mut answer = String::new();
            let there = match &mut self.answers {
                Some(answers) => answers.read_line(&mut answer)? > 0,
                None => false,
            };
            if !there {
                return Err(BadUsage("the input ended before all was answered; nothing was written".into()).into());
            }
            let answer = match (answer.trim(), default) {
                ("", Some(default)) => default,
                (answer, _) => answer,
            };
            match read(answer) {
                Ok(value) => return Ok(value),
                Err(why) => say(&format!("{why}. Once more:")),
            }
        }
    }

    /// The value of a flag, else an answer; where nobody can be asked, the default.
    ///
    /// # Errors
    /// When the flag's value is refused.
    pub(super) fn settle<T>(
        &mut self,
        (flag, given): (&str, Option<&str>),
        question: &str,
        default: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> anyhow::Result<T> {
        match given {
            Some(given) => Ok(read(given).map_err(|why| BadUsage(format!("{flag}: {why}; nothing was written")))?),
            None if self.can_ask() => self.ask(question, Some(default), read),
            None => read(default).map_err(anyhow::Error::msg),
        }
    }
}

/// Prints prose in lines of 80 columns.
pub(super) fn say(text: &str) {
    print::items::wrapped(text, 0).iter().for_each(|line| print::out(line.trim_end()));
}

/// Where the bills are, as `exports[].location` has it: of a bucket's name, of `s3://bucket/prefix`
/// or of a folder, which begins with `/` or `.`.
pub(super) fn location(text: &str, prefix: Option<&str>) -> Result<String, String> {
    let text = text.trim();
    let is_folder = matches!(text, "." | "..") || ["/", "./", "../", "file://"].iter().any(|s| text.starts_with(s));
    if !is_folder && !text.contains("://") && text.contains('/') {
        return Err(format!("write s3://{text} for a bucket and its prefix, or ./{text} for a folder"));
    }
    if text.contains("://") && !is_folder && !text.starts_with("s3://") {
        Location::parse(text)?;
    }
    let prefix = prefix.map(|prefix| prefix.trim().trim_matches('/')).filter(|prefix| !prefix.is_empty());
    let whole = match (text.strip_prefix("s3://"), prefix) {
        (_, Some(_)) if is_folder => return Err(format!("`{text}` is a folder, and a folder has no prefix")),
        (Some(rest), Some(_)) if rest.trim_end_matches('/').contains('/') => {
            return Err(format!("`{text}` has a prefix already; give it once"));
        }
        _ if is_folder => text.to_owned(),
        (rest, prefix) => {
            let bucket = rest.unwrap_or(text).trim_end_matches('/');
            prefix.map_or_else(|| format!("s3://{bucket}"), |prefix| format!("s3://{bucket}/{prefix}"))
        }
    };
    if whole.chars().any(char::is_control) {
        return Err("it has a control character".to_owned());
    }
    Location::parse(&whole)?;
    Ok(whole)
}

/// The name of an AWS region.
pub(super) fn region(text: &str) -> Result<String, String> {
    let is_of_aws = text.trim_end_matches('-').contains('-');
    let why = Config::region_fault(text, None).or((!is_of_aws).then(|| Config::no_region(text)));
    why.map_or_else(|| Ok(text.to_owned()), Err)
}

/// A key of the customer tag that the rules take.
pub(super) fn tag(text: &str) -> Result<String, String> {
    Config::tag_key_fault(text).map_or_else(|| Ok(text.to_owned()), Err)
}

/// A place of the books.
pub(super) fn database(text: &str) -> Result<String, String> {
    database_fault(text, TOKEN_VARIABLE).map_or_else(|| Ok(text.to_owned()), Err)
}

/// Whether an account of Stripe's is billed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum StripeUse {
    /// Nothing is billed
    None,
    /// A test account
    Test,
    /// Real money
    Live,
}

pub(super) fn stripe(text: &str) -> Result<StripeUse, String> {
    clap::ValueEnum::from_str(text, true).map_err(|_| format!("`{text}` is none of none, test and live"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_bucket_with_its_prefix_or_a_folder() {
        for (text, prefix, place) in [
            ("my-bills", None, "s3://my-bills"),
            (" my-bills ", Some("/exports/a/"), "s3://my-bills/exports/a"),
            ("my-bills", Some(""), "s3://my-bills"),
            ("s3://my-bills", Some("a"), "s3://my-bills/a"),
            ("s3://my-bills/", Some("a"), "s3://my-bills/a"),
            ("s3://my-bills/exports", None, "s3://my-bills/exports"),
            ("./bucket", None, "./bucket"),
            ("/data/bills", None, "/data/bills"),
            (".", None, "."),
            ("file:///data", None, "file:///data"),
        ] {
            assert_eq!(location(text, prefix).as_deref(), Ok(place), "{text} {prefix:?}");
        }
        for (text, prefix, why) in [
            ("", None, "no bucket name"),
            ("My_Bills!", None, "no bucket name"),
            ("bills/exports", None, "write s3://bills/exports for a bucket and its prefix, or ./bills/exports"),
            ("s3://my-bills/a", Some("b"), "has a prefix already"),
            ("./bucket", Some("b"), "a folder has no prefix"),
            ("https://my-bills", None, "neither s3://"),
            ("file://data", None, "three slashes"),
            ("my-bills", Some("a\nb"), "control character"),
        ] {
            let said = location(text, prefix).unwrap_err();
            assert!(said.contains(why), "{text} {prefix:?}: {said}");
        }
    }

    #[test]
    fn values_are_refused_with_a_reason() {
        assert!(region("eu-central-1").is_ok() && region("Frankfurt").is_err() && region("").is_err());
        assert!(tag("customer").is_ok() && tag("--").unwrap_err().contains("no letter and no digit"));
        assert!(tag(&"x".repeat(129)).unwrap_err().contains("1 to 128 characters"));
        assert!(database("meter.db").is_ok() && database("libsql://books.turso.io").is_ok());
        let said = database("libsql://books.turso.io?authToken=abc").unwrap_err();
        assert!(said.contains("METER_DATABASE__TOKEN") && !said.contains("abc"), "{said}");
        assert_eq!(stripe("Test"), Ok(StripeUse::Test));
        assert!(stripe("sk_live_1").is_err());
    }

    fn asked(answers: &str) -> Questions<&[u8]> {
        Questions { answers: Some(answers.as_bytes()), format: OutputFormat::Text }
    }

    #[test]
    fn an_empty_answer_is_the_default_and_a_bad_one_is_asked_again() {
        let mut questions = asked("\nFrankfurt\n\nus-west-2\n");
        assert_eq!(questions.ask("region", Some("eu-central-1"), region).unwrap(), "eu-central-1");
        assert_eq!(questions.ask("region", None, region).unwrap(), "us-west-2", "empty is no region");
        let ended = questions.ask("region", Some("eu-central-1"), region).unwrap_err();
        assert!(ended.is::<BadUsage>() && ended.to_string().contains("nothing was written"), "{ended}");
    }

    #[test]
    fn a_flag_is_not_asked_for_and_where_nobody_is_there_the_default_holds() {
        let mut questions = asked("us-west-2\n");
        let mut settle = |given| questions.settle(("--region", given), "region", "eu-central-1", region);
        assert_eq!(settle(Some("us-east-1")).unwrap(), "us-east-1");
        assert_eq!(settle(None).unwrap(), "us-west-2");
        let refused = settle(Some("here")).unwrap_err();
        assert!(refused.is::<BadUsage>() && refused.to_string().starts_with("--region: `here`"), "{refused}");
        let mut nobody = Questions::<&[u8]> { answers: None, format: OutputFormat::Text };
        assert_eq!(nobody.settle(("--region", None), "region", "eu-central-1", region).unwrap(), "eu-central-1");
    }
}
