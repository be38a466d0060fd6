//! kill -9 at any moment of an ingest leaves the books as before or as after, never between.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{LEDGER, Workspace, meter, query};
use testkit::needs::tool;

const BOOKS: &str = "SELECT payer, month, customer, meter, day, sum(quantity) FROM booked_usage GROUP BY 1, 2, 3, 4, 5 HAVING sum(quantity) <> 0 \
                     UNION ALL SELECT bucket, meter, class, day, state, version_id || billed || coalesce(predicted, '') || apportioned || digest FROM bucket_shares \
                     UNION ALL SELECT id, status, chime_minutes_used, storage_gb_used, transfer_gb_used, counters_period FROM customers";
const INGEST: &str = "ingest --month 2026-10";
const CONFIG: &str = "[[exports]]\nname = \"main\"\nlocation = \"bucket\"\n\
                      [[shared_buckets]]\nname = \"my-uploads\"\ncustomer_key = \"c/{customer}/\"\nexpire_days = 1\n\
                      [shared_buckets.inventory]\nlocation = \"bucket/inventory/my-uploads/meter\"\n";

/// Books that hold the first version of a bill, whose second version has been delivered; and how
/// both states look.
struct Scene {
    place: Workspace,
    before: (Vec<String>, Vec<String>),
    after: (Vec<String>, Vec<String>),
}

fn state(place: &Workspace) -> (Vec<String>, Vec<String>) {
    (place.query(LEDGER), place.query(BOOKS))
}

fn copy(place: &Workspace, from: &str, to: &str) {
    for ending in ["", "-wal", "-shm"] {
        let (from, to) = (place.path(&format!("{from}{ending}")), place.path(&format!("{to}{ending}")));
        drop(std::fs::remove_file(&to));
        if from.exists() {
            std::fs::copy(from, to).unwrap();
        }
    }
}

impl Scene {
    fn new() -> Self {
        let place = Workspace::with(CONFIG);
        let generate = "demo generate bucket --month 2026-10 --rows 5000 --customers 200 --shared-bucket my-uploads";
        place.run(generate).ends(0);
        place.run("migrate").ends(0);
        place.run("run ingest_inventory bucket=my-uploads --as-of 2026-11-03T12:00:00Z").ends(0);
        place.run(INGEST).ends(0);
        let shares = place.query("SELECT count(*) > 100 FROM booked_usage WHERE kind = 'apportioned'");
        assert_eq!(shares, ["1"], "a bucket that all customers share is divided as well");
        let first = place.query("SELECT DISTINCT customer FROM booked_usage WHERE customer <> '' LIMIT 1");
        assert_eq!(first.len(), 1);
        place.run(&format!("{generate} --restated 1")).ends(0);
        copy(&place, "meter.db", "first.db");
        let before = state(&place);
        place.run(INGEST).ends(0);
        let after = state(&place);
        assert_ne!(before, after);
        Self { place, before, after }
    }

    /// Checks the books after a kill, and that the next run brings them to the end. Returns whether
    /// the kill came before the commit.
    fn check(&self, how: &str) -> bool {
        let now = state(&self.place);
        assert!(now == self.before || now == self.after, "{how}: the books are neither before nor after");
        self.place.run("verify").ends(0);
        self.place.run(INGEST).ends(0);
        assert!(state(&self.place) == self.after, "{how}: the next run does not end where it should");
        now == self.before
    }
}

#[test]
fn a_kill_at_any_moment_leaves_the_books_whole() {
    let scene = Scene::new();
    copy(&scene.place, "first.db", "meter.db");
    let start = Instant::now();
    scene.place.run(INGEST).ends(0);
    let whole = start.elapsed();
    let (mut before, mut after) = (0, 0);
    for round in 1..=40_u32 {
        copy(&scene.place, "first.db", "meter.db");
        let mut command = meter(scene.place.folder.path());
        command.args(INGEST.split(' ')).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        // spread over the run, and a little beyond it
        std::thread::sleep(whole * round / 36);
        child.kill().unwrap();
        crate::support::ended(&mut child);
        if scene.check(&format!("killed after {round}/36 of the run")) { before += 1 } else { after += 1 }
    }
    assert!(before > 0, "no kill came before the commit ({after} after it, the run takes {whole:?})");
}

/// A kill at the n-th write to the database files, for many n: the moments that a clock rarely
/// hits.
#[test]
fn a_kill_at_any_write_leaves_the_books_whole() {
    if !tool("strace") {
        return;
    }
    let scene = Scene::new();
    let strace = |inject: &str| {
        copy(&scene.place, "first.db", "meter.db");
        let mut command = Command::new("strace");
        command.current_dir(scene.place.folder.path()).args([
            "-f",
            "-qq",
            "-o",
            "trace",
            "-e",
            "trace=pwrite64,fsync,fdatasync",
        ]);
        command.args(["-e", inject, env!("CARGO_BIN_EXE_meter")]).args(INGEST.split(' '));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        crate::support::ended(&mut command.spawn().unwrap())
    };
    let deadline = Instant::now() + Duration::from_secs(100);
    assert!(strace("inject=fsync:delay_enter=0:when=1").success(), "strace cannot trace here");
    let trace = std::fs::read_to_string(scene.place.path("trace")).unwrap();
    let count = |call: &str| trace.lines().filter(|l| l.contains(call)).count();
    let (writes, syncs) = (count("pwrite64("), count("fsync(") + count("fdatasync("));
    assert!(writes > 20 && syncs > 0, "{writes} writes, {syncs} syncs");
    let (mut before, mut kills, mut rounds) = (0, 0, 0);
    let steps = (0..24).map(|i| ("pwrite64", 1 + i * writes / 24)).chain((1..=syncs).map(|n| ("fdatasync,fsync", n)));
    for (call, n) in steps {
        // a run may need a few writes less than the one that was counted; then it ends before its
        // kill, and is checked all the same
        kills += u32::from(!strace(&format!("inject={call}:signal=KILL:when={n}")).success());
        before += u32::from(scene.check(&format!("killed at {call} {n}")));
        rounds += 1;
        if Instant::now() > deadline {
            break;
        }
    }
    let enough = rounds > 8 && kills * 4 >= rounds * 3 && before > 0;
    assert!(enough, "{rounds} rounds, {kills} kills, {before} before the commit");
    assert!(!query(&scene.place.path("meter.db"), LEDGER).is_empty());
}
