//! The places that jobs read from: exports of bills, and reports about shared buckets.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use books::shared_bucket::ReportSource;
use books::store::remote::http;
use jobs::context::{Export, ReportPlace, SharedBucket};
use jobs::source::{Access, Bucket, Folder, Source};

use crate::config::{Config, Location, ReportConfig};

/// A request to S3 without progress for this time is retried.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A configured place.
struct Place<'a> {
    location: &'a str,
    region: Option<&'a str>,
    endpoint: Option<&'a str>,
    /// What it is the place of, for messages.
    of: String,
}

impl Place<'_> {
    /// The source, and the prefix below which everything lies: empty, or ending with `/`.
    async fn open(&self) -> anyhow::Result<(Arc<dyn Source>, String)> {
        Ok(match Location::parse(self.location).map_err(anyhow::Error::msg)? {
            Location::Folder(path) => (Arc::new(Folder::new(path)), String::new()),
            Location::Bucket(bucket, prefix) => (Arc::new(self.bucket(bucket).await), prefix),
        })
    }

    async fn bucket(&self, bucket: String) -> Bucket {
        let http = Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
        let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).read_timeout(READ_TIMEOUT).build();
        let mut loader = aws_config::defaults(BehaviorVersion::latest()).http_client(http).timeout_config(timeouts);
        if let Some(region) = self.region {
            loader = loader.region(Region::new(region.to_owned()));
        }
        let shared = loader.load().await;
        let region = shared.region().cloned().unwrap_or(Region::from_static("us-east-1"));
        let mut s3 = aws_sdk_s3::config::Builder::from(&shared).region(region.clone());
        if let Some(endpoint) = self.endpoint {
            // other servers than AWS rarely support bucket names as host names
            s3 = s3.endpoint_url(endpoint).force_path_style(true);
        }
        let client = aws_sdk_s3::Client::from_conf(s3.build());
        Bucket::new(client, bucket, self.access(shared.endpoint_url(), region.as_ref()))
    }

    /// What messages say about the way to a bucket; `elsewhere` is an endpoint of AWS's own
    /// settings.
    fn access(&self, elsewhere: Option<&str>, region: &str) -> Access {
        let setting = |key: &str| format!("`{key}` of {}", self.of);
        let origin = |url: &str| reqwest::Url::parse(url).map_or("its address".to_owned(), |url| http::origin(&url));
        let (address, address_setting) = match (self.endpoint, elsewhere) {
            (Some(endpoint), _) => (origin(endpoint), setting("endpoint")),
            (None, Some(endpoint)) => (origin(endpoint), "AWS_ENDPOINT_URL".to_owned()),
            (None, None) => (format!("https://s3.{region}.amazonaws.com"), setting("region")),
        };
        Access { address, region: region.to_owned(), address_setting, region_setting: setting("region") }
    }
}

/// The configured exports. Only the credential chain uses the network here.
pub async fn exports(config: &Config) -> anyhow::Result<BTreeMap<String, Export>> {
    let mut found = BTreeMap::new();
    for export in &config.exports {
        let place = Place {
            location: &export.location,
            region: export.region.as_deref(),
            endpoint: export.endpoint.as_deref(),
            of: format!("the export `{}`", export.name),
        };
        let (source, prefix) = place.open().await?;
        let format = export.format.format();
        found.insert(export.name.clone(), Export { payer: export.payer.clone(), source, prefix, format });
    }
    Ok(found)
}

async fn report_place(report: &ReportConfig, of: String) -> anyhow::Result<ReportPlace> {
    let ReportConfig { location, region, endpoint } = report;
    let place = Place { location, region: region.as_deref(), endpoint: endpoint.as_deref(), of };
    let (source, prefix) = place.open().await?;
    Ok(ReportPlace { source, prefix })
}

/// The configured shared buckets. Only the credential chain uses the network here.
pub async fn shared_buckets(config: &Config) -> anyhow::Result<BTreeMap<String, SharedBucket>> {
    let mut found = BTreeMap::new();
    for bucket in &config.shared_buckets {
        let customers = bucket.customers().map_err(|(key, why)| anyhow::anyhow!("{key}: {why}"))?;
        let (mut inventory, mut access_logs) = (None, None);
        for (source, report) in bucket.reports() {
            let of = format!("`{}` of the shared bucket `{}`", source.name(), bucket.name);
            let place = Some(report_place(report, of).await?);
            match source {
                ReportSource::Inventory => inventory = place,
                ReportSource::AccessLogs => access_logs = place,
            }
        }
        let name = bucket.name.clone();
        let bucket = SharedBucket {
            name: name.clone(),
            customers,
            uses_uploads: bucket.customer_uploads,
            expire_days: bucket.expire_days,
            inventory,
            access_logs,
            quiet_hours: bucket.quiet_hours,
        };
        found.insert(name, bucket);
    }
    Ok(found)
}
