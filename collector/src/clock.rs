//! The clock of this machine, and waiting by it. Pure code gets its time as an argument.

use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio_util::sync::CancellationToken;

/// ns since the epoch; 0 if the clock stands before it.
pub fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |it| u64::try_from(it.as_nanos()).unwrap_or(u64::MAX))
}

/// ms since the epoch; 0 if the clock stands before it.
pub fn now_ms() -> i64 {
    (now_ns() / 1_000_000) as i64
}

/// Waits, or until the process is to end.
pub async fn pause(duration: Duration, shutdown: &CancellationToken) {
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = tokio::time::sleep(duration) => {}
    }
}
