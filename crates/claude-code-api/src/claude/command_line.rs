//! The CLI's command line. Each argument and variable was tested with the real CLI. Comments say what an option
//! guards against if that is not obvious.

use std::ffi::OsString;

use contract::{ExecuteOptions, Prompt};
use serde_json::json;

use crate::{
    Config,
    dialect::{History, SessionArgument},
    runner::Private,
};

/// The control message that interrupts the current turn. The CLI answers with a `result`.
pub(crate) const INTERRUPT: &[u8] =
    b"{\"type\":\"control_request\",\"request_id\":\"stop\",\"request\":{\"subtype\":\"interrupt\"}}\n";

/// The CLI's arguments. The prompt goes to standard input instead: if it is passed any other way, the CLI exits
/// before its output is read, and the end of the output is lost.
pub(crate) fn arguments(
    config: &Config,
    options: &ExecuteOptions,
    session: SessionArgument,
    append_system_prompt: Option<String>,
) -> Vec<String> {
    let mut args = vec!["-p".to_owned()];
    let mut add = |name: &str, value: String| args.extend([name.to_owned(), value]);
    add("--input-format", "stream-json".into());
    add("--output-format", "stream-json".into());
    let mode = if options.dangerously_skip_permissions { "bypassPermissions" } else { "default" };
    add("--permission-mode", mode.into());
    // A repository's settings contain hooks, which run programs, and variables, which can redirect the credential.
    let sources = if config.trust_repository_settings { "user,project" } else { "" };
    add("--setting-sources", sources.into());
    let limits = &config.policy.limits;
    if let Some(tools) = options.allowed_tools.as_ref().or(limits.tools.as_ref()) {
        add("--tools", tools.join(","));
    }
    // If the models are restricted, the CLI's default may not be allowed.
    let default_model = limits.models.as_ref().and_then(|models| models.first());
    if let Some(model) = options.model.as_ref().or(default_model) {
        add("--model", model.clone());
    }
    if let Some(turns) = options.max_turns.or(limits.max_turns) {
        add("--max-turns", turns.to_string());
    }
    if let Some(usd) = options.max_budget_usd.or(limits.max_budget_usd) {
        add("--max-budget-usd", usd.to_string());
    }
    if let Some(text) = append_system_prompt {
        add("--append-system-prompt", text);
    }
    add(option(session.history), session.id.to_string());
    // stream-json requires it.
    args.push("--verbose".into());
    if !config.trust_repository_settings {
        // The repository's .mcp.json names programs to run.
        args.push("--strict-mcp-config".into());
    }
    args
}

/// The option before the session's ID.
fn option(history: History) -> &'static str {
    match history {
        History::None => "--session-id",
        History::Transcript => "--resume",
    }
}

/// The CLI's whole environment, except the variable with the credential's descriptor.
pub(crate) fn environment(
    config: &Config,
    private: &Private,
    base_url: Option<String>,
) -> Vec<(&'static str, OsString)> {
    let mut env: Vec<(&'static str, OsString)> = vec![
        ("PATH", config.path.clone().into()),
        ("HOME", private.home().into()),
        ("CLAUDE_CONFIG_DIR", private.config().into()),
        ("TMPDIR", private.temporary().into()),
        ("CLAUDE_CODE_TMPDIR", private.temporary().into()),
        ("LANG", "C.UTF-8".into()),
        ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1".into()),
        ("DISABLE_AUTOUPDATER", "1".into()),
        ("DISABLE_TELEMETRY", "1".into()),
        ("DISABLE_ERROR_REPORTING", "1".into()),
        // The default of 10 takes three minutes, even with an invalid key.
        ("CLAUDE_CODE_MAX_RETRIES", "4".into()),
        ("CLAUDE_CODE_DISABLE_BACKGROUND_TASKS", "1".into()),
        ("CLAUDE_CODE_DISABLE_CRON", "1".into()),
        // Otherwise, a prompt with `@/etc/passwd` would attach the file.
        ("CLAUDE_CODE_DISABLE_ATTACHMENTS", "1".into()),
        ("CLAUDE_CODE_DISABLE_AUTO_MEMORY", "1".into()),
        // These events say when standard input can be closed.
        ("CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS", "1".into()),
    ];
    if config.isolation.is_sandbox {
        env.push(("IS_SANDBOX", "1".into()));
    }
    if let Some(url) = base_url {
        env.push(("ANTHROPIC_BASE_URL", url.into()));
    }
    env
}

/// The prompt as one line of standard input.
pub(crate) fn user_line(prompt: &Prompt) -> Vec<u8> {
    let prompt = prompt.as_str();
    // A leading slash makes it a CLI command, and an unknown command does nothing and succeeds.
    let text = if prompt.starts_with('/') { format!("\n{prompt}") } else { prompt.to_owned() };
    let message = json!({"type": "user", "message": {"role": "user", "content": text}});
    format!("{message}\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use contract::{Limits, Policy};

    use super::*;
    use crate::{AgentKey, Credential, Isolation, TimeLimits};

    fn config() -> Config {
        Config {
            claude_bin: Some("/usr/bin/claude".into()),
            credential: Some(Credential::ApiKey(boot::Secret::new("sk-ant-s3cret".into()))),
            base_url: None,
            agent_key: AgentKey::Endpoint,
            trust_repository_settings: false,
            policy: Policy::default(),
            processes: 1024,
            isolation: Isolation::default(),
            time_limits: TimeLimits::default(),
            path: "/usr/bin:/bin".into(),
            temporary: "/tmp".into(),
        }
    }

    fn argument(history: History) -> SessionArgument {
        SessionArgument { history, id: ID.parse().unwrap() }
    }

    const ID: &str = "0b1f8a0e-5a3e-4bd5-8ba5-5e8be7c7a1d6";

    #[test]
    fn the_minimal_command_line() {
        let session = argument(History::None);
        let args = arguments(&config(), &ExecuteOptions::default(), session, None);
        insta::assert_json_snapshot!(args, @r#"
        [
          "-p",
          "--input-format",
          "stream-json",
          "--output-format",
          "stream-json",
          "--permission-mode",
          "bypassPermissions",
          "--setting-sources",
          "",
          "--session-id",
          "0b1f8a0e-5a3e-4bd5-8ba5-5e8be7c7a1d6",
          "--verbose",
          "--strict-mcp-config"
        ]
        "#);
    }

    #[test]
    fn the_maximal_command_line() {
        let session = argument(History::Transcript);
        let options = ExecuteOptions {
            dangerously_skip_permissions: false,
            resume_session_id: Some(session.id),
            model: Some("sonnet".into()),
            max_turns: Some(5),
            max_budget_usd: Some(1.5),
            append_system_prompt: None,
            allowed_tools: Some(vec!["Bash".into(), "Read".into()]),
            timeout_seconds: Some(60),
            verify: None,
        };
        let config = Config { trust_repository_settings: true, ..config() };
        let args = arguments(&config, &options, session, Some("# Instructions\n".into()));
        insta::assert_json_snapshot!(args, @r##"
        [
          "-p",
          "--input-format",
          "stream-json",
          "--output-format",
          "stream-json",
          "--permission-mode",
          "default",
          "--setting-sources",
          "user,project",
          "--tools",
          "Bash,Read",
          "--model",
          "sonnet",
          "--max-turns",
          "5",
          "--max-budget-usd",
          "1.5",
          "--append-system-prompt",
          "# Instructions\n",
          "--resume",
          "0b1f8a0e-5a3e-4bd5-8ba5-5e8be7c7a1d6",
          "--verbose"
        ]
        "##);
    }

    #[test]
    fn the_operators_limits_are_the_defaults() {
        let session = argument(History::None);
        let limits = Limits {
            max_turns: Some(7),
            max_budget_usd: Some(0.25),
            models: Some(vec!["haiku".into(), "sonnet".into()]),
            tools: Some(vec!["Read".into()]),
            ..Limits::default()
        };
        let config = Config { policy: Policy { limits, ..Policy::default() }, ..config() };
        let args = arguments(&config, &ExecuteOptions::default(), session, None);
        for pair in [
            ["--max-turns", "7"],
            ["--max-budget-usd", "0.25"],
            ["--model", "haiku"],
            ["--tools", "Read"],
        ] {
            assert!(args.windows(2).any(|window| window == pair), "{pair:?}: {args:?}");
        }
    }

    #[test]
    fn the_environment_is_an_explicit_list() {
        let private = Private::create(&std::env::temp_dir()).unwrap();
        let mut config = config();
        config.isolation.is_sandbox = true;
        let root = private.home().parent().unwrap().to_str().unwrap().to_owned();
        let env: Vec<String> = environment(&config, &private, Some("http://h".into()))
            .into_iter()
            .map(|(name, value)| {
                format!("{name}={}", value.to_str().unwrap().replace(&root, "<private>"))
            })
            .collect();
        insta::assert_json_snapshot!(env, @r#"
        [
          "PATH=/usr/bin:/bin",
          "HOME=<private>/home",
          "CLAUDE_CONFIG_DIR=<private>/config",
          "TMPDIR=<private>/tmp",
          "CLAUDE_CODE_TMPDIR=<private>/tmp",
          "LANG=C.UTF-8",
          "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1",
          "DISABLE_AUTOUPDATER=1",
          "DISABLE_TELEMETRY=1",
          "DISABLE_ERROR_REPORTING=1",
          "CLAUDE_CODE_MAX_RETRIES=4",
          "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS=1",
          "CLAUDE_CODE_DISABLE_CRON=1",
          "CLAUDE_CODE_DISABLE_ATTACHMENTS=1",
          "CLAUDE_CODE_DISABLE_AUTO_MEMORY=1",
          "CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS=1",
          "IS_SANDBOX=1",
          "ANTHROPIC_BASE_URL=http://h"
        ]
        "#);
    }

    #[test]
    fn a_prompt_is_one_line_and_never_a_command() {
        let line = |text| String::from_utf8(user_line(&Prompt::parse(text).unwrap())).unwrap();
        assert_eq!(
            line("a\n\"b\""),
            "{\"message\":{\"content\":\"a\\n\\\"b\\\"\",\"role\":\"user\"},\"type\":\"user\"}\n"
        );
        assert!(line("/clear").contains("\"\\n/clear\""));
        assert!(line(" /clear").contains("\" /clear\""));
        assert_eq!(line("a\u{2028}\r\n\0b").lines().count(), 1);
    }
}
