//! What `embed` and `tiles` share: finding slides, telling what will be done, progress, signals, the table at the end.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::args::{RunArgs, SlideArgs};
use super::log::LogFormat;
use super::metrics::Metrics;
use super::outage::{Heard, Outage, waiter};
use super::progress::{Progress, Teller};
use super::sampler::Sampler;
use super::signals::Signals;
use super::worker_args::ShardArgs;
use crate::error::{Error, Result};
use crate::job::discover::{Discovery, discover};
use crate::job::ids::naming::{IdMode, Naming};
use crate::job::lease::{Leases, WorkerState};
use crate::job::plan::Plan;
use crate::job::queue::Queue;
use crate::job::shard::Shard;
use crate::job::summary::{self, Doubts, Failure, plural};
use crate::job::{Job, ids};
use crate::pipeline::Outcome;
use crate::pipeline::meter::Meter;
use crate::pipeline::prepare::{PlannedSlide, SlideSpec};
use crate::record::failures::FailureNote;
use crate::record::sealed::Kept;
use crate::slide::EXTENSIONS;
use crate::slide::openslide::redact;
use crate::tissue::TissueMethod;

/// Exit code of a run in which slides failed.
pub(super) const SOME_FAILED: u8 = 4;

/// A run that has something to do.
pub struct Session {
    slides: Vec<SlideSpec>,
    specs: Vec<SlideSpec>,
    naming: Naming,
    failed_before: BTreeMap<String, FailureNote>,
    leases: Leases,
    max_failures: Option<NonZeroUsize>,
    log: LogFormat,
    metrics: Option<Metrics>,
    done_before: usize,
    meter: Arc<Meter>,
    progress: Progress,
    sampler: Sampler,
    stop: Arc<AtomicBool>,
    exit_on_term: u8,
    started: Instant,
}

/// Whether there is something to do.
pub enum Start {
    /// There is.
    Go(Box<Session>, Box<Job>),
    /// There is not; the run ends with this exit code.
    Done(ExitCode),
}

/// A run while it works: its slides, and who is told how they went.
pub struct Running<'a> {
    /// The slides that wait.
    pub queue: Queue<'a>,
    /// Which of them are this worker's.
    pub leases: &'a Leases,
    /// What was done.
    pub meter: &'a Meter,
    /// Set when the run is to end.
    pub stop: &'a AtomicBool,
    job: &'a Job,
    naming: &'a Naming,
    log: LogFormat,
    progress: &'a Progress,
    failures: &'a Mutex<Vec<Failure>>,
    doubts: Mutex<Doubts>,
    /// Slides that failed here.
    failed: AtomicUsize,
    max_failures: usize,
    outage: Outage,
}

impl Running<'_> {
    /// Tells of a slide that is published, and gives its lease back.
    pub fn finished(&self, slide: &PlannedSlide, outcome: &Outcome) {
        let id = &slide.spec.id;
        self.outage.is_over();
        self.leases.release(id);
        let mut line = format!("{id}: {} {}", outcome.written, plural(outcome.written as usize, "tile"));
        if !outcome.unreadable.is_empty() {
            line += &format!(", {} unreadable", outcome.unreadable.len());
        }
        for warning in &slide.warnings {
            line += &format!("; {warning}");
        }
        {
            let mut doubts = self.doubts.lock().unwrap_or_else(PoisonError::into_inner);
            doubts.warned += usize::from(!slide.warnings.is_empty());
            doubts.tissue.extend(slide.tissue.suspicion.iter().map(|why| (id.clone(), why.clone())));
        }
        self.progress.slide_line(self.meter, &line);
        self.log.event(
            "slide-done",
            json!({
                "id": id, "tiles": outcome.written, "unreadable": outcome.unreadable.len(), "warnings": slide.warnings,
            }),
        );
    }

    /// Notes and tells a slide's failure, and gives its lease back. A slide whose lease was lost did not fail: it is another
    /// worker's, and looked at again at the end.
    pub fn failed(&self, spec: &SlideSpec, error: &Error) {
        if matches!(error, Error::LeaseLost) {
            if self.log.is_text() {
                self.progress.line(&format!("{}: {error}", spec.id));
            }
            self.log.event("slide-lost", json!({ "id": spec.id }));
            self.queue.lost(spec);
            return;
        }
        match self.outage.hears(error) {
            Heard::ItsOwn => {}
            Heard::Total => self.stop.store(true, Ordering::Relaxed),
            // What was in flight is not to blame.
            Heard::Known => return self.leases.release(&spec.id),
        }
        let message = told(error, &spec.path, self.naming.mode);
        // Encrypting fails only where the system has no random numbers; then the path is not kept.
        let path = Kept::new(spec.path.to_string_lossy().into_owned(), self.naming.recipient.as_ref());
        let note = FailureNote {
            id: spec.id.clone(),
            kind: error.kind().into(),
            message: message.clone(),
            path: path.ok(),
            worker: self.leases.worker().into(),
        };
        self.job.failures().note(&note);
        self.leases.release(&spec.id);
        self.progress.slide_line(self.meter, &format!("{}: failed: {message}", spec.id));
        let told = json!({ "id": spec.id, "kind": error.kind(), "message": message, "here": true });
        self.log.event("slide-failed", told);
        let failure = Failure { id: spec.id.clone(), kind: error.kind().into(), message };
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).push(failure);
        if self.failed.fetch_add(1, Ordering::Relaxed) + 1 == self.max_failures {
            self.stop.store(true, Ordering::Relaxed);
        }
    }
}

impl Session {
    /// Finds the slides, names them, and leaves out those that are done.
    ///
    /// # Errors
    /// What keeps the run from starting.
    pub fn start(slides: &SlideArgs, share: &ShardArgs, run: &RunArgs, job: Job) -> Result<Start> {
        let started = Instant::now();
        let signals = Signals::listen(run)?;
        let naming = run.ids.naming()?;
        // Before anything is said: with the wrong --ids it would be said with names.
        naming.check(&run.out)?;
        let shard = share.shard()?;
        let (found, planned) = match &share.plan {
            Some(file) => planned(file, &run.out, shard)?,
            None => {
                let found = discover(&slides.slides, slides.slide_list.as_deref(), slides.mpp(), naming.mode)?;
                (found, None)
            }
        };
        let (quiet, log) = (!run.tells(), run.log_format);
        if !quiet {
            eprintln!("{}", found_line(&found, naming.mode));
        }
        if found.slides.is_empty() && share.plan.is_none() {
            return Err(Error::Usage("no slides found".into()));
        }
        if matches!(job.options().tissue, TissueMethod::Mask(_)) && found.slides.len() > 1 {
            return Err(Error::Usage("--tissue MASK is a mask of one slide: give one slide at a time".into()));
        }
        use_threads(Some(run.threads()));
        job.open_out()?;
        let ids = ids::assign(&run.out, &found.slides, &naming, &|id| job.invalidate(id))?;
        let all = found.slides.iter().zip(ids);
        let mut slides: Vec<_> = all.map(|(s, id)| SlideSpec { path: s.path.clone(), id, mpp: s.mpp }).collect();
        if let Some(planned) = planned {
            check_ids(&slides, &planned)?;
            if let Some(shard) = shard.filter(|_| !quiet) {
                eprintln!("share {shard} of the plan");
            }
        } else if let Some(shard) = shard {
            let all = slides.len();
            slides.retain(|s| shard.has(&s.id));
            if !quiet {
                eprintln!(
                    "share {shard}: {} of them",
                    if slides.len() == all { "all".into() } else { slides.len().to_string() }
                );
            }
        }
        let failed_before = job.failures().all()?;
        if run.retry_failed || run.skip_failed {
            slides.retain(|s| failed_before.contains_key(&s.id) == run.retry_failed);
        }
        let mut specs = Vec::new();
        let mut redone = Vec::new();
        for slide in &slides {
            let status = job.status(&slide.id);
            if status.is_done() {
                continue;
            }
            if let Some(why) = status.reason() {
                redone.push((slide.id.clone(), why.to_string()));
            }
            specs.push(slide.clone());
        }
        let done_before = slides.len() - specs.len();
        if run.retry_failed && slides.is_empty() && !quiet {
            eprintln!("no slide failed before");
        }
        let nothing = specs.is_empty() && !slides.iter().any(|s| job.lacks_vectors(&s.id));
        if !quiet {
            for (id, why) in &redone {
                eprintln!("{id} is done again: {why}");
            }
            if nothing {
                let all = plural(done_before, "slide");
                eprintln!("nothing to do: {done_before} {all} done before ({})", place(job.grid_dir(), naming.mode));
            } else if specs.is_empty() {
                let all = plural(done_before, "slide");
                eprintln!("{done_before} {all} done before; slide vectors are missing");
            } else if done_before > 0 {
                eprintln!("{done_before} done before, {} to do", specs.len());
            }
        }
        for (id, why) in &redone {
            log.event("slide-redone", json!({ "id": id, "why": why }));
        }
        let started_event = json!({
            "schema": LogFormat::SCHEMA, "grid": job.grid_name(), "artefact": job.goal_name(),
            "slides": slides.len(), "done_before": done_before, "to_do": specs.len(),
        });
        if nothing {
            log.event("run-started", started_event);
            log.event("run-ended", json!({ "slides_done": 0, "slides_failed": 0, "exit_code": 0 }));
            job.write_manifest()?;
            return Ok(Start::Done(ExitCode::SUCCESS));
        }
        let meter = Arc::new(Meter::default());
        let progress = Progress::start(run.progress, log, specs.len() as u64, &meter);
        let stop = signals.begin();
        if run.wait_for_space {
            job.wait_for_space(waiter(progress.teller(), stop.clone()));
        }
        let exit_on_term = run.exit_on_term;
        let state = {
            let (meter, slides) = (meter.clone(), specs.len() as u64);
            move || WorkerState {
                slides,
                slides_done: meter.slides_done.get(),
                slides_failed: meter.slides_failed.get(),
                tiles_done: meter.tiles_done.get(),
                current: meter.current(),
                ..WorkerState::default()
            }
        };
        let timeout = Duration::from_secs(run.lease_timeout);
        let join = || Leases::join(&run.out, &job.grid_name(), job.goal_name(), timeout, state.clone());
        let leases = job.patiently(join)?;
        log.event("run-started", with(started_event, json!({ "worker": leases.worker() })));
        let metrics = run.metrics.clone().map(|file| {
            Metrics::start(file, job.grid_name(), job.goal_name().into(), specs.len() as u64, meter.clone())
        });
        let metrics = metrics.transpose()?;
        let max_failures = run.max_failures;
        let sampler = Sampler::start(meter.clone());
        let session = Session {
            log,
            metrics,
            slides,
            specs,
            naming,
            failed_before,
            leases,
            max_failures,
            done_before,
            meter,
            progress,
            sampler,
            stop,
            exit_on_term,
            started,
        };
        Ok(Start::Go(Box::new(session), Box::new(job)))
    }

    /// All slides of the run, also those that are done.
    pub fn slides(&self) -> &[SlideSpec] {
        &self.slides
    }

    /// Whether any tiles are to be read.
    pub fn has_tiles(&self) -> bool {
        !self.specs.is_empty()
    }

    /// Prints a line.
    pub fn say(&self, text: &str) {
        self.progress.line(text);
    }

    /// What prints lines from any thread.
    pub fn teller(&self) -> Teller {
        self.progress.teller()
    }

    /// Does the work, which calls [`Job::begin`] when nothing can keep it from starting, and tells how it went.
    ///
    /// # Errors
    /// What ended the whole run.
    pub fn run(self, job: &Job, work: impl FnOnce(&Running) -> Result<()>) -> Result<ExitCode> {
        let Session {
            specs,
            naming,
            failed_before,
            leases,
            max_failures,
            log,
            metrics,
            done_before,
            meter,
            progress,
            sampler,
            stop,
            exit_on_term,
            started,
            slides: _,
        } = self;
        let any_tiles = !specs.is_empty();
        let failures = Mutex::new(Vec::new());
        let failed_elsewhere = |spec: &SlideSpec, note: &FailureNote| {
            progress.slide_line(&meter, &format!("{}: failed in another worker: {}", spec.id, note.message));
            let told = json!({ "id": spec.id, "kind": note.kind, "message": note.message, "here": false });
            log.event("slide-failed", told);
            let message = format!("{} (in another worker)", note.message);
            let failure = Failure { id: spec.id.clone(), kind: note.kind.clone(), message };
            failures.lock().unwrap_or_else(PoisonError::into_inner).push(failure);
        };
        let running = Running {
            queue: Queue::new(job, &leases, specs, failed_before, &failed_elsewhere),
            leases: &leases,
            meter: &meter,
            stop: &stop,
            job,
            naming: &naming,
            log,
            progress: &progress,
            failures: &failures,
            doubts: Mutex::default(),
            failed: AtomicUsize::new(0),
            max_failures: max_failures.map_or(usize::MAX, NonZeroUsize::get),
            outage: Outage::default(),
        };
        let mut result = running.outage.judge(work(&running));
        let elsewhere = running.queue.done_elsewhere();
        let doubts = running.doubts.into_inner().unwrap_or_else(PoisonError::into_inner);
        let gave_up = max_failures.filter(|n| running.failed.into_inner() >= n.get());
        let shown = progress.shows();
        drop((progress, metrics));
        let failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
        let samples = sampler.finish();
        if job.has_begun() && any_tiles {
            job.keep_run(leases.worker(), &meter, samples);
        }
        // The last worker to leave sums up what all have done; summing up takes a look at every record.
        let manifest =
            leases.leave().and_then(|last| if last && job.has_begun() { job.write_manifest() } else { Ok(()) });
        // Of a run that could not start there is nothing to tell but why.
        let ran = result.is_ok() || meter.tiles_done.get() + meter.slides_done.get() > 0;
        if log.is_text() && ((shown && ran && any_tiles) || !failures.is_empty()) {
            let table = summary::table(&meter, started.elapsed(), done_before, elsewhere, &failures, &doubts);
            eprint!("{table}");
        }
        if let (Some(n), Err(Error::Interrupted)) = (gave_up, &result) {
            if log.is_text() {
                eprintln!("stopped after {n} {}, as --max-failures says", plural(n.get(), "failure"));
            }
            result = Ok(());
        }
        let exit_code = match &result {
            Ok(()) if failures.is_empty() => 0,
            Ok(()) => SOME_FAILED,
            Err(Error::Interrupted) => exit_on_term,
            Err(e) => e.exit_code(),
        };
        log.event(
            "run-ended",
            json!({
                "slides_done": meter.slides_done.get(), "slides_failed": failures.len(), "slides_done_elsewhere": elsewhere,
                "tiles": meter.tiles_done.get(), "seconds": started.elapsed().as_secs_f64(), "exit_code": exit_code,
            }),
        );
        if shown && result.is_ok() && meter.slides_done.get() > 0 {
            eprintln!("{} in {}", job.goal_name(), place(job.grid_dir(), naming.mode));
        }
        if let Err(Error::Interrupted) = result {
            if log.is_text() {
                eprintln!("paraffin: {}: run the same command again to go on", Error::Interrupted);
            }
            result = Ok(());
        }
        result?;
        manifest?;
        Ok(ExitCode::from(exit_code))
    }
}

/// Two objects in one.
fn with(mut object: Value, more: Value) -> Value {
    if let (Some(object), Value::Object(more)) = (object.as_object_mut(), more) {
        object.extend(more);
    }
    object
}

/// The slides of a plan, or of a share of it, and the ids that it gives them.
fn planned(file: &Path, out: &Path, shard: Option<Shard>) -> Result<(Discovery, Option<Vec<String>>)> {
    let (plan, slides) = Plan::read(file, out)?;
    let costs: Vec<(&str, u64)> = plan.slides.iter().map(|s| (s.id.as_str(), s.cost)).collect();
    let mine = shard.map_or_else(|| (0..slides.len()).collect(), |shard| shard.of_costs(&costs));
    let ids = mine.iter().map(|&i| plan.slides[i].id.clone()).collect();
    let slides = mine.iter().map(|&i| slides[i].clone()).collect();
    Ok((Discovery { slides, skipped: BTreeMap::new() }, Some(ids)))
}

/// That slides still go by the ids of their plan.
fn check_ids(slides: &[SlideSpec], planned: &[String]) -> Result<()> {
    let differ = slides.iter().zip(planned).find(|(slide, id)| slide.id != **id);
    match differ {
        None => Ok(()),
        Some((slide, id)) => Err(Error::Usage(format!(
            "the plan is out of date: the slide that it calls {id} would be {} now; make a new plan",
            slide.id
        ))),
    }
}

/// Gives rayon's pool so many threads, or as many as there are cores.
pub(super) fn use_threads(threads: Option<usize>) {
    // 0 stands for the cores; fails only if somebody made the pool before.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(threads.unwrap_or(0).min(512)).build_global();
}

/// A slide's failure as it is told. Readers leave the slide's name out; where names are hidden, nothing is left to chance.
pub fn told(error: &Error, slide: &Path, ids: IdMode) -> String {
    match error {
        _ if !ids.hides_names() => error.to_string(),
        // Words that nobody wrote for a user to read: they may quote what was being read.
        Error::Internal(_) => "an internal failure; run it alone with --ids keep to another OUT to see which".into(),
        _ => redact::message(&error.to_string(), Some(slide)),
    }
}

/// The grid directory as it is told.
fn place(grid_dir: &Path, ids: IdMode) -> String {
    match grid_dir.file_name() {
        Some(name) if ids.hides_names() => format!("OUT/{}", name.to_string_lossy()),
        _ => format!("\"{}\"", grid_dir.display()),
    }
}

/// Endings that are told where names are hidden, besides those of slides: another may be part of a name.
const PLAIN_ENDINGS: &[&str] =
    &["", "csv", "dat", "ini", "jpeg", "jpg", "json", "md", "pdf", "png", "txt", "xml", "zip"];

/// What was found, in a line.
pub fn found_line(found: &Discovery, ids: IdMode) -> String {
    let list = |kinds: BTreeMap<String, usize>| {
        let mut told: BTreeMap<&str, usize> = BTreeMap::new();
        for (kind, n) in &kinds {
            let plain = PLAIN_ENDINGS.contains(&kind.as_str()) || EXTENSIONS.contains(&kind.as_str());
            let kind = match kind.as_str() {
                "" => "without ending",
                _ if ids.hides_names() && !plain => "of other endings",
                kind => kind,
            };
            *told.entry(kind).or_default() += n;
        }
        told.iter().map(|(kind, n)| format!("{n} {kind}")).collect::<Vec<_>>().join(", ")
    };
    let n = found.slides.len();
    let mut line = format!("{n} {} ({})", plural(n, "slide"), list(found.formats()));
    let skipped: usize = found.skipped.values().sum();
    if skipped > 0 {
        let kinds = list(found.skipped.clone());
        line += &format!("; {skipped} {} skipped, not slides ({kinds})", plural(skipped, "file"));
    }
    line
}
