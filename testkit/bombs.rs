//! Small files that stand for gigabytes, or that say that they do.

use std::io::Write;
use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray};
use flate2::Compression;
use flate2::write::GzEncoder;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression as Codec, ZstdLevel};
use parquet::file::properties::WriterProperties;

use crate::handmade_parquet::{
    CODES, Column, GZIP, LENGTHS, PLAIN, PREFIXES, Page, Thrift, UNPACKED, bill, close, codes, file, file_with_tags,
    map_elements, plain,
};
use crate::ingest_fixture::{chime, columns};

/// A data file, and how reading it ends: the minutes that are booked for `ann`, or words of the
/// error.
pub struct Bomb {
    pub what: &'static str,
    pub file: &'static str,
    pub bytes: Vec<u8>,
    pub ends: Result<&'static str, Vec<&'static str>>,
}

const MIB: usize = 1 << 20;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(vec![], Compression::fast());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

fn parquet(what: &'static str, bytes: Vec<u8>, words: &[&'static str]) -> Bomb {
    Bomb { what, file: "b-00001.snappy.parquet", bytes, ends: Err([words, &["b-00001.snappy.parquet"]].concat()) }
}

fn with_unit(rows: i64, codec: i64, pages: Vec<Page>) -> Vec<u8> {
    let unit = Column { codec, ..Column::text("pricing_unit", pages) };
    file(rows, &[bill(rows), vec![unit]].concat())
}

/// 2,000 rows, each with a text of a megabyte of its own, in a hundred kilobytes.
fn megabyte_units() -> Vec<u8> {
    let lines: Vec<_> = (0..2000).map(|_| chime("ann", 1, 1.0)).collect();
    let mut all = columns(&lines);
    let units: ArrayRef =
        Arc::new(StringArray::from_iter_values((0..100).map(|i| format!("{i:03}{}", "0".repeat(999_997)))));
    all.iter_mut().for_each(|(_, array)| *array = array.slice(0, 100));
    all.iter_mut().find(|(name, _)| *name == "pricing_unit").unwrap().1 = units;
    let batch = arrow::array::RecordBatch::try_from_iter(all).unwrap();
    let zstd = Codec::ZSTD(ZstdLevel::default());
    let mut bytes = vec![];
    let properties = WriterProperties::builder().set_compression(zstd).build();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
    (0..20).for_each(|_| writer.write(&batch).unwrap());
    writer.close().unwrap();
    bytes
}

/// A page of 300 MiB in gzip, under a header with another size.
fn lying_page(codec: i64) -> Page {
    let packed = gzip(&vec![0; 16 * MIB]);
    assert_eq!(codec, GZIP);
    Page { dictionary: false, encoding: PLAIN, values: 1, unpacked: 100, bytes: packed.repeat(20) }
}

/// A dictionary with a text of 60 KB, then as many rows of it, and one row of another text in a
/// page without codes: all rows become texts.
fn spelled_out(rows: i64) -> Vec<u8> {
    let long = "x".repeat(60_000);
    let pages = vec![
        Page::dictionary(&[long.as_bytes()]),
        codes(rows - 1, 0),
        Page::data(PLAIN, 1, plain(&["minutes".as_bytes()])),
    ];
    with_unit(rows, UNPACKED, pages)
}

/// Keys and values of the tags of two rows, of which one has `entries` entries.
fn tags(entries: i64) -> Vec<u8> {
    let leaf = |name: &str, text: &str| {
        let mut levels = vec![];
        // the first entry begins a row, the others go on with it, the last one begins another
        for (run, level) in [(1, 0_u8), (entries, 1), (1, 0)] {
            let mut head = u64::try_from(run).unwrap() << 1;
            while head >= 0x80 {
                levels.push(u8::try_from(head & 0x7f).unwrap() | 0x80);
                head >>= 7;
            }
            levels.extend([u8::try_from(head).unwrap(), level]);
        }
        let values = entries + 2;
        let defined = codes(values, 1).bytes[1..].to_vec();
        let prefixed = |bytes: &[u8]| [&u32::try_from(bytes.len()).unwrap().to_le_bytes()[..], bytes].concat();
        let bytes = [prefixed(&levels), prefixed(&defined), codes(values, 0).bytes].concat();
        Column::text(name, vec![Page::dictionary(&[text.as_bytes()]), Page::data(CODES, values, bytes)])
    };
    let mut all = bill(2);
    all.pop();
    all.extend([leaf("key", "user_chitchatter_customer_id"), leaf("value", "ann")]);
    file_with_tags(2, &all)
}

/// A page whose texts are announced as two billion lengths.
fn announced(encoding: i64) -> Vec<u8> {
    let numbers = [0x80, 0x80, 0x80, 0x80, 0x08, 4, 0xff, 0xff, 0xff, 0xff, 0x07, 0];
    with_unit(4, UNPACKED, vec![Page::data(encoding, 4, numbers.to_vec())])
}

fn footer(schema: Vec<Thrift>, groups: Vec<Thrift>) -> Vec<u8> {
    let footer = Thrift::default().int(1, 1).structs(2, schema).long(3, 1).structs(4, groups);
    close(b"PAR1".repeat(4), &footer.finish())
}

fn group_element(children: i64) -> Thrift {
    Thrift::default().int(3, 0).text(4, "a").int(5, children)
}

fn small_chunk() -> Thrift {
    Thrift::default().long(2, 4).nested(3, Thrift::default().int(1, 1))
}

const HEAD: &str = "identity/LineItemId,lineItem/ProductCode,lineItem/UsageType,lineItem/LineItemType,\
lineItem/UsageAmount,lineItem/UsageStartDate,resource_tags,note\n";
const LINE: &str = "id,AmazonChime,USE1-Meetings-AttendeeMinutes,Usage,1,2026-10-01T00:00:00Z,";

fn csv(what: &'static str, bytes: Vec<u8>, ends: Result<&'static str, &[&'static str]>) -> Bomb {
    let words = ends.map_err(|words| [words, &["b-00001.csv.gz"]].concat());
    Bomb { what, file: "b-00001.csv.gz", bytes, ends: words }
}

fn line(tags: &str, note: &str) -> String {
    format!("{LINE}\"{}\",{note}\n", tags.replace('"', "\"\""))
}

/// Files of Parquet.
pub fn parquet_bombs() -> Vec<Bomb> {
    let unit = "column pricing_unit";
    let dictionary = |values, unpacked| {
        let page = Page { values, unpacked, ..Page::dictionary(&[b"minutes"]) };
        with_unit(4, UNPACKED, vec![page, codes(4, 0)])
    };
    let page = Page { unpacked: 2_000_000_000, ..Page::data(PLAIN, 4, vec![0; 90]) };
    let nested = (0..30_000).map(|_| group_element(1)).collect();
    let root = || Thrift::default().text(4, "bill").int(5, 1);
    let leaf = || Thrift::default().int(1, 6).int(3, 0).text(4, "a");
    let chunks = || Thrift::default().structs(1, (0..1).map(|_| small_chunk())).long(2, 1).long(3, 1);
    let mut bombs = vec![
        parquet("values of a megabyte", megabyte_units(), &["row group 0", unit, "a value has 1000000 bytes"]),
        parquet("a page of 2 GB", with_unit(4, 1, vec![page]), &["row group 0", unit, "1907 MiB"]),
        parquet("a page that lies", with_unit(1, GZIP, vec![lying_page(GZIP)]), &[unit, "more than its header says"]),
        parquet("two billion texts", dictionary(2_000_000_000, 11), &[unit, "more values than bytes"]),
        parquet("a dictionary of 1 GB", dictionary(1, 1 << 30), &[unit, "1024 MiB"]),
        parquet("two billion lengths", announced(LENGTHS), &[unit, "announces more texts"]),
        parquet("two billion prefixes", announced(PREFIXES), &[unit, "announces more texts"]),
        parquet("a row of many tags", tags(100_000_000), &["column resource_tags", "MiB of memory"]),
        parquet("two billion children", footer(vec![group_element(i64::from(i32::MAX))], vec![]), &["more children"]),
        parquet("a deep schema", footer([nested, vec![leaf()]].concat(), vec![]), &["footer", "20,000 elements"]),
        parquet(
            "a schema in a schema",
            footer((0..5_000).map(|_| group_element(1)).chain([leaf()]).collect(), vec![]),
            &["footer", "16 levels"],
        ),
        parquet(
            "two hundred thousand row groups",
            footer(vec![root(), leaf()], (0..200_000).map(|_| chunks()).collect()),
            &["footer", "MiB of memory", "larger row groups"],
        ),
        parquet("a footer of 9 MB", close(vec![0; 9 * MIB], &vec![0; 9 * MIB]), &["footer", "9437184 bytes"]),
        parquet("maps in a schema", footer([vec![root()], map_elements("a")].concat(), vec![]), &["footer"]),
    ];
    let whole = |what, bytes, sum| Bomb { ends: Ok(sum), ..parquet(what, bytes, &[]) };
    bombs.push(whole("60 KB a row, spelled out", spelled_out(20_000), "20000"));
    bombs.push(whole("a row of some tags", tags(1_000), "2"));
    bombs
}

/// Files of gzipped CSV.
pub fn csv_bombs() -> Vec<Bomb> {
    let ann = r#"{"user_chitchatter_customer_id":"ann"}"#;
    let start = gzip(HEAD.as_bytes());
    let then = |member: &[u8], times: usize| [start.clone(), gzip(member).repeat(times)].concat();
    let many: String = (0..200).map(|i| line(ann, &format!("{i:0>60000}"))).collect();
    let tags: String = (0..300)
        .map(|i| line(&format!(r#"{{"other":"{i:0>60000}","user_chitchatter_customer_id":"ann"}}"#), ""))
        .collect();
    let long = line(&format!(r#"{{"a":"{}"}}"#, "x".repeat(2 * MIB)), "");
    let deep = line(&"[".repeat(500_000), "");
    let kinds = |count: usize| -> String {
        (0..count).map(|i| line(ann, "").replace("USE1-Meetings", &format!("{i:0>60000}"))).collect()
    };
    let wide = format!("{}\n", "a,".repeat(1_000_000));
    vec![
        csv("a line of 3 GB", then(&vec![b'a'; 16 * MIB], 200), Err(&["a record has no end within 4 MiB"])),
        csv("a quoted line of 3 GB", then(&[b"\"".to_vec(), vec![b'\n'; 16 * MIB]].concat(), 200), Err(&["line"])),
        csv("lines of 60 KB", then(many.as_bytes(), 2), Ok("400")),
        csv("tags of 60 KB", then(tags.as_bytes(), 1), Ok("300")),
        csv("tags of 2 MB", then(long.as_bytes(), 1), Err(&["column resource_tags", "line 2", "2097160 bytes"])),
        csv("deep tags", then(deep.as_bytes(), 1), Err(&["column resource_tags", "line 2", "JSON"])),
        csv("usage types of 60 KB", then(kinds(400).as_bytes(), 1), Err(&["kinds of line"])),
        csv("a million columns", gzip(wide.as_bytes()), Err(&["1000001 columns"])),
        csv("empty members", [start.clone(), gzip(b"").repeat(200_000)].concat(), Ok("0")),
    ]
}
