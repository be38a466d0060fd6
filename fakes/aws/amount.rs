//! Amounts: integers scaled by 10^10, as real bills have at most 10 decimals, and the forms they
//! take in files.

/// 1, scaled.
pub(crate) const ONE: i64 = 10_000_000_000;

const DECIMALS: usize = 10;

/// The double nearest to the amount: both sides of the division are exact below 2^53, and a
/// division rounds once.
#[expect(clippy::float_arithmetic, clippy::as_conversions, reason = "the one door from exact amounts to doubles")]
pub(crate) fn double(scaled: i64) -> f64 {
    scaled as f64 / ONE as f64
}

/// An amount times a rate, rounded down.
pub(crate) fn times(amount: i64, rate: i64) -> i64 {
    i64::try_from(i128::from(amount) * i128::from(rate) / i128::from(ONE)).unwrap_or(i64::MAX)
}

/// A rate as bills spell it: always 10 decimals.
pub(crate) fn rate_text(scaled: i64) -> String {
    format!("{}.{:010}", scaled / ONE, scaled % ONE)
}

/// The amount as Java spells a double: `1.5`, `0.0`, `5.79375E-5`.
pub(crate) fn push_java(scaled: i64, out: &mut String) {
    if scaled < 0 {
        out.push('-');
    }
    let digits = scaled.unsigned_abs().to_string();
    let significant = digits.trim_end_matches('0');
    if significant.is_empty() {
        out.push_str("0.0");
    } else if digits.len() > DECIMALS {
        let (whole, fraction) = digits.split_at(digits.len() - DECIMALS);
        if whole.len() > 7 {
            return push_exponent(significant, &(whole.len() - 1).to_string(), out);
        }
        out.extend([whole, ".", or_zero(fraction.trim_end_matches('0'))]);
    } else {
        let zeros = DECIMALS - digits.len();
        if zeros >= 3 {
            return push_exponent(significant, &format!("-{}", zeros + 1), out);
        }
        out.extend(["0.", &"00"[..zeros], significant]);
    }
}

fn push_exponent(significant: &str, exponent: &str, out: &mut String) {
    let (first, rest) = significant.split_at(1);
    out.extend([first, ".", or_zero(rest), "E", exponent]);
}

fn or_zero(digits: &str) -> &str {
    if digits.is_empty() { "0" } else { digits }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn java(scaled: i64) -> String {
        let mut out = String::new();
        push_java(scaled, &mut out);
        out
    }

    #[test]
    fn amounts_are_spelled_as_java_does() {
        for (scaled, text) in [
            (0, "0.0"),
            (ONE, "1.0"),
            (-52_000, "-5.2E-6"),
            (579_375, "5.79375E-5"),
            (9_539_099, "9.539099E-4"),
            (10_000_000, "0.001"),
            (9_999_999, "9.999999E-4"),
            (1, "1.0E-10"),
            (500_000_000, "0.05"),
            (125_000_000_000, "12.5"),
            (9_999_999 * ONE, "9999999.0"),
            (12_345_678 * ONE, "1.2345678E7"),
        ] {
            assert_eq!(java(scaled), text);
        }
    }

    #[test]
    fn the_door_gives_the_nearest_double() {
        for scaled in [0_i64, 1, 3, 7_777_777_777, 579_375, -52_000, 123_456_789_012_345, 9_007_199_254_740_991] {
            let magnitude = rate_text(scaled.abs());
            let text = if scaled < 0 { format!("-{magnitude}") } else { magnitude };
            assert_eq!(Ok(double(scaled)), text.parse::<f64>(), "{text}");
            assert_eq!(Ok(double(scaled)), java(scaled).parse::<f64>(), "{text}");
        }
    }
}
