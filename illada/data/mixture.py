"""From a mixture's configuration to the rows of each group: what a training budget is spent on.

Everything is an allocation in proportion to weights between bounds (water-filling): x = min(max(level w, low), high),
with the one level at which the sum is the budget. Sources first, then the languages of each. Numbers are decimals of
50 digits, not floats, so every machine plans the same rows.
"""

from __future__ import annotations

import decimal
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from illada.config import ConfigError, Mixture
from illada.config.mixture import Bounds
from illada.data.groups import Group

_CONTEXT = decimal.Context(prec=50)
_SLACK = Decimal("1e-30")  # rounding of a few hundred decimals, in rows


@dataclass(kw_only=True, slots=True)
class _Source:
    """A source on its way into the plan; rows are windows trained on."""

    name: str
    groups: list[int]
    weight: Decimal
    wanted: Decimal | None
    epochs: Decimal
    most: list[Decimal]
    high: Decimal = Decimal(0)
    share: Decimal = Decimal(0)


def plan_rows(mixture: Mixture, groups: Sequence[Group], rows: int, window: int) -> list[int]:
    """How many of `rows` rows (windows of `window` tokens) each group gets. They sum up to `rows` exactly.

    No group gets more than `epochs` of its windows, and where that binds, the others share the rest by their weights.

    Raises:
        ConfigError: unknown or forgotten sources, budgets that do not fit, or fewer epochs allowed than needed.
    """
    with decimal.localcontext(_CONTEXT):
        sources = _sources(mixture, groups, window)
        _divide_sources(sources, mixture, groups, rows, window)
        shares = [Decimal(0)] * len(groups)
        for source in sources:
            found = _languages(source, mixture, groups, source.share)
            for group, share in zip(source.groups, found, strict=True):
                shares[group] = share
        return apportion(shares, rows)


def water_fill(
    total: Decimal, weights: Sequence[Decimal], low: Sequence[Decimal], high: Sequence[Decimal]
) -> list[Decimal]:
    """Parts x = min(max(level w, low), high) that sum up to `total`, which is between the sums of `low` and `high`."""

    def parts(level: Decimal) -> list[Decimal]:
        return [min(max(level * w, lo), hi) for w, lo, hi in zip(weights, low, high, strict=True)]

    bends = {bound / w for w, *bounds in zip(weights, low, high, strict=True) for bound in bounds if w}
    levels = sorted({Decimal(0), *bends})
    place = bisect_left(levels, total, key=lambda level: sum(parts(level), Decimal(0)))
    if place == len(levels):
        return list(high)
    if place == 0:
        return parts(levels[0])
    before, after = levels[place - 1], levels[place]
    least, most = sum(parts(before)), sum(parts(after))
    return parts(before + (after - before) * (total - least) / (most - least))


def apportion(shares: Sequence[Decimal], rows: int) -> list[int]:
    """`shares`, which sum up to `rows`, as whole numbers: those with the largest remainders are rounded up."""
    whole = [int(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda index: (whole[index] - shares[index], index))
    for index in by_remainder[: rows - sum(whole)]:
        whole[index] += 1
    return whole


def _sources(mixture: Mixture, groups: Sequence[Group], window: int) -> list[_Source]:
    """The sources that take part."""
    names = sorted({group.source for group in groups})
    mixture.check_sources(names)
    found = []
    for name in names:
        share = mixture.sources.get(name)
        mine = [number for number, group in enumerate(groups) if group.source == name and group.windows]
        windows = sum(groups[number].windows for number in mine)
        if share is not None and share.weight == 0:
            continue
        if not windows:
            if share is None:
                continue
            raise ConfigError(f"data.mixture.sources: {name}: has not one window of {window} tokens")
        epochs = _exact(mixture.epochs if share is None or share.epochs is None else share.epochs)
        source = _Source(
            name=name,
            groups=mine,
            weight=_exact(windows if share is None or share.weight is None else share.weight),
            wanted=None if share is None or share.tokens is None else Decimal(share.tokens) / window,
            epochs=epochs,
            most=[Decimal(int(epochs * groups[number].windows)) for number in mine],
        )
        source.high = _most_of(source, mixture, groups)
        found.append(source)
    if not found:
        raise ConfigError(f"data.mixture: no source has a window of {window} tokens")
    return found


def _divide_sources(
    sources: Sequence[_Source], mixture: Mixture, groups: Sequence[Group], rows: int, window: int
) -> None:
    """Set each source's share of the rows. Raises ConfigError, saying what each would need, when there is no way to."""
    low, high = [], []
    for source in sources:
        if source.wanted is not None and source.wanted > source.high:
            windows = sum(groups[number].windows for number in source.groups)
            raise ConfigError(
                f"data.mixture.sources.{source.name}: {source.wanted * window:,.0f} tokens are "
                f"{source.wanted / windows:.2f} epochs of its {windows * window:,}, it can give "
                f"{source.high * window:,.0f} (epochs {source.epochs:g}); lower tokens, raise epochs, or add data"
            )
        low.append(Decimal(0) if source.wanted is None else source.wanted)
        high.append(source.high if source.wanted is None else source.wanted)
    if sum(low) > rows + _SLACK:
        raise ConfigError(
            f"data.mixture: the sources' tokens sum up to {sum(low) * window:,.0f}, the run has {rows * window:,}: "
            "raise pretrain.steps or lower them"
        )
    if sum(high) < rows - _SLACK:
        free = {source.name: source.weight for source in sources if source.wanted is None}
        rest = (rows - sum(low, Decimal(0))) / sum(free.values(), Decimal(0)) if free else Decimal(0)
        needs = ", ".join(
            f"{source.name} {rest * free[source.name] / sum(groups[number].windows for number in source.groups):.2f}"
            for source in sources
            if source.name in free
        )
        raise ConfigError(
            f"data.mixture: the run has {rows * window:,} tokens, its sources can give {sum(high) * window:,.0f}"
            + (f"; by their weights alone they would need epochs: {needs}" if needs else "")
            + "; raise epochs, add data, or lower pretrain.steps"
        )
    weights = [source.weight for source in sources]
    for source, share in zip(sources, water_fill(Decimal(rows), weights, low, high), strict=True):
        source.share = share


def _languages(source: _Source, mixture: Mixture, groups: Sequence[Group], share: Decimal) -> list[Decimal]:
    """A source's share divided among its groups."""
    power = 1 / _exact(mixture.temperature)
    bounds = _bounds(source, mixture, groups)
    return water_fill(
        share,
        [Decimal(groups[number].windows) ** power for number in source.groups],
        [_exact(bound.minimum) * share for bound in bounds],
        [min(most, _exact(bound.maximum) * share) for most, bound in zip(source.most, bounds, strict=True)],
    )


def _most_of(source: _Source, mixture: Mixture, groups: Sequence[Group]) -> Decimal:
    """The most rows of a source of which no language has more or less than it may.

    That is the greatest x with minimum x <= most for every language, and with the sum of min(most, maximum x) at least
    x. The sum is concave in x, so x is found from the languages that bind one after the other.
    """
    bounds = _bounds(source, mixture, groups)
    if sum(_exact(bound.maximum) for bound in bounds) < 1:
        raise ConfigError(
            f"data.mixture.languages: all languages of source {source.name} have a maximum, and these sum up to less "
            "than 1"
        )
    x = sum(source.most, Decimal(0))
    for _ in range(len(bounds) + 1):
        binding = [_exact(bound.maximum) * x < most - _SLACK for most, bound in zip(source.most, bounds, strict=True)]
        free = sum((_exact(b.maximum) for b, is_bound in zip(bounds, binding, strict=True) if is_bound), Decimal(0))
        fixed = sum((most for most, is_bound in zip(source.most, binding, strict=True) if not is_bound), Decimal(0))
        if fixed + free * x >= x - _SLACK:
            break
        x = fixed / (1 - free)
    least = [most / _exact(bound.minimum) for most, bound in zip(source.most, bounds, strict=True) if bound.minimum]
    return min([x, *least])


def _bounds(source: _Source, mixture: Mixture, groups: Sequence[Group]) -> list[Bounds]:
    return [mixture.languages.get(groups[number].language, Bounds()) for number in source.groups]


def _exact(number: float) -> Decimal:
    """As it was written in the configuration."""
    return Decimal(str(number))
