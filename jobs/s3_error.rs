//! What an error of the S3 client means, in the words of its innermost cause. The client's own text
//! repeats each layer, and ends with Debug text.

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use books::store::remote::http;

/// The header that names the region in which a bucket is.
const REGION: &str = "x-amz-bucket-region";
/// Characters of another's message that are shown.
const SHOWN: usize = 100;

/// Why a request failed. The texts name no place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    NoBucket,
    NoObject,
    /// The object is not the one that was looked up.
    Changed,
    /// The bucket is in another region, if the answer says which.
    OtherRegion(Option<String>),
    NoCredentials(String),
    Denied(String),
    /// Nothing was sent, or nothing came: there is no connection, or no answer in time.
    NoAnswer(String),
    /// Another answer of the server.
    Answered(String),
    /// A request that could not be made, or an answer that could not be read.
    Broken(String),
}

/// Why a request failed that was signed for `region`.
pub(crate) fn cause<E>(error: &SdkError<E, HttpResponse>, region: &str) -> Cause
where
    SdkError<E, HttpResponse>: ProvideErrorMetadata,
    E: std::error::Error + 'static,
{
    let response = match (error, error.raw_response()) {
        (SdkError::ResponseError(_), _) => return Cause::Broken(innermost(error)),
        (_, Some(response)) => response,
        (_, None) => return without_answer(error),
    };
    let (status, code) = (response.status().as_u16(), error.code().unwrap_or_default());
    let named = response.headers().get(REGION).map(str::to_owned);
    let text = match (code, error.message()) {
        ("", _) => format!("status {status}"),
        (code, Some(message)) => format!("{code}: {}", shown(message)),
        (code, None) => code.to_owned(),
    };
    let elsewhere = named.as_ref().is_some_and(|named| named != region);
    match code {
        "NoSuchBucket" => Cause::NoBucket,
        "NoSuchKey" | "NotFound" => Cause::NoObject,
        "PreconditionFailed" => Cause::Changed,
        "PermanentRedirect" | "TemporaryRedirect" | "AuthorizationHeaderMalformed" => {
            Cause::OtherRegion(named.or_else(|| expected(error.message()?)))
        }
        "AccessDenied"
        | "Forbidden"
        | "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "ExpiredToken"
        | "InvalidToken" => Cause::Denied(text),
        // an answer without a body, as to HEAD
        _ if matches!(status, 301 | 307 | 400) && elsewhere => Cause::OtherRegion(named),
        "" if status == 403 => Cause::Denied(text),
        "" if status == 404 => Cause::NoObject,
        "" if status == 412 => Cause::Changed,
        _ => Cause::Answered(text),
    }
}

/// The region of `the region 'us-east-1' is wrong; expecting 'eu-central-1'`.
fn expected(message: &str) -> Option<String> {
    let (_, rest) = message.split_once("expecting '")?;
    rest.split('\'').next().map(str::to_owned)
}

fn without_answer<E: std::error::Error + 'static>(error: &SdkError<E, HttpResponse>) -> Cause {
    let mut causes = std::iter::successors(std::error::Error::source(error), |e| e.source());
    match error {
        _ if causes.any(|e| e.to_string().contains("credential")) => Cause::NoCredentials(innermost(error)),
        SdkError::DispatchFailure(_) | SdkError::TimeoutError(_) => Cause::NoAnswer(innermost(error)),
        _ => Cause::Broken(innermost(error)),
    }
}

/// What an error says in its innermost cause, which the others only introduce.
pub(crate) fn innermost(error: &dyn std::error::Error) -> String {
    let text = http::cause(error).replace("failed to lookup address information", "no such host");
    let first = text.lines().next().unwrap_or_default();
    // a list of all that was tried follows
    shown(first.split(". Attempted").next().unwrap_or_default())
}

/// As much of a text as fits into a line with others.
fn shown(text: &str) -> String {
    let text = text.trim_end_matches('.');
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_cause_is_said_in_a_few_words() {
        let of = |text: &str| {
            let io = std::io::Error::other(text.to_owned());
            innermost(&std::io::Error::other(std::io::Error::other(io)))
        };
        for (text, said) in [
            ("Connection refused (os error 111)", "Connection refused"),
            (
                "failed to lookup address information: Name or service not known",
                "no such host: Name or service not known",
            ),
            ("no provider. Attempted to load: env, profile (os error 2)", "no provider"),
            ("denied.\nCaused by: another (os error 13)", "denied"),
        ] {
            assert_eq!(of(text), said);
        }
        assert_eq!(of(&"é".repeat(101)), format!("{}…", "é".repeat(100)));
    }
}
