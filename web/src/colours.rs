//! The colours of `style.css` can be told apart and read by everybody.
//!
//! Eleven hues cannot all be far apart for every eye, so texture halves the problem (solid: somebody works,
//! hatched: somebody waits) and a name always stands beside. What is left to colour is measured here, from the
//! tokens themselves.

use std::array::from_fn;

/// Solid categories, then hatched ones: names of tokens.
const SOLID: [&str; 7] = [
    "handler",
    "database",
    "cache",
    "external",
    "messaging",
    "serialization",
    "logging",
];
const HATCHED: [&str; 4] = ["pool", "connect", "network", "unattributed"];

/// What text and drawings stand on.
const GROUNDS: [&str; 3] = ["bg", "surface", "sunken"];

/// Colours of text, and of drawings whose meaning is the colour.
const TEXTS: [&str; 8] = [
    "ink", "ink-2", "ink-3", "link", "cost", "warn", "good", "err",
];

/// CIEDE2000: colours of one texture are plainly different from here on, seen side by side.
const APART_MIN: f64 = 10.0;

/// CIEDE2000: different textures tell them apart too; the colours need only not be the same.
const APART_ACROSS_TEXTURES_MIN: f64 = 6.0;

/// WCAG 2.2, 1.4.3: text.
const TEXT_CONTRAST_MIN: f64 = 4.5;

/// WCAG 2.2, 1.4.11: parts of drawings and borders that are needed to understand.
const DRAWING_CONTRAST_MIN: f64 = 3.0;

/// Columns: red, green, blue. Rows: what each becomes.
type Matrix = [[f64; 3]; 3];

/// What eyes make of a colour. Matrices at full severity, in linear RGB: Machado, Oliveira and Fernandes, "A
/// Physiologically-based Model for Simulation of Color Vision Deficiency", IEEE Transactions on Visualization
/// and Computer Graphics 15 (2009), table of the supplement.
const SIGHTS: [(&str, Matrix); 4] = [
    (
        "ordinary sight",
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
    ),
    (
        "protanopia",
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ],
    ),
    (
        "deuteranopia",
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ],
    ),
    (
        "tritanopia",
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ],
    ),
];

/// sRGB to XYZ (IEC 61966-2-1, D65), and that white.
const TO_XYZ: Matrix = [
    [0.4124564, 0.3575761, 0.1804375],
    [0.2126729, 0.7151522, 0.0721750],
    [0.0193339, 0.1191920, 0.9503041],
];
const WHITE: [f64; 3] = [0.95047, 1.0, 1.08883];

/// Linear, 0 to 1.
type Rgb = [f64; 3];

/// A token of the style sheet in the light or the dark theme.
fn token(name: &str, dark: bool) -> Rgb {
    let css = include_str!("../static/style.css");
    let begin = format!("  --{name}: light-dark(");
    let at = css.find(&begin).unwrap_or_else(|| panic!("no --{name}"));
    let values = &css[at + begin.len()..];
    let values = &values[..values.find(')').expect("closed")];
    let value = values.split(',').nth(usize::from(dark));
    let hex = value.expect("two colours").trim().trim_start_matches('#');
    from_fn(|part| {
        let byte = u8::from_str_radix(&hex[2 * part..2 * part + 2], 16).expect("#rrggbb");
        linear(f64::from(byte) / 255.0)
    })
}

/// The transfer function of sRGB, undone.
fn linear(it: f64) -> f64 {
    match it <= 0.04045 {
        true => it / 12.92,
        false => ((it + 0.055) / 1.055).powf(2.4),
    }
}

fn times(matrix: &Matrix, it: Rgb) -> Rgb {
    from_fn(|row| (0..3).map(|column| matrix[row][column] * it[column]).sum())
}

fn seen(sight: &Matrix, it: Rgb) -> Rgb {
    times(sight, it).map(|part| part.clamp(0.0, 1.0))
}

/// WCAG 2.2's contrast ratio, 1 to 21.
fn contrast(one: Rgb, other: Rgb) -> f64 {
    let luminance = |it: Rgb| 0.2126 * it[0] + 0.7152 * it[1] + 0.0722 * it[2];
    let (one, other) = (luminance(one), luminance(other));
    (one.max(other) + 0.05) / (one.min(other) + 0.05)
}

/// CIE L*a*b*.
fn lab(it: Rgb) -> [f64; 3] {
    let xyz = times(&TO_XYZ, it);
    let [x, y, z] = from_fn(|part| {
        let share = xyz[part] / WHITE[part];
        match share > 216.0 / 24389.0 {
            true => share.cbrt(),
            false => (24389.0 / 27.0 * share + 16.0) / 116.0,
        }
    });
    [116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)]
}

/// CIEDE2000, as Sharma, Wu and Dalal (2005) write it down.
fn difference([l1, a1, b1]: [f64; 3], [l2, a2, b2]: [f64; 3]) -> f64 {
    let weight = |chroma: f64| (chroma.powi(7) / (chroma.powi(7) + 25_f64.powi(7))).sqrt();
    let g = 0.5 * (1.0 - weight((a1.hypot(b1) + a2.hypot(b2)) / 2.0));
    let (a1, a2) = (a1 * (1.0 + g), a2 * (1.0 + g));
    let (c1, c2) = (a1.hypot(b1), a2.hypot(b2));
    let hue = |a: f64, b: f64| b.atan2(a).to_degrees().rem_euclid(360.0);
    let (h1, h2) = (hue(a1, b1), hue(a2, b2));
    let is_grey = c1 * c2 == 0.0;
    let turn = match h2 - h1 {
        _ if is_grey => 0.0,
        it if it > 180.0 => it - 360.0,
        it if it < -180.0 => it + 360.0,
        it => it,
    };
    let h = match (h1 - h2).abs() > 180.0 {
        _ if is_grey => h1 + h2,
        true => (h1 + h2 + 360.0) / 2.0,
        false => (h1 + h2) / 2.0,
    };
    let (l, c) = ((l1 + l2) / 2.0, (c1 + c2) / 2.0);
    let wave = |factor: f64, shift: f64| (factor * h - shift).to_radians().cos();
    let t = 1.0 - 0.17 * wave(1.0, 30.0) + 0.24 * wave(2.0, 0.0) + 0.32 * wave(3.0, -6.0)
        - 0.20 * wave(4.0, 63.0);
    let sl = 1.0 + 0.015 * (l - 50.0).powi(2) / (20.0 + (l - 50.0).powi(2)).sqrt();
    let (sc, sh) = (1.0 + 0.045 * c, 1.0 + 0.015 * c * t);
    let spread = 30.0 * (-((h - 275.0) / 25.0).powi(2)).exp();
    let rotation = -2.0 * weight(c) * (2.0 * spread).to_radians().sin();
    let dl = (l2 - l1) / sl;
    let dc = (c2 - c1) / sc;
    let dh = 2.0 * (c1 * c2).sqrt() * (turn / 2.0).to_radians().sin() / sh;
    (dl * dl + dc * dc + dh * dh + rotation * dc * dh).sqrt()
}

#[test]
fn differences_are_those_of_the_published_examples() {
    for (one, other, expected) in [
        ([50.0, 2.6772, -79.7751], [50.0, 0.0, -82.7485], 2.0425),
        ([50.0, -1.3802, -84.2814], [50.0, 0.0, -82.7485], 1.0),
        ([50.0, 2.5, 0.0], [73.0, 25.0, -18.0], 27.1492),
        ([50.0, 2.5, 0.0], [58.0, 24.0, 15.0], 19.4535),
        (
            [60.2574, -34.0099, 36.2677],
            [60.4626, -34.1751, 39.4387],
            1.2644,
        ),
        ([2.0776, 0.0795, -1.135], [0.9033, -0.0636, -0.5514], 0.9082),
    ] {
        let found = difference(one, other);
        assert!(
            (found - expected).abs() < 1e-4,
            "{one:?} {other:?}: {found}"
        );
    }
    assert!((contrast([0.0; 3], [1.0; 3]) - 21.0).abs() < 1e-9);
}

#[test]
fn categories_are_told_apart_by_every_eye() {
    let categories = SOLID.iter().chain(&HATCHED);
    let mut close = Vec::new();
    for (dark, (sight, matrix)) in [false, true]
        .into_iter()
        .flat_map(|dark| SIGHTS.map(|sight| (dark, sight)))
    {
        let of = |name: &str| lab(seen(&matrix, token(name, dark)));
        for (at, one) in categories.clone().enumerate() {
            for other in categories.clone().skip(at + 1) {
                let is_same = SOLID.contains(one) == SOLID.contains(other);
                let least = match is_same {
                    true => APART_MIN,
                    false => APART_ACROSS_TEXTURES_MIN,
                };
                let apart = difference(of(one), of(other));
                if apart < least {
                    close.push(format!(
                        "{one} and {other} in {sight}, dark {dark}: {apart:.1} of {least}"
                    ));
                }
            }
        }
    }
    assert!(close.is_empty(), "{close:#?}");
}

/// Pairs of tokens that have too little contrast, in both themes.
fn faint<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)> + Clone, least: f64) -> Vec<String> {
    let themes = [false, true].into_iter();
    let pairs = themes.flat_map(|dark| pairs.clone().map(move |(one, on)| (one, on, dark)));
    let measured = pairs.map(|(one, on, dark)| {
        let ratio = contrast(token(one, dark), token(on, dark));
        (ratio, format!("{one} on {on}, dark {dark}: {ratio:.2}"))
    });
    let faint = measured.filter(|it| it.0 < least);
    faint.map(|it| it.1).collect()
}

#[test]
fn categories_are_seen_on_what_they_are_drawn_on() {
    let pairs = SOLID.iter().chain(&HATCHED).map(|it| (*it, "surface"));
    let faint = faint(pairs, DRAWING_CONTRAST_MIN);
    assert!(faint.is_empty(), "{faint:#?}");
}

#[test]
fn text_is_read_on_every_ground() {
    let on_grounds = TEXTS
        .iter()
        .flat_map(|text| GROUNDS.iter().map(move |ground| (*text, *ground)));
    let on_own = [
        ("cost", "cost-soft"),
        ("warn", "warn-soft"),
        ("good", "good-soft"),
        ("err", "err-soft"),
    ];
    // Callouts and marked lines of code have ordinary text on these.
    let on_soft = on_own
        .into_iter()
        .flat_map(|(_, ground)| [("ink", ground), ("ink-2", ground)]);
    let pairs = on_grounds
        .chain(on_own)
        .chain(on_soft)
        .chain([("surface", "ink"), ("surface", "ink-2")]);
    let faint = faint(pairs, TEXT_CONTRAST_MIN);
    assert!(faint.is_empty(), "{faint:#?}");
}

#[test]
fn borders_and_focus_are_seen() {
    let pairs = GROUNDS
        .iter()
        .flat_map(|ground| [("line-2", *ground), ("focus", *ground)]);
    let faint = faint(pairs, DRAWING_CONTRAST_MIN);
    assert!(faint.is_empty(), "{faint:#?}");
}
