//! `culprit exec`: a command's spans, received in memory while it runs, then the report of `analyze`.
//!
//! ```text
//! culprit   bind | set the environment | forward signals … | wait for stragglers | report
//! command                              |----- spans over OTLP ----->|
//! ```

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use collector::receiver::{self, Counts, Kept, Memory, Receiver};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, getpgrp, tcgetpgrp};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::offline::paint::printable_lines;
use crate::offline::read::Spans;
use crate::offline::{self, ReportOptions};

/// What `exec` can be told.
#[derive(Args, Clone, Debug)]
pub struct ExecOptions {
    /// What is reported, and what fails.
    #[command(flatten)]
    pub report: ReportOptions,
    /// The command and its arguments.
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    pub command: Vec<OsString>,
}

/// Bytes of spans that are kept of a run, as OTLP: about a million spans. Further ones are counted and left
/// out, and the report says so.
const KEPT_BYTES_MAX: usize = 512 << 20;

/// After the command's end spans are waited for until none has come for so long: an exporter of a child
/// process may still be at it.
const QUIET: Duration = Duration::from_millis(250);

/// … but no longer than this.
const STRAGGLERS_MAX: Duration = Duration::from_secs(5);

/// How long the receiver may take to close; whoever keeps a connection longer has nothing to send.
const CLOSE_MAX: Duration = Duration::from_secs(1);

/// Runs the command and reports.
///
/// # Errors
/// The command cannot be started, or the report cannot be written.
pub async fn run(options: &ExecOptions) -> anyhow::Result<ExitCode> {
    let ignored = options.report.ignored()?;
    options.report.check_output()?;
    let memory = Memory::new(KEPT_BYTES_MAX);
    let receiver = Receiver::new(memory.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.context("no port of 127.0.0.1 can be opened to receive spans on")?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    let shutdown = CancellationToken::new();
    // Both protocols are spoken on every port.
    let serving = receiver::serve(listener, receiver.clone(), shutdown.clone());
    let serving = tokio::spawn(serving);
    let ran = run_command(&options.command, &endpoint).await;
    let (ended, mut signals) = match ran {
        Ok(ran) => ran,
        Err(error) => return not_started(error),
    };
    // From now on Ctrl-C is meant for us.
    tokio::spawn(async move {
        let signal = signals.next().await;
        std::process::exit(128 + signal as i32);
    });
    await_stragglers(&memory, &receiver).await;
    shutdown.cancel();
    let _ = tokio::time::timeout(CLOSE_MAX, serving).await;

    let kept = memory.take();
    if kept.spans == 0 {
        let told = nothing_came(&receiver.stats().counts());
        eprintln!("culprit: {}", printable_lines(&told));
        return Ok(own_code(ended).unwrap_or(ExitCode::from(NO_SPANS)));
    }
    let (spans, dropped) = spans(kept, &receiver.stats().counts())?;
    let failing =
        tokio::task::block_in_place(|| offline::tell(&spans, dropped, &ignored, &options.report));
    let failing = failing?;
    Ok(own_code(ended).unwrap_or_else(|| offline::exit_code(failing)))
}

/// Exit code if nothing could be analysed, as for wrong usage: it is not clean.
const NO_SPANS: u8 = 2;

fn spans(kept: Kept, seen: &Counts) -> anyhow::Result<(Spans, u64)> {
    let mut spans = Spans {
        rejected: seen.rejected_spans,
        ..Spans::default()
    };
    spans.add(kept.requests)?;
    Ok((spans, kept.dropped_spans))
}

/// The command's exit code, if it failed. A signal is told as shells tell it.
fn own_code(ended: ExitStatus) -> Option<ExitCode> {
    if ended.success() {
        return None;
    }
    let code = ended.code().or_else(|| ended.signal().map(|it| 128 + it));
    let code = code.and_then(|it| u8::try_from(it).ok());
    Some(ExitCode::from(code.unwrap_or(1)))
}

/// As shells tell it: 127 if there is no such command, 126 if it may not be executed.
fn not_started(error: anyhow::Error) -> anyhow::Result<ExitCode> {
    let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
    let code = match kind {
        Some(io::ErrorKind::NotFound) => 127,
        Some(io::ErrorKind::PermissionDenied) => 126,
        _ => return Err(error),
    };
    eprintln!("culprit: {}", printable_lines(&format!("{error:#}")));
    Ok(ExitCode::from(code))
}

async fn run_command(
    command: &[OsString],
    endpoint: &str,
) -> anyhow::Result<(ExitStatus, Signals)> {
    let (program, arguments) = command.split_first().context("no command is given")?;
    let mut command = Command::new(program);
    command.args(arguments);
    let variable = |name: &str| std::env::var(name).ok().filter(|it| !it.is_empty());
    for (name, value) in environment(endpoint, &default_service(program), variable) {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    // Before the command starts: its first signal may be ours to forward.
    let mut signals = Signals::new()?;
    // Without a terminal nobody but us tells the command's own children of a signal.
    let own_group = !is_in_foreground();
    if own_group {
        command.process_group(0);
    }
    let mut child = command.spawn().with_context(|| {
        let program = program.to_string_lossy();
        format!("{program} cannot be started (is it installed and on your PATH?)")
    })?;
    loop {
        tokio::select! {
            ended = child.wait() => return Ok((ended?, signals)),
            signal = signals.next() => forward(signal, &child, own_group),
        }
    }
}

/// What ends a command, and is not to end us before it.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
    quit: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::SIGINT,
            _ = self.terminate.recv() => Signal::SIGTERM,
            _ = self.hangup.recv() => Signal::SIGHUP,
            _ = self.quit.recv() => Signal::SIGQUIT,
        }
    }
}

/// To the command and, if it has a process group of its own, to all it has started. A terminal has told a
/// command in our group of Ctrl-C itself; a second one would make it give up its own way out.
fn forward(signal: Signal, child: &Child, own_group: bool) {
    let by_key = matches!(signal, Signal::SIGINT | Signal::SIGQUIT);
    if by_key && !own_group && is_in_foreground() {
        return;
    }
    let pid = child.id().and_then(|it| i32::try_from(it).ok());
    if let Some(pid) = pid {
        // It may have ended just now.
        let _ = match own_group {
            true => killpg(Pid::from_raw(pid), signal),
            false => kill(Pid::from_raw(pid), signal),
        };
    }
}

fn is_in_foreground() -> bool {
    let terminal = File::open("/dev/tty");
    terminal.is_ok_and(|it| tcgetpgrp(&it) == Ok(getpgrp()))
}

/// The directory's name, as people name projects; else the program's.
fn default_service(program: &OsString) -> String {
    let directory = std::env::current_dir().ok();
    let name = directory.as_deref().and_then(|it| it.file_name());
    let program = || std::path::Path::new(program).file_name();
    let name = name.or_else(program).unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// What the command's SDK is told: names and values; `None` takes one away that would lead elsewhere.
/// `variable` asks for what is set already.
fn environment(
    endpoint: &str,
    service: &str,
    variable: impl Fn(&str) -> Option<String>,
) -> Vec<(&'static str, Option<String>)> {
    let wanted = variable("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
        .or_else(|| variable("OTEL_EXPORTER_OTLP_PROTOCOL"));
    // Every SDK has it; gRPC needs a package of its own in some.
    let protocol = wanted.filter(|it| ["grpc", "http/json"].contains(&it.as_str()));
    let protocol = protocol.unwrap_or_else(|| "http/protobuf".into());
    let mut set: Vec<(&'static str, Option<String>)> = vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT", Some(endpoint.into())),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", Some(protocol)),
        ("OTEL_TRACES_EXPORTER", Some("otlp".into())),
        ("OTEL_METRICS_EXPORTER", Some("none".into())),
        ("OTEL_LOGS_EXPORTER", Some("none".into())),
        // All of them: a test has one request of a kind.
        ("OTEL_TRACES_SAMPLER", Some("always_on".into())),
    ];
    let elsewhere = [
        "OTEL_SDK_DISABLED",
        "OTEL_TRACES_SAMPLER_ARG",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
        "OTEL_EXPORTER_OTLP_HEADERS",
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
        "OTEL_EXPORTER_OTLP_CERTIFICATE",
        "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE",
    ];
    set.extend(elsewhere.map(|it| (it, None)));
    let unless_set = [
        // Little is then left to send when the command ends, or is ended.
        ("OTEL_BSP_SCHEDULE_DELAY", "200"),
        // Tests make spans in bursts; beyond 2,048 waiting ones SDKs drop them silently.
        ("OTEL_BSP_MAX_QUEUE_SIZE", "65536"),
    ];
    for (name, value) in unless_set {
        if variable(name).is_none() {
            set.push((name, Some(value.into())));
        }
    }
    let attributes = variable("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
    if variable("OTEL_SERVICE_NAME").is_none() && !attributes.contains("service.name=") {
        set.push(("OTEL_SERVICE_NAME", Some(service.into())));
    }
    // A proxy would be asked for our port, too.
    for (proxies, exceptions) in [
        (["HTTP_PROXY", "ALL_PROXY"], "NO_PROXY"),
        (["http_proxy", "all_proxy"], "no_proxy"),
    ] {
        if proxies.iter().any(|it| variable(it).is_some()) {
            let before = variable(exceptions).map(|it| it + ",").unwrap_or_default();
            set.push((exceptions, Some(before + "127.0.0.1,localhost")));
        }
    }
    set
}

/// Returns when nothing is being received and nothing has come for a while.
async fn await_stragglers(memory: &Memory, receiver: &Receiver) {
    let since = Instant::now();
    while since.elapsed() < STRAGGLERS_MAX {
        let arrived = tokio::time::timeout(QUIET, memory.arrival()).await;
        if arrived.is_err() && receiver.in_flight_bytes() == 0 {
            return;
        }
    }
}

/// What to do if there is nothing to report.
fn nothing_came(seen: &Counts) -> String {
    let refused = seen.malformed + seen.too_large + seen.unsupported + seen.overloaded;
    let rejected = seen.rejected_spans;
    if refused + rejected > 0 {
        let why = seen.last_problem.as_ref().map(|it| it.message.as_str());
        return format!(
            "no valid spans came: {rejected} spans and {refused} requests were refused{}",
            why.map(|it| format!(", the last one because: {it}"))
                .unwrap_or_default()
        );
    }
    NOTHING.to_owned()
}

const NOTHING: &str = "\
no spans came, so there is nothing to say about this run. The command must be instrumented with OpenTelemetry:

  Python   pip install opentelemetry-distro opentelemetry-exporter-otlp
           opentelemetry-bootstrap --action=install
           culprit exec -- opentelemetry-instrument pytest
  Node     npm install --save-dev @opentelemetry/auto-instrumentations-node
           NODE_OPTIONS='--require @opentelemetry/auto-instrumentations-node/register' culprit exec -- npm test
  Java     JAVA_TOOL_OPTIONS=-javaagent:opentelemetry-javaagent.jar culprit exec -- mvn test
  Ruby     gems opentelemetry-sdk, opentelemetry-exporter-otlp, opentelemetry-instrumentation-all;
           OpenTelemetry::SDK.configure(&:use_all)
  .NET     the OpenTelemetry.AutoInstrumentation package, or AddOtlpExporter() in the tests' host
  PHP      the opentelemetry extension and OTEL_PHP_AUTOLOAD_ENABLED=true
  Go, Rust set up the SDK with its OTLP exporter in the tests' main, and shut it down at the end

If it is instrumented: does it end before its exporter sends (shut the tracer provider down), does its code
set another endpoint, or does it run where this machine's 127.0.0.1 is not its own (a container)?";

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn told(already: &[(&str, &str)]) -> HashMap<&'static str, Option<String>> {
        let variable = |name: &str| {
            let found = already.iter().find(|it| it.0 == name);
            found.map(|it| it.1.to_owned())
        };
        environment("http://here", "shop", variable)
            .into_iter()
            .collect()
    }

    fn value(told: &HashMap<&'static str, Option<String>>, name: &str) -> Option<String> {
        told.get(name).cloned().flatten()
    }

    #[test]
    fn the_environment_leads_here_and_nowhere_else() {
        let told = told(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://elsewhere")]);
        let is = |name: &str, expected: &str| {
            assert_eq!(value(&told, name).as_deref(), Some(expected), "{name}");
        };
        is("OTEL_EXPORTER_OTLP_ENDPOINT", "http://here");
        is("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
        is("OTEL_TRACES_SAMPLER", "always_on");
        is("OTEL_SERVICE_NAME", "shop");
        assert_eq!(told["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"], None);
        assert!(!told.contains_key("NO_PROXY"));
    }

    #[test]
    fn what_the_user_chose_stays() {
        let told = told(&[
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=blog"),
            ("OTEL_BSP_SCHEDULE_DELAY", "50"),
            ("http_proxy", "http://proxy"),
            ("no_proxy", "intranet"),
        ]);
        assert_eq!(
            value(&told, "OTEL_EXPORTER_OTLP_PROTOCOL").as_deref(),
            Some("grpc")
        );
        assert!(!told.contains_key("OTEL_SERVICE_NAME"));
        assert!(!told.contains_key("OTEL_BSP_SCHEDULE_DELAY"));
        assert_eq!(
            value(&told, "no_proxy").as_deref(),
            Some("intranet,127.0.0.1,localhost")
        );
    }
}
