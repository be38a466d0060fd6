//! `meter completions` and `meter man`: what a shell and `man` know of the command line.

use std::path::PathBuf;

use clap_complete::Shell;

use super::help;
use crate::exit::{BadUsage, Exit};
use crate::print;
use crate::visible;
use crate::wording;

#[derive(Debug, clap::Args)]
pub(crate) struct CompletionsArgs {
    shell: Shell,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ManArgs {
    /// Write a page for each command into this folder [default: print the page of `meter`]
    folder: Option<PathBuf>,
}

pub(crate) fn completions(args: &CompletionsArgs) -> anyhow::Result<Exit> {
    let mut script = vec![];
    clap_complete::generate(args.shell, &mut help::command(), "meter", &mut script);
    print::lines(String::from_utf8(script)?.trim_end());
    Ok(Exit::Ok)
}

pub(crate) fn man(args: &ManArgs) -> anyhow::Result<Exit> {
    let Some(folder) = &args.folder else {
        let mut page = vec![];
        clap_mangen::Man::new(help::command()).render(&mut page)?;
        print::lines(String::from_utf8(page)?.trim_end());
        return Ok(Exit::Ok);
    };
    let bad =
        |e: std::io::Error| BadUsage(format!("{} cannot be written: {}", visible::path(folder), wording::of_io(&e)));
    std::fs::create_dir_all(folder).map_err(bad)?;
    clap_mangen::generate_to(help::command(), folder).map_err(bad)?;
    print::out(&format!(
        "the pages are in {}; `man -l {}` shows the first",
        folder.display(),
        folder.join("meter.1").display()
    ));
    Ok(Exit::Ok)
}
