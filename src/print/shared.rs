//! The days of shared buckets.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use books::measured::accrual::Accrues;
use books::shared_bucket::shares::ShareState;
use books::shared_bucket::stored::BookedShare;
use books::shared_bucket::{Measure, ReportSource, StoredBucketDay};
use books::units::calendar::Day;

use super::{count, out, rounded, several, table};
use crate::format::percent;

/// Customers of a day that are shown.
const NAMED: usize = 10;
/// Decimals of quantities; a day of 10 MB is 0.0003 GB-months.
const DECIMALS: u32 = 6;

/// What somebody has of a day, of all storage classes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Share {
    byte_seconds: u128,
    bytes_sent: u128,
    requests_1: u128,
    requests_2: u128,
}

impl Share {
    fn of(measure: Measure, amount: u128) -> Self {
        let mut share = Self::default();
        *match measure {
            Measure::ByteSeconds => &mut share.byte_seconds,
            Measure::BytesSent => &mut share.bytes_sent,
            Measure::Requests1 => &mut share.requests_1,
            Measure::Requests2 => &mut share.requests_2,
        } = amount;
        share
    }

    fn add(&mut self, more: Self) {
        let Self { byte_seconds, bytes_sent, requests_1, requests_2 } = more;
        self.byte_seconds = self.byte_seconds.saturating_add(byte_seconds);
        self.bytes_sent = self.bytes_sent.saturating_add(bytes_sent);
        self.requests_1 = self.requests_1.saturating_add(requests_1);
        self.requests_2 = self.requests_2.saturating_add(requests_2);
    }

    /// A row of the table; a source that was not read has no figures.
    fn row(self, who: String, day: Day, read: [bool; 2]) -> Vec<String> {
        let whole = |amount: u128| u64::try_from(amount).map_or_else(|_| "too large".to_owned(), count);
        let exact = |accrues: Accrues, amount: u128| {
            let quantity = i128::try_from(amount).ok().and_then(|amount| accrues.quantity(amount, day).ok());
            quantity.map_or_else(|| "too large".to_owned(), |quantity| rounded(quantity, DECIMALS))
        };
        let [inventory, logs] = read;
        let shown = |is_read: bool, text: String| if is_read { text } else { "-".to_owned() };
        vec![
            who,
            shown(inventory, exact(Accrues::GbMonths, self.byte_seconds)),
            shown(logs, exact(Accrues::Gb, self.bytes_sent)),
            shown(logs, whole(self.requests_1)),
            shown(logs, whole(self.requests_2)),
        ]
    }
}

/// What was read of each day.
pub(crate) fn read_days(days: &[StoredBucketDay]) {
    let row = |StoredBucketDay { day: of, .. }: &StoredBucketDay| {
        let source = match of.source {
            ReportSource::Inventory => "inventory",
            ReportSource::AccessLogs => "logs",
        };
        let found = of.found;
        let counts =
            [found.files, found.counted, found.repeated, found.of_nobody, found.contradictions, found.bad_lines];
        [of.day.to_string(), source.to_owned()].into_iter().chain(counts.map(count)).collect()
    };
    if days.is_empty() {
        return;
    }
    let titles = ["day", "from", "1>files", ">counted", "2>repeated", ">nobody", "3>contradict", "4>bad"];
    table(&titles, days.iter().map(row).collect());
}

/// Who has how much of each day: the largest first, then the others together, nobody, and all.
pub(crate) fn customers(days: &[StoredBucketDay]) {
    if days.is_empty() {
        return;
    }
    let mut by_day: BTreeMap<Day, Vec<&StoredBucketDay>> = BTreeMap::new();
    for stored in days {
        by_day.entry(stored.day.day).or_default().push(stored);
    }
    for (day, stored) in by_day {
        let is_read = |source| stored.iter().any(|of| of.day.source == source);
        let read = [is_read(ReportSource::Inventory), is_read(ReportSource::AccessLogs)];
        let mut shares: BTreeMap<&str, Share> = BTreeMap::new();
        let mut all = Share::default();
        for weight in stored.iter().flat_map(|of| &of.day.weights) {
            let share = Share::of(weight.measure, weight.amount);
            shares.entry(&weight.customer).or_default().add(share);
            all.add(share);
        }
        let nobody = shares.remove("").unwrap_or_default();
        let mut shares: Vec<(&str, Share)> = shares.into_iter().collect();
        shares.sort_by_key(|(customer, share)| (Reverse(*share), *customer));
        let others = shares.split_off(shares.len().min(NAMED));
        let mut rows: Vec<Vec<String>> =
            shares.into_iter().map(|(customer, share)| share.row(customer.to_owned(), day, read)).collect();
        if !others.is_empty() {
            let mut sum = Share::default();
            others.iter().for_each(|(_, share)| sum.add(*share));
            rows.push(sum.row(format!("({})", several(others.len(), "other customer")), day, read));
        }
        rows.push(nobody.row("(nobody)".to_owned(), day, read));
        rows.push(all.row("(all)".to_owned(), day, read));
        out("");
        table(&[&day.to_string(), ">GB-months", ">GB sent", ">requests 1", ">requests 2"], rows);
    }
    out("");
    out("requests 1: PUT, COPY, POST, LIST; requests 2: GET, HEAD and all other.");
}

/// How the bill of each day is divided: what AWS billed, what the reports account for of it, and
/// what customers have.
pub(crate) fn booked(shares: &[BookedShare]) {
    let row = |share: &BookedShare| {
        let reported = share.coverage().map_or_else(|| "-".to_owned(), percent);
        // the class alone names storage: the column has little room
        let of = if share.class.is_empty() { &share.meter } else { &share.class };
        vec![
            share.day.to_string(),
            of.clone(),
            rounded(share.billed, DECIMALS),
            reported,
            rounded(share.apportioned, DECIMALS),
            rounded(share.billed - share.apportioned, DECIMALS),
            state(share.state).to_owned(),
        ]
    };
    out("");
    let titles = ["billed day", "class or meter", ">billed", "2>reported", ">customers'", "1>house's", "~state"];
    table(&titles, shares.iter().map(row).collect());
}

fn state(state: ShareState) -> &'static str {
    match state {
        ShareState::Apportioned => "apportioned",
        ShareState::Open => "open",
        ShareState::NoReport => "no report",
        ShareState::Held => "held",
    }
}
