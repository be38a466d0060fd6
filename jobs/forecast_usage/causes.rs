//! The likely causes of unusual days: of a few that are named, more is looked up.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::context::Context;
use books::BooksError;
use books::forecast::stored::UnusualOfMeter;
use books::forecast::unusual::{LikelyCause, UnusualDay, ordered};
use books::measured::accrual::Accrues;
use books::measured::accuracy::{DAY_PERCENT, TwoWitnesses, kept_accuracy, least};
use books::units::calendar::Day;

/// Days that are named, of each meter.
const NAMED: usize = 10;

/// What a cause is looked up with.
struct Witnesses {
    /// The meters that are measured, and since when.
    measured: BTreeMap<String, (Accrues, Day)>,
}

/// The findings by meter, the largest with their causes.
pub(super) async fn named(
    context: &Context,
    found: Vec<UnusualDay>,
    now: Timestamp,
) -> Result<Vec<UnusualOfMeter>, BooksError> {
    let mut by_meter: BTreeMap<String, Vec<UnusualDay>> = BTreeMap::new();
    for of in ordered(found) {
        by_meter.entry(of.meter.clone()).or_default().push(of);
    }
    if by_meter.is_empty() {
        return Ok(vec![]);
    }
    let accuracies = context.books.with_connection(async |c| kept_accuracy(c).await).await?;
    let since = |meter: &str| accuracies.iter().find(|of| of.meter == meter).map(|of| of.since);
    let measured = context.measuring.meters.iter();
    let measured = measured.filter_map(|of| Some((of.meter.clone(), (of.accrues, since(&of.meter)?))));
    let witnesses = Witnesses { measured: measured.collect() };
    let mut named = vec![];
    for (meter, mut days) in by_meter {
        let total = u64::try_from(days.len()).unwrap_or(u64::MAX);
        days.truncate(NAMED);
        for of in &mut days {
            of.cause = witnesses.cause(context, of, now).await?;
        }
        named.push(UnusualOfMeter { meter, total, days });
    }
    Ok(named)
}

impl Witnesses {
    async fn cause(&self, context: &Context, of: &UnusualDay, now: Timestamp) -> Result<LikelyCause, BooksError> {
        let Some(customer) = &of.customer else { return Ok(of.cause) };
        let settled_at = of.day.end() + context.measuring.settle_after;
        if context.books.is_restated(customer, &of.meter, of.day, settled_at).await? {
            return Ok(LikelyCause::Restatement);
        }
        if of.cause == LikelyCause::TagChange {
            return Ok(of.cause);
        }
        let agrees = self.agrees(context, customer, of, now).await?;
        Ok(match (agrees, of.cause) {
            (Some(false), _) => LikelyCause::MeasuredDiffers,
            (Some(true), LikelyCause::Unknown) => LikelyCause::MeasuredAgrees,
            (_, cause) => cause,
        })
    }

    /// Whether what was measured is about what was billed; none when the day was not measured.
    async fn agrees(
        &self,
        context: &Context,
        customer: &str,
        of: &UnusualDay,
        now: Timestamp,
    ) -> Result<Option<bool>, BooksError> {
        let Some((accrues, since)) = self.measured.get(&of.meter) else { return Ok(None) };
        if of.day <= *since || customer.is_empty() {
            return Ok(None);
        }
        let found = context.books.measured(Some(customer.to_owned()), of.day, of.day, now).await?;
        let measured = found.iter().filter(|day| day.meter == of.meter).map(|day| day.quantity).sum();
        let both = TwoWitnesses { measured, billed: of.used };
        Ok(Some(both.excess(DAY_PERCENT, least(*accrues)).is_none()))
    }
}
