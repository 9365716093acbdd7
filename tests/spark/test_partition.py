"""The planner: every (angle, slice) once, bounded bytes, figures that add up."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pacspark.ct.fdk import SlabReconstruction
from pacspark.ct.geometry import ConeBeamGeometry, FlatPanel, ParallelBeamGeometry, VolumeGrid
from pacspark.ct.shadow import FilteredView
from pacspark.ct.views import ConeBeamViews, Rectification
from pacspark.errors import GeometryError, MemoryBudgetError, UsageError
from pacspark.spark.cluster import Cluster, parse_bytes
from pacspark.spark.costs import READ_BYTES_PER_SECOND, STARTUP_SECONDS
from pacspark.spark.partition import (
    WORKER_BYTES,
    ReconstructionPlan,
    plan_reconstruction,
)
from pacspark.spark.presets import SUBJECTS, plan_preset, subject_scan


def scan(n_angles: int = 36, n_rows: int = 32, n_columns: int = 40) -> ConeBeamGeometry:
    return ConeBeamGeometry(
        source_to_isocenter_mm=500.0,
        source_to_detector_mm=1000.0,
        gantry_angles_rad=np.arange(n_angles) * 2 * math.pi / n_angles,
        detector=FlatPanel(
            n_rows=n_rows, n_columns=n_columns, row_spacing_mm=2.0, column_spacing_mm=2.0
        ),
    )


def covered(plan: ReconstructionPlan) -> list[tuple[int, int]]:
    return [
        (angle, z)
        for task in plan.tasks
        for angle in range(task.angle_start, task.angle_stop)
        for z in range(task.z_start, task.z_stop)
    ]


@settings(max_examples=60, deadline=None)
@given(
    n_angles=st.integers(3, 80),
    n_z=st.integers(1, 40),
    executors=st.integers(1, 5),
    cores=st.integers(1, 9),
)
def test_plan__covers_every_angle_and_slice_exactly_once(
    n_angles: int, n_z: int, executors: int, cores: int
) -> None:
    grid = VolumeGrid(shape=(n_z, 24, 20), voxel_mm=(1.0, 1.0, 1.0))
    plan = plan_reconstruction(scan(n_angles), grid, Cluster(executors, cores, cores << 30))
    pairs = covered(plan)
    assert len(pairs) == n_angles * n_z
    assert set(pairs) == {(angle, z) for angle in range(n_angles) for z in range(n_z)}


@settings(max_examples=40, deadline=None)
@given(n_slabs=st.integers(1, 30), n_groups=st.integers(1, 36), block=st.integers(1, 36))
def test_plan__keeps_forced_cuts(n_slabs: int, n_groups: int, block: int) -> None:
    grid = VolumeGrid(shape=(30, 24, 20), voxel_mm=(1.0, 1.0, 1.0))
    plan = plan_reconstruction(
        scan(), grid, Cluster(), n_slabs=n_slabs, n_angle_groups=n_groups, angle_block=block
    )
    assert (plan.n_slabs, plan.n_angle_groups, plan.angle_block) == (n_slabs, n_groups, block)
    assert len(covered(plan)) == len(set(covered(plan))) == 36 * 30


def test_plan__fills_the_cores_with_angle_groups_when_slabs_are_few() -> None:
    grid = VolumeGrid(shape=(1, 24, 20), voxel_mm=(1.0, 1.0, 1.0))
    plan = plan_reconstruction(scan(360), grid, Cluster(2, 4, 16 << 30))
    assert plan.n_slabs == 1
    assert plan.n_angle_groups == 8
    assert plan.shuffle_bytes == 8 * plan.volume_bytes


def test_plan__cuts_more_slabs_when_memory_is_short() -> None:
    geometry = scan(360, 512, 512)
    grid = VolumeGrid(shape=(512, 512, 512), voxel_mm=(1.0, 1.0, 1.0))
    roomy = plan_reconstruction(geometry, grid, Cluster(1, 2, 8 << 30))
    short = plan_reconstruction(geometry, grid, Cluster(1, 2, 2 * (WORKER_BYTES + (256 << 20))))
    assert short.n_slabs > roomy.n_slabs
    assert short.task_bytes <= WORKER_BYTES + (256 << 20)


def test_plan__knows_that_coarse_voxels_go_one_at_a_time() -> None:
    """Half as high, there are twice as many, and each takes a seventh of the time."""
    coarse, fine = (
        plan_reconstruction(
            scan(720, 400, 400), VolumeGrid((n_z, 200, 200), (dz_mm, 0.5, 0.5)), Cluster()
        )
        for n_z, dz_mm in ((60, 2.4), (120, 1.2))
    )
    assert 2 * coarse.voxel_updates == fine.voxel_updates
    assert coarse.core_seconds > fine.core_seconds


def test_plan__cuts_tiles_where_a_slice_is_too_much() -> None:
    geometry = scan(360, 512, 512)
    grid = VolumeGrid(shape=(50, 8000, 7000), voxel_mm=(0.05, 0.05, 0.05))
    plan = plan_reconstruction(geometry, grid, Cluster(1, 2, 2 << 30))
    assert plan.tile_cuts > 1
    assert plan.task_bytes <= 1 << 30
    voxels = [
        (t.z_stop - t.z_start) * (t.y_stop - t.y_start) * (t.x_stop - t.x_start) for t in plan.tasks
    ]
    assert sum(voxels) == 50 * 8000 * 7000
    assert len({(t.z_start, t.y_start, t.x_start) for t in plan.tasks}) == len(plan.tasks)
    rows = [(t.angle_stop - t.angle_start) * (t.row_stop - t.row_start) for t in plan.filter_tasks]
    assert sum(rows) == 360 * 512


@pytest.mark.parametrize("name", ["thorax", "full-body"])
def test_presets__need_no_task_above_4_gib(name: str) -> None:
    summary = plan_preset(name, Cluster(100, 8, 32 << 30)).summary()
    assert summary["bytes_per_task"] <= 4 << 30
    assert summary["tiles_per_slab"] > 1
    assert summary["shuffle_bytes"] > summary["projection_bytes"]
    assert summary["core_hours"] == pytest.approx(800 * summary["wall_seconds"] / 3600)
    assert summary["core_hours"] >= summary["busy_core_hours"] > 0


def test_plan__names_the_smallest_budget_that_would_do() -> None:
    geometry = scan(360, 512, 512)
    grid = VolumeGrid(shape=(512, 8000, 8000), voxel_mm=(0.05, 0.05, 0.05))
    with pytest.raises(MemoryBudgetError, match=r"expected at least .* GiB per task") as caught:
        plan_reconstruction(geometry, grid, Cluster(1, 1, WORKER_BYTES + (32 << 20)))
    smallest_gib = float(str(caught.value).split("give ")[1].split(" GiB")[0])
    smallest = int(smallest_gib * 2**30)
    plan = plan_reconstruction(geometry, grid, Cluster(1, 1, smallest))
    assert plan.task_bytes <= smallest < 1 << 30


def test_plan__counts_the_prepare_stage() -> None:
    geometry, grid = scan(360, 512, 512), VolumeGrid(shape=(8, 16, 16), voxel_mm=(1.0, 1.0, 1.0))
    plan = plan_reconstruction(geometry, grid, Cluster(1, 2, 8 << 30))
    samples = 360 * 512 * 512
    assert plan.n_prepare_tasks == 3  # 128 frames are 128 MiB
    assert plan.summary()["tasks"] == 3 + len(plan.tasks)
    # slabs of so few voxels read a band of the rows; all stored frames are read before
    assert 2 * samples < plan.read_bytes < 6 * samples
    assert plan.core_seconds > 6 * samples / READ_BYTES_PER_SECOND


def test_plan__counts_every_energy_bin() -> None:
    grid = VolumeGrid(shape=(8, 16, 16), voxel_mm=(1.0, 1.0, 1.0))
    one, four = (
        plan_reconstruction(scan(), grid, Cluster(), n_energy_bins=bins).summary()
        for bins in (1, 4)
    )
    totals = "tasks prepare_tasks projection_bytes volume_bytes read_bytes voxel_updates"
    assert {name: four[name] for name in totals.split()} == {
        name: pytest.approx(4 * one[name]) for name in totals.split()
    }
    assert four["bytes_per_task"] == one["bytes_per_task"]
    assert four["wall_seconds"] - STARTUP_SECONDS == pytest.approx(
        4 * (one["wall_seconds"] - STARTUP_SECONDS)
    )


@pytest.mark.parametrize("forced", ["n_slabs", "angle_block", "n_angle_groups"])
def test_plan__refuses_forced_cuts_out_of_range(forced: str) -> None:
    grid = VolumeGrid(shape=(4, 24, 20), voxel_mm=(1.0, 1.0, 1.0))
    for value in (0, 10_000, 1.5):
        cuts: dict[str, Any] = {forced: value}
        with pytest.raises(UsageError, match=f"{forced}: expected .*, found {value}"):
            plan_reconstruction(scan(), grid, Cluster(), **cuts)


@pytest.mark.parametrize("name", ["stone", "arteria"])
def test_presets__hold_as_much_data_as_the_subject(name: str) -> None:
    geometry, grid = subject_scan(SUBJECTS[name])
    plan = plan_reconstruction(geometry, grid, Cluster(4, 4, 64 << 30))
    assert plan.projection_bytes == pytest.approx(SUBJECTS[name].data_bytes, rel=0.01)


def test_cluster__refuses_nothing_to_run_on() -> None:
    wrong: list[Any] = [0, 1.5, math.nan, 10**30]
    for executors in wrong:
        with pytest.raises(UsageError, match=r"cluster.executors: expected .*, found"):
            Cluster(executors=executors)


def test_plan__starts_no_more_workers_than_tasks() -> None:
    grid = VolumeGrid(shape=(16, 24, 20), voxel_mm=(1.0, 1.0, 1.0))
    many = Cluster(10**6, 10**6, 1 << 58)
    assert plan_reconstruction(scan(), grid, many).wall_seconds < STARTUP_SECONDS + 2


def test_plan__names_a_budget_that_can_be_given() -> None:
    grid = VolumeGrid(shape=(16, 24, 20), voxel_mm=(1.0, 1.0, 1.0))
    with pytest.raises(MemoryBudgetError) as caught:
        plan_reconstruction(scan(), grid, Cluster(1, 10**7, 1 << 30))
    told = str(caught.value).split("give ")[1].split(" GiB")[0]
    plan_reconstruction(scan(), grid, Cluster(1, 10**7, parse_bytes(told, "g", "--memory")))


def test_plan__counts_columns_that_a_half_fan_lacks() -> None:
    grid = VolumeGrid(shape=(8, 24, 20), voxel_mm=(1.0, 1.0, 1.0))
    whole = scan(360, 400, 400)
    panel = replace(whole.detector, offset_u_mm=300.0)
    half = replace(whole, detector=panel)
    plain, longer = (
        plan_reconstruction(
            geometry, grid, Cluster(1, 2, 8 << 30), kind="line_integrals", angle_block=360
        )
        for geometry in (whole, half)
    )
    lacking = FilteredView.of(half).n_columns - FilteredView.of(whole).n_columns
    assert lacking > 0
    band = min(task.row_stop - task.row_start for task in plain.tasks)
    assert longer.task_bytes - plain.task_bytes >= 4 * 360 * band * lacking


def test_plan__counts_upright_panels_and_what_they_are_resampled_from() -> None:
    meant = scan(360, 500, 700)
    views = ConeBeamViews.of_circle(meant, in_plane_rad=0.4)
    upright = Rectification(views).geometry
    raw_samples, samples = (
        360 * panel.n_rows * panel.n_columns for panel in (meant.detector, upright.detector)
    )
    assert samples > 1.5 * raw_samples
    grid = VolumeGrid(shape=(8, 16, 16), voxel_mm=(1.0, 1.0, 1.0))
    cluster = Cluster(1, 2, 8 << 30)
    plain = plan_reconstruction(meant, grid, cluster)
    plan = plan_reconstruction(upright, grid, cluster, views=views)
    assert plan.projection_bytes == 4 * samples
    assert plan.n_prepare_tasks > plain.n_prepare_tasks
    slabs = plan_reconstruction(upright, grid, cluster)  # as if frames had been measured upright
    assert slabs.read_bytes - plan.read_bytes == 2 * (samples - raw_samples)
    assert plan.core_seconds > slabs.core_seconds + 2e-8 * samples - 2e-8 * raw_samples


def test_plan__counts_what_a_prepare_task_holds() -> None:
    grid = VolumeGrid(shape=(1, 8, 8), voxel_mm=(1.0, 1.0, 1.0))
    geometry = scan(40, 4000, 4000)
    needed = WORKER_BYTES + (4 + 10) * 4 * 4000 * 4000  # one frame is decoded at a time
    assert plan_reconstruction(geometry, grid, Cluster(1, 1, needed)).task_bytes == needed
    with pytest.raises(MemoryBudgetError, match=rf"expected at least {needed / 2**30:.2f} GiB"):
        plan_reconstruction(geometry, grid, Cluster(1, 1, needed - 1))


def test_plan__refuses_forced_tiles_that_do_not_fit() -> None:
    grid = VolumeGrid((64, 512, 512), (1.0, 1.0, 1.0))
    with pytest.raises(MemoryBudgetError, match=r"expected at least .* GiB per task"):
        plan_reconstruction(scan(64, 512, 512), grid, Cluster(1, 1, WORKER_BYTES), tile_cuts=2)


def test_plan__prepares_nothing_that_can_be_read_as_it_is_stored() -> None:
    geometry, cluster = scan(360, 512, 512), Cluster(1, 2, 8 << 30)
    grid = VolumeGrid((512, 512, 512), (1.0, 1.0, 1.0))
    counts = plan_reconstruction(geometry, grid, cluster, kind="counts")
    stored = plan_reconstruction(geometry, grid, cluster, kind="transmission")
    assert counts.n_prepare_tasks > 0
    assert stored.n_prepare_tasks == 0
    assert stored.read_bytes < counts.read_bytes
    # frames would be decoded over and over
    many = plan_reconstruction(geometry, grid, cluster, kind="transmission", n_slabs=32)
    assert many.n_prepare_tasks == counts.n_prepare_tasks
    # rows are filtered once for all tiles
    tiles = plan_reconstruction(geometry, grid, cluster, kind="transmission", tile_cuts=4)
    assert tiles.n_prepare_tasks == 0


def test_plan__counts_the_start_of_workers_that_work() -> None:
    grid = VolumeGrid((64, 64, 64), (1.0, 1.0, 1.0))
    few, many = (
        plan_reconstruction(scan(96), grid, Cluster(executors, 8, 16 << 30))
        for executors in (4, 512)
    )
    assert len(few.tasks) < 32
    assert many.core_seconds == pytest.approx(few.core_seconds, rel=0.2)


@pytest.mark.parametrize(
    ("row_mm", "shape", "voxel_mm"),
    [
        (1e-6, (33, 8, 8), (10.0, 1.0, 1.0)),
        (1e-6, (41, 8, 8), (0.9, 1.0, 1.0)),
        (1e-3, (2001, 8, 8), (10.0, 1.0, 1.0)),
        (1e-6, (3, 8, 8), (10.0, 1.0, 1.0)),
    ],
)
def test_plan__and_arrays_refuse_slices_that_rows_do_not_measure(
    row_mm: float, shape: tuple[int, int, int], voxel_mm: tuple[float, float, float]
) -> None:
    geometry = ParallelBeamGeometry(np.arange(16) * np.pi / 16, FlatPanel(3, 16, row_mm, 1.0))
    grid = VolumeGrid(shape, voxel_mm)
    with pytest.raises(GeometryError, match=r"seen within 4194304 rows .* row_spacing_mm"):
        plan_reconstruction(geometry, grid, Cluster())
    with pytest.raises(GeometryError, match=r"seen within 4194304 rows"):
        SlabReconstruction(geometry, grid)


def test_arrays__refuse_voxels_almost_at_the_source() -> None:
    angles = np.arange(64) * 2 * np.pi / 64
    geometry = ConeBeamGeometry(100.0, 200.0, angles, FlatPanel(16, 16, 0.1, 10.0))
    grid = VolumeGrid((33, 1, 3), (1.0, 1.0, 100 - 1e-7))
    with pytest.raises(GeometryError, match=r"seen within 4194304 rows"):
        SlabReconstruction(geometry, grid)


@pytest.mark.parametrize("memory_bytes", [1, 32 << 20, 1 << 30])
def test_presets__that_no_task_fits_are_refused_in_one_line(memory_bytes: int) -> None:
    with pytest.raises(MemoryBudgetError, match=r"expected at least 1\.\d+ GiB per task"):
        plan_preset("thorax", Cluster(1, 1, memory_bytes))
