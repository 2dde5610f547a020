//! `torture`: attacks a stack of its own on this machine, and says what it has seen.

mod cli;

use std::process::ExitCode;

use clap::Parser as _;
use testkit::torture::{Report, Stops};

use crate::cli::{Campaign, Cli};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let report = match run(&cli.campaign) {
        Ok(report) => report,
        Err(error) => {
            eprintln!("torture: failed to start: {error}");
            return ExitCode::from(2);
        }
    };
    if cli.json {
        println!("{}", serde_json::json!(report));
    } else {
        println!("{report}");
    }
    ExitCode::from(u8::from(!report.is_whole()))
}

fn run(campaign: &Campaign) -> std::io::Result<Report> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    Ok(runtime.block_on(async {
        match campaign {
            Campaign::Kill(options) => options.campaign().run().await,
            Campaign::Sweep(options) => options.campaign().run().await,
            Campaign::Readers(options) => options.campaign().run().await,
            Campaign::SideBySide(options) => options.campaign().run().await,
            Campaign::Flood(options) => options.campaign().run().await,
            Campaign::Leaks(options) => options.campaign().run().await,
            Campaign::Stops => Stops.run().await,
        }
    }))
}
