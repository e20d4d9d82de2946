"""A cluster of one node; and a real one of two, one of which is killed in the middle."""

import pytest
import ray
from ray.cluster_utils import Cluster

from parimend.campaign import Spec, Store, resume, run, status
from parimend.campaign.engines import Local, Ray
from parimend.errors import CampaignError
from tests.campaign.conftest import HERE, RECIPE, tables

STORE = 80 << 20


@pytest.fixture
def node():
    ray.init(num_cpus=1, object_store_memory=STORE, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def test_what_one_engine_began_the_other_ends(node, tmp_path):
    spec = Spec.of(tables(), HERE)

    def interrupted(done, known):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(spec, tmp_path / "a", engine="ray", progress=interrupted)
    assert 0 < status(tmp_path / "a").tasks < 16
    resume(tmp_path / "a", workers=1)
    run(spec, tmp_path / "b", workers=1)
    assert (
        Store(tmp_path / "a").statistics().to_bytes()
        == (tmp_path / "b" / "statistics.jsonl").read_bytes()
    )


@pytest.fixture(scope="module")
def cluster():
    node = {"num_cpus": 1, "object_store_memory": STORE}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    cluster.add_node(**node)
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.long
def test_a_lost_machine_changes_no_number(cluster, tmp_path):
    spec = Spec.of(tables(stop={"trials": 150}), HERE)
    run(spec, tmp_path / "local", engine=Local(1))
    assert ray.cluster_resources()["CPU"] == 2
    other = next(iter(cluster.worker_nodes))
    killed = []

    def lose_one(done, known):
        if done >= known // 4 and not killed:
            cluster.remove_node(other, allow_graceful=False)
            killed.append(done)

    assert run(spec, tmp_path / "ray", engine=Ray(), progress=lose_one).finished
    assert killed
    local, lost = (tmp_path / name / "statistics.jsonl" for name in ("local", "ray"))
    assert local.read_bytes() == lost.read_bytes()
    assert ray.is_initialized()  # the user's cluster goes on


@pytest.mark.long
def test_a_metric_that_fails_says_where(cluster, tmp_path):
    network = tables()["networks"]["digits"] | {"metric": f"{RECIPE}:failing_when_damaged"}
    spec = Spec.of(tables(networks={"digits": network}, stop={"trials": 60}), HERE)
    with pytest.raises(CampaignError, match=r"digits, none, five, trial \d+: .* OverflowError"):
        run(spec, tmp_path, engine=Ray())
