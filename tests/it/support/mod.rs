//! What the stories share: the real binary in a temporary folder, and the tools that some of them
//! need.

#![allow(unreachable_pub, reason = "support of all modules")]

#[macro_use]
pub mod test_store;

pub mod billing_fixture;
mod bounded;
pub mod schema;
pub mod served;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;

pub use bounded::{ended, ended_with_output, output};
use tempfile::TempDir;
use testkit::suite_database::SuiteServer;

/// Servers in front of the books of workspaces, by folder. See `testkit::suite_database`.
static SERVERS: Mutex<BTreeMap<PathBuf, SuiteServer>> = Mutex::new(BTreeMap::new());

/// A schedule that does nothing by itself for most of a year: what is due runs anyway.
pub fn yearly() -> String {
    let kinds = [
        "roll_periods",
        "enforce_budgets",
        "roll_counters",
        "fold_measurements",
        "verify_books",
        "deliver_notifications",
    ];
    let yearly = kinds.map(|kind| format!("{kind} = [\"0 0 1 1 *\"]\n")).concat();
    let never = ["sync_stripe", "push_stripe", "reconcile_stripe"].map(|kind| format!("{kind} = []\n")).concat();
    format!("[schedule]\n{yearly}{never}")
}

/// The binary under test, with an environment of its own.
pub fn meter(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meter"));
    command.current_dir(folder).env_clear();
    for name in ["PATH", "HOME", "TMPDIR"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    // the credential chain must not go looking for a machine's role
    command.env("AWS_EC2_METADATA_DISABLED", "true");
    // many workers run side by side here; those that are to be asked are given a port of their own
    command.env("METER_HTTP__LISTEN", "");
    if let Some(server) = SERVERS.lock().unwrap().get(folder) {
        command.env("METER_DATABASE__URL", server.url());
    }
    command
}

pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Ran {
    /// The output as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e} in: {}\n{}", self.out, self.err))
    }

    /// Ended with this code; prints everything otherwise.
    #[track_caller]
    pub fn ends(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }

    #[track_caller]
    pub fn says(self, words: &[&str]) -> Self {
        for word in words {
            assert!(
                self.out.contains(word) || self.err.contains(word),
                "`{word}` is not in:\n{}\n{}",
                self.out,
                self.err
            );
        }
        self
    }
}

/// A folder with a configuration, a bucket and books.
pub struct Workspace {
    pub folder: TempDir,
}

impl Workspace {
    /// With one export in `bucket/`.
    pub fn new() -> Self {
        Self::with("[[exports]]\nname = \"main\"\nlocation = \"bucket\"\n")
    }

    pub fn with(config: &str) -> Self {
        let folder = TempDir::new().unwrap();
        std::fs::create_dir(folder.path().join("bucket")).unwrap();
        std::fs::write(folder.path().join("meter.toml"), config).unwrap();
        if let Some(server) = SuiteServer::of(&folder.path().join("meter.db")) {
            SERVERS.lock().unwrap().insert(folder.path().to_owned(), server);
        }
        Self { folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn run(&self, line: &str) -> Ran {
        self.run_with(line, &[])
    }

    pub fn run_with(&self, line: &str, variables: &[(&str, &str)]) -> Ran {
        let mut command = meter(self.folder.path());
        command.args(line.split_whitespace()).envs(variables.iter().copied());
        let ran: Ran = output(&mut command).into();
        if line.split_whitespace().any(|word| word == "--json") {
            schema::require(line, &ran.json());
        }
        ran
    }

    /// Every row of a query, as text.
    pub fn query(&self, sql: &str) -> Vec<String> {
        query(&self.path("meter.db"), sql)
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        let server = SERVERS.lock().unwrap().remove(self.folder.path());
        drop(server);
    }
}

impl Workspace {
    /// Runs statements on the books, as somebody with a database shell would.
    pub fn execute(&self, sql: &str) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let database = libsql::Builder::new_local(self.path("meter.db")).build().await.unwrap();
            connect(&database).execute_batch(sql).await.unwrap();
        });
    }

    /// Holds the write lock of the books until it is dropped.
    pub fn locked(&self) -> (tokio::runtime::Runtime, libsql::Connection) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let connection = runtime.block_on(async {
            let database = libsql::Builder::new_local(self.path("meter.db")).build().await.unwrap();
            let connection = connect(&database);
            connection.execute_batch("BEGIN IMMEDIATE").await.unwrap();
            connection
        });
        (runtime, connection)
    }

    /// Whether another process holds the write lock of the books now, for at least 200 ms.
    pub fn is_write_locked(&self) -> bool {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let database = libsql::Builder::new_local(self.path("meter.db")).build().await.unwrap();
            let connection = database.connect().unwrap();
            connection.busy_timeout(std::time::Duration::from_millis(200)).unwrap();
            connection.execute_batch("BEGIN IMMEDIATE; ROLLBACK").await.is_err()
        })
    }
}

/// A connection that waits while a worker writes.
fn connect(database: &libsql::Database) -> libsql::Connection {
    let connection = database.connect().unwrap();
    connection.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
    connection
}

/// Every row of a query on a database file, its columns joined by `|`.
pub fn query(database: &Path, sql: &str) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let database = libsql::Builder::new_local(database).build().await.unwrap();
        let mut rows = connect(&database).query(sql, ()).await.unwrap();
        let mut found = vec![];
        while let Some(row) = rows.next().await.unwrap() {
            let columns = (0..row.column_count()).map(|i| match row.get_value(i).unwrap() {
                libsql::Value::Null => String::new(),
                libsql::Value::Integer(n) => n.to_string(),
                libsql::Value::Real(x) => x.to_string(),
                libsql::Value::Text(text) => text,
                libsql::Value::Blob(bytes) => format!("{bytes:?}"),
            });
            found.push(columns.collect::<Vec<_>>().join("|"));
        }
        found
    })
}

pub const LEDGER: &str =
    "SELECT version_id, payer, month, customer, meter, day, quantity, kind FROM booked_usage ORDER BY 1, 4, 5, 6";
