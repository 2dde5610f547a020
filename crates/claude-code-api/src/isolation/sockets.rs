//! The sockets that an agent must not use.

use std::{
    fs,
    path::{Path, PathBuf},
};

use nix::unistd::{AccessFlags, Uid, access, geteuid};

/// Those of container engines, virtual machines and the system's service manager.
const OF_SYSTEM: [&str; 14] = [
    "/run/docker.sock",
    "/run/podman/podman.sock",
    "/run/containerd/containerd.sock",
    "/run/k3s/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/run/buildkit/buildkitd.sock",
    "/run/systemd/private",
    "/run/libvirt/libvirt-sock",
    "/run/libvirt/virtqemud-sock",
    "/var/lib/lxd/unix.socket",
    "/var/snap/lxd/common/lxd/unix.socket",
    "/var/lib/incus/unix.socket",
    "/var/lib/incus/unix.socket.user",
    "/run/incus/unix.socket",
];
/// In the runtime directory of the user.
const OF_USER: [&str; 7] = [
    "bus",
    "systemd/private",
    "docker.sock",
    "podman/podman.sock",
    "buildkit/buildkitd.sock",
    "libvirt/libvirt-sock",
    "libvirt/virtqemud-sock",
];
/// In the home of the user: those of Docker Desktop.
const OF_HOME: [&str; 2] = [".docker/desktop/docker.sock", ".docker/run/docker.sock"];

/// Those that this process may connect to.
pub(super) fn usable(homes: &[PathBuf], docker_host: Option<&str>) -> Vec<PathBuf> {
    let mut found = candidates(geteuid(), homes, docker_host);
    found.retain(|path| access(path, AccessFlags::W_OK).is_ok());
    found
}

/// Where there may be some that a user can connect to.
pub(super) fn candidates(user: Uid, homes: &[PathBuf], docker_host: Option<&str>) -> Vec<PathBuf> {
    let runtime = Path::new("/run/user").join(user.to_string());
    // A terminal multiplexer types whatever it is told to.
    let multiplexers = fs::read_dir(format!("/tmp/tmux-{user}")).into_iter().flatten().flatten();
    OF_SYSTEM
        .into_iter()
        .map(PathBuf::from)
        .chain(OF_USER.into_iter().map(|name| runtime.join(name)))
        .chain(homes.iter().flat_map(|home| OF_HOME.map(|name| home.join(name))))
        .chain(docker_host.and_then(|host| host.strip_prefix("unix://")).map(PathBuf::from))
        .chain(multiplexers.map(|entry| entry.path()))
        .collect()
}
