//! The callers that this gateway knows: their tokens and their limits.
//!
//! The tokens are in memory. A task looks at the volume when their directory changes, and every two seconds, so a request
//! reads no file, and a token that was revoked anywhere is refused within two seconds.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use contract::{
    BearerToken, CallerLimits, CallerName, Code, RequestError, Scope, Timestamp, TokenId,
    TokenList, TokenRequest, Usd,
};
use http::{HeaderMap, header};
use workspace::{Spending, TokenRecord, Tokens, Workspace, blocking};

use crate::{
    caller::Caller,
    rate::{Rate, Rates},
    shared::Shared,
};

/// How often to look for changes, at least.
const LOOK: Duration = Duration::from_secs(2);
/// How often to warn that everybody may use a stack that others can reach.
const WARN: Duration = Duration::from_secs(3600);
/// The precision of a token's last use, in milliseconds.
const USE_PRECISION: i64 = 60_000;

/// All callers.
#[derive(Debug)]
pub(crate) struct Callers {
    /// What requests are checked against.
    tokens: RwLock<Arc<Tokens>>,
    /// What the volume said last. Locked for a whole look, so that an earlier look does not replace what a later one found.
    looked: Mutex<Tokens>,
    /// The token of `ADMIN_TOKEN_SECRET`.
    admin: Option<TokenRecord>,
    /// `ALLOW_ANONYMOUS`
    allow_anonymous: bool,
    /// When the use of each token was last noted.
    noted: Mutex<HashMap<TokenId, i64>>,
    rates: Mutex<Rates>,
    spending: Mutex<Spending>,
}

/// A token whose use is to be noted on the volume.
pub(crate) type Used = Option<TokenId>;

impl Callers {
    /// Reads the tokens of a volume. The operator's token closes the stack as any other does, for later starts too. Blocking.
    ///
    /// # Errors
    /// If they cannot be listed, or the stack cannot be closed. A gateway that does not know its callers must not start.
    pub(crate) fn read(
        workspace: &Workspace,
        admin: Option<&BearerToken>,
        allow_anonymous: bool,
    ) -> workspace::Result<Self> {
        if admin.is_some() {
            workspace.close_to_strangers()?;
        }
        let mut tokens = Tokens::default();
        tokens.look(workspace)?;
        let admin = admin.and_then(|token| {
            let request = TokenRequest {
                name: "admin".parse().ok()?,
                scopes: [Scope::Admin].into(),
                limits: CallerLimits::default(),
                expires: None,
            };
            Some(TokenRecord::of(token, request))
        });
        Ok(Self {
            tokens: RwLock::new(Arc::new(tokens.clone())),
            looked: Mutex::new(tokens),
            admin,
            allow_anonymous,
            noted: Mutex::default(),
            rates: Mutex::default(),
            spending: Mutex::default(),
        })
    }

    fn tokens(&self) -> Arc<Tokens> {
        Arc::clone(&self.tokens.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks for tokens that were created or revoked. Blocking.
    ///
    /// # Errors
    /// If the tokens cannot be listed. Then what is known stays.
    pub(crate) fn look(&self, workspace: &Workspace) -> workspace::Result<()> {
        let mut tokens = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if tokens.look(workspace)? {
            let count = tokens.iter().count();
            *self.tokens.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(tokens.clone());
            tracing::info!(tokens = count, open = self.is_open(), "the tokens have changed");
            let known = self.tokens();
            let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
            noted.retain(|id, _| known.get(id).is_some());
        }
        Ok(())
    }

    /// Whether callers without a token may use the stack: it has never had one, or its operator says so.
    pub(crate) fn is_open(&self) -> bool {
        self.allow_anonymous || !self.has_tokens()
    }

    /// Whether the stack has a token, or ever had one.
    pub(crate) fn has_tokens(&self) -> bool {
        self.admin.is_some() || self.tokens().is_closed()
    }

    /// Who sends a request with these headers.
    ///
    /// # Errors
    /// `unauthorized`, if the stack is closed and the token is missing, unknown, revoked or expired.
    pub(crate) fn authenticate(&self, headers: &HeaderMap) -> Result<(Caller, Used), RequestError> {
        if !self.has_tokens() {
            // Whatever a proxy in front uses the header for.
            return Ok((Caller::anonymous(), None));
        }
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let text = match (values.next(), values.next()) {
            (None, _) => None,
            (Some(value), None) => value.to_str().ok(),
            (Some(_), Some(_)) => return Err(unauthorized("the request has two tokens: send one")),
        };
        let bearer = text.and_then(|text| {
            let (scheme, token) = text.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
        });
        let is_ours = bearer.is_some_and(|token| token.starts_with("wfs_"));
        if self.allow_anonymous && !is_ours {
            return Ok((Caller::anonymous_among_others(), None));
        }
        let Some(bearer) = bearer else {
            return Err(unauthorized(
                "this stack needs a token: send 'Authorization: Bearer wfs_…' (stackctl: STACK_TOKEN or --token-file)",
            ));
        };
        let invalid = || {
            unauthorized(
                "the token is not valid: it may have been revoked; ask an administrator for another",
            )
        };
        let token: BearerToken = bearer.parse().map_err(|_| invalid())?;
        let tokens = self.tokens();
        let admin = self.admin.as_ref().filter(|admin| admin.id == *token.id());
        let record = admin.or_else(|| tokens.get(token.id())).filter(|record| record.is_of(&token));
        let record = record.ok_or_else(invalid)?;
        let now = Timestamp::now();
        if record.has_expired(now) {
            return Err(unauthorized("the token has expired: ask an administrator for another"));
        }
        let caller =
            Caller::new(record.name.clone(), Some(record.id.clone()), record.scopes.clone());
        let used = if admin.is_some() { None } else { self.is_new_use(&record.id, now) };
        Ok((caller, used))
    }

    /// Whether the use of a token is to be noted now.
    fn is_new_use(&self, id: &TokenId, now: Timestamp) -> Used {
        let minute = now.as_millisecond() / USE_PRECISION;
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        (noted.insert(id.clone(), minute) != Some(minute)).then(|| id.clone())
    }

    /// What a caller may use: the stricter limits of all its tokens.
    pub(crate) fn limits_of(&self, name: &CallerName) -> CallerLimits {
        let tokens = self.tokens();
        let now = Timestamp::now();
        let of_caller =
            tokens.iter().filter(|record| record.name == *name && !record.has_expired(now));
        of_caller.fold(CallerLimits::default(), |limits, record| limits.stricter(record.limits))
    }

    /// Checks whether the jobs of this caller that ended today have cost less than its budget. Blocking.
    ///
    /// # Errors
    /// If they have not, or the volume cannot be read.
    pub(crate) fn check_budget(
        &self,
        workspace: &Workspace,
        name: &CallerName,
        budget: Usd,
    ) -> Result<(), RequestError> {
        let spent = self.spending(workspace, |spending| spending.of(name));
        let spent = spent.map_err(|error| error.refusal())?;
        if spent < budget {
            return Ok(());
        }
        let sentence = format!(
            "the jobs of this caller that ended today have cost {spent}, and its budget is {budget} a day: try again \
             after 00:00 UTC, or ask an administrator for more"
        );
        Err(RequestError::new(Code::BudgetExceeded, sentence))
    }

    /// The tokens of a volume, as an administrator sees them. Blocking.
    ///
    /// # Errors
    /// If the volume cannot be read.
    pub(crate) fn list(&self, workspace: &Workspace) -> workspace::Result<TokenList> {
        self.spending(workspace, |spending| workspace.list_tokens(spending))?
    }

    fn spending<T>(
        &self,
        workspace: &Workspace,
        of: impl FnOnce(&Spending) -> T,
    ) -> workspace::Result<T> {
        let mut spending = self.spending.lock().unwrap_or_else(PoisonError::into_inner);
        spending.look(workspace, Timestamp::now())?;
        Ok(of(&spending))
    }

    /// Counts a request of this caller; `None` if it has no limit.
    pub(crate) fn count_request(&self, name: &CallerName) -> Option<Rate> {
        let limit = self.limits_of(name).requests_per_minute?;
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        Some(rates.count(name, limit))
    }
}

fn unauthorized(sentence: &str) -> RequestError {
    RequestError::new(Code::Unauthorized, sentence)
}

/// Looks for changes of the tokens, and warns about an open stack. Never returns.
pub(crate) async fn run(shared: Arc<Shared>) {
    let workspace = shared.workspace.clone();
    let watch = match blocking(move || workspace.watch_tokens()).await {
        Ok(watch) => Some(watch),
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "cannot watch the tokens");
            None
        }
    };
    let others_can_reach = !shared.config.bind.is_loopback();
    let mut watch = watch;
    let mut warned = tokio::time::Instant::now();
    warn_if_open(&shared);
    loop {
        match &mut watch {
            Some(watch) => drop(tokio::time::timeout(LOOK, watch.reported()).await),
            None => tokio::time::sleep(LOOK).await,
        }
        let looking = Arc::clone(&shared);
        if let Err(error) = blocking(move || looking.callers.look(&looking.workspace)).await {
            tracing::error!(error = &error as &dyn std::error::Error, "cannot read the tokens");
        }
        if others_can_reach && warned.elapsed() >= WARN {
            warned = tokio::time::Instant::now();
            warn_if_open(&shared);
        }
    }
}

fn warn_if_open(shared: &Shared) {
    if !shared.callers.is_open() {
        return;
    }
    if shared.callers.has_tokens() {
        tracing::warn!(
            address = %shared.config.bind,
            "ALLOW_ANONYMOUS is set: whoever can reach the stack may run agents, although it has tokens"
        );
    } else if shared.config.bind.is_loopback() {
        tracing::info!("the stack is open to this machine: it has no tokens, so callers need none");
    } else {
        tracing::warn!(
            address = %shared.config.bind,
            "the stack is open: whoever can reach it may run agents and read all jobs; `stackctl token create --admin` \
             creates a first token and closes it"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bench {
        _dir: tempfile::TempDir,
        workspace: Workspace,
    }

    impl Bench {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let workspace = Workspace::open(dir.path()).unwrap();
            Self { _dir: dir, workspace }
        }

        fn callers(&self, admin: Option<&BearerToken>, allow_anonymous: bool) -> Callers {
            Callers::read(&self.workspace, admin, allow_anonymous).unwrap()
        }

        fn token(
            &self,
            name: &str,
            expires: Option<Timestamp>,
            limits: CallerLimits,
        ) -> BearerToken {
            let name = name.parse().unwrap();
            let request = TokenRequest { name, scopes: [Scope::Read].into(), limits, expires };
            self.workspace.create_token(&request).unwrap().1
        }
    }

    fn headers(values: &[&str]) -> HeaderMap {
        let pairs = values.iter().map(|value| (header::AUTHORIZATION, value.parse().unwrap()));
        pairs.collect()
    }

    fn who(callers: &Callers, values: &[&str]) -> Option<String> {
        callers.authenticate(&headers(values)).ok().map(|(caller, _)| caller.name.to_string())
    }

    #[test]
    fn a_stack_without_tokens_is_open_whatever_is_sent() {
        let bench = Bench::new();
        let callers = bench.callers(None, false);
        assert!(callers.is_open());
        for sent in [&[][..], &["Bearer CHANGE-ME"], &["Basic eDp5"], &["Bearer wfs_x"]] {
            assert_eq!(who(&callers, sent).as_deref(), Some("anonymous"), "{sent:?}");
        }
    }

    #[test]
    fn one_token_closes_the_stack() {
        let bench = Bench::new();
        let callers = bench.callers(None, false);
        let none = CallerLimits::default();
        let token = bench.token("ci", None, none);
        let expired = bench.token("old", Some(Timestamp::from_millisecond(1)), none);
        callers.look(&bench.workspace).unwrap();
        assert!(!callers.is_open());
        let bearer = |token: &BearerToken| format!("Bearer {}", token.expose());
        assert_eq!(who(&callers, &[&bearer(&token)]).as_deref(), Some("ci"));
        assert_eq!(who(&callers, &[&format!("bearer  {}", token.expose())]).as_deref(), Some("ci"));
        let forged = format!("Bearer wfs_{}_{}", token.id(), expired.secret());
        let unknown = format!("Bearer wfs_00000000_{}", token.secret());
        for refused in [
            &[][..],
            &["Bearer"],
            &["Bearer CHANGE-ME"],
            &["Basic eDp5"],
            &[&token.expose()],
            &[&forged],
            &[&unknown],
            &[&bearer(&expired)],
            &[&bearer(&token), &bearer(&token)],
        ] {
            let error = callers.authenticate(&headers(refused)).unwrap_err();
            assert_eq!(error.code, Code::Unauthorized, "{refused:?}");
            assert!(!error.message.contains(token.secret()), "{error}");
        }
        bench.workspace.revoke_token(token.id()).unwrap();
        callers.look(&bench.workspace).unwrap();
        assert_eq!(who(&callers, &[&bearer(&token)]), None);
        assert_eq!(who(&callers, &[]), None, "the stack stays closed");
    }

    #[test]
    fn an_open_door_lets_in_who_has_no_token_but_not_who_has_a_wrong_one() {
        let bench = Bench::new();
        let callers = bench.callers(None, true);
        let token = bench.token("ci", None, CallerLimits::default());
        callers.look(&bench.workspace).unwrap();
        assert!(callers.is_open());
        assert_eq!(who(&callers, &[]).as_deref(), Some("anonymous"));
        let (anonymous, _) = callers.authenticate(&headers(&["Bearer CHANGE-ME"])).unwrap();
        assert!(anonymous.name.is_anonymous());
        let has = Scope::ALL.into_iter().filter(|scope| anonymous.has(*scope)).collect::<Vec<_>>();
        assert_eq!(has, [Scope::Submit, Scope::Read], "the jobs of the others are their own");
        assert_eq!(who(&callers, &[&format!("Bearer {}", token.expose())]).as_deref(), Some("ci"));
        bench.workspace.revoke_token(token.id()).unwrap();
        callers.look(&bench.workspace).unwrap();
        assert_eq!(who(&callers, &[&format!("Bearer {}", token.expose())]), None);
    }

    #[test]
    fn the_token_of_the_operator_is_an_administrators() {
        let bench = Bench::new();
        let token: BearerToken =
            format!("wfs_{}_{}", "0".repeat(8), "a".repeat(64)).parse().unwrap();
        let callers = bench.callers(Some(&token), false);
        assert!(!callers.is_open());
        let (caller, used) =
            callers.authenticate(&headers(&[&format!("Bearer {}", token.expose())])).unwrap();
        assert!(caller.has(Scope::Admin) && used.is_none());
        assert_eq!(who(&callers, &[]), None);
        let later = bench.callers(None, false);
        assert!(!later.is_open(), "a start without the setting does not open the stack");
        assert_eq!(who(&later, &[]), None);
    }

    #[test]
    fn an_earlier_look_replaces_nothing_that_a_later_one_found() {
        let bench = Bench::new();
        let callers = bench.callers(None, false);
        let is_over = std::sync::atomic::AtomicBool::new(false);
        let is_over = &is_over;
        let wrong = std::thread::scope(|scope| {
            for _ in 0..3 {
                let (callers, workspace) = (&callers, &bench.workspace);
                scope.spawn(move || {
                    while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                        callers.look(workspace).unwrap();
                    }
                });
            }
            let mut wrong = 0;
            for _ in 0..200 {
                let token = bench.token("ci", None, CallerLimits::default());
                callers.look(&bench.workspace).unwrap();
                let text = format!("Bearer {}", token.expose());
                wrong += usize::from(who(&callers, &[&text]).is_none());
                bench.workspace.revoke_token(token.id()).unwrap();
                callers.look(&bench.workspace).unwrap();
                wrong += usize::from(who(&callers, &[&text]).is_some());
            }
            is_over.store(true, std::sync::atomic::Ordering::Relaxed);
            wrong
        });
        assert_eq!(wrong, 0);
    }

    #[test]
    fn a_use_is_noted_once_a_minute_and_the_stricter_limit_counts() {
        let bench = Bench::new();
        let limits = |queued, running| CallerLimits {
            queued: Some(queued),
            running: Some(running),
            ..CallerLimits::default()
        };
        let token = bench.token("ci", None, limits(1, 5));
        bench.token("ci", None, limits(2, 3));
        bench.token("ci", Some(Timestamp::from_millisecond(1)), limits(1, 1));
        let callers = bench.callers(None, false);
        let now = Timestamp::from_millisecond(120_000);
        let uses =
            [now, Timestamp::from_millisecond(179_999), Timestamp::from_millisecond(180_000)]
                .map(|at| callers.is_new_use(token.id(), at).is_some());
        assert_eq!(uses, [true, false, true]);
        assert_eq!(callers.limits_of(&"ci".parse().unwrap()), limits(1, 3));
        assert!(callers.limits_of(&"other".parse().unwrap()).is_none());
        assert!(callers.count_request(&"ci".parse().unwrap()).is_none());
    }
}
