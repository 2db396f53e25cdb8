//! Times in which nobody wants to hear: the list, and a form to make one.

use askama::Template;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use collector::alert::silence::covers;
use collector::store::alerts_shown::{Incident, IncidentFilter};
use collector::store::rules::Changed;
use collector::store::silences::{Matcher, Silence, SilenceKind};
use uuid::Uuid;

use super::inputs::{Control, Input, Problems, place};
use super::{Moment, Tabs, done, lasted, now_ms, ns, too_many};
use crate::AppState;
use crate::address::Address;
use crate::form::Form;
use crate::format;
use crate::pages::{Frame, PageError, render};
use crate::time_span;
use crate::timestamps;

/// Matchers of a silence: alerts have fewer labels.
const MATCHERS_MAX: usize = 10;

/// Bytes of a label or a pattern: longer ones match nothing.
const TEXT_BYTES_MAX: usize = 200;

/// Bytes of a comment: it stands in a table.
const COMMENT_BYTES_MAX: usize = 500;

/// The longest silence: what nobody wants to hear for longer is a rule to be disabled.
const LASTS_MS_MAX: i64 = 90 * 86_400_000;

/// A silence may begin so far ahead.
const AHEAD_MS_MAX: i64 = 365 * 86_400_000;

/// Labels that a silence can be about; more are a slip that would match nothing.
const LABELS: [&str; 9] = [
    "alertname",
    "service",
    "namespace",
    "environment",
    "endpoint",
    "kind",
    "severity",
    "finding",
    "statement",
];

/// Labels that tell one alert of a thing from another: what a prefilled form asks for.
const IDENTIFYING: [&str; 5] = ["alertname", "service", "environment", "endpoint", "kind"];

/// `GET /alerts/silences`; with `incident` the form is filled in for it.
///
/// # Errors
/// The database is away.
pub async fn page(
    State(state): State<AppState>,
    RawQuery(query): RawQuery,
) -> Result<Response, PageError> {
    let address = Address::parse(query.as_deref());
    let mut wish = Wish {
        lasts: "2h".into(),
        ..Wish::default()
    };
    let incident = address
        .get("incident")
        .and_then(|it| Uuid::try_parse(it).ok());
    if let Some(id) = incident
        && let Some(incident) = state.store.incident(id).await?
    {
        let labels = IDENTIFYING.iter().filter_map(|key| {
            let value = incident.labels.get(*key).filter(|it| !it.is_empty())?;
            Some(format!("{key}={value}"))
        });
        wish.matchers = labels.collect::<Vec<_>>().join("\n");
    }
    let mut page = Page::load(&state, &wish, &Problems::new()).await?;
    let made = address.get("made").unwrap_or_default();
    page.made = page
        .coming
        .iter()
        .find(|it| it.id == made)
        .map(|it| it.matches.clone());
    Ok(render(&page))
}

/// `POST /alerts/silences/add`.
///
/// # Errors
/// The database takes no changes. What is wrong in the form is said in it.
pub async fn add(State(state): State<AppState>, body: String) -> Result<Response, PageError> {
    let wish = Wish::read(&Form::parse(&body));
    let problems = match wish.silence(Uuid::now_v7(), now_ms()) {
        Ok(silence) => match state.store.add_silence(&silence).await? {
            Changed::TooMany(most) => vec![(String::new(), too_many("silence", most))],
            _ => {
                let made = format!("/alerts/silences?made={}", silence.id);
                return Ok(Redirect::to(&made).into_response());
            }
        },
        Err(problems) => problems,
    };
    let page = Page::load(&state, &wish, &problems).await?;
    Ok((StatusCode::UNPROCESSABLE_ENTITY, render(&page)).into_response())
}

/// `POST /alerts/silences/{id}/end`.
///
/// # Errors
/// There is no such silence, it is over, or the database takes no changes.
pub async fn end(
    State(state): State<AppState>,
    Path(id): Path<String>,
    body: String,
) -> Result<Response, PageError> {
    let form = Form::parse(&body);
    let author = match form.author() {
        "" => "somebody",
        name => name,
    };
    let missing = |_| PageError::NotFound(format!("There is no silence '{id}'."));
    let id = Uuid::try_parse(&id).map_err(missing)?;
    let ended = state.store.end_silence(id, now_ms(), author).await?;
    done(ended, "silence", &id.to_string())?;
    Ok(Redirect::to("/alerts/silences").into_response())
}

/// A silence that somebody wants, as they wrote it.
#[derive(Clone, Default)]
pub struct Wish {
    /// `maintenance`, else a silence.
    pub kind: String,
    /// A line each: `service=shop*`.
    pub matchers: String,
    /// UTC; empty: now.
    pub starts: String,
    /// UTC; empty: as long as `lasts`.
    pub ends: String,
    /// `2h`
    pub lasts: String,
    /// Who.
    pub author: String,
    /// Why.
    pub comment: String,
}

impl Wish {
    fn read(form: &Form) -> Wish {
        let text = |key: &str| form.get(key).to_owned();
        Wish {
            kind: text("kind"),
            matchers: text("matchers"),
            starts: text("starts"),
            ends: text("ends"),
            lasts: text("lasts"),
            author: form.author().to_owned(),
            comment: text("comment"),
        }
    }

    /// The silence that is wanted, at `now_ms`.
    ///
    /// # Errors
    /// What is missing or cannot be read, by field.
    pub fn silence(&self, id: Uuid, now_ms: i64) -> Result<Silence, Problems> {
        let mut problems = Problems::new();
        let mut say = |key: &str, text: String| problems.push((key.to_owned(), text));
        let matchers = self.matchers().unwrap_or_else(|problem| {
            say("matchers", problem);
            Vec::new()
        });
        const WRITTEN: &str = "Write a time in UTC, such as 2026-11-21T20:00.";
        let starts_ms = match self.starts.as_str() {
            "" => now_ms,
            text => timestamps::lenient_ms(text).unwrap_or_else(|| {
                say("starts", WRITTEN.into());
                now_ms
            }),
        };
        if starts_ms > now_ms + AHEAD_MS_MAX {
            say("starts", "This is more than a year ahead.".into());
        }
        // What has begun begins now: nobody can be silent afterwards.
        let starts_ms = starts_ms.max(now_ms);
        let ends_ms = match (self.ends.as_str(), time_span::parse_seconds(&self.lasts)) {
            ("", None) => {
                say(
                    "lasts",
                    "Write a number and a unit, such as 30m, 2h or 1d.".into(),
                );
                None
            }
            ("", Some(seconds)) => i64::try_from(seconds)
                .ok()
                .and_then(|it| starts_ms.checked_add(it.checked_mul(1_000)?)),
            (text, _) => {
                let ends_ms = timestamps::lenient_ms(text);
                if ends_ms.is_none() {
                    say("ends", WRITTEN.into());
                }
                ends_ms
            }
        };
        let ends_ms = ends_ms.unwrap_or(i64::MAX);
        let key = if self.ends.is_empty() {
            "lasts"
        } else {
            "ends"
        };
        if ends_ms <= starts_ms {
            say(key, "It would end before it begins.".into());
        } else if ends_ms != i64::MAX && ends_ms - starts_ms > LASTS_MS_MAX {
            let days = LASTS_MS_MAX / 86_400_000;
            say(
                key,
                format!("At most {days} days; disable the rule for longer."),
            );
        }
        if self.author.is_empty() {
            say("author", "Say who you are: others will ask.".into());
        }
        if self.comment.is_empty() {
            say("comment", "Say why: others will ask.".into());
        } else if self.comment.len() > COMMENT_BYTES_MAX {
            say("comment", format!("At most {COMMENT_BYTES_MAX} bytes."));
        }
        if !["", "silence", "maintenance"].contains(&self.kind.as_str()) {
            say("kind", "It is silence or maintenance.".into());
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        if ends_ms == i64::MAX {
            return Err(vec![(key.into(), "This is too long.".into())]);
        }
        Ok(Silence {
            id,
            kind: match self.kind.as_str() {
                "maintenance" => SilenceKind::Maintenance,
                _ => SilenceKind::Silence,
            },
            matchers,
            starts_ms,
            ends_ms,
            author: self.author.clone(),
            comment: self.comment.clone(),
            created_ms: now_ms,
            ended_by: None,
        })
    }

    fn matchers(&self) -> Result<Vec<Matcher>, String> {
        let lines = self
            .matchers
            .lines()
            .map(str::trim)
            .filter(|it| !it.is_empty());
        let matchers: Option<Vec<Matcher>> = lines
            .map(|line| {
                let (label, value) = line.split_once('=')?;
                Some(Matcher {
                    label: label.trim().to_owned(),
                    value: value.trim().to_owned(),
                })
            })
            .collect();
        let matchers =
            matchers.ok_or("Write a line each, such as service=shop* or alertname=Slower.")?;
        check_matchers(&matchers)?;
        Ok(matchers)
    }
}

/// What matchers can mean.
///
/// # Errors
/// There are none or too many, one is empty or too long, or they match everything.
pub fn check_matchers(matchers: &[Matcher]) -> Result<(), String> {
    if matchers.is_empty() {
        return Err("At least one is needed: nobody wants to silence everything.".into());
    }
    if matchers.len() > MATCHERS_MAX {
        return Err(format!("At most {MATCHERS_MAX}."));
    }
    let fits = |text: &str| {
        !text.is_empty() && text.len() <= TEXT_BYTES_MAX && !text.contains(char::is_control)
    };
    for it in matchers {
        if !fits(&it.label) || !fits(&it.value) {
            return Err(format!(
                "Labels and patterns have 1 to {TEXT_BYTES_MAX} bytes."
            ));
        }
    }
    if let Some(it) = matchers.iter().find(|it| !LABELS.contains(&&*it.label)) {
        return Err(format!(
            "No alert has the label '{}'. Labels are {}.",
            it.label,
            LABELS.join(", ")
        ));
    }
    if matchers
        .iter()
        .all(|it| it.value.bytes().all(|it| it == b'*'))
    {
        return Err("These match every alert: name a service, an endpoint or a rule.".into());
    }
    Ok(())
}

/// How many of the alerts that fire have a silence's labels, whether it holds yet or not.
pub fn matched(silence: &Silence, live: &[Incident]) -> usize {
    let firing = live.iter().filter(|it| it.state == "firing");
    firing
        .filter(|it| covers(silence, &it.labels, it.severity, silence.starts_ms))
        .count()
}

fn matches_in_words(number: usize) -> String {
    match number {
        0 => "matches no alert that fires now".into(),
        1 => "matches 1 alert that fires now".into(),
        many => format!("matches {many} alerts that fire now"),
    }
}

#[derive(Template)]
#[template(path = "alerts/silences.html")]
struct Page {
    frame: Frame,
    tabs: Tabs,
    /// Those that hold or will.
    coming: Vec<Row>,
    /// Those that are over.
    over: Vec<Row>,
    inputs: Vec<Input>,
    /// What is wrong with the whole.
    problems: Vec<String>,
    /// Now, for those who count in another zone.
    now: String,
    json: &'static str,
    /// What the silence that was just made matches.
    made: Option<String>,
}

/// A silence in the list.
struct Row {
    id: String,
    /// It holds now.
    holds: bool,
    kind: &'static str,
    matchers: Vec<String>,
    /// How many alerts that fire now it matches, in words.
    matches: String,
    starts: Moment,
    ends: Moment,
    lasts: String,
    author: String,
    comment: String,
    ended_by: Option<String>,
}

impl Row {
    fn new(silence: Silence, live: &[Incident], now_ms: i64) -> Row {
        let matcher = |it: &Matcher| format!("{}={}", it.label, it.value);
        Row {
            id: silence.id.to_string(),
            matches: matches_in_words(matched(&silence, live)),
            holds: silence.starts_ms <= now_ms,
            kind: silence.kind.name(),
            matchers: silence.matchers.iter().map(matcher).collect(),
            starts: Moment::new(silence.starts_ms, now_ms),
            ends: Moment::new(silence.ends_ms, now_ms),
            lasts: lasted(silence.starts_ms, silence.ends_ms),
            author: silence.author,
            comment: silence.comment,
            ended_by: silence.ended_by,
        }
    }
}

impl Page {
    async fn load(state: &AppState, wish: &Wish, problems: &Problems) -> Result<Page, PageError> {
        let now_ms = now_ms();
        let live = state
            .store
            .live_incidents(&IncidentFilter::default())
            .await?;
        let row = |it: Silence| Row::new(it, &live, now_ms);
        let coming = state.store.unended_silences(now_ms).await?;
        let over = state.store.expired_silences(now_ms).await?;
        let mut inputs = inputs(wish);
        let problems = place(&mut inputs, problems);
        Ok(Page {
            frame: Frame { current: "/alerts" },
            tabs: Tabs::new("/alerts/silences"),
            coming: coming.into_iter().map(row).collect(),
            over: over.into_iter().map(row).collect(),
            inputs,
            problems,
            now: format::day_and_minute(ns(now_ms)),
            json: "/api/v1/silences",
            made: None,
        })
    }
}

fn inputs(wish: &Wish) -> Vec<Input> {
    let kinds = [
        ("silence", "silence: it is known"),
        ("maintenance", "maintenance: alerts are to be expected"),
    ];
    vec![
        Input::text("matchers", "Alerts with all of these labels", &wish.matchers)
            .hint("A line each, label=pattern; * matches anything. Labels: alertname (the rule), service, environment, endpoint, kind, severity.")
            .placeholder("service=shop*")
            .control(Control::Area)
            .required(),
        Input::select("kind", "Kind", &wish.kind, &kinds),
        Input::text("starts", "Starts, UTC", &wish.starts)
            .hint("Now, unless you say when.")
            .control(Control::Moment),
        Input::text("lasts", "Lasts", &wish.lasts).hint("30m, 2h, 1d."),
        Input::text("ends", "or ends, UTC", &wish.ends)
            .hint("Goes over “Lasts”.")
            .control(Control::Moment),
        Input::text("author", "Your name", &wish.author).required(),
        Input::text("comment", "Why", &wish.comment).required(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000_000;

    fn wish() -> Wish {
        Wish {
            matchers: "service=shop*\n\n alertname = Slower ".into(),
            lasts: "2h".into(),
            author: "Ann".into(),
            comment: "known".into(),
            ..Wish::default()
        }
    }

    fn problem(wish: Wish) -> (String, String) {
        let mut problems = wish.silence(Uuid::nil(), NOW).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:?}");
        problems.remove(0)
    }

    #[test]
    fn a_silence_begins_now_and_lasts_as_long_as_is_said() {
        let silence = wish().silence(Uuid::nil(), NOW).unwrap();
        assert_eq!((silence.starts_ms, silence.ends_ms), (NOW, NOW + 7_200_000));
        let matchers: Vec<_> = silence
            .matchers
            .iter()
            .map(|it| (&*it.label, &*it.value))
            .collect();
        assert_eq!(matchers, [("service", "shop*"), ("alertname", "Slower")]);
        let planned = Wish {
            starts: "2023-11-15T00:00".into(),
            ends: "2023-11-15T06:00".into(),
            kind: "maintenance".into(),
            ..wish()
        };
        let planned = planned.silence(Uuid::nil(), NOW).unwrap();
        assert_eq!(planned.ends_ms - planned.starts_ms, 6 * 3_600_000);
        assert_eq!(planned.kind, SilenceKind::Maintenance);
        // The past is over.
        let past = Wish {
            starts: "2020-01-01T00:00".into(),
            ..wish()
        };
        assert_eq!(past.silence(Uuid::nil(), NOW).unwrap().starts_ms, NOW);
    }

    #[test]
    fn what_is_wrong_is_said_beside_its_field() {
        let with = |change: fn(&mut Wish)| {
            let mut wish = wish();
            change(&mut wish);
            problem(wish)
        };
        for matchers in [
            "",
            "shop",
            "=shop",
            "service=",
            "service=*\nendpoint=**",
            "service=\u{7}",
            "servcie=shop",
        ] {
            let it = Wish {
                matchers: matchers.into(),
                ..wish()
            };
            assert_eq!(problem(it).0, "matchers", "{matchers}");
        }
        assert_eq!(with(|it| it.kind = "zzz".into()).0, "kind");
        assert_eq!(with(|it| it.lasts = "soon".into()).0, "lasts");
        assert_eq!(with(|it| it.lasts = "0".into()).0, "lasts");
        assert_eq!(with(|it| it.lasts = "99 weeks".into()).0, "lasts");
        assert_eq!(with(|it| it.lasts = "9999999999999999 s".into()).0, "lasts");
        assert_eq!(with(|it| it.ends = "2020-01-01T00:00".into()).0, "ends");
        assert_eq!(with(|it| it.ends = "tomorrow".into()).0, "ends");
        assert_eq!(with(|it| it.starts = "tomorrow".into()).0, "starts");
        assert_eq!(with(|it| it.starts = "2099-01-01T00:00".into()).0, "starts");
        assert_eq!(with(|it| it.author.clear()).0, "author");
        assert_eq!(with(|it| it.comment.clear()).0, "comment");
    }
}
