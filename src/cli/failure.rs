//! Failures of jobs, for people.

use jobs::job::Failure;
use jobs::stripe::preconditions;
use jobs::stripe::transport::CallError;

/// Whether it is worth trying again, as an addition to a sentence.
pub(super) fn advice(failure: &Failure) -> &'static str {
    if failure.is_retryable() { " (the next run may succeed)" } else { "" }
}

/// The error that a command ends with.
pub(super) fn error(failure: &Failure) -> anyhow::Error {
    anyhow::anyhow!("{:#}{}", failure.error(), advice(failure))
}

/// The error that a command ends with after a failed call of Stripe's API.
pub(super) fn of_stripe(error: CallError) -> anyhow::Error {
    self::error(&preconditions::failure(error))
}
