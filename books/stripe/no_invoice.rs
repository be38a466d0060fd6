//! Customers with usage that their plan bills and that no invoice can take.

use crate::store::connection::params;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use crate::limits::plan::{Plans, ReportMode};
use crate::store::database::Database;
use crate::store::error::BooksError;
use crate::store::rows::json;

/// What a customer lacks for an invoice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum InvoiceLack {
    StripeId,
    Subscription,
}

/// A customer with usage that the plan bills, and without an invoice for it.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct CustomerWithoutInvoice {
    pub customer: String,
    pub lacks: InvoiceLack,
}

/// What a plan bills of a meter: usage beyond `free`, in 10⁻¹⁰ units.
#[derive(Serialize)]
struct Billed<'a> {
    plan: &'a str,
    meter: &'a str,
    free: i64,
}

/// Customers with a billing period that began before ?2 and ended after ?3 or goes on, in which
/// usage of a meter is beyond what is free by ?1, and that has no invoice. The invoice of a period
/// that goes on takes the usage of earlier ones, too.
const WITHOUT_INVOICE: &str = "SELECT c.id, c.stripe_customer_id IS NULL FROM customers c WHERE EXISTS (\
    SELECT 1 FROM json_each(?1) j JOIN billing_periods b ON b.customer = c.id AND b.starts_at <= ?2 AND b.ends_at > ?3 \
    WHERE j.value ->> 'plan' = c.plan AND (c.stripe_customer_id IS NULL OR b.subscription IS NULL AND NOT EXISTS (\
        SELECT 1 FROM invoiced_periods n WHERE n.customer = c.id AND n.starts_at <= ?2 AND n.ends_at > ?2)) \
      AND (SELECT total(quantity) FROM booked_usage u WHERE u.customer = c.id AND u.meter = j.value ->> 'meter' \
             AND u.day BETWEEN b.first_day AND b.last_day) > j.value ->> 'free') ORDER BY c.id";

impl Database {
    /// Customers whose usage of `meters` is beyond what their plan leaves free, in a billing period
    /// that goes on at `now` or ended since `since`, and that no invoice can take. By the plan
    /// versions that hold at `now`.
    pub async fn without_invoice(
        &self,
        plans: &Plans,
        meters: &[String],
        since: Timestamp,
        now: Timestamp,
    ) -> Result<Vec<CustomerWithoutInvoice>, BooksError> {
        let mut billed = vec![];
        for plan in plans.names().into_iter().filter_map(|name| plans.at(name, now.as_second())) {
            for (meter, terms) in plan.meters.iter().filter(|(meter, _)| meters.contains(meter)) {
                let free = match terms.report {
                    ReportMode::Total => 0,
                    ReportMode::Overage => terms.included.to_cell()?,
                    ReportMode::None => continue,
                };
                billed.push(Billed { plan: &plan.name, meter, free });
            }
        }
        let values = params![json(&billed)?, now.as_second(), since.as_second()];
        self.with_connection(async move |c| {
            let mut rows = c.query(WITHOUT_INVOICE, values).await?;
            let mut found = vec![];
            while let Some(row) = rows.next().await? {
                let lacks = if row.get::<i64>(1)? == 1 { InvoiceLack::StripeId } else { InvoiceLack::Subscription };
                found.push(CustomerWithoutInvoice { customer: row.get(0)?, lacks });
            }
            Ok(found)
        })
        .await
    }
}
