//! Listing jobs, and naming them by as little as it takes.

use serde_json::json;
use testkit::{AgentScript, RunningCommand};

use crate::support::{Scene, id_of, ran};

#[tokio::test]
async fn listings_and_shortened_ids() {
    let scene = Scene::new().await;
    let url = scene.url();
    let none = ran(&url, &["jobs"]).await;
    assert_eq!(none.code, 0, "{none:?}");
    for _ in 0..2 {
        let run = scene.run(&url, &AgentScript::new(), &[]);
        assert_eq!(RunningCommand::start(run).finish().await.code, 0);
    }
    let all = scene.jobs().await;
    let workflows: Vec<_> = all
        .iter()
        .filter(|job| job["parent"].is_null() && job["changesOf"].is_null())
        .cloned()
        .collect();
    // Each has a pull and an agent, and a job that has looked at what it changed.
    assert_eq!((all.len(), workflows.len()), (8, 2));

    // For programs: as the stack says it.
    let listed = ran(&url, &["jobs", "--json"]).await.json();
    assert_eq!(listed, json!({"jobs": workflows, "count": 2}));
    let listed = ran(&url, &["jobs", "--json", "--all"]).await.json();
    assert_eq!(listed, json!({"jobs": all, "count": 8}));
    let listed = ran(&url, &["jobs", "--json", "--limit", "1"]).await.json();
    assert_eq!(listed["jobs"], json!([workflows[0]]));
    let listed = ran(&url, &["jobs", "--json", "--state", "failed"]).await.json();
    assert_eq!(listed["count"], 0);
    assert_eq!(ran(&url, &["jobs", "--state", "lost"]).await.code, 2);

    // For people: what is printed can be given back.
    let listed = ran(&url, &["jobs", "--all"]).await;
    assert!(!listed.stdout.contains('\u{1b}'), "{listed:?}");
    let ids: Vec<_> =
        listed.stdout.lines().skip(1).map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(ids.len(), 8, "{listed:?}");
    for (short, job) in ids.iter().zip(&all) {
        assert!(short.len() < 20, "{short}");
        assert_eq!(ran(&url, &["show", short, "--json"]).await.json(), *job);
    }
    let first = id_of(&workflows[0]);
    let almost_whole = &first[..first.len() - 1];
    for given in [&first, almost_whole, &first.to_uppercase()] {
        let shown = ran(&url, &["show", given]).await;
        assert_eq!(shown.code, 0, "{shown:?}");
        assert!(shown.stdout.contains(&first) && shown.stdout.contains("succeeded"), "{shown:?}");
    }

    // All ids of one day begin alike.
    for command in ["show", "attach", "cancel"] {
        let said = ran(&url, &[command, &first[..4]]).await;
        assert_eq!((said.code, said.stdout.as_str()), (2, ""), "{said:?}");
        assert!(said.stderr.contains("matches ") && said.stderr.contains(&first), "{said:?}");
        for (given, why) in
            [("ffffffff", "no job has"), ("x", "not a job ID"), ("../x", "not a job ID")]
        {
            let said = ran(&url, &[command, given]).await;
            assert_eq!((said.code, said.stdout.as_str()), (2, ""), "{said:?}");
            assert!(said.stderr.contains(why), "{said:?}");
        }
        let unknown = "019aa000-0000-7000-8000-000000000000";
        assert_eq!(ran(&url, &[command, unknown]).await.code, 2);
    }
}

#[tokio::test]
async fn cancelled_from_elsewhere() {
    let scene = Scene::new().await;
    let url = scene.url();
    let run = RunningCommand::start(scene.run(&url, &scene.gated(), &[]));
    run.prints("began").await;
    let id = id_of(&scene.workflow().await);
    let end = &id[id.len() - 8..];
    let asked = ran(&url, &["cancel", end]).await;
    assert_eq!(asked.code, 0, "{asked:?}");
    assert!(asked.stdout.contains(&id), "{asked:?}");
    let said = run.finish().await;
    assert_eq!(said.code, 130, "{said:?}");
    assert!(said.stdout.lines().last().unwrap().starts_with("Cancelled after "), "{said:?}");
    assert_eq!(ran(&url, &["attach", end]).await.code, 130);
    let again = ran(&url, &["cancel", end]).await;
    assert!(again.code == 0 && again.stdout.contains("has already ended: cancelled"), "{again:?}");
    let again = ran(&url, &["cancel", end, "--json"]).await.json();
    assert_eq!(again, json!({"jobId": id, "state": "cancelled"}));
}
