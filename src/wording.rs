//! What serde and the operating system say of what is wrong, in words without Rust's types.

use books::units::similar::offer;

/// What is wrong with a value, from serde's message. Messages of our own types stay as they are.
pub(crate) fn of_serde(message: &str) -> String {
    let message = message.lines().next().unwrap_or_default();
    let message = message.split(" at line ").next().unwrap_or_default();
    let names = |text: &str| text.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    if message.starts_with("unknown field `") {
        let names = names(message);
        let Some((field, known)) = names.split_first() else { return message.to_owned() };
        if known.is_empty() {
            return format!("there is no `{field}` here, and nothing else to set");
        }
        return format!("there is no `{field}` here; {}", offer(field, known.iter().map(String::as_str)));
    }
    if message.starts_with("unknown variant `") {
        let names = names(message);
        let Some((value, known)) = names.split_first() else { return message.to_owned() };
        return format!("it cannot be `{value}`; {}", offer(value, known.iter().map(String::as_str)));
    }
    if let Some(field) = message.strip_prefix("missing field ") {
        return format!("{field} is missing");
    }
    if message.starts_with("EOF while parsing") {
        return "it ends too early".to_owned();
    }
    // jiff, of an instant
    let of_jiff = ["failed to parse ", "failed to find offset", "failed to convert civil", "expected four digit year"];
    if of_jiff.iter().any(|start| message.starts_with(start)) {
        return "an instant such as 2026-10-07T00:00:00Z is expected".to_owned();
    }
    let wrong = ["invalid type: ", "invalid value: ", "invalid length "].iter().find_map(|p| message.strip_prefix(p));
    match wrong.and_then(|rest| rest.split_once(", expected ")) {
        Some((found, expected)) => format!("{} is expected, and this is {}", wanted(expected), this(found)),
        None => message.to_owned(),
    }
}

/// Why a file or folder cannot be used.
pub(crate) fn of_io(error: &std::io::Error) -> String {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::NotFound => "there is no such file or folder".to_owned(),
        ErrorKind::IsADirectory => "it is a folder".to_owned(),
        ErrorKind::NotADirectory => "it is below a file, which is no folder".to_owned(),
        ErrorKind::AlreadyExists => "there is a file of that name".to_owned(),
        ErrorKind::PermissionDenied => "the user of this process may not".to_owned(),
        ErrorKind::StorageFull => "the disk is full".to_owned(),
        ErrorKind::InvalidData => "it is no text in UTF-8".to_owned(),
        _ => error.to_string(),
    }
}

fn wanted(expected: &str) -> String {
    let range = |most: u64| format!("a whole number from 0 to {most}");
    match expected {
        "u8" => range(u8::MAX.into()),
        "u16" => range(u16::MAX.into()),
        "u32" => range(u32::MAX.into()),
        "u64" | "usize" => "a whole number, 0 or more,".to_owned(),
        "i8" | "i16" | "i32" | "i64" => "a whole number".to_owned(),
        "a string" | "a borrowed string" | "a character" => "text".to_owned(),
        "a boolean" => "`true` or `false`".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "a section with keys".to_owned(),
        "a Decimal type representing a fixed-point number" => "an exact number such as 0.0045".to_owned(),
        _ if expected.starts_with("struct ") => "a section with keys".to_owned(),
        _ => expected.to_owned(),
    }
}

fn this(found: &str) -> String {
    let number = ["integer `", "floating point `"].iter().find_map(|kind| found.strip_prefix(kind));
    if let Some(text) = found.strip_prefix("string ") {
        return format!("the text {text}");
    }
    if let Some(number) = number {
        return number.trim_end_matches('`').to_owned();
    }
    match found {
        "sequence" => "a list".to_owned(),
        "map" => "a section with keys".to_owned(),
        "null" | "unit value" => "nothing".to_owned(),
        _ => match found.strip_prefix("boolean ") {
            Some(value) => value.to_owned(),
            None => found.to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Kind {
        Text,
        Json,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Section {
        name: String,
        small: Option<u8>,
        large: Option<u64>,
        flag: Option<bool>,
        list: Option<Vec<String>>,
        kind: Option<Kind>,
        at: Option<jiff::Timestamp>,
        below: Option<Box<Section>>,
    }

    /// serde's own messages, so that a change of its words is seen.
    #[test]
    fn faults_are_said_without_the_types_of_rust() {
        for (text, says) in [
            ("name = \"a\"\nsmal = 1", "there is no `smal` here; did you mean `small`?"),
            (
                "name = \"a\"\nquick = 1",
                "there is no `quick` here; there are: `name`, `small`, `large`, `flag`, `list`, `kind`, `at`, `below`",
            ),
            ("", "`name` is missing"),
            ("name = 3", "text is expected, and this is 3"),
            ("name = true", "text is expected, and this is `true`"),
            ("name = []", "text is expected, and this is a list"),
            ("name = \"a\"\nsmall = 256", "a whole number from 0 to 255 is expected, and this is 256"),
            ("name = \"a\"\nsmall = \"x\"", "a whole number from 0 to 255 is expected, and this is the text \"x\""),
            ("name = \"a\"\nsmall = 1.5", "a whole number from 0 to 255 is expected, and this is 1.5"),
            ("name = \"a\"\nlarge = -1", "a whole number, 0 or more, is expected, and this is -1"),
            ("name = \"a\"\nflag = \"yes\"", "`true` or `false` is expected, and this is the text \"yes\""),
            ("name = \"a\"\nlist = \"x\"", "a list is expected, and this is the text \"x\""),
            ("name = \"a\"\nkind = \"jso\"", "it cannot be `jso`; did you mean `json`?"),
            ("name = \"a\"\nkind = \"binary\"", "it cannot be `binary`; there are: `text`, `json`"),
            ("name = \"a\"\nat = \"soon\"", "an instant such as 2026-10-07T00:00:00Z is expected"),
            ("name = \"a\"\nat = \"\"", "an instant such as 2026-10-07T00:00:00Z is expected"),
            ("name = \"a\"\nbelow = 3", "a section with keys is expected, and this is 3"),
        ] {
            let error = toml::from_str::<Section>(text).unwrap_err();
            assert_eq!(of_serde(error.message()), says, "{text}");
        }
        for (text, says) in [
            ("{\"name\": null}", "text is expected, and this is nothing"),
            ("{\"name\"", "it ends too early"),
            ("[]", "a section with keys is expected, and this is 0"),
        ] {
            let error = serde_json::from_str::<Section>(text).unwrap_err();
            assert_eq!(of_serde(&error.to_string()), says, "{text}");
        }
        let section: Section = toml::from_str("name = \"a\"").unwrap();
        assert!(section.name == "a" && section.small.is_none() && section.large.is_none() && section.flag.is_none());
        assert!(section.list.is_none() && section.kind.is_none() && section.at.is_none() && section.below.is_none());
    }
}
