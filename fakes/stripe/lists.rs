//! Lists in pages, newest first.

use serde_json::{Value, json};

use crate::answers::{self, Answer};
use crate::form::Params;

/// The parameters of a page.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    limit: usize,
    starting_after: Option<String>,
    ending_before: Option<String>,
}

impl Page {
    /// Reads the parameters of a page.
    pub(crate) fn of(params: &mut Params) -> Result<Self, Answer> {
        let limit = params.integer("limit")?.unwrap_or(10);
        let too_far = if limit < 1 { "greater than or equal to 1" } else { "less than or equal to 100" };
        let limit = usize::try_from(limit).ok().filter(|limit| (1..=100).contains(limit)).ok_or_else(|| {
            let message = format!("This value must be {too_far}.");
            answers::refused("parameter_invalid_integer", &message, "limit")
        })?;
        let starting_after = params.string("starting_after", 5000)?;
        let ending_before = params.string("ending_before", 5000)?;
        if starting_after.is_some() && ending_before.is_some() {
            let message = "You cannot specify both starting_after and ending_before.";
            return Err(answers::invalid(message, None));
        }
        Ok(Self { limit, starting_after, ending_before })
    }

    /// Selects the page from all objects, newest first, and returns whether more follow.
    ///
    /// The object of the cursor need not pass the filter: it may have changed since the previous
    /// page.
    pub(crate) fn cut<T>(
        &self,
        kind: &str,
        all: Vec<T>,
        id: impl Fn(&T) -> &str,
        keep: impl Fn(&T) -> bool,
    ) -> Result<(Vec<T>, bool), Answer> {
        let place = |cursor: &str, param: &str| {
            let found = all.iter().position(|one| id(one) == cursor);
            found.ok_or_else(|| answers::no_such(kind, cursor, param))
        };
        if let Some(cursor) = &self.ending_before {
            let end = place(cursor, "ending_before")?;
            let mut before: Vec<T> = all.into_iter().take(end).filter(keep).collect();
            let surplus = before.len().saturating_sub(self.limit);
            let page = before.split_off(surplus);
            return Ok((page, surplus > 0));
        }
        let start = match &self.starting_after {
            Some(cursor) => place(cursor, "starting_after")? + 1,
            None => 0,
        };
        let mut page: Vec<T> = all.into_iter().skip(start).filter(keep).take(self.limit + 1).collect();
        let has_more = page.len() > self.limit;
        page.truncate(self.limit);
        Ok((page, has_more))
    }
}

/// The list object with a page.
pub(crate) fn list(url: &str, data: Vec<Value>, has_more: bool) -> Value {
    json!({ "object": "list", "data": data, "has_more": has_more, "url": url })
}
