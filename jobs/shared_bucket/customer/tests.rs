//! Tables of keys and requests, and of patterns that are refused.

use super::*;
use proptest::prelude::*;

fn rule(beginning: &str) -> CustomerRule {
    CustomerRule::new(Some(key_beginning(beginning).unwrap()), Some("x-cc".into()))
}

fn customer(id: &str) -> Owner<'_> {
    Owner::Customer(id.into())
}

/// The customer that a key names; none also when what it names is no id.
fn of_key<'a>(rule: &'a CustomerRule, key: &'a str) -> Option<&'a str> {
    match rule.of_key(key) {
        Owner::Customer(Cow::Borrowed(customer)) => Some(customer),
        _ => None,
    }
}

#[test]
fn a_key_names_the_customer_at_the_place_of_its_beginning() {
    let long = format!("c/acme/{}", "ä".repeat(508));
    let (most, more) = (format!("c/{}/f", "é".repeat(256)), format!("c/{}/f", "é".repeat(257)));
    let table: &[(&str, &str, Option<&str>)] = &[
        ("c/{customer}/", "c/acme/2026/a.png", Some("acme")),
        ("c/{customer}/", "c/acme/", Some("acme")),
        ("c/{customer}/", "c/acme", None),
        ("c/{customer}/", "c//x", None),
        ("c/{customer}/", "", None),
        ("c/{customer}/", "/c/acme/x", None),
        ("c/{customer}/", "x/c/acme/y", None),
        ("c/{customer}/", "C/acme/y", None),
        // a key is no path: nothing is resolved
        ("c/{customer}/", "c/../x", Some("..")),
        ("c/{customer}/", "c/acme/../globex/x", Some("acme")),
        ("c/{customer}/", "../c/acme/x", None),
        // a key is not encoded: a percent sign is a percent sign
        ("c/{customer}/", "c/a%2Fb/x", Some("a%2Fb")),
        ("c/{customer}/", "c/100%/x", Some("100%")),
        ("c/{customer}/", "c%2Facme/x", None),
        ("c/{customer}/", &long, Some("acme")),
        ("c/{customer}/", &most, most.get(2..most.len() - 2)),
        ("c/{customer}/", &more, None),
        // no id of a customer
        ("c/{customer}/", "c/ acme/x", None),
        ("c/{customer}/", "c/acme\u{a0}/x", None),
        ("c/{customer}/", "c/ac\nme/x", None),
        ("c/{customer}/", "c/ac\u{0}me/x", None),
        ("c/{customer}/", "c/ac\u{85}me/x", None),
        // the same to the eye, and different ids: composed, decomposed, another slash, a zero-width
        // blank, right to left
        ("c/{customer}/", "c/\u{e9}/x", Some("\u{e9}")),
        ("c/{customer}/", "c/e\u{301}/x", Some("e\u{301}")),
        ("c/{customer}/", "c/acme\u{2215}x/y", Some("acme\u{2215}x")),
        ("c/{customer}/", "c/ac\u{200b}me/x", Some("ac\u{200b}me")),
        ("c/{customer}/", "c/\u{202e}emca/x", Some("\u{202e}emca")),
        // what follows is never part of it, also over lines
        ("c/{customer}/", "c/acme/line\nline", Some("acme")),
        ("c/{customer}", "c/acme", Some("acme")),
        ("c/{customer}", "c/acme/x", Some("acme")),
        ("{customer}/", "acme/x", Some("acme")),
        ("user-{customer}/", "user-user-1/x", Some("user-1")),
        ("*/{customer}/up/", "2026/acme/up/x", Some("acme")),
        ("*/{customer}/up/", "/acme/up/x", Some("acme")),
        ("*/{customer}/up/", "2026/11/acme/up/x", None),
        ("a.b/{customer}/", "axb/acme/x", None),
        ("c+(/{customer}/", "c+(/acme/x", Some("acme")),
    ];
    for (beginning, key, expected) in table {
        assert_eq!(of_key(&rule(beginning), key), *expected, "{beginning} {key:?}");
    }
}

#[test]
fn a_pattern_fits_the_whole_key() {
    let table: &[(&str, &str, Option<&str>)] = &[
        ("c/(?<customer>[^/]+)/.*", "c/acme/x", Some("acme")),
        ("c/(?P<customer>[^/]+)/.*", "c/acme/a\nb", Some("acme")),
        ("c/(?<customer>[^/]+)/.*", "x/c/acme/x", None),
        ("c/(?<customer>[a-z]+)", "c/acme/x", None),
        ("a|c/(?<customer>[a-z]+)", "a", None),
        ("a|c/(?<customer>[a-z]+)", "c/acme", Some("acme")),
        ("(?:t-(?<customer>[0-9]+)|shared)/.*", "t-17/x", Some("17")),
        ("(?:t-(?<customer>[0-9]+)|shared)/.*", "shared/x", None),
        ("c/(?<customer>.*)/f", "c//f", None),
        ("(?i)C/(?<customer>\\w+)/.*", "c/Ünal/x", Some("Ünal")),
    ];
    for (pattern, key, expected) in table {
        let rule = CustomerRule::new(Some(key_pattern(pattern).unwrap()), None);
        assert_eq!(of_key(&rule, key), *expected, "{pattern} {key:?}");
    }
}

#[test]
fn a_request_names_its_customer_by_key_and_parameter() {
    use Owner::{Contradiction, Nobody, Unusable};
    let table: &[(&str, &str, Owner<'_>)] = &[
        ("c/acme/x", "GET /b/c/acme/x HTTP/1.1", customer("acme")),
        ("c/acme/x", "GET /b/c/acme/x?x-cc=acme HTTP/1.1", customer("acme")),
        ("c/acme/x", "GET /b/c/acme/x?x-cc=globex HTTP/1.1", Contradiction),
        ("f/1", "GET /f/1?X-Amz-Expires=60&x-cc=acme&versionId=3 HTTP/1.1", customer("acme")),
        ("f/1", "GET /f/1?x-cc=acme", customer("acme")),
        ("", "GET /?x-cc=acme&prefix=c/globex/ HTTP/1.1", customer("acme")),
        ("f/1", "GET /f/1 HTTP/1.1", Nobody),
        ("f/1", "-", Nobody),
        ("f/1", "", Nobody),
        ("f/1", "GET /f/1? HTTP/1.1", Nobody),
        // another parameter
        ("f/1", "GET /f/1?X-CC=acme HTTP/1.1", Nobody),
        ("f/1", "GET /f/1?x-ccc=acme&ax-cc=acme HTTP/1.1", Nobody),
        ("f/1", "GET /f/1?y=?x-cc=acme HTTP/1.1", Nobody),
        ("f/1", "GET /f/1;x-cc=acme HTTP/1.1", Nobody),
        // encoded once is decoded once
        ("f/1", "GET /f/1?x-cc=a%2Fb HTTP/1.1", customer("a/b")),
        ("f/1", "GET /f/1?x-cc=a%252Fb HTTP/1.1", customer("a%2Fb")),
        ("f/1", "GET /f/1?x%2Dcc=acme HTTP/1.1", customer("acme")),
        ("f/1", "GET /f/1?x-cc=a+b HTTP/1.1", customer("a+b")),
        ("f/1", "GET /f/1?x-cc=a%20b HTTP/1.1", customer("a b")),
        ("f/1", "GET /f/1?x-cc=%C3%A9 HTTP/1.1", customer("é")),
        ("f/1", "GET /f/1?x-cc=a%3Db%26c=d HTTP/1.1", customer("a=b&c=d")),
        ("c/a%2Fb/x", "GET /c/a%252Fb/x?x-cc=a%252Fb HTTP/1.1", customer("a%2Fb")),
        // twice
        ("f/1", "GET /f/1?x-cc=acme&x-cc=acme HTTP/1.1", customer("acme")),
        ("f/1", "GET /f/1?x-cc=acme&x-cc=globex HTTP/1.1", Contradiction),
        ("f/1", "GET /f/1?x-cc=acme&x-cc= HTTP/1.1", Unusable),
        // not encoded rightly, or no id
        ("f/1", "GET /f/1?x-cc= HTTP/1.1", Unusable),
        ("f/1", "GET /f/1?x-cc HTTP/1.1", Unusable),
        ("f/1", "GET /f/1?x-cc=% HTTP/1.1", Unusable),
        ("f/1", "GET /f/1?x-cc=a%2 HTTP/1.1", Unusable),
        ("f/1", "GET /f/1?x-cc=a%G0 HTTP/1.1", Unusable),
        ("f/1", "GET /f/1?x-cc=a%+1 HTTP/1.1", Unusable),
        ("f/1", "GET /f/1?x-cc=%FF HTTP/1.1", Unusable),
        ("f/1", "GET /f/1?x-cc=%ED%A0%80 HTTP/1.1", Unusable),
        ("f/1", "GET /f/1?x-cc=%C0%AF HTTP/1.1", Unusable),
        ("f/1", "GET /f/1?x-cc=%20acme HTTP/1.1", Unusable),
        ("f/1", "GET /f/1?x-cc=a%00 HTTP/1.1", Unusable),
        ("f/1", "GET /f/1?x-cc=a%0Ab HTTP/1.1", Unusable),
        ("f/1", "GET /f/1?x-cc=é HTTP/1.1", Unusable),
        ("f/1", "GET /f/1?x-cc=acme\" HTTP/1.1", Unusable),
        ("f/1", "GET /f/1?x-cc=acme#x HTTP/1.1", Unusable),
        ("f/1", "GET /f/1?x-cc=acme globex HTTP/1.1", Unusable),
        // one that cannot be used is no reason to believe the other
        ("c/acme/x", "GET /c/acme/x?x-cc= HTTP/1.1", Unusable),
        ("c/ acme/x", "GET /c/x?x-cc=acme HTTP/1.1", Unusable),
    ];
    let rule = rule("c/{customer}/");
    for (key, uri, expected) in table {
        assert_eq!(rule.of_request(key, uri), *expected, "{key:?} {uri:?}");
    }
}

#[test]
fn a_rule_without_a_source_names_nobody_by_it() {
    let by_key = CustomerRule::new(Some(key_beginning("c/{customer}/").unwrap()), None);
    assert_eq!(by_key.of_request("f", "GET /f?x-cc=acme HTTP/1.1"), Owner::Nobody);
    let by_parameter = CustomerRule::new(None, Some("x-cc".into()));
    assert_eq!(of_key(&by_parameter, "c/acme/x"), None);
    assert_eq!(by_parameter.of_request("c/globex/x", "GET /c/globex/x?x-cc=acme HTTP/1.1"), customer("acme"));
    assert_ne!(by_key.digest_text(), by_parameter.digest_text());
}

#[test]
fn a_beginning_that_could_mean_two_things_is_refused() {
    let table = [
        ("", "it must contain `{customer}` once"),
        ("c/", "it must contain `{customer}` once"),
        ("{customer}/{customer}/", "it must contain `{customer}` once"),
        ("c/{tenant}/{customer}/", "stand for nothing here"),
        ("c/{customer}/…", "stand for nothing here"),
        ("c/{customer}-{customer", "stand for nothing here"),
        ("c/{customer}-file", "`-file` follows"),
        ("c/{customer}*/", "`*` is a whole part"),
        ("c/*-{customer}/", "`*` is a whole part"),
        ("a*/{customer}/", "`*` is a whole part"),
    ];
    for (beginning, why) in table {
        let said = key_beginning(beginning).unwrap_err();
        assert!(said.contains(why), "{beginning}: {said}");
    }
}

#[test]
fn a_pattern_that_is_none_or_too_large_is_refused() {
    let long = format!("(?<customer>{})", "a".repeat(PATTERN_BYTES));
    let deep = format!("{}(?<customer>a){}", "(".repeat(40), ")".repeat(40));
    let table = [
        ("", "no group named `customer`"),
        ("c/([^/]+)/.*", "no group named `customer`"),
        ("c/(?<Customer>[^/]+)/.*", "no group named `customer`"),
        ("c/(?<customer>[^/]+", "no regular expression: unclosed group"),
        ("(?<customer>a)|(?<customer>b)", "no regular expression: duplicate capture group name"),
        ("(?<customer>a))|((b", "no regular expression: "),
        ("(?<customer>a)\\1", "no regular expression: backreferences are not supported"),
        ("(?=x)(?<customer>a)", "no regular expression: look-around"),
        ("(?<customer>(?:\\w{100}){100})", "it is too large"),
        ("(?<customer>(((((a{9}){9}){9}){9}){9}){9})", "it is too large"),
        (&long, "bytes; at most 1024"),
        (&deep, "no regular expression: exceed the maximum number of nested"),
    ];
    for (pattern, why) in table {
        let said = key_pattern(pattern).unwrap_err();
        assert!(said.contains(why) && !said.contains('\n'), "{pattern}: {said}");
    }
    // what looks alike and is fine
    key_pattern("c/(?<customer>[^/]{1,256})/.*").unwrap();
    key_pattern("(?x) c/ (?<customer>[a-z]+) /.* # the customer's folder\n").unwrap();
}

/// In an engine that tries again, this takes longer than the universe is old.
#[test]
fn a_pattern_takes_time_linear_in_the_key() {
    let pattern = key_pattern("(?<customer>(?:a+)+)+b").unwrap();
    let rule = CustomerRule::new(Some(pattern), None);
    let key = "a".repeat(1024);
    for _ in 0..100 {
        assert_eq!(of_key(&rule, &key), None);
    }
}

#[test]
fn a_parameter_is_one_that_s3_ignores() {
    for name in ["x-cc", "x-customer.id_1~"] {
        assert_eq!(parameter_fault(name), None, "{name}");
    }
    let long = format!("x-{}", "c".repeat(63));
    for name in ["", "x", "x-", "cc", "X-cc", "x-amz-cc", "x-Amz-cc", "x-c c", "x-c=c", "x-c&c", "x-é", &long] {
        assert!(parameter_fault(name).is_some(), "{name}");
    }
}

/// Every byte as `%XX`.
fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(text in ".{0,40}") {
        let once = encoded(&text);
        prop_assert_eq!(percent_decoded(&once), Some(Cow::from(text.as_str())));
        let twice = encoded(&once);
        prop_assert_eq!(percent_decoded(&twice), Some(Cow::from(once.as_str())));
    }

    /// A beginning finds what a regular expression of it finds.
    #[test]
    fn a_beginning_is_a_regular_expression(
        before in "[ab]?/?", place in "[ab]{0,2}", after in "(/[ab]?)?(/\\*)?(/[ab]?)?", key in "[ab/.]{0,12}"
    ) {
        let text = format!("{before}{place}{{customer}}{after}");
        let pattern = regex::escape(&text).replace("/\\*", "/[^/]*").replace(&regex::escape(PLACE), "(?<customer>[^/]+)");
        let KeyRule(Form::Pattern(pattern)) = key_pattern(&format!("{pattern}.*")).unwrap() else { panic!("a pattern") };
        let expected = pattern.captures(&key).map(|found| found.name(GROUP).unwrap().as_str());
        prop_assert_eq!(key_beginning(&text).unwrap().find(&key), expected, "{}", text);
    }

    #[test]
    fn any_key_and_any_request_have_an_answer(key in ".{0,60}", uri in ".{0,60}") {
        let rule = rule("c/{customer}/");
        if let Owner::Customer(id) = rule.of_request(&key, &uri) {
            prop_assert!(is_name(&id, CUSTOMER_ID));
        }
        let uri = format!("GET /k?x-cc={} HTTP/1.1", encoded(&key));
        let expected = if is_name(&key, CUSTOMER_ID) { Owner::Customer(key.as_str().into()) } else { Owner::Unusable };
        prop_assert_eq!(rule.of_request("k", &uri), expected);
    }
}
