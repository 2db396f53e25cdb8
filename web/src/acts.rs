//! What people do to findings, by a form or over the API: acknowledge, ignore, resolve, reopen.

use axum::http::StatusCode;
use collector::life::{Act, ActKind, Life};
use collector::store::lives::Acted;
use collector::store::{Store, StoreError};
use serde::Deserialize;

use crate::pages::PageError;
use crate::time_span::{TimeSpan, moment};

/// A reason's bytes at most: a few sentences. What is longer is cut, and says so.
const REASON_BYTES_MAX: usize = 2_000;

/// A name's bytes at most.
const AUTHOR_BYTES_MAX: usize = 100;

/// A version's bytes at most: one that is cut would be none.
const VERSION_BYTES_MAX: usize = 200;

const CUT: &str = "… (The rest is cut: a reason has 2,000 bytes at most.)";

/// What somebody says, as it was sent.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Wish {
    /// Who.
    pub author: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// Until when, or how long it is to be ignored.
    pub until: Option<String>,
    /// The version that fixes it.
    pub version: Option<String>,
}

impl Wish {
    /// From the body of a call; an empty one says nothing.
    ///
    /// # Errors
    /// It is no JSON, or has other fields.
    pub fn from_json(body: &[u8]) -> Result<Wish, PageError> {
        if body.trim_ascii().is_empty() {
            return Ok(Wish::default());
        }
        serde_json::from_slice(body).map_err(|error| {
            PageError::BadRequest(format!(
                "The body is to be JSON with the texts author, reason, until and version, all of them optional: {error}."
            ))
        })
    }

    /// From the body of a form. Fields that are none of these are left alone.
    pub fn from_form(body: &[u8]) -> Wish {
        let mut wish = Wish::default();
        for (name, value) in url::form_urlencoded::parse(body) {
            let field = match &*name {
                "author" => &mut wish.author,
                "reason" => &mut wish.reason,
                "until" => &mut wish.until,
                "version" => &mut wish.version,
                _ => continue,
            };
            *field = Some(value.into_owned());
        }
        wish
    }

    /// What is to be done.
    ///
    /// # Errors
    /// It makes no sense: why, and what would.
    pub fn act(self, kind: ActKind, now_ms: i64) -> Result<Act, PageError> {
        let text = |it: Option<String>| cleaned(&it.unwrap_or_default());
        let until = text(self.until);
        let version = text(self.version);
        let act = Act {
            kind,
            author: cut(text(self.author), AUTHOR_BYTES_MAX, "…"),
            reason: cut(text(self.reason), REASON_BYTES_MAX, CUT),
            until_ms: until_ms(&until, now_ms)?,
            version: Some(version).filter(|it| !it.is_empty()),
        };
        let problem = if act.reason.is_empty() && kind == ActKind::Ignore {
            "Say why it is to be ignored: whoever wonders later will read it."
        } else if act.until_ms.is_some() && kind != ActKind::Ignore {
            "Only ignoring has an end: leave until out."
        } else if act.version.is_some() && kind != ActKind::Resolve {
            "Only resolving names a version: leave version out."
        } else if act
            .version
            .as_ref()
            .is_some_and(|it| it.len() > VERSION_BYTES_MAX)
        {
            "The version is longer than 200 bytes; no version is."
        } else {
            return Ok(act);
        };
        Err(not_understood(problem.to_owned()))
    }
}

/// Times and words of people: spaces are one each; what would reorder or hide what stands beside it
/// (bidirectional controls) goes; NUL and other controls, which Postgres or a page cannot hold, are
/// shown as the replacement character.
fn cleaned(text: &str) -> String {
    let kept = text
        .chars()
        .filter(|it| !matches!(it, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'));
    let shown: String = kept
        .map(|it| match it {
            it if it.is_whitespace() => ' ',
            it if it.is_control() => char::REPLACEMENT_CHARACTER,
            it => it,
        })
        .collect();
    shown
        .split(' ')
        .filter(|it| !it.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

fn cut(mut text: String, bytes_max: usize, end: &str) -> String {
    if text.len() > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max - end.len()));
        text.push_str(end);
    }
    text
}

fn until_ms(until: &str, now_ms: i64) -> Result<Option<i64>, PageError> {
    if until.is_empty() {
        return Ok(None);
    }
    let long = until.parse().ok().map(|it: TimeSpan| now_ms + it.ms());
    match long.or_else(|| moment(until)) {
        Some(until_ms) if until_ms > now_ms => Ok(Some(until_ms)),
        Some(_) => Err(not_understood(format!("Until {until} is over already."))),
        None => Err(not_understood(format!(
            "'{until}' is no time: write how long (12h, 7d) or when (2026-12-01T09:00:00Z)."
        ))),
    }
}

fn not_understood(text: String) -> PageError {
    PageError::Refused(StatusCode::BAD_REQUEST, "That cannot be done", text)
}

/// Does it, on the primary.
///
/// # Errors
/// There is no such finding or act, it makes no sense as the finding stands, or this process only reads.
pub async fn carry_out(
    store: &Store,
    id: &str,
    act: &str,
    wish: Wish,
    now_ms: i64,
) -> Result<(i32, Life), PageError> {
    let kind = ActKind::parse(act).ok_or_else(|| {
        let text = "What can be done is acknowledge, ignore, resolve and reopen.";
        PageError::NotFound(text.to_owned())
    })?;
    let missing = || PageError::NotFound(format!("There is no finding '{id}'."));
    let number: i32 = id.parse().map_err(|_| missing())?;
    let act = wish.act(kind, now_ms)?;
    let store = store.for_changes();
    match store.act(number, &act).await {
        Ok(Acted::Done(life) | Acted::Same(life)) => Ok((number, life)),
        Ok(Acted::Refused(why)) => Err(PageError::Refused(
            StatusCode::CONFLICT,
            "That cannot be done now",
            why,
        )),
        Ok(Acted::Missing) => Err(missing()),
        Err(error) => Err(not_written(&store, error)),
    }
}

fn not_written(store: &Store, error: StoreError) -> PageError {
    store.note(&error);
    if !error.is_read_only() {
        return error.into();
    }
    tracing::warn!(%error, "an act was refused by the database");
    PageError::Refused(
        StatusCode::SERVICE_UNAVAILABLE,
        "This process only reads",
        "This process only reads; its database user or server takes no writes. Act on another culprit's UI, or \
         give this one a --database-url that may write to culprit.findings and culprit.audit."
            .to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_795_185_128_000;

    fn wish(reason: &str, until: &str, version: &str) -> Wish {
        let some = |it: &str| Some(it.to_owned());
        Wish {
            author: some("ann"),
            reason: some(reason),
            until: some(until),
            version: some(version),
        }
    }

    fn refusal(kind: ActKind, wish: Wish) -> String {
        match wish.act(kind, NOW) {
            Err(PageError::Refused(StatusCode::BAD_REQUEST, _, text)) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_makes_no_sense_says_so() {
        use ActKind::{Acknowledge, Ignore, Resolve};
        let cases = [
            (Ignore, wish(" \n", "", ""), "Say why"),
            (Ignore, wish("x", "next week", ""), "'next week' is no time"),
            (Ignore, wish("x", "2020-01-01", ""), "is over already"),
            (Ignore, wish("x", "", "1.4"), "Only resolving"),
            (Acknowledge, wish("x", "7d", ""), "Only ignoring"),
            (Resolve, wish("x", "", &"1".repeat(201)), "200 bytes"),
        ];
        for (kind, wish, text) in cases {
            let refusal = refusal(kind, wish);
            assert!(refusal.contains(text), "{refusal}");
        }
    }

    #[test]
    fn times_are_how_long_or_when() {
        let until = |it| {
            wish("x", it, "")
                .act(ActKind::Ignore, NOW)
                .unwrap()
                .until_ms
        };
        assert_eq!(until("7d"), Some(NOW + 7 * 86_400_000));
        assert_eq!(until("2027-01-01T00:00:00Z"), moment("2027-01-01"));
        assert_eq!(until(""), None);
    }

    #[test]
    fn hostile_reasons_are_made_harmless_and_cut() {
        let reason = |it: &str| wish(it, "", "").act(ActKind::Ignore, NOW).unwrap().reason;
        assert_eq!(reason("a\u{0}b\u{7}c"), "a\u{fffd}b\u{fffd}c");
        assert_eq!(reason("a\u{202e}gnp.exe\u{2066}"), "agnp.exe");
        assert_eq!(reason(" known,\r\n\t will go "), "known, will go");
        assert_eq!(reason("<script>"), "<script>", "pages escape it");
        assert_eq!(reason("שלום"), "שלום");
        let long = reason(&"ä".repeat(5_000));
        assert!(
            long.len() <= REASON_BYTES_MAX && long.ends_with(CUT),
            "{long}"
        );
    }

    #[test]
    fn bodies_are_json_or_forms() {
        let json = Wish::from_json(br#"{"author":"ann","until":"7d"}"#).unwrap();
        assert_eq!((json.author.as_deref(), json.reason), (Some("ann"), None));
        assert_eq!(Wish::from_json(b" ").unwrap(), Wish::default());
        for body in ["[]", "{", r#"{"auhtor":"ann"}"#, r#"{"reason":7}"#, "\u{0}"] {
            assert!(matches!(
                Wish::from_json(body.as_bytes()),
                Err(PageError::BadRequest(_))
            ));
        }
        let form = Wish::from_form(b"author=ann&reason=a+%26+b%00%ff&x=1&reason");
        assert_eq!(form.reason.as_deref(), Some(""), "the last counts");
        assert_eq!(form.author.as_deref(), Some("ann"));
    }
}
