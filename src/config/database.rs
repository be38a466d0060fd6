//! The section `database`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::raw::Step;
use super::secret::Secret;

/// The variable with the token of the books' database.
pub(crate) const TOKEN_VARIABLE: &str = "METER_DATABASE__TOKEN";
/// The variable with the token of the database that `meter copy` makes.
pub(crate) const COPY_TOKEN_VARIABLE: &str = "METER_DATABASE__COPY_TOKEN";

/// Where the books are.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DatabaseConfig {
    /// A path, or `libsql://…`, `https://…`, `http://…`.
    pub url: String,
    /// Access token of a remote database; from the environment only.
    #[serde(skip)]
    pub token: Secret,
    /// Access token of the database that `meter copy` makes; from the environment only.
    #[serde(skip)]
    pub copy_token: Secret,
    pub rows_quota: RowsQuota,
}

/// Rows that the plan of a remote database includes in a month; left out = not watched.
#[derive(Clone, Copy, Debug, Default, JsonSchema, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RowsQuota {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub written: Option<u64>,
}

impl Default for DatabaseConfig {
    fn default() -> Self {
        Self {
            url: "meter.db".into(),
            token: Secret::default(),
            copy_token: Secret::default(),
            rows_quota: RowsQuota::default(),
        }
    }
}

impl DatabaseConfig {
    /// What is wrong, and where.
    pub(super) fn faults(&self) -> Vec<(Vec<Step>, String)> {
        let path = |names: &[&str]| ["database"].iter().chain(names).map(|name| Step::Key((*name).into())).collect();
        let mut faults: Vec<_> =
            database_fault(&self.url, TOKEN_VARIABLE).map(|why| (path(&["url"]), why)).into_iter().collect();
        for (name, quota) in [("read", self.rows_quota.read), ("written", self.rows_quota.written)] {
            if quota == Some(0) {
                let why = "a plan includes some rows: write its number, or leave the key out".to_owned();
                faults.push((path(&["rows_quota", name]), why));
            }
        }
        faults
    }
}

/// Why a text is no place for the books, whose token is in `variable`. The text itself is not
/// repeated: it may have a token in it.
pub(crate) fn database_fault(url: &str, variable: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("file", url));
    let why = match scheme {
        "file" if rest.trim().is_empty() || rest.starts_with(":memory:") => "it names no file; the books would be lost",
        "file" if rest.contains(char::is_control) => "it has a character that no path should have, such as a line end",
        // whole, the text may have a token in it
        "file" if ["libsql:", "https:", "http:"].iter().any(|scheme| rest.starts_with(scheme)) => {
            "it looks like an address without `//`"
        }
        "file" if rest.contains("authToken=") => "it looks like an address without `libsql://`",
        "file" => return None,
        "libsql" | "https" | "http" if rest.contains(['?', '@', '#']) => {
            return Some(format!("it must be scheme://host only; a token goes into {variable}"));
        }
        "libsql" | "https" | "http" if rest.is_empty() => "it names no host",
        "libsql" | "https" | "http" => return None,
        _ => "it is neither a path nor libsql://, https:// or http://",
    };
    Some(why.to_owned())
}
