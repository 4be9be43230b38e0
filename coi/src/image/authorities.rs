//! Certificate authorities of the host's, for images: behind a proxy that opens TLS, programs in a container need them as
//! well.
//!
//! Certificates are public; a private key beside one is not, and is refused.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::{Error, Result};

/// Where distributions keep authorities that the administrator has added: Debian, Fedora, Arch.
const DIRECTORIES: [&str; 3] = [
    "/usr/local/share/ca-certificates",
    "/etc/pki/ca-trust/source/anchors",
    "/etc/ca-certificates/trust-source/anchors",
];

/// How large one may be, and how many there may be.
const LARGEST: u64 = 1 << 20;
const MOST: usize = 256;

/// The authorities in a directory, or those that were added to this machine: name and text, in order.
pub fn read(directory: Option<&Path>) -> Result<Vec<(String, String)>> {
    let directories: Vec<PathBuf> = match directory {
        Some(directory) => vec![directory.to_owned()],
        None => DIRECTORIES.iter().map(PathBuf::from).filter(|directory| directory.is_dir()).collect(),
    };
    let mut all = Vec::new();
    for directory in &directories {
        let entries = fs::read_dir(directory).map_err(Error::system(directory.display().to_string()))?;
        for entry in entries {
            let path = entry.map_err(Error::system(directory.display().to_string()))?.path();
            let is_one = path
                .extension()
                .is_some_and(|extension| ["crt", "pem", "cer"].iter().any(|e| extension == *e));
            if is_one {
                all.push((name(&path), certificate(&path)?));
            }
        }
    }
    if all.is_empty() {
        let shown = match directory {
            Some(directory) => directory.display().to_string(),
            None => DIRECTORIES.join(", "),
        };
        return Err(Error::NoAuthorities { directory: shown });
    }
    if all.len() > MOST {
        return Err(Error::Authority {
            path: directories[0].clone(),
            why: format!("there are more than {MOST}"),
        });
    }
    all.sort();
    all.dedup_by(|one, other| one.0 == other.0);
    Ok(all)
}

/// What it is called in the image: update-ca-certificates wants this ending.
fn name(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    format!("{}.crt", stem.replace(|c: char| !c.is_ascii_alphanumeric() && !"-_".contains(c), "_"))
}

fn certificate(path: &Path) -> Result<String> {
    let wrong = |why: &str| Error::Authority { path: path.to_owned(), why: why.to_owned() };
    let open = File::options().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path);
    let file = open.map_err(Error::system(path.display().to_string()))?;
    if !file.metadata().map_err(Error::system(path.display().to_string()))?.is_file() {
        return Err(wrong("it is no file"));
    }
    let mut text = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut text).map_err(Error::system(path.display().to_string()))?;
    if text.len() as u64 > LARGEST {
        return Err(wrong("it is larger than 1 MiB"));
    }
    let text = String::from_utf8(text)
        .map_err(|_| wrong("it is not PEM; `openssl x509 -inform der` converts it"))?;
    if text.contains("PRIVATE KEY") {
        return Err(wrong("there is a private key in it, which does not belong into an image"));
    }
    if !text.contains("-----BEGIN CERTIFICATE-----") {
        return Err(wrong("there is no certificate in it"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";

    #[test]
    fn certificates_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let read = || read(Some(directory.path()));
        assert!(matches!(read(), Err(Error::NoAuthorities { .. })));
        fs::write(at("my own.pem"), ONE).unwrap();
        fs::write(at("b.crt"), ONE).unwrap();
        fs::write(at("README"), "x").unwrap();
        let all = read().unwrap();
        assert_eq!(all.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["b.crt", "my_own.crt"]);
        for text in ["-----BEGIN PRIVATE KEY-----", "", "\u{0}"] {
            fs::write(at("c.crt"), text).unwrap();
            let error = read().unwrap_err();
            assert!(matches!(&error, Error::Authority { path, .. } if path.ends_with("c.crt")), "{error}");
        }
        fs::write(at("c.crt"), ONE.to_owned() + "-----BEGIN EC PRIVATE KEY-----").unwrap();
        assert!(read().unwrap_err().to_string().contains("private key"));
    }
}
