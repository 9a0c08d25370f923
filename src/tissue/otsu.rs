//! Otsu's threshold.
//!
//! Reference: N. Otsu, A threshold selection method from gray-level histograms, IEEE Trans. SMC 9 (1979) 62–66.

/// The lowest value of the upper class that maximises the variance between the classes.
pub(super) fn otsu(histogram: &[u64; 256]) -> u8 {
    let total = histogram.iter().sum::<u64>() as f64;
    let moment = (0u64..).zip(histogram).map(|(value, &number)| value * number).sum::<u64>() as f64;
    let (mut below, mut moment_below) = (0.0, 0.0);
    let (mut best, mut best_variance) = (0u8, 0.0);
    for (value, &number) in (0..255u8).zip(histogram) {
        below += number as f64;
        moment_below += f64::from(value) * number as f64;
        let above = total - below;
        if below > 0.0 && above > 0.0 {
            let difference = moment_below / below - (moment - moment_below) / above;
            let variance = below * above * difference * difference;
            if variance > best_variance {
                (best, best_variance) = (value + 1, variance);
            }
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn otsu_splits_two_peaks_and_survives_one() {
        let mut histogram = [0u64; 256];
        (histogram[3], histogram[100]) = (500, 300);
        assert_eq!(otsu(&histogram), 4);
        histogram = [0; 256];
        histogram[7] = 10;
        assert_eq!(otsu(&histogram), 0);
    }
}
