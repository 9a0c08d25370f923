//! One tile: its blocks put together, reduced to tile pixels, brought to what the encoder takes.

use std::sync::Arc;

use super::prepare::PlannedSlide;
use crate::codec::Scratch;
use crate::encoder::card::Input;
use crate::encoder::preprocess;
use crate::error::Error;
use crate::resample::{Filter, Resampler};
use crate::slide::region::{copy_part, is_inside, parts};

/// One thread's decoders and buffers for reading tiles, of any slides.
#[derive(Default)]
pub struct TileReader {
    scratch: Scratch,
    resampler: Resampler,
    mosaic: Vec<u8>,
    tile: Vec<u8>,
}

impl TileReader {
    /// Reads the tile at `row` of the plan as the encoder takes it: `input.px * input.px` interleaved RGB pixels.
    ///
    /// # Errors
    /// As [`TileReader::read`].
    pub fn read_input(
        &mut self,
        slide: &PlannedSlide,
        row: usize,
        filter: Filter,
        input: &Input,
        out: &mut [u8],
    ) -> Result<(), Arc<Error>> {
        let px = slide.plan.tile_px;
        if preprocess::fits_already(px, input) {
            return self.read(slide, slide.tiles[row], filter, out);
        }
        let mut tile = std::mem::take(&mut self.tile);
        tile.resize(px as usize * px as usize * 3, 0);
        let read = self.read(slide, slide.tiles[row], filter, &mut tile).and_then(|()| {
            let fitted = preprocess::fit(&mut self.resampler, &tile, px, input, out);
            fitted.map_err(|why| Arc::new(Error::Internal(why)))
        });
        self.tile = tile;
        read
    }

    /// Reads the tile at `tile` (level-0 pixels) into `out`: `tile_px * tile_px` interleaved RGB pixels. What lies outside
    /// the slide is white. Each tile of a plan must be read exactly once: its blocks are let go with their last tile.
    ///
    /// # Errors
    /// The failure of the first of its blocks that could not be decoded.
    pub fn read(
        &mut self,
        slide: &PlannedSlide,
        tile: [i64; 2],
        filter: Filter,
        out: &mut [u8],
    ) -> Result<(), Arc<Error>> {
        let plan = &slide.plan;
        let level = slide.level();
        let (region, crop) = plan.footprint(tile[0], tile[1]);
        let (width, height) = (region.width as usize, region.height as usize);
        let direct = plan.is_direct();
        let pixels: &mut [u8] = if direct {
            &mut *out
        } else {
            self.mosaic.resize(width * height * 3, 0);
            &mut self.mosaic
        };
        if !is_inside(level, &region) {
            pixels.as_chunks_mut::<3>().0.fill(slide.blocks.outside());
        }
        let reader = slide.slide.reader.as_ref();
        let block_width = slide.blocks.pitch / 3;
        let resampling = |why: String| Arc::new(Error::Internal(format!("resampling: {why}")));
        if !direct {
            self.resampler.begin(filter, (region.width, region.height), crop, plan.tile_px).map_err(resampling)?;
        }
        let mut failure = None;
        let mut row_of_blocks = None;
        for part in parts(level, &region) {
            // The row of blocks above is whole, and still in the processor's cache.
            if !direct && row_of_blocks.is_some_and(|row| row != part.block.row) && failure.is_none() {
                self.resampler.feed(pixels, part.y).map_err(resampling)?;
            }
            row_of_blocks = Some(part.block.row);
            let scratch = &mut self.scratch;
            let place = &mut pixels[(part.y * width + part.x) * 3..];
            let done = match slide.blocks.decode_in_place(reader, plan, &part, scratch, place, width * 3) {
                Ok(true) => Ok(()),
                Ok(false) => slide.blocks.with_block(reader, plan, part.block, scratch, |block| {
                    copy_part(&part, block, block_width, pixels, width);
                }),
                Err(e) => Err(e),
            };
            // The other blocks are still counted down, or they would be kept for nobody.
            if let Err(e) = done {
                failure.get_or_insert(e);
            }
        }
        if let Some(e) = failure {
            return Err(e);
        }
        if !direct {
            self.resampler.finish(&self.mosaic, out).map_err(resampling)?;
        }
        Ok(())
    }
}
