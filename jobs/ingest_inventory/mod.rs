//! `ingest_inventory`: S3 Inventories of a shared bucket → byte-seconds of days by customer.
