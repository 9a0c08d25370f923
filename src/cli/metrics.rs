//! `--metrics FILE`: how a run is doing, in Prometheus' text format, for the node exporter's textfile collector.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use crate::error::{Error, Result};
use crate::pipeline::meter::Meter;
use crate::record::publish;

/// Time between two writes.
const PERIOD: Duration = Duration::from_secs(5);

/// Writes the file every few seconds, and once more when it is dropped.
pub struct Metrics {
    running: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Metrics {
    /// Starts to write.
    ///
    /// # Errors
    /// [`Error::Write`] where the file cannot be written now; later failures are passed over.
    pub fn start(file: PathBuf, grid: String, artefact: String, slides: u64, meter: Arc<Meter>) -> Result<Self> {
        let started = Instant::now();
        let write = move |file: &Path, running| {
            let labels = format!("grid=\"{}\",artefact=\"{}\"", escaped(&grid), escaped(&artefact));
            publish::write_atomic(file, text(&labels, slides, &meter, started.elapsed(), running).as_bytes())
        };
        write(&file, true).map_err(|e| Error::write("the file of --metrics", e))?;
        let (stop, stopped) = bounded::<()>(0);
        let thread = std::thread::spawn(move || {
            while stopped.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
                let _ = write(&file, true);
            }
            let _ = write(&file, false);
        });
        Ok(Metrics { running: Some((stop, thread)) })
    }
}

impl Drop for Metrics {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            drop(stop);
            let _ = thread.join();
        }
    }
}

/// A label's value as the format wants it.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn text(labels: &str, slides: u64, meter: &Meter, elapsed: Duration, running: bool) -> String {
    let mut out = String::new();
    let mut family = |name: &str, kind: &str, help: &str, samples: &[(String, f64)]| {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(out, "{name}{{{labels}}} {value}");
        }
    };
    let one = |value: f64| [(labels.to_string(), value)];
    family(
        "paraffin_running",
        "gauge",
        "1 while the run goes on, 0 when it has ended",
        &one(f64::from(u8::from(running))),
    );
    family("paraffin_run_seconds", "gauge", "Seconds since the run started", &one(elapsed.as_secs_f64()));
    family("paraffin_slides", "gauge", "Slides that were to be done when the run started", &one(slides as f64));
    for (name, help, count) in [
        ("paraffin_slides_done_total", "Slides published", &meter.slides_done),
        ("paraffin_slides_failed_total", "Slides that failed", &meter.slides_failed),
        ("paraffin_tiles_planned_total", "Tiles of the slides opened so far", &meter.tiles_planned),
        ("paraffin_tiles_done_total", "Tiles embedded", &meter.tiles_done),
        ("paraffin_tiles_failed_total", "Tiles that could not be read", &meter.tiles_failed),
    ] {
        family(name, "counter", help, &one(count.get() as f64));
    }
    let stages = [
        ("preparing", &meter.preparing),
        ("reading", &meter.reading),
        ("embedding", &meter.embedding),
        ("writing", &meter.writing),
    ];
    let stages = stages.map(|(stage, clock)| (format!("{labels},stage=\"{stage}\""), clock.total().as_secs_f64()));
    family("paraffin_stage_seconds_total", "counter", "Seconds that threads spent in a stage", &stages);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_has_a_type_and_is_a_number() {
        let meter = Meter::default();
        meter.tiles_done.add(12);
        let text = text("grid=\"g\",artefact=\"a\\\"b\"", 7, &meter, Duration::from_millis(1500), true);
        assert!(text.contains("paraffin_tiles_done_total{grid=\"g\",artefact=\"a\\\"b\"} 12\n"), "{text}");
        assert!(text.contains("paraffin_run_seconds{grid=\"g\",artefact=\"a\\\"b\"} 1.5\n"), "{text}");
        let mut typed = "";
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                typed = rest.split(' ').next().expect("a name");
            } else if !line.starts_with('#') {
                let (name, value) =
                    (line.split('{').next().expect("a name"), line.rsplit(' ').next().expect("a value"));
                assert_eq!(name, typed);
                value.parse::<f64>().expect("a number");
            }
        }
        assert_eq!(escaped("a\"b\\"), "a\\\"b\\\\");
    }
}
