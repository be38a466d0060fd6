//! Books to begin with: the migrations run once in a process, and each test copies the file.

use std::path::Path;

use books::Database;
use jiff::Timestamp;
use tempfile::TempDir;
use tokio::sync::OnceCell;

/// Writes empty books of the newest schema to `file`, which must not be there.
pub async fn write(file: &Path) {
    static BYTES: OnceCell<Vec<u8>> = OnceCell::const_new();
    let bytes = BYTES.get_or_init(async || {
        let folder = TempDir::new().unwrap();
        let template = folder.path().join("meter.db");
        let books = Database::open_local(&template).await.unwrap();
        // with a checkpoint at its end
        books.migrate(Timestamp::UNIX_EPOCH).await.unwrap();
        drop(books);
        std::fs::read(template).unwrap()
    });
    std::fs::write(file, bytes.await).unwrap();
}
