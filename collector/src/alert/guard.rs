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
