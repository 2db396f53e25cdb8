//! What is worth an alert: every rule as its sentence, and forms to write one.

use askama::Template;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use collector::alert::defaults;
use collector::alert::rule::Rule;
use collector::store::Store;
use collector::store::rules::{Changed, Source, StoredRule};

use super::inputs::{Control, Input, Problems, place, sentence};
use super::rule_form::{KINDS, RuleForm, kind};
use super::{Moment, Tabs, done, fixed, now_ms, reach, too_many, yes_or_no};
use crate::AppState;
use crate::address::Address;
use crate::form::Form;
use crate::format;
use crate::pages::{Frame, PageError, render};

/// `GET /alerts/rules`.
///
/// # Errors
/// The database is away.
pub async fn page(State(state): State<AppState>) -> Result<Response, PageError> {
    let now_ms = now_ms();
    let rules = state.store.rules().await?;
    let channels = state.store.channels().await?;
    Ok(render(&Page {
        frame: Frame { current: "/alerts" },
        tabs: Tabs::new("/alerts/rules"),
        gaps: reach::gaps(&state.store.enabled_rules().await?.0, &channels),
        has_channels: channels.iter().any(|it| it.enabled),
        rules: rules.iter().map(|it| Row::new(it, now_ms)).collect(),
    }))
}

/// `GET /alerts/rules/new?when=threshold`.
///
/// # Errors
/// The database is away.
pub async fn new(
    State(state): State<AppState>,
    RawQuery(query): RawQuery,
) -> Result<Response, PageError> {
    let address = Address::parse(query.as_deref());
    let mut form = RuleForm::new(address.get("when").unwrap_or_default());
    // Links from an endpoint's page bring it along.
    for key in ["service", "endpoint", "measure", "above"] {
        if let Some(value) = address.get(key) {
            form.fill(key, value);
        }
    }
    let edit = Edit::new(&state.store, &form, None, &Problems::new(), "").await?;
    Ok(render(&edit))
}

/// `GET /alerts/rules/edit?name=…`: names may hold anything, so they are no part of the path.
///
/// # Errors
/// There is no such rule, it is the file's, or the database is away.
pub async fn edit(
    State(state): State<AppState>,
    RawQuery(query): RawQuery,
) -> Result<Response, PageError> {
    let address = Address::parse(query.as_deref());
    let name = address.get("name").unwrap_or_default();
    let stored = find(&state.store, name).await?;
    let form = RuleForm::of(&stored.rule);
    let edit = Edit::new(&state.store, &form, Some(&stored), &Problems::new(), "").await?;
    Ok(render(&edit))
}

async fn find(store: &Store, name: &str) -> Result<StoredRule, PageError> {
    let rules = store.rules().await?;
    let found = rules.into_iter().find(|it| it.rule.name == name);
    found.ok_or_else(|| PageError::NotFound(format!("There is no rule '{name}'.")))
}

/// `POST /alerts/rules/save`.
///
/// # Errors
/// There is no such rule, or the database takes no changes. What is wrong in the form is said in it.
pub async fn save(State(state): State<AppState>, body: String) -> Result<Response, PageError> {
    let sent = Form::parse(&body);
    let form = RuleForm::read(&sent);
    let stored = match sent.get("old") {
        "" => None,
        name => Some(find(&state.store, name).await?),
    };
    let problems = match form.rule() {
        Ok(rule) => match put(&state.store, &rule, stored.as_ref(), sent.author()).await? {
            None => return Ok(Redirect::to("/alerts/rules").into_response()),
            Some(problem) => problem,
        },
        Err(problems) => problems,
    };
    let author = sent.author();
    let edit = Edit::new(&state.store, &form, stored.as_ref(), &problems, author).await?;
    Ok((StatusCode::UNPROCESSABLE_ENTITY, render(&edit)).into_response())
}

/// Stores a rule; gives what speaks against it.
async fn put(
    store: &Store,
    rule: &Rule,
    stored: Option<&StoredRule>,
    author: &str,
) -> Result<Option<Problems>, PageError> {
    let problem = |key: &str, text: String| Ok(Some(vec![(key.to_owned(), text)]));
    if stored.is_none() {
        let rules = store.rules().await?;
        if rules.iter().any(|it| it.rule.name == rule.name) {
            return problem("name", "There is a rule of this name already.".into());
        }
    }
    if let Some(text) = reach::unknown(rule, &store.channels().await?) {
        return problem("channels", text);
    }
    let enabled = stored.is_none_or(|it| it.enabled);
    match store.put_rule(rule, enabled, author).await? {
        Changed::Fixed(source) => problem("", fixed("rule", source)),
        Changed::TooMany(most) => problem("", too_many("rule", most)),
        Changed::Done | Changed::Missing => Ok(None),
    }
}

/// `POST /alerts/rules/enable`.
///
/// # Errors
/// There is no such rule, it is the file's, or the database takes no changes.
pub async fn enable(State(state): State<AppState>, body: String) -> Result<Response, PageError> {
    let form = Form::parse(&body);
    let name = form.get("name");
    let enabled = yes_or_no("enabled", form.get("enabled"))?;
    let changed = state
        .store
        .enable_rule(name, enabled, form.author())
        .await?;
    done(changed, "rule", name)?;
    Ok(Redirect::to("/alerts/rules").into_response())
}

/// `POST /alerts/rules/delete`: a built-in rule that people changed is as it was again.
///
/// # Errors
/// There is no such rule, it is not people's, or the database takes no changes.
pub async fn delete(State(state): State<AppState>, body: String) -> Result<Response, PageError> {
    let form = Form::parse(&body);
    let name = form.get("name");
    let changed = state
        .store
        .delete_rule(name, built_in(name).as_ref(), form.author())
        .await?;
    done(changed, "rule", name)?;
    Ok(Redirect::to("/alerts/rules").into_response())
}

/// The built-in rule of a name.
pub fn built_in(name: &str) -> Option<Rule> {
    defaults::rules().into_iter().find(|it| it.name == name)
}

#[derive(Template)]
#[template(path = "alerts/rules.html")]
struct Page {
    frame: Frame,
    tabs: Tabs,
    rules: Vec<Row>,
    /// Somebody would be told.
    has_channels: bool,
    /// Rules that name channels that there are not.
    gaps: Vec<String>,
}

impl Page {
    fn kinds(&self) -> [(&'static str, &'static str); 3] {
        KINDS
    }
}

/// A rule in the list.
struct Row {
    name: String,
    sentence: String,
    /// Severity of its alerts, channels, reminders: what the sentence leaves out.
    asides: Vec<String>,
    channels: Vec<String>,
    source: &'static str,
    /// The file's path, or who changed it.
    by: String,
    changed: Moment,
    enabled: bool,
    editable: bool,
    /// What taking it away does: delete, reset; empty if that is not possible.
    removable: &'static str,
    edit: String,
}

impl Row {
    fn new(stored: &StoredRule, now_ms: i64) -> Row {
        let rule = &stored.rule;
        let (people, file) = (stored.source == Source::Ui, stored.source == Source::File);
        let replaces = people && built_in(&rule.name).is_some();
        Row {
            name: rule.name.clone(),
            sentence: sentence(&rule.to_string()),
            asides: asides(rule),
            channels: rule.channels.clone(),
            source: match stored.source {
                Source::Ui if replaces => "changed here",
                Source::Ui => "made here",
                other => other.name(),
            },
            by: stored.changed_by.clone(),
            changed: Moment::new(stored.changed_ms, now_ms),
            enabled: stored.enabled,
            editable: !file,
            removable: match (people, replaces) {
                (true, true) => "Reset",
                (true, false) => "Delete",
                _ => "",
            },
            edit: Address::default().with(&[("name", &rule.name)]),
        }
    }
}

fn asides(rule: &Rule) -> Vec<String> {
    let time = |seconds: u32| format::duration(u64::from(seconds) * 1_000_000_000);
    let mut asides = Vec::new();
    if let Some(severity) = rule.severity {
        asides.push(format!("severity {}", severity.name()));
    }
    if rule.keep_firing_seconds > 0 {
        asides.push(format!("resolved after {}", time(rule.keep_firing_seconds)));
    }
    if rule.repeat_seconds > 0 {
        asides.push(format!("told again every {}", time(rule.repeat_seconds)));
    }
    asides
}

#[derive(Template)]
#[template(path = "alerts/rule.html")]
struct Edit {
    frame: Frame,
    tabs: Tabs,
    title: String,
    /// The kind, which a form keeps.
    when: String,
    /// The other kinds, while it is new: link, words, chosen.
    kinds: Vec<(String, &'static str, bool)>,
    /// The name of the rule that is changed.
    old: Option<String>,
    /// It is the program's; to change it makes it people's.
    is_built_in: bool,
    inputs: Vec<Input>,
    /// What is wrong with the whole.
    problems: Vec<String>,
}

impl Edit {
    async fn new(
        store: &Store,
        form: &RuleForm,
        stored: Option<&StoredRule>,
        problems: &Problems,
        author: &str,
    ) -> Result<Edit, PageError> {
        if stored.is_some_and(|it| it.source == Source::File) {
            return Err(PageError::refused(fixed("rule", Source::File)));
        }
        let channels = store.channels().await?;
        let channels: Vec<String> = channels.into_iter().map(|it| it.name).collect();
        let mut inputs = form.inputs(&channels, stored.is_none());
        inputs.push(Input::text("author", "Your name", author).hint("For the history."));
        let problems = place(&mut inputs, problems);
        let when = match stored {
            Some(stored) => kind(&stored.rule),
            None => KINDS
                .iter()
                .find(|it| it.0 == form.get("when"))
                .map_or("threshold", |it| it.0),
        };
        let link = |id: &str| format!("/alerts/rules/new?when={id}");
        Ok(Edit {
            frame: Frame { current: "/alerts" },
            tabs: Tabs::new("/alerts/rules"),
            title: match stored {
                Some(stored) => stored.rule.name.clone(),
                None => "A new rule".into(),
            },
            when: when.to_owned(),
            kinds: match stored {
                Some(_) => Vec::new(),
                None => KINDS
                    .map(|(id, words)| (link(id), words, id == when))
                    .into(),
            },
            old: stored.map(|it| it.rule.name.clone()),
            is_built_in: stored.is_some_and(|it| it.source == Source::BuiltIn),
            inputs,
            problems,
        })
    }
}
