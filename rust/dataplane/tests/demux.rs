//! The vectors that the Python demultiplexer shares.

use ginnel_dataplane::demux::{Kind, classify};

#[test]
fn shared_vectors() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/vectors/demux.json"
    );
    let text = std::fs::read_to_string(path).unwrap();
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    let vectors = document["vectors"].as_array().unwrap();
    assert!(vectors.len() > 30);
    for vector in vectors {
        let hex = vector["data"].as_str().unwrap();
        let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        let data: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
        let channels = vector["channels"].as_array().unwrap();
        let known = |number: u16| channels.iter().any(|known| known == number);
        let kind = match classify(&data, known) {
            Kind::WireGuard => "wireguard",
            Kind::Stun => "stun",
            Kind::ChannelData => "channel_data",
            Kind::Discv5 => "discv5",
        };
        assert_eq!(kind, vector["kind"], "{}", vector["name"]);
    }
}
