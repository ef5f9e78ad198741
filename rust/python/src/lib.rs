//! `ginnel._native`: converts between Python and the Rust crates, releases the GIL where a call may
//! wait, decides nothing. `engine/embedded.py` turns its tuples into the values of
//! `base/dataplane.py`.

mod allocator;
mod datagrams;
mod discovery;

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use ginnel_dataplane::channels::{Forward, Quota};
use ginnel_dataplane::consent::ConsentConfig;
use ginnel_dataplane::io::{Descriptors, Engine};
use ginnel_dataplane::machine::CommandError;
use ginnel_dataplane::{Config, Counter, Event, Path, PeerConfig};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

type Key = [u8; 32];
/// Data, remote IP and port, local IP.
type PyDatagram<'py> = (Bound<'py, PyBytes>, String, u16, Option<String>);
/// IP and port, and the TURN channel there (0: none).
type PyPlace = (String, u16, u16);
/// Kind, public key, place, packet.
type PyEvent<'py> = (
    &'static str,
    Bound<'py, PyBytes>,
    Option<PyPlace>,
    Option<Bound<'py, PyBytes>>,
);
/// Public key, place, bytes received, bytes sent, seconds since the last handshake.
type PyPeer<'py> = (Bound<'py, PyBytes>, Option<PyPlace>, u64, u64, Option<f64>);

/// A running data plane.
#[pyclass(frozen, module = "ginnel._native")]
struct DataPlane {
    engine: std::sync::RwLock<Option<Engine>>,
}

impl DataPlane {
    fn with<T>(&self, run: impl FnOnce(&Engine) -> PyResult<T>) -> PyResult<T> {
        let guard = self
            .engine
            .read()
            .map_err(|_| PyRuntimeError::new_err("the data plane has failed"))?;
        let engine = guard
            .as_ref()
            .ok_or_else(|| PyValueError::new_err("the data plane is closed"))?;
        if engine.has_failed() {
            return Err(PyRuntimeError::new_err(
                "a thread of the data plane panicked",
            ));
        }
        run(engine)
    }

    fn command(
        &self,
        py: Python<'_>,
        run: impl FnOnce(&Engine) -> Result<(), CommandError> + Send,
    ) -> PyResult<()> {
        py.detach(|| {
            self.with(|engine| {
                run(engine).map_err(|error| PyValueError::new_err(error.to_string()))
            })
        })
    }
}

#[pymethods]
impl DataPlane {
    #[new]
    #[pyo3(signature = (*, udp4_fd, udp6_fd, tun_fd, private_key, control_ips, mtu, big_for))]
    fn new(
        udp4_fd: Option<RawFd>,
        udp6_fd: Option<RawFd>,
        tun_fd: Option<RawFd>,
        private_key: Key,
        control_ips: Vec<String>,
        mtu: u16,
        big_for: Vec<String>,
    ) -> PyResult<Self> {
        let parse_all =
            |ips: Vec<String>| ips.iter().map(|ip| parse_ip(ip)).collect::<PyResult<_>>();
        let control_ips = parse_all(control_ips)?;
        let own: Vec<IpAddr> = parse_all(big_for)?;
        let big_for = own.into_iter().filter_map(|ip| match ip {
            IpAddr::V4(ip) => Some(ip),
            IpAddr::V6(_) => None,
        });
        let config = Config {
            private_key,
            control_ips,
            mtu,
        };
        let descriptors = Descriptors {
            udp4: udp4_fd.map(borrow).transpose()?,
            udp6: udp6_fd.map(borrow).transpose()?,
            tun: tun_fd.map(borrow).transpose()?,
            big_for: big_for.collect(),
        };
        Ok(Self {
            engine: Some(Engine::start(config, &descriptors)?).into(),
        })
    }

    fn fileno(&self) -> PyResult<RawFd> {
        self.with(|engine| Ok(engine.waiting_fd().as_raw_fd()))
    }

    fn receive<'py>(&self, py: Python<'py>, limit: usize) -> PyResult<Vec<PyDatagram<'py>>> {
        let passed = py.detach(|| self.with(|engine| Ok(engine.receive(limit))))?;
        Ok(passed
            .into_iter()
            .map(|passed| {
                let Path { remote, local, .. } = passed.path;
                let (ip, port) = show(remote);
                let local = local.map(|ip| ip.to_string());
                (PyBytes::new(py, &passed.data), ip, port, local)
            })
            .collect())
    }

    fn send(
        &self,
        py: Python<'_>,
        datagrams: Vec<(Vec<u8>, String, u16, Option<String>)>,
    ) -> PyResult<usize> {
        py.detach(|| {
            self.with(|engine| {
                for (sent, (data, ip, port, local)) in datagrams.iter().enumerate() {
                    let remote = SocketAddr::new(parse_ip(ip)?, *port);
                    let local = local.as_deref().map(parse_ip).transpose()?;
                    if !engine.send(data, remote, local) {
                        return Ok(sent);
                    }
                }
                Ok(datagrams.len())
            })
        })
    }

    #[pyo3(signature = (public_key, allowed_ips, endpoint, keepalive, preshared_key))]
    fn set_peer(
        &self,
        py: Python<'_>,
        public_key: Key,
        allowed_ips: Vec<String>,
        endpoint: Option<(String, u16, Option<String>, u16)>,
        keepalive: Option<u16>,
        preshared_key: Option<Key>,
    ) -> PyResult<()> {
        let prefixes = allowed_ips
            .iter()
            .map(|text| text.parse().map_err(PyValueError::new_err))
            .collect::<PyResult<_>>()?;
        let endpoint = endpoint
            .map(|(ip, port, local, channel)| parse_path(&ip, port, local.as_deref(), channel))
            .transpose()?;
        let config = PeerConfig {
            public_key,
            prefixes,
            endpoint,
            keepalive,
            preshared_key,
        };
        self.command(py, |engine| engine.set_peer(config))
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "Python names them; a tuple would not"
    )]
    fn watch_consent(
        &self,
        py: Python<'_>,
        public_key: Key,
        pair: (String, u16, Option<String>),
        username: Vec<u8>,
        passwords: (Vec<u8>, Vec<u8>),
        attributes: Vec<u8>,
        controlling: bool,
        interval: f64,
        patience: f64,
    ) -> PyResult<()> {
        let seconds = |value| {
            Duration::try_from_secs_f64(value)
                .map_err(|error| PyValueError::new_err(error.to_string()))
        };
        let (ip, port, local) = pair;
        let (local_password, remote_password) = passwords;
        let config = ConsentConfig {
            public_key,
            path: Path::plain(
                SocketAddr::new(parse_ip(&ip)?, port),
                local.as_deref().map(parse_ip).transpose()?,
            ),
            username,
            local_password,
            remote_password,
            attributes,
            controlling,
            interval: seconds(interval)?,
            patience: seconds(patience)?,
        };
        self.command(py, |engine| engine.watch_consent(config))
    }

    fn forget_consent(&self, public_key: Key) -> PyResult<()> {
        self.with(|engine| {
            engine.forget_consent(&public_key);
            Ok(())
        })
    }

    fn set_mtu(&self, py: Python<'_>, mtu: u16) -> PyResult<()> {
        py.detach(|| {
            self.with(|engine| {
                engine.set_mtu(mtu);
                Ok(())
            })
        })
    }

    fn remove_peer(&self, py: Python<'_>, public_key: Key) -> PyResult<()> {
        self.command(py, |engine| engine.remove_peer(&public_key))
    }

    fn start_handshake(&self, py: Python<'_>, public_key: Key) -> PyResult<()> {
        self.command(py, |engine| engine.start_handshake(&public_key))
    }

    fn send_inner(&self, py: Python<'_>, public_key: Key, packet: Vec<u8>) -> PyResult<()> {
        self.command(py, |engine| engine.send_inner(&public_key, &packet))
    }

    fn set_path_mtu(&self, py: Python<'_>, public_key: Key, mtu: Option<u16>) -> PyResult<()> {
        self.command(py, |engine| engine.set_path_mtu(&public_key, mtu))
    }

    fn send_probe(&self, py: Python<'_>, public_key: Key, packet: Vec<u8>) -> PyResult<()> {
        self.command(py, |engine| engine.send_probe(&public_key, &packet))
    }

    fn open_channel(&self, py: Python<'_>, ip: &str, port: u16, number: u16) -> PyResult<()> {
        let server = SocketAddr::new(parse_ip(ip)?, port);
        self.command(py, |engine| engine.open_channel(server, number))
    }

    fn close_channel(&self, py: Python<'_>, ip: &str, port: u16, number: u16) -> PyResult<()> {
        let server = SocketAddr::new(parse_ip(ip)?, port);
        self.command(py, |engine| {
            engine.close_channel(server, number);
            Ok(())
        })
    }

    fn forward(
        &self,
        py: Python<'_>,
        client: (String, u16, u16),
        target: (String, u16, Option<String>, u16),
        life: f64,
        quota: (u64, u64),
    ) -> PyResult<()> {
        let (ip, port, local, channel) = target;
        let forward = Forward {
            client: SocketAddr::new(parse_ip(&client.0)?, client.1),
            number: client.2,
            target: parse_path(&ip, port, local.as_deref(), channel)?,
            life: Duration::try_from_secs_f64(life)
                .map_err(|error| PyValueError::new_err(error.to_string()))?,
            quota: Quota {
                rate: quota.0,
                burst: quota.1,
            },
        };
        self.command(py, |engine| engine.forward(forward))
    }

    fn end_forwards(&self, py: Python<'_>, ip: &str, port: u16) -> PyResult<()> {
        let client = SocketAddr::new(parse_ip(ip)?, port);
        self.command(py, |engine| {
            engine.end_forwards(client);
            Ok(())
        })
    }

    fn poll_event<'py>(&self, py: Python<'py>) -> PyResult<Option<PyEvent<'py>>> {
        let event = py.detach(|| self.with(|engine| Ok(engine.poll_event())))?;
        let key = |key: &Key| PyBytes::new(py, key);
        let micros = |time: &Duration| {
            let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
            PyBytes::new(py, &micros.to_be_bytes())
        };
        Ok(event.map(|event| match &event {
            Event::InnerReceived { public_key, packet } => (
                "inner",
                key(public_key),
                None,
                Some(PyBytes::new(py, packet)),
            ),
            Event::HandshakeCompleted { public_key, path } => {
                ("handshake", key(public_key), Some(show_path(path)), None)
            }
            Event::EndpointRoamed { public_key, path } => {
                ("roamed", key(public_key), Some(show_path(path)), None)
            }
            Event::ConsentMissed {
                public_key,
                silence,
            } => ("missed", key(public_key), None, Some(micros(silence))),
            Event::ConsentAnswered {
                public_key,
                latency,
            } => ("answered", key(public_key), None, Some(micros(latency))),
            Event::Unanswered {
                public_key,
                silence,
            } => {
                let seconds = silence.as_secs().to_be_bytes();
                (
                    "unanswered",
                    key(public_key),
                    None,
                    Some(PyBytes::new(py, &seconds)),
                )
            }
        }))
    }

    fn peer_stats<'py>(&self, py: Python<'py>) -> PyResult<Vec<PyPeer<'py>>> {
        let stats = py.detach(|| self.with(|engine| Ok(engine.peer_stats())))?;
        Ok(stats
            .into_iter()
            .map(|peer| {
                (
                    PyBytes::new(py, &peer.public_key),
                    peer.endpoint.as_ref().map(show_path),
                    peer.rx_bytes,
                    peer.tx_bytes,
                    peer.handshake_age.map(|age| age.as_secs_f64()),
                )
            })
            .collect())
    }

    fn peer_count(&self) -> PyResult<usize> {
        self.with(|engine| Ok(engine.peer_count()))
    }

    fn counters(&self) -> PyResult<Vec<(&'static str, u64)>> {
        self.with(|engine| {
            let counters = engine.counters();
            let read = |counter: &Counter| (counter.name(), counters.get(*counter));
            Ok(Counter::ALL.iter().map(read).collect())
        })
    }

    fn offloads(&self) -> PyResult<[(&'static str, bool); 5]> {
        self.with(|engine| {
            let offloads = engine.offloads();
            Ok([
                ("tun_tcp", offloads.tun_tcp),
                ("tun_big", offloads.tun_big),
                ("tun_udp", offloads.tun_udp),
                ("udp_send", offloads.udp_send),
                ("udp_receive", offloads.udp_receive),
            ])
        })
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| {
            let taken = match self.engine.write() {
                Ok(mut guard) => guard.take(),
                Err(poisoned) => poisoned.into_inner().take(),
            };
            drop(taken);
        });
    }
}

fn parse_ip(text: &str) -> PyResult<IpAddr> {
    text.parse()
        .map_err(|_| PyValueError::new_err(format!("{text:?} is not an IP address")))
}

fn parse_path(ip: &str, port: u16, local: Option<&str>, channel: u16) -> PyResult<Path> {
    Ok(Path {
        remote: SocketAddr::new(parse_ip(ip)?, port),
        local: local.map(parse_ip).transpose()?,
        channel: (channel != 0).then_some(channel),
    })
}

fn show_path(path: &Path) -> PyPlace {
    let (ip, port) = show(path.remote);
    (ip, port, path.channel.unwrap_or(0))
}

fn show(address: SocketAddr) -> (String, u16) {
    (address.ip().to_string(), address.port())
}

fn borrow<'fd>(fd: RawFd) -> PyResult<BorrowedFd<'fd>> {
    if fd < 0 {
        return Err(PyValueError::new_err("a descriptor is negative"));
    }
    // SAFETY: the caller owns an open descriptor for the length of the constructor, which makes a
    // copy and keeps nothing of it; a closed one makes that copy fail with EBADF.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) })
}

/// Names the code that seals and opens packets on this machine.
#[pyfunction]
fn cipher() -> &'static str {
    ginnel_dataplane::cipher()
}

/// The parts of Ginnel in Rust.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<DataPlane>()?;
    module.add_function(wrap_pyfunction!(cipher, module)?)?;
    datagrams::register(module)?;
    discovery::register(module)
}
