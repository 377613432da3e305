"""What the study found, in sentences; and the paper's claims."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from multilora.report.claims import Claim
from multilora.report.figures import Section
from multilora.report.markup import Html, details, el
from multilora.report.numbers import counted

_UNTOLD = "not measured"
_BADGES = {"held": ("✓", "held"), "not held": ("✗", "not-held"), _UNTOLD: ("○", "not-measured")}


def summary(sentences: Sequence[str]) -> Section:
    """Sentences computed from the numbers."""
    section = Section("summary", "In short", "Every sentence is computed from the numbers below.")
    if sentences:
        section.parts.append(el("ul", *(el("li", sentence) for sentence in sentences), class_="sentences"))
    else:
        section.left_out = "the runs given allow no comparison that a sentence could state."
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
        f"{said}. A verdict is about these runs alone; not measured means that they do not tell."
    )
    told = [claim for claim in judged if claim.verdict != _UNTOLD]
    untold = [claim for claim in judged if claim.verdict == _UNTOLD]
    if told:
        section.parts.append(el("ul", *map(_item, told), class_="claims"))
    if untold:
        summary = f"{counted(len(untold), 'claim')} not measured, and why"
        section.parts.append(details(summary, el("ul", *map(_item, untold), class_="claims")))
    return section


def _item(claim: Claim) -> Html:
    """Verdict, claim, numbers; of the claim what comes before a colon is the gist."""
    mark, class_ = _BADGES[claim.verdict]
    gist, colon, rest = claim.text.partition(":")
    return el(
        "li",
        el("p", el("span", el("span", mark, aria_hidden="true"), f" {claim.verdict}", class_=f"badge {class_}")),
        el("p", el("strong", gist + colon), rest, " ", el("span", f"({claim.source})", class_="source")),
        el("p", claim.evidence, class_="evidence"),
        id=f"claim-{claim.id}",
    )
