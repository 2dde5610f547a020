//! Which addresses git may reach.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use boot::Settings;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Which addresses git may reach: those of the public internet, and what the operator names.
///
/// Names are not judged, only the addresses that they resolve to. So it does not matter how an address
/// is spelled (`2130706433`, `127.1`, `0x7f.1`) or which name leads to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressPolicy {
    /// Hosts that may have any address.
    pub hosts: Vec<AllowedHost>,
    /// Networks that are allowed although they are not public.
    pub networks: Vec<IpNet>,
}

/// A host of `GIT_ALLOWED_HOSTS`: `git.corp`, `git.corp:8443`, `*.corp`, `10.0.0.1`, `[fd00::1]:8443`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedHost {
    /// In lower case, an address in its usual spelling; for `*.corp`, `.corp`.
    name: String,
    /// Any port, if there is none.
    port: Option<u16>,
}

/// Where git wants to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// In lower case, without the brackets of an IPv6 address and without a dot at its end.
    pub(super) host: String,
    pub(super) port: u16,
}

impl AddressPolicy {
    /// Reads `GIT_ALLOWED_HOSTS` and `GIT_ALLOWED_NETWORKS`.
    pub fn read(settings: &mut Settings<'_>) -> Self {
        Self {
            hosts: list(settings, "GIT_ALLOWED_HOSTS", |text| text.parse()),
            networks: list(settings, "GIT_ALLOWED_NETWORKS", network),
        }
    }

    /// This machine, by IPv4 and IPv6. For tests and demonstrations.
    #[must_use]
    pub fn loopback() -> Self {
        let networks = vec![
            IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)),
            IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)),
        ];
        Self { hosts: Vec::new(), networks }
    }

    /// Whether git may connect to `address` to reach `target`.
    pub(super) fn allows(&self, target: &Target, address: IpAddr) -> bool {
        let address = address.to_canonical();
        is_public(address)
            || self.networks.iter().any(|network| network.contains(&address))
            || self.hosts.iter().any(|host| host.is(target))
    }
}

impl AllowedHost {
    fn is(&self, target: &Target) -> bool {
        let named = match self.name.strip_prefix('.') {
            Some(_) => target.host.ends_with(&self.name),
            None => target.host == self.name,
        };
        named && self.port.is_none_or(|port| port == target.port)
    }
}

impl FromStr for AllowedHost {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str =
            "give hosts like git.example.com, git.example.com:8443 or *.example.com";
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if host.ends_with(']') || !host.contains(':') => {
                (host, Some(port.parse().map_err(|_| WRONG)?))
            }
            _ => (text, None),
        };
        let name = Target::new(host.strip_prefix('*').unwrap_or(host), 0).ok_or(WRONG)?.host;
        let is_wildcard = host.starts_with("*.");
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
        if name.starts_with('.') != is_wildcard || !name.chars().all(plain) {
            return Err(WRONG);
        }
        Ok(Self { name, port })
    }
}

impl Target {
    /// `None` if `host` cannot be the name or the address of a host.
    pub(super) fn new(host: &str, port: u16) -> Option<Self> {
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        if let Ok(address) = host.parse::<IpAddr>() {
            return Some(Self { host: address.to_canonical().to_string(), port });
        }
        let is_name = !host.is_empty()
            && !host.ends_with('.')
            && host.bytes().all(|byte| byte.is_ascii_graphic());
        is_name.then_some(Self { host, port })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Reads a list, and notes each item that does not parse.
fn list<T>(
    settings: &mut Settings<'_>,
    name: &str,
    parse: impl Fn(&str) -> Result<T, &'static str>,
) -> Vec<T> {
    let mut parsed = Vec::new();
    for item in settings.list(name).unwrap_or_default() {
        match parse(&item) {
            Ok(value) => parsed.push(value),
            Err(why) => settings.problem(name, &format!("cannot read '{item}': {why}")),
        }
    }
    parsed
}

fn network(text: &str) -> Result<IpNet, &'static str> {
    let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    network.map_err(|_| "give networks like 10.1.0.0/16 or fd00::/8, or addresses")
}

/// What is not the public internet in IPv4, from the IANA special-purpose registry.
const SPECIAL_V4: [Ipv4Net; 16] = [
    v4(0, 0, 0, 0, 8),        // this network; Linux takes 0.0.0.0 for loopback
    v4(10, 0, 0, 0, 8),       // private
    v4(100, 64, 0, 0, 10),    // carrier-grade NAT, and Alibaba's metadata
    v4(127, 0, 0, 0, 8),      // loopback
    v4(168, 63, 129, 16, 32), // Azure's metadata, at a public address
    v4(169, 254, 0, 0, 16),   // link-local, and most clouds' metadata
    v4(172, 16, 0, 0, 12),    // private
    v4(192, 0, 0, 0, 24),     // protocol assignments, and Oracle's metadata
    v4(192, 0, 2, 0, 24),     // documentation
    v4(192, 88, 99, 0, 24),   // 6to4 relays
    v4(192, 168, 0, 0, 16),   // private
    v4(198, 18, 0, 0, 15),    // benchmarks
    v4(198, 51, 100, 0, 24),  // documentation
    v4(203, 0, 113, 0, 24),   // documentation
    v4(224, 0, 0, 0, 4),      // multicast
    v4(240, 0, 0, 0, 4),      // reserved, and broadcast
];

/// The part of IPv6 that is given out to networks.
const GLOBAL_V6: Ipv6Net = v6([0x2000, 0, 0, 0], 3);

/// What is not the public internet within [`GLOBAL_V6`].
const SPECIAL_V6: [Ipv6Net; 4] = [
    v6([0x2001, 0, 0, 0], 23),     // protocol assignments, Teredo among them
    v6([0x2001, 0xdb8, 0, 0], 32), // documentation
    v6([0x2002, 0, 0, 0], 16),     // 6to4, which reaches any IPv4 address
    v6([0x3fff, 0, 0, 0], 20),     // documentation
];

/// NAT64: an IPv4 address for hosts that have only IPv6 (RFC 6052).
const NAT64: Ipv6Net = v6([0x64, 0xff9b, 0, 0], 96);

const fn v4(a: u8, b: u8, c: u8, d: u8, length: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length)
}

const fn v6([a, b, c, d]: [u16; 4], length: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0), length)
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !SPECIAL_V4.iter().any(|network| network.contains(&address)),
        IpAddr::V6(address) if NAT64.contains(&address) => {
            let [.., a, b, c, d] = address.octets();
            is_public(Ipv4Addr::new(a, b, c, d).into())
        }
        IpAddr::V6(address) => {
            GLOBAL_V6.contains(&address)
                && !SPECIAL_V6.iter().any(|network| network.contains(&address))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn target(host: &str) -> Target {
        Target::new(host, 443).unwrap()
    }

    fn allowed(policy: &AddressPolicy, host: &str, address: &str) -> bool {
        policy.allows(&target(host), address.parse().unwrap())
    }

    #[test]
    fn only_the_public_internet_is_allowed() {
        let policy = AddressPolicy::default();
        for address in ["1.1.1.1", "140.82.121.4", "100.63.255.255", "100.128.0.1", "172.32.0.1"] {
            assert!(allowed(&policy, "host", address), "{address}");
            let mapped = format!("::ffff:{address}");
            assert!(allowed(&policy, "host", &mapped), "{mapped}");
        }
        for address in ["2606:4700::1111", "2a00:1450::1", "64:ff9b::101:101"] {
            assert!(allowed(&policy, "host", address), "{address}");
        }
        for address in [
            "0.0.0.0",
            "0.0.0.1",
            "10.0.0.1",
            "100.64.0.1",
            "100.100.100.200",
            "127.0.0.1",
            "127.255.255.254",
            "168.63.129.16",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.168.0.1",
            "198.18.0.1",
            "224.0.0.1",
            "239.255.255.255",
            "255.255.255.255",
        ] {
            for spelled in [address.to_owned(), format!("::ffff:{address}")] {
                assert!(!allowed(&policy, "host", &spelled), "{spelled}");
            }
            let [a, b, c, d] = address.parse::<Ipv4Addr>().unwrap().octets();
            let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            for embedded in [
                format!("64:ff9b::{high:x}:{low:x}"),
                format!("64:ff9b:1::{high:x}:{low:x}"),
                format!("2002:{high:x}:{low:x}::1"),
                format!("::{high:x}:{low:x}"),
            ] {
                assert!(!allowed(&policy, "host", &embedded), "{embedded}");
            }
        }
        for address in [
            "::",
            "::1",
            "fe80::1",
            "fec0::1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "2001:0:1::1",
            "2001:db8::1",
            "2002:808:808::1",
            "100::1",
            "4000::1",
        ] {
            assert!(!allowed(&policy, "host", address), "{address}");
        }
    }

    #[test]
    fn the_operator_allows_hosts_and_networks() {
        let env: HashMap<String, String> = [
            ("GIT_ALLOWED_HOSTS", "Git.corp, other.corp:8443, *.lab, 10.9.9.9, [fd00::9]:81"),
            ("GIT_ALLOWED_NETWORKS", "10.1.0.0/16, fd12::/16, 192.168.7.7"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        let mut settings = Settings::new(&env);
        let policy = AddressPolicy::read(&mut settings);
        assert_eq!(settings.finish(), Ok(()));
        for (host, port, address, allow) in [
            ("git.corp", 22, "10.0.0.1", true),
            ("GIT.CORP.", 443, "::1", true),
            ("x.git.corp", 443, "10.0.0.1", false),
            ("other.corp", 8443, "10.0.0.1", true),
            ("other.corp", 443, "10.0.0.1", false),
            ("a.b.lab", 443, "127.0.0.1", true),
            ("lab", 443, "127.0.0.1", false),
            ("evillab", 443, "127.0.0.1", false),
            ("10.9.9.9", 443, "10.9.9.9", true),
            ("::ffff:10.9.9.9", 443, "10.9.9.9", true),
            ("evil.com", 443, "10.9.9.9", false),
            ("[fd00::9]", 81, "fd00::9", true),
            ("[fd00::9]", 82, "fd00::9", false),
            ("evil.com", 443, "10.1.200.3", true),
            ("evil.com", 443, "::ffff:10.1.200.3", true),
            ("evil.com", 443, "10.2.0.1", false),
            ("evil.com", 443, "fd12:1::1", true),
            ("evil.com", 443, "192.168.7.7", true),
            ("evil.com", 443, "192.168.7.8", false),
        ] {
            let target = Target::new(host, port).unwrap();
            assert_eq!(
                policy.allows(&target, address.parse().unwrap()),
                allow,
                "{target} {address}"
            );
        }
    }

    #[test]
    fn what_does_not_parse_is_named() {
        let env: HashMap<String, String> = [
            ("GIT_ALLOWED_HOSTS", "https://git.corp, host:port, *, a.*.b, good"),
            ("GIT_ALLOWED_NETWORKS", "10.0.0.0/33, localhost, ::1"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        let mut settings = Settings::new(&env);
        let policy = AddressPolicy::read(&mut settings);
        assert_eq!((policy.hosts.len(), policy.networks.len()), (1, 1), "{policy:?}");
        let problems = settings.finish().unwrap_err().problems;
        assert_eq!(problems.len(), 6, "{problems:?}");
        assert!(problems[0].contains("'https://git.corp'"), "{problems:?}");
        assert!(problems[5].contains("'localhost'"), "{problems:?}");
    }

    properties::fuzz! {
        #[test]
        fn an_address_is_as_public_as_the_one_that_it_contains(bits in any::<u32>()) {
            let v4 = Ipv4Addr::from(bits);
            let policy = AddressPolicy::default();
            let is_allowed = policy.allows(&target("host"), v4.into());
            let special = v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_multicast()
                || v4.is_unspecified() || v4.is_broadcast() || v4.is_documentation();
            prop_assert!(!(special && is_allowed), "{v4}");
            for spelled in [v4.to_ipv6_mapped(), format!("64:ff9b::{v4}").parse().unwrap()] {
                prop_assert_eq!(policy.allows(&target("host"), spelled.into()), is_allowed, "{}", spelled);
            }
            // Addresses of other translations (6to4, compatible, ISATAP) lead nowhere.
            let [a, b, c, d] = v4.octets();
            for spelled in [v4.to_ipv6_compatible(), Ipv6Addr::new(0x2002, u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]), 0, 0, 0, 0, 1)] {
                prop_assert!(!policy.allows(&target("host"), spelled.into()), "{spelled}");
            }
        }

        #[test]
        fn an_address_that_is_not_global_is_not_allowed(bits in any::<u128>(), prefix in prop::sample::select(vec![0xfc00_u16, 0xfd00, 0xfe80, 0xff00, 0x0000, 0x0100])) {
            let address = Ipv6Addr::from_bits((bits >> 16) | u128::from(prefix) << 112);
            let policy = AddressPolicy::default();
            if address.to_ipv4_mapped().is_none() && !NAT64.contains(&address) {
                prop_assert!(!policy.allows(&target("host"), address.into()), "{address}");
            }
        }

        #[test]
        fn no_text_of_a_host_is_a_panic(text in any::<String>(), port in any::<u16>()) {
            if let Some(target) = Target::new(&text, port) {
                prop_assert!(!target.host.is_empty() && !target.host.ends_with('.'));
            }
            let _: Result<AllowedHost, _> = text.parse();
        }
    }
}
