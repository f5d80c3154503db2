//! A node on a simulated machine, in the runtime of the test itself.

use kvserver::server::config::Config;
use kvserver::server::{Running, serve_in};
use simulated::{Machine, World};
use tokio::sync::oneshot;

/// A node on a machine of a world.
pub(crate) struct Simulated {
    machine: Machine,
    /// Taken when it stops.
    running: Option<Running>,
}

impl Simulated {
    /// Returns when its ports are open.
    pub(crate) async fn start(world: &World, config: &Config) -> Result<Simulated, String> {
        let machine = world.machine(config.node);
        let (env, config) = (machine.boot(), config.clone());
        let (told, hear) = oneshot::channel();
        machine.spawn(async move {
            // The keeper waits for it.
            let _nobody = told.send(serve_in(env, config).await.map_err(|error| error.to_string()));
        });
        match hear.await {
            Ok(Ok(running)) => Ok(Simulated { machine, running: Some(running) }),
            Ok(Err(why)) => {
                machine.end();
                Err(why)
            }
            Err(_) => Err(why(&machine)),
        }
    }

    pub(crate) fn pause(&self) {
        self.machine.pause();
    }

    pub(crate) fn resume(&self) {
        self.machine.resume();
    }

    pub(crate) fn ended(&self) -> Option<String> {
        (!self.machine.is_up()).then(|| why(&self.machine))
    }

    pub(crate) async fn stop(mut self) {
        self.machine.resume();
        if let Some(running) = self.running.take() {
            let (told, hear) = oneshot::channel::<()>();
            self.machine.spawn(async move {
                running.stop().await;
                drop(told);
            });
            // It ends either way, with the node or with the machine.
            let _over = hear.await;
        }
        self.machine.end();
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        self.machine.crash();
    }
}

fn why(machine: &Machine) -> String {
    machine.ended().unwrap_or_else(|| "it was crashed".to_string())
}
