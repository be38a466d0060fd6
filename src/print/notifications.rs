//! Notifications to the web backend, and messages to the operator.

use books::limits::notification::{MessageReceiver, Notification};
use jiff::Timestamp;

use super::out;
use crate::format::{ago, span};

pub(crate) fn table(notifications: &[Notification], now: Timestamp) {
    if notifications.is_empty() {
        return out("no such notification was made");
    }
    let titles = ["#notification", "2made", "#customer", "4meter", "3~about", "~state", "1>sent", "5~why not"];
    let error = &notifications[0].error;
    // what holds for all is said once
    let columns = if notifications.iter().all(|n| n.error == *error) { titles.len() - 1 } else { titles.len() };
    let rows = notifications.iter().map(|n| row(n, now).into_iter().take(columns).collect());
    super::table(&titles[..columns], rows.collect());
    if let Some(error) = error.as_ref().filter(|_| columns < titles.len()) {
        out(&format!("why not: {error}"));
    }
}

fn row(n: &Notification, now: Timestamp) -> Vec<String> {
    let (customer, meter) = match n.receiver {
        MessageReceiver::Slack => ("(the operator)", "by Slack"),
        MessageReceiver::Webhook => ("(the operator)", "by webhook"),
        MessageReceiver::Backend if n.meter.is_empty() => (n.customer.as_str(), "all meters"),
        MessageReceiver::Backend => (n.customer.as_str(), n.meter.as_str()),
    };
    let about = if n.percent > 0 { format!("{} {} %", n.kind, n.percent) } else { n.kind.clone() };
    let state = match n.next_at {
        Some(at) if at > now => format!("{}, again in {}", n.state, span(at.duration_since(now))),
        _ if n.state == "known" => "known, not sent".to_owned(),
        _ => n.state.clone(),
    };
    let error = n.error.clone().unwrap_or_default();
    let sent = n.attempts.to_string();
    vec![n.id.clone(), ago(n.created_at, now), customer.to_owned(), meter.to_owned(), about, state, sent, error]
}
