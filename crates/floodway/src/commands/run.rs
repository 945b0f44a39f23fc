//! `floodway run`

use crate::Exit;
use crate::cli::RunArgs;
use crate::files::RealFiles;
use crate::wire::{Source, Start};

pub(crate) fn run(args: &RunArgs) -> anyhow::Result<Exit> {
    let files = RealFiles::patient();
    let read = super::read(&args.file.config, &files);
    let path = args.file.config.clone();
    let start = match &args.take_over {
        None => Start::Fresh,
        Some(socket) => Start::TakeOver(socket.clone()),
    };
    let files = files.asked.into_inner().into_iter().collect();
    super::run_checked(read, Some(Source { path, files, key_log: args.tls_key_log.clone() }), &start)
}
