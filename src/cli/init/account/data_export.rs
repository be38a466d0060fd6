//! The export of CUR 2.0, as the API of Data Exports takes it
//! (<https://docs.aws.amazon.com/aws-cost-management/latest/APIReference/API_DataExports_CreateExport.html>).

use std::collections::BTreeMap;

use serde::Serialize;

use super::Account;

/// The table of CUR 2.0.
pub(super) const TABLE: &str = "COST_AND_USAGE_REPORT";

/// The columns that meter reads, and those that cost meters can sum (docs/getting-started.md).
pub(super) const COLUMNS: [&str; 15] = [
    "identity_time_interval",
    "bill_billing_period_start_date",
    "line_item_product_code",
    "line_item_usage_type",
    "line_item_line_item_type",
    "line_item_usage_amount",
    "line_item_usage_start_date",
    "line_item_usage_end_date",
    "line_item_resource_id",
    "pricing_unit",
    "resource_tags",
    "line_item_currency_code",
    "line_item_unblended_cost",
    "line_item_net_unblended_cost",
    "line_item_blended_cost",
];

/// The settings of the table, without that of the billing view.
pub(super) const SETTINGS: [(&str, &str); 4] = [
    ("TIME_GRANULARITY", "HOURLY"),
    ("INCLUDE_RESOURCES", "TRUE"),
    ("INCLUDE_SPLIT_COST_ALLOCATION_DATA", "FALSE"),
    ("INCLUDE_MANUAL_DISCOUNT_COMPATIBILITY", "FALSE"),
];

/// Files that are never overwritten are never half-written.
pub(super) const OUTPUT: S3OutputConfigurations = S3OutputConfigurations {
    output_type: "CUSTOM",
    format: "PARQUET",
    compression: "PARQUET",
    overwrite: "CREATE_NEW_REPORT",
};

/// How often AWS fills the export: each time that the bill changes.
pub(super) const FREQUENCY: &str = "SYNCHRONOUS";

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DataExport<'a> {
    name: &'a str,
    data_query: DataQuery,
    destination_configurations: DestinationConfigurations<'a>,
    refresh_cadence: RefreshCadence,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DataQuery {
    query_statement: String,
    table_configurations: BTreeMap<&'static str, BTreeMap<&'static str, &'static str>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DestinationConfigurations<'a> {
    s3_destination: S3Destination<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct S3Destination<'a> {
    s3_bucket: &'a str,
    s3_prefix: &'a str,
    s3_region: &'a str,
    s3_output_configurations: S3OutputConfigurations,
}

/// The form of the files.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct S3OutputConfigurations {
    pub(super) output_type: &'static str,
    pub(super) format: &'static str,
    pub(super) compression: &'static str,
    pub(super) overwrite: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct RefreshCadence {
    frequency: &'static str,
}

/// What the export selects.
pub(super) fn query() -> String {
    format!("SELECT {} FROM {TABLE}", COLUMNS.join(", "))
}

/// The export as JSON.
pub(super) fn json(account: &Account) -> anyhow::Result<String> {
    let export = DataExport {
        name: &account.export,
        data_query: DataQuery {
            query_statement: query(),
            table_configurations: BTreeMap::from([(TABLE, BTreeMap::from(SETTINGS))]),
        },
        destination_configurations: DestinationConfigurations {
            s3_destination: S3Destination {
                s3_bucket: &account.bills.bucket,
                s3_prefix: &account.bills.prefix,
                s3_region: &account.region,
                s3_output_configurations: OUTPUT,
            },
        },
        refresh_cadence: RefreshCadence { frequency: FREQUENCY },
    };
    Ok(serde_json::to_string_pretty(&export)?)
}
