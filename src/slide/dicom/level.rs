//! A level: the frames of one image, which may lie in several files (a concatenation), and which of them is where.
//!
//! Reference: DICOM PS3.3 C.7.6.17.3 (TILED_FULL, TILED_SPARSE), C.7.6.16.2.2.4 (concatenations), C.8.12.6.1 (plane position).

use super::super::source::Source;
use super::super::{BlockKind, Level, Scale};
use super::coding;
use super::frames::Frames;
use super::header::{Header, Position};
use crate::codec::{BlockCoding, Scratch, Target};
use crate::error::{Error, Result};

/// Largest frame that is accepted, in pixels: as for TIFF blocks.
const MAX_BLOCK_PX: u64 = 1 << 26;
/// Most blocks in a level: as for TIFF.
const MAX_BLOCKS: u64 = 1 << 25;

/// An instance of the series: its header and its file.
pub struct Instance {
    /// What it says of itself.
    pub header: Header,
    /// Where its frames lie, if it says so frame by frame.
    pub positions: Vec<Position>,
    /// Its file.
    pub source: Source,
}

/// Which frame is at a place.
enum Tiles {
    /// Row after row, all there; the first is this one.
    Full(u64),
    /// Block and frame, sorted by block; what is not in it is background.
    Sparse(Vec<(u64, u64)>),
}

/// A level that can be read.
pub struct DicomLevel {
    /// What it is.
    pub level: Level,
    grid_columns: u32,
    coding: BlockCoding,
    tiles: Tiles,
    /// The first frame of each file, counted through, and its frames.
    parts: Vec<(u64, Frames)>,
}

/// Width and height of an image, if it states possible ones.
pub fn size(header: &Header) -> Option<(u32, u32)> {
    let side = |n: i64| u32::try_from(n).ok().filter(|n| (1..1 << 31).contains(n));
    Some((side(header.total_columns)?, side(header.total_rows)?))
}

impl DicomLevel {
    /// Puts a level together from its files; more than one are the parts of a concatenation. What the user should know is
    /// added to `notes`.
    ///
    /// # Errors
    /// [`Error::Damaged`] where the headers contradict themselves or each other or parts are missing,
    /// [`Error::Unsupported`] for what this reader does not know.
    pub fn new(mut instances: Vec<Instance>, notes: &mut Vec<String>) -> Result<Self> {
        instances.sort_by_key(|i| i.header.concatenation_offset);
        check_concatenation(&instances)?;
        let Some(first) = instances.first().map(|i| i.header.clone()) else {
            return Err(Error::Damaged("a DICOM level without files".into()));
        };
        let Some((width, height)) = size(&first) else {
            let (w, h) = (first.total_columns, first.total_rows);
            return Err(Error::Damaged(format!("a total pixel matrix of {w} x {h} px")));
        };
        let side = |n: i64| u64::try_from(n).unwrap_or(0);
        let (block_width, block_height) = (side(first.columns), side(first.rows));
        if block_width == 0 || block_height == 0 || block_width.saturating_mul(block_height) > MAX_BLOCK_PX {
            return Err(Error::Damaged(format!("frames of {} x {} px", first.columns, first.rows)));
        }
        let mut level = Level {
            width,
            height,
            downsample: 1.0,
            block_width: block_width as u32,
            block_height: block_height as u32,
            coding: crate::codec::Coding::Raw,
        };
        let (grid_columns, grid_rows) = level.block_grid();
        if u64::from(grid_columns) * u64::from(grid_rows) > MAX_BLOCKS {
            return Err(Error::Damaged(format!("{grid_columns} x {grid_rows} frames")));
        }
        let tiles = tiles(&instances, &level, notes)?;
        let mut parts = Vec::new();
        let mut frames = 0;
        for Instance { header, source, .. } in instances {
            let part = Frames::new(source, &header, coding::native_bytes(&header))?;
            let count = part.count();
            parts.push((frames, part));
            frames += count;
        }
        let beginning = parts.first().map(|(_, part)| part.first_bytes(4096)).unwrap_or_default();
        let coding = coding::frame_coding(&first, &beginning)?;
        notes.extend(coding.note);
        let coding = coding.block;
        level.coding = coding.kind();
        Ok(DicomLevel { level, grid_columns, coding, tiles, parts })
    }

    /// The frame of a block, counted through all files; `None` for background.
    fn frame(&self, row: u32, col: u32) -> Option<u64> {
        let block = u64::from(row) * u64::from(self.grid_columns) + u64::from(col);
        match &self.tiles {
            Tiles::Full(first) => Some(first + block),
            Tiles::Sparse(there) => there.binary_search_by_key(&block, |(block, _)| *block).ok().map(|at| there[at].1),
        }
    }

    /// Which file has a frame.
    fn part_of(&self, frame: u64) -> usize {
        self.parts.partition_point(|(first, _)| *first <= frame).saturating_sub(1)
    }

    /// Fetches blocks (row, column) in the background.
    pub fn read_ahead(&self, blocks: impl Iterator<Item = (u32, u32)>) {
        let frames: Vec<u64> = blocks.filter_map(|(row, col)| self.frame(row, col)).collect();
        for (number, (first, part)) in self.parts.iter().enumerate() {
            let mut here = frames.iter().filter(|frame| self.part_of(**frame) == number).peekable();
            if here.peek().is_some() {
                part.will_need(here.map(|frame| frame - first));
            }
        }
    }

    /// Decodes a block; see [`super::super::SlideReader::decode_block`].
    ///
    /// # Errors
    /// The outer one where the file cannot be read, the inner one says what is wrong with the block.
    pub fn decode(
        &self,
        (row, col): (u32, u32),
        scale: Scale,
        scratch: &mut Scratch,
        (out, pitch): (&mut [u8], usize),
    ) -> std::io::Result<Result<BlockKind, String>> {
        let size = (self.level.block_width, self.level.block_height);
        let mut target = Target {
            pixels: out,
            pitch,
            width: (size.0 / scale.divisor()) as usize,
            height: (size.1 / scale.divisor()) as usize,
        };
        let Some(frame) = self.frame(row, col) else {
            target.fill_white();
            return Ok(Ok(BlockKind::Background));
        };
        let (first, part) = &self.parts[self.part_of(frame)];
        let most_bytes = u64::from(size.0) * u64::from(size.1) * 16 + 65536;
        if let Err(why) = part.read(frame - first, most_bytes, &mut scratch.compressed)? {
            return Ok(Err(why));
        }
        Ok(self.coding.decode(scratch, size, scale, &mut target).map(|()| BlockKind::Decoded))
    }
}

/// Parts must be of one image, all there, each once.
fn check_concatenation(instances: &[Instance]) -> Result<()> {
    let damaged = |why: &str| Err(Error::Damaged(format!("a DICOM concatenation {why}")));
    let [first, rest @ ..] = instances else { return Ok(()) };
    let kind = |h: &Header| {
        let sizes = (h.total_columns, h.total_rows, h.columns, h.rows);
        (sizes, h.transfer_syntax.clone(), h.photometric.clone(), h.samples, h.organisation.clone())
    };
    let a_part = !first.header.concatenation.is_empty();
    let mut frames = 0_i64;
    for Instance { header, .. } in instances {
        if a_part && header.concatenation_offset != Some(frames) {
            return damaged("whose parts do not follow each other: files of the series are missing");
        }
        frames = frames.saturating_add(header.frames);
    }
    let total = first.header.concatenation_total;
    if a_part && total > 0 && total != instances.len() as i64 {
        return damaged(&format!("of {total} parts, of which {} are there", instances.len()));
    }
    if rest.iter().any(|part| kind(&part.header) != kind(&first.header)) {
        return damaged("of different images");
    }
    Ok(())
}

fn tiles(instances: &[Instance], level: &Level, notes: &mut Vec<String>) -> Result<Tiles> {
    let (columns, rows) = level.block_grid();
    let plane = u64::from(columns) * u64::from(rows);
    let Some(Instance { header, positions, .. }) = instances.first() else { return Ok(Tiles::Sparse(Vec::new())) };
    if instances.iter().any(|i| i.header.frames < 1) {
        return Err(Error::Damaged("a DICOM image without frames".into()));
    }
    let frames: u64 = instances.iter().map(|i| i.header.frames.unsigned_abs()).fold(0, u64::saturating_add);
    let sparse = match header.organisation.as_str() {
        "TILED_FULL" => false,
        "TILED_SPARSE" => true,
        // Not stated by early writers: positions are stated where they are needed.
        _ => !positions.is_empty(),
    };
    if sparse {
        return sparse_tiles(instances, level, notes);
    }
    // Planes follow each other, each whole; after the last of one optical path comes the first of the next.
    let planes = header.focal_planes.clamp(1, 1 << 16).unsigned_abs();
    if frames < plane * planes || !frames.is_multiple_of(plane * planes) {
        return Err(Error::Damaged(format!(
            "{frames} frames for {columns} x {rows} places in {planes} focal planes (TILED_FULL)"
        )));
    }
    refuse_paths(frames / (plane * planes))?;
    note_planes(planes, notes);
    Ok(Tiles::Full((planes - 1) / 2 * plane))
}

fn refuse_paths(paths: u64) -> Result<()> {
    if paths > 1 {
        return Err(Error::Unsupported(format!(
            "{paths} optical paths (channels) in one image; export the one to work with as a series of its own"
        )));
    }
    Ok(())
}

fn note_planes(planes: u64, notes: &mut Vec<String>) {
    if planes > 1 {
        notes.push(format!("{planes} focal planes: the middle one is read (number {})", (planes - 1) / 2 + 1));
    }
}

fn sparse_tiles(instances: &[Instance], level: &Level, notes: &mut Vec<String>) -> Result<Tiles> {
    let (columns, rows) = level.block_grid();
    let (width, height) = (i64::from(level.block_width), i64::from(level.block_height));
    let mut there: Vec<(u64, f32, u64)> = Vec::new();
    let mut paths = std::collections::BTreeSet::new();
    let mut frame = 0;
    for Instance { header, positions, .. } in instances {
        if positions.len() as i64 != header.frames {
            return Err(Error::Damaged(format!(
                "positions for {} of {} frames (TILED_SPARSE)",
                positions.len(),
                header.frames
            )));
        }
        for position in positions {
            let (x, y) = (i64::from(position.column) - 1, i64::from(position.row) - 1);
            if x < 0 || y < 0 || x / width >= i64::from(columns) || y / height >= i64::from(rows) {
                return Err(Error::Damaged("a DICOM frame outside the total pixel matrix".into()));
            }
            if x % width != 0 || y % height != 0 {
                return Err(Error::Unsupported("DICOM frames that lie on no grid".into()));
            }
            let block = (y / height).unsigned_abs() * u64::from(columns) + (x / width).unsigned_abs();
            there.push((block, position.z, frame));
            frame += 1;
            paths.insert(position.path);
        }
    }
    paths.remove(&0);
    refuse_paths(paths.len() as u64)?;
    there.sort_by_key(|(block, _, frame)| (*block, *frame));
    // Several frames at one place are focal planes: as many everywhere, and the same one of them is taken.
    let mut tiles = Vec::new();
    let mut planes = 0;
    for stack in there.chunk_by_mut(|a, b| a.0 == b.0) {
        if planes != 0 && stack.len() != planes {
            return Err(Error::Unsupported("DICOM frames that lie on top of each other in some places".into()));
        }
        planes = stack.len();
        stack.sort_by(|a, b| a.1.total_cmp(&b.1));
        if stack.windows(2).any(|pair| pair[0].1 == pair[1].1) {
            return Err(Error::Unsupported("DICOM frames that lie on top of each other in one plane".into()));
        }
        let (block, _, frame) = stack[(planes - 1) / 2];
        tiles.push((block, frame));
    }
    note_planes(planes as u64, notes);
    Ok(Tiles::Sparse(tiles))
}
