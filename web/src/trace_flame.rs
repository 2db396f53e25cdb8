//! The flame graph of one trace: spans of one name under one path are one frame, as wide as the
//! work in it.
//!
//! ```text
//! GET /posts ───────────────────────────────┐
//! ├ SELECT posts ┤├ ×31 SELECT authors ─────┤
//! ```
//!
//! Widths are self times added up, so calls that ran at the same time stand beside each other, and
//! the whole may be longer than the request took. Asynchronous parts are trees of their own.
//! [`svg`] is the same as an inferno drawing, a file of its own to keep or pass on.

use std::collections::HashMap;

use analyzer::category::Category;
use analyzer::trace::SpanIdx;
use foldhash::fast::RandomState;

use crate::indexed::Indexed;
use crate::waterfall::{self, Piece};

/// Frames in one graph. What is deeper or later folds into its parent frame, whose width is then
/// its own work; nothing is lost of the sum.
pub const FRAMES_MAX: usize = 2_000;

/// Levels of the graph; deeper spans fold into the frame above. A page of 100 levels is 2,400
/// pixels high.
const LEVELS_MAX: u32 = 100;

/// Frames narrower than this are not drawn: less than a pixel on a wide screen.
const WIDTH_MIN: f64 = 0.08;

/// Spans of one name under one path.
#[derive(Clone, PartialEq, Debug)]
pub struct Frame {
    /// The frame above; it stands before this one. `None` at the top.
    pub parent: Option<usize>,
    /// The operation, as sent.
    pub name: String,
    /// Whose it is.
    pub service: String,
    /// The kind of its own time.
    pub category: Category,
    /// Spans folded into it.
    pub count: u32,
    /// The first of them.
    pub span: SpanIdx,
    /// Levels from the top, 0 there.
    pub level: u32,
    /// Time in which no child ran, added up, ns.
    pub self_ns: u64,
    /// The same with everything below, ns: the frame's width.
    pub total_ns: u64,
    /// It lies in an asynchronous part.
    pub detached: bool,
}

/// A frame's place in the drawing.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Placed {
    /// Which frame.
    pub frame: usize,
    /// The left edge, percent of the drawing.
    pub x: f64,
    /// Percent of the drawing.
    pub width: f64,
    /// Levels from the top of the drawing.
    pub level: u32,
}

/// The frames of a trace, and where its spans went.
#[derive(Clone, Debug)]
pub struct Graph {
    /// In order of the tree: parents first, siblings in order of their first span.
    pub frames: Vec<Frame>,
    /// The frame of each span.
    pub of_span: Vec<usize>,
}

/// The frames of a trace, in order of the tree.
pub fn frames(indexed: &Indexed<'_, '_>) -> Vec<Frame> {
    graph(indexed, None).frames
}

/// The frames of a trace; as wide as the work within `window`, if there is one.
pub fn graph(indexed: &Indexed<'_, '_>, window: Option<Piece>) -> Graph {
    let (analysis, names) = (indexed.analysis, &indexed.names);
    let mut frames: Vec<Frame> = Vec::new();
    let mut known: HashMap<(Option<usize>, u32), usize, RandomState> = HashMap::default();
    // Spans stand in depth-first order, so a parent's frame is known before its children's.
    let mut of_span: Vec<usize> = Vec::with_capacity(analysis.trace.nodes.len());
    for (span, node) in (0..).zip(&analysis.trace.nodes) {
        let apart = node.detached || node.parent.is_none();
        let parent = node
            .parent
            .filter(|_| !apart)
            .map(|it| of_span[it as usize]);
        let key = (parent, names.number(span));
        let full = frames.len() >= FRAMES_MAX
            || parent.is_some_and(|it| frames[it].level + 1 >= LEVELS_MAX);
        let at = match (known.get(&key), parent) {
            (Some(at), _) => *at,
            (None, Some(parent)) if full => parent,
            (None, None) if full => 0,
            (None, _) => {
                known.insert(key, frames.len());
                let operation = names.operation(span);
                frames.push(Frame {
                    parent,
                    name: operation.name.to_owned(),
                    service: operation.service.to_owned(),
                    category: operation.category,
                    count: 0,
                    span,
                    level: parent.map_or(0, |it| frames[it].level + 1),
                    self_ns: 0,
                    total_ns: 0,
                    detached: indexed.detached[span as usize],
                });
                frames.len() - 1
            }
        };
        let own = match window {
            Some(_) => waterfall::own_ns(analysis, span, window),
            None => indexed.own_ns[span as usize],
        };
        frames[at].count += 1;
        frames[at].self_ns = frames[at].self_ns.saturating_add(own);
        of_span.push(at);
    }
    add_up(&mut frames);
    Graph { frames, of_span }
}

fn add_up(frames: &mut [Frame]) {
    for at in (0..frames.len()).rev() {
        let total_ns = frames[at].total_ns.saturating_add(frames[at].self_ns);
        frames[at].total_ns = total_ns;
        if let Some(parent) = frames[at].parent {
            frames[parent].total_ns = frames[parent].total_ns.saturating_add(total_ns);
        }
    }
}

/// Where the frames stand. With `zoom`, that frame takes the whole width, what is above it too.
pub fn place(frames: &[Frame], zoom: Option<usize>) -> Vec<Placed> {
    let above = zoom.map(|it| ancestors(frames, it)).unwrap_or_default();
    let tops_ns: u64 = frames
        .iter()
        .filter(|it| it.parent.is_none())
        .map(|it| it.total_ns)
        .sum();
    let whole_ns = zoom.map_or(tops_ns, |it| frames[it].total_ns).max(1);
    let mut placed = Vec::new();
    // Where each frame begins, ns from the left, and where its next child will.
    let mut begins: Vec<Option<u64>> = vec![None; frames.len()];
    let mut next: Vec<u64> = vec![0; frames.len()];
    let mut next_top = 0;
    for (at, frame) in frames.iter().enumerate() {
        if above.contains(&at) {
            placed.push(Placed {
                frame: at,
                x: 0.0,
                width: 100.0,
                level: frame.level,
            });
            continue;
        }
        let begin_ns = match frame.parent {
            _ if zoom == Some(at) => 0,
            None if zoom.is_none() => next_top,
            Some(parent) if begins[parent].is_some() => next[parent],
            _ => continue,
        };
        match frame.parent {
            Some(parent) => next[parent] = begin_ns + frame.total_ns,
            None => next_top = begin_ns + frame.total_ns,
        }
        begins[at] = Some(begin_ns);
        next[at] = begin_ns;
        let percent = |ns: u64| ns as f64 * 100.0 / whole_ns as f64;
        if percent(frame.total_ns) >= WIDTH_MIN {
            let (x, width) = (percent(begin_ns), percent(frame.total_ns));
            placed.push(Placed {
                frame: at,
                x,
                width,
                level: frame.level,
            });
        }
    }
    placed
}

fn ancestors(frames: &[Frame], of: usize) -> Vec<usize> {
    std::iter::successors(frames[of].parent, |it| frames[*it].parent).collect()
}

/// `a;b;c ns` lines, as flame-graph tools read them: one per frame with time of its own.
pub fn folded(frames: &[Frame]) -> Vec<String> {
    let mut paths: Vec<String> = Vec::with_capacity(frames.len());
    for frame in frames {
        let name = one_word(&frame.name);
        paths.push(match frame.parent {
            Some(parent) => format!("{};{name}", paths[parent]),
            None => name,
        });
    }
    let lines = frames
        .iter()
        .zip(paths)
        .filter(|(frame, _)| frame.self_ns > 0);
    let mut lines: Vec<String> = lines
        .map(|(frame, path)| format!("{path} {}", frame.self_ns))
        .collect();
    lines.sort_unstable();
    lines
}

/// A name within a folded line and within XML: without separators and control characters.
fn one_word(name: &str) -> String {
    name.chars()
        .map(|it| match it {
            ';' => ':',
            '\u{fffe}' | '\u{ffff}' => '\u{fffd}',
            it if it.is_control() => ' ',
            it => it,
        })
        .collect()
}

/// The graph as a drawing of its own (inferno), without script. Empty traces give an empty drawing.
pub fn svg(frames: &[Frame], title: &str) -> std::io::Result<Vec<u8>> {
    use inferno::flamegraph::{Direction, Options, from_lines};
    let lines = folded(frames);
    if lines.is_empty() {
        return Ok(
            br#"<svg xmlns="http://www.w3.org/2000/svg" width="1200" height="20"/>"#.to_vec(),
        );
    }
    let mut options = Options::default();
    options.title = one_word(title);
    options.count_name = "ns".to_owned();
    options.name_type = "Span:".to_owned();
    options.direction = Direction::Inverted;
    options.no_javascript = true;
    options.deterministic = true;
    let mut svg = Vec::new();
    from_lines(&mut options, lines.iter().map(String::as_str), &mut svg)
        .map_err(std::io::Error::other)?;
    Ok(without_script(&String::from_utf8_lossy(&svg)).into_bytes())
}

/// The picture is looked at in a sandbox: what only works with script goes. Names cannot hold these
/// marks, since inferno escapes them.
fn without_script(svg: &str) -> String {
    let svg = svg.replacen(" onload=\"init(evt)\"", "", 1);
    let svg = cut_out(&svg, "<script", "</script>");
    cut_out(&svg, "<text id=\"search\"", "</text>")
}

fn cut_out(text: &str, from: &str, until: &str) -> String {
    let found = text
        .split_once(from)
        .and_then(|(before, rest)| Some((before, rest.split_once(until)?.1)));
    found.map_or_else(
        || text.to_owned(),
        |(before, after)| format!("{before}{after}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use analyzer::{Settings, drawing};
    use expect_test::expect;

    const POSTS: &str = "
shop  GET /posts                |------------------------------|
shop    SELECT posts               |--|
shop    SELECT authors                 |-|
shop    SELECT authors                   |-|
shop    SELECT authors                     |-|
shop    send news [producer]                  |-|
mail      process news [consumer]                |--------|
";

    fn drawn(test: impl FnOnce(&[Frame])) {
        let drawing = drawing::parse(POSTS);
        let analysis = analyzer::analyze(drawing.spans(), &Settings::default());
        test(&frames(&Indexed::of(&analysis)));
    }

    #[test]
    fn spans_of_one_name_are_one_frame() {
        drawn(|frames| {
            expect![[r#"
            GET /posts 20000000
            GET /posts;select authors 6000000
            GET /posts;select posts 3000000
            GET /posts;send news 2000000
            process news 9000000"#]]
            .assert_eq(&folded(frames).join("\n"))
        });
    }

    #[test]
    fn frames_fill_the_width_and_nest() {
        drawn(|frames| {
            let placed = place(frames, None);
            let tops = placed.iter().filter(|it| it.level == 0);
            assert!((tops.map(|it| it.width).sum::<f64>() - 100.0).abs() < 1e-9);
            for it in &placed {
                assert!(it.x >= 0.0 && it.x + it.width <= 100.0 + 1e-9, "{it:?}");
            }
            let authors = frames.iter().position(|it| it.count == 3).unwrap();
            let zoomed = place(frames, Some(authors));
            assert!(zoomed.iter().all(|it| it.width == 100.0), "{zoomed:?}");
            assert_eq!(zoomed.len(), 2);
        });
    }

    #[test]
    fn the_picture_holds_every_frame_and_no_script() {
        drawn(|frames| {
            let svg = String::from_utf8(svg(frames, "GET /posts").unwrap()).unwrap();
            assert!(svg.contains("select authors"));
            assert!(!svg.contains("<script") && !svg.contains("onload") && !svg.contains("Search"));
        });
        let empty = svg(&[], "nothing").unwrap();
        assert!(empty.starts_with(b"<svg"));
    }
}
