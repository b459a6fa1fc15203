//! Writing a file so that it is there whole or not at all.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::error::SnapshotError;

/// Names that are tried for the file beside: more would mean that something else is wrong.
const ATTEMPTS: u32 = 100;

/// Lets `write` fill a new file in the same folder, makes sure that it is on the disk, and gives
/// it the name `path`. Whoever reads `path` meanwhile finds the old file.
pub(super) fn write_aside(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<(), SnapshotError>,
) -> Result<(), SnapshotError> {
    let (beside, file) = create_beside(path)?;
    let written = fill(&beside, file, write).and_then(|()| {
        fs::rename(&beside, path)
            .map_err(|source| SnapshotError::File { path: path.to_owned(), source })
    });
    if written.is_err() {
        // What is left would only take up room. The error that led here is the one to report.
        let _ = fs::remove_file(&beside);
    }
    written?;
    sync_folder(path)
}

fn fill(
    path: &Path,
    file: File,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<(), SnapshotError>,
) -> Result<(), SnapshotError> {
    let error = |source| SnapshotError::File { path: path.to_owned(), source };
    let mut writer = BufWriter::new(file);
    write(&mut writer)?;
    writer.flush().map_err(error)?;
    writer.get_ref().sync_all().map_err(error)
}

/// A new file with the name of `path` and an ending of its own.
fn create_beside(path: &Path) -> Result<(PathBuf, File), SnapshotError> {
    let error = |source| SnapshotError::File { path: path.to_owned(), source };
    let name = path.file_name().ok_or_else(|| error(ErrorKind::InvalidInput.into()))?;
    for attempt in 0..ATTEMPTS {
        let mut name = OsString::from(name);
        name.push(format!(".{}-{attempt}.part", std::process::id()));
        let beside = path.with_file_name(name);
        match OpenOptions::new().write(true).create_new(true).open(&beside) {
            Ok(file) => return Ok((beside, file)),
            Err(source) if source.kind() == ErrorKind::AlreadyExists => {}
            Err(source) => return Err(SnapshotError::File { path: beside, source }),
        }
    }
    Err(error(ErrorKind::AlreadyExists.into()))
}

/// The new name is on the disk only when its folder is.
#[cfg(unix)]
fn sync_folder(path: &Path) -> Result<(), SnapshotError> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|source| SnapshotError::File { path: folder.to_owned(), source })
}

/// Folders cannot be opened as files everywhere.
#[cfg(not(unix))]
fn sync_folder(_path: &Path) -> Result<(), SnapshotError> {
    Ok(())
}
