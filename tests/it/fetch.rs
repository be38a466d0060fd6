//! Of a wide bill only what matters is fetched.

use std::path::Path;

use crate::support::Workspace;
use parquet::file::metadata::ParquetMetaDataReader;

const NEEDED: [&str; 8] = [
    "line_item_product_code",
    "line_item_usage_type",
    "line_item_line_item_type",
    "line_item_usage_amount",
    "line_item_usage_start_date",
    "identity_time_interval",
    "pricing_unit",
    "bill_billing_period_start_date",
];

/// Bytes of the footer and of the column chunks that matter, and of the whole file.
fn sizes(file: &Path) -> (u64, u64) {
    let bytes = std::fs::read(file).unwrap();
    let tail: [u8; 4] = bytes[bytes.len() - 8..bytes.len() - 4].try_into().unwrap();
    let footer = u64::from(u32::from_le_bytes(tail)) + 8;
    let metadata = ParquetMetaDataReader::new().parse_and_finish(&std::fs::File::open(file).unwrap()).unwrap();
    let mut needed = footer;
    for column in metadata.row_groups().iter().flat_map(|g| g.columns()) {
        let name = column.column_path().parts()[0].as_str();
        let tag = name == "resource_tags_user_chitchatter_customer_id" || name == "resource_tags";
        let split = name == "split_line_item_parent_resource_id";
        if NEEDED.contains(&name) || tag || split {
            needed += column.byte_range().1;
        }
    }
    (needed, u64::try_from(bytes.len()).unwrap())
}

#[test]
fn little_more_than_the_needed_chunks_and_footers_is_fetched() {
    for layout in ["legacy", "cur2"] {
        let place = Workspace::new();
        place.run(&format!("demo generate bucket --month 2026-10 --rows 60000 --files 2 --format {layout}")).ends(0);
        let report = place.run("ingest --month 2026-10 --json").ends(0).json();
        let fetched = report[0]["fetched_bytes"].as_u64().unwrap();
        let files = place.query("SELECT key FROM bill_files");
        assert_eq!(files.len(), 2);
        let (mut needed, mut whole) = (0, 0);
        for file in files {
            let (n, w) = sizes(&place.path("bucket").join(file));
            (needed, whole) = (needed + n, whole + w);
        }
        let manifest = place.query("SELECT manifest_key FROM bill_versions").remove(0);
        needed += std::fs::metadata(place.path("bucket").join(manifest)).unwrap().len();
        assert!(fetched * 10 <= needed * 11, "{layout}: {fetched} bytes fetched, {needed} needed, {whole} in all");
        assert!(fetched * 2 < whole, "{layout}: {fetched} of {whole} is no selection");
    }
}
