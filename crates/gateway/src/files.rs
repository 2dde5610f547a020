//! Answers that are files, and `GET /api/jobs/:id/files/<path>`.

use std::{
    fs::{File, Metadata},
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    sync::Arc,
};

use bytes::Bytes;
use contract::{CallerName, Code, RequestError};
use futures_util::Stream;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use percent_encoding::percent_decode_str;
use web::Body;
use workspace::{CheckoutFile, ResolveError, blocking};

use crate::{
    caller::{Access, Act, Caller},
    reads,
    shared::Shared,
};

/// How much of a file is read at a time, in bytes.
const PIECE: u64 = 64 * 1024;

/// How a file is described.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Served {
    pub(crate) media_type: &'static str,
    /// The request header that the answer depends on.
    pub(crate) varies: Option<&'static str>,
}

/// A file of a job's checkout, as it is now. `path` is that of the request.
pub(crate) async fn file(
    shared: &Arc<Shared>,
    caller: &Caller,
    id: &str,
    path: &str,
    headers: &HeaderMap,
) -> Result<Response<Body>, RequestError> {
    let job = reads::find(shared, caller, Act::Read, id).await?;
    // The router decodes a path only if it is UTF-8.
    let name = path.split_once("/files/").map(|(_, name)| name).unwrap_or_default();
    let name: Vec<u8> = percent_decode_str(name).collect();
    let (shown, asks) = (String::from_utf8_lossy(&name).into_owned(), caller.clone());
    let found = blocking(move || {
        let workspace = job.workspace();
        let gone = || RequestError::new(Code::WorkspaceGone, "the checkout of this job is gone");
        let checkout = job.checkout().map_err(|error| error.refusal())?.ok_or_else(|| {
            RequestError::new(Code::NotFound, "this job has no checkout, or none yet")
        })?;
        let real = match workspace.resolve(&checkout) {
            Ok(real) => real,
            Err(ResolveError::Refused(_)) => return Err(gone()),
            Err(ResolveError::Volume(error)) => return Err(error.refusal()),
        };
        // A shared checkout may have got another owner since, and a link may lead into that of another.
        let owner = workspace.owner_of_place(&real).map_err(|error| error.refusal())?;
        let owner = owner.unwrap_or_else(CallerName::anonymous);
        if asks.access(&owner, Act::Read) != Access::Granted {
            return Err(gone());
        }
        workspace.open_checkout_file(&real, &name).map_err(|error| error.refusal())
    });
    let file = match found.await? {
        CheckoutFile::File(file) => file,
        CheckoutFile::Other(what) => {
            let sentence = format!("'{shown}' is {what}: only regular files can be read");
            return Err(RequestError::new(Code::InvalidField, sentence));
        }
        CheckoutFile::Nothing => {
            let sentence = format!("the job's checkout has no file '{shown}'");
            return Err(RequestError::new(Code::NotFound, sentence));
        }
    };
    // A page that an agent wrote must not run on this origin.
    let served = Served { media_type: "application/octet-stream", varies: None };
    let mut response = answer(file, served, headers).await?;
    let attachment = HeaderValue::from_static("attachment");
    response.headers_mut().insert(header::CONTENT_DISPOSITION, attachment);
    Ok(response)
}

/// What a request asks of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    All,
    /// From the first byte up to, but not including, the second.
    Part(u64, u64),
    /// A part that the file does not have.
    Unsatisfiable,
}

/// An open file as an answer: the whole, one range of it, or that the caller already has it.
pub(crate) async fn answer(
    file: File,
    served: Served,
    headers: &HeaderMap,
) -> Result<Response<Body>, RequestError> {
    let (file, metadata) = blocking(move || {
        let metadata = file.metadata();
        (file, metadata)
    })
    .await;
    let metadata = metadata.map_err(|error| {
        tracing::error!(%error, "cannot look at an open file");
        RequestError::new(Code::Internal, "the file cannot be read: see the gateway's log")
    })?;
    let (size, tag) = (metadata.len(), tag(&metadata));
    let get = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let is_known = get(header::IF_NONE_MATCH)
        .is_some_and(|known| known == "*" || known.split(',').any(|known| known.trim() == tag));
    let is_current = get(header::IF_RANGE).is_none_or(|expected| expected == tag);
    let wanted = match get(header::RANGE) {
        Some(range) if is_current => parse_range(range, size),
        _ => Wanted::All,
    };
    let (status, part) = match wanted {
        _ if is_known => (StatusCode::NOT_MODIFIED, None),
        Wanted::All => (StatusCode::OK, Some((0, size))),
        Wanted::Part(start, end) => (StatusCode::PARTIAL_CONTENT, Some((start, end))),
        Wanted::Unsatisfiable => (StatusCode::RANGE_NOT_SATISFIABLE, None),
    };
    let mut response = match part {
        Some((start, end)) => web::streamed(pieces(file, start, end)),
        None => web::empty(status),
    };
    *response.status_mut() = status;
    let out = response.headers_mut();
    let mut set = |name: header::HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            out.insert(name, value);
        }
    };
    set(header::ETAG, &tag);
    set(header::ACCEPT_RANGES, "bytes");
    set(header::CACHE_CONTROL, "private, no-cache");
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    if let Some(name) = served.varies {
        set(header::VARY, name);
    }
    if let Some((start, end)) = part {
        set(header::CONTENT_TYPE, served.media_type);
        set(header::CONTENT_LENGTH, &(end - start).to_string());
    }
    match wanted {
        Wanted::Part(start, end) if part.is_some() => {
            set(header::CONTENT_RANGE, &format!("bytes {start}-{}/{size}", end - 1));
        }
        Wanted::Unsatisfiable if part.is_none() => {
            set(header::CONTENT_RANGE, &format!("bytes */{size}"));
        }
        _ => {}
    }
    Ok(response)
}

/// What recognizes this content of a file. Whoever writes the file can set its time of modification, but not that of its change.
fn tag(metadata: &Metadata) -> String {
    let (size, seconds, nanoseconds) = (metadata.len(), metadata.ctime(), metadata.ctime_nsec());
    format!("\"{:x}-{size:x}-{seconds:x}-{nanoseconds:x}\"", metadata.ino())
}

/// Reads `Range`. Of several ranges, and of what is no range of bytes, everything is sent, as HTTP allows.
fn parse_range(text: &str, size: u64) -> Wanted {
    let Some(range) = text.trim().strip_prefix("bytes=") else { return Wanted::All };
    let Some((first, last)) = range.split_once('-').filter(|_| !range.contains(',')) else {
        return Wanted::All;
    };
    let number = |text: &str| {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // One that is too large for this is larger than any file.
        is_number.then(|| text.parse().unwrap_or(u64::MAX))
    };
    let (first, last) = (first.trim(), last.trim());
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first > last => Wanted::All,
        (Some(first), _) if first >= size => Wanted::Unsatisfiable,
        (Some(first), Some(last)) => Wanted::Part(first, size.min(last.saturating_add(1))),
        (Some(first), None) if last.is_empty() => Wanted::Part(first, size),
        (None, Some(0)) if first.is_empty() => Wanted::Unsatisfiable,
        (None, Some(_)) if first.is_empty() && size == 0 => Wanted::Unsatisfiable,
        (None, Some(count)) if first.is_empty() => Wanted::Part(size.saturating_sub(count), size),
        _ => Wanted::All,
    }
}

/// The bytes of a file. One that has become shorter ends the connection.
fn pieces(
    file: File,
    start: u64,
    end: u64,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let file = Arc::new(file);
    async_stream::stream! {
        let mut at = start;
        while at < end {
            let (file, length) = (Arc::clone(&file), PIECE.min(end - at));
            let read = blocking(move || {
                let mut buffer = vec![0; usize::try_from(length).unwrap_or_default()];
                file.read_exact_at(&mut buffer, at).map(|()| Bytes::from(buffer))
            });
            match read.await {
                Ok(bytes) => {
                    at += bytes.len() as u64;
                    yield Ok(bytes);
                }
                Err(error) => {
                    yield Err(error);
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        use Wanted::{All, Part, Unsatisfiable};
        for (text, size, expected) in [
            ("bytes=0-0", 10, Part(0, 1)),
            ("bytes=2-5", 10, Part(2, 6)),
            ("bytes=2-", 10, Part(2, 10)),
            ("bytes=2-99", 10, Part(2, 10)),
            ("bytes=-3", 10, Part(7, 10)),
            ("bytes=-99", 10, Part(0, 10)),
            ("bytes=0-99999999999999999999999", 10, Part(0, 10)),
            ("bytes=10-", 10, Unsatisfiable),
            ("bytes=99999999999999999999999-", 10, Unsatisfiable),
            ("bytes=-0", 10, Unsatisfiable),
            ("bytes=0-", 0, Unsatisfiable),
            ("bytes=-1", 0, Unsatisfiable),
            ("bytes=5-2", 10, All),
            ("bytes=0-1,3-4", 10, All),
            ("bytes=", 10, All),
            ("bytes=-", 10, All),
            ("bytes=a-b", 10, All),
            ("bytes=+1-2", 10, All),
            ("lines=1-2", 10, All),
        ] {
            assert_eq!(parse_range(text, size), expected, "{text} of {size}");
        }
    }
}
