//! paraffin embeds whole-slide pathology images.
//!
//! The rooms and the directions of their imports are drawn in ARCHITECTURE.md.

pub mod audit;
pub mod cli;
pub mod codec;
pub mod digest;
pub mod encoder;
pub mod error;
pub mod export;
pub mod features;
pub mod icc;
pub mod job;
pub mod pipeline;
pub mod record;
pub mod report;
pub mod resample;
pub mod runtime;
pub mod slide;
pub mod tiling;
pub mod tissue;
pub mod view;

pub use error::{Error, Result};
