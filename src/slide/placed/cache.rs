//! Decoded stored blocks that several virtual blocks need: each is decoded once while there is room.
//!
//! The lock is held to find a slot, never while a block is read or decoded: the first thread fills the slot, others that
//! want the same block wait for it alone.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::error::{Error, Result};
use crate::slide::{BlockAt, BlockKind};

/// Most bytes of decoded blocks that are kept for one slide: a row of 512 px blocks over 85,000 px.
const BUDGET_BYTES: usize = 128 << 20;
/// Most blocks that are kept, so that looking for the oldest stays cheap however small blocks are.
const MAX_KEPT: usize = 2048;
/// Most spent buffers that wait for their next block.
const MAX_FREE: usize = 8;

/// One stored block's pixels; empty where the file has none for it.
pub struct Decoded {
    /// Interleaved RGB without gaps.
    pub pixels: Vec<u8>,
    /// Whether the file has the block.
    pub kind: BlockKind,
}

/// Why a block has no pixels, for everyone who waited for it.
enum Failure {
    Block(String),
    Read(io::ErrorKind, String),
}

/// A place for a block that is decoded or being decoded.
#[derive(Default)]
pub struct Slot(OnceLock<Result<Decoded, Failure>>);

impl Slot {
    /// The pixels of a slot that [`BlockCache::get`] gave.
    ///
    /// # Errors
    /// As decoding it said, about the block at `at`.
    pub fn decoded(&self, at: BlockAt) -> Result<&Decoded> {
        match self.0.get() {
            Some(Ok(decoded)) => Ok(decoded),
            Some(Err(Failure::Read(kind, why))) => Err(Error::Read(io::Error::new(*kind, why.clone()))),
            Some(Err(Failure::Block(why))) => {
                Err(Error::Block { level: at.level, col: at.col, row: at.row, why: why.clone() })
            }
            None => Err(Error::Internal("a block was asked for before it was decoded".into())),
        }
    }
}

#[derive(Default)]
struct State {
    kept: HashMap<BlockAt, Kept>,
    bytes: usize,
    clock: u64,
    free: Vec<Vec<u8>>,
}

struct Kept {
    slot: Arc<Slot>,
    bytes: usize,
    used: u64,
}

/// The decoded stored blocks of one slide.
#[derive(Default)]
pub struct BlockCache {
    state: Mutex<State>,
}

impl BlockCache {
    /// The block `at` of `bytes` pixels' bytes; whoever comes first has `decode` fill a buffer of that size with it.
    pub fn get(&self, at: BlockAt, bytes: usize, decode: impl FnOnce(&mut [u8]) -> Result<BlockKind>) -> Arc<Slot> {
        let slot = self.lock().slot(at, bytes);
        let filled = slot.0.get_or_init(|| {
            let mut pixels = self.lock().free.pop().unwrap_or_default();
            pixels.resize(bytes, 0);
            match decode(&mut pixels) {
                Ok(BlockKind::Decoded) => Ok(Decoded { pixels, kind: BlockKind::Decoded }),
                Ok(BlockKind::Background) => {
                    self.lock().give_back(pixels);
                    Ok(Decoded { pixels: Vec::new(), kind: BlockKind::Background })
                }
                Err(Error::Read(e)) => Err(Failure::Read(e.kind(), e.to_string())),
                Err(Error::Block { why, .. }) => Err(Failure::Block(why)),
                Err(e) => Err(Failure::Block(e.to_string())),
            }
        });
        if filled.is_err() {
            // A read may succeed the next time.
            self.lock().remove(at);
        }
        slot
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves the map whole: it is changed in single steps.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn slot(&mut self, at: BlockAt, bytes: usize) -> Arc<Slot> {
        self.clock += 1;
        if let Some(kept) = self.kept.get_mut(&at) {
            kept.used = self.clock;
            return kept.slot.clone();
        }
        let slot = Arc::new(Slot::default());
        if bytes <= BUDGET_BYTES {
            while self.bytes + bytes > BUDGET_BYTES || self.kept.len() >= MAX_KEPT {
                let Some(oldest) = self.kept.iter().min_by_key(|(_, k)| k.used).map(|(at, _)| *at) else { break };
                self.remove(oldest);
            }
            self.bytes += bytes;
            self.kept.insert(at, Kept { slot: slot.clone(), bytes, used: self.clock });
        }
        slot
    }

    fn remove(&mut self, at: BlockAt) {
        let Some(kept) = self.kept.remove(&at) else { return };
        self.bytes -= kept.bytes;
        if let Some(Ok(decoded)) = Arc::into_inner(kept.slot).and_then(|slot| slot.0.into_inner()) {
            self.give_back(decoded.pixels);
        }
    }

    fn give_back(&mut self, pixels: Vec<u8>) {
        if self.free.len() < MAX_FREE && pixels.capacity() > 0 {
            self.free.push(pixels);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn at(col: u32) -> BlockAt {
        BlockAt { level: 0, row: 0, col }
    }

    #[test]
    fn threads_share_a_block_that_is_decoded_once() {
        let (cache, decoded) = (BlockCache::default(), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for col in 0..20 {
                        let slot = cache.get(at(col), 1000, |pixels| {
                            decoded.fetch_add(1, Ordering::Relaxed);
                            pixels.fill(col as u8);
                            Ok(BlockKind::Decoded)
                        });
                        assert!(slot.decoded(at(col)).expect("decoded").pixels.iter().all(|p| *p == col as u8));
                    }
                });
            }
        });
        assert_eq!(decoded.into_inner(), 20);
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_go_first() {
        let cache = BlockCache::default();
        let bytes = BUDGET_BYTES / 4;
        for col in [0, 1, 2, 3, 0, 4] {
            cache.get(at(col), bytes, |_| Ok(BlockKind::Decoded));
        }
        let mut kept: Vec<u32> = cache.lock().kept.keys().map(|at| at.col).collect();
        kept.sort_unstable();
        assert_eq!(kept, [0, 2, 3, 4]);
        assert_eq!(cache.lock().bytes, BUDGET_BYTES);
        // Too large to keep, and still decoded.
        let slot = cache.get(at(9), BUDGET_BYTES + 1, |_| Ok(BlockKind::Decoded));
        assert!(slot.decoded(at(9)).is_ok());
        assert_eq!(cache.lock().kept.len(), 4);
    }

    #[test]
    fn a_failure_reaches_everyone_and_is_tried_again() {
        let cache = BlockCache::default();
        let fail = || Err(Error::Block { level: 7, col: 7, row: 7, why: "bits".into() });
        let slot = cache.get(at(3), 10, |_| fail());
        let Err(Error::Block { level: 0, col: 3, row: 0, why }) = slot.decoded(at(3)).map(|_| ()) else { panic!() };
        assert_eq!(why, "bits");
        assert!(cache.get(at(3), 10, |_| Ok(BlockKind::Background)).decoded(at(3)).is_ok());
    }
}
