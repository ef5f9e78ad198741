//! Memory that a seal takes in place of what it is given.
//!
//! Apart from the ciphers, which are foreign code, so that Miri can run it (`scripts/miri`).

use std::cell::Cell;
use std::ptr::NonNull;

thread_local! {
    /// What the next seal of this thread is lent.
    static INSTEAD: Cell<Option<NonNull<[u8]>>> = const { Cell::new(None) };
    /// Whether what was lent last is sealed.
    static IS_SEALED: Cell<bool> = const { Cell::new(false) };
}

/// Puts back what was lent before, also if the work panics.
struct Before(Option<NonNull<[u8]>>, bool);

impl Drop for Before {
    fn drop(&mut self) {
        INSTEAD.set(self.0);
        IS_SEALED.set(self.1);
    }
}

/// Runs `work`, whose first seal on this thread seals `data` instead of what it is given, with the
/// key and the nonce that it is given; returns also whether `data` is sealed now.
///
/// So a library that knows keys and counters, but copies what it seals, needs to copy a stub only.
pub fn seal_instead<R>(data: &mut [u8], work: impl FnOnce() -> R) -> (R, bool) {
    let data = INSTEAD.replace(Some(NonNull::from(data)));
    let before = Before(data, IS_SEALED.replace(false));
    let result = work();
    let is_sealed = IS_SEALED.get();
    drop(before);
    (result, is_sealed)
}

/// Runs a seal: on what this thread was lent, if it was, else on `own`.
pub(crate) fn take<T, E>(
    own: &mut [u8],
    seal: impl FnOnce(&mut [u8]) -> Result<T, E>,
) -> Result<T, E> {
    let Some(mut lent) = INSTEAD.take() else {
        return seal(own);
    };
    // SAFETY: `seal_instead` holds the only reference, unused, until its work is over, and leaves
    // nothing here then. A seal within this one finds nothing here, and `seal` takes a reference of any
    // lifetime, so that it can't keep it.
    let sealed = seal(unsafe { lent.as_mut() })?;
    IS_SEALED.set(true);
    Ok(sealed)
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::{seal_instead, take};

    /// Writes what stands for a seal; returns how much it sealed.
    fn seal(own: &mut [u8], mark: u8) -> usize {
        let sealed = take(own, |data| {
            data.fill(mark);
            Ok::<_, ()>(data.len())
        });
        sealed.expect("it never fails")
    }

    #[test]
    fn the_first_seal_takes_it_and_the_next_its_own() {
        let (mut lent, mut own) = ([0; 20], [0; 3]);
        let (sizes, is_sealed) = seal_instead(&mut lent, || (seal(&mut own, 1), seal(&mut own, 2)));
        assert_eq!((sizes, is_sealed), ((20, 3), true));
        assert_eq!((lent, own), ([1; 20], [2; 3]));
        seal(&mut own, 3);
        assert_eq!((lent, own), ([1; 20], [3; 3]));
    }

    #[test]
    fn a_seal_that_fails_did_not_seal_it() {
        let mut lent = [0; 20];
        let (refused, is_sealed) = seal_instead(&mut lent, || take(&mut [], |_| Err::<(), _>(7)));
        assert_eq!((refused, is_sealed), (Err(7), false));
    }

    #[test]
    fn loans_nest_and_seals_within_seals_take_their_own() {
        let (mut outer, mut inner, mut own) = ([0; 20], [0; 10], [0; 3]);
        let (is_sealed_inside, is_sealed) = seal_instead(&mut outer, || {
            let inside = seal_instead(&mut inner, || {
                take(&mut [], |data| {
                    assert_eq!(seal(&mut own, 4), 3);
                    data.fill(5);
                    Ok::<_, ()>(())
                })
            });
            seal(&mut [], 6);
            inside.1
        });
        assert!(is_sealed_inside && is_sealed);
        assert_eq!((outer, inner, own), ([6; 20], [5; 10], [4; 3]));
    }

    #[test]
    fn a_loan_within_a_loan_ends_before_it_however_it_ends() {
        let (mut outer, mut inner) = ([0; 20], [0; 10]);
        let (size, is_sealed) = seal_instead(&mut outer, || {
            let ((), is_sealed) = seal_instead(&mut inner, || ());
            assert!(!is_sealed);
            let panicked = catch_unwind(AssertUnwindSafe(|| {
                seal_instead(&mut inner, || panic!("injected by a test"))
            }));
            assert!(panicked.is_err());
            seal(&mut [], 7)
        });
        assert_eq!((size, is_sealed), (20, true));
        assert_eq!((outer, inner), ([7; 20], [0; 10]));
    }

    #[test]
    fn what_was_lent_goes_back_with_the_work() {
        let mut lent = vec![0; 20];
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            seal_instead(&mut lent, || panic!("injected by a test"))
        }));
        assert!(panicked.is_err());
        drop(lent); // Miri would say that the next seal writes to it
        let mut own = [0; 3];
        assert_eq!(seal(&mut own, 1), 3);
    }

    #[test]
    fn it_is_lent_to_one_thread() {
        let mut lent = [0; 20];
        let (sizes, is_sealed) = seal_instead(&mut lent, || {
            let other = || seal(&mut [0; 3], 1);
            std::thread::scope(|scope| scope.spawn(other).join())
        });
        assert_eq!((sizes.ok(), is_sealed), (Some(3), false));
        assert_eq!(lent, [0; 20]);
    }
}
