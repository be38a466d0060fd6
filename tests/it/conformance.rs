//! What the queue promises, on a local file and over the remote protocol (on a real server where
//! `LIBSQL_TEST_URL` names one).
//!
//! Some of these promises are here because another queue broke them: each says which failure it
//! guards against.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use crate::support::test_store::{Act, Do, Hasty, KillableWorker, Paired, TestStore, all, policy, row, until};
use jiff::{SignedDuration, Timestamp};
use meter::queue::{Clock, JobFilter, JobState, NewJob};
use meter::worker::{Kind, Kinds, WorkerSettings};

const HOUR: i64 = 3_600_000;

suite![
    jobs_run_once_and_keep_their_reports,
    a_key_is_held_by_one_unfinished_job,
    a_repeated_send_enqueues_once,
    jobs_run_by_priority_then_age,
    a_job_waits_for_its_time,
    failures_back_off_instead_of_burning_up,
    retry_after_comes_back,
    given_up_is_dead_and_can_be_retried,
    a_panic_is_a_failed_attempt,
    a_run_that_takes_too_long_is_a_failed_attempt,
    long_jobs_run_once_beside_an_idle_worker,
    a_blocked_thread_costs_no_lease,
    a_lost_worker_s_jobs_are_taken_over,
    an_idle_worker_watches_the_leases_of_others,
    a_job_that_kills_its_workers_dies,
    never_more_at_once_than_there_are_slots,
    one_lane_one_job_at_a_time,
    waiting_and_running_jobs_can_be_cancelled,
    what_is_not_finished_in_the_grace_time_is_handed_back,
    a_job_waits_for_those_it_asked_for,
    a_job_whose_child_was_given_up_backs_off,
    unknown_kinds_are_left_alone_and_unfit_payloads_die,
    a_tick_is_enqueued_once,
    clocks_that_jump_run_nothing_twice,
    finished_jobs_are_removed_in_time,
    jobs_of_other_processes_are_picked_up_soon,
    jobs_of_this_process_are_picked_up_at_once,
];

async fn jobs_run_once_and_keep_their_reports(store: TestStore) {
    let queue = store.queue().await;
    let jobs: Vec<NewJob> = (0..120).map(|i| store.job(&format!("{i}"), &[Do::Report])).collect();
    let enqueued = queue.enqueue(&jobs).await.unwrap();
    assert!(enqueued.iter().all(|e| e.new));
    let workers = [store.worker(&queue, policy()).await, store.worker(&store.queue().await, policy()).await];
    let rows = until(&queue, "all done", all(JobState::Done)).await;
    assert_eq!(rows.len(), 120);
    for (i, row) in rows.iter().enumerate() {
        assert_eq!(row.report, Some(serde_json::json!(store.name(&format!("{i}")))));
        assert_eq!((row.attempts, row.lease, row.worker.clone()), (1, 1, None));
        assert_eq!(store.runs(&format!("{i}")).len(), 1, "{i}");
    }
    let mut done = 0;
    for worker in workers {
        done += worker.stop().await.done;
    }
    assert_eq!(done, 120);
    assert!(queue.workers().await.unwrap().iter().all(|w| w.state == "stopped" && w.running == 0));
}

async fn a_key_is_held_by_one_unfinished_job(store: TestStore) {
    let queue = store.queue().await;
    let keyed = |name: &str| NewJob { key: Some("k".into()), ..store.job(name, &[Do::Sleep(600)]) };
    let first = queue.enqueue(&[keyed("1"), store.job("beside", &[Do::Report]), keyed("2")]).await.unwrap();
    assert_eq!(first.iter().map(|e| e.new).collect::<Vec<_>>(), [true, true, false]);
    assert_eq!(first[0].id, first[2].id);
    let worker = store.worker(&queue, policy()).await;
    until(&queue, "it runs", |rows| rows[0].state == JobState::Running).await;
    let while_running = queue.enqueue(&[keyed("3")]).await.unwrap();
    assert_eq!((while_running[0].new, &while_running[0].id), (false, &first[0].id));
    until(&queue, "done", all(JobState::Done)).await;
    let after = queue.enqueue(&[keyed("4")]).await.unwrap();
    assert!(after[0].new, "a finished job holds no key");
    until(&queue, "done", all(JobState::Done)).await;
    worker.stop().await;
}

async fn a_repeated_send_enqueues_once(store: TestStore) {
    let queue = store.queue().await;
    let jobs = [store.job("a", &[]), store.job("b", &[])];
    let first = queue.enqueue(&jobs).await.unwrap();
    let second = queue.enqueue(&jobs).await.unwrap();
    assert_eq!(first.iter().map(|e| &e.id).collect::<Vec<_>>(), second.iter().map(|e| &e.id).collect::<Vec<_>>());
    assert_eq!(queue.list(&JobFilter::default(), 10).await.unwrap().len(), 2);
}

async fn jobs_run_by_priority_then_age(store: TestStore) {
    let queue = store.queue().await;
    let job = |name: &str, priority| NewJob { priority, ..store.job(name, &[Do::Report]) };
    queue.enqueue(&[job("c", 0), job("d", 0), job("e", -10), job("a", 7), job("b", 7)]).await.unwrap();
    let worker = store.worker(&queue, WorkerSettings { concurrency: 1, ..policy() }).await;
    until(&queue, "done", all(JobState::Done)).await;
    let mut order: Vec<_> = ["a", "b", "c", "d", "e"].map(|n| (store.runs(n)[0], n)).into();
    order.sort();
    assert_eq!(order.iter().map(|(_, n)| *n).collect::<String>(), "abcde");
    worker.stop().await;
}

async fn a_job_waits_for_its_time(store: TestStore) {
    let queue = store.queue().await;
    let at = Timestamp::now() + SignedDuration::from_millis(900);
    let late = NewJob { run_at: Some(at), ..store.job("late", &[Do::Report]) };
    let past = NewJob { run_at: Some(at - SignedDuration::from_hours(1)), ..store.job("past", &[Do::Report]) };
    let ids = queue.enqueue(&[late, past]).await.unwrap();
    assert_eq!(row(&queue, &ids[0].id).await.state, JobState::Scheduled);
    assert_eq!(row(&queue, &ids[1].id).await.state, JobState::Pending);
    // polls so rarely that only the job's own time can wake it
    let worker = store.worker(&queue, WorkerSettings { poll: Duration::from_secs(50), ..policy() }).await;
    let start = Instant::now();
    until(&queue, "done", all(JobState::Done)).await;
    assert!(Timestamp::now() >= at, "it ran before its time");
    assert!(start.elapsed() < Duration::from_secs(20), "it was woken by its time");
    worker.stop().await;
}

/// Guards against: a failed job that is fetched again at once, so that 25 attempts are gone within
/// a second.
async fn failures_back_off_instead_of_burning_up(store: TestStore) {
    let queue = store.queue().await;
    let ids = queue.enqueue(&[NewJob { max_attempts: 3, ..store.job("f", &[Do::Fail]) }]).await.unwrap();
    let worker = store.worker(&queue, policy()).await;
    until(&queue, "it failed", |rows| rows[0].state == JobState::Retrying).await;
    let failed = row(&queue, &ids[0].id).await;
    assert_eq!((failed.attempts, failed.reason.as_deref()), (1, Some("asked to")));
    assert!(failed.run_at.is_some_and(|at| at > failed.started_at.unwrap()));
    let dead = &until(&queue, "it died", all(JobState::Dead)).await[0];
    assert_eq!(dead.reason.as_deref(), Some("failed 3 of 3 times, at last: asked to"));
    let runs = store.runs("f");
    assert_eq!(runs.len(), 3);
    // base 1 s, doubled each time, at most half taken off
    assert!(runs[1] - runs[0] >= Duration::from_millis(490), "{:?}", runs[1] - runs[0]);
    assert!(runs[2] - runs[1] >= Duration::from_millis(990), "{:?}", runs[2] - runs[1]);
    assert_eq!(worker.stop().await.retried, 2);
}

/// Guards against: "retry after" leaves the lock of the first run on the row, and the job is
/// stranded for ever.
async fn retry_after_comes_back(store: TestStore) {
    let queue = store.queue().await;
    let jobs: Vec<_> = (0..5).map(|i| store.job(&format!("{i}"), &[Do::After(700), Do::Report])).collect();
    queue.enqueue(&jobs).await.unwrap();
    let worker = store.worker(&queue, policy()).await;
    let rows = until(&queue, "all came back", all(JobState::Done)).await;
    for (i, row) in rows.iter().enumerate() {
        let runs = store.runs(&format!("{i}"));
        assert_eq!((runs.len(), row.attempts), (2, 2));
        assert!(runs[1] - runs[0] >= Duration::from_millis(690));
    }
    worker.stop().await;
}

async fn given_up_is_dead_and_can_be_retried(store: TestStore) {
    let queue = store.queue().await;
    queue.enqueue(&[store.job("g", &[Do::GiveUp, Do::Report])]).await.unwrap();
    let worker = store.worker(&queue, policy()).await;
    let dead = until(&queue, "dead", all(JobState::Dead)).await.remove(0);
    assert_eq!((dead.attempts, dead.reason.as_deref()), (1, Some("asked to")));
    let it = JobFilter { ids: vec![dead.seq.to_string()], ..JobFilter::default() };
    assert_eq!(queue.retry(&it).await.unwrap(), 1);
    let done = until(&queue, "done", all(JobState::Done)).await.remove(0);
    assert_eq!(done.attempts, 1, "all attempts are before it again");
    assert_eq!(queue.retry(&it).await.unwrap(), 0, "a job that is done is not run again");
    worker.stop().await;
}

async fn a_panic_is_a_failed_attempt(store: TestStore) {
    let queue = store.queue().await;
    queue.enqueue(&[store.job("p", &[Do::Panic, Do::Report]), store.job("other", &[Do::Sleep(300)])]).await.unwrap();
    let worker = store.worker(&queue, policy()).await;
    let rows = until(&queue, "it failed", |rows| rows[0].state == JobState::Retrying).await;
    assert_eq!(rows[0].reason.as_deref(), Some("it panicked: as asked"));
    until(&queue, "both done", all(JobState::Done)).await;
    assert_eq!(store.runs("other").len(), 1, "others are not disturbed");
    worker.stop().await;
}

async fn a_run_that_takes_too_long_is_a_failed_attempt(store: TestStore) {
    let queue = store.queue().await;
    let act = Act { name: store.name("slow"), does: vec![Do::Sleep(60_000), Do::Report] };
    queue.enqueue(&[NewJob::of(&Hasty(act), "test").unwrap()]).await.unwrap();
    let worker = store.worker(&queue, policy()).await;
    let rows = until(&queue, "it failed", |rows| rows[0].state == JobState::Retrying).await;
    assert!(rows[0].reason.as_deref().is_some_and(|r| r.starts_with("it took longer than")), "{:?}", rows[0].reason);
    until(&queue, "done", all(JobState::Done)).await;
    worker.stop().await;
}

/// Guards against: jobs that wait in a worker's buffer keep it from sending heartbeats, their locks
/// expire, and every long job runs twice.
async fn long_jobs_run_once_beside_an_idle_worker(store: TestStore) {
    let queue = store.queue().await;
    let lease = Duration::from_secs(1);
    let busy = store.worker(&queue, WorkerSettings { concurrency: 2, lease, ..policy() }).await;
    let jobs: Vec<_> = (0..6).map(|i| store.job(&format!("{i}"), &[Do::Sleep(2500)])).collect();
    queue.enqueue(&jobs).await.unwrap();
    until(&queue, "two run", |rows| rows.iter().filter(|r| r.state == JobState::Running).count() == 2).await;
    let rows = queue.list(&JobFilter::default(), 10).await.unwrap();
    assert_eq!(rows.iter().filter(|r| r.state == JobState::Pending).count(), 4, "only free slots are claimed");
    let idle = store.worker(&store.queue().await, WorkerSettings { concurrency: 1, lease, ..policy() }).await;
    let rows = until(&queue, "all done", all(JobState::Done)).await;
    for (i, row) in rows.iter().enumerate() {
        assert_eq!((store.runs(&format!("{i}")).len(), row.attempts), (1, 1), "job {i}");
    }
    busy.stop().await;
    idle.stop().await;
}

/// A job that blocks its thread holds up neither the heartbeats nor the other jobs, as long as
/// there is another thread.
async fn a_blocked_thread_costs_no_lease(store: TestStore) {
    let queue = store.queue().await;
    let lease = Duration::from_secs(1);
    let worker = store.worker(&queue, WorkerSettings { lease, ..policy() }).await;
    let other = store.worker(&store.queue().await, WorkerSettings { lease, ..policy() }).await;
    queue.enqueue(&[store.job("block", &[Do::Block(3000)])]).await.unwrap();
    let rows = until(&queue, "done", all(JobState::Done)).await;
    assert_eq!((store.runs("block").len(), rows[0].attempts), (1, 1));
    worker.stop().await;
    other.stop().await;
}

/// Guards against: only jobs that were already running are recovered, and those that were claimed
/// stay locked for ever. Here at least one has begun and most have not.
async fn a_lost_worker_s_jobs_are_taken_over(store: TestStore) {
    let queue = store.queue().await;
    let jobs: Vec<_> = (0..8).map(|i| store.job(&format!("{i}"), &[Do::Report])).collect();
    queue.enqueue(&jobs).await.unwrap();
    let doomed = KillableWorker::start(&store, policy()).await;
    until(&queue, "all claimed", all(JobState::Running)).await;
    doomed.kill();
    let survivor = store.worker(&queue, policy()).await;
    let rows = until(&queue, "all taken over", all(JobState::Done)).await;
    for row in rows {
        assert_eq!((row.attempts, row.lease), (2, 2));
        assert!(row.reason.as_deref().is_some_and(|r| r.contains("its worker gone:2:") && r.contains("was lost")));
    }
    survivor.stop().await;
}

/// A worker that was idle for long, and cannot run the job itself.
async fn an_idle_worker_watches_the_leases_of_others(store: TestStore) {
    let queue = store.queue().await;
    let others = Kinds::of([Kind::of::<Paired>()]);
    let watcher = store.worker_of(&store.queue().await, policy(), others).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    queue.enqueue(&[store.job("lost", &[Do::Report])]).await.unwrap();
    let doomed = KillableWorker::start(&store, policy()).await;
    until(&queue, "claimed", all(JobState::Running)).await;
    let killed = Instant::now();
    doomed.kill();
    until(&queue, "due again", all(JobState::Pending)).await;
    // a poll, and a lease
    assert!(killed.elapsed() < Duration::from_secs(25), "{:?}", killed.elapsed());
    watcher.stop().await;
}

async fn a_job_that_kills_its_workers_dies(store: TestStore) {
    let queue = store.queue().await;
    queue.enqueue(&[NewJob { max_attempts: 2, ..store.job("poison", &[Do::Report]) }]).await.unwrap();
    for _ in 0..2 {
        let short = WorkerSettings { lease: Duration::from_secs(1), ..policy() };
        let doomed = KillableWorker::start(&store, short.clone()).await;
        until(&queue, "claimed", all(JobState::Running)).await;
        doomed.kill();
        let watcher = store.worker_of(&queue, short, Kinds::of([])).await;
        until(&queue, "lost", |rows| rows[0].state != JobState::Running).await;
        watcher.stop().await;
    }
    let dead = until(&queue, "dead", all(JobState::Dead)).await.remove(0);
    assert!(dead.reason.as_deref().is_some_and(|r| r.contains("was lost in attempt 2 of 2")), "{:?}", dead.reason);
}

async fn never_more_at_once_than_there_are_slots(store: TestStore) {
    let queue = store.queue().await;
    let paired = |i| Paired(Act { name: store.name(&format!("{i}")), does: vec![Do::Sleep(60)] });
    let jobs: Vec<_> = (0..20).map(|i| NewJob::of(&paired(i), "test").unwrap()).collect();
    queue.enqueue(&jobs).await.unwrap();
    let worker = store.worker(&queue, policy()).await;
    let rows =
        until(&queue, "done", |rows| rows.iter().all(|r| r.state.is_final() || r.state == JobState::Retrying)).await;
    assert!(rows.iter().all(|r| r.state == JobState::Done), "a job that found three at once panicked: {rows:?}");
    worker.stop().await;
}

async fn one_lane_one_job_at_a_time(store: TestStore) {
    let queue = store.queue().await;
    let lane = |name: &str, lane: &str| NewJob { lane: Some(lane.into()), ..store.job(name, &[Do::Sleep(150)]) };
    queue.enqueue(&[lane("a1", "a"), lane("a2", "a"), lane("b1", "b"), lane("a3", "a")]).await.unwrap();
    let workers = [store.worker(&queue, policy()).await, store.worker(&store.queue().await, policy()).await];
    until(&queue, "done", |rows| {
        let running = rows.iter().filter(|r| r.lane.as_deref() == Some("a") && r.state == JobState::Running).count();
        assert!(running <= 1, "{running} jobs of one lane at once");
        all(JobState::Done)(rows)
    })
    .await;
    let starts = ["a1", "a2", "a3"].map(|n| store.runs(n)[0]);
    assert!(starts[1] - starts[0] >= Duration::from_millis(150) && starts[2] - starts[1] >= Duration::from_millis(150));
    for worker in workers {
        worker.stop().await;
    }
}

async fn waiting_and_running_jobs_can_be_cancelled(store: TestStore) {
    let queue = store.queue().await;
    let later = Timestamp::now() + SignedDuration::from_hours(1);
    let jobs = [
        NewJob { run_at: Some(later), ..store.job("waiting", &[Do::Report]) },
        store.job("running", &[Do::Sleep(60_000)]),
        store.job("done", &[Do::Report]),
    ];
    queue.enqueue(&jobs).await.unwrap();
    let worker = store.worker(&queue, policy()).await;
    until(&queue, "started", |rows| rows[1].state == JobState::Running && rows[2].state == JobState::Done).await;
    assert_eq!(queue.cancel(&JobFilter::default()).await.unwrap(), 2);
    let rows = until(&queue, "cancelled", |rows| rows[1].state == JobState::Cancelled).await;
    assert_eq!(
        rows.iter().map(|r| r.state).collect::<Vec<_>>(),
        [JobState::Cancelled, JobState::Cancelled, JobState::Done]
    );
    worker.stop().await;
}

async fn what_is_not_finished_in_the_grace_time_is_handed_back(store: TestStore) {
    let queue = store.queue().await;
    queue.enqueue(&[store.job("short", &[Do::Sleep(400)]), store.job("long", &[Do::Sleep(60_000)])]).await.unwrap();
    let worker = store.worker(&queue, WorkerSettings { grace: Duration::from_secs(1), ..policy() }).await;
    until(&queue, "both run", all(JobState::Running)).await;
    queue.enqueue(&[store.job("new", &[Do::Report])]).await.unwrap();
    until(&queue, "all run", |rows| rows[2].state == JobState::Done).await;
    worker.stopper.stop();
    queue.enqueue(&[store.job("too late", &[Do::Report])]).await.unwrap();
    let tally = worker.stop().await;
    assert_eq!((tally.done, tally.handed_back), (2, 1));
    let rows = queue.list(&JobFilter::default(), 10).await.unwrap();
    let states: Vec<_> = rows.iter().rev().map(|r| (r.state, r.attempts, r.lease)).collect();
    let expected =
        [(JobState::Done, 1, 1), (JobState::Pending, 0, 1), (JobState::Done, 1, 1), (JobState::Pending, 0, 0)];
    assert_eq!(states, expected, "handed back without counting an attempt; nothing is claimed after the stop");
}

async fn a_job_waits_for_those_it_asked_for(store: TestStore) {
    let queue = store.queue().await;
    queue.enqueue(&[NewJob { priority: -7, ..store.job("parent", &[Do::Await(5), Do::Report]) }]).await.unwrap();
    let worker = store.worker(&queue, policy()).await;
    let rows = until(&queue, "all done", |rows| rows.len() == 6 && all(JobState::Done)(rows)).await;
    assert!(rows[1..].iter().all(|r| r.parent == Some(rows[0].seq) && r.priority == -7));
    assert_eq!((rows[0].attempts, rows[0].lease), (1, 2), "waiting costs no attempt");
    let last = rows[1..].iter().filter_map(|r| r.finished_at).max().unwrap();
    assert!(rows[0].started_at.unwrap() >= last, "it ran again when the last was finished");
    worker.stop().await;
}

async fn a_job_whose_child_was_given_up_backs_off(store: TestStore) {
    let queue = store.queue().await;
    queue.enqueue(&[store.job("parent", &[Do::AwaitHopeless])]).await.unwrap();
    let worker = store.worker(&queue, policy()).await;
    let rows = until(&queue, "it backs off", |rows| rows[0].state == JobState::Retrying).await;
    assert_eq!(rows[0].reason.as_deref(), Some("a job that it waited for was given up"));
    assert_eq!(rows[0].attempts, 1, "that costs an attempt");
    assert!(rows[0].run_at.unwrap() > rows[0].started_at.unwrap() + SignedDuration::from_secs(3));
    assert_eq!(rows[1].state, JobState::Dead);
    worker.stop().await;
}

async fn unknown_kinds_are_left_alone_and_unfit_payloads_die(store: TestStore) {
    let queue = store.queue().await;
    let unknown = NewJob::new("of_tomorrow", "{}".into(), 3, "test");
    let unfit = NewJob::new("act", r#"{"name": "n", "does": [{"Sleep": "long"}]}"#.into(), 3, "test");
    let extra = NewJob::new("act", r#"{"name": "n", "does": [], "more": 1}"#.into(), 3, "test");
    queue.enqueue(&[unknown, unfit, extra]).await.unwrap();
    let worker = store.worker(&queue, policy()).await;
    let rows = until(&queue, "dead", |rows| rows[1].state == JobState::Dead && rows[2].state == JobState::Dead).await;
    assert_eq!((rows[0].state, rows[0].attempts), (JobState::Pending, 0));
    let why = rows[1].reason.as_deref().unwrap();
    assert!(why.contains("does not fit the kind act") && why.contains("`does[0].Sleep`"), "{why}");
    assert_eq!(rows[1].payload["does"][0]["Sleep"], "long", "it is kept");
    assert!(rows[2].reason.as_deref().unwrap().contains("more"), "{:?}", rows[2].reason);
    worker.stop().await;
}

async fn a_tick_is_enqueued_once(store: TestStore) {
    let tick: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
    let at = |text: &str| {
        let now: Timestamp = text.parse().unwrap();
        Clock::of(move || now)
    };
    let mut processes = tokio::task::JoinSet::new();
    for i in 0..4 {
        let queue = store.queue_at(at("2026-03-01T12:00:01Z")).await;
        let jobs = [store.job(&format!("tick of {i}"), &[]), store.job(&format!("second of {i}"), &[])];
        processes.spawn(async move { queue.enqueue_tick("s", tick, None, &jobs).await.unwrap() });
    }
    let won = processes.join_all().await;
    assert_eq!(won.iter().filter(|w| **w).count(), 1);
    let queue = store.queue_at(at("2026-03-01T13:00:01Z")).await;
    assert_eq!(queue.list(&JobFilter::default(), 10).await.unwrap().len(), 2);
    let job = [store.job("again", &[])];
    let later = tick + SignedDuration::from_hours(1);
    assert!(!queue.enqueue_tick("s", tick - SignedDuration::from_hours(1), None, &job).await.unwrap(), "an older tick");
    assert!(queue.enqueue_tick("s", later, None, &job).await.unwrap(), "a newer one");
    // the clock is set back an hour: the stored tick lies in the future and stays there
    let back = store.queue_at(at("2026-03-01T12:00:30Z")).await;
    assert!(!back.enqueue_tick("s", tick, None, &job).await.unwrap(), "it may be a host whose clock is right");
    assert!(back.enqueue_tick("s", tick, Some(later), &job).await.unwrap(), "nobody moved it on");
    assert!(!back.enqueue_tick("s", tick, Some(later), &job).await.unwrap());
}

async fn clocks_that_jump_run_nothing_twice(store: TestStore) {
    let shift = Arc::new(AtomicI64::new(0));
    let clock = || {
        let shift = Arc::clone(&shift);
        Clock::of(move || Timestamp::now() + SignedDuration::from_millis(shift.load(Ordering::SeqCst)))
    };
    let queue = store.queue_at(clock()).await;
    let lease = Duration::from_secs(1);
    let workers = [
        store.worker(&queue, WorkerSettings { lease, ..policy() }).await,
        store.worker(&store.queue_at(clock()).await, WorkerSettings { lease, ..policy() }).await,
    ];
    for (i, jump) in [HOUR, -2 * HOUR, HOUR].into_iter().enumerate() {
        let (long, failing) = (format!("long {i}"), format!("failing {i}"));
        queue
            .enqueue(&[store.job(&long, &[Do::Sleep(2500)]), store.job(&failing, &[Do::Fail, Do::Report])])
            .await
            .unwrap();
        until(&queue, "it runs", |rows| rows.iter().any(|r| r.state == JobState::Running)).await;
        until(&queue, "one failed", |_| store.runs(&failing).len() == 1).await;
        shift.fetch_add(jump, Ordering::SeqCst);
        queue.enqueue(&[store.job(&format!("after {i}"), &[Do::Report])]).await.unwrap();
        let rows = until(&queue, "all done in spite of the clock", all(JobState::Done)).await;
        assert_eq!((store.runs(&long).len(), store.runs(&failing).len()), (1, 2), "jump {i}: {rows:?}");
    }
    for worker in workers {
        worker.stop().await;
    }
}

async fn finished_jobs_are_removed_in_time(store: TestStore) {
    let queue = store.queue().await;
    let jobs: Vec<_> =
        (0..1200).map(|i| NewJob { max_attempts: 1, ..store.job(&format!("{i}"), &[Do::GiveUp]) }).collect();
    queue.enqueue(&jobs[..1100]).await.unwrap();
    queue.cancel(&JobFilter::default()).await.unwrap();
    queue.enqueue(&jobs[1100..]).await.unwrap();
    let old = |before: Timestamp| JobFilter { finished_before: Some(before), ..JobFilter::default() };
    let now = Timestamp::now();
    assert_eq!(queue.purge(&old(now - SignedDuration::from_hours(1))).await.unwrap(), 0);
    assert_eq!(queue.purge(&old(now + SignedDuration::from_hours(1))).await.unwrap(), 1100);
    assert_eq!(queue.counts().await.unwrap().into_values().sum::<i64>(), 100, "what waits is never removed");
}

/// Guards against: after an empty fetch, jobs of other processes wait for the next heartbeat (30
/// s).
async fn jobs_of_other_processes_are_picked_up_soon(store: TestStore) {
    let queue = store.queue().await;
    let worker = store.worker(&queue, WorkerSettings { poll: Duration::from_millis(250), ..policy() }).await;
    let other = store.queue().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    for i in 0..5 {
        let name = format!("{i}");
        let sent = Instant::now();
        other.enqueue(&[store.job(&name, &[Do::Report])]).await.unwrap();
        until(&queue, "done", all(JobState::Done)).await;
        // far below a heartbeat; what it takes on a quiet machine is measured in benches/
        assert!(store.runs(&name)[0] - sent < Duration::from_secs(5));
    }
    worker.stop().await;
}

/// However seldom the worker looks for jobs of others.
async fn jobs_of_this_process_are_picked_up_at_once(store: TestStore) {
    let queue = store.queue().await;
    let seldom = Duration::from_secs(3600);
    let settings = WorkerSettings { poll: seldom, idle_poll: seldom, ..policy() };
    let worker = store.worker(&queue, settings).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    queue.enqueue(&[store.job("parent", &[Do::Await(2), Do::Report])]).await.unwrap();
    until(&queue, "parent and children are done", |rows| rows.len() == 3 && all(JobState::Done)(rows)).await;
    let tick = "2026-03-01T12:00:00Z".parse().unwrap();
    assert!(queue.enqueue_tick("s", tick, None, &[store.job("tick", &[Do::GiveUp, Do::Report])]).await.unwrap());
    let rows = until(&queue, "the tick's job ran", |rows| rows[3].state == JobState::Dead).await;
    let it = JobFilter { ids: vec![rows[3].seq.to_string()], ..JobFilter::default() };
    assert_eq!(queue.retry(&it).await.unwrap(), 1);
    until(&queue, "it was retried", all(JobState::Done)).await;
    worker.stop().await;
}
