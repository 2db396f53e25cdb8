//! What a channel needs to know: the same form in the configuration file, over the API and in the
//! database.

use serde::{Deserialize, Serialize};

use super::channel::Kind;
use super::secret::SecretText;

/// Where alerts go, and how. Secrets may be written as `env:NAME` or `file:/path`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(
    tag = "kind",
    rename_all = "kebab-case",
    rename_all_fields = "kebab-case",
    deny_unknown_fields
)]
pub enum Settings {
    /// A POST after Standard Webhooks 1.0.
    Webhook {
        /// `https://…`; may hold a token.
        url: SecretText,
        /// `whsec_…`; several, separated by spaces, while keys are rotated.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        secret: Option<SecretText>,
    },
    /// An incoming webhook of Slack.
    Slack {
        /// `https://hooks.slack.com/services/…`
        url: SecretText,
    },
    /// Prometheus Alertmanager, API v2.
    Alertmanager {
        /// `http://alertmanager:9093`
        url: String,
        /// Sent as `authorization: Bearer …`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bearer_token: Option<SecretText>,
        /// For basic authentication, with `password`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        username: Option<String>,
        /// For basic authentication, with `username`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        password: Option<SecretText>,
    },
    /// PagerDuty Events API v2.
    Pagerduty {
        /// The integration key.
        routing_key: SecretText,
        /// The service region's address; the one of the US if none is given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        url: Option<String>,
    },
    /// Mail over SMTP.
    Email {
        /// `smtps://user@host:465` (TLS), `smtp://user@host:587` (STARTTLS, required), or without
        /// encryption, if trusted, `smtp://host:25?tls=off`.
        smtp: String,
        /// Of the user in `smtp`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        password: Option<SecretText>,
        /// `culprit <culprit@example.com>`
        from: String,
        /// Addresses; at least one.
        to: Vec<String>,
    },
}

impl Settings {
    /// Which kind of channel they are for.
    pub fn kind(&self) -> Kind {
        match self {
            Settings::Webhook { .. } => Kind::Webhook,
            Settings::Slack { .. } => Kind::Slack,
            Settings::Alertmanager { .. } => Kind::Alertmanager,
            Settings::Pagerduty { .. } => Kind::Pagerduty,
            Settings::Email { .. } => Kind::Email,
        }
    }

    /// The same with `…` for literal secrets, to be shown.
    pub fn redacted(&self) -> Settings {
        let mut shown = self.clone();
        for secret in shown.secrets_mut() {
            *secret = secret.redacted();
        }
        shown
    }

    fn secrets_mut(&mut self) -> Vec<&mut SecretText> {
        match self {
            Settings::Webhook { url, secret } => {
                std::iter::once(url).chain(secret.as_mut()).collect()
            }
            Settings::Slack { url } => vec![url],
            Settings::Alertmanager {
                bearer_token,
                password,
                ..
            } => bearer_token.iter_mut().chain(password.iter_mut()).collect(),
            Settings::Pagerduty { routing_key, .. } => vec![routing_key],
            Settings::Email { password, .. } => password.iter_mut().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// As a table of the configuration file may embed it.
    #[derive(Debug, Deserialize)]
    struct Named {
        name: String,
        #[serde(flatten)]
        settings: Settings,
    }

    #[test]
    fn the_form_is_the_same_everywhere() {
        let examples = [
            json!({"kind": "webhook", "url": "https://hooks.example/x", "secret": "env:KEY"}),
            json!({"kind": "slack", "url": "file:/run/secrets/slack"}),
            json!({"kind": "alertmanager", "url": "http://am:9093", "bearer-token": "t"}),
            json!({"kind": "pagerduty", "routing-key": "env:PD"}),
            json!({"kind": "email", "smtp": "smtps://u@mx.example", "from": "c@x.example", "to": ["o@x.example"]}),
        ];
        for example in examples {
            let settings: Settings = serde_json::from_value(example.clone()).unwrap();
            assert_eq!(serde_json::to_value(&settings).unwrap(), example);
            assert_eq!(settings.kind().name(), example["kind"]);
        }
    }

    #[test]
    fn a_name_may_stand_beside_them_and_a_typo_is_told() {
        let named: Named =
            serde_json::from_value(json!({"name": "ops", "kind": "slack", "url": "https://x"}))
                .unwrap();
        assert_eq!(
            (named.name.as_str(), named.settings.kind()),
            ("ops", Kind::Slack)
        );
        let typo = json!({"name": "ops", "kind": "slack", "url": "https://x", "chanel": "#ops"});
        let error = serde_json::from_value::<Named>(typo)
            .unwrap_err()
            .to_string();
        assert!(error.contains("chanel"), "{error}");
    }

    #[test]
    fn secrets_are_not_shown() {
        let settings: Settings = serde_json::from_value(json!({
            "kind": "webhook", "url": "https://hooks.example/t0ken", "secret": "env:KEY"
        }))
        .unwrap();
        let shown = serde_json::to_string(&settings.redacted()).unwrap();
        assert_eq!(shown, r#"{"kind":"webhook","url":"…","secret":"env:KEY"}"#);
        assert!(!format!("{settings:?}").contains("t0ken"));
    }
}
