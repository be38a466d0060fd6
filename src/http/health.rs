//! Health: what `/readyz` answers, and the client of `meter health`.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{anyhow, bail};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;

use super::readiness::READY_WAIT;
use super::server::Shared;
use crate::health;
use crate::tls::client_config;
use crate::visible;
use crate::worker::Phase;

/// The schedule is checked several times a minute.
const SCHEDULE_LATE: i64 = 120;

/// A database that has answered the worker within this time is not asked again.
const ANSWERED: Duration = Duration::from_secs(15);

/// Whether this worker can work, and what prevents it.
pub(super) async fn ready(State(server): Shared) -> Response {
    let mut lines = vec![];
    let known = books::newest_schema_version();
    // the worker looks at a remote database every few seconds, and stops when the schema is newer
    let answers = server.running.get().is_some_and(|worker| worker.queue.database().answered_within(ANSWERED));
    let database = if server.metrics.is_database_blocked() {
        // a database that refuses everything is asked by the heartbeat alone
        let finding = health::blocked();
        Ok(Err(anyhow!("{}; {}", finding.what, finding.act)))
    } else if answers {
        Ok(Ok(known))
    } else {
        tokio::time::timeout(READY_WAIT, server.readiness.schema_version()).await
    };
    lines.push(match database {
        Ok(Ok(found)) if found == known => {
            (true, format!("database: there, schema version {found}, books {}", server.readiness.books_id()))
        }
        Ok(Ok(found)) => {
            (false, format!("database: schema version {found}, this build knows {known}; `meter migrate`"))
        }
        Ok(Err(error)) => (false, format!("database: {error:#}")),
        Err(_) => (false, format!("database: no answer within {} s", READY_WAIT.as_secs())),
    });
    lines.push(if server.keeps_schedule {
        let silent = Timestamp::now().as_second() - server.metrics.last_check();
        let what = format!("schedule: last checked {silent} s ago");
        (
            silent < SCHEDULE_LATE,
            if server.metrics.last_check() == 0 { "schedule: not checked yet".into() } else { what },
        )
    } else {
        (true, "schedule: left to other workers".into())
    });
    let phase = server.running.get().map(|running| *running.phase.borrow());
    lines.push(match phase {
        None => (false, "worker: starting, it waits for the database".to_owned()),
        Some(Phase::Working) => (true, "worker: working".to_owned()),
        Some(Phase::Stopping) => (false, "worker: stopping".into()),
        Some(Phase::Outdated(found)) => {
            (false, format!("worker: stopping, a newer build migrated the database to {found}"))
        }
    });
    let all = lines.iter().all(|(ok, _)| *ok);
    let text = |(ok, line): &(bool, String)| format!("{} {}\n", if *ok { "ok " } else { "NOT" }, visible::line(line));
    let text: String = lines.iter().map(text).collect();
    (if all { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, text).into_response()
}

/// Asks a worker whether it is ready. Returns that, and its answer.
pub async fn ask(address: SocketAddr) -> anyhow::Result<(bool, String)> {
    // a worker that listens on all addresses is asked at this machine's own
    let mut address = address;
    if address.ip().is_unspecified() {
        let here: std::net::IpAddr = match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        };
        address.set_ip(here);
    }
    let client = reqwest::Client::builder().tls_backend_preconfigured(client_config()?).no_proxy().build()?;
    let mut answer_text = String::new();
    for path in ["healthz", "readyz"] {
        let asked = tokio::time::timeout(READY_WAIT * 2, async {
            let answer = client.get(format!("http://{address}/{path}")).send().await?;
            let status = answer.status();
            Ok::<_, reqwest::Error>((status, answer.bytes().await?))
        });
        let Ok(answered) = asked.await else {
            let seconds = (READY_WAIT * 2).as_secs();
            bail!("the worker at http://{address}/{path} gave no answer within {seconds} s; look at its log")
        };
        let (status, body) = answered.map_err(|e| {
            let cause = std::iter::successors(Some::<&dyn std::error::Error>(&e), |e| e.source()).last();
            let cause = cause.map_or(String::new(), ToString::to_string);
            anyhow!(
                "no worker answers at http://{address}/{path} ({}); start one with `meter work`, or name its address \
                 (http.listen, --listen)",
                cause.split(" (os error").next().unwrap_or_default()
            )
        })?;
        answer_text = String::from_utf8_lossy(&body).trim_end().to_owned();
        if !status.is_success() {
            return Ok((false, answer_text));
        }
    }
    Ok((true, answer_text))
}
