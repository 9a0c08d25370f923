//! What a slide's features are like as a whole: mean and spread of every dimension, and how long the vectors are. Taken while
//! they are written, kept in the record, and merged over slides for the site manifest, so that no feature file is read again.
//!
//! Welford's update row by row, and Chan's for merging (T. Chan, G. Golub, R. LeVeque, Updating formulae and a pairwise
//! algorithm for computing sample variances, 1979), both in float64.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::numbers::Numbers;
use crate::error::{Error, Result};

/// Bits of a float32 that a class of norms ignores: 32 classes from one power of two to the next, each 1.6 to 3.1 % wide.
const CLASS_BITS: u32 = 18;

/// Moments of the stored features of one slide.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moments {
    /// Rows that went into them.
    pub rows: u64,
    /// Rows left out, for values that are infinite or not a number.
    pub not_finite: u64,
    /// Mean of every dimension, float32.
    pub mean: Numbers,
    /// Standard deviation of every dimension (of the population), float32.
    pub std: Numbers,
    /// Rows by the class of their Euclidean norm: the upper 14 bits of the norm as float32.
    pub norms: BTreeMap<u32, u64>,
}

/// Moments under construction.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Accumulator {
    rows: u64,
    not_finite: u64,
    mean: Vec<f64>,
    /// Sums of squared differences to the mean.
    m2: Vec<f64>,
    norms: BTreeMap<u32, u64>,
}

impl Accumulator {
    /// Nothing yet, of vectors of `dim` values.
    #[must_use]
    pub fn new(dim: usize) -> Self {
        Accumulator { mean: vec![0.0; dim], m2: vec![0.0; dim], ..Accumulator::default() }
    }

    /// Adds one row of `dim` values.
    pub fn add(&mut self, row: impl Iterator<Item = f32> + Clone) {
        if !row.clone().all(f32::is_finite) {
            self.not_finite += 1;
            return;
        }
        self.rows += 1;
        let share = 1.0 / self.rows as f64;
        let mut squares = 0.0;
        for ((value, mean), m2) in row.zip(&mut self.mean).zip(&mut self.m2) {
            let value = f64::from(value);
            let from_mean = value - *mean;
            *mean += from_mean * share;
            *m2 += from_mean * (value - *mean);
            squares += value * value;
        }
        *self.norms.entry((squares.sqrt() as f32).to_bits() >> CLASS_BITS).or_default() += 1;
    }

    /// Adds a slide's moments.
    ///
    /// # Errors
    /// [`Error::Output`] where they are damaged or of another length.
    pub fn merge(&mut self, slide: &Moments) -> Result<()> {
        let (mean, std) = (slide.mean.values()?, slide.std.values()?);
        if mean.len() != self.mean.len() || std.len() != self.mean.len() {
            return Err(Error::Output(format!("moments of {} values, not {}", mean.len(), self.mean.len())));
        }
        self.not_finite += slide.not_finite;
        if slide.rows == 0 {
            return Ok(());
        }
        let (here, there) = (self.rows as f64, slide.rows as f64);
        let all = here + there;
        for (i, (mean, std)) in mean.into_iter().zip(std).enumerate() {
            let apart = mean - self.mean[i];
            self.mean[i] += apart * there / all;
            self.m2[i] += std * std * there + apart * apart * here * there / all;
        }
        self.rows += slide.rows;
        slide.norms.iter().for_each(|(class, n)| *self.norms.entry(*class).or_default() += n);
        Ok(())
    }

    /// Rows so far.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Rows left out so far.
    #[must_use]
    pub fn not_finite(&self) -> u64 {
        self.not_finite
    }

    /// Mean of every dimension.
    #[must_use]
    pub fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// Variance of every dimension, of the population.
    #[must_use]
    pub fn variance(&self) -> Vec<f64> {
        let rows = self.rows.max(1) as f64;
        self.m2.iter().map(|m2| m2 / rows).collect()
    }

    /// The norm at a share of the rows in their order (NumPy's `lower`), to within its class; `None` without rows.
    #[must_use]
    pub fn norm_quantile(&self, share: f64) -> Option<f64> {
        let wanted = (share * (self.rows.max(1) - 1) as f64).floor() as u64;
        let mut below = 0;
        let class = self.norms.iter().find(|(_, n)| {
            below += **n;
            below > wanted
        })?;
        Some(f64::from(f32::from_bits((class.0 << CLASS_BITS) + (1 << (CLASS_BITS - 1)))))
    }

    /// What the record keeps.
    #[must_use]
    pub fn moments(&self) -> Moments {
        let mean: Vec<f32> = self.mean.iter().map(|m| *m as f32).collect();
        let std: Vec<f32> = self.variance().iter().map(|v| v.sqrt() as f32).collect();
        Moments {
            rows: self.rows,
            not_finite: self.not_finite,
            mean: Numbers::of_f32(&[mean.len()], &mean),
            std: Numbers::of_f32(&[std.len()], &std),
            norms: self.norms.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(seed: u32, n: usize, dim: usize) -> Vec<Vec<f32>> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 20) as f32
        };
        (0..n).map(|_| (0..dim).map(|d| 100.0 * d as f32 + next() * (1.0 + d as f32)).collect()).collect()
    }

    fn of(rows: &[Vec<f32>]) -> Accumulator {
        let mut all = Accumulator::new(rows[0].len());
        rows.iter().for_each(|row| all.add(row.iter().copied()));
        all
    }

    /// By the definition: two passes over all rows.
    #[test]
    fn one_pass_and_merging_give_the_definition() {
        let slides = [rows(1, 300, 5), rows(2, 1, 5), rows(3, 77, 5)];
        let all: Vec<Vec<f32>> = slides.concat();
        let mut merged = Accumulator::new(5);
        for slide in &slides {
            merged.merge(&of(slide).moments()).unwrap();
        }
        let whole = of(&all);
        assert_eq!((merged.rows(), whole.rows()), (378, 378));
        for d in 0..5 {
            let mean = all.iter().map(|r| f64::from(r[d])).sum::<f64>() / 378.0;
            let variance = all.iter().map(|r| (f64::from(r[d]) - mean).powi(2)).sum::<f64>() / 378.0;
            // The slides' moments went through float32.
            for (got, within) in [(&whole, 1e-12), (&merged, 1e-5)] {
                assert!((got.mean()[d] / mean - 1.0).abs() < within, "{d}: {} {mean}", got.mean()[d]);
                assert!((got.variance()[d] / variance - 1.0).abs() < within * 10.0, "{d}: {}", got.variance()[d]);
            }
        }
        let mut norms: Vec<f64> =
            all.iter().map(|r| r.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt()).collect();
        norms.sort_by(f64::total_cmp);
        for share in [0.0, 0.1, 0.5, 0.9, 1.0] {
            let exact = norms[(share * 377.0f64).floor() as usize];
            for got in [&whole, &merged] {
                assert!((got.norm_quantile(share).unwrap() / exact - 1.0).abs() < 0.016, "{share}");
            }
        }
    }

    #[test]
    fn empty_slides_and_odd_values_do_no_harm() {
        let mut all = Accumulator::new(2);
        assert_eq!(all.norm_quantile(0.5), None);
        all.merge(&Accumulator::new(2).moments()).unwrap();
        all.add([f32::NAN, 1.0].into_iter());
        all.add([3.0, 4.0].into_iter());
        assert_eq!((all.rows(), all.not_finite(), all.mean(), all.variance()), (1, 1, &[3.0, 4.0][..], vec![0.0; 2]));
        all.merge(&of(&[vec![f32::MAX, -f32::MAX], vec![-f32::MAX, f32::MAX]]).moments()).unwrap();
        assert!(all.mean().iter().chain(&all.variance()).all(|v| v.is_finite()));
        assert!(all.merge(&Accumulator::new(3).moments()).is_err(), "another length");
    }
}
