//! How old what pages show is: worth saying when they are read from a replica that has fallen behind.

use axum::extract::{Request, State};
use axum::http::HeaderValue;
use axum::http::header::HeaderName;
use axum::middleware::Next;
use axum::response::Response;
use collector::store::Store;
use std::time::Duration;

/// Replicas are always a moment behind; from here on it can confuse.
const WORTH_SAYING: Duration = Duration::from_secs(10);

/// Tells programs what pages tell people: whole seconds.
const HEADER: HeaderName = HeaderName::from_static("culprit-data-age");

tokio::task_local! {
    static AGE: Duration;
}

/// The age of what the page now being made shows, in words, if it is worth saying.
pub fn current() -> Option<String> {
    AGE.try_with(|age| match age.as_secs() {
        seconds @ 0..120 => format!("{seconds} seconds"),
        seconds @ 120..7_200 => format!("{} minutes", seconds / 60),
        seconds => format!("{} hours", seconds / 3_600),
    })
    .ok()
}

/// Asks the replica how far it is behind before the page is made. Costs a store that is none nothing.
pub async fn tell(State(store): State<Store>, request: Request, next: Next) -> Response {
    if !store.is_replica() || request.uri().path().starts_with("/static/") {
        return next.run(request).await;
    }
    // A page that cannot be made says so itself.
    let age = store.lag().await.ok().flatten();
    match age.filter(|age| *age >= WORTH_SAYING) {
        Some(age) => {
            let mut response = AGE.scope(age, next.run(request)).await;
            let headers = response.headers_mut();
            headers.insert(HEADER, HeaderValue::from(age.as_secs()));
            response
        }
        None => next.run(request).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_age_is_told_in_words_within_its_page_only() {
        assert_eq!(current(), None);
        let told = |seconds| AGE.scope(Duration::from_secs(seconds), async { current() });
        assert_eq!(told(11).await.as_deref(), Some("11 seconds"));
        assert_eq!(told(600).await.as_deref(), Some("10 minutes"));
        assert_eq!(told(7_200).await.as_deref(), Some("2 hours"));
    }
}
