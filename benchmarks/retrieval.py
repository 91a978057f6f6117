"""How often search finds the turns that hold an answer, on conversations in LoCoMo's format.

    python -m benchmarks.retrieval locomo10.json [--json]

MemOS beside three baselines over the same turns with the same embedder: BM25, dense, and both by
reciprocal rank fusion (k = 60). One result is one turn. R@k is the share of a question's evidence
turns among the first k; the mean is over questions with evidence. LoCoMo is by Maharana et al.
(2024), github.com/snap-research/locomo; its data is not part of this project.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import machine
from memos_core import MemOS, View
from memos_core.embedder import Embedder
from memos_core.model.default import default_embedder
from memos_core.words import terms_in

DEPTHS = (1, 5, 10, 20, 50)
GAIN_DEPTH = 10  # of nDCG
CATEGORIES = {1: "multi hop", 2: "temporal", 3: "open domain", 4: "single hop", 5: "adversarial"}
K1, B, RRF = 1.2, 0.75, 60


@dataclass(frozen=True)
class Conversation:
    """Turns as MemOS ingests them, by session, and questions with the ids of their evidence."""

    name: str
    sessions: dict[str, list[dict[str, Any]]]
    questions: list[tuple[str, int, set[str]]]

    @property
    def turns(self) -> list[dict[str, Any]]:
        return [turn for session in self.sessions.values() for turn in session]


@dataclass
class Scores:
    """Sums over questions."""

    questions: int = 0
    sums: Counter[str] = field(default_factory=Counter)

    def add(self, ranking: Sequence[str], evidence: set[str]) -> None:
        self.questions += 1
        places = [place for place, turn in enumerate(ranking) if turn in evidence]
        for depth in DEPTHS:
            self.sums[f"R@{depth}"] += sum(place < depth for place in places) / len(evidence)
        gain = sum(1 / math.log2(place + 2) for place in places if place < GAIN_DEPTH)
        ideal = sum(1 / math.log2(place + 2) for place in range(min(GAIN_DEPTH, len(evidence))))
        self.sums["nDCG@10"] += gain / ideal
        self.sums["MRR"] += 1 / (places[0] + 1) if places else 0

    def means(self) -> dict[str, float]:
        return {name: round(100 * total / self.questions, 1) for name, total in self.sums.items()}


def conversations(path: Path) -> list[Conversation]:
    """Read LoCoMo's JSON; evidence ids are repaired where that is sure, and dropped otherwise."""
    return [_conversation(record) for record in json.loads(path.read_text("utf-8"))]


def _conversation(record: dict[str, Any]) -> Conversation:
    talk = record["conversation"]
    numbers = sorted(
        int(found[1]) for key in talk if (found := re.fullmatch(r"session_(\d+)", key))
    )
    sessions = {
        f"session_{number}": [
            {
                "id": turn["dia_id"],
                "role": "user",
                "name": turn["speaker"],
                "content": _content(turn),
                "created_at": datetime.strptime(
                    talk[f"session_{number}_date_time"], "%I:%M %p on %d %B, %Y"
                ).replace(tzinfo=UTC),
            }
            for turn in talk[f"session_{number}"]
        ]
        for number in numbers
    }
    known = {turn["id"] for turns in sessions.values() for turn in turns}
    questions = [
        (str(entry["question"]), int(entry["category"]), evidence)
        for entry in record["qa"]
        if (evidence := set(_ids(entry.get("evidence", []))) & known)
    ]
    return Conversation(str(record["sample_id"]), sessions, questions)


def _content(turn: dict[str, Any]) -> str:
    caption = turn.get("blip_caption")
    return f"{turn['text']} [shares {caption}]" if caption else str(turn["text"])


def _ids(evidence: Sequence[str]) -> Iterator[str]:
    """Read "D3:12", and also "D8:6; D9:17", "D:11:26" and "D30:05"."""
    for cited in evidence:
        for session, turn in re.findall(r"D:?(\d+):(\d+)", cited):
            yield f"D{int(session)}:{int(turn)}"


class Baselines:
    """BM25 and cosines of the bare turns and the bare question, and their fusion by rank."""

    def __init__(self, conversation: Conversation, embedder: Embedder) -> None:
        self.ids = [turn["id"] for turn in conversation.turns]
        self.embedder = embedder
        texts = [turn["content"] for turn in conversation.turns]
        self.vectors = embedder.embed(texts)
        self.documents = [Counter(terms_in(text)) for text in texts]
        self.lengths = np.array([document.total() for document in self.documents])
        self.frequency = Counter(term for document in self.documents for term in document)

    def rankings(self, question: str) -> dict[str, list[str]]:
        words = self._bm25(question)
        meaning = self.vectors @ self.embedder.embed([question])[0]
        ranks = [np.argsort(np.argsort(-signal, kind="stable")) for signal in (words, meaning)]
        fused = sum(1 / (RRF + 1 + rank) for rank in ranks)
        return {
            "BM25": self._order(words),
            "dense": self._order(meaning),
            "RRF": self._order(fused),
        }

    def _bm25(self, question: str) -> NDArray[np.float64]:
        scores = np.zeros(len(self.ids))
        norm = K1 * (1 - B + B * self.lengths / self.lengths.mean())
        for term in set(terms_in(question)):
            containing = self.frequency[term]
            idf = math.log(1 + (len(self.ids) - containing + 0.5) / (containing + 0.5))
            times = np.array([document[term] for document in self.documents])
            scores += idf * times / (times + norm)
        return scores

    def _order(self, scores: NDArray[np.float64]) -> list[str]:
        return [self.ids[place] for place in np.argsort(-scores, kind="stable")]


def by_memos(view: View, question: str) -> list[str]:
    hits = view.search(question, k=max(DEPTHS))
    return [hit.message_ids[0] for hit in hits]


def measure(path: Path, embedder: Embedder) -> dict[str, Any]:
    """Return the means of every system, over all questions, by category and by conversation."""
    scores: dict[str, dict[str, Scores]] = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        with MemOS.open(Path(folder) / "postgres", embedder=embedder) as memos:
            for conversation in conversations(path):
                view = memos.at("locomo", conversation.name)
                for session, turns in conversation.sessions.items():
                    view.ingest(turns, session=session)
                baselines = Baselines(conversation, embedder)
                for question, category, evidence in conversation.questions:
                    rankings = baselines.rankings(question) | {"MemOS": by_memos(view, question)}
                    for system, ranking in rankings.items():
                        for group in ("all", CATEGORIES[category], conversation.name):
                            of_system = scores.setdefault(system, {})
                            of_system.setdefault(group, Scores()).add(ranking, evidence)
    return {
        system: {
            group: {"questions": score.questions, **score.means()}
            for group, score in groups.items()
        }
        for system, groups in scores.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path, help="conversations in LoCoMo's format")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    result = measure(options.path, default_embedder())
    if options.json:
        print(json.dumps({"machine": machine(), "systems": result}, indent=2))
        return
    print(machine())
    names = [*(f"R@{depth}" for depth in DEPTHS), "nDCG@10", "MRR"]
    for group in result["MemOS"]:
        print(f"\n{group}, {result['MemOS'][group]['questions']} questions")
        print(f"{'':8}" + "".join(f"{name:>9}" for name in names))
        for system, groups in result.items():
            print(f"{system:8}" + "".join(f"{groups[group][name]:9.1f}" for name in names))


if __name__ == "__main__":
    main()
