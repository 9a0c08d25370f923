//! Slides that a signal stopped, and how they go on: what a checkpoint must agree with, and what is done with one that does not.

use serde_json::json;

use super::{Job, ids};
use crate::digest;
use crate::error::{Error, Result};
use crate::features::{Bag, FeatureWriter};
use crate::pipeline::prepare::PlannedSlide;
use crate::pipeline::resume::{Begun, Resume};
use crate::record::checkpoint::{self, Checkpoint, Place, Work};
use crate::record::{FileEntry, Runtime};

impl Job {
    /// What a slide's rows belong to; `None` where the slide's content is not known, so that nothing can be compared.
    fn work(&self, slide: &PlannedSlide, onnxruntime: Option<&str>) -> Option<Work> {
        let fingerprint = ids::fingerprint_of(&self.out, &slide.spec.id)?;
        let (info, plan) = (slide.slide.info(), &slide.plan);
        let facts = json!({
            "slide": fingerprint,
            "format": info.format,
            "reader": info.reader,
            "size": [slide.slide.level0().width, slide.slide.level0().height],
            "mpp": [slide.mpp.x, slide.mpp.y],
            "level": plan.level,
            "reduction": plan.reduction,
            "block_scale": plan.scale.divisor(),
            "tile_size_level0": plan.tile_size_level0,
        });
        let mut bytes = facts.to_string().into_bytes();
        bytes.extend(slide.tiles.iter().flatten().flat_map(|v| v.to_le_bytes()));
        Some(Work {
            contract_sha256: self.features.as_ref()?.sha256.clone(),
            plan_sha256: digest::sha256(&bytes),
            runtime: Runtime { onnxruntime: onnxruntime.map(Into::into), ..self.runtime() },
        })
    }

    /// Where a slide goes on; `None` where it begins. A checkpoint that does not fit is discarded, and `tell` hears why.
    #[must_use]
    pub fn resume(&self, slide: &PlannedSlide, onnxruntime: Option<&str>, tell: &dyn Fn(&str)) -> Option<Resume> {
        let artefact = self.features.as_ref()?;
        let id = &slide.spec.id;
        let found = Checkpoint::read(&self.grid_dir, &artefact.name, id).and_then(|found| match found {
            Some(found) => self.open_checkpoint(slide, found, onnxruntime).map(Some),
            None => Ok(None),
        });
        match found {
            Ok(resume) => resume,
            Err(why) => {
                checkpoint::discard(&self.grid_dir, &artefact.name, id);
                tell(&format!("{id}: begins anew: {why}"));
                None
            }
        }
    }

    fn open_checkpoint(&self, slide: &PlannedSlide, found: Checkpoint, onnxruntime: Option<&str>) -> Result<Resume> {
        let misfit = |what: &str| Err(Error::Output(format!("its checkpoint was made {what}")));
        let Some(work) = self.work(slide, onnxruntime) else { return misfit("of an unknown slide") };
        if found.work.contract_sha256 != work.contract_sha256 {
            return misfit("under another contract");
        }
        if found.work.plan_sha256 != work.plan_sha256 {
            return misfit("of another slide or plan");
        }
        if found.work.runtime != work.runtime {
            return misfit("by another version or on another device");
        }
        if found.unreadable.len() as u64 > self.options.allow_failed_tiles {
            return misfit("with more unreadable tiles than --allow-failed-tiles accepts");
        }
        let rows = Bag::open(&found.check_rows(&self.grid_dir)?)?;
        let done: Vec<[i64; 2]> = slide
            .tiles
            .iter()
            .take(found.next)
            .enumerate()
            .filter(|(row, _)| found.unreadable.binary_search(row).is_err())
            .map(|(_, tile)| *tile)
            .collect();
        if found.next > slide.tiles.len() || rows.coords() != done {
            return misfit("of other tiles");
        }
        Ok(Resume { begun: Begun { next: found.next, unreadable: found.unreadable }, rows })
    }

    /// Keeps the rows of a slide that is not finished.
    ///
    /// # Errors
    /// [`Error::Write`]; what was there before counts no more.
    pub fn keep(&self, slide: &PlannedSlide, writer: Box<dyn FeatureWriter>, begun: &Begun) -> Result<()> {
        let (Some(artefact), Some(work)) = (&self.features, self.work(slide, self.onnxruntime())) else {
            return Ok(());
        };
        let id = &slide.spec.id;
        let place = Place::make(&self.grid_dir, &artefact.name, id)?;
        let kept = writer.keep(&checkpoint::rows_path(&self.grid_dir, &artefact.name, id))?;
        let path = checkpoint::relative_rows_path(&artefact.name, id);
        let note = Checkpoint {
            schema: Checkpoint::SCHEMA.into(),
            id: id.clone(),
            artefact: artefact.name.clone(),
            work,
            tiles: slide.tiles.len() as u64,
            next: begun.next,
            unreadable: begun.unreadable.clone(),
            rows: FileEntry { path, bytes: kept.bytes, sha256: kept.sha256 },
        };
        note.write(place)
    }
}
