//! The Parquet crate panics on some damaged footers. A damaged file is an error of the file and no
//! crash of a worker.

use std::panic::{AssertUnwindSafe, catch_unwind};

use parquet::errors::{ParquetError, Result};

/// Runs code of the Parquet crate; a panic becomes an error.
pub(crate) fn guarded<T>(f: impl FnOnce() -> Result<T>) -> Result<T> {
    let gave_up = |_| Err(ParquetError::General("the decoder gave up on it; it is damaged".into()));
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(gave_up)
}
