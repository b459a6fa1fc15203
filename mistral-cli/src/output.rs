//! Files and folders that are there whole or not at all.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process;

use crate::failure::Failure;

/// Written under another name beside its target, and renamed when it is complete. Dropped before
/// that, it is removed, and the target stays as it was.
#[derive(Debug)]
pub(crate) struct WholeFile {
    target: PathBuf,
    temporary: PathBuf,
    file: BufWriter<File>,
}

impl WholeFile {
    /// A file for everybody whom the system lets read new ones. An old one keeps its permissions.
    pub(crate) fn create(target: &Path) -> Result<Self, Failure> {
        Self::open(target, File::options())
    }

    /// A file for its owner alone. An old one keeps its permissions.
    pub(crate) fn create_private(target: &Path) -> Result<Self, Failure> {
        let mut options = File::options();
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        Self::open(target, options)
    }

    fn open(target: &Path, mut options: OpenOptions) -> Result<Self, Failure> {
        // The rename would replace a link, and not the file that it points to.
        let target = behind_links(target);
        // It would also replace a device such as /dev/null, for those who may.
        let old = fs::metadata(&target).ok();
        let other = old.as_ref().is_some_and(|found| !found.is_file());
        let name = target.file_name().filter(|_| !other);
        let Some(name) = name else {
            return Err(Failure::NotAFile { path: target });
        };
        let temporary = target.with_file_name(temporary_name(name));
        match options.write(true).create_new(true).open(&temporary) {
            Err(source) => Err(Failure::Output { path: target, source }),
            Ok(file) => {
                let new = Self { target, temporary, file: BufWriter::new(file) };
                let keep = |old: Metadata| new.file.get_ref().set_permissions(old.permissions());
                old.map_or(Ok(()), keep).map_err(|source| new.failure(source))?;
                Ok(new)
            }
        }
    }

    /// Where the bytes lie until [`commit`](Self::commit).
    pub(crate) fn temporary(&self) -> &Path {
        &self.temporary
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let written = self.file.write_all(bytes);
        written.map_err(|source| self.failure(source))
    }

    /// The file is complete. It is on disk before it has its name.
    pub(crate) fn commit(mut self) -> Result<(), Failure> {
        let written = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        let done = written.and_then(|()| fs::rename(&self.temporary, &self.target));
        done.map_err(|source| self.failure(source))
    }

    fn failure(&self, source: io::Error) -> Failure {
        Failure::Output { path: self.target.clone(), source }
    }
}

impl Drop for WholeFile {
    fn drop(&mut self) {
        // After a commit there is nothing of this name any more.
        let _ = fs::remove_file(&self.temporary);
    }
}

/// A folder written under another name beside its target, and renamed when it is complete. Dropped
/// before that, it is removed.
#[derive(Debug)]
pub(crate) struct WholeFolder {
    target: PathBuf,
    temporary: PathBuf,
}

impl WholeFolder {
    /// A folder that is not there yet.
    pub(crate) fn create(target: &Path) -> Result<Self, Failure> {
        let name = target.file_name();
        let Some(name) = name.filter(|_| !target.exists()) else {
            return Err(Failure::Exists { path: target.to_owned() });
        };
        let temporary = target.with_file_name(temporary_name(name));
        match fs::create_dir(&temporary) {
            Ok(()) => Ok(Self { target: target.to_owned(), temporary }),
            Err(source) => Err(Failure::Output { path: target.to_owned(), source }),
        }
    }

    /// Where the files lie until [`commit`](Self::commit).
    pub(crate) fn temporary(&self) -> &Path {
        &self.temporary
    }

    /// Begins a file.
    pub(crate) fn file(&self, name: &str) -> Result<File, Failure> {
        File::create_new(self.temporary.join(name)).map_err(|source| self.failure(source))
    }

    /// Writes a small file.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Failure> {
        self.file(name)?.write_all(bytes).map_err(|source| self.failure(source))
    }

    /// The folder is complete.
    pub(crate) fn commit(self) -> Result<(), Failure> {
        fs::rename(&self.temporary, &self.target).map_err(|source| self.failure(source))
    }

    pub(crate) fn failure(&self, source: io::Error) -> Failure {
        Failure::Output { path: self.target.clone(), source }
    }
}

impl Drop for WholeFolder {
    fn drop(&mut self) {
        // After a commit there is nothing of this name any more.
        let _ = fs::remove_dir_all(&self.temporary);
    }
}

/// Where a path leads in the end, also where there is nothing yet.
fn behind_links(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    // As many as Linux follows.
    for _ in 0..40 {
        let Ok(link) = fs::read_link(&path) else { break };
        path = path.parent().map_or_else(|| link.clone(), |folder| folder.join(&link));
    }
    fs::canonicalize(&path).unwrap_or(path)
}

/// A name beside `name` that nothing else has.
fn temporary_name(name: &OsStr) -> OsString {
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}.part", process::id()));
    hidden
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::WholeFile;
    use crate::failure::Failure;

    #[test]
    fn the_old_file_stays_until_the_new_one_is_complete() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out");
        fs::write(&target, "old").unwrap();

        let mut dropped = WholeFile::create(&target).unwrap();
        dropped.write(b"half").unwrap();
        drop(dropped);
        assert_eq!(fs::read(&target).unwrap(), b"old");

        let mut whole = WholeFile::create(&target).unwrap();
        whole.write(b"new").unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"old");
        whole.commit().unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn a_file_keeps_its_permissions_and_its_links() {
        use std::os::unix::fs::{PermissionsExt, symlink};

        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let mode = |name| fs::metadata(at(name)).unwrap().permissions().mode() & 0o777;
        symlink("chat", at("link")).unwrap();
        // The first time the link leads nowhere.
        for (text, expected) in [("new", 0o600), ("newer", 0o640)] {
            let mut file = WholeFile::create_private(&at("link")).unwrap();
            file.write(text.as_bytes()).unwrap();
            file.commit().unwrap();
            assert_eq!(fs::read_to_string(at("chat")).unwrap(), text);
            assert_eq!(mode("chat"), expected);
            assert!(fs::symlink_metadata(at("link")).unwrap().is_symlink());
            fs::set_permissions(at("chat"), PermissionsExt::from_mode(0o640)).unwrap();
        }
        WholeFile::create(&at("public")).unwrap().commit().unwrap();
        fs::write(at("other"), "").unwrap();
        assert_eq!(mode("public"), mode("other"));
    }

    #[test]
    fn what_is_no_file_is_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let error = WholeFile::create(folder.path()).unwrap_err();
        assert!(matches!(error, Failure::NotAFile { .. }));
    }
}
