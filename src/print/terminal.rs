//! What standard output is: a terminal of some width, with colours and a pager, or a file or a
//! pipe, which get everything whole and plain.

use std::io::{self, IsTerminal, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use terminal_size::{Width, terminal_size};

/// When colours are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ColorWhen {
    /// On a terminal, unless NO_COLOR is set
    #[default]
    Auto,
    Always,
    Never,
}

impl ColorWhen {
    /// Whether what goes to a stream has colours.
    pub(crate) fn holds(self, is_terminal: bool) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => {
                let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
                is_terminal && !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
            }
        }
    }
}

/// How wide tables may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum TableWidth {
    /// As wide as the terminal.
    #[default]
    Terminal,
    /// As wide as they are.
    Whole,
}

#[derive(Clone, Copy, Debug, Default)]
struct Settings {
    color: ColorWhen,
    width: TableWidth,
}

/// After so long without output a command shows that it goes on.
const SILENCE: Duration = Duration::from_secs(1);

static SETTINGS: OnceLock<Settings> = OnceLock::new();
static PIPE_COLUMNS: OnceLock<usize> = OnceLock::new();
static PAGER: Mutex<Option<Child>> = Mutex::new(None);

/// Says how this process prints, once.
pub(crate) fn set(color: ColorWhen, width: TableWidth) {
    let _ = SETTINGS.set(Settings { color, width });
}

/// Says how wide what goes to a file or a pipe may be, which otherwise has no edge.
pub(crate) fn set_pipe_columns(columns: usize) {
    let _ = PIPE_COLUMNS.set(columns);
}

fn settings() -> Settings {
    SETTINGS.get().copied().unwrap_or_default()
}

/// The columns that a table may fill; none where there is no edge.
pub(super) fn columns() -> Option<usize> {
    if settings().width == TableWidth::Whole {
        return None;
    }
    if !io::stdout().is_terminal() {
        return PIPE_COLUMNS.get().copied();
    }
    terminal_size().map(|(Width(columns), _)| usize::from(columns))
}

/// What a word at the start of a line says of the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    Good,
    Warning,
    Wrong,
}

/// A word in the colour of what it says.
pub(super) fn painted(mark: Mark, word: &str) -> String {
    if !settings().color.holds(io::stdout().is_terminal()) {
        return word.to_owned();
    }
    let code = match mark {
        Mark::Good => 32,
        Mark::Warning => 33,
        Mark::Wrong => 31,
    };
    format!("\u{1b}[1;{code}m{word}\u{1b}[0m")
}

/// Shows what follows page by page, where there is a terminal: with `PAGER`, or `less`. An empty
/// `PAGER` shows it at once.
pub(crate) fn page() {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return;
    }
    let pager = std::env::var("PAGER").unwrap_or_else(|_| "less".to_owned());
    let mut words = pager.split_whitespace();
    let Some(program) = words.next() else { return };
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::piped());
    if std::env::var_os("LESS").is_none() {
        // one screen is shown at once, colours are shown, and the text stays when less ends
        command.env("LESS", "FRX");
    }
    *PAGER.lock().unwrap_or_else(PoisonError::into_inner) = command.spawn().ok();
}

/// Waits until the reader has left the pager.
pub(crate) fn end_page() {
    if let Some(mut pager) = PAGER.lock().unwrap_or_else(PoisonError::into_inner).take() {
        drop(pager.stdin.take());
        drop(pager.wait());
    }
}

/// What shows that a command goes on.
#[derive(Default)]
enum Wait {
    #[default]
    Over,
    Begun,
    Shown(ProgressBar),
}

static WAIT: Mutex<Wait> = Mutex::new(Wait::Over);

/// Shows on a terminal, after a second without output, that `what` goes on, and for how long.
pub(crate) fn wait(what: &str) {
    if !io::stderr().is_terminal() {
        return;
    }
    *WAIT.lock().unwrap_or_else(PoisonError::into_inner) = Wait::Begun;
    let what = what.to_owned();
    let shown = std::thread::Builder::new().spawn(move || {
        let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_spinner());
        std::thread::sleep(SILENCE);
        loop {
            let mut wait = WAIT.lock().unwrap_or_else(PoisonError::into_inner);
            match &*wait {
                Wait::Over => return,
                Wait::Shown(spinner) => spinner.tick(),
                Wait::Begun => {
                    let spinner = ProgressBar::new_spinner().with_elapsed(SILENCE).with_style(style.clone());
                    *wait = Wait::Shown(spinner.with_message(what.clone()));
                }
            }
            drop(wait);
            std::thread::sleep(Duration::from_millis(120));
        }
    });
    // without a thread nothing is shown
    drop(shown);
}

/// Ends [`wait`]: there is output, or something else shows what goes on.
pub(crate) fn end_wait() {
    let mut wait = WAIT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Wait::Shown(spinner) = &*wait {
        spinner.finish_and_clear();
    }
    *wait = Wait::Over;
}

/// The first failure of standard output.
static FAILED: OnceLock<io::Error> = OnceLock::new();

/// Writes to the pager, or to standard output.
pub(super) fn write(text: &str) {
    end_wait();
    let mut pager = PAGER.lock().unwrap_or_else(PoisonError::into_inner);
    let written = match pager.as_mut().and_then(|pager| pager.stdin.as_mut()) {
        Some(pager) => writeln!(pager, "{text}"),
        None => writeln!(io::stdout().lock(), "{text}"),
    };
    drop(pager);
    written.unwrap_or_else(failed);
}

/// A reader that has gone (`| head`) is no failure.
fn failed(error: io::Error) {
    if error.kind() != io::ErrorKind::BrokenPipe {
        drop(FAILED.set(error));
    }
}

/// Why some of what was printed is not on standard output.
pub(crate) fn output_failure() -> Option<&'static io::Error> {
    io::stdout().flush().unwrap_or_else(failed);
    FAILED.get()
}
