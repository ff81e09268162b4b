//! The names of things that cross between master and worker: plain numbers, never descriptors or pids.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// One worker process. Starts at 1 and is never used again, so it also names a worker that has gone.
    WorkerId(u64)
}
id! {
    /// A worker's stable index, 0..n, over restarts and generations.
    Slot(u32)
}
id! {
    /// The workers started by one reload. Starts at 1 and only grows.
    Generation(u64)
}
id! {
    /// One listener of the master, for as long as the master holds it.
    ListenerId(u32)
}
