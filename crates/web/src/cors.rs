//! Cross-origin requests: refused by browsers unless the operator allows an origin.

use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};

use crate::{Body, empty};

/// Which web pages may call this service from a browser (`CORS_ALLOW_ORIGIN`). By default none: a page that
/// could would run agents with the operator's credentials.
#[derive(Clone, Debug, Default)]
pub struct Cors {
    origin: Option<HeaderValue>,
}

impl std::str::FromStr for Cors {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plausible = text == "*" || text.starts_with("http://") || text.starts_with("https://");
        match HeaderValue::from_str(text) {
            Ok(origin) if plausible => Ok(Self { origin: Some(origin) }),
            _ => Err(Self::EXPECTED),
        }
    }
}

impl Cors {
    /// What the setting must be.
    pub const EXPECTED: &str = "* or one origin, such as https://app.example.com";

    /// The answer to a preflight request, if this is one and an origin is allowed.
    #[must_use]
    pub fn preflight(&self, method: &Method, headers: &HeaderMap) -> Option<Response<Body>> {
        if self.origin.is_none()
            || method != Method::OPTIONS
            || !headers.contains_key("access-control-request-method")
        {
            return None;
        }
        let mut response = empty(StatusCode::NO_CONTENT);
        let own = response.headers_mut();
        own.insert(
            header::ACCESS_CONTROL_ALLOW_METHODS,
            HeaderValue::from_static("GET, POST, DELETE, HEAD"),
        );
        let wanted = HeaderValue::from_static(
            "Content-Type, Accept, Authorization, Last-Event-ID, X-Job-Id, X-On-Disconnect",
        );
        own.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted);
        own.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("3600"));
        Some(self.mark(response))
    }

    /// Adds the headers that let a page read the answer.
    #[must_use]
    pub fn mark(&self, mut response: Response<Body>) -> Response<Body> {
        if let Some(origin) = &self.origin {
            let headers = response.headers_mut();
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.insert(
                header::ACCESS_CONTROL_EXPOSE_HEADERS,
                HeaderValue::from_static("X-Job-Id, Retry-After"),
            );
            if origin != "*" {
                headers.append(header::VARY, HeaderValue::from_static("Origin"));
            }
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preflight(cors: &Cors) -> Option<Response<Body>> {
        let mut headers = HeaderMap::new();
        headers.insert("access-control-request-method", HeaderValue::from_static("POST"));
        cors.preflight(&Method::OPTIONS, &headers)
    }

    #[test]
    fn off_by_default() {
        let cors = Cors::default();
        assert!(preflight(&cors).is_none());
        assert!(cors.mark(empty(StatusCode::OK)).headers().is_empty());
    }

    #[test]
    fn an_allowed_origin_may_ask_and_read() {
        for origin in ["*", "https://app.example.com"] {
            let cors: Cors = origin.parse().unwrap();
            let preflight = preflight(&cors).unwrap();
            assert_eq!(preflight.status(), StatusCode::NO_CONTENT);
            assert_eq!(preflight.headers()["access-control-allow-origin"], origin);
            assert!(
                preflight.headers()["access-control-allow-headers"]
                    .to_str()
                    .unwrap()
                    .contains("Content-Type")
            );
            let answer = cors.mark(empty(StatusCode::OK));
            assert_eq!(answer.headers()["access-control-allow-origin"], origin);
            assert_eq!(answer.headers().contains_key("vary"), origin != "*");
            assert!(cors.preflight(&Method::OPTIONS, &HeaderMap::new()).is_none(), "no preflight");
        }
        for bad in ["app.example.com", "javascript:x", "https://a\nb"] {
            assert!(bad.parse::<Cors>().is_err(), "{bad}");
        }
    }
}
