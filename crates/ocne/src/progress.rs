//! Progress of a build: bars on a terminal, plain lines elsewhere, or JSON lines.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle as BarStyle};
use ocne_build::{Event, Stage};
use serde_json::json;
use tracing::{info, warn};

use crate::printer::{json_line, write_stderr};
use crate::terminal::Terminal;

/// Nobody reads more lines than this.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);
/// Enough for a program to draw with.
const JSON_INTERVAL: Duration = Duration::from_millis(200);

/// The form of progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum ProgressStyle {
    /// Bars on a terminal, plain lines elsewhere
    #[default]
    Auto,
    /// One bar for each stage
    Bar,
    /// A line at most every 10 s
    Plain,
    /// JSON lines; their schema is docs/schemas/progress.schema.json
    Json,
    /// Nothing
    None,
}

impl ProgressStyle {
    /// The form that is used on this standard error; never `Auto`.
    pub fn resolve(self, interactive: bool, quiet: bool) -> Self {
        match self {
            Self::Auto if quiet => Self::None,
            Self::Auto if interactive => Self::Bar,
            Self::Auto => Self::Plain,
            chosen => chosen,
        }
    }
}

/// Renders events.
#[derive(Debug)]
pub struct Progress {
    style: ProgressStyle,
    terminal: Terminal,
    bars: MultiProgress,
    stages: Mutex<HashMap<Stage, StageView>>,
}

#[derive(Debug)]
struct StageView {
    started: Instant,
    last_line: Instant,
    total_bytes: Option<u64>,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// A renderer in a resolved style.
    pub fn new(style: ProgressStyle, terminal: Terminal, bars: MultiProgress) -> Self {
        Self { style, terminal, bars, stages: Mutex::default() }
    }

    /// Renders one event. May be called from any thread.
    pub fn handle(&self, event: &Event) {
        match event {
            Event::Begin { stage, total_bytes } => self.begin(*stage, *total_bytes),
            Event::Bytes { stage, done_bytes } => self.bytes(*stage, *done_bytes),
            Event::End { stage, elapsed, bytes } => self.end(*stage, *elapsed, *bytes),
            Event::Note(text) => info!("{text}"),
            Event::Warning(text) => warn!("{text}"),
        }
    }

    fn begin(&self, stage: Stage, total_bytes: Option<u64>) {
        let now = Instant::now();
        let bar = (self.style == ProgressStyle::Bar).then(|| self.bars.add(self.bar(stage, total_bytes)));
        let view = StageView { started: now, last_line: now, total_bytes, bar };
        self.stages.lock().unwrap_or_else(PoisonError::into_inner).insert(stage, view);
        self.json(&json!({ "event": "begin", "stage": stage.name(), "total_bytes": total_bytes }));
    }

    fn bytes(&self, stage: Stage, done_bytes: u64) {
        let mut stages = self.stages.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(view) = stages.get_mut(&stage) else { return };
        if let Some(bar) = &view.bar {
            bar.set_position(done_bytes);
        }
        let interval = if self.style == ProgressStyle::Json { JSON_INTERVAL } else { PLAIN_INTERVAL };
        if view.last_line.elapsed() < interval {
            return;
        }
        view.last_line = Instant::now();
        let (elapsed, total_bytes) = (view.started.elapsed(), view.total_bytes);
        drop(stages);
        match self.style {
            ProgressStyle::Plain => info!("{}: {}", stage.label(), amount(done_bytes, total_bytes, elapsed)),
            ProgressStyle::Json => self.json(&json!({
                "event": "bytes", "stage": stage.name(), "done_bytes": done_bytes, "total_bytes": total_bytes,
            })),
            _ => {}
        }
    }

    fn end(&self, stage: Stage, elapsed: Duration, bytes: Option<u64>) {
        let view = self.stages.lock().unwrap_or_else(PoisonError::into_inner).remove(&stage);
        if let Some(bar) = view.and_then(|v| v.bar) {
            bar.finish_and_clear();
            self.bars.remove(&bar);
        }
        if self.style == ProgressStyle::Json {
            self.json(&json!({
                "event": "end", "stage": stage.name(), "bytes": bytes,
                "elapsed_ms": u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            }));
            return;
        }
        let seconds = elapsed.as_secs_f64();
        if let Some(bytes) = bytes {
            info!("{}: ok ({}, {seconds:.1} s)", stage.label(), size(bytes));
        } else {
            info!("{}: ok", stage.label());
        }
    }

    fn json(&self, fields: &serde_json::Value) {
        if self.style == ProgressStyle::Json {
            write_stderr(&self.bars, json_line(fields).as_bytes());
        }
    }

    fn bar(&self, stage: Stage, total_bytes: Option<u64>) -> ProgressBar {
        let bar = match total_bytes {
            Some(total) => ProgressBar::new(total),
            None => ProgressBar::new_spinner(),
        };
        let paint = if self.terminal.colour { ".cyan" } else { "" };
        let template = match total_bytes {
            Some(_) => format!(
                "{{prefix:<26}} [{{wide_bar{paint}}}] {{binary_bytes:>10}} of {{binary_total_bytes}} {{binary_bytes_per_sec:>12}} {{eta:>4}}"
            ),
            None => format!("{{prefix:<26}} {{spinner{paint}}} {{elapsed}}"),
        };
        let style = BarStyle::with_template(&template).unwrap_or_else(|_| BarStyle::default_bar());
        let style = if self.terminal.unicode {
            style.progress_chars("█▉▊▋▌▍▎▏ ")
        } else {
            style.progress_chars("#> ").tick_chars("|/-\\ ")
        };
        bar.set_style(style);
        bar.set_prefix(stage.label());
        bar.enable_steady_tick(Duration::from_millis(100));
        bar
    }
}

/// A count of bytes for people: `1.3 GiB`.
pub fn size(bytes: u64) -> String {
    let mut whole = bytes;
    let mut rest = 0;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if whole < 1024 {
            break;
        }
        (whole, rest, unit) = (whole / 1024, whole % 1024, next);
    }
    if unit == "B" { format!("{whole} B") } else { format!("{whole}.{} {unit}", rest * 10 / 1024) }
}

/// `45 % of 1.3 GiB, 850.0 MiB/s, 1 s left`.
fn amount(done_bytes: u64, total_bytes: Option<u64>, elapsed: Duration) -> String {
    let milliseconds = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
    let rate = done_bytes.saturating_mul(1000) / milliseconds;
    match total_bytes {
        Some(total) if total > 0 => {
            let left = total.saturating_sub(done_bytes) / rate.max(1);
            let percent = u128::from(done_bytes) * 100 / u128::from(total);
            format!("{percent} % of {}, {}/s, {left} s left", size(total), size(rate))
        }
        _ => format!("{}, {}/s", size(done_bytes), size(rate)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{amount, size};

    #[test]
    fn sizes() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(15 << 30), "15.0 GiB");
    }

    #[test]
    fn amounts() {
        let second = Duration::from_secs(1);
        assert_eq!(amount(1 << 29, Some(1 << 30), second), "50 % of 1.0 GiB, 512.0 MiB/s, 1 s left");
        assert_eq!(amount(0, Some(1 << 20), Duration::ZERO), "0 % of 1.0 MiB, 0 B/s, 1048576 s left");
        assert_eq!(amount(2048, None, second), "2.0 KiB, 2.0 KiB/s");
    }
}
