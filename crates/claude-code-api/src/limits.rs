//! What an operator allows callers to ask of an agent.

use boot::Settings;
use contract::Limits;

/// Reads `JOB_TIMEOUT_SECONDS`, `MAX_TURNS`, `MAX_BUDGET_USD`, `ALLOWED_MODELS` and `ALLOWED_TOOLS`.
///
/// The gateway refuses what a replica would refuse, so both read them here.
pub fn read_limits(settings: &mut Settings<'_>) -> Limits {
    let job_timeout = settings.seconds("JOB_TIMEOUT_SECONDS", 3600);
    let max_turns: Option<u32> = settings.optional("MAX_TURNS");
    if max_turns == Some(0) {
        settings.problem("MAX_TURNS", "must be at least 1");
    }
    let max_budget_usd: Option<f64> = settings.optional("MAX_BUDGET_USD");
    if max_budget_usd.is_some_and(|usd| !(usd > 0.0 && usd <= 1e6)) {
        settings.problem("MAX_BUDGET_USD", "must be above 0 and at most 1000000");
    }
    Limits {
        job_timeout_seconds: job_timeout.as_secs(),
        max_turns,
        max_budget_usd,
        models: names(settings, "ALLOWED_MODELS", |c| {
            c.is_ascii_alphanumeric() || "-_.:/@[]".contains(c)
        }),
        tools: names(settings, "ALLOWED_TOOLS", |c| c.is_ascii_alphanumeric() || c == '_'),
    }
}

/// Names that become arguments, so none may look like an option.
fn names(
    settings: &mut Settings<'_>,
    name: &str,
    allowed: fn(char) -> bool,
) -> Option<Vec<String>> {
    let list = settings.list(name)?;
    let is_name = |text: &String| {
        text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(allowed)
    };
    if !list.iter().all(is_name) {
        settings.problem(name, "must be names that the CLI knows, separated by commas");
    }
    Some(list)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn read(pairs: &[(&str, &str)]) -> (Limits, Vec<String>) {
        let env: HashMap<_, _> =
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let mut settings = Settings::new(&env);
        let limits = read_limits(&mut settings);
        (limits, settings.finish().err().map(|error| error.problems).unwrap_or_default())
    }

    #[test]
    fn absent_limits_do_not_bind() {
        let (limits, problems) = read(&[]);
        assert!(problems.is_empty());
        assert_eq!(limits.job_timeout_seconds, 3600);
        assert!(limits.max_turns.is_none() && limits.max_budget_usd.is_none());
        assert!(limits.models.is_none() && limits.tools.is_none());
    }

    #[test]
    fn limits_are_read_and_bad_ones_are_named() {
        let (limits, problems) = read(&[
            ("JOB_TIMEOUT_SECONDS", "60"),
            ("MAX_TURNS", "5"),
            ("MAX_BUDGET_USD", "2.5"),
            ("ALLOWED_MODELS", "sonnet, claude-opus-4-8[1m]"),
            ("ALLOWED_TOOLS", "Bash,Read"),
        ]);
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(limits.job_timeout_seconds, 60);
        assert_eq!((limits.max_turns, limits.max_budget_usd), (Some(5), Some(2.5)));
        assert_eq!(limits.models.unwrap(), ["sonnet", "claude-opus-4-8[1m]"]);
        assert_eq!(limits.tools.unwrap(), ["Bash", "Read"]);

        let (_, problems) = read(&[
            ("JOB_TIMEOUT_SECONDS", "0"),
            ("MAX_TURNS", "0"),
            ("MAX_BUDGET_USD", "NaN"),
            ("ALLOWED_MODELS", "--x"),
            ("ALLOWED_TOOLS", "Bash(rm *)"),
        ]);
        let names: Vec<_> = problems.iter().map(|p| p.split(':').next().unwrap()).collect();
        assert_eq!(
            names,
            [
                "JOB_TIMEOUT_SECONDS",
                "MAX_TURNS",
                "MAX_BUDGET_USD",
                "ALLOWED_MODELS",
                "ALLOWED_TOOLS"
            ]
        );
    }
}
