//! The manifest: which files make up a version of the bill. AWS writes it last, so it says that all
//! are there.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::columns::Column;
use crate::places::{Month, Places};
use crate::random::uuid_of;
use crate::{FileKind, Layout, Spec};

/// The manifest as JSON text.
pub(crate) fn text(spec: &Spec, month: &Month, places: &Places, columns: &[Column]) -> Result<String> {
    let manifest = match spec.layout {
        Layout::Legacy => legacy(spec, month, places, columns),
        Layout::Cur2 => cur2(spec, places, columns),
    };
    serde_json::to_string_pretty(&manifest).context("a manifest that is no JSON")
}

fn legacy(spec: &Spec, month: &Month, places: &Places, columns: &[Column]) -> Value {
    let (start, end) = month.bounds();
    let (compression, content_type) = match spec.kind {
        FileKind::Parquet => ("Parquet", "Parquet"),
        FileKind::Csv => ("NONE", "text/csv"),
        FileKind::CsvGz => ("GZIP", "text/csv"),
    };
    let columns = columns.iter().map(|column| {
        let (category, name) = column.header.split_once('/').unwrap_or(("", &column.header));
        json!({ "category": category, "name": name })
    });
    json!({
        "assemblyId": places.version,
        "account": spec.account,
        "columns": columns.collect::<Value>(),
        "charset": "UTF-8",
        "compression": compression,
        "contentType": content_type,
        "reportId": uuid_of(&format!("report {} {} {}", spec.seed, spec.account, spec.report)),
        "reportName": spec.report,
        "billingPeriod": { "start": start, "end": end },
        "bucket": spec.bucket,
        "reportKeys": places.data,
    })
}

fn cur2(spec: &Spec, places: &Places, columns: &[Column]) -> Value {
    let export = uuid_of(&format!("export {} {} {}", spec.seed, spec.account, spec.report));
    let columns =
        columns.iter().map(|column| json!({ "name": column.name, "type": column.cells.type_name(spec.kind) }));
    json!({
        "executionId": places.version,
        "exportArn": format!("arn:aws:bcm-data-exports:us-east-1:{}:export/{}-{export}", spec.account, spec.report),
        "columns": columns.collect::<Value>(),
        "dataFiles": places.data.iter().map(|key| format!("s3://{}/{key}", spec.bucket)).collect::<Value>(),
    })
}

/// Puts a manifest in its place at once, never half of it.
pub(crate) fn put(folder: &Path, key: &str, text: &str) -> Result<PathBuf> {
    let path = folder.join(key);
    let parent = path.parent().context("a manifest without a folder")?;
    fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    let unfinished = path.with_extension("json.unfinished");
    fs::write(&unfinished, text).with_context(|| format!("cannot write {}", unfinished.display()))?;
    fs::rename(&unfinished, &path).with_context(|| format!("cannot put {} in place", path.display()))?;
    Ok(path)
}
