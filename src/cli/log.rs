//! The log on standard error: one line for each event, in which nothing acts that others wrote.

use std::fmt;
use std::io::{self, IsTerminal, Write};

use jiff::Timestamp;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format::{self, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use crate::config::{LogConfig, LogFormat};
use crate::exit::BadUsage;
use crate::print::{self, ColorWhen};
use crate::visible;

/// The AWS SDK's own warnings are the error of a run once more, as long Debug text.
const QUIET: &str = ",aws_config=error";

/// Ends a field of a run; no field has it.
const FIELD_END: &str = "\u{1f}";

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
        let fields = format::debug_fn(|to, field, value| write!(to, "{field}={value:?}"));
        log.fmt_fields(fields.delimited(FIELD_END)).event_format(Sentence).init()
    }
    Ok(())
}

/// An event as time, level and message. Of its fields, and of those of the run that it is part of,
/// only what the message does not say follows.
struct Sentence;

impl<S, N> FormatEvent<S, N> for Sentence
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let level = *event.metadata().level();
        let code = match level {
            Level::ERROR => 31,
            Level::WARN => 33,
            Level::INFO => 32,
            _ => 34,
        };
        let (on, off) =
            if to.has_ansi_escapes() { (format!("\u{1b}[{code}m"), "\u{1b}[0m") } else { (String::new(), "") };
        write!(to, "{:.0} {on}{level:>5}{off} {}", Timestamp::now(), fields.message)?;
        let unsaid = fields.others.iter().filter(|(_, value)| !says(&fields.message, value));
        let mut more: Vec<String> = unsaid.map(|(name, value)| format!("{name}={value}")).collect();
        // the line of a run says of itself what matters
        if fields.others.iter().any(|(name, _)| *name == "job") {
            more.clear();
        }
        for span in context.event_scope().into_iter().flatten() {
            let extensions = span.extensions();
            let Some(of_run) = extensions.get::<FormattedFields<N>>() else { continue };
            let unsaid = of_run.fields.split(FIELD_END).filter(|field| {
                let value = field.split_once('=').map_or("", |(_, value)| value);
                !value.is_empty() && !says(&fields.message, value)
            });
            more.extend(unsaid.map(str::to_owned));
        }
        if !more.is_empty() {
            write!(to, " ({})", more.join(" "))?;
        }
        writeln!(to)
    }
}

/// Whether a message has a value as a word of its own.
fn says(message: &str, value: &str) -> bool {
    let value = value.trim_matches('"');
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    message.match_indices(value).any(|(at, _)| {
        let (before, after) = (&message[..at], &message[at + value.len()..]);
        !before.ends_with(is_word) && !after.starts_with(is_word)
    })
}

/// The fields of an event as text.
#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, String)>,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            name => self.others.push((name, format!("{value:?}"))),
        }
    }
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
        print::end_wait();
        // a full disk or a reader that has gone costs lines, and no work
        drop(writeln!(io::stderr().lock(), "{safe}"));
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
