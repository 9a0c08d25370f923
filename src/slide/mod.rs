//! A slide: a pyramid of levels, each cut into compressed blocks, with its physical resolution on record.
//!
//! [`SlideReader`] is what a format implements: it describes its levels and decodes one block. Everything that is the
//! same for all formats is built once on top: regions (`region`), the physical resolution (`mpp`), the choice of the
//! reader ([`Slide::open`]).

pub mod mpp;
pub mod region;

use std::path::Path;

use crate::error::Result;

/// How a level's blocks are compressed, as far as anyone outside the reader needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// Baseline or progressive JPEG; can be decoded at 1/2, 1/4 and 1/8 of its size.
    Jpeg,
    /// Uncompressed.
    Raw,
    /// TIFF LZW.
    Lzw,
    /// Deflate (zlib).
    Deflate,
    /// Zstandard.
    Zstd,
    /// Decoded by OpenSlide; what lies in the file is not known here.
    OpenSlide,
}

impl Coding {
    /// The name that `info` and the records print.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Coding::Jpeg => "jpeg",
            Coding::Raw => "raw",
            Coding::Lzw => "lzw",
            Coding::Deflate => "deflate",
            Coding::Zstd => "zstd",
            Coding::OpenSlide => "openslide",
        }
    }

    /// Whether the decoder itself can produce a block at a reduced size, cheaper than decoding and averaging it.
    #[must_use]
    pub fn scales(self) -> bool {
        self == Coding::Jpeg
    }
}

/// One level of the pyramid.
#[derive(Clone, Debug, PartialEq)]
pub struct Level {
    /// Width in this level's pixels.
    pub width: u32,
    /// Height in this level's pixels.
    pub height: u32,
    /// Level-0 pixels per pixel of this level; a whole number where the sizes allow it.
    pub downsample: f64,
    /// Width of every block in this level's pixels; the last column may reach past the level's edge.
    pub block_width: u32,
    /// Height of every block in this level's pixels; the last row may reach past the level's edge.
    pub block_height: u32,
    /// How the blocks are compressed.
    pub coding: Coding,
}

impl Level {
    /// Columns and rows of blocks.
    #[must_use]
    pub fn block_grid(&self) -> (u32, u32) {
        (self.width.div_ceil(self.block_width), self.height.div_ceil(self.block_height))
    }
}

/// A physical resolution that the slide itself states, before it is judged (see [`mpp`]).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StatedMpp {
    /// µm per pixel of level 0, horizontally.
    pub x: f64,
    /// µm per pixel of level 0, vertically.
    pub y: f64,
    /// Where it was found.
    pub source: mpp::MppSource,
}

/// What a reader found out about a slide when it opened it. Holds no identifying value.
#[derive(Clone, Debug)]
pub struct SlideInfo {
    /// Format, e.g. `aperio`, `generic-tiff`, or OpenSlide's vendor name.
    pub format: String,
    /// The reader at work: `native` or `openslide <version>`.
    pub reader: String,
    /// Levels, finest first; never empty.
    pub levels: Vec<Level>,
    /// Resolutions that the slide states, most trustworthy first.
    pub stated_mpp: Vec<StatedMpp>,
    /// Objective power (magnification) that the slide states.
    pub objective_power: Option<f64>,
    /// Kinds of associated images (`label`, `macro`, `thumbnail`, ...); their pixels are never read.
    pub associated_images: Vec<String>,
    /// Names of metadata fields that may identify the slide or the patient; never their values.
    pub identifying_fields: Vec<String>,
    /// Whether an ICC colour profile is present.
    pub icc_profile: bool,
    /// Remarks that the user should see, e.g. a level that was left out.
    pub notes: Vec<String>,
}

/// A block's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockAt {
    /// Level, 0 is the finest.
    pub level: usize,
    /// Block row.
    pub row: u32,
    /// Block column.
    pub col: u32,
}

/// By how much a block is reduced while it is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Scale {
    /// Every pixel.
    Full = 1,
    /// 1/2 in each direction.
    Half = 2,
    /// 1/4 in each direction.
    Quarter = 4,
    /// 1/8 in each direction.
    Eighth = 8,
}

impl Scale {
    /// The divisor: 1, 2, 4 or 8.
    #[must_use]
    pub fn divisor(self) -> u32 {
        self as u32
    }

    /// The scale with this divisor.
    #[must_use]
    pub fn from_divisor(divisor: u32) -> Option<Self> {
        match divisor {
            1 => Some(Scale::Full),
            2 => Some(Scale::Half),
            4 => Some(Scale::Quarter),
            8 => Some(Scale::Eighth),
            _ => None,
        }
    }
}

/// Whether a block had pixels of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockKind {
    /// Decoded from the file.
    Decoded,
    /// Absent in the file (sparse); filled with the background, white.
    Background,
}

/// Opens blocks of one slide. Implementations take any number of threads at once and hold no lock while they read or decode.
pub trait SlideReader: Send + Sync {
    /// What the slide is.
    fn info(&self) -> &SlideInfo;

    /// Decodes one block to interleaved 8-bit RGB.
    ///
    /// `out` receives `block_height / scale` rows of `block_width / scale` pixels, `pitch` bytes apart; pixels past the
    /// level's edge are unspecified. `scale` other than [`Scale::Full`] is allowed where the level's coding
    /// [`scales`](Coding::scales) and divides the block's sides. `scratch` is the calling thread's own.
    ///
    /// # Errors
    /// [`crate::Error::Block`] where the block's data is damaged, [`crate::Error::Read`] where the file cannot be read.
    fn decode_block(
        &self,
        at: BlockAt,
        scale: Scale,
        scratch: &mut crate::codec::Scratch,
        out: &mut [u8],
        pitch: usize,
    ) -> Result<BlockKind>;
}
