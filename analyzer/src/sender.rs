//! Who sent a span: service, version, instance and host, read once per resource.

use crate::Service;
use crate::span::{Resource, Spans, Value};
use std::ops::Range;

/// What the analysis needs to know about a resource.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Sender<'a> {
    /// Whose process it is.
    pub service: Service<'a>,
    /// `service.version`, or empty.
    pub version: &'a str,
    /// `service.instance.id`, or empty.
    pub instance: &'a str,
    /// Whose clock its times are: `host.id`, else `host.ip`, else `host.name`; empty if unknown.
    pub host: &'a str,
}

/// The senders of all resources, same order.
pub fn senders<'a>(spans: &Spans<'a>) -> Vec<Sender<'a>> {
    spans.resources.iter().map(sender).collect()
}

/// The sender of a span whose resource is `resource`; a default one if there is no such resource.
pub fn of<'a>(senders: &[Sender<'a>], resource: u32) -> Sender<'a> {
    let known = senders.get(resource as usize).copied();
    known.unwrap_or_else(|| sender(&Resource::default()))
}

/// The attributes that tell, in one order for all.
const KEYS: [&str; 9] = [
    "service.namespace",
    "service.name",
    "deployment.environment.name",
    "deployment.environment",
    "service.version",
    "service.instance.id",
    "host.id",
    "host.ip",
    "host.name",
];

fn sender<'a>(resource: &Resource<'a>) -> Sender<'a> {
    // What each of the keys says, the first time it stands there.
    let mut said: [Option<Value<'a>>; KEYS.len()] = [None; KEYS.len()];
    for attribute in &resource.attributes {
        // Most keys of a resource are about something else.
        if !matches!(attribute.key.as_bytes().first(), Some(b's' | b'd' | b'h')) {
            continue;
        }
        if let Some(at) = KEYS.iter().position(|it| *it == attribute.key) {
            said[at].get_or_insert(attribute.value);
        }
    }
    // `host.ip` is an array by the conventions; only senders that give one address as text are understood.
    let text = |at: usize| said[at].and_then(|it| it.as_str()).unwrap_or("");
    let first_of = |keys: Range<usize>| keys.map(text).find(|it| !it.is_empty());
    Sender {
        service: Service {
            namespace: text(0),
            name: first_of(1..2).unwrap_or("unknown_service"),
            environment: first_of(2..4).unwrap_or(""),
        },
        version: text(4),
        instance: text(5),
        host: first_of(6..9).unwrap_or(""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drawing;

    #[test]
    fn new_conventions_before_old_ones() {
        let drawing = drawing::parse(
            "shop / {res.deployment.environment=old, res.deployment.environment.name=new, res.host.name=a} |",
        );
        let sender = senders(&drawing.spans())[0];
        assert_eq!(sender.service.environment, "new");
        assert_eq!(sender.host, "a");
        assert_eq!(sender.version, "");
    }

    #[test]
    fn a_resource_without_a_name_is_a_service_too() {
        assert_eq!(of(&[], 7).service.name, "unknown_service");
    }
}
