//! Writes the first inputs of each target into `corpus/`: `cargo run --bin seeds`.

use std::path::Path;

use fuzz::handmade_parquet::{
    CODES, Column, LENGTHS, PLAIN, PREFIXES, Page, bill, codes, file, file_with_tags, plain,
};
use fuzz::{CSV_HEAD, CSV_LINE};

fn main() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let write = |target: &str, name: &str, bytes: &[u8]| {
        let folder = corpus.join(target);
        std::fs::create_dir_all(&folder).expect("the corpus can be written");
        std::fs::write(folder.join(name), bytes).expect("the corpus can be written");
    };
    let leaf = |name: &str, text: &str| {
        let data = Page::data(CODES, 4, [&[2, 0, 0, 0, 8, 0, 2, 0, 0, 0, 8, 1][..], &codes(4, 0).bytes].concat());
        Column::text(name, vec![Page::dictionary(&[text.as_bytes()]), data])
    };
    let tags = [bill(4)[..5].to_vec(), vec![leaf("key", "user_chitchatter_customer_id"), leaf("value", "ann")]];
    write("parquet", "bill", &file(4, &bill(4)));
    write("parquet", "tags", &file_with_tags(4, &tags.concat()));
    let page = |codec: u8, pages: &[Page]| {
        [vec![codec], pages.iter().flat_map(Page::write).collect()].concat()
    };
    let text = plain(&[b"minutes", b"", b"GB", b"GB"]);
    write("pages", "codes", &page(0, &[Page::dictionary(&[b"minutes"]), codes(4, 0)]));
    write("pages", "plain", &page(0, &[Page::data(PLAIN, 4, text.clone())]));
    write("pages", "mixed", &page(0, &[
        Page::dictionary(&[b"minutes"]),
        codes(3, 0),
        Page::data(PLAIN, 1, plain(&[b"GB"])),
    ]));
    for (codec, encoding) in [(0, LENGTHS), (0, PREFIXES), (1, PLAIN), (2, PLAIN), (4, PLAIN), (5, PLAIN), (6, PLAIN), (7, PLAIN)] {
        let numbers = [128, 1, 4, 4, 0, 0, 0, 0, 0, 0];
        write("pages", &format!("codec-{codec}-{encoding}"), &page(codec, &[Page::data(encoding, 4, numbers.to_vec())]));
    }
    let ann = r#"{"user_chitchatter_customer_id":"ann","user:a":null}"#;
    write("csv", "bill", format!("{CSV_HEAD}{CSV_LINE}{{}}\n{CSV_LINE}\"{}\"\n", ann.replace('"', "\"\"")).as_bytes());
    write("csv", "legacy", b"lineItem/ProductCode,lineItem/UsageType,lineItem/LineItemType,lineItem/UsageAmount,lineItem/UsageStartDate,resourceTags/user:chitchatter-customer-id\nAmazonChime,Meetings-AttendeeMinutes,Usage,5E-5,2026-10-01 05:00:00,ann\n");
    write("tags", "ann", ann.as_bytes());
    write("tags", "nested", b"{\"a\":{\"b\":[1,2.5e3,true]}}");
    write("manifest", "cur2", br#"{"executionId":"v-1","exportArn":"arn:aws:bcm-data-exports:us-east-1:111122223333:export/e-1","columns":[{"name":"a","type":"string"}],"dataFiles":["s3://b/data/BILLING_PERIOD=2026-10/v-1/e-1.csv"]}"#);
    write("manifest", "focus", br#"{"executionId":"v-1","columns":[{"name":"ChargePeriodStart"}],"dataFiles":[]}"#);
    let ours = |path: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
        std::fs::read(path).expect("a file of the repository")
    };
    write("config", "example", &ours("deploy/meter.toml.example"));
    write("config", "demo", &ours("deploy/demo/meter.toml"));
    write("plans", "default", &ours("plans.toml"));
    write("plans", "demo", &ours("deploy/demo/plans.toml"));
}
