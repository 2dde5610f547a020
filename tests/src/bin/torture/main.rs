//! `torture`: attacks a stack of its own on this machine and reports the result.

mod cli;

use std::process::ExitCode;

use clap::Parser as _;
use testkit::torture::{Report, Stops};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{Campaign, Cli};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let report = match run(&cli.campaign) {
        Ok(Some(report)) => report,
        Ok(None) => {
            eprintln!("torture: interrupted; the stack has been stopped");
            return ExitCode::from(130);
        }
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

/// The campaign's report, or `None` if a signal came first.
fn run(campaign: &Campaign) -> std::io::Result<Option<Report>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    // The last task that holds the stack stops it. The tasks end with the runtime.
    runtime.block_on(async {
        let mut interrupted = signal(SignalKind::interrupt())?;
        let mut terminated = signal(SignalKind::terminate())?;
        Ok(tokio::select! {
            report = perform(campaign) => Some(report),
            _ = interrupted.recv() => None,
            _ = terminated.recv() => None,
        })
    })
}

async fn perform(campaign: &Campaign) -> Report {
    match campaign {
        Campaign::Kill(options) => options.campaign().run().await,
        Campaign::Deliveries(options) => options.campaign().run().await,
        Campaign::Sweep(options) => options.campaign().run().await,
        Campaign::Readers(options) => options.campaign().run().await,
        Campaign::SideBySide(options) => options.campaign().run().await,
        Campaign::Flood(options) => options.campaign().run().await,
        Campaign::Leaks(options) => options.campaign().run().await,
        Campaign::Stops => Stops.run().await,
        Campaign::Storms(options) => options.campaign().run().await,
    }
}
