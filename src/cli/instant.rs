//! Instants and spans of time on the command line.

use jiff::{Span, Timestamp};

/// Reads an instant.
pub(super) fn instant(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|_| format!("`{text}` is no instant; write it as 2026-10-07T12:00:00Z"))
}

/// Reads a span of time.
pub(super) fn span(text: &str) -> Result<Span, String> {
    text.parse().map_err(|_| format!("`{text}` is no span of time; write it as 30d, 12h or 45m"))
}
