"""MemOS: memory for language-model applications as a managed resource."""

from memos_core.aio import AsyncMemOS, AsyncPipeline, AsyncView
from memos_core.channel import Matching, Publication, Subscription, SyncReport
from memos_core.cube import Governance, Kind, MemCube, Provenance, State, Usage
from memos_core.diff import Diff
from memos_core.embedder import Embedder, QueryEmbedder
from memos_core.errors import (
    ArchiveError,
    ArchiveInvalid,
    ArchiveNotRead,
    ArchiveNotWritten,
    Closed,
    CubeExists,
    CubeFrozen,
    CubeNotFound,
    EmbedderMismatch,
    EmbedderUnavailable,
    IllegalTransition,
    InvalidFilter,
    InvalidInput,
    InvalidNamespace,
    InvalidText,
    InvalidVector,
    LimitExceeded,
    MemOSError,
    MigrationError,
    NotPermitted,
    PipelineFailed,
    PoolExhausted,
    RulesChanged,
    SensitiveText,
    ServerStartError,
    StatementTimeout,
    StoreError,
    StoreUnavailable,
    TransactionCollided,
    UnsupportedServer,
    VersionConflict,
)
from memos_core.fusion import ChatFn
from memos_core.governance import Caller, Grant, Right
from memos_core.hit import DumpReport, Event, ForgetReport, Hit, LoadReport, Stats
from memos_core.lineage import Edge, Lineage, Relation
from memos_core.memos import MemOS
from memos_core.message import Message
from memos_core.namespace import Namespace
from memos_core.pipeline import Pipeline
from memos_core.prompt import Recall, render_memories
from memos_core.retention import Retention, SweepReport
from memos_core.rules import Rules
from memos_core.sensitivity import Action, Sensitive
from memos_core.settings import Settings, Weights
from memos_core.view import View

__all__ = [
    "Action",
    "ArchiveError",
    "ArchiveInvalid",
    "ArchiveNotRead",
    "ArchiveNotWritten",
    "AsyncMemOS",
    "AsyncPipeline",
    "AsyncView",
    "Caller",
    "ChatFn",
    "Closed",
    "CubeExists",
    "CubeFrozen",
    "CubeNotFound",
    "Diff",
    "DumpReport",
    "Edge",
    "Embedder",
    "EmbedderMismatch",
    "EmbedderUnavailable",
    "Event",
    "ForgetReport",
    "Governance",
    "Grant",
    "Hit",
    "IllegalTransition",
    "InvalidFilter",
    "InvalidInput",
    "InvalidNamespace",
    "InvalidText",
    "InvalidVector",
    "Kind",
    "LimitExceeded",
    "Lineage",
    "LoadReport",
    "Matching",
    "MemCube",
    "MemOS",
    "MemOSError",
    "Message",
    "MigrationError",
    "Namespace",
    "NotPermitted",
    "Pipeline",
    "PipelineFailed",
    "PoolExhausted",
    "Provenance",
    "Publication",
    "QueryEmbedder",
    "Recall",
    "Relation",
    "Retention",
    "Right",
    "Rules",
    "RulesChanged",
    "Sensitive",
    "SensitiveText",
    "ServerStartError",
    "Settings",
    "State",
    "StatementTimeout",
    "Stats",
    "StoreError",
    "StoreUnavailable",
    "Subscription",
    "SweepReport",
    "SyncReport",
    "TransactionCollided",
    "UnsupportedServer",
    "Usage",
    "VersionConflict",
    "View",
    "Weights",
    "render_memories",
]
