//! What is wrong with customers' items at Stripe, for `meter stripe check`.

use jiff::Timestamp;
use jobs::stripe::check_items::CustomerFaults;
use jobs::sync_stripe::LastRead;

use super::{customer, out};
use crate::format;

/// Customers that are named; the others are counted.
const NAMED: usize = 20;
/// Columns of a terminal.
const WIDTH: usize = 80;

/// Prints how old the rows are, each customer with what is wrong, and what to do.
pub(crate) fn show(faults: &[CustomerFaults], customers: usize, read: LastRead, now: Timestamp) {
    for line in lines(faults, customers, read, now) {
        out(&line);
    }
}

fn lines(faults: &[CustomerFaults], customers: usize, read: LastRead, now: Timestamp) -> Vec<String> {
    if customers == 0 {
        return vec![];
    }
    let mut lines = vec![String::new()];
    let mut say = |text: &str, indent: usize| lines.extend(wrapped(text, indent));
    let ago = |at: Option<Timestamp>| at.map_or("never".to_owned(), |at| format::ago(at, now));
    match read {
        LastRead { all: None, .. } => say(
            "items: not every subscription was read from Stripe yet; `meter run sync-stripe full=true` reads them",
            0,
        ),
        LastRead { all, new } => {
            let (all, new) = (ago(all), ago(new));
            say(&format!("items of {customers} customer(s), as sync_stripe read them: all {all}, new ones {new}"), 0);
        }
    }
    if faults.is_empty() {
        if read.all.is_some() {
            say("every customer's items bill what the plan says", 0);
        }
        return lines;
    }
    say(&format!("{} customer(s) have items that do not bill what the plan says:", faults.len()), 0);
    for one in faults.iter().take(NAMED) {
        say(customer(&one.customer), 0);
        for fault in &one.faults {
            say(&fault.to_string(), 2);
        }
    }
    if faults.len() > NAMED {
        say(&format!("and {} more", faults.len() - NAMED), 0);
    }
    say("to do:", 0);
    let mut remedies: Vec<&str> = faults.iter().flat_map(|one| one.faults.iter().map(|f| f.remedy())).collect();
    remedies.sort_unstable();
    remedies.dedup();
    for remedy in remedies {
        say(remedy, 2);
    }
    lines
}

/// The text in lines of at most [`WIDTH`] columns, as far as its words allow; a command between
/// backticks is one word. The lines after the first one are indented further.
pub(crate) fn wrapped(text: &str, indent: usize) -> Vec<String> {
    let (mut lines, mut line): (Vec<String>, _) = (vec![], " ".repeat(indent));
    let mut begun = false;
    let quoted = |text: &str| !text.matches('`').count().is_multiple_of(2);
    let mut words: Vec<String> = vec![];
    for word in text.split(' ') {
        match words.last_mut().filter(|last| quoted(last)) {
            Some(open) => *open = format!("{open} {word}"),
            None => words.push(word.to_owned()),
        }
    }
    for word in words {
        if begun && line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines.push(std::mem::replace(&mut line, " ".repeat(indent + 2)));
            begun = false;
        }
        if begun {
            line.push(' ');
        }
        line.push_str(&word);
        begun = true;
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use jobs::stripe::check_items::ItemFault;

    use super::*;

    #[test]
    fn lines_fit_a_terminal_and_name_twenty_customers() {
        let fault = ItemFault::NoItem { meter: "chime_minutes".into(), subscriptions: vec!["sub_1".repeat(5); 9] };
        let of = |n: usize| CustomerFaults { customer: format!("cust-{n:02}"), faults: vec![fault.clone()] };
        let now: Timestamp = "2026-11-28T12:00:00Z".parse().unwrap();
        let read = LastRead { all: Some(now - jiff::SignedDuration::from_hours(3)), new: Some(now) };
        let faults: Vec<_> = (0..23).map(of).collect();
        let found = lines(&faults, 40, read, now);
        assert!(found.iter().all(|line| line.chars().count() <= WIDTH), "{found:#?}");
        assert_eq!(found.iter().filter(|line| line.starts_with("cust-")).count(), 20);
        assert!(found.contains(&"and 3 more".to_owned()), "{found:#?}");
        assert!(found[1].starts_with("items of 40 customer(s), as sync_stripe read them: all 3 h ago"), "{found:#?}");
        let remedies = found.iter().filter(|line| line.contains("no item: add the plan's price"));
        assert_eq!(remedies.count(), 1, "said once for all customers");
        let whole = found.join(" ").replace("    ", "");
        assert!(whole.contains("so nothing bills it"), "{whole}");
    }
}
