//! Batches of UDP datagrams as Python's values; `net/udp.py` owns the sockets.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::RawFd;

use crate::parse_ip;
use ginnel_discovery::udp::{self, Arrived, Outgoing, Receiver};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString, PyTuple, PyType};

/// Sources whose values are kept, so that a known one costs nothing to make.
const KEPT_SOURCES: usize = 1024;
/// Local addresses whose texts are kept; a machine has few.
const KEPT_LOCALS: usize = 64;

/// Datagrams, what the kernel had to complain of (errno), and how many were longer than allowed.
type PyReceived<'py> = (Bound<'py, PyList>, Vec<i32>, usize);

/// Receives and sends on any socket; each thread has its own (`net/udp.py`).
#[pyclass(module = "ginnel._native")]
struct UdpBatches {
    receiver: Receiver,
    make: Maker,
}

/// Makes the values of `base/types.py`.
struct Maker {
    address: Py<PyType>,
    datagram: Py<PyType>,
    tuple_new: Py<PyAny>,
    sources: HashMap<SocketAddr, Py<PyAny>>,
    locals: HashMap<IpAddr, Py<PyString>>,
}

impl Maker {
    fn source(&mut self, py: Python<'_>, source: SocketAddr) -> PyResult<Py<PyAny>> {
        if let Some(known) = self.sources.get(&source) {
            return Ok(known.clone_ref(py));
        }
        let parts = (source.ip().to_string(), source.port());
        let made = self
            .tuple_new
            .call1(py, (self.address.clone_ref(py), parts))?;
        if self.sources.len() >= KEPT_SOURCES {
            self.sources.clear();
        }
        self.sources.insert(source, made.clone_ref(py));
        Ok(made)
    }

    fn local(&mut self, py: Python<'_>, local: IpAddr) -> Py<PyString> {
        if let Some(known) = self.locals.get(&local) {
            return known.clone_ref(py);
        }
        let made = PyString::new(py, &local.to_string()).unbind();
        if self.locals.len() >= KEPT_LOCALS {
            self.locals.clear();
        }
        self.locals.insert(local, made.clone_ref(py));
        made
    }

    /// Returns a Datagram, `None` where the source is no address.
    fn datagram(
        &mut self,
        py: Python<'_>,
        arrived: &Arrived<'_>,
        only_ip: Option<&Bound<'_, PyString>>,
    ) -> PyResult<Option<Py<PyAny>>> {
        let Some(source) = arrived.source else {
            return Ok(None);
        };
        let local = match only_ip {
            Some(ip) => Some(ip.clone().unbind()),
            None => arrived.local.map(|local| self.local(py, local)),
        };
        let parts = (
            PyBytes::new(py, arrived.data),
            self.source(py, source)?,
            local,
        );
        self.tuple_new
            .call1(py, (self.datagram.clone_ref(py), parts))
            .map(Some)
    }
}

#[pymethods]
impl UdpBatches {
    #[new]
    fn new(
        py: Python<'_>,
        address: Py<PyType>,
        datagram: Py<PyType>,
        max_datagram: usize,
    ) -> PyResult<Self> {
        Ok(Self {
            receiver: Receiver::new(max_datagram),
            make: Maker {
                address,
                datagram,
                tuple_new: py.get_type::<PyTuple>().getattr("__new__")?.unbind(),
                sources: HashMap::new(),
                locals: HashMap::new(),
            },
        })
    }

    fn receive<'py>(
        &mut self,
        py: Python<'py>,
        fd: RawFd,
        limit: usize,
        size: usize,
        only_ip: Option<&Bound<'py, PyString>>,
    ) -> PyResult<PyReceived<'py>> {
        let received = PyList::empty(py);
        let (mut errors, mut truncated) = (Vec::new(), 0);
        let (mut left, mut failure) = (limit, None);
        while left > 0 {
            let wanted = left;
            let make = &mut self.make;
            let outcome = self.receiver.receive(fd, wanted, size, |arrived| {
                if arrived.is_truncated {
                    truncated += 1;
                    return;
                }
                let made = make.datagram(py, &arrived, only_ip).and_then(|datagram| {
                    datagram.map_or(Ok(()), |datagram| received.append(datagram))
                });
                if let Err(error) = made {
                    failure = Some(error);
                }
            });
            match outcome {
                Ok(taken) => {
                    left -= taken;
                    if taken < wanted.min(udp::BATCH) {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    errors.extend(error.raw_os_error());
                    left -= 1;
                }
            }
        }
        failure.map_or(Ok((received, errors, truncated)), Err)
    }

    /// Returns number and errno of each datagram that the kernel refused.
    #[staticmethod]
    fn send(
        fd: RawFd,
        is_ipv6: bool,
        transmits: Vec<Bound<'_, PyTuple>>,
        only_ip: Option<&str>,
    ) -> PyResult<Vec<(usize, i32)>> {
        let mut outgoing = Vec::with_capacity(transmits.len());
        for transmit in &transmits {
            let destination = transmit.get_item(1)?;
            let destination = destination.cast::<PyTuple>()?;
            let ip = destination.get_item(0)?;
            let source = transmit.get_item(2)?;
            let source: Option<&str> = source.extract()?;
            outgoing.push((
                transmit.get_item(0)?.cast_into::<PyBytes>()?,
                SocketAddr::new(
                    parse_ip(ip.extract()?)?,
                    destination.get_item(1)?.extract()?,
                ),
                // The kernel sends from the only one anyway.
                source
                    .filter(|ip| Some(*ip) != only_ip)
                    .map(parse_ip)
                    .transpose()?,
            ));
        }
        let datagrams: Vec<Outgoing<'_>> = outgoing
            .iter()
            .map(|(data, destination, source)| Outgoing {
                data: data.as_bytes(),
                destination: *destination,
                source: *source,
            })
            .collect();
        let mut refused = Vec::new();
        udp::send(fd, is_ipv6, &datagrams, |number, error| {
            refused.push((number, error.raw_os_error().unwrap_or_default()));
        });
        Ok(refused)
    }
}

/// Adds it to the module.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<UdpBatches>()
}
