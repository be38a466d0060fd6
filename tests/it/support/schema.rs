//! A judge of JSON documents by their schemas, of the keywords that our schemas have. A keyword
//! that it does not know fails, and so does a field that the schema does not name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use serde_json::{Map, Value};

/// Words about a schema, which say nothing about a document.
const ANNOTATIONS: [&str; 6] = ["$id", "$schema", "$defs", "title", "description", "default"];

/// The schema of each document, by its name.
pub static SCHEMAS: LazyLock<BTreeMap<String, Value>> = LazyLock::new(|| {
    let of = |of: meter::cli::Document| (of.name.clone(), of.schema().to_value());
    meter::cli::documents().into_iter().map(of).collect()
});

/// The name of the document that a command line prints.
pub fn name_of(line: &str, document: &Value) -> String {
    if document.get("error").is_some() {
        return "error".to_owned();
    }
    let words: Vec<&str> = line.split_whitespace().collect();
    let is_plain = |word: &&&str| !word.starts_with('-');
    let plain: Vec<String> = words.iter().take_while(is_plain).map(|word| word.to_string()).collect();
    match plain[0].as_str() {
        "run" => return format!("run {}", plain[1].replace('-', "_")),
        "changes" if plain.len() > 1 => return "changes NUMBER".to_owned(),
        _ => {}
    }
    let is_named = |name: &&String| {
        let mut wanted = name.split(' ');
        wanted.clone().take_while(|word| !word.starts_with('-')).zip(&plain).all(|(a, b)| a == b)
            && wanted.clone().filter(|word| !word.starts_with('-')).count() <= plain.len()
            && wanted.all(|word| !word.starts_with('-') || words.contains(&word))
    };
    let most = SCHEMAS.keys().filter(is_named).max_by_key(|name| name.len());
    most.unwrap_or_else(|| panic!("no document is that of `{line}`")).clone()
}

/// Fails unless a document is as its schema says.
pub fn require(line: &str, document: &Value) {
    let name = name_of(line, document);
    let schema = SCHEMAS.get(&name).unwrap_or_else(|| panic!("no document is called `{name}` ({line})"));
    let faults = faults(schema, document);
    assert!(faults.is_empty(), "`meter {line}` does not print `{name}`:\n{}\n{document:#}", faults.join("\n"));
}

/// What of a document is not as its schema says.
pub fn faults(schema: &Value, document: &Value) -> Vec<String> {
    let mut judge = Judge { root: schema, faults: vec![] };
    judge.check(schema, document, "$");
    judge.faults
}

struct Judge<'a> {
    root: &'a Value,
    faults: Vec<String>,
}

impl<'a> Judge<'a> {
    fn check(&mut self, schema: &'a Value, value: &Value, at: &str) {
        self.of(schema, value, at);
        if let (Some(known), Value::Object(fields)) = (self.fields(schema), value) {
            for name in fields.keys().filter(|name| !known.contains(name.as_str())) {
                self.faults.push(format!("{at}: the schema has no field `{name}`"));
            }
        }
    }

    fn fault(&mut self, at: &str, what: &str, value: &Value) {
        self.faults.push(format!("{at}: {what}: {value}"));
    }

    /// Without a look at fields that the schema does not name.
    fn of(&mut self, schema: &'a Value, value: &Value, at: &str) {
        let Value::Object(schema) = schema else {
            assert_eq!(schema, &Value::Bool(true), "{at}");
            return;
        };
        for (keyword, wanted) in schema {
            match (keyword.as_str(), wanted) {
                (word, _) if ANNOTATIONS.contains(&word) => {}
                ("$ref", Value::String(name)) => self.of(self.named(name), value, at),
                ("type", Value::String(name)) => self.is_of(&[name], value, at),
                ("type", Value::Array(names)) => {
                    self.is_of(&names.iter().filter_map(Value::as_str).collect::<Vec<_>>(), value, at);
                }
                ("const", wanted) if wanted == value => {}
                ("enum", Value::Array(values)) if values.contains(value) => {}
                ("const" | "enum", _) => self.fault(at, &format!("it is not {wanted}"), value),
                ("anyOf" | "oneOf", Value::Array(branches)) => {
                    let holds = |branch: &&Value| {
                        let mut judge = Judge { root: self.root, faults: vec![] };
                        judge.of(branch, value, at);
                        judge.faults.is_empty()
                    };
                    let count = branches.iter().filter(holds).count();
                    if count == 0 || (keyword == "oneOf" && count > 1) {
                        self.fault(at, &format!("{count} of the branches hold"), value);
                    }
                }
                ("allOf", Value::Array(branches)) => branches.iter().for_each(|branch| self.of(branch, value, at)),
                ("pattern", Value::String(pattern)) => {
                    let pattern = regex::Regex::new(pattern).unwrap();
                    if value.as_str().is_some_and(|text| !pattern.is_match(text)) {
                        self.fault(at, &format!("it is not like {pattern}"), value);
                    }
                }
                ("format", Value::String(format)) => self.has_format(format, value, at),
                ("minimum", least) => {
                    if value.as_f64().zip(least.as_f64()).is_some_and(|(value, least)| value < least) {
                        self.fault(at, &format!("it is below {least}"), value);
                    }
                }
                ("maximum", most) => {
                    if value.as_f64().zip(most.as_f64()).is_some_and(|(value, most)| value > most) {
                        self.fault(at, &format!("it is above {most}"), value);
                    }
                }
                ("items", schema) => {
                    for (place, item) in value.as_array().into_iter().flatten().enumerate() {
                        self.check(schema, item, &format!("{at}[{place}]"));
                    }
                }
                ("uniqueItems", _) => {}
                ("properties", Value::Object(properties)) => self.has_properties(properties, value, at),
                ("required", Value::Array(names)) => {
                    for name in names.iter().filter_map(Value::as_str) {
                        if value.as_object().is_some_and(|fields| !fields.contains_key(name)) {
                            self.fault(at, &format!("`{name}` is missing"), value);
                        }
                    }
                }
                // the look at fields sees to it
                ("additionalProperties", Value::Bool(false)) => {}
                ("additionalProperties", schema) => {
                    for (name, field) in value.as_object().into_iter().flatten() {
                        self.check(schema, field, &format!("{at}.{name}"));
                    }
                }
                (word, _) => panic!("{at}: this judge does not know the keyword `{word}`"),
            }
        }
    }

    fn has_properties(&mut self, properties: &'a Map<String, Value>, value: &Value, at: &str) {
        for (name, schema) in properties {
            if let Some(field) = value.get(name) {
                self.check(schema, field, &format!("{at}.{name}"));
            }
        }
    }

    fn is_of(&mut self, names: &[&str], value: &Value, at: &str) {
        let is = |name: &&str| match *name {
            "null" => value.is_null(),
            "boolean" => value.is_boolean(),
            "integer" => value.is_i64() || value.is_u64(),
            "number" => value.is_number(),
            "string" => value.is_string(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            name => panic!("{at}: no type is called {name}"),
        };
        if !names.iter().any(is) {
            self.fault(at, &format!("it is no {}", names.join(" or ")), value);
        }
    }

    fn has_format(&mut self, format: &str, value: &Value, at: &str) {
        let Some(text) = value.as_str() else { return };
        let holds = match format {
            "date-time" => text.parse::<jiff::Timestamp>().is_ok() && text.ends_with('Z'),
            // their type says it already
            "uint" | "uint8" | "uint32" | "uint64" | "int64" => true,
            _ => panic!("{at}: this judge does not know the format `{format}`"),
        };
        if !holds {
            self.fault(at, &format!("it is no {format}"), value);
        }
    }

    fn named(&self, reference: &str) -> &'a Value {
        self.root.pointer(reference.trim_start_matches('#')).unwrap_or_else(|| panic!("{reference} is not there"))
    }

    /// The fields that an object may have; none when it may have any.
    fn fields(&self, schema: &'a Value) -> Option<BTreeSet<&'a str>> {
        let schema = schema.as_object()?;
        if schema.get("additionalProperties").is_some_and(|of| of != &Value::Bool(false)) {
            return None;
        }
        let mut known = BTreeSet::new();
        let mut has_some = false;
        for (keyword, wanted) in schema {
            match (keyword.as_str(), wanted) {
                ("properties", Value::Object(properties)) => {
                    has_some = true;
                    known.extend(properties.keys().map(String::as_str));
                }
                ("$ref", Value::String(name)) => {
                    known.extend(self.fields(self.named(name))?);
                    has_some = true;
                }
                ("anyOf" | "oneOf" | "allOf", Value::Array(branches)) => {
                    let objects = branches.iter().filter(|branch| branch.get("type") != Some(&"null".into()));
                    for branch in objects.filter(|branch| branch.is_object()) {
                        known.extend(self.fields(branch)?);
                        has_some = true;
                    }
                }
                _ => {}
            }
        }
        has_some.then_some(known)
    }
}
