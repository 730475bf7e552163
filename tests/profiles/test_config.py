"""What a job may be: the admin's defaults, limits and profiles."""

from datetime import UTC, datetime

import pytest
from traitlets import TraitError
from traitlets.config import Config

from kbatch_server.errors import InvalidRequest
from kbatch_server.launchers.kube.manifests.job import make_pod_spec
from kbatch_server.launchers.kube.manifests.resources import make_resources
from kbatch_server.launchers.kube.manifests.volumes import OWN_DIRS, OWN_VOLUMES, SHM_DIR
from kbatch_server.models.job import Job, JobSpec
from kbatch_server.models.request import JobRequest
from kbatch_server.models.results import OutputLimits
from kbatch_server.models.user import User
from kbatch_server.profiles.config import JobConfig
from kbatch_server.profiles.profiles import Profiles

ALICE = User(name="alice", groups=("gpu-users",))
GPU = {
    "display_name": "GPU",
    "slug": "gpu",
    "description": "One A100",
    "kbatch_override": {
        "image": "pytorch:1",
        "cpu_limit": 8,
        "mem_limit": "64G",
        "extra_resource_limits": {"nvidia.com/gpu": "1"},
        "node_selector": {"pool": "gpu"},
    },
}
SMALL = {"display_name": "Small", "default": True, "kbatch_override": {"cpu_limit": 1, "mem_limit": "1G"}}


def request(**fields):
    return JobRequest(name="job", command=["true"], **fields)


def test_what_the_user_leaves_out_comes_from_the_admin():
    spec = JobConfig(image="base:1", cpu_limit=2, mem_limit="2G", active_deadline_seconds=60).make_spec(
        request()
    )
    assert (spec.image, spec.cpu_limit, spec.mem_limit, spec.active_deadline_seconds) == (
        "base:1",
        2,
        2**31,
        60,
    )


@pytest.mark.parametrize(
    ("options", "fields", "field"),
    [
        ({}, {}, "image"),
        ({"allowed_images": ["quay.io/jupyter/*"]}, {"image": "docker.io/evil"}, "image"),
        ({"allowed_images": []}, {"image": "x"}, "image"),
        ({"image": "x", "max_cpu_limit": 4}, {"cpu_limit": 8}, "cpu_limit"),
        ({"image": "x", "cpu_limit": 4}, {"cpu_limit": 8}, "cpu_limit"),
        ({"image": "x", "max_mem_limit": "1G"}, {"mem_limit": 2**31}, "mem_limit"),
        ({"image": "x", "allow_user_limits": False}, {"cpu_limit": 0.1}, "cpu_limit"),
        ({"image": "x", "max_shm_size": "1G"}, {"shm_size": 2**31}, "shm_size"),
        ({"image": "x", "mem_limit": "1G"}, {"shm_size": 2**31}, "shm_size"),
        ({"image": "x"}, {"mem_limit": 2**30, "shm_size": 2**31}, "shm_size"),
        ({"image": "x", "allow_user_limits": False}, {"shm_size": 2**20}, "shm_size"),
        (
            {"image": "x", "volume_mounts": [{"name": "ram", "mountPath": "/dev/shm/"}]},
            {"shm_size": 2**20},
            "shm_size",
        ),
        ({"image": "x", "max_retries": 1}, {"retries": 2}, "retries"),
        ({"image": "x", "max_retry_delay_seconds": 60}, {"retry_delay_seconds": 61}, "retry_delay_seconds"),
        (
            {"image": "x", "max_active_deadline_seconds": 9},
            {"active_deadline_seconds": 10},
            "active_deadline_seconds",
        ),
    ],
)
def test_what_the_admin_does_not_allow_is_refused_by_name(options, fields, field):
    with pytest.raises(InvalidRequest) as caught:
        JobConfig(**options).make_spec(request(**fields))
    assert caught.value.details[0]["field"] == field


def test_what_is_set_aside_is_never_more_than_what_the_job_asks_for():
    config = JobConfig(
        image="x",
        cpu_guarantee=2,
        mem_guarantee="4G",
        extra_resource_guarantees={
            "ephemeral-storage": "20Gi",
            "example.org/fpga": "1",
            "hugepages-2Mi": "4Mi",
            "example.org/other": "1",
        },
        extra_resource_limits={
            "ephemeral-storage": "10G",
            "example.org/fpga": "2",
            "hugepages-2Mi": "8Mi",
        },
    )
    spec = config.make_spec(request(cpu_limit=0.5, mem_limit=2**30))
    assert (spec.cpu_limit, spec.cpu_guarantee) == (0.5, 0.5)
    assert (spec.mem_limit, spec.mem_guarantee) == (2**30, 2**30)
    assert spec.extra_resource_guarantees == {
        "ephemeral-storage": "10G",
        "example.org/fpga": "2",  # Kubernetes wants just the limit
        "hugepages-2Mi": "8Mi",
        "example.org/other": "1",
    }
    assert make_resources(spec)["limits"]["example.org/other"] == "1"
    spec = config.make_spec(request(cpu_limit=4))
    assert (spec.cpu_guarantee, spec.mem_guarantee) == (2, 2**32)


async def test_a_profile_that_is_smaller_than_the_guarantee_of_all_takes_it_down():
    config = Config(JobConfig={"cpu_guarantee": 4, "mem_guarantee": "8G"})
    profiles = Profiles(
        profile_list=[SMALL | {"kbatch_override": {"cpu_limit": 1, "mem_limit": "1G"}}], config=config
    )
    spec = await profiles.make_spec(ALICE, request(image="x"))
    assert (spec.cpu_guarantee, spec.mem_guarantee) == (1, 2**30)


def test_shared_memory_is_a_part_of_the_memory():
    config = JobConfig(image="x", shm_size="1G", max_shm_size="4G")
    assert config.make_spec(request()).shm_size == 2**30
    assert config.make_spec(request(shm_size=2**32)).shm_size == 2**32
    assert config.make_spec(request(mem_limit=2**29)).shm_size == 2**29
    assert JobConfig(image="x").make_spec(request()).shm_size is None


def test_shared_memory_that_the_admin_mounts_is_mounted_once():
    ram = {"name": "ram", "emptyDir": {"medium": "Memory"}}
    mount = {"name": "ram", "mountPath": "/dev/shm"}
    config = JobConfig(image="x", shm_size="1G", volumes=[ram], volume_mounts=[mount])
    job = Job(
        id="j", user="alice", name="job", spec=config.make_spec(request()), created_at=datetime.now(UTC)
    )
    pod = make_pod_spec(job, OutputLimits(), env_names=[], init_image="busybox")
    [container] = pod["containers"]
    assert [each for each in container["volumeMounts"] if each["mountPath"] == "/dev/shm"] == [mount]
    assert "kbatch-shm" not in [volume["name"] for volume in pod["volumes"]]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        *(
            ({"volume_mounts": [{"name": "data", "mountPath": path}]}, path.rstrip("/"))
            for path in ("/code", "/code/", "/kbatch-outputs", "/kbatch-home", "/kbatch-notebook")
        ),
        ({"volume_mounts": [{"name": "a", "mountPath": "/a"}, {"name": "b", "mountPath": "/a/"}]}, "/a"),
        ({"volumes": [{"name": "kbatch-code", "emptyDir": {}}]}, "kbatch-code"),
        ({"volumes": [{"name": "a", "emptyDir": {}}, {"name": "a", "emptyDir": {}}]}, "a"),
    ],
)
def test_a_volume_in_the_place_of_another_is_refused_at_the_start(options, word):
    with pytest.raises(TraitError, match=f"^JobConfig.{next(iter(options))}: {word} (is|appears) "):
        JobConfig(image="x", **options)
    with pytest.raises(TraitError, match=f": {word} (is|appears) "):
        Profiles(profile_list=[SMALL | {"kbatch_override": options}])


def test_the_pods_own_volumes_and_folders_are_those_that_no_admin_may_name():
    spec = JobSpec(
        image="x",
        notebook={"path": "x.ipynb"},
        upload="u1",
        keep_outputs=True,
        collect="workdir",
        shm_size=2**20,
        secret_files={"key": "key"},
    )
    job = Job(id="j", user="alice", name="job", spec=spec, created_at=datetime.now(UTC))
    pod = make_pod_spec(job, OutputLimits(), env_names=[], init_image="busybox")
    assert {each["name"] for each in pod["volumes"]} == set(OWN_VOLUMES)
    [container] = pod["containers"]
    assert {each["mountPath"] for each in container["volumeMounts"]} == {*OWN_DIRS, SHM_DIR}


def test_the_default_image_is_allowed_whatever_the_patterns_say():
    config = JobConfig(image="base:1", allowed_images=["other:*"])
    assert config.make_spec(request(image="base:1")).image == "base:1"
    assert config.make_spec(request(image="other:2")).image == "other:2"


def test_a_pattern_for_tags_does_not_let_any_digest_in():
    digest = "sha256:" + "0" * 64
    config = JobConfig(allowed_images=["quay.io/a/b:1.*", "quay.io/c/*"])
    assert config.make_spec(request(image="quay.io/a/b:1.2")).image == "quay.io/a/b:1.2"
    with pytest.raises(InvalidRequest, match="image"):
        config.make_spec(request(image=f"quay.io/a/b:1.2@{digest}"))
    assert config.make_spec(request(image=f"quay.io/c/d@{digest}")).image.endswith(digest)


@pytest.mark.parametrize(
    ("pattern", "image", "is_allowed"),
    [
        ("*", "evil.example:5000/x:1", True),
        ("quay.io/jupyter/*", "quay.io/jupyter/base/more:1", True),
        ("quay.io/jupyter/*", "evil.example/quay.io/jupyter/x", False),
        ("quay.io/jupyter/*", "quay.io.evil.example/jupyter/x", False),
        ("quay.io*", "quay.io.evil.example/x", False),
        ("quay.io*", "quay.io/x", False),
        ("python:*", "python:3.12", True),
        ("python:*", "python:5000/evil", False),
        ("python*", "python.evil.example/x", False),
        ("jupyter/*", "jupyter/base:1", True),
        ("jupyter/*", "jupyter:5000/base", False),
        ("localhost/*", "localhost/base:1", True),
        ("localhost*", "localhost:5000/base", False),
        ("registry.example:5000/*", "registry.example:5000/a", True),
        ("registry.example/*", "registry.example:5000/a", False),
        ("*.example.org/*", "images.example.org/a/b", True),
        ("*.example.org/*", "evil.example/images.example.org/a", False),
        ("*/jupyter/*", "quay.io/jupyter/base", True),
        ("*:stable", "quay.io/a/b:stable", True),
    ],
)
def test_a_pattern_of_images_is_of_one_registry_unless_it_begins_with_a_star(pattern, image, is_allowed):
    config = JobConfig(allowed_images=[pattern])
    if is_allowed:
        assert config.make_spec(request(image=image)).image == image
    else:
        with pytest.raises(InvalidRequest, match="image"):
            config.make_spec(request(image=image))


def test_a_job_without_a_deadline_gets_the_longest_that_is_allowed():
    spec = JobConfig(image="x", max_active_deadline_seconds=100).make_spec(request())
    assert spec.active_deadline_seconds == 100


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({}, (None, None)),
        ({"max_cpu_limit": 8, "max_mem_limit": "32G"}, (8, 2**35)),
        ({"max_cpu_limit": 8, "cpu_limit": 1, "max_mem_limit": "32G", "mem_limit": "1G"}, (1, 2**30)),
    ],
)
async def test_a_job_that_asks_for_no_size_gets_no_more_than_may_be_asked_for(options, sizes):
    spec = JobConfig(image="x", **options).make_spec(request())
    assert (spec.cpu_limit, spec.mem_limit) == sizes
    profiles = Profiles(profile_list=[{"display_name": "P", "kbatch_override": {"image": "x"} | options}])
    spec = await profiles.make_spec(ALICE, request(profile="p"))
    assert (spec.cpu_limit, spec.mem_limit) == sizes
    [shown] = await profiles.list(ALICE)
    assert (shown.cpu_limit, shown.mem_limit) == sizes


@pytest.mark.parametrize(
    "options",
    [
        {"cpu_limit": 0},
        {"cpu_limit": 1e-10},
        {"max_cpu_limit": 0.0001},
        {"mem_limit": 0},
        {"mem_limit": 4},
        {"max_mem_limit": "1M"},
    ],
)
def test_a_size_that_is_none_or_no_limit_at_all_is_refused_at_the_start(options):
    with pytest.raises(TraitError, match=next(iter(options))):
        JobConfig(**options)
    with pytest.raises(TraitError):
        Profiles(profile_list=[{"display_name": "x", "kbatch_override": options}])


async def test_a_profile_sets_what_its_jobs_are_and_the_default_one_holds_for_those_that_name_none():
    profiles = Profiles(profile_list=[GPU, SMALL], config=Config(JobConfig={"image": "base:1"}))
    gpu = await profiles.make_spec(ALICE, request(profile="gpu"))
    assert (gpu.image, gpu.mem_limit, gpu.extra_resource_limits) == (
        "pytorch:1",
        64 * 2**30,
        {"nvidia.com/gpu": "1"},
    )
    assert gpu.node_selector == {"pool": "gpu"}
    small = await profiles.make_spec(ALICE, request())
    assert (small.profile, small.image, small.mem_limit) == ("small", "base:1", 2**30)


async def test_the_sizes_of_a_profile_are_a_limit():
    profiles = Profiles(profile_list=[GPU])
    with pytest.raises(InvalidRequest, match="cpu_limit"):
        await profiles.make_spec(ALICE, request(profile="gpu", cpu_limit=9))


async def test_a_profile_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(InvalidRequest, match=r"profile 'nope' does not exist.*gpu"):
        await Profiles(profile_list=[GPU]).make_spec(ALICE, request(profile="nope"))


async def test_profiles_can_depend_on_the_user():
    async def for_groups(spawner):
        groups = [group.name for group in spawner.user.groups]
        return [GPU] if "gpu-users" in groups else []

    profiles = Profiles(profile_list=for_groups)
    assert [profile.slug for profile in await profiles.list(ALICE)] == ["gpu"]
    assert await profiles.list(User(name="bob")) == []
    with pytest.raises(InvalidRequest, match="profile"):
        await profiles.make_spec(User(name="bob"), request(profile="gpu"))
    assert await profiles.list(None) == []


@pytest.mark.parametrize(
    "entry",
    [
        {"slug": "x"},
        {"display_name": "x", "kubespawner_override": {"cpu_limits": 1}},
        {"display_name": "x", "kubespawner_overide": {}},
        {"display_name": "x", "kbatch_override": {"cpu_limits": 1}},
        {"display_name": "x", "kbatch_override": {"cpu_limit": "many"}},
    ],
)
def test_a_misspelled_profile_is_refused_at_the_start(entry):
    with pytest.raises(TraitError):
        Profiles(profile_list=[entry])


async def test_a_profile_adds_to_the_environment_of_its_jobs():
    entry = {"display_name": "X", "slug": "x", "kbatch_override": {"environment": {"B": "2"}}}
    profiles = Profiles(profile_list=[entry], config=Config(JobConfig={"environment": {"A": "1"}}))
    spec = JobSpec(image="x")
    for profile, expected in [("x", {"A": "1", "B": "2"}), (None, {"A": "1"}), ("removed", {"A": "1"})]:
        chosen = spec.model_copy(update={"profile": profile})
        assert await profiles.get_environment(ALICE, chosen) == expected
