//! What a git server says to somebody who clones: the wire protocol in its version 0, as `gitprotocol-pack(5)` has
//! it, for one repository that does not change.
//!
//! No common history is looked for: whoever fetches gets a whole pack, which is right and, for a sample, small.
//! Blocking, and without HTTP.

use std::path::Path;

use git2::{Oid, Repository};

/// The longest data of a packet on a side band: 65520 bytes, less its length and the band's number.
const BAND: usize = 65515;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum UploadError {
    #[error("failed to read the repository")]
    Git(#[from] git2::Error),
    #[error("the request is no request of git's: {0}")]
    Malformed(&'static str),
}

/// What there is to be fetched; the answer to `info/refs?service=git-upload-pack`.
pub(super) fn advertisement(repository: &Path) -> Result<Vec<u8>, UploadError> {
    let repository = Repository::open_bare(repository)?;
    let head = repository.head()?;
    let branch = head.name().unwrap_or("HEAD");
    let capabilities =
        format!("side-band-64k symref=HEAD:{branch} agent=stackctl/{}", env!("CARGO_PKG_VERSION"));
    let mut out = Vec::new();
    packet(&mut out, b"# service=git-upload-pack\n");
    flush(&mut out);
    let id = head.peel_to_commit()?.id();
    packet(&mut out, format!("{id} HEAD\0{capabilities}\n").as_bytes());
    for reference in repository.references()? {
        let reference = reference?;
        if let (Ok(name), Some(id)) = (reference.name(), reference.target()) {
            packet(&mut out, format!("{id} {name}\n").as_bytes());
        }
    }
    flush(&mut out);
    Ok(out)
}

/// What somebody asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    wants: Vec<Oid>,
    bands: Bands,
    turn: Turn,
}

/// How a pack is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bands {
    /// In packets.
    Side,
    /// As it is.
    None,
}

/// Whose turn it is after this request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// The client has said all.
    Server,
    /// The client asks which of its commits are known here, and will ask again.
    Client,
}

impl Request {
    /// Reads the body of `POST git-upload-pack`.
    pub(super) fn parse(mut body: &[u8]) -> Result<Self, UploadError> {
        let mut request = Self { wants: Vec::new(), bands: Bands::None, turn: Turn::Client };
        while let Some(line) = next_packet(&mut body)? {
            let line = std::str::from_utf8(line).map_err(|_| UploadError::Malformed("no text"))?;
            let mut words = line.split_whitespace();
            match words.next() {
                Some("want") => {
                    let id = words.next().and_then(|id| Oid::from_str(id).ok());
                    request.wants.push(id.ok_or(UploadError::Malformed("an id that is none"))?);
                    if words.any(|word| word == "side-band-64k") {
                        request.bands = Bands::Side;
                    }
                }
                // A flush; and what the client has, which is not looked at.
                None | Some("have") => {}
                Some("done") => request.turn = Turn::Server,
                Some(_) => return Err(UploadError::Malformed("a line of a newer protocol")),
            }
        }
        Ok(request)
    }

    /// The answer.
    pub(super) fn answer(&self, repository: &Path) -> Result<Vec<u8>, UploadError> {
        let mut out = Vec::new();
        let repository = Repository::open_bare(repository)?;
        let offered: Vec<_> =
            repository.references()?.flatten().filter_map(|reference| reference.target()).collect();
        if let Some(other) = self.wants.iter().find(|want| !offered.contains(want)) {
            packet(&mut out, format!("ERR upload-pack: not our ref {other}").as_bytes());
            return Ok(out);
        }
        if self.wants.is_empty() {
            return Ok(out);
        }
        packet(&mut out, b"NAK\n");
        if self.turn == Turn::Client {
            return Ok(out);
        }
        let mut walk = repository.revwalk()?;
        self.wants.iter().try_for_each(|want| walk.push(*want))?;
        let mut pack = git2::Buf::new();
        let mut builder = repository.packbuilder()?;
        builder.insert_walk(&mut walk)?;
        builder.write_buf(&mut pack)?;
        match self.bands {
            Bands::None => out.extend_from_slice(&pack),
            Bands::Side => {
                for chunk in pack.chunks(BAND) {
                    packet(&mut out, &[b"\x01", chunk].concat());
                }
                flush(&mut out);
            }
        }
        Ok(out)
    }
}

/// Adds a packet: four hexadecimal digits of length, themselves included, and the data.
fn packet(out: &mut Vec<u8>, data: &[u8]) {
    out.extend_from_slice(format!("{:04x}", data.len() + 4).as_bytes());
    out.extend_from_slice(data);
}

fn flush(out: &mut Vec<u8>) {
    out.extend_from_slice(b"0000");
}

/// Takes the next packet's data off the body; empty for a flush. None at the end.
fn next_packet<'a>(body: &mut &'a [u8]) -> Result<Option<&'a [u8]>, UploadError> {
    if body.is_empty() {
        return Ok(None);
    }
    let malformed = || UploadError::Malformed("a length that is none");
    let (digits, rest) = body.split_at_checked(4).ok_or_else(malformed)?;
    let digits = std::str::from_utf8(digits).map_err(|_| malformed())?;
    let length = usize::from_str_radix(digits, 16).map_err(|_| malformed())?;
    // Lengths 1 to 3 are marks of version 2.
    let length = if length == 0 { 0 } else { length.checked_sub(4).ok_or_else(malformed)? };
    let (data, rest) = rest.split_at_checked(length).ok_or_else(malformed)?;
    *body = rest;
    Ok(Some(data))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789012345678901234567890123456789";

    fn packets(lines: &[&str]) -> Vec<u8> {
        let mut body = Vec::new();
        for line in lines {
            if line.is_empty() { flush(&mut body) } else { packet(&mut body, line.as_bytes()) }
        }
        body
    }

    #[test]
    fn requests_are_read() {
        let want = format!("want {ID} ofs-delta side-band-64k\n");
        let have = format!("have {ID}\n");
        let wants = vec![Oid::from_str(ID).unwrap()];
        for (lines, bands, turn) in [
            (vec![&*want, "", "done\n"], Bands::Side, Turn::Server),
            (vec![&*want, "", &have, "", "done"], Bands::Side, Turn::Server),
            (vec![&*want, "", &have, ""], Bands::Side, Turn::Client),
        ] {
            let parsed = Request::parse(&packets(&lines)).unwrap();
            assert_eq!(parsed, Request { wants: wants.clone(), bands, turn }, "{lines:?}");
        }
        let plain = Request::parse(&packets(&[&format!("want {ID}"), "", "done"])).unwrap();
        assert_eq!(plain.bands, Bands::None);
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for body in [
            &b"x"[..],
            b"zzzz",
            b"0001",
            b"0003",
            b"ffffabc",
            b"0009want\n",
            b"0014command=ls-refs\n",
            b"0006\xff\xff",
            b"\xff\xff\xff\xff",
        ] {
            assert!(Request::parse(body).is_err(), "{body:?}");
        }
        assert_eq!(Request::parse(b"").unwrap().wants, []);
    }

    proptest::proptest! {
        #[test]
        fn no_body_is_too_much(body in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..64)) {
            let _ = Request::parse(&body);
        }
    }
}
