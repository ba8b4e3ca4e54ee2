"""Settings that every stage's task needs, in our pipeline or in your own."""

from kfp import dsl, kubernetes

PAUSE, LONGEST_PAUSE = "60s", "3600s"
"""Pause before the first retry, which doubles with each retry, and its maximum."""

SHARED_MEMORY = "/dev/shm"  # noqa: S108 -- a mount point, not a temporary file


def configure(task: dsl.PipelineTask, retries: int = 0, shared_memory: bool | str = False) -> dsl.PipelineTask:
    """Sets the retries of a stage's task, and turns off KFP's cache if it comes from a file. Returns the task.

    A stage that is imported is never cached; `stage.py` says why. A `component.yaml` cannot say so itself.

    Args:
        retries: How often the platform restarts a failed task. The stage resumes where it stopped.
        shared_memory: Whether to mount memory at /dev/shm, through which the ranks of several GPUs exchange data; or
            its size, such as "8Gi". Kubeflow only; a container has 64 MiB there by default.
    """
    task.set_caching_options(False)
    if retries:
        task.set_retry(retries, backoff_duration=PAUSE, backoff_factor=2.0, backoff_max_duration=LONGEST_PAUSE)
    if shared_memory:
        size = shared_memory if isinstance(shared_memory, str) else None
        kubernetes.empty_dir_mount(task, "shm", SHARED_MEMORY, medium="Memory", size_limit=size)
    return task
