//! Names that were meant: those that differ least from one that is not there.

/// Similar names that are offered.
const OFFERED: usize = 3;

/// The names that differ least from `wanted`, in any case of letters: by a third of its letters at
/// most, or only longer. Pure.
pub fn similar<'a>(wanted: &str, all: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let wanted = wanted.to_lowercase();
    let most = (wanted.chars().count() / 3).max(1);
    let near = |other: &str| {
        let distance = strsim::osa_distance(&wanted, &other.to_lowercase());
        let other = other.to_lowercase();
        let longer = other.starts_with(&wanted) || wanted.chars().count() > 3 && other.contains(&wanted);
        (distance <= most || longer).then_some(distance)
    };
    let mut found: Vec<(usize, &str)> = all.into_iter().filter_map(|other| Some((near(other)?, other))).collect();
    found.sort_unstable();
    found.into_iter().take(OFFERED).map(|(_, name)| name).collect()
}

/// `did you mean x?` when a name of `all` is near to `wanted`, else `there are: …`.
pub fn offer<'a>(wanted: &str, all: impl IntoIterator<Item = &'a str> + Clone) -> String {
    let quoted = |names: Vec<&str>| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>();
    match similar(wanted, all.clone()).as_slice() {
        [] => {
            let all: Vec<&str> = all.into_iter().collect();
            if all.is_empty() { "there are none".to_owned() } else { format!("there are: {}", quoted(all).join(", ")) }
        }
        near => format!("did you mean {}?", quoted(near.to_vec()).join(" or ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn similar_names_are_few_and_near() {
        for (name, all, expected) in [
            ("bob", "bobby bab rob alice", "bab rob bobby"),
            ("Bob", "bob BOB", "BOB bob"),
            (
                "customer-0012",
                "customer-0021 customer-0011 customer-0013 customer-0014 c",
                "customer-0011 customer-0013 customer-0014",
            ),
            ("acme", "zenith", ""),
            ("ac", "acme", "acme"),
            ("minutes", "chime_minutes storage_gb", "chime_minutes"),
        ] {
            assert_eq!(similar(name, all.split(' ')).join(" "), expected, "{name}");
        }
    }
}
