//! How much goes on a page, in bytes: a page of long items ends early.
//!
//! Who reads a page reads one item more than fits ([`Filling`]), which shows that another page follows; who writes it
//! leaves that one out ([`fitting`]).

/// How many of the first items go on a page of `bytes`: all that begin before so many bytes are full, so the first one
/// whatever its length. 0 bytes bound nothing.
///
/// ```
/// use topics::page::fitting;
/// assert_eq!(fitting([40, 40, 40, 40], 100), 3);
/// assert_eq!(fitting([400, 1], 100), 1);
/// assert_eq!(fitting([400, 1], 0), 2);
/// ```
pub fn fitting(sizes: impl IntoIterator<Item = usize>, bytes: usize) -> usize {
    let mut before = 0;
    let fits = |size: &usize| {
        let begins = before;
        before += size;
        bytes == 0 || begins < bytes
    };
    sizes.into_iter().take_while(fits).count()
}

/// A page while it is read.
///
/// ```
/// let mut page = topics::page::Filling::new(100);
/// assert!(page.add(60) && page.add(60));
/// assert!(!page.add(60), "it begins beyond the page: it is read, and none after it");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Filling {
    bytes: usize,
    read: usize,
}

impl Filling {
    /// An empty page of `bytes`; 0 bound nothing.
    pub fn new(bytes: usize) -> Filling {
        Filling { bytes, read: 0 }
    }

    /// Counts an item that was read. Whether a further one is to be read.
    pub fn add(&mut self, size: usize) -> bool {
        let fits = self.bytes == 0 || self.read < self.bytes;
        self.read += size;
        fits
    }
}
