//! A workspace with a configuration that bills, and a fake Stripe.

use fake_stripe::{FakeStripe, Options, Subscription};
use jiff::Timestamp;
use tokio::runtime::Runtime;

use crate::support::{Ran, Workspace};
use testkit::usage::booking;

pub const DAY: i64 = 86_400;
pub const KEY: &str = "sk_test_51NoSuchKeyAnywhere";
/// Counts the events that are not at their end.
pub const OPEN: &str = "SELECT count(*) FROM meter_events WHERE state IN ('pending', 'sending', 'unconfirmed')";
pub const PLANS: &str = r#"
[[plans]]
name = "pro"
currency = "USD"
effective_from = "1970-01-01T00:00:00Z"
[plans.meters.chime_minutes]
included = "100"
price = "0.0045"
report = "overage"
[plans.meters.storage_gb]
included = "0"
price = "0.05"
report = "total"
"#;

/// A workspace with a configuration that bills, and a Stripe.
pub struct BillingFixture {
    pub place: Workspace,
    pub stripe: FakeStripe,
    pub runtime: Runtime,
}

impl BillingFixture {
    pub fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let options = Options { key: KEY.into(), ..Options::default() };
        let stripe = runtime.block_on(FakeStripe::start(options)).unwrap();
        let place = Workspace::with(&config(&stripe.url()));
        std::fs::write(place.path("plans.toml"), PLANS).unwrap();
        Self { place, stripe, runtime }
    }

    /// One whose account is set up and whose customers have subscriptions that began ten days ago.
    pub fn open(customers: &[&str]) -> Self {
        let fixture = Self::new();
        fixture.run("migrate").ends(0);
        fixture.run("plan apply plans.toml").ends(0);
        fixture.run("stripe setup").ends(3);
        let began = Timestamp::now().as_second() - 10 * DAY;
        {
            let mut world = fixture.stripe.world();
            world.add_price("price_chime", "chime_milliminutes", "usd", "0.00045", None);
            world.add_price("price_storage", "storage_mb_months", "usd", "0.005", None);
            for name in customers {
                let (cus, sub) = (format!("cus_{name}"), format!("sub_{name}"));
                world.add_customer(&cus);
                world.add_subscription(Subscription::monthly(&sub, &cus, began, &["price_chime", "price_storage"]));
            }
        }
        for name in customers {
            fixture.run(&format!("customer add {name} --plan pro --stripe-customer-id cus_{name}")).ends(0);
        }
        fixture.run("run sync-stripe").ends(0);
        fixture.run("run roll-periods").ends(0);
        fixture
    }

    pub fn run(&self, line: &str) -> Ran {
        self.place.run_with(line, &[("METER_STRIPE__KEY", KEY)])
    }

    /// Books usage of yesterday, in units.
    pub fn book(&self, customer: &str, meter: &str, units: &str) {
        self.used(customer, meter, units, 1);
    }

    /// Books usage `days` ago, in units.
    pub fn used(&self, customer: &str, meter: &str, units: &str, days: i64) {
        let (day, quantity) =
            (format!("date('now', '-{days} day')"), format!("CAST(round({units} * 10000000000) AS INTEGER)"));
        self.place.execute(&booking(customer, meter, &day, &quantity).join(";"));
    }

    /// Raw sum of a customer's invoices for a meter.
    pub fn invoiced(&self, customer: &str, event_name: &str) -> String {
        let lines = self.stripe.world().invoices(&format!("cus_{customer}"));
        let sum: rust_decimal::Decimal = lines.iter().filter(|l| l.event_name == event_name).map(|l| l.sum).sum();
        sum.normalize().to_string()
    }

    pub fn judge(self) {
        testkit::judge::judge(self.stripe.world().requests());
        self.runtime.shutdown_background();
    }
}

/// The statements that book thousandths of a unit of storage yesterday.
pub fn yesterday(customer: &str, milli: i64) -> String {
    let booking = booking(customer, "storage_gb", "date('now', '-1 day')", &format!("{milli} * 10000000"));
    booking.map(|sql| sql + ";").concat()
}

pub fn config(url: &str) -> String {
    format!(
        "[[exports]]\nname = \"main\"\nlocation = \"bucket\"\n[stripe]\nurl = \"{url}\"\nper_second = 1000\ntimeout_seconds = 1\n\
         [stripe.meters.chime_minutes]\nevent_name = \"chime_milliminutes\"\nper_unit = \"1000\"\n\
         [stripe.meters.storage_gb]\nevent_name = \"storage_mb_months\"\nper_unit = \"1000\"\ndisplay_name = \"Storage\"\n"
    )
}
