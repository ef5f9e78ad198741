//! Packets of one flow that follow each other become one large packet for the TUN.

use std::io::IoSlice;
use std::net::Ipv4Addr;

use gotatun::packet::Packet;

use super::transport::{
    FLAG_ACK, FLAG_PSH, Layout, TCP, TCP_FLAGS, UDP, UDP_CHECKSUM, hidden_flow, long, put, short,
};
use super::{GSO_TCP4, GSO_TCP6, GSO_UDP, HEADER_SIZE, NEEDS_CHECKSUM, VirtioHeader};

/// Packets in one large one; Linux splits no UDP train of more.
const MAX_MEMBERS: usize = 64;
/// Bytes of a large packet: what the length field of its IP header can say.
const MAX_BYTES: usize = u16::MAX as usize;
/// Bytes where it need not say that: a batch, within what Linux takes (`GRO_MAX_SIZE`, 512 KiB).
const MAX_BIG_BYTES: usize = 4 * MAX_BYTES;
/// Packets in one of those: with the virtio header, what one `writev` takes (`UIO_MAXIOV`).
const MAX_BIG_MEMBERS: usize = 1023;
/// Groups that are looked at for a packet's flow, latest first: more flows merge less.
const MAX_LOOK_BACK: usize = 32;
/// Don't fragment (RFC 791 3.1), the only fragment bit of a packet that is merged: its
/// identification has no meaning then (RFC 6864 4.1).
const DONT_FRAGMENT: u16 = 0x4000;

/// What became of one result of a merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It was written, or is lost.
    Done,
    /// It is larger than 64 KiB, and was refused for that.
    TooBig,
}

/// Merges batches; keeps its memory between them.
pub struct Merger {
    merges_udp: bool,
    big_for: Vec<Ipv4Addr>,
    groups: Vec<Group>,
    used: usize,
}

/// Packets that go to the TUN together, by their places in the batch.
#[derive(Default)]
struct Group {
    members: Vec<usize>,
    /// Headers of the first, if its kind can be merged at all.
    layout: Option<Layout>,
    /// Payload bytes of each but the last.
    size: usize,
    /// Bytes of the whole packet.
    total: usize,
    /// Whether it may be larger than [`MAX_BYTES`].
    is_big: bool,
    is_open: bool,
    /// Whether the first's checksums are known to be right.
    is_verified: bool,
}

impl Merger {
    /// Makes a merger; UDP is merged only where the kernel can split it.
    ///
    /// TCP to an address in `big_for` becomes packets of more than 64 KiB, whose length field says zero
    /// (BIG TCP; Linux takes them from 6.3 on). The addresses should be this host's own: where a packet
    /// goes on to elsewhere all the same, the kernel splits it without a device's help.
    pub fn new(merges_udp: bool, big_for: Vec<Ipv4Addr>) -> Self {
        Self {
            merges_udp,
            big_for,
            groups: Vec::new(),
            used: 0,
        }
    }

    /// Merges to 64 KiB at most from now on, wherever it goes.
    pub fn make_none_big(&mut self) {
        self.big_for.clear();
    }

    /// Merges packets without padding and hands each result on as `(header and parts, packets)`.
    ///
    /// `packets` is changed: the first of each group gets the headers of the whole.
    pub fn merge(
        &mut self,
        packets: &mut [Packet],
        mut emit: impl FnMut(&[IoSlice<'_>], usize) -> Written,
    ) {
        self.used = 0;
        for number in 0..packets.len() {
            self.place(packets, number);
        }
        for group in &self.groups[..self.used] {
            if !group.is_big {
                group.hand_on(packets, &mut emit);
                continue;
            }
            let skip = group.layout.map_or(0, |layout| layout.headers);
            let before = packets[group.members[0]][..skip].to_vec();
            if let Written::TooBig = group.hand_on(packets, &mut emit) {
                packets[group.members[0]].buf_mut()[..skip].copy_from_slice(&before);
                Self::merge_small(packets, &group.members, &mut emit);
            }
        }
    }

    /// Merges some of the packets, and none to more than 64 KiB.
    fn merge_small(
        packets: &mut [Packet],
        members: &[usize],
        emit: &mut impl FnMut(&[IoSlice<'_>], usize) -> Written,
    ) {
        let mut small = Self::new(false, Vec::new());
        for number in members {
            small.place(packets, *number);
        }
        for group in &small.groups[..small.used] {
            group.hand_on(packets, emit);
        }
    }

    fn place(&mut self, packets: &[Packet], number: usize) {
        let packet = &packets[number];
        let found = Layout::of(packet);
        let layout = found.filter(|layout| self.is_candidate(layout, packet));
        let start = self.used.saturating_sub(MAX_LOOK_BACK);
        let groups = &mut self.groups[start..self.used];
        if let Some(found) = found {
            let flow = groups
                .iter_mut()
                .rev()
                .find(|group| group.has_flow(packets, &found, packet));
            if let Some(group) = flow {
                match layout {
                    Some(layout) if group.append(packets, &layout, number) => return,
                    // It stays alone, and what comes behind it must not overtake it.
                    _ => group.is_open = false,
                }
            }
        } else if let Some(addresses) = hidden_flow(packet) {
            // It may be of any flow between the two hosts.
            for group in groups {
                group.is_open = group.is_open && !group.has_addresses(packets, addresses);
            }
        }
        if self.used == self.groups.len() {
            self.groups.push(Group::default());
        }
        let is_big = layout.is_some_and(|layout| self.may_be_big(&layout, packet));
        self.groups[self.used].start(layout, number, packet, is_big);
        self.used += 1;
    }

    /// Says whether what a packet's flow becomes may be larger than its length field can say.
    fn may_be_big(&self, layout: &Layout, packet: &[u8]) -> bool {
        let (_, destination) = layout.addresses(packet).split_at(4);
        layout.protocol == TCP
            && !layout.is_ipv6
            && self.big_for.iter().any(|ip| ip.octets() == destination)
    }

    /// Says whether a packet's headers allow to merge it, whatever its flow.
    fn is_candidate(&self, layout: &Layout, packet: &[u8]) -> bool {
        let length_fits = if layout.is_ipv6 {
            usize::from(short(packet, 4)) + 40 == packet.len()
        } else {
            packet[0] == 0x45
                && usize::from(short(packet, 2)) == packet.len()
                && short(packet, 6) == DONT_FRAGMENT
        };
        let transport = &packet[layout.transport..];
        length_fits
            && (layout.protocol == TCP
                || self.merges_udp
                    && usize::from(short(transport, 4)) == transport.len()
                    && short(transport, UDP_CHECKSUM) != 0)
    }
}

impl Group {
    fn start(&mut self, layout: Option<Layout>, number: usize, packet: &[u8], is_big: bool) {
        self.members.clear();
        self.members.push(number);
        self.layout = layout;
        self.total = packet.len();
        self.size = layout.map_or(0, |layout| packet.len() - layout.headers);
        self.is_verified = false;
        self.is_big = is_big;
        self.is_open = self.size > 0
            && layout.is_some_and(|layout| {
                let flags = || packet[layout.transport + TCP_FLAGS];
                layout.protocol == UDP || flags() & !FLAG_PSH == FLAG_ACK && !self.ends_at(flags())
            });
    }

    /// Says whether a segment with these flags is the last of a group. That one's push goes with the
    /// whole; only a big one, for this host itself, goes on behind it.
    fn ends_at(&self, flags: u8) -> bool {
        flags & FLAG_PSH != 0 && !self.is_big
    }

    fn has_flow(&self, packets: &[Packet], layout: &Layout, packet: &[u8]) -> bool {
        let first = &packets[self.members[0]];
        self.layout.is_some_and(|own| {
            own.protocol == layout.protocol
                && own.is_ipv6 == layout.is_ipv6
                && own.addresses(first) == layout.addresses(packet)
                && own.ports(first) == layout.ports(packet)
        })
    }

    fn has_addresses(&self, packets: &[Packet], addresses: &[u8]) -> bool {
        let first = &packets[self.members[0]];
        self.layout
            .is_some_and(|own| own.addresses(first) == addresses)
    }

    /// Takes the next packet of the flow if it continues this group; if not, nothing else will.
    fn append(&mut self, packets: &[Packet], layout: &Layout, number: usize) -> bool {
        let taken = self.is_open && self.continues(packets, layout, &packets[number]);
        if !taken {
            self.is_open = false;
            return false;
        }
        let packet = &packets[number];
        let length = packet.len() - layout.headers;
        let is_last = layout.protocol == TCP && self.ends_at(packet[layout.transport + TCP_FLAGS]);
        let (_, most) = self.limits();
        self.members.push(number);
        self.total += length;
        self.is_open = length == self.size && !is_last && self.members.len() < most;
        true
    }

    fn continues(&mut self, packets: &[Packet], layout: &Layout, packet: &[u8]) -> bool {
        let first: &[u8] = &packets[self.members[0]];
        let length = packet.len() - layout.headers;
        let fits = self.layout == Some(*layout)
            && (1..=self.size).contains(&length)
            && self.total + length <= self.limits().0
            && has_same_ip(layout, first, packet)
            && (layout.protocol == UDP
                || continues_tcp(layout, first, packet, self.total - layout.headers));
        if !fits || !layout.verify(packet) {
            return false;
        }
        self.is_verified = self.is_verified || layout.verify(first);
        self.is_verified
    }

    /// Most bytes, and most packets.
    fn limits(&self) -> (usize, usize) {
        if self.is_big {
            (MAX_BIG_BYTES, MAX_BIG_MEMBERS)
        } else {
            (MAX_BYTES, MAX_MEMBERS)
        }
    }

    /// Hands on what the group is merged to.
    fn hand_on(
        &self,
        packets: &mut [Packet],
        emit: &mut impl FnMut(&[IoSlice<'_>], usize) -> Written,
    ) -> Written {
        let header = self.finish(packets).encode();
        debug_assert_eq!(header.len(), HEADER_SIZE);
        let mut parts = Vec::with_capacity(self.members.len() + 1);
        parts.push(IoSlice::new(&header));
        let skip = self.layout.map_or(0, |layout| layout.headers);
        for (place, number) in self.members.iter().enumerate() {
            let packet = &packets[*number];
            parts.push(IoSlice::new(if place == 0 {
                packet
            } else {
                &packet[skip..]
            }));
        }
        emit(&parts, self.members.len())
    }

    /// Gives the first packet the headers of the whole, and says how to split it again.
    fn finish(&self, packets: &mut [Packet]) -> VirtioHeader {
        let (Some(layout), [first, .., last]) = (self.layout, self.members.as_slice()) else {
            return VirtioHeader::default();
        };
        let is_tcp = layout.protocol == TCP;
        let flags_at = layout.transport + TCP_FLAGS;
        let pushed = is_tcp && packets[*last][flags_at] & FLAG_PSH != 0;
        let bytes: &mut [u8] = packets[*first].buf_mut();
        // What is too large for the field says zero, and is as long as the whole.
        layout.set_lengths(bytes, u16::try_from(self.total).unwrap_or(0));
        if pushed {
            bytes[flags_at] |= FLAG_PSH;
        }
        let pseudo = layout.pseudo_sum(bytes, folded(self.total - layout.transport));
        put(bytes, layout.transport + layout.checksum_offset(), pseudo);
        VirtioHeader {
            flags: NEEDS_CHECKSUM,
            gso_type: match (is_tcp, layout.is_ipv6) {
                (true, false) => GSO_TCP4,
                (true, true) => GSO_TCP6,
                (false, _) => GSO_UDP,
            },
            header_length: layout.headers as u16,
            gso_size: self.size as u16,
            checksum_start: layout.transport as u16,
            checksum_offset: layout.checksum_offset() as u16,
        }
    }
}

/// Returns a length as the pseudo header's sum counts it, which knows 32 bits (RFC 8200 8.1).
fn folded(length: usize) -> u16 {
    let sum = (length & 0xFFFF) + (length >> 16);
    ((sum & 0xFFFF) + (sum >> 16)) as u16
}

/// Compares what both IP headers must share: ECN, DSCP, flow label, hop limit.
fn has_same_ip(layout: &Layout, first: &[u8], packet: &[u8]) -> bool {
    if layout.is_ipv6 {
        first[..4] == packet[..4] && first[6..8] == packet[6..8]
    } else {
        first[1] == packet[1] && first[8] == packet[8]
    }
}

/// Says whether a segment comes right behind `received` payload bytes, with equal fields else.
fn continues_tcp(layout: &Layout, first: &[u8], packet: &[u8], received: usize) -> bool {
    let (first, packet) = (
        &first[layout.transport..layout.headers],
        &packet[layout.transport..layout.headers],
    );
    long(first, 4).wrapping_add(received as u32) == long(packet, 4)
        && first[8..13] == packet[8..13] // acknowledgment, data offset
        && packet[TCP_FLAGS] & !FLAG_PSH == FLAG_ACK
        && first[14..16] == packet[14..16] // window
        && first[18..] == packet[18..] // urgent pointer, options
}
