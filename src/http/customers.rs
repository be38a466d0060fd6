//! `/customers`: a search, and the page of one customer.

use axum::extract::{Query, State};
use axum::http::StatusCode;
use books::Database;
use books::units::calendar::Month;
use jiff::Timestamp;
use jobs::push_stripe::bill::{WantedBills, WantedPeriods};
use serde::Deserialize;

use super::jobs::PAGE_WAIT;
use super::page::{Page, unavailable};
use super::server::{Server, Shared};
use crate::margin::margins;
use crate::statement::{Statement, statement};
use crate::ui::{self, CustomerView};

/// Customers that the search lists.
const LISTED: u32 = 100;
/// Meter events and notifications of a page.
const NEWEST: u32 = 20;
/// A billing period is a month, and the newest one began within so many seconds.
const PERIOD: i64 = 40 * 86_400;

#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    id: Option<String>,
    #[serde(default)]
    q: String,
}

pub(super) async fn show(State(server): Shared, Query(asked): Query<Asked>) -> Page {
    let read = async {
        let queue = server.collector.queue().await?;
        match &asked.id {
            Some(id) => one(&server, queue.database(), id).await,
            None => search(queue.database(), &asked.q).await,
        }
    };
    match tokio::time::timeout(PAGE_WAIT, read).await {
        Ok(Ok(page)) => page,
        Ok(Err(error)) => unavailable(&format!("{error:#}")),
        Err(_) => unavailable(&format!("nothing within {} s", PAGE_WAIT.as_secs())),
    }
}

async fn search(books: &Database, text: &str) -> anyhow::Result<Page> {
    let found = books.search_customers(text, LISTED).await?;
    Ok(Page(StatusCode::OK, ui::customers(text, &found)))
}

async fn one(server: &Server, books: &Database, id: &str) -> anyhow::Result<Page> {
    let now = Timestamp::now();
    let found = books.customers(None, Some(id.to_owned())).await?;
    let Some(customer) = found.first() else { return Ok(Page(StatusCode::NOT_FOUND, ui::not_found())) };
    let entitlements = books.entitlements(Some(id.to_owned())).await?;
    let starts = now.as_second() - PERIOD..now.as_second() + 1;
    let statement = match server.statements.billing.meters.is_empty() {
        true => None,
        false => statement(books, &server.statements, id, starts, now).await?,
    };
    let period = |of: &Statement| of.period_start.as_second()..of.period_start.as_second() + 1;
    let margin = match statement.as_ref().filter(|_| !server.statements.costs.is_empty()) {
        None => None,
        Some(of) => {
            let wanted = WantedBills { customer: Some(id.to_owned()), periods: WantedPeriods::Begin(period(of)) };
            let found = margins(books, &server.statements, wanted, Month::of(of.period_start), now).await?;
            found.customers.into_iter().next()
        }
    };
    let forecasts = books.customer_forecasts(id, Month::of(now)).await?;
    let events = books.meter_events(None, Some(id.to_owned()), NEWEST).await?;
    let notifications = books.notifications(None, Some(id.to_owned()), NEWEST).await?;
    let view = CustomerView {
        customer,
        entitlements: &entitlements,
        forecasts: &forecasts,
        statement: statement.as_ref(),
        margin: margin.as_ref(),
        events: &events,
        notifications: &notifications,
        settings: &server.statements,
    };
    Ok(Page(StatusCode::OK, ui::customer(&view, now)))
}
