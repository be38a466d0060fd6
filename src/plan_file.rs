//! The file of plans that `meter plan apply` reads.

use std::path::Path;

use books::limits::plan::{self, Plan, PlanFault};
use serde::Deserialize;

use crate::config::{Raw, Step, in_order};

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    plans: Vec<Plan>,
}

/// The plan versions of a file, and where they are written.
pub struct PlanFile {
    pub plans: Vec<Plan>,
    raw: Raw,
}

impl PlanFile {
    /// Reads the text of the file `name`; `meters` are the names that may be used.
    ///
    /// # Errors
    /// Everything that is wrong with it, each with its line.
    pub fn read(name: &Path, text: String, meters: &[String]) -> Result<Self, Vec<String>> {
        let mut raw = Raw::of_text(name, text).map_err(|e| e.0)?;
        let mut faults = vec![];
        let plans = raw.extract::<File>(&mut faults).plans;
        let file = Self { plans, raw };
        faults.extend(plan::faults(&file.plans, meters).iter().map(|fault| file.place(fault)));
        in_order(&mut faults);
        if faults.is_empty() { Ok(file) } else { Err(faults) }
    }

    /// A fault, with its line.
    pub fn place(&self, fault: &PlanFault) -> String {
        let mut path = vec![Step::Key("plans".into()), Step::Place(fault.place)];
        if let Some(meter) = &fault.meter {
            path.extend([Step::Key("meters".into()), Step::Key(meter.clone())]);
        }
        self.raw.at(&path, &fault.to_string())
    }
}

#[cfg(test)]
mod tests {
    use books::limits::plan::{Applied, Plans};
    use jiff::Timestamp;

    use super::*;

    fn read(text: &str) -> Vec<Plan> {
        let meters = ["chime_minutes".to_owned(), "storage_gb".to_owned()];
        PlanFile::read(Path::new("plans.toml"), text.to_owned(), &meters).unwrap_or_else(|f| panic!("{f:?}")).plans
    }

    #[test]
    fn every_fault_is_named_with_its_line() {
        let text = r#"
[[plans]]
name = " pro"
currency = "EUR"
effective_from = "2026-10-01T00:00:00Z"
meters.chime_minute = { included = "1" }
meters.storage_gb = { included = "-1" }

[[plans]]
name = "pro"
currency = "EURO"
effective_from = "2026-10-01T00:00:00Z"
meters.storage_gb = { included = "1", price = "x", limit = 3 }

[[plans]]
currency = "EUR"
"#;
        let found = PlanFile::read(Path::new("p.toml"), text.to_owned(), &["storage_gb".to_owned()]).map(|f| f.plans);
        let faults = found.unwrap_err();
        for (line, says) in [
            (2, "that is no name"),
            (6, "meter `chime_minute`: there is no such meter; there are"),
            (7, "the included amount is negative"),
            (11, "EURO"),
            (13, "there is no `limit` here"),
            (13, "`x` is no price"),
            (15, "`name` is missing"),
        ] {
            let there = |fault: &&String| fault.starts_with(&format!("p.toml:{line}: ")) && fault.contains(says);
            assert_eq!(faults.iter().filter(there).count(), 1, "{line} {says}: {faults:#?}");
        }
    }

    /// The commented file is what every new database has.
    #[tokio::test]
    async fn the_commented_file_is_the_default_plan() {
        let books = books::Database::open_local(std::path::Path::new(":memory:")).await.unwrap();
        books.migrate(Timestamp::UNIX_EPOCH).await.unwrap();
        let file = read(include_str!("../plans.toml"));
        assert_eq!(Plans::new(file.clone()), books.plans().await.unwrap());
        let applied = books.apply_plans(file, &[], Timestamp::UNIX_EPOCH).await.unwrap();
        assert_eq!(applied, [Applied::Unchanged]);
        // what the comments show can be applied, too
        let (own, shown) = include_str!("../plans.toml").split_once("# [[plans]]").unwrap();
        let shown = format!("{own}[[plans]]{}", shown.replace("\n# ", "\n"));
        let meters = ["chime_minutes".to_owned(), "storage_gb".to_owned()];
        let applied = books.apply_plans(read(&shown), &meters, Timestamp::now()).await.unwrap();
        assert_eq!(applied, [Applied::Unchanged, Applied::New]);
    }
}
