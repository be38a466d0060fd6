//! Who asked the bucket for what.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::draw::{Drawn, chance_of, is_one_of};
use super::objects::{BucketObject, Listing, ObjectEnd};
use super::{BucketWorld, DAY};

/// Lists of the bucket's keys on each day; they are nobody's.
const LISTS_PER_DAY: u32 = 5;
/// Bytes of the answer to a request that failed.
const ERROR_BYTES: u64 = 243;

/// How AWS bills a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestTier {
    Free,
    First,
    Second,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Put,
    StartUpload,
    PutPart,
    Get,
    Head,
    List,
    Delete,
    /// The lifecycle removes an object.
    Expire,
    /// The lifecycle removes the parts of an upload.
    AbortUpload,
}

impl Operation {
    /// As access logs name it, with the method of its request.
    pub(super) fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Put => ("REST.PUT.OBJECT", "PUT"),
            Self::StartUpload => ("REST.POST.UPLOADS", "POST"),
            Self::PutPart => ("REST.PUT.PART", "PUT"),
            Self::Get => ("REST.GET.OBJECT", "GET"),
            Self::Head => ("REST.HEAD.OBJECT", "HEAD"),
            Self::List => ("REST.GET.BUCKET", "GET"),
            Self::Delete => ("REST.DELETE.OBJECT", "DELETE"),
            Self::Expire => ("S3.EXPIRE.OBJECT", "-"),
            Self::AbortUpload => ("S3.DELETE.UPLOAD", "-"),
        }
    }

    pub(super) fn is_of_lifecycle(self) -> bool {
        matches!(self, Self::Expire | Self::AbortUpload)
    }
}

/// Who sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Requester {
    /// Somebody with an address that the web backend signed.
    Signed,
    /// Somebody without credentials.
    Anonymous,
    Lifecycle,
}

/// What becomes of its line in the access logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineFate {
    Once,
    Twice,
    Late,
    Lost,
}

/// A request. Its time is in seconds since 1970.
#[derive(Clone, Debug)]
pub(super) struct BucketRequest {
    pub(super) time: i64,
    pub(super) id: String,
    pub(super) operation: Operation,
    /// Empty for a list.
    pub(super) key: String,
    /// Whose it is: a place among the customers.
    pub(super) customer: Option<usize>,
    /// Whom the parameter `x-cc` of the signed address names.
    pub(super) parameter: Option<usize>,
    pub(super) requester: Requester,
    /// 0 for what the lifecycle does.
    pub(super) status: u16,
    pub(super) sent: Option<u64>,
    pub(super) object_bytes: u64,
    pub(super) tier: RequestTier,
    pub(super) fate: LineFate,
}

impl BucketRequest {
    /// Bytes of an object that were sent, which is what AWS bills.
    pub(super) fn bytes_out(&self) -> u64 {
        let sends = self.operation == Operation::Get && matches!(self.status, 200 | 206);
        if sends { self.sent.unwrap_or(0) } else { 0 }
    }
}

/// The requests about the objects of a day, which are those from `from` on.
pub(super) fn draw(world: &mut BucketWorld, day: i64, from: usize) {
    let mut chance = chance_of(world, Drawn::Requests, day);
    let mut found = vec![];
    for object in &world.objects[from..] {
        let of = Of { world, object };
        match object.listing {
            Listing::Unfinished => of.unfinished(&mut chance, &mut found),
            Listing::Listed | Listing::Lost => of.whole(&mut chance, &mut found),
        }
    }
    for _ in 0..LISTS_PER_DAY {
        let time = world.calendar.second(day) + chance.random_range(0..DAY);
        found.push(BucketRequest {
            time,
            id: id(&mut chance),
            operation: Operation::List,
            key: String::new(),
            customer: None,
            parameter: None,
            requester: Requester::Signed,
            status: 200,
            sent: Some(5_000),
            object_bytes: 0,
            tier: RequestTier::First,
            fate: LineFate::Once,
        });
    }
    let mut fates = chance_of(world, Drawn::Lines, day);
    for request in &mut found {
        request.fate = fate(world, &mut fates);
    }
    world.requests.extend(found);
}

fn fate(world: &BucketWorld, chance: &mut ChaCha8Rng) -> LineFate {
    let shares = world.spec.shares;
    let [lost, late, twice] =
        [shares.lost_lines, shares.late_lines, shares.doubled_lines].map(|share| is_one_of(share, chance));
    match (lost, late, twice) {
        (true, ..) => LineFate::Lost,
        (_, true, _) => LineFate::Late,
        (_, _, true) => LineFate::Twice,
        _ => LineFate::Once,
    }
}

/// S3's id of a request: 16 hexadecimal digits.
fn id(chance: &mut ChaCha8Rng) -> String {
    format!("{:016X}", chance.random::<u64>())
}

/// What is asked about an object.
#[derive(Clone, Copy)]
struct Of<'a> {
    world: &'a BucketWorld,
    object: &'a BucketObject,
}

impl Of<'_> {
    /// A request about the object by whom its key names; the parameter names them, too, in half of
    /// them.
    fn request(&self, operation: Operation, time: i64, chance: &mut ChaCha8Rng) -> BucketRequest {
        let object = self.object;
        let customer = object.customer;
        BucketRequest {
            time,
            id: id(chance),
            operation,
            key: object.key.clone(),
            customer,
            parameter: customer.filter(|_| chance.random()),
            requester: Requester::Signed,
            status: 200,
            sent: None,
            object_bytes: object.bytes,
            tier: RequestTier::Second,
            fate: LineFate::Once,
        }
    }

    fn by_lifecycle(&self, operation: Operation, chance: &mut ChaCha8Rng) -> BucketRequest {
        BucketRequest {
            parameter: None,
            requester: Requester::Lifecycle,
            status: 0,
            tier: RequestTier::Free,
            ..self.request(operation, self.object.removed, chance)
        }
    }

    fn unfinished(&self, chance: &mut ChaCha8Rng, found: &mut Vec<BucketRequest>) {
        let start = self.object.created;
        for (operation, after) in [(Operation::StartUpload, 0), (Operation::PutPart, 2), (Operation::PutPart, 5)] {
            let request = self.request(operation, start + after, chance);
            found.push(BucketRequest { tier: RequestTier::First, ..request });
        }
        found.push(self.by_lifecycle(Operation::AbortUpload, chance));
    }

    fn whole(&self, chance: &mut ChaCha8Rng, found: &mut Vec<BucketRequest>) {
        let object = self.object;
        let put = self.request(Operation::Put, object.created, chance);
        found.push(BucketRequest { tier: RequestTier::First, ..put });
        for _ in 0..chance.random_range(0..5) {
            let time = chance.random_range(object.created..object.ended);
            found.push(self.look(time, chance));
        }
        match object.end {
            ObjectEnd::Lifecycle => found.push(self.by_lifecycle(Operation::Expire, chance)),
            ObjectEnd::Deleted => {
                let delete = self.request(Operation::Delete, object.removed, chance);
                found.push(BucketRequest { status: 204, tier: RequestTier::Free, ..delete });
            }
            // the request of the new object is that of the new object
            ObjectEnd::Overwritten => {}
        }
        if chance.random_range(0..10) == 0 {
            let late = self.request(Operation::Get, object.removed + 60, chance);
            let (status, sent) =
                if object.end == ObjectEnd::Overwritten { (304, None) } else { (404, Some(ERROR_BYTES)) };
            found.push(BucketRequest { status, sent, ..late });
        }
    }

    /// Somebody fetches the object, or tries to.
    fn look(&self, time: i64, chance: &mut ChaCha8Rng) -> BucketRequest {
        let bytes = self.object.bytes;
        let get = self.request(Operation::Get, time, chance);
        let other = chance.random_range(0..self.world.spec.customers.len());
        if is_one_of(self.world.spec.shares.contradicting, chance)
            && self.object.customer.is_some_and(|own| own != other)
        {
            return BucketRequest { customer: None, parameter: Some(other), sent: Some(bytes), ..get };
        }
        let get = match self.object.customer {
            // nobody's object, fetched with somebody's address
            None if chance.random() => BucketRequest { customer: Some(other), parameter: Some(other), ..get },
            _ => get,
        };
        match chance.random_range(0..20) {
            0 | 1 => BucketRequest { operation: Operation::Head, ..get },
            2 | 3 => BucketRequest { status: 206, sent: Some(1 + bytes / 3), ..get },
            4 => BucketRequest { status: 304, ..get },
            5 => BucketRequest { status: 503, sent: Some(ERROR_BYTES), tier: RequestTier::Free, ..get },
            6 => {
                // what has no signature has no parameter of one
                let customer = self.object.customer;
                let (requester, tier) = (Requester::Anonymous, RequestTier::Free);
                BucketRequest {
                    customer,
                    parameter: None,
                    requester,
                    status: 403,
                    sent: Some(ERROR_BYTES),
                    tier,
                    ..get
                }
            }
            7 => BucketRequest { status: 403, sent: Some(ERROR_BYTES), ..get },
            _ => BucketRequest { sent: Some(bytes), ..get },
        }
    }
}
