"""Slow oracles: the definitions once more, in plain Python loops over floats, sharing no code."""

import math

DISTANCE, SIMILARITY = "distance", "similarity"


def unit(rows):
    return [[value / math.sqrt(math.fsum(v * v for v in row)) for value in row] for row in rows]


def cosine(a, b):
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def cosines(rows):
    """Cosine matrix of rows of any norm, as nested lists."""
    rows = unit(rows)
    return [[cosine(a, b) for b in rows] for a in rows]


def distance(similarity):
    return math.sqrt(max(2 - 2 * similarity, 0.0))


def pair_table(rows, labels, axis=DISTANCE):
    """``(value, label, label)`` of every unordered pair."""
    s = cosines(rows)
    value = distance if axis == DISTANCE else (lambda similarity: similarity)
    return [(value(s[i][j]), labels[i], labels[j]) for i in range(len(labels)) for j in range(i + 1, len(labels))]


def accepted(value, threshold, axis):
    return value <= threshold if axis == DISTANCE else value >= threshold


def calibration_range(pairs, far_bounds=(0.01, 0.1), axis=DISTANCE):
    """The first values, walking from the closest negative pair on, whose false accept rates reach the bounds."""
    values = sorted((v for v, a, b in pairs if a != b), reverse=axis == SIMILARITY)
    ends = []
    for bound in far_bounds:
        count = 1
        while count / len(values) < bound - 1e-12:  # the slack is for decimals that no float can hold
            count += 1
        ends.append(values[count - 1])
    return tuple(sorted(ends))


def operating_point(pairs, label, threshold, axis=DISTANCE):
    """Sensitivity and specificity of one class at one threshold."""
    positives = negatives = true_accepts = true_rejects = 0
    for value, a, b in pairs:
        if a == label and b == label:
            positives += 1
            true_accepts += accepted(value, threshold, axis)
        elif label in (a, b):
            negatives += 1
            true_rejects += not accepted(value, threshold, axis)
    return true_accepts / positives, true_rejects / negatives


def utility(sensitivity, specificity, c=1.0):
    if sensitivity == 0 and specificity == 0:
        return 0.0
    return (1 + c * c) * specificity * sensitivity / (c * c * specificity + sensitivity)


def grid(low, high, steps):
    return [low + (high - low) * step / (steps - 1) for step in range(steps - 1)] + [high]


def range_mean(curve, thresholds):
    area = 0.0
    for step in range(1, len(thresholds)):
        area += (thresholds[step] - thresholds[step - 1]) * (curve[step] + curve[step - 1]) / 2
    return area / (thresholds[-1] - thresholds[0])


def utility_curves(pairs, labels, thresholds, c=1.0, axis=DISTANCE):
    """One curve per class with at least two items, by increasing label."""
    kept = [label for label in sorted(set(labels)) if list(labels).count(label) > 1]
    return [[utility(*operating_point(pairs, label, t, axis), c=c) for t in thresholds] for label in kept]


def opis(curves, thresholds):
    spread = []
    for step in range(len(thresholds)):
        values = [curve[step] for curve in curves]
        mean = math.fsum(values) / len(values)
        spread.append(math.fsum((value - mean) ** 2 for value in values) / len(values))
    return range_mean(spread, thresholds)


def eps_opis(curves, thresholds, eps=0.1, ranking="mean"):
    number = 0
    while number < eps * len(curves) - 1e-9:
        number += 1
    means = [range_mean(curve, thresholds) for curve in curves]
    gaps = []
    for step in range(len(thresholds)):
        key = means if ranking == "mean" else [curve[step] for curve in curves]
        order = sorted(range(len(curves)), key=lambda i: (key[i], i))
        worst, rest = order[:number], order[number:]
        gap = sum(curves[i][step] for i in worst) / len(worst) - sum(curves[i][step] for i in rest) / len(rest)
        gaps.append(gap**2)
    return range_mean(gaps, thresholds)


def neighbors(rows, labels, queries=None, gallery=None):
    """``(query, other items from the nearest on)`` of each query; of equally near ones the lower index first."""
    s = cosines(rows)
    for query in range(len(labels)):
        if queries is None or queries[query]:
            others = [i for i in range(len(labels)) if i != query and (gallery is None or gallery[i])]
            yield query, sorted(others, key=lambda item: (-s[query][item], item))


def recall_at_k(rows, labels, k, queries=None, gallery=None):
    hits = [
        any(labels[item] == labels[query] for item in others[:k])
        for query, others in neighbors(rows, labels, queries, gallery)
    ]
    return sum(hits) / len(hits)


def precision_at_r(rows, labels, queries=None, gallery=None):
    """``(mAP@R, R-precision)`` over the queries that have something to find."""
    averages, shares = [], []
    for query, others in neighbors(rows, labels, queries, gallery):
        right = [labels[item] == labels[query] for item in others]
        number = sum(right)
        if number:
            averages.append(sum(sum(right[: i + 1]) / (i + 1) for i in range(number) if right[i]) / number)
            shares.append(sum(right[:number]) / number)
    return math.fsum(averages) / len(averages), math.fsum(shares) / len(shares)


def tcm(rows, labels, positive_margin=0.9, negative_margin=0.5, positive_weight=1.0, negative_weight=1.0):
    """``(loss, positive term, negative term, hard positives, hard negatives)``; rows taken as they are."""
    positive, negative = [], []
    for i in range(len(labels)):
        for j in range(i + 1, len(labels)):
            s = cosine(rows[i], rows[j])
            if labels[i] == labels[j] and s <= positive_margin:
                positive.append(positive_margin - s)
            if labels[i] != labels[j] and s >= negative_margin:
                negative.append(s - negative_margin)
    terms = [math.fsum(side) / len(side) if side else 0.0 for side in (positive, negative)]
    loss = positive_weight * terms[0] + negative_weight * terms[1]
    return loss, *terms, len(positive), len(negative)


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def scored_queries(labels):
    """Queries with another item of their class and one of another class."""
    return [
        q for q, label in enumerate(labels) if list(labels).count(label) > 1 and any(other != label for other in labels)
    ]


def smooth_ap(rows, labels, temperature=0.01):
    losses = []
    for q in scored_queries(labels):
        s = [cosine(rows[q], row) for row in rows]
        members = [x for x in range(len(labels)) if labels[x] == labels[q]]  # the query among them
        precision = 0.0
        for x in members:
            rank = 1 + sum(sigmoid((s[z] - s[x]) / temperature) for z in range(len(labels)) if z != x)
            in_class = 1 + sum(sigmoid((s[z] - s[x]) / temperature) for z in members if z != x)
            precision += in_class / rank
        losses.append(1 - precision / len(members))
    return sum(losses) / len(losses) if losses else 0.0


def supap(rows, labels, temperature=0.01, margin=0.05, slope=100.0):
    def ahead(t):
        if t < 0:
            return sigmoid(t / temperature)
        if t <= margin:
            return sigmoid(t / temperature) + 0.5
        return slope * (t - margin) + sigmoid(margin / temperature) + 0.5

    losses = []
    for q in scored_queries(labels):
        s = [cosine(rows[q], row) for row in rows]
        members = [x for x in range(len(labels)) if labels[x] == labels[q]]
        precision = 0.0
        for x in members:
            in_class = 1 + sum(s[z] >= s[x] for z in members if z != x)
            precision += in_class / (in_class + sum(ahead(s[z] - s[x]) for z in range(len(s)) if z not in members))
        losses.append(1 - precision / len(members))
    return sum(losses) / len(losses) if losses else 0.0


def rs_at_k(rows, labels, ks=(1, 2, 4, 8, 16), rank_temperature=0.01, count_temperature=1.0):
    losses = []
    for q in scored_queries(labels):
        s = [cosine(rows[q], row) for row in rows]
        positives = [x for x in range(len(labels)) if labels[x] == labels[q] and x != q]
        recall = 0.0
        for k in ks:
            retrieved = 0.0
            for x in positives:
                others = [z for z in range(len(labels)) if z not in (x, q)]
                rank = 1 + sum(sigmoid((s[z] - s[x]) / rank_temperature) for z in others)
                retrieved += sigmoid((k - rank) / count_temperature)
            recall += min(k, retrieved) / min(k, len(positives)) / len(ks)
        losses.append(1 - recall)
    return sum(losses) / len(losses) if losses else 0.0
