//! What all pages share: the frame around them, icons, and small parts.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::queue::JobState;
use crate::visible;

const STYLE: &str = include_str!("page.css");
/// Three bars on blue, an inline SVG, so that no browser requests `/favicon.ico`.
const FAVICON: &str = "data:image/svg+xml;base64,\
    PHN2ZyB4bWxucz0iaHR0cDovL3d3dy53My5vcmcvMjAwMC9zdmciIHZpZXdCb3g9IjAgMCAxNiAxNiI+PHJlY3Qgd2lkdGg9IjE2IiBoZWlnaHQ9IjE2IiByeD0iMyIgZmls\
    bD0iIzFmNWZhZSIvPjxwYXRoIGQ9Ik00IDEyVjhNOCAxMlY0TTEyIDEyVjYiIHN0cm9rZT0iI2ZmZiIgc3Ryb2tlLXdpZHRoPSIyLjQiIHN0cm9rZS1saW5lY2FwPSJyb3VuZ\
    CIvPjwvc3ZnPg==";

/// The entry of the navigation that a page belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Here {
    Status,
    Customers,
    Jobs,
    Job,
    Runbook,
    Nowhere,
    /// A document without navigation.
    Alone,
}

/// How good or bad something is. Words beside it always say the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Good,
    Warning,
    Bad,
    Busy,
    Quiet,
}

impl Tone {
    pub(super) fn class(self) -> &'static str {
        match self {
            Self::Good => "well",
            Self::Warning => "warning",
            Self::Bad => "wrong",
            Self::Busy => "busy",
            Self::Quiet => "quiet",
        }
    }
}

/// A whole document. It reloads itself after `refresh` seconds; 0 = never.
pub(super) fn document(title: &str, here: Here, refresh: u32, body: Markup, foot: Markup) -> String {
    let entry = |to: &str, name: &str, of: Here| {
        let current = match here {
            _ if here == of => Some("page"),
            Here::Job if of == Here::Jobs => Some("true"),
            _ => None,
        };
        html! { li { a href=(to) aria-current=[current] { (name) } } }
    };
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="robots" content="noindex";
                @if refresh > 0 { meta http-equiv="refresh" content=(refresh); }
                title { (title) " – meter" }
                link rel="icon" href=(FAVICON);
                style { (PreEscaped(STYLE)) }
            }
            body {
                @if here != Here::Alone {
                    a.skip href="#main" { "Skip to the content" }
                    header.top {
                        div.wide {
                            span.brand { (mark()) "meter" }
                            nav aria-label="Pages" {
                                ul {
                                    (entry("/", "Status", Here::Status))
                                    (entry("/customers", "Customers", Here::Customers))
                                    (entry("/jobs", "Jobs", Here::Jobs))
                                    (entry("/runbook", "Runbook", Here::Runbook))
                                }
                            }
                        }
                    }
                }
                main.wide #main tabindex="-1" { (body) }
                footer.wide { (foot) }
            }
        }
    };
    visible::lines(&page.into_string()).into_owned()
}

/// A page with one message.
pub(super) fn message_page(title: &str, text: &str) -> String {
    let body = html! {
        div.message {
            h1 { (title) }
            p { (text) }
            p { a href="/" { "Back to the status page" } }
        }
    };
    document(title, Here::Nowhere, 0, body, html! {})
}

/// The three bars of the brand.
fn mark() -> Markup {
    drawing("mark", "M4 13V9M8 13V3M12 13V6")
}

/// The icon of a tone.
pub(super) fn icon(tone: Tone) -> Markup {
    let (class, path) = match tone {
        Tone::Good => ("icon well", "M8 1.5a6.5 6.5 0 1 0 0 13a6.5 6.5 0 1 0 0-13M5 8.3l2.1 2.1L11 6.2"),
        Tone::Warning => ("icon warning", "M8 2L14.5 13.5H1.5ZM8 6.3V9.3M8 11.2V11.6"),
        Tone::Bad => {
            ("icon wrong", "M5.4 1.5h5.2l3.9 3.9v5.2l-3.9 3.9H5.4L1.5 10.6V5.4ZM5.7 5.7l4.6 4.6M10.3 5.7L5.7 10.3")
        }
        Tone::Busy => ("icon busy", "M8 1.5a6.5 6.5 0 1 0 0 13a6.5 6.5 0 1 0 0-13M8 4.5V8l2.4 1.6"),
        Tone::Quiet => ("icon quiet", "M4 8H12"),
    };
    drawing(class, path)
}

fn drawing(class: &str, path: &str) -> Markup {
    html! { svg class=(class) viewBox="0 0 16 16" aria-hidden="true" focusable="false" { path d=(path); } }
}

/// The state of a job.
pub(super) fn state(state: JobState, attention: bool) -> Markup {
    let tone = match (state, attention) {
        (JobState::Dead, _) => Tone::Bad,
        (_, true) | (JobState::Retrying, _) => Tone::Warning,
        (JobState::Done, _) => Tone::Good,
        (JobState::Running, _) => Tone::Busy,
        (JobState::Pending | JobState::Scheduled | JobState::Cancelled, _) => Tone::Quiet,
    };
    html! {
        span class={ "state " (tone.class()) } { (icon(tone)) span { (state.as_str()) @if attention { ", needs attention" } } }
    }
}

/// Wide content, which scrolls by itself on a narrow screen and with the keyboard.
pub(super) fn scroll(label: &str, inner: Markup) -> Markup {
    html! { div.scroll role="region" aria-label=(label) tabindex="0" { (inner) } }
}
