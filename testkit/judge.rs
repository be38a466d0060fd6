//! The independent judge: every request that tests send to the fake, against Stripe's own
//! description of its API, strictly.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use fake_stripe::Recorded;

/// Files beside the checkout; a test that needs them fails in CI without them and says that it is
/// skipped elsewhere.
pub fn shared(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared").join(name);
    if path.exists() {
        return Some(path);
    }
    assert!(std::env::var_os("CI").is_none(), "CI needs {}", path.display());
    eprintln!("SKIPPED: {} is not there", path.display());
    None
}

/// Judges what was recorded; each request must be one that Stripe describes, with no field or
/// parameter that it does not know.
pub fn judge(requests: &[Recorded]) {
    let python = std::env::var_os("METER_TEST_PYTHON").map(PathBuf::from).filter(|p| p.exists());
    let Some(python) = python else {
        assert!(std::env::var_os("CI").is_none(), "CI must set METER_TEST_PYTHON");
        return eprintln!("SKIPPED: METER_TEST_PYTHON names no Python with the packages of .ci/requirements.txt");
    };
    let Some(checker) = shared("tools/check_stripe_requests.py") else { return };
    let mut file = tempfile::NamedTempFile::new().unwrap();
    for request in requests {
        writeln!(file, "{}", request.to_json()).unwrap();
    }
    let judged = Command::new(python).arg(checker).arg(file.path()).output().unwrap();
    let said = String::from_utf8_lossy(&judged.stdout);
    assert!(judged.status.success(), "{said}{}", String::from_utf8_lossy(&judged.stderr));
    assert!(said.contains(&format!("{} requests, 0 bad", requests.len())), "{said}");
}

/// What a request looks like when its numbers and names are left out: the judge would say the same
/// of two that look alike.
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
    // the books' own prefix is of random letters
    let body: Vec<String> =
        body.into_iter().map(|f| if f.starts_with("identifier=") { "identifier".into() } else { f }).collect();
    format!("{} {} {headers:?} {} {sign}", request.method, plain(&request.target), body.join("&"))
}
