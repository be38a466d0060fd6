//! Why a version is put on hold, and whether what a person accepts is what would be booked. Pure.
//!
//! `reasons` is the one place where a reason is added. A kind of reason says what may have caused
//! it, what is booked when the version is accepted, and which key of the configuration accepts it
//! without a person, if any does. The words are stored with the version, so `meter versions`,
//! `meter status` and the pages say the same.
//!
//! A person accepts what was looked at. [`Acceptance`] names a version and, by a digest, the words
//! that were read. They must be the words that are stored with the newest delivery, which a tick of
//! the schedule may have written anew since, and the words of the reading that is to be booked.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::aggregate::{FaultKind, Totals};
use super::growth::Growth;
use super::guard::Restatement;
use crate::context::HoldPolicy;
use crate::listed::{LISTED, most, shown};
use books::store::audit_log::AuditEntry;
use books::units::calendar::Month;
use books::units::words::{several, verb};
use books::usage::bill::{VersionKey, VersionOnHold, words_digest};

/// Characters of a version that name it, at least.
pub const VERSION_PREFIX: usize = 8;
const NOTHING: &str = "; nothing was booked";

/// What a reason to hold a version is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldKind {
    UnknownLineType,
    Restatement,
    /// Usage that was settled grows by much.
    Growth,
    /// Counted lines are of usage during more than a day.
    LongLines,
    /// Usage on days that the bill cannot have.
    ImpossibleDays,
    UnusableTag,
    UnreadableAmount,
    /// An amount that is a number, and that the books cannot hold.
    TooLargeAmount,
    NegativeAmount,
    UnreadableDay,
    OtherPeriod,
}

/// A reason to hold a version.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct HoldReason {
    pub kind: HoldKind,
    /// What was found, in words.
    pub text: String,
}

impl HoldKind {
    /// What may have caused it.
    pub fn causes(self) -> &'static str {
        match self {
            Self::UnknownLineType => "a line type that is new at AWS",
            Self::Restatement => {
                "a cost allocation tag that was deactivated, an export that was changed, or a restatement by AWS"
            }
            Self::Growth => {
                "another factor of the meter, an export that has each line twice, or a tag that AWS applied to past months"
            }
            Self::LongLines => {
                "an export whose time granularity is monthly (set it to daily or hourly in AWS), or a meter of monthly fees"
            }
            Self::ImpossibleDays => "an export that was changed, or a program that rewrote its files",
            Self::UnusableTag => "a resource with two spellings of the tag key, or a mistyped tag value",
            Self::UnreadableAmount | Self::UnreadableDay | Self::OtherPeriod => {
                "an export that was changed, or a program that rewrote its files"
            }
            Self::TooLargeAmount => "a meter whose unit is too small (`factor`), or a program that rewrote its files",
            Self::NegativeAmount => "a correction of usage by AWS",
        }
    }

    /// What is booked when the version is accepted.
    pub fn if_accepted(self) -> &'static str {
        match self {
            Self::Restatement | Self::Growth => "the new bill replaces what is booked",
            Self::LongLines => "all usage of a line counts on its first day",
            Self::ImpossibleDays => "usage is booked on the days that its lines name",
            Self::UnusableTag => "lines with an unusable tag count as usage without a customer",
            Self::NegativeAmount => "negative amounts reduce the usage of their customer and day",
            Self::UnknownLineType => "lines of unknown types are left out",
            Self::UnreadableAmount => "lines without a readable amount are left out",
            Self::TooLargeAmount => "lines with too large an amount are left out, so nobody pays for that usage",
            Self::UnreadableDay => "lines without a readable day are left out",
            Self::OtherPeriod => "lines of another billing period are left out",
        }
    }

    /// True when the configuration accepts it without a person.
    fn is_allowed(self, policy: &HoldPolicy) -> bool {
        match self {
            Self::UnknownLineType => policy.allow_unknown_line_types,
            Self::Restatement | Self::Growth => policy.accept_restatements,
            Self::LongLines => policy.accept_long_lines,
            // usage that is left out, or on no invoice, is never decided for all bills to come
            Self::ImpossibleDays | Self::TooLargeAmount => false,
            Self::UnusableTag
            | Self::UnreadableAmount
            | Self::NegativeAmount
            | Self::UnreadableDay
            | Self::OtherPeriod => policy.accept_faulty_lines,
        }
    }

    fn of_fault(kind: FaultKind) -> Self {
        match kind {
            FaultKind::Tag => Self::UnusableTag,
            FaultKind::Amount => Self::UnreadableAmount,
            FaultKind::TooLarge => Self::TooLargeAmount,
            FaultKind::Negative => Self::NegativeAmount,
            FaultKind::Day => Self::UnreadableDay,
            FaultKind::Period => Self::OtherPeriod,
        }
    }
}

/// What a version does to the books.
pub(super) struct Changes<'a> {
    pub(super) restatements: &'a [Restatement],
    pub(super) growths: &'a [Growth],
    /// What is wrong with the days of its usage.
    pub(super) impossible_days: Option<&'a str>,
}

/// Everything in a version that a person should look at, accepted by the configuration or not.
pub(super) fn reasons(totals: &Totals, changes: &Changes<'_>) -> Vec<HoldReason> {
    let mut reasons = vec![];
    let mut add = |kind: HoldKind, text: String| reasons.push(HoldReason { kind, text });
    let unknown = &totals.unknown_line_types;
    for found in most(unknown.clone(), |found| found.lines) {
        let (lines, have) = (several(found.lines, "line"), verb(found.lines, "has", "have"));
        let text = format!("{lines} {have} the unknown line type `{}`", shown(&found.line_type));
        add(HoldKind::UnknownLineType, text);
    }
    if let more @ 1.. = unknown.len().saturating_sub(LISTED) {
        let text = format!("and {} more; `meter discover` lists all", several(more, "unknown line type"));
        add(HoldKind::UnknownLineType, text);
    }
    for found in &totals.faults {
        add(HoldKind::of_fault(found.kind), found.to_string());
    }
    for found in changes.restatements {
        add(HoldKind::Restatement, found.to_string());
    }
    for found in changes.growths {
        add(HoldKind::Growth, found.to_string());
    }
    if totals.long_lines > 0 {
        let (lines, are) = (several(totals.long_lines, "counted line"), verb(totals.long_lines, "is", "are"));
        add(HoldKind::LongLines, format!("{lines} {are} of usage during more than a day (monthly granularity)"));
    }
    if let Some(days) = changes.impossible_days {
        add(HoldKind::ImpossibleDays, days.to_owned());
    }
    reasons
}

/// The reasons that a person has to decide.
pub(super) fn undecided(reasons: &[HoldReason], policy: &HoldPolicy) -> Vec<HoldReason> {
    reasons.iter().filter(|r| !r.kind.is_allowed(policy)).cloned().collect()
}

/// What was found, in one line.
pub(super) fn found(reasons: &[HoldReason]) -> String {
    reasons.iter().map(|r| r.text.as_str()).collect::<Vec<_>>().join("; ")
}

/// What may have caused these reasons, each thing once.
pub fn causes(reasons: &[HoldReason]) -> String {
    each(reasons, HoldKind::causes, "; or ")
}

/// What is booked when they are accepted, each thing once.
pub fn if_accepted(reasons: &[HoldReason]) -> String {
    each(reasons, HoldKind::if_accepted, "; ")
}

fn each(reasons: &[HoldReason], words: fn(HoldKind) -> &'static str, between: &str) -> String {
    let mut all: Vec<&str> = vec![];
    for word in reasons.iter().map(|r| words(r.kind)) {
        if !all.contains(&word) {
            all.push(word);
        }
    }
    all.join(between)
}

/// The words that are stored with a version on hold. `usage` names the usage that was read
/// ([`books::usage::ledger::Cells::checksum`]), so that a person who accepts them accepts no other.
pub(super) fn stored(reasons: &[HoldReason], usage: &str) -> String {
    let (found, causes, then) = (found(reasons), causes(reasons), if_accepted(reasons));
    format!("{found}. Likely causes: {causes}. If it is accepted: {then}. Checksum of all its usage: {usage}")
}

/// The decision of a person to book a version that is on hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Acceptance {
    /// The version, or its first characters, [`VERSION_PREFIX`] at least.
    pub version: String,
    /// [`words_digest`] of the words that were read. None in jobs of older builds, which book
    /// nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<String>,
    /// Who decided.
    pub actor: String,
    /// Why; it is kept in the audit log.
    pub reason: String,
}

/// What the audit log keeps of a person who accepts a version.
pub fn accepted_entry((actor, reason): (&str, &str), (version, payer): (&str, &str), month: Month) -> AuditEntry {
    AuditEntry {
        actor: actor.trim().to_owned(),
        action: "ingest --accept".into(),
        target: format!("version {version} of {payer} {month}"),
        reason: reason.trim().to_owned(),
    }
}

/// The command with which a person accepts the version that is on hold with the words of `digest`.
pub fn accept_command(month: Month, version: &str, digest: &str) -> String {
    format!("meter ingest --month {month} --accept {version} --seen {digest} --reason \"why\"")
}

/// What an acceptance is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// The reasons of the newest delivery, in the words that were stored with it.
    Words(String),
    /// Not the newest delivery as it is now, and why not.
    Other(String),
}

/// The version whose name begins with `prefix`.
///
/// # Errors
/// What to do when the prefix is short, or fits no version or several.
pub fn named<'a>(prefix: &str, versions: impl Iterator<Item = &'a str>) -> Result<&'a str, String> {
    let mut versions: Vec<&str> = versions.collect();
    versions.sort_unstable();
    versions.dedup();
    if prefix.chars().count() < VERSION_PREFIX {
        return Err(format!("`{prefix}` is too short: give at least {VERSION_PREFIX} characters of the version"));
    }
    let fits: Vec<&str> = versions.iter().copied().filter(|v| v.starts_with(prefix)).collect();
    match (fits.as_slice(), versions.as_slice()) {
        ([one], _) => Ok(one),
        ([], []) => Err(format!("no version is on hold, so `{prefix}` needs no acceptance: `meter versions`")),
        ([], all) => Err(format!(
            "no version that begins with `{prefix}` is on hold; on hold: {} (`meter versions`)",
            all.join(", ")
        )),
        (several, _) => Err(format!(
            "{} versions on hold begin with `{prefix}`: {}; give more characters",
            several.len(),
            several.join(", ")
        )),
    }
}

/// What `acceptance` says about the delivery `newest`. `on_hold` are the versions of the bill that
/// are on hold.
///
/// # Errors
/// When it names no version that is on hold, or not the words that it is on hold with; what to do.
pub(super) fn accepted(
    acceptance: &Acceptance,
    newest: &VersionKey,
    on_hold: &[VersionOnHold],
    month: Month,
) -> Result<Accepted, String> {
    let prefix = acceptance.version.as_str();
    if acceptance.actor.trim().is_empty() || acceptance.reason.trim().is_empty() {
        return Err(format!("an acceptance needs who decided (`actor`) and why (`reason`); both are kept{NOTHING}"));
    }
    let of_newest = |other: &&VersionOnHold| other.key.version == newest.version;
    if prefix.chars().count() >= VERSION_PREFIX
        && newest.version.starts_with(prefix)
        && !on_hold.iter().any(|h| of_newest(&h))
    {
        let why = format!("version {prefix} was not on hold, so nobody has looked at what was found now");
        return Ok(Accepted::Other(why));
    }
    let version = named(prefix, on_hold.iter().map(|h| h.key.version.as_str()));
    let version = version.map_err(|why| format!("{why}{NOTHING}"))?;
    if version != newest.version {
        let why = format!("version {version} was accepted, but AWS has delivered version {} since", newest.version);
        return Ok(Accepted::Other(why));
    }
    let Some(VersionOnHold { words, .. }) = on_hold.iter().find(|h| h.key == *newest) else {
        let why = "it was put on hold with another manifest or by other rules";
        return Ok(Accepted::Other(format!("version {version} was accepted, but {why}")));
    };
    let digest = words_digest(words);
    let why = match acceptance.seen.as_deref().map(str::trim) {
        Some(seen) if seen == digest => return Ok(Accepted::Words(words.clone())),
        Some(seen) => {
            format!("version {version} is on hold for other reasons by now than those that were seen ({seen})")
        }
        None => format!("which reasons to hold version {version} were seen is not said (`seen`)"),
    };
    let command = accept_command(month, version, &digest);
    // the command is last, to be copied
    Err(format!("{why}{NOTHING}. On hold is: {words}. To accept that: {command}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(version: &str, manifest: &str) -> VersionKey {
        VersionKey { version: version.into(), manifest_digest: manifest.into(), rules_digest: "r".into() }
    }

    #[test]
    fn an_acceptance_is_about_one_version_as_it_was_looked_at() {
        let on_hold = |version: &str, manifest: &str| VersionOnHold {
            key: key(version, manifest),
            words: format!("w{manifest}"),
        };
        let all = [
            on_hold("11111111-aa", "m"),
            on_hold("11111111-bb", "m"),
            on_hold("22222222-cc", "m"),
            on_hold("22222222-cc", "n"),
        ];
        let month = "2026-10".parse().unwrap();
        let acceptance = |version: &str, seen: Option<&str>, reason: &str| {
            let seen = seen.map(words_digest);
            Acceptance { version: version.into(), seen, actor: "ann".into(), reason: reason.into() }
        };
        let sees = |prefix: &str, newest: VersionKey, seen: Option<&str>| match accepted(
            &acceptance(prefix, seen, "asked AWS"),
            &newest,
            &all,
            month,
        ) {
            Ok(Accepted::Words(words)) => format!("accepted {words}"),
            Ok(Accepted::Other(why)) => format!("other: {why}"),
            Err(why) => format!("error: {why}"),
        };
        let says = |prefix: &str, newest: VersionKey| {
            let words = format!("w{}", newest.manifest_digest);
            sees(prefix, newest, Some(&words))
        };
        for (prefix, newest, want) in [
            ("11111111-aa", key("11111111-aa", "m"), "accepted wm"),
            ("11111111-a", key("11111111-aa", "m"), "accepted wm"),
            ("22222222", key("22222222-cc", "n"), "accepted wn"),
            (
                "22222222",
                key("22222222-cc", "o"),
                "other: version 22222222-cc was accepted, but it was put on hold with",
            ),
            ("22222222", key("33333333-dd", "m"), "other: version 22222222-cc was accepted, but AWS has delivered"),
            ("33333333", key("33333333-dd", "m"), "other: version 33333333 was not on hold"),
            ("11111111", key("11111111-aa", "m"), "error: 2 versions on hold begin with `11111111`: 11111111-aa"),
            ("1111111", key("11111111-aa", "m"), "error: `1111111` is too short: give at least 8"),
            (
                "44444444",
                key("11111111-aa", "m"),
                "error: no version that begins with `44444444` is on hold; on hold: 1",
            ),
            ("", key("11111111-aa", "m"), "error: `` is too short"),
        ] {
            assert!(says(prefix, newest).starts_with(want), "{prefix}: {want}");
        }
        let silent = acceptance("22222222", Some("wm"), " ");
        assert!(accepted(&silent, &key("22222222-cc", "m"), &all, month).unwrap_err().contains("why (`reason`)"));
        let command = format!(
            "On hold is: wn. To accept that: meter ingest --month 2026-10 --accept 22222222-cc --seen {} --reason \"why\"",
            words_digest("wn")
        );
        for (seen, why) in [(Some("wm"), "for other reasons by now than those that were seen ("), (None, "(`seen`)")] {
            let found = sees("22222222", key("22222222-cc", "n"), seen);
            assert!(found.starts_with("error: ") && found.contains(why) && found.ends_with(&command), "{found}");
        }
    }

    #[test]
    fn causes_and_effects_are_said_once() {
        let reason = |kind, text: &str| HoldReason { kind, text: text.into() };
        let all = [
            reason(HoldKind::Restatement, "a"),
            reason(HoldKind::Restatement, "b"),
            reason(HoldKind::UnreadableDay, "c"),
        ];
        let words = stored(&all, "0a1b2c3d");
        assert!(words.starts_with("a; b; c. Likely causes: a cost allocation tag that was deactivated, "), "{words}");
        for once in ["deactivated", "rewrote", "replaces what is booked", "without a readable day are left out"] {
            assert_eq!(words.matches(once).count(), 1, "{once}: {words}");
        }
        let policy = HoldPolicy { accept_restatements: true, ..HoldPolicy::default() };
        assert_eq!(undecided(&all, &policy), all[2..]);
        let policy = HoldPolicy { accept_faulty_lines: true, ..HoldPolicy::default() };
        assert_eq!(undecided(&all, &policy), all[..2]);
    }

    /// No key lets usage be left out that somebody has used, or be on no invoice.
    #[test]
    fn some_reasons_are_always_those_of_a_person() {
        let policy = HoldPolicy {
            allow_unknown_line_types: true,
            accept_restatements: true,
            accept_faulty_lines: true,
            accept_long_lines: true,
            ..HoldPolicy::default()
        };
        for (kind, decided) in [
            (HoldKind::TooLargeAmount, false),
            (HoldKind::ImpossibleDays, false),
            (HoldKind::UnreadableAmount, true),
            (HoldKind::UnknownLineType, true),
            (HoldKind::Growth, true),
            (HoldKind::LongLines, true),
        ] {
            let reasons = [HoldReason { kind, text: "a".into() }];
            assert_eq!(undecided(&reasons, &policy).is_empty(), decided, "{kind:?}");
        }
    }
}
