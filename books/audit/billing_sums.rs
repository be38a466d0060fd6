//! All usage of a meter by what became of it: from the ledger to the invoice, in units and money.
//!
//! `meter reconcile` shows the same parts for each customer and billing period. These sums are over
//! all of them, and over usage that lies in no period, so nothing is outside of them.

use std::collections::BTreeMap;

use crate::store::connection::{Connection, params};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::store::error::BooksError;
use crate::store::rows::{exact_sum, json, sum_of};
use crate::stripe::billing_target::{Conservation, MoneyParts, UsageParts};
use crate::stripe::comparison::{WithoutPeriod, usage_without_period};
use crate::stripe::stripe_meter::{StripeMeter, stripe_meters};
use crate::units::quantity::Quantity;

/// What became of all usage of a meter that Stripe bills.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct BillingSums {
    pub meter: String,
    /// Everything that is booked; the sum of all quantities below.
    pub booked: Quantity,
    pub within: Quantity,
    pub billed: Quantity,
    /// Deferred, on its way, refused, or booked since the last push.
    pub waiting: Quantity,
    pub house: Quantity,
    pub not_priced: Quantity,
    /// Without a customer's tag: the company pays.
    pub no_tag: Quantity,
    /// Of ids without a row in `customers`: it waits for the row.
    pub unknown_customer: Quantity,
    /// Of customers, on days in no billing period yet.
    pub no_period: Quantity,
    /// Worth of the parts at the plans' prices, by currency.
    pub money: BTreeMap<String, MoneyParts>,
    /// The same of the billing periods that went on then, by currency.
    #[serde(default)]
    pub open: BTreeMap<String, OpenBills>,
}

/// What the usage of the billing periods that go on is worth, in minor units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct OpenBills {
    /// Billed and waiting.
    pub billable: i64,
    pub house: i64,
}

impl BillingSums {
    /// The parts by the names that metrics and documents use.
    pub fn named(&self) -> [(&'static str, Quantity); 8] {
        [
            ("within", self.within),
            ("billed", self.billed),
            ("waiting", self.waiting),
            ("house", self.house),
            ("not_priced", self.not_priced),
            ("no_tag", self.no_tag),
            ("unknown_customer", self.unknown_customer),
            ("no_period", self.no_period),
        ]
    }
}

/// ?1 meters.
const BOOKED: &str = "SELECT meter, sum(units) || ' ' || sum(rest) FROM usage_totals \
    WHERE meter IN (SELECT value FROM json_each(?1)) GROUP BY meter";

/// ?1 meters.
const PLANNED: &str = concat!(
    "SELECT meter, currency, sum(billable_minor), sum(house_minor), ",
    exact_sum!("within"),
    ", ",
    exact_sum!("billable"),
    ", ",
    exact_sum!("house"),
    ", ",
    exact_sum!("not_priced"),
    ", sum(iif(unixepoch() >= period_start AND unixepoch() < period_end, billable_minor, 0)), \
       sum(iif(unixepoch() >= period_start AND unixepoch() < period_end, house_minor, 0)) \
     FROM billing_targets WHERE meter IN (SELECT value FROM json_each(?1)) GROUP BY meter, currency"
);

/// Targets of which something is not at Stripe, or was discarded. An event on no invoice counts
/// only if a person discarded it. ?1 meters.
const NOT_AT_STRIPE: &str = "SELECT meter, target - accepted - discarded, discarded, used, within, billable, house, not_priced, advance, \
      billable_minor, house_minor, currency FROM ( \
    SELECT t.*, \
      (SELECT coalesce(sum(value), 0) FROM meter_events e JOIN event_invoices USING (seq) WHERE e.customer = t.customer AND e.meter = t.meter \
         AND e.timestamp >= t.period_start AND e.period_start >= t.period_start AND e.period_start < t.period_end AND e.state = 'accepted') AS accepted, \
      (SELECT coalesce(sum(value), 0) FROM meter_events e WHERE e.customer = t.customer AND e.meter = t.meter \
         AND e.timestamp >= t.period_start AND e.period_start >= t.period_start AND e.period_start < t.period_end AND e.state = 'discarded') AS discarded \
    FROM billing_targets t WHERE t.meter IN (SELECT value FROM json_each(?1))) \
    WHERE target <> accepted OR discarded <> 0";

/// Sums what became of all usage. What others book meanwhile counts as waiting.
pub(super) async fn billing_sums(c: &Connection) -> Result<Vec<BillingSums>, BooksError> {
    let meters = stripe_meters(c).await?;
    let names = json(&meters.iter().map(|meter| meter.meter.as_str()).collect::<Vec<_>>())?;
    let mut sums: BTreeMap<String, BillingSums> = BTreeMap::new();
    for StripeMeter { meter, .. } in &meters {
        sums.insert(meter.clone(), BillingSums { meter: meter.clone(), ..BillingSums::default() });
    }
    let mut rows = c.query(BOOKED, params![names.clone()]).await?;
    while let Some(row) = rows.next().await? {
        if let Some(of) = sums.get_mut(&row.get::<String>(0)?) {
            of.booked = sum_of(&row.get::<String>(1)?)?;
        }
    }
    let mut rows = c.query(PLANNED, params![names.clone()]).await?;
    while let Some(row) = rows.next().await? {
        let Some(of) = sums.get_mut(&row.get::<String>(0)?) else { continue };
        of.within += sum_of(&row.get::<String>(4)?)?;
        of.billed += sum_of(&row.get::<String>(5)?)?;
        of.house += sum_of(&row.get::<String>(6)?)?;
        of.not_priced += sum_of(&row.get::<String>(7)?)?;
        let currency: String = row.get(1)?;
        if !currency.is_empty() {
            let open = of.open.entry(currency.clone()).or_default();
            open.billable += row.get::<i64>(8)?;
            open.house += row.get::<i64>(9)?;
            let money = of.money.entry(currency).or_default();
            money.billed += row.get::<i64>(2)?;
            money.house += row.get::<i64>(3)?;
        }
    }
    let mut rows = c.query(NOT_AT_STRIPE, params![names.clone()]).await?;
    while let Some(row) = rows.next().await? {
        let (meter, to_send, discarded): (String, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let Some(stripe_meter) = meters.iter().find(|known| known.meter == meter) else { continue };
        let Some(of) = sums.get_mut(&meter) else { continue };
        let parts = UsageParts::read(&row, 3)?;
        let split = parts.split(to_send, discarded, stripe_meter.per_unit);
        let Conservation { billed, waiting, house, .. } = split.usage;
        of.billed += billed - Quantity::from_scaled(i128::from(parts.billable));
        of.waiting += waiting;
        of.house += house - Quantity::from_scaled(i128::from(parts.house));
        if let Some(money) = of.money.get_mut(&parts.currency) {
            money.billed += split.money.billed - parts.billable_minor;
            money.waiting += split.money.waiting;
            money.house += split.money.house - parts.house_minor;
        }
    }
    for row in usage_without_period(c, None, names).await? {
        let Some(of) = sums.get_mut(&row.meter) else { continue };
        match row.why {
            WithoutPeriod::NoTag => of.no_tag += row.quantity,
            WithoutPeriod::UnknownCustomer => of.unknown_customer += row.quantity,
            WithoutPeriod::NoPeriod => of.no_period += row.quantity,
        }
    }
    // what no target has yet: booked since the last push
    for of in sums.values_mut() {
        let named = of.named().into_iter().map(|(_, part)| part).sum::<Quantity>();
        of.waiting += of.booked - named;
    }
    Ok(sums.into_values().collect())
}
