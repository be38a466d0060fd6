//! DuckDB as the independent oracle: what it sums in DECIMAL(38,10) is what the ledger holds, cell
//! by cell.

use std::process::Command;

use crate::support::Workspace;
use testkit::needs::python;

/// Prints `customer|meter|day|quantity` for each cell, sorted.
const ORACLE: &str = "
import duckdb, glob, sys
layout, folder = sys.argv[1:]
files = sorted(glob.glob(folder + '/**/*.parquet', recursive=True))
if layout == 'legacy':
    tag = 'resource_tags_user_chitchatter_customer_id'
else:
    tag = \"resource_tags['user_chitchatter_customer_id']\"
rows = duckdb.execute(f'''
  SELECT customer, meter, day, sum(amount)::VARCHAR FROM (
    SELECT coalesce({tag}, '') AS customer,
      CASE WHEN line_item_product_code = 'AmazonChime' AND line_item_usage_type LIKE '%Meetings-AttendeeMinutes' THEN 'chime_minutes'
           WHEN line_item_product_code = 'AmazonS3' AND line_item_usage_type LIKE '%TimedStorage-%ByteHrs' THEN 'storage_gb'
           WHEN line_item_product_code = 'AmazonS3' AND line_item_usage_type LIKE '%DataTransfer-Out-Bytes' THEN 'transfer_gb' END AS meter,
      strftime(line_item_usage_start_date AT TIME ZONE 'UTC', '%Y-%m-%d') AS day,
      line_item_usage_amount::DECIMAL(38,10) AS amount
    FROM read_parquet(?)
    WHERE line_item_line_item_type IN ('Usage', 'DiscountedUsage', 'SavingsPlanCoveredUsage'))
  WHERE meter IS NOT NULL GROUP BY ALL HAVING sum(amount) <> 0 ORDER BY ALL''', [files]).fetchall()
for row in rows:
    print('|'.join(row))
";

/// The same of costs: those of the lines of calls, of storage with its credits, which are negative,
/// and of a product that no meter of usage counts.
const COSTS: &str = "
import duckdb, glob, sys
layout, folder = sys.argv[1:]
files = sorted(glob.glob(folder + '/**/*.parquet', recursive=True))
if layout == 'legacy':
    tag = 'resource_tags_user_chitchatter_customer_id'
else:
    tag = \"resource_tags['user_chitchatter_customer_id']\"
rows = duckdb.execute(f'''
  SELECT customer, meter, day, sum(cost)::VARCHAR FROM (
    SELECT coalesce({tag}, '') AS customer,
      CASE WHEN line_item_product_code = 'AmazonChime' AND line_item_usage_type LIKE '%Meetings-AttendeeMinutes'
             AND line_item_line_item_type IN ('Usage', 'DiscountedUsage') THEN 'chime_cost(USD)'
           WHEN line_item_product_code = 'AmazonS3' AND line_item_usage_type LIKE '%TimedStorage-%ByteHrs'
             AND line_item_line_item_type IN ('Usage', 'Credit') THEN 'storage_cost(USD)'
           WHEN line_item_product_code = 'AmazonEC2'
             AND line_item_line_item_type IN ('Usage', 'DiscountedUsage') THEN 'server_cost(USD)' END AS meter,
      strftime(line_item_usage_start_date AT TIME ZONE 'UTC', '%Y-%m-%d') AS day,
      line_item_unblended_cost::DECIMAL(38,10) AS cost
    FROM read_parquet(?))
  WHERE meter IS NOT NULL GROUP BY ALL HAVING sum(cost) <> 0 ORDER BY ALL''', [files]).fetchall()
for row in rows:
    print('|'.join(row))
";

const COST_METERS: &str = r#"
[[exports]]
name = "main"
location = "bucket"
[[cost_meters]]
name = "chime_cost"
cost_of = "chime_minutes"
[[cost_meters]]
name = "storage_cost"
cost_of = "storage_gb"
line_types = ["Usage", "Credit"]
[[cost_meters]]
name = "server_cost"
products = ["AmazonEC2"]
"#;

/// What a program of DuckDB prints of the bills in a folder.
fn asked(python: &std::path::Path, program: &str, layout: &str, folder: &std::path::Path) -> Vec<String> {
    let asked = crate::support::output(Command::new(python).args(["-c", program, layout]).arg(folder).env("TZ", "UTC"));
    assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    String::from_utf8(asked.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn duckdb_finds_the_same_in_generated_bills() {
    let Some(python) = python() else { return };
    for (layout, seed) in [("legacy", 1), ("legacy", 2), ("cur2", 1), ("cur2", 3)] {
        let place = Workspace::with(COST_METERS);
        place
            .run(&format!(
                "demo generate bucket --month 2026-10 --rows 20000 --files 3 --format {layout} --seed {seed}"
            ))
            .ends(0);
        place.run("ingest --month 2026-10").ends(0);
        let oracle = asked(&python, ORACLE, layout, &place.path("bucket"));
        // the ledger's cells with the oracle's ten decimals
        let cells = "SELECT customer, meter, day, printf('%d.%010d', sum(quantity) / 10000000000, sum(quantity) % 10000000000) \
                     FROM booked_usage GROUP BY customer, meter, day ORDER BY customer, meter, day";
        let ledger = place.query(cells);
        assert!(ledger.len() > 1000, "{}", ledger.len());
        for (ours, theirs) in ledger.iter().zip(&oracle) {
            assert_eq!(ours, theirs, "{layout} {seed}");
        }
        assert_eq!(ledger.len(), oracle.len(), "{layout} {seed}");

        let costs = "SELECT customer, meter, day, iif(sum(amount) < 0, '-', '') || \
                     printf('%d.%010d', abs(sum(amount)) / 10000000000, abs(sum(amount)) % 10000000000) \
                     FROM booked_costs GROUP BY customer, meter, day HAVING sum(amount) <> 0 ORDER BY customer, meter, day";
        let (booked, oracle) = (place.query(costs), asked(&python, COSTS, layout, &place.path("bucket")));
        assert!(booked.len() > 1000 && booked.iter().any(|cell| cell.contains("|-")), "{}", booked.len());
        for (ours, theirs) in booked.iter().zip(&oracle) {
            assert_eq!(ours, theirs, "costs, {layout} {seed}");
        }
        assert_eq!(booked.len(), oracle.len(), "costs, {layout} {seed}");
        place.run("verify").ends(0);
    }
}
