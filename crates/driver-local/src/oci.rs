//! An OCI image layout as the root of pods: found, verified, and unpacked once.
//!
//! Invariant: what lies under its digest in the driver's `roots` is whole. It was made beside, from blobs that have the
//! digests by which they are named, and was renamed when it was finished.

mod unpack;

use std::{
    fs::{self, File},
    io::{self, Read, Seek},
    path::{Path, PathBuf},
};

use serde::{Deserialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

use crate::trash;

/// The file that tells an image layout from any other directory.
const MARK: &str = "oci-layout";
/// Bytes of an index or a manifest, at most.
const DOCUMENT_BYTES_MAX: u64 = 4 << 20;
/// An index may name an index, this deep.
const INDEX_DEPTH_MAX: u32 = 4;
/// Layers of an image, at most.
const LAYERS_MAX: usize = 512;

/// Why a layout cannot be the root of pods.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("failed to read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A document is not what it should be.
    #[error("failed to understand {what}")]
    Document {
        /// Which.
        what: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A document is longer than any that makes sense.
    #[error("{0} is longer than {DOCUMENT_BYTES_MAX} bytes")]
    TooLong(String),
    /// A digest that is not understood.
    #[error("{0:?} is no digest of the form sha256:<64 hexadecimal digits>")]
    BadDigest(String),
    /// A blob that was damaged or exchanged.
    #[error("blob {named} has the digest sha256:{found}")]
    WrongDigest {
        /// What it should have.
        named: String,
        /// What it has.
        found: String,
    },
    /// A blob that is cut short or has something after its end.
    #[error("blob {digest} has {found} bytes, its descriptor says {named}")]
    WrongSize {
        /// The blob.
        digest: String,
        /// What it should have.
        named: u64,
        /// What it has.
        found: u64,
    },
    /// None, or more than one.
    #[error("{found} images are for linux/{architecture} in {within}; there must be one")]
    NotOneImage {
        /// How many.
        found: usize,
        /// This machine's architecture, in the words of OCI.
        architecture: String,
        /// The document that names them.
        within: String,
    },
    /// More layers than any image has.
    #[error("the image has {0} layers; {LAYERS_MAX} are the most")]
    TooManyLayers(usize),
    /// An index within an index, and so on.
    #[error("indexes lie {INDEX_DEPTH_MAX} deep in each other")]
    TooDeep,
    /// A kind of layer that is not understood.
    #[error("layer {digest} is of the unknown type {media_type:?}")]
    UnknownLayer {
        /// The layer.
        digest: String,
        /// Its type.
        media_type: String,
    },
    /// A layer cannot be unpacked.
    #[error("failed to unpack layer {digest}")]
    Layer {
        /// The layer.
        digest: String,
        /// Why.
        #[source]
        source: unpack::Error,
    },
    /// The finished root cannot be put in its place.
    #[error("failed to put the unpacked root at {path}")]
    Place {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Manifest {
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

/// Whether a directory is an image layout.
pub fn is_layout(path: &Path) -> bool {
    path.join(MARK).is_file()
}

/// The root of the layout's image, unpacked below the driver's `roots` unless it is there. Blocks.
pub fn root(layout: &Path, state_dir: &Path, roots: &Path) -> Result<PathBuf, Error> {
    let image = image(layout)?;
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Place { path, source }
    };
    let place = roots.join(hex_of(&image.digest)?);
    if place.exists() {
        return Ok(place);
    }
    let manifest: Manifest = document(layout, &image)?;
    if manifest.layers.len() > LAYERS_MAX {
        return Err(Error::TooManyLayers(manifest.layers.len()));
    }
    // What an earlier try left; one driver at a time works here.
    for entry in fs::read_dir(roots).map_err(at(roots))?.flatten() {
        if entry.file_name().to_string_lossy().starts_with("new-") {
            trash::discard(state_dir, &entry.path()).map_err(at(&entry.path()))?;
        }
    }
    let new = roots.join(format!("new-{}", uuid::Uuid::now_v7().simple()));
    fs::create_dir(&new).map_err(at(&new))?;
    let unpacked = unpack_layers(layout, &manifest, &new).and_then(|()| {
        let settle = || -> io::Result<()> {
            // A finished name for files that a crash of the machine could empty would be a lie.
            rustix::fs::syncfs(File::open(&new)?)?;
            fs::rename(&new, &place)
        };
        settle().map_err(at(&place))
    });
    if let Err(error) = unpacked {
        trash::discard(state_dir, &new).map_err(at(&new))?;
        return Err(error);
    }
    tracing::info!(root.layout = %layout.display(), root.digest = image.digest, "unpacked the root of pods");
    Ok(place)
}

fn unpack_layers(layout: &Path, manifest: &Manifest, new: &Path) -> Result<(), Error> {
    let mut root = unpack::Root::new(new).map_err(|source| Error::Place { path: new.to_owned(), source })?;
    for layer in &manifest.layers {
        let compression = match layer.media_type.rsplit(['+', '.']).next() {
            Some("gzip") => unpack::Compression::Gzip,
            Some("zstd") => unpack::Compression::Zstd,
            Some("tar") => unpack::Compression::None,
            _ => {
                let (digest, media_type) = (layer.digest.clone(), layer.media_type.clone());
                return Err(Error::UnknownLayer { digest, media_type });
            }
        };
        let blob = blob(layout, layer)?;
        root.add(blob, compression)
            .map_err(|source| Error::Layer { digest: layer.digest.clone(), source })?;
    }
    root.finish().map_err(|source| Error::Place { path: new.to_owned(), source })
}

/// The descriptor of the one image for this machine.
fn image(layout: &Path) -> Result<Descriptor, Error> {
    let path = layout.join("index.json");
    let read = |path: &Path| -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(DOCUMENT_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let mut bytes = read(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
    let mut within = "index.json".to_owned();
    for _ in 0..INDEX_DEPTH_MAX {
        let index: Index = parse(&within, &bytes)?;
        let one = choose(index.manifests, &within)?;
        if !one.media_type.ends_with(".image.index.v1+json")
            && !one.media_type.ends_with(".manifest.list.v2+json")
        {
            return Ok(one);
        }
        bytes = document_bytes(layout, &one)?;
        within = one.digest;
    }
    Err(Error::TooDeep)
}

fn choose(manifests: Vec<Descriptor>, within: &str) -> Result<Descriptor, Error> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let fits = |one: &Descriptor| match &one.platform {
        Some(platform) => platform.os == "linux" && platform.architecture == architecture,
        // An image alone need not say what it is for.
        None => true,
    };
    let fitting: Vec<Descriptor> = manifests.into_iter().filter(fits).collect();
    let not_one = |found| Error::NotOneImage {
        found,
        architecture: architecture.to_owned(),
        within: within.to_owned(),
    };
    <[Descriptor; 1]>::try_from(fitting).map(|[one]| one).map_err(|other| not_one(other.len()))
}

fn parse<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, Error> {
    if u64::try_from(bytes.len()).is_ok_and(|length| length > DOCUMENT_BYTES_MAX) {
        return Err(Error::TooLong(what.to_owned()));
    }
    serde_json::from_slice(bytes).map_err(|source| Error::Document { what: what.to_owned(), source })
}

fn document<T: DeserializeOwned>(layout: &Path, descriptor: &Descriptor) -> Result<T, Error> {
    parse(&descriptor.digest, &document_bytes(layout, descriptor)?)
}

fn document_bytes(layout: &Path, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
    if descriptor.size > DOCUMENT_BYTES_MAX {
        return Err(Error::TooLong(descriptor.digest.clone()));
    }
    let mut bytes = Vec::new();
    blob(layout, descriptor)?
        .take(descriptor.size)
        .read_to_end(&mut bytes)
        .map_err(|source| Error::Read { path: layout.join("blobs"), source })?;
    Ok(bytes)
}

/// The digits of a digest, which are the name of a file.
fn hex_of(digest: &str) -> Result<&str, Error> {
    let is_hex =
        |hex: &&str| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    digest.strip_prefix("sha256:").filter(is_hex).ok_or_else(|| Error::BadDigest(digest.to_owned()))
}

/// A blob that is what it is named.
fn blob(layout: &Path, descriptor: &Descriptor) -> Result<File, Error> {
    let hex = hex_of(&descriptor.digest)?;
    let path = layout.join("blobs").join("sha256").join(hex);
    let read = || -> io::Result<(File, u64, String)> {
        let mut file = File::open(&path)?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 1 << 16];
        let mut length = 0_u64;
        loop {
            let count = file.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            hasher.update(buffer.get(..count).unwrap_or_default());
            length += u64::try_from(count).unwrap_or(0);
        }
        file.rewind()?;
        Ok((file, length, hex::encode(hasher.finalize())))
    };
    let (file, found, digest) = read().map_err(|source| Error::Read { path: path.clone(), source })?;
    if found != descriptor.size {
        return Err(Error::WrongSize { digest: descriptor.digest.clone(), named: descriptor.size, found });
    }
    if digest != hex {
        return Err(Error::WrongDigest { named: descriptor.digest.clone(), found: digest });
    }
    Ok(file)
}

#[cfg(test)]
mod tests;
