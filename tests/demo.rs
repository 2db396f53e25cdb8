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
    has("authors", "GET /posts]");
    has("log", "POST /checkout]");
    has("products", "GET /products/search]");
    assert!(
        !findings.iter().any(|it| it.contains("GET /products/{id}]")),
        "{text}"
    );

    // A second start has them still, and every count is right.
    verify(data.path());
}
