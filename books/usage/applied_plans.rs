//! Plans of changes that were applied, with who applied them and why, and those that were reverted.
//!
//! What a plan changed is not kept here: it is the entries of the versions that it booked. A revert
//! books versions with the opposite entries; nothing is edited or deleted.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::store::audit_log::{self, AuditEntry};
use crate::store::connection::{Connection, Row, params};
use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::rows::{first_row, json_parts};
use crate::units::calendar::{Month, instant};

/// What a plan means for a customer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EffectKind {
    /// Other money in a billing period.
    Money,
    /// A meter may be used no more.
    Blocked,
    /// A meter may be used again.
    Unblocked,
}

/// What a plan means for a customer, as it was looked at.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct PlanEffect {
    pub customer: String,
    pub effect: EffectKind,
    /// The figures, without names of customers.
    pub what: serde_json::Value,
}

/// A plan that is applied now.
#[derive(Clone, Debug)]
pub struct NewAppliedPlan {
    pub actor: String,
    pub reason: String,
    /// Names the plan with the state that it rests on.
    pub digest: String,
    /// Its bills, without names of customers.
    pub summary: serde_json::Value,
    pub effects: Vec<PlanEffect>,
}

/// A plan that is taken back now.
#[derive(Clone, Debug)]
pub struct NewRevert {
    pub plan: i64,
    pub actor: String,
    pub reason: String,
}

/// What the books keep beside bookings, in the same transaction.
#[derive(Clone, Debug)]
pub enum ChangeRecord {
    Applied(NewAppliedPlan),
    Reverted(NewRevert),
}

/// A version that was booked now, and the version that it takes back, if it does.
#[derive(Clone, Copy, Debug)]
pub(super) struct BookedVersion {
    pub(super) id: i64,
    pub(super) reverts: Option<i64>,
}

/// Who reverted a plan.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct RevertedPlan {
    pub at: Timestamp,
    pub actor: String,
    pub reason: String,
}

/// A version that a plan or its revert booked.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct PlanVersion {
    pub id: i64,
    pub payer: String,
    pub month: Month,
    /// `assemblyId` or `executionId`.
    pub version: String,
    pub entries: i64,
    /// The version that it takes back; none for what the plan itself booked.
    pub reverts: Option<i64>,
}

/// A plan that was applied.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct AppliedPlan {
    pub number: i64,
    pub applied_at: Timestamp,
    pub actor: String,
    pub reason: String,
    pub digest: String,
    pub summary: serde_json::Value,
    pub reverted: Option<RevertedPlan>,
    pub versions: Vec<PlanVersion>,
}

/// Keeps what was applied or reverted, in the transaction that books it. Returns the plan's number.
pub(super) async fn record(
    c: &Connection,
    change: &ChangeRecord,
    versions: &[BookedVersion],
    now: i64,
) -> Result<i64, BooksError> {
    let (number, actor, reason, action) = match change {
        ChangeRecord::Applied(NewAppliedPlan { actor, reason, digest, summary, effects }) => {
            let sql =
                "INSERT INTO applied_plans (applied_at, actor, reason, digest, summary) VALUES (?1, ?2, ?3, ?4, ?5)";
            let values = params![now, actor.clone(), reason.clone(), digest.clone(), summary.to_string()];
            c.execute(sql, values).await?;
            let row =
                first_row(c, "SELECT number FROM applied_plans WHERE digest = ?1", params![digest.clone()]).await?;
            let number: i64 = row.ok_or(BooksError::Raced)?.get(0)?;
            insert_effects(c, number, effects).await?;
            (number, actor, reason, "apply")
        }
        ChangeRecord::Reverted(NewRevert { plan, actor, reason }) => {
            let sql = "INSERT INTO reverted_plans (plan, reverted_at, actor, reason) VALUES (?1, ?2, ?3, ?4)";
            c.execute(sql, params![*plan, now, actor.clone(), reason.clone()]).await?;
            (*plan, actor, reason, "revert")
        }
    };
    for BookedVersion { id, reverts } in versions {
        let sql = "INSERT INTO applied_plan_versions (version_id, plan, reverts) VALUES (?1, ?2, ?3)";
        c.execute(sql, params![*id, number, *reverts]).await?;
    }
    let entry = AuditEntry {
        actor: actor.clone(),
        action: action.into(),
        target: format!("change {number}"),
        reason: reason.clone(),
    };
    audit_log::record(c, &entry, now).await?;
    Ok(number)
}

async fn insert_effects(c: &Connection, number: i64, effects: &[PlanEffect]) -> Result<(), BooksError> {
    let rows = effects.iter().enumerate().map(|(place, of)| (place, &of.customer, of.effect, of.what.to_string()));
    for part in json_parts(rows)? {
        let sql = "INSERT INTO applied_plan_effects (plan, place, customer, effect, what) \
                   SELECT ?1, value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM json_each(?2)";
        c.execute(sql, params![number, part]).await?;
    }
    Ok(())
}

const PLANS: &str = "SELECT p.number, p.applied_at, p.actor, p.reason, p.digest, p.summary, r.reverted_at, r.actor, r.reason \
    FROM applied_plans p LEFT JOIN reverted_plans r ON r.plan = p.number \
    WHERE (?1 IS NULL OR p.number = ?1) AND (?2 IS NULL OR p.digest = ?2) ORDER BY p.number DESC";

const VERSIONS: &str = "SELECT p.plan, v.id, v.payer, v.month, v.version, b.entries, p.reverts \
    FROM applied_plan_versions p JOIN bill_versions v ON v.id = p.version_id JOIN bookings b ON b.version_id = v.id \
    WHERE ?1 IS NULL OR p.plan = ?1 ORDER BY v.id";

fn plan(row: &Row) -> Result<AppliedPlan, BooksError> {
    let summary: String = row.get(5)?;
    let number: i64 = row.get(0)?;
    let reverted = match row.get::<Option<i64>>(6)? {
        Some(at) => Some(RevertedPlan { at: instant(at), actor: row.get(7)?, reason: row.get(8)? }),
        None => None,
    };
    Ok(AppliedPlan {
        number,
        applied_at: instant(row.get(1)?),
        actor: row.get(2)?,
        reason: row.get(3)?,
        digest: row.get(4)?,
        summary: serde_json::from_str(&summary).map_err(|e| BooksError::Integrity(format!("change {number}: {e}")))?,
        reverted,
        versions: vec![],
    })
}

async fn read(c: &Connection, number: Option<i64>, digest: Option<String>) -> Result<Vec<AppliedPlan>, BooksError> {
    let mut rows = c.query(PLANS, params![number, digest]).await?;
    let mut found: Vec<AppliedPlan> = vec![];
    while let Some(row) = rows.next().await? {
        found.push(plan(&row)?);
    }
    let mut rows = c.query(VERSIONS, params![number]).await?;
    while let Some(row) = rows.next().await? {
        let (of, month): (i64, String) = (row.get(0)?, row.get(3)?);
        let wrong = |_| BooksError::Integrity(format!("bill_versions.month is `{month}`"));
        let version = PlanVersion {
            id: row.get(1)?,
            payer: row.get(2)?,
            month: month.parse().map_err(wrong)?,
            version: row.get(4)?,
            entries: row.get(5)?,
            reverts: row.get(6)?,
        };
        if let Some(plan) = found.iter_mut().find(|plan| plan.number == of) {
            plan.versions.push(version);
        }
    }
    Ok(found)
}

impl Database {
    /// The plans that were applied, the newest first; with their number, only that one.
    pub async fn applied_plans(&self, number: Option<i64>) -> Result<Vec<AppliedPlan>, BooksError> {
        self.with_connection(async move |c| read(c, number, None).await).await
    }

    /// The plan with this digest, if it was applied.
    pub async fn applied_plan_of(&self, digest: &str) -> Result<Option<AppliedPlan>, BooksError> {
        let digest = digest.to_owned();
        Ok(self.with_connection(async move |c| read(c, None, Some(digest)).await).await?.pop())
    }

    /// What an applied plan meant for customers, as it was looked at.
    pub async fn plan_effects(&self, number: i64) -> Result<Vec<PlanEffect>, BooksError> {
        self.with_connection(async move |c| {
            let sql = "SELECT json_object('customer', customer, 'effect', effect, 'what', json(what)) \
                       FROM applied_plan_effects WHERE plan = ?1 ORDER BY place";
            let mut rows = c.query(sql, params![number]).await?;
            let mut found = vec![];
            while let Some(row) = rows.next().await? {
                let wrong = |e| BooksError::Integrity(format!("applied_plan_effects: {e}"));
                found.push(serde_json::from_str(&row.get::<String>(0)?).map_err(wrong)?);
            }
            Ok(found)
        })
        .await
    }
}
