//! A statement as CSV: a row for each day of a meter, and one for its amounts.

use books::units::money::Money;

use crate::statement::{Statement, StatementMeter};

/// Prints a statement exactly, with a header. `kind` says what a row is.
pub(crate) fn csv(of: &Statement) -> anyhow::Result<()> {
    let titles = ["kind", "date", "meter", "name", "unit", "quantity", "price", "currency", "amount"];
    let mut rows = vec![];
    for meter in &of.meters {
        rows.extend(
            meter.days.iter().map(|day| row(meter, of, ["usage", &day.day.to_string()], day.quantity.to_string())),
        );
        let start = of.period_start.strftime("%F").to_string();
        let parts = [
            ("used", meter.usage.booked),
            ("included", meter.usage.within),
            ("billed", meter.usage.billed),
            ("waiting", meter.usage.waiting),
            ("house", meter.usage.house),
            ("not_priced", meter.usage.not_priced),
        ];
        rows.extend(parts.map(|(kind, quantity)| row(meter, of, [kind, &start], quantity.to_string())));
        for (kind, all) in [("correction", &meter.corrections), ("later", &meter.later)] {
            rows.extend(all.iter().map(|one| {
                let start = one.period_start.strftime("%F").to_string();
                row(meter, of, [kind, &start], one.quantity.to_string())
            }));
        }
        let mut charged = row(meter, of, ["charged", &start], meter.charged.to_string());
        charged[6] = meter.price.map_or(String::new(), |price| price.to_string());
        charged[8] = meter.amount.map_or(String::new(), Money::written);
        rows.push(charged);
    }
    super::csv(&titles, rows)
}

fn row(meter: &StatementMeter, of: &Statement, [kind, date]: [&str; 2], quantity: String) -> Vec<String> {
    let named = [kind, date, &meter.meter, &meter.name, &meter.unit].map(str::to_owned);
    named.into_iter().chain([quantity, String::new(), of.currency.to_string(), String::new()]).collect()
}
