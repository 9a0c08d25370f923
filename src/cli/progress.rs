//! How a run tells what it is doing: bars on a terminal, a line per slide elsewhere. All of it goes to stderr.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::args::ProgressKind;
use super::log::LogFormat;
use crate::job::summary::per_second;
use crate::pipeline::meter::Meter;

/// The progress display of a run.
pub struct Progress {
    bars: Option<Bars>,
    lines: bool,
    log: LogFormat,
    slides: u64,
    told: AtomicU64,
    started: Instant,
}

struct Bars {
    all: MultiProgress,
    overall: ProgressBar,
    tiles: ProgressBar,
    stop: Arc<AtomicBool>,
    ticker: Option<JoinHandle<()>>,
}

impl Progress {
    /// Starts the display for a run over `slides` slides.
    #[must_use]
    pub fn start(kind: ProgressKind, log: LogFormat, slides: u64, meter: &Arc<Meter>) -> Self {
        let kind = if log.is_text() { kind } else { ProgressKind::None };
        let terminal = std::io::stderr().is_terminal();
        let bars = kind == ProgressKind::Bars || (kind == ProgressKind::Auto && terminal);
        let lines = kind == ProgressKind::Lines || (kind == ProgressKind::Auto && !terminal);
        Progress {
            bars: bars.then(|| Bars::start(slides, meter.clone())),
            lines,
            log,
            slides,
            told: AtomicU64::new(0),
            started: Instant::now(),
        }
    }

    /// Whether anything is shown.
    #[must_use]
    pub fn shows(&self) -> bool {
        self.bars.is_some() || self.lines
    }

    /// Prints a line, above the bars.
    pub fn line(&self, text: &str) {
        self.teller().line(text);
    }

    /// What prints lines from any thread, for as long as it is wanted.
    #[must_use]
    pub fn teller(&self) -> Teller {
        Teller { bars: self.bars.as_ref().map(|bars| bars.all.clone()), lines: self.lines, log: self.log }
    }

    /// Prints how far the run is, after a slide, where people read along: number, share of tiles a second, time left.
    pub fn slide_line(&self, meter: &Meter, text: &str) {
        let finished = self.told.fetch_add(1, Ordering::Relaxed) + 1;
        let rate = meter.tiles_done.get() as f64 / self.started.elapsed().as_secs_f64().max(1e-3);
        if !self.log.is_text() {
            return;
        }
        self.line(&format!("[{finished}/{}] {text} ({} tiles/s overall)", self.slides, per_second(rate)));
    }
}

/// The progress of a command that goes over slides without reading tiles.
pub struct Count {
    bar: Option<ProgressBar>,
    lines: bool,
    slides: u64,
    told: AtomicU64,
}

impl Count {
    /// Starts the display for so many slides.
    #[must_use]
    pub fn start(kind: ProgressKind, slides: u64) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = (kind == ProgressKind::Bars || (kind == ProgressKind::Auto && terminal)).then(|| {
            let style = ProgressStyle::with_template("slides {bar:30.green} {pos}/{len}  ETA {eta}  {msg}");
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━╸─");
            ProgressBar::with_draw_target(Some(slides), ProgressDrawTarget::stderr_with_hz(8)).with_style(style)
        });
        let lines = kind == ProgressKind::Lines || (kind == ProgressKind::Auto && !terminal);
        Count { bar, lines, slides, told: AtomicU64::new(0) }
    }

    /// Tells of a slide that is through.
    pub fn line(&self, text: &str) {
        let finished = self.told.fetch_add(1, Ordering::Relaxed) + 1;
        match &self.bar {
            Some(bar) => {
                bar.set_message(text.to_owned());
                bar.set_position(finished);
            }
            None if self.lines => eprintln!("[{finished}/{}] {text}", self.slides),
            None => {}
        }
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Prints lines, above the bars where there are any.
#[derive(Clone)]
pub struct Teller {
    bars: Option<MultiProgress>,
    lines: bool,
    log: LogFormat,
}

impl Teller {
    /// Prints a line; a note where events are wanted.
    pub fn line(&self, text: &str) {
        self.log.event("note", json!({ "text": text }));
        match &self.bars {
            Some(bars) => {
                // A line that cannot be shown is no reason to stop.
                let _ = bars.println(text);
            }
            None if self.lines => eprintln!("{text}"),
            None => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bars) = &mut self.bars {
            bars.stop.store(true, Ordering::Relaxed);
            if let Some(ticker) = bars.ticker.take() {
                let _ = ticker.join();
            }
            bars.overall.finish_and_clear();
            bars.tiles.finish_and_clear();
        }
    }
}

impl Bars {
    fn start(slides: u64, meter: Arc<Meter>) -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(8));
        let style = |template: &str| {
            ProgressStyle::with_template(template)
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("━╸─")
        };
        let overall = all.add(ProgressBar::new(slides));
        overall.set_style(style("slides {bar:30.green} {pos}/{len}  {msg}"));
        let tiles = all.add(ProgressBar::new(0));
        tiles.set_style(style("tiles  {bar:30.cyan} {pos}/{len}  {msg}"));
        let stop = Arc::new(AtomicBool::new(false));
        let ticker = std::thread::spawn({
            let (stop, overall, tiles) = (stop.clone(), overall.clone(), tiles.clone());
            move || {
                let start = Instant::now();
                while !stop.load(Ordering::Relaxed) {
                    tick(&meter, start, slides, &overall, &tiles);
                    std::thread::sleep(Duration::from_millis(125));
                }
            }
        });
        Bars { all, overall, tiles, stop, ticker: Some(ticker) }
    }
}

fn tick(meter: &Meter, start: Instant, slides: u64, overall: &ProgressBar, tiles: &ProgressBar) {
    let seconds = start.elapsed().as_secs_f64().max(1e-3);
    let (done, planned) = (meter.tiles_done.get(), meter.tiles_planned.get());
    let finished = meter.slides_done.get() + meter.slides_failed.get();
    let rate = done as f64 / seconds;
    overall.set_position(finished);
    let left = time_left(seconds, finished, slides, done, planned);
    overall.set_message(match left {
        Some(left) => format!("ETA {}  limited by {}", HumanDuration(left), meter.bottleneck()),
        None => String::new(),
    });
    tiles.set_length(planned.max(1));
    tiles.set_position(done);
    let waits = meter.waits();
    tiles.set_message(format!(
        "{}/s  {}  (waited: encoders {:.0} %, readers {:.0} %, disk {:.0} %)",
        per_second(rate),
        meter.current(),
        100.0 * waits.model,
        100.0 * waits.readers,
        100.0 * waits.disk
    ));
}

/// The time left, from tiles: slides that are not planned yet count as the mean of those that are.
fn time_left(seconds: f64, finished: u64, slides: u64, done: u64, planned: u64) -> Option<Duration> {
    if done == 0 {
        return None;
    }
    // At least the finished slides and the one in work are planned.
    let known = (finished + 1).min(slides.max(1)) as f64;
    let all = planned as f64 / known * slides as f64;
    Some(Duration::from_secs_f64((all.max(planned as f64) - done as f64).max(0.0) * seconds / done as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_left_follows_the_tiles() {
        assert_eq!(time_left(10.0, 0, 2, 0, 100), None);
        // Half of one of two slides in 10 s: 30 s remain.
        assert_eq!(time_left(10.0, 0, 2, 50, 100), Some(Duration::from_secs(30)));
        assert_eq!(time_left(10.0, 2, 2, 200, 200), Some(Duration::ZERO));
    }
}
