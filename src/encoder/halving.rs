//! An encoder on a card whose memory may not do for the batch: the batch is halved, once for all that use the card, and the
//! run goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Encoder;
use crate::error::{Error, Result};

/// Called with the number of tiles that are computed at a time from now on.
pub type Tell = dyn Fn(usize) + Send + Sync;

/// How many tiles a card's encoders compute at a time.
pub struct Limit {
    tiles: AtomicUsize,
    tell: Box<Tell>,
}

impl Limit {
    /// Begins with whole batches of `batch` tiles; `tell` hears of every halving.
    #[must_use]
    pub fn new(batch: usize, tell: Box<Tell>) -> Arc<Self> {
        Arc::new(Limit { tiles: AtomicUsize::new(batch.max(1)), tell })
    }

    /// Tiles at a time at present.
    #[must_use]
    pub fn tiles(&self) -> usize {
        self.tiles.load(Ordering::Relaxed)
    }

    /// Halves what did not fit, unless somebody else has meanwhile; `false` where it was a single tile.
    fn halve(&self, tried: usize) -> bool {
        if tried <= 1 {
            return false;
        }
        let half = tried.div_ceil(2);
        if self.tiles.compare_exchange(tried, half, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            (self.tell)(half);
        }
        true
    }
}

/// An encoder that computes a batch in parts of [`Limit::tiles`].
pub struct Halving<E> {
    encoder: E,
    limit: Arc<Limit>,
    part: Vec<f32>,
}

impl<E: Encoder> Halving<E> {
    /// Wraps one thread's encoder.
    #[must_use]
    pub fn new(encoder: E, limit: Arc<Limit>) -> Self {
        Halving { encoder, limit, part: Vec::new() }
    }
}

impl<E: Encoder> Encoder for Halving<E> {
    fn dim(&self) -> usize {
        self.encoder.dim()
    }

    fn embed(&mut self, tiles: &[u8], n: usize, out: &mut Vec<f32>) -> Result<()> {
        out.clear();
        let tile = tiles.len() / n.max(1);
        let mut done = 0;
        while done < n {
            let count = self.limit.tiles().min(n - done);
            match self.encoder.embed(&tiles[done * tile..(done + count) * tile], count, &mut self.part) {
                Ok(()) => {
                    out.extend_from_slice(&self.part);
                    done += count;
                }
                // A rest is smaller than the limit: the limit did fit before, so it is the card that has less now.
                Err(Error::DeviceMemory(why)) => {
                    let tried = if count < self.limit.tiles() && done > 0 { self.limit.tiles() } else { count };
                    if !self.limit.halve(tried) {
                        return Err(Error::DeviceMemory(why));
                    }
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// A tile's embedding is its first byte; more tiles than `fits` run out of memory.
    struct Small {
        fits: usize,
        asked: Vec<usize>,
    }

    impl Encoder for Small {
        fn dim(&self) -> usize {
            1
        }

        fn embed(&mut self, tiles: &[u8], n: usize, out: &mut Vec<f32>) -> Result<()> {
            self.asked.push(n);
            out.clear();
            if n > self.fits {
                out.push(f32::NAN);
                return Err(Error::DeviceMemory("full".into()));
            }
            out.extend(tiles.chunks_exact(tiles.len() / n).map(|t| f32::from(t[0])));
            Ok(())
        }
    }

    fn halving(fits: usize, batch: usize) -> (Halving<Small>, Arc<Mutex<Vec<usize>>>) {
        let told = Arc::new(Mutex::new(Vec::new()));
        let hears = told.clone();
        let limit = Limit::new(batch, Box::new(move |n| hears.lock().expect("whole").push(n)));
        (Halving::new(Small { fits, asked: Vec::new() }, limit), told)
    }

    #[test]
    fn the_rows_are_the_same_and_each_halving_is_told_once() {
        let (mut encoder, told) = halving(3, 11);
        let tiles: Vec<u8> = (0..22).collect();
        let expected: Vec<f32> = (0..11).map(|i| (2 * i) as f32).collect();
        let mut out = vec![9.0];
        for _ in 0..2 {
            encoder.embed(&tiles, 11, &mut out).expect("fits in parts");
            assert_eq!(out, expected);
        }
        assert_eq!(*told.lock().expect("whole"), [6, 3]);
        assert_eq!(encoder.encoder.asked, [11, 6, 3, 3, 3, 2, 3, 3, 3, 2]);
    }

    #[test]
    fn a_single_tile_that_does_not_fit_ends_it() {
        let (mut encoder, told) = halving(0, 4);
        assert!(matches!(encoder.embed(&[0; 4], 4, &mut Vec::new()), Err(Error::DeviceMemory(_))));
        assert_eq!(*told.lock().expect("whole"), [2, 1]);
    }

    #[test]
    fn two_threads_that_fail_together_halve_once() {
        let (first, told) = halving(4, 8);
        assert!(first.limit.halve(8) && first.limit.halve(8));
        assert_eq!((first.limit.tiles(), &told.lock().expect("whole")[..]), (4, &[4][..]));
    }
}
