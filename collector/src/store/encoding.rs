//! Sketches, profiles and their kin ↔ the bytes of the roll-up tables (`proto/stored.proto`).

use analyzer::category::Category;
use analyzer::profile::{Profile, ProfileNode};
use analyzer::sketch::Sketch;
use prost::Message;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::StoreError;
use crate::proto;

/// One statement's calls from one endpoint: what an hour's roll-up keeps of them.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct StatementCalls {
    /// How many.
    pub calls: i64,
    /// Their durations added up, ns.
    pub sum_ns: i64,
    /// Their time on the critical path, ns.
    pub critical_ns: i64,
    /// Their durations, ns.
    pub latency: Sketch,
}

impl StatementCalls {
    /// Adds `other`, or takes it away (`sign` 1 or -1).
    pub fn merge(&mut self, other: &StatementCalls, sign: i64) {
        self.calls += sign * other.calls;
        self.sum_ns = self.sum_ns.wrapping_add(sign.wrapping_mul(other.sum_ns));
        self.critical_ns = self
            .critical_ns
            .wrapping_add(sign.wrapping_mul(other.critical_ns));
        merge_sketch(&mut self.latency, &other.latency, sign);
    }
}

/// Statement id → its calls.
pub type Statements = BTreeMap<i32, StatementCalls>;

/// How a finding affected requests: distributions over the affected requests.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Hits {
    /// What a fix saves, ns.
    pub saved: Sketch,
    /// Calls per request (an N+1's N).
    pub calls: Sketch,
    /// Durations as they are, ns.
    pub before: Sketch,
    /// Durations less what a fix saves, ns.
    pub after: Sketch,
}

impl Hits {
    /// Adds `other`, or takes it away (`sign` 1 or -1).
    pub fn merge(&mut self, other: &Hits, sign: i64) {
        merge_sketch(&mut self.saved, &other.saved, sign);
        merge_sketch(&mut self.calls, &other.calls, sign);
        merge_sketch(&mut self.before, &other.before, sign);
        merge_sketch(&mut self.after, &other.after, sign);
    }
}

/// Adds `other` to `sketch`, or takes it away (`sign` 1 or -1).
pub fn merge_sketch(sketch: &mut Sketch, other: &Sketch, sign: i64) {
    if sign > 0 {
        sketch.merge(other);
    } else {
        sketch.subtract(other);
    }
}

/// A sketch as stored.
pub fn sketch_bytes(sketch: &Sketch) -> Vec<u8> {
    to_proto_sketch(sketch).encode_to_vec()
}

/// The inverse of [`sketch_bytes`].
///
/// # Errors
/// The bytes are not a stored sketch.
pub fn sketch(bytes: &[u8]) -> Result<Sketch, StoreError> {
    let stored = decode::<proto::Sketch>(bytes)?;
    Ok(from_proto_sketch(&stored))
}

/// Statements as stored.
pub fn statements_bytes(statements: &Statements) -> Vec<u8> {
    let statements = statements
        .iter()
        .map(|(id, calls)| proto::StatementCalls {
            statement_id: *id,
            calls: calls.calls,
            sum_ns: calls.sum_ns,
            critical_ns: calls.critical_ns,
            latency: Some(to_proto_sketch(&calls.latency)),
        })
        .collect();
    proto::Statements { statements }.encode_to_vec()
}

/// The inverse of [`statements_bytes`].
///
/// # Errors
/// The bytes are not stored statements.
pub fn statements(bytes: &[u8]) -> Result<Statements, StoreError> {
    let stored = decode::<proto::Statements>(bytes)?;
    let statements = stored
        .statements
        .iter()
        .map(|it| (it.statement_id, statement_calls(it)));
    Ok(statements.collect())
}

/// The calls of one statement in the bytes of [`statements_bytes`], if it is there.
///
/// # Errors
/// As [`statements`].
pub fn statement_of(bytes: &[u8], id: i32) -> Result<Option<StatementCalls>, StoreError> {
    let stored = decode::<proto::Statements>(bytes)?;
    let found = stored.statements.iter().find(|it| it.statement_id == id);
    Ok(found.map(statement_calls))
}

fn statement_calls(stored: &proto::StatementCalls) -> StatementCalls {
    let latency = stored.latency.as_ref().map(from_proto_sketch);
    StatementCalls {
        calls: stored.calls,
        sum_ns: stored.sum_ns,
        critical_ns: stored.critical_ns,
        latency: latency.unwrap_or_default(),
    }
}

/// Hits as stored.
pub fn hits_bytes(hits: &Hits) -> Vec<u8> {
    let stored = proto::Hits {
        saved: Some(to_proto_sketch(&hits.saved)),
        calls: Some(to_proto_sketch(&hits.calls)),
        before: Some(to_proto_sketch(&hits.before)),
        after: Some(to_proto_sketch(&hits.after)),
    };
    stored.encode_to_vec()
}

/// The inverse of [`hits_bytes`].
///
/// # Errors
/// The bytes are not stored hits.
pub fn hits(bytes: &[u8]) -> Result<Hits, StoreError> {
    let stored = decode::<proto::Hits>(bytes)?;
    let part = |it: &Option<proto::Sketch>| it.as_ref().map(from_proto_sketch).unwrap_or_default();
    Ok(Hits {
        saved: part(&stored.saved),
        calls: part(&stored.calls),
        before: part(&stored.before),
        after: part(&stored.after),
    })
}

/// A profile as stored: every name once.
pub fn profile_bytes(profile: &Profile) -> Vec<u8> {
    let mut positions = HashMap::new();
    let mut stored = proto::Profile::default();
    for node in &profile.nodes {
        let next = positions.len() as u32;
        let name = *positions.entry(&*node.name).or_insert_with(|| {
            stored.names.push(node.name.to_string());
            next
        });
        stored.nodes.push(proto::ProfileNode {
            parent: node.parent.map_or(0, |it| it + 1),
            name,
            category: node.category as u32,
            count: node.count,
            self_ns: node.self_ns,
            critical_ns: node.critical_ns,
        });
    }
    stored.encode_to_vec()
}

/// The inverse of [`profile_bytes`].
///
/// # Errors
/// The bytes are not a stored profile.
pub fn profile(bytes: &[u8]) -> Result<Profile, StoreError> {
    let stored = decode::<proto::Profile>(bytes)?;
    let names: Vec<Arc<str>> = stored.names.iter().map(|it| it.as_str().into()).collect();
    let mut nodes = Vec::with_capacity(stored.nodes.len());
    for (position, node) in stored.nodes.iter().enumerate() {
        if node.parent as usize > position {
            return Err(StoreError::Damaged(
                "a profile's child stands before its parent".into(),
            ));
        }
        let name = names.get(node.name as usize);
        let category = Category::ALL.get(node.category as usize);
        let (Some(name), Some(category)) = (name, category) else {
            return Err(StoreError::Damaged(
                "a profile's node has no name or category".into(),
            ));
        };
        nodes.push(ProfileNode {
            parent: node.parent.checked_sub(1),
            name: name.clone(),
            category: *category,
            count: node.count,
            self_ns: node.self_ns,
            critical_ns: node.critical_ns,
        });
    }
    Ok(Profile { nodes })
}

fn decode<M: Message + Default>(bytes: &[u8]) -> Result<M, StoreError> {
    M::decode(bytes).map_err(|error| StoreError::Damaged(error.to_string()))
}

fn to_proto_sketch(sketch: &Sketch) -> proto::Sketch {
    let mut stored = proto::Sketch::default();
    let mut before = 0;
    for (bin, count) in sketch.bins() {
        stored.bin_steps.push(u32::from(*bin) - before);
        stored.counts.push(*count);
        before = u32::from(*bin);
    }
    stored
}

fn from_proto_sketch(stored: &proto::Sketch) -> Sketch {
    let bins = stored.bin_steps.iter().scan(0_u32, |bin, step| {
        *bin = bin.saturating_add(*step);
        Some(u16::try_from(*bin).unwrap_or(u16::MAX))
    });
    Sketch::from_bins(bins.zip(stored.counts.iter().copied()))
}

/// Postgres' jsonb takes no NUL; one in a span name must not stop a whole tick.
pub(crate) fn without_nul(value: Value) -> Value {
    match value {
        Value::String(text) if text.contains('\0') => Value::String(text.replace('\0', "\u{fffd}")),
        Value::Array(items) => items.into_iter().map(without_nul).collect(),
        Value::Object(fields) => Value::Object(
            fields
                .into_iter()
                .map(|(key, it)| (key.replace('\0', "\u{fffd}"), without_nul(it)))
                .collect(),
        ),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_come_back_as_they_were() {
        let node = |parent, name: &str, count| ProfileNode {
            parent,
            name: name.into(),
            category: Category::Database,
            count,
            self_ns: -7,
            critical_ns: 1 << 40,
        };
        let before = Profile {
            nodes: vec![
                node(None, "GET /posts", 3),
                node(Some(0), "select", 93),
                node(Some(0), "GET /posts", -1),
            ],
        };
        assert_eq!(profile(&profile_bytes(&before)).unwrap(), before);
    }

    #[test]
    fn damaged_bytes_are_an_error_and_not_a_panic() {
        let stored = proto::Profile {
            names: vec!["a".into()],
            nodes: vec![proto::ProfileNode {
                parent: 9,
                ..Default::default()
            }],
        };
        assert!(profile(&stored.encode_to_vec()).is_err());
        assert!(sketch(b"\xff\xff").is_err());
    }
}
