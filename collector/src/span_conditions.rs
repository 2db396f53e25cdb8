//! What a search asks of a trace's spans, and which traces of a block fulfil it.
//!
//! Each condition may be met by another span of the trace: "the gateway's request that reached this
//! table" is two conditions on two spans. A block's bytes are walked once and nothing is decoded that
//! no condition asks for.

use std::collections::{HashMap, HashSet};

use analyzer::span::{TraceId, Value};

use crate::block_filter::{self, NumberText, SCOPE_KEY};
use crate::otlp::schema::number;
use crate::otlp::wire::{Raw, Reader};
use crate::otlp::{WireError, array_values, attribute_value};

/// Conditions of one search at most; a page refuses more.
pub const CONDITIONS_MAX: usize = 16;

/// Something that at least one span of a trace must have.
#[derive(Clone, PartialEq, Debug)]
pub enum Condition {
    /// A span, or an endpoint, of this name.
    Name(String),
    /// The attribute with this value, however it is typed: of a span, its events or links, its
    /// sender; the scope's name is `otel.scope.name`.
    Equals {
        /// The key.
        key: String,
        /// The value as text.
        value: String,
    },
    /// The attribute is there.
    Present {
        /// The key.
        key: String,
    },
    /// The attribute is a number, or text that spells one, and lies within these bounds.
    Within {
        /// The key.
        key: String,
        /// The least that fits.
        least: Bound,
        /// The greatest that fits.
        greatest: Bound,
    },
}

/// An end of a range of numbers.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Bound {
    /// It fits itself.
    Included(f64),
    /// It does not.
    Excluded(f64),
    /// There is none.
    Unbounded,
}

impl Condition {
    /// The key it asks for, if it asks for an attribute.
    pub fn key(&self) -> Option<&str> {
        match self {
            Condition::Name(_) => None,
            Condition::Equals { key, .. }
            | Condition::Present { key }
            | Condition::Within { key, .. } => Some(key),
        }
    }

    /// The words of which a block's filter must hold one.
    pub fn tokens(&self) -> Vec<u64> {
        match self {
            Condition::Name(name) => vec![block_filter::name_token(name)],
            Condition::Equals { key, value } => block_filter::value_tokens(key, value),
            Condition::Present { key } | Condition::Within { key, .. } => {
                vec![block_filter::key_token(key)]
            }
        }
    }

    /// The numbers that fit, ends included; `None` if it asks for none.
    pub fn numbers(&self) -> Option<(f64, f64)> {
        let Condition::Within {
            least, greatest, ..
        } = self
        else {
            return None;
        };
        let end = |bound: &Bound, unbounded| match bound {
            Bound::Included(at) | Bound::Excluded(at) => *at,
            Bound::Unbounded => unbounded,
        };
        Some((end(least, f64::NEG_INFINITY), end(greatest, f64::INFINITY)))
    }

    fn fits(&self, value: &Value<'_>) -> bool {
        if let Value::Nested(encoded) = value {
            let elements = array_values(encoded);
            let present = matches!(self, Condition::Present { .. });
            return present
                || elements
                    .iter()
                    .any(|it| !matches!(it, Value::Nested(_)) && self.fits(it));
        }
        match self {
            Condition::Name(_) => false,
            Condition::Present { .. } => true,
            Condition::Equals { value: asked, .. } => equals(value, asked),
            Condition::Within {
                least, greatest, ..
            } => number_of(value).is_some_and(|it| least.is_below(it) && greatest.is_above(it)),
        }
    }
}

impl Bound {
    fn is_below(&self, number: f64) -> bool {
        match self {
            Bound::Included(at) => *at <= number,
            Bound::Excluded(at) => *at < number,
            Bound::Unbounded => true,
        }
    }

    fn is_above(&self, number: f64) -> bool {
        match self {
            Bound::Included(at) => number <= *at,
            Bound::Excluded(at) => number < *at,
            Bound::Unbounded => true,
        }
    }
}

fn equals(value: &Value<'_>, asked: &str) -> bool {
    let spells = |text: &[u8], number: f64| {
        text == asked.as_bytes() || block_filter::number(asked) == Some(number)
    };
    let mut text = NumberText::default();
    match value {
        Value::Str(value) => *value == asked,
        Value::Bool(value) => asked == if *value { "true" } else { "false" },
        Value::Int(value) => spells(text.int(*value), *value as f64),
        Value::Double(value) => spells(text.double(*value), *value),
        Value::Empty | Value::Bytes(_) | Value::Nested(_) => false,
    }
}

fn number_of(value: &Value<'_>) -> Option<f64> {
    match value {
        Value::Int(number) => Some(*number as f64),
        Value::Double(number) => Some(*number).filter(|it| it.is_finite()),
        Value::Str(text) => block_filter::number(text),
        _ => None,
    }
}

/// Which conditions the spans of a trace meet: a bit for each.
pub type Met = u32;

/// All bits of that many conditions.
pub fn all_met(conditions: usize) -> Met {
    (1_u32 << conditions.min(CONDITIONS_MAX)) - 1
}

/// Which of at most [`CONDITIONS_MAX`] conditions each trace of a request meets. Traces that are not
/// `wanted` and traces that meet none may be left out.
///
/// # Errors
/// The bytes are no OTLP.
pub fn met(
    request: &[u8],
    conditions: &[Condition],
    wanted: Option<&HashSet<TraceId>>,
) -> Result<HashMap<TraceId, Met>, WireError> {
    let mut walk = Walk {
        request,
        conditions,
        wanted,
        met: HashMap::new(),
        last: (TraceId::default(), 0),
    };
    walk.request()?;
    walk.keep_last();
    Ok(walk.met)
}

struct Walk<'a> {
    request: &'a [u8],
    conditions: &'a [Condition],
    wanted: Option<&'a HashSet<TraceId>>,
    met: HashMap<TraceId, Met>,
    /// The trace of the span before, mostly that of the next.
    last: (TraceId, Met),
}

/// `Resource.attributes`, `Event.name` and the like.
mod field {
    pub(super) const RESOURCE_ATTRIBUTES: u32 = 1;
    pub(super) const SCOPE_NAME: u32 = 1;
    pub(super) const SPAN_NAME: u32 = 5;
    pub(super) const SPAN_ATTRIBUTES: u32 = 9;
    pub(super) const SPAN_EVENTS: u32 = 11;
    pub(super) const SPAN_LINKS: u32 = 13;
    pub(super) const EVENT_ATTRIBUTES: u32 = 3;
    pub(super) const LINK_ATTRIBUTES: u32 = 4;
    pub(super) const KEY: u32 = 1;
    pub(super) const VALUE: u32 = 2;
}

impl Walk<'_> {
    fn request(&mut self) -> Result<(), WireError> {
        let mut reader = Reader::new(self.request);
        while let Some(field) = reader.field()? {
            if let (number::RESOURCE_SPANS, Raw::Delimited(range)) = (field.number, field.value) {
                self.resource_spans(Reader::over(self.request, range))?;
            }
        }
        Ok(())
    }

    /// The resource may stand behind its spans, so it is looked for first.
    fn resource_spans(&mut self, reader: Reader<'_>) -> Result<(), WireError> {
        let mut met = 0;
        let mut fields = reader.clone();
        while let Some(field) = fields.field()? {
            if let (number::RESOURCE, Raw::Delimited(range)) = (field.number, field.value) {
                let resource = Reader::over(self.request, range);
                met |= self.attributes(resource, field::RESOURCE_ATTRIBUTES)?;
            }
        }
        let mut fields = reader;
        while let Some(field) = fields.field()? {
            if let (number::SCOPE_SPANS, Raw::Delimited(range)) = (field.number, field.value) {
                self.scope_spans(Reader::over(self.request, range), met)?;
            }
        }
        Ok(())
    }

    fn scope_spans(&mut self, reader: Reader<'_>, mut met: Met) -> Result<(), WireError> {
        let mut fields = reader.clone();
        while let Some(field) = fields.field()? {
            if let (number::SCOPE, Raw::Delimited(range)) = (field.number, field.value) {
                met |= self.scope(Reader::over(self.request, range))?;
            }
        }
        let mut fields = reader;
        while let Some(field) = fields.field()? {
            if let (number::SPANS, Raw::Delimited(range)) = (field.number, field.value) {
                self.span(Reader::over(self.request, range), met)?;
            }
        }
        Ok(())
    }

    fn scope(&self, mut fields: Reader<'_>) -> Result<Met, WireError> {
        let mut met = 0;
        while let Some(field) = fields.field()? {
            if let (field::SCOPE_NAME, Raw::Delimited(range)) = (field.number, field.value) {
                let name = Value::Str(str::from_utf8(&self.request[range]).unwrap_or_default());
                met |= self.fitting(SCOPE_KEY.as_bytes(), || name);
            }
        }
        Ok(met)
    }

    fn span(&mut self, mut fields: Reader<'_>, mut met: Met) -> Result<(), WireError> {
        let request = self.request;
        let mut trace_id = TraceId::default();
        while let Some(field) = fields.field()? {
            let Raw::Delimited(range) = field.value else {
                continue;
            };
            match field.number {
                number::TRACE_ID => {
                    trace_id = TraceId(request[range].try_into().unwrap_or_default());
                    if self.wanted.is_some_and(|it| !it.contains(&trace_id)) {
                        return Ok(());
                    }
                }
                field::SPAN_NAME => met |= self.named(&request[range]),
                field::SPAN_ATTRIBUTES => met |= self.attribute(Reader::over(request, range))?,
                field::SPAN_EVENTS => {
                    let event = Reader::over(request, range);
                    met |= self.attributes(event, field::EVENT_ATTRIBUTES)?;
                }
                field::SPAN_LINKS => {
                    let link = Reader::over(request, range);
                    met |= self.attributes(link, field::LINK_ATTRIBUTES)?;
                }
                _ => {}
            }
        }
        if self.last.0 != trace_id {
            self.keep_last();
            self.last = (trace_id, 0);
        }
        self.last.1 |= met;
        Ok(())
    }

    fn keep_last(&mut self) {
        let (trace_id, met) = self.last;
        if met != 0 {
            *self.met.entry(trace_id).or_default() |= met;
        }
    }

    fn named(&self, name: &[u8]) -> Met {
        self.bits(|it| matches!(it, Condition::Name(asked) if asked.as_bytes() == name))
    }

    /// The attributes of a message, which are its fields of this number.
    fn attributes(&self, mut fields: Reader<'_>, number: u32) -> Result<Met, WireError> {
        let mut met = 0;
        while let Some(field) = fields.field()? {
            if let (true, Raw::Delimited(range)) = (field.number == number, field.value) {
                met |= self.attribute(Reader::over(self.request, range))?;
            }
        }
        Ok(met)
    }

    #[inline]
    fn attribute(&self, mut fields: Reader<'_>) -> Result<Met, WireError> {
        let (mut key, mut value) = (0..0, 0..0);
        while let Some(field) = fields.field()? {
            match (field.number, field.value) {
                (field::KEY, Raw::Delimited(range)) => key = range,
                (field::VALUE, Raw::Delimited(range)) => value = range,
                _ => {}
            }
        }
        let value = || attribute_value(&self.request[value.clone()]).unwrap_or(Value::Empty);
        Ok(self.fitting(&self.request[key], value))
    }

    /// The conditions on this key that the value fits; it is decoded only if there are any.
    #[inline]
    fn fitting<'v>(&self, key: &[u8], value: impl Fn() -> Value<'v>) -> Met {
        let of_key = |it: &Condition| it.key().is_some_and(|it| it.as_bytes() == key);
        if self.conditions.iter().any(of_key) {
            let value = value();
            return self.bits(|it| of_key(it) && it.fits(&value));
        }
        0
    }

    fn bits(&self, meets: impl Fn(&Condition) -> bool) -> Met {
        let conditions = self.conditions.iter().take(CONDITIONS_MAX).enumerate();
        conditions.fold(0, |met, (at, it)| met | Met::from(meets(it)) << at)
    }
}
