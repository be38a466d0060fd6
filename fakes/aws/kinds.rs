//! The kinds of lines in a bill: what is metered, what only looks like it, and what everybody
//! else's bill is full of.

use crate::amount::ONE;

/// The meters that totals are given for.
pub(crate) const METERS: [&str; 3] = ["chime_minutes", "storage_gb", "transfer_gb"];

/// What a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LineType {
    Usage,
    /// Usage that a reservation covers; only EC2, only in the legacy layout.
    DiscountedUsage,
    /// Same product and usage type as usage, but amount 0.
    Credit,
    /// Amount 1, no usage type.
    Tax,
}

impl LineType {
    pub(crate) const ALL: [Self; 4] = [Self::Usage, Self::DiscountedUsage, Self::Credit, Self::Tax];

    /// Place in [`Self::ALL`].
    pub(crate) fn index(self) -> usize {
        match self {
            Self::Usage => 0,
            Self::DiscountedUsage => 1,
            Self::Credit => 2,
            Self::Tax => 3,
        }
    }

    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Usage => "Usage",
            Self::DiscountedUsage => "DiscountedUsage",
            Self::Credit => "Credit",
            Self::Tax => "Tax",
        }
    }
}

/// What a line's resource id names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resource {
    None,
    Bucket,
    Meeting,
    /// A machine of the provider itself.
    Instance,
}

/// A kind of line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    pub(crate) product: &'static str,
    pub(crate) product_name: &'static str,
    pub(crate) service: &'static str,
    pub(crate) family: &'static str,
    pub(crate) usage_type: &'static str,
    pub(crate) operation: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) region: &'static str,
    pub(crate) location: &'static str,
    pub(crate) resource: Resource,
    /// Price of one unit, scaled.
    pub(crate) rate: i64,
    /// What amounts are multiples of, scaled.
    pub(crate) step: i64,
    /// The largest amount, in steps; a typical one is a third of it.
    pub(crate) steps: i64,
    /// How often, among the lines of the same half of the table.
    pub(crate) weight: u32,
    /// Billed once a day, not every hour.
    pub(crate) daily: bool,
    /// Place in [`METERS`].
    pub(crate) meter: Option<usize>,
}

/// How many of [`KINDS`], from the start, are of Chime or S3; the rest is noise, and lines of a
/// shared bucket alone.
pub(crate) const METERED: usize = 7;

/// The places of what a shared bucket is billed for.
pub(crate) const S3_STORAGE: usize = 3;
pub(crate) const S3_TRANSFER: usize = 5;
pub(crate) const S3_TIER_1: usize = 6;
pub(crate) const S3_INFREQUENT: usize = 13;
pub(crate) const S3_TIER_2: usize = 14;

/// All kinds of lines.
pub(crate) const KINDS: [Kind; 15] = [
    MEETINGS,
    Kind {
        usage_type: "EUC1-Meetings-AttendeeMinutes",
        region: "eu-central-1",
        location: "EU (Frankfurt)",
        steps: 750,
        weight: 10,
        ..MEETINGS
    },
    // Minutes, but not of attendees.
    Kind {
        product: "AmazonChimeVoiceConnector",
        product_name: "Amazon Chime Voice Connector",
        service: "AmazonChimeVoiceConnector",
        usage_type: "USE1-VoiceConnector-OutboundMinutes",
        operation: "Call",
        steps: 150,
        weight: 3,
        meter: None,
        ..MEETINGS
    },
    STORAGE,
    Kind {
        usage_type: "EUC1-TimedStorage-ByteHrs",
        region: "eu-central-1",
        location: "EU (Frankfurt)",
        steps: 6 * ONE / 100,
        weight: 6,
        ..STORAGE
    },
    Kind {
        service: "AWSDataTransfer",
        family: "Data Transfer",
        usage_type: "DataTransfer-Out-Bytes",
        operation: "GetObject",
        unit: "GB",
        rate: 9 * ONE / 100,
        steps: 9 * ONE / 10,
        weight: 10,
        daily: false,
        meter: Some(2),
        ..STORAGE
    },
    Kind {
        family: "API Request",
        usage_type: "Requests-Tier1",
        operation: "PutObject",
        unit: "Requests",
        rate: ONE / 200_000,
        step: ONE,
        steps: 30,
        weight: 6,
        daily: false,
        meter: None,
        ..STORAGE
    },
    MACHINE,
    Kind {
        family: "Storage",
        usage_type: "EBS:VolumeUsage.gp3",
        operation: "CreateVolume-Gp3",
        unit: "GB-Mo",
        rate: 8 * ONE / 100,
        step: 1,
        steps: ONE / 10,
        weight: 20,
        ..MACHINE
    },
    // The usage type of S3's transfer, of another product.
    Kind {
        service: "AWSDataTransfer",
        family: "Data Transfer",
        usage_type: "DataTransfer-Out-Bytes",
        unit: "GB",
        rate: 9 * ONE / 100,
        step: 1,
        steps: ONE / 2,
        weight: 10,
        ..MACHINE
    },
    Kind {
        product: "AWSLambda",
        product_name: "AWS Lambda",
        service: "AWSLambda",
        family: "Serverless",
        usage_type: "Lambda-GB-Second",
        operation: "Invoke",
        unit: "Lambda-GB-Second",
        resource: Resource::None,
        rate: 166_667,
        step: 1,
        steps: 100 * ONE,
        weight: 20,
        ..MACHINE
    },
    LOGS,
    Kind {
        family: "API Request",
        usage_type: "CW:Requests",
        operation: "GetMetricData",
        unit: "Requests",
        rate: ONE / 100_000,
        step: ONE,
        steps: 500,
        weight: 5,
        daily: false,
        ..LOGS
    },
    // These two are only of a shared bucket.
    Kind {
        usage_type: "TimedStorage-SIA-ByteHrs",
        operation: "StandardIAStorage",
        rate: 125 * ONE / 10_000,
        weight: 0,
        ..STORAGE
    },
    Kind {
        family: "API Request",
        usage_type: "Requests-Tier2",
        operation: "GetObject",
        unit: "Requests",
        rate: ONE / 2_500_000,
        step: ONE,
        weight: 0,
        daily: false,
        meter: None,
        ..STORAGE
    },
];

const MEETINGS: Kind = Kind {
    product: "AmazonChime",
    product_name: "Amazon Chime",
    service: "AmazonChime",
    family: "Communications",
    usage_type: "USE1-Meetings-AttendeeMinutes",
    operation: "CreateMeeting",
    unit: "minutes",
    region: "us-east-1",
    location: "US East (N. Virginia)",
    resource: Resource::Meeting,
    rate: 17 * ONE / 10_000,
    // Attendee minutes are billed by tenths.
    step: ONE / 10,
    steps: 900,
    weight: 45,
    daily: false,
    meter: Some(0),
};

const STORAGE: Kind = Kind {
    product: "AmazonS3",
    product_name: "Amazon Simple Storage Service",
    service: "AmazonS3",
    family: "Storage",
    usage_type: "TimedStorage-ByteHrs",
    operation: "StandardStorage",
    unit: "GB-Mo",
    resource: Resource::Bucket,
    rate: 23 * ONE / 1000,
    step: 1,
    steps: 3 * ONE / 100,
    weight: 20,
    daily: true,
    meter: Some(1),
    ..MEETINGS
};

const MACHINE: Kind = Kind {
    product: "AmazonEC2",
    product_name: "Amazon Elastic Compute Cloud",
    service: "AmazonEC2",
    family: "Compute Instance",
    usage_type: "BoxUsage:t3.medium",
    operation: "RunInstances",
    unit: "Hrs",
    resource: Resource::Instance,
    rate: 416 * ONE / 10_000,
    step: ONE,
    steps: 1,
    weight: 35,
    daily: false,
    meter: None,
    ..MEETINGS
};

/// The usage type of S3's storage, of another product.
const LOGS: Kind = Kind {
    product: "AmazonCloudWatch",
    product_name: "AmazonCloudWatch",
    service: "AmazonCloudWatch",
    resource: Resource::None,
    rate: 3 * ONE / 100,
    weight: 10,
    meter: None,
    ..STORAGE
};

impl Kind {
    /// Lines that a reservation may cover.
    pub(crate) fn reservable(&self) -> bool {
        self.usage_type.starts_with("BoxUsage")
    }
}

/// The first kind of every product: those that tax is due on.
pub(crate) fn taxed() -> impl Iterator<Item = usize> {
    (0..KINDS.len()).filter(|&at| KINDS[..at].iter().all(|earlier| earlier.product != KINDS[at].product))
}
