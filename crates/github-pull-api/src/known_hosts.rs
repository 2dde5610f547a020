//! Host keys of ssh, as OpenSSH's `known_hosts` files list them.

use std::{fs, io, path::Path};

use ssh2::{CheckResult, KnownHostFileKind, KnownHosts, Session};

use crate::access::Denial;

/// The name that revoked keys are looked up under: they are revoked whichever host sends them.
const REVOKED: &str = "revoked";

/// Whether `key`, as `host` (with its port if that is not 22) sent it, is in `file`.
///
/// # Errors
/// If it is not, or the file cannot be read.
pub(crate) fn check(file: &Path, host: &str, key: &[u8]) -> Result<(), Denial> {
    let unreadable = |error: io::Error| {
        tracing::error!(file = %file.display(), %error, "cannot use SSH_KNOWN_HOSTS_FILE");
        Denial::UnknownHostKey
    };
    let text = fs::read_to_string(file).map_err(unreadable)?;
    let session = Session::new().map_err(|error| unreadable(error.into()))?;
    let mut known = session.known_hosts().map_err(|error| unreadable(error.into()))?;
    let mut revoked = session.known_hosts().map_err(|error| unreadable(error.into()))?;
    for line in text.lines().map(str::trim) {
        // libssh2 does not know the markers and would take their lines for those of known keys.
        if let Some(line) = line.strip_prefix("@revoked") {
            let key = line.trim_start().split_once(char::is_whitespace).map_or("", |(_, key)| key);
            read(&mut revoked, &format!("{REVOKED} {}", key.trim_start()));
        } else if !line.is_empty() && !line.starts_with(['#', '@']) {
            read(&mut known, line);
        }
    }
    if !matches!(revoked.check(REVOKED, key), CheckResult::NotFound | CheckResult::Mismatch) {
        return Err(Denial::WrongHostKey);
    }
    let (name, port) = split_port(host);
    match known.check_port(name, port, key) {
        CheckResult::Match => Ok(()),
        CheckResult::Mismatch => Err(Denial::WrongHostKey),
        CheckResult::NotFound | CheckResult::Failure => Err(Denial::UnknownHostKey),
    }
}

/// A line of a kind that libssh2 does not know makes no other line wrong.
fn read(hosts: &mut KnownHosts, line: &str) {
    if let Err(error) = hosts.read_str(line, KnownHostFileKind::OpenSSH) {
        tracing::debug!(%error, "line of known hosts skipped");
    }
}

/// `host:port` in its parts.
fn split_port(host: &str) -> (&str, u16) {
    match host.rsplit_once(':').map(|(name, port)| (name, port.parse())) {
        Some((name, Ok(port))) => (name.trim_matches(['[', ']']), port),
        _ => (host.trim_matches(['[', ']']), 22),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Made by `ssh-keygen -t ed25519`, `-t ecdsa` and `-t rsa`.
    const ED25519: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKdZRxjMZiPx/iIsRxaXm10OTaMi47SZwMqm7TmSCbht";
    const ECDSA: &str = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBOc9ixgQOipGmUvnVNceNyJfFBPdFWx5CLMIEaiUmLNy0tEMErbp0S9x3akkaKYlXF2cabgAB3qpLk2b4r9cgn4=";
    const RSA: &str = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQDGScFO/eK1khpZ7JhEsYqlMxB8IbrqjKix96c9X2WC4Gkye7E8VaqvsEBibDLz8iLAstep/OnppYw69+qTRy5XMILY1+qDZ2eQl6+oJOqNHJoXI9s5jQ3/gILoVYvyogsl5e6WQZx6X+OpgUZYfUB6c4Pcm9vSv10cQ+jQeTQOec+EF0bI6Q6cnusywOtiX+FHsoHr6JHWd7Zspzm53QnPxsZ9QIop3bBAGiUTdwZm97mV/7Vrv7VPR3Y0YScGuIxMJagGz5/PIgsa6w+ShnhYsDshCXewXMeO8bfUerpTSe3hc+0rtTaplzlv4YCkZ1G8ggoeNdRGA9cEGiLenr91";

    // Made by `ssh-keygen -H` from lines for git.example.com (ed25519) and
    // [git.example.com]:2222 (ecdsa).
    const HASHED: &str = "|1|HVCsrWtFmjuKKqeGVaKpxZp0ZG0=|AI5mH9LB4dsKtutlcOW6ePTkqc4= ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKdZRxjMZiPx/iIsRxaXm10OTaMi47SZwMqm7TmSCbht";
    const HASHED_PORT: &str = "|1|TSDKUoeChswsgfyzfYBIWpg0nss=|CzL3XnKlZFWPT4JZlYz4Gt0YNzM= ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBOc9ixgQOipGmUvnVNceNyJfFBPdFWx5CLMIEaiUmLNy0tEMErbp0S9x3akkaKYlXF2cabgAB3qpLk2b4r9cgn4=";

    fn raw(line: &str) -> Vec<u8> {
        let letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let encoded = line.split(' ').nth(1).unwrap().trim_end_matches('=');
        let values = encoded.chars().map(|letter| letters.find(letter).unwrap());
        let bits: Vec<_> = values
            .flat_map(|value| (0..6).rev().map(move |bit| (value >> bit & 1) as u8))
            .collect();
        let byte = |bits: &[u8]| bits.iter().fold(0, |byte, &bit| byte << 1 | bit);
        bits.chunks_exact(8).map(byte).collect()
    }

    fn checked(lines: &str, host: &str, key: &str) -> Result<(), Denial> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), lines).unwrap();
        check(file.path(), host, &raw(key))
    }

    #[test]
    fn plain_lines() {
        let lines = format!(
            "# a comment\n\ngit.example.com,10.0.0.1 {ED25519}\ngit.example.com {RSA}\n\
             [git.example.com]:2222 {ECDSA}"
        );
        for (host, key, expected) in [
            ("git.example.com", ED25519, Ok(())),
            ("git.example.com", RSA, Ok(())),
            ("10.0.0.1", ED25519, Ok(())),
            ("git.example.com:2222", ECDSA, Ok(())),
            ("git.example.com", ECDSA, Err(Denial::WrongHostKey)),
            ("10.0.0.1", RSA, Err(Denial::WrongHostKey)),
            ("example.com", ED25519, Err(Denial::UnknownHostKey)),
        ] {
            assert_eq!(checked(&lines, host, key), expected, "{host} {key}");
        }
    }

    #[test]
    fn hashed_lines() {
        let lines = format!("{HASHED}\n{HASHED_PORT}\n");
        assert_eq!(checked(&lines, "git.example.com", ED25519), Ok(()));
        assert_eq!(checked(&lines, "git.example.com:2222", ECDSA), Ok(()));
        assert_eq!(checked(&lines, "git.example.com", ECDSA), Err(Denial::WrongHostKey));
        assert_eq!(checked(&lines, "other.example.com", ED25519), Err(Denial::UnknownHostKey));
    }

    #[test]
    fn marked_lines_are_no_known_keys() {
        let authority = format!("@cert-authority git.example.com {ED25519}");
        assert_eq!(checked(&authority, "git.example.com", ED25519), Err(Denial::UnknownHostKey));
        let revoked = format!("git.example.com {ED25519}\n@revoked * {ED25519}");
        assert_eq!(checked(&revoked, "git.example.com", ED25519), Err(Denial::WrongHostKey));
    }

    #[test]
    fn a_line_that_does_not_parse_spoils_no_other() {
        let lines = format!("nonsense\nhost ssh-future AAAA\ngit.example.com {ED25519}");
        assert_eq!(checked(&lines, "git.example.com", ED25519), Ok(()));
        let missing = check(Path::new("/nonexistent"), "git.example.com", &raw(ED25519));
        assert_eq!(missing, Err(Denial::UnknownHostKey));
    }
}
