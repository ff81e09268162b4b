//! Both ends over a real socket. The test's own thread plays the master's loop, clients have threads of theirs.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use axum::http::{Method, StatusCode};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tempfile::TempDir;

use super::client::{Answer, AskError, Connection};
use super::protocol::tests::{record, status};
use super::protocol::{ReloadOutcome, ReloadRecord, Status, Stopping};
use super::request::{Request, Requests};
use super::server::{Limits, Server};

/// Far longer than anything here takes; it only bounds a test that fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// Soon over, but long enough for a busy machine to connect and ask.
const SHORT: Duration = Duration::from_millis(500);

const LIMITS: Limits = Limits { connections: 8, waiting: 2, deadline: PATIENCE, answer: PATIENCE };

/// A control socket whose loop is the test.
struct World {
    folder: TempDir,
    server: Server,
    requests: Requests,
}

impl World {
    fn new(limits: Limits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (server, requests) = Server::with_limits(&folder.path().join("control"), limits).unwrap();
        Self { folder, server, requests }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("control")
    }

    /// Waits for the next request, as the loop does.
    fn next(&self) -> Request {
        let limit = Timespec::try_from(PATIENCE).unwrap();
        let ready = poll(&mut [PollFd::new(&self.requests, PollFlags::IN)], Some(&limit)).unwrap();
        assert_eq!(ready, 1, "nobody asked");
        self.requests.take().next().unwrap()
    }

    fn ask(&self, method: Method, uri: &'static str) -> JoinHandle<Result<Answer, AskError>> {
        let path = self.path();
        thread::spawn(move || Connection::open(&path)?.ask(method, uri, Some(PATIENCE)))
    }

    /// A client that connects and says nothing.
    fn silent(&self) -> UnixStream {
        let stream = UnixStream::connect(self.path()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn answer_status(&self) {
        match self.next() {
            Request::Status { answer } => answer.send(status()).unwrap(),
            other => panic!("{other:?}"),
        }
    }
}

fn answered(client: JoinHandle<Result<Answer, AskError>>) -> Answer {
    client.join().unwrap().unwrap()
}

fn refusal(client: JoinHandle<Result<Answer, AskError>>) -> (u16, String) {
    let answer = answered(client);
    match answer.read::<Status>(&[StatusCode::OK]) {
        Err(AskError::Refused { reason, .. }) => (answer.code.as_u16(), reason),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_socket_is_private_and_goes_with_the_server() {
    let world = World::new(LIMITS);
    let file = fs::metadata(world.path()).unwrap();
    assert!(file.file_type().is_socket());
    assert_eq!(file.permissions().mode() & 0o777, 0o600);
    drop(world.server);
    assert_eq!(fs::read_dir(world.folder.path()).unwrap().count(), 0);
}

#[test]
fn status_is_answered_by_the_loop() {
    let world = World::new(LIMITS);
    let client = world.ask(Method::GET, "/status");
    world.answer_status();
    assert_eq!(answered(client).read::<Status>(&[StatusCode::OK]).unwrap(), status());
}

#[test]
fn reload_is_answered_with_its_outcome() {
    let world = World::new(LIMITS);
    let rolled_back = ReloadRecord { outcome: ReloadOutcome::RolledBack, reason: Some("why".into()), ..record() };
    for (outcome, code) in [(record(), StatusCode::OK), (rolled_back, StatusCode::CONFLICT)] {
        let client = world.ask(Method::POST, "/reload");
        let Request::Reload { client: who, answer } = world.next() else { panic!("another request") };
        assert_eq!((who.pid, who.uid), (process::id(), rustix::process::geteuid().as_raw()));
        answer.send(outcome.clone()).unwrap();
        assert_eq!(answered(client).read::<ReloadRecord>(&[code]).unwrap(), outcome);
    }
}

#[test]
fn stop_is_graceful_unless_now() {
    let world = World::new(LIMITS);
    for (uri, now) in [("/stop", false), ("/stop?now=false", false), ("/stop?now=true", true)] {
        let client = world.ask(Method::POST, uri);
        let Request::Stop { at_once, answer, .. } = world.next() else { panic!("another request") };
        assert_eq!(at_once, now);
        let stopping = Stopping { at_once, drain_timeout_ms: 30_000 };
        answer.send(stopping).unwrap();
        assert_eq!(answered(client).read::<Stopping>(&[StatusCode::ACCEPTED]).unwrap(), stopping);
    }
}

#[test]
fn what_makes_no_sense_is_refused_in_json() {
    let world = World::new(LIMITS);
    let table = [
        (
            Method::GET,
            "/nothing",
            404,
            "no such path: want GET /status, POST /reload, /rollback, /reopen, /stop, /scale, /pause, /resume, /kill, /policy or /weight",
        ),
        (
            Method::GET,
            "/reload",
            405,
            "no such method here: want GET /status, POST /reload, /rollback, /reopen, /stop, /scale, /pause, /resume, /kill, /policy or /weight",
        ),
        (
            Method::POST,
            "/status",
            405,
            "no such method here: want GET /status, POST /reload, /rollback, /reopen, /stop, /scale, /pause, /resume, /kill, /policy or /weight",
        ),
        (Method::POST, "/stop?now=perhaps", 400, "want /stop, /stop?now=true or /stop?now=false"),
    ];
    for (method, uri, code, reason) in table {
        assert_eq!(refusal(world.ask(method, uri)), (code, reason.to_owned()));
    }
}

#[test]
fn a_stopping_master_says_so() {
    let world = World::new(LIMITS);
    let client = world.ask(Method::POST, "/reload");
    drop(world.next());
    assert_eq!(refusal(client), (503, "the master is stopping".to_owned()));

    let World { requests, folder, server } = world;
    drop(requests);
    let path = folder.path().join("control");
    let client = thread::spawn(move || Connection::open(&path)?.ask(Method::GET, "/status", Some(PATIENCE)));
    assert_eq!(refusal(client), (503, "the master is stopping".to_owned()));
    drop(server);
}

#[test]
fn a_loop_that_hangs_is_reported() {
    let world = World::new(Limits { answer: Duration::from_millis(10), ..LIMITS });
    let client = world.ask(Method::GET, "/status");
    let unanswered = world.next();
    assert_eq!(refusal(client), (503, "the master did not answer in time".to_owned()));
    drop(unanswered);
}

#[test]
fn a_silent_client_is_cut_at_the_deadline() {
    let world = World::new(Limits { deadline: Duration::from_millis(10), ..LIMITS });
    assert_eq!(world.silent().read(&mut [0; 16]).unwrap(), 0);
}

#[test]
fn a_reload_may_take_longer_than_the_deadline() {
    let world = World::new(Limits { deadline: SHORT, ..LIMITS });
    let client = world.ask(Method::POST, "/reload");
    let Request::Reload { answer, .. } = world.next() else { panic!("another request") };
    // This one connects later, so when its time is up the other's would be too.
    assert_eq!(world.silent().read(&mut [0; 16]).unwrap(), 0);
    answer.send(record()).unwrap();
    assert_eq!(answered(client).code, StatusCode::OK);
}

#[test]
fn clients_beyond_the_limit_wait_for_their_turn() {
    let world = World::new(Limits { connections: 1, deadline: SHORT, ..LIMITS });
    let mut first = world.silent();
    let mut second = world.silent();
    second.write_all(b"GET /status HTTP/1.1\r\nhost: everport\r\n\r\n").unwrap();
    world.next();
    // The second one was served, so the first one must have gone before.
    first.set_nonblocking(true).unwrap();
    assert_eq!(first.read(&mut [0; 16]).unwrap(), 0);
}

#[test]
fn waiting_for_reloads_leaves_room_for_others() {
    let world = World::new(Limits { waiting: 1, ..LIMITS });
    let waiting = world.ask(Method::POST, "/reload");
    let Request::Reload { answer, .. } = world.next() else { panic!("another request") };
    assert_eq!(
        refusal(world.ask(Method::POST, "/reload")),
        (503, "too many clients wait for a reload already".to_owned())
    );
    let client = world.ask(Method::GET, "/status");
    world.answer_status();
    assert_eq!(answered(client).code, StatusCode::OK);
    answer.send(record()).unwrap();
    assert_eq!(answered(waiting).code, StatusCode::OK);
}

#[test]
fn a_client_that_hangs_up_gives_its_place_back() {
    let world = World::new(Limits { waiting: 1, ..LIMITS });
    let mut client = world.silent();
    client.write_all(b"POST /reload HTTP/1.1\r\nhost: everport\r\n\r\n").unwrap();
    let Request::Reload { mut answer, .. } = world.next() else { panic!("another request") };
    drop(client);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(answer.closed());
    // The server's one thread has let go of the client entirely before it serves this one.
    let client = world.ask(Method::GET, "/status");
    world.answer_status();
    assert_eq!(answered(client).code, StatusCode::OK);
    let client = world.ask(Method::POST, "/reload");
    let Request::Reload { answer, .. } = world.next() else { panic!("another request") };
    answer.send(record()).unwrap();
    assert_eq!(answered(client).code, StatusCode::OK);
}

#[test]
fn an_oversize_head_is_refused() {
    let world = World::new(LIMITS);
    let mut client = world.silent();
    let head = format!("GET /status HTTP/1.1\r\nhost: everport\r\nx: {}\r\n\r\n", "x".repeat(64 * 1024));
    // The server may hang up before it has read all.
    let _ = client.write_all(head.as_bytes());
    let mut answer = [0; 12];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 431");
}

#[test]
fn a_client_without_a_master_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control");
    let error = Connection::open(&path).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("no master at the control socket {path:?}: No such file or directory (os error 2)")
    );
}

#[test]
fn a_client_knows_the_masters_process() {
    let world = World::new(LIMITS);
    let connection = Connection::open(&world.path()).unwrap();
    assert_eq!(connection.master(), Some(rustix::process::getpid()));
}

#[test]
fn something_else_at_the_socket_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control");
    let listener = UnixListener::bind(&path).unwrap();
    let connection = Connection::open(&path).unwrap();
    drop(listener.accept().unwrap());
    let error = connection.ask(Method::GET, "/status", Some(PATIENCE)).unwrap_err();
    assert!(error.to_string().starts_with(&format!("no answer from the control socket {path:?}: ")), "{error}");
}
