"""What Vertex AI is told about networks, keys, labels, reservations and disks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests import strict
from tests.pipelines.test_resources import compiled, file, write
from twhin.pipelines import kubeflow, resources, vertex
from twhin_core.errors import UserError

__all__ = ["file"]

KEY = "projects/mine/locations/europe-west4/keyRings/ring/cryptoKeys/key"
NETWORK = "projects/12345/global/networks/mine"
ATTACHMENT = "projects/mine/regions/europe-west4/networkAttachments/mine"
RESERVED = "projects/mine/zones/europe-west4-a/reservations/a100s"
READERS = {"count": 2, "cpu": "2", "memory": "4Gi", "token": "gs://bucket/token"}


def jobs(file: Path, **changes: Any) -> Any:
    (document,) = compiled(file, "vertex", **changes)
    return strict.custom_jobs(document)


def test_every_stage_is_a_job_of_the_network_key_and_labels(file: Path) -> None:
    settings = {"network": NETWORK, "reserved_ip_ranges": ["range-1"], "encryption_key": KEY, "labels": {"cost": "r42"}}
    found = jobs(file, vertex=settings)
    assert set(found) == {"prepare", "train", "evaluate", "export", "recommend"}
    for job in found.values():
        assert job.job_spec.network == NETWORK
        assert list(job.job_spec.reserved_ip_ranges) == ["range-1"]
        assert job.encryption_spec.kms_key_name == KEY
        assert dict(job.labels) == {"cost": "r42"}
        assert not job.job_spec.psc_interface_config.network_attachment


def test_private_service_connect_takes_the_place_of_peering(file: Path) -> None:
    peering = {"domain": "example.com.", "project": "mine", "network": "inner"}
    for job in jobs(file, vertex={"network_attachment": ATTACHMENT, "dns_peerings": [peering]}).values():
        assert not job.job_spec.network
        found = job.job_spec.psc_interface_config
        assert found.network_attachment == ATTACHMENT
        (dns,) = found.dns_peering_configs
        assert (dns.domain, dns.target_project, dns.target_network) == ("example.com.", "mine", "inner")


@pytest.mark.parametrize(
    ("reservation", "kind", "values"),
    [("any", "ANY_RESERVATION", []), ("none", "NO_RESERVATION", []), (RESERVED, "SPECIFIC_RESERVATION", [RESERVED])],
)
def test_trainers_come_from_the_reservation_and_readers_do_not(
    file: Path, reservation: str, kind: str, values: list[str]
) -> None:
    gpu = {"type": "a100-80gb", "count": 8}
    train = {"nodes": 3, "accelerator": gpu, "reservation": reservation, "disk_type": "pd-balanced", "readers": READERS}
    chief, workers, reading = jobs(file, train=train)["train"].job_spec.worker_pool_specs
    for pool in (chief, workers):
        affinity = pool.machine_spec.reservation_affinity
        assert type(affinity).DESCRIPTOR.enum_types_by_name["Type"].values_by_number[
            affinity.reservation_affinity_type
        ].name == kind  # fmt: skip
        assert list(affinity.values) == values
        assert affinity.key == ("compute.googleapis.com/reservation-name" if values else "")
        assert pool.disk_spec.boot_disk_type == "pd-balanced"
    assert not reading.machine_spec.HasField("reservation_affinity")
    assert reading.disk_spec.boot_disk_type == "pd-ssd"


def test_a_stage_alone_becomes_a_job_for_its_disk(file: Path) -> None:
    found = jobs(file, export={"disk_type": "pd-standard"})
    assert set(found) == {"export"}
    (pool,) = found["export"].job_spec.worker_pool_specs
    assert pool.disk_spec.boot_disk_type == "pd-standard"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"vertex": {"network": "mine"}}, "vertex.network: "),
        ({"vertex": {"network": NETWORK, "network_attachment": ATTACHMENT}}, "vertex.network: excludes network_attach"),
        ({"vertex": {"reserved_ip_ranges": ["a"]}}, "vertex.reserved_ip_ranges: are ranges of `network`"),
        (
            {"vertex": {"dns_peerings": [{"domain": "a.b.", "project": "p", "network": "n"}]}},
            "vertex.dns_peerings: need network_attachment",
        ),
        ({"vertex": {"network_attachment": "mine"}}, "vertex.network_attachment: "),
        ({"vertex": {"encryption_key": "key"}}, "vertex.encryption_key: "),
        ({"vertex": {"labels": {"Team": "a"}}}, "vertex.labels.Team"),
        ({"vertex": {"labels": {"team": "A"}}}, "vertex.labels.team"),
        ({"train": {"reservation": "mine"}}, "train.reservation: "),
        ({"train": {"reservation": "any", "spot": True}}, "train.reservation: spot machines come from no reservation"),
        ({"train": {"disk_type": "ssd"}}, "train.disk_type: "),
    ],
)  # fmt: skip
def test_what_vertex_ai_would_refuse_is_refused_by_its_key(file: Path, changes: Any, said: str) -> None:
    with pytest.raises(UserError) as caught:
        resources.load(write(file, **changes))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ({"disk_type": "hyperdisk-balanced"}, "train.disk_type: these machines of Vertex AI support no hyperdisks"),
        (
            {"disk_type": "pd-ssd", "accelerator": {"type": "h200-141gb", "count": 8}},
            "train.disk_type: these machines of Vertex AI support only hyperdisk-balanced",
        ),
    ],
)
def test_a_disk_that_the_machines_do_not_support_is_refused(file: Path, stage: Any, said: str) -> None:
    with pytest.raises(UserError) as caught:
        vertex.check(resources.load(write(file, train=stage)), None)
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"vertex": {"encryption_key": KEY}}, "vertex"),
        ({"train": {"reservation": "any"}}, "train.reservation"),
        ({"export": {"disk_type": "pd-ssd"}}, "export.disk_type"),
    ],
)
def test_kubeflow_refuses_what_only_vertex_ai_has(file: Path, changes: Any, key: str) -> None:
    with pytest.raises(UserError) as caught:
        kubeflow.check(resources.load(write(file, **changes)), None)
    assert str(caught.value).startswith(f"{key}: not supported on Kubeflow")
