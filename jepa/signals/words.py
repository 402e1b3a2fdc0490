"""Words for people: what a console line and the page call a verdict, a factor of a break's score, a time, a count."""

from __future__ import annotations

from jepa.signals.assemble import NO_SOUND
from jepa.signals.document.objects import Break, SignalsDocument

VERDICTS = {
    "allow": "allowed",
    "hold": "held",
    "skip": "skipped",
    "move": "moved",
    "review": "for a person to review",
}
STATUSES = {
    "confirmed": "came true",
    "refuted": "did not come true",
    "expired": "cut off by the end",
    "open": "unresolved, since no detector observes it",
}
FACTORS = {
    "start": "nothing has been shown yet",
    "fade": "the picture fades to black and back",
    "dissolve": "one shot dissolves into the next",
    "cut": "a cut to the next shot",
    "visual_change": "what follows looks different",
    "silence": "silence around it",
    "speech_across": "somebody speaks across it",
    "speech_before": "somebody spoke just before it",
    "still_before": "the picture is still before it",
    "still_after": "the picture is still after it",
    "risk_before": "a risk before it",
    "risk_after": "a risk after it",
    "risk_near": "a risk close to it",
}
BOUNDARIES = {  # the first that holds is said
    "start": "before the first frame",
    "scene": "between two scenes",
    "shot": "between two shots",
    "pause": "in a pause",
}
LABELS = {"nsfw": "nudity and pornography (nsfw)"}
_COUNTS = 0.03  # a smaller part of a score is not worth a word; the table beside has them all


def plural(count: int, noun: str) -> str:
    """A count with its noun.

    Example:
        >>> plural(1, "video"), plural(2, "category"), plural(0, "pass")
        ('1 video', '2 categories', '0 passes')
    """
    many = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{count} {noun if count == 1 else many}"


def clock(milliseconds: float) -> str:
    """Milliseconds as m:ss.t, with hours where there are any.

    Example:
        >>> clock(61_500)
        '1:01.5'
    """
    tenths = round(milliseconds / 100)
    hours, minutes, seconds = tenths // 36000, tenths // 600 % 60, tenths % 600 / 10
    return f"{hours}:{minutes:02d}:{seconds:04.1f}" if hours else f"{minutes}:{seconds:04.1f}"


def factor_words(name: str) -> str:
    """A factor of a break's score as a person would say it.

    Example:
        >>> factor_words("visual_change"), factor_words("my_factor")
        ('what follows looks different', 'my factor')
    """
    return FACTORS.get(name, name.replace("_", " "))


def label_words(label: str) -> str:
    """A detector's label, with its meaning where it is an abbreviation."""
    return LABELS.get(label, label)


def hearing(document: SignalsDocument) -> set[str]:
    """The heads that listen; what they left out is said of the sound, in one sentence."""
    return {head.id for item in document.run.detectors if item.audio is not None for head in item.heads}


def where(item: Break) -> str:
    """What a break lies between.

    Example:
        >>> where(document.ads.breaks[0])    # doctest: +SKIP
        'between two scenes'
    """
    return next(text for kind, text in BOUNDARIES.items() if kind in item.boundary_types)


def reasons_for(item: Break) -> str:
    """Why a break scored as it did: what speaks for it, then what speaks against it, the strongest first.

    Example:
        >>> reasons_for(document.ads.breaks[0])    # doctest: +SKIP
        'For it: a cut to the next shot, what follows looks different. Against it: a risk after it.'
    """
    ordered = sorted(item.factors, key=lambda factor: -abs(factor.part))
    good = [factor_words(factor.name) for factor in ordered if factor.part > _COUNTS]
    bad = [factor_words(factor.name) for factor in ordered if factor.part < -_COUNTS]
    sentences = [f"For it: {', '.join(good)}." if good else "Nothing speaks for it."]
    return " ".join([*sentences, *([f"Against it: {', '.join(bad)}."] if bad else [])])


def left_out(document: SignalsDocument) -> list[str]:
    """Which heads that look left windows of this video out, and why: a sentence for each reason, the one for most
    first."""
    ears = hearing(document)
    entries = [
        item for item in document.not_assessed if item.head and item.fraction and item.head not in ears
    ]
    grouped: dict[tuple[float, str], list[str]] = {}
    for entry in sorted(entries, key=lambda entry: -(entry.fraction or 0.0)):
        grouped.setdefault((entry.fraction or 0.0, entry.why), []).append(entry.head or "")
    return [_left_out(heads, fraction, why) for (fraction, why), heads in grouped.items()]


def sound(document: SignalsDocument) -> str:
    """What is heard, in one sentence; or why nobody listened."""
    timeline, duration = document.timeline, document.asset.duration_ms
    if timeline.sound is None:
        why = next((entry.why for entry in document.not_assessed if entry.what == NO_SOUND), "")
        return f"Sound was not assessed. {why}".strip()
    parts = [
        f"{name} {100 * sum(span.end_ms - span.start_ms for span in spans) / duration:.0f} % of the time"
        for name, spans in (("speech", timeline.speech), ("silence", timeline.silences))
        if spans is not None
    ]
    return (
        f"Sound: {', '.join(parts)}."
        if parts
        else "There is sound, and nobody listened for speech or silence."
    )


def _left_out(heads: list[str], fraction: float, why: str) -> str:
    part = "none" if fraction == 1.0 else f"all but {max(1, round(100 * fraction))} %"
    why = why.rstrip(".")
    return f"{' and '.join(heads)} assessed {part} of this video: {why[:1].lower()}{why[1:]}."
