"""The compiled loop of `parimend.decoders.agreement`."""
# mypy: ignore-errors

from __future__ import annotations

import numpy as np

from parimend.kernels.keeping_numba import kept


@kept()
def agree(start, row, coefficient, row_start, column, entry,
           rest, tolerance, damage, erased, limit):  # fmt: skip
    """Put right what two checks agree on, until nothing is left that they do; returns how many."""
    m = row_start.size - 1
    found = 0
    progress = True
    while progress and found < 4 * m:
        progress = False
        for j in range(m):
            if abs(rest[j]) <= tolerance[j]:
                continue
            best, best_x, best_count, ties = -1, 0.0, 0, 0
            for p in range(row_start[j], row_start[j + 1]):
                i = column[p]
                x = rest[j] / coefficient[entry[p]]
                if erased[i] or abs(x) >= limit:
                    continue
                count, total, contradicted = 1, x, False
                for q in range(start[i], start[i + 1]):
                    c = row[q]
                    if c == j:
                        continue
                    if abs(rest[c] - coefficient[q] * x) <= tolerance[c] + tolerance[j]:
                        count += 1
                        total += rest[c] / coefficient[q]
                    elif abs(rest[c]) <= tolerance[c]:
                        contradicted = True
                # An agreement with a check that is itself within the noise says nothing.
                if count < 2 or contradicted:
                    continue
                seen = 0
                for q in range(start[i], start[i + 1]):
                    if abs(rest[row[q]]) > tolerance[row[q]]:
                        seen += 1
                if seen < 2:
                    continue
                if count > best_count:
                    best, best_x, best_count, ties = i, total / count, count, 1
                elif count == best_count:
                    ties += 1
            if best < 0 or ties > 1:
                continue
            damage[best] += best_x
            error = tolerance[j] / abs(coefficient[start[best]])
            for q in range(start[best], start[best + 1]):
                c = row[q]
                rest[c] -= coefficient[q] * best_x
                tolerance[c] = np.hypot(tolerance[c], error * abs(coefficient[q]))
            found += 1
            progress = True
    return found
