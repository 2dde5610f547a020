use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::fixtures::workspace;

fn request(name: &str) -> TokenRequest {
    TokenRequest {
        name: name.parse().unwrap(),
        scopes: BTreeSet::from([Scope::Submit]),
        limits: CallerLimits::default(),
        expires: None,
    }
}

properties::fuzz! {
    /// Whatever a damaged record says, it gives nobody more than a whole one can.
    #[test]
    fn a_damaged_record_is_refused_or_round_trips(
        field in prop::sample::select(vec!["id", "name", "scopes", "limits", "expires", "created", "sha256", "unknown"]),
        value in prop_oneof![
            any::<String>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            Just(json!(["admin", "root"])),
            Just(json!(["admin", "admin"])),
            (any::<f64>(), any::<i64>()).prop_map(|(usd, running)| json!({"budgetUsdPerDay": usd, "running": running})),
            Just(Value::Null),
        ],
    ) {
        let token: BearerToken = format!("wfs_abcDEF12_{}", "s".repeat(43)).parse().unwrap();
        let mut json = serde_json::to_value(TokenRecord::of(&token, request("ci"))).unwrap();
        json[field] = value;
        let Ok(read) = serde_json::from_value::<TokenRecord>(json) else { return Ok(()) };
        prop_assert!(field != "unknown" && read.name.to_string().parse::<CallerName>().is_ok());
        prop_assert_eq!(read.is_of(&token), field != "sha256" && read.id == *token.id());
        let again = serde_json::to_string(&read).unwrap();
        prop_assert_eq!(serde_json::from_str::<TokenRecord>(&again).unwrap(), read);
    }
}

fn look(workspace: &Workspace) -> Tokens {
    let mut tokens = Tokens::default();
    tokens.look(workspace).unwrap();
    tokens
}

#[test]
fn a_token_is_created_recognized_and_revoked() {
    let (dir, workspace) = workspace();
    assert!(!look(&workspace).is_closed());
    let (record, token) = workspace.create_token(&request("ci")).unwrap();
    let (_, other) = workspace.create_token(&request("ci")).unwrap();
    let mut tokens = look(&workspace);
    assert!(tokens.is_closed());
    assert_eq!(tokens.get(token.id()), Some(&record));
    assert!(record.is_of(&token) && !record.is_of(&other));
    let forged = format!("wfs_{}_{}", token.id(), other.secret()).parse().unwrap();
    assert!(!record.is_of(&forged));
    assert!(!tokens.look(&workspace).unwrap(), "nothing has changed");
    assert!(workspace.revoke_token(token.id()).unwrap());
    assert!(!workspace.revoke_token(token.id()).unwrap());
    assert!(tokens.look(&workspace).unwrap() && tokens.get(token.id()).is_none());
    workspace.revoke_token(other.id()).unwrap();
    tokens.look(&workspace).unwrap();
    assert!(tokens.is_closed(), "revoking the last token must not open the stack");
    fs::remove_dir_all(dir.path().join(".stack/tokens")).unwrap();
    assert!(tokens.look(&workspace).unwrap() && !tokens.is_closed());
}

#[test]
fn only_the_digest_is_stored_and_only_its_owner_can_read_it() {
    let (dir, workspace) = workspace();
    let (_, token) = workspace.create_token(&request("ci")).unwrap();
    let directory = dir.path().join(".stack/tokens");
    let file = directory.join(format!("{}.json", token.id()));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&directory), mode(&file)), (0o700, 0o600));
    assert!(!fs::read_to_string(&file).unwrap().contains(token.secret()));
    assert_eq!(fs::read_dir(workspace.temporary()).unwrap().count(), 0);
}

#[test]
fn only_the_user_of_the_stack_creates_tokens() {
    let (dir, workspace) = workspace();
    let stack = dir.path().join(".stack");
    let user = fs::metadata(&stack).unwrap().uid();
    let error = workspace.check_user(user + 1).unwrap_err();
    assert!(error.to_string().contains(&format!("run this command as user {user}")), "{error}");
    // Only root can give it away. Others are refused by the line above.
    if chown(&stack, Some(user + 1), None).is_ok() {
        assert!(workspace.create_token(&request("ci")).is_err());
        assert!(!stack.join("tokens").exists(), "nothing is created that the stack cannot read");
        chown(&stack, Some(user), None).unwrap();
    }
    workspace.create_token(&request("ci")).unwrap();
}

#[test]
fn an_unreadable_file_costs_only_its_own_token() {
    let (dir, workspace) = workspace();
    let (_, lost) = workspace.create_token(&request("a")).unwrap();
    let (_, revoked) = workspace.create_token(&request("b")).unwrap();
    let mut tokens = look(&workspace);
    let directory = dir.path().join(".stack/tokens");
    let file = directory.join(format!("{}.json", lost.id()));
    fs::remove_file(&file).unwrap();
    // Opening it fails, also for root, and it is not damage.
    symlink(&file, &file).unwrap();
    fs::remove_file(directory.join("closed")).unwrap();
    workspace.revoke_token(revoked.id()).unwrap();
    let (made, _) = workspace.create_token(&request("c")).unwrap();
    fs::remove_file(directory.join("closed")).unwrap();
    assert!(tokens.look(&workspace).unwrap());
    assert_eq!(tokens.iter().collect::<Vec<_>>(), [&made]);
    workspace.revoke_token(&made.id).unwrap();
    assert!(tokens.look(&workspace).unwrap() && tokens.is_closed());
    assert!(!tokens.look(&workspace).unwrap(), "nothing has changed");
}

#[test]
fn a_damaged_file_costs_only_its_own_token() {
    let (dir, workspace) = workspace();
    let (record, good) = workspace.create_token(&request("a")).unwrap();
    let directory = dir.path().join(".stack/tokens");
    let content = fs::read_to_string(directory.join(format!("{}.json", good.id()))).unwrap();
    let with_field = content.replace("{", r#"{"admin":true,"#);
    let of_another_name = content.clone();
    for (name, content) in [
        ("AAAAAAAA.json", "{"),
        ("BBBBBBBB.json", ""),
        ("CCCCCCCC.json", &*with_field),
        ("DDDDDDDD.json", &*of_another_name),
        ("not-an-id.json", &*content),
    ] {
        fs::write(directory.join(name), content).unwrap();
    }
    let tokens = look(&workspace);
    assert_eq!(tokens.iter().collect::<Vec<_>>(), [&record]);
    // They stay: a later version may understand them.
    let is_token = |name: &str| name.ends_with(".json");
    let names = fs::read_dir(&directory).unwrap().map(|it| it.unwrap().file_name());
    assert_eq!(names.filter(|name| is_token(name.to_str().unwrap())).count(), 6);
    assert!(!workspace.damaged().exists());
    // The only token is damaged: nobody is let in because of that.
    fs::write(directory.join(format!("{}.json", good.id())), "x").unwrap();
    fs::remove_file(directory.join("closed")).unwrap();
    let tokens = look(&workspace);
    assert_eq!((tokens.iter().count(), tokens.is_closed()), (0, true));
    assert!(directory.join("CCCCCCCC.json").exists());
}

#[test]
fn the_last_use_is_kept() {
    let (_dir, workspace) = workspace();
    let (record, _) = workspace.create_token(&request("a")).unwrap();
    assert_eq!(workspace.token_last_used(&record.id).unwrap(), None);
    workspace.note_token_use(&record.id).unwrap();
    let used = workspace.token_last_used(&record.id).unwrap().unwrap();
    let age = Timestamp::now().as_millisecond() - used.as_millisecond();
    assert!((0..60_000).contains(&age), "{age}");
}

#[test]
fn random_text_has_no_bias_and_no_repetition() {
    let text = random_text(62_000).unwrap();
    for character in BASE62 {
        let count = text.bytes().filter(|byte| byte == character).count();
        assert!((800..1200).contains(&count), "{}: {count}", char::from(*character));
    }
    assert_ne!(random_token().unwrap().secret(), random_token().unwrap().secret());
}
