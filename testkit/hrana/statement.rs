//! The text of statements, read by sqld's own parser (query_analysis.rs there).

use fallible_iterator::FallibleIterator;
use libsql_hrana::proto::Error;
use libsql_sqlite3_parser::ast::{Cmd, Stmt};
use libsql_sqlite3_parser::lexer::sql::{Error as ParseError, Parser, ParserError};

/// What a statement does, as far as the server cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Insert,
    /// UPDATE or DELETE.
    Change,
    /// REINDEX, and a PRAGMA that only the primary answers.
    OtherWrite,
    Schema,
    Read,
    Begin,
    /// COMMIT, ROLLBACK, and savepoints.
    End,
}

impl Verb {
    pub(super) fn writes(self) -> bool {
        matches!(self, Self::Insert | Self::Change | Self::OtherWrite | Self::Schema)
    }
}

#[derive(Clone, Debug)]
pub(super) struct Statement {
    pub(super) sql: String,
    pub(super) verb: Verb,
}

/// PRAGMAs that may have an argument, or that read.
const PRAGMAS_READ: &str = "table_list index_list table_info table_xinfo index_info index_xinfo pragma_list \
    compile_options database_list function_list module_list encoding";
const PRAGMAS: &str = "defer_foreign_keys foreign_keys foreign_key_list foreign_key_check collation_list \
    data_version freelist_count integrity_check legacy_file_format page_count quick_check stats user_version";
/// PRAGMAs that may only be asked.
const PRAGMAS_ASKED: &str = "analysis_limit application_id auto_vacuum automatic_index busy_timeout cache_size \
    cache_spill cell_size_check checkpoint_fullfsync fullfsync hard_heap_limit journal_mode journal_size_limit \
    legacy_alter_table locking_mode max_page_count mmap_size page_size query_only read_uncommitted \
    recursive_triggers reverse_unordered_selects secure_delete soft_heap_limit synchronous temp_store threads \
    trusted_schema wal_autocheckpoint";

fn pragma(name: &str, asked: bool) -> Option<Verb> {
    let name = name.to_ascii_lowercase();
    let among = |list: &str| list.split_whitespace().any(|one| one == name);
    match () {
        () if among(PRAGMAS_READ) || name == "schema_version" && asked => Some(Verb::Read),
        () if among(PRAGMAS) || among(PRAGMAS_ASKED) && asked => Some(Verb::OtherWrite),
        () => None,
    }
}

/// None for what the server does not execute.
fn verb(command: &Cmd) -> Option<Verb> {
    let stmt = match command {
        Cmd::Stmt(stmt) | Cmd::Explain(stmt @ Stmt::Pragma(..)) => stmt,
        Cmd::Explain(_) | Cmd::ExplainQueryPlan(_) => return Some(Verb::Read),
    };
    Some(match stmt {
        Stmt::Begin { .. } => Verb::Begin,
        Stmt::Commit { .. } | Stmt::Rollback { .. } | Stmt::Savepoint(_) | Stmt::Release(_) => Verb::End,
        Stmt::Insert { .. } => Verb::Insert,
        Stmt::Update { .. } | Stmt::Delete { .. } => Verb::Change,
        Stmt::Reindex { .. } => Verb::OtherWrite,
        Stmt::Select(_) => Verb::Read,
        Stmt::CreateTable { temporary: false, .. }
        | Stmt::CreateVirtualTable { .. }
        | Stmt::CreateTrigger { temporary: false, .. }
        | Stmt::CreateView { temporary: false, .. }
        | Stmt::CreateIndex { .. }
        | Stmt::AlterTable(..)
        | Stmt::DropTable { .. }
        | Stmt::DropIndex { .. }
        | Stmt::DropTrigger { .. }
        | Stmt::DropView { .. } => Verb::Schema,
        Stmt::Pragma(name, body) => return pragma(&name.name.0, body.is_none()),
        _ => return None,
    })
}

pub(super) fn error(code: &str, message: impl Into<String>) -> Error {
    Error { message: message.into(), code: code.to_owned() }
}

/// The statements of a text.
pub(super) fn parse(sql: &str) -> Result<Vec<Statement>, Error> {
    let wrong = |why: String| error("SQL_PARSE_ERROR", format!("SQL string could not be parsed: {why}"));
    let (mut parser, mut found) = (Box::new(Parser::new(sql.as_bytes())), vec![]);
    loop {
        let start = parser.offset();
        let command = match parser.next() {
            Ok(Some(command)) => command,
            Ok(None) => return Ok(found),
            Err(ParseError::ParserError(ParserError::SyntaxError { found: Some(word), .. }, Some((line, column)))) => {
                return Err(wrong(format!("syntax error around L{line}:{column}: `{word}`")));
            }
            Err(e) => return Err(wrong(e.to_string())),
        };
        let verb = verb(&command).ok_or_else(|| wrong(format!("unsupported statement: {sql}")))?;
        found.push(Statement { sql: sql[start..parser.offset()].to_owned(), verb });
    }
}

/// The statement of a text with exactly one.
pub(super) fn parse_one(sql: &str) -> Result<Statement, Error> {
    let mut found = parse(sql)?;
    match (found.pop(), found.is_empty()) {
        (Some(statement), true) => Ok(statement),
        (Some(_), false) => Err(error("SQL_MANY_STATEMENTS", "SQL string contains more than one statement")),
        (None, _) => Err(error("SQL_NO_STATEMENT", "SQL string does not contain any statement")),
    }
}
