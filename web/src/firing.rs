//! How many alerts fire: told on every page.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use collector::store::Store;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The number may be this old: a page with many visitors must not ask for it each time.
const FRESH_FOR: Duration = Duration::from_secs(1);

/// A page does not wait longer for the number; it is then left out.
const PATIENCE: Duration = Duration::from_millis(500);

/// While the database does not answer, it is asked again only after this.
const ASKED_AGAIN_AFTER: Duration = Duration::from_secs(10);

tokio::task_local! {
    static FIRING: i64;
}

/// How many alerts fire that nobody has silenced, as the page now being made tells.
pub fn current() -> i64 {
    FIRING.try_with(|it| *it).unwrap_or_default()
}

/// Asks, and remembers the answer for a moment.
#[derive(Clone)]
pub struct Firing {
    store: Store,
    /// The last answer, and until when it is good.
    known: Arc<Mutex<Option<(i64, Instant)>>>,
}

impl Firing {
    /// Asks `store`.
    pub fn new(store: Store) -> Firing {
        let known = Arc::default();
        Firing { store, known }
    }

    async fn count(&self) -> i64 {
        let known = *self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((count, _)) = known.filter(|it| Instant::now() < it.1) {
            return count;
        }
        let asked = tokio::time::timeout(PATIENCE, self.store.firing_count()).await;
        let (count, good_for) = match asked {
            Ok(Ok(count)) => (count, FRESH_FOR),
            _ => (0, ASKED_AGAIN_AFTER),
        };
        let until = Instant::now() + good_for;
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some((count, until));
        count
    }
}

/// Counts before the page is made.
pub async fn tell(State(firing): State<Firing>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if path.starts_with("/static/") || path.starts_with("/api/") {
        return next.run(request).await;
    }
    let count = firing.count().await;
    FIRING.scope(count, next.run(request)).await
}
