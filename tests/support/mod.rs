//! What the tests share: a culprit process, spans to send, and questions to ask.

pub mod culprit;
pub mod database;
pub mod external;
pub mod http;
pub mod process;
pub mod spans;

use std::time::{Duration, Instant};

/// Whatever is waited for happens within this time, also on a busy machine and after many crashes, when
/// what was being analysed at several of them is taken one trace at a time.
const PATIENCE: Duration = Duration::from_secs(240);

/// Asks again and again until there is an answer; panics with `what` when patience ends.
pub async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut ask: impl FnMut() -> F,
) -> T {
    let since = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(
            since.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {what}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
