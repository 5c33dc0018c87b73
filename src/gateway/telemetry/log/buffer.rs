//! Bounded buffer of log lines. Adding a line never blocks; a separate thread writes the lines.

use std::io::{ErrorKind, Write};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use prometheus::IntCounter;

/// Delay before collected lines are written together, so that a busy gateway does not wake the writer for each line.
const BATCH_DELAY: Duration = Duration::from_millis(1);
/// Pause of the writer when standard error is non-blocking and accepts nothing.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// A bounded buffer of whole lines.
pub(super) struct Buffer {
    state: Mutex<State>,
    /// Signals the first line, and that everything was written.
    changed: Condvar,
    dropped_total: IntCounter,
}

struct State {
    buffered: Vec<u8>,
    /// Maximum buffered bytes.
    limit: usize,
    is_writing: bool,
    /// Lines dropped since the log last reported it.
    dropped: u64,
}

impl Buffer {
    /// Returns a buffer of `limit` bytes that counts the lines that it drops.
    pub(super) fn new(limit: usize, dropped_total: &IntCounter) -> Self {
        let state = State { buffered: Vec::new(), limit, is_writing: false, dropped: 0 };
        Self { state: Mutex::new(state), changed: Condvar::new(), dropped_total: dropped_total.clone() }
    }

    /// Changes the maximum number of buffered bytes.
    pub(super) fn set_limit(&self, limit: usize) {
        self.state.lock().limit = limit;
    }

    /// Adds a line including its line end, or drops it if the buffer is full.
    pub(super) fn push(&self, line: &[u8]) {
        let mut state = self.state.lock();
        if state.buffered.len() + line.len() > state.limit {
            state.dropped += 1;
            drop(state);
            return self.dropped_total.inc();
        }
        let is_first = state.buffered.is_empty();
        state.buffered.extend_from_slice(line);
        drop(state);
        if is_first {
            self.changed.notify_all();
        }
    }

    /// Writes lines until the process ends. Lines that cannot be written are dropped.
    pub(super) fn write_to(&self, out: &mut impl Write) {
        let (mut batch, mut is_partial) = (Vec::new(), false);
        loop {
            self.next(&mut batch);
            self.write(out, &batch, &mut is_partial);
        }
    }

    /// Writes as much of the batch as possible. After a partial line, the next line starts on a line of its own.
    fn write(&self, out: &mut impl Write, batch: &[u8], is_partial: &mut bool) {
        *is_partial = *is_partial && write_some(out, b"\n") == 0;
        let written = if *is_partial { 0 } else { write_some(out, batch) };
        let (done, left) = batch.split_at(written);
        *is_partial = done.last().map_or(*is_partial, |end| *end != b'\n');
        self.count(left);
    }

    /// Waits for lines and takes all of them.
    fn next(&self, batch: &mut Vec<u8>) {
        batch.clear();
        let mut state = self.state.lock();
        state.is_writing = false;
        self.changed.notify_all();
        while state.buffered.is_empty() {
            self.changed.wait(&mut state);
        }
        state.is_writing = true;
        drop(state);
        std::thread::sleep(BATCH_DELAY);
        std::mem::swap(batch, &mut self.state.lock().buffered);
    }

    /// Counts the lines that were not written. If all were, logs how many were dropped earlier.
    fn count(&self, left: &[u8]) {
        let lost = left.iter().filter(|byte| **byte == b'\n').count() as u64;
        self.dropped_total.inc_by(lost);
        let mut state = self.state.lock();
        state.dropped += lost;
        if left.is_empty() && state.dropped > 0 {
            let dropped = std::mem::take(&mut state.dropped);
            drop(state);
            tracing::warn!(dropped, "log lines were dropped: nobody read standard error, or it could not be written");
        }
    }

    /// Waits until everything is written, for at most `limit`.
    pub(super) fn flush(&self, limit: Duration) {
        let until = Instant::now() + limit;
        let mut state = self.state.lock();
        while (state.is_writing || !state.buffered.is_empty())
            && !self.changed.wait_until(&mut state, until).timed_out()
        {}
    }
}

/// Writes as much as possible and returns the number of bytes. Waits while a pipe is full.
fn write_some(out: &mut impl Write, bytes: &[u8]) -> usize {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match out.write(rest) {
            Ok(0) => break,
            Ok(count) => written += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(RETRY_PAUSE),
            Err(_) => break,
        }
    }
    written
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io;
    use std::sync::Arc;
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::*;

    /// Pipe: a slow reader blocks the writer, and a closed reader breaks the pipe.
    struct Pipe(SyncSender<Vec<u8>>);

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map(|()| bytes.len()).map_err(|_| ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn start(limit: usize) -> (Arc<Buffer>, IntCounter, Receiver<Vec<u8>>) {
        let dropped = IntCounter::new("dropped", "dropped").unwrap();
        let buffer = Arc::new(Buffer::new(limit, &dropped));
        let (pipe, reader) = sync_channel(0);
        let writing = Arc::clone(&buffer);
        std::thread::spawn(move || writing.write_to(&mut Pipe(pipe)));
        (buffer, dropped, reader)
    }

    #[test]
    fn logging_never_blocks_on_a_stalled_reader_and_dropped_lines_are_counted() {
        let (buffer, dropped, reader) = start(50);
        for _ in 0..100 {
            buffer.push(b"0123456789\n");
        }
        // One batch may be with the writer while the buffer is full again.
        let lost = dropped.get();
        assert!((92..=96).contains(&lost), "{lost}");
        buffer.flush(Duration::from_millis(1));
        let mut read = 0;
        while read < 100 - lost {
            let lines = reader.recv().unwrap();
            assert_eq!(lines.len() % 11, 0, "whole lines");
            read += lines.len() as u64 / 11;
        }
        buffer.push(b"again\n");
        assert_eq!(reader.recv().unwrap(), b"again\n");
        buffer.flush(Duration::from_secs(60));
        assert_eq!(dropped.get(), lost);
    }

    #[test]
    fn closed_reader_drops_lines_and_blocks_nothing() {
        let (buffer, dropped, reader) = start(1 << 20);
        drop(reader);
        for round in 1..=3 {
            buffer.push(b"one\n");
            buffer.flush(Duration::from_secs(60));
            assert_eq!(dropped.get(), round);
        }
    }

    /// Accepts some bytes, fails once, and then accepts everything.
    struct PartialWriter(usize, Vec<u8>);

    impl Write for PartialWriter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.0);
            if count == 0 {
                self.0 = usize::MAX;
                return Err(ErrorKind::StorageFull.into());
            }
            self.0 -= count;
            self.1.extend_from_slice(bytes.get(..count).unwrap());
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn line_after_a_partial_line_starts_on_its_own() {
        let dropped = IntCounter::new("dropped", "dropped").unwrap();
        let buffer = Buffer::new(1 << 20, &dropped);
        let (mut disk, mut batch, mut is_partial) = (PartialWriter(6, Vec::new()), Vec::new(), false);
        for line in ["one\n", "two\n", "three\n"] {
            buffer.push(line.as_bytes());
            buffer.next(&mut batch);
            buffer.write(&mut disk, &batch, &mut is_partial);
        }
        assert_eq!(String::from_utf8(disk.1).unwrap(), "one\ntw\nthree\n");
        assert_eq!(dropped.get(), 1);
    }
}
