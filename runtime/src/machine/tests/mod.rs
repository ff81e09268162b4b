//! The machines, without a world around them.
