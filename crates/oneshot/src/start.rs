//! Starts a replica from the environment.

use std::future::Future;

use boot::{Exit, Logging, ProcessEnv, Settings};

use crate::{JobService, ReplicaConfig, orders, replica};

/// Runs one replica from start to exit. `read` creates the service from its settings. This is all of a service's
/// `main`.
pub fn main<S: JobService>(read: impl FnOnce(&mut Settings<'_>) -> S) -> Exit {
    let env = ProcessEnv;
    let mut settings = Settings::new(&env);
    let logging = Logging::read(&mut settings);
    let config = ReplicaConfig::read(&mut settings, S::SERVICE);
    let service = read(&mut settings);
    if let Err(error) = settings.finish() {
        eprintln!("{}: {error}", S::SERVICE);
        return Exit::Usage.delayed_in_container();
    }
    // Held until the end, when the last lines are written.
    let _logs = match logging.init() {
        Ok(logs) => logs,
        Err(error) => {
            eprintln!("failed to start threads: {error}");
            return Exit::Failed;
        }
    };
    run(async move {
        let orders = match orders::from_signals() {
            Ok(orders) => orders,
            Err(error) => {
                tracing::error!(%error, "failed to install signal handlers");
                return Exit::Failed;
            }
        };
        replica::serve(service, config, orders).await
    })
}

/// The job runs on this thread, and one worker answers requests meanwhile, even if a file blocks this one.
fn run(replica: impl Future<Output = Exit>) -> Exit {
    match tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build() {
        Ok(runtime) => {
            let exit = runtime.block_on(replica);
            // Work that cannot be interrupted ends with the process.
            runtime.shutdown_background();
            exit
        }
        Err(error) => {
            eprintln!("failed to start threads: {error}");
            Exit::Failed
        }
    }
}
