"""Votes on unlabelled pairs: cast, kept as JSON by the browser, counted, ranked, compared with judges and checker."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from scipy.stats import binomtest

from ..arms import ARMS
from ..compare import Comparison
from ..errors import InvalidInput
from ..judges import JUDGES
from ..models import ModelSpec
from ..request import CompareRequest
from ..settings import NAMES, from_dict, to_dict
from ..statistics import Rating, bradley_terry
from .scoreboard import find_preferred, find_winner
from .session import MAX_TIME_CHARS, now, write_csv

VOTES = ("left", "right", "tie", "both bad")
TIE = "tie"
CHECKER = "exact check"
VOTERS = (CHECKER, *JUDGES)
"""Whose preference is compared with the visitor's."""
MIN_RANKED = 10  # votes before a ranking is shown
MAX_VOTES = 500
MAX_ID_CHARS = 32
NOBODY: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Vote:
    """A vote on two unlabelled images, those of `request.arms`, (left, right).

    Attributes:
        id: of the pair, so that no pair is voted on twice.
        created: the time in UTC.
        vote: one of VOTES.
        preferred: by name of VOTERS the arm that it prefers, or TIE; whoever did not judge is missing.
    """

    id: str
    created: str
    request: CompareRequest
    vote: str
    preferred: Mapping[str, str]

    @property
    def winner(self) -> str:
        """The preferred arm, or "tie" or "both bad"."""
        left, right = self.request.arms
        return {"left": left, "right": right}.get(self.vote, self.vote)

    @property
    def is_decided(self) -> bool:
        return self.vote in ("left", "right")


def cast_vote(
    request: CompareRequest, vote: str, pair_id: str = "", preferred: Mapping[str, str] | None = None
) -> Vote:
    """A vote on the images of the request's arms, (left, right)."""
    return Vote(pair_id, now(), request, vote, preferred or {})


def find_preferences(comparison: Comparison) -> dict[str, str]:
    """Whom the checker and each judge prefers, an arm or TIE, in a comparison of two arms."""
    found: dict[str, str] = {}
    if len(comparison.verdicts) == 2:
        found[CHECKER] = find_winner(comparison.verdicts) or TIE
    for judge, by_arm in comparison.scores.items():
        found[judge] = find_preferred(judge, by_arm) or TIE
    return found


def add_preferences(votes: Iterable[Vote], judged: Mapping[str, Mapping[str, str]]) -> list[Vote]:
    """The votes with the preferences that judges had by the pairs' ids: some are ready only after the vote."""
    return [replace(vote, preferred=judged[vote.id]) if vote.id in judged else vote for vote in votes]


# --- figures ----------------------------------------------------------------------------------------------------------


def win_rate(num_wins: int, num_decided: int) -> tuple[float, float, float]:
    """(share, low, high): wins among decided votes, with Wilson's 95 % interval, which holds for few votes, too.

    Without a vote the share is unknown: 0.5 with the interval from 0 to 1.
    """
    if not num_decided:
        return 0.5, 0.0, 1.0
    low, high = binomtest(num_wins, num_decided).proportion_ci(method="wilson")
    return num_wins / num_decided, float(low), float(high)


def count_agreement(votes: Iterable[Vote]) -> dict[str, tuple[int, int]]:
    """By name of VOTERS: (votes that it agrees with, votes on which it and the visitor both preferred an image)."""
    counts: dict[str, tuple[int, int]] = {}
    for vote in votes:
        for voter, arm in vote.preferred.items():
            if vote.is_decided and arm != TIE:
                agreed, total = counts.get(voter, (0, 0))
                counts[voter] = (agreed + (arm == vote.winner), total + 1)
    return {voter: counts[voter] for voter in VOTERS if voter in counts}


def rank_arms(votes: Sequence[Vote]) -> list[Rating]:
    """The arms by Bradley and Terry's model, the best first; nothing before MIN_RANKED votes.

    "Both bad" counts as a tie, as arenas of language models count it.
    """
    if len(votes) < MIN_RANKED:
        return []
    shares = {"left": 1.0, "right": 0.0}
    return bradley_terry([(*vote.request.arms, shares.get(vote.vote, 0.5)) for vote in votes])  # type: ignore[misc]


# --- outside ----------------------------------------------------------------------------------------------------------


def votes_to_csv(votes: Iterable[Vote]) -> str:
    """One row per vote."""
    return write_csv(
        [
            {"created": vote.created}
            | {name: getattr(vote.request, name) for name in NAMES}
            | {"left_arm": vote.request.arms[0], "right_arm": vote.request.arms[1]}
            | {"vote": vote.vote, "winner": vote.winner}
            | {f"{voter}_prefers": vote.preferred.get(voter, "") for voter in VOTERS}
            for vote in votes
        ]
    )


def votes_to_json(votes: Sequence[Vote], num_skipped: int, spec: ModelSpec, before: Any = None) -> dict[str, Any]:
    """What the browser keeps, plain JSON: the last MAX_VOTES votes and, by model, how many pairs were skipped.

    `before` is what it kept so far, which may be anything: of votes about other models the last MAX_VOTES stay.
    """
    others = [entry for entry in _list_entries(before) if _find_model(entry) not in (None, spec.name)]
    kept = [
        {
            "id": vote.id,
            "created": vote.created,
            "settings": to_dict(vote.request, spec),
            "arms": list(vote.request.arms),
            "vote": vote.vote,
            "preferred": dict(vote.preferred),
        }
        for vote in votes[-MAX_VOTES:]
    ]
    return {"votes": others[-MAX_VOTES:] + kept, "skipped": _count_skipped(before) | {spec.name: num_skipped}}


def votes_from_json(kept: Any, spec: ModelSpec) -> tuple[list[Vote], int]:
    """Votes and the number of skipped pairs from what a browser sent, which may be anything.

    What is no vote, or is about another model, is left out.
    """
    entries = [entry for entry in _list_entries(kept) if _find_model(entry) in (None, spec.name)]
    found = [vote for entry in entries[-MAX_VOTES:] if (vote := _read_vote(entry, spec))]
    return found, _count_skipped(kept).get(spec.name, 0)


def _list_entries(kept: Any) -> list[Any]:
    """What stands where votes belong, each of which may be anything."""
    entries = kept.get("votes") if isinstance(kept, dict) else None
    return entries if isinstance(entries, list) else []


def _find_model(entry: Any) -> str | None:
    """The name of the model that a kept vote is about; None if it names none."""
    settings = entry.get("settings") if isinstance(entry, dict) else None
    model = settings.get("model") if isinstance(settings, dict) else None
    return model if isinstance(model, str) else None


def _count_skipped(kept: Any) -> dict[str, int]:
    """How many pairs were skipped, by model."""
    skipped = kept.get("skipped") if isinstance(kept, dict) else None
    if type(skipped) is int:  # kept by an older version, together with the votes about one model
        skipped = {_find_model(entry): skipped for entry in _list_entries(kept)[-1:]}
    counts = skipped.items() if isinstance(skipped, dict) else ()
    return {name: count for name, count in counts if name and type(count) is int and 0 <= count < 2**31}


def _read_vote(entry: Any, spec: ModelSpec) -> Vote | None:
    if not isinstance(entry, dict):
        return None
    pair_id, created, vote = (entry.get(name) for name in ("id", "created", "vote"))
    if not isinstance(pair_id, str) or not isinstance(created, str) or vote not in VOTES:
        return None
    settings, arms, preferred = entry.get("settings"), _read_arms(entry.get("arms")), entry.get("preferred")
    if not isinstance(settings, dict) or not isinstance(preferred, dict) or arms is None:
        return None
    try:
        request = replace(from_dict(settings, spec), arms=arms)
    except InvalidInput:
        return None
    sound = {voter: arm for voter, arm in preferred.items() if voter in VOTERS and arm in (*arms, TIE)}
    return Vote(pair_id[:MAX_ID_CHARS], created[:MAX_TIME_CHARS], request, vote, sound)


def _read_arms(value: Any) -> tuple[str, str] | None:
    """Two different names of ARMS; None for anything else."""
    if not isinstance(value, list) or len(value) != 2 or value[0] == value[1]:
        return None
    return (value[0], value[1]) if all(isinstance(arm, str) and arm in ARMS for arm in value) else None
