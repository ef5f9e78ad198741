//! A discv5 node of the crate `discv5` that obeys commands: one JSON object a line on standard
//! input, one answer a line on standard output. `protocol.md` beside this folder names the commands.

use std::error::Error;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use discv5::{ConfigBuilder, Discv5, Enr, Event, IpMode, ListenConfig, NodeContact, RequestError};
use enr::{CombinedKey, NodeId};
use serde_json::{json, Value};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

type Failure = Box<dyn Error + Send + Sync>;

/// What the command line names.
#[derive(Default)]
struct Options {
    port: u16,
    key: Option<String>,
    bootnodes: Vec<Enr>,
}

impl Options {
    fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, Failure> {
        let mut options = Self::default();
        let mut arguments = arguments.skip(1);
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or("an option without value")?;
            match name.trim_start_matches('-') {
                "port" => options.port = value.parse()?,
                "key" => options.key = Some(value),
                "bootnodes" => {
                    options.bootnodes = parse_all(value.split(',').filter(|s| !s.is_empty()))?
                }
                other => return Err(format!("unknown option {other}").into()),
            }
        }
        Ok(options)
    }
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let options = Options::parse(std::env::args())?;
    let mut node = open(options.port, options.key.as_deref()).await?;
    for record in options.bootnodes {
        node.add_enr(record)?;
    }
    answer_talks(&mut node).await?;
    let node = Arc::new(node);
    if !node.table_entries_id().is_empty() {
        let joining = node.clone();
        tokio::spawn(async move { joining.find_node(NodeId::random()).await });
    }
    let (say, mut said) = mpsc::unbounded_channel::<Value>();
    say.send(json!({"event": "ready", "enr": node.local_enr().to_base64()}))?;
    let printer = tokio::spawn(async move {
        while let Some(line) = said.recv().await {
            println!("{line}");
        }
    });
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let command: Value = serde_json::from_str(&line)?;
        let (node, say) = (node.clone(), say.clone());
        tokio::spawn(async move {
            let mut result = match obey(&node, &command).await {
                Ok(result) => result,
                Err(error) => json!({"error": error.to_string()}),
            };
            result["id"] = command["id"].clone();
            let _ = say.send(result);
        });
    }
    drop(say);
    printer.abort();
    Ok(())
}

async fn open(port: u16, key: Option<&str>) -> Result<Discv5, Failure> {
    let key = match key {
        Some(text) => CombinedKey::secp256k1_from_bytes(&mut hex::decode(text)?)
            .map_err(|error| format!("the key: {error:?}"))?,
        None => CombinedKey::generate_secp256k1(),
    };
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let record = Enr::builder()
        .ip4(Ipv4Addr::LOCALHOST)
        .udp4(socket.local_addr()?.port())
        .build(&key)
        .map_err(|error| format!("the record: {error:?}"))?;
    let listen = ListenConfig::FromSockets {
        ipv4: Some(Arc::new(socket)),
        ipv6: None,
    };
    let config = ConfigBuilder::new(listen).disable_enr_update().build();
    let mut node = Discv5::new(record, key, config)?;
    node.start().await.map_err(|error| format!("{error:?}"))?;
    Ok(node)
}

/// Answers the talk protocol `echo` by the request backwards, others by nothing.
async fn answer_talks(node: &mut Discv5) -> Result<(), Failure> {
    let mut events = node
        .event_stream()
        .await
        .map_err(|error| format!("{error:?}"))?;
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            if let Event::TalkRequest(request) = event {
                let mut answer = Vec::new();
                if request.protocol() == b"echo" {
                    answer.extend(request.body().iter().rev());
                }
                let _ = request.respond(answer);
            }
        }
    });
    Ok(())
}

async fn obey(node: &Arc<Discv5>, command: &Value) -> Result<Value, Failure> {
    match command["op"].as_str().unwrap_or_default() {
        "ping" => {
            let pong = node.send_ping(record_of(command)?).await.map_err(plain)?;
            Ok(
                json!({"seq": pong.enr_seq, "ip": pong.ip.to_string(), "port": u16::from(pong.port)}),
            )
        }
        "findnode" => {
            let distances = numbers(&command["distances"]);
            let found = node
                .find_node_designated_peer(record_of(command)?, distances)
                .await
                .map_err(plain)?;
            Ok(json!({"enrs": texts(&found)}))
        }
        "talk" => {
            let contact = NodeContact::try_from_enr(record_of(command)?, IpMode::Ip4)
                .map_err(|_| "a record without address")?;
            let protocol = command["protocol"].as_str().unwrap_or_default().into();
            let payload = hex::decode(command["payload"].as_str().unwrap_or_default())?;
            let response = node
                .talk_req(contact, protocol, payload)
                .await
                .map_err(plain)?;
            Ok(json!({"payload": hex::encode(response)}))
        }
        "lookup" => {
            let raw = hex::decode(command["target"].as_str().unwrap_or_default())?;
            let target = NodeId::parse(&raw).map_err(|_| "a target of another length")?;
            let found = node
                .find_node(target)
                .await
                .map_err(|error| error.to_string())?;
            Ok(json!({"enrs": texts(&found)}))
        }
        "add" => Ok(json!({"added": node.add_enr(record_of(command)?).is_ok()})),
        "table" => Ok(json!({"enrs": texts(&node.table_entries_enr())})),
        "record" => Ok(json!({"enr": node.local_enr().to_base64()})),
        "load" => load(node, command).await,
        "spawn" => spawn(command["count"].as_u64().unwrap_or_default()).await,
        other => Err(format!("unknown command {other:?}").into()),
    }
}

/// Sends FINDNODEs to all the nodes at once, one after the other to each.
async fn load(node: &Arc<Discv5>, command: &Value) -> Result<Value, Failure> {
    let empty = Vec::new();
    let list = command["enrs"].as_array().unwrap_or(&empty);
    let others = parse_all(list.iter().filter_map(Value::as_str))?;
    let each = command["count"].as_u64().unwrap_or_default() / others.len().max(1) as u64;
    let began = Instant::now();
    let mut tasks = Vec::new();
    for other in others {
        let (node, distances) = (node.clone(), numbers(&command["distances"]));
        tasks.push(tokio::spawn(async move {
            let (mut answered, mut records) = (0, 0);
            for _ in 0..each {
                let request = node.find_node_designated_peer(other.clone(), distances.clone());
                if let Ok(found) = request.await {
                    answered += 1;
                    records += found.len();
                }
            }
            (answered, records)
        }));
    }
    let (mut answered, mut records) = (0, 0);
    for task in tasks {
        let (a, r) = task.await?;
        answered += a;
        records += r;
    }
    let seconds = began.elapsed().as_secs_f64();
    Ok(json!({"seconds": seconds, "answered": answered, "records": records}))
}

/// Opens further nodes that know nobody, to measure what an idle one costs.
async fn spawn(count: u64) -> Result<Value, Failure> {
    for _ in 0..count {
        std::mem::forget(open(0, None).await?);
    }
    Ok(json!({"count": count}))
}

fn plain(error: RequestError) -> String {
    format!("{error:?}")
}

fn record_of(command: &Value) -> Result<Enr, Failure> {
    Ok(command["enr"].as_str().unwrap_or_default().parse::<Enr>()?)
}

fn parse_all<'a>(list: impl Iterator<Item = &'a str>) -> Result<Vec<Enr>, Failure> {
    list.map(|text| text.parse::<Enr>().map_err(Into::into))
        .collect()
}

fn numbers(value: &Value) -> Vec<u64> {
    value
        .as_array()
        .map(|list| list.iter().filter_map(Value::as_u64).collect())
        .unwrap_or_default()
}

fn texts(records: &[Enr]) -> Vec<String> {
    records.iter().map(|record| record.to_base64()).collect()
}
