//! A run over slides and its OUT directory: which slides there are (`discover`), what they are called (`ids`), what is done
//! already, and in which order files appear so that nothing half-made is ever taken for finished.

mod checkpoints;
pub mod discover;
pub mod ids;
pub mod lease;
pub mod plan;
pub mod queue;
pub mod shard;
mod space;
pub mod stage;
pub mod status;
pub mod summary;
pub mod table;
mod vectors;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::json;

use crate::digest;
use crate::encoder::registry::Available;
use crate::error::{Error, Result};
use crate::features::{
    CoordsAttributes, EncoderAttributes, FeatureFile, FeatureWriter, Precision, Published, QcTable, RootAttributes,
    write_patches,
};
use crate::pipeline::Outcome;
use crate::pipeline::canary::Observed;
use crate::pipeline::meter::Meter;
use crate::pipeline::prepare::{PlannedSlide, PrepareOptions};
use crate::pipeline::resume::Resume;
use crate::record::canary::{CANARIES, Canary};
use crate::record::checkpoint;
use crate::record::contract::{
    Contract, EncoderContract, GridContract, StorageContract, check_contract, claim_contract,
};
use crate::record::done::{self, Status};
use crate::record::failures::{self, Failures};
use crate::record::manifest::SiteManifest;
use crate::record::publish::{self, TempFile};
use crate::record::runs::{self, RunNote, Sample};
use crate::record::{FileEntry, ReadFacts, Record, Runtime, SlideFacts, TileCounts, artefacts, grid_dirs};
use crate::report::overview::{self, OverviewInput};
use crate::tiling::{self, LEVEL_RULE, MPP_TOLERANCE};
use crate::tissue::{QC_COLUMNS, TileQc, TissueMethod, to_geojson};
use ids::PRIVATE;
pub use space::WaitForSpace;
use space::{Patient, Space};
use vectors::Vectors;
pub use vectors::{SlideLevel, VectorsMade};

/// Where a tile's coordinates are, in the contract's words.
pub const COORDS_RULE: &str = "level-0 pixel of the tile's upper left corner; grid anchored at (0, 0), row by row";

/// One kind of output under one contract: `patches`, `features_<encoder>` or `slide_features_<slide encoder>`.
struct Artefact {
    name: String,
    contract: Contract,
    sha256: String,
}

/// A run's settings and its OUT.
pub struct Job {
    out: PathBuf,
    grid_dir: PathBuf,
    options: PrepareOptions,
    patches: Artefact,
    features: Option<Artefact>,
    vectors: Vec<Vectors>,
    encoder: Option<Available>,
    precision: Precision,
    overviews: bool,
    contours: bool,
    device: String,
    /// ONNX Runtime's version, if a model runs; known when the run has begun.
    onnxruntime: OnceLock<Option<String>>,
    space: Space,
}

/// What a run does beside planning.
pub struct JobOptions {
    /// OUT.
    pub out: PathBuf,
    /// The encoder; `None` for coordinates only.
    pub encoder: Option<Available>,
    /// How features are stored.
    pub precision: Precision,
    /// What becomes one vector a slide of its features.
    pub slide_level: Vec<SlideLevel>,
    /// Whether overviews are drawn.
    pub overviews: bool,
    /// Whether tissue's outlines are written.
    pub contours: bool,
    /// The device's name, for the record.
    pub device: String,
}

impl Job {
    /// Fixes the contracts of a run; touches nothing yet.
    ///
    /// # Errors
    /// [`Error::Tissue`] where a mask picture cannot be read, [`Error::Usage`] where a slide encoder takes other features.
    pub fn new(options: PrepareOptions, job: JobOptions) -> Result<Self> {
        let grid = grid_contract(&options)?;
        let contract = Contract::new(grid.clone(), None, None);
        let patches = Artefact { name: "patches".into(), sha256: contract.sha256(), contract };
        let features = job.encoder.as_ref().map(|encoder| {
            let storage = StorageContract { precision: job.precision.name().into() };
            let contract = Contract::new(grid, Some(encoder_contract(encoder)), Some(storage));
            Artefact { name: format!("features_{}", encoder.card.id), sha256: contract.sha256(), contract }
        });
        let vectors = match (&job.encoder, &features) {
            (Some(encoder), Some(features)) => {
                let levels = job.slide_level.into_iter();
                levels.map(|level| Vectors::new(level, encoder, &features.contract)).collect::<Result<_>>()?
            }
            _ => Vec::new(),
        };
        Ok(Job {
            grid_dir: job.out.join(tiling::directory_name(&options.tiling)),
            out: job.out,
            options,
            patches,
            features,
            vectors,
            encoder: job.encoder,
            precision: job.precision,
            overviews: job.overviews,
            contours: job.contours,
            device: job.device,
            onnxruntime: OnceLock::new(),
            space: Space::default(),
        })
    }

    /// Makes the run wait where OUT has no room left.
    pub fn wait_for_space(&self, wait: Box<WaitForSpace>) {
        self.space.wait(wait);
    }

    /// Does something again while OUT has no room left and the run is to wait for it; see [`Job::wait_for_space`].
    ///
    /// # Errors
    /// Its own, or [`Error::Interrupted`] where the run was stopped while it waited.
    pub fn patiently<T>(&self, work: impl FnMut() -> Result<T>) -> Result<T> {
        self.space.patiently(work)
    }

    /// What is done to every slide.
    #[must_use]
    pub fn options(&self) -> &PrepareOptions {
        &self.options
    }

    /// The directory of this grid below OUT.
    #[must_use]
    pub fn grid_dir(&self) -> &Path {
        &self.grid_dir
    }

    /// What marks a slide as done: its features, or, without an encoder, its coordinates.
    fn goal(&self) -> &Artefact {
        self.features.as_ref().unwrap_or(&self.patches)
    }

    /// The name of what the run makes.
    #[must_use]
    pub fn goal_name(&self) -> &str {
        &self.goal().name
    }

    fn artefacts(&self) -> impl Iterator<Item = &Artefact> {
        let tiles = [Some(&self.patches), self.features.as_ref()].into_iter().flatten();
        tiles.chain(self.vectors.iter().map(Vectors::artefact))
    }

    /// Makes OUT, refuses it where it holds results made under another contract, and clears away what killed runs of this
    /// host left in it. Binds it to nothing yet.
    ///
    /// # Errors
    /// [`Error::Write`] where OUT cannot be written, [`Error::Incompatible`] naming what differs.
    pub fn open_out(&self) -> Result<()> {
        publish::create_private_dir(&self.out).map_err(|e| Error::write(PRIVATE, e))?;
        self.artefacts().try_for_each(|a| check_contract(&self.grid_dir, &a.name, &a.contract))?;
        self.sweep().map_err(|e| Error::write("OUT", e))
    }

    /// Clears away what killed runs of this host left anywhere in OUT, also those of other grids: whoever comes next may have
    /// nothing to do there.
    fn sweep(&self) -> io::Result<()> {
        lease::bury_the_dead(&self.out.join(PRIVATE), "")?;
        let mut directories = vec![self.out.clone(), runs::directory(&self.out)];
        directories.extend(ids::directories(&self.out));
        directories.extend(failures::directories(&self.out)?);
        directories.extend(lease::directories(&self.out.join(PRIVATE))?);
        for grid in grid_dirs(&self.out)? {
            checkpoint::sweep_finished(&grid)?;
            directories.extend(["contracts", "overviews", "contours"].map(|name| grid.join(name)));
            let of = |a: String| [grid.join("records").join(&a), grid.join(CANARIES).join(&a), grid.join(a)];
            directories.extend(artefacts(&grid)?.into_iter().flat_map(of));
        }
        directories.iter().try_for_each(|directory| publish::sweep_stale_parts(directory).map(|_| ()))
    }

    /// Binds OUT to the run's contracts and makes its directories. `onnxruntime` is its version, for the records.
    ///
    /// # Errors
    /// As [`Job::open_out`].
    pub fn begin(&self, onnxruntime: Option<&str>) -> Result<()> {
        let made = |result: io::Result<()>| result.map_err(|e| Error::write("OUT", e));
        let mut directories = vec!["contracts".to_string()];
        if self.overviews {
            directories.push("overviews".into());
        }
        if self.contours {
            directories.push("contours".into());
        }
        directories.extend(self.artefacts().flat_map(|a| [a.name.clone(), format!("records/{}", a.name)]));
        self.space.patiently(|| {
            for directory in directories.iter().map(|d| self.grid_dir.join(d)) {
                made(publish::create_dir_all(&directory))?;
            }
            self.artefacts().try_for_each(|a| claim_contract(&self.grid_dir, &a.name, &a.contract).map(|_| ()))
        })?;
        let _ = self.onnxruntime.set(onnxruntime.map(Into::into));
        Ok(())
    }

    fn onnxruntime(&self) -> Option<&str> {
        self.onnxruntime.get().and_then(Option::as_deref)
    }

    fn runtime(&self) -> Runtime {
        Runtime {
            paraffin: env!("CARGO_PKG_VERSION").into(),
            onnxruntime: self.onnxruntime().map(Into::into),
            device: self.device.clone(),
        }
    }

    /// Whether [`Job::begin`] succeeded: before it OUT is not this run's.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.onnxruntime.get().is_some()
    }

    /// Makes whatever OUT holds under this id count as not done, in every grid: its slide has changed.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn invalidate(&self, id: &str) -> Result<()> {
        let failed = |e| Error::write("records", e);
        for grid in grid_dirs(&self.out).map_err(failed)? {
            for artefact in artefacts(&grid).map_err(failed)? {
                done::retract(&grid, &artefact, id)?;
                checkpoint::discard(&grid, &artefact, id);
            }
        }
        Ok(())
    }

    /// Whether a slide is done, or why what is there does not count.
    #[must_use]
    pub fn status(&self, id: &str) -> Status {
        let judge = |a: &Artefact| done::status(&self.grid_dir, &a.name, id, &a.sha256);
        match judge(self.goal()) {
            // The features of a slide whose coordinates were lost are no use to half of their readers.
            Status::Done if self.features.is_some() => judge(&self.patches),
            status => status,
        }
    }

    /// Keeps what became of the canary, which the run's model was just loaded for.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn keep_canary(&self, observed: Observed) -> Result<()> {
        let (Some(artefact), Some(encoder)) = (&self.features, &self.encoder) else { return Ok(()) };
        let Observed { tiles, slide, vectors } = observed;
        let canary = Canary {
            schema: Canary::SCHEMA.into(),
            contract_sha256: artefact.sha256.clone(),
            runtime: self.runtime(),
            precision: self.precision.name().into(),
            compute: encoder.card.compute.map(|c| c.name().into()),
            thresholds: encoder.card.canary,
            tiles,
            slide,
            vectors,
        };
        self.space.patiently(|| canary.keep(&self.grid_dir, &artefact.name))
    }

    fn coords_attributes(&self, slide: &PlannedSlide) -> CoordsAttributes {
        let tiling = &self.options.tiling;
        let level0 = slide.slide.level0();
        let target = tiling::magnification(tiling.target_mpp);
        CoordsAttributes {
            patch_size: i64::from(tiling.tile_px),
            patch_size_level0: i64::from(slide.plan.tile_size_level0),
            // Not 10 / mpp: TRIDENT computes a tile's level-0 side as patch_size * level0 / target, which must give ours.
            level0_magnification: target * f64::from(slide.plan.tile_size_level0) / f64::from(tiling.tile_px),
            target_magnification: target,
            overlap: i64::from(tiling.overlap_px),
            level0_width: i64::from(level0.width),
            level0_height: i64::from(level0.height),
            name: slide.spec.id.clone(),
        }
    }

    fn root_attributes(&self, slide: &PlannedSlide, artefact: &Artefact) -> RootAttributes {
        let encoder = self.encoder.as_ref().filter(|_| artefact.contract.encoder.is_some());
        RootAttributes {
            contract_sha256: artefact.sha256.clone(),
            encoder: encoder.map(|e| EncoderAttributes { id: e.card.id.clone(), sha256: e.sha256.clone() }),
            mpp_level0: slide.mpp.mean(),
            mpp_target: self.options.tiling.target_mpp,
        }
    }

    /// Draws the overview of a slide and opens its feature file, under a temporary name, with the rows that it goes on from.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn open_writer(&self, slide: &PlannedSlide, resume: Option<&Resume>) -> Result<Box<dyn FeatureWriter>> {
        let (Some(artefact), Some(encoder)) = (&self.features, &self.encoder) else {
            return Err(Error::Internal("a run without an encoder writes no features".into()));
        };
        // Here, while tiles are being read, rather than when the last one is written and everybody waits.
        self.draw_overview(slide)?;
        let name = format!("{}.h5", slide.spec.id);
        let directory = self.grid_dir.join(&artefact.name);
        let root = self.root_attributes(slide, artefact);
        let file = self.space.patiently(|| {
            let temp = TempFile::new_in(&directory, &name).map_err(|e| Error::write("a feature file", e))?;
            let coords = self.coords_attributes(slide);
            FeatureFile::create(temp, encoder.card.output.dim, self.precision, coords, &root)
        })?;
        let mut file = Patient::new(file, &self.space);
        if let Some(resume) = resume {
            resume.rows.copy_to(&mut file)?;
        }
        Ok(Box::new(file))
    }

    /// Publishes a slide's features: coordinates, features, and last the record that makes them count.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn publish_features(
        &self,
        slide: &PlannedSlide,
        writer: Box<dyn FeatureWriter>,
        outcome: &Outcome,
    ) -> Result<()> {
        let Some(artefact) = &self.features else {
            return Err(Error::Internal("a run without an encoder publishes no features".into()));
        };
        self.publish_patches(slide, &outcome.unreadable)?;
        let published = writer.finish()?;
        self.write_record(slide, artefact, &format!("{}.h5", slide.spec.id), &published, outcome.unreadable.len())?;
        checkpoint::discard(&self.grid_dir, &artefact.name, &slide.spec.id);
        Ok(())
    }

    /// Publishes a slide's coordinates; tiles that proved `unreadable` (by their place in the plan) are left out,
    /// so that coordinates and features have the same rows.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn publish_patches(&self, slide: &PlannedSlide, unreadable: &[usize]) -> Result<()> {
        let name = format!("{}_patches.h5", slide.spec.id);
        let directory = self.grid_dir.join(&self.patches.name);
        let root = self.root_attributes(slide, &self.patches);
        let rows = slide.tiles.iter().enumerate().filter(|(row, _)| unreadable.binary_search(row).is_err());
        let (coords, qc): (Vec<[i64; 2]>, Vec<TileQc>) =
            rows.map(|(row, tile)| (*tile, slide.tissue.qc[row])).collect();
        let qc = QcTable { columns: &QC_COLUMNS, rows: qc.as_flattened(), mpp: slide.tissue.qc_mpp };
        let published = self.space.patiently(|| {
            let temp = TempFile::new_in(&directory, &name).map_err(|e| Error::write("a patches file", e))?;
            write_patches(temp, &coords, &qc, self.coords_attributes(slide), &root)
        })?;
        self.write_record(slide, &self.patches, &name, &published, unreadable.len())
    }

    /// Draws and publishes a slide's overview and its tissue's outlines, as far as the run wants them.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn draw_overview(&self, slide: &PlannedSlide) -> Result<()> {
        if self.contours {
            let text = to_geojson(&slide.mask, Some((slide.mpp.x, slide.mpp.y))).to_string();
            let path = self.grid_dir.join(format!("contours/{}.geojson", slide.spec.id));
            publish::write_atomic(&path, text.as_bytes()).map_err(|e| Error::write("outlines of tissue", e))?;
        }
        if !self.overviews {
            return Ok(());
        }
        let low = &slide.low_power;
        let picture = overview::draw(&OverviewInput {
            thumb: &low.image,
            downsample_x: low.downsample,
            downsample_y: low.downsample,
            mask: (self.options.tissue != TissueMethod::None).then_some(&slide.mask),
            tiles: &slide.tiles,
            dropped: &slide.dropped,
            tile_size_level0: slide.plan.tile_size_level0,
            mpp_level0: slide.mpp.mean(),
        });
        let jpeg = overview::encode_jpeg(&picture, 85).map_err(|e| Error::Internal(e.to_string()))?;
        let name = format!("overviews/{}.jpg", slide.spec.id);
        let path = self.grid_dir.join(&name);
        self.space.patiently(|| publish::write_atomic(&path, &jpeg).map_err(|e| Error::write("an overview", e)))
    }

    fn write_record(
        &self,
        slide: &PlannedSlide,
        artefact: &Artefact,
        file: &str,
        published: &Published,
        unreadable: usize,
    ) -> Result<()> {
        let info = slide.slide.info();
        let plan = &slide.plan;
        let record = Record {
            schema: Record::SCHEMA.into(),
            id: slide.spec.id.clone(),
            artefact: artefact.name.clone(),
            contract_sha256: artefact.sha256.clone(),
            files: vec![FileEntry {
                path: format!("{}/{file}", artefact.name),
                bytes: published.bytes,
                sha256: published.sha256.clone(),
            }],
            made_from: None,
            tiles: TileCounts { planned: slide.tiles.len() as u64, written: published.rows, failed: unreadable as u64 },
            slide: SlideFacts {
                format: info.format.clone(),
                reader: info.reader.clone(),
                width: slide.slide.level0().width,
                height: slide.slide.level0().height,
                mpp_x: slide.mpp.x,
                mpp_y: slide.mpp.y,
                mpp_source: slide.mpp.source.name().into(),
                objective_power: info.objective_power,
            },
            read: ReadFacts {
                level: plan.level,
                level_downsample: plan.downsample,
                reduction: plan.reduction,
                block_scale: plan.scale.divisor(),
                resampled: !plan.is_direct(),
                icc_applied: slide.blocks.in_srgb(),
                tile_size_level0: plan.tile_size_level0,
                effective_mpp: plan.effective_mpp(slide.mpp.mean()),
            },
            tissue: json!({ "area_mm2": slide.tissue.area_mm2, "found": slide.tissue.details }),
            moments: published.moments.clone(),
            warnings: slide.warnings.clone(),
            runtime: self.runtime(),
        };
        self.space.patiently(|| record.write(&self.grid_dir))?;
        self.failures().forget(&slide.spec.id);
        Ok(())
    }

    /// Keeps how the run went, for reports.
    pub fn keep_run(&self, worker: &str, meter: &Meter, samples: Vec<Sample>) {
        let note = RunNote {
            schema: RunNote::SCHEMA.into(),
            worker: worker.into(),
            grid: self.grid_name(),
            artefact: self.goal_name().into(),
            slides_done: meter.slides_done.get(),
            slides_failed: meter.slides_failed.get(),
            samples,
        };
        // A chart that is missing is no failure.
        let _ = self.space.patiently(|| note.write(&self.out));
    }

    /// The notes of the slides that failed.
    #[must_use]
    pub fn failures(&self) -> Failures {
        Failures::new(&self.out, &self.grid_name(), self.goal_name())
    }

    /// The grid directory's name.
    #[must_use]
    pub fn grid_name(&self) -> String {
        self.grid_dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Writes `site-manifest.json` from what OUT holds, whichever runs made it.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn write_manifest(&self) -> Result<()> {
        self.space.patiently(|| {
            self.forget_done()?;
            write_manifest(&self.out)
        })
    }

    /// Forgets the failures of slides that are done: their record was there, but the disk could not say so.
    fn forget_done(&self) -> Result<()> {
        let failures = self.failures();
        failures.all()?.keys().filter(|id| self.status(id).is_done()).for_each(|id| failures.forget(id));
        Ok(())
    }
}

/// Writes `site-manifest.json` from what `out` holds, whichever runs made it.
///
/// # Errors
/// [`Error::Write`], [`Error::Output`].
pub fn write_manifest(out: &Path) -> Result<()> {
    SiteManifest::gather(out, &failures::count(out)?)?.write(out)
}

fn grid_contract(options: &PrepareOptions) -> Result<GridContract> {
    let tiling = &options.tiling;
    let given = match &options.tissue {
        TissueMethod::Mask(path) => {
            let sha256 = digest::file_sha256(path).map_err(|e| Error::Tissue(format!("cannot read the mask: {e}")))?;
            json!({ "sha256": sha256 })
        }
        TissueMethod::Model(_) => options.model.as_ref().map_or(json!(null), |model| model.contract()),
        _ => json!(null),
    };
    let tissue = options.find.contract(&options.tissue, given);
    Ok(GridContract {
        target_mpp: tiling.target_mpp,
        mpp_tolerance: MPP_TOLERANCE,
        tile_px: tiling.tile_px,
        overlap_px: tiling.overlap_px,
        level_rule: LEVEL_RULE.into(),
        decode: tiling.decode.name().into(),
        resample: tiling.resample.name().into(),
        fill: "white".into(),
        allow_upsample: tiling.allow_upsample,
        min_tissue_fraction: tiling.min_tissue_fraction,
        tissue,
        icc: options.icc.rule().into(),
        coords: COORDS_RULE.into(),
    })
}

fn encoder_contract(encoder: &Available) -> EncoderContract {
    let card = &encoder.card;
    EncoderContract {
        id: card.id.clone(),
        sha256: encoder.sha256.clone(),
        input_px: card.input.px,
        layout: json!(card.input.layout).as_str().unwrap_or_default().into(),
        dtype: json!(card.input.dtype).as_str().unwrap_or_default().into(),
        mean: card.input.mean,
        std: card.input.std,
        resize: card.input.resize.name().into(),
        resize_px: card.input.resize_px.filter(|px| *px != card.input.px),
        output: card.output.name.to_string(),
        pooling: card.output.pooling.clone(),
        dim: card.output.dim,
        compute: card.compute.map(|c| c.name().into()),
    }
}
