//! Waiting for processes with an end: one that hangs fails its test, with what it waits for.

use std::io::Read;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

/// Longer than anything here takes on a loaded machine.
const LONGEST: Duration = Duration::from_secs(600);

/// Runs a command to its end, without input.
#[track_caller]
pub fn output(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    ended_with_output(child)
}

/// Waits for a process, and reads what it prints meanwhile: a full pipe would stop it.
#[track_caller]
pub fn ended_with_output(mut child: Child) -> Output {
    fn reads(from: Option<impl Read + Send + 'static>) -> std::sync::mpsc::Receiver<Vec<u8>> {
        let (send, receive) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut bytes = vec![];
            if let Some(mut from) = from {
                drop(from.read_to_end(&mut bytes));
            }
            drop(send.send(bytes));
        });
        receive
    }
    let (out, err) = (reads(child.stdout.take()), reads(child.stderr.take()));
    let status = ended(&mut child);
    // somebody that it started may have the pipe still
    let text = |from: std::sync::mpsc::Receiver<Vec<u8>>| from.recv_timeout(LONGEST).expect("its output ends with it");
    Output { status, stdout: text(out), stderr: text(err) }
}

/// Waits for a process.
#[track_caller]
pub fn ended(child: &mut Child) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if start.elapsed() > LONGEST {
            let found = what_it_does(child.id());
            drop(child.kill());
            panic!("it did not end within {} s:\n{found}", LONGEST.as_secs());
        }
        // most end at once
        std::thread::sleep(if start.elapsed() < Duration::from_secs(1) {
            Duration::from_millis(5)
        } else {
            Duration::from_millis(50)
        });
    }
}

/// Its command line, and for each thread its name and what it waits for in the kernel.
fn what_it_does(pid: u32) -> String {
    let process = std::path::Path::new("/proc").join(pid.to_string());
    let text = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap_or_default().replace('\0', " ");
    let tasks = std::fs::read_dir(process.join("task")).into_iter().flatten().flatten();
    let threads: Vec<String> =
        tasks.map(|t| format!("{} {}", text(t.path().join("comm")).trim(), text(t.path().join("wchan")))).collect();
    format!("{}\n{}", text(process.join("cmdline")), threads.join("\n"))
}
