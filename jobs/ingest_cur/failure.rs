//! Which errors of a bill are worth another try, and which need a person first.

use super::export::ExportError;
use crate::data_files::read_error::ReadError;
use crate::job::Failure;
use crate::source::SourceError;

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        Self::from(ExportError::Source(error))
    }
}

impl From<ExportError> for Failure {
    fn from(error: ExportError) -> Self {
        match &error {
            ExportError::Source(e) if e.is_retryable() => Self::Retry(error.into()),
            // AWS may be writing the manifest just now
            ExportError::Unreadable(..) | ExportError::NoFiles(_) => Self::Retry(error.into()),
            _ => Self::GiveUp(error.into()),
        }
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Source(e) => e.into(),
            broken => Self::GiveUp(broken.into()),
        }
    }
}
