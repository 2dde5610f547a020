//! `GET /health`: whether the stack can serve, and what is wrong if it cannot.
//!
//! The answer is 200 as long as this process answers at all. On any other status, a container engine would restart the
//! gateway, which solves no problem of the volume or the replicas.

use std::{net::IpAddr, time::Duration};

use contract::{Service, Timestamp};
use serde_json::{Map, Value, json};
use tokio::{sync::Mutex, task::JoinHandle, time::Instant};
use workspace::{FreeSpace, Workspace};

use crate::{host::Host, lifecycle::Lifecycle, routes::PortState, shared::Shared};

/// How long a write to the volume may take.
const PROBE_TIME: Duration = Duration::from_secs(2);
/// How long the result of a probe is reused.
const FRESH: Duration = Duration::from_secs(1);
/// How long a service may be without any replica. Restarts take a moment.
const WITHOUT_REPLICAS: Duration = Duration::from_secs(30);

/// Probes the volume, one probe at a time, so that threads do not pile up on a volume that hangs.
#[derive(Debug, Default)]
pub(crate) struct VolumeProbe(Mutex<Probe>);

#[derive(Debug, Default)]
struct Probe {
    in_progress: Option<JoinHandle<workspace::Result<FreeSpace>>>,
    last: Option<(Instant, Option<String>)>,
}

impl VolumeProbe {
    /// What is wrong with the volume, if anything is.
    async fn problem(&self, workspace: &Workspace) -> Option<String> {
        let mut probe = self.0.lock().await;
        if let Some((at, problem)) = &probe.last
            && at.elapsed() < FRESH
        {
            return problem.clone();
        }
        let volume = workspace.clone();
        let mut look = probe
            .in_progress
            .take()
            .unwrap_or_else(|| tokio::task::spawn_blocking(move || volume.probe()));
        let problem = match tokio::time::timeout(PROBE_TIME, &mut look).await {
            Ok(Ok(Ok(FreeSpace::Enough))) => None,
            Ok(Ok(Ok(FreeSpace::None))) => {
                Some("the workspace is full, or nearly so: make room, or jobs will fail".to_owned())
            }
            Ok(Ok(Err(error))) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "cannot write to the workspace"
                );
                Some("the workspace cannot be written: see the gateway's log".to_owned())
            }
            // The panic hook has logged it.
            Ok(Err(_)) => Some("the workspace could not be checked: see the gateway's log".into()),
            Err(_) => {
                probe.in_progress = Some(look);
                Some("the workspace does not answer: check the volume that it is on".to_owned())
            }
        };
        probe.last = Some((Instant::now(), problem.clone()));
        problem
    }
}

/// The answer on one port, for a caller that reached the gateway at `local` and by the name `host`.
pub(crate) async fn view(port: &PortState, local: Option<IpAddr>, host: Option<Host>) -> Value {
    let PortState { shared, service } = port;
    let problems = problems(shared).await;
    let mut body = Map::new();
    body.insert("status".into(), if problems.is_empty() { "ok" } else { "degraded" }.into());
    body.insert("timestamp".into(), json!(Timestamp::now()));
    if shared.callers.is_open() {
        body.insert("open".into(), true.into());
    }
    if !problems.is_empty() {
        body.insert("problems".into(), problems.into());
    }
    if *service == Service::Workflow {
        let at = |service| {
            let address = shared.reached_at(service, local);
            match &host {
                // No certificate is for the address.
                Some(host) if shared.config.tls.is_some() => {
                    format!("https://{}:{}", host.in_url(), address.port())
                }
                _ => format!("{}://{address}", shared.config.scheme()),
            }
        };
        let services =
            json!({"githubPullApi": at(Service::Pull), "claudeCodeApi": at(Service::Claude)});
        body.insert("services".into(), services);
    } else {
        body.insert("workspace".into(), shared.workspace.root_text().into());
    }
    body.into()
}

async fn problems(shared: &Shared) -> Vec<String> {
    let mut problems = Vec::new();
    problems.extend(shared.volume_probe.problem(&shared.workspace).await);
    if shared.lifecycle.get() != Lifecycle::Serving {
        problems.push("the stack is being stopped and accepts no new jobs".into());
    }
    for (service, seen) in shared.state().replicas_seen().iter() {
        let since = seen.elapsed();
        if since >= WITHOUT_REPLICAS {
            problems.push(format!(
                "no replica of {service} has been idle or at work for {} s: start one, or see in their logs why they end",
                since.as_secs()
            ));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio_util::task::AbortOnDropHandle;
    use workspace::Registration;

    use super::*;
    use crate::dispatch;

    fn port(service: Service) -> (tempfile::TempDir, PortState) {
        let dir = tempfile::tempdir().unwrap();
        let shared = Arc::new(Shared::of_tests(dir.path()));
        (dir, PortState { shared, service })
    }

    #[tokio::test]
    async fn a_stack_that_can_serve_is_ok_and_names_real_addresses() {
        let (_dir, port) = port(Service::Workflow);
        let health = view(&port, None, None).await;
        assert_eq!(health["status"], "ok");
        assert!(health.get("problems").is_none(), "{health}");
        assert_eq!(health["services"]["githubPullApi"], "http://127.0.0.1:4000");
        let unspecified = |service| port.shared.reached_at(service, Some([10, 0, 0, 7].into()));
        assert_eq!(
            unspecified(Service::Pull).to_string(),
            "127.0.0.1:4000",
            "it listens there only"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_without_replicas_is_named() {
        let (_dir, port) = port(Service::Pull);
        tokio::time::advance(WITHOUT_REPLICAS).await;
        port.shared.state().replica_seen(Service::Claude);
        let health = view(&port, None, None).await;
        assert_eq!(health["status"], "degraded");
        let problems = health["problems"].to_string();
        assert!(
            problems.contains("workflow-api") && problems.contains("github-pull-api"),
            "{problems}"
        );
        assert!(!problems.contains("claude-code-api"), "{problems}");
    }

    #[tokio::test(start_paused = true)]
    async fn replicas_that_work_for_another_gateway_are_there() {
        let (_dir, port) = port(Service::Pull);
        let (workspace, address) = (&port.shared.workspace, "127.0.0.1:1".parse().unwrap());
        let id = contract::ReplicaId::new();
        let mut replica =
            Registration::announce(workspace, Service::Pull, id, address, None).unwrap();
        replica.mark_busy();
        let dispatcher = dispatch::run(Arc::clone(&port.shared), Service::Pull);
        let _dispatcher = AbortOnDropHandle::new(tokio::spawn(dispatcher));
        tokio::time::sleep(2 * WITHOUT_REPLICAS).await;
        let problems = problems(&port.shared).await.join("\n");
        assert!(!problems.contains("github-pull-api"), "{problems}");
        assert!(problems.contains("claude-code-api"), "{problems}");
        let status = crate::reads::status(&port.shared, Service::Pull).await.unwrap();
        assert_eq!(status["replicas"], json!({"idle": 0, "busy": 1}));
        drop(replica);
        tokio::time::sleep(WITHOUT_REPLICAS + Duration::from_secs(1)).await;
        let problems = super::problems(&port.shared).await.join("\n");
        assert!(problems.contains("github-pull-api"), "{problems}");
    }

    #[tokio::test]
    async fn a_volume_that_cannot_be_written_is_named() {
        let (dir, port) = port(Service::Pull);
        let scratch = port.shared.workspace.temporary();
        std::fs::remove_dir_all(&scratch).unwrap();
        std::fs::write(&scratch, "").unwrap();
        let health = view(&port, None, None).await;
        assert_eq!(health["status"], "degraded");
        assert!(health["problems"][0].as_str().unwrap().contains("cannot be written"), "{health}");
        drop(dir);
    }
}
