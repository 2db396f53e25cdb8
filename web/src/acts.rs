//! What people do to findings, by a form or over the API: acknowledge, ignore, resolve, reopen.

use axum::http::StatusCode;
use collector::life::{Act, ActKind, Life};
use collector::store::audit::Done;
use collector::store::lives::Acted;
use collector::store::{Store, StoreError};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::pages::{BOTTLENECKS, PageError, not_written};
use crate::time_span::TimeSpan;
use crate::timestamps;

/// A reason's bytes at most: a few sentences. What is longer is cut, and says so.
const REASON_BYTES_MAX: usize = 1_000;

/// A name's bytes at most.
const AUTHOR_BYTES_MAX: usize = 100;

/// A version's bytes at most: one that is cut would be none.
const VERSION_BYTES_MAX: usize = 200;

const CUT: &str = "… (The rest is cut: a reason has 1,000 bytes at most.)";

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
        // serde would take an array for the fields in their order.
        let object: serde_json::Result<Map<String, Value>> = serde_json::from_slice(body);
        let wish = object.and_then(|it| serde_json::from_value(Value::Object(it)));
        wish.map_err(|error| {
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
            author: author(&self.author.unwrap_or_default()),
            reason: reason(&self.reason.unwrap_or_default()),
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
pub fn cleaned(text: &str) -> String {
    let kept = text.chars().filter(|it| !reorders(*it));
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

/// A bidirectional control: it reorders or hides what stands beside it.
pub fn reorders(letter: char) -> bool {
    matches!(letter, '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Why somebody did something: cleaned, and cut if it is too long, which it says then.
pub fn reason(text: &str) -> String {
    cut(cleaned(text), REASON_BYTES_MAX, CUT)
}

/// Who did something: cleaned and cut.
pub fn author(text: &str) -> String {
    cut(cleaned(text), AUTHOR_BYTES_MAX, "…")
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
    match long.or_else(|| timestamps::lenient_ms(until)) {
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

/// A finding's life, latest deed first, from where it is changed: whoever has just acted must see
/// it. While that is away a replica's is better than none.
///
/// # Errors
/// The database does not answer.
pub async fn life(store: &Store, id: i32) -> Result<Option<(Life, Vec<Done>)>, StoreError> {
    match read(&store.for_changes(), id).await {
        Err(_) if store.is_replica() => read(store, id).await,
        read => read,
    }
}

async fn read(store: &Store, id: i32) -> Result<Option<(Life, Vec<Done>)>, StoreError> {
    let Some(life) = store.life(id).await? else {
        return Ok(None);
    };
    let history = store.history("finding", &id.to_string()).await?;
    Ok(Some((life, history)))
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
    let missing = || PageError::Missing(format!("There is no finding '{id}'."), BOTTLENECKS);
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
        Err(error) => {
            store.note(&error);
            Err(not_written(error))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{HOSTILE, Site, assert_harmless};
    use collector::store::pool::Access;
    use scraper::{Html, Selector};
    use serde_json::json;

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
        assert_eq!(
            until("2027-01-01T00:00:00Z"),
            timestamps::lenient_ms("2027-01-01")
        );
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

    /// A site with three findings of one endpoint, seen a minute ago: 1 and 2 are open, 3 came back.
    async fn site() -> Site {
        let store = collector::testing::store().await;
        for sql in [
            "insert into culprit.services (namespace, name, environment) values ('', 'shop', '')",
            "insert into culprit.endpoints (service_id, name) values (1, 'GET /posts')",
            "insert into culprit.versions (service_id, version) values (1, '1.0')",
            "insert into culprit.finding_keys (digest, fingerprint, detector, service_id, endpoint_id)
             select int4send(n), 'n-plus-one-query ' || n, 'n-plus-one-query', 1, 1 from generate_series(1, 3) n",
            "insert into culprit.findings (id, state, detector, service_id, endpoint_id, version_id, severity,
                 confidence, title, first_seen, last_seen, traces, evidence, regressed)
             select n, case n when 3 then 'regressed' else 'open' end, 'n-plus-one-query', 1, 1, 1, 2, 0.9,
                 n || ' × select authors', now(), now(), 7, '{}', (n = 3)::integer
             from generate_series(1, 3) n",
        ] {
            sqlx::query(sql).execute(store.pool()).await.unwrap();
        }
        Site::on(store)
    }

    async fn api(site: &Site, path: &str, body: &str) -> (u16, Value) {
        let path = format!("/api/v1/bottlenecks/{path}");
        let (status, _, body) = site.post(&path, body).await;
        (status.as_u16(), serde_json::from_str(&body).unwrap())
    }

    #[tokio::test]
    async fn every_act_over_the_api() {
        let site = site().await;
        for (act, body, state) in [
            (
                "acknowledge",
                r#"{"author":"ann","reason":"on it"}"#,
                "acknowledged",
            ),
            (
                "ignore",
                r#"{"author":"bob","reason":"known","until":"7d"}"#,
                "ignored",
            ),
            ("resolve", r#"{"author":"bob","version":"1.4"}"#, "resolved"),
            ("reopen", "", "open"),
        ] {
            let (status, life) = api(&site, &format!("1/{act}"), body).await;
            assert_eq!(
                (status, life["state"].as_str()),
                (200, Some(state)),
                "{life}"
            );
            assert_eq!(life["id"], 1);
        }
        let one = site.page("/api/v1/bottlenecks/1").await;
        let one: Value = serde_json::from_str(&one).unwrap();
        assert_eq!(
            (&one["state"], &one["author"]),
            (&json!("open"), &json!("somebody"))
        );
        let history = one["history"].as_array().unwrap().iter();
        let history: Vec<String> = history
            .map(|it| {
                format!("{} {} {}", it["author"], it["action"], it["detail"]).replace('"', "")
            })
            .collect();
        assert_eq!(
            history,
            [
                "somebody reopened ",
                "bob resolved in version 1.4",
                "bob ignored for 7 days: known",
                "ann acknowledged on it"
            ]
        );
    }

    #[tokio::test]
    async fn what_cannot_be_done_is_said_with_its_status() {
        let site = site().await;
        api(&site, "2/resolve", "").await;
        for (path, body, status, text) in [
            ("1/ignore", "", 400, "Say why"),
            (
                "1/ignore",
                r#"{"reason":"x","until":"soon"}"#,
                400,
                "'soon' is no time",
            ),
            ("1/ignore", "reason=x", 400, "is to be JSON"),
            (
                "1/delete",
                "",
                404,
                "acknowledge, ignore, resolve and reopen",
            ),
            ("99/resolve", "", 404, "no finding '99'"),
            ("99999999999/resolve", "", 404, "no finding '99999999999'"),
            ("x/resolve", "", 404, "no finding 'x'"),
            ("2/acknowledge", "", 409, "It is resolved: reopen it first."),
        ] {
            let (got, answer) = api(&site, path, body).await;
            let error = answer["error"].as_str().unwrap_or_default();
            assert_eq!(got, status, "{path}: {answer}");
            assert!(error.contains(text), "{path}: {error}");
        }
        let (status, _, _) = site
            .post("/bottlenecks/1/resolve", &"x".repeat(70_000))
            .await;
        assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[tokio::test]
    async fn forms_lead_back_to_the_page_and_may_be_sent_twice() {
        let site = site().await;
        let form = "author=ann&reason=known&until=30d";
        for _ in 0..2 {
            let (status, headers, _) = site.post("/bottlenecks/1/ignore?range=24h", form).await;
            assert_eq!(status, StatusCode::SEE_OTHER);
            assert_eq!(headers["location"], "/bottlenecks/1?range=24h#life");
        }
        let page = site.page("/bottlenecks/1?range=24h").await;
        let page = Html::parse_document(&page);
        assert_eq!(texts(&page, ".history li .did"), ["ignored by ann"]);
        assert_eq!(texts(&page, ".history .said"), ["for 30 days: known"]);
        let forms = Selector::parse("#life form[method=post]").unwrap();
        let actions: Vec<_> = page
            .select(&forms)
            .filter_map(|it| it.attr("action"))
            .collect();
        assert_eq!(
            actions,
            [
                "/bottlenecks/1/reopen?range=24h",
                "/bottlenecks/1/resolve?range=24h"
            ]
        );
        let (status, headers, _) = site.get("/bottlenecks/1/ignore").await;
        assert_eq!(
            (status.as_u16(), &headers["location"]),
            (303, &"/bottlenecks/1#life".parse().unwrap())
        );
        for (path, status) in [
            ("1/ignore", 400),
            ("1/acknowledge", 409),
            ("99/resolve", 404),
            ("1/x", 404),
        ] {
            let (got, _, body) = site.post(&format!("/bottlenecks/{path}"), "").await;
            assert_eq!(got.as_u16(), status, "{path}");
            assert_harmless(&body);
        }
    }

    #[tokio::test]
    async fn hostile_reasons_are_text_on_the_page() {
        let site = site().await;
        let long = "<b>".repeat(4_000);
        for hostile in HOSTILE.into_iter().chain([long.as_str()]) {
            let form = url::form_urlencoded::Serializer::new(String::new())
                .append_pair("reason", hostile)
                .append_pair("author", hostile)
                .finish();
            let (status, _, _) = site.post("/bottlenecks/1/acknowledge", &form).await;
            assert_eq!(status, StatusCode::SEE_OTHER, "{hostile}");
            let page = site.page("/bottlenecks/1").await;
            assert!(page.len() < 100_000, "{}", page.len());
            let json = site.page("/api/v1/bottlenecks/1").await;
            let reason = serde_json::from_str::<Value>(&json).unwrap()["reason"].clone();
            let page = Html::parse_document(&page);
            let said = texts(&page, ".history .said").swap_remove(0);
            assert_eq!(said, reason.as_str().unwrap(), "{hostile}");
        }
    }

    #[tokio::test]
    async fn the_list_leaves_out_what_is_settled() {
        let site = site().await;
        for (path, body) in [("1/ignore", r#"{"reason":"x"}"#), ("2/resolve", "")] {
            assert_eq!(api(&site, path, body).await.0, 200);
        }
        let ids = async |query: &str| {
            let list = site.page(&format!("/api/v1/bottlenecks{query}")).await;
            let list: Value = serde_json::from_str(&list).unwrap();
            let rows = list["bottlenecks"].as_array().unwrap().iter();
            rows.map(|it| it["id"].as_i64().unwrap())
                .collect::<Vec<_>>()
        };
        // None has requests in the last hour: only what is settled is listed all the same.
        assert_eq!(ids("").await, [] as [i64; 0]);
        assert_eq!(ids("?state=ignored").await, [1]);
        assert_eq!(ids("?state=resolved,ignored").await, [2, 1]);
        let (status, _, body) = site.get("/api/v1/bottlenecks?state=fixed").await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(body.contains("acknowledged"), "{body}");
        let page = Html::parse_document(&site.page("/?state=resolved").await);
        assert_eq!(texts(&page, "td .pill"), ["resolved"]);
        assert!(texts(&page, "[aria-label=State] a").contains(&"Ignored 1".to_owned()));
    }

    #[tokio::test]
    async fn what_came_back_says_so_on_its_page() {
        let site = site().await;
        let page = Html::parse_document(&site.page("/bottlenecks/3").await);
        assert_eq!(texts(&page, "#life .pill"), ["came back"]);
        assert_eq!(texts(&page, ".meta .pill.new").last().unwrap(), "came back");
    }

    #[tokio::test]
    async fn a_process_that_only_reads_says_so_or_asks_the_primary() {
        let primary = site().await.store;
        let options = primary.pool().access().options.clone();
        let access = Access {
            options: options.options([("default_transaction_read_only", "on")]),
            pooled: false,
            connections: 2,
        };
        let read_only = Store::open_to_read(&access).await.unwrap();
        let site = Site::on(read_only.for_people());
        let (status, answer) = api(&site, "1/resolve", "").await;
        assert_eq!(status, 503);
        let text = answer["error"].as_str().unwrap();
        assert!(text.starts_with("This process only reads; "), "{text}");
        let (status, _, page) = site.post("/bottlenecks/1/resolve", "").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(page.contains("only reads"), "{page}");
        assert!(site.page("/bottlenecks/1").await.contains(">open<"));

        let site = Site::on(read_only.behind(&primary).for_people());
        assert_eq!(api(&site, "1/resolve", "").await.1["state"], "resolved");
        assert!(site.page("/bottlenecks/1").await.contains(">resolved<"));
    }

    #[tokio::test]
    async fn a_foreign_page_cannot_act() {
        let site = site().await;
        let from = [("host", "127.0.0.1:7007"), ("sec-fetch-site", "cross-site")];
        for path in [
            "/bottlenecks/1/resolve",
            "/api/v1/bottlenecks/1/resolve",
            "/nowhere",
        ] {
            let (status, headers, _) = site.post_from(path, &from, "").await;
            assert_eq!(status, StatusCode::FORBIDDEN);
            assert!(headers.contains_key("content-security-policy"));
        }
        assert!(site.page("/bottlenecks/1").await.contains(">open<"));
    }

    fn texts(html: &Html, selector: &str) -> Vec<String> {
        let selector = Selector::parse(selector).unwrap();
        let words = |it: scraper::ElementRef<'_>| {
            let text: String = it.text().collect();
            text.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        html.select(&selector).map(words).collect()
    }
}
