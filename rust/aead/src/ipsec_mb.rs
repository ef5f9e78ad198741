//! Intel's Multi-Buffer Crypto for IPsec: a third quicker than AWS-LC where there is AVX-512.

use std::cell::OnceCell;
use std::ffi::c_int;
use std::ptr::NonNull;
use std::sync::LazyLock;

use aws_lc_rs::aead as aws;

use crate::aead::{KEY_SIZE, NONCE_SIZE, TAG_SIZE, aws_lc_key};

/// Sizes at which the library must do as AWS-LC does before it is trusted, in bytes.
const CHECKED_SIZES: [usize; 5] = [0, 16, 114, 1420, 9000];

/// The library's `IMB_MGR`.
#[repr(C)]
struct RawManager {
    _private: [u8; 0],
}

unsafe extern "C" {
    fn ginnel_ipsec_mb_open() -> c_int;
    fn ginnel_ipsec_mb_new() -> *mut RawManager;
    fn ginnel_ipsec_mb_free(manager: *mut RawManager);
    fn ginnel_ipsec_mb_run(
        manager: *mut RawManager,
        opens: c_int,
        key: *const u8,
        nonce: *const u8,
        aad: *const u8,
        aad_size: usize,
        data: *mut u8,
        size: usize,
        tag: *mut u8,
    ) -> c_int;
}

/// What the library works with; one for each thread.
struct Manager(NonNull<RawManager>);

impl Manager {
    /// Opens the library on the first call; `None` where it is of no use.
    fn new() -> Option<Self> {
        static IS_OPEN: LazyLock<bool> = LazyLock::new(|| {
            // SAFETY: it writes statics of the bridge, and `LazyLock` has it run once, before all else.
            unsafe { ginnel_ipsec_mb_open() == 1 }
        });
        if !*IS_OPEN {
            return None;
        }
        // SAFETY: the library is open.
        NonNull::new(unsafe { ginnel_ipsec_mb_new() }).map(Self)
    }

    fn run(
        &self,
        opens: bool,
        (key, nonce): (&[u8; KEY_SIZE], &[u8; NONCE_SIZE]),
        aad: &[u8],
        data: &mut [u8],
    ) -> Option<[u8; TAG_SIZE]> {
        let mut tag = [0; TAG_SIZE];
        // SAFETY: the manager is this thread's own (it is not Send) and lives; all ranges are valid for
        // the call, which ends the job: this cipher is never left for later.
        let done = unsafe {
            ginnel_ipsec_mb_run(
                self.0.as_ptr(),
                opens.into(),
                key.as_ptr(),
                nonce.as_ptr(),
                aad.as_ptr(),
                aad.len(),
                data.as_mut_ptr(),
                data.len(),
                tag.as_mut_ptr(),
            )
        };
        (done == 1).then_some(tag)
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        // SAFETY: it came from `new`, and nobody has it any more.
        unsafe { ginnel_ipsec_mb_free(self.0.as_ptr()) }
    }
}

thread_local! {
    static MANAGER: OnceCell<Option<Manager>> = const { OnceCell::new() };
}

/// Seals or opens in place and returns the tag that belongs to it; `None` if there is no memory for
/// this thread's manager or the thread is ending: `data` is as it was.
pub(crate) fn run(
    opens: bool,
    key: (&[u8; KEY_SIZE], &[u8; NONCE_SIZE]),
    aad: &[u8],
    data: &mut [u8],
) -> Option<[u8; TAG_SIZE]> {
    let run = |manager: &OnceCell<Option<Manager>>| {
        let manager = manager.get_or_init(Manager::new).as_ref()?;
        manager.run(opens, key, aad, data)
    };
    // An error: the thread is ending.
    MANAGER.try_with(run).ok().flatten()
}

/// Whether the library is there, of use on this processor, and right.
pub(crate) fn is_usable() -> bool {
    static IS_USABLE: LazyLock<bool> =
        LazyLock::new(|| CHECKED_SIZES.into_iter().all(does_as_aws_lc));
    *IS_USABLE
}

fn does_as_aws_lc(size: usize) -> bool {
    let key: [u8; KEY_SIZE] = std::array::from_fn(|place| 0x80 + place as u8);
    let nonce = [7; NONCE_SIZE];
    let text: Vec<u8> = (0..size).map(|place| place as u8).collect();
    let (mut wanted, mut data) = (text.clone(), text.clone());
    let Ok(tag) = aws_lc_key(&key).seal_in_place_separate_tag(
        aws::Nonce::assume_unique_for_key(nonce),
        aws::Aad::from(&key),
        &mut wanted,
    ) else {
        return false;
    };
    let sealed = run(false, (&key, &nonce), &key, &mut data);
    let is_sealed = data == wanted && sealed.is_some_and(|own| own == tag.as_ref());
    let opened = run(true, (&key, &nonce), &key, &mut data);
    is_sealed && opened == sealed && data == text
}
