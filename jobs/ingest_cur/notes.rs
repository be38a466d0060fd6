//! What a person should know of a version that can be booked all the same. Pure.
//!
//! The notes are stored with the version, so that `meter status` and `meter doctor` say the same
//! without reading the bill again. Other rules read the bill anew, and make new notes.

use std::collections::BTreeSet;

use super::aggregate::{Mark, Totals};
use super::read::FileStats;
use books::units::words::{count, several, verb};
use books::usage::bill::{BillNote, ClaimKind, LineKind, NoteKind};
use books::usage::meter::Rules;
use books::usage::tag_key::TagKeys;

/// Tags that are named when none is similar, and product codes, at most.
const NAMED: usize = 8;

/// The notes of a version.
pub(super) fn notes(totals: &Totals, files: &FileStats, rules: &Rules) -> Vec<BillNote> {
    if let Some(text) = nothing_watched(totals, files.rows()) {
        return vec![BillNote { kind: NoteKind::ProductNotCounted, text }];
    }
    let untagged = untagged(totals, rules).or_else(|| files_without_tag(files));
    let mut found: Vec<BillNote> = untagged.into_iter().chain(shared_bucket(totals)).collect();
    found.extend(rules.meters.iter().filter_map(|meter| {
        let of_meter = |l: &&LineKind| l.claim == ClaimKind::Counted && l.meter == meter.name;
        if totals.lines.iter().any(|l| of_meter(&l)) {
            return None;
        }
        let is_usage = |l: &LineKind| !matches!(l.claim, ClaimKind::NotUsage | ClaimKind::Excluded);
        let of_products =
            totals.lines.iter().filter(|l| is_usage(l) && meter.products.iter().any(|p| p.matches(&l.product)));
        let (mut lines, mut products, mut counted) = (0, BTreeSet::new(), false);
        for line in of_products {
            lines += line.lines;
            products.insert(line.product.as_str());
            counted |= line.claim == ClaimKind::Counted;
        }
        if lines == 0 {
            return None;
        }
        let products: Vec<String> = products.into_iter().map(|p| p.escape_debug().to_string()).collect();
        let products = products.join(" and ");
        let (kind, others) = match counted {
            true => (NoteKind::MeterCountsNothing, ""),
            false => (NoteKind::ProductNotCounted, "; no other meter does"),
        };
        let name = &meter.name;
        let lines = several(lines, "usage line");
        let text = format!("meter {name} counts nothing of {products}, of which the bill has {lines}{others}");
        Some(BillNote { kind, text })
    }));
    found
}

/// Why nothing of a bill is counted that has rows, and none of a product that anybody watches.
pub(super) fn nothing_watched(totals: &Totals, rows: u64) -> Option<String> {
    if rows == 0 || !totals.lines.is_empty() {
        return None;
    }
    let codes = &totals.seen.unwatched.0;
    let more = if codes.len() > NAMED { ", …" } else { "" };
    let has = match codes.is_empty() {
        true => "its rows have no product code".to_owned(),
        false => format!("the bill has the product codes {}{more}", quoted(codes.iter().take(NAMED))),
    };
    Some(format!("none of {} is of a watched product (watched_products); {has}", several(rows, "row")))
}

/// The note of a bill of which some files cannot have a customer.
fn files_without_tag(files: &FileStats) -> Option<BillNote> {
    let (lack, all) = (files.files_without_tag, files.files.len());
    let (have, their) = (verb(lack, "has", "have"), verb(lack, "its", "their"));
    let text = format!(
        "{lack} of {} {have} no column for the customer tag, so {their} usage is without a customer",
        several(all, "file")
    );
    (lack > 0).then_some(BillNote { kind: NoteKind::Untagged, text })
}

/// The note of usage of S3 without a resource, or about a part of a bucket.
fn shared_bucket(totals: &Totals) -> Option<BillNote> {
    let of_parts: u64 = totals.lines.iter().filter(|l| Mark::PartOfBucket.is_on(&l.line_type)).map(|l| l.lines).sum();
    let parts = (of_parts > 0).then(|| {
        let (lines, are) = (several(of_parts, "usage line"), verb(of_parts, "is", "are"));
        format!(
            "{lines} of S3 {are} about a part of a bucket (a prefix, an access point) and not counted, because the \
             bucket's own line has that usage; `meter discover` shows them"
        )
    });
    let without = totals.seen.without_resource;
    let unnamed = (without > 0).then(|| {
        let (lines, have) = (several(without, "usage line"), verb(without, "has", "have"));
        format!(
            "{lines} of S3 {have} no resource, so nothing tells whether a shared bucket is meant; let the export \
             include resource IDs"
        )
    });
    let text: Vec<String> = parts.into_iter().chain(unnamed).collect();
    (!text.is_empty()).then(|| BillNote { kind: NoteKind::SharedBucket, text: text.join("; ") })
}

/// Names as they are shown in a sentence.
fn quoted<'a>(names: impl Iterator<Item = &'a String>) -> String {
    names.map(|name| format!("`{}`", name.escape_debug())).collect::<Vec<_>>().join(", ")
}

/// The note of a bill whose usage is all without a customer, or that has another tag on more lines
/// than the customer's. Usage that cannot have the tag (storage, transfer) is no reason for one.
fn untagged(totals: &Totals, rules: &Rules) -> Option<BillNote> {
    let counted = || totals.lines.iter().filter(|l| l.claim == ClaimKind::Counted);
    let lines: u64 = counted().map(|l| l.lines).sum();
    let (tagged, elsewhere): (u64, u64) = (counted().map(|l| l.tagged_lines).sum(), totals.seen.similar_lines);
    if lines == 0 || tagged > 0 && elsewhere <= tagged {
        return None;
    }
    let tags: BTreeSet<String> = totals.seen.tags.0.iter().filter(|tag| !is_own(tag, rules)).cloned().collect();
    let similar = TagKeys::new(&rules.tag_keys).similar(&tags);
    let more = if tags.len() > NAMED { ", …" } else { "" };
    let has = match (similar.is_empty(), tags.is_empty()) {
        (false, _) => format!("the bill has the similar {}", quoted(similar.iter())),
        (true, false) => format!("the bill has the tags {}{more}", quoted(tags.iter().take(NAMED))),
        (true, true) if totals.seen.tags.0.is_empty() => "the bill has no tags at all".to_owned(),
        (true, true) => "the tag is in the bill, on other lines".to_owned(),
    };
    let (keys, lines) = (quoted(rules.tag_keys.iter()), several(lines, "counted line"));
    let text = match tagged {
        0 => format!("no usage ({lines}) has a value of the tag {keys}; {has}"),
        _ => format!(
            "only {} of {lines} {} a value of the tag {keys}, and {} {} one of the similar {}",
            count(tagged),
            verb(tagged, "has", "have"),
            count(elsewhere),
            verb(elsewhere, "has", "have"),
            quoted(similar.iter())
        ),
    };
    Some(BillNote { kind: NoteKind::Untagged, text })
}

/// True for one of the configured tags.
fn is_own(tag: &str, rules: &Rules) -> bool {
    // `user_` is no prefix in names that people write
    TagKeys::new(&rules.tag_keys).place_of_entry(&format!("resourceTags/{tag}")).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use books::units::quantity::Quantity;
    use books::usage::meter::{Meter, Pattern};

    fn line(product: &str, claim: ClaimKind, meter: &str, tagged: u64) -> LineKind {
        LineKind {
            product: product.into(),
            usage_type: "u".into(),
            unit: String::new(),
            line_type: "Usage".into(),
            claim,
            meter: meter.into(),
            lines: 5,
            tagged_lines: tagged,
            amount: Quantity::ZERO,
        }
    }

    fn of(lines: Vec<LineKind>, tags: &[&str]) -> Vec<(NoteKind, String)> {
        with_similar(lines, tags, 0)
    }

    /// The notes of a bill with so many lines that have only a similar tag.
    fn with_similar(lines: Vec<LineKind>, tags: &[&str], similar: u64) -> Vec<(NoteKind, String)> {
        let meter = |name: &str, product: &str| Meter {
            name: name.into(),
            unit: "units".into(),
            products: vec![Pattern::product(product).unwrap()],
            usage_types: vec![Pattern::usage_type(name).unwrap()],
            line_types: ["Usage".to_owned()].into(),
            factor: rust_decimal::Decimal::ONE,
        };
        let rules = Rules {
            tag_keys: vec!["customer-id".into()],
            meters: vec![meter("calls", "Chime*"), meter("storage", "S3"), meter("transfer", "S3")],
            ignore: vec![],
            watched: vec![],
            shared_buckets: vec![],
            costs: vec![],
        };
        let mut totals = Totals { lines, ..Totals::default() };
        totals.seen.tags.see(tags);
        totals.seen.similar_lines = similar;
        notes(&totals, &FileStats::default(), &rules).into_iter().map(|note| (note.kind, note.text)).collect()
    }

    #[test]
    fn a_bill_without_the_tag_names_what_may_be_meant() {
        let untagged = || vec![line("Chime", ClaimKind::Counted, "calls", 0), line("S3", ClaimKind::Ignored, "", 4)];
        for (tags, word) in [
            (&["customerid", "app"][..], "has a value of the tag `customer-id`; the bill has the similar `customerid`"),
            (&["app", "env"], "the bill has the tags `app`, `env`"),
            (&[], "the bill has no tags at all"),
            (&["customer_id"], "the tag is in the bill, on other lines"),
            (&["a", "b", "c", "d", "e", "f", "g", "h", "i"], "`h`, …"),
        ] {
            let found = of(untagged(), tags);
            assert_eq!(found[0].0, NoteKind::Untagged);
            assert!(found[0].1.starts_with("no usage (5 counted lines) has") && found[0].1.contains(word), "{found:?}");
        }
        let mut tagged = untagged();
        tagged.push(line("Chime", ClaimKind::Counted, "calls", 1));
        assert!(!of(tagged, &["customerid"]).iter().any(|n| n.0 == NoteKind::Untagged), "one line has it");
        assert!(of(vec![], &["customerid"]).is_empty(), "nothing is counted");
    }

    #[test]
    fn a_similar_tag_on_more_lines_than_the_right_one_is_named() {
        let lines =
            || vec![line("Chime", ClaimKind::Counted, "calls", 2), line("S3", ClaimKind::Counted, "storage", 0)];
        let untagged = |similar| {
            let found = with_similar(lines(), &["customer_id", "customerid", "app"], similar);
            found.into_iter().find(|(kind, _)| *kind == NoteKind::Untagged).map(|(_, text)| text)
        };
        assert_eq!((untagged(0), untagged(2)), (None, None));
        let text = "only 2 of 10 counted lines have a value of the tag `customer-id`, and 3 have one of the similar `customerid`";
        assert_eq!(untagged(3).as_deref(), Some(text));
    }

    #[test]
    fn a_meter_that_counts_nothing_of_its_product_is_named() {
        let storage = || line("S3", ClaimKind::Counted, "storage", 1);
        let transfer = "meter transfer counts nothing of S3, of which the bill has 5 usage lines";
        assert_eq!(of(vec![storage()], &[]), [(NoteKind::MeterCountsNothing, transfer.into())]);
        let calls =
            "meter calls counts nothing of Chime and ChimeX, of which the bill has 10 usage lines; no other meter does";
        let chime = vec![line("Chime", ClaimKind::Unrecognised, "", 0), line("ChimeX", ClaimKind::Ignored, "", 0)];
        assert_eq!(of(chime, &[]), [(NoteKind::ProductNotCounted, calls.into())]);
        let both = vec![storage(), line("S3", ClaimKind::Counted, "transfer", 1)];
        assert!(of(both, &[]).is_empty());
        let no_usage = vec![line("Chime", ClaimKind::NotUsage, "", 0), line("Chime", ClaimKind::Excluded, "calls", 0)];
        assert!(of(no_usage, &[]).is_empty(), "credits alone");
    }
}
