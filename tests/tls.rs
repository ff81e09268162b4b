//! TLS sessions: a client resumes its own in whichever worker it comes to.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use nix::sys::signal::Signal;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned, SupportedProtocolVersion};

use crate::harness::setup::{Setup, WORKER};
use crate::harness::{Master, PATIENCE, process, soon};

const TLS: &str = env!("CARGO_BIN_EXE_tls-worker");

/// What the master logs when it makes or rotates the keys.
const ROTATED: &str = "ticket keys rotated";

/// The fixture with a new certificate, not started yet.
fn server() -> (Setup, CertificateDer<'static>) {
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let setup = Setup::program(TLS, &["127.0.0.1:0"]);
    let (certificate, key) = (setup.folder().join("certificate"), setup.folder().join("key"));
    fs::write(&certificate, issued.cert.der()).expect("the folder is ours");
    fs::write(&key, issued.signing_key.serialize_der()).expect("the folder is ours");
    (setup.argument(certificate).argument(key), issued.cert.der().clone())
}

/// A client that keeps its sessions, and for which no time passes: it never takes a ticket for too old, so that the server
/// judges.
struct Client {
    config: Arc<ClientConfig>,
    address: SocketAddr,
}

#[derive(Debug)]
struct Still(UnixTime);

impl TimeProvider for Still {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.0)
    }
}

/// What came of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Visit {
    worker: u64,
    generation: u64,
    resumed: bool,
}

impl Client {
    fn new(master: &Master, certificate: &CertificateDer<'static>) -> Self {
        Self::speaking(master, certificate, &rustls::version::TLS13)
    }

    fn speaking(
        master: &Master,
        certificate: &CertificateDer<'static>,
        version: &'static SupportedProtocolVersion,
    ) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).expect("it was just made");
        let now = Still(DefaultTimeProvider.current_time().expect("a clock"));
        let config = ClientConfig::builder_with_details(Arc::new(default_provider()), Arc::new(now))
            .with_protocol_versions(&[version])
            .expect("the provider knows it")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { config: Arc::new(config), address: master.address() }
    }

    /// One connection: client and server must agree on what it was.
    #[track_caller]
    fn visit(&self) -> Visit {
        let name = "localhost".try_into().expect("a name");
        let connection = ClientConnection::new(Arc::clone(&self.config), name).expect("a valid configuration");
        let socket = TcpStream::connect(self.address).expect("the port is open");
        socket.set_read_timeout(Some(PATIENCE)).expect("a valid time");
        let mut stream = BufReader::new(StreamOwned::new(connection, socket));
        let mut line = String::new();
        stream.read_line(&mut line).expect("the handshake succeeds and the server answers");
        let resumed = stream.get_ref().conn.handshake_kind() == Some(HandshakeKind::Resumed);
        let words: Vec<&str> = line.split_whitespace().collect();
        let [worker, generation, server_resumed] = words[..] else { panic!("not an answer: {line:?}") };
        assert_eq!(server_resumed, resumed.to_string());
        let number = |word: &str| word.parse().expect("a number");
        Visit { worker: number(worker), generation: number(generation), resumed }
    }

    /// So many connections, all of which must resume. Returns the workers that they came to.
    #[track_caller]
    fn resumes(&self, times: usize) -> BTreeSet<u64> {
        let visits: Vec<Visit> = (0..times).map(|_| self.visit()).collect();
        assert!(visits.iter().all(|visit| visit.resumed), "a full handshake: {visits:?}");
        visits.iter().map(|visit| visit.worker).collect()
    }
}

fn rotations(master: &Master) -> usize {
    master.log.count(&[ROTATED])
}

#[test]
fn a_client_resumes_in_every_worker() {
    let (setup, certificate) = server();
    let master = setup.workers(3).start();
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let client = Client::speaking(&master, &certificate, version);
        assert!(!client.visit().resumed, "there is nothing to resume yet");
        assert_eq!(client.resumes(12).len(), 3, "every worker had its turn");
    }
    assert_eq!(rotations(&master), 1, "the keys are made once");
    master.check();
}

#[test]
fn a_client_resumes_over_reloads() {
    for policy in ["rr", "none"] {
        let (setup, certificate) = server();
        let master = setup.policy(policy).start();
        let client = Client::new(&master, &certificate);
        let mut workers = BTreeSet::from([client.visit().worker]);
        for _ in 0..3 {
            master.reload_well();
            // The first ones after the commit: the keys came before the first connection.
            workers.extend(client.resumes(4));
        }
        assert!(workers.len() >= 4, "one of each generation at least: {workers:?}");
        assert_eq!(client.visit().generation, 4);
        master.check();
    }
}

#[test]
fn a_client_resumes_after_every_worker_has_crashed() {
    let (setup, certificate) = server();
    let master = setup.start();
    let client = Client::new(&master, &certificate);
    client.visit();
    let before = master.status().active();
    for worker in &before {
        process::signal(worker.pid.expect("it runs"), Signal::SIGKILL);
    }
    let gone = |id: u64| before.iter().all(|worker| worker.worker != id);
    master.wait_until("both are replaced", |status| {
        let active = status.active();
        active.len() == 2 && active.iter().all(|worker| gone(worker.worker))
    });
    assert!(client.resumes(4).into_iter().all(gone));
    master.check();
}

#[test]
fn a_ticket_outlives_one_rotation_and_not_three() {
    let (setup, certificate) = server();
    let master = setup.set("EVERPORT_TICKET_ROTATION", "1s").start();
    let rotated_from =
        |start: usize, by: usize| soon("a rotation", || (rotations(&master) >= start + by).then_some(()));
    soon("no other rotation between two looks", || {
        let client = Client::new(&master, &certificate);
        let start = rotations(&master);
        assert!(!client.visit().resumed);
        if rotations(&master) != start {
            return None;
        }
        rotated_from(start, 1);
        let visit = client.visit();
        (rotations(&master) == start + 1).then(|| assert!(visit.resumed, "its key is the previous one"))
    });

    let client = Client::new(&master, &certificate);
    client.visit();
    rotated_from(rotations(&master), 3);
    assert!(!client.visit().resumed, "its key is gone");
    master.check();
}

#[test]
fn a_program_without_tls_has_a_master_without_keys() {
    let master = Setup::program(WORKER, &["127.0.0.1:0"]).set("EVERPORT_TICKET_ROTATION", "1s").start();
    master.reload_well();
    assert_eq!(rotations(&master), 0);
    master.check();
}
