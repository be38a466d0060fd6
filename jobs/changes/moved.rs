//! What is another thing now than when a plan was made. Pure.

use super::plan::{ChangePlan, PlannedBill};

/// What moved between two plans of the same bills, in sentences; empty when nothing did.
pub(super) fn moved(was: &ChangePlan, is: &ChangePlan) -> Vec<String> {
    if was.digest == is.digest {
        return vec![];
    }
    let mut found = vec![];
    let mut differs = |differs: bool, what: &str| {
        if differs {
            found.push(what.to_owned());
        }
    };
    let (old, new) = (&was.state, &is.state);
    differs(old.rules != new.rules, "the configuration of meters, tag keys, ignored lines or shared buckets");
    differs(old.hold != new.hold, "the configuration of what puts a bill on hold");
    differs(old.prices != new.prices, "the plans, or how usage is billed (stripe.meters)");
    differs(old.enforcement != new.enforcement, "how customers are judged (enforce, measure)");
    for bill in &was.bills {
        match is.bills.iter().find(|of| (&of.export, of.month) == (&bill.export, bill.month)) {
            Some(now) => found.extend(moved_bill(bill, now)),
            None => found.push(format!("{} {} is not read any more", bill.export, bill.month)),
        }
    }
    // what follows from the rest is said when nothing else is
    if found.is_empty() && was.effects.money != is.effects.money {
        found.push(money(was, is));
    }
    if found.is_empty() {
        let answers = (&was.effects.blocked, &was.effects.unblocked) != (&is.effects.blocked, &is.effects.unblocked);
        found.push(match answers {
            true => "who would be blocked or unblocked (usage, budgets, plans or payments of customers)".to_owned(),
            false => "the customers with a change (some were added, removed or erased)".to_owned(),
        });
    }
    found
}

fn moved_bill(was: &PlannedBill, is: &PlannedBill) -> Option<String> {
    let name = format!("{} {}", was.export, was.month);
    if was.booked != is.booked {
        let booked = is.booked.as_ref().map_or("nothing is booked".to_owned(), |of| {
            format!("the books rest on version {} of it now (number {})", of.version, of.id)
        });
        return Some(format!("what is booked of {name}: {booked}"));
    }
    if was.version != is.version {
        return Some(format!("the bill {name}: AWS's newest version is {} now", is.version));
    }
    if (&was.manifest_digest, &was.files_digest) != (&is.manifest_digest, &is.files_digest) {
        return Some(format!("the files of the bill {name}, version {}", is.version));
    }
    if was.reports_digest != is.reports_digest {
        return Some(format!("S3's reports about shared buckets, by which {name} is apportioned"));
    }
    if was.outcome.would_change() != is.outcome.would_change() {
        return Some(format!("whether something of {name} is to be booked"));
    }
    if was.hold != is.hold {
        return Some(format!("what would put {name} on hold"));
    }
    (was.differences != is.differences).then(|| format!("the differences of {name}"))
}

/// The first period that costs another amount now.
fn money(was: &ChangePlan, is: &ChangePlan) -> String {
    let (old, new) = (&was.effects.money, &is.effects.money);
    let other = old.iter().find(|of| !new.contains(of)).or_else(|| new.iter().find(|of| !old.contains(of)));
    let of = other.map_or(String::new(), |of| {
        format!(" of customer {} in the period from {}", of.customer, of.period_start.strftime("%F"))
    });
    format!("the money{of} (other usage was booked, or the customer has another plan or budget)")
}
