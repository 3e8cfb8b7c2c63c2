"""Frequency spectra as strips of bars, and where the rows of a modular circuit stand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from circuit_lab.report.circuit.layout import Box
from circuit_lab.report.circuit.values import printed, short, short_all
from circuit_lab.verdict.exhibits import ModularExhibits

GUTTER, LANE, NODE_WIDTH, NODE_HEIGHT, SITE_HEIGHT = 104.0, 104.0, 88.0, 44.0, 76.0
_STRIP_LEFT, _STRIP_WIDTH, _BARS, _STRIP_HEIGHT, _ROW_GAP = 30.0, 340.0, 34.0, 66.0, 22.0
_TOP, _BOTTOM = 12.0, 30.0


@dataclass(frozen=True)
class Spectrum:
    """The spectrum of one function of a component.

    Attributes:
        component: The component, such as "MLP 0".
        function: Which function of it, such as "by result"; empty if there is but one.
        frequencies: Names of the frequencies.
        shares: Their shares of the function's energy, in [0, 1].
        key: Which are key frequencies.
        of_component: Share of the component's energy that the function holds.
    """

    component: str
    function: str
    frequencies: tuple[str, ...]
    shares: tuple[float, ...]
    key: tuple[bool, ...]
    of_component: float

    @property
    def key_share(self) -> float:
        """Share of the key frequencies."""
        return sum(share for share, is_key in zip(self.shares, self.key, strict=True) if is_key)

    @property
    def name(self) -> str:
        """What people read."""
        return f"{self.component}, {self.function}" if self.function else self.component


@dataclass(frozen=True)
class Strip:
    """A spectrum as drawn: bars of key and of other frequencies, and the names of the key ones."""

    id: str
    title: str
    box: Box
    key_bars: str
    other_bars: str
    bar_width: float
    names: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class ModularLayout:
    """Where everything stands; y grows downwards.

    Attributes:
        width: Of the drawing.
        height: Of the drawing.
        gutter: Where the rows' labels end.
        rows: Middle of each row, bottom to top.
        lanes: Middle of each lane.
        strip_tops: (row, number of the strip in it) -> its top.
        strip_left: Left end of the strips.
    """

    width: float
    height: float
    gutter: float
    rows: tuple[float, ...]
    lanes: tuple[float, ...]
    strip_tops: Mapping[tuple[int, int], float]
    strip_left: float


def spectra_of(exhibits: ModularExhibits) -> list[Spectrum]:
    """The spectra, in the order of the exhibits."""
    found = []
    for name, frame in exhibits.spectra.groupby("component", sort=False):
        component, _, function = str(name).partition(", ")
        of_component = frame["of_component"].iloc[0] if "of_component" in frame else 1.0
        found.append(
            Spectrum(
                component=component,
                function=function,
                frequencies=tuple(map(str, frame["frequency"])),
                shares=tuple(map(float, frame["share"])),
                key=tuple(map(bool, frame["key"])),
                of_component=float(of_component),
            )
        )
    return found


def lay_out_rows(n_strips: Sequence[int], *, n_lanes: int) -> ModularLayout:
    """Place rows of components, each as high as its strips.

    Args:
        n_strips: Strips of each row, bottom to top.
        n_lanes: Positions.

    Returns:
        The layout.
    """
    heights = [max(n * _STRIP_HEIGHT, SITE_HEIGHT) for n in n_strips]
    height = _TOP + sum(heights) + _ROW_GAP * (len(heights) - 1) + _BOTTOM
    strip_left = GUTTER + n_lanes * LANE + _STRIP_LEFT
    bottom, middles, tops = height - _BOTTOM, [], {}
    for row, row_height in enumerate(heights):
        middles.append(bottom - row_height / 2)
        first = middles[-1] - n_strips[row] * _STRIP_HEIGHT / 2
        tops |= {(row, number): first + number * _STRIP_HEIGHT for number in range(n_strips[row])}
        bottom -= row_height + _ROW_GAP
    return ModularLayout(
        width=strip_left + _STRIP_WIDTH + 12,
        height=height,
        gutter=GUTTER - 8,
        rows=tuple(middles),
        lanes=tuple(GUTTER + LANE * (lane + 0.5) for lane in range(n_lanes)),
        strip_tops=tops,
        strip_left=strip_left,
    )


def flat_share(spectrum: Spectrum) -> float:
    """Share of the key frequencies in a spectrum of equal shares."""
    return sum(spectrum.key) / len(spectrum.key)


def spectrum_data(spectrum: Spectrum) -> dict[str, Any]:
    """What the page's script knows of a spectrum; JSON-able."""
    return {
        "name": spectrum.name,
        "frequencies": list(spectrum.frequencies),
        "shares": short_all(spectrum.shares),
        "key": [i for i, is_key in enumerate(spectrum.key) if is_key],
        "key_share": short(spectrum.key_share),
        "flat": short(flat_share(spectrum)),
        "of": short(spectrum.of_component),
    }


def strips_of(groups: Sequence[Sequence[Spectrum]], layout: ModularLayout) -> list[Strip]:
    """The spectra as drawn, all on one scale."""
    largest = max((share for group in groups for spectrum in group for share in spectrum.shares), default=1.0)
    strips = []
    for row, group in enumerate(groups):
        for number, spectrum in enumerate(group):
            top = layout.strip_tops[row, number]
            pitch = _STRIP_WIDTH / len(spectrum.shares)
            bars = [
                (layout.strip_left + pitch * (i + 0.5), _BARS * share / largest)
                for i, share in enumerate(spectrum.shares)
            ]
            base, key = top + 16 + _BARS, spectrum.key
            strips.append(
                Strip(
                    id=f"f{len(strips)}",
                    title=_strip_title(spectrum),
                    box=Box(
                        layout.strip_left + _STRIP_WIDTH / 2,
                        top + _STRIP_HEIGHT / 2 - 2,
                        _STRIP_WIDTH,
                        _STRIP_HEIGHT - 6,
                    ),
                    key_bars=_bars([bar for bar, is_key in zip(bars, key, strict=True) if is_key], base),
                    other_bars=_bars([bar for bar, is_key in zip(bars, key, strict=True) if not is_key], base),
                    bar_width=round(min(14.0, 0.7 * pitch), 1),
                    names=tuple(
                        (round(x, 1), name)
                        for (x, _), name, is_key in zip(bars, spectrum.frequencies, key, strict=True)
                        if is_key
                    ),
                )
            )
    return strips


def _strip_title(spectrum: Spectrum) -> str:
    held = "" if spectrum.of_component >= 0.9995 else f"; {printed(spectrum.of_component)} of what varies"
    return f"{spectrum.name}: key {printed(spectrum.key_share)}{held}"


def _bars(bars: Sequence[tuple[float, float]], base: float) -> str:
    """One path of upright strokes; what is lower than a third of a pixel is left out."""
    return "".join(f"M{x:.1f} {base:.0f}v{-height:.1f}" for x, height in bars if height >= 0.3)
