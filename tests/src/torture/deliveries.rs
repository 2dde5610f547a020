//! Many results are delivered while the replicas that deliver them are killed: each is at the host once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use contract::DeliverRequest;
use fastrand::Rng;
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::MissedTickBehavior};

use super::{
    caller::{Caller, Read},
    kill::sentence,
    outcomes::check_volume,
    report::{Report, count, seconds},
    strike::{Deaths, Of},
    volume::JobDirectory,
};
use crate::{AgentScript, GitHubApi, GitServer, Stack};

/// Several repositories, so that not every delivery waits for the mirror of the same one.
const REPOSITORIES: usize = 8;
/// How often one result is tried. It matters only if a guarantee is broken.
const MOST_TRIES: usize = 50;
/// The file that each result has, with its number.
const FILE: &str = "result";
const TOKEN: &str = "t0ken-of-the-campaign";

/// The size of the campaign.
#[derive(Clone, Debug)]
pub struct Deliveries {
    /// How many results are delivered.
    pub results: usize,
    /// How many callers there are at once.
    pub callers: usize,
    /// Time between two kills.
    pub every: Duration,
    /// Replicas of the pull service, which are killed.
    pub pulls: usize,
    /// Whether each result also becomes a pull request.
    pub pull_requests: bool,
    /// The seed for the kills.
    pub seed: u64,
}

/// What all callers share.
struct Field {
    stack: Stack,
    git: GitServer,
    github: GitHubApi,
    next: AtomicUsize,
    options: Deliveries,
}

/// What became of one result.
#[derive(Default)]
struct Done {
    /// The job whose result it is: the last workflow.
    job: String,
    /// All jobs that the caller has sent.
    sent: Vec<String>,
    /// How the workflows have ended.
    ends: Vec<String>,
    /// How often the caller has asked again for the delivery alone.
    again: usize,
    /// What the caller was told at last.
    told: Value,
}

impl Deliveries {
    /// Runs the campaign.
    ///
    /// # Panics
    /// If a stack cannot be started, or if it does not become idle again.
    pub async fn run(self) -> Report {
        let mut report = Report::new("deliveries", Some(self.seed));
        let git = GitServer::start().await;
        let github = GitHubApi::start(&git);
        github.add_token(TOKEN);
        for number in 0..REPOSITORIES {
            git.create_repo(&repository(number), &[("README.md", "hello\n")]);
            git.allow_push(&repository(number));
        }
        let host = git.address().to_string();
        let stack = Stack::builder()
            .replicas(self.callers, self.pulls, self.callers.div_ceil(2))
            .env("LOG_LEVEL", "warn")
            .env("GITHUB_TOKEN", TOKEN)
            .env("GIT_FORGES", format!("{host}=github"))
            .env("GIT_CREDENTIAL_HOSTS", host)
            .start()
            .await;
        let next = AtomicUsize::new(0);
        let field = Arc::new(Field { stack, git, github, next, options: self });
        let started = Instant::now();
        let (done, deaths) = field.strike_until_done(&mut report).await;
        report.figure("seconds", seconds(started.elapsed()));
        field.stack.wait_until_idle().await;
        report.figure("killed while delivering", deaths.delivering);
        deaths.conclude(&mut report).await;
        field.conclude(&mut report, &done);
        report
    }
}

fn repository(number: usize) -> String {
    format!("o/repository-{number}")
}

impl Field {
    fn deliver(&self) -> Value {
        json!({"mode": if self.options.pull_requests { "pull_request" } else { "branch" }})
    }

    /// Kills at every tick, as long as a caller has work.
    async fn strike_until_done(
        self: &Arc<Self>,
        report: &mut Report,
    ) -> (BTreeMap<usize, Done>, Deaths) {
        let mut callers = JoinSet::new();
        for _ in 0..self.options.callers {
            callers.spawn(Arc::clone(self).call());
        }
        let mut rng = Rng::with_seed(self.options.seed);
        let mut ticks = tokio::time::interval(self.options.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut all, mut deaths) = (BTreeMap::new(), Deaths::default());
        let mut told = Instant::now();
        loop {
            tokio::select! {
                one = callers.join_next() => {
                    let Some(one) = one else { return (all, deaths) };
                    for (number, done) in one.unwrap() {
                        match done {
                            Ok(done) => {
                                all.insert(number, done);
                            }
                            Err(broken) => report.violate(broken),
                        }
                    }
                }
                _ = ticks.tick() => {
                    deaths.strike(&self.stack, &["github-pull-api"], Of::AtWork, &mut rng);
                }
            }
            if told.elapsed() > Duration::from_secs(10) {
                told = Instant::now();
                let (begun, delivering) = (self.next.load(Ordering::Relaxed), deaths.delivering);
                let killed = &deaths.killed;
                let most = self.options.results;
                eprintln!(
                    "{begun} of {most} results begun, killed: {killed:?}, {delivering} of them delivering"
                );
            }
        }
    }

    /// A caller that has one result delivered after the other until there are enough.
    async fn call(self: Arc<Self>) -> Vec<(usize, Result<Done, String>)> {
        let mut done = Vec::new();
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.options.results {
                return done;
            }
            // In its own task, so that a violation ends this result and not the campaign.
            let one = tokio::spawn(Arc::clone(&self).one(number));
            done.push((number, one.await.map_err(sentence)));
        }
    }

    /// One result, as a caller has it who does not give up: a delivery whose replicas have died is asked for again, and a workflow
    /// only if its agent did not start.
    async fn one(self: Arc<Self>, number: usize) -> Done {
        let url = self.git.url(&repository(number % REPOSITORIES));
        let script = AgentScript::new().write(FILE, &format!("{number}\n"));
        let mut done = Done::default();
        let mut read = self.workflow(&url, &script, &mut done).await;
        while read.end != "complete" {
            let last = read.events.last().map(|event| event.json.clone()).unwrap_or_default();
            assert_eq!(read.end, "replica_lost", "result {number}: {last}");
            assert!(done.sent.len() < MOST_TRIES, "result {number} is never delivered");
            // The pull was lost, and its second attempt too: there is no result yet.
            if last["step"] == 1 {
                read = self.workflow(&url, &script, &mut done).await;
                continue;
            }
            let caller = Caller::deliver(&self.stack, &done.job, &self.deliver());
            done.again += 1;
            done.sent.push(caller.id.clone());
            read = caller.read().await;
        }
        done.told = read.events.last().map(|event| event.json.clone()).unwrap_or_default();
        done
    }

    async fn workflow(&self, url: &str, script: &AgentScript, done: &mut Done) -> Read {
        let caller = Caller::workflow(&self.stack, url, script).with("deliver", self.deliver());
        done.job.clone_from(&caller.id);
        done.sent.push(caller.id.clone());
        let read = caller.read().await;
        done.ends.push(read.end.clone());
        read
    }

    fn conclude(&self, report: &mut Report, done: &BTreeMap<usize, Done>) {
        let wanted = self.options.results;
        report.check(done.len() == wanted, || format!("{} of {wanted} results", done.len()));
        report.figure("results", done.len());
        let ends = done.values().flat_map(|it| it.ends.iter().cloned());
        report.figure("ends of the workflows", json!(count(ends)));
        report.figure(
            "asked again for the delivery alone",
            done.values().map(|it| it.again).sum::<usize>(),
        );
        let mut branches = 0;
        for number in 0..REPOSITORIES {
            branches += self.check_repository(report, number, done);
        }
        report.figure("branches at the host", branches);
        if self.options.pull_requests {
            let pulls = self.github.pulls();
            report.figure("pull requests at the host", pulls.len());
            let heads: BTreeSet<_> = pulls.iter().map(|it| (&it.repository, &it.head)).collect();
            report.check(pulls.len() == wanted && heads.len() == wanted, || {
                format!("{} pull requests of {} branches", pulls.len(), heads.len())
            });
            self.github.assert_valid();
        }
        let jobs = JobDirectory::all(self.stack.workspace());
        let found = jobs.iter().filter(|job| {
            let is_delivery = job.record().is_some_and(|it| it["path"] == DeliverRequest::PATH);
            is_delivery && job.says("has the result already")
        });
        report.figure("repetitions that found the result at the host", found.count());
        let sent: Vec<_> = done.values().flat_map(|it| it.sent.iter().cloned()).collect();
        report.figure("jobs sent", sent.len());
        check_volume(report, &self.stack, &sent.into_iter().collect());
    }

    /// Each result has a branch with one commit that says whose it is, and there are no others. Returns how many there are.
    fn check_repository(
        &self,
        report: &mut Report,
        number: usize,
        done: &BTreeMap<usize, Done>,
    ) -> usize {
        let name = repository(number);
        let listed = self.git.git(&name, &["branch", "--format=%(refname:short) %(objectname)"]);
        let mut branches: BTreeMap<&str, &str> =
            listed.lines().filter_map(|line| line.split_once(' ')).collect();
        branches.remove("main");
        let found = branches.len();
        for (result, done) in done.iter().filter(|(result, _)| *result % REPOSITORIES == number) {
            let job = &done.job;
            let branch = format!("agent/{}", &job[job.len() - 8..]);
            let Some(commit) = branches.remove(branch.as_str()) else {
                report.violate(format!("{name}: result {result} has no branch {branch}"));
                continue;
            };
            let commits = self.git.git(&name, &["rev-list", "--count", commit, "^main"]);
            let trailer = "--format=%(trailers:key=Job-Id,valueonly)";
            let jobs = self.git.git(&name, &["log", "-1", trailer, commit]);
            let content = self.git.git(&name, &["show", &format!("{commit}:{FILE}")]);
            let seen = (commits.as_str(), jobs.trim(), content.trim());
            report.check(seen == ("1", job, &result.to_string()), || {
                format!("{name} {branch}: (commits, Job-Id, result) {seen:?} instead of 1, {job}, {result}")
            });
            let delivery = done.told.get("delivery").unwrap_or(&done.told);
            report.check(delivery["branch"] == branch && delivery["commit"] == commit, || {
                format!("{name} {branch} is at {commit}, and its caller was told {}", done.told)
            });
            report.check(!self.options.pull_requests || delivery["url"].is_string(), || {
                format!("{name} {branch}: its caller was told no pull request: {}", done.told)
            });
        }
        report.check(branches.is_empty(), || format!("{name}: branches of nobody: {branches:?}"));
        found
    }
}
