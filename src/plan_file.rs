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
        let mut plans = raw.extract::<File>(&mut faults).plans;
        // a version without a currency has that of the others
        let is_filled =
            |at: usize| raw.is_filled(&[Step::Key("plans".into()), Step::Place(at), Step::Key("currency".into())]);
        for at in (0..plans.len()).filter(|at| is_filled(*at)) {
            let other = plans.iter().enumerate().find(|(i, plan)| plan.name == plans[at].name && !is_filled(*i));
            if let Some((_, other)) = other {
                plans[at].currency = other.currency;
            }
        }
        let file = Self { plans, raw };
        if file.plans.is_empty() && faults.is_empty() {
            faults.push("there is no [[plans]] in it".to_owned());
        }
        let later = plan::faults(&file.plans, meters);
        faults.extend(later.iter().filter_map(|fault| file.raw.said(file.place(fault))));
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

    #[test]
    fn a_value_that_cannot_be_read_hides_no_other_fault() {
        let text = r#"
[[plans]]
name = " a"
currency = "usd"
colour = 1
meters.nope = { included = "1" }
meters.storage_gb = { price = "-1" }
"#;
        let found = PlanFile::read(Path::new("p.toml"), text.to_owned(), &["storage_gb".to_owned()]).map(|f| f.plans);
        let faults = found.unwrap_err();
        let named =
            [(2, "that is no name"), (4, "currency"), (5, "colour"), (6, "`nope`"), (7, "`included` is missing")];
        for (line, says) in named {
            let there = |fault: &&String| fault.starts_with(&format!("p.toml:{line}: ")) && fault.contains(says);
            assert_eq!(faults.iter().filter(there).count(), 1, "{line} {says}: {faults:#?}");
        }
        // beside them the instant is missing and a price is wrong; what was filled in is not named
        assert!(faults.len() == 7 && !faults.iter().any(|fault| fault.contains("missing_value")), "{faults:#?}");
        // what is missing is no fault of the others, and a name is no mark of what was filled in
        let text = r#"
[[plans]]
name = "missing_value_"
currency = "EUR"
effective_from = "2026-10-01T00:00:00Z"
meters = {}
[[plans]]
name = "missing_value_"
meters = {}
[[plans]]
name = "missing_value_"
colour = 1
meters.nope = { included = "1" }
"#;
        let found = PlanFile::read(Path::new("missing_value_.toml"), text.to_owned(), &[]).map(|f| f.plans);
        let faults = found.unwrap_err();
        assert_eq!(faults.len(), 6, "{faults:#?}");
        assert!(faults.iter().all(|fault| !fault.contains("two ")), "{faults:#?}");
        // without a name a version is named by its place
        let text = "[[plans]]\nmeters.nope = { included = \"-1\" }\n".to_owned();
        let faults = PlanFile::read(Path::new("p.toml"), text, &[]).map(|f| f.plans).unwrap_err();
        assert!(faults.iter().any(|fault| fault.starts_with("p.toml:2: plan plans[0]: meter `nope`")), "{faults:#?}");
        let empty = PlanFile::read(Path::new("p.toml"), "plans = []\n".to_owned(), &[]).map(|f| f.plans);
        assert_eq!(empty.unwrap_err(), ["there is no [[plans]] in it"]);
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
