-- Messages to the operator: findings as they begin and end, and the weekly digest. They are sent by
-- what sends notifications to the web backend, but are in a table of their own: they have no
-- customer, no meter and no period, of which the key of `notifications` is made.

-- Messages to the operator (outbox). The transaction that writes into `findings` inserts those
-- about a finding, `operator_digest` those of a week. `id` says what the message is about, so a
-- message is made once. `deliver_notifications` sends `body` unchanged, under `id`, until the
-- receiver answers with 2xx or a day has passed. Instants are seconds.
CREATE TABLE operator_messages (
    seq          INTEGER PRIMARY KEY AUTOINCREMENT,
    id           TEXT    NOT NULL UNIQUE CHECK (id <> ''),   -- webhook-id
    receiver     TEXT    NOT NULL CHECK (receiver IN ('slack', 'webhook')),
    kind         TEXT    NOT NULL CHECK (kind IN ('finding_began', 'finding_ended', 'digest')),
    body         TEXT    NOT NULL CHECK (json_valid(body)),
    state        TEXT    NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'dead', 'known')),
    attempts     INTEGER NOT NULL DEFAULT 0,
    created_at   INTEGER NOT NULL,
    give_up_at   INTEGER NOT NULL,
    next_at      INTEGER CHECK ((state = 'pending') = (next_at IS NOT NULL)),
    delivered_at INTEGER CHECK ((state = 'delivered') = (delivered_at IS NOT NULL)),
    error        TEXT    CHECK (state NOT IN ('dead', 'known') OR error IS NOT NULL)
) STRICT;

CREATE INDEX operator_messages_due ON operator_messages (next_at) WHERE state = 'pending';
CREATE INDEX operator_messages_dead ON operator_messages (seq) WHERE state = 'dead';

-- Findings (`meter status`) as workers saw them, while messages about them are configured. A
-- finding is one alert about one thing: a kind of job, a payer, a bucket. It begins when it was
-- there for two minutes, and ends when it was gone for ten, so that one that flickers makes no
-- messages. One row of each that is not over, whoever sees it. Instants are seconds.
CREATE TABLE findings (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    alert      TEXT    NOT NULL CHECK (alert <> ''),
    subject    TEXT    NOT NULL,                       -- '' = there is only one
    severity   TEXT    NOT NULL CHECK (severity IN ('critical', 'warning')),
    what       TEXT    NOT NULL,
    act        TEXT    NOT NULL,
    seen_at    INTEGER NOT NULL,                       -- first
    began_at   INTEGER,                                -- null = not yet there for two minutes
    gone_at    INTEGER,                                -- null = it is there
    ended_at   INTEGER CHECK (ended_at IS NULL OR began_at IS NOT NULL)
) STRICT;

CREATE UNIQUE INDEX findings_open ON findings (alert, subject) WHERE ended_at IS NULL;
