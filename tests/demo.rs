//! `culprit demo --once`: the planted culprits are found, and nothing else is accused.

use crate::support::culprit::{data_directory, run, verify};

#[test]
fn the_demo_exhibits_what_was_planted() {
    let data = data_directory();
    let arguments = [
        "demo",
        "--once",
        "--listen-grpc=127.0.0.1:0",
        "--listen-http=127.0.0.1:0",
        "--listen-ui=127.0.0.1:0",
    ];
    let output = run(&arguments, data.path());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    let findings: Vec<&str> = text.lines().filter(|it| it.contains(" · ")).collect();
    let has = |what: &str, endpoint: &str| {
        assert!(
            findings
                .iter()
                .any(|it| it.contains(what) && it.contains(endpoint)),
            "no {what} at {endpoint} in:\n{text}\n{errors}"
        );
    };
    for (what, endpoint) in [
        ("× select authors", "GET /posts"),
        ("log lines", "POST /checkout"),
        ("select products takes", "GET /products/search"),
        ("3 independent calls", "GET /home"),
        ("× GET pricing/v1/prices/{id}", "GET /baskets/{id}"),
        ("× insert into wishlist_items", "PUT /wishlists/{id}"),
        ("POST shipping/v1/labels fails", "POST /parcels"),
        ("4 × select orders, the same", "GET /accounts/{id}"),
        ("connections to postgresql", "GET /stock/{id}"),
        ("waiting for a connection", "GET /invoices/{customer}"),
        ("database calls in one request", "GET /report"),
        ("in the service's own code", "GET /recommendations"),
        ("of encoding and rendering", "GET /export"),
    ] {
        has(what, &format!("[shop · {endpoint}]"));
    }
    let is_innocent = |it: &&&str| {
        ["GET /products/{id}]", "[payments", "[pricing", "[shipping"]
            .iter()
            .any(|at| it.contains(at))
    };
    assert_eq!(findings.iter().find(is_innocent), None, "{text}");

    // A second start has them still, and every count is right.
    verify(data.path());
}
