"""Sixteen or eight voxels of a line at once: linear interpolation inside registers.

`resample_16` and `resample_8` add to a run of 16 or 8 consecutive voxels what one view gives them.
Two neighbouring detector columns are blended into one line of samples, and the line is interpolated
at ``fraction + step * lane``. With a step of at most one row per voxel, a run needs at most twice as
many samples as it has voxels: they are loaded into two registers once, and every lane picks its two
from there (``vpermi2ps``; ``vpermps`` twice and a blend on AVX2). No gather, no bounds test: callers
pad the samples by a run and more on both sides.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

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

    ``(sums, at, samples_0, samples_1, base, weight_0, weight_1, fraction, step)``: adds to
    ``sums[at:at + lanes]`` the line ``weight_0 * samples_0 + weight_1 * samples_1`` at positions
    ``base + fraction + step * lane``, for 0 <= fraction < 1 and 0 <= step <= 1.
    """

    @intrinsic
    def resample(typingctx, sums, at, samples_0, samples_1, base, weight_0, weight_1, fraction, step):
        del typingctx, at, base, weight_0, weight_1, fraction, step
        signature = types.void(
            sums, types.int64, samples_0, samples_1, types.int64,
            types.float32, types.float32, types.float32, types.float32,
        )  # fmt: skip

        def codegen(context, builder, signature, arguments):
            vector, integers = ir.VectorType(FLOAT, lanes), ir.VectorType(INT32, lanes)
            data = [
                context.make_array(signature.args[place])(context, builder, arguments[place]).data
                for place in (0, 2, 3)
            ]
            at, base = arguments[1], arguments[4]
            scalars = [_splat(builder, value, vector, lanes) for value in arguments[5:]]
            weight_0, weight_1, fraction, step = scalars
            lane = ir.Constant(vector, [float(number) for number in range(lanes)])
            one = ir.Constant(integers, [1] * lanes)

            def blended(offset):
                first = _load(builder, builder.gep(data[1], [offset]), vector)
                second = _load(builder, builder.gep(data[2], [offset]), vector)
                return builder.fadd(
                    builder.fmul(weight_0, first, flags=FAST),
                    builder.fmul(weight_1, second, flags=FAST),
                    flags=FAST,
                )

            position = builder.fadd(fraction, builder.fmul(lane, step, flags=FAST), flags=FAST)
            index = builder.fptosi(position, integers)  # positions are >= 0: truncation is floor
            part = builder.fsub(position, builder.sitofp(index, vector), flags=FAST)
            low = blended(base)
            high = blended(builder.add(base, ir.Constant(base.type, lanes)))
            left = pick(builder, low, high, index, lanes)
            right = pick(builder, low, high, builder.add(index, one), lanes)
            value = builder.fadd(
                left,
                builder.fmul(part, builder.fsub(right, left, flags=FAST), flags=FAST),
                flags=FAST,
            )
            target = builder.gep(data[0], [at])
            total = builder.fadd(_load(builder, target, vector), value, flags=FAST)
            store = builder.store(total, builder.bitcast(target, vector.as_pointer()))
            store.align = 4
            return context.get_dummy_value()

        return signature, codegen

    return resample


resample_16 = _resample(16, _pick_avx512)
resample_8 = _resample(8, _pick_avx2)
