//! Where messages may be sent: settings that come in over the network must not lead culprit into
//! the network it stands in.
//!
//! Only judges; names are resolved and connections made elsewhere, with what was judged here.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Where a channel's settings come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Trust {
    /// From flags, the environment or the configuration file: anything goes, such as an
    /// Alertmanager of the same cluster on `http://…:9093`.
    Trusted,
    /// From the UI or the API: encrypted, to public addresses, on the usual ports.
    Guarded {
        /// Networks that count as trusted nevertheless.
        allow_private: Vec<Cidr>,
    },
}

/// A network: `10.0.0.0/8`, `fd00::/8`, or one address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    network: IpAddr,
    prefix: u8,
}

/// Where a connection is to go.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// As it is written, without a trailing dot.
    pub host: &'a str,
    /// TCP.
    pub port: u16,
    /// With TLS from the start, or (mail) required before anything is said.
    pub encrypted: bool,
    /// Those that may be reached at public addresses.
    pub ports: &'a [u16],
}

/// Names under which machines in clouds find their credentials.
const METADATA_NAMES: &[&str] = &[
    "metadata",
    "metadata.google.internal",
    "metadata.goog",
    "instance-data",
    "instance-data.ec2.internal",
    "metadata.tencentyun.com",
    "metadata.platformequinix.com",
];

/// Addresses of the same. The third is public by its number; no list of networks opens these.
const METADATA_ADDRESSES: &[IpAddr] = &[
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

/// Everything that is not the public Internet, by the registries of special-purpose addresses.
const SPECIAL_V4: &[(Ipv4Addr, u8)] = &[
    (Ipv4Addr::new(0, 0, 0, 0), 8),       // this network
    (Ipv4Addr::new(10, 0, 0, 0), 8),      // private
    (Ipv4Addr::new(100, 64, 0, 0), 10),   // shared by carriers' NAT
    (Ipv4Addr::new(127, 0, 0, 0), 8),     // loopback
    (Ipv4Addr::new(169, 254, 0, 0), 16),  // link-local
    (Ipv4Addr::new(172, 16, 0, 0), 12),   // private
    (Ipv4Addr::new(192, 0, 0, 0), 24),    // protocol assignments
    (Ipv4Addr::new(192, 0, 2, 0), 24),    // documentation
    (Ipv4Addr::new(192, 88, 99, 0), 24),  // 6to4 relays
    (Ipv4Addr::new(192, 168, 0, 0), 16),  // private
    (Ipv4Addr::new(198, 18, 0, 0), 15),   // benchmarks
    (Ipv4Addr::new(198, 51, 100, 0), 24), // documentation
    (Ipv4Addr::new(203, 0, 113, 0), 24),  // documentation
    (Ipv4Addr::new(224, 0, 0, 0), 4),     // multicast
    (Ipv4Addr::new(240, 0, 0, 0), 4),     // reserved, broadcast
];

/// Within 2000::/3; everything outside is special anyway.
const SPECIAL_V6: &[(Ipv6Addr, u8)] = &[
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23), // protocol assignments, with Teredo
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32), // documentation
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16), // 6to4: an IPv4 address in disguise
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20), // documentation
];

impl Trust {
    /// Settings that came in over the network.
    pub fn is_guarded(&self) -> bool {
        matches!(self, Trust::Guarded { .. })
    }

    /// Judges what is written, before any name is resolved.
    ///
    /// # Errors
    /// It leads where these settings may not lead; the text says what is wanted.
    pub fn vet_target(&self, target: Target<'_>) -> Result<(), String> {
        let Trust::Guarded { allow_private } = self else {
            return Ok(());
        };
        let name = target.host.to_ascii_lowercase();
        if METADATA_NAMES.contains(&name.as_str()) {
            return Err(refused(target.host));
        }
        if allow_private.is_empty() {
            is_usual(target)?;
        }
        match parse_address(target.host) {
            Some(address) => self.vet_address(target, address),
            None if allow_private.is_empty() && is_local(&name) => Err(refused(target.host)),
            None => Ok(()),
        }
    }

    /// Judges one address that the target's name has, or is.
    ///
    /// # Errors
    /// As above. The address is not said: who may not reach a network may not explore its names.
    pub fn vet_address(&self, target: Target<'_>, address: IpAddr) -> Result<(), String> {
        let Trust::Guarded { allow_private } = self else {
            return Ok(());
        };
        if METADATA_ADDRESSES.contains(&address.to_canonical()) {
            return Err(refused(target.host));
        }
        if allow_private.iter().any(|it| it.contains(address)) {
            return Ok(());
        }
        is_usual(target)?;
        if is_public(address) {
            Ok(())
        } else {
            Err(refused(target.host))
        }
    }
}

fn is_usual(target: Target<'_>) -> Result<(), String> {
    if !target.encrypted {
        return Err(format!(
            "{} would be reached without encryption; settings made in the UI or over the API need \
             https (or smtps, or smtp with STARTTLS), unless --alert-allow-private names the \
             receiver's network",
            target.host
        ));
    }
    if !target.ports.contains(&target.port) {
        let ports: Vec<String> = target.ports.iter().map(ToString::to_string).collect();
        return Err(format!(
            "port {} is not one of {}; settings made in the UI or over the API may use others only \
             in networks that --alert-allow-private names",
            target.port,
            ports.join(", ")
        ));
    }
    Ok(())
}

fn refused(host: &str) -> String {
    format!(
        "{host} does not lead to the public Internet; settings made in the UI or over the API may \
         only lead there and to networks that --alert-allow-private names (or put the channel into \
         the configuration file)"
    )
}

fn is_local(name: &str) -> bool {
    name == "localhost" || name.ends_with(".localhost")
}

fn parse_address(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[')
        .trim_end_matches(']')
        .parse()
        .ok()
}

/// Whether `address` belongs to the public Internet: not to the machine, its neighbourhood, a
/// private network, a documentation or test range, or another address in disguise.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let is_in = |&(network, prefix): &(Ipv4Addr, u8)| {
        shares_prefix(&network.octets(), &address.octets(), prefix)
    };
    !SPECIAL_V4.iter().any(is_in)
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    // Networks that have only IPv6 reach all of IPv4 as 64:ff9b::/96: the last four bytes count.
    if let [0x64, 0xff9b, 0, 0, 0, 0, high, low] = address.segments() {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        return is_public_v4(Ipv4Addr::new(a, b, c, d));
    }
    let is_in = |&(network, prefix): &(Ipv6Addr, u8)| {
        shares_prefix(&network.octets(), &address.octets(), prefix)
    };
    let is_global = address.segments()[0] >> 13 == 0b001;
    is_global && !SPECIAL_V6.iter().any(is_in)
}

fn shares_prefix(network: &[u8], address: &[u8], prefix: u8) -> bool {
    let (whole, rest) = (usize::from(prefix / 8), prefix % 8);
    let mask = !(0xff_u8 >> rest);
    network[..whole] == address[..whole]
        && (rest == 0 || (network[whole] ^ address[whole]) & mask == 0)
}

impl Cidr {
    /// Whether `address` is in this network; IPv4 addresses written as IPv6 ones count as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.network, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                shares_prefix(&network.octets(), &address.octets(), self.prefix)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                shares_prefix(&network.octets(), &address.octets(), self.prefix)
            }
            _ => false,
        }
    }
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Cidr, String> {
        let wanted = || format!("{text:?} is not a network such as 10.0.0.0/8 or fd00::/8");
        let (network, prefix) = text
            .split_once('/')
            .map_or((text, None), |it| (it.0, Some(it.1)));
        let network: IpAddr = network.trim().parse().map_err(|_| wanted())?;
        let bits = if network.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(bits), |it| it.trim().parse().map_err(|_| wanted()))?;
        if prefix > bits {
            return Err(wanted());
        }
        Ok(Cidr { network, prefix })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl TryFrom<String> for Cidr {
    type Error = String;

    fn try_from(text: String) -> Result<Cidr, String> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> String {
        cidr.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HTTPS: &[u16] = &[443, 80];

    /// First and last addresses of every range, and those just outside.
    #[test]
    fn what_is_public_and_what_is_not() {
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.1",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "191.255.255.255",
            "192.0.1.0",
            "192.0.3.0",
            "192.88.98.255",
            "192.88.100.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "198.51.99.255",
            "198.51.101.0",
            "203.0.112.255",
            "203.0.114.0",
            "223.255.255.255",
            "2001:200::1",
            "2001:db7:ffff:ffff::1",
            "2001:db9::1",
            "2003::1",
            "2606:4700:4700::1111",
            "2a00:1450:4001:80b::200e",
            "3ffe::1",
            "64:ff9b::8.8.8.8",
        ] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
        for address in [
            "0.0.0.0",
            "0.255.255.255",
            "10.0.0.0",
            "10.255.255.255",
            "100.64.0.0",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.255",
            "169.254.0.0",
            "169.254.169.254",
            "172.16.0.0",
            "172.31.255.255",
            "192.0.0.0",
            "192.0.0.255",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.0",
            "192.168.255.255",
            "198.18.0.0",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.7",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.0",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "::ffff:0:8.8.8.8",
            "64:ff9b::127.0.0.1",
            "64:ff9b::10.1.2.3",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1::8.8.8.8",
            "64:ff9b:0:0:1::1",
            "100::1",
            "2001::1",
            "2001:0:4136:e378:8000:63bf:3fff:fdd2",
            "2001:2::1",
            "2001:10::1",
            "2001:20::1",
            "2001:1ff:ffff::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "2002:808:808::1",
            "3fff::1",
            "3fff:fff:ffff::1",
            "4000::1",
            "5f00::1",
            "fc00::1",
            "fd12:3456::1",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
    }

    fn guarded(networks: &[&str]) -> Trust {
        Trust::Guarded {
            allow_private: networks.iter().map(|it| it.parse().unwrap()).collect(),
        }
    }

    fn vet(trust: &Trust, host: &str, port: u16, encrypted: bool) -> Result<(), String> {
        let target = Target {
            host,
            port,
            encrypted,
            ports: HTTPS,
        };
        trust.vet_target(target)?;
        host.parse()
            .map_or(Ok(()), |address| trust.vet_address(target, address))
    }

    #[test]
    fn guarded_settings_lead_to_public_receivers_only() {
        let trust = guarded(&[]);
        assert_eq!(vet(&trust, "hooks.example", 443, true), Ok(()));
        assert_eq!(vet(&trust, "1.1.1.1", 443, true), Ok(()));
        for (host, port, encrypted, why) in [
            ("hooks.example", 80, false, "without encryption"),
            (
                "hooks.example",
                5432,
                true,
                "port 5432 is not one of 443, 80",
            ),
            ("10.0.0.1", 443, true, "--alert-allow-private"),
            ("[::1]", 443, true, "--alert-allow-private"),
            ("localhost", 443, true, "--alert-allow-private"),
            ("x.LocalHost", 443, true, "--alert-allow-private"),
            ("metadata.google.internal", 443, true, "public Internet"),
        ] {
            let refused = vet(&trust, host, port, encrypted).unwrap_err();
            assert!(refused.contains(why), "{host}: {refused}");
        }
    }

    #[test]
    fn allowed_networks_are_open_and_their_neighbours_are_not() {
        let trust = guarded(&["10.1.0.0/16", "fd00:1::/32"]);
        assert_eq!(vet(&trust, "10.1.255.255", 9093, false), Ok(()));
        assert_eq!(vet(&trust, "::ffff:10.1.0.1", 9093, false), Ok(()));
        assert_eq!(vet(&trust, "fd00:1::5", 9093, false), Ok(()));
        assert!(vet(&trust, "10.2.0.0", 9093, false).is_err());
        assert!(vet(&trust, "10.2.0.0", 443, true).is_err());
        assert!(vet(&trust, "fd00:2::5", 9093, false).is_err());
        // What is public remains held to encryption and the usual ports.
        assert!(vet(&trust, "1.1.1.1", 443, false).is_err());
        assert!(vet(&trust, "1.1.1.1", 9093, true).is_err());
    }

    #[test]
    fn no_network_opens_the_credentials_of_machines() {
        let trust = guarded(&["0.0.0.0/0", "::/0"]);
        assert_eq!(vet(&trust, "127.0.0.1", 80, false), Ok(()));
        for host in [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "168.63.129.16",
            "100.100.100.200",
            "fd00:ec2::254",
            "metadata.google.internal",
            "METADATA",
        ] {
            assert!(vet(&trust, host, 80, false).is_err(), "{host}");
        }
    }

    #[test]
    fn who_may_not_reach_an_address_does_not_learn_it() {
        let target = Target {
            host: "internal.example",
            port: 443,
            encrypted: true,
            ports: HTTPS,
        };
        let address = "10.1.2.3".parse().unwrap();
        let refused = guarded(&[]).vet_address(target, address).unwrap_err();
        assert!(!refused.contains("10.1"), "{refused}");
        assert_eq!(Trust::Trusted.vet_address(target, address), Ok(()));
    }

    #[test]
    fn networks_are_read_as_they_are_written() {
        for (text, shown) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("192.168.1.7", "192.168.1.7/32"),
            ("fd00::/8", "fd00::/8"),
            ("::1", "::1/128"),
        ] {
            assert_eq!(text.parse::<Cidr>().unwrap().to_string(), shown);
        }
        for text in [
            "",
            "10.0.0.0/33",
            "fd00::/129",
            "10.0.0/8",
            "host/8",
            "10.0.0.0/-1",
        ] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }
}
