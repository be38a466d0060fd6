//! `/statement`: one customer's statement, for whoever has a signed link to it.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde::Deserialize;

use super::page::{Page, unavailable};
use super::server::Shared;
use crate::statement::{self, Statement};
use crate::statement_link::{LinkKey, StatementLink};
use crate::ui;

/// Why a link is not accepted. It says nothing of what the books have.
const REFUSED: &str = "The link is not valid, or it has expired. Ask for a new one where you got it.";

/// A link, and the form that is wanted.
#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    customer: String,
    period: String,
    expires: i64,
    signature: String,
    #[serde(default)]
    form: Form,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Form {
    #[default]
    Html,
    Json,
}

pub(super) async fn show(State(server): Shared, asked: Result<Query<Asked>, QueryRejection>) -> Response {
    let refused = || Page(StatusCode::FORBIDDEN, ui::refused(REFUSED)).into_response();
    let (Some(key), Ok(Query(asked))) = (LinkKey::new(server.config.statement_key.expose()), asked) else {
        return refused();
    };
    let now = Timestamp::now();
    let link = StatementLink { customer: &asked.customer, period: &asked.period, expires: asked.expires };
    if !key.accepts(link, &asked.signature, now) {
        return refused();
    }
    // whoever signed it may have signed another day
    let Ok(day) = asked.period.parse::<books::units::calendar::Day>() else { return refused() };
    let starts = i64::from(day.epoch()) * 86_400..day.end().as_second();
    let read = async {
        let queue = server.collector.queue().await?;
        statement::statement(queue.database(), &server.statements, &asked.customer, starts, now).await
    };
    match read.await {
        Ok(Some(found)) => answer(&found, asked.form),
        Ok(None) => Page(StatusCode::NOT_FOUND, ui::not_found()).into_response(),
        Err(error) => {
            tracing::warn!("a statement could not be read: {error:#}");
            unavailable(&"the database gives no answer; try again in a minute").into_response()
        }
    }
}

fn answer(found: &Statement, form: Form) -> Response {
    match form {
        Form::Html => Page(StatusCode::OK, ui::statement(found)).into_response(),
        Form::Json => {
            let text = serde_json::to_string(found).unwrap_or_default();
            let headers = [(CONTENT_TYPE.as_str(), "application/json"), ("cache-control", "no-store")];
            (headers, text).into_response()
        }
    }
}
