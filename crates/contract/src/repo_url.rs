//! Repository URLs: restricted to allowed schemes, and never printed with credentials.

use std::fmt;

use percent_encoding::{AsciiSet, percent_decode_str, utf8_percent_encode};
use serde::{Serialize, Serializer};
use url::Url;

use crate::{Code, DirectoryName, Policy, policy::FileRepositories};

/// What is escaped in a user or a password: all but RFC 3986's unreserved characters.
const ESCAPED: &AsciiSet =
    &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The protocol of a repository URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// `http://`
    Http,
    /// `https://`
    Https,
    /// `ssh://` or `user@host:path`
    Ssh,
    /// `git://`
    Git,
    /// `file://` or a plain absolute path
    File,
}

/// The location of a repository. Printing or serializing it omits its user and password.
#[derive(Clone, PartialEq, Eq)]
pub struct RepoUrl {
    scheme: Scheme,
    /// Without credentials. An ssh user is not a credential, but part of the address.
    address: String,
    /// In lower case, with its port unless it is the scheme's default; empty for files.
    host: String,
    /// Without leading and trailing slashes and without `.git`.
    path: String,
    user: Option<String>,
    password: Option<String>,
}

impl RepoUrl {
    /// The longest URL, in bytes.
    pub const MAX_BYTES: usize = 4096;

    /// Parses a URL from a caller.
    ///
    /// # Errors
    /// [`Code::SchemeNotAllowed`] or [`Code::InvalidField`] with a sentence for the caller.
    pub fn parse(text: &str, policy: &Policy) -> Result<Self, (Code, String)> {
        let invalid = |why: &str| Err((Code::InvalidField, why.to_owned()));
        if text.is_empty() || text.len() > Self::MAX_BYTES {
            return invalid(
                "give the URL of a git repository, like https://github.com/user/repo.git",
            );
        }
        if text.starts_with('-') {
            return invalid("a repository URL must not begin with '-'");
        }
        // `transport::address` makes git run a program with that name.
        if let Some((helper, _)) = text.split_once("::")
            && helper.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
        {
            return Err(not_allowed(&format!("{helper}::")));
        }
        if text.contains(|c: char| c.is_control() || c.is_whitespace()) {
            return invalid("a repository URL must not contain spaces or control characters");
        }
        let url = if text.contains("://") {
            Self::from_url(text)?
        } else if text.starts_with('/') {
            Self::from_file(text)
        } else {
            Self::from_scp(text)?
        };
        // As it is passed on: with everything escaped that has to be.
        if url.expose().len() > Self::MAX_BYTES {
            return invalid(&format!("use at most {} bytes", Self::MAX_BYTES));
        }
        if url.scheme == Scheme::File && policy.file_repositories == FileRepositories::Refused {
            return Err(not_allowed("file"));
        }
        Ok(url)
    }

    fn from_url(text: &str) -> Result<Self, (Code, String)> {
        let invalid = |why: &str| (Code::InvalidField, why.to_owned());
        let url = Url::parse(text)
            .map_err(|error| (Code::InvalidField, format!("not a URL: {error}")))?;
        let scheme = match url.scheme() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "ssh" | "git+ssh" | "ssh+git" => Scheme::Ssh,
            "git" => Scheme::Git,
            "file" => return Ok(Self::from_file(url.path())),
            other => return Err(not_allowed(other)),
        };
        let host = url
            .host_str()
            .filter(|host| !host.is_empty())
            .ok_or_else(|| invalid("the URL has no host"))?;
        // ssh would parse a host that begins with '-' as an option.
        const DASH: &str = "a host or user must not begin with '-'";
        if host.starts_with('-') {
            return Err(invalid(DASH));
        }
        // For these schemes, the parser accepts almost any byte in a host, and ssh passes it to a shell.
        if matches!(scheme, Scheme::Ssh | Scheme::Git) && !is_plain_host(host) {
            return Err(invalid("the URL's host is not a host name or an IP address"));
        }
        // git hosts need no query, and a token in it would be visible wherever the URL is shown.
        if url.query().is_some() {
            return Err(invalid(
                "a repository URL must not have a query: remove everything from '?' on",
            ));
        }
        let path = trim_path(url.path());
        if path.is_empty() {
            return Err(invalid("the URL names no repository, only a host"));
        }
        let default_port = match scheme {
            Scheme::Http => 80,
            Scheme::Https => 443,
            Scheme::Ssh => 22,
            Scheme::Git | Scheme::File => 9418,
        };
        let host = match url.port() {
            Some(port) if port != default_port => format!("{}:{port}", host.to_ascii_lowercase()),
            _ => host.to_ascii_lowercase(),
        };
        let decode = |part: &str| match percent_decode_str(part).decode_utf8() {
            Ok(decoded) => Ok((!decoded.is_empty()).then(|| decoded.into_owned())),
            Err(_) => Err(invalid("credentials must be UTF-8")),
        };
        let user = decode(url.username())?;
        let password = decode(url.password().unwrap_or_default())?;
        if user.as_ref().is_some_and(|user| user.starts_with('-')) {
            return Err(invalid(DASH));
        }
        if user.iter().chain(&password).any(|part| part.contains(|c: char| c.is_control())) {
            return Err(invalid("credentials must not contain control characters"));
        }
        let mut bare = url.clone();
        bare.set_fragment(None);
        // An ssh user is spelled in one way, because the address is what is compared.
        let shown = if scheme == Scheme::Ssh { user.as_deref() } else { None };
        set_credentials(&mut bare, shown, None);
        Ok(Self { scheme, address: bare.to_string(), host, path, user, password })
    }

    fn from_file(path: &str) -> Self {
        Self {
            scheme: Scheme::File,
            address: path.to_owned(),
            host: String::new(),
            path: trim_path(path),
            user: None,
            password: None,
        }
    }

    /// `user@host:path`, git's short form for ssh.
    fn from_scp(text: &str) -> Result<Self, (Code, String)> {
        let parts = text.split_once(':').filter(|(before, path)| {
            !before.is_empty()
                && !before.contains('/')
                && !path.is_empty()
                && !path.starts_with(['-', ':'])
                // Without a user, it is a URL with a missing slash.
                && (before.contains('@') || !path.starts_with('/'))
        });
        let Some((before, path)) = parts else {
            return Err(match text.split_once(':') {
                None => not_allowed("file"),
                Some(_) => (
                    Code::InvalidField,
                    "not a repository URL: use https://host/path or user@host:path".into(),
                ),
            });
        };
        let (user, host) =
            before.split_once('@').map_or((None, before), |(user, host)| (Some(user), host));
        // The scheme is missing. The part before the '@' may be a token, so the error does not repeat it.
        if path.split('/').next().is_some_and(|first| first.contains('@')) {
            return Err((
                Code::InvalidField,
                "not a repository URL: write the scheme, like https://".into(),
            ));
        }
        if !is_plain(host) || user.is_some_and(|user| !is_plain(user)) || trim_path(path).is_empty()
        {
            return Err((
                Code::InvalidField,
                "not a repository URL: use https://host/path or user@host:path".into(),
            ));
        }
        Ok(Self {
            scheme: Scheme::Ssh,
            address: text.to_owned(),
            host: host.to_ascii_lowercase(),
            path: trim_path(path),
            user: user.map(str::to_owned),
            password: None,
        })
    }

    /// The path, without slashes at its ends and without `.git`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The protocol.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The URL without credentials, for git, disks and people.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The host in lower case, with its port unless it is the scheme's default; empty for a file.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The URL's user and password. They are only for the host of this URL, and must never be printed.
    #[must_use]
    pub fn credentials(&self) -> (Option<&str>, Option<&str>) {
        (self.user.as_deref(), self.password.as_deref())
    }

    /// Whether the URL contains credentials, which [`address`](Self::address) omits.
    #[must_use]
    pub fn has_secret(&self) -> bool {
        self.password.is_some() || (self.user.is_some() && self.scheme != Scheme::Ssh)
    }

    /// The URL with its credentials, to pass it on in a request. It must never be written to a disk or a log.
    #[must_use]
    pub fn expose(&self) -> String {
        if !self.has_secret() {
            return self.address.clone();
        }
        let Ok(mut url) = Url::parse(&self.address) else { return self.address.clone() };
        set_credentials(&mut url, self.user.as_deref(), self.password.as_deref());
        url.to_string()
    }

    /// This URL with the user and password of another, which must be of the same host.
    #[must_use]
    pub fn with_credentials_of(mut self, other: &Self) -> Self {
        if self.scheme == Scheme::Ssh
            && let Ok(mut url) = Url::parse(&self.address)
        {
            set_credentials(&mut url, other.user.as_deref(), None);
            self.address = url.to_string();
        }
        self.user.clone_from(&other.user);
        self.password.clone_from(&other.password);
        self
    }

    /// The name of this repository's mirror. The scheme is part of the name: plain HTTP can be tampered with, and
    /// must not fill the mirror for HTTPS.
    #[must_use]
    pub fn mirror_key(&self) -> String {
        // `host:x` is relative to the home directory of the ssh user, `host:/x` is not.
        let home = self.is_in_home().then(|| format!("{}@", self.user.as_deref().unwrap_or("~")));
        format!("{:?} {}{}/{}", self.scheme, home.unwrap_or_default(), self.host, self.path)
    }

    /// Whether it is in the short form for ssh with a relative path.
    fn is_in_home(&self) -> bool {
        let is_short = self.scheme == Scheme::Ssh && !self.address.contains("://");
        is_short && self.address.split_once(':').is_some_and(|(_, path)| !path.starts_with('/'))
    }

    /// Whether both are the same repository, whatever their protocol.
    #[must_use]
    pub fn is_same_repository(&self, other: &Self) -> bool {
        self.host == other.host && self.path == other.path
    }

    /// The directory of a clone if the caller names none.
    #[must_use]
    pub fn directory_name(&self) -> DirectoryName {
        DirectoryName::from_repository(self.path.rsplit('/').next().unwrap_or_default())
    }
}

/// Sets or removes a URL's user and password.
fn set_credentials(url: &mut Url, user: Option<&str>, password: Option<&str>) {
    // The setters take a '%' for the beginning of an escape.
    let encode = |part| utf8_percent_encode(part, ESCAPED).to_string();
    // They fail only for URLs without a host, and every URL that is parsed here has one.
    let _ = url.set_username(&user.map(encode).unwrap_or_default());
    let _ = url.set_password(password.map(encode).as_deref());
}

fn not_allowed(scheme: &str) -> (Code, String) {
    (
        Code::SchemeNotAllowed,
        format!("the URL scheme '{scheme}' is not allowed: use https, http, ssh or git"),
    )
}

/// Whether this is a host or user name that is safe for ssh and a shell.
fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(['-', '.'])
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

/// Like [`is_plain`], and also accepts an IPv6 address in brackets.
fn is_plain_host(host: &str) -> bool {
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => is_plain(host),
    }
}

fn trim_path(path: &str) -> String {
    let path = path.trim_matches('/');
    path.strip_suffix(".git").unwrap_or(path).trim_end_matches('/').to_owned()
}

impl fmt::Display for RepoUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

impl fmt::Debug for RepoUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "RepoUrl({}{})",
            self.address,
            if self.has_secret() { ", with credentials" } else { "" }
        )
    }
}

impl Serialize for RepoUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.address)
    }
}

#[cfg(test)]
mod tests;
