//! Reading the raw values: the file, the variables over it, and where each value came from, so that
//! a fault can be named with its place.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::format::several;
use crate::visible;
use crate::wording;

/// The file that is read when none is named.
pub const DEFAULT_FILE: &str = "meter.toml";

/// Environment variables that start so are configuration.
const PREFIX: &str = "METER_";
/// A secret: its section, its key, and the variable that is the only place for it.
pub(super) type SecretKey = (&'static str, &'static str, &'static str);

/// What is wrong with the configuration, one line for each fault.
#[derive(Debug, thiserror::Error)]
pub struct ConfigError(pub Vec<String>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the configuration has {}:", several(self.0.len(), "fault"))?;
        self.0.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
    }
}

/// Sorts faults by the line that they name; those of variables come last.
pub(crate) fn in_order(faults: &mut [String]) {
    faults.sort_by_key(|fault| fault.split(':').nth(1).and_then(|line| line.parse().ok()).unwrap_or(usize::MAX));
}

/// Variables with the prefix that are not configuration of the worker.
fn is_foreign(name: &str) -> bool {
    matches!(name, "METER_CONFIG" | "METER_LOG") || name.starts_with("METER_TEST_")
}

/// Part of a path into the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Key(String),
    Place(usize),
}

impl Step {
    fn from_segment(segment: &serde_path_to_error::Segment) -> Option<Self> {
        match segment {
            serde_path_to_error::Segment::Seq { index } => Some(Self::Place(*index)),
            serde_path_to_error::Segment::Map { key } => Some(Self::Key(key.clone())),
            serde_path_to_error::Segment::Enum { .. } | serde_path_to_error::Segment::Unknown => None,
        }
    }
}

fn path_text(path: &[Step]) -> String {
    let mut out = String::new();
    for step in path {
        match step {
            Step::Key(key) if out.is_empty() => out.push_str(key),
            Step::Key(key) => out.push_str(&format!(".{key}")),
            Step::Place(i) => out.push_str(&format!("[{i}]")),
        }
    }
    out
}

/// The raw values, and where each came from.
pub(crate) struct Raw {
    file: Option<PathBuf>,
    text: String,
    table: toml::Table,
    /// Paths that a variable set.
    variables: BTreeMap<String, String>,
    /// What did not fit and was taken out.
    taken: Taken,
    /// What was missing and was filled in.
    filled: Vec<Vec<Step>>,
    /// Begins the names that were filled in; nothing else has it.
    filler: String,
}

impl Raw {
    pub(super) fn read<const N: usize>(
        file: Option<&Path>,
        variables: impl Iterator<Item = (String, String)>,
        secret_keys: [SecretKey; N],
        faults: &mut Vec<String>,
    ) -> Result<(Self, [String; N]), ConfigError> {
        let default = Path::new(DEFAULT_FILE);
        let found = file.or_else(|| default.exists().then_some(default)).map(Path::to_owned);
        let text = match &found {
            None => String::new(),
            Some(path) => std::fs::read_to_string(path).map_err(|e| {
                ConfigError(vec![format!("{}: it cannot be read: {}", visible::path(path), wording::of_io(&e))])
            })?,
        };
        let mut raw = Self::unread(found, text);
        raw.parse()?;
        for (section, key, variable) in secret_keys {
            if raw.table.get(section).and_then(|d| d.get(key)).is_some() {
                let path = [Step::Key(section.into()), Step::Key(key.into())];
                let why = format!("secrets come from the environment only: set {variable} and remove it here");
                faults.push(raw.place(&path, &why));
                remove(&mut raw.table, &path);
            }
        }
        let mut secrets = [const { String::new() }; N];
        let own = variables.filter(|(name, _)| name.starts_with(PREFIX) && !is_foreign(name));
        for (name, value) in own {
            if let Some(at) = secret_keys.iter().position(|(.., variable)| *variable == name) {
                secrets[at] = value;
                continue;
            }
            if let Err(why) = raw.set(&name, &value) {
                faults.push(format!("variable {name}: {why}"));
            }
        }
        Ok((raw, secrets))
    }

    /// The values of one file.
    ///
    /// # Errors
    /// It is no TOML.
    pub(crate) fn of_text(file: &Path, text: String) -> Result<Self, ConfigError> {
        let mut raw = Self::unread(Some(file.into()), text);
        raw.parse()?;
        Ok(raw)
    }

    fn unread(file: Option<PathBuf>, text: String) -> Self {
        let (table, variables) = (toml::Table::new(), BTreeMap::new());
        Self { file, text, table, variables, taken: Taken::default(), filled: vec![], filler: "missing_value_".into() }
    }

    fn parse(&mut self) -> Result<(), ConfigError> {
        self.table = toml::from_str(&self.text).map_err(|e| {
            let at = e.span().map_or(0, |s| s.start);
            // the line itself may have a secret after its key
            let line = self.text[self.text[..at].rfind('\n').map_or(0, |end| end + 1)..].lines().next();
            let key = line.and_then(|line| line.split_once('=')).map(|(key, _)| key.trim());
            let key = key.filter(|_| e.message() == "duplicate key").map_or(String::new(), |key| format!(" `{key}`"));
            ConfigError(vec![format!("{}: {}{key}", self.line(at), e.message())])
        })?;
        Ok(())
    }

    /// Sets what a variable says: TOML where it is TOML, else text.
    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let path: Vec<String> = name[PREFIX.len()..].to_ascii_lowercase().split("__").map(str::to_owned).collect();
        let text = toml::Value::String(value.to_owned());
        let parsed = toml::from_str::<toml::Table>(&format!("v = {value}")).ok().and_then(|mut t| t.remove("v"));
        let mut table = &mut self.table;
        let Some((last, parents)) = path.split_last() else { return Ok(()) };
        for parent in parents {
            let below = table.entry(parent).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            table = below
                .as_table_mut()
                .ok_or_else(|| format!("`{parent}` is no section; lists are set in the file only"))?;
        }
        table.insert(last.clone(), parsed.filter(|v| !v.is_datetime()).unwrap_or(text));
        self.variables.insert(path.join("."), name.to_owned());
        Ok(())
    }

    /// The typed configuration; a value that does not fit is noted, taken out, and the rest tried
    /// again.
    pub(crate) fn extract<T: DeserializeOwned + Default>(&mut self, faults: &mut Vec<String>) -> T {
        let mut table = self.table.clone();
        let mut taken = std::mem::take(&mut self.taken);
        let everything = format!("{:?}{}", self.file, self.table);
        while everything.contains(&self.filler) {
            self.filler.push('_');
        }
        loop {
            let error = match serde_path_to_error::deserialize::<_, T>(toml::Value::Table(table.clone())) {
                Ok(config) => {
                    self.taken = taken;
                    return config;
                }
                Err(error) => error,
            };
            let why = error.inner().message().lines().next().unwrap_or_default().to_owned();
            let mut path = steps(error.path());
            if let Some(field) = quoted(&why, "unknown field ")
                && path.last() != Some(&Step::Key(field.clone()))
            {
                path.push(Step::Key(field));
            }
            let missing = quoted(&why, "missing field ").map(|field| [&path[..], &[Step::Key(field)]].concat());
            let original = taken.original(&path);
            // a field that was taken out because its value was wrong is missing now, and a value
            // that was filled in is nobody's: both are no news
            let is_news = |field: &Vec<Step>| !taken.has(&taken.original(field));
            if missing.as_ref().is_none_or(is_news) && !self.filled.contains(&path) {
                let mut why = wording::of_serde(&why);
                // a secret may be a variable's, or stand one level too high
                let is_variable = self.variables.contains_key(&path_text(&original));
                if let Some((wanted, found)) = why.split_once(", and this is ") {
                    let is_text = found.starts_with("the text ");
                    let is_above = wanted.starts_with("a section") || is_variable && wanted.starts_with("a list");
                    if is_above || is_text && is_variable {
                        let kind = if is_text { "a text" } else { "something else" };
                        why = format!("{wanted}, and this is {kind}");
                    }
                }
                faults.push(self.fault(&original, &why));
            }
            let number = self.filled.len();
            if let Some(field) = missing.filter(|field| fill::<T>(&mut table, field, &self.filler, number)) {
                self.filled.push(field);
                continue;
            }
            while !path.is_empty() && !remove(&mut table, &path) {
                path.pop();
            }
            if path.is_empty() {
                return T::default();
            }
            taken.note(taken.original(&path));
        }
    }

    /// Whether a field was missing, and has another value now.
    pub(crate) fn is_filled(&self, path: &[Step]) -> bool {
        self.filled.iter().any(|filled| filled == path)
    }

    /// A later fault with the place of an entry instead of the name that was filled in; none of a
    /// fault of another value that was.
    pub(crate) fn said(&self, mut fault: String) -> Option<String> {
        for (number, path) in self.filled.iter().enumerate() {
            if let Some((Step::Key(key), entry)) = path.split_last()
                && key == "name"
            {
                let place = path_text(&self.taken.original(entry));
                fault = fault.replace(&format!("`{}{number}`", self.filler), &place);
            }
        }
        (!fault.contains(&self.filler)).then_some(fault)
    }

    /// How many entries a list has in the file; none without such a list.
    pub(super) fn entries(&self, list: &str) -> Option<usize> {
        self.table.get(list).map(|value| value.as_array().map_or(1, Vec::len))
    }

    /// A fault of the extracted configuration, with the place of its value.
    pub(super) fn place(&self, path: &[Step], why: &str) -> String {
        self.fault(&self.taken.original(path), why)
    }

    /// A fault that names its subject itself, with the line of the extracted value.
    pub(crate) fn at(&self, path: &[Step], why: &str) -> String {
        match self.span(&self.taken.original(path)) {
            Some(at) => format!("{}: {why}", self.line(at)),
            None => why.to_owned(),
        }
    }

    /// A fault with the place of its value: the variable that set it, or file and line.
    fn fault(&self, path: &[Step], why: &str) -> String {
        let name = path_text(path);
        if name.is_empty() {
            return format!("{}: {why}", self.file.as_deref().map_or(DEFAULT_FILE.into(), visible::path));
        }
        if let Some(variable) = self.variables.get(&name) {
            return format!("variable {variable}: {name}: {why}");
        }
        if let Some(at) = self.span(path) {
            return format!("{}: {name}: {why}", self.line(at));
        }
        // a variable may have made the section
        match self.variables.iter().find(|(made, _)| made.starts_with(&format!("{name}."))) {
            Some((_, variable)) => format!("variable {variable}: {name}: {why}"),
            None => format!("{name}: {why}"),
        }
    }

    /// Where the value at `path`, or the nearest one above it, is written.
    fn span(&self, path: &[Step]) -> Option<usize> {
        let document = toml::de::DeTable::parse(&self.text).ok()?;
        let mut at = None;
        let mut here: Option<&toml::de::DeValue<'_>> = None;
        let root = document.get_ref();
        for (i, step) in path.iter().enumerate() {
            let table = match here {
                None if i == 0 => Some(root),
                Some(toml::de::DeValue::Table(table)) => Some(table),
                _ => None,
            };
            match (step, table, here) {
                (Step::Key(key), Some(table), _) => {
                    let Some((found, value)) = table.iter().find(|(k, _)| k.get_ref() == key) else { return at };
                    at = Some(found.span().start);
                    here = Some(value.get_ref());
                }
                (Step::Place(i), _, Some(toml::de::DeValue::Array(list))) => {
                    let Some(value) = list.get(*i) else { return at };
                    at = Some(value.span().start);
                    here = Some(value.get_ref());
                }
                _ => return at,
            }
        }
        at
    }

    /// `file:line` of a byte of the text.
    fn line(&self, at: usize) -> String {
        let line = self.text.get(..at).unwrap_or_default().matches('\n').count() + 1;
        let file = self.file.as_deref().map_or(DEFAULT_FILE.into(), visible::path);
        format!("{file}:{line}")
    }
}

/// The field that a message of serde names in backticks after `prefix`.
fn quoted(why: &str, prefix: &str) -> Option<String> {
    why.strip_prefix(prefix)?.split('`').nth(1).map(str::to_owned)
}

/// What was taken out so far, by its place in the file.
#[derive(Default)]
struct Taken(Vec<Vec<Step>>);

impl Taken {
    fn has(&self, path: &[Step]) -> bool {
        self.0.iter().any(|p| p == path)
    }

    fn note(&mut self, path: Vec<Step>) {
        self.0.push(path);
    }

    /// The place in the file: entries of a list move up when an invalid one before them is
    /// removed.
    fn original(&self, path: &[Step]) -> Vec<Step> {
        let mut original: Vec<Step> = vec![];
        for step in path {
            let Step::Place(i) = step else {
                original.push(step.clone());
                continue;
            };
            let mut gone: Vec<usize> = self
                .0
                .iter()
                .filter_map(|p| match p.split_last() {
                    Some((Step::Place(n), list)) if list == original => Some(*n),
                    _ => None,
                })
                .collect();
            gone.sort_unstable();
            original.push(Step::Place(gone.into_iter().fold(*i, |at, n| if n <= at { at + 1 } else { at })));
        }
        original
    }
}

fn steps(path: &serde_path_to_error::Path) -> Vec<Step> {
    path.iter().filter_map(Step::from_segment).collect()
}

/// Puts a value in the place of a missing field, so that the rest of its section is checked, too.
/// False when none fits.
fn fill<T: DeserializeOwned>(table: &mut toml::Table, field: &[Step], filler: &str, number: usize) -> bool {
    let Some((Step::Key(name), parent)) = field.split_last() else { return false };
    let text = |text: &str| toml::Value::String(text.to_owned());
    let name_of_it = text(&format!("{filler}{number}"));
    // no two are the same
    let instant = format!("2000-01-01T00:{:02}:{:02}Z", number / 60 % 60, number % 60);
    let list = toml::Value::Array(vec![name_of_it.clone()]);
    let section = toml::Value::Table(toml::Table::new());
    let texts = ["USD", "1", &instant].map(text);
    for value in [name_of_it, list].into_iter().chain(texts).chain([toml::Value::Integer(1), section]) {
        let mut tried = toml::Value::Table(table.clone());
        let at = parent.iter().try_fold(&mut tried, |below, step| match step {
            Step::Key(key) => below.get_mut(key),
            Step::Place(place) => below.get_mut(*place),
        });
        let Some(toml::Value::Table(at)) = at else { return false };
        at.insert(name.clone(), value);
        let toml::Value::Table(tried) = tried else { return false };
        let read = serde_path_to_error::deserialize::<_, T>(toml::Value::Table(tried.clone()));
        if !read.is_err_and(|error| steps(error.path()).starts_with(field)) {
            *table = tried;
            return true;
        }
    }
    false
}

/// Takes a value out; true when it was there.
fn remove(table: &mut toml::Table, path: &[Step]) -> bool {
    match path {
        [] => false,
        [Step::Key(last)] => table.remove(last).is_some(),
        [Step::Key(first), rest @ ..] => table.get_mut(first).is_some_and(|value| remove_below(value, rest)),
        [Step::Place(_), ..] => false,
    }
}

fn remove_below(value: &mut toml::Value, path: &[Step]) -> bool {
    match (value, path) {
        (toml::Value::Table(table), _) => remove(table, path),
        (toml::Value::Array(list), [Step::Place(i)]) if *i < list.len() => {
            list.remove(*i);
            true
        }
        (toml::Value::Array(list), [Step::Place(i), rest @ ..]) => {
            list.get_mut(*i).is_some_and(|value| remove_below(value, rest))
        }
        _ => false,
    }
}
