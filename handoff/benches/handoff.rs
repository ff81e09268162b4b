//! What a handoff costs beside its system calls: the words of the board, and messages to bytes and back.
//!
//! `cargo bench -p everport-handoff`

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use everport_handoff::board::{MasterBoard, OfferId, WorkerBoard};
use everport_handoff::id::ListenerId;
use everport_handoff::message::{Offer, Parcel, ToWorker};
use everport_handoff::name::SocketName;

/// One connection's way over the board, both sides on this processor.
fn words(criterion: &mut Criterion) {
    let (mut master, fd) = MasterBoard::create().expect("a board");
    let worker = WorkerBoard::adopt(fd).expect("the same board");
    criterion.bench_function("offer, take, settle", |bencher| {
        bencher.iter(|| {
            let id = master.offer().expect("legal words").expect("a free word");
            assert!(worker.take(id));
            black_box(master.read(id));
            master.free(id);
        });
    });
    criterion.bench_function("offer, revoke, release", |bencher| {
        bencher.iter(|| {
            let id = master.offer().expect("legal words").expect("a free word");
            black_box(master.revoke(id));
            worker.release(id);
            master.released(id);
        });
    });
}

/// The message of which there is one for each batch of connections.
fn messages(criterion: &mut Criterion) {
    for count in [1, 16] {
        let peer = SocketName::from(std::net::SocketAddr::from(([127, 0, 0, 1], 50_000)));
        let offer = |index| Offer {
            id: OfferId { index, sequence: 1_000_000 },
            listener: ListenerId(1),
            peer: peer.clone(),
            parcel: Parcel::Nothing,
        };
        let message = ToWorker::Offer { offers: (0..count).map(offer).collect() };
        let bytes = postcard::to_stdvec(&message).expect("a message");
        criterion.bench_function(&format!("encode an offer of {count}"), |bencher| {
            let mut buffer = [0; 4096];
            bencher.iter(|| postcard::to_slice(black_box(&message), &mut buffer).expect("it fits").len());
        });
        criterion.bench_function(&format!("decode an offer of {count}"), |bencher| {
            let decode = |bytes: &[u8]| postcard::from_bytes::<ToWorker>(bytes).expect("a message");
            bencher.iter_batched(|| &bytes[..], |bytes| decode(black_box(bytes)), BatchSize::SmallInput);
        });
    }
}

criterion_group!(benches, words, messages);
criterion_main!(benches);
