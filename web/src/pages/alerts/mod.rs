//! What fires, and what fired: the list. Beside it stand one incident, rules, channels and silences.

pub mod incident;
pub mod inputs;
pub mod reach;
pub mod rules;
pub mod rule_form;
pub mod channels;
pub mod channel_form;
pub mod silences;

use askama::Template;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Redirect, Response};
use collector::alert::notification::Severity;
pub use collector::clock::now_ms;
use collector::store::alerts_shown::{Incident, IncidentCursor, IncidentFilter, LIVE_SHOWN};
use collector::store::rules::{Changed, Source};
use collector::store::{Store, StoreError};
use uuid::Uuid;

use super::context::{Selectable, selectable};
use super::{Frame, PageError, render};
use crate::AppState;
use crate::acts;
use crate::address::Address;
use crate::form::Form;
use crate::format;

/// Resolved incidents on a page; older ones are one click away.
pub const RESOLVED_SHOWN: usize = 50;

/// Rules that the empty page tells of.
const RULES_TOLD: usize = 6;

/// `GET /alerts`.
///
/// # Errors
/// The database is away.
pub async fn page(
    State(state): State<AppState>,
    RawQuery(query): RawQuery,
) -> Result<Response, PageError> {
    let address = Address::parse(query.as_deref());
    Ok(render(&load(&state, address).await?))
}

/// `POST /alerts/{incident}/acknowledge`: somebody has seen it, or takes that back.
///
/// # Errors
/// There is no such incident, or the database takes no changes.
pub async fn acknowledge(
    State(state): State<AppState>,
    id: axum::extract::Path<String>,
    body: String,
) -> Result<Response, PageError> {
    let id = incident::id(&id.0)?;
    let form = Form::parse(&body);
    let seen = match form.get("seen") {
        "" => true,
        text => yes_or_no("seen", text)?,
    };
    let author = match form.author() {
        "" => "somebody",
        name => name,
    };
    let store = &state.store;
    // Missing: it is over, or somebody was faster; the page shows which.
    let _: Changed = store
        .acknowledge_incident(id, seen, author, &acts::reason(form.get("comment")))
        .await?;
    Ok(Redirect::to(&back(&form, &format!("/alerts/{id}"))).into_response())
}

/// Where a form leads back to: only within these pages.
fn back(form: &Form, otherwise: &str) -> String {
    let back = form.get("back");
    let ours = back == "/alerts" || back.starts_with("/alerts?") || back.starts_with("/alerts/");
    let plain = back.bytes().all(|it| it.is_ascii_graphic());
    let back = if ours && plain { back } else { otherwise };
    back.to_owned()
}

/// What became of a change, if it was not done, as an error.
fn done(changed: Changed, what: &str, name: &str) -> Result<(), PageError> {
    match changed {
        Changed::Done => Ok(()),
        Changed::Missing => Err(PageError::NotFound(format!(
            "There is no {what} '{name}' (any more)."
        ))),
        Changed::Fixed(source) => Err(PageError::refused(fixed(what, source))),
        Changed::TooMany(most) => Err(PageError::refused(too_many(what, most))),
    }
}

/// What a switch says.
///
/// # Errors
/// It is neither `yes` nor `no`: a slip must not switch anything off.
pub fn yes_or_no(key: &str, text: &str) -> Result<bool, PageError> {
    match text {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err(PageError::refused(format!("`{key}` is yes or no."))),
    }
}

/// Why a thing cannot be changed here.
pub fn fixed(what: &str, source: Source) -> String {
    match source {
        Source::BuiltIn => format!("This {what} is built in: disable it, or change it."),
        Source::Flag => {
            format!("This {what} comes from the command line or the environment: change it there.")
        }
        Source::File => format!("This {what} comes from the configuration file: change it there."),
        Source::Ui => format!("This {what} cannot be changed."),
    }
}

/// Why one more is too many.
pub fn too_many(what: &str, most: i64) -> String {
    format!("There are {most} {what}s, which is the most; delete one first.")
}

/// Milliseconds as the numbers of [`format`] are: ns since the epoch.
pub fn ns(ms: i64) -> u64 {
    u64::try_from(ms)
        .unwrap_or_default()
        .saturating_mul(1_000_000)
}

/// The pages beside each other: address, name, whether it is this one.
pub struct Tabs(Vec<(&'static str, &'static str, bool)>);

impl Tabs {
    /// The tabs, with `current` chosen.
    pub fn new(current: &str) -> Tabs {
        let all = [
            ("/alerts", "Alerts"),
            ("/alerts/rules", "Rules"),
            ("/alerts/channels", "Channels"),
            ("/alerts/silences", "Silences"),
        ];
        Tabs(all.map(|(at, name)| (at, name, at == current)).into())
    }
}

/// A time, for people and exactly.
#[derive(Clone, Default)]
pub struct Moment {
    /// `3 min ago`
    pub words: String,
    /// `2026-11-21T20:00:00Z`
    pub exact: String,
}

impl Moment {
    /// `ms` as seen at `now_ms`.
    pub fn new(ms: i64, now_ms: i64) -> Moment {
        let ahead = ms - now_ms;
        let words = if (1_000..86_400_000).contains(&ahead) {
            format!("in {}", format::duration(ns(ahead)))
        } else {
            format::ago(ns(ms), ns(now_ms))
        };
        Moment {
            words,
            exact: format::at(ns(ms)),
        }
    }
}

#[derive(Template)]
#[template(path = "alerts/list.html")]
struct Page {
    frame: Frame,
    tabs: Tabs,
    /// How it is, in a sentence.
    sentence: String,
    /// What fires or is about to.
    live: Vec<Row>,
    /// There are more than are shown.
    more_live: bool,
    /// What is over.
    over: Vec<Row>,
    /// Services to choose from.
    services: Vec<Selectable>,
    /// Rules to choose from.
    rules: Vec<Selectable>,
    /// Severities to choose from: value, words, chosen.
    severities: Vec<(&'static str, &'static str, bool)>,
    /// This page, for forms to lead back to.
    here: String,
    /// The next page of what is over.
    next: Option<String>,
    /// The first one, if this is another.
    first: Option<String>,
    /// Without filters, if there are some.
    unfiltered: Option<String>,
    /// The same as JSON.
    json: String,
    /// What would alert: sentences of rules, and how many more there are.
    watched: Vec<String>,
    watched_more: usize,
    /// Nobody would be told: there is no channel.
    no_channel: bool,
    /// Channels that take no messages, in words.
    failing: Vec<String>,
    /// Rules that name channels that there are not.
    gaps: Vec<String>,
}

/// An incident in the list.
pub struct Row {
    /// Its page.
    pub href: String,
    /// Its id.
    pub id: String,
    /// What is wrong.
    pub title: String,
    /// How bad.
    pub severity: &'static str,
    /// firing, pending, silenced, acknowledged, flapping, resolved.
    pub state: &'static str,
    /// The pill's class.
    pub class: &'static str,
    /// Whose.
    pub service: String,
    /// Its environment; may be empty.
    pub environment: String,
    /// Its endpoint; may be empty.
    pub endpoint: String,
    /// The rule's name.
    pub rule: String,
    /// True since.
    pub since: Moment,
    /// Over since; empty while it is not.
    pub ended: Moment,
    /// How long it lasted.
    pub lasted: String,
    /// Who has seen it.
    pub acknowledged_by: Option<String>,
    /// Who silenced it, where that is known.
    pub silenced_by: Option<String>,
    /// A form to silence it.
    pub silence: String,
}

impl Row {
    /// As the list shows it.
    pub fn new(incident: &Incident, now_ms: i64) -> Row {
        let label = |key: &str| incident.labels.get(key).cloned().unwrap_or_default();
        let (state, class) = state(incident);
        let end = incident.resolved_ms.unwrap_or(now_ms);
        Row {
            href: format!("/alerts/{}", incident.id),
            id: incident.id.to_string(),
            title: incident.alert.title.clone(),
            severity: incident.severity.name(),
            state,
            class,
            service: label("service"),
            environment: label("environment"),
            endpoint: label("endpoint"),
            rule: incident.rule.clone(),
            since: Moment::new(incident.started_ms, now_ms),
            ended: incident
                .resolved_ms
                .map(|it| Moment::new(it, now_ms))
                .unwrap_or_default(),
            lasted: lasted(incident.started_ms, end),
            acknowledged_by: incident.acknowledged_by.clone(),
            silenced_by: None,
            silence: format!("/alerts/silences?incident={}#new", incident.id),
        }
    }

    /// With who silenced it.
    pub fn silenced_by(self, who: Option<String>) -> Row {
        Row {
            silenced_by: who,
            ..self
        }
    }

    fn is_over(&self) -> bool {
        self.state == "resolved"
    }
}

/// Who made the silences that hold.
struct Silencers(Vec<(Uuid, String)>);

impl Silencers {
    async fn load(store: &Store, now_ms: i64) -> Result<Silencers, StoreError> {
        let silences = store.active_silences(now_ms).await?;
        Ok(Silencers(
            silences.into_iter().map(|it| (it.id, it.author)).collect(),
        ))
    }

    fn of(&self, incident: &Incident) -> Option<String> {
        let id = incident.silenced_by?;
        let found = self.0.iter().find(|it| it.0 == id)?;
        Some(found.1.clone())
    }
}

/// `12 min`: whole seconds, as nobody looks at alerts by the millisecond.
pub fn lasted(from_ms: i64, to_ms: i64) -> String {
    format::duration(ns((to_ms - from_ms).max(0) / 1_000 * 1_000))
}

/// The one word that matters most, and its pill.
pub fn state(incident: &Incident) -> (&'static str, &'static str) {
    match incident.state.as_str() {
        "resolved" => ("resolved", "good"),
        "pending" => ("pending", ""),
        _ if incident.silenced_by.is_some() => ("silenced", ""),
        _ if incident.acknowledged_by.is_some() => ("acknowledged", "warn"),
        _ if incident.flapping => ("flapping", "warn"),
        _ => ("firing", "err"),
    }
}

/// The filters of an address.
pub fn filter(address: &Address) -> IncidentFilter {
    let text = |key: &str| address.get(key).unwrap_or_default().to_owned();
    IncidentFilter {
        service: text("service"),
        rule: text("rule"),
        severity_min: match address.get("severity") {
            Some("critical") => Severity::Critical as i16,
            Some("warning") => Severity::Warning as i16,
            _ => Severity::Info as i16,
        },
    }
}

/// Where a page begins, as it stands in an address: `1795185128000000-…id…`.
pub fn read_cursor(text: &str) -> Option<IncidentCursor> {
    let (resolved_us, id) = text.split_once('-')?;
    Some(IncidentCursor {
        resolved_us: resolved_us.parse().ok()?,
        id: Uuid::try_parse(id).ok()?,
    })
}

/// The other way round.
pub fn write_cursor(cursor: IncidentCursor) -> String {
    format!("{}-{}", cursor.resolved_us, cursor.id.simple())
}

async fn load(state: &AppState, address: Address) -> Result<Page, StoreError> {
    let (store, now_ms) = (&state.store, now_ms());
    let filter = filter(&address);
    let after = address.get("after").and_then(read_cursor);
    let live = match after {
        None => store.live_incidents(&filter).await?,
        Some(_) => Vec::new(),
    };
    let limit = RESOLVED_SHOWN as i64 + 1;
    let mut over = store.resolved_incidents(&filter, after, limit).await?;
    let more = over.len() > RESOLVED_SHOWN;
    over.truncate(RESOLVED_SHOWN);
    let (services, rule_names) = store.incident_choices().await?;
    let channels = store.channels().await?;
    let rules = store.enabled_rules().await?.0;
    let failing = store.failing_channels(now_ms).await?;
    let silencers = Silencers::load(store, now_ms).await?;
    let narrowed = filter != IncidentFilter::default();
    Ok(Page {
        frame: Frame { current: "/alerts" },
        tabs: Tabs::new("/alerts"),
        sentence: sentence(&live, after.is_some(), narrowed),
        more_live: live.len() as i64 == LIVE_SHOWN,
        services: selectable(services.iter(), &filter.service),
        rules: selectable(rule_names.iter(), &filter.rule),
        severities: [
            ("", "any severity", Severity::Info),
            ("warning", "warning or worse", Severity::Warning),
            ("critical", "critical", Severity::Critical),
        ]
        .map(|(id, words, it)| (id, words, it as i16 == filter.severity_min))
        .into(),
        here: address.behind("/alerts"),
        next: over
            .last()
            .filter(|_| more)
            .and_then(Incident::cursor)
            .map(|it| address.with(&[("after", &write_cursor(it))])),
        first: after.map(|_| address.with(&[("after", "")])),
        unfiltered: narrowed.then(|| "/alerts".to_owned()),
        json: address.behind("/api/v1/alerts"),
        watched: rules
            .iter()
            .take(RULES_TOLD)
            .map(|it| inputs::sentence(&it.to_string()))
            .collect(),
        watched_more: rules.len().saturating_sub(RULES_TOLD),
        no_channel: !channels.iter().any(|it| it.enabled),
        gaps: reach::gaps(&rules, &channels),
        failing: failing
            .into_iter()
            .map(|it| match it.gone {
                true => format!("{} (switched off by its receiver)", it.name),
                false => it.name,
            })
            .collect(),
        live: live
            .iter()
            .map(|it| Row::new(it, now_ms).silenced_by(silencers.of(it)))
            .collect(),
        over: over.iter().map(|it| Row::new(it, now_ms)).collect(),
    })
}

fn sentence(live: &[Incident], is_later_page: bool, narrowed: bool) -> String {
    let alerts = |number: usize| match number {
        1 => "One alert".to_owned(),
        it => format!("{it} alerts"),
    };
    let such = if narrowed { " of these" } else { "" };
    if is_later_page {
        return "Earlier alerts".into();
    }
    let count = |is: fn(&Incident) -> bool| {
        let firing = live.iter().filter(|it| it.state == "firing");
        firing.filter(|it| is(it)).count()
    };
    let firing = count(|_| true);
    // One alert may be both.
    let (seen, silenced) = (
        count(|it| it.acknowledged_by.is_some()),
        count(|it| it.silenced_by.is_some()),
    );
    // The number beside "Alerts" in the navigation.
    let heard = if silenced > 0 { firing - silenced } else { 0 };
    let verb = if firing == 1 { "fires" } else { "fire" };
    let mut text = match firing {
        0 => {
            return match live.len() {
                0 => format!("Nothing fires{such}"),
                it => format!("Nothing fires{such}; {} pending", alerts(it).to_lowercase()),
            };
        }
        it => format!("{}{such} {verb}", alerts(it)),
    };
    let asides: Vec<String> = [
        (seen, "acknowledged"),
        (silenced, "silenced"),
        (heard, "not silenced"),
    ]
    .iter()
    .filter(|it| it.0 > 0)
    .map(|(number, what)| format!("{number} {what}"))
    .collect();
    if !asides.is_empty() {
        text.push_str(&format!(", {}", asides.join(", ")));
    }
    text
}

#[cfg(test)]
mod tests;
