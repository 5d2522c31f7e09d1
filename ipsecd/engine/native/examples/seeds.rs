//! Writes what fuzzing begins with: `cargo run --no-default-features --example seeds`, then
//! `cargo +nightly fuzz run packet_paths`.

#[path = "../tests/packet_paths/mod.rs"]
#[allow(dead_code)]
mod packet_paths;

use std::{fs, io};

fn main() -> io::Result<()> {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/packet_paths");
    fs::create_dir_all(corpus)?;
    for (number, seed) in packet_paths::seeds().iter().enumerate() {
        fs::write(format!("{corpus}/seed-{number:03}"), seed)?;
    }
    Ok(())
}
