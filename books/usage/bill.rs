//! Bills and their versions: one payer's month, delivered whole again and again.

use crate::store::connection::{Connection, Row, params};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::rows::{delivered, first_row, json};
use crate::units::calendar::{Day, Month};
use crate::units::quantity::Quantity;

/// A bill: one payer account's month. Every export of a payer reports the same usage, so books are
/// kept by payer and not by export.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct BillId {
    /// Label of the payer account, from the configuration.
    pub payer: String,
    pub month: Month,
}

/// Identifies one delivery, read by one set of rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VersionKey {
    /// `assemblyId` or `executionId`.
    pub version: String,
    /// SHA-256 of the manifest's bytes.
    pub manifest_digest: String,
    /// [`Rules::digest`](crate::usage::meter::Rules::digest) of the rules.
    pub rules_digest: String,
}

/// A version to be stored.
#[derive(Clone, Debug)]
pub struct Version {
    pub bill: BillId,
    pub key: VersionKey,
    /// Name of the export that delivered it.
    pub export: String,
    /// `legacy` or `cur2`.
    pub format: &'static str,
    pub manifest_key: String,
    /// Payer account number of the manifest; empty when it has none.
    pub account: String,
    /// Orders the versions of a bill.
    pub delivered_at: Timestamp,
    pub rows: u64,
    /// Rows that a meter counted.
    pub counted_rows: u64,
    /// Amounts with more than ten decimals.
    pub rounded_amounts: u64,
    /// Newest day with counted usage.
    pub newest_day: Option<Day>,
    /// What would have put it on hold and was accepted; empty as a rule.
    pub accepted: String,
    /// What a person should know of it.
    pub notes: Vec<BillNote>,
    /// Digest of the reports by which its usage of shared buckets is apportioned; empty without
    /// such usage.
    pub reports_digest: String,
}

/// Something that a person should know of a version that is booked all the same.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct BillNote {
    pub kind: NoteKind,
    /// What was found, in words.
    pub text: String,
}

/// What a note is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoteKind {
    /// Counted usage, and all of it without a customer, or more of it than with one.
    Untagged,
    /// Usage of a meter's products, of which neither this meter nor another one counts a line, or a
    /// bill without a line of a watched product.
    ProductNotCounted,
    /// Usage of a meter's products, of which other meters count lines and this one none.
    MeterCountsNothing,
    /// Usage of S3 without a resource, or about a part of a bucket.
    SharedBucket,
}

/// A file of a version, as it was read.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct BillFile {
    /// Key in the bucket or path in the folder.
    pub key: String,
    pub size: u64,
    /// ETag; in a folder, size and modification time.
    pub etag: String,
    pub rows: u64,
    /// Row groups; 0 for CSV.
    pub row_groups: u64,
    /// Rows that a meter counted.
    pub counted_rows: u64,
}

/// Lines of a watched product with the same product, usage type, unit and line type.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct LineKind {
    /// `line_item_product_code`.
    pub product: String,
    /// `line_item_usage_type`.
    pub usage_type: String,
    /// `pricing_unit`; empty on free-tier and tax lines.
    pub unit: String,
    /// `line_item_line_item_type`.
    pub line_type: String,
    pub claim: ClaimKind,
    /// The meter that claims the lines; empty for none.
    pub meter: String,
    pub lines: u64,
    /// Lines that carry the customer tag.
    pub tagged_lines: u64,
    /// Sum of the amounts, in the unit of the bill.
    pub amount: Quantity,
}

/// What the lines of a kind are to the meters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ClaimKind {
    /// Usage of a meter.
    Counted,
    /// The patterns of a meter fit, and the meter does not count the lines: by their line type, or
    /// because they are parts of split lines.
    Excluded,
    /// An ignore rule names them.
    Ignored,
    /// Usage that no rule names.
    Unrecognised,
    /// Lines without usage that no meter claims.
    NotUsage,
}

/// A meter's totals in one version; the first four amounts are in the unit of the bill.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct MeterTotals {
    pub meter: String,
    pub unit: String,
    /// Lines of the meter, counted or not.
    pub lines: u64,
    /// Sum over all its lines.
    pub total: Quantity,
    /// Counted lines with a customer tag.
    pub attributed: Quantity,
    /// What customers have of counted lines of shared buckets.
    pub apportioned: Quantity,
    /// What is left of counted lines without a tag.
    pub unattributed: Quantity,
    /// Lines of the meter that do not count.
    pub excluded: Quantity,
    /// What the ledger must hold for the bill, in the meter's unit.
    pub booked: Quantity,
}

impl MeterTotals {
    /// True when every line of the meter is in one of the four parts.
    pub fn is_conserved(&self) -> bool {
        self.attributed + self.apportioned + self.unattributed + self.excluded == self.total
    }
}

/// The current version of a bill: the newest that was applied.
#[derive(Clone, Debug)]
pub struct CurrentVersion {
    pub id: i64,
    pub key: VersionKey,
    pub delivered_at: Timestamp,
    /// When it was booked.
    pub decided_at: Timestamp,
    pub account: String,
    /// As [`Version::reports_digest`].
    pub reports_digest: String,
}

impl CurrentVersion {
    /// When it was delivered, at the latest: what it says of that may lie in the future.
    pub fn delivered_by(&self) -> Timestamp {
        self.delivered_at.min(self.decided_at)
    }
}

/// A stored version.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct VersionRow {
    pub id: i64,
    pub payer: String,
    pub month: Month,
    pub export: String,
    /// `assemblyId` or `executionId`.
    pub version: String,
    pub delivered_at: Timestamp,
    /// `applied`, `on_hold` or `released`.
    pub state: String,
    /// True for the newest applied version of its bill.
    pub current: bool,
    pub hold_reason: String,
    /// [`words_digest`] of it.
    pub hold_digest: String,
    pub accepted: String,
    pub rows: i64,
    /// Rows that a meter counted.
    pub counted_rows: i64,
    pub rounded_amounts: i64,
    /// Newest day with counted usage.
    pub newest_day: Option<String>,
    /// Usage lines of watched products that no meter claims.
    pub unrecognised_lines: i64,
    /// Ledger entries that were appended with it.
    pub entries: i64,
    /// When it was applied or put on hold.
    pub decided_at: String,
}

/// An instant as the books store it: UTC, always the same width, so that text order is time order.
/// The year 0 stands for all before it, whose text has another width.
pub fn stored_instant(instant: Timestamp) -> String {
    let year_0 = Timestamp::from_second(-62_167_219_200).unwrap_or_default();
    instant.max(year_0).strftime("%Y-%m-%dT%H:%M:%S.%9fZ").to_string()
}

fn number(n: u64) -> Result<i64, BooksError> {
    i64::try_from(n).map_err(|_| BooksError::Integrity(format!("{n} rows cannot be stored")))
}

fn parse<T: std::str::FromStr>(row: &Row, column: i32) -> Result<T, BooksError> {
    let text: String = row.get(column)?;
    text.parse().map_err(|_| BooksError::Integrity(format!("`{text}` in the database is not what its column holds")))
}

/// The newest applied version of a bill.
pub async fn current(c: &Connection, bill: &BillId) -> Result<Option<CurrentVersion>, BooksError> {
    let sql = "SELECT id, version, manifest_digest, rules_digest, delivered_at, account, decided_at, reports_digest FROM bill_versions \
               WHERE payer = ?1 AND month = ?2 AND state = 'applied' ORDER BY id DESC LIMIT 1";
    let Some(row) = first_row(c, sql, params![bill.payer.clone(), bill.month.to_string()]).await? else {
        return Ok(None);
    };
    let key = VersionKey { version: row.get(1)?, manifest_digest: row.get(2)?, rules_digest: row.get(3)? };
    let (delivered_at, decided_at) = (delivered(&row.get::<String>(4)?)?, parse(&row, 6)?);
    let (id, account, reports_digest) = (row.get(0)?, row.get(5)?, row.get(7)?);
    Ok(Some(CurrentVersion { id, key, delivered_at, decided_at, account, reports_digest }))
}

/// Names the words that a version is on hold with, for a person who accepts them; empty for none.
pub fn words_digest(words: &str) -> String {
    if words.is_empty() {
        return String::new();
    }
    Sha256::digest(words).iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

/// A version on hold.
#[derive(Clone, Debug)]
pub struct VersionOnHold {
    pub key: VersionKey,
    /// Why it is on hold, in the words that people have read.
    pub words: String,
}

/// What the books hold of a bill, as far as it decides whether a version has to be read.
#[derive(Clone, Debug, Default)]
pub struct BookedVersions {
    pub current: Option<CurrentVersion>,
    /// Names of all versions that were ever applied.
    pub applied: Vec<String>,
    /// Another payer label under which the account is booked for that month.
    pub account_booked_as: Option<String>,
    /// True when a version of the bill is on hold.
    pub holds: bool,
    /// What the current version takes back: a plan was reverted.
    pub taken_back: Option<TakenBack>,
}

/// A version that was taken back, and the number of the plan that had booked it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakenBack {
    pub plan: i64,
    pub key: VersionKey,
    /// As [`Version::reports_digest`].
    pub reports_digest: String,
}

/// What the current version of a bill takes back, if it does.
async fn taken_back(c: &Connection, bill: &BillId) -> Result<Option<TakenBack>, BooksError> {
    let sql = "SELECT p.plan, v.version, v.manifest_digest, v.rules_digest, v.reports_digest \
               FROM applied_plan_versions p JOIN bill_versions v ON v.id = p.reverts \
               WHERE p.version_id = (SELECT max(id) FROM bill_versions WHERE payer = ?1 AND month = ?2 AND state = 'applied')";
    let row = first_row(c, sql, params![bill.payer.clone(), bill.month.to_string()]).await?;
    let Some(row) = row else { return Ok(None) };
    let key = VersionKey { version: row.get(1)?, manifest_digest: row.get(2)?, rules_digest: row.get(3)? };
    Ok(Some(TakenBack { plan: row.get(0)?, key, reports_digest: row.get(4)? }))
}

impl Database {
    /// The versions of a bill that are booked or on hold, for a delivery of `account`.
    pub async fn booked_versions(&self, bill: &BillId, account: &str) -> Result<BookedVersions, BooksError> {
        let (bill, account) = (bill.clone(), account.to_owned());
        self.with_connection(async move |c| {
            let of_bill = [bill.payer.clone(), bill.month.to_string()];
            let applied =
                "SELECT DISTINCT version FROM bill_versions WHERE payer = ?1 AND month = ?2 AND state = 'applied'";
            let on_hold = "SELECT 1 FROM bill_versions WHERE payer = ?1 AND month = ?2 AND state = 'on_hold' LIMIT 1";
            let (current, mut rows, holds, account_booked_as, taken_back) = tokio::try_join!(
                current(c, &bill),
                c.query(applied, of_bill.clone()),
                first_row(c, on_hold, of_bill),
                booked_as(c, &bill, &account),
                taken_back(c, &bill),
            )?;
            let mut applied = vec![];
            while let Some(row) = rows.next().await? {
                applied.push(row.get(0)?);
            }
            Ok(BookedVersions { current, applied, account_booked_as, holds: holds.is_some(), taken_back })
        })
        .await
    }

    /// The versions of a bill that are on hold.
    pub async fn versions_on_hold(&self, bill: &BillId) -> Result<Vec<VersionOnHold>, BooksError> {
        let of_bill = [bill.payer.clone(), bill.month.to_string()];
        self.with_connection(async move |c| {
            let sql = "SELECT version, manifest_digest, rules_digest, hold_reason FROM bill_versions \
                       WHERE payer = ?1 AND month = ?2 AND state = 'on_hold' ORDER BY id";
            let mut rows = c.query(sql, of_bill).await?;
            let mut found = vec![];
            while let Some(row) = rows.next().await? {
                let key = VersionKey { version: row.get(0)?, manifest_digest: row.get(1)?, rules_digest: row.get(2)? };
                found.push(VersionOnHold { key, words: row.get(3)? });
            }
            Ok(found)
        })
        .await
    }

    /// Stores a version that waits for a person; `against` is the current version that it was
    /// compared with. Storing it again changes nothing.
    ///
    /// # Errors
    /// [`BooksError::Raced`] when another version is current by now.
    pub async fn hold(
        &self,
        version: Version,
        against: Option<i64>,
        reason: String,
        now: Timestamp,
    ) -> Result<(), BooksError> {
        self.transaction(async move |c| {
            if current(c, &version.bill).await?.map(|v| v.id) != against {
                return Err(BooksError::Raced);
            }
            insert_version(c, &version, Decision::OnHold { reason: &reason }, now).await.map(drop)
        })
        .await
    }

    /// Releases the versions of a bill that are on hold: AWS delivers the current version again.
    pub async fn release(&self, bill: &BillId) -> Result<(), BooksError> {
        let bill = bill.clone();
        self.transaction(async move |c| release_on_hold(c, &bill).await).await
    }

    /// All versions, newest bill first; of one month when one is given.
    pub async fn versions(&self, month: Option<Month>) -> Result<Vec<VersionRow>, BooksError> {
        self.with_connection(async move |c| {
            let mut rows = c.query(include_str!("versions.sql"), params![month.map(|m| m.to_string())]).await?;
            let mut found = vec![];
            while let Some(row) = rows.next().await? {
                found.push(VersionRow {
                    id: row.get(0)?,
                    payer: row.get(1)?,
                    month: parse(&row, 2)?,
                    export: row.get(3)?,
                    version: row.get(4)?,
                    delivered_at: delivered(&row.get::<String>(5)?)?,
                    state: row.get(6)?,
                    current: row.get::<i64>(7)? == 1,
                    hold_digest: words_digest(&row.get::<String>(8)?),
                    hold_reason: row.get(8)?,
                    accepted: row.get(9)?,
                    rows: row.get(10)?,
                    counted_rows: row.get(11)?,
                    rounded_amounts: row.get(12)?,
                    newest_day: row.get(13)?,
                    unrecognised_lines: row.get(14)?,
                    entries: row.get(15)?,
                    decided_at: row.get(16)?,
                });
            }
            Ok(found)
        })
        .await
    }
}

/// What was decided about a version.
#[derive(Clone, Copy, Debug)]
pub enum Decision<'a> {
    Applied {
        /// The version that was current before it.
        supersedes: Option<i64>,
    },
    OnHold {
        reason: &'a str,
    },
}

/// Inserts a version and returns its id; 0 for a version on hold that is recorded already.
pub async fn insert_version(
    c: &Connection,
    v: &Version,
    decision: Decision<'_>,
    now: Timestamp,
) -> Result<i64, BooksError> {
    let (state, hold_reason, supersedes) = match decision {
        Decision::Applied { supersedes } => ("applied", "", supersedes),
        Decision::OnHold { reason } => ("on_hold", reason, None),
    };
    let sql = "INSERT INTO bill_versions (payer, month, export, format, version, manifest_key, manifest_digest, rules_digest, \
               account, delivered_at, state, hold_reason, accepted, supersedes, rows, counted_rows, rounded_amounts, \
               newest_day, decided_at, notes, reports_digest) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21) \
               ON CONFLICT (payer, month, version, manifest_digest, rules_digest) WHERE state = 'on_hold' \
               DO UPDATE SET hold_reason = excluded.hold_reason WHERE hold_reason <> excluded.hold_reason RETURNING id";
    let values = params![
        v.bill.payer.clone(),
        v.bill.month.to_string(),
        v.export.clone(),
        v.format,
        v.key.version.clone(),
        v.manifest_key.clone(),
        v.key.manifest_digest.clone(),
        v.key.rules_digest.clone(),
        v.account.clone(),
        stored_instant(v.delivered_at),
        state,
        hold_reason,
        v.accepted.clone(),
        supersedes,
        number(v.rows)?,
        number(v.counted_rows)?,
        number(v.rounded_amounts)?,
        v.newest_day.map(|d| d.to_string()),
        stored_instant(now),
        json(&v.notes)?,
        v.reports_digest.clone(),
    ];
    let mut rows = c.query(sql, values).await?;
    let id = rows.next().await?.map(|row| row.get(0)).transpose()?;
    // a RETURNING statement is finished only when it was read to its end
    while rows.next().await?.is_some() {}
    Ok(id.unwrap_or(0))
}

/// As [`BookedVersions::account_booked_as`].
pub async fn booked_as(c: &Connection, bill: &BillId, account: &str) -> Result<Option<String>, BooksError> {
    if account.is_empty() {
        return Ok(None);
    }
    let sql = "SELECT payer FROM bill_versions WHERE account = ?1 AND month = ?2 AND payer <> ?3 AND state = 'applied' LIMIT 1";
    let other = first_row(c, sql, params![account, bill.month.to_string(), bill.payer.clone()]).await?;
    other.map(|r| r.get(0)).transpose()
}

pub async fn release_on_hold(c: &Connection, bill: &BillId) -> Result<(), BooksError> {
    let sql = "UPDATE bill_versions SET state = 'released' WHERE payer = ?1 AND month = ?2 AND state = 'on_hold'";
    c.execute(sql, params![bill.payer.clone(), bill.month.to_string()]).await?;
    Ok(())
}

/// What is stored of a version.
#[derive(Clone, Copy, Debug)]
pub struct VersionParts<'a> {
    pub files: &'a [BillFile],
    pub lines: &'a [LineKind],
    pub cost_lines: &'a [LineKind],
    pub totals: &'a [MeterTotals],
}

/// Writes files, lines and totals of a version, one statement a table, so that a remote transaction
/// stays short.
pub async fn insert_parts(c: &Connection, id: i64, parts: VersionParts<'_>) -> Result<(), BooksError> {
    const LINES: &str = "product, usage_type, unit, line_type, claim, meter, lines, tagged_lines, amount";
    let VersionParts { files, lines, cost_lines, totals } = parts;
    let field = |name: &str| format!("json_extract(value, '$.{name}')");
    let mut tables = vec![
        ("bill_files", "key, size, etag, rows, row_groups, counted_rows", json(files)?),
        ("bill_lines", LINES, json(lines)?),
        (
            "bill_totals",
            "meter, unit, lines, total, attributed, apportioned, unattributed, excluded, booked",
            json(totals)?,
        ),
    ];
    if !cost_lines.is_empty() {
        tables.push(("cost_lines", LINES, json(cost_lines)?));
    }
    for (table, columns, rows) in tables {
        let values: Vec<String> = columns.split(", ").map(field).collect();
        let values = values.join(", ");
        let sql = format!("INSERT INTO {table} (version_id, {columns}) SELECT ?1, {values} FROM json_each(?2)");
        c.execute(&sql, params![id, rows]).await?;
    }
    Ok(())
}

/// Gives a version the files, lines, totals and shares of another one.
pub async fn copy_parts(c: &Connection, from: i64, to: i64) -> Result<(), BooksError> {
    const LINES: &str = "product, usage_type, unit, line_type, claim, meter, lines, tagged_lines, amount";
    for (table, columns) in [
        ("bill_files", "key, size, etag, rows, row_groups, counted_rows"),
        ("bill_lines", LINES),
        ("cost_lines", LINES),
        ("bill_totals", "meter, unit, lines, total, attributed, apportioned, unattributed, excluded, booked"),
        ("bucket_shares", "bucket, meter, measure, class, day, state, billed, predicted, apportioned, digest"),
    ] {
        let sql = format!(
            "INSERT INTO {table} (version_id, {columns}) SELECT ?2, {columns} FROM {table} WHERE version_id = ?1"
        );
        c.execute(&sql, params![from, to]).await?;
    }
    Ok(())
}
