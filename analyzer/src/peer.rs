//! Whom a call goes to when nobody reports from there: a database, a cache, a broker, a host outside.
//!
//! A name here is a place on a map, so that it must be the same for every call to it and few in number:
//! addresses of machines, which change with every deployment, give way to whatever says more.

use crate::category::Category;
use crate::facts::Facts;
use crate::target::{Target, cut, template};
use std::borrow::Cow;
use std::collections::HashMap;
use std::net::IpAddr;

/// Whom calls go to.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Peer<'a> {
    /// What kind of thing it is: a database, a cache, something external, a broker, a log sink.
    pub category: Category,
    /// `db.system.name` or `messaging.system`; empty if unknown, and for what is external.
    pub system: &'a str,
    /// Host, database or destination; empty if nothing was said.
    pub name: Cow<'a, str>,
}

impl<'a> Peer<'a> {
    /// The peer of a call with these attributes.
    pub(crate) fn of(category: Category, facts: &Facts<'a>) -> Peer<'a> {
        let system = match category {
            Category::Database | Category::Cache => facts.db_system,
            Category::Messaging => facts.messaging_system,
            _ => "",
        };
        Peer {
            category,
            system: cut(system),
            name: name(category, facts),
        }
    }
}

fn name<'a>(category: Category, facts: &Facts<'a>) -> Cow<'a, str> {
    if !facts.peer_service.is_empty() {
        return Cow::Borrowed(cut(facts.peer_service));
    }
    let target = Target::of(facts);
    let host = Host::of(target.host);
    let instead = match category {
        Category::Messaging => return destination(facts, &target),
        Category::Database | Category::Cache => facts.db_namespace,
        _ => facts.rpc_service,
    };
    match host {
        Host::Name => Cow::Borrowed(cut(target.host)),
        // Everything that runs on a developer's machine is there; the port tells it apart.
        Host::Local if target.port.is_some() && instead.is_empty() => at_port("localhost", &target),
        _ if !instead.is_empty() => Cow::Borrowed(cut(instead)),
        Host::Local => Cow::Borrowed("localhost"),
        Host::Private => at_port("(private address)", &target),
        Host::Public => Cow::Borrowed(cut(target.host)),
        Host::None => Cow::Borrowed(""),
    }
}

/// A broker has many destinations: these are what messages are sent to.
fn destination<'a>(facts: &Facts<'a>, target: &Target<'a>) -> Cow<'a, str> {
    match (facts.destination_template, facts.destination) {
        ("", "") => Cow::Borrowed(cut(target.host)),
        ("", destination) => template(destination),
        (template, _) => Cow::Borrowed(cut(template)),
    }
}

fn at_port<'a>(host: &'static str, target: &Target<'a>) -> Cow<'a, str> {
    match target.port {
        Some(port) => Cow::Owned(format!("{host}:{port}")),
        None => Cow::Borrowed(host),
    }
}

/// What a host's text is.
enum Host {
    /// Nothing, or the path of a socket.
    None,
    /// A name.
    Name,
    /// This machine.
    Local,
    /// An address of a network of its own: a pod's, and another one's tomorrow.
    Private,
    /// An address of the internet.
    Public,
}

impl Host {
    fn of(text: &str) -> Host {
        match text.as_bytes().first() {
            None | Some(b'/') => return Host::None,
            _ if text == "localhost" => return Host::Local,
            // Names do not begin like this, nearly always.
            Some(it) if !it.is_ascii_digit() && !text.contains(':') => return Host::Name,
            _ => {}
        }
        match text.parse::<IpAddr>() {
            Err(_) => Host::Name,
            Ok(it) if it.is_loopback() => Host::Local,
            Ok(IpAddr::V4(it))
                if it.is_private() || it.is_link_local() || is_shared(it.octets()) =>
            {
                Host::Private
            }
            Ok(IpAddr::V6(it)) if it.is_unique_local() || it.is_unicast_link_local() => {
                Host::Private
            }
            Ok(_) => Host::Public,
        }
    }
}

/// 100.64.0.0/10: carriers' networks, and pods of some clouds.
fn is_shared([a, b, ..]: [u8; 4]) -> bool {
    a == 100 && b & 0b1100_0000 == 64
}

/// The distinct peers of a trace, in the order in which they were first called.
#[derive(Default)]
pub(crate) struct Peers<'a> {
    peers: Vec<Peer<'a>>,
    /// Where each stands; only filled once there are more than a few.
    at: HashMap<Peer<'a>, u32>,
}

/// So many are compared one by one: hardly a trace calls more.
const COMPARED_MAX: usize = 8;

impl<'a> Peers<'a> {
    /// The position of `peer` among them.
    pub(crate) fn position(&mut self, peer: Peer<'a>) -> u32 {
        let compared = &self.peers[..self.peers.len().min(COMPARED_MAX)];
        if let Some(at) = compared.iter().position(|it| *it == peer) {
            return at as u32;
        }
        let next = self.peers.len() as u32;
        if self.peers.len() < COMPARED_MAX {
            self.peers.push(peer);
            return next;
        }
        let at = *self.at.entry(peer.clone()).or_insert(next);
        if at == next {
            self.peers.push(peer);
        }
        at
    }

    /// All of them.
    pub(crate) fn into_vec(self) -> Vec<Peer<'a>> {
        self.peers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Settings, analyze, drawing};

    fn check(attributes: &str, expected: &str) {
        let drawing = drawing::parse(&format!(
            "shop GET / |------|\nshop   call [client] {{{attributes}}} |--|"
        ));
        let analysis = analyze(drawing.spans(), &Settings::default());
        let call = &analysis.calls[0];
        let peer = &analysis.peers[call.peer as usize];
        let text = format!("{} {} {}", peer.category.id(), peer.system, peer.name);
        assert_eq!(text, expected, "{attributes}");
    }

    #[test]
    fn the_best_name_of_a_place() {
        for (attributes, expected) in [
            (
                "db.system=mysql, db.name=shop, server.address=db",
                "database mysql db",
            ),
            (
                "db.system=mysql, db.name=shop, server.address=10.0.3.7",
                "database mysql shop",
            ),
            (
                "db.system=mysql, db.name=shop, server.address=127.0.0.1",
                "database mysql shop",
            ),
            (
                "db.system=mysql, db.name=shop, server.address=/run/mysqld.sock",
                "database mysql shop",
            ),
            (
                "db.system=mysql, server.address=10.0.3.7, server.port=3306",
                "database mysql (private address):3306",
            ),
            (
                "db.system=mysql, server.address=localhost, server.port=3306",
                "database mysql localhost:3306",
            ),
            ("db.system=mysql", "database mysql "),
            (
                "db.system=redis, server.address=cache, peer.service=sessions",
                "cache redis sessions",
            ),
            (
                "http.method=GET, url.full=\"https://api.stripe.com/v1/x\"",
                "external  api.stripe.com",
            ),
            (
                "http.method=GET, url.full=\"http://127.0.0.1:8081/v1/x\"",
                "external  localhost:8081",
            ),
            (
                "http.method=GET, url.full=\"http://100.64.9.1:8081/v1/x\"",
                "external  (private address):8081",
            ),
            (
                "http.method=GET, url.full=\"http://100.128.9.1:8081/v1/x\"",
                "external  100.128.9.1",
            ),
            (
                "http.method=GET, url.full=\"http://[fd00::7]:80/x\"",
                "external  (private address):80",
            ),
            (
                "http.method=GET, server.address=3scale.example",
                "external  3scale.example",
            ),
            (
                "rpc.system=grpc, rpc.service=shop.Cart, rpc.method=Get, server.address=10.1.1.1",
                "external  shop.Cart",
            ),
            (
                "messaging.system=kafka, messaging.destination.name=orders, server.address=k1",
                "messaging kafka orders",
            ),
        ] {
            check(attributes, expected);
        }
    }

    #[test]
    fn many_peers_stand_once_each() {
        let peer = |at: usize| Peer {
            category: Category::External,
            system: "",
            name: Cow::Owned(format!("host{at}")),
        };
        let mut peers = Peers::default();
        for _ in 0..2 {
            for at in 0..COMPARED_MAX * 3 {
                assert_eq!(peers.position(peer(at)), at as u32);
            }
        }
        assert_eq!(peers.into_vec().len(), COMPARED_MAX * 3);
    }
}
