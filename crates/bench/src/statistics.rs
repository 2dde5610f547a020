//! Medians and percentiles.

use std::time::Duration;

/// The value below which `percent` of the others are; 0 if there are none.
pub(crate) fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    sorted.get((last * percent).div_ceil(100)).copied().unwrap_or(0.0)
}

/// The value in the middle.
pub(crate) fn median(values: &[f64]) -> f64 {
    percentile(values, 50)
}

/// A time in milliseconds.
pub(crate) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// A number of things. Exact below 2^53.
#[expect(clippy::cast_precision_loss, reason = "no count of the benchmark comes near 2^53")]
pub(crate) fn count(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles() {
        let values: Vec<f64> = (0..=100).rev().map(f64::from).collect();
        for percent in [0, 1, 50, 99, 100] {
            assert_eq!(percentile(&values, percent), count(percent as u64));
        }
        assert_eq!(median(&[3.0, 1.0]), 3.0);
        assert_eq!(median(&[]), 0.0);
    }
}
