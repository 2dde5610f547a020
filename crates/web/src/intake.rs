//! What is read of a request, and how much of it.

use std::{pin::pin, time::Duration};

use bytes::{Bytes, BytesMut};
use contract::{Code, JobId, RequestError};
use http::{HeaderMap, Request, header};
use http_body_util::BodyExt;

/// The largest body, in bytes, unless configured otherwise.
pub const BODY_LIMIT: usize = 1 << 20;
/// How long a body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(30);
/// How much of a body that is too large is read on and thrown away, so that a caller who sends first and
/// reads later gets to see the answer.
const DRAIN_LIMIT: usize = 16 << 20;

/// Whether the events of a stream carry ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ids {
    /// An `id:` line stands before each `data:` line.
    Sent,
    /// Blocks hold a `data:` line alone, as the original callers need it.
    Left,
}

/// Ids are for callers that say they know event streams.
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
    if named { Ids::Sent } else { Ids::Left }
}

/// `X-On-Disconnect`: what happens to a job whose caller disconnects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDisconnect {
    /// The job goes on; its caller may come back.
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

/// Where a caller's stream broke off; 0 if it does not say.
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

/// The job id in a header, if the header is there.
///
/// # Errors
/// If its value is not a job id.
pub fn job_id(headers: &HeaderMap, name: &'static str) -> Result<Option<JobId>, RequestError> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    value.to_str().ok().and_then(|text| text.parse().ok()).map(Some).ok_or_else(|| {
        RequestError::new(
            Code::InvalidField,
            format!("'{name}' must be a job id (a UUIDv7 in lower case)"),
        )
    })
}

/// Reads a JSON body of at most `limit` bytes.
///
/// A `Content-Type` of JSON is required, not only out of tidiness: a web page can send any other without the
/// browser asking first.
///
/// # Errors
/// If it is of another type, too large, or does not arrive.
pub async fn read_json_body<B>(request: Request<B>, limit: usize) -> Result<Bytes, RequestError>
where
    B: hyper::body::Body<Data = Bytes>,
{
    let is_json = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|media| {
            let media = media.trim().to_ascii_lowercase();
            media == "application/json"
                || (media.starts_with("application/") && media.ends_with("+json"))
        });
    let body = request.into_body();
    if body.is_end_stream() {
        return Err(RequestError::new(
            Code::InvalidJson,
            "the body is empty: send a JSON object with Content-Type: application/json",
        ));
    }
    let read = tokio::time::timeout(BODY_TIME, read(body, limit)).await.unwrap_or_else(|_| {
        Err(RequestError::new(
            Code::Deadline,
            format!("the body did not arrive within {} s", BODY_TIME.as_secs()),
        ))
    })?;
    if is_json {
        Ok(read)
    } else {
        Err(RequestError::new(
            Code::UnsupportedMediaType,
            "send JSON, with Content-Type: application/json",
        ))
    }
}

/// [`read_json_body`], where an empty body will do, and then needs no `Content-Type`. Not from a page of
/// another site, though: browsers send that without asking first, and say that they do.
///
/// # Errors
/// As there.
pub async fn read_optional_json_body<B>(
    request: Request<B>,
    limit: usize,
) -> Result<Bytes, RequestError>
where
    B: hyper::body::Body<Data = Bytes>,
{
    let site = request.headers().get("sec-fetch-site").map(http::HeaderValue::as_bytes);
    let is_foreign = !matches!(site, None | Some(b"same-origin" | b"none"));
    if request.body().is_end_stream() && !is_foreign {
        return Ok(Bytes::new());
    }
    read_json_body(request, limit).await
}

async fn read<B>(body: B, limit: usize) -> Result<Bytes, RequestError>
where
    B: hyper::body::Body<Data = Bytes>,
{
    let mut body = pin!(body);
    let mut content = BytesMut::new();
    let mut total = 0_usize;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return Err(RequestError::new(Code::InvalidJson, "the body broke off"));
        };
        let Ok(data) = frame.into_data() else { continue };
        total = total.saturating_add(data.len());
        if total <= limit {
            content.extend_from_slice(&data);
        } else if total > DRAIN_LIMIT {
            break;
        }
    }
    if total > limit {
        return Err(RequestError::new(
            Code::BodyTooLarge,
            format!("the body is larger than {limit} bytes"),
        ));
    }
    Ok(content.freeze())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http_body_util::Full;

    use super::*;

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
            (None, Ids::Left),
            (Some("*/*"), Ids::Left),
            (Some("application/json, text/*"), Ids::Left),
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
