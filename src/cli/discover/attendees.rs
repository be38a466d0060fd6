//! What looks like attendee minutes of the Amazon Chime SDK. AWS does not publish their usage type;
//! it does publish their price. A price proposes, and never claims: other charges may have it, too.

use rust_decimal::Decimal;

/// Words of other charges of Amazon Chime, which may be billed by the minute.
const OTHER_CHARGES: [&str; 14] = [
    "capture",
    "concat",
    "connector",
    "dial",
    "inbound",
    "insight",
    "kinesis",
    "messag",
    "outbound",
    "pstn",
    "recording",
    "replic",
    "stream",
    "transcri",
];

/// The price of an attendee minute in USD (<https://aws.amazon.com/chime/chime-sdk/pricing/>).
pub(super) fn price() -> Decimal {
    Decimal::new(17, 4)
}

/// Whether a unit is a minute, as AWS writes it.
pub(super) fn is_minute(unit: &str) -> bool {
    let unit = unit.to_ascii_lowercase();
    unit.contains("minute") || matches!(unit.as_str(), "min" | "mins")
}

/// Whether these words name another charge than attendee minutes.
pub(super) fn is_other_charge<'a>(mut texts: impl Iterator<Item = &'a str>) -> bool {
    texts.any(|text| OTHER_CHARGES.iter().any(|word| text.to_ascii_lowercase().contains(word)))
}

/// Whether words speak of attendees.
pub(super) fn names_attendees<'a>(mut texts: impl Iterator<Item = &'a str>) -> bool {
    texts.any(|text| text.to_ascii_lowercase().contains("attendee"))
}
