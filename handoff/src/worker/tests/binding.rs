//! `bind`, its cancellation, and when the worker is ready.

use super::*;

#[tokio::test]
async fn a_cancelled_bind_gives_the_listener_back() {
    let (mut master, link) = Master::welcomed().await;
    let listener = StdListener::bind("127.0.0.1:0").unwrap();
    let local = listener.local_addr().unwrap();
    let address = address("127.0.0.1:0");
    {
        let bind = pin!(TcpListener::bind_by(&link, &address));
        assert!(pends(bind));
    }
    listener.set_nonblocking(true).unwrap();
    assert_eq!(master.answer(1, Some(listener.as_fd())).await.1, 0);
    drop(listener);
    assert_eq!(master.hear().await, ToMaster::CloseListener { listener: ListenerId(1) });
    master.sync().await;
    // No copy is left anywhere, and neither is the index.
    StdStream::connect(local).unwrap_err();
    assert!(pends(TcpListener::bind_by(&link, &address)));
    assert_eq!(master.answer(2, None).await.1, 0);
}

#[tokio::test]
async fn a_bind_cancelled_between_answer_and_poll_gives_the_listener_back() {
    let (mut master, link) = Master::welcomed().await;
    let address = address("127.0.0.1:0");
    {
        let mut bind = Box::pin(TcpListener::bind_by(&link, &address));
        assert!(still_pends(&mut bind));
        master.answer(1, None).await;
        master.sync().await;
    }
    assert_eq!(master.hear().await, ToMaster::CloseListener { listener: ListenerId(1) });
}

#[tokio::test]
async fn a_master_that_does_not_read_makes_bind_fail_at_last() {
    let (_master, link) = Master::new();
    let address = address("127.0.0.1:0");
    let mut asked = Vec::new();
    let error = loop {
        let mut bind = Box::pin(TcpListener::bind_by(&link, &address));
        match bind.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => asked.push(bind),
            Poll::Ready(bound) => break bound.unwrap_err(),
        }
        assert!(asked.len() < 1_000_000, "what waits is bounded");
    };
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    assert!(error.to_string().contains("wait for room"), "{error}");
}

#[tokio::test]
async fn a_bind_right_after_a_cancelled_one_gets_its_answer() {
    let (mut master, link) = Master::welcomed().await;
    let address = address("127.0.0.1:80");
    assert!(pends(TcpListener::bind_by(&link, &address)));
    let mut again = Box::pin(TcpListener::bind_by(&link, &address));
    assert!(still_pends(&mut again));
    assert_eq!(master.answer(1, None).await, ("127.0.0.1:80".to_owned(), 0));
    let listener = again.await.unwrap();
    master.sync().await;
    assert_eq!(master.heard(), None, "one question, and the listener is in use");
    // It is whole: offers come in, and another `bind` is another question.
    master.say(&ToWorker::Activate, &[]);
    master.offer(1, &Connection::new());
    listener.accept().await.unwrap();
    assert_eq!(master.hear().await, ToMaster::Ready);
    assert!(pends(TcpListener::bind_by(&link, &address)));
    assert_eq!(master.answer(2, None).await.1, 1);
}

#[tokio::test]
async fn the_lowest_free_index_of_port_zero_is_asked_for() {
    let (master, link) = Master::welcomed().await;
    let ask = async |listener| {
        // Options do not tell listeners apart.
        let address = if listener == 2 { "127.0.0.1:0?backlog=7" } else { "127.0.0.1:0" };
        let (bound, (_, index)) = tokio::join!(bind(&link, address), master.answer(listener, None));
        (bound, index)
    };
    let (first, index) = ask(1).await;
    assert_eq!(index, 0);
    let (_second, index) = ask(2).await;
    assert_eq!(index, 1);
    drop(first);
    assert_eq!(master.hear().await, ToMaster::CloseListener { listener: ListenerId(1) });
    assert_eq!(ask(3).await.1, 0);
}

#[tokio::test]
async fn a_refused_bind_is_the_error_of_a_plain_one_and_is_not_remembered() {
    let (master, link) = Master::welcomed().await;
    let address = address("127.0.0.1:80");
    let refused = async |errno| {
        let (bound, ()) = tokio::join!(TcpListener::bind_by(&link, &address), master.refuse(errno));
        bound.unwrap_err()
    };
    let error = refused(Some(rustix::io::Errno::ACCESS.raw_os_error())).await;
    assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::ACCESS.raw_os_error()));
    let error = refused(None).await;
    assert_eq!((error.kind(), error.to_string()), (std::io::ErrorKind::InvalidInput, "bind it: no".to_owned()));
    let (bound, (asked, index)) = tokio::join!(TcpListener::bind_by(&link, &address), master.answer(1, None));
    assert_eq!((asked.as_str(), index), ("127.0.0.1:80", 0));
    assert_eq!(bound.unwrap().local_addr().unwrap().port(), 8000);
}

#[tokio::test]
async fn a_shared_listener_whose_descriptor_did_not_arrive_is_an_error_and_given_back() {
    let (master, link) = Master::welcomed().await;
    let address = address("127.0.0.1:80");
    let answer = async {
        let ToMaster::Listen { request, .. } = master.hear().await else { panic!("not a Listen") };
        let local = SocketName::Inet(([127, 0, 0, 1], 80).into());
        let answer = Ok(Listening { listener: ListenerId(1), local, shared: Some(Sharing::Together) });
        master.say(&ToWorker::Listening { request, answer }, &[]);
    };
    let (bound, ()) = tokio::join!(TcpListener::bind_by(&link, &address), answer);
    assert_eq!(bound.unwrap_err().raw_os_error(), Some(rustix::io::Errno::MFILE.raw_os_error()));
    assert_eq!(master.hear().await, ToMaster::CloseListener { listener: ListenerId(1) });
}

#[tokio::test]
async fn ready_is_said_once_when_accept_is_polled_and_every_bind_is_answered() {
    let (mut master, link) = Master::welcomed().await;
    let first = master.listen(&link, 1, None).await;
    let address = address("127.0.0.1:9");
    let mut second = Box::pin(TcpListener::bind_by(&link, &address));
    assert!(still_pends(&mut second));
    assert!(pends(first.accept()));
    master.sync().await;
    let Some(ToMaster::Listen { request, .. }) = master.heard() else { panic!("not a Listen") };
    assert_eq!(master.heard(), None, "a bind is not answered yet");
    let answer = Err(ListenFailure { errno: Some(1), reason: String::new() });
    master.say(&ToWorker::Listening { request, answer }, &[]);
    second.await.unwrap_err();
    assert_eq!(master.heard(), None, "accept was not polled since");
    assert!(pends(first.accept()));
    assert_eq!(master.heard(), Some(ToMaster::Ready));
    worker(&link).ready();
    master.sync().await;
    assert_eq!(master.heard(), None);
}

#[tokio::test]
async fn a_worker_that_accepts_at_one_listener_is_not_ready_between_two_further_binds() {
    let (mut master, link) = Master::welcomed().await;
    let first = Arc::new(master.listen(&link, 1, None).await);
    let (second, third) = (address("127.0.0.1:2"), address("127.0.0.1:3"));
    let mut binding = Box::pin(TcpListener::bind_by(&link, &second));
    assert!(still_pends(&mut binding));
    let accepting = tokio::spawn({
        let first = Arc::clone(&first);
        async move { drop(first.accept().await) }
    });
    let (_second, third) = tokio::join!(
        async {
            let second = binding.await.unwrap();
            (second, TcpListener::bind_by(&link, &third).await.unwrap_err())
        },
        async {
            master.answer(2, None).await;
            // The next message is no `Ready`. The `accept` that waits says it once this bind is refused.
            master.refuse(None).await;
        }
    );
    let () = third;
    assert_eq!(master.hear().await, ToMaster::Ready);
    master.sync().await;
    assert!(!accepting.is_finished());
    accepting.abort();
}

#[tokio::test]
async fn ready_waits_for_the_terms_and_for_the_application_where_it_is_manual() {
    let (mut master, link) = Master::new();
    assert!(matches!(master.hear().await, ToMaster::Hello { .. }));
    let listener = master.listen(&link, 1, None).await;
    assert!(pends(listener.accept()));
    assert_eq!(master.heard(), None, "the terms are not known yet");
    master.welcome(true);
    master.sync().await;
    assert!(pends(listener.accept()));
    assert_eq!(master.heard(), None, "the application has not said so");
    worker(&link).ready();
    assert_eq!(master.hear().await, ToMaster::Ready);
}

#[tokio::test]
async fn a_worker_leaves_once() {
    let (mut master, link, _listener) = Master::active().await;
    worker(&link).leave();
    worker(&link).leave();
    assert_eq!(master.hear().await, ToMaster::Leave);
    master.drain().await;
    worker(&link).leave();
    assert_eq!(master.hear().await, ToMaster::Drained);
    assert_eq!(master.heard(), None);
}

#[test]
fn the_driver_moves_to_the_next_runtime() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (mut kept, link) = runtime().block_on(async {
        let (master, link) = Master::welcomed().await;
        let _listener = master.listen(&link, 1, None).await;
        let Master { channel, board, .. } = master;
        ((channel, board), link)
    });
    // That runtime is gone, and its driver with it.
    runtime().block_on(async {
        let (channel, board) = (&kept.0, &mut kept.1);
        assert_eq!(channel.receive::<ToMaster>().unwrap().message, ToMaster::CloseListener { listener: ListenerId(1) });
        let bind = async {
            loop {
                match channel.receive() {
                    Ok(received) => {
                        let ToMaster::Listen { request, .. } = received.message else { panic!("not a Listen") };
                        let local = SocketName::Inet(([127, 0, 0, 1], 1).into());
                        let answer = Ok(Listening { listener: ListenerId(2), local, shared: None });
                        return channel.send(&ToWorker::Listening { request, answer }, &[]).unwrap();
                    }
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        };
        let (listener, ()) = tokio::join!(super::bind(&link, "127.0.0.1:1"), bind);
        assert_eq!(listener.local_addr().unwrap().port(), 1);
        assert_eq!(board.figures().active, 0);
    });
}

#[test]
fn without_a_runtime_a_listener_is_a_clear_error() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (_master, link) = runtime.block_on(async { Master::welcomed().await });
    let address = address("127.0.0.1:1");
    let bind = pin!(TcpListener::bind_by(&link, &address));
    let Poll::Ready(Err(error)) = bind.poll(&mut Context::from_waker(Waker::noop())) else { panic!("no error") };
    assert!(error.to_string().contains("need a tokio runtime"), "{error}");
}
