//! What is between a connection's socket and HTTP.

use crate::net::Kind;

/// What carries HTTP: [`Plain`], or TLS. Not for use outside.
pub trait Carrier<K: Kind>: private::Carrier<K> {}

impl<K: Kind, C: private::Carrier<K>> Carrier<K> for C {}

/// Nothing.
#[derive(Clone, Copy, Debug)]
pub struct Plain;

pub(super) mod private {
    use std::future::Future;

    use super::super::connection::{self, HttpService};
    use super::super::phase::Phase;
    use super::Plain;
    use crate::net::{Kind, Stream};

    /// Serves HTTP over connections of this kind.
    pub trait Carrier<K: Kind>: Clone + Send + Sync + 'static {
        /// Serves one connection to its end, or until it has moved.
        fn serve<S: HttpService>(
            self,
            stream: Stream<K>,
            service: S,
            phase: Phase,
        ) -> impl Future<Output = ()> + Send + 'static;
    }

    impl<K: Kind> Carrier<K> for Plain {
        fn serve<S: HttpService>(
            self,
            stream: Stream<K>,
            service: S,
            phase: Phase,
        ) -> impl Future<Output = ()> + Send + 'static {
            connection::serve(stream, service, phase)
        }
    }
}
