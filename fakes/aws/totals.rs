//! The exact totals of a bill, summed while its lines are made.

use crate::MeterTotal;
use crate::kinds::{KINDS, LineType, METERS};
use crate::plan::Line;

/// One total for each meter.
pub(crate) struct Totals([MeterTotal; METERS.len()]);

impl Default for Totals {
    fn default() -> Self {
        Self(METERS.map(|meter| MeterTotal { meter, attributed: 0, unattributed: 0, excluded: 0, lines: 0 }))
    }
}

impl Totals {
    pub(crate) fn count(&mut self, lines: &[Line]) {
        for line in lines {
            // A tax line names the product but no usage type.
            let Some(meter) = KINDS[line.kind].meter.filter(|_| line.line_type != LineType::Tax) else { continue };
            let total = &mut self.0[meter];
            let amount = i128::from(line.amount);
            total.lines += 1;
            match (line.line_type, line.customer) {
                (LineType::Usage, 0) => total.unattributed += amount,
                (LineType::Usage, _) => total.attributed += amount,
                _ => total.excluded += amount,
            }
        }
    }

    pub(crate) fn totals(self) -> Vec<MeterTotal> {
        self.0.into()
    }
}
