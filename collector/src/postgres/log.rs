//! What Postgres says on standard error: into our log, and its last lines kept for error messages.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tracing::Level;

/// Lines kept for an error message: what a start prints before it fails fits.
const LINES_MAX: usize = 20;

/// Longest line that is kept, in bytes; the rest of a longer one (it holds a statement) is dropped.
const LINE_BYTES_MAX: usize = 4096;

/// The end of the log, shared with the thread that reads it.
#[derive(Debug, Clone)]
pub(super) struct LogTail(Arc<Mutex<Tail>>);

#[derive(Debug)]
struct Tail {
    lines: VecDeque<String>,
    last_at: Instant,
}

impl LogTail {
    /// Reads `stderr` on a thread of its own until every process that writes to it has ended.
    pub fn follow(stderr: impl Read + Send + 'static) -> std::io::Result<Self> {
        let tail = Self::empty();
        let writer = tail.clone();
        std::thread::Builder::new()
            .name("postgres log".to_owned())
            .spawn(move || writer.read(BufReader::new(stderr)))?;
        Ok(tail)
    }

    fn empty() -> Self {
        Self(Arc::new(Mutex::new(Tail {
            lines: VecDeque::new(),
            last_at: Instant::now(),
        })))
    }

    /// The last lines, oldest first.
    pub fn text(&self) -> String {
        let tail = self.lock();
        if tail.lines.is_empty() {
            return "(nothing)".to_owned();
        }
        tail.lines
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// The newest line that begins a message.
    pub fn last_message(&self) -> Option<String> {
        self.lock()
            .lines
            .iter()
            .rev()
            .find(|line| severity(line).is_some())
            .cloned()
    }

    /// When the last line came (or the reading began).
    pub fn last_at(&self) -> Instant {
        self.lock().last_at
    }

    fn read(&self, mut reader: impl BufRead) {
        let mut level = Level::DEBUG;
        while let Some(line) = next_line(&mut reader) {
            level = severity(&line).unwrap_or(level);
            log(level, &line);
            self.push(line);
        }
    }

    fn push(&self, line: String) {
        let mut tail = self.lock();
        if tail.lines.len() == LINES_MAX {
            tail.lines.pop_front();
        }
        tail.lines.push_back(line);
        tail.last_at = Instant::now();
    }

    fn lock(&self) -> MutexGuard<'_, Tail> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The next line without its end, cut at [`LINE_BYTES_MAX`]; nothing at the end or on an error.
fn next_line(reader: &mut impl BufRead) -> Option<String> {
    let mut line = Vec::new();
    loop {
        let chunk = match reader.fill_buf() {
            Ok([]) if line.is_empty() => return None,
            Ok([]) => break,
            Ok(chunk) => chunk,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(_) => return None,
        };
        let end = chunk.iter().position(|&byte| byte == b'\n');
        let part = &chunk[..end.unwrap_or(chunk.len())];
        let room = LINE_BYTES_MAX - line.len();
        line.extend_from_slice(&part[..part.len().min(room)]);
        let used = part.len() + usize::from(end.is_some());
        reader.consume(used);
        if end.is_some() {
            break;
        }
    }
    Some(String::from_utf8_lossy(&line).into_owned())
}

/// How loud a message is in our log; nothing for a line that goes on with the message before it.
fn severity(line: &str) -> Option<Level> {
    let (word, text) = line.split_once(":  ")?;
    match word {
        // Who connects too early or while it stops is told so, and tries again.
        "FATAL" if text.starts_with("the database system is ") => Some(Level::DEBUG),
        "PANIC" => Some(Level::ERROR),
        "FATAL" | "ERROR" | "WARNING" => Some(Level::WARN),
        "LOG" | "INFO" | "NOTICE" => Some(Level::DEBUG),
        _ => None,
    }
}

fn log(level: Level, line: &str) {
    match level {
        Level::ERROR => tracing::error!(target: "postgres", "{line}"),
        Level::WARN => tracing::warn!(target: "postgres", "{line}"),
        Level::INFO => tracing::info!(target: "postgres", "{line}"),
        _ => tracing::debug!(target: "postgres", "{line}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_as_loud_as_its_first_line() {
        assert_eq!(
            severity("PANIC:  could not write to file"),
            Some(Level::ERROR)
        );
        assert_eq!(
            severity("ERROR:  relation does not exist"),
            Some(Level::WARN)
        );
        assert_eq!(
            severity("LOG:  duration: 612.1 ms  statement: select"),
            Some(Level::DEBUG)
        );
        assert_eq!(
            severity("FATAL:  the database system is starting up"),
            Some(Level::DEBUG)
        );
        assert_eq!(severity("DETAIL:  Key (id)=(1) already exists."), None);
        assert_eq!(severity("\tcontinued"), None);
    }

    #[test]
    fn the_last_lines_are_kept_and_long_ones_cut() {
        let mut text: String = (0..100).map(|n| format!("LOG:  line {n}\n")).collect();
        text.push_str(&"x".repeat(3 * LINE_BYTES_MAX));
        text.push_str("\nDETAIL:  the end");
        let tail = LogTail::empty();
        // A small buffer, so that lines come in pieces.
        tail.read(BufReader::with_capacity(7, text.as_bytes()));
        let kept = tail.text();
        let lines: Vec<&str> = kept.lines().collect();
        assert_eq!(lines.len(), LINES_MAX);
        assert_eq!(lines[LINES_MAX - 1], "DETAIL:  the end");
        assert_eq!(lines[LINES_MAX - 2].len(), LINE_BYTES_MAX);
        assert_eq!(tail.last_message().as_deref(), Some("LOG:  line 99"));
    }
}
