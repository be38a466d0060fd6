//! Adding customers that the books do not have.

use books::customers::customer::NewCustomer;
use schemars::JsonSchema;
use serde::Serialize;

use crate::config::Config;
use crate::print::{self, OutputFormat};
use crate::wiring::{self, Open};

/// How many customers were added, and how many were known and stay as they are.
#[derive(Clone, Copy, JsonSchema, Serialize)]
pub(in crate::cli) struct AddedCustomers {
    pub(super) added: u64,
    pub(super) unchanged: u64,
}

impl AddedCustomers {
    pub(super) fn show(self, format: OutputFormat) -> anyhow::Result<()> {
        let Self { added, unchanged } = self;
        if format == OutputFormat::Json {
            return print::json(&self);
        }
        let rest = match unchanged {
            0 => String::new(),
            there => format!("; {} existed and were left as they are", print::count(there)),
        };
        print::out(&format!("{} customer(s) added{rest}", print::count(added)));
        Ok(())
    }
}

pub(super) async fn add(config: &Config, customers: Vec<NewCustomer>) -> anyhow::Result<AddedCustomers> {
    let books = wiring::open_books(config, Open::THERE).await?;
    let count = u64::try_from(customers.len())?;
    let added = books.add_customers(customers).await?;
    Ok(AddedCustomers { added, unchanged: count - added })
}
