//! As somebody new would: from the front page to each planted culprit by clicking, and its page alone says
//! what is wrong and what to change.

use super::story::Story;
use super::{Browser, Look};

/// Where, what its page must say is the cause, and what it must say to change.
const PLANTED: [(&str, &str, &str); 13] = [
    ("GET /posts", "select authors", "any($1)"),
    ("POST /checkout", "Loki", "bounded channel"),
    ("GET /products/search", "select products", "trigram index"),
    ("GET /home", "one after the other", "try_join!"),
    (
        "GET /baskets/{id}",
        "GET pricing/v1/prices/{id}",
        "takes all ids",
    ),
    (
        "PUT /wishlists/{id}",
        "insert into wishlist_items",
        "one array per column",
    ),
    ("POST /parcels", "shipping", "back-off"),
    ("GET /accounts/{id}", "the same every time", "Ask once"),
    ("GET /stock/{id}", "connections", "one pool"),
    (
        "GET /invoices/{customer}",
        "waiting for a connection",
        "how long connections are held",
    ),
    ("GET /report", "database calls", "Read together"),
    (
        "GET /recommendations",
        "the service's own code",
        "perf record",
    ),
    ("GET /export", "encoding", "Encode less"),
];

#[test]
fn each_planted_culprit_is_a_click_from_the_front_page() {
    let page = Browser::shared().open(&Story::get().address("/"), Look::default());
    for (endpoint, cause, change) in PLANTED {
        let row = format!(
            "[...document.querySelectorAll('main tbody tr')].find(it => [...it.querySelectorAll('.mono')].some(it => it.textContent === {endpoint:?}))"
        );
        let found: bool = page.evaluate(&format!("Boolean({row})"));
        assert!(found, "{endpoint} is not on the front page");
        // The browser keeps pages that one comes back to, marks and all: each has a mark of its own.
        let mark = format!(
            "{row}.querySelector('[data-row]').setAttribute('data-wanted', {endpoint:?}) ?? null"
        );
        let _: Option<bool> = page.evaluate(&mark);
        page.click(&format!("[data-wanted={endpoint:?}]"));
        page.until(
            "location.pathname.startsWith('/bottlenecks/') && document.readyState === 'complete'",
        );
        let says = page.texts("h1, .verdict").join(" ");
        assert!(says.contains(cause), "{endpoint}: {says}");
        let fix: String =
            page.evaluate("document.querySelector('#fix')?.closest('section').textContent ?? ''");
        assert!(fix.contains(change), "{endpoint}: {fix}");
        // From here to a request in which it happened is one click more.
        page.click("[aria-labelledby=ext] [data-row]");
        page.until(
            "location.pathname.startsWith('/traces/') && document.querySelector('table.wf')",
        );
        page.step(-2);
    }
    page.assert_clean();
}
