//! What a run says at its end: how much was done, how fast, what limited it, and every failure by name.

use std::fmt::Write;
use std::time::Duration;

use crate::pipeline::meter::Meter;

/// A slide that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Its id.
    pub id: String,
    /// [`crate::Error::kind`].
    pub kind: String,
    /// The message.
    pub message: String,
}

/// What a user should know of slides that were done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Doubts {
    /// Slides with warnings.
    pub warned: usize,
    /// Those whose tissue should be looked at: id and why.
    pub tissue: Vec<(String, String)>,
}

/// Most failures that the table lists; the rest is counted.
const LISTED: usize = 50;

/// The table at the end of a run; `done_elsewhere` slides were done by other workers while it ran.
#[must_use]
pub fn table(
    meter: &Meter,
    took: Duration,
    done_before: usize,
    done_elsewhere: usize,
    failures: &[Failure],
    doubts: &Doubts,
) -> String {
    let mut out = String::new();
    let seconds = took.as_secs_f64().max(1e-3);
    let (done, tiles) = (meter.slides_done.get(), meter.tiles_done.get());
    let _ = write!(out, "{done} {} done", plural(done as usize, "slide"));
    if done_before > 0 {
        let _ = write!(out, ", {done_before} done before");
    }
    if done_elsewhere > 0 {
        let _ = write!(out, ", {done_elsewhere} done by other workers");
    }
    if !failures.is_empty() {
        let _ = write!(out, ", {} failed", failures.len());
    }
    if doubts.warned > 0 {
        let _ = write!(out, ", {} with warnings (in their records)", doubts.warned);
    }
    let _ = writeln!(out, ": {tiles} tiles in {seconds:.1} s, {} tiles/s", per_second(tiles as f64 / seconds));
    if meter.tiles_resumed.get() > 0 {
        let _ = writeln!(out, "{} tiles more were done before a stop", meter.tiles_resumed.get());
    }
    if tiles > 0 {
        let _ = writeln!(
            out,
            "limited by the {}; {} of {} needed blocks decoded",
            match meter.bottleneck() {
                "model" => "encoder",
                "read" => "reading of tiles",
                _ => "search for tissue",
            },
            meter.blocks_decoded.get(),
            meter.blocks_needed.get(),
        );
        let _ = writeln!(out, "waited: {}", meter.waits());
    }
    let spent = [
        ("opening and tissue", meter.preparing.total()),
        ("reading", meter.reading.total()),
        ("encoding", meter.embedding.total()),
        ("writing", meter.writing.total()),
    ];
    let spent = spent.map(|(what, time)| format!("{:.1} s {what}", time.as_secs_f64())).join(", ");
    let _ = writeln!(out, "threads spent {spent}");
    if meter.tiles_failed.get() > 0 {
        let _ = writeln!(out, "{} tiles could not be read", meter.tiles_failed.get());
    }
    for (id, why) in doubts.tissue.iter().take(LISTED) {
        let _ = writeln!(out, "look at the tissue of {id}: {why}");
    }
    if doubts.tissue.len() > LISTED {
        let _ = writeln!(out, "... and of {} more, see their records", doubts.tissue.len() - LISTED);
    }
    if !failures.is_empty() {
        let width = failures.iter().take(LISTED).map(|f| f.id.chars().count()).max().unwrap_or(0).clamp(5, 40);
        let _ = writeln!(out, "\n{:<width$}  {:<12}  why", "slide", "kind");
        for failure in failures.iter().take(LISTED) {
            let _ = writeln!(out, "{:<width$}  {:<12}  {}", failure.id, failure.kind, failure.message);
        }
        if failures.len() > LISTED {
            let _ = writeln!(out, "... and {} more, all in site-private/failures", failures.len() - LISTED);
        }
    }
    out
}

/// A rate in words: whole numbers, and a digit more of small ones.
#[must_use]
pub fn per_second(rate: f64) -> String {
    if rate < 10.0 { format!("{rate:.1}") } else { format!("{rate:.0}") }
}

/// The word with an s unless there is one.
#[must_use]
pub fn plural(n: usize, word: &str) -> String {
    if n == 1 { word.to_string() } else { format!("{word}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_is_named() {
        let meter = Meter::default();
        meter.slides_done.add(2);
        meter.tiles_done.add(100);
        let failure =
            Failure { id: "x".into(), kind: "mpp".into(), message: "no microns-per-pixel in this slide".into() };
        let doubts = Doubts { warned: 1, tissue: vec![("z".into(), "no tissue found".into())] };
        let text = table(&meter, Duration::from_secs(10), 3, 4, &[failure], &doubts);
        assert!(
            text.starts_with("2 slides done, 3 done before, 4 done by other workers, 1 failed, 1 with warnings"),
            "{text}"
        );
        assert!(text.contains("100 tiles in 10.0 s, 10 tiles/s"), "{text}");
        assert!(text.contains("look at the tissue of z: no tissue found"), "{text}");
        assert!(text.contains("x      mpp           no microns-per-pixel"), "{text}");
        let many = vec![Failure { id: "y".into(), kind: "damaged".into(), message: String::new() }; 60];
        assert!(table(&meter, Duration::ZERO, 0, 0, &many, &Doubts::default()).contains("and 10 more"));
    }
}
