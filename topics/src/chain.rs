//! An error with everything that led to it, on one line: what logs show.

use std::error::Error;
use std::fmt;

/// Shows an error and its sources, each after a colon.
///
/// ```
/// use topics::chain::chain;
/// let error = std::io::Error::other("disk full".parse::<u8>().unwrap_err());
/// assert_eq!(chain(&error).to_string(), "invalid digit found in string");
/// ```
pub fn chain<'a>(error: &'a (dyn Error + 'static)) -> Chain<'a> {
    Chain(error)
}

/// See [`chain`].
#[derive(Clone, Copy, Debug)]
pub struct Chain<'a>(&'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = self.0.to_string();
        f.write_str(&last)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            let text = error.to_string();
            // Some errors say of themselves what their source says.
            if !last.contains(&text) {
                write!(f, ": {text}")?;
            }
            last = text;
            source = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("could not write a commit")]
    struct Outer(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("the database refused")]
    struct Inner(#[source] std::io::Error);

    #[test]
    fn every_cause_is_shown_once() {
        let error = Outer(Inner(std::io::Error::other("disk full")));
        assert_eq!(chain(&error).to_string(), "could not write a commit: the database refused: disk full");
    }
}
