//! The log on standard error: one line for each event, in which nothing acts that others wrote.

use std::io::{self, IsTerminal, Write};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::{LogConfig, LogFormat};
use crate::exit::BadUsage;
use crate::print::ColorWhen;
use crate::visible;

/// The AWS SDK's own warnings are the error of a run once more, as long Debug text.
const QUIET: &str = ",aws_config=error";

/// Starts the log at `level`, which is one of the configuration's if it is left out; `auto` is the
/// command's own.
pub(super) fn start(config: &LogConfig, level: Option<String>, auto: &str, color: ColorWhen) -> anyhow::Result<()> {
    let level = match level.as_deref().unwrap_or(&config.level) {
        "auto" => auto,
        level => level,
    };
    if let Some(why) = LogConfig::level_fault(level) {
        return Err(BadUsage(format!("--log {level}: {why}")).into());
    }
    let quiet = if matches!(level, "warn" | "info") { QUIET } else { "" };
    let filter = EnvFilter::try_new(format!("{level}{quiet}"));
    let filter = filter.map_err(|e| BadUsage(format!("--log {level}: {e}")))?;
    let colours = color.holds(io::stderr().is_terminal());
    let json = config.format == LogFormat::Json;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(Lines { json, colours }).with_ansi(colours);
    if json {
        log.json().init()
    } else {
        log.with_target(false).init()
    }
    Ok(())
}

/// Makes writers that get one event at a time, as a whole line.
#[derive(Clone, Copy)]
struct Lines {
    json: bool,
    colours: bool,
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        *self
    }
}

impl Write for Lines {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let line = text.strip_suffix('\n').unwrap_or(&text);
        let safe = match (self.json, self.colours) {
            (true, _) => visible::json(line),
            (false, true) => visible::coloured(line).into(),
            (false, false) => visible::line(line),
        };
        writeln!(io::stderr().lock(), "{safe}")?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
