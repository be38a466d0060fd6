//! The server access logs of the bucket, line by line as S3 writes them
//! (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/LogFormat.html>).
//!
//! A key is encoded twice in a log, and once in the lines of the lifecycle.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use jiff::Timestamp;

use super::requests::{BucketRequest, LineFate, Operation, Requester};
use super::{BucketWorld, timestamp};
use crate::random::hash;

/// Hours of the requests in a file, by event time.
const FILE_HOURS: i64 = 8;
/// After the day's end, S3 delivers what is twice so late, and the second delivery.
const TWICE_AFTER: i64 = 3 * 3600;
const LATE_AFTER: i64 = 30 * 3600;

/// How log files are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogForm {
    /// In folders of account, region, bucket and the day of the requests.
    ByEventTime,
    /// Without folders, by the time of the delivery.
    Simple,
}

/// When a log file comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogDelivery {
    /// Within hours.
    First,
    /// More than a day later.
    Late,
}

/// A file of the access logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFile {
    /// Its key, behind the prefix of the logs.
    pub key: String,
    pub delivery: LogDelivery,
    /// When S3 delivered it.
    pub delivered: Timestamp,
    pub text: String,
}

impl LogFile {
    /// Writes it below the folder of the logs, with the time of its delivery.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, folder: &Path) -> Result<PathBuf> {
        let path = folder.join(&self.key);
        let cannot = || format!("cannot write {}", path.display());
        fs::create_dir_all(path.parent().unwrap_or(folder)).with_context(cannot)?;
        fs::write(&path, &self.text).with_context(cannot)?;
        let file = fs::File::options().write(true).open(&path).with_context(cannot)?;
        file.set_modified(self.delivered.into()).with_context(cannot)?;
        Ok(path)
    }
}

/// Which copy of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Copy {
    Only,
    Second,
    Late,
}

impl BucketWorld {
    /// All log files, in order of their delivery. A line that is there twice is in two of them.
    pub fn logs(&self, form: LogForm) -> Vec<LogFile> {
        let mut files: BTreeMap<(i64, String, LogDelivery), String> = BTreeMap::new();
        for request in &self.requests {
            let copies: &[Copy] = match request.fate {
                LineFate::Lost => &[],
                LineFate::Once => &[Copy::Only],
                LineFate::Twice => &[Copy::Only, Copy::Second],
                LineFate::Late => &[Copy::Late],
            };
            for copy in copies {
                let delivery = if *copy == Copy::Late { LogDelivery::Late } else { LogDelivery::First };
                let (delivered, key) = self.place(request, *copy, form);
                let text = files.entry((delivered, key, delivery)).or_default();
                text.push_str(&self.line(request));
                text.push('\n');
            }
        }
        let file =
            |((delivered, key, delivery), text)| LogFile { key, delivery, delivered: timestamp(delivered), text };
        files.into_iter().map(file).collect()
    }

    /// When a line is delivered, and in which file.
    fn place(&self, request: &BucketRequest, copy: Copy, form: LogForm) -> (i64, String) {
        let day = self.calendar.day_of(request.time);
        let (start, end) = (self.calendar.second(day), self.calendar.second(day + 1));
        let delivered = match (copy, form) {
            (Copy::Only, LogForm::ByEventTime) => {
                let part = 1 + (request.time - start) / 3600 / FILE_HOURS;
                start + part * FILE_HOURS * 3600 + 5400
            }
            (Copy::Only, LogForm::Simple) => (request.time / 3600 + 2) * 3600 + 300,
            (Copy::Second, _) => end + TWICE_AFTER,
            (Copy::Late, _) => end + LATE_AFTER,
        };
        let unique = hash(&format!("log {} {day} {delivered} {copy:?}", self.spec.seed));
        let key = match form {
            LogForm::Simple => format!("{}-{unique:016X}", timestamp(delivered).strftime("%Y-%m-%d-%H-%M-%S")),
            LogForm::ByEventTime => {
                let (spec, date) = (&self.spec, self.calendar.date(day));
                let folder = format!("{}/{}/{}/{}", spec.account, spec.region, spec.bucket, date.strftime("%Y/%m/%d"));
                format!("{folder}/{date}-00-00-00-{unique:016X}")
            }
        };
        (delivered, key)
    }

    fn line(&self, request: &BucketRequest) -> String {
        let spec = &self.spec;
        let (bucket, account, region) = (&spec.bucket, &spec.account, &spec.region);
        let time = timestamp(request.time).strftime("%d/%b/%Y:%H:%M:%S +0000");
        let (operation, method) = request.operation.names();
        let once = url_encoded(&request.key);
        let key = match request.operation {
            Operation::List => "-".to_owned(),
            operation if operation.is_of_lifecycle() => once.clone(),
            _ => url_encoded(&once),
        };
        let number = |number: Option<u64>| number.map_or("-".to_owned(), |number| number.to_string());
        let status = if request.status == 0 { "-".to_owned() } else { request.status.to_string() };
        let error = match request.status {
            403 => "AccessDenied",
            404 => "NoSuchKey",
            503 => "SlowDown",
            _ => "-",
        };
        let (ip, requester, auth) = match request.requester {
            Requester::Signed => ("192.0.2.3", format!("arn:aws:iam::{account}:user/web"), "QueryString"),
            Requester::Anonymous => ("198.51.100.7", "-".to_owned(), "-"),
            Requester::Lifecycle => ("-", "AmazonS3".to_owned(), "-"),
        };
        let uri = match request.requester {
            Requester::Lifecycle => "-".to_owned(),
            _ => format!("{method} /{once}{} HTTP/1.1", self.query(request)),
        };
        let size = if request.object_bytes == 0 { "-".to_owned() } else { request.object_bytes.to_string() };
        let owner = format!("{:016x}", hash(account)).repeat(4);
        let (id, sent) = (&request.id, number(request.sent));
        format!(
            "{owner} {bucket} [{time}] {ip} {requester} {id} {operation} {key} \"{uri}\" {status} {error} {sent} {size} \
             42 17 \"-\" \"Mozilla/5.0 (X11)\" - host{id}= SigV4 ECDHE-RSA-AES128-GCM-SHA256 {auth} \
             {bucket}.s3.{region}.amazonaws.com TLSv1.3 - - {region}"
        )
    }

    /// The query of a signed address.
    fn query(&self, request: &BucketRequest) -> String {
        let parameter = match request.parameter {
            Some(_) => format!("&x-cc={}", url_encoded(self.customer(request.parameter))),
            None => String::new(),
        };
        match request.requester {
            Requester::Signed => format!("?X-Amz-Algorithm=AWS4-HMAC-SHA256{parameter}&X-Amz-Expires=900"),
            Requester::Anonymous | Requester::Lifecycle => String::new(),
        }
    }
}

/// A text as S3 writes it into logs.
fn url_encoded(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte);
    let byte = |byte: u8| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(byte).collect()
}
