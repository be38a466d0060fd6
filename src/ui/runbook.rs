//! The runbook, from Markdown.

use std::collections::BTreeMap;

use maud::{PreEscaped, html};
use pulldown_cmark::{CowStr, Event, HeadingLevel, Options, Parser, Tag, TagEnd, html::push_html};

use super::layout::{Here, document};

/// A Markdown document as a page. Each heading can be linked to by its text in lower case, with `-`
/// for spaces: `/runbook#meterbillstale`. Links to other files, pictures and HTML become plain
/// text, because a page has none of them.
pub fn runbook(markdown: &str) -> String {
    let Read { mut events, contents, title } = read(markdown);
    let is_title = |event: &Event<'_>| *event == Event::End(TagEnd::Heading(HeadingLevel::H1));
    let rest = events.split_off(events.iter().position(is_title).map_or(0, |at| at + 1));
    let [begin, rest] = [events, rest].map(|events| {
        let mut text = String::new();
        push_html(&mut text, events.into_iter());
        PreEscaped(text)
    });
    let body = html! {
        article.prose {
            @if title.is_none() { h1 { "Runbook" } } @else { (begin) }
            @if contents.len() > 2 {
                details {
                    summary { "On this page" }
                    nav.contents aria-label="On this page" {
                        ul { @for (id, text) in &contents { li { a href={ "#" (id) } { (text) } } } }
                    }
                }
            }
            (rest)
        }
    };
    document(title.as_deref().unwrap_or("Runbook"), Here::Runbook, 0, body, html! {})
}

/// Where a worker serves a page of the documents that another one names: `stripe.md#states` is
/// `/runbook/stripe#states`.
fn served(link: &str) -> Option<String> {
    let (file, part) = link.split_once('#').map_or((link, None), |(file, part)| (file, Some(part)));
    let name = file.strip_suffix(".md").filter(|name| SERVED.contains(name))?;
    let place = if name == "operations" { "/runbook".to_owned() } else { format!("/runbook/{name}") };
    Some(part.map_or_else(|| place.clone(), |part| format!("{place}#{part}")))
}

/// Pages of the documents that are served.
const SERVED: [&str; 6] = ["configuration", "enforcement", "metrics", "operations", "stripe", "turso"];

/// The parts of the page.
#[derive(Default)]
struct Read<'a> {
    events: Vec<Event<'a>>,
    /// Id and text of each heading of the second and third level.
    contents: Vec<(String, String)>,
    /// Text of the first heading of the first level.
    title: Option<String>,
}

fn read(markdown: &str) -> Read<'_> {
    let mut out = Read::default();
    // the frame of the page has this one
    let mut taken = BTreeMap::from([("main".to_owned(), 1)]);
    // a link that leads nowhere leaves its text, and so does its end
    let mut links: Vec<bool> = vec![];
    let mut heading: Option<(HeadingLevel, usize, String)> = None;
    for event in Parser::new_ext(markdown, Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH) {
        match event {
            Event::Start(Tag::Heading { level, classes, attrs, .. }) => {
                // a page has one title
                let level = if out.title.is_some() && level == HeadingLevel::H1 { HeadingLevel::H2 } else { level };
                heading = Some((level, out.events.len(), String::new()));
                out.events.push(Event::Start(Tag::Heading { level, id: None, classes, attrs }));
            }
            Event::End(TagEnd::Heading(end)) => {
                let (level, at, text) = heading.take().unwrap_or((end, out.events.len(), String::new()));
                let id = unused(&anchor(&text), &mut taken);
                if let Some(Event::Start(Tag::Heading { id: slot, .. })) = out.events.get_mut(at) {
                    *slot = Some(CowStr::from(id.clone()));
                }
                match level {
                    HeadingLevel::H1 => out.title = Some(text),
                    HeadingLevel::H2 | HeadingLevel::H3 => out.contents.push((id, text)),
                    _ => {}
                }
                out.events.push(Event::End(TagEnd::Heading(level)));
            }
            Event::Start(Tag::Link { link_type, dest_url, title, id }) => {
                let dest_url = served(&dest_url).map_or(dest_url, CowStr::from);
                links.push(leads_somewhere(&dest_url));
                if leads_somewhere(&dest_url) {
                    out.events.push(Event::Start(Tag::Link { link_type, dest_url, title, id }));
                }
            }
            Event::End(TagEnd::Link) => {
                if links.pop() == Some(true) {
                    out.events.push(Event::End(TagEnd::Link));
                }
            }
            Event::Start(Tag::Image { .. }) | Event::End(TagEnd::Image) => {}
            Event::Start(Tag::HtmlBlock) => out.events.push(Event::Start(Tag::Paragraph)),
            Event::End(TagEnd::HtmlBlock) => out.events.push(Event::End(TagEnd::Paragraph)),
            Event::Html(text) | Event::InlineHtml(text) if text.trim_start().starts_with("<!--") => {}
            Event::Html(text) | Event::InlineHtml(text) => out.events.push(Event::Text(text)),
            Event::Start(Tag::Table(columns)) => {
                let open = r#"<div class="scroll" role="region" aria-label="Table" tabindex="0">"#;
                out.events.push(Event::Html(open.into()));
                out.events.push(Event::Start(Tag::Table(columns)));
            }
            Event::End(TagEnd::Table) => {
                out.events.push(Event::End(TagEnd::Table));
                out.events.push(Event::Html("</div>".into()));
            }
            other => {
                if let (Some((.., text)), Event::Text(more) | Event::Code(more)) = (&mut heading, &other) {
                    text.push_str(more);
                }
                out.events.push(other);
            }
        }
    }
    out
}

/// What a link to a heading ends with.
fn anchor(text: &str) -> String {
    let kept = text.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// The same text may head two sections.
fn unused(id: &str, taken: &mut BTreeMap<String, u32>) -> String {
    let times = taken.entry(id.to_owned()).or_default();
    *times += 1;
    if *times == 1 { id.to_owned() } else { format!("{id}-{}", *times - 1) }
}

/// True for a place on this page, a page of ours and another site.
fn leads_somewhere(to: &str) -> bool {
    let ours = to.starts_with('#') || (to.starts_with('/') && !to.starts_with("//"));
    ours && !to.ends_with(".md") || to.starts_with("https://") || to.starts_with("http://") || to.starts_with("mailto:")
}
