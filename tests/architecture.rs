//! The one rule of the structure: `analyzer ← collector ← web`, and the analyzer needs nothing.

use std::path::Path;

fn manifest(room: &str) -> toml::Table {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(room)
        .join("Cargo.toml");
    std::fs::read_to_string(path)
        .expect("a manifest")
        .parse()
        .expect("TOML")
}

fn dependencies(room: &str) -> Vec<String> {
    let manifest = manifest(room);
    let dependencies = manifest.get("dependencies").and_then(|it| it.as_table());
    dependencies
        .into_iter()
        .flat_map(|it| it.keys().cloned())
        .collect()
}

#[test]
fn the_analyzer_has_no_run_time_dependency() {
    assert_eq!(dependencies("analyzer"), Vec::<String>::new());
}

#[test]
fn the_collector_knows_nothing_of_the_web() {
    let dependencies = dependencies("collector");
    assert!(dependencies.contains(&"analyzer".into()));
    assert!(
        !dependencies.iter().any(|it| it == "web" || it == "askama"),
        "{dependencies:?}"
    );
}

#[test]
fn sql_is_only_in_the_store() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut folders = vec![
        root.join("collector/src"),
        root.join("web/src/pages"),
        root.join("web/src/api"),
    ];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            let path = entry.path();
            // The store is where it belongs; the private Postgres checks that it answers.
            let allowed = ["store", "postgres", "testing.rs", "tests.rs"]
                .iter()
                .any(|it| path.ends_with(it));
            if path.is_dir() && !allowed {
                folders.push(path);
            } else if !allowed && path.extension().is_some_and(|it| it == "rs") {
                let text = std::fs::read_to_string(&path).expect("text");
                let code = text.split("#[cfg(test)]").next().unwrap_or_default();
                assert!(
                    !code.contains("sqlx::query"),
                    "{} holds SQL",
                    path.display()
                );
            }
        }
    }
}
