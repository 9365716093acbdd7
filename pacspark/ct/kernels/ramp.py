# mypy: allow-untyped-defs, allow-untyped-calls, disable-error-code="call-arg, attr-defined"
"""Weighting and ramp filter of detector rows: ``(a,v,u)->(a,u,v)``, the layout of `backproject`.

A convolution needs two transforms that undo each other, so nothing need be in order between them:
decimation in frequency forwards, decimation in time backwards, and no permutation. Neighbouring
columns of a row are the real and the imaginary part of one value, so a row needs a transform of
half its length; since the filter is even, ``Z'[k] = a[k] Z[k] + i b[k] conj(Z[-k])`` with real a
and b is the whole of the filter. No row meets another: what comes out does not depend
on which rows are filtered together.

Eight rows lie side by side in ``work (u, 8)``: every step is the same for all lanes of a vector,
and the result is written as columns, which is how the backprojection wants it. Rows are padded to
at least twice their length, so the second half of what is transformed is empty and only the first
half of the result counts: the outermost step, of radix 2, is a multiplication before (`_twist`) and
an addition after (`_untwist`).

All of it is in double precision. A ramp makes little of much: of a smooth row, it leaves a
thousandth, and rounding as for the row. On round objects that is alike in all views and adds up.

Vectors have eight lanes on every CPU; where registers are shorter, LLVM takes more of them. All
of it is one file for the reason that `backproject` gives.
"""

import math

import numba
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from pacspark.ct.kernels._jit import jit, parallel_jit

LANES = 8
"""Rows that are filtered at once."""
VALUE = 2 * LANES
"""Floats of a complex value of each of them."""
COLUMNS = 64
"""Columns of rows that are turned at a time."""

_FLOAT = ir.DoubleType()
_VECTOR = ir.VectorType(_FLOAT, LANES)
_FAST = ("contract", "reassoc", "nsz", "arcp")


class _Vectors:
    """Writes instructions on vectors of lanes, at places of an array of floats."""

    def __init__(self, context, builder, array_type, array):
        self._builder = builder
        self._data = context.make_array(array_type)(context, builder, array).data

    def _pointer(self, at):
        place = self._builder.gep(self._data, [at])
        return self._builder.bitcast(place, _VECTOR.as_pointer())

    def load(self, at, lane=0):
        loaded = self._builder.load(self._pointer(self._plus(at, lane)))
        loaded.align = 8
        return loaded

    def store(self, value, at, lane=0):
        stored = self._builder.store(value, self._pointer(self._plus(at, lane)))
        stored.align = 8

    def _plus(self, at, lane):
        return self._builder.add(at, ir.Constant(at.type, lane)) if lane else at

    def complex(self, at):
        return self.load(at), self.load(at, LANES)

    def store_complex(self, value, at):
        self.store(value[0], at)
        self.store(value[1], at, LANES)


class _Arithmetic:
    """Writes arithmetic on pairs of vectors: real and imaginary parts."""

    def __init__(self, builder):
        self._builder = builder

    def splat(self, scalar):
        undefined = ir.Constant(_VECTOR, ir.Undefined)
        index = ir.IntType(32)
        first = self._builder.insert_element(undefined, scalar, ir.Constant(index, 0))
        zeros = ir.Constant(ir.VectorType(index, LANES), [0] * LANES)
        return self._builder.shuffle_vector(first, undefined, zeros)

    def add(self, one, other):
        return self._builder.fadd(one, other, flags=_FAST)

    def subtract(self, one, other):
        return self._builder.fsub(one, other, flags=_FAST)

    def multiply(self, one, other):
        return self._builder.fmul(one, other, flags=_FAST)

    def scaled(self, value, factor):
        """Multiply by a number that is known now; nothing for 0."""
        if abs(factor) < 1e-12:
            return None
        if abs(factor - 1) < 1e-12:
            return value
        return self.multiply(value, ir.Constant(_VECTOR, [factor] * LANES))

    def sum(self, values):
        values = [value for value in values if value is not None]
        total = values[0]
        for value in values[1:]:
            total = self.add(total, value)
        return total

    def turned(self, value, cosine, sine):
        """Multiply by a unit number."""
        real, imaginary = value
        return (
            self.subtract(self.multiply(real, cosine), self.multiply(imaginary, sine)),
            self.add(self.multiply(real, sine), self.multiply(imaginary, cosine)),
        )

    def transform(self, values, sign):
        """Return the discrete Fourier transform of a few values, by pairs of opposite ones."""
        count = len(values)
        middle = [values[count // 2]] if count % 2 == 0 else []
        pairs = [(values[k], values[count - k]) for k in range(1, (count + 1) // 2)]
        sums = [tuple(map(self.add, one, other)) for one, other in pairs]
        differences = [tuple(map(self.subtract, one, other)) for one, other in pairs]
        results = []
        for order in range(count):
            angles = [2 * math.pi * order * k / count for k in range(1, len(pairs) + 1)]
            even = [
                self.sum(
                    [values[0][part]]
                    + [self.scaled(value[part], (-1) ** order) for value in middle]
                    + [
                        self.scaled(one[part], math.cos(angle))
                        for one, angle in zip(sums, angles, strict=True)
                    ]
                )
                for part in (0, 1)
            ]
            # times i, which swaps the parts
            odd = [
                [
                    self.scaled(one[part], sign * math.sin(angle) * (-1.0 if part else 1.0))
                    for one, angle in zip(differences, angles, strict=True)
                ]
                for part in (1, 0)
            ]
            results.append(tuple(self.sum([even[part], *odd[part]]) for part in (0, 1)))
        return results


def _step(radix, *, inverse):
    """Make the intrinsic of one step of a transform, on `radix` values that are a stride apart.

    ``(work, at, stride, twiddles, twiddle_at)``; `twiddles` has cosine and sine for each value but
    the first. Forwards they are multiplied with after the transform, backwards before.
    """

    @intrinsic
    def step(typingctx, work, at, stride, twiddles, twiddle_at):
        del typingctx, at, stride, twiddle_at
        signature = types.void(work, types.int64, types.int64, twiddles, types.int64)

        def codegen(context, builder, signature, arguments):
            vectors = _Vectors(context, builder, signature.args[0], arguments[0])
            table = context.make_array(signature.args[3])(context, builder, arguments[3]).data
            arithmetic = _Arithmetic(builder)
            _, at, stride, _, twiddle_at = arguments
            places = [at]
            for _ in range(radix - 1):
                places.append(builder.add(places[-1], stride))

            def turned(value, number):
                cosine, sine = (
                    builder.load(
                        builder.gep(
                            table,
                            [
                                builder.add(
                                    twiddle_at, ir.Constant(twiddle_at.type, 2 * number - 2 + part)
                                )
                            ],
                        )
                    )
                    for part in (0, 1)
                )
                if inverse:
                    sine = builder.fneg(sine)
                return arithmetic.turned(value, arithmetic.splat(cosine), arithmetic.splat(sine))

            values = [vectors.complex(place) for place in places]
            if inverse:
                values[1:] = [turned(value, k) for k, value in enumerate(values[1:], start=1)]
            values = arithmetic.transform(values, 1.0 if inverse else -1.0)
            if not inverse:
                values[1:] = [turned(value, k) for k, value in enumerate(values[1:], start=1)]
            for value, place in zip(values, places, strict=True):
                vectors.store_complex(value, place)
            return context.get_dummy_value()

        return signature, codegen

    return step


_forward_2, _forward_3, _forward_4, _forward_5 = (
    _step(radix, inverse=False) for radix in (2, 3, 4, 5)
)
_inverse_2, _inverse_3, _inverse_4, _inverse_5 = (
    _step(radix, inverse=True) for radix in (2, 3, 4, 5)
)


def _turn(*, adds):
    """Make the intrinsic that turns the value at one place and writes it, or adds it, at another.

    ``(work, at, to, cosine, sine)``
    """

    @intrinsic
    def turn(typingctx, work, at, to, cosine, sine):
        del typingctx, at, to, cosine, sine
        signature = types.void(work, types.int64, types.int64, types.float64, types.float64)

        def codegen(context, builder, signature, arguments):
            vectors = _Vectors(context, builder, signature.args[0], arguments[0])
            arithmetic = _Arithmetic(builder)
            _, at, to, cosine, sine = arguments
            turned = arithmetic.turned(
                vectors.complex(at), arithmetic.splat(cosine), arithmetic.splat(sine)
            )
            if adds:
                turned = tuple(map(arithmetic.add, vectors.complex(to), turned))
            vectors.store_complex(turned, to)
            return context.get_dummy_value()

        return signature, codegen

    return turn


_twist, _untwist = _turn(adds=False), _turn(adds=True)


@intrinsic
def _respond(typingctx, work, at, other_at, a, other_a, b):
    """``(work, at, other_at, a, other_a, b)``: filter one frequency and its opposite."""
    del typingctx, at, other_at, a, other_a, b
    signature = types.void(
        work, types.int64, types.int64, types.float64, types.float64, types.float64
    )

    def codegen(context, builder, signature, arguments):
        vectors = _Vectors(context, builder, signature.args[0], arguments[0])
        arithmetic = _Arithmetic(builder)
        _, at, other_at = arguments[:3]
        a, other_a, b = (arithmetic.splat(factor) for factor in arguments[3:])
        one, other = vectors.complex(at), vectors.complex(other_at)
        for value, opposite, factor, place in (
            (one, other, a, at),
            (other, one, other_a, other_at),
        ):
            # i conj(z) has the parts of z the other way round
            filtered = [
                arithmetic.add(
                    arithmetic.multiply(value[part], factor),
                    arithmetic.multiply(opposite[1 - part], b),
                )
                for part in (0, 1)
            ]
            vectors.store_complex(filtered, place)
        return context.get_dummy_value()

    return signature, codegen


@jit
def _forward(work, at, length, radices, twiddles):
    """Transform a part of `work`; frequencies come out digit-reversed."""
    block, table = length, 0
    for radix in radices:
        stride = block // radix
        step = stride * VALUE
        for start in range(0, length, block):
            for j in range(stride):
                place = at + (start + j) * VALUE
                turns = table + j * 2 * (radix - 1)
                if radix == 4:
                    _forward_4(work, place, step, twiddles, turns)
                elif radix == 2:
                    _forward_2(work, place, step, twiddles, turns)
                elif radix == 3:
                    _forward_3(work, place, step, twiddles, turns)
                else:
                    _forward_5(work, place, step, twiddles, turns)
        table += stride * 2 * (radix - 1)
        block = stride


@jit
def _inverse(work, at, length, radices, twiddles):
    """Undo `_forward`, but for a factor of `length`."""
    block, table = 1, len(twiddles)
    for radix in radices[::-1]:
        stride = block
        block *= radix
        step = stride * VALUE
        table -= stride * 2 * (radix - 1)
        for start in range(0, length, block):
            for j in range(stride):
                place = at + (start + j) * VALUE
                turns = table + j * 2 * (radix - 1)
                if radix == 4:
                    _inverse_4(work, place, step, twiddles, turns)
                elif radix == 2:
                    _inverse_2(work, place, step, twiddles, turns)
                elif radix == 3:
                    _inverse_3(work, place, step, twiddles, turns)
                else:
                    _inverse_5(work, place, step, twiddles, turns)


@jit
def _take(rows, first, rises, cosines, weights, tail, before, work):
    """Weight some rows and lay them side by side in `work`, gone on with at both ends; else zero.

    ``(v,u),(v,u),(u),(t)``: rows ``first..`` of those that rise with v.
    """
    n_v, n_u = rows.shape
    after = before + n_u
    work[: (before - len(tail)) * LANES] = 0.0
    work[(after + len(tail)) * LANES :] = 0.0
    for u_start in range(0, n_u, COLUMNS):
        u_stop = min(u_start + COLUMNS, n_u)
        for lane in range(LANES):
            at = (before + u_start) * LANES + lane
            if first + lane >= n_v:
                for _ in range(u_start, u_stop):
                    work[at] = 0.0
                    at += LANES
                continue
            row = first + lane if rises else n_v - 1 - first - lane
            for u in range(u_start, u_stop):
                work[at] = rows[row, u] * (cosines[row, u] * weights[u])
                at += LANES
    for number in range(len(tail)):
        # mirrored at the value of the edge, not below zero
        for edge, outwards in ((before, -1), (after - 1, 1)):
            inside = (edge - outwards * (number + 1)) * LANES
            outside = (edge + outwards * (number + 1)) * LANES
            for lane in range(LANES):
                mirrored = 2 * work[edge * LANES + lane] - work[inside + lane]
                work[outside + lane] = max(mirrored, 0.0) * tail[number]


@parallel_jit
def filter_rows(
    rows, rises, cosines, weights, tail, before, first_u, factors, opposites, radices, twiddles,
    turns, padding, work, filtered,
):  # fmt: skip
    """Weight and filter rows: ``(a,v,u),(v,u),(a,u) -> (a,u,v)``, what is around them left alone.

    Parameters
    ----------
    rows
        Line integrals.
    rises
        Whether they rise with v; else the last comes first.
    cosines, weights
        What they are multiplied by.
    tail
        What a row that goes on beyond its ends is multiplied by, from the edge outwards.
    before
        Where in the transform the first column lies, at least as far as the tail is long.
    first_u
        Where in the transform the first column lies that is wanted.
    factors, opposites
        a and b of each place, and the place of the opposite frequency.
    radices, twiddles, turns
        Of the steps of half the transform, and of its outermost step: cosine and sine.
    padding
        Zeros before and after the samples of each column of `filtered`.
    work
        ``(threads, 4 * len(turns) * LANES)``.
    filtered
        ``(a, n_u + 2, n_v + 2 * padding)``.
    """
    n_angles, n_v, _ = rows.shape
    _, n_columns, n_padded = filtered.shape
    half = len(turns)
    other = half * VALUE
    groups = (n_v + LANES - 1) // LANES
    samples = filtered.reshape(-1)
    for item in numba.prange(n_angles * groups):
        angle, first = item // groups, item % groups * LANES
        own = work[numba.get_thread_id()]
        _take(rows[angle], first, rises, cosines, weights[angle], tail, before, own[:other])
        for u in range(half):
            _twist(own, u * VALUE, other + u * VALUE, turns[u, 0], -turns[u, 1])
        for part in range(2):
            _forward(own, part * other, half, radices, twiddles)
        for place in range(2 * half):
            opposite = opposites[place]
            if place <= opposite:
                _respond(
                    own, place * VALUE, opposite * VALUE,
                    factors[place, 0], factors[opposite, 0], factors[place, 1],
                )  # fmt: skip
        for part in range(2):
            _inverse(own, part * other, half, radices, twiddles)
        for u in range(half):
            _untwist(own, other + u * VALUE, u * VALUE, turns[u, 0], turns[u, 1])
        lanes = min(LANES, n_v - first)
        for u in range(n_columns - 2):
            source = (first_u + u) * LANES
            target = (angle * n_columns + u + 1) * n_padded + padding + first
            for lane in range(lanes):
                samples[target + lane] = own[source + lane]
