//! Cross-origin requests, which browsers refuse unless the operator allows the origin.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, header};
use tower_http::cors::{AllowOrigin, Any, CorsLayer};

/// How long a browser may cache the response to a preflight request.
const MAX_AGE: Duration = Duration::from_secs(3600);

/// Which web pages may call this service from a browser (`CORS_ALLOW_ORIGIN`). By default, none: a page that may call it can
/// run agents with the operator's credentials.
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
    /// What the setting must look like.
    pub const EXPECTED: &str = "* or one origin, such as https://app.example.com";

    /// Whether pages of this origin may call the service.
    #[must_use]
    pub fn allows(&self, origin: &HeaderValue) -> bool {
        self.origin.as_ref().is_some_and(|allowed| allowed == "*" || allowed == origin)
    }

    /// The layer that answers preflight requests and lets pages read responses, if any origin is allowed.
    #[must_use]
    pub fn layer(&self) -> Option<CorsLayer> {
        let origin = self.origin.as_ref()?;
        let layer = CorsLayer::new()
            .allow_methods([Method::GET, Method::POST, Method::DELETE, Method::HEAD])
            .allow_headers([
                header::CONTENT_TYPE,
                header::ACCEPT,
                header::AUTHORIZATION,
                HeaderName::from_static("last-event-id"),
                HeaderName::from_static("prefer"),
                HeaderName::from_static(crate::header::JOB_ID),
                HeaderName::from_static(crate::header::ON_DISCONNECT),
            ])
            .expose_headers([
                HeaderName::from_static(crate::header::JOB_ID),
                header::RETRY_AFTER,
                HeaderName::from_static("ratelimit-limit"),
                HeaderName::from_static("ratelimit-remaining"),
                HeaderName::from_static("ratelimit-reset"),
            ])
            .max_age(MAX_AGE);
        Some(if origin == "*" {
            layer.allow_origin(Any)
        } else {
            layer.allow_origin(AllowOrigin::list([origin.clone()]))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::{Request, Response, StatusCode};
    use tower::{Layer, ServiceExt};

    use super::*;
    use crate::{Body, empty};

    async fn answer(cors: &Cors, method: Method, origin: &'static str) -> Response<Body> {
        let inner = tower::service_fn(|_: Request<()>| async {
            Ok::<_, Infallible>(empty(StatusCode::OK))
        });
        let mut request = Request::new(());
        *request.method_mut() = method;
        request.headers_mut().insert(header::ORIGIN, HeaderValue::from_static(origin));
        request
            .headers_mut()
            .insert(header::ACCESS_CONTROL_REQUEST_METHOD, HeaderValue::from_static("POST"));
        cors.layer().unwrap().layer(inner).oneshot(request).await.unwrap()
    }

    #[test]
    fn off_by_default() {
        assert!(Cors::default().layer().is_none());
        assert!(!Cors::default().allows(&HeaderValue::from_static("https://app.example.com")));
    }

    #[tokio::test]
    async fn an_allowed_origin_may_send_requests_and_read_responses() {
        let page = "https://app.example.com";
        for origin in ["*", page] {
            let cors: Cors = origin.parse().unwrap();
            assert!(cors.allows(&HeaderValue::from_static(page)));
            let preflight = answer(&cors, Method::OPTIONS, page).await;
            assert_eq!(preflight.headers()["access-control-allow-origin"], origin);
            let allowed = preflight.headers()["access-control-allow-headers"].to_str().unwrap();
            assert!(allowed.contains("content-type"), "{allowed}");
            let read = answer(&cors, Method::GET, page).await;
            assert_eq!(read.headers()["access-control-allow-origin"], origin);
            assert!(
                read.headers()["access-control-expose-headers"]
                    .to_str()
                    .unwrap()
                    .contains("x-job-id")
            );
        }
    }

    #[tokio::test]
    async fn another_origin_may_not() {
        let cors: Cors = "https://app.example.com".parse().unwrap();
        let other = "https://evil.example";
        assert!(!cors.allows(&HeaderValue::from_static(other)));
        let headers = answer(&cors, Method::GET, other).await.headers().clone();
        assert!(!headers.contains_key("access-control-allow-origin"), "{headers:?}");
        for bad in ["app.example.com", "javascript:x", "https://a\nb"] {
            assert!(bad.parse::<Cors>().is_err(), "{bad}");
        }
    }
}
