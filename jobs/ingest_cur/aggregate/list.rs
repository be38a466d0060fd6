//! Listing lines while they are summed: a line is listed exactly when it is, so that what is listed
//! is what is booked.

use std::sync::Arc;

use super::listing::{ListedLine, Listing, WantedLines};
use super::resource::CountedLine;
use super::{Line, UsageAggregator};
use crate::ingest_cur::sums::idx;

impl UsageAggregator {
    /// An aggregator that also lists lines.
    pub(crate) fn listing(self, wanted: Arc<WantedLines>) -> Self {
        let listing = Some(Listing::new(wanted, &self.rules));
        Self { listing, ..self }
    }

    pub(crate) fn listing_mut(&mut self) -> Option<&mut Listing> {
        self.listing.as_mut()
    }

    /// What is listed of a line that is about to be summed; none when nobody wants it.
    #[inline]
    pub(super) fn wanted(&self, line: &Line<'_>, counted: &CountedLine, line_group: u32) -> Option<Box<ListedLine>> {
        let listing = self.listing.as_ref()?;
        if !listing.wants(self.customers.text(counted.customer), counted.meter, counted.day) {
            return None;
        }
        let Line { batch, origin, row, .. } = *line;
        let key = self.line_groups[idx(line_group)].key;
        let name = |number: u32| Arc::clone(&self.names.texts[idx(number)]);
        let file: Arc<str> = match listing.lines.last_key_value() {
            Some(((file, ..), _)) if **file == *origin.file => Arc::clone(file),
            _ => origin.file.into(),
        };
        Some(Box::new(ListedLine {
            place: (file, origin.row_group, (origin.place)(row)),
            meter: counted.meter,
            day: counted.day,
            start: batch.day.seconds(row).unwrap_or_default(),
            amount: counted.amount,
            product: name(key.product),
            usage_type: name(key.usage_type),
            unit: name(key.unit),
            resource: (origin.resource)(row),
        }))
    }

    /// Lists a line that was summed.
    #[inline]
    pub(super) fn list(&mut self, line: Option<Box<ListedLine>>) {
        if let (Some(listing), Some(line)) = (&mut self.listing, line) {
            listing.add(*line);
        }
    }
}
