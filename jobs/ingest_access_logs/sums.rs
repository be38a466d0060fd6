//! What the lines of a day add up to, by customer.
//!
//! `bytes_sent` is what `REST.GET.OBJECT` sent with status 200 or 206 to other than private
//! addresses, which AWS does not bill as traffic to the internet. Answers to other requests
//! (lists, errors, the reading half of a copy) are bytes of nobody's download: they are not
//! counted, and what AWS bills for them stays with the house.
//!
//! A request is of the tier in which AWS bills it
//! (<https://aws.amazon.com/s3/pricing/>): PUT, COPY, POST and lists are tier 1; GET, HEAD and all
//! others tier 2. Free are deletions and what the lifecycle does, answers with a status from 500
//! on, requests without credentials that were refused
//! (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/ErrorCodeBilling.html>), and the second
//! line of a copy, `…_GET`.
//!
//! Lines are of one request and one operation when they are one; a deletion of many objects has a
//! line for each object. A line without a request id is like no other.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use super::line::{BadLogLine, LogLine};
use super::repeats::{
    CONTRADICTION, FIRST_CUSTOMER, NOBODY, Sighting, SightingList, Spill, Tier, UNUSABLE, distinct, hash,
};
use crate::shared_bucket::customer::{CustomerRule, Owner, percent_decoded};
use crate::shared_bucket::items::{Item, ItemList};
use books::shared_bucket::{DayCounts, Measure, Weight};
use books::units::calendar::{Day, instant};

/// Customers of a day, at most: more are no customers but what a wrong pattern took for one.
const CUSTOMERS: usize = 100_000;
/// Names of other buckets that are kept.
const OTHER_BUCKETS: usize = 1_000;
/// Bad lines that are named.
pub(super) const NAMED_BAD_LINES: usize = 5;

/// Why the lines of a day cannot be added up.
#[derive(Debug, thiserror::Error)]
pub(super) enum SumError {
    #[error("the temporary file cannot be used ({0}); it needs 32 bytes for each line of a day")]
    Spill(#[from] io::Error),
    #[error(
        "its keys and requests name more than {CUSTOMERS} customers, among them `{0}`; the bucket's `customer_key`, \
         `customer_pattern` or `customer_parameter` takes something else for a customer"
    )]
    TooManyCustomers(String),
}

/// Customers by number, from [`FIRST_CUSTOMER`] on, for all threads.
#[derive(Debug, Default)]
struct Customers {
    numbers: HashMap<Arc<str>, u32>,
    names: Vec<Arc<str>>,
}

impl Customers {
    fn number(&mut self, name: &str) -> Result<(Arc<str>, u32), SumError> {
        if let Some((name, number)) = self.numbers.get_key_value(name) {
            return Ok((Arc::clone(name), *number));
        }
        let too_many = || SumError::TooManyCustomers(name.to_owned());
        if self.names.len() == CUSTOMERS {
            return Err(too_many());
        }
        let number = u32::try_from(self.names.len()).map_err(|_| too_many())? + FIRST_CUSTOMER;
        let name: Arc<str> = name.into();
        self.names.push(Arc::clone(&name));
        self.numbers.insert(Arc::clone(&name), number);
        Ok((name, number))
    }
}

/// Which lines count, and whose they are.
#[derive(Debug)]
pub(super) struct WantedLines {
    pub(super) bucket: String,
    pub(super) day: Day,
    pub(super) rule: CustomerRule,
    /// Whose requests are listed one by one.
    pub(super) items: Option<Arc<ItemList>>,
}

/// What all threads that read a day share.
#[derive(Debug)]
pub(super) struct DaySums {
    wanted: WantedLines,
    customers: Mutex<Customers>,
    spill: Spill,
    /// Sightings in the list of one thread.
    listed: usize,
}

/// Counts of lines that are no sums of a customer.
#[derive(Clone, Debug, Default)]
pub(super) struct LineCounts {
    pub(super) lines: u64,
    pub(super) bad_lines: u64,
    /// Good ones of other days.
    pub(super) of_other_days: u64,
    /// Good ones of the day, by the bucket that they name.
    pub(super) of_other_buckets: BTreeMap<String, u64>,
}

impl LineCounts {
    fn see_bucket(&mut self, bucket: &[u8]) {
        let buckets = &mut self.of_other_buckets;
        let bucket = String::from_utf8_lossy(&bucket[..bucket.len().min(255)]);
        if let Some(lines) = buckets.get_mut(bucket.as_ref()) {
            *lines += 1;
        } else {
            let bucket = if buckets.len() < OTHER_BUCKETS { bucket.into_owned() } else { String::new() };
            *buckets.entry(bucket).or_default() += 1;
        }
    }
}

/// What one thread has found in the blocks that it read.
#[derive(Debug)]
pub(super) struct Tally {
    day: Arc<DaySums>,
    list: SightingList,
    /// Customers that this thread has seen.
    known: HashMap<Arc<str>, u32>,
    counts: LineCounts,
}

/// What is known of a block that was read.
#[derive(Debug, Default)]
pub(super) struct BlockLines {
    /// Lines, also blank ones.
    pub(super) lines: u64,
    /// The first bad ones: their places in the block from 0 on.
    pub(super) bad: Vec<(u64, BadLogLine)>,
}

/// What a day adds up to.
#[derive(Debug)]
pub(super) struct DayFound {
    pub(super) found: DayCounts,
    pub(super) weights: Vec<Weight>,
    pub(super) counts: LineCounts,
    /// Lines that name a customer in a form that is no id.
    pub(super) unusable: u64,
}

impl DaySums {
    /// The sums of a day. Of `sightings` in memory, each of `threads` has its part.
    pub(super) fn new(wanted: WantedLines, sightings: usize, threads: usize) -> Arc<Self> {
        let listed = (sightings / threads.max(1)).max(1);
        Arc::new(Self { wanted, customers: Mutex::default(), spill: Spill::default(), listed })
    }

    pub(super) fn tally(self: &Arc<Self>) -> Tally {
        Tally {
            day: Arc::clone(self),
            list: SightingList::new(self.listed, self.spill.clone()),
            known: HashMap::new(),
            counts: LineCounts::default(),
        }
    }

    fn number(&self, customer: &str) -> Result<(Arc<str>, u32), SumError> {
        let customers = self.customers.lock();
        customers.map_err(|_| io::Error::other("a thread that used it has failed"))?.number(customer)
    }

    /// Adds up what the threads have found; each line counts once.
    pub(super) fn add_up(&self, tallies: Vec<Tally>) -> Result<DayFound, SumError> {
        let names = self.customers.lock().map(|customers| customers.names.clone()).unwrap_or_default();
        let first = usize::try_from(FIRST_CUSTOMER).unwrap_or_default();
        let mut sums = vec![Sum::default(); first + names.len()];
        let mut counts = LineCounts::default();
        let mut lists = vec![];
        for tally in tallies {
            counts.lines += tally.counts.lines;
            counts.bad_lines += tally.counts.bad_lines;
            counts.of_other_days += tally.counts.of_other_days;
            for (bucket, lines) in tally.counts.of_other_buckets {
                *counts.of_other_buckets.entry(bucket).or_default() += lines;
            }
            lists.push(tally.list);
        }
        let repeated = distinct(lists, &self.spill, |sighting| {
            if let Some(sum) = usize::try_from(sighting.owner).ok().and_then(|owner| sums.get_mut(owner)) {
                sum.add(sighting);
            }
        })?;
        let lines =
            |owner: u32| usize::try_from(owner).ok().and_then(|owner| sums.get(owner)).map_or(0, |sum| sum.lines);
        let unusable = lines(UNUSABLE);
        let found = DayCounts {
            files: 0,
            counted: sums.iter().map(|sum| sum.lines).sum(),
            repeated,
            of_nobody: lines(NOBODY) + unusable,
            contradictions: lines(CONTRADICTION),
            bad_lines: counts.bad_lines,
        };
        let customers = sums.split_off(first.min(sums.len()));
        let mut weights = vec![];
        let mut nobody = Sum::default();
        sums.iter().for_each(|sum| nobody.merge(sum));
        nobody.weigh("", &mut weights);
        names.iter().zip(&customers).for_each(|(name, sum)| sum.weigh(name, &mut weights));
        weights.sort();
        Ok(DayFound { found, weights, counts, unusable })
    }
}

/// What the lines of an owner add up to.
#[derive(Clone, Debug, Default)]
struct Sum {
    lines: u64,
    bytes_sent: u128,
    first_tier: u64,
    second_tier: u64,
}

impl Sum {
    fn add(&mut self, sighting: &Sighting) {
        self.lines += 1;
        self.bytes_sent += u128::from(sighting.bytes_sent);
        match sighting.tier {
            Tier::First => self.first_tier += 1,
            Tier::Second => self.second_tier += 1,
            Tier::Free => {}
        }
    }

    fn merge(&mut self, other: &Self) {
        self.lines += other.lines;
        self.bytes_sent += other.bytes_sent;
        self.first_tier += other.first_tier;
        self.second_tier += other.second_tier;
    }

    fn weigh(&self, customer: &str, weights: &mut Vec<Weight>) {
        for (measure, amount) in [
            (Measure::BytesSent, self.bytes_sent),
            (Measure::Requests1, self.first_tier.into()),
            (Measure::Requests2, self.second_tier.into()),
        ] {
            if amount > 0 {
                weights.push(Weight { measure, class: String::new(), customer: customer.to_owned(), amount });
            }
        }
    }
}

impl Tally {
    /// Reads the lines of a block.
    pub(super) fn read<'a>(&mut self, lines: impl Iterator<Item = &'a [u8]>) -> Result<BlockLines, SumError> {
        let mut block = BlockLines::default();
        for line in lines {
            let place = block.lines;
            block.lines += 1;
            if line.is_empty() || line == b"\r" {
                continue;
            }
            self.counts.lines += 1;
            match LogLine::parse(line) {
                Ok(parsed) => self.count(&parsed, line)?,
                Err(why) => {
                    self.counts.bad_lines += 1;
                    if block.bad.len() < NAMED_BAD_LINES {
                        block.bad.push((place, why));
                    }
                }
            }
        }
        Ok(block)
    }

    /// Sorts what the thread has found, which each can do beside the others.
    pub(super) fn settle(&mut self) {
        self.list.settle();
    }

    fn count(&mut self, line: &LogLine<'_>, whole: &[u8]) -> Result<(), SumError> {
        let Self { day, list, known, counts } = self;
        let wanted = &day.wanted;
        if line.time.div_euclid(86_400) != i64::from(wanted.day.epoch()) {
            counts.of_other_days += 1;
            return Ok(());
        }
        if line.bucket != wanted.bucket.as_bytes() {
            counts.see_bucket(line.bucket);
            return Ok(());
        }
        let (id, operation) = (line.request_id, line.operation);
        let hash = match id {
            b"-" => hash(&[whole]),
            _ if operation.starts_with(b"BATCH.") => hash(&[id, operation, line.key]),
            _ => hash(&[id, operation]),
        };
        let key = decoded(line);
        let uri = str::from_utf8(line.request_uri).unwrap_or_default();
        let owner = match wanted.rule.of_request(&key, uri) {
            Owner::Nobody => NOBODY,
            Owner::Contradiction => CONTRADICTION,
            Owner::Unusable => UNUSABLE,
            Owner::Customer(customer) => match known.get(customer.as_ref()) {
                Some(number) => *number,
                None => {
                    let (name, number) = day.number(&customer)?;
                    known.insert(name, number);
                    number
                }
            },
        };
        let tier = tier(line);
        let downloads = operation == b"REST.GET.OBJECT" && matches!(line.status, Some(200 | 206));
        let is_billed = downloads && !is_inside(line.remote_ip);
        let bytes_sent = if is_billed { line.bytes_sent.unwrap_or(0) } else { 0 };
        if let Some(items) = &wanted.items {
            let is_wanted = match items.wanted.customer.as_str() {
                "" => owner < FIRST_CUSTOMER,
                customer => known.get(customer) == Some(&owner),
            };
            if is_wanted {
                let amount = match items.wanted.measure {
                    Measure::BytesSent => bytes_sent.into(),
                    Measure::Requests1 => u128::from(tier == Tier::First),
                    Measure::Requests2 => u128::from(tier == Tier::Second),
                    Measure::ByteSeconds => 0,
                };
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let (id, kind) = (text(id), text(operation));
                items.add(Item {
                    amount,
                    key: key.into_owned(),
                    id,
                    kind,
                    bytes: bytes_sent,
                    at: instant(line.time),
                    seconds: 0,
                });
            }
        }
        list.push(Sighting { hash, bytes_sent, owner, tier })?;
        Ok(())
    }
}

/// The key as S3 has it; empty when the line has none, or one that is not encoded rightly.
///
/// S3 encodes a key twice in most lines, and once in those of deletions of many objects and of the
/// lifecycle (<https://engineeringblog.yelp.com/2025/09/s3-server-access-logs-at-scale.html>). A
/// key that cannot be decoded twice was encoded once.
fn decoded<'a>(line: &LogLine<'a>) -> Cow<'a, str> {
    let Ok(key) = str::from_utf8(line.key) else { return Cow::Borrowed("") };
    if key == "-" {
        return Cow::Borrowed("");
    }
    let Some(once) = percent_decoded(key) else { return Cow::Borrowed("") };
    let is_encoded_once = line.operation.starts_with(b"BATCH.") || line.operation.starts_with(b"S3.");
    if is_encoded_once || matches!(once, Cow::Borrowed(_)) || !once.contains('%') {
        return once;
    }
    match percent_decoded(&once).map(Cow::into_owned) {
        Some(twice) => Cow::Owned(twice),
        None => once,
    }
}

/// Whether a request came from a private network: through an endpoint of a VPC, which is no traffic
/// to the internet.
fn is_inside(remote_ip: &[u8]) -> bool {
    // others are more, and need no parsing
    let can_be = [b"10.".as_slice(), b"172.", b"192.168.", b"f"].iter().any(|begin| remote_ip.starts_with(begin));
    if !can_be {
        return false;
    }
    let address = str::from_utf8(remote_ip).ok().and_then(|text| text.parse::<IpAddr>().ok());
    address.is_some_and(|address| match address {
        IpAddr::V4(address) => address.is_private(),
        IpAddr::V6(address) => address.is_unique_local(),
    })
}

/// The tier of a request. Operations are `REST.GET.OBJECT`, `WEBSITE.GET.OBJECT`, `SOAP.GetObject`,
/// `BATCH.DELETE.OBJECT`, `S3.EXPIRE.OBJECT` and their like.
fn tier(line: &LogLine<'_>) -> Tier {
    let is_refused = line.status == Some(403) && line.requester == b"-";
    if is_refused || line.status.is_some_and(|status| status >= 500) {
        return Tier::Free;
    }
    if line.operation == b"REST.GET.OBJECT" {
        // most lines, so that no more is compared
        return Tier::Second;
    }
    let mut parts = line.operation.splitn(3, |byte| *byte == b'.');
    let (api, method) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let resource = parts.next().unwrap_or_default();
    match (api, method) {
        (b"BATCH" | b"S3", _) | (b"REST", b"DELETE") => Tier::Free,
        (b"REST", b"COPY") if resource.ends_with(b"_GET") => Tier::Free,
        (b"REST", b"PUT" | b"POST" | b"COPY") => Tier::First,
        // the lists: objects, versions, unfinished uploads, and the parts of one
        (b"REST", b"GET") if matches!(resource, b"BUCKET" | b"BUCKETVERSIONS" | b"UPLOADS" | b"UPLOAD") => Tier::First,
        _ => Tier::Second,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_tail(operation: &str, key: &str, requester: &str, status: &str) -> String {
        format!("o b [06/Feb/2019:00:00:38 +0000] i {requester} q {operation} {key} - {status} - 1 1 1 1 - - -")
    }

    #[test]
    fn operations_are_of_the_tier_that_aws_bills() {
        for (operation, want) in [
            ("REST.PUT.OBJECT", Tier::First),
            ("REST.PUT.PART", Tier::First),
            ("REST.COPY.OBJECT", Tier::First),
            ("REST.COPY.OBJECT_GET", Tier::Free),
            ("REST.COPY.PART_GET", Tier::Free),
            ("REST.POST.UPLOADS", Tier::First),
            ("REST.GET.BUCKET", Tier::First),
            ("REST.GET.BUCKETVERSIONS", Tier::First),
            ("REST.GET.BUCKETPOLICY", Tier::Second),
            ("REST.GET.OBJECT", Tier::Second),
            ("REST.GET.OBJECT_TAGGING", Tier::Second),
            ("REST.HEAD.OBJECT", Tier::Second),
            ("REST.OPTIONS.PREFLIGHT", Tier::Second),
            ("WEBSITE.GET.OBJECT", Tier::Second),
            ("SOAP.ListBucket", Tier::Second),
            ("REST.DELETE.OBJECT", Tier::Free),
            ("BATCH.DELETE.OBJECT", Tier::Free),
            ("S3.EXPIRE.OBJECT", Tier::Free),
            ("S3.TRANSITION_SIA.OBJECT", Tier::Free),
            ("NEW", Tier::Second),
        ] {
            let line = with_tail(operation, "k", "r", "200");
            assert_eq!(tier(&LogLine::parse(line.as_bytes()).unwrap()), want, "{operation}");
        }
        for (requester, status, want) in [
            ("-", "403", Tier::Free),
            ("arn:aws:iam::1:user/a", "403", Tier::Second),
            ("r", "404", Tier::Second),
            ("r", "503", Tier::Free),
            ("r", "-", Tier::Second),
        ] {
            let line = with_tail("REST.GET.OBJECT", "k", requester, status);
            assert_eq!(tier(&LogLine::parse(line.as_bytes()).unwrap()), want, "{requester} {status}");
        }
    }

    #[test]
    fn a_key_is_decoded_as_often_as_it_was_encoded() {
        for (operation, key, want) in [
            ("REST.GET.OBJECT", "c/a/b", "c/a/b"),
            ("REST.GET.OBJECT", "c/%25C3%25A4/b%2520c", "c/ä/b c"),
            ("REST.GET.OBJECT", "c/%C3%A4/b%20c", "c/ä/b c"),
            ("REST.GET.OBJECT", "c/100%2525", "c/100%"),
            ("REST.GET.OBJECT", "c/100%25", "c/100%"),
            ("REST.GET.OBJECT", "c/a%252541", "c/a%41"),
            ("S3.EXPIRE.OBJECT", "c/a%2541", "c/a%41"),
            ("BATCH.DELETE.OBJECT", "c/a%2541", "c/a%41"),
            ("REST.GET.OBJECT", "c/%zz", ""),
            ("REST.GET.OBJECT", "c/%ff", ""),
            ("REST.GET.BUCKET", "-", ""),
        ] {
            let line = with_tail(operation, key, "r", "200");
            assert_eq!(decoded(&LogLine::parse(line.as_bytes()).unwrap()), want, "{operation} {key}");
        }
    }

    #[test]
    fn customers_beyond_the_limit_are_an_error() {
        let mut customers = Customers::default();
        for number in 0..CUSTOMERS {
            customers.number(&number.to_string()).unwrap();
        }
        assert_eq!(customers.number("7").unwrap().1, 7 + FIRST_CUSTOMER);
        let error = customers.number("one more").unwrap_err().to_string();
        assert!(error.contains("`one more`") && error.contains("customer_pattern"), "{error}");
    }

    #[test]
    fn private_addresses_are_inside() {
        for (address, inside) in [
            ("10.0.3.7", true),
            ("172.16.0.1", true),
            ("172.32.0.1", false),
            ("192.168.1.1", true),
            ("192.0.2.3", false),
            ("1.2.3.4", false),
            ("100.64.0.1", false),
            ("fd00:ec2::1", true),
            ("fe80::1", false),
            ("2001:db8::1", false),
            ("-", false),
            ("10.", false),
            ("", false),
        ] {
            assert_eq!(is_inside(address.as_bytes()), inside, "{address}");
        }
    }
}
