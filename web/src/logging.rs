//! What is logged, where, and how it looks: to standard error, one line per event.

use std::io::{self, IsTerminal, Write};

use clap::{Args, ValueEnum};
use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Libraries speak up only when something is wrong.
const LEVELS: &str = "info,sqlx=error,hyper=warn,h2=warn,opentelemetry=warn";

/// How logs are written.
#[derive(Args, Clone, Debug, Default)]
pub struct LogOptions {
    /// How log lines look; they go to standard error [default: text on a terminal, else json].
    #[arg(
        long,
        env = "CULPRIT_LOG_FORMAT",
        global = true,
        value_name = "FORMAT",
        help_heading = "Logs"
    )]
    pub log_format: Option<LogFormat>,
    /// What is logged: error, warn, info, debug or trace, also by part, as in
    /// info,collector::journal=debug [default: info, libraries less].
    #[arg(
        long,
        env = "CULPRIT_LOG",
        global = true,
        value_name = "LEVELS",
        help_heading = "Logs"
    )]
    pub log_level: Option<String>,
}

/// How a log line looks.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// For people, coloured on a terminal.
    Text,
    /// For machines: one JSON object a line, with timestamp, level, target and fields.
    Json,
}

/// Logs from now on.
///
/// # Errors
/// The levels make no sense: which part.
pub fn start(options: &LogOptions) -> anyhow::Result<()> {
    let is_terminal = io::stderr().is_terminal();
    let format = options.log_format.unwrap_or(match is_terminal {
        true => LogFormat::Text,
        false => LogFormat::Json,
    });
    let filter = filter(options.log_level.as_deref())?;
    let subscriber = subscriber(format, filter, is_terminal, io::stderr);
    tracing::subscriber::set_global_default(subscriber)?;
    Ok(())
}

fn filter(levels: Option<&str>) -> anyhow::Result<EnvFilter> {
    let Some(levels) = levels.filter(|it| !it.trim().is_empty()) else {
        return Ok(EnvFilter::new(LEVELS));
    };
    EnvFilter::try_new(levels)
        .map_err(|error| anyhow::anyhow!("--log-level {levels:?} is not understood: {error}"))
}

fn subscriber<W, S>(
    format: LogFormat,
    filter: EnvFilter,
    colours: bool,
    out: W,
) -> Box<dyn Subscriber + Send + Sync>
where
    W: Fn() -> S + Send + Sync + 'static,
    S: Write + 'static,
{
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colours)
        .with_writer(OneLine { out, colours });
    match format {
        LogFormat::Text => Box::new(log.with_target(false).compact().finish()),
        LogFormat::Json => Box::new(log.json().flatten_event(true).finish()),
    }
}

/// Keeps an event on its line, whatever somebody wrote into a span's name: what would end the line,
/// or move a terminal's cursor, is written as an escape (JSON's, which text has room for too).
/// Colours are left to terminals.
struct OneLine<W> {
    out: W,
    colours: bool,
}

impl<'a, W, S> MakeWriter<'a> for OneLine<W>
where
    W: Fn() -> S,
    S: Write,
{
    type Writer = Line<S>;

    fn make_writer(&'a self) -> Line<S> {
        Line {
            out: (self.out)(),
            colours: self.colours,
        }
    }
}

/// Takes one event in one write, as the formatter gives it.
struct Line<S> {
    out: S,
    colours: bool,
}

impl<S: Write> Write for Line<S> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let line = text.strip_suffix('\n').unwrap_or(&text);
        let mut written = String::with_capacity(line.len() + 1);
        for (at, it) in line.char_indices() {
            let allowed = it == '\t' || self.colours && is_colour(&line[at..]);
            match it.is_control() && !allowed {
                true => written.push_str(&format!("\\u{:04x}", it as u32)),
                false => written.push(it),
            }
        }
        written.push('\n');
        self.out.write_all(written.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Whether a text begins with what sets a terminal's colours, and nothing else.
fn is_colour(text: &str) -> bool {
    let Some(parameters) = text.strip_prefix("\u{1b}[") else {
        return false;
    };
    let end = parameters.trim_start_matches(|it: char| it.is_ascii_digit() || it == ';');
    end.starts_with('m')
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is logged of two events that hold what a sender wrote.
    fn logged(format: LogFormat, colours: bool) -> String {
        let buffer = Buffer::default();
        let out = buffer.clone();
        let subscriber = subscriber(format, filter(None).unwrap(), colours, move || out.clone());
        let hostile = "GET /\u{1b}[2J\r\n2026-01-01 ERROR forged\u{9b}31m\u{7}\u{2028}";
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(name = hostile, shown = %hostile, "a span is odd: {hostile}");
            tracing::info!("next");
        });
        let bytes = buffer.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn what_a_sender_wrote_forges_no_line_and_moves_no_cursor() {
        for format in [LogFormat::Text, LogFormat::Json] {
            let text = logged(format, false);
            assert_eq!(text.lines().count(), 2, "{text:?}");
            assert!(text.ends_with('\n'), "{text:?}");
            let odd = text.chars().find(|it| it.is_control() && *it != '\n');
            assert_eq!(odd, None, "{text:?}");
        }
    }

    #[test]
    fn a_terminal_gets_colours_and_nothing_else() {
        let text = logged(LogFormat::Text, true);
        assert!(text.contains("\u{1b}[33m"), "{text:?}");
        assert!(!text.contains("\u{1b}[2J"), "{text:?}");
    }

    #[test]
    fn json_lines_have_their_fields() {
        let text = logged(LogFormat::Json, false);
        let line: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!(line["level"], "WARN");
        assert!(
            line["name"].as_str().unwrap().starts_with("GET /"),
            "{line}"
        );
        assert!(line["timestamp"].is_string(), "{line}");
    }

    #[test]
    fn levels_that_make_no_sense_are_named() {
        let error = filter(Some("collector=loud")).unwrap_err().to_string();
        assert!(error.contains("collector=loud"), "{error}");
    }
}
