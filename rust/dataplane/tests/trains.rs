//! Datagrams that one send carries: their order and limits.
#![allow(clippy::unwrap_used, reason = "tests")]

use ginnel_dataplane::offload::Trains;
use ginnel_dataplane::{Cut, Packet, Path, Transmit};
use proptest::collection::vec;
use proptest::prelude::*;

proptest! {
    #[test]
    fn trains_keep_the_order_to_each_place(datagrams in vec((0u16..4, 0usize..3, 0u8..2), 0..200)) {
        let transmits: Vec<Transmit> = datagrams.iter().map(|(port, size, ecn)| Transmit {
            data: Packet::copy_from(vec![0; [0, 1452, 96][*size]].as_slice()),
            path: Path::plain(([192, 0, 2, 1], 1000 + port).into(), None),
            cut: Cut::AsNeeded,
            ecn: *ecn,
        }).collect();
        let mut trains = Trains::default();
        let planned: Vec<Vec<usize>> = trains.plan(&transmits).map(<[usize]>::to_vec).collect();
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
