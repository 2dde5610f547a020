//! Times for people.

use contract::Timestamp;
use serde_json::Value;

const DAY: u64 = 24 * 3600 * 1000;

/// A duration in milliseconds, for people: `0.3 s`, `42.0 s`, `3 min 20 s`, `2 h 5 min`.
#[must_use]
pub fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..60 => format!("{}.{} s", seconds, ms % 1000 / 100),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// The time between two moments, for people: as [`duration`], or in whole days.
#[must_use]
pub fn between(from: Timestamp, to: Timestamp) -> String {
    let ms = to.as_millisecond().saturating_sub(from.as_millisecond()).max(0).cast_unsigned();
    match ms / DAY {
        0 => duration(ms),
        days => format!("{days} d"),
    }
}

/// When the event was written, if it says so.
pub(crate) fn time_of(event: &Value) -> Option<Timestamp> {
    serde_json::from_value(event.get("timestamp")?.clone()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let shown = [0, 949, 59_999, 60_000, 3_599_999, 3_600_000, 90_000_000].map(duration);
        let expected =
            ["0.0 s", "0.9 s", "59.9 s", "1 min 0 s", "59 min 59 s", "1 h 0 min", "25 h 0 min"];
        assert_eq!(shown, expected);
        let at = |ms| Timestamp::from_millisecond(ms);
        assert_eq!(between(at(500), at(90_000_500)), "1 d");
        assert_eq!(between(at(500), at(0)), "0.0 s", "clocks of two machines may differ");
    }
}
