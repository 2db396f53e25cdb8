//! A call-path profile as speedscope reads it: one JSON file with a sampled profile per measure.

use analyzer::profile::{Measure, Profile};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;

/// The measures of a file: in this order, by these names.
const MEASURES: [(Measure, &str); 2] = [
    (Measure::Critical, "critical path"),
    (Measure::SelfTime, "self time"),
];

/// The file: `title` is what the profile is of, `measure` is shown first. Numbers below zero are
/// left out: a sample's weight cannot be less than nothing.
pub fn file(profile: &Profile, title: &str, measure: Measure) -> Value {
    let mut frames: Vec<Value> = Vec::new();
    let mut known: HashMap<&Arc<str>, usize> = HashMap::new();
    let mut stacks: Vec<Vec<usize>> = Vec::with_capacity(profile.nodes.len());
    for node in &profile.nodes {
        let frame = *known.entry(&node.name).or_insert_with(|| {
            frames.push(json!({ "name": *node.name }));
            frames.len() - 1
        });
        let mut stack = node
            .parent
            .map_or_else(Vec::new, |it| stacks[it as usize].clone());
        stack.push(frame);
        stacks.push(stack);
    }
    let profiles = MEASURES
        .map(|(measure, name)| sampled(profile, &stacks, measure, &format!("{title}, {name}")));
    json!({
        "$schema": "https://www.speedscope.app/file-format-schema.json",
        "exporter": concat!("culprit ", env!("CARGO_PKG_VERSION")),
        "name": title,
        "activeProfileIndex": MEASURES.iter().position(|it| it.0 == measure),
        "shared": { "frames": frames },
        "profiles": profiles,
    })
}

fn sampled(profile: &Profile, stacks: &[Vec<usize>], measure: Measure, name: &str) -> Value {
    let nodes = profile.nodes.iter().zip(stacks);
    let (samples, weights): (Vec<&[usize]>, Vec<i64>) = nodes
        .map(|(node, stack)| (stack.as_slice(), node.ns(measure)))
        .filter(|(_, ns)| *ns > 0)
        .unzip();
    json!({
        "type": "sampled",
        "name": name,
        "unit": "nanoseconds",
        "startValue": 0,
        "endValue": weights.iter().fold(0_i64, |sum, it| sum.saturating_add(*it)),
        "samples": samples,
        "weights": weights,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::sample_profile;

    /// The stacks as another tool would fold them.
    fn folded(file: &Value, profile: &Value) -> Vec<String> {
        let names: Vec<&str> = file["shared"]["frames"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it["name"].as_str().unwrap())
            .collect();
        let samples = profile["samples"].as_array().unwrap();
        let weights = profile["weights"].as_array().unwrap();
        assert_eq!(samples.len(), weights.len());
        let mut lines: Vec<String> = samples
            .iter()
            .zip(weights)
            .map(|(stack, weight)| {
                let stack = stack.as_array().unwrap().iter();
                let stack: Vec<&str> = stack
                    .map(|it| names[it.as_u64().unwrap() as usize])
                    .collect();
                format!("{} {weight}", stack.join(";"))
            })
            .collect();
        lines.sort();
        lines
    }

    #[test]
    fn a_reader_finds_every_path_and_all_of_its_time() {
        let profile = sample_profile();
        let text = file(&profile, "GET /posts", Measure::SelfTime).to_string();
        let file: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(file["activeProfileIndex"], 1);
        let profiles = file["profiles"].as_array().unwrap();
        for (sampled, (measure, name)) in profiles.iter().zip(MEASURES) {
            assert_eq!(sampled["type"], "sampled");
            assert_eq!(sampled["unit"], "nanoseconds");
            assert_eq!(sampled["name"], format!("GET /posts, {name}"));
            assert_eq!(folded(&file, sampled), profile.folded(|it| it.ns(measure)));
            let total: i64 = profile.nodes.iter().map(|it| it.ns(measure)).sum();
            assert_eq!(
                (&sampled["startValue"], &sampled["endValue"]),
                (&json!(0), &json!(total))
            );
        }
    }

    #[test]
    fn nothing_is_a_file_too() {
        let file = file(&Profile::default(), "x", Measure::Critical);
        assert_eq!(file["profiles"][0]["endValue"], 0);
        assert_eq!(file["shared"]["frames"], json!([]));
    }
}
