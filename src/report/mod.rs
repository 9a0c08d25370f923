//! What people look at: the overview of a slide, the report of a cohort, feature maps.

pub mod cohort;
pub mod featuremap;
pub mod heatmap;
pub mod html;
pub mod overview;
pub mod pca;
pub mod thumbnail;
