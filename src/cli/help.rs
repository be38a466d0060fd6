//! What `--help` shows beyond the arguments: commands in groups, and examples.

use std::fmt::Write;

use clap::{Command, CommandFactory};

use super::{Cli, EXIT_TABLE};

/// The column in which the summaries of commands begin.
const SUMMARY: usize = 23;

/// The headings of `meter --help`, each with its commands.
pub const GROUPS: &[(&str, &[&str])] = &[
    ("Every day", &["status", "usage", "forecast", "bill", "margin", "explain", "report", "verify"]),
    ("Set-up", &["demo", "init", "config", "doctor", "discover", "migrate", "completions", "man", "schema"]),
    (
        "Bills of AWS",
        &["ingest", "apply", "revert", "changes", "versions", "backfill", "shared", "measured", "accuracy"],
    ),
    (
        "Customers and plans",
        &["customer", "plan", "budget", "entitlements", "explain-entitlement", "turn", "statement"],
    ),
    ("Stripe", &["stripe", "push", "events", "reconcile"]),
    ("Workers and jobs", &["work", "health", "jobs", "enqueue", "run", "schedule", "workers", "notifications"]),
    ("Copies of the books", &["backup", "restore", "copy"]),
];

/// Command lines to try, each with what it does, by command.
pub const EXAMPLES: &[(&str, &[(&str, &str)])] = &[
    (
        "init",
        &[
            ("ask for what is needed", "meter init"),
            ("without questions", "meter init --bucket s3://my-bills/exports --region eu-central-1"),
            ("what to create in the AWS account", "meter init --print aws-commands --bucket my-bills"),
        ],
    ),
    (
        "ingest",
        &[
            ("what the newest bills would change; nothing is written", "meter ingest --dry-run"),
            ("book October", "meter ingest --month 2026-10"),
            ("a plan to look at, which `meter apply` books", "meter ingest --plan october.json"),
        ],
    ),
    ("apply", &[("book what the plan says", "meter apply october.json --reason 'looked at by Ann'")]),
    ("revert", &[("book the opposite of plan 3", "meter revert 3 --reason 'wrong tag'")]),
    ("changes", &[("all plans that were applied", "meter changes"), ("what plan 3 changed", "meter changes 3")]),
    (
        "usage",
        &[
            ("all customers in this month", "meter usage"),
            ("one customer in October, by day", "meter usage ann --month 2026-10"),
        ],
    ),
    ("measured", &[("one customer in this month, by day", "meter measured ann")]),
    ("accuracy", &[("the last 30 settled days", "meter accuracy --days 30")]),
    (
        "shared",
        &[
            ("who used the shared buckets in the last week", "meter shared --days 7"),
            (
                "divide a day whose reports do not add up",
                "meter shared uploads --accept 2026-10-07 --reason 'reports are lost'",
            ),
        ],
    ),
    (
        "bill",
        &[("what the next push leads to", "meter bill ann"), ("all of October", "meter bill --period 2026-10 --csv")],
    ),
    ("margin", &[("by customer, in October", "meter margin --period 2026-10")]),
    (
        "forecast",
        &[
            ("the end of this month, by customer", "meter forecast"),
            ("how good forecasts of past months were", "meter forecast --backtest"),
        ],
    ),
    ("statement", &[("October as a page to print", "meter statement ann --period 2026-10 --html ann.html")]),
    (
        "explain",
        &[
            ("this period's charges", "meter explain ann"),
            ("down to the lines of AWS's bill", "meter explain ann --meter chime_minutes --day 2026-10-07 --lines"),
        ],
    ),
    ("versions", &[("the versions of October", "meter versions --month 2026-10")]),
    (
        "discover",
        &[
            ("every kind of line of the newest bill", "meter discover"),
            ("the meters of Chime, by AWS's price list", "meter discover --price-list"),
        ],
    ),
    ("customer list", &[("customers of one plan", "meter customer list --plan pro")]),
    ("customer search", &[("by a part of id, name or Stripe id", "meter customer search acme")]),
    ("customer show", &[("everything about one customer", "meter customer show ann")]),
    ("customer add", &[("a customer of the plan pro", "meter customer add ann --plan pro --name 'Ann Ltd'")]),
    ("customer set", &[("another plan", "meter customer set ann --plan pro --reason 'asked by mail'")]),
    ("customer import", &[("look first", "meter customer import customers.csv --dry-run")]),
    ("customer erase", &[("for good", "meter customer erase ann --reason 'asked by mail'")]),
    ("plan list", &[("every version of every plan", "meter plan list")]),
    (
        "plan apply",
        &[("look first", "meter plan apply plans.toml --dry-run"), ("apply", "meter plan apply plans.toml")],
    ),
    ("plan simulate", &[("over the last three months", "meter plan simulate plans.toml --months 3")]),
    ("budget set", &[("20 EUR of overage in a billing period", "meter budget set ann 20.00 --currency EUR --by ops")]),
    ("budget remove", &[("no budget any more", "meter budget remove ann --by ops")]),
    ("budget show", &[("the budgets that hold", "meter budget show ann")]),
    ("budget history", &[("who changed what, and when", "meter budget history ann")]),
    ("status", &[("one screen", "meter status"), ("for a script", "meter status --json")]),
    ("doctor", &[("before the first start, and after each change", "meter doctor")]),
    ("health", &[("as a container's health check", "meter health")]),
    ("report", &[("October, of all customers", "meter report --month 2026-10 --html october.html")]),
    ("entitlements", &[("who may not use what", "meter entitlements --blocked")]),
    ("explain-entitlement", &[("why, with the figures", "meter explain-entitlement ann chime_minutes")]),
    ("turn", &[("this month's credentials", "meter turn")]),
    ("notifications list", &[("what the web backend did not get", "meter notifications list --state dead")]),
    ("notifications retry", &[("all of them again", "meter notifications retry --dead")]),
    ("notifications test", &[("to Slack or your webhook", "meter notifications test")]),
    ("push", &[("what would be sent", "meter push --dry-run")]),
    ("events list", &[("what Stripe refused", "meter events list --state refused")]),
    ("events show", &[("one event, with its attempts", "meter events show ID")]),
    ("events retry", &[("after the repair", "meter events retry ID --reason 'the meter was archived'")]),
    ("events discard", &[("it is not billed", "meter events discard ID --reason 'a test customer'")]),
    ("stripe setup", &[("look first", "meter stripe setup --dry-run")]),
    ("stripe check", &[("account, plans and subscriptions", "meter stripe check")]),
    (
        "reconcile",
        &[
            ("bills, books and Stripe in October", "meter reconcile --month 2026-10"),
            ("one customer", "meter reconcile ann"),
        ],
    ),
    ("verify", &[("the books", "meter verify"), ("a copy of them", "meter verify --database copy.db")]),
    ("backup", &[("a copy while workers run", "meter backup books.db")]),
    ("copy", &[("from the local file to Turso", "meter copy --to libsql://books-acme.turso.io")]),
    ("restore status", &[("what is to be done next", "meter restore status")]),
    (
        "restore mark",
        &[("these books are a copy of that instant", "meter restore mark --backup-at 2026-10-07T03:00:00Z")],
    ),
    ("restore import-totals", &[("what the lost books had sent", "meter restore import-totals")]),
    ("restore finish", &[("bill again", "meter restore finish")]),
    (
        "work",
        &[
            ("until Ctrl-C, with a status page", "meter work --listen 127.0.0.1:9464"),
            ("what is due, and then end", "meter work --once"),
        ],
    ),
    (
        "enqueue",
        &[
            ("read October soon, and wait for it", "meter enqueue ingest_cur month=2026-10 --wait"),
            ("check the books tonight", "meter enqueue verify_books --at 2026-10-07T23:00:00Z"),
        ],
    ),
    ("backfill ingest", &[("a year, a job for each month", "meter backfill ingest --from 2025-10 --to 2026-09")]),
    ("run", &[("decide limits now", "meter run enforce_budgets"), ("look first", "meter run push_stripe --dry-run")]),
    (
        "jobs list",
        &[("what needs a person", "meter jobs list --attention"), ("how many of each", "meter jobs list --count")],
    ),
    ("jobs show", &[("job 17, with its log", "meter jobs show 17")]),
    ("jobs retry", &[("all dead jobs of a kind", "meter jobs retry --kind push_stripe --state dead")]),
    ("jobs cancel", &[("job 17", "meter jobs cancel 17")]),
    ("jobs purge", &[("finished ones of last month and before", "meter jobs purge --older-than 30d")]),
    ("schedule", &[("what runs when", "meter schedule")]),
    ("workers", &[("also those that ended", "meter workers --all")]),
    ("migrate", &[("after an update, before the worker starts", "meter migrate")]),
    ("config check", &[("every fault, with its line", "meter config check")]),
    ("config show", &[("what holds, secrets masked", "meter config show")]),
    ("demo", &[("a look round, in a new folder", "meter demo --keep demo")]),
    (
        "demo generate",
        &[
            ("a bill to try with", "meter demo generate bucket --month 2026-10 --customers 50"),
            ("three months of a bucket", "meter demo generate s3 --bucket my-bills --prefix exports --months 3"),
        ],
    ),
    ("demo stripe", &[("a made-up Stripe", "meter demo stripe --listen 127.0.0.1:4242")]),
    (
        "completions",
        &[
            ("for this shell", "source <(meter completions bash)"),
            ("for every new one", "meter completions fish > ~/.config/fish/completions/meter.fish"),
        ],
    ),
    ("man", &[("one page for each command", "meter man ~/.local/share/man/man1")]),
    (
        "schema",
        &[("the documents, and their versions", "meter schema"), ("the fields of one", "meter schema customer show")],
    ),
];

/// The command line, as it is parsed and shown.
pub fn command() -> Command {
    let mut command = with_examples(Cli::command(), "");
    let groups = groups(&command);
    let template = format!("{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{groups}{{all-args}}{{after-help}}");
    command = command.help_template(template);
    let help = command.clone().render_help().ansi().to_string();
    command.override_help(format!("{}\n\n{}\n", in_groups(&help).trim_end(), exit_codes()))
}

/// The help without clap's own list of commands, which the groups have already.
fn in_groups(help: &str) -> String {
    let is_list = |line: &str| line.contains("Commands:");
    let before = help.lines().take_while(|line| !is_list(line));
    let after = help.lines().skip_while(|line| !is_list(line)).skip_while(|line| !line.contains("Options:"));
    let lines = before.chain(after).map(|line| line.replace(" (see more with '--help')", ""));
    lines.collect::<Vec<_>>().join("\n")
}

fn with_examples(mut command: Command, path: &str) -> Command {
    let names: Vec<String> = command.get_subcommands().map(|c| c.get_name().to_owned()).collect();
    for name in names {
        let below = if path.is_empty() { name.clone() } else { format!("{path} {name}") };
        command = command.mut_subcommand(name, |c| with_examples(c, &below));
    }
    let Some((_, examples)) = EXAMPLES.iter().find(|(of, _)| *of == path) else { return command };
    let header = *command.get_styles().get_header();
    let mut text = format!("{header}Examples:{header:#}");
    for (what, line) in *examples {
        let _ = write!(text, "\n  # {what}\n  {line}");
    }
    command.after_help(text)
}

fn groups(command: &Command) -> String {
    let header = *command.get_styles().get_header();
    let literal = *command.get_styles().get_literal();
    let mut out = String::new();
    for (heading, names) in GROUPS {
        let _ = writeln!(out, "{header}{heading}:{header:#}");
        let shown = names.iter().filter_map(|name| command.get_subcommands().find(|c| c.get_name() == *name));
        for below in shown {
            let name = below.get_name();
            let about = below.get_about().map(ToString::to_string).unwrap_or_default();
            let gap = " ".repeat(SUMMARY.saturating_sub(2 + name.len()));
            let _ = writeln!(out, "  {literal}{name}{literal:#}{gap}{about}");
        }
        out.push('\n');
    }
    out
}

fn exit_codes() -> String {
    let mut out = String::from("Exit codes:");
    for (code, meaning) in EXIT_TABLE {
        let _ = write!(out, "\n{code:>5}  ");
        let mut width = 7;
        for word in meaning.split_whitespace() {
            if width + 1 + word.chars().count() > 80 {
                out.push_str("\n      ");
                width = 6;
            }
            if width > 7 || out.ends_with("      ") {
                out.push(' ');
                width += 1;
            }
            out.push_str(word);
            width += word.chars().count();
        }
    }
    out
}
