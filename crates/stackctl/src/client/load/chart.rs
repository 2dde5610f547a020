//! A run as a picture: how long each job took, by when it was requested, and how the times are distributed. The SVG
//! has no scripts and no fonts of its own.

use plotters::{
    chart::SeriesLabelPosition,
    prelude::{
        BLACK, ChartBuilder, Circle, Color as _, IntoDrawingArea as _, IntoFont as _, RGBColor,
        Rectangle, SVGBackend, WHITE,
    },
    style::{ShapeStyle, TextStyle},
};
use stack_client::load::{Kept, Results};

use super::report::LoadReport;

const SIZE: (u32, u32) = (960, 720);
/// Where the upper chart ends, and how much room the title takes above it.
const TITLE: u32 = 60;
const UPPER: u32 = 430;
/// How many jobs are drawn. Of more, every so many.
const DOTS: usize = 2000;
const BINS: u32 = 40;
/// The room for labels.
const LABELS: u32 = 50;

const TOTAL: RGBColor = RGBColor(0x25, 0x63, 0xeb);
const QUEUEING: RGBColor = RGBColor(0xd9, 0x77, 0x06);
const BAD: RGBColor = RGBColor(0xdc, 0x26, 0x26);

/// Where dots are, in seconds.
type Dots = Vec<(f64, f64)>;

/// Why there is no picture.
type Problem = Box<dyn std::error::Error + Send + Sync>;

/// Draws the run.
///
/// # Errors
/// If plotters fails.
pub(super) fn svg(run: &LoadReport) -> Result<String, Problem> {
    let mut picture = String::new();
    {
        let root = SVGBackend::with_string(&mut picture, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let results = &run.results;
        let title = format!(
            "{} of {} jobs for {}, {} at once: {:.1} s, {} not complete, {} lost",
            results.kept.len(),
            run.jobs,
            run.service,
            run.concurrency,
            run.took.as_secs_f64(),
            results.kept.len() - results.complete(),
            results.lost
        );
        let waits = run.spreads().into_iter().filter_map(|(name, spread)| {
            let spread = spread?;
            let (p50, p99, max) = (seconds(spread.p50), seconds(spread.p99), seconds(spread.max));
            Some(format!("{name} p50 {p50:.2} s, p99 {p99:.2} s, max {max:.2} s"))
        });
        root.draw_text(&title, &text(17), (20, 10))?;
        root.draw_text(&waits.collect::<Vec<_>>().join("   ·   "), &text(13), (20, 36))?;
        let (upper, lower) = root.margin(TITLE, 10, 10, 20).split_vertically(UPPER - TITLE);
        scatter(&upper, results)?;
        histogram(&lower, results)?;
        root.present()?;
    }
    Ok(picture)
}

type Area<'a> = plotters::drawing::DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn scatter(area: &Area<'_>, results: &Results) -> Result<(), Problem> {
    let mut chart = ChartBuilder::on(area)
        .x_label_area_size(LABELS)
        .y_label_area_size(LABELS)
        .build_cartesian_2d(
            0.0..most(results, |kept| kept.start),
            0.0..most(results, |kept| kept.total),
        )?;
    chart
        .configure_mesh()
        .x_desc("requested, seconds after the beginning")
        .y_desc("seconds until …")
        .light_line_style(ShapeStyle::from(WHITE))
        .draw()?;
    let step = results.kept.len().div_ceil(DOTS).max(1);
    let shown = || results.kept.iter().step_by(step);
    let queueing = shown().filter_map(|kept| Some((seconds(kept.start), seconds(kept.queueing?))));
    let ends = |complete: bool| {
        shown()
            .filter(move |kept| results.is_complete(kept) == complete)
            .map(|kept| (seconds(kept.start), seconds(kept.total)))
    };
    let series: [(&str, RGBColor, u32, Dots); 3] = [
        ("… a replica began the job", QUEUEING, 2, queueing.collect()),
        ("… the end of a job", TOTAL, 3, ends(true).collect()),
        ("… an end that is not complete", BAD, 3, ends(false).collect()),
    ];
    for (name, color, radius, dots) in series {
        let dots = dots.into_iter().map(|at| Circle::new(at, radius, color.mix(0.7).filled()));
        chart
            .draw_series(dots)?
            .label(name)
            .legend(move |(x, y)| Circle::new((x + 10, y), 4, color.filled()));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .label_font(text(13))
        .draw()?;
    Ok(())
}

fn histogram(area: &Area<'_>, results: &Results) -> Result<(), Problem> {
    let longest = most(results, |kept| kept.total);
    let width = longest / f64::from(BINS);
    let bins: Vec<_> = (0..BINS)
        .map(|bin| {
            let (from, to) = (width * f64::from(bin), width * f64::from(bin + 1));
            let within = |kept: &&Kept| (from..to).contains(&seconds(kept.total));
            let all = results.kept.iter().filter(within).count();
            let bad =
                results.kept.iter().filter(within).filter(|it| !results.is_complete(it)).count();
            (from, to, all, bad)
        })
        .collect();
    let highest = bins.iter().map(|(_, _, all, _)| *all).max().unwrap_or_default().max(1);
    let mut chart = ChartBuilder::on(area)
        .x_label_area_size(LABELS)
        .y_label_area_size(LABELS)
        .build_cartesian_2d(0.0..longest, 0..highest)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_desc("seconds until the end of a job")
        .y_desc("jobs")
        .light_line_style(ShapeStyle::from(WHITE))
        .draw()?;
    for (from, to, all, bad) in bins {
        chart.draw_series([
            Rectangle::new([(from, bad), (to, all)], TOTAL.filled()),
            Rectangle::new([(from, 0), (to, bad)], BAD.filled()),
        ])?;
    }
    Ok(())
}

/// The end of an axis on which each job has a place.
fn most(results: &Results, of: impl Fn(&Kept) -> u32) -> f64 {
    let most = results.kept.iter().map(of).max().unwrap_or_default();
    (seconds(most) * 1.02).max(0.001)
}

fn seconds(ms: u32) -> f64 {
    f64::from(ms) / 1000.0
}

fn text(size: u32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&BLACK)
}

#[cfg(test)]
mod tests {
    use super::{super::report::tests::run, *};

    #[test]
    fn a_run_as_a_picture() {
        let run = run();
        let picture = svg(&run).unwrap();
        // Two dots a job and three of the legend.
        assert_eq!(picture.matches("<circle").count(), 2 * run.results.kept.len() + 3);
        for part in
            ["41 of 50 jobs for workflow-api, 5 at once", "1 lost", "total p50", "an end that"]
        {
            assert!(picture.contains(part), "{part}: {picture}");
        }
        assert!(picture.starts_with("<svg") && picture.trim_end().ends_with("</svg>"));
    }

    #[test]
    fn a_run_without_jobs_and_one_with_very_many() {
        let mut run = run();
        run.results = Results::default();
        let empty = svg(&run).unwrap();
        assert!(!empty.contains("NaN") && !empty.contains("inf"), "{empty}");
        let mut run = super::super::report::tests::run();
        while run.results.kept.len() < 100_000 {
            run.results.kept.extend_from_within(..);
        }
        assert!(svg(&run).unwrap().len() < 1_000_000);
    }
}
