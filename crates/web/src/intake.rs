//! Reading requests: their headers and bodies, and the limits on them.

use std::{pin::Pin, time::Duration};

use bytes::{Bytes, BytesMut};
use contract::{Code, JobId, RequestError};
use http::{HeaderMap, Request, header};
use http_body_util::BodyExt;
use tokio::sync::Semaphore;

/// The default limit for a body, in bytes.
pub const BODY_LIMIT: usize = 1 << 20;
/// The limit for a body that a part of a stack passes on, in bytes. It is that of the caller, encoded again: with defaults, and
/// with escapes in URLs. A workflow's job is passed on three times.
pub const PASSED_LIMIT: usize = BODY_LIMIT + (64 << 10);
/// How much memory the bodies that are arriving may take together, in KiB: 64 MiB. Otherwise callers that send slowly could
/// take all of it.
const ARRIVING_KIB: usize = 64 * 1024;
static ARRIVING: Semaphore = Semaphore::const_new(ARRIVING_KIB);
/// How long a body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(30);
/// How many bytes of a refused body are read and discarded.
const DRAIN_LIMIT: usize = 16 << 20;
/// How many characters of an unsupported encoding's name an error repeats.
const SHOWN_ENCODING: usize = 32;

/// Whether the events of a stream carry IDs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ids {
    /// There is an `id:` line before each `data:` line.
    Sent,
    /// Each block is only a `data:` line, as the original callers need it.
    Omitted,
}

/// Only callers that accept event streams explicitly get IDs.
#[must_use]
pub fn ids_wanted(headers: &HeaderMap) -> Ids {
    let named = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|range| {
            range
                .split(';')
                .next()
                .is_some_and(|media| media.trim().eq_ignore_ascii_case("text/event-stream"))
        });
    if named { Ids::Sent } else { Ids::Omitted }
}

/// `X-On-Disconnect`: what happens to a job whose caller disconnects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDisconnect {
    /// The job continues, and its caller may reconnect.
    #[default]
    Continue,
    /// The job is cancelled.
    Cancel,
}

impl OnDisconnect {
    /// Reads the header.
    ///
    /// # Errors
    /// If it has another value.
    pub fn read(headers: &HeaderMap) -> Result<Self, RequestError> {
        match headers.get(crate::header::ON_DISCONNECT).map(http::HeaderValue::as_bytes) {
            None | Some(b"continue") => Ok(Self::Continue),
            Some(b"cancel") => Ok(Self::Cancel),
            Some(_) => Err(RequestError::new(
                Code::InvalidField,
                "'X-On-Disconnect' must be 'continue' or 'cancel'",
            )),
        }
    }
}

/// The ID of the last event that a caller has seen; 0 if it does not say.
///
/// # Errors
/// If the value is not a number.
pub fn last_event_id(headers: &HeaderMap) -> Result<u64, RequestError> {
    match headers.get("last-event-id") {
        None => Ok(0),
        Some(value) if value.is_empty() => Ok(0),
        Some(value) => value.to_str().ok().and_then(|text| text.parse().ok()).ok_or_else(|| {
            RequestError::new(
                Code::InvalidField,
                "'Last-Event-ID' must be the id of an event of this stream",
            )
        }),
    }
}

/// The job ID in a header, if present.
///
/// # Errors
/// If its value is not a job ID.
pub fn job_id(headers: &HeaderMap, name: &'static str) -> Result<Option<JobId>, RequestError> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    value.to_str().ok().and_then(|text| text.parse().ok()).map(Some).ok_or_else(|| {
        RequestError::new(Code::InvalidField, format!("'{name}' must be a job id (a UUIDv7)"))
    })
}

/// Reads a JSON body of at most `limit` bytes.
///
/// A `Content-Type` of JSON is required, because a web page can send some others without a preflight request. If the head is
/// enough to refuse the request, no byte of the body is read, so a caller that waits for `100 Continue` is never told to
/// send such a body.
///
/// # Errors
/// If it has another type, is encoded, is too large, or does not arrive, or if too many bodies are arriving.
pub async fn read_json_body<B>(request: Request<B>, limit: usize) -> Result<Bytes, RequestError>
where
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
{
    let (head, body) = request.into_parts();
    if body.is_end_stream() {
        return Err(RequestError::new(
            Code::InvalidJson,
            "the body is empty: send a JSON object with Content-Type: application/json",
        ));
    }
    if let Err(error) = check_head(&head.headers, body.size_hint().lower(), limit) {
        let sends_at_once = !head.headers.contains_key(header::EXPECT);
        if sends_at_once {
            discard(Box::pin(body));
        }
        return Err(error);
    }
    let mut body = Box::pin(body);
    let read = tokio::time::timeout(BODY_TIME, read(body.as_mut(), limit, &ARRIVING)).await;
    let read = read.unwrap_or_else(|_| {
        Err(RequestError::new(
            Code::Deadline,
            format!("the body did not arrive within {} s", BODY_TIME.as_secs()),
        ))
    });
    if read.as_ref().is_err_and(|error| matches!(error.code, Code::BodyTooLarge | Code::Busy)) {
        discard(body);
    }
    read
}

/// Checks the head of a request whose body is at least `length` bytes long.
fn check_head(headers: &HeaderMap, length: u64, limit: usize) -> Result<(), RequestError> {
    let unsupported = |why: String| Err(RequestError::new(Code::UnsupportedMediaType, why));
    let encodings = headers.get_all(header::CONTENT_ENCODING).iter();
    let encoding = encodings
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .find(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity"));
    if let Some(encoding) = encoding {
        let encoding: String =
            String::from_utf8_lossy(encoding).chars().take(SHOWN_ENCODING).collect();
        return unsupported(format!(
            "the body has the Content-Encoding '{encoding}': send it without one"
        ));
    }
    let is_json = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|media| {
            let media = media.trim().to_ascii_lowercase();
            media == "application/json"
                || (media.starts_with("application/") && media.ends_with("+json"))
        });
    if !is_json {
        return unsupported("send JSON, with Content-Type: application/json".into());
    }
    if usize::try_from(length).map_or(true, |length| length > limit) {
        return Err(too_large(limit));
    }
    Ok(())
}

fn too_large(limit: usize) -> RequestError {
    RequestError::new(Code::BodyTooLarge, format!("the body is larger than {limit} bytes"))
}

/// Reads and discards the rest of a body while the response is sent. Otherwise a caller that sends its whole body before it
/// reads would get a reset instead of the response. Ends with the connection or at one of the limits.
fn discard<B>(mut body: Pin<Box<B>>)
where
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
{
    tokio::spawn(tokio::time::timeout(BODY_TIME, async move {
        let mut total = 0_usize;
        while let Some(Ok(frame)) = body.frame().await {
            total = total.saturating_add(frame.data_ref().map_or(0, Bytes::len));
            if total > DRAIN_LIMIT {
                return;
            }
        }
    }));
}

/// The same as [`read_json_body`], but the body may be empty and then needs no `Content-Type`, unless a page of another site
/// sends it: browsers do that without a preflight request, and say so.
///
/// # Errors
/// As for [`read_json_body`].
pub async fn read_optional_json_body<B>(
    request: Request<B>,
    limit: usize,
) -> Result<Bytes, RequestError>
where
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
{
    let site = request.headers().get("sec-fetch-site").map(http::HeaderValue::as_bytes);
    let is_foreign = !matches!(site, None | Some(b"same-origin" | b"none"));
    if request.body().is_end_stream() && !is_foreign {
        return Ok(Bytes::new());
    }
    read_json_body(request, limit).await
}

/// Reads a body of at most `limit` bytes, and takes a permit of `arriving` for each KiB until it is complete.
async fn read<B>(
    mut body: Pin<&mut B>,
    limit: usize,
    arriving: &Semaphore,
) -> Result<Bytes, RequestError>
where
    B: hyper::body::Body<Data = Bytes>,
{
    let mut content = BytesMut::new();
    let mut permits = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return Err(RequestError::new(Code::InvalidJson, "the body is incomplete"));
        };
        let Ok(data) = frame.into_data() else { continue };
        if content.len().saturating_add(data.len()) > limit {
            return Err(too_large(limit));
        }
        let kib = u32::try_from(data.len().div_ceil(1024)).unwrap_or(u32::MAX);
        let permit = arriving.try_acquire_many(kib).map_err(|_| {
            RequestError::new(
                Code::Busy,
                "too many large requests are arriving at the same time: send it again in a moment",
            )
        })?;
        permits.push(permit);
        content.extend_from_slice(&data);
    }
    Ok(content.freeze())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http_body_util::Full;

    use super::*;

    #[tokio::test]
    async fn bodies_that_arrive_together_have_a_limit() {
        let arriving = Semaphore::new(4);
        let read_one = async |length: usize| {
            let mut body = Box::pin(Full::from(vec![b'x'; length]));
            read(body.as_mut(), 1 << 20, &arriving).await
        };
        let held = arriving.try_acquire_many(2).unwrap();
        assert_eq!(read_one(2048).await.unwrap().len(), 2048);
        assert_eq!(read_one(2049).await.unwrap_err().code, Code::Busy);
        drop(held);
        // Nothing of what was read, or refused, is still counted.
        assert_eq!(arriving.available_permits(), 4);
        assert_eq!(read_one(4096).await.unwrap().len(), 4096);
    }

    fn request(content_type: &str, body: &'static [u8]) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::from(body));
        if !content_type.is_empty() {
            request.headers_mut().insert(header::CONTENT_TYPE, content_type.parse().unwrap());
        }
        request
    }

    #[tokio::test]
    async fn bodies() {
        for (content_type, body, code) in [
            ("application/json", b"{}".as_slice(), None),
            ("Application/JSON; charset=utf-8", b"{}", None),
            ("application/problem+json", b"{}", None),
            ("text/plain", b"{}", Some(Code::UnsupportedMediaType)),
            ("application/x-www-form-urlencoded", b"{}", Some(Code::UnsupportedMediaType)),
            ("", b"{}", Some(Code::UnsupportedMediaType)),
            ("", b"", Some(Code::InvalidJson)),
            ("application/json", b"12345678901", Some(Code::BodyTooLarge)),
            ("application/json", b"1234567890", None),
        ] {
            let result = read_json_body(request(content_type, body), 10).await;
            assert_eq!(result.err().map(|error| error.code), code, "{content_type} {body:?}");
        }
    }

    #[tokio::test]
    async fn encoded_bodies() {
        for (encodings, is_read) in [
            (&["identity"][..], true),
            (&["", "Identity"], true),
            (&["gzip"], false),
            (&["identity, br"], false),
            (&["identity", "zstd"], false),
        ] {
            let mut request = request("application/json", b"{}");
            for encoding in encodings {
                let value = HeaderValue::from_static(encoding);
                request.headers_mut().append(header::CONTENT_ENCODING, value);
            }
            let result = read_json_body(request, 10).await;
            let code = result.err().map(|error| error.code);
            assert_eq!(code, (!is_read).then_some(Code::UnsupportedMediaType), "{encodings:?}");
        }
    }

    #[tokio::test]
    async fn a_body_that_may_be_empty() {
        let empty = || request("", b"");
        assert!(read_optional_json_body(empty(), 10).await.unwrap().is_empty());
        assert_eq!(
            read_optional_json_body(request("application/json", b"{}"), 10).await.unwrap(),
            "{}"
        );
        assert!(read_optional_json_body(request("", b"{}"), 10).await.is_err());
        let mut foreign = empty();
        foreign.headers_mut().insert("sec-fetch-site", HeaderValue::from_static("cross-site"));
        assert!(read_optional_json_body(foreign, 10).await.is_err());
    }

    #[test]
    fn only_callers_that_name_event_streams_get_ids() {
        for (accept, ids) in [
            (None, Ids::Omitted),
            (Some("*/*"), Ids::Omitted),
            (Some("application/json, text/*"), Ids::Omitted),
            (Some("text/event-stream"), Ids::Sent),
            (Some("application/json, Text/Event-Stream;q=0.5"), Ids::Sent),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(accept) = accept {
                headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            }
            assert_eq!(ids_wanted(&headers), ids, "{accept:?}");
        }
    }

    #[test]
    fn on_disconnect() {
        let read = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(crate::header::ON_DISCONNECT, HeaderValue::from_static(value));
            OnDisconnect::read(&headers).ok()
        };
        assert_eq!(OnDisconnect::read(&HeaderMap::new()).ok(), Some(OnDisconnect::Continue));
        assert_eq!(read("cancel"), Some(OnDisconnect::Cancel));
        assert_eq!(read("continue"), Some(OnDisconnect::Continue));
        for bad in ["", "Cancel", "yes"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn last_event_ids() {
        let parse = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("last-event-id", HeaderValue::from_static(text));
            last_event_id(&headers).ok()
        };
        assert_eq!(last_event_id(&HeaderMap::new()).ok(), Some(0));
        assert_eq!(
            [parse(""), parse("17"), parse("-1"), parse("x"), parse("1e3")],
            [Some(0), Some(17), None, None, None]
        );
    }
}
