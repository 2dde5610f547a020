//! Making a checkout where there is none.

use std::{fmt::Write as _, fs, io, path::Path};

use contract::BranchName;
use git2::{Repository, RepositoryInitOptions, build::CheckoutBuilder};

use super::{Done, Job, aside::Aside, create_dir, mirror::Mirror, not_a_repository};
use crate::{
    failure::{Failure, Result},
    report::{Progress, Stage},
};

/// Makes a checkout aside and renames it into place. `None` if the target appeared meanwhile.
///
/// # Errors
/// Why there is no checkout.
pub(super) fn clone(job: &Job, aside: &Aside, mirror: Mirror) -> Result<Option<Done>> {
    let local = |error| Failure::local(&error);
    let (branch, id) = mirror.branch(job, job.branch.as_ref())?;
    let making = aside.join("checkout");
    let mut options = RepositoryInitOptions::new();
    options.mkdir(true).external_template(false).initial_head(&branch);
    let repository = Repository::init_opts(&making, &options).map_err(local)?;
    copy_objects(job, &mirror.path().join("objects"), &making.join(".git/objects"))?;
    write_references(&mirror, &making.join(".git"))?;
    configure(&repository, job.repo.address(), &branch).map_err(local)?;
    repository.reference(&format!("refs/heads/{branch}"), id, true, "clone").map_err(local)?;
    // Others may fetch while the files are written.
    drop(mirror);

    let commit = id.to_string();
    job.message(format!("Checking out {branch} at {}", commit.get(..10).unwrap_or(&commit)));
    let written = check_out(job, aside, &repository);
    drop(repository);
    job.check_stop()?;
    written.map_err(local)?;

    if let Some(parent) = job.target.parent() {
        create_dir(parent)?;
    }
    job.reporter.settle();
    match fs::rename(&making, &job.target) {
        Ok(()) => Ok(Some(Done { branch: BranchName::parse(&branch).ok(), commit })),
        Err(error) => match error.kind() {
            io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists => Ok(None),
            io::ErrorKind::NotADirectory => {
                Err(not_a_repository(&job.target, "it is not a directory"))
            }
            io::ErrorKind::ResourceBusy => {
                Err(not_a_repository(&job.target, "something is mounted there: use another name"))
            }
            _ => Err(Failure::io("put in place", &job.target)(error)),
        },
    }
}

/// Writes the files of `HEAD`.
fn check_out(
    job: &Job,
    aside: &Aside,
    repository: &Repository,
) -> std::result::Result<(), git2::Error> {
    let mut options = CheckoutBuilder::new();
    options.force();
    report_checkout(job, aside, &mut options);
    let result = repository.checkout_head(Some(&mut options));
    job.reporter.end_stage();
    result
}

/// Tells how far a checkout is, and breaks it off when the job is to stop.
pub(super) fn report_checkout<'a>(
    job: &'a Job,
    aside: &'a Aside,
    options: &mut CheckoutBuilder<'a>,
) {
    options.progress(|_, received, total| {
        job.reporter.progress(Progress { stage: Stage::Checkout, received, total, bytes: 0 });
        if job.should_stop() {
            // libgit2 offers no way to break a checkout off, but a directory that is gone does.
            super::aside::remove(&aside.join("checkout"));
        }
    });
}

/// Copies every object, so that the checkout shares no inode with the mirror.
fn copy_objects(job: &Job, from: &Path, to: &Path) -> Result<()> {
    // What points elsewhere, or is half written, is not taken along.
    const SKIPPED: [&str; 3] = ["tmp_", "pack_git2_", "info"];
    create_dir(to)?;
    for entry in fs::read_dir(from).map_err(Failure::io("list", from))? {
        job.check_stop()?;
        let entry = entry.map_err(Failure::io("list", from))?;
        let name = entry.file_name();
        if SKIPPED.iter().any(|skipped| name.to_string_lossy().starts_with(skipped)) {
            continue;
        }
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            copy_objects(job, &path, &to.join(name))?;
        } else {
            fs::copy(&path, to.join(name)).map_err(Failure::io("copy", &path))?;
        }
    }
    Ok(())
}

/// Writes the branches of `origin` and the tags, in one file however many there are.
fn write_references(mirror: &Mirror, git: &Path) -> Result<()> {
    let mut lines: Vec<_> = mirror
        .branches()?
        .into_iter()
        .map(|(name, id)| (format!("refs/remotes/origin/{name}"), id))
        .chain(mirror.tags()?.into_iter().map(|(name, id)| (format!("refs/tags/{name}"), id)))
        .collect();
    lines.sort();
    let mut text = super::refs::PACKED_HEADER.to_owned();
    for (name, id) in lines {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{id} {name}");
    }
    let path = git.join("packed-refs");
    fs::write(&path, text).map_err(Failure::io("write", &path))?;
    if let Some(default) = mirror.default() {
        let directory = git.join("refs/remotes/origin");
        fs::create_dir_all(&directory).map_err(Failure::io("create", &directory))?;
        let head = directory.join("HEAD");
        fs::write(&head, format!("ref: refs/remotes/origin/{default}\n"))
            .map_err(Failure::io("write", &head))?;
    }
    Ok(())
}

/// Makes `git pull` and `git push` work in the checkout.
fn configure(
    repository: &Repository,
    address: &str,
    branch: &str,
) -> std::result::Result<(), git2::Error> {
    let mut config = repository.config()?;
    config.set_str("remote.origin.url", address)?;
    config.set_str("remote.origin.fetch", "+refs/heads/*:refs/remotes/origin/*")?;
    config.set_str(&format!("branch.{branch}.remote"), "origin")?;
    config.set_str(&format!("branch.{branch}.merge"), &format!("refs/heads/{branch}"))
}
