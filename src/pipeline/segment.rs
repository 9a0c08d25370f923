//! A segmentation model over a whole slide: the slide streams by at the model's resolution, line by line, and is cut into pictures
//! that overlap; in memory is one row of them, whatever the slide's size.

use std::ops::Range;

use crate::encoder::segment::Segmenter;
use crate::error::{Error, Result};
use crate::resample::{Crop, Filter, Resampler};
use crate::slide::Slide;
use crate::slide::lowpower::{self, Size};
use crate::slide::mpp::Mpp;
use crate::tissue::TissueMask;

/// Levels are taken that are at most a tenth coarser than asked for (`lowpower`): asking for a tenth finer, the model never gets
/// magnified pixels.
const FINER: f64 = (1.0 + 1e-9) / 1.1;

/// Finds tissue by a model; the mask has about `mask_mpp` µm/px, a pixel of it being tissue where at least half of the model's are.
///
/// # Errors
/// Those of reading the slide and of the model.
pub fn segment(slide: &Slide, mpp: Mpp, model: &Segmenter, mask_mpp: f64, allow_failed: u64) -> Result<TissueMask> {
    let wanted = (model.card.input.mpp / mpp.mean() * FINER).max(1.0);
    let source = lowpower::size(slide, wanted);
    // Source pixels per pixel of the model's pictures; below 1 only where the slide itself is coarser.
    let scale = model.card.input.mpp / (mpp.mean() * source.downsample);
    let mut walk = Walk::new(model, source, scale, mask_mpp);
    lowpower::read_lines(slide, wanted, allow_failed, &mut |line| walk.line(line))?;
    walk.finish(slide)
}

struct Walk<'a> {
    model: &'a Segmenter,
    source: Size,
    scale: f64,
    /// Lines from `first_line` on, whole.
    band: Vec<u8>,
    first_line: usize,
    lines: usize,
    /// The next row of pictures.
    row: usize,
    /// Pixels of the model's raster across and down, over the whole slide, and per pixel of the mask.
    raster: (usize, usize),
    per_mask: usize,
    /// Of each mask pixel: model's pixels that are tissue.
    tissue: Vec<u32>,
    resampler: Resampler,
}

impl<'a> Walk<'a> {
    fn new(model: &'a Segmenter, source: Size, scale: f64, mask_mpp: f64) -> Self {
        let side = |px: u32| ((f64::from(px) / scale).ceil() as usize).max(1);
        let raster = (side(source.width), side(source.height));
        let per_mask = ((mask_mpp / model.card.input.mpp).floor() as usize).max(1);
        let mask = raster.0.div_ceil(per_mask) * raster.1.div_ceil(per_mask);
        Walk {
            model,
            source,
            scale,
            band: Vec::new(),
            first_line: 0,
            lines: 0,
            row: 0,
            raster,
            per_mask,
            tissue: vec![0; mask],
            resampler: Resampler::default(),
        }
    }

    fn px(&self) -> usize {
        self.model.card.input.px as usize
    }

    fn overlap(&self) -> usize {
        self.model.card.input.overlap_px as usize
    }

    /// Side of what is kept of a picture.
    fn core(&self) -> usize {
        self.px() - 2 * self.overlap()
    }

    /// The source lines or columns under the picture whose core begins at pixel `core` of the model's raster; it may begin before 0
    /// and end beyond the slide.
    fn under(&self, core: usize) -> (f64, f64) {
        let first = core as f64 - self.overlap() as f64;
        (first * self.scale, (first + self.px() as f64) * self.scale)
    }

    fn line(&mut self, line: &[u8]) -> Result<()> {
        self.band.extend_from_slice(line);
        self.lines += 1;
        while self.row * self.core() < self.raster.1 && self.under(self.row * self.core()).1.ceil() <= self.lines as f64
        {
            self.pictures()?;
        }
        Ok(())
    }

    /// Runs the model over the next row of pictures, and lets lines go that no later one needs.
    fn pictures(&mut self) -> Result<()> {
        let top = self.row * self.core();
        for left in (0..self.raster.0).step_by(self.core()) {
            let picture = self.picture(left, top)?;
            let (found, width, height) = self.model.tissue(&picture)?;
            self.count(&found, width, height, left, top);
        }
        self.row += 1;
        let needed = self.under(self.row * self.core()).0.floor().max(0.0) as usize;
        let gone = needed.min(self.lines).saturating_sub(self.first_line);
        self.band.drain(..gone * self.source.width as usize * 3);
        self.first_line += gone;
        Ok(())
    }

    /// The picture whose core begins at (`left`, `top`) of the model's raster; white outside the slide.
    fn picture(&mut self, left: usize, top: usize) -> Result<Vec<u8>> {
        let ((x0, x1), (y0, y1)) = (self.under(left), self.under(top));
        let (from_x, from_y) = (x0.floor(), y0.floor());
        let (width, height) = ((x1.ceil() - from_x) as usize, (y1.ceil() - from_y) as usize);
        let mut region = vec![255u8; width * height * 3];
        let source_width = self.source.width as usize;
        let inside = |from: f64, side: usize, end: usize| -> Range<usize> {
            (from.max(0.0) as usize).min(end)..((from + side as f64).max(0.0) as usize).min(end)
        };
        let columns = inside(from_x, width, source_width);
        for y in inside(from_y, height, self.lines) {
            let line = &self.band[(y - self.first_line) * source_width * 3..][..source_width * 3];
            let at = ((y as f64 - from_y) as usize * width + (columns.start as f64 - from_x) as usize) * 3;
            region[at..at + columns.len() * 3].copy_from_slice(&line[columns.start * 3..columns.end * 3]);
        }
        let px = self.px();
        if (width, height) == (px, px) && self.scale == 1.0 {
            return Ok(region);
        }
        let crop = Crop { left: x0 - from_x, top: y0 - from_y, width: x1 - x0, height: y1 - y0 };
        let mut out = vec![0; px * px * 3];
        let failed = |why: String| Error::Internal(format!("resampling: {why}"));
        self.resampler.begin(Filter::Bilinear, (width as u32, height as u32), crop, px as u32).map_err(failed)?;
        self.resampler.finish(&region, &mut out).map_err(failed)?;
        Ok(out)
    }

    /// Counts the core of a picture; the model's raster may be coarser than the picture.
    fn count(&mut self, found: &[u8], width: usize, height: usize, left: usize, top: usize) {
        let (px, overlap, core) = (self.px(), self.overlap(), self.core());
        let mask_width = self.raster.0.div_ceil(self.per_mask);
        for y in top..(top + core).min(self.raster.1) {
            for x in left..(left + core).min(self.raster.0) {
                let (in_y, in_x) = ((y - top + overlap) * height / px, (x - left + overlap) * width / px);
                self.tissue[y / self.per_mask * mask_width + x / self.per_mask] +=
                    u32::from(found[in_y * width + in_x]);
            }
        }
    }

    fn finish(mut self, slide: &Slide) -> Result<TissueMask> {
        // The pictures that reach beyond the last line.
        while self.row * self.core() < self.raster.1 {
            self.pictures()?;
        }
        let per_mask = self.per_mask;
        let (width, height) = (self.raster.0.div_ceil(per_mask), self.raster.1.div_ceil(per_mask));
        // Those at the right and lower edge are cut by the slide.
        let side = |i: usize, end: usize| (end - i * per_mask).min(per_mask);
        let data = self.tissue.iter().enumerate().map(|(i, tissue)| {
            let all = side(i % width, self.raster.0) * side(i / width, self.raster.1);
            u8::from(*tissue as usize * 2 >= all && *tissue > 0)
        });
        let data: Vec<u8> = data.collect();
        let downsample = self.scale * self.source.downsample * per_mask as f64;
        debug_assert!(width as f64 * downsample + 1e-6 >= f64::from(slide.level0().width));
        Ok(TissueMask::new(width as u32, height as u32, downsample, downsample, data))
    }
}
