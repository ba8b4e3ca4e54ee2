"""What every stage's task needs in a pipeline, ours or another's."""

from kfp import dsl, kubernetes

PAUSE, LONGEST_PAUSE = "60s", "3600s"
"""Before the first retry, and before any; each pause is twice the one before."""

SHARED_MEMORY = "/dev/shm"  # noqa: S108 -- a mount point, no file of ours


def configure(task: dsl.PipelineTask, retries: int = 0, shared_memory: bool = False) -> dsl.PipelineTask:
    """Turns KFP's cache off for a stage's task, and sets its retries; returns the task.

    A stage finds what it has finished under the run root, of this config and no other. KFP's cache knows the parameters
    and the image, but neither the raw files nor whether the results are still there: it would skip a stage whose
    results have been removed.

    Args:
        retries: How often the platform starts the task again after it failed; a stage goes on where it was.
        shared_memory: Mounts memory at /dev/shm, where the ranks of several GPUs exchange data. Kubeflow alone: a
            container has 64 MiB there otherwise.
    """
    task.set_caching_options(False)
    if retries:
        task.set_retry(retries, backoff_duration=PAUSE, backoff_factor=2.0, backoff_max_duration=LONGEST_PAUSE)
    if shared_memory:
        kubernetes.empty_dir_mount(task, "shm", SHARED_MEMORY, medium="Memory")
    return task
