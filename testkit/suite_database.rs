//! The database of a suite: a file, or the test server in front of that file, as a libSQL server
//! 20 ms away would be. An environment variable decides; the tests of a suite need not know.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use books::Database;
use books::store::remote::http::HttpClient;

use crate::hrana::HranaServer;

/// `server`: suites use the test server. Not set: a file.
const VARIABLE: &str = "METER_TEST_DATABASE";
const ROUND_TRIP: Duration = Duration::from_millis(20);
/// How late the end of a cursor's answer comes: a client that does not wait for it is interrupted.
const CURSOR_END: Duration = Duration::from_millis(2);
const WAIT: Duration = Duration::from_secs(60);

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
    let ran = Command::new(std::env::current_exe().unwrap())
        .args(suites)
        .args(skipped.iter().flat_map(|name| ["--skip", name]))
        .env(VARIABLE, "server")
        .env("RUST_TEST_THREADS", "4")
        .env("METER_TEST_HISTORIES", "3")
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{out}\n{}", String::from_utf8_lossy(&ran.stderr));
    for suite in suites {
        assert!(out.contains(&format!("test {suite}")), "no test of {suite} ran:\n{out}");
    }
}
