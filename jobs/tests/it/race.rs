//! What happens beside a run: files that move while they are read, and other workers.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::future::BoxFuture;
use jobs::ingest_cur::IngestOutcome;
use jobs::job::Job;
use jobs::source::{Fetched, Folder, Listing, Object, Source, SourceError};
use testkit::ingest_fixture::{
    IngestFixture, Line, chime, columns, deliver, deliver_lines, job, manifest, now, parquet_bytes,
};

const V1: &str = "2026-10-10T03:00:00.000Z-11111111-1111-4111-8111-111111111111";
const V3: &str = "2026-10-12T03:00:00.000Z-33333333-3333-4333-8333-333333333333";

fn some() -> Vec<Line> {
    vec![chime("alice", 1, 10.5), chime("alice", 2, 3.0), chime("bob", 1, 7.0), chime("", 1, 2.0)]
}

/// A folder in which something happens at the n-th read of data.
struct Meddler {
    inner: Folder,
    reads: AtomicUsize,
    at_read: usize,
    deed: Box<dyn Fn() + Send + Sync>,
}

impl std::fmt::Debug for Meddler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Meddler")
    }
}

impl Source for Meddler {
    fn name(&self, key: &str) -> String {
        self.inner.name(key)
    }
    fn bucket(&self) -> Option<&str> {
        None
    }
    fn fetched(&self) -> &Fetched {
        self.inner.fetched()
    }
    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Listing, SourceError>> {
        self.inner.list(prefix)
    }
    fn head<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Object, SourceError>> {
        self.inner.head(key)
    }
    fn read<'a>(&'a self, object: &'a Object, range: Range<u64>) -> BoxFuture<'a, Result<Bytes, SourceError>> {
        if self.reads.fetch_add(1, Ordering::SeqCst) == self.at_read {
            (self.deed)();
        }
        self.inner.read(object, range)
    }
}

/// Whatever moves between the first look and the last, at whichever read: nothing is booked, and
/// the run can be repeated.
#[tokio::test]
async fn what_moves_while_it_is_read_books_nothing() {
    type Deed = fn(&std::path::Path);
    let other = || parquet_bytes(columns(&[chime("alice", 1, 1.0), chime("bob", 2, 2.0)]));
    let deeds: [(&str, Deed); 4] = [
        ("file replaced", |bucket| {
            std::fs::write(data(bucket), parquet_bytes(columns(&[chime("eve", 1, 1.0)]))).unwrap();
        }),
        ("file gone", |bucket| std::fs::remove_file(data(bucket)).unwrap()),
        ("manifest replaced", |bucket| {
            manifest(bucket, V3, &[format!("s3://b/e/data/BILLING_PERIOD=2026-10/{V1}/1.parquet")])
        }),
        ("file cut short", |bucket| std::fs::write(data(bucket), b"PAR1").unwrap()),
    ];
    fn data(bucket: &std::path::Path) -> std::path::PathBuf {
        bucket.join(format!("e/data/BILLING_PERIOD=2026-10/{V1}/1.parquet"))
    }
    for (name, deed) in deeds {
        for at_read in 1..4 {
            let mut world = IngestFixture::new().await;
            let bucket = world.bucket();
            deliver(&bucket, V1, &[("1.parquet", other())]);
            // the deed must change the modification time, which some file systems keep coarsely
            std::thread::sleep(std::time::Duration::from_millis(12));
            let meddler = Meddler {
                inner: Folder::new(&bucket),
                reads: AtomicUsize::new(0),
                at_read,
                deed: Box::new(move || deed(&bucket)),
            };
            world.source(Arc::new(meddler));
            let failure = world.ingest().await.expect_err(name);
            assert!(failure.is_retryable(), "{name} at read {at_read}: {failure:?}");
            assert!(world.ledger().await.is_empty(), "{name}");
            assert!(world.dump("SELECT version FROM bill_versions").await.is_empty(), "{name}");
        }
    }
}

/// Two labels for one account, looked at side by side: one of them is booked.
#[tokio::test]
async fn two_labels_at_the_same_moment_do_not_double_an_account() {
    for _ in 0..5 {
        let world = IngestFixture::new().await;
        deliver_lines(&world.bucket(), V1, &some());
        let runs = ["one", "two"].map(|payer| {
            let mut context = world.context.clone();
            let mut exports = (*context.exports).clone();
            exports.get_mut("main").unwrap().payer = payer.into();
            context.exports = Arc::new(exports);
            tokio::spawn(async move { job().run(&context, now()).await })
        });
        let mut applied = 0;
        for run in runs {
            applied += usize::from(run.await.unwrap().is_ok_and(|r| r.outcome == IngestOutcome::Applied));
        }
        assert_eq!(applied, 1);
        assert_eq!(world.dump("SELECT DISTINCT payer FROM booked_usage").await.len(), 1);
    }
}

#[tokio::test]
async fn two_workers_that_apply_one_version_book_it_once() {
    let world = IngestFixture::new().await;
    deliver_lines(&world.bucket(), V1, &some());
    let mut others = vec![];
    for _ in 0..4 {
        let mut context = world.context.clone();
        context.books = world.open_again().await;
        others.push(tokio::spawn(async move { job().run(&context, now()).await }));
    }
    let mut applied = 0;
    for other in others {
        match other.await.unwrap() {
            Ok(report) if report.outcome == IngestOutcome::Applied => applied += 1,
            Ok(report) => assert_eq!(report.outcome, IngestOutcome::Unchanged),
            Err(failure) => assert!(failure.is_retryable(), "{failure:?}"),
        }
    }
    assert_eq!(applied, 1);
    assert_eq!(world.ledger().await.len(), 4);
    world.sound().await;
}
