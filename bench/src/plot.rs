//! Plots as SVG.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::report::Spread;

const COLOURS: [RGBColor; 4] =
    [RGBColor(31, 119, 180), RGBColor(255, 127, 14), RGBColor(44, 160, 44), RGBColor(148, 103, 189)];
const FONT: &str = "sans-serif";

/// Bars from 1 on, one a store and cell, with their spread: how many times better `own` is. Logarithmic.
pub(crate) fn ratios(path: &Path, own: &str, cells: &[(&str, Vec<(&str, Spread)>)]) -> Result<()> {
    let most = cells.iter().flat_map(|(_, ratios)| ratios).map(|(_, s)| s.greatest).fold(2.0, f64::max);
    let least = cells.iter().flat_map(|(_, ratios)| ratios).map(|(_, s)| s.least).fold(0.5, f64::min);
    let height = 90 + 62 * u32::try_from(cells.len())?;
    let area = SVGBackend::new(path, (960, height)).into_drawing_area();
    let drawn = || -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
        area.fill(&WHITE)?;
        let rows = cells.len() as f64;
        let mut chart = ChartBuilder::on(&area)
            .caption(format!("how many times better than others {own} is"), (FONT, 18))
            .margin(10)
            .x_label_area_size(30)
            .y_label_area_size(260)
            .build_cartesian_2d((least..most * 1.1).log_scale(), 0.0..rows)?;
        chart.configure_mesh().disable_y_mesh().disable_y_axis().x_labels(10).draw()?;
        for (row, (cell, ratios)) in cells.iter().enumerate() {
            let top = rows - row as f64 - 0.1;
            let bar = 0.8 / ratios.len().max(1) as f64;
            label(&area, cell, row, height, cells.len())?;
            for (at, (store, spread)) in ratios.iter().enumerate() {
                let colour = COLOURS[at % COLOURS.len()];
                let (high, low) = (top - bar * at as f64, top - bar * (at as f64 + 0.9));
                let middle = (high + low) / 2.0;
                chart.draw_series([Rectangle::new([(1.0, low), (spread.median, high)], colour.filled())])?;
                let line = vec![(spread.least, middle), (spread.greatest, middle)];
                chart.draw_series([PathElement::new(line, BLACK)])?;
                let words = format!("{store} {:.1}", spread.median);
                chart.draw_series([Text::new(words, (spread.greatest * 1.02, high), (FONT, 11))])?;
            }
        }
        area.present()
    };
    drawn().map_err(|error| anyhow!("{}: {error}", path.display()))
}

fn label(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    words: &str,
    row: usize,
    height: u32,
    rows: usize,
) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
    let step = f64::from(height - 90) / rows as f64;
    // A pixel is near enough.
    let y = (52.0 + step * (row as f64 + 0.35)) as i32;
    area.draw_text(words, &(FONT, 13).into_text_style(area), (12, y))
}

/// One line a series over what grows; both axes logarithmic. No file if there is no point.
pub(crate) fn growth(path: &Path, what: &str, unit: &str, series: &[(&str, Vec<(f64, f64)>)]) -> Result<()> {
    let points = || series.iter().flat_map(|(_, points)| points);
    if points().next().is_none() {
        return Ok(());
    }
    let range = |of: fn(&(f64, f64)) -> f64| {
        let (least, most) =
            points().map(of).fold((f64::MAX, f64::MIN_POSITIVE), |(l, m), v| (l.min(v), m.max(v)));
        (least * 0.8)..(most * 1.25)
    };
    let area = SVGBackend::new(path, (900, 520)).into_drawing_area();
    let drawn = || -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(format!("{unit} over {what}"), (FONT, 18))
            .margin(10)
            .x_label_area_size(40)
            .y_label_area_size(80)
            .build_cartesian_2d(range(|p| p.0).log_scale(), range(|p| p.1).log_scale())?;
        chart.configure_mesh().x_desc(what).y_desc(unit).draw()?;
        for (at, (name, points)) in series.iter().enumerate() {
            let colour = COLOURS[at % COLOURS.len()];
            let drawn = chart.draw_series(LineSeries::new(points.clone(), colour.stroke_width(2)))?;
            drawn.label(*name).legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], colour));
            chart.draw_series(points.iter().map(|point| Circle::new(*point, 3, colour.filled())))?;
        }
        chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK).draw()?;
        area.present()
    };
    drawn().map_err(|error| anyhow!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plots_hold_what_they_show() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.svg");
        let spread = Spread { median: 8.25, least: 7.0, greatest: 9.0 };
        ratios(&file, "synod", &[("put, 64", vec![("etcd", spread)])]).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains("put, 64") && text.contains("etcd 8.2"), "{text}");
        growth(&file, "keys", "us", &[("put", vec![(1e4, 6.0), (1e7, 9.0)])]).unwrap();
        assert!(std::fs::read_to_string(&file).unwrap().contains("us over keys"));
        let none = dir.path().join("none.svg");
        growth(&none, "beside", "us", &[("put", vec![])]).unwrap();
        assert!(!none.exists());
    }
}
