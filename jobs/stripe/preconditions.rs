//! Checks before a run works with an account: it is the account that was used before, and its
//! clock agrees with this machine's. Also how Stripe's errors end a run.

use std::collections::BTreeSet;

use anyhow::anyhow;
use jiff::{SignedDuration, Timestamp};

use super::objects::RemoteMeter;
use super::settings::BillingSettings;
use super::transport::{CallError, CallFailure};
use crate::job;
use books::Database;
use books::stripe::stripe_meter::StripeMeter;

/// The largest difference of clocks with which events are sent. Stripe refuses events from more
/// than five minutes ahead, and puts late ones on another invoice.
const STRIPE_CLOCK_LIMIT: SignedDuration = SignedDuration::from_secs(240);

/// The failure of a run after a failed call.
pub fn failure(error: CallError) -> job::Failure {
    let retry_after = error.around.retry_after;
    match error.status {
        Some(400 | 401 | 403 | 404) => job::Failure::GiveUp(anyhow!("{error}{}", remedy(&error))),
        _ => match retry_after {
            Some(wait) => job::Failure::RetryAfter(wait, anyhow!(error)),
            None => job::Failure::Retry(anyhow!(error)),
        },
    }
}

/// What to do about a refused key, as an addition to the error.
fn remedy(error: &CallError) -> &'static str {
    match (error.status, error.kind) {
        (Some(401), CallFailure::Answered) => "; set METER_STRIPE__KEY to a key that is valid",
        (Some(403), CallFailure::Answered) => "; give the key of METER_STRIPE__KEY the permission",
        _ => "",
    }
}

/// Fails if this machine's clock and Stripe's `date` differ by more than `STRIPE_CLOCK_LIMIT`.
pub fn check_clock(date: Option<Timestamp>, now: Timestamp) -> Result<(), job::Failure> {
    let Some(date) = date else { return Ok(()) };
    let off = now.duration_since(date);
    if off.abs() <= STRIPE_CLOCK_LIMIT {
        return Ok(());
    }
    Err(job::Failure::Retry(anyhow!(
        "this machine's clock is {} s {} Stripe's, so nothing was sent: events would go on the wrong invoice; set the clock",
        off.abs().as_secs(),
        if off.is_positive() { "ahead of" } else { "behind" }
    )))
}

/// Finds the account's active meter for each mapped one, as [`match_meters`] does. A meter's first
/// event binds it to its mapping and its account; before, both may change.
pub async fn find_meters(
    books: &Database,
    billing: &BillingSettings,
    remote: &[RemoteMeter],
) -> Result<Vec<StripeMeter>, job::Failure> {
    if let Ok(found) = match_meters(billing, &books.stripe_meters().await?, remote) {
        return Ok(found);
    }
    let fixed = books.fixed_stripe_meters().await?;
    match_meters(billing, &fixed, remote).map_err(|why| job::Failure::GiveUp(anyhow!(why)))
}

/// Finds the account's active meter for each mapped one. An error if the account is not the one
/// that was used before, or the mapping of a meter of `known` has changed. Pure.
pub fn match_meters(
    billing: &BillingSettings,
    known: &[StripeMeter],
    remote: &[RemoteMeter],
) -> Result<Vec<StripeMeter>, String> {
    let ids: BTreeSet<&str> = remote.iter().map(|m| m.id.as_str()).collect();
    if let Some(gone) = known.iter().find(|k| !ids.contains(k.stripe_id.as_str())) {
        return Err(format!(
            "this key belongs to another account: it does not have meter {} ({}), for which these books have events of `{}`; set METER_STRIPE__KEY to the \
             key of that account, or use other books",
            gone.stripe_id, gone.event_name, gone.meter
        ));
    }
    let mut found = vec![];
    for (name, mapping) in &billing.meters {
        if let Some(k) = known.iter().find(|k| k.meter == *name)
            && (k.event_name != mapping.event_name || k.per_unit != mapping.per_unit)
        {
            return Err(format!(
                "stripe.meters.{name}: these books have its events as `{}` with {} units for each. Events of two units cannot be one sum, so the \
                 mapping of a meter stays: set it back, or book the usage under another meter",
                k.event_name, k.per_unit
            ));
        }
        if let Some(k) = known.iter().find(|k| k.meter != *name && k.event_name == mapping.event_name) {
            return Err(format!(
                "stripe.meters.{name}: these books have events of `{}` as `{}`, and one sum cannot have two meters; give `{name}` another event_name",
                k.meter, k.event_name
            ));
        }
        let Some(meter) = remote.iter().find(|m| m.active && m.event_name == mapping.event_name) else { continue };
        if let Some(k) = known.iter().find(|k| k.meter == *name && k.stripe_id != meter.id) {
            return Err(format!(
                "these books have events of `{name}` for meter {}, which is not active, and {} has its event name now: totals of two meters cannot be \
                 kept apart. Deactivate {} and reactivate {} in the dashboard",
                k.stripe_id, meter.id, meter.id, k.stripe_id
            ));
        }
        if let Some(why) = meter.fault() {
            return Err(format!("Stripe's meter {} ({}) cannot take events: {why}", meter.id, meter.event_name));
        }
        found.push(StripeMeter {
            meter: name.clone(),
            event_name: mapping.event_name.clone(),
            per_unit: mapping.per_unit,
            stripe_id: meter.id.clone(),
        });
    }
    Ok(found)
}
