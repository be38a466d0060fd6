//! Writing a file that a person named, whole or not at all.

use std::path::Path;

use anyhow::Context as _;

use crate::exit::BadUsage;

/// Writes a file by renaming, so that it is never half written.
pub(super) fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    let folder = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let fault = || format!("{} cannot be written", file.display());
    if !folder.is_dir() {
        return Err(BadUsage(format!("{}: there is no folder {}", fault(), folder.display())).into());
    }
    let mut half = tempfile::NamedTempFile::new_in(folder).with_context(fault)?;
    std::io::Write::write_all(&mut half, text.as_bytes()).with_context(fault)?;
    half.persist(file).with_context(fault)?;
    Ok(())
}
