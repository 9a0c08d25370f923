//! The decoded blocks of one slide that tiles still need: each is decoded once, by whoever needs it first, and let go when
//! its last tile has it.
//!
//! Memory: at most [`BUDGET_BYTES`] a slide. With tiles in row order that holds the two block rows that neighbouring rows of
//! tiles share, up to slides of some 80,000 pixels' width at full scale; beyond it a block is decoded again rather than kept.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use crate::codec::Scratch;
use crate::error::Error;
use crate::icc::ToSrgb;
use crate::slide::region::{Part, parts};
use crate::slide::{BlockAt, Level, SlideReader};
use crate::tiling::ReadPlan;

/// Most bytes of decoded blocks that are kept for one slide.
pub const BUDGET_BYTES: usize = 192 << 20;

type Decoded = Result<Vec<u8>, Arc<Error>>;

/// The blocks of one slide.
pub struct BlockStore {
    columns: u32,
    /// Bytes of a decoded row of a block.
    pub pitch: usize,
    bytes: usize,
    /// Tiles that still need each block.
    uses: Vec<AtomicU32>,
    slots: Mutex<HashMap<u32, Arc<OnceLock<Decoded>>>>,
    free: Mutex<Vec<Vec<u8>>>,
    kept: AtomicUsize,
    /// Blocks that some tile needs.
    pub needed: u64,
    decoded: AtomicU64,
    /// Tiles whose bytes were asked for.
    asked: AtomicUsize,
    /// Blocks whose bytes were: neighbouring tiles share some.
    asked_blocks: Vec<AtomicBool>,
    /// Applied to every block once, when it is decoded: at the level's resolution, before anything is resampled.
    colours: Option<ToSrgb>,
}

/// Most bytes of pixels whose compressed bytes are asked for at a time.
const AHEAD_BYTES: usize = 64 << 20;

impl BlockStore {
    /// Counts which blocks the tiles need. `colours` is what decoded pixels are brought to sRGB with, if they are.
    #[must_use]
    pub fn new(level: &Level, plan: &ReadPlan, tiles: &[[i64; 2]], colours: Option<ToSrgb>) -> Self {
        let (columns, rows) = level.block_grid();
        let divisor = plan.scale.divisor();
        let pitch = (level.block_width / divisor) as usize * 3;
        let mut uses = vec![0u32; columns as usize * rows as usize];
        for [x, y] in tiles {
            for part in parts(level, &plan.footprint(*x, *y).0) {
                let block = &mut uses[(part.block.row * columns + part.block.col) as usize];
                *block = block.saturating_add(1);
            }
        }
        BlockStore {
            columns,
            pitch,
            bytes: pitch * (level.block_height / divisor) as usize,
            needed: uses.iter().filter(|n| **n > 0).count() as u64,
            asked_blocks: uses.iter().map(|_| AtomicBool::new(false)).collect(),
            uses: uses.into_iter().map(AtomicU32::new).collect(),
            slots: Mutex::new(HashMap::new()),
            free: Mutex::new(Vec::new()),
            kept: AtomicUsize::new(0),
            decoded: AtomicU64::new(0),
            asked: AtomicUsize::new(0),
            colours,
        }
    }

    /// Leaves out the first tiles of the plan, which nobody will read. Call it before any tile is read.
    pub fn skip(&mut self, level: &Level, plan: &ReadPlan, tiles: &[[i64; 2]]) {
        for [x, y] in tiles {
            for part in parts(level, &plan.footprint(*x, *y).0) {
                let uses = self.uses[(part.block.row * self.columns + part.block.col) as usize].get_mut();
                *uses = uses.saturating_sub(1);
            }
        }
        self.needed = self.uses.iter_mut().map(|uses| *uses.get_mut()).filter(|uses| *uses > 0).count() as u64;
        *self.asked.get_mut() = tiles.len();
    }

    /// Whether pixels are brought to sRGB.
    #[must_use]
    pub fn in_srgb(&self) -> bool {
        self.colours.is_some()
    }

    /// What lies outside the slide: white, in the colours that pixels have.
    #[must_use]
    pub fn outside(&self) -> [u8; 3] {
        let mut white = [255; 3];
        if let Some(colours) = &self.colours {
            colours.apply(&mut white);
        }
        white
    }

    /// Blocks decoded so far; equal to `needed` at the end unless the budget was too small.
    #[must_use]
    pub fn decoded(&self) -> u64 {
        self.decoded.load(Ordering::Relaxed)
    }

    /// Asks the operating system for the blocks of the tiles after the one at `row`, some hundred tiles at a time and in the
    /// file's order: a disk or a network share then sees long reads, and nobody waits for single ones.
    pub fn read_ahead(&self, reader: &dyn SlideReader, level: &Level, plan: &ReadPlan, tiles: &[[i64; 2]], row: usize) {
        let (region, _) = plan.footprint(0, 0);
        let chunk = (AHEAD_BYTES / (region.width as usize * region.height as usize * 3).max(1)).clamp(1, 128);
        let wanted = ((row / chunk + 2) * chunk).min(tiles.len());
        let asked = self.asked.fetch_max(wanted, Ordering::Relaxed);
        if asked >= wanted {
            return;
        }
        let regions = tiles[asked..wanted].iter().map(|[x, y]| plan.footprint(*x, *y).0);
        let mut blocks: Vec<BlockAt> = regions.flat_map(|r| parts(level, &r).map(|part| part.block)).collect();
        blocks.retain(|at| !self.asked_blocks[self.index(*at) as usize].swap(true, Ordering::Relaxed));
        blocks.sort_unstable();
        reader.read_ahead(&blocks);
    }

    fn index(&self, at: BlockAt) -> u32 {
        at.row * self.columns + at.col
    }

    fn decode(
        &self,
        reader: &dyn SlideReader,
        plan: &ReadPlan,
        at: BlockAt,
        scratch: &mut Scratch,
        out: &mut [u8],
        pitch: usize,
    ) -> Result<(), Arc<Error>> {
        reader.decode_block(at, plan.scale, scratch, out, pitch).map_err(Arc::new)?;
        if let Some(colours) = &self.colours {
            let rows = self.bytes / self.pitch;
            out.chunks_mut(pitch).take(rows).for_each(|row| colours.apply(&mut row[..self.pitch]));
        }
        self.decoded.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Decodes a block straight to where its only tile wants it; `false` if it has other tiles or was decoded before.
    pub fn decode_in_place(
        &self,
        reader: &dyn SlideReader,
        plan: &ReadPlan,
        part: &Part,
        scratch: &mut Scratch,
        out: &mut [u8],
        pitch: usize,
    ) -> Result<bool, Arc<Error>> {
        let index = self.index(part.block);
        let sole = part.whole && self.uses[index as usize].load(Ordering::Acquire) == 1;
        if !sole || self.lock().contains_key(&index) {
            return Ok(false);
        }
        self.uses[index as usize].store(0, Ordering::Release);
        self.decode(reader, plan, part.block, scratch, out, pitch)?;
        Ok(true)
    }

    /// Gives a block's pixels to `with`, decoding it if nobody has yet, and notes that one tile less needs it.
    pub fn with_block(
        &self,
        reader: &dyn SlideReader,
        plan: &ReadPlan,
        at: BlockAt,
        scratch: &mut Scratch,
        with: impl FnOnce(&[u8]),
    ) -> Result<(), Arc<Error>> {
        let index = self.index(at);
        let slot = {
            let mut slots = self.lock();
            match slots.get(&index) {
                Some(slot) => slot.clone(),
                None => {
                    let slot = Arc::new(OnceLock::new());
                    if self.kept.load(Ordering::Relaxed) + self.bytes <= BUDGET_BYTES {
                        self.kept.fetch_add(self.bytes, Ordering::Relaxed);
                        slots.insert(index, slot.clone());
                    }
                    slot
                }
            }
        };
        let decoded = slot.get_or_init(|| {
            let mut pixels = self.free.lock().ok().and_then(|mut f| f.pop()).unwrap_or_default();
            pixels.resize(self.bytes, 0);
            self.decode(reader, plan, at, scratch, &mut pixels, self.pitch)?;
            Ok(pixels)
        });
        let result = match decoded {
            Ok(pixels) => {
                with(pixels);
                Ok(())
            }
            Err(e) => Err(e.clone()),
        };
        self.release(index, slot);
        result
    }

    fn release(&self, index: u32, slot: Arc<OnceLock<Decoded>>) {
        if self.uses[index as usize].fetch_sub(1, Ordering::AcqRel) == 1 && self.lock().remove(&index).is_some() {
            self.kept.fetch_sub(self.bytes, Ordering::Relaxed);
        }
        // The last holder gives the buffer back for the next block.
        if let Some(Ok(pixels)) = Arc::into_inner(slot).and_then(OnceLock::into_inner)
            && let Ok(mut free) = self.free.lock()
            && free.len() < 64
        {
            free.push(pixels);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u32, Arc<OnceLock<Decoded>>>> {
        // A panic elsewhere leaves the map whole: it is changed in single steps.
        self.slots.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
