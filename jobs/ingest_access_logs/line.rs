//! One line of a server access log, taken apart without an allocation.
//!
//! Fields are separated by one blank each, the time is in brackets, and the Request-URI, the
//! referer and the user agent are in quotes, or are `-` with or without quotes
//! (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/LogFormat.html>). S3 appends new fields
//! over the years, so what follows the eighteenth may be anything.
//!
//! S3 does not escape quotes inside of quotes, and whoever sends a request chooses what is there: a
//! referer can be `x" 200 - 999`. So the Request-URI ends at the *first* quote behind which status,
//! error code and the four numbers follow: what decides about bytes is read before the referer and
//! the user agent. Those, which decide about nothing, are taken apart from the other end: the user
//! agent ends at the line's last quote with a blank behind it, because no later field has one.
//!
//! A line that was cut off has fewer fields, or a number without a blank behind it; so eighteen
//! fields, which every line has had since 2010, are needed although fewer are used.

use memchr::{memchr, memchr_iter, memrchr_iter};

/// A line's documented fields, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLine<'a> {
    pub bucket_owner: &'a [u8],
    pub bucket: &'a [u8],
    /// Seconds since 1970.
    pub time: i64,
    pub remote_ip: &'a [u8],
    pub requester: &'a [u8],
    pub request_id: &'a [u8],
    pub operation: &'a [u8],
    /// Encoded.
    pub key: &'a [u8],
    /// As all quoted fields: without its quotes, otherwise as it stands there.
    pub request_uri: &'a [u8],
    pub status: Option<u16>,
    pub error_code: &'a [u8],
    pub bytes_sent: Option<u64>,
    pub object_size: Option<u64>,
    pub total_ms: Option<u64>,
    pub turn_around_ms: Option<u64>,
    pub referer: &'a [u8],
    pub user_agent: &'a [u8],
    pub version_id: &'a [u8],
    /// Host id, signature version, cipher suite, authentication type, host header, TLS version,
    /// access point ARN, `aclRequired`, source region, and what S3 appends after today; separated
    /// by blanks.
    pub later: &'a [u8],
}

/// Why a line cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum BadLogLine {
    #[error("it has fewer than the 18 fields of a line; it is cut off, or not of an access log")]
    TooFewFields,
    #[error("its third field is no time like [06/Feb/2019:00:00:38 +0000]; it is not of an access log of S3")]
    NoTime,
    #[error("no status and no numbers follow its Request-URI; it is damaged")]
    NoNumbers,
    #[error("it is longer than {} KiB; it is damaged, or not of an access log", LINE_BYTES >> 10)]
    TooLong,
}

/// Longest line, in bytes. A key has at most 1,024 bytes, a request's headers 8 KiB.
pub const LINE_BYTES: usize = 64 << 10;

/// What is left of a line.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// The field up to the next blank.
    fn next(&mut self) -> Result<&'a [u8], BadLogLine> {
        match memchr(b' ', self.0) {
            None | Some(0) => Err(BadLogLine::TooFewFields),
            Some(end) => {
                let field = &self.0[..end];
                self.0 = &self.0[end + 1..];
                Ok(field)
            }
        }
    }

    fn time(&mut self) -> Result<i64, BadLogLine> {
        const LENGTH: usize = "[06/Feb/2019:00:00:38 +0000] ".len();
        let (time, rest) = self.0.split_at_checked(LENGTH).ok_or(BadLogLine::NoTime)?;
        self.0 = rest;
        instant(time).ok_or(BadLogLine::NoTime)
    }

    /// A number that ends with a blank, or `-`.
    fn number(&mut self) -> Result<Option<u64>, BadLogLine> {
        match self.next().map_err(|_| BadLogLine::NoNumbers)? {
            b"-" => Ok(None),
            digits => number(digits).map(Some).ok_or(BadLogLine::NoNumbers),
        }
    }

    /// The Request-URI, and the six fields behind it.
    fn request(&mut self) -> Result<(&'a [u8], Answer<'a>), BadLogLine> {
        let Some(quoted) = self.0.strip_prefix(b"\"") else {
            return Ok((self.next()?, self.answer()?));
        };
        for end in memchr_iter(b'"', quoted) {
            let mut rest = Fields(&quoted[end + 1..]);
            if rest.0.first() == Some(&b' ') {
                rest.0 = &rest.0[1..];
                if let Ok(answer) = rest.answer() {
                    self.0 = rest.0;
                    return Ok((&quoted[..end], answer));
                }
            }
        }
        Err(BadLogLine::NoNumbers)
    }

    fn answer(&mut self) -> Result<Answer<'a>, BadLogLine> {
        // looked at first: it costs nothing, and what it lets through is read only once
        let status = match self.0 {
            [b'-', b' ', ..] => None,
            [a, b, c, b' ', ..] => {
                let status = number(&[*a, *b, *c]).and_then(|status| u16::try_from(status).ok());
                Some(status.ok_or(BadLogLine::NoNumbers)?)
            }
            _ => return Err(BadLogLine::NoNumbers),
        };
        self.0 = &self.0[if status.is_some() { 4 } else { 2 }..];
        Ok(Answer {
            status,
            error_code: self.next()?,
            bytes_sent: self.number()?,
            object_size: self.number()?,
            total_ms: self.number()?,
            turn_around_ms: self.number()?,
        })
    }

    fn referer(&mut self) -> Result<&'a [u8], BadLogLine> {
        let Some(quoted) = self.0.strip_prefix(b"\"") else { return self.next() };
        for end in memchr_iter(b'"', quoted) {
            if let [b' ', next @ ..] = &quoted[end + 1..]
                && (next.starts_with(b"\"") || (next.starts_with(b"- ") && memchr(b'"', next).is_none()))
            {
                self.0 = next;
                return Ok(&quoted[..end]);
            }
        }
        Err(BadLogLine::TooFewFields)
    }

    fn user_agent(&mut self) -> Result<&'a [u8], BadLogLine> {
        let Some(quoted) = self.0.strip_prefix(b"\"") else { return self.next() };
        for end in memrchr_iter(b'"', quoted) {
            if let Some(rest) = quoted[end + 1..].strip_prefix(b" ") {
                self.0 = rest;
                return Ok(&quoted[..end]);
            }
        }
        Err(BadLogLine::TooFewFields)
    }
}

/// What stands between the Request-URI and the referer.
struct Answer<'a> {
    status: Option<u16>,
    error_code: &'a [u8],
    bytes_sent: Option<u64>,
    object_size: Option<u64>,
    total_ms: Option<u64>,
    turn_around_ms: Option<u64>,
}

impl<'a> LogLine<'a> {
    /// Takes a line apart; it comes without its line feed.
    pub fn parse(line: &'a [u8]) -> Result<Self, BadLogLine> {
        if line.len() > LINE_BYTES {
            return Err(BadLogLine::TooLong);
        }
        let mut fields = Fields(line.strip_suffix(b"\r").unwrap_or(line));
        let (bucket_owner, bucket) = (fields.next()?, fields.next()?);
        let time = fields.time()?;
        let (remote_ip, requester, request_id) = (fields.next()?, fields.next()?, fields.next()?);
        let (operation, key) = (fields.next()?, fields.next()?);
        let (request_uri, answer) = fields.request()?;
        let (referer, user_agent) = (fields.referer()?, fields.user_agent()?);
        let end = memchr(b' ', fields.0).unwrap_or(fields.0.len());
        if end == 0 {
            return Err(BadLogLine::TooFewFields);
        }
        let Answer { status, error_code, bytes_sent, object_size, total_ms, turn_around_ms } = answer;
        Ok(Self {
            bucket_owner,
            bucket,
            time,
            remote_ip,
            requester,
            request_id,
            operation,
            key,
            request_uri,
            status,
            error_code,
            bytes_sent,
            object_size,
            total_ms,
            turn_around_ms,
            referer,
            user_agent,
            version_id: &fields.0[..end],
            later: fields.0.get(end + 1..).unwrap_or_default(),
        })
    }
}

/// Digits only, and no more than 64 bits hold.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, digit| {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

fn instant(time: &[u8]) -> Option<i64> {
    let [b'[', day @ .., b']', b' '] = time else { return None };
    let &[
        d1,
        d2,
        b'/',
        m1,
        m2,
        m3,
        b'/',
        y1,
        y2,
        y3,
        y4,
        b':',
        h1,
        h2,
        b':',
        n1,
        n2,
        b':',
        s1,
        s2,
        b' ',
        sign,
        z1,
        z2,
        z3,
        z4,
    ] = day
    else {
        return None;
    };
    let part =
        |digits: &[u8], most: u64| number(digits).filter(|part| *part <= most).and_then(|p| i64::try_from(p).ok());
    let month = match &[m1, m2, m3] {
        b"Jan" => 1,
        b"Feb" => 2,
        b"Mar" => 3,
        b"Apr" => 4,
        b"May" => 5,
        b"Jun" => 6,
        b"Jul" => 7,
        b"Aug" => 8,
        b"Sep" => 9,
        b"Oct" => 10,
        b"Nov" => 11,
        b"Dec" => 12,
        _ => return None,
    };
    let (year, day) = (part(&[y1, y2, y3, y4], 9999)?, part(&[d1, d2], 31)?);
    // a second may be a leap second
    let (hour, minute, second) = (part(&[h1, h2], 23)?, part(&[n1, n2], 59)?, part(&[s1, s2], 60)?);
    let offset = 3_600 * part(&[z1, z2], 23)? + 60 * part(&[z3, z4], 59)?;
    let offset = match sign {
        b'+' => offset,
        b'-' => -offset,
        _ => return None,
    };
    let second = second.min(59);
    Some(days(year, month, day)? * 86_400 + 3_600 * hour + 60 * minute + second - offset)
}

/// Days from 1970-01-01 to a date of the Gregorian calendar: years begin in March here, so that the
/// leap day is their last one.
fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let longest = match month {
        4 | 6 | 9 | 11 => 30,
        2 if is_leap => 29,
        2 => 28,
        _ => 31,
    };
    if day < 1 || day > longest {
        return None;
    }
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let before = 365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    Some(before + (153 * month + 2) / 5 + day - 1 - 719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: &str = "79a59df900b949e55d96a1e698fbacedfd6e09d98eacf8f8d5218e7cd47ef2be";

    fn line(text: &str) -> Result<LogLine<'_>, BadLogLine> {
        LogLine::parse(text.as_bytes())
    }

    fn text(bytes: &[u8]) -> &str {
        std::str::from_utf8(bytes).unwrap()
    }

    #[test]
    fn every_documented_field_is_found() {
        let written = format!(
            "{OWNER} files [06/Feb/2019:00:00:38 +0000] 192.0.2.3 {OWNER} 3E57427F3EXAMPLE REST.GET.OBJECT c/a/b%2520c \
             \"GET /files/c/a/b%20c?x-cc=a HTTP/1.1\" 206 - 113 2048 7 6 \"https://a.example/\" \"S3Console/0.4\" v1 \
             s9lzHYrFp76ZVxRcpX9+5cjAnEH2ROuNkd2BHfIa6UkFVdtjf5mKR3/eTPFvsiP/XV/VLi31234= SigV4 \
             ECDHE-RSA-AES128-GCM-SHA256 QueryString files.s3.us-west-1.amazonaws.com TLSV1.2 \
             arn:aws:s3:us-west-1:123456789012:accesspoint/example-AP Yes us-east-1"
        );
        let found = line(&written).unwrap();
        assert_eq!((text(found.bucket_owner), text(found.bucket)), (OWNER, "files"));
        assert_eq!(found.time, 1_549_411_238);
        assert_eq!((text(found.remote_ip), text(found.requester)), ("192.0.2.3", OWNER));
        assert_eq!((text(found.request_id), text(found.operation)), ("3E57427F3EXAMPLE", "REST.GET.OBJECT"));
        assert_eq!(text(found.key), "c/a/b%2520c");
        assert_eq!(text(found.request_uri), "GET /files/c/a/b%20c?x-cc=a HTTP/1.1");
        assert_eq!((found.status, text(found.error_code)), (Some(206), "-"));
        assert_eq!((found.bytes_sent, found.object_size), (Some(113), Some(2048)));
        assert_eq!((found.total_ms, found.turn_around_ms), (Some(7), Some(6)));
        assert_eq!((text(found.referer), text(found.user_agent)), ("https://a.example/", "S3Console/0.4"));
        assert_eq!(text(found.version_id), "v1");
        let later: Vec<&str> = text(found.later).split(' ').collect();
        assert_eq!((later.len(), later[3], later[8]), (9, "QueryString", "us-east-1"));
        let more = format!("{written} and more \"of it\"\r");
        assert_eq!(line(&more).unwrap().bytes_sent, Some(113));
    }

    #[test]
    fn lines_without_a_request_are_read() {
        for (rest, status) in [
            ("REST.COPY.OBJECT_GET a/b - 200 - - 13538337 - - - - -", Some(200)),
            ("S3.EXPIRE.OBJECT a/b \"-\" - - - 13 - - \"-\" \"-\" -", None),
            ("S3.CREATE.DELETEMARKER a/b - - - - - - - - - v7 - - - - - - - -", None),
            ("BATCH.DELETE.OBJECT a/b - 204 - - 3 - - - - - later= SigV4", Some(204)),
        ] {
            let written = format!("{OWNER} files [17/Sep/2010:13:38:36 +0000] - AmazonS3 71F7D2AAA93B0A05 {rest}");
            let found = line(&written).unwrap();
            assert_eq!((found.status, found.bytes_sent), (status, None), "{rest}");
            assert_eq!((text(found.request_uri), text(found.referer), text(found.user_agent)), ("-", "-", "-"));
        }
    }

    /// Seen in <https://github.com/cocoonlife/s3-log-parse/issues/1> and
    /// <https://github.com/aws-samples/siem-on-amazon-opensearch-service/pull/34>.
    #[test]
    fn quotes_inside_of_quotes_end_nothing() {
        let written = |uri: &str, referer: &str, agent: &str| {
            format!(
                "o files [20/Jun/2019:03:51:36 +0000] 1.2.3.4 - 63DA REST.GET.OBJECT %2522 \"{uri}\" 403 AccessDenied 243 \
                 - 8 - \"{referer}\" \"{agent}\" - id= -"
            )
        };
        for uri in
            ["GET /\" HTTP/1.1", "GET /\\\" 20 HTTP/1.1", "\"\"", "a\" 200", "\" 200 - ", "GET /[x] HTTP/1.1", ""]
        {
            for referer in ["-", "foo \"bar\"", "x\" 200 - 999 999 1 1 \"", "\"", "a - \" - b"] {
                for agent in ["curl", "Safari/604.1\"", "x\" 200 - 9 9 9 9 \"-\" \"-\" - ", "\" - \""] {
                    let written = written(uri, referer, agent);
                    let found = line(&written).unwrap();
                    assert_eq!((text(found.request_uri), found.status), (uri, Some(403)), "{written}");
                    assert_eq!((found.bytes_sent, text(found.version_id)), (Some(243), "-"), "{written}");
                }
            }
        }
    }

    #[test]
    fn a_line_that_is_cut_off_anywhere_is_bad() {
        let written = "o files [06/Feb/2019:00:00:38 +0000] 192.0.2.3 r 3E57 REST.GET.OBJECT k \"GET /k HTTP/1.1\" 200 - \
                       113456 113456 7 6 \"-\" \"a b\" -";
        assert!(line(written).is_ok());
        for end in 0..written.len() {
            assert!(line(&written[..end]).is_err(), "{}", &written[..end]);
        }
    }

    #[test]
    fn what_is_no_line_is_bad() {
        let blanks = " ".repeat(500);
        let quotes = "\" 200 - ".repeat(8_000);
        let endless = format!("o b [06/Feb/2019:00:00:38 +0000] i r q o k \"{quotes}");
        for (written, why) in [
            ("", BadLogLine::TooFewFields),
            (blanks.as_str(), BadLogLine::TooFewFields),
            ("\u{1f}\u{8b}\u{0} \u{1} \u{2}", BadLogLine::NoTime),
            (
                "2026-11-01 00:00:10 FRA56 1045619 1.2.3.4 GET d111.cloudfront.net /a 200 - curl - - Hit",
                BadLogLine::NoTime,
            ),
            ("o b [31/Feb/2019:00:00:38 +0000] i r q o k - - - - - - - - - -", BadLogLine::NoTime),
            ("o b [06/feb/2019:00:00:38 +0000] i r q o k - - - - - - - - - -", BadLogLine::NoTime),
            ("o b [06/Feb/2019:24:00:38 +0000] i r q o k - - - - - - - - - -", BadLogLine::NoTime),
            ("o b [06/Feb/2019:00:00:38 Z    ] i r q o k - - - - - - - - - -", BadLogLine::NoTime),
            ("o b [06/Feb/2019:00:00:38 +0000] i r q o k \"x\" 20 - 1 1 1 1 - - -", BadLogLine::NoNumbers),
            ("o b [06/Feb/2019:00:00:38 +0000] i r q o k \"x\" 200 - 1x 1 1 1 - - -", BadLogLine::NoNumbers),
            ("o b [06/Feb/2019:00:00:38 +0000] i r q o k - 200 - -1 1 1 1 - - -", BadLogLine::NoNumbers),
            (
                "o b [06/Feb/2019:00:00:38 +0000] i r q o k - 200 - 99999999999999999999 1 1 1 - - -",
                BadLogLine::NoNumbers,
            ),
            ("o b [06/Feb/2019:00:00:38 +0000] i r q o k - 200 -  1 1 1 - - -", BadLogLine::NoNumbers),
            (endless.as_str(), BadLogLine::NoNumbers),
        ] {
            assert_eq!(line(written), Err(why), "{}", &written[..written.len().min(100)]);
        }
        assert_eq!(line(&"a".repeat(LINE_BYTES + 1)), Err(BadLogLine::TooLong));
    }

    #[test]
    fn times_are_those_of_the_zone() {
        let at = |time: &str| instant(format!("[{time}] ").as_bytes());
        for (time, seconds) in [
            ("01/Jan/1970:00:00:00 +0000", 0),
            ("29/Feb/2028:23:59:59 +0000", 1_835_481_599),
            ("01/Mar/2028:00:00:00 +0000", 1_835_481_600),
            ("01/Jan/2027:00:30:00 +0100", 1_798_759_800),
            ("31/Dec/2026:19:00:00 -0430", 1_798_759_800),
            ("31/Dec/2026:23:59:60 +0000", 1_798_761_599),
        ] {
            assert_eq!(at(time), Some(seconds), "{time}");
        }
        assert_eq!(at("29/Feb/2027:00:00:00 +0000"), None);
        assert_eq!(at("00/Feb/2027:00:00:00 +0000"), None);
    }
}
