//! Where a price list comes from: AWS's server or another one, or a folder. What is read is
//! bounded in size and in time.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use books::store::remote::http::cause;
use reqwest::{Client, Url};

use super::offer::OfferList;
use crate::tls::client_config;

/// A longer list is refused. Amazon EC2's has gigabytes, those of Chime a few megabytes.
const LARGEST: u64 = 64 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Without a byte for so long, a response has failed.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(300);

/// Where the lists lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ListSource {
    /// A server that has the paths of AWS's.
    Server(Url),
    /// A folder with `CODE/current/index.json` or `CODE.json` for each offer.
    Folder(PathBuf),
}

impl ListSource {
    /// Reads an address or the path of a folder.
    ///
    /// # Errors
    /// What is wrong with an address.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if !text.contains("://") {
            return Ok(Self::Folder(text.into()));
        }
        let url = Url::parse(text).map_err(|why| format!("it is no address ({why})"))?;
        let is_plain = url.username().is_empty() && url.password().is_none();
        let is_base = url.query().is_none() && url.fragment().is_none();
        match url.scheme() {
            "http" | "https" if is_plain && is_base => Ok(Self::Server(url)),
            "http" | "https" => Err("an address has no user, no password, no `?` and no `#`".to_owned()),
            other => Err(format!("`{other}://` is neither http:// nor https://; name a folder by its path")),
        }
    }

    /// Reads the list of an offer, whole.
    ///
    /// # Errors
    /// When it cannot be had, is too large, or is not what it should be; the file or the address
    /// is named.
    pub(crate) async fn read(&self, code: &str) -> anyhow::Result<OfferList> {
        let (name, json) = match self {
            Self::Server(base) => {
                let base = base.as_str().trim_end_matches('/');
                let url = Url::parse(&format!("{base}/offers/v1.0/aws/{code}/current/index.json"))?;
                (url.to_string(), fetch(url).await?)
            }
            Self::Folder(folder) => {
                let file = file_of(folder, code)?;
                (file.display().to_string(), read_file(&file)?)
            }
        };
        OfferList::parse(code, &json).map_err(|why| anyhow!("{name}: {why}"))
    }
}

fn too_large(name: &str, size: u64) -> anyhow::Error {
    anyhow!("{name}: it has {size} bytes or more, and a list of at most {LARGEST} is read")
}

fn file_of(folder: &Path, code: &str) -> anyhow::Result<PathBuf> {
    let files = [folder.join(code).join("current").join("index.json"), folder.join(format!("{code}.json"))];
    let [first, second] = &files;
    match files.iter().find(|file| file.is_file()) {
        Some(file) => Ok(file.clone()),
        None if !folder.is_dir() => bail!("{}: there is no such folder", folder.display()),
        None => bail!("there is no file {} and none {}", first.display(), second.display()),
    }
}

fn read_file(file: &Path) -> anyhow::Result<Vec<u8>> {
    let fault = || format!("{} cannot be read", file.display());
    let mut json = vec![];
    std::fs::File::open(file).with_context(fault)?.take(LARGEST + 1).read_to_end(&mut json).with_context(fault)?;
    match u64::try_from(json.len()) {
        Ok(size) if size <= LARGEST => Ok(json),
        _ => Err(too_large(&file.display().to_string(), LARGEST + 1)),
    }
}

async fn fetch(url: Url) -> anyhow::Result<Vec<u8>> {
    let client = Client::builder()
        .tls_backend_preconfigured(client_config()?)
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        .timeout(REQUEST_TIMEOUT)
        .user_agent(concat!("meter/", env!("CARGO_PKG_VERSION")))
        .build()?;
    let failed = |error: reqwest::Error| match (error.is_connect(), error.is_timeout()) {
        (true, _) => anyhow!("{url}: no connection ({})", cause(&error)),
        (false, true) => anyhow!("{url}: no answer in time"),
        (false, false) => anyhow!("{url}: the response cannot be read whole ({})", cause(&error)),
    };
    let mut response = client.get(url.clone()).send().await.map_err(failed)?;
    if !response.status().is_success() {
        bail!("{url}: the server answers {}", response.status());
    }
    let mut size = response.content_length().unwrap_or(0);
    let mut json = vec![];
    while size <= LARGEST {
        let Some(part) = response.chunk().await.map_err(failed)? else { return Ok(json) };
        json.extend_from_slice(&part);
        size = size.max(u64::try_from(json.len()).unwrap_or(u64::MAX));
    }
    Err(too_large(url.as_str(), size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_an_address_or_a_folder() {
        let server = |text: &str| ListSource::Server(Url::parse(text).unwrap());
        for text in [super::super::AWS_ADDRESS, "http://127.0.0.1:8000/mirror/"] {
            assert_eq!(ListSource::parse(text), Ok(server(text)));
        }
        assert_eq!(ListSource::parse("lists/aws"), Ok(ListSource::Folder("lists/aws".into())));
        for (text, why) in [
            ("https://ann:secret@host", "no user, no password"),
            ("https://host/?token=x", "no user, no password"),
            ("s3://bucket", "`s3://` is neither http:// nor https://"),
            ("https://", "it is no address"),
        ] {
            let found = ListSource::parse(text).unwrap_err();
            assert!(found.contains(why), "{text}: {found}");
        }
    }
}
