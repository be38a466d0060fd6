//! Whose an object or a request in a shared bucket is.
//!
//! A customer is named by the object's key, by a parameter of the request, by what the web backend
//! recorded of the upload, or by several of them. What names nobody, or two, or somebody in a form
//! that is no id of a customer, is nobody's: a guess would be on somebody's invoice. Ids are
//! compared byte by byte. Nothing is normalised, because S3 does not: `c/../x` is a key like any
//! other.
//!
//! Regular expressions are those of the crate `regex`, which takes time linear in the key. What it
//! makes of a pattern is limited, so that the factor stays small.

use std::borrow::Cow;
use std::sync::Arc;

use super::uploads::{RecordedOwner, UploadsOfDay};
use books::units::form::{CUSTOMER_ID, is_name};
use memchr::{memchr, memchr_iter};
use regex::{Regex, RegexBuilder};

/// The group that is the customer, and its place in the beginning of a key.
const GROUP: &str = "customer";
const PLACE: &str = "{customer}";
/// Longest pattern, in bytes; S3's keys have as many.
const PATTERN_BYTES: usize = 1024;
/// Bytes of a compiled pattern.
const COMPILED_BYTES: usize = 1 << 20;
/// Groups inside each other.
const DEPTH: u32 = 32;
/// Longest name of a parameter.
const PARAMETER_BYTES: usize = 64;

/// How keys and requests of a bucket name a customer.
#[derive(Clone, Debug)]
pub struct CustomerRule {
    key: Option<KeyRule>,
    parameter: Option<String>,
    /// What is recorded of the day that is read; none when it does not count.
    uploads: Option<Arc<UploadsOfDay>>,
}

/// How keys name a customer: what [`key_beginning`] or [`key_pattern`] makes.
#[derive(Clone, Debug)]
pub struct KeyRule(Form);

#[derive(Clone, Debug)]
enum Form {
    /// What stands before, between and behind the `/` of the beginning of a key.
    Beginning(Vec<Part>),
    Pattern(Regex),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Any,
    /// The customer behind a text.
    Customer(String),
}

impl KeyRule {
    /// The text that stands for the customer.
    fn find<'a>(&self, key: &'a str) -> Option<&'a str> {
        match &self.0 {
            Form::Beginning(parts) => find_at_beginning(parts, key),
            Form::Pattern(pattern) => Some(pattern.captures(key)?.name(GROUP)?.as_str()),
        }
    }
}

fn find_at_beginning<'a>(parts: &[Part], key: &'a str) -> Option<&'a str> {
    let mut found = None;
    let mut rest = Some(key);
    for (at, part) in parts.iter().enumerate() {
        let key = rest?;
        let text;
        (text, rest) = match memchr(b'/', key.as_bytes()) {
            Some(end) => (&key[..end], Some(&key[end + 1..])),
            None => (key, None),
        };
        match part {
            Part::Any => {}
            // a key may go on behind the last part
            Part::Text(expected) if at + 1 == parts.len() => text.strip_prefix(expected.as_str()).map(drop)?,
            Part::Text(expected) => (text == expected).then_some(())?,
            Part::Customer(before) => {
                found = text.strip_prefix(before.as_str()).filter(|customer| !customer.is_empty());
                found?;
            }
        }
    }
    found
}

/// Who an object or a request belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner<'a> {
    Customer(Cow<'a, str>),
    Nobody,
    /// Two customers are named; it is nobody's.
    Contradiction,
    /// What names the customer is no id of one, or is not encoded rightly; it is nobody's.
    Unusable,
}

impl Owner<'_> {
    /// The customer; empty for nobody.
    pub fn customer(&self) -> &str {
        match self {
            Self::Customer(customer) => customer,
            Self::Nobody | Self::Contradiction | Self::Unusable => "",
        }
    }

    /// Who it is when another source says something, too.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Unusable, _) | (_, Self::Unusable) => Self::Unusable,
            (Self::Nobody, owner) | (owner, Self::Nobody) => owner,
            (one, other) if one == other => one,
            _ => Self::Contradiction,
        }
    }
}

impl CustomerRule {
    /// A rule of keys, and of a parameter that [`parameter_fault`] accepts.
    pub fn new(key: Option<KeyRule>, parameter: Option<String>) -> Self {
        Self { key, parameter, uploads: None }
    }

    /// The same rule, by which recorded uploads name their customer, too.
    pub fn with_uploads(self, uploads: Arc<UploadsOfDay>) -> Self {
        Self { uploads: Some(uploads), ..self }
    }

    /// The customer that an object names. The key is as S3 has it: not encoded.
    pub fn of_key<'a>(&'a self, key: &'a str) -> Owner<'a> {
        self.named_by_key(key).and(self.recorded(key))
    }

    /// When an object was deleted before its lifecycle rule ended it, in seconds since 1970.
    pub fn deleted_at(&self, key: &[u8]) -> Option<i64> {
        self.uploads.as_ref()?.deleted_at(key)
    }

    /// The customer that a request names. The key is as S3 has it, not encoded; empty for a request
    /// without one. The URI is as the log has it: `GET /key?x-cc=acme HTTP/1.1`.
    ///
    /// How often a log has encoded a key depends on the operation: mostly twice, and once in
    /// `BATCH.DELETE.OBJECT` and `S3.EXPIRE.OBJECT`
    /// (<https://engineeringblog.yelp.com/2025/09/s3-server-access-logs-at-scale.html>).
    pub fn of_request<'a>(&'a self, key: &'a str, uri: &'a str) -> Owner<'a> {
        self.named_by_key(key).and(self.named_by_parameter(uri)).and(self.recorded(key))
    }

    /// The rule as a text, for the digest of what is read by it.
    pub fn digest_text(&self) -> String {
        format!("{self:?}")
    }

    fn recorded(&self, key: &str) -> Owner<'_> {
        match self.uploads.as_ref().map_or(RecordedOwner::Nobody, |uploads| uploads.owner(key)) {
            RecordedOwner::Customer(customer) => Owner::Customer(Cow::Borrowed(customer)),
            RecordedOwner::Nobody => Owner::Nobody,
            RecordedOwner::Contradiction => Owner::Contradiction,
        }
    }

    fn named_by_key<'a>(&self, key: &'a str) -> Owner<'a> {
        match self.key.as_ref().and_then(|rule| rule.find(key)) {
            Some(customer) => named(Cow::Borrowed(customer)),
            None => Owner::Nobody,
        }
    }

    fn named_by_parameter<'a>(&self, uri: &'a str) -> Owner<'a> {
        let Some(parameter) = &self.parameter else { return Owner::Nobody };
        let Some(start) = memchr(b'?', uri.as_bytes()) else { return Owner::Nobody };
        let query = &uri[start + 1..];
        // a blank ends the address; only the protocol's version may follow
        let (query, version) = query.split_once(' ').unwrap_or((query, "HTTP/"));
        let mut found = Owner::Nobody;
        let ends = memchr_iter(b'&', query.as_bytes()).chain([query.len()]);
        let mut start = 0;
        for end in ends {
            let part = &query[start..end];
            start = end + 1;
            let Some(value) = value_of(part, parameter) else { continue };
            let is_written_rightly = value.bytes().all(is_of_query) && version.starts_with("HTTP/");
            let owner = match percent_decoded(value).filter(|_| is_written_rightly) {
                Some(customer) => named(customer),
                None => Owner::Unusable,
            };
            found = found.and(owner);
        }
        found
    }
}

/// The value in `name=value` when the name is `parameter`, which stands there encoded or not.
fn value_of<'a>(part: &'a str, parameter: &str) -> Option<&'a str> {
    // most parameters are others, and a look at the first byte is enough for those
    let begins_alike = part.as_bytes().first() == parameter.as_bytes().first();
    if !begins_alike && !part.starts_with('%') {
        return None;
    }
    let (name, value) = part.split_once('=').unwrap_or((part, ""));
    let is_it = name == parameter || (name.contains('%') && percent_decoded(name).as_deref() == Some(parameter));
    is_it.then_some(value)
}

fn named(customer: Cow<'_, str>) -> Owner<'_> {
    // most are plain, and a log has millions: a look at the bytes is enough for those
    let is_short = (1..=CUSTOMER_ID).contains(&customer.len());
    let is_plain = is_short && customer.bytes().all(|byte| byte.is_ascii_graphic());
    if is_plain || is_name(&customer, CUSTOMER_ID) { Owner::Customer(customer) } else { Owner::Unusable }
}

/// Whether the query of an address may contain the byte
/// (<https://www.rfc-editor.org/rfc/rfc3986#section-3.4>).
fn is_of_query(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?%".contains(&byte)
}

/// A text without its percent-encoding, decoded once
/// (<https://www.rfc-editor.org/rfc/rfc3986#section-2.1>): `+` is a plus sign. None when a percent
/// sign has not two hexadecimal digits behind it, or the result is not UTF-8.
pub fn percent_decoded(text: &str) -> Option<Cow<'_, str>> {
    let Some(first) = memchr(b'%', text.as_bytes()) else { return Some(Cow::Borrowed(text)) };
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut bytes = text.bytes();
    let mut decoded: Vec<u8> = bytes.by_ref().take(first).collect();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => 16 * bytes.next().and_then(digit)? + bytes.next().and_then(digit)?,
            byte => byte,
        });
    }
    String::from_utf8(decoded).ok().map(Cow::Owned)
}

/// A beginning of keys, like `c/{customer}/`: `{customer}` is what stands there up to the next `/`
/// or the end, and `*` is any one part between two `/`.
///
/// # Errors
/// What is wrong with it.
pub fn key_beginning(text: &str) -> Result<KeyRule, String> {
    if text.matches(PLACE).count() != 1 {
        return Err(format!("it must contain `{PLACE}` once, as in `c/{PLACE}/`"));
    }
    if text.replacen(PLACE, "", 1).contains(['{', '}', '…']) {
        return Err(format!(
            "`{{`, `}}` and `…` stand for nothing here but in `{PLACE}`; write only how keys begin, or a regular \
             expression as `customer_pattern`"
        ));
    }
    let part = |part: &str| match part.split_once(PLACE) {
        _ if part == "*" => Ok(Part::Any),
        _ if part.contains('*') => Err(format!("`*` is a whole part between two `/`, and `{part}` is more than that")),
        Some((before, "")) => Ok(Part::Customer(before.to_owned())),
        Some((_, after)) => Err(format!(
            "`{after}` follows `{PLACE}`, and it can be part of an id; only `/` or nothing may follow. A regular \
             expression as `customer_pattern` can say more"
        )),
        None => Ok(Part::Text(part.to_owned())),
    };
    Ok(KeyRule(Form::Beginning(text.split('/').map(part).collect::<Result<_, _>>()?)))
}

/// A regular expression that fits whole keys. Its group `customer` is the customer; `.` is any
/// character, also the end of a line.
///
/// # Errors
/// What is wrong with it.
pub fn key_pattern(text: &str) -> Result<KeyRule, String> {
    if text.len() > PATTERN_BYTES {
        return Err(format!("it has {} bytes; at most {PATTERN_BYTES} are allowed", text.len()));
    }
    // on its own first: `a)|(b` is no pattern, and would become one in a group
    let alone = compiled(text)?;
    if !alone.capture_names().flatten().any(|name| name == GROUP) {
        return Err(format!("it has no group named `{GROUP}`; write `(?<{GROUP}>[^/]+)` where a key has the customer"));
    }
    Ok(KeyRule(Form::Pattern(compiled(&format!(r"\A(?:{text})\z"))?)))
}

fn compiled(pattern: &str) -> Result<Regex, String> {
    let mut builder = RegexBuilder::new(pattern);
    builder.dot_matches_new_line(true).size_limit(COMPILED_BYTES).nest_limit(DEPTH);
    builder.build().map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => {
            "it is too large: write `+` in place of large counts, and `[a-z0-9]` in place of `\\w`".to_owned()
        }
        error => {
            let text = error.to_string();
            let why = text.lines().last().unwrap_or_default();
            format!("it is no regular expression: {}", why.strip_prefix("error: ").unwrap_or(why))
        }
    })
}

/// What is wrong with the name of a parameter: S3 takes part only in those that do not begin with
/// `x-`, and in `x-amz-…`
/// (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/LogFormat.html#LogFormatCustom>).
pub fn parameter_fault(name: &str) -> Option<String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    if !name.starts_with("x-") || name.len() < 3 || name.to_ascii_lowercase().starts_with("x-amz-") {
        return Some(
            "S3 ignores only parameters that begin with `x-`, and not with `x-amz-`: take a name like `x-cc`".into(),
        );
    }
    (name.len() > PARAMETER_BYTES || !name.bytes().all(is_plain))
        .then(|| format!("it has 1 to {PARAMETER_BYTES} letters, digits, `-`, `.`, `_` and `~`"))
}

#[cfg(test)]
mod tests;
