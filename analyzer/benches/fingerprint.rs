//! How long a fingerprint takes: `cargo bench -p analyzer --bench fingerprint`.
//!
//! Statements as instrumentations send them, by length and kind. Items per second are statements per
//! second, bytes are those of the statement as sent.

use analyzer::sql::fingerprint;
use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};

fn main() {
    divan::main();
}

const STATEMENTS: &[(&str, &str, &str)] = &[
    ("begin", "postgresql", "BEGIN"),
    ("by id", "postgresql", "SELECT * FROM authors WHERE id = $1"),
    (
        "orm",
        "postgresql",
        "SELECT authors.id AS authors_id, authors.name AS authors_name FROM authors WHERE authors.id = %(pk_1)s",
    ),
    (
        "join",
        "mysql",
        "SELECT o.id, o.total, c.name FROM orders o JOIN customers c ON c.id = o.customer_id WHERE o.status = 'open' AND o.created_at > '2024-01-01' ORDER BY o.created_at DESC LIMIT 20",
    ),
    (
        "in list",
        "postgresql",
        "SELECT id, name FROM products WHERE id IN (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20)",
    ),
    (
        "insert",
        "postgresql",
        "INSERT INTO order_items (order_id, product_id, quantity, price) VALUES ($1, $2, $3, $4) RETURNING id",
    ),
    ("redis", "redis", "GET session:8f3a2b77"),
    (
        "mongodb",
        "mongodb",
        r#"{"find": "users", "filter": {"_id": {"$in": [1, 2, 3]}, "active": true}, "limit": 20, "$db": "shop"}"#,
    ),
];

#[divan::bench(args = 0..STATEMENTS.len())]
fn of(bencher: Bencher<'_, '_>, at: usize) {
    let (name, system, text) = STATEMENTS[at];
    // divan shows the argument only: which one it is stands beside its first sample.
    eprintln!("{at}: {name}, {} bytes", text.len());
    bencher
        .counter(ItemsCount::new(1_usize))
        .counter(BytesCount::of_str(text))
        .bench_local(|| fingerprint(black_box(text), black_box(system)));
}
