//! The account's needs as commands of the AWS command line, and the books' as commands of Turso's.

use super::{Account, data_export, policy};

/// Where Data Exports, Cost Explorer and IAM are.
const GLOBAL: &str = "us-east-1";

/// What the web backend may, as docs/backend-contract.md says it.
const BACKEND_RIGHTS: [&str; 7] = [
    "all:data_read",
    "customers:data_add,data_update",
    "turn_periods:data_update",
    "overage_budgets:data_add,data_update",
    "subscriptions:data_add,data_update",
    "stripe_error_reports:data_add",
    "measurements:data_add,data_update",
];

/// A script for a shell with the AWS command line and the rights of an administrator.
pub(super) fn of_aws(account: &Account) -> anyhow::Result<String> {
    let Account { bills, region, role, tag, .. } = account;
    let bucket = &bills.bucket;
    // AWS refuses the name of this region here
    let elsewhere = match region.as_str() {
        GLOBAL => String::new(),
        region => format!(" \\\n  --create-bucket-configuration '{{\"LocationConstraint\": \"{region}\"}}'"),
    };
    let (bucket_policy, export) = (policy::of_bucket(account).json()?, data_export::json(account)?);
    let (trust, rights) = (policy::of_trust(account).json()?, policy::of_role(account).json()?);
    let instance = match account.trust.as_str() {
        "ec2.amazonaws.com" => format!(
            "# So that an instance of EC2 can have the role.\n\
             aws iam create-instance-profile --instance-profile-name '{role}'\n\
             aws iam add-role-to-instance-profile --instance-profile-name '{role}' --role-name '{role}'\n\n"
        ),
        _ => String::new(),
    };
    Ok(format!(
        "#!/bin/sh\n\
         # What meter needs in the payer account. Read it, then run it with the rights of\n\
         # an administrator there. It stops at the first command that fails.\n\
         set -eu\n\n\
         # 1. The bucket of the bills; leave both out when there is one already.\n\
         aws s3api create-bucket --bucket '{bucket}' --region '{region}'{elsewhere}\n\
         aws s3api put-public-access-block --bucket '{bucket}' --region '{region}' \\\n  \
         --public-access-block-configuration '{{\"BlockPublicAcls\": true, \"IgnorePublicAcls\": true,\n    \
         \"BlockPublicPolicy\": true, \"RestrictPublicBuckets\": true}}'\n\n\
         # 2. AWS may write the bills. This replaces the bucket's policy: if it has one,\n\
         # add the statement there instead.\n\
         aws s3api put-bucket-policy --bucket '{bucket}' --region '{region}' --policy '{bucket_policy}'\n\n\
         # 3. The export. AWS fills it within a day, from this month on.\n\
         aws bcm-data-exports create-export --region {GLOBAL} --export '{export}'\n\n\
         # 4. The role of the worker, which may read the bills and nothing else.\n\
         aws iam create-role --role-name '{role}' --assume-role-policy-document '{trust}'\n\
         aws iam put-role-policy --role-name '{role}' --policy-name read-bills --policy-document '{rights}'\n\n\
         {instance}\
         # 5. The cost allocation tag. AWS knows a key about a day after its first use on\n\
         # a resource, and refuses it before. It counts from its activation on.\n\
         aws ce update-cost-allocation-tags-status --region {GLOBAL} \\\n  \
         --cost-allocation-tags-status '[{{\"TagKey\": \"{tag}\", \"Status\": \"Active\"}}]'\n"
    ))
}

/// Commands that make the books' database and the tokens for it.
pub(super) fn of_turso(account: &Account) -> String {
    let Account { turso_database: database, region, .. } = account;
    let rights = BACKEND_RIGHTS.map(|right| format!(" \\\n  -p {right}")).concat();
    format!(
        "# The books in a Turso database (docs/turso.md). A token is a secret: it is\n\
         # printed once, and belongs into a store of secrets.\n\n\
         # The region of the worker, or the nearest one of `turso db locations`.\n\
         turso group create {database} --location aws-{region} --wait\n\
         turso db create {database} --group {database}\n\n\
         # The address, for database.url and for the web backend.\n\
         turso db show {database} --url\n\n\
         # The worker and people's commands, in METER_DATABASE__TOKEN. They need all\n\
         # rights, because they change the schema. Make the next one before it ends.\n\
         turso db tokens create {database} --expiration 90d\n\n\
         # The web backend (docs/backend-contract.md#who-writes-what).\n\
         turso db tokens create {database} --expiration 90d{rights}\n\n\
         # Those who only look.\n\
         turso db tokens create {database} --expiration 90d --read-only\n"
    )
}
