# mypy: allow-untyped-defs, allow-untyped-calls
"""Voxel-line backprojection of filtered views into a slab: ``(a,u,v),(a)->(y,x,z)``.

All voxels of a line parallel to z have the same depth and the same detector column position u, and
their detector row position v is affine in z. So per (x, y, view) everything but v is a scalar: two
neighbouring detector columns are blended into one line of samples, interpolated along z.

Layout, the same for every variant:

* ``filtered (a, u, v)``: v contiguous and rising with +v; one zero column before and after, and
  `PADDING` zero samples before and after each column, so that samples outside the detector count
  as zero (a voxel's share fades over the pixel beyond the edge) and no bound is tested inside;
* ``slab (y, x, z)``: z contiguous; its first slice has an absolute index that is a multiple of 16,
  and its length is one too, so that runs of voxels fall on the same absolute slices however a
  volume is cut, and a slab is bit for bit the same part of a volume;
* positions are whole numbers of tiny parts of a row, from absolute indices; interpolation is in
  single precision.

Three variants differ in how many voxels of a line they do at once. Sixteen and eight interpolate
inside registers: with a step of less than two rows per voxel, a run needs at most twice as many
samples as it has voxels, so they are loaded into two registers once and every lane picks its two
from there (``vpermi2ps``; ``vpermps`` twice and a blend on AVX2). No gather, no bounds test. Voxels
that are coarser than two rows go one at a time.

All of it is one file because Numba's cache on disk looks at the date of one file only: code that
lived elsewhere could change without being compiled again.
"""

import math

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from pacspark.ct.kernels._jit import jit, parallel_jit

PADDING = 48
"""Zero samples before and after each detector column: two runs of sixteen, and an interpolation."""
RUN = 16
"""Slices of slabs come in multiples of this."""
LONGEST_STEP = 1.999
"""Rows per voxel that the registers can take: the last of 16 voxels needs a sample before the 32nd
from ``1 + 15 * step``, the last of 8 one before the 16th."""
FIXED_BITS = 26
FIXED = 1 << FIXED_BITS
"""Parts of a row that positions along a run are counted in; five more bits are for whole rows."""
PART = np.float32(1 / FIXED)
FINE_BITS = 40
FINE = float(1 << FINE_BITS)
"""Parts of a row that positions along a line are counted in: 65,536 steps, each rounded, lead less
than a ten millionth of a row astray; 23 more bits are for whole rows and the sign."""
MOST_ROWS = 1 << (62 - FINE_BITS)
"""No voxel may be seen further than this from the first row: positions would not fit 64 bits."""
COARSER_BITS = FINE_BITS - FIXED_BITS
LONGEST_FINE = int(LONGEST_STEP * FINE + 0.5)
TILE = 16
ANGLES_AT_ONCE = 8

FLOAT = ir.FloatType()
INT32 = ir.IntType(32)
FAST = ("contract", "reassoc", "nsz", "arcp")


def _splat(builder, scalar, vector_type, lanes):
    undefined = ir.Constant(vector_type, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(INT32, 0))
    zeros = ir.Constant(ir.VectorType(INT32, lanes), [0] * lanes)
    return builder.shuffle_vector(first, undefined, zeros)


def _load(builder, pointer, vector_type):
    loaded = builder.load(builder.bitcast(pointer, vector_type.as_pointer()))
    loaded.align = 4
    return loaded


def _pick_avx512(builder, low, high, index, lanes):
    """Pick lanes from 2 x 16 floats by the low five bits of `index`."""
    vector, integers = low.type, index.type
    function = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(vector, [vector, integers, vector]),
        "llvm.x86.avx512.vpermi2var.ps.512",
    )
    del lanes
    return builder.call(function, [low, index, high])


def _pick_avx2(builder, low, high, index, lanes):
    """Pick lanes from 2 x 8 floats: look up in both halves, then keep the right one."""
    vector, integers = low.type, index.type
    function = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(vector, [vector, integers]),
        "llvm.x86.avx2.permps",
    )
    from_low = builder.call(function, [low, index])
    from_high = builder.call(function, [high, index])
    in_low = builder.icmp_signed("<", index, ir.Constant(integers, [lanes] * lanes))
    return builder.select(in_low, from_low, from_high)


def _resample(lanes, pick):
    """Make the intrinsic for a number of lanes.

    ``(sums, at, samples, base_0, base_1, weight_0, weight_1, fraction, step)``: adds to
    ``sums[at:at + lanes]`` the line ``weight_0 * samples[base_0:] + weight_1 * samples[base_1:]``
    at positions ``fraction + step * lane``, for 0 <= fraction <= 1 and 0 <= step <= `LONGEST_STEP`.
    Both are whole numbers of 1 / `FIXED`: as floats they would lose a millionth of a row over a
    run, the same way in every view, which shows where an object changes along z.
    """

    @intrinsic
    def resample(typingctx, sums, at, samples, base_0, base_1, weight_0, weight_1, fraction, step):
        del typingctx, at, base_0, base_1, weight_0, weight_1, fraction, step
        signature = types.void(
            sums, types.int64, samples, types.int64, types.int64,
            types.float32, types.float32, types.int32, types.int32,
        )  # fmt: skip

        def codegen(context, builder, signature, arguments):
            vector, integers = ir.VectorType(FLOAT, lanes), ir.VectorType(INT32, lanes)
            sums, samples = (
                context.make_array(signature.args[place])(context, builder, arguments[place]).data
                for place in (0, 2)
            )
            at, base_0, base_1 = arguments[1], arguments[3], arguments[4]
            weight_0, weight_1 = (_splat(builder, value, vector, lanes) for value in arguments[5:7])
            fraction, step = (_splat(builder, value, integers, lanes) for value in arguments[7:])
            lane = ir.Constant(integers, list(range(lanes)))
            one, bits, below_one = (
                ir.Constant(integers, [number] * lanes) for number in (1, FIXED_BITS, FIXED - 1)
            )

            def blended(offset):
                first, second = (
                    _load(
                        builder,
                        builder.gep(samples, [builder.add(base, ir.Constant(base.type, offset))]),
                        vector,
                    )
                    for base in (base_0, base_1)
                )
                return builder.fadd(
                    builder.fmul(weight_0, first, flags=FAST),
                    builder.fmul(weight_1, second, flags=FAST),
                    flags=FAST,
                )

            position = builder.add(fraction, builder.mul(lane, step))
            index = builder.lshr(position, bits)
            part = builder.fmul(
                builder.sitofp(builder.and_(position, below_one), vector),
                ir.Constant(vector, [1 / FIXED] * lanes),
                flags=FAST,
            )
            low, high = blended(0), blended(lanes)
            left = pick(builder, low, high, index, lanes)
            right = pick(builder, low, high, builder.add(index, one), lanes)
            value = builder.fadd(
                left,
                builder.fmul(part, builder.fsub(right, left, flags=FAST), flags=FAST),
                flags=FAST,
            )
            target = builder.gep(sums, [at])
            total = builder.fadd(_load(builder, target, vector), value, flags=FAST)
            store = builder.store(total, builder.bitcast(target, vector.as_pointer()))
            store.align = 4
            return context.get_dummy_value()

        return signature, codegen

    return resample


resample_16 = _resample(16, _pick_avx512)
resample_8 = _resample(8, _pick_avx2)


@jit
def runs_between(origin, step, z_start, n_z, row_start, n_v, run):
    """Return the first run of a line of voxels that may reach rows that are there, and the end.

    A run that begins 32 rows and more before the first of them, or after the last, reaches none;
    rounding cannot leave the padding, which has 16 rows more.
    """
    first = origin + z_start * step - row_start
    runs_per_row = 1.0 / (step * run)
    start = np.ceil((-32.0 - first) * runs_per_row)
    stop = np.floor((n_v - first) * runs_per_row) + 1.0
    n_runs = np.float64(n_z // run)
    return np.int64(min(max(start, 0.0), n_runs)), np.int64(min(max(stop, 0.0), n_runs))


@jit
def fine(rows):
    """Return a row position, or a step, in parts of a row.

    Whole numbers, so that the position of a slice is the same from wherever it is counted; the
    units of a CPU that add them are not those that are busy with the samples.
    """
    return np.int64(np.rint(rows * FINE))


@jit
def line_16(sums, sums_at, samples, column_0, column_1, weight_0, weight_1, position, step, n_runs):
    """Add one view to voxels of a line, sixteen at a time; the step is at most `LONGEST_STEP`."""
    lane_step = np.int32((step + (1 << (COARSER_BITS - 1))) >> COARSER_BITS)
    for at in range(sums_at, sums_at + 16 * n_runs, 16):
        below = position >> FINE_BITS
        resample_16(
            sums, at, samples, column_0 + below, column_1 + below, weight_0, weight_1,
            np.int32((position >> COARSER_BITS) & (FIXED - 1)), lane_step,
        )  # fmt: skip
        position += step * 16


@jit
def line_8(sums, sums_at, samples, column_0, column_1, weight_0, weight_1, position, step, n_runs):
    """Add one view to voxels of a line, eight at a time; the step is at most `LONGEST_STEP`."""
    lane_step = np.int32((step + (1 << (COARSER_BITS - 1))) >> COARSER_BITS)
    for at in range(sums_at, sums_at + 8 * n_runs, 8):
        below = position >> FINE_BITS
        resample_8(
            sums, at, samples, column_0 + below, column_1 + below, weight_0, weight_1,
            np.int32((position >> COARSER_BITS) & (FIXED - 1)), lane_step,
        )  # fmt: skip
        position += step * 8


@jit
def line_1(sums, sums_at, samples, column_0, column_1, weight_0, weight_1, position, step, n_runs):
    """Add one view to voxels of a line, one at a time; any step, any CPU."""
    for at in range(sums_at, sums_at + n_runs):
        below = position >> FINE_BITS
        part = np.float32(np.int32((position >> COARSER_BITS) & (FIXED - 1))) * PART
        # unsigned: whether a place counts from the end would be tested for each sample
        place_0, place_1 = np.uint64(column_0 + below), np.uint64(column_1 + below)
        left = weight_0 * samples[place_0] + weight_1 * samples[place_1]
        place_0, place_1 = place_0 + np.uint64(1), place_1 + np.uint64(1)
        right = weight_0 * samples[place_0] + weight_1 * samples[place_1]
        sums[np.uint64(at)] += left + part * (right - left)
        position += step


@jit
def seen(x_mm, y_mm, cosine, sine, source_radius_mm, source_to_detector_mm, parallel_beam):
    """Return where on the detector a voxel line is seen (mm), its magnification and its weight."""
    across_mm = y_mm * cosine - x_mm * sine
    if parallel_beam:
        return across_mm, 1.0, 1.0
    inverse = 1.0 / (source_radius_mm - (x_mm * cosine + y_mm * sine))
    scale = source_to_detector_mm * inverse
    weight = source_radius_mm * inverse
    return across_mm * scale, scale, weight * weight


@jit
def place_lines(
    places, weights, lanes, y_mm, x_mm, columns, cosines, sines, angles,
    source_radii_mm, source_z_mm, source_to_detector_mm, u_per_mm, u_origin, v_per_mm,
    v_origin, z_origin_mm, dz_mm, z_start, column_starts, row_starts, parallel_beam,
    n_u, n_v, n_z,
):  # fmt: skip
    """Find where some views see a row of voxel lines; all views of a line follow each other.

    ``places``: the sample of the detector column to the left from which rows count, the first voxel
    that is seen, runs from there on, the row position of that voxel and the step from one to the
    next; ``weights``: of the columns to the left and to the right.
    """
    n_padded = n_v + 2 * PADDING
    for angle in range(angles[0], angles[1]):
        row_start = row_starts[angle]
        for column in range(columns[0], columns[1]):
            across, scale, weight = seen(
                x_mm[column], y_mm, cosines[angle], sines[angle],
                source_radii_mm[angle], source_to_detector_mm, parallel_beam,
            )  # fmt: skip
            u = across * u_per_mm + u_origin
            left = math.floor(u)
            at_column = np.int64(left) - column_starts[angle]
            step = dz_mm * scale * v_per_mm
            origin = (z_origin_mm - source_z_mm[angle]) * scale * v_per_mm + v_origin
            fine_step = fine(step)
            run = lanes if fine_step <= LONGEST_FINE else 1
            start, stop = runs_between(origin, step, z_start, n_z, row_start, n_v, run)
            if at_column < 0 or at_column >= n_u - 1:
                stop = start
            line = (column - columns[0]) * (angles[1] - angles[0]) + angle - angles[0]
            places[line, 0] = (angle * n_u + at_column) * n_padded + PADDING - row_start
            places[line, 1] = start * run
            places[line, 2] = stop - start
            places[line, 3] = fine(origin) + (z_start + start * run) * fine_step
            places[line, 4] = fine_step
            weights[line, 0] = (1.0 - (u - left)) * weight
            weights[line, 1] = (u - left) * weight


def _make_backproject(lanes):
    """Make the kernel that does a number of voxels of a line at once.

    A plain number and not a function, so that what the kernel closes over is the same in every
    process and the compiled kernel is found on disk. Numba drops the branches that the number
    rules out before it compiles, so no CPU meets instructions that it lacks.
    """

    @parallel_jit
    def backproject(
        filtered, slab, cosines, sines, x_mm, y_mm,
        source_radii_mm, source_z_mm, source_to_detector_mm, u_per_mm, u_origin, v_per_mm,
        v_origin, z_origin_mm, dz_mm, z_start, column_starts, row_starts, parallel_beam,
    ):  # fmt: skip
        """Add views to a slab: ``(a,u,v),(y,x,z),(a),(a),(x),(y),(a),(a),(a),(a) -> (y,x,z)``.

        The source of a view is ``source_radii_mm`` from the axis and ``source_z_mm`` high.
        ``u_origin`` and ``v_origin`` are the positions, in filtered columns and rows of the whole
        detector, of the horizontal ray through the axis; ``z_origin_mm`` is where the absolute
        slice 0 lies. ``z_start`` is the absolute index of the slab's first slice;
        ``column_starts`` and ``row_starts`` are those of the first column and the first row that
        `filtered` holds of a view.
        """
        n_angles, n_u, n_padded = filtered.shape
        n_v = n_padded - 2 * PADDING
        n_y, n_x, n_z = slab.shape
        # places in flat arrays: a slice would be counted in and out, for every view of every line
        samples, sums = filtered.reshape(-1), slab.reshape(-1)
        n_tiles_x = (n_x + TILE - 1) // TILE
        n_tiles = n_tiles_x * ((n_y + TILE - 1) // TILE)
        for tile in numba.prange(n_tiles):
            y_start = tile // n_tiles_x * TILE
            x_start = tile % n_tiles_x * TILE
            x_stop = min(n_x, x_start + TILE)
            # where a line begins is a long chain of operations: those of many lines overlap
            places = np.empty((TILE * ANGLES_AT_ONCE, 5), np.int64)
            weights = np.empty((TILE * ANGLES_AT_ONCE, 2), np.float32)
            for angle_start in range(0, n_angles, ANGLES_AT_ONCE):
                angle_stop = min(n_angles, angle_start + ANGLES_AT_ONCE)
                n_views = angle_stop - angle_start
                for row in range(y_start, min(n_y, y_start + TILE)):
                    place_lines(
                        places, weights, lanes, y_mm[row], x_mm, (x_start, x_stop),
                        cosines, sines, (angle_start, angle_stop),
                        source_radii_mm, source_z_mm, source_to_detector_mm, u_per_mm, u_origin,
                        v_per_mm, v_origin, z_origin_mm, dz_mm, z_start, column_starts, row_starts,
                        parallel_beam, n_u, n_v, n_z,
                    )  # fmt: skip
                    for line in range((x_stop - x_start) * n_views):
                        column = x_start + line // n_views
                        sums_at = (row * n_x + column) * n_z + places[line, 1]
                        column_0 = places[line, 0]
                        n_runs, position, step = places[line, 2], places[line, 3], places[line, 4]
                        if lanes == 16 and step <= LONGEST_FINE:
                            line_16(
                                sums, sums_at, samples, column_0, column_0 + n_padded,
                                weights[line, 0], weights[line, 1], position, step, n_runs,
                            )  # fmt: skip
                        elif lanes == 8 and step <= LONGEST_FINE:
                            line_8(
                                sums, sums_at, samples, column_0, column_0 + n_padded,
                                weights[line, 0], weights[line, 1], position, step, n_runs,
                            )  # fmt: skip
                        else:
                            line_1(
                                sums, sums_at, samples, column_0, column_0 + n_padded,
                                weights[line, 0], weights[line, 1], position, step, n_runs,
                            )  # fmt: skip

    return backproject


backproject_avx512 = _make_backproject(16)
backproject_avx2 = _make_backproject(8)
backproject_portable = _make_backproject(1)


@parallel_jit
def turn(slab, z_start, volume, y_start, y_stop):
    """Copy slices out of some rows of a slab: ``(y,x,z)->(z,y,x)``."""
    n_z, _, n_x = volume.shape
    for y in numba.prange(y_start, y_stop):
        for z_at in range(0, n_z, 16):
            for x_at in range(0, n_x, 16):
                for z in range(z_at, min(n_z, z_at + 16)):
                    for x in range(x_at, min(n_x, x_at + 16)):
                        volume[z, y, x] = slab[y, x, z_start + z]
