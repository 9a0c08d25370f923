//! Many numbers in JSON: little-endian bytes in base64, with NumPy's names for type and shape, so that
//! `numpy.frombuffer(base64.b64decode(n["base64"]), n["dtype"]).reshape(n["shape"])` reads them.

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// An array of numbers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Numbers {
    /// `<f4` or `<f8`.
    pub dtype: String,
    /// Lengths of the axes.
    pub shape: Vec<usize>,
    /// The values, row by row.
    pub base64: String,
}

impl Numbers {
    /// float32 values of this shape.
    #[must_use]
    pub fn of_f32(shape: &[usize], values: &[f32]) -> Self {
        debug_assert_eq!(shape.iter().product::<usize>(), values.len());
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Numbers { dtype: "<f4".into(), shape: shape.to_vec(), base64: BASE64.encode(&bytes) }
    }

    /// float64 values of this shape.
    #[must_use]
    pub fn of_f64(shape: &[usize], values: &[f64]) -> Self {
        debug_assert_eq!(shape.iter().product::<usize>(), values.len());
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Numbers { dtype: "<f8".into(), shape: shape.to_vec(), base64: BASE64.encode(&bytes) }
    }

    /// The values.
    ///
    /// # Errors
    /// [`Error::Output`] where type, shape and bytes do not belong together.
    pub fn values(&self) -> Result<Vec<f64>> {
        let damaged = |why: String| Error::Output(format!("numbers in JSON are damaged: {why}"));
        let bytes = BASE64.decode(self.base64.as_bytes()).map_err(|e| damaged(e.to_string()))?;
        let values: Vec<f64> = match &*self.dtype {
            "<f4" => bytes.as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
            "<f8" => bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
            other => return Err(damaged(format!("type '{other}' is neither <f4 nor <f8"))),
        };
        let size = if self.dtype == "<f4" { 4 } else { 8 };
        let wanted = self.shape.iter().try_fold(1usize, |n, side| n.checked_mul(*side));
        if wanted != Some(values.len()) || bytes.len() != values.len() * size {
            return Err(damaged(format!("{} bytes of {} for the shape {:?}", bytes.len(), self.dtype, self.shape)));
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Text from Python 3.11: `base64.b64encode(numpy.array([1, -2.5, 3e38], "<f4"))`, and `[0.1, -1e300]` as `<f8`.
    #[test]
    fn numpys_bytes() {
        let numbers = Numbers::of_f32(&[3], &[1.0, -2.5, 3e38]);
        assert_eq!(numbers.base64, "AACAPwAAIMDmsWF/");
        assert_eq!(numbers.values().unwrap(), [1.0, -2.5, f64::from(3e38f32)]);
        let numbers = Numbers::of_f64(&[1, 2], &[0.1, -1e300]);
        assert_eq!(numbers.base64, "mpmZmZmZuT+cdQCIPOQ3/g==");
        assert_eq!(numbers.values().unwrap(), [0.1, -1e300]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let good = Numbers::of_f32(&[2], &[1.0, 2.0]);
        for bad in [
            Numbers { shape: vec![3], ..good.clone() },
            Numbers { shape: vec![usize::MAX, 2], ..good.clone() },
            Numbers { dtype: "<i4".into(), ..good.clone() },
            Numbers { base64: "AAAAAAAA!".into(), ..good.clone() },
            Numbers { base64: "AACAPwAAIMAA".into(), ..good },
        ] {
            assert!(bad.values().is_err(), "{bad:?}");
        }
    }
}
