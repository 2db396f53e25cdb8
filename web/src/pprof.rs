//! A call-path profile as pprof reads it: gzipped protobuf, a sample per path.
//!
//! Only the fields that such a profile has are declared; their numbers are those of pprof's
//! `profile.proto`. A function is an operation: there are no addresses, so a function has one
//! location.

use analyzer::profile::{Measure, Profile};
use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message;
use std::collections::HashMap;
use std::io::{self, Write};

#[derive(Clone, PartialEq, Message)]
struct Pprof {
    /// What the values of a sample are.
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    /// All texts; elsewhere their positions stand. The first is empty.
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    /// Since the Unix epoch.
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    /// Texts.
    #[prost(int64, repeated, tag = "13")]
    comment: Vec<i64>,
    /// The text of the type that is shown unless another is asked for.
    #[prost(int64, tag = "14")]
    default_sample_type: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct ValueType {
    /// A text.
    #[prost(int64, tag = "1")]
    r#type: i64,
    /// A text.
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    /// The innermost first.
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    /// One per type.
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    label: Vec<Label>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Label {
    /// A text.
    #[prost(int64, tag = "1")]
    key: i64,
    /// A text.
    #[prost(int64, tag = "2")]
    str: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    /// Not 0.
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Function {
    /// Not 0.
    #[prost(uint64, tag = "1")]
    id: u64,
    /// A text.
    #[prost(int64, tag = "2")]
    name: i64,
    /// A text: the name as a compiler would have it.
    #[prost(int64, tag = "3")]
    system_name: i64,
}

/// What a profile is of.
#[derive(Clone, Debug)]
pub struct About<'a> {
    /// For people: whose profile it is.
    pub title: &'a str,
    /// When the first of its hours begins, ns since the epoch.
    pub start_ns: u64,
    /// From then to the end of the last one, ns.
    pub duration_ns: u64,
    /// What is shown unless another type is asked for.
    pub measure: Measure,
}

/// The types of values, in the order of a sample's: name, unit.
const TYPES: [(&str, &str); 3] = [
    ("calls", "count"),
    ("self", "nanoseconds"),
    ("critical_path", "nanoseconds"),
];

/// The name of a measure's type.
fn type_of(measure: Measure) -> &'static str {
    match measure {
        Measure::SelfTime => TYPES[1].0,
        Measure::Critical => TYPES[2].0,
    }
}

/// The file. Each path's calls, self time and critical-path time are the values of its sample, and
/// its category is a label, so `-tagfocus=category=database` works.
///
/// # Errors
/// None that happen: it is written into memory.
pub fn file(profile: &Profile, about: &About<'_>) -> io::Result<Vec<u8>> {
    let mut file = GzEncoder::new(Vec::new(), Compression::default());
    file.write_all(&pprof(profile, about).encode_to_vec())?;
    file.finish()
}

fn pprof(profile: &Profile, about: &About<'_>) -> Pprof {
    let mut texts = Texts::default();
    texts.at("");
    let mut out = Pprof {
        sample_type: TYPES
            .iter()
            .map(|(name, unit)| ValueType {
                r#type: texts.at(name),
                unit: texts.at(unit),
            })
            .collect(),
        time_nanos: i64::try_from(about.start_ns).unwrap_or(i64::MAX),
        duration_nanos: i64::try_from(about.duration_ns).unwrap_or(i64::MAX),
        comment: vec![texts.at(about.title)],
        default_sample_type: texts.at(type_of(about.measure)),
        ..Pprof::default()
    };
    let category = texts.at("category");
    // Functions by the position of their name; ids count from 1.
    let mut functions: HashMap<i64, u64> = HashMap::new();
    let mut stacks: Vec<Vec<u64>> = Vec::with_capacity(profile.nodes.len());
    for node in &profile.nodes {
        let name = texts.at(&node.name);
        let next = functions.len() as u64 + 1;
        let function = *functions.entry(name).or_insert(next);
        if function == next {
            out.function.push(Function {
                id: next,
                name,
                system_name: name,
            });
            out.location.push(Location {
                id: next,
                line: vec![Line { function_id: next }],
            });
        }
        let mut stack = vec![function];
        stack.extend(node.parent.iter().flat_map(|it| &stacks[*it as usize]));
        let value = vec![node.count, node.self_ns, node.critical_ns];
        if value.iter().any(|it| *it != 0) {
            out.sample.push(Sample {
                location_id: stack.clone(),
                value,
                label: vec![Label {
                    key: category,
                    str: texts.at(node.category.id()),
                }],
            });
        }
        stacks.push(stack);
    }
    out.string_table = texts.texts;
    out
}

/// Each text once.
#[derive(Default)]
struct Texts {
    texts: Vec<String>,
    positions: HashMap<String, i64>,
}

impl Texts {
    fn at(&mut self, text: &str) -> i64 {
        if let Some(at) = self.positions.get(text) {
            return *at;
        }
        let at = self.texts.len() as i64;
        self.texts.push(text.to_owned());
        self.positions.insert(text.to_owned(), at);
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::sample_profile;
    use std::io::Read;

    fn about() -> About<'static> {
        About {
            title: "GET /posts of shop",
            start_ns: 7,
            duration_ns: 9,
            measure: Measure::Critical,
        }
    }

    fn read(file: &[u8]) -> Pprof {
        let mut bytes = Vec::new();
        let mut reader = flate2::read::GzDecoder::new(file);
        reader.read_to_end(&mut bytes).unwrap();
        Pprof::decode(&*bytes).unwrap()
    }

    /// The stacks as another tool would fold them, with the value `at`.
    fn folded(file: &Pprof, at: usize) -> Vec<String> {
        let text = |at: i64| file.string_table[at as usize].as_str();
        let name = |location: &u64| {
            let location = file.location.iter().find(|it| it.id == *location).unwrap();
            let id = location.line[0].function_id;
            let function = file.function.iter().find(|it| it.id == id).unwrap();
            text(function.name)
        };
        let mut lines: Vec<String> = file
            .sample
            .iter()
            .filter(|it| it.value[at] != 0)
            .map(|it| {
                let names: Vec<&str> = it.location_id.iter().rev().map(name).collect();
                format!("{} {}", names.join(";"), it.value[at])
            })
            .collect();
        lines.sort();
        lines
    }

    #[test]
    fn a_reader_finds_every_path_and_all_of_its_numbers() {
        let profile = sample_profile();
        let file = read(&file(&profile, &about()).unwrap());
        assert_eq!(file.string_table[0], "");
        let text = |at: i64| file.string_table[at as usize].as_str();
        let types = file
            .sample_type
            .iter()
            .map(|it| (text(it.r#type), text(it.unit)));
        assert_eq!(types.collect::<Vec<_>>(), TYPES);
        assert_eq!(text(file.default_sample_type), "critical_path");
        assert_eq!(text(file.comment[0]), "GET /posts of shop");
        assert_eq!((file.time_nanos, file.duration_nanos), (7, 9));
        assert_eq!(folded(&file, 0), profile.folded(|it| it.count));
        assert_eq!(folded(&file, 1), profile.folded(|it| it.self_ns));
        assert_eq!(folded(&file, 2), profile.folded(|it| it.critical_ns));
        let sums = |at: usize| file.sample.iter().map(|it| it.value[at]).sum::<i64>();
        let total: i64 = profile.nodes.iter().map(|it| it.critical_ns).sum();
        assert_eq!(sums(2), total);
        let labels = file.sample.iter().flat_map(|it| &it.label);
        assert!(labels.clone().all(|it| text(it.key) == "category"));
        assert!(labels.map(|it| text(it.str)).any(|it| it == "database"));
    }

    #[test]
    fn nothing_is_a_file_too() {
        let file = read(&file(&Profile::default(), &about()).unwrap());
        assert!(file.sample.is_empty());
        assert_eq!(file.sample_type.len(), TYPES.len());
    }
}
