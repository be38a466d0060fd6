//! The one rule for tag keys, whatever form a bill has.
//!
//! AWS writes the key `Cost-Center` in several ways: as it is on the resource in the columns of
//! legacy CSV (`resourceTags/user:Cost-Center`) and in the map `tags` of CUR 2.0, and normalised in
//! the columns of legacy Parquet (`resource_tags_user_cost_center`) and in the map `resource_tags`
//! of CUR 2.0 (`user_cost_center`). Normalising loses capitals and punctuation, and merges keys
//! that become one name. So that one bill makes the same books in every form, the rule looks at
//! normalised names alone, also where a file has more:
//!
//! 1. Keys with the same normalised name ([`canonical_name`]) are one key: `Cost-Center`,
//!    `cost-center` and `cost_center`, but not `costcenter`.
//! 2. It is not known for sure whether AWS keeps letters outside of ASCII. So `código` is found as
//!    `código` and as `c_digo`, but not by a name in which the letter left no trace.
//! 3. Tags of users, tags that AWS generates (`aws:…`), and other kinds (`accountTag/…`) are apart.
//! 4. Values of one key on one line: an empty value is no value, equal values are one, and
//!    different values contradict each other.
//! 5. Of several configured keys the first one that has a value on the line counts.

use std::collections::{BTreeSet, HashSet};

/// Other kinds of tag in the map `tags`; they do not belong to a resource.
const OTHER_KINDS: [&str; 4] = ["accountTag/", "costCategory/", "iamPrincipal/", "userAttribute/"];
/// Keys that are named as similar, at most.
const NAMED: usize = 3;

/// A column or tag name of any export in the form of Athena-style Parquet: `_` before each
/// upper-case letter, lower case, `_` for what is no letter and no digit, repeats and ends trimmed.
/// So `lineItem/UsageAmount` is `line_item_usage_amount` and `resourceTags/user:Cost-Center` is
/// `resource_tags_user_cost_center`
/// (<https://docs.aws.amazon.com/cur/latest/userguide/cur-ate-run.html>). Letters outside of ASCII
/// stay, as a real bill has them (<https://github.com/opencost/opencost/issues/2654>).
pub fn canonical_name(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 8);
    for c in name.chars() {
        if (c.is_uppercase() || !c.is_alphanumeric()) && !(out.is_empty() || out.ends_with('_')) {
            out.push('_');
        }
        if c.is_alphanumeric() {
            out.extend(c.to_lowercase());
        }
    }
    out.trim_end_matches('_').to_owned()
}

/// A tag of a bill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagName {
    /// AWS generates it: its key begins with `aws:`.
    generated: bool,
    /// The normalised key.
    name: String,
}

impl TagName {
    fn new(generated: bool, key: &str) -> Self {
        Self { generated, name: canonical_name(key) }
    }

    /// The tag of a column of legacy bills, or of CUR 2.0 with a column for one tag; none for other
    /// columns.
    pub fn of_column(column: &str) -> Option<Self> {
        let canonical = canonical_name(column);
        let tag = canonical.strip_prefix("resource_tags_")?;
        let user = tag.strip_prefix("user_").map(|name| Self { generated: false, name: name.to_owned() });
        user.or_else(|| tag.strip_prefix("aws_").map(|name| Self { generated: true, name: name.to_owned() }))
    }

    /// The tag of a key in one of the maps `resource_tags` and `tags`; none for other kinds of tag.
    pub fn of_entry(key: &str) -> Option<Self> {
        if OTHER_KINDS.iter().any(|kind| key.starts_with(kind)) {
            return None;
        }
        let raw = key.strip_prefix("resourceTags/");
        let key = raw.unwrap_or(key);
        // `user_` is a part of the key where keys are raw
        let after = |prefix: &str, normalised: &str| {
            key.strip_prefix(prefix).or_else(|| key.strip_prefix(normalised).filter(|_| raw.is_none()))
        };
        Some(match (after("user:", "user_"), after("aws:", "aws_")) {
            (Some(key), _) => Self::new(false, key),
            (None, Some(key)) => Self::new(true, key),
            (None, None) => Self::new(false, key),
        })
    }

    /// The tag as people write it: normalised, and with `aws:` when AWS generates it.
    pub fn written(&self) -> String {
        format!("{}{}", if self.generated { "aws:" } else { "" }, self.name)
    }
}

/// A configured key.
#[derive(Clone, Debug, PartialEq, Eq)]
struct TagKey {
    tag: TagName,
    /// The normalised key with `_` for letters outside of ASCII, where each leaves one.
    replaced: Option<String>,
}

impl TagKey {
    fn new(key: &str) -> Self {
        let (generated, key) = key.strip_prefix("aws:").map_or((false, key), |key| (true, key));
        let letters: Vec<char> = key.chars().collect();
        let is_foreign = |c: &char| !c.is_ascii() && c.is_alphanumeric();
        let plain = |at: Option<usize>| at.and_then(|at| letters.get(at)).is_some_and(char::is_ascii_alphanumeric);
        let mut foreign = letters.iter().enumerate().filter(|(_, c)| is_foreign(c)).peekable();
        let leave_traces =
            foreign.peek().is_some() && foreign.all(|(at, _)| plain(at.checked_sub(1)) && plain(Some(at + 1)));
        let replaced = || canonical_name(&key.replace(|c: char| is_foreign(&c), "_"));
        Self { tag: TagName::new(generated, key), replaced: leave_traces.then(replaced) }
    }

    fn is(&self, tag: &TagName) -> bool {
        let same = tag.name == self.tag.name || self.replaced.as_ref().is_some_and(|name| *name == tag.name);
        same && tag.generated == self.tag.generated
    }
}

/// The configured keys of the customer tag, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagKeys(Vec<TagKey>);

impl TagKeys {
    /// From keys as they are written on resources.
    pub fn new(keys: &[String]) -> Self {
        Self(keys.iter().map(|key| TagKey::new(key)).collect())
    }

    /// The place of the tag among the keys; none for another tag. The lowest place with a value on
    /// a line counts.
    pub fn place(&self, tag: &TagName) -> Option<u8> {
        let place = self.0.iter().position(|key| key.is(tag))?;
        u8::try_from(place).ok()
    }

    /// As [`TagKeys::place`], of the tag of a column.
    pub fn place_of_column(&self, column: &str) -> Option<u8> {
        self.place(&TagName::of_column(column)?)
    }

    /// As [`TagKeys::place`], of the tag of a key in a map.
    pub fn place_of_entry(&self, key: &str) -> Option<u8> {
        self.place(&TagName::of_entry(key)?)
    }

    /// True for the key in a map of another tag that may be meant by one of the keys.
    pub fn is_similar_entry(&self, key: &str) -> bool {
        TagName::of_entry(key).is_some_and(|tag| self.is_similar(&tag))
    }

    /// As [`TagKeys::is_similar_entry`], of the tag of a column.
    pub fn is_similar_column(&self, column: &str) -> bool {
        TagName::of_column(column).is_some_and(|tag| self.is_similar(&tag))
    }

    fn is_similar(&self, tag: &TagName) -> bool {
        let written = tag.written();
        self.place(tag).is_none() && self.0.iter().any(|key| distance(&key.tag.written(), &written).is_some())
    }

    /// Tags of a bill that may be meant by the keys: other capitals, separators or accents, a
    /// plural, a slip of the pen, `aws:` in front, or a part of the name. The nearest first.
    pub fn similar(&self, tags: &BTreeSet<String>) -> Vec<String> {
        let near = |tag: &&String| self.0.iter().filter_map(|key| distance(&key.tag.written(), tag)).min();
        let mut found: Vec<(usize, &String)> = tags.iter().filter_map(|tag| Some((near(&tag)?, tag))).collect();
        found.sort();
        found.into_iter().take(NAMED).map(|(_, tag)| tag.clone()).collect()
    }
}

/// How far a tag is from a key; none when it is another one.
fn distance(key: &str, tag: &str) -> Option<usize> {
    let squeezed = |name: &str| -> String {
        let name = ["aws:", "user:", "user_"].into_iter().find_map(|p| name.strip_prefix(p)).unwrap_or(name);
        name.chars().filter(|c| c.is_alphanumeric()).collect()
    };
    let (key, tag) = (squeezed(key), squeezed(tag));
    let (short, long) = if key.chars().count() < tag.chars().count() { (&key, &tag) } else { (&tag, &key) };
    let length = short.chars().count();
    let part = length >= 5 && long.contains(short.as_str());
    if !part && long.chars().count() > length + 2 {
        return None;
    }
    let apart = strsim::osa_distance(&key, &tag);
    let slip = apart <= 2.min(length / 3);
    (slip || part).then_some(apart)
}

/// Faults of a list of keys: each with its place in the list. Pure.
pub(super) fn faults(keys: &[String]) -> Vec<(usize, String)> {
    let mut known = HashSet::new();
    let fault = |(at, key): (usize, &String)| {
        let tag = TagKey::new(key).tag;
        let why = if key.is_empty() || key.chars().count() > 128 || key.chars().any(char::is_control) {
            format!("`{}` is no tag key: 1 to 128 characters, no control characters", key.escape_debug())
        } else if tag.name.is_empty() {
            format!("`{key}` has no letter and no digit, so AWS's names of columns cannot have it")
        } else if !known.insert(tag.written()) {
            format!("`{key}` and a key before it are one in AWS's names of columns (`{}`); remove one", tag.name)
        } else {
            return None;
        };
        Some((at, why))
    };
    keys.iter().enumerate().filter_map(fault).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys(keys: &[&str]) -> TagKeys {
        TagKeys::new(&keys.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn names_are_written_as_athena_does() {
        for (from, to) in [
            ("lineItem/UsageAmount", "line_item_usage_amount"),
            ("identity/LineItemId", "identity_line_item_id"),
            ("resourceTags/user:chitchatter-customer-id", "resource_tags_user_chitchatter_customer_id"),
            ("resourceTags/user:kubernetes.io/service-name", "resource_tags_user_kubernetes_io_service_name"),
            ("CostCenter", "cost_center"),
            ("line_item_usage_type", "line_item_usage_type"),
            ("user:_x__Y_", "user_x_y"),
            ("Código-Cliente", "código_cliente"),
            ("kundeÄ", "kunde_ä"),
            ("客户", "客户"),
            ("--", ""),
        ] {
            assert_eq!(canonical_name(from), to);
            assert_eq!(canonical_name(&canonical_name(from)), to, "twice is once");
        }
    }

    #[test]
    fn every_spelling_of_the_tag_is_known_and_no_other_kind_of_tag() {
        let tag = keys(&["chitchatter-customer-id"]);
        for column in [
            "resource_tags_user_chitchatter_customer_id",
            "resourceTags/user:chitchatter-customer-id",
            "resourceTags/user:Chitchatter-Customer-Id",
            "resourceTags/user:chitchatter_customer.id",
        ] {
            assert_eq!(tag.place_of_column(column), Some(0), "{column}");
        }
        for column in [
            "resource_tags_aws_chitchatter_customer_id",
            "resourceTags/aws:chitchatter-customer-id",
            "resource_tags_chitchatter_customer_id",
            "chitchatter_customer_id",
            "resource_tags",
            "resource_tags_user_chitchatter_customerid",
        ] {
            assert_eq!(tag.place_of_column(column), None, "{column}");
        }
        for key in [
            "user_chitchatter_customer_id",
            "user:chitchatter-customer-id",
            "user:Chitchatter-Customer-Id",
            "user:chitchatter_customer_id",
            "chitchatter-customer-id",
            "resourceTags/user:chitchatter-customer-id",
            "resourceTags/chitchatter-customer-id",
        ] {
            assert_eq!(tag.place_of_entry(key), Some(0), "{key}");
        }
        for key in [
            "accountTag/chitchatter-customer-id",
            "userAttribute/chitchatter-customer-id",
            "costCategory/chitchatter-customer-id",
            "iamPrincipal/chitchatter-customer-id",
            "user_chitchatter",
            "aws:chitchatter-customer-id",
            "aws_chitchatter_customer_id",
            "",
        ] {
            assert_eq!(tag.place_of_entry(key), None, "{key}");
        }
    }

    #[test]
    fn user_in_a_key_is_no_prefix_of_another_key() {
        assert_eq!(keys(&["user-id"]).place_of_entry("user_id"), None, "AWS's name of the key `id`");
        assert_eq!(keys(&["user-id"]).place_of_entry("user_user_id"), Some(0));
        assert_eq!(keys(&["user_id"]).place_of_entry("resourceTags/user_id"), Some(0));
        assert_eq!(keys(&["id"]).place_of_entry("user_id"), Some(0));
        assert_eq!(keys(&["aws:createdBy"]).place_of_entry("aws_created_by"), Some(0));
        assert_eq!(keys(&["aws:createdBy"]).place_of_column("resourceTags/aws:createdBy"), Some(0));
        assert_eq!(keys(&["aws:createdBy"]).place_of_entry("user_created_by"), None);
    }

    #[test]
    fn letters_outside_of_ascii_stay_or_are_replaced_where_they_leave_a_trace() {
        for (key, found, same) in [
            ("código-cliente", "user_código_cliente", true),
            ("código-cliente", "user_c_digo_cliente", true),
            ("código-cliente", "user_cádigo_cliente", false),
            ("Künde", "resourceTags/user:Künde", true),
            ("Künde", "user_k_nde", true),
            ("Künde", "user_kunde", false),
            ("客户-id", "user_客户_id", true),
            ("客户-id", "user_id", false),
            ("clienté", "user_client", false),
            ("ñandú", "user_and", false),
        ] {
            assert_eq!(keys(&[key]).place_of_entry(found).is_some(), same, "{key} {found}");
        }
    }

    #[test]
    fn a_list_of_keys_has_an_order() {
        let tag = keys(&["customer-id", "client"]);
        assert_eq!(tag.place_of_entry("user_client"), Some(1));
        assert_eq!(tag.place_of_entry("user_customer_id"), Some(0));
    }

    #[test]
    fn faults_of_keys_have_a_place() {
        let of = |keys: &[&str]| faults(&keys.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert!(of(&["customer-id", "customerid", "aws:customer-id", "客户"]).is_empty());
        for (list, at, word) in [
            (&["a", ""][..], 1, "is no tag key"),
            (&["a\nb"], 0, "is no tag key"),
            (&["--"], 0, "no letter and no digit"),
            (&["CostCenter", "x", "cost-center"], 2, "`cost_center`"),
        ] {
            let found = of(list);
            assert_eq!((found.len(), found[0].0), (1, at), "{found:?}");
            assert!(found[0].1.contains(word), "{found:?}");
        }
        assert!(of(&[&"x".repeat(129)])[0].1.contains("1 to 128"));
    }

    #[test]
    fn similar_tags_are_named_and_others_are_not() {
        let similar = |key: &str, tags: &[&str]| keys(&[key]).similar(&tags.iter().map(ToString::to_string).collect());
        for (key, tag) in [
            ("customer-id", "customerid"),
            ("CustomerId", "customerid"),
            ("customer-id", "customer_ids"),
            ("customer-id", "custommer_id"),
            ("customer-id", "aws:customer_id"),
            ("user:customer-id", "customer_id"),
            ("kunde", "künde"),
            ("chitchatter-customer-id", "customer_id"),
            ("tag", "tags"),
        ] {
            assert_eq!(similar(key, &[tag, "environment", "app"]), [tag], "{key}");
        }
        assert!(similar("customer-id", &["environment", "app", "cost_center", "id", "name"]).is_empty());
        assert_eq!(similar("customer", &["customers", "customerx1", "my_customer", "customer_of"]).len(), NAMED);
        assert_eq!(similar("customer", &["my_customer", "customers"]), ["customers", "my_customer"], "nearest first");
    }

    proptest! {
        /// A key is found in every form that AWS writes it in.
        #[test]
        fn a_key_is_found_in_every_form(key in "[A-Za-z][A-Za-z0-9 ._:/=+@é-]{0,20}") {
            let (tag, name) = (keys(&[&key]), canonical_name(&key));
            prop_assume!(!key.to_lowercase().starts_with("aws:"));
            prop_assert_eq!(tag.place_of_column(&format!("resourceTags/user:{key}")), Some(0));
            prop_assert_eq!(tag.place_of_column(&format!("resource_tags_user_{name}")), Some(0));
            prop_assert_eq!(tag.place_of_entry(&format!("user_{name}")), Some(0));
            prop_assert_eq!(tag.place_of_entry(&format!("resourceTags/user:{key}")), Some(0));
        }
    }
}
