"""Rule-based labels of a radiology report for the 18 CT-RATE findings, with negation and clause scope.

A report is cut into sentences, sentences into clauses, and a finding is positive where some clause names it outside
the scope of a negation (in the spirit of NegEx, Chapman et al. 2001).

- "no", "without", "free of" negate what follows in their clause; "is not seen", "absent" what comes before.
- "but", "however", "other than" end a clause, and so does a comma or "and" between two parts that each have a verb of
  their own: "no effusion was seen, and the heart is enlarged".
- "no change in", "cannot be excluded" negate nothing; an uncertain finding ("suspicious for") counts as positive.

The rules are ours, made on common wording: figures from them are comparable only with figures from the same rules.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass


def _any(*alternatives: str) -> str:
    return "(?:" + "|".join(alternatives) + ")"


_GAP = r"[^,:]{0,60}?"


def _together(first: str, second: str) -> str:
    """Both patterns in either order within one stretch of a clause."""
    return rf"{first}{_GAP}{second}|{second}{_GAP}{first}"


_SENTENCE_END = re.compile(r"[.!?;]+(?=\s|$)|\n\s*\n|\n\s*(?=[-*•A-Z0-9])")
_CLAUSE_END = re.compile(
    r"\b(?:but|however|although|though|whereas|while|except(?: for)?|apart from|other than|aside from|"
    r"with the exception of|in addition to)\b"
)
_JOINT = re.compile(r",(?:\s*and\b)?|\band\b")
_VERB = re.compile(
    r"\b(?:is|are|was|were|has|have|had|shows?|showed|appears?|demonstrates?|measures?|contains?|persists?|remains?)\b"
)
_SEEN = _any(
    "seen", "observed", "detected", "identified", "evident", "present", "found", "noted", r"visuali[sz]ed",
    "appreciated", "demonstrated", "shown", "distinguished", "selected", "encountered", "available",
)  # fmt: skip
_HOW_MUCH = r"(?:(?:any|significant|significantly|substantial|obvious|relevant|interval|major|marked)\s+)*"
_CHANGE = _any(r"changed?", "difference", "increase", "decrease", "progression", "regression")
# Words that look like a negation and are none, blanked before cues are looked for.
_NO_CUE = re.compile(
    _any(
        rf"\b(?:no|without|not)\s+{_HOW_MUCH}{_CHANGE}\b",
        r"\b(?:can ?not|could not|can't|not)\s+(?:be\s+)?(?:completely\s+|entirely\s+)?(?:excluded?|ruled? out)\b",
        r"\bnot only\b",
        r"\bno doubt\b",
        r"\bnot to be missed\b",
    )
)
_FORWARD = re.compile(
    r"\b(?:no|not|without|neither|nor|never|absence of|lack of|negative for|free of|free from|rather than|clear of)\b"
)
_BACKWARD = re.compile(
    _any(
        rf"\b(?:not|never)\s+(?:\w+\s+){{0,2}}{_SEEN}\b",
        r"\bno longer\b",
        r":\s*(?:no|none|negative|absent|nil)\b",
        r"\(-\)",
        r"\b(?:is|are|was|were)\s+(?:\w+\s+)?(?:absent|negative|ruled out|excluded|unremarkable|normal|resolved)\b",
        r"\b(?:has|have|had)\s+(?:completely\s+|fully\s+)?(?:resolved|disappeared)\b",
    )
)

_THICK = _any(r"thicken\w*", "cuffing", r"thickness increases?", "increased thickness")
_CALCIFIED = _any(r"calcif\w*", r"plaques?", r"atheroscl\w*", r"atherom\w*")
_ARTERY = _any(
    r"aort\w*", r"arter(?:y|ies|ial)", r"arch\b", "vascular", r"vessel walls?", r"carotid\w*", "subclavian",
    "brachiocephalic", r"atheroscl\w*", r"atherom\w*",
)  # fmt: skip
_FIBROTIC_NOUN = _any(
    r"changes?", r"bands?", r"densit(?:y|ies)", r"sequela\w*", r"recessions?", r"scar\w*", r"streaks?", r"strands?",
    r"lines?", r"opacit(?:y|ies)", r"areas?", "tissue",
)  # fmt: skip
_TUBE = r"(?:tracheostomy|endotracheal|nasogastric|feeding|chest|drainage|thorax|stomach) tubes?"

_PATTERNS: dict[str, str] = {
    "Medical material": r"\b"
    + _any(
        r"\w*catheters?",
        r"pacemakers?",
        r"(?:chemo)?port(?:s|-a-cath)?\b(?! of)",
        r"prosthe\w+",
        r"stents?",
        r"sutures?",
        "sternotomy",
        r"clips?",
        r"staples?",
        "icd",
        r"electrodes?",
        r"implants?",
        r"cannulas?",
        _TUBE,
        r"drains?",
        r"coils?",
        r"screws?",
        "valve replacement",
        r"medical (?:material|device)s?",
        r"(?:surgical|metallic|operation) (?:materials?|hardware|densit\w+)",
        r"(?:bypass|aortic|stent) grafts?",
    )
    + r"\b",
    "Arterial wall calcification": _together(_CALCIFIED, _ARTERY),
    "Cardiomegaly": _any(
        r"\bcardiomegal\w*",
        r"\bcardiac enlargement",
        r"\b(?:enlarged|enlargement of(?: the)?) (?:heart|cardiac)\b",
        r"\b(?:heart|cardiac|cardiothoracic)\b(?: \w+){0,5}? (?:enlarged|increased?|large|larger|above normal)\b",
        r"\bincreased (?:heart|cardiac|cardiothoracic)\b",
    ),
    "Pericardial effusion": _any(
        r"\bpericardial(?:(?: and/or| or| and|,|/)\s*(?:\w+ )?pleural)?[ -](?:effusions?|fluid)\b",
        r"\b(?:effusion|fluid) in the pericardi\w+",
        r"\bhemopericardium",
    ),
    "Coronary artery wall calcification": _together(
        _CALCIFIED, _any(r"\bcoronar\w+", r"\blad\b", r"\bcircumflex", r"\brca\b")
    ),
    "Hiatal hernia": _any(r"\bhiat(?:al|us)\b(?:[ -]\w+){0,2}? herni\w*", r"\bherni\w* (?:\w+ ){0,4}hiat\w*"),
    "Lymphadenopathy": _any(
        r"\b\w*adenopath\w*",
        r"\blymphadenomegal\w*",
        r"\blaps?\b",
        r"\b(?:enlarged|pathological(?:ly)?|conglomerate\w*)\b(?: \w+){0,4}? lymph(?: nodes?|atics?)\b",
        r"\blymph nodes?\b[^,:]{0,60}?\b(?:enlarged|patholog\w+)",
    ),
    "Emphysema": r"\b\w*emphysem\w*",
    "Atelectasis": _any(r"\b\w*atelect\w*", r"\b(?:lobar|lung|lobe) collapse\b"),
    "Lung nodule": _any(
        r"\b\w*nodules?\b", r"\bnodular (?:lesions?|densit(?:y|ies)|opacit(?:y|ies)|formations?|structures?)\b"
    ),
    "Lung opacity": _any(
        r"\bopacit(?:y|ies)\b",
        r"\bground[ -]?glass",
        r"\bggos?\b",
        r"\b\w*infiltrat\w*",
        r"\bdensity increases?\b",
        r"\bincreased densit(?:y|ies)\b",
    ),
    "Pulmonary fibrotic sequela": _any(
        rf"\bfibro\w*(?: \w+){{0,2}}? {_FIBROTIC_NOUN}\b",
        r"\bsequela\w*(?: \w+){0,4}? (?:fibro\w*|parenchym\w*|changes?|thickening)\b",
        r"\b(?:pleuro)?parenchymal (?:\w+ )?(?:sequela\w*|bands?|scar\w*)",
        r"\bfibroatelect\w*",
        r"\bfibrosis\b",
    ),
    "Pleural effusion": _any(
        r"\bpleural(?:(?: and/or| or| and|,|/)\s*(?:\w+ )?pericardial)?[ -](?:effusions?|fluid)\b",
        r"\b(?:bilateral|right|left)(?:[ -]sided)? effusions?\b",
        r"\b(?:effusion|fluid) in (?:the |both )?(?:\w+ )?(?:pleural|hemithora\w+)",
        r"\bh(?:ydro|aemo|emo)thora\w+",
    ),
    "Mosaic attenuation pattern": r"\bmosaic\b",
    "Peribronchial thickening": _together(
        _THICK,
        _any(r"\bperibronch\w*", r"\bbronchial walls?", r"\bwalls? of (?:the )?\w*bronch\w*", r"\bbronchovascular"),
    ),
    "Consolidation": r"\b\w*consolidat\w*",
    "Bronchiectasis": r"\b\w*bronchi(?:ol)?ecta\w*",
    "Interlobular septal thickening": _any(
        _together(_THICK, _any(r"\binterlobular", r"\bsept(?:al|a|um)\b")), r"\bkerley\b", r"\bseptal lines\b"
    ),
}
FINDINGS: tuple[str, ...] = tuple(_PATTERNS)
_COMPILED = {finding: re.compile(pattern) for finding, pattern in _PATTERNS.items()}
# Blanked for one finding, because they name another thing in the same words.
_BLANKED = {
    "Arterial wall calcification": re.compile(
        r"\b(?:coronary|anterior descending|circumflex|left main)(?: arter(?:y|ies|ial))?(?: walls?)?|"
        r"\baortic valves?|\bmitral\w*"
    ),
    "Emphysema": re.compile(r"\b(?:subcutaneous|mediastinal|soft tissue) emphysem\w*"),
    "Interlobular septal thickening": re.compile(r"\b(?:interventricular|nasal|atrial) sept\w*"),
    "Medical material": re.compile(r"\bportal\b|\bcontrast\w*"),
}
_OTHER_ORGAN = re.compile(
    r"\b(?:thyroid\w*|adrenal\w*|surrenal\w*|breasts?|liver|hepatic|spleen|splenic|kidneys?|renal|pancrea\w*|lymph)\b"
)
_LUNG = re.compile(
    r"\b(?:lungs?|pulmonary|lobes?|lobar|parenchym\w*|subpleural|fissur\w*|segments?|lingul\w*|hemithora\w*|"
    r"apical|perifissural)\b"
)
_OF_THE_LUNG = ("Lung nodule", "Lung opacity", "Consolidation", "Pulmonary fibrotic sequela")


@dataclass(frozen=True)
class Mention:
    """One place where a report names a finding."""

    finding: str
    clause: str
    negated: bool


def _blank(pattern: re.Pattern[str], text: str) -> str:
    """`text` with matches overwritten by spaces, so that positions stay."""
    return pattern.sub(lambda match: " " * len(match.group()), text)


def split_clauses(text: str) -> Iterator[str]:
    """The lower-case clauses of a report, in order. A comma or "and" ends one only if both sides have a verb of their
    own."""
    for sentence in _SENTENCE_END.split(text):
        for stretch in _CLAUSE_END.split(" ".join(sentence.lower().split())):
            start = 0
            joints = [match.span() for match in _JOINT.finditer(stretch)]
            for index, (joint_start, joint_end) in enumerate(joints):
                next_joint = joints[index + 1][0] if index + 1 < len(joints) else len(stretch)
                if _VERB.search(stretch, start, joint_start) and _VERB.search(stretch, joint_end, next_joint):
                    yield stretch[start:joint_start].strip()
                    start = joint_end
            if stretch[start:].strip():
                yield stretch[start:].strip()


def find_mentions(text: str) -> list[Mention]:
    """Every mention of every finding in the order of clauses, negated or not: to see why a report got its labels."""
    mentions = []
    for clause in split_clauses(text):
        cues = _blank(_NO_CUE, clause)
        forward = [match.start() for match in _FORWARD.finditer(cues)]
        backward = [match.start() for match in _BACKWARD.finditer(cues)]
        elsewhere = _OTHER_ORGAN.search(clause) is not None and _LUNG.search(clause) is None
        for finding, pattern in _COMPILED.items():
            if elsewhere and finding in _OF_THE_LUNG:
                continue
            searched = _blank(_BLANKED[finding], clause) if finding in _BLANKED else clause
            for match in pattern.finditer(searched):
                # A cue may stand inside the mention: "lymph nodes that do not reach pathological size".
                before = any(position < match.end() for position in forward)
                after = any(position >= match.start() for position in backward)
                mentions.append(Mention(finding, clause, before or after))
    return mentions


def label_report(text: str) -> dict[str, int]:
    """{finding: 1 if some mention is not negated, else 0} for the 18 CT-RATE findings; an empty text has none."""
    labels = dict.fromkeys(FINDINGS, 0)
    for mention in find_mentions(text):
        labels[mention.finding] |= int(not mention.negated)
    return labels
