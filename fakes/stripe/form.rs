//! The parameters of a request, read strictly: a parameter that the endpoint does not read is an
//! error.

use std::collections::{BTreeMap, BTreeSet};

use crate::answers::{self, Answer};

/// The parameters that have not been read yet.
#[derive(Clone, Debug)]
pub(crate) struct Params {
    pairs: Vec<(String, String)>,
}

impl Params {
    /// The parameters of the query and of the body.
    pub(crate) fn new(query: &str, body: &[u8]) -> Self {
        let read = |text: &[u8]| -> Vec<(String, String)> {
            form_urlencoded::parse(text).map(|(name, value)| (name.into_owned(), value.into_owned())).collect()
        };
        let mut pairs = read(query.as_bytes());
        pairs.extend(read(body));
        Self { pairs }
    }

    /// All parameters by name.
    pub(crate) fn by_name(&self) -> BTreeMap<String, String> {
        self.pairs.iter().cloned().collect()
    }

    fn take(&mut self, name: &str) -> Option<String> {
        let place = self.pairs.iter().rposition(|(given, _)| given == name)?;
        let (_, value) = self.pairs.swap_remove(place);
        self.pairs.retain(|(given, _)| given != name);
        Some(value)
    }

    /// A text of at most so many characters.
    pub(crate) fn string(&mut self, name: &str, most: usize) -> Result<Option<String>, Answer> {
        let Some(value) = self.take(name) else { return Ok(None) };
        if value.is_empty() {
            let message = format!(
                "You passed an empty string for '{name}'. We assume empty values are an attempt to unset a parameter; \
                 however '{name}' cannot be unset. You should remove '{name}' from your request or supply a non-empty \
                 value."
            );
            return Err(answers::refused("parameter_invalid_empty", &message, name));
        }
        if value.chars().count() > most {
            let message = format!("Invalid string: {value}; must be at most {most} characters");
            return Err(answers::invalid(&message, Some(name)));
        }
        Ok(Some(value))
    }

    /// A required text.
    pub(crate) fn required(&mut self, name: &str, most: usize) -> Result<String, Answer> {
        self.string(name, most)?.ok_or_else(|| answers::missing(name))
    }

    pub(crate) fn integer(&mut self, name: &str) -> Result<Option<i64>, Answer> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let refuse = |_| answers::refused("parameter_invalid_integer", &format!("Invalid integer: {value}"), name);
        value.parse().map(Some).map_err(refuse)
    }

    /// A required whole number.
    pub(crate) fn required_integer(&mut self, name: &str) -> Result<i64, Answer> {
        self.integer(name)?.ok_or_else(|| answers::missing(name))
    }

    pub(crate) fn boolean(&mut self, name: &str) -> Result<Option<bool>, Answer> {
        let given = self.one_of(name, &["true", "false"])?;
        Ok(given.map(|value| value == "true"))
    }

    /// One of a few words.
    pub(crate) fn one_of(&mut self, name: &str, words: &[&str]) -> Result<Option<String>, Answer> {
        let Some(value) = self.take(name) else { return Ok(None) };
        if !words.contains(&value.as_str()) {
            let message = format!("Invalid {name}: must be one of {}", words.join(", "));
            return Err(answers::invalid(&message, Some(name)));
        }
        Ok(Some(value))
    }

    /// A list: `name[]` repeated, or `name[0]`, `name[1]`, …
    pub(crate) fn list(&mut self, name: &str) -> Vec<String> {
        let is_index = |within: &str| within.bytes().all(|byte| byte.is_ascii_digit());
        let taken = self.pairs.extract_if(.., |(given, _)| bracketed(given, name).is_some_and(is_index));
        taken.map(|(_, value)| value).collect()
    }

    /// The places of a list of objects, in order: `name[0]`, `name[1]`, … of `name[0][key]`.
    pub(crate) fn places(&self, name: &str) -> Vec<String> {
        let number = |given: &str| -> Option<u32> {
            let (index, _) = given.strip_prefix(name)?.strip_prefix('[')?.split_once(']')?;
            index.parse().ok()
        };
        let numbers: BTreeSet<u32> = self.pairs.iter().filter_map(|(given, _)| number(given)).collect();
        numbers.into_iter().map(|number| format!("{name}[{number}]")).collect()
    }

    /// A map: `name[key]`.
    pub(crate) fn map(&mut self, name: &str) -> BTreeMap<String, String> {
        let is_key = |within: &str| !within.is_empty() && !within.contains(['[', ']']);
        let taken = self.pairs.extract_if(.., |(given, _)| bracketed(given, name).is_some_and(is_key));
        let keyed = |(given, value): (String, String)| bracketed(&given, name).map(|key| (key.to_owned(), value));
        taken.filter_map(keyed).collect()
    }

    /// An instant or a range of instants: `name`, `name[gt]`, `name[gte]`, `name[lt]`,
    /// `name[lte]`.
    pub(crate) fn range(&mut self, name: &str) -> Result<Range, Answer> {
        Ok(Range {
            exactly: self.integer(name)?,
            gt: self.integer(&format!("{name}[gt]"))?,
            gte: self.integer(&format!("{name}[gte]"))?,
            lt: self.integer(&format!("{name}[lt]"))?,
            lte: self.integer(&format!("{name}[lte]"))?,
        })
    }

    /// The fields to expand. One that the endpoint cannot expand is an error.
    pub(crate) fn expand(&mut self, known: &[&str]) -> Result<Vec<String>, Answer> {
        let asked = self.list("expand");
        match asked.iter().find(|field| !known.contains(&field.as_str())) {
            Some(field) => Err(not_expandable(field)),
            None => Ok(asked),
        }
    }

    /// Refuses the parameters that were not read. `expand` is refused where the fake does not
    /// implement it, instead of being ignored.
    pub(crate) fn finish(mut self) -> Result<(), Answer> {
        if let Some(property) = self.list("expand").first() {
            return Err(not_expandable(property));
        }
        match self.pairs.first() {
            Some((name, _)) => Err(answers::unknown(name)),
            None => Ok(()),
        }
    }
}

fn not_expandable(property: &str) -> Answer {
    answers::invalid(&format!("This property cannot be expanded ({property})."), Some("expand"))
}

/// The text between the brackets of `name[…]`.
fn bracketed<'a>(given: &'a str, name: &str) -> Option<&'a str> {
    given.strip_prefix(name)?.strip_prefix('[')?.strip_suffix(']')
}

/// A range of instants to filter by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    exactly: Option<i64>,
    gt: Option<i64>,
    gte: Option<i64>,
    lt: Option<i64>,
    lte: Option<i64>,
}

impl Range {
    /// Whether an instant is in the range.
    pub(crate) fn holds(&self, time: i64) -> bool {
        self.exactly.is_none_or(|at| time == at)
            && self.gt.is_none_or(|bound| time > bound)
            && self.gte.is_none_or(|bound| time >= bound)
            && self.lt.is_none_or(|bound| time < bound)
            && self.lte.is_none_or(|bound| time <= bound)
    }
}
