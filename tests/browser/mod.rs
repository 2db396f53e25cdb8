//! Pages in a real browser: headless Chromium over the DevTools protocol.
//!
//! A page's test is one short function: start a culprit with data, open the page, use it, and say at the
//! end that it was clean.
//!
//! ```ignore
//! let browser = Browser::start();
//! let page = browser.open(&format!("{}/traces", culprit.ui), Look::default());
//! page.press("j");
//! page.until("document.activeElement.matches('[data-row]')");
//! page.assert_clean();
//! ```
//!
//! The harness waits by blocking: commands are answered in milliseconds, tests read without a word about
//! it, and a failing test can still take its picture while it unwinds.

mod accessibility;
mod chromium;
mod devtools;
mod page;

mod harness;
mod story;
mod walk;

mod every_page;
mod names;
mod ugly;
mod keys;
mod pictures;
mod culprits;
mod times;
mod trace_page;

pub use chromium::Browser;
pub use page::{Look, Page};
