//! Usage by day as bars.
//!
//! Both axes are integers, the vertical one in the scaled units of [`Quantity`], so that no float
//! is needed here. The plotting crate writes colours into every shape; the style sheet replaces
//! exactly these, which is how a chart follows light and dark.

use books::units::quantity::{Quantity, UNIT};
use jiff::civil::{Date, Weekday};
use maud::{Markup, PreEscaped, html};
use plotters::coord::combinators::BindKeyPoints;
use plotters::prelude::*;

use super::format;

/// Colours that `page.css` replaces; they show only where it is missing.
const FIRST: RGBColor = RGBColor(0x1F, 0x77, 0xB4);
const SECOND: RGBColor = RGBColor(0xFF, 0x7F, 0x0E);
const TEXT: RGBColor = RGBColor(0x33, 0x33, 0x33);
const GRID: RGBColor = RGBColor(0xDD, 0xDD, 0xDD);
const AXIS: RGBColor = RGBColor(0x88, 0x88, 0x88);

/// What a bar is wide, in steps of the horizontal axis.
const SLOT: i32 = 10;
/// Height of a chart; its width goes with the days.
const HEIGHT: u32 = 200;
/// Room for all bars.
const BARS_WIDTH: u32 = 420;

/// A day of a chart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bar {
    pub(super) day: Date,
    pub(super) attributed: Quantity,
    pub(super) unattributed: Quantity,
}

impl Bar {
    pub(super) fn sum(self) -> Quantity {
        self.attributed + self.unattributed
    }
}

/// A chart, with its title and a description for who cannot see it; `id` must be one of its own on
/// the page.
pub(super) fn days(id: &str, title: &str, unit: &str, bars: &[Bar]) -> Markup {
    let Some(shapes) = draw(bars) else {
        return html! { p.empty { "The chart could not be drawn; the figures are in the table." } };
    };
    html! {
        svg.chart role="img" viewBox={ "0 0 " (shapes.width) " " (HEIGHT) } aria-labelledby={ (id) "-title " (id) "-desc" } {
            title id={ (id) "-title" } { (title) }
            desc id={ (id) "-desc" } { (description(unit, bars)) }
            (PreEscaped(shapes.inner))
        }
    }
}

/// What one sees in the chart, in words.
fn description(unit: &str, bars: &[Bar]) -> String {
    let (Some(first), Some(last)) = (bars.first(), bars.last()) else { return "No days.".into() };
    let sum: Quantity = bars.iter().map(|b| b.sum()).sum();
    let range = format!("From {} to {}", format::long_day(first.day), format::long_day(last.day));
    match bars.iter().max_by_key(|b| b.sum()).filter(|b| !b.sum().is_zero()) {
        Some(top) => format!(
            "{range}: {} {unit} in all; most on {}, with {} {unit}.",
            format::quantity(sum),
            format::long_day(top.day),
            format::quantity(top.sum())
        ),
        None => format!("{range}: nothing."),
    }
}

struct Shapes {
    width: u32,
    inner: String,
}

/// The shapes of a chart, without the element around them.
fn draw(bars: &[Bar]) -> Option<Shapes> {
    let days = u32::try_from(bars.len()).ok().filter(|days| (1..=BARS_WIDTH).contains(days))?;
    let (low, high, ticks) = scale(bars);
    let longest = ticks.iter().map(|tick| label(*tick).len()).max()?;
    // charts beside each other should line up, so short labels get the room of longer ones
    let left = u32::try_from(longest.max(5)).ok()?.saturating_mul(10) + 12;
    let width = left + BARS_WIDTH / days * days + 12;
    let end = i32::try_from(days).ok()?.checked_mul(SLOT)?;
    let mut svg = String::new();
    let drawn = (|| -> Result<(), DrawingAreaErrorKind<_>> {
        let area = SVGBackend::with_string(&mut svg, (width, HEIGHT)).into_drawing_area();
        let mondays = centers(bars).filter(|(_, bar)| bar.day.weekday() == Weekday::Monday).map(|(at, _)| at).collect();
        let mut chart = ChartBuilder::on(&area)
            .margin_top(10)
            .margin_right(12)
            .x_label_area_size(28)
            .y_label_area_size(left)
            .build_cartesian_2d((0..end).with_key_points(mondays), (low..high).with_key_points(ticks))?;
        let day_at = |at: &i32| {
            let bar = usize::try_from(at / SLOT).ok().and_then(|i| bars.get(i));
            bar.map_or_else(String::new, |bar| format::short_day(bar.day))
        };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .bold_line_style(GRID)
            .axis_style(AXIS)
            .label_style(("sans-serif", 16, &TEXT))
            .x_label_formatter(&day_at)
            .y_label_formatter(&|tick| label(*tick))
            .draw()?;
        chart.draw_series(centers(bars).flat_map(|(at, bar)| rectangles(at, bar)))?;
        area.present()
    })();
    drawn.ok()?;
    // the element itself names its size in pixels and a namespace, which an inline one needs not
    let inner = svg.split_once('>')?.1.trim_end().strip_suffix("</svg>")?.to_owned();
    Some(Shapes { width, inner })
}

/// Each bar, with where its middle lies.
fn centers(bars: &[Bar]) -> impl Iterator<Item = (i32, Bar)> {
    (0..).step_by(10).zip(bars).map(|(begin, bar)| (begin + SLOT / 2, *bar))
}

/// What customers used, and on it what has no customer; below nothing if a bill took back more than
/// it gave.
fn rectangles(at: i32, bar: Bar) -> impl Iterator<Item = Rectangle<(i32, i128)>> {
    let (first, second) = (bar.attributed.scaled(), bar.unattributed.scaled());
    let from = if first.signum() == second.signum() { first } else { 0 };
    let shape = move |low, high, color: RGBColor| Rectangle::new([(at - 4, low), (at + 4, high)], color.filled());
    let first = (first != 0).then(|| shape(0, first, FIRST));
    let second = (second != 0).then(|| shape(from, from + second, SECOND));
    first.into_iter().chain(second)
}

/// Where the vertical axis begins and ends, and its ticks: at most six round amounts.
fn scale(bars: &[Bar]) -> (i128, i128, Vec<i128>) {
    let ends = || bars.iter().flat_map(|b| [b.sum().scaled(), b.attributed.scaled(), b.unattributed.scaled(), 0]);
    let (low, high) = (ends().min().unwrap_or(0), ends().max().unwrap_or(0));
    if (low, high) == (0, 0) {
        return (0, UNIT, vec![0]);
    }
    let mut step = 1;
    for factor in [2, 5, 10].into_iter().cycle() {
        if (high - low) / step < 4 {
            break;
        }
        // 1, 2, 5, 10, 20, 50, …: each of a decade from the decade's own 1
        step = match factor {
            2 => step * 2,
            5 => step / 2 * 5,
            _ => step * 2,
        };
    }
    let (low, high) = (low.div_euclid(step) * step, -(-high).div_euclid(step) * step);
    let ticks = std::iter::successors(Some(low), |tick| Some(tick + step)).take_while(|tick| *tick <= high).collect();
    (low, high, ticks)
}

/// A tick in as few signs as it takes: `1,500`, `20k`, `3M`.
fn label(tick: i128) -> String {
    let short = |unit: i128, name: &str| format!("{}{name}", format::quantity(Quantity::from_scaled(tick / unit)));
    match tick.abs() / UNIT {
        1_000_000.. => short(1_000_000, "M"),
        10_000.. => short(1_000, "k"),
        _ => format::quantity(Quantity::from_scaled(tick)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(attributed: &str, unattributed: &str) -> Bar {
        let day = "2026-03-02".parse().unwrap();
        Bar { day, attributed: attributed.parse().unwrap(), unattributed: unattributed.parse().unwrap() }
    }

    #[test]
    fn ticks_are_few_and_round() {
        for (most, want) in [
            ("1", "0 0.5 1"),
            ("7", "0 2 4 6 8"),
            ("1234.5", "0 500 1,000 1,500"),
            ("38000", "0 10k 20k 30k 40k"),
            ("3000000", "0 1M 2M 3M"),
            ("0.0000000001", "0 0.0000000001"),
            ("900000000", "0 500M 1,000M"),
        ] {
            let (low, high, ticks) = scale(&[bar(most, "0")]);
            let labels: Vec<String> = ticks.iter().map(|t| label(*t)).collect();
            assert_eq!(labels.join(" "), want);
            assert!(low == 0 && high >= bar(most, "0").sum().scaled(), "{most}");
        }
    }

    #[test]
    fn what_a_bill_takes_back_lies_below_nothing() {
        let (low, high, _) = scale(&[bar("5", "1"), bar("-3", "0")]);
        assert!(low <= -3 * UNIT && high >= 6 * UNIT);
        let svg = days("c", "t", "minutes", &[bar("5", "1"), bar("-3", "2")]).into_string();
        assert_eq!(svg.matches("#1F77B4").count(), 2);
        assert_eq!(svg.matches("#FF7F0E").count(), 2);
    }

    #[test]
    fn nothing_and_the_largest_quantity_can_be_drawn() {
        for most in ["0", "900000000", "90000000000000000000", "0.0000000001"] {
            let svg = days("c", "t", "minutes", &[bar(most, "0"); 35]).into_string();
            assert!(svg.contains("<line"), "{most}: {svg}");
        }
        assert!(days("c", "t", "minutes", &[]).into_string().contains("could not"));
    }
}
