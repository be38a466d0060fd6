//! Reading data files of AWS in bounded memory, whatever they contain: column chunks of Parquet,
//! and CSV line by line.
//!
//! Owns: footers and pages that are looked at before the Parquet crate believes them (`thrift`,
//! `shape`, `footer`, `page_header`), the memory that decoding takes (`memory`), few requests for
//! what is needed of an object (`object_reader`, `streamed`), a file's needed columns
//! (`column_file`), what all readers of a run may take together (`budget`), the lines of CSV
//! (`csv_lines`).
//!
//! Does not own: which columns a job needs, and what their values mean.

pub(crate) mod budget;
pub(crate) mod column_file;
pub(crate) mod csv_lines;
mod decoder_guard;
mod footer;
pub(crate) mod memory;
pub(crate) mod object_reader;
mod page_header;
pub mod read_error;
mod shape;
pub(crate) mod streamed;
mod thrift;
