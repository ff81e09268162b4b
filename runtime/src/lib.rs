//! Everport.
