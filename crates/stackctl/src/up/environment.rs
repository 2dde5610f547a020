//! What each part gets to see of this process's environment.

use contract::ReplicaId;
use workspace::Workspace;

use crate::cli::{Part, UpOptions};

/// Every part.
const COMMON: &[&str] = &[
    "LOG_LEVEL",
    "LOG_FORMAT",
    "RUST_BACKTRACE",
    "JOB_TIMEOUT_SECONDS",
    "GRACE_SECONDS",
    "JOURNAL_LIMIT_MIB",
    "CORS_ALLOW_ORIGIN",
    "ALLOW_FILE_REPOSITORIES",
    "MAX_TURNS",
    "MAX_BUDGET_USD",
    "ALLOWED_MODELS",
    "ALLOWED_TOOLS",
    "QUEUE_WAIT_SECONDS",
    "LANG",
    "TMPDIR",
];
const GATEWAY: &[&str] = &["QUEUE_LIMIT"];
/// Who talks to git hosts.
const PULL: &[&str] = &[
    "GITHUB_TOKEN",
    "GITHUB_TOKEN_SECRET",
    "GIT_CREDENTIAL_HOSTS",
    "SSH_KEY_FILE",
    "SSH_KNOWN_HOSTS_FILE",
    "GIT_STALL_SECONDS",
    "GIT_ALLOWED_HOSTS",
    "GIT_ALLOWED_NETWORKS",
    "HTTPS_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];
/// Who runs the agent.
const CLAUDE: &[&str] = &[
    "PATH",
    "CLAUDE_BIN",
    "CLAUDE_CODE_CREDENTIALS_SECRET",
    "CLAUDE_CODE_CREDENTIALS_JSON",
    "ANTHROPIC_API_KEY",
    "CLAUDE_CODE_OAUTH_TOKEN",
    "ANTHROPIC_BASE_URL",
    "IS_SANDBOX",
    "TRUST_REPOSITORY_SETTINGS",
    "SILENCE_TIMEOUT_SECONDS",
];

/// The variables that some part gets to see.
pub(crate) fn passed() -> Vec<&'static str> {
    [COMMON, GATEWAY, PULL, CLAUDE].concat()
}

/// Where the gateway is reached from this machine: by loopback, unless it listens on one address only.
pub(crate) fn gateway_host(options: &UpOptions) -> String {
    let host = if options.bind.is_unspecified() {
        "127.0.0.1".to_owned()
    } else {
        options.bind.to_string()
    };
    if host.contains(':') { format!("[{host}]") } else { host }
}

/// The settings of all parts: secrets go only to the part that uses them.
pub(crate) struct Environment {
    workspace: String,
    bind: String,
    ports: [(&'static str, u16); 3],
    upstreams: [(&'static str, String); 2],
}

impl Environment {
    pub(crate) fn new(options: &UpOptions, workspace: &Workspace) -> Self {
        let host = gateway_host(options);
        Self {
            workspace: workspace.root_text().to_owned(),
            bind: options.bind.to_string(),
            ports: [
                ("PORT_WORKFLOW", options.port_workflow),
                ("PORT_PULL", options.port_pull),
                ("PORT_CLAUDE", options.port_claude),
            ],
            upstreams: [
                ("GITHUB_PULL_API", format!("http://{host}:{}", options.port_pull)),
                ("CLAUDE_CODE_API", format!("http://{host}:{}", options.port_claude)),
            ],
        }
    }

    /// The environment of one life of a part.
    pub(crate) fn of(&self, part: Part, replica: ReplicaId) -> Vec<(String, String)> {
        let own = match part {
            Part::Gateway => GATEWAY,
            Part::WorkflowApi => &[],
            Part::GithubPullApi => PULL,
            Part::ClaudeCodeApi => CLAUDE,
        };
        let mut vars: Vec<(String, String)> = COMMON
            .iter()
            .chain(own)
            .filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)))
            .collect();
        let mut set = |name: &str, value: String| vars.push((name.to_owned(), value));
        set("WORKSPACE_DIR", self.workspace.clone());
        match part {
            Part::Gateway => {
                set("BIND_ADDRESS", self.bind.clone());
                for (name, port) in self.ports {
                    set(name, port.to_string());
                }
            }
            // Replicas listen on loopback whatever the gateway does: nobody else is to reach them.
            _ => {
                set("BIND_ADDRESS", "127.0.0.1".into());
                set("PORT", "0".into());
                set("REPLICA_ID", replica.to_string());
            }
        }
        if part == Part::WorkflowApi {
            for (name, url) in &self.upstreams {
                set(name, url.clone());
            }
        }
        vars
    }
}

#[cfg(test)]
mod tests;
