//! POST /v1/subscriptions and POST /v1/subscription_items, with Stripe's refusals.

use serde_json::Value;

use crate::World;
use crate::answers::{self, Answer};
use crate::form::Params;
use crate::subscriptions::{Subscription, item_id};

/// The most items of a subscription.
const ITEMS: usize = 20;

/// An item that is to be added.
struct NewItem {
    price: String,
    quantity: Option<u64>,
    /// The name of the parameter with the price.
    param: String,
}

impl NewItem {
    fn read(params: &mut Params, place: Option<&str>) -> Result<Self, Answer> {
        let named = |field: &str| place.map_or(field.to_owned(), |place| format!("{place}[{field}]"));
        let (param, count) = (named("price"), named("quantity"));
        let price = params.required(&param, 5000)?;
        let refuse = |_| {
            let message = "This value must be greater than or equal to 0.";
            answers::refused("parameter_invalid_integer", message, &count)
        };
        let quantity = params.integer(&count)?.map(u64::try_from).transpose().map_err(refuse)?;
        Ok(Self { price, quantity, param })
    }
}

impl World {
    /// POST /v1/subscriptions. By belief the anchor of a backdated subscription is its start.
    /// Nothing asks for a payment method: nothing is due at the start of metered items.
    pub(crate) fn create_subscription(&mut self, mut params: Params) -> Result<Value, Answer> {
        let customer = params.required("customer", 5000)?;
        let currency = params.string("currency", 3)?.map(|code| code.to_lowercase());
        let backdated = params.integer("backdate_start_date")?;
        let cancel_at_period_end = params.boolean("cancel_at_period_end")?.unwrap_or(false);
        let places = params.places("items");
        let items: Result<Vec<NewItem>, Answer> =
            places.iter().map(|place| NewItem::read(&mut params, Some(place))).collect();
        let items = items?;
        params.finish()?;
        if !self.has_customer(&customer) {
            return Err(answers::no_such("customer", &customer, "customer"));
        }
        if items.is_empty() {
            return Err(answers::missing("items"));
        }
        let now = self.now();
        if backdated.is_some_and(|start| start > now) {
            let message = "`backdate_start_date` must be in the past.";
            return Err(answers::invalid(message, Some("backdate_start_date")));
        }
        let id = format!("sub_fake{:010}", self.next_number());
        let mut made = Subscription::monthly(&id, &customer, backdated.unwrap_or(now), &[]);
        made.currency = currency;
        made.cancel_at_period_end = cancel_at_period_end;
        for item in items {
            self.fit(&made, &item)?;
            if let Some(first) = self.price(&item.price).filter(|_| made.prices.is_empty()) {
                first.interval().clone_into(&mut made.interval);
            }
            made.quantities.extend(item.quantity.map(|quantity| (item.price.clone(), quantity)));
            made.prices.push(item.price);
        }
        let answer = self.subscription_json(&made);
        self.add_subscription(made);
        Ok(answer)
    }

    /// POST /v1/subscription_items
    pub(crate) fn create_subscription_item(&mut self, mut params: Params) -> Result<Value, Answer> {
        let id = params.required("subscription", 5000)?;
        let item = NewItem::read(&mut params, None)?;
        params.finish()?;
        let found = self.subscription(&id).filter(|subscription| subscription.ended.is_none());
        let subscription = found.ok_or_else(|| answers::no_such("subscription", &id, "subscription"))?.clone();
        self.fit(&subscription, &item)?;
        self.add_item(&id, &item.price);
        if let (Some(quantity), Some(subscription)) = (item.quantity, self.subscription_mut(&id)) {
            subscription.quantities.insert(item.price.clone(), quantity);
        }
        self.retrieve_subscription_item(&item_id(&subscription, &item.price), Params::new("", b""))
    }

    /// Whether an item can be added to a subscription.
    fn fit(&self, subscription: &Subscription, item: &NewItem) -> Result<(), Answer> {
        let refuse = |message: &str| Err(answers::invalid(message, Some(&item.param)));
        let NewItem { price: id, .. } = item;
        let price = self.price(id).ok_or_else(|| answers::no_such("price", id, &item.param))?;
        if !price.active {
            return refuse("The price specified is inactive. This field only accepts active prices.");
        }
        if subscription.prices.contains(id) {
            return refuse(&format!("Cannot add multiple subscription items with the same plan: {id}"));
        }
        if subscription.prices.len() >= ITEMS {
            return refuse(&format!("A subscription can have at most {ITEMS} items."));
        }
        if !price.terms.licensed && item.quantity.is_some() {
            return refuse("You cannot set the quantity for metered plans.");
        }
        if subscription.prices.is_empty() && subscription.currency.is_none() {
            return Ok(());
        }
        let currency = self.currency_of(subscription);
        if !price.charges_in(&currency) {
            return refuse(&format!(
                "The price specified only supports `{}`. This doesn't match the expected currency: `{currency}`.",
                price.currency
            ));
        }
        if !subscription.prices.is_empty() && price.interval() != subscription.interval {
            return refuse(
                "Currency and interval fields must match across all plans on this subscription. Found mismatch in \
                 interval field.",
            );
        }
        Ok(())
    }
}
