//! What the fuzz targets share: bytes as a slide that paraffin's own readers open, and a walk through all that a run would
//! ask such a slide.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use paraffin::codec::Scratch;
use paraffin::slide::mpp::MppOverride;
use paraffin::slide::{BlockAt, Scale, Slide, lowpower};

/// Largest block that is decoded here, in pixels. Readers allow more; larger ones only make a target slow.
const MOST_BLOCK_PX: u64 = 1 << 20;
/// Blocks of a level that are decoded at most, from its beginning; the last one is always among them.
const BLOCKS: u64 = 6;
/// Levels with at most so many blocks are also read whole, at low power.
const MOST_WHOLE: u64 = 16;

/// A folder of this process alone, in memory where the system has such a place: formats that look for files beside a slide
/// find none.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
        let folder = parent.join(format!("paraffin-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder for the fuzzed file can be made");
        folder
    })
}

/// Opens `bytes` as a file of this name with paraffin's own readers (OpenSlide is never started) and, if they take it, asks
/// for everything a run asks for. Errors are right answers; only a panic, a hang or memory without bounds is a finding.
pub fn open_and_read(name: &str, bytes: &[u8]) {
    let path = folder().join(name);
    std::fs::write(&path, bytes).expect("the fuzzed file can be written");
    if let Ok(slide) = Slide::open_native(&path) {
        read(&slide);
    }
}

/// Facts, resolution, the first blocks of every level at every scale, and the low-power picture.
fn read(slide: &Slide) {
    let info = slide.info();
    assert!(!info.levels.is_empty(), "a slide has levels");
    let _ = slide.mpp(MppOverride { given: None, allow_objective: true });
    let mut scratch = Scratch::default();
    let mut small = true;
    for (number, level) in info.levels.iter().enumerate() {
        assert!(level.width > 0 && level.height > 0 && level.downsample.is_finite() && level.downsample >= 1.0);
        let (columns, rows) = level.block_grid();
        let (width, height) = (level.block_width, level.block_height);
        let blocks = u64::from(columns) * u64::from(rows);
        if u64::from(width) * u64::from(height) > MOST_BLOCK_PX {
            small = false;
            continue;
        }
        small &= blocks <= MOST_WHOLE;
        for block in (0..blocks).take(BLOCKS as usize).chain(blocks.checked_sub(1)) {
            let at = BlockAt {
                level: number,
                row: (block / u64::from(columns)) as u32,
                col: (block % u64::from(columns)) as u32,
            };
            for scale in [Scale::Full, Scale::Half, Scale::Quarter, Scale::Eighth] {
                let divisor = scale.divisor();
                let fits = width.is_multiple_of(divisor) && height.is_multiple_of(divisor);
                if scale != Scale::Full && !(level.coding.scales() && fits) {
                    continue;
                }
                let pitch = (width / divisor) as usize * 3;
                let mut out = vec![0; pitch * (height / divisor) as usize];
                let _ = slide.reader.decode_block(at, scale, &mut scratch, &mut out, pitch);
            }
        }
    }
    if small {
        let longest = f64::from(slide.level0().width.max(slide.level0().height));
        let _ = lowpower::read(slide, (longest / 64.0).max(1.0), u64::MAX);
    }
}

/// A little-endian TIFF with another text in one of its tags, put at the file's end; `None` where that page lacks the tag.
#[must_use]
pub fn with_text(slide: &[u8], page: usize, tag: u16, text: &[u8]) -> Option<Vec<u8>> {
    let number = |at: usize, bytes: usize| -> Option<u64> {
        slide.get(at..at + bytes).map(|b| b.iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte)))
    };
    let big = number(2, 2)? == 43;
    let (count_bytes, entry_bytes, word) = if big { (8, 20, 8) } else { (2, 12, 4) };
    let mut directory = number(if big { 8 } else { 4 }, word)? as usize;
    for _ in 0..page {
        let entries = number(directory, count_bytes)? as usize;
        directory = number(directory + count_bytes + entries * entry_bytes, word)? as usize;
    }
    let entries = number(directory, count_bytes)? as usize;
    let mut places = (0..entries).map(|i| directory + count_bytes + i * entry_bytes);
    let entry = places.find(|at| number(*at, 2) == Some(u64::from(tag)))?;
    let mut out = slide.to_vec();
    let at = out.len() as u64;
    out.extend_from_slice(text);
    // Never so short that the text would stand in the entry itself.
    out.resize(out.len() + 8, 0);
    let count = text.len() as u64 + 8;
    out[entry + 4..entry + 4 + word].copy_from_slice(&count.to_le_bytes()[..word]);
    out[entry + 4 + word..entry + 4 + 2 * word].copy_from_slice(&at.to_le_bytes()[..word]);
    Some(out)
}

/// Takes small numbers from the front of the fuzzed bytes; zero where they have run out.
pub struct Front<'a>(pub &'a [u8]);

impl<'a> Front<'a> {
    /// A byte.
    pub fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().map_or((0, self.0), |(b, rest)| (*b, rest));
        self.0 = rest;
        first
    }

    /// Two bytes, the low one first.
    pub fn short(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// So many bytes, or what is left.
    pub fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }
}
