//! A worker that serves: started on the books of the demo, and asked over plain HTTP.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::support::{Ran, meter};

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// SendCounters one request, if somebody listens.
pub fn request(port: u16, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Option<Answer> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut text = format!("{method} {path} HTTP/1.0\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    if !headers.iter().any(|(name, _)| *name == "Host") {
        text.push_str(&format!("Host: 127.0.0.1:{port}\r\n"));
    }
    headers.iter().for_each(|(name, value)| text.push_str(&format!("{name}: {value}\r\n")));
    stream.write_all(format!("{text}\r\n{body}").as_bytes()).ok()?;
    let mut all = String::new();
    stream.read_to_string(&mut all).ok()?;
    let (head, body) = all.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() })
}

/// The folder of a kept demo.
pub fn demo() -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let kept = folder.path().join("demo");
    let ran: Ran = super::output(meter(folder.path()).args(["demo", "--keep"]).arg(&kept)).into();
    ran.ends(0);
    (folder, kept)
}

/// The month of the demo's bill: the last one in the first days of a month.
pub fn billed_month(books: &Path) -> String {
    super::query(books, "SELECT substr(max(day), 1, 7) FROM booked_usage").remove(0)
}

/// A running worker, which does not outlive its test.
pub struct Served {
    child: Option<Child>,
    pub port: u16,
    pub log: PathBuf,
}

impl Served {
    /// Starts a worker in `folder`; its log goes to a file beside the books.
    pub fn start(folder: &Path, line: &str, variables: &[(&str, &str)]) -> Self {
        Self::start_on(free_port(), folder, line, variables)
    }

    pub fn start_on(port: u16, folder: &Path, line: &str, variables: &[(&str, &str)]) -> Self {
        let log = folder.join(format!("worker-{}.log", std::process::id().wrapping_add(rand())));
        let mut command = meter(folder);
        command.arg("work").args(["--listen", &format!("127.0.0.1:{port}")]).args(line.split_whitespace());
        command.env("METER_HTTP__SNAPSHOT_SECONDS", "1").envs(variables.iter().copied());
        let file = std::fs::File::create(&log).unwrap();
        let child = command.stdout(Stdio::null()).stderr(file).spawn().unwrap();
        Self { child: Some(child), port, log }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.as_ref().unwrap().id()).unwrap())
    }

    pub fn get(&self, path: &str) -> Answer {
        request(self.port, "GET", path, &[], "").unwrap_or_else(|| panic!("no answer to {path}:\n{}", self.said()))
    }

    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Waits until `path` answers and `enough` says so.
    #[track_caller]
    pub fn until(&self, path: &str, enough: impl Fn(&Answer) -> bool) -> Answer {
        let start = Instant::now();
        loop {
            let answer = request(self.port, "GET", path, &[], "");
            match answer {
                Some(answer) if enough(&answer) => return answer,
                other => assert!(start.elapsed() < Duration::from_secs(60), "{path}: {other:?}\n{}", self.said()),
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until the first round of the schedule is done and shows in the gauges.
    pub fn until_settled(&self) -> Answer {
        self.until("/metrics", |a| {
            let done = |kind: &str| {
                let series = format!("meter_job_last_success_timestamp_seconds{{kind=\"{kind}\"}} ");
                a.body.lines().any(|l| l.strip_prefix(&series).is_some_and(|v| v != "0"))
            };
            ["verify_books", "enforce_budgets", "push_stripe", "ingest_cur", "roll_periods"].iter().all(|k| done(k))
        })
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Tells it to stop, and waits; returns its exit code.
    pub fn stop(mut self) -> i32 {
        self.signal(Signal::SIGTERM);
        crate::support::ended(&mut self.child.take().unwrap()).code().unwrap_or(-1)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// A number that two workers of one test do not share.
fn rand() -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
