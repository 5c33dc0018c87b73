//! Writes lines for people to standard output and standard error. A closed pipe (`tollgate explain tea-1 | head -1`) is no error,
//! and never a panic as with `println!`.

use std::fmt;
use std::io::{ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};

/// True after a line could not be written although its reader was still there, for example because a disk is full.
static IS_INCOMPLETE: AtomicBool = AtomicBool::new(false);

/// Writes a line to standard output.
macro_rules! say {
    ($($text:tt)*) => { $crate::output::line(&mut std::io::stdout(), format_args!($($text)*)) };
}

/// Writes a line to standard error.
macro_rules! complain {
    ($($text:tt)*) => { $crate::output::line(&mut std::io::stderr(), format_args!($($text)*)) };
}

pub(crate) use {complain, say};

/// Writes one line. A closed pipe is ignored.
pub(crate) fn line(out: &mut impl Write, text: fmt::Arguments<'_>) {
    if let Err(error) = writeln!(out, "{text}")
        && error.kind() != ErrorKind::BrokenPipe
    {
        IS_INCOMPLETE.store(true, Ordering::Relaxed);
    }
}

/// Returns false if a line could not be written although its reader was there.
pub(crate) fn is_complete() -> bool {
    !IS_INCOMPLETE.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Broken(ErrorKind);

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn broken_pipe_is_ignored_and_full_disk_is_an_error() {
        line(&mut Broken(ErrorKind::BrokenPipe), format_args!("x"));
        assert!(is_complete());
        line(&mut Broken(ErrorKind::StorageFull), format_args!("x"));
        assert!(!is_complete());
    }
}
