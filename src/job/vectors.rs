//! Slide vectors: one vector a slide, made of the feature file that lies in OUT, whichever run wrote it.
//!
//! It is an artefact of its own, with contract and record, so it is resumed, checked and invalidated like the others. Its
//! record names the sha256 of the feature file behind it: features that were made anew bring a new vector.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rayon::prelude::*;

use super::lease::Leases;
use super::{Artefact, Job};
use crate::encoder::registry::Available;
use crate::encoder::slide::{SlideEncoder, SlideModel};
use crate::encoder::{card::Card, library};
use crate::error::{Error, Result};
use crate::features::{Bag, EncoderAttributes, RootAttributes, VectorAttributes, write_vector};
use crate::pipeline::guarded;
use crate::pipeline::prepare::SlideSpec;
use crate::record::contract::{Contract, SlideContract};
use crate::record::done::{self, Status};
use crate::record::publish::TempFile;
use crate::record::{FileEntry, Record, Runtime, record_path};

/// How the features of a slide become one vector.
#[derive(Clone, Debug)]
pub enum SlideLevel {
    /// Their mean.
    Mean,
    /// What a slide encoder makes of them.
    Encoder(Box<SlideEncoder>),
}

/// Slide vectors of one kind.
pub(super) struct Vectors {
    artefact: Artefact,
    level: SlideLevel,
    by: VectorAttributes,
}

/// Time between two looks at slides that others work on.
const POLL: Duration = Duration::from_millis(200);

/// What [`Job::make_vectors`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VectorsMade {
    /// The artefact, `slide_features_<name>`.
    pub name: String,
    /// Vectors made.
    pub made: u64,
    /// Slides among them that have no tiles, and so no vector.
    pub empty: u64,
    /// What the user should know of all of them.
    pub warning: Option<String>,
}

impl Vectors {
    /// Fixes the contract of a slide vector.
    ///
    /// # Errors
    /// [`Error::Usage`] where a slide encoder takes other features.
    pub(super) fn new(level: SlideLevel, encoder: &Available, features: &Contract) -> Result<Self> {
        let card: &Card = &encoder.card;
        let slide = match &level {
            SlideLevel::Mean => SlideContract {
                id: format!("mean-{}", card.id),
                rule: "mean of the stored features, summed in float64".into(),
                sha256: None,
                dim: card.output.dim,
            },
            SlideLevel::Encoder(slide) => {
                slide.card.check(card)?;
                let inputs: Vec<&str> = slide.card.input.names().collect();
                SlideContract {
                    id: slide.card.id.clone(),
                    rule: format!("onnx: {} to {}", inputs.join(", "), slide.card.output.name),
                    sha256: Some(slide.sha256.clone()),
                    dim: slide.card.output.dim,
                }
            }
        };
        let name = format!("slide_features_{}", slide.id);
        let by = VectorAttributes { id: slide.id.clone(), sha256: slide.sha256.clone() };
        let contract = Contract { slide: Some(slide), ..features.clone() };
        Ok(Vectors { artefact: Artefact { name, sha256: contract.sha256(), contract }, level, by })
    }

    pub(super) fn artefact(&self) -> &Artefact {
        &self.artefact
    }
}

impl Job {
    /// The record of a slide's features, where they are done.
    fn features_record(&self, id: &str) -> Option<Record> {
        let features = self.features.as_ref()?;
        let done = done::status(&self.grid_dir, &features.name, id, &features.sha256) == Status::Done;
        done.then(|| Record::read(&record_path(&self.grid_dir, &features.name, id)).ok()).flatten()
    }

    /// Whether a vector is there, and of these features.
    fn has_vector(&self, vectors: &Vectors, features: &Record) -> bool {
        let Artefact { name, sha256, .. } = &vectors.artefact;
        done::status(&self.grid_dir, name, &features.id, sha256) == Status::Done
            && Record::read(&record_path(&self.grid_dir, name, &features.id))
                .is_ok_and(|r| r.made_from.as_ref() == features.files.first().map(|f| &f.sha256))
    }

    /// Whether a slide's features are done and a vector of them that the run wants is not.
    #[must_use]
    pub fn lacks_vectors(&self, id: &str) -> bool {
        !self.vectors.is_empty()
            && self.features_record(id).is_some_and(|f| self.vectors.iter().any(|v| !self.has_vector(v, &f)))
    }

    /// Makes the vectors that are missing of all `slides` whose features are done, with rayon's threads; workers share them
    /// by leases. A slide's failure goes to `failed`.
    ///
    /// # Errors
    /// [`Error::Interrupted`] after `stop`, a slide encoder that cannot be loaded, leases that cannot be written.
    pub fn make_vectors(
        &self,
        slides: &[SlideSpec],
        leases: &Leases,
        stop: &AtomicBool,
        failed: &(dyn Fn(&SlideSpec, &Error) + Sync),
    ) -> Result<Vec<VectorsMade>> {
        self.vectors.iter().map(|vectors| self.make_vectors_of(vectors, slides, leases, stop, failed)).collect()
    }

    fn make_vectors_of(
        &self,
        vectors: &Vectors,
        slides: &[SlideSpec],
        leases: &Leases,
        stop: &AtomicBool,
        failed: &(dyn Fn(&SlideSpec, &Error) + Sync),
    ) -> Result<VectorsMade> {
        let missing = slides.iter().filter_map(|slide| {
            let features = self.features_record(&slide.id)?;
            (!self.has_vector(vectors, &features)).then_some((slide, features))
        });
        let mut missing: Vec<(&SlideSpec, Record)> = missing.collect();
        let tiling = &self.options.tiling;
        let (model, warning) = match &vectors.level {
            SlideLevel::Encoder(slide) if !missing.is_empty() => {
                (Some(Mutex::new(SlideModel::open(slide)?)), slide.card.tile_warning(tiling.tile_px, tiling.target_mpp))
            }
            _ => (None, None),
        };
        let (made, empty) = (AtomicU64::new(0), AtomicU64::new(0));
        let make = |(slide, features): (_, Record)| {
            if stop.load(Ordering::Relaxed) || self.has_vector(vectors, &features) {
                return Ok(None);
            }
            if !self.space.patiently(|| leases.acquire(&features.id))? {
                return Ok(Some((slide, features)));
            }
            let work = || self.make_vector(vectors, model.as_ref(), warning.as_ref(), &features);
            match self.space.patiently(|| guarded(work)) {
                Ok(rows) => {
                    made.fetch_add(1, Ordering::Relaxed);
                    empty.fetch_add(u64::from(rows == 0), Ordering::Relaxed);
                }
                Err(e) => failed(slide, &e),
            }
            leases.release(&features.id);
            Ok(None)
        };
        while !missing.is_empty() {
            let others: Vec<Option<(&SlideSpec, Record)>> = missing.into_par_iter().map(make).collect::<Result<_>>()?;
            missing = others.into_iter().flatten().collect();
            if stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            // Those that others work on: they make them, or die.
            for (slide, _) in &missing {
                leases.wake(&slide.id)?;
            }
            if !missing.is_empty() {
                std::thread::sleep(POLL);
            }
        }
        let name = vectors.artefact.name.clone();
        Ok(VectorsMade { name, made: made.into_inner(), empty: empty.into_inner(), warning })
    }

    /// Makes and publishes one slide's vector; returns the number of its tiles.
    fn make_vector(
        &self,
        vectors: &Vectors,
        model: Option<&Mutex<SlideModel>>,
        warning: Option<&String>,
        features: &Record,
    ) -> Result<usize> {
        let Vectors { artefact, by, .. } = vectors;
        let entry = features.files.first().ok_or_else(|| Error::Output("its record names no file".into()))?;
        let file = entry.locate(&self.grid_dir).ok_or_else(|| Error::Output("a file outside the grid".into()))?;
        let bag = Bag::open(&file)?;
        let vector = match model {
            None => bag.mean()?,
            Some(_) if bag.rows() == 0 => Vec::new(),
            Some(model) => {
                let rows = bag.features()?;
                let mut model = model.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                model.embed(&rows, bag.coords(), bag.attributes().patch_size_level0)?
            }
        };
        let name = format!("{}.h5", features.id);
        let temp = TempFile::new_in(&self.grid_dir.join(&artefact.name), &name)
            .map_err(|e| Error::write("a slide vector", e))?;
        let root = RootAttributes {
            contract_sha256: artefact.sha256.clone(),
            encoder: self
                .encoder
                .as_ref()
                .map(|e| EncoderAttributes { id: e.card.id.clone(), sha256: e.sha256.clone() }),
            mpp_level0: (features.slide.mpp_x + features.slide.mpp_y) / 2.0,
            mpp_target: self.options.tiling.target_mpp,
        };
        let published = write_vector(temp, &vector, &bag, &root, by)?;
        let mut warnings = features.warnings.clone();
        warnings.extend(warning.cloned());
        if bag.rows() == 0 {
            warnings.push("no tiles, so no vector: features is empty".into());
        }
        let record = Record {
            artefact: artefact.name.clone(),
            contract_sha256: artefact.sha256.clone(),
            made_from: Some(entry.sha256.clone()),
            files: vec![FileEntry {
                path: format!("{}/{name}", artefact.name),
                bytes: published.bytes,
                sha256: published.sha256,
            }],
            moments: None,
            warnings,
            // What made the features stands in their record.
            runtime: Runtime {
                paraffin: env!("CARGO_PKG_VERSION").into(),
                onnxruntime: model.map(|_| library::version().map(Into::into)).transpose()?,
                device: "cpu".into(),
            },
            ..features.clone()
        };
        record.write(&self.grid_dir)?;
        self.failures().forget(&record.id);
        Ok(bag.rows())
    }
}
