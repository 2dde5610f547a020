//! Runs the properties of parsers in tests: with 256 random inputs each or, if `FUZZ_SECONDS` is set, for so many seconds, as a
//! fuzzer does.
//!
//! Only tests depend on this crate.

use std::time::{Duration, Instant};

use proptest::{
    strategy::Strategy,
    test_runner::{Config, TestCaseError, TestRunner},
};

/// Defines tests as `proptest!` does, in a module `fuzz`, by whose name `tests/fuzz.sh` finds them.
#[macro_export]
macro_rules! fuzz {
    ($($(#[$attribute:meta])* fn $name:ident($($input:pat in $strategy:expr),+ $(,)?) $body:block)+) => {
        mod fuzz {
            use super::*;
            $(
                $(#[$attribute])*
                fn $name() {
                    $crate::run(&($($strategy,)+), |($($input,)+)| {
                        $body
                        Ok(())
                    });
                }
            )+
        }
    };
}

/// Tries a property with random inputs.
///
/// # Panics
/// If it does not hold for one of them: with the smallest such input that was found. Also if `FUZZ_SECONDS` is not a number.
pub fn run<S: Strategy>(strategy: &S, property: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let until = std::env::var("FUZZ_SECONDS").ok().map(|seconds| {
        let seconds = seconds.parse().unwrap_or_else(|_| {
            panic!("FUZZ_SECONDS: must be a whole number of seconds, not '{seconds}'")
        });
        Instant::now() + Duration::from_secs(seconds)
    });
    loop {
        // The failing input is printed, and becomes a test of its own.
        let config = Config { failure_persistence: None, ..Config::default() };
        if let Err(failure) = TestRunner::new(config).run(strategy, &property) {
            panic!("{failure}");
        }
        if until.is_none_or(|until| Instant::now() >= until) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;

    fuzz! {
        #[test]
        fn several_inputs_and_an_early_end(byte in any::<u8>(), text in "[a-z]{1,3}") {
            if byte == 0 {
                return Ok(());
            }
            prop_assert!(byte > 0 && !text.is_empty());
        }
    }

    #[test]
    fn a_property_is_tried_often_and_fails_with_its_smallest_input() {
        let tries = Cell::new(0);
        run(&any::<u8>(), |_| {
            tries.set(tries.get() + 1);
            Ok(())
        });
        assert!(tries.get() >= 256, "{tries:?}");
        let failed = std::panic::catch_unwind(|| {
            run(&(0..1_000_000_u32), |number| {
                prop_assert!(number < 1000);
                Ok(())
            });
        });
        let message = failed.unwrap_err();
        let message = message.downcast_ref::<String>().unwrap();
        assert!(message.contains("minimal failing input: 1000"), "{message}");
    }
}
