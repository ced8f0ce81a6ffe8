//! How the client's threads wait: for as long as they meant to, whatever becomes of the time of day meanwhile.
//!
//! The client turns "for 100 ms" into an instant of the time of day and waits for that instant with C11's
//! `cnd_timedwait`. If the machine's clock is set back in between, the wait becomes longer by as much: a broker that was
//! away is not tried again for an hour, and a thread that should end does not look. So this program has a
//! `cnd_timedwait` of its own, which the linker takes before the C library's. It counts once how long it is until the
//! instant, and waits that long by a clock that nobody sets.

#![expect(unsafe_code, reason = "a function of the C library is replaced, by means of two others")]

use std::ffi::{c_int, c_long, c_void};
use std::hint::black_box;
use std::io::{Error, ErrorKind};

use topics::clock::Clock;

const CLOCK_MONOTONIC: c_int = 1;
const THRD_SUCCESS: c_int = 0;
const THRD_ERROR: c_int = 2;
const THRD_TIMEDOUT: c_int = 4;

/// `struct timespec` of a machine with 64 bits.
#[repr(C)]
struct Instant {
    seconds: i64,
    nanoseconds: c_long,
}

unsafe extern "C" {
    fn clock_gettime(clock: c_int, now: *mut Instant) -> c_int;
    fn pthread_cond_clockwait(condition: *mut c_void, mutex: *mut c_void, clock: c_int, until: *const Instant)
    -> c_int;
}

/// Makes the linker take the function below: nothing else of this crate names it.
pub(super) fn keep() {
    black_box::<unsafe extern "C" fn(_, _, _) -> _>(cnd_timedwait);
}

/// # Safety
/// As C11 has it: condition and mutex are made, the mutex is held by this thread, the instant can be read.
#[unsafe(no_mangle)]
unsafe extern "C" fn cnd_timedwait(condition: *mut c_void, mutex: *mut c_void, until: *const Instant) -> c_int {
    // SAFETY: the caller's promise.
    let until = unsafe { &*until };
    let until_us = until.seconds.saturating_mul(1_000_000).saturating_add(until.nanoseconds / 1000);
    let rest_us = until_us.saturating_sub(Clock::system().now_us()).max(0);
    let mut end = Instant { seconds: 0, nanoseconds: 0 };
    // SAFETY: the instant can be written.
    if unsafe { clock_gettime(CLOCK_MONOTONIC, &mut end) } != 0 {
        return THRD_ERROR;
    }
    let nanoseconds = end.nanoseconds + rest_us % 1_000_000 * 1000;
    end.seconds = end.seconds.saturating_add(rest_us / 1_000_000 + nanoseconds / 1_000_000_000);
    end.nanoseconds = nanoseconds % 1_000_000_000;
    // SAFETY: the caller's promise; in glibc conditions and mutexes of C11 are those of POSIX.
    match unsafe { pthread_cond_clockwait(condition, mutex, CLOCK_MONOTONIC, &end) } {
        0 => THRD_SUCCESS,
        error if Error::from_raw_os_error(error).kind() == ErrorKind::TimedOut => THRD_TIMEDOUT,
        _ => THRD_ERROR,
    }
}
