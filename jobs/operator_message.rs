//! What messages to the operator say (no job): for people in Slack's form, for programs as JSON.
//! Pure.
//!
//! Slack's form is that of its incoming webhooks
//! (<https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks>): an object with
//! `text`, in which `&`, `<` and `>` are written as entities, so that no text becomes a link or a
//! mention (<https://docs.slack.dev/messaging/formatting-message-text#escaping>). The form for
//! programs is in `docs/operator-messages.md`.

use books::audit::findings::{FindingChange, StoredFinding};
use books::limits::notification::MessageReceiver;
use books::limits::operator_message::{NewOperatorMessage, OperatorMessageKind};
use books::units::calendar::instant;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::context::OperatorSettings;

/// The most characters of a text that others wrote, in a message for people.
const LONGEST: usize = 400;

/// What a message says.
pub(crate) struct Words {
    /// For people.
    pub(crate) text: String,
    /// For programs.
    pub(crate) data: Value,
}

/// The messages about a finding that begins or ends, one to each receiver; none of other changes.
pub fn of_finding(change: &FindingChange, settings: &OperatorSettings, now: Timestamp) -> Vec<NewOperatorMessage> {
    let (kind, finding) = match change {
        FindingChange::Begins(finding) => (OperatorMessageKind::FindingBegan, finding),
        FindingChange::Ends(finding) => (OperatorMessageKind::FindingEnded, finding),
        FindingChange::Appears(_) | FindingChange::Goes(_) | FindingChange::Returns(_) | FindingChange::Fades(_) => {
            return vec![];
        }
    };
    // a number comes again in books that were restored
    let about = format!("{} {}", finding.seq, finding.since());
    let words = finding_words(kind, finding, settings);
    let message = |receiver: &MessageReceiver| NewOperatorMessage {
        receiver: *receiver,
        kind,
        about: about.clone(),
        body: body(*receiver, kind.name(), &words, now),
    };
    settings.receivers.keys().map(message).collect()
}

fn finding_words(kind: OperatorMessageKind, finding: &StoredFinding, settings: &OperatorSettings) -> Words {
    let StoredFinding { seq, alert, severity, .. } = finding;
    let ended_at = finding.gone_at.filter(|_| kind == OperatorMessageKind::FindingEnded).map(instant);
    let runbook = settings.status_page.as_ref().map(|page| format!("{page}/runbook#{}", alert.to_lowercase()));
    let mut lines = vec![match ended_at {
        None => format!("Finding {seq} began ({severity}): {}", line(&finding.what)),
        Some(_) => format!("Finding {seq} ended: {}", line(&finding.what)),
    }];
    lines.push(match ended_at {
        None => name(finding),
        Some(at) => format!("{}, {} to {} UTC", name(finding), minute(finding.since()), minute(at)),
    });
    if ended_at.is_none() {
        lines.push(format!("What to do: {}", line(&finding.act)));
        lines.push(match &runbook {
            Some(runbook) => runbook.clone(),
            None => format!("More: {alert} in docs/operations.md"),
        });
    }
    let mut data = finding_data(finding);
    data["ended_at"] = json!(ended_at);
    data["runbook"] = json!(runbook);
    Words { text: lines.join("\n"), data }
}

/// A finding for programs.
pub(crate) fn finding_data(finding: &StoredFinding) -> Value {
    let mut data = json!(finding);
    data["began_at"] = json!(finding.since());
    data
}

/// The alert of a finding, and what it is about.
pub(crate) fn name(finding: &StoredFinding) -> String {
    match finding.subject.as_str() {
        "" => finding.alert.clone(),
        subject => format!("{} ({})", finding.alert, line(subject)),
    }
}

/// The body of a message by which a person sees that a receiver works.
pub fn test_body(receiver: MessageReceiver, settings: &OperatorSettings, now: Timestamp) -> String {
    let mut text = "A test message of meter: findings and the weekly digest will come here.".to_owned();
    if let Some(page) = &settings.status_page {
        text += &format!("\n{page}/");
    }
    let data = json!({ "text": text, "status_page": settings.status_page });
    body(receiver, "test", &Words { text, data }, now)
}

/// What is sent to a receiver. `name` is the type's, without `meter.`
pub(crate) fn body(receiver: MessageReceiver, name: &str, words: &Words, now: Timestamp) -> String {
    match receiver {
        MessageReceiver::Slack => json!({ "text": slack(&words.text) }),
        MessageReceiver::Webhook | MessageReceiver::Backend => {
            let timestamp = instant(now.as_second());
            json!({ "type": format!("meter.{name}"), "timestamp": timestamp, "data": words.data })
        }
    }
    .to_string()
}

/// A text as Slack shows it unchanged.
fn slack(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A text that others wrote, as one line that is not too long.
pub(crate) fn line(text: &str) -> String {
    let acts = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    let mut shown: String = text.chars().take(LONGEST).map(|c| if acts(c) { ' ' } else { c }).collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    shown
}

/// An instant to the minute, in UTC.
pub(crate) fn minute(at: Timestamp) -> String {
    at.strftime("%F %H:%M").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(what: &str) -> StoredFinding {
        StoredFinding {
            seq: 12,
            alert: "MeterDeadJobs".into(),
            subject: "ingest_cur".into(),
            severity: "warning".into(),
            what: what.into(),
            act: "meter jobs list --state dead --kind ingest_cur".into(),
            seen_at: 1_795_999_880,
            began_at: Some(1_796_000_000),
            gone_at: Some(1_796_003_600),
        }
    }

    fn settings(status_page: Option<&str>) -> OperatorSettings {
        OperatorSettings { status_page: status_page.map(str::to_owned), ..OperatorSettings::default() }
    }

    #[test]
    fn slack_shows_any_text_as_it_is() {
        for (text, expected) in [
            ("2 job(s) are dead", "2 job(s) are dead"),
            ("<!channel> & <https://evil|click>", "&lt;!channel&gt; &amp; &lt;https://evil|click&gt;"),
            ("&lt;", "&amp;lt;"),
            ("Zoë 🦀 日本", "Zoë 🦀 日本"),
        ] {
            let words = Words { text: text.into(), data: json!(null) };
            let sent = body(MessageReceiver::Slack, "test", &words, Timestamp::UNIX_EPOCH);
            let sent: Value = serde_json::from_str(&sent).unwrap();
            assert_eq!(sent, json!({ "text": expected }), "{text}");
        }
    }

    #[test]
    fn a_foreign_text_is_one_line_and_not_too_long() {
        for (text, expected) in [
            ("a\nFinding 1 ended: \u{1b}[1m", "a Finding 1 ended:  [1m".to_owned()),
            ("\u{202e}txt.exe\u{2028}x\u{0}", " txt.exe x ".to_owned()),
            (&"é".repeat(400), "é".repeat(400)),
            (&"é".repeat(401), format!("{}…", "é".repeat(400))),
        ] {
            assert_eq!(line(text), expected);
        }
    }

    #[test]
    fn a_finding_says_what_where_and_what_to_do() {
        let page = settings(Some("https://meter.example"));
        for (kind, settings, expected) in [
            (
                OperatorMessageKind::FindingBegan,
                &settings(None),
                "Finding 12 began (warning): a\nMeterDeadJobs (ingest_cur)\n\
                 What to do: meter jobs list --state dead --kind ingest_cur\nMore: MeterDeadJobs in docs/operations.md",
            ),
            (
                OperatorMessageKind::FindingBegan,
                &page,
                "Finding 12 began (warning): a\nMeterDeadJobs (ingest_cur)\n\
                 What to do: meter jobs list --state dead --kind ingest_cur\nhttps://meter.example/runbook#meterdeadjobs",
            ),
            (
                OperatorMessageKind::FindingEnded,
                &page,
                "Finding 12 ended: a\nMeterDeadJobs (ingest_cur), 2026-11-30 00:53 to 2026-11-30 01:53 UTC",
            ),
        ] {
            assert_eq!(finding_words(kind, &finding("a"), settings).text, expected);
        }
    }

    #[test]
    fn a_program_gets_the_exact_text_and_the_times() {
        let words = finding_words(OperatorMessageKind::FindingEnded, &finding("<a>\n"), &settings(None));
        let sent = body(MessageReceiver::Webhook, "finding_ended", &words, Timestamp::UNIX_EPOCH);
        let sent: Value = serde_json::from_str(&sent).unwrap();
        let expected = json!({
            "type": "meter.finding_ended",
            "timestamp": "1970-01-01T00:00:00Z",
            "data": {
                "finding": 12,
                "alert": "MeterDeadJobs",
                "subject": "ingest_cur",
                "severity": "warning",
                "what": "<a>\n",
                "act": "meter jobs list --state dead --kind ingest_cur",
                "began_at": "2026-11-30T00:53:20Z",
                "ended_at": "2026-11-30T01:53:20Z",
                "runbook": null,
            },
        });
        assert_eq!(sent, expected);
    }
}
