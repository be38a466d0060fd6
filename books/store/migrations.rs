//! Numbered schema changes, applied in order, each in a transaction of its own; in an empty
//! database all of them in one.
//!
//! Many processes may start at once. A change begins with its row in `schema_versions`, which one
//! process inserts; the others find it there and apply nothing. A database with a schema of a newer
//! build is refused, and so is one with a change under a known number and another text.

use std::sync::atomic::Ordering;

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use crate::store::connection::{Value, statements};
use crate::store::database::Database;
use crate::store::error::BooksError;

/// A version that no change has: it marks a copy that is not finished.
pub(super) const UNFINISHED: i64 = 0;

/// One change of the schema.
#[derive(Debug)]
struct Migration {
    version: i64,
    name: &'static str,
    sql: &'static str,
}

macro_rules! migrations {
    ($($version:literal $name:literal),* $(,)?) => {
        &[$(Migration { version: $version, name: $name, sql: include_str!(concat!("../../migrations/", $name, ".sql")) }),*]
    };
}

const MIGRATIONS: &[Migration] = migrations![
    1 "0001_customers",
    2 "0002_bills",
    3 "0003_ledger",
    4 "0004_usage_days",
    5 "0005_jobs",
    6 "0006_probes",
    7 "0007_bill_parts",
    8 "0008_plans",
    9 "0009_periods",
    10 "0010_budgets",
    11 "0011_entitlements",
    12 "0012_notifications",
    13 "0013_audit_log",
    14 "0014_meter_events",
    15 "0015_usage_totals",
    16 "0016_restored",
    17 "0017_due_at",
    18 "0018_acknowledged",
    19 "0019_target_views",
    20 "0020_conserved_billing",
    21 "0021_machine_input",
    22 "0022_stripe_history",
    23 "0023_turn_has_no_price",
    24 "0024_stripe_minor_units",
    25 "0025_totals_of_subscriptions",
    26 "0026_billing_sums",
    27 "0027_overage_billing",
    28 "0028_restore_is_a_command",
    29 "0029_acknowledgements",
    30 "0030_invoices_of_stripe_customers",
    31 "0031_bookings",
    32 "0032_newest_done",
    33 "0033_bill_notes",
    34 "0034_enforcement",
    35 "0035_measurements",
    36 "0036_measured_usage_in_decisions",
    37 "0037_enforcement_due",
    38 "0038_measured_accuracy",
    39 "0039_shared_buckets",
    40 "0040_shares",
    41 "0041_notification_ids",
    42 "0042_undivided_days",
    43 "0043_customers_by_hand",
    44 "0044_operator_messages",
    45 "0045_cost_meters",
    46 "0046_job_failures",
    47 "0047_forecasts",
    48 "0048_applied_plans",
];

/// The schema version that this build works with.
pub fn newest() -> i64 {
    MIGRATIONS.last().map_or(0, |m| m.version)
}

fn checksum(sql: &str) -> String {
    Sha256::digest(sql.as_bytes()).iter().map(|b| format!("{b:02x}")).collect()
}

impl Database {
    /// Applies the missing changes and returns their names.
    ///
    /// # Errors
    /// [`BooksError::Newer`] for a schema of a newer build, [`BooksError::Integrity`] for another
    /// history of changes.
    pub async fn migrate(&self, now: Timestamp) -> Result<Vec<&'static str>, BooksError> {
        let mut applied = vec![];
        'read: loop {
            let found = self.schema_version().await?;
            let missing: Vec<&Migration> = MIGRATIONS.iter().filter(|m| m.version > found).collect();
            let at_once = if found == 0 { missing.len().max(1) } else { 1 };
            for some in missing.chunks(at_once) {
                let statements = changes(some, now);
                match self.transaction(async move |c| c.batch(statements).await.map(drop)).await {
                    Ok(()) => applied.extend(some.iter().map(|m| m.name)),
                    // another process was faster
                    Err(BooksError::Sql(text)) if text.contains("schema_versions.version") => continue 'read,
                    Err(error) => return Err(error),
                }
            }
            self.migrated.store(true, Ordering::Relaxed);
            if !applied.is_empty()
                && let Err(error) = self.checkpoint().await
            {
                tracing::debug!(%error, "the write-ahead log stays as it is");
            }
            return Ok(applied);
        }
    }

    /// The newest applied change; 0 for an empty database. Checks the history of changes.
    pub async fn schema_version(&self) -> Result<i64, BooksError> {
        let read = self.with_connection(async |c| {
            let mut rows = c.query("SELECT version, name, checksum FROM schema_versions ORDER BY version", ()).await?;
            let mut found = vec![];
            while let Some(row) = rows.next().await? {
                found.push((row.get::<i64>(0)?, row.get::<String>(1)?, row.get::<String>(2)?));
            }
            Ok(found)
        });
        let rows = match read.await {
            Err(BooksError::Sql(text)) if text.contains("no such table: schema_versions") => vec![],
            read => read?,
        };
        for (i, (version, name, sum)) in rows.iter().enumerate() {
            if *version == UNFINISHED {
                return Err(BooksError::UnfinishedCopy(name.clone()));
            }
            if *version > newest() {
                return Err(BooksError::Newer { found: *version, known: newest() });
            }
            let ours = MIGRATIONS.get(i).filter(|m| m.version == *version && checksum(m.sql) == *sum);
            if ours.is_none() {
                return Err(BooksError::Integrity(format!(
                    "schema change {version} `{name}` in the database is not the one that this meter knows; \
                     the database belongs to another build"
                )));
            }
        }
        Ok(rows.last().map_or(0, |r| r.0))
    }

    /// Refuses a database that is not at the newest schema version. Once it was, nothing is read.
    ///
    /// # Errors
    /// [`BooksError::NotMigrated`], and as [`Database::migrate`].
    pub async fn require_migrated(&self) -> Result<(), BooksError> {
        if self.migrated.load(Ordering::Relaxed) {
            return Ok(());
        }
        let found = self.schema_version().await?;
        if found < newest() {
            return Err(BooksError::NotMigrated { found, known: newest() });
        }
        self.migrated.store(true, Ordering::Relaxed);
        Ok(())
    }
}

/// The statements of changes, each change after its row in `schema_versions`.
fn changes(next: &[&'static Migration], now: Timestamp) -> Vec<(&'static str, Vec<Value>)> {
    let table = "CREATE TABLE IF NOT EXISTS schema_versions (version INTEGER PRIMARY KEY, name TEXT NOT NULL, \
                 checksum TEXT NOT NULL, applied_at TEXT NOT NULL) STRICT";
    let applied = "INSERT INTO schema_versions (version, name, checksum, applied_at) VALUES (?1, ?2, ?3, ?4)";
    let mut all = vec![(table, vec![])];
    for m in next {
        let texts = [m.name.to_owned(), checksum(m.sql), now.to_string()].map(Value::Text);
        all.push((applied, [Value::Integer(m.version)].into_iter().chain(texts).collect()));
        all.extend(statements(m.sql).into_iter().map(|sql| (sql, vec![])));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::rows::first_row;

    async fn run(books: &Database, migrations: impl Iterator<Item = &'static Migration>) {
        for migration in migrations {
            let all = async move |c: &crate::store::connection::Connection| c.execute_batch(migration.sql).await;
            books.transaction(all).await.unwrap();
        }
    }

    /// Books of the schema before `version` with what `old` wrote, and then all other changes.
    async fn migrated(version: i64, old: &'static str) -> Database {
        let books = Database::open_local(std::path::Path::new(":memory:")).await.unwrap();
        run(&books, MIGRATIONS.iter().filter(|m| m.version < version)).await;
        books.transaction(async move |c| c.execute_batch(old).await).await.unwrap();
        run(&books, MIGRATIONS.iter().filter(|m| m.version >= version)).await;
        books
    }

    async fn text(books: &Database, sql: &'static str) -> String {
        let read = books.with_connection(async move |c| first_row(c, sql, ()).await?.unwrap().get::<String>(0));
        read.await.unwrap()
    }

    /// Empty ids of Stripe become none, and budgets keep their worth in Stripe's minor units.
    #[tokio::test]
    async fn what_older_builds_wrote_is_converted() {
        let old = "INSERT INTO customers (id, stripe_customer_id, stripe_subscription_id) VALUES ('a', '', NULL), ('b', 'cus_1', '  '); \
                   INSERT INTO overage_budgets (customer, amount_minor, currency, set_by) VALUES ('a', 5, 'ISK', 'me'), ('b', 7, 'UGX', 'me'), \
                   ('c', 2000000000, 'UGX', 'me'), ('d', 550, 'MGA', 'me'), ('e', 550, 'USD', 'me');";
        let books = migrated(21, old).await;
        let ids = "SELECT group_concat(id || coalesce(stripe_customer_id, '-') || coalesce(stripe_subscription_id, '-'), ' ') FROM customers";
        assert_eq!(text(&books, ids).await, "a-- bcus_1-");
        let budgets = "SELECT group_concat(customer || amount_minor || set_by, ' ') FROM (SELECT * FROM overage_budgets ORDER BY customer)";
        assert_eq!(text(&books, budgets).await, "a500meter b700meter c100000000000meter d5meter e550me");
        let changes =
            "SELECT group_concat(customer || amount_minor, ' ') FROM overage_budget_changes WHERE set_by = 'meter'";
        assert_eq!(text(&books, changes).await, "a500 b700 c100000000000 d5", "history has the change");
    }

    /// What people acknowledged stays acknowledged, with who did it and why.
    #[tokio::test]
    async fn acknowledgements_become_entries() {
        let old = "INSERT INTO customers (id, stripe_customer_id) VALUES ('a', 'cus_a'), ('b', 'cus_b'); \
                   INSERT INTO billing_targets (customer, meter, period_start, period_end, plan, target, acknowledged, no_total_acknowledged) \
                   VALUES ('a', 'm', 0, 9, 'p', 0, -5, NULL), ('a', 'n', 0, 9, 'p', 0, 7, 'cus_old'), ('b', 'm', 0, 9, 'p', 0, 0, NULL); \
                   INSERT INTO billing_targets (customer, meter, period_start, period_end, plan, target, deferred, deferred_reason, deferred_since, deferred_acknowledged) \
                   VALUES ('b', 'n', 0, 9, 'p', 3, 3, 'no_item', 50, 3), ('b', 'o', 0, 9, 'p', 4, 4, 'no_item', 50, 3); \
                   INSERT INTO audit_log (at, actor, action, target, reason) VALUES (40, 'x', 'reconcile --acknowledge', 'customer a', 'old'), \
                   (60, 'y', 'reconcile --acknowledge', 'customer a', 'note'), (70, 'z', 'events retry', 'customer b', 'other');";
        let books = migrated(26, old).await;
        let entries = "SELECT group_concat(concat_ws(' ', customer, meter, kind, amount, stripe_customer, deferred_reason, actor, reason, min(at, 99)), ', ') \
                       FROM (SELECT * FROM acknowledgements ORDER BY customer, meter, kind)";
        let entries = text(&books, entries).await;
        let expected = "a m difference -5 cus_a y note 60, a n difference 7 cus_a y note 60, a n no_total cus_old y note 60, \
                        b n deferred 3 no_item unknown unknown 99";
        assert_eq!(entries, expected);
        let now = "SELECT group_concat(customer || meter || acknowledged, ' ') FROM target_totals";
        assert_eq!(text(&books, now).await, "am-5 an7 bm0 bn0 bo0");
        let now = "SELECT group_concat(customer || meter || acknowledged, ' ') FROM deferred_amounts";
        assert_eq!(text(&books, now).await, "bn1 bo0");
    }

    /// What older builds booked stays booked, and what was planned is not planned again.
    #[tokio::test]
    async fn entries_get_a_booking() {
        let version = |id: i64| {
            let before = if id == 1 { "NULL".to_owned() } else { (id - 1).to_string() };
            format!(
                "INSERT INTO bill_versions (id, payer, month, export, format, version, manifest_key, manifest_digest, rules_digest, account, \
                 delivered_at, state, supersedes, rows, counted_rows, rounded_amounts, decided_at) VALUES ({id}, 'p', '2026-01', 'e', 'cur2', 'v', 'k', \
                 'd', 'r', '', '', 'applied', {before}, 0, 0, 0, '2026-02-01T00:00:00Z'); "
            )
        };
        let entry = "INSERT INTO ledger_entries (version_id, payer, month, customer, meter, day, quantity, kind, booked_at) VALUES ";
        let old = format!(
            "{}{}{entry} (1, 'p', '2026-01', 'a', 'm', '2026-01-02', 5, 'usage', ''); \
             {entry} (2, 'p', '2026-01', 'a', 'm', '2026-01-02', -2, 'adjustment', ''); \
             UPDATE settings SET value = '2' WHERE name = 'entry';",
            version(1),
            version(2)
        );
        let books = migrated(31, Box::leak(old.into_boxed_str())).await;
        let usage = "SELECT group_concat(concat_ws(' ', version_id, payer, month, customer, meter, day, quantity, kind), ', ') FROM booked_usage";
        let expected = "1 p 2026-01 a m 2026-01-02 5 usage, 2 p 2026-01 a m 2026-01-02 -2 adjustment";
        assert_eq!(text(&books, usage).await, expected);
        assert_eq!(
            text(&books, "SELECT group_concat(concat_ws(' ', id, version_id, entries, counted)) FROM bookings").await,
            "1 1 1 1,2 2 1 1"
        );
        assert_eq!(text(&books, "SELECT value FROM settings WHERE name = 'planned_version'").await, "2");
        assert!(
            books
                .verify()
                .await
                .unwrap()
                .checks
                .iter()
                .all(|check| check.name != "bookings" || check.violations.is_empty())
        );
    }

    /// What older builds kept without a webhook is known, and everything else stays as it was.
    #[tokio::test]
    async fn notifications_that_nobody_received_are_known() {
        let old = |attempts: i64| {
            format!(
                "INSERT INTO entitlements VALUES ('a', 'm', 0, 9, 1, 'within_included', 0, 0, 0, 0, 0, 0, NULL, 'USD', NULL, 'none', 77); \
                 INSERT INTO notifications (id, customer, meter, kind, period_start, base, body, state, attempts, created_at, give_up_at, next_at, delivered_at, error) VALUES \
                 ('1', 'a', 'm', 'blocked', 0, 1, '{{}}', 'pending', 0, 1, 2, 3, NULL, NULL), \
                 ('2', 'a', 'm', 'blocked', 0, 2, '{{}}', 'dead', 0, 1, 2, NULL, NULL, 'no webhook was configured (notifications.url)'), \
                 ('3', 'a', 'm', 'blocked', 0, 3, '{{}}', 'dead', {attempts}, 1, 2, NULL, NULL, 'the receiver answered 503');"
            )
        };
        for (attempts, states, notifies) in [(0, "known known dead", "0"), (9, "pending known dead", "1")] {
            let books = migrated(34, Box::leak(old(attempts).into_boxed_str())).await;
            let sql = "SELECT group_concat(state, ' ') FROM (SELECT state FROM notifications ORDER BY seq)";
            assert_eq!(text(&books, sql).await, states);
            let run =
                "SELECT concat_ws(' ', enforced_at, stale_after, on_stale, notifies, thresholds) FROM enforcement";
            assert_eq!(text(&books, run).await, format!("77 259200 warn {notifies} [50,80,100]"));
        }
        assert!(migrated(34, "").await.last_enforcement().await.unwrap().is_none(), "nobody has decided");
    }

    #[test]
    fn schema_changes_fall_into_whole_statements() {
        for migration in MIGRATIONS {
            let found = statements(migration.sql);
            let last = found.last().and_then(|last| last.lines().last());
            assert_eq!(last, migration.sql.trim_end().lines().last(), "{}: nothing is left over", migration.name);
            for statement in &found {
                let code: Vec<&str> = statement.lines().filter(|l| !l.starts_with("--") && !l.is_empty()).collect();
                let starts = |line: &str| {
                    ["CREATE ", "ALTER ", "INSERT ", "DROP ", "UPDATE "].iter().any(|word| line.starts_with(word))
                };
                assert!(starts(code[0]), "{}: {statement}", migration.name);
                let others = code[1..].iter().filter(|line| starts(line));
                assert_eq!(others.count(), 0, "{}: {statement}", migration.name);
            }
        }
    }
}
