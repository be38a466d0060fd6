//! Booking a version of a bill: whole or not at all, in transactions that are short whatever the
//! size of the bill.
//!
//! A booking is staged: its entries are appended in short transactions, and no reader counts them
//! (`booked_usage` leaves out bookings without a version). When all are there and the sums are
//! proven, one small transaction inserts the version and gives it to the booking, and with that
//! everything counts at once. What is derived for each customer follows in short steps that may be
//! repeated.
//!
//! A run that dies leaves a staged booking. The next run of the same version goes on with it; a
//! booking that cannot be finished any more is removed ([`Database::finish_bookings`]).

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use tokio::time::Instant;

use crate::customers::customer::{COUNTERS, refresh_counters};
use crate::shared_bucket::reports::reports_digest;
use crate::shared_bucket::shares::{BilledDay, SharedDay, insert_shares};
use crate::store::audit_log::{self, AuditEntry};
use crate::store::connection::{Connection, params};
use crate::store::database::Database;
use crate::store::erased;
use crate::store::error::BooksError;
use crate::store::pace::Pace;
use crate::store::rows::{exact_sum, first_row, json, sum_of};
use crate::units::calendar::Month;
use crate::units::quantity::Quantity;
use crate::usage::applied_plans::{self, BookedVersion, ChangeRecord};
use crate::usage::bill::{
    BillFile, BillId, Decision, LineKind, MeterTotals, Version, VersionParts, booked_as, copy_parts, current,
    insert_parts, insert_version, release_on_hold,
};
use crate::usage::cost::cost_meter;
use crate::usage::ledger::{Adjustment, Adjustments, UNATTRIBUTED};

/// Entries of a transaction: a parameter of JSON has at most some megabytes.
const ENTRIES: Pace = Pace::new(2000, 20_000);

/// A booking of more entries leaves a long write-ahead log, which is folded into the file.
const LARGE: usize = 20_000;

/// A staged booking that began so many seconds ago is not gone on with.
const ABANDONED: i64 = 24 * 3600;

/// Everything that applying a version writes.
#[derive(Clone, Debug)]
pub struct Booking {
    pub version: Version,
    /// The version that was current when the difference was computed.
    pub against: Option<i64>,
    pub files: Vec<BillFile>,
    pub lines: Vec<LineKind>,
    /// What cost meters claim; `meter` is the name in the books.
    pub cost_lines: Vec<LineKind>,
    pub totals: Vec<MeterTotals>,
    /// The billed days of shared buckets.
    pub shared_days: Vec<SharedDay>,
    pub origin: BookingOrigin,
    pub adjustments: Adjustments,
    /// How many customers were erased when the entries were computed.
    pub erased: usize,
    /// Who accepted the version, if it was on hold.
    pub accepted_by: Option<AuditEntry>,
}

/// Where a booking comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BookingOrigin {
    /// A bill that was read. `shared_buckets` are those whose reports [`Version::reports_digest`]
    /// names.
    Read { shared_buckets: Vec<String> },
    /// It takes back the version `reverts`. Files, lines, sums and shares are those of the version
    /// before that one; none when nothing was booked before.
    TakesBack { reverts: i64, before: Option<i64> },
}

/// What was booked together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BookedTogether {
    /// The id of each version, in the order of the bookings.
    pub versions: Vec<i64>,
    /// The number of the plan that was applied or reverted.
    pub plan: Option<i64>,
}

impl Booking {
    fn bill(&self) -> &BillId {
        &self.version.bill
    }

    /// Names everything that the entries of the booking depend on, and the entries.
    fn identity(&self) -> String {
        let mut hash = Sha256::new();
        let mut text = format!("{:?} {:?} {}", self.version.key, self.against, self.version.reports_digest);
        for Adjustment { cell, kind } in &self.adjustments.entries {
            let (customer, meter) = self.adjustments.names(cell);
            // writing to a string does not fail
            let _ = write!(text, "\n{customer:?} {meter} {} {} {kind:?}", cell.day.epoch(), cell.quantity);
            if text.len() > 1 << 16 {
                hash.update(&text);
                text.clear();
            }
        }
        hash.update(&text);
        hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
    }

    /// Proves that the shares of each billed day make its amount, and those of all days what the
    /// meters say.
    fn prove_shares(&self) -> Result<(), BooksError> {
        if matches!(self.origin, BookingOrigin::TakesBack { .. }) {
            // its shares are copied from a version for which this was proven
            return Ok(());
        }
        let mut apportioned: BTreeMap<&str, Quantity> = BTreeMap::new();
        for shared in &self.shared_days {
            let BilledDay { bucket, meter, day, billed, .. } = &shared.day;
            let sum: Quantity = shared.shares.iter().map(|(_, share)| *share).sum();
            if sum != *billed {
                let why = format!("the shares of {bucket} {meter} {day} make {sum}, and {billed} is billed");
                return Err(BooksError::Integrity(why));
            }
            *apportioned.entry(meter).or_default() += shared.apportioned();
        }
        for t in &self.totals {
            let sum = apportioned.get(t.meter.as_str()).copied().unwrap_or_default();
            if sum != t.apportioned {
                let why = format!("meter {}: {} apportioned, and the days make {sum}", t.meter, t.apportioned);
                return Err(BooksError::Integrity(why));
            }
        }
        Ok(())
    }

    fn is_raced(&self, current: Option<i64>) -> bool {
        current != self.against
    }
}

/// A booking that has no version yet.
#[derive(Clone, Debug)]
struct Staged {
    id: i64,
    booking: Arc<Booking>,
    identity: String,
}

impl Database {
    /// Applies a version and returns its id.
    ///
    /// When two workers apply versions of a bill at once, the second finds another current version
    /// than the one it compared with and gets [`BooksError::Raced`]. The UNIQUE chain of
    /// `supersedes` would refuse it as well.
    ///
    /// # Errors
    /// [`BooksError::Raced`], and [`BooksError::Integrity`] when the books would not add up.
    pub async fn book(&self, booking: Booking, now: Timestamp) -> Result<i64, BooksError> {
        let booked = self.book_together(vec![booking], None, now).await?;
        booked.versions.first().copied().ok_or(BooksError::Raced)
    }

    /// As [`Database::book`], for bookings of different bills: all of them count from one commit
    /// on, or none does. `change` is kept in the same transaction.
    ///
    /// # Errors
    /// As [`Database::book`]. Of a change that is refused, nothing stays staged.
    pub async fn book_together(
        &self,
        bookings: Vec<Booking>,
        change: Option<ChangeRecord>,
        now: Timestamp,
    ) -> Result<BookedTogether, BooksError> {
        let large = bookings.iter().map(|booking| booking.adjustments.entries.len()).sum::<usize>() > LARGE;
        let (mut staged, is_change) = (vec![], change.is_some());
        let done = match self.stage_all(bookings, &mut staged, now).await {
            Ok(()) => {
                let publishing = staged.clone();
                self.transaction(async move |c| publish_all(c, publishing, change, now).await).await
            }
            Err(error) => Err(error),
        };
        // what lost a race is gone on with by the next reading of its bill, but for a change
        let is_over = match &done {
            Err(BooksError::Integrity(_)) => true,
            Err(BooksError::Raced) => is_change,
            _ => false,
        };
        if is_over {
            for (refused, _) in &staged {
                self.remove_booking(refused.id).await?;
            }
        }
        let done = done?;
        // a remote server may drop a transaction silently, so the versions are read back before
        // they are reported as booked
        for ((staged, _), version) in staged.iter().zip(&done.versions) {
            let sql = "SELECT 1 FROM bookings WHERE id = ?1 AND version_id = ?2";
            let (id, version) = (staged.id, *version);
            let there = self.with_connection(async move |c| first_row(c, sql, params![id, version]).await);
            if there.await?.is_none() {
                return Err(BooksError::Network("the transaction was lost".into()));
            }
        }
        self.finish_bookings(now).await?;
        if large && let Err(error) = self.checkpoint().await {
            tracing::debug!(%error, "the write-ahead log stays as it is");
        }
        Ok(done)
    }

    /// Stages and proves bookings, each with the sums of its days as JSON.
    async fn stage_all(
        &self,
        bookings: Vec<Booking>,
        staged: &mut Vec<(Staged, String)>,
        now: Timestamp,
    ) -> Result<(), BooksError> {
        for booking in bookings {
            // before the transaction, which others wait for
            let mut days = booking.adjustments.by_meter_and_day()?;
            // sums of usage; those of costs are in `bill_totals`
            days.retain(|(meter, ..)| cost_meter(meter).is_none());
            let days = json(&days)?;
            let one = self.stage(booking, now).await?;
            staged.push((one.clone(), days));
            self.prove(&one).await?;
        }
        Ok(())
    }

    /// Appends the entries of a booking; nobody counts them yet.
    async fn stage(&self, booking: Booking, now: Timestamp) -> Result<Staged, BooksError> {
        let (identity, booking) = (booking.identity(), Arc::new(booking));
        let (name, of) = (identity.clone(), Arc::clone(&booking));
        let id = self.transaction(async move |c| begin(c, &of, &name, now).await).await?;
        let staged = Staged { id, booking, identity };
        let mut done = staged.booking.adjustments.place_after(self.last_entry(id).await?);
        let mut pace = ENTRIES;
        loop {
            let rest = staged.booking.adjustments.entries.get(done..).unwrap_or_default();
            let rows = rest.len().min(pace.rows());
            if rows == 0 {
                return Ok(staged);
            }
            let (start, some) = (Instant::now(), staged.clone());
            self.with_connection(async move |c| append(c, &some, done..done + rows).await).await?;
            pace.learn(rows, start);
            done += rows;
        }
    }

    /// The customer, meter and day of the last entry of a booking.
    async fn last_entry(&self, id: i64) -> Result<Option<(String, String, String)>, BooksError> {
        let sql = "SELECT customer, meter, day FROM ledger_entries WHERE booking_id = ?1 \
                   ORDER BY customer DESC, meter DESC, day DESC LIMIT 1";
        let last = self.with_connection(async move |c| first_row(c, sql, params![id]).await).await?;
        last.map(|row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).transpose()
    }

    /// Proves a staged booking: all entries are there, and for each meter the ledger would hold
    /// what the version says. Entries of a bill change only with its current version, which
    /// [`publish`] checks again.
    async fn prove(&self, staged: &Staged) -> Result<(), BooksError> {
        let (id, bill) = (staged.id, staged.booking.bill().clone());
        let sums = self.with_connection(async move |c| {
            let sql = concat!(
                "SELECT e.meter, ",
                exact_sum!("e.quantity"),
                ", count(*) FILTER (WHERE b.id = ?3) FROM bookings b CROSS JOIN ledger_entries e ON e.booking_id = b.id \
                 WHERE b.payer = ?1 AND b.month = ?2 AND (b.version_id IS NOT NULL OR b.id = ?3) GROUP BY e.meter"
            );
            let mut rows = c.query(sql, params![bill.payer, bill.month.to_string(), id]).await?;
            let mut sums = vec![];
            while let Some(row) = rows.next().await? {
                sums.push((row.get::<String>(0)?, sum_of(&row.get::<String>(1)?)?, row.get::<u64>(2)?));
            }
            Ok(sums)
        });
        let (mut booked, mut entries) = (BTreeMap::new(), 0);
        for (meter, sum, count) in sums.await? {
            booked.insert(meter, sum);
            entries += count;
        }
        let wanted = staged.booking.adjustments.entries.len();
        if u64::try_from(wanted).ok() != Some(entries) {
            return Err(BooksError::Integrity(format!("the booking has {entries} entries of {wanted}")));
        }
        for t in &staged.booking.totals {
            let found = booked.remove(&t.meter).unwrap_or_default();
            if found != t.booked || !t.is_conserved() {
                return Err(BooksError::Integrity(format!(
                    "meter {}: {} attributed + {} apportioned + {} unattributed + {} excluded against {} in the file; \
                     {found} booked against {} wanted",
                    t.meter, t.attributed, t.apportioned, t.unattributed, t.excluded, t.total, t.booked
                )));
            }
        }
        staged.booking.prove_shares()?;
        match booked.into_iter().find(|(_, sum)| !sum.is_zero()) {
            Some((meter, sum)) => {
                Err(BooksError::Integrity(format!("{sum} stays booked for meter {meter}, which no rule knows")))
            }
            None => Ok(()),
        }
    }

    /// Finishes what bookings left behind: computes the counters of their customers, and removes
    /// staged bookings that nobody can finish any more. Does nothing as a rule.
    pub async fn finish_bookings(&self, now: Timestamp) -> Result<(), BooksError> {
        let left = self.with_connection(async move |c| {
            let sql = "SELECT b.id, b.version_id IS NOT NULL FROM bookings b WHERE b.counted = 0 AND (b.version_id IS NOT NULL \
                       OR b.started_at < ?1 OR b.against IS NOT (SELECT max(v.id) FROM bill_versions v \
                         WHERE v.payer = b.payer AND v.month = b.month AND v.state = 'applied'))";
            let mut rows = c.query(sql, params![now.as_second() - ABANDONED]).await?;
            let mut left = vec![];
            while let Some(row) = rows.next().await? {
                left.push((row.get::<i64>(0)?, row.get::<i64>(1)? == 1));
            }
            Ok(left)
        });
        for (id, has_version) in left.await? {
            if has_version {
                self.count_customers(id, Month::of(now)).await?;
            } else {
                self.remove_booking(id).await?;
            }
        }
        Ok(())
    }

    /// Computes the counters of a booking's customers, and notes that it is done.
    async fn count_customers(&self, id: i64, month: Month) -> Result<(), BooksError> {
        let (mut after, mut pace) = (UNATTRIBUTED.to_owned(), COUNTERS);
        loop {
            let (last, limit) = (after.clone(), pace.limit());
            let page = self.with_connection(async move |c| {
                let sql = "SELECT DISTINCT customer FROM ledger_entries WHERE booking_id = ?1 AND customer > ?2 \
                           ORDER BY customer LIMIT ?3";
                let mut rows = c.query(sql, params![id, last, limit]).await?;
                let mut page: Vec<String> = vec![];
                while let Some(row) = rows.next().await? {
                    page.push(row.get(0)?);
                }
                Ok(page)
            });
            let page = page.await?;
            let Some(last) = page.last() else { break };
            after.clone_from(last);
            let (start, rows) = (Instant::now(), page.len());
            self.transaction(async move |c| refresh_counters(c, month, &page).await).await?;
            pace.learn(rows, start);
        }
        let sql = "UPDATE bookings SET counted = 1 WHERE id = ?1 AND version_id IS NOT NULL";
        self.transaction(async move |c| Ok(c.execute(sql, params![id]).await.map(drop)?)).await
    }

    /// Removes a staged booking. It is renamed first, so that nobody goes on with it or gives it a
    /// version.
    async fn remove_booking(&self, id: i64) -> Result<(), BooksError> {
        let rename = "UPDATE bookings SET identity = 'removed' WHERE id = ?1 AND version_id IS NULL";
        if self.transaction(async move |c| Ok(c.execute(rename, params![id]).await?)).await? == 0 {
            return Ok(());
        }
        let mut pace = ENTRIES;
        loop {
            let (start, limit) = (Instant::now(), pace.limit());
            let sql = "DELETE FROM ledger_entries WHERE booking_id = ?1 AND (customer, meter, day) IN \
                       (SELECT customer, meter, day FROM ledger_entries WHERE booking_id = ?1 LIMIT ?2)";
            let removed = self.transaction(async move |c| Ok(c.execute(sql, params![id, limit]).await?)).await?;
            if removed == 0 {
                break;
            }
            pace.learn(usize::try_from(removed).unwrap_or(usize::MAX), start);
        }
        let sql = "DELETE FROM bookings WHERE id = ?1 AND version_id IS NULL";
        self.transaction(async move |c| Ok(c.execute(sql, params![id]).await.map(drop)?)).await
    }
}

/// Refuses a booking that was compared with another version than the current one.
async fn check_against(c: &Connection, booking: &Booking) -> Result<(), BooksError> {
    let (current, erased) = tokio::try_join!(current(c, booking.bill()), erased::count(c))?;
    // the entries would bring back the id of a customer who was erased meanwhile
    if erased != booking.erased {
        return Err(BooksError::Raced);
    }
    // two workers may read one account's bill under two payer labels
    if booking.is_raced(current.map(|v| v.id))
        || booked_as(c, booking.bill(), &booking.version.account).await?.is_some()
    {
        return Err(BooksError::Raced);
    }
    // a report that was stored meanwhile gives other shares
    let digest = &booking.version.reports_digest;
    if let BookingOrigin::Read { shared_buckets } = &booking.origin
        && !digest.is_empty()
        && reports_digest(c, shared_buckets, booking.bill().month).await? != *digest
    {
        return Err(BooksError::Raced);
    }
    Ok(())
}

/// The staged booking of this identity, or a new one.
async fn begin(c: &Connection, booking: &Booking, identity: &str, now: Timestamp) -> Result<i64, BooksError> {
    check_against(c, booking).await?;
    let (payer, month) = (booking.bill().payer.clone(), booking.bill().month.to_string());
    let sql = "SELECT id FROM bookings WHERE payer = ?1 AND month = ?2 AND identity = ?3 AND version_id IS NULL";
    if let Some(row) = first_row(c, sql, params![payer.clone(), month.clone(), identity]).await? {
        return row.get(0);
    }
    let entries = i64::try_from(booking.adjustments.entries.len()).unwrap_or(i64::MAX);
    let sql =
        "INSERT INTO bookings (payer, month, identity, against, entries, started_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    c.execute(sql, params![payer, month, identity, booking.against, entries, now.as_second()]).await?;
    let row = first_row(c, "SELECT last_insert_rowid()", ()).await?;
    row.ok_or(BooksError::Raced)?.get(0)
}

/// Appends some entries of a staged booking, in one statement: a transaction over a network would
/// stay open on the server for seconds if this process died. It needs no fence, because nobody
/// counts the entries, and another worker with this booking appends the same ones.
async fn append(c: &Connection, staged: &Staged, range: std::ops::Range<usize>) -> Result<(), BooksError> {
    let Staged { id, booking, identity } = staged;
    let adjustments = &booking.adjustments;
    let rows = adjustments.entries.get(range).unwrap_or_default().iter().map(|Adjustment { cell, kind }| {
        let (customer, meter) = adjustments.names(cell);
        (customer, meter, cell.day, cell.quantity, kind)
    });
    let rows = json(&rows.collect::<Vec<_>>())?;
    if c.execute(include_str!("append.sql"), params![*id, rows, identity.as_str()]).await? > 0 {
        return Ok(());
    }
    let sql = "SELECT 1 FROM bookings WHERE id = ?1 AND identity = ?2 AND version_id IS NULL";
    first_row(c, sql, params![*id, identity.as_str()]).await?.map(drop).ok_or(BooksError::Raced)
}

/// Publishes staged bookings, each with the sums of its days, and keeps the change that they are.
async fn publish_all(
    c: &Connection,
    staged: Vec<(Staged, String)>,
    change: Option<ChangeRecord>,
    now: Timestamp,
) -> Result<BookedTogether, BooksError> {
    let mut booked = vec![];
    for (staged, days) in staged {
        let id = publish(c, &staged, days, now).await?;
        let reverts = match staged.booking.origin {
            BookingOrigin::TakesBack { reverts, .. } => Some(reverts),
            BookingOrigin::Read { .. } => None,
        };
        booked.push(BookedVersion { id, reverts });
    }
    let plan = match &change {
        Some(change) => Some(applied_plans::record(c, change, &booked, now.as_second()).await?),
        None => None,
    };
    Ok(BookedTogether { versions: booked.into_iter().map(|booked| booked.id).collect(), plan })
}

/// Inserts the version and gives it to its staged booking, and with that every reader counts the
/// entries. `days` are the sums of its days, as JSON. Returns the id of the version.
async fn publish(c: &Connection, staged: &Staged, days: String, now: Timestamp) -> Result<i64, BooksError> {
    let Staged { id: booking_id, booking, identity } = staged;
    check_against(c, booking).await?;
    let decision = Decision::Applied { supersedes: booking.against };
    let id = insert_version(c, &booking.version, decision, now).await?;
    let sql = "UPDATE bookings SET version_id = ?1 WHERE id = ?2 AND identity = ?3 AND version_id IS NULL";
    if c.execute(sql, params![id, *booking_id, identity.as_str()]).await? == 0 {
        return Err(BooksError::Raced);
    }
    match booking.origin {
        BookingOrigin::Read { .. } => {
            let parts = VersionParts {
                files: &booking.files,
                lines: &booking.lines,
                cost_lines: &booking.cost_lines,
                totals: &booking.totals,
            };
            insert_parts(c, id, parts).await?;
            insert_shares(c, id, &booking.shared_days).await?;
        }
        BookingOrigin::TakesBack { before: Some(before), .. } => copy_parts(c, before, id).await?,
        BookingOrigin::TakesBack { before: None, .. } => {}
    }
    let sql = "INSERT INTO usage_totals (meter, day, attributed, units, rest) \
               SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4 FROM json_each(?1) WHERE true \
               ON CONFLICT (meter, day, attributed) DO UPDATE SET units = units + excluded.units, rest = rest + excluded.rest";
    c.execute(sql, params![days]).await?;
    if let Some(entry) = &booking.accepted_by {
        audit_log::record(c, entry, now.as_second()).await?;
    }
    release_on_hold(c, booking.bill()).await?;
    crate::usage::partial_reads::clear(c, booking.bill()).await?;
    Ok(id)
}
