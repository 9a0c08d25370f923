//! What a run is doing, for progress bars and the report at its end: counters that stages add to and anyone may read.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::record::runs::Sample;
use crate::slide::source;

/// A stage's waiting or working time, summed over its threads.
#[derive(Default)]
pub struct Clock(AtomicU64);

impl Clock {
    /// Runs `work` and adds the time it took.
    pub fn time<T>(&self, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = work();
        self.0.fetch_add(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        result
    }

    /// The sum so far.
    pub fn total(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

/// A counter.
#[derive(Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The sum so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters of one run.
#[derive(Default)]
pub struct Meter {
    /// Slides published.
    pub slides_done: Count,
    /// Slides that failed.
    pub slides_failed: Count,
    /// Tiles of the slides planned so far.
    pub tiles_planned: Count,
    /// Tiles that earlier runs had embedded of them.
    pub tiles_resumed: Count,
    /// Tiles embedded.
    pub tiles_done: Count,
    /// Tiles that could not be read.
    pub tiles_failed: Count,
    /// Blocks that tiles of finished slides needed.
    pub blocks_needed: Count,
    /// Blocks that were decoded for them.
    pub blocks_decoded: Count,
    /// Opening slides, finding tissue, planning.
    pub preparing: Clock,
    /// Readers at work: fetching, decoding, resampling.
    pub reading: Clock,
    /// Readers waiting for a slide to be planned.
    pub readers_wait_slide: Clock,
    /// Readers waiting for the model to take tiles.
    pub readers_wait_model: Clock,
    /// Encoders at work.
    pub embedding: Clock,
    /// Encoders waiting for tiles, after their first.
    pub model_waits: Clock,
    /// Writing, compressing, publishing.
    pub writing: Clock,
    current: Mutex<String>,
}

/// Who waited for whom, as shares of a stage's time from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Waits {
    /// Of the encoders' time: waiting for tiles.
    pub model: f64,
    /// Of the readers' time: waiting for the model to take what they have read.
    pub readers: f64,
    /// Of the time of opening and reading slides: in reads of their files. Small where the system has read ahead.
    pub disk: f64,
}

impl std::fmt::Display for Waits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [model, readers, disk] = [self.model, self.readers, self.disk].map(|share| 100.0 * share);
        write!(f, "encoders for tiles {model:.1} %, readers for encoders {readers:.0} %, all for the disk {disk:.1} %")
    }
}

fn share(part: Duration, rest: Duration) -> f64 {
    part.as_secs_f64() / (part + rest).as_secs_f64().max(1e-9)
}

impl Meter {
    /// What was done and waited so far, `seconds` after the run began.
    #[must_use]
    pub fn sample(&self, seconds: f64) -> Sample {
        let of = |clock: &Clock| clock.total().as_secs_f64();
        Sample {
            seconds,
            tiles: self.tiles_done.get(),
            preparing: of(&self.preparing),
            reading: of(&self.reading),
            embedding: of(&self.embedding),
            writing: of(&self.writing),
            model_waits: of(&self.model_waits),
            readers_wait_model: of(&self.readers_wait_model),
            disk: source::time_spent().as_secs_f64(),
        }
    }

    /// Who waited for whom so far.
    #[must_use]
    pub fn waits(&self) -> Waits {
        let reading = self.reading.total();
        let opening_and_reading = self.preparing.total() + reading;
        let disk = source::time_spent().min(opening_and_reading);
        Waits {
            model: share(self.model_waits.total(), self.embedding.total()),
            readers: share(self.readers_wait_model.total(), reading + self.readers_wait_slide.total()),
            disk: share(disk, opening_and_reading - disk),
        }
    }

    /// Notes the slide that tiles are read from.
    pub fn set_current(&self, id: &str) {
        if let Ok(mut current) = self.current.lock() {
            id.clone_into(&mut current);
        }
    }

    /// The slide that tiles are read from.
    #[must_use]
    pub fn current(&self) -> String {
        self.current.lock().map(|c| c.clone()).unwrap_or_default()
    }

    /// The stage that limits the run: the one that others wait for.
    #[must_use]
    pub fn bottleneck(&self) -> &'static str {
        let (model, wait) = (self.embedding.total(), self.model_waits.total());
        if model.is_zero() {
            return "tissue";
        }
        if wait * 20 <= model + wait {
            return "model";
        }
        if self.readers_wait_slide.total() > self.reading.total() { "tissue" } else { "read" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_shares_of_the_waiters_time() {
        let meter = Meter::default();
        assert_eq!((meter.waits().model, meter.waits().readers), (0.0, 0.0));
        meter.embedding.0.store(3000, Ordering::Relaxed);
        meter.model_waits.0.store(1000, Ordering::Relaxed);
        meter.reading.0.store(1000, Ordering::Relaxed);
        meter.readers_wait_slide.0.store(1000, Ordering::Relaxed);
        meter.readers_wait_model.0.store(2000, Ordering::Relaxed);
        let Waits { model, readers, .. } = meter.waits();
        assert_eq!((model, readers), (0.25, 0.5));
        let told = Waits { model: 0.004, readers: 0.5, disk: 0.02 }.to_string();
        assert_eq!(told, "encoders for tiles 0.4 %, readers for encoders 50 %, all for the disk 2.0 %");
    }

    #[test]
    fn the_stage_that_others_wait_for_limits() {
        let meter = Meter::default();
        assert_eq!(meter.bottleneck(), "tissue");
        meter.embedding.0.store(1000, Ordering::Relaxed);
        assert_eq!(meter.bottleneck(), "model");
        meter.model_waits.0.store(1000, Ordering::Relaxed);
        meter.reading.0.store(1000, Ordering::Relaxed);
        assert_eq!(meter.bottleneck(), "read");
        meter.readers_wait_slide.0.store(2000, Ordering::Relaxed);
        assert_eq!(meter.bottleneck(), "tissue");
    }
}
