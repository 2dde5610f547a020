//! What an agent is given: its credential, its variables and its place.

use std::{fs, os::unix::fs::symlink};

use claude_code_api::AgentKey;

use crate::{
    bench::{Bench, SECRET},
    misbehaviour::GOOD,
};

#[tokio::test]
async fn the_agent_has_the_key_only_if_the_operator_says_so() {
    let look = format!(
        "cat /proc/self/fd/$CLAUDE_CODE_API_KEY_FILE_DESCRIPTOR > key; \
         echo \"$ANTHROPIC_BASE_URL\" > url; {GOOD}"
    );
    let mut bench = Bench::new(&look).await;
    bench.config.base_url = Some("https://api.example.org/v".parse().unwrap());
    bench.config.agent_key = AgentKey::Direct;
    assert_eq!(bench.run().await.code(), None);
    let direct = (bench.read("key"), bench.read("url"));
    assert_eq!(direct, (SECRET.to_owned(), "https://api.example.org/v".to_owned()));

    bench.config.agent_key = AgentKey::Endpoint;
    assert_eq!(bench.run().await.code(), None);
    let (token, url) = (bench.read("key"), bench.read("url"));
    assert!(token.starts_with("job-") && url.starts_with("http://127.0.0.1:"), "{token} {url}");
    assert_eq!(bench.run().await.code(), None);
    assert_ne!(bench.read("key"), token, "a token is for one job");

    // Without a credential, there is nothing to keep.
    bench.config.credential = None;
    bench.config.base_url = None;
    let without = format!("echo \"-$ANTHROPIC_BASE_URL\" > url; {GOOD}");
    fs::write(bench.app().join("script"), without).unwrap();
    assert_eq!(bench.run().await.code(), None);
    assert_eq!(bench.read("url"), "-");
}

#[tokio::test]
async fn a_proxy_that_is_passed_on_is_not_for_the_endpoint() {
    let look = format!("env | grep -i _proxy | sort > proxies; {GOOD}");
    let mut bench = Bench::new(&look).await;
    assert_eq!(bench.run().await.code(), None);
    assert_eq!(bench.read("proxies"), "");
    let variables = [("HTTPS_PROXY", "http://p:1"), ("no_proxy", "corp")];
    bench.config.isolation.environment =
        variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    assert_eq!(bench.run().await.code(), None);
    let expected = [
        "HTTPS_PROXY=http://p:1",
        "NO_PROXY=127.0.0.1,localhost",
        "no_proxy=corp,127.0.0.1,localhost",
    ];
    assert_eq!(bench.read("proxies").lines().collect::<Vec<_>>(), expected);
}

/// The path was checked when the job was submitted. Since then, an agent has made a link of it.
#[tokio::test]
async fn a_link_into_the_checkout_of_another_caller_is_not_followed() {
    let mut bench = Bench::new(GOOD).await;
    let volume = bench.volume();
    fs::create_dir(bench.root.path().join("own")).unwrap();
    symlink("../app", bench.root.path().join("own/link")).unwrap();
    bench.workspace = Some("own/link");
    let control = bench.run().await;
    assert_eq!(control.code(), None, "{}", control.error());
    let app = contract::DirectoryName::parse("app").unwrap();
    let owner = r#"{"caller":"ann","since":"2026-01-31T12:00:00.000Z"}"#;
    fs::write(volume.root().join(".stack/owners").join(app.as_str()), owner).unwrap();
    let outcome = bench.run().await;
    assert_eq!(outcome.code(), Some("workspace_gone"), "{}", outcome.error());
}
