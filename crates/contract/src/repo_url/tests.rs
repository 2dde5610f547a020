use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Result<RepoUrl, (Code, String)> {
    RepoUrl::parse(text, &Policy::default())
}

#[test]
fn allowed() {
    for (text, host, path, name) in [
        ("https://github.com/User/repo.git", "github.com", "User/repo", "repo"),
        ("https://GitHub.com:443/User/repo/", "github.com", "User/repo", "repo"),
        ("http://127.0.0.1:8080/a/b.git", "127.0.0.1:8080", "a/b", "b"),
        ("ssh://git@host:2222/x.git", "host:2222", "x", "x"),
        ("git@github.com:user/repo.git", "github.com", "user/repo", "repo"),
        ("git@host:/srv/git/x.git", "host", "srv/git/x", "x"),
        ("git://host/x", "host", "x", "x"),
        ("git://[::1]:9419/x", "[::1]:9419", "x", "x"),
        ("ssh://git@[FD00::1]/x", "[fd00::1]", "x", "x"),
    ] {
        let url = parse(text).unwrap();
        assert_eq!(
            (url.host(), url.path.as_str(), url.directory_name().as_str()),
            (host, path, name)
        );
    }
}

#[test]
fn refused() {
    for (text, code) in [
        ("file:///etc", Code::SchemeNotAllowed),
        ("/etc", Code::SchemeNotAllowed),
        ("relative/path", Code::SchemeNotAllowed),
        ("ext::sh -c id", Code::SchemeNotAllowed),
        ("fd::17", Code::SchemeNotAllowed),
        ("ftp://host/x", Code::SchemeNotAllowed),
        ("javascript://x/y", Code::SchemeNotAllowed),
        ("--upload-pack=touch /tmp/x", Code::InvalidField),
        ("-x", Code::InvalidField),
        ("", Code::InvalidField),
        ("https://", Code::InvalidField),
        ("https://github.com", Code::InvalidField),
        ("https://host/a b", Code::InvalidField),
        ("https://host/r.git?private_token=x", Code::InvalidField),
        ("oauth2:s3cret@github.com/user/repo.git", Code::InvalidField),
        ("https:s3cret@github.com/user/repo.git", Code::InvalidField),
        ("https://host/a\0b", Code::InvalidField),
        ("ssh://-oProxyCommand=x/y", Code::InvalidField),
        ("-oProxyCommand=x@host:y", Code::InvalidField),
        ("git@-host:y", Code::InvalidField),
        ("ssh://a$(id)b/y", Code::InvalidField),
        ("ssh://a`id`/y", Code::InvalidField),
        ("ssh://a'b/y", Code::InvalidField),
        ("ssh://a;b/y", Code::InvalidField),
        ("git://a%24b/y", Code::InvalidField),
        ("git@host:-y", Code::InvalidField),
        ("git@host:/", Code::InvalidField),
        ("https:/host/y", Code::InvalidField),
    ] {
        let (got, sentence) = parse(text).expect_err(text);
        assert_eq!(got, code, "{text}: {sentence}");
        assert!(!sentence.contains("s3cret"), "{sentence}");
    }
    assert!(parse(&format!("https://h/{}", "x".repeat(5000))).is_err());
}

#[test]
fn files_only_if_allowed() {
    let policy = Policy { file_repositories: FileRepositories::Allowed, ..Policy::default() };
    for text in ["file:///srv/repo.git", "/srv/repo.git"] {
        let url = RepoUrl::parse(text, &policy).unwrap();
        assert_eq!((url.scheme(), url.address()), (Scheme::File, "/srv/repo.git"));
    }
}

#[test]
fn credentials_are_used_and_never_shown() {
    let url = parse("https://user:p%40ss+w@host/repo.git").unwrap();
    assert_eq!(url.credentials(), (Some("user"), Some("p@ss+w")));
    for shown in [
        url.to_string(),
        format!("{url:?}"),
        serde_json::to_string(&url).unwrap(),
        url.mirror_key(),
    ] {
        assert!(!shown.contains("ss") && !shown.contains("user"), "{shown}");
    }
    let again = parse(&url.expose()).unwrap();
    assert_eq!(again, url);
    assert!(url.has_secret());
    assert!(parse("https://token@host/repo.git").unwrap().has_secret());
    assert!(!parse("git@host:repo.git").unwrap().has_secret());
}

#[test]
fn credentials_arrive_unchanged() {
    for (text, credentials) in [
        // A password that looks like an escape.
        ("https://u:a%2541@host/r", (Some("u"), Some("a%41"))),
        ("https://u:%25@host/r", (Some("u"), Some("%"))),
        ("https://a%3Ab:c%3Ad%40e@host/r", (Some("a:b"), Some("c:d@e"))),
        ("https://%C3%A9@host/r", (Some("é"), None)),
        ("https://:p@host/r", (None, Some("p"))),
        ("ssh://%2e%2eu:p@host/r", (Some("..u"), Some("p"))),
        ("ssh://u%2525@host/r", (Some("u%25"), None)),
    ] {
        let url = parse(text).unwrap();
        assert_eq!(url.credentials(), credentials, "{text}");
        assert_eq!(parse(&url.expose()).unwrap(), url, "{text}");
        let other = parse("https://x:y@host/other").unwrap().with_credentials_of(&url);
        assert_eq!(other.credentials(), credentials, "{text}");
        assert_eq!(parse(&other.expose()).unwrap(), other, "{text}");
    }
    // The user is a part of an ssh address, which is the same however it is spelled.
    assert_eq!(parse("ssh://%67it@host/r").unwrap(), parse("ssh://git@host/r").unwrap());
    for (text, why) in [
        ("https://u:%ff@host/r", "credentials must be UTF-8"),
        ("ssh://%2dx@host/r", "a host or user must not begin with '-'"),
    ] {
        assert_eq!(parse(text), Err((Code::InvalidField, why.to_owned())), "{text}");
    }
}

#[test]
fn the_same_repository_by_another_protocol() {
    let https = parse("https://github.com/u/r.git").unwrap();
    let ssh = parse("git@github.com:u/r").unwrap();
    assert!(https.is_same_repository(&ssh));
    assert_ne!(https.mirror_key(), ssh.mirror_key());
    assert!(!https.is_same_repository(&parse("https://github.com/u/R").unwrap()));
}

#[test]
fn a_path_in_a_home_directory_has_its_own_mirror() {
    let key = |text: &str| parse(text).unwrap().mirror_key();
    assert_eq!(key("git@host:x/y.git"), key("git@HOST:x/y"));
    assert_eq!(key("git@host:/x/y"), key("ssh://git@host/x/y"));
    let different = ["git@host:x/y", "me@host:x/y", "git@host:/x/y", "ssh://git@host/~/x/y"];
    let keys: std::collections::BTreeSet<_> = different.into_iter().map(key).collect();
    assert_eq!(keys.len(), different.len(), "{keys:?}");
}

/// Text that is often nearly a repository's URL.
fn nearly_a_url() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "(https?|ssh|git|file|ext|-)(://|:|::)([a-z0-9:%@._-]{0,12}@)?\\[?[a-zA-Z0-9.:%-]{0,16}\\]?(:[0-9]{0,6})?[/:]?[ -~]{0,24}",
        "(https|ssh)://([a-z%.]|%[0-9a-fA-F]{2}){0,6}(:([a-z:%]|%[2-7][0-9a-f]){0,6})?@h/r",
        "[-a-z]{1,5}@[a-z.-]{1,9}:[ -~]{0,20}",
    ]
}

properties::fuzz! {
    #[test]
    fn what_is_accepted_is_safe_for_a_command_line_a_log_and_a_path(text in nearly_a_url()) {
        let Ok(url) = parse(&text) else { return Ok(()) };
        let exposed = url.expose();
        prop_assert!(!exposed.starts_with('-') && !url.host().is_empty() && !url.host().starts_with('-'));
        prop_assert!(!exposed.contains(|c: char| c.is_control() || c.is_whitespace()), "{exposed:?}");
        let key = url.mirror_key();
        prop_assert!(DirectoryName::parse(url.directory_name().as_str()).is_ok());
        // It means the same to whoever reads it next.
        let again = parse(&exposed);
        prop_assert_eq!(again.as_ref(), Ok(&url), "{} from {}", exposed, text);
        prop_assert_eq!(again.unwrap().mirror_key(), key);
    }

    #[test]
    fn a_password_is_shown_nowhere(user in "[a-z]{3,8}", password in "[a-zA-Z0-9]{12,40}", host in "[a-z]{1,9}\\.org") {
        let url = parse(&format!("https://{user}:{password}@{host}/u/r.git")).unwrap();
        prop_assert!(url.has_secret());
        let shown = format!("{url} {url:?} {} {}", serde_json::to_string(&url).unwrap(), url.mirror_key());
        prop_assert!(!shown.contains(&password), "{shown}");
    }
}
