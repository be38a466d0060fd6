//! Writing a file that a person named, whole or not at all.

use std::fs::{self, File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::Context as _;
use tempfile::{Builder, NamedTempFile};

use crate::exit::BadUsage;
use crate::visible;
use crate::wording;

/// Who may read a new file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readers {
    /// Whoever may read any new file of this user.
    Usual,
    Owner,
}

/// Whether a name is that of standard output.
pub(super) fn is_stdout(file: &Path) -> bool {
    ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"].iter().any(|name| file == Path::new(name))
}

/// Writes a file by renaming, so that it is never half written. A link stays, and the file that it
/// leads to is written; a pipe or a device is written to.
pub(super) fn write(file: &Path, text: &str, readers: Readers) -> anyhow::Result<()> {
    let there = fs::metadata(file).ok();
    if there.as_ref().is_some_and(fs::Metadata::is_dir) {
        return Err(BadUsage(format!("{}: it is a folder", fault(file))).into());
    }
    if file.is_symlink()
        && let Err(why) = fs::metadata(file)
    {
        return Err(BadUsage(format!("{}: it is a link, and {}", fault(file), wording::of_io(&why))).into());
    }
    // what another process opened may be a file that others write to
    let is_open = ["/dev/fd", "/dev/stderr", "/proc"].iter().any(|of| file.starts_with(of));
    if there.as_ref().is_some_and(|there| is_open || !there.is_file()) {
        let mut open = File::options().append(true).open(file).with_context(|| fault(file))?;
        return open.write_all(text.as_bytes()).with_context(|| fault(file));
    }
    let target = if there.is_some() { fs::canonicalize(file).with_context(|| fault(file))? } else { file.into() };
    let half = written(&target, text, readers)?;
    if let Some(there) = there.filter(|_| readers == Readers::Usual) {
        half.as_file().set_permissions(there.permissions()).with_context(|| fault(file))?;
    }
    half.persist(&target).with_context(|| fault(file))?;
    Ok(())
}

/// As [`write()`], for a file that must not be there.
pub(super) fn write_new(file: &Path, text: &str) -> anyhow::Result<()> {
    let half = written(file, text, Readers::Usual)?;
    half.persist_noclobber(file).with_context(|| fault(file))?;
    Ok(())
}

fn fault(file: &Path) -> String {
    format!("{} cannot be written", visible::path(file))
}

/// A file beside it that has the text.
fn written(file: &Path, text: &str, readers: Readers) -> anyhow::Result<NamedTempFile> {
    let folder = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if !folder.is_dir() {
        return Err(BadUsage(format!("{}: there is no folder {}", fault(file), visible::path(folder))).into());
    }
    // less what the umask takes
    let mode = match readers {
        Readers::Usual => 0o666,
        Readers::Owner => 0o600,
    };
    let mut half =
        Builder::new().permissions(Permissions::from_mode(mode)).tempfile_in(folder).with_context(|| fault(file))?;
    half.write_all(text.as_bytes()).with_context(|| fault(file))?;
    Ok(half)
}
