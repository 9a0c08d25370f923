//! A slide: a pyramid of levels, each cut into compressed blocks, with its physical resolution on record.
//!
//! [`SlideReader`] is what a format implements: it describes its levels and decodes one block. Everything that is the
//! same for all formats is built once on top: regions (`region`), the physical resolution (`mpp`), the choice of the
//! reader ([`Slide::open`]).

mod ahead;
pub mod aperio;
pub mod companions;
pub mod dicom;
pub mod flat;
pub mod generic;
pub mod identifying;
pub mod leica;
pub mod lowpower;
pub mod mpp;
pub mod ndpi;
pub mod ome;
pub mod openslide;
pub mod philips;
pub mod placed;
pub mod region;
pub mod source;
pub mod tiff;
pub mod tiled;
pub mod trestle;
pub mod ventana;
pub mod xml;

use std::path::Path;

pub use crate::codec::{Coding, Scale};
use crate::error::{Error, Result};
use mpp::{Mpp, MppOverride};

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

/// The part of level 0 that was scanned, in level-0 pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Left edge.
    pub x: u32,
    /// Upper edge.
    pub y: u32,
    /// Width.
    pub width: u32,
    /// Height.
    pub height: u32,
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

    /// The ICC colour profile of level 0, as it lies in the file; `None` where there is none. Readers that state one in
    /// [`SlideInfo::icc_profile`] override this.
    ///
    /// # Errors
    /// [`Error::Damaged`] where it cannot be read, [`Error::Unsupported`] where this reader cannot hand it out.
    fn icc_profile(&self) -> Result<Option<Vec<u8>>> {
        if self.info().icc_profile {
            return Err(Error::Unsupported("this format's reader cannot hand out the ICC profile".into()));
        }
        Ok(None)
    }

    /// The part of level 0 that was scanned, where the slide states it.
    fn bounds(&self) -> Option<Bounds> {
        None
    }

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

    /// Hears which blocks will be decoded soon, sorted; a reader that knows where they lie asks the operating system for them
    /// (see [`source::Source::will_need`]). Nothing depends on it.
    fn read_ahead(&self, _blocks: &[BlockAt]) {}
}

/// A file that wants to be a slide: what formats recognise themselves by.
pub struct Probe<'a> {
    /// Where it lies; a format of several files finds the others beside it.
    pub path: &'a Path,
    /// Its first bytes, 4096 where it has as many.
    pub head: Vec<u8>,
    /// Its structure, if it is a TIFF.
    pub tiff: Option<tiff::Tiff>,
}

impl<'a> Probe<'a> {
    /// Looks into a file.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::NotASlide`] for an empty file, [`Error::Damaged`] for a TIFF without sound structure.
    pub fn new(path: &'a Path) -> Result<Self> {
        let source = source::Source::open(path).map_err(Error::Read)?;
        let mut head = Vec::new();
        source.read(0, source.length().min(4096) as usize, &mut head).map_err(Error::Read)?;
        if head.is_empty() {
            return Err(Error::NotASlide("the file is empty".into()));
        }
        // A file can be both; then its name decides.
        let is_tiff = tiff::is_tiff(&head) && (!dicom::is_dicom(&head) || is_named_tiff(path));
        let tiff = if is_tiff { Some(tiff::Tiff::open(source)?) } else { None };
        Ok(Probe { path, head, tiff })
    }

    /// Whether it is a TIFF of which `is` holds.
    pub fn is_tiff(&self, is: impl FnOnce(&tiff::Tiff) -> bool) -> bool {
        self.tiff.as_ref().is_some_and(is)
    }

    /// The TIFF that it is.
    ///
    /// # Errors
    /// [`Error::NotASlide`] where it is none.
    pub fn tiff(&self) -> Result<&tiff::Tiff> {
        self.tiff.as_ref().ok_or_else(|| Error::NotASlide("no TIFF header".into()))
    }

    /// The TIFF that the format recognised.
    ///
    /// # Errors
    /// [`Error::NotASlide`] where there is none.
    pub fn into_tiff(self) -> Result<tiff::Tiff> {
        self.tiff.ok_or_else(|| Error::NotASlide("no TIFF header".into()))
    }
}

/// A native format: how it is recognised and opened. A new one is a file and a line in [`FORMATS`].
pub struct Format {
    /// The name in `info`, records and the README's table.
    pub name: &'static str,
    recognise: fn(&Probe) -> bool,
    open: fn(Probe) -> Result<Box<dyn SlideReader>>,
    identifying: fn(&Probe) -> Result<Vec<identifying::Field>>,
}

/// The native formats in the order they are tried; the most particular first.
pub const FORMATS: &[Format] = &[
    Format { name: "dicom", recognise: dicom::recognise, open: dicom::open, identifying: dicom::identifying },
    Format { name: "aperio", recognise: aperio::recognise, open: aperio::open, identifying: aperio::identifying },
    Format { name: "ome-tiff", recognise: ome::recognise, open: ome::open, identifying: ome::identifying },
    Format { name: "philips", recognise: philips::recognise, open: philips::open, identifying: philips::identifying },
    Format { name: "ndpi", recognise: ndpi::recognise, open: ndpi::open, identifying: ndpi::identifying },
    Format { name: "leica", recognise: leica::recognise, open: leica::open, identifying: leica::identifying },
    Format { name: "ventana", recognise: ventana::recognise, open: ventana::open, identifying: ventana::identifying },
    Format { name: "trestle", recognise: trestle::recognise, open: trestle::open, identifying: trestle::identifying },
    Format {
        name: "generic-tiff",
        recognise: generic::recognise,
        open: generic::open,
        identifying: generic::identifying,
    },
    Format { name: "png", recognise: flat::recognise_png, open: flat::open_png, identifying: flat::identifying },
    Format { name: "jpeg", recognise: flat::recognise_jpeg, open: flat::open_jpeg, identifying: flat::identifying },
];

/// Endings of files that are taken for slides before anyone has looked into them.
pub const EXTENSIONS: &[&str] =
    &["svs", "tif", "tiff", "btf", "ndpi", "scn", "bif", "mrxs", "vms", "vmu", "svslide", "dcm", "czi"];

/// An open slide: its reader and its physical resolution.
pub struct Slide {
    /// The reader.
    pub reader: Box<dyn SlideReader>,
}

impl Slide {
    /// Opens a slide with the native reader that recognises its content, otherwise with OpenSlide. A directory is a slide
    /// where its `.dcm` files are one series.
    ///
    /// # Errors
    /// [`Error::NotASlide`], [`Error::Damaged`], [`Error::Unsupported`], [`Error::Read`], or [`Error::Library`] where only
    /// OpenSlide could read it and is not installed.
    pub fn open(path: &Path) -> Result<Self> {
        let of_directory = if path.is_dir() { Some(dicom::series::entry_of(path)?) } else { None };
        let path = of_directory.as_deref().unwrap_or(path);
        let probe = Probe::new(path)?;
        if let Some(format) = FORMATS.iter().find(|f| (f.recognise)(&probe)) {
            return match (format.open)(probe) {
                Ok(reader) => Ok(Slide { reader }),
                // OpenSlide knows codings that the native reader does not; where it fails too, the first reason counts.
                Err(Error::Unsupported(why)) => Self::through_openslide(path).map_err(|e| match e {
                    Error::Library(_) => e,
                    _ => Error::Unsupported(why),
                }),
                Err(e) => Err(e),
            };
        }
        match &probe.tiff {
            Some(tiff) if generic::foreign_vendor(tiff).is_some() => Self::through_openslide(path),
            Some(_) => Err(Error::Unsupported(
                "a TIFF without tiles or strips that can be read; convert it to a tiled pyramid (vips tiffsave --tile --pyramid)".into(),
            )),
            None if is_foreign(path, &probe.head) => Self::through_openslide(path),
            None => Err(Error::NotASlide("the content is no slide format".into())),
        }
    }

    /// Opens a slide with the native reader that recognises its content and never asks OpenSlide: for checks of the readers
    /// themselves.
    ///
    /// # Errors
    /// [`Error::NotASlide`], [`Error::Damaged`], [`Error::Unsupported`], [`Error::Read`].
    pub fn open_native(path: &Path) -> Result<Self> {
        let probe = Probe::new(path)?;
        let format = FORMATS.iter().find(|f| (f.recognise)(&probe));
        let format = format.ok_or_else(|| Error::Unsupported("no native reader recognises it".into()))?;
        Ok(Slide { reader: (format.open)(probe)? })
    }

    /// Opens a generic TIFF that is compiled in.
    ///
    /// # Errors
    /// As [`Slide::open_native`].
    pub fn of_bytes(bytes: &'static [u8]) -> Result<Self> {
        let tiff = tiff::Tiff::open(source::Source::of_bytes(bytes))?;
        let probe = Probe { path: Path::new(""), head: Vec::new(), tiff: Some(tiff) };
        Ok(Slide { reader: generic::open(probe)? })
    }

    fn through_openslide(path: &Path) -> Result<Self> {
        Ok(Slide { reader: Box::new(openslide::OpenSlideReader::open(path)?) })
    }

    /// What the slide is.
    #[must_use]
    pub fn info(&self) -> &SlideInfo {
        self.reader.info()
    }

    /// Level 0.
    #[must_use]
    pub fn level0(&self) -> &Level {
        &self.info().levels[0]
    }

    /// The physical resolution, judged.
    ///
    /// # Errors
    /// [`Error::Mpp`].
    pub fn mpp(&self, user: MppOverride) -> Result<Mpp> {
        mpp::resolve(&self.info().stated_mpp, self.info().objective_power, user)
    }
}

fn is_named_tiff(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("tif") || e.eq_ignore_ascii_case("tiff"))
}

/// Whether a file that is no TIFF belongs to a format that OpenSlide knows: by content, or by name for the formats whose
/// entry file is a plain text or JPEG file.
fn is_foreign(path: &Path, head: &[u8]) -> bool {
    let by_content =
        head.get(128..132) == Some(b"DICM") || head.starts_with(b"ZISRAWFILE") || head.starts_with(b"SQLite format 3");
    let extension = path.extension().map(|e| e.to_ascii_lowercase());
    by_content || extension.is_some_and(|e| ["mrxs", "vms", "vmu"].iter().any(|known| e == *known))
}

/// Level-0 pixels per pixel of a level: the whole number whose rounded-down or rounded-up quotients are the level's sides, if
/// there is one, otherwise the mean ratio of the sides.
///
/// A level's sides are whole pixels, so the ratio of sizes is off by up to a pixel over the whole slide: 8063 / 2015 is
/// 4.0015 where the scanner reduced by 4.
#[must_use]
pub fn downsample_between(level0: (u32, u32), level: (u32, u32)) -> f64 {
    let ratio = (f64::from(level0.0) / f64::from(level.0) + f64::from(level0.1) / f64::from(level.1)) / 2.0;
    // The smaller the level, the further the ratio of rounded sides may lie from the true reduction.
    // Bounded: of a level of 1 px below one of 2^31 px half of all numbers would be looked at, and fit.
    let slack = (1.0 + ratio / f64::from(level.0.min(level.1))).min(4096.0);
    let lowest = ((ratio - slack).floor() as u32).max(1);
    let fits = |n: u32| {
        let side = |full: u32, reduced: u32| reduced == full / n || reduced == full.div_ceil(n);
        side(level0.0, level.0) && side(level0.1, level.1)
    };
    let mut whole: Vec<u32> = (lowest..=(ratio + slack).ceil() as u32).filter(|n| fits(*n)).collect();
    whole.sort_by(|a, b| (f64::from(*a) - ratio).abs().total_cmp(&(f64::from(*b) - ratio).abs()));
    // Scanners reduce by powers of two; a tiny level fits several whole numbers.
    let power = whole.iter().find(|n| n.is_power_of_two()).or(whole.first());
    power.map_or(ratio, |n| f64::from(*n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn downsamples_are_whole_where_the_sizes_allow_it() {
        assert_eq!(downsample_between((8063, 6011), (2015, 1502)), 4.0);
        assert_eq!(downsample_between((8063, 6011), (503, 375)), 16.0);
        assert_eq!(downsample_between((1300, 1000), (81, 62)), 16.0);
        assert_eq!(downsample_between((100, 100), (100, 100)), 1.0);
        assert_eq!(downsample_between((900, 600), (300, 200)), 3.0);
        assert!(downsample_between((u32::MAX >> 1, 1 << 20), (1, 1)).is_finite(), "in no time");
        let odd = downsample_between((1000, 1000), (370, 370));
        assert!((odd - 1000.0 / 370.0).abs() < 1e-12);
    }
}
