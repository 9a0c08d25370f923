//! Which tiles are most like a given one: cosine of their features, in its slide and in the cohort.
//!
//! Within a slide the file is read through, exactly. For the cohort all slides' rows are held with 8 bits a value, in at most
//! 512 MiB; a cohort that needs more is searched by every n-th tile of each slide, and the answer says so.

use std::sync::RwLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::features::Bag;
use crate::report::pca::dot;

/// What the index may take, about.
const BUDGET_BYTES: u64 = 512 << 20;

/// A tile that is like another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    /// Number of the slide.
    pub slide: usize,
    /// Row in its feature file.
    pub row: usize,
    /// Cosine, -1 to 1.
    pub cosine: f32,
}

/// The `n` tiles of a bag that are most like the one in `row`, without it, the most alike first; `slide` is its number.
///
/// # Errors
/// [`Error::Output`] where the features cannot be read or have no such row.
pub fn in_slide(bag: &Bag, slide: usize, row: usize, n: usize) -> Result<(Vec<f32>, Vec<Hit>)> {
    if row >= bag.rows() {
        return Err(Error::Output(format!("no row {row}: there are {}", bag.rows())));
    }
    let query = bag.read_rows(row, 1)?;
    let length = dot(&query, &query).sqrt();
    let mut hits = Vec::with_capacity(bag.rows());
    bag.read(|rows| {
        for values in rows.chunks_exact(bag.dim()) {
            let cosine = dot(values, &query) / (dot(values, values).sqrt() * length).max(f32::MIN_POSITIVE);
            hits.push(Hit { slide, row: hits.len(), cosine });
        }
        Ok(())
    })?;
    hits.remove(row);
    Ok((query, best(hits, n)))
}

fn best(mut hits: Vec<Hit>, n: usize) -> Vec<Hit> {
    // Equal ones in the order of slides and rows, so that the same question has the same answer.
    let order = |a: &Hit, b: &Hit| b.cosine.total_cmp(&a.cosine).then((a.slide, a.row).cmp(&(b.slide, b.row)));
    if hits.len() > n && n > 0 {
        hits.select_nth_unstable_by(n - 1, order);
        hits.truncate(n);
    }
    hits.sort_by(order);
    hits.truncate(n);
    hits
}

/// A slide's rows in the index.
struct Entry {
    slide: usize,
    every: usize,
    values: Vec<i8>,
    lengths: Vec<f32>,
}

/// The rows of a cohort; it is filled while it is asked.
pub struct Index {
    dim: usize,
    every: usize,
    slides: usize,
    seen: AtomicUsize,
    entries: RwLock<Vec<Entry>>,
}

impl Index {
    /// For `slides` slides with `rows` rows of `dim` values in all.
    #[must_use]
    pub fn new(slides: usize, rows: u64, dim: usize) -> Self {
        let every = (rows * dim as u64).div_ceil(BUDGET_BYTES).max(1) as usize;
        Index { dim, every, slides, seen: AtomicUsize::new(0), entries: RwLock::default() }
    }

    /// Takes a slide's rows in; one that cannot be read counts as seen.
    pub fn add(&self, slide: usize, bag: Result<Bag>) {
        let entry = bag.and_then(|bag| self.quantised(slide, &bag));
        if let (Ok(entry), Ok(mut entries)) = (entry, self.entries.write()) {
            entries.push(entry);
        }
        self.seen.fetch_add(1, Ordering::Relaxed);
    }

    fn quantised(&self, slide: usize, bag: &Bag) -> Result<Entry> {
        if bag.dim() != self.dim {
            return Err(Error::Output("features of another dimension".into()));
        }
        let rows = bag.rows().div_ceil(self.every);
        let (values, lengths) = (Vec::with_capacity(rows * self.dim), Vec::with_capacity(rows));
        let mut entry = Entry { slide, every: self.every, values, lengths };
        let mut row = 0;
        bag.read(|rows| {
            for values in rows.chunks_exact(self.dim) {
                if row % self.every == 0 {
                    entry.lengths.push(quantise(values, &mut entry.values));
                }
                row += 1;
            }
            Ok(())
        })?;
        Ok(entry)
    }

    /// Slides that are in it, or cannot be; of how many; and that every n-th tile of theirs is.
    #[must_use]
    pub fn progress(&self) -> (usize, usize, usize) {
        (self.seen.load(Ordering::Relaxed), self.slides, self.every)
    }

    /// The tile of each other slide than `without` that is most like a row of D values, the `n` most alike first. Cosines are
    /// within about 0.01.
    #[must_use]
    pub fn search(&self, query: &[f32], without: usize, n: usize) -> Vec<Hit> {
        let mut wanted = Vec::new();
        let length = quantise(query, &mut wanted);
        let Ok(entries) = self.entries.read() else { return Vec::new() };
        if wanted.len() != self.dim || self.dim == 0 {
            return Vec::new();
        }
        let nearest = |entry: &Entry| {
            let rows = entry.values.chunks_exact(self.dim).zip(&entry.lengths).enumerate();
            let hits = rows.map(|(i, (values, other))| {
                let product: i32 = values.iter().zip(&wanted).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum();
                let cosine = product as f32 / (length * other).max(f32::MIN_POSITIVE);
                Hit { slide: entry.slide, row: i * entry.every, cosine }
            });
            hits.reduce(|a, b| if b.cosine > a.cosine { b } else { a })
        };
        let others: Vec<&Entry> = entries.iter().filter(|entry| entry.slide != without).collect();
        best(others.par_iter().filter_map(|entry| nearest(entry)).collect(), n)
    }
}

/// Appends a row with 8 bits a value and returns its length in them.
fn quantise(values: &[f32], out: &mut Vec<i8>) -> f32 {
    let largest = values.iter().fold(0.0f32, |a, b| a.max(b.abs()));
    let scale = if largest > 0.0 && largest.is_finite() { 127.0 / largest } else { 0.0 };
    let from = out.len();
    out.extend(values.iter().map(|v| (v * scale).round() as i8));
    out[from..].iter().map(|v| f32::from(*v) * f32::from(*v)).sum::<f32>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::{CoordsAttributes, EncoderAttributes, FeatureFile, Precision, RootAttributes};
    use crate::record::publish::TempFile;

    const DIM: usize = 32;

    /// A row whose direction turns with `angle`.
    fn row(angle: f32) -> Vec<f32> {
        (0..DIM).map(|i| 5.0 * (angle + i as f32).cos() + (i as f32 * 0.3 * angle).sin()).collect()
    }

    fn bag(directory: &std::path::Path, angles: &[f32]) -> Bag {
        let attributes = CoordsAttributes {
            patch_size: 256,
            patch_size_level0: 256,
            level0_magnification: 20.0,
            target_magnification: 20.0,
            overlap: 0,
            level0_width: 10_000,
            level0_height: 10_000,
            name: "x".into(),
        };
        let root = RootAttributes {
            contract_sha256: "ab".repeat(32),
            encoder: Some(EncoderAttributes { id: "test".into(), sha256: "cd".repeat(32) }),
            mpp_level0: 0.5,
            mpp_target: 0.5,
        };
        let temp = TempFile::new_in(directory, "x.h5").expect("made");
        let mut file = FeatureFile::create(temp, DIM, Precision::F32, attributes, &root).expect("made");
        for (i, angle) in angles.iter().enumerate() {
            crate::features::FeatureWriter::push(&mut file, &row(*angle), &[[256 * i as i64, 0]]).expect("written");
        }
        file.finish().expect("published");
        Bag::open(&directory.join("x.h5")).expect("opens")
    }

    #[test]
    fn the_most_alike_come_first_and_never_the_tile_itself() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let bag = bag(directory.path(), &[0.0, 1.0, 0.1, 0.05, 3.0, 0.2]);
        let (query, hits) = in_slide(&bag, 4, 0, 3).expect("found");
        assert_eq!(query.len(), DIM);
        assert_eq!(hits.iter().map(|h| h.row).collect::<Vec<_>>(), [3, 2, 5]);
        assert!(hits.iter().all(|h| h.slide == 4) && hits[0].cosine > hits[1].cosine && hits[0].cosine < 1.0);
        let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(x * y)).sum::<f64>();
        let (a, b) = (row(0.0), row(0.05));
        let expected = product(&a, &b) / (product(&a, &a) * product(&b, &b)).sqrt();
        assert!((f64::from(hits[0].cosine) - expected).abs() < 1e-5);
        assert!(in_slide(&bag, 0, 6, 3).is_err(), "no such row");
        assert_eq!(in_slide(&bag, 0, 0, 100).expect("found").1.len(), 5);
    }

    #[test]
    fn the_index_finds_the_nearest_tile_of_each_other_slide() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let index = Index::new(4, 12, DIM);
        index.add(0, Ok(bag(directory.path(), &[0.0, 0.01])));
        index.add(1, Ok(bag(directory.path(), &[2.0, 0.5, 0.3])));
        index.add(2, Ok(bag(directory.path(), &[3.0, 0.1])));
        index.add(3, Err(Error::Output("damaged".into())));
        assert_eq!(index.progress(), (4, 4, 1));
        let hits = index.search(&row(0.0), 0, 5);
        assert_eq!(hits.iter().map(|h| (h.slide, h.row)).collect::<Vec<_>>(), [(2, 1), (1, 2)]);
        let exact = in_slide(&bag(directory.path(), &[0.0, 0.1]), 0, 0, 1).expect("found").1[0].cosine;
        assert!((hits[0].cosine - exact).abs() < 0.01);
        assert_eq!(index.search(&row(0.0), 9, 1), [Hit { slide: 0, row: 0, cosine: 1.0 }]);
        assert!(index.search(&[1.0; 3], 0, 5).is_empty(), "another dimension");
    }

    #[test]
    fn large_cohorts_are_searched_by_every_nth_tile() {
        assert_eq!(Index::new(1000, 400_000, 1024).progress().2, 1);
        assert_eq!(Index::new(1000, 5_000_000, 1024).progress().2, 10);
    }
}
