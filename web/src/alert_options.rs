//! Where alerts go and what is worth one, as flags and as sections of the configuration file.

use anyhow::{Context, anyhow, bail};
use clap::Args;
use collector::alert::channel::Channel;
use collector::alert::guard::{Cidr, Trust};
use collector::alert::rule::Rule;
use collector::alert::secret::SecretText;
use collector::alert::settings::Settings;
use collector::store::rules::Source;
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use toml::Spanned;

use crate::pages::alerts::channels::check_name;

/// Who is told. A section [[alert-channel]] of the configuration file, with a name, a kind and what the
/// kind needs, sets up any number of channels; a section [[alert-rule]] says what is worth an alert. The
/// UI shows all of them, and has more of both.
#[derive(Args, Clone, Default, Debug, Deserialize)]
#[command(next_help_heading = "Alerts")]
#[serde(rename_all = "kebab-case", default)]
pub struct AlertOptions {
    /// Post JSON here when an alert fires and when it is over (Standard Webhooks). What is worth an
    /// alert stands at /alerts/rules: new N+1s and other critical bottlenecks, and endpoints that became
    /// slower. Secrets of these options may also be written as env:NAME or file:/path.
    #[arg(
        long,
        env = "CULPRIT_ALERT_WEBHOOK",
        hide_env_values = true,
        value_name = "URL",
        value_parser = secret
    )]
    pub alert_webhook: Option<SecretText>,
    /// Sign these messages: whsec_ and base64. Better given by the environment than as a flag.
    #[arg(
        long,
        env = "CULPRIT_ALERT_WEBHOOK_SECRET",
        hide_env_values = true,
        value_name = "SECRET",
        value_parser = secret
    )]
    pub alert_webhook_secret: Option<SecretText>,
    /// Tell a Slack channel: the URL of an incoming webhook.
    #[arg(
        long,
        env = "CULPRIT_ALERT_SLACK",
        hide_env_values = true,
        value_name = "URL",
        value_parser = secret
    )]
    pub alert_slack: Option<SecretText>,
    /// Tell a Prometheus Alertmanager (API v2), such as http://alertmanager:9093.
    #[arg(long, env = "CULPRIT_ALERT_ALERTMANAGER", value_name = "URL")]
    pub alert_alertmanager: Option<String>,
    /// Tell PagerDuty (Events API v2): the integration key.
    #[arg(
        long,
        env = "CULPRIT_ALERT_PAGERDUTY",
        hide_env_values = true,
        value_name = "KEY",
        value_parser = secret
    )]
    pub alert_pagerduty: Option<SecretText>,
    /// Tell these addresses by mail; may be repeated. Needs --alert-smtp and --alert-email-from.
    #[arg(
        long,
        env = "CULPRIT_ALERT_EMAIL_TO",
        value_delimiter = ',',
        value_name = "ADDRESS"
    )]
    #[serde(default)]
    pub alert_email_to: Vec<String>,
    /// Whom these mails come from: culprit@example.com.
    #[arg(long, env = "CULPRIT_ALERT_EMAIL_FROM", value_name = "ADDRESS")]
    pub alert_email_from: Option<String>,
    /// The mail server: smtps://user@host (TLS), smtp://user@host:587 (STARTTLS), or
    /// smtp://host:25?tls=off.
    #[arg(
        long,
        env = "CULPRIT_ALERT_SMTP",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub alert_smtp: Option<String>,
    /// The password of the user in --alert-smtp.
    #[arg(
        long,
        env = "CULPRIT_ALERT_SMTP_PASSWORD",
        hide_env_values = true,
        value_name = "PASSWORD",
        value_parser = secret
    )]
    pub alert_smtp_password: Option<SecretText>,
    /// Channels that people set up in the UI may lead into this network too, and without encryption
    /// there: 10.0.0.0/8; may be repeated. Without it they lead to public addresses only.
    #[arg(
        long,
        env = "CULPRIT_ALERT_ALLOW_PRIVATE",
        value_delimiter = ',',
        value_name = "CIDR"
    )]
    #[serde(default)]
    pub alert_allow_private: Vec<Cidr>,
    /// The file's sections: read apart, for their lines ([`Sections`]).
    #[arg(skip)]
    #[serde(default)]
    #[expect(dead_code, reason = "only so that the key is known")]
    alert_rule: Vec<IgnoredAny>,
    #[arg(skip)]
    #[serde(default)]
    #[expect(dead_code, reason = "only so that the key is known")]
    alert_channel: Vec<IgnoredAny>,
    #[arg(skip)]
    #[serde(skip)]
    sections: Sections,
    /// Options that no flag says, so that the file does.
    #[arg(skip)]
    #[serde(skip)]
    of_file: Vec<&'static str>,
}

fn secret(text: &str) -> Result<SecretText, Infallible> {
    Ok(SecretText::new(text))
}

/// The sections `[[alert-rule]]` and `[[alert-channel]]` of a configuration file.
#[derive(Clone, Default, Debug, PartialEq)]
pub struct Sections {
    /// The file's path; empty if there is none.
    pub path: String,
    /// What is worth an alert.
    pub rules: Vec<Rule>,
    /// Name, settings, and the section's line.
    pub channels: Vec<(String, Settings, usize)>,
}

/// A section, with the place of each key.
type Section = Spanned<BTreeMap<String, Spanned<toml::Value>>>;

/// What of a configuration file is read here; the rest is others'.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Alerts {
    #[serde(default)]
    alert_rule: Vec<Section>,
    #[serde(default)]
    alert_channel: Vec<Section>,
}

impl Sections {
    /// Reads a file's text.
    ///
    /// # Errors
    /// A section is wrong: says where, which key, and what is wanted, without repeating values.
    pub fn read(path: &Path, text: &str) -> anyhow::Result<Sections> {
        let path = path.display().to_string();
        let lines = Lines { path: &path, text };
        let alerts: Alerts = toml::from_str(text)
            .map_err(|error| lines.error(error.span().map_or(0, |it| it.start), error.message()))?;
        let mut sections = Sections {
            path: path.clone(),
            ..Sections::default()
        };
        for section in alerts.alert_rule {
            let rule: Rule = lines.section(&section, "alert-rule", &[])?;
            if sections.rules.iter().any(|it| it.name == rule.name) {
                let problem = format!("there is another alert-rule of the name {:?}", rule.name);
                return Err(lines.error(section.span().start, &problem));
            }
            sections.rules.push(rule);
        }
        for section in alerts.alert_channel {
            let at = section.span().start;
            let name = section.get_ref().get("name");
            let name = name
                .and_then(|it| it.get_ref().as_str())
                .unwrap_or_default();
            let wrong =
                |problem: &str| lines.error(at, &format!("alert-channel {name:?}: {problem}"));
            check_name(name).map_err(|problem| wrong(&problem))?;
            if sections.channels.iter().any(|it| it.0 == name) {
                return Err(wrong("there is another alert-channel of this name"));
            }
            let settings = lines.section(&section, "alert-channel", &["name"])?;
            let line = lines.line(at);
            sections.channels.push((name.to_owned(), settings, line));
        }
        Ok(sections)
    }
}

struct Lines<'a> {
    path: &'a str,
    text: &'a str,
}

impl Lines<'_> {
    fn line(&self, at: usize) -> usize {
        let before = self.text.get(..at).unwrap_or_default();
        before.matches('\n').count() + 1
    }

    fn error(&self, at: usize, problem: &str) -> anyhow::Error {
        let line = self.line(at);
        anyhow!(
            "the configuration file {} is wrong in line {line}: {problem}",
            self.path
        )
    }

    /// One section as what it is, without the keys of `others`.
    fn section<T: for<'de> Deserialize<'de>>(
        &self,
        section: &Section,
        what: &str,
        others: &[&str],
    ) -> anyhow::Result<T> {
        let keys = section.get_ref();
        let table: toml::Table = keys
            .iter()
            .filter(|it| !others.contains(&it.0.as_str()))
            .map(|(key, value)| (key.clone(), value.get_ref().clone()))
            .collect();
        T::deserialize(toml::Value::Table(table.clone())).map_err(|error| {
            let message = error.message();
            // The first key that the error names and the section has is the one that is wrong.
            let named = message.split('`').skip(1).step_by(2);
            let named = named.filter_map(|it| keys.get(it)).next();
            let unnamed = match named {
                Some(_) => None,
                None => blamed::<T>(&table, message),
            };
            let wrong = named.or_else(|| keys.get(unnamed.as_deref()?));
            let at = wrong.map_or(section.span().start, |it| it.span().start);
            let message = match &unnamed {
                Some(key) => format!("`{key}`: {message}"),
                None => message.to_owned(),
            };
            let name = keys.get("name").and_then(|it| it.get_ref().as_str());
            let name = name.map(|it| format!(" {it:?}")).unwrap_or_default();
            self.error(at, &format!("{what}{name}: {message}"))
        })
    }
}

/// The key of a section that an error is about and does not name: without it there is another error, or
/// none.
fn blamed<T: for<'de> Deserialize<'de>>(table: &toml::Table, message: &str) -> Option<String> {
    // What is missing is no key of the section.
    if message.starts_with("missing field") {
        return None;
    }
    let is_blamed = |key: &&String| {
        let mut without = table.clone();
        without.remove(key.as_str());
        let again = T::deserialize(toml::Value::Table(without));
        again.err().is_none_or(|it| it.message() != message)
    };
    let mut blamed: Vec<&String> = table.keys().filter(is_blamed).collect();
    // Without its kind a section says nothing at all, which is another error, too.
    blamed.sort_by_key(|it| ["kind", "when"].contains(&it.as_str()));
    blamed.first().map(|it| (*it).clone())
}

impl AlertOptions {
    /// What is not set here is taken from `file`.
    pub fn or(self, file: AlertOptions) -> AlertOptions {
        let of_file = [
            (self.alert_webhook.is_none(), "--alert-webhook"),
            (self.alert_slack.is_none(), "--alert-slack"),
            (self.alert_alertmanager.is_none(), "--alert-alertmanager"),
            (self.alert_pagerduty.is_none(), "--alert-pagerduty"),
        ];
        let list = |set: Vec<_>, file: Vec<_>| if set.is_empty() { file } else { set };
        AlertOptions {
            alert_webhook: self.alert_webhook.or(file.alert_webhook),
            alert_webhook_secret: self.alert_webhook_secret.or(file.alert_webhook_secret),
            alert_slack: self.alert_slack.or(file.alert_slack),
            alert_alertmanager: self.alert_alertmanager.or(file.alert_alertmanager),
            alert_pagerduty: self.alert_pagerduty.or(file.alert_pagerduty),
            alert_email_to: list(self.alert_email_to, file.alert_email_to),
            alert_email_from: self.alert_email_from.or(file.alert_email_from),
            alert_smtp: self.alert_smtp.or(file.alert_smtp),
            alert_smtp_password: self.alert_smtp_password.or(file.alert_smtp_password),
            alert_allow_private: if self.alert_allow_private.is_empty() {
                file.alert_allow_private
            } else {
                self.alert_allow_private
            },
            of_file: of_file.iter().filter(|it| it.0).map(|it| it.1).collect(),
            sections: file.sections,
            ..AlertOptions::default()
        }
    }

    /// With the sections of a configuration file.
    pub fn with_sections(self, sections: Sections) -> AlertOptions {
        AlertOptions { sections, ..self }
    }

    /// The file's rules, and its path.
    pub fn rules(&self) -> (&[Rule], &str) {
        (&self.sections.rules, &self.sections.path)
    }

    /// Where channels that people set up may lead.
    pub fn trust(&self) -> Trust {
        Trust::Guarded {
            allow_private: self.alert_allow_private.clone(),
        }
    }

    /// Opens all channels of flags and of the file.
    ///
    /// # Errors
    /// One is wrong: says which and why, without secrets.
    pub fn open(&self) -> anyhow::Result<Vec<(Arc<Channel>, Source)>> {
        let mut opened: Vec<(Arc<Channel>, Source)> = Vec::new();
        for (flag, name, settings) in self.flags()? {
            let channel = Channel::open(name, &settings, &Trust::Trusted).map_err(|problem| {
                match self.of_file.contains(&flag) {
                    true => {
                        let (path, key) = (&self.sections.path, flag.trim_start_matches('-'));
                        anyhow!("the configuration file {path} is wrong: `{key}`: {problem}")
                    }
                    false => anyhow!("{flag}: {problem}"),
                }
            })?;
            opened.push((Arc::new(channel), Source::Flag));
        }
        for (name, settings, line) in &self.sections.channels {
            let place = || {
                let path = &self.sections.path;
                format!("the configuration file {path} is wrong in line {line}")
            };
            if let Some(other) = opened.iter().find(|it| it.0.name() == name) {
                let problem = anyhow!(
                    "--alert-{} sets up a channel of the name {name:?} already",
                    other.0.name()
                );
                return Err(problem.context(place()));
            }
            let channel = Channel::open(name, settings, &Trust::Trusted)
                .map_err(anyhow::Error::msg)
                .with_context(place)?;
            opened.push((Arc::new(channel), Source::File));
        }
        Ok(opened)
    }

    /// The channels of flags: the flag, a name, settings.
    fn flags(&self) -> anyhow::Result<Vec<(&'static str, &'static str, Settings)>> {
        let mut channels = Vec::new();
        match (&self.alert_webhook, &self.alert_webhook_secret) {
            (Some(url), secret) => {
                let (url, secret) = (url.clone(), secret.clone());
                channels.push((
                    "--alert-webhook",
                    "webhook",
                    Settings::Webhook { url, secret },
                ));
            }
            (None, Some(_)) => {
                bail!("--alert-webhook-secret signs what --alert-webhook sends: give that too")
            }
            (None, None) => {}
        }
        if let Some(url) = self.alert_slack.clone() {
            channels.push(("--alert-slack", "slack", Settings::Slack { url }));
        }
        if let Some(url) = self.alert_alertmanager.clone() {
            let settings = Settings::Alertmanager {
                url,
                bearer_token: None,
                username: None,
                password: None,
            };
            channels.push(("--alert-alertmanager", "alertmanager", settings));
        }
        if let Some(routing_key) = self.alert_pagerduty.clone() {
            let settings = Settings::Pagerduty {
                routing_key,
                url: None,
            };
            channels.push(("--alert-pagerduty", "pagerduty", settings));
        }
        if let Some(settings) = self.email()? {
            channels.push(("--alert-email", "email", settings));
        }
        Ok(channels)
    }

    fn email(&self) -> anyhow::Result<Option<Settings>> {
        let to = self.alert_email_to.clone();
        match (&self.alert_smtp, &self.alert_email_from, to.is_empty()) {
            (Some(smtp), Some(from), false) => Ok(Some(Settings::Email {
                smtp: smtp.clone(),
                password: self.alert_smtp_password.clone(),
                from: from.clone(),
                to,
            })),
            (None, None, true) if self.alert_smtp_password.is_none() => Ok(None),
            _ => bail!("mail needs --alert-smtp, --alert-email-from and --alert-email-to together"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ServeOptions;

    fn read(text: &str) -> anyhow::Result<ServeOptions> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("culprit.toml");
        std::fs::write(&path, text).unwrap();
        let options = ServeOptions {
            config: Some(path),
            ..ServeOptions::default()
        };
        options.with_file()
    }

    fn error(text: &str) -> String {
        let opened = read(text).and_then(|it| it.alerts.open());
        format!("{:#}", opened.unwrap_err())
    }

    #[test]
    fn keys_with_wrong_values_are_named_with_their_line() {
        for (line, key) in [
            ("severity = \"urgent\"", "severity"),
            ("for-seconds = -1", "for-seconds"),
            ("measure = \"p98\"", "measure"),
        ] {
            let rule = "[[alert-rule]]\nname = \"a\"\nwhen = \"threshold\"\nabove = 1\n";
            let error = error(&format!("{rule}{line}\n"));
            assert!(
                error.contains(&format!("line 5: alert-rule \"a\": `{key}`")),
                "{error}"
            );
        }
        let file = error("alert-webhook = \"http://x y\"");
        assert!(
            file.contains("configuration file") && file.contains("`alert-webhook`"),
            "{file}"
        );
    }

    const FILE: &str = r#"
public-url = "https://culprit.example"
alert-webhook = "http://127.0.0.1:9/hook"

[[alert-rule]]
name = "checkout"
when = "threshold"
measure = "p99"
above = 800
endpoint = "POST /checkout"
for-seconds = 120

[[alert-channel]]
name = "ops"
kind = "slack"
url = "https://hooks.slack.com/services/T/B/hush"

[[alert-channel]]
name = "cluster"
kind = "alertmanager"
url = "http://alertmanager:9093"
"#;

    #[test]
    fn the_file_has_rules_and_channels() {
        let options = read(FILE).unwrap();
        let (rules, path) = options.alerts.rules();
        assert_eq!(
            rules[0].to_string(),
            "p99 of POST /checkout above 800 ms over 5 minutes, for 2 minutes"
        );
        assert!(path.ends_with("culprit.toml"));
        let opened = options.alerts.open().unwrap();
        let lines: Vec<_> = opened.iter().map(|it| (it.0.name(), it.1.name())).collect();
        assert_eq!(
            lines,
            [("webhook", "flag"), ("ops", "file"), ("cluster", "file")]
        );
        let debug = format!("{options:?} {opened:?}");
        assert!(!debug.contains("hush"), "{debug}");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let cases = [
            (
                "above = 800",
                "above = -3",
                "line 9: alert-rule \"checkout\": `above`",
            ),
            (
                "measure",
                "mesure",
                "line 8: alert-rule \"checkout\": unknown field `mesure`",
            ),
            (
                "when = \"threshold\"\n",
                "",
                "line 5: alert-rule \"checkout\": missing field `when`",
            ),
            (
                "name = \"ops\"\n",
                "",
                "line 13: alert-channel \"\": A name has",
            ),
            (
                "name = \"cluster\"",
                "name = \"ops\"",
                "line 18: alert-channel \"ops\": there is another",
            ),
            (
                "name = \"cluster\"",
                "name = \"webhook\"",
                "line 18: --alert-webhook sets up a channel of the name",
            ),
            (
                "kind = \"slack\"",
                "kind = \"slak\"",
                "line 15: alert-channel \"ops\": `kind`: unknown variant `slak`",
            ),
            (
                "url = \"https://hooks",
                "ulr = \"https://hooks",
                "line 16: alert-channel \"ops\": unknown field `ulr`",
            ),
            (
                "http://alertmanager:9093",
                "alertmanager",
                "line 18: the alertmanager channel \"cluster\"",
            ),
            ("[[alert-rule]]", "[alert-rule]", "line 5"),
        ];
        for (old, new, wanted) in cases {
            assert!(FILE.contains(old), "{old}");
            let error = error(&FILE.replacen(old, new, 1));
            assert!(error.contains(wanted), "{wanted}\n{error}");
            assert!(!error.contains("hush"), "{error}");
        }
    }

    #[test]
    fn flags_say_what_is_missing_and_never_a_secret() {
        let missing = |alerts: AlertOptions| format!("{:#}", alerts.open().unwrap_err());
        let mail = AlertOptions {
            alert_email_to: vec!["ops@example.com".into()],
            ..AlertOptions::default()
        };
        assert!(missing(mail).contains("--alert-smtp"));
        let secret = AlertOptions {
            alert_webhook_secret: Some(SecretText::new("hush")),
            ..AlertOptions::default()
        };
        assert!(missing(secret).contains("give that too"));
        let wrong = AlertOptions {
            alert_webhook: Some(SecretText::new("hush:/secret")),
            alert_webhook_secret: Some(SecretText::new("whsec_hush")),
            ..AlertOptions::default()
        };
        assert!(!format!("{wrong:?}").contains("hush"));
        let error = missing(wrong);
        assert!(
            error.starts_with("--alert-webhook:") && !error.contains("hush"),
            "{error}"
        );
        let slack = AlertOptions {
            alert_slack: Some(SecretText::new("env:CULPRIT_NOT_THERE")),
            ..AlertOptions::default()
        };
        assert!(missing(slack).contains("CULPRIT_NOT_THERE is not set"));
    }
}
