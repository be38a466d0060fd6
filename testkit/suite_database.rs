//! The database of a suite: a file, or the test server in front of that file, as a libSQL server
//! 20 ms away would be. An environment variable decides; the tests of a suite need not know.

use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use books::Database;
use books::store::remote::http::HttpClient;

use crate::hrana::HranaServer;

/// `server`: suites use the test server. Not set: a file.
const VARIABLE: &str = "METER_TEST_DATABASE";
const ROUND_TRIP: Duration = Duration::from_millis(20);
/// How late the end of a cursor's answer comes: a client that does not wait for it is interrupted.
const CURSOR_END: Duration = Duration::from_millis(2);
const WAIT: Duration = Duration::from_secs(60);
/// Suites that run longer do not end.
const LONGEST: Duration = Duration::from_secs(1800);

/// The cases of a property: an eighth of them over a server, where each takes that much longer.
pub fn cases(on_a_file: u32) -> u32 {
    if std::env::var_os(VARIABLE).is_some() { on_a_file.div_ceil(8) } else { on_a_file }
}

/// The test server in front of a suite's file.
pub struct SuiteServer(HranaServer);

impl SuiteServer {
    /// The server of `file`, if the suite is to run over one.
    pub fn of(file: &Path) -> Option<Self> {
        if std::env::var_os(VARIABLE)? != "server" {
            panic!("{VARIABLE}: only `server` is known");
        }
        let server = HranaServer::start(file);
        server.faults().slow(ROUND_TRIP);
        server.hold_cursor_ends(CURSOR_END);
        Some(Self(server))
    }

    pub fn url(&self) -> String {
        self.0.url()
    }

    /// As another process has it.
    pub async fn open(&self) -> Database {
        // it fails if another part of the process has installed a provider
        drop(rustls::crypto::ring::default_provider().install_default());
        let http = HttpClient::new(reqwest::Client::builder().no_proxy().tcp_nodelay(true)).unwrap();
        Database::open_remote(http, &self.url(), "", WAIT).await.unwrap()
    }
}

/// Runs suites of the calling test binary once more, in a process of its own in which every fixture
/// puts the server in front of its file. A suite is the prefix of its tests' names.
pub fn run_over_a_server(suites: &[&str], skipped: &[&str]) {
    // a file, and not a pipe: a worker that a failed test leaves behind would keep a pipe open, and
    // this would wait for it without an end
    let mut said = tempfile::tempfile().unwrap();
    let to_file = || Stdio::from(said.try_clone().unwrap());
    let mut running = Command::new(std::env::current_exe().unwrap())
        .args(suites)
        .args(skipped.iter().flat_map(|name| ["--skip", name]))
        .env(VARIABLE, "server")
        .env("RUST_TEST_THREADS", "4")
        .env("METER_TEST_HISTORIES", "3")
        .stdin(Stdio::null())
        .stdout(to_file())
        .stderr(to_file())
        .process_group(0)
        .spawn()
        .unwrap();
    let start = Instant::now();
    let status = loop {
        match running.try_wait().unwrap() {
            Some(status) => break Some(status),
            None if start.elapsed() > LONGEST => break None,
            None => std::thread::sleep(Duration::from_millis(100)),
        }
    };
    // and what it left behind
    drop(Command::new("kill").args(["-KILL", "--", &format!("-{}", running.id())]).stderr(Stdio::null()).status());
    drop(running.wait());
    let mut out = String::new();
    said.rewind().unwrap();
    said.read_to_string(&mut out).unwrap();
    assert!(status.is_some_and(|status| status.success()), "{status:?} (none: it did not end):\n{out}");
    for suite in suites {
        assert!(out.contains(&format!("test {suite}")), "no test of {suite} ran:\n{out}");
    }
}
