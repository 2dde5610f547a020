//! The submodules of a commit: where they are, and what they are to be.

use std::{
    collections::BTreeMap,
    fs,
    path::{Component, Path},
};

use contract::{Code, Policy, RepoUrl};

use super::{Existing, Refusal, config_file::Values, files::path, safe_git_dir::SafeGitDir};
use crate::{
    failure::{Failure, Result, quote},
    git::Git,
    remote::{ObjectId, is_same_origin},
    staging::Staging,
};

/// A submodule of a commit.
#[derive(Debug)]
pub(crate) struct Submodule {
    /// Where it is, beneath the checkout, with no link on the way.
    pub(crate) path: Vec<u8>,
    pub(crate) repo: RepoUrl,
    /// What is to be checked out there.
    pub(crate) id: ObjectId,
}

/// The submodules of the commit `id`, which the checkout at `target` has. Their URLs are under the rules of
/// `policy`; one at the origin of `parent` gets its credentials.
///
/// # Errors
/// If one of them is given wrongly, or a link is in its way.
pub(crate) fn submodules(
    git: &Git,
    staging: &Staging,
    existing: &Existing,
    (target, parent): (&Path, &RepoUrl),
    id: &ObjectId,
    policy: &Policy,
) -> Result<Vec<Submodule>> {
    let refusal = Refusal { target };
    let control = SafeGitDir::make(git, staging, &refusal, existing, Some(id), id.format())?;
    let tree = control.command(&["ls-tree", "-r", "-z", "--full-tree", id.as_str()]).output()?;
    // `160000 commit ID`, a tab, the path.
    let links: BTreeMap<&[u8], ObjectId> = tree
        .split(|byte| *byte == 0)
        .filter_map(|line| line.strip_prefix(b"160000 commit "))
        .filter_map(|line| {
            let at = line.iter().position(|byte| *byte == b'\t')?;
            Some((line.get(at + 1..)?, ObjectId::parse(line.get(..at)?)?))
        })
        .collect();
    if links.is_empty() {
        return Ok(Vec::new());
    }
    let blob = format!("{id}:.gitmodules");
    let config = control.command(&["config", "--blob", &blob, "-z", "--list"]).run()?;
    let config = Values::parse(&config.stdout);
    let mut found = Vec::new();
    for (link, id) in links {
        let shown = String::from_utf8_lossy(link).into_owned();
        let name = config.of("submodule", "path").find(|(_, path)| path.as_bytes() == link);
        let url = name.and_then(|(name, _)| config.get(&format!("submodule.{name}.url")));
        let Some(url) = url else {
            return Err(refused(&shown, "the repository's .gitmodules gives no URL for it"));
        };
        let repo = resolve(parent, url, policy).map_err(|why| refused(&shown, &why))?;
        check_way(target, path(link)).map_err(|why| refused(&shown, why))?;
        found.push(Submodule { path: link.to_vec(), repo, id });
    }
    Ok(found)
}

fn refused(path: &str, why: &str) -> Failure {
    let (path, why) = (quote(path, &[]), quote(why, &[]));
    let sentence = format!("the submodule at '{path}' cannot be checked out: {why}");
    Failure::told(Code::RepositoryInvalid, sentence)
}

/// The repository of a submodule, relative to `parent` if its URL says so.
fn resolve(parent: &RepoUrl, url: &str, policy: &Policy) -> std::result::Result<RepoUrl, String> {
    let url = if url.starts_with("./") || url.starts_with("../") {
        relative(parent.address(), url)
    } else {
        url.to_owned()
    };
    let repo = RepoUrl::parse(&url, policy).map_err(|(_, why)| why)?;
    let is_same_host = parent.has_secret() && is_same_origin(&url, parent.address());
    Ok(if is_same_host { repo.with_credentials_of(parent) } else { repo })
}

/// As git resolves it: `../` takes one part of the base away, `./` none.
fn relative(base: &str, url: &str) -> String {
    let (mut base, mut rest) = (base.trim_end_matches('/').to_owned(), url);
    let mut separator = '/';
    loop {
        if let Some(after) = rest.strip_prefix("./") {
            rest = after;
        } else if let Some(after) = rest.strip_prefix("../") {
            rest = after;
            // `user@host:path` ends at the colon.
            let Some(end) = base.rfind(['/', ':']) else { break };
            separator =
                if base.get(end..).is_some_and(|it| it.starts_with(':')) { ':' } else { '/' };
            base.truncate(end);
        } else {
            break;
        }
    }
    format!("{base}{separator}{rest}")
}

/// Makes sure that no link leads elsewhere on the way to a submodule.
fn check_way(target: &Path, submodule: &Path) -> std::result::Result<(), &'static str> {
    let mut so_far = target.to_owned();
    for part in submodule.components() {
        let Component::Normal(part) = part else {
            return Err("its path leads out of the checkout");
        };
        if part.eq_ignore_ascii_case(".git") {
            return Err("its path leads into .git");
        }
        so_far.push(part);
        if fs::symlink_metadata(&so_far).is_ok_and(|metadata| metadata.is_symlink()) {
            return Err("a symbolic link is in its way");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_urls() {
        for (base, url, expected) in [
            ("https://h/a/b.git", "../c.git", "https://h/a/c.git"),
            ("https://h/a/b.git/", "../../c", "https://h/c"),
            ("https://h/a/b", "./c", "https://h/a/b/c"),
            ("git@h:a/b.git", "../c", "git@h:a/c"),
            ("git@h:b.git", "../c", "git@h:c"),
            ("/srv/b", "../c", "/srv/c"),
        ] {
            assert_eq!(relative(base, url), expected, "{base} {url}");
        }
    }

    #[test]
    fn a_submodule_is_under_the_rules_and_gets_the_credentials_of_its_own_host() {
        let policy = Policy::default();
        let parent = RepoUrl::parse("https://me:pw@h/a/b", &policy).unwrap();
        let same = resolve(&parent, "../c", &policy).unwrap();
        assert_eq!(
            (same.address(), same.credentials()),
            ("https://h/a/c", (Some("me"), Some("pw")))
        );
        let other = resolve(&parent, "https://other/c", &policy).unwrap();
        assert_eq!(other.credentials(), (None, None));
        for refused in ["ext::sh -c id", "file:///etc", "/etc", "-x", "../../../../etc"] {
            assert!(resolve(&parent, refused, &policy).is_err(), "{refused}");
        }
    }
}
