"""Settings that every stage's task needs, in our pipeline or in your own."""

from kfp import dsl, kubernetes

PAUSE, LONGEST_PAUSE = "60s", "3600s"
"""Pause before the first retry, which doubles with each retry, and its maximum."""

SHARED_MEMORY = "/dev/shm"  # noqa: S108 -- a mount point, not a temporary file


def configure(task: dsl.PipelineTask, retries: int = 0, shared_memory: bool = False) -> dsl.PipelineTask:
    """Turns off KFP's cache for a stage's task and sets its retries. Returns the task.

    KFP's cache depends on the parameters and the image, but not on the raw files or on whether the results still exist:
    it would skip a stage whose results were removed. A stage checks by itself what is finished under the run root.

    Args:
        retries: How often the platform restarts a failed task. The stage resumes where it stopped.
        shared_memory: Whether to mount memory at /dev/shm, through which the ranks of several GPUs exchange data.
            Kubeflow only; a container has 64 MiB there by default.
    """
    task.set_caching_options(False)
    if retries:
        task.set_retry(retries, backoff_duration=PAUSE, backoff_factor=2.0, backoff_max_duration=LONGEST_PAUSE)
    if shared_memory:
        kubernetes.empty_dir_mount(task, "shm", SHARED_MEMORY, medium="Memory")
    return task
