//! Repeats a text.

use async_stream::stream;
use boot::{Exit, Settings};
use contract::{EchoEvent, EchoRequest, Ending, EventLine, Policy, Service, Timestamp};
use futures_util::Stream;
use oneshot::{JobContext, JobService, Step};

/// The settings of the service.
#[derive(Debug)]
pub struct Config {
    policy: Policy,
}

impl Config {
    /// Reads the settings.
    pub fn read(settings: &mut Settings<'_>) -> Self {
        Self { policy: boot::read_policy(settings) }
    }
}

/// The service.
#[derive(Debug)]
pub struct EchoApi {
    config: Config,
}

impl JobService for EchoApi {
    const SERVICE: Service = Service::Echo;
    type Request = EchoRequest;

    fn policy(&self) -> &Policy {
        &self.config.policy
    }

    fn run(&self, _: JobContext, request: EchoRequest) -> impl Stream<Item = Step> + Send + 'static {
        stream! {
            let timestamp = Timestamp::now();
            let said = EchoEvent::Message { message: &request.text, timestamp };
            yield Step::Event(EventLine::encode(&said));
            yield Step::End(Ending::success(&EchoEvent::Echoed { timestamp: Timestamp::now() }));
        }
    }
}

/// Runs one replica, from its environment to its exit code. This is all of its `main`.
#[must_use]
pub fn main() -> Exit {
    oneshot::main(|settings| EchoApi { config: Config::read(settings) })
}
