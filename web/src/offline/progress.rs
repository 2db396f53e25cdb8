//! One line on a terminal that says how far it is; nothing where nobody looks.

use std::io::{self, IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// A line that changes more often cannot be read.
const EVERY: Duration = Duration::from_millis(100);

/// The line. It is gone when this is dropped.
#[derive(Debug)]
pub struct Progress {
    /// `None` where nothing is shown.
    line: Option<Mutex<Line>>,
    verb: &'static str,
    things: &'static str,
}

#[derive(Debug)]
struct Line {
    shown: Instant,
    /// Something stands on it.
    drawn: bool,
}

impl Progress {
    /// `analysed 1,200 of 4,000 traces`, if standard error is a terminal.
    pub fn of(verb: &'static str, things: &'static str) -> Progress {
        let line = Line {
            shown: Instant::now(),
            drawn: false,
        };
        Progress {
            line: io::stderr().is_terminal().then(|| Mutex::new(line)),
            verb,
            things,
        }
    }

    /// Nothing, ever.
    pub fn silent() -> Progress {
        Progress {
            line: None,
            verb: "",
            things: "",
        }
    }

    /// Some are done. Whoever finds somebody else drawing goes on.
    pub fn done(&self, done: usize, of: usize) {
        let Some(Ok(mut line)) = self.line.as_ref().map(Mutex::try_lock) else {
            return;
        };
        if line.shown.elapsed() >= EVERY {
            line.shown = Instant::now();
            line.drawn = true;
            let (done, of) = (
                crate::format::count(done as i64),
                crate::format::count(of as i64),
            );
            let (verb, things) = (self.verb, self.things);
            let _ = write!(io::stderr(), "\r\x1b[K{verb} {done} of {of} {things}");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        let line = self.line.as_mut().and_then(|it| it.get_mut().ok());
        if line.is_some_and(|it| it.drawn) {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
