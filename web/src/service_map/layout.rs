//! Where nodes of a directed graph go: in layers, so that calls lead from left to right.
//!
//! ```text
//! layer 0   layer 1   layer 2
//! gateway ─┬─ cart ─┬─ stock          1. calls that would close a circle are left out, the rarest first
//!          │        └─ mysql          2. a node stands right of all who call it (longest path)
//!          └──── · ──── search        3. where a call passes a layer it gets a bend, as a node of its own
//! ```
//!
//! Then nodes of a layer are put into the order of their neighbours' middles, to and fro, and the order
//! with the fewest crossings is kept. Pure, and the same input gives the same picture.

/// A node's size, and the room around it.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Of a node.
    pub width: f64,
    /// Of a node.
    pub height: f64,
    /// Between two layers.
    pub across: f64,
    /// Between two nodes of a layer; a passing call keeps a third of it.
    pub between: f64,
    /// Of the room that a passing call takes.
    pub bend: f64,
}

/// A picture: everything has its place.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Layout {
    /// Of all nodes together.
    pub width: f64,
    /// Of all nodes together.
    pub height: f64,
    /// Each node's upper left corner.
    pub nodes: Vec<(f64, f64)>,
    /// Each edge's points from its caller to its callee; of a call to itself none.
    pub edges: Vec<Vec<(f64, f64)>>,
    /// Edges that lead from right to left, against the others: they close a circle.
    pub is_back: Vec<bool>,
}

/// Sweeps over the layers that reorder them; more hardly ever help.
const SWEEPS: usize = 12;

/// Passes that pull nodes towards their neighbours.
const PULLS: usize = 8;

/// Places `nodes` nodes with these edges: caller, callee, weight (the heavier, the rather it keeps its
/// direction). The work is about nodes × edges: the caller bounds both.
pub fn layout(nodes: usize, edges: &[(usize, usize, i64)], sizes: Sizes) -> Layout {
    if nodes == 0 {
        return Layout::default();
    }
    let directions = directions(nodes, edges);
    let layer_of = layers(nodes, edges, &directions);
    let mut drawn = Drawn::of(&layer_of, edges, &directions);
    drawn.order();
    drawn.place(nodes, edges.len(), &directions, sizes)
}

/// What becomes of an edge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Direction {
    /// From left to right.
    Forth,
    /// It would close a circle.
    Back,
    /// From a node to itself.
    Loop,
}

/// Takes one edge after the other, the heaviest first, unless it closes a circle of those taken.
fn directions(nodes: usize, edges: &[(usize, usize, i64)]) -> Vec<Direction> {
    let mut order: Vec<usize> = (0..edges.len()).collect();
    order.sort_by_key(|at| std::cmp::Reverse(edges[*at].2));
    let mut taken: Vec<Vec<usize>> = vec![Vec::new(); nodes];
    let mut directions = vec![Direction::Loop; edges.len()];
    for at in order {
        let (from, to, _) = edges[at];
        if from == to {
            continue;
        }
        if reaches(&taken, to, from) {
            directions[at] = Direction::Back;
        } else {
            directions[at] = Direction::Forth;
            taken[from].push(to);
        }
    }
    directions
}

fn reaches(taken: &[Vec<usize>], from: usize, to: usize) -> bool {
    let mut seen = vec![false; taken.len()];
    let mut waiting = vec![from];
    while let Some(at) = waiting.pop() {
        if at == to {
            return true;
        }
        if !std::mem::replace(&mut seen[at], true) {
            waiting.extend(&taken[at]);
        }
    }
    false
}

/// Each node's layer: the longest way to it.
fn layers(nodes: usize, edges: &[(usize, usize, i64)], directions: &[Direction]) -> Vec<usize> {
    let forth = || {
        let forth = edges.iter().zip(directions);
        forth.filter(|it| *it.1 == Direction::Forth).map(|it| it.0)
    };
    let mut callers = vec![0; nodes];
    for (_, to, _) in forth() {
        callers[*to] += 1;
    }
    let mut next: Vec<Vec<usize>> = vec![Vec::new(); nodes];
    for (from, to, _) in forth() {
        next[*from].push(*to);
    }
    let mut layers = vec![0; nodes];
    let mut ready: Vec<usize> = (0..nodes).filter(|it| callers[*it] == 0).collect();
    while let Some(at) = ready.pop() {
        for to in &next[at] {
            layers[*to] = layers[*to].max(layers[at] + 1);
            callers[*to] -= 1;
            if callers[*to] == 0 {
                ready.push(*to);
            }
        }
    }
    layers
}

/// Nodes and bends in layers, and the pieces of edges between neighbouring layers.
struct Drawn {
    /// What stands in each layer, from top to bottom.
    layers: Vec<Vec<usize>>,
    /// The neighbours of each item in the layer before.
    left: Vec<Vec<usize>>,
    /// The neighbours of each item in the layer after.
    right: Vec<Vec<usize>>,
    /// The items that each edge passes, from left to right; of a call to itself none.
    ways: Vec<Vec<usize>>,
}

impl Drawn {
    fn of(layer_of: &[usize], edges: &[(usize, usize, i64)], directions: &[Direction]) -> Drawn {
        let count = layer_of.iter().max().map_or(0, |it| it + 1);
        let mut layers: Vec<Vec<usize>> = vec![Vec::new(); count];
        for (node, layer) in layer_of.iter().enumerate() {
            layers[*layer].push(node);
        }
        let mut next = layer_of.len();
        let mut ways = Vec::with_capacity(edges.len());
        for ((from, to, _), direction) in edges.iter().zip(directions) {
            let (first, last) = match direction {
                Direction::Loop => {
                    ways.push(Vec::new());
                    continue;
                }
                Direction::Forth => (*from, *to),
                Direction::Back => (*to, *from),
            };
            let mut way = vec![first];
            for layer in &mut layers[layer_of[first] + 1..layer_of[last]] {
                layer.push(next);
                way.push(next);
                next += 1;
            }
            way.push(last);
            ways.push(way);
        }
        let mut drawn = Drawn {
            layers,
            left: vec![Vec::new(); next],
            right: vec![Vec::new(); next],
            ways,
        };
        for way in &drawn.ways {
            for pair in way.windows(2) {
                drawn.right[pair[0]].push(pair[1]);
                drawn.left[pair[1]].push(pair[0]);
            }
        }
        drawn
    }

    /// Sorts each layer by the middles of its neighbours, to and fro, and keeps the best order.
    fn order(&mut self) {
        let mut best = self.layers.clone();
        let mut fewest = self.crossings();
        for sweep in 0..SWEEPS {
            if fewest == 0 {
                break;
            }
            let positions = self.positions();
            let is_forth = sweep % 2 == 0;
            self.sweep(is_forth, positions);
            let crossings = self.crossings();
            if crossings < fewest {
                fewest = crossings;
                best = self.layers.clone();
            }
        }
        self.layers = best;
    }

    fn sweep(&mut self, is_forth: bool, mut positions: Vec<f64>) {
        let neighbours = if is_forth { &self.left } else { &self.right };
        let layers: Vec<usize> = match is_forth {
            true => (1..self.layers.len()).collect(),
            false => (0..self.layers.len().saturating_sub(1)).rev().collect(),
        };
        for layer in layers {
            let layer = &mut self.layers[layer];
            let middle = |it: &usize| {
                let of = &neighbours[*it];
                match of.is_empty() {
                    true => positions[*it],
                    false => of.iter().map(|it| positions[*it]).sum::<f64>() / of.len() as f64,
                }
            };
            let mut keyed: Vec<(f64, usize)> = layer.iter().map(|it| (middle(it), *it)).collect();
            // Stable: what is equal keeps its order.
            keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
            for (at, (_, item)) in keyed.into_iter().enumerate() {
                layer[at] = item;
                positions[item] = at as f64;
            }
        }
    }

    /// Each item's position in its layer.
    fn positions(&self) -> Vec<f64> {
        let mut positions = vec![0.0; self.left.len()];
        for layer in &self.layers {
            for (at, item) in layer.iter().enumerate() {
                positions[*item] = at as f64;
            }
        }
        positions
    }

    /// Pieces of edges that cross.
    fn crossings(&self) -> usize {
        let positions = self.positions();
        let mut crossings = 0;
        for layer in &self.layers {
            let mut ends: Vec<usize> = Vec::new();
            for item in layer {
                let mut to: Vec<usize> = self.right[*item]
                    .iter()
                    .map(|it| positions[*it] as usize)
                    .collect();
                to.sort_unstable();
                ends.extend(to);
            }
            crossings += inversions(&ends);
        }
        crossings
    }

    fn place(self, nodes: usize, edges: usize, directions: &[Direction], sizes: Sizes) -> Layout {
        let height_of = |item: usize| {
            if item < nodes {
                sizes.height
            } else {
                sizes.bend
            }
        };
        let middles = self.middles(&height_of, &|item| item >= nodes, sizes.between);
        let tops = (0..middles.len()).map(|it| middles[it] - height_of(it) / 2.0);
        let top = tops.fold(f64::INFINITY, f64::min);
        let bottoms = (0..middles.len()).map(|it| middles[it] + height_of(it) / 2.0);
        let bottom = bottoms.fold(f64::NEG_INFINITY, f64::max);
        let mut left_of = vec![0.0; middles.len()];
        for (at, layer) in self.layers.iter().enumerate() {
            for item in layer {
                left_of[*item] = at as f64 * (sizes.width + sizes.across);
            }
        }
        let place = |item: usize| (left_of[item], middles[item] - top);
        let mut layout = Layout {
            width: self.layers.len() as f64 * (sizes.width + sizes.across) - sizes.across,
            height: bottom - top,
            nodes: (0..nodes)
                .map(|it| (place(it).0, place(it).1 - sizes.height / 2.0))
                .collect(),
            edges: Vec::with_capacity(edges),
            is_back: directions.iter().map(|it| *it == Direction::Back).collect(),
        };
        for (way, direction) in self.ways.iter().zip(directions) {
            let mut points = Vec::with_capacity(way.len() * 2);
            for (at, item) in way.iter().enumerate() {
                let (x, y) = place(*item);
                // A bend is as wide as a node: a call passes a layer straight.
                if at > 0 {
                    points.push((x, y));
                }
                if at + 1 < way.len() {
                    points.push((x + sizes.width, y));
                }
            }
            if *direction == Direction::Back {
                points.reverse();
            }
            layout.edges.push(points);
        }
        layout
    }

    /// Where the middle of each item is, from top to bottom: near its neighbours, without overlaps.
    fn middles(
        &self,
        height_of: &dyn Fn(usize) -> f64,
        is_bend: &dyn Fn(usize) -> bool,
        between: f64,
    ) -> Vec<f64> {
        let gap = |a: usize, b: usize| {
            let room = if is_bend(a) || is_bend(b) {
                between / 3.0
            } else {
                between
            };
            (height_of(a) + height_of(b)) / 2.0 + room
        };
        let mut middles = vec![0.0; self.left.len()];
        for layer in &self.layers {
            let mut y = 0.0;
            for item in layer {
                middles[*item] = y + height_of(*item) / 2.0;
                y += height_of(*item) + between;
            }
        }
        for pull in 0..PULLS {
            let is_forth = pull % 2 == 0;
            let count = self.layers.len();
            for step in 0..count {
                let layer = &self.layers[if is_forth { step } else { count - 1 - step }];
                let wanted = layer.iter().map(|it| {
                    let (first, second) = (&self.left[*it], &self.right[*it]);
                    let (near, far) = if is_forth {
                        (first, second)
                    } else {
                        (second, first)
                    };
                    let of = if near.is_empty() { far } else { near };
                    match of.is_empty() {
                        true => middles[*it],
                        false => of.iter().map(|it| middles[*it]).sum::<f64>() / of.len() as f64,
                    }
                });
                let wanted: Vec<f64> = wanted.collect();
                let gaps = layer.windows(2).map(|pair| gap(pair[0], pair[1]));
                let placed = apart(&wanted, &gaps.collect::<Vec<_>>());
                for (item, y) in layer.iter().zip(placed) {
                    middles[*item] = y;
                }
            }
        }
        middles
    }
}

/// The places nearest to those wanted, in their order and at least `gaps` apart: neighbours that come
/// too near are moved together, to the mean of what they want.
fn apart(wanted: &[f64], gaps: &[f64]) -> Vec<f64> {
    // Without the gaps they need only be in order.
    let mut offset = 0.0;
    let mut offsets = vec![0.0; wanted.len()];
    for (at, gap) in gaps.iter().enumerate() {
        offset += gap;
        offsets[at + 1] = offset;
    }
    // Blocks of neighbours with their sum and count.
    let mut blocks: Vec<(f64, usize)> = Vec::with_capacity(wanted.len());
    for (wanted, offset) in wanted.iter().zip(&offsets) {
        let mut block = (wanted - offset, 1);
        while let Some(before) = blocks.last() {
            if before.0 / before.1 as f64 <= block.0 / block.1 as f64 {
                break;
            }
            block = (block.0 + before.0, block.1 + before.1);
            blocks.pop();
        }
        blocks.push(block);
    }
    let means = blocks
        .into_iter()
        .flat_map(|(sum, count)| std::iter::repeat_n(sum / count as f64, count));
    means
        .zip(offsets)
        .map(|(mean, offset)| mean + offset)
        .collect()
}

/// Pairs that stand in the wrong order.
fn inversions(numbers: &[usize]) -> usize {
    let size = numbers.iter().max().map_or(0, |it| it + 1);
    // A Fenwick tree: how many so far are at most so large.
    let mut tree = vec![0_usize; size + 1];
    let mut inversions = 0;
    for (seen, number) in numbers.iter().enumerate() {
        let mut not_larger = 0;
        let mut at = number + 1;
        while at > 0 {
            not_larger += tree[at];
            at &= at - 1;
        }
        inversions += seen - not_larger;
        let mut at = number + 1;
        while at <= size {
            tree[at] += 1;
            at += at & at.wrapping_neg();
        }
    }
    inversions
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: Sizes = Sizes {
        width: 100.0,
        height: 40.0,
        across: 80.0,
        between: 20.0,
        bend: 10.0,
    };

    /// Edges of a graph with circles and calls to itself, from a seed.
    fn edges(nodes: usize, seed: u64) -> Vec<(usize, usize, i64)> {
        let mut state = seed;
        let mut next = |below: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        let count = nodes * 2;
        (0..count)
            .map(|_| (next(nodes), next(nodes), next(1_000) as i64))
            .collect()
    }

    fn check(nodes: usize, edges: &[(usize, usize, i64)]) -> Layout {
        let layout = layout(nodes, edges, SIZES);
        assert_eq!(layout.nodes.len(), nodes);
        assert_eq!(layout.edges.len(), edges.len());
        for (at, a) in layout.nodes.iter().enumerate() {
            assert!(
                a.0 >= 0.0 && a.0 + SIZES.width <= layout.width + 0.001,
                "{a:?}"
            );
            assert!(
                a.1 >= -0.001 && a.1 + SIZES.height <= layout.height + 0.001,
                "{a:?}"
            );
            for b in &layout.nodes[at + 1..] {
                let beside = (a.0 - b.0).abs() >= SIZES.width;
                let apart = (a.1 - b.1).abs() >= SIZES.height + SIZES.between - 0.001;
                assert!(beside || apart, "{a:?} {b:?}");
            }
        }
        for ((from, to, _), points) in edges.iter().zip(&layout.edges) {
            assert_eq!(points.is_empty(), from == to);
            // From a caller's side to a callee's; between them the two ends of each bend.
            for bend in points
                .get(1..points.len().max(1) - 1)
                .unwrap_or_default()
                .chunks(2)
            {
                let (x, y) = ((bend[0].0 + bend[1].0) / 2.0, bend[0].1);
                let within = |node: &(f64, f64)| {
                    let across = x > node.0 && x < node.0 + SIZES.width;
                    across && y > node.1 && y < node.1 + SIZES.height
                };
                assert!(
                    !layout.nodes.iter().any(within),
                    "a line runs through a node"
                );
            }
        }
        layout
    }

    #[test]
    fn nothing_overlaps_at_any_size() {
        check(0, &[]);
        check(1, &[]);
        check(1, &[(0, 0, 5)]);
        for nodes in [5, 60, 100] {
            for seed in 0..5 {
                let edges = edges(nodes, seed);
                let first = check(nodes, &edges);
                assert_eq!(first, layout(nodes, &edges, SIZES), "the same again");
            }
        }
    }

    #[test]
    fn calls_lead_from_left_to_right() {
        let layout = check(4, &[(0, 1, 1), (1, 2, 1), (0, 2, 1), (2, 3, 1)]);
        let x: Vec<f64> = layout.nodes.iter().map(|it| it.0).collect();
        assert_eq!(x, [0.0, 180.0, 360.0, 540.0]);
        assert_eq!(layout.is_back, [false; 4]);
        assert_eq!(layout.edges[2].len(), 4, "around the one between them");
    }

    #[test]
    fn of_a_circle_the_rarest_call_leads_back() {
        let layout = check(3, &[(0, 1, 9), (1, 2, 9), (2, 0, 1)]);
        assert_eq!(layout.is_back, [false, false, true]);
        let back = &layout.edges[2];
        assert!(back[0].0 > back[back.len() - 1].0);
    }

    #[test]
    fn what_need_not_cross_does_not() {
        // 0 → 3 and 1 → 2, in an order that crosses at first.
        let layout = check(4, &[(0, 3, 1), (1, 2, 1)]);
        let y = |at: usize| layout.nodes[at].1;
        assert_eq!(y(0) < y(1), y(3) < y(2));
    }

    #[test]
    fn wanted_places_are_kept_apart() {
        assert_eq!(apart(&[0.0, 100.0], &[10.0]), [0.0, 100.0]);
        assert_eq!(
            apart(&[50.0, 50.0, 50.0], &[10.0, 10.0]),
            [40.0, 50.0, 60.0]
        );
        assert_eq!(inversions(&[2, 1, 0]), 3);
        assert_eq!(inversions(&[0, 1, 1, 2]), 0);
    }
}
