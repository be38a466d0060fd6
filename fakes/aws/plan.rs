//! The lines of a bill, one after the other, without any file format.
//!
//! Every day draws from its own stream of chance, and a restatement from another. So the layout,
//! the file format and the number of files do not change a line, and neither do the days that
//! follow it.

use anyhow::Result;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::amount::ONE;
use crate::kinds::{KINDS, Kind, LineType, METERED, Resource, taxed};
use crate::places::Month;
use crate::random::{hash, stream};
use crate::{Layout, Spec, bucket};

/// The provider's own machines.
const INSTANCES: usize = 64;

/// The largest customers, by size.
const NAMES: [&str; 12] = [
    "acme",
    "bakery",
    "climbing-gym",
    "dance-school",
    "escape-room",
    "florist",
    "guitar-lessons",
    "hair-salon",
    "ice-rink",
    "judo-club",
    "kite-school",
    "law-office",
];

/// The id of the customer of a rank: one that a person remembers, or its number.
fn customer_name(rank: u32) -> String {
    let at = usize::try_from(rank).ok().and_then(|rank| rank.checked_sub(1));
    match at.and_then(|at| NAMES.get(at)) {
        Some(name) => (*name).to_owned(),
        None => format!("customer-{rank:04}"),
    }
}

/// One line of a bill.
pub(crate) struct Line {
    pub(crate) id: u128,
    /// Place in [`KINDS`].
    pub(crate) kind: usize,
    pub(crate) line_type: LineType,
    /// Hours since the month began; the end is not part of the line.
    pub(crate) start: u16,
    pub(crate) end: u16,
    /// Place in the pool's customers plus one; 0 without the tag.
    pub(crate) customer: usize,
    /// Place in the pool's resources.
    pub(crate) resource: usize,
    pub(crate) labelled: bool,
    pub(crate) amount: i64,
}

/// Who and what lines are drawn for.
pub(crate) struct Pool {
    pub(crate) customers: Vec<String>,
    /// Upper ends of the customers' parts of the whole: a few are large.
    ends: Vec<u64>,
    account: String,
    /// The bucket that they share, if there is one.
    shared: Option<String>,
}

impl Pool {
    pub(crate) fn new(spec: &Spec) -> Self {
        let customers = (1..=spec.customers).map(customer_name).collect();
        let parts = (1..=u64::from(spec.customers)).scan(0, |end, rank| {
            *end += (1 << 32) / rank;
            Some(*end)
        });
        let shared = spec.shared_bucket.as_ref().map(|bill| bill.bucket.clone());
        Self { customers, ends: parts.collect(), account: spec.account.clone(), shared }
    }

    /// A customer, the large ones more often.
    fn customer(&self, chance: &mut ChaCha8Rng) -> usize {
        let whole = self.ends.last().copied().unwrap_or(1);
        let point = chance.random_range(0..whole);
        self.ends.partition_point(|end| *end <= point)
    }

    /// All resource ids; the first is none.
    pub(crate) fn resources(&self) -> Vec<String> {
        let customers = 1..=self.customers.len();
        let buckets = customers.clone().map(|number| format!("chat-uploads-{number:06}"));
        let meetings = customers.map(|n| format!("arn:aws:chime:us-east-1:{}:meeting/room-{n:06}", self.account));
        let instances = (0..INSTANCES).map(|number| format!("i-0{:016x}", hash(&format!("instance {number}"))));
        let all = [String::new()].into_iter().chain(buckets).chain(meetings).chain(instances);
        all.chain(self.shared.clone()).collect()
    }

    fn resource(&self, resource: Resource, customer: usize, instance: usize) -> usize {
        match resource {
            Resource::None => 0,
            Resource::Bucket => 1 + customer,
            Resource::Meeting => 1 + self.customers.len() + customer,
            Resource::Instance => 1 + 2 * self.customers.len() + instance,
        }
    }

    fn shared_bucket(&self) -> usize {
        1 + 2 * self.customers.len() + INSTANCES
    }
}

/// All lines of a bill, in order: the taxes, then day by day in turn, then those of the shared
/// bucket.
pub(crate) struct Plan<'a> {
    spec: &'a Spec,
    pool: &'a Pool,
    month: &'a Month,
    taxes: Vec<usize>,
    tax_chance: ChaCha8Rng,
    days: Vec<ChaCha8Rng>,
    day: usize,
    changes: Option<ChaCha8Rng>,
    left: u64,
    /// Those of the shared bucket that are left.
    of_bucket: &'a [bucket::BucketLine],
    bucket_chance: ChaCha8Rng,
}

impl<'a> Plan<'a> {
    pub(crate) fn new(spec: &'a Spec, month: &'a Month, pool: &'a Pool) -> Result<Self> {
        let first = u64::try_from(i32::from(spec.year) * 12 + i32::from(spec.month))? * 64;
        let restated = u64::from(spec.restated);
        Ok(Self {
            spec,
            pool,
            month,
            taxes: taxed().collect::<Vec<_>>().into_iter().rev().collect(),
            tax_chance: stream(spec.seed, first),
            days: (1..=u64::from(month.days_to_date)).map(|day| stream(spec.seed, first + day)).collect(),
            day: 0,
            changes: (restated > 0).then(|| stream(spec.seed, (restated << 32) + first)),
            left: spec.rows,
            of_bucket: bucket_lines(spec, month),
            bucket_chance: stream(spec.seed, hash("lines of the shared bucket")),
        })
    }

    /// The next lines, at most so many.
    pub(crate) fn take(&mut self, most: usize) -> impl Iterator<Item = Line> {
        (0..most).map_while(|_| self.next())
    }

    fn next(&mut self) -> Option<Line> {
        let Some(left) = self.left.checked_sub(1) else { return self.of_bucket() };
        self.left = left;
        if let Some(kind) = self.taxes.pop() {
            return Some(self.tax(kind));
        }
        let day = self.day;
        self.day = (day + 1) % self.days.len();
        let hour = u16::try_from(day * 24).ok()?;
        let drawn = draw(self.spec, self.pool, hour, &mut self.days[day]);
        match &mut self.changes {
            Some(changes) if day + 1 < self.days.len() => Some(restate(self.spec, self.pool, hour, changes, drawn)),
            _ => Some(drawn),
        }
    }

    /// The next line of the shared bucket, which has no customer.
    fn of_bucket(&mut self) -> Option<Line> {
        let (line, rest) = self.of_bucket.split_first()?;
        self.of_bucket = rest;
        let start = line.day * 24 + line.hour;
        Some(Line {
            id: self.bucket_chance.random(),
            kind: bucket::kind_of(line),
            line_type: LineType::Usage,
            start,
            end: start + 1,
            customer: 0,
            resource: self.pool.shared_bucket(),
            labelled: false,
            amount: line.amount,
        })
    }

    /// The tax on a product: amount 1, the whole month.
    fn tax(&mut self, kind: usize) -> Line {
        Line {
            id: self.tax_chance.random(),
            kind,
            line_type: LineType::Tax,
            start: 0,
            end: self.month.hours,
            customer: 0,
            resource: 0,
            labelled: false,
            amount: ONE,
        }
    }
}

/// The lines of the shared bucket on the days with usage so far.
pub(crate) fn bucket_lines<'a>(spec: &'a Spec, month: &Month) -> &'a [bucket::BucketLine] {
    let Some(bill) = &spec.shared_bucket else { return &[] };
    let end = bill.lines.partition_point(|line| line.day < u16::from(month.days_to_date));
    &bill.lines[..end]
}

/// A new line of the day that begins with `hour`.
fn draw(spec: &Spec, pool: &Pool, hour: u16, chance: &mut ChaCha8Rng) -> Line {
    let metered = chance.random_range(0..100) < spec.share_percent;
    let (first, kinds) = if metered { (0, &KINDS[..METERED]) } else { (METERED, &KINDS[METERED..]) };
    let kind = first + weighted(kinds, chance);
    let is = &KINDS[kind];
    let credit = chance.random_range(0..100) == 0;
    let customer = pool.customer(chance);
    let tagged = chance.random_range(0..100) >= spec.untagged_percent && metered && !spec.tag_column_missing;
    let instance = chance.random_range(0..INSTANCES);
    let any_hour = chance.random_range(0..24);
    let start = hour + if is.daily { u16::try_from(customer % 13).unwrap_or(0) } else { any_hour };
    let amount = is.step * (1 + chance.random_range(0..is.steps).min(chance.random_range(0..is.steps)));
    let discounted = chance.random_range(0..4) == 0 && is.reservable() && spec.layout == Layout::Legacy;
    Line {
        id: chance.random(),
        kind,
        line_type: match (credit, discounted) {
            (true, _) => LineType::Credit,
            (false, true) => LineType::DiscountedUsage,
            (false, false) => LineType::Usage,
        },
        start,
        end: start + 1,
        customer: if tagged { 1 + customer } else { 0 },
        resource: pool.resource(is.resource, customer, instance),
        labelled: chance.random(),
        amount: if credit { 0 } else { amount },
    }
}

/// A place among the kinds, the weighty ones more often.
fn weighted(kinds: &[Kind], chance: &mut ChaCha8Rng) -> usize {
    let mut point = chance.random_range(0..kinds.iter().map(|kind| kind.weight).sum());
    for (at, kind) in kinds.iter().enumerate() {
        match point.checked_sub(kind.weight) {
            Some(rest) => point = rest,
            None => return at,
        }
    }
    0
}

/// What a restatement makes of a line: mostly the same, seldom another amount, very seldom another
/// line.
fn restate(spec: &Spec, pool: &Pool, hour: u16, changes: &mut ChaCha8Rng, line: Line) -> Line {
    let change = changes.random_range(0..300);
    if change == 0 {
        return draw(spec, pool, hour, changes);
    }
    if change > 10 || line.amount == 0 {
        return line;
    }
    let step = KINDS[line.kind].step;
    let by = (line.amount / 1000 * changes.random_range(1..=20) / step).max(1) * step;
    let up = changes.random::<bool>();
    Line { amount: if up { line.amount + by } else { line.amount - by }, ..line }
}
