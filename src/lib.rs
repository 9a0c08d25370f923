//! paraffin embeds whole-slide pathology images.
//!
//! The rooms and the directions of their imports are drawn in ARCHITECTURE.md.

pub mod codec;
pub mod digest;
pub mod encoder;
pub mod error;
pub mod resample;
pub mod runtime;
pub mod slide;
pub mod tiling;

pub use error::{Error, Result};
