//! Progress of a build or an upload: bars on a terminal, plain lines elsewhere, or JSON lines.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle as BarStyle};
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
    stages: Mutex<HashMap<&'static str, StageView>>,
    /// Parts of stages that are not done.
    parts: Mutex<HashMap<String, PartView>>,
}

#[derive(Debug)]
struct PartView {
    last_line: Instant,
    bar: Option<ProgressBar>,
}

/// A part of a run, by its names for programs and for people.
#[derive(Debug, Clone, Copy)]
struct Stage {
    name: &'static str,
    label: &'static str,
}

impl From<ocne_build::Stage> for Stage {
    fn from(stage: ocne_build::Stage) -> Self {
        Self { name: stage.name(), label: stage.label() }
    }
}

impl From<ocne_upload::Stage> for Stage {
    fn from(stage: ocne_upload::Stage) -> Self {
        Self { name: stage.name(), label: stage.label() }
    }
}

/// What a stage has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Total {
    Unknown,
    Bytes(u64),
    Percent,
}

impl Total {
    fn bytes(self) -> Option<u64> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Unknown | Self::Percent => None,
        }
    }
}

impl From<Option<u64>> for Total {
    fn from(bytes: Option<u64>) -> Self {
        bytes.map_or(Self::Unknown, Self::Bytes)
    }
}

#[derive(Debug)]
struct StageView {
    started: Instant,
    last_line: Instant,
    total: Total,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// A renderer in a resolved style.
    pub fn new(style: ProgressStyle, terminal: Terminal, bars: MultiProgress) -> Self {
        Self { style, terminal, bars, stages: Mutex::default(), parts: Mutex::default() }
    }

    /// Renders one event of a build. May be called from any thread.
    pub fn handle(&self, event: &ocne_build::Event) {
        use ocne_build::Event;
        match event {
            Event::Begin { stage, total_bytes } => self.begin((*stage).into(), (*total_bytes).into()),
            Event::Bytes { stage, done_bytes } => self.bytes((*stage).into(), *done_bytes),
            Event::Part { stage, name, done_bytes, total_bytes, is_over } => {
                self.part((*stage).into(), name, *done_bytes, *total_bytes, *is_over);
            }
            Event::End { stage, elapsed, bytes } => self.end((*stage).into(), *elapsed, *bytes),
            Event::Note(text) => info!("{text}"),
            Event::Warning(text) => warn!("{text}"),
        }
    }

    /// Renders one event of an upload. May be called from any thread.
    pub fn handle_upload(&self, event: &ocne_upload::Event) {
        use ocne_upload::Event;
        match event {
            Event::Begin { stage, total_bytes } => {
                self.begin((*stage).into(), total_bytes.map_or(Total::Percent, Total::Bytes));
            }
            Event::Bytes { stage, done_bytes } => self.bytes((*stage).into(), *done_bytes),
            Event::Percent { stage, percent } => self.percent((*stage).into(), *percent),
            Event::End { stage, elapsed, bytes } => self.end((*stage).into(), *elapsed, *bytes),
            Event::Note(text) => info!("{text}"),
            Event::Warning(text) => warn!("{text}"),
        }
    }

    fn begin(&self, stage: Stage, total: Total) {
        let now = Instant::now();
        let mut stages = self.stages.lock().unwrap_or_else(PoisonError::into_inner);
        // An upload that somebody else ended begins again.
        if let Some(StageView { bar: Some(bar), .. }) = stages.remove(stage.name) {
            bar.finish_and_clear();
            self.bars.remove(&bar);
        }
        let bar = (self.style == ProgressStyle::Bar).then(|| self.bars.add(self.bar(stage.label, total)));
        stages.insert(stage.name, StageView { started: now, last_line: now, total, bar });
        drop(stages);
        self.json(&json!({ "event": "begin", "stage": stage.name, "total_bytes": total.bytes() }));
    }

    /// Moves the bar; what the stage has to do and for how long it has been at it, if a line is due.
    fn moved(&self, stage: Stage, position: u64) -> Option<(Total, Duration)> {
        let mut stages = self.stages.lock().unwrap_or_else(PoisonError::into_inner);
        let view = stages.get_mut(stage.name)?;
        if let Some(bar) = &view.bar {
            bar.set_position(position);
        }
        let interval = if self.style == ProgressStyle::Json { JSON_INTERVAL } else { PLAIN_INTERVAL };
        if view.last_line.elapsed() < interval {
            return None;
        }
        view.last_line = Instant::now();
        Some((view.total, view.started.elapsed()))
    }

    fn bytes(&self, stage: Stage, done_bytes: u64) {
        let Some((total, elapsed)) = self.moved(stage, done_bytes) else { return };
        match self.style {
            ProgressStyle::Plain => info!("{}: {}", stage.label, amount(done_bytes, total.bytes(), elapsed)),
            ProgressStyle::Json => self.json(&json!({
                "event": "bytes", "stage": stage.name, "done_bytes": done_bytes, "total_bytes": total.bytes(),
            })),
            _ => {}
        }
    }

    /// A bar below that of the stage, or lines of JSON; people who read lines have enough of them.
    fn part(&self, stage: Stage, name: &str, done_bytes: u64, total_bytes: u64, is_over: bool) {
        if !matches!(self.style, ProgressStyle::Bar | ProgressStyle::Json) {
            return;
        }
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut is_due = is_over;
        let view = parts.entry(name.to_owned()).or_insert_with(|| {
            is_due = true;
            let label = format!("  {}", name.chars().take(19).collect::<String>());
            let bar = || self.bar(label, Total::Bytes(total_bytes));
            let bar = (self.style == ProgressStyle::Bar).then(|| self.bars.add(bar()));
            PartView { last_line: Instant::now(), bar }
        });
        if let Some(bar) = &view.bar {
            bar.set_position(done_bytes);
        }
        if view.last_line.elapsed() >= JSON_INTERVAL {
            view.last_line = Instant::now();
            is_due = true;
        }
        if is_over && let Some(PartView { bar: Some(bar), .. }) = parts.remove(name) {
            bar.finish_and_clear();
            self.bars.remove(&bar);
        }
        drop(parts);
        if is_due {
            self.json(&json!({
                "event": "part", "stage": stage.name, "part": name, "done_bytes": done_bytes,
                "total_bytes": total_bytes,
            }));
        }
    }

    fn percent(&self, stage: Stage, percent: u8) {
        if self.moved(stage, percent.into()).is_none() {
            return;
        }
        match self.style {
            ProgressStyle::Plain => info!("{}: {percent} %", stage.label),
            ProgressStyle::Json => {
                self.json(&json!({ "event": "percent", "stage": stage.name, "percent": percent }));
            }
            _ => {}
        }
    }

    fn end(&self, stage: Stage, elapsed: Duration, bytes: Option<u64>) {
        let view = self.stages.lock().unwrap_or_else(PoisonError::into_inner).remove(stage.name);
        let total = view.as_ref().map_or(Total::Unknown, |v| v.total);
        if let Some(bar) = view.and_then(|v| v.bar) {
            bar.finish_and_clear();
            self.bars.remove(&bar);
        }
        if self.style == ProgressStyle::Json {
            self.json(&json!({
                "event": "end", "stage": stage.name, "bytes": bytes,
                "elapsed_ms": u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            }));
            return;
        }
        let seconds = elapsed.as_secs_f64();
        match (bytes, total) {
            (Some(bytes), _) => info!("{}: ok ({}, {seconds:.1} s)", stage.label, size(bytes)),
            // As the reference prints it.
            (None, Total::Percent) => info!("{}: [##########]: ok", stage.label),
            (None, _) => info!("{}: ok", stage.label),
        }
    }

    fn json(&self, fields: &serde_json::Value) {
        if self.style == ProgressStyle::Json {
            write_stderr(&self.bars, json_line(fields).as_bytes());
        }
    }

    fn bar(&self, label: impl Into<std::borrow::Cow<'static, str>>, total: Total) -> ProgressBar {
        let bar = match total {
            Total::Bytes(bytes) => ProgressBar::new(bytes),
            Total::Percent => ProgressBar::new(100),
            Total::Unknown => ProgressBar::new_spinner(),
        };
        let paint = if self.terminal.colour { ".cyan" } else { "" };
        let template = match total {
            Total::Bytes(_) => format!(
                "{{prefix:<26}} [{{wide_bar{paint}}}] {{binary_bytes:>10}} of {{binary_total_bytes}} {{binary_bytes_per_sec:>12}} {{eta:>4}}"
            ),
            Total::Percent => format!("{{prefix:<26}} [{{wide_bar{paint}}}] {{percent:>3}} % {{elapsed}}"),
            Total::Unknown => format!("{{prefix:<26}} {{spinner{paint}}} {{elapsed}}"),
        };
        let style = BarStyle::with_template(&template).unwrap_or_else(|_| BarStyle::default_bar());
        let style = if self.terminal.unicode {
            style.progress_chars("█▉▊▋▌▍▎▏ ")
        } else {
            style.progress_chars("#> ").tick_chars("|/-\\ ")
        };
        bar.set_style(style);
        bar.set_prefix(label);
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
