//! `meter status`: the state of books, money and work on one screen.

use books::forecast::stored::MeterForecast;
use books::limits::enforcement::LATE;
use clap::Args as ClapArgs;
use jiff::Timestamp;

use crate::config::Config;
use crate::exit::Exit;
use crate::format::{ago, percent_of, span};
use crate::health::{NO_BILL, NO_WEBHOOK, Overview, Severity, StatsCollector};
use crate::print::{self, Mark, WithUnits};
use crate::queue::{JobState, WorkerState};
use crate::ui::about;
use crate::worker::{Kinds, schedule};

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args, config: &Config, now: Timestamp) -> anyhow::Result<Exit> {
    let overview = StatsCollector::new(config, Kinds::all().names(), schedule::kinds(config)).read(now).await?;
    if args.json {
        print::json(&WithUnits::new(&overview, config))?;
    } else {
        show(&overview, config, now);
    }
    Ok(match overview.findings.first().map(|f| f.severity) {
        None => Exit::Ok,
        Some(Severity::Warning) => Exit::NeedsAttention,
        Some(Severity::Critical) => Exit::Failed,
    })
}

/// What is expected by the end of the month.
fn by_end(of: &MeterForecast) -> String {
    let tried = &of.accuracy.as_a_whole;
    let bound = of.forecast.p90.map_or(String::new(), |p90| format!("; in nine of ten months at most {}", about(p90)));
    let error = tried.error().map_or(String::new(), |error| format!(", error {}", percent_of(Some(error))));
    format!(", about {} by its end (by the {}{error}{bound})", about(of.forecast.p50), tried.used.words())
}

fn show(s: &Overview, config: &Config, now: Timestamp) {
    let (units, billing) = (config.units(), s.billing.words());
    let size = s.books.size_bytes.map_or(String::new(), |b| format!(", {} MiB", print::count(b >> 20)));
    print::out(&format!("meter {}   {}{size}   Stripe: {billing}", env!("CARGO_PKG_VERSION"), s.database));
    print::out("");
    let line = |name: &str, text: String| print::out(&format!("{name:<11} {text}"));
    if s.bills().next().is_none() {
        line("bill", NO_BILL.into());
    }
    for bill in s.bills() {
        let made = bill.delivered_at.map_or("nothing booked yet".into(), |at| format!("made {}", ago(at, now)));
        let up_to = bill
            .usage_through
            .map_or(String::new(), |at| format!(", usage through {} ago", span(now.duration_since(at))));
        let rows = format!("{} rows, {} counted", print::count(bill.rows), print::count(bill.counted_rows));
        let unrecognised = bill.lines.get("unrecognised").copied().unwrap_or(0);
        let on_hold = if bill.on_hold > 0 {
            format!(", {} ON HOLD", print::several(bill.on_hold, "version"))
        } else {
            String::new()
        };
        line(
            "bill",
            format!(
                "{} {}: {made}{up_to}; {rows}; {} unrecognised with the month before{on_hold}",
                bill.payer,
                bill.month,
                print::count(unrecognised)
            ),
        );
        for of in &bill.notes {
            line("", format!("{} {}: {}", bill.payer, of.months(), of.note.text));
        }
    }
    for months in s.exports.iter().filter_map(|export| export.months_line(now)) {
        line("months", months);
    }
    let audit = match s.audit.at {
        None => "not audited yet".to_owned(),
        Some(at) => {
            let broken: i64 = s.audit.broken().map(|(_, n)| n).sum();
            let found = if broken == 0 { "sound".into() } else { format!("{broken} VIOLATION(S)") };
            format!("audited {}: {found}", ago(at, now))
        }
    };
    line("books", format!("{} ledger entries; {audit}", print::count(s.books.entries)));
    for month in &s.books.month {
        let unit = units.get(&month.meter).map(String::as_str).unwrap_or_default();
        let total = month.attributed + month.unattributed;
        let by_end = s.books.forecasts.iter().find(|of| of.forecast.meter == month.meter).map_or(String::new(), by_end);
        line(
            "this month",
            format!(
                "{}: {} {unit} in {} day(s), {} without a customer{by_end}",
                month.meter,
                print::readable(total),
                month.days,
                print::readable(month.unattributed)
            ),
        );
    }
    let by = |status: &str| print::count(s.customers.by_status.get(status).copied().unwrap_or(0));
    // kept by a worker, and nothing that `customer_marks` sees has changed since
    let counted =
        if s.customers_at == s.at { String::new() } else { format!("; counted {}", ago(s.customers_at, now)) };
    let (active, past_due, canceled) = (by("active"), by("past_due"), by("canceled"));
    line("customers", format!("{active} active, {past_due} past due, {canceled} canceled{counted}"));
    if let Some(at) = s.books.enforced_at {
        let late = if now.duration_since(at) > LATE { "; nobody decides now, and the last decisions hold" } else { "" };
        line("limits", format!("decided {}{late}", ago(at, now)));
    }
    for (meter, d) in s.customers.decisions.iter().filter(|(_, d)| d.near + d.overage + d.blocked + d.denied > 0) {
        line(
            "limits",
            format!(
                "{meter}: {} blocked, {} not in the plan, {} near the limit, {} more beyond the plan",
                print::count(d.blocked),
                print::count(d.denied),
                print::count(d.near),
                print::count(d.overage)
            ),
        );
    }
    let stripe = &s.books.stripe;
    let events = &stripe.events;
    line(
        "Stripe",
        format!(
            "{} settled, {} pending, {} unconfirmed, {} refused; {} deferred; {} alarm(s)",
            print::count(events.settled),
            print::count(events.pending),
            print::count(events.unconfirmed),
            print::count(events.refused),
            print::count(s.deferred()),
            stripe.alarms
        ),
    );
    if let Some(at) = s.audit.at {
        for text in s.audit.billing.iter().flat_map(print::audit::billing) {
            line("billing", text);
        }
        if !s.audit.billing.is_empty() {
            line("billing", format!("as summed by the audit {}", ago(at, now)));
        }
    }
    for of in &s.books.costs {
        let [attributed, unattributed, excluded] =
            [of.attributed, of.unattributed, of.excluded].map(crate::format::two_decimals);
        let (name, currency, bill) = (&of.meter, &of.currency, format!("{} {}", of.payer, of.month));
        line(
            "AWS cost",
            format!("{bill}, {name}: {attributed} {currency}, without a customer {unattributed}, excluded {excluded}"),
        );
    }
    for (meter, drift) in s.drifts() {
        line("Stripe", format!("{meter}: totals are {} off, as last compared", print::quantity(drift)));
    }
    let notifications = &s.books.notifications;
    line(
        "notifications",
        match s.notifications_go_out {
            true => format!(
                "{} pending, {} given up",
                print::count(notifications.pending),
                print::count(notifications.dead)
            ),
            false => format!("off: {NO_WEBHOOK}"),
        },
    );
    let messages = &s.books.operator_messages;
    if s.operator_messages_go_out {
        let (pending, dead) = (print::count(messages.pending), print::count(messages.dead));
        line("operator", format!("{pending} message(s) pending, {dead} given up"));
    }
    let silent = match s.workers(WorkerState::Silent) {
        0 => String::new(),
        n => format!(", {n} silent"),
    };
    line(
        "queue",
        format!(
            "{} worker(s){silent}; {} due, {} running, {} to be tried again, {} dead",
            s.workers(WorkerState::Working),
            s.jobs(JobState::Pending),
            s.jobs(JobState::Running),
            s.jobs(JobState::Retrying),
            s.jobs(JobState::Dead)
        ),
    );
    for rows in s.month_rows() {
        let quota = rows.quota.map_or(String::new(), |quota| format!("; the plan has {}", print::count(quota)));
        line(
            "database",
            format!(
                "rows {}: {} today, {} this month, about {} by its end{quota}",
                rows.what,
                print::count(rows.today),
                print::count(rows.so_far),
                print::count(rows.by_end)
            ),
        );
    }
    if s.rows.is_some() {
        line("database", "counted every ten minutes and without the web backend's rows".into());
    }
    if s.findings.is_empty() {
        print::out("");
        print::marked((Mark::Good, "nothing needs attention"), "");
        return;
    }
    print::out("");
    print::out("needs attention:");
    for f in &s.findings {
        let critical = f.severity == Severity::Critical;
        let mark = if critical { (Mark::Wrong, "  WRONG") } else { (Mark::Warning, "  warn ") };
        print::marked(mark, &format!("  {}: {}", f.alert, f.what));
        print::out(&format!("         {}", f.act));
    }
    print::out("");
    print::with_same_config();
    print::out("Each has a section of that name in docs/operations.md, and at /runbook of a worker.");
}
