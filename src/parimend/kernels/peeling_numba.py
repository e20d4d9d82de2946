"""The compiled loops of `parimend.decoders.peeling`. Products wrap modulo 2^64 on purpose."""
# mypy: ignore-errors

from __future__ import annotations

import numba as nb
import numpy as np

from parimend.kernels.keeping_numba import kept

U = np.uint64
NO_PAIRS = (np.zeros(0, np.int64), np.zeros(0, np.uint64))


@nb.njit(inline="always")
def odd_inverse(a):
    """Inverse of an odd number modulo 2^64, by Newton's iteration from 5 correct bits."""
    x = (U(3) * a) ^ U(2)
    for _ in range(4):
        x *= U(2) - a * x
    return x


@kept()
def inverses(row, row_start, coefficient):
    """The inverses of the coefficients in the order of the rows, which are read in one go."""
    out = np.empty(coefficient.size, np.uint64)
    free = row_start[:-1].copy()
    for p in range(coefficient.size):
        out[free[row[p]]] = odd_inverse(U(coefficient[p]))
        free[row[p]] += 1
    return out


@kept()
def by_rows(start, row, m):
    """(row_start, entry's column, entry): the entries of H in the order of its rows."""
    row_start = np.zeros(m + 1, np.int64)
    for p in range(row.size):
        row_start[row[p] + 1] += 1
    row_start = np.cumsum(row_start)
    free = row_start[:-1].copy()
    column = np.empty(row.size, np.int32)
    entry = np.empty(row.size, np.int64)
    for i in range(start.size - 1):
        for p in range(start[i], start[i + 1]):
            at = free[row[p]]
            column[at] = i
            entry[at] = p
            free[row[p]] += 1
    return row_start, column, entry


@nb.njit(inline="always")
def short_vectors(r):
    """A basis (u, v) of the vectors with v = r u modulo 2^64, for odd r other than 1 and -1.

    Both entries of the first vector are at most 2^32 in magnitude; the second is about as short,
    unless r is a ratio of small numbers.
    """
    # Euclid's algorithm: remainders of 2^64 and r with their cofactors. The first quotient needs
    # care, as 2^64 itself overflows.
    quotient = (~r + U(1)) // r + U(1)
    v0, u0 = r, np.int64(1)
    v1, u1 = ~r + U(1) - (quotient - U(1)) * r, -np.int64(quotient)
    if r < U(1) << U(32):
        u0, v0, u1, v1 = u1, v1, u0, v0
    while v1 >= U(1) << U(32):
        quotient = v0 // v1
        v0, v1 = v1, v0 - quotient * v1
        u0, u1 = u1, u0 - np.int64(quotient) * u1
    # The first vector is (u1, v1); |u1 v0| <= 2^64 and v0 >= 2^32. Shorten the other one by it.
    f = np.float64(u1) * np.float64(u1) + np.float64(v1) * np.float64(v1)
    g = np.float64(u0) * np.float64(u1) + np.float64(v0) * np.float64(v1)
    q = np.int64(np.rint(g / f))
    return u1, np.int64(v1), u0 - q * u1, np.int64(v0) - q * np.int64(v1)


@kept()
def pair_multipliers(row_start, column, entry, inverse, coefficient):
    """(first pair of every row, multipliers): for pair (i, k) of a row, i < k, the l for which
    l a_i and l a_k are short; 0 for coefficients of equal size, which cannot be told apart.
    """
    m = row_start.size - 1
    first = np.zeros(m + 1, np.int64)
    for j in range(m):
        w = row_start[j + 1] - row_start[j]
        first[j + 1] = first[j] + w * (w - 1) // 2
    out = np.zeros(first[m], np.uint64)
    at = 0
    for j in range(m):
        for i in range(row_start[j], row_start[j + 1]):
            inv = inverse[i]
            for k in range(i + 1, row_start[j + 1]):
                ratio = U(coefficient[entry[k]]) * inv
                if ratio + U(1) > U(2):  # neither 1 nor -1
                    u, _, _, _ = short_vectors(ratio)
                    out[at] = U(u) * inv
                at += 1
    return first, out


@nb.njit(inline="always")
def solve_pair(s, a, inv_a, b, inv_b, limit):
    """The x and y below limit with s = a x + b y, if any: (found, x, y)."""
    u0, v0, u1, v1 = short_vectors(U(b) * inv_a)
    t0 = np.float64(np.int64(U(u0) * inv_a * U(s)))
    t1 = np.float64(np.int64(U(u1) * inv_a * U(s)))
    determinant = np.float64(u0) * np.float64(v1) - np.float64(u1) * np.float64(v0)
    x = np.int64(np.rint((t0 * v1 - t1 * v0) / determinant))
    y = np.int64(U(s - a * x) * inv_b)
    return -limit < x < limit and -limit < y < limit, x, y


@nb.njit(inline="always")
def _named(j, s, limit, row_start, inverse):
    """Whether syndrome s in check j is what some single wrong word would leave."""
    for p in range(row_start[j], row_start[j + 1]):
        x = np.int64(U(s) * inverse[p])
        if -limit < x < limit:
            return True
    return False


@nb.njit
def _single(j, rule, H, state, limit):
    """-> (column, x), column -1 if check j does not name one."""
    start, row, coefficient, inverse, row_start, column, _ = H
    syndrome, damage, erased, lost = state
    s = syndrome[j]
    best, best_x, best_score, ties = -1, np.int64(0), -1, 0
    for p in range(row_start[j], row_start[j + 1]):
        x = np.int64(U(s) * inverse[p])
        if not -limit < x < limit:
            continue
        i = column[p]
        if (lost[j] == 1 and not erased[i]) or not -limit < x + damage[i] < limit:
            continue
        if erased[i]:
            return i, x
        agree, contradict = 0, 0
        for q in range(start[i], start[i + 1]):
            c = row[q]
            if c != j:
                if syndrome[c] == coefficient[q] * x:
                    agree += 1
                elif syndrome[c] == 0:
                    contradict += 1
        if agree == 0 and (rule == 0 or contradict > 0):
            continue
        score = 4 * agree - contradict
        if score > best_score:
            best, best_x, best_score, ties = i, x, score, 1
        elif score == best_score:
            ties += 1
    if ties > 1:
        return -1, np.int64(0)
    return best, best_x


@nb.njit
def _confirmations(j, i, x, k, y, H, state, limit):
    """How many other checks of words i and k are explained once i and k are repaired."""
    start, row, coefficient, inverse, row_start, _, _ = H
    syndrome = state[0]
    count = 0
    for this, size, other, other_size in ((i, x, k, y), (k, y, i, x)):
        for q in range(start[this], start[this + 1]):
            c = row[q]
            if c == j:
                continue
            rest = syndrome[c] - coefficient[q] * size
            for r in range(start[other], start[other + 1]):
                if row[r] == c:
                    rest -= coefficient[r] * other_size
            if rest == 0 or _named(c, rest, limit, row_start, inverse):
                count += 1
    return count


@nb.njit
def _pair(j, rule, first, multiplier, H, state, limit, local):
    """-> (column i, x, column k, y), i = -1 if check j does not name two."""
    start, row, coefficient, inverse, row_start, column, entry = H
    syndrome, damage, erased, lost = state
    s = syndrome[j]
    a0, w = row_start[j], row_start[j + 1] - row_start[j]
    count = 0
    for p in range(w):
        i = column[a0 + p]
        possible = True
        if not erased[i]:
            for q in range(start[i], start[i + 1]):
                if syndrome[row[q]] == 0:
                    possible = False
        if possible:
            local[count] = p
            count += 1
    # l s = u x + v y with |u|, |v| <= 2^32 and |x|, |y| < limit <= 2^29
    bound = U(limit) << U(33)
    best, best_score, ties = (-1, np.int64(0), -1, np.int64(0)), -1, 0
    for f in range(count):
        p = local[f]
        i = column[a0 + p]
        base = first[j] + p * w - p * (p + 1) // 2 - p - 1
        for g in range(f + 1, count):
            r = local[g]
            short = multiplier[base + r]
            if short * U(s) + bound >= bound + bound or short == 0:
                continue
            k = column[a0 + r]
            if lost[j] and np.int64(erased[i]) + np.int64(erased[k]) < lost[j]:
                continue
            e, h = entry[a0 + p], entry[a0 + r]
            found, x, y = solve_pair(
                s, coefficient[e], inverse[a0 + p], coefficient[h], inverse[a0 + r], limit
            )
            if not found or (x == 0 and not erased[i]) or (y == 0 and not erased[k]):
                continue
            if not (-limit < x + damage[i] < limit and -limit < y + damage[k] < limit):
                continue
            score = _confirmations(j, i, x, k, y, H, state, limit)
            if score > best_score:
                best, best_score, ties = (i, x, k, y), score, 1
            elif score == best_score:
                ties += 1
    if ties > 1 or (rule == 2 and best_score < 1):
        return -1, np.int64(0), -1, np.int64(0)
    return best


@kept()
def peel(start, row, coefficient, inverse, row_start, column, entry, first, multiplier,
         syndrome, damage, erased, limit, counts):  # fmt: skip
    """Apply the rules until none applies; changes syndrome, damage, erased and counts.

    Returns the number of checks that are left unexplained or still hold an erased word.
    """
    m = row_start.size - 1
    H = (start, row, coefficient, inverse, row_start, column, entry)
    lost = np.zeros(m, np.int64)
    widest = 0
    for j in range(m):
        widest = max(widest, row_start[j + 1] - row_start[j])
        for p in range(row_start[j], row_start[j + 1]):
            lost[j] += erased[column[p]]
    state = (syndrome, damage, erased, lost)
    local = np.empty(widest, np.int64)
    rules = 4 if multiplier.size else 2
    # One queue of changed checks per rule.
    queue = np.empty((rules, m + 1), np.int32)
    queued = np.zeros((rules, m), np.uint8)
    head = np.zeros(rules, np.int64)
    length = np.zeros(rules, np.int64)
    for j in range(m):
        if syndrome[j] != 0 or lost[j]:
            for rule in range(rules):
                queue[rule, length[rule]] = j
                queued[rule, j] = 1
                length[rule] += 1
    budget = 8 * m  # far more repairs than a success takes: wrong ones may undo each other for ever
    while budget > 0:
        rule = 0
        while rule < rules and length[rule] == 0:
            rule += 1
        if rule == rules:
            break
        j = queue[rule, head[rule]]
        head[rule] = (head[rule] + 1) % (m + 1)
        length[rule] -= 1
        queued[rule, j] = 0
        if (syndrome[j] == 0 and lost[j] == 0) or lost[j] > (1 if rule < 2 else 2):
            continue
        k, y = -1, np.int64(0)
        if rule < 2:
            i, x = _single(j, rule, H, state, limit)
        else:
            i, x, k, y = _pair(j, rule, first, multiplier, H, state, limit, local)
        if i < 0:
            continue
        counts[rule] += 1
        for this, size in ((i, x), (k, y)):
            if this < 0:
                continue
            budget -= 1
            damage[this] += size
            for q in range(start[this], start[this + 1]):
                c = row[q]
                syndrome[c] -= coefficient[q] * size
                lost[c] -= erased[this]
                for level in range(rules):
                    if not queued[level, c]:
                        queued[level, c] = 1
                        queue[level, (head[level] + length[level]) % (m + 1)] = c
                        length[level] += 1
            erased[this] = 0
    left = 0
    for j in range(m):
        if syndrome[j] != 0 or lost[j]:
            left += 1
    return left
