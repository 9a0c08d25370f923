//! One long pipeline over many slides: while the model works on one, the next is opened and its tiles are read. The only
//! place where slides and encoders meet.
//!
//! ```text
//! opener ──planned slides (1)──▶ readers (R) ──batches (pool)──▶ encoders (M) ──rows──▶ writer ──▶ publish
//! ```
//!
//! Batches are filled across slide borders and have one shape; only the run's last ones are padded. A tile's embedding does not
//! depend on its place in a batch, so features do not depend on threads, neighbours or interruptions.
//!
//! **Memory** is what these bounds hold, whatever a slide's size: three planned slides (one waiting, one being planned, one
//! being read) with a low-power picture each, [`blocks::BUDGET_BYTES`] of decoded blocks, `2 M + R` batches of tiles but at
//! least [`AHEAD`] tiles, a chunk of rows per open feature file, and the model itself. Two kinds of slides add to it: those of
//! placed blocks (`slide::placed`) up to 128 MiB of stored blocks each, flat pictures (`slide::flat`) all of their pixels, which
//! are bounded too.

pub mod blocks;
pub mod canary;
pub mod meter;
mod pool;
pub mod prepare;
pub mod read;
pub mod resume;
pub mod segment;
pub mod tissue;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::encoder::Encoder;
use crate::encoder::card::Input;
use crate::error::{Error, Result};
use crate::features::FeatureWriter;
use meter::Meter;
use pool::Pool;
use prepare::{PlannedSlide, PrepareOptions, SlideSpec, prepare};
use read::TileReader;
use resume::{Begun, Patience, Resume};

/// What a finished slide went through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Rows in the feature file.
    pub written: u64,
    /// Tiles, by their place in the plan, that could not be read and have no row.
    pub unreadable: Vec<usize>,
}

/// Where a slide is to be read.
pub struct Fetched {
    /// Its file, or that of its copy.
    pub path: PathBuf,
    /// What keeps the copy there.
    pub copy: Option<Box<dyn Send + Sync>>,
}

/// Takes a slide whose rows are all written.
pub type Publish<'a> = dyn Fn(&PlannedSlide, Box<dyn FeatureWriter>, Outcome) -> Result<()> + Sync + 'a;

/// Opens the feature file of a slide, with the rows that it goes on from.
pub type OpenWriter<'a> = dyn Fn(&PlannedSlide, Option<&Resume>) -> Result<Box<dyn FeatureWriter>> + Sync + 'a;

/// Takes the rows so far of a slide that is not finished.
pub type Keep<'a> = dyn Fn(&PlannedSlide, Box<dyn FeatureWriter>, &Begun) -> Result<()> + Sync + 'a;

/// What the pipeline hands to its caller; called from its threads.
pub struct Hooks<'a> {
    /// Gives the next slide, or `None` where there is none without waiting for other workers: tiles of slides that are read lie in
    /// batches that are not full, and would wait too.
    pub next: &'a (dyn Fn() -> Option<SlideSpec> + Sync),
    /// Says where a slide is to be read: where it lies, or a copy that is there as long as what is returned.
    pub fetch: &'a (dyn Fn(&SlideSpec) -> Fetched + Sync),
    /// Where a slide goes on that was stopped before; asked when it is planned, and after each [`Hooks::keep`] amid it.
    pub resume: &'a (dyn Fn(&PlannedSlide) -> Option<Resume> + Sync),
    /// Opens the feature file of a slide.
    pub open_writer: &'a OpenWriter<'a>,
    /// Keeps the rows of a slide when the run is stopped, and every [`Staffing::checkpoint_every`].
    pub keep: &'a Keep<'a>,
    /// Takes a slide whose rows are all written; makes it count as done.
    pub publish: &'a Publish<'a>,
    /// Hears of a slide that failed; the run goes on.
    pub failed: &'a (dyn Fn(&SlideSpec, &Error) + Sync),
}

/// Tiles that are read ahead at least: while the model is loaded, the next slide is opened, a disk is slow.
pub const AHEAD: usize = 64;

/// Tiles in a row that a reader takes at a time.
pub const RUN: usize = 16;

/// How a run is staffed.
#[derive(Clone, Copy, Debug)]
pub struct Staffing {
    /// Threads that read tiles.
    pub readers: usize,
    /// Threads that embed them, at most.
    pub encoders: usize,
    /// Tiles in a batch.
    pub batch: usize,
    /// Time after which the rows of a slide are kept, so that a killed run loses no more; `None` for never.
    pub checkpoint_every: Option<Duration>,
    /// How long a run that is to stop waits for the batches in flight before it keeps what is there.
    pub patience: Duration,
}

/// A slide in work.
struct Active {
    number: usize,
    slide: PlannedSlide,
    /// The tile that it begins at, and the rows before it; taken by the writer.
    first: usize,
    resume: Mutex<Option<Resume>>,
    failed: AtomicBool,
    failed_tiles: AtomicU64,
    /// Goes after the slide itself.
    _copy: Option<Box<dyn Send + Sync>>,
}

struct Entry {
    slide: usize,
    row: usize,
    readable: bool,
}

struct Batch {
    tiles: Vec<u8>,
    entries: Vec<Entry>,
}

enum ToWriter {
    Begin(Arc<Active>),
    Rows { entries: Vec<Entry>, values: Vec<f32> },
    Failed { slide: usize, error: Error },
}

/// Embeds the slides that [`Hooks::next`] gives; returns when all are published or failed, or `stop` is set. `open_encoders` gives up to
/// [`Staffing::encoders`]; it is called while the first slide is being opened and read, and before any hook that writes.
///
/// # Errors
/// [`Error::Interrupted`] after `stop`, or the encoders' failure. A slide's own failure goes to [`Hooks::failed`].
#[allow(clippy::too_many_arguments, reason = "the run's parts, each of its own kind, named once at the only call")]
pub fn run(
    options: &PrepareOptions,
    input: &Input,
    open_encoders: impl FnOnce() -> Result<Vec<Box<dyn Encoder>>>,
    staffing: Staffing,
    hooks: &Hooks,
    meter: &Meter,
    stop: &AtomicBool,
) -> Result<()> {
    let fatal: Mutex<Option<Error>> = Mutex::new(None);
    let batch_bytes = staffing.batch * (input.px * input.px * 3) as usize;
    let pool_size = (2 * staffing.encoders + staffing.readers).max(AHEAD / staffing.batch);
    let (planned_tx, planned_rx) = bounded::<Arc<Active>>(1);
    let pool = &Pool::new(pool_size, batch_bytes);
    let (batch_tx, batch_rx) = bounded::<Batch>(pool_size);
    let (row_tx, row_rx) = bounded::<ToWriter>(4 * pool_size);
    // A channel closes when the last holder of its other end is gone, so each thread owns what it uses and nobody else does.
    let dispatcher = Arc::new(Mutex::new(Dispatcher { planned: planned_rx, current: None }));
    let end = &|e| {
        stop.store(true, Ordering::Relaxed);
        if let Ok(mut fatal) = fatal.lock() {
            fatal.get_or_insert(e);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| open_slides(options, planned_tx, hooks, meter, stop));
        for _ in 0..staffing.readers {
            let reader = Reader {
                dispatcher: dispatcher.clone(),
                pool,
                batches: batch_tx.clone(),
                rows: row_tx.clone(),
                options,
                input,
                batch: staffing.batch,
                meter,
                stop,
            };
            scope.spawn(move || reader.run());
        }
        match open_encoders() {
            Ok(encoders) => {
                for encoder in encoders {
                    let (batches, rows) = (batch_rx.clone(), row_tx.clone());
                    scope.spawn(move || {
                        if let Err(e) = embed_batches(encoder, staffing.batch, &batches, &rows, pool, meter, stop) {
                            end(e);
                        }
                        pool.close();
                    });
                }
                drop((dispatcher, batch_tx, batch_rx, row_tx));
                write_rows(row_rx, hooks, meter, staffing, stop);
            }
            Err(e) => {
                end(e);
                pool.close();
                drop((dispatcher, batch_tx, batch_rx, row_tx, row_rx));
            }
        }
    });
    if let Ok(Some(e)) = fatal.into_inner() {
        return Err(e);
    }
    if stop.load(Ordering::Relaxed) {
        return Err(Error::Interrupted);
    }
    Ok(())
}

/// Opens and plans slides, one ahead of the readers.
fn open_slides(
    options: &PrepareOptions,
    planned: Sender<Arc<Active>>,
    hooks: &Hooks,
    meter: &Meter,
    stop: &AtomicBool,
) {
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let Some(spec) = (hooks.next)() else { return };
        let Fetched { path, copy } = (hooks.fetch)(&spec);
        let local = SlideSpec { path, ..spec.clone() };
        match meter.preparing.time(|| guarded(|| prepare(&local, options))) {
            Ok(mut slide) => {
                slide.spec.path.clone_from(&spec.path);
                let resume = (hooks.resume)(&slide);
                let Begun { next: first, unreadable } = resume.as_ref().map(|r| r.begun.clone()).unwrap_or_default();
                slide.skip(first);
                // While the readers are busy with the slide before.
                slide.read_ahead(first);
                meter.tiles_planned.add((slide.tiles.len() - first) as u64);
                meter.tiles_resumed.add(first as u64);
                let (failed, failed_tiles) = (AtomicBool::new(false), AtomicU64::new(unreadable.len() as u64));
                let active =
                    Active { number, slide, first, resume: Mutex::new(resume), failed, failed_tiles, _copy: copy };
                if planned.send(Arc::new(active)).is_err() {
                    return;
                }
            }
            Err(e) => {
                meter.slides_failed.add(1);
                (hooks.failed)(&spec, &e);
            }
        }
    }
}

/// Runs the work on one slide so that a bug it uncovers ends that slide, not the run.
pub fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Err(Error::Internal(format!("a bug in paraffin, please report it: {}", words.unwrap_or("panic"))))
    })
}

/// Hands out tiles in order, over slide borders.
struct Dispatcher {
    planned: Receiver<Arc<Active>>,
    current: Option<(Arc<Active>, usize)>,
}

impl Dispatcher {
    /// The next `n` tiles, fewer only at the run's end; and with them up to [`RUN`] in a row that are there without waiting:
    /// two readers that took turns at tiles of the same blocks would wait for each other's decoding.
    fn next(&mut self, n: usize, rows: &Sender<ToWriter>, meter: &Meter) -> Vec<(Arc<Active>, usize)> {
        let mut tiles = Vec::with_capacity(n.max(RUN));
        while tiles.len() < n.max(RUN) {
            match &mut self.current {
                Some((active, next)) if *next < active.slide.tiles.len() && !active.failed.load(Ordering::Relaxed) => {
                    tiles.push((active.clone(), *next));
                    *next += 1;
                }
                _ if tiles.len() >= n => break,
                _ => {
                    let Ok(active) = meter.readers_wait_slide.time(|| self.planned.recv()) else {
                        self.current = None;
                        break;
                    };
                    meter.set_current(&active.slide.spec.id);
                    // Before any of its rows: the writer opens the file, and closes it at once if there are no tiles.
                    let _ = rows.send(ToWriter::Begin(active.clone()));
                    let first = active.first;
                    self.current = Some((active, first));
                }
            }
        }
        tiles
    }
}

/// One reading thread.
struct Reader<'a> {
    dispatcher: Arc<Mutex<Dispatcher>>,
    pool: &'a Pool,
    batches: Sender<Batch>,
    rows: Sender<ToWriter>,
    options: &'a PrepareOptions,
    input: &'a Input,
    batch: usize,
    meter: &'a Meter,
    stop: &'a AtomicBool,
}

impl Reader<'_> {
    fn run(self) {
        let mut reader = TileReader::default();
        let mut assigned = VecDeque::new();
        let picture = (self.input.px * self.input.px * 3) as usize;
        while !self.stop.load(Ordering::Relaxed) {
            let Some(mut tiles) = self.meter.readers_wait_model.time(|| self.pool.take()) else { return };
            if assigned.len() < self.batch {
                let Ok(mut dispatcher) = self.dispatcher.lock() else { return };
                assigned.extend(dispatcher.next(self.batch - assigned.len(), &self.rows, self.meter));
            }
            let work: Vec<_> = assigned.drain(..self.batch.min(assigned.len())).collect();
            if work.is_empty() {
                self.pool.give(tiles);
                return;
            }
            if let (Some((first, row)), Some((last, last_row))) = (work.first(), work.last()) {
                first.slide.read_ahead(*row);
                if !Arc::ptr_eq(first, last) {
                    last.slide.read_ahead(*last_row);
                }
            }
            let entries = self.meter.reading.time(|| {
                let slots = work.iter().zip(tiles.chunks_exact_mut(picture));
                slots
                    .map(|((active, row), out)| Entry {
                        slide: active.number,
                        row: *row,
                        readable: self.read(&mut reader, active, *row, out),
                    })
                    .collect()
            });
            if self.batches.send(Batch { tiles, entries }).is_err() {
                return;
            }
        }
    }

    /// Reads one tile as the encoder wants it; `false` where it could not be read.
    fn read(&self, reader: &mut TileReader, active: &Active, row: usize, out: &mut [u8]) -> bool {
        if active.failed.load(Ordering::Relaxed) {
            return false;
        }
        let (slide, filter) = (&active.slide, self.options.tiling.resample);
        let result = guarded(|| Ok(reader.read_input(slide, row, filter, self.input, out)));
        let why = match result {
            Ok(Ok(())) => return true,
            Ok(Err(e)) => e.to_string(),
            Err(e) => e.to_string(),
        };
        self.meter.tiles_failed.add(1);
        let failed = active.failed_tiles.fetch_add(1, Ordering::Relaxed) + 1;
        if failed > self.options.allow_failed_tiles && !active.failed.swap(true, Ordering::Relaxed) {
            let [x, y] = slide.tiles[row];
            let allowed = match self.options.allow_failed_tiles {
                0 => "--allow-failed-tiles N accepts some".to_string(),
                n => format!("more than the {n} that --allow-failed-tiles accepts"),
            };
            let error = Error::Damaged(format!("the tile at x {x}, y {y} (level 0) cannot be read: {why} ({allowed})"));
            let _ = self.rows.send(ToWriter::Failed { slide: active.number, error });
        }
        false
    }
}

/// One thread that owns an encoder.
fn embed_batches(
    mut encoder: Box<dyn Encoder>,
    batch: usize,
    batches: &Receiver<Batch>,
    rows: &Sender<ToWriter>,
    pool: &Pool,
    meter: &Meter,
    stop: &AtomicBool,
) -> Result<()> {
    let mut first = true;
    loop {
        let received =
            if std::mem::take(&mut first) { batches.recv() } else { meter.model_waits.time(|| batches.recv()) };
        let Ok(Batch { tiles, entries }) = received else { return Ok(()) };
        // What was read ahead is not computed any more: a large model would take minutes for it.
        if stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut values = Vec::new();
        meter.embedding.time(|| encoder.embed(&tiles, batch, &mut values))?;
        meter.tiles_done.add(entries.len() as u64);
        pool.give(tiles);
        if rows.send(ToWriter::Rows { entries, values }).is_err() {
            return Ok(());
        }
    }
}

/// Rows that came before their turn, by their place in the plan; `None` for an unreadable tile.
type Early = HashMap<usize, Option<Vec<f32>>>;

/// The rows of one slide on their way to its file.
struct Assembly {
    active: Arc<Active>,
    writer: Box<dyn FeatureWriter>,
    /// The next row in plan order.
    next: usize,
    early: Early,
    outcome: Outcome,
    /// When its rows were last kept, or it began.
    kept: Instant,
}

impl Assembly {
    /// Opens a slide's file, with the rows that it goes on from.
    fn open(active: Arc<Active>, resume: Option<Resume>, hooks: &Hooks) -> Result<Self> {
        let writer = guarded(|| (hooks.open_writer)(&active.slide, resume.as_ref()))?;
        let Begun { next, unreadable } = resume.map(|r| r.begun).unwrap_or_default();
        let outcome = Outcome { written: (next - unreadable.len()) as u64, unreadable };
        Ok(Assembly { active, writer, next, early: HashMap::new(), outcome, kept: Instant::now() })
    }

    /// Keeps the rows so far; only those in the plan's order, without a gap.
    fn keep(self, hooks: &Hooks) -> Result<(Arc<Active>, Early)> {
        let Assembly { active, writer, next, early, outcome, .. } = self;
        let begun = Begun { next, unreadable: outcome.unreadable };
        guarded(|| (hooks.keep)(&active.slide, writer, &begun))?;
        Ok((active, early))
    }

    /// Keeps the rows so far and goes on from them.
    fn keep_and_go_on(self, hooks: &Hooks) -> Result<Self> {
        let next = self.next;
        let (active, early) = self.keep(hooks)?;
        let resume = (hooks.resume)(&active.slide).filter(|r| r.begun.next == next);
        if resume.is_none() {
            return Err(Error::Output("its checkpoint is gone: another run works on this slide".into()));
        }
        Ok(Assembly { early, ..Assembly::open(active, resume, hooks)? })
    }

    fn put(&mut self, row: usize, values: Option<&[f32]>) -> Result<()> {
        if row != self.next {
            self.early.insert(row, values.map(<[f32]>::to_vec));
            return Ok(());
        }
        self.append(values)?;
        while let Some(values) = self.early.remove(&self.next) {
            self.append(values.as_deref())?;
        }
        Ok(())
    }

    fn append(&mut self, values: Option<&[f32]>) -> Result<()> {
        let row = self.next;
        self.next += 1;
        match values {
            Some(values) => {
                self.outcome.written += 1;
                self.writer.push(values, &[self.active.slide.tiles[row]])
            }
            None => {
                self.outcome.unreadable.push(row);
                Ok(())
            }
        }
    }
}

/// How often a run that waits for rows looks whether it is to stop.
const TICK: Duration = Duration::from_millis(100);

/// Brings rows into plan order, writes them, and publishes slides whose rows are all there. After `stop` it keeps the rows of
/// the others, when the last batch in flight is there or [`Staffing::patience`] is over.
fn write_rows(rows: Receiver<ToWriter>, hooks: &Hooks, meter: &Meter, staffing: Staffing, stop: &AtomicBool) {
    let mut open: BTreeMap<usize, Assembly> = BTreeMap::new();
    let fail = |slide: &PlannedSlide, error: &Error| {
        // A run that was stopped while it waited has not failed.
        if !matches!(error, Error::Interrupted) {
            meter.slides_failed.add(1);
            (hooks.failed)(&slide.spec, error);
        }
    };
    let mut patience = Patience::new(stop, staffing.patience);
    while !patience.is_over() {
        let message = match rows.recv_timeout(TICK) {
            Ok(message) => message,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => break,
        };
        meter.writing.time(|| match message {
            ToWriter::Begin(active) => {
                let resume = active.resume.lock().ok().and_then(|mut resume| resume.take());
                match Assembly::open(active.clone(), resume, hooks) {
                    Ok(assembly) => {
                        let number = active.number;
                        open.insert(number, assembly);
                        publish_if_whole(&mut open, number, hooks, meter, &fail);
                    }
                    Err(e) => {
                        active.failed.store(true, Ordering::Relaxed);
                        fail(&active.slide, &e);
                    }
                }
            }
            ToWriter::Rows { entries, values } => {
                for (i, entry) in entries.iter().enumerate() {
                    // A slide that failed is gone; what was in flight of it is dropped.
                    let Some(mut assembly) = open.remove(&entry.slide) else { continue };
                    let active = assembly.active.clone();
                    let dim = assembly.writer.dim();
                    let values = entry.readable.then(|| &values[i * dim..(i + 1) * dim]);
                    let whole = |a: &Assembly| a.next == a.active.slide.tiles.len();
                    let put = assembly.put(entry.row, values).and_then(|()| match staffing.checkpoint_every {
                        Some(every) if assembly.kept.elapsed() >= every && !whole(&assembly) => {
                            assembly.keep_and_go_on(hooks)
                        }
                        _ => Ok(assembly),
                    });
                    match put {
                        Ok(assembly) => {
                            open.insert(entry.slide, assembly);
                            publish_if_whole(&mut open, entry.slide, hooks, meter, &fail);
                        }
                        Err(e) => {
                            active.failed.store(true, Ordering::Relaxed);
                            fail(&active.slide, &e);
                        }
                    }
                }
            }
            ToWriter::Failed { slide, error } => {
                if let Some(assembly) = open.remove(&slide) {
                    fail(&assembly.active.slide, &error);
                }
            }
        });
    }
    // Nothing is open here unless the run was stopped. Nobody waits to hand over more rows.
    drop(rows);
    for assembly in open.into_values().filter(|a| a.next > 0) {
        let active = assembly.active.clone();
        if let Err(e) = meter.writing.time(|| assembly.keep(hooks)) {
            fail(&active.slide, &e);
        }
    }
}

fn publish_if_whole(
    open: &mut BTreeMap<usize, Assembly>,
    number: usize,
    hooks: &Hooks,
    meter: &Meter,
    fail: &impl Fn(&PlannedSlide, &Error),
) {
    let whole = open.get(&number).is_some_and(|a| a.next == a.active.slide.tiles.len());
    let Some(assembly) = whole.then(|| open.remove(&number)).flatten() else { return };
    let slide = &assembly.active.slide;
    meter.blocks_needed.add(slide.blocks.needed);
    meter.blocks_decoded.add(slide.blocks.decoded());
    match guarded(|| (hooks.publish)(slide, assembly.writer, assembly.outcome)) {
        Ok(()) => meter.slides_done.add(1),
        Err(e) => fail(slide, &e),
    }
}
