//! Notes findings as they begin and end, so that the operator gets a message about each.
//!
//! Every worker looks, at the pace at which its figures are read. What begins and what ends is
//! decided by the books alone ([`books::audit::findings`]): workers that run side by side make each
//! message once, and a worker that starts again goes on where the last one stopped.

use std::sync::Arc;

use books::BooksError;
use books::audit::findings::{NotedFindings, SeenFinding};
use jiff::Timestamp;
use jobs::context::OperatorSettings;
use jobs::operator_message;

use super::outage::OutageLog;
use crate::health::{Finding, Overview, StatsCollector};
use crate::queue::Queue;

/// Looks for as long as the process works.
pub async fn run(queue: Queue, collector: StatsCollector, operator: Arc<OperatorSettings>) {
    let (mut outage, mut last) = (OutageLog::default(), None);
    loop {
        tokio::time::sleep(collector.least()).await;
        let Some(overview) = collector.last().filter(|overview| last != Some(overview.at)) else { continue };
        match note(&queue, &overview, &operator).await {
            Ok(_) => {
                last = Some(overview.at);
                outage.ended("note findings");
            }
            Err(error) => drop(outage.note("note findings", &error)),
        }
    }
}

/// One look, for a worker that runs what is due and exits.
pub async fn look_once(
    queue: &Queue,
    collector: &StatsCollector,
    operator: &Arc<OperatorSettings>,
    now: Timestamp,
) -> anyhow::Result<()> {
    note(queue, &collector.read(now).await?, operator).await?;
    Ok(())
}

async fn note(
    queue: &Queue,
    overview: &Overview,
    operator: &Arc<OperatorSettings>,
) -> Result<NotedFindings, BooksError> {
    let (operator, at) = (operator.clone(), overview.at);
    let seen = overview.findings.iter().map(seen).collect();
    let words = move |change: &_| operator_message::of_finding(change, &operator, at);
    let noted = queue.database().note_findings(seen, at, words).await?;
    if noted != NotedFindings::default() {
        let NotedFindings { began, ended } = noted;
        tracing::info!(began, ended, "{began} finding(s) began and {ended} ended: the operator gets a message of each");
    }
    Ok(noted)
}

fn seen(finding: &Finding) -> SeenFinding {
    let Finding { severity, alert, subject, what, act } = finding;
    SeenFinding {
        alert: (*alert).to_owned(),
        subject: subject.clone(),
        severity: severity.name(),
        what: what.clone(),
        act: act.clone(),
    }
}
