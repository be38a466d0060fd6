//! Which lines of a bill are about something that S3's reports measure.

use super::Measure;

/// What a billed line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BilledMeasure {
    pub measure: Measure,
    /// S3's storage class, as an inventory names it; empty for requests and what they sent.
    pub class: &'static str,
}

/// The product code of S3.
pub const S3: &str = "AmazonS3";

/// Usage types without their region prefixes
/// (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/aws-usage-report-understand.html>).
/// Traffic inside AWS, minimum sizes, early deletions and monitoring are in no report of ours.
const TYPES: [(&str, Measure, &str); 16] = [
    ("TimedStorage-ByteHrs", Measure::ByteSeconds, "STANDARD"),
    ("TimedStorage-RRS-ByteHrs", Measure::ByteSeconds, "REDUCED_REDUNDANCY"),
    ("TimedStorage-SIA-ByteHrs", Measure::ByteSeconds, "STANDARD_IA"),
    ("TimedStorage-ZIA-ByteHrs", Measure::ByteSeconds, "ONEZONE_IA"),
    ("TimedStorage-GIR-ByteHrs", Measure::ByteSeconds, "GLACIER_IR"),
    ("TimedStorage-GlacierByteHrs", Measure::ByteSeconds, "GLACIER"),
    ("TimedStorage-GDA-ByteHrs", Measure::ByteSeconds, "DEEP_ARCHIVE"),
    ("TimedStorage-XZ-ByteHrs", Measure::ByteSeconds, "EXPRESS_ONEZONE"),
    ("TimedStorage-INT-FA-ByteHrs", Measure::ByteSeconds, INTELLIGENT),
    ("TimedStorage-INT-IA-ByteHrs", Measure::ByteSeconds, INTELLIGENT),
    ("TimedStorage-INT-AIA-ByteHrs", Measure::ByteSeconds, INTELLIGENT),
    ("TimedStorage-INT-AA-ByteHrs", Measure::ByteSeconds, INTELLIGENT),
    ("TimedStorage-INT-DAA-ByteHrs", Measure::ByteSeconds, INTELLIGENT),
    ("DataTransfer-Out-Bytes", Measure::BytesSent, ""),
    ("Requests-Tier1", Measure::Requests1, ""),
    ("Requests-Tier2", Measure::Requests2, ""),
];
/// Its access tiers are tiers of one storage class.
const INTELLIGENT: &str = "INTELLIGENT_TIERING";

/// What a line of this usage type is about; none for what no report measures.
pub fn measured(product: &str, usage_type: &str) -> Option<BilledMeasure> {
    let is_prefix = |text: &str| {
        text.is_empty()
            || text.strip_suffix('-').is_some_and(|names| {
                let is_region = |name: &str| {
                    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
                };
                names.split('-').count() <= 2 && names.split('-').all(is_region)
            })
    };
    let fits = |(name, ..): &&(&str, Measure, &str)| usage_type.strip_suffix(*name).is_some_and(is_prefix);
    let found = TYPES.iter().filter(|_| product == S3).find(fits);
    found.map(|(_, measure, class)| BilledMeasure { measure: *measure, class })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_types_have_region_prefixes_or_none() {
        for (usage_type, want) in [
            ("TimedStorage-ByteHrs", Some((Measure::ByteSeconds, "STANDARD"))),
            ("EUC1-TimedStorage-ByteHrs", Some((Measure::ByteSeconds, "STANDARD"))),
            ("EU-TimedStorage-SIA-ByteHrs", Some((Measure::ByteSeconds, "STANDARD_IA"))),
            ("EUC1-TimedStorage-INT-AIA-ByteHrs", Some((Measure::ByteSeconds, INTELLIGENT))),
            ("APN1-DataTransfer-Out-Bytes", Some((Measure::BytesSent, ""))),
            ("USE1-EUW2-DataTransfer-Out-Bytes", Some((Measure::BytesSent, ""))),
            ("EUC1-Requests-Tier1", Some((Measure::Requests1, ""))),
            ("Requests-Tier2", Some((Measure::Requests2, ""))),
            ("EUC1-Requests-SIA-Tier1", None),
            ("EUC1-AWS-Out-Bytes", None),
            ("EUC1-EarlyDelete-ByteHrs", None),
            ("EUC1-TimedStorage-SIA-SmObjects", None),
            ("eu-TimedStorage-ByteHrs", None),
            ("-TimedStorage-ByteHrs", None),
            ("A-B-C-DataTransfer-Out-Bytes", None),
            ("XTimedStorage-ByteHrs", None),
        ] {
            let found = measured(S3, usage_type).map(|m| (m.measure, m.class));
            assert_eq!(found, want, "{usage_type}");
        }
        assert_eq!(measured("AmazonChime", "TimedStorage-ByteHrs"), None);
    }
}
