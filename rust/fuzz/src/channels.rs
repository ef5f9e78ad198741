//! ChannelData: what is read, and where it goes, against a model of the table.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ginnel_dataplane::Path;
use ginnel_dataplane::channels::{
    CLOSED_LIFE, Channels, Forward, HEADER_SIZE, Quota, Route, header, parse,
};
use ginnel_dataplane::demux::{Kind, classify};

use crate::common::start_of_time;
use crate::input::{Input, block};

const MAX_STEPS: usize = 200; // of one input
const MAX_LIFE: Duration = Duration::from_secs(600); // RFC 8656 12
const ALIGNMENT: usize = 4; // bytes; RFC 8656 12.5

type Key = (SocketAddr, u16);

/// What was decided, and what passed.
struct Model {
    channels: Channels,
    own: HashMap<Key, Option<Instant>>,
    forwards: HashMap<Key, (Path, Instant)>,
    /// Of each client: since when, the most that may have passed by rate and burst, what did.
    passed: HashMap<SocketAddr, (Instant, Quota, u64)>,
    now: Instant,
}

/// One of a few, so that inputs meet again what they have opened.
fn key(input: &mut Input<'_>) -> Key {
    let byte = input.byte();
    let remote = SocketAddr::from(([192, 0, 2, byte >> 4], 3478));
    (remote, 0x4000 + u16::from(byte & 3))
}

impl Model {
    fn new() -> Self {
        Self {
            channels: Channels::default(),
            own: HashMap::new(),
            forwards: HashMap::new(),
            passed: HashMap::new(),
            now: start_of_time(),
        }
    }

    fn open(&mut self, (server, number): Key) {
        let opened = self.channels.open(server, number, self.now);
        assert!(opened.is_ok());
        self.own.insert((server, number), None);
    }

    fn close(&mut self, (server, number): Key) {
        self.channels.close(server, number, self.now);
        if let Some(until) = self.own.get_mut(&(server, number)) {
            until.get_or_insert(self.now + CLOSED_LIFE);
        }
    }

    fn forward(&mut self, from: Key, to: Key, input: &mut Input<'_>) {
        let target = Path {
            channel: Some(to.1),
            ..Path::plain(to.0, None)
        };
        let quota = Quota {
            rate: input.short().into(),
            burst: input.short().into(),
        };
        let life = Duration::from_secs(input.short().into());
        let (client, number) = from;
        let forward = Forward {
            client,
            number,
            target,
            life,
            quota,
        };
        assert!(self.channels.forward(forward, self.now).is_ok());
        let until = self.now + life.min(MAX_LIFE);
        self.forwards.insert(from, (target, until));
        let (_, largest, _) = self.passed.entry(client).or_insert((self.now, quota, 0));
        largest.rate = largest.rate.max(quota.rate);
        largest.burst = largest.burst.max(quota.burst);
    }

    fn end_forwards(&mut self, client: SocketAddr) {
        self.channels.end_forwards(client);
        self.forwards
            .retain(|(from, _), (to, _)| *from != client && to.remote != client);
        self.passed.remove(&client);
    }

    fn receive(&mut self, from: SocketAddr, data: &[u8]) {
        let read = parse(data);
        if classify(data, |_| true) != Kind::ChannelData {
            return;
        }
        let Some((number, end)) = read else {
            panic!("ChannelData, but not read as such");
        };
        assert!((HEADER_SIZE..=data.len()).contains(&end) && data.len() < end + ALIGNMENT);
        let inside = &data[HEADER_SIZE..end];
        assert_eq!(header(number, inside.len()), data[..HEADER_SIZE]);
        let from = (from, number);
        let route = self.channels.route(from.0, number, inside.len(), self.now);
        let is_own = self
            .own
            .get(&from)
            .is_some_and(|until| until.is_none_or(|until| self.now < until));
        let forward = self.forwards.get(&from);
        match forward.filter(|(_, until)| self.now < *until && !is_own) {
            None => assert_eq!(route, if is_own { Route::Peer } else { Route::Unknown }),
            Some((target, _)) => {
                assert!(route == Route::Forward(*target) || route == Route::Quota);
                if route != Route::Quota {
                    self.spend(from.0, inside.len() as u64);
                }
            }
        }
    }

    /// No client has ever more passed on than burst and rate allow.
    fn spend(&mut self, client: SocketAddr, size: u64) {
        let Some((since, quota, passed)) = self.passed.get_mut(&client) else {
            panic!("passed on for a client without a quota");
        };
        *passed += size;
        let elapsed = self.now.saturating_duration_since(*since).as_millis();
        let earned = elapsed * u128::from(quota.rate) / 1000;
        assert!(u128::from(*passed) <= u128::from(quota.burst) + earned + 1);
    }
}

/// Opens, closes and passes on channels, and receives what it is given in them.
pub fn channels(data: &[u8]) {
    let mut input = Input(data);
    let mut model = Model::new();
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            break;
        }
        match input.byte() & 7 {
            0 => model.open(key(&mut input)),
            1 => model.close(key(&mut input)),
            2 => {
                let (from, to) = (key(&mut input), key(&mut input));
                model.forward(from, to, &mut input);
            }
            3 => model.end_forwards(key(&mut input).0),
            4 => model.now += Duration::from_millis(input.short().into()),
            5 => model.receive(key(&mut input).0, input.block()),
            _ => {
                // In a right header, with the padding that some senders add.
                let (from, number) = key(&mut input);
                let inside = input.block();
                let mut data = header(number, inside.len()).to_vec();
                data.extend_from_slice(inside);
                data.resize(data.len() + usize::from(input.byte() & 3), 0);
                model.receive(from, &data);
            }
        }
    }
}

/// Own channels, those passed on, both closed again, and headers that lie.
pub fn channels_seeds() -> Vec<Vec<u8>> {
    let (own, client, other) = (0x10, 0x21, 0x32);
    let inside = block(&[4; 48]);
    let wrapped = |key: u8, padding: u8| [&[6, key], inside.as_slice(), &[padding]].concat();
    let forward = |quota: u8| vec![2, client, other, quota, 0, quota, 0, 0, 60];
    let raw = |bytes: &[u8]| [vec![5, own], block(bytes)].concat();
    vec![
        [vec![0, own], wrapped(own, 0), vec![1, own], wrapped(own, 3)].concat(),
        [vec![0, own, 1, own, 4, 0x13, 0x88], wrapped(own, 0)].concat(),
        [forward(1), wrapped(client, 0), wrapped(client, 1)].concat(),
        [forward(0), wrapped(client, 0), vec![4, 0xFF, 0xFF]].concat(),
        [forward(9), vec![3, other], wrapped(client, 0)].concat(),
        [forward(9), vec![0, client], wrapped(client, 2)].concat(),
        [raw(&[0x40, 0, 0, 5, 1]), raw(&[0x40, 0, 0, 1, 7, 0, 0, 0])].concat(),
        [
            raw(&[0x40, 0, 0xFF, 0xFF]),
            raw(&[0x4F, 0xFF, 0, 0]),
            raw(&[0x50]),
        ]
        .concat(),
    ]
}
