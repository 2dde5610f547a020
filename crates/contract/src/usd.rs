//! Amounts of money.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A millionth of a dollar is the unit in which amounts are added up.
const MICROS: f64 = 1e6;
/// The largest amount, in dollars. Up to here, a number in JSON is exact to a millionth.
const MOST: f64 = 1e9;

/// An amount of US dollars, exact to a millionth. In JSON, a number of dollars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Usd(u64);

impl Usd {
    /// So many millionths of a dollar.
    #[must_use]
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// The amount in millionths of a dollar.
    #[must_use]
    pub const fn micros(self) -> u64 {
        self.0
    }

    /// So many dollars, rounded to a millionth. `None` for what is negative, not a number, or more than a billion.
    #[must_use]
    pub fn from_dollars(dollars: f64) -> Option<Self> {
        (0.0..=MOST).contains(&dollars).then(|| Self((dollars * MICROS).round() as u64))
    }

    /// The sum, or the largest amount there is.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    fn dollars(self) -> f64 {
        self.0 as f64 / MICROS
    }
}

/// `2.5 USD`
impl fmt::Display for Usd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} USD", self.dollars())
    }
}

/// A number of dollars above 0, such as `2.5`.
impl FromStr for Usd {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let amount = text.parse().ok().and_then(Self::from_dollars);
        amount
            .filter(|amount| amount.0 > 0)
            .ok_or("must be a number of dollars above 0, such as 2.5")
    }
}

impl Serialize for Usd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.dollars())
    }
}

impl<'de> Deserialize<'de> for Usd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let dollars = f64::deserialize(deserializer)?;
        Self::from_dollars(dollars)
            .ok_or_else(|| serde::de::Error::custom("not an amount of dollars"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    properties::fuzz! {
        #[test]
        fn any_amount_is_the_same_after_json(micros in 0..=1_000_000_000_000_000_u64) {
            let json = serde_json::to_string(&Usd::from_micros(micros)).unwrap();
            prop_assert_eq!(serde_json::from_str::<Usd>(&json).unwrap().micros(), micros);
        }
    }

    #[test]
    fn amounts_are_exact_to_a_millionth() {
        for (dollars, micros) in
            [(0.0, 0), (0.25, 250_000), (1e-9, 0), (1e9, 1_000_000_000_000_000)]
        {
            let amount = Usd::from_dollars(dollars).unwrap();
            assert_eq!(amount.micros(), micros);
            let json = serde_json::to_string(&amount).unwrap();
            assert_eq!(serde_json::from_str::<Usd>(&json).unwrap(), amount, "{json}");
        }
        for bad in [-0.01, f64::NAN, f64::INFINITY, 1e10] {
            assert_eq!(Usd::from_dollars(bad), None, "{bad}");
        }
        assert_eq!("2.5".parse::<Usd>().unwrap().to_string(), "2.5 USD");
        assert!(["0", "-1", "x", "", "NaN"].iter().all(|bad| bad.parse::<Usd>().is_err()));
        let most = Usd::from_micros(u64::MAX);
        assert_eq!(most.plus(Usd::from_micros(1)), most);
    }
}
