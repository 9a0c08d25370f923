//! What a run is doing, for progress bars and the report at its end: counters that stages add to and anyone may read.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

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

impl Meter {
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
