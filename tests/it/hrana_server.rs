//! The manners of the server that stands for libSQL's own in the tests (`testkit::hrana`). Each of
//! them is one that a client must survive, so each must be there.

use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use tempfile::TempDir;
use testkit::hrana::HranaServer;

/// A server with one table on a new file.
struct World {
    server: HranaServer,
    http: reqwest::Client,
    _folder: TempDir,
}

/// A stream of the protocol, by hand.
struct Stream<'a> {
    world: &'a World,
    baton: Json,
}

impl World {
    async fn new() -> World {
        // it fails if another test has installed a provider
        drop(rustls::crypto::ring::default_provider().install_default());
        let folder = TempDir::new().unwrap();
        let server = HranaServer::start(&folder.path().join("served.db"));
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        // most tests here hold the write lock on purpose
        server.allow_long_transactions();
        let world = World { server, http, _folder: folder };
        world.stream().ok("CREATE TABLE t (x INTEGER PRIMARY KEY, y TEXT)").await;
        world
    }

    fn stream(&self) -> Stream<'_> {
        Stream { world: self, baton: Json::Null }
    }

    async fn count(&self) -> Json {
        self.stream().ok("SELECT count(*) FROM t").await["rows"][0][0]["value"].clone()
    }
}

impl Stream<'_> {
    /// Sends a body; the status and the text of the answer.
    async fn post(&self, path: &str, body: &Json) -> (u16, String) {
        let url = format!("{}{path}", self.world.server.url());
        let answer = self.world.http.post(url).body(body.to_string()).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// Sends requests in one pipeline; their results.
    async fn pipeline(&mut self, requests: Json) -> Vec<Json> {
        let (status, text) = self.post("/v3/pipeline", &json!({ "baton": self.baton, "requests": requests })).await;
        assert_eq!(status, 200, "{text}");
        let answer: Json = serde_json::from_str(&text).unwrap();
        self.baton = answer["baton"].clone();
        answer["results"].as_array().unwrap().clone()
    }

    async fn execute(&mut self, sql: &str) -> Json {
        self.pipeline(json!([{ "type": "execute", "stmt": { "sql": sql } }])).await.remove(0)
    }

    /// The result of a statement that succeeds.
    async fn ok(&mut self, sql: &str) -> Json {
        let result = self.execute(sql).await;
        assert_eq!(result["type"], "ok", "{sql}: {result}");
        result["response"]["result"].clone()
    }

    /// The code and the text of a statement that fails.
    async fn fails(&mut self, sql: &str) -> String {
        failure(&self.execute(sql).await["error"])
    }
}

fn failure(error: &Json) -> String {
    format!("{}: {}", error["code"].as_str().unwrap(), error["message"].as_str().unwrap())
}

const TIMED_OUT: &str = "TRANSACTION_TIMEOUT: Transaction timed out";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_transaction_is_rolled_back_for_another_writer() {
    let world = World::new().await;
    world.server.transaction_timeout(Duration::from_millis(400));
    let mut old = world.stream();
    old.ok("BEGIN IMMEDIATE").await;
    old.ok("INSERT INTO t VALUES (1, 'old')").await;
    let (mut other, asked) = (world.stream(), Instant::now());
    other.ok("INSERT INTO t VALUES (2, 'other')").await;
    assert!(asked.elapsed() > Duration::from_millis(250), "it waited {:?} only", asked.elapsed());
    let mut reader = world.stream();
    assert_eq!(reader.ok("SELECT y FROM t").await["rows"], json!([[{ "type": "text", "value": "other" }]]));
    // a batch of the robbed one fails as a whole, and the next one begins anew
    let steps = json!([{ "stmt": { "sql": "INSERT INTO t VALUES (3, '')" } }, { "stmt": { "sql": "COMMIT" } }]);
    let results = old.pipeline(json!([{ "type": "batch", "batch": { "steps": steps } }])).await;
    let errors = results[0]["response"]["result"]["step_errors"].as_array().unwrap().clone();
    assert_eq!(errors.iter().map(failure).collect::<Vec<_>>(), [TIMED_OUT, TIMED_OUT]);
    assert_eq!(old.fails("COMMIT").await, "SQLITE_UNKNOWN: SQLite error: cannot commit - no transaction is active");
    old.ok("INSERT INTO t VALUES (3, 'again')").await;
    assert_eq!(world.count().await, "2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_transaction_lives_on_without_another_writer() {
    let world = World::new().await;
    world.server.transaction_timeout(Duration::from_millis(100));
    world.server.fail_transactions_longer_than(Duration::from_millis(200));
    let mut old = world.stream();
    old.ok("BEGIN IMMEDIATE").await;
    old.ok("INSERT INTO t VALUES (1, 'old')").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(world.count().await, "0", "a reader is no writer");
    assert!(world.server.long_transactions()[0].ends_with(" ms: INSERT INTO t VALUES (1, 'old')"));
    old.ok("COMMIT").await;
    world.stream().ok("INSERT INTO t VALUES (2, 'quick')").await;
    assert_eq!((world.count().await, world.server.long_transactions().len()), (json!("2"), 1));
    assert!(world.server.counts().longest_write > Duration::from_millis(300));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[should_panic(expected = "INSERT INTO t VALUES (1, '')")]
async fn a_transaction_that_is_too_long_fails_its_test() {
    let world = World::new().await;
    world.server.fail_transactions_longer_than(Duration::from_millis(100));
    let mut slow = world.stream();
    slow.ok("BEGIN IMMEDIATE").await;
    slow.ok("INSERT INTO t VALUES (1, '')").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    slow.ok("COMMIT").await;
}

/// Round trips that a test orders, and a client that has gone, are no work that takes too long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_is_as_long_as_its_client_makes_it() {
    let world = World::new().await;
    world.server.fail_transactions_longer_than(Duration::from_millis(700));
    world.server.faults().slow(Duration::from_millis(400));
    let mut far = world.stream();
    far.ok("BEGIN IMMEDIATE").await;
    far.ok("INSERT INTO t VALUES (1, '')").await;
    far.ok("COMMIT").await;
    world.server.faults().slow(Duration::ZERO);
    world.server.expire_after(Duration::from_millis(900));
    let mut gone = world.stream();
    gone.ok("BEGIN IMMEDIATE").await;
    gone.ok("INSERT INTO t VALUES (2, '')").await;
    world.stream().ok("INSERT INTO t VALUES (3, '')").await;
    assert_eq!(world.count().await, "2");
    assert!(world.server.counts().longest_write > Duration::from_millis(700));
    assert_eq!(world.server.long_transactions(), Vec::<String>::new());
}

/// The five seconds of sqld, and that writers wait for one another in turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writers_wait_in_turn_and_five_seconds_at_most() {
    let world = World::new().await;
    let mut old = world.stream();
    old.ok("BEGIN").await;
    old.ok("SELECT * FROM t").await;
    old.ok("INSERT INTO t VALUES (1, 'old')").await;
    let asked = Instant::now();
    let writers = (2..8).map(async |i| world.stream().ok(&format!("INSERT INTO t VALUES ({i}, '')")).await);
    futures::future::join_all(writers).await;
    assert!((4..7).contains(&asked.elapsed().as_secs()), "{:?}", asked.elapsed());
    assert_eq!(old.fails("INSERT INTO t VALUES (9, '')").await, TIMED_OUT);
    assert_eq!(world.count().await, "6");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_stream_ends_with_its_transaction() {
    let world = World::new().await;
    world.server.expire_after(Duration::from_millis(100));
    let mut idle = world.stream();
    idle.ok("BEGIN IMMEDIATE").await;
    idle.ok("INSERT INTO t VALUES (1, '')").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (status, text) = idle.post("/v3/pipeline", &json!({ "baton": idle.baton, "requests": [] })).await;
    let why = r#"{"message":"The stream has expired due to inactivity","code":"STREAM_EXPIRED"}"#;
    assert_eq!((status, text.as_str()), (400, why));
    world.stream().ok("INSERT INTO t VALUES (2, '')").await;
    assert_eq!(world.count().await, "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cursor_that_is_not_read_to_its_end_interrupts_the_next_statement() {
    let world = World::new().await;
    world.server.hold_cursor_ends(Duration::from_millis(300));
    let body = json!({ "batch": { "steps": [{ "stmt": { "sql": "SELECT 1" } }] } });
    let (_, text) = world.stream().post("/v3/cursor", &body).await;
    let lines: Vec<Json> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<_> = lines[1..].iter().map(|line| line["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["step_begin", "row", "step_end", "replication_index"]);
    Stream { world: &world, baton: lines[0]["baton"].clone() }.ok("SELECT 2").await;
    // and now only the first part
    let url = format!("{}/v3/cursor", world.server.url());
    let mut answer = world.http.post(url).body(body.to_string()).send().await.unwrap();
    let head = answer.chunk().await.unwrap().unwrap();
    drop(answer);
    let head: Json = serde_json::from_slice(head.split(|byte| *byte == b'\n').next().unwrap()).unwrap();
    let mut stream = Stream { world: &world, baton: head["baton"].clone() };
    assert_eq!(stream.fails("SELECT 2").await, "SQLITE_INTERRUPT: SQLite error: interrupted");
    stream.ok("SELECT 2").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_answer_is_refused() {
    let world = World::new().await;
    let large = |rows: u32| {
        format!("SELECT printf('%01000000d', value) FROM json_each('{:?}')", vec![0; rows.try_into().unwrap()])
    };
    world.stream().ok(&large(9)).await;
    assert_eq!(world.stream().fails(&large(10)).await, "RESPONSE_TOO_LARGE: Response is too large");
    let steps = json!([{ "stmt": { "sql": large(6) } }, { "stmt": { "sql": large(6) } }]);
    let results = world.stream().pipeline(json!([{ "type": "batch", "batch": { "steps": steps } }])).await;
    assert_eq!(failure(&results[0]["error"]), "RESPONSE_TOO_LARGE: Response is too large");
    world.server.max_response_bytes(10_000_000, 2_000_000);
    assert_eq!(world.stream().fails(&large(3)).await, "RESPONSE_TOO_LARGE: Response is too large");
    world.stream().ok(&large(1)).await;
    // one value has a limit of its own, and a request has none
    let text = "x".repeat(6_000_000);
    let stmt = |args: Json| json!([{ "type": "execute", "stmt": { "sql": "SELECT length(?)", "args": args } }]);
    let result = world.stream().pipeline(stmt(json!([{ "type": "text", "value": text }]))).await.remove(0);
    let why = "ARGS_INVALID: Arguments do not match SQL parameters: string or blob too big";
    assert_eq!(failure(&result["error"]), why);
    let many: Vec<_> = (0..4)
        .map(|_| json!({ "sql": "SELECT length(?)", "args": [{ "type": "text", "value": &text[..4_000_000] }] }))
        .collect();
    let steps: Vec<_> = many.iter().map(|stmt| json!({ "stmt": stmt })).collect();
    let results = world.stream().pipeline(json!([{ "type": "batch", "batch": { "steps": steps } }])).await;
    assert_eq!(results[0]["response"]["result"]["step_errors"], json!([null, null, null, null]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_blocked_is_refused_until_it_is_not() {
    let world = World::new().await;
    let (write, read) = ("INSERT INTO t VALUES (1, '')", "SELECT count(*) FROM t");
    world.server.block_writes(Some("your plan is used up"));
    assert_eq!(world.stream().fails(write).await, "BLOCKED: Operation was blocked: your plan is used up");
    let mut stream = world.stream();
    stream.ok("BEGIN").await;
    stream.ok(read).await;
    world.server.block_all(None);
    assert_eq!(stream.fails(read).await, "BLOCKED: Operation was blocked");
    assert_eq!(world.stream().fails("BEGIN").await, "BLOCKED: Operation was blocked");
    stream.ok("COMMIT").await;
    world.server.unblock();
    world.stream().ok(write).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_counts_what_a_paid_server_counts() {
    let world = World::new().await;
    world.stream().ok("CREATE INDEX t_by_y ON t (y)").await;
    world.server.reset_counts();
    let mut stream = world.stream();
    let inserted = stream.ok("INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')").await;
    assert_eq!(inserted["rows_written"], 6, "three rows, and an index entry of each");
    assert_eq!(inserted["affected_row_count"], 3);
    let read = stream.ok("SELECT x FROM t WHERE y >= 'b'").await;
    assert_eq!((&read["rows_written"], read["rows"].as_array().unwrap().len()), (&json!(0), 2));
    assert!(read["rows_read"].as_u64().unwrap() >= 2 && read["query_duration_ms"].as_f64().unwrap() > 0.0);
    let counts = world.server.counts();
    assert_eq!((counts.requests, counts.statements, counts.rows_written), (2, 2, 6));
    assert_eq!(counts.rows_read, inserted["rows_read"].as_u64().unwrap() + read["rows_read"].as_u64().unwrap());
    assert_eq!(counts.connections, 0, "the client keeps its connection");
    assert!(counts.bytes_up > 200 && counts.bytes_down > 200 && counts.bytes_down < 5_000, "{counts:?}");
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    http.get(format!("{}/v2", world.server.url())).send().await.unwrap();
    assert_eq!((world.server.counts().connections, world.server.counts().requests), (1, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_round_trip_takes_as_long_as_ordered() {
    let world = World::new().await;
    let each = Duration::from_millis(60);
    world.server.faults().slow(each);
    let mut stream = world.stream();
    let start = Instant::now();
    stream.ok("SELECT 1").await;
    stream.pipeline(json!([{ "type": "execute", "stmt": { "sql": "SELECT 1" } }, { "type": "close" }])).await;
    let kept = start.elapsed();
    assert!(kept >= each * 2, "{kept:?}");
    let other = World { http: reqwest::Client::builder().no_proxy().build().unwrap(), ..world };
    let start = Instant::now();
    other.stream().ok("SELECT 1").await;
    assert!(start.elapsed() >= each * 2, "a new TCP connection costs a round trip: {:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_follows_its_conditions() {
    let world = World::new().await;
    let ok = |step: u32| json!({ "type": "ok", "step": step });
    let failed = |step: u32| json!({ "type": "error", "step": step });
    let not = |cond: Json| json!({ "type": "not", "cond": cond });
    let autocommit = json!({ "type": "is_autocommit" });
    let step = |condition: Json, sql: &str| json!({ "condition": condition, "stmt": { "sql": sql } });
    let steps = json!([
        step(Json::Null, "BEGIN IMMEDIATE"),
        step(ok(0), "INSERT INTO t VALUES (1, 'a')"),
        step(ok(1), "INSERT INTO t VALUES (1, 'twice')"),
        step(ok(2), "SELECT 'never'"),
        step(failed(3), "SELECT 'a skipped step counts as failed'"),
        step(json!({ "type": "and", "conds": [ok(1), ok(2)] }), "SELECT 'never'"),
        step(json!({ "type": "or", "conds": [ok(2), failed(2)] }), "SELECT 'one of them'"),
        step(autocommit.clone(), "SELECT 'never'"),
        step(not(autocommit.clone()), "COMMIT"),
        step(autocommit, "SELECT 'now'"),
    ]);
    let mut stream = world.stream();
    let results = stream
        .pipeline(json!([
            { "type": "execute", "stmt": { "sql": "SELECT 1" } },
            { "type": "batch", "batch": { "steps": steps } },
            { "type": "get_autocommit" },
            { "type": "close" },
        ]))
        .await;
    let batch = &results[1]["response"]["result"];
    let done: Vec<bool> = batch["step_results"].as_array().unwrap().iter().map(Json::is_object).collect();
    assert_eq!(done, [true, true, false, false, true, false, true, false, true, true]);
    let errors: Vec<_> =
        batch["step_errors"].as_array().unwrap().iter().filter(|e| e.is_object()).map(failure).collect();
    assert_eq!(errors, ["SQLITE_CONSTRAINT: SQLite error: UNIQUE constraint failed: t.x"]);
    assert_eq!(results[2]["response"]["is_autocommit"], true);
    assert_eq!((stream.baton, world.count().await), (Json::Null, json!("1")));
    // a condition may only name an earlier step
    let steps = json!([step(ok(0), "SELECT 1")]);
    let body = json!({ "requests": [{ "type": "batch", "batch": { "steps": steps } }] });
    let (status, text) = world.stream().post("/v3/pipeline", &body).await;
    assert_eq!((status, text.as_str()), (400, "Invalid reference to step in a batch condition"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sequences_stored_texts_and_descriptions_are_understood() {
    let world = World::new().await;
    let mut stream = world.stream();
    let sequence = "INSERT INTO t VALUES (1, ';'); CREATE TRIGGER g AFTER INSERT ON t BEGIN SELECT 1; SELECT 2; END; \
        INSERT INTO t VALUES (1, 'twice'); INSERT INTO t VALUES (2, 'never');";
    let results = stream
        .pipeline(json!([
            { "type": "sequence", "sql": sequence },
            { "type": "store_sql", "sql_id": 7, "sql": "SELECT :name AS a, x FROM t" },
            { "type": "describe", "sql_id": 7 },
            { "type": "execute", "stmt": { "sql_id": 7, "named_args": [{ "name": "name", "value": { "type": "null" } }] } },
            { "type": "close_sql", "sql_id": 7 },
        ]))
        .await;
    assert_eq!(failure(&results[0]["error"]), "SQLITE_CONSTRAINT: SQLite error: UNIQUE constraint failed: t.x");
    let described = &results[2]["response"]["result"];
    assert_eq!(described["params"], json!([{ "name": ":name" }]));
    assert_eq!(described["cols"], json!([{ "name": "a", "decltype": null }, { "name": "x", "decltype": "INTEGER" }]));
    assert_eq!((&described["is_readonly"], &described["is_explain"]), (&json!(true), &json!(false)));
    assert_eq!(
        results[3]["response"]["result"]["rows"],
        json!([[{ "type": "null" }, { "type": "integer", "value": "1" }]])
    );
    let body = json!({ "baton": stream.baton, "requests": [{ "type": "describe", "sql_id": 7 }] });
    let (status, text) = stream.post("/v3/pipeline", &body).await;
    assert_eq!((status, text.as_str()), (400, "SQL text 7 not found"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_statement_gets_the_text_of_the_real_server() {
    let world = World::new().await;
    for (sql, why) in [
        ("SELEC 1", "SQL_PARSE_ERROR: SQL string could not be parsed: syntax error around L1:6: `SELEC`"),
        ("SELECT 1; SELECT 2", "SQL_MANY_STATEMENTS: SQL string contains more than one statement"),
        ("-- nothing", "SQL_NO_STATEMENT: SQL string does not contain any statement"),
        (
            "PRAGMA wal_checkpoint",
            "SQL_PARSE_ERROR: SQL string could not be parsed: unsupported statement: PRAGMA wal_checkpoint",
        ),
        ("SELECT * FROM nowhere", "SQLITE_UNKNOWN: SQLite error: no such table: nowhere"),
        ("SELECT absent FROM t", "SQL_INPUT_ERROR: SQL input error: no such column: absent (at offset 7)"),
        ("SELECT ?", "ARGS_INVALID: Arguments do not match SQL parameters: value for parameter 1 not found"),
    ] {
        assert_eq!(world.stream().fails(sql).await, why);
    }
}
