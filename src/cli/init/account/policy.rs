//! Policies in AWS's grammar
//! (<https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_grammar.html>).

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Account, Place};

/// A policy document.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Policy {
    version: &'static str,
    statement: Vec<Allowed>,
}

/// A statement that allows something.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Allowed {
    #[serde(skip_serializing_if = "Option::is_none")]
    sid: Option<String>,
    effect: &'static str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    principal: BTreeMap<&'static str, Vec<String>>,
    action: Vec<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    resource: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    condition: BTreeMap<&'static str, BTreeMap<&'static str, Vec<String>>>,
}

impl Policy {
    fn of(statement: Vec<Allowed>) -> Self {
        Self { version: "2012-10-17", statement }
    }

    /// As it is printed.
    pub(super) fn json(&self) -> anyhow::Result<String> {
        Ok(serde_json::to_string_pretty(self)?)
    }
}

impl Allowed {
    fn new(sid: Option<String>, action: Vec<&'static str>, resource: Vec<String>) -> Self {
        let (principal, condition) = (BTreeMap::new(), BTreeMap::new());
        Self { sid, effect: "Allow", principal, action, resource, condition }
    }
}

fn bucket(place: &Place) -> String {
    format!("arn:aws:s3:::{}", place.bucket)
}

/// Listing and reading below a prefix.
fn reading(place: &Place, what: &str) -> [Allowed; 2] {
    let mut list = Allowed::new(Some(format!("List{what}")), vec!["s3:ListBucket"], vec![bucket(place)]);
    let below = match place.prefix.as_str() {
        "" => "*".to_owned(),
        prefix => {
            let prefixes = vec![prefix.to_owned(), format!("{prefix}/*")];
            list.condition.insert("StringLike", BTreeMap::from([("s3:prefix", prefixes)]));
            format!("{prefix}/*")
        }
    };
    let objects = vec![format!("{}/{below}", bucket(place))];
    [list, Allowed::new(Some(format!("Read{what}")), vec!["s3:GetObject"], objects)]
}

/// What the role of the worker may: list and read the bills, and the reports about shared buckets.
pub(super) fn of_role(account: &Account) -> Policy {
    let bills = reading(&account.bills, "Bills").into_iter();
    let reports =
        account.reports.iter().enumerate().flat_map(|(at, place)| reading(place, &format!("Reports{}", at + 1)));
    Policy::of(bills.chain(reports).collect())
}

/// Who may take the role.
pub(super) fn of_trust(account: &Account) -> Policy {
    let kind = if account.trust.starts_with("arn:") { "AWS" } else { "Service" };
    let mut trust = Allowed::new(None, vec!["sts:AssumeRole"], vec![]);
    trust.principal.insert(kind, vec![account.trust.clone()]);
    Policy::of(vec![trust])
}

/// Lets Data Exports, and the legacy reports, write into the bucket for this account alone. It is
/// AWS's own (<https://docs.aws.amazon.com/cur/latest/userguide/dataexports-s3-bucket.html>), which
/// says that an edited one may stop deliveries.
pub(super) fn of_bucket(account: &Account) -> Policy {
    let own = bucket(&account.bills);
    let sid = Some("EnableAWSDataExportsToWriteToS3AndCheckPolicy".to_owned());
    let resources = vec![format!("{own}/*"), own];
    let mut write = Allowed::new(sid, vec!["s3:PutObject", "s3:GetBucketPolicy"], resources);
    let services = ["billingreports.amazonaws.com", "bcm-data-exports.amazonaws.com"];
    write.principal.insert("Service", services.map(str::to_owned).into());
    let number = &account.account;
    let sources = vec![
        format!("arn:aws:cur:us-east-1:{number}:definition/*"),
        format!("arn:aws:bcm-data-exports:us-east-1:{number}:export/*"),
    ];
    let conditions = BTreeMap::from([("aws:SourceAccount", vec![number.clone()]), ("aws:SourceArn", sources)]);
    write.condition.insert("StringLike", conditions);
    Policy::of(vec![write])
}
