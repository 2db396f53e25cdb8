//! Hands on the keyboard, on every list; and what addresses and the history remember.

use super::story::Story;
use super::{Browser, Look, Page};

/// Pages with rows that lead somewhere.
const LISTS: [&str; 9] = [
    "/",
    "/services",
    "/traces",
    "/regressions",
    "/deployments",
    "/alerts",
    "/search?q=shop",
    "/bottlenecks/{bottleneck}",
    "/endpoints/{endpoint}",
];

const FOCUSED_ROW: &str =
    "[...document.querySelectorAll('[data-row]')].indexOf(document.activeElement)";

fn open(path: &str, look: Look) -> Page {
    Browser::shared().open(&Story::get().address(path), look)
}

#[test]
fn rows_are_walked_and_opened_and_one_comes_back() {
    for list in LISTS {
        let page = open(list, Look::default());
        let rows: i32 = page.evaluate("document.querySelectorAll('[data-row]').length");
        assert!(rows > 0, "{list} has no rows");
        page.press("j");
        assert_eq!(page.evaluate::<i32>(FOCUSED_ROW), 0, "{list}");
        page.press("j");
        assert_eq!(page.evaluate::<i32>(FOCUSED_ROW), 1.min(rows - 1), "{list}");
        page.press("k");
        assert_eq!(page.evaluate::<i32>(FOCUSED_ROW), 0, "{list}");
        let here = page.url();
        let there: String = page.evaluate("document.activeElement.href");
        page.press("Enter");
        page.until(&format!(
            "location.href === {there:?} && document.readyState === 'complete'"
        ));
        page.step(-1);
        assert_eq!(page.url(), here);
        page.assert_clean();
    }
}

#[test]
fn search_and_help_are_a_key_away() {
    for list in LISTS {
        let page = open(list, Look::default());
        page.press("?");
        page.until("document.querySelector('#keys[open]')");
        page.press("Escape");
        page.until("!document.querySelector('#keys[open]')");
        page.press("/");
        assert!(
            page.evaluate::<bool>("document.activeElement.matches('[type=search]')"),
            "{list}"
        );
        // What is typed is typed.
        page.type_text("j?/");
        assert_eq!(
            page.evaluate::<String>("document.activeElement.value"),
            "j?/"
        );
        page.press("Escape");
        page.press("Escape");
        assert!(
            !page.evaluate::<bool>("document.activeElement.matches('[type=search]')"),
            "{list}"
        );
        page.press("j");
        assert_eq!(page.evaluate::<i32>(FOCUSED_ROW), 0, "{list}");
        page.assert_clean();
    }
}

#[test]
fn the_first_tab_skips_to_the_content_and_every_tab_is_seen() {
    for list in LISTS {
        let page = open(list, Look::default());
        page.press("Tab");
        assert!(
            page.evaluate::<bool>("document.activeElement.matches('.skip')"),
            "{list}"
        );
        let is_shown = "document.activeElement.getBoundingClientRect().left >= 0";
        assert!(page.evaluate::<bool>(is_shown), "{list}");
        for nth in 0..25 {
            page.press("Tab");
            let unseen: Option<String> = page.evaluate(
                "(() => { const it = document.activeElement; const { outlineStyle, outlineWidth } = getComputedStyle(it);
                    return it === document.body || (outlineStyle !== 'none' && parseFloat(outlineWidth) >= 2) ? null : it.outerHTML.slice(0, 200); })()",
            );
            assert_eq!(unseen, None, "{list}, tab {nth}: no focus to be seen");
        }
        let _: Option<bool> = page.evaluate("document.querySelector('.skip').focus() ?? null");
        page.press("Enter");
        page.until("document.activeElement.matches('#main')");
    }
}

#[test]
fn a_sorted_list_says_by_what_and_an_address_restores_it() {
    for (list, column, key) in [("/", "P99", "p99"), ("/", "First seen", "first_seen")] {
        let page = open(list, Look::default());
        let sorted = || page.texts("main [aria-sort]").concat();
        assert!(
            sorted().starts_with("Cost per hour"),
            "{list}: {}",
            sorted()
        );
        let _: Option<bool> = page.evaluate(&format!(
            "[...document.querySelectorAll('main th a')].find(it => it.textContent.startsWith({column:?})).click() ?? null"
        ));
        page.until(&format!(
            "document.readyState === 'complete' && document.querySelector('main [aria-sort]')?.textContent.startsWith({column:?})"
        ));
        assert_eq!(page.parameter("sort").as_deref(), Some(key));
        let rows = page.texts("main tbody [data-row]");
        let deep = Browser::shared().open(page.url().as_str(), Look::default());
        assert_eq!(deep.texts("main tbody [data-row]"), rows);
        page.step(-1);
        assert!(sorted().starts_with("Cost per hour"), "{}", sorted());
        page.step(1);
        assert_eq!(page.texts("main tbody [data-row]"), rows);
        page.assert_clean();
    }
}

#[test]
fn filters_stand_in_the_address_and_the_history() {
    let page = open("/", Look::default());
    let all = page.texts("main tbody [data-row]");
    let choose = "(() => { const it = document.querySelector('select[name=detector]');
        it.value = 'slow-query'; it.dispatchEvent(new Event('change', { bubbles: true })); return null; })()";
    let _: Option<bool> = page.evaluate(choose);
    page.until("new URLSearchParams(location.search).get('detector') === 'slow-query' && document.readyState === 'complete'");
    let some = page.texts("main tbody [data-row]");
    assert!(some.len() < all.len() && !some.is_empty(), "{some:?}");
    assert_eq!(
        page.evaluate::<String>("document.querySelector('select[name=detector]').value"),
        "slow-query"
    );
    page.step(-1);
    assert_eq!(page.texts("main tbody [data-row]"), all);
    page.step(1);
    assert_eq!(page.texts("main tbody [data-row]"), some);
    page.assert_clean();
}

#[test]
fn who_asks_for_less_motion_sees_none() {
    let moves = "(() => { const it = document.body.appendChild(document.createElement('span'));
        it.className = 'dot wait'; return getComputedStyle(it).animationName !== 'none'; })()";
    let still = Look {
        still: true,
        ..Look::default()
    };
    assert!(open("/start", Look::default()).evaluate::<bool>(moves));
    assert!(!open("/start", still).evaluate::<bool>(moves));
}
