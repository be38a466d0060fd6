//! The report of a look at months that are over.

use jobs::ingest_cur::CheckMonthsReport;

use super::out;
use crate::format::several;

/// Prints what was found, and the command for each month that a person should read.
pub(crate) fn show(report: &CheckMonthsReport) {
    let CheckMonthsReport { looked_at, as_booked, to_be_read, known, without_manifest, unreadable } = report;
    out(&format!("{} that no reading goes back to: {as_booked} as booked", several(*looked_at, "month")));
    for month in to_be_read {
        let command = month.rsplit_once(' ').map_or(String::new(), |(export, month)| {
            format!(": `meter ingest --export {export} --month {month} --dry-run` shows the change")
        });
        out(&format!("attention: AWS has another version of {month} than the books{command}"));
    }
    for month in unreadable {
        out(&format!("attention: the manifest cannot be used: {month}"));
    }
    for month in known {
        out(&format!("{month}: AWS has a newer version, which the next reading finds, or which is on hold"));
    }
    for month in without_manifest {
        out(&format!("{month}: there is no manifest in the bucket"));
    }
}
