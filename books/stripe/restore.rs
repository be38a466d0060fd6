//! Copies of the books, and books that were restored from one.
//!
//! A copy carries a mark, so that whoever restores it need not remember to say so. Books with the
//! mark are on hold: nothing is planned, sent or compared. `meter restore import-totals` begins the
//! restoration: it gives the books another prefix of identifiers, and makes every open event not
//! received. What the lost books had sent to Stripe after the copy was made is then imported from
//! Stripe's totals, invoice by invoice. `meter restore finish` ends the hold.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

use crate::store::connection::{Connection, params};
use jiff::Timestamp;

use crate::store::audit_log::{AuditEntry, record};
use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::rows::first_row;
use crate::store::settings;
use crate::stripe::difference::Shortfall;
use crate::stripe::invoice::{LARGEST_VALUE, closes, open_after};
use crate::stripe::meter_event::last_seq;
use crate::units::calendar::{Month, instant, minute};

/// The books were restored from a backup, and nothing is billed until that is finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BillingHold {
    /// When the backup was made.
    pub backup_at: Timestamp,
    /// None until `meter restore import-totals` has begun it.
    pub restoration: Option<Restoration>,
    /// When every subscription was last read since the backup took the place of the books.
    pub subscriptions_read_at: Option<Timestamp>,
    /// When every bill was read again.
    pub bills_read_at: Option<Timestamp>,
}

/// A restoration that has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restoration {
    /// From when on the lost books may have sent what these do not know: the backup, or the first
    /// attempt of what was open in it.
    pub since: i64,
    /// When it began; the lost books sent nothing later.
    pub at: i64,
}

impl Restoration {
    /// The months of bills that are read again before totals are imported. AWS restates a month for
    /// weeks, so the first one is the month before.
    pub fn months(self) -> Vec<Month> {
        Month::range(Month::of(instant(self.since)).previous(), Month::of(instant(self.at)))
    }
}

/// A total that is imported, or has to be. Instants are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoredTotal {
    pub customer: String,
    pub meter: String,
    /// First instant of the period.
    pub start: i64,
    /// First instant that no invoice covers: its end, when its subscription ended, or its start.
    pub until: i64,
    pub end: i64,
    pub stripe_customer: String,
    pub stripe_meter: String,
    /// Stripe's name of the meter.
    pub event_name: String,
    /// By how much Stripe is short (or, below 0, over) as a person has acknowledged: that is dealt
    /// with, and not imported.
    pub acknowledged: i64,
    pub state: TotalState,
}

/// What became of a total.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TotalState {
    Imported,
    NotRead,
    /// It is below what the books know, and it is too early to believe that.
    TooLittle(Shortfall),
    /// Stripe gives none; its answer.
    NoTotal(String),
}

/// A value for each part of a period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeriodParts<T> {
    /// Of what its invoice covers.
    pub covered: T,
    /// Of the time after that.
    pub rest: T,
}

impl<T> PeriodParts<T> {
    pub fn zip<U>(self, other: PeriodParts<U>) -> PeriodParts<(T, U)> {
        PeriodParts { covered: (self.covered, other.covered), rest: (self.rest, other.rest) }
    }
}

impl<T> IntoIterator for PeriodParts<T> {
    type Item = T;
    type IntoIter = std::array::IntoIter<T, 2>;

    /// `covered` first.
    fn into_iter(self) -> Self::IntoIter {
        [self.covered, self.rest].into_iter()
    }
}

/// A total of a restoration as it was read.
#[derive(Clone, Debug)]
pub struct ReadTotal {
    pub total: RestoredTotal,
    pub known: PeriodParts<KnownEvents>,
    /// What Stripe has more (or less) than the books know.
    pub surplus: PeriodParts<i64>,
}

/// What the books know of a part of a period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KnownEvents {
    /// Sum of the accepted events.
    pub accepted: i64,
    /// Sum of the events that were discarded while unconfirmed: Stripe may have them.
    pub discarded: i64,
}

impl RestoredTotal {
    /// Minutes for which totals are asked. Empty when there is nothing to ask.
    pub fn windows(&self) -> PeriodParts<Range<i64>> {
        let (start, until, end) = (minute(self.start), minute(self.until), minute(self.end));
        PeriodParts { covered: start..until, rest: if self.until < self.end { until..end } else { end..end } }
    }
}

/// The totals of periods to which the lost books may have sent: those that an invoice covers, and
/// of the others those to which these books sent, too, because nothing else is ever compared. They
/// are read from the Stripe customer that the subscription belongs to. ?1 when the restoration
/// began, ?2 [`open_after`] the instant from which the lost books may have sent.
const TOTALS: &str = "SELECT b.customer, m.meter, b.starts_at, b.covered_until, b.ends_at, \
      coalesce((SELECT s.stripe_customer FROM subscriptions s WHERE s.id = b.subscription), c.stripe_customer_id) AS owner, \
      m.stripe_id, m.event_name, (SELECT coalesce(sum(amount), 0) FROM acknowledgements a WHERE a.customer = b.customer AND a.meter = m.meter \
        AND a.period_start = b.starts_at AND a.kind = 'difference' AND a.stripe_customer = coalesce( \
          (SELECT s.stripe_customer FROM subscriptions s WHERE s.id = b.subscription), c.stripe_customer_id)), \
      t.imported_until IS min(b.covered_until, ?1), t.not_imported, t.shortfall, t.shortfall_since \
    FROM customers c CROSS JOIN covered_periods b ON b.customer = c.id CROSS JOIN stripe_meters m \
    LEFT JOIN billing_targets t ON t.customer = b.customer AND t.meter = m.meter AND t.period_start = b.starts_at \
    WHERE owner IS NOT NULL AND b.starts_at < ?1 AND b.ends_at > ?2 \
      AND (b.covered_until > b.starts_at OR EXISTS (SELECT 1 FROM meter_events e INDEXED BY meter_events_by_time WHERE e.customer = b.customer \
           AND e.meter = m.meter AND e.timestamp >= b.starts_at AND e.timestamp < b.ends_at AND e.attempts > 0)) \
    ORDER BY b.customer, b.starts_at, m.meter";

/// Makes the target's row, if there is none, with what the next planning will correct; notes what
/// became of its total.
const NOTED: &str = "INSERT INTO billing_targets \
      (customer, meter, period_start, period_end, plan, target, imported_until, not_imported, shortfall, shortfall_since) \
    SELECT ?1, ?2, ?3, ?4, plan, 0, ?5, ?6, ?7, ?8 FROM customers WHERE id = ?1 \
    ON CONFLICT (customer, meter, period_start) DO UPDATE SET imported_until = excluded.imported_until, \
      not_imported = excluded.not_imported, shortfall = excluded.shortfall, shortfall_since = excluded.shortfall_since, final_at = NULL";

/// When the newest thing was done that the books keep the time of.
const NEWEST: &str = "SELECT max(at) FROM (SELECT max(created_at) AS at FROM meter_events UNION ALL SELECT max(last_attempt_at) FROM meter_events \
    UNION ALL SELECT max(read_at) FROM billing_targets UNION ALL SELECT max(decided_at) FROM entitlements UNION ALL SELECT max(at) FROM audits \
    UNION ALL SELECT CAST(value AS INTEGER) FROM settings WHERE name = 'synced')";

/// Subscriptions are as they were when the copy was made: nobody has read them since.
const NOT_SYNCED: &str = "DELETE FROM settings WHERE name = 'synced_full'";

/// Why the books are on hold, if they are.
pub async fn billing_hold(c: &Connection) -> Result<Option<BillingHold>, BooksError> {
    let names = "'backup_at', 'restored_from', 'restored_since', 'restored_at', 'restored_bills', 'synced_full'";
    let sql = format!("SELECT name, CAST(value AS INTEGER) FROM settings WHERE name IN ({names})");
    let (mut rows, mut found) = (c.query(&sql, ()).await?, BTreeMap::new());
    while let Some(row) = rows.next().await? {
        found.insert(row.get::<String>(0)?, row.get::<i64>(1)?);
    }
    let at = |name| found.get(name).copied().filter(|at| *at > 0);
    let begun = at("restored_since").zip(at("restored_at")).filter(|_| at("backup_at").is_none());
    Ok(at("backup_at").or(at("restored_from")).map(|backup_at| BillingHold {
        backup_at: instant(backup_at),
        restoration: begun.map(|(since, at)| Restoration { since, at }),
        subscriptions_read_at: at("synced_full").map(instant),
        bills_read_at: at("restored_bills").map(instant),
    }))
}

async fn restored_totals(c: &Connection, of: Restoration, grace: i64) -> Result<Vec<RestoredTotal>, BooksError> {
    let mut rows = c.query(TOTALS, params![of.at, open_after(of.since, grace)]).await?;
    let mut found = vec![];
    while let Some(row) = rows.next().await? {
        let shortfall = row.get::<Option<i64>>(11)?.zip(row.get::<Option<i64>>(12)?);
        let state = match (row.get::<i64>(9)? == 1, row.get::<Option<String>>(10)?, shortfall) {
            (true, ..) => TotalState::Imported,
            (false, Some(answer), _) => TotalState::NoTotal(answer),
            (false, None, Some((amount, since))) => TotalState::TooLittle(Shortfall { amount, since }),
            (false, None, None) => TotalState::NotRead,
        };
        found.push(RestoredTotal {
            customer: row.get(0)?,
            meter: row.get(1)?,
            start: row.get(2)?,
            until: row.get(3)?,
            end: row.get(4)?,
            stripe_customer: row.get(5)?,
            stripe_meter: row.get(6)?,
            event_name: row.get(7)?,
            acknowledged: row.get(8)?,
            state,
        });
    }
    Ok(found)
}

async fn known_events(c: &Connection, of: &RestoredTotal) -> Result<PeriodParts<KnownEvents>, BooksError> {
    let PeriodParts { covered, rest } = of.windows();
    Ok(PeriodParts { covered: known_in(c, of, covered).await?, rest: known_in(c, of, rest).await? })
}

async fn known_in(c: &Connection, of: &RestoredTotal, window: Range<i64>) -> Result<KnownEvents, BooksError> {
    let sql = "SELECT coalesce(sum(value) FILTER (WHERE state = 'accepted'), 0), \
               coalesce(sum(value) FILTER (WHERE state = 'discarded' AND maybe_applied = 1), 0) \
               FROM meter_events WHERE customer = ?1 AND meter = ?2 AND timestamp >= ?3 AND timestamp < ?4 AND stripe_customer = ?5";
    // a period's start may lie within a minute, and what is before it is another's
    let (from, to) = (window.start.max(of.start), window.end);
    let values = params![of.customer.clone(), of.meter.clone(), from, to, of.stripe_customer.clone()];
    let Some(row) = first_row(c, sql, values).await? else { return Ok(KnownEvents::default()) };
    Ok(KnownEvents { accepted: row.get(0)?, discarded: row.get(1)? })
}

async fn note(c: &Connection, of: &RestoredTotal, imported_until: Option<i64>) -> Result<(), BooksError> {
    let (answer, shortfall) = match &of.state {
        TotalState::NoTotal(answer) => (Some(answer.clone()), None),
        TotalState::TooLittle(shortfall) => (None, Some(*shortfall)),
        TotalState::Imported | TotalState::NotRead => (None, None),
    };
    let (shortfall, since) = shortfall.map(|s| (s.amount, s.since)).unzip();
    let key = (of.customer.clone(), of.meter.clone(), of.start, of.end);
    let values = params![key.0, key.1, key.2, key.3, imported_until, answer, shortfall, since];
    c.execute(NOTED, values).await.map(drop)
}

impl Database {
    /// Why the books are on hold, if they are.
    pub async fn billing_hold(&self) -> Result<Option<BillingHold>, BooksError> {
        self.with_connection(async |c| billing_hold(c).await).await
    }

    /// Marks the books as restored from a backup that was made at `backup_at`, or when the newest
    /// thing in them was done, if that is earlier: the copy cannot know of more, whatever is said
    /// of it. Of two marks the earlier one stays. Returns the instant that is taken.
    pub async fn mark_restored(
        &self,
        backup_at: Timestamp,
        entry: AuditEntry,
        now: Timestamp,
    ) -> Result<Timestamp, BooksError> {
        self.transaction(async move |c| {
            let newest = first_row(c, NEWEST, ()).await?.map_or(Ok(None), |row| row.get::<Option<i64>>(0))?;
            let backup_at = newest.map_or(backup_at, |newest| backup_at.min(instant(newest)));
            let sql = "INSERT INTO settings (name, value) VALUES ('backup_at', ?1) \
                       ON CONFLICT (name) DO UPDATE SET value = min(CAST(value AS INTEGER), CAST(excluded.value AS INTEGER))";
            c.execute(sql, params![backup_at.as_second().to_string()]).await?;
            c.execute(NOT_SYNCED, ()).await?;
            record(c, &entry, now.as_second()).await?;
            Ok(backup_at)
        })
        .await
    }

    /// Begins the restoration of books with the mark of a backup. Returns how many open events
    /// Stripe's totals will decide about; none when there is nothing to begin.
    pub async fn begin_restoration(&self, actor: String, now: Timestamp) -> Result<Option<u64>, BooksError> {
        let now = now.as_second();
        self.transaction(async move |c| {
            let Some(hold) = billing_hold(c).await?.filter(|hold| hold.restoration.is_none()) else { return Ok(None) };
            let backup_at = hold.backup_at.as_second();
            // what was under way or unconfirmed was perhaps taken, and so was everything since an
            // earlier restoration that is not finished
            let sql = "SELECT min(at), (SELECT CAST(value AS INTEGER) FROM settings WHERE name = 'restored_from') FROM ( \
                         SELECT min(first_attempt_at) AS at FROM meter_events WHERE state IN ('sending', 'unconfirmed') \
                         UNION ALL SELECT CAST(value AS INTEGER) FROM settings WHERE name = 'restored_since')";
            let row = first_row(c, sql, ()).await?;
            let at = |i| row.as_ref().map_or(Ok(None), |row| row.get::<Option<i64>>(i));
            let from = at(1)?.map_or(backup_at, |from| from.min(backup_at));
            let since = at(0)?.map_or(from, |first| first.min(from));
            let sql = "UPDATE meter_events SET state = 'unconfirmed', maybe_applied = 1 WHERE state = 'sending'";
            c.execute(sql, ()).await?;
            let sql = "UPDATE meter_events SET state = 'not_received', next_at = NULL, settled_at = ?1, \
                       error = 'the books were restored: Stripe''s total decides' WHERE state IN ('pending', 'unconfirmed')";
            let open = c.execute(sql, params![now]).await?;
            for sql in [
                // what was compared is compared anew
                "UPDATE billing_targets SET imported_until = NULL, not_imported = NULL, shortfall = NULL, shortfall_since = NULL, \
                   alarm_kind = NULL, alarm_shortfall = NULL, alarm_total = NULL, alarm_until = NULL, \
                   alarm_stripe_customer = NULL, alarm_answer = NULL \
                 WHERE imported_until IS NOT NULL OR not_imported IS NOT NULL OR alarm_kind IS NOT NULL OR shortfall IS NOT NULL",
                "UPDATE settings SET value = 'meter-' || lower(hex(randomblob(4))) WHERE name = 'prefix'",
                "DELETE FROM settings WHERE name IN ('backup_at', 'synced_full', 'restored_bills')",
            ] {
                c.execute(sql, ()).await?;
            }
            for (name, value) in [("restored_from", from), ("restored_since", since), ("restored_at", now)] {
                settings::put(c, name, &value.to_string()).await?;
            }
            let reason = format!("a backup of {}; {open} open event(s) are not received now", instant(from));
            let entry = AuditEntry { actor, action: "restore begin".into(), target: "books".into(), reason };
            record(c, &entry, now).await?;
            Ok(Some(open))
        })
        .await
    }

    /// Every total of a restoration, by customer and period.
    pub async fn restored_totals(
        &self,
        restoration: Restoration,
        grace: i64,
    ) -> Result<Vec<RestoredTotal>, BooksError> {
        self.with_connection(async move |c| restored_totals(c, restoration, grace).await).await
    }

    /// What the books know of each part of the period of a total.
    pub async fn known_events(&self, of: RestoredTotal) -> Result<PeriodParts<KnownEvents>, BooksError> {
        self.with_connection(async move |c| known_events(c, &of).await).await
    }

    /// Notes why a total is not imported.
    pub async fn not_imported(&self, of: RestoredTotal) -> Result<(), BooksError> {
        self.transaction(async move |c| note(c, &of, None).await).await
    }

    /// Imports the surplus of a total; nothing when the books know something else meanwhile,
    /// because another command imports, too. Returns whether it was done.
    pub async fn import_total(&self, read: ReadTotal, grace: i64, now: Timestamp) -> Result<bool, BooksError> {
        let now = now.as_second();
        self.transaction(async move |c| {
            let ReadTotal { total: of, known, surplus } = read;
            let restoration = billing_hold(c).await?.and_then(|hold| hold.restoration);
            let Some(restoration) = restoration else { return Ok(false) };
            if known_events(c, &of).await? != known {
                return Ok(false);
            }
            let bounds = PeriodParts { covered: of.start..of.until, rest: of.until..of.end };
            for (bounds, surplus) in bounds.zip(surplus) {
                let timestamp = restoration.at.min(minute(bounds.end) - 1).max(bounds.start);
                let send_before = closes(bounds.end, grace);
                insert_imported(c, &of, Imported { bounds, surplus, timestamp, send_before }, now).await?;
            }
            let of = RestoredTotal { state: TotalState::Imported, ..of };
            note(c, &of, Some(of.until.min(restoration.at))).await?;
            Ok(true)
        })
        .await
    }

    /// Notes that every bill was read again and booked, or is left out because a person said so.
    pub async fn note_bills_read(&self, left_out: Vec<AuditEntry>, now: Timestamp) -> Result<(), BooksError> {
        self.transaction(async move |c| {
            for entry in &left_out {
                record(c, entry, now.as_second()).await?;
            }
            settings::put(c, "restored_bills", &now.as_second().to_string()).await
        })
        .await
    }

    /// Ends the hold, unless a total is still to be imported: those are returned. Totals that
    /// Stripe does not give are left out for the customers of `without`.
    pub async fn finish_restoration(
        &self,
        without: BTreeSet<String>,
        grace: i64,
        entry: AuditEntry,
        now: Timestamp,
    ) -> Result<Vec<RestoredTotal>, BooksError> {
        self.transaction(async move |c| {
            let Some(restoration) = billing_hold(c).await?.and_then(|hold| hold.restoration) else { return Ok(vec![]) };
            let mut open = restored_totals(c, restoration, grace).await?;
            open.retain(|of| of.state != TotalState::Imported);
            let is_left_out = |of: &RestoredTotal| matches!(of.state, TotalState::NoTotal(_)) && without.contains(&of.customer);
            if !open.iter().all(is_left_out) {
                return Ok(open);
            }
            for sql in [
                "DELETE FROM settings WHERE name IN ('restored_from', 'restored_since', 'restored_at', 'restored_bills')",
                "INSERT INTO stripe_due (customer, due_at) SELECT id, 0 FROM customers WHERE true \
                 ON CONFLICT (customer) DO UPDATE SET due_at = 0, from_day = ''",
            ] {
                c.execute(sql, ()).await?;
            }
            record(c, &entry, now.as_second()).await?;
            for customer in open.iter().map(|of| &of.customer).collect::<BTreeSet<_>>() {
                let of_customer = AuditEntry { target: format!("customer {customer}"), ..entry.clone() };
                record(c, &of_customer, now.as_second()).await?;
            }
            Ok(vec![])
        })
        .await
    }

    /// Copies the books into a new file while others write: as they are at one instant, after `at`.
    /// The copy is marked as one of `at`.
    pub async fn copy_to(&self, file: &Path, at: Timestamp) -> Result<(), BooksError> {
        let name = file.to_string_lossy().into_owned();
        let target = name.clone();
        self.with_connection(async move |c| Ok(c.execute("VACUUM INTO ?1", params![target]).await.map(drop)?)).await?;
        let copy = Connection::local(libsql::Builder::new_local(&name).build().await?.connect()?);
        for pragma in ["PRAGMA journal_mode = DELETE", "PRAGMA synchronous = FULL"] {
            first_row(&copy, pragma, ()).await?;
        }
        // books of before there was anything to send need no mark
        let sql = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'settings'";
        if first_row(&copy, sql, ()).await?.is_some() {
            // a mark that is there already is that of an earlier backup, on which nobody has acted
            let sql = "INSERT INTO settings (name, value) VALUES ('backup_at', ?1) ON CONFLICT (name) DO NOTHING";
            copy.execute(sql, params![at.as_second().to_string()]).await?;
            copy.execute(NOT_SYNCED, ()).await?;
        }
        Ok(())
    }
}

/// What the lost books had sent for a part of a period.
struct Imported {
    bounds: Range<i64>,
    surplus: i64,
    timestamp: i64,
    send_before: i64,
}

/// Makes what the lost books had sent for a part of a period an accepted event; more of them when
/// it has too many digits for one. Its time is no earlier than anything that it stands for: a total
/// of part of the period has all of it, or is asked for nothing. It counts as taken early, whatever
/// becomes known of the period's end: its invoice has it.
async fn insert_imported(c: &Connection, of: &RestoredTotal, imported: Imported, now: i64) -> Result<(), BooksError> {
    let Imported { bounds: Range { start, end }, surplus, timestamp, send_before } = imported;
    let sql = "INSERT INTO meter_events (seq, identifier, customer, meter, period_start, billed_start, billed_end, stripe_customer, event_name, value, \
                 timestamp, send_before, state, attempts, created_at, settled_at, taken_at, imported) \
               SELECT ?1, coalesce((SELECT value FROM settings WHERE name = 'prefix'), 'meter') || '-' || ?1, ?2, ?3, ?4, ?4, ?5, ?6, ?7, ?8, \
                 ?9, ?10, 'accepted', 1, ?11, ?11, ?4, 1";
    let mut rest = surplus;
    while rest != 0 {
        let value = rest.clamp(-LARGEST_VALUE, LARGEST_VALUE);
        rest -= value;
        let (seq, name) = (last_seq(c).await? + 1, (of.customer.clone(), of.meter.clone()));
        let at_stripe = (of.stripe_customer.clone(), of.event_name.clone());
        let values =
            params![seq, name.0, name.1, start, end, at_stripe.0, at_stripe.1, value, timestamp, send_before, now];
        c.execute(sql, values).await?;
    }
    Ok(())
}
