//! AWS's public price list of Amazon Chime's offers, in which the usage types of a bill stand with
//! their prices. It needs no credentials. Nothing is billed by it: `meter discover --price-list`
//! reads it for whoever writes a meter.
//!
//! <https://docs.aws.amazon.com/awsaccountbilling/latest/aboutv2/price-changes.html>

mod offer;
mod source;

pub(crate) use self::offer::{ListedPrice, OfferList};
pub(crate) use self::source::ListSource;

/// The offers in which AWS sells Amazon Chime.
pub(crate) const CHIME_OFFERS: [&str; 4] =
    ["AmazonChime", "AmazonChimeFeatures", "AmazonChimeServices", "AmazonChimeVoiceConnector"];

/// Where AWS serves the price list.
pub(crate) const AWS_ADDRESS: &str = "https://pricing.us-east-1.amazonaws.com";
