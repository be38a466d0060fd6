//! The requests of a stream, answered as sqld answers them (hrana/http/request.rs there).

use std::collections::HashMap;
use std::sync::Arc;

use libsql_hrana::proto::{
    Batch, BatchCond, BatchResult, BatchStreamResp, CloseSqlStreamResp, CloseStreamResp, CursorEntry,
    DescribeStreamResp, Error, ExecuteStreamResp, GetAutocommitStreamResp, SequenceStreamResp, StepBeginEntry,
    StepEndEntry, StepErrorEntry, Stmt, StoreSqlStreamResp, StreamRequest, StreamResponse, StreamResult,
};

use super::connection::{Condition, Connection, Query, Size, Step};
use super::statement::{error, parse, parse_one};

const MAX_STORED: usize = 50;
const MAX_STORED_BYTES: usize = 5_000;

/// What a stream keeps between two requests.
pub(super) struct Stream {
    pub(super) connection: Arc<Connection>,
    texts: HashMap<i32, String>,
}

/// Why a request has no result.
pub(super) enum Refusal {
    /// The client broke the protocol; the stream is lost.
    Protocol(String),
    Failed(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

fn too_large() -> Error {
    error("RESPONSE_TOO_LARGE", "Response is too large")
}

impl Stream {
    pub(super) fn new(connection: Arc<Connection>) -> Self {
        Self { connection, texts: HashMap::new() }
    }

    fn text(&self, sql: Option<String>, id: Option<i32>) -> Result<String, Refusal> {
        let refused = |why: String| Refusal::Protocol(why);
        match (sql, id) {
            (Some(sql), None) => Ok(sql),
            (None, Some(id)) => self.texts.get(&id).cloned().ok_or_else(|| refused(format!("SQL text {id} not found"))),
            (Some(_), Some(_)) => Err(refused("Either `sql` or `sql_id` are required, but not both".into())),
            (None, None) => Err(refused("Either `sql` or `sql_id` are required".into())),
        }
    }

    fn query(&self, stmt: Stmt) -> Result<Query, Refusal> {
        let statement = parse_one(&self.text(stmt.sql, stmt.sql_id)?)?;
        let named: Vec<_> = stmt.named_args.into_iter().map(|arg| (arg.name, arg.value)).collect();
        if !stmt.args.is_empty() && !named.is_empty() {
            let why = "Specifying both positional and named arguments is not supported";
            return Err(error("ARGS_BOTH_POSITIONAL_AND_NAMED", why).into());
        }
        Ok(Query { statement, positional: stmt.args, named })
    }

    fn steps(&self, batch: Batch) -> Result<Vec<Step>, Refusal> {
        let step = |(at, step): (usize, libsql_hrana::proto::BatchStep)| {
            let condition = step.condition.map(|condition| checked(condition, at)).transpose()?;
            Ok(Step { condition, query: self.query(step.stmt)? })
        };
        batch.steps.into_iter().enumerate().map(step).collect()
    }

    fn store(&mut self, id: i32, sql: String) -> Result<(), Refusal> {
        if self.texts.contains_key(&id) {
            return Err(Refusal::Protocol(format!("SQL text {id} already exists")));
        }
        let (count, bytes) = (self.texts.len(), sql.len());
        if count >= MAX_STORED {
            let why = format!("The server already stores {count} SQL texts, it cannot store more");
            return Err(error("SQL_STORE_TOO_MANY", why).into());
        }
        if bytes > MAX_STORED_BYTES {
            let why = format!("The statement is too large to be stored: {bytes} B/5.0 KB");
            return Err(error("SQL_STORE_TOO_LARGE", why).into());
        }
        self.texts.insert(id, sql);
        Ok(())
    }

    fn sequence(&self, sql: &str) -> Result<(), Refusal> {
        let step = |(at, statement): (usize, _)| Step {
            condition: at.checked_sub(1).map(Condition::Ok),
            query: Query { statement, positional: vec![], named: vec![] },
        };
        let steps: Vec<_> = parse(sql)?.into_iter().enumerate().map(step).collect();
        let done = self.connection.run(&steps, &mut Size::unlimited()).ok_or_else(too_large)?;
        done.step_errors.into_iter().flatten().next().map_or(Ok(()), |failed| Err(failed.into()))
    }

    /// Executes the batch of a cursor.
    pub(super) fn cursor(&self, batch: Batch) -> Result<Vec<CursorEntry>, Refusal> {
        let done = self.connection.run(&self.steps(batch)?, &mut Size::unlimited());
        Ok(entries(done.unwrap_or_default()))
    }
}

fn checked(condition: BatchCond, below: usize) -> Result<Condition, Refusal> {
    let step = |step: u32| {
        let step = usize::try_from(step).ok().filter(|step| *step < below);
        step.ok_or_else(|| Refusal::Protocol("Invalid reference to step in a batch condition".into()))
    };
    let all = |conditions: Vec<BatchCond>| conditions.into_iter().map(|c| checked(c, below)).collect::<Result<_, _>>();
    Ok(match condition {
        BatchCond::None => return Err(Refusal::Protocol("BatchCond type not recognized".into())),
        BatchCond::Ok { step: at } => Condition::Ok(step(at)?),
        BatchCond::Error { step: at } => Condition::Error(step(at)?),
        BatchCond::Not { cond } => Condition::Not(Box::new(checked(*cond, below)?)),
        BatchCond::And(list) => Condition::And(all(list.conds)?),
        BatchCond::Or(list) => Condition::Or(all(list.conds)?),
        BatchCond::IsAutocommit {} => Condition::IsAutocommit,
    })
}

/// Answers a request. `place` is empty after a `close`.
pub(super) fn answer(place: &mut Option<Stream>, request: StreamRequest) -> Result<StreamResult, String> {
    match try_answer(place, request) {
        Ok(response) => Ok(StreamResult::Ok { response }),
        Err(Refusal::Failed(error)) => Ok(StreamResult::Error { error }),
        Err(Refusal::Protocol(why)) => Err(why),
    }
}

fn try_answer(place: &mut Option<Stream>, request: StreamRequest) -> Result<StreamResponse, Refusal> {
    let Some(stream) = place else { return Err(Refusal::Protocol("Stream for this baton was closed".into())) };
    let connection = &stream.connection;
    Ok(match request {
        StreamRequest::None => return Err(Refusal::Protocol("StreamRequest type not recognized".into())),
        StreamRequest::Close(_) => {
            *place = None;
            StreamResponse::Close(CloseStreamResp {})
        }
        StreamRequest::Execute(request) => {
            let steps = [Step { condition: None, query: stream.query(request.stmt)? }];
            let mut done = connection.run(&steps, &mut Size::limited(connection.sizes())).ok_or_else(too_large)?;
            match (done.step_results.remove(0), done.step_errors.remove(0)) {
                (Some(result), _) => StreamResponse::Execute(ExecuteStreamResp { result }),
                (None, failed) => return Err(failed.expect("it was executed").into()),
            }
        }
        StreamRequest::Batch(request) => {
            let steps = stream.steps(request.batch)?;
            let result = connection.run(&steps, &mut Size::limited(connection.sizes())).ok_or_else(too_large)?;
            StreamResponse::Batch(BatchStreamResp { result })
        }
        StreamRequest::Sequence(request) => {
            stream.sequence(&stream.text(request.sql, request.sql_id)?)?;
            StreamResponse::Sequence(SequenceStreamResp {})
        }
        StreamRequest::Describe(request) => {
            let result = connection.describe(&stream.text(request.sql, request.sql_id)?)?;
            StreamResponse::Describe(DescribeStreamResp { result })
        }
        StreamRequest::StoreSql(request) => {
            stream.store(request.sql_id, request.sql)?;
            StreamResponse::StoreSql(StoreSqlStreamResp {})
        }
        StreamRequest::CloseSql(request) => {
            stream.texts.remove(&request.sql_id);
            StreamResponse::CloseSql(CloseSqlStreamResp {})
        }
        StreamRequest::GetAutocommit(_) => {
            StreamResponse::GetAutocommit(GetAutocommitStreamResp { is_autocommit: connection.is_autocommit() })
        }
    })
}

/// The entries of a cursor's answer for a batch.
fn entries(batch: BatchResult) -> Vec<CursorEntry> {
    let mut entries = vec![];
    for (step, (result, failed)) in (0..).zip(batch.step_results.into_iter().zip(batch.step_errors)) {
        if let Some(error) = failed {
            entries.push(CursorEntry::StepError(StepErrorEntry { step, error }));
        } else if let Some(result) = result {
            let (affected_row_count, last_insert_rowid) = (result.affected_row_count, result.last_insert_rowid);
            entries.push(CursorEntry::StepBegin(StepBeginEntry { step, cols: result.cols }));
            entries.extend(result.rows.into_iter().map(|row| CursorEntry::Row { row }));
            entries.push(CursorEntry::StepEnd(StepEndEntry { affected_row_count, last_insert_rowid }));
        }
    }
    entries.push(CursorEntry::ReplicationIndex { replication_index: None });
    entries
}
