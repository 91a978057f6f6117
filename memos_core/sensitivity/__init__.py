"""Personal data and secrets in texts: found, hidden or refused."""

from memos_core.sensitivity.finding import find
from memos_core.sensitivity.judging import ValuesVerdict, Verdict, judge, judge_values, redact
from memos_core.sensitivity.kinds import Action, Finding, Sensitive

__all__ = [
    "Action",
    "Finding",
    "Sensitive",
    "ValuesVerdict",
    "Verdict",
    "find",
    "judge",
    "judge_values",
    "redact",
]
