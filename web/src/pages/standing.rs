//! How a span's duration compares with that of its like: a request with its endpoint's other requests, a
//! database call with the same statement's other calls in requests of its endpoint.

use analyzer::Analysis;
use analyzer::category::Category;
use analyzer::sketch::Sketch;
use analyzer::trace::SpanIdx;
use collector::store::bottlenecks::Minutes;
use collector::store::{Store, StoreError};

use crate::format;

/// Fewer say nothing about what is usual.
const CALLS_MIN: i64 = 20;

const NS_PER_MINUTE: u64 = 60_000_000_000;

/// What is to be compared with what.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Question {
    /// `service.namespace`, or empty.
    pub namespace: String,
    /// `service.name`.
    pub service: String,
    /// The environment, or empty.
    pub environment: String,
    /// The endpoint.
    pub endpoint: String,
    /// The hour it began in, as minutes since the epoch.
    pub hour: i32,
    /// How long it took, ns.
    pub duration_ns: u64,
    /// Of a database call: system and statement.
    pub statement: Option<(String, String)>,
}

/// What to ask about a span; `None` if it is neither a request nor a database call of one.
pub fn question(analysis: &Analysis<'_>, span: SpanIdx) -> Option<Question> {
    let entry = &analysis.entries[analysis.entry_of(span)?];
    let call = analysis
        .calls
        .iter()
        .find(|it| (it.span == span || it.outer == span) && it.category == Category::Database);
    let (duration_ns, statement) = match call {
        _ if entry.span == span => (entry.duration_ns, None),
        Some(call) => {
            let statement = (call.system.clone(), call.key.to_string());
            (analysis.trace.duration_ns(call.outer), Some(statement))
        }
        None => return None,
    };
    let minute = i32::try_from(entry.start_ns / NS_PER_MINUTE).ok()?;
    Some(Question {
        namespace: entry.service.namespace.to_owned(),
        service: entry.service.name.to_owned(),
        environment: entry.service.environment.to_owned(),
        endpoint: entry.endpoint.clone(),
        hour: minute - minute.rem_euclid(60),
        duration_ns,
        statement,
    })
}

/// The answer in words: of the span's hour, or of the day up to it if the hour has too few. `None` if there
/// are too few to tell.
///
/// # Errors
/// Postgres cannot be reached, or a roll-up is damaged.
pub async fn told(store: &Store, asks: &Option<Question>) -> Result<Option<String>, StoreError> {
    let Some(asks) = asks else {
        return Ok(None);
    };
    let names = [
        &*asks.namespace,
        &asks.service,
        &asks.environment,
        &asks.endpoint,
    ];
    let Some(endpoint) = store.endpoint_named(names).await? else {
        return Ok(None);
    };
    for (hours, when) in [(1, "that hour"), (24, "the 24 hours up to then")] {
        let to = asks.hour.saturating_add(60);
        let from = to.saturating_sub(60 * hours);
        let sketch = sketch(store, endpoint, Minutes { from, to }, asks).await?;
        if sketch.count() >= CALLS_MIN {
            return Ok(Some(words(asks, &sketch, when)));
        }
    }
    Ok(None)
}

async fn sketch(
    store: &Store,
    endpoint: i32,
    minutes: Minutes,
    asks: &Question,
) -> Result<Sketch, StoreError> {
    let Some((system, text)) = &asks.statement else {
        let mut all = Sketch::default();
        for minute in store.endpoint_minutes(endpoint, minutes).await?.values() {
            all.merge(&minute.latency);
        }
        return Ok(all);
    };
    let sent = store
        .endpoint_statements(endpoint, minutes, usize::MAX)
        .await?;
    let same = sent
        .into_iter()
        .find(|it| it.text == *text && it.system == *system);
    Ok(same.map(|it| it.calls.latency).unwrap_or_default())
}

/// `Slower than 97 % of …`. Durations within the same bin of the sketch, 2 % apart, count as equal.
fn words(asks: &Question, sketch: &Sketch, when: &str) -> String {
    let count = sketch.count();
    let shorter = |it: &&(u16, i64)| Sketch::edges_ns(it.0).1 <= asks.duration_ns;
    let below: i64 = sketch.bins().iter().filter(shorter).map(|it| it.1).sum();
    let above = sketch.count_above(asks.duration_ns);
    let percent = |part: i64| part.clamp(0, count) * 100 / count;
    let of = match asks.statement {
        Some(_) => format!("this statement's calls from {}", asks.endpoint),
        None => format!("{}'s requests", asks.endpoint),
    };
    let than = match (percent(below), percent(above)) {
        (slower, _) if slower >= 50 => format!("Slower than {slower} % of"),
        (_, faster) if faster >= 50 => format!("Faster than {faster} % of"),
        _ => "As long as most of".to_owned(),
    };
    format!("{than} {of} in {when} ({})", format::count(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_say_on_which_side_most_are() {
        let mut sketch = Sketch::default();
        for ms in 1..=100 {
            sketch.record(ms * 1_000_000, 1);
        }
        let asks = |ms: u64| Question {
            namespace: String::new(),
            service: "shop".into(),
            environment: String::new(),
            endpoint: "GET /posts".into(),
            hour: 0,
            duration_ns: ms * 1_000_000,
            statement: None,
        };
        let told = |ms| words(&asks(ms), &sketch, "that hour");
        assert_eq!(
            told(500),
            "Slower than 100 % of GET /posts's requests in that hour (100)"
        );
        assert!(told(91).starts_with("Slower than 8") || told(91).starts_with("Slower than 9"));
        assert!(told(10).starts_with("Faster than 8") || told(10).starts_with("Faster than 9"));
        let mut alike = Sketch::default();
        alike.record(5_000_000, 1_000);
        let text = words(&asks(5), &alike, "that hour");
        assert!(text.starts_with("As long as most of"), "{text}");
    }
}
