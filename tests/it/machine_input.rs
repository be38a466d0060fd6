//! What machines hand in: ids are looked up whole, and their form is checked where they arrive.

use crate::support::Workspace;
use crate::support::billing_fixture::{BillingFixture, DAY};
use books::units::form;
use fake_stripe::Subscription;
use jiff::Timestamp;

/// An error report of Stripe that names these.
fn report(place: &Workspace, id: &str, identifiers: &[&str]) {
    let sample = |i: &&str| serde_json::json!({ "error_message": "no such customer", "request": { "identifier": i } });
    let samples: Vec<_> = identifiers.iter().map(sample).collect();
    let kinds = [serde_json::json!({ "code": "meter_event_customer_not_found", "sample_errors": samples })];
    let body = serde_json::json!({ "data": { "reason": { "error_types": kinds } } });
    place.execute(&format!("INSERT INTO stripe_error_reports (id, body) VALUES ('{id}', '{body}')"));
}

#[test]
fn an_error_report_of_another_programs_event_changes_none_of_ours() {
    let fixture = BillingFixture::open(&["ann"]);
    fixture.book("ann", "storage_gb", "2");
    fixture.run("push").ends(0).says(&["1 accepted"]);
    let place = &fixture.place;
    let [ours] = &place.query("SELECT identifier FROM meter_events")[..] else { panic!("one event") };
    let seq = place.query("SELECT seq FROM meter_events")[0].clone();
    // the number alone, the number of another prefix, the identifier with something before or after
    let others = [
        seq.clone(),
        format!("+{seq}"),
        format!("meter-00000000-{seq}"),
        format!("x{ours}"),
        format!("{ours}x"),
        format!(" {ours}"),
        format!("{ours}:kept"),
        ours.to_uppercase(),
        String::new(),
    ];
    for (at, other) in others.iter().enumerate() {
        report(place, &format!("evt_{at}"), &[other.as_str()]);
    }
    fixture.run("push").ends(0).says(&["0 sent"]);
    assert_eq!(place.query("SELECT state, coalesce(error, '') FROM meter_events"), ["accepted|"]);
    let outcome = |id: &str| place.query(&format!("SELECT outcome FROM stripe_error_reports WHERE id = '{id}'"));
    let noted = format!("1 sample(s) named, 0 event(s) refused, 1 not of these books: {seq}");
    assert_eq!(outcome("evt_0"), [noted], "it is noted");
    assert_eq!(
        place.query("SELECT count(*) FROM stripe_error_reports WHERE outcome NOT LIKE '%, 1 not of these books: %'"),
        ["0"]
    );
    fixture.run("reconcile ann").ends(0);
    // people name events by number
    fixture.run(&format!("events show {seq}")).ends(0).says(&[ours]);

    // ours among others, by its key
    report(place, "evt_ours", &["1", &format!("{ours}:k0"), "theirs"]);
    fixture.run("push").ends(3).says(&["1 refused"]);
    assert_eq!(outcome("evt_ours"), ["3 sample(s) named, 1 event(s) refused, 2 not of these books: 1, theirs"]);
    assert_eq!(
        place.query("SELECT state, error FROM meter_events"),
        ["refused|said later: meter_event_customer_not_found: no such customer"]
    );
    fixture.judge();
}

/// One id that nobody can mean does not keep the other subscriptions of its page from the books.
#[test]
fn a_subscription_with_an_impossible_id_is_left_out_and_named() {
    let fixture = BillingFixture::open(&["ann"]);
    let began = Timestamp::now().as_second() - 10 * DAY;
    for name in ["sub\t1", "sub_2"] {
        let subscription = Subscription::monthly(name, "cus_ann", began, &["price_storage"]);
        fixture.stripe.world().add_subscription(subscription);
    }
    let synced = fixture.run("run sync-stripe full=true --json").ends(3).json();
    assert_eq!((&synced["read"], &synced["unusable"]), (&3.into(), &1.into()), "{synced}");
    assert_eq!(fixture.place.query("SELECT id FROM subscriptions ORDER BY id"), ["sub_2", "sub_ann"]);
    fixture.runtime.shutdown_background();
}

/// Texts, and whether they are an id of Stripe, and a name.
fn texts() -> Vec<(String, bool, bool)> {
    let row = |text: &str, id, name| (text.to_owned(), id, name);
    vec![
        row("cus_9f1c", true, true),
        row("9f1c-4d", true, true),
        row("x", true, true),
        row("!~", true, true),
        row("", false, false),
        row(" ", false, false),
        row(" cus_1", false, false),
        row("cus_1 ", false, false),
        row("cus 1", false, true),
        row("\u{a0}cus_1", false, false),
        row("cus_1\u{a0}", false, false),
        row("cus\t1", false, false),
        row("cus_1\n", false, false),
        row("cus\u{0}1", false, false),
        row("cus\u{1f}1", false, false),
        row("cus\u{7f}1", false, false),
        row("cus\u{85}1", false, false),
        row("zoë", false, true),
        row("é", false, true),
        (("x").repeat(64), true, true),
        (("x").repeat(255), true, true),
        (("x").repeat(256), false, true),
        (("ë").repeat(256), false, true),
        (("x").repeat(257), false, false),
    ]
}

/// The rules of the code and of the triggers are the same, when a row is made and when it changes.
#[tokio::test]
async fn code_and_database_have_one_rule() {
    let books = books::Database::open_local(std::path::Path::new(":memory:")).await.unwrap();
    books.migrate(jiff::Timestamp::now()).await.unwrap();
    for (text, is_id, is_name) in texts() {
        assert_eq!(form::is_stripe_id(&text), is_id, "{text:?}");
        assert_eq!(form::is_name(&text, form::CUSTOMER_ID), is_name, "{text:?}");
        let short = is_name && text.chars().count() <= form::PLAN_NAME;
        assert_eq!(form::is_name(&text, form::PLAN_NAME), short, "{text:?}");
        for (what, fits, sql) in [
            ("customers.id", is_name, "INSERT INTO customers (id) VALUES (?1)"),
            ("customers.stripe_customer_id", is_id, "INSERT INTO customers (id, stripe_customer_id) VALUES ('a', ?1)"),
            (
                "customers.stripe_subscription_id",
                is_id,
                "INSERT INTO customers (id, stripe_subscription_id) VALUES ('a', ?1)",
            ),
            ("customers.plan", short, "INSERT INTO customers (id, plan) VALUES ('a', ?1)"),
            ("customers.stripe_customer_id", is_id, "UPDATE customers SET stripe_customer_id = ?1 WHERE id = 'there'"),
            (
                "customers.stripe_subscription_id",
                is_id,
                "UPDATE customers SET stripe_subscription_id = ?1 WHERE id = 'there'",
            ),
            ("customers.plan", short, "UPDATE customers SET plan = ?1 WHERE id = 'there'"),
            ("customers.status", false, "UPDATE customers SET status = ?1 WHERE id = 'there'"),
            (
                "subscriptions.id",
                is_id,
                "INSERT INTO subscriptions (id, customer, status, anchor_at, started_at) VALUES (?1, 'a', 'active', 0, 0)",
            ),
            (
                "subscriptions.customer",
                is_name,
                "INSERT INTO subscriptions (id, customer, status, anchor_at, started_at) VALUES ('s', ?1, 'active', 0, 0)",
            ),
            (
                "subscriptions.status",
                false,
                "INSERT INTO subscriptions (id, customer, status, anchor_at, started_at) VALUES ('s', 'a', ?1, 0, 0)",
            ),
            ("subscriptions.customer", is_name, "UPDATE subscriptions SET customer = ?1 WHERE id = 'there'"),
            (
                "subscription_items.id",
                is_id,
                "INSERT INTO subscription_items (id, subscription, customer, stripe_meter, price, currency, starts_at, ends_at) VALUES (?1, 's', 'a', 'm', 'p', 'USD', 0, 1)",
            ),
            (
                "subscription_items.subscription",
                is_id,
                "INSERT INTO subscription_items (id, subscription, customer, stripe_meter, price, currency, starts_at, ends_at) VALUES ('i', ?1, 'a', 'm', 'p', 'USD', 0, 1)",
            ),
            (
                "subscription_items.customer",
                is_name,
                "INSERT INTO subscription_items (id, subscription, customer, stripe_meter, price, currency, starts_at, ends_at) VALUES ('i', 's', ?1, 'm', 'p', 'USD', 0, 1)",
            ),
            (
                "subscription_items.stripe_meter",
                is_id,
                "INSERT INTO subscription_items (id, subscription, customer, stripe_meter, price, currency, starts_at, ends_at) VALUES ('i', 's', 'a', ?1, 'p', 'USD', 0, 1)",
            ),
            (
                "subscription_items.price",
                is_id,
                "INSERT INTO subscription_items (id, subscription, customer, stripe_meter, price, currency, starts_at, ends_at) VALUES ('i', 's', 'a', 'm', ?1, 'USD', 0, 1)",
            ),
            ("stripe_error_reports.id", is_id, "INSERT INTO stripe_error_reports (id, body) VALUES (?1, '{}')"),
            (
                "overage_budgets.customer",
                is_name,
                "INSERT INTO overage_budgets (customer, amount_minor, currency, set_by) VALUES (?1, 1, 'USD', 'me')",
            ),
            (
                "overage_budgets.set_by",
                is_name && text.chars().count() < 256,
                "INSERT INTO overage_budgets (customer, amount_minor, currency, set_by) VALUES ('a', 1, 'USD', ?1)",
            ),
        ] {
            let value = text.clone();
            let tried = books.transaction(async move |c| {
                c.execute("INSERT INTO customers (id) VALUES ('there')", ()).await?;
                c.execute("INSERT INTO subscriptions (id, customer, status, anchor_at, started_at) VALUES ('there', 'there', 'active', 0, 0)", ()).await?;
                let done = c.execute(sql, libsql::params![value]).await.map(|_| ()).map_err(|e| e.to_string());
                // nothing stays
                Err::<(), _>(books::BooksError::Integrity(done.err().unwrap_or_default()))
            });
            let said = tried.await.unwrap_err().to_string();
            assert_eq!(!said.contains(what), fits, "{what} {text:?} by `{sql}`: {said}");
        }
    }
}

/// A row from before the rules may change in other columns; it is judged when the id changes.
#[test]
fn a_row_from_before_the_rules_is_not_in_the_way() {
    let place = Workspace::new();
    place.run("migrate").ends(0);
    place.execute(
        "DROP TRIGGER customers_have_a_form; INSERT INTO customers (id, stripe_customer_id) VALUES (' ann', 'cus 1');",
    );
    place.execute("UPDATE customers SET id = id, stripe_customer_id = stripe_customer_id, status = 'past_due'");
    assert_eq!(place.query("SELECT status FROM customers"), ["past_due"]);
    place.execute("UPDATE customers SET stripe_customer_id = 'cus_1', id = 'ann'");
    assert_eq!(place.query("SELECT id, stripe_customer_id FROM customers"), ["ann|cus_1"]);
}

#[test]
fn customer_add_refuses_what_the_database_would_and_says_what_to_do() {
    let place = Workspace::new();
    place.run("migrate").ends(0);
    let add = |arguments: &[&str]| -> crate::support::Ran {
        let mut command = crate::support::meter(place.folder.path());
        command.args(["customer", "add"]).args(arguments);
        crate::support::output(&mut command).into()
    };
    let long = "x".repeat(256);
    for (arguments, words) in [
        (vec![""], ["that is no id", "1 to 256 characters"]),
        (vec![" ann"], ["customer ` ann`", "no blank at the ends"]),
        (vec!["a\tnn"], ["customer `a\\tnn`", "none of them a control character"]),
        (vec!["ann", "--stripe-customer-id", ""], ["`` is no id of Stripe", "leave it out as long as there is none"]),
        (vec!["ann", "--stripe-customer-id", "cus 1"], ["`cus 1` is no id of Stripe", "visible ASCII characters"]),
        (vec!["ann", "--stripe-customer-id", &long], ["is no id of Stripe", "1 to 255"]),
        (vec!["ann", "--plan", ""], ["`` is no plan", "1 to 64 characters"]),
        (vec!["ann", "--plan", "core\n"], ["`core\\n` is no plan", "1 to 64 characters"]),
    ] {
        add(&arguments).ends(2).says(&words);
    }
    assert!(place.query("SELECT id FROM customers").is_empty());
    add(&["zoë b", "--stripe-customer-id", "cus_1"]).ends(0).says(&["1 customer(s) added"]);
}
