//! A channel's settings as a form, and as somebody sends them over the API: secrets come in and never go out
//! again.
//!
//! An empty secret means "as before". It is only kept while what it is sent to stays the same: else
//! whoever may change a channel could have its secrets sent to themselves.

use collector::alert::channel::Kind;
use collector::alert::settings::Settings;
use collector::store::channels::StoredChannel;
use serde_json::{Map, Value, json};

use super::inputs::{Control, Input, Problems, named_key, sentence};

/// A setting of a kind of channel.
pub struct Setting {
    /// As in the configuration file.
    pub key: &'static str,
    label: &'static str,
    hint: &'static str,
    placeholder: &'static str,
    required: bool,
    /// Nobody is shown it.
    secret: bool,
    /// Several, separated by commas.
    list: bool,
    /// Secrets are sent there.
    address: bool,
}

const fn setting(key: &'static str, label: &'static str, hint: &'static str) -> Setting {
    Setting {
        key,
        label,
        hint,
        placeholder: "",
        required: false,
        secret: false,
        list: false,
        address: false,
    }
}

const SECRET_HINT: &str =
    "Or env:CULPRIT_SECRET_…, the name of an environment variable of culprit.";

/// What a kind of channel asks.
pub fn asked_of(kind: Kind) -> Vec<Setting> {
    let required = |it: Setting| Setting {
        required: true,
        ..it
    };
    let secret = |it: Setting| Setting { secret: true, ..it };
    let address = |it: Setting| Setting {
        address: true,
        ..it
    };
    match kind {
        Kind::Webhook => vec![
            secret(required(Setting {
                placeholder: "https://hooks.example.com/culprit",
                ..setting(
                    "url",
                    "URL",
                    "Messages are posted there. It may hold a token, so it is treated as a secret.",
                )
            })),
            secret(Setting {
                placeholder: "whsec_…",
                ..setting(
                    "secret",
                    "Signing secret",
                    "whsec_ and base64 of 24 to 64 bytes, as Standard Webhooks have it. Without one messages are not signed.",
                )
            }),
        ],
        Kind::Slack => vec![secret(required(Setting {
            placeholder: "https://hooks.slack.com/services/…",
            ..setting(
                "url",
                "Incoming webhook",
                "The URL that Slack gave you. Whoever knows it can post, so it is treated as a secret.",
            )
        }))],
        Kind::Alertmanager => vec![
            address(required(Setting {
                placeholder: "https://alertmanager.example.com",
                ..setting("url", "URL", "Without /api/v2/alerts.")
            })),
            secret(setting("bearer-token", "Bearer token", SECRET_HINT)),
            setting(
                "username",
                "User",
                "For basic authentication, with a password.",
            ),
            secret(setting("password", "Password", SECRET_HINT)),
        ],
        Kind::Pagerduty => vec![
            secret(required(setting(
                "routing-key",
                "Integration key",
                "Of a service's Events API v2 integration.",
            ))),
            address(Setting {
                placeholder: "https://events.pagerduty.com/v2/enqueue",
                ..setting("url", "URL", "Only if it is not the one of the US region.")
            }),
        ],
        Kind::Email => vec![
            address(required(Setting {
                placeholder: "smtps://user@mail.example.com",
                ..setting(
                    "smtp",
                    "SMTP server",
                    "smtps://user@host (TLS), or smtp://user@host:587 (STARTTLS).",
                )
            })),
            secret(setting("password", "Password", SECRET_HINT)),
            required(Setting {
                placeholder: "culprit <culprit@example.com>",
                ..setting("from", "From", "")
            }),
            Setting {
                list: true,
                ..required(setting("to", "To", "Addresses, separated by commas."))
            },
        ],
    }
}

/// The keys of a kind's settings.
pub fn keys_of(kind: Kind) -> Vec<&'static str> {
    asked_of(kind).into_iter().map(|it| it.key).collect()
}

/// A kind of channel by its name.
pub fn kind_of(name: &str) -> Option<Kind> {
    Kind::ALL.into_iter().find(|it| it.name() == name)
}

/// A stored channel's settings; `None` if there are none, or this program cannot read them.
pub fn stored(channel: &StoredChannel) -> Option<Settings> {
    serde_json::from_value(channel.settings.clone()).ok()
}

/// How a kind is called.
pub fn title(kind: Kind) -> &'static str {
    match kind {
        Kind::Webhook => "Webhook",
        Kind::Slack => "Slack",
        Kind::Alertmanager => "Alertmanager",
        Kind::Pagerduty => "PagerDuty",
        Kind::Email => "Email",
    }
}

/// The fields of a channel. `old` are its settings so far, of which secrets are only told to be there;
/// `sent` what somebody filled in, secrets left out.
pub fn inputs(
    kind: Kind,
    old: Option<&Settings>,
    sent: impl Fn(&str) -> Option<String>,
) -> Vec<Input> {
    let shown = shown(old);
    let input = |it: Setting| {
        let known = &shown[it.key];
        let is_set = !known.is_null();
        let reference = known.as_str().filter(|it| it.starts_with("env:"));
        let value = match (it.secret, sent(it.key)) {
            (false, Some(sent)) => sent,
            (false, None) => text_of(known),
            (true, _) => reference.unwrap_or_default().to_owned(),
        };
        let placeholder = match it.secret && is_set {
            true => "unchanged",
            false => it.placeholder,
        };
        let control = if it.secret {
            Control::Secret
        } else {
            Control::Text
        };
        let input = Input::text(it.key, it.label, value)
            .hint(it.hint)
            .placeholder(placeholder)
            .control(control);
        match it.required && !(it.secret && is_set) {
            true => input.required(),
            false => input,
        }
    };
    asked_of(kind).into_iter().map(input).collect()
}

fn text_of(value: &Value) -> String {
    match value {
        Value::String(it) => it.clone(),
        Value::Array(all) => {
            let texts: Vec<&str> = all.iter().filter_map(Value::as_str).collect();
            texts.join(", ")
        }
        _ => String::new(),
    }
}

/// Settings without secrets, as JSON.
pub fn shown(settings: Option<&Settings>) -> Value {
    let shown = settings.map(|it| serde_json::to_value(it.redacted()).unwrap_or_default());
    shown.unwrap_or_default()
}

/// The settings that somebody wants: `sent` gives what was filled in, empty secrets stay as in `old`.
///
/// # Errors
/// What is missing or cannot be read, by key; never with a secret in it.
pub fn settings(
    kind: Kind,
    old: Option<&Settings>,
    sent: impl Fn(&str) -> String,
) -> Result<Settings, Problems> {
    let old = old.filter(|it| it.kind() == kind);
    let kept = old.map(|it| serde_json::to_value(it).unwrap_or_default());
    let kept = kept.unwrap_or_default();
    let all = asked_of(kind);
    let moved = all
        .iter()
        .filter(|it| it.address)
        .any(|it| text_of(&kept[it.key]) != sent(it.key));
    let mut problems = Problems::new();
    let mut written = Map::new();
    written.insert("kind".into(), json!(kind.name()));
    for it in &all {
        let text = sent(it.key);
        let value = match text.as_str() {
            "" if it.secret && !kept[it.key].is_null() && moved => {
                let again = "Enter it again: it is not sent to another address than before.";
                problems.push((it.key.into(), again.into()));
                continue;
            }
            "" if it.secret => kept[it.key].clone(),
            "" => Value::Null,
            text if it.list => {
                let parts = text.split([',', '\n']).map(str::trim);
                json!(parts.filter(|it| !it.is_empty()).collect::<Vec<_>>())
            }
            text => json!(text),
        };
        if value.is_null() {
            if it.required {
                problems.push((it.key.into(), format!("{} is needed.", it.label)));
            }
            continue;
        }
        written.insert(it.key.into(), value);
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    serde_json::from_value(Value::Object(written)).map_err(|error| about(kind, &error.to_string()))
}

/// An error of a channel's settings, beside the field that it names.
pub fn about(kind: Kind, error: &str) -> Problems {
    let keys = keys_of(kind);
    let quoted = named_key(error, &keys);
    // Else by the word in front of what is wrong with it.
    let word = keys.iter().find(|key| error.contains(&format!(": {key}")));
    let key = quoted.or(word.copied()).unwrap_or_default();
    vec![(key.to_owned(), sentence(error))]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: Kind, old: Option<&Settings>, sent: &[(&str, &str)]) -> Result<Settings, Problems> {
        settings(kind, old, |key| {
            let found = sent.iter().find(|it| it.0 == key);
            found.map_or_else(String::new, |it| it.1.to_owned())
        })
    }

    #[test]
    fn an_empty_secret_stays_as_it_was() {
        let first = [("url", "https://a.example/hush"), ("secret", "whsec_hush")];
        let old = of(Kind::Webhook, None, &first).unwrap();
        assert_eq!(of(Kind::Webhook, Some(&old), &[]).unwrap(), old);
        let new = of(Kind::Webhook, Some(&old), &[("secret", "whsec_new")]).unwrap();
        let new = serde_json::to_value(&new).unwrap();
        assert_eq!(
            (&new["url"], &new["secret"]),
            (&json!("https://a.example/hush"), &json!("whsec_new"))
        );
        let missing = of(Kind::Webhook, None, &[]).unwrap_err();
        assert_eq!(missing, [("url".to_owned(), "URL is needed.".to_owned())]);
        // Another kind's secrets are none of its.
        assert!(of(Kind::Slack, Some(&old), &[]).is_err());
    }

    #[test]
    fn a_kept_secret_is_not_sent_elsewhere() {
        let first = [("url", "https://am.example"), ("bearer-token", "hush")];
        let old = of(Kind::Alertmanager, None, &first).unwrap();
        assert_eq!(
            of(Kind::Alertmanager, Some(&old), &first[..1]).unwrap(),
            old
        );
        let moved = [("url", "https://evil.example")];
        let problems = of(Kind::Alertmanager, Some(&old), &moved).unwrap_err();
        assert_eq!(problems.len(), 1);
        assert!(
            problems[0].0 == "bearer-token" && problems[0].1.contains("again"),
            "{problems:?}"
        );
        let again = [("url", "https://evil.example"), ("bearer-token", "other")];
        assert!(of(Kind::Alertmanager, Some(&old), &again).is_ok());
    }

    #[test]
    fn forms_tell_that_a_secret_is_there_and_no_more() {
        let first = [
            ("smtp", "smtps://u@mx.example"),
            ("password", "hush"),
            ("from", "a@x.example"),
            ("to", "b@x.example, c@x.example"),
        ];
        let old = of(Kind::Email, None, &first).unwrap();
        let inputs = inputs(Kind::Email, Some(&old), |_| None);
        let line = |key: &str| {
            let it = inputs.iter().find(|it| it.key == key).unwrap();
            (it.value.clone(), it.placeholder)
        };
        assert_eq!(line("password"), (String::new(), "unchanged"));
        assert_eq!(line("to").0, "b@x.example, c@x.example");
        let sent = super::inputs(Kind::Email, None, |_| Some("hush".into()));
        assert!(
            sent.iter()
                .all(|it| it.key != "password" || it.value.is_empty())
        );
    }

    #[test]
    fn every_setting_is_known_to_its_kind() {
        for kind in Kind::ALL {
            let all = asked_of(kind);
            let sent: Vec<_> = all.iter().map(|it| (it.key, "x")).collect();
            let settings = of(kind, None, &sent).unwrap();
            let written = serde_json::to_value(&settings).unwrap();
            assert_eq!(written.as_object().unwrap().len(), all.len() + 1);
            assert_eq!(kind_of(kind.name()), Some(kind));
        }
    }
}
