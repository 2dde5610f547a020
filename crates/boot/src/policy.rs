//! What an operator allows callers to ask for.

use std::num::NonZeroU32;

use contract::{FileRepositories, Limits, Policy, UnknownFields};

use crate::Settings;

/// Reads the limits on requests: `ALLOW_FILE_REPOSITORIES`, `JOB_TIMEOUT_SECONDS`, `MAX_TURNS`, `MAX_BUDGET_USD`,
/// `ALLOWED_MODELS`, `ALLOWED_TOOLS`. The gateway and the replicas read the same settings, so that the gateway can
/// refuse a request before it reaches a replica.
pub fn read_policy(settings: &mut Settings<'_>) -> Policy {
    let file_repositories = if settings.flag("ALLOW_FILE_REPOSITORIES") {
        FileRepositories::Allowed
    } else {
        FileRepositories::Refused
    };
    const DOLLARS: &str = "US dollars above 0, such as 2.5";
    let max_budget_usd = settings.optional::<f64>("MAX_BUDGET_USD", DOLLARS);
    if max_budget_usd.is_some_and(|usd| !(usd > 0.0 && usd.is_finite())) {
        settings.problem("MAX_BUDGET_USD", &format!("must be {DOLLARS}"));
    }
    let max_turns = settings.count("MAX_TURNS", "turns", 20).map(NonZeroU32::get);
    Policy {
        file_repositories,
        unknown_fields: UnknownFields::default(),
        limits: Limits {
            job_timeout_seconds: settings.seconds("JOB_TIMEOUT_SECONDS", 3600).as_secs(),
            max_turns,
            max_budget_usd,
            models: names(settings, "ALLOWED_MODELS", |c| {
                c.is_ascii_alphanumeric() || "-_.:/@[]".contains(c)
            }),
            tools: names(settings, "ALLOWED_TOOLS", |c| c.is_ascii_alphanumeric() || c == '_'),
        },
    }
}

/// Reads names that become arguments, so none may look like an option.
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
        settings.problem(
            name,
            "must be names that the CLI knows, separated by commas, such as Read,Bash",
        );
    }
    Some(list)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn read(pairs: &[(&str, &str)]) -> (Policy, Vec<String>) {
        let env: HashMap<_, _> =
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let mut settings = Settings::new(&env);
        let policy = read_policy(&mut settings);
        (policy, settings.finish().err().map(|error| error.problems).unwrap_or_default())
    }

    #[test]
    fn absent_limits_do_not_apply() {
        let (Policy { file_repositories, limits, .. }, problems) = read(&[]);
        assert!(problems.is_empty());
        assert_eq!(
            (file_repositories, limits.job_timeout_seconds),
            (FileRepositories::Refused, 3600)
        );
        assert!(limits.max_turns.is_none() && limits.max_budget_usd.is_none());
        assert!(limits.models.is_none() && limits.tools.is_none());
    }

    #[test]
    fn limits_are_read_and_invalid_ones_are_reported() {
        let (policy, problems) = read(&[
            ("ALLOW_FILE_REPOSITORIES", "1"),
            ("JOB_TIMEOUT_SECONDS", "60"),
            ("MAX_TURNS", "5"),
            ("MAX_BUDGET_USD", "2.5"),
            ("ALLOWED_MODELS", "sonnet, claude-opus-4-8[1m]"),
            ("ALLOWED_TOOLS", "Bash,Read"),
        ]);
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(policy.file_repositories, FileRepositories::Allowed);
        assert_eq!(policy.limits.job_timeout_seconds, 60);
        assert_eq!((policy.limits.max_turns, policy.limits.max_budget_usd), (Some(5), Some(2.5)));
        assert_eq!(policy.limits.models.unwrap(), ["sonnet", "claude-opus-4-8[1m]"]);
        assert_eq!(policy.limits.tools.unwrap(), ["Bash", "Read"]);
        let (_, problems) = read(&[
            ("JOB_TIMEOUT_SECONDS", "0"),
            ("MAX_TURNS", "0"),
            ("MAX_BUDGET_USD", "NaN"),
            ("ALLOWED_MODELS", "--x"),
            ("ALLOWED_TOOLS", "Bash(rm *)"),
        ]);
        let mut names: Vec<_> = problems.iter().map(|p| p.split(':').next().unwrap()).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "ALLOWED_MODELS",
                "ALLOWED_TOOLS",
                "JOB_TIMEOUT_SECONDS",
                "MAX_BUDGET_USD",
                "MAX_TURNS"
            ]
        );
    }
}
