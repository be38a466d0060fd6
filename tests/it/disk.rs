//! Disks that are full or read-only, with a small file system of their own. Needs the right to
//! mount.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{LEDGER, Workspace};
use testkit::skipped::skip;

/// A mounted tmpfs; none where this user may not mount.
struct Disk(PathBuf);

impl Disk {
    fn new(at: &Path, size: &str) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(at).status();
        if mounted.is_ok_and(|s| s.success()) {
            return Some(Self(at.to_owned()));
        }
        skip("this user may not mount a file system");
        None
    }

    fn remount(&self, options: &str) {
        let done = Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(&self.0).status().unwrap();
        assert!(done.success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

fn prepared() -> Option<(Workspace, Disk)> {
    let place =
        Workspace::with("[database]\nurl = \"disk/meter.db\"\n[[exports]]\nname = \"main\"\nlocation = \"bucket\"\n");
    let disk = Disk::new(&place.path("disk"), "20m")?;
    place.run("demo generate bucket --month 2026-10 --rows 15000 --customers 900").ends(0);
    place.run("migrate").ends(0);
    // room for a few small writes beside the empty tables, and for no bill
    let files = std::fs::read_dir(place.path("disk")).unwrap();
    let used: u64 = files.map(|file| file.unwrap().metadata().unwrap().len()).sum();
    disk.remount(&format!("size={}k", used.div_ceil(1024) + 500));
    Some((place, disk))
}

#[test]
fn a_full_disk_books_nothing_and_says_so() {
    let Some((place, disk)) = prepared() else { return };
    let ran = place
        .run("ingest --month 2026-10")
        .ends(1)
        .says(&["the disk that holds the database is full", "nothing was booked"]);
    assert!(ran.err.contains("the next run may succeed"), "{}", ran.err);
    let database = place.path("disk/meter.db");
    assert!(crate::support::query(&database, LEDGER).is_empty());
    disk.remount("size=20m");
    place.run("ingest --month 2026-10").ends(0).says(&["booked"]);
    place.run("verify").ends(0);
}

#[test]
fn a_read_only_disk_is_said_to_be_read_only() {
    let Some((place, disk)) = prepared() else { return };
    disk.remount("ro");
    place.run("ingest --month 2026-10").ends(1).says(&["cannot be"]);
    disk.remount("rw,size=20m");
    assert!(crate::support::query(&place.path("disk/meter.db"), LEDGER).is_empty());
    place.run("ingest --month 2026-10").ends(0).says(&["booked"]);
}

#[test]
fn a_worker_on_a_full_disk_waits_and_goes_on() {
    let Some((place, _disk)) = prepared() else { return };
    place.run("enqueue probe name=a").ends(0);
    place.run("enqueue probe name=b").ends(0);
    let ballast = place.path("disk/ballast");
    let filled = std::fs::write(&ballast, vec![1; 4 << 20]);
    assert!(filled.is_err(), "the disk is full now");
    let mut command = crate::support::meter(place.folder.path());
    command.args(["work", "--no-schedule"]).stderr(Stdio::piped());
    let mut work = command.spawn().unwrap();
    std::thread::sleep(Duration::from_secs(3));
    if work.try_wait().unwrap().is_some() {
        let said = crate::support::ended_with_output(work).stderr;
        panic!("it does not end: {}", String::from_utf8_lossy(&said));
    }
    std::fs::remove_file(&ballast).unwrap();
    let states = || crate::support::query(&place.path("disk/meter.db"), "SELECT state, attempts FROM jobs");
    let start = Instant::now();
    while states() != ["done|1", "done|1"] {
        assert!(start.elapsed() < Duration::from_secs(40), "{:?}", states());
        std::thread::sleep(Duration::from_millis(100));
    }
    let pid = nix::unistd::Pid::from_raw(i32::try_from(work.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let ended = crate::support::ended_with_output(work);
    assert!(ended.status.success());
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(said.contains("the disk that holds the database is full"), "{said}");
}
