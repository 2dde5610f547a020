//! Volumes without room, made by mounting small ones; skipped where a test may not mount.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use contract::Code;
use serde_json::json;
use testkit::GitServer;

use crate::support::{Scene, snapshot};

/// A file system of so many KiB, unmounted when it goes.
struct SmallVolume {
    directory: tempfile::TempDir,
}

impl SmallVolume {
    fn mount(kilobytes: usize) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let size = format!("size={kilobytes}k");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(directory.path())
            .output()
            .is_ok_and(|output| output.status.success());
        if !mounted {
            eprintln!("skipped: this test may not mount a file system");
            return None;
        }
        Some(Self { directory })
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for SmallVolume {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.directory.path()).status();
    }
}

/// Takes all room but so many bytes.
fn fill(volume: &Path, left: usize) -> PathBuf {
    let path = volume.join("filler");
    let mut size = 0;
    while fs::write(&path, vec![1; size + 16 * 1024]).is_ok() {
        size += 16 * 1024;
    }
    fs::write(&path, vec![1; size.saturating_sub(left)]).unwrap();
    path
}

#[tokio::test]
async fn no_room_for_the_mirror_or_the_checkout() {
    let server = GitServer::start().await;
    server.create_big_repo("app", 100, 10_000);
    // One megabyte for the mirror, one for the objects of the checkout, one for its files.
    for kilobytes in [500, 1500, 2500] {
        let Some(volume) = SmallVolume::mount(kilobytes) else { return };
        let scene = Scene::at(volume.path());
        let outcome = scene.pull(&server.url("app")).await;
        outcome.failed(Code::DiskFull);
        assert!(!scene.path("repo").exists(), "{kilobytes}");
        scene.assert_clean();
    }
    let Some(volume) = SmallVolume::mount(4000) else { return };
    Scene::at(volume.path()).pull(&server.url("app")).await.commit();
}

#[tokio::test]
async fn no_room_for_an_update() {
    let server = GitServer::start().await;
    server.create_repo("app", &[("a", "1\n")]);
    let Some(volume) = SmallVolume::mount(8000) else { return };
    let scene = Scene::at(volume.path());
    scene.pull(&server.url("app")).await.commit();
    let noise: Vec<_> =
        (0..40).map(|number| (format!("n{number}"), noise(number, 25_000))).collect();
    let files: Vec<_> = noise.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let commit = server.commit("app", "main", &files);
    let before = snapshot(&scene.path("repo"));
    let mut failures = 0;
    for left in (0..4_000_000).step_by(250_000) {
        let filler = fill(volume.path(), left);
        let outcome = scene.pull(&server.url("app")).await;
        fs::remove_file(filler).unwrap();
        if outcome.code.is_none() {
            break;
        }
        outcome.failed(Code::DiskFull);
        assert!(snapshot(&scene.path("repo")) == before, "{left}");
        scene.assert_clean();
        failures += 1;
    }
    assert!(failures >= 3, "{failures}");
    let again = json!({"repoUrl": server.url("app"), "directory": "repo"});
    assert_eq!(scene.pull_with(again).await.commit(), commit);
}

/// Text that does not compress to nothing.
fn noise(seed: u64, length: usize) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let letter = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from_digit((state % 36) as u32, 36).unwrap()
    };
    (0..length).map(letter).collect()
}
