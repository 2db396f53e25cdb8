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
        .with_writer(OneLine(out));
    match format {
        LogFormat::Text => Box::new(log.with_target(false).compact().finish()),
        LogFormat::Json => Box::new(log.json().flatten_event(true).finish()),
    }
}

/// Keeps an event on its line, whatever somebody wrote into a span's name: what would end the line,
/// or move a terminal's cursor, is written as an escape. Terminals' colours are the formatter's own;
/// it escapes those in values itself.
struct OneLine<W>(W);

impl<'a, W, S> MakeWriter<'a> for OneLine<W>
where
    W: Fn() -> S,
    S: Write,
{
    type Writer = Line<S>;

    fn make_writer(&'a self) -> Line<S> {
        Line(self.0())
    }
}

/// Takes one event in one write, as the formatter gives it.
struct Line<S>(S);

impl<S: Write> Write for Line<S> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let line = text.strip_suffix('\n').unwrap_or(&text);
        let mut written = String::with_capacity(line.len() + 1);
        for it in line.chars() {
            if it.is_control() && !matches!(it, '\t' | '\u{1b}') {
                written.extend(it.escape_default());
            } else {
                written.push(it);
            }
        }
        written.push('\n');
        self.0.write_all(written.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
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
    fn logged(format: LogFormat) -> String {
        let buffer = Buffer::default();
        let out = buffer.clone();
        let subscriber = subscriber(format, filter(None).unwrap(), false, move || out.clone());
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
            let text = logged(format);
            assert_eq!(text.lines().count(), 2, "{text:?}");
            assert!(text.ends_with('\n'), "{text:?}");
            let odd = text.chars().find(|it| it.is_control() && *it != '\n');
            assert_eq!(odd, None, "{text:?}");
        }
    }

    #[test]
    fn json_lines_have_their_fields() {
        let text = logged(LogFormat::Json);
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
