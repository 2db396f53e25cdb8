//! A page in the browser: what a person does with it, and what must never happen on it.

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::devtools::{Connection, Event, PATIENCE};

/// How a page is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Look {
    /// CSS pixels.
    pub width: u32,
    /// CSS pixels.
    pub height: u32,
    /// The system prefers dark colours.
    pub dark: bool,
    /// Scripts run.
    pub javascript: bool,
    /// The system asks for less motion.
    pub still: bool,
}

impl Default for Look {
    fn default() -> Self {
        Look {
            width: 1440,
            height: 900,
            dark: false,
            javascript: true,
            still: false,
        }
    }
}

impl Look {
    /// A browser in which somebody has switched scripts off.
    pub fn without_javascript() -> Look {
        Look {
            javascript: false,
            ..Look::default()
        }
    }

    /// A telephone.
    pub fn narrow() -> Look {
        Look {
            width: 400,
            height: 800,
            ..Look::default()
        }
    }

    /// The system prefers dark colours.
    pub fn dark() -> Look {
        Look {
            dark: true,
            ..Look::default()
        }
    }
}

/// An open page. When a test panics, a picture of it is left in cargo's target directory.
pub struct Page {
    connection: Arc<Connection>,
    session: String,
    /// Its window's storage.
    context: Value,
    look: Look,
}

impl Page {
    pub(super) fn new(
        connection: Arc<Connection>,
        session: String,
        context: Value,
        look: Look,
    ) -> Page {
        let page = Page {
            connection,
            session,
            context,
            look,
        };
        for domain in ["Page", "Runtime", "Log"] {
            page.ask(&format!("{domain}.enable"), json!({}));
        }
        page.ask("Page.setLifecycleEventsEnabled", json!({"enabled": true}));
        page.appear(look);
        page
    }

    /// Looks at the same page in another way, as if the window were resized or the system's theme changed.
    pub fn look_again(&mut self, look: Look) {
        self.look = look;
        self.appear(look);
    }

    /// The machine stands in another zone from now on: `Asia/Kolkata`. Pages notice when they are loaded.
    pub fn live_in(&self, zone: &str) {
        self.ask("Emulation.setTimezoneOverride", json!({"timezoneId": zone}));
    }

    fn appear(&self, look: Look) {
        let size = json!({
            "width": look.width, "height": look.height, "deviceScaleFactor": 1, "mobile": false,
        });
        self.ask("Emulation.setDeviceMetricsOverride", size);
        let scheme = if look.dark { "dark" } else { "light" };
        let motion = if look.still {
            "reduce"
        } else {
            "no-preference"
        };
        let features = json!([
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": motion},
        ]);
        self.ask("Emulation.setEmulatedMedia", json!({"features": features}));
        let off = json!({"value": !look.javascript});
        self.ask("Emulation.setScriptExecutionDisabled", off);
    }

    /// How it is looked at.
    pub fn look(&self) -> Look {
        self.look
    }

    /// Goes to an address and waits until everything is loaded; how long that took.
    pub fn goto(&self, url: &str) -> Duration {
        let since = Instant::now();
        let answer = self.ask("Page.navigate", json!({"url": url}));
        assert!(answer["errorText"].is_null(), "{url}: {answer}");
        let loader = answer["loaderId"].clone();
        if !loader.is_null() {
            self.connection.event(&format!("{url} is loaded"), |it| {
                it.session == self.session
                    && it.method == "Page.lifecycleEvent"
                    && it.params["loaderId"] == loader
                    && it.params["name"] == "load"
            });
        }
        since.elapsed()
    }

    /// Goes back in the history, or forward, and waits until the address is another.
    pub fn step(&self, by: i32) {
        let before = self.url();
        let history = self.ask("Page.getNavigationHistory", json!({}));
        let at = history["currentIndex"].as_i64().expect("an index") + i64::from(by);
        let entry = &history["entries"][usize::try_from(at).expect("a history")];
        self.ask(
            "Page.navigateToHistoryEntry",
            json!({"entryId": entry["id"]}),
        );
        self.until(&format!(
            "location.href !== {} && document.readyState === 'complete'",
            json!(before.as_str())
        ));
    }

    /// The value of an expression, or of the promise that it is. Works also where scripts are off.
    pub fn evaluate<T: DeserializeOwned>(&self, expression: &str) -> T {
        let value = self.try_evaluate(expression);
        let value = value.unwrap_or_else(|error| panic!("{expression}: {error}"));
        let text = value.to_string();
        serde_json::from_value(value)
            .unwrap_or_else(|error| panic!("{expression}: {text}: {error}"))
    }

    fn try_evaluate(&self, expression: &str) -> Result<Value, String> {
        let params = json!({
            "expression": expression, "returnByValue": true, "awaitPromise": true, "userGesture": true,
        });
        let answer = self
            .connection
            .try_ask(&self.session, "Runtime.evaluate", params)?;
        match answer.get("exceptionDetails") {
            Some(thrown) => Err(thrown.to_string()),
            None => Ok(answer["result"]["value"].clone()),
        }
    }

    /// Waits until a condition holds, across page loads too.
    pub fn until(&self, condition: &str) {
        let since = Instant::now();
        loop {
            // While one page follows another there is nothing to ask.
            let last = self.try_evaluate(&format!("Boolean({condition})"));
            if last == Ok(Value::Bool(true)) {
                return;
            }
            let left = since.elapsed() < PATIENCE;
            assert!(left, "not within {PATIENCE:?}: {condition}: {last:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The trimmed texts of all elements that a selector finds.
    pub fn texts(&self, selector: &str) -> Vec<String> {
        let selector = json!(selector);
        self.evaluate(&format!(
            "[...document.querySelectorAll({selector})].map(it => it.textContent.trim())"
        ))
    }

    /// The address, as it stands in the address bar.
    pub fn url(&self) -> url::Url {
        self.evaluate::<String>("location.href")
            .parse()
            .expect("a URL")
    }

    /// A parameter of the address.
    pub fn parameter(&self, name: &str) -> Option<String> {
        let url = self.url();
        let mut pairs = url.query_pairs();
        pairs.find(|it| it.0 == name).map(|it| it.1.into_owned())
    }

    /// Presses a key and lets it go: a character, or a name such as `Enter` or `Shift+ArrowLeft`.
    pub fn press(&self, key: &str) {
        let (shift, key) = match key.strip_prefix("Shift+") {
            Some(key) => (8, key),
            None => (0, key),
        };
        let code = match key {
            "Enter" => 13,
            "Escape" => 27,
            "Tab" => 9,
            "ArrowLeft" => 37,
            "ArrowUp" => 38,
            "ArrowRight" => 39,
            "ArrowDown" => 40,
            _ => 0,
        };
        let mut event = json!({
            "type": "keyDown", "key": key, "modifiers": shift, "windowsVirtualKeyCode": code,
        });
        if key == "Enter" {
            event["text"] = "\r".into();
        } else if key.chars().count() == 1 {
            event["text"] = key.into();
        }
        self.ask("Input.dispatchKeyEvent", event.clone());
        event["type"] = "keyUp".into();
        self.ask("Input.dispatchKeyEvent", event);
    }

    /// Types into whatever has the focus.
    pub fn type_text(&self, text: &str) {
        self.ask("Input.insertText", json!({"text": text}));
    }

    /// Clicks into the middle of the first element that a selector finds; scrolls to it first.
    pub fn click(&self, selector: &str) {
        let (x, y) = self.place_of(selector, 0.5);
        self.mouse("mouseMoved", x, y, 0);
        self.mouse("mousePressed", x, y, 1);
        self.mouse("mouseReleased", x, y, 1);
    }

    /// Drags over an element, from one share of its width to another.
    pub fn drag(&self, selector: &str, from: f64, to: f64) {
        let (x, y) = self.place_of(selector, from);
        let (end_x, _) = self.place_of(selector, to);
        self.mouse("mouseMoved", x, y, 0);
        self.mouse("mousePressed", x, y, 1);
        self.mouse("mouseMoved", (x + end_x) / 2.0, y, 1);
        self.mouse("mouseMoved", end_x, y, 1);
        self.mouse("mouseReleased", end_x, y, 1);
    }

    /// As [`Page::drag`], but Escape is pressed before the button is let go.
    pub fn drag_and_escape(&self, selector: &str, from: f64, to: f64) {
        let (x, y) = self.place_of(selector, from);
        let (end_x, _) = self.place_of(selector, to);
        self.mouse("mouseMoved", x, y, 0);
        self.mouse("mousePressed", x, y, 1);
        self.mouse("mouseMoved", end_x, y, 1);
        self.press("Escape");
        self.mouse("mouseReleased", end_x, y, 1);
    }

    fn place_of(&self, selector: &str, share: f64) -> (f64, f64) {
        self.evaluate(&format!(
            "(() => {{ const it = document.querySelector({});
            if (!it) throw new Error('there is no such element');
            it.scrollIntoView({{ block: 'center', behavior: 'instant' }});
            const box = it.getBoundingClientRect();
            return [box.left + box.width * {share}, box.top + box.height / 2]; }})()",
            json!(selector)
        ))
    }

    fn mouse(&self, kind: &str, x: f64, y: f64, clicks: u32) {
        let button = if clicks > 0 { "left" } else { "none" };
        let buttons = u32::from(kind != "mouseReleased" && clicks > 0);
        let event = json!({
            "type": kind, "x": x, "y": y, "button": button, "buttons": buttons, "clickCount": clicks,
        });
        self.ask("Input.dispatchMouseEvent", event);
    }

    /// Nothing was wrong so far: no script threw, nothing was logged as an error or warning, and nothing
    /// that the content security policy forbids was tried. And the page does not scroll sideways.
    pub fn assert_clean(&self) {
        let complaints = self.complaints();
        assert!(complaints.is_empty(), "{}: {complaints:#?}", self.url());
        assert!(!self.is_wide(), "{} is wider than the window", self.url());
    }

    /// The page scrolls sideways.
    pub fn is_wide(&self) -> bool {
        self.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
    }

    /// What the browser complained about since the page was opened.
    pub fn complaints(&self) -> Vec<String> {
        // What was reported before this question is answered has arrived with it.
        let _ = self.try_evaluate("0");
        let events = self.connection.events_of(&self.session);
        events.iter().filter_map(complaint).collect()
    }

    /// A picture as PNG.
    pub fn screenshot(&self) -> Result<Vec<u8>, String> {
        self.picture(json!({"format": "png"}))
    }

    /// A picture as WebP: the whole page, also what is below the window; `quality` to 100.
    pub fn whole_picture(&self, quality: u32) -> Result<Vec<u8>, String> {
        let high = self.try_evaluate("document.documentElement.scrollHeight")?;
        let clip = json!({"x": 0, "y": 0, "width": self.look.width, "height": high, "scale": 1});
        self.picture(json!({
            "format": "webp", "quality": quality, "captureBeyondViewport": true, "clip": clip,
        }))
    }

    /// A picture as WebP of what is in the window, without its scroll bars.
    pub fn picture_of_window(&self, quality: u32) -> Result<Vec<u8>, String> {
        self.try_evaluate(
            "document.querySelectorAll('*').forEach(it => { it.style.scrollbarWidth = 'none'; })",
        )?;
        self.picture(json!({"format": "webp", "quality": quality}))
    }

    fn picture(&self, params: Value) -> Result<Vec<u8>, String> {
        use base64::Engine;
        let taken = self
            .connection
            .try_ask(&self.session, "Page.captureScreenshot", params)?;
        let encoded = taken["data"].as_str().unwrap_or_default();
        let decoded = base64::engine::general_purpose::STANDARD.decode(encoded);
        decoded.map_err(|error| error.to_string())
    }

    pub(super) fn ask(&self, method: &str, params: Value) -> Value {
        self.connection.ask(&self.session, method, params)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tell_what_it_was();
        }
        // Tests share browsers: what is left open would compute on.
        let context = json!({"browserContextId": self.context});
        let _ = self
            .connection
            .try_ask("", "Target.disposeBrowserContext", context);
        self.connection.forget(&self.session);
    }
}

impl Page {
    fn tell_what_it_was(&self) {
        let test = std::thread::current();
        let name = test.name().unwrap_or("test").replace("::", "-");
        let path = pictures().join(format!("{name}.png"));
        let url = self.try_evaluate("location.href");
        let written = self
            .screenshot()
            .and_then(|it| std::fs::write(&path, it).map_err(|error| error.to_string()));
        let complaints = self.complaints();
        eprintln!(
            "the page was {url:?}, its picture: {path:?} ({written:?}), it complained: {complaints:#?}"
        );
    }
}

/// Where pictures of failures go: cargo's directory for files of tests.
fn pictures() -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("browser");
    let _ = std::fs::create_dir_all(&directory);
    directory
}

/// What an event complains about, if it does.
fn complaint(event: &Event) -> Option<String> {
    let params = &event.params;
    match event.method.as_str() {
        "Page.javascriptDialogOpening" => Some(format!("a dialog: {}", params["message"])),
        "Runtime.exceptionThrown" => Some(format!("thrown: {}", params["exceptionDetails"])),
        "Runtime.consoleAPICalled" => {
            let kind = params["type"].as_str().unwrap_or_default();
            ["error", "warning", "assert"]
                .contains(&kind)
                .then(|| format!("console.{kind}: {}", params["args"]))
        }
        "Log.entryAdded" => {
            let entry = &params["entry"];
            let level = entry["level"].as_str().unwrap_or_default();
            ["error", "warning"]
                .contains(&level)
                .then(|| format!("{level}: {} {}", entry["text"], entry["url"]))
        }
        _ => None,
    }
}
