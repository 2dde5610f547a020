//! Clones and updates beside `git clone` and `git pull` of the same repository.

use std::path::Path;

use contract::Service;
use serde_json::json;

use crate::{
    Bench, Bound, Error, Result, Row, Unit, caller,
    repository::{self, Contents, git},
    stack::Stack,
    statistics::{median, ms},
};

pub(crate) async fn measure(bench: &Bench) -> Result<Vec<Row>> {
    let runs = bench.scale().pick(5, 1);
    let contents = bench
        .scale()
        .pick(Contents { files: 2000, commits: 200 }, Contents { files: 200, commits: 20 });
    let original = bench.path("app.git");
    repository::create(bench, &original, contents).await?;
    let mut stack = Stack::start(bench, [1, 1, 1]).await?;
    let (mut clones, mut seconds, mut updates) = (Vec::new(), Vec::new(), Vec::new());
    let (mut git_clones, mut git_pulls) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        // At another address, it is another repository to the stack, which has no mirror of it.
        let copy = bench.path("copy.git");
        std::fs::create_dir(&copy).map_err(Error::io("copy a repository"))?;
        let from = repository::url(&original);
        git(bench, &copy, &["clone", "--quiet", "--bare", &from, "."], None).await?;
        let name = copy.file_stem().unwrap_or_default().to_string_lossy();
        let (first, second) = (format!("{name}-first"), format!("{name}-second"));
        clones.push(pull(&mut stack, &copy, &first).await?);
        let (clone, took) = repository::clone(bench, &repository::url(&copy)).await?;
        git_clones.push(ms(took));
        seconds.push(pull(&mut stack, &copy, &second).await?);
        updates.push(pull(&mut stack, &copy, &first).await?);
        git_pulls.push(ms(git(bench, &clone, &["pull", "--quiet", "--ff-only"], None).await?));
    }
    stack.stop().await?;
    let (git_clone, git_pull) = (median(&git_clones), median(&git_pulls));
    let row = |name, times: &[f64]| Row::new(name, Unit::Milliseconds, median(times));
    let ratio = |full, small| Bound::AtMost(bench.scale().pick(full, small));
    Ok(vec![
        row("pull: first clone", &clones).beside("git clone", git_clone).ratio(ratio(1.0, 20.0)),
        row("pull: second clone", &seconds).beside("git clone", git_clone).ratio(ratio(1.0, 20.0)),
        row("pull: an update of nothing", &updates)
            .beside("git pull", git_pull)
            .here(Bound::AtMost(40.0)),
    ])
}

/// The time of a pull by an idle stack, from its request to its last event.
async fn pull(stack: &mut Stack, repository: &Path, directory: &str) -> Result<f64> {
    stack.wait_until_idle().await?;
    let body = json!({"repoUrl": repository::url(repository), "directory": directory});
    let read = caller::post(stack.address(Service::Pull), Service::Pull, &body, &mut ()).await?;
    Ok(ms(read.last))
}
