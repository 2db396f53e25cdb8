//! Values nobody may read: how they are written in settings, and where they are read from.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::Read;

use super::guard::Trust;

/// Bytes of a secret's file: a token or a certificate is shorter; a longer file is a wrong path.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// What names of environment variables must begin with when the UI or the API refers to them.
pub const ENV_PREFIX: &str = "CULPRIT_SECRET_";

/// A secret as it is written: literally, or as `env:NAME` or `file:/path`. Never printed if literal.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretText(String);

impl SecretText {
    /// As it is written.
    pub fn new(text: impl Into<String>) -> SecretText {
        SecretText(text.into())
    }

    /// Only says where the secret is; may be shown.
    pub fn is_reference(&self) -> bool {
        self.0.starts_with("env:") || self.0.starts_with("file:")
    }

    /// Nothing is written.
    pub fn is_empty(&self) -> bool {
        self.0.trim().is_empty()
    }

    /// The same, with `…` instead of a literal secret.
    pub fn redacted(&self) -> SecretText {
        if self.is_reference() || self.is_empty() {
            self.clone()
        } else {
            SecretText::new("…")
        }
    }

    /// The secret itself, read now.
    ///
    /// # Errors
    /// There is none where it is said to be, or these settings may not refer to it. `what` names
    /// the setting; the text never holds the secret.
    pub fn read(&self, what: &str, trust: &Trust) -> Result<String, String> {
        let text = self.0.trim();
        let secret = if let Some(name) = text.strip_prefix("env:") {
            from_env(what, name, trust)?
        } else if let Some(path) = text.strip_prefix("file:") {
            from_file(what, path, trust)?
        } else {
            text.to_owned()
        };
        if secret.is_empty() {
            return Err(format!("{what} is empty"));
        }
        if secret.chars().any(char::is_control) {
            return Err(format!("{what} holds control characters"));
        }
        Ok(secret)
    }
}

/// Whoever may write settings in the UI may send secrets to a receiver of their own: only those
/// that are meant for channels may be referred to.
fn from_env(what: &str, name: &str, trust: &Trust) -> Result<String, String> {
    if trust.is_guarded() && !name.starts_with(ENV_PREFIX) {
        return Err(format!(
            "{what}: settings made in the UI or over the API may only refer to environment \
             variables that begin with {ENV_PREFIX}"
        ));
    }
    let value = std::env::var(name)
        .map_err(|_| format!("{what}: the environment variable {name} is not set"))?;
    Ok(value.trim().to_owned())
}

fn from_file(what: &str, path: &str, trust: &Trust) -> Result<String, String> {
    if trust.is_guarded() {
        return Err(format!(
            "{what}: settings made in the UI or over the API may not refer to files; name an \
             environment variable instead, env:{ENV_PREFIX}…"
        ));
    }
    let cannot = |error: &dyn fmt::Display| format!("{what}: cannot read {path}: {error}");
    let file = std::fs::File::open(path).map_err(|error| cannot(&error))?;
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|error| cannot(&error))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(cannot(&"it is longer than 64 KiB"));
    }
    Ok(text.trim().to_owned())
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted().0)
    }
}

impl From<&str> for SecretText {
    fn from(text: &str) -> SecretText {
        SecretText::new(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guarded() -> Trust {
        Trust::Guarded {
            allow_private: Vec::new(),
        }
    }

    #[test]
    fn a_literal_is_never_printed() {
        let secret = SecretText::new("hunter2");
        assert_eq!(format!("{secret:?}"), "…");
        assert_eq!(format!("{:?}", SecretText::new("env:X")), "env:X");
        assert_eq!(secret.read("secret", &guarded()).unwrap(), "hunter2");
    }

    #[test]
    fn files_are_read_for_the_trusted_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        std::fs::write(&path, "t0ken\n").unwrap();
        let secret = SecretText::new(format!("file:{}", path.display()));
        assert_eq!(secret.read("token", &Trust::Trusted).unwrap(), "t0ken");
        let refused = secret.read("token", &guarded()).unwrap_err();
        assert!(refused.contains("may not refer to files"), "{refused}");

        std::fs::write(&path, "x".repeat(70_000)).unwrap();
        assert!(secret.read("token", &Trust::Trusted).is_err());
        std::fs::write(&path, "\n").unwrap();
        let empty = secret.read("token", &Trust::Trusted).unwrap_err();
        assert_eq!(empty, "token is empty");
    }

    /// `PATH` is set in every test; writing the environment would disturb the others.
    #[test]
    fn the_environment_is_read_for_the_trusted_only() {
        let path = SecretText::new("env:PATH");
        assert!(path.read("token", &Trust::Trusted).is_ok());
        let refused = path.read("token", &guarded()).unwrap_err();
        assert!(refused.contains("CULPRIT_SECRET_"), "{refused}");
        let unset = SecretText::new("env:CULPRIT_SECRET_NOT_THERE");
        let missing = unset.read("token", &guarded()).unwrap_err();
        assert!(missing.contains("is not set"), "{missing}");
    }

    #[test]
    fn a_secret_cannot_add_a_header() {
        let secret = SecretText::new("a\r\nx-evil: 1");
        assert!(secret.read("token", &Trust::Trusted).is_err());
    }
}
