//! From a graph's outputs to one embedding a tile: several outputs are put one after the other, outputs of tokens are pooled
//! as the card says, half-precision values are widened.

use std::ffi::CString;

use ort::value::Outlet;
use ort::value::{DynTensor, TensorElementType};

use super::card::Output;
use crate::error::{Error, Result};

/// How tokens become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pooling {
    /// The first token.
    Cls,
    /// The mean of the tokens after the prefix.
    Mean,
    /// One after the other.
    ClsMean,
}

impl Pooling {
    /// Vectors of a token's width that come out.
    fn vectors(self) -> usize {
        if self == Pooling::ClsMean { 2 } else { 1 }
    }
}

/// One output of the graph.
struct Part {
    name: CString,
    dtype: TensorElementType,
    /// Sides after the batch, -1 where the graph leaves them open: [width] or [tokens, width].
    sides: Vec<i64>,
}

/// What of a graph's outputs makes an embedding.
pub struct Outputs {
    parts: Vec<Part>,
    dim: usize,
    pooling: Option<Pooling>,
    prefix: usize,
}

impl Outputs {
    /// Looks up the card's outputs in the graph.
    ///
    /// # Errors
    /// [`Error::Encoder`] where graph and card differ.
    pub fn find(graph: &[Outlet], card: &Output) -> Result<Self> {
        let mut parts = Vec::new();
        let mut tokens = false;
        for name in card.name.as_slice() {
            let output = graph.iter().find(|o| o.name() == name).ok_or_else(|| {
                let names: Vec<_> = graph.iter().map(Outlet::name).collect();
                Error::Encoder(format!("the graph has no output '{name}'; it has {}", names.join(", ")))
            })?;
            let shape = output.dtype().tensor_shape().map(|s| s.to_vec()).unwrap_or_default();
            let dtype = output.dtype().tensor_type();
            let Some(dtype) = dtype.filter(|d| {
                matches!(d, TensorElementType::Float32 | TensorElementType::Float16) && matches!(shape.len(), 2 | 3)
            }) else {
                return Err(Error::Encoder(format!(
                    "output '{name}' is {}; float32 or float16 [batch, dim] or [batch, tokens, dim] is expected",
                    output.dtype()
                )));
            };
            tokens |= shape.len() == 3;
            let name = CString::new(name.as_str()).map_err(|e| Error::Encoder(e.to_string()))?;
            parts.push(Part { name, dtype, sides: shape[1..].to_vec() });
        }
        let pooling = match (tokens, &*card.pooling) {
            (false, _) => None,
            (true, "cls") => Some(Pooling::Cls),
            (true, "mean") => Some(Pooling::Mean),
            (true, "cls+mean") => Some(Pooling::ClsMean),
            (true, other) => {
                return Err(Error::Encoder(format!(
                    "output '{}' is of tokens; the card's output.pooling must say cls, mean or cls+mean, not '{other}'",
                    card.name
                )));
            }
        };
        let outputs = Outputs { parts, dim: card.dim, pooling, prefix: card.prefix_tokens };
        outputs.check(card)?;
        Ok(outputs)
    }

    /// Refuses a graph whose outputs, as far as it states them, are not what the card says.
    fn check(&self, card: &Output) -> Result<()> {
        let mut dim = Some(0);
        for part in &self.parts {
            if let [tokens, _] = part.sides[..]
                && tokens != -1
                && !(1..tokens).contains(&(self.prefix as i64))
            {
                return Err(Error::Encoder(format!(
                    "output '{}' is of {tokens} tokens, its card says that {} come before those of the picture",
                    part.name.to_string_lossy(),
                    self.prefix
                )));
            }
            dim = dim.zip(self.values_of(part)).map(|(sum, n)| sum + n);
        }
        match dim {
            Some(dim) if dim != card.dim => Err(Error::Encoder(format!(
                "output '{}' gives {dim} values, its card says float32 [batch, {}]",
                card.name, card.dim
            ))),
            _ => Ok(()),
        }
    }

    /// Values that a part adds to an embedding, where the graph states its width.
    fn values_of(&self, part: &Part) -> Option<usize> {
        let width = usize::try_from(*part.sides.last()?).ok()?;
        let vectors = if part.sides.len() == 2 { self.pooling.map_or(1, Pooling::vectors) } else { 1 };
        Some(width * vectors)
    }

    /// Length of an embedding.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The outputs' names in the graph, in the embedding's order.
    pub fn names(&self) -> impl Iterator<Item = &CString> {
        self.parts.iter().map(|p| &p.name)
    }

    /// Whether the embedding is the one output as it is.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        matches!(&self.parts[..], [part] if part.sides.len() == 1 && part.dtype == TensorElementType::Float32)
    }

    /// Makes `n` embeddings, `out`, of the outputs' values.
    ///
    /// # Errors
    /// [`Error::Encoder`] where they have another shape than the card says.
    pub fn combine(&self, values: &[DynTensor], n: usize, out: &mut [f32]) -> Result<()> {
        let mut at = 0;
        let mut wide = Vec::new();
        for (part, tensor) in self.parts.iter().zip(values) {
            let shape = tensor.shape();
            let sides: Vec<usize> = shape.iter().map(|s| usize::try_from(*s).unwrap_or(0)).collect();
            let values = floats(tensor, part.dtype, &mut wide)?;
            let (tokens, width) = match sides[..] {
                [rows, width] if rows == n => (1, width),
                [rows, tokens, width] if rows == n && tokens > self.prefix => (tokens, width),
                _ => return Err(self.misfit(part, &sides)),
            };
            let pooling = if sides.len() == 3 { self.pooling.unwrap_or(Pooling::Cls) } else { Pooling::Cls };
            let end = at + width * pooling.vectors();
            if end > self.dim {
                return Err(self.misfit(part, &sides));
            }
            for (row, out) in values.chunks_exact((tokens * width).max(1)).zip(out.chunks_exact_mut(self.dim)) {
                pool(pooling, row, width, self.prefix, &mut out[at..end]);
            }
            at = end;
        }
        if at == self.dim {
            Ok(())
        } else {
            Err(Error::Encoder(format!("the graph gave {at} values, its card says {}", self.dim)))
        }
    }

    fn misfit(&self, part: &Part, sides: &[usize]) -> Error {
        let name = part.name.to_string_lossy();
        Error::Encoder(format!(
            "output '{name}' came as {sides:?}, which does not fit its card (dim {}, {} prefix tokens)",
            self.dim, self.prefix
        ))
    }
}

/// Pools the tokens of one picture. Means are summed in float64: the result does not depend on the number of tokens' order
/// of magnitude.
fn pool(pooling: Pooling, tokens: &[f32], width: usize, prefix: usize, out: &mut [f32]) {
    let (cls, mean) = match pooling {
        Pooling::Cls => (out, None),
        Pooling::Mean => (&mut [][..], Some(out)),
        Pooling::ClsMean => {
            let (cls, mean) = out.split_at_mut(width);
            (cls, Some(mean))
        }
    };
    cls.copy_from_slice(&tokens[..cls.len()]);
    if let Some(mean) = mean {
        let tokens = &tokens[prefix * width..];
        let count = (tokens.len() / width) as f64;
        for (i, mean) in mean.iter_mut().enumerate() {
            *mean = (tokens.iter().skip(i).step_by(width).map(|v| f64::from(*v)).sum::<f64>() / count) as f32;
        }
    }
}

/// A tensor's values; float16 is widened into `wide`.
fn floats<'a>(tensor: &'a DynTensor, dtype: TensorElementType, wide: &'a mut Vec<f32>) -> Result<&'a [f32]> {
    let failed = |e: ort::Error| Error::Encoder(e.to_string());
    if dtype == TensorElementType::Float32 {
        return Ok(tensor.try_extract_tensor::<f32>().map_err(failed)?.1);
    }
    let (_, narrow) = tensor.try_extract_tensor::<half::f16>().map_err(failed)?;
    wide.clear();
    wide.extend(narrow.iter().map(|v| v.to_f32()));
    Ok(wide)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_pooled() {
        // Two prefix tokens and two of the picture, three values each.
        let tokens = [1., 2., 3., 100., 100., 100., 4., 5., 6., 6., 9., 0.];
        let pooled = |pooling: Pooling| {
            let mut out = vec![0.0; 3 * pooling.vectors()];
            pool(pooling, &tokens, 3, 2, &mut out);
            out
        };
        assert_eq!(pooled(Pooling::Cls), [1., 2., 3.]);
        assert_eq!(pooled(Pooling::Mean), [5., 7., 3.]);
        assert_eq!(pooled(Pooling::ClsMean), [1., 2., 3., 5., 7., 3.]);
    }
}
