//! Kind and payload of a job, from the arguments of `meter run` and `meter enqueue`.

use clap::Args;
use serde_json::{Map, Value};

use crate::exit::BadUsage;
use crate::worker::{Kind, Kinds, ValidatedPayload};
use books::units::similar::{offer, similar};

#[derive(Debug, Args)]
pub(super) struct JobArgs {
    /// Kind of the job: ingest_cur, check_months, ingest_inventory, ingest_access_logs,
    /// roll_periods, enforce_budgets, deliver_notifications, sync_stripe, push_stripe,
    /// reconcile_stripe, roll_counters, fold_measurements, forecast_usage,
    /// verify_books, operator_digest, probe
    pub(super) kind: String,
    /// Its payload, field by field: export=main month=2026-03
    #[arg(value_name = "FIELD=VALUE")]
    pub(super) fields: Vec<String>,
    /// Its payload as JSON
    #[arg(long, value_name = "JSON", conflicts_with = "fields")]
    pub(super) payload: Option<String>,
}

/// The kind with this name.
pub(super) fn kind(kinds: &Kinds, name: &str) -> anyhow::Result<Kind> {
    let list = || {
        let line = |k: &Kind| format!("\n  {:<22} {}", k.name, k.about);
        kinds.iter().map(line).collect::<String>()
    };
    // kinds are commands, too, and commands have dashes
    match kinds.get(&name.replace('-', "_")) {
        Some(kind) => Ok(kind.clone()),
        None => {
            let names: Vec<&str> = kinds.iter().map(|kind| kind.name).collect();
            let known = match similar(name, names.clone()).as_slice() {
                [] => format!("there are:{}", list()),
                _ => offer(name, names),
            };
            Err(BadUsage(format!("there is no kind of job named `{name}`; {known}")).into())
        }
    }
}

/// The payload of the arguments, as the kind itself would write it.
pub(super) fn read(kind: &Kind, what: &JobArgs) -> anyhow::Result<ValidatedPayload> {
    let bad = |why: String| BadUsage(format!("{}: {why}", kind.name));
    if let Some(json) = &what.payload {
        return Ok(kind.check(json).map_err(bad)?);
    }
    let mut fields: Vec<(&str, Value, Value)> = vec![];
    for field in &what.fields {
        let (name, text) = field.split_once('=').ok_or_else(|| bad(format!("`{field}` is not FIELD=VALUE")))?;
        if fields.iter().any(|(known, ..)| *known == name) {
            return Err(bad(format!("`{name}` is given twice")).into());
        }
        let text_value = Value::String(text.to_owned());
        let value = serde_json::from_str(text).unwrap_or_else(|_| text_value.clone());
        fields.push((name, value, text_value));
    }
    // `name=7` may mean the number or the text; the type decides, field by field
    let open: Vec<usize> = (0..fields.len()).filter(|i| fields[*i].1 != fields[*i].2).collect();
    let mut first = None;
    for choice in 0_u32..1 << open.len().min(8) {
        let as_text = |i: usize| open.iter().position(|o| *o == i).is_some_and(|bit| choice >> bit & 1 == 1);
        let values = fields.iter().enumerate();
        let payload: Map<String, Value> = values
            .map(|(i, (name, value, text))| ((*name).to_owned(), if as_text(i) { text.clone() } else { value.clone() }))
            .collect();
        match kind.check(&Value::Object(payload).to_string()) {
            Ok(checked) => return Ok(checked),
            Err(why) => first = first.or(Some(why)),
        }
    }
    Err(bad(first.unwrap_or_default()).into())
}
