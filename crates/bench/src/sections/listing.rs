//! A listing and the start of a gateway with many ended jobs on the volume, beside the same with few.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    time::Instant,
};

use child_process::Child;
use contract::{JobId, PerService, Service};
use serde_json::json;
use web::ReservedPort;

use crate::{
    Bench, Bound, Error, Result, Row, Unit,
    caller::{self, Observe},
    repository,
    sections::small_repository,
    stack::{Stack, accepts},
    statistics::{median, ms},
};

/// How many jobs are few.
const FEW: u32 = 100;
/// How many jobs a page has, at most.
const PAGE: u32 = 50;

/// What is measured with one number of jobs, in milliseconds.
struct Times {
    start: f64,
    listing: f64,
}

pub(crate) async fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let jobs = bench.size().jobs;
    let template = a_job(bench).await?;
    let few = with_jobs(bench, &template, FEW).await?;
    let many = with_jobs(bench, &template, jobs).await?;
    let row = |name: &str, many: f64, few: f64| {
        Row::new(name, Unit::Milliseconds, many)
            .beside(format!("{FEW} jobs"), few)
            .note(format!("{jobs} ended jobs"))
    };
    Ok(vec![
        row("listing: GET /api/jobs", many.listing, few.listing)
            .ratio(Bound::AtMost(bench.scale().pick(2.0, 5.0)))
            .here(Bound::AtMost(50.0)),
        row("listing: start of a gateway", many.start, few.start).here(Bound::AtMost(300.0)),
    ])
}

/// A job that has ended.
async fn a_job(bench: &Bench) -> Result<Template> {
    let repository = small_repository(bench).await?;
    let mut stack = Stack::start(bench, [1, 1, 1]).await?;
    let body = json!({"repoUrl": repository::url(&repository), "directory": "one"});
    caller::post(stack.address(Service::Pull), Service::Pull, &body, &mut ()).await?;
    stack.wait_until_idle().await?;
    let jobs = jobs_of(stack.workspace());
    let job = fs::read_dir(jobs).and_then(|mut jobs| {
        jobs.next().unwrap_or_else(|| Err(io::ErrorKind::NotFound.into())).map(|job| job.path())
    });
    stack.stop().await?;
    job.and_then(|job| Template::read(&job)).map_err(Error::io("read a job"))
}

fn jobs_of(workspace: &Path) -> PathBuf {
    workspace.join(".stack/jobs")
}

async fn with_jobs(bench: &Bench, template: &Template, jobs: u32) -> Result<Times> {
    let workspace = bench.path("workspace");
    let directory = jobs_of(&workspace);
    fs::create_dir_all(&directory).map_err(Error::io("create a workspace"))?;
    // In place and in small steps, and not in a task that would go on writing after an interrupt.
    for _ in 0..jobs {
        let copied = tokio::task::block_in_place(|| template.copy_to(&directory));
        copied.map_err(Error::io("write a job"))?;
        tokio::task::yield_now().await;
    }
    let (starts, listings) = (bench.scale().pick(5, 2), bench.scale().pick(30, 10));
    let (mut start, mut listing) = (Vec::new(), Vec::new());
    for _ in 0..starts {
        let (_gateway, ports, took) = gateway(bench, &workspace).await?;
        start.push(took);
        let address = ports[Service::Workflow].address();
        for _ in 0..listings / starts {
            let mut page = Page(Vec::new());
            let path = format!("/api/jobs?limit={PAGE}");
            listing.push(ms(caller::get(address, &path, &mut page).await?.last));
            let shown = page.succeeded();
            if shown != jobs.min(PAGE) as usize {
                let why = format!("it shows {shown} jobs that have succeeded");
                return Err(Error::Program { program: "the listing".to_owned(), why });
            }
        }
    }
    Ok(Times { start: median(&start), listing: median(&listing) })
}

/// A whole answer.
struct Page(Vec<u8>);

impl Page {
    /// How many jobs on it have succeeded.
    fn succeeded(&self) -> usize {
        memchr::memmem::find_iter(&self.0, br#""state":"succeeded""#).count()
    }
}

impl Observe for Page {
    fn arrived(&mut self, bytes: &[u8], _: Instant) {
        self.0.extend_from_slice(bytes);
    }
}

/// Starts a gateway without replicas. Returns the time until it answers.
async fn gateway(
    bench: &Bench,
    workspace: &Path,
) -> Result<(Child, PerService<ReservedPort>, f64)> {
    let ports = ReservedPort::for_services().map_err(Error::io("find free ports on loopback"))?;
    let mut guest = bench
        .guest(bench.program())
        .args(["serve", "gateway"])
        .env("WORKSPACE_DIR", workspace)
        .env("BIND_ADDRESS", ports[Service::Workflow].address().ip().to_string());
    for (service, port) in ports.iter() {
        guest = guest.env(service.spec().port_variable, port.port().to_string());
    }
    let started = Instant::now();
    let gateway = guest.spawn().await.map_err(Error::io("start a gateway"))?;
    let address = ports[Service::Workflow].address();
    if accepts(address, started).await.is_none() {
        let why = "it does not listen".to_owned();
        return Err(Error::Program { program: "the gateway".to_owned(), why });
    }
    caller::get(address, "/health", &mut ()).await?;
    Ok((gateway, ports, ms(started.elapsed())))
}

/// The files of a job that has ended.
struct Template {
    id: String,
    files: Vec<(OsString, String)>,
    directories: Vec<OsString>,
}

impl Template {
    fn read(job: &Path) -> io::Result<Self> {
        let id = job.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (mut files, mut directories) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(job)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                directories.push(entry.file_name());
            } else {
                files.push((entry.file_name(), fs::read_to_string(entry.path())?));
            }
        }
        Ok(Self { id, files, directories })
    }

    /// Writes another job like it.
    fn copy_to(&self, jobs: &Path) -> io::Result<()> {
        let id = JobId::new().to_string();
        let job = jobs.join(&id);
        fs::create_dir(&job)?;
        self.directories.iter().try_for_each(|name| fs::create_dir(job.join(name)))?;
        let mut files = self.files.iter();
        files.try_for_each(|(name, text)| fs::write(job.join(name), text.replace(&self.id, &id)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_an_id_of_its_own() {
        let root = tempfile::tempdir().unwrap();
        let old = root.path().join("old");
        fs::create_dir_all(old.join("control")).unwrap();
        fs::write(old.join("job.json"), r#"{"jobId":"old"}"#).unwrap();
        let template = Template::read(&old).unwrap();
        let jobs = root.path().join("jobs");
        fs::create_dir(&jobs).unwrap();
        (0..3).for_each(|_| template.copy_to(&jobs).unwrap());
        let copied: Vec<_> = fs::read_dir(&jobs).unwrap().map(|it| it.unwrap().path()).collect();
        assert_eq!(copied.len(), 3);
        for job in copied {
            let id: JobId = job.file_name().unwrap().to_str().unwrap().parse().unwrap();
            let content = fs::read_to_string(job.join("job.json")).unwrap();
            assert_eq!(content, format!(r#"{{"jobId":"{id}"}}"#));
            assert!(job.join("control").is_dir());
        }
    }
}
