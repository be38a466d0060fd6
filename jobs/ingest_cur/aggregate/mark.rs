//! Marks on line types. Some lines fit a meter and have a line type that counts, and are left out:
//! split-cost children and faulty lines. A mark on the line type puts them into a line group of
//! their own, which is excluded, so that the sums of a meter still add up.

/// Marks the line type of lines that are summed apart from others of their kind. Sums of parts and
/// line groups are stored with the mark at the end of the line type; only this file writes and
/// reads that text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Mark {
    /// A split-cost child. The parent line carries the usage already.
    Split,
    NoAmount,
    TooLarge,
    NoDay,
    OtherPeriod,
    /// Usage of a part of a bucket, which the bucket's own line has already.
    PartOfBucket,
}

impl Mark {
    const ALL: [Self; 6] =
        [Self::Split, Self::NoAmount, Self::TooLarge, Self::NoDay, Self::OtherPeriod, Self::PartOfBucket];

    const fn text(self) -> &'static str {
        match self {
            Self::Split => " (split line item)",
            Self::NoAmount => " (no readable amount)",
            Self::TooLarge => " (amount too large)",
            Self::NoDay => " (no readable day)",
            Self::OtherPeriod => " (of another billing period)",
            Self::PartOfBucket => " (part of a bucket)",
        }
    }

    /// A line type with this mark.
    pub(super) fn put_on(self, line_type: &str) -> String {
        format!("{line_type}{}", self.text())
    }

    /// Whether a line type has this mark.
    pub(crate) fn is_on(self, line_type: &str) -> bool {
        Self::strip(line_type).1.contains(&self)
    }

    /// A line type without its marks, and the marks.
    pub(super) fn strip(line_type: &str) -> (&str, Vec<Self>) {
        let (mut plain, mut marks) = (line_type, vec![]);
        let stripped = |plain: &'_ str| Self::ALL.into_iter().find(|mark| plain.ends_with(mark.text()));
        while let Some(mark) = stripped(plain) {
            plain = plain.strip_suffix(mark.text()).unwrap_or_default();
            marks.push(mark);
        }
        (plain, marks)
    }
}
