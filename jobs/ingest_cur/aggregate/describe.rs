//! Describing unclaimed lines while they are summed.

use super::described::{Described, KindDescription, KindKey};
use super::{LineGroup, UsageAggregator};
use crate::ingest_cur::batch::Batch;
use crate::ingest_cur::sums::idx;

impl UsageAggregator {
    /// An aggregator that also keeps what unclaimed lines say of themselves.
    pub(crate) fn describing(self) -> Self {
        Self { described: Some(Described::default()), ..self }
    }

    /// Keeps what an unclaimed line says of itself.
    pub(super) fn describe(&mut self, batch: &Batch<'_>, row: usize, line_group: u32) {
        let Some(described) = &mut self.described else { return };
        let LineGroup { key, .. } = self.line_groups[idx(line_group)];
        let name = |number: u32| self.names.text(number).to_owned();
        let key = KindKey { product: name(key.product), usage_type: name(key.usage_type), unit: name(key.unit) };
        let Some(own) = described.of(key) else { return };
        for (own, column) in own.columns().into_iter().zip(&batch.descriptions) {
            if let Some(column) = column {
                KindDescription::keep(own, column.value(column.code(row)).trim());
            }
        }
    }
}
