//! The call paths of many requests as a flame graph, drawn by us: text that never scales, colours
//! of the categories, a link per frame. The same as folded text, and as inferno's drawing.

use analyzer::category::Category;
use analyzer::profile::Profile;
use std::io;

use crate::category_bar;
use crate::format;

/// A flame graph, ready for the template.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Flame {
    /// From the top to the bottom, from left to right.
    pub frames: Vec<Frame>,
    /// Pixels.
    pub height: usize,
    /// The name of the frame that the graph is zoomed to.
    pub zoomed: Option<String>,
    /// Paths that are too narrow to be drawn by themselves.
    pub hidden: usize,
    /// Critical-path time of all requests, ns.
    pub total_ns: i64,
}

/// One rectangle.
#[derive(Clone, PartialEq, Debug)]
pub struct Frame {
    /// Left edge, such as `12.5%`.
    pub x: String,
    /// Pixels from the top.
    pub y: usize,
    /// Such as `27.49%`.
    pub width: String,
    /// Whole name and numbers.
    pub title: String,
    /// What fits into it; may be empty.
    pub label: String,
    /// The kind of its self time; `None` for the one that stands for many narrow ones.
    pub category: Option<Category>,
    /// The id of its path, for the link that zooms; empty for the one that stands for many.
    pub path: String,
}

impl Frame {
    /// What fills it: `fill="…"` or `class="…"`.
    pub fn paint(&self) -> &'static str {
        self.category
            .as_ref()
            .map_or(r#"class="none""#, category_bar::paint)
    }

    /// The class of the edge that shows the colour in full.
    pub fn class(&self) -> &'static str {
        self.category.as_ref().map_or("none", category_bar::class)
    }
}

/// A row: the rectangle and the gap below it, pixels.
const ROW_PX: usize = 24;

/// Frames below this share of the graph are a hair on any screen: they are drawn as one.
const SHARE_MIN: f64 = 0.002;

/// Frames below this share have no room for three letters.
const LABEL_SHARE_MIN: f64 = 0.03;

/// How many letters fit in the whole width, on the narrowest screen that shows it at its side.
const LETTERS_MAX: f64 = 125.0;

/// A title longer than this is cut: senders choose names, and the browser shows titles in one piece.
const TITLE_LETTERS_MAX: usize = 500;

/// A profile with the sums that drawing needs.
struct Tree<'a> {
    profile: &'a Profile,
    /// Critical-path time with all below, ns. Below zero counts as zero: a difference not yet whole.
    inclusive: Vec<i64>,
    /// The dearest first.
    children: Vec<Vec<usize>>,
    roots: Vec<usize>,
    ids: Vec<u64>,
}

impl<'a> Tree<'a> {
    fn of(profile: &'a Profile) -> Tree<'a> {
        let count = profile.nodes.len();
        let mut inclusive: Vec<i64> = profile
            .nodes
            .iter()
            .map(|it| it.critical_ns.max(0))
            .collect();
        let mut children = vec![Vec::new(); count];
        let mut roots = Vec::new();
        let mut ids = Vec::with_capacity(count);
        for (at, node) in profile.nodes.iter().enumerate() {
            let above = match node.parent {
                Some(parent) => {
                    children[parent as usize].push(at);
                    ids[parent as usize]
                }
                None => {
                    roots.push(at);
                    0xcbf2_9ce4_8422_2325
                }
            };
            ids.push(path_id(above, node.category, &node.name));
        }
        // Parents stand before their children.
        for at in (0..count).rev() {
            if let Some(parent) = profile.nodes[at].parent {
                inclusive[parent as usize] =
                    inclusive[parent as usize].saturating_add(inclusive[at]);
            }
        }
        for siblings in children.iter_mut().chain([&mut roots]) {
            siblings.sort_by_key(|it| (std::cmp::Reverse(inclusive[*it]), *it));
        }
        Tree {
            profile,
            inclusive,
            children,
            roots,
            ids,
        }
    }

    fn total(&self, nodes: &[usize]) -> i64 {
        nodes
            .iter()
            .fold(0, |sum, it| sum.saturating_add(self.inclusive[*it]))
    }

    /// The frames from the root down to `at`, without it.
    fn above(&self, at: usize) -> Vec<usize> {
        let parent = |at: &usize| self.profile.nodes[*at].parent.map(|it| it as usize);
        let mut above: Vec<usize> = std::iter::successors(parent(&at), parent).collect();
        above.reverse();
        above
    }
}

/// Draws `profile`, zoomed to the frame whose path has the id `zoom` (all of it if there is none).
/// `requests` is what the numbers are told per; at least 1.
pub fn draw(profile: &Profile, requests: i64, zoom: Option<&str>) -> Flame {
    let tree = Tree::of(profile);
    let zoom = zoom.and_then(|it| u64::from_str_radix(it, 16).ok());
    let zoomed = zoom.and_then(|it| tree.ids.iter().position(|id| *id == it));
    let (above, top) = match zoomed {
        Some(at) => (tree.above(at), vec![at]),
        None => (Vec::new(), tree.roots.clone()),
    };
    let total_ns = tree.total(&tree.roots);
    let mut flame = Flame {
        zoomed: zoomed.map(|at| profile.nodes[at].name.to_string()),
        total_ns,
        ..Flame::default()
    };
    let shown = tree.total(&top);
    if shown == 0 {
        return flame;
    }
    let of = Whole {
        total_ns,
        shown_ns: shown,
        requests: requests.max(1),
    };
    for (row, at) in above.iter().enumerate() {
        flame.frames.push(of.frame(&tree, *at, row, 0.0, 1.0));
    }
    // Rows are laid one after the other, siblings from left to right under their parent.
    let mut row: Vec<(f64, Vec<usize>)> = vec![(0.0, top)];
    let mut depth = above.len();
    while !row.is_empty() {
        let mut below = Vec::new();
        for (mut x, siblings) in row {
            let drawn = siblings.partition_point(|it| of.share(tree.inclusive[*it]) >= SHARE_MIN);
            let (drawn, narrow) = siblings.split_at(drawn);
            for at in drawn {
                let share = of.share(tree.inclusive[*at]);
                flame.frames.push(of.frame(&tree, *at, depth, x, share));
                below.push((x, tree.children[*at].clone()));
                x += share;
            }
            flame.hidden += hidden(&tree, narrow);
            let rest = of.share(tree.total(narrow));
            if rest >= SHARE_MIN {
                flame.frames.push(of.rest(&tree, narrow, depth, x, rest));
            }
        }
        below.retain(|(_, children): &(f64, Vec<usize>)| !children.is_empty());
        row = below;
        depth += 1;
    }
    flame.height = flame
        .frames
        .iter()
        .map(|it| it.y + ROW_PX)
        .max()
        .unwrap_or(0);
    flame
}

/// How many paths `nodes` and all below them are; those without any time are not missed.
fn hidden(tree: &Tree<'_>, nodes: &[usize]) -> usize {
    let mut open: Vec<usize> = nodes.to_vec();
    let mut count = 0;
    while let Some(at) = open.pop() {
        count += usize::from(tree.inclusive[at] > 0);
        open.extend(&tree.children[at]);
    }
    count
}

/// What frames are parts of.
struct Whole {
    total_ns: i64,
    shown_ns: i64,
    requests: i64,
}

impl Whole {
    fn share(&self, ns: i64) -> f64 {
        ns as f64 / self.shown_ns as f64
    }

    /// `40 ms per request, 27.5 % of the time`
    fn numbers(&self, ns: i64) -> String {
        let each = format::duration(ns.max(0) as u64 / self.requests as u64);
        let share = format::percent(ns as f64 / self.total_ns as f64);
        format!("{each} per request, {share} % of the time")
    }

    fn frame(&self, tree: &Tree<'_>, at: usize, row: usize, x: f64, share: f64) -> Frame {
        let node = &tree.profile.nodes[at];
        let ns = tree.inclusive[at];
        let name = cut(&node.name, TITLE_LETTERS_MAX);
        let calls = format::number(node.count as f64 / self.requests as f64);
        let title = format!(
            "{name}: {}, {calls} calls per request, {}; {} ns in all",
            self.numbers(ns),
            node.category.name(),
            format::count(ns),
        );
        Frame {
            x: format::width(x),
            y: row * ROW_PX,
            width: format::width(share),
            title,
            label: label(&node.name, share),
            category: Some(node.category),
            path: format!("{:016x}", tree.ids[at]),
        }
    }

    fn rest(&self, tree: &Tree<'_>, narrow: &[usize], row: usize, x: f64, share: f64) -> Frame {
        let ns = tree.total(narrow);
        let name = format!("{} narrow frames", hidden(tree, narrow));
        Frame {
            x: format::width(x),
            y: row * ROW_PX,
            width: format::width(share),
            title: format!("{name}: {}", self.numbers(ns)),
            label: label(&name, share),
            category: None,
            path: String::new(),
        }
    }
}

/// As much of a name as fits into a share of the whole width.
fn label(name: &str, share: f64) -> String {
    if share < LABEL_SHARE_MIN {
        return String::new();
    }
    cut(name, (share * LETTERS_MAX) as usize)
}

fn cut(name: &str, letters_max: usize) -> String {
    if name.chars().count() <= letters_max {
        return name.to_owned();
    }
    name.chars()
        .take(letters_max.saturating_sub(1))
        .chain(['…'])
        .collect()
}

/// FNV-1a of the names from the root down: the same path has the same id in every range and
/// release, and whatever stands in a name, the address stays short.
fn path_id(above: u64, category: Category, name: &str) -> u64 {
    let bytes = [category as u8].into_iter().chain(name.bytes()).chain([0]);
    bytes.fold(above, |id, byte| {
        (id ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// `a;b;c ns` lines of critical-path time, for flame-graph tools.
pub fn folded(profile: &Profile) -> String {
    let mut text = positive(profile).join("\n");
    if !text.is_empty() {
        text.push('\n');
    }
    text
}

/// Tools take no numbers below zero.
fn positive(profile: &Profile) -> Vec<String> {
    profile.folded(|it| it.critical_ns.max(0))
}

/// Of inferno's drawing.
const SVG_WIDTH_PX: usize = 1_200;

/// inferno's drawing of the same lines, to be shown alone or kept.
///
/// # Errors
/// There is nothing to draw.
pub fn svg(profile: &Profile, title: &str) -> io::Result<Vec<u8>> {
    let mut options = inferno::flamegraph::Options::default();
    options.title = title.to_owned();
    options.subtitle = Some("critical-path time".to_owned());
    options.count_name = "ns".to_owned();
    // Its scripts zoom and search once the file is kept. Where we show it, they do not run: so the
    // text has to be there without them, and that takes a fixed width.
    options.image_width = Some(SVG_WIDTH_PX);
    options.hash = true;
    let lines = positive(profile);
    let mut svg = Vec::new();
    inferno::flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), &mut svg)?;
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use super::*;
    use analyzer::profile::ProfileNode;

    fn node(parent: Option<u32>, name: &str, category: Category, critical_ns: i64) -> ProfileNode {
        ProfileNode {
            parent,
            name: name.into(),
            category,
            count: 10,
            self_ns: critical_ns,
            critical_ns,
        }
    }

    fn posts() -> Profile {
        Profile {
            nodes: vec![
                node(None, "GET /posts", Category::Handler, 1_000_000),
                node(Some(0), "select posts", Category::Database, 2_000_000),
                node(Some(0), "render", Category::Serialization, 6_500_000),
                node(Some(2), "acquire", Category::PoolWait, 500_000),
            ],
        }
    }

    fn text(flame: &Flame) -> String {
        let line = |it: &Frame| format!("{} {} {} {}", it.y, it.x, it.width, it.label);
        flame.frames.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn children_lie_under_their_parent_the_dearest_first() {
        let flame = draw(&posts(), 10, None);
        assert_eq!(
            text(&flame),
            "0 0.00% 100.00% GET /posts\n\
             24 0.00% 70.00% render\n\
             24 70.00% 20.00% select posts\n\
             48 0.00% 5.00% acqui…"
        );
        assert_eq!(flame.height, 72);
        assert_eq!(
            flame.frames[2].title,
            "select posts: 200 µs per request, 20 % of the time, 1 calls per request, database; \
             2,000,000 ns in all"
        );
        assert_eq!(flame.frames[3].paint(), r#"fill="url(#w-pool_wait)""#);
    }

    #[test]
    fn a_zoomed_frame_fills_the_width_below_those_it_stands_in() {
        let all = draw(&posts(), 10, None);
        let flame = draw(&posts(), 10, Some(&all.frames[1].path));
        assert_eq!(
            text(&flame),
            "0 0.00% 100.00% GET /posts\n24 0.00% 100.00% render\n48 0.00% 7.14% acquire"
        );
        assert_eq!(flame.zoomed.as_deref(), Some("render"));
        assert_eq!(draw(&posts(), 10, Some("no id")), all);
        assert_eq!(draw(&posts(), 10, Some("12")), all);
    }

    #[test]
    fn narrow_frames_are_drawn_as_one() {
        let mut profile = Profile {
            nodes: vec![node(None, "a", Category::Handler, 900_000)],
        };
        for at in 0..100 {
            profile
                .nodes
                .push(node(Some(0), &format!("b{at}"), Category::Cache, 1_000));
        }
        let flame = draw(&profile, 1, None);
        assert_eq!(
            text(&flame),
            "0 0.00% 100.00% a\n24 0.00% 10.00% 100 narrow …"
        );
        assert_eq!(flame.hidden, 100);
    }

    #[test]
    fn nothing_is_drawn_of_nothing() {
        assert_eq!(draw(&Profile::default(), 0, None), Flame::default());
        let negative = Profile {
            nodes: vec![node(None, "a", Category::Handler, -5)],
        };
        assert_eq!(draw(&negative, 0, None).frames, []);
        assert_eq!(folded(&Profile::default()), "");
        assert!(svg(&Profile::default(), "x").is_err());
    }

    #[test]
    fn very_deep_profiles_are_drawn() {
        let mut profile = Profile {
            nodes: vec![node(None, "f", Category::Handler, 1)],
        };
        for at in 0..5_000 {
            profile
                .nodes
                .push(node(Some(at), "f", Category::Handler, 1));
        }
        assert!(draw(&profile, 1, None).frames.len() > 1_000);
    }

    #[test]
    fn hostile_names_stay_text_in_the_drawing() {
        let hostile = "</title><script>alert(1)</script>;\"'&\n";
        let profile = Profile {
            nodes: vec![node(None, hostile, Category::Handler, 100)],
        };
        let svg = String::from_utf8(svg(&profile, "<b>GET /</b>").unwrap()).unwrap();
        assert!(!svg.contains("<script>"), "{svg}");
        assert!(!svg.contains("<b>"), "{svg}");
        assert_eq!(
            folded(&profile),
            "</title><script>alert(1)</script>,\"'&  100\n"
        );
    }

    #[test]
    fn widths_of_a_row_never_exceed_the_whole() {
        let flame = draw(&posts(), 3, None);
        for y in [0, 24, 48] {
            let row = flame.frames.iter().filter(|it| it.y == y);
            let sum: f64 = row
                .map(|it| it.width.trim_end_matches('%').parse::<f64>().unwrap())
                .sum();
            assert!(sum <= 100.01, "{sum}");
        }
    }
}
