//! Those who send or read slowly keep nobody else waiting at the worker's port.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::Workspace;
use crate::support::served::Served;

/// More than the worker serves at once.
const MANY: usize = 100;

#[test]
fn who_reads_nothing_or_sends_half_keeps_nobody_waiting() {
    let place = Workspace::new();
    let worker = Served::start(place.folder.path(), "--no-schedule", &[]);
    worker.until("/readyz", |a| a.status == 200);
    let open = || std::fs::read_dir(format!("/proc/{}/fd", worker.pid())).unwrap().count();
    let before = open();
    let connect = |bytes: &[u8]| {
        let mut stream = TcpStream::connect(("127.0.0.1", worker.port)).unwrap();
        // what does not fit into the buffers is left out
        stream.set_nonblocking(true).unwrap();
        drop(stream.write(bytes));
        stream
    };
    #[track_caller]
    fn answers(worker: &Served) {
        let asked = Instant::now();
        assert_eq!(worker.get("/healthz").body, "alive\n");
        assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    }
    // thousands of requests for a long page, and none of the answers is read
    let pipelined = b"GET /runbook HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".repeat(3000);
    let mut held: Vec<TcpStream> = (0..MANY).map(|_| connect(&pipelined)).collect();
    std::thread::sleep(Duration::from_secs(1));
    answers(&worker);
    // requests whose end never comes
    held.extend((0..MANY).map(|_| connect(b"GET /healthz HTTP/1.1\r\nHost: ")));
    std::thread::sleep(Duration::from_millis(200));
    answers(&worker);
    assert!(worker.get("/readyz").body.contains("ok  database"));
    place.run(&format!("health --listen 127.0.0.1:{}", worker.port)).ends(0);
    // and they are given up while they still wait
    let start = Instant::now();
    while open() > before + 10 {
        assert!(start.elapsed() < Duration::from_secs(40), "{} file descriptors, {before} before", open());
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(held.len(), 2 * MANY);
    assert_eq!(worker.stop(), 0);
}
