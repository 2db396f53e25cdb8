//! Looks at many pages as everybody may: wide and narrow, light and dark, without scripts, with a screen
//! reader; and says all that is wrong with them at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Browser, Look, Page};

/// How every page is looked at.
pub const LOOKS: [Look; 6] = [
    look(1440, false),
    look(1440, true),
    look(1024, true),
    look(1024, false),
    look(400, false),
    look(400, true),
];

/// Those that the suite has time for.
pub const USUAL: [Look; 3] = [look(1440, false), look(1024, true), look(400, false)];

/// Where a page is likely to break: the widest and the narrowest.
pub const WIDE_AND_NARROW: [Look; 2] = [look(1440, false), look(400, true)];

/// What a page may weigh, bytes of HTML.
const HTML_BYTES_MAX: usize = 300 << 10;

/// Pages looked at side by side; the suite's machines have two processors.
const SIDE_BY_SIDE: usize = 2;

const fn look(width: u32, dark: bool) -> Look {
    Look {
        width,
        height: 900,
        dark,
        javascript: true,
        still: true,
    }
}

/// What was seen on pages.
#[derive(Default)]
pub struct Seen {
    /// What is wrong, with the address.
    pub problems: Vec<String>,
    /// Addresses of this site that pages lead to, without fragments, and one of those pages.
    pub links: BTreeMap<String, String>,
    /// Addresses of scripts.
    pub scripts: BTreeSet<String>,
}

impl Seen {
    /// Nothing was wrong.
    pub fn assert_clean(&self) {
        assert!(self.problems.is_empty(), "{}", self.problems.join("\n\n"));
    }
}

/// Looks at pages in each of these ways, once more without scripts, and asks `more` of each what else is wrong.
pub fn walk(
    addresses: &[String],
    looks: &[Look],
    more: impl Fn(&Page) -> Vec<String> + Sync,
) -> Seen {
    let seen = Mutex::new(Seen::default());
    let next = AtomicUsize::new(0);
    let look_at_next = || {
        while let Some(address) = addresses.get(next.fetch_add(1, Ordering::Relaxed)) {
            let page = look_at(address, looks, &more);
            // One page may be all that one waits for: it is told at once, too.
            println!("{address}: {:?}", page.problems);
            let mut seen = seen.lock().expect("nobody panics with it");
            seen.problems.extend(page.problems);
            seen.links.extend(page.links);
            seen.scripts.extend(page.scripts);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..SIDE_BY_SIDE {
            scope.spawn(look_at_next);
        }
    });
    seen.into_inner().expect("nobody panicked with it")
}

fn look_at(address: &str, looks: &[Look], more: impl Fn(&Page) -> Vec<String>) -> Seen {
    let mut page = Browser::shared().open(address, looks[0]);
    let mut problems = Vec::new();
    for (nth, look) in looks.iter().enumerate() {
        page.look_again(*look);
        let at = format!(
            "at {} px{}",
            look.width,
            if look.dark { ", dark" } else { "" }
        );
        if page.is_wide() {
            let widest = page.evaluate::<String>(WIDEST);
            problems.push(format!("{at}: scrolls sideways because of {widest}"));
        }
        // The slow part: in the last look, and where there are more than two in the first, too. So rules see a
        // page narrow, and most pages also wide; `colours.rs` holds the rest.
        let is_last = nth + 1 == looks.len();
        if is_last || (nth == 0 && looks.len() > 2) || pictures().is_some() {
            let violations = page.violations().unwrap_or_default();
            problems.extend(violations.into_iter().map(|it| format!("{at}: {it}")));
        }
        keep_picture(&page, address);
    }
    let complaints = page.complaints().into_iter();
    // A page about what is not there is an error to the browser.
    let told: u16 = page.evaluate("performance.getEntriesByType('navigation')[0].responseStatus");
    problems
        .extend(complaints.filter(|it| told == 200 || !it.contains(&format!("status of {told}"))));
    problems.extend(page.evaluate::<Vec<String>>(ODDITIES));
    let bytes: usize =
        page.evaluate("performance.getEntriesByType('navigation')[0].decodedBodySize");
    if bytes > HTML_BYTES_MAX {
        problems.push(format!("{bytes} bytes of HTML"));
    }
    problems.extend(differences(&page, address, looks[0]));
    problems.extend(more(&page));
    Seen {
        problems: problems
            .iter()
            .map(|it| format!("{address}: {it}"))
            .collect(),
        links: page
            .evaluate::<Vec<String>>(LINKS)
            .into_iter()
            .map(|it| (it, address.to_owned()))
            .collect(),
        scripts: page.evaluate("[...document.scripts].map(it => it.src)"),
    }
}

/// Whether it says something else without scripts. What culprit knows grows while one looks: a page that has
/// changed meanwhile is looked at again.
fn differences(page: &Page, address: &str, look: Look) -> Option<String> {
    let gist = |javascript| -> Vec<String> {
        let look = Look { javascript, ..look };
        Browser::shared().open(address, look).evaluate(GIST)
    };
    let mut with: Vec<String> = page.evaluate(GIST);
    for _ in 0..3 {
        let without = gist(false);
        if with == without {
            return None;
        }
        let again = gist(true);
        if with == again {
            return Some(format!(
                "with scripts it says {with:?}, without {without:?}"
            ));
        }
        with = again;
    }
    Some("what it says changes each time".to_owned())
}

/// The element that sticks out the most, of those that no other cuts off, or whose text does.
const WIDEST: &str = "[...document.querySelectorAll('body *')]
    .filter(it => {
        // What is positioned is only cut off by what is, too.
        let free = getComputedStyle(it).position === 'absolute';
        for (let of = it.parentElement; of && of !== document.body; of = of.parentElement) {
            const { overflowX, position } = getComputedStyle(of);
            if (overflowX !== 'visible' && !(free && position === 'static')) return false;
            if (position !== 'static') free = position === 'absolute';
        }
        return true; })
    .map(it => [it.getBoundingClientRect().right, it.outerHTML.slice(0, 200)])
    .concat([...document.querySelectorAll('main *')]
        .filter(it => it.clientWidth && getComputedStyle(it).overflowX === 'visible')
        .map(it => [it.getBoundingClientRect().left + it.scrollWidth, 'what stands in ' + it.outerHTML.slice(0, 200)])
        .reverse())
    .sort((a, b) => b[0] - a[0]).map(it => it.join(' px: '))[0] ?? ''";

/// What a page of ours never is.
const ODDITIES: &str = "(() => {
    const odd = [], all = (selector) => [...document.querySelectorAll(selector)];
    for (const [selector, count] of [['h1', 1], ['main', 1], ['body > header', 1], ['body > footer', 1], ['nav[aria-label=Pages]', 1], ['.skip[href=\"#main\"]', 1]])
        if (all(selector).length !== count) odd.push(`${all(selector).length} of ${selector}`);
    for (const it of all('a[href^=\"#\"]'))
{ const id = it.getAttribute('href').slice(1); if (id && !document.getElementById(decodeURIComponent(id))) odd.push(`leads nowhere: #${id}`); }
    for (const it of all('[style], [onerror], [onload], [onclick], [onmouseover], style, iframe, object, img'))
        odd.push('may not be there: ' + it.outerHTML.slice(0, 200));
    for (const it of all('table')) if (it.querySelectorAll('[aria-sort]').length > 1) odd.push('sorted by two columns');
    if (!document.title.trim().replace('· culprit', '').trim()) odd.push('no title');
    if (!all('main a[href], main form').length) odd.push('leads nowhere from here');
    const text = document.body.textContent;
    for (const it of ['NaN', 'undefined', '[object', 'None)', 'Some(']) if (text.includes(it)) odd.push('says ' + it);
    return odd; })()";

/// What a page is about, whether scripts run or not. Numbers and times change while one looks.
const GIST: &str = "[...document.querySelectorAll('main :is(h1, h2, h3, thead th, dt, label, summary, button, figcaption):not(.js-only)')]
    .filter(it => !it.closest('.js-only'))
    .map(it => it.textContent.replace(/[\\d.,:]+( (ns|µs|ms|s|min|h|d)\\b)?/g, '').replace(/\\s+/g, ' ').trim())";

const LINKS: &str = "[...new Set([...document.querySelectorAll('a[href]')]
    .map(it => new URL(it.getAttribute('href'), location.href))
    .filter(it => it.origin === location.origin).map(it => it.href.split('#')[0]))]";

/// `CULPRIT_TEST_PICTURES` names a directory for pictures of all pages in all looks. Then time does not matter,
/// and axe runs in all of them, too.
pub fn pictures() -> Option<std::ffi::OsString> {
    std::env::var_os("CULPRIT_TEST_PICTURES")
}

fn keep_picture(page: &Page, address: &str) {
    let Some(directory) = pictures() else {
        return;
    };
    let path = address.split_once("//").map_or(address, |it| it.1);
    let path = path.split_once('/').map_or("", |it| it.1);
    let name: String = path
        .chars()
        .map(|it| if it.is_alphanumeric() { it } else { '-' })
        .take(120)
        .collect();
    let theme = if page.look().dark { "dark" } else { "light" };
    let name = format!("{name}_{}_{theme}.webp", page.look().width);
    let written = page.whole_picture(70).and_then(|it| {
        std::fs::create_dir_all(&directory)
            .and_then(|()| std::fs::write(std::path::Path::new(&directory).join(name), it))
            .map_err(|error| error.to_string())
    });
    written.expect("a picture");
}
