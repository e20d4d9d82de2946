"""The compiled loops of `parimend.decoders.reed_solomon`: polynomials modulo p = 2^32 + 24,577.

Polynomials are arrays of coefficients, lowest first; see `parimend.kernels.field_numba`.
"""
# mypy: ignore-errors

from __future__ import annotations

import numba as nb
import numpy as np

from parimend.kernels.field_numba import PRIME, centered, inverse, multiply, power
from parimend.kernels.keeping_numba import kept
from parimend.kernels.points import LANES


@kept()
def locator(syndrome, erased):
    """The shortest recurrence of ``syndrome`` whose roots include the erased points.

    J. L. Massey, "Shift-register synthesis and BCH decoding", IEEE Transactions on Information
    Theory 15, 1969; started from the locator of the erasures as in R. E. Blahut, "Theory and
    practice of error control codes", 1983.

    Returns:
        (polynomial, its length L); the polynomial is 1 at zero.
    """
    count, known = syndrome.size, erased.size
    current = np.zeros(count + 2)
    current[0] = 1.0
    for k in range(known):
        for i in range(k + 1, 0, -1):
            current[i] = centered(current[i] - multiply(erased[k], current[i - 1]))
    before, length, gap, last = current.copy(), known, 1, 1.0
    for r in range(known, count):
        difference = 0.0
        for i in range(min(length, r) + 1):
            difference += multiply(current[i], syndrome[r - i])
        difference = centered(difference)
        if difference == 0.0:
            gap += 1
            continue
        factor = multiply(difference, inverse(last))
        old = current.copy()
        for i in range(count + 2 - gap):
            current[i + gap] = centered(current[i + gap] - multiply(factor, before[i]))
        if 2 * length <= r + known:
            length = r + 1 - length + known
            before, last, gap = old, difference, 1
        else:
            gap += 1
    return current, length


@nb.njit
def _monic(a):
    degree = a.size - 1
    while degree >= 0 and a[degree] == 0.0:
        degree -= 1
    if degree < 0:
        return a[:0].copy()
    factor = inverse(a[degree])
    out = np.empty(degree + 1)
    for i in range(degree + 1):
        out[i] = centered(multiply(a[i], factor))
    return out


@nb.njit
def _reduce(a, f):
    """a modulo the monic f, in place; entries from the degree of f on become meaningless."""
    degree = f.size - 1
    for i in range(a.size - 1, degree - 1, -1):
        factor = centered(a[i])
        for j in range(degree):
            a[i - degree + j] -= multiply(factor, f[j])
    for j in range(min(degree, a.size)):
        a[j] = centered(a[j])


@nb.njit
def _gcd(a, b):
    a, b = _monic(a), _monic(b)
    while b.size:
        if a.size < b.size:
            a, b = b, a
        rest = a.copy()
        _reduce(rest, b)
        a, b = b, _monic(rest[: b.size - 1])
    return a


@nb.njit
def _divide(a, f):
    a, degree = a.copy(), f.size - 1
    quotient = np.empty(a.size - degree)
    for i in range(a.size - 1, degree - 1, -1):
        factor = centered(a[i])
        quotient[i - degree] = factor
        for j in range(degree):
            a[i - degree + j] -= multiply(factor, f[j])
    return quotient


@nb.njit
def _power_of_linear(shift, exponent, f):
    """(z + shift)^exponent modulo the monic f, of degree 2 and more."""
    degree = f.size - 1
    result, square = np.zeros(degree), np.zeros(2 * degree)
    result[0] = 1.0
    top = 0
    while exponent >> (top + 1):
        top += 1
    for bit in range(top, -1, -1):
        square[:] = 0.0
        for i in range(degree):
            x = result[i]
            if x != 0.0:
                for j in range(i + 1, degree):
                    square[i + j] += multiply(x, result[j])
        for i in range(2 * degree):
            square[i] = centered(2.0 * square[i])
        for i in range(degree):
            square[2 * i] += multiply(result[i], result[i])
        if exponent >> bit & 1:
            carried = 0.0
            for i in range(2 * degree):
                value = centered(square[i])
                square[i] = carried + multiply(value, shift)
                carried = value
        _reduce(square, f)
        for i in range(degree):  # a slice that is assigned takes seconds to compile
            result[i] = square[i]
    return result


@nb.njit
def _product(a, b, f):
    """a b modulo the monic f; a and b have as many coefficients as its degree."""
    degree = f.size - 1
    out = np.zeros(2 * degree)
    for i in range(degree):
        for j in range(degree):
            out[i + j] += multiply(a[i], b[j])
    _reduce(out, f)
    return out[:degree].copy()


@kept()
def roots(f):
    """(whether the monic f has as many distinct roots as its degree says, its roots).

    D. G. Cantor, H. Zassenhaus, "A new algorithm for factoring polynomials over finite fields",
    Mathematics of Computation 36, 1981. A root r has (r + s)^((p - 1) / 2) = 1 for half of all s,
    so about half of the roots of a factor are those of its greatest common divisor with that power
    minus one. Where f is a product of distinct linear factors, that power a is 1, -1 or 0 modulo
    each, so a^3 = a; modulo an irreducible factor of higher degree, or a repeated one, z + s is no
    number, so a^2 is not 1, and a^3 is not a.
    """
    found = np.empty(f.size - 1)
    stack = [f]
    count, shift, known = 0, np.int64(12_345), False
    while len(stack):
        h = stack.pop()
        degree = h.size - 1
        if degree == 0:
            continue
        if degree == 1:
            found[count] = -h[0]
            count += 1
            continue
        while True:
            shift = (shift * 48_271 + 1) % 2_147_483_647
            a = _power_of_linear(np.float64(shift), (PRIME - 1) // 2, h)
            if not known:
                cube = _product(_product(a, a, h), a, h)
                for i in range(degree):
                    if centered(cube[i] - a[i]) != 0.0:
                        return False, found
                known = True
            a[0] = centered(a[0] - 1.0)
            g = _gcd(h, a)
            if 0 < g.size - 1 < degree:
                break
        stack.append(g)
        stack.append(_divide(h, g))
    return True, found


@kept()
def without_roots(f, known):
    """The monic f, divided by z - x for each of some x that are roots of it."""
    linear = np.ones(2)
    for x in known:
        linear[0] = -x
        f = _divide(f, linear)
    return f


@kept()
def values_at(recurrence, length, syndrome, points):
    """The damage at every point, by G. D. Forney, "On decoding BCH codes", IEEE Transactions on
    Information Theory 11, 1965.
    """
    evaluator = np.zeros(length)
    for i in range(min(length, syndrome.size)):
        total = 0.0
        for j in range(i + 1):
            total += multiply(recurrence[j], syndrome[i - j])
        evaluator[i] = centered(total)
    # All points side by side: one after the other, every product would wait for the one before.
    x = np.empty(points.size)
    for k in range(points.size):
        x[k] = inverse(points[k])
    above, below = np.zeros(points.size), np.zeros(points.size)
    for i in range(length - 1, -1, -1):
        slope = multiply(recurrence[i + 1], np.float64(i + 1))
        for k in range(points.size):
            above[k] = multiply(above[k], x[k]) + evaluator[i]
            below[k] = multiply(below[k], x[k]) + slope
    for k in range(points.size):
        above[k] = -multiply(multiply(points[k], above[k]), inverse(below[k]))
    return above


@kept()
def powers_of(x, count):
    """1, x, .. x^(count - 1), as elements closest to zero."""
    out = np.empty(count)
    value = 1.0
    for i in range(count):
        out[i] = value
        value = centered(multiply(value, x))
    return out


@nb.njit
def _place(numbers, x):
    """Where a number is among some that are sorted, if it is there; numpy's own takes longer to
    compile.
    """
    k = 0
    end = numbers.size
    while end - k > 1:
        middle = (k + end) // 2
        if numbers[middle] <= x:
            k = middle
        else:
            end = middle
    return k


@kept()
def positions_of(points, rows, most, small, small_order, giant, rooted, rooted_order, generator):
    """The words that points belong to, -1 where there is none: a logarithm in baby and giant steps.

    Args:
        points: as `parimend.codes.power.PowerSums.points` gives them.
        rows: B.
        most: so many steps s 8 + l are there.
        small, small_order: sorted, g^(-B r) for r below the number of baby steps.
        giant: g^(B steps).
        rooted, rooted_order: sorted, w^c.
        generator: g.
    """
    out = np.empty(points.size, np.int64)
    for q in range(points.size):
        out[q] = -1
        y = centered(power(points[q], rows))
        steps = -1
        for done in range(0, most, small.size):
            k = _place(small, y)
            if small[k] == y:
                steps = done + small_order[k]
                break
            y = centered(multiply(y, giant))
        if not 0 <= steps < most:
            continue
        turn = centered(multiply(points[q], power(generator, steps)))
        k = _place(rooted, turn)
        if rooted[k] == turn:
            out[q] = steps // LANES * LANES * rows + rooted_order[k] * LANES + steps % LANES
    return out
