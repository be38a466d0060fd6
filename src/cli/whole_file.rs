//! Writing a file that a person named, whole or not at all.

use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use tempfile::NamedTempFile;

use crate::exit::BadUsage;
use crate::visible;

/// Writes a file by renaming, so that it is never half written.
pub(super) fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    let half = written(file, text)?;
    half.persist(file).with_context(|| fault(file))?;
    Ok(())
}

/// As [`write()`], for a file that must not be there.
pub(super) fn write_new(file: &Path, text: &str) -> anyhow::Result<()> {
    let half = written(file, text)?;
    half.persist_noclobber(file).with_context(|| fault(file))?;
    Ok(())
}

fn fault(file: &Path) -> String {
    format!("{} cannot be written", visible::path(file))
}

/// A file beside it that has the text.
fn written(file: &Path, text: &str) -> anyhow::Result<NamedTempFile> {
    let folder = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if !folder.is_dir() {
        return Err(BadUsage(format!("{}: there is no folder {}", fault(file), visible::path(folder))).into());
    }
    let mut half = NamedTempFile::new_in(folder).with_context(|| fault(file))?;
    half.write_all(text.as_bytes()).with_context(|| fault(file))?;
    Ok(half)
}
