//! OTLP's trace messages as one table. Validation, the JSON decoder and the JSON encoder are loops
//! over it, so a field that a new version of OTLP brings is one line here.

/// A message's fields.
pub(crate) struct Message {
    /// By number where the numbers have no gaps, because [`Message::field`] then needs no search.
    pub fields: &'static [Field],
    /// At most one field is set; of several the last one counts (`AnyValue`).
    pub one_of: bool,
}

/// A field of a message.
pub(crate) struct Field {
    /// Its number on the wire.
    pub number: u32,
    /// Its name in OTLP/JSON.
    pub json: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// May stand any number of times, each time one more element.
    pub repeated: bool,
}

/// What a field holds: how it stands on the wire and in JSON.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// UTF-8 text.
    Text,
    /// Bytes; base64 in JSON.
    Bytes,
    /// An id of so many bytes; hexadecimal in JSON, unlike any other bytes.
    Id(usize),
    /// A boolean.
    Bool,
    /// A varint of 32 signed bits.
    Int32,
    /// A varint of 32 unsigned bits.
    Uint32,
    /// A varint of 64 signed bits; text in JSON.
    Int64,
    /// A number with these names, the first for 0; a number in JSON.
    Enum(&'static [&'static str]),
    /// A double; `NaN` and the infinities are text in JSON.
    Double,
    /// Eight bytes, unsigned; text in JSON.
    Fixed64,
    /// Four bytes, unsigned.
    Fixed32,
    /// A message.
    Message(&'static Message),
}

impl Message {
    /// The field of that number, if this version of the table knows it.
    #[inline(always)]
    pub(crate) fn field(&self, number: u32) -> Option<&'static Field> {
        match self.fields.get((number as usize).wrapping_sub(1)) {
            Some(field) if field.number == number => Some(field),
            _ => self.fields.iter().find(|it| it.number == number),
        }
    }

    /// Whether a key would be a field's name if it were written in `lowerCamelCase`.
    pub(crate) fn is_snake_case_of_a_field(&self, key: &str) -> bool {
        let without = |key: &str| key.replace('_', "").to_ascii_lowercase();
        key.contains('_') && {
            let key = without(key);
            self.fields.iter().any(|it| without(it.json) == key)
        }
    }

    /// The field of that JSON name.
    pub(crate) fn named(&self, json: &str) -> Option<&'static Field> {
        self.fields.iter().find(|it| it.json == json)
    }
}

const fn one(number: u32, json: &'static str, kind: Kind) -> Field {
    Field {
        number,
        json,
        kind,
        repeated: false,
    }
}

const fn many(number: u32, json: &'static str, kind: Kind) -> Field {
    Field {
        number,
        json,
        kind,
        repeated: true,
    }
}

const fn message(fields: &'static [Field]) -> Message {
    Message {
        fields,
        one_of: false,
    }
}

/// Field numbers that the walk over a request reads itself.
pub(crate) mod number {
    /// `ExportTraceServiceRequest.resource_spans`.
    pub(crate) const RESOURCE_SPANS: u32 = 1;
    /// `ResourceSpans.resource`.
    pub(crate) const RESOURCE: u32 = 1;
    /// `ResourceSpans.scope_spans`.
    pub(crate) const SCOPE_SPANS: u32 = 2;
    /// `ScopeSpans.scope`.
    pub(crate) const SCOPE: u32 = 1;
    /// `ScopeSpans.spans`.
    pub(crate) const SPANS: u32 = 2;
    /// `Span.trace_id`.
    pub(crate) const TRACE_ID: u32 = 1;
    /// `Span.span_id`.
    pub(crate) const SPAN_ID: u32 = 2;
    /// `Span.parent_span_id`.
    pub(crate) const PARENT_SPAN_ID: u32 = 4;
    /// `Span.kind`.
    pub(crate) const KIND: u32 = 6;
    /// `Span.attributes`.
    pub(crate) const ATTRIBUTES: u32 = 9;
}

/// `ExportTraceServiceRequest`; `TracesData` looks the same.
pub(crate) static REQUEST: Message = message(&[many(
    number::RESOURCE_SPANS,
    "resourceSpans",
    Kind::Message(&RESOURCE_SPANS),
)]);

/// The spans of one sender.
pub(crate) static RESOURCE_SPANS: Message = message(&[
    one(number::RESOURCE, "resource", Kind::Message(&RESOURCE)),
    many(
        number::SCOPE_SPANS,
        "scopeSpans",
        Kind::Message(&SCOPE_SPANS),
    ),
    one(3, "schemaUrl", Kind::Text),
]);

static RESOURCE: Message = message(&[
    many(1, "attributes", Kind::Message(&KEY_VALUE)),
    one(2, "droppedAttributesCount", Kind::Uint32),
    many(3, "entityRefs", Kind::Message(&ENTITY_REF)),
]);

static ENTITY_REF: Message = message(&[
    one(1, "schemaUrl", Kind::Text),
    one(2, "type", Kind::Text),
    many(3, "idKeys", Kind::Text),
    many(4, "descriptionKeys", Kind::Text),
]);

/// The spans of one instrumentation.
pub(crate) static SCOPE_SPANS: Message = message(&[
    one(number::SCOPE, "scope", Kind::Message(&SCOPE)),
    many(number::SPANS, "spans", Kind::Message(&SPAN)),
    one(3, "schemaUrl", Kind::Text),
]);

static SCOPE: Message = message(&[
    one(1, "name", Kind::Text),
    one(2, "version", Kind::Text),
    many(3, "attributes", Kind::Message(&KEY_VALUE)),
    one(4, "droppedAttributesCount", Kind::Uint32),
]);

/// A span.
pub(crate) static SPAN: Message = message(&[
    one(number::TRACE_ID, "traceId", Kind::Id(16)),
    one(number::SPAN_ID, "spanId", Kind::Id(8)),
    one(3, "traceState", Kind::Text),
    one(number::PARENT_SPAN_ID, "parentSpanId", Kind::Id(8)),
    one(5, "name", Kind::Text),
    one(number::KIND, "kind", Kind::Enum(SPAN_KINDS)),
    one(7, "startTimeUnixNano", Kind::Fixed64),
    one(8, "endTimeUnixNano", Kind::Fixed64),
    many(number::ATTRIBUTES, "attributes", Kind::Message(&KEY_VALUE)),
    one(10, "droppedAttributesCount", Kind::Uint32),
    many(11, "events", Kind::Message(&EVENT)),
    one(12, "droppedEventsCount", Kind::Uint32),
    many(13, "links", Kind::Message(&LINK)),
    one(14, "droppedLinksCount", Kind::Uint32),
    one(15, "status", Kind::Message(&STATUS)),
    one(16, "flags", Kind::Fixed32),
]);

static SPAN_KINDS: &[&str] = &[
    "SPAN_KIND_UNSPECIFIED",
    "SPAN_KIND_INTERNAL",
    "SPAN_KIND_SERVER",
    "SPAN_KIND_CLIENT",
    "SPAN_KIND_PRODUCER",
    "SPAN_KIND_CONSUMER",
];

static EVENT: Message = message(&[
    one(1, "timeUnixNano", Kind::Fixed64),
    one(2, "name", Kind::Text),
    many(3, "attributes", Kind::Message(&KEY_VALUE)),
    one(4, "droppedAttributesCount", Kind::Uint32),
]);

static LINK: Message = message(&[
    one(1, "traceId", Kind::Id(16)),
    one(2, "spanId", Kind::Id(8)),
    one(3, "traceState", Kind::Text),
    many(4, "attributes", Kind::Message(&KEY_VALUE)),
    one(5, "droppedAttributesCount", Kind::Uint32),
    one(6, "flags", Kind::Fixed32),
]);

// Field 1 was a deprecated code once; its number is not used again.
static STATUS: Message = message(&[
    one(2, "message", Kind::Text),
    one(3, "code", Kind::Enum(STATUS_CODES)),
]);

static STATUS_CODES: &[&str] = &["STATUS_CODE_UNSET", "STATUS_CODE_OK", "STATUS_CODE_ERROR"];

// `keyStrindex` and `stringValueStrindex` belong to OTLP's profiles, whose texts stand in a
// dictionary. A span has none, so they mean nothing here, but they are kept like all else.
pub(super) static KEY_VALUE: Message = message(&[
    one(1, "key", Kind::Text),
    one(2, "value", Kind::Message(&ANY_VALUE)),
    one(3, "keyStrindex", Kind::Int32),
]);

/// An attribute's value.
pub(crate) static ANY_VALUE: Message = Message {
    fields: &[
        one(1, "stringValue", Kind::Text),
        one(2, "boolValue", Kind::Bool),
        one(3, "intValue", Kind::Int64),
        one(4, "doubleValue", Kind::Double),
        one(5, "arrayValue", Kind::Message(&ARRAY_VALUE)),
        one(6, "kvlistValue", Kind::Message(&KEY_VALUE_LIST)),
        one(7, "bytesValue", Kind::Bytes),
        one(8, "stringValueStrindex", Kind::Int32),
    ],
    one_of: true,
};

static ARRAY_VALUE: Message = message(&[many(1, "values", Kind::Message(&ANY_VALUE))]);

static KEY_VALUE_LIST: Message = message(&[many(1, "values", Kind::Message(&KEY_VALUE))]);
