//! Where alerts go: how each channel does, forms to add one, a button to try it, what was delivered, and
//! what was given up.

use askama::Template;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use collector::alert::channel::{Channel, Kind};
use collector::alert::settings::Settings;
use collector::store::Store;
use collector::store::alerts_shown::{Attempt, Backlog, ShownMessage};
use collector::store::channels::{NewChannel, StoredChannel};
use collector::store::outbox::Replayed;
use collector::store::rules::{Changed, Source};
use std::time::{Duration, Instant};
use uuid::Uuid;

use super::channel_form::{self, about, kind_of, title};
use super::incident::{Try, outcome_class, state_of};
use super::inputs::{Control, Input, Problems, place};
use super::{Moment, Tabs, done, fixed, now_ms, ns, reach, too_many, yes_or_no};
use crate::AppState;
use crate::address::Address;
use crate::form::Form;
use crate::format;
use crate::pages::{Frame, PageError, render};

/// Attempts listed.
const ATTEMPTS_SHOWN: i64 = 100;

/// Who presses the test button wants to see what came of it: the answer waits so long for it. Longer
/// outcomes are seen by loading the page again.
const OUTCOME_WITHIN: Duration = Duration::from_secs(5);

/// How often it is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A channel's name: bytes at most, so that it fits into tables and messages.
const NAME_BYTES_MAX: usize = 60;

/// `GET /alerts/channels`; with `message` it tells what came of that one first.
///
/// # Errors
/// The database is away.
pub async fn page(
    State(state): State<AppState>,
    RawQuery(query): RawQuery,
) -> Result<Response, PageError> {
    let address = Address::parse(query.as_deref());
    let (store, now_ms) = (&state.store, now_ms());
    let message = address
        .get("message")
        .and_then(|it| Uuid::try_parse(it).ok());
    let backlog = store.outbox_backlog().await?;
    let channels = store.channels().await?;
    let tried = match message {
        Some(id) => Tried::load(store, id, now_ms).await?,
        None => None,
    };
    let attempts = store.latest_attempts(None, ATTEMPTS_SHOWN).await?;
    let dead = store.dead_messages().await?;
    let failing = store.failing_channels(now_ms).await?;
    let known = |channel: &String| channels.iter().any(|it| it.name == *channel);
    let stray = backlog.iter().filter(|it| !known(&it.channel));
    Ok(render(&Page {
        frame: Frame { current: "/alerts" },
        tabs: Tabs::new("/alerts/channels"),
        tried,
        stray: stray.map(|it| waiting(it, now_ms)).collect(),
        channels: channels
            .iter()
            .map(|it| {
                let gone = failing.iter().any(|on| on.gone && on.name == it.name);
                Row::new(it, &backlog, gone, now_ms)
            })
            .collect(),
        attempts: attempts
            .iter()
            .map(|it| AttemptRow::new(it, now_ms))
            .collect(),
        dead: dead.iter().map(|it| DeadRow::new(it, now_ms)).collect(),
        kinds: Kind::ALL.map(|it| (it.name(), title(it))).into(),
        json: "/api/v1/alert-channels",
    }))
}

/// `GET /alerts/channels/new?kind=slack`.
///
/// # Errors
/// There is no such kind.
pub async fn new(RawQuery(query): RawQuery) -> Result<Response, PageError> {
    let address = Address::parse(query.as_deref());
    let name = address.get("kind").unwrap_or("slack");
    let missing = || PageError::NotFound(format!("There is no kind of channel '{name}'."));
    let kind = kind_of(name).ok_or_else(missing)?;
    Ok(render(&Edit::new(
        kind,
        None,
        &Form::default(),
        &Problems::new(),
    )))
}

/// `GET /alerts/channels/edit?name=…`.
///
/// # Errors
/// There is no such channel, it is not people's, or the database is away.
pub async fn edit(
    State(state): State<AppState>,
    RawQuery(query): RawQuery,
) -> Result<Response, PageError> {
    let address = Address::parse(query.as_deref());
    let name = address.get("name").unwrap_or_default();
    let old = Old::find(&state.store, name).await?;
    let edit = Edit::new(old.kind, Some(&old), &Form::default(), &Problems::new());
    Ok(render(&edit))
}

/// `POST /alerts/channels/save`.
///
/// # Errors
/// There is no such channel, or the database takes no changes. What is wrong in the form is said in it.
pub async fn save(State(state): State<AppState>, body: String) -> Result<Response, PageError> {
    let form = Form::parse(&body);
    let old = match form.get("old") {
        "" => None,
        name => Some(Old::find(&state.store, name).await?),
    };
    let kind = match &old {
        Some(old) => old.kind,
        None => kind_of(form.get("kind"))
            .ok_or_else(|| PageError::refused("There is no such kind of channel.".into()))?,
    };
    let name = old
        .as_ref()
        .map_or(form.get("name"), |it| &it.name)
        .to_owned();
    let sent = |key: &str| form.get(key).to_owned();
    let wanted = Wanted {
        name: &name,
        kind,
        is_new: old.is_none(),
        enabled: old.as_ref().is_none_or(|it| it.enabled),
        author: form.author(),
    };
    let settings = old.as_ref().and_then(|it| it.settings.as_ref());
    match put(&state, &wanted, settings, sent).await? {
        None => Ok(Redirect::to("/alerts/channels").into_response()),
        Some(problems) => {
            let edit = Edit::new(kind, old.as_ref(), &form, &problems);
            Ok((StatusCode::UNPROCESSABLE_ENTITY, render(&edit)).into_response())
        }
    }
}

/// A channel as somebody wants it, without its settings.
pub struct Wanted<'a> {
    /// Names it.
    pub name: &'a str,
    /// What it is.
    pub kind: Kind,
    /// None of this name may be there.
    pub is_new: bool,
    /// Alerts go there.
    pub enabled: bool,
    /// Who.
    pub author: &'a str,
}

/// Opens a channel as a delivery would, and stores it; gives what speaks against it. `sent` gives the
/// settings by key; empty secrets stay as in `old`.
///
/// # Errors
/// The database takes no changes.
pub async fn put(
    state: &AppState,
    wanted: &Wanted<'_>,
    old: Option<&Settings>,
    sent: impl Fn(&str) -> String,
) -> Result<Option<Problems>, PageError> {
    let problem = |key: &str, text: String| Ok(Some(vec![(key.to_owned(), text)]));
    let settings = channel_form::settings(wanted.kind, old, sent);
    let named = check_name(wanted.name);
    let settings = match (settings, named) {
        (Ok(settings), Ok(())) => settings,
        (settings, named) => {
            let name = named.err().map(|it| ("name".to_owned(), it));
            let others = settings.err().unwrap_or_default();
            return Ok(Some(name.into_iter().chain(others).collect()));
        }
    };
    let channel = match Channel::open(wanted.name, &settings, &state.trust) {
        Ok(channel) => channel,
        Err(error) => return Ok(Some(about(wanted.kind, without_name(&error)))),
    };
    if wanted.is_new && state.store.channel(wanted.name).await?.is_some() {
        return problem("name", "There is a channel of this name already.".into());
    }
    let written = serde_json::to_value(&settings).map_err(anyhow::Error::from)?;
    let stored = NewChannel {
        name: wanted.name,
        kind: wanted.kind.name(),
        settings: &written,
        shown: &channel.shown(),
        enabled: wanted.enabled,
    };
    match state.store.put_channel(&stored, wanted.author).await? {
        Changed::Fixed(source) => problem("name", fixed("channel", source)),
        Changed::TooMany(most) => problem("", too_many("channel", most)),
        Changed::Done | Changed::Missing => Ok(None),
    }
}

/// What a channel may be called.
///
/// # Errors
/// It is empty, too long, or holds something that is no letter, digit, space or one of `._-`.
pub fn check_name(name: &str) -> Result<(), String> {
    let fits = |it: char| it.is_ascii_alphanumeric() || " ._-".contains(it);
    let begins = name.starts_with(|it: char| it.is_ascii_alphanumeric());
    if begins && name.len() <= NAME_BYTES_MAX && name.chars().all(fits) && name.trim() == name {
        return Ok(());
    }
    Err(format!(
        "A name has 1 to {NAME_BYTES_MAX} letters, digits, spaces or ._- and begins with a letter or digit."
    ))
}

/// `the slack channel "ops": …` stands beside a form that says so already.
fn without_name(error: &str) -> &str {
    error.split_once("\": ").map_or(error, |it| it.1)
}

/// `POST /alerts/channels/enable`.
///
/// # Errors
/// There is no such channel, or the database takes no changes.
pub async fn enable(State(state): State<AppState>, body: String) -> Result<Response, PageError> {
    let form = Form::parse(&body);
    let name = form.get("name");
    let enabled = yes_or_no("enabled", form.get("enabled"))?;
    let changed = state
        .store
        .enable_channel(name, enabled, form.author())
        .await?;
    done(changed, "channel", name)?;
    Ok(Redirect::to("/alerts/channels").into_response())
}

/// `POST /alerts/channels/delete`.
///
/// # Errors
/// There is no such channel, it is not people's, or the database takes no changes.
pub async fn delete(State(state): State<AppState>, body: String) -> Result<Response, PageError> {
    let form = Form::parse(&body);
    let name = form.get("name");
    if let Some(why) = reach::needed(&state.store, name).await? {
        return Err(PageError::conflict(why));
    }
    let changed = state.store.delete_channel(name, form.author()).await?;
    done(changed, "channel", name)?;
    Ok(Redirect::to("/alerts/channels").into_response())
}

/// `POST /alerts/channels/test`: queues a message, waits a moment, and shows what came of it.
///
/// # Errors
/// There is no such channel, or the database takes no changes.
pub async fn test(State(state): State<AppState>, body: String) -> Result<Response, PageError> {
    let form = Form::parse(&body);
    let id = queue_test(&state.store, form.get("name"), form.author()).await?;
    outcome(&state.store, id).await?;
    Ok(Redirect::to(&format!("/alerts/channels?message={id}")).into_response())
}

/// Queues a test message for a channel that there is.
///
/// # Errors
/// There is none, or the database takes no changes.
pub async fn queue_test(store: &Store, name: &str, author: &str) -> Result<Uuid, PageError> {
    if store.channel(name).await?.is_none() {
        return Err(PageError::NotFound(format!(
            "There is no channel '{name}'."
        )));
    }
    Ok(store.queue_test(name, author, now_ms()).await?)
}

/// Waits until a message was tried, or long enough.
///
/// # Errors
/// The database is away.
pub async fn outcome(store: &Store, id: Uuid) -> Result<Vec<Attempt>, PageError> {
    let since = Instant::now();
    loop {
        let attempts = store.attempts_of(&[id]).await?;
        if !attempts.is_empty() || since.elapsed() > OUTCOME_WITHIN {
            return Ok(attempts);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// `POST /alerts/channels/replay`: a message that was given up is tried again.
///
/// # Errors
/// There is no such message, it makes no sense any more, or the database takes no changes.
pub async fn replay(State(state): State<AppState>, body: String) -> Result<Response, PageError> {
    let form = Form::parse(&body);
    let missing = || {
        PageError::NotFound(
            "There is no such message that was given up, or it waits again already.".into(),
        )
    };
    let id = Uuid::try_parse(form.get("message")).map_err(|_| missing())?;
    match state.store.replay(id, form.author()).await? {
        Replayed::Queued(id) => {
            outcome(&state.store, id).await?;
            Ok(Redirect::to(&format!("/alerts/channels?message={id}")).into_response())
        }
        Replayed::Missing => Err(missing()),
        Replayed::Over => Err(PageError::refused(
            "The receiver was told meanwhile that this is over; told again that it fires, it would \
             believe so for ever."
                .into(),
        )),
    }
}

/// `POST /alerts/channels/dismiss`: a message that was given up goes from the list.
///
/// # Errors
/// There is no such message, or the database takes no changes.
pub async fn dismiss(State(state): State<AppState>, body: String) -> Result<Response, PageError> {
    let form = Form::parse(&body);
    let name = form.get("message");
    let changed = match Uuid::try_parse(name) {
        Ok(id) => state.store.dismiss_message(id, form.author()).await?,
        Err(_) => Changed::Missing,
    };
    done(changed, "message that was given up", name)?;
    Ok(Redirect::to("/alerts/channels").into_response())
}

/// A channel of people's as it is.
pub struct Old {
    name: String,
    kind: Kind,
    enabled: bool,
    /// `None` if this program cannot read them.
    settings: Option<Settings>,
}

impl Old {
    /// Finds one that people may change.
    ///
    /// # Errors
    /// There is none, or it is not people's.
    pub async fn find(store: &Store, name: &str) -> Result<Old, PageError> {
        let missing = || PageError::NotFound(format!("There is no channel '{name}'."));
        let stored = store.channel(name).await?.ok_or_else(missing)?;
        if stored.source() != Source::Ui {
            return Err(PageError::refused(fixed("channel", stored.source())));
        }
        Ok(Old {
            kind: kind_of(&stored.kind).ok_or_else(missing)?,
            settings: channel_form::stored(&stored),
            name: stored.name,
            enabled: stored.enabled,
        })
    }
}

#[derive(Template)]
#[template(path = "alerts/channels.html")]
struct Page {
    frame: Frame,
    tabs: Tabs,
    tried: Option<Tried>,
    channels: Vec<Row>,
    /// What waits for channels that there are not.
    stray: Vec<(String, String)>,
    attempts: Vec<AttemptRow>,
    dead: Vec<DeadRow>,
    /// Kinds to add: id, name.
    kinds: Vec<(&'static str, &'static str)>,
    json: &'static str,
}

/// What came of the message that somebody has just sent.
struct Tried {
    channel: String,
    what: &'static str,
    words: String,
    class: &'static str,
    tries: Vec<Try>,
    /// Nothing came of it yet.
    waits: bool,
    link: String,
}

impl Tried {
    async fn load(store: &Store, id: Uuid, now_ms: i64) -> Result<Option<Tried>, PageError> {
        let Some(message) = store.shown_message(id).await? else {
            return Ok(None);
        };
        let attempts = store.attempts_of(&[id]).await?;
        Ok(Some(Tried {
            what: match message.event.as_str() {
                "test" => "The test message",
                _ => "The message that was sent again",
            },
            words: state_of(&message, now_ms),
            class: match (message.delivered_ms, attempts.is_empty()) {
                (Some(_), _) => "good",
                (None, true) => "",
                (None, false) => "err",
            },
            waits: message.delivered_ms.is_none() && message.dead_ms.is_none(),
            tries: attempts.iter().map(|it| Try::new(it, now_ms)).collect(),
            channel: message.channel,
            link: format!("/alerts/channels?message={id}"),
        }))
    }
}

/// A channel in the list.
struct Row {
    name: String,
    kind: String,
    shown: String,
    source: &'static str,
    by: String,
    /// well, failing, paused, off, untried.
    state: &'static str,
    class: &'static str,
    enabled: bool,
    success: Option<Moment>,
    failures: i32,
    paused: Option<Moment>,
    error: Option<String>,
    /// Messages that wait, and since when.
    waiting: Option<String>,
    editable: bool,
    edit: String,
}

impl Row {
    fn new(it: &StoredChannel, backlog: &[Backlog], gone: bool, now_ms: i64) -> Row {
        let people = it.source() == Source::Ui;
        let paused = it.paused_until_ms.filter(|until| *until > now_ms);
        let (state, class) = match (it.enabled, paused, it.failures, it.last_success_ms) {
            (false, ..) if gone => ("switched off by its receiver", "err"),
            (false, ..) => ("off", ""),
            (_, Some(_), ..) => ("paused", "err"),
            (_, _, 1.., _) => ("failing", "warn"),
            (_, _, _, Some(_)) => ("well", "good"),
            _ => ("not used yet", ""),
        };
        let waits = backlog.iter().find(|waits| waits.channel == it.name);
        Row {
            name: it.name.clone(),
            kind: kind_of(&it.kind).map_or_else(|| it.kind.clone(), |it| title(it).to_owned()),
            // It says the kind first, which has a column of its own.
            shown: it
                .shown
                .strip_prefix(&format!("{} ", it.kind))
                .unwrap_or(&it.shown)
                .to_owned(),
            source: if people {
                "made here"
            } else {
                it.source().name()
            },
            by: it.changed_by.clone(),
            state,
            class,
            enabled: it.enabled,
            success: it.last_success_ms.map(|at| Moment::new(at, now_ms)),
            failures: it.failures,
            paused: paused.map(|until| Moment::new(until, now_ms)),
            error: it.last_error.clone(),
            waiting: waits.map(|it| waiting(it, now_ms).1),
            editable: people,
            edit: Address::default().with(&[("name", &it.name)]),
        }
    }
}

/// The channel, and `3 messages wait, the oldest since 4 min ago`.
fn waiting(backlog: &Backlog, now_ms: i64) -> (String, String) {
    let oldest = Moment::new(backlog.oldest_ms, now_ms).words;
    let words = match backlog.messages {
        1 => format!("1 message waits, queued {oldest}"),
        it => format!(
            "{} messages wait, the oldest queued {oldest}",
            format::count(it)
        ),
    };
    (backlog.channel.clone(), words)
}

/// A try in the history.
struct AttemptRow {
    at: String,
    exact: String,
    channel: String,
    event: String,
    title: String,
    attempt: i32,
    outcome: String,
    class: &'static str,
    took: String,
    detail: String,
}

impl AttemptRow {
    fn new(it: &Attempt, now_ms: i64) -> AttemptRow {
        AttemptRow {
            at: format::when(ns(it.at_ms), ns(now_ms)),
            exact: format::at(ns(it.at_ms)),
            channel: it.channel.clone(),
            event: it.event.clone(),
            title: it.title.clone(),
            attempt: it.attempt,
            outcome: it.outcome.clone(),
            class: outcome_class(&it.outcome),
            took: format::duration(ns(i64::from(it.took_ms))),
            detail: it.detail.clone(),
        }
    }
}

/// A message that was given up.
struct DeadRow {
    id: String,
    channel: String,
    event: String,
    title: String,
    /// Its first incident's page.
    incident: Option<String>,
    queued: Moment,
    given_up: Moment,
    attempts: i32,
    error: String,
    replayed: bool,
}

impl DeadRow {
    fn new(it: &ShownMessage, now_ms: i64) -> DeadRow {
        DeadRow {
            id: it.id.to_string(),
            channel: it.channel.clone(),
            event: it.event.clone(),
            title: it.title.clone(),
            incident: it.incidents.first().map(|it| format!("/alerts/{it}")),
            queued: Moment::new(it.created_ms, now_ms),
            given_up: Moment::new(it.dead_ms.unwrap_or_default(), now_ms),
            attempts: it.attempts,
            error: it.last_error.clone().unwrap_or_default(),
            replayed: it.replayed,
        }
    }
}

#[derive(Template)]
#[template(path = "alerts/channel.html")]
struct Edit {
    frame: Frame,
    tabs: Tabs,
    title: String,
    kind: &'static str,
    /// The other kinds, while it is new: link, name, chosen.
    kinds: Vec<(String, &'static str, bool)>,
    /// The name of the channel that is changed.
    old: Option<String>,
    inputs: Vec<Input>,
    /// What is wrong with the whole.
    problems: Vec<String>,
}

impl Edit {
    /// A form. Secrets that were sent are not sent back.
    fn new(kind: Kind, old: Option<&Old>, sent: &Form, problems: &Problems) -> Edit {
        let mut inputs = Vec::new();
        if old.is_none() {
            let name = Input::text("name", "Name", sent.get("name")).required();
            inputs.push(name.hint("Rules choose channels by it."));
        }
        let is_sent = !problems.is_empty();
        let filled = |key: &str| is_sent.then(|| sent.get(key).to_owned());
        let settings = old.and_then(|it| it.settings.as_ref());
        inputs.extend(channel_form::inputs(kind, settings, filled));
        inputs.push(Input::text("author", "Your name", sent.author()).hint("For the history."));
        Edit {
            frame: Frame { current: "/alerts" },
            tabs: Tabs::new("/alerts/channels"),
            title: match old {
                Some(old) => old.name.clone(),
                None => format!("A new channel: {}", title(kind)),
            },
            kind: kind.name(),
            kinds: match old {
                Some(_) => Vec::new(),
                None => Kind::ALL
                    .map(|it| {
                        let link = format!("/alerts/channels/new?kind={}", it.name());
                        (link, title(it), it == kind)
                    })
                    .into(),
            },
            old: old.map(|it| it.name.clone()),
            problems: place(&mut inputs, problems),
            inputs,
        }
    }
}
