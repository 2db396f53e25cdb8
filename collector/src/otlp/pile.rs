//! Spans of many traces as one request, each sender and instrumentation once.
//!
//! A thousand traces of three services are three senders, not three thousand: a third less to
//! compress, and what is alike stands side by side.

use std::collections::HashMap;
use std::ops::Range;

use super::outline::Envelope;
use super::schema::number;
use super::source::{At, Source, span_at};
use super::wire::{DELIMITED, put_tag, put_varint, varint_len};
use crate::buffers::Buffer;

/// Gathers spans by sender and instrumentation. Only their places are kept; all spans of one pile are
/// of the same sources.
#[derive(Debug, Default)]
pub struct Pile {
    groups: Vec<Group>,
    /// (sender, instrumentation) as they stand on the wire → group.
    known: HashMap<(Vec<u8>, Vec<u8>), usize, foldhash::fast::RandomState>,
    /// (source, scope in it) → group: most spans need no look at their envelopes.
    placed: HashMap<(u32, u32), usize, foldhash::fast::RandomState>,
    bytes: usize,
}

/// The spans of one instrumentation of one sender.
#[derive(Debug)]
struct Group {
    resource: Vec<u8>,
    scope: Vec<u8>,
    pieces: Vec<Piece>,
    /// Bytes of the spans.
    bytes: usize,
}

/// Spans that stand side by side in a source.
#[derive(Debug)]
struct Piece {
    source: u32,
    bytes: Range<usize>,
}

impl Group {
    fn add(&mut self, source: u32, field: &Range<usize>) {
        self.bytes += field.len();
        match self.pieces.last_mut() {
            Some(last) if last.source == source && last.bytes.end == field.start => {
                last.bytes.end = field.end;
            }
            _ => self.pieces.push(Piece {
                source,
                bytes: field.clone(),
            }),
        }
    }
}

impl Pile {
    /// Adds spans.
    pub fn add(&mut self, sources: &[Source], spans: &[At]) {
        for at in spans {
            let Some((source, span)) = span_at(sources, *at) else {
                continue;
            };
            let place = (at.source, span.scope);
            let group = match self.placed.get(&place) {
                Some(group) => *group,
                None => {
                    let group = self.group(source, span.scope as usize);
                    self.placed.insert(place, group);
                    group
                }
            };
            self.groups[group].add(at.source, &span.field);
            self.bytes += span.field.len();
        }
    }

    /// Bytes of the spans in it.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn group(&mut self, source: &Source, scope: usize) -> usize {
        let scope = &source.outline().scopes[scope];
        let resource = &source.outline().resources[scope.resource];
        let bytes_of = |envelope: &Envelope| {
            let mut bytes = Vec::with_capacity(envelope.len());
            envelope.write(source.bytes(), &mut bytes);
            bytes
        };
        let key = (bytes_of(resource), bytes_of(&scope.envelope));
        if let Some(group) = self.known.get(&key) {
            return *group;
        }
        self.groups.push(Group {
            resource: key.0.clone(),
            scope: key.1.clone(),
            pieces: Vec::new(),
            bytes: 0,
        });
        self.known.insert(key, self.groups.len() - 1);
        self.groups.len() - 1
    }

    /// The request; the spans' bytes as they came.
    pub fn into_request(mut self, sources: &[Source]) -> Buffer {
        self.groups
            .sort_by(|a, b| (&a.resource, &a.scope).cmp(&(&b.resource, &b.scope)));
        let mut out = Buffer::with_capacity(self.bytes + self.bytes / 8);
        for of_resource in self.groups.chunk_by(|a, b| a.resource == b.resource) {
            let scope_len = |it: &Group| it.scope.len() + it.bytes;
            let field_len = |len: usize| 1 + varint_len(len as u64) + len;
            let scopes: usize = of_resource.iter().map(|it| field_len(scope_len(it))).sum();
            put_tag(&mut out, number::RESOURCE_SPANS, DELIMITED);
            put_varint(&mut out, (of_resource[0].resource.len() + scopes) as u64);
            out.extend_from_slice(&of_resource[0].resource);
            for group in of_resource {
                put_tag(&mut out, number::SCOPE_SPANS, DELIMITED);
                put_varint(&mut out, scope_len(group) as u64);
                out.extend_from_slice(&group.scope);
                for piece in &group.pieces {
                    let source = &sources[piece.source as usize];
                    out.extend_from_slice(&source.bytes()[piece.bytes.clone()]);
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::super::source::{self, distinct};
    use super::*;
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
    use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
    use prost::Message;

    /// Spans (trace, id) of a sender.
    fn request(sender: &str, spans: &[(u8, u8)]) -> Vec<u8> {
        let spans = spans.iter().map(|(trace, id)| Span {
            trace_id: vec![*trace; 16],
            span_id: vec![*id; 8],
            ..Span::default()
        });
        let scope_spans = vec![ScopeSpans {
            scope: Some(InstrumentationScope {
                name: "lib".into(),
                ..InstrumentationScope::default()
            }),
            spans: spans.collect(),
            ..ScopeSpans::default()
        }];
        let resource_spans = vec![ResourceSpans {
            scope_spans,
            schema_url: sender.into(),
            ..ResourceSpans::default()
        }];
        ExportTraceServiceRequest { resource_spans }.encode_to_vec()
    }

    fn decoded(request: &[u8]) -> ExportTraceServiceRequest {
        ExportTraceServiceRequest::decode(request).unwrap()
    }

    fn at(source: u32, span: u32) -> At {
        At { source, span }
    }

    #[test]
    fn every_sender_stands_once_and_every_span_as_it_came() {
        let sources = [
            Source::new([request("a", &[(1, 1), (2, 2)]), request("b", &[(1, 3)])].concat())
                .unwrap(),
            Source::new(request("a", &[(2, 4), (1, 1)])).unwrap(),
        ];
        let mut all = vec![at(0, 0), at(0, 1), at(0, 2), at(1, 0), at(1, 1), at(7, 7)];
        distinct(&sources, &mut all);
        assert_eq!(all, [at(0, 0), at(0, 1), at(0, 2), at(1, 0)]);
        let mut pile = Pile::default();
        pile.add(&sources, &all);
        let expected = [
            request("a", &[(1, 1), (2, 2), (2, 4)]),
            request("b", &[(1, 3)]),
        ]
        .concat();
        assert_eq!(decoded(&pile.into_request(&sources)), decoded(&expected));
    }

    #[test]
    fn decoding_and_writing_take_only_the_spans_asked_for() {
        let sources = [
            Source::new(request("a", &[(1, 1), (2, 2), (1, 3)])).unwrap(),
            Source::new(request("b", &[(1, 4)])).unwrap(),
        ];
        let of_one = [at(0, 0), at(0, 2), at(1, 0)];
        let spans = source::decode_all(&sources, &of_one).unwrap();
        let ids: Vec<u8> = spans.spans.iter().map(|it| it.id.0[0]).collect();
        assert_eq!((ids, spans.resources.len()), (vec![1, 3, 4], 2));
        let expected = [request("a", &[(1, 1), (1, 3)]), request("b", &[(1, 4)])].concat();
        let written = source::write(&sources, &of_one);
        assert_eq!(decoded(&written), decoded(&expected));
    }

    #[test]
    fn spans_of_one_id_are_told_apart_by_what_they_hold() {
        let sources = [Source::new(request("a", &[(1, 1), (2, 1), (2, 2)])).unwrap()];
        let contents = |places: &[At]| -> Vec<u64> {
            let spans = source::decode_all(&sources, places).unwrap();
            spans.spans.iter().map(|it| it.content).collect()
        };
        let of_one_id = contents(&[at(0, 0), at(0, 1), at(0, 2)]);
        assert!(of_one_id[0] != of_one_id[1] && !of_one_id.contains(&0));
        assert_eq!(contents(&[at(0, 1), at(0, 2)]), [0, 0]);
    }
}
