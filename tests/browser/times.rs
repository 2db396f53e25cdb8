//! Time on pages: looked at closer by dragging, and told in UTC or in the zone of whoever reads.

use super::story::Story;
use super::{Browser, Look, Page};

/// Half an hour beside full hours, and the same all year.
const ZONE: (&str, &str) = ("Asia/Kolkata", "UTC+5:30");

const ZONE_MINUTES: i64 = 330;

const TOGGLE: &str = "[data-toggle-zone]";

/// Parses what an address or a title says, ms since the epoch.
fn ms(page: &Page, text: &str) -> i64 {
    page.evaluate::<f64>(&format!("Date.parse({text:?})")) as i64
}

fn open(browser: &Browser, path: &str) -> Page {
    let page = browser.open(&Story::get().address(path), Look::default());
    page.live_in(ZONE.0);
    page.goto(page.url().as_str());
    page
}

/// Clicks what chooses the zone, and waits until the page is there again and says so.
fn choose_zone(page: &Page, name: &str) {
    page.click(TOGGLE);
    page.until(&format!(
        "document.readyState === 'complete' && document.querySelector('{TOGGLE}')?.textContent === 'Times in {name}'"
    ));
}

#[test]
fn dragging_over_a_chart_looks_closer_and_back_leads_back() {
    let browser = Browser::start();
    let page = open(&browser, "/endpoints/{slower}");
    let here = page.url();
    for (nth, zone) in ["UTC", ZONE.1].into_iter().enumerate() {
        if zone != "UTC" {
            choose_zone(&page, zone);
        }
        let chart = ".chart[data-from]";
        let number = |name: &str| -> i64 {
            let text: String =
                page.evaluate(&format!("document.querySelector('{chart}').dataset.{name}"));
            text.parse().expect("ms")
        };
        let (from, length) = (number("from"), number("length"));

        // A changed mind and a mere click change nothing.
        page.drag_and_escape(&format!("{chart} svg.plot"), 0.5, 0.9);
        assert!(!page.evaluate::<bool>("Boolean(document.querySelector('.zoombox'))"));
        assert_eq!(page.url(), here, "{nth}");

        page.drag(&format!("{chart} svg.plot"), 0.5, 0.9);
        page.until("new URLSearchParams(location.search).has('from') && document.readyState === 'complete'");
        for (name, share) in [("from", 0.5), ("to", 0.9)] {
            // The address is UTC whatever the page shows, and whole minutes.
            let at = page.parameter(name).expect("a time");
            assert!(at.ends_with(":00Z"), "{at}");
            let expected = from + (length as f64 * share) as i64;
            let away = (ms(&page, &at) - expected).abs();
            assert!(away <= 2 * 60_000, "{zone}: {name}={at} is {away} ms away");
        }
        assert_eq!(page.parameter("range"), None);
        assert_eq!(page.texts(".when summary"), ["Chosen time"]);
        let (zoomed, closer) = (page.url(), number("length"));
        assert!(closer < length, "{closer} of {length} ms");
        page.step(-1);
        assert_eq!((page.url(), number("length")), (here.clone(), length));
        page.step(1);
        assert_eq!((page.url(), number("length")), (zoomed, closer));
        page.step(-1);
        page.assert_clean();
    }
}

#[test]
fn a_typed_time_means_the_zone_that_is_shown() {
    let browser = Browser::start();
    let path = "/endpoints/{slower}?from=2026-03-01T20:00:00Z&to=2026-03-01T22:00:00Z";
    let page = open(&browser, path);
    let field = |name: &str| -> String {
        page.evaluate(&format!(
            "document.querySelector('input[name={name}][data-utc]').value"
        ))
    };
    assert_eq!(field("from"), "2026-03-01T20:00");
    choose_zone(&page, ZONE.1);
    assert_eq!(field("from"), "2026-03-02T01:30");
    assert_eq!(field("to"), "2026-03-02T03:30");
    assert!(page.texts("[data-zone]").iter().all(|it| it == ZONE.1));
    // Sent as it stands, it is the same time.
    page.click(".when summary");
    page.click("button[form=when]");
    page.until("!location.search.includes('Z') && document.readyState === 'complete'");
    let sent = ["from", "to"].map(|it| page.parameter(it).expect("a time"));
    assert_eq!(sent, ["2026-03-01T20:00", "2026-03-01T22:00"]);
    assert_eq!(field("from"), "2026-03-02T01:30");
    page.assert_clean();
}

#[test]
fn times_are_told_in_utc_or_in_the_zone_of_whoever_reads() {
    let browser = Browser::start();
    // A fixed range: the end of others moves on.
    let endpoint = "/endpoints/{slower}?from=2026-03-01T20:00:00Z&to=2026-03-01T22:00:00Z";
    for path in ["/traces/{trace}", endpoint] {
        let page = open(&browser, path);
        assert_eq!(page.texts(TOGGLE), ["Times in UTC"], "{path}");
        let about = if path.starts_with("/traces") {
            ".meta [title*=\" and \"]"
        } else {
            ".asof"
        };
        let title =
            || -> String { page.evaluate(&format!("document.querySelector('{about}').title")) };
        let (utc, shown) = (title(), page.texts(about)[0].clone());
        assert!(shown.contains(" UTC"), "{path}: {shown}");
        let spans = page.texts(".wf tbody tr");

        choose_zone(&page, ZONE.1);
        let (local, shown) = (title(), page.texts(about)[0].clone());
        assert!(shown.contains(ZONE.1), "{path}: {shown}");
        assert_ne!(local, utc);
        if path.starts_with("/traces") {
            // `2026-11-22T14:05:06Z and …` became `2026-11-22 19:35:06 UTC+5:30 and …`.
            let was = ms(&page, &utc[..20]);
            let is = ms(&page, &format!("{}T{}Z", &local[..10], &local[11..19]));
            assert_eq!(is - was, ZONE_MINUTES * 60_000, "{utc}, {local}");
            assert!(
                local[19..].starts_with(&format!(" {} and ", ZONE.1)),
                "{local}"
            );
        }
        // What spans say is left as it is.
        assert_eq!(page.texts(".wf tbody tr"), spans);

        // It is remembered, here and elsewhere, and what the script puts in place later follows it.
        page.goto(&Story::get().address("/endpoints/{endpoint}"));
        assert_eq!(page.texts(TOGGLE), [format!("Times in {}", ZONE.1)]);
        assert!(page.texts(".asof")[0].contains(ZONE.1));
        let axes = page.texts(".chart .x span");
        page.goto(&Story::get().address(path));
        assert_eq!(title(), local, "{path}");

        choose_zone(&page, "UTC");
        assert_eq!(title(), utc, "{path}");
        page.goto(&Story::get().address("/endpoints/{endpoint}"));
        assert_ne!(page.texts(".chart .x span"), axes);
        page.assert_clean();
    }
    // Without scripts there is only UTC, and the page says so.
    let still = browser.open(
        &Story::get().address("/traces/{trace}"),
        Look::without_javascript(),
    );
    assert!(still.texts("footer")[0].contains("Times are in UTC"));
}
