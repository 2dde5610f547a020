//! A run as a picture: how long each job took, by when it was asked for, and how the times are spread.
//! Plain SVG without scripts or fonts of its own; a pure function of the numbers.

use std::fmt::Write as _;

use super::{
    report::Run,
    sample::{Kept, Results},
};

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 720.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = WIDTH - 30.0;
/// How many jobs are drawn; of more, each so-manyth.
const DOTS: usize = 2000;
const BINS: usize = 40;

const TOTAL: &str = "#2563eb";
const QUEUEING: &str = "#d97706";
const BAD: &str = "#dc2626";
const INK: &str = "#1f2937";
const GRID: &str = "#e5e7eb";

/// Draws it.
pub(crate) fn svg(run: &Run) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"13\" fill=\"{INK}\">"
    );
    let _ = writeln!(out, "<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>");
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
    text(&mut out, LEFT, 28.0, "font-size=\"17\" font-weight=\"600\"", &title);
    let waits = run.spreads().into_iter().filter_map(|(name, spread)| {
        let spread = spread?;
        let seconds = |ms: u32| f64::from(ms) / 1000.0;
        let (p50, p99, max) = (seconds(spread.p50), seconds(spread.p99), seconds(spread.max));
        Some(format!("{name} p50 {p50:.2} s, p99 {p99:.2} s, max {max:.2} s"))
    });
    text(&mut out, LEFT, 48.0, "", &waits.collect::<Vec<_>>().join("   ·   "));
    scatter(&mut out, results);
    histogram(&mut out, results);
    out.push_str("</svg>\n");
    out
}

fn scatter(out: &mut String, results: &Results) {
    let seconds = |ms: u32| f64::from(ms) / 1000.0;
    let most = |of: fn(&Kept) -> u32| results.kept.iter().map(of).max().unwrap_or_default();
    let x = Axis::new(seconds(most(|kept| kept.start)), LEFT, RIGHT);
    let y = Axis::new(seconds(most(|kept| kept.total)), 400.0, 90.0);
    frame(out, &x, &y, "asked for, seconds after the beginning", "seconds until …");
    let step = results.kept.len().div_ceil(DOTS).max(1);
    let shown = results.kept.iter().step_by(step);
    for kept in shown {
        let at = x.place(seconds(kept.start));
        if let Some(queueing) = kept.queueing {
            dot(out, at, y.place(seconds(queueing)), 2.0, QUEUEING);
        }
        let color = if results.is_complete(kept) { TOTAL } else { BAD };
        dot(out, at, y.place(seconds(kept.total)), 3.0, color);
    }
    let names = [
        (TOTAL, "… the end of a job"),
        (QUEUEING, "… a replica began it"),
        (BAD, "… an end that is not complete"),
    ];
    for (number, (color, name)) in (0_u8..).zip(names) {
        let at = 190.0_f64.mul_add(f64::from(number), LEFT + 10.0);
        dot(out, at, 76.0, 4.0, color);
        text(out, at + 9.0, 80.0, "", name);
    }
}

fn histogram(out: &mut String, results: &Results) {
    let most = results.kept.iter().map(|kept| kept.total).max().unwrap_or_default();
    let x = Axis::new(f64::from(most) / 1000.0, LEFT, RIGHT);
    let mut bins = [(0_u32, 0_u32); BINS];
    for kept in &results.kept {
        let share = f64::from(kept.total) / 1000.0 / x.most;
        if let Some((all, bad)) = bins.get_mut(bin(share)) {
            *all += 1;
            *bad += u32::from(!results.is_complete(kept));
        }
    }
    let highest = bins.iter().map(|(all, _)| *all).max().unwrap_or_default();
    let y = Axis::of_counts(f64::from(highest), 670.0, 470.0);
    frame(out, &x, &y, "seconds until the end of a job", "jobs");
    let width = (RIGHT - LEFT) / 40.0;
    for (number, (all, bad)) in (0_u8..).zip(bins) {
        let left = width.mul_add(f64::from(number), LEFT);
        let (top, middle) = (y.place(f64::from(all)), y.place(f64::from(bad)));
        bar(out, left, top, width, middle - top, TOTAL);
        bar(out, left, middle, width, y.from - middle, BAD);
    }
}

/// Which of the bins a share of the whole axis falls into.
fn bin(share: f64) -> usize {
    let edges = (1..BINS).map(|edge| f64::from(u32::try_from(edge).unwrap_or_default()) / 40.0);
    edges.take_while(|edge| *edge <= share).count()
}

/// From 0 to a round number, on a stretch of the picture.
struct Axis {
    step: f64,
    most: f64,
    from: f64,
    to: f64,
}

impl Axis {
    /// An axis on which `largest` has a place, with at most ten steps of 1, 2 or 5 times a power of ten.
    fn new(largest: f64, from: f64, to: f64) -> Self {
        let largest = largest.max(0.001);
        let power = 10_f64.powf((largest / 10.0).log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .map(|factor| factor * power)
            .into_iter()
            .find(|step| largest / step <= 10.0)
            .unwrap_or(largest);
        Self { step, most: (largest / step).ceil() * step, from, to }
    }

    /// As [`new`](Self::new), in whole steps.
    fn of_counts(largest: f64, from: f64, to: f64) -> Self {
        let axis = Self::new(largest, from, to);
        if axis.step >= 1.0 { axis } else { Self { step: 1.0, most: largest.max(1.0), ..axis } }
    }

    fn place(&self, value: f64) -> f64 {
        (value / self.most).mul_add(self.to - self.from, self.from)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        let (step, most) = (self.step, self.most);
        (0_u8..)
            .map(move |number| f64::from(number) * step)
            .take_while(move |tick| *tick <= most * 1.001)
    }

    /// As many digits after the point as the steps have.
    fn label(&self, tick: f64) -> String {
        let digits = [1.0, 0.1, 0.01].iter().take_while(|unit| self.step < **unit * 0.999).count();
        format!("{tick:.digits$}")
    }
}

fn frame(out: &mut String, x: &Axis, y: &Axis, below: &str, beside: &str) {
    for tick in x.ticks() {
        let at = x.place(tick);
        line(out, at, y.from, at, y.to, GRID);
        text(out, at, y.from + 18.0, "text-anchor=\"middle\"", &x.label(tick));
    }
    for tick in y.ticks() {
        let at = y.place(tick);
        line(out, x.from, at, x.to, at, GRID);
        text(out, x.from - 8.0, at + 4.0, "text-anchor=\"end\"", &y.label(tick));
    }
    line(out, x.from, y.from, x.to, y.from, INK);
    line(out, x.from, y.from, x.from, y.to, INK);
    text(out, f64::midpoint(x.from, x.to), y.from + 36.0, "text-anchor=\"middle\"", below);
    let middle = f64::midpoint(y.from, y.to);
    let turned = format!("text-anchor=\"middle\" transform=\"rotate(-90 20 {middle:.1})\"");
    text(out, 20.0, middle, &turned, beside);
}

fn dot(out: &mut String, x: f64, y: f64, radius: f64, color: &str) {
    let _ = writeln!(
        out,
        "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\" fill=\"{color}\" fill-opacity=\"0.7\"/>"
    );
}

fn bar(out: &mut String, x: f64, y: f64, width: f64, height: f64, color: &str) {
    if height > 0.05 {
        let _ = writeln!(
            out,
            "<rect x=\"{:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{height:.1}\" fill=\"{color}\"/>",
            x + 1.0,
            width - 2.0
        );
    }
}

fn line(out: &mut String, x1: f64, y1: f64, x2: f64, y2: f64, color: &str) {
    let _ = writeln!(
        out,
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{color}\"/>"
    );
}

fn text(out: &mut String, x: f64, y: f64, more: &str, content: &str) {
    let content = content.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" {more}>{content}</text>");
}

#[cfg(test)]
mod tests {
    use super::{super::report::tests::run, *};

    #[test]
    fn a_run_as_a_picture() {
        insta::assert_snapshot!(svg(&run()));
    }

    #[test]
    fn a_run_of_nothing_and_one_of_very_much() {
        let mut run = run();
        run.results = Results::default();
        let empty = svg(&run);
        assert!(!empty.contains("NaN") && !empty.contains("inf"), "{empty}");
        let mut run = super::super::report::tests::run();
        while run.results.kept.len() < 100_000 {
            run.results.kept.extend_from_within(..);
        }
        assert!(svg(&run).len() < 600_000);
    }

    #[test]
    fn axes_are_round_and_long_enough() {
        for (largest, step, most) in [
            (0.0, 0.0001, 0.001),
            (0.94, 0.1, 1.0),
            (7.3, 1.0, 8.0),
            (11.0, 2.0, 12.0),
            (430.0, 50.0, 450.0),
        ] {
            let axis = Axis::new(largest, 0.0, 1.0);
            assert!((axis.step - step).abs() < step * 1e-6, "{largest}: {}", axis.step);
            assert!((axis.most - most).abs() < most * 1e-6, "{largest}: {}", axis.most);
        }
        assert_eq!(Axis::new(0.94, 0.0, 1.0).label(0.3), "0.3");
        assert_eq!((bin(0.0), bin(0.0249), bin(0.025), bin(1.0)), (0, 0, 1, 39));
    }
}
