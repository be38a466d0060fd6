//! The meter that a command names.

use books::units::similar::offer;

use crate::config::Config;
use crate::exit::BadUsage;

/// Requires a configured meter.
pub(super) fn require(config: &Config, meter: &str) -> Result<(), BadUsage> {
    require_of(config.meters.iter().map(|known| known.name.as_str()), meter)
}

/// Requires one of these.
pub(super) fn require_of<'a>(known: impl Iterator<Item = &'a str> + Clone, meter: &str) -> Result<(), BadUsage> {
    if known.clone().any(|name| name == meter) {
        return Ok(());
    }
    Err(BadUsage(format!("there is no meter `{meter}`; {}", offer(meter, known))))
}
