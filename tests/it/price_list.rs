//! `meter discover --price-list`: AWS's price list, served in AWS's own form over HTTP and from a
//! folder, and everything that can be wrong with it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::support::Workspace;

const OFFERS: [&str; 4] = ["AmazonChime", "AmazonChimeFeatures", "AmazonChimeServices", "AmazonChimeVoiceConnector"];

/// A price: usage type, unit, description, and its tiers: where each begins, and the price.
type Listed<'a> = (&'a str, &'a str, &'a str, Vec<(&'a str, Value)>);

fn usd(price: &str) -> Value {
    json!({ "USD": price })
}

/// An offer as AWS writes it.
fn offer(code: &str, prices: &[Listed<'_>]) -> Value {
    let (mut products, mut terms) = (json!({}), json!({}));
    for (n, (usage_type, unit, description, tiers)) in prices.iter().enumerate() {
        let sku = format!("SKU{n:013}");
        products[&sku] = json!({
            "sku": sku,
            "productFamily": "Communications",
            "attributes": {
                "servicecode": code,
                "location": "US East (N. Virginia)",
                "locationType": "AWS Region",
                "usagetype": usage_type,
                "operation": "",
                "regionCode": "us-east-1",
                "servicename": "Amazon Chime",
            },
        });
        let mut dimensions = json!({});
        for (at, (from, price)) in tiers.iter().enumerate() {
            let rate = format!("{sku}.JRTCKXETXF.RATE{at}");
            let to = tiers.get(at + 1).map_or("Inf", |(next, _)| next);
            dimensions[&rate] = json!({
                "rateCode": rate,
                "description": description,
                "beginRange": from,
                "endRange": to,
                "unit": unit,
                "pricePerUnit": price,
                "appliesTo": [],
            });
        }
        let term = format!("{sku}.JRTCKXETXF");
        terms[&sku] = json!({ &term: {
            "offerTermCode": "JRTCKXETXF",
            "sku": sku,
            "effectiveDate": "2024-12-01T00:00:00Z",
            "priceDimensions": dimensions,
            "termAttributes": {},
        } });
    }
    json!({
        "formatVersion": "v1.0",
        "disclaimer": "This pricing list is for informational purposes only.",
        "offerCode": code,
        "version": "20241219235601",
        "publicationDate": "2024-12-19T23:56:01Z",
        "products": products,
        "terms": { "OnDemand": terms },
        "attributesList": {},
    })
}

/// The four offers; those of the services are given.
fn offers(services: &[Listed<'_>]) -> BTreeMap<String, String> {
    let of = |code: &str| match code {
        "AmazonChime" => offer(
            code,
            &[(
                "USE1-VC-kinesis-audio-streaming",
                "Minutes",
                "per minute of streaming",
                vec![("0", usd("0.0017000000"))],
            )],
        ),
        "AmazonChimeServices" => offer(code, services),
        "AmazonChimeVoiceConnector" => offer(
            code,
            &[(
                "USE1-US-US-outbound-minutes",
                "minute",
                "$0.0048 per minute to a number in the US",
                vec![("0", usd("0.0048000000")), ("100000", usd("0.0017000000"))],
            )],
        ),
        _ => offer(code, &[]),
    };
    OFFERS.into_iter().map(|code| (code.to_owned(), of(code).to_string())).collect()
}

/// Attendee minutes in two regions, beside those in high definition.
fn calls() -> Vec<Listed<'static>> {
    let price = || vec![("0", usd("0.0017000000"))];
    vec![
        ("USE1-rooms-webrtc-minutes", "Minutes", "$0.0017 per attendee minute of a WebRTC session", price()),
        ("EUC1-rooms-webrtc-minutes", "Minutes", "$0.0017 per attendee minute of a WebRTC session", price()),
        ("USE1-rooms-hd-minutes", "Minutes", "$0.0034 per attendee minute in HD", vec![("0", usd("0.0034"))]),
        ("USE1-messages", "Messages", "per message", vec![("0", json!({ "USD": "0.0017", "CNY": "0.0119" }))]),
    ]
}

fn put(folder: &Path, offers: &BTreeMap<String, String>) {
    for (code, text) in offers {
        let below = folder.join(code).join("current");
        std::fs::create_dir_all(&below).unwrap();
        std::fs::write(below.join("index.json"), text).unwrap();
    }
}

/// How the server answers.
#[derive(Clone)]
enum Answers {
    /// These offers, each as a whole.
    Lists(BTreeMap<String, String>),
    /// This head before the first kilobyte of nothing.
    Head(&'static str),
    /// Without a length and without an end.
    Endless,
}

fn answer(mut stream: TcpStream, answers: &Answers) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    match answers {
        Answers::Lists(offers) => {
            let code =
                path.strip_prefix("/mirror/offers/v1.0/aws/").and_then(|rest| rest.strip_suffix("/current/index.json"));
            match code.and_then(|code| offers.get(code)) {
                Some(text) => write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()),
                None => write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"),
            }
        }
        Answers::Head(head) => write!(stream, "{head}\r\n\r\n{}", " ".repeat(1024)),
        Answers::Endless => {
            write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
            let block = vec![b' '; 1 << 20];
            loop {
                stream.write_all(&block)?;
            }
        }
    }
}

/// A server, for as long as the test runs.
fn serve(answers: Answers) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/mirror", listener.local_addr().unwrap());
    let answers = Arc::new(answers);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answers = Arc::clone(&answers);
            // whoever has read enough goes away
            std::thread::spawn(move || drop(answer(stream, &answers)));
        }
    });
    address
}

#[test]
fn the_price_list_proposes_the_meter_of_attendee_minutes() {
    let place = Workspace::with("");
    let offers = offers(&calls());
    put(&place.path("lists"), &offers);
    let from_folder = place.run("discover --price-list lists").ends(0).says(&[
        "AmazonChimeServices  version 20241219235601 of 2024-12-19T23:56:01Z",
        "USE1-rooms-webrtc-minutes",
        "0.0017 USD",
        "0.0119 CNY",
        "from 100000: ",
        "AmazonChimeFeatures  version 20241219235601 of 2024-12-19T23:56:01Z\nit has no prices on demand",
        "# AmazonChimeServices rooms-webrtc-minutes: 0.0017 USD for Minutes, “$0.0017 per",
        "# Left out, another charge of the same price: AmazonChime",
        "# Left out, attendees at another price: AmazonChimeServices rooms-hd-minutes:",
        "    \"rooms-webrtc-minutes\",\n]\n",
    ]);
    // a tier that begins higher is not the price of a minute
    assert!(!from_folder.out.contains("Left out, another charge of the same price: AmazonChimeVoiceConnector"));
    let wide: Vec<&str> = from_folder.out.lines().filter(|line| line.chars().count() > 80).collect();
    assert!(wide.is_empty(), "{wide:#?}");
    let served = place.run(&format!("discover --price-list {}", serve(Answers::Lists(offers)))).ends(0);
    assert_eq!(served.out, from_folder.out);
    // the other layout of a folder
    let flat = place.path("flat");
    std::fs::create_dir(&flat).unwrap();
    for code in OFFERS {
        std::fs::copy(place.path("lists").join(code).join("current/index.json"), flat.join(format!("{code}.json")))
            .unwrap();
    }
    assert_eq!(place.run("discover --price-list flat").ends(0).out, from_folder.out);

    let json = place.run("discover --price-list lists --json").ends(0).json();
    assert_eq!(json["offers"].as_array().unwrap().len(), 4);
    assert_eq!(json["proposed"]["attendee_minutes"].as_array().unwrap().len(), 2);
    assert_eq!(json["proposed"]["attendee_minutes"][0]["price"], "0.0017");
    assert!(json["toml"].as_str().unwrap().contains("name = \"chime_minutes\""));
}

#[test]
fn the_meter_is_written_into_a_new_file_whole_or_not_at_all() {
    let place = Workspace::with("");
    put(&place.path("lists"), &offers(&calls()));
    place.run("discover --price-list lists --write calls.toml").ends(0).says(&["calls.toml written"]);
    place.run("--config calls.toml config check").ends(0).says(&["3 meter(s)"]);
    let written = std::fs::read_to_string(place.path("calls.toml")).unwrap();
    assert!(
        written.contains("\"rooms-webrtc-minutes\"") && !written.contains("kinesis-audio-streaming\""),
        "{written}"
    );
    // with it the same list proposes no more
    place
        .run("--config calls.toml discover --price-list lists")
        .ends(0)
        .says(&["what costs 0.0017 USD a minute is claimed already, by meter chime_minutes; nothing is proposed"]);

    // a file that is there stays as it is, and so does the configuration
    place.run("discover --price-list lists --write calls.toml").ends(2).says(&["calls.toml is there already"]);
    place.run("discover --price-list lists --write meter.toml").ends(2).says(&["meter.toml is there already"]);
    assert_eq!(std::fs::read_to_string(place.path("calls.toml")).unwrap(), written);
    assert_eq!(std::fs::read_to_string(place.path("meter.toml")).unwrap(), "");
    place
        .run("discover --price-list lists --write gone/calls.toml")
        .ends(2)
        .says(&["gone/calls.toml cannot be written: there is no folder gone"]);
    assert!(!place.path("gone").exists());
    place.run("discover --write calls.toml").ends(2).says(&["--price-list"]);
    place.run("discover --price-list lists --month 2026-10").ends(2).says(&["cannot be used with"]);
}

#[test]
fn without_the_price_of_an_attendee_minute_nothing_is_proposed() {
    let tier =
        |price: Value| vec![("USE1-rooms-minutes", "Minutes", "$0.0017 per attendee minute", vec![("0", price)])];
    for price in [usd("0.0018"), usd("0.00170001"), json!({ "CNY": "0.0017" }), json!({})] {
        let place = Workspace::with("");
        put(&place.path("lists"), &offers(&tier(price.clone())));
        let ran = place.run("discover --price-list lists --write calls.toml").ends(3);
        let ran = ran.says(&["no usage type costs 0.0017 USD a minute, so no meter is proposed"]);
        assert!(!ran.out.contains("[[meters]]") && !place.path("calls.toml").exists(), "{price}: {}", ran.out);
    }
    // in several currencies, that of the price counts
    let place = Workspace::with("");
    put(&place.path("lists"), &offers(&tier(json!({ "CNY": "0.0119", "USD": "0.0017" }))));
    place.run("discover --price-list lists").ends(0).says(&["name = \"chime_minutes\"", "0.0119 CNY"]);
}

#[test]
fn a_meter_that_would_claim_the_lines_of_another_one_is_not_proposed() {
    let place = Workspace::with(
        "[[meters]]\nname = \"rooms\"\nunit = \"minutes\"\nproducts = [\"AmazonChimeServices\"]\n\
         usage_types = [\"rooms-*-minutes\"]\n",
    );
    put(&place.path("lists"), &offers(&calls()));
    place.run("discover --price-list lists").ends(0).says(&["is claimed already, by meter rooms"]);
}

#[test]
fn a_list_that_cannot_be_read_is_named_and_nothing_is_written() {
    let place = Workspace::with("");
    let good = offers(&calls());
    let with = |code: &str, text: String| {
        let mut offers = good.clone();
        offers.insert(code.to_owned(), text);
        Answers::Lists(offers)
    };
    let services = &good["AmazonChimeServices"];
    let mut three = good.clone();
    three.remove("AmazonChimeFeatures");
    let path = "/mirror/offers/v1.0/aws/";
    for (answers, words) in [
        (Answers::Lists(three), vec![path, "AmazonChimeFeatures/current/index.json: the server answers 404 Not Found"]),
        (Answers::Head("HTTP/1.1 302 Found\r\nLocation: /elsewhere"), vec!["the server answers 302 Found"]),
        (Answers::Head("HTTP/1.1 200 OK\r\nContent-Length: 1073741824"), vec!["it has 1073741824 bytes or more"]),
        (Answers::Head("HTTP/1.1 200 OK\r\nContent-Length: 4096"), vec!["the response cannot be read whole"]),
        (Answers::Head("HTTP/1.1 200 OK\r\nContent-Length: 1024"), vec!["it is cut off"]),
        (Answers::Endless, vec!["bytes or more, and a list of at most 67108864 is read"]),
        (with("AmazonChimeServices", "<html>busy</html>".into()), vec![path, "it is no JSON"]),
        (with("AmazonChimeServices", services[..services.len() / 2].to_owned()), vec![path, "it is cut off"]),
        (
            with("AmazonChime", services.clone()),
            vec!["AmazonChime/current/index.json: it is the price list of `AmazonChimeServices`, not of `AmazonChime`"],
        ),
        (
            with("AmazonChimeServices", services.replace("0.0034", "dear")),
            vec!["pricePerUnit in USD is `dear`, and that is no decimal"],
        ),
    ] {
        let ran = place.run(&format!("discover --price-list {} --write calls.toml", serve(answers)));
        let ran = ran.ends(1).says(&words);
        assert!(!place.path("calls.toml").exists() && ran.out.is_empty(), "{}", ran.out);
        assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
    }
    let closed = format!("http://127.0.0.1:{}", crate::support::served::free_port());
    place.run(&format!("discover --price-list {closed}")).ends(1).says(&[&closed, "no connection"]);

    place.run("discover --price-list nowhere").ends(1).says(&["nowhere: there is no such folder"]);
    put(&place.path("lists"), &good);
    let file = place.path("lists/AmazonChimeServices/current/index.json");
    std::fs::File::options().write(true).open(&file).unwrap().set_len((64 << 20) + 1).unwrap();
    place.run("discover --price-list lists").ends(1).says(&["AmazonChimeServices/current/index.json: it has 67108865"]);
    std::fs::remove_file(&file).unwrap();
    place.run("discover --price-list lists").ends(1).says(&[
        "there is no file lists/AmazonChimeServices/current/index.json and none lists/AmazonChimeServices.json",
    ]);
    for (source, why) in
        [("ftp://host", "is neither http:// nor https://"), ("https://a:b@host", "no user, no password")]
    {
        place.run(&format!("discover --price-list {source}")).ends(2).says(&["--price-list: ", why]);
    }
}

/// Text of a list acts on no terminal, and on no configuration.
#[test]
fn hostile_words_of_a_list_do_nothing() {
    let place = Workspace::with("");
    let evil = "Evil\u{1b}[2J\n[[meters]]\nname = \"forged\"";
    let prices = [(evil, "Minutes", evil, vec![("0", usd("0.0017"))])];
    put(&place.path("lists"), &offers(&prices));
    let ran = place.run("discover --price-list lists --write calls.toml").ends(0);
    assert!(!ran.out.contains('\u{1b}'), "{}", ran.out);
    place.run("--config calls.toml config check").ends(0).says(&["3 meter(s)"]);
    place.run("discover --price-list lists").ends(0);
}
