//! The base images of the product's images, for machines without a registry, and the image with the
//! scripted agent.

use std::{
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use tempfile::TempDir;

use crate::{
    command::{run, say, shell},
    engine::Engine,
};

const SLIM: &str = "workflow-stack-test/slim";
const TOOLS: &str = "workflow-stack-test/tools";
/// The claude image with the scripted agent.
pub(crate) const AGENT: &str = "workflow-stack-test/agent";
/// The Debian release of the product's base images.
const RELEASE: &str = "bookworm";
/// What makes the programs in a minute instead of several: nothing here depends on how fast they are.
const QUICK_BUILD: &str =
    r#"'[profile.release]' 'opt-level = 0' '[profile.release.package."*"]' 'opt-level = 0'"#;
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The deployment's settings for the base images: none if a registry has the default ones.
pub(crate) fn base_images(engine: &Engine) -> Vec<(&'static str, String)> {
    // This fails at once if there is no route to a registry.
    if engine.try_docker(&["pull", "--quiet", "debian:bookworm-slim"]).status.success() {
        say("base images: from the registry");
        return Vec::new();
    }
    // Images of an earlier run are good enough, as long as the compiler is the same.
    let tools = format!("{TOOLS}:{}", run("rustc", &["--version"]).replace([' ', '(', ')'], "_"));
    for (name, make) in [(SLIM, make_slim as fn(&Engine, &str)), (&tools, make_tools)] {
        let started = Instant::now();
        if !engine.try_docker(&["image", "inspect", name]).status.success() {
            make(engine, name);
            say(&format!("no registry answers: made {name} in {:.0?}", started.elapsed()));
        }
    }
    vec![("BUILD_IMAGE", tools.clone()), ("NODE_IMAGE", tools), ("RUNTIME_IMAGE", SLIM.into())]
}

/// The size of the base image of the three small images.
pub(crate) fn base_size(engine: &Engine, settings: &[(&'static str, String)]) -> u64 {
    let name = settings.iter().find(|(name, _)| *name == "RUNTIME_IMAGE");
    let name = name.map_or("debian:bookworm-slim", |(_, image)| image);
    size(engine, name)
}

/// The size of an image in bytes.
pub(crate) fn size(engine: &Engine, image: &str) -> u64 {
    engine.docker(&["image", "inspect", "--format", "{{.Size}}", image]).parse().unwrap()
}

fn make_slim(engine: &Engine, name: &str) {
    let directory = TempDir::new().unwrap();
    let root = directory.path().join("root");
    shell(
        "debootstrap --variant=minbase \"$1\" \"$2\" http://deb.debian.org/debian",
        &[OsStr::new(RELEASE), root.as_os_str()],
    );
    // This machine's certificates, because it may reach the package registries through a proxy of
    // its own.
    let certificates = env::var_os("SSL_CERT_FILE").unwrap_or_else(|| CERTIFICATES.into());
    let inside = root.join(CERTIFICATES.trim_start_matches('/'));
    fs::create_dir_all(inside.parent().unwrap()).unwrap();
    fs::copy(certificates, inside).expect("the certificates can be copied");
    shell(
        "rm -rf \"$1\"/var/cache/apt/archives/*.deb \"$1\"/var/lib/apt/lists/* \"$1\"/usr/share/{doc,man,locale}; \
         tar -C \"$1\" -c . | docker --host \"$2\" import - \"$3\"",
        &[root.as_os_str(), OsStr::new(engine.host()), OsStr::new(name)],
    );
}

/// A C compiler, and this machine's own Rust and npm.
fn make_tools(engine: &Engine, name: &str) {
    let rust = PathBuf::from(run("rustc", &["--print", "sysroot"]));
    let verbose = run("rustc", &["-vV"]);
    let target = verbose.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let host = OsStr::new(engine.host());
    shell(
        "cd \"$1\" && tar -c bin/cargo bin/rustc lib/*.so* \"lib/rustlib/$2\" | docker --host \"$3\" import - workflow-stack-test/rust",
        &[rust.as_os_str(), OsStr::new(target), host],
    );
    let node = Path::new(&run("bash", &["-c", "realpath \"$(command -v node)\""])).to_owned();
    let prefix = node.parent().and_then(Path::parent).expect("node is in a bin directory");
    assert!(prefix.join("lib/node_modules/npm").is_dir(), "npm is not beside {}", node.display());
    shell(
        "cd \"$1\" && tar -c bin/node lib/node_modules/npm | docker --host \"$2\" import - workflow-stack-test/node",
        &[prefix.as_os_str(), host],
    );
    let dockerfile = format!(
        "FROM {SLIM}\n\
         RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev make perl libstdc++6 && rm -rf /var/lib/apt/lists/*\n\
         COPY --from=workflow-stack-test/rust / /usr/local/\n\
         COPY --from=workflow-stack-test/node / /usr/local/\n\
         RUN ln -s ../lib/node_modules/npm/bin/npm-cli.js /usr/local/bin/npm && cargo --version && npm --version\n\
         ENV CARGO_HTTP_CAINFO={CERTIFICATES} NODE_EXTRA_CA_CERTS={CERTIFICATES} npm_config_cafile={CERTIFICATES}\n\
         RUN mkdir -p ~/.cargo && printf '%s\\n' {QUICK_BUILD} > ~/.cargo/config.toml\n"
    );
    engine.docker_reads(&dockerfile, &["build", "--quiet", "--tag", name, "-"]);
}

/// The claude image with the scripted agent in place of the CLI.
pub(crate) fn agent_image(engine: &Engine) -> String {
    let directory = TempDir::new().unwrap();
    fs::copy(testkit::scripted_agent(), directory.path().join("scripted-agent")).unwrap();
    let dockerfile = "FROM workflow-stack/claude-code-api\n\
        COPY scripted-agent /usr/local/bin/scripted-agent\n\
        ENV CLAUDE_BIN=/usr/local/bin/scripted-agent\n";
    fs::write(directory.path().join("Dockerfile"), dockerfile).unwrap();
    let path = directory.path().to_str().unwrap();
    engine.docker(&["build", "--quiet", "--tag", AGENT, path]);
    // This checks that the agent runs there: it was built for this machine, whose C library may be
    // newer than the image's.
    engine.docker(&[
        "run",
        "--rm",
        "--entrypoint",
        "/usr/local/bin/scripted-agent",
        AGENT,
        "--version",
    ]);
    AGENT.to_owned()
}
