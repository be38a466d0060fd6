//! Signed links to statements: whoever has one may read one customer's statement of one billing
//! period until it expires, and nothing else.
//!
//! The web backend makes them as well (`clients/typescript`, `statementLink`): HMAC-SHA256 by the
//! key in `METER_HTTP__STATEMENT_KEY`, in hexadecimal digits, of four lines without an end of line
//! at the end: `statement`, the customer's id, the day on which the period begins, and the second
//! since 1970 at which the link expires.

use crate::format::url_encoded;
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use sha2::Sha256;

/// The longest time for which a link can be valid.
pub const LONGEST_SECONDS: i64 = 30 * 86_400;

/// The key by which links are signed.
#[derive(Clone, Debug)]
pub struct LinkKey(Hmac<Sha256>);

/// What a link says.
#[derive(Clone, Copy, Debug)]
pub struct StatementLink<'a> {
    pub customer: &'a str,
    /// The day on which the billing period begins, as `2026-11-03`.
    pub period: &'a str,
    /// In seconds since 1970.
    pub expires: i64,
}

impl LinkKey {
    /// None for an empty key: no link is valid then.
    pub fn new(key: &str) -> Option<Self> {
        (!key.is_empty()).then(|| Hmac::new_from_slice(key.as_bytes()).ok().map(Self)).flatten()
    }

    /// The path and query of a link.
    pub fn link(&self, customer: &str, period_start: Timestamp, expires: i64) -> String {
        let period = period_start.strftime("%F").to_string();
        let link = StatementLink { customer, period: &period, expires };
        let signature: String = self.signed(link).finalize().into_bytes().iter().map(|b| format!("{b:02x}")).collect();
        let customer = url_encoded(customer);
        format!("/statement?customer={customer}&period={period}&expires={expires}&signature={signature}")
    }

    /// Whether the signature is that of the link, and the link is valid at `now`.
    pub fn accepts(&self, link: StatementLink<'_>, signature: &str, now: Timestamp) -> bool {
        let is_valid = (now.as_second()..=now.as_second() + LONGEST_SECONDS).contains(&link.expires);
        let digits: Option<Vec<u8>> = signature
            .as_bytes()
            .chunks(2)
            .map(|two| u8::from_str_radix(str::from_utf8(two).ok().filter(|two| !two.starts_with('+'))?, 16).ok())
            .collect();
        // in constant time
        let is_signed = digits.is_some_and(|digits| self.signed(link).verify_slice(&digits).is_ok());
        is_valid && is_signed
    }

    fn signed(&self, StatementLink { customer, period, expires }: StatementLink<'_>) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        mac.update(format!("statement\n{customer}\n{period}\n{expires}").as_bytes());
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_valid_for_what_it_was_signed_for_until_it_expires() {
        let key = LinkKey::new("a key of sixteen or more").unwrap();
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let expires = now.as_second() + 60;
        let text = key.link("a&b ü", "2026-11-03T10:00:00Z".parse().unwrap(), expires);
        let (path, signature) = text.rsplit_once("&signature=").unwrap();
        assert_eq!(path, format!("/statement?customer=a%26b%20%C3%BC&period=2026-11-03&expires={expires}"));
        // by openssl: printf 'statement\na&b ü\n2026-11-03\n1800000060' |
        // openssl dgst -sha256 -hmac 'a key of sixteen or more'
        assert_eq!(signature, "c1c78930fa66cf56c3e460bed69b98587101725325b69ae0d895c4418edab118");
        let link = StatementLink { customer: "a&b ü", period: "2026-11-03", expires };
        let accepts =
            |link, signature: &str, second| key.accepts(link, signature, Timestamp::from_second(second).unwrap());
        assert!(accepts(link, signature, now.as_second()) && accepts(link, signature, expires));
        assert!(!accepts(link, signature, expires + 1));
        assert!(!accepts(link, signature, expires - LONGEST_SECONDS - 1), "it would be valid for too long");
        for other in [
            StatementLink { customer: "a&b", ..link },
            StatementLink { period: "2026-11-04", ..link },
            StatementLink { expires: expires + 1, ..link },
        ] {
            assert!(!accepts(other, signature, now.as_second()), "{other:?}");
        }
        for wrong in ["", "00", &signature[1..], &signature.replace(char::is_numeric, "+"), &format!("{signature}0")] {
            assert!(!accepts(link, wrong, now.as_second()), "{wrong}");
        }
        assert!(!LinkKey::new("another key").unwrap().accepts(link, signature, now));
        assert!(LinkKey::new("").is_none());
    }
}
