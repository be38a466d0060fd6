-- What a person should know of a booked version, though it is booked: no line has the customer tag,
-- a meter counts nothing. `meter status`, the pages and the metrics say it until a newer version is
-- booked, without reading the bill again. A JSON list of {kind, text}, written by `ingest_cur`.
ALTER TABLE bill_versions ADD COLUMN notes TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(notes));
