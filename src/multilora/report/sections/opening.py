"""What the study found, in sentences; and the paper's claims."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from multilora.report.claims import Claim
from multilora.report.figures import Section
from multilora.report.markup import Html, details, el
from multilora.report.numbers import counted

_NOT_MEASURED = "not measured"
_BADGES = {"held": ("✓", "held"), "not held": ("✗", "not-held"), _NOT_MEASURED: ("○", "not-measured")}


def summary(sentences: Sequence[str]) -> Section:
    """Sentences computed from the numbers."""
    section = Section("summary", "In short", "Every sentence is computed from the numbers below.")
    if sentences:
        section.parts.append(el("ul", *(el("li", sentence) for sentence in sentences), class_="sentences"))
    else:
        section.left_out = "the given runs allow no comparison."
    return section


def claims(judged: Sequence[Claim]) -> Section:
    """The paper's claims, each with its verdict and the numbers behind it."""
    section = Section("claims", "The paper's claims")
    if not judged:
        section.left_out = "no claim was judged."
        return section
    counts = Counter(claim.verdict for claim in judged)
    said = ", ".join(f"{counts[verdict]} {verdict}" for verdict in _BADGES)
    section.lead = (
        f"Claims of the MultiLoRA paper (arXiv 2311.11501) and of the literature it builds on, against these runs: "
        f"{said}. A verdict applies to these runs only; not measured means that they lack the data."
    )
    measured = [claim for claim in judged if claim.verdict != _NOT_MEASURED]
    unmeasured = [claim for claim in judged if claim.verdict == _NOT_MEASURED]
    if measured:
        section.parts.append(el("ul", *map(_item, measured), class_="claims"))
    if unmeasured:
        summary = f"{counted(len(unmeasured), 'claim')} not measured, and why"
        section.parts.append(details(summary, el("ul", *map(_item, unmeasured), class_="claims")))
    return section


def _item(claim: Claim) -> Html:
    """Verdict, claim, numbers; the claim up to its colon is emphasised."""
    mark, class_ = _BADGES[claim.verdict]
    gist, colon, rest = claim.text.partition(":")
    return el(
        "li",
        el("p", el("span", el("span", mark, aria_hidden="true"), f" {claim.verdict}", class_=f"badge {class_}")),
        el("p", el("strong", gist + colon), rest, " ", el("span", f"({claim.source})", class_="source")),
        el("p", claim.evidence, class_="evidence"),
        id=f"claim-{claim.id}",
    )
