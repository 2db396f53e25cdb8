//! The DevTools protocol over a pair of pipes: JSON messages that end with NUL.

use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// A browser that has not answered for so long has hung, also on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// The way to a browser, shared by its pages.
pub struct Connection {
    out: Mutex<Out>,
    inbox: Arc<Inbox>,
}

struct Out {
    pipe: Box<dyn Write + Send>,
    last_id: u64,
}

#[derive(Default)]
struct Inbox {
    received: Mutex<Received>,
    news: Condvar,
}

#[derive(Default)]
struct Received {
    answers: HashMap<u64, Value>,
    /// Everything the browser told unasked, in order.
    events: Vec<Event>,
    ended: bool,
}

/// What the browser tells unasked.
#[derive(Clone)]
pub struct Event {
    /// Which page it is about; empty for the browser.
    pub session: String,
    /// `Page.loadEventFired`.
    pub method: String,
    /// What it says.
    pub params: Value,
}

impl Connection {
    /// Reads in a thread of its own until the browser closes its end.
    pub fn over(
        pipe_to: impl Write + Send + 'static,
        pipe_from: impl Read + Send + 'static,
    ) -> Self {
        let inbox = Arc::new(Inbox::default());
        let reader = inbox.clone();
        std::thread::spawn(move || read(BufReader::new(pipe_from), &reader));
        let pipe = Box::new(pipe_to);
        Connection {
            out: Mutex::new(Out { pipe, last_id: 0 }),
            inbox,
        }
    }

    /// Asks and waits for the answer; panics with the browser's words if it refuses.
    pub fn ask(&self, session: &str, method: &str, params: Value) -> Value {
        self.try_ask(session, method, params)
            .unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// As [`Connection::ask`], but a refusal is an answer.
    pub fn try_ask(&self, session: &str, method: &str, params: Value) -> Result<Value, String> {
        let id = self.send(session, method, params)?;
        let answer = self.wait(method, |received| received.answers.remove(&id))?;
        match answer.get("error") {
            Some(error) => Err(error.to_string()),
            None => Ok(answer["result"].clone()),
        }
    }

    fn send(&self, session: &str, method: &str, params: Value) -> Result<u64, String> {
        let mut out = self.out.lock().expect("no panic while writing");
        out.last_id += 1;
        let mut message = json!({"id": out.last_id, "method": method, "params": params});
        if !session.is_empty() {
            message["sessionId"] = session.into();
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        let written = out.pipe.write_all(&bytes).and_then(|()| out.pipe.flush());
        written.map_err(|error| format!("the browser has gone: {error}"))?;
        Ok(out.last_id)
    }

    /// Waits until one of a page's events is what is looked for.
    pub fn event(&self, what: &str, wanted: impl Fn(&Event) -> bool) -> Event {
        self.wait(what, |received| {
            received.events.iter().find(|it| wanted(it)).cloned()
        })
        .unwrap_or_else(|error| panic!("{error}"))
    }

    /// All events so far of a page.
    pub fn events_of(&self, session: &str) -> Vec<Event> {
        let received = self.inbox.received.lock().expect("the reader lives");
        let of = received.events.iter().filter(|it| it.session == session);
        of.cloned().collect()
    }

    /// Forgets what was told of a page that is closed.
    pub fn forget(&self, session: &str) {
        let mut received = self.inbox.received.lock().expect("the reader lives");
        received.events.retain(|it| it.session != session);
    }

    fn wait<T>(
        &self,
        what: &str,
        mut look: impl FnMut(&mut Received) -> Option<T>,
    ) -> Result<T, String> {
        let until = Instant::now() + PATIENCE;
        let mut received = self.inbox.received.lock().expect("the reader lives");
        loop {
            if let Some(found) = look(&mut received) {
                return Ok(found);
            }
            if received.ended {
                return Err(format!("the browser ended before {what}"));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("not within {PATIENCE:?}: {what}"));
            }
            let woken = self.inbox.news.wait_timeout(received, left);
            received = woken.expect("the reader lives").0;
        }
    }
}

fn read(mut from: impl BufRead, inbox: &Inbox) {
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        let ended = !matches!(from.read_until(0, &mut bytes), Ok(length) if length > 0);
        let mut received = inbox.received.lock().expect("nobody panics with it");
        if ended {
            received.ended = true;
            inbox.news.notify_all();
            return;
        }
        bytes.pop_if(|it| *it == 0);
        let Ok(mut message) = serde_json::from_slice::<Value>(&bytes) else {
            continue;
        };
        match message["id"].as_u64() {
            Some(id) => {
                received.answers.insert(id, message);
            }
            None => received.events.push(Event {
                session: message["sessionId"].as_str().unwrap_or_default().to_owned(),
                method: message["method"].as_str().unwrap_or_default().to_owned(),
                params: message["params"].take(),
            }),
        }
        inbox.news.notify_all();
    }
}
