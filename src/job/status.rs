//! How far the workers of an OUT are, from what lies there: records, leases, signs of life, failures.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use serde::Serialize;

use super::ids::PRIVATE;
use super::lease::{self, WorkerState};
use super::{failures, plan::PlanHead};
use crate::error::{Error, Result};
use crate::record::{artefacts, grid_dirs, list, publish, record_paths};

/// How far an OUT is.
#[derive(Clone, Debug, Serialize)]
pub struct OutStatus {
    /// Slides that OUT is about: those of `plan.jsonl`, or, without one, those that have an id.
    pub slides: u64,
    /// Each artefact of each grid.
    pub artefacts: Vec<ArtefactStatus>,
    /// The workers that have not left.
    pub workers: Vec<Worker>,
    /// Tiles a second of all workers together, each since its start.
    pub tiles_per_second: f64,
    /// Slides an hour likewise.
    pub slides_per_hour: f64,
    /// Seconds until the workers' slides are done at that rate; absent where it is not known.
    pub eta_seconds: Option<f64>,
}

/// One artefact of one grid.
#[derive(Clone, Debug, Serialize)]
pub struct ArtefactStatus {
    /// The grid directory's name.
    pub grid: String,
    /// `patches`, `features_<encoder>` or `slide_features_<name>`.
    pub artefact: String,
    /// Slides with a record.
    pub done: u64,
    /// Slides in work.
    pub in_work: u64,
    /// Slides that failed and have not been done since, by kind.
    pub failed: BTreeMap<String, u64>,
}

/// A worker that has not left.
#[derive(Clone, Debug, Serialize)]
pub struct Worker {
    /// Its name.
    pub name: String,
    /// Whether it is known to have ended without leaving: a process of this host that is gone.
    pub ended: bool,
    /// What it told last.
    pub state: Option<WorkerState>,
}

impl OutStatus {
    /// Looks at `out`. Lists directories and reads the few files of workers and failures; no record is opened.
    ///
    /// # Errors
    /// [`Error::Usage`] where it is no OUT, [`Error::Output`] where it cannot be listed.
    pub fn of(out: &Path) -> Result<Self> {
        let private = out.join(PRIVATE);
        if !private.is_dir() {
            return Err(Error::Usage(format!("no directory that paraffin wrote: \"{}\"", out.display())));
        }
        let listed = |e: io::Error| Error::Output(format!("OUT cannot be listed: {e}"));
        let failed = failures::count(out)?;
        let mut found = Vec::new();
        for grid_dir in grid_dirs(out).map_err(listed)? {
            let grid = grid_dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
            for artefact in artefacts(&grid_dir).map_err(listed)? {
                let leases = private.join("leases").join(&grid).join(&artefact);
                found.push(ArtefactStatus {
                    done: record_paths(&grid_dir, &artefact).map_err(listed)?.len() as u64,
                    in_work: lease::leased(&leases).map_err(listed)?.len() as u64,
                    failed: failed.get(&(grid.clone(), artefact.clone())).cloned().unwrap_or_default(),
                    grid: grid.clone(),
                    artefact,
                });
            }
        }
        let directory = private.join("workers");
        let ended = |name: &str| fs::metadata(directory.join(name)).is_ok_and(|m| publish::has_ended(name, &m));
        let workers = lease::workers(out).map_err(listed)?.into_iter();
        let workers: Vec<Worker> = workers.map(|(name, state)| Worker { ended: ended(&name), name, state }).collect();
        let planned = fs::read_to_string(out.join("plan.jsonl")).ok();
        let planned = planned.and_then(|text| serde_json::from_str::<PlanHead>(text.lines().next()?).ok());
        let slides = match planned {
            Some(head) => head.slides,
            None => {
                list(&private.join("ids")).map_err(listed)?.iter().filter(|(name, _)| !name.starts_with('.')).count()
                    as u64
            }
        };
        let mut status = OutStatus {
            slides,
            artefacts: found,
            workers,
            tiles_per_second: 0.0,
            slides_per_hour: 0.0,
            eta_seconds: None,
        };
        status.rate();
        Ok(status)
    }

    /// Fills in the rates, and the time left of the artefact that the workers are at.
    fn rate(&mut self) {
        let living = self.workers.iter().filter(|w| !w.ended).filter_map(|w| w.state.as_ref());
        let living: Vec<&WorkerState> = living.filter(|s| s.seconds > 0.0).collect();
        let tiles_per_second: f64 = living.iter().map(|s| s.tiles_done as f64 / s.seconds).sum();
        let slides_per_second: f64 = living.iter().map(|s| s.slides_done as f64 / s.seconds).sum();
        let current =
            living.first().and_then(|s| self.artefacts.iter().find(|a| a.grid == s.grid && a.artefact == s.artefact));
        let left = current.map(|a| self.slides.saturating_sub(a.done + a.failed.values().sum::<u64>()));
        self.eta_seconds = left.filter(|_| slides_per_second > 0.0).map(|left| left as f64 / slides_per_second);
        // An empty sum is -0.
        self.tiles_per_second = 0.0 + tiles_per_second;
        self.slides_per_hour = 0.0 + 3600.0 * slides_per_second;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_of_the_living() {
        let state = |done, seconds| WorkerState {
            grid: "g".into(),
            artefact: "patches".into(),
            slides_done: done,
            tiles_done: 100 * done,
            seconds,
            ..WorkerState::default()
        };
        let worker = |ended, state| Worker { name: String::new(), ended, state: Some(state) };
        let artefact = ArtefactStatus {
            grid: "g".into(),
            artefact: "patches".into(),
            done: 60,
            in_work: 2,
            failed: BTreeMap::from([("mpp".into(), 10)]),
        };
        let mut status = OutStatus {
            slides: 100,
            artefacts: vec![artefact],
            workers: vec![worker(false, state(10, 10.0)), worker(false, state(20, 20.0)), worker(true, state(99, 1.0))],
            tiles_per_second: 0.0,
            slides_per_hour: 0.0,
            eta_seconds: None,
        };
        status.rate();
        assert_eq!((status.tiles_per_second, status.slides_per_hour, status.eta_seconds), (200.0, 7200.0, Some(15.0)));
        status.workers.clear();
        status.rate();
        assert_eq!((status.slides_per_hour, status.eta_seconds), (0.0, None));
    }
}
