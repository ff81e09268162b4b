//! Session tickets: asked for once, then with whatever keys the master said last.

use super::*;
use crate::tickets::tests::{keys, rotate};
use crate::tls;

#[tokio::test]
async fn ticketer_asks_for_keys_and_gives_no_ticket_before_they_come() {
    let (mut master, link) = Master::welcomed().await;
    let ticketer = tls::shared(&link);
    assert_eq!(master.hear().await, ToMaster::WantTickets);
    assert!(ticketer.enabled(), "what comes from others shall be opened");
    assert_eq!((ticketer.encrypt(b"a session"), ticketer.decrypt(&[2; 99]), ticketer.lifetime()), (None, None, 0));

    master.say(&ToWorker::Tickets { keys: keys() }, &[]);
    master.sync().await;
    let ticket = ticketer.encrypt(b"a session").unwrap();
    assert_eq!(ticketer.decrypt(&ticket).unwrap(), b"a session");
    assert_eq!(ticketer.lifetime(), 60);
}

#[tokio::test]
async fn ticketer_follows_the_rotation_and_ticketers_of_one_worker_share_the_keys() {
    let (mut master, link) = Master::welcomed().await;
    let ticketer = tls::shared(&link);
    assert_eq!(master.hear().await, ToMaster::WantTickets);
    let mut keys = keys();
    master.say(&ToWorker::Tickets { keys: keys.clone() }, &[]);
    master.sync().await;
    let ticket = ticketer.encrypt(b"a session").unwrap();
    for (next, opens) in [(4, true), (5, false)] {
        rotate(&mut keys, next);
        master.say(&ToWorker::Tickets { keys: keys.clone() }, &[]);
        master.sync().await;
        assert_eq!(ticketer.decrypt(&ticket).is_some(), opens, "next key {next}");
    }
    let other = tls::shared(&link);
    assert_eq!(master.heard(), None, "the keys are there already");
    assert_eq!(other.decrypt(&ticketer.encrypt(b"a session").unwrap()).unwrap(), b"a session");
}

#[tokio::test]
async fn worker_whose_master_is_lost_keeps_its_keys_to_its_end() {
    let (mut master, link) = Master::welcomed().await;
    let ticketer = tls::shared(&link);
    assert_eq!(master.hear().await, ToMaster::WantTickets);
    master.say(&ToWorker::Tickets { keys: keys() }, &[]);
    master.sync().await;
    drop(master);
    link.state.subscribe().wait_for(|state| state.is_lost()).await.unwrap();
    assert!(ticketer.encrypt(b"a session").is_some());
}

#[test]
fn process_without_a_master_has_keys_of_its_own() {
    let ticketer = tls::ticketer(&Worker { managed: None }).unwrap();
    let ticket = ticketer.encrypt(b"a session").unwrap();
    assert_eq!(ticketer.decrypt(&ticket).unwrap(), b"a session");
}
