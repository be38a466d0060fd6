//! `meter customer import`: customers from a CSV file, added or updated.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use anyhow::Context as _;
use books::customers::changes::{ByHand, ChangedCustomer, CustomerUpdate};
use books::customers::customer::{CustomerError, NewCustomer};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::add::{self, AddedCustomers};
use super::set::said;
use crate::cli::actor;
use crate::config::Config;
use crate::exit::{BadUsage, Exit, FileFaults};
use crate::print::{self, OutputFormat};
use crate::visible;
use crate::wiring::{self, Open};
use crate::wording;

/// Columns that a file may have.
const COLUMNS: [&str; 5] = ["id", "plan", "stripe_customer_id", "status", "display_name"];
/// Changed customers that are listed.
const LISTED: usize = 20;

/// A file of customers.
struct CustomerFile {
    name: String,
    customers: Vec<NewCustomer>,
    /// The line of each customer.
    lines: Vec<u64>,
    /// By line: what could not be read.
    faults: BTreeMap<u64, String>,
}

/// An import that was asked for.
#[derive(Clone, Copy)]
pub(super) struct Import<'a> {
    pub(super) file: &'a Path,
    pub(super) dry_run: bool,
    pub(super) format: OutputFormat,
}

/// What an import did, or with `--dry-run` would do.
#[derive(JsonSchema, Serialize)]
pub(in crate::cli) struct ImportedCustomers {
    /// Nothing was written.
    dry_run: bool,
    /// Customers of the file.
    read: usize,
    /// None of a dry run without `--update`, which does not look into the books.
    #[serde(skip_serializing_if = "Option::is_none")]
    added: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unchanged: Option<u64>,
    changed: Vec<ChangedCustomer>,
}

/// Adds the customers of a file.
pub(super) async fn add(config: &Config, import: Import<'_>) -> anyhow::Result<Exit> {
    let Import { file, dry_run, format } = import;
    let file = CustomerFile::read(file)?;
    let nobody = "nobody was added";
    let read = file.customers.len();
    if dry_run {
        file.require_sound(nobody, None)?;
        if format == OutputFormat::Json {
            print::json(&ImportedCustomers { dry_run, read, added: None, unchanged: None, changed: vec![] })?;
            return Ok(Exit::Ok);
        }
        print::out(&format!("{} customers could be read; nothing was added", print::count(file.customers.len())));
        return Ok(Exit::Ok);
    }
    if !file.faults.is_empty() {
        // with what else is wrong, so that nobody has to come twice
        let found = match wiring::open_books(config, Open::THERE).await {
            Ok(books) => books.customer_update(file.customers.clone()).await.err(),
            Err(_) => None,
        };
        file.require_sound(nobody, found)?;
    }
    match add::add(config, file.customers.clone()).await {
        Err(error) => file.refused(nobody, error),
        Ok(AddedCustomers { added, unchanged }) if format == OutputFormat::Json => {
            let (added, unchanged) = (Some(added), Some(unchanged));
            print::json(&ImportedCustomers { dry_run, read, added, unchanged, changed: vec![] })?;
            Ok(Exit::Ok)
        }
        Ok(added) => {
            added.show(format)?;
            Ok(Exit::Ok)
        }
    }
}

/// Adds the unknown customers of a file, and gives the others its values.
pub(super) async fn update(config: &Config, import: Import<'_>, now: Timestamp) -> anyhow::Result<Exit> {
    let Import { file, dry_run, format } = import;
    let nothing = "nothing was changed";
    let file = CustomerFile::read(file)?;
    let customers = file.customers.clone();
    let books = wiring::open_books(config, if dry_run { Open::EXISTING } else { Open::THERE }).await?;
    let updated = if dry_run || !file.faults.is_empty() {
        books.customer_update(customers).await
    } else {
        let by = ByHand { actor: actor::current(), action: "customer import --update", reason: None };
        books.update_customers(customers, by, now).await
    };
    let update = match updated {
        Err(error) => return file.refused(nothing, error.into()),
        Ok(update) => update,
    };
    file.require_sound(nothing, None)?;
    let CustomerUpdate { added, changed, unchanged } = update;
    if format == OutputFormat::Json {
        let (added, unchanged) = (Some(u64::try_from(added.len())?), Some(u64::try_from(unchanged)?));
        print::json(&ImportedCustomers { dry_run, read: file.customers.len(), added, unchanged, changed })?;
        return Ok(Exit::Ok);
    }
    for customer in changed.iter().take(LISTED) {
        let changes: Vec<String> = customer.changes.iter().map(said).collect();
        print::out(&format!("{}: {}", customer.customer, changes.join(", ")));
    }
    if changed.len() > LISTED {
        print::out(&format!("and {} more", print::count(changed.len() - LISTED)));
    }
    let [added, changed, unchanged] = [added.len(), changed.len(), unchanged].map(print::count);
    let counts = format!("{added} added, {changed} changed, {unchanged} unchanged");
    let done = if dry_run { "; nothing was written" } else { "" };
    print::out(&format!("customers: {counts}{done}"));
    Ok(Exit::Ok)
}

impl CustomerFile {
    /// # Errors
    /// When the file cannot be read, or has not the columns. What is wrong with a line is a fault.
    fn read(path: &Path) -> anyhow::Result<Self> {
        let name = visible::path(path);
        let reader =
            File::open(path).map_err(|e| BadUsage(format!("{name}: it cannot be read: {}", wording::of_io(&e))))?;
        let mut reader = csv::Reader::from_reader(reader);
        let header = reader.headers().with_context(|| format!("{name}: it is no CSV file"))?.clone();
        if let Some(unknown) = header.iter().find(|column| !COLUMNS.contains(column)) {
            let columns = COLUMNS.join(", ");
            let why = format!(
                "{name}:1: there is no column `{}`; the first line names columns: {columns}",
                visible::line(unknown)
            );
            return Err(BadUsage(why).into());
        }
        if header.iter().all(|column| column != "id") {
            return Err(BadUsage(format!("{name}:1: the column `id` is missing")).into());
        }
        let mut file = Self { name, customers: vec![], lines: vec![], faults: BTreeMap::new() };
        for record in reader.records() {
            let read = record.and_then(|record| {
                let line = record.position().map_or(0, csv::Position::line);
                record.deserialize::<NewCustomer>(Some(&header)).map(|customer| (line, customer))
            });
            match read {
                Ok((line, mut customer)) => {
                    let NewCustomer { plan, stripe_customer_id, status, display_name, .. } = &mut customer;
                    for field in [plan, stripe_customer_id, status, display_name] {
                        field.take_if(|text| text.is_empty());
                        field.iter_mut().for_each(|cell| *cell = print::from_csv(cell).to_owned());
                    }
                    customer.id = print::from_csv(&customer.id).to_owned();
                    file.customers.push(customer);
                    file.lines.push(line);
                }
                Err(error) => {
                    let line = error.position().map_or(0, csv::Position::line);
                    file.faults.insert(line, in_words(&error));
                    if matches!(error.kind(), csv::ErrorKind::Io(_)) {
                        break;
                    }
                }
            }
        }
        Ok(file)
    }

    /// Ends with an error that names every fault, if there is one: those of lines, and those that
    /// the books found.
    fn require_sound(&self, outcome: &str, found: Option<CustomerError>) -> anyhow::Result<()> {
        let mut all = self.faults.clone();
        match found {
            Some(CustomerError::Wrong(faults)) => {
                for fault in faults {
                    let line = self.lines.get(fault.at).copied().unwrap_or_default();
                    all.insert(line, fault.to_string());
                }
            }
            Some(other) => return Err(other.into()),
            None => {}
        }
        let lines: Vec<String> =
            all.into_iter().map(|(line, fault)| format!("{}:{line}: {fault}", self.name)).collect();
        if lines.is_empty() {
            return Ok(());
        }
        let faults = print::several(lines.len(), "fault");
        Err(FileFaults { head: format!("{} has {faults}; {outcome}", self.name), faults: lines }.into())
    }

    fn refused(&self, outcome: &str, error: anyhow::Error) -> anyhow::Result<Exit> {
        self.require_sound(outcome, Some(error.downcast::<CustomerError>()?)).map(|()| Exit::Ok)
    }
}

/// What is wrong with a line.
fn in_words(error: &csv::Error) -> String {
    match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("it has {}, and the first line has {expected_len}", print::several(*len, "field"))
        }
        csv::ErrorKind::Utf8 { .. } => "it is no text in UTF-8".to_owned(),
        csv::ErrorKind::Io(error) => wording::of_io(error),
        csv::ErrorKind::Deserialize { err, .. } => err.kind().to_string(),
        _ => error.to_string(),
    }
}
