//! The harness itself: it must see what it is there to see.

use super::{Browser, Look};
use crate::support::culprit::{Culprit, data_directory};

#[tokio::test]
async fn complaints_of_the_browser_are_heard() {
    let data = data_directory();
    let culprit = Culprit::serve(data.path(), &[]).await;
    let browser = Browser::start();
    let page = browser.open(&format!("{}/status", culprit.ui), Look::default());
    page.assert_clean();

    let heard = |provoke: &str, word: &str| {
        let page = browser.open(&format!("{}/status", culprit.ui), Look::default());
        let _: serde_json::Value = page.evaluate(provoke);
        page.until("true");
        let complaints = page.complaints();
        assert!(
            complaints.iter().any(|it| it.contains(word)),
            "{complaints:?}"
        );
    };
    heard("console.error('oh no')", "oh no");
    heard(
        "document.body.setAttribute('style', 'color: red')",
        "Content Security Policy",
    );
    heard(
        "new Promise(done => { setTimeout(() => { setTimeout(done, 0); throw new Error('thrown'); }, 0); })",
        "thrown",
    );
    let _: serde_json::Value =
        page.evaluate("document.body.append(document.createElement('img')) ?? null");
    if let Some(violations) = page.violations() {
        assert!(
            violations.iter().any(|it| it.starts_with("image-alt")),
            "{violations:?}"
        );
    }
    heard("fetch('/nowhere').then(it => it.status)", "404");
}

#[tokio::test]
async fn looks_are_what_they_say() {
    let data = data_directory();
    let culprit = Culprit::serve(data.path(), &[]).await;
    let browser = Browser::start();
    let url = format!("{}/status", culprit.ui);
    let narrow = browser.open(&url, Look::narrow());
    assert_eq!(narrow.evaluate::<u32>("innerWidth"), 400);
    let dark = browser.open(&url, Look::dark());
    assert!(dark.evaluate::<bool>("matchMedia('(prefers-color-scheme: dark)').matches"));
    let without = browser.open(&url, Look::without_javascript());
    assert!(!without.evaluate::<bool>("document.documentElement.matches('.js')"));
    let with = browser.open(&url, Look::default());
    assert!(with.evaluate::<bool>("document.documentElement.matches('.js')"));
    assert!(
        with.screenshot()
            .expect("a picture")
            .starts_with(b"\x89PNG")
    );
}

#[tokio::test]
async fn hands_reach_the_page() {
    let data = data_directory();
    let culprit = Culprit::serve(data.path(), &[]).await;
    let browser = Browser::start();
    let page = browser.open(&format!("{}/status", culprit.ui), Look::default());
    page.click("[data-toggle-theme]");
    page.until("document.documentElement.dataset.theme === 'dark'");
    page.press("/");
    page.until("document.activeElement.matches('[type=search]')");
    page.type_text("no such \"thing\"");
    page.press("Enter");
    page.until("location.pathname === '/search' && document.readyState === 'complete'");
    assert_eq!(page.parameter("q").as_deref(), Some("no such \"thing\""));
    assert_eq!(page.texts("h1").len(), 1);
    let _: serde_json::Value =
        page.evaluate("addEventListener('pointerup', it => { window.seen = it.clientX; }) ?? null");
    page.drag("main", 0.25, 0.75);
    page.until("seen > innerWidth / 2");
    assert_eq!(page.look().width, page.evaluate::<u32>("innerWidth"));
    page.assert_clean();
}
