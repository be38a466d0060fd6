//! kill -9 of the real binary while it bills, over and over: afterwards Stripe's invoices equal the
//! books, and nothing was counted twice.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::billing_fixture::{BillingFixture, KEY, OPEN, yesterday};

const ROUNDS: u32 = 200;
const CUSTOMERS: usize = 120;

#[test]
fn kills_between_any_two_writes_neither_lose_nor_double_an_event() {
    let names: Vec<String> = (0..CUSTOMERS).map(|n| format!("c{n:03}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let fixture = BillingFixture::open(&names);
    // so that a kill finds requests under way
    fixture.stripe.world().set_latency(Duration::from_millis(4));
    let mut rng = fastrand::Rng::with_seed(7);
    let mut targets: BTreeMap<&str, i64> = BTreeMap::new();
    let (mut killed, mut longest) = (0, Duration::from_millis(400));
    for _ in 0..ROUNDS {
        let mut usage = String::new();
        for _ in 0..12 {
            let (name, milli) = (names[rng.usize(..CUSTOMERS)], rng.i64(1..5000));
            *targets.entry(name).or_default() += milli;
            usage.push_str(&yesterday(name, milli));
        }
        fixture.place.execute(&usage);
        let mut command = crate::support::meter(fixture.place.folder.path());
        command.arg("push").env("METER_STRIPE__KEY", KEY).stdout(Stdio::null()).stderr(Stdio::null());
        let started = Instant::now();
        let mut child = command.spawn().unwrap();
        let wait = Duration::from_micros(rng.u64(0..u64::try_from(longest.as_micros()).unwrap()));
        while started.elapsed() < wait && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_micros(300));
        }
        match child.try_wait().unwrap() {
            // kills are spread over as long as a run takes, also when the machine becomes slower
            Some(_) => longest = started.elapsed().max(Duration::from_millis(30)),
            None => {
                child.kill().unwrap();
                crate::support::ended(&mut child);
                killed += 1;
                longest = (longest * 21 / 20).min(Duration::from_secs(2));
            }
        }
    }
    let states = fixture.place.query("SELECT state, count(*) FROM meter_events GROUP BY 1 ORDER BY 1");
    assert!(killed > ROUNDS / 4 && states.iter().any(|s| s.starts_with("sending")), "{killed} kills, {states:?}");
    // attempts whose process died count as under way for a minute and two time-outs
    let deadline = Instant::now() + Duration::from_secs(150);
    loop {
        fixture.run("push").ends(0);
        if fixture.place.query(OPEN) == ["0"]
            && fixture.place.query("SELECT count(*) FROM stripe_due WHERE due_at <= unixepoch()") == ["0"]
        {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "{:?}",
            fixture.place.query("SELECT * FROM meter_events WHERE state <> 'accepted'")
        );
        std::thread::sleep(Duration::from_secs(2));
    }
    for name in &names {
        let target = targets.get(name).copied().unwrap_or(0);
        assert_eq!(fixture.invoiced(name, "storage_mb_months"), target.to_string(), "{name}");
    }
    let world = fixture.stripe.world();
    let identifiers: BTreeSet<&str> = world.events().iter().map(|e| e.identifier.as_str()).collect();
    assert_eq!(identifiers.len(), world.events().len(), "no event was counted twice");
    assert!(world.lost().is_empty());
    let counts = world.counts();
    println!("{killed} kills in {ROUNDS} rounds, {states:?}, {counts:?}");
    drop(world);
    fixture.run("verify").ends(0);
    fixture.judge();
}
