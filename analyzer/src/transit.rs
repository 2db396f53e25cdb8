//! What lies between a caller's span and that of whoever answers: the network, and queues.
//!
//! ```text
//! shop      GET payments   |--------------------|
//! payments    POST /charge       |---------|          6 before, 5 after: connection, network, and the
//!                          before           after     callee's queue (accept, thread pool)
//!
//! shop      publish orders |--|
//! mail        process orders         |--------|       7 between: the message waited in the broker
//! ```
//!
//! The sum of before and after needs no common clock. How it divides does: it is only told where both
//! spans come from one host, because correcting clocks centres the callee.

use crate::sender;
use crate::span::SpanKind;
use crate::trace::{SpanIdx, Trace};

/// The time between a call and the work it causes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transit {
    /// A client's span and the server's below it.
    Request {
        /// The server's span.
        server: SpanIdx,
        /// What of the client's span the server's does not explain, ns.
        network_ns: u64,
        /// Of it, what lies before the server began: the way there, and the server's queue; ns. `None` if the
        /// two clocks are not known to be one.
        before_ns: Option<u64>,
    },
    /// A producer's span and the consumer's below it.
    Message {
        /// The consumer's span.
        consumer: SpanIdx,
        /// From the producer's end to the consumer's start, ns; 0 if it began earlier. By two clocks, unless both are
        /// on one host.
        queued_ns: u64,
    },
}

/// The client spans with many children are something else; so many are looked at.
const CHILDREN_MAX: usize = 8;

/// What lies between the span `caller` and who answers it, if that is in the trace.
pub fn transit(trace: &Trace<'_>, caller: SpanIdx) -> Option<Transit> {
    let wanted = match trace.span(caller).kind {
        SpanKind::Client => SpanKind::Server,
        SpanKind::Producer => SpanKind::Consumer,
        _ => return None,
    };
    let mut children = trace.children(caller).take(CHILDREN_MAX);
    let callee = children.find(|it| trace.span(*it).kind == wanted)?;
    let (out, back) = (trace.node(caller), trace.node(callee));
    if wanted == SpanKind::Consumer {
        return Some(Transit::Message {
            consumer: callee,
            queued_ns: back.start_ns.saturating_sub(out.end_ns),
        });
    }
    if back.detached {
        // A server's span beside its client's time explains nothing of it.
        return None;
    }
    let inside_ns = back.end_ns.min(out.end_ns) - back.start_ns.max(out.start_ns);
    Some(Transit::Request {
        server: callee,
        network_ns: out.end_ns - out.start_ns - inside_ns,
        before_ns: is_one_clock(trace, caller, callee)
            .then(|| back.start_ns.saturating_sub(out.start_ns)),
    })
}

fn is_one_clock(trace: &Trace<'_>, a: SpanIdx, b: SpanIdx) -> bool {
    let host = |span| sender::of(&trace.senders, trace.span(span).resource).host;
    !host(a).is_empty() && host(a) == host(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drawing;

    fn check(drawn: &str, expected: Option<Transit>) {
        let drawing = drawing::parse(drawn);
        let trace = Trace::assemble(drawing.spans());
        assert_eq!(transit(&trace, 1), expected);
    }

    const MS: u64 = 1_000_000;

    #[test]
    fn on_one_host_the_network_has_two_sides() {
        check(
            "
            shop      GET / {res.host.name=a}                        |----------------------|
            shop        GET payments [client]                         |-------------------|
            payments      POST /charge {res.host.name=a}                    |---------|
            ",
            Some(Transit::Request {
                server: 2,
                network_ns: 10 * MS,
                before_ns: Some(6 * MS),
            }),
        );
    }

    #[test]
    fn by_two_clocks_only_the_sum_is_known() {
        check(
            "
            shop      GET / {res.host.name=a}                        |----------------------|
            shop        GET payments [client]                         |-------------------|
            payments      POST /charge {res.host.name=b}                    |---------|
            ",
            Some(Transit::Request {
                server: 2,
                network_ns: 10 * MS,
                before_ns: None,
            }),
        );
    }

    #[test]
    fn messages_wait_in_their_broker() {
        check(
            "
            shop      POST /orders                 |----------|
            shop        publish orders [producer]   |--|
            mail          process orders [consumer]        |--------|
            ",
            Some(Transit::Message {
                consumer: 2,
                queued_ns: 4 * MS,
            }),
        );
    }

    #[test]
    fn without_the_callees_span_nothing_is_known() {
        check(
            "
            shop      GET /                     |----------|
            shop        GET payments [client]    |--|
            ",
            None,
        );
        check(
            "
            shop      GET /      |----------|
            shop        load      |--|
            shop          work    |--|
            ",
            None,
        );
    }

    #[test]
    fn a_server_that_begins_after_the_answer_explains_nothing() {
        check(
            "
            shop      GET /                     |----------|
            shop        GET payments [client]    |--|
            payments      POST /charge               |---|
            ",
            None,
        );
    }
}
