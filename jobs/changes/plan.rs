//! The plan of a change, as it is written to a file and read again. Pure.

use std::io;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter};
use sha2::{Digest, Sha256};

use crate::enforce_budgets::ChangedAnswer;
use crate::ingest_cur::IngestOutcome;
use crate::ingest_cur::hold::HoldReason;
use crate::push_stripe::ChangedBill;
use books::units::calendar::Month;
use books::units::quantity::Quantity;
use books::usage::applied_plans::{EffectKind, PlanEffect};
use books::usage::difference::UsageDifference;

/// The form of a plan's file that this build writes and reads.
const FORM: u32 = 1;

/// What a change of the books would be.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangePlan {
    /// The form of the file.
    pub meter_plan: u32,
    pub made_at: Timestamp,
    /// The user and the machine.
    pub made_by: String,
    /// Names everything below, and so the state that the plan rests on.
    pub digest: String,
    pub state: PlanState,
    pub effects: PlanEffects,
    pub bills: Vec<PlannedBill>,
}

/// Digests of what a plan rests on beside its bills.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanState {
    /// Meters, tag keys, ignored lines, shared buckets and cost meters.
    pub rules: String,
    /// When a version is put on hold.
    pub hold: String,
    /// Plans, and how usage is billed.
    pub prices: String,
    /// How customers are judged.
    pub enforcement: String,
}

/// What a change means for customers.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanEffects {
    pub money: Vec<ChangedBill>,
    pub blocked: Vec<ChangedAnswer>,
    pub unblocked: Vec<ChangedAnswer>,
    /// Customers with a change of whom no bill can be made.
    pub without_bill: Vec<String>,
    /// Tags with a change that are no customer's id.
    pub no_customer: Vec<String>,
}

/// A bill, and what would be booked of it.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedBill {
    pub export: String,
    pub payer: String,
    pub month: Month,
    pub outcome: IngestOutcome,
    /// `assemblyId` or `executionId`; empty without a bill.
    pub version: String,
    pub delivered_at: Option<Timestamp>,
    pub manifest_digest: String,
    /// Digest of the names, sizes and entity tags of its files.
    pub files_digest: String,
    /// Digest of the reports by which shared buckets are apportioned; empty without any.
    pub reports_digest: String,
    /// What the books rest on now.
    pub booked: Option<PlannedBase>,
    /// A version on hold that a person accepts.
    pub accept: Option<PlannedAcceptance>,
    /// What would put it on hold; who applies the plan accepts that.
    pub hold: Vec<HoldReason>,
    /// All that would have put it on hold; what of it is not in `hold` is accepted already.
    pub accepted: String,
    /// What a person should know of it.
    pub warnings: Vec<String>,
    pub meters: Vec<PlannedMeter>,
    /// By customer, meter and day.
    pub differences: Vec<UsageDifference>,
}

/// The booked version that a plan changes.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedBase {
    /// Number of the version in the books.
    pub id: i64,
    pub version: String,
    pub rules_digest: String,
    pub reports_digest: String,
}

/// What a person accepts of a version on hold.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedAcceptance {
    pub version: String,
    pub seen: Option<String>,
    pub reason: String,
}

/// The sum of a meter in a bill, in the meter's unit.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedMeter {
    pub meter: String,
    pub unit: String,
    pub before: Quantity,
    pub after: Quantity,
}

/// Why a file is no plan that can be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanFileError {
    #[error("it is no plan of a change ({0}); `meter ingest --plan FILE` writes one")]
    NoPlan(String),
    #[error("its form is {0}, and this meter knows form {FORM}; plan anew with this build")]
    OtherForm(u64),
    #[error("it was edited after it was made (its content is not what `digest` names); plan anew")]
    Edited,
}

/// What the digest names.
#[derive(Serialize)]
struct Content<'a> {
    state: &'a PlanState,
    effects: &'a PlanEffects,
    bills: &'a [PlannedBill],
}

/// SHA-256 of the JSON of a value.
pub(super) fn digest<T: Serialize>(value: &T) -> String {
    let bytes = serde_json::to_vec(value).unwrap_or_default();
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl ChangePlan {
    pub(super) fn new(
        state: PlanState,
        effects: PlanEffects,
        bills: Vec<PlannedBill>,
        (made_by, made_at): (&str, Timestamp),
    ) -> Self {
        let digest = digest(&Content { state: &state, effects: &effects, bills: &bills });
        Self { meter_plan: FORM, made_at, made_by: made_by.to_owned(), digest, state, effects, bills }
    }

    /// The bills of which something would be booked.
    pub fn changed(&self) -> impl Iterator<Item = &PlannedBill> {
        self.bills.iter().filter(|bill| bill.outcome.would_change())
    }

    /// True when applying it would book nothing.
    pub fn is_empty(&self) -> bool {
        self.changed().next().is_none()
    }

    /// The bills that would be put on hold if they were not accepted.
    pub fn held(&self) -> impl Iterator<Item = &PlannedBill> {
        self.bills.iter().filter(|bill| !bill.hold.is_empty())
    }

    /// The text of its file: JSON, each difference and each customer on a line.
    ///
    /// # Errors
    /// Never in practice: every value can be written as JSON.
    pub fn to_text(&self) -> Result<String, serde_json::Error> {
        let mut bytes = vec![];
        self.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, Lines::default()))?;
        bytes.push(b'\n');
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// When it is no plan, of another build, or was edited.
    pub fn from_text(text: &str) -> Result<Self, PlanFileError> {
        let form: serde_json::Value =
            serde_json::from_str(text).map_err(|error| PlanFileError::NoPlan(error.to_string()))?;
        match form.get("meter_plan").map(serde_json::Value::as_u64) {
            Some(Some(form)) if form != u64::from(FORM) => return Err(PlanFileError::OtherForm(form)),
            Some(Some(_)) => {}
            _ => return Err(PlanFileError::NoPlan("it has no `meter_plan`".to_owned())),
        }
        let plan: Self = serde_json::from_str(text).map_err(|error| PlanFileError::NoPlan(error.to_string()))?;
        let Self { state, effects, bills, digest: named, .. } = &plan;
        match digest(&Content { state, effects, bills }) == *named {
            true => Ok(plan),
            false => Err(PlanFileError::Edited),
        }
    }

    /// What the books keep of it: no name of a customer. The differences are the booked entries.
    pub(super) fn summary(&self) -> serde_json::Value {
        let bill = |bill: &PlannedBill| {
            serde_json::json!({
                "export": bill.export, "payer": bill.payer, "month": bill.month, "version": bill.version,
                "booked": bill.booked, "meters": bill.meters, "differences": bill.differences.len(),
            })
        };
        serde_json::json!({
            "made_at": self.made_at, "made_by": self.made_by, "state": self.state,
            "bills": self.changed().map(bill).collect::<Vec<_>>(),
        })
    }

    /// What it means for customers, as the books keep it.
    pub(super) fn kept_effects(&self) -> Vec<PlanEffect> {
        let money = self.effects.money.iter().map(|of| PlanEffect {
            customer: of.customer.clone(),
            effect: EffectKind::Money,
            what: serde_json::json!({
                "currency": of.currency, "period_start": of.period_start, "period_end": of.period_end,
                "before_minor": of.before_minor, "after_minor": of.after_minor,
                "house_before_minor": of.house_before_minor, "house_after_minor": of.house_after_minor,
            }),
        });
        let answer = |effect: EffectKind| {
            move |of: &ChangedAnswer| PlanEffect {
                customer: of.customer.clone(),
                effect,
                what: serde_json::json!({ "meter": of.meter, "reason": of.reason }),
            }
        };
        let blocked = self.effects.blocked.iter().map(answer(EffectKind::Blocked));
        let unblocked = self.effects.unblocked.iter().map(answer(EffectKind::Unblocked));
        money.chain(blocked).chain(unblocked).collect()
    }
}

/// Writes JSON as people read it, and what is deep in it on one line each.
#[derive(Default)]
struct Lines {
    pretty: PrettyFormatter<'static>,
    depth: usize,
}

/// An object that begins at this depth is on one line.
const ONE_LINE: usize = 4;
const BETWEEN: &[u8] = b", ";
const AFTER_KEY: &[u8] = b": ";

impl Lines {
    fn is_deep(&self) -> bool {
        self.depth > ONE_LINE
    }
}

impl Formatter for Lines {
    fn begin_array<W: ?Sized + io::Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.depth += 1;
        if self.is_deep() { CompactFormatter.begin_array(to) } else { self.pretty.begin_array(to) }
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, to: &mut W) -> io::Result<()> {
        let deep = self.is_deep();
        self.depth -= 1;
        if deep { CompactFormatter.end_array(to) } else { self.pretty.end_array(to) }
    }

    fn begin_array_value<W: ?Sized + io::Write>(&mut self, to: &mut W, first: bool) -> io::Result<()> {
        if self.is_deep() {
            CompactFormatter.begin_array_value(to, first)
        } else {
            self.pretty.begin_array_value(to, first)
        }
    }

    fn end_array_value<W: ?Sized + io::Write>(&mut self, to: &mut W) -> io::Result<()> {
        if self.is_deep() { Ok(()) } else { self.pretty.end_array_value(to) }
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.depth += 1;
        if self.is_deep() { CompactFormatter.begin_object(to) } else { self.pretty.begin_object(to) }
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, to: &mut W) -> io::Result<()> {
        let deep = self.is_deep();
        self.depth -= 1;
        if deep { CompactFormatter.end_object(to) } else { self.pretty.end_object(to) }
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, to: &mut W, first: bool) -> io::Result<()> {
        match (self.is_deep(), first) {
            (true, true) => Ok(()),
            (true, false) => to.write_all(BETWEEN),
            (false, _) => self.pretty.begin_object_key(to, first),
        }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, to: &mut W) -> io::Result<()> {
        to.write_all(AFTER_KEY)
    }

    fn end_object_value<W: ?Sized + io::Write>(&mut self, to: &mut W) -> io::Result<()> {
        if self.is_deep() { Ok(()) } else { self.pretty.end_object_value(to) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> ChangePlan {
        let state = PlanState { rules: "r".into(), hold: "h".into(), prices: "p".into(), enforcement: "e".into() };
        let difference = |customer: &str| UsageDifference {
            customer: customer.into(),
            meter: "chime_minutes".into(),
            day: "2026-10-03".parse().unwrap(),
            before: "1.5".parse().unwrap(),
            after: "0.0000000001".parse().unwrap(),
        };
        let bill = PlannedBill {
            export: "main".into(),
            payer: "main".into(),
            month: "2026-10".parse().unwrap(),
            outcome: IngestOutcome::WouldApply,
            version: "v1".into(),
            delivered_at: None,
            manifest_digest: String::new(),
            files_digest: String::new(),
            reports_digest: String::new(),
            booked: None,
            accept: None,
            hold: vec![],
            accepted: String::new(),
            warnings: vec![],
            meters: vec![],
            differences: vec![difference("ann"), difference("b\"o\nb")],
        };
        let made = ("ann@host", "2026-11-30T10:00:00Z".parse().unwrap());
        ChangePlan::new(state, PlanEffects::default(), vec![bill], made)
    }

    #[test]
    fn a_plan_is_read_as_it_was_written_with_a_line_for_each_difference() {
        let text = plan().to_text().unwrap();
        assert_eq!(ChangePlan::from_text(&text).unwrap(), plan());
        let line = r#"{"customer": "ann", "meter": "chime_minutes", "day": "2026-10-03", "before": "1.5", "after": "0.0000000001"}"#;
        assert!(text.lines().any(|of| of.trim().trim_end_matches(',') == line), "{text}");
        assert_eq!(text.lines().filter(|of| of.contains("chime_minutes")).count(), 2, "{text}");
    }

    #[test]
    fn the_digest_is_of_the_content_and_not_of_who_made_it() {
        let (one, mut other) = (plan(), plan());
        other.made_by = "bob@host".into();
        assert_eq!(ChangePlan::from_text(&other.to_text().unwrap()).unwrap().digest, one.digest);
    }

    #[test]
    fn what_is_no_plan_is_refused() {
        let text = plan().to_text().unwrap();
        for (text, error) in [
            (text.replace("1.5", "1.6"), PlanFileError::Edited),
            (text.replace("\"meter_plan\": 1", "\"meter_plan\": 2"), PlanFileError::OtherForm(2)),
            ("{}".to_owned(), PlanFileError::NoPlan("it has no `meter_plan`".into())),
        ] {
            assert_eq!(ChangePlan::from_text(&text), Err(error));
        }
        for text in ["", "[[plans]]", &text.replace("\"state\"", "\"stage\"")] {
            assert!(matches!(ChangePlan::from_text(text), Err(PlanFileError::NoPlan(_))), "{text}");
        }
    }
}
