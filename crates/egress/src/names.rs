//! Made-up addresses: one for each name a workspace asks for, the same for ever.
//!
//! A workspace has its own table and file (`names/<workspace>`, one name a line, the line's number is the address), so
//! that no workspace can use up another's addresses or learn its names. A line is written before its address is given
//! out; after a restart, connections to addresses that programs remember still find their name.

use std::{
    collections::HashMap,
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use freehold_model::WorkspaceId;

use crate::state::lock;

/// Addresses in a range: a /15 of IPv4.
const RANGE: u32 = 1 << 17;

/// The ranges that addresses are made up from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ranges {
    pub(crate) v4: Ipv4Addr,
    pub(crate) v6: Ipv6Addr,
}

impl Ranges {
    /// The addresses of a name. The first of a range is left out: programs take it for a network's.
    pub(crate) fn addresses(self, index: u32) -> (Ipv4Addr, Ipv6Addr) {
        let offset = index + 1;
        let v4 = Ipv4Addr::from(u32::from(self.v4).wrapping_add(offset));
        let v6 = Ipv6Addr::from(u128::from(self.v6).wrapping_add(u128::from(offset)));
        (v4, v6)
    }

    /// The place of an address in its range: `None` outside the ranges, `Some(None)` for one that is no name's.
    pub(crate) fn index(self, address: IpAddr) -> Option<Option<u32>> {
        let offset = match address {
            IpAddr::V4(v4) => u32::from(v4).checked_sub(u32::from(self.v4)),
            IpAddr::V6(v6) => u128::from(v6).checked_sub(u128::from(self.v6)).and_then(|n| n.try_into().ok()),
        }?;
        (offset < RANGE).then(|| offset.checked_sub(1))
    }
}

/// Why a name has no address.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NameError {
    #[error("the workspace has asked for too many names")]
    Exhausted,
    #[error("failed to write the table of names")]
    File(#[source] io::Error),
    #[error("the workspace is stopped")]
    Closed,
}

/// One workspace's names.
pub(crate) struct Names {
    /// None: it is closed.
    table: Mutex<Option<Table>>,
    max: u32,
}

struct Table {
    by_name: HashMap<Arc<str>, u32>,
    by_index: Vec<Arc<str>>,
    file: File,
    /// Where the next line begins. Half a line behind it, which a full disk left, is written over.
    end: u64,
}

impl Names {
    /// The file of a workspace's names.
    pub(crate) fn path(state_dir: &Path, workspace: WorkspaceId) -> PathBuf {
        state_dir.join("names").join(workspace.to_string())
    }

    /// Opens the table, empty when there is none. A last line without its end was never given out and is cut off.
    pub(crate) fn open(path: &Path, max: u32) -> io::Result<Self> {
        if let Some(dir) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        let whole = text.rfind('\n').map_or(0, |at| at + 1);
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let end = whole as u64;
        file.set_len(end)?;
        let by_index: Vec<Arc<str>> = text[..whole].lines().map(Into::into).collect();
        let by_name = by_index.iter().cloned().zip(0..).collect();
        let table = Table { by_name, by_index, file, end };
        Ok(Self { table: Mutex::new(Some(table)), max: max.min(RANGE - 1) })
    }

    /// The index of a name (in normal form), a new one when it was never asked for.
    pub(crate) fn index(&self, name: &str) -> Result<u32, NameError> {
        let mut table = lock(&self.table);
        let table = table.as_mut().ok_or(NameError::Closed)?;
        if let Some(index) = table.by_name.get(name) {
            return Ok(*index);
        }
        let index = u32::try_from(table.by_index.len()).map_err(|_| NameError::Exhausted)?;
        if index >= self.max {
            return Err(NameError::Exhausted);
        }
        let line = format!("{name}\n");
        table.file.write_all_at(line.as_bytes(), table.end).map_err(NameError::File)?;
        table.end += line.len() as u64;
        let name: Arc<str> = name.into();
        table.by_index.push(Arc::clone(&name));
        table.by_name.insert(name, index);
        Ok(index)
    }

    /// The name behind an index.
    pub(crate) fn name(&self, index: u32) -> Option<Arc<str>> {
        lock(&self.table).as_ref()?.by_index.get(usize::try_from(index).ok()?).cloned()
    }

    /// Lets go of the file and of what was read from it. Nothing is written after this, whoever still has the table: it may
    /// be opened again.
    pub(crate) fn close(&self) {
        lock(&self.table).take();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const RANGES: Ranges =
        Ranges { v4: Ipv4Addr::new(198, 18, 0, 0), v6: Ipv6Addr::new(0xfd66, 0, 0, 0, 0, 0, 0, 0) };

    #[test]
    fn an_address_leads_back_to_its_index() {
        for index in [0, 1, 255, 8_191, RANGE - 2] {
            let (v4, v6) = RANGES.addresses(index);
            assert_eq!(RANGES.index(v4.into()), Some(Some(index)));
            assert_eq!(RANGES.index(v6.into()), Some(Some(index)));
        }
        assert_eq!(RANGES.index("198.18.0.0".parse().unwrap()), Some(None));
        for outside in ["198.17.255.255", "198.20.0.0", "1.1.1.1", "fd65::1", "fd66::2:0:1", "::1"] {
            assert_eq!(RANGES.index(outside.parse().unwrap()), None, "{outside}");
        }
    }

    #[test]
    fn names_keep_their_place_over_a_restart_and_a_torn_line_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("names/w");
        let names = Names::open(&path, 10).unwrap();
        assert_eq!((names.index("a.test").unwrap(), names.index("b.test").unwrap()), (0, 1));
        assert_eq!(names.index("a.test").unwrap(), 0);
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"c.te").unwrap();
        let again = Names::open(&path, 10).unwrap();
        assert_eq!(again.name(1).as_deref(), Some("b.test"));
        assert_eq!(again.name(2), None);
        assert_eq!(again.index("d.test").unwrap(), 2);
        assert_eq!(Names::open(&path, 10).unwrap().name(2).as_deref(), Some("d.test"));
    }

    #[test]
    fn half_a_line_that_could_not_be_written_whole_is_no_part_of_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w");
        let names = Names::open(&path, 10).unwrap();
        names.index("a.test").unwrap();
        // As a full disk would.
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"a-longer-name.te").unwrap();
        assert_eq!((names.index("b.test").unwrap(), names.index("c.test").unwrap()), (1, 2));
        let again = Names::open(&path, 10).unwrap();
        let found = [0, 1, 2, 3].map(|index| again.name(index));
        assert_eq!(
            found.each_ref().map(Option::as_deref),
            [Some("a.test"), Some("b.test"), Some("c.test"), None]
        );
    }

    #[test]
    fn a_table_that_is_closed_writes_no_more_into_the_file_of_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w");
        let names = Names::open(&path, 10).unwrap();
        names.index("a.test").unwrap();
        names.close();
        let again = Names::open(&path, 10).unwrap();
        assert!(matches!(names.index("b.test"), Err(NameError::Closed)));
        assert_eq!((names.name(0), again.name(0).as_deref()), (None, Some("a.test")));
        assert_eq!(again.index("c.test").unwrap(), 1);
    }

    #[test]
    fn a_workspace_has_a_limit_of_names() {
        let dir = tempfile::tempdir().unwrap();
        let names = Names::open(&dir.path().join("w"), 1).unwrap();
        assert_eq!(names.index("a.test").unwrap(), 0);
        assert!(matches!(names.index("b.test"), Err(NameError::Exhausted)));
        assert_eq!(names.index("a.test").unwrap(), 0);
    }
}
