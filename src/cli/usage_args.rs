//! The arguments that `meter usage` and `meter measured` share.

use books::units::calendar::Month;
use clap::Args as ClapArgs;

#[derive(Debug, ClapArgs)]
pub(crate) struct UsageArgs {
    /// Only this customer, by day
    pub(super) customer: Option<String>,
    /// Month [default: the current one]
    #[arg(long, value_name = "YYYY-MM")]
    pub(super) month: Option<Month>,
    /// Print as JSON
    #[arg(long, conflicts_with = "csv")]
    pub(super) json: bool,
    /// Print as CSV
    #[arg(long)]
    pub(super) csv: bool,
}
