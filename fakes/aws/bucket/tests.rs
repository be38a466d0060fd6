//! The bill of a bucket against its objects and requests, summed the plain way, and its reports
//! against themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::Result;

use super::bill::as_usage_amount;
use super::*;
use crate::inventories::Form;

fn spec(shares: BucketShares) -> BucketSpec {
    BucketSpec {
        bucket: "files".into(),
        account: "111122223333".into(),
        region: "us-east-1".into(),
        year: 2026,
        month: 10,
        days: 6,
        customers: ["ann", "bob", "cid"].map(Into::into).into(),
        uploads_per_day: 80,
        largest_bytes: 8 << 20,
        seed: 3,
        shares,
    }
}

const ODD: BucketShares = BucketShares {
    ended_early: 200,
    unfinished: 100,
    lost_objects: 100,
    lost_lines: 50,
    doubled_lines: 50,
    late_lines: 50,
    restated_days: 500,
    ..BucketShares::FAITHFUL
};

#[test]
fn byte_seconds_of_customers_are_those_of_the_bill() -> Result<()> {
    for shares in [BucketShares::FAITHFUL, ODD] {
        let world = BucketWorld::new(spec(shares))?;
        let mut of_days: BTreeMap<(Date, &str), u128> = BTreeMap::new();
        for ((date, class, _), storage) in world.storage() {
            *of_days.entry((date, class)).or_default() += storage.billed;
        }
        let bill = world.bill(BillState::Restated)?;
        let mut lines = 0;
        for line in bill.lines.iter().filter(|line| line.usage_type().contains("ByteHrs")) {
            let class = if line.usage_type().contains("SIA") { "STANDARD_IA" } else { "STANDARD" };
            let sum = of_days[&(world.calendar.date(line.day.into()), class)];
            // the amount is the nearest: twice the difference is not more than a unit
            let unit = (1_u128 << 30) * 3600 * 744;
            let billed = line.amount.unsigned_abs();
            assert!((u128::from(billed) * unit * 2).abs_diff(sum * 20_000_000_000) <= unit, "{line:?}");
            lines += 1;
        }
        assert_eq!(lines, 12, "two classes on six days");
        // and the objects second by second, for a few
        for object in world.objects.iter().step_by(97) {
            let watched = (object.created..object.ended).filter(|second| *second < object.expires).count();
            let all = object.byte_seconds(object.created, object.ended, (0, i64::MAX));
            assert_eq!(all, u128::from(object.bytes) * u128::try_from(watched)?);
            assert!(object.expires % DAY == 0 && (DAY..2 * DAY).contains(&(object.expires - object.created)));
        }
    }
    Ok(())
}

#[test]
fn bytes_and_requests_of_customers_are_those_of_the_bill() -> Result<()> {
    let world = BucketWorld::new(spec(ODD))?;
    let mut of_days: BTreeMap<Date, BucketTraffic> = BTreeMap::new();
    for ((date, _), traffic) in world.traffic(LogView::Everything) {
        let sum = of_days.entry(date).or_default();
        sum.bytes_sent += traffic.bytes_sent;
        sum.requests_1 += traffic.requests_1;
        sum.requests_2 += traffic.requests_2;
    }
    let bill = world.bill(BillState::Restated)?;
    for day in 0..6_u16 {
        let sum = |usage: &str| -> i64 {
            let own = bill.lines.iter().filter(|line| line.day == day && line.usage_type() == usage);
            own.map(|line| line.amount).sum()
        };
        let of_day = of_days[&world.calendar.date(day.into())];
        assert_eq!(sum("DataTransfer-Out-Bytes"), as_usage_amount(of_day.bytes_sent, 1 << 30)?);
        assert_eq!(sum("Requests-Tier1"), i64::try_from(of_day.requests_1)? * 10_000_000_000);
        assert_eq!(sum("Requests-Tier2"), i64::try_from(of_day.requests_2)? * 10_000_000_000);
        assert!(of_day.bytes_sent > 1 << 20 && of_day.requests_1 > 80 && of_day.requests_2 > 80);
    }
    Ok(())
}

#[test]
fn the_first_state_of_the_bill_lacks_a_little_on_some_days() -> Result<()> {
    let world = BucketWorld::new(spec(ODD))?;
    let (first, last) = (world.bill(BillState::First)?, world.bill(BillState::Restated)?);
    let of_day = |bill: &BucketBill, day| -> i64 {
        bill.lines.iter().filter(|line| line.day == day).map(|line| line.amount).sum()
    };
    let changed: Vec<u16> = (0..6).filter(|day| of_day(&first, *day) != of_day(&last, *day)).collect();
    assert!((1..6).contains(&changed.len()), "{changed:?}");
    for day in changed {
        let (before, after) = (of_day(&first, day), of_day(&last, day));
        assert!(before < after && before > after / 10 * 8, "{before} {after}");
    }
    let faithful = BucketWorld::new(spec(BucketShares::FAITHFUL))?;
    assert_eq!(faithful.bill(BillState::First)?, faithful.bill(BillState::Restated)?);
    Ok(())
}

#[test]
fn losses_change_no_object_and_more_days_no_earlier_day() -> Result<()> {
    let (faithful, lossy) = (spec(ODD), BucketShares { lost_objects: 0, lost_lines: 900, late_lines: 0, ..ODD });
    let (one, other) = (BucketWorld::new(faithful.clone())?, BucketWorld::new(spec(lossy))?);
    assert_eq!(one.bill(BillState::Restated)?, other.bill(BillState::Restated)?);
    assert!(one.counts().lost_objects > 10 && other.counts().lost_objects == 0);
    assert!(other.counts().lost_lines > 8 * one.counts().lost_lines);
    let longer = BucketWorld::new(BucketSpec { days: 7, ..faithful })?;
    let (short, long) = (one.bill(BillState::First)?.lines, longer.bill(BillState::First)?.lines);
    assert_eq!(long[..short.len()], short);
    // the next night begins on the day with more uploads
    assert_eq!(one.inventories(Form::Csv)[..6], longer.inventories(Form::Csv)[..6]);
    Ok(())
}

#[test]
fn reports_have_what_they_are_asked_to_have() -> Result<()> {
    let world = BucketWorld::new(spec(ODD))?;
    let counts = world.counts();
    for (found, of, wanted) in [
        (counts.lost_objects, counts.objects, 100),
        (counts.lost_lines, counts.lines, 50),
        (counts.late_lines, counts.lines, 50),
        (counts.unfinished, counts.objects, 100),
    ] {
        assert!(
            (wanted / 2..wanted * 2).contains(&(found * 1000 / of)),
            "{found} of {of}, wanted {wanted} of a thousand"
        );
    }
    for form in [LogForm::ByEventTime, LogForm::Simple] {
        let files = world.logs(form);
        let lines: Vec<&str> = files.iter().flat_map(|file| file.text.lines()).collect();
        let ids: BTreeSet<&str> = lines.iter().filter_map(|line| line.split(' ').nth(6)).collect();
        let once = counts.lines - counts.lost_lines;
        assert_eq!((ids.len(), lines.len()), (usize::try_from(once)?, usize::try_from(once + counts.doubled_lines)?));
        let late: usize =
            files.iter().filter(|file| file.delivery == LogDelivery::Late).map(|file| file.text.lines().count()).sum();
        assert_eq!(late, usize::try_from(counts.late_lines)?);
        assert!(files.windows(2).all(|pair| pair[0].delivered <= pair[1].delivered));
        let keys: BTreeSet<&str> = files.iter().map(|file| file.key.as_str()).collect();
        assert_eq!(keys.len(), files.len(), "no file replaces another one");
        let folder = tempfile::tempdir()?;
        let path = files[0].write(folder.path())?;
        assert_eq!(fs::metadata(&path)?.modified()?, std::time::SystemTime::from(files[0].delivered));
    }
    // what a reader finds is what is billed without what no report has
    for storage in world.storage().values() {
        let seen = storage.in_inventories() - storage.beyond_end;
        assert_eq!(seen + storage.lost + storage.unseen + storage.unfinished, storage.billed);
    }
    Ok(())
}

#[test]
fn the_same_seed_gives_the_same_world() -> Result<()> {
    let text = |spec: BucketSpec| -> Result<String> {
        let world = BucketWorld::new(spec)?;
        Ok(format!("{:?} {:?}", world.inventories(Form::Parquet), world.logs(LogForm::Simple)))
    };
    assert_eq!(text(spec(ODD))?, text(spec(ODD))?);
    assert_ne!(text(spec(ODD))?, text(BucketSpec { seed: 4, ..spec(ODD) })?);
    Ok(())
}

#[test]
fn impossible_buckets_are_refused() {
    let good = spec(ODD);
    for bad in [
        BucketSpec { month: 0, ..good.clone() },
        BucketSpec { customers: vec![], ..good.clone() },
        BucketSpec { customers: vec!["ann/x".into()], ..good.clone() },
        BucketSpec { largest_bytes: 1, ..good.clone() },
        BucketSpec { bucket: "../x".into(), ..good.clone() },
        BucketSpec { shares: BucketShares { lost_lines: 1001, ..ODD }, ..good },
    ] {
        assert!(BucketWorld::new(bad.clone()).is_err(), "{bad:?}");
    }
}
