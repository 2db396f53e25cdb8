//! How much an entry's spans did, as against how long it took.
//!
//! ```text
//! shop  GET /         |--------------------|    21 ms of wall time
//! shop    SELECT a     |-------|
//! shop    SELECT b     |---------|              11 + 8 + 10 + 6 = 35 ms of work: 1.7 things at once,
//! shop    SELECT c        |-----|               on average
//! ```
//!
//! A span works while none of its children of the same entry runs; a child's work is counted at the
//! child. A call to another service is one thing to its caller, whatever happens there.

use crate::Entry;
use crate::trace::Trace;

/// Fills in every entry's work. `owners` stand beside the spans.
pub(crate) fn measure(trace: &Trace<'_>, owners: &[Option<u32>], entries: &mut [Entry<'_>]) {
    // Until when each span's children of its entry, so far, have run, ns.
    let mut covered_until: Vec<u64> = trace.nodes.iter().map(|it| it.start_ns).collect();
    for (idx, node) in (0..).zip(&trace.nodes) {
        let Some(owner) = owners[idx as usize] else {
            continue;
        };
        let entry = &mut entries[owner as usize];
        entry.work_ns = entry.work_ns.saturating_add(node.end_ns - node.start_ns);
        let Some(parent) = node.parent.filter(|it| owners[*it as usize] == Some(owner)) else {
            continue;
        };
        if node.detached {
            continue;
        }
        // Siblings come in order of start, so one mark for each parent is enough.
        let until = &mut covered_until[parent as usize];
        let end_ns = node.end_ns.min(trace.nodes[parent as usize].end_ns);
        let newly = end_ns.saturating_sub(node.start_ns.max(*until));
        *until = end_ns.max(*until);
        entry.work_ns -= newly.min(entry.work_ns);
    }
}

#[cfg(test)]
mod tests {
    use crate::{Settings, analyze, drawing};

    fn check(drawn: &str, expected: &[(u64, f64)]) {
        let drawing = drawing::parse(drawn);
        let analysis = analyze(drawing.spans(), &Settings::default());
        let found = analysis.entries.iter().map(|it| {
            let tenths = (it.parallelism() * 10.0).round() / 10.0;
            (it.work_ns / 1_000_000, tenths)
        });
        assert_eq!(found.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn one_after_the_other_is_as_much_work_as_it_takes() {
        check(
            "
            shop  GET /         |--------------------|
            shop    SELECT a     |-------|
            shop    render                 |-------|
            shop      SELECT b              |---|
            ",
            &[(21, 1.0)],
        );
    }

    #[test]
    fn what_runs_at_once_counts_as_often() {
        check(
            "
            shop  GET /         |--------------------|
            shop    SELECT a     |-------|
            shop    SELECT b     |---------|
            shop    SELECT c        |-----|
            ",
            // 11 of the request's own, 8, 10 and 6.
            &[(35, 1.7)],
        );
    }

    #[test]
    fn another_services_work_is_its_own() {
        check(
            "
            shop   GET /                                            |--------------------|
            shop     GET stock [client] {server.address=stock}       |-------------|
            stock      GET /                                          |---------|
            stock        SELECT a                                     |-----|
            stock        SELECT b                                     |-----|
            ",
            &[(21, 1.0), (16, 1.6)],
        );
    }

    #[test]
    fn what_goes_on_after_the_answer_is_work_too() {
        check(
            "
            shop  GET /         |----|
            shop    late               |----|
            ",
            &[(10, 2.0)],
        );
        check("shop GET / |", &[(0, 0.0)]);
    }
}
