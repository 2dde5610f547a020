//! The workflow service's settings.

use std::time::Duration;

use boot::Settings;
use contract::{Policy, Service};
use web::BaseUrl;

/// Which services it asks, and what it allows.
#[derive(Clone, Debug)]
pub struct Config {
    /// `GITHUB_PULL_API`
    pub github_pull_api: BaseUrl,
    /// `CLAUDE_CODE_API`
    pub claude_code_api: BaseUrl,
    /// `QUEUE_WAIT_SECONDS`: how long a job that it asks for may wait until it begins.
    pub queue_wait: Duration,
    /// What callers may ask for.
    pub policy: Policy,
}

impl Config {
    /// Reads the settings.
    pub fn read(settings: &mut Settings<'_>) -> Self {
        let mut upstream = |name: &str, service: Service| {
            let default = format!("http://{}:{}", service.name(), service.default_port());
            let text = settings.text(name).unwrap_or(default);
            text.parse::<BaseUrl>().unwrap_or_else(|error| {
                settings.problem(name, &error);
                std::net::SocketAddr::from(([127, 0, 0, 1], service.default_port())).into()
            })
        };
        let github_pull_api = upstream("GITHUB_PULL_API", Service::Pull);
        let claude_code_api = upstream("CLAUDE_CODE_API", Service::Claude);
        Self {
            github_pull_api,
            claude_code_api,
            queue_wait: settings.seconds("QUEUE_WAIT_SECONDS", 600),
            policy: boot::read_policy(settings),
        }
    }
}
