//! The command line's words, and how they become typed values. Defaults are those of the option structs.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand, ValueEnum};

use super::audit::AuditArgs;
use super::ids::{IdsArgs, TableArgs};
use super::log::LogFormat;
use super::worker_args::{MergeArgs, PlanArgs, ShardArgs, StatusArgs};
use crate::encoder::card::{Card, Compute};
use crate::encoder::device::{Device, Devices};
use crate::encoder::registry::DEFAULT_ID;
use crate::encoder::segment::Segmenter;
use crate::encoder::slide;
use crate::error::{Error, Result};
use crate::features::Precision;
use crate::icc::IccMode;
use crate::job::SlideLevel;
use crate::job::lease::TIMEOUT_SECONDS;
use crate::pipeline::prepare::PrepareOptions;
use crate::resample::Filter;
use crate::slide::mpp::{MppOverride, MppSource};
use crate::tiling::{DecodeMode, TilingOptions};
use crate::tissue::{QcLimits, TissueMethod, TissueOptions};

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

const EXIT_CODES: &str = "\
Exit codes:
   0  all done, or done already
   1  could not start, or an internal failure
   2  the command line makes no sense
   3  OUT holds features made with other settings, or names its slides in another way
   4  some slides failed (the table at the end names them)
   5  the audit found something that identifies
  75  stopped by a signal (--exit-on-term chooses another code): run the same command again";

const REPORT_PRIVACY: &str = "\
A report holds ids, the slides' paths of failures, and pictures of the slides: it stays at home. With --shareable it holds \
numbers in place of ids, no overviews and no messages of failures; what remains are numbers of each slide (size, resolution, \
tiles, tissue area, warnings) and feature maps, which show the tissue's outline in tiles.";

/// Embeds whole-slide pathology images with foundation models: one compact feature file per slide, ready for training.
#[derive(Parser)]
#[command(name = "paraffin", version, styles = STYLES, max_term_width = 110, after_help = EXIT_CODES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What paraffin can do.
#[derive(Subcommand)]
pub enum Command {
    /// Slides to features: find tissue, cut tiles at a physical resolution, embed them, write one HDF5 file per slide
    #[command(after_help = EXIT_CODES, mut_arg("slides", unless_planned))]
    Embed(EmbedArgs),
    /// Tissue and tile coordinates only, in TRIDENT's `patches` files
    #[command(after_help = EXIT_CODES, mut_arg("slides", unless_planned))]
    Tiles(TilesArgs),
    /// What a run over slides will take, and a plan that workers divide: only headers are opened
    Plan(PlanArgs),
    /// How far the workers of an OUT are: slides done, in work and failed, rates, time left
    Status(StatusArgs),
    /// One table of all slides in OUT, and its manifest brought up to date
    Merge(MergeArgs),
    /// What a slide is: format, levels, resolution and its source, which identifying fields it carries
    Info(InfoArgs),
    /// Check every file in OUT against its record
    Verify(VerifyArgs),
    /// Search every byte that would leave for what identifies a slide or a patient
    #[command(after_help = EXIT_CODES)]
    Audit(AuditArgs),
    /// Which id is which slide, from site-private, as CSV: for the site's own eyes
    Ids(TableArgs),
    /// Finished features in the layouts that other tools read: CLAM, STAMP, slideflow, safetensors; or the manifest as RO-Crate
    Export(super::export::ExportArgs),
    /// Scores of tiles, such as a model's attention, over the overview: pictures, and polygons for QuPath
    Heatmap(super::heatmap::HeatmapArgs),
    /// A cohort as one HTML file: table, overviews, feature maps, distributions, failures
    #[command(after_help = REPORT_PRIVACY)]
    Report(ReportArgs),
    /// A slide, or the slides of an OUT with their features, in the browser of this machine
    View(ViewArgs),
    /// Write what the site may tell others, site-manifest.json, anew, and sign it
    #[command(after_help = super::manifest::AFTER_HELP)]
    Manifest(super::manifest::ManifestArgs),
    /// May the features of these sites be trained on together? Contracts, canaries and statistics, from their manifests alone
    #[command(after_help = super::compat::AFTER_HELP)]
    Compat(super::compat::CompatArgs),
    /// The encoders that can be used
    #[command(subcommand)]
    Encoders(EncodersCommand),
    /// Which runtime libraries and devices are there, and what is missing
    Doctor,
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write manual pages to a directory
    Manpages {
        /// The directory; it is made
        directory: PathBuf,
    },
    /// Reads slides through OpenSlide for a parent paraffin
    #[command(name = "__openslide-worker", hide = true)]
    OpenslideWorker,
}

/// Slides need not be given to a worker that has a plan.
fn unless_planned(slides: clap::Arg) -> clap::Arg {
    slides.required_unless_present_any(["slide_list", "plan"])
}

/// `encoders` subcommands.
#[derive(Subcommand)]
pub enum EncodersCommand {
    /// All that the program knows, one line each: dimension, tile, licence, and whether the model is here
    List {
        /// Only those whose licence allows commercial use
        #[arg(long)]
        commercial: bool,
        /// Only those whose model is here
        #[arg(long)]
        here: bool,
        /// As JSON: the cards
        #[arg(long)]
        json: bool,
    },
    /// An encoder's card, and how to get its model
    Show {
        /// Id or alias, an ONNX file or a folder with one
        encoder: String,
        /// As JSON: the card
        #[arg(long)]
        json: bool,
    },
    /// Copy a model into the local store, so that --encoder ID finds it; nothing is downloaded
    Add {
        /// An ONNX file, a folder that scripts/export_onnx.py wrote, or with --weights an id
        encoder: String,
        /// The folder with the model of that id
        #[arg(long, value_name = "DIR", conflicts_with = "card")]
        weights: Option<PathBuf>,
        /// The model's card [default: beside it, or in it]
        #[arg(long, value_name = "TOML")]
        card: Option<PathBuf>,
        /// Take the place of a model that is there
        #[arg(long)]
        replace: bool,
    },
    /// Remove a model from the local store
    Remove {
        /// Id
        id: String,
    },
    /// Load a model and run tiles through it: does it work, how fast, with how much memory?
    Check {
        /// Id or alias, an ONNX file or a folder with one
        #[arg(default_value = DEFAULT_ID)]
        encoder: String,
        /// The model's card [default: beside it, or in it]
        #[arg(long, value_name = "TOML")]
        card: Option<PathBuf>,
        /// The model that computes in this precision: fp32, fp16, bf16, int8
        #[arg(long, value_name = "KIND")]
        precision_compute: Option<Compute>,
        /// Where to compute: cpu, cuda, cuda:N, tensorrt, tensorrt:N
        #[arg(long, default_value_t = Device::Cpu, value_name = "DEVICE")]
        device: Device,
        /// Tiles in a batch [default: 1, on a card 64]
        #[arg(long, value_name = "N")]
        batch_size: Option<NonZeroUsize>,
        /// Threads that compute [default: all cores]
        #[arg(long, value_name = "N")]
        threads: Option<NonZeroUsize>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

/// Which slides.
#[derive(Args)]
pub struct SlideArgs {
    /// Slides, or directories that are searched to the bottom
    #[arg(value_name = "SLIDE|DIR", required_unless_present = "slide_list")]
    pub slides: Vec<PathBuf>,
    /// CSV file with the columns path, and where wanted mpp and id
    #[arg(long, value_name = "CSV", help_heading = "Slides")]
    pub slide_list: Option<PathBuf>,
    /// Resolution of level 0 in µm per pixel, for all slides; overrides what they state
    #[arg(long, value_name = "UM", help_heading = "Slides")]
    pub mpp: Option<f64>,
    /// Where a slide states no resolution, take 10 / objective power
    #[arg(long, help_heading = "Slides")]
    pub allow_objective_mpp: bool,
}

impl SlideArgs {
    /// What the user says about resolutions.
    #[must_use]
    pub fn mpp(&self) -> MppOverride {
        MppOverride { given: self.mpp.map(|m| (m, MppSource::User)), allow_objective: self.allow_objective_mpp }
    }
}

/// What a tile is.
#[derive(Args)]
pub struct TileArgs {
    /// Resolution of a tile in µm per pixel [default: the encoder's]
    #[arg(long, value_name = "UM", help_heading = "Tiles")]
    pub target_mpp: Option<f64>,
    /// The same as a magnification: 40 is 0.25, 20 is 0.5, 10 is 1 µm per pixel
    #[arg(long, value_name = "X", conflicts_with = "target_mpp", help_heading = "Tiles")]
    pub mag: Option<f64>,
    /// Side of a tile in pixels [default: the encoder's]
    #[arg(long, value_name = "PX", visible_alias = "patch-size", help_heading = "Tiles")]
    pub tile_px: Option<u32>,
    /// Overlap of neighbouring tiles in tile pixels
    #[arg(long, value_name = "PX", visible_alias = "overlap", default_value_t = TilingOptions::default().overlap_px, help_heading = "Tiles")]
    pub overlap_px: u32,
    /// How tissue is found: auto (otsu, entropy or fluorescence, by what the slide measures), otsu (stain), entropy (texture: pale
    /// and fatty tissue), fluorescence (bright on black), none (all of the slide), a mask of one whole slide (.png, .tif, .geojson),
    /// or a segmentation model (.onnx with its card beside it, or the folder with both)
    #[arg(long, value_name = "METHOD|FILE", default_value_t = TissueMethod::default(), help_heading = "Tissue")]
    pub tissue: TissueMethod,
    /// Pieces of tissue smaller than this are dropped, in µm²
    #[arg(long, value_name = "UM2", default_value_t = TissueOptions::default().pieces.min_area_um2, help_heading = "Tissue")]
    pub min_tissue_area: f64,
    /// Holes in tissue smaller than this are filled, in µm²
    #[arg(long, value_name = "UM2", default_value_t = TissueOptions::default().pieces.min_hole_um2, help_heading = "Tissue")]
    pub min_hole_area: f64,
    /// Leave out tiles with larger shares than these: of their tissue out of focus (blur), of their area pen, white, black; as
    /// blur=0.5,pen=0.1 [default: pen=0.5 where tissue is looked for]
    #[arg(long, value_name = "NAME=SHARE,...", help_heading = "Tissue")]
    pub qc: Option<QcLimits>,
    /// Least share of a tile that must be tissue
    #[arg(long, value_name = "0..1", visible_alias = "min-tissue-proportion", default_value_t = TilingOptions::default().min_tissue_fraction, help_heading = "Tissue")]
    pub min_tissue_fraction: f64,
    /// Do not treat marker colours as pen (for blue or green stains)
    #[arg(long, help_heading = "Tissue")]
    pub no_pen_guard: bool,
    /// Where the reduction is 2, 4 or 8: decode all and resample (exact), or let the JPEG decoder do it (scaled: faster, other pixels)
    #[arg(long, default_value_t = DecodeMode::default(), value_name = "exact|scaled", help_heading = "Tiles")]
    pub decode: DecodeMode,
    /// Filter of the resampling, as in Pillow: bilinear, bicubic, lanczos
    #[arg(long, default_value_t = Filter::default(), value_name = "FILTER", help_heading = "Tiles")]
    pub resample: Filter,
    /// Colours: the scanner's, as foundation models were trained on (off), or by the slide's ICC profile to sRGB (srgb)
    #[arg(long, default_value_t = IccMode::default(), value_name = "off|srgb", help_heading = "Tiles")]
    pub icc: IccMode,
    /// Magnify slides that are coarser than the target
    #[arg(long, help_heading = "Tiles")]
    pub allow_upsample: bool,
}

impl TileArgs {
    /// The options for an encoder with this card; `threads` are for a model that finds tissue.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn options(&self, card: &Card, allow_failed_tiles: u64, threads: usize) -> Result<PrepareOptions> {
        let target_mpp = match (self.target_mpp, self.mag) {
            (Some(mpp), _) => mpp,
            (None, Some(mag)) if mag > 0.0 => 10.0 / mag,
            (None, Some(mag)) => return Err(Error::Usage(format!("--mag {mag} is no magnification"))),
            (None, None) => card.tile.mpp,
        };
        let tiling = TilingOptions {
            target_mpp,
            tile_px: self.tile_px.unwrap_or(card.tile.px),
            overlap_px: self.overlap_px,
            decode: self.decode,
            resample: self.resample,
            allow_upsample: self.allow_upsample,
            min_tissue_fraction: self.min_tissue_fraction,
        };
        tiling.check()?;
        let mut find = TissueOptions::default();
        find.pen.enabled = !self.no_pen_guard;
        find.pieces.min_area_um2 = area("--min-tissue-area", self.min_tissue_area)?;
        find.pieces.min_hole_um2 = area("--min-hole-area", self.min_hole_area)?;
        find.qc.given = self.qc.unwrap_or_default();
        let model = match &self.tissue {
            TissueMethod::Model(path) => Some(Arc::new(Segmenter::find(path, threads)?)),
            _ => None,
        };
        Ok(PrepareOptions { tiling, tissue: self.tissue.clone(), model, find, icc: self.icc, allow_failed_tiles })
    }
}

/// An area in µm² as it was given.
fn area(flag: &str, um2: f64) -> Result<f64> {
    if (0.0..=1e12).contains(&um2) { Ok(um2) } else { Err(Error::Usage(format!("{flag} {um2} is no area in µm²"))) }
}

/// Where results go and how the run behaves.
#[derive(Args)]
pub struct RunArgs {
    /// Directory for the results; made if it does not exist
    #[arg(short, long, value_name = "OUT")]
    pub out: PathBuf,
    /// Unreadable tiles that a slide may have before it counts as failed; they get no row
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Run")]
    pub allow_failed_tiles: u64,
    /// Threads for reading and computing [default: all cores]
    #[arg(long, value_name = "N", help_heading = "Run")]
    pub threads: Option<usize>,
    /// Take the slides of a worker over that showed no sign of life for so long; each worker states its own
    #[arg(long, value_name = "SECONDS", default_value_t = TIMEOUT_SECONDS, value_parser = clap::value_parser!(u64).range(1..=86400), help_heading = "Workers")]
    pub lease_timeout: u64,
    /// Stop when so many slides have failed in this run, with exit code 4 [default: never]
    #[arg(long, value_name = "N", help_heading = "Workers")]
    pub max_failures: Option<NonZeroUsize>,
    /// Only the slides that failed before and have not been done since; without it, they are tried again with the others
    #[arg(long, conflicts_with = "skip_failed", help_heading = "Workers")]
    pub retry_failed: bool,
    /// Leave the slides that failed before as they are
    #[arg(long, help_heading = "Workers")]
    pub skip_failed: bool,
    /// Seconds after a signal within which the run has kept what is done and ended
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..), help_heading = "Run")]
    pub grace: u64,
    /// Exit code of a run that SIGTERM, SIGINT or SIGUSR1 stopped
    #[arg(long, value_name = "CODE", default_value_t = 75, help_heading = "Run")]
    pub exit_on_term: u8,
    /// Where OUT has no room left, wait until it has instead of ending
    #[arg(long, help_heading = "Run")]
    pub wait_for_space: bool,
    /// Do not draw overview pictures
    #[arg(long, help_heading = "Run")]
    pub no_overviews: bool,
    /// Write the outlines of tissue to contours/ID.geojson, in level-0 pixels; QuPath opens it, --tissue takes it
    #[arg(long, help_heading = "Run")]
    pub contours: bool,
    /// Progress: bars on a terminal and lines elsewhere (auto), or one of them, or none
    #[arg(long, value_enum, default_value_t = ProgressKind::Auto, help_heading = "Run")]
    pub progress: ProgressKind,
    /// How slides are named.
    #[command(flatten)]
    pub ids: IdsArgs,
    /// Standard error: lines for people, or one JSON object an event, with ids and without paths (docs/log-events.md)
    #[arg(long, value_enum, default_value_t, help_heading = "Run")]
    pub log_format: LogFormat,
    /// Write counts and times to this file every five seconds, in Prometheus' text format for a node exporter (NAME.prom)
    #[arg(long, value_name = "FILE", help_heading = "Run")]
    pub metrics: Option<PathBuf>,
}

impl RunArgs {
    /// Whether people are told how the run goes.
    #[must_use]
    pub fn tells(&self) -> bool {
        self.progress != ProgressKind::None && self.log_format.is_text()
    }

    /// Threads to use.
    #[must_use]
    pub fn threads(&self) -> usize {
        threads(self.threads)
    }
}

/// Threads to use: what was asked for, what Slurm gives the task, or the cores there are.
#[must_use]
pub fn threads(asked: Option<usize>) -> usize {
    let slurm = || std::env::var("SLURM_CPUS_PER_TASK").ok().and_then(|n| n.parse().ok());
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    asked.or_else(slurm).unwrap_or_else(cores).clamp(1, 512)
}

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProgressKind {
    /// Bars on a terminal, lines elsewhere.
    Auto,
    /// Bars.
    Bars,
    /// A line per slide.
    Lines,
    /// Nothing.
    None,
}

/// `paraffin embed`.
#[derive(Args)]
pub struct EmbedArgs {
    /// Which slides.
    #[command(flatten)]
    pub slides: SlideArgs,
    /// The share.
    #[command(flatten)]
    pub share: ShardArgs,
    /// The run.
    #[command(flatten)]
    pub run: RunArgs,
    /// Encoder: an id of 'paraffin encoders list', a folder that scripts/export_onnx.py wrote, or an ONNX file with its card
    /// beside it (same name, .toml)
    #[arg(long, value_name = "ID|FILE.onnx|DIR", visible_alias = "patch-encoder", default_value = DEFAULT_ID, help_heading = "Encoder")]
    pub encoder: String,
    /// Card of the ONNX file, where it does not lie beside it
    #[arg(long, value_name = "TOML", help_heading = "Encoder")]
    pub card: Option<PathBuf>,
    /// The model that computes in this precision: fp32, fp16, bf16, int8. Another precision is another model file
    /// (ID.fp16.onnx), whose card says how far it is from fp32 [default: the model as it is]
    #[arg(long, value_name = "KIND", help_heading = "Encoder")]
    pub precision_compute: Option<Compute>,
    /// Where the encoder computes: cpu, cuda, cuda:N, several cards as cuda:0,1; tensorrt likewise
    #[arg(long, value_name = "DEVICE", help_heading = "Encoder")]
    pub device: Option<Devices>,
    /// The same as in TRIDENT and CLAM: numbers of the NVIDIA cards, as 0 or 0,1; -1 for the processor
    #[arg(
        long,
        value_name = "N",
        conflicts_with = "device",
        allow_negative_numbers = true,
        value_delimiter = ',',
        help_heading = "Encoder"
    )]
    pub gpus: Vec<i32>,
    /// Tiles in a batch [default: 1 on cpu, 64 on a card]
    #[arg(long, value_name = "N", help_heading = "Encoder")]
    pub batch_size: Option<usize>,
    /// Features on disk: f32-m10 (float32 with a 10-bit mantissa, compressed), f32, f16
    #[arg(long, default_value_t = Precision::default(), value_name = "KIND", help_heading = "Encoder")]
    pub precision: Precision,
    /// Seconds after which the rows of a slide are kept, so that a killed run loses no more; 0 keeps them only at a signal
    #[arg(long, value_name = "SECONDS", default_value_t = 600, help_heading = "Run")]
    pub checkpoint_every: u64,
    /// Copy slides to this directory (on a near disk, as $TMPDIR) ahead of use, and remove them after it
    #[arg(long, value_name = "DIR", help_heading = "Run")]
    pub stage_dir: Option<PathBuf>,
    /// Most bytes there, as 200G [default: half of what is free]
    #[arg(long, value_name = "SIZE", value_parser = size, requires = "stage_dir", help_heading = "Run")]
    pub stage_bytes: Option<u64>,
    /// Also one vector a slide in slide_features_mean-ENCODER: the mean of its tiles' features
    #[arg(long, value_enum, value_name = "KIND", help_heading = "Slide vectors")]
    pub slide_pooling: Option<SlidePooling>,
    /// Also one vector a slide in slide_features_ID: what this slide encoder makes of them; its card lies beside it
    #[arg(long, value_name = "FILE.onnx|DIR", help_heading = "Slide vectors")]
    pub slide_encoder: Option<PathBuf>,
    /// What a tile is.
    #[command(flatten)]
    pub tiles: TileArgs,
}

/// Bytes: a whole number, or one with K, M, G or T behind it (of 1024).
fn size(word: &str) -> Result<u64, String> {
    let (digits, factor) = match word.char_indices().last() {
        Some((at, unit)) if !unit.is_ascii_digit() => {
            let power = "KMGT".find(unit.to_ascii_uppercase()).ok_or("no unit but K, M, G and T")?;
            (&word[..at], 1u64 << (10 * (power + 1)))
        }
        _ => (word, 1),
    };
    let number: u64 = digits.parse().map_err(|_| "a whole number of bytes, as 200G".to_string())?;
    number.checked_mul(factor).ok_or_else(|| "too large".to_string())
}

/// How the features of a slide are pooled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SlidePooling {
    /// Their mean.
    Mean,
}

impl EmbedArgs {
    /// What becomes one vector a slide.
    ///
    /// # Errors
    /// [`Error::Encoder`] where the slide encoder or its card is unusable.
    pub fn slide_level(&self) -> Result<Vec<SlideLevel>> {
        let mut levels: Vec<SlideLevel> =
            self.slide_pooling.iter().map(|SlidePooling::Mean| SlideLevel::Mean).collect();
        if let Some(path) = &self.slide_encoder {
            levels.push(SlideLevel::Encoder(Box::new(slide::find(path)?)));
        }
        Ok(levels)
    }

    /// Where the encoder computes.
    ///
    /// # Errors
    /// [`Error::Usage`] for card numbers that cannot be.
    pub fn devices(&self) -> Result<Devices> {
        match (&self.device, &self.gpus[..]) {
            (Some(devices), _) => Ok(devices.clone()),
            (None, [] | [-1]) => Ok(Devices::default()),
            (None, numbers) => {
                let cards = numbers.iter().map(|n| u32::try_from(*n).map_err(|_| format!("{n} is no card number")));
                let cards = cards.collect::<Result<Vec<_>, _>>().and_then(|cards| Devices::cuda(&cards));
                cards.map_err(|why| Error::Usage(format!("--gpus: {why}")))
            }
        }
    }
}

/// `paraffin tiles`.
#[derive(Args)]
pub struct TilesArgs {
    /// Which slides.
    #[command(flatten)]
    pub slides: SlideArgs,
    /// The share.
    #[command(flatten)]
    pub share: ShardArgs,
    /// The run.
    #[command(flatten)]
    pub run: RunArgs,
    /// Encoder whose recommended tile and resolution are the defaults
    #[arg(long, value_name = "ID|FILE.onnx", visible_alias = "patch-encoder", default_value = DEFAULT_ID, help_heading = "Tiles")]
    pub encoder: String,
    /// What a tile is.
    #[command(flatten)]
    pub tiles: TileArgs,
}

/// `paraffin info`.
#[derive(Args)]
pub struct InfoArgs {
    /// The slide
    pub slide: PathBuf,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// Also look for tissue: which method auto takes and why, how much tissue there is, and which artefacts
    #[arg(long)]
    pub tissue: bool,
    /// Resolution of level 0 in µm per pixel; overrides what the slide states
    #[arg(long, value_name = "UM")]
    pub mpp: Option<f64>,
    /// Write a picture of the whole slide (never the label or macro picture) to this JPEG file, which must not exist yet
    #[arg(long, value_name = "JPG")]
    pub thumbnail: Option<PathBuf>,
    /// Longest side of that picture in pixels, about; never more
    #[arg(long, value_name = "PX", requires = "thumbnail", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(16..=16384))]
    pub thumbnail_px: u32,
}

/// `paraffin verify`.
#[derive(Args)]
pub struct VerifyArgs {
    /// Directories that paraffin wrote
    #[arg(required = true, value_name = "OUT")]
    pub outs: Vec<PathBuf>,
    /// Also check the signature of site-manifest.json with this minisign public key, or the file of one
    #[arg(long, value_name = "KEY")]
    pub pubkey: Option<String>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// `paraffin report`.
#[derive(Args)]
pub struct ReportArgs {
    /// Directory that paraffin wrote
    #[arg(value_name = "OUT")]
    pub out: PathBuf,
    /// The HTML file [default: OUT/site-private/report.html; with --shareable OUT/report.html]
    #[arg(short, long, value_name = "HTML")]
    pub output: Option<PathBuf>,
    /// Which of several: an encoder, features_ENCODER, patches, or GRID/features_ENCODER
    #[arg(long, value_name = "NAME")]
    pub artefact: Option<String>,
    /// Leave out ids, overviews and the messages of failures
    #[arg(long)]
    pub shareable: bool,
}

/// `paraffin view`.
#[derive(Args)]
pub struct ViewArgs {
    /// A slide, or a directory that paraffin wrote
    #[arg(value_name = "SLIDE|OUT")]
    pub subject: PathBuf,
    /// Port on 127.0.0.1, for this machine only; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    pub port: u16,
    /// Where slides of OUT may have moved to; searched to the bottom for files of the same name and content
    #[arg(long, value_name = "DIR", num_args = 1..)]
    pub slides: Vec<PathBuf>,
    /// Which of several: an encoder, features_ENCODER, patches, or GRID/features_ENCODER
    #[arg(long, value_name = "NAME")]
    pub artefact: Option<String>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn familiar_words_are_understood() {
        let words =
            "paraffin embed slides -o out --patch-size 256 --mag 10 --overlap 32 --gpus -1 --min-tissue-proportion 0.5";
        let Command::Embed(args) = Cli::parse_from(words.split(' ')).command else { panic!("embed") };
        let card = crate::encoder::registry::cards().expect("compiled in").remove(0);
        let options = args.tiles.options(&card, 0, 1).expect("fits").tiling;
        assert_eq!((options.target_mpp, options.tile_px, options.overlap_px), (1.0, 256, 32));
        assert_eq!(options.min_tissue_fraction, 0.5);
        assert!(args.devices().expect("the processor").is_cpu());
        let Command::Embed(args) = Cli::parse_from("paraffin embed a.svs -o out --gpus 1".split(' ')).command else {
            panic!("embed")
        };
        assert_eq!(args.devices().expect("a card").as_slice(), [Device::Cuda(1)]);
        let options = args.tiles.options(&card, 0, 1).expect("fits").tiling;
        assert_eq!((options.target_mpp, options.tile_px), (card.tile.mpp, card.tile.px));
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!((size("0"), size("12345"), size("3K"), size("2g")), (Ok(0), Ok(12345), Ok(3072), Ok(2 << 30)));
        assert_eq!(size("1T"), Ok(1 << 40));
        for wrong in ["", "G", "1.5G", "-1", "3X", "3GB", "99999999999T", "20 G"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn senseless_words_are_refused() {
        let parse = |words: &str| Cli::try_parse_from(words.split(' ')).map(|_| ());
        assert!(parse("paraffin embed -o out").is_err(), "no slides");
        assert!(parse("paraffin embed a.svs").is_err(), "no OUT");
        assert!(parse("paraffin embed a.svs -o out --mag 20 --target-mpp 0.5").is_err());
        assert!(parse("paraffin embed a.svs -o out --device gpu").is_err());
        assert!(parse("paraffin embed a.svs -o out --tissue otus").is_err());
        assert!(parse("paraffin embed a.svs -o out --precision-compute half").is_err());
        let Command::Embed(args) = Cli::parse_from("paraffin embed a.svs -o out --gpus 0,-1".split(' ')).command else {
            panic!("embed")
        };
        assert!(args.devices().expect_err("no card").to_string().contains("-1 is no card number"));
        let Command::Tiles(args) = Cli::parse_from("paraffin tiles a.svs -o out --mag 0".split(' ')).command else {
            panic!("tiles")
        };
        let card = crate::encoder::registry::cards().expect("compiled in").remove(0);
        assert!(args.tiles.options(&card, 0, 1).is_err());
    }
}
