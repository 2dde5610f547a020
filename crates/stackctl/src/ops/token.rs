//! `stackctl token`.

use std::collections::BTreeSet;

use anstyle::Style;
use clap::{Args, Subcommand};
use contract::{
    CallerLimits, CallerName, Scope, Timestamp, TokenId, TokenRequest, TokenRevoked, TokenView, Usd,
};
use stack_client::Api;
use transcript::between;
use workspace::{Spending, Workspace, blocking};

use super::{OpsError, volume::VolumeOptions};
use crate::{
    client::{
        ClientError, GivenUrl, TokenOptions, note, print,
        table::{Column, lines, terminal_width},
    },
    command::exit,
    program,
};

/// Create, list and revoke the tokens of callers
///
/// As long as a stack has never had a token, it is open: whoever can reach it may run agents and read all jobs. The first
/// token closes it. Jobs, sessions and named checkouts belong to the name of a token, and other callers do not see them.
///
/// On the machine of the workspace, these commands change the files there, and need no token. With --url or STACK_URL,
/// they ask the stack at that address, and need the token of an administrator in STACK_TOKEN or --token-file.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  stackctl token create --name boss --admin > boss.token    the first token, which closes the stack
  stackctl token create --name ci > ci.token                may run jobs and read its own
  stackctl token create --name ci --running 2 --queued 20 --requests-per-minute 120 --expires 2027-01-01T00:00:00Z
  stackctl token create --name intern --budget-usd-per-day 5
  STACK_URL=https://stack.example.org stackctl token list --token-file boss.token
  stackctl token revoke Ab3dE6gH

Exit codes: 0 success, 1 failed, 2 wrong usage or refused, 3 no such workspace or stack.")]
pub(crate) struct TokenCommand {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Clone, Debug, Subcommand)]
enum Verb {
    /// Create a token, and print it: this is the only time that it is shown
    Create(CreateOptions),
    /// List the tokens, without their secrets
    List(PlaceOptions),
    /// Revoke a token; requests with it are refused within two seconds
    Revoke(RevokeOptions),
}

#[derive(Clone, Debug, Args)]
struct CreateOptions {
    /// The caller; a token of the same name can replace this one
    #[arg(
        long,
        value_name = "NAME",
        required_unless_present = "admin",
        default_value_if("admin", "true", "admin")
    )]
    name: Option<CallerName>,
    /// What it may do, separated by commas: submit, read, read:all, deliver, deliver:protected, admin [default: submit,read]
    #[arg(long, value_name = "SCOPES", value_delimiter = ',', conflicts_with = "admin")]
    scopes: Vec<Scope>,
    /// It may do everything, also create and revoke tokens
    #[arg(long)]
    admin: bool,
    /// How many of the caller's jobs may run at the same time; more wait
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    running: Option<u32>,
    /// How many of its jobs may wait in the queue; more are refused
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    queued: Option<u32>,
    /// How many requests it may send in a minute; more are refused
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    requests_per_minute: Option<u32>,
    /// How much its jobs may cost in a day (UTC), in dollars; when those that have ended cost as much, more are refused
    #[arg(long, value_name = "USD")]
    budget_usd_per_day: Option<Usd>,
    /// When it stops being valid, such as 2027-01-01T00:00:00Z [default: never]
    #[arg(long, value_name = "TIME")]
    expires: Option<Timestamp>,
    #[command(flatten)]
    place: PlaceOptions,
}

#[derive(Clone, Debug, Args)]
struct RevokeOptions {
    /// The ID of the token, as `list` shows it
    #[arg(value_name = "ID")]
    id: TokenId,
    #[command(flatten)]
    place: PlaceOptions,
}

/// Where the tokens are.
#[derive(Clone, Debug, Args)]
struct PlaceOptions {
    #[command(flatten)]
    volume: VolumeOptions,
    /// The stack, if it is elsewhere
    #[arg(long, env = "STACK_URL", hide_env_values = true, value_name = "URL")]
    url: Option<GivenUrl>,
    #[command(flatten)]
    token: TokenOptions,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

/// The tokens of a volume on this machine, or of a stack elsewhere.
enum Place {
    Here(Workspace),
    There(Api),
}

impl PlaceOptions {
    async fn find(&self) -> anyhow::Result<Place> {
        if let Some(url) = &self.url {
            return Ok(Place::There(self.token.api(url.parse()?)?));
        }
        Ok(Place::Here(self.volume.open().await?))
    }
}

/// Creates, lists or revokes tokens.
pub(crate) async fn token(command: TokenCommand) -> anyhow::Result<u8> {
    match command.verb {
        Verb::Create(options) => create(options).await,
        Verb::List(options) => list(options).await,
        Verb::Revoke(options) => revoke(options).await,
    }
}

async fn create(options: CreateOptions) -> anyhow::Result<u8> {
    let place = options.place.find().await?;
    let json = options.place.json;
    let request = options.request()?;
    let view = match place {
        Place::Here(workspace) => {
            let made = blocking(move || workspace.create_token(&request)).await;
            let (record, token) = made?;
            TokenView { token: Some(token), ..record.view(None) }
        }
        Place::There(api) => api.create_token(&request).await.map_err(ClientError::from)?,
    };
    // Alone on standard output, so that a script can put it into a file.
    print(&match &view.token {
        _ if json => serde_json::to_string_pretty(&view)? + "\n",
        Some(token) => token.expose() + "\n",
        None => return Err(OpsError::NotYet("the stack did not send the token".into()).into()),
    })?;
    if !json {
        note(&format!(
            "token {} of '{}': it is not shown again; `{} token revoke {}` revokes it",
            view.id,
            view.name,
            program::name(),
            view.id
        ));
    }
    Ok(exit::COMPLETE)
}

impl CreateOptions {
    fn request(self) -> anyhow::Result<TokenRequest> {
        let scopes: BTreeSet<Scope> = match self.scopes {
            _ if self.admin => [Scope::Admin].into(),
            scopes if scopes.is_empty() => [Scope::Submit, Scope::Read].into(),
            scopes => scopes.into_iter().collect(),
        };
        let name = self.name.filter(|name| !name.is_anonymous());
        let name = name.ok_or_else(|| {
            OpsError::Usage(
                "--name: 'anonymous' is the name of callers without a token: choose another".into(),
            )
        })?;
        if self.expires.is_some_and(|expires| expires <= Timestamp::now()) {
            return Err(OpsError::Usage("--expires: must be in the future".into()).into());
        }
        let limits = CallerLimits {
            running: self.running,
            queued: self.queued,
            requests_per_minute: self.requests_per_minute,
            budget_usd_per_day: self.budget_usd_per_day,
        };
        Ok(TokenRequest { name, scopes, limits, expires: self.expires })
    }
}

async fn list(options: PlaceOptions) -> anyhow::Result<u8> {
    let list = match options.find().await? {
        Place::Here(workspace) => {
            let read = move || {
                let mut spending = Spending::default();
                spending.look(&workspace, Timestamp::now())?;
                workspace.list_tokens(&spending)
            };
            blocking(read).await?
        }
        Place::There(api) => api.tokens().await.map_err(ClientError::from)?,
    };
    print(&if options.json {
        serde_json::to_string_pretty(&list)? + "\n"
    } else if list.tokens.is_empty() {
        let me = program::name();
        format!("there are no tokens; `{me} token create --admin` creates the first one\n")
    } else {
        table(&list.tokens, Timestamp::now(), terminal_width())
    })?;
    Ok(exit::COMPLETE)
}

async fn revoke(options: RevokeOptions) -> anyhow::Result<u8> {
    let id = options.id.clone();
    match options.place.find().await? {
        Place::Here(workspace) => {
            if !blocking(move || workspace.revoke_token(&id)).await? {
                let sentence = format!(
                    "there is no token {}: `{} token list` lists them",
                    options.id,
                    program::name()
                );
                return Err(OpsError::Usage(sentence).into());
            }
        }
        Place::There(api) => drop(api.revoke_token(&id).await.map_err(ClientError::from)?),
    }
    print(&if options.place.json {
        serde_json::to_string_pretty(&TokenRevoked::new(options.id))? + "\n"
    } else {
        format!("token {} is revoked\n", options.id)
    })?;
    Ok(exit::COMPLETE)
}

fn table(tokens: &[TokenView], now: Timestamp, width: Option<u16>) -> String {
    let columns = [
        ("ID", Column::Text),
        ("NAME", Column::Text),
        ("SCOPES", Column::Text),
        ("LIMITS", Column::Elastic),
        ("TODAY", Column::Number),
        ("AGE", Column::Number),
        ("USED", Column::Number),
        ("EXPIRES", Column::Text),
    ];
    let rows = tokens.iter().map(|token| {
        let scopes: Vec<_> = token.scopes.iter().map(|scope| scope.as_str()).collect();
        let ago = |time: Timestamp| between(time, now);
        let row = vec![
            token.id.to_string(),
            token.name.to_string(),
            scopes.join(","),
            limits(token.limits),
            token.spent_today_usd.map_or_else(|| "-".to_owned(), |spent| spent.to_string()),
            ago(token.created),
            token.last_used.map_or_else(|| "never".to_owned(), ago),
            match token.expires {
                Some(expires) if expires <= now => "expired".to_owned(),
                Some(expires) => expires.to_string(),
                None => "never".to_owned(),
            },
        ];
        (Style::new(), row)
    });
    lines(&columns, rows, width).join("\n") + "\n"
}

fn limits(limits: CallerLimits) -> String {
    let named = [
        (limits.running, "running"),
        (limits.queued, "queued"),
        (limits.requests_per_minute, "requests/min"),
    ];
    let mut all: Vec<_> =
        named.iter().filter_map(|(limit, name)| Some(format!("{} {name}", (*limit)?))).collect();
    all.extend(limits.budget_usd_per_day.map(|budget| format!("{budget}/day")));
    if all.is_empty() { "-".to_owned() } else { all.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing() {
        let token = TokenView {
            id: "Ab3dE6gH".parse().unwrap(),
            name: "ci".parse().unwrap(),
            scopes: [Scope::Read, Scope::Submit].into(),
            limits: CallerLimits {
                running: Some(2),
                budget_usd_per_day: Usd::from_dollars(2.5),
                ..CallerLimits::default()
            },
            expires: Some(Timestamp::from_millisecond(5)),
            created: Timestamp::from_millisecond(0),
            last_used: None,
            spent_today_usd: Usd::from_dollars(0.75),
            token: None,
        };
        let text = table(&[token], Timestamp::from_millisecond(3_600_000), None);
        let plain = anstream::adapter::strip_str(&text).to_string();
        let words: Vec<Vec<_>> = plain
            .lines()
            .map(|line| line.split("  ").filter(|it| !it.is_empty()).map(str::trim).collect())
            .collect();
        assert_eq!(words[0], ["ID", "NAME", "SCOPES", "LIMITS", "TODAY", "AGE", "USED", "EXPIRES"]);
        let limits = "2 running, 2.5 USD/day";
        assert_eq!(words[1][..5], ["Ab3dE6gH", "ci", "submit,read", limits, "0.75 USD"]);
        assert_eq!(words[1][6..], ["never", "expired"]);
    }
}
