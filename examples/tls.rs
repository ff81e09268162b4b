//! HTTPS on `everport::serve`: HTTP/2 and HTTP/1.1, and clients that resume their TLS sessions in every worker, before and
//! after a reload.
//!
//! ```console
//! $ openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 \
//!     -subj /CN=localhost -addext subjectAltName=DNS:localhost -keyout key.pem -out certificate.pem
//! $ cargo run --release --example tls -- --certificate certificate.pem --key key.pem
//! $ curl --cacert certificate.pem https://localhost:8443/
//! ```
//!
//! A new certificate is taken up by a reload.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use axum::{Router, routing::get};
use clap::Parser;
use everport::net::TcpListener;
use everport::{Builder, Worker};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// A web server over TLS.
#[derive(Parser)]
struct Arguments {
    /// Where to listen
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8443")]
    listen: String,
    /// The certificate and those that lead to its root, in PEM
    #[arg(long, value_name = "FILE")]
    certificate: PathBuf,
    /// The key of the certificate, in PEM
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
}

fn main() -> everport::Result<()> {
    let arguments = Arguments::parse();
    Builder::new().listen(&arguments.listen).run(async |worker| serve(worker, &arguments).await)
}

async fn serve(worker: Worker, arguments: &Arguments) -> Result<(), Box<dyn Error + Send + Sync>> {
    let chain = CertificateDer::pem_file_iter(&arguments.certificate)?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(&arguments.key)?;
    let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
    // Before `bind`, so that the keys are there before the first client.
    config.ticketer = everport::tls::ticketer(&worker)?;
    let listener = TcpListener::bind(&arguments.listen).await?;
    let generation = worker.generation().map_or(0, |generation| generation.0);
    let app = Router::new().route("/", get(async move || format!("generation {generation}\n")));
    Ok(everport::serve(listener, app).tls(Arc::new(config)).await?)
}
