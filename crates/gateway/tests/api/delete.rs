//! `DELETE /api/jobs/:id`, and what the gateway deletes by itself.

use std::{fs, time::Duration};

use contract::{Code, Ending, EventLine, JobId, Service};
use futures_util::StreamExt as _;
use gateway::Gateway;
use serde_json::{Value, json};
use workspace::{DeletedJob, Job, follow};

use crate::support::{PATIENCE, Volume, get, parse, raw};

fn ending(job: &Job) -> Ending {
    Ending::failure(job.record().unwrap().service, job.id(), Code::Internal, "x")
}

async fn delete(gateway: &Gateway, id: impl std::fmt::Display) -> (u16, Value) {
    let head =
        format!("DELETE /api/jobs/{id} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    parse(&raw(gateway.address(Service::Pull), head.as_bytes()).await)
}

#[tokio::test]
async fn a_job_is_deleted_with_its_children_when_it_has_ended() {
    let volume = Volume::new();
    let claimed = volume.running_workflow("app");
    let workflow = claimed.job().clone();
    let child = volume.pull(Some(workflow.id()), Duration::ZERO);
    let checkout = volume.workspace.job_directory(workflow.id());
    fs::create_dir_all(checkout.join("app")).unwrap();
    fs::create_dir_all(volume.workspace.root().join("app")).unwrap();
    child.end_unclaimed("test", ending(&child)).unwrap().unwrap();
    let gateway = volume.gateway(|_| {}).await;
    let (status, error) = delete(&gateway, workflow.id()).await;
    assert_eq!((status, &error["code"]), (409, &json!("running")));
    claimed.finish(ending(&workflow)).unwrap();
    let id = workflow.id();
    let deleted = delete(&gateway, id.to_string().to_uppercase()).await;
    assert_eq!(deleted, (200, json!({"message": "Job deleted", "jobId": id})));
    assert!(!checkout.exists() && !workflow.directory().exists() && !child.directory().exists());
    assert!(volume.workspace.root().join("app").exists(), "a named checkout stays");
    for id in [id.to_string(), child.id().to_string(), JobId::new().to_string(), "x".into()] {
        let (status, error) = delete(&gateway, &id).await;
        assert_eq!((status, &error["code"]), (404, &json!("not_found")), "{id}");
        for target in [format!("/api/jobs/{id}"), format!("/api/jobs/{id}/events")] {
            assert_eq!(get(&gateway, Service::Pull, &target).await.0, 404);
        }
    }
    let (_, list) = get(&gateway, Service::Pull, "/api/jobs").await;
    assert_eq!(list["count"], 0);
}

#[tokio::test]
async fn a_queued_job_cannot_be_deleted() {
    let volume = Volume::new();
    let job = volume.pull(None, Duration::ZERO);
    let gateway = volume.gateway(|_| {}).await;
    assert_eq!(delete(&gateway, job.id()).await.0, 409);
    assert!(job.directory().exists());
}

#[tokio::test]
async fn a_reader_that_has_begun_reads_to_the_end() {
    let volume = Volume::new();
    let mut claimed = volume.running_workflow("app");
    let job = claimed.job().clone();
    for _ in 0..2000 {
        claimed
            .append(&EventLine::encode(&json!({"type": "message", "x": "x".repeat(100)})))
            .unwrap();
    }
    claimed.finish(ending(&job)).unwrap();
    let mut reader = Box::pin(follow(job.clone(), 0));
    reader.next().await.unwrap().unwrap();
    assert_eq!(job.delete().unwrap(), DeletedJob::Done);
    let rest: Vec<_> = reader.collect().await;
    assert_eq!(rest.len(), 2000);
    assert!(rest.last().unwrap().as_ref().unwrap().terminal);
}

/// Its outcome is gone, so it once would have waited for it forever.
#[tokio::test]
async fn a_reader_of_a_job_that_is_gone_hears_so() {
    let volume = Volume::new();
    let mut claimed = volume.running_workflow("app");
    let job = claimed.job().clone();
    claimed.append(&EventLine::encode(&json!({"type": "message"}))).unwrap();
    let mut reader = Box::pin(follow(job.clone(), 0));
    reader.next().await.unwrap().unwrap();
    fs::remove_dir_all(job.directory()).unwrap();
    let end = tokio::time::timeout(PATIENCE, reader.next()).await.unwrap();
    assert!(end.unwrap().is_err());
}

#[tokio::test]
async fn a_gateway_deletes_what_is_too_old() {
    let volume = Volume::new();
    let [old, queued] = [(); 2].map(|()| volume.pull(None, Duration::ZERO));
    old.end_unclaimed("test", ending(&old)).unwrap().unwrap();
    for job in [&old, &queued] {
        fs::create_dir_all(volume.workspace.job_directory(job.id())).unwrap();
    }
    let mut watch = volume.workspace.watcher().watch(&volume.workspace.root().join("jobs"));
    let _gateway = volume.gateway(|config| config.retention.checkouts = Some(Duration::ZERO)).await;
    let gone = async {
        while volume.workspace.job_directory(old.id()).exists() {
            watch.changed().await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
    assert!(old.directory().exists(), "its record stays");
    assert!(volume.workspace.job_directory(queued.id()).exists());
}
