//! What the features of a site are like as a whole: numbers over all its slides, from their records alone. Nothing is told of
//! fewer than [`FEW`] slides: the mean of one slide's features is that slide's vector.

use serde::{Deserialize, Serialize};

use super::Record;
use super::moments::Accumulator;
use super::numbers::Numbers;

/// Slides below which nothing is told of them but that they are few.
pub const FEW: u64 = 5;

/// Quantiles of a number over slides or tiles.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// A tenth is at most this.
    pub q10: f64,
    /// A quarter.
    pub q25: f64,
    /// The median.
    pub q50: f64,
    /// Three quarters.
    pub q75: f64,
    /// Nine tenths.
    pub q90: f64,
}

impl Quantiles {
    fn of(quantile: impl Fn(f64) -> Option<f64>) -> Option<Self> {
        let [q10, q25, q50, q75, q90] = [0.1, 0.25, 0.5, 0.75, 0.9].map(quantile);
        Some(Quantiles { q10: q10?, q25: q25?, q50: q50?, q75: q75?, q90: q90? })
    }

    /// Quantiles of whole numbers, linear between neighbours (NumPy's default); `None` of fewer than [`FEW`].
    #[must_use]
    pub fn of_counts(mut counts: Vec<u64>) -> Option<Self> {
        counts.sort_unstable();
        if (counts.len() as u64) < FEW {
            return None;
        }
        let at = |i: usize| counts.get(i).map(|n| *n as f64);
        Quantiles::of(|share| {
            let place = share * (counts.len() - 1) as f64;
            let (low, high) = (at(place.floor() as usize)?, at(place.ceil() as usize)?);
            Some(low + (high - low) * place.fract())
        })
    }
}

/// Statistics of the features of a site's tiles.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Statistics {
    /// Slides with tiles that went into them; at least [`FEW`].
    pub slides: u64,
    /// Their tiles.
    pub tiles: u64,
    /// Rows left out for values that are infinite or not a number. paraffin stores none.
    pub not_finite: u64,
    /// (dim) float64, mean of every dimension.
    pub mean: Numbers,
    /// (dim) float64, variance of every dimension (of the population).
    pub variance: Numbers,
    /// Euclidean norms of the vectors, to within 1.6 %.
    pub norms: Quantiles,
}

/// Gathers statistics slide by slide.
#[derive(Default)]
pub(super) struct Gathering {
    all: Option<Accumulator>,
    slides: u64,
    without: u64,
    damaged: u64,
}

impl Gathering {
    /// Adds a slide of `dim` values a tile.
    pub(super) fn add(&mut self, record: &Record, dim: usize) {
        let Some(moments) = &record.moments else {
            self.without += 1;
            return;
        };
        match self.all.get_or_insert_with(|| Accumulator::new(dim)).merge(moments) {
            Ok(()) => self.slides += u64::from(moments.rows > 0),
            Err(_) => self.damaged += 1,
        }
    }

    /// The statistics, or why there are none.
    pub(super) fn end(self) -> Result<Statistics, String> {
        if self.without > 0 {
            return Err("records of an older version hold no moments of their features".into());
        }
        if self.damaged > 0 {
            return Err("records hold moments that do not fit the encoder".into());
        }
        let few = || format!("fewer than {FEW} slides with tiles");
        let all = self.all.filter(|_| self.slides >= FEW).ok_or_else(few)?;
        let (mean, variance) = (all.mean(), all.variance());
        Ok(Statistics {
            slides: self.slides,
            tiles: all.rows(),
            not_finite: all.not_finite(),
            mean: Numbers::of_f64(&[mean.len()], mean),
            variance: Numbers::of_f64(&[variance.len()], &variance),
            norms: Quantiles::of(|share| all.norm_quantile(share)).ok_or_else(few)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `numpy.quantile([3, 1, 4, 1, 5, 9, 2, 6], [.1, .25, .5, .75, .9])`, NumPy 2.4.
    #[test]
    fn numpys_quantiles() {
        let got = Quantiles::of_counts(vec![3, 1, 4, 1, 5, 9, 2, 6]).unwrap();
        let expected = Quantiles { q10: 1.0, q25: 1.75, q50: 3.5, q75: 5.25, q90: 6.9 };
        for (got, expected) in [got.q10, got.q25, got.q50, got.q75, got.q90].iter().zip([
            expected.q10,
            expected.q25,
            expected.q50,
            expected.q75,
            expected.q90,
        ]) {
            assert!((got - expected).abs() < 1e-12, "{got} {expected}");
        }
        assert_eq!(Quantiles::of_counts(vec![1, 2, 3, 4]), None, "too few to tell");
    }
}
