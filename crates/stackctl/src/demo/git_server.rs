//! The sample repository over smart HTTP, on loopback, to be fetched and nothing else.
//!
//! Routes: `GET /sample.git/info/refs?service=git-upload-pack`, `POST /sample.git/git-upload-pack`.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use web::{Body, Server};

use super::upload_pack::{self, UploadError};

/// The longest request: a sample has few branches to be asked for.
const REQUEST: usize = 64 << 10;

/// The path of the repository, without a slash before it.
const NAME: &str = "sample.git";

/// A server of one repository, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct GitServer {
    server: Server,
}

impl GitServer {
    /// Serves the bare repository at `path` on a free port.
    pub(super) async fn start(path: &Path) -> anyhow::Result<Self> {
        let listener = web::bind(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0))
            .context("cannot listen on loopback")?;
        let path: Arc<Path> = path.into();
        let server =
            Server::start(listener, web::handler(move |request| serve(Arc::clone(&path), request)))
                .context("cannot serve the sample repository")?;
        Ok(Self { server })
    }

    /// What to clone.
    pub(super) fn url(&self) -> String {
        format!("http://{}/{NAME}", self.server.address())
    }
}

async fn serve(path: Arc<Path>, request: Request<Incoming>) -> Response<Body> {
    let asked = request.uri().path().trim_start_matches('/').strip_prefix(NAME);
    let action = match (request.method(), asked, request.uri().query()) {
        (&Method::GET, Some("/info/refs"), Some("service=git-upload-pack")) => Action::Advertise,
        (&Method::POST, Some("/git-upload-pack"), _) => Action::Upload,
        // A push, the dumb protocol, another repository.
        _ => return plain(StatusCode::NOT_FOUND, "only fetches of the sample are served here\n"),
    };
    if request.headers().contains_key(header::CONTENT_ENCODING) {
        return plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send it uncompressed\n");
    }
    let Ok(body) = Limited::new(request.into_body(), REQUEST).collect().await else {
        return plain(StatusCode::PAYLOAD_TOO_LARGE, "too long\n");
    };
    let body = body.to_bytes();
    let path = PathBuf::from(&*path);
    let answer = tokio::task::spawn_blocking(move || action.answer(&path, &body)).await;
    match answer {
        Ok(Ok(bytes)) => {
            let mut response = Response::new(web::full(bytes.into()));
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(action.content_type()));
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
            response
        }
        Ok(Err(error @ UploadError::Malformed(_))) => {
            plain(StatusCode::BAD_REQUEST, &format!("{error}\n"))
        }
        Ok(Err(_)) | Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "it cannot be read\n"),
    }
}

#[derive(Clone, Copy)]
enum Action {
    Advertise,
    Upload,
}

impl Action {
    fn answer(self, path: &Path, body: &[u8]) -> Result<Vec<u8>, UploadError> {
        match self {
            Self::Advertise => upload_pack::advertisement(path),
            Self::Upload => upload_pack::Request::parse(body)?.answer(path),
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::Advertise => "application/x-git-upload-pack-advertisement",
            Self::Upload => "application/x-git-upload-pack-result",
        }
    }
}

fn plain(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(web::full(Bytes::copy_from_slice(text.as_bytes())));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Stdio, time::Duration};

    use child_process::Guest;
    use git2::Repository;

    use super::{super::sample, *};

    async fn server() -> (tempfile::TempDir, GitServer) {
        let directory = tempfile::tempdir().unwrap();
        sample::create(&directory.path().join("served")).unwrap();
        let server = GitServer::start(&directory.path().join("served")).await.unwrap();
        (directory, server)
    }

    /// The clone is the sample: its history, its files, its branch.
    fn check(clone: &Path, served: &Path) {
        let (clone, served) =
            (Repository::open(clone).unwrap(), Repository::open_bare(served).unwrap());
        let head = |repository: &Repository| repository.head().unwrap().target().unwrap();
        assert_eq!(head(&clone), head(&served));
        assert_eq!(clone.head().unwrap().name().unwrap(), "refs/heads/main");
        let mut walk = clone.revwalk().unwrap();
        walk.push_head().unwrap();
        assert_eq!(walk.count(), sample::COMMITS);
        assert!(clone.workdir().unwrap().join("README.md").exists());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn libgit2_clones_and_fetches() {
        let (directory, server) = server().await;
        let (url, target) = (server.url(), directory.path().join("clone"));
        let clone = target.clone();
        tokio::task::spawn_blocking(move || {
            let repository = Repository::clone(&url, &clone).unwrap();
            let mut remote = repository.find_remote("origin").unwrap();
            remote.fetch(&["+refs/heads/*:refs/remotes/origin/*"], None, None).unwrap();
        })
        .await
        .unwrap();
        check(&target, &directory.path().join("served"));
    }

    /// Runs git in `directory`; false if there is none.
    async fn git(directory: &Path, args: &[&str]) -> bool {
        let path = std::env::var("PATH").unwrap_or_default();
        let spawned = Guest::new("git")
            .args(args)
            .env("PATH", path)
            .env("HOME", directory)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .cwd(directory)
            .stderr(Stdio::inherit())
            .spawn()
            .await;
        let Ok(mut child) = spawned else { return false };
        let ended = tokio::time::timeout(Duration::from_secs(60), child.wait()).await;
        assert!(ended.expect("git hangs").unwrap().success(), "git {args:?}");
        true
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn git_clones_and_fetches_what_it_has_and_what_it_has_not() {
        let (directory, server) = server().await;
        let url = server.url();
        let root = directory.path();
        for version in ["0", "1", "2"] {
            let protocol = format!("protocol.version={version}");
            let name = format!("clone{version}");
            if !git(root, &["-c", &protocol, "clone", "-q", &url, &name]).await {
                use std::io::Write as _;
                assert!(std::env::var_os("FORBID_SKIPS").is_none(), "there is no git");
                writeln!(std::io::stderr(), "SKIPPED: git clones: there is no git").unwrap();
                return;
            }
            let clone = root.join(&name);
            check(&clone, &root.join("served"));
            assert!(git(&clone, &["fsck", "--strict", "--no-progress"]).await);
            assert!(git(&clone, &["-c", &protocol, "fetch", "-q", &url]).await);
            // Now it has commits that are not known here.
            git(
                &clone,
                &[
                    "-c",
                    "user.name=a",
                    "-c",
                    "user.email=a@b",
                    "commit",
                    "-q",
                    "--allow-empty",
                    "-m",
                    "x",
                ],
            )
            .await;
            fs::remove_dir_all(clone.join(".git/refs/remotes")).unwrap();
            let _ = fs::remove_file(clone.join(".git/packed-refs"));
            let refspec = "+refs/heads/*:refs/remotes/origin/*";
            assert!(git(&clone, &["-c", &protocol, "fetch", "-q", &url, refspec]).await);
        }
    }

    #[tokio::test]
    async fn nothing_else_is_served() {
        let (_directory, server) = server().await;
        let base: web::BaseUrl = format!("http://{}", server.server.address()).parse().unwrap();
        let ask = async |method, path: &str, body: &'static [u8]| {
            let patience = Duration::from_secs(5);
            web::ask(&base, method, path, &[], Bytes::from_static(body), patience)
                .await
                .unwrap()
                .status
                .as_u16()
        };
        for path in [
            "/sample.git/info/refs?service=git-receive-pack",
            "/sample.git/info/refs",
            "/sample.git/HEAD",
            "/sample.git/../sample.git/HEAD",
            "/other.git/info/refs?service=git-upload-pack",
        ] {
            assert_eq!(ask(Method::GET, path, b"").await, 404, "{path}");
        }
        assert_eq!(ask(Method::POST, "/sample.git/git-receive-pack", b"0000").await, 404);
        assert_eq!(ask(Method::POST, "/sample.git/git-upload-pack", b"nonsense").await, 400);
        assert_eq!(
            ask(Method::POST, "/sample.git/git-upload-pack", &[b'0'; REQUEST + 1]).await,
            413
        );
        let other = b"0032want 0123456789012345678901234567890123456789\n00000009done\n";
        assert_eq!(ask(Method::POST, "/sample.git/git-upload-pack", other).await, 200);
    }
}
