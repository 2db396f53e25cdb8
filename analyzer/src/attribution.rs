//! Every nanosecond of an entry span belongs to one category.
//!
//! An instant belongs to the deepest span on the critical path, and its category is how the entry's
//! own service sees that span. What happens inside another service is one thing to its caller, and is
//! told apart inside that service's own entry:
//!
//! ```text
//! shop      GET /             |--------------------|
//! shop        GET payments       |-------------|
//! payments      POST /charge        |-------|
//! payments        SELECT account      |---|
//! seen by shop                hhhnnneeeeeeeennnnhhhhh    handler, network, external
//! seen by payments                  hhddddhhh           handler, database
//! ```

use crate::category::Category;
use crate::critical_path::{Stretch, Walker};
use crate::span::SpanKind;
use crate::trace::{SpanIdx, Trace};
use crate::{Entry, Segment};

/// Fills in every entry's path and times by category. `categories` and `owners` stand beside the
/// spans; entries in which nothing was instrumented become [`Category::Unattributed`] in both.
pub fn attribute(
    trace: &Trace<'_>,
    owners: &[Option<u32>],
    categories: &mut [Category],
    entries: &mut [Entry<'_>],
) {
    let answered = answered(trace);
    let mut walker = Walker::new(trace);
    for at in 0..entries.len() {
        let stretches = walker.path(entries[at].span);
        let category = &mut categories[entries[at].span as usize];
        // A call that is nobody's child, such as a pool's that warms up, is time at what it calls.
        if *category == Category::Handler && is_uninstrumented(trace, &entries[at], stretches) {
            *category = Category::Unattributed;
        }
        let view = View {
            trace,
            owners,
            categories,
            answered: &answered,
            entries,
        };
        let path: Vec<Segment> = stretches.iter().map(|it| view.segment(at, it)).collect();
        let entry = &mut entries[at];
        for segment in &path {
            entry.categories[segment.category as usize] += segment.end_ns - segment.start_ns;
        }
        entry.path = path;
    }
}

/// Which spans have a server's span below them, so that what is left of them is the network.
fn answered(trace: &Trace<'_>) -> Vec<bool> {
    let mut answered = vec![false; trace.nodes.len()];
    for (span, node) in trace.spans.spans.iter().zip(&trace.nodes) {
        if let (SpanKind::Server, Some(parent)) = (span.kind, node.parent) {
            // A server's span beside its client's time explains nothing of it.
            answered[parent as usize] |= !node.detached;
        }
    }
    answered
}

/// How entries see spans.
struct View<'v, 'a> {
    trace: &'v Trace<'a>,
    owners: &'v [Option<u32>],
    categories: &'v [Category],
    answered: &'v [bool],
    entries: &'v [Entry<'a>],
}

impl View<'_, '_> {
    fn segment(&self, entry: usize, stretch: &Stretch) -> Segment {
        Segment {
            span: stretch.span,
            start_ns: stretch.start_ns,
            end_ns: stretch.end_ns,
            category: self.category(entry, stretch.span),
        }
    }

    fn category(&self, entry: usize, span: SpanIdx) -> Category {
        match self.entry_below(entry, span) {
            Some(callee) => self.callee_category(callee),
            None => match self.categories[span as usize] {
                Category::External if self.answered[span as usize] => Category::Network,
                category => category,
            },
        }
    }

    /// The outermost entry below `entry` that `span` lies in; none if it is `entry`'s own span. The
    /// climb is as short as paths are deep: see [`crate::critical_path`].
    fn entry_below(&self, entry: usize, span: SpanIdx) -> Option<usize> {
        let mut below = self.owners[span as usize]? as usize;
        if below == entry {
            return None;
        }
        while let Some(parent) = self.entries[below].parent {
            if parent == entry {
                break;
            }
            below = parent;
        }
        Some(below)
    }

    /// Time in a service that was called is external, unless the caller knows better: a call to a log
    /// service that is instrumented itself is still logging.
    fn callee_category(&self, callee: usize) -> Category {
        let calling = self.trace.node(self.entries[callee].span).parent;
        match calling.map(|it| self.categories[it as usize]) {
            Some(
                known @ (Category::Database
                | Category::Cache
                | Category::Messaging
                | Category::Logging),
            ) => known,
            _ => Category::External,
        }
    }
}

/// An entry with fewer children than this can be one in which nothing was instrumented.
const CHILDREN_MIN: usize = 2;

/// … if more than one part in so many of its time is its own …
const GAP_SHARE: u64 = 2;

/// … and it takes at least so long, 10 ms in ns: shorter ones are answered by their own code, and
/// nobody searches there.
const GAP_MIN_NS: u64 = 10_000_000;

/// Only the framework reported, and most of the time it reported nothing: to call that the handler's
/// code would be a guess.
fn is_uninstrumented(trace: &Trace<'_>, entry: &Entry<'_>, path: &[Stretch]) -> bool {
    let scope = trace.span(entry.span).scope as usize;
    let own = path.iter().filter(|it| it.span == entry.span);
    let gap_ns: u64 = own.map(|it| it.end_ns - it.start_ns).sum();
    entry.duration_ns >= GAP_MIN_NS
        && gap_ns > entry.duration_ns / GAP_SHARE
        && trace.children(entry.span).take(CHILDREN_MIN).count() < CHILDREN_MIN
        && trace
            .spans
            .scopes
            .get(scope)
            .is_some_and(|it| is_framework(it.name))
}

/// Is this scope an instrumentation that came with a framework, rather than the service's own tracer?
fn is_framework(scope: &str) -> bool {
    const BEGINNINGS: &[&str] = &[
        "@opentelemetry/instrumentation",
        "go.opentelemetry.io/contrib",
        "io.opentelemetry.",
        "Microsoft.AspNetCore",
        "OpenTelemetry.Instrumentation",
        "OpenTelemetry::Instrumentation",
        "opentelemetry.instrumentation",
    ];
    BEGINNINGS.iter().any(|it| scope.starts_with(it))
}

#[cfg(test)]
mod tests {
    use crate::category::Category;
    use crate::{Settings, analyze, drawing};
    use expect_test::{Expect, expect};

    /// Each entry's times by category, ms.
    fn check(drawing: &str, expected: Expect) {
        let drawing = drawing::parse(drawing);
        let analysis = analyze(drawing.spans(), &Settings::default());
        let mut text = String::new();
        for entry in &analysis.entries {
            let sum: u64 = entry.categories.iter().sum();
            assert_eq!(sum, entry.duration_ns);
            text.push_str(&format!("{} {}:", entry.service.name, entry.endpoint));
            for category in Category::ALL {
                let ms = entry.categories[category as usize] / 1_000_000;
                if ms > 0 {
                    text.push_str(&format!(" {} {ms}", category.id()));
                }
            }
            text.push('\n');
        }
        expected.assert_eq(&text);
    }

    #[test]
    fn a_service_that_is_called_is_external_to_its_caller() {
        check(
            "
            shop      GET /                     |--------------------|
            shop        GET payments [client]      |-------------|
            payments      POST /charge                |-------|
            payments        SELECT account              |---|
            ",
            expect![[r#"
                shop GET /: handler 7 external 8 network 6
                payments POST /charge: handler 4 database 4
            "#]],
        );
    }

    #[test]
    fn without_the_callees_span_a_call_is_external() {
        check(
            "
            shop      GET /                     |--------------------|
            shop        GET payments [client]      |-------------|
            shop        SELECT cart             |--|
            ",
            expect![[r#"
                shop GET /: handler 4 database 3 external 14
            "#]],
        );
    }

    #[test]
    fn shipping_log_lines_is_logging_even_if_the_log_service_is_traced() {
        check(
            r#"
            shop      GET /                                                        |--------------------|
            shop        POST [client] {url.full="http://loki/loki/api/v1/push"}      |-------------|
            loki          POST /loki/api/v1/push                                       |-------|
            "#,
            expect![[r#"
                shop GET /: handler 7 logging 14
                loki POST /loki/api/v1/push: handler 8
            "#]],
        );
    }

    #[test]
    fn an_entry_of_which_only_the_framework_told() {
        let drawing = "
            shop  GET / {scope=@opentelemetry/instrumentation-http}  |--------------------|
            shop    SELECT cart                                      |--|
            ";
        check(
            drawing,
            expect![[r#"
                shop GET /: database 3 unattributed 18
            "#]],
        );
        // The service's own tracer: it would have told.
        check(
            &drawing.replace("@opentelemetry/", "@shop-company-/"),
            expect![[r#"
                shop GET /: handler 18 database 3
            "#]],
        );
    }

    #[test]
    fn a_call_that_is_nobodys_child() {
        check(
            "
            shop  POST [client] {scope=@opentelemetry/instrumentation-undici, url.full=http://l/loki/api/v1/push}  |--------------------|
            ",
            expect![[r#"
                shop /loki/api/v1/push: logging 21
            "#]],
        );
    }

    #[test]
    fn three_services_deep() {
        check(
            "
            shop      GET /                     |--------------------|
            shop        GET payments [client]      |-------------|
            payments      POST /charge                |-------|
            payments        POST bank [client]         |-----|
            bank              POST /transfer             |-|
            ",
            expect![[r#"
                shop GET /: handler 7 external 8 network 6
                payments POST /charge: handler 2 external 2 network 4
                bank POST /transfer: handler 2
            "#]],
        );
    }
}
