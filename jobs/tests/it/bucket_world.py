"""What S3's reports about a bucket say, in SQL written from AWS's pages and not from this code.

Prints `day|measure|class|customer|amount` for each cell that is not 0.
"""

import glob
import json
import os
import sys

import duckdb

bucket, inventory, logs = sys.argv[1:]
db = duckdb.connect()

# An Inventory is what its manifest names: data files, and their columns where a CSV has no header.
db.execute("""
  CREATE TABLE sightings (began TIMESTAMP, key VARCHAR, etag VARCHAR, size HUGEINT,
                          created TIMESTAMP, class VARCHAR, expires TIMESTAMP)""")
for path in glob.glob(inventory + "/*/manifest.json"):
    with open(path) as file:
        manifest = json.load(file)
    assert manifest["sourceBucket"] == bucket
    began = int(manifest["creationTimestamp"])
    files = [inventory + "/data/" + file["key"].rsplit("/", 1)[1] for file in manifest["files"]]
    if manifest["fileFormat"] == "CSV":
        names = [name.strip() for name in manifest["fileSchema"].split(",")]
        columns = {name: "VARCHAR" for name in names}
        # keys are URL-encoded in CSV; no column tells the end of an object here
        db.execute("""
          INSERT INTO sightings SELECT epoch_ms(?::BIGINT), url_decode(replace(Key, '+', '%20')), ETag,
            Size::HUGEINT, LastModifiedDate::TIMESTAMP, StorageClass, NULL
          FROM read_csv(?, header = false, columns = ?, quote = '"', delim = ',')""", [began, files, columns])
    else:
        db.execute("""
          INSERT INTO sightings SELECT epoch_ms(?::BIGINT), key, e_tag, size::HUGEINT, last_modified_date,
            storage_class, lifecycle_expiration_date
          FROM read_parquet(?)""", [began, files])

# "Amazon S3 calculates the time by adding the number of days specified in the rule to the object
# creation time and rounding the resulting time to the next day midnight UTC": billing ends then.
db.execute("""
  CREATE VIEW lives AS SELECT *, coalesce(expires,
    CASE WHEN date_trunc('day', created) = created THEN created + INTERVAL 1 DAY
         ELSE date_trunc('day', created) + INTERVAL 2 DAY END) AS ended FROM sightings""")

# A day is shown by the Inventories that began on it or within the two days after it, once there is
# one that began after it. An object is a key with what was put there at a time.
cells = db.execute(r"""
  WITH days AS (SELECT unnest(generate_series((SELECT min(date_trunc('day', created)) FROM lives),
                  (SELECT max(date_trunc('day', began)) - INTERVAL 1 DAY FROM lives), INTERVAL 1 DAY)) AS day),
  objects AS (SELECT DISTINCT day, key, etag, size, created, class, ended FROM days JOIN lives
                ON began >= day AND began < day + INTERVAL 3 DAY)
  SELECT strftime(day, '%Y-%m-%d'), 'byte_seconds', class, regexp_extract(key, '^c/([^/]+)/', 1) AS customer,
    sum(size * date_diff('second', greatest(created, day), least(ended, day + INTERVAL 1 DAY)))::VARCHAR
  FROM objects WHERE created < day + INTERVAL 1 DAY AND ended > day GROUP BY ALL""").fetchall()

# The fields of a line, in AWS's order. What is not an object's download sends nothing that counts.
db.execute(r"""
  CREATE TABLE requests AS WITH lines AS (
    SELECT regexp_extract(line, '^(\S+) (\S+) \[([^\]]+)\] (\S+) (\S+) (\S+) (\S+) (\S+) "([^"]*)" (\S+) (\S+) (\S+) ',
      ['owner', 'bucket', 'time', 'ip', 'requester', 'id', 'operation', 'key', 'uri', 'status', 'error', 'sent']) AS f
    FROM read_csv(?, header = false, columns = {'line': 'VARCHAR'}, delim = chr(1), quote = '', escape = ''))
  SELECT DISTINCT f.id, f.operation AS operation, strptime(f.time, '%d/%b/%Y:%H:%M:%S %z')::TIMESTAMP AS time,
    f.requester AS requester, try_cast(f.status AS INTEGER) AS status, try_cast(f.sent AS HUGEINT) AS sent,
    regexp_extract(CASE WHEN f.operation LIKE 'S3.%' THEN url_decode(f.key) ELSE url_decode(url_decode(f.key)) END,
      '^c/([^/]+)/', 1) AS by_key,
    url_decode(regexp_extract(f.uri, '[?&]x-cc=([^& ]*)', 1)) AS by_parameter, f.bucket AS bucket
  FROM lines""", [[path for path in glob.glob(logs + "/**", recursive=True) if os.path.isfile(path)]])
assert db.execute("SELECT count(*) FROM requests WHERE bucket <> ?", [bucket]).fetchall() == [(0,)]

# Tier 1 are PUT, COPY, POST and LIST. DELETE, what the lifecycle does, errors of the server, and
# refusals of callers without credentials are free. All other requests are tier 2.
cells += db.execute(r"""
  WITH owned AS (SELECT *, strftime(time, '%Y-%m-%d') AS day,
      CASE WHEN by_parameter = '' OR by_parameter = by_key THEN by_key WHEN by_key = '' THEN by_parameter ELSE '' END
        AS customer,
      operation LIKE 'S3.%' OR operation LIKE '%.DELETE.%' OR coalesce(status >= 500, false)
        OR coalesce(status = 403 AND requester = '-', false) AS free,
      operation LIKE 'REST.PUT.%' OR operation LIKE 'REST.POST.%' OR operation LIKE 'REST.COPY.%'
        OR operation = 'REST.GET.BUCKET' AS first FROM requests),
  measures AS (
    SELECT day, 'bytes_sent' AS measure, customer,
      CASE WHEN operation = 'REST.GET.OBJECT' AND status IN (200, 206) THEN coalesce(sent, 0) ELSE 0 END AS amount FROM owned
    UNION ALL SELECT day, 'requests_1', customer, 1 FROM owned WHERE first AND NOT free
    UNION ALL SELECT day, 'requests_2', customer, 1 FROM owned WHERE NOT first AND NOT free)
  SELECT day, measure, '', customer, sum(amount)::VARCHAR FROM measures GROUP BY ALL HAVING sum(amount) > 0""").fetchall()

for cell in cells:
    print("|".join(cell))
