//! Where bills are read from: an S3 bucket or a local folder, behind the few calls that reading a
//! bill needs.

use std::fmt;
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use backon::{ExponentialBuilder, Retryable};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::Timestamp;

use crate::s3_error::{self, Cause};

/// Why something could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SourceError {
    #[error("{0} does not exist")]
    Missing(String),
    /// The object was replaced since it was looked up.
    #[error("{0} changed while it was read")]
    Changed(String),
    /// The configured bucket or folder does not exist.
    #[error("{0}: there is no such {1}; check the location in the configuration")]
    NoPlace(String, &'static str),
    /// The credentials lack a permission.
    #[error("{0}: access denied ({1}); check the credentials and their s3:ListBucket and s3:GetObject")]
    Denied(String, String),
    /// A file or folder that the user of this process may not read.
    #[error("{0} may not be read by the user of this process; check the permissions of file and folder")]
    Forbidden(String),
    #[error(
        "{0}: no AWS credentials ({1}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give this \
         machine a role"
    )]
    NoCredentials(String, String),
    /// The bucket's region, and the setting that names another one.
    #[error("{0} is in the region {1}: set {2} to it")]
    OtherRegion(String, String, String),
    /// No connection, or no answer in time: why, and what to check.
    #[error("{0}: {1}; check the network and {2}")]
    NoAnswer(String, String, String),
    /// The key cannot be that of a bill's file.
    #[error("`{0}` is no usable key: {1}")]
    Key(String, &'static str),
    /// An error of the network, the server or the disk.
    #[error("{0} cannot be read: {1}")]
    Unreachable(String, String),
}

impl SourceError {
    /// True when the same call may succeed later without anybody acting.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Missing(_) | Self::Changed(_) | Self::Unreachable(..) | Self::NoAnswer(..))
    }
}

/// An object, as it was when it was looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Key in the bucket, or path in the folder with `/`.
    pub key: String,
    pub size: u64,
    /// ETag; in a folder, size and modification time.
    pub etag: String,
    pub modified: Timestamp,
}

/// One level of a bucket or folder.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    pub objects: Vec<Object>,
    /// Prefixes below, each ending with `/`.
    pub folders: Vec<String>,
}

/// Where bills are read from.
pub trait Source: fmt::Debug + Send + Sync {
    /// Name of a key for people: `s3://bucket/key` or a path.
    fn name(&self, key: &str) -> String;

    /// The bucket of the keys; none for a folder, which may hold a copy of any bucket.
    fn bucket(&self) -> Option<&str>;

    /// Objects and folders directly below `prefix` (empty, or ending with `/`), all pages.
    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Listing, SourceError>>;

    /// Looks up size, ETag and time of one object.
    fn head<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Object, SourceError>>;

    /// Bytes of the object; [`SourceError::Changed`] when it was replaced since it was looked up.
    fn read<'a>(&'a self, object: &'a Object, range: Range<u64>) -> BoxFuture<'a, Result<Bytes, SourceError>>;

    fn fetched(&self) -> &Fetched;
}

/// Counts requests for data, and fetched bytes.
#[derive(Debug, Default)]
pub struct Fetched {
    requests: AtomicU64,
    bytes: AtomicU64,
}

impl Fetched {
    fn add(&self, bytes: &Bytes) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// Retries a source that answers badly three times within a few seconds, and says so once. After
/// that the job's own retry takes over. Without an answer the S3 client has tried three times.
async fn with_retry<T, F: Future<Output = Result<T, SourceError>>>(call: impl FnMut() -> F) -> Result<T, SourceError> {
    let pauses =
        ExponentialBuilder::default().with_min_delay(Duration::from_millis(200)).with_max_times(3).with_jitter();
    let mut said = false;
    call.retry(pauses)
        .when(|e| matches!(e, SourceError::Unreachable(..)))
        .notify(|error, _| {
            if !std::mem::replace(&mut said, true) {
                tracing::warn!(%error, "reading again: {error}");
            }
        })
        .await
}

/// A local folder with the layout of a bucket.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    fetched: Fetched,
}

impl Folder {
    /// Reads below `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), fetched: Fetched::default() }
    }

    fn path(&self, key: &str) -> Result<PathBuf, SourceError> {
        let bad = |why| Err(SourceError::Key(key.to_owned(), why));
        if key.starts_with('/') || key.contains('\\') || key.contains('\0') {
            return bad("it must be relative to the folder");
        }
        if key.split('/').any(|part| part == "..") {
            return bad("it leaves the folder");
        }
        Ok(self.root.join(key))
    }

    fn fault(&self, path: &Path, error: &std::io::Error) -> SourceError {
        let name = path.display().to_string();
        match error.kind() {
            std::io::ErrorKind::NotFound => SourceError::Missing(name),
            std::io::ErrorKind::PermissionDenied => SourceError::Forbidden(name),
            _ => SourceError::Unreachable(name, error.to_string()),
        }
    }

    fn look(&self, key: &str, path: &Path) -> Result<Object, SourceError> {
        let meta = fs::metadata(path).map_err(|e| self.fault(path, &e))?;
        if !meta.is_file() {
            return Err(SourceError::Missing(format!("{} (as a file)", path.display())));
        }
        let modified = meta.modified().map_err(|e| self.fault(path, &e))?;
        let modified = Timestamp::try_from(modified).unwrap_or(Timestamp::UNIX_EPOCH);
        let etag = format!("{}-{}", meta.len(), modified.as_nanosecond());
        Ok(Object { key: key.to_owned(), size: meta.len(), etag, modified })
    }
}

impl Source for Folder {
    fn name(&self, key: &str) -> String {
        self.root.join(key).display().to_string()
    }

    fn bucket(&self) -> Option<&str> {
        None
    }

    fn fetched(&self) -> &Fetched {
        &self.fetched
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Listing, SourceError>> {
        async move {
            let path = self.path(prefix)?;
            let mut listing = Listing::default();
            let entries = match fs::read_dir(&path) {
                Ok(entries) => entries,
                // a missing folder is an empty one, as in a bucket; only the root must exist
                Err(e) if e.kind() == std::io::ErrorKind::NotFound && !prefix.is_empty() => return Ok(listing),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                    return Err(SourceError::NoPlace(path.display().to_string(), "folder"));
                }
                Err(e) if e.kind() == std::io::ErrorKind::NotADirectory => {
                    return Err(SourceError::NoPlace(path.display().to_string(), "folder"));
                }
                Err(e) => return Err(self.fault(&path, &e)),
            };
            for entry in entries {
                let entry = entry.map_err(|e| self.fault(&path, &e))?;
                let key = format!("{prefix}{}", entry.file_name().to_string_lossy());
                if fs::metadata(entry.path()).is_ok_and(|m| m.is_dir()) {
                    listing.folders.push(format!("{key}/"));
                } else {
                    listing.objects.push(self.look(&key, &entry.path())?);
                }
            }
            listing.folders.sort();
            listing.objects.sort_by(|a, b| a.key.cmp(&b.key));
            Ok(listing)
        }
        .boxed()
    }

    fn head<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Object, SourceError>> {
        async move { self.look(key, &self.path(key)?) }.boxed()
    }

    fn read<'a>(&'a self, object: &'a Object, range: Range<u64>) -> BoxFuture<'a, Result<Bytes, SourceError>> {
        async move {
            let path = self.path(&object.key)?;
            let length = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX);
            let wanted = path.clone();
            let done = tokio::task::spawn_blocking(move || {
                let mut file = fs::File::open(&wanted)?;
                file.seek(SeekFrom::Start(range.start))?;
                let mut buffer = Vec::with_capacity(length);
                file.take(range.end - range.start).read_to_end(&mut buffer)?;
                Ok::<_, std::io::Error>(buffer)
            });
            let buffer = match done.await {
                Ok(read) => read.map_err(|e| self.fault(&path, &e))?,
                Err(e) => return Err(SourceError::Unreachable(path.display().to_string(), e.to_string())),
            };
            if buffer.len() != length || self.look(&object.key, &path)?.etag != object.etag {
                return Err(SourceError::Changed(path.display().to_string()));
            }
            let bytes = Bytes::from(buffer);
            self.fetched.add(&bytes);
            Ok(bytes)
        }
        .boxed()
    }
}

/// How a bucket is reached, for messages.
#[derive(Clone, Debug)]
pub struct Access {
    /// The server's address.
    pub address: String,
    /// The region for which requests are signed.
    pub region: String,
    /// The setting that names the address, and the one that names the region.
    pub address_setting: String,
    pub region_setting: String,
}

/// An S3 bucket.
pub struct Bucket {
    client: aws_sdk_s3::Client,
    bucket: String,
    access: Access,
    fetched: Fetched,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}", self.bucket)
    }
}

impl Bucket {
    pub fn new(client: aws_sdk_s3::Client, bucket: impl Into<String>, access: Access) -> Self {
        Self { client, bucket: bucket.into(), access, fetched: Fetched::default() }
    }

    fn fault<E>(&self, key: &str, error: &SdkError<E, HttpResponse>) -> SourceError
    where
        SdkError<E, HttpResponse>: ProvideErrorMetadata,
        E: std::error::Error + 'static,
    {
        let (name, bucket, access) = (self.name(key), format!("s3://{}", self.bucket), &self.access);
        match s3_error::cause(error, &access.region) {
            Cause::NoBucket => SourceError::NoPlace(bucket, "bucket"),
            Cause::NoObject => SourceError::Missing(name),
            Cause::Changed => SourceError::Changed(name),
            Cause::OtherRegion(region) => {
                let region = region.unwrap_or_else(|| format!("that is not {}", access.region));
                SourceError::OtherRegion(bucket, region, access.region_setting.clone())
            }
            Cause::NoCredentials(why) => SourceError::NoCredentials(name, why),
            Cause::Denied(why) => SourceError::Denied(name, why),
            Cause::NoAnswer(why) => {
                let why = format!("{} does not answer ({why})", access.address);
                SourceError::NoAnswer(name, why, access.address_setting.clone())
            }
            Cause::Broken(why) => SourceError::Unreachable(name, format!("{}: {why}", access.address)),
            Cause::Answered(why) => SourceError::Unreachable(name, format!("{} answered {why}", access.address)),
        }
    }
}

fn instant(time: Option<&aws_sdk_s3::primitives::DateTime>) -> Timestamp {
    time.and_then(|t| Timestamp::new(t.secs(), 0).ok()).unwrap_or(Timestamp::UNIX_EPOCH)
}

impl Source for Bucket {
    fn name(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.bucket)
    }

    fn bucket(&self) -> Option<&str> {
        Some(&self.bucket)
    }

    fn fetched(&self) -> &Fetched {
        &self.fetched
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Result<Listing, SourceError>> {
        async move {
            let mut listing = Listing::default();
            let mut next: Option<String> = None;
            loop {
                let page = with_retry(async || {
                    let call = self.client.list_objects_v2().bucket(&self.bucket).prefix(prefix).delimiter("/");
                    let call = call.set_continuation_token(next.clone());
                    call.send().await.map_err(|e| self.fault(prefix, &e))
                })
                .await?;
                for o in page.contents() {
                    listing.objects.push(Object {
                        key: o.key().unwrap_or_default().to_owned(),
                        size: u64::try_from(o.size().unwrap_or_default()).unwrap_or_default(),
                        etag: o.e_tag().unwrap_or_default().to_owned(),
                        modified: instant(o.last_modified()),
                    });
                }
                listing.folders.extend(page.common_prefixes().iter().filter_map(|p| p.prefix().map(str::to_owned)));
                next = page.next_continuation_token().map(str::to_owned);
                if next.is_none() {
                    return Ok(listing);
                }
            }
        }
        .boxed()
    }

    fn head<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Object, SourceError>> {
        async move {
            let head = with_retry(async || {
                self.client.head_object().bucket(&self.bucket).key(key).send().await.map_err(|e| self.fault(key, &e))
            })
            .await?;
            Ok(Object {
                key: key.to_owned(),
                size: u64::try_from(head.content_length().unwrap_or_default()).unwrap_or_default(),
                etag: head.e_tag().unwrap_or_default().to_owned(),
                modified: instant(head.last_modified()),
            })
        }
        .boxed()
    }

    fn read<'a>(&'a self, object: &'a Object, range: Range<u64>) -> BoxFuture<'a, Result<Bytes, SourceError>> {
        async move {
            if range.is_empty() {
                return Ok(Bytes::new());
            }
            let name = self.name(&object.key);
            let span = format!("bytes={}-{}", range.start, range.end - 1);
            let bytes = with_retry(async || {
                let call = self.client.get_object().bucket(&self.bucket).key(&object.key).if_match(&object.etag);
                let answer = call.range(&span).send().await.map_err(|e| self.fault(&object.key, &e))?;
                // the SDK retries a request, but not a body that breaks off
                let body = answer.body.collect().await;
                let bytes =
                    body.map_err(|e| SourceError::Unreachable(name.clone(), s3_error::innermost(&e)))?.into_bytes();
                if u64::try_from(bytes.len()).ok() != Some(range.end - range.start) {
                    return Err(SourceError::Unreachable(
                        name.clone(),
                        format!("{} bytes came for {span}", bytes.len()),
                    ));
                }
                Ok(bytes)
            })
            .await?;
            self.fetched.add(&bytes);
            Ok(bytes)
        }
        .boxed()
    }
}

/// Reads a whole object of at most `limit` bytes.
pub async fn read_small(source: &dyn Source, object: &Object, limit: u64) -> Result<Bytes, SourceError> {
    if object.size > limit {
        return Err(SourceError::Key(object.key.clone(), "it is far too large for a manifest"));
    }
    source.read(object, 0..object.size).await
}
