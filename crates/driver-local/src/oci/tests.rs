use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use serde_json::json;
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

use super::{Error, is_layout, root};

/// An image layout in the making.
struct Layout {
    dir: tempfile::TempDir,
    layers: Vec<serde_json::Value>,
}

/// What an entry of a layer is.
enum Entry<'a> {
    Dir(u32),
    File(&'a str),
    Link(&'a str),
    HardLink(&'a str),
}

fn archive(entries: &[(&str, Entry<'_>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, entry) in entries {
        let mut header = Header::new_gnu();
        // As a hostile archive would name it: the library refuses to.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        let (kind, mode, content, target) = match entry {
            Entry::Dir(mode) => (EntryType::Directory, *mode, "", ""),
            Entry::File(content) => (EntryType::Regular, 0o4644, *content, ""),
            Entry::Link(target) => (EntryType::Symlink, 0o777, "", *target),
            Entry::HardLink(target) => (EntryType::Link, 0o644, "", *target),
        };
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(7);
        header.set_gid(8);
        header.set_mtime(1_000_000);
        header.set_size(u64::try_from(content.len()).unwrap());
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        builder.append(&header, content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

impl Layout {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("blobs/sha256")).unwrap();
        fs::create_dir_all(dir.path().join("state/roots")).unwrap();
        fs::create_dir_all(dir.path().join("state/trash")).unwrap();
        fs::write(dir.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Self { dir, layers: Vec::new() }
    }

    fn blob(&self, bytes: &[u8], media_type: &str) -> serde_json::Value {
        let hex = hex::encode(Sha256::digest(bytes));
        fs::write(self.dir.path().join("blobs/sha256").join(&hex), bytes).unwrap();
        json!({"mediaType": media_type, "digest": format!("sha256:{hex}"), "size": bytes.len()})
    }

    fn layer(mut self, entries: &[(&str, Entry<'_>)]) -> Self {
        let blob = self.blob(&archive(entries), "application/vnd.oci.image.layer.v1.tar");
        self.layers.push(blob);
        self
    }

    fn gzip_layer(mut self, entries: &[(&str, Entry<'_>)]) -> Self {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&archive(entries)).unwrap();
        let bytes = encoder.finish().unwrap();
        let blob = self.blob(&bytes, "application/vnd.docker.image.rootfs.diff.tar.gzip");
        self.layers.push(blob);
        self
    }

    fn zstd_layer(mut self, entries: &[(&str, Entry<'_>)]) -> Self {
        let level = ruzstd::encoding::CompressionLevel::Fastest;
        let bytes = ruzstd::encoding::compress_to_vec(archive(entries).as_slice(), level);
        let blob = self.blob(&bytes, "application/vnd.oci.image.layer.v1.tar+zstd");
        self.layers.push(blob);
        self
    }

    /// Writes the manifest and an index with it, beside one for a machine that is not ours.
    fn written(self) -> Self {
        let manifest = json!({"schemaVersion": 2, "layers": self.layers});
        let manifest =
            self.blob(manifest.to_string().as_bytes(), "application/vnd.oci.image.manifest.v1+json");
        let mut other = manifest.clone();
        other["platform"] = json!({"architecture": "pdp11", "os": "unix"});
        let index = json!({"schemaVersion": 2, "manifests": [manifest, other]});
        fs::write(self.dir.path().join("index.json"), index.to_string()).unwrap();
        self
    }

    fn root(&self) -> Result<std::path::PathBuf, Error> {
        let state = self.dir.path().join("state");
        root(self.dir.path(), &state, &state.join("roots"))
    }

    fn failure(&self) -> String {
        let error = self.root().expect_err("it is not unpacked");
        let entries = fs::read_dir(self.dir.path().join("state/roots")).unwrap();
        assert_eq!(entries.count(), 0, "nothing is left of it");
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(one) = cause {
            text = format!("{text}: {one}");
            cause = one.source();
        }
        text
    }
}

/// Files and links of a tree with what is in them.
fn tree(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut next = vec![root.to_owned()];
    while let Some(dir) = next.pop() {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                next.push(path);
            } else if kind.is_symlink() {
                found.insert(name, format!("-> {}", fs::read_link(&path).unwrap().display()));
            } else {
                found.insert(name, fs::read_to_string(&path).unwrap());
            }
        }
    }
    found
}

fn listed(root: &Path) -> String {
    let tree = tree(root);
    tree.iter().map(|(name, content)| format!("{name}={content}")).collect::<Vec<_>>().join(" ")
}

#[test]
fn layers_of_all_kinds_lie_above_each_other() {
    use Entry::{Dir, File, HardLink, Link};
    let layout = Layout::new()
        .layer(&[
            ("./", Dir(0o755)),
            ("usr/", Dir(0o755)),
            ("usr/lib/", Dir(0o755)),
            ("lib", Link("usr/lib")),
        ])
        .gzip_layer(&[("lib/a", File("one")), ("deep/er/b", File("two"))])
        .zstd_layer(&[("usr/lib/a", File("three")), ("c", HardLink("lib/a"))])
        .written();
    let root = layout.root().unwrap();
    assert_eq!(listed(&root), "c=three deep/er/b=two lib=-> usr/lib usr/lib/a=three");
    assert_eq!(
        fs::metadata(root.join("c")).unwrap().ino(),
        fs::metadata(root.join("usr/lib/a")).unwrap().ino()
    );
    assert_eq!(layout.root().unwrap(), root, "it is unpacked once");
}

#[test]
fn whiteouts_take_away_what_earlier_layers_have_and_only_that() {
    use Entry::{Dir, File};
    let layout = Layout::new()
        .layer(&[("a/x", File("1")), ("a/y", File("1")), ("b/x", File("1")), ("b/sub/z", File("1"))])
        .layer(&[
            ("a/.wh.x", File("")),
            ("b/", Dir(0o755)),
            ("b/new", File("2")),
            ("b/.wh..wh..opq", File("")),
            ("gone/.wh.never", File("")),
        ])
        .written();
    let root = layout.root().unwrap();
    assert_eq!(listed(&root), "a/y=1 b/new=2");
}

#[test]
fn owners_modes_and_times_are_kept_as_far_as_the_user_may() {
    use Entry::{Dir, File};
    let layout = Layout::new().layer(&[("closed/", Dir(0o550)), ("closed/file", File("1"))]).written();
    let root = layout.root().unwrap();
    let file = fs::metadata(root.join("closed/file")).unwrap();
    assert_eq!(file.permissions().mode() & 0o7777, 0o644, "without the set-user-id bit");
    assert_eq!(file.mtime(), 1_000_000);
    let expected = if rustix::process::geteuid().is_root() {
        (7, 8)
    } else {
        (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
    };
    assert_eq!((file.uid(), file.gid()), expected);
    let closed = fs::metadata(root.join("closed")).unwrap();
    assert_eq!(closed.permissions().mode() & 0o7777, 0o550);
    fs::set_permissions(root.join("closed"), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn no_path_leads_out_of_the_root() {
    use Entry::{File, HardLink, Link};
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("victim"), "whole").unwrap();
    let up = Layout::new().layer(&[("../../evil", File("1"))]).written();
    assert!(up.failure().contains("is no path within the root"), "{}", up.failure());

    // Links are resolved within the root, where nothing of the kind is.
    let place = outside.path().to_str().unwrap();
    let through = format!("out{place}/victim");
    let by_link = Layout::new()
        .layer(&[
            ("out", Link("/")),
            (&through, File("stolen")),
            ("direct", Link(&through)),
            ("direct", File("1")),
        ])
        .written();
    let root = by_link.root().unwrap();
    assert_eq!(fs::read_to_string(outside.path().join("victim")).unwrap(), "whole");
    assert_eq!(tree(&root).get("direct").map(String::as_str), Some("1"), "a link is replaced, not followed");

    let target = format!("{place}/victim");
    let hard = Layout::new().layer(&[("hard", HardLink(&target))]).written();
    assert!(hard.failure().contains("cannot be linked to"), "{}", hard.failure());
    let hidden = Layout::new().layer(&[("a/.wh...", File(""))]).written();
    assert!(hidden.failure().contains("is no path within the root"), "{}", hidden.failure());
}

#[test]
fn what_is_damaged_is_named() {
    let layout = Layout::new().layer(&[("a", Entry::File("1"))]).written();
    let digest = layout.layers[0]["digest"].as_str().unwrap().to_owned();
    let path = layout.dir.path().join("blobs/sha256").join(digest.strip_prefix("sha256:").unwrap());
    let mut bytes = fs::read(&path).unwrap();
    bytes[0] ^= 1;
    fs::write(&path, &bytes).unwrap();
    assert!(
        layout.failure().contains(&format!("blob {digest} has the digest sha256:")),
        "{}",
        layout.failure()
    );
    fs::write(&path, &bytes[1..]).unwrap();
    assert!(layout.failure().contains("its descriptor says"), "{}", layout.failure());
    fs::remove_file(&path).unwrap();
    assert!(layout.failure().contains("failed to read"), "{}", layout.failure());
}

#[test]
fn a_layout_without_one_image_for_this_machine_is_refused() {
    let layout = Layout::new();
    assert!(is_layout(layout.dir.path()));
    assert!(layout.failure().contains("index.json"), "{}", layout.failure());
    fs::write(layout.dir.path().join("index.json"), r#"{"manifests": []}"#).unwrap();
    assert!(layout.failure().starts_with("0 images are for linux/"), "{}", layout.failure());
    let escape = json!({"manifests": [{"digest": "sha256:../../index.json", "size": 1}]});
    fs::write(layout.dir.path().join("index.json"), escape.to_string()).unwrap();
    assert!(layout.failure().contains("is no digest"), "{}", layout.failure());
}

#[test]
fn an_unknown_kind_of_layer_is_refused() {
    let mut layout = Layout::new();
    let blob = layout.blob(b"what", "application/x-what");
    layout.layers.push(blob);
    let layout = layout.written();
    assert!(layout.failure().contains("unknown type \"application/x-what\""), "{}", layout.failure());
}
