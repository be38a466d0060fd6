//! Small handmade S3 Inventories of one bucket, written by the fake of AWS.

pub use fake_aws::inventories::{FORMS, Form, NewInventory, StoredObject, gzip, object, write_manifest};

/// The bucket that is listed.
pub const BUCKET: &str = "acme-files";

/// An Inventory of it in one file, of current versions only.
pub fn inventory(form: Form, began: &str, objects: &[StoredObject]) -> NewInventory {
    NewInventory::new(BUCKET, form, began, objects)
}
