//! Corrects clocks that differ between hosts.
//!
//! Only where there is evidence: a server span cannot begin before its client span or outlast it, so
//! if it does and the two are on different hosts, the server's clock is off.
//!
//! ```text
//! fits but sticks out: centred        longer than its client, early: moved to its start
//! client      |--------|              client      |--------|
//! server   |----|                     server   |-------------|
//!       →        |----|                     →     |-------------|
//! ```
//!
//! Everything below it on the same host moves along. Each shift is a warning on the trace.
//! Same-host overflow is real asynchronous work and is left alone.

use crate::span::SpanKind;
use crate::trace::{At, Draft, NONE, TIME_MAX_NS};
use std::collections::VecDeque;
use std::ops::Range;

/// Clocks further apart than this are not corrected, 1 s in ns: synchronised hosts differ by
/// milliseconds, and a server span that lies further away is likelier work that goes on after the
/// answer. The trace says so.
pub const SKEW_MAX_NS: u64 = 1_000_000_000;

/// Shifts the times of spans whose host's clock is off.
pub(crate) fn correct(draft: &mut Draft<'_, '_>) {
    if !has_several_hosts(draft) {
        return;
    }
    // What each span was moved by, ns; parents come before their children.
    let mut shifts = vec![0_i64; draft.len()];
    for at in top_down(&draft.parents) {
        let parent = draft.parents[at as usize];
        if parent == NONE {
            continue;
        }
        let shift = if is_same_clock(draft, parent, at) {
            shifts[parent as usize]
        } else {
            edge_shift(draft, parent, at)
        };
        if let Some(moved) = moved(&draft.times[at as usize], shift) {
            draft.times[at as usize] = moved;
            shifts[at as usize] = shift;
        }
    }
}

fn has_several_hosts(draft: &Draft<'_, '_>) -> bool {
    let mut hosts = draft
        .senders
        .iter()
        .map(|it| it.host)
        .filter(|it| !it.is_empty());
    let first = hosts.next();
    hosts.any(|it| Some(it) != first)
}

fn is_same_clock(draft: &Draft<'_, '_>, parent: At, child: At) -> bool {
    if draft.span(parent).resource == draft.span(child).resource {
        return true;
    }
    let (parent, child) = (draft.sender(parent), draft.sender(child));
    parent == child || (!parent.host.is_empty() && parent.host == child.host)
}

/// The shift of a span whose parent is on another host, or on one that is not known.
fn edge_shift(draft: &mut Draft<'_, '_>, parent: At, child: At) -> i64 {
    let (client, server) = (draft.sender(parent), draft.sender(child));
    let kinds = (draft.span(parent).kind, draft.span(child).kind);
    if client.host.is_empty()
        || server.host.is_empty()
        || kinds != (SpanKind::Client, SpanKind::Server)
    {
        return 0;
    }
    let shift = fit(&draft.times[parent as usize], &draft.times[child as usize]);
    if shift == 0 {
        return 0;
    }
    let (behind_or_ahead, off) = match shift > 0 {
        true => ("behind", shift),
        false => ("ahead of", -shift),
    };
    let off_ms = off as f64 / 1e6;
    let clock = format!(
        "The clock of host {} seems {off_ms:.3} ms {behind_or_ahead} that of host {}",
        server.host, client.host
    );
    if off > i128::from(SKEW_MAX_NS) {
        draft.oddities.not_shifted += 1;
        draft.warn(child, format!("{clock}; more than 1 s is not corrected."));
        return 0;
    }
    draft.oddities.shifted += 1;
    draft.warn(child, format!("{clock}; times were shifted."));
    // In range: the cap is far below i64::MAX.
    shift as i64
}

/// By how much `server` must move to lie inside `client`, as far as that can be known.
fn fit(client: &Range<u64>, server: &Range<u64>) -> i128 {
    let client = i128::from(client.start)..i128::from(client.end);
    let server = i128::from(server.start)..i128::from(server.end);
    let spare = (client.end - client.start) - (server.end - server.start);
    if spare < 0 {
        return (client.start - server.start).max(0);
    }
    let sticks_out = server.start < client.start || server.end > client.end;
    match sticks_out {
        true => client.start + spare / 2 - server.start,
        false => 0,
    }
}

/// `None` if there is no such time.
fn moved(times: &Range<u64>, shift: i64) -> Option<Range<u64>> {
    let start = times.start.checked_add_signed(shift)?;
    let end = times.end.checked_add_signed(shift)?;
    (end <= TIME_MAX_NS).then_some(start..end)
}

/// All positions, parents before their children.
fn top_down(parents: &[At]) -> Vec<At> {
    let mut first_child = vec![NONE; parents.len()];
    let mut next_sibling = vec![NONE; parents.len()];
    let mut queue = VecDeque::new();
    for (at, parent) in (0..).zip(parents) {
        match *parent {
            NONE => queue.push_back(at),
            parent => {
                let head = std::mem::replace(&mut first_child[parent as usize], at);
                next_sibling[at as usize] = head;
            }
        }
    }
    let mut order = Vec::with_capacity(parents.len());
    while let Some(at) = queue.pop_front() {
        order.push(at);
        let mut child = first_child[at as usize];
        while child != NONE {
            queue.push_back(child);
            child = next_sibling[child as usize];
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use crate::drawing;
    use crate::trace::Trace;
    use expect_test::{Expect, expect};

    fn check(drawing: &str, expected: Expect) {
        let drawing = drawing::parse(drawing);
        let trace = Trace::assemble(drawing.spans());
        let mut text = drawing::draw_trace(&trace);
        for warning in &trace.warnings {
            text.push_str(&warning.text);
            text.push('\n');
        }
        expected.assert_eq(&text);
    }

    #[test]
    fn a_server_span_that_fits_is_centred_with_all_below_it() {
        check(
            "
            shop      GET / {res.host.name=a}               |----------------|
            shop        call [client]                          |-----------|
            payments      serve {res.host.name=b}         |-------|
            payments        query                           |--|
            ",
            expect![[r#"
                shop      GET /        |----------------|
                shop        call          |-----------|
                payments      serve         |-------|
                payments        query         |--|
                The clock of host b seems 7.000 ms behind that of host a; times were shifted.
            "#]],
        );
    }

    #[test]
    fn a_server_span_longer_than_its_client_moves_only_if_it_starts_early() {
        check(
            "
            shop      GET / {res.host.name=a}               |----------------|
            shop        call [client]                          |--|
            payments      early {res.host.name=b}            |--------|
            shop        call [client]                                |--|
            payments      late {res.host.name=b}                      |-----|
            ",
            expect![[r#"
                shop      GET /      |----------------|
                shop        call        |--|
                payments      early     |--------|
                shop        call              |--|
                payments      late             |-----|
                The clock of host b seems 2.000 ms behind that of host a; times were shifted.
            "#]],
        );
    }

    #[test]
    fn no_shift_without_two_known_hosts() {
        let drawing = "
            shop      GET / {res.host.name=a}               |----------------|
            shop        call [client]                          |-----------|
            payments      serve                           |-------|
            bills     other {res.host.name=c}                  |-----------|
            ";
        check(
            drawing,
            expect![[r#"
                shop      GET /        |----------------|
                shop        call          |-----------|
                payments      serve  |-------|
                bills     other           |-----------|
            "#]],
        );
        check(
            &drawing.replace("serve                ", "serve {res.host.name=a}"),
            expect![[r#"
                shop      GET /      |----------------|
                shop        call        |-----------|
                payments      serve  |-------|
                bills     other         |-----------|
            "#]],
        );
    }

    #[test]
    fn clocks_too_far_apart_are_left_alone() {
        let far = " ".repeat(1_100);
        check(
            &format!(
                "
            shop      GET / {{res.host.name=a}}            {far}|----------------|
            shop        call [client]                      {far}   |-----------|
            payments      serve {{res.host.name=b}}        |-------|
            "
            ),
            expect![[r#"
                1 column = 20 ms
                shop      GET /                                                                        ||
                shop        call                                                                       ||
                payments      serve {detached}  |
                The clock of host b seems 1107.000 ms behind that of host a; more than 1 s is not corrected.
            "#]],
        );
    }
}
