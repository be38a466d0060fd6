//! The command line: one file for each command, and the few files that commands share.

mod accuracy;
mod actor;
mod agreement;
mod apply;
mod backfill;
mod backup;
mod bill;
mod billing_period;
mod budget;
mod changes;
mod check_config;
mod checks;
mod copy;
mod customer;
mod discover;
mod doctor;
mod enqueue;
mod entitlements;
mod events;
mod explain;
mod failure;
mod forecast;
mod health;
mod help;
mod ingest;
mod init;
mod instant;
mod known_customer;
mod known_meter;
mod log;
mod margin;
mod measured;
mod migrate;
mod notifications;
mod payload;
mod plan;
mod plan_change;
mod progress;
mod push;
mod queue_jobs;
mod reconcile;
mod report;
mod restore;
mod revert;
mod run;
mod schedule;
mod schema;
mod select;
mod shared;
mod shell;
mod statement;
mod status;
mod stripe;
mod submit;
mod turn;
mod usage;
mod usage_args;
mod verify;
mod versions;
mod whole_file;
mod work;
mod workers;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io;
use std::panic::PanicHookInfo;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{FromArgMatches, Parser, Subcommand};
pub use help::{EXAMPLES, GROUPS, command};
use jiff::Timestamp;
pub use schema::{Document, documents};
use schemars::JsonSchema;
use serde::Serialize;

use crate::config::{Config, ConfigError, LogConfig};
use crate::exit::{BadUsage, Exit, FileFaults};
use crate::print::{self, TableWidth};
use crate::visible;
use crate::wiring;

const GLOBAL: &str = "Options of every command";

/// What a command can end with, for docs/commands.md.
pub const EXIT_TABLE: [(u8, &str); 5] = [
    (0, "It is done. What only looks found nothing wrong."),
    (
        1,
        "It failed, or a part of it did; the message says what was not done. Of `verify`, `doctor`, `health` and `status`: something is wrong. \
         Of `work --once` and `--wait`: a job did not succeed.",
    ),
    (
        2,
        "Bad usage or configuration, such as an option, a customer or a job that does not exist. Nothing was done, and the same command line ends \
         so again.",
    ),
    (3, "It is done, and something needs a person: the output says what."),
    (130, "`work` was stopped at once by a second signal. The first one lets running jobs finish, and ends with 0."),
];

/// Turns AWS bills into exact books of who used what.
#[derive(Debug, Parser)]
#[command(name = "meter", version, max_term_width = 100)]
pub struct Cli {
    /// Configuration file [default: meter.toml, if it is there]
    #[arg(long, global = true, value_name = "FILE", env = "METER_CONFIG", help_heading = GLOBAL)]
    config: Option<PathBuf>,
    /// What to log: error, warn, info, debug, trace [default: warn, and info for `work`]
    #[arg(long, global = true, value_name = "LEVEL", env = "METER_LOG", help_heading = GLOBAL)]
    log: Option<String>,
    /// Print tables whole, also where the terminal is narrower
    #[arg(long, global = true, help_heading = GLOBAL)]
    wide: bool,
    /// When to use colours
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", hide_possible_values = true, help_heading = GLOBAL)]
    color: print::ColorWhen,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a first configuration, or what AWS needs
    ///
    /// Finds the export, tries every access, and writes meter.toml and a template of .env; or
    /// prints what the AWS account needs.
    Init(Box<init::Args>),
    /// Read the newest bills and book what they change
    Ingest(ingest::Args),
    /// Book exactly what a plan of `ingest --plan` says
    ///
    /// Nothing is booked when anything has moved since the plan was made.
    Apply(apply::Args),
    /// Take an applied plan back: book the opposite
    Revert(revert::Args),
    /// List the plans that were applied, and what they changed
    ///
    /// Who applied them, why and when.
    Changes(changes::Args),
    /// Show what was used
    Usage(usage_args::UsageArgs),
    /// Show what the web backend measured, beside AWS's bill
    Measured(usage_args::UsageArgs),
    /// Compare what was measured with what AWS billed
    ///
    /// On days that the bill has settled. The exit code is 3 when they differ.
    Accuracy(accuracy::Args),
    /// Show who used the buckets that all customers share
    ///
    /// By day, as S3's own reports have it, and how the bill is divided by that.
    Shared(shared::Args),
    /// Show what the metered lines of invoices will say
    ///
    /// In currency: what the next push leads to.
    Bill(bill::Args),
    /// Show what customers pay, less what AWS charges
    Margin(margin::Args),
    /// Show what customers will have used at the month's end
    ///
    /// When a limit is reached, and what the bill will be.
    Forecast(forecast::Args),
    /// Write a customer's statement of a billing period
    ///
    /// As the customer reads it.
    Statement(statement::Args),
    /// Show where a charge comes from, down to AWS's lines
    ///
    /// Its billing target, events, entries of the ledger and versions of bills.
    Explain(explain::Args),
    /// List the versions of bills: booked, or on hold
    Versions(versions::Args),
    /// List every kind of line of the newest bill, by meter
    ///
    /// The bill is read with the configured rules, and only the watched products are listed.
    /// Nothing is booked.
    Discover(discover::Args),
    /// List, show, add, change or import customers
    #[command(subcommand)]
    Customer(customer::Action),
    /// List plans, try them on past months, or apply them
    #[command(subcommand)]
    Plan(plan::Action),
    /// Show or set overage budgets of customers
    #[command(subcommand)]
    Budget(budget::Action),
    /// Show books, money and work on one screen
    ///
    /// And what needs attention; the exit code is 3 or 1 when something does.
    Status(status::Args),
    /// Check all that a worker depends on, with remedies
    Doctor(doctor::Args),
    /// Ask this machine's worker whether it can work
    ///
    /// The exit code is 1 when it cannot.
    Health(health::Args),
    /// Write a month of usage as a document
    ///
    /// To print or to send.
    Report(report::Args),
    /// Show which customers may use which meters
    Entitlements(entitlements::Args),
    /// Explain why a customer may use a meter, or may not
    ExplainEntitlement(entitlements::ExplainArgs),
    /// Show how many TURN credentials were handed out
    Turn(turn::Args),
    /// List notifications, and send them again
    ///
    /// Those to the web backend, and the messages to the operator.
    #[command(subcommand)]
    Notifications(notifications::Action),
    /// Send metered usage to Stripe
    Push(push::Args),
    /// List events for Stripe; retry or discard refused ones
    #[command(subcommand)]
    Events(events::Action),
    /// Set up the Stripe account, or check it
    #[command(subcommand)]
    Stripe(stripe::Action),
    /// Compare AWS bills, the ledger and Stripe's totals
    Reconcile(reconcile::Args),
    /// Check that the books add up
    ///
    /// Conservation, derived tables, counters.
    Verify(verify::Args),
    /// Copy the books into a new file while workers run
    Backup(backup::Args),
    /// Copy the books into another, empty database
    ///
    /// From a file to a server or back: whole, and compared row by row, while nothing writes.
    Copy(copy::Args),
    /// Bring restored books back to billing
    #[command(subcommand)]
    Restore(restore::Action),
    /// Run a worker: the queue's jobs and the schedule
    ///
    /// Until a signal stops it.
    Work(work::Args),
    /// Put a job into the queue
    Enqueue(enqueue::Args),
    /// Put work on past months into the queue
    #[command(subcommand)]
    Backfill(backfill::Action),
    /// Run a job in this process, without the queue
    Run(run::Args),
    /// List, show, retry, cancel and remove jobs
    #[command(subcommand)]
    Jobs(queue_jobs::Action),
    /// Show the schedule: cron lines, next and last run
    Schedule(schedule::Args),
    /// Show the worker processes
    Workers(workers::Args),
    /// Bring the database's schema up to date
    Migrate(migrate::Args),
    /// Check or show the configuration
    #[command(subcommand)]
    Config(check_config::Action),
    /// Run a demonstration on a made-up bill, or make one
    #[cfg(feature = "demo")]
    Demo(crate::demo::Args),
    /// Print a script with which a shell completes commands
    Completions(shell::CompletionsArgs),
    /// Print or write manual pages
    Man(shell::ManArgs),
    /// Print the JSON Schema of what a command prints
    ///
    /// That is, with --json. Without a command it lists the documents.
    Schema(schema::Args),
}

impl Command {
    /// Whether it goes on by its nature, and says itself what it does.
    fn is_long(&self) -> bool {
        #[cfg(feature = "demo")]
        if matches!(self, Self::Demo(_)) {
            return true;
        }
        matches!(self, Self::Work(_) | Self::Init(_))
    }

    /// Whether it prints at once what is read page by page, and asks nothing.
    fn is_read(&self) -> bool {
        match self {
            Self::Usage(_)
            | Self::Measured(_)
            | Self::Accuracy(_)
            | Self::Bill(_)
            | Self::Margin(_)
            | Self::Forecast(_)
            | Self::Explain(_)
            | Self::Versions(_)
            | Self::Discover(_)
            | Self::Changes(_)
            | Self::Status(_)
            | Self::Entitlements(_)
            | Self::ExplainEntitlement(_)
            | Self::Turn(_)
            | Self::Reconcile(_)
            | Self::Schedule(_)
            | Self::Workers(_) => true,
            Self::Customer(action) => matches!(action, customer::Action::List { .. } | customer::Action::Show { .. }),
            Self::Jobs(action) => matches!(action, queue_jobs::Action::List { .. } | queue_jobs::Action::Show { .. }),
            Self::Events(action) => matches!(action, events::Action::List { .. } | events::Action::Show { .. }),
            Self::Notifications(action) => matches!(action, notifications::Action::List { .. }),
            _ => false,
        }
    }
}

/// A panic in one line: its message may have text of a bill.
fn report_panic(panic: &PanicHookInfo<'_>) {
    let at = panic.location().map_or(String::new(), |at| format!(" at {at}"));
    print::err(format_args!("panic{at}: {}", panic.payload_as_str().unwrap_or("without a message")));
    let trace = Backtrace::capture();
    if trace.status() == BacktraceStatus::Captured {
        print::err_lines(trace);
    }
}

/// Reads the command line; what is wrong with it, and `--help`, end the process.
pub fn parse() -> Cli {
    let parsed = command().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    parsed.unwrap_or_else(|error| {
        if error.use_stderr() {
            let text = error.to_string();
            let what = text.lines().next().unwrap_or_default();
            failed(what.strip_prefix("error: ").unwrap_or(what), 2);
        } else if let Err(broken) = error.print() {
            std::process::exit(i32::from(unwritten(&broken)));
        } else {
            std::process::exit(0);
        }
        error.exit()
    })
}

/// Says why standard output is not whole; returns the exit code.
fn unwritten(why: &io::Error) -> u8 {
    if why.kind() == io::ErrorKind::BrokenPipe {
        return 0;
    }
    print::err(format_args!("standard output cannot be written, so what is there is not whole: {why}"));
    1
}

/// What failed, as JSON for whoever asked for JSON: standard output has one document, whatever
/// happens.
fn failed(message: &str, exit_code: u8) {
    if std::env::args_os().any(|argument| argument == "--json") {
        drop(print::json(&FailedCommand { error: CommandFailure { message, exit_code } }));
    }
}

/// What a command prints that failed.
#[derive(JsonSchema, Serialize)]
struct FailedCommand<'a> {
    error: CommandFailure<'a>,
}

#[derive(JsonSchema, Serialize)]
struct CommandFailure<'a> {
    /// As it is on standard error.
    message: &'a str,
    exit_code: u8,
}

/// Runs a command; errors go to standard error.
pub fn run(cli: Cli) -> ExitCode {
    std::panic::set_hook(Box::new(report_panic));
    print::set(cli.color, if cli.wide { TableWidth::Whole } else { TableWidth::Terminal });
    if cli.command.is_read() {
        print::page();
    }
    if !cli.command.is_long() {
        let words = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned());
        let line = words.take_while(|word| !word.starts_with('-')).collect::<Vec<_>>().join(" ");
        print::wait(&format!("meter {}", visible::line(&line)));
    }
    let result = execute(cli);
    print::end_wait();
    let done = ended(result);
    print::end_page();
    print::output_failure().map_or(done, |why| ExitCode::from(unwritten(why)))
}

fn ended(result: anyhow::Result<Exit>) -> ExitCode {
    match result {
        Ok(done) => done.into(),
        Err(error) => {
            let usage = error.is::<ConfigError>() || error.is::<BadUsage>() || error.is::<FileFaults>();
            let code = if usage { 2 } else { 1 };
            failed(&format!("{error:#}"), code);
            // only lists of faults and of what there is have several lines
            if let Some(FileFaults { head, faults }) = error.downcast_ref() {
                let faults: Vec<String> = faults.iter().map(|fault| visible::line(fault).into_owned()).collect();
                print::err_lines(format_args!("{}:\n  {}", visible::line(head), faults.join("\n  ")));
            } else if usage {
                print::err_lines(format_args!("{error:#}"))
            } else {
                print::err(format_args!("{error:#}"))
            }
            ExitCode::from(code)
        }
    }
}

/// The environment, without what is not UTF-8 and nobody's here.
fn variables() -> anyhow::Result<impl Iterator<Item = (String, String)>> {
    let mut found = vec![];
    for (name, value) in std::env::vars_os() {
        let Ok(name) = name.into_string() else { continue };
        match value.into_string() {
            Ok(value) => found.push((name, value)),
            Err(_) if name.starts_with("METER_") => return Err(BadUsage(format!("{name} is not UTF-8")).into()),
            Err(_) => {}
        }
    }
    Ok(found.into_iter())
}

fn execute(cli: Cli) -> anyhow::Result<Exit> {
    match &cli.command {
        Command::Completions(args) => return shell::completions(args),
        Command::Man(args) => return shell::man(args),
        Command::Schema(args) => return schema::run(args),
        _ => {}
    }
    let config = Config::load(cli.config.as_deref(), variables()?);
    if let Command::Config(action) = cli.command {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        return runtime.block_on(check_config::run(action, config, Timestamp::now()));
    }
    if let Command::Init(args) = cli.command {
        // it reads no configuration: it makes one
        log::start(&LogConfig::default(), cli.log, "error", cli.color)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let done = runtime.block_on(init::run(*args, Timestamp::now()));
        runtime.shutdown_background();
        return done;
    }
    let config = config?;
    let severity = if matches!(cli.command, Command::Work(_)) { "info" } else { "warn" };
    log::start(&config.log, cli.log, severity, cli.color)?;
    // blocking threads decode, and one more reads files; each has memory of its own, so there are
    // only as many as are of use
    let mut blocking = config.read_limits().parallel + 1;
    if matches!(cli.command, Command::Work(_)) {
        // several bills and parts may be read at once, and none may wait for another's thread
        blocking = blocking * work::reads_at_once(&config) + 2;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().max_blocking_threads(blocking).enable_all().build()?;
    let now = Timestamp::now();
    let done = runtime.block_on(async {
        let done = match cli.command {
            Command::Ingest(args) => ingest::run(args, &config, now).await,
            Command::Apply(args) => apply::run(args, &config, now).await,
            Command::Revert(args) => revert::run(args, &config, now).await,
            Command::Changes(args) => changes::run(args, &config).await,
            Command::Usage(args) => usage::run(args, &config, now).await,
            Command::Measured(args) => measured::run(args, &config, now).await,
            Command::Accuracy(args) => accuracy::run(args, &config, now).await,
            Command::Shared(args) => shared::run(args, &config, now).await,
            Command::Bill(args) => bill::run(args, &config, now).await,
            Command::Margin(args) => margin::run(args, &config, now).await,
            Command::Forecast(args) => forecast::run(args, &config, now).await,
            Command::Statement(args) => statement::run(args, &config, now).await,
            Command::Explain(args) => explain::run(args, &config, now).await,
            Command::Versions(args) => versions::run(args, &config).await,
            Command::Discover(args) => discover::run(args, &config, now).await,
            Command::Verify(args) => verify::run(args, &config).await,
            Command::Backup(args) => backup::run(args, &config, now).await,
            Command::Copy(args) => copy::run(args, &config, now).await,
            Command::Restore(action) => restore::run(action, &config, now).await,
            Command::Work(args) => work::run(args, &config, now).await,
            Command::Enqueue(args) => enqueue::run(args, &config).await,
            Command::Backfill(action) => backfill::run(action, &config, now).await,
            Command::Run(args) => run::run(args, &config, now).await,
            Command::Customer(action) => customer::run(action, &config, now).await,
            Command::Plan(action) => plan::run(action, &config, now).await,
            Command::Budget(action) => budget::run(action, &config, now).await,
            Command::Entitlements(args) => entitlements::run(args, &config, now).await,
            Command::ExplainEntitlement(args) => entitlements::explain(args, &config, now).await,
            Command::Turn(args) => turn::run(args, &config, now).await,
            Command::Notifications(action) => notifications::run(action, &config, now).await,
            Command::Push(args) => push::run(args, &config, now).await,
            Command::Events(action) => events::run(action, &config, now).await,
            Command::Stripe(action) => stripe::run(action, &config, now).await,
            Command::Reconcile(args) => reconcile::run(args, &config, now).await,
            Command::Status(args) => status::run(args, &config, now).await,
            Command::Doctor(args) => doctor::run(args, &config, now).await,
            Command::Health(args) => health::run(args, &config).await,
            Command::Report(args) => report::run(args, &config, now).await,
            Command::Jobs(action) => queue_jobs::run(action, &config, now).await,
            Command::Schedule(args) => schedule::run(args, &config, now).await,
            Command::Workers(args) => workers::run(args, &config, now).await,
            Command::Migrate(args) => migrate::run(&args, &config, now).await,
            #[cfg(feature = "demo")]
            Command::Demo(args) => crate::demo::run(args, &config, now).await,
            Command::Config(_) | Command::Init(_) | Command::Completions(_) | Command::Man(_) | Command::Schema(_) => {
                Ok(Exit::Ok)
            }
        };
        wiring::keep_row_counts(&config).await;
        done
    });
    // a run that was handed back may still be decoding on a blocking thread; it is abandoned
    runtime.shutdown_background();
    done
}
