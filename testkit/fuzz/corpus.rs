//! Every input of the corpus is read without a panic. `METER_TEST_WRITE_CORPUS=1` writes the first
//! inputs of each target anew.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};

use testkit::handmade_parquet::{
    CODES, Column, LENGTHS, PLAIN, PREFIXES, Page, bill, codes, file, file_with_tags, plain,
};

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

#[test]
fn the_corpus_is_read_without_a_panic() {
    if std::env::var_os("METER_TEST_WRITE_CORPUS").is_some() {
        write_seeds();
    }
    for (target, try_it) in fuzz::TARGETS {
        let files: Vec<_> = std::fs::read_dir(corpus().join(target)).unwrap().collect();
        assert!(!files.is_empty(), "{target}");
        for file in files {
            let file = file.unwrap().path();
            println!("{}", file.display());
            try_it(&std::fs::read(file).unwrap());
        }
    }
}

fn write_seeds() {
    let write = |target: &str, name: &str, bytes: &[u8]| {
        let folder = corpus().join(target);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(name), bytes).unwrap();
    };
    let leaf = |name: &str, text: &str| {
        let data = Page::data(CODES, 4, [&[2, 0, 0, 0, 8, 0, 2, 0, 0, 0, 8, 1][..], &codes(4, 0).bytes].concat());
        Column::text(name, vec![Page::dictionary(&[text.as_bytes()]), data])
    };
    let tags = [bill(4)[..5].to_vec(), vec![leaf("key", "user_chitchatter_customer_id"), leaf("value", "ann")]];
    write("parquet", "bill", &file(4, &bill(4)));
    write("parquet", "tags", &file_with_tags(4, &tags.concat()));
    let page = |codec: u8, pages: &[Page]| [vec![codec], pages.iter().flat_map(Page::write).collect()].concat();
    let dictionary = Page::dictionary(&[b"minutes"]);
    write("pages", "codes", &page(0, &[dictionary.clone(), codes(4, 0)]));
    write("pages", "plain", &page(0, &[Page::data(PLAIN, 4, plain(&[b"minutes", b"", b"GB", b"GB"]))]));
    write("pages", "mixed", &page(0, &[dictionary, codes(3, 0), Page::data(PLAIN, 1, plain(&[b"GB"]))]));
    let numbers = [128, 1, 4, 4, 0, 0, 0, 0, 0, 0];
    for (codec, encoding) in [(0, LENGTHS), (0, PREFIXES), (1, PLAIN), (2, PLAIN), (4, PLAIN), (5, PLAIN), (6, PLAIN)] {
        let name = format!("codec-{codec}-{encoding}");
        write("pages", &name, &page(codec, &[Page::data(encoding, 4, numbers.to_vec())]));
    }
    let ann = r#"{"user_chitchatter_customer_id":"ann","user:a":null}"#;
    let head = "line_item_product_code,line_item_usage_type,line_item_line_item_type,line_item_usage_amount,\
                line_item_usage_start_date,resource_tags\n";
    let line = "AmazonChime,USE1-Meetings-AttendeeMinutes,Usage,1.5,2026-10-01T00:00:00Z,";
    write("csv", "cur2", format!("{head}{line}{{}}\n{line}\"{}\"\n", ann.replace('"', "\"\"")).as_bytes());
    let legacy = "lineItem/ProductCode,lineItem/UsageType,lineItem/LineItemType,lineItem/UsageAmount,\
                  lineItem/UsageStartDate,resourceTags/user:chitchatter-customer-id\n\
                  AmazonChime,Meetings-AttendeeMinutes,Usage,5E-5,2026-10-01 05:00:00,ann\n";
    write("csv", "legacy", legacy.as_bytes());
    write("tags", "ann", ann.as_bytes());
    write("tags", "nested", br#"{"a":{"b":[1,2.5e3,true]}}"#);
    let files = r#""dataFiles":["s3://b/data/BILLING_PERIOD=2026-10/v-1/e-1.csv"]"#;
    let arn = "arn:aws:bcm-data-exports:us-east-1:111122223333:export/e-1";
    write(
        "manifest",
        "cur2",
        format!(r#"{{"executionId":"v-1","exportArn":"{arn}","columns":[],{files}}}"#).as_bytes(),
    );
    write("manifest", "focus", br#"{"executionId":"v-1","columns":[{"name":"ChargePeriodStart"}],"dataFiles":[]}"#);
    for (target, name, path) in [
        ("config", "example", "deploy/meter.toml.example"),
        ("config", "demo", "deploy/demo/meter.toml"),
        ("plans", "default", "plans.toml"),
        ("plans", "demo", "deploy/demo/plans.toml"),
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
        write(target, name, &std::fs::read(path).unwrap());
    }
}
