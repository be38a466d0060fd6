//! The file of plans that `meter plan apply` reads.

use books::limits::plan::Plan;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    plans: Vec<Plan>,
}

/// Reads the text of a file of plans.
///
/// # Errors
/// What is wrong with it, and where.
pub fn read(text: &str) -> Result<Vec<Plan>, toml::de::Error> {
    Ok(toml::from_str::<File>(text)?.plans)
}

#[cfg(test)]
mod tests {
    use books::limits::plan::{Applied, Plans};
    use jiff::Timestamp;

    use super::*;

    /// The commented file is what every new database has.
    #[tokio::test]
    async fn the_commented_file_is_the_default_plan() {
        let books = books::Database::open_local(std::path::Path::new(":memory:")).await.unwrap();
        books.migrate(Timestamp::UNIX_EPOCH).await.unwrap();
        let file = read(include_str!("../plans.toml")).unwrap();
        assert_eq!(Plans::new(file.clone()), books.plans().await.unwrap());
        let applied = books.apply_plans(file, &[], Timestamp::UNIX_EPOCH).await.unwrap();
        assert_eq!(applied, [Applied::Unchanged]);
        // what the comments show can be applied, too
        let (own, shown) = include_str!("../plans.toml").split_once("# [[plans]]").unwrap();
        let shown = format!("{own}[[plans]]{}", shown.replace("\n# ", "\n"));
        let meters = ["chime_minutes".to_owned(), "storage_gb".to_owned()];
        let applied = books.apply_plans(read(&shown).unwrap(), &meters, Timestamp::now()).await.unwrap();
        assert_eq!(applied, [Applied::Unchanged, Applied::New]);
    }
}
