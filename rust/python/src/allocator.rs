//! The system's memory, also where it is to be zero.
//!
//! gotatun asks for zeros for each packet. `calloc` of many glibcs (2.36 is Debian 12's) passes its
//! thread's own stock by and takes the long way each time, which costs more than to write few zeros.

use std::alloc::{GlobalAlloc, Layout, System};

/// Bytes from which on the system may know better: it has pages that are zero already.
const LARGE: usize = 4096;

struct Zeroing;

#[global_allocator]
static ALLOCATOR: Zeroing = Zeroing;

// SAFETY: all is the system's, as it is given.
unsafe impl GlobalAlloc for Zeroing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: what the caller promises is what `System` wants.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: it came from `System`, with this layout.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.size() >= LARGE {
            // SAFETY: what the caller promises is what `System` wants.
            return unsafe { System.alloc_zeroed(layout) };
        }
        // SAFETY: as above.
        let place = unsafe { System.alloc(layout) };
        let place = std::hint::black_box(place); // else the compiler makes `calloc` of both again
        if !place.is_null() {
            // SAFETY: it was just given to us, and is of this size.
            unsafe { place.write_bytes(0, layout.size()) };
        }
        place
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: it came from `System`, with this layout; the caller promises the rest.
        unsafe { System.realloc(place, layout, size) }
    }
}
