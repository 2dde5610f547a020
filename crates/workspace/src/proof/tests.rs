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
    sign(&workspace).unwrap();
    (dir, workspace)
}

/// As a part of a stack does whose secret is on the volume.
fn sign(workspace: &Workspace) -> Result<Option<StackSecret>> {
    workspace.sign_with(Some(&workspace.stack_secret_file()))
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
    fs::write(workspace.signed_path(), secret.seal(About::Since, &signed)).unwrap();
    let workspace = ignorant(dir);
    sign(&workspace).unwrap();
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
        assert!(job.claim("late").unwrap_err().is_forged());
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
fn a_forged_wish_to_cancel_is_none_and_hides_no_real_one() {
    let (_dir, workspace) = signing();
    let (job, other) = (workflow(&workspace), workflow(&workspace));
    let path = |job: &Job| job.control().join("cancel");
    other.request_cancel().unwrap();
    let forge: [&dyn Fn(); 3] = [
        &|| fs::write(path(&job), "").unwrap(),
        &|| fs::copy(path(&other), path(&job)).map(drop).unwrap(),
        &|| fs::create_dir(path(&job)).unwrap(),
    ];
    for (count, forge) in forge.into_iter().enumerate() {
        forge();
        assert!(!job.is_cancel_requested().unwrap());
        assert_eq!(aside(&workspace), count, "whoever only looks changes nothing");
        job.request_cancel().unwrap();
        assert!(job.is_cancel_requested().unwrap());
        fs::remove_file(path(&job)).unwrap();
    }
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
fn a_forged_admission_admits_nobody() {
    let (_dir, workspace) = signing();
    let (job, other) = (workflow(&workspace), workflow(&workspace));
    let (mine, theirs) = (JobId::new(), JobId::new());
    let admits = |job: &Job, id| job.admits_child(&[Service::Pull], (Service::Pull, None), id);
    assert!(admits(&other, theirs).unwrap());
    let file = |job: &Job| job.directory().join("admitted/github-pull-api.0");
    fs::create_dir(job.directory().join("admitted")).unwrap();
    fs::copy(file(&other), file(&job)).unwrap();
    let forged = json!({"job": theirs}).to_string();
    for id in [theirs, mine] {
        assert!(admits(&job, id).unwrap_err().is_forged());
        fs::write(file(&job), &forged).unwrap();
    }
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

    // An operator looks at them, and believes them.
    fs::remove_file(workspace.owners().join("moved")).unwrap();
    let found = workspace.unproven_records().unwrap();
    let mut what: Vec<_> = found.iter().map(|it| it.what.clone()).collect();
    what.sort();
    assert!(what[0].starts_with("checkout other of 'ann', since 2"), "{what:?}");
    assert!(
        what[1].starts_with(&format!("session {} of 'ann' in mine, created 2", ids[1])),
        "{what:?}"
    );
    let token = format!("token {} of 'theirs' (admin), limits {{}}, created 2", theirs.id);
    assert!(what[2].starts_with(&token) && what[2].ends_with("expires never"), "{what:?}");
    assert_eq!(what.len(), 3);
    for record in &found {
        assert_eq!(workspace.adopt(record).unwrap(), Adopted::Signed, "{record:?}");
    }
    assert!(workspace.unproven_records().unwrap().is_empty());
    assert_eq!(known().len(), 2);
    assert_eq!(workspace.owner_of_directory(&other).unwrap(), Some(caller));
    assert!(opened(ids[1]).unwrap());
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(fs::metadata(file(&theirs.id)).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn what_has_changed_since_it_was_listed_is_not_adopted() {
    let (dir, workspace) = signing();
    let foreign = ignorant(&dir);
    let place = WorkspacePath::parse("mine", "/w").unwrap();
    let ids = [SessionId::new(), SessionId::new(), SessionId::new()];
    let make = |id| Session::create(&foreign, id, &place).unwrap();
    let (changed, gone, (_, _turn)) = (make(ids[0]), make(ids[1]), make(ids[2]));
    let found = workspace.unproven_records().unwrap();
    let listed = fingerprint(&found);
    assert_eq!(fingerprint(&workspace.unproven_records().unwrap()), listed);
    changed.0.touch(&WorkspacePath::parse("elsewhere", "/w").unwrap()).unwrap();
    drop(changed);
    assert_ne!(fingerprint(&workspace.unproven_records().unwrap()), listed);
    assert_ne!(fingerprint(&found[..2]), listed);
    fs::remove_dir_all(workspace.session(ids[1])).unwrap();
    drop(gone);
    let adopted = |id: SessionId| {
        let of = |it: &&UnprovenRecord| it.what.contains(&id.to_string());
        workspace.adopt(found.iter().find(of).unwrap()).unwrap()
    };
    assert_eq!(ids.map(adopted), [Adopted::Changed, Adopted::Changed, Adopted::Busy]);
    assert_eq!(workspace.unproven_records().unwrap().len(), 2);
}

#[test]
fn what_another_secret_has_signed_can_be_adopted() {
    let (dir, workspace) = signing();
    let caller: CallerName = "ann".parse().unwrap();
    let app = DirectoryName::parse("app").unwrap();
    workspace.claim_directory(&app, &caller).unwrap();
    // The secret is changed, as docs/SECURITY.md says.
    fs::write(workspace.stack_secret_file(), "8".repeat(64)).unwrap();
    fs::remove_file(workspace.signed_path()).unwrap();
    let workspace = ignorant(&dir);
    sign(&workspace).unwrap();
    assert!(workspace.owner_of_directory(&app).unwrap_err().is_forged());
    let found = workspace.unproven_records().unwrap();
    assert!(found[0].what.ends_with(", with a wrong proof"), "{found:?}");
    assert_eq!(workspace.adopt(&found[0]).unwrap(), Adopted::Signed);
    assert_eq!(workspace.owner_of_directory(&app).unwrap(), Some(caller));
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
    let late = queued.clone();
    // It came after the stack had begun to sign, so it is not of an earlier version.
    assert!(at(&workspace, &ended).record().unwrap_err().is_forged());
    let workspace = signs_later(&dir, &workspace);
    let view = at(&workspace, &ended).view().unwrap();
    assert_eq!((view.state, view.code), (JobState::Failed, Some(Code::AgentFailed)));
    assert!(view.caller.is_anonymous(), "it may have been anybody's");
    assert_eq!(at(&workspace, &ended).owner().unwrap(), None);
    assert!(at(&workspace, &ended).record().unwrap_err().is_forged(), "it starts nothing");
    let place = WorkspacePath::parse(&format!("jobs/{}/r", ended.id()), "/w").unwrap();
    assert_eq!(workspace.owner_of_place(&place).unwrap(), None);
    // Nor does one whose outcome comes at the very moment at which it is looked at.
    fs::copy(ended.directory().join("outcome"), late.directory().join("outcome")).unwrap();
    assert!(at(&workspace, &late).record().unwrap_err().is_forged());
    fs::remove_file(late.directory().join("outcome")).unwrap();
    assert!(at(&workspace, &late).claim("replica").unwrap_err().is_forged());
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
fn who_cannot_sign_as_the_stack_does_neither_starts_nor_changes_anything() {
    let (dir, workspace) = signing();
    let again = ignorant(&dir);
    sign(&again).unwrap();
    assert_eq!(again.signing().unwrap().since, workspace.signing().unwrap().since);
    let (secret, signed) = (workspace.stack_secret_file(), workspace.signed_path());
    let other = dir.path().join("other");
    fs::write(&other, "8".repeat(64)).unwrap();
    let refused = |file: Option<&Path>| {
        let process = ignorant(&dir);
        let error = process.sign_with(file).unwrap_err();
        assert!(matches!(error, Error::CannotSign { .. }), "{error}");
        assert!(!process.signs());
        error.to_string()
    };
    let good = fs::read(&signed).unwrap();
    assert!(refused(Some(&other)).contains("another secret"));
    assert!(refused(None).contains("STACK_SECRET_FILE"));
    assert!(ignorant(&dir).sign_like_the_stack(Some(&other)).is_err());
    assert_eq!(fs::read(&signed).unwrap(), good);
    // A secret that is lost is not made again.
    let kept = fs::read(&secret).unwrap();
    fs::remove_file(&secret).unwrap();
    assert!(refused(Some(&secret)).contains("is gone"));
    assert!(ignorant(&dir).stack_secret().is_err() && !secret.exists());
    fs::write(&secret, kept).unwrap();
    // Nor is a beginning believed that somebody has changed.
    let later = json!({"since": "2100-01-01T00:00:00.000Z"}).to_string();
    for content in [String::from_utf8_lossy(&good).replacen(":\"20", ":\"21", 1), later, "{".into()]
    {
        fs::write(&signed, content).unwrap();
        refused(Some(&secret));
        assert!(ignorant(&dir).sign_like_the_stack(None).is_err());
    }
    fs::write(&signed, good).unwrap();
    sign(&ignorant(&dir)).unwrap();
}

#[test]
fn an_operator_s_command_does_not_make_a_stack_sign() {
    let (dir, workspace) = fixtures::workspace();
    let other = dir.path().join("other");
    fs::write(&other, "8".repeat(64)).unwrap();
    for file in [None, Some(&other), Some(&workspace.stack_secret_file())] {
        let command = ignorant(&dir);
        command.sign_like_the_stack(file.map(PathBuf::as_path)).unwrap();
        assert!(!command.signs(), "the stack does not sign either");
    }
    assert!(!workspace.signed_path().exists() && !workspace.stack_secret_file().exists());
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
