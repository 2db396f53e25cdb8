//! The wire against prost as the oracle: any request, cut and glued, is what prost thinks it is.

use std::collections::BTreeMap;

use analyzer::span::{Spans, TraceId, Value};
use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest as Request;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList, any_value,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;

use super::check::NESTED_MAX;
use super::*;

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        "[a-z.]{1,12}",
        Just("Zürich \u{0} <script> \"\\\n😀".to_owned()),
    ]
}

fn any_value() -> impl Strategy<Value = AnyValue> {
    let leaf = prop_oneof![
        Just(None),
        text().prop_map(|it| Some(any_value::Value::StringValue(it))),
        any::<bool>().prop_map(|it| Some(any_value::Value::BoolValue(it))),
        any::<i64>().prop_map(|it| Some(any_value::Value::IntValue(it))),
        any::<f64>().prop_map(|it| Some(any_value::Value::DoubleValue(it))),
        Just(Some(any_value::Value::DoubleValue(f64::NEG_INFINITY))),
        vec(any::<u8>(), 0..9).prop_map(|it| Some(any_value::Value::BytesValue(it))),
    ]
    .prop_map(|value| AnyValue { value });
    leaf.prop_recursive(4, 16, 4, |inner| {
        let array = vec(inner.clone(), 0..4)
            .prop_map(|values| any_value::Value::ArrayValue(ArrayValue { values }));
        let map = vec((text(), inner), 0..4).prop_map(|pairs| {
            let values = pairs.into_iter().map(|(key, value)| pair(key, Some(value)));
            any_value::Value::KvlistValue(KeyValueList {
                values: values.collect(),
            })
        });
        prop_oneof![array, map].prop_map(|value| AnyValue { value: Some(value) })
    })
}

fn pair(key: String, value: Option<AnyValue>) -> KeyValue {
    KeyValue {
        key,
        value,
        ..KeyValue::default()
    }
}

fn attributes() -> impl Strategy<Value = Vec<KeyValue>> {
    let one = (text(), prop::option::of(any_value()));
    vec(one.prop_map(|(key, value)| pair(key, value)), 0..4)
}

/// Ids are valid more often than not.
fn id(length: usize) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => vec(1u8.., length),
        1 => Just(vec![0; length]),
        1 => vec(any::<u8>(), 0..20),
    ]
}

prop_compose! {
    fn event()(
        time_unix_nano in any::<u64>(),
        name in text(),
        attributes in attributes(),
        dropped_attributes_count in any::<u32>(),
    ) -> Event {
        Event { time_unix_nano, name, attributes, dropped_attributes_count }
    }
}

prop_compose! {
    fn link()(
        trace_id in id(16),
        span_id in id(8),
        trace_state in text(),
        attributes in attributes(),
        dropped_attributes_count in any::<u32>(),
        flags in any::<u32>(),
    ) -> Link {
        Link { trace_id, span_id, trace_state, attributes, dropped_attributes_count, flags }
    }
}

prop_compose! {
    fn span()(
        ids in (id(16), id(8), prop_oneof![Just(vec![]), id(8)]),
        texts in (text(), text()),
        kind in prop_oneof![0..7i32, any::<i32>()],
        times in any::<(u64, u64)>(),
        attributes in attributes(),
        events in vec(event(), 0..3),
        links in vec(link(), 0..3),
        dropped in any::<(u32, u32, u32)>(),
        status in prop::option::of((text(), -1..4i32)),
        flags in any::<u32>(),
    ) -> Span {
        Span {
            trace_id: ids.0,
            span_id: ids.1,
            parent_span_id: ids.2,
            trace_state: texts.0,
            name: texts.1,
            kind,
            start_time_unix_nano: times.0,
            end_time_unix_nano: times.1,
            attributes,
            events,
            links,
            dropped_attributes_count: dropped.0,
            dropped_events_count: dropped.1,
            dropped_links_count: dropped.2,
            status: status.map(|(message, code)| Status { message, code }),
            flags,
        }
    }
}

prop_compose! {
    fn scope_spans()(
        scope in prop::option::of((text(), text(), attributes(), any::<u32>())),
        spans in vec(span(), 0..4),
        schema_url in text(),
    ) -> ScopeSpans {
        let scope = scope.map(|(name, version, attributes, dropped_attributes_count)| {
            InstrumentationScope { name, version, attributes, dropped_attributes_count }
        });
        ScopeSpans { scope, spans, schema_url }
    }
}

prop_compose! {
    fn resource_spans()(
        resource in prop::option::of((attributes(), any::<u32>())),
        scope_spans in vec(scope_spans(), 0..3),
        schema_url in text(),
    ) -> ResourceSpans {
        let resource = resource.map(|(attributes, dropped_attributes_count)| Resource {
            attributes,
            dropped_attributes_count,
            entity_refs: vec![],
        });
        ResourceSpans { resource, scope_spans, schema_url }
    }
}

pub(crate) fn request() -> impl Strategy<Value = Request> {
    vec(resource_spans(), 0..3).prop_map(|resource_spans| Request { resource_spans })
}

fn is_valid(span: &Span) -> bool {
    let valid = |id: &[u8], length| id.len() == length && id.iter().any(|it| *it != 0);
    valid(&span.trace_id, 16) && valid(&span.span_id, 8)
}

/// The spans of a request, each with everything around it, encoded: comparable and sortable even
/// where a double is not a number.
fn flat(request: &Request) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for resource in &request.resource_spans {
        for scope in &resource.scope_spans {
            for span in &scope.spans {
                let alone = ScopeSpans {
                    spans: vec![span.clone()],
                    ..scope.clone()
                };
                let alone = ResourceSpans {
                    scope_spans: vec![alone],
                    ..resource.clone()
                };
                all.push(alone.encode_to_vec());
            }
        }
    }
    all
}

fn spans(request: &Request) -> impl Iterator<Item = &Span> {
    let scopes = request.resource_spans.iter().flat_map(|it| &it.scope_spans);
    scopes.flat_map(|it| &it.spans)
}

fn without_invalid(request: &Request) -> Request {
    let mut request = request.clone();
    for resource in &mut request.resource_spans {
        for scope in &mut resource.scope_spans {
            scope.spans.retain(is_valid);
        }
    }
    request
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn shards_together_hold_what_is_valid(request in request(), shards in 1u16..17) {
        let bytes = Bytes::from(request.encode_to_vec());
        let accepted = accept(bytes, shards).unwrap();
        let valid = spans(&request).filter(|it| is_valid(it)).count();
        prop_assert_eq!(accepted.rejected as usize, spans(&request).count() - valid);
        prop_assert_eq!(accepted.message.is_empty(), accepted.rejected == 0);

        let mut found = Vec::new();
        for part in &accepted.batch.parts {
            let decoded = Request::decode(part.otlp.clone()).unwrap();
            prop_assert_eq!(part.spans as usize, spans(&decoded).count());
            prop_assert!(part.spans > 0);
            for span in spans(&decoded) {
                let id = TraceId(span.trace_id[..].try_into().unwrap());
                prop_assert_eq!(shard_of(id, shards), part.shard);
            }
            found.extend(flat(&decoded));
        }
        let mut expected = flat(&without_invalid(&request));
        expected.sort();
        found.sort();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn selected_spans_are_asked_for_once_and_in_order(request in request(), wanted in any::<u64>()) {
        let request = without_invalid(&request);
        let bytes = request.encode_to_vec();
        let ids = trace_ids(&bytes).unwrap();
        let mut asked = Vec::new();
        let mut out = b"\x0a\x00".to_vec();
        let count = select(&bytes, |at, id| {
            asked.push(at);
            assert_eq!(id, ids[at]);
            wanted >> (at % 64) & 1 == 1
        }, &mut out).unwrap();
        prop_assert_eq!(asked, (0..ids.len()).collect::<Vec<_>>());
        let expected: Vec<_> = flat(&request).into_iter().enumerate()
            .filter(|(at, _)| wanted >> (at % 64) & 1 == 1)
            .map(|it| it.1)
            .collect();
        prop_assert_eq!(count, expected.len());
        prop_assert_eq!(flat(&Request::decode(&out[..]).unwrap()), expected);
    }

    #[test]
    fn decoding_agrees_with_prost(first in request(), second in request()) {
        let (first, second) = (without_invalid(&first), without_invalid(&second));
        let both = [first.encode_to_vec(), second.encode_to_vec()].concat();
        let mut decoded = Spans::default();
        decode_into(&mut decoded, &both, |_| true).unwrap();
        let expected: Vec<_> = [&first, &second].into_iter().flat_map(spans).collect();
        prop_assert_eq!(decoded.spans.len(), expected.len());
        for (span, expected) in decoded.spans.iter().zip(expected) {
            same_span(&decoded, span, expected);
        }
        let resources = [&first, &second].into_iter().flat_map(|it| &it.resource_spans);
        let resources = resources.filter(|it| it.scope_spans.iter().any(|it| !it.spans.is_empty()));
        for (resource, expected) in decoded.resources.iter().zip(resources) {
            let expected = expected.resource.clone().unwrap_or_default();
            same_attributes(&resource.attributes, &expected.attributes);
        }
    }

    #[test]
    fn decoding_in_two_goes_is_decoding_at_once(first in request(), second in request()) {
        let (first, second) = (first.encode_to_vec(), second.encode_to_vec());
        let both = [&first[..], &second[..]].concat();
        let mut once = Spans::default();
        decode_into(&mut once, &both, |_| true).unwrap();
        let mut twice = Spans::default();
        decode_into(&mut twice, &first, |_| true).unwrap();
        decode_into(&mut twice, &second, |_| true).unwrap();
        prop_assert_eq!(format!("{once:?}"), format!("{twice:?}"));
    }

    #[test]
    fn whatever_is_accepted_prost_reads_too(request in request(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = request.encode_to_vec();
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        check_arbitrary(&bytes);
    }

    #[test]
    fn no_bytes_panic(bytes in vec(prop_oneof![Just(0x0a), Just(0x12), 0u8..20, any::<u8>()], 0..80)) {
        check_arbitrary(&bytes);
    }
}

fn check_arbitrary(bytes: &[u8]) {
    let _ = to_json(bytes);
    let _ = any_value_to_json(bytes);
    let mut out = Vec::new();
    let _ = select(bytes, |at, _| at % 2 == 0, &mut out);
    let mut decoded = Spans::default();
    if decode_into(&mut decoded, bytes, |_| true).is_err() {
        assert_eq!(decoded, Spans::default());
    }
    let Ok(accepted) = accept(Bytes::copy_from_slice(bytes), 4) else {
        return;
    };
    Request::decode(bytes).expect("accepted bytes are valid protobuf");
    for part in accepted.batch.parts {
        Request::decode(&part.otlp[..]).expect("a part is valid protobuf");
        to_json(&part.otlp).expect("a part has a JSON form");
        decode_into(&mut Spans::default(), &part.otlp, |_| true).expect("a part decodes");
    }
}

fn same_span(all: &Spans<'_>, span: &analyzer::span::Span<'_>, expected: &Span) {
    assert_eq!(span.trace_id.0[..], expected.trace_id);
    assert_eq!(span.id.0[..], expected.span_id);
    let parent = &expected.parent_span_id;
    let has_parent = parent.len() == 8 && parent.iter().any(|it| *it != 0);
    assert_eq!(
        span.parent_id.map(|it| it.0.to_vec()),
        has_parent.then(|| parent.clone())
    );
    assert_eq!(span.name, expected.name);
    assert_eq!(span.trace_state, expected.trace_state);
    assert_eq!(span.flags, expected.flags);
    assert_eq!(span.start_ns, expected.start_time_unix_nano);
    assert_eq!(span.end_ns, expected.end_time_unix_nano);
    if (0..6).contains(&expected.kind) {
        assert_eq!(span.kind as i32, expected.kind);
    }
    let status = expected.status.clone().unwrap_or_default();
    assert_eq!(span.status_message, status.message);
    if (0..3).contains(&status.code) {
        assert_eq!(span.status as i32, status.code);
    }
    same_attributes(all.attributes_at(&span.attributes), &expected.attributes);
    let events = &all.events[span.events.start as usize..span.events.end as usize];
    assert_eq!(events.len(), expected.events.len());
    for (event, expected) in events.iter().zip(&expected.events) {
        assert_eq!(
            (event.time_ns, event.name),
            (expected.time_unix_nano, &expected.name[..])
        );
        same_attributes(all.attributes_at(&event.attributes), &expected.attributes);
    }
    let links = &all.links[span.links.start as usize..span.links.end as usize];
    assert_eq!(links.len(), expected.links.len());
    for (link, expected) in links.iter().zip(&expected.links) {
        assert_eq!(link.trace_state, expected.trace_state);
        if expected.trace_id.len() == 16 {
            assert_eq!(link.trace_id.0[..], expected.trace_id);
        }
        same_attributes(all.attributes_at(&link.attributes), &expected.attributes);
    }
}

fn same_attributes(found: &[analyzer::span::Attribute<'_>], expected: &[KeyValue]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found.key, expected.key);
        let expected = expected.value.clone().unwrap_or_default();
        let same = match (found.value, &expected.value) {
            (Value::Empty, None) => true,
            (Value::Str(found), Some(any_value::Value::StringValue(it))) => found == it,
            (Value::Bool(found), Some(any_value::Value::BoolValue(it))) => found == *it,
            (Value::Int(found), Some(any_value::Value::IntValue(it))) => found == *it,
            (Value::Double(found), Some(any_value::Value::DoubleValue(it))) => {
                found.to_bits() == it.to_bits()
            }
            (Value::Bytes(found), Some(any_value::Value::BytesValue(it))) => found == it,
            (Value::Nested(found), Some(_)) => found == expected.encode_to_vec(),
            _ => false,
        };
        assert!(same, "{found:?} is not {expected:?}");
    }
}

fn valid_span() -> Span {
    Span {
        trace_id: vec![1; 16],
        span_id: vec![2; 8],
        ..Span::default()
    }
}

pub(crate) fn request_of(spans: Vec<Span>) -> Request {
    Request {
        resource_spans: vec![ResourceSpans {
            scope_spans: vec![ScopeSpans {
                spans,
                ..ScopeSpans::default()
            }],
            ..ResourceSpans::default()
        }],
    }
}

#[test]
fn one_shard_and_nothing_rejected_takes_the_bytes_as_they_are() {
    let bytes = Bytes::from(request_of(vec![valid_span(); 3]).encode_to_vec());
    let accepted = accept(bytes.clone(), 16).unwrap();
    let [part] = &accepted.batch.parts[..] else {
        panic!("one part: {accepted:?}");
    };
    assert_eq!(part.otlp.as_ptr(), bytes.as_ptr());
    assert_eq!((part.spans, accepted.rejected), (3, 0));
}

#[test]
fn p1_rejections_say_what_is_wrong_and_how_often() {
    let with = |trace: usize, span: usize| Span {
        trace_id: vec![7; trace],
        span_id: vec![7; span],
        ..Span::default()
    };
    let zero = Span {
        span_id: vec![0; 8],
        ..valid_span()
    };
    let spans = vec![with(24, 8), valid_span(), with(24, 8), with(16, 0), zero];
    let accepted = accept(request_of(spans).encode_to_vec().into(), 1).unwrap();
    assert_eq!((accepted.rejected, accepted.bad_trace_ids), (4, 2));
    assert_eq!(
        accepted.message,
        "2 spans rejected: trace_id has 24 bytes instead of 16; 1 span rejected: no span_id; \
         1 span rejected: span_id is all zero"
    );
    assert_eq!(accepted.batch.parts[0].spans, 1);
}

/// Accepts one span and decodes what is stored of it.
fn accepted(span: Span, check: impl FnOnce(&Spans<'_>, &analyzer::span::Span<'_>)) {
    let accepted = accept(request_of(vec![span]).encode_to_vec().into(), 1).unwrap();
    assert_eq!((accepted.rejected, accepted.message), (0, String::new()));
    let stored = &accepted.batch.parts[0].otlp;
    let mut decoded = Spans::default();
    decode_into(&mut decoded, stored, |_| true).unwrap();
    check(&decoded, &decoded.spans[0]);
}

#[test]
fn p2_a_parent_id_that_is_none_makes_a_root() {
    for (parent, expected) in [
        (vec![], None),
        (vec![0; 8], None),
        (vec![7; 4], None),
        (vec![7; 16], None),
        (vec![7; 8], Some([7; 8])),
    ] {
        let span = Span {
            parent_span_id: parent.clone(),
            ..valid_span()
        };
        accepted(span, |_, span| {
            assert_eq!(span.parent_id.map(|it| it.0), expected, "{parent:?}");
        });
    }
}

#[test]
fn p3_p4_s7_s10_odd_names_and_times_are_kept_as_they_came() {
    let year_2200 = 7_258_118_400_000_000_000;
    for (start, end) in [
        (0, 0),
        (5, 0),
        (5, 4),
        (0, u64::MAX),
        (u64::MAX, u64::MAX),
        (u64::MAX, 0),
        (i64::MAX as u64, i64::MAX as u64 + 1),
        (year_2200, year_2200 + 1),
    ] {
        for name in ["", "nul \0", "\u{202e}\u{1b}[31m"] {
            let span = Span {
                name: name.into(),
                start_time_unix_nano: start,
                end_time_unix_nano: end,
                ..valid_span()
            };
            accepted(span, |_, span| {
                assert_eq!((span.name, span.start_ns, span.end_ns), (name, start, end));
            });
        }
    }
}

/// Fields that OTLP 1.10 has given to profiles, and the group of spans it had before 1.0.
#[test]
fn p7_p8_fields_of_other_versions_do_no_harm() {
    let mut value = Vec::new();
    wire::put_tag(&mut value, 8, wire::VARINT);
    wire::put_varint(&mut value, 3);
    let mut attribute = Vec::new();
    wire::put_delimited(&mut attribute, 1, b"key");
    wire::put_delimited(&mut attribute, 2, &value);
    wire::put_tag(&mut attribute, 3, wire::VARINT);
    wire::put_varint(&mut attribute, 4);
    let mut span = valid_span().encode_to_vec();
    wire::put_delimited(&mut span, 9, &attribute);
    let mut spans = Vec::new();
    wire::put_delimited(&mut spans, 2, &span);
    let mut resource = Vec::new();
    wire::put_delimited(&mut resource, 2, &spans);
    wire::put_delimited(&mut resource, 1000, b"instrumentation_library_spans");
    let mut request = Vec::new();
    wire::put_delimited(&mut request, 1, &resource);

    let accepted = accept(request.into(), 1).unwrap();
    assert_eq!((accepted.rejected, accepted.batch.parts[0].spans), (0, 1));
    let stored = &accepted.batch.parts[0].otlp;
    let mut decoded = Spans::default();
    decode_into(&mut decoded, stored, |_| true).unwrap();
    assert_eq!(decoded.attributes[0].key, "key");
    assert_eq!(decoded.attributes[0].value, Value::Empty);
    to_json(stored).unwrap();
}

#[test]
fn s9_large_spans_are_kept_whole() {
    let text = |length: usize| Some(any_value::Value::StringValue("x".repeat(length)));
    let sql = pair(
        "db.query.text".into(),
        Some(AnyValue {
            value: text(1 << 20),
        }),
    );
    let few = |at: u32| pair(format!("k{at}"), Some(AnyValue { value: text(3) }));
    let mut attributes: Vec<_> = (0..100_000).map(few).collect();
    attributes.push(sql);
    let event = |at: u64| Event {
        time_unix_nano: at,
        attributes: vec![few(1)],
        ..Event::default()
    };
    let span = Span {
        attributes,
        events: (0..10_000).map(event).collect(),
        ..valid_span()
    };
    accepted(span, |all, span| {
        let attributes = all.attributes_at(&span.attributes);
        assert_eq!(attributes.len(), 100_001);
        assert!(matches!(attributes[100_000].value, Value::Str(it) if it.len() == 1 << 20));
        assert_eq!(span.events.len(), 10_000);
    });
}

#[test]
fn n11_empty_requests_are_fine() {
    for bytes in [&b""[..], b"\x0a\x00", b"\x0a\x02\x12\x00"] {
        let accepted = accept(Bytes::copy_from_slice(bytes), 1).unwrap();
        assert!(accepted.batch.parts.is_empty());
        assert_eq!(accepted.rejected, 0);
    }
}

#[test]
fn s1_values_nest_as_deep_as_prost_reads_and_no_deeper() {
    let nested = |messages: usize| {
        let mut value = Vec::new();
        for _ in 0..messages / 2 {
            let mut array = Vec::new();
            wire::put_delimited(&mut array, 1, &value);
            value.clear();
            wire::put_delimited(&mut value, 5, &array);
        }
        let mut attribute = Vec::new();
        wire::put_delimited(&mut attribute, 2, &value);
        let mut bytes = valid_span().encode_to_vec();
        wire::put_delimited(&mut bytes, 9, &attribute);
        for number in [2, 2, 1] {
            let inner = std::mem::take(&mut bytes);
            wire::put_delimited(&mut bytes, number, &inner);
        }
        bytes
    };
    // Three messages around the span's own level, the span's attribute and its outermost value.
    let deepest = nested(NESTED_MAX - 5);
    assert!(Request::decode(&deepest[..]).is_ok());
    assert!(accept(deepest.into(), 1).is_ok());
    let too_deep = nested(NESTED_MAX - 3);
    assert!(Request::decode(&too_deep[..]).is_err());
    assert_eq!(
        accept(too_deep.into(), 1).unwrap_err().what,
        "values nested too deep"
    );
    assert!(accept(nested(100_000).into(), 1).is_err());
}

#[test]
fn s8_n7_p7_broken_text_groups_and_wrong_types_are_no_otlp() {
    let inside_span = |field: &[u8]| {
        let mut bytes = [&valid_span().encode_to_vec()[..], field].concat();
        for number in [2, 2, 1] {
            let inner = std::mem::take(&mut bytes);
            wire::put_delimited(&mut bytes, number, &inner);
        }
        accept(bytes.into(), 1).map(|it| it.batch.parts.len())
    };
    let what = |field: &[u8]| inside_span(field).unwrap_err().what;
    let error = inside_span(b"\x2a\x02a\xff").unwrap_err();
    // Three messages with tag and length, the two ids, the text's own head, and its first byte.
    assert_eq!(
        (error.what, error.at),
        ("text that is not UTF-8", 6 + 28 + 2 + 1)
    );
    assert_eq!(what(b"\x28\x01"), "a field of the wrong wire type");
    assert_eq!(
        what(b"\xa3\x06\xa4\x06"),
        "a group, which proto3 does not have"
    );
    assert_eq!(what(b"\x2a\x05a"), "a length that goes beyond the end");
    // Field 100, and the instrumentation_library_spans of old.
    assert_eq!(inside_span(b"\xa0\x06\x01"), Ok(1));
    let mut old = Vec::new();
    wire::put_delimited(&mut old, 1000, &[0xff; 9]);
    assert_eq!(accept(old.into(), 1).map(|it| it.batch.parts.len()), Ok(0));
}

#[test]
fn unknown_fields_and_any_order_survive_a_split() {
    let span = |trace: u8| {
        let mut bytes = Span {
            trace_id: vec![trace; 16],
            ..valid_span()
        }
        .encode_to_vec();
        wire::put_delimited(&mut bytes, 500, b"of the span");
        bytes
    };
    let mut scope = Vec::new();
    wire::put_delimited(&mut scope, 2, &span(1));
    wire::put_delimited(&mut scope, 501, b"of the scope");
    wire::put_delimited(&mut scope, 2, &span(2));
    wire::put_delimited(&mut scope, 1, b"\x0a\x02ab");
    let mut resource = Vec::new();
    wire::put_delimited(&mut resource, 2, &scope);
    wire::put_delimited(&mut resource, 1, b"\x0a\x05\x0a\x03key");
    wire::put_delimited(&mut resource, 502, b"of the resource");
    let mut request = Vec::new();
    wire::put_delimited(&mut request, 1, &resource);

    let mut out = Vec::new();
    let second = TraceId([2; 16]);
    assert_eq!(select(&request, |_, id| id == second, &mut out), Ok(1));
    for text in ["of the span", "of the scope", "of the resource"] {
        let found = out.windows(text.len()).filter(|it| *it == text.as_bytes());
        assert_eq!(found.count(), 1, "{text}");
    }
    let mut decoded = Spans::default();
    decode_into(&mut decoded, &out, |_| true).unwrap();
    assert_eq!(decoded.spans[0].trace_id, second);
    assert_eq!(decoded.scopes[0].name, "ab");
    assert_eq!(decoded.resources[0].attributes[0].key, "key");
}

#[test]
fn shards_are_even_and_never_change() {
    let mut counts = BTreeMap::new();
    for number in 0u64..16_000 {
        let low = TraceId(u128::from(number).to_be_bytes());
        let high = TraceId((u128::from(number) << 64 | 1).to_be_bytes());
        *counts.entry(shard_of(low, 16)).or_insert(0) += 1;
        *counts.entry(shard_of(high, 16)).or_insert(0) += 1;
    }
    assert_eq!(counts.len(), 16);
    assert!(
        counts.values().all(|it| (1_700..2_300).contains(it)),
        "{counts:?}"
    );
    let known = TraceId::from_hex("5b8efff798038103d269b633813fc60c").unwrap();
    assert_eq!(shard_of(known, 16), 5);
    assert_eq!(shard_of(known, 1), 0);
}

#[test]
fn p5_content_is_the_bytes_of_the_span() {
    let content = |span: &Span| {
        let bytes = request_of(vec![span.clone()]).encode_to_vec();
        let mut decoded = Spans::default();
        decode_into(&mut decoded, &bytes, |_| true).unwrap();
        decoded.spans[0].content
    };
    let named = Span {
        name: "GET /".into(),
        ..valid_span()
    };
    assert_eq!(content(&valid_span()), content(&valid_span()));
    assert_ne!(content(&valid_span()), content(&named));
    // Client and server that share an id are two spans.
    let of_kind = |kind| Span {
        kind,
        ..valid_span()
    };
    assert_ne!(content(&of_kind(2)), content(&of_kind(3)));
    assert_eq!(content_hash(b""), content_hash(b""));
    assert_ne!(content_hash(&[0; 7]), content_hash(&[0; 8]));
}
