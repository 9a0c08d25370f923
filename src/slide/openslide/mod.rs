//! Slides that no native reader takes, read by OpenSlide 4 in a process of its own.
//!
//! - Vendors: all of OpenSlide's (MIRAX, Hamamatsu, Leica, Ventana, Trestle, Sakura, Philips, DICOM, Zeiss, ...). A MIRAX
//!   or DICOM slide is opened by any one of its files that OpenSlide takes (`.mrxs`; any `.dcm` of the series).
//! - Recognised by: OpenSlide itself ([`detect`]).
//! - mpp: `openslide.mpp-x` and `-y`; then the TIFF resolution tags.
//! - Compressions: whatever OpenSlide reads; its pixels come composed and premultiplied, and are laid over the slide's
//!   background colour (white unless it states one).
//! - Reference: <https://openslide.org/api/openslide_8h.html>, <https://openslide.org/properties/>.
//! - Fixtures: `tests/openslide_worker.rs`; expected values by `scripts/golden_openslide.py`.
//! - Known differences: levels of formats that OpenSlide composes from tiles at fractional positions (MIRAX, some Ventana)
//!   are interpolated by it; so are levels whose downsample is not whole, by up to half a level-0 pixel (`levels.rs`).
//!
//! Why a process: OpenSlide aborts on some hostile files (GLib's allocator does), can hang, and its handle is useless after
//! the first error. A child costs its start once per thread and slide (3 to 5 ms, 42 MB) and about 0.5 ms per block of 5 ms.

mod client;
mod identify;
mod levels;
mod protocol;
pub mod redact;
mod worker;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use self::client::Pool;
use self::protocol::{Info, Region};
use super::identifying::Field;
use crate::codec::Scratch;
use crate::error::{Error, Result};
use crate::slide::mpp::MppSource;
use crate::slide::{BlockAt, BlockKind, Bounds, Scale, SlideInfo, SlideReader, StatedMpp};

pub use self::worker::main as worker_main;

/// The hidden first argument that makes paraffin an OpenSlide process ([`worker_main`]).
pub const WORKER_COMMAND: &str = "__openslide-worker";

static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Names the paraffin executable to start as OpenSlide's process, where the running program is another one (a test, a
/// program that embeds this library). The first call counts; it must come before the first slide is opened.
pub fn set_worker_program(program: impl Into<PathBuf>) {
    let _ = PROGRAM.set(program.into());
}

/// How OpenSlide's processes are run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The executable: this program, or what [`set_worker_program`] named.
    pub program: PathBuf,
    /// Most processes for one slide; as many threads read at once. Default: the processors that this process may use.
    pub workers: usize,
    /// Longest start of a process and opening of the slide, together. Default 8 s.
    pub open_timeout: Duration,
    /// Longest reading of one block. Default 60 s.
    pub read_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            program: PROGRAM.get().cloned().unwrap_or_else(client::own_program),
            workers: thread::available_parallelism().map_or(1, usize::from),
            open_timeout: Duration::from_secs(8),
            read_timeout: Duration::from_secs(60),
        }
    }
}

/// OpenSlide's vendor name for a file (`hamamatsu`, `mirax`, ...), `None` where it recognises no format.
///
/// Cheap next to opening: the process that answers is kept for the next call. Calls are answered one after another.
///
/// # Errors
/// [`Error::Read`] where the file cannot be opened, [`Error::Library`] where OpenSlide is missing, [`Error::Damaged`]
/// where it aborted or did not answer.
pub fn detect(path: &Path) -> Result<Option<String>> {
    client::detect(&std::path::absolute(path).map_err(Error::Read)?, &Options::default())
}

/// The version of the OpenSlide that would be used, e.g. `4.0.1`.
///
/// # Errors
/// [`Error::Library`] where OpenSlide is missing.
pub fn version() -> Result<String> {
    client::version(&Options::default())
}

/// Properties of a slide that may identify, with their values: for the audit, which shows none.
///
/// # Errors
/// As [`OpenSlideReader::open`].
pub fn identifying(path: &Path) -> Result<Vec<Field>> {
    let pool = Pool::new(std::path::absolute(path).map_err(Error::Read)?, Options::default());
    Ok(pool.identifying()?.into_iter().map(|(name, value)| Field::new(name, value)).collect())
}

/// A slide that OpenSlide reads. Its blocks are regions of 512 × 512 pixels.
pub struct OpenSlideReader {
    info: SlideInfo,
    sources: Vec<levels::Source>,
    properties: Vec<(String, String)>,
    pool: Pool,
}

impl OpenSlideReader {
    /// Opens the slide in a first process; more are started when more threads read.
    ///
    /// # Errors
    /// [`Error::Read`] where the file cannot be opened, [`Error::NotASlide`] where OpenSlide recognises no format,
    /// [`Error::Damaged`] where it reports an error, aborts, does not answer in time, or describes an impossible slide,
    /// [`Error::Library`] where OpenSlide is missing, [`Error::Internal`] where no process can be started.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_with(path, Options::default())
    }

    /// [`open`](Self::open), with other options.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn open_with(path: &Path, options: Options) -> Result<Self> {
        // OpenSlide names files in its messages; an absolute path has a folder that can be taken out of them.
        let pool = Pool::new(std::path::absolute(path).map_err(Error::Read)?, options);
        let (version, raw) = pool.open()?;
        let (levels, sources, mut notes) = levels::check(&raw)?;
        let stated_mpp = stated_mpp(&raw, &mut notes);
        let info = SlideInfo {
            format: raw.vendor.clone(),
            reader: format!("openslide {version}"),
            levels,
            stated_mpp,
            objective_power: number(&raw, "openslide.objective-power"),
            associated_images: raw.associated,
            identifying_fields: raw.identifying,
            icc_profile: raw.icc_profile,
            notes,
        };
        Ok(OpenSlideReader { info, sources, properties: raw.properties, pool })
    }

    /// A property that OpenSlide states, in its own words: resolution, objective power, bounds, background colour; nothing
    /// that could identify.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<&str> {
        value_of(&self.properties, name)
    }

    /// Ids of the processes that wait for work now; for tests.
    #[doc(hidden)]
    #[must_use]
    pub fn idle_processes(&self) -> Vec<u32> {
        self.pool.idle_ids()
    }
}

impl SlideReader for OpenSlideReader {
    fn info(&self) -> &SlideInfo {
        &self.info
    }

    fn icc_profile(&self) -> Result<Option<Vec<u8>>> {
        self.pool.profile()
    }

    fn bounds(&self) -> Option<Bounds> {
        let number = |side: &str| value_of(&self.properties, &format!("openslide.bounds-{side}"))?.trim().parse().ok();
        Some(Bounds { x: number("x")?, y: number("y")?, width: number("width")?, height: number("height")? })
    }

    /// Pixels past the level's edge are white. Waits while all processes are busy.
    fn decode_block(
        &self,
        at: BlockAt,
        scale: Scale,
        _scratch: &mut Scratch,
        out: &mut [u8],
        pitch: usize,
    ) -> Result<BlockKind> {
        let failed = |why: String| Error::Block { level: at.level, col: at.col, row: at.row, why };
        let (Some(level), Some(source)) = (self.info.levels.get(at.level), self.sources.get(at.level)) else {
            return Err(failed("there is no such level".into()));
        };
        let (cols, rows) = level.block_grid();
        if at.col >= cols || at.row >= rows {
            return Err(failed("there is no such block".into()));
        }
        let row_bytes = level.block_width as usize * 3;
        let rows = level.block_height as usize;
        if scale != Scale::Full || pitch < row_bytes || out.len() < pitch * (rows - 1) + row_bytes {
            return Err(Error::Internal("OpenSlide's blocks are decoded whole, into a buffer that holds them".into()));
        }
        let (x, y) = (at.col * level.block_width, at.row * level.block_height);
        let width = level.block_width.min(level.width - x);
        let height = level.block_height.min(level.height - y);
        let region = Region {
            level: source.level,
            x_level0: levels::position_level0(x, source.downsample),
            y_level0: levels::position_level0(y, source.downsample),
            width,
            height,
        };
        let used_bytes = width as usize * 3;
        let whole = used_bytes == pitch;
        let mut apart = Vec::new();
        let target = if whole {
            &mut out[..used_bytes * height as usize]
        } else {
            apart.resize(used_bytes * height as usize, 0);
            &mut apart[..]
        };
        let absent = self.pool.read(region, target).map_err(|e| match e {
            Error::Damaged(why) | Error::NotASlide(why) => failed(why),
            other => other,
        })?;
        if let Some(colour) = absent {
            target.as_chunks_mut::<3>().0.fill(colour);
        }
        for (y, row) in out.chunks_mut(pitch).take(rows).enumerate() {
            let used = if y < height as usize { used_bytes } else { 0 };
            row[used..row_bytes].fill(255);
            if !whole && used > 0 {
                row[..used].copy_from_slice(&apart[y * used..][..used]);
            }
        }
        Ok(if absent.is_some() { BlockKind::Background } else { BlockKind::Decoded })
    }
}

fn value_of<'a>(properties: &'a [(String, String)], name: &str) -> Option<&'a str> {
    properties.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

fn number(info: &Info, name: &str) -> Option<f64> {
    value_of(&info.properties, name)?.trim().parse().ok()
}

/// What OpenSlide states about the resolution, unjudged; what is no number is left out.
fn stated_mpp(info: &Info, notes: &mut Vec<String>) -> Vec<StatedMpp> {
    let source = match info.vendor.as_str() {
        // OpenSlide derives it from the resolution tags here, and from the PixelSpacing attribute there.
        "generic-tiff" => MppSource::TiffResolution,
        "dicom" => MppSource::OmeDicom,
        _ => MppSource::Vendor,
    };
    let mut stated = Vec::new();
    match (number(info, "openslide.mpp-x"), number(info, "openslide.mpp-y")) {
        (Some(x), Some(y)) => stated.push(StatedMpp { x, y, source }),
        (None, None) => {}
        _ => notes.push("the slide states its resolution in one direction only; it is not used".into()),
    }
    if stated.first().is_none_or(|first| first.source != MppSource::TiffResolution) {
        let um_per_unit = match value_of(&info.properties, "tiff.ResolutionUnit") {
            Some("centimeter") => Some(10_000.0),
            Some("inch") => Some(25_400.0),
            _ => None,
        };
        let resolution = number(info, "tiff.XResolution").zip(number(info, "tiff.YResolution"));
        if let (Some(um), Some((x, y))) = (um_per_unit, resolution) {
            stated.push(StatedMpp { x: um / x, y: um / y, source: MppSource::TiffResolution });
        }
    }
    stated
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stated(vendor: &str, properties: &[(&str, &str)]) -> (Vec<StatedMpp>, Vec<String>) {
        let properties = properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut notes = Vec::new();
        (stated_mpp(&Info { vendor: vendor.into(), properties, ..Info::default() }, &mut notes), notes)
    }

    #[test]
    fn resolutions_are_passed_on_as_stated() {
        let mpp = [("openslide.mpp-x", "0.25"), ("openslide.mpp-y", "0.26")];
        let tags = [("tiff.XResolution", "40000"), ("tiff.YResolution", "0"), ("tiff.ResolutionUnit", "centimeter")];
        let both: Vec<_> = mpp.into_iter().chain(tags).collect();
        let vendor = StatedMpp { x: 0.25, y: 0.26, source: MppSource::Vendor };
        let tiff = StatedMpp { x: 0.25, y: f64::INFINITY, source: MppSource::TiffResolution };
        assert_eq!(stated("hamamatsu", &both).0, [vendor, tiff]);
        assert_eq!(stated("generic-tiff", &both).0, [StatedMpp { source: MppSource::TiffResolution, ..vendor }]);
        assert_eq!(stated("dicom", &mpp).0, [StatedMpp { source: MppSource::OmeDicom, ..vendor }]);
        assert_eq!(stated("aperio", &[("openslide.mpp-x", "abc"), ("openslide.mpp-y", "")]), (vec![], vec![]));
        assert!(stated("aperio", &[("openslide.mpp-x", "nan"), ("openslide.mpp-y", "-1")]).0[0].x.is_nan());
        let (one, notes) = stated("aperio", &mpp[..1]);
        assert!(one.is_empty() && notes.len() == 1);
        assert!(
            stated("aperio", &[("tiff.XResolution", "1"), ("tiff.YResolution", "1"), ("tiff.ResolutionUnit", "none")])
                .0
                .is_empty()
        );
    }
}
