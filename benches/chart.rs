//! Line charts as SVG files.

use std::error::Error;
use std::path::Path;

use plotters::prelude::*;

/// A line of a chart.
#[derive(Debug, Clone)]
pub struct Line {
    /// What the legend says.
    pub name: String,
    /// `(x, y)`, from left to right.
    pub points: Vec<(f64, f64)>,
}

/// A chart: lines over the same axes, which begin at 0.
#[derive(Debug, Clone)]
pub struct Panel {
    /// What is shown, with the unit of `y`.
    pub title: String,
    /// Drawn in this order.
    pub lines: Vec<Line>,
}

const PANEL: (u32, u32) = (430, 300);
const COLOURS: [RGBColor; 3] =
    [RGBColor(31, 119, 180), RGBColor(214, 39, 40), RGBColor(90, 90, 90)];

/// Draws panels side by side into one file. `x` names what runs along their lower edge.
///
/// # Errors
///
/// The file cannot be written.
pub fn draw(file: &Path, x: &str, panels: &[Panel]) -> Result<(), Box<dyn Error>> {
    let size = (PANEL.0 * panels.len() as u32, PANEL.1);
    let area = SVGBackend::new(file, size).into_drawing_area();
    area.fill(&WHITE)?;
    for (area, panel) in area.split_evenly((1, panels.len())).iter().zip(panels) {
        let points = || panel.lines.iter().flat_map(|line| &line.points);
        let right = points().map(|point| point.0).fold(0.0, f64::max);
        let top = points().map(|point| point.1).fold(0.0, f64::max) * 1.05;
        let mut chart = ChartBuilder::on(area)
            .caption(&panel.title, ("sans-serif", 16))
            .margin(10)
            .margin_right(20)
            .x_label_area_size(36)
            .y_label_area_size(46)
            .build_cartesian_2d(0.0..right, 0.0..top)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_labels(5)
            .y_labels(6)
            .x_desc(x)
            .x_label_formatter(&|x| format!("{x}"))
            .draw()?;
        for (line, colour) in panel.lines.iter().zip(COLOURS.iter().cycle()) {
            let series = LineSeries::new(line.points.iter().copied(), colour.stroke_width(2));
            chart.draw_series(series)?.label(&line.name).legend(move |(x, y)| {
                PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2))
            });
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE)
            .draw()?;
    }
    area.present()?;
    Ok(())
}
