//! Finds what some tests need and a machine may lack: programs, a Python, files beside the
//! checkout. Each function lists the test as skipped if it finds nothing.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::skipped::{list_as_skipped, skip};

/// A Python with the packages of `.ci/requirements.txt`: `METER_TEST_PYTHON`.
#[track_caller]
pub fn python() -> Option<PathBuf> {
    named("METER_TEST_PYTHON", "Python with the packages of .ci/requirements.txt")
}

/// The file or folder in a variable. `.ci/run` sets all of these variables.
#[track_caller]
pub fn named(variable: &str, what: &str) -> Option<PathBuf> {
    let found = std::env::var_os(variable).map(PathBuf::from).filter(|path| path.exists());
    if found.is_none() {
        skip(format!("{variable} names no {what}"));
    }
    found
}

/// Whether a program is installed.
#[track_caller]
pub fn tool(name: &str) -> bool {
    let found = Command::new(name).arg("--version").output().is_ok_and(|o| o.status.success());
    if !found {
        skip(format!("there is no {name} on this machine"));
    }
    found
}

/// A file or folder beside the checkout.
#[track_caller]
pub fn shared(name: &str) -> Option<PathBuf> {
    let path = beside_the_checkout(name);
    if !path.exists() {
        without_shared(&format!("the checkout has no ../shared/{name} beside it"));
        return None;
    }
    Some(path)
}

/// Real AWS files: those beside the checkout, or the folder that `METER_TEST_DATA` names.
#[track_caller]
pub fn real_files() -> Option<PathBuf> {
    let folder = std::env::var_os("METER_TEST_DATA").map_or_else(|| beside_the_checkout("data"), PathBuf::from);
    if !folder.exists() {
        let reason =
            "the checkout has no ../shared/data beside it, and METER_TEST_DATA names no folder of real AWS files";
        without_shared(reason);
        return None;
    }
    Some(folder)
}

/// These files are in no repository. `METER_TEST_WITHOUT_SHARED` is set where they cannot be, so
/// that their tests are skipped there also in CI.
#[track_caller]
fn without_shared(reason: &str) {
    if std::env::var_os("METER_TEST_WITHOUT_SHARED").is_some() {
        list_as_skipped(reason);
    } else {
        skip(reason);
    }
}

fn beside_the_checkout(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared").join(name)
}
