//! Requests looked at again, span by span: the roll-ups fold whole hours together, and cannot tell these requests from
//! those.

use analyzer::Settings;
use analyzer::contrast::{Fact, Facts};
use analyzer::profile::{Profile, ProfileSum};
use analyzer::span::{Attribute, Spans, Value};
use futures_util::stream::{self, StreamExt, TryStreamExt};

use crate::otlp::decode_into;
use crate::store::requests::ListedRequest;
use crate::store::{Store, StoreError};

/// Larger traces are passed over: they would take the time of all others, and say nothing else.
const SPANS_MAX: u32 = 5_000;

/// While one waits for Postgres another is analysed; more would take connections from other readers.
const AT_ONCE: usize = 4;

/// Bytes of a text that is compared; what is longer is rarely the same twice.
const TEXT_BYTES_MAX: usize = 120;

/// What tells the instances of a service apart, the surest first.
const INSTANCE: &[&str] = &[
    "service.instance.id",
    "k8s.pod.name",
    "container.id",
    "host.name",
];

/// One request, analysed again.
#[derive(Clone, Debug)]
pub struct Looked {
    /// Its row.
    pub row: ListedRequest,
    /// Its call paths.
    pub profile: Profile,
    /// Which of the service's processes answered it; empty if its sender does not say.
    pub instance: String,
    /// What its entry span and its sender say, and how many calls it made.
    pub facts: Facts,
}

impl Looked {
    /// Trace and entry span, hexadecimal.
    pub fn ids(&self) -> (String, String) {
        (self.row.trace_id.to_string(), self.row.span_id.to_string())
    }

    /// Time of a path on the critical path, ns; 0 if this request did not go there.
    pub fn critical_ns(&self, path: &[&str]) -> i64 {
        let nodes = &self.profile.nodes;
        let mut found = None;
        for name in path {
            let below = found.map(|it: usize| it as u32);
            let mut children = nodes
                .iter()
                .enumerate()
                .filter(|(_, it)| it.parent == below);
            found = match children.find(|(_, it)| &*it.name == *name) {
                Some((at, _)) => Some(at),
                None => return 0,
            };
        }
        found.map_or(0, |at| nodes[at].critical_ns)
    }
}

/// The call paths of all of them.
pub fn folded(requests: &[Looked]) -> Profile {
    let mut sum = ProfileSum::default();
    for it in requests {
        sum.merge(&it.profile, 1);
    }
    sum.total()
}

/// At most so many of them, from the whole time and not only the newest.
pub fn spread(mut rows: Vec<ListedRequest>, requests_max: usize) -> Vec<ListedRequest> {
    let every = rows.len().div_ceil(requests_max.max(1)).max(1);
    let mut at = 0;
    rows.retain(|_| {
        at += 1;
        (at - 1) % every == 0
    });
    rows
}

/// Reads and analyses these requests; those whose traces are gone meanwhile, or are very large, are left out. About a
/// hundred a second.
///
/// # Errors
/// Postgres cannot be reached, or what is stored is damaged.
pub async fn look(
    store: &Store,
    settings: &Settings,
    rows: Vec<ListedRequest>,
) -> Result<Vec<Looked>, StoreError> {
    let rows = rows.into_iter().filter(|row| row.spans <= SPANS_MAX);
    let looking = stream::iter(rows.map(|row| look_at(store, settings, row)));
    let looked: Vec<Option<Looked>> = looking.buffered(AT_ONCE).try_collect().await?;
    Ok(looked.into_iter().flatten().collect())
}

async fn look_at(
    store: &Store,
    settings: &Settings,
    row: ListedRequest,
) -> Result<Option<Looked>, StoreError> {
    let Some(stored) = store.trace(row.trace_id).await? else {
        return Ok(None);
    };
    let settings = settings.clone();
    tokio::task::spawn_blocking(move || analysed(row, &stored.otlp, &settings))
        .await
        .map_err(|error| StoreError::Damaged(error.to_string()))
}

/// A request; `None` if the trace holds it no more, or is damaged.
fn analysed(row: ListedRequest, otlp: &[u8], settings: &Settings) -> Option<Looked> {
    let mut spans = Spans::default();
    decode_into(&mut spans, otlp, |_| true).ok()?;
    let analysis = analyzer::analyze(spans, settings);
    let mut entries = analysis.entries.iter();
    let entry = entries.find(|it| analysis.trace.span(it.span).id == row.span_id)?;
    let spans = &analysis.trace.spans;
    let span = analysis.trace.span(entry.span);
    let instance = spans.resource_text(span, INSTANCE).unwrap_or_default();
    let mut facts = Facts::new();
    if let Some(resource) = spans.resources.get(span.resource as usize) {
        add(&mut facts, &resource.attributes);
    }
    add(&mut facts, spans.attributes_at(&span.attributes));
    let calls = Fact::Number(f64::from(row.database_calls));
    facts.insert("database calls".into(), calls);
    facts.insert(
        "spans in the trace".into(),
        Fact::Number(f64::from(row.spans)),
    );
    Some(Looked {
        profile: Profile::of(&analysis, entry, 1),
        instance: instance.to_owned(),
        facts,
        row,
    })
}

fn add(facts: &mut Facts, attributes: &[Attribute<'_>]) {
    for attribute in attributes {
        let fact = match attribute.value {
            Value::Str(text) => {
                let end = text.floor_char_boundary(TEXT_BYTES_MAX);
                Fact::Text(text[..end].replace('\0', "\u{fffd}"))
            }
            Value::Bool(is) => Fact::Text(is.to_string()),
            Value::Int(number) => Fact::Number(number as f64),
            Value::Double(number) if number.is_finite() => Fact::Number(number),
            _ => continue,
        };
        facts.insert(attribute.key.replace('\0', "\u{fffd}"), fact);
    }
}
