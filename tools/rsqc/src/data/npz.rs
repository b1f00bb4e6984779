//! NumPy's `.npz` archives: a zip file of `.npy` members.
//!
//! The archive is read where it lies, never mapped or held in memory; members are read one at a time. Overlapping members, encryption, links and claims beyond the
//! limits are refused. A compressed member may grow to [`MAX_RATIO`] times its size or to [`SMALL`] bytes.

use std::collections::BTreeMap;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use rsqc_onnx::error::{escape, escape_bytes};
use rsqc_onnx::source::{map_file, open_file};
use zip::{CompressionMethod, DateTime, ZipArchive, ZipWriter, write::SimpleFileOptions};

use super::reader::FileReader;
use super::{Array, DataError, npy};

/// Growth that decompression may show beyond [`SMALL`]. Masks and token ids reach some hundreds.
pub const MAX_RATIO: u64 = 200;
/// Decompressed size that is always allowed, in bytes.
pub const SMALL: u64 = 64 << 20;
/// Most members of one archive.
pub const MAX_MEMBERS: usize = 200_000;

/// An open archive.
pub struct Npz {
    path: PathBuf,
    zip: ZipArchive<FileReader>,
    members: BTreeMap<String, usize>,
}

impl Npz {
    /// Opens an archive and checks its directory.
    pub fn open(path: &Path) -> Result<Npz, DataError> {
        let fail = |what: String| DataError::new(path, what);
        let (file, size) = open_file(path).map_err(|e| fail(e.to_string()))?;
        let mut zip = ZipArchive::new(FileReader::new(file, size))
            .map_err(|e| fail(format!("not a readable zip archive: {e}")))?;
        if zip.len() > MAX_MEMBERS {
            return Err(fail(format!(
                "has {} members, over the limit of {MAX_MEMBERS}",
                zip.len()
            )));
        }
        if zip
            .has_overlapping_entries()
            .map_err(|e| fail(format!("damaged zip directory: {e}")))?
        {
            return Err(fail("its zip members overlap".into()));
        }
        let mut members = BTreeMap::new();
        for index in 0..zip.len() {
            let entry = zip
                .by_index_raw(index)
                .map_err(|e| fail(format!("zip member {index}: {e}")))?;
            let raw = entry.name_raw().to_vec();
            let shown = escape_bytes(&raw);
            if entry.encrypted() {
                return Err(fail(format!("member '{shown}' is encrypted")));
            }
            if entry.is_dir() {
                continue;
            }
            let name = String::from_utf8(raw)
                .map_err(|_| fail(format!("member '{shown}' has a name that is not UTF-8")))?;
            let Some(name) = name.strip_suffix(".npy") else {
                return Err(fail(format!("member '{shown}' is not an .npy array")));
            };
            if members.insert(name.to_owned(), index).is_some() {
                return Err(fail(format!("member '{shown}' is there twice")));
            }
        }
        Ok(Npz {
            path: path.to_owned(),
            zip,
            members,
        })
    }

    /// Names of the arrays, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.members.keys().map(String::as_str)
    }

    /// Whether there is an array of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.members.contains_key(name)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Type and shape of an array, without its data.
    pub fn header(&mut self, name: &str) -> Result<npy::Header, DataError> {
        self.with_member(name, |entry| npy::read_header(entry))
    }

    /// An array.
    pub fn read(&mut self, name: &str) -> Result<Array, DataError> {
        self.with_member(name, |entry| {
            let header = npy::read_header(entry)?;
            npy::read_data(entry, &header)
        })
    }

    /// Independent readers of the same archive, for reading several members in step.
    pub(super) fn clones(&self, n: usize) -> Vec<Npz> {
        let one = || Npz {
            path: self.path.clone(),
            zip: self.zip.clone(),
            members: self.members.clone(),
        };
        (0..n).map(|_| one()).collect()
    }

    /// A reader that stands behind the header of an array.
    pub(super) fn open_data(&mut self, name: &str) -> Result<Limited<'_>, DataError> {
        let path = self.path.clone();
        let mut reader = self.member(name)?;
        npy::read_header(&mut reader).map_err(|what| named(&path, name, what))?;
        Ok(reader)
    }

    fn with_member<T>(
        &mut self,
        name: &str,
        f: impl FnOnce(&mut Limited<'_>) -> Result<T, String>,
    ) -> Result<T, DataError> {
        let path = self.path.clone();
        f(&mut self.member(name)?).map_err(|what| named(&path, name, what))
    }

    fn member(&mut self, name: &str) -> Result<Limited<'_>, DataError> {
        let fail = |what: String| named(&self.path, name, what);
        let Some(&index) = self.members.get(name) else {
            return Err(fail("is missing".into()));
        };
        let entry = self.zip.by_index(index).map_err(|e| fail(e.to_string()))?;
        let limit = SMALL.max(entry.compressed_size().saturating_mul(MAX_RATIO));
        if entry.size() > limit {
            return Err(fail(format!(
                "claims to decompress to {} bytes, over the limit of {limit}",
                entry.size()
            )));
        }
        Ok(Limited {
            inner: Box::new(entry),
            left: limit,
        })
    }
}

fn named(path: &Path, name: &str, what: String) -> DataError {
    DataError::new(path, format!("array '{}': {what}", escape(name)))
}

/// A reader that fails beyond a limit, so that an archive that lies about sizes cannot fill the memory.
pub(super) struct Limited<'a> {
    inner: Box<dyn Read + 'a>,
    left: u64,
}

impl Read for Limited<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buf)?;
        match self.left.checked_sub(n as u64) {
            Some(left) => self.left = left,
            None => return Err(std::io::Error::other("decompresses to more than its limit")),
        }
        Ok(n)
    }
}

/// Reads one `.npy` file.
pub fn read_npy(path: &Path) -> Result<Array, DataError> {
    let fail = |what: String| DataError::new(path, what);
    let bytes = map_file(path).map_err(|e| fail(e.to_string()))?;
    let mut rest: &[u8] = &bytes;
    let header = npy::read_header(&mut rest).map_err(fail)?;
    npy::read_data(&mut rest, &header).map_err(fail)
}

/// Writes named arrays as an archive: stored, in the given order, with fixed dates, so that equal data gives equal bytes.
pub fn write_npz<'a>(
    w: impl Write + Seek,
    arrays: impl IntoIterator<Item = (&'a str, &'a Array)>,
) -> Result<(), String> {
    let mut zip = ZipWriter::new(w);
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .last_modified_time(DateTime::default());
    for (name, array) in arrays {
        let large = array.data.len() as u64 > u64::from(u32::MAX) - (1 << 16);
        zip.start_file(format!("{name}.npy"), options.large_file(large))
            .map_err(|e| e.to_string())?;
        npy::write(&mut zip, array.ty, &array.shape, &array.data).map_err(|e| e.to_string())?;
    }
    zip.finish()
        .map_err(|e| e.to_string())?
        .flush()
        .map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rsqc_ir::types::ScalarType;
    use std::io::Cursor;

    fn zip_with(members: &[(&str, &[u8])], method: CompressionMethod) -> Vec<u8> {
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, bytes) in members {
            zip.start_file(*name, SimpleFileOptions::default().compression_method(method))
                .unwrap();
            zip.write_all(bytes).unwrap();
        }
        zip.finish().unwrap().into_inner()
    }

    fn open(bytes: &[u8]) -> (tempfile::TempDir, Result<Npz, DataError>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.npz");
        std::fs::write(&path, bytes).unwrap();
        let npz = Npz::open(&path);
        (dir, npz)
    }

    fn array(n: usize) -> Array {
        Array {
            ty: ScalarType::F32,
            shape: vec![n],
            data: vec![1; 4 * n],
        }
    }

    #[test]
    fn round_trip_is_deterministic() {
        let (a, b) = (array(3), array(0));
        let write = || {
            let mut out = Cursor::new(Vec::new());
            write_npz(&mut out, [("a", &a), ("0/b", &b)]).unwrap();
            out.into_inner()
        };
        assert_eq!(write(), write());
        let (_dir, npz) = open(&write());
        let mut npz = npz.unwrap();
        assert_eq!(npz.names().collect::<Vec<_>>(), ["0/b", "a"]);
        assert_eq!(npz.read("a").unwrap(), a);
        assert_eq!(npz.header("0/b").unwrap().shape, [0]);
        assert!(npz.read("nope").unwrap_err().to_string().contains("missing"));
    }

    #[test]
    fn bombs_and_strangers_are_refused() {
        let mut header = Vec::new();
        npy::write(&mut header, ScalarType::U8, &[80 << 20], &[]).unwrap();
        header.resize(header.len() + (80 << 20), 0);
        let (_d, npz) = open(&zip_with(&[("z.npy", &header)], CompressionMethod::Deflated));
        assert!(
            npz.unwrap()
                .read("z")
                .unwrap_err()
                .to_string()
                .contains("over the limit")
        );
        let (_d, npz) = open(&zip_with(&[("evil.txt", b"x")], CompressionMethod::Stored));
        assert!(npz.err().unwrap().to_string().contains("not an .npy array"));
        let (_d, npz) = open(b"not a zip at all");
        assert!(npz.err().unwrap().to_string().contains("zip archive"));
    }

    #[test]
    fn damage_never_panics() {
        let mut out = Cursor::new(Vec::new());
        write_npz(&mut out, [("a", &array(5)), ("b", &array(2))]).unwrap();
        let good = out.into_inner();
        for cut in 0..good.len() {
            let (_d, npz) = open(&good[..cut]);
            assert!(npz.is_err(), "cut at {cut}");
        }
        let mut seed = 1u32;
        for _ in 0..400 {
            seed = seed.wrapping_mul(1664525).wrapping_add(1013904223);
            let mut bad = good.clone();
            let at = (seed >> 8) as usize % bad.len();
            bad[at] ^= 1 << (seed & 7);
            let (_d, npz) = open(&bad);
            if let Ok(mut npz) = npz {
                let names: Vec<String> = npz.names().map(str::to_owned).collect();
                for name in names {
                    let _ = npz.read(&name);
                }
            }
        }
    }
}
