//! The search box: a trace id in any form, a statement and the address of a page lead there; anything else is
//! looked for in the names of services and endpoints and in the texts of statements.

use analyzer::sql;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Redirect, Response};
use collector::store::Store;
use collector::store::requests::FoundName;
use collector::store::statement::{FoundStatement, StatementKey};
use std::collections::BTreeSet;

use super::{Frame, PageError, render};
use crate::address::Address;
use crate::pages::statements::class;
use crate::trace_id::{self, Pointer};
use crate::{AppState, own_address, statement_key};

/// Dialects that a pasted statement is read in: quotes differ, and what it was sent to is not known here.
const DIALECTS: [&str; 3] = ["postgresql", "mysql", ""];

/// A pasted statement has at least a verb and something else.
const STATEMENT_WORDS_MIN: usize = 2;

/// `GET /search?q=…`.
///
/// # Errors
/// The database cannot be reached.
pub async fn page(
    State(state): State<AppState>,
    RawQuery(query): RawQuery,
) -> Result<Response, PageError> {
    let address = Address::parse(query.as_deref());
    let text = address.get("q").unwrap_or_default();
    if let Some(href) = straight(&state.store, text).await? {
        return Ok(Redirect::to(&href).into_response());
    }
    let (names, statements) = match text {
        "" => (Vec::new(), Vec::new()),
        text => futures_util::try_join!(
            state.store.find_names(text),
            state.store.find_statements(text)
        )?,
    };
    let page = build(text, names, statements);
    Ok(match page.only() {
        Some(href) => Redirect::to(href).into_response(),
        None => render(&page),
    })
}

/// Where a text leads that can mean one thing only.
async fn straight(store: &Store, text: &str) -> Result<Option<String>, PageError> {
    if let Some(href) = own_address::find(text) {
        return Ok(Some(href));
    }
    // Sixteen digits may be a trace's id of older systems, too: what is known decides.
    if let Some(key @ StatementKey::Digest(_)) = statement_key::parse(text)
        && let Some(name) = store.statement(key).await?
    {
        return Ok(Some(format!("/statements/{}", name.key)));
    }
    if let Some(pointer) = trace_id::find(text) {
        return Ok(Some(trace_href(&pointer)));
    }
    if text.split_whitespace().count() < STATEMENT_WORDS_MIN {
        return Ok(None);
    }
    let read = DIALECTS.map(|dialect| sql::fingerprint(text, dialect).text);
    let texts: BTreeSet<&str> = read.iter().map(String::as_str).collect();
    let keys = store.statement_keys(&texts).await?;
    Ok(keys.values().next().map(|key| format!("/statements/{key}")))
}

/// What was found by name.
#[derive(askama::Template)]
#[template(path = "search.html")]
pub struct SearchPage {
    /// What the frame needs.
    pub frame: Frame,
    /// What was looked for.
    pub text: String,
    /// Services and endpoints.
    pub found: Vec<Found>,
    /// Statements.
    pub statements: Vec<FoundText>,
}

/// A service or an endpoint.
pub struct Found {
    /// The name.
    pub of: FoundName,
    /// Its own page: the endpoint's, or the service among the services.
    pub href: String,
    /// Link to its traces.
    pub traces_href: String,
}

/// A statement.
pub struct FoundText {
    /// Which.
    pub of: FoundStatement,
    /// Its own page.
    pub href: String,
    /// The colour of what it asks.
    pub class: &'static str,
}

impl SearchPage {
    /// What was found, however many.
    pub fn count(&self) -> usize {
        self.found.len() + self.statements.len()
    }

    /// Where to, if there is a single thing and it is called exactly so.
    fn only(&self) -> Option<&str> {
        let is_called = |name: &str| name.eq_ignore_ascii_case(&self.text);
        match (&self.found[..], &self.statements[..]) {
            ([it], []) if is_called(&it.of.endpoint) || is_called(&it.of.service) => Some(&it.href),
            ([], [it]) if is_called(&it.of.text) => Some(&it.href),
            _ => None,
        }
    }
}

/// Lays out what was found.
pub fn build(text: &str, names: Vec<FoundName>, statements: Vec<FoundStatement>) -> SearchPage {
    let found = |of: FoundName| {
        let traces = [("service", &*of.service), ("endpoint", &of.endpoint)];
        Found {
            href: match of.endpoint_id {
                0 => format!(
                    "/services{}",
                    Address::default().with(&[("service", &of.service)])
                ),
                id => format!("/endpoints/{id}"),
            },
            traces_href: format!("/traces{}", Address::default().with(&traces)),
            of,
        }
    };
    let statement = |of: FoundStatement| FoundText {
        href: format!("/statements/{}", of.key),
        class: class(&of.system),
        of,
    };
    SearchPage {
        frame: Frame { current: "" },
        text: text.to_owned(),
        found: names.into_iter().map(found).collect(),
        statements: statements.into_iter().map(statement).collect(),
    }
}

/// Where a pointed-at trace or span is shown.
pub fn trace_href(pointer: &Pointer) -> String {
    match pointer.span_id {
        Some(span_id) => format!("/traces/{}?span={span_id}", pointer.trace_id),
        None => format!("/traces/{}", pointer.trace_id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Site, drawn};
    use axum::http::header;

    const ID: &str = "5f0c2a7be19d4c6398d1e04ba7f32c11";

    #[tokio::test]
    async fn each_text_leads_somewhere() {
        let site = Site::with(&[&drawn(
            r#"
            shop  GET /posts {http.route=/posts, http.request.method=GET}                                           |---------|
            shop    SELECT posts [client] {db.system.name=postgresql, db.query.text="SELECT * FROM posts WHERE state = 7"}    |---|
            shop    GET user [client] {db.system.name=redis, db.query.text="GET user:17"}                                        |-|
            "#,
        )])
        .await;
        let posts = statement_key::href("postgresql", "select * from posts where state = ?");
        let key = posts.strip_prefix("/statements/").unwrap();
        let endpoint = site.store.find_names("GET /posts").await.unwrap()[0].endpoint_id;
        let endpoint = format!("/endpoints/{endpoint}");
        let cases = [
            (ID.to_owned(), format!("/traces/{ID}")),
            (
                ID[..16].to_owned(),
                format!("/traces/0000000000000000{}", &ID[..16]),
            ),
            (
                format!("00-{ID}-b7ad6b7169203331-01"),
                format!("/traces/{ID}?span=b7ad6b7169203331"),
            ),
            (
                format!("https://jaeger/trace/{ID}"),
                format!("/traces/{ID}"),
            ),
            (key.to_owned(), posts.clone()),
            (key.to_uppercase(), posts.clone()),
            (
                format!("http://elsewhere:7007{posts}?range=7d"),
                format!("{posts}?range=7d"),
            ),
            (
                "SELECT * FROM posts WHERE state = 99".to_owned(),
                posts.clone(),
            ),
            (
                "select *\n  from posts where state = $1;".to_owned(),
                posts.clone(),
            ),
            (
                "http://h/endpoints/3#paths".to_owned(),
                "/endpoints/3#paths".to_owned(),
            ),
            ("get /posts".to_owned(), endpoint),
            ("shop".to_owned(), "/services?service=shop".to_owned()),
            (
                "GET user:?".to_owned(),
                statement_key::href("redis", "get user:?"),
            ),
        ];
        for (text, expected) in cases {
            let query: String = url::form_urlencoded::byte_serialize(text.as_bytes()).collect();
            let (status, headers, body) = site.get(&format!("/search?q={query}")).await;
            assert!(status.is_redirection(), "{text}: {status} {body}");
            assert_eq!(headers[header::LOCATION], *expected, "{text}");
        }
    }

    #[tokio::test]
    async fn parts_of_names_and_texts_are_listed() {
        let site = Site::with(&[&drawn(
            r#"
            shop  GET /posts {http.route=/posts, http.request.method=GET}                                           |---------|
            shop    SELECT posts [client] {db.system.name=postgresql, db.query.text="SELECT * FROM posts WHERE state = 7"}    |---|
            "#,
        )])
        .await;
        let html = site.page("/search?q=posts").await;
        assert!(html.contains("2 found for"), "{html}");
        assert!(html.contains(&statement_key::href(
            "postgresql",
            "select * from posts where state = ?"
        )));
        let none = site.page("/search?q=nothing+of+the+kind").await;
        assert!(none.contains("Nothing is called"));
        assert!(
            site.page("/search")
                .await
                .contains("What are you looking for?")
        );
    }
}
