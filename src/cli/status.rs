//! `paraffin status`: how far the workers of an OUT are.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use indicatif::HumanDuration;

use super::worker_args::StatusArgs;
use crate::error::{Error, Result};
use crate::job::status::OutStatus;
use crate::job::summary::{per_second, plural};

/// Time between two looks of `--watch`.
const LOOK: Duration = Duration::from_secs(2);

/// Runs the command.
///
/// # Errors
/// Where OUT is none or cannot be read.
pub fn run(args: &StatusArgs) -> Result<ExitCode> {
    // When each worker's counter changed last, by this process's own clock.
    let mut seen: HashMap<String, (u64, Instant)> = HashMap::new();
    loop {
        let status = OutStatus::of(&args.out)?;
        let now = Instant::now();
        for worker in &status.workers {
            let beat = worker.state.as_ref().map_or(0, |s| s.beat);
            let entry = seen.entry(worker.name.clone()).or_insert((beat, now));
            if entry.0 != beat {
                *entry = (beat, now);
            }
        }
        if args.watch && !args.json && std::io::stdout().is_terminal() {
            // Up and clear: the terminal's own way, as watch(1) does.
            out!("\x1b[H\x1b[2J");
        }
        if args.json {
            let text = if args.watch { serde_json::to_string(&status) } else { serde_json::to_string_pretty(&status) };
            out!("{}", text.map_err(|e| Error::Internal(e.to_string()))?);
        } else {
            tell(&status, &seen);
        }
        if !args.watch || status.workers.iter().all(|w| w.ended) {
            return Ok(ExitCode::SUCCESS);
        }
        std::thread::sleep(LOOK);
    }
}

fn tell(status: &OutStatus, seen: &HashMap<String, (u64, Instant)>) {
    out!("{} {}", status.slides, plural(status.slides as usize, "slide"));
    for artefact in &status.artefacts {
        let mut line = format!("{}/{}: {} done", artefact.grid, artefact.artefact, artefact.done);
        if artefact.in_work > 0 {
            line += &format!(", {} in work", artefact.in_work);
        }
        let failed: u64 = artefact.failed.values().sum();
        if failed > 0 {
            let kinds: Vec<_> = artefact.failed.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
            line += &format!(", {failed} failed ({})", kinds.join(", "));
        }
        out!("  {line}");
    }
    if status.workers.is_empty() {
        out!("no worker is at it");
        return;
    }
    let eta = status.eta_seconds.map(|s| format!(", {} left", HumanDuration(Duration::from_secs_f64(s))));
    out!(
        "{} {}: {} tiles/s, {} slides/h{}",
        status.workers.len(),
        plural(status.workers.len(), "worker"),
        per_second(status.tiles_per_second),
        per_second(status.slides_per_hour),
        eta.unwrap_or_default()
    );
    for worker in &status.workers {
        let silent = seen.get(&worker.name).map_or(0, |(_, since)| since.elapsed().as_secs());
        let how = match &worker.state {
            _ if worker.ended => "has ended; its slides are free".to_string(),
            None => "cannot be read just now".to_string(),
            Some(s) => {
                let mut how = format!(
                    "{} of {} slides, {} failed, {} tiles in {:.0} s",
                    s.slides_done, s.slides, s.slides_failed, s.tiles_done, s.seconds
                );
                if !s.current.is_empty() {
                    how += &format!(", at {}", s.current);
                }
                if silent as f64 > s.lease_timeout_seconds / 2.0 {
                    how += &format!("; silent for {silent} s");
                }
                how
            }
        };
        // The last digits tell workers apart.
        out!("  {}: {how}", worker.name.rsplit('-').next().unwrap_or_default());
    }
}
