//! What can be served: the forms of an application, and how each becomes a service of hyper's for one connection.

use std::convert::Infallible;
use std::fmt;
use std::future::{Future, poll_fn, ready};
use std::task::{Context, Poll};

use axum_core::body::Body;
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::service::TowerToHyperService;
use tower_service::Service;

use super::connection::{BoxError, HttpBody, HttpService};
use crate::net::{Kind, Stream};

/// A connection that was accepted: what a make service gets, as axum's `IncomingStream`.
pub struct Accepted<'a, K: Kind> {
    stream: &'a Stream<K>,
    peer: &'a K::Addr,
}

impl<'a, K: Kind> Accepted<'a, K> {
    pub(super) fn new(stream: &'a Stream<K>, peer: &'a K::Addr) -> Self {
        Self { stream, peer }
    }

    /// The connection, to look at its addresses or to set its options.
    pub fn stream(&self) -> &Stream<K> {
        self.stream
    }

    /// The client's address.
    pub fn peer_addr(&self) -> &K::Addr {
        self.peer
    }
}

impl<K: Kind> fmt::Debug for Accepted<'_, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accepted").field("stream", &self.stream).field("peer", &self.peer).finish()
    }
}

/// The forms of an application; the compiler finds the one that fits.
pub mod form {
    /// A tower service that is cloned for each connection: an axum `Router`, `MethodRouter` or handler, tonic's routes.
    #[derive(Debug)]
    pub enum Tower {}
    /// A tower service that makes one for each connection, such as what `into_make_service_with_connect_info` returns.
    #[derive(Debug)]
    pub enum Make {}
    /// A hyper service that is cloned for each connection, such as `hyper::service::service_fn`.
    #[derive(Debug)]
    pub enum Hyper {}
}

/// An application that [`serve`](super::serve()) takes. Implemented for every [`form`]; not for use outside.
pub trait App<K: Kind, Form>: private::App<K, Form> {}

impl<K: Kind, Form, A: private::App<K, Form>> App<K, Form> for A {}

pub(super) mod private {
    use super::*;

    /// Makes the service of one connection.
    pub trait App<K: Kind, Form>: Send + 'static {
        /// The service.
        type Service: HttpService;

        /// Called for each connection, one after another.
        fn service(
            &mut self,
            accepted: Accepted<'_, K>,
        ) -> impl Future<Output = Result<Self::Service, BoxError>> + Send;
    }
}

impl<K, A, B> private::App<K, form::Tower> for A
where
    K: Kind,
    A: Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>, Future: Send + 'static>
        + Clone
        + Send
        + 'static,
    B: HttpBody,
{
    type Service = TowerToHyperService<Boxed<A>>;

    fn service(&mut self, _: Accepted<'_, K>) -> impl Future<Output = Result<Self::Service, BoxError>> + Send {
        ready(Ok(TowerToHyperService::new(Boxed(self.clone()))))
    }
}

impl<K, A, S, B> private::App<K, form::Make> for A
where
    K: Kind,
    A: for<'a> Service<Accepted<'a, K>, Response = S, Error = Infallible> + Send + 'static,
    for<'a> <A as Service<Accepted<'a, K>>>::Future: Send,
    S: Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>, Future: Send + 'static>
        + Clone
        + Send
        + 'static,
    B: HttpBody,
{
    type Service = TowerToHyperService<Boxed<S>>;

    async fn service(&mut self, accepted: Accepted<'_, K>) -> Result<Self::Service, BoxError> {
        poll_fn(|cx| self.poll_ready(cx)).await?;
        Ok(TowerToHyperService::new(Boxed(self.call(accepted).await?)))
    }
}

impl<K: Kind, A: HttpService + Clone> private::App<K, form::Hyper> for A {
    type Service = A;

    fn service(&mut self, _: Accepted<'_, K>) -> impl Future<Output = Result<Self::Service, BoxError>> + Send {
        ready(Ok(self.clone()))
    }
}

/// A tower service whose requests have axum's body, which is that of the whole tower world, in the place of hyper's.
#[derive(Clone, Debug)]
pub struct Boxed<S>(S);

impl<S: Service<Request<Body>>> Service<Request<Incoming>> for Boxed<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Incoming>) -> S::Future {
        self.0.call(request.map(|body| match http_body::Body::is_end_stream(&body) {
            // The common case, in which nothing has to be allocated.
            true => Body::empty(),
            false => Body::new(body),
        }))
    }
}
