//! The wire: the binary against a real S3 protocol server (moto), which checks signatures, and
//! through a proxy that breaks things.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::{LEDGER, Ran, Workspace};
use testkit::needs::python;

const INGEST: &str = "ingest --month 2026-10";

/// Makes a user with all rights and puts a folder into the bucket `billing`; prints the user's
/// keys.
const PREPARE: &str = "
import boto3, os, sys
url, folder = sys.argv[1:]
aws = dict(endpoint_url=url, region_name='us-east-1', aws_access_key_id='x', aws_secret_access_key='x')
iam = boto3.client('iam', **aws)
iam.create_user(UserName='meter')
allow = '{\"Version\":\"2012-10-17\",\"Statement\":[{\"Effect\":\"Allow\",\"Action\":\"*\",\"Resource\":\"*\"}]}'
iam.put_user_policy(UserName='meter', PolicyName='all', PolicyDocument=allow)
key = iam.create_access_key(UserName='meter')['AccessKey']
s3 = boto3.client('s3', **{**aws, 'aws_access_key_id': key['AccessKeyId'], 'aws_secret_access_key': key['SecretAccessKey']})
s3.create_bucket(Bucket='billing')
for root, _, files in os.walk(folder):
    for name in files:
        path = os.path.join(root, name)
        s3.upload_file(path, 'billing', os.path.relpath(path, folder))
# more keys than one page of a listing holds, beside the manifest and before it
for i in range(1100):
    s3.put_object(Bucket='billing', Key=f'cur/bill/metadata/BILLING_PERIOD=2026-10/aa-{i:05}.txt', Body=b'')
    if i < 1010:
        s3.put_object(Bucket='billing', Key=f'cur/bill/metadata/AA={i:05}/x', Body=b'')
print(key['AccessKeyId'], key['SecretAccessKey'])
";

const UPLOAD: &str = "
import boto3, os, sys
url, key, secret, bucket, folder = sys.argv[1:]
s3 = boto3.client('s3', endpoint_url=url, region_name='us-east-1', aws_access_key_id=key, aws_secret_access_key=secret)
s3.create_bucket(Bucket=bucket)
names = [os.path.relpath(os.path.join(root, name), folder) for root, _, files in os.walk(folder) for name in files]
for name in sorted(names, key=lambda n: n.endswith('.json')):
    # manifests name their bucket
    body = open(os.path.join(folder, name), 'rb').read()
    body = body.replace(b's3://billing/', f's3://{bucket}/'.encode()) if name.endswith('.json') else body
    s3.put_object(Bucket=bucket, Key=name, Body=body)
";

/// moto on a free port, ended with the test. After three calls without credentials it demands valid
/// signatures.
pub(crate) struct Server {
    process: Child,
    port: u16,
    pub(crate) key: String,
    pub(crate) secret: String,
}

impl Server {
    pub(crate) fn start(python: &Path, folder: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new(python);
        command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()]);
        command.env("INITIAL_NO_AUTH_ACTION_COUNT", "3").stdout(Stdio::null()).stderr(Stdio::null());
        let mut server = Self { process: command.spawn().unwrap(), port, key: String::new(), secret: String::new() };
        let deadline = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "moto does not start");
            std::thread::sleep(Duration::from_millis(100));
        }
        let prepared = crate::support::output(Command::new(python).args(["-c", PREPARE, &server.url()]).arg(folder));
        assert!(prepared.status.success(), "{}", String::from_utf8_lossy(&prepared.stderr));
        let keys = String::from_utf8(prepared.stdout).unwrap();
        let (key, secret) = keys.trim().split_once(' ').unwrap();
        (server.key, server.secret) = (key.into(), secret.into());
        server
    }

    /// Puts a folder into a bucket, made if need be.
    fn upload(&self, python: &Path, folder: &Path, bucket: &str) {
        let mut command = Command::new(python);
        command.args(["-c", UPLOAD, &self.url(), &self.key, &self.secret, bucket]).arg(folder);
        let done = crate::support::output(&mut command);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// Passes connections on to `to`; breaks off every answer with a large body half-way, as long as
/// `cuts` are left.
fn proxy(to: u16, cuts: usize) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let left = Arc::new(AtomicUsize::new(cuts));
    let counter = Arc::clone(&left);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let (server, left) = (TcpStream::connect(("127.0.0.1", to)).unwrap(), Arc::clone(&counter));
            let (mut up, mut down) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            let (mut client, mut server) = (client, server);
            std::thread::spawn(move || std::io::copy(&mut up, &mut down));
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                let mut passed = 0;
                while let Ok(n @ 1..) = server.read(&mut buffer) {
                    passed += n;
                    let cut = passed > 6000
                        && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
                    if cut || client.write_all(&buffer[..n]).is_err() {
                        break;
                    }
                }
                drop(client.shutdown(std::net::Shutdown::Both));
                drop(server.shutdown(std::net::Shutdown::Both));
            });
        }
    });
    (port, left)
}

fn place(bucket: &str, endpoint: &str) -> Workspace {
    Workspace::with(&format!(
        "[[exports]]\nname = \"main\"\nlocation = \"s3://{bucket}\"\nendpoint = \"{endpoint}\"\nregion = \"us-east-1\"\n"
    ))
}

fn run(place: &Workspace, line: &str, key: &str, secret: &str) -> Ran {
    place.run_with(line, &[("AWS_ACCESS_KEY_ID", key), ("AWS_SECRET_ACCESS_KEY", secret)])
}

#[test]
fn a_bucket_is_read_as_a_folder_is() {
    let Some(python) = python() else { return };
    let local = Workspace::new();
    local.run("demo generate bucket --month 2026-10 --rows 3000").ends(0);
    local.run(INGEST).ends(0);
    let ledger = local.query(LEDGER);
    let server = Server::start(&python, &local.path("bucket"));
    let (key, secret) = (server.key.as_str(), server.secret.as_str());

    for location in ["billing", "billing/cur/bill"] {
        let remote = place(location, &server.url());
        run(&remote, INGEST, key, secret).ends(0).says(&["booked"]);
        assert_eq!(remote.query(LEDGER), ledger);
        run(&remote, INGEST, key, secret).ends(0).says(&["booked already"]);
        run(&remote, "discover --month 2026-10", key, secret).ends(0).says(&["USE1-Meetings-AttendeeMinutes"]);
        run(&remote, "ingest --month 2026-07", key, secret).ends(0).says(&["no bill yet"]);
    }

    let remote = place("billing", &server.url());
    run(&remote, INGEST, key, "wrong-secret").ends(1).says(&[
        "access denied",
        "SignatureDoesNotMatch",
        "nothing was booked",
    ]);
    run(&remote, INGEST, "AKIAWRONG", secret).ends(1).says(&["access denied"]);
    let none = remote.run(INGEST).ends(1);
    assert!(none.err.contains("no AWS credentials ("), "{}", none.err);
    run(&place("no-such-bucket", &server.url()), INGEST, key, secret)
        .ends(1)
        .says(&["s3://no-such-bucket", "no such bucket"]);
    run(&place("billing/nowhere", &server.url()), INGEST, key, secret).ends(1).says(&["no legacy or CUR 2.0 export"]);
    let gone = run(&place("billing", "http://127.0.0.1:9"), INGEST, key, secret).ends(1);
    assert!(gone.err.contains("the next run may succeed"), "{}", gone.err);
    assert!(remote.query(LEDGER).is_empty());

    // written over while it lies there: the manifest is older than one of its files, so a delivery
    // is under way
    let local = Workspace::new();
    local.run("demo generate bucket --month 2026-10 --rows 1000 --overwrite").ends(0);
    server.upload(&python, &local.path("bucket"), "overwritten");
    let remote = place("overwritten", &server.url());
    run(&remote, INGEST, key, secret).ends(0).says(&["booked"]);
    local.run("demo generate bucket --month 2026-10 --rows 1000 --overwrite --restated 1").ends(0);
    std::fs::remove_dir_all(local.path("bucket/cur/bill/metadata")).unwrap();
    let ledger_then = remote.query(LEDGER);
    std::thread::sleep(Duration::from_millis(1100));
    server.upload(&python, &local.path("bucket"), "overwritten");
    // other rules, so that the version is read anew
    let variables = [("METER_TAG_KEY", "other"), ("AWS_ACCESS_KEY_ID", key), ("AWS_SECRET_ACCESS_KEY", secret)];
    let ran =
        remote.run_with(INGEST, &variables).ends(1).says(&["is newer than its manifest", "the next run may succeed"]);
    assert!(ran.err.contains("s3://overwritten/"), "{}", ran.err);
    assert_eq!(remote.query(LEDGER), ledger_then);

    // a copy in another bucket than its manifest names
    let copied = Workspace::new();
    let month = jiff::Timestamp::now().strftime("%Y-%m").to_string();
    copied.run(&format!("demo generate bucket --month {month} --rows 100")).ends(0);
    let folder = copied.path(&format!("bucket/cur/bill/metadata/BILLING_PERIOD={month}"));
    let manifest = std::fs::read_dir(folder).unwrap().flatten().find(|entry| entry.path().is_file()).unwrap().path();
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, text.replace("s3://billing/", "s3://original/")).unwrap();
    server.upload(&python, &copied.path("bucket"), "copied");
    let said = "it lists files of another bucket, s3://original: the export was copied here, or its location is wrong";
    let ingest = format!("ingest --month {month}");
    run(&place("copied", &server.url()), &ingest, key, secret).ends(1).says(&[said]);
    let doctor = run(&place("copied", &server.url()), "doctor", key, secret);
    let advice = doctor.out.lines().skip_while(|line| !line.contains(said)).nth(1).unwrap_or_default();
    assert!(advice.contains("the folder that AWS writes to, and not a copy"), "{}", doctor.out);

    // three answers break off in the middle of their body: read again, and the books are whole
    let (port, left) = proxy(server.port, 3);
    let shaky = place("billing", &format!("http://127.0.0.1:{port}"));
    run(&shaky, INGEST, key, secret).ends(0).says(&["booked"]);
    assert_eq!(left.load(Ordering::SeqCst), 0, "nothing was cut");
    assert_eq!(shaky.query(LEDGER), ledger);
    // all answers break off: a failure that says so, and nothing booked
    let (port, _) = proxy(server.port, usize::MAX);
    let broken = place("billing", &format!("http://127.0.0.1:{port}"));
    let ran = run(&broken, INGEST, key, secret).ends(1);
    assert!(ran.err.contains("s3://billing/") && ran.err.contains("the next run may succeed"), "{}", ran.err);
    assert!(broken.query(LEDGER).is_empty());
}
