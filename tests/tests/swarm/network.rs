//! A network namespace for an engine, connected to this machine's network.

use std::{fs, process::Command};

use crate::command::{run, succeeds};

const NAMESPACE: &str = "workflow-stack-test";
const OUTSIDE: &str = "wstest0";
const INSIDE: &str = "wstest1";
const SUBNET: &str = "10.231.98.0/24";
/// The address of this machine, as seen by the engine and its containers.
pub(crate) const HERE: &str = "10.231.98.1";
/// The address of the engine, as seen by this machine.
pub(crate) const ENGINE: &str = "10.231.98.2";
const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// The firewall rules on this machine that let the namespace reach other networks.
const RULES: [&[&str]; 3] = [
    &["nat", "POSTROUTING", "-s", SUBNET, "!", "-d", SUBNET, "-j", "MASQUERADE"],
    &["filter", "FORWARD", "-i", OUTSIDE, "-j", "ACCEPT"],
    &["filter", "FORWARD", "-o", OUTSIDE, "-j", "ACCEPT"],
];

/// The namespace. Dropping it removes it and restores this machine's network.
#[derive(Debug)]
pub(crate) struct Network {
    forwarded: String,
}

impl Network {
    /// Creates the namespace, and removes one that an earlier run may have left.
    pub(crate) fn make() -> Self {
        remove();
        run("ip", &["netns", "add", NAMESPACE]);
        let veth =
            ["link", "add", OUTSIDE, "type", "veth", "peer", "name", INSIDE, "netns", NAMESPACE];
        run("ip", &veth);
        run("ip", &["addr", "add", &format!("{HERE}/24"), "dev", OUTSIDE]);
        run("ip", &["link", "set", OUTSIDE, "up"]);
        for inside in [
            &["link", "set", "lo", "up"][..],
            &["addr", "add", &format!("{ENGINE}/24"), "dev", INSIDE],
            &["link", "set", INSIDE, "up"],
            &["route", "add", "default", "via", HERE],
        ] {
            run("ip", &[&["-n", NAMESPACE], inside].concat());
        }
        let forwarded = fs::read_to_string(FORWARD).unwrap();
        fs::write(FORWARD, "1").unwrap();
        for rule in RULES {
            run("iptables", &rule_arguments("-I", rule));
        }
        Self { forwarded }
    }

    /// A program that will run in the namespace. It shares everything else, because `ip netns exec`
    /// would hide the control groups. It ends with the thread that starts it, so that a test that
    /// is killed leaves no engine behind.
    pub(crate) fn command(program: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "nsenter"]);
        command.arg(format!("--net=/run/netns/{NAMESPACE}")).arg(program);
        command
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        remove();
        let _best_effort = fs::write(FORWARD, &self.forwarded);
    }
}

fn remove() {
    for rule in RULES {
        while succeeds("iptables", &rule_arguments("-D", rule)) {}
    }
    // Removes whatever exists of these; usually nothing does.
    succeeds("ip", &["link", "delete", OUTSIDE]);
    succeeds("ip", &["netns", "delete", NAMESPACE]);
}

fn rule_arguments<'a>(action: &'a str, rule: &'a [&'a str]) -> Vec<&'a str> {
    let (table, rest) = rule.split_first().unwrap();
    let (chain, rest) = rest.split_first().unwrap();
    [&["-w", "-t", table, action, chain][..], rest].concat()
}
