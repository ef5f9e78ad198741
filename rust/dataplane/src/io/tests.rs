//! A thread that panics: nothing hangs, and whoever waits for the engine learns of it.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "../../tests/common/mod.rs"]
mod common;
#[path = "../../tests/common/engine_node.rs"]
mod engine_node;

use engine_node::EngineNode;

use super::{Shared, lock};

fn panics(_: &Shared) {
    panic!("injected by a test");
}

fn panics_with_everything_held(shared: &Shared) {
    let _held = (
        lock(&shared.machine),
        lock(&shared.inbox),
        lock(&shared.channels),
    );
    panic!("injected by a test");
}

#[test]
fn a_panic_is_told_by_the_descriptor_for_good_and_the_end_does_not_hang() {
    for work in [panics as fn(&Shared), panics_with_everything_held] {
        let mut node = EngineNode::start(1);
        assert!(!node.engine.has_failed());
        assert!(!node.waits(0));
        node.engine.spawn("wg-broken", work).unwrap();
        node.wait();
        assert!(node.engine.has_failed());
        // Taking what there is does not end the report.
        assert!(node.engine.receive(64).is_empty());
        assert_eq!(node.engine.poll_event(), None);
        assert!(node.waits(0));
        assert_eq!(node.engine.peer_count(), 0);
        node.engine.close();
        assert!(node.engine.has_failed());
    }
}

#[test]
fn a_thread_that_ends_by_itself_is_no_failure() {
    let mut engine = EngineNode::start(1).engine;
    engine.spawn("wg-done", |_| {}).unwrap();
    engine.close();
    assert!(!engine.has_failed());
}
