//! The only place that writes to standard output and standard error.
//!
//! Standard output is data. Everything else (log lines, progress, failures) goes to standard error, in one of
//! two forms: lines for people, or one JSON object a line with `--progress json`.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::sync::Arc;

use clap::ValueEnum;
use indicatif::{MultiProgress, ProgressDrawTarget};
use serde::Serialize;
use serde_json::json;
use tracing::field::{Field, Visit};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::failure::Failure;
use crate::progress::{Progress, ProgressStyle};
use crate::terminal::{Terminal, printable};
use crate::timestamp;

/// The version of the JSON lines, see `docs/schemas/progress.schema.json`.
pub const PROGRESS_SCHEMA: &str = "ocne.progress/1";

/// What is logged; each level holds those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum LogLevel {
    /// What failed
    Error,
    /// What may surprise
    #[value(alias = "warning")]
    Warn,
    /// What is being done
    Info,
    /// Why, and with what
    Debug,
    /// Everything
    Trace,
}

impl From<LogLevel> for tracing::level_filters::LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

/// How a verb wants to be heard.
#[derive(Debug, Clone, Copy, Default)]
pub struct OutputStyle {
    /// No log lines and no progress; a result that is data is printed bare.
    pub quiet: bool,
    /// The form of progress.
    pub progress: ProgressStyle,
}

/// Writes what the verbs have to say.
#[derive(Debug)]
pub struct Printer {
    terminal: Terminal,
    bars: MultiProgress,
    style: OutputStyle,
}

impl Printer {
    /// A printer that also renders what the libraries log. Made once.
    pub fn new(log_level: Option<LogLevel>, style: OutputStyle) -> Self {
        let terminal = Terminal::detect();
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::hidden());
        let level = log_level.unwrap_or(if style.quiet { LogLevel::Error } else { LogLevel::Info });
        // Bars among the lines of a debugging run only tear them apart.
        let progress = style.progress.resolve(terminal.interactive && level <= LogLevel::Info, style.quiet);
        if progress == ProgressStyle::Bar {
            bars.set_draw_target(ProgressDrawTarget::stderr());
        }
        let style = OutputStyle { progress, ..style };
        let format = LogFormat { json: style.progress == ProgressStyle::Json, colour: terminal.colour };
        let layer =
            tracing_subscriber::fmt::layer().event_format(format).with_writer(LogWriter(bars.clone()));
        let libraries = Targets::new()
            .with_targets(["h2", "hyper_util", "tower"].map(|name| (name, tracing::Level::WARN)))
            // It calls every answer that is tried again an error; those that count reach us as values.
            .with_target("kube_client", tracing::level_filters::LevelFilter::OFF);
        let filter = libraries.with_default(tracing::level_filters::LevelFilter::from(level));
        // Only a second printer in one process could fail here, and it would log as the first does.
        let _ = tracing_subscriber::registry().with(layer).with(filter).try_init();
        Self { terminal, bars, style }
    }

    /// Whether results are printed bare.
    pub fn quiet(&self) -> bool {
        self.style.quiet
    }

    /// A renderer of a build's events.
    pub fn progress(&self) -> Arc<Progress> {
        Arc::new(Progress::new(self.style.progress, self.terminal, self.bars.clone()))
    }

    /// Prints data as it is.
    #[expect(clippy::unused_self, reason = "who prints data needs the printer, as with everything else")]
    pub fn data(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        match out.write_all(bytes).and_then(|()| out.flush()) {
            // A reader that has seen enough, such as `head`, is not a failure.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Err(e) => Err(Failure::message("cannot write to standard output", &e)),
            Ok(()) => Ok(()),
        }
    }

    /// Prints a line of data.
    pub fn line(&self, text: &str) -> Result<(), Failure> {
        self.data(format!("{text}\n").as_bytes())
    }

    /// Prints data as indented JSON.
    pub fn json<T: Serialize>(&self, data: &T) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(data).map_err(|e| Failure::new(&e))?;
        self.line(&text)
    }

    /// Prints data as YAML.
    pub fn yaml<T: Serialize>(&self, data: &T) -> Result<(), Failure> {
        let text = serde_saphyr::to_string(data).map_err(|e| Failure::new(&e))?;
        self.line(text.trim_end())
    }

    /// Says why the run did not succeed.
    pub fn failure(&self, failure: &Failure) {
        let text = if self.style.progress == ProgressStyle::Json {
            json_line(&json!({
                "event": "error", "message": failure.text(), "causes": failure.causes(),
                "hint": failure.hint(), "exit_code": failure.exit_code(),
            }))
        } else {
            failure_lines(failure, self.terminal.colour)
        };
        write_stderr(&self.bars, text.as_bytes());
    }
}

fn failure_lines(failure: &Failure, colour: bool) -> String {
    let paint =
        |code: &str, text: &str| if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() };
    let mut text = format!("{} {}\n", paint("1;31", "error:"), printable(failure.text()));
    for cause in failure.causes() {
        let _ = writeln!(text, "  caused by: {}", printable(cause));
    }
    if let Some(hint) = failure.hint() {
        let _ = writeln!(text, "{} {}", paint("1;36", "hint:"), printable(hint));
    }
    text
}

/// One record of `--progress json`: the schema and the time are added to `fields`.
pub fn json_line(fields: &serde_json::Value) -> String {
    let mut record = json!({ "schema": PROGRESS_SCHEMA, "time": timestamp::now() });
    if let (Some(all), Some(fields)) = (record.as_object_mut(), fields.as_object()) {
        all.extend(fields.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), v.clone())));
    }
    format!("{record}\n")
}

/// Writes to standard error without tearing the bars; a closed standard error is nobody's failure.
pub fn write_stderr(bars: &MultiProgress, bytes: &[u8]) {
    bars.suspend(|| {
        let _ = io::stderr().lock().write_all(bytes);
    });
}

/// Gives the log lines a way past the bars.
#[derive(Debug, Clone)]
struct LogWriter(MultiProgress);

impl io::Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        write_stderr(&self.0, bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = Self;
    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// `INFO[2024-07-05T16:01:56Z] Creating Image`, as the reference prints, or a JSON object.
#[derive(Debug)]
struct LogFormat {
    json: bool,
    colour: bool,
}

impl<S, N> FormatEvent<S, N> for LogFormat
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &tracing::Event<'_>,
    ) -> std::fmt::Result {
        let mut text = LogText::default();
        event.record(&mut text);
        let message = format!("{}{}", text.message, text.fields);
        let (level, name, code) = match *event.metadata().level() {
            tracing::Level::ERROR => ("ERRO", "error", "31"),
            tracing::Level::WARN => ("WARN", "warn", "33"),
            tracing::Level::INFO => ("INFO", "info", "36"),
            tracing::Level::DEBUG => ("DEBU", "debug", "90"),
            tracing::Level::TRACE => ("TRAC", "trace", "90"),
        };
        if self.json {
            return writer
                .write_str(&json_line(&json!({ "event": "log", "level": name, "message": message })));
        }
        let (now, message) = (timestamp::now(), printable(&message));
        if self.colour {
            writeln!(writer, "\x1b[{code}m{level}\x1b[0m[{now}] {message}")
        } else {
            writeln!(writer, "{level}[{now}] {message}")
        }
    }
}

#[derive(Debug, Default)]
struct LogText {
    message: String,
    fields: String,
}

impl Visit for LogText {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        } else {
            let _ = write!(self.fields, " {}={value:?}", field.name());
        }
    }
}
