//! docs/stripe-setup.md, gone through literally on the made-up Stripe account of
//! `meter demo stripe`.

use std::collections::BTreeMap;
use std::process::Child;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::served::{Answer, free_port, request};
use crate::support::{Workspace, meter};
use crate::tidy::{read, root};

const CONFIG: &str = "[[exports]]\nname = \"main\"\nlocation = \"bucket\"\n[stripe.meters.chime_minutes]\n\
                      event_name = \"chime_milliminutes\"\nper_unit = \"1000\"\ndisplay_name = \"Call minutes\"\n";
const PLAN: &str = "[[plans]]\nname = \"pro\"\ncurrency = \"USD\"\neffective_from = \"1970-01-01T00:00:00Z\"\n\
                    [plans.meters.chime_minutes]\nincluded = \"100\"\nprice = \"0.0045\"\nreport = \"overage\"\n";

/// The commands of the second block of the section, without comments.
fn commands() -> Vec<String> {
    let page = read(&root().join("docs/stripe-setup.md"));
    let (_, section) = page.split_once("## Rehearse it without an account").unwrap();
    let block = section.split("```sh\n").nth(2).unwrap().split("```").next().unwrap();
    let joined = block.replace("\\\n", " ");
    joined.lines().map(|line| line.split(" #").next().unwrap().trim().to_owned()).collect()
}

/// The words of a line as a shell reads them, as far as quotes go.
fn words(line: &str) -> Vec<String> {
    let quoted = line.split('"').enumerate();
    let marked: String =
        quoted.map(|(i, part)| if i % 2 == 0 { part.replace(' ', "\0") } else { part.to_owned() }).collect();
    marked.split('\0').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// The request that Stripe's CLI makes of `stripe RESOURCE create …`.
fn create(port: u16, line: &str) -> Answer {
    let words = words(line);
    let [stripe, resource, create, options @ ..] = words.as_slice() else { panic!("{line}") };
    assert_eq!((stripe.as_str(), create.as_str()), ("stripe", "create"), "{line}");
    let fields = options.chunks(2).filter(|option| option[0] != "--api-base").map(|option| match option[0].as_str() {
        "-d" => option[1].split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())).unwrap(),
        flag => (flag.trim_start_matches('-').to_owned(), option[1].clone()),
    });
    let encoded = |text: &str| -> String { text.bytes().map(|byte| format!("%{byte:02X}")).collect() };
    let form: Vec<String> = fields.map(|(name, value)| format!("{}={}", encoded(&name), encoded(&value))).collect();
    let headers = [("Authorization", "Bearer sk_test_demo"), ("Content-Type", "application/x-www-form-urlencoded")];
    request(port, "POST", &format!("/v1/{resource}"), &headers, &form.join("&")).unwrap()
}

/// The made-up account, which does not outlive its test.
struct Account(Child);

impl Drop for Account {
    fn drop(&mut self) {
        drop(self.0.kill());
    }
}

#[test]
fn the_set_up_of_stripe_can_be_rehearsed_as_it_is_written() {
    let place = Workspace::with(CONFIG);
    std::fs::write(place.path("plans.toml"), PLAN).unwrap();
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    let mut account =
        Account(meter(place.folder.path()).args(["demo", "stripe", "--listen", &listen]).spawn().unwrap());
    let url = format!("http://127.0.0.1:{port}/");
    let start = Instant::now();
    while request(port, "GET", "/v1/prices", &[("Authorization", "Bearer sk_test_demo")], "").is_none() {
        assert!(start.elapsed() < Duration::from_secs(60), "the account does not start");
        std::thread::sleep(Duration::from_millis(50));
    }
    let variables = [("METER_STRIPE__KEY", "sk_test_demo"), ("METER_STRIPE__URL", url.as_str())];
    let mut ids: BTreeMap<&str, String> = BTreeMap::new();
    let mut printed = String::new();
    for line in commands() {
        let line = ids.iter().fold(line, |line, (kind, id)| line.replace(&format!("{kind}_…"), id));
        if let Some(line) = line.strip_prefix("meter ") {
            let ran = place.run_with(line, &variables);
            match line {
                "stripe setup" => {
                    // the price is still to be made: the printed command is the page's
                    let ran = ran.ends(3);
                    let (_, made) = ran.out.split_once("make one:\n").unwrap_or_else(|| panic!("{}", ran.out));
                    made.lines().next().unwrap().clone_into(&mut printed);
                    let (_, id) = made.split_once("recurring[meter]=").unwrap();
                    ids.insert("mtr", id.split('"').next().unwrap().to_owned());
                }
                "push" => drop(ran.ends(0).says(&["accepted", "0 refused, 0 unconfirmed"])),
                "bill acme" => {
                    let ran = ran.ends(0).says(&["its invoice takes usage"]);
                    let row = ran.out.lines().find(|line| line.starts_with("chime_minutes ")).unwrap();
                    assert!(row.contains("0.0045") && !row.ends_with(" 0.00"), "{}", ran.out);
                }
                "reconcile acme" => drop(ran.ends(0).says(&["every difference is 0", "Stripe: its invoice has "])),
                _ => drop(ran.ends(0)),
            }
        } else if line.starts_with("stripe ") {
            if line.starts_with("stripe prices") {
                let (page, printed) = (words(&line), words(&printed));
                let page: Vec<&String> =
                    page.iter().filter(|w| *w != "--api-base" && !w.starts_with("http:")).collect();
                assert_eq!(page, printed.iter().collect::<Vec<_>>(), "the page and the command's advice");
                // a meter that is not there, and then as it should be
                let wrong = create(port, &line.replace(&ids["mtr"], "mtr_none"));
                assert!(wrong.status == 400 && wrong.body.contains("No such billing meter: 'mtr_none'"), "{wrong:?}");
            }
            let made = create(port, &line);
            assert_eq!(made.status, 200, "{line}: {made:?}");
            let object: Value = serde_json::from_str(&made.body).unwrap();
            let kind = match object["object"].as_str().unwrap() {
                "price" => "price",
                "customer" => "cus",
                "subscription" => "sub",
                other => panic!("{other}"),
            };
            ids.insert(kind, object["id"].as_str().unwrap().to_owned());
        } else {
            assert!(line.starts_with("export "), "`{line}` was not gone through");
        }
    }
    assert_eq!(ids.keys().copied().collect::<Vec<_>>(), ["cus", "mtr", "price", "sub"]);
    account.0.kill().unwrap();
    crate::support::ended(&mut account.0);
}
