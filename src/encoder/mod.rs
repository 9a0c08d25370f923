//! Encoders: a tile goes in, an embedding comes out. What an encoder is stands in its `card`, where it is found in
//! `registry`, how a tile becomes its input in `preprocess`, how it runs in `onnx` (from the `library`, on a `device`, in smaller
//! parts by `halving` where its memory is short), how its outputs become an embedding in `outputs`, and how many of it compute
//! side by side in `crew`. What makes one vector of a slide's tiles
//! is in `slide`, models that find tissue are in `segment`.

pub mod card;
pub mod crew;
mod describe;
pub mod device;
pub mod halving;
pub mod library;
pub mod onnx;
pub mod onnx_file;
mod outputs;
pub mod preprocess;
pub mod registry;
pub mod segment;
pub mod slide;
pub mod store;

use crate::error::Result;

/// One running copy of an encoder, owned by one thread.
pub trait Encoder: Send {
    /// Length of an embedding.
    fn dim(&self) -> usize;

    /// Embeds a batch: `tiles` holds `n` pictures of `input_px * input_px` interleaved 8-bit RGB pixels, `out` receives
    /// `n * dim` values.
    ///
    /// # Errors
    /// [`crate::Error::Encoder`] with the runtime's reason.
    fn embed(&mut self, tiles: &[u8], n: usize, out: &mut Vec<f32>) -> Result<()>;
}
