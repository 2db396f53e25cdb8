//! The outbox's worker: what is queued is delivered at least once, with the same id in every
//! attempt, so that receivers can tell a repetition.

pub mod notification;
pub mod rule;
pub mod defaults;
pub mod settings;
pub mod secret;
pub mod guard;
pub mod channel;
mod webhook;
mod slack;
pub mod alertmanager;
mod pagerduty;
mod email;
mod wording;
mod shrink;
mod rfc3339;
mod http;
mod dial;

use futures_util::FutureExt;
use std::panic::AssertUnwindSafe;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

use crate::store::Store;
use crate::store::outbox::Message;
pub use channel::{Channel, Delivery, Kind};
pub use guard::{Cidr, Trust};
pub use settings::Settings;
pub use webhook::{Secret, Webhook};

/// The outbox's name for the generic webhook.
pub const CHANNEL_WEBHOOK: &str = "webhook";

/// How often the outbox is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Messages claimed at once: a claim must outlast the delivery, so one after the other.
const MESSAGES_MAX: i64 = 1;

/// When a message that failed is tried again, by the number of attempts so far: the schedule of
/// Standard Webhooks. After the last one it is dead and stays in the outbox for people to see.
const RETRY_AFTER_S: [f64; 9] = [
    5.0, 300.0, 1_800.0, 7_200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0,
];

/// Where alerts go.
#[derive(Clone, Debug)]
pub struct Alerting {
    /// The receiver.
    pub webhook: Webhook,
    /// Where people reach the UI; links in messages begin with it.
    pub public_url: String,
}

/// Delivers what is queued until `shutdown`.
pub async fn run(store: Store, alerting: Alerting, shutdown: CancellationToken) {
    while !shutdown.is_cancelled() {
        match store.claim_messages(MESSAGES_MAX).await {
            Ok(messages) if !messages.is_empty() => {
                for message in messages {
                    // A bug here must not end the process; the message is claimed again later.
                    let delivery = AssertUnwindSafe(deliver(&store, &alerting, message));
                    if delivery.catch_unwind().await.is_err() {
                        tracing::error!("the delivery of an alert panicked, see above");
                    }
                }
                continue;
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "the outbox cannot be read"),
        }
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

async fn deliver(store: &Store, alerting: &Alerting, message: Message) {
    let id = message.id;
    let retry_after = RETRY_AFTER_S
        .get(message.attempts.max(1) as usize - 1)
        .copied();
    let delivery = alerting.webhook.post(id, &message.body).await;
    let noted = match &delivery {
        Delivery::Delivered => store.message_delivered(id).await,
        Delivery::Failed { error, .. } => {
            store
                .message_failed(id, error, retry_after.map(jittered))
                .await
        }
        Delivery::Rejected(error) | Delivery::Gone(error) => {
            store.message_failed(id, error, None).await
        }
    };
    match delivery {
        Delivery::Delivered => tracing::info!(%id, "an alert is delivered"),
        Delivery::Failed { error, .. } | Delivery::Rejected(error) | Delivery::Gone(error) => {
            tracing::warn!(%id, error, attempt = message.attempts, "an alert is not delivered");
        }
    }
    if let Err(error) = noted {
        tracing::warn!(%id, %error, "the delivery cannot be noted; it may be repeated");
    }
}

/// Up to a tenth more, so that messages that failed together do not return together.
fn jittered(seconds: f64) -> f64 {
    let nanos = std::time::SystemTime::now()
        .duration_since(std::time::SystemTime::UNIX_EPOCH)
        .map_or(0, |it| it.subsec_nanos());
    seconds * (1.0 + f64::from(nanos % 1_000) / 10_000.0)
}
