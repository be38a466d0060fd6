//! The names of meters that people read.

use std::collections::BTreeMap;

use books::limits::plan::TURN;

use super::raw::Step;
use super::{Config, MeterConfig};

/// Longest name, in characters.
const LONGEST: usize = 60;

/// The name of a meter that has none in the configuration.
fn display_name(meter: &str) -> String {
    let known = [
        ("chime_minutes", "Call minutes"),
        ("storage_gb", "File storage"),
        ("transfer_gb", "Downloads"),
        (TURN, "Relay connections"),
    ];
    if let Some((_, name)) = known.iter().find(|(known, _)| *known == meter) {
        return (*name).to_owned();
    }
    let words = meter.replace(['_', '-'], " ");
    let mut letters = words.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

impl Config {
    /// The names of meters that people read, of TURN credentials, too.
    pub fn display_names(&self) -> BTreeMap<String, String> {
        let own = |meter: &MeterConfig| meter.display_name.clone().unwrap_or_else(|| display_name(&meter.name));
        let names = self.meters.iter().map(|meter| (meter.name.clone(), own(meter)));
        names.chain([(TURN.to_owned(), display_name(TURN))]).collect()
    }

    pub(super) fn display_name_faults(&self) -> Vec<(Vec<Step>, String)> {
        let is_wrong = |name: &String| {
            name.trim().is_empty() || name.chars().count() > LONGEST || name.chars().any(char::is_control)
        };
        let wrong = self.meters.iter().enumerate().filter(|(_, m)| m.display_name.as_ref().is_some_and(is_wrong));
        wrong
            .map(|(at, _)| {
                (self.meter_path(at, "display_name"), format!("it has 1 to {LONGEST} characters, in one line"))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meter_without_a_name_for_people_gets_one() {
        for (meter, name) in [
            ("chime_minutes", "Call minutes"),
            (TURN, "Relay connections"),
            ("transcribed_seconds", "Transcribed seconds"),
            ("x-ray", "X ray"),
            ("", ""),
        ] {
            assert_eq!(display_name(meter), name);
        }
    }
}
