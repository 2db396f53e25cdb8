//! What a service is written in, as far as its fixes are said in that language's words.

use crate::Analysis;
use crate::trace::SpanIdx;

/// `telemetry.sdk.language` of the service that sent `span`, such as `python`, `nodejs`, `dotnet`;
/// empty if it is not told.
pub fn language<'a>(analysis: &Analysis<'a>, span: SpanIdx) -> &'a str {
    let span = analysis.trace.span(span);
    let said = analysis
        .trace
        .spans
        .resource_text(span, &["telemetry.sdk.language"]);
    said.unwrap_or("")
}
