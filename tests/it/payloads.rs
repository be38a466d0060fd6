//! A queue is a wire format: what an older build has enqueued, a newer one must run. Each file in
//! `tests/it/payloads` is a payload as some build wrote it; a change that breaks one needs a new
//! kind, not a new file.

use std::collections::BTreeSet;
use std::path::Path;

use meter::worker::Kinds;

#[test]
fn payloads_of_all_times_still_fit() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/payloads");
    let kinds = Kinds::all();
    let mut seen = BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let (kind, _) = name.split_once('.').expect("the name is KIND.what.json");
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let [payload, key] = lines[..] else { panic!("{name}: a payload and its key, a line each") };
        let checked = kinds.get(kind).unwrap_or_else(|| panic!("{name}: no such kind")).check(payload).unwrap();
        let (was, is): (serde_json::Value, serde_json::Value) =
            (serde_json::from_str(payload).unwrap(), serde_json::from_str(&checked.payload).unwrap());
        for (field, value) in was.as_object().unwrap() {
            assert_eq!(&is[field], value, "{name}: {field}");
        }
        assert_eq!(checked.key.unwrap_or_default(), key, "{name}: the key is part of the format");
        seen.insert(kind.to_owned());
    }
    let all: BTreeSet<String> = kinds.names().into_iter().map(str::to_owned).collect();
    assert_eq!(seen, all, "every kind has a file");
}
