//! What an HTTP client's error says, for logs and stored rows: never the address, which may have a
//! secret in it.

/// Why no answer came.
pub(crate) fn said(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".into();
    }
    let mut why = if error.is_connect() { "no connection".to_owned() } else { "the request failed".to_owned() };
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        why = format!("{why}: {inner}");
        source = inner.source();
    }
    why
}
