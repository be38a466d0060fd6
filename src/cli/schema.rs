//! `meter schema`: the JSON Schema of each document that a command prints with `--json`.

use clap::Args as ClapArgs;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};

use books::customers::changes::ChangedCustomer;
use books::customers::customer::Customer;
use books::customers::periods::TurnPeriod;
use books::customers::search::FoundCustomers;
use books::limits::notification::Notification;
use books::limits::plan::Plan;
use books::stripe::meter_event::MeterEvent;
use books::units::similar::offer;
use books::usage::applied_plans::AppliedPlan;
use books::usage::bill::VersionRow;
use jobs::changes::ChangePlan;
use jobs::push_stripe::PushReport;
use jobs::push_stripe::bill::Bills;
use jobs::push_stripe::simulate::Simulation;

use super::{accuracy, backup, changes, check_config, checks, copy, customer, discover, events, forecast, health};
use super::{ingest, init, measured, migrate, notifications, plan, queue_jobs, schedule, shared, stripe};
use crate::exit::{BadUsage, Exit};
use crate::format::Counted;
use crate::health::Overview;
use crate::margin::Margins;
use crate::print::{self, BudgetRow, EntitlementRow, WithUnit, WithUnits};
use crate::queue::{Enqueued, JobRow, WorkerRow};
use crate::statement::Statement;
use crate::worker::Kinds;

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// The document, by the command that prints it: customer show [default: list them]
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    document: Vec<String>,
}

/// A document that a command prints.
pub struct Document {
    /// The command, with the argument that makes it print another document than it does without.
    pub name: String,
    /// It grows when a field is renamed or removed, or means another thing. A new field is no new
    /// version.
    pub version: u32,
    schema: fn(SchemaSettings) -> Schema,
}

impl Document {
    fn of<T: JsonSchema>(name: impl Into<String>, version: u32) -> Self {
        Self { name: name.into(), version, schema: |settings| settings.into_generator().into_root_schema_for::<T>() }
    }

    /// The schema of what is printed (draft 2020-12).
    pub fn schema(&self) -> Schema {
        let mut schema = (self.schema)(SchemaSettings::draft2020_12().for_serialize());
        schema.insert(
            "$id".into(),
            format!("urn:meter:{}:{}", self.name.replace(" --", ".").replace(' ', "-"), self.version).into(),
        );
        schema.insert("title".into(), format!("meter {}, version {}", self.name, self.version).into());
        schema
    }
}

/// Every document, by name.
pub fn documents() -> Vec<Document> {
    let mut all = vec![
        Document::of::<super::FailedCommand<'static>>("error", 1),
        Document::of::<WithUnits<accuracy::Compared<'static>>>("accuracy", 1),
        Document::of::<AppliedPlan>("apply", 1),
        Document::of::<Vec<Enqueued>>("backfill ingest", 1),
        Document::of::<Vec<JobRow>>("backfill ingest --wait", 1),
        Document::of::<backup::Backup>("backup", 1),
        Document::of::<WithUnits<Bills>>("bill", 1),
        Document::of::<Vec<BudgetRow>>("budget history", 1),
        Document::of::<Vec<BudgetRow>>("budget remove", 1),
        Document::of::<Vec<BudgetRow>>("budget set", 1),
        Document::of::<Vec<BudgetRow>>("budget show", 1),
        Document::of::<Vec<AppliedPlan>>("changes", 1),
        Document::of::<WithUnits<changes::BookedChange>>("changes NUMBER", 1),
        Document::of::<check_config::SoundConfig>("config check", 1),
        Document::of::<check_config::ShownConfig>("config show", 1),
        Document::of::<copy::Report<'static>>("copy", 1),
        Document::of::<customer::add::AddedCustomers>("customer add", 1),
        Document::of::<customer::erase::ErasedCustomer>("customer erase", 1),
        Document::of::<customer::import::ImportedCustomers>("customer import", 1),
        Document::of::<Vec<Customer>>("customer list", 1),
        Document::of::<FoundCustomers>("customer search", 1),
        Document::of::<ChangedCustomer>("customer set", 1),
        Document::of::<WithUnits<customer::CustomerDetails<'static>>>("customer show", 1),
        Document::of::<Vec<discover::DiscoveredLines>>("discover", 1),
        Document::of::<discover::offers::ListedOffers<'static>>("discover --price-list", 1),
        Document::of::<Vec<checks::Check>>("doctor", 1),
        Document::of::<Vec<Enqueued>>("enqueue", 1),
        Document::of::<Vec<JobRow>>("enqueue --wait", 1),
        Document::of::<Vec<WithUnit<EntitlementRow>>>("entitlements", 1),
        Document::of::<Vec<events::DecidedEvent>>("events discard", 1),
        Document::of::<Vec<MeterEvent>>("events list", 1),
        Document::of::<Vec<events::DecidedEvent>>("events retry", 1),
        Document::of::<events::EventWithActions>("events show", 1),
        Document::of::<Vec<print::explain::Explained>>("explain", 1),
        Document::of::<print::entitlements::ExplainedEntitlement>("explain-entitlement", 1),
        Document::of::<WithUnits<forecast::Forecasts<'static>>>("forecast", 1),
        Document::of::<health::WorkerHealth>("health", 1),
        Document::of::<Vec<WithUnits<ingest::IngestRun>>>("ingest", 1),
        Document::of::<ChangePlan>("ingest --plan", 1),
        Document::of::<init::FirstConfig>("init", 1),
        Document::of::<queue_jobs::ChangedJobs>("jobs cancel", 1),
        Document::of::<Vec<JobRow>>("jobs list", 1),
        Document::of::<Vec<queue_jobs::CountedJobs>>("jobs list --count", 1),
        Document::of::<queue_jobs::ChangedJobs>("jobs purge", 1),
        Document::of::<queue_jobs::ChangedJobs>("jobs retry", 1),
        Document::of::<queue_jobs::JobWithFailures>("jobs show", 1),
        Document::of::<WithUnits<Margins>>("margin", 1),
        Document::of::<Vec<WithUnit<measured::Line>>>("measured", 1),
        Document::of::<migrate::Migration>("migrate", 1),
        Document::of::<Vec<Notification>>("notifications list", 1),
        Document::of::<notifications::NotificationsAgain>("notifications retry", 1),
        Document::of::<Vec<notifications::TestedReceiver>>("notifications test", 1),
        Document::of::<plan::AppliedPlans>("plan apply", 1),
        Document::of::<Vec<WithUnits<Plan>>>("plan list", 1),
        Document::of::<WithUnits<Simulation>>("plan simulate", 1),
        Document::of::<Counted<PushReport>>("push", 1),
        Document::of::<Vec<WithUnit<print::reconcile::ReconciledPeriod>>>("reconcile", 1),
        Document::of::<print::restore::RestorationState>("restore finish", 1),
        Document::of::<print::restore::RestorationState>("restore import-totals", 1),
        Document::of::<print::restore::RestorationState>("restore mark", 1),
        Document::of::<print::restore::RestorationState>("restore status", 1),
        Document::of::<AppliedPlan>("revert", 1),
        Document::of::<Vec<schedule::Row>>("schedule", 1),
        Document::of::<Vec<shared::SharedBucketJson>>("shared", 1),
        Document::of::<Statement>("statement", crate::statement::FORM),
        Document::of::<WithUnits<Overview>>("status", 1),
        Document::of::<stripe::ComparedAccount>("stripe check", 1),
        Document::of::<stripe::ComparedAccount>("stripe setup", 1),
        Document::of::<Vec<TurnPeriod>>("turn", 1),
        Document::of::<Vec<crate::cli::usage::UsageLine>>("usage", 1),
        Document::of::<Counted<books::audit::checks::Audit>>("verify", 1),
        Document::of::<Vec<VersionRow>>("versions", 1),
        Document::of::<Vec<WorkerRow>>("workers", 1),
    ];
    for kind in Kinds::all().iter() {
        all.push(Document { name: format!("run {}", kind.name), version: 1, schema: kind.report_schema });
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    let (all, name) = (documents(), args.document.join(" "));
    if name.is_empty() {
        let row = |of: &Document| vec![of.name.clone(), of.version.to_string()];
        print::table(&["document", ">version"], all.iter().map(row).collect());
        return Ok(Exit::Ok);
    }
    let Some(found) = all.iter().find(|of| of.name == name) else {
        let names = all.iter().map(|of| of.name.as_str());
        return Err(BadUsage(format!("no document is called `{name}`; {}", offer(&name, names))).into());
    };
    print::json(&found.schema())?;
    Ok(Exit::Ok)
}
