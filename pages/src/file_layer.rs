//! The layer between SQLite and the operating system that checks and signs pages.
//!
//! SQLite takes its files through a table of functions (a VFS) that can be put before the system's own. This one hands
//! everything on; only for main files (not for write-ahead logs, which have checksums already) a page read is compared
//! with its checksum, and a page written gets one. A file whose header does not promise room for checksums is left as
//! it is.

#![expect(unsafe_code, reason = "SQLite calls these functions, and is told of them, through C pointers")]

use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr::{addr_of_mut, null, null_mut};
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, Once, PoisonError};

use libsqlite3_sys::{
    SQLITE_FCNTL_RESERVE_BYTES, SQLITE_IOCAP_SUBPAGE_READ, SQLITE_IOERR_DATA, SQLITE_OK, SQLITE_OPEN_MAIN_DB, sqlite3,
    sqlite3_api_routines, sqlite3_auto_extension, sqlite3_file, sqlite3_file_control, sqlite3_io_methods, sqlite3_vfs,
    sqlite3_vfs_find, sqlite3_vfs_register,
};

use crate::{HEADER, RESERVED, has_sums, holds, page_size, sum};

/// Pages that were found damaged: file and place. Enough to say where, not a log.
static FAULTS: Mutex<Vec<(PathBuf, u64)>> = Mutex::new(Vec::new());
const FAULTS_MAX: usize = 64;

/// The system's own layer.
static BELOW: AtomicPtr<sqlite3_vfs> = AtomicPtr::new(null_mut());

/// Has every connection that is opened from now on check its pages, and new files made with checksums.
pub fn register() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the default layer lives as long as the process and is only copied; the copy is never freed. Its other
        // functions do not look at which table they were called through.
        unsafe {
            let below = sqlite3_vfs_find(null());
            assert!(!below.is_null(), "SQLite has a default file layer");
            BELOW.store(below, Ordering::Release);
            let mut own = *below;
            own.pNext = null_mut();
            own.zName = c"checked-pages".as_ptr();
            own.szOsFile += size_of::<Checked>() as c_int;
            own.xOpen = Some(open);
            let made = sqlite3_vfs_register(Box::leak(Box::new(own)), 1);
            assert_eq!(made, SQLITE_OK, "a file layer can be added");
            assert_eq!(sqlite3_auto_extension(Some(reserve)), SQLITE_OK, "connections can be prepared");
        }
    });
}

/// Places of pages of a file that were found damaged since the process began.
pub fn faults(path: &Path) -> Vec<u64> {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let faults = FAULTS.lock().unwrap_or_else(PoisonError::into_inner);
    faults.iter().filter(|(file, _)| *file == path).map(|(_, at)| *at).collect()
}

fn remember(path: PathBuf, at: u64) {
    let mut faults = FAULTS.lock().unwrap_or_else(PoisonError::into_inner);
    let fault = (path, at);
    if faults.len() < FAULTS_MAX && !faults.contains(&fault) {
        faults.push(fault);
    }
}

/// Asks for room at the end of pages; a file that is there already keeps its shape.
unsafe extern "C" fn reserve(db: *mut sqlite3, _: *mut *mut c_char, _: *const sqlite3_api_routines) -> c_int {
    let mut bytes = RESERVED as c_int;
    // SAFETY: `db` is the connection being opened; a null name is its main file.
    unsafe { sqlite3_file_control(db, null(), SQLITE_FCNTL_RESERVE_BYTES, addr_of_mut!(bytes).cast()) };
    SQLITE_OK
}

/// An open main file. The system's own follows it in memory.
#[repr(C)]
struct Checked {
    base: sqlite3_file,
    /// Size of a page; 0 while the file has no checksums.
    page: usize,
    /// Its name; SQLite keeps it as long as the file is open.
    name: *const c_char,
}

/// The system's own file behind `file`.
unsafe fn under(file: *mut sqlite3_file) -> *mut sqlite3_file {
    // SAFETY: `szOsFile` made room for both, and the size of `Checked` is a multiple of a pointer's.
    unsafe { file.cast::<Checked>().add(1).cast() }
}

/// Calls a function of the file below.
macro_rules! handed_on {
    ($file:ident, $method:ident, $($arg:ident),*) => {{
        let file = under($file);
        (*(*file).pMethods).$method.expect("the system's files have all functions of version 3")(file, $($arg),*)
    }};
}
unsafe extern "C" fn open(
    _: *mut sqlite3_vfs,
    name: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    let below = BELOW.load(Ordering::Acquire);
    // SAFETY: `file` has room for `szOsFile` bytes, of which the system's own file needs the last ones at most.
    unsafe {
        let open = (*below).xOpen.expect("the system's layer opens files");
        if flags & SQLITE_OPEN_MAIN_DB == 0 {
            return open(below, name, file, flags, out);
        }
        file.cast::<Checked>().write(Checked { base: sqlite3_file { pMethods: null() }, page: 0, name });
        let code = open(below, name, under(file), flags, out);
        if code == SQLITE_OK {
            (*file).pMethods = &METHODS;
        }
        code
    }
}

unsafe extern "C" fn read(file: *mut sqlite3_file, to: *mut c_void, len: c_int, at: i64) -> c_int {
    // SAFETY: SQLite gives a buffer of `len` bytes, which the layer below has just filled.
    unsafe {
        let code = handed_on!(file, xRead, to, len, at);
        if code != SQLITE_OK {
            return code;
        }
        let bytes = std::slice::from_raw_parts(to.cast::<u8>(), len as usize);
        learn(file, bytes, at);
        let checked = &*file.cast::<Checked>();
        if checked.page == bytes.len() && !holds(bytes) {
            let name = CStr::from_ptr(checked.name).to_bytes();
            remember(OsStr::from_bytes(name).into(), at as u64);
            return SQLITE_IOERR_DATA;
        }
        code
    }
}

unsafe extern "C" fn write(file: *mut sqlite3_file, from: *const c_void, len: c_int, at: i64) -> c_int {
    // SAFETY: SQLite gives a buffer of `len` bytes of its own; what it left free for us at the end of a page is ours.
    unsafe {
        learn(file, std::slice::from_raw_parts(from.cast::<u8>(), len as usize), at);
        if (*file.cast::<Checked>()).page == len as usize {
            let bytes = std::slice::from_raw_parts_mut(from.cast_mut().cast::<u8>(), len as usize);
            let (content, stored) = bytes.split_at_mut(len as usize - RESERVED);
            stored.copy_from_slice(&sum(content).to_le_bytes());
        }
        handed_on!(file, xWrite, from, len, at)
    }
}

/// Learns from the header whether pages have checksums: as it passes, or out of the file when that was still empty when
/// it was opened.
unsafe fn learn(file: *mut sqlite3_file, bytes: &[u8], at: i64) {
    let page_of = |header: &[u8]| page_size(header).filter(|_| has_sums(header)).unwrap_or(0);
    // SAFETY: `file` is one that was opened here, and the buffer is as long as it is said to be.
    unsafe {
        let checked = &mut *file.cast::<Checked>();
        if at == 0 && bytes.len() >= HEADER {
            checked.page = page_of(bytes);
        } else if at > 0 && checked.page == 0 {
            let mut header = [0; HEADER];
            let (to, len, at) = (header.as_mut_ptr().cast(), HEADER as c_int, 0);
            if handed_on!(file, xRead, to, len, at) == SQLITE_OK {
                checked.page = page_of(&header);
            }
        }
    }
}

/// No page of the file in memory as it is: SQLite reads it then.
unsafe extern "C" fn fetch(_: *mut sqlite3_file, _: i64, _: c_int, page: *mut *mut c_void) -> c_int {
    // SAFETY: SQLite gives a place for the pointer.
    unsafe { *page = null_mut() };
    SQLITE_OK
}

/// Parts of pages cannot be checked, so none are to be read.
unsafe extern "C" fn characteristics(file: *mut sqlite3_file) -> c_int {
    // SAFETY: as for all that is handed on.
    unsafe { handed_on!(file, xDeviceCharacteristics,) & !SQLITE_IOCAP_SUBPAGE_READ }
}

/// Functions that only hand on.
macro_rules! hand_on {
    ($($name:ident = $method:ident($($arg:ident: $type:ty),*) $(-> $result:ty)?;)*) => {$(
        unsafe extern "C" fn $name(file: *mut sqlite3_file, $($arg: $type),*) $(-> $result)? {
            // SAFETY: SQLite's own arguments go to the file that they are meant for.
            unsafe { handed_on!(file, $method, $($arg),*) }
        }
    )*};
}

hand_on! {
    close = xClose() -> c_int;
    truncate = xTruncate(size: i64) -> c_int;
    sync = xSync(flags: c_int) -> c_int;
    file_size = xFileSize(size: *mut i64) -> c_int;
    lock = xLock(level: c_int) -> c_int;
    unlock = xUnlock(level: c_int) -> c_int;
    check_reserved_lock = xCheckReservedLock(found: *mut c_int) -> c_int;
    file_control = xFileControl(what: c_int, arg: *mut c_void) -> c_int;
    sector_size = xSectorSize() -> c_int;
    shm_map = xShmMap(no: c_int, size: c_int, extend: c_int, to: *mut *mut c_void) -> c_int;
    shm_lock = xShmLock(first: c_int, count: c_int, flags: c_int) -> c_int;
    shm_barrier = xShmBarrier();
    shm_unmap = xShmUnmap(delete: c_int) -> c_int;
    unfetch = xUnfetch(at: i64, page: *mut c_void) -> c_int;
}

static METHODS: sqlite3_io_methods = sqlite3_io_methods {
    iVersion: 3,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: Some(fetch),
    xUnfetch: Some(unfetch),
};
