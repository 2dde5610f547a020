use std::collections::BTreeSet;

use contract::{
    CallerLimits, CallerName, Code, Ending, JobState, Scope, Service, TokenRequest, WorkspacePath,
};
use proptest::prelude::*;
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::{
    Job, JobRecord, NewJob, Session, Tokens,
    fixtures::{self, create},
};

/// A volume whose processes sign.
fn signing() -> (TempDir, Workspace) {
    let (dir, workspace) = fixtures::workspace();
    workspace.sign_with(&workspace.stack_secret().unwrap()).unwrap();
    (dir, workspace)
}

/// The same volume, for a process that does not know the secret.
fn ignorant(dir: &TempDir) -> Workspace {
    Workspace::open(dir.path()).unwrap()
}

fn workflow(workspace: &Workspace) -> Job {
    create(workspace, &fixtures::record(None, &json!({"prompt": "x"})))
}

fn failure(job: &Job) -> Ending {
    Ending::failure(Service::Workflow, job.id(), Code::AgentFailed, "x")
}

fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(path, text.replace(from, to)).unwrap();
}

/// Takes the proof out of a record.
fn strip(path: &Path) {
    let record = RawRecord::read(path, 1 << 20).unwrap().unwrap();
    assert!(record.proof.is_some());
    fs::write(path, record.content).unwrap();
}

fn aside(workspace: &Workspace) -> usize {
    fs::read_dir(workspace.damaged()).map_or(0, Iterator::count)
}

/// As if the stack had begun to sign in an hour: all jobs of now are of an earlier version, if they have no proof.
fn signs_later(dir: &TempDir, workspace: &Workspace) -> Workspace {
    let later = Timestamp::from_millisecond(Timestamp::now().as_millisecond() + 3_600_000);
    let signed = serde_json::to_vec(&Signed { since: later }).unwrap();
    let secret = workspace.stack_secret().unwrap();
    fs::write(workspace.signed_since(), secret.seal(About::Since, &signed)).unwrap();
    let workspace = ignorant(dir);
    workspace.sign_with(&secret).unwrap();
    workspace
}

#[test]
fn a_record_is_one_object_that_others_can_read() {
    let (dir, workspace) = signing();
    let job = workflow(&workspace);
    job.claim("r").unwrap().unwrap().finish(failure(&job)).unwrap();
    for name in ["job.json", "claim", "outcome"] {
        let content = fs::read(job.directory().join(name)).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&content).unwrap();
        assert_eq!(value["proof"].as_str().unwrap().len(), DIGITS, "{name}");
    }
    let other = Job::open(&ignorant(&dir), job.id()).unwrap().unwrap();
    assert_eq!(other.view().unwrap(), job.view().unwrap());
    assert_eq!(job.view().unwrap().code, Some(Code::AgentFailed));
}

#[test]
fn a_changed_record_of_a_job_is_not_run() {
    let (_dir, workspace) = signing();
    for (from, to) in [
        (r#""prompt":"x""#, r#""prompt":"y""#),
        (r#""caller":"anonymous""#, r#""caller":"boss""#),
        (r#""created":"#, r#""parent":"00000000-0000-7000-8000-000000000001","created":"#),
        (r#""created":"#, r#""gateway":"00000000-0000-7000-8000-000000000001","created":"#),
        (r#"{"proof":""#, r#"{"prove":""#),
    ] {
        let job = workflow(&workspace);
        edit(&job.directory().join("job.json"), from, to);
        let damage = job.record().unwrap_err();
        assert!(damage.is_forged(), "{to}: {damage}");
        assert_eq!(damage.refusal().code, Code::RecordForged);
        let outcome = job.end_forged("gateway", &damage).unwrap().unwrap();
        assert_eq!((outcome.state, outcome.code), (JobState::Failed, Some(Code::RecordForged)));
        assert_eq!(job.outcome().unwrap().unwrap().code, Some(Code::RecordForged));
        assert!(job.claim("late").unwrap().is_none());
    }
}

#[test]
fn a_record_that_is_copied_stripped_or_of_another_life_proves_nothing() {
    let (_dir, workspace) = signing();
    let (one, other) = (workflow(&workspace), workflow(&workspace));
    for job in [&one, &other] {
        job.claim("r").unwrap().unwrap().finish(failure(job)).unwrap();
    }
    let path = |job: &Job, name: &str| job.directory().join(name);
    for name in ["job.json", "claim", "outcome"] {
        let good = fs::read(path(&one, name)).unwrap();
        let is_forged = || match name {
            "job.json" => one.record().is_err_and(|error| error.is_forged()),
            "claim" => one.claimed().unwrap().unwrap().by == "unknown",
            _ => one.outcome().is_err_and(|error| error.is_forged()),
        };
        assert!(!is_forged());
        fs::copy(path(&other, name), path(&one, name)).unwrap();
        assert!(is_forged(), "{name} of another job");
        fs::write(path(&one, name), &good).unwrap();
        strip(&path(&one, name));
        assert!(is_forged(), "{name} without its proof");
        fs::write(path(&one, name), &good).unwrap();
    }
    // Of another kind.
    fs::copy(path(&one, "claim"), path(&one, "outcome")).unwrap();
    assert!(one.outcome().unwrap_err().is_forged());
    // A job of the same ID, after the first was deleted.
    let again = JobRecord { job_id: other.id(), ..fixtures::record(None, &json!({"prompt": "z"})) };
    let old: Vec<_> = ["claim", "outcome"].map(|name| fs::read(path(&other, name)).unwrap()).into();
    fs::remove_dir_all(other.directory()).unwrap();
    let NewJob::Created(again) = Job::create(&workspace, &again).unwrap() else { panic!() };
    for (name, content) in ["claim", "outcome"].iter().zip(old) {
        fs::write(path(&again, name), content).unwrap();
    }
    assert!(again.outcome().unwrap_err().is_forged());
    assert_eq!(again.claimed().unwrap().unwrap().by, "unknown");
}

#[test]
fn a_forged_outcome_ends_neither_a_queued_nor_a_running_job() {
    let (dir, workspace) = signing();
    let forge = |job: &Job| {
        let other = workflow(&ignorant(&dir));
        other.claim("r").unwrap().unwrap().finish(failure(&other)).unwrap();
        fs::copy(other.directory().join("outcome"), job.directory().join("outcome")).unwrap();
    };
    let queued = workflow(&workspace);
    forge(&queued);
    assert_eq!(queued.view().unwrap().state, JobState::Queued);
    let claimed = queued.claim("r").unwrap().expect("it can still run");
    assert_eq!(aside(&workspace), 1);
    forge(&queued);
    assert_eq!(queued.view().unwrap().state, JobState::Running);
    let outcome = claimed.finish(Ending::success(&json!({"type": "completed"}))).unwrap();
    assert_eq!((outcome.state, aside(&workspace)), (JobState::Succeeded, 2));
    assert_eq!(queued.view().unwrap().state, JobState::Succeeded);
    // Whose process is dead, and who knows how it ended?
    forge(&queued.clone());
    assert_eq!(queued.settle().unwrap().unwrap().code, Some(Code::RecordForged));
}

#[test]
fn a_forged_claim_costs_its_own_job_and_lets_it_run_never_twice() {
    let (_dir, workspace) = signing();
    let (job, whole) = (workflow(&workspace), workflow(&workspace));
    fs::write(
        job.directory().join("claim"),
        json!({"by": "x", "at": Timestamp::now(), "run": true}).to_string(),
    )
    .unwrap();
    assert!(job.claim("r").unwrap().is_none());
    assert_eq!(job.settle().unwrap().unwrap().code, Some(Code::RecordForged));
    let running = whole.claim("r").unwrap().unwrap();
    edit(&whole.directory().join("claim"), r#""by":"r""#, r#""by":"q""#);
    assert!(whole.settle().unwrap().is_none(), "its process is alive, and ends it");
    running.finish(failure(&whole)).unwrap();
    assert_eq!(whole.view().unwrap().code, Some(Code::AgentFailed));
}

#[test]
fn a_forged_wish_to_cancel_is_set_aside_and_hides_no_real_one() {
    let (_dir, workspace) = signing();
    let (job, other) = (workflow(&workspace), workflow(&workspace));
    let path = |job: &Job| job.control().join("cancel");
    other.request_cancel().unwrap();
    fs::write(path(&job), "").unwrap();
    assert!(!job.is_cancel_requested().unwrap());
    fs::copy(path(&other), path(&job)).unwrap();
    assert!(!job.is_cancel_requested().unwrap());
    fs::create_dir(path(&job)).unwrap();
    job.request_cancel().unwrap();
    assert!(job.is_cancel_requested().unwrap());
    assert_eq!(aside(&workspace), 3);
}

#[test]
fn only_its_own_jobs_end_with_a_parent() {
    let (_dir, workspace) = signing();
    let (parent, victim) = (workflow(&workspace), workflow(&workspace));
    let child = create(&workspace, &fixtures::record(Some(parent.id()), &json!({"prompt": "x"})));
    fs::write(parent.directory().join("children").join(victim.id().to_string()), "").unwrap();
    assert_eq!(parent.children().unwrap(), [child.id()]);
    parent.claim("r").unwrap().unwrap().finish(failure(&parent)).unwrap();
    assert!(child.is_cancel_requested().unwrap() && !victim.is_cancel_requested().unwrap());
}

#[test]
fn a_forged_admission_keeps_no_job_out() {
    let (_dir, workspace) = signing();
    let (job, other) = (workflow(&workspace), workflow(&workspace));
    let (mine, theirs) = (JobId::new(), JobId::new());
    let admits =
        |job: &Job, id| job.admits_child(&[Service::Pull], (Service::Pull, None), id).unwrap();
    assert!(admits(&other, theirs));
    let file = |job: &Job| job.directory().join("admitted/github-pull-api.0");
    fs::create_dir(job.directory().join("admitted")).unwrap();
    fs::copy(file(&other), file(&job)).unwrap();
    assert!(admits(&job, mine) && !admits(&job, theirs));
    fs::write(file(&job), json!({"job": theirs}).to_string()).unwrap();
    assert!(admits(&job, mine) && !admits(&job, theirs));
    assert_eq!(aside(&workspace), 2);
}

fn token_of(name: &str) -> TokenRequest {
    TokenRequest {
        name: name.parse().unwrap(),
        scopes: BTreeSet::from([Scope::Admin]),
        limits: CallerLimits::default(),
        expires: None,
    }
}

#[test]
fn tokens_owners_and_sessions_are_believed_with_a_proof_or_once_adopted() {
    let (dir, workspace) = signing();
    let foreign = ignorant(&dir);
    let known = || {
        let mut tokens = Tokens::default();
        tokens.look(&workspace).unwrap();
        tokens.iter().map(|it| it.name.to_string()).collect::<Vec<_>>()
    };
    let (ours, _) = workspace.create_token(&token_of("ours")).unwrap();
    let (theirs, _) = foreign.create_token(&token_of("theirs")).unwrap();
    assert_eq!(known(), ["ours"]);
    let directory = dir.path().join(".stack/tokens");
    let file = |id: &TokenId| directory.join(format!("{id}.json"));
    let good = fs::read(file(&ours.id)).unwrap();
    edit(&file(&ours.id), r#""ours""#, r#""boss""#);
    assert!(known().is_empty());
    fs::write(file(&ours.id), &good).unwrap();

    let [mine, other] = ["mine", "other"].map(|name| DirectoryName::parse(name).unwrap());
    let caller: CallerName = "ann".parse().unwrap();
    workspace.claim_directory(&mine, &caller).unwrap();
    foreign.claim_directory(&other, &caller).unwrap();
    assert_eq!(workspace.owner_of_directory(&mine).unwrap(), Some(caller.clone()));
    assert!(workspace.owner_of_directory(&other).unwrap_err().is_forged());
    assert!(workspace.claim_directory(&other, &caller).is_err(), "it is not given away");
    fs::copy(workspace.owners().join("mine"), workspace.owners().join("moved")).unwrap();
    let moved = DirectoryName::parse("moved").unwrap();
    assert!(workspace.owner_of_directory(&moved).unwrap_err().is_forged());

    let place = WorkspacePath::parse("mine", "/w").unwrap();
    let ids = [SessionId::new(), SessionId::new()];
    drop(Session::create_for(&workspace, ids[0], &place, &caller).unwrap());
    drop(Session::create_for(&foreign, ids[1], &place, &caller).unwrap());
    let opened = |id| Session::open(&workspace, id).map(|it| it.is_some());
    assert!(opened(ids[0]).unwrap() && opened(ids[1]).unwrap_err().is_damage());

    // An operator looks at them, and believes them. What has a wrong proof is not among them.
    let found = workspace.unproven_records().unwrap();
    let mut what: Vec<_> = found.iter().map(|it| it.what.clone()).collect();
    what.sort();
    let expected = [
        "checkout other of 'ann'".to_owned(),
        format!("session {} of 'ann' in mine", ids[1]),
        format!("token {} of 'theirs' (admin)", theirs.id),
    ];
    assert_eq!(what, expected);
    found.iter().for_each(|record| workspace.adopt(record).unwrap());
    assert!(workspace.unproven_records().unwrap().is_empty());
    assert_eq!(known().len(), 2);
    assert_eq!(workspace.owner_of_directory(&other).unwrap(), Some(caller));
    assert!(opened(ids[1]).unwrap());
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(fs::metadata(file(&theirs.id)).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_gateway_that_was_closed_stays_closed_without_its_tokens() {
    let (dir, workspace) = signing();
    workspace.create_token(&token_of("a")).unwrap();
    let mut tokens = Tokens::default();
    tokens.look(&workspace).unwrap();
    // The files go before their directory.
    let directory = dir.path().join(".stack/tokens");
    fs::remove_file(directory.join("closed")).unwrap();
    let token = tokens.iter().next().unwrap().id.clone();
    workspace.revoke_token(&token).unwrap();
    assert!(tokens.look(&workspace).unwrap() && tokens.is_closed());
    fs::remove_dir_all(directory).unwrap();
    assert!(!tokens.look(&workspace).unwrap());
    assert!(tokens.is_closed() && tokens.iter().next().is_none());
}

#[test]
fn a_revoked_token_that_is_put_back_is_not_valid() {
    let (dir, workspace) = signing();
    let (revoked, _) = workspace.create_token(&token_of("a")).unwrap();
    let (kept, _) = workspace.create_token(&token_of("b")).unwrap();
    let mut tokens = Tokens::default();
    tokens.look(&workspace).unwrap();
    let path = dir.path().join(format!(".stack/tokens/{}.json", revoked.id));
    let content = fs::read(&path).unwrap();
    workspace.revoke_token(&revoked.id).unwrap();
    tokens.look(&workspace).unwrap();
    for _ in 0..2 {
        fs::write(&path, &content).unwrap();
        tokens.look(&workspace).unwrap();
        assert_eq!(tokens.iter().collect::<Vec<_>>(), [&kept]);
        fs::remove_file(&path).unwrap();
        tokens.look(&workspace).unwrap();
    }
}

#[test]
fn what_an_earlier_version_wrote_can_be_read_and_is_never_run() {
    let (dir, workspace) = signing();
    let foreign = ignorant(&dir);
    let owned = JobRecord { caller: "ann".parse().unwrap(), ..fixtures::record(None, &json!({})) };
    let (ended, queued, running) =
        (create(&foreign, &owned), workflow(&foreign), workflow(&foreign));
    ended.claim("r").unwrap().unwrap().finish(failure(&ended)).unwrap();
    drop(running.claim("r").unwrap().unwrap());
    let at = |workspace: &Workspace, job: &Job| Job::open(workspace, job.id()).unwrap().unwrap();
    // It came after the stack had begun to sign, so it is not of an earlier version.
    assert!(at(&workspace, &ended).record().unwrap_err().is_forged());
    let workspace = signs_later(&dir, &workspace);
    let view = at(&workspace, &ended).view().unwrap();
    assert_eq!((view.state, view.code), (JobState::Failed, Some(Code::AgentFailed)));
    assert!(view.caller.is_anonymous(), "it may have been anybody's");
    for job in [queued, running] {
        let job = at(&workspace, &job);
        let damage = job.record().unwrap_err();
        let outcome = job.end_forged("gateway", &damage).unwrap().unwrap();
        assert_eq!(outcome.code, Some(Code::RecordForged));
        assert_eq!(job.view().unwrap().code, Some(Code::RecordForged));
    }
    // One with a proof needs it in all its records, whenever it was created.
    let signed = workflow(&workspace);
    signed.claim("r").unwrap().unwrap().finish(failure(&signed)).unwrap();
    strip(&signed.directory().join("outcome"));
    assert!(signed.outcome().unwrap_err().is_forged());
}

#[test]
fn the_beginning_of_signing_is_kept_and_cannot_be_moved() {
    let (dir, workspace) = signing();
    let job = JobId::new();
    let secret = workspace.stack_secret().unwrap();
    let again = ignorant(&dir);
    again.sign_with(&secret).unwrap();
    assert_eq!(again.signing().unwrap().since, workspace.signing().unwrap().since);
    let later = json!({"since": "2100-01-01T00:00:00.000Z"}).to_string();
    let path = workspace.signed_since();
    edit(&path, "\"since\":\"20", "\"since\":\"21");
    for content in [fs::read_to_string(&path).unwrap(), later, "{".to_owned()] {
        fs::write(&path, content).unwrap();
        let forged = ignorant(&dir);
        forged.sign_with(&secret).unwrap();
        assert!(!forged.may_be_unsigned(job));
        // An operator's command does not sign with what may be the wrong secret.
        assert!(ignorant(&dir).sign_like_the_stack(None).unwrap_err().is_forged());
    }
    fs::remove_file(&path).unwrap();
    let unsigned = ignorant(&dir);
    unsigned.sign_like_the_stack(None).unwrap();
    assert!(!unsigned.signs(), "the stack does not sign either");
}

/// `JobId` `x` with other bits of randomness.
fn id(bits: u128) -> JobId {
    let bits = (bits & !(0xf << 76) & !(0x3 << 62)) | (0x7 << 76) | (0x2 << 62);
    uuid::Uuid::from_u128(bits).to_string().parse().unwrap()
}

/// Any bytes, or what begins like a record with a proof.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let fields = prop_oneof![
        Just(r#""job":"x"}"#.to_owned()),
        Just(r#""by":"r","at":"2026-01-31T12:00:00.000Z","run":true}"#.to_owned()),
        ".{0,60}",
    ];
    let sealed = ("[0-9a-f]{64}", fields)
        .prop_map(|(proof, fields)| format!(r#"{{"proof":"{proof}",{fields}"#).into_bytes());
    prop_oneof![any::<Vec<u8>>(), sealed]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is in a file, it is damage of that file, and neither believed nor an error of the volume.
    #[test]
    fn hostile_files_are_damaged_and_cost_nothing_else(content in hostile()) {
        static VOLUME: std::sync::OnceLock<(TempDir, Workspace, Job)> = std::sync::OnceLock::new();
        let (dir, workspace, job) = VOLUME.get_or_init(|| {
            let (dir, workspace) = signing();
            let job = workflow(&workspace);
            fs::create_dir(job.directory().join("admitted")).unwrap();
            (dir, workspace, job)
        });
        let put = |path: PathBuf| {
            fs::write(&path, &content).unwrap();
            path
        };
        let path = put(job.directory().join("claim"));
        prop_assert_eq!(job.claimed().unwrap().unwrap().by, "unknown");
        fs::remove_file(path).unwrap();
        let path = put(job.directory().join("outcome"));
        prop_assert!(job.outcome().unwrap_err().is_forged());
        fs::remove_file(path).unwrap();
        put(job.control().join("cancel"));
        prop_assert!(!job.is_cancel_requested().unwrap());
        let name = DirectoryName::parse("app").unwrap();
        put(workspace.owners().join("app"));
        prop_assert!(workspace.owner_of_directory(&name).unwrap_err().is_forged());
        let id = SessionId::new();
        fs::create_dir(workspace.session(id)).unwrap();
        put(workspace.session(id).join("meta.json"));
        prop_assert!(Session::open(workspace, id).unwrap_err().is_damage());
        fs::create_dir_all(dir.path().join(".stack/tokens")).unwrap();
        put(dir.path().join(".stack/tokens/AAAAAAAA.json"));
        let mut tokens = Tokens::default();
        tokens.look(workspace).unwrap();
        prop_assert!(tokens.iter().next().is_none());
        let record = job.directory().join("job.json");
        let good = fs::read(&record).unwrap();
        put(record.clone());
        prop_assert!(job.record().unwrap_err().is_forged());
        fs::write(record, good).unwrap();
        prop_assert_eq!(job.view().unwrap().state, JobState::Queued);
    }
}

proptest! {
    #[test]
    fn no_content_is_read_as_proven_that_was_not_sealed(content in any::<Vec<u8>>()) {
        let (path, secret) = (Path::new("x"), StackSecret::read(&secret_file()).unwrap());
        let record = RawRecord::parse(content);
        prop_assert!(!matches!(secret.check(About::Job(id(1)), path, &record), Ok(Proof::Valid(_))));
    }

    #[test]
    fn every_change_of_a_sealed_record_is_found(
        text in ".{0,40}", bits in any::<u128>(), at in any::<proptest::sample::Index>(), bit in 0_u8..8, spaces in 0_usize..9,
    ) {
        let (path, secret) = (Path::new("x"), StackSecret::read(&secret_file()).unwrap());
        let about = About::Job(id(bits));
        let record = serde_json::to_vec(&json!({"text": text})).unwrap();
        let mut sealed = secret.seal(about, &record);
        let padded = [sealed.as_slice(), &vec![b' '; spaces]].concat();
        let parsed = RawRecord::parse(padded);
        prop_assert_eq!(&parsed.content, &record);
        prop_assert!(matches!(secret.check(about, path, &parsed), Ok(Proof::Valid(_))));
        prop_assert!(secret.check(About::Job(id(bits ^ 1)), path, &parsed).is_err());
        prop_assert!(secret.check(About::Session(SessionId::new()), path, &parsed).is_err());
        let at = at.index(sealed.len());
        sealed[at] ^= 1 << bit;
        let changed = RawRecord::parse(sealed);
        prop_assert!(!matches!(secret.check(about, path, &changed), Ok(Proof::Valid(_))));
    }
}

/// A file with a secret, the same in all cases of a property.
fn secret_file() -> PathBuf {
    static FILE: std::sync::OnceLock<(TempDir, PathBuf)> = std::sync::OnceLock::new();
    let (_dir, path) = FILE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        fs::write(&path, "7".repeat(64)).unwrap();
        (dir, path)
    });
    path.clone()
}

/// What signing costs, for people: `cargo test -p workspace --release cost -- --ignored --nocapture`.
#[test]
#[ignore = "prints times"]
fn cost_of_a_life() {
    let (dir, signing) = signing();
    for round in 0..6 {
        let workspace = if round % 2 == 0 { ignorant(&dir) } else { signing.clone() };
        let begun = std::time::Instant::now();
        for _ in 0..500 {
            let job = workflow(&workspace);
            job.record().unwrap();
            job.claim("r").unwrap().unwrap().finish(failure(&job)).unwrap();
            job.outcome().unwrap().unwrap();
            job.view().unwrap();
        }
        eprintln!("signs: {}, {:?} a job", workspace.signs(), begun.elapsed() / 500);
    }
}
