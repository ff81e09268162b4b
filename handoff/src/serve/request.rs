//! The service around the application's: it counts the requests in progress, and says in the last response of a connection
//! that it is the last.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::service::Service;
use hyper::{Method, StatusCode};
use pin_project_lite::pin_project;

use super::pulse::{Pulse, Request};

/// The application's service, counted.
#[derive(Debug)]
pub(super) struct Counted<S> {
    inner: S,
    pulse: Arc<Pulse>,
}

impl<S> Counted<S> {
    pub(super) fn new(inner: S, pulse: Arc<Pulse>) -> Self {
        Self { inner, pulse }
    }

    pub(super) fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, B> Service<hyper::Request<Incoming>> for Counted<S>
where
    S: Service<hyper::Request<Incoming>, Response = hyper::Response<B>>,
{
    type Response = hyper::Response<Answer<B>>;
    type Error = S::Error;
    type Future = Answering<S::Future>;

    fn call(&self, request: hyper::Request<Incoming>) -> Self::Future {
        let progress = Some(Request::begin(&self.pulse));
        // What follows a tunnel's response is no HTTP any more, and HTTP/2 has no such header.
        let tunnel = request.method() == Method::CONNECT || request.version() == hyper::Version::HTTP_2;
        Answering { future: self.inner.call(request), progress, tunnel }
    }
}

pin_project! {
    /// A request before its response.
    pub(super) struct Answering<F> {
        #[pin]
        future: F,
        progress: Option<Request>,
        tunnel: bool,
    }
}

impl<F, B, E> Future for Answering<F>
where
    F: Future<Output = Result<hyper::Response<B>, E>>,
{
    type Output = Result<hyper::Response<Answer<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.future.poll(cx))?;
        let progress = this.progress.take();
        let last = progress.as_ref().is_some_and(Request::is_last);
        if last && !*this.tunnel && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Poll::Ready(Ok(response.map(|body| Answer { body, _progress: progress })))
    }
}

pin_project! {
    /// A response's body; when it goes, the request is over.
    pub(super) struct Answer<B> {
        #[pin]
        body: B,
        _progress: Option<Request>,
    }
}

impl<B: Body> Body for Answer<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        self.project().body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
