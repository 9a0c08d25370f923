//! How a run goes over time, for its note in `site-private/runs`: at most [`MOST`] samples, at even distances.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use crate::pipeline::meter::Meter;
use crate::record::runs::Sample;

/// Most samples; a longer run has them further apart.
const MOST: usize = 240;
/// Shortest time between two.
const PERIOD: Duration = Duration::from_secs(1);

/// Looks at a meter until it is told to end.
pub struct Sampler {
    stop: Sender<()>,
    thread: JoinHandle<Vec<Sample>>,
}

impl Sampler {
    /// Starts to look.
    #[must_use]
    pub fn start(meter: Arc<Meter>) -> Self {
        let (stop, stopped) = bounded::<()>(0);
        let started = Instant::now();
        let mut samples = vec![meter.sample(0.0)];
        let thread = std::thread::spawn(move || {
            let mut period = PERIOD;
            while stopped.recv_timeout(period) == Err(RecvTimeoutError::Timeout) {
                samples.push(meter.sample(started.elapsed().as_secs_f64()));
                if samples.len() >= MOST {
                    samples = thinned(samples);
                    period *= 2;
                }
            }
            samples.push(meter.sample(started.elapsed().as_secs_f64()));
            samples
        });
        Sampler { stop, thread }
    }

    /// The samples, the last one of now.
    #[must_use]
    pub fn finish(self) -> Vec<Sample> {
        drop(self.stop);
        self.thread.join().unwrap_or_default()
    }
}

/// Every second one, the first among them.
fn thinned(samples: Vec<Sample>) -> Vec<Sample> {
    samples.into_iter().step_by(2).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_and_last_are_there() {
        let meter = Arc::new(Meter::default());
        let sampler = Sampler::start(meter.clone());
        meter.tiles_done.add(5);
        let samples = sampler.finish();
        assert_eq!((samples[0].tiles, samples[0].seconds), (0, 0.0));
        assert_eq!(samples.last().expect("two").tiles, 5);
        let many: Vec<Sample> = (0..MOST).map(|n| Sample { tiles: n as u64, ..Sample::default() }).collect();
        let few = thinned(many);
        assert_eq!((few.len(), few[0].tiles, few[1].tiles), (MOST / 2, 0, 2));
    }
}
