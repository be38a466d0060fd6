//! The report of each kind of job as a sentence for people: what the run changed, and what needs
//! a look. It is stored with the report as its field `sentence`. A kind without one does not
//! compile.

use jobs::deliver_notifications::DeliverReport;
use jobs::enforce_budgets::EnforceReport;
use jobs::fold_measurements::FoldMeasurementsReport;
use jobs::forecast_usage::ForecastUsageReport;
use jobs::ingest_cur::{CheckMonthsReport, IngestOutcome, IngestReport, PartOutcome, PartReport};
use jobs::operator_digest::OperatorDigestReport;
use jobs::probe::ProbeReport;
use jobs::push_stripe::PushReport;
use jobs::reconcile_stripe::ReconcileReport;
use jobs::roll_counters::RollCountersReport;
use jobs::roll_periods::RollPeriodsReport;
use jobs::shared_bucket::BucketReport;
use jobs::sync_stripe::SyncReport;
use jobs::verify_books::VerifyReport;
use schemars::JsonSchema;
use serde::Serialize;

use crate::format::{count, several, verb};

/// A report that says what its run did.
pub trait ReportSentence {
    /// Empty when there is nothing to say.
    fn sentence(&self) -> String;
}

/// A report with its sentence, as it is stored.
#[derive(Debug, JsonSchema, Serialize)]
pub(crate) struct WithSentence<'a, R> {
    /// What the run did, for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    sentence: String,
    #[serde(flatten)]
    report: &'a R,
}

/// A report as JSON, with its sentence as the field `sentence` if it has one.
///
/// # Errors
/// When the report is no JSON object.
pub(crate) fn to_json<R: ReportSentence + Serialize>(report: &R) -> serde_json::Result<String> {
    match report.sentence() {
        // it may be no object at all
        sentence if sentence.is_empty() => serde_json::to_string(report),
        sentence => serde_json::to_string(&WithSentence { sentence, report }),
    }
}

/// Parts of a sentence that say something; `otherwise` when none does.
fn joined(parts: impl IntoIterator<Item = (u64, String)>, otherwise: &str) -> String {
    let parts: Vec<String> = parts.into_iter().filter(|(n, _)| *n > 0).map(|(_, part)| part).collect();
    if parts.is_empty() { otherwise.to_owned() } else { parts.join(", ") }
}

fn number(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

impl ReportSentence for IngestReport {
    fn sentence(&self) -> String {
        let bill = format!("of payer {} for {}", self.bill.payer, self.bill.month);
        match self.outcome {
            IngestOutcome::Applied => {
                let mut text = format!(
                    "booked the bill {bill}: {}, {} counted, {}",
                    several(self.rows, "line"),
                    count(self.counted_rows),
                    match self.entries {
                        1 => "1 ledger entry".to_owned(),
                        n => format!("{} ledger entries", count(n)),
                    }
                );
                if !self.accepted.is_empty() {
                    text += "; it was accepted by a person";
                }
                if !self.warnings.is_empty() {
                    text += &format!("; {}", several(self.warnings.len(), "warning"));
                }
                text
            }
            IngestOutcome::WouldApply => format!("would book the bill {bill}"),
            IngestOutcome::Unchanged => format!("the bill {bill} is booked already"),
            IngestOutcome::Older => format!("AWS's newest bill {bill} is older than the booked one; nothing was done"),
            IngestOutcome::Reverted => format!("the change of the bill {bill} was reverted; it is not booked again"),
            IngestOutcome::NoBill => format!("AWS has delivered no bill {bill} yet"),
            IngestOutcome::OnHold => {
                let why: Vec<String> = self.hold_reasons.iter().map(|why| why.text.clone()).collect();
                format!("put the bill {bill} on hold: {}", why.join("; "))
            }
            IngestOutcome::WouldHold => format!("would put the bill {bill} on hold"),
        }
    }
}

impl ReportSentence for PartReport {
    fn sentence(&self) -> String {
        match self.outcome {
            PartOutcome::Stored => {
                format!("read {} of {}", several(self.rows, "line"), several(self.files, "file"))
            }
            PartOutcome::Obsolete => "the part was not needed any more".into(),
        }
    }
}

impl ReportSentence for CheckMonthsReport {
    fn sentence(&self) -> String {
        let found = joined(
            [
                (number(self.to_be_read.len()), format!("to be read: {}", self.to_be_read.join(", "))),
                (number(self.unreadable.len()), format!("unreadable: {}", self.unreadable.join(", "))),
                (
                    number(self.without_manifest.len()),
                    format!("without a manifest: {}", self.without_manifest.join(", ")),
                ),
            ],
            "nothing to do",
        );
        if self.looked_at == 0 {
            return "there is no past month to look at".into();
        }
        format!("looked at {}, {} as booked; {found}", several(self.looked_at, "past month"), count(self.as_booked))
    }
}

impl ReportSentence for BucketReport {
    fn sentence(&self) -> String {
        let days = several(self.days_read.len(), "day");
        let read = match (self.days_read.first(), self.days_read.last()) {
            (Some(first), Some(last)) if first == last => {
                format!("read {first} anew from {}", several(self.files, "file"))
            }
            (Some(first), Some(last)) => {
                format!("read {days} ({first} to {last}) anew from {}", several(self.files, "file"))
            }
            _ => "no day has new reports".to_owned(),
        };
        let rest = joined(
            [
                (self.of_nobody, format!("{} of no customer", count(self.of_nobody))),
                (self.contradictions, format!("{} that name two customers", count(self.contradictions))),
                (self.bad_lines, several(self.bad_lines, "bad line")),
                (self.days_waiting.into(), format!("{} not complete yet", several(self.days_waiting, "day"))),
                (number(self.not_read.len()), format!("not read: {}", self.not_read.join("; "))),
            ],
            "",
        );
        if rest.is_empty() { read } else { format!("{read}; {rest}") }
    }
}

impl ReportSentence for RollPeriodsReport {
    fn sentence(&self) -> String {
        if self.on_hold {
            return "nothing was done: the subscriptions of restored books are not read again yet".into();
        }
        let parts = [
            (self.closed, format!("{} closed", several(self.closed, "period"))),
            (self.opened, format!("{} opened or moved", count(self.opened))),
            (self.merged, format!("{} merged", count(self.merged))),
            (
                self.overlapping_subscriptions,
                format!("{} with two living subscriptions", several(self.overlapping_subscriptions, "customer")),
            ),
        ];
        joined(parts, "no period was over")
    }
}

impl ReportSentence for EnforceReport {
    fn sentence(&self) -> String {
        let whom = match (self.customers, self.everybody) {
            (0, false) => return "nobody was due".into(),
            (1, false) => "1 customer who was due".to_owned(),
            (n, false) => format!("{} customers who were due", count(n)),
            (n, true) => format!("everybody ({})", several(n, "customer")),
        };
        let parts = [
            (self.blocked, format!("{} blocked", several(self.blocked, "meter"))),
            (self.unblocked, format!("{} allowed again", several(self.unblocked, "meter"))),
            (self.notifications, several(self.notifications, "notification")),
            (self.without_period, format!("{} without a billing period", count(self.without_period))),
            (self.unknown_plan, format!("{} with an unknown plan", count(self.unknown_plan))),
            (
                self.budget_in_other_currency,
                format!("{} with a budget in another currency", count(self.budget_in_other_currency)),
            ),
            (self.from_the_future, format!("{} decided by a clock that is ahead", count(self.from_the_future))),
            (self.missed, format!("{} had changed and not been due", count(self.missed))),
        ];
        format!("decided for {whom}: {}", joined(parts, "nobody is blocked or allowed anew"))
    }
}

impl ReportSentence for DeliverReport {
    fn sentence(&self) -> String {
        let parts = [
            (self.delivered, format!("{} delivered", several(self.delivered, "notification"))),
            (self.retried, format!("{} to be tried again", count(self.retried))),
            (self.dead, format!("{} given up", count(self.dead))),
            (self.set_aside, format!("{} not sent, because no webhook is configured", count(self.set_aside))),
        ];
        joined(parts, "nothing was to be delivered")
    }
}

impl ReportSentence for ForecastUsageReport {
    fn sentence(&self) -> String {
        let Some(through) = self.settled_through else {
            return "no day of the last weeks is settled by a bill, so nothing was forecast".into();
        };
        let rules: Vec<String> = self.meters.iter().map(|of| format!("{} by {}", of.meter, of.rule.words())).collect();
        let whom = several(self.customers, "customer");
        let unusual = match self.unusual_days {
            0 => String::new(),
            n => format!("; {} far outside of what was expected", several(n, "day")),
        };
        format!("forecast {} for {whom} from usage through {through}: {}{unusual}", self.month, rules.join(", "))
    }
}

impl ReportSentence for OperatorDigestReport {
    fn sentence(&self) -> String {
        match self.messages {
            0 => format!("the digest of the week from {} was made already", self.week),
            n => format!("made the digest of the week from {}: {}", self.week, several(n, "message")),
        }
    }
}

impl ReportSentence for SyncReport {
    fn sentence(&self) -> String {
        if self.without_key {
            return "nothing was read: there is no key of Stripe".into();
        }
        let parts = [
            (self.changed, format!("{} new or changed", count(self.changed))),
            (self.items, format!("{} new or changed", several(self.items, "metered item"))),
            (self.billed_wrongly, format!("{} not billed rightly", count(self.billed_wrongly))),
            (
                self.unknown_customers,
                format!("{} of customers who are not in the books", count(self.unknown_customers)),
            ),
            (self.unknown_to_stripe, format!("{} that Stripe does not have", count(self.unknown_to_stripe))),
            (self.unusable, format!("{} that cannot be stored", count(self.unusable))),
        ];
        format!("read {}: {}", several(self.read, "subscription"), joined(parts, "nothing changed"))
    }
}

impl ReportSentence for PushReport {
    fn sentence(&self) -> String {
        if let Some(backup) = self.on_hold {
            return format!("nothing was sent: billing of the books restored from {backup} is on hold");
        }
        let deferred: u64 = self.deferred.values().sum();
        let parts = [
            (self.planned, format!("{} planned", several(self.planned, "meter event"))),
            (self.accepted, format!("{} accepted by Stripe", count(self.accepted))),
            (self.refused, format!("{} refused", count(self.refused))),
            (self.unconfirmed, format!("{} unconfirmed", count(self.unconfirmed))),
            (self.retried, format!("{} to be sent again", count(self.retried))),
            (self.expired, format!("{} too late for their invoice", count(self.expired))),
            (deferred, format!("{} deferred", several(deferred, "amount"))),
            (
                number(self.missing_meters.len()),
                format!("meters missing at Stripe: {}", self.missing_meters.join(", ")),
            ),
            (number(self.unmapped.len()), format!("not billed: {}", self.unmapped.join(", "))),
            (self.unknown_plan, format!("{} with an unknown plan", several(self.unknown_plan, "customer"))),
        ];
        let dry = if self.dry_run { " (nothing is sent: a dry run)" } else { "" };
        let stopped = self.stopped.as_ref().map(|why| format!("; stopped: {why}")).unwrap_or_default();
        format!("looked at {}{dry}: {}{stopped}", several(self.customers, "customer"), joined(parts, "nothing to send"))
    }
}

impl ReportSentence for ReconcileReport {
    fn sentence(&self) -> String {
        if self.without_key {
            return "nothing was compared: there is no key of Stripe".into();
        }
        if let Some(backup) = self.on_hold {
            return format!("nothing was compared: billing of the books restored from {backup} is on hold");
        }
        let parts = [
            (self.accepted, format!("{} now accepted", several(self.accepted, "unconfirmed event"))),
            (self.not_received, format!("{} not received, and planned again", count(self.not_received))),
            (self.waiting, format!("{} not decided yet", count(self.waiting))),
            (self.alarms, several(self.alarms, "alarm")),
            (self.out_of_reads.into(), "the day's reads are used up".to_owned()),
        ];
        let agree = format!("{} {} with the books", count(self.agree), verb(self.agree, "agrees", "agree"));
        let rest = joined(parts, "");
        let rest = if rest.is_empty() { rest } else { format!(", {rest}") };
        format!("read {} of Stripe: {agree}{rest}", several(self.read, "total"))
    }
}

impl ReportSentence for RollCountersReport {
    fn sentence(&self) -> String {
        match self.customers {
            0 => format!("all counters are those of {} already", self.month),
            n => format!("counters of {} begin anew in {}", several(n, "customer"), self.month),
        }
    }
}

impl ReportSentence for FoldMeasurementsReport {
    fn sentence(&self) -> String {
        let parts = [
            (
                self.folded,
                format!("{} from before {} folded into days", several(self.folded, "measurement"), self.before),
            ),
            (
                self.ended_by_bound,
                format!("{} ended by their bound, without an end", several(self.ended_by_bound, "use")),
            ),
            (number(self.differing.len()), format!("measured and billed usage differ: {}", self.differing.join(", "))),
        ];
        joined(parts, "nothing was old enough to be folded")
    }
}

impl ReportSentence for VerifyReport {
    fn sentence(&self) -> String {
        let broken = self.audit.checks.iter().filter(|check| !check.violations.is_empty());
        match broken.clone().count() {
            0 => format!("{} checked: the books are sound", several(self.audit.checks.len(), "rule")),
            n => {
                let rules: Vec<String> = broken.map(|check| check.name.to_owned()).collect();
                format!("{} broken: {}", several(n, "rule"), rules.join(", "))
            }
        }
    }
}

impl ReportSentence for ProbeReport {
    fn sentence(&self) -> String {
        let before =
            if self.repeats == 0 { String::new() } else { format!(", after {}", several(self.repeats, "run")) };
        format!("the probe {} has run{before}", self.name)
    }
}

/// Reports of tests.
macro_rules! says_nothing {
    ($($report:ty),*) => {
        $(impl ReportSentence for $report {
            fn sentence(&self) -> String {
                String::new()
            }
        })*
    };
}

says_nothing!(String, ());

#[cfg(test)]
mod tests {
    use jobs::push_stripe::decide::DeferReason;

    use super::*;

    #[test]
    fn what_happened_is_said_and_what_did_not_is_left_out() {
        let enforced = EnforceReport { customers: 1_204, blocked: 1, without_period: 2, ..EnforceReport::default() };
        let everybody = EnforceReport { customers: 1, everybody: true, ..EnforceReport::default() };
        let pushed = PushReport {
            customers: 3,
            planned: 2,
            accepted: 1,
            unconfirmed: 1,
            deferred: [(DeferReason::NoSubscription, 4)].into(),
            ..PushReport::default()
        };
        let rolled = RollPeriodsReport { closed: 1, opened: 2, ..RollPeriodsReport::default() };
        let delivered = DeliverReport { delivered: 2, dead: 1, ..DeliverReport::default() };
        let synced = SyncReport { without_key: true, ..SyncReport::default() };
        let read = ReconcileReport { read: 2, agree: 1, alarms: 1, ..ReconcileReport::default() };
        for (said, expected) in [
            (
                enforced.sentence(),
                "decided for 1,204 customers who were due: 1 meter blocked, 2 without a billing period",
            ),
            (everybody.sentence(), "decided for everybody (1 customer): nobody is blocked or allowed anew"),
            (
                pushed.sentence(),
                "looked at 3 customers: 2 meter events planned, 1 accepted by Stripe, 1 unconfirmed, 4 amounts deferred",
            ),
            (PushReport::default().sentence(), "looked at 0 customers: nothing to send"),
            (rolled.sentence(), "1 period closed, 2 opened or moved"),
            (RollPeriodsReport::default().sentence(), "no period was over"),
            (delivered.sentence(), "2 notifications delivered, 1 given up"),
            (synced.sentence(), "nothing was read: there is no key of Stripe"),
            (read.sentence(), "read 2 totals of Stripe: 1 agrees with the books, 1 alarm"),
        ] {
            assert_eq!(said, expected);
        }
    }

    #[test]
    fn a_stored_report_has_its_sentence_beside_its_fields() {
        let report = DeliverReport { delivered: 1, ..DeliverReport::default() };
        let stored: serde_json::Value = serde_json::from_str(&to_json(&report).unwrap()).unwrap();
        assert_eq!(stored["sentence"], "1 notification delivered");
        assert_eq!(stored["delivered"], 1);
        assert_eq!(to_json(&"as it is".to_owned()).unwrap(), "\"as it is\"");
        assert_eq!(to_json(&()).unwrap(), "null");
    }
}
