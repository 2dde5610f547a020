//! The Claude Code CLI, the first dialect.
//!
//! The CLI is an untrusted guest: its environment is an explicit list (in `command_line`), it gets its credential
//! through a file descriptor, and it ignores the repository's own configuration unless the operator allows it.

mod command_line;
mod credential;
mod endpoint;
mod instructions;
mod message;
mod transcript;
mod verdict;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use child_process::Guest;
use contract::{Code, ExecuteOptions, Prompt, SessionId};
use workspace::Session;

use crate::{
    AgentKey, Config,
    config::{REFUSES_ROOT, no_agent},
    dialect::{Call, Dialect, Message, RunRecord, Stopped, Transcript, Verdict},
    refusal::Refusal,
    runner::{Line, Private},
};
use command_line::{INTERRUPT, arguments, environment, user_line};
pub use credential::Credential;
use endpoint::Endpoint;
pub use endpoint::MessagesUrl;
use message::RunResult;
use verdict::Evidence;

/// The Claude Code CLI with this operator's settings.
#[derive(Debug)]
pub(crate) struct Claude {
    pub(crate) config: Arc<Config>,
}

impl Claude {
    fn endpoint(&self) -> Result<Option<Endpoint>, Refusal> {
        let config = &*self.config;
        let (Some(credential), AgentKey::Endpoint) = (&config.credential, config.agent_key) else {
            return Ok(None);
        };
        let url = config.base_url.clone().unwrap_or_default();
        Endpoint::start(&url, credential)
            .map(Some)
            .map_err(|error| Refusal::io("start the agent's Messages endpoint", &error))
    }
}

impl Dialect for Claude {
    type Report = RunResult;
    /// There is none without a credential, or if the agent gets the credential itself.
    type Aid = Option<Endpoint>;

    fn may_run(&self, options: &ExecuteOptions) -> Result<(), Refusal> {
        let skips = options.dangerously_skip_permissions;
        if skips && !self.config.isolation.is_sandbox && self.config.runs_agents_as_root() {
            return Err(Refusal::new(Code::AgentRefusesRoot, REFUSES_ROOT));
        }
        Ok(())
    }

    fn command(&self, call: &Call<'_>) -> Result<(Guest, Self::Aid), Refusal> {
        let config = &*self.config;
        let Some(program) = &config.claude_bin else {
            return Err(self.cannot_start("it is not on the PATH"));
        };
        // If the repository's settings are trusted, the CLI reads CLAUDE.md itself.
        let repository = if config.trust_repository_settings {
            None
        } else {
            let directory = call.workspace.open_directory(call.place);
            directory.ok().and_then(|directory| instructions::of_repository(&directory))
        };
        let options = &call.request.options;
        let caller = options.append_system_prompt.as_deref();
        let prompt = instructions::argument(repository.as_deref(), caller);
        let mut guest = Guest::new(program).args(arguments(config, options, call.session, prompt));
        let endpoint = self.endpoint()?;
        let base_url = match &endpoint {
            Some(endpoint) => Some(endpoint.url()),
            None => config.base_url.as_ref().map(ToString::to_string),
        };
        for (name, value) in environment(config, call.private, base_url) {
            guest = guest.env(name, value);
        }
        let Some(credential) = &config.credential else { return Ok((guest, endpoint)) };
        // The same variable either way, because the CLI sends other headers with an OAuth token.
        let secret = endpoint.as_ref().map_or_else(|| credential.secret(), Endpoint::token);
        guest
            .secret(credential.variable(), secret.expose().as_bytes())
            .map(|guest| (guest, endpoint))
            .map_err(|error| Refusal::io("hand over the credential", &error))
    }

    fn cannot_start(&self, why: &str) -> Refusal {
        Refusal::new(Code::AgentNotFound, no_agent(why))
    }

    fn prompt(&self, prompt: &Prompt) -> Vec<u8> {
        user_line(prompt)
    }

    fn interrupt(&self) -> &'static [u8] {
        INTERRUPT
    }

    fn read(&self, line: Line<'_>) -> Option<Message<RunResult>> {
        Message::read(line)
    }

    fn transcript(session: &Session) -> PathBuf {
        session.project().join(format!("{}.jsonl", session.id()))
    }

    fn read_transcript(path: &Path) -> io::Result<Transcript> {
        transcript::read(path)
    }

    fn open_conversation(project: &Path, private: &Private, cwd: &str) -> io::Result<()> {
        transcript::link(project, &private.config(), cwd)
    }

    fn verdict(
        &self,
        session: SessionId,
        record: RunRecord<RunResult>,
        endpoint: &Option<Endpoint>,
        stopped: Option<&Stopped>,
    ) -> Verdict {
        let credential = self.config.credential.as_ref().map(Credential::secret);
        let secret = endpoint.as_ref().map(Endpoint::token).or(credential);
        let evidence = Evidence {
            session,
            result: record.report,
            began: record.has_begun,
            exit: record.exit,
            api_usage: endpoint.as_ref().map(Endpoint::usage).unwrap_or_default(),
            stderr: record.stderr.text(secret),
        };
        evidence.verdict(stopped)
    }
}
