//! Opening files: models, and the external data below a model's folder.
//!
//! A file is opened once, without blocking (a pipe or device is refused by its type, on the open descriptor) and mapped. External
//! data is resolved by the kernel strictly beneath the model's folder (`openat2` with `RESOLVE_BENEATH`), or component by
//! component without following links where that call is missing. Constants are ranges of the mapped files.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::{ErrorKind, Res, escape};

/// Bytes that stay alive as long as somebody uses them: a mapped file, or memory.
#[derive(Clone)]
pub struct Bytes {
    owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
    range: Range<usize>,
}

impl Bytes {
    /// All bytes of `owner`.
    pub fn new(owner: Arc<dyn AsRef<[u8]> + Send + Sync>) -> Bytes {
        let length = owner.as_ref().as_ref().len();
        Bytes {
            owner,
            range: 0..length,
        }
    }

    /// A part of these bytes, if it lies within them.
    pub fn slice(&self, range: Range<usize>) -> Option<Bytes> {
        if range.start > range.end || range.end > self.range.len() {
            return None;
        }
        let start = self.range.start.checked_add(range.start)?;
        Some(Bytes {
            owner: self.owner.clone(),
            range: start..start.checked_add(range.len())?,
        })
    }

    /// What keeps the bytes alive, and which part of it they are.
    pub fn into_parts(self) -> (Arc<dyn AsRef<[u8]> + Send + Sync>, Range<usize>) {
        (self.owner, self.range)
    }
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // The range was checked against the owner when it was made.
        (*self.owner).as_ref().get(self.range.clone()).unwrap_or_default()
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Bytes {
        Bytes::new(Arc::new(bytes))
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bytes({})", self.range.len())
    }
}

const READ: OFlags = OFlags::RDONLY
    .union(OFlags::CLOEXEC)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY);

/// Opens and maps a regular file. Errors name the cause, not the file.
pub fn map_file(path: &Path) -> Res<Bytes> {
    let fd = rustix::fs::open(path, READ, Mode::empty()).map_err(|e| ErrorKind::Io(describe(e)))?;
    map_fd(fd)
}

/// Opens a file after checking that it is a regular one; gives its size too.
pub fn open_file(path: &Path) -> Res<(File, u64)> {
    let fd = rustix::fs::open(path, READ, Mode::empty()).map_err(|e| ErrorKind::Io(describe(e)))?;
    let size = regular_size(&fd)?;
    Ok((File::from(fd), size))
}

/// Size of an open regular file.
fn regular_size(fd: &OwnedFd) -> Res<u64> {
    let stat = rustix::fs::fstat(fd).map_err(|e| ErrorKind::Io(describe(e)))?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind != FileType::RegularFile {
        return Err(ErrorKind::Io(format!(
            "is {}, expected a regular file",
            kind_name(kind)
        )));
    }
    Ok(u64::try_from(stat.st_size).unwrap_or(0))
}

/// Maps an open descriptor after checking that it is a regular file.
fn map_fd(fd: OwnedFd) -> Res<Bytes> {
    let size = regular_size(&fd)?;
    if size == 0 {
        return Ok(Vec::new().into());
    }
    let file = File::from(fd);
    // SAFETY: the map is private and read only. If another process truncates the file meanwhile, reading it faults; rsqc
    // asks its users not to change a model while it is being compiled, as every tool that maps files does.
    let map =
        unsafe { Mmap::map(&file) }.map_err(|e| ErrorKind::Io(format!("cannot map {size} bytes: {e}")))?;
    Ok(Bytes::new(Arc::new(map)))
}

fn kind_name(kind: FileType) -> &'static str {
    match kind {
        FileType::Directory => "a directory",
        FileType::Fifo => "a pipe",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        _ => "of an unknown kind",
    }
}

fn describe(e: Errno) -> String {
    match e {
        Errno::NOENT => "no such file".into(),
        Errno::ACCESS | Errno::PERM => "permission denied".into(),
        Errno::ISDIR => "is a directory, expected a regular file".into(),
        Errno::NOTDIR => "a part of the path is not a folder".into(),
        Errno::LOOP => "a symbolic link that may not be followed".into(),
        Errno::XDEV => "the path leaves the model's folder".into(),
        // A socket, or a device without a driver, cannot be opened at all.
        Errno::NXIO => "is not a regular file".into(),
        Errno::NAMETOOLONG => "the path is too long".into(),
        e => std::io::Error::from(e).to_string(),
    }
}

/// The external data files of one model.
#[derive(Default)]
pub struct ExternalFiles {
    /// The model's folder; `None` for a model that did not come from a file.
    folder: Option<OwnedFd>,
    files: BTreeMap<String, Bytes>,
}

/// Most external files of one model.
const MAX_FILES: usize = 4096;

impl ExternalFiles {
    /// External data below the folder of the model at `path`.
    pub fn beside(path: &Path) -> Res<ExternalFiles> {
        let folder = match path.parent() {
            Some(p) if !p.as_os_str().is_empty() => p,
            _ => Path::new("."),
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(folder, flags, Mode::empty()).map_err(|e| ErrorKind::Io(describe(e)))?;
        Ok(ExternalFiles {
            folder: Some(fd),
            files: BTreeMap::new(),
        })
    }

    /// The bytes of `location`, opened on first use. The error text names the location.
    pub fn open(&mut self, location: &str) -> Res<Bytes> {
        if let Some(bytes) = self.files.get(location) {
            return Ok(bytes.clone());
        }
        let fail = |what: &str| ErrorKind::Io(format!("external data '{}': {what}", escape(location)));
        let Some(folder) = &self.folder else {
            return Err(fail("the model has no folder"));
        };
        let parts = check_location(location).map_err(fail)?;
        if self.files.len() >= MAX_FILES {
            return Err(ErrorKind::TooLarge {
                what: "the number of external data files".into(),
                found: (MAX_FILES as u64).saturating_add(1),
                limit: MAX_FILES as u64,
            });
        }
        let bytes = open_beneath(folder, &parts)
            .and_then(map_fd)
            .map_err(|e| fail(&e.to_string()))?;
        self.files.insert(location.to_owned(), bytes.clone());
        Ok(bytes)
    }
}

/// The components of a location: relative, without `..`, without NUL.
fn check_location(location: &str) -> Result<Vec<&str>, &'static str> {
    if location.is_empty() {
        return Err("the location is empty");
    }
    if location.contains('\0') {
        return Err("the location contains a NUL character");
    }
    if location.starts_with('/') || location.starts_with('\\') || location.as_bytes().get(1) == Some(&b':') {
        return Err("the location is absolute, expected a path below the model's folder");
    }
    let parts: Vec<&str> = location
        .split('/')
        .filter(|p| !p.is_empty() && *p != ".")
        .collect();
    if parts
        .iter()
        .any(|p| *p == ".." || p.split('\\').any(|q| q == ".."))
    {
        return Err("the location contains '..', expected a path below the model's folder");
    }
    if parts.is_empty() || location.ends_with('/') {
        return Err("the location names a folder, expected a file");
    }
    if parts.len() > 64 {
        return Err("the location has more than 64 components");
    }
    Ok(parts)
}

/// Opens a path below `folder`. Links are followed by the kernel only as long as they stay below it.
fn open_beneath(folder: &OwnedFd, parts: &[&str]) -> Res<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(folder, parts.join("/"), READ, Mode::empty(), resolve) {
        Err(Errno::NOSYS | Errno::PERM | Errno::INVAL | Errno::AGAIN) => open_stepwise(folder, parts),
        other => other.map_err(|e| ErrorKind::Io(describe(e))),
    }
}

/// As [`open_beneath`] without kernel support: one component at a time, no links at all.
fn open_stepwise(folder: &OwnedFd, parts: &[&str]) -> Res<OwnedFd> {
    let Some((file, folders)) = parts.split_last() else {
        return Err(ErrorKind::Io("the location is empty".into()));
    };
    let mut held: Option<OwnedFd> = None;
    for part in folders {
        let at = held.as_ref().unwrap_or(folder).as_fd();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let next =
            rustix::fs::openat(at, *part, flags, Mode::empty()).map_err(|e| ErrorKind::Io(describe(e)))?;
        held = Some(next);
    }
    let at = held.as_ref().unwrap_or(folder).as_fd();
    rustix::fs::openat(at, *file, READ | OFlags::NOFOLLOW, Mode::empty())
        .map_err(|e| ErrorKind::Io(describe(e)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn external_files_stay_below_the_folder() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("secret"), b"secret").unwrap();
        let dir = root.path().join("m");
        std::fs::create_dir_all(dir.join("sub")).unwrap();
        std::fs::write(dir.join("a.bin"), b"abc").unwrap();
        std::fs::write(dir.join("sub/b.bin"), b"sub").unwrap();
        symlink("../secret", dir.join("out")).unwrap();
        symlink("..", dir.join("up")).unwrap();
        symlink("/dev/null", dir.join("null")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            dir.join("pipe"),
            FileType::Fifo,
            Mode::RUSR | Mode::WUSR,
            0,
        )
        .unwrap();
        let mut files = ExternalFiles::beside(&dir.join("model.onnx")).unwrap();
        assert_eq!(&*files.open("a.bin").unwrap(), b"abc");
        assert_eq!(&*files.open("./sub//b.bin").unwrap(), b"sub");
        for bad in [
            "../secret",
            "/etc/passwd",
            "out",
            "up/secret",
            "null",
            "pipe",
            "sub",
            "sub/",
            "nope",
            "",
            "a\0b",
            "sub/../../secret",
            "C:\\x",
            ".",
        ] {
            let e = files.open(bad).unwrap_err().to_string();
            assert!(e.starts_with("external data '"), "{e}");
        }
    }

    #[test]
    fn stepwise_opening_follows_no_link() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("d")).unwrap();
        std::fs::write(root.path().join("d/x"), b"x").unwrap();
        symlink("d", root.path().join("l")).unwrap();
        symlink("d/x", root.path().join("y")).unwrap();
        let files = ExternalFiles::beside(&root.path().join("m.onnx")).unwrap();
        let folder = files.folder.as_ref().unwrap();
        assert!(open_stepwise(folder, &["d", "x"]).is_ok());
        assert!(open_stepwise(folder, &["l", "x"]).is_err());
        assert!(open_stepwise(folder, &["y"]).is_err());
    }

    #[test]
    fn only_regular_files_are_mapped() {
        let root = tempfile::tempdir().unwrap();
        assert!(
            map_file(root.path())
                .unwrap_err()
                .to_string()
                .contains("directory")
        );
        assert!(
            map_file(&root.path().join("none"))
                .unwrap_err()
                .to_string()
                .contains("no such file")
        );
        assert!(
            map_file(Path::new("/dev/zero"))
                .unwrap_err()
                .to_string()
                .contains("device")
        );
        let empty = root.path().join("e");
        std::fs::write(&empty, b"").unwrap();
        assert!(map_file(&empty).unwrap().is_empty());
    }
}
