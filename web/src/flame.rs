//! The call paths of many requests as a flame graph, drawn by us: text that never scales, colours
//! of the categories, a link per frame. Also two profiles in one graph, and both as folded text and
//! as inferno's drawing.

use analyzer::category::Category;
use analyzer::profile::{Difference, Measure, Profile};
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
    /// What fills it.
    pub paint: Paint,
    /// The id of its path, for the link that zooms; empty for the one that stands for many.
    pub path: String,
}

/// What fills a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Paint {
    /// The kind of its self time.
    Category(Category),
    /// How it changed.
    Change(Change),
    /// It stands for many narrow ones.
    Many,
}

/// How much longer or shorter a path takes than in the profile it is compared with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// By at least a tenth of a request.
    MuchLonger,
    /// By at least a hundredth.
    Longer,
    /// Hardly.
    Same,
    /// By at least a hundredth.
    Shorter,
    /// By at least a tenth.
    MuchShorter,
}

impl Change {
    /// All of them, for the legend.
    pub const ALL: [Change; 5] = [
        Change::MuchLonger,
        Change::Longer,
        Change::Same,
        Change::Shorter,
        Change::MuchShorter,
    ];

    /// A change of `ns`, where the longer of the two takes `request_ns` per request.
    fn of(ns: i64, request_ns: i64) -> Change {
        let share = ns as f64 / request_ns.max(1) as f64;
        match share {
            0.1.. => Change::MuchLonger,
            0.01.. => Change::Longer,
            ..=-0.1 => Change::MuchShorter,
            ..=-0.01 => Change::Shorter,
            _ => Change::Same,
        }
    }

    /// The CSS class.
    pub fn class(self) -> &'static str {
        ["plus2", "plus1", "none", "minus1", "minus2"][self as usize]
    }

    /// For the legend.
    pub fn name(self) -> &'static str {
        [
            "much longer: by a tenth of the request or more",
            "longer: by a hundredth or more",
            "about the same",
            "shorter",
            "much shorter",
        ][self as usize]
    }
}

impl Frame {
    /// What fills it: `fill="…"` or `class="…"`.
    pub fn paint(&self) -> String {
        match &self.paint {
            Paint::Category(category) => category_bar::paint(category).to_owned(),
            Paint::Change(change) => format!("class=\"{}\"", change.class()),
            Paint::Many => r#"class="none""#.to_owned(),
        }
    }

    /// The class of the edge that shows the colour in full.
    pub fn class(&self) -> &'static str {
        match &self.paint {
            Paint::Category(category) => category_bar::class(category),
            Paint::Change(change) => change.class(),
            Paint::Many => "none",
        }
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

/// Paths with the sums that drawing needs.
struct Tree {
    parents: Vec<Option<usize>>,
    /// Time with all below, ns.
    inclusive: Vec<i64>,
    /// The dearest first.
    children: Vec<Vec<usize>>,
    roots: Vec<usize>,
    ids: Vec<u64>,
}

impl Tree {
    /// The tree of paths given as parent, category, name and own time, ns. A parent stands before its
    /// children. A time below zero counts as zero: a difference not yet whole.
    fn of<'a>(paths: impl Iterator<Item = (Option<u32>, Category, &'a str, i64)>) -> Tree {
        let mut tree = Tree {
            parents: Vec::new(),
            inclusive: Vec::new(),
            children: Vec::new(),
            roots: Vec::new(),
            ids: Vec::new(),
        };
        for (at, (parent, category, name, own_ns)) in paths.enumerate() {
            let parent = parent.map(|it| it as usize);
            let above = match parent {
                Some(parent) => {
                    tree.children[parent].push(at);
                    tree.ids[parent]
                }
                None => {
                    tree.roots.push(at);
                    0xcbf2_9ce4_8422_2325
                }
            };
            tree.parents.push(parent);
            tree.inclusive.push(own_ns.max(0));
            tree.children.push(Vec::new());
            tree.ids.push(path_id(above, category, name));
        }
        add_up(&mut tree.inclusive, &tree.parents);
        let inclusive = &tree.inclusive;
        for siblings in tree.children.iter_mut().chain([&mut tree.roots]) {
            siblings.sort_by_key(|it| (std::cmp::Reverse(inclusive[*it]), *it));
        }
        tree
    }

    fn total(&self, nodes: &[usize]) -> i64 {
        nodes
            .iter()
            .fold(0, |sum, it| sum.saturating_add(self.inclusive[*it]))
    }

    /// The frames from the root down to `at`, without it.
    fn above(&self, at: usize) -> Vec<usize> {
        let parent = |at: &usize| self.parents[*at];
        let mut above: Vec<usize> = std::iter::successors(parent(&at), parent).collect();
        above.reverse();
        above
    }

    /// The frame whose path has the id `zoom`.
    fn find(&self, zoom: Option<&str>) -> Option<usize> {
        let zoom = u64::from_str_radix(zoom?, 16).ok()?;
        self.ids.iter().position(|id| *id == zoom)
    }
}

/// Adds everybody's number to those above; parents stand before their children.
fn add_up(numbers: &mut [i64], parents: &[Option<usize>]) {
    for at in (0..numbers.len()).rev() {
        if let Some(parent) = parents[at] {
            numbers[parent] = numbers[parent].saturating_add(numbers[at]);
        }
    }
}

/// What stands where.
#[derive(Default)]
struct Layout {
    places: Vec<Place>,
    /// Paths that are too narrow to be drawn by themselves.
    hidden: usize,
}

/// One rectangle's place: shares of the width.
struct Place {
    of: PlaceOf,
    row: usize,
    x: f64,
    share: f64,
}

enum PlaceOf {
    Path(usize),
    /// Siblings too narrow to be drawn: how many paths, and their time, ns.
    Many(usize, i64),
}

/// Lays rows one after the other, siblings from left to right under their parent. With `zoomed`,
/// that frame takes the whole width, as what is above it does.
fn layout(tree: &Tree, zoomed: Option<usize>) -> Layout {
    let (above, top) = match zoomed {
        Some(at) => (tree.above(at), vec![at]),
        None => (Vec::new(), tree.roots.clone()),
    };
    let mut layout = Layout::default();
    let shown_ns = tree.total(&top);
    if shown_ns == 0 {
        return layout;
    }
    let share_of = |ns: i64| ns as f64 / shown_ns as f64;
    let mut place = |of, row, x, share| layout.places.push(Place { of, row, x, share });
    for (row, at) in above.iter().enumerate() {
        place(PlaceOf::Path(*at), row, 0.0, 1.0);
    }
    let mut row: Vec<(f64, Vec<usize>)> = vec![(0.0, top)];
    let mut depth = above.len();
    while !row.is_empty() {
        let mut below = Vec::new();
        for (mut x, siblings) in row {
            let drawn = siblings.partition_point(|it| share_of(tree.inclusive[*it]) >= SHARE_MIN);
            let (drawn, narrow) = siblings.split_at(drawn);
            for at in drawn {
                let share = share_of(tree.inclusive[*at]);
                place(PlaceOf::Path(*at), depth, x, share);
                below.push((x, tree.children[*at].clone()));
                x += share;
            }
            let (hidden, rest_ns) = (hidden(tree, narrow), tree.total(narrow));
            layout.hidden += hidden;
            if share_of(rest_ns) >= SHARE_MIN {
                place(PlaceOf::Many(hidden, rest_ns), depth, x, share_of(rest_ns));
            }
        }
        below.retain(|(_, children): &(f64, Vec<usize>)| !children.is_empty());
        row = below;
        depth += 1;
    }
    layout
}

/// How many paths `nodes` and all below them are; those without any time are not missed.
fn hidden(tree: &Tree, nodes: &[usize]) -> usize {
    let mut open: Vec<usize> = nodes.to_vec();
    let mut count = 0;
    while let Some(at) = open.pop() {
        count += usize::from(tree.inclusive[at] > 0);
        open.extend(&tree.children[at]);
    }
    count
}

/// What a frame says.
struct Words {
    title: String,
    label: String,
    paint: Paint,
}

/// The drawing of a layout: `path` tells what the frame of a path says, `many` what that of several
/// narrow ones does, given how many and their time.
fn drawing(
    tree: &Tree,
    zoomed: Option<usize>,
    path: impl Fn(usize) -> Words,
    many: impl Fn(usize, i64) -> Words,
) -> Flame {
    let layout = layout(tree, zoomed);
    let frames = layout.places.iter().map(|place| {
        let (words, id) = match place.of {
            PlaceOf::Path(at) => (path(at), format!("{:016x}", tree.ids[at])),
            PlaceOf::Many(paths, ns) => (many(paths, ns), String::new()),
        };
        Frame {
            x: format::width(place.x),
            y: place.row * ROW_PX,
            width: format::width(place.share),
            title: words.title,
            label: label(&words.label, place.share),
            paint: words.paint,
            path: id,
        }
    });
    let frames: Vec<Frame> = frames.collect();
    Flame {
        height: frames.iter().map(|it| it.y + ROW_PX).max().unwrap_or(0),
        frames,
        zoomed: None,
        hidden: layout.hidden,
    }
}

/// Draws `profile`, zoomed to the frame whose path has the id `zoom` (all of it if there is none).
/// `requests` is what the numbers are told per; at least 1.
pub fn draw(profile: &Profile, measure: Measure, requests: i64, zoom: Option<&str>) -> Flame {
    let nodes = profile.nodes.iter();
    let tree = Tree::of(nodes.map(|it| (it.parent, it.category, &*it.name, it.ns(measure))));
    let zoomed = tree.find(zoom);
    let requests = requests.max(1);
    let total_ns = tree.total(&tree.roots);
    let numbers = |ns: i64| {
        let each = format::duration(ns.max(0) as u64 / requests as u64);
        let share = format::percent(ns as f64 / total_ns as f64);
        format!("{each} per request, {share} % of the time")
    };
    let path = |at: usize| {
        let node = &profile.nodes[at];
        let ns = tree.inclusive[at];
        let calls = format::number(node.count as f64 / requests as f64);
        let title = format!(
            "{}: {}, {calls} calls per request, {}; {} ns in all",
            cut(&node.name, TITLE_LETTERS_MAX),
            numbers(ns),
            node.category.name(),
            format::count(ns),
        );
        Words {
            title,
            label: node.name.to_string(),
            paint: Paint::Category(node.category),
        }
    };
    let many = |paths: usize, ns: i64| {
        let name = format!("{paths} narrow frames");
        Words {
            title: format!("{name}: {}", numbers(ns)),
            label: name,
            paint: Paint::Many,
        }
    };
    Flame {
        zoomed: zoomed.map(|at| profile.nodes[at].name.to_string()),
        ..drawing(&tree, zoomed, path, many)
    }
}

/// Draws two profiles in one: a frame is as wide as the longer of its two times per request, so that
/// what is gone is seen as well as what has come, and painted by what it contributes itself.
pub fn draw_difference(difference: &Difference, measure: Measure, zoom: Option<&str>) -> Flame {
    let count = difference.nodes.len();
    let here = |at| difference.per_request_ns(at, measure).max(0);
    let there = |at| difference.base_per_request_ns(at, measure).max(0);
    let nodes = difference.nodes.iter().enumerate();
    let tree = Tree::of(
        nodes.map(|(at, it)| (it.parent, it.category, &*it.name, here(at).max(there(at)))),
    );
    let zoomed = tree.find(zoom);
    let sum = |of: &dyn Fn(usize) -> i64| (0..count).map(of).fold(0, i64::saturating_add);
    let request_ns = sum(&here).max(sum(&there));
    let mut with_below: Vec<i64> = (0..count)
        .map(|at| difference.change_ns(at, measure))
        .collect();
    add_up(&mut with_below, &tree.parents);
    let path = |at: usize| {
        let node = &difference.nodes[at];
        let change = difference.change_ns(at, measure);
        let paint = Change::of(change, request_ns);
        let calls = |count: i64, requests: i64| format::number(count as f64 / requests as f64);
        let title = format!(
            "{}: {} per request by itself ({} → {}), {} with what it calls; {} → {} calls per \
             request, {}",
            cut(&node.name, TITLE_LETTERS_MAX),
            format::change(change),
            format::duration(there(at) as u64),
            format::duration(here(at) as u64),
            format::change(with_below[at]),
            calls(node.base.count, difference.base_requests),
            calls(node.amounts.count, difference.requests),
            node.category.name(),
        );
        let label = match paint {
            Change::Same => node.name.to_string(),
            _ => format!("{} {}", format::change(change), node.name),
        };
        Words {
            title,
            label,
            paint: Paint::Change(paint),
        }
    };
    let many = |paths: usize, ns: i64| {
        let name = format!("{paths} narrow frames");
        let each = format::duration(ns.max(0) as u64);
        Words {
            title: format!("{name}: {each} per request"),
            label: name,
            paint: Paint::Many,
        }
    };
    Flame {
        zoomed: zoomed.map(|at| difference.nodes[at].name.to_string()),
        ..drawing(&tree, zoomed, path, many)
    }
}

/// The ids of the paths of a difference, same order: what its graph is zoomed by.
pub fn path_ids(difference: &Difference) -> Vec<String> {
    let nodes = difference.nodes.iter();
    let tree = Tree::of(nodes.map(|it| (it.parent, it.category, &*it.name, 0)));
    tree.ids.iter().map(|it| format!("{it:016x}")).collect()
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

/// `a;b;c ns` lines, for flame-graph tools. They take no numbers below zero.
pub fn folded(profile: &Profile, measure: Measure) -> Vec<String> {
    profile.folded(|it| it.ns(measure).max(0))
}

/// `a;b;c ns ns` lines: what each path takes per request in the profile that is compared with, and
/// in the one that is looked at. Tools that draw differences read these.
pub fn folded_difference(difference: &Difference, measure: Measure) -> Vec<String> {
    let word = |name: &str| name.replace(';', ",").replace(['\n', '\r'], " ");
    let mut lines: Vec<String> = (0..difference.nodes.len())
        .filter_map(|at| {
            let base = difference.base_per_request_ns(at, measure).max(0);
            let ns = difference.per_request_ns(at, measure).max(0);
            let path: Vec<String> = difference.path(at).into_iter().map(word).collect();
            (base > 0 || ns > 0).then(|| format!("{} {base} {ns}", path.join(";")))
        })
        .collect();
    lines.sort_unstable();
    lines
}

/// Of inferno's drawing.
const SVG_WIDTH_PX: usize = 1_200;

/// inferno's drawing of folded lines, to be shown alone or kept. Lines with two numbers are painted
/// by their difference.
///
/// # Errors
/// There is nothing to draw.
pub fn svg(lines: &[String], title: &str, subtitle: &str) -> io::Result<Vec<u8>> {
    let mut options = inferno::flamegraph::Options::default();
    options.title = title.to_owned();
    options.subtitle = Some(subtitle.to_owned());
    options.count_name = "ns".to_owned();
    // Its scripts zoom and search once the file is kept. Where we show it, they do not run: so the
    // text has to be there without them, and that takes a fixed width.
    options.image_width = Some(SVG_WIDTH_PX);
    options.hash = true;
    let mut svg = Vec::new();
    inferno::flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), &mut svg)?;
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use super::*;
    use analyzer::profile::{Compared, ProfileNode, difference};

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
        let flame = draw(&posts(), Measure::Critical, 10, None);
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
        let all = draw(&posts(), Measure::Critical, 10, None);
        let flame = draw(&posts(), Measure::Critical, 10, Some(&all.frames[1].path));
        assert_eq!(
            text(&flame),
            "0 0.00% 100.00% GET /posts\n24 0.00% 100.00% render\n48 0.00% 7.14% acquire"
        );
        assert_eq!(flame.zoomed.as_deref(), Some("render"));
        assert_eq!(draw(&posts(), Measure::Critical, 10, Some("no id")), all);
        assert_eq!(draw(&posts(), Measure::Critical, 10, Some("12")), all);
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
        let flame = draw(&profile, Measure::Critical, 1, None);
        assert_eq!(
            text(&flame),
            "0 0.00% 100.00% a\n24 0.00% 10.00% 100 narrow …"
        );
        assert_eq!(flame.hidden, 100);
    }

    #[test]
    fn nothing_is_drawn_of_nothing() {
        assert_eq!(
            draw(&Profile::default(), Measure::Critical, 0, None),
            Flame::default()
        );
        let negative = Profile {
            nodes: vec![node(None, "a", Category::Handler, -5)],
        };
        assert_eq!(draw(&negative, Measure::Critical, 0, None).frames, []);
        assert!(folded(&Profile::default(), Measure::Critical).is_empty());
        assert!(svg(&[], "x", "").is_err());
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
        assert!(draw(&profile, Measure::Critical, 1, None).frames.len() > 1_000);
    }

    #[test]
    fn hostile_names_stay_text_in_the_drawing() {
        let hostile = "</title><script>alert(1)</script>;\"'&\n";
        let profile = Profile {
            nodes: vec![node(None, hostile, Category::Handler, 100)],
        };
        let lines = folded(&profile, Measure::Critical);
        let svg = String::from_utf8(svg(&lines, "<b>GET /</b>", "<i>").unwrap()).unwrap();
        assert!(!svg.contains("<script>"), "{svg}");
        assert!(!svg.contains("<b>"), "{svg}");
        assert!(!svg.contains("<i>"), "{svg}");
        assert_eq!(lines, ["</title><script>alert(1)</script>,\"'&  100"]);
    }

    /// `render` became slower, `select posts` is gone, `select all` has come.
    fn changed() -> Difference {
        let mut after = posts();
        after.nodes[1] = node(Some(0), "select all", Category::Database, 300_000);
        after.nodes[2].critical_ns = 9_000_000;
        let compared = |profile| Compared {
            profile,
            requests: 10,
        };
        difference(compared(&after), compared(&posts()))
    }

    #[test]
    fn a_difference_shows_what_came_and_what_went() {
        let flame = draw_difference(&changed(), Measure::Critical, None);
        let show = |it: &Frame| format!("{} {} {} {}", it.y, it.width, it.class(), it.label);
        let shown: Vec<String> = flame.frames.iter().map(show).collect();
        assert_eq!(
            shown,
            [
                "0 100.00% none GET /posts",
                "24 74.22% plus2 +250 µs render",
                "24 15.62% minus2 −200 µs select pos…",
                "24 2.34% plus1 ",
                "48 3.91% none acq…",
            ]
        );
        assert_eq!(
            flame.frames[1].title,
            "render: +250 µs per request by itself (650 µs → 900 µs), +250 µs with what it \
             calls; 1 → 1 calls per request, serialization"
        );
        let zoomed = draw_difference(&changed(), Measure::Critical, Some(&flame.frames[1].path));
        assert_eq!(zoomed.zoomed.as_deref(), Some("render"));
        let all = draw(&posts(), Measure::Critical, 10, Some(&flame.frames[1].path));
        assert_eq!(
            all.zoomed.as_deref(),
            Some("render"),
            "the same ids everywhere"
        );
    }

    #[test]
    fn a_difference_as_lines_and_as_a_drawing_for_other_tools() {
        let lines = folded_difference(&changed(), Measure::Critical);
        assert_eq!(
            lines,
            [
                "GET /posts 100000 100000",
                "GET /posts;render 650000 900000",
                "GET /posts;render;acquire 50000 50000",
                "GET /posts;select all 0 30000",
                "GET /posts;select posts 200000 0",
            ]
        );
        let svg = String::from_utf8(svg(&lines, "GET /posts", "tail").unwrap()).unwrap();
        assert!(svg.contains("select all"), "{svg}");
    }

    #[test]
    fn widths_of_a_row_never_exceed_the_whole() {
        let flame = draw(&posts(), Measure::Critical, 3, None);
        for y in [0, 24, 48] {
            let row = flame.frames.iter().filter(|it| it.y == y);
            let sum: f64 = row
                .map(|it| it.width.trim_end_matches('%').parse::<f64>().unwrap())
                .sum();
            assert!(sum <= 100.01, "{sum}");
        }
    }
}
