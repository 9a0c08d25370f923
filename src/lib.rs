//! paraffin embeds whole-slide pathology images.
//!
//! The rooms and the directions of their imports are drawn in ARCHITECTURE.md.

pub mod error;

pub use error::{Error, Result};
