//! What discv5 uses of `ginnel-discovery`; `base/ciphers.py` and `discv5/keys.py` say what it does.

use ginnel_discovery::identity::{self, InvalidKey, Point};
use ginnel_discovery::packet::{self, Key, NONCE_SIZE, TooShort};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// Protocol id, version, flag, nonce, authdata, what the tag covers, message.
type PyUnmasked<'py> = (
    Bound<'py, PyBytes>,
    u16,
    u8,
    Bound<'py, PyBytes>,
    Option<Bound<'py, PyBytes>>,
    Bound<'py, PyBytes>,
    Bound<'py, PyBytes>,
);

/// A public key that was found to be a point of secp256k1.
#[pyclass(frozen, module = "ginnel._native")]
struct PublicKey(Point);

#[pymethods]
impl PublicKey {
    #[new]
    fn new(compressed: &[u8]) -> PyResult<Self> {
        Point::parse(compressed).map(Self).map_err(invalid_key)
    }

    fn node_id<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.node_id())
    }

    fn verify(&self, digest: &[u8], signature: &[u8]) -> bool {
        match (digest.try_into(), signature.try_into()) {
            (Ok(digest), Ok(signature)) => self.0.verify(digest, signature),
            _ => false,
        }
    }

    fn agree<'py>(&self, py: Python<'py>, private_key: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        let shared = self.0.agree(sized(private_key)?).map_err(invalid_key)?;
        Ok(PyBytes::new(py, &shared))
    }
}

#[pyfunction]
fn public_key_of<'py>(py: Python<'py>, private_key: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    let public = identity::public_key(sized(private_key)?).map_err(invalid_key)?;
    Ok(PyBytes::new(py, &public))
}

#[pyfunction]
fn sign<'py>(py: Python<'py>, private_key: &[u8], digest: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    let signature = identity::sign(sized(private_key)?, sized(digest)?).map_err(invalid_key)?;
    Ok(PyBytes::new(py, &signature))
}

#[pyfunction]
fn keccak<'py>(py: Python<'py>, data: &[u8]) -> Bound<'py, PyBytes> {
    PyBytes::new(py, &identity::keccak(data))
}

#[pyfunction]
fn unmask<'py>(py: Python<'py>, node_id: &[u8], data: &[u8]) -> PyResult<Option<PyUnmasked<'py>>> {
    let Some(found) = packet::unmask(mask_key(node_id)?, data) else {
        return Ok(None);
    };
    let (protocol_id, version, flag, nonce) = found.fields();
    let message = found.message_at.map_or(&data[..0], |at| &data[at..]);
    Ok(Some((
        PyBytes::new(py, protocol_id),
        version,
        flag,
        PyBytes::new(py, nonce),
        found.message_at.map(|_| PyBytes::new(py, found.authdata())),
        PyBytes::new(py, &found.start),
        PyBytes::new(py, message),
    )))
}

#[pyfunction]
fn mask<'py>(py: Python<'py>, node_id: &[u8], start: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    let masked = packet::mask(mask_key(node_id)?, start).map_err(too_short)?;
    Ok(PyBytes::new(py, &masked))
}

#[pyfunction]
fn seal<'py>(
    py: Python<'py>,
    node_id: &[u8],
    start: &[u8],
    key: &[u8],
    nonce: &[u8],
    message: &[u8],
) -> PyResult<Bound<'py, PyBytes>> {
    let (key, nonce): (Key, [u8; NONCE_SIZE]) = (sized(key)?, sized(nonce)?);
    let sealed =
        packet::seal(mask_key(node_id)?, start, &key, &nonce, message).map_err(too_short)?;
    Ok(PyBytes::new(py, &sealed))
}

/// A packet and its nonce.
type PySealed<'py> = (Bound<'py, PyBytes>, Bound<'py, PyBytes>);

#[pyfunction]
fn seal_next<'py>(
    py: Python<'py>,
    node_id: &[u8],
    header: &[u8],
    key: &[u8],
    count: u32,
    random: &[u8],
    message: &[u8],
) -> PyResult<PySealed<'py>> {
    let (key, random) = (sized(key)?, sized(random)?);
    let (sealed, nonce) =
        packet::seal_next(mask_key(node_id)?, header, &key, count, &random, message)
            .map_err(too_short)?;
    Ok((PyBytes::new(py, &sealed), PyBytes::new(py, &nonce)))
}

#[pyfunction]
fn open<'py>(
    py: Python<'py>,
    key: &[u8],
    nonce: &[u8],
    ciphertext: &[u8],
    authenticated: &[u8],
) -> PyResult<Option<Bound<'py, PyBytes>>> {
    let (key, nonce): (Key, [u8; NONCE_SIZE]) = (sized(key)?, sized(nonce)?);
    let message = packet::open(&key, &nonce, ciphertext, authenticated);
    Ok(message.map(|message| PyBytes::new(py, &message)))
}

/// Adds all of it to the module.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PublicKey>()?;
    module.add_function(wrap_pyfunction!(public_key_of, module)?)?;
    module.add_function(wrap_pyfunction!(sign, module)?)?;
    module.add_function(wrap_pyfunction!(keccak, module)?)?;
    module.add_function(wrap_pyfunction!(unmask, module)?)?;
    module.add_function(wrap_pyfunction!(mask, module)?)?;
    module.add_function(wrap_pyfunction!(seal, module)?)?;
    module.add_function(wrap_pyfunction!(seal_next, module)?)?;
    module.add_function(wrap_pyfunction!(open, module)?)
}

/// The masking key of packets to a node: the first half of its id.
fn mask_key(node_id: &[u8]) -> PyResult<&Key> {
    node_id
        .first_chunk()
        .ok_or_else(|| PyValueError::new_err("a node id is shorter than a key"))
}

fn sized<const SIZE: usize>(bytes: &[u8]) -> PyResult<[u8; SIZE]> {
    bytes
        .try_into()
        .map_err(|_| PyValueError::new_err(format!("{} bytes, not {SIZE}", bytes.len())))
}

fn invalid_key(_: InvalidKey) -> PyErr {
    PyValueError::new_err("not a valid secp256k1 key")
}

fn too_short(_: TooShort) -> PyErr {
    PyValueError::new_err("too short for a header")
}
