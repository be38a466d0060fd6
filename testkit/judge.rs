//! An independent check of every request that tests send to the fake, strictly against Stripe's
//! own description of its API.

use std::io::Write;
use std::process::Command;

use fake_stripe::Recorded;

use crate::needs;

/// Checks the recorded requests: Stripe's description must contain each request with all its
/// fields and parameters.
#[track_caller]
pub fn judge(requests: &[Recorded]) {
    let python = needs::named("METER_TEST_PYTHON", "Python that judges requests to Stripe");
    let Some(python) = python else { return };
    let Some(checker) = needs::shared("tools/check_stripe_requests.py") else { return };
    let mut file = tempfile::NamedTempFile::new().unwrap();
    for request in requests {
        writeln!(file, "{}", request.to_json()).unwrap();
    }
    let judged = Command::new(python).arg(checker).arg(file.path()).output().unwrap();
    let said = String::from_utf8_lossy(&judged.stdout);
    assert!(judged.status.success(), "{said}{}", String::from_utf8_lossy(&judged.stderr));
    assert!(said.contains(&format!("{} requests, 0 bad", requests.len())), "{said}");
}

/// A request without its numbers and names. Requests that are equal without these get the same
/// result.
pub fn shape(request: &Recorded) -> String {
    let plain = |text: &str| {
        let mut plain: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        while plain.contains("00") {
            plain = plain.replace("00", "0");
        }
        plain
    };
    let mut body: Vec<String> = request.body.split('&').map(|field| plain(&field.replace("=-", "="))).collect();
    body.sort();
    let sign = request.body.contains("=-");
    let headers: Vec<&String> = request.headers.keys().collect();
    // the prefix of the books has random letters
    let body: Vec<String> =
        body.into_iter().map(|f| if f.starts_with("identifier=") { "identifier".into() } else { f }).collect();
    format!("{} {} {headers:?} {} {sign}", request.method, plain(&request.target), body.join("&"))
}
