//! One alert from its beginning to its end: what, where, since when, how much, who was told and how that
//! went, who did what.

use askama::Template;
use axum::extract::{Path, State};
use axum::response::Response;
use collector::alert::notification::{Fact, Link};
use collector::store::alerts_shown::{Attempt, Incident, ShownMessage};
use collector::store::audit::Done;
use collector::store::silences::Silence;
use uuid::Uuid;

use super::{Moment, Row, lasted, now_ms, ns};
use crate::AppState;
use crate::format;
use crate::pages::{ALERTS, Frame, PageError, render};

/// `GET /alerts/{incident}`.
///
/// # Errors
/// There is no such incident, or the database is away.
pub async fn page(
    State(state): State<AppState>,
    Path(id): Path<String>,
) -> Result<Response, PageError> {
    let told = Told::load(&state, self::id(&id)?).await?;
    Ok(render(&Page::new(&told, now_ms())))
}

/// An incident's id from an address.
///
/// # Errors
/// It is none.
pub fn id(text: &str) -> Result<Uuid, PageError> {
    let missing = |_| PageError::Missing(format!("There is no alert '{text}'."), ALERTS);
    Uuid::try_parse(text).map_err(missing)
}

/// Everything that is known of an incident.
pub struct Told {
    /// The incident.
    pub incident: Incident,
    /// Who did what, the latest first.
    pub acts: Vec<Done>,
    /// What was said.
    pub messages: Vec<ShownMessage>,
    /// How that went.
    pub attempts: Vec<Attempt>,
    /// Why nobody is told.
    pub silence: Option<Silence>,
}

impl Told {
    /// Reads it.
    ///
    /// # Errors
    /// There is no such incident, or the database is away.
    pub async fn load(state: &AppState, id: Uuid) -> Result<Told, PageError> {
        let store = &state.store;
        let missing = || {
            let text = format!(
                "There is no alert '{id}' (any more): alerts that are over are deleted after a while."
            );
            PageError::Missing(text, ALERTS)
        };
        let incident = store.incident(id).await?.ok_or_else(missing)?;
        let messages = store.messages_of(id).await?;
        let ids: Vec<Uuid> = messages.iter().map(|it| it.id).collect();
        Ok(Told {
            acts: store
                .for_changes()
                .history("incident", &id.to_string())
                .await?,
            attempts: store.attempts_of(&ids).await?,
            silence: match incident.silenced_by {
                Some(silence) => store.silence(silence).await?,
                None => None,
            },
            messages,
            incident,
        })
    }
}

#[derive(Template)]
#[template(path = "alerts/incident.html")]
struct Page {
    frame: Frame,
    row: Row,
    /// Why, and what to do first.
    summary: String,
    /// The numbers.
    facts: Vec<Fact>,
    /// Where the thing itself is shown.
    links: Vec<Link>,
    /// What identifies it.
    labels: Vec<(String, String)>,
    /// Who silenced it, why, until when.
    silence: Option<(String, String, Moment)>,
    /// From the beginning on.
    timeline: Vec<Event>,
    /// Nothing was said so far.
    untold: bool,
    json: String,
}

/// Something that happened.
struct Event {
    at_ms: i64,
    at: String,
    exact: String,
    /// After the beginning.
    after: String,
    /// Colour of its dot: err, good, warn or empty.
    class: &'static str,
    what: String,
    /// In somebody else's words.
    detail: String,
    /// Tries to deliver it.
    tries: Vec<Try>,
}

/// One try.
pub struct Try {
    /// `#2 20:14:07 UTC`
    pub when: String,
    /// delivered, failed, gone.
    pub outcome: String,
    /// The pill's class.
    pub class: &'static str,
    /// `340 ms`
    pub took: String,
    /// What the receiver said.
    pub detail: String,
}

impl Try {
    /// As a timeline shows it.
    pub fn new(attempt: &Attempt, now_ms: i64) -> Try {
        Try {
            when: format!(
                "#{} {}",
                attempt.attempt,
                format::when(ns(attempt.at_ms), ns(now_ms))
            ),
            outcome: attempt.outcome.clone(),
            class: outcome_class(&attempt.outcome),
            took: format::duration(ns(i64::from(attempt.took_ms))),
            detail: attempt.detail.clone(),
        }
    }
}

/// The pill of a delivery's outcome.
pub fn outcome_class(outcome: &str) -> &'static str {
    match outcome {
        "delivered" => "good",
        "gone" | "rejected" => "err",
        _ => "warn",
    }
}

impl Page {
    fn new(told: &Told, now_ms: i64) -> Page {
        let incident = &told.incident;
        let alert = &incident.alert;
        let silence = told.silence.as_ref().map(|it| {
            let until = Moment::new(it.ends_ms, now_ms);
            (it.author.clone(), it.comment.clone(), until)
        });
        Page {
            frame: Frame { current: "/alerts" },
            row: Row::new(incident, now_ms)
                .silenced_by(told.silence.as_ref().map(|it| it.author.clone())),
            summary: alert.summary.clone(),
            facts: alert.facts.clone(),
            links: alert
                .links
                .iter()
                .filter(|it| is_ours(&it.path))
                .cloned()
                .collect(),
            labels: incident
                .labels
                .iter()
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
            silence,
            timeline: timeline(told, now_ms),
            untold: told.messages.is_empty(),
            json: format!("/api/v1/alerts/{}", incident.id),
        }
    }
}

/// A link of a message leads to a page here.
pub fn is_ours(path: &str) -> bool {
    path.starts_with('/') && !path.starts_with("//") && !path.starts_with("/\\")
}

fn timeline(told: &Told, now_ms: i64) -> Vec<Event> {
    let incident = &told.incident;
    let started_ms = incident.started_ms;
    let event = |at_ms: i64, class: &'static str, what: String, detail: &str| Event {
        at_ms,
        at: format::when(ns(at_ms), ns(now_ms)),
        exact: format::at(ns(at_ms)),
        after: match at_ms - started_ms {
            ..1_000 => String::new(),
            _ => format!("+{}", lasted(started_ms, at_ms)),
        },
        class,
        what,
        detail: detail.to_owned(),
        tries: Vec::new(),
    };
    let mut events = Vec::new();
    let pending = incident.state == "pending";
    let first = if pending {
        "True; it fires once that has lasted"
    } else {
        "True for the first time"
    };
    events.push(event(started_ms, "", first.into(), ""));
    if let Some(at_ms) = incident.fired_ms {
        events.push(event(at_ms, "err", "Fires".into(), ""));
    }
    for act in told.acts.iter().rev() {
        let what = match act.author.as_str() {
            "" => capital(&act.action),
            author => format!("{} by {author}", capital(&act.action)),
        };
        events.push(event(act.at_ms, "", what, &act.detail));
    }
    for message in &told.messages {
        let mut it = event(
            message.created_ms,
            class_of(message),
            told_in_words(message, now_ms),
            "",
        );
        let tries = told
            .attempts
            .iter()
            .filter(|it| it.message_id == message.id);
        it.tries = tries.map(|it| Try::new(it, now_ms)).collect();
        events.push(it);
    }
    if let Some(at_ms) = incident.resolved_ms {
        events.push(event(at_ms, "good", "Resolved".into(), ""));
    }
    // Stable: what happens in one moment stays in the order above.
    events.sort_by_key(|it| it.at_ms);
    events
}

fn class_of(message: &ShownMessage) -> &'static str {
    match (message.delivered_ms, message.dead_ms) {
        (Some(_), _) => "good",
        (None, Some(_)) => "err",
        (None, None) => "warn",
    }
}

/// `slack is told that it fires: delivered`.
fn told_in_words(message: &ShownMessage, now_ms: i64) -> String {
    let what = match message.event.as_str() {
        "opened" => "is told that it fires",
        "reminder" => "is reminded",
        "resolved" => "is told that it is resolved",
        "flapping" => "is told that it comes and goes",
        _ => "is told",
    };
    format!("{} {what}: {}", message.channel, state_of(message, now_ms))
}

/// What became of a message, in words.
pub fn state_of(message: &ShownMessage, now_ms: i64) -> String {
    // What is late waits for the process that delivers.
    let next = match message.next_attempt_ms {
        due if due <= now_ms => "due".to_owned(),
        later => Moment::new(later, now_ms).words,
    };
    match (message.delivered_ms, message.dead_ms, message.attempts) {
        (Some(_), _, ..=1) => "delivered".into(),
        (Some(_), _, attempts) => format!("delivered, after {attempts} attempts"),
        (None, Some(_), _) if message.replayed => {
            "given up, and sent again as another message".into()
        }
        (None, Some(_), _) => "given up".into(),
        (None, None, 0) => "waiting".into(),
        (None, None, 1) => format!("failed once, next attempt {next}"),
        (None, None, attempts) => format!("failed {attempts} times, next attempt {next}"),
    }
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    let first = letters.next().map(|it| it.to_uppercase().to_string());
    format!("{}{}", first.unwrap_or_default(), letters.as_str())
}
