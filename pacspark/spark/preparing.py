"""The prepare stage in numbers: how frames are shared out, and what their tasks hold and take.

Tasks make line integrals of stored frames, some frames at a time; frames that are too large for
that, in bands of rows. Panels that did not stand upright are resampled, which needs whole frames.
"""

import math
from collections.abc import Sequence

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
LARGEST_FRAME_BYTES = 256 << 20
"""Frames of more float32 are decoded in bands of rows."""
COPIES = 4
"""Copies of such a run alive at once: stored, decoded, without dark and flat, logarithms; later the
logarithms and what they are resampled to."""
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
        return COPIES * FRAMES_AT_ONCE_BYTES
    return COPIES * min(frames_at_once(frame_bytes), geometry.n_angles) * frame_bytes


def prepare_cost(
    geometry: Geometry, views: ConeBeamViews | None, cores: int
) -> tuple[float, int, int]:
    """Return the seconds on one core, the tasks, and the bytes that are read."""
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
    return seconds, math.ceil(geometry.n_angles / per_task), read_bytes


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
