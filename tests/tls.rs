//! TLS: a client resumes its session in whichever worker it comes to, and loses no request to a reload.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sys::signal::Signal;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned, SupportedProtocolVersion};

use crate::harness::http::{self, Answer};
use crate::harness::setup::{Setup, WORKER};
use crate::harness::{Master, PATIENCE, process, soon};

const TLS: &str = env!("CARGO_BIN_EXE_tls-worker");

/// What the master logs when it makes or rotates the keys.
const ROTATED: &str = "ticket keys rotated";

/// The fixture, with a new certificate, not started yet.
fn server() -> (Setup, CertificateDer<'static>) {
    server_of("line")
}

/// As [`server`], of lines or of HTTP.
fn server_of(what: &str) -> (Setup, CertificateDer<'static>) {
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let setup = Setup::program(TLS, &["127.0.0.1:0"]);
    let (certificate, key) = (setup.folder().join("certificate"), setup.folder().join("key"));
    fs::write(&certificate, issued.cert.der()).expect("the folder is ours");
    fs::write(&key, issued.signing_key.serialize_der()).expect("the folder is ours");
    (setup.argument(certificate).argument(key).argument(what), issued.cert.der().clone())
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

    fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(self.address).expect("the port is open");
        socket.set_read_timeout(Some(PATIENCE)).expect("a valid time");
        socket
    }

    /// TLS on a connection on which nothing was said yet.
    fn secure(&self, socket: TcpStream) -> Stream {
        let name = "localhost".try_into().expect("a name");
        let connection = ClientConnection::new(Arc::clone(&self.config), name).expect("a valid configuration");
        BufReader::new(StreamOwned::new(connection, socket))
    }

    /// One connection: client and server must agree on what it was.
    #[track_caller]
    fn visit(&self) -> Visit {
        let mut stream = self.secure(self.connect());
        let mut line = String::new();
        stream.read_line(&mut line).expect("the handshake succeeds and the server answers");
        let resumed = is_resumed(&stream);
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

type Stream = BufReader<StreamOwned<ClientConnection, TcpStream>>;

fn is_resumed(stream: &Stream) -> bool {
    stream.get_ref().conn.handshake_kind() == Some(HandshakeKind::Resumed)
}

/// One request and its answer.
#[track_caller]
fn get(stream: &mut Stream) -> Answer {
    stream.get_mut().write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").expect("the connection lives");
    http::read_answer(stream).expect("a whole answer")
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

#[test]
fn clients_of_http_over_tls_lose_no_request_to_a_reload_and_come_back_cheaply() {
    let (setup, certificate) = server_of("http");
    let master = setup.start();
    // Each with sessions of its own, for a ticket is used once.
    let clients: Vec<_> = (0..8).map(|_| Client::new(&master, &certificate)).collect();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let clients: Vec<_> = clients.iter().map(|client| scope.spawn(|| browse(client, &done))).collect();
        for _ in 0..5 {
            master.reload_well();
            master.wait_until("the old generation is gone", |status| status.generations().len() == 1);
        }
        done.store(true, Ordering::Relaxed);
        for (number, client) in clients.into_iter().enumerate() {
            let told = client.join().expect("no request of it failed");
            assert!((1..=5).contains(&told), "client {number} was told to close {told} times in 5 reloads");
        }
    });
    master.check();
}

/// Requests without a pause, on one connection until the server says that it is the last request. Returns how often it
/// said so.
fn browse(client: &Client, done: &AtomicBool) -> usize {
    let (mut told, mut stream) = (0, client.secure(client.connect()));
    while !done.load(Ordering::Relaxed) {
        let answer = get(&mut stream);
        assert_eq!(is_resumed(&stream), told > 0, "the first handshake is the one that is full");
        if answer.says_close() {
            told += 1;
            // It fails when the server ends the connection without saying so.
            assert_eq!(stream.read(&mut [0; 1]).expect("a gentle end"), 0);
            stream = client.secure(client.connect());
        }
    }
    told
}

#[test]
fn a_connection_that_has_said_nothing_moves_before_its_handshake() {
    for policy in ["rr", "none"] {
        let (setup, certificate) = server_of("http");
        let master = setup.policy(policy).start();
        let client = Client::new(&master, &certificate);
        let socket = client.connect();
        master.wait_until("a worker has it", |status| status.workers().iter().any(|worker| worker.active == 1));
        master.reload_well();
        master.wait_until("the old generation is gone", |status| status.generations().len() == 1);
        let answer = get(&mut client.secure(socket));
        assert_eq!((answer.text().as_str(), answer.says_close()), ("2", false));
        master.check();
    }
}

#[test]
fn the_example_takes_up_a_new_certificate_by_a_reload() {
    let setup = Setup::program(env!("CARGO_BIN_EXE_tls"), &["--listen", "127.0.0.1:0"]);
    let (certificate, key) = (setup.folder().join("certificate.pem"), setup.folder().join("key.pem"));
    let renew = || {
        let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        fs::write(&certificate, issued.cert.pem()).expect("the folder is ours");
        fs::write(&key, issued.signing_key.serialize_pem()).expect("the folder is ours");
        issued.cert.der().clone()
    };
    let first = renew();
    let master = setup.argument("--certificate").argument(&certificate).argument("--key").argument(&key).start();
    let asked = |certificate: &CertificateDer<'static>| {
        let client = Client::new(&master, certificate);
        get(&mut client.secure(client.connect())).text()
    };
    assert_eq!(asked(&first), "generation 1\n");
    let second = renew();
    master.reload_well();
    assert_eq!(asked(&second), "generation 2\n");
    master.check();
}
