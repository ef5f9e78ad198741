//! Writes the seeds of each target to `DIRECTORY/TARGET/` and prints the targets' names.

use std::io;
use std::path::PathBuf;

fn main() -> io::Result<()> {
    let directory = std::env::args().nth(1).map(PathBuf::from);
    for target in ginnel_fuzz::TARGETS {
        println!("{}", target.name);
        let Some(directory) = directory.as_ref().map(|path| path.join(target.name)) else {
            continue;
        };
        std::fs::create_dir_all(&directory)?;
        for (number, seed) in (target.seeds)().iter().enumerate() {
            std::fs::write(directory.join(format!("seed-{number:02}")), seed)?;
        }
    }
    Ok(())
}
