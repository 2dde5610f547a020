//! What only Docker Swarm needs.

use swarm::Error;

use super::{files::Files, finding::Finding};

const ONLY_SWARM: &str = "only Swarm needs it";

/// `version` is what the engine at DOCKER_HOST, or else that of this machine, says.
pub(super) fn docker(version: &Result<String, Error>) -> Finding {
    const NAME: &str = "Docker";
    match version {
        Ok(version) => Finding::ok(NAME, format!("{version} answers ({ONLY_SWARM})")),
        Err(Error::NoEngine { host, why }) => Finding::advice(
            NAME,
            format!("no engine answers at {host}: {why} ({ONLY_SWARM})"),
            "sudo systemctl start docker\nor install it: https://docs.docker.com/engine/install",
        ),
        Err(Error::NotAllowed { host }) => Finding::advice(
            NAME,
            format!("this user may not use {host} ({ONLY_SWARM})"),
            "sudo usermod -aG docker $USER, and log in again",
        ),
        Err(error) => Finding::unknown(NAME, format!("{error} ({ONLY_SWARM})")),
    }
}

/// Swarm balances its services with it.
pub(super) fn ipvs(files: &dyn Files) -> Finding {
    const NAME: &str = "IPVS";
    let has = |path: &str, what: &str| files.read(path).is_some_and(|text| text.contains(what));
    if files.read("/proc/net/ip_vs").is_some()
        || has("/proc/modules", "ip_vs ")
        || loadable(files, "ip_vs.ko")
    {
        Finding::ok(NAME, format!("the kernel supports it ({ONLY_SWARM})"))
    } else {
        Finding::advice(
            NAME,
            format!("the kernel does not support it ({ONLY_SWARM})"),
            "sudo modprobe ip_vs; where there is no such module, deploy-swarm.sh publishes the ports on one node",
        )
    }
}

/// Whether the running kernel has this module, built in or on disk.
fn loadable(files: &dyn Files, module: &str) -> bool {
    let Some(release) = files.read("/proc/sys/kernel/osrelease") else { return false };
    let directory = format!("/lib/modules/{}", release.trim());
    ["modules.builtin", "modules.dep"].iter().any(|list| {
        files.read(&format!("{directory}/{list}")).is_some_and(|text| text.contains(module))
    })
}

#[cfg(test)]
mod tests {
    use super::{
        super::finding::State::{Advice, Ok as Fine, Unknown},
        *,
    };

    #[test]
    fn docker_answers_or_not() {
        assert_eq!(docker(&Ok("28.0".into())).state, Fine);
        for (error, state) in [
            (Error::NoEngine { host: "unix:///s".into(), why: "x".into() }, Advice),
            (Error::NotAllowed { host: "unix:///s".into() }, Advice),
            (Error::Scheme("ssh://h".into()), Unknown),
        ] {
            let finding = docker(&Err(error));
            assert_eq!((finding.state, finding.fix.is_some()), (state, state == Advice));
        }
    }

    #[test]
    fn ipvs_in_whatever_form() {
        assert_eq!(ipvs(&[("/proc/net/ip_vs", "")]).state, Fine);
        assert_eq!(ipvs(&[("/proc/modules", "x 1\nip_vs 155 0 -\n")]).state, Fine);
        let release = ("/proc/sys/kernel/osrelease", "6.1\n");
        let list = "kernel/net/netfilter/ipvs/ip_vs.ko.xz: ";
        assert_eq!(ipvs(&[release, ("/lib/modules/6.1/modules.dep", list)]).state, Fine);
        assert_eq!(ipvs(&[release, ("/lib/modules/6.1/modules.builtin", list)]).state, Fine);
        assert_eq!(ipvs(&[release, ("/lib/modules/6.2/modules.dep", list)]).state, Advice);
        assert!(ipvs(&[]).fix.unwrap().starts_with("sudo modprobe ip_vs"));
    }
}
