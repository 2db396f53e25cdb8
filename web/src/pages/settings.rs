//! What this process was told, by what, and what can be changed where. Nothing can be changed here.

use axum::extract::State;
use axum::response::Response;

use super::{Frame, PageError, render};
use crate::AppState;
use crate::configuration::{Configuration, Origin, Setting, Value};

/// `GET /settings`. Without the database it lacks the database's versions.
///
/// # Errors
/// None that is known: a page that cannot be written.
pub async fn page(State(state): State<AppState>) -> Result<Response, PageError> {
    let versions = state.store.versions().await.ok();
    Ok(render(&build(&state.told, versions)))
}

#[derive(askama::Template)]
#[template(path = "settings.html")]
struct SettingsPage<'a> {
    frame: Frame,
    /// Postgres' version and the schema's; `None` while the database is away.
    versions: Option<(String, i64)>,
    file: Option<&'a str>,
    /// Heading, id, options.
    groups: Vec<(&'a str, String, Vec<Row<'a>>)>,
    /// Options that somebody has set.
    set: usize,
}

/// An option as it is shown.
struct Row<'a> {
    of: &'a Setting,
    value: String,
    /// The value is not what was written, but words about it.
    is_word: bool,
    origin: String,
    is_set: bool,
}

fn build(told: &Configuration, versions: Option<(String, i64)>) -> SettingsPage<'_> {
    let groups = told.by_heading().into_iter().map(|(heading, settings)| {
        let id = heading.to_lowercase().replace(' ', "-");
        let rows = settings.into_iter().map(|it| row(it, told)).collect();
        (heading, id, rows)
    });
    SettingsPage {
        frame: Frame {
            current: "/settings",
        },
        versions,
        file: told.file.as_deref(),
        groups: groups.collect(),
        set: told
            .settings
            .iter()
            .filter(|it| it.origin != Origin::Default)
            .count(),
    }
}

fn row<'a>(of: &'a Setting, told: &Configuration) -> Row<'a> {
    let (value, is_word) = match &of.value {
        Value::Text(text) => (text.clone(), false),
        Value::Secret => ("set; not shown".to_owned(), true),
        Value::Usual(usual) if usual.is_empty() => ("not set".to_owned(), true),
        Value::Usual(usual) => (usual.clone(), true),
    };
    let file = told.file.as_deref().unwrap_or("the configuration file");
    Row {
        of,
        value,
        is_word,
        origin: match &of.origin {
            Origin::Default => "default".to_owned(),
            Origin::Flag => format!("flag --{}", of.key),
            Origin::Environment => format!("environment {}", of.variable),
            Origin::File(line) => format!("{file}, line {line}"),
        },
        is_set: of.origin != Origin::Default,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use askama::Template;
    use clap::CommandFactory;
    use scraper::{Html, Selector};
    use std::path::Path;

    const HOSTILE: &str = "</td><script>alert('x')</script>";

    fn drawn(arguments: &[&str], file: &str) -> (Html, String) {
        let mut command = Cli::command();
        let all = ["culprit", "serve"].iter().chain(arguments);
        let matches = command.try_get_matches_from_mut(all).unwrap();
        let (name, serve) = matches.subcommand().unwrap();
        let mut told = Configuration::of(command.find_subcommand(name).unwrap(), serve);
        told.add_file(Path::new("culprit.toml"), file);
        let text = build(&told, Some(("15.8".into(), 9))).render().unwrap();
        (Html::parse_document(&text), text)
    }

    fn cells(html: &Html, key: &str) -> Vec<String> {
        let rows = Selector::parse("tbody tr").unwrap();
        let cell = Selector::parse("td").unwrap();
        let row = html
            .select(&rows)
            .find(|it| it.attr("id") == Some(&format!("o-{key}")))
            .unwrap();
        row.select(&cell)
            .map(|it| it.text().collect::<String>().trim().to_owned())
            .collect()
    }

    #[test]
    fn every_option_says_what_it_is_and_who_says_so() {
        let file = "retain-kept-days = 30\n";
        let (html, text) = drawn(
            &[
                "--log-destination",
                HOSTILE,
                "--database-url",
                "postgres://u:hunter2@x/y",
            ],
            file,
        );
        crate::testing::assert_harmless(&text);
        assert!(!text.contains("hunter2"));
        assert_eq!(
            cells(&html, "log-destination")[..2],
            [HOSTILE, "flag --log-destination"]
        );
        assert_eq!(
            cells(&html, "database-url")[..2],
            ["set; not shown", "flag --database-url"]
        );
        assert_eq!(
            cells(&html, "retain-kept-days")[..2],
            ["30", "culprit.toml, line 1"]
        );
        assert_eq!(cells(&html, "retain-days")[..2], ["14", "default"]);
        assert_eq!(cells(&html, "alert-slack")[..2], ["not set", "default"]);
        for shown in [
            "PostgreSQL 15.8",
            "schema 9",
            "/alerts/rules",
            "/alerts/channels",
            "/metrics",
            "/status",
        ] {
            assert!(text.contains(shown), "{shown}");
        }
    }

    #[tokio::test]
    async fn the_page_is_there() {
        let site = crate::testing::Site::on(collector::testing::store().await);
        let response = site.page("/settings").await;
        assert!(response.contains("Settings"), "{response}");
    }
}
