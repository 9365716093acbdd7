"""The prepare stage in numbers: how frames are shared out, and what their tasks hold and take.

Tasks make line integrals of stored frames, some frames at a time; frames that are too large for
that, in bands of rows. Panels that did not stand upright are resampled, which needs whole frames.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pacspark.ct.geometry import Geometry
from pacspark.ct.views import ConeBeamViews
from pacspark.dicom.scan import FrameRun
from pacspark.spark.costs import (
    DECODE_SECONDS_PER_SAMPLE,
    INTEGRALS_SECONDS_PER_SAMPLE,
    READ_BYTES_PER_SECOND,
    RECTIFY_SECONDS_PER_SAMPLE,
    WRITE_BYTES_PER_SECOND,
)

FRAMES_AT_ONCE_BYTES = 16 << 20
"""Frames are decoded in runs of about this much float32, so that a task's memory does not follow
the object's size."""
LARGEST_FRAME_BYTES = 64 << 20
"""Frames of more float32 are decoded in bands of rows."""
COPIES = 4
"""Copies of such a run alive at once: stored, decoded, without dark and flat, logarithms; later the
logarithms and what they are resampled to."""
BEAM_COPIES = 10
"""Copies of a frame beside them: the beam without object, the dark level and the smallest counts,
in double and in single precision."""
TASK_BYTES = 128 << 20
"""Line integrals that a task makes, at most, but for a single frame that is larger."""
STORED_SAMPLE_BYTES = 2


def largest_frame_bytes(geometry: Geometry, views: ConeBeamViews | None) -> int:
    """Return the size of a frame as float32; where there are raw and upright ones, of the larger.

    Parameters
    ----------
    geometry, views
        As `partition.plan_reconstruction` takes them.
    """
    panels = [geometry.detector] + ([] if views is None else [views.detector])
    return 4 * max(panel.n_rows * panel.n_columns for panel in panels)


def frames_at_once(frame_bytes: int) -> int:
    """Return how many frames are decoded at once."""
    return max(1, FRAMES_AT_ONCE_BYTES // frame_bytes)


def rows_at_once(n_rows: int, n_columns: int, views: ConeBeamViews | None) -> int:
    """Return how many rows of frames are decoded at once: all, but for very large frames."""
    if views is not None or 4 * n_rows * n_columns <= LARGEST_FRAME_BYTES:
        return n_rows
    return max(1, FRAMES_AT_ONCE_BYTES // (4 * n_columns))


def prepare_bytes(geometry: Geometry, views: ConeBeamViews | None) -> int:
    """Return what a task holds beside its worker."""
    frame_bytes = largest_frame_bytes(geometry, views)
    if views is None and frame_bytes > LARGEST_FRAME_BYTES:
        return (COPIES + BEAM_COPIES) * FRAMES_AT_ONCE_BYTES
    at_once = min(frames_at_once(frame_bytes), geometry.n_angles)
    return (COPIES * at_once + BEAM_COPIES) * frame_bytes


@dataclass(frozen=True, slots=True)
class Preparing:
    """What the prepare stage costs, and what is left to do for tasks that read views after it.

    Attributes
    ----------
    n_tasks, seconds, read_bytes, task_bytes
        Of the stage: tasks, seconds on one core, what all of them read, what one holds.
    sample_bytes, sample_seconds
        Of a sample that is read afterwards: its size, and what decoding it takes.
    """

    n_tasks: int
    seconds: float
    read_bytes: int
    task_bytes: int
    sample_bytes: int
    sample_seconds: float


def plan_preparing(
    geometry: Geometry, views: ConeBeamViews | None, as_stored: bool, cores: int
) -> Preparing:
    """Plan the stage; of frames that are read as they are stored, none."""
    if as_stored:
        return Preparing(0, 0.0, 0, 0, STORED_SAMPLE_BYTES, DECODE_SECONDS_PER_SAMPLE)
    upright = geometry.detector
    raw = upright if views is None else views.detector
    samples, raw_samples = (
        geometry.n_angles * panel.n_rows * panel.n_columns for panel in (upright, raw)
    )
    read_bytes = STORED_SAMPLE_BYTES * raw_samples
    seconds = (
        raw_samples * (DECODE_SECONDS_PER_SAMPLE + INTEGRALS_SECONDS_PER_SAMPLE)
        + read_bytes / READ_BYTES_PER_SECOND
        + 4 * samples / WRITE_BYTES_PER_SECOND
        + (0.0 if views is None else samples * RECTIFY_SECONDS_PER_SAMPLE)
    )
    per_task = frames_per_task(geometry.n_angles, largest_frame_bytes(geometry, views), cores)
    n_tasks = math.ceil(geometry.n_angles / per_task)
    return Preparing(n_tasks, seconds, read_bytes, prepare_bytes(geometry, views), 4, 0.0)


def frames_per_task(n_frames: int, frame_bytes: int, cores: int) -> int:
    """Return how many frames a task gets: work for every core, bounded bytes."""
    return min(math.ceil(n_frames / cores), max(1, TASK_BYTES // frame_bytes))


def cut_runs(runs: Sequence[FrameRun], frame_bytes: int, cores: int) -> list[list[FrameRun]]:
    """Cut runs of frames into tasks: at least one per core, none much over the task's bytes."""
    per_task = frames_per_task(sum(run.count for run in runs), frame_bytes, cores)
    tasks: list[list[FrameRun]] = [[]]
    room = per_task
    for run in runs:
        start = 0
        while start < run.count:
            if not room:
                tasks.append([])
                room = per_task
            stop = min(run.count, start + room)
            tasks[-1].append(run.cut(start, stop))
            room -= stop - start
            start = stop
    return tasks
