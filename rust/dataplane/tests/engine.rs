//! The engine without Python: two of them over loopback, without a TUN.

mod common;
#[path = "common/engine_node.rs"]
mod engine_node;

use common::path;
use engine_node::EngineNode;
use ginnel_dataplane::Counter;

#[test]
fn two_engines_talk_and_end() {
    let (left, mut right) = (EngineNode::start(1), EngineNode::start(2));
    left.add(&right, path(right.address()));
    right.add(&left, path(left.address()));
    let packet = left.send_inner(&right, b"!");
    assert_eq!(right.next_inner(), packet);
    assert!(left.engine.counters().get(Counter::UdpTxPackets) >= 2);
    assert!(!left.engine.has_failed());
    right.engine.close();
    right.engine.close();
}
