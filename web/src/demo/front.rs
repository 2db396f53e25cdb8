//! What stands before the shop's instances, as a load balancer does: its address stays, and behind it one
//! version takes over from another without a request that fails.
//!
//! ```text
//!               ┌──▶ 1.0.0   finishes the requests it has
//! traffic ──▶ front
//!               └──▶ 1.1.0   gets all others
//! ```

use std::convert::Infallible;
use std::sync::{Arc, PoisonError, RwLock};

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use tokio::sync::mpsc;
use tower::Service as _;

/// Sends each request to the instance that is current when it arrives.
#[derive(Clone)]
pub struct Front(Arc<RwLock<Instance>>);

/// An instance, and who has to do with it: the front as long as it is current, and each request that it
/// has not answered yet.
#[derive(Clone)]
struct Instance {
    router: Router,
    /// Nothing is ever sent. Once every clone of it is gone, nobody waits for this instance any more.
    _user: mpsc::Sender<Infallible>,
}

/// An instance's requests.
pub struct UnderWay(mpsc::Receiver<Infallible>);

impl Instance {
    fn new(router: Router) -> (Instance, UnderWay) {
        let (_user, under_way) = mpsc::channel(1);
        (Instance { router, _user }, UnderWay(under_way))
    }
}

impl UnderWay {
    /// Waits until the instance is not current any more and its last request is answered.
    pub async fn finished(mut self) {
        self.0.recv().await;
    }
}

impl Front {
    /// With a first instance.
    pub fn new(instance: Router) -> (Front, UnderWay) {
        let (instance, under_way) = Instance::new(instance);
        (Front(Arc::new(RwLock::new(instance))), under_way)
    }

    /// From here on, new requests go to `instance`. The one before keeps those it has.
    pub fn switch_to(&self, instance: Router) -> UnderWay {
        let (instance, under_way) = Instance::new(instance);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = instance;
        under_way
    }

    /// To be served at the address that stays.
    pub fn router(&self) -> Router {
        Router::new().fallback(pass_on).with_state(self.clone())
    }

    fn current(&self) -> Instance {
        let current = self.0.read().unwrap_or_else(PoisonError::into_inner);
        current.clone()
    }
}

async fn pass_on(State(front): State<Front>, request: Request) -> Response {
    let mut instance = front.current();
    match instance.router.call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use axum::extract::MatchedPath;
    use axum::routing::get;
    use futures_util::poll;
    use std::pin::pin;
    use tokio::sync::Notify;

    /// Answers with its name and the route, once it may.
    fn instance(name: &'static str, may_answer: &Arc<Notify>) -> Router {
        let may_answer = may_answer.clone();
        let answer = async move |route: MatchedPath| {
            may_answer.notified().await;
            format!("{name} {}", route.as_str())
        };
        Router::new().route("/products/{id}", get(answer))
    }

    async fn ask(mut front: Router) -> String {
        let request = Request::get("/products/7").body(Body::empty()).unwrap();
        let response = front.call(request).await.unwrap();
        let body = axum::body::to_bytes(response.into_body(), 100).await;
        String::from_utf8(body.unwrap().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn who_has_begun_finishes_with_the_old_one() {
        let may_answer = Arc::new(Notify::new());
        let (front, old) = Front::new(instance("old", &may_answer));
        let asked_before = tokio::spawn(ask(front.router()));
        // On this single thread, it now runs until it waits.
        tokio::task::yield_now().await;
        let new = front.switch_to(instance("new", &may_answer));
        let asked_after = tokio::spawn(ask(front.router()));
        tokio::task::yield_now().await;

        let mut old = pin!(old.finished());
        assert!(poll!(&mut old).is_pending(), "it has a request");
        may_answer.notify_one();
        assert_eq!(asked_before.await.unwrap(), "old /products/{id}");
        old.await;
        may_answer.notify_one();
        assert_eq!(asked_after.await.unwrap(), "new /products/{id}");
        let mut new = pin!(new.finished());
        assert!(poll!(&mut new).is_pending(), "it is the current one");
    }
}
