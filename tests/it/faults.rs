//! What happens to the queue and the books when the database is away, locked, or loses its replies.

use std::time::Duration;

use crate::support::test_store::{Do, TestStore, all, policy, until};
use crate::support::{LEDGER, Workspace};
use books::BooksError;
use meter::queue::{JobFilter, JobState, enqueue_in};
use meter::worker::WorkerSettings;
use testkit::hrana::HranaServer;

/// Jobs that a caller enqueues in a transaction of its own are there if and only if the rest of it
/// is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_enqueued_in_a_transaction_share_its_fate() {
    for store in [TestStore::local("in").await, TestStore::remote("in").await] {
        let (queue, books) = (store.queue().await, store.books().await);
        let job = |name: &str| [store.job(name, &[Do::Report])];
        let (undone, kept) = (job("undone"), job("kept"));
        let failed = books.transaction(async move |c| {
            enqueue_in(c, &undone, jiff::Timestamp::now()).await?;
            Err::<(), _>(BooksError::Integrity("the caller's own trouble".into()))
        });
        assert!(failed.await.is_err());
        assert!(queue.list(&JobFilter::default(), 10).await.unwrap().is_empty());
        let worker = store.worker(&queue, policy()).await;
        books.transaction(async move |c| enqueue_in(c, &kept, jiff::Timestamp::now()).await).await.unwrap();
        let rows = until(&queue, "done", all(JobState::Done)).await;
        assert_eq!((rows.len(), store.runs("kept").len(), store.runs("undone").len()), (1, 1, 0));
        worker.stop().await;
    }
}

/// Guards against: one refused connection ends a worker and drops what it runs. The database is
/// away for several leases; whoever comes back first must not take the others' jobs away, for they
/// could not heartbeat either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_goes_away_costs_time_only() {
    let store = TestStore::remote("away").await;
    let Some(server) = store.server() else { return };
    let queue = store.queue().await;
    let lease = Duration::from_secs(2);
    let workers = [
        store.worker(&queue, WorkerSettings { lease, ..policy() }).await,
        store.worker(&store.queue().await, WorkerSettings { lease, ..policy() }).await,
    ];
    let jobs: Vec<_> = (0..4).map(|i| store.job(&format!("{i}"), &[Do::Sleep(1000 + 2500 * i)])).collect();
    queue.enqueue(&jobs).await.unwrap();
    until(&queue, "all run", all(JobState::Running)).await;
    server.pause();
    tokio::time::sleep(Duration::from_secs(5)).await;
    server.resume();
    let rows = until(&queue, "all done", all(JobState::Done)).await;
    for (i, row) in rows.iter().enumerate() {
        assert_eq!((store.runs(&format!("{i}")).len(), row.attempts), (1, 1), "job {i}: {:?}", row.reason);
    }
    queue.enqueue(&[store.job("after", &[Do::Report])]).await.unwrap();
    until(&queue, "it goes on", all(JobState::Done)).await;
    for worker in workers {
        worker.stop().await;
    }
}

/// A worker that is asked to stop while the database is away ends when its time is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_can_stop_without_the_database() {
    let store = TestStore::remote("stop").await;
    let Some(server) = store.server() else { return };
    let queue = store.queue().await;
    let short = WorkerSettings { grace: Duration::from_secs(1), lease: Duration::from_secs(1), ..policy() };
    let worker = store.worker(&queue, short).await;
    queue.enqueue(&[store.job("j", &[Do::Sleep(700)])]).await.unwrap();
    until(&queue, "it runs", all(JobState::Running)).await;
    server.pause();
    tokio::time::sleep(Duration::from_secs(1)).await;
    worker.stop().await;
    server.resume();
    assert_eq!(
        queue.list(&JobFilter::default(), 1).await.unwrap()[0].state,
        JobState::Running,
        "its lease will expire"
    );
}

/// Guards against: one SQLITE_BUSY ends a worker.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_file_costs_time_only() {
    let store = TestStore::local("locked").await;
    let (queue, books) = (store.queue().await, store.books().await);
    let worker = store.worker(&queue, policy()).await;
    queue.enqueue(&[store.job("long", &[Do::Sleep(1500)])]).await.unwrap();
    until(&queue, "it runs", all(JobState::Running)).await;
    // longer than the ten seconds for which a statement waits
    let locked = books.transaction(async |_| {
        std::thread::sleep(Duration::from_secs(12));
        Ok(())
    });
    locked.await.unwrap();
    let rows = until(&queue, "done", all(JobState::Done)).await;
    assert_eq!((store.runs("long").len(), rows[0].attempts), (1, 1));
    worker.stop().await;
}

/// Bills over the remote protocol: whatever is lost on the way, the books end as on a local file.
#[test]
fn bills_are_booked_once_over_a_bad_network() {
    let (local, remote) = (Workspace::new(), Workspace::new());
    let server = HranaServer::start(&remote.path("served.db"));
    let url = server.url();
    let with = |line: &str| remote.run_with(line, &[("METER_DATABASE__URL", &url)]);
    let deliver = |restated: u32| {
        for place in [&local, &remote] {
            let line = format!("demo generate bucket --month 2026-10 --rows 3000 --customers 40 --restated {restated}");
            place.run(&line).ends(0);
        }
        local.run("ingest --month 2026-10").ends(0);
    };
    let ingest = "ingest --month 2026-10";
    deliver(0);
    with("migrate").ends(0).says(&[&format!("is new, and at schema version {}", books::newest_schema_version())]);
    // a commit goes through and its reply is lost: the run cannot know, and the next one finds the
    // bill booked, or goes on
    server.pause();
    std::fs::copy(remote.path("served.db"), remote.path("empty.db")).unwrap();
    let mut ends = vec![];
    for passed in 0.. {
        std::fs::copy(remote.path("empty.db"), remote.path("served.db")).unwrap();
        server.resume();
        server.faults().lose_commit_reply_after(passed);
        let lost = with(ingest);
        server.faults().lose_commit_replies(0);
        if lost.code == 0 {
            break;
        }
        lost.ends(1).says(&["whether it took the last change shows at the next run"]);
        ends.push(with(ingest).ends(0).out.contains("is booked already"));
        with("verify").ends(0);
        assert_eq!(crate::support::query(&remote.path("served.db"), LEDGER), local.query(LEDGER), "after {passed}");
        server.pause();
    }
    assert!(ends.contains(&false) && ends.contains(&true), "{ends:?}");
    deliver(1);
    let faults = server.faults();
    let orders: [(&str, &dyn Fn()); 3] = [
        ("expired", &|| faults.expire_streams(1)),
        ("dropped", &|| faults.drop_requests(1)),
        ("lost", &|| faults.lose_write_replies(1)),
    ];
    for (how, order) in orders {
        order();
        let ran = with(ingest);
        assert!(ran.code == 1 || ran.code == 0, "{how}: {}", ran.err);
    }
    server.faults().expire_streams(0);
    server.faults().slow(Duration::from_millis(20));
    with(ingest).ends(0);
    with("verify").ends(0);
    assert_eq!(crate::support::query(&remote.path("served.db"), LEDGER), local.query(LEDGER));
    // the same commands as on a file, over the same protocol
    with("enqueue probe name=far").ends(0);
    with("work --once --no-schedule").ends(0).says(&["1 done"]);
    with("jobs list").ends(0).says(&["probe", "done"]);
    assert!(!remote.path("meter.db").exists());
}
