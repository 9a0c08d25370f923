//! Pictures for people.

pub mod heatmap;
pub mod overview;
