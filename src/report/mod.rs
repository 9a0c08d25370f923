//! Pictures for people.

pub mod overview;
