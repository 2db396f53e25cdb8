//! A headless Chromium of the test's own.

use serde_json::json;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock};

use super::devtools::Connection;
use super::page::{Look, Page};
use crate::support::process::clear_after_our_end;

/// What the browser is called where.
const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "chrome"];

/// Chromium speaks on file descriptors 3 and 4. The shell makes them of the standard ones, and is then
/// replaced by the browser. When the pipes close, also because the tests were killed, the browser ends.
const ON_3_AND_4: &str = r#"exec "$@" 3<&0 4>&1 </dev/null >/dev/null"#;

const FLAGS: [&str; 12] = [
    "--headless",
    "--remote-debugging-pipe",
    "--disable-gpu",
    // Containers have a small /dev/shm.
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-default-browser-check",
    // Nobody is called but the pages' own server.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--password-store=basic",
    "--use-mock-keychain",
];

/// A running browser with an empty profile; killed when dropped.
pub struct Browser {
    child: Child,
    connection: Arc<Connection>,
    /// Removed after the browser has ended.
    profile: tempfile::TempDir,
}

impl Browser {
    /// One for all tests that want nothing but a browser: every page has a window and storage of its own.
    pub fn shared() -> &'static Browser {
        static SHARED: OnceLock<Browser> = OnceLock::new();
        SHARED.get_or_init(|| {
            let browser = Browser::start();
            clear_after_our_end(browser.child.id(), browser.profile.path());
            browser
        })
    }

    /// Starts one; panics if none is installed.
    pub fn start() -> Browser {
        let profile = tempfile::Builder::new()
            .prefix("culprit-browser-")
            .tempdir()
            .expect("a temporary directory");
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", ON_3_AND_4, "browser"])
            .arg(program())
            .args(FLAGS)
            .arg(format!("--user-data-dir={}", profile.path().display()));
        if nix::unistd::geteuid().is_root() {
            // Its sandbox refuses root; these pages are ours.
            command.arg("--no-sandbox");
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell");
        let (to, from) = (child.stdin.take(), child.stdout.take());
        let connection = Connection::over(to.expect("piped"), from.expect("piped"));
        Browser {
            child,
            connection: Arc::new(connection),
            profile,
        }
    }

    /// Opens an address in a window of its own, with its own storage, and waits until it is loaded.
    pub fn open(&self, url: &str, look: Look) -> Page {
        let context = self.ask("Target.createBrowserContext", json!({}));
        let context = &context["browserContextId"];
        let copying = json!({
            "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"],
            "browserContextId": context,
        });
        self.ask("Browser.grantPermissions", copying);
        let blank = json!({"url": "about:blank", "browserContextId": context});
        let target = self.ask("Target.createTarget", blank)["targetId"].clone();
        let attach = json!({"targetId": target, "flatten": true});
        let session = self.ask("Target.attachToTarget", attach)["sessionId"].clone();
        let session = session.as_str().expect("a session").to_owned();
        let page = Page::new(self.connection.clone(), session, context.clone(), look);
        page.goto(url);
        page
    }

    fn ask(&self, method: &str, params: serde_json::Value) -> serde_json::Value {
        self.connection.ask("", method, params)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `CULPRIT_TEST_CHROMIUM`, or whatever is on the path.
fn program() -> PathBuf {
    if let Some(program) = std::env::var_os("CULPRIT_TEST_CHROMIUM") {
        return program.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let programs = NAMES
        .iter()
        .flat_map(|name| directories.iter().map(move |it| it.join(name)));
    programs
        .into_iter()
        .find(|it| it.is_file())
        .expect("Chromium (is it installed and on your PATH? `make test` installs it)")
}
