//! Everport.

#[expect(dead_code, reason = "the shell is yet to use it")]
mod machine;
