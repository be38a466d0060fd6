//! Usage types as patterns: without the prefix of a region, so that one pattern fits all regions.

/// Whether the part of a usage type before a `-` is a region: `USE1`, `APS3`, `EU`. `US` is none,
/// because `US-inbound-minutes` is of a country.
fn is_region(part: &str) -> bool {
    let (letters, digit) = part.split_at(part.len().saturating_sub(1));
    let is_numbered = digit.chars().all(|c| c.is_ascii_digit())
        && (2..=4).contains(&letters.len())
        && letters.chars().all(|c| c.is_ascii_uppercase());
    is_numbered || matches!(part, "EU" | "CPT")
}

/// The usage type without its regions, of which traffic between regions has two.
pub(super) fn without_regions(usage_type: &str) -> &str {
    let mut rest = usage_type;
    for _ in 0..2 {
        match rest.split_once('-') {
            Some((part, after)) if part.is_ascii() && is_region(part) && !after.is_empty() => rest = after,
            _ => break,
        }
    }
    rest
}

/// A pattern that fits a text: `*` in place of what no pattern can have, and of what a person
/// cannot read.
pub(super) fn pattern(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_graphic() { c } else { '*' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use books::usage::meter::Pattern;

    #[test]
    fn a_pattern_fits_what_it_was_made_of_in_every_region() {
        for (usage_type, without) in [
            ("USE1-VC-kinesis-audio-streaming", "VC-kinesis-audio-streaming"),
            ("USE1-US-US-outbound-minutes", "US-US-outbound-minutes"),
            ("USE1-EUW2-AWS-Out-Bytes", "AWS-Out-Bytes"),
            ("EU-Requests-Tier1", "Requests-Tier1"),
            ("EUC1-EUC1-EUC1-x", "EUC1-x"),
            ("AttendeeMinutes", "AttendeeMinutes"),
            ("S3-x", "S3-x"),
            ("USE1-", "USE1-"),
            ("é1-x", "é1-x"),
            ("", ""),
        ] {
            assert_eq!(without_regions(usage_type), without, "{usage_type}");
            if !usage_type.is_empty() {
                let pattern = Pattern::usage_type(&pattern(without)).unwrap();
                assert!(pattern.matches(usage_type), "{usage_type}");
                assert!(pattern.matches(&format!("APS3-{without}")), "{usage_type}");
            }
        }
        assert_eq!(pattern("calls in\u{202e}\nrooms"), "calls*in**rooms");
    }
}
