//! Mail over SMTP.

use uuid::Uuid;

use super::channel::{Delivery, failed};
use super::guard::Trust;
use super::notification::Notification;
use super::secret::SecretText;

/// A mail server and those who get mail.
#[derive(Clone, Debug)]
pub struct Email {}

impl Email {
    /// As its settings say.
    ///
    /// # Errors
    /// Something is not what it should be.
    pub fn open(
        _: &str,
        _: Option<&SecretText>,
        _: &str,
        _: &[String],
        _: &Trust,
    ) -> Result<Email, String> {
        Ok(Email {})
    }

    /// Where it leads, without secrets.
    pub fn shown(&self) -> String {
        String::new()
    }

    /// Sends.
    pub async fn deliver(&self, _: Uuid, _: &Notification, _: &str) -> Delivery {
        failed("mail cannot be sent yet")
    }
}
