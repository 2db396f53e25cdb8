//! Links from a trace and its spans to where their logs are.

use std::str::FromStr;

use serde::Deserialize;
use url::Url;

use crate::format;

/// Logs are looked for from so long before a span begins until so long after it ends, ns: clocks differ, and
/// log lines are written when buffers are full. The id finds the right ones among them.
const AROUND_NS: u64 = 60_000_000_000;

/// The address of a log search with places for what is looked for:
/// `https://logs.example/?q={trace_id}&from={start_ms}&to={end_ms}`.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct LogLink {
    parts: Vec<Part>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Part {
    Text(String),
    Place(Place),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    TraceId,
    SpanId,
    Service,
    StartMs,
    EndMs,
    Start,
    End,
}

/// The names of the places, as they stand between braces.
const PLACES: [(&str, Place); 7] = [
    ("trace_id", Place::TraceId),
    ("span_id", Place::SpanId),
    ("service", Place::Service),
    ("start_ms", Place::StartMs),
    ("end_ms", Place::EndMs),
    ("start", Place::Start),
    ("end", Place::End),
];

/// Whose logs are looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wanted<'w> {
    /// 32 hexadecimal digits.
    pub trace_id: &'w str,
    /// 16 hexadecimal digits; empty for all of the trace.
    pub span_id: &'w str,
    /// `service.name`.
    pub service: &'w str,
    /// ns since the epoch.
    pub start_ns: u64,
    /// ns since the epoch.
    pub end_ns: u64,
}

impl LogLink {
    /// The address at which these logs are found. Values are percent-encoded, whatever they hold.
    pub fn to(&self, wanted: &Wanted<'_>) -> String {
        let from_ns = wanted.start_ns.saturating_sub(AROUND_NS);
        let to_ns = wanted.end_ns.saturating_add(AROUND_NS);
        let value = |place: Place| match place {
            Place::TraceId => wanted.trace_id.to_owned(),
            Place::SpanId => wanted.span_id.to_owned(),
            Place::Service => wanted.service.to_owned(),
            Place::StartMs => (from_ns / 1_000_000).to_string(),
            Place::EndMs => (to_ns / 1_000_000).to_string(),
            Place::Start => format::at(from_ns),
            Place::End => format::at(to_ns),
        };
        let parts = self.parts.iter();
        parts
            .map(|it| match it {
                Part::Text(text) => text.clone(),
                Part::Place(place) => encoded(&value(*place)),
            })
            .collect()
    }
}

impl FromStr for LogLink {
    type Err = String;

    fn from_str(text: &str) -> Result<LogLink, String> {
        let parts = parts(text)?;
        let link = LogLink { parts };
        let before = match link.parts.first() {
            Some(Part::Text(before)) => before.as_str(),
            _ => "",
        };
        let rest = ["https://", "http://"]
            .iter()
            .find_map(|it| before.strip_prefix(it));
        let rest = rest.ok_or("it must begin with https:// or http://")?;
        // What a span says must not decide where people are led.
        if link.parts.len() > 1 && !rest.contains(['/', '?', '#']) {
            return Err("a place in braces must stand behind the host".to_owned());
        }
        // Browsers forgive too many slashes, and take what follows for the host.
        if rest.starts_with(['/', '?', '#']) || rest.contains('\\') {
            return Err("there is no host in it".to_owned());
        }
        let example = Wanted {
            trace_id: "0af7651916cd43dd8448eb211c80319c",
            span_id: "b7ad6b7169203331",
            service: "shop",
            start_ns: 0,
            end_ns: 0,
        };
        let url = Url::parse(&link.to(&example)).map_err(|it| it.to_string())?;
        if text.contains(|it: char| it.is_whitespace() || it.is_control()) {
            return Err("it holds a space; write %20".to_owned());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(
                "it holds a user name or password, which every visitor would see".to_owned(),
            );
        }
        Ok(link)
    }
}

impl TryFrom<String> for LogLink {
    type Error = String;

    fn try_from(text: String) -> Result<LogLink, String> {
        text.parse()
    }
}

fn parts(text: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('{') {
        let (name, after) = behind
            .split_once('}')
            .ok_or("a brace is not closed; a brace of the address itself is written %7B")?;
        let place = PLACES.iter().find(|it| it.0 == name).ok_or_else(|| {
            let known = PLACES.map(|it| format!("{{{}}}", it.0)).join(", ");
            format!(
                "{{{name}}} is not known; there are {known}, and a brace of the address itself is written %7B"
            )
        })?;
        if !before.is_empty() {
            parts.push(Part::Text(before.to_owned()));
        }
        parts.push(Part::Place(place.1));
        rest = after;
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest.to_owned()));
    }
    Ok(parts)
}

/// Everything but letters, digits and `-_.~`, which mean nothing in any part of an address.
fn encoded(value: &str) -> String {
    let mut encoded = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Wanted<'static> = Wanted {
        trace_id: "0af7651916cd43dd8448eb211c80319c",
        span_id: "b7ad6b7169203331",
        service: "a&b=\"<script>\" ü",
        start_ns: 1_763_648_947_000_000_000,
        end_ns: 1_763_648_948_500_000_000,
    };

    #[test]
    fn values_are_put_in_their_places_and_encoded() {
        let link: LogLink =
            "https://logs.example/x?q={trace_id}&s={service}&span={span_id}&from={start_ms}&to={end_ms}#{start}/{end}"
                .parse()
                .unwrap();
        assert_eq!(
            link.to(&WANTED),
            "https://logs.example/x?q=0af7651916cd43dd8448eb211c80319c&s=a%26b%3D%22%3Cscript%3E%22%20%C3%BC\
             &span=b7ad6b7169203331&from=1763648887000&to=1763649008500\
             #2025-11-20T14%3A28%3A07Z/2025-11-20T14%3A30%3A08Z"
        );
    }

    #[test]
    fn what_leads_elsewhere_or_is_not_understood_is_refused() {
        for (text, why) in [
            ("javascript:alert(1)//{trace_id}", "begin with https://"),
            ("logs.example/{trace_id}", "begin with https://"),
            ("{service}", "begin with https://"),
            ("https://{service}.example/", "behind the host"),
            ("https://logs.example:{service}/", "behind the host"),
            ("https://logs.example/{trace}", "{trace} is not known"),
            ("https://logs.example/{trace_id", "not closed"),
            ("https://logs.example/a b", "%20"),
            ("https://me:secret@logs.example/{trace_id}", "password"),
            ("https:///{trace_id}?", "host"),
        ] {
            let error = text.parse::<LogLink>().unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
