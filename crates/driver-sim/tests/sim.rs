//! The simulation does what drivers do, and the faults that it is told to.

use async_trait::async_trait;
use freehold_driver::{Error, PodDriver, PodSpec, conformance};
use freehold_driver_sim::SimDriver;
use freehold_model::{PodId, WorkspaceId};
use uuid::Uuid;

struct Fixture(SimDriver);

#[async_trait]
impl conformance::Fixture for Fixture {
    fn driver(&self) -> &dyn PodDriver {
        &self.0
    }

    fn spec(&self) -> PodSpec {
        spec()
    }

    async fn lose(&self, pod: PodId) {
        self.0.lose(pod, "lost");
    }
}

fn spec() -> PodSpec {
    let (pod, workspace) = (Uuid::now_v7(), Uuid::now_v7());
    conformance::small_spec(PodId::from_uuid(pod), WorkspaceId::from_uuid(workspace))
}

#[tokio::test]
async fn the_simulation_conforms() {
    conformance::all(&Fixture(SimDriver::new().unwrap())).await;
}

#[tokio::test]
async fn starts_fail_as_often_as_they_are_told_to() {
    let driver = SimDriver::new().unwrap();
    let spec = spec();
    driver.fail_starts(2);
    for _ in 0..2 {
        assert!(matches!(driver.ensure(&spec).await, Err(Error::Step { .. })));
    }
    driver.ensure(&spec).await.unwrap();
    assert_eq!(driver.starts(), 1);
}

#[tokio::test]
async fn a_test_can_be_the_agent_of_a_pod() {
    let driver = SimDriver::new().unwrap();
    let spec = spec();
    driver.ensure(&spec).await.unwrap();
    let _agent = driver.connect_agent(spec.pod_id).unwrap();
    let listener = driver.links(spec.pod_id).await.unwrap().pod_api.unwrap();
    listener.accept().unwrap();
}
