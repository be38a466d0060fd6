//! An HTML page as a response.

use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};

use crate::ui;

/// A page; its headers say what a browser may do with it.
pub(super) struct Page(pub(super) StatusCode, pub(super) String);

impl IntoResponse for Page {
    fn into_response(self) -> Response {
        let headers = [
            ("content-security-policy", ui::CONTENT_SECURITY_POLICY),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cache-control", "no-store"),
        ];
        (self.0, headers, Html(self.1)).into_response()
    }
}

/// The page without what could not be read.
pub(super) fn unavailable(error: &dyn std::fmt::Display) -> Page {
    Page(StatusCode::SERVICE_UNAVAILABLE, ui::refused(&format!("That could not be read: {error}")))
}
