//! Everport's listeners as listeners of frameworks, each behind a feature of its name.

#[cfg(feature = "axum")]
pub mod axum;
