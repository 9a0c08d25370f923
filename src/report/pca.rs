//! Three principal components of a cohort's features, as the red, green and blue of feature maps.
//!
//! Fitted to a sample by power iteration with deflation: sequential, from a fixed start, so the same sample gives the same
//! colours. Equal colours on two slides of one cohort mean alike features; between cohorts colours mean nothing.

/// Rows that a fit takes at most; more do not change three components visibly.
pub const SAMPLE_ROWS: usize = 2048;

const COMPONENTS: usize = 3;
const ITERATIONS: usize = 100;
/// Least cosine of two successive directions that counts as converged.
const CONVERGED: f64 = 1.0 - 1e-10;
/// Share of the sample that is darker than black and brighter than white, in each channel.
const CLIPPED: f64 = 0.02;

/// Where a row lies among the cohort's features, in three numbers from 0 to 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Projection {
    mean: Vec<f32>,
    components: Vec<Vec<f32>>,
    /// Scores that become 0 and 1, by component.
    range: Vec<(f32, f32)>,
    explained: [f64; COMPONENTS],
}

impl Projection {
    /// Fits `rows` of `dim` values each, row-major. `None` where they do not differ, or there are fewer than two.
    #[must_use]
    pub fn fit(rows: &[f32], dim: usize) -> Option<Self> {
        let n = rows.len().checked_div(dim)?;
        if n < 2 {
            return None;
        }
        let mut sums = vec![0.0f64; dim];
        for row in rows.chunks_exact(dim) {
            sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
        }
        let mean: Vec<f32> = sums.iter().map(|sum| (sum / n as f64) as f32).collect();
        let mut centred = rows.to_vec();
        for row in centred.chunks_exact_mut(dim) {
            row.iter_mut().zip(&mean).for_each(|(value, mean)| *value -= mean);
        }
        let total: f64 = centred.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
        if total.is_nan() || total <= f64::from(f32::EPSILON) {
            return None;
        }
        let mut fit = Projection { mean, components: Vec::new(), range: Vec::new(), explained: [0.0; COMPONENTS] };
        for c in 0..COMPONENTS {
            let component = leading(&centred, dim, &fit.components);
            let mut scores: Vec<f32> = centred.chunks_exact(dim).map(|row| dot(row, &component)).collect();
            fit.explained[c] = scores.iter().map(|s| f64::from(*s) * f64::from(*s)).sum::<f64>() / total;
            scores.sort_by(f32::total_cmp);
            let at = |share: f64| scores[((n - 1) as f64 * share).round() as usize];
            fit.range.push((at(CLIPPED), at(1.0 - CLIPPED)));
            fit.components.push(component);
        }
        Some(fit)
    }

    /// D.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.mean.len()
    }

    /// Share of the sample's variance that each component holds.
    #[must_use]
    pub fn explained(&self) -> [f64; COMPONENTS] {
        self.explained
    }

    /// The colour of a row of D values, each channel from 0 to 1.
    #[must_use]
    pub fn colour(&self, row: &[f32]) -> [f32; 3] {
        let mut colour = [0.5; 3];
        for ((channel, component), (low, high)) in colour.iter_mut().zip(&self.components).zip(&self.range) {
            let score: f32 = dot(row, component) - dot(&self.mean, component);
            if high > low {
                *channel = ((score - low) / (high - low)).clamp(0.0, 1.0);
            }
        }
        colour
    }
}

/// The direction of the largest variance that is orthogonal to `others`; its largest value is positive.
fn leading(centred: &[f32], dim: usize, others: &[Vec<f32>]) -> Vec<f32> {
    // Any start that is orthogonal to no direction on purpose: a fixed sequence without pattern.
    let mut direction: Vec<f64> = (0..dim).map(|i| ((i as f64 + 1.0) * 0.754_877_666).fract() - 0.5).collect();
    normalise(&mut direction, others);
    for _ in 0..ITERATIONS {
        let now: Vec<f32> = direction.iter().map(|v| *v as f32).collect();
        let mut next = vec![0.0f32; dim];
        for row in centred.chunks_exact(dim) {
            let score = dot(row, &now);
            next.iter_mut().zip(row).for_each(|(sum, value)| *sum += score * value);
        }
        let mut next: Vec<f64> = next.iter().map(|v| f64::from(*v)).collect();
        if !normalise(&mut next, others) {
            break;
        }
        let cosine: f64 = next.iter().zip(&direction).map(|(a, b)| a * b).sum();
        direction = next;
        if cosine.abs() >= CONVERGED {
            break;
        }
    }
    let largest = direction.iter().copied().fold(0.0, |a: f64, b| if b.abs() > a.abs() { b } else { a });
    let sign = if largest < 0.0 { -1.0 } else { 1.0 };
    direction.iter().map(|v| (v * sign) as f32).collect()
}

/// Makes a vector orthogonal to `others` and of length 1; `false`, and zero, where nothing remains of it.
fn normalise(vector: &mut [f64], others: &[Vec<f32>]) -> bool {
    for other in others {
        let share: f64 = vector.iter().zip(other).map(|(a, b)| a * f64::from(*b)).sum();
        vector.iter_mut().zip(other).for_each(|(a, b)| *a -= share * f64::from(*b));
    }
    let length = vector.iter().map(|v| v * v).sum::<f64>().sqrt();
    let lives = length.is_finite() && length > 1e-12;
    vector.iter_mut().for_each(|v| *v = if lives { *v / length } else { 0.0 });
    lives
}

/// The sum of products, in eight lanes: the same on every machine, and fast.
#[must_use]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (left, right) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut lanes = [0.0f32; 8];
    for (x, y) in left.0.iter().zip(right.0) {
        for lane in 0..8 {
            lanes[lane] += x[lane] * y[lane];
        }
    }
    lanes.iter().sum::<f32>() + left.1.iter().zip(right.1).map(|(x, y)| x * y).sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Points on the axes: 10 e0, 5 e1, 2 e2 and their negatives, shifted.
    fn points(dim: usize) -> Vec<f32> {
        let mut rows = Vec::new();
        for (axis, length) in [(0, 10.0), (1, 5.0), (2, 2.0)] {
            for sign in [-1.0, 1.0] {
                let mut row = vec![7.0; dim];
                row[axis] += sign * length;
                rows.extend(row);
            }
        }
        rows
    }

    #[test]
    fn components_are_the_axes_by_their_variance() {
        let fit = Projection::fit(&points(11), 11).expect("varies");
        for (axis, component) in fit.components.iter().enumerate() {
            for (i, value) in component.iter().enumerate() {
                assert!((value - if i == axis { 1.0 } else { 0.0 }).abs() < 1e-4, "{axis} {i} {value}");
            }
        }
        let total = 100.0 + 25.0 + 4.0;
        for (got, expected) in fit.explained().iter().zip([100.0 / total, 25.0 / total, 4.0 / total]) {
            assert!((got - expected).abs() < 1e-4);
        }
        let mut row = vec![7.0; 11];
        row[0] = 17.0;
        row[1] = 2.0;
        let colour = fit.colour(&row);
        assert!((colour[0] - 1.0).abs() < 1e-3 && colour[1] < 1e-3 && (colour[2] - 0.5).abs() < 1e-3, "{colour:?}");
    }

    #[test]
    fn what_does_not_vary_has_no_components() {
        assert!(Projection::fit(&[], 4).is_none());
        assert!(Projection::fit(&[1.0; 4], 4).is_none(), "one row");
        assert!(Projection::fit(&[3.0; 400], 4).is_none(), "all equal");
        assert!(Projection::fit(&[f32::NAN; 8], 4).is_none());
        assert!(Projection::fit(&[1.0; 4], 0).is_none());
        // One direction only: the other channels stay in the middle.
        let line: Vec<f32> = (0..50).flat_map(|i| [i as f32, 0.0]).collect();
        let fit = Projection::fit(&line, 2).expect("varies");
        assert_eq!(fit.colour(&[49.0, 0.0]), [1.0, 0.5, 0.5]);
    }

    #[test]
    fn products_are_summed() {
        let a: Vec<f32> = (0..19).map(|i| i as f32).collect();
        assert_eq!(dot(&a, &a), (0..19).map(|i| (i * i) as f32).sum::<f32>());
    }
}
