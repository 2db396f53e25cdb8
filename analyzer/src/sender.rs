//! Who sent a span: service, version, instance and host, read once per resource.

use crate::Service;
use crate::span::{Resource, Spans, Value};

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

fn sender<'a>(resource: &Resource<'a>) -> Sender<'a> {
    // `host.ip` is an array by the conventions; only senders that give one address as text are understood.
    let first_of = |keys: &[&str]| {
        let texts = keys.iter().filter_map(|key| text(resource, key));
        texts.into_iter().find(|it| !it.is_empty())
    };
    Sender {
        service: Service {
            namespace: first_of(&["service.namespace"]).unwrap_or(""),
            name: first_of(&["service.name"]).unwrap_or("unknown_service"),
            environment: first_of(&["deployment.environment.name", "deployment.environment"])
                .unwrap_or(""),
        },
        version: first_of(&["service.version"]).unwrap_or(""),
        instance: first_of(&["service.instance.id"]).unwrap_or(""),
        host: first_of(&["host.id", "host.ip", "host.name"]).unwrap_or(""),
    }
}

fn text<'a>(resource: &Resource<'a>, key: &str) -> Option<&'a str> {
    let found = resource.attributes.iter().find(|it| it.key == key)?;
    match found.value {
        Value::Str(text) => Some(text),
        _ => None,
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
