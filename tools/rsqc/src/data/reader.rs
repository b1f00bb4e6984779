//! Reading an open file at a position of one's own: clones share the file, not the place, and nothing is mapped, so that
//! the memory of a long walk over a large file does not grow.

use std::fs::File;
use std::io::{Error, ErrorKind, Read, Result, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Bytes that are read ahead for small requests.
const AHEAD: usize = 8 << 10;

/// A reader with its own position.
#[derive(Clone)]
pub(super) struct FileReader {
    file: Arc<File>,
    size: u64,
    at: u64,
    /// Bytes read ahead, and where in the file they begin.
    ahead: Vec<u8>,
    start: u64,
}

impl FileReader {
    /// At the start of a file of this size.
    pub fn new(file: File, size: u64) -> Self {
        FileReader {
            file: Arc::new(file),
            size,
            at: 0,
            ahead: Vec::new(),
            start: 0,
        }
    }

    /// The bytes read ahead that lie at the position.
    fn ready(&self) -> &[u8] {
        let skip = self
            .at
            .checked_sub(self.start)
            .and_then(|s| usize::try_from(s).ok());
        skip.and_then(|s| self.ahead.get(s..)).unwrap_or_default()
    }
}

impl Read for FileReader {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        if self.ready().is_empty() {
            if buf.len() >= AHEAD {
                let n = self.file.read_at(buf, self.at)?;
                self.at += n as u64;
                return Ok(n);
            }
            self.ahead.resize(AHEAD, 0);
            let read = self.file.read_at(&mut self.ahead, self.at);
            self.ahead.truncate(*read.as_ref().unwrap_or(&0));
            self.start = self.at;
            read?;
        }
        let ready = self.ready();
        let n = ready.len().min(buf.len());
        buf[..n].copy_from_slice(&ready[..n]);
        self.at += n as u64;
        Ok(n)
    }
}

impl Seek for FileReader {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        let place = match to {
            SeekFrom::Start(n) => Some(n),
            SeekFrom::End(d) => self.size.checked_add_signed(d),
            SeekFrom::Current(d) => self.at.checked_add_signed(d),
        };
        self.at = place.ok_or_else(|| Error::from(ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_at_its_own_place() {
        let bytes: Vec<u8> = (0..40_000u32).map(|i| (i % 251) as u8).collect();
        let path = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(path.path(), &bytes).expect("written");
        let mut a = FileReader::new(File::open(path.path()).expect("opens"), bytes.len() as u64);
        let mut b = a.clone();
        let mut random = 7usize;
        for _ in 0..500 {
            random = random
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            let (at, n) = ((random >> 33) % 41_000, (random >> 17) % 20_000 + 1);
            let r = if random & 1 == 0 { &mut a } else { &mut b };
            r.seek(SeekFrom::End(at as i64 - bytes.len() as i64))
                .expect("in range");
            let mut buf = vec![0; n];
            let (mut done, want) = (0, bytes.get(at..).unwrap_or_default());
            while let Ok(k @ 1..) = r.read(&mut buf[done..]) {
                done += k;
            }
            assert_eq!(buf[..done], want[..n.min(want.len())]);
        }
        assert!(a.seek(SeekFrom::Current(i64::MIN)).is_err());
    }
}
