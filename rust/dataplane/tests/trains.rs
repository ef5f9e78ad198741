//! Datagrams that one send carries: their order and limits.
#![allow(clippy::unwrap_used, reason = "tests")]

use ginnel_dataplane::offload::Trains;
use ginnel_dataplane::{Cut, Packet, Path, Transmit};
use proptest::collection::vec;
use proptest::prelude::*;

proptest! {
    #[test]
    fn trains_keep_the_order_to_each_place(
        datagrams in vec((0u16..4, 0usize..3, 0u8..2), 0..200),
        more in any::<bool>(),
    ) {
        let transmits: Vec<Transmit> = datagrams.iter().map(|(port, size, ecn)| Transmit {
            data: Packet::copy_from(vec![0; [0, 1452, 96][*size]].as_slice()),
            path: Path::plain(([192, 0, 2, 1], 1000 + port).into(), None),
            cut: Cut::AsNeeded,
            ecn: *ecn,
        }).collect();
        let mut trains = Trains::default();
        let mut planned: Vec<Vec<usize>> =
            trains.plan(&transmits, more).map(<[usize]>::to_vec).collect();
        let left = trains.left().to_vec();
        prop_assert!(more || left.is_empty());
        planned.extend(Some(left).filter(|left| !left.is_empty()));
        let mut seen: Vec<Vec<usize>> = vec![Vec::new(); 4];
        for train in &planned {
            let first = &transmits[train[0]];
            prop_assert!(train.len() <= 64);
            for (place, number) in train.iter().enumerate() {
                let transmit = &transmits[*number];
                prop_assert_eq!((transmit.path, transmit.ecn), (first.path, first.ecn));
                let size = transmit.data.len();
                prop_assert!(size == first.data.len() || place + 1 == train.len() && size < first.data.len());
                seen[usize::from(transmit.path.remote.port() - 1000)].push(*number);
            }
        }
        for (port, numbers) in seen.iter().enumerate() {
            let wanted: Vec<usize> = (0..datagrams.len())
                .filter(|number| usize::from(datagrams[*number].0) == port)
                .collect();
            prop_assert_eq!(numbers, &wanted);
        }
    }
}

#[test]
fn a_train_that_has_room_waits_for_more() {
    let datagram = |size: usize| Transmit {
        data: Packet::copy_from(vec![0; size].as_slice()),
        path: Path::plain(([192, 0, 2, 1], 1000).into(), None),
        cut: Cut::AsNeeded,
        ecn: 0,
    };
    let mut trains = Trains::default();
    let mut plan = |sizes: &[usize], more| {
        let all: Vec<Transmit> = sizes.iter().map(|size| datagram(*size)).collect();
        let planned = trains.plan(&all, more).map(<[usize]>::len).collect();
        let left = trains.left().to_vec();
        (planned, left)
    };
    // 45 of 1452 bytes are what one IP packet holds.
    let left: Vec<usize> = (90..100).collect();
    assert_eq!(plan(&[1452; 100], true), (vec![45, 45], left));
    assert_eq!(plan(&[1452; 100], false), (vec![45, 45, 10], vec![]));
    assert_eq!(plan(&[1452; 90], true), (vec![45, 45], vec![]));
    // What is smaller ends a train, also one that has room.
    assert_eq!(plan(&[1452, 1452, 100], true), (vec![3], vec![]));
    assert_eq!(plan(&[], true), (vec![], vec![]));
}
