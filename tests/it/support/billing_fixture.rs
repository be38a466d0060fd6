//! A workspace with a configuration that bills, and a fake Stripe.

use fake_stripe::{FakeStripe, Options, Subscription};
use jiff::Timestamp;
use tokio::runtime::Runtime;

use crate::support::{Ran, Workspace};

pub const DAY: i64 = 86_400;
pub const KEY: &str = "sk_test_51NoSuchKeyAnywhere";
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

    /// A version of a bill, by which entries can be booked.
    pub fn book_nothing(&self) {
        self.place.execute(
            "INSERT OR IGNORE INTO bill_versions (id, payer, month, export, format, version, manifest_key, manifest_digest, rules_digest, account, \
             delivered_at, state, rows, counted_rows, rounded_amounts, decided_at) VALUES (1, 'p', '2026-01', 'e', 'cur2', 'v', 'k', 'd', 'r', '', '', \
             'applied', 0, 0, 0, '')",
        );
    }

    /// Books usage of yesterday, in units.
    pub fn book(&self, customer: &str, meter: &str, units: &str) {
        self.book_nothing();
        self.place.execute(&format!(
            "INSERT INTO ledger_entries (version_id, payer, month, customer, meter, day, quantity, kind, booked_at) \
             VALUES (1, 'p', '2026-01', '{customer}', '{meter}', date('now', '-1 day'), CAST(round({units} * 10000000000) AS INTEGER), 'usage', '')"
        ));
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

pub fn config(url: &str) -> String {
    format!(
        "[[exports]]\nname = \"main\"\nlocation = \"bucket\"\n[stripe]\nurl = \"{url}\"\nper_second = 1000\ntimeout_seconds = 1\n\
         [stripe.meters.chime_minutes]\nevent_name = \"chime_milliminutes\"\nper_unit = \"1000\"\n\
         [stripe.meters.storage_gb]\nevent_name = \"storage_mb_months\"\nper_unit = \"1000\"\ndisplay_name = \"Storage\"\n"
    )
}
