//! Who may read the pages, and who may act on jobs.

use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::rejection::FormRejection;
use axum::extract::{ConnectInfo, Form, Request, State};
use axum::http::header::{AUTHORIZATION, HOST};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::page::Page;
use super::server::{Server, Shared};
use crate::config::Pages;
use crate::ui;

/// A wrong token costs this time, so that many cannot be tried.
const WRONG_TOKEN: Duration = Duration::from_millis(500);

#[derive(Debug, Deserialize)]
pub(super) struct Token {
    #[serde(default)]
    token: String,
}

/// The form, if there is one: a token may come in a header instead.
pub(super) type TokenForm = Result<Form<Token>, FormRejection>;

/// Refuses an action without the worker's token, which each action needs.
pub(super) async fn check_token(server: &Server, headers: &HeaderMap, form: TokenForm) -> Result<(), Page> {
    let refused = |status, why: &str| Err(Page(status, ui::refused(why)));
    if !server.can_act() {
        return refused(StatusCode::FORBIDDEN, "Acting is switched off: the worker has no METER_HTTP__TOKEN.");
    }
    let bearer = headers.get(AUTHORIZATION).and_then(|h| h.to_str().ok()).and_then(|h| h.strip_prefix("Bearer "));
    let given = bearer.map(str::to_owned).or(form.ok().map(|Form(form)| form.token)).unwrap_or_default();
    // digests are compared, so that the time it takes reveals nothing of the token
    if Sha256::digest(&given) != Sha256::digest(server.config.token.expose()) {
        tokio::time::sleep(WRONG_TOKEN).await;
        return refused(StatusCode::UNAUTHORIZED, "The token is not the worker's METER_HTTP__TOKEN. Nothing was done.");
    }
    Ok(())
}

/// Pages name customers. Only this machine may read them, unless `http.pages` says that a proxy in
/// front of the port checks its users. The Host header must always be a known name, so that no
/// foreign name can be pointed at the port (DNS rebinding).
pub(super) async fn only_for_readers(
    State(server): Shared,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    // a proxy on this machine forwards requests from elsewhere
    let handed_on =
        ["forwarded", "x-forwarded-for", "x-real-ip"].iter().any(|name| request.headers().contains_key(*name));
    let near = server.config.pages == Pages::Anyone || (peer.ip().to_canonical().is_loopback() && !handed_on);
    let named = is_local(host)
        || server.config.hosts.iter().any(|name| name == "*" || name.eq_ignore_ascii_case(&host_name(host)));
    let why = match (near, named) {
        (true, true) => return next.run(request).await,
        (false, _) => {
            format!("Pages are for this machine alone (http.pages), and you are at {}, or behind a proxy.", peer.ip())
        }
        (true, false) => format!("You asked for the host {host}, which is not among http.hosts."),
    };
    Page(StatusCode::FORBIDDEN, ui::refused(&format!("{why} Metrics are at /metrics."))).into_response()
}

/// The name in a Host header without its port; empty when the header is malformed.
fn host_name(host: &str) -> String {
    let Ok(authority) = host.parse::<Authority>() else { return String::new() };
    let rest = host.strip_prefix(authority.host()).unwrap_or(host);
    let whole = rest.is_empty() || rest.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
    if whole { authority.host().trim_matches(['[', ']']).to_owned() } else { String::new() }
}

/// Whether a Host header names this machine.
fn is_local(host: &str) -> bool {
    let name = host_name(host);
    name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_local() {
        for host in ["localhost", "LOCALHOST:9464", "127.0.0.1:9464", "127.1.2.3", "[::1]:9464", "[::1]"] {
            assert!(is_local(host), "{host}");
        }
        for host in [
            "",
            "meter.example.com",
            "localhost.example.com",
            "10.0.0.1:9464",
            "[fe80::1]:1",
            "evil:localhost",
            "localhost:evil",
            "[::1]evil",
        ] {
            assert!(!is_local(host), "{host}");
        }
    }
}
