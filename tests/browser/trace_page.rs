//! The page of a trace.

use super::{Browser, Look};
use crate::support::culprit::{Culprit, data_directory};
use crate::support::spans::{export, hex, n_plus_one, trace_id};

#[tokio::test]
async fn an_n_plus_one_is_looked_at_with_the_keyboard() {
    let data = data_directory();
    let culprit = Culprit::serve(data.path(), &[]).await;
    export(&culprit.grpc, n_plus_one(1, 37)).await.unwrap();
    let id = hex(&trace_id(1));
    culprit.trace(&id).await;
    let browser = Browser::start();
    let page = browser.open(&format!("{}/traces/{id}", culprit.ui), Look::default());
    assert!(page.texts(".wf .pill.x").contains(&"×37".to_owned()));

    page.press("j");
    page.until("document.activeElement.matches('.wf a[data-row]')");
    page.press("j");
    page.press("Enter");
    page.until("new URLSearchParams(location.search).has('span')");
    page.press("?");
    page.until("document.querySelector('dialog[open]')");
    page.press("Escape");
    page.until("!document.querySelector('dialog[open]')");
    page.assert_clean();
    page.assert_accessible();
}
