//! Why a data file cannot be read: what is wrong, and where.

use parquet::errors::ParquetError;

use crate::source::SourceError;

/// Why a data file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("{file}{place}: {why}")]
    Broken {
        file: String,
        /// Row group and column, as far as they are known; begins with a comma.
        place: String,
        why: String,
    },
}

impl ReadError {
    /// An error of the Parquet crate, or of the source that it reads through.
    pub(crate) fn of_parquet(file: &str, place: &str, error: ParquetError) -> Self {
        let broken = |why: String| Self::Broken { file: file.to_owned(), place: place.to_owned(), why };
        match error {
            ParquetError::External(inner) => match inner.downcast::<SourceError>() {
                Ok(source) => Self::Source(*source),
                Err(other) => broken(other.to_string()),
            },
            ParquetError::General(why) => broken(why),
            other => broken(other.to_string()),
        }
    }
}
