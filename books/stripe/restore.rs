//! Copies of the books, and books that were restored from one: what the lost books had sent to
//! Stripe after the copy was made is taken over from Stripe's totals, invoice by invoice; until
//! then nothing more is planned for their customer and meter.
//!
//! A copy carries a mark, so that whoever restores it need not remember to say so. The first
//! `push_stripe` that finds the mark gives the books another prefix of identifiers, and makes every
//! open event not received: what became of it is in the totals with the rest.

use std::path::Path;

use jiff::Timestamp;
use libsql::{Connection, Value, params};

use crate::store::audit_log::{AuditEntry, record};
use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::rows::{first_row, insert_rows, json};
use crate::store::settings;
use crate::stripe::alarm::{self, TargetKey};
use crate::stripe::difference::{Difference, Shortfall};
use crate::stripe::invoice::{LARGEST_VALUE, closes, open_after};
use crate::stripe::meter_event::last_seq;
use crate::stripe::reconciliation::{EventScope, InvoiceEvents, events_between, shortfall};
use crate::stripe::restoration::{Restoration, WAITING, restoration};
use crate::units::calendar::{Month, instant, minute};

/// A period whose total is to be taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TotalToImport {
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
    /// By how much Stripe was short of what the books know when the total was last read, and since
    /// when.
    pub shortfall: Option<Shortfall>,
    /// By how much Stripe is short (or, below 0, over) as a person has acknowledged: that is dealt
    /// with, and not taken over.
    pub acknowledged: i64,
    /// What the books have of what an invoice covers, and of the rest.
    pub events: [InvoiceEvents; 2],
}

impl TotalToImport {
    /// Minutes from which to before which totals are asked for: of what an invoice covers, and of
    /// the rest. Empty when there is nothing to ask.
    pub fn windows(&self) -> [(i64, i64); 2] {
        let (start, until, end) = (minute(self.start), minute(self.until), minute(self.end));
        [(start, until), if self.until < self.end { (until, end) } else { (end, end) }]
    }
}

/// Those of which the totals can be read, the one that was read longest ago first; of periods that
/// no invoice covers only those to which these books sent, too: nothing else is ever compared; and
/// of those that could not be read each once a day. ?1 and ?2 [`bounds`], ?3 how many, ?4 one
/// customer or null, ?5 a period's start or null, ?6 a meter or null, ?7 a day ago.
const TO_IMPORT: &str = "SELECT b.customer, m.meter, b.starts_at, b.covered_until, b.ends_at, c.stripe_customer_id, m.stripe_id, m.event_name, \
      t.shortfall, t.shortfall_since, (SELECT coalesce(sum(amount), 0) FROM acknowledgements a WHERE a.customer = b.customer \
        AND a.meter = m.meter AND a.period_start = b.starts_at AND a.kind = 'difference' AND a.stripe_customer = c.stripe_customer_id) \
    FROM customers c CROSS JOIN covered_periods b ON b.customer = c.id CROSS JOIN stripe_meters m \
    LEFT JOIN billing_targets t ON t.customer = b.customer AND t.meter = m.meter AND t.period_start = b.starts_at \
    WHERE (?4 IS NULL OR c.id = ?4) AND (?5 IS NULL OR b.starts_at = ?5) AND (?6 IS NULL OR m.meter = ?6) \
      AND c.stripe_customer_id IS NOT NULL AND c.periods_until IS NOT NULL AND b.starts_at < ?1 AND b.ends_at > ?2 \
      AND t.imported_until IS NOT min(b.covered_until, ?1) AND (?4 IS NOT NULL OR t.alarm_kind IS NULL OR t.read_at <= ?7) \
      AND (b.covered_until > b.starts_at OR EXISTS (SELECT 1 FROM meter_events i INDEXED BY meter_events_by_time WHERE i.customer = b.customer \
           AND i.meter = m.meter AND i.timestamp >= b.starts_at AND i.timestamp < b.ends_at AND i.attempts > 0)) \
    ORDER BY t.read_at, b.customer, b.starts_at LIMIT ?3";

/// When the newest thing was done that the books keep the time of.
const NEWEST: &str = "SELECT max(at) FROM (SELECT max(created_at) AS at FROM meter_events UNION ALL SELECT max(last_attempt_at) FROM meter_events \
    UNION ALL SELECT max(read_at) FROM billing_targets UNION ALL SELECT max(decided_at) FROM entitlements UNION ALL SELECT max(at) FROM audits \
    UNION ALL SELECT CAST(value AS INTEGER) FROM settings WHERE name = 'synced')";

/// Subscriptions are as they were when the copy was made: nobody has read them since.
const NOT_SYNCED: &str = "DELETE FROM settings WHERE name = 'synced_full'";

/// Makes the target's row, if there is none, with what the next planning will correct; notes what
/// was read.
const NOTED: &str = "INSERT INTO billing_targets (customer, meter, period_start, period_end, plan, target, read_at, shortfall, shortfall_since) \
    SELECT ?1, ?2, ?3, ?4, plan, 0, ?5, ?6, ?7 FROM customers WHERE id = ?1 \
    ON CONFLICT (customer, meter, period_start) DO UPDATE SET read_at = excluded.read_at, shortfall = excluded.shortfall, \
      shortfall_since = excluded.shortfall_since, total_at = iif(?8, billing_targets.total_at, excluded.read_at)";

async fn totals_to_import(
    c: &Connection,
    restoration: Restoration,
    grace: i64,
    (limit, now): (u32, i64),
    which: (Option<String>, Option<i64>, Option<String>),
) -> Result<Vec<TotalToImport>, BooksError> {
    let (customer, start, meter) = which;
    let open = open_after(restoration.since, grace);
    let values = params![restoration.at, open, limit, customer, start, meter, now - 86_400];
    let mut rows = c.query(TO_IMPORT, values).await?;
    let mut found = vec![];
    while let Some(row) = rows.next().await? {
        found.push(TotalToImport {
            customer: row.get(0)?,
            meter: row.get(1)?,
            start: row.get(2)?,
            until: row.get(3)?,
            end: row.get(4)?,
            stripe_customer: row.get(5)?,
            stripe_meter: row.get(6)?,
            event_name: row.get(7)?,
            shortfall: shortfall(&row, 8)?,
            acknowledged: row.get(10)?,
            events: [InvoiceEvents::default(), InvoiceEvents::default()],
        });
    }
    for one in &mut found {
        let windows = one.windows();
        for (at, (from, to)) in windows.into_iter().enumerate() {
            // a period's start may lie within a minute, and what is before it is another's
            let from = from.max(one.start);
            let scope =
                EventScope { customer: &one.customer, meter: &one.meter, stripe_customer: &one.stripe_customer };
            one.events[at] = events_between(c, scope, from..to).await?;
        }
    }
    Ok(found)
}

impl Database {
    /// Whether these books were restored from a backup.
    pub async fn restoration(&self, now: Timestamp) -> Result<Option<Restoration>, BooksError> {
        self.with_connection(async move |c| restoration(c, now.as_second()).await).await
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

    /// Whether these books were restored, and what Stripe tells of subscriptions was not read whole
    /// since: until then nobody knows which billing periods there were, and a period that is closed
    /// stays as it is.
    pub async fn awaits_subscriptions(&self, now: Timestamp) -> Result<bool, BooksError> {
        let Some(found) = self.restoration(now).await? else { return Ok(false) };
        let synced = self.setting("synced_full").await?.and_then(|at| at.parse::<i64>().ok());
        Ok(synced.is_none_or(|at| if found.seen { at < found.at } else { at <= found.backup_at }))
    }

    /// Acts on the mark of a backup, if there is one: returns the restoration, and how many open
    /// events Stripe's totals will decide about.
    pub async fn begin_restored(&self, grace: i64, now: Timestamp) -> Result<Option<(Restoration, u64)>, BooksError> {
        if self.setting("backup_at").await?.is_none() {
            return Ok(None);
        }
        let now = now.as_second();
        self.transaction(async move |c| {
            // another process may have been first
            let Some(found) = restoration(c, now).await?.filter(|r| !r.seen) else { return Ok(None) };
            let since = match unfinished(c, grace).await? {
                Some(before) => before.min(found.since),
                None => found.since,
            };
            let sql = "UPDATE meter_events SET state = 'unconfirmed', maybe_applied = 1 WHERE state = 'sending'";
            c.execute(sql, ()).await?;
            let sql = "UPDATE meter_events SET state = 'not_received', next_at = NULL, settled_at = ?1, \
                       error = 'the books were restored: Stripe''s total decides' WHERE state IN ('pending', 'unconfirmed')";
            let open = c.execute(sql, params![now]).await?;
            // what was compared is compared anew
            let sql = "UPDATE billing_targets SET imported_until = NULL, shortfall = NULL, shortfall_since = NULL, \
                         alarm_kind = NULL, alarm_shortfall = NULL, alarm_total = NULL, alarm_until = NULL, \
                         alarm_stripe_customer = NULL, alarm_answer = NULL \
                       WHERE imported_until IS NOT NULL OR alarm_kind IS NOT NULL OR shortfall IS NOT NULL";
            c.execute(sql, ()).await?;
            for sql in [
                "UPDATE settings SET value = 'meter-' || lower(hex(randomblob(4))) WHERE name = 'prefix'",
                // subscriptions that ended since must be known before totals are taken over
                "DELETE FROM settings WHERE name IN ('backup_at', 'synced_full')",
                "DELETE FROM restored_bills",
                "INSERT INTO stripe_due (customer, due_at) SELECT id, 0 FROM customers WHERE true \
                 ON CONFLICT (customer) DO UPDATE SET due_at = 0, from_day = ''",
            ] {
                c.execute(sql, ()).await?;
            }
            for (name, value) in [("restored_from", found.backup_at), ("restored_since", since), ("restored_at", now)] {
                settings::put(c, name, &value.to_string()).await?;
            }
            let entry = AuditEntry {
                actor: "meter".into(),
                action: "restored".into(),
                target: "books".into(),
                reason: format!("a backup of {}; {open} open event(s) are not received now", instant(found.backup_at)),
            };
            record(c, &entry, now).await?;
            Ok(Some((Restoration { since, at: now, seen: true, ..found }, open)))
        })
        .await
    }

    /// How many amounts wait for totals to be taken over.
    pub async fn restored_waiting(&self) -> Result<u64, BooksError> {
        self.with_connection(async |c| {
            let sql = "SELECT count(*) FROM deferred_amounts WHERE reason = 'restored'";
            Ok(first_row(c, sql, ()).await?.map_or(Ok(0), |row| row.get(0))?)
        })
        .await
    }

    /// At most `limit` periods whose totals are to be taken over; of one customer, or of all.
    pub async fn totals_to_import(
        &self,
        restoration: Restoration,
        grace: i64,
        customer: Option<String>,
        limit: u32,
        now: Timestamp,
    ) -> Result<Vec<TotalToImport>, BooksError> {
        let limit = (limit, now.as_second());
        self.with_connection(async move |c| {
            totals_to_import(c, restoration, grace, limit, (customer, None, None)).await
        })
        .await
    }

    /// Takes over what Stripe has more (or less) than the books know, of what an invoice covers and
    /// of the rest; nothing when the period or its events have changed since the totals were asked
    /// for. Returns whether it was done.
    pub async fn import(
        &self,
        of: TotalToImport,
        surplus: [i64; 2],
        restoration: Restoration,
        grace: i64,
        now: Timestamp,
    ) -> Result<bool, BooksError> {
        let now = now.as_second();
        self.transaction(async move |c| {
            let which = (Some(of.customer.clone()), Some(of.start), Some(of.meter.clone()));
            let same = self::restoration(c, now).await? == Some(restoration)
                && totals_to_import(c, restoration, grace, (1, now), which).await?.first() == Some(&of);
            if !same {
                return Ok(false);
            }
            // the total decides about what is unconfirmed, too
            let unconfirmed: Vec<i64> = of.events.iter().filter_map(|e| e.unconfirmed.map(|d| d.seq)).collect();
            let sql = "UPDATE meter_events SET state = 'not_received', next_at = NULL, settled_at = ?2, \
                       error = 'the books were restored: Stripe''s total decides' WHERE seq IN (SELECT value FROM json_each(?1))";
            c.execute(sql, params![json(&unconfirmed)?, now]).await?;
            let bounds = [(of.start, of.until), (of.until, of.end)];
            for ((from, to), surplus) in bounds.into_iter().zip(surplus) {
                let timestamp = restoration.at.min(minute(to) - 1).max(from);
                insert_imported(c, &of, &Imported { from, to, surplus, timestamp, grace }, now).await?;
            }
            note_read(c, &of, &Difference::Agrees, None, now).await?;
            let sql = "UPDATE billing_targets SET imported_until = ?4, final_at = NULL WHERE customer = ?1 AND meter = ?2 AND period_start = ?3";
            let until = of.until.min(restoration.at);
            c.execute(sql, params![of.customer.clone(), of.meter, of.start, until]).await?;
            let sql = "INSERT INTO stripe_due (customer, due_at) VALUES (?1, 0) ON CONFLICT (customer) DO UPDATE SET due_at = 0, from_day = ''";
            c.execute(sql, params![of.customer]).await?;
            Ok(true)
        })
        .await
    }

    /// Notes that a total could not be read, or by how much it is short and since when: too little
    /// to be believed at once.
    pub async fn not_imported(
        &self,
        of: TotalToImport,
        difference: Difference,
        shortfall: Option<Shortfall>,
        now: Timestamp,
    ) -> Result<(), BooksError> {
        self.transaction(async move |c| note_read(c, &of, &difference, shortfall, now.as_second()).await).await
    }

    /// The first month whose bills have to be read again before totals are taken over: AWS restates
    /// a month for weeks, so the one before the backup's. None without a restoration that a push
    /// has found, and when that was more than `within` seconds ago.
    pub async fn restored_bills_from(&self, now: Timestamp, within: i64) -> Result<Option<Month>, BooksError> {
        let found = self.restoration(now).await?;
        let recent = found.filter(|r| r.seen && now.as_second() - r.at <= within);
        Ok(recent.map(|r| first_month(&r)))
    }

    /// Of these exports, the months that have to be read again before totals are taken over, and
    /// were not, or wait for a person.
    pub async fn bills_missing(
        &self,
        restoration: Restoration,
        exports: Vec<String>,
    ) -> Result<Vec<(String, Month)>, BooksError> {
        self.with_connection(async move |c| {
            let months = Month::range(first_month(&restoration), Month::of(instant(restoration.at)));
            let mut missing = vec![];
            for export in exports {
                for month in &months {
                    let sql = "SELECT 1 FROM restored_bills WHERE export = ?1 AND month = ?2";
                    if first_row(c, sql, params![export.clone(), month.to_string()]).await?.is_none() {
                        missing.push((export.clone(), *month));
                    }
                }
            }
            Ok(missing)
        })
        .await
    }

    /// Notes that totals are taken over without the bill of an export's month: a person has said
    /// so.
    pub async fn go_without_bill(
        &self,
        export: String,
        month: Month,
        entry: AuditEntry,
        now: Timestamp,
    ) -> Result<(), BooksError> {
        self.transaction(async move |c| {
            let sql = "INSERT INTO restored_bills (export, month, read_at, without) VALUES (?1, ?2, ?3, 1) \
                       ON CONFLICT (export, month) DO UPDATE SET without = 1";
            c.execute(sql, params![export, month.to_string(), now.as_second()]).await?;
            record(c, &entry, now.as_second()).await
        })
        .await
    }

    /// Notes, after a restoration, that an export's month was looked at, and whether it waits for a
    /// person.
    pub async fn note_bill_read(
        &self,
        export: String,
        month: Month,
        waits: bool,
        now: Timestamp,
    ) -> Result<(), BooksError> {
        let values = (export, month.to_string());
        let (month, known) = (values.1.clone(), values.0.clone());
        let differs = self
            .with_connection(async move |c| {
                let sql = "SELECT EXISTS (SELECT 1 FROM settings WHERE name = 'restored_at'), \
                           EXISTS (SELECT 1 FROM restored_bills WHERE export = ?1 AND month = ?2 AND without = 0)";
                let row = first_row(c, sql, params![known, month]).await?;
                let Some(row) = row else { return Ok(false) };
                Ok(row.get::<i64>(0)? == 1 && (row.get::<i64>(1)? == 1) == waits)
            })
            .await?;
        if !differs {
            return Ok(());
        }
        self.transaction(async move |c| {
            if waits {
                c.execute("DELETE FROM restored_bills WHERE export = ?1 AND month = ?2 AND without = 0", values).await?;
            } else {
                let sql = "INSERT INTO restored_bills (export, month, read_at) VALUES (?1, ?2, ?3) ON CONFLICT (export, month) DO NOTHING";
                c.execute(sql, params![values.0, values.1, now.as_second()]).await?;
            }
            Ok(())
        })
        .await
    }

    /// Copies the books into a new file while others write: as they are at one instant, after `at`.
    /// The copy is marked as one of `at`.
    pub async fn copy_to(&self, file: &Path, at: Timestamp) -> Result<(), BooksError> {
        let name = file.to_string_lossy().into_owned();
        let target = name.clone();
        self.with_connection(async move |c| Ok(c.execute("VACUUM INTO ?1", params![target]).await.map(drop)?)).await?;
        let copy = libsql::Builder::new_local(&name).build().await?.connect()?;
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

/// The month before that from which on the lost books may have sent what these do not know.
fn first_month(restoration: &Restoration) -> Month {
    Month::of(instant(restoration.since.min(restoration.backup_at))).previous()
}

async fn note_read(
    c: &Connection,
    of: &TotalToImport,
    difference: &Difference,
    shortfall: Option<Shortfall>,
    now: i64,
) -> Result<(), BooksError> {
    let (shortfall, since) = shortfall.map(|s| (s.amount, s.since)).unzip();
    let no_total = i64::from(matches!(difference, Difference::NoTotal { .. }));
    let values = params![of.customer.clone(), of.meter.clone(), of.start, of.end, now, shortfall, since, no_total];
    c.execute(NOTED, values).await?;
    let key = TargetKey { customer: &of.customer, meter: &of.meter, period_start: of.start };
    alarm::set(c, key, difference).await
}

/// From when on totals of an earlier restoration are still to be taken over.
async fn unfinished(c: &Connection, grace: i64) -> Result<Option<i64>, BooksError> {
    let sql = "SELECT CAST((SELECT value FROM settings WHERE name = 'restored_since') AS INTEGER), \
               CAST((SELECT value FROM settings WHERE name = 'restored_at') AS INTEGER)";
    let Some(row) = first_row(c, sql, ()).await? else { return Ok(None) };
    let (Some(since), Some(at)) = (row.get::<Option<i64>>(0)?, row.get::<Option<i64>>(1)?) else { return Ok(None) };
    let customers = "SELECT json_group_array(json_object('customer', id)) FROM customers";
    let meters = "SELECT json_group_array(meter) FROM stripe_meters";
    let text = async |sql| {
        Ok::<_, BooksError>(first_row(c, sql, ()).await?.map_or(Ok(String::new()), |row| row.get::<String>(0))?)
    };
    let sql = format!("{} LIMIT 1", WAITING);
    let values = params![text(customers).await?, text(meters).await?, at, open_after(since, grace)];
    Ok(first_row(c, &sql, values).await?.map(|_| since))
}

/// What Stripe has more (or less) than the books know, of a part of a period.
struct Imported {
    from: i64,
    to: i64,
    surplus: i64,
    /// No earlier than anything that it stands for: a total of part of the period has all of it, or
    /// is asked for nothing.
    timestamp: i64,
    grace: i64,
}

/// Makes what the lost books had sent of a window an accepted event; more of them when it has too
/// many digits for one.
async fn insert_imported(c: &Connection, of: &TotalToImport, imported: &Imported, now: i64) -> Result<(), BooksError> {
    let Imported { from, to, surplus, timestamp, grace } = *imported;
    let prefix = settings::get(c, "prefix").await?.unwrap_or_else(|| "meter".into());
    let mut seq = last_seq(c).await?;
    let mut values = vec![];
    let mut rest = surplus;
    while rest != 0 {
        let value = rest.clamp(-LARGEST_VALUE, LARGEST_VALUE);
        values.push(value);
        rest -= value;
    }
    let head = "INSERT INTO meter_events (seq, identifier, customer, meter, period_start, billed_start, billed_end, stripe_customer, event_name, value, \
                timestamp, send_before, state, attempts, created_at, settled_at, taken_at, imported)";
    let row = |value: &i64| {
        seq += 1;
        [
            Value::Integer(seq),
            Value::Text(format!("{prefix}-{seq}")),
            Value::Text(of.customer.clone()),
            Value::Text(of.meter.clone()),
            Value::Integer(from),
            Value::Integer(from),
            Value::Integer(to),
            Value::Text(of.stripe_customer.clone()),
            Value::Text(of.event_name.clone()),
            Value::Integer(*value),
            Value::Integer(timestamp),
            Value::Integer(closes(to, grace)),
            Value::Text("accepted".into()),
            Value::Integer(1),
            Value::Integer(now),
            Value::Integer(now),
            // whatever becomes known of the period's end: its invoice has it
            Value::Integer(from),
            Value::Integer(1),
        ]
    };
    insert_rows(c, head, "", &values, row).await
}
