//! Where a delivery's files go, and the month they are about.

use anyhow::Result;
use jiff::{ToSpan, civil};

use crate::random::uuid_of;
use crate::{FileKind, Layout, Spec};

/// A billing period.
pub(crate) struct Month {
    first: civil::Date,
    next: civil::Date,
    /// Milliseconds since 1970.
    pub(crate) start_ms: i64,
    pub(crate) hours: u16,
    /// Days with usage so far.
    pub(crate) days_to_date: u8,
}

impl Month {
    pub(crate) fn of(spec: &Spec) -> Result<Self> {
        let first = civil::Date::new(spec.year, i8::try_from(spec.month)?, 1)?;
        let days = u8::try_from(first.days_in_month())?;
        Ok(Self {
            first,
            next: first.checked_add(1.month())?,
            start_ms: first.to_zoned(jiff::tz::TimeZone::UTC)?.timestamp().as_millisecond(),
            hours: u16::from(days) * 24,
            days_to_date: spec.days.clamp(1, days),
        })
    }

    /// Date and hour, `2026-10-01T05`, so many hours after the month began.
    pub(crate) fn hour_text(&self, hours: u16) -> String {
        let date = if hours < self.hours { self.first } else { self.next };
        let day = if hours < self.hours { 1 + hours / 24 } else { 1 };
        format!("{}-{day:02}T{:02}", date.strftime("%Y-%m"), hours % 24)
    }

    /// `20261001-20261101`.
    pub(crate) fn folder(&self) -> String {
        format!("{}-{}", self.first.strftime("%Y%m%d"), self.next.strftime("%Y%m%d"))
    }

    /// Start and end as a legacy manifest spells them.
    pub(crate) fn bounds(&self) -> (String, String) {
        let text = |date: civil::Date| date.strftime("%Y%m%dT000000.000Z").to_string();
        (text(self.first), text(self.next))
    }
}

/// The keys of one delivery.
pub(crate) struct Places {
    pub(crate) version: String,
    pub(crate) root: String,
    pub(crate) data: Vec<String>,
    pub(crate) manifests: Vec<String>,
}

impl Places {
    pub(crate) fn new(spec: &Spec, month: &Month) -> Result<Self> {
        let version = version(spec);
        let root = match spec.prefix.trim_matches('/') {
            "" => spec.report.clone(),
            prefix => format!("{prefix}/{}", spec.report),
        };
        let (data, manifests) = match spec.layout {
            Layout::Legacy => legacy(spec, month, &root, &version),
            Layout::Cur2 => cur2(spec, month, &root, &version)?,
        };
        let number = |at: u32| match (spec.layout, spec.kind) {
            (Layout::Legacy, FileKind::Csv | FileKind::CsvGz) => at.to_string(),
            _ => format!("{at:05}"),
        };
        let ending = match spec.kind {
            FileKind::Parquet => "snappy.parquet",
            FileKind::Csv => "csv",
            FileKind::CsvGz => "csv.gz",
        };
        let data = (1..=spec.files).map(|at| format!("{data}/{}-{}.{ending}", spec.report, number(at))).collect();
        let manifests = manifests.iter().map(|folder| format!("{folder}/{}-Manifest.json", spec.report)).collect();
        Ok(Self { version, root, data, manifests })
    }
}

/// The folders of data and manifests.
fn legacy(spec: &Spec, month: &Month, root: &str, version: &str) -> (String, Vec<String>) {
    let period = format!("{root}/{}", month.folder());
    if spec.create_new {
        let own = format!("{period}/{version}");
        return (own.clone(), vec![own, period]);
    }
    let data = match spec.kind {
        // Made for Athena, the only way to overwrite Parquet; the month is not padded.
        FileKind::Parquet => format!("{root}/{}/year={}/month={}", spec.report, spec.year, spec.month),
        FileKind::Csv | FileKind::CsvGz => period.clone(),
    };
    (data, vec![period])
}

/// The folders of data and manifests.
fn cur2(spec: &Spec, month: &Month, root: &str, version: &str) -> Result<(String, Vec<String>)> {
    let period = format!("BILLING_PERIOD={}", month.first.strftime("%Y-%m"));
    let (data, metadata) = (format!("{root}/data/{period}"), format!("{root}/metadata/{period}"));
    if !spec.create_new {
        return Ok((data, vec![metadata]));
    }
    let own = format!("{}-{version}", delivered(spec, month)?);
    Ok((format!("{data}/{own}"), vec![format!("{metadata}/{own}"), metadata]))
}

/// When the delivery was made: as soon as the last day with usage is over, or `late_days` after it,
/// each restatement a minute later. So a bill of today is not one of tomorrow.
fn delivered(spec: &Spec, month: &Month) -> Result<String> {
    let time = month
        .first
        .at(0, 0, 42, 0)
        .checked_add((i32::from(month.days_to_date) + i32::from(spec.late_days)).days())?
        .checked_add(i64::from(spec.restated).minutes())?;
    Ok(time.strftime("%Y-%m-%dT%H:%M:%S.000Z").to_string())
}

/// The id of this version of the bill: another one whenever anything about it differs.
fn version(spec: &Spec) -> String {
    uuid_of(&format!("version {spec:?}"))
}
