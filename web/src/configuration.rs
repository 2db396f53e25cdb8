//! What this process was told, key by key, and by what: so that nobody has to guess which of a flag, an
//! environment variable and a file has won.
//!
//! The list of keys is the command line's own. Secrets are known by their being hidden in the help.

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};
use std::collections::BTreeMap;
use std::path::Path;
use toml::Spanned;

/// Everything that can be set, in the order of the help.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// One for each option.
    pub settings: Vec<Setting>,
    /// The configuration file's path, if there is one.
    pub file: Option<String>,
}

/// An option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Such as `listen-grpc`: behind `--` a flag; in the file the same, or with an s.
    pub key: String,
    /// Its key in the file, if it has one.
    pub file_key: String,
    /// The environment variable, if there is one.
    pub variable: String,
    /// What it is for, in a sentence.
    pub about: String,
    /// What it belongs to, as in the help.
    pub heading: String,
    /// What it is; a secret's is never here.
    pub value: Value,
    /// Who says so.
    pub origin: Origin,
    is_secret: bool,
}

/// What an option is set to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// As it was written.
    Text(String),
    /// There is one, and it is nobody's business.
    Secret,
    /// What is done without one; empty if nothing is.
    Usual(String),
}

/// Who set an option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody.
    Default,
    /// The command line.
    Flag,
    /// The environment.
    Environment,
    /// The configuration file, in this line.
    File(usize),
}

impl Configuration {
    /// What `matches` say of the options of `command`.
    pub fn of(command: &Command, matches: &ArgMatches) -> Configuration {
        let is_option = |it: &&Arg| {
            it.get_long().is_some() && !["help", "version"].contains(&it.get_id().as_str())
        };
        let settings = command
            .get_arguments()
            .filter(is_option)
            .map(|it| setting(it, matches));
        Configuration {
            settings: settings.collect(),
            file: None,
        }
    }

    /// Adds what a configuration file says, of which nothing else has said otherwise. What cannot be read
    /// is left out: whoever reads the options has refused it.
    pub fn add_file(&mut self, path: &Path, text: &str) {
        self.file = Some(path.display().to_string());
        let keys: BTreeMap<String, Spanned<toml::Value>> = toml::from_str(text).unwrap_or_default();
        for (key, value) in &keys {
            let line = text.get(..value.span().start).unwrap_or_default();
            let line = line.matches('\n').count() + 1;
            let known = self.settings.iter_mut().find(|it| it.file_key == *key);
            match known {
                Some(it) if it.origin == Origin::Default => {
                    it.origin = Origin::File(line);
                    it.value = it.given(shown(value.get_ref()));
                }
                Some(_) => {}
                // Sections have no flag.
                None => self.settings.push(section(key, value.get_ref(), line)),
            }
        }
    }

    /// The options of each heading, in the order of the help.
    pub fn by_heading(&self) -> Vec<(&str, Vec<&Setting>)> {
        let mut headings: Vec<(&str, Vec<&Setting>)> = Vec::new();
        for it in &self.settings {
            match headings.iter_mut().find(|heading| heading.0 == it.heading) {
                Some(heading) => heading.1.push(it),
                None => headings.push((&it.heading, vec![it])),
            }
        }
        headings
    }
}

impl Setting {
    fn given(&self, text: String) -> Value {
        match self.is_secret {
            true => Value::Secret,
            false => Value::Text(without_password(&text)),
        }
    }
}

fn setting(of: &Arg, matches: &ArgMatches) -> Setting {
    let id = of.get_id().as_str();
    let help = of.get_long_help().or(of.get_help());
    let help = help.map(|it| it.to_string()).unwrap_or_default();
    let (about, usual) = about(&help);
    let mut setting = Setting {
        key: of.get_long().unwrap_or(id).to_owned(),
        file_key: id.replace('_', "-"),
        variable: of
            .get_env()
            .map_or_else(String::new, |it| it.to_string_lossy().into_owned()),
        about,
        heading: of.get_help_heading().unwrap_or("In general").to_owned(),
        value: Value::Usual(usual),
        origin: Origin::Default,
        is_secret: of.is_hide_env_values_set(),
    };
    setting.origin = match matches.value_source(id) {
        Some(ValueSource::CommandLine) => Origin::Flag,
        Some(ValueSource::EnvVariable) => Origin::Environment,
        _ => return setting,
    };
    let texts = matches.get_raw(id).into_iter().flatten();
    let texts: Vec<String> = texts.map(|it| it.to_string_lossy().into_owned()).collect();
    // A switch that is on has no text of its own.
    let text = if texts.is_empty() {
        "true".to_owned()
    } else {
        texts.join(", ")
    };
    setting.value = setting.given(text);
    setting
}

/// A section of the file, or a key that no flag has: how many there are, and not what they say, which may
/// be secret.
fn section(key: &str, value: &toml::Value, line: usize) -> Setting {
    let count = match value {
        toml::Value::Array(sections) => sections.len(),
        toml::Value::Table(entries) => entries.len(),
        _ => 1,
    };
    Setting {
        key: key.to_owned(),
        file_key: key.to_owned(),
        variable: String::new(),
        about: String::new(),
        heading: "Sections of the file".to_owned(),
        value: Value::Text(format!("{count} set up there")),
        origin: Origin::File(line),
        is_secret: false,
    }
}

/// A help's first sentence, and the default that it names.
fn about(help: &str) -> (String, String) {
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    let (text, usual) = match help.split_once("[default: ") {
        Some((text, rest)) => (
            text.trim_end().to_owned(),
            rest.split(']').next().unwrap_or_default(),
        ),
        None => (help.clone(), ""),
    };
    let end = text.find(". ").unwrap_or(text.len());
    let sentence = text[..end].trim_end_matches('.');
    (sentence.to_owned(), usual.to_owned())
}

fn shown(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Array(values) => values.iter().map(shown).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

/// A URL may hold a password also where none is expected.
fn without_password(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    let authority = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..authority].rfind('@') {
        Some(at) => format!("{scheme}://…{}", &rest[at..]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::CommandFactory;

    fn told(arguments: &[&str]) -> Configuration {
        let mut command = Cli::command();
        let all = ["culprit", "serve"].iter().chain(arguments);
        let matches = command.try_get_matches_from_mut(all).unwrap();
        let (name, serve) = matches.subcommand().unwrap();
        Configuration::of(command.find_subcommand(name).unwrap(), serve)
    }

    fn of<'a>(told: &'a Configuration, key: &str) -> &'a Setting {
        told.settings.iter().find(|it| it.key == key).unwrap()
    }

    #[test]
    fn a_flag_goes_over_the_file_and_the_file_over_the_default() {
        let mut told = told(&[
            "--retain-days",
            "3",
            "--pooled",
            "--log-destination",
            "a",
            "--log-destination",
            "b",
        ]);
        let file = "retain-days = 9\n\nretain-kept-days = 30\ncors-origins = ['https://a', 'https://b']\n\
                    [[alert-channel]]\nname = 'x'\ntoken = 'hunter2'\n[[alert-channel]]\nname = 'y'\n";
        told.add_file(Path::new("/etc/culprit.toml"), file);
        let shown = |key: &str| {
            let it = of(&told, key);
            (it.value.clone(), it.origin.clone())
        };
        let text = |it: &str| Value::Text(it.to_owned());
        assert_eq!(shown("retain-days"), (text("3"), Origin::Flag));
        assert_eq!(shown("pooled"), (text("true"), Origin::Flag));
        assert_eq!(shown("log-destination"), (text("a, b"), Origin::Flag));
        assert_eq!(shown("retain-kept-days"), (text("30"), Origin::File(3)));
        assert_eq!(
            shown("cors-origin"),
            (text("https://a, https://b"), Origin::File(4))
        );
        assert_eq!(
            shown("retain-rollups-days"),
            (Value::Usual("90".into()), Origin::Default)
        );
        assert_eq!(
            shown("alert-channel"),
            (text("2 set up there"), Origin::File(5))
        );
        assert_eq!(of(&told, "retain-days").variable, "CULPRIT_RETAIN_DAYS");
        assert_eq!(of(&told, "retain-days").about, "Days that traces stay");
        let headings: Vec<&str> = told.by_heading().iter().map(|it| it.0).collect();
        assert!(
            headings.contains(&"Retention") && headings.contains(&"In general"),
            "{headings:?}"
        );
    }

    #[test]
    fn no_secret_is_in_it_wherever_it_was_written() {
        let mut told = told(&[
            "--database-url",
            "postgres://user:hunter2@db/culprit",
            "--ingest-token",
            "hunter2hunter2hunter2",
            "--alert-alertmanager",
            "http://user:hunter2@alerts:9093/path",
        ]);
        told.add_file(
            Path::new("culprit.toml"),
            "read-database-url = 'postgres://u:hunter2@x/y'\nalert-slack = 'https://hooks/hunter2'\n\
             explain-dsn = ['shop=postgres://u:hunter2@x/y']\n[explain]\nshop = 'hunter2'\n",
        );
        assert!(!format!("{told:?}").contains("hunter2"), "{told:?}");
        for key in [
            "database-url",
            "read-database-url",
            "ingest-token",
            "alert-slack",
            "explain-dsn",
        ] {
            assert_eq!(of(&told, key).value, Value::Secret, "{key}");
        }
        assert_eq!(
            of(&told, "alert-alertmanager").value,
            Value::Text("http://…@alerts:9093/path".into())
        );
        assert_eq!(
            of(&told, "alert-smtp").value,
            Value::Usual(String::new()),
            "not set is no secret"
        );
    }

    /// What may hold a secret is hidden in the help: this list is looked at when an option is added.
    #[test]
    fn options_whose_names_sound_secret_are() {
        let told = told(&[]);
        for it in &told.settings {
            let sounds = [
                "token",
                "secret",
                "password",
                "dsn",
                "url",
                "slack",
                "pagerduty",
            ];
            let is_known = ["ingest-tokens-file", "public-url", "log-url"].contains(&&*it.key)
                || it.file_key == "ingest-tokens-file";
            if sounds.iter().any(|word| it.key.contains(word)) && !is_known {
                assert!(it.is_secret, "{}", it.key);
            }
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_changes_nothing() {
        let mut told = told(&[]);
        let before = told.settings.clone();
        told.add_file(Path::new("x"), "= [");
        assert_eq!(told.settings, before);
    }
}
