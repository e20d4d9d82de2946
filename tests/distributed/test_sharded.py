"""Parameters that are spread over processes."""

import multiprocessing

import pytest
import torch

from tests.distributed import workers

multiprocessing.set_forkserver_preload(["tests.distributed.loaded"])


@pytest.mark.parametrize(
    "name",
    [
        "fsdp",
        "along_the_code",
        "resumed",
        "healed_in_a_step",
        "healed_before_they_are_gathered",
        "healed_within_an_optimizer",
        "lost_in_one_process",
        "parallel",
        "seals_that_differ",
        "read_only_in_one_process",
        "carriers",
        "cut_in_other_ways",
        "words_of_memory",
        "planes",
        "mixed",
        "tied",
        "gathered_for_a_forward",
        "scrubbed",
        "fingerprints",
    ],
)
def test_two_processes(name, tmp_path):
    # A process that hangs is given up by the timeout of the process group.
    torch.multiprocessing.start_processes(
        workers.run, (name, tmp_path / "rendezvous"), nprocs=2, start_method="forkserver"
    )
