//! Files that hold a secret, or are trusted like one: others on the machine must not be able to read or to change them.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// What others must not be able to do to a file with a secret: anything. Its group may, by which Kubernetes mounts
/// secrets.
const SECRET: u32 = 0o007;
/// What they must not be able to do to one that is public and believed: write to it.
const TRUSTED: u32 = 0o002;

/// Reads a file that holds a secret. The check is of the file that is read, whatever its name leads to a moment later.
pub fn read(path: &Path) -> Result<(Vec<u8>, Metadata), String> {
    read_if(path, SECRET, "others can read or change it; do: chmod o-rwx")
}

/// Reads a file that is public, but believed: public keys.
pub fn read_trusted(path: &Path) -> Result<Vec<u8>, String> {
    read_if(path, TRUSTED, "others can change it; do: chmod o-w").map(|(text, _)| text)
}

fn read_if(path: &Path, refused: u32, advice: &str) -> Result<(Vec<u8>, Metadata), String> {
    let read = || {
        let mut file = File::open(path)?;
        let meta = file.metadata()?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        Ok((text, meta))
    };
    let (text, meta) = read().map_err(|error: std::io::Error| error.to_string())?;
    let mode = meta.permissions().mode();
    // A pipe of the shell, `<(…)`, is nobody else's.
    match meta.is_file() && mode & refused != 0 {
        true => Err(format!("{advice} {}", path.display())),
        false => Ok((text, meta)),
    }
}
